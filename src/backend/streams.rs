//! How many streams a device has.

use std::sync::Arc;

use cubecl_runtime::config::{CubeClRuntimeConfig, RuntimeConfig as _};

/// Starts a server of which all threads share one stream.
///
/// CubeCL would have up to 128 of them, each with memory of its own. They wait for each other where one launches
/// something that takes another's memory; but that other one may have new contents for it before the launch has
/// run (through wgpu before it is even encoded), once nobody holds it any more: what is kept until then are numbers
/// of memory, not what counts its holders. Parameters, weights and adapters are what threads have in common, and
/// through wgpu there is one queue behind all streams anyway.
pub(super) fn with_one_stream<T>(start: impl FnOnce() -> T) -> T {
    let set = |config| *CubeClRuntimeConfig::storage().lock() = Some(config);
    let others = CubeClRuntimeConfig::get();
    let mut ours = CubeClRuntimeConfig::clone(&others);
    ours.streaming.max_streams = 1;
    set(Arc::new(ours));
    let started = start();
    set(others);
    started
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::channel, thread};

    use cubecl::server::Handle;
    use metal_candle_kernels::{Kernel, copy::Copy};

    use crate::{
        backend::wgpu::ShaderLanguage,
        dispatch::Kernels,
        testing::{INSTALL_A_DRIVER, open_wgpu},
    };

    const COPY: Copy = Copy { per_thread: 1 };

    fn copy(kernels: &Kernels, from: &Handle, to: &Handle, cubes: u32) {
        // SAFETY: both hold what so many cubes copy.
        let launched = unsafe { kernels.launch_buffers(Kernel::Copy(COPY), cubes, &[from, to]) };
        launched.expect("a kernel");
    }

    /// What a thread has launched may wait for a while, here for what `before` launches. Memory that it reads was
    /// another thread's, which has new memory meanwhile.
    fn lends_memory(kernels: &Kernels, before: impl Fn(), device: &str) {
        let bytes = COPY.bytes_per_cube();
        let words = bytes / size_of::<u32>();
        let filled = |word: u32| kernels.upload(bytemuck::cast_slice(&vec![word; words]));
        let copied = |from: &Handle| {
            let to = kernels.empty(bytes);
            copy(kernels, from, &to, 1);
            to
        };
        // The first launch of a kernel is submitted at once.
        copied(&filled(0));
        thread::scope(|scope| {
            let (lend, lent) = channel::<Handle>();
            let (give_back, given_back) = channel();
            let other = scope.spawn(move || {
                lend.send(filled(1)).expect("somebody takes it");
                given_back.recv().expect("it comes back");
                let new: Vec<_> = (2..10).map(filled).collect();
                kernels.sync();
                new
            });
            let borrowed = lent.recv().expect("memory");
            before();
            let to = copied(&borrowed);
            drop(borrowed);
            give_back.send(()).expect("somebody waits");
            let _new = other.join().expect("no panic");
            let read = kernels.values::<u32>(to, words, || ()).expect("they are read");
            assert_eq!(read.into_iter().find(|&word| word != 1), None, "{device}");
        });
    }

    #[test]
    fn memory_that_a_thread_reads_is_not_given_to_another() {
        for language in [ShaderLanguage::SpirV, ShaderLanguage::Wgsl] {
            let opened = open_wgpu(language);
            let (device, _) = opened.unwrap_or_else(|error| panic!("{error}\n{INSTALL_A_DRIVER}"));
            lends_memory(&Kernels::of(&device), || (), language.name());
        }
    }

    /// On CUDA everything is submitted at once, so something has to keep the device busy.
    #[cfg(feature = "cuda")]
    #[test]
    fn cuda_memory_that_a_thread_reads_is_not_given_to_another() {
        let opened = crate::backend::cuda::open(0);
        let (device, name) = opened.unwrap_or_else(|error| panic!("{error}"));
        let kernels = &*Kernels::of_cuda(&device);
        let large = 256 << 20;
        let [from, to] = [kernels.empty(large), kernels.empty(large)];
        let cubes = (large / COPY.bytes_per_cube()) as u32;
        let before = || (0..32).for_each(|_| copy(kernels, &from, &to, cubes));
        lends_memory(kernels, before, &name);
    }
}
