//! From a kernel's text to a loaded function: clang, and a cache of what it made.
//!
//! The cache is `MSL_ON_CPU_CACHE`, or the folder `msl-on-cpu` beside the running program's
//! (`target/debug/` for a test), or a new temporary folder. What is in it is named by a hash of
//! everything that it depends on, so that it is never stale.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;

use crate::error::{COMPILER, Error, INSTALL};
use crate::rewrite::{Rewritten, Target, rewrite};
use crate::signature::{Binding, Kernel};

/// The files of the runtime, written beside the kernels that include them.
const RUNTIME: [(&str, &str); 12] = [
    ("abi.h", include_str!("../runtime/abi.h")),
    ("atomic.h", include_str!("../runtime/atomic.h")),
    ("integer.h", include_str!("../runtime/integer.h")),
    ("interface.cpp", include_str!("../runtime/interface.cpp")),
    ("internal.h", include_str!("../runtime/internal.h")),
    ("maths.h", include_str!("../runtime/maths.h")),
    ("matrix.h", include_str!("../runtime/matrix.h")),
    ("memory.cpp", include_str!("../runtime/memory.cpp")),
    ("metal.h", include_str!("../runtime/metal.h")),
    ("schedule.cpp", include_str!("../runtime/schedule.cpp")),
    ("simd.h", include_str!("../runtime/simd.h")),
    ("types.h", include_str!("../runtime/types.h")),
];

/// For kernels and the header that they include.
///
/// Arithmetic as Metal defines it: literals are single precision, nothing is fused or reassociated,
/// half is rounded after each operation, integers wrap, conversions saturate. Variables start as
/// not-a-number. The instrumentation calls the runtime before every access to memory. What is
/// undefined in C++ but not in Metal is defined, or it is a fault; a function's own memory fits the
/// stack of a fibre.
const KERNEL_FLAGS: &[&str] = &[
    "-std=gnu++20",
    "-O1",
    "-fPIC",
    "-march=native",
    "-Wno-everything",
    "-Wframe-larger-than=200000",
    "-Werror",
    "-ffp-contract=off",
    "-Xclang",
    "-cl-single-precision-constant",
    "-Xclang",
    "-ffloat16-excess-precision=none",
    "-fno-delete-null-pointer-checks",
    "-fno-finite-loops",
    "-fno-strict-aliasing",
    "-fno-strict-float-cast-overflow",
    "-fsigned-char",
    "-fwrapv",
    "-fno-exceptions",
    "-fno-rtti",
    "-fvisibility=hidden",
    "-ftrivial-auto-var-init=pattern",
    "-fsanitize=thread,array-bounds,shift-exponent,integer-divide-by-zero,unreachable,return",
    "-mllvm",
    "-tsan-instrument-func-entry-exit=0",
    "-mllvm",
    "-tsan-instrument-read-before-write=1",
];

const RUNTIME_FLAGS: &[&str] = &[
    "-std=gnu++20",
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-Wall",
];

/// A kernel that is compiled and loaded.
#[derive(Debug)]
pub struct Program {
    pub(crate) kernel: Kernel,
    /// The names of the text's threadgroup variables.
    pub(crate) variables: Vec<String>,
    pub(crate) entry: unsafe extern "C" fn(),
    pub(crate) toolchain: &'static Toolchain,
    pub(crate) path: PathBuf,
    /// Keeps `entry` mapped.
    _library: Library,
}

impl Program {
    /// Compiles the kernel `entry` of a text in the Metal Shading Language; a text that was
    /// compiled before is only loaded.
    ///
    /// # Errors
    ///
    /// [`Error::CompilerMissing`] names the command that installs the compiler;
    /// [`Error::Rejected`] has its diagnostics.
    pub fn compile(source: &str, entry: &str) -> Result<Self, Error> {
        let mut programs = Self::compile_all(&[(source, entry)])?;
        programs
            .pop()
            .ok_or_else(|| Error::NoSuchKernel { entry: entry.to_owned(), found: Vec::new() })
    }

    /// Compiles several kernels, each `(source, entry)`, as one unit: saves most of the compiler's
    /// start and the linker's time. The programs come in the order of the kernels.
    ///
    /// # Errors
    ///
    /// As [`Program::compile`]; one rejected kernel rejects all.
    pub fn compile_all(kernels: &[(&str, &str)]) -> Result<Vec<Self>, Error> {
        let toolchain = Toolchain::get()?;
        let mut unit = String::new();
        let mut found = Vec::new();
        for (i, &(source, entry)) in kernels.iter().enumerate() {
            let Rewritten { text, kernels, variables } = rewrite(source, Target::Cpu)?;
            let names = || kernels.iter().map(|k| k.name.clone()).collect();
            let kernel = kernels
                .iter()
                .find(|k| k.name == entry)
                .ok_or_else(|| Error::NoSuchKernel { entry: entry.to_owned(), found: names() })?;
            if let Some(p) = kernel
                .parameters
                .iter()
                .find(|p| matches!(p.binding, Binding::Threadgroup(_)) && !p.reference)
            {
                let reason = format!(
                    "`{}`: the size of threadgroup memory behind a pointer is not known",
                    p.name
                );
                return Err(Error::Source { line: p.line, reason });
            }
            let _ = write!(unit, "namespace text_{i} {{\n#line 1 \"{entry}.metal\"\n{text}\n}}\n");
            write_entry(&mut unit, i, kernel);
            found.push((kernel.clone(), variables));
        }
        let what = kernels.iter().map(|k| k.1).collect::<Vec<_>>().join(", ");
        let path = toolchain.kernel(&unit, &what)?;
        found
            .into_iter()
            .enumerate()
            .map(|(i, (kernel, variables))| Self::load(toolchain, &path, i, kernel, variables))
            .collect()
    }

    fn load(
        toolchain: &'static Toolchain,
        path: &Path,
        index: usize,
        kernel: Kernel,
        variables: Vec<String>,
    ) -> Result<Self, Error> {
        let failed =
            |e: libloading::Error| Error::Load { path: path.to_owned(), reason: e.to_string() };
        // SAFETY: the library was compiled here from a kernel's text; it has no initialisers but the
        // instrumentation's, which is empty.
        let library = unsafe { Library::new(path) }.map_err(failed)?;
        let symbol = CString::new(format!("msl_entry_{index}")).unwrap_or_default();
        // SAFETY: `write_entry` made this function with this signature.
        let entry = *unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes_with_nul()) }
            .map_err(failed)?;
        Ok(Self { kernel, variables, entry, toolchain, path: path.to_owned(), _library: library })
    }

    /// The kernel's name and parameters.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }
}

/// The function without parameters that the runtime calls for each thread.
fn write_entry(unit: &mut String, index: usize, kernel: &Kernel) {
    let _ = write!(
        unit,
        "extern \"C\" __attribute__((visibility(\"default\"))) void msl_entry_{index}() {{\n\
         __attribute__((uninitialized)) msl::Builtins at;\ntext_{index}::{}(",
        kernel.name
    );
    for (i, parameter) in kernel.parameters.iter().enumerate() {
        let to = if parameter.reference { "ReferenceTo" } else { "PointerTo" };
        let comma = if i == 0 { "" } else { ", " };
        let _ = match parameter.binding {
            Binding::Buffer(n) => write!(unit, "{comma}msl::{to}{{msl_buffer({n})}}"),
            Binding::Threadgroup(n) => write!(unit, "{comma}msl::ThreadgroupReference{{{n}}}"),
            Binding::Builtin(name) => write!(unit, "{comma}at.{name}()"),
        };
    }
    unit.push_str(");\n}\n");
}

/// The compiler, and what of the runtime it has compiled.
#[derive(Debug)]
pub(crate) struct Toolchain {
    command: String,
    /// Where kernels are kept.
    cache: PathBuf,
    /// Of the compiler and the runtime's text, for the names of files in the cache.
    version: u64,
    header: PathBuf,
    library: PathBuf,
    pub(crate) runtime: Library,
}

impl Toolchain {
    /// The one of this process, made when first asked for.
    pub(crate) fn get() -> Result<&'static Self, Error> {
        static TOOLCHAIN: OnceLock<Result<Toolchain, Error>> = OnceLock::new();
        TOOLCHAIN.get_or_init(Self::new).as_ref().map_err(Clone::clone)
    }

    fn new() -> Result<Self, Error> {
        let command = std::env::var("MSL_ON_CPU_CLANG").unwrap_or_else(|_| COMPILER.to_owned());
        let mut version = Command::new(&command);
        version.arg("--version");
        let version = execute(&mut version, &command)?;
        let cache = cache_folder()?;
        // Kernels are linked to the runtime where it lies: a folder that was moved is another cache.
        let flags = (KERNEL_FLAGS, RUNTIME_FLAGS);
        let version = hash((&version, RUNTIME, flags, cpu_model(), &cache));
        let folder = cache.join(format!("runtime-{version:016x}"));
        create(&folder)?;
        for (name, text) in RUNTIME {
            place(&folder.join(name), |to| fs::write(to, text).map_err(|e| Error::io(to, &e)))?;
        }
        let library = folder.join("runtime.so");
        place(&library, |to| {
            let mut c = Command::new(&command);
            c.args(RUNTIME_FLAGS).current_dir(&folder);
            c.args(["interface.cpp", "memory.cpp", "schedule.cpp", "-o"]).arg(to);
            execute(&mut c, "runtime").map(drop)
        })?;
        let header = folder.join("metal.pch");
        place(&header, |to| {
            let mut c = Command::new(&command);
            // A cache that is copied elsewhere has other times.
            c.args(KERNEL_FLAGS).args(["-Xclang", "-fno-pch-timestamp", "-x", "c++-header"]);
            c.arg(folder.join("metal.h")).arg("-o").arg(to);
            execute(&mut c, "metal.h").map(drop)
        })?;
        // SAFETY: the library was compiled here from the runtime's text and has no initialisers.
        let runtime = unsafe { Library::new(&library) }
            .map_err(|e| Error::Load { path: library.clone(), reason: e.to_string() })?;
        Ok(Self { command, cache, version, header, library, runtime })
    }

    /// A command of this compiler.
    pub(crate) fn compiler(&self) -> Command {
        Command::new(&self.command)
    }

    /// Compiles a unit, or finds it compiled; returns the shared library.
    fn kernel(&self, unit: &str, what: &str) -> Result<PathBuf, Error> {
        let half = |seed: u8| hash((seed, &self.version, unit));
        let stem = self.cache.join(format!("kernel-{:016x}{:016x}", half(0), half(1)));
        let (text, library) = (stem.with_extension("cpp"), stem.with_extension("so"));
        place(&text, |to| fs::write(to, unit).map_err(|e| Error::io(to, &e)))?;
        place(&library, |to| self.link(&text, to, what, &[]))?;
        Ok(library)
    }

    /// Compiles and links the unit in `text` to the shared library `to`.
    fn link(&self, text: &Path, to: &Path, what: &str, flags: &[&str]) -> Result<(), Error> {
        let mut c = self.compiler();
        c.args(KERNEL_FLAGS).args(flags).arg("-include-pch").arg(&self.header).arg("-shared");
        // The instrumentation's functions are the runtime's own.
        c.args(["-x", "c++"]).arg(text).args(["-x", "none"]).arg(&self.library);
        c.args(["-fno-sanitize-link-runtime", "-nostdlib++", "-lm", "-o"]).arg(to);
        execute(&mut c, what).map(drop)
    }

    /// The line of a kernel's text that the call before `address` in its library came from.
    ///
    /// Lines would double the time to compile. They are made when they are asked for, in a second
    /// library that has the same instructions.
    pub(crate) fn line(&self, library: &Path, address: usize) -> Option<u32> {
        let lines = library.with_extension("lines.so");
        let text = library.with_extension("cpp");
        place(&lines, |to| self.link(&text, to, "lines", &["-gline-tables-only"])).ok()?;
        let around = address.checked_sub(32)?..address;
        let instructions =
            |file: &Path| fs::read(file).ok()?.get(around.clone()).map(<[u8]>::to_vec);
        if instructions(library)? != instructions(&lines)? {
            return None;
        }
        let mut c = Command::new("addr2line");
        c.arg("-ie").arg(&lines).arg(format!("{:#x}", address - 1));
        // The innermost frame first; a function of the prelude is inlined into the kernel's line.
        execute(&mut c, "lines").ok()?.lines().find_map(|frame| {
            let line = frame.rsplit_once(".metal:")?.1;
            line.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        })
    }
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Makes a file under a name of its own and moves it where it belongs: nobody sees half of it. One
/// that is there stays: its name says what is in it, and it may be in use.
fn place(path: &Path, make: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(folder)
        .map_err(|e| Error::io(folder, &e))?
        .into_temp_path();
    make(&temporary)?;
    match temporary.persist_noclobber(path) {
        Err(e) if !path.exists() => Err(Error::io(path, &e.error)),
        _ => Ok(()),
    }
}

fn create(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))
}

fn cache_folder() -> Result<PathBuf, Error> {
    let beside = || {
        let program = std::env::current_exe().ok()?;
        let folder = program.parent()?;
        let inner = folder.ends_with("deps") || folder.ends_with("examples");
        Some(if inner { folder.parent()? } else { folder }.join("msl-on-cpu"))
    };
    let folder = if let Some(folder) = std::env::var_os("MSL_ON_CPU_CACHE").map(PathBuf::from) {
        create(&folder)?;
        folder
    } else if let Some(folder) = beside().filter(|f| create(f).is_ok()) {
        folder
    } else {
        let made = tempfile::Builder::new().prefix("msl-on-cpu-").tempdir();
        made.map(tempfile::TempDir::keep).map_err(|e| Error::io(std::env::temp_dir(), &e))?
    };
    // Where a fault happened is looked up by the path that the system knows.
    folder.canonicalize().map_err(|e| Error::io(folder, &e))
}

/// What `-march=native` means here: a cache may move to another machine.
fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |key: &str| text.lines().find(|l| l.starts_with(key)).unwrap_or_default().to_owned();
    line("model name") + &line("flags") + &line("Features")
}

/// Runs the compiler; returns what it printed.
pub(crate) fn execute(command: &mut Command, what: &str) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::CompilerMissing { command: program.clone(), install: INSTALL }
        }
        _ => Error::io(&program, &e),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let diagnostics = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Rejected { what: what.to_owned(), diagnostics })
}
