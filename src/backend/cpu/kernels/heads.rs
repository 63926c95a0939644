//! Rows of all heads as rows of each head, and back.

use super::parallel::{FORK_BYTES, Tiles, for_each_task, is_for_one};

/// `x`, `[a, b, c, d]`, as `[a, c, b, d]`.
///
/// # Panics
///
/// If the length does not match the shape.
pub fn swap_middle(x: &[f32], [a, b, c, d]: [usize; 4]) -> Vec<f32> {
    assert_eq!(x.len(), a * b * c * d, "swap: length of x");
    let mut out = vec![0.0; x.len()];
    if x.is_empty() {
        return out;
    }
    // A task's rows `[b, d]` of the result are read from every `c`-th row.
    let rows = a * c;
    let for_one = is_for_one(2 * size_of_val(x), FORK_BYTES);
    let block = if for_one { rows } else { rows.div_ceil(4 * rayon::current_num_threads()) };
    let tiles = Tiles::new(&mut out, (rows, b * d), (block, b * d));
    for_each_task(rows.div_ceil(block), |task| {
        let mut tile = tiles.take(task, 0);
        for (i, row) in tile.row_range().enumerate() {
            let from = &x[row / c * b * c * d + row % c * d..];
            for (to, from) in tile.row(i).chunks_exact_mut(d).zip(from.chunks(c * d)) {
                to.copy_from_slice(&from[..d]);
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_finds_its_place() {
        for shape in [[1, 1, 1, 1], [2, 3, 5, 4], [1, 300, 9, 64], [3, 1, 4, 2], [0, 3, 2, 1]] {
            let [a, b, c, d] = shape;
            let x: Vec<f32> = (0..a * b * c * d).map(|i| i as f32).collect();
            let out = swap_middle(&x, shape);
            for (i, value) in out.iter().enumerate() {
                let (from_d, from_b) = (i % d, i / d % b);
                let (from_c, from_a) = (i / d / b % c, i / d / b / c);
                assert_eq!(*value, x[((from_a * b + from_b) * c + from_c) * d + from_d]);
            }
            assert_eq!(swap_middle(&out, [a, c, b, d]), x);
        }
    }
}
