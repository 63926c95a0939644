//! Inputs that are the same on every backend and every machine.

use burn::tensor::{DType, Tensor, TensorData};

use crate::backend::Backend;

/// Values in `[-1, 1)`, evenly distributed, f32. A shape and a seed give the same bits on every
/// backend and platform: they are made on the host, in integers (`SplitMix64`, Steele et al., 2014).
pub fn uniform<B: Backend, const D: usize>(
    shape: [usize; D],
    seed: u64,
    device: &B::Device,
) -> Tensor<B, D> {
    let mut state = seed;
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| unit(&mut state)).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// The next value. Its 24 bits are all that f32 holds, so no rounding is left to a platform.
fn unit(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f32 / (1 << 23) as f32 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix() {
        // The first outputs for seed 1234567, from the reference implementation.
        let mut state = 1_234_567;
        for want in [6_457_827_717_110_365_317u64, 3_203_168_211_198_807_973] {
            let want = (want >> 40) as f32 / 8_388_608.0 - 1.0;
            assert_eq!(unit(&mut state).to_bits(), want.to_bits());
        }
    }

    #[test]
    fn values_fill_the_range() {
        let mut state = 7;
        let values: Vec<f32> = (0..10_000).map(|_| unit(&mut state)).collect();
        assert!(values.iter().all(|v| (-1.0..1.0).contains(v)));
        let mean = values.iter().sum::<f32>() / 1e4;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!(values.iter().any(|v| *v < -0.99) && values.iter().any(|v| *v > 0.99));
    }
}
