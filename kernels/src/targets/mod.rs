//! From an expanded kernel to the text that a driver takes: Metal, WGSL, SPIR-V and CUDA, on any
//! host.

mod constants;
mod modules;
mod texts;

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
pub use constants::with_constants;
pub use texts::{with_halves_of_words, without_info};

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

fn cpp<D: Dialect>(kernel: &Kernel, products: &str, target: &str) -> Result<Written, String> {
    let name = kernel.name();
    let definition = kernel.define();
    let dim = definition.cube_dim;
    let writes =
        definition.buffers.iter().map(|b| matches!(b.visibility, Visibility::ReadWrite)).collect();
    let compiled = CppCompiler::<D>::default()
        .compile(definition, &Default::default(), MODE, ADDRESS)
        .map_err(|error| format!("{name} for {target}: {error:?}"))?;
    let text = without_info(&compiled.to_string(), &name)?;
    Ok(Written {
        text: texts::with_ordered_planes(&texts::with_products_of_bytes(&text, products)),
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
    Ok(with_halves_of_words(&without_info(&compiled.to_string(), &name)?))
}

fn spirv(kernel: &Kernel) -> Result<Vec<u32>, String> {
    let name = kernel.name();
    let mut options = WgpuCompilationOptions { supports_vulkan: true, ..Default::default() };
    options.vulkan.max_spirv_version = SPIRV_VERSION;
    let compiled = SpirvCompiler::<GLCompute>::default()
        .compile(kernel.define(), &options, MODE, ADDRESS)
        .map_err(|error| format!("{name} for SPIR-V: {error:?}"))?;
    let module = modules::relaxed(compiled.assembled_module, &name)?;
    let module = modules::ordered_planes(module, &name)?;
    let module = modules::shared(module, kernel)?;
    let module = if kernel.is_long() { modules::rolled(module) } else { module };
    Ok(modules::with_products_of_bytes(module))
}

/// Compiles a kernel for every target that it is made for.
///
/// # Errors
/// The words of the compiler that refused, with the kernel and the target.
pub fn generate(kernel: &Kernel) -> Result<Generated, String> {
    let name = kernel.name();
    let [for_msl, for_wgsl, for_spirv, for_cuda] = kernel.languages();
    let msl =
        for_msl.then(|| cpp::<MslDialect>(kernel, texts::PRODUCTS_IN_MSL, "Metal")).transpose()?;
    let cuda =
        for_cuda.then(|| cpp::<Cuda>(kernel, texts::PRODUCTS_IN_CUDA, "CUDA")).transpose()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;

    #[test]
    fn long_kernels_keep_their_loops_and_planes_are_ordered() {
        let spirv = |name: &str| {
            let kernel = table().into_iter().find(|kernel| kernel.name() == name);
            generate(&kernel.expect("a kernel")).expect("generates").spirv.expect("a module")
        };
        let flash = spirv("attention_flash_d128_f16_r64_units16");
        let (loops, barriers) = modules::loops_and_barriers(&flash);
        assert_eq!(loops, [false]);
        assert!(barriers.len() > 20 && barriers.iter().all(|&orders| orders), "{barriers:?}");
        let (loops, barriers) = modules::loops_and_barriers(&spirv("attention_merge_d64"));
        assert!(loops.contains(&true) && barriers.is_empty());
    }

    #[test]
    fn looks_go_past_the_cache() {
        let shared = |name: &str| {
            let kernel = table().into_iter().find(|kernel| kernel.name() == name);
            let module = generate(&kernel.expect("a kernel")).expect("generates").spirv;
            modules::shared_loads_and_stores(&module.expect("a module"))
        };
        // Two loops look for the two vectors of a thread, one for what is added; a product is written.
        assert_eq!(shared("matvec_q4_0_b1_g8r2_plane32x2_bytes"), (2 * 2 + 1, 1));
        // With gates or without.
        assert_eq!(shared("norm_matvec_q4_0_b1_g8r4_plane32_bytes"), (2 * 2 + 1, 2));
        // Of four vectors; what is added, and written, is another one in each pass.
        assert_eq!(shared("norm_matvec_q4_0_b1_g8r2x8_plane32_bytes"), (2 * 4 + 1, 2));
        // One loop looks for ends, which are two, and one for these and vectors of four parts.
        assert_eq!(shared("attention_merge_d64"), (1 + 4 * 3, 1));
        // One loop looks for a pair of vectors of queries, keys and values; vectors and their ends are written.
        assert_eq!(shared("attention_rotary_decode_d64_f16_r1_plane32"), (3 * 2, 1 + 2));
        // Nothing waits.
        assert_eq!(shared("matvec_f16_b1_g4r2_plane32"), (0, 1));
        assert_eq!(shared("swiglu"), (0, 0));
    }

    /// Two steps of two pieces, of each 8 words by 2 bytes.
    #[test]
    fn products_of_bytes_are_put_in() {
        let name = "matvec_q4_0_b1_g8r2_plane32x2_bytes";
        let kernel = table().into_iter().find(|kernel| kernel.name() == name).expect("a kernel");
        let made = generate(&kernel).expect("generates");
        for text in [made.msl, made.cuda] {
            let text = text.expect("a text");
            assert!(!text.contains("mulhi"));
            // And the function itself.
            assert_eq!(text.matches("products_of_bytes(").count(), 2 * 2 * 8 * 2 + 1);
        }
        assert!(made.wgsl.is_none());
        let module = made.spirv.expect("a module");
        assert_eq!(modules::products_of_bytes(&module), 2 * 2 * 8 * 2);
    }
}
