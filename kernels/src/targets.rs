//! From an expanded kernel to the text that a driver takes: Metal, WGSL, SPIR-V and CUDA, on any
//! host.

use cubecl::{
    ir::{ElemType, StorageType, UIntKind},
    prelude::*,
};
use cubecl_core::{Compiler, ExecutionMode, WgpuCompilationOptions};
use cubecl_cpp::{
    Dialect,
    cuda::{CudaDialect, mma::CudaWmmaCompiler},
    metal::MslDialect,
    shared::CppCompiler,
};
use cubecl_spirv::{GLCompute, SpirvCompiler};
use cubecl_wgpu::WgslCompiler;

use crate::Kernel;

type Cuda = CudaDialect<CudaWmmaCompiler>;

/// Buffers are addressed by 32 bits.
pub const ADDRESS: StorageType = StorageType::Scalar(ElemType::UInt(UIntKind::U32));

/// The newest SPIR-V that is asked for: 1.3, the default, gives modules that `spirv-val` refuses.
pub const SPIRV_VERSION: (u8, u8) = (1, 6);

/// A kernel for every target that it is made for.
#[derive(Clone, Debug)]
pub struct Generated {
    /// [`Kernel::name`], and the name of the entry point.
    pub name: String,
    /// Threads of a cube.
    pub cube_dim: [u32; 3],
    /// For each buffer, whether the kernel writes to it.
    pub writes: Vec<bool>,
    /// Shared memory of a cube, in bytes.
    pub shared_bytes: usize,
    /// Metal Shading Language.
    pub msl: Option<String>,
    /// WebGPU Shading Language.
    pub wgsl: Option<String>,
    /// A SPIR-V module.
    pub spirv: Option<Vec<u32>>,
    /// CUDA C++.
    pub cuda: Option<String>,
}

const MODE: ExecutionMode = ExecutionMode::Unchecked;

/// A kernel in one of the languages that [`CppCompiler`] writes, and what is the same in all of them.
struct Written {
    text: String,
    cube_dim: [u32; 3],
    writes: Vec<bool>,
    shared_bytes: usize,
}

fn cpp<D: Dialect>(kernel: &Kernel, target: &str) -> Result<Written, String> {
    let name = kernel.name();
    let definition = kernel.define();
    let dim = definition.cube_dim;
    let writes =
        definition.buffers.iter().map(|b| matches!(b.visibility, Visibility::ReadWrite)).collect();
    let compiled = CppCompiler::<D>::default()
        .compile(definition, &Default::default(), MODE, ADDRESS)
        .map_err(|error| format!("{name} for {target}: {error:?}"))?;
    Ok(Written {
        text: without_info(&compiled.to_string(), &name)?,
        cube_dim: [dim.x, dim.y, dim.z],
        writes,
        shared_bytes: compiled.shared_memory_size(),
    })
}

fn wgsl(kernel: &Kernel) -> Result<String, String> {
    let name = kernel.name();
    let compiled = WgslCompiler::default()
        .compile(kernel.define(), &WgpuCompilationOptions::default(), MODE, ADDRESS)
        .map_err(|error| format!("{name} for WGSL: {error:?}"))?;
    without_info(&compiled.to_string(), &name)
}

fn spirv(kernel: &Kernel) -> Result<Vec<u32>, String> {
    let name = kernel.name();
    let mut options = WgpuCompilationOptions { supports_vulkan: true, ..Default::default() };
    options.vulkan.max_spirv_version = SPIRV_VERSION;
    let compiled = SpirvCompiler::<GLCompute>::default()
        .compile(kernel.define(), &options, MODE, ADDRESS)
        .map_err(|error| format!("{name} for SPIR-V: {error:?}"))?;
    relaxed(compiled.assembled_module, &name)
}

/// Compiles a kernel for every target that it is made for.
///
/// # Errors
/// The words of the compiler that refused, with the kernel and the target.
pub fn generate(kernel: &Kernel) -> Result<Generated, String> {
    let name = kernel.name();
    let [for_msl, for_wgsl, for_spirv, for_cuda] = kernel.languages();
    let msl = for_msl.then(|| cpp::<MslDialect>(kernel, "Metal")).transpose()?;
    let cuda = for_cuda.then(|| cpp::<Cuda>(kernel, "CUDA")).transpose()?;
    let either = msl.as_ref().or(cuda.as_ref());
    let Written { cube_dim, writes, shared_bytes, .. } =
        either.ok_or_else(|| format!("{name} is made for neither Metal nor CUDA"))?;
    Ok(Generated {
        cube_dim: *cube_dim,
        writes: writes.clone(),
        shared_bytes: *shared_bytes,
        wgsl: for_wgsl.then(|| wgsl(kernel)).transpose()?,
        spirv: for_spirv.then(|| spirv(kernel)).transpose()?,
        msl: msl.map(|written| written.text),
        cuda: cuda.map(|written| written.text),
        name,
    })
}

/// A text without the information block that CubeCL declares for every kernel: ours never read it,
/// and nothing is bound to it.
///
/// # Errors
/// That it is read after all.
pub fn without_info(text: &str, name: &str) -> Result<String, String> {
    let mut kept = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("struct info_st") {
            lines.by_ref().take_while(|line| !line.starts_with('}')).for_each(drop);
        } else if line.contains("info: info_st;") {
            // WGSL: its group and binding are on the two lines before.
            kept.truncate(kept.len().saturating_sub(2));
        } else if line.starts_with("const uint32* dynamic_meta") {
            // CUDA: three lines.
            lines.by_ref().take_while(|line| !line.ends_with(");")).for_each(drop);
        } else if let Some((before, _)) = line.split_once(", const info_st* __restrict__ info_ptr")
        {
            kept.push(before);
        } else if !line.contains("info_st& info") {
            kept.push(line);
        }
    }
    let kept = kept.join("\n") + "\n";
    let is_used = kept.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "info");
    if is_used { Err(format!("{name} reads the information block")) } else { Ok(kept) }
}

/// A SPIR-V module whose atomic loads and stores order nothing else, as in the other languages: ours
/// carry all that they say in the value. CubeCL has them acquire and release: that is a fence at every
/// look, which older Mesa drivers on the CPU even take for a barrier of the cube (and kernels that are expanded
/// at run time, past this, are wrong on them).
///
/// # Errors
/// That the module has no constant for that.
fn relaxed(mut module: Vec<u32>, name: &str) -> Result<Vec<u32>, String> {
    const HEADER: usize = 5;
    const OP_TYPE_INT: u32 = 21;
    const OP_CONSTANT: u32 = 43;
    const OP_ATOMIC_LOAD: u32 = 227;
    const OP_ATOMIC_STORE: u32 = 228;
    let (mut unsigned, mut none) = (None, None);
    let mut at = HEADER;
    while at < module.len() {
        let (length, op) = ((module[at] >> 16) as usize, module[at] & 0xffff);
        let semantics = match op {
            OP_TYPE_INT if module[at + 2..at + 4] == [32, 0] => {
                unsigned = Some(module[at + 1]);
                None
            }
            OP_CONSTANT if Some(module[at + 1]) == unsigned && module[at + 3] == 0 => {
                none = Some(module[at + 2]);
                None
            }
            OP_ATOMIC_LOAD => Some(at + 5),
            OP_ATOMIC_STORE => Some(at + 3),
            _ => None,
        };
        if let Some(semantics) = semantics {
            module[semantics] = none.ok_or_else(|| format!("{name} for SPIR-V: no constant 0"))?;
        }
        at += length.max(1);
    }
    Ok(module)
}
