//! What the kernels share: vector types, reductions over a group of threads, and the builder.

use cubecl::{
    ir::{AddressType, ManagedVariable},
    prelude::*,
};

/// Four numbers in one load.
pub(crate) type F4 = Vector<f32, Const<4>>;
/// Sixteen bytes in one load.
pub(crate) type U4 = Vector<u32, Const<4>>;

/// How a group of threads adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduce {
    /// By plane operations: the threads of a group are one plane of this many.
    Plane(u32),
    /// The same with several planes to a group, whose sums meet in shared memory: how many threads a
    /// plane has, and how many planes there are.
    Planes(u32, u32),
    /// Through shared memory: any device, groups of any size.
    Shared(u32),
}

impl Reduce {
    /// Threads in a group.
    pub const fn threads(self) -> u32 {
        match self {
            Self::Plane(n) | Self::Shared(n) => n,
            Self::Planes(n, count) => n * count,
        }
    }

    pub(crate) const fn plane(self) -> Option<u32> {
        match self {
            Self::Plane(n) | Self::Planes(n, _) => Some(n),
            Self::Shared(_) => None,
        }
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Plane(n) => format!("plane{n}"),
            Self::Planes(n, count) => format!("plane{n}x{count}"),
            Self::Shared(n) => format!("shared{n}"),
        }
    }

    /// Threads that add up without shared memory.
    const fn in_step(self) -> u32 {
        match self.plane() {
            Some(n) => n,
            None => 1,
        }
    }
}

/// `a · b`.
#[cube]
pub(crate) fn dot4(a: F4, b: F4) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
}

/// The bits of an f16 as f32, by integer maths: WGSL without f16 can do it too.
#[cube]
pub(crate) fn half_bits(bits: u32) -> f32 {
    // The exponent of f32 is 112 more.
    let normal = ((bits & 0x7fffu32) << 13u32) + 0x3800_0000u32;
    // A subnormal has no leading 1: with one, it is 2^-14 too much.
    let subnormal = f32::reinterpret(normal + 0x0080_0000u32) - 6.103_515_6e-5_f32;
    let is_subnormal = (bits & 0x7c00u32) == 0u32;
    let magnitude = select(is_subnormal, subnormal, f32::reinterpret(normal));
    f32::reinterpret(u32::reinterpret(magnitude) | ((bits & 0x8000u32) << 16u32))
}

/// The largest f16.
const MOST: f32 = 65_504.0;

/// Four numbers as the sums of two that f16 can say: the bits of each that f16 has, and what is left.
/// (Drivers take `f32(f16(value))` for `value`.) Where it says so they may be beyond what f16 can say.
#[cube]
pub(crate) fn halves(value: F4, #[comptime] may_be_large: bool) -> (F4, F4) {
    let mut first = F4::new(0.0f32);
    #[unroll]
    for e in 0..4usize {
        first[e] = f32::reinterpret(u32::reinterpret(value[e]) & 0xffff_e000u32);
        if comptime!(may_be_large) {
            first[e] = max(min(first[e], MOST), -MOST);
        }
    }
    (first, value - first)
}

/// Threads whose numbers differ in the bit `mask` share their first `items` out, of `each` values: each
/// goes on with the sums of one half of them, which are returned, the thread with the bit set with the upper
/// half. A single one is summed for both.
#[cube]
pub(crate) fn share_out(
    values: &Sequence<f32>,
    #[comptime] items: usize,
    #[comptime] each: usize,
    #[comptime] mask: u32,
) -> Sequence<f32> {
    let mut sums = Sequence::<f32>::new();
    if comptime!(items > 1) {
        let half = comptime!(items / 2 * each);
        let upper = (UNIT_POS_X & mask) != 0u32;
        #[unroll]
        for i in 0..half {
            let (low, high) = (values[i], values[comptime!(half + i)]);
            let other = plane_shuffle_xor(select(upper, low, high), mask);
            sums.push(select(upper, high, low) + other);
        }
    } else {
        #[unroll]
        for i in 0..each {
            sums.push(values[i] + plane_shuffle_xor(values[i], mask));
        }
    }
    sums
}

/// Sums each of `values`, of which there are a power of two, over the groups of a cube: thread `i` of
/// every group gets the sum of value `i`. Every thread of the cube must come here.
#[cube]
pub(crate) fn group_totals(
    values: &Array<f32>,
    #[comptime] count: usize,
    #[comptime] groups: usize,
    #[comptime] reduce: Reduce,
) -> f32 {
    let in_step = comptime!(reduce.in_step() as usize);
    let steps = comptime!(in_step.ilog2());
    let mut sums = Sequence::<Sequence<f32>>::new();
    sums.push(take(values, count));
    #[unroll]
    for bit in 0..steps {
        // The bits of a value's number first, from the highest on; then all others.
        let numbers = comptime!(count.ilog2());
        let mask = comptime!(if bit < numbers { count as u32 >> (bit + 1) } else { 1 << bit });
        let left = comptime!(if bit < numbers { count >> bit } else { 1 });
        sums.push(share_out(sums.index(comptime!(bit as usize)), left, 1usize, mask));
    }
    let mut total = sums.index(comptime!(steps as usize))[0usize];
    // Sums of a group that are still apart.
    let apart = comptime!(reduce.threads() as usize / in_step);
    if comptime!(apart > 1) {
        let all = comptime!(groups * apart);
        let mut shared = SharedMemory::<f32>::new(comptime!(count * all));
        let thread = UNIT_POS_X as usize;
        let place = thread / in_step;
        if comptime!(in_step > 1) {
            if thread % in_step < count {
                shared[thread % in_step * all + place] = total;
            }
        } else {
            #[unroll]
            for i in 0..count {
                shared[comptime!(i * all) + place] = values[i];
            }
        }
        sync_cube();
        let number = thread % comptime!(reduce.threads() as usize);
        if number < count {
            total = 0.0f32;
            for t in 0..apart {
                total += shared
                    [number * all + thread / comptime!(reduce.threads() as usize) * apart + t];
            }
        }
    }
    total
}

/// The sum of what the first threads of a cube's groups hold, for all of its threads. Every thread
/// of the cube must come here.
#[cube]
pub(crate) fn over_groups(
    value: f32,
    #[comptime] groups: usize,
    #[comptime] reduce: Reduce,
) -> f32 {
    let threads = comptime!(reduce.threads());
    let mut shared = SharedMemory::<f32>::new(groups);
    if UNIT_POS_X % threads == 0 {
        shared[(UNIT_POS_X / threads) as usize] = value;
    }
    sync_cube();
    let mut total = 0.0f32;
    #[unroll]
    for group in 0..groups {
        total += shared[group];
    }
    total
}

/// A kernel being put together: buffers in the order of the function's parameters.
pub(crate) struct Builder {
    pub(crate) inner: KernelBuilder,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let mut inner = KernelBuilder::default();
        AddressType::U32.register(&mut inner.scope);
        Self { inner }
    }

    pub(crate) fn input<E: CubePrimitive>(&mut self) -> ManagedVariable {
        let ty = E::as_type(&self.inner.scope);
        self.inner.input_array(ty)
    }

    pub(crate) fn output<E: CubePrimitive>(&mut self) -> ManagedVariable {
        let ty = E::as_type(&self.inner.scope);
        self.inner.output_array(ty)
    }

    pub(crate) fn finish(self, threads: u32, name: &str) -> KernelDefinition {
        let settings =
            KernelSettings::default().cube_dim(CubeDim::new_1d(threads)).kernel_name(name);
        self.inner.build(settings)
    }
}

/// Keeps what was read, for a later turn of a loop. (What is used in the same turn needs no array.)
#[cube]
pub(crate) fn keep<T: CubePrimitive>(read: &Sequence<T>, kept: &mut Array<T>) {
    #[unroll]
    for i in 0..read.len() {
        kept[i] = read[i];
    }
}

/// The first `count` of what was [kept](keep), or summed.
#[cube]
pub(crate) fn take<T: CubePrimitive>(kept: &Array<T>, #[comptime] count: usize) -> Sequence<T> {
    let mut read = Sequence::<T>::new();
    #[unroll]
    for i in 0..count {
        read.push(kept[i]);
    }
    read
}
