//! Every instruction set against plain loops in double precision.

use super::super::testing::{Random, assert_close};
use super::*;

fn check(isa: Isa, rows: usize, out_features: usize, in_features: usize, random: &mut Random) {
    let x = random.values(rows * in_features);
    let w = random.values(out_features * in_features);
    let halves: Vec<f16> = w.iter().copied().map(f16::from_f32).collect();
    let bias = random.values(out_features);
    let bias = (random.below(2) == 1).then_some(&bias[..]);
    for half in [false, true] {
        let at = |o: usize, i: usize| {
            let index = o * in_features + i;
            f64::from(if half { halves[index].to_f32() } else { w[index] })
        };
        let mut want = Vec::new();
        for r in 0..rows {
            for o in 0..out_features {
                let products =
                    (0..in_features).map(|i| f64::from(x[r * in_features + i]) * at(o, i));
                want.push(products.sum::<f64>() + bias.map_or(0.0, |b| f64::from(b[o])));
            }
        }
        let mut out = vec![f32::NAN; rows * out_features];
        let w = if half { Weight::F16(&halves) } else { Weight::F32(&w) };
        linear_on(isa, &x, rows, w, out_features, in_features, Added::of(bias), &mut out);
        let what = format!("{isa:?} {rows} x {out_features} x {in_features}, half: {half}");
        assert_close(&out, &want, 1e-5, &what);
    }
}

#[test]
fn odd_shapes() {
    let mut random = Random::new(1);
    for isa in Isa::available() {
        for rows in [0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 64, 65, 100] {
            for (out_features, in_features) in
                [(1, 1), (3, 7), (8, 16), (9, 33), (17, 100), (50, 24), (0, 4), (4, 0)]
            {
                check(isa, rows, out_features, in_features, &mut random);
            }
        }
    }
}

#[test]
fn random_shapes() {
    let mut random = Random::new(2);
    for isa in Isa::available() {
        for _ in 0..30 {
            let (rows, out_features) = (1 + random.below(200), 1 + random.below(200));
            let in_features = 1 + random.below(200);
            check(isa, rows, out_features, in_features, &mut random);
        }
    }
}

#[test]
fn more_than_one_task_and_depth_block() {
    let mut random = Random::new(3);
    for isa in Isa::available() {
        check(isa, 1, 1003, 576, &mut random);
        check(isa, 6, 700, 576, &mut random);
        check(isa, 70, 100, 2500, &mut random);
    }
}

#[test]
#[should_panic(expected = "linear: length of x")]
fn lengths_are_checked() {
    linear(&[0.0; 3], 1, Weight::F32(&[0.0; 4]), 2, 2, Added::default(), &mut [0.0; 2]);
}
