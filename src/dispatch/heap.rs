//! How much memory a GPU has left, as Vulkan says. wgpu does not.

use ash::vk::{self, MemoryHeapFlags, PhysicalDeviceType};
use wgpu::hal::api::Vulkan;

/// One heap: what a process can have of it (its size, where the driver does not say more), and has.
#[derive(Clone, Copy)]
struct Heap {
    is_local: bool,
    budget: u64,
    used: u64,
}

/// What a model can have: of memory of its own the largest heap of a GPU; all heaps of one that shares
/// its memory with the host, and may call a part of it its own.
fn left(heaps: &[Heap], is_discrete: bool) -> u64 {
    let left = |heap: &Heap| heap.budget.saturating_sub(heap.used);
    if is_discrete {
        heaps.iter().filter(|heap| heap.is_local).map(left).max().unwrap_or(0)
    } else {
        heaps.iter().map(left).sum()
    }
}

/// Bytes that this process can still have on a device; `None` where it is not one of Vulkan.
pub(super) fn bytes_left(device: &wgpu::Device) -> Option<u64> {
    // Of `VK_EXT_memory_budget`: a driver that does not know it leaves zeros.
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut memory = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
    // SAFETY: the device is alive, and only asked.
    let kind = unsafe {
        let device = device.as_hal::<Vulkan>()?;
        let instance = device.shared_instance().raw_instance();
        let physical = device.raw_physical_device();
        instance.get_physical_device_memory_properties2(physical, &mut memory);
        instance.get_physical_device_properties(physical).device_type
    };
    let memory = memory.memory_properties;
    let heap = |i: usize| {
        let vk::MemoryHeap { size, flags } = memory.memory_heaps[i];
        let (most, used) = (budget.heap_budget[i], budget.heap_usage[i]);
        let is_local = flags.contains(MemoryHeapFlags::DEVICE_LOCAL);
        Heap { is_local, budget: if most == 0 { size } else { most }, used }
    };
    let heaps: Vec<_> = (0..memory.memory_heap_count as usize).map(heap).collect();
    Some(left(&heaps, kind == PhysicalDeviceType::DISCRETE_GPU))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::wgpu::ShaderLanguage,
        dispatch::queue,
        testing::{INSTALL_A_DRIVER, open_wgpu},
    };

    #[test]
    fn what_is_used_is_not_left() {
        let heap = |is_local, budget, used| Heap { is_local, budget, used };
        let heaps = [heap(true, 24, 4), heap(false, 64, 1), heap(true, 1, 0)];
        assert_eq!(left(&heaps, true), 20);
        assert_eq!(left(&heaps, false), 84);
        assert_eq!(left(&[heap(true, 3, 5)], true), 0);
    }

    #[test]
    fn a_device_of_vulkan_says_it() {
        let opened = open_wgpu(ShaderLanguage::SpirV);
        let (device, _) = opened.unwrap_or_else(|error| panic!("{error}\n{INSTALL_A_DRIVER}"));
        let queue = queue::of(&device).expect("this crate opened it");
        let left = bytes_left(&queue.device).expect("it is one of Vulkan");
        assert!(left > 1 << 20, "{left}");
    }
}
