
#include <metal_stdlib>
using namespace metal;

struct info_st {
    float scalars_float[2];
uint scalars_uint[2];uint static_meta[8];
};

[[kernel]]
void flash_attn(
    const device float * buffer_0 [[buffer(0)]],
    const device float * buffer_1 [[buffer(1)]],
    const device float * buffer_2 [[buffer(2)]],
    device float * buffer_3 [[buffer(3)]],
    constant info_st& info [[buffer(4)]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 thread_pos_in_threadgroup [[thread_position_in_threadgroup]],
    uint3 threadgroup_pos_in_grid [[threadgroup_position_in_grid]]
) {
threadgroup uchar dynamic_shared_mem[16384];
// Shared array size: 2048, 8192 bytes
threadgroup float* shared_memory_1 = reinterpret_cast<threadgroup float*>(&dynamic_shared_mem[0]);
// Shared array size: 2048, 8192 bytes
threadgroup float* shared_memory_0 = reinterpret_cast<threadgroup float*>(&dynamic_shared_mem[8192]);
float l_arr_2[64];

float l_arr_3[64];

float l_arr_4[32];

float l_mut_15;
float l_mut_16;
float l_mut_30;
float l_mut_32;
uint l_mut_23;
const uint l_5 = threadgroup_pos_in_grid.x * uint(64);
const uint l_6 = l_5 + thread_index_in_threadgroup;
const uint l_7 = threadgroups_per_grid.x * uint(64);
const uint l_8 = threadgroup_pos_in_grid.y * l_7;
const uint l_9 = l_8 + l_6;
const uint l_10 = l_9 * uint(64);

for (uint l_mut_11 = uint(0); l_mut_11 < uint(64); ++l_mut_11) {
const uint l_12 = l_10 + l_mut_11;
const uint l_65 = info.static_meta[uint(0)];
const uint l_66 = l_65 * uint(1);
const bool l_67 = l_12 < l_66;
const uint l_68 = l_66 - uint(1);
const uint l_69 = min(l_12, l_68);
const float l_70 = buffer_0[l_69];
const float l_71 = (l_67) ? l_70 : float(0.0);
const float l_13 = l_71;
const float l_14 = l_13 * info.scalars_float[0];
l_arr_2[l_mut_11] = l_14;
l_arr_3[l_mut_11] = float(0.0);
}
l_mut_15 = float(-1.0000000150474662e30);
l_mut_16 = float(0.0);
const uint l_17 = info.scalars_uint[1] / uint(32);

for (uint l_mut_18 = uint(0); l_mut_18 < l_17; ++l_mut_18) {
const uint l_19 = threadgroup_pos_in_grid.y * info.scalars_uint[1];
const uint l_20 = l_mut_18 * uint(32);
const uint l_21 = l_19 + l_20;
const uint l_22 = l_21 * uint(64);
l_mut_23 = thread_index_in_threadgroup;
while (true) {
const bool l_24 = l_mut_23 < uint(2048);
const bool l_25 = !l_24;
if (l_25) {
break;}
const uint l_26 = l_22 + l_mut_23;
const uint l_72 = info.static_meta[uint(1)];
const uint l_73 = l_72 * uint(1);
const bool l_74 = l_26 < l_73;
const uint l_75 = l_73 - uint(1);
const uint l_76 = min(l_26, l_75);
const float l_77 = buffer_1[l_76];
const float l_78 = (l_74) ? l_77 : float(0.0);
const float l_27 = l_78;
shared_memory_0[l_mut_23] = l_27;
const uint l_28 = l_22 + l_mut_23;
const uint l_79 = info.static_meta[uint(2)];
const uint l_80 = l_79 * uint(1);
const bool l_81 = l_28 < l_80;
const uint l_82 = l_80 - uint(1);
const uint l_83 = min(l_28, l_82);
const float l_84 = buffer_2[l_83];
const float l_85 = (l_81) ? l_84 : float(0.0);
const float l_29 = l_85;
shared_memory_1[l_mut_23] = l_29;
l_mut_23 = l_mut_23 + uint(64);
}
threadgroup_barrier(mem_flags::mem_threadgroup);
l_mut_30 = l_mut_15;

for (uint l_mut_31 = uint(0); l_mut_31 < uint(32); ++l_mut_31) {
l_mut_32 = float(0.0);

for (uint l_mut_33 = uint(0); l_mut_33 < uint(64); ++l_mut_33) {
const float l_34 = l_arr_2[l_mut_33];
const uint l_35 = l_mut_31 * uint(64);
const uint l_36 = l_35 + l_mut_33;
const float l_37 = shared_memory_0[l_36];
const float l_38 = l_34 * l_37;
l_mut_32 = l_mut_32 + l_38;
}
const bool l_39 = info.scalars_uint[0] == uint(1);
const uint l_40 = l_mut_18 * uint(32);
const uint l_41 = l_40 + l_mut_31;
const bool l_42 = l_41 > l_6;
const bool l_43 = l_39 && l_42;
if (l_43) {
l_mut_32 = float(-1.0000000150474662e30);
}
l_arr_4[l_mut_31] = l_mut_32;
const float l_44 = max(l_mut_30, l_mut_32);
l_mut_30 = l_44;
}
const float l_45 = l_mut_15 - l_mut_30;
const float l_46 = exp(l_45);
l_mut_16 = l_mut_16 * l_46;

for (uint l_mut_47 = uint(0); l_mut_47 < uint(64); ++l_mut_47) {
const float l_48 = l_arr_3[l_mut_47];
const float l_49 = l_48 * l_46;
l_arr_3[l_mut_47] = l_49;
}

for (uint l_mut_50 = uint(0); l_mut_50 < uint(32); ++l_mut_50) {
const float l_51 = l_arr_4[l_mut_50];
const float l_52 = l_51 - l_mut_30;
const float l_53 = exp(l_52);
l_mut_16 = l_mut_16 + l_53;

for (uint l_mut_54 = uint(0); l_mut_54 < uint(64); ++l_mut_54) {
const uint l_55 = l_mut_50 * uint(64);
const uint l_56 = l_55 + l_mut_54;
const float l_57 = shared_memory_1[l_56];
const float l_58 = l_53 * l_57;
const float l_59 = l_arr_3[l_mut_54];
const float l_60 = l_59 + l_58;
l_arr_3[l_mut_54] = l_60;
}
}
l_mut_15 = l_mut_30;
threadgroup_barrier(mem_flags::mem_threadgroup);
}

for (uint l_mut_61 = uint(0); l_mut_61 < uint(64); ++l_mut_61) {
const uint l_62 = l_10 + l_mut_61;
const float l_63 = l_arr_3[l_mut_61];
const float l_64 = l_63 / l_mut_16;
const uint l_86 = info.static_meta[uint(3)];
const uint l_87 = l_86 * uint(1);
const bool l_88 = l_62 < l_87;
if (l_88) {
buffer_3[l_62] = l_64;
}
}

}