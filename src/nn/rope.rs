//! Rotary frequencies, with the scalings that checkpoints ask for.

use std::f32::consts::PI;

use burn::tensor::Tensor;

use crate::backend::Backend;

/// How the frequencies of a longer context are derived from the original ones.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Every frequency divided by the factor (position interpolation, Chen et al., 2023).
    Linear {
        /// How many times longer the context is.
        factor: f32,
    },
    /// Llama 3.1: long wavelengths are divided by the factor, short ones stay, those between are
    /// interpolated.
    Llama3 {
        /// How many times longer the context is.
        factor: f32,
        /// Below this share of the original context a wavelength counts as long.
        low_freq_factor: f32,
        /// Above this share of the original context a wavelength counts as short.
        high_freq_factor: f32,
        /// Positions that the model was first trained on.
        original_context: usize,
    },
    /// One divisor per frequency, as the tensor `rope_freqs.weight` of a GGUF file gives them.
    Factors(Vec<f32>),
}

/// The angle per position of each pair of a head, in radians.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeFrequencies(Vec<f32>);

impl RopeFrequencies {
    /// `theta^(-2i / dim)` for `i` below `dim / 2`, then scaled. Computed in f32, as the
    /// implementations that models were trained with do.
    pub fn new(dim: usize, theta: f32, scaling: Option<&RopeScaling>) -> Self {
        let base = (0..dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / dim as f32));
        Self(match scaling {
            None => base.collect(),
            Some(RopeScaling::Linear { factor }) => base.map(|f| f / factor).collect(),
            Some(RopeScaling::Factors(factors)) => {
                base.zip(factors).map(|(frequency, factor)| frequency / factor).collect()
            }
            Some(&RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            }) => {
                let context = original_context as f32;
                base.map(|frequency| {
                    let wavelength = 2.0 * PI / frequency;
                    if wavelength < context / high_freq_factor {
                        frequency
                    } else if wavelength > context / low_freq_factor {
                        frequency / factor
                    } else {
                        let smooth = (context / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                })
                .collect()
            }
        })
    }

    /// Radians per position, one for each pair.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// Cosines and sines, `[rows, positions, dim / 2]` in f32, for `rows` rows of positions.
    pub fn cos_sin<B: Backend>(
        &self,
        positions: &[u32],
        rows: usize,
        device: &B::Device,
    ) -> [Tensor<B, 3>; 2] {
        let shape = [rows, positions.len() / rows, self.0.len()];
        let angles = || positions.iter().flat_map(|&p| self.0.iter().map(move |f| p as f32 * f));
        let of = |function: fn(f32) -> f32| {
            B::step_values(angles().map(function).collect(), device).reshape(shape)
        };
        [of(f32::cos), of(f32::sin)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_by_powers_of_theta() {
        let f = RopeFrequencies::new(8, 10000.0, None);
        for (got, want) in f.as_slice().iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((got - want).abs() < 1e-7, "{got} {want}");
        }
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 64,
        };
        let plain = RopeFrequencies::new(16, 500_000.0, None);
        let scaled = RopeFrequencies::new(16, 500_000.0, Some(&scaling));
        let ratio: Vec<f32> =
            scaled.as_slice().iter().zip(plain.as_slice()).map(|(s, p)| s / p).collect();
        assert!((ratio[0] - 1.0).abs() < 1e-6);
        assert!((ratio[7] - 0.125).abs() < 1e-6);
        assert!(ratio.windows(2).all(|w| w[0] >= w[1]), "{ratio:?}");
        assert!(ratio.iter().any(|r| (0.13..0.99).contains(r)), "a band in between: {ratio:?}");
    }
}
