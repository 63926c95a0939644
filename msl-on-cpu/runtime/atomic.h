// Atomic functions. A launch runs on one thread of the CPU, so that plain operations are atomic;
// the runtime is told of each, since atomics race with other accesses only.
#pragma once
#include "simd.h"

extern "C" void msl_atomic(const volatile void* p, uint64_t size, uint32_t writes);

namespace metal {

enum memory_order { memory_order_relaxed };

template <class T>
struct atomic {
    T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
using atomic_bool = atomic<bool>;
using atomic_ulong = atomic<ulong>;

template <class T>
using msl_plain = std::type_identity_t<T>;

template <class T>
MSL_UNCHECKED T atomic_load_explicit(const volatile atomic<T>* p, memory_order) {
    msl_atomic(p, sizeof(T), 0);
    return p->value;
}
template <class T>
MSL_UNCHECKED void atomic_store_explicit(volatile atomic<T>* p, msl_plain<T> v, memory_order) {
    msl_atomic(p, sizeof(T), 1);
    p->value = v;
}
template <class T>
MSL_UNCHECKED bool atomic_compare_exchange_weak_explicit(volatile atomic<T>* p, T* expected, msl_plain<T> v,
                                                         memory_order, memory_order) {
    msl_atomic(p, sizeof(T), 1);
    T found = p->value;
    if (__builtin_memcmp(&found, expected, sizeof(T)) == 0) {
        p->value = v;
        return true;
    }
    *expected = found;
    return false;
}

#define MSL_ATOMIC(NAME, EXPRESSION)                                                    \
    template <class T>                                                                  \
    MSL_UNCHECKED T atomic_##NAME##_explicit(volatile atomic<T>* p, msl_plain<T> y, memory_order) { \
        msl_atomic(p, sizeof(T), 1);                                                    \
        T x = p->value;                                                                 \
        p->value = EXPRESSION;                                                          \
        return x;                                                                       \
    }
MSL_ATOMIC(exchange, y)
MSL_ATOMIC(fetch_add, x + y)
MSL_ATOMIC(fetch_sub, x - y)
MSL_ATOMIC(fetch_max, x < y ? y : x)
MSL_ATOMIC(fetch_min, y < x ? y : x)
MSL_ATOMIC(fetch_and, x & y)
MSL_ATOMIC(fetch_or, x | y)
MSL_ATOMIC(fetch_xor, x ^ y)
#undef MSL_ATOMIC

}  // namespace metal
