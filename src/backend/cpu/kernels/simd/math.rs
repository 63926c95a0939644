//! Exponential, hyperbolic tangent and `SiLU` on vectors.
//!
//! The polynomials are those of the Cephes library (S. L. Moshier, `expf.c` and `tanhf.c`); errors are near one unit in
//! the last place. Not-a-number goes in and comes out.

use super::Simd;

/// Below this, `exp` returns zero: the smallest result that is not subnormal.
const EXP_LOW: f32 = -87.336_54;
/// Above this, `exp` returns its greatest value, 2.4e38, instead of infinity.
const EXP_HIGH: f32 = 88.37;
/// Of ln 2: the leading bits, exact when multiplied by a small integer, and the rest.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// eˣ; 0 below -87.3, 2.4e38 above 88.37.
#[inline(always)]
pub(in super::super) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    let low = simd.splat(EXP_LOW);
    let clamped = simd.max(low, simd.min(simd.splat(EXP_HIGH), x));
    let n = simd.round(simd.mul(clamped, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.fma(n, simd.splat(-LN2_HIGH), clamped);
    let r = simd.fma(n, simd.splat(-LN2_LOW), r);
    let mut p = simd.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = simd.fma(p, r, simd.splat(c));
    }
    let p = simd.add(simd.fma(p, simd.mul(r, r), r), simd.splat(1.0));
    let value = simd.scale_pow2(p, n);
    simd.select_le(x, low, simd.splat(0.0), value)
}

/// tanh(x): a polynomial near zero, where `1 - 2 / (e^2x + 1)` would cancel.
#[inline(always)]
pub(in super::super) fn tanh<S: Simd>(simd: S, x: S::V) -> S::V {
    let square = simd.mul(x, x);
    let mut p = simd.splat(-5.704_988_7e-3);
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = simd.fma(p, square, simd.splat(c));
    }
    let near = simd.fma(simd.mul(p, square), x, x);
    let one = simd.splat(1.0);
    let two = simd.splat(2.0);
    let far = simd.sub(one, simd.div(two, simd.add(exp(simd, simd.mul(x, two)), one)));
    simd.select_le(square, simd.splat(0.625 * 0.625), near, far)
}

/// x / (1 + e⁻ˣ).
#[inline(always)]
pub(in super::super) fn silu<S: Simd>(simd: S, x: S::V) -> S::V {
    let e = exp(simd, simd.sub(simd.splat(0.0), x));
    simd.div(x, simd.add(simd.splat(1.0), e))
}

#[cfg(test)]
mod tests {
    use super::super::{Isa, Kernel};
    use super::*;

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Tanh,
        Silu,
    }

    struct Map<'a>(Function, &'a mut [f32]);

    impl Kernel for Map<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for chunk in self.1.chunks_mut(S::LANES) {
                let x = simd.load_partial(chunk);
                let y = match self.0 {
                    Function::Exp => exp(simd, x),
                    Function::Tanh => tanh(simd, x),
                    Function::Silu => silu(simd, x),
                };
                simd.store_partial(y, chunk);
            }
        }
    }

    fn worst(function: Function, low: f64, high: f64, exact: fn(f64) -> f64) -> f64 {
        let xs: Vec<f32> =
            (0..20_001).map(|i| (low + (high - low) * f64::from(i) / 20_000.0) as f32).collect();
        let mut worst: f64 = 0.0;
        for isa in Isa::available() {
            let mut ys = xs.clone();
            isa.run(Map(function, &mut ys));
            for (x, y) in xs.iter().zip(&ys) {
                let want = exact(f64::from(*x));
                if want != 0.0 {
                    worst = worst.max(((f64::from(*y) - want) / want).abs());
                }
            }
        }
        worst
    }

    #[test]
    fn errors_are_near_one_unit_in_the_last_place() {
        let exp = worst(Function::Exp, -87.3, 88.0, f64::exp);
        assert!(exp < 1.5e-7, "exp: {exp:e}");
        let tanh = worst(Function::Tanh, -12.0, 12.0, f64::tanh);
        assert!(tanh < 2.5e-7, "tanh: {tanh:e}");
        let silu = worst(Function::Silu, -80.0, 80.0, |x| x / (1.0 + (-x).exp()));
        assert!(silu < 3e-7, "silu: {silu:e}");
    }

    #[test]
    fn the_ends_are_defined() {
        for isa in Isa::available() {
            let mut x = [-1e30, f32::MIN, -88.0, 0.0, 1000.0, f32::NAN, f32::NEG_INFINITY];
            isa.run(Map(Function::Exp, &mut x));
            assert_eq!(x[..4], [0.0, 0.0, 0.0, 1.0]);
            assert!(x[4] > 2e38 && x[5].is_nan() && x[6] == 0.0);
            let mut x = [-1e30, 1e30, -200.0, 200.0];
            isa.run(Map(Function::Silu, &mut x));
            assert!(x[0].abs() < 1e-7 && x[1] == 1e30 && x[2].abs() < 1e-30 && x[3] == 200.0);
            let mut x = [-100.0, 0.0, 100.0];
            isa.run(Map(Function::Tanh, &mut x));
            assert_eq!(x, [-1.0, 0.0, 1.0]);
        }
    }
}
