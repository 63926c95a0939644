
#include <metal_stdlib>
using namespace metal;

struct info_st {
    uint static_meta[4];
};

[[kernel]]
void reduce_sum(
    const device float * buffer_0 [[buffer(0)]],
    device float * buffer_1 [[buffer(1)]],
    constant info_st& info [[buffer(2)]],
    uint3 thread_pos_in_grid [[thread_position_in_grid]],
    uint3 threads_per_threadgroup [[threads_per_threadgroup]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 thread_pos_in_threadgroup [[thread_position_in_threadgroup]],
    uint3 threadgroup_pos_in_grid [[threadgroup_position_in_grid]]
) {
uint thread_index_in_grid = (
                thread_pos_in_grid.z * threadgroups_per_grid.x * threads_per_threadgroup.x * threadgroups_per_grid.y * threads_per_threadgroup.y)
                + (thread_pos_in_grid.y * threadgroups_per_grid.x * threads_per_threadgroup.x)
                + thread_pos_in_grid.x;
uint threadgroup_index_in_grid = (threadgroup_pos_in_grid.z * threadgroups_per_grid.y * threadgroups_per_grid.x) + (threadgroup_pos_in_grid.y * threadgroups_per_grid.x) + threadgroup_pos_in_grid.x;
threadgroup uchar dynamic_shared_mem[1024];
// Shared array size: 256, 1024 bytes
threadgroup float* shared_memory_0 = reinterpret_cast<threadgroup float*>(&dynamic_shared_mem[0]);
uint l_mut_6;
float l_mut_1;
l_mut_1 = float(0.0);
const uint l_2 = info.static_meta[uint(2)];
const bool l_3 = thread_index_in_grid < l_2;
if (l_3) {
const uint l_16 = info.static_meta[uint(0)];
const uint l_17 = l_16 * uint(1);
const bool l_18 = thread_index_in_grid < l_17;
const uint l_19 = l_17 - uint(1);
const uint l_20 = min(thread_index_in_grid, l_19);
const float l_21 = buffer_0[l_20];
const float l_22 = (l_18) ? l_21 : float(0.0);
const float l_4 = l_22;
l_mut_1 = l_4;
}
shared_memory_0[thread_index_in_threadgroup] = l_mut_1;
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint l_5 = uint(256) / uint(2);
l_mut_6 = l_5;
while (true) {
const bool l_7 = l_mut_6 > uint(0);
const bool l_8 = !l_7;
if (l_8) {
break;}
const bool l_9 = thread_index_in_threadgroup < l_mut_6;
if (l_9) {
const uint l_10 = thread_index_in_threadgroup + l_mut_6;
const float l_11 = shared_memory_0[l_10];
const float l_12 = shared_memory_0[thread_index_in_threadgroup];
const float l_13 = l_12 + l_11;
shared_memory_0[thread_index_in_threadgroup] = l_13;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
l_mut_6 = l_mut_6 / uint(2);
}
const bool l_14 = thread_index_in_threadgroup == uint(0);
if (l_14) {
const float l_15 = shared_memory_0[uint(0)];
const uint l_23 = info.static_meta[uint(1)];
const uint l_24 = l_23 * uint(1);
const bool l_25 = threadgroup_index_in_grid < l_24;
if (l_25) {
buffer_1[threadgroup_index_in_grid] = l_15;
}
}

}