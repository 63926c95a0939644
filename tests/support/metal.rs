//! The generated texts, and Metal run on the CPU, many kernels at a time.
#![allow(dead_code)] // each test file uses its part

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use metal_candle::dispatch::{
    ENTRIES, Entry,
    check::{Buffer, Case},
};
use metal_candle_kernels::{Kernel, build::LANGUAGES};
use msl_on_cpu::{Launch, Order, Program};

/// Kernels that are compiled together. Test files that agree find each other's compiled kernels.
const CHUNK: usize = 16;

/// A generated text by the kernel's name and the language's ending.
pub fn text(name: &str, language: &str) -> String {
    let path = Path::new(env!("METAL_CANDLE_KERNELS")).join(format!("text/{name}.{language}"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The kernel of that name, and what the manifest has of it.
pub fn find(name: &str) -> (Kernel, &'static Entry) {
    let kernel = metal_candle_kernels::table().into_iter().find(|kernel| kernel.name() == name);
    (kernel.unwrap_or_else(|| panic!("no kernel {name}")), entry(name))
}

/// What the manifest has of a kernel.
pub fn entry(name: &str) -> &'static Entry {
    ENTRIES.iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("no entry {name}"))
}

/// Runs `work` over chunks of the kernels that are made for these languages, on every core; fails
/// with all failures.
pub fn in_chunks(languages: &[&str], work: impl Fn(&[Kernel]) -> Vec<String> + Sync) {
    let mut kernels = metal_candle_kernels::table();
    kernels.retain(|kernel| {
        let made = LANGUAGES.into_iter().zip(kernel.languages());
        languages.iter().all(|wanted| made.clone().any(|made| made == (*wanted, true)))
    });
    let chunks: Vec<_> = kernels.chunks(CHUNK).collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    failures.lock().expect("lock").extend(work(chunk));
                }
            });
        }
    });
    let failures = failures.into_inner().expect("lock");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Compiles texts with their entry points, as one unit.
pub fn compile(sources: &[(String, String)]) -> Result<Vec<Program>, String> {
    let sources: Vec<(&str, &str)> = sources.iter().map(|(a, b)| (&**a, &**b)).collect();
    Program::compile_all(&sources).map_err(|error| error.to_string())
}

/// Our own Metal text of kernels.
pub fn ours(kernels: &[Kernel]) -> Result<Vec<Program>, String> {
    let named = kernels.iter().map(|kernel| (text(&kernel.name(), "msl"), kernel.name()));
    compile(&named.collect::<Vec<_>>())
}

/// Launches a case in one order, with more buffers behind its own that are only read; what all of
/// its buffers hold then.
pub fn launch(
    program: &Program,
    threads: [u32; 3],
    case: &Case,
    more: &[&[u8]],
    order: Order,
) -> Result<Vec<Vec<u8>>, String> {
    let mut bytes = case.before();
    let mut launch = Launch::new([case.cubes, 1, 1], threads).order(order);
    // Cubes behind the end of a norm, or of an attention, write the last one's values again.
    launch.equal_writes = true;
    for (buffer, bytes) in case.buffers.iter().zip(&mut bytes) {
        launch = match buffer {
            Buffer::Input(_) => launch.read(bytes),
            Buffer::Output(_) | Buffer::Both(..) => launch.read_write(bytes),
        };
    }
    for bytes in more {
        launch = launch.read(bytes);
    }
    program.run(&mut launch).map_err(|fault| fault.to_string())?;
    Ok(bytes)
}

/// The case's largest error against f64, unless it is too large.
pub fn judge(case: &Case, after: &[Vec<u8>]) -> Result<f64, String> {
    let outcome = case.judge(after);
    if outcome.passed() {
        Ok(outcome.error)
    } else {
        Err(format!("{:.1e} > {:.1e}", outcome.error, outcome.tolerance))
    }
}
