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

/// Sums each of `values` over the groups of a cube; thread 0 of every group has the sums after it.
/// Every thread of the cube must come here.
#[cube]
pub(crate) fn group_sums(
    values: &mut Array<f32>,
    #[comptime] count: usize,
    #[comptime] groups: usize,
    #[comptime] reduce: Reduce,
) {
    let in_step = comptime!(reduce.in_step() as usize);
    if comptime!(in_step > 1) {
        #[unroll]
        for i in 0..count {
            values[i] = plane_sum(values[i]);
        }
    }
    // Sums of a group that are still apart.
    let apart = comptime!(reduce.threads() as usize / in_step);
    if comptime!(apart > 1) {
        let total = comptime!(groups * apart);
        let mut shared = SharedMemory::<f32>::new(comptime!(count * total));
        let thread = UNIT_POS_X as usize;
        let place = thread / in_step;
        if thread % in_step == 0 {
            #[unroll]
            for i in 0..count {
                shared[comptime!(i * total) + place] = values[i];
            }
        }
        sync_cube();
        if thread % comptime!(reduce.threads() as usize) == 0 {
            #[unroll]
            for i in 0..count {
                let mut sum = 0.0f32;
                for t in 0..apart {
                    sum += shared[comptime!(i * total) + place + t];
                }
                values[i] = sum;
            }
        }
    }
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
