//! eˣ from additions and multiplications alone.
//!
//! The standard library's `exp` is the platform's, and platforms differ in the last bit; a draw that falls between two
//! such values would pick another token. IEEE 754 fixes every operation used here, so the weights of a distribution,
//! and with them the tokens drawn from a seed, are the same everywhere. Nothing here branches or calls, so a loop over
//! a vocabulary is compiled to vector instructions.

/// High and low part of ln 2 (fdlibm's): a product of the high part with an exponent is exact.
const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// 1.5 · 2⁵²: numbers of this size have no fraction.
const MAGIC: f64 = 6_755_399_441_055_744.0;

/// 1/k! for k = 13 down to 0: with |r| ≤ ln 2 / 2 the first term left out is below 5e-18.
const INVERSE_FACTORIALS: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// eˣ for x ≤ 0, within two units in the last place; 0 where the result would be below the normal numbers (x < -708).
/// What a caller must not pass, x > 0 or NaN, is taken as 0.
pub(super) fn exp_of_negative(x: f64) -> f64 {
    let x = x.min(0.0);
    // x = n ln 2 + r, with n the nearest whole number: adding MAGIC leaves it in the low bits
    let shifted = x * std::f64::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let power = INVERSE_FACTORIALS.iter().fold(0.0, |sum, term| sum * r + term);
    // the bit pattern of 2ⁿ, for n from -1022 on
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < -708.0 { 0.0 } else { power * scale }
}

#[cfg(test)]
mod tests {
    use super::exp_of_negative;

    #[test]
    fn agrees_with_the_platform() {
        for step in 0..=708_000u32 {
            let x = -f64::from(step) / 1000.0;
            let (ours, theirs) = (exp_of_negative(x), x.exp());
            let relative = ((ours - theirs) / theirs).abs();
            assert!(relative < 5e-16, "exp({x}): {ours:e}, {theirs:e}");
        }
    }

    #[test]
    #[allow(clippy::float_cmp)]
    fn ends_of_the_range() {
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(-1e300), 0.0);
        assert_eq!(exp_of_negative(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp_of_negative(f64::NAN), 1.0);
    }
}
