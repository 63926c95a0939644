
#include <metal_stdlib>
using namespace metal;

struct alignas(16) float_4 {
    float i_0;
    float i_1;
    float i_2;
    float i_3;
};

struct info_st {
    uint static_meta[8];
};

/// Metal has a weird numerical behaviour with tanh for inputs over 43.0
inline float safe_tanh_scalar(float x) {
    if (x > 43.0) {
        return 1.0;
    } else {
        return tanh(x);
    }
}
inline float safe_tanh(float x) {
    return safe_tanh_scalar(x);
}

// Abramowitz and Stegun approximation for erf(x)
inline float erf(float x) {
    const float a1 =  0.254829592f;
    const float a2 = -0.284496736f;
    const float a3 =  1.421413741f;
    const float a4 = -1.453152027f;
    const float a5 =  1.061405429f;
    const float p  =  0.3275911f;
    float sign = (x >= 0.0f) ? 1.0f : -1.0f;
    x = fabs(x);
    float t = 1.0f / (1.0f + p * x);
    float y = 1.0f - (((((a5 * t + a4) * t) + a3) * t + a2) * t + a1) * t * exp(-x * x);
    return sign * y;
}

[[kernel]]
void vector_mix(
    const device float_4 * buffer_0 [[buffer(0)]],
    const device half * buffer_1 [[buffer(1)]],
    device float_4 * buffer_2 [[buffer(2)]],
    device atomic_float * buffer_3 [[buffer(3)]],
    constant info_st& info [[buffer(4)]],
    uint3 thread_pos_in_grid [[thread_position_in_grid]],
    uint3 threads_per_threadgroup [[threads_per_threadgroup]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]],
    uint simd_lane_id [[thread_index_in_simdgroup]],
    uint simd_size [[threads_per_simdgroup]]
) {
uint thread_index_in_grid = (
                thread_pos_in_grid.z * threadgroups_per_grid.x * threads_per_threadgroup.x * threadgroups_per_grid.y * threads_per_threadgroup.y)
                + (thread_pos_in_grid.y * threadgroups_per_grid.x * threads_per_threadgroup.x)
                + thread_pos_in_grid.x;
uint threads_per_simdgroup_checked = min(simd_size, threads_per_threadgroup.x * threads_per_threadgroup.y * threads_per_threadgroup.z);
const uint l_0 = info.static_meta[uint(6)];
const bool l_1 = thread_index_in_grid < l_0;
if (l_1) {
const uint l_29 = info.static_meta[uint(0)];
const uint l_30 = l_29 * uint(1);
const bool l_31 = thread_index_in_grid < l_30;
const uint l_32 = l_30 - uint(1);
const uint l_33 = min(thread_index_in_grid, l_32);
const float_4 l_34 = buffer_0[l_33];
const float_4 l_35 = float_4{
float(0.0),float(0.0),float(0.0),float(0.0),};
const float_4 l_36 = float_4 {
(l_31) ? l_34.i_0 : l_35.i_0,
(l_31) ? l_34.i_1 : l_35.i_1,
(l_31) ? l_34.i_2 : l_35.i_2,
(l_31) ? l_34.i_3 : l_35.i_3,
};
const float_4 l_2 = l_36;
const uint l_37 = info.static_meta[uint(1)];
const uint l_38 = l_37 * uint(1);
const bool l_39 = thread_index_in_grid < l_38;
const uint l_40 = l_38 - uint(1);
const uint l_41 = min(thread_index_in_grid, l_40);
const half l_42 = buffer_1[l_41];
const half l_43 = (l_39) ? l_42 : half(0.0);
const half l_3 = l_43;
const float l_4 = float(l_3);
const float_4 l_5 = float_4{
l_4,l_4,l_4,l_4,};
const float_4 l_6 = float_4{
l_2.i_0 * l_5.i_0, l_2.i_1 * l_5.i_1, l_2.i_2 * l_5.i_2, l_2.i_3 * l_5.i_3, };
const float_4 l_7 = float_4{
float(1.0),float(1.0),float(1.0),float(1.0),};
const float_4 l_8 = float_4{
l_6.i_0 + l_7.i_0, l_6.i_1 + l_7.i_1, l_6.i_2 + l_7.i_2, l_6.i_3 + l_7.i_3, };
const float_4 l_9 = float_4{
exp(l_8.i_0),exp(l_8.i_1),exp(l_8.i_2),exp(l_8.i_3),};
const uint l_44 = info.static_meta[uint(2)];
const uint l_45 = l_44 * uint(1);
const bool l_46 = thread_index_in_grid < l_45;
if (l_46) {
buffer_2[thread_index_in_grid] = reinterpret_cast<thread float_4 const&>(l_9);
}
}
const uint l_22 = info.static_meta[uint(1)];
const uint l_23 = l_22 * uint(1);
const bool l_24 = thread_index_in_grid < l_23;
const uint l_25 = l_23 - uint(1);
const uint l_26 = min(thread_index_in_grid, l_25);
const half l_27 = buffer_1[l_26];
const half l_28 = (l_24) ? l_27 : half(0.0);
const half l_10 = l_28;
const float l_11 = float(l_10);
const float l_12 = { simd_shuffle_xor(l_11, uint(1)) };
const float l_13 = { simd_shuffle(l_11, uint(3)) };
const float l_14 = l_12 + l_13;
const float l_15 = safe_tanh_scalar(l_14);
const float l_16 = erf(l_11);
const float l_17 = l_15 + l_16;
const float l_18 = float {simd_sum(l_17)
};
const bool l_19 = simd_lane_id == uint(0);
if (l_19) {
const uint l_47 = info.static_meta[uint(3)];
const uint l_48 = l_47 * uint(1);
const uint l_49 = l_48 - uint(1);
const uint l_50 = min(uint(0), l_49);
device atomic_float* l_51 = &buffer_3[l_50];
atomic_float* l_20 = l_51;
const float l_21 = atomic_fetch_add_explicit(l_20, l_18, memory_order_relaxed);
}

}