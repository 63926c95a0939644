
#include <metal_stdlib>
using namespace metal;

struct info_st {
    uint static_meta[4];
};

[[kernel]]
void atomic_hist(
    const device uint * buffer_0 [[buffer(0)]],
    device atomic_uint * buffer_1 [[buffer(1)]],
    constant info_st& info [[buffer(2)]],
    uint3 thread_pos_in_grid [[thread_position_in_grid]],
    uint3 threads_per_threadgroup [[threads_per_threadgroup]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 thread_pos_in_threadgroup [[thread_position_in_threadgroup]]
) {
uint thread_index_in_grid = (
                thread_pos_in_grid.z * threadgroups_per_grid.x * threads_per_threadgroup.x * threadgroups_per_grid.y * threads_per_threadgroup.y)
                + (thread_pos_in_grid.y * threadgroups_per_grid.x * threads_per_threadgroup.x)
                + thread_pos_in_grid.x;
threadgroup uchar dynamic_shared_mem[64];
// Shared array size: 16, 64 bytes
threadgroup atomic_uint* shared_memory_0 = reinterpret_cast<threadgroup atomic_uint*>(&dynamic_shared_mem[0]);
const bool l_1 = thread_index_in_threadgroup < uint(16);
if (l_1) {
threadgroup atomic_uint* l_2 = &shared_memory_0[thread_index_in_threadgroup];
atomic_store_explicit(l_2, uint(0), memory_order_relaxed);
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint l_3 = info.static_meta[uint(2)];
const bool l_4 = thread_index_in_grid < l_3;
if (l_4) {
const uint l_14 = info.static_meta[uint(0)];
const uint l_15 = l_14 * uint(1);
const bool l_16 = thread_index_in_grid < l_15;
const uint l_17 = l_15 - uint(1);
const uint l_18 = min(thread_index_in_grid, l_17);
const uint l_19 = buffer_0[l_18];
const uint l_20 = (l_16) ? l_19 : uint(0);
const uint l_5 = l_20;
const uint l_6 = l_5 % uint(16);
threadgroup atomic_uint* l_7 = &shared_memory_0[l_6];
const uint l_8 = atomic_fetch_add_explicit(l_7, uint(1), memory_order_relaxed);
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const bool l_9 = thread_index_in_threadgroup < uint(16);
if (l_9) {
threadgroup atomic_uint* l_10 = &shared_memory_0[thread_index_in_threadgroup];
const uint l_11 = atomic_load_explicit(l_10, memory_order_relaxed);
const uint l_21 = info.static_meta[uint(1)];
const uint l_22 = l_21 * uint(1);
const uint l_23 = l_22 - uint(1);
const uint l_24 = min(thread_index_in_threadgroup, l_23);
device atomic_uint* l_25 = &buffer_1[l_24];
atomic_uint* l_12 = l_25;
const uint l_13 = atomic_fetch_add_explicit(l_12, l_11, memory_order_relaxed);
}

}