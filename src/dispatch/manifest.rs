//! What the build script wrote.

use std::ops::Range;

#[allow(unused_imports)] // entries name them, but lints come without any (`build.rs`)
use metal_candle_kernels::MatrixUnits;
use metal_candle_kernels::Needs;
use miniz_oxide::inflate::decompress_to_vec;

/// A language that kernels are generated in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// Metal Shading Language, as text.
    Msl,
    /// WebGPU Shading Language, as text.
    Wgsl,
    /// A SPIR-V module, as little-endian words.
    SpirV,
    /// CUDA C++, as text.
    Cuda,
}

/// A pregenerated kernel.
#[derive(Debug)]
pub struct Entry {
    /// Its unique name, which is also the entry point.
    pub name: &'static str,
    /// The family it belongs to.
    pub family: &'static str,
    /// Threads of a cube (workgroup).
    pub cube_dim: [u32; 3],
    /// For each buffer, whether the kernel writes to it.
    pub writes: &'static [bool],
    /// Shared memory of a cube, in bytes.
    pub shared_bytes: usize,
    /// What a device must have.
    pub needs: Needs,
    /// Where its deflated texts lie: position and length (0 where it is not made for one), by
    /// [`Language`].
    places: [(usize, usize); 4],
}

/// Every pregenerated kernel, by name.
#[allow(clippy::unreadable_literal)] // generated
pub static ENTRIES: &[Entry] = include!(concat!(env!("OUT_DIR"), "/kernels/manifest.rs"));

macro_rules! texts {
    ($language:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/kernels/", $language, ".bin"))
    };
}

static WGSL: &[u8] = texts!("wgsl");
// A Mac never meets SPIR-V, and only a Mac meets Metal.
#[cfg(target_os = "macos")]
static MSL: &[u8] = texts!("msl");
#[cfg(not(target_os = "macos"))]
static SPIRV: &[u8] = texts!("spirv");
#[cfg(feature = "cuda")]
static CUDA: &[u8] = texts!("cuda");

/// The pregenerated kernel of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    let at = ENTRIES.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
    Some(&ENTRIES[at])
}

impl Entry {
    /// Its text, where it is made for the language and this build carries that.
    pub fn text(&self, language: Language) -> Option<Vec<u8>> {
        let all = match language {
            Language::Wgsl => WGSL,
            #[cfg(target_os = "macos")]
            Language::Msl => MSL,
            #[cfg(not(target_os = "macos"))]
            Language::SpirV => SPIRV,
            #[cfg(feature = "cuda")]
            Language::Cuda => CUDA,
            #[allow(unreachable_patterns)] // where a build has all of them
            _ => return None,
        };
        let (from, len) = self.places[language as usize];
        if len == 0 {
            return None;
        }
        let range: Range<usize> = from..from + len;
        decompress_to_vec(all.get(range)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_the_table_is_there_in_its_languages() {
        let table = metal_candle_kernels::table();
        assert_eq!(table.len(), ENTRIES.len());
        for kernel in table {
            let entry = find(&kernel.name()).expect("an entry");
            assert_eq!(entry.family, kernel.family());
            assert_eq!(entry.needs, kernel.needs());
            let languages = kernel.languages();
            let wgsl = entry.text(Language::Wgsl);
            assert_eq!(wgsl.is_some(), languages[Language::Wgsl as usize]);
            if let Some(wgsl) = wgsl {
                assert!(String::from_utf8(wgsl).expect("text").contains(entry.name));
            }
            #[cfg(not(target_os = "macos"))]
            if languages[Language::SpirV as usize] {
                let module = entry.text(Language::SpirV).expect("SPIR-V");
                assert_eq!(module[..4], 0x0723_0203_u32.to_le_bytes());
            }
        }
    }
}
