
#include <metal_stdlib>
using namespace metal;

struct info_st {
    uint static_meta[2];
};

[[kernel]]
void device_pass(
    device float * buffer_0 [[buffer(0)]],
    constant info_st& info [[buffer(1)]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 thread_pos_in_threadgroup [[thread_position_in_threadgroup]]
) {
const float l_0 = float(thread_index_in_threadgroup);
const uint l_4 = info.static_meta[uint(0)];
const uint l_5 = l_4 * uint(1);
const bool l_6 = thread_index_in_threadgroup < l_5;
if (l_6) {
buffer_0[thread_index_in_threadgroup] = l_0;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint l_1 = thread_index_in_threadgroup + uint(64);
const uint l_2 = uint(63) - thread_index_in_threadgroup;
const uint l_7 = info.static_meta[uint(0)];
const uint l_8 = l_7 * uint(1);
const bool l_9 = l_2 < l_8;
const uint l_10 = l_8 - uint(1);
const uint l_11 = min(l_2, l_10);
const float l_12 = buffer_0[l_11];
const float l_13 = (l_9) ? l_12 : float(0.0);
const float l_3 = l_13;
const uint l_14 = info.static_meta[uint(0)];
const uint l_15 = l_14 * uint(1);
const bool l_16 = l_1 < l_15;
if (l_16) {
buffer_0[l_1] = l_3;
}

}