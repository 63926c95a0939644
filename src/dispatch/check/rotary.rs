//! Cases of attention that turns queries and the newest key.

use metal_candle_kernels::{
    Kernel,
    attention::{Decode, Params},
};

use super::{
    Buffer, Case, Expected,
    cases::{FEW, SUMS, cached, input, output, parts, plain},
    noise::Noise,
};

/// Angles by which halves of a key that are multiples of 1/16 turn into what f16 can say, so that
/// nothing is rounded on its way into the cache.
const ANGLES: [(f32, f32); 5] = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.5, -0.5), (0.5, 0.5)];

/// The second key; and a ring with everything on, each sequence with angles of its own, the newest key
/// at the end and at the start of the ring, in the last part and in the last but one, for the last has
/// none.
pub(super) fn cases(kernel: Kernel, variant: Decode) -> Vec<Case> {
    let everything = Params {
        batch: 2,
        heads: 20,
        kv_heads: 2,
        capacity: 150,
        start: 20,
        splits: 3,
        soft_cap: 5.0,
        window: 77,
        padded: true,
        angles_per_sequence: true,
        ..plain(131)
    };
    let round = Params { batch: 2, heads: 6, start: 145, splits: 4, capacity: 150, ..plain(9) };
    [(plain(2), vec![0]), (everything, vec![60, 130]), (round, vec![0])]
        .into_iter()
        .map(|(params, padding)| case(kernel, variant, params, &padding))
        .collect()
}

/// Values turned as a model does whose halves are turned.
fn turned(heads: &[f32], cos: &[f32], sin: &[f32], heads_of_row: usize, rows: usize) -> Vec<f32> {
    let half = cos.len() / rows;
    let turn = |(i, head): (usize, &[f32])| {
        let angle = i / heads_of_row % rows * half;
        let (cos, sin) = (&cos[angle..angle + half], &sin[angle..angle + half]);
        let first = (0..half).map(|p| head[p] * cos[p] - head[p + half] * sin[p]);
        let second = (0..half).map(|p| head[p + half] * cos[p] + head[p] * sin[p]);
        first.chain(second).collect::<Vec<f32>>()
    };
    heads.chunks(2 * half).enumerate().flat_map(turn).collect()
}

fn case(kernel: Kernel, variant: Decode, params: Params, padding: &[u32]) -> Case {
    let dim = variant.dim as usize;
    let (batch, heads, kv_heads) =
        (params.batch as usize, params.heads as usize, params.kv_heads as usize);
    let mut noise = Noise::new(23);
    let q = noise.floats(batch * heads * dim);
    let new = batch * kv_heads * dim;
    let k: Vec<f32> = (0..new).map(|i| (i * 7 % 61) as f32 / 16.0 - 2.0).collect();
    let v: Vec<f32> = (0..new).map(|i| (i * 5 % 59) as f32 / 16.0 - 2.0).collect();
    let angle_rows = if params.angles_per_sequence { batch } else { 1 };
    let angles = (0..angle_rows * dim / 2).map(|i| ANGLES[i % ANGLES.len()]);
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.unzip();

    let cells = batch * kv_heads * params.capacity as usize * dim;
    let (keys, mut all_keys) = cached(&mut noise, cells, variant.f16);
    let (values, mut all_values) = cached(&mut noise, cells, variant.f16);
    let turned_k = turned(&k, &cos, &sin, kv_heads, angle_rows);
    let mut written = [vec![f64::NAN; cells], vec![f64::NAN; cells]];
    let slot = ((params.start + params.keys - 1) % params.capacity) as usize;
    for head in 0..batch * kv_heads {
        for i in 0..dim {
            let (from, to) = (head * dim + i, (head * params.capacity as usize + slot) * dim + i);
            all_keys[to] = f64::from(turned_k[from]);
            all_values[to] = f64::from(v[from]);
            written[0][to] = all_keys[to];
            written[1][to] = all_values[to];
        }
    }
    let turned_q = turned(&q, &cos, &sin, heads, angle_rows);
    let [vectors, ends] = parts(&turned_q, &all_keys, &all_values, padding, &params, dim);
    let mut buffers: Vec<Buffer> = [&q, &k, &v, &cos, &sin].map(|b| input(b)).into();
    buffers.extend([keys, values, input(padding), input(&params.words())]);
    buffers.extend([output(vectors, SUMS), output(ends, SUMS)]);
    buffers.extend(written.map(|values| {
        Buffer::Output(Expected { values, f16: variant.f16, tolerance: FEW, size: 1.0 })
    }));
    let label = format!("{} x 1 rows, {} keys", params.batch, params.keys);
    Case { kernel, label, cubes: variant.cubes(&params), buffers }
}
