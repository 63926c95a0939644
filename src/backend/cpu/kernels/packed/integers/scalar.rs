//! Plain Rust, for processors without a path of their own.

use super::{BlockRows, Codes, FEATURES, Integers, Kernel, Panel, Rows, Words};
use half::f16;

/// Needs nothing.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Scalar;

impl Integers for Scalar {
    const ROWS: usize = 4;

    #[inline(always)]
    fn columns(self, rows: BlockRows<'_>, at: usize) -> [Words; 4] {
        std::array::from_fn(|k| self.gather(rows, at + 4 * k))
    }

    #[inline(always)]
    fn gather(self, rows: BlockRows<'_>, at: usize) -> Words {
        let (bytes, starts) = rows.places(at, 4);
        Words(starts.map(|start| {
            let word = [bytes[start], bytes[start + 1], bytes[start + 2], bytes[start + 3]];
            u32::from_le_bytes(word)
        }))
    }

    #[inline(always)]
    fn halves(self, words: Words) -> [f32; FEATURES] {
        words.0.map(|word| f16::from_bits(word as u16).to_f32())
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], words: Words) -> Words {
        Words(words.0.map(|word| {
            u32::from_le_bytes(word.to_le_bytes().map(|code| table[usize::from(code & 0x0f)]))
        }))
    }

    #[inline(always)]
    fn multiply<C: Codes, const R: usize>(
        self,
        panel: Panel<'_>,
        rows: Rows<'_, R>,
        sums: &mut [[f32; FEATURES]; R],
    ) {
        for (g, factors) in panel.factors.iter().enumerate() {
            for r in 0..R {
                let mut dots = [0i32; FEATURES];
                for s in g * C::STEPS..(g + 1) * C::STEPS {
                    let x = rows.words[r][s].to_le_bytes().map(|q| i32::from(q.cast_signed()));
                    for (dot, word) in dots.iter_mut().zip(panel.codes[s].0) {
                        let w = word.to_le_bytes().map(i32::from);
                        *dot += (w[0] * x[0] + w[1] * x[1]) + (w[2] * x[2] + w[3] * x[3]);
                    }
                }
                let (scale, sum) = (rows.scales[r][g], rows.sums[r][g]);
                for f in 0..FEATURES {
                    sums[r][f] += if C::MINIMUMS {
                        factors[f] * scale * (dots[f] as f32) + panel.minimums[g][f] * sum
                    } else {
                        factors[f] * scale * (dots[f] as f32 + sum)
                    };
                }
            }
        }
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        kernel.run(self);
    }
}
