//! A kernel as CubeCL's server takes it: a task that either hands back pregenerated text or expands
//! its source with the server's own compiler.

use cubecl::{
    CompilationError, Compiler, CubeTask, ExecutionMode,
    ir::StorageType,
    prelude::*,
    wgpu::{AutoCompiler, AutoRepresentation},
};
use metal_candle_kernels::{Kernel, targets};

use super::{Entry, Language};

/// One kernel on its way to a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) kernel: Kernel,
    pub(super) name: &'static str,
    /// The generated text, if it may be used.
    pub(super) entry: Option<&'static Entry>,
    pub(super) threads: [u32; 3],
}

impl KernelMetadata for Task {
    fn name(&self) -> &'static str {
        self.name
    }

    fn id(&self) -> KernelId {
        let [x, y, z] = self.threads;
        KernelId::new::<Self>()
            .cube_dim(CubeDim::new_3d(x, y, z))
            .info((self.kernel, self.entry.is_some()))
    }

    fn address_type(&self) -> StorageType {
        targets::ADDRESS
    }
}

impl CubeTask<AutoCompiler> for Task {
    fn compile(
        &self,
        compiler: &mut AutoCompiler,
        options: &<AutoCompiler as Compiler>::CompilationOptions,
        mode: ExecutionMode,
        address: StorageType,
    ) -> Result<CompiledKernel<AutoCompiler>, CompilationError> {
        if let Some(compiled) = self.entry.and_then(|entry| pregenerated(entry, compiler, options))
        {
            return Ok(compiled);
        }
        let mut expanded = expand(self.kernel, compiler, options, mode, address)?;
        if matches!(compiler, AutoCompiler::Wgsl(_)) {
            expanded.source = targets::with_halves_of_words(&expanded.source);
        }
        Ok(expanded)
    }
}

#[cfg(feature = "cuda")]
type CudaCompiler = cubecl_cpp::shared::CppCompiler<
    cubecl_cpp::cuda::CudaDialect<cubecl_cpp::cuda::mma::CudaWmmaCompiler>,
>;

#[cfg(feature = "cuda")]
impl CubeTask<CudaCompiler> for Task {
    fn compile(
        &self,
        compiler: &mut CudaCompiler,
        options: &<CudaCompiler as Compiler>::CompilationOptions,
        mode: ExecutionMode,
        address: StorageType,
    ) -> Result<CompiledKernel<CudaCompiler>, CompilationError> {
        let source = self.entry.and_then(|entry| {
            let text = String::from_utf8(entry.text(Language::Cuda)?).ok()?;
            Some(compiled(entry, text, Some(as_cpp(entry))))
        });
        if let Some(compiled) = source {
            return Ok(compiled);
        }
        // As a pointer the information block can be left out: nothing is bound to it.
        let mut options = options.clone();
        options.supports_features.grid_constants = false;
        let mut expanded = expand(self.kernel, compiler, &options, mode, address)?;
        expanded.source = targets::without_info(&expanded.source, self.name).map_err(|reason| {
            CompilationError::Generic { reason, backtrace: Default::default() }
        })?;
        Ok(expanded)
    }
}

/// Expands a kernel with a server's own compiler.
fn expand<C: Compiler>(
    kernel: Kernel,
    compiler: &mut C,
    options: &C::CompilationOptions,
    mode: ExecutionMode,
    address: StorageType,
) -> Result<CompiledKernel<C>, CompilationError> {
    if kernel.needs().bytes {
        let reason = format!("{} is made at build time only", kernel.name());
        return Err(CompilationError::Generic { reason, backtrace: Default::default() });
    }
    let definition = kernel.define();
    let cube_dim = definition.cube_dim;
    let repr = compiler.compile(definition, options, mode, address)?;
    Ok(CompiledKernel {
        entrypoint_name: kernel.name(),
        debug_name: None,
        source: repr.to_string(),
        repr: Some(repr),
        cube_dim,
        debug_info: None,
    })
}

/// A pregenerated text as a server takes it.
fn compiled<C: Compiler>(
    entry: &'static Entry,
    source: String,
    repr: Option<C::Representation>,
) -> CompiledKernel<C> {
    let [x, y, z] = entry.cube_dim;
    CompiledKernel {
        entrypoint_name: entry.name.into(),
        debug_name: Some(entry.name),
        source,
        repr,
        cube_dim: CubeDim::new_3d(x, y, z),
        debug_info: None,
    }
}

/// The generated text in the compiler's language, unless the driver is too old for it.
fn pregenerated(
    entry: &'static Entry,
    compiler: &AutoCompiler,
    options: &<AutoCompiler as Compiler>::CompilationOptions,
) -> Option<CompiledKernel<AutoCompiler>> {
    let (source, repr) = match compiler {
        AutoCompiler::Wgsl(_) => (String::from_utf8(entry.text(Language::Wgsl)?).ok()?, None),
        #[cfg(not(target_os = "macos"))]
        AutoCompiler::SpirV(_) => {
            if options.vulkan.max_spirv_version < targets::SPIRV_VERSION {
                tracing::info!(kernel = entry.name, "the driver takes no SPIR-V 1.6: expanding");
                return None;
            }
            (String::new(), Some(spirv(entry)?))
        }
        #[cfg(target_os = "macos")]
        AutoCompiler::Msl(_) => {
            let _ = options;
            (
                String::from_utf8(entry.text(Language::Msl)?).ok()?,
                Some(AutoRepresentation::Msl(as_cpp(entry))),
            )
        }
        #[allow(unreachable_patterns)] // on hosts with one language of their own
        _ => return None,
    };
    Some(compiled(entry, source, repr))
}

fn visibility(writes: bool) -> Visibility {
    if writes { Visibility::ReadWrite } else { Visibility::Read }
}

#[cfg(not(target_os = "macos"))]
fn spirv(entry: &Entry) -> Option<AutoRepresentation> {
    Some(AutoRepresentation::SpirV(cubecl_spirv::SpirvKernel {
        module: None,
        optimizer: None,
        assembled_module: bytemuck::pod_collect_to_vec(&entry.text(Language::SpirV)?),
        bindings: entry.writes.iter().map(|writes| visibility(*writes)).collect(),
        shared_size: entry.shared_bytes,
        // Our kernels have no information block.
        uniform_info: false,
    }))
}

/// For the servers that take text: they read the buffers' visibility, the cube's extent and its
/// shared memory.
#[cfg(any(target_os = "macos", feature = "cuda"))]
fn as_cpp<D: cubecl_cpp::Dialect>(entry: &Entry) -> cubecl_cpp::shared::ComputeKernel<D> {
    use cubecl_cpp::shared::{Body, ComputeKernel, Elem, Flags, Item, KernelArg, SharedMemory};
    let [x, y, z] = entry.cube_dim;
    let word = Item::scalar(Elem::U32, true);
    let shared_memories = match entry.shared_bytes {
        0 => vec![],
        bytes => vec![SharedMemory::new_array(0, word, bytes / 4, 4)],
    };
    ComputeKernel {
        tensor_maps: vec![],
        buffers: entry
            .writes
            .iter()
            .enumerate()
            .map(|(id, writes)| KernelArg {
                id: id as u32,
                item: word,
                size: None,
                vis: visibility(*writes),
            })
            .collect(),
        scalars: vec![],
        info: Default::default(),
        meta_static_len: 0,
        body: Body {
            instructions: vec![],
            shared_memories,
            pipelines: vec![],
            barriers: vec![],
            const_arrays: vec![],
            local_arrays: vec![],
            info_by_ptr: false,
            has_dynamic_meta: false,
            address_type: word,
        },
        cube_dim: CubeDim::new_3d(x, y, z),
        cluster_dim: None,
        extensions: vec![],
        flags: Flags::default(),
        items: Default::default(),
        kernel_name: entry.name.into(),
    }
}
