//! A launch: its buffers, its size, its order of threads.

use crate::compile::Program;
use crate::fault::{Access, Fault, FaultInOrder, Memory, Other, Place, Touch, Undefined, Waiting};
use crate::signature::Binding;

/// The order in which threads run between two synchronisation points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Threads and threadgroups ascending; a SIMD-group after the other.
    Forward,
    /// Threads and threadgroups descending.
    Reverse,
    /// Lane 0 of every SIMD-group, then lane 1, and so on; two threadgroups at once, alternately.
    Interleaved,
    /// Another random order at every step, from this seed; two random threadgroups at once.
    Shuffled(u64),
}

impl Order {
    /// One of each.
    pub const ALL: [Self; 4] = [Self::Forward, Self::Reverse, Self::Interleaved, Self::Shuffled(1)];
}

/// A buffer of a launch.
#[derive(Debug)]
pub enum Buffer<'a> {
    /// The kernel only reads it.
    Read(&'a [u8]),
    /// The kernel may write it.
    ReadWrite(&'a mut [u8]),
}

impl Buffer<'_> {
    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::ReadWrite(bytes) => bytes,
        }
    }
}

/// What to run.
#[derive(Debug)]
pub struct Launch<'a> {
    /// By their indices.
    pub buffers: Vec<Buffer<'a>>,
    /// Threadgroups in the grid.
    pub grid: [u32; 3],
    /// Threads in a threadgroup, 1,024 at most.
    pub threads: [u32; 3],
    /// In which order they run.
    pub order: Order,
    /// Threads in a SIMD-group: 32, as on Apple's GPUs; or 1, 2, 4, 8, 16, 64.
    pub simd_width: u32,
    /// Whether data races are faults. Without, only wrong numbers show them.
    pub check_races: bool,
    /// Whether unordered writes of what is already there are no data race. By Metal's rules they
    /// are, though every GPU leaves that value.
    pub equal_writes: bool,
    /// Whether functions of SIMD-groups may be reached by some lanes only, as Metal allows and WGSL
    /// does not.
    pub partial_simd: bool,
}

impl<'a> Launch<'a> {
    /// A launch of `grid` threadgroups of `threads` threads, without buffers.
    pub fn new(grid: [u32; 3], threads: [u32; 3]) -> Self {
        Self {
            buffers: Vec::new(),
            grid,
            threads,
            order: Order::Forward,
            simd_width: 32,
            check_races: true,
            equal_writes: false,
            partial_simd: false,
        }
    }

    /// Adds a buffer that the kernel only reads.
    #[must_use]
    pub fn read(mut self, bytes: &'a [u8]) -> Self {
        self.buffers.push(Buffer::Read(bytes));
        self
    }

    /// Adds a buffer that the kernel may write.
    #[must_use]
    pub fn read_write(mut self, bytes: &'a mut [u8]) -> Self {
        self.buffers.push(Buffer::ReadWrite(bytes));
        self
    }

    /// Sets the order of threads.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }
}

/// `MslBuffer` of `runtime/abi.h`.
#[repr(C)]
struct RawBuffer {
    data: *mut u8,
    bytes: u64,
    writable: u32,
}

/// `MslLaunch` of `runtime/abi.h`.
#[repr(C)]
struct RawLaunch {
    entry: unsafe extern "C" fn(),
    buffers: *const RawBuffer,
    seed: u64,
    n_buffers: u32,
    n_threadgroup_variables: u32,
    grid: [u32; 3],
    threads: [u32; 3],
    simd_width: u32,
    order: u32,
    check_races: u32,
    allow_partial_simd: u32,
    allow_equal_writes: u32,
}

const MAX_THREADS: usize = 1024;

/// `MslFault` of `runtime/abi.h`.
#[repr(C)]
struct RawFault {
    kind: u32,
    memory: u32,
    in_threadgroup: u32,
    detail: u32,
    offset: i64,
    bytes: u64,
    access_bytes: u32,
    thread: u32,
    group: [u32; 3],
    other_thread: u32,
    other_group: u32,
    other_access: u32,
    other_many: u32,
    line: u32,
    pc: usize,
    n_threads: u32,
    site: [u32; MAX_THREADS],
    state: [u8; MAX_THREADS],
}

const STATE_AT_BARRIER: u8 = 1;
const STATE_AT_SIMD: u8 = 2;
const STATE_ENDED: u8 = 3;

type RunFunction = unsafe extern "C" fn(*const RawLaunch, *mut RawFault) -> u32;

impl Program {
    /// Runs a launch to its end. The writable buffers then have what the kernel wrote; after a
    /// fault, what it had written up to it.
    ///
    /// # Errors
    ///
    /// The first [`Fault`].
    pub fn run(&self, launch: &mut Launch<'_>) -> Result<(), Fault> {
        self.validate(launch)?;
        let buffers: Vec<RawBuffer> = launch
            .buffers
            .iter_mut()
            .map(|buffer| match buffer {
                Buffer::Read(b) => {
                    RawBuffer { data: b.as_ptr().cast_mut(), bytes: b.len() as u64, writable: 0 }
                }
                Buffer::ReadWrite(b) => {
                    RawBuffer { data: b.as_mut_ptr(), bytes: b.len() as u64, writable: 1 }
                }
            })
            .collect();
        let (order, seed) = match launch.order {
            Order::Forward => (0, 0),
            Order::Reverse => (1, 0),
            Order::Interleaved => (2, 0),
            Order::Shuffled(seed) => (3, seed),
        };
        let raw = RawLaunch {
            entry: self.entry,
            buffers: buffers.as_ptr(),
            seed,
            n_buffers: buffers.len() as u32,
            n_threadgroup_variables: self.variables.len() as u32,
            grid: launch.grid,
            threads: launch.threads,
            simd_width: launch.simd_width,
            order,
            check_races: u32::from(launch.check_races),
            allow_partial_simd: u32::from(launch.partial_simd),
            allow_equal_writes: u32::from(launch.equal_writes),
        };
        let mut fault = Box::new(RawFault {
            kind: 0,
            memory: 0,
            in_threadgroup: 0,
            detail: 0,
            offset: 0,
            bytes: 0,
            access_bytes: 0,
            thread: 0,
            group: [0; 3],
            other_thread: 0,
            other_group: 0,
            other_access: 0,
            other_many: 0,
            line: 0,
            pc: 0,
            n_threads: 0,
            site: [0; MAX_THREADS],
            state: [0; MAX_THREADS],
        });
        // SAFETY: the runtime exports `msl_run` with this signature (`runtime/abi.h`).
        let run = unsafe { self.toolchain.runtime.get::<RunFunction>(b"msl_run\0") };
        let Ok(run) = run else {
            return Err(Fault::Launch {
                reason: "the runtime has no function `msl_run`".to_owned(),
            });
        };
        // SAFETY: the structures mirror those of `abi.h` and outlive the call; buffers that are
        // written are borrowed mutably; `validate` has bounded the counts; the kernel works on
        // copies of the buffers, and each of its accesses is checked.
        let kind = unsafe { run(&raw const raw, &raw mut *fault) };
        if kind == 0 { Ok(()) } else { Err(self.fault(&fault, launch)) }
    }

    /// Runs a launch once in each of [`Order::ALL`], each time from the same contents of the
    /// buffers, and gives its buffers to `check` after each.
    ///
    /// # Errors
    ///
    /// The first fault, with its order.
    pub fn run_in_every_order(
        &self,
        launch: &mut Launch<'_>,
        mut check: impl FnMut(Order, &[Buffer<'_>]),
    ) -> Result<(), FaultInOrder> {
        let before: Vec<Vec<u8>> = launch.buffers.iter().map(|b| b.bytes().to_vec()).collect();
        for order in Order::ALL {
            for (buffer, before) in launch.buffers.iter_mut().zip(&before) {
                if let Buffer::ReadWrite(bytes) = buffer {
                    bytes.copy_from_slice(before);
                }
            }
            launch.order = order;
            self.run(launch).map_err(|fault| FaultInOrder { order, fault })?;
            check(order, &launch.buffers);
        }
        Ok(())
    }

    fn validate(&self, launch: &Launch<'_>) -> Result<(), Fault> {
        let failed = |reason: String| Err(Fault::Launch { reason });
        let product = |v: [u32; 3]| v.into_iter().map(u64::from).try_fold(1u64, u64::checked_mul);
        // A group's number has 26 bits in the record of who accessed what.
        if !product(launch.grid).is_some_and(|n| (1..1 << 26).contains(&n)) {
            return failed(format!(
                "a grid has 1 to {} threadgroups, found {:?}",
                (1 << 26) - 1,
                launch.grid
            ));
        }
        if !product(launch.threads).is_some_and(|n| (1..=MAX_THREADS as u64).contains(&n)) {
            return failed(format!(
                "a threadgroup has 1 to {MAX_THREADS} threads, found {:?}",
                launch.threads
            ));
        }
        if !(launch.simd_width.is_power_of_two() && launch.simd_width <= 64) {
            return failed(format!(
                "a SIMD-group has 1, 2, 4, ... or 64 threads, found {}",
                launch.simd_width
            ));
        }
        for parameter in &self.kernel.parameters {
            if let Binding::Buffer(index) = parameter.binding
                && index as usize >= launch.buffers.len()
            {
                let found = launch.buffers.len();
                return failed(format!(
                    "parameter `{}` is buffer {index}, found {found} buffers",
                    parameter.name
                ));
            }
        }
        // Each has 128 GiB of address space.
        let memories = launch.buffers.len() + 2 * self.variables.len();
        if memories > 256 {
            return failed(format!("at most 256 buffers and threadgroup arrays, found {memories}"));
        }
        Ok(())
    }

    fn fault(&self, raw: &RawFault, launch: &Launch<'_>) -> Fault {
        let place = Place { group: raw.group, thread: raw.thread };
        match raw.kind {
            1 => Fault::OutOfBounds(self.touch(raw)),
            2 => Fault::ReadOnly(self.touch(raw)),
            3 => Fault::Misaligned(self.touch(raw)),
            4 => {
                let other = Other {
                    thread: raw.other_thread,
                    group: raw.other_group,
                    access: access(raw.other_access),
                    and_others: raw.other_many != 0,
                };
                Fault::Race { touch: self.touch(raw), other }
            }
            5 => {
                let (waiting, ended) = waiting(raw, 0..raw.n_threads);
                Fault::BarrierDivergence { group: raw.group, waiting, ended }
            }
            6 => {
                let first = raw.thread / launch.simd_width * launch.simd_width;
                let (waiting, ended) =
                    waiting(raw, first..(first + launch.simd_width).min(raw.n_threads));
                Fault::SimdDivergence { place, waiting, ended }
            }
            7 => Fault::InactiveLane { place, from: raw.other_thread, line: raw.line },
            8 => Fault::PartialMatrix { place, line: raw.line },
            9 => Fault::ThreadgroupMemory { bytes: raw.bytes, limit: 32 * 1024 },
            10 => {
                let what = match raw.detail {
                    0 => Undefined::Index,
                    1 => Undefined::Shift,
                    2 => Undefined::Division,
                    _ => Undefined::Unreachable,
                };
                Fault::Undefined { place, what, line: raw.line }
            }
            12 => Fault::WildPointer { place, line: self.line(raw.pc) },
            _ => Fault::System,
        }
    }

    fn touch(&self, raw: &RawFault) -> Touch {
        let memory = if raw.in_threadgroup == 0 {
            let named =
                self.kernel.parameters.iter().find(|p| p.binding == Binding::Buffer(raw.memory));
            Memory::Buffer {
                index: raw.memory,
                name: named.map_or_else(String::new, |p| p.name.clone()),
            }
        } else {
            Memory::Threadgroup {
                name: self.variables.get(raw.memory as usize).cloned().unwrap_or_default(),
            }
        };
        Touch {
            place: Place { group: raw.group, thread: raw.thread },
            access: access(raw.detail),
            memory,
            offset: raw.offset,
            bytes: raw.access_bytes,
            len: raw.bytes,
            line: self.line(raw.pc),
        }
    }

    /// The line of the kernel's text that was compiled to the call before `pc`.
    fn line(&self, pc: usize) -> Option<u32> {
        let library = self.path.to_str()?;
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        // The library's first mapping is where its addresses begin.
        let base = maps.lines().find(|l| l.ends_with(library))?.split('-').next()?;
        let base = usize::from_str_radix(base, 16).ok()?;
        self.toolchain.line(&self.path, pc.checked_sub(base)?)
    }
}

fn access(raw: u32) -> Access {
    match raw {
        0 => Access::Read,
        1 => Access::Write,
        2 => Access::AtomicRead,
        _ => Access::AtomicWrite,
    }
}

/// Who of `threads` waits where, and who has ended.
fn waiting(raw: &RawFault, threads: std::ops::Range<u32>) -> (Vec<Waiting>, Vec<u32>) {
    let mut sites: Vec<(u32, Waiting)> = Vec::new();
    let mut ended = Vec::new();
    for thread in threads {
        let (site, state) = (raw.site[thread as usize], raw.state[thread as usize]);
        if state == STATE_ENDED {
            ended.push(thread);
        } else if let Some((_, waiting)) = sites.iter_mut().find(|s| s.0 == site) {
            waiting.threads.push(thread);
        } else if state == STATE_AT_BARRIER || state == STATE_AT_SIMD {
            // The line, above ten bits of the column.
            let waiting =
                Waiting { line: site >> 10, simd: state == STATE_AT_SIMD, threads: vec![thread] };
            sites.push((site, waiting));
        }
    }
    (sites.into_iter().map(|s| s.1).collect(), ended)
}
