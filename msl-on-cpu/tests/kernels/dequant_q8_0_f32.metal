#include <metal_stdlib>
using namespace metal;

struct info_st {
    uint scalars_uint[2];uint static_meta[4];
};

[[kernel]]
void dequant_q8_0_f32(
    const device uint * buffer_0 [[buffer(0)]],
    device float * buffer_1 [[buffer(1)]],
    constant info_st& info [[buffer(2)]],
    uint3 thread_pos_in_grid [[thread_position_in_grid]],
    uint3 threads_per_threadgroup [[threads_per_threadgroup]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]]
) {
uint thread_index_in_grid = (
                thread_pos_in_grid.z * threadgroups_per_grid.x * threads_per_threadgroup.x * threadgroups_per_grid.y * threads_per_threadgroup.y)
                + (thread_pos_in_grid.y * threadgroups_per_grid.x * threads_per_threadgroup.x)
                + thread_pos_in_grid.x;
const uint l_0 = thread_index_in_grid / uint(8);
const uint l_1 = thread_index_in_grid % uint(8);
const bool l_2 = l_0 < info.scalars_uint[0];
if (l_2) {
const uint l_3 = l_0 * uint(34);
const uint l_4 = l_3 / uint(4);
const uint l_5 = buffer_0[l_4];
const uint l_6 = l_3 % uint(4);
const uint l_7 = l_6 * uint(8);
const uint l_8 = l_5 >> l_7;
const uint l_9 = l_8 & uint(255);
const uint l_10 = l_3 + uint(1);
const uint l_11 = l_10 / uint(4);
const uint l_12 = buffer_0[l_11];
const uint l_13 = l_10 % uint(4);
const uint l_14 = l_13 * uint(8);
const uint l_15 = l_12 >> l_14;
const uint l_16 = l_15 & uint(255);
const uint l_17 = l_16 << uint(8);
const uint l_18 = l_9 | l_17;
const uint l_19 = l_18 >> uint(10);
const uint l_20 = l_19 & uint(31);
const uint l_21 = l_18 & uint(1023);
const uint l_22 = l_20 + uint(112);
const uint l_23 = l_22 << uint(23);
const uint l_24 = l_21 << uint(13);
const uint l_25 = l_23 | l_24;
const float l_26 = reinterpret_cast<thread float const&>(l_25);
const float l_27 = float(l_21);
const float l_28 = l_27 * float(5.960464477539063e-8);
const bool l_29 = l_20 == uint(0);
const float l_30 = (l_29) ? l_28 : l_26;
const uint l_31 = l_18 & uint(32768);
const bool l_32 = l_31 != uint(0);
const float l_33 = -l_30;
const float l_34 = (l_32) ? l_33 : l_30;
const uint l_35 = l_1 * uint(4);
const uint l_36 = l_35 + uint(0);
const uint l_37 = l_3 + uint(2);
const uint l_38 = l_37 + l_36;
const uint l_39 = l_38 / uint(4);
const uint l_40 = buffer_0[l_39];
const uint l_41 = l_38 % uint(4);
const uint l_42 = l_41 * uint(8);
const uint l_43 = l_40 >> l_42;
const uint l_44 = l_43 & uint(255);
const uint l_45 = l_44 ^ uint(128);
const int l_46 = int(l_45);
const int l_47 = l_46 - int(128);
const float l_48 = float(l_47);
const uint l_49 = l_0 * uint(32);
const uint l_50 = l_49 + l_36;
const float l_51 = l_48 * l_34;
buffer_1[l_50] = l_51;
const uint l_52 = l_1 * uint(4);
const uint l_53 = l_52 + uint(1);
const uint l_54 = l_3 + uint(2);
const uint l_55 = l_54 + l_53;
const uint l_56 = l_55 / uint(4);
const uint l_57 = buffer_0[l_56];
const uint l_58 = l_55 % uint(4);
const uint l_59 = l_58 * uint(8);
const uint l_60 = l_57 >> l_59;
const uint l_61 = l_60 & uint(255);
const uint l_62 = l_61 ^ uint(128);
const int l_63 = int(l_62);
const int l_64 = l_63 - int(128);
const float l_65 = float(l_64);
const uint l_66 = l_0 * uint(32);
const uint l_67 = l_66 + l_53;
const float l_68 = l_65 * l_34;
buffer_1[l_67] = l_68;
const uint l_69 = l_1 * uint(4);
const uint l_70 = l_69 + uint(2);
const uint l_71 = l_3 + uint(2);
const uint l_72 = l_71 + l_70;
const uint l_73 = l_72 / uint(4);
const uint l_74 = buffer_0[l_73];
const uint l_75 = l_72 % uint(4);
const uint l_76 = l_75 * uint(8);
const uint l_77 = l_74 >> l_76;
const uint l_78 = l_77 & uint(255);
const uint l_79 = l_78 ^ uint(128);
const int l_80 = int(l_79);
const int l_81 = l_80 - int(128);
const float l_82 = float(l_81);
const uint l_83 = l_0 * uint(32);
const uint l_84 = l_83 + l_70;
const float l_85 = l_82 * l_34;
buffer_1[l_84] = l_85;
const uint l_86 = l_1 * uint(4);
const uint l_87 = l_86 + uint(3);
const uint l_88 = l_3 + uint(2);
const uint l_89 = l_88 + l_87;
const uint l_90 = l_89 / uint(4);
const uint l_91 = buffer_0[l_90];
const uint l_92 = l_89 % uint(4);
const uint l_93 = l_92 * uint(8);
const uint l_94 = l_91 >> l_93;
const uint l_95 = l_94 & uint(255);
const uint l_96 = l_95 ^ uint(128);
const int l_97 = int(l_96);
const int l_98 = l_97 - int(128);
const float l_99 = float(l_98);
const uint l_100 = l_0 * uint(32);
const uint l_101 = l_100 + l_87;
const float l_102 = l_99 * l_34;
buffer_1[l_101] = l_102;
}

}
