//! Every instruction set, mask and path against plain loops in double precision.

use super::super::testing::{Random, assert_close};
use super::*;

/// The definition, one query at a time.
fn exact(
    q: &[f32],
    k: KvView<'_>,
    v: KvView<'_>,
    shape: AttentionShape,
    options: &AttentionOptions<'_>,
) -> (Vec<f64>, Vec<f64>) {
    let AttentionShape { batch, heads, kv_heads, q_len, kv_len, head_dim } = shape;
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for row in 0..batch * heads * q_len {
        let (b, head, i) = (row / (heads * q_len), row / q_len % heads, row % q_len);
        let kv_head = head / (heads / kv_heads);
        let position = (kv_len + i).cast_signed() - q_len.cast_signed();
        let at = |view: &KvView<'_>, j: usize, d: usize| {
            f64::from(
                view.data
                    [b * view.batch_stride + kv_head * view.head_stride + j * view.row_stride + d],
            )
        };
        let mut seen = Vec::new();
        for j in 0..kv_len {
            let here = j.cast_signed();
            let sees = options.left_padding.is_none_or(|p| j >= p[b])
                && (!options.causal || here <= position)
                && options.window.is_none_or(|w| here + w.cast_signed() > position);
            if sees {
                let dot: f64 =
                    (0..head_dim).map(|d| f64::from(q[row * head_dim + d]) * at(&k, j, d)).sum();
                let mut score = dot * f64::from(options.scale);
                if let Some(cap) = options.softcap {
                    score = f64::from(cap) * (score / f64::from(cap)).tanh();
                }
                seen.push((j, score));
            }
        }
        let max = seen.iter().fold(f64::MIN, |m, s| m.max(s.1));
        let total: f64 = seen.iter().map(|s| (s.1 - max).exp()).sum();
        for d in 0..head_dim {
            let sum: f64 = seen.iter().map(|s| (s.1 - max).exp() * at(&v, s.0, d)).sum();
            out.push(if seen.is_empty() { 0.0 } else { sum / total });
        }
        lse.push(if seen.is_empty() { -1e30 } else { max + total.ln() });
    }
    (out, lse)
}

/// Compares one call; keys and values lie in a cache with spare room, filled with not-a-number.
fn check(isa: Isa, shape: AttentionShape, options: &AttentionOptions<'_>, random: &mut Random) {
    let AttentionShape { batch, heads, kv_heads, q_len, kv_len, head_dim } = shape;
    let q: Vec<f32> =
        random.values(batch * heads * q_len * head_dim).iter().map(|q| q * 3.0).collect();
    let row_stride = head_dim + random.below(3);
    let head_stride = (kv_len + random.below(4)) * row_stride;
    let batch_stride = kv_heads * head_stride;
    let mut cache = || {
        let mut data = vec![f32::NAN; batch * batch_stride];
        for row in 0..batch * kv_heads * kv_len {
            let at = row / kv_len * head_stride + row % kv_len * row_stride;
            data[at..at + head_dim].copy_from_slice(&random.values(head_dim));
        }
        data
    };
    let (k, v) = (cache(), cache());
    let view = |data| KvView { data, batch_stride, head_stride, row_stride };
    let (want, want_lse) = exact(&q, view(&k), view(&v), shape, options);
    let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; want_lse.len()]);
    attention_on(isa, &q, view(&k), view(&v), shape, options, &mut out, Some(&mut lse));
    let what = format!("{isa:?} {shape:?} {options:?}");
    assert_close(&out, &want, 1e-5, &what);
    for (got, want) in lse.iter().zip(&want_lse) {
        assert!(
            (f64::from(*got) - want).abs() <= 1e-5 * want.abs().max(1.0),
            "{what}: lse {got} {want}"
        );
    }
    out.fill(f32::NAN);
    attention_on(isa, &q, view(&k), view(&v), shape, options, &mut out, None);
    assert_close(&out, &want, 1e-5, &what);
}

#[test]
fn odd_shapes() {
    let mut random = Random::new(7);
    for isa in Isa::available() {
        for head_dim in [16, 24, 64, 72, 128, 5] {
            for (q_len, kv_len) in
                [(1, 1), (1, 300), (3, 7), (9, 9), (17, 33), (33, 100), (100, 100), (8, 3)]
            {
                for (heads, kv_heads) in [(1, 1), (6, 2), (9, 3)] {
                    let shape =
                        AttentionShape { batch: 1, heads, kv_heads, q_len, kv_len, head_dim };
                    let options = AttentionOptions {
                        scale: 0.3,
                        causal: true,
                        window: None,
                        softcap: None,
                        left_padding: None,
                    };
                    check(isa, shape, &options, &mut random);
                }
            }
        }
    }
}

#[test]
fn random_masks_and_shapes() {
    let mut random = Random::new(8);
    for isa in Isa::available() {
        for _ in 0..300 {
            let (batch, kv_heads) = (1 + random.below(3), 1 + random.below(3));
            let shape = AttentionShape {
                batch,
                heads: kv_heads * (1 + random.below(5)),
                kv_heads,
                q_len: if random.below(2) == 0 {
                    1 + random.below(3)
                } else {
                    1 + random.below(90)
                },
                kv_len: 1 + random.below(200),
                head_dim: 1 + random.below(40),
            };
            let padding: Vec<usize> = (0..batch).map(|_| random.below(shape.kv_len + 2)).collect();
            let options = AttentionOptions {
                scale: 0.5,
                causal: random.below(3) > 0,
                window: (random.below(3) == 0).then(|| random.below(100)),
                softcap: (random.below(3) == 0).then_some(5.0),
                left_padding: (random.below(2) == 0).then_some(&padding[..]),
            };
            check(isa, shape, &options, &mut random);
        }
    }
}

#[test]
fn large_groups_and_many_parts() {
    let mut random = Random::new(9);
    let options = AttentionOptions {
        scale: 0.1,
        causal: true,
        window: None,
        softcap: None,
        left_padding: None,
    };
    for isa in Isa::available() {
        for (heads, kv_heads, q_len, kv_len) in
            [(71, 1, 1, 50), (16, 1, 3, 40), (3, 1, 1, 3000), (4, 2, 2, 1000), (128, 1, 1, 20)]
        {
            let shape = AttentionShape { batch: 1, heads, kv_heads, q_len, kv_len, head_dim: 64 };
            check(isa, shape, &options, &mut random);
        }
    }
}

#[test]
fn nothing_to_see() {
    let shape =
        AttentionShape { batch: 1, heads: 2, kv_heads: 1, q_len: 1, kv_len: 0, head_dim: 4 };
    let options = AttentionOptions {
        scale: 1.0,
        causal: true,
        window: None,
        softcap: None,
        left_padding: None,
    };
    let (mut out, mut lse) = ([1.0; 8], [1.0; 2]);
    let empty = KvView::contiguous(&[], &shape);
    attention(&[1.0; 8], empty, empty, shape, &options, &mut out, Some(&mut lse));
    assert_eq!((out, lse), ([0.0; 8], [-1e30; 2]));
}
