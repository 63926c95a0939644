//! Every format, shape and instruction set against `crate::quant` and products in double precision.
//!
//! The weights of a test are random bytes with the half-precision fields of each block replaced by numbers of a size that
//! models have: all codes and scales occur, the extremes too.

use super::super::simd::Isa;
use super::super::testing::Random;
use super::*;
use crate::quant;
use half::f16;

const ROWS: [usize; 7] = [1, 2, 7, 8, 9, 33, 512];
const FEATURES: [usize; 4] = [1, 3, 17, 64];

/// Where a block has its half-precision numbers.
fn halves(encoding: Encoding) -> &'static [usize] {
    match encoding {
        Encoding::Q4_1 | Encoding::Q5_1 | Encoding::Q4_K | Encoding::Q5_K => &[0, 2],
        Encoding::Q2_K => &[80, 82],
        Encoding::Q3_K => &[108],
        Encoding::Q6_K => &[208],
        _ => &[0],
    }
}

fn packed_encodings() -> impl Iterator<Item = Encoding> {
    Encoding::ALL.into_iter().filter(|encoding| PackedMatrix::takes(*encoding))
}

/// Blocks for `[features, depth]`.
fn random_blocks(
    encoding: Encoding,
    features: usize,
    depth: usize,
    random: &mut Random,
) -> Vec<u8> {
    let len = encoding.bytes_for(features * depth).expect("whole blocks");
    let mut bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
    for block in bytes.chunks_exact_mut(encoding.block_bytes()) {
        for &at in halves(encoding) {
            let value = f16::from_f32(0.02 * random.values(1)[0]);
            block[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// One block, three, and what models have; in whole blocks of the format.
fn depths(encoding: Encoding) -> Vec<usize> {
    let block = encoding.block_len();
    let mut depths = vec![block, 3 * block, 256, 576, 1536, 2048];
    depths.retain(|depth| depth.is_multiple_of(block));
    depths
}

/// The sum of the products and the sum of their magnitudes.
fn dot(x: &[f64], w: &[f32]) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for (x, w) in x.iter().zip(w) {
        let product = x * f64::from(*w);
        sums = (sums.0 + product, sums.1 + product.abs());
    }
    sums
}

/// What quantised activations stand for, by the definition: codes are `x / scale` to the nearest, ties to even, with
/// `scale` the greatest magnitude of 32 values over 127.
fn after_quantisation(x: &[f32]) -> Vec<f64> {
    let mut values = Vec::with_capacity(x.len());
    for block in x.chunks(32) {
        let greatest = block.iter().fold(0.0f32, |g, x| g.max(x.abs()));
        let scale = greatest / 127.0;
        for x in block {
            let code = (x * (127.0 / greatest)).round_ties_even();
            assert!(code.abs() <= 127.0);
            values.push(f64::from(code) * f64::from(scale));
        }
    }
    values
}

struct Case {
    encoding: Encoding,
    depth: usize,
    x: Vec<f32>,
    x_rounded: Vec<f64>,
    bytes: Vec<u8>,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(encoding: Encoding, depth: usize, random: &mut Random) -> Self {
        let (rows, features) = (ROWS[ROWS.len() - 1], FEATURES[FEATURES.len() - 1]);
        let x = random.values(rows * depth);
        let bytes = random_blocks(encoding, features, depth, random);
        let mut weights = vec![0.0; features * depth];
        quant::dequantize(encoding, &bytes, &mut weights).expect("whole blocks");
        let x_rounded = after_quantisation(&x);
        Self { encoding, depth, x, x_rounded, bytes, weights, bias: random.values(features) }
    }

    fn matrix(&self, features: usize) -> PackedMatrix<'_> {
        let bytes = self.encoding.bytes_for(features * self.depth).expect("whole blocks");
        PackedMatrix::new(&self.bytes[..bytes], self.encoding, features, self.depth)
            .expect("the bytes fit")
    }

    /// The same matrix as files have it, and arranged, if that is a way.
    fn ways<'a>(
        &'a self,
        features: usize,
        arranged: Option<&'a ArrangedMatrix>,
    ) -> Vec<PackedMatrix<'a>> {
        [self.matrix(features)].into_iter().chain(arranged.map(ArrangedMatrix::view)).collect()
    }

    /// Compares some rows of `out` (all of a few) with `x · wᵀ + bias`. The error may be `tolerance` of the magnitudes of
    /// the products and the bias, added up.
    fn check(&self, out: &[f32], features: usize, x: &[f64], tolerance: f64, what: &str) {
        let rows = out.len() / features;
        for row in (0..rows).filter(|row| row % 37 < 5 || row + 3 > rows) {
            let x = &x[row * self.depth..][..self.depth];
            for feature in 0..features {
                let w = &self.weights[feature * self.depth..][..self.depth];
                let (sum, magnitude) = dot(x, w);
                let bias = f64::from(self.bias[feature]);
                let (got, want) = (f64::from(out[row * features + feature]), sum + bias);
                let bound = tolerance * (magnitude + bias.abs());
                assert!(
                    (got - want).abs() <= bound,
                    "{} {what}: {rows} x {features} x {}, at {row}, {feature}: got {got}, want {want} ± {bound}",
                    self.encoding,
                    self.depth
                );
            }
        }
    }
}

/// Shapes of a case; the larger ones for some of the depths only, as that is what takes the time.
fn shapes(depth: usize) -> impl Iterator<Item = (usize, usize)> {
    let all = ROWS.into_iter().flat_map(|rows| FEATURES.map(|features| (rows, features)));
    all.filter(move |(rows, features)| rows * features * depth <= 33 * 64 * 2048 || *features == 17)
}

/// The tolerance: 1e-5 of the magnitudes. Sums of up to 2048 products in single precision, in any order of vectors, are
/// within some 1e-6 of them.
#[test]
fn exact_products() {
    let mut random = Random::new(1);
    for encoding in packed_encodings() {
        for depth in depths(encoding) {
            let case = Case::new(encoding, depth, &mut random);
            let x: Vec<f64> = case.x.iter().copied().map(f64::from).collect();
            for (rows, features) in shapes(depth) {
                let arranged = ArrangedMatrix::of(&case.matrix(features));
                for isa in Isa::available() {
                    for w in case.ways(features, arranged.as_ref()) {
                        let mut out = vec![f32::NAN; rows * features];
                        let bias = &case.bias[..features];
                        exact::exact(isa, &case.x[..rows * depth], rows, &w, Some(bias), &mut out);
                        case.check(&out, features, &x, 1e-5, &format!("exact, {isa:?}"));
                    }
                }
            }
        }
    }
}

/// Two bounds. Against the same codes of `x` in double precision 1e-5 of the magnitudes, as above: integer sums are exact,
/// and a minimum or an offset only adds to the magnitudes what the sum of a group's codes is, up to 16 times as much as
/// the values themselves, at 6e-8 each. Against `x` itself half a code: a 254th of the greatest of 32 values, which for
/// uniform values is within 1/60 of the magnitudes of the products, even if all errors had the same sign.
#[test]
fn quantised_products() {
    let mut random = Random::new(2);
    for encoding in packed_encodings() {
        for depth in depths(encoding) {
            let case = Case::new(encoding, depth, &mut random);
            let x: Vec<f64> = case.x.iter().copied().map(f64::from).collect();
            for (rows, features) in shapes(depth) {
                let (x_rows, bias) = (&case.x[..rows * depth], &case.bias[..features]);
                let arranged = ArrangedMatrix::of(&case.matrix(features));
                for instructions in Instructions::available() {
                    let mut before = None;
                    for w in case.ways(features, arranged.as_ref()) {
                        let mut out = vec![f32::NAN; rows * features];
                        let added = Added::of(Some(bias));
                        product::quantised(instructions, x_rows, rows, &w, added, &mut out);
                        let what = format!("{instructions:?}");
                        case.check(&out, features, &case.x_rounded, 1e-5, &what);
                        case.check(&out, features, &x, 1.0 / 60.0, &what);
                        // The order of rows in memory changes no bit.
                        let before = before.get_or_insert_with(|| bits(&out));
                        assert_eq!(*before, bits(&out), "{encoding} {what}");
                    }
                }
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Bit for bit: a conversation gives the same tokens however it is batched, and on any number of threads.
#[test]
fn quantised_rows_do_not_depend_on_rows_or_threads() {
    let mut random = Random::new(3);
    let pools: Vec<rayon::ThreadPool> = [1, 3]
        .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build())
        .into_iter()
        .collect::<Result<_, _>>()
        .expect("threads");
    for encoding in packed_encodings() {
        let case = Case::new(encoding, 1536, &mut random);
        let arranged = ArrangedMatrix::of(&case.matrix(64)).expect("four panels");
        let w = arranged.view();
        for instructions in Instructions::available() {
            let run = |first: usize, rows: usize| {
                let mut out = vec![f32::NAN; rows * 64];
                let x = &case.x[first * 1536..][..rows * 1536];
                product::quantised(instructions, x, rows, &w, Added::default(), &mut out);
                bits(&out)
            };
            let all = pools[0].install(|| run(0, 77));
            for (first, rows) in [(0, 1), (76, 1), (3, 2), (5, 8), (11, 9), (0, 33), (0, 77)] {
                for pool in &pools {
                    let some = pool.install(|| run(first, rows));
                    assert_eq!(some, all[first * 64..(first + rows) * 64], "{encoding}");
                }
            }
        }
    }
}

#[test]
fn arranged_rows_are_found_again() {
    let mut random = Random::new(5);
    for encoding in packed_encodings() {
        for (features, blocks) in [(15, 4), (16, 4), (37, 4), (37, 3)] {
            let depth = blocks * encoding.block_len();
            let bytes = random_blocks(encoding, features, depth, &mut random);
            let matrix = PackedMatrix::new(&bytes, encoding, features, depth).expect("it fits");
            let arranged = ArrangedMatrix::of(&matrix);
            assert_eq!(arranged.is_some(), features > 15);
            let Some(arranged) = arranged else { continue };
            assert_eq!(arranged.shape(), [features, depth]);
            assert_eq!(arranged.rows(0..features), bytes);
            assert_eq!(arranged.rows([features - 1, 3]).len(), 2 * bytes.len() / features);
            assert!(
                arranged.rows([3]) == bytes[3 * bytes.len() / features..][..bytes.len() / features]
            );
        }
    }
}

/// Codes and activations at their extremes, with the signs that add up: nothing saturates.
#[test]
fn extremes_do_not_saturate() {
    for encoding in packed_encodings() {
        for fill in [0x00, 0x7f, 0x80, 0xff] {
            let (features, depth) = (19, 512);
            let len = encoding.bytes_for(features * depth).expect("whole blocks");
            let mut bytes = vec![fill; len];
            for block in bytes.chunks_exact_mut(encoding.block_bytes()) {
                for &at in halves(encoding) {
                    block[at..at + 2].copy_from_slice(&f16::ONE.to_le_bytes());
                }
            }
            let mut weights = vec![0.0; features * depth];
            quant::dequantize(encoding, &bytes, &mut weights).expect("whole blocks");
            for sign in [1.0f32, -1.0] {
                let x = vec![sign; depth];
                let w = PackedMatrix::new(&bytes, encoding, features, depth).expect("they fit");
                let arranged = ArrangedMatrix::of(&w);
                for instructions in Instructions::available() {
                    let mut out = vec![f32::NAN; features];
                    let w = arranged.as_ref().map_or(w, ArrangedMatrix::view);
                    product::quantised(instructions, &x, 1, &w, Added::default(), &mut out);
                    let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
                    let (want, magnitude) = dot(&x, &weights[..depth]);
                    for got in out {
                        let error = (f64::from(got) - want).abs();
                        assert!(error <= 1e-5 * magnitude, "{encoding}: {got}, want {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_does_not_vanish() {
    let case = Case::new(Encoding::Q4_0, 64, &mut Random::new(4));
    let mut x = case.x[..64].to_vec();
    x[40] = f32::NAN;
    for instructions in Instructions::available() {
        let mut out = [0.0; 3];
        product::quantised(instructions, &x, 1, &case.matrix(3), Added::default(), &mut out);
        assert!(out.iter().all(|value| value.is_nan()));
    }
}

#[test]
fn formats_without_a_kernel_are_refused() {
    assert_eq!(packed_encodings().count(), 12);
    let error = PackedMatrix::new(&[0; 66], Encoding::IQ2_XXS, 1, 256).expect_err("no kernel");
    assert_eq!(error.to_string(), "no kernel takes IQ2_XXS as it is stored");
}

#[test]
fn bytes_have_to_fit() {
    let error = PackedMatrix::new(&[0; 35], Encoding::Q8_0, 1, 32).expect_err("a byte too many");
    assert_eq!(
        error.to_string(),
        "packed matrix [1, 32] as Q8_0: expected 34 bytes, found 35 bytes"
    );
    let error = PackedMatrix::new(&[0; 34], Encoding::Q8_0, 1, 31).expect_err("no whole block");
    assert_eq!(
        error.to_string(),
        "packed matrix [1, 31] as Q8_0: expected a depth in multiples of 32, found 34 bytes"
    );
    assert!(PackedMatrix::new(&[], Encoding::Q8_0, usize::MAX, 32).is_err());
    assert!(PackedMatrix::new(&[0; 64], Encoding::F16, 1, 32).is_err());
}

#[test]
fn sizes_may_be_zero() {
    let none = PackedMatrix::new(&[], Encoding::Q4_K, 0, 256).expect("nothing");
    packed_linear(&[0.0; 256], 1, &none, Added::default(), Activations::Quantised, &mut []);
    let shallow = PackedMatrix::new(&[], Encoding::Q4_K, 2, 0).expect("nothing");
    let mut out = [0.0; 4];
    packed_linear(&[], 2, &shallow, Added::of(Some(&[1.0, 2.0])), Activations::Quantised, &mut out);
    assert_eq!(out, [1.0, 2.0, 1.0, 2.0]);
    let one = PackedMatrix::new(&[0; 34], Encoding::Q8_0, 1, 32).expect("the bytes fit");
    packed_linear(&[], 0, &one, Added::default(), Activations::Exact, &mut []);
}

#[test]
#[should_panic(expected = "packed linear: length of x")]
fn lengths_are_checked() {
    let w = PackedMatrix::new(&[0; 34], Encoding::Q8_0, 1, 32).expect("the bytes fit");
    packed_linear(&[0.0; 31], 1, &w, Added::default(), Activations::Exact, &mut [0.0]);
}
