//! Where the buffers of a list's launches lie.
//!
//! To find that out, bindings must be looked up at CubeCL's server, which takes it half a microsecond
//! for each. Most launches of a list have theirs in common, so each is looked up once a list.

use std::collections::HashMap;

use cubecl::{
    server::{Binding, ComputeServer},
    wgpu::WgpuServer,
};
use cubecl_common::stream_id::StreamId;
use wgpu::Buffer;

/// A slice of a buffer.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) buffer: Buffer,
    pub(super) offset: u64,
    size: u64,
}

impl Place {
    /// Its length in bytes.
    pub(super) fn size(&self) -> Option<std::num::NonZeroU64> {
        std::num::NonZeroU64::new(self.size)
    }

    /// The bytes of its buffer.
    #[cfg(not(target_os = "macos"))]
    pub(super) fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.offset + self.size
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

/// What tells bindings of a list apart: memory, and where they begin and end in it.
type Key = (usize, Option<u64>, Option<u64>);

/// The places of one list's bindings.
pub(super) struct Places<'a> {
    server: &'a mut WgpuServer,
    /// The list holds its bindings, so that their addresses are nobody else's meanwhile.
    found: HashMap<Key, Place>,
}

impl<'a> Places<'a> {
    /// For the next list.
    pub(super) fn new(server: &'a mut WgpuServer) -> Self {
        Self { server, found: HashMap::new() }
    }

    /// Those of a launch of this list.
    pub(super) fn of(&mut self, bindings: &[Binding]) -> Result<Vec<Place>, String> {
        bindings.iter().map(|binding| self.find(binding)).collect()
    }

    /// That of a binding.
    pub(super) fn find(&mut self, binding: &Binding) -> Result<Place, String> {
        let key = (address(&binding.memory), binding.offset_start, binding.offset_end);
        if let Some(place) = self.found.get(&key) {
            return Ok(place.clone());
        }
        let stream = StreamId::current();
        let found = ComputeServer::get_resource(self.server, binding.clone(), stream)
            .map_err(|error| error.to_string())?;
        let found = found.resource();
        let size = found.size.next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT);
        let place = Place { buffer: found.buffer.clone(), offset: found.offset, size };
        self.found.insert(key, place.clone());
        Ok(place)
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
