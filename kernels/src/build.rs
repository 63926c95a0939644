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

/// What `make` gives for each of the kernels, in their order.
fn on_all_cores<T: Send>(
    kernels: &[Kernel],
    make: impl Fn(&Kernel) -> Result<T, String> + Sync,
) -> Result<Vec<T>, String> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut done = Vec::new();
        while let i = next.fetch_add(1, Ordering::Relaxed)
            && let Some(kernel) = kernels.get(i)
        {
            done.push((i, make(kernel)));
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
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, made)| made).collect()
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// A kernel as it is stored.
struct Stored {
    generated: Generated,
    /// Bytes of text in each of [`LANGUAGES`], and the text deflated.
    texts: [(usize, Vec<u8>); 4],
}

/// Generates a kernel, and writes each of its texts into a folder.
fn stored(kernel: &Kernel, folder: &Path) -> Result<Stored, String> {
    let generated = generate(kernel)?;
    let mut stored: [(usize, Vec<u8>); 4] = Default::default();
    for (i, text) in texts(&generated).into_iter().enumerate().filter(|(_, text)| !text.is_empty())
    {
        put(&folder.join(format!("{}.{}", generated.name, LANGUAGES[i])), &text)?;
        stored[i] = (text.len(), compress_to_vec(&text, 6));
    }
    Ok(Stored { generated, texts: stored })
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
    let texts_folder = folder.join("text");
    fs::create_dir_all(&texts_folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let all = on_all_cores(&kernels, |kernel| stored(kernel, &texts_folder))?;

    let mut blobs: [Vec<u8>; 4] = Default::default();
    let mut bytes = [0; 4];
    let mut manifest = String::from("&[\n");
    for (kernel, Stored { generated, texts }) in kernels.iter().zip(&all) {
        let Generated { name, cube_dim, writes, shared_bytes, .. } = generated;
        let needs = kernel.needs();
        let family = kernel.family();
        write!(
            manifest,
            "Entry {{ name: {name:?}, family: {family:?}, cube_dim: {cube_dim:?}, writes: \
             &{writes:?}, shared_bytes: {shared_bytes}, needs: {needs:?}, places: [",
        )
        .expect("a string");
        for (i, (len, packed)) in texts.iter().enumerate() {
            let from = if *len == 0 { 0 } else { blobs[i].len() };
            blobs[i].extend_from_slice(packed);
            bytes[i] += len;
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
