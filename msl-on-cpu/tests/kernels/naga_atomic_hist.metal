// language: metal2.4
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size0;
    uint size1;
};

typedef uint type_1[1];
typedef metal::atomic_uint type_3[1];
struct type_4 {
    uint inner[4];
};
struct info_st {
    type_4 static_meta;
};
struct type_5 {
    metal::atomic_uint inner[16];
};
constant uint WORKGROUP_SIZE_X = 64u;
constant uint WORKGROUP_SIZE_Y = 1u;
constant uint WORKGROUP_SIZE_Z = 1u;
uint naga_mod(uint lhs, uint rhs) {
    return lhs % metal::select(rhs, 1u, rhs == 0u);
}


struct atomic_histInput {
};
kernel void atomic_hist(
  metal::uint3 global_id [[thread_position_in_grid]]
, uint local_idx [[thread_index_in_threadgroup]]
, metal::uint3 num_workgroups [[threadgroups_per_grid]]
, device type_1 const& buffer_0_global [[buffer(0)]]
, device type_3& buffer_1_global [[buffer(1)]]
, device info_st const& info [[buffer(2)]]
, threadgroup type_5& shared_memory_0_
, constant _mslBufferSizes& _buffer_sizes [[buffer(3)]]
) {
    uint id = (((((static_cast<uint>(global_id.z) * static_cast<uint>(num_workgroups.x)) * 64u) * static_cast<uint>(num_workgroups.y)) * 1u) + ((static_cast<uint>(global_id.y) * static_cast<uint>(num_workgroups.x)) * 64u)) + static_cast<uint>(global_id.x);
    bool l_1_ = local_idx < 16u;
    if (l_1_) {
        metal::atomic_store_explicit(&shared_memory_0_.inner[local_idx], 0u, metal::memory_order_relaxed);
    }
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    uint l_3_ = info.static_meta.inner[2];
    bool l_4_ = id < l_3_;
    if (l_4_) {
        uint l_14_ = info.static_meta.inner[0];
        uint l_15_ = l_14_ * 1u;
        bool l_16_ = id < l_15_;
        uint l_17_ = l_15_ - 1u;
        uint l_18_ = metal::min(id, l_17_);
        uint l_19_ = buffer_0_global[l_18_];
        uint l_5_ = l_16_ ? l_19_ : 0u;
        uint l_6_ = naga_mod(l_5_, 16u);
        uint _e56 = metal::atomic_fetch_add_explicit(&shared_memory_0_.inner[l_6_], 1u, metal::memory_order_relaxed);
    }
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    bool l_9_ = local_idx < 16u;
    if (l_9_) {
        uint l_11_ = metal::atomic_load_explicit(&shared_memory_0_.inner[local_idx], metal::memory_order_relaxed);
        uint l_21_ = info.static_meta.inner[1];
        uint l_22_ = l_21_ * 1u;
        uint l_23_ = l_22_ - 1u;
        uint l_24_ = metal::min(local_idx, l_23_);
        uint _e73 = metal::atomic_fetch_add_explicit(&buffer_1_global[l_24_], l_11_, metal::memory_order_relaxed);
        return;
    } else {
        return;
    }
}
