//! The cases of each family: every variant, at lengths that are no multiple of any tile.

use half::f16;
use metal_candle_kernels::{
    Format, Kernel,
    attention::{self, Decode, Flash, Merge},
    copy::Copy,
    dequantise::{self, Dequantise},
    largest,
    matmul::{self, MatMul},
    matvec::{self, Add, LowRank, MAX_RANK, MatVec},
    norm::{self, RmsNorm},
    rope::{self, RopeAppend},
    rows::{self, Rows},
    swiglu::{self, SwiGlu},
};

use super::{Buffer, Case, Expected, noise::Noise, reference, rotary, waiting};
use crate::quant::{self, Encoding};

/// Sums of thousands of products in f32, in another order.
pub(super) const SUMS: f64 = 2e-5;
/// The same of products by bytes, whose `x` has 16 bits: it is off by 1.5e-5 of the largest of 32 values at most. What
/// must hold is 1e-4; 6.1e-5 was found on an H200 (a gate times what it gates), and less than 5e-5 on the CPU.
const SUMS_OF_BYTES: f64 = 1e-4;
/// A few operations in f32; `exp` and `tanh` of GPUs.
pub(super) const FEW: f64 = 1e-5;
/// One rounding to f16.
const HALF: f64 = 1e-3;

/// The cases of a kernel, none of them large.
pub fn cases(kernel: Kernel) -> Vec<Case> {
    let cases = match kernel {
        Kernel::Copy(copy) => vec![copied(kernel, copy)],
        Kernel::Largest => largests(kernel),
        Kernel::MatMul(variant) => matmuls(kernel, variant),
        Kernel::MatVec(variant) => matvec_cases(kernel, variant),
        Kernel::Dequantise(variant) => dequantised(kernel, variant),
        Kernel::RmsNorm(variant) => norms(kernel, variant),
        Kernel::Rows(variant) => vec![plain_rows(kernel, variant)],
        Kernel::SwiGlu(variant) => swiglus(kernel, variant),
        Kernel::RopeAppend(variant) => ropes(kernel, variant),
        Kernel::Decode(variant) if variant.rotary => rotary::cases(kernel, variant),
        Kernel::Decode(variant) => attentions(kernel, variant),
        Kernel::Merge(variant) => merges(kernel, variant),
        Kernel::Flash(variant) => flashes(kernel, variant),
    };
    waiting::told(kernel, cases)
}

/// The cases of a kernel that take longer: attention over 32,768 keys.
pub fn long_cases(kernel: Kernel) -> Vec<Case> {
    match kernel {
        Kernel::Decode(variant)
            if !variant.rotary && variant.dim == 64 && [1, 8].contains(&variant.rows) =>
        {
            // As many rows as a cube takes, each of another position.
            let params = attention::Params {
                len: variant.rows,
                heads: 1,
                capacity: 32_800,
                start: 32_700,
                splits: 61,
                ..plain(32_768)
            };
            vec![attention_case(kernel, variant, params, &[0])]
        }
        _ => Vec::new(),
    }
}

fn bytes_of<T: bytemuck::NoUninit>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

pub(super) fn input<T: bytemuck::NoUninit>(values: &[T]) -> Buffer {
    Buffer::Input(bytes_of(values))
}

pub(super) fn output(values: Vec<f64>, tolerance: f64) -> Buffer {
    Buffer::Output(Expected { values, f16: false, tolerance, size: 1.0 })
}

fn copied(kernel: Kernel, copy: Copy) -> Case {
    let source = Noise::new(1).floats(2 * copy.bytes_per_cube() / 4);
    let expected = source.iter().map(|v| f64::from(*v)).collect();
    Case {
        kernel,
        label: "2 cubes".into(),
        cubes: 2,
        buffers: vec![input(&source), output(expected, 0.0)],
    }
}

/// A matrix as a kernel reads it, and its values.
fn matrix(noise: &mut Noise, format: Format, values: usize) -> (Vec<u8>, Vec<f64>) {
    match format {
        Format::F32 => {
            let all = noise.floats(values);
            (bytes_of(&all), all.into_iter().map(f64::from).collect())
        }
        Format::F16 => {
            let all = noise.halves(values);
            (bytes_of(&all), all.into_iter().map(f16::to_f64).collect())
        }
        _ => {
            let name = format!("{format:?}");
            let encoding =
                Encoding::from_name(&name).expect("every format of the kernels has a reference");
            let mut bytes = noise.blocks(encoding, values);
            let mut out = vec![0.0f32; values];
            quant::dequantize(encoding, &bytes, &mut out).expect("whole blocks");
            // Kernels read whole words.
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            (bytes, out.into_iter().map(f64::from).collect())
        }
    }
}

fn matvec_cases(kernel: Kernel, variant: MatVec) -> Vec<Case> {
    (0..3).map(|i| matvec_case(kernel, variant, i)).collect()
}

fn matvec_case(kernel: Kernel, variant: MatVec, i: usize) -> Case {
    let format = variant.format;
    let unit = variant.columns_step();
    // One block; several, past one tile of `x`, with a bias; and a row that a group goes through more
    // than once, with a residual, and with gates where the kernel takes them.
    let past_tile = if variant.bytes && variant.threads() >= 512 { 4200 } else { 2100 };
    let columns = [unit, unit * (past_tile / unit).max(9), unit * (680 / unit).max(3)][i];
    let gated = variant.takes_gates() && i == 2;
    // Where a cube goes on with other rows, more than it takes.
    let several = if variant.passes > 1 { 150 } else { 37 };
    let rows = [1, several, if gated { 10 } else { 5 }][i];
    // The last case has fewer rows of `x` than the kernel can take.
    let batch = if i == 2 { (variant.batch - variant.batch / 4).max(1) } else { variant.batch };
    let add = [Add::Nothing, Add::Bias, Add::Each][i];
    let norm = variant.normed.then_some(1e-5f32);
    let mut noise = Noise::new(2 + i as u64);
    let (bytes, weight) = matrix(&mut noise, format, rows * columns);
    // One of them begins at a later row of `x`.
    let first = if i == 1 { 2 } else { 0 };
    let x = noise.floats((first + batch) as usize * columns);
    let gain = noise.floats(columns);
    let added = noise.floats(if add == Add::Each { (first + batch) as usize * rows } else { rows });
    let plain: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let seen = match norm {
        Some(epsilon) => reference::rms_norm(&plain, &gain, f64::from(epsilon)),
        None => plain.clone(),
    };
    let mut expected = reference::matvec(&weight, &seen, rows);
    let mut size = reference::size_of_products(&weight, &seen, rows).max(1.0);
    let adapter = variant.low_rank.then(|| {
        let before = if norm.is_some() { scaled(&plain, &gain) } else { plain };
        Adapter::new(&mut noise, i, rows, first as usize, &before)
    });
    if let Some(adapter) = &adapter {
        let sums = adapter.add(&seen, rows);
        size += sums.iter().fold(0.0, |most: f64, sum| most.max(sum.abs()));
        expected.iter_mut().zip(sums).for_each(|(sum, add)| *sum += add);
    }
    if add != Add::Nothing {
        let added = added.iter().cycle();
        expected.iter_mut().zip(added).for_each(|(sum, add)| *sum += f64::from(*add));
    }
    if gated {
        let halves = expected.chunks(rows).flat_map(|row| {
            let (gates, ups) = row.split_at(rows / 2);
            gates.iter().zip(ups).map(|(gate, up)| reference::swiglu(*gate, *up))
        });
        expected = halves.collect();
        size *= size;
    }
    let width = expected.len() / (first + batch) as usize;
    expected[..first as usize * width].fill(f64::NAN);
    let params = matvec::Params {
        rows: rows as u32,
        columns: columns as u32,
        batch,
        first,
        add,
        norm,
        gated,
        low_rank: adapter.as_ref().map(|adapter| adapter.launch),
    };
    let mut buffers = vec![Buffer::Input(bytes), input(&x)];
    buffers.extend(norm.is_some().then(|| input(&gain)));
    buffers.push(input(&added));
    buffers.extend(adapter.iter().flat_map(Adapter::inputs));
    buffers.push(input(&params.words()));
    buffers.extend(adapter.iter().map(|adapter| adapter.cells.clone()));
    let tolerance = if variant.bytes { SUMS_OF_BYTES } else { SUMS };
    buffers.push(Buffer::Output(Expected { values: expected, f16: false, tolerance, size }));
    let label = format!("[{rows}, {columns}] x {batch}");
    Case { kernel, label, cubes: variant.cubes(&params), buffers }
}

fn matmuls(kernel: Kernel, variant: MatMul) -> Vec<Case> {
    let (tile, unit) = (variant.tile as usize, variant.format.block_len());
    // Less than a tile of both, one block; one row more than a tile of either, several blocks; and a
    // value that is no f16.
    [(37, 5, unit, false), (tile + 1, tile + 1, 3 * unit, true), (9, 3, unit, false)]
        .into_iter()
        .enumerate()
        .map(|(i, (rows, batch, columns, bias))| {
            let mut noise = Noise::new(rows as u64);
            let (bytes, weight) = matrix(&mut noise, variant.format, rows * columns);
            let (mut x, added) = (noise.floats(batch * columns), noise.floats(rows));
            let mut tolerance = SUMS;
            if i == 2 {
                x[1] = -90_001.0;
                // Where it is a sum of two f16, the second one is large: 24,497. It is rounded to 11
                // bits, and so is what it is multiplied with.
                tolerance = if kernel.needs().f16 { 3e-4 } else { SUMS };
            }
            let plain: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            let mut values = reference::matvec(&weight, &plain, rows);
            let size = reference::size_of_products(&weight, &plain, rows).max(1.0);
            if bias {
                let added = added.iter().cycle();
                values.iter_mut().zip(added).for_each(|(sum, add)| *sum += f64::from(*add));
            }
            let [rows, columns, batch] = [rows, columns, batch].map(|size| size as u32);
            let params = matmul::Params { rows, columns, batch, bias };
            Case {
                kernel,
                label: format!("[{rows}, {columns}] x {batch}"),
                cubes: variant.cubes(&params),
                buffers: vec![
                    Buffer::Input(bytes),
                    input(&x),
                    input(&added),
                    input(&params.words()),
                    Buffer::Output(Expected { values, f16: false, tolerance, size }),
                ],
            }
        })
        .collect()
}

/// Rows, value by value times a gain.
fn scaled(rows: &[f64], gain: &[f32]) -> Vec<f64> {
    rows.iter().zip(gain.iter().cycle()).map(|(value, gain)| value * f64::from(*gain)).collect()
}

/// An adapter of one launch.
struct Adapter {
    launch: LowRank,
    a: (Vec<u8>, Vec<f64>),
    b: (Vec<u8>, Vec<f64>),
    cells: Buffer,
}

impl Adapter {
    /// For rows of `x` (without their norm's factor) of which the launch takes the one at `first`.
    fn new(noise: &mut Noise, i: usize, rows: usize, first: usize, x: &[f64]) -> Self {
        // More than a plane has threads, and fewer; of either type, in either half of the cells.
        let (rank, f16, second_half) = [(3, false, false), (48, true, true), (20, true, false)][i];
        let columns = x.len() / (first + 1);
        let format = if f16 { Format::F16 } else { Format::F32 };
        let a = matrix(noise, format, rank * columns);
        let b = matrix(noise, format, rows * rank);
        let h = reference::matvec(&a.1, &x[first * columns..], rank);
        let size = reference::size_of_products(&a.1, &x[first * columns..], rank);
        // The launch's own half is empty before it, and the other one after it.
        let empty = vec![0u32; MAX_RANK as usize];
        let used = vec![0x4640_e400u32; MAX_RANK as usize];
        let mut own = h;
        own.resize(MAX_RANK as usize, f64::NAN);
        let other = vec![0.0; MAX_RANK as usize];
        let (before, values) = if second_half {
            ([used, empty].concat(), [other, own].concat())
        } else {
            ([empty, used].concat(), [own, other].concat())
        };
        let after = Expected { values, f16: false, tolerance: SUMS, size };
        let cells = Buffer::Both(bytes_of(&before), after);
        Self { launch: LowRank { rank: rank as u32, f16, second_half }, a, b, cells }
    }

    fn inputs(&self) -> [Buffer; 2] {
        [&self.a, &self.b].map(|(bytes, _)| Buffer::Input(bytes.clone()))
    }

    /// What it adds to the products of rows.
    fn add(&self, x: &[f64], rows: usize) -> Vec<f64> {
        let h = reference::matvec(&self.a.1, x, self.launch.rank as usize);
        reference::matvec(&self.b.1, &h, rows)
    }
}

fn dequantised(kernel: Kernel, variant: Dequantise) -> Vec<Case> {
    let format = variant.format;
    let columns = 3 * format.block_len();
    let source_rows = 7;
    let (bytes, values) = matrix(&mut Noise::new(5), format, source_rows * columns);
    // The last id is behind the end.
    let ids = [6u32, 0, 3, 3, 7];
    let rows = if variant.gather { ids.len() } else { source_rows };
    let params = dequantise::Params {
        rows: rows as u32,
        columns: columns as u32,
        source_rows: source_rows as u32,
    };
    let row = |id: usize| match values.get(id * columns..(id + 1) * columns) {
        Some(row) => row.to_vec(),
        None => vec![0.0; columns],
    };
    let wanted: Vec<f64> = if variant.gather {
        ids.iter().flat_map(|&id| row(id as usize)).collect()
    } else {
        values.clone()
    };
    let expected = if variant.f16 {
        wanted.into_iter().map(|v| f16::from_f64(v).to_f64()).collect()
    } else {
        wanted
    };
    let mut buffers = vec![Buffer::Input(bytes)];
    if variant.gather {
        buffers.push(input(&ids));
    }
    buffers.push(input(&params.words()));
    // Exact: the same operations in the same order, and one rounding for f16.
    let tolerance = if variant.f16 { HALF } else { 0.0 };
    buffers.push(Buffer::Output(Expected {
        values: expected,
        f16: variant.f16,
        tolerance,
        size: 1.0,
    }));
    vec![Case {
        kernel,
        label: format!("{rows} rows of {columns}"),
        cubes: Dequantise::cubes(&params),
        buffers,
    }]
}

fn plain_rows(kernel: Kernel, variant: Rows) -> Case {
    let format = if variant.f16 { Format::F16 } else { Format::F32 };
    let (source_rows, columns) = (7, 132);
    let (bytes, values) = matrix(&mut Noise::new(5), format, source_rows * columns);
    // The last id is behind the end.
    let ids = [6u32, 0, 3, 3, 7];
    let params = rows::Params {
        rows: ids.len() as u32,
        columns: columns as u32,
        source_rows: source_rows as u32,
    };
    let row = |&id: &u32| match values.get(id as usize * columns..(id as usize + 1) * columns) {
        Some(row) => row.to_vec(),
        None => vec![0.0; columns],
    };
    let wanted = ids.iter().flat_map(row).collect();
    Case {
        kernel,
        label: format!("{} rows of {columns}", ids.len()),
        cubes: Rows::cubes(&params),
        buffers: vec![
            Buffer::Input(bytes),
            input(&ids),
            input(&params.words()),
            output(wanted, 0.0),
        ],
    }
}

fn norms(kernel: Kernel, variant: RmsNorm) -> Vec<Case> {
    [(1, 1), (3, 257), (2, 576)]
        .into_iter()
        .map(|(rows, columns)| {
            let mut noise = Noise::new(7);
            let (x, residual) = (noise.floats(rows * columns), noise.floats(rows * columns));
            let weight = noise.floats(columns);
            let epsilon = 1e-5;
            let sum: Vec<f64> = x
                .iter()
                .zip(&residual)
                .map(|(x, r)| if variant.residual { f64::from(x + r) } else { f64::from(*x) })
                .collect();
            let expected = reference::rms_norm(&sum, &weight, f64::from(epsilon));
            let params = norm::Params { rows: rows as u32, columns: columns as u32, epsilon };
            let mut buffers = vec![input(&x)];
            if variant.residual {
                buffers.push(input(&residual));
            }
            buffers.extend([input(&weight), input(&params.words())]);
            if variant.residual {
                buffers.push(output(sum, FEW));
            }
            buffers.push(output(expected, FEW));
            let label = format!("[{rows}, {columns}]");
            Case { kernel, label, cubes: params.rows, buffers }
        })
        .collect()
}

fn swiglus(kernel: Kernel, variant: SwiGlu) -> Vec<Case> {
    [(1, 4), (3, 172)]
        .into_iter()
        .map(|(rows, columns)| {
            let mut noise = Noise::new(11);
            let mut gate: Vec<f32> =
                noise.floats(rows * columns).into_iter().map(|v| v * 10.0).collect();
            // Where `exp` would leave f32.
            gate[1] = -200.0;
            gate[2] = 200.0;
            let up = noise.floats(rows * columns);
            let expected =
                gate.iter().zip(&up).map(|(g, u)| reference::swiglu(f64::from(*g), f64::from(*u)));
            let expected = expected.collect();
            let params = swiglu::Params { rows: rows as u32, columns: columns as u32 };
            let mut buffers = if variant.joined {
                let rows = gate.chunks(columns).zip(up.chunks(columns));
                vec![input(&rows.flat_map(|(g, u)| [g, u].concat()).collect::<Vec<f32>>())]
            } else {
                vec![input(&gate), input(&up)]
            };
            buffers.extend([input(&params.words()), output(expected, FEW)]);
            let label = format!("[{rows}, {columns}]");
            Case { kernel, label, cubes: SwiGlu::cubes(&params), buffers }
        })
        .collect()
}

fn largests(kernel: Kernel) -> Vec<Case> {
    let piece = largest::PIECE as usize;
    // Rows of less than a piece, one, and several with a part of one; and what pieces have left.
    [
        (1, 1, false),
        (3, 1001, false),
        (2, 3 * piece + 5, false),
        (1, piece, false),
        (2, 63, true),
        (1, piece + 300, true),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, (rows, columns, joins))| {
        let mut x = Noise::new(70 + i as u64).floats(rows * columns);
        // The largest is there twice, or is a zero, or is far below zero.
        for row in x.chunks_mut(columns) {
            match i {
                1 => row.iter_mut().for_each(|v| *v = -v.abs() - 1e30),
                2 => row.iter_mut().for_each(|v| *v = f32::MIN),
                _ => {}
            }
            let largest = [7.5, -1e-3, 0.0, f32::MAX, 7.5, 7.5][i];
            row[columns - 1] = largest;
            row[(columns * 2 / 3).min(columns - 1)] = if i == 2 { -largest } else { largest };
        }
        let params = largest::Params { rows: rows as u32, columns: columns as u32, joins };
        // Where pieces had found theirs.
        let found = |at: usize| if joins { 5 + 3 * at } else { at };
        let (mut places, mut values) = (Vec::new(), Vec::new());
        for (r, row) in x.chunks(columns).enumerate() {
            let at_once = if joins { columns } else { piece };
            for (p, values_there) in row.chunks(at_once).enumerate() {
                let largest = values_there.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let at = values_there.iter().position(|v| *v >= largest).expect("it is there");
                let place = p * at_once + at;
                places.push(if joins { found(r * columns + place) } else { place });
                values.push(f64::from(largest));
            }
        }
        let bits = |place: usize| f32::from_bits(place as u32);
        let expected = places.into_iter().map(|place| f64::from(bits(place)));
        let expected = expected.chain(values).collect();
        let places = (0..rows * columns).filter(|_| joins).map(found).map(bits);
        let x: Vec<f32> = places.chain(x.iter().copied()).collect();
        Case {
            kernel,
            label: format!("{rows}x{columns}"),
            cubes: params.cubes(),
            buffers: vec![input(&x), input(&params.words()), output(expected, 0.0)],
        }
    })
    .collect()
}

fn ropes(kernel: Kernel, variant: RopeAppend) -> Vec<Case> {
    // One position each; and several that go round the end of the ring.
    [(1, 1, 3, 1, 8, 5, 2, false), (2, 3, 4, 2, 64, 5, 3, true)]
        .into_iter()
        .map(|(batch, len, heads, kv_heads, dim, capacity, start, per_sequence)| {
            let params =
                rope::Params { batch, len, heads, kv_heads, dim, capacity, start, per_sequence };
            let mut noise = Noise::new(13);
            let rows = (batch * len) as usize;
            let (heads, kv_heads, dim) = (heads as usize, kv_heads as usize, dim as usize);
            let q = noise.floats(rows * heads * dim);
            let k = noise.floats(rows * kv_heads * dim);
            let v = noise.floats(rows * kv_heads * dim);
            let angle_rows = if per_sequence { rows } else { len as usize };
            let cos = noise.floats(angle_rows * dim / 2);
            let sin = noise.floats(angle_rows * dim / 2);
            let turn = |head: &[f32], row: usize| -> Vec<f64> {
                let angle = if per_sequence { row } else { row % len as usize } * dim / 2;
                let mut out = vec![0.0; dim];
                for pair in 0..dim / 2 {
                    let (i, j) = if variant.adjacent {
                        (2 * pair, 2 * pair + 1)
                    } else {
                        (pair, pair + dim / 2)
                    };
                    let (a, b) = (f64::from(head[i]), f64::from(head[j]));
                    let (c, s) = (f64::from(cos[angle + pair]), f64::from(sin[angle + pair]));
                    out[i] = a * c - b * s;
                    out[j] = b * c + a * s;
                }
                out
            };
            let turned: Vec<f64> =
                q.chunks(dim).enumerate().flat_map(|(i, head)| turn(head, i / heads)).collect();
            let cells = batch as usize * kv_heads * capacity as usize * dim;
            let mut caches = [vec![f64::NAN; cells], vec![f64::NAN; cells]];
            for row in 0..rows {
                let (sequence, position) = (row / len as usize, row % len as usize);
                let slot = (start as usize + position) % capacity as usize;
                for head in 0..kv_heads {
                    let from = (row * kv_heads + head) * dim;
                    let to = ((sequence * kv_heads + head) * capacity as usize + slot) * dim;
                    caches[0][to..to + dim].copy_from_slice(&turn(&k[from..from + dim], row));
                    for i in 0..dim {
                        caches[1][to + i] = f64::from(v[from + i]);
                    }
                }
            }
            let mut buffers: Vec<Buffer> = [&q, &k, &v, &cos, &sin].map(|b| input(b)).into();
            buffers.extend([input(&params.words()), output(turned, FEW)]);
            let tolerance = if variant.f16 { HALF } else { FEW };
            buffers.extend(caches.map(|values| {
                Buffer::Output(Expected { values, f16: variant.f16, tolerance, size: 1.0 })
            }));
            let label = format!("{batch} x {len} positions, dim {dim}");
            Case { kernel, label, cubes: params.cubes(), buffers }
        })
        .collect()
}

/// Keys or values of a cache.
pub(super) fn cached(noise: &mut Noise, values: usize, f16: bool) -> (Buffer, Vec<f64>) {
    let (bytes, values) = matrix(noise, if f16 { Format::F16 } else { Format::F32 }, values);
    (Buffer::Input(bytes), values)
}

pub(super) fn plain(keys: u32) -> attention::Params {
    attention::Params {
        batch: 1,
        len: 1,
        heads: 2,
        kv_heads: 1,
        keys,
        capacity: keys,
        start: 0,
        splits: 1,
        scale: 0.3,
        soft_cap: 0.0,
        window: 0,
        causal: true,
        padded: false,
        angles_per_sequence: false,
    }
}

/// One key; a ring with everything on; and a sequence that sees nothing.
fn attentions(kernel: Kernel, variant: Decode) -> Vec<Case> {
    let everything = attention::Params {
        batch: 2,
        len: 3,
        heads: 6,
        kv_heads: 2,
        capacity: 150,
        start: 90,
        splits: 3,
        soft_cap: 5.0,
        window: 77,
        padded: true,
        ..plain(131)
    };
    let hidden =
        attention::Params { batch: 2, splits: 2, padded: true, causal: false, ..plain(19) };
    [(plain(1), vec![0]), (everything, vec![60, 130]), (hidden, vec![0, 19])]
        .into_iter()
        .map(|(params, padding)| attention_case(kernel, variant, params, &padding))
        .collect()
}

fn attention_case(
    kernel: Kernel,
    variant: Decode,
    params: attention::Params,
    padding: &[u32],
) -> Case {
    let dim = variant.dim as usize;
    let mut noise = Noise::new(17);
    let q = noise.floats((params.rows() as usize) * dim);
    let cells = (params.batch * params.kv_heads * params.capacity) as usize * dim;
    let (keys, k) = cached(&mut noise, cells, variant.f16);
    let (values, v) = cached(&mut noise, cells, variant.f16);
    let [vectors, ends] = parts(&q, &k, &v, padding, &params, dim);
    Case {
        kernel,
        label: format!("{} x {} rows, {} keys", params.batch, params.len, params.keys),
        cubes: variant.cubes(&params),
        buffers: vec![
            input(&q),
            keys,
            values,
            input(padding),
            input(&params.words()),
            output(vectors, SUMS),
            output(ends, SUMS),
        ],
    }
}

/// What [`Decode`] leaves: the vector (of several parts unnormalised), maximum and sum of each row and
/// part.
pub(super) fn parts(
    q: &[f32],
    k: &[f64],
    v: &[f64],
    padding: &[u32],
    params: &attention::Params,
    dim: usize,
) -> [Vec<f64>; 2] {
    let splits = params.splits;
    let part = params.keys.div_ceil(splits);
    let rows = params.rows() as usize;
    let mut vectors = vec![0.0; rows * splits as usize * dim];
    let mut ends = vec![0.0; rows * splits as usize * 2];
    for split in 0..splits {
        let range = split * part..((split + 1) * part).min(params.keys);
        for row in 0..rows {
            let place = row * splits as usize + split as usize;
            let (mut vector, best, sum) =
                reference::attention_part(q, k, v, padding, params, dim, row, range.clone());
            if splits == 1 && sum > 0.0 {
                for value in &mut vector {
                    *value /= sum;
                }
            }
            vectors[place * dim..(place + 1) * dim].copy_from_slice(&vector);
            // Of a row that sees nothing here, only the sum matters.
            ends[place * 2] = if sum == 0.0 { f64::NAN } else { best };
            ends[place * 2 + 1] = sum;
        }
    }
    [vectors, ends]
}

/// A few rows of one tile of keys; a ring with everything on, past a tile of rows and several of
/// keys; and sequences of which one sees nothing.
fn flashes(kernel: Kernel, variant: Flash) -> Vec<Case> {
    let few = attention::Params { len: 9, ..plain(9) };
    let everything = attention::Params {
        batch: 2,
        len: 67,
        heads: 4,
        kv_heads: 2,
        capacity: 150,
        start: 90,
        soft_cap: 5.0,
        window: 37,
        padded: true,
        ..plain(131)
    };
    let hidden = attention::Params { batch: 2, len: 17, padded: true, causal: false, ..plain(19) };
    [(few, vec![0]), (everything, vec![60, 130]), (hidden, vec![0, 19])]
        .into_iter()
        .map(|(params, padding)| {
            let dim = variant.dim as usize;
            let mut noise = Noise::new(23);
            let rows = params.rows() as usize;
            let q = noise.floats(rows * dim);
            let cells = (params.batch * params.kv_heads * params.capacity) as usize * dim;
            let (keys, k) = cached(&mut noise, cells, variant.f16);
            let (values, v) = cached(&mut noise, cells, variant.f16);
            // The log-sum-exp of nothing does not matter here: its size would hide all differences.
            let (mut out, mut log_sums) = (Vec::new(), Vec::new());
            for row in 0..rows {
                let all = 0..params.keys;
                let (vector, best, sum) =
                    reference::attention_part(&q, &k, &v, &padding, &params, dim, row, all);
                out.extend(vector.iter().map(|v| if sum == 0.0 { 0.0 } else { v / sum }));
                log_sums.push(if sum == 0.0 { f64::NAN } else { best + sum.ln() });
            }
            Case {
                kernel,
                label: format!("{} x {} rows, {} keys", params.batch, params.len, params.keys),
                cubes: variant.cubes(&params),
                buffers: vec![
                    input(&q),
                    keys,
                    values,
                    input(&padding),
                    input(&params.words()),
                    output(out, SUMS),
                    output(log_sums, SUMS),
                ],
            }
        })
        .collect()
}

fn merges(kernel: Kernel, variant: Merge) -> Vec<Case> {
    let dim = variant.dim as usize;
    let params = attention::Params { splits: 3, ..plain(40) };
    let mut noise = Noise::new(19);
    let rows = params.rows() as usize;
    let mut vectors = noise.floats(rows * 3 * dim);
    // The last row saw nothing anywhere, and one part of the first row saw nothing: zeros, as the launch
    // before leaves them.
    let mut ends = noise.floats(rows * 3 * 2);
    for (i, sum) in ends.iter_mut().enumerate().filter(|(i, _)| i % 2 == 1) {
        *sum = if i / 6 == rows - 1 { -0.0 } else { sum.abs() + 0.5 };
    }
    ends[0] = -1.0e30;
    ends[1] = -0.0;
    vectors[..dim].fill(-0.0);
    let expected = (0..rows)
        .flat_map(|row| {
            let end = |split: usize, i: usize| f64::from(ends[(row * 3 + split) * 2 + i]);
            let best = (0..3).map(|s| end(s, 0)).fold(f64::MIN, f64::max);
            let weight: Vec<f64> = (0..3).map(|s| (end(s, 0) - best).exp()).collect();
            let sum: f64 = (0..3).map(|s| weight[s] * end(s, 1)).sum();
            let value = |i: usize| -> f64 {
                (0..3).map(|s| weight[s] * f64::from(vectors[(row * 3 + s) * dim + i])).sum()
            };
            (0..dim).map(move |i| if sum == 0.0 { 0.0 } else { value(i) / sum }).collect::<Vec<_>>()
        })
        .collect::<Vec<f64>>();
    // One of them is told to wait.
    ["3 parts", "the same"]
        .into_iter()
        .map(|label| Case {
            kernel,
            label: label.into(),
            cubes: variant.cubes(&params),
            buffers: vec![
                input(&vectors),
                input(&ends),
                input(&params.words()),
                output(expected.clone(), FEW),
            ],
        })
        .collect()
}
