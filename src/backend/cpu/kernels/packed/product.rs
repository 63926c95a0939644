//! Products with quantised activations: what is unpacked when, and by which thread.

use super::super::added::Added;
use super::super::parallel::{TileMut, Tiles, for_each_task, is_for_one};
use super::super::scratch::with_scratch;
use super::super::simd::Isa;
use super::PackedMatrix;
use super::activations::{QuantiseRow, Quantised, WORD};
use super::arranged::lone_half;
use super::formats::{self, Codes, Factors, Format, PLANE, Planes};
use super::integers::{
    Blocks, FEATURES, Instructions, Integers, Kernel, MOST_GROUPS, Panel, PanelRows, Rows,
    SideBySide, Words,
};
use crate::quant::Encoding;
use std::cell::RefCell;
use std::marker::PhantomData;

/// Depth of the slice of a panel that is unpacked at a time: a whole number of blocks, and with its factors it stays in
/// first-level cache while the rows pass.
const DEPTH: usize = 1024;
/// Values in the smallest group that a format has.
const SMALLEST_GROUP: usize = 16;
/// Up to this many rows, unpacking is a good part of the work.
const FEW: usize = 8;
/// Bytes of weights in one task for few rows: long enough to stream, short enough to balance threads.
const TASK_BYTES: usize = 32 * 1024;
/// Products in less than this many bytes of weights, each row counted, are not worth waking another thread for.
const FORK_BYTES: usize = 64 * 1024;
/// Values of `x` that a task quantises.
const QUANTISE: usize = 32 * 1024;

/// `out = x · wᵀ + added` with quantised `x`; neither `out` nor the depth is empty.
pub(super) fn quantised(
    instructions: Instructions,
    x: &[f32],
    rows: usize,
    w: &PackedMatrix<'_>,
    added: Added<'_>,
    out: &mut [f32],
) {
    let product = kernel(w.encoding).expect("checked when the matrix was made");
    product(Call { instructions, x, rows, w, added, out });
}

/// The products of a format; `None` for one that is not unpacked here.
pub(super) fn kernel(encoding: Encoding) -> Option<fn(Call<'_>)> {
    match encoding {
        Encoding::Q4_0 => Some(run::<formats::Q4_0>),
        Encoding::Q4_1 => Some(run::<formats::Q4_1>),
        Encoding::Q5_0 => Some(run::<formats::Q5_0>),
        Encoding::Q5_1 => Some(run::<formats::Q5_1>),
        Encoding::Q8_0 => Some(run::<formats::Q8_0>),
        Encoding::Q2_K => Some(run::<formats::Q2K>),
        Encoding::Q3_K => Some(run::<formats::Q3K>),
        Encoding::Q4_K => Some(run::<formats::Q4K>),
        Encoding::Q5_K => Some(run::<formats::Q5K>),
        Encoding::Q6_K => Some(run::<formats::Q6K>),
        Encoding::IQ4_NL => Some(run::<formats::Iq4Nl>),
        Encoding::IQ4_XS => Some(run::<formats::Iq4Xs>),
        _ => None,
    }
}

pub(super) struct Call<'a> {
    instructions: Instructions,
    x: &'a [f32],
    rows: usize,
    w: &'a PackedMatrix<'a>,
    added: Added<'a>,
    out: &'a mut [f32],
}

fn run<F: Format>(call: Call<'_>) {
    let Call { instructions, x: exact, rows, w, added, out } = call;
    let len = Quantised::floats(rows, w.depth, F::Codes::GROUP);
    with_scratch(len, |memory| {
        let x = quantise_rows::<F>(instructions, exact, rows, w.depth, memory);
        let tiles = Tiles::new(out, (rows, w.features), tile(rows, w));
        let bias = added.bias;
        // Tasks that share weights run next to each other in time.
        added.for_each_tile(Isa::best(), exact, &tiles, |out| {
            SLICE.with_borrow_mut(|slice| {
                instructions.run(Product::<F> { x, w, bias, out, slice, format: PhantomData });
            });
        });
    });
}

/// Rows and features of a task.
fn tile(rows: usize, w: &PackedMatrix<'_>) -> (usize, usize) {
    let row_bytes = w.row_bytes();
    if is_for_one(rows * w.features * row_bytes, FORK_BYTES) {
        return (rows, w.features);
    }
    let threads = rayon::current_num_threads();
    if rows <= FEW {
        let even = w.features.div_ceil(threads * 4);
        let features = even.min((TASK_BYTES / row_bytes).max(1)).next_multiple_of(FEATURES);
        return (rows, features);
    }
    // Enough tasks to balance the threads, but each with as many rows per unpacking as that allows.
    let panels = w.features.div_ceil(FEATURES);
    let groups = (4 * threads).div_ceil(panels).min(rows.div_ceil(4 * FEW));
    (rows.div_ceil(groups), FEATURES)
}

fn quantise_rows<'m, F: Format>(
    instructions: Instructions,
    x: &[f32],
    rows: usize,
    depth: usize,
    memory: &'m mut [f32],
) -> Quantised<'m> {
    let groups = depth / F::Codes::GROUP;
    let (words, memory) = memory.split_at_mut(rows * depth / WORD);
    let (scales, sums) = memory.split_at_mut(rows * groups);
    let task_rows = (QUANTISE / depth).max(1);
    {
        let words = Tiles::new(words, (rows, depth / WORD), (task_rows, depth / WORD));
        let scales = Tiles::new(scales, (rows, groups), (task_rows, groups));
        let sums = Tiles::new(sums, (rows, groups), (task_rows, groups));
        for_each_task(rows.div_ceil(task_rows), |task| {
            let mut words = words.take(task, 0);
            let (mut scales, mut sums) = (scales.take(task, 0), sums.take(task, 0));
            for (r, row) in words.row_range().enumerate() {
                instructions.run(QuantiseRow {
                    x: &x[row * depth..][..depth],
                    group: F::Codes::GROUP,
                    meaning: F::sums(),
                    words: bytemuck::cast_slice_mut(words.row(r)),
                    scales: scales.row(r),
                    sums: sums.row(r),
                });
            }
        });
    }
    Quantised { words: bytemuck::cast_slice(words), scales, sums, depth, group: F::Codes::GROUP }
}

/// One task: all panels of a tile of the result.
struct Product<'a, 'b, F> {
    x: Quantised<'a>,
    w: &'a PackedMatrix<'a>,
    bias: Option<&'a [f32]>,
    out: &'a mut TileMut<'b>,
    slice: &'a mut Slice,
    format: PhantomData<F>,
}

impl<F: Format> Kernel for Product<'_, '_, F> {
    #[inline(always)]
    fn run<I: Integers>(mut self, integers: I) {
        let columns = self.out.column_range();
        let stride = self.w.row_bytes();
        for first in (0..columns.len()).step_by(FEATURES) {
            let used = FEATURES.min(columns.len() - first);
            self.start(first, used);
            if let Some(panel) = self.w.panel(columns.start + first) {
                self.side_by_side(integers, panel, first);
                continue;
            }
            let bytes = &self.w.bytes[(columns.start + first - self.w.in_panels()) * stride..];
            let rows = PanelRows::new(bytes, stride, used);
            self.unpacked(integers, first, used, |b| rows.block(b * F::BYTES));
        }
    }
}

impl<F: Format> Product<'_, '_, F> {
    /// Adds the products with a panel whose rows lie side by side.
    #[inline(always)]
    fn side_by_side<I: Integers>(&mut self, integers: I, panel: &[Words], first: usize) {
        let block =
            |b: usize| SideBySide::new(panel, b, F::BYTES, const { lone_half(F::ENCODING) });
        match self.out.row_range().len() {
            1 => self.arranged::<I, 1>(integers, block, first),
            2 => self.arranged::<I, 2>(integers, block, first),
            _ => self.unpacked(integers, first, FEATURES, block),
        }
    }

    /// Adds the products with a panel that is unpacked, slice by slice.
    #[inline(always)]
    fn unpacked<I: Integers, B: Blocks>(
        &mut self,
        integers: I,
        first: usize,
        used: usize,
        block: impl Fn(usize) -> B,
    ) {
        for depth in (0..self.w.depth).step_by(DEPTH) {
            let len = DEPTH.min(self.w.depth - depth);
            let panel = self.slice.unpack::<F, I, B>(integers, depth, len, &block);
            multiply_rows::<F, I>(integers, self.x, panel, depth, self.out, first, used);
        }
    }

    /// Adds those of few rows, for which codes are not worth putting into memory.
    #[inline(always)]
    fn arranged<'p, I: Integers, const R: usize>(
        &mut self,
        integers: I,
        block: impl Fn(usize) -> SideBySide<'p>,
        first: usize,
    ) {
        let start = self.out.row_range().start;
        let mut x = [self.x.row(start); R];
        for r in 1..R {
            x[r] = self.x.row(start + r);
        }
        let mut factors = [[0.0; FEATURES]; MOST_GROUPS];
        let mut minimums = [[0.0; FEATURES]; MOST_GROUPS];
        let mut sums = [[0.0; FEATURES]; R];
        for r in 0..R {
            sums[r].copy_from_slice(&self.out.row(r)[first..first + FEATURES]);
        }
        let groups = F::VALUES / F::Codes::GROUP;
        for b in 0..self.w.depth / F::VALUES {
            let mut rows = Rows { words: [&[]; R], scales: [&[]; R], sums: [&[]; R] };
            for r in 0..R {
                let (words, scales, sums) = x[r];
                rows.words[r] = &words[b * F::VALUES / WORD..][..F::VALUES / WORD];
                rows.scales[r] = &scales[b * groups..][..groups];
                rows.sums[r] = &sums[b * groups..][..groups];
            }
            let block = block(b);
            let mut to = Factors { factors: &mut factors, minimums: &mut minimums };
            F::factors(integers, block, &mut to);
            let (factors, minimums) = (&factors[..groups], &minimums[..groups]);
            let mut products = Products::<I, F::Codes, R> {
                integers,
                rows,
                factors,
                minimums,
                sums: &mut sums,
                codes: PhantomData,
            };
            F::planes(integers, block, &mut products);
        }
        for r in 0..R {
            self.out.row(r)[first..first + FEATURES].copy_from_slice(&sums[r]);
        }
    }

    /// Every sum starts at the bias.
    #[inline(always)]
    fn start(&mut self, first: usize, used: usize) {
        let column = self.out.column_range().start + first;
        for row in 0..self.out.row_range().len() {
            let to = &mut self.out.row(row)[first..first + used];
            match self.bias {
                Some(bias) => to.copy_from_slice(&bias[column..column + used]),
                None => to.fill(0.0),
            }
        }
    }
}

/// The products of `R` rows with a block, as its codes come.
struct Products<'a, I, C, const R: usize> {
    integers: I,
    /// Of the block.
    rows: Rows<'a, R>,
    factors: &'a [[f32; FEATURES]],
    minimums: &'a [[f32; FEATURES]],
    sums: &'a mut [[f32; FEATURES]; R],
    codes: PhantomData<C>,
}

impl<I: Integers, C: Codes, const R: usize> Planes for Products<'_, I, C, R> {
    #[inline(always)]
    fn take(&mut self, at: usize, codes: &[Words; PLANE]) {
        let groups = at / C::STEPS..(at + PLANE) / C::STEPS;
        let mut rows = self.rows;
        for r in 0..R {
            rows.words[r] = &rows.words[r][at..at + PLANE];
            rows.scales[r] = &rows.scales[r][groups.clone()];
            rows.sums[r] = &rows.sums[r][groups.clone()];
        }
        let (factors, minimums) = (&self.factors[groups.clone()], &self.minimums[groups]);
        let panel = Panel { codes, factors, minimums };
        self.integers.multiply_here::<C, R>(panel, rows, self.sums);
    }
}

/// Adds the products of a slice of a panel, `used` features from the tile's `first` on, for every row.
#[inline(always)]
fn multiply_rows<F: Format, I: Integers>(
    integers: I,
    x: Quantised<'_>,
    panel: Panel<'_>,
    depth: usize,
    out: &mut TileMut<'_>,
    first: usize,
    used: usize,
) {
    let rows = out.row_range().len();
    let mut row = 0;
    if I::ROWS >= 8 {
        while row + 8 <= rows {
            block::<F, I, 8>(integers, x, panel, depth, out, row, first, used);
            row += 8;
        }
    }
    while row + 4 <= rows {
        block::<F, I, 4>(integers, x, panel, depth, out, row, first, used);
        row += 4;
    }
    if row + 2 <= rows {
        block::<F, I, 2>(integers, x, panel, depth, out, row, first, used);
        row += 2;
    }
    if row < rows {
        block::<F, I, 1>(integers, x, panel, depth, out, row, first, used);
    }
}

#[inline(always)]
fn block<F: Format, I: Integers, const R: usize>(
    integers: I,
    x: Quantised<'_>,
    panel: Panel<'_>,
    depth: usize,
    out: &mut TileMut<'_>,
    row: usize,
    first: usize,
    used: usize,
) {
    let at = out.row_range().start + row;
    let mut rows = Rows { words: [&[]; R], scales: [&[]; R], sums: [&[]; R] };
    let mut sums = [[0.0; FEATURES]; R];
    for r in 0..R {
        let (words, scales, row_sums) = x.row(at + r);
        rows.words[r] = &words[depth / WORD..];
        rows.scales[r] = &scales[depth / F::Codes::GROUP..];
        rows.sums[r] = &row_sums[depth / F::Codes::GROUP..];
        sums[r][..used].copy_from_slice(&out.row(row + r)[first..first + used]);
    }
    integers.multiply::<F::Codes, R>(panel, rows, &mut sums);
    for r in 0..R {
        out.row(row + r)[first..first + used].copy_from_slice(&sums[r][..used]);
    }
}

/// Memory for a slice of a panel.
struct Slice {
    codes: [Words; DEPTH / WORD],
    factors: [[f32; FEATURES]; DEPTH / SMALLEST_GROUP],
    minimums: [[f32; FEATURES]; DEPTH / SMALLEST_GROUP],
}

thread_local! {
    /// Kept, for clearing it would take as long as unpacking.
    static SLICE: RefCell<Slice> = const {
        RefCell::new(Slice {
            codes: [Words::ZERO; _],
            factors: [[0.0; FEATURES]; _],
            minimums: [[0.0; FEATURES]; _],
        })
    };
}

impl Slice {
    /// Unpacks `len` values of each row from `depth` on.
    #[inline(always)]
    fn unpack<F: Format, I: Integers, B: Blocks>(
        &mut self,
        integers: I,
        depth: usize,
        len: usize,
        block: impl Fn(usize) -> B,
    ) -> Panel<'_> {
        let groups = F::VALUES / F::Codes::GROUP;
        let first = depth / F::VALUES;
        let blocks = len / F::VALUES;
        for b in 0..blocks {
            let mut to = Factors {
                factors: &mut self.factors[b * groups..][..groups],
                minimums: &mut self.minimums[b * groups..][..groups],
            };
            let block = block(first + b);
            F::factors(integers, block, &mut to);
            let mut codes = &mut self.codes[b * F::VALUES / WORD..][..F::VALUES / WORD];
            F::planes(integers, block, &mut codes);
        }
        Panel {
            codes: &self.codes[..len / WORD],
            factors: &self.factors[..blocks * groups],
            minimums: &self.minimums[..blocks * groups],
        }
    }
}

const _: () = assert!(DEPTH.is_multiple_of(256));
