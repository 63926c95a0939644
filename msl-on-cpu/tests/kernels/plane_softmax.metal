
#include <metal_stdlib>
using namespace metal;

struct info_st {
    uint static_meta[4];
};

[[kernel]]
void plane_softmax(
    const device float * buffer_0 [[buffer(0)]],
    device float * buffer_1 [[buffer(1)]],
    constant info_st& info [[buffer(2)]],
    uint3 thread_pos_in_grid [[thread_position_in_grid]],
    uint3 threads_per_threadgroup [[threads_per_threadgroup]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]],
    uint simd_size [[threads_per_simdgroup]]
) {
uint thread_index_in_grid = (
                thread_pos_in_grid.z * threadgroups_per_grid.x * threads_per_threadgroup.x * threadgroups_per_grid.y * threads_per_threadgroup.y)
                + (thread_pos_in_grid.y * threadgroups_per_grid.x * threads_per_threadgroup.x)
                + thread_pos_in_grid.x;
uint threads_per_simdgroup_checked = min(simd_size, threads_per_threadgroup.x * threads_per_threadgroup.y * threads_per_threadgroup.z);
const uint l_6 = info.static_meta[uint(0)];
const uint l_7 = l_6 * uint(1);
const bool l_8 = thread_index_in_grid < l_7;
const uint l_9 = l_7 - uint(1);
const uint l_10 = min(thread_index_in_grid, l_9);
const float l_11 = buffer_0[l_10];
const float l_12 = (l_8) ? l_11 : float(0.0);
const float l_0 = l_12;
const float l_1 = float {simd_max(l_0)
};
const float l_2 = l_0 - l_1;
const float l_3 = exp(l_2);
const float l_4 = float {simd_sum(l_3)
};
const float l_5 = l_3 / l_4;
const uint l_13 = info.static_meta[uint(1)];
const uint l_14 = l_13 * uint(1);
const bool l_15 = thread_index_in_grid < l_14;
if (l_15) {
buffer_1[thread_index_in_grid] = l_5;
}

}