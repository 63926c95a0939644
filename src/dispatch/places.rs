//! Where the buffers of a list's launches lie.
//!
//! To find that out, memory must be looked up at CubeCL's server, which takes it half a microsecond
//! for each piece. Most launches have theirs in common, so each is looked up once for a part of a list.

use std::{collections::hash_map::Entry, sync::Arc};

use cubecl::{
    server::{Binding, ComputeServer},
    wgpu::WgpuServer,
};
use cubecl_common::stream_id::StreamId;
use rustc_hash::FxHashMap;
use wgpu::Buffer;

/// A slice of a buffer.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) buffer: Arc<Buffer>,
    pub(super) offset: u64,
    size: u64,
}

impl Place {
    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.size
    }

    /// The same in whole words, as wgpu binds them.
    fn words(&self) -> u64 {
        self.size.next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT)
    }

    /// What of its buffer is bound.
    pub(super) fn size(&self) -> Option<std::num::NonZeroU64> {
        std::num::NonZeroU64::new(self.words())
    }

    /// The bytes of its buffer.
    #[cfg(not(target_os = "macos"))]
    pub(super) fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.offset + self.words()
    }

    /// Whether all of another is in it.
    #[cfg(not(target_os = "macos"))]
    pub(super) fn holds(&self, other: &Self) -> bool {
        let (bytes, others) = (self.range(), other.range());
        bytes.start <= others.start && others.end <= bytes.end && self.buffer == other.buffer
    }

    /// As wgpu binds it.
    pub(super) fn entry(&self, binding: u32) -> wgpu::BindGroupEntry<'_> {
        wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &self.buffer,
                offset: self.offset,
                size: self.size(),
            }),
        }
    }
}

/// The places of one list's bindings.
pub(super) struct Places<'a> {
    server: &'a mut WgpuServer,
    /// Whole pieces of memory. The list holds its bindings, so that their addresses are nobody else's
    /// meanwhile.
    found: FxHashMap<usize, Place>,
}

impl<'a> Places<'a> {
    /// For the next list.
    pub(super) fn new(server: &'a mut WgpuServer) -> Self {
        Self { server, found: FxHashMap::default() }
    }

    /// Those of a launch of this list.
    pub(super) fn of(&mut self, bindings: &[Binding]) -> Result<Vec<Place>, String> {
        bindings.iter().map(|binding| self.find(binding)).collect()
    }

    /// That of a binding.
    pub(super) fn find(&mut self, binding: &Binding) -> Result<Place, String> {
        let (start, end) = (binding.offset_start.unwrap_or(0), binding.offset_end.unwrap_or(0));
        let Place { buffer, offset, size } = self.whole(binding)?;
        Ok(Place { buffer: buffer.clone(), offset: offset + start, size: size - start - end })
    }

    /// That of all the memory that a binding is a part of.
    fn whole(&mut self, binding: &Binding) -> Result<&Place, String> {
        Ok(match self.found.entry(address(&binding.memory)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let all = Binding { offset_start: None, offset_end: None, ..binding.clone() };
                let stream = StreamId::current();
                let found = ComputeServer::get_resource(self.server, all, stream)
                    .map_err(|error| error.to_string())?;
                let found = found.resource();
                let buffer = Arc::new(found.buffer.clone());
                free.insert(Place { buffer, offset: found.offset, size: found.size })
            }
        })
    }
}

/// The address of what all handles and bindings of a piece of memory share: CubeCL knows them apart by
/// it, but shows it to nobody.
pub(super) fn address<M>(memory: &M) -> usize {
    const { assert!(size_of::<M>() == size_of::<usize>()) };
    // SAFETY: it is of the same size, and its one field is an `Arc`, which is a pointer. That is only
    // compared.
    unsafe { std::mem::transmute_copy(memory) }
}
