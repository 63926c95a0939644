//! A prototype against its golden file.

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    Capture, INSTALL_A_DRIVER, Mismatch, Snapshot, Target, Tolerances, Values,
    compare::{compare_within, index_of},
};
use crate::{
    backend::{Backend, Cpu, wgpu::AdapterError},
    device::{DeviceError, DeviceJob},
    formats::FormatError,
};

/// Environment variable: with `1`, golden tests write their files anew before they compare.
pub const BLESS: &str = "METAL_CANDLE_BLESS";

/// Environment variable: with `1`, golden tests leave out backends that find no adapter, and say so
/// on standard error. Without it that is a failure: a test does not pass by testing nothing.
pub const SKIP_ABSENT: &str = "METAL_CANDLE_SKIP_ABSENT";

/// What is tested: a computation for any backend. [`golden_test!`](crate::golden_test) makes one of
/// a function.
pub trait Prototype {
    /// Computes, and names what is to be compared.
    fn run<B: Backend>(&self, device: &B::Device, capture: &mut Capture<B>);
}

/// Why a golden test fails.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// There is no golden file yet.
    #[error("{}: there is no such golden file. This makes it:\n  {command}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// What makes it.
        command: String,
    },
    /// The golden file cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The golden file cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The prototype captured nothing: there is nothing to test.
    #[error("{}: the prototype captured no tensor", path.display())]
    Nothing {
        /// The golden file.
        path: PathBuf,
    },
    /// The reference backend gave no number. No backend could ever meet that, so it is not written.
    #[error(
        "{}: not written, because tensor {tensor} is NaN at {index:?} on the CPU backend",
        path.display()
    )]
    NotANumber {
        /// The golden file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first place.
        index: Vec<usize>,
    },
    /// The backend has no device here.
    #[error("{0}\n{INSTALL_A_DRIVER}\n(or set {SKIP_ABSENT}=1 to test without)")]
    Device(#[from] DeviceError),
    /// The numbers are others.
    #[error("{backend} differs from {}: {mismatch}", path.display())]
    Mismatch {
        /// The golden file.
        path: PathBuf,
        /// The backend that gave them.
        backend: String,
        /// Where, and by how much.
        mismatch: Mismatch,
    },
}

/// A golden file, and how close a prototype must come to it.
#[derive(Clone, Debug)]
pub struct Golden {
    path: PathBuf,
    tolerances: Tolerances,
    command: String,
    bless: bool,
}

impl Golden {
    /// With the file at `path`. Whether to write it anew is taken from the environment, see
    /// [`BLESS`].
    pub fn new(path: impl Into<PathBuf>, tolerances: impl Into<Tolerances>) -> Self {
        Self {
            path: path.into(),
            tolerances: tolerances.into(),
            command: format!("{BLESS}=1 cargo test"),
            bless: is_set(BLESS),
        }
    }

    /// Whether the file is written anew by the CPU backend before anything is compared with it.
    #[must_use]
    pub fn bless(self, bless: bool) -> Self {
        Self { bless, ..self }
    }

    /// What a missing file's error tells to run.
    #[must_use]
    pub fn command(self, command: impl Into<String>) -> Self {
        Self { command: command.into(), ..self }
    }

    /// Runs a prototype on a backend and compares what it captures with the file.
    ///
    /// # Errors
    /// [`GoldenError`]. Nothing is written unless blessing was asked for.
    pub fn check(&self, target: Target, prototype: &impl Prototype) -> Result<(), GoldenError> {
        let want = self.wanted(prototype)?;
        let got = target.run(Recording(prototype))?;
        self.compare(target.name(), &got, &want, self.tolerances.on(Some(target)))
    }

    /// [`check`](Self::check) on a backend that is not among the [`Target`]s, such as your own;
    /// `label` is its name in messages.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_on<B: Backend>(
        &self,
        label: &str,
        device: &B::Device,
        prototype: &impl Prototype,
    ) -> Result<(), GoldenError> {
        let want = self.wanted(prototype)?;
        let got = Recording(prototype).run::<B>(device);
        self.compare(label, &got, &want, self.tolerances.on(None))
    }

    /// What the file holds, once it has been blessed if it is to be.
    fn wanted(&self, prototype: &impl Prototype) -> Result<Snapshot, GoldenError> {
        if self.bless {
            // Every backend's test does so, not the CPU's alone: tests run in any order.
            self.write(&Recording(prototype).run::<Cpu>(&Default::default()))?;
        }
        Snapshot::read(&self.path).map_err(|error| match error {
            FormatError::Io { path, source } if source.kind() == io::ErrorKind::NotFound => {
                GoldenError::Missing { path, command: self.command.clone() }
            }
            error => error.into(),
        })
    }

    fn write(&self, snapshot: &Snapshot) -> Result<(), GoldenError> {
        let path = || self.path.clone();
        if snapshot.is_empty() {
            return Err(GoldenError::Nothing { path: path() });
        }
        for (name, tensor) in snapshot.iter() {
            let Values::Float(values) = tensor.values() else { continue };
            if let Some(at) = values.iter().position(|value| value.is_nan()) {
                let index = index_of(at, tensor.shape());
                return Err(GoldenError::NotANumber { path: path(), tensor: name.into(), index });
            }
        }
        snapshot.write(&self.path).map_err(|source| GoldenError::Write { path: path(), source })?;
        say(format_args!("{}: written, {} tensors", self.path.display(), snapshot.len()));
        Ok(())
    }

    fn compare(
        &self,
        backend: &str,
        got: &Snapshot,
        want: &Snapshot,
        tolerances: &Tolerances,
    ) -> Result<(), GoldenError> {
        if got.is_empty() {
            return Err(GoldenError::Nothing { path: self.path.clone() });
        }
        compare_within(got, want, tolerances).map_err(|mismatch| GoldenError::Mismatch {
            path: self.path.clone(),
            backend: backend.to_owned(),
            mismatch,
        })
    }
}

/// A prototype on whichever backend it is handed to.
struct Recording<'a, P>(&'a P);

impl<P: Prototype> DeviceJob for Recording<'_, P> {
    type Output = Snapshot;

    fn run<B: Backend>(self, device: &B::Device) -> Snapshot {
        let mut capture = Capture::<B>::new();
        self.0.run(device, &mut capture);
        capture.finish()
    }
}

/// Where [`golden_test!`](crate::golden_test) stands.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct GoldenTest {
    /// `CARGO_MANIFEST_DIR` of the crate under test.
    pub root: &'static str,
    /// Its `CARGO_PKG_NAME`.
    pub package: &'static str,
    /// Path of the module of tests.
    pub module: &'static str,
}

/// One test of [`golden_test!`](crate::golden_test).
///
/// # Panics
/// When it fails.
#[doc(hidden)]
#[track_caller]
pub fn run_golden_test(
    test: GoldenTest,
    file: impl AsRef<Path>,
    tolerances: impl Into<Tolerances>,
    target: Target,
    prototype: &impl Prototype,
) {
    // Tests are filtered by the path below the crate's name.
    let filter = test.module.split_once("::").map_or(test.module, |(_, path)| path);
    let command = format!("{BLESS}=1 cargo test -p {} {filter}::", test.package);
    let path = Path::new(test.root).join(file);
    match Golden::new(path, tolerances).command(command).check(target, prototype) {
        Ok(()) => {}
        Err(GoldenError::Device(error @ DeviceError::Adapter(AdapterError::NotFound { .. })))
            if is_set(SKIP_ABSENT) =>
        {
            say(format_args!("{filter}: {target} is left out: {error}"));
        }
        Err(error) => panic!("{error}"),
    }
}

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| value == "1")
}

/// A line that the test harness does not keep to itself when the test passes.
fn say(line: std::fmt::Arguments<'_>) {
    // Nobody listening is no reason to fail.
    let _ = writeln!(io::stderr(), "{line}");
}
