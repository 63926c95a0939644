// Barriers, SIMD-group and quad-group functions, and 8x8 SIMD-group matrices.
//
// The lanes post their values; when all of them have, one combines them for all.
#pragma once
#include "integer.h"

extern "C" {
void msl_barrier(uint32_t flags, uint32_t site);
void msl_simd_barrier(uint32_t flags, uint32_t site);
void* msl_simd_slot();
void msl_simd(int (*combine)(void*, uint64_t, uint32_t), uint32_t whole, uint32_t site);
uint32_t msl_lane();
}

// The exchange happens in the runtime's own memory, where there is nothing to check.
#define MSL_UNCHECKED __attribute__((noinline, no_sanitize("thread", "undefined")))
// Where in the text a thread waits: the barrier sites of a threadgroup must agree.
#define MSL_SITE uint line = __builtin_LINE(), uint column = __builtin_COLUMN()
#define MSL_HERE (line << 10 | (column & 1023))

namespace msl {

constexpr int SLOT_BYTES = 64, MAX_WIDTH = 64;

template <class T>
struct Lanes {
    unsigned char* slots;
    uint64_t active;
    uint32_t width;
    bool has(uint32_t lane) const { return lane < width && (active >> lane & 1); }
    T& operator[](uint32_t lane) const { return *reinterpret_cast<T*>(slots + lane * SLOT_BYTES); }
};

// `F::apply(lanes)` combines in place and returns -1, or (lane << 8 | source) for a lane that would
// read the value of an inactive one.
template <class F, class T>
struct Exchange {
    MSL_UNCHECKED static int combine(void* slots, uint64_t active, uint32_t width) {
        return F::apply(Lanes<T>{static_cast<unsigned char*>(slots), active, width});
    }
    MSL_UNCHECKED static T run(T value, uint32_t site, bool whole = false) {
        static_assert(sizeof(T) <= SLOT_BYTES);
        T* slot = static_cast<T*>(msl_simd_slot());
        *slot = value;
        msl_simd(&combine, whole, site);
        return *slot;
    }
};

// Folds the active lanes of each part of `PART` lanes (0: all) in ascending order.
template <class T, class Op, uint32_t PART>
struct Fold {
    MSL_UNCHECKED static int apply(Lanes<T> lanes) {
        uint32_t part = PART == 0 ? lanes.width : PART;
        for (uint32_t low = 0; low < lanes.width; low += part) {
            bool any = false;
            T total{};
            for (uint32_t i = low; i < low + part; i++)
                if (lanes.has(i)) {
                    total = any ? T(Op::of(total, lanes[i])) : lanes[i];
                    any = true;
                }
            for (uint32_t i = low; i < low + part; i++)
                if (lanes.has(i)) lanes[i] = total;
        }
        return -1;
    }
};
template <class T, class Op, bool INCLUSIVE>
struct Scan {
    MSL_UNCHECKED static int apply(Lanes<T> lanes) {
        T total = T(Op::identity);
        for (uint32_t i = 0; i < lanes.width; i++)
            if (lanes.has(i)) {
                T next = Op::of(total, lanes[i]);
                lanes[i] = INCLUSIVE ? next : total;
                total = next;
            }
        return -1;
    }
};
struct Sum {
    static constexpr int identity = 0;
    template <class T>
    static T of(T a, T b) { return a + b; }
};
struct Product {
    static constexpr int identity = 1;
    template <class T>
    static T of(T a, T b) { return a * b; }
};
struct Max {
    template <class T>
    static T of(T a, T b) { return metal::max(a, b); }
};
struct Min {
    template <class T>
    static T of(T a, T b) { return metal::min(a, b); }
};
struct And {
    template <class T>
    static T of(T a, T b) { return a & b; }
};
struct Or {
    template <class T>
    static T of(T a, T b) { return a | b; }
};
struct Xor {
    template <class T>
    static T of(T a, T b) { return a ^ b; }
};

// A lane takes the value of lane `source`; KEEP: its own where there is no such lane, else that is
// undefined and a fault.
template <class T>
struct Pick {
    T value;
    int source;
};
template <class T, bool KEEP>
struct Move {
    MSL_UNCHECKED static int apply(Lanes<Pick<T>> lanes) {
        T values[MAX_WIDTH];
        for (uint32_t i = 0; i < lanes.width; i++)
            if (lanes.has(i)) values[i] = lanes[i].value;
        for (uint32_t i = 0; i < lanes.width; i++) {
            if (!lanes.has(i)) continue;
            int source = lanes[i].source;
            bool inside = source >= 0 && source < int(lanes.width);
            if (KEEP && !inside) continue;
            if (!inside || !lanes.has(source)) return i << 8 | (source & 255);
            lanes[i].value = values[source];
        }
        return -1;
    }
};
template <bool KEEP, class T>
inline T move(T value, int source, uint32_t site) {
    return Exchange<Move<T, KEEP>, Pick<T>>::run({value, source}, site).value;
}

}  // namespace msl

namespace metal {

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

inline void threadgroup_barrier(mem_flags flags, MSL_SITE) { msl_barrier(uint32_t(flags), MSL_HERE); }
inline void simdgroup_barrier(mem_flags flags, MSL_SITE) { msl_simd_barrier(uint32_t(flags), MSL_HERE); }

#define MSL_FOLD(NAME, OP, KIND)                                           \
    template <msl::KIND T>                                                 \
    inline T simd_##NAME(T v, MSL_SITE) {                                  \
        return msl::Exchange<msl::Fold<T, msl::OP, 0>, T>::run(v, MSL_HERE); \
    }                                                                      \
    template <msl::KIND T>                                                 \
    inline T quad_##NAME(T v, MSL_SITE) {                                  \
        return msl::Exchange<msl::Fold<T, msl::OP, 4>, T>::run(v, MSL_HERE); \
    }
#define MSL_FOLD_NUMBERS(NAME, OP) MSL_FOLD(NAME, OP, Floating) MSL_FOLD(NAME, OP, Integral)
MSL_FOLD_NUMBERS(sum, Sum)
MSL_FOLD_NUMBERS(product, Product)
MSL_FOLD_NUMBERS(max, Max)
MSL_FOLD_NUMBERS(min, Min)
MSL_FOLD(and, And, Integral)
MSL_FOLD(or, Or, Integral)
MSL_FOLD(xor, Xor, Integral)
#undef MSL_FOLD_NUMBERS
#undef MSL_FOLD

#define MSL_SCAN(NAME, OP, INCLUSIVE)                                              \
    template <class T>                                                             \
    inline T NAME(T v, MSL_SITE) {                                                 \
        return msl::Exchange<msl::Scan<T, msl::OP, INCLUSIVE>, T>::run(v, MSL_HERE); \
    }
MSL_SCAN(simd_prefix_inclusive_sum, Sum, true)
MSL_SCAN(simd_prefix_exclusive_sum, Sum, false)
MSL_SCAN(simd_prefix_inclusive_product, Product, true)
MSL_SCAN(simd_prefix_exclusive_product, Product, false)
#undef MSL_SCAN

#define MSL_MOVE(NAME, KEEP, SOURCE)                        \
    template <class T>                                      \
    inline T NAME(T v, ushort n, MSL_SITE) {                \
        [[maybe_unused]] int lane = msl_lane(), quad = lane & ~3; \
        return msl::move<KEEP>(v, SOURCE, MSL_HERE);        \
    }
MSL_MOVE(simd_shuffle, false, n)
MSL_MOVE(simd_broadcast, false, n)
MSL_MOVE(simd_shuffle_xor, false, lane ^ n)
MSL_MOVE(simd_shuffle_up, true, lane - n)
MSL_MOVE(simd_shuffle_down, true, lane + n)
MSL_MOVE(quad_shuffle, false, quad + (n & 3))
MSL_MOVE(quad_broadcast, false, quad + (n & 3))
MSL_MOVE(quad_shuffle_xor, false, quad + ((lane ^ n) & 3))
// The ends of a quad keep their own values, as those of a SIMD-group do.
MSL_MOVE(quad_shuffle_up, true, (lane & 3) < n ? lane : lane - n)
MSL_MOVE(quad_shuffle_down, true, (lane & 3) + n > 3 ? lane : lane + n)
#undef MSL_MOVE

struct simd_vote {
    typedef uint64_t vote_t;
    uint64_t votes, active;
    explicit operator vote_t() const { return votes; }
    bool all() const { return votes == active; }
    bool any() const { return votes != 0; }
};
}  // namespace metal

namespace msl {
struct Ballot {
    MSL_UNCHECKED static int apply(Lanes<metal::simd_vote> lanes) {
        uint64_t votes = 0;
        for (uint32_t i = 0; i < lanes.width; i++)
            if (lanes.has(i) && lanes[i].votes) votes |= 1ull << i;
        for (uint32_t i = 0; i < lanes.width; i++)
            if (lanes.has(i)) lanes[i] = {votes, lanes.active};
        return -1;
    }
};
}  // namespace msl

namespace metal {
inline simd_vote simd_ballot(bool b, MSL_SITE) {
    return msl::Exchange<msl::Ballot, simd_vote>::run({b, 0}, MSL_HERE);
}
inline simd_vote simd_active_threads_mask(MSL_SITE) { return simd_ballot(true, line, column); }
inline bool simd_all(bool b, MSL_SITE) { return simd_ballot(b, line, column).all(); }
inline bool simd_any(bool b, MSL_SITE) { return simd_ballot(b, line, column).any(); }
inline bool simd_is_first(MSL_SITE) {
    return uint32_t(__builtin_ctzll(simd_ballot(true, line, column).active)) == msl_lane();
}
template <class T>
inline T simd_broadcast_first(T v, MSL_SITE) {
    uint32_t first = __builtin_ctzll(simd_ballot(true, line, column).active);
    return msl::move<false>(v, first, MSL_HERE);
}
}  // namespace metal
