// language: metal2.4
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size0;
    uint size1;
};

typedef float type_1[1];
struct type_3 {
    uint inner[4];
};
struct info_st {
    type_3 static_meta;
};
constant uint WORKGROUP_SIZE_X = 64u;
constant uint WORKGROUP_SIZE_Y = 1u;
constant uint WORKGROUP_SIZE_Z = 1u;

struct plane_softmaxInput {
};
kernel void plane_softmax(
  metal::uint3 global_id [[thread_position_in_grid]]
, metal::uint3 num_workgroups [[threadgroups_per_grid]]
, device type_1 const& buffer_0_global [[buffer(0)]]
, device type_1& buffer_1_global [[buffer(1)]]
, device info_st const& info [[buffer(2)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(3)]]
) {
    uint id = (((((static_cast<uint>(global_id.z) * static_cast<uint>(num_workgroups.x)) * 64u) * static_cast<uint>(num_workgroups.y)) * 1u) + ((static_cast<uint>(global_id.y) * static_cast<uint>(num_workgroups.x)) * 64u)) + static_cast<uint>(global_id.x);
    uint l_6_ = info.static_meta.inner[0];
    uint l_7_ = l_6_ * 1u;
    bool l_8_ = id < l_7_;
    uint l_9_ = l_7_ - 1u;
    uint l_10_ = metal::min(id, l_9_);
    float l_11_ = buffer_0_global[l_10_];
    float l_0_ = l_8_ ? l_11_ : 0.0;
    float unnamed = metal::simd_max(l_0_);
    float l_2_ = l_0_ - unnamed;
    float l_3_ = metal::exp(l_2_);
    float unnamed_1 = metal::simd_sum(l_3_);
    float l_5_ = l_3_ / unnamed_1;
    uint l_13_ = info.static_meta.inner[1];
    uint l_14_ = l_13_ * 1u;
    bool l_15_ = id < l_14_;
    if (l_15_) {
        buffer_1_global[id] = l_5_;
        return;
    } else {
        return;
    }
}
