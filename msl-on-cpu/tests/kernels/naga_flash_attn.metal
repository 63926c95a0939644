// language: metal2.4
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size0;
    uint size1;
    uint size2;
    uint size3;
};

typedef float type_1[1];
struct type_2 {
    float inner[2];
};
struct type_4 {
    uint inner[2];
};
struct type_5 {
    uint inner[8];
};
struct info_st {
    type_2 scalars_f32_;
    type_4 scalars_u32_;
    type_5 static_meta;
};
struct type_6 {
    float inner[2048];
};
struct type_8 {
    float inner[64];
};
struct type_9 {
    float inner[32];
};
constant uint WORKGROUP_SIZE_X = 64u;
constant uint WORKGROUP_SIZE_Y = 1u;
constant uint WORKGROUP_SIZE_Z = 1u;
uint naga_div(uint lhs, uint rhs) {
    return lhs / metal::select(rhs, 1u, rhs == 0u);
}


struct flash_attnInput {
};
kernel void flash_attn(
  uint local_idx [[thread_index_in_threadgroup]]
, metal::uint3 num_workgroups [[threadgroups_per_grid]]
, metal::uint3 workgroup_id [[threadgroup_position_in_grid]]
, device type_1 const& buffer_0_global [[buffer(0)]]
, device type_1 const& buffer_1_global [[buffer(1)]]
, device type_1 const& buffer_2_global [[buffer(2)]]
, device type_1& buffer_3_global [[buffer(3)]]
, device info_st const& info [[buffer(4)]]
, threadgroup type_6& shared_memory_0_
, threadgroup type_6& shared_memory_1_
, constant _mslBufferSizes& _buffer_sizes [[buffer(5)]]
) {
    type_8 a_2_ = {};
    type_8 a_3_ = {};
    type_9 a_4_ = {};
    float l_mut_15_ = {};
    float l_mut_16_ = {};
    float l_mut_30_ = {};
    float l_mut_32_ = {};
    uint l_mut_23_ = {};
    uint l_mut_11_ = 0u;
    uint l_mut_18_ = 0u;
    uint l_mut_31_ = {};
    uint l_mut_33_ = {};
    bool local = {};
    uint l_mut_47_ = {};
    uint l_mut_50_ = {};
    uint l_mut_54_ = {};
    uint l_mut_61_ = 0u;
    uint l_5_ = workgroup_id.x * 64u;
    uint l_6_ = l_5_ + local_idx;
    uint l_7_ = num_workgroups.x * 64u;
    uint l_8_ = workgroup_id.y * l_7_;
    uint l_9_ = l_8_ + l_6_;
    uint l_10_ = l_9_ * 64u;
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e56 = l_mut_11_;
            l_mut_11_ = _e56 + 1u;
        }
        loop_init = false;
        uint _e25 = l_mut_11_;
        if (_e25 < 64u) {
        } else {
            break;
        }
        {
            uint _e28 = l_mut_11_;
            uint l_12_ = l_10_ + _e28;
            uint l_65_ = info.static_meta.inner[0];
            uint l_66_ = l_65_ * 1u;
            bool l_67_ = l_12_ < l_66_;
            uint l_68_ = l_66_ - 1u;
            uint l_69_ = metal::min(l_12_, l_68_);
            float l_70_ = buffer_0_global[l_69_];
            float l_13_ = l_67_ ? l_70_ : 0.0;
            float _e48 = info.scalars_f32_.inner[0];
            float l_14_ = l_13_ * _e48;
            uint _e50 = l_mut_11_;
            a_2_.inner[_e50] = l_14_;
            uint _e52 = l_mut_11_;
            a_3_.inner[_e52] = 0.0;
        }
    }
    l_mut_15_ = -1000000000000000000000000000000.0;
    l_mut_16_ = 0.0;
    uint _e63 = info.scalars_u32_.inner[1];
    uint l_17_ = naga_div(_e63, 32u);
    bool loop_init_1 = true;
    while(true) {
        if (!loop_init_1) {
            uint _e245 = l_mut_18_;
            l_mut_18_ = _e245 + 1u;
        }
        loop_init_1 = false;
        uint _e68 = l_mut_18_;
        if (_e68 < l_17_) {
        } else {
            break;
        }
        {
            uint _e74 = info.scalars_u32_.inner[1];
            uint l_19_ = workgroup_id.y * _e74;
            uint _e76 = l_mut_18_;
            uint l_20_ = _e76 * 32u;
            uint l_21_ = l_19_ + l_20_;
            uint l_22_ = l_21_ * 64u;
            l_mut_23_ = local_idx;
            while(true) {
                uint _e82 = l_mut_23_;
                bool l_24_ = _e82 < 2048u;
                bool l_25_ = !(l_24_);
                if (l_25_) {
                    break;
                }
                uint _e86 = l_mut_23_;
                uint l_26_ = l_22_ + _e86;
                uint l_72_ = info.static_meta.inner[1];
                uint l_73_ = l_72_ * 1u;
                bool l_74_ = l_26_ < l_73_;
                uint l_75_ = l_73_ - 1u;
                uint l_76_ = metal::min(l_26_, l_75_);
                float l_77_ = buffer_1_global[l_76_];
                float l_27_ = l_74_ ? l_77_ : 0.0;
                uint _e104 = l_mut_23_;
                shared_memory_0_.inner[_e104] = l_27_;
                uint _e106 = l_mut_23_;
                uint l_28_ = l_22_ + _e106;
                uint l_79_ = info.static_meta.inner[2];
                uint l_80_ = l_79_ * 1u;
                bool l_81_ = l_28_ < l_80_;
                uint l_82_ = l_80_ - 1u;
                uint l_83_ = metal::min(l_28_, l_82_);
                float l_84_ = buffer_2_global[l_83_];
                float l_29_ = l_81_ ? l_84_ : 0.0;
                uint _e124 = l_mut_23_;
                shared_memory_1_.inner[_e124] = l_29_;
                uint _e126 = l_mut_23_;
                l_mut_23_ = _e126 + 64u;
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
            float _e129 = l_mut_15_;
            l_mut_30_ = _e129;
            l_mut_31_ = 0u;
            bool loop_init_2 = true;
            while(true) {
                if (!loop_init_2) {
                    uint _e182 = l_mut_31_;
                    l_mut_31_ = _e182 + 1u;
                }
                loop_init_2 = false;
                uint _e132 = l_mut_31_;
                if (_e132 < 32u) {
                } else {
                    break;
                }
                {
                    l_mut_32_ = 0.0;
                    l_mut_33_ = 0u;
                    bool loop_init_3 = true;
                    while(true) {
                        if (!loop_init_3) {
                            uint _e156 = l_mut_33_;
                            l_mut_33_ = _e156 + 1u;
                        }
                        loop_init_3 = false;
                        uint _e138 = l_mut_33_;
                        if (_e138 < 64u) {
                        } else {
                            break;
                        }
                        {
                            uint _e141 = l_mut_33_;
                            float l_34_ = a_2_.inner[_e141];
                            uint _e144 = l_mut_31_;
                            uint l_35_ = _e144 * 64u;
                            uint _e147 = l_mut_33_;
                            uint l_36_ = l_35_ + _e147;
                            float l_37_ = shared_memory_0_.inner[l_36_];
                            float l_38_ = l_34_ * l_37_;
                            float _e153 = l_mut_32_;
                            l_mut_32_ = _e153 + l_38_;
                        }
                    }
                    uint _e161 = info.scalars_u32_.inner[0];
                    bool l_39_ = _e161 == 1u;
                    uint _e164 = l_mut_18_;
                    uint l_40_ = _e164 * 32u;
                    uint _e167 = l_mut_31_;
                    uint l_41_ = l_40_ + _e167;
                    bool l_42_ = l_41_ > l_6_;
                    if (l_39_) {
                        local = l_42_;
                    } else {
                        local = false;
                    }
                    bool l_43_ = local;
                    if (l_43_) {
                        l_mut_32_ = -1000000000000000000000000000000.0;
                    }
                    uint _e175 = l_mut_31_;
                    float _e177 = l_mut_32_;
                    a_4_.inner[_e175] = _e177;
                    float _e178 = l_mut_30_;
                    float _e179 = l_mut_32_;
                    float l_44_ = metal::max(_e178, _e179);
                    l_mut_30_ = l_44_;
                }
            }
            float _e184 = l_mut_15_;
            float _e185 = l_mut_30_;
            float l_45_ = _e184 - _e185;
            float l_46_ = metal::exp(l_45_);
            float _e188 = l_mut_16_;
            l_mut_16_ = _e188 * l_46_;
            l_mut_47_ = 0u;
            bool loop_init_4 = true;
            while(true) {
                if (!loop_init_4) {
                    uint _e202 = l_mut_47_;
                    l_mut_47_ = _e202 + 1u;
                }
                loop_init_4 = false;
                uint _e192 = l_mut_47_;
                if (_e192 < 64u) {
                } else {
                    break;
                }
                {
                    uint _e195 = l_mut_47_;
                    float l_48_ = a_3_.inner[_e195];
                    float l_49_ = l_48_ * l_46_;
                    uint _e199 = l_mut_47_;
                    a_3_.inner[_e199] = l_49_;
                }
            }
            l_mut_50_ = 0u;
            bool loop_init_5 = true;
            while(true) {
                if (!loop_init_5) {
                    uint _e241 = l_mut_50_;
                    l_mut_50_ = _e241 + 1u;
                }
                loop_init_5 = false;
                uint _e206 = l_mut_50_;
                if (_e206 < 32u) {
                } else {
                    break;
                }
                {
                    uint _e209 = l_mut_50_;
                    float l_51_ = a_4_.inner[_e209];
                    float _e212 = l_mut_30_;
                    float l_52_ = l_51_ - _e212;
                    float l_53_ = metal::exp(l_52_);
                    float _e215 = l_mut_16_;
                    l_mut_16_ = _e215 + l_53_;
                    l_mut_54_ = 0u;
                    bool loop_init_6 = true;
                    while(true) {
                        if (!loop_init_6) {
                            uint _e238 = l_mut_54_;
                            l_mut_54_ = _e238 + 1u;
                        }
                        loop_init_6 = false;
                        uint _e219 = l_mut_54_;
                        if (_e219 < 64u) {
                        } else {
                            break;
                        }
                        {
                            uint _e222 = l_mut_50_;
                            uint l_55_ = _e222 * 64u;
                            uint _e225 = l_mut_54_;
                            uint l_56_ = l_55_ + _e225;
                            float l_57_ = shared_memory_1_.inner[l_56_];
                            float l_58_ = l_53_ * l_57_;
                            uint _e231 = l_mut_54_;
                            float l_59_ = a_3_.inner[_e231];
                            float l_60_ = l_59_ + l_58_;
                            uint _e235 = l_mut_54_;
                            a_3_.inner[_e235] = l_60_;
                        }
                    }
                }
            }
            float _e243 = l_mut_30_;
            l_mut_15_ = _e243;
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        }
    }
    bool loop_init_7 = true;
    while(true) {
        if (!loop_init_7) {
            uint _e269 = l_mut_61_;
            l_mut_61_ = _e269 + 1u;
        }
        loop_init_7 = false;
        uint _e249 = l_mut_61_;
        if (_e249 < 64u) {
        } else {
            break;
        }
        {
            uint _e252 = l_mut_61_;
            uint l_62_ = l_10_ + _e252;
            uint _e254 = l_mut_61_;
            float l_63_ = a_3_.inner[_e254];
            float _e257 = l_mut_16_;
            float l_64_ = l_63_ / _e257;
            uint l_86_ = info.static_meta.inner[3];
            uint l_87_ = l_86_ * 1u;
            bool l_88_ = l_62_ < l_87_;
            if (l_88_) {
                buffer_3_global[l_62_] = l_64_;
            }
        }
    }
    return;
}
