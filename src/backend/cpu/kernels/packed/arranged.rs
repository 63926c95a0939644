//! Matrices whose rows lie side by side, sixteen at a time, as products read them.
//!
//! A panel's blocks follow each other; of each block the words of four bytes do, and of each word those of the sixteen
//! rows: what takes a transposition elsewhere is one vector here, and weights stream from memory in one piece. Formats
//! whose block is a half-precision number and whole words have those numbers of two blocks as one word before the others.
//! Only the order of bytes differs from that of a file, so that there is nothing to lose. ggml does it for some formats
//! (`ggml/src/ggml-cpu/repack.cpp`, with eight rows and other widths).

use super::PackedMatrix;
use super::integers::{FEATURES, Words};
use crate::quant::Encoding;
use rayon::prelude::*;

/// Bytes in a word.
const WORD: usize = 4;
/// Bytes in a half-precision number.
const HALF: usize = 2;

/// Where a block has the half-precision number without which it is whole words, in a format that has one there.
pub(super) const fn lone_half(encoding: Encoding) -> Option<usize> {
    match encoding.block_bytes() % WORD {
        0 => None,
        _ if matches!(encoding, Encoding::Q3_K | Encoding::Q6_K) => {
            Some(encoding.block_bytes() - HALF)
        }
        _ => Some(0),
    }
}

/// The words of a row in the order that they have in a panel. Where the last block is the first of a pair, that pair's
/// second half-precision number is nothing.
fn for_each_word(row: &[u8], encoding: Encoding, mut each: impl FnMut([u8; WORD])) {
    let Some(half) = lone_half(encoding) else {
        row.as_chunks().0.iter().for_each(|word| each(*word));
        return;
    };
    let bytes = encoding.block_bytes();
    for pair in row.chunks(2 * bytes) {
        let mut halves = [0; WORD];
        for (to, block) in halves.chunks_exact_mut(HALF).zip(pair.chunks_exact(bytes)) {
            to.copy_from_slice(&block[half..half + HALF]);
        }
        each(halves);
        for block in pair.chunks_exact(bytes) {
            let rest = if half == 0 { &block[HALF..] } else { &block[..half] };
            rest.as_chunks().0.iter().for_each(|word| each(*word));
        }
    }
}

/// The same words as the bytes of a row again.
fn append_words(
    mut words: impl ExactSizeIterator<Item = [u8; WORD]>,
    encoding: Encoding,
    to: &mut Vec<u8>,
) {
    let Some(half) = lone_half(encoding) else {
        to.extend(words.flatten());
        return;
    };
    let rest = (encoding.block_bytes() - HALF) / WORD;
    while let Some(halves) = words.next() {
        for number in halves.as_chunks::<HALF>().0 {
            if words.len() == 0 {
                return;
            }
            let start = to.len();
            to.extend(words.by_ref().take(rest).flatten());
            let at = if half == 0 { start } else { to.len() };
            to.splice(at..at, *number);
        }
    }
}

/// A weight matrix `[features, depth]` in panels; rows that fill none stay as they were.
#[derive(Debug)]
pub struct ArrangedMatrix {
    panels: Vec<Words>,
    rest: Vec<u8>,
    encoding: Encoding,
    features: usize,
    depth: usize,
}

impl ArrangedMatrix {
    /// A copy, on all threads; `None` where no panel is full.
    pub fn of(matrix: &PackedMatrix<'_>) -> Option<Self> {
        let PackedMatrix { bytes, encoding, features, depth, .. } = *matrix;
        let row_bytes = matrix.row_bytes();
        let words = matrix.row_words();
        if features < FEATURES || words == 0 {
            return None;
        }
        let (whole, rest) = bytes.split_at(features / FEATURES * FEATURES * row_bytes);
        // Zeros that the system gives, each page when it is first written: by all threads.
        let mut panels = bytemuck::zeroed_vec::<Words>(features / FEATURES * words);
        let rows = whole.par_chunks_exact(FEATURES * row_bytes);
        panels.par_chunks_exact_mut(words).zip(rows).for_each(|(panel, rows)| {
            for (f, row) in rows.chunks_exact(row_bytes).enumerate() {
                let mut panel = panel.iter_mut();
                for_each_word(row, encoding, |word| {
                    if let Some(words) = panel.next() {
                        words.0[f] = u32::from_le_bytes(word);
                    }
                });
            }
        });
        Some(Self { panels, rest: rest.to_vec(), encoding, features, depth })
    }

    /// What products take.
    pub fn view(&self) -> PackedMatrix<'_> {
        PackedMatrix {
            bytes: &self.rest,
            panels: &self.panels,
            encoding: self.encoding,
            features: self.features,
            depth: self.depth,
        }
    }

    /// `[features, depth]`
    pub fn shape(&self) -> [usize; 2] {
        [self.features, self.depth]
    }

    /// The format.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The blocks of rows, one after the other, as a file has them.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn rows(&self, features: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let view = self.view();
        let mut bytes = Vec::new();
        for feature in features {
            view.append_row(feature, &mut bytes);
        }
        bytes
    }
}

impl PackedMatrix<'_> {
    /// Words of a row in a panel.
    fn row_words(&self) -> usize {
        self.row_bytes().div_ceil(WORD)
    }

    /// Features that lie in panels: the first ones.
    pub(super) fn in_panels(&self) -> usize {
        self.panels.len() / self.row_words().max(1) * FEATURES
    }

    /// The words of the panel that begins with this feature, if it lies in one.
    pub(super) fn panel(&self, feature: usize) -> Option<&[Words]> {
        let words = self.row_words();
        self.panels.get(feature / FEATURES * words..)?.get(..words)
    }

    /// Appends the blocks of one row.
    pub(super) fn append_row(&self, feature: usize, to: &mut Vec<u8>) {
        let row_bytes = self.row_bytes();
        if let Some(panel) = self.panel(feature) {
            let words = panel.iter().map(|words| words.0[feature % FEATURES].to_le_bytes());
            append_words(words, self.encoding, to);
        } else {
            let row = (feature - self.in_panels()) * row_bytes;
            to.extend_from_slice(&self.bytes[row..row + row_bytes]);
        }
    }
}
