
#include <metal_stdlib>
using namespace metal;

struct info_st {
    uint scalars_uint[2];uint static_meta[6];
};

[[kernel]]
void cmma_tiled(
    const device half * buffer_0 [[buffer(0)]],
    const device half * buffer_1 [[buffer(1)]],
    device float * buffer_2 [[buffer(2)]],
    constant info_st& info [[buffer(3)]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 thread_pos_in_threadgroup [[thread_position_in_threadgroup]],
    uint simd_lane_id [[thread_index_in_simdgroup]],
    uint simd_size [[threads_per_simdgroup]],
    uint simd_group_id [[simdgroup_index_in_threadgroup]]
) {
threadgroup uchar dynamic_shared_mem[512];
// Shared array size: 64, 256 bytes
threadgroup float* shared_memory_2 = reinterpret_cast<threadgroup float*>(&dynamic_shared_mem[256]);
// Shared array size: 64, 128 bytes
threadgroup half* shared_memory_0 = reinterpret_cast<threadgroup half*>(&dynamic_shared_mem[128]);
// Shared array size: 64, 128 bytes
threadgroup half* shared_memory_1 = reinterpret_cast<threadgroup half*>(&dynamic_shared_mem[0]);
simdgroup_float8x8 frag_acc_3;
uint l_mut_4;
uint l_mut_7;
frag_acc_3 = make_filled_simdgroup_matrix<float, 8, 8>(float(0.0));
l_mut_4 = uint(0);
while (true) {
simdgroup_half8x8 frag_a_24;
simdgroup_half8x8 frag_b_27;
const bool l_5 = l_mut_4 < info.scalars_uint[0];
const bool l_6 = !l_5;
if (l_6) {
break;}
l_mut_7 = thread_index_in_threadgroup;
while (true) {
const bool l_8 = l_mut_7 < uint(64);
const bool l_9 = !l_8;
if (l_9) {
break;}
const uint l_10 = l_mut_7 / uint(8);
const uint l_11 = l_10 * info.scalars_uint[0];
const uint l_12 = l_11 + l_mut_4;
const uint l_13 = l_mut_7 % uint(8);
const uint l_14 = l_12 + l_13;
const uint l_34 = info.static_meta[uint(0)];
const uint l_35 = l_34 * uint(1);
const bool l_36 = l_14 < l_35;
const uint l_37 = l_35 - uint(1);
const uint l_38 = min(l_14, l_37);
const half l_39 = buffer_0[l_38];
const half l_40 = (l_36) ? l_39 : half(0.0);
const half l_15 = l_40;
shared_memory_0[l_mut_7] = l_15;
const uint l_16 = l_mut_7 / uint(8);
const uint l_17 = l_mut_4 + l_16;
const uint l_18 = l_17 * uint(8);
const uint l_19 = l_mut_7 % uint(8);
const uint l_20 = l_18 + l_19;
const uint l_41 = info.static_meta[uint(1)];
const uint l_42 = l_41 * uint(1);
const bool l_43 = l_20 < l_42;
const uint l_44 = l_42 - uint(1);
const uint l_45 = min(l_20, l_44);
const half l_46 = buffer_1[l_45];
const half l_47 = (l_43) ? l_46 : half(0.0);
const half l_21 = l_47;
shared_memory_1[l_mut_7] = l_21;
l_mut_7 = l_mut_7 + uint(32);
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint l_22 = 64;
const uint l_23 = l_22 - uint(0);
simdgroup_load(frag_a_24, shared_memory_0 + uint(0), uint(8), 0, false);
const uint l_25 = 64;
const uint l_26 = l_25 - uint(0);
simdgroup_load(frag_b_27, shared_memory_1 + uint(0), uint(8), 0, false);
simdgroup_multiply_accumulate(frag_acc_3, frag_a_24, frag_b_27, frag_acc_3);
threadgroup_barrier(mem_flags::mem_threadgroup);
l_mut_4 = l_mut_4 + uint(8);
}
const uint l_28 = 64;
const uint l_29 = l_28 - uint(0);
simdgroup_store(frag_acc_3, shared_memory_2 + uint(0), uint(8));
simdgroup_barrier(mem_flags::mem_none);
threadgroup_barrier(mem_flags::mem_threadgroup);
l_mut_7 = thread_index_in_threadgroup;
while (true) {
const bool l_30 = l_mut_7 < uint(64);
const bool l_31 = !l_30;
if (l_31) {
break;}
const float l_32 = shared_memory_2[l_mut_7];
const float l_33 = l_32 * float(2.0);
const uint l_48 = info.static_meta[uint(2)];
const uint l_49 = l_48 * uint(1);
const bool l_50 = l_mut_7 < l_49;
if (l_50) {
buffer_2[l_mut_7] = l_33;
}
l_mut_7 = l_mut_7 + uint(32);
}

}