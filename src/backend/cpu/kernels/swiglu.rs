//! The gated activation of Llama-like models (Shazeer 2020, <https://arxiv.org/abs/2002.05202>):
//! `out = silu(gate) · up` with `silu(x) = x / (1 + e⁻ˣ)`.

use super::parallel::{Tiles, for_each_task};
use super::simd::{Isa, Kernel, Simd, silu};

/// Values in a task: some 20 µs.
const TASK: usize = 32 * 1024;

/// `out = silu(gate) · up`, value by value.
///
/// # Panics
///
/// If the three lengths differ.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    swiglu_on(Isa::best(), gate, up, out);
}

fn swiglu_on(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "swiglu: lengths of gate and up");
    assert_eq!(gate.len(), out.len(), "swiglu: length of out");
    let tiles = Tiles::new(out, (1, gate.len()), (1, TASK));
    for_each_task(tiles.across(), |task| {
        let mut out = tiles.take(0, task);
        let range = out.column_range();
        isa.run(Swiglu { gate: &gate[range.clone()], up: &up[range], out: out.row(0) });
    });
}

struct Swiglu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Swiglu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let chunks = self.gate.chunks(S::LANES).zip(self.up.chunks(S::LANES));
        for ((gate, up), out) in chunks.zip(self.out.chunks_mut(S::LANES)) {
            if out.len() == S::LANES {
                simd.store(simd.mul(silu(simd, simd.load(gate)), simd.load(up)), out);
            } else {
                let gate = silu(simd, simd.load_partial(gate));
                simd.store_partial(simd.mul(gate, simd.load_partial(up)), out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, assert_close};
    use super::*;

    #[test]
    fn against_double_precision() {
        let mut random = Random::new(5);
        for isa in Isa::available() {
            for len in [0, 1, 3, 7, 8, 9, 17, 33, 100, TASK + 5] {
                let gate: Vec<f32> = random.values(len).iter().map(|g| g * 20.0).collect();
                let up = random.values(len);
                let mut out = vec![f32::NAN; len];
                swiglu_on(isa, &gate, &up, &mut out);
                let exact = |(g, u): (&f32, &f32)| {
                    let (g, u) = (f64::from(*g), f64::from(*u));
                    g / (1.0 + (-g).exp()) * u
                };
                let want: Vec<f64> = gate.iter().zip(&up).map(exact).collect();
                assert_close(&out, &want, 1e-6, &format!("{isa:?} {len}"));
            }
        }
    }
}
