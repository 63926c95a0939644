//! Weights that no file holds: for timing a model's shape without its weights.

use std::path::Path;

use half::f16;
use rayon::prelude::*;

use super::RawTensor;
use crate::quant::{self, Encoding};

/// Values that are made from one seed.
const CHUNK: usize = 1 << 16;
/// The standard deviation of the values: as models begin with.
const DEVIATION: f32 = 0.02;
/// Half the range of evenly distributed values that deviate by 1.
const RANGE: f32 = 1.732_050_8;

/// Tensors of whatever name and shape they are asked for, the same for the same seed: matrices of
/// random values, vectors of ones (norms do nothing), and no biases.
#[derive(Clone, Copy, Debug)]
pub struct RandomWeights {
    seed: u64,
    encoding: Encoding,
}

impl RandomWeights {
    /// What messages call it.
    pub(super) fn path() -> &'static Path {
        Path::new("random weights")
    }

    /// Those of a seed, with matrices in `encoding` where their rows are whole blocks of it, and in
    /// f16 otherwise.
    pub fn new(seed: u64, encoding: Encoding) -> Self {
        Self { seed, encoding }
    }

    /// Whether it makes a tensor of this name.
    pub fn contains(name: &str) -> bool {
        name.ends_with(".weight")
    }

    /// How a tensor of this shape is stored.
    pub fn encoding_of(&self, shape: &[usize]) -> Encoding {
        match shape {
            [.., columns] if shape.len() > 1 => {
                let fits = self.encoding.is_packed() && self.encoding.bytes_for(*columns).is_some();
                if fits { self.encoding } else { Encoding::F16 }
            }
            _ => Encoding::F16,
        }
    }

    /// The tensor.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> RawTensor {
        let seed = name.bytes().fold(self.seed, |seed, byte| mix(seed ^ u64::from(byte)));
        let (encoding, count) = (self.encoding_of(shape), shape.iter().product());
        let bytes = match shape {
            [] | [_] => f16::ONE.to_le_bytes().repeat(count),
            _ if encoding.is_packed() => blocks(seed, encoding, count),
            _ => halves(seed, count),
        };
        RawTensor { name: name.to_owned(), shape: shape.to_vec(), encoding, bytes: bytes.into() }
    }
}

/// A value for each of `count`, as they are stored.
fn halves(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; 2 * count];
    bytes.par_chunks_mut(2 * CHUNK).enumerate().for_each(|(i, chunk)| {
        let mut state = mix(seed ^ i as u64);
        for value in chunk.chunks_exact_mut(2) {
            state = mix(state);
            let unit = (state >> 40) as f32 / (1u64 << 24) as f32;
            let random = f16::from_f32((unit * 2.0 - 1.0) * RANGE * DEVIATION);
            value.copy_from_slice(&random.to_le_bytes());
        }
    });
    bytes
}

/// Blocks of random bits, but for their scales: all of them one number, so that the values deviate
/// as they should, or as nearly as the format's scales let them.
fn blocks(seed: u64, encoding: Encoding, count: usize) -> Vec<u8> {
    let fill = |bytes: &mut [u8], seed, scale: f32| {
        let mut state = mix(seed);
        for block in bytes.chunks_exact_mut(encoding.block_bytes()) {
            for word in block.chunks_mut(8) {
                state = mix(state);
                word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
            }
            encoding.set_scale(block, scale);
        }
    };
    // Every format has this number.
    let trial_scale = 1.0 / 1024.0;
    let mut trial = vec![0; 64 * encoding.block_bytes()];
    fill(&mut trial, seed, trial_scale);
    let mut values = vec![0.0; 64 * encoding.block_len()];
    quant::dequantize(encoding, &trial, &mut values).expect("whole blocks of a known format");
    let mean_square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
    let scale = trial_scale * DEVIATION / mean_square.sqrt();

    let mut bytes = vec![0; count / encoding.block_len() * encoding.block_bytes()];
    let chunk = CHUNK / encoding.block_len() * encoding.block_bytes();
    bytes.par_chunks_mut(chunk).enumerate().for_each(|(i, chunk)| {
        fill(chunk, mix(seed ^ i as u64), scale);
    });
    bytes
}

/// A step of `SplitMix64` (Steele et al., 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_depend_on_seed_and_name_only() {
        let make = |seed, name: &str| {
            RandomWeights::new(seed, Encoding::F16).tensor(name, &[40, 2000]).bytes
        };
        let values = make(1, "a.weight");
        assert_eq!(values, make(1, "a.weight"));
        assert_ne!(values, make(2, "a.weight"));
        assert_ne!(values, make(1, "b.weight"));
        let values: Vec<f64> =
            bytemuck::pod_collect_to_vec::<u8, f16>(&values).into_iter().map(f16::to_f64).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let deviation = (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt();
        assert!(mean.abs() < 5e-4 && (deviation - 0.02).abs() < 5e-4, "{mean} {deviation}");
    }

    #[test]
    fn blocks_deviate_alike() {
        for encoding in Encoding::ALL.into_iter().filter(|encoding| encoding.is_packed()) {
            let made = RandomWeights::new(1, encoding).tensor("a.weight", &[32, 512]);
            assert_eq!(made.encoding, encoding);
            let mut values = vec![0.0; 32 * 512];
            quant::dequantize(encoding, &made.bytes, &mut values).expect("blocks");
            let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
            // Scales of `NVFP4` have three bits of mantissa, and fewer where they are small; those of
            // `MXFP4` are powers of two.
            let within = match encoding {
                Encoding::MXFP4 => std::f32::consts::SQRT_2 * 1.1,
                Encoding::NVFP4 => 1.2,
                _ => 1.1,
            };
            let ratio = square.sqrt() / 0.02;
            assert!(ratio < within && ratio > 1.0 / within, "{encoding}: {ratio}");
        }
        let odd = RandomWeights::new(1, Encoding::Q4_K).tensor("a.weight", &[32, 96]);
        assert_eq!(odd.encoding, Encoding::F16);
    }

    #[test]
    fn norms_are_ones() {
        let norm = RandomWeights::new(0, Encoding::Q4_0).tensor("norm.weight", &[5]);
        assert_eq!(norm.bytes[..], bytemuck::cast_slice::<f16, u8>(&[f16::ONE; 5])[..]);
    }
}
