//! The type check: the text as C++ for `OpenCL`, whose address spaces are those of Metal.

use std::io::Write as _;

use crate::compile::{Toolchain, execute};
use crate::error::Error;
use crate::rewrite::{Target, rewrite};

const PRELUDE: &str = include_str!("../runtime/opencl.h");

const FLAGS: &[&str] = &[
    "-x",
    "clcpp",
    "-cl-std=clc++2021",
    "-cl-no-stdinc",
    "-cl-single-precision-constant",
    "-target",
    "spir64",
    "-fsyntax-only",
    "-w",
];

/// Checks the types and address spaces of a text, and that every function that it calls is one of
/// Metal's.
///
/// # Errors
///
/// [`Error::Rejected`] has the type checker's words.
pub fn check_opencl(source: &str) -> Result<(), Error> {
    let toolchain = Toolchain::get()?;
    let made = rewrite(source, Target::OpenCl)?;
    let what = made.kernels.first().map_or("", |k| k.name.as_str());
    let failed = |e: std::io::Error| Error::io(std::env::temp_dir(), &e);
    let mut file = tempfile::Builder::new().suffix(".clcpp").tempfile().map_err(failed)?;
    write!(file, "{PRELUDE}\n#line 1 \"{what}.metal\"\n{}\n", made.text).map_err(failed)?;
    file.flush().map_err(failed)?;
    let mut command = toolchain.compiler();
    command.args(FLAGS).arg(file.path());
    execute(&mut command, what).map(drop)
}
