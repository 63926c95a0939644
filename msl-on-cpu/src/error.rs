//! What can go wrong before a kernel runs.

use std::path::PathBuf;

/// The compiler's command, unless `MSL_ON_CPU_CLANG` names another.
pub const COMPILER: &str = "clang++-19";

/// How to install [`COMPILER`] on Debian 12 (bookworm) and 13 (trixie).
pub const INSTALL: &str = "apt-get install clang-19";

/// Why a kernel cannot be compiled or loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no compiler.
    #[error("`{command}` is not installed: {install}")]
    CompilerMissing {
        /// The command that was looked for.
        command: String,
        /// The command that installs it.
        install: &'static str,
    },
    /// The compiler rejects the text, or the type checker does.
    #[error("`{what}` does not compile:\n{diagnostics}")]
    Rejected {
        /// The kernel, or the part of the runtime.
        what: String,
        /// What the compiler said, with the line numbers of the kernel's text.
        diagnostics: String,
    },
    /// The text has no kernel of that name.
    #[error("there is no kernel `{entry}`; the text has: {}", if found.is_empty() { "none".to_owned() } else { found.join(", ") })]
    NoSuchKernel {
        /// The name that was asked for.
        entry: String,
        /// The kernels that the text defines.
        found: Vec<String>,
    },
    /// The text is not what the rewriting understands.
    #[error("line {line}: {reason}")]
    Source {
        /// Line of the kernel's text, from 1.
        line: u32,
        /// What was expected, and what was found.
        reason: String,
    },
    /// A file of the cache cannot be read or written.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        reason: String,
    },
    /// A compiled kernel cannot be loaded.
    #[error("{}: cannot be loaded: {reason}", path.display())]
    Load {
        /// The shared library.
        path: PathBuf,
        /// The loader's message.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: &std::io::Error) -> Self {
        Self::Io { path: path.into(), reason: source.to_string() }
    }
}
