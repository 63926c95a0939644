//! Numbers that are the same on every machine.

use half::f16;

use crate::quant::Encoding;

/// A generator (xorshift).
#[derive(Debug)]
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 24) as u32
    }

    /// Values between -1 and 1.
    pub(super) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next() as f32 / u32::MAX as f32 * 2.0 - 1.0).collect()
    }

    /// The same, rounded to f16.
    pub(super) fn halves(&mut self, count: usize) -> Vec<f16> {
        self.floats(count).into_iter().map(f16::from_f32).collect()
    }

    /// Rows of blocks: every bit at random, but for the scales, which are small numbers.
    pub(super) fn blocks(&mut self, encoding: Encoding, values: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..values / encoding.block_len() {
            let start = bytes.len();
            bytes.extend((0..encoding.block_bytes()).map(|_| self.next() as u8));
            let scale = (self.next() % 1000) as f32 * 2e-5 + 1e-4;
            encoding.set_scale(&mut bytes[start..], scale);
        }
        bytes
    }
}
