//! What the build script does: every kernel of the table, for every target, and a manifest.
//!
//! Into `OUT_DIR/kernels` go `manifest.rs`, one file of deflated texts a language (`msl.bin`,
//! `wgsl.bin`, `spirv.bin`, `cuda.bin`), and each text by itself in `text/`, for tests.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use miniz_oxide::deflate::compress_to_vec;

use crate::{
    Kernel, table,
    targets::{Generated, generate},
};

/// The languages, as the files are named.
pub const LANGUAGES: [&str; 4] = ["msl", "wgsl", "spirv", "cuda"];

/// What was written.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Kernels.
    pub kernels: usize,
    /// Bytes of text in each of [`LANGUAGES`].
    pub bytes: [usize; 4],
    /// The same, deflated.
    pub packed: [usize; 4],
    /// How long it took.
    pub time: Duration,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        write!(f, "{} kernels in {:.1} s;", self.kernels, self.time.as_secs_f64())?;
        for (i, language) in LANGUAGES.into_iter().enumerate() {
            let (all, packed) = (mib(self.bytes[i]), mib(self.packed[i]));
            write!(f, " {language} {all:.1} MiB, deflated {packed:.1};")?;
        }
        Ok(())
    }
}

/// A text as bytes, in the order of [`LANGUAGES`]; empty where there is none.
fn texts(generated: &Generated) -> [Vec<u8>; 4] {
    let bytes = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
    let words = generated.spirv.iter().flatten();
    [
        bytes(&generated.msl),
        bytes(&generated.wgsl),
        words.flat_map(|word| word.to_le_bytes()).collect(),
        bytes(&generated.cuda),
    ]
}

/// Generates `kernels` on all cores, in their order.
///
/// # Errors
/// As [`generate`].
pub fn generate_all(kernels: &[Kernel]) -> Result<Vec<Generated>, String> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut done = Vec::new();
        while let i = next.fetch_add(1, Ordering::Relaxed)
            && let Some(kernel) = kernels.get(i)
        {
            done.push((i, generate(kernel)));
        }
        done
    };
    let mut all = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| "a kernel could not be expanded".to_string()))
            .collect::<Result<Vec<_>, _>>()
    })?
    .concat();
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, generated)| generated).collect()
}

/// Writes everything into `folder`, which must exist.
///
/// # Errors
/// A kernel that cannot be generated, or a file that cannot be written.
pub fn write(folder: &Path) -> Result<Summary, String> {
    let start = Instant::now();
    let mut kernels: Vec<_> = table().into_iter().map(|kernel| (kernel.name(), kernel)).collect();
    kernels.sort_by(|a, b| a.0.cmp(&b.0));
    let kernels: Vec<Kernel> = kernels.into_iter().map(|(_, kernel)| kernel).collect();
    let generated = generate_all(&kernels)?;

    let texts_folder = folder.join("text");
    fs::create_dir_all(&texts_folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let put = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
    };
    let mut blobs: [Vec<u8>; 4] = Default::default();
    let mut bytes = [0; 4];
    let mut manifest = String::from("&[\n");
    for (kernel, generated) in kernels.iter().zip(&generated) {
        let Generated { name, cube_dim, writes, shared_bytes, .. } = generated;
        let needs = kernel.needs();
        let family = kernel.family();
        write!(
            manifest,
            "Entry {{ name: {name:?}, family: {family:?}, cube_dim: {cube_dim:?}, writes: \
             &{writes:?}, shared_bytes: {shared_bytes}, needs: {needs:?}, places: [",
        )
        .expect("a string");
        for (i, text) in texts(generated).into_iter().enumerate() {
            if text.is_empty() {
                manifest.push_str("(0, 0), ");
                continue;
            }
            put(&texts_folder.join(format!("{name}.{}", LANGUAGES[i])), &text)?;
            let packed = compress_to_vec(&text, 6);
            let from = blobs[i].len();
            blobs[i].extend_from_slice(&packed);
            bytes[i] += text.len();
            write!(manifest, "({from}, {}), ", packed.len()).expect("a string");
        }
        manifest.push_str("] },\n");
    }
    manifest.push_str("]\n");
    put(&folder.join("manifest.rs"), manifest.as_bytes())?;
    for (language, blob) in LANGUAGES.into_iter().zip(&blobs) {
        put(&folder.join(format!("{language}.bin")), blob)?;
    }
    Ok(Summary {
        kernels: kernels.len(),
        bytes,
        packed: blobs.each_ref().map(Vec::len),
        time: start.elapsed(),
    })
}
