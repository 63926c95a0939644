//! Bind groups that are kept from step to step.
//!
//! To find that of a launch, its bindings must be looked up at CubeCL's server, which takes it half a
//! microsecond for each. Most launches of a list have theirs in common, so each is looked up once a list.

use std::collections::HashMap;

use cubecl::{
    server::{Binding, ComputeServer},
    wgpu::WgpuServer,
};
use cubecl_common::stream_id::StreamId;
use wgpu::{BindGroup, Buffer};

use super::gather::Listed;

/// Lists for which a bind group is kept that none of them used: it keeps its buffers alive.
const KEPT_LISTS: u64 = 256;

/// A slice of a buffer.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    buffer: Buffer,
    offset: u64,
    size: u64,
}

struct Kept {
    group: BindGroup,
    /// The list that used it last.
    used: u64,
}

/// Bind groups by kernel and buffers.
#[derive(Default)]
pub(super) struct Groups {
    known: HashMap<(&'static str, Vec<Place>), Kept>,
    /// Lists so far.
    lists: u64,
}

impl Groups {
    /// For the launches of the next list.
    pub(super) fn next<'a>(
        &'a mut self,
        device: &'a wgpu::Device,
        server: &'a mut WgpuServer,
    ) -> ListGroups<'a> {
        self.lists += 1;
        if self.lists.is_multiple_of(KEPT_LISTS) {
            // They keep buffers alive: those of a model that is gone must go too.
            let lists = self.lists;
            self.known.retain(|_, kept| lists - kept.used < KEPT_LISTS);
        }
        ListGroups { groups: self, device, server, found: HashMap::new() }
    }
}

/// What tells bindings of a list apart: memory, and where they begin and end in it.
type Key = (usize, Option<u64>, Option<u64>);

/// The bind groups of one list's launches.
pub(super) struct ListGroups<'a> {
    groups: &'a mut Groups,
    device: &'a wgpu::Device,
    server: &'a mut WgpuServer,
    /// The list holds its bindings, so that their addresses are nobody else's meanwhile.
    found: HashMap<Key, Place>,
}

impl ListGroups<'_> {
    fn place(&mut self, binding: &Binding) -> Result<Place, String> {
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

    /// That of a launch of this list.
    pub(super) fn of(&mut self, launch: &Listed) -> Result<&BindGroup, String> {
        let places: Result<Vec<_>, String> =
            launch.buffers.iter().map(|binding| self.place(binding)).collect();
        let device = self.device;
        let make = |(_, places): &(&'static str, Vec<Place>)| {
            let entries: Vec<_> =
                (0..).zip(places).map(|(binding, place)| entry(binding, place)).collect();
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &launch.pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            tracing::trace!(kernel = launch.name, "a new bind group");
            Kept { group, used: 0 }
        };
        let kept = self.groups.known.entry((launch.name, places?)).or_insert_with_key(make);
        kept.used = self.groups.lists;
        Ok(&kept.group)
    }
}

/// The address of what all handles and bindings of a piece of memory share: CubeCL knows them apart by
/// it, but shows it to nobody.
fn address<M>(memory: &M) -> usize {
    const { assert!(size_of::<M>() == size_of::<usize>()) };
    // SAFETY: it is of the same size, and its one field is an `Arc`, which is a pointer. That is only
    // compared.
    unsafe { std::mem::transmute_copy(memory) }
}

fn entry(binding: u32, place: &Place) -> wgpu::BindGroupEntry<'_> {
    wgpu::BindGroupEntry {
        binding,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &place.buffer,
            offset: place.offset,
            size: std::num::NonZeroU64::new(place.size),
        }),
    }
}
