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
struct type_4 {
    float inner[256];
};
constant uint WORKGROUP_SIZE_X = 256u;
constant uint WORKGROUP_SIZE_Y = 1u;
constant uint WORKGROUP_SIZE_Z = 1u;
uint naga_div(uint lhs, uint rhs) {
    return lhs / metal::select(rhs, 1u, rhs == 0u);
}


struct reduce_sumInput {
};
kernel void reduce_sum(
  metal::uint3 global_id [[thread_position_in_grid]]
, uint local_idx [[thread_index_in_threadgroup]]
, metal::uint3 num_workgroups [[threadgroups_per_grid]]
, metal::uint3 workgroup_id [[threadgroup_position_in_grid]]
, device type_1 const& buffer_0_global [[buffer(0)]]
, device type_1& buffer_1_global [[buffer(1)]]
, device info_st const& info [[buffer(2)]]
, threadgroup type_4& shared_memory_0_
, constant _mslBufferSizes& _buffer_sizes [[buffer(3)]]
) {
    uint l_mut_6_ = {};
    float l_mut_1_ = {};
    uint workgroup_id_no_axis = (((static_cast<uint>(num_workgroups.y) * static_cast<uint>(num_workgroups.x)) * static_cast<uint>(workgroup_id.z)) + (static_cast<uint>(num_workgroups.x) * static_cast<uint>(workgroup_id.y))) + static_cast<uint>(workgroup_id.x);
    uint id = (((((static_cast<uint>(global_id.z) * static_cast<uint>(num_workgroups.x)) * 256u) * static_cast<uint>(num_workgroups.y)) * 1u) + ((static_cast<uint>(global_id.y) * static_cast<uint>(num_workgroups.x)) * 256u)) + static_cast<uint>(global_id.x);
    l_mut_1_ = 0.0;
    uint l_2_ = info.static_meta.inner[2];
    bool l_3_ = id < l_2_;
    if (l_3_) {
        uint l_16_ = info.static_meta.inner[0];
        uint l_17_ = l_16_ * 1u;
        bool l_18_ = id < l_17_;
        uint l_19_ = l_17_ - 1u;
        uint l_20_ = metal::min(id, l_19_);
        float l_21_ = buffer_0_global[l_20_];
        float l_4_ = l_18_ ? l_21_ : 0.0;
        l_mut_1_ = l_4_;
    }
    float _e69 = l_mut_1_;
    shared_memory_0_.inner[local_idx] = _e69;
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    l_mut_6_ = 128u;
    while(true) {
        uint _e71 = l_mut_6_;
        bool l_7_ = _e71 > 0u;
        bool l_8_ = !(l_7_);
        if (l_8_) {
            break;
        }
        uint _e75 = l_mut_6_;
        bool l_9_ = local_idx < _e75;
        if (l_9_) {
            uint _e77 = l_mut_6_;
            uint l_10_ = local_idx + _e77;
            float l_11_ = shared_memory_0_.inner[l_10_];
            float l_12_ = shared_memory_0_.inner[local_idx];
            float l_13_ = l_12_ + l_11_;
            shared_memory_0_.inner[local_idx] = l_13_;
        }
        metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        uint _e88 = l_mut_6_;
        l_mut_6_ = naga_div(_e88, 2u);
    }
    bool l_14_ = local_idx == 0u;
    if (l_14_) {
        float l_15_ = shared_memory_0_.inner[0];
        uint l_23_ = info.static_meta.inner[1];
        uint l_24_ = l_23_ * 1u;
        bool l_25_ = workgroup_id_no_axis < l_24_;
        if (l_25_) {
            buffer_1_global[workgroup_id_no_axis] = l_15_;
            return;
        } else {
            return;
        }
    } else {
        return;
    }
}
