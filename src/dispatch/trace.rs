//! What a device launches, burn's own kernels included: for `--trace-kernels` and for tests.
//!
//! CubeCL can write the name of every kernel that it executes to a file. [`Recorder`] asks for that,
//! and reads the file up to a marker that it launches itself.

use std::{
    fmt, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use cubecl_runtime::config::{CubeClRuntimeConfig, RuntimeConfig, profiling::ProfilingLogLevel};
use metal_candle_kernels::{Kernel, copy::Copy};
use thiserror::Error;

use super::{Kernels, LaunchError, find};

/// How long the log may take to reach the file.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a line of the log begins with.
const EXECUTING: &str = "Executing ";
/// What the name of a kernel begins with that was expanded at run time.
pub(super) const JIT: &str = "jit:";

/// Where the code of a launch came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The text that the build script generated.
    Pregenerated,
    /// The same source, expanded at run time.
    Jit,
    /// One of burn's own operations.
    Burn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pregenerated => "pregenerated",
            Self::Jit => "jit",
            Self::Burn => "burn",
        })
    }
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel's name.
    pub kernel: String,
    /// Where its code came from.
    pub origin: Origin,
}

impl Launch {
    fn named(name: &str) -> Self {
        let (kernel, origin) = match (name.strip_prefix(JIT), find(name)) {
            (Some(kernel), _) => (kernel, Origin::Jit),
            (None, Some(_)) => (name, Origin::Pregenerated),
            (None, None) => (name, Origin::Burn),
        };
        Self { kernel: kernel.into(), origin }
    }
}

/// Why launches could not be recorded.
#[derive(Debug, Error)]
pub enum TraceError {
    /// A device was opened before.
    #[error("launches can only be recorded from before the first device is opened")]
    TooLate,
    /// The marker could not be launched.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The log could not be read.
    #[error("the log of launches, {}: {source}", path.display())]
    Log {
        /// Where it is.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Records the launches of this process.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    /// Lines of the log that have been read.
    read: usize,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // The log is of no use to anybody else.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Recorder {
    /// Starts recording into a file, which is replaced. Once for each process, before its first
    /// device is opened.
    ///
    /// # Errors
    /// [`TraceError::TooLate`] when CubeCL is already at work.
    pub fn install(path: PathBuf) -> Result<Self, TraceError> {
        let mut config = CubeClRuntimeConfig::default();
        config.profiling.logger.level = ProfilingLogLevel::Minimal;
        config.profiling.logger.file = Some(path.clone());
        // Every device has a logger of its own, all for this file.
        config.profiling.logger.append = true;
        if path.exists() {
            let failed = |source| TraceError::Log { path: path.clone(), source };
            std::fs::remove_file(&path).map_err(failed)?;
        }
        // CubeCL panics when its configuration is in use.
        let set = std::panic::catch_unwind(|| CubeClRuntimeConfig::set(config));
        set.map_err(|_| TraceError::TooLate)?;
        Ok(Self { path, read: 0 })
    }

    /// Everything that was launched since the last time, in order.
    ///
    /// # Errors
    /// [`TraceError`] when the log does not arrive.
    pub fn take(&mut self, kernels: &Kernels) -> Result<Vec<Launch>, TraceError> {
        let marker = Copy { per_thread: 1 };
        let bytes = marker.bytes_per_cube();
        let (source, target) = (kernels.empty(bytes), kernels.empty(bytes));
        let kernel = Kernel::Copy(marker);
        // SAFETY: one cube copies as much as the buffers hold.
        unsafe { kernels.launch_buffers(kernel, 1, &[&source, &target])? };
        let name = kernel.name();
        let start = Instant::now();
        loop {
            kernels.sync();
            let text = std::fs::read_to_string(&self.path).or_else(|source| {
                let late = start.elapsed() > PATIENCE;
                if late {
                    Err(TraceError::Log { path: self.path.clone(), source })
                } else {
                    Ok(String::new())
                }
            })?;
            let names: Vec<&str> =
                text.lines().filter_map(|line| line.split(EXECUTING).nth(1)).collect();
            let new = names.get(self.read..).unwrap_or_default();
            if let Some(end) = new.iter().position(|new| *new == name) {
                self.read += end + 1;
                return Ok(new[..end].iter().map(|name| Launch::named(name)).collect());
            }
            if start.elapsed() > PATIENCE {
                let source = io::Error::new(io::ErrorKind::TimedOut, "no end of it in sight");
                return Err(TraceError::Log { path: self.path.clone(), source });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
