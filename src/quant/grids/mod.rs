//! The points that codebook formats choose from, one file a table: data of the formats, made by
//! ggml's authors (`ggml-common.h`, MIT). ggml stores the points value by value; here each is one
//! word of small codes, as ggml's own quantiser has them, and the values are made from it when the
//! library is compiled.

mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;

/// What the codes of the `IQ2` tables stand for.
const LEVELS_2: [u8; 4] = [8, 25, 43, 0];
/// What the codes of `IQ3_XXS` stand for.
const LEVELS_3: [u8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];
/// What the codes of `IQ3_S` stand for.
const ODD: [u8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// The magnitudes of `IQ2_XXS`.
pub(super) static IQ2_XXS: [[u8; 8]; 256] = points(&iq2_xxs::CODES, &LEVELS_2);
/// The magnitudes of `IQ2_XS`.
pub(super) static IQ2_XS: [[u8; 8]; 512] = points(&iq2_xs::CODES, &LEVELS_2);
/// The magnitudes of `IQ2_S`.
pub(super) static IQ2_S: [[u8; 8]; 1024] = points(&iq2_s::CODES, &LEVELS_2);
/// The magnitudes of `IQ3_XXS`.
pub(super) static IQ3_XXS: [[u8; 4]; 256] = points(&iq3_xxs::CODES, &LEVELS_3);
/// The magnitudes of `IQ3_S`.
pub(super) static IQ3_S: [[u8; 4]; 512] = points(&iq3_s::CODES, &ODD);
/// The values of `IQ1_S` and `IQ1_M`, each plus one: 0, 1 or 2.
pub(super) static IQ1: [[u8; 8]; 2048] = points(&iq1_s::CODES, &[0, 1, 2, 0]);

/// The values of the points, with as many bits a code as tell the levels apart.
const fn points<const N: usize, const VALUES: usize, const LEVELS: usize>(
    codes: &[u16; N],
    levels: &[u8; LEVELS],
) -> [[u8; VALUES]; N] {
    let bits = LEVELS.ilog2();
    let mut points = [[0; VALUES]; N];
    let mut i = 0;
    while i < N {
        let (mut rest, mut j) = (codes[i] as usize, 0);
        while j < VALUES {
            points[i][j] = levels[rest % LEVELS];
            rest >>= bits;
            j += 1;
        }
        i += 1;
    }
    points
}

/// The signs that seven bits stand for, a bit a value: the eighth makes the number of minus signs
/// even (ggml `ksigns_iq2xs`).
pub(super) fn even_signs(seven: u8) -> u8 {
    let seven = seven & 0x7f;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// `scale * magnitude`, negative where the value's bit of `signs` is set.
#[inline]
pub(super) fn signed(scale: f32, magnitudes: &[u8], signs: u8, values: &mut [f32]) {
    for (j, (value, &magnitude)) in values.iter_mut().zip(magnitudes).enumerate() {
        let sign = u32::from(signs >> j) << 31;
        *value = f32::from_bits((scale * f32::from(magnitude)).to_bits() ^ sign);
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn points_are_those_of_ggml() {
        assert_eq!(IQ2_XXS[1], [43, 8, 8, 8, 8, 8, 8, 8]);
        assert_eq!(IQ2_XXS[255], [8, 25, 8, 8, 25, 43, 43, 43]);
        assert_eq!(IQ2_XS[511], [43; 8]);
        assert_eq!(IQ2_S[1023], [43; 8]);
        assert_eq!(IQ3_XXS[255], [4, 28, 52, 62]);
        assert_eq!(IQ3_S[511], [1, 1, 15, 15]);
        assert_eq!((IQ1[0], IQ1[1], IQ1[2047]), ([0; 8], [2, 0, 0, 0, 0, 0, 0, 0], [2; 8]));
    }

    #[test]
    fn no_code_stands_for_nothing() {
        let ternary = |codes: &[u16]| codes.iter().all(|c| c & (c >> 1) & 0x5555 == 0);
        assert!(ternary(&iq2_xxs::CODES) && ternary(&iq2_xs::CODES));
        assert!(ternary(&iq2_s::CODES) && ternary(&iq1_s::CODES));
        assert!(iq3_xxs::CODES.iter().chain(&iq3_s::CODES).all(|&code| code < 1 << 12));
    }

    #[test]
    fn the_number_of_minus_signs_is_even() {
        assert_eq!([0, 1, 2, 3, 127].map(even_signs), [0, 129, 130, 3, 255]);
    }

    #[test]
    fn signs_turn_values() {
        let mut values = [0.0; 8];
        signed(0.5, &[8, 25, 43, 8, 8, 8, 8, 8], 0b1000_0010, &mut values);
        assert_eq!(values, [4.0, -12.5, 21.5, 4.0, 4.0, 4.0, 4.0, -4.0]);
    }
}
