
#include <metal_stdlib>
using namespace metal;

struct info_st {
    uint static_meta[6];
};

[[kernel]]
void cmma_cast(
    const device half * buffer_0 [[buffer(0)]],
    const device half * buffer_1 [[buffer(1)]],
    device half * buffer_2 [[buffer(2)]],
    constant info_st& info [[buffer(3)]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 thread_pos_in_threadgroup [[thread_position_in_threadgroup]],
    uint simd_lane_id [[thread_index_in_simdgroup]],
    uint simd_size [[threads_per_simdgroup]],
    uint simd_group_id [[simdgroup_index_in_threadgroup]]
) {
simdgroup_half8x8 frag_a_2;
simdgroup_half8x8 frag_b_5;
simdgroup_float8x8 frag_acc_6;
simdgroup_half8x8 frag_acc_7;
const uint l_0 = info.static_meta[uint(3)];
const uint l_1 = l_0 - uint(0);
simdgroup_load(frag_a_2, buffer_0 + uint(0), uint(8), 0, false);
const uint l_3 = info.static_meta[uint(4)];
const uint l_4 = l_3 - uint(0);
simdgroup_load(frag_b_5, buffer_1 + uint(0), uint(8), 0, false);
frag_acc_6 = make_filled_simdgroup_matrix<float, 8, 8>(float(0.0));
simdgroup_multiply_accumulate(frag_acc_6, frag_a_2, frag_b_5, frag_acc_6);
simdgroup_barrier(mem_flags::mem_none);
for(int e=0; e<8; e++) {
    frag_acc_7.thread_elements()[e] = half(frag_acc_6.thread_elements()[e]);
}
const uint l_8 = info.static_meta[uint(5)];
const uint l_9 = l_8 - uint(0);
simdgroup_store(frag_acc_7, buffer_2 + uint(0), uint(8));
simdgroup_barrier(mem_flags::mem_none);

}