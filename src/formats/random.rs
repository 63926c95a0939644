//! Weights that no file holds: for timing a model's shape without its weights.

use std::path::Path;

use half::f16;
use rayon::prelude::*;

use super::RawTensor;
use crate::quant::Encoding;

/// Values that are made from one seed.
const CHUNK: usize = 1 << 16;
/// Half the range of the values: a standard deviation of 0.02, as models begin with.
const RANGE: f32 = 0.02 * 1.732_050_8;

/// Tensors of whatever name and shape they are asked for, the same for the same seed: matrices of
/// random values in f16, vectors of ones (norms do nothing), and no biases.
#[derive(Clone, Copy, Debug)]
pub struct RandomWeights {
    seed: u64,
}

impl RandomWeights {
    /// What messages call it.
    pub(super) fn path() -> &'static Path {
        Path::new("random weights")
    }

    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Whether it makes a tensor of this name.
    pub fn contains(name: &str) -> bool {
        name.ends_with(".weight")
    }

    /// The tensor.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> RawTensor {
        let mut values = vec![f16::ONE; shape.iter().product()];
        if shape.len() > 1 {
            let seed = name.bytes().fold(self.seed, |seed, byte| mix(seed ^ u64::from(byte)));
            values.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
                let mut state = mix(seed ^ i as u64);
                for value in chunk {
                    state = mix(state);
                    let unit = (state >> 40) as f32 / (1u64 << 24) as f32;
                    *value = f16::from_f32((unit * 2.0 - 1.0) * RANGE);
                }
            });
        }
        RawTensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            encoding: Encoding::F16,
            bytes: bytemuck::cast_slice(&values).to_vec().into(),
        }
    }
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
        let make = |seed, name: &str| RandomWeights::new(seed).tensor(name, &[40, 2000]).bytes;
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
    fn norms_are_ones() {
        let norm = RandomWeights::new(0).tensor("norm.weight", &[5]);
        assert_eq!(norm.bytes[..], bytemuck::cast_slice::<f16, u8>(&[f16::ONE; 5])[..]);
    }
}
