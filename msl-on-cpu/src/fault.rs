//! What a kernel did that no GPU promises to bear.

use std::fmt;

use crate::run::Order;

/// Why a launch was ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The launch itself is wrong.
    #[error("the launch is wrong: {reason}")]
    Launch {
        /// What was expected, and what was found.
        reason: String,
    },
    /// An access outside the memory.
    #[error("out of bounds: {0}")]
    OutOfBounds(Touch),
    /// A write to a buffer that is only read.
    #[error("read-only: {0}")]
    ReadOnly(Touch),
    /// An access at an address that its type cannot be at.
    #[error("misaligned: {0}")]
    Misaligned(Touch),
    /// An access that no barrier orders with another.
    #[error("data race: {touch}; unordered with {other}")]
    Race {
        /// The access.
        touch: Touch,
        /// The one before it.
        other: Other,
    },
    /// An access through a pointer that points nowhere.
    #[error("{}a pointer without value, thread {place}", line.map_or_else(String::new, |l| format!("line {l}: ")))]
    WildPointer {
        /// The thread.
        place: Place,
        /// Line of the kernel's text, if it is known.
        line: Option<u32>,
    },
    /// Not all threads of a threadgroup reach the same barrier.
    #[error("divergent barrier in threadgroup {group:?}: {}", describe(waiting, ended))]
    BarrierDivergence {
        /// The threadgroup's position in the grid.
        group: [u32; 3],
        /// Who waits where.
        waiting: Vec<Waiting>,
        /// The threads that ended.
        ended: Vec<u32>,
    },
    /// Not all lanes of a SIMD-group reach the same function of SIMD-groups.
    #[error("divergent SIMD-group function, thread {}: {}", place, describe(waiting, ended))]
    SimdDivergence {
        /// A thread that waits at it.
        place: Place,
        /// Who of the SIMD-group waits where.
        waiting: Vec<Waiting>,
        /// The threads of the SIMD-group that ended.
        ended: Vec<u32>,
    },
    /// A lane takes the value of a lane that is not there or does not take part.
    #[error(
        "line {line}: thread {place} takes the value of thread {from}, which does not take part"
    )]
    InactiveLane {
        /// The thread that takes it.
        place: Place,
        /// The thread that it would take it from.
        from: u32,
        /// Line of the kernel's text.
        line: u32,
    },
    /// A SIMD-group matrix operation without all 32 lanes.
    #[error("line {line}: a SIMD-group matrix operation without all of its lanes, thread {place}")]
    PartialMatrix {
        /// A thread that takes part.
        place: Place,
        /// Line of the kernel's text.
        line: u32,
    },
    /// More threadgroup memory than there is.
    #[error("{bytes} bytes of threadgroup memory, of which there are {limit}")]
    ThreadgroupMemory {
        /// What the kernel declares.
        bytes: u64,
        /// What a threadgroup has.
        limit: u64,
    },
    /// Something that the language leaves undefined.
    #[error("line {line}: {what}, thread {place}")]
    Undefined {
        /// The thread.
        place: Place,
        /// What it did.
        what: Undefined,
        /// Line of the kernel's text.
        line: u32,
    },
    /// The system refuses memory.
    #[error("the system refuses the memory for the launch")]
    System,
}

/// A fault, and the order of threads that it came up in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("threads in order {order:?}: {fault}")]
pub struct FaultInOrder {
    /// The order.
    pub order: Order,
    /// The fault.
    pub fault: Fault,
}

/// A thread of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its threadgroup's position in the grid.
    pub group: [u32; 3],
    /// Its index in the threadgroup.
    pub thread: u32,
}

/// Memory that is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A buffer of the launch.
    Buffer {
        /// Its index.
        index: u32,
        /// The kernel's name for it.
        name: String,
    },
    /// A threadgroup variable, or an array inside one.
    Threadgroup {
        /// Its name.
        name: String,
    },
}

/// How memory is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Read,
    /// It is written.
    Write,
    /// It is read atomically.
    AtomicRead,
    /// It is changed atomically.
    AtomicWrite,
}

/// An access to memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Who.
    pub place: Place,
    /// How.
    pub access: Access,
    /// What.
    pub memory: Memory,
    /// Where, in bytes from the beginning.
    pub offset: i64,
    /// How many bytes.
    pub bytes: u32,
    /// The size of the memory, in bytes.
    pub len: u64,
    /// Line of the kernel's text, if it is known.
    pub line: Option<u32>,
}

/// The earlier access of a data race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    /// Index of the thread in its threadgroup.
    pub thread: u32,
    /// Number of the threadgroup in the grid, x fastest.
    pub group: u32,
    /// How it accessed the memory.
    pub access: Access,
    /// Whether other threads did the same.
    pub and_others: bool,
}

/// What the language leaves undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undefined {
    /// An index outside an array or a vector whose size is known.
    Index,
    /// A shift by less than zero or not less than the type's width.
    Shift,
    /// An integer division by zero.
    Division,
    /// A place that must not be reached, such as the end of a function that has to return a value.
    Unreachable,
}

/// Threads that wait at one place of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Line of the kernel's text.
    pub line: u32,
    /// Whether they wait for their SIMD-group only.
    pub simd: bool,
    /// Their indices in the threadgroup.
    pub threads: Vec<u32>,
}

fn describe(waiting: &[Waiting], ended: &[u32]) -> String {
    let mut parts: Vec<String> = waiting
        .iter()
        .map(|w| {
            let what = if w.simd { "SIMD-group function" } else { "barrier" };
            format!("threads {} wait at the {what} in line {}", Ranges(&w.threads), w.line)
        })
        .collect();
    if !ended.is_empty() {
        parts.push(format!("threads {} have ended", Ranges(ended)));
    }
    parts.join(", ")
}

/// `0-3, 5`.
struct Ranges<'a>(&'a [u32]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut comma = "";
        while let Some(&first) = rest.first() {
            let run = rest.iter().enumerate().take_while(|&(i, &t)| t == first + i as u32).count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", first + run as u32 - 1)?,
            }
            rest = &rest[run..];
            comma = ", ";
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of threadgroup {:?}", self.thread, self.group)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffer { index, name } => write!(f, "buffer {index} `{name}`"),
            Self::Threadgroup { name } => write!(f, "threadgroup memory `{name}`"),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::AtomicRead => "atomic read",
            Self::AtomicWrite => "atomic write",
        })
    }
}

impl fmt::Display for Undefined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Index => "an index outside an array or a vector",
            Self::Shift => "a shift by more than the type's width",
            Self::Division => "a division by zero",
            Self::Unreachable => "a place that must not be reached",
        })
    }
}

impl fmt::Display for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        let Self { place, access, memory, offset, bytes, len, .. } = self;
        write!(
            f,
            "{access} of {bytes} bytes at {offset} in {memory} of {len} bytes, thread {place}"
        )
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the {} by thread {} of threadgroup number {}",
            self.access, self.thread, self.group
        )?;
        if self.and_others { f.write_str(" and others") } else { Ok(()) }
    }
}
