//! Memory of the host's that a list's own commands copy from and to, on Vulkan.
//!
//! wgpu copies by command buffers of its own, which takes an H200 11.5 µs each; within a list's it is 3 to 4.
//! And wgpu knows nothing of such copies, so that its own mapping of buffers cannot wait for them. This
//! memory stays mapped: whoever uses it has to know when the device is done with it.

use std::{ptr::NonNull, sync::Arc};

use wgpu::{
    BufferUses,
    hal::{self, Device as _, api::Vulkan, vulkan},
};

/// Which way bytes go.
#[derive(Clone, Copy)]
pub(in crate::dispatch) enum Way {
    ToDevice,
    ToHost,
}

/// A piece of it.
pub(in crate::dispatch) struct Mapped {
    device: wgpu::Device,
    buffer: Option<vulkan::Buffer>,
    start: NonNull<u8>,
    bytes: usize,
    is_coherent: bool,
}

// SAFETY: the memory is as good from every thread, and `start` is only used by `write`, which nobody else has
// a borrow beside, and by `read`.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapped").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Mapped {
    /// So many bytes, which hold nothing of interest.
    pub(in crate::dispatch) fn new(
        device: &wgpu::Device,
        bytes: usize,
        way: Way,
    ) -> Result<Self, String> {
        let usage = match way {
            Way::ToDevice => BufferUses::MAP_WRITE | BufferUses::COPY_SRC,
            Way::ToHost => BufferUses::MAP_READ | BufferUses::COPY_DST,
        };
        let size = bytes as u64;
        let memory_flags = hal::MemoryFlags::empty();
        let descriptor = hal::BufferDescriptor { label: None, size, usage, memory_flags };
        // SAFETY: the device is alive, and its buffers for the host are mapped as long as they live.
        unsafe {
            let raw = device.as_hal::<Vulkan>().ok_or("the device is gone")?;
            let buffer = raw.create_buffer(&descriptor).map_err(|error| error.to_string())?;
            let mapping = match raw.map_buffer(&buffer, 0..size) {
                Ok(mapping) => mapping,
                Err(error) => {
                    raw.destroy_buffer(buffer);
                    return Err(error.to_string());
                }
            };
            let hal::BufferMapping { ptr: start, is_coherent } = mapping;
            // Memory that was others' is shown to nobody.
            start.write_bytes(0, bytes);
            drop(raw);
            let made =
                Self { device: device.clone(), buffer: Some(buffer), start, bytes, is_coherent };
            made.flush();
            Ok(made)
        }
    }

    pub(in crate::dispatch) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn buffer(&self) -> Option<&vulkan::Buffer> {
        self.buffer.as_ref()
    }

    /// Fills the beginning, for commands that are submitted later; the device must not be reading it.
    fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.bytes, "{} bytes into {}", bytes.len(), self.bytes);
        // SAFETY: so many bytes are mapped, and nobody else has them.
        unsafe { self.start.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        self.flush();
    }

    fn flush(&self) {
        self.make_visible(|device, buffer, all| {
            // SAFETY: the buffer is the device's own, and mapped.
            unsafe { device.flush_mapped_ranges(buffer, all) }
        });
    }

    /// What the device has left there; it must be done.
    pub(in crate::dispatch) fn read(&self) -> &[u8] {
        self.make_visible(|device, buffer, all| {
            // SAFETY: the buffer is the device's own, and mapped.
            unsafe { device.invalidate_mapped_ranges(buffer, all) }
        });
        // SAFETY: so many bytes are mapped and initialised, and nobody writes to them any more.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    fn make_visible(
        &self,
        how: impl FnOnce(&vulkan::Device, &vulkan::Buffer, std::iter::Once<hal::MemoryRange>),
    ) {
        if self.is_coherent {
            return;
        }
        // SAFETY: the device made the buffer.
        if let (Some(device), Some(buffer)) =
            (unsafe { self.device.as_hal::<Vulkan>() }, &self.buffer)
        {
            how(&device, buffer, std::iter::once(0..self.bytes as u64));
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it is the device that made it, and done with it.
        unsafe {
            if let (Some(device), Some(buffer)) =
                (self.device.as_hal::<Vulkan>(), self.buffer.take())
            {
                device.destroy_buffer(buffer);
            }
        }
    }
}

/// Pieces of one size for what goes to the device, which are filled again when nobody holds them.
#[derive(Default)]
pub(super) struct Outbox(Vec<Arc<Mapped>>);

impl Outbox {
    /// One with these bytes, to be held until the device has copied them.
    pub(super) fn take(
        &mut self,
        device: &wgpu::Device,
        bytes: &[u8],
        most: usize,
    ) -> Result<Arc<Mapped>, String> {
        let free = self.0.iter_mut().find_map(|piece| {
            Arc::get_mut(piece)?.write(bytes);
            Some(piece.clone())
        });
        if let Some(free) = free {
            return Ok(free);
        }
        let mut made = Mapped::new(device, most, Way::ToDevice)?;
        made.write(bytes);
        self.0.push(Arc::new(made));
        Ok(self.0.last().expect("it was added just now").clone())
    }
}
