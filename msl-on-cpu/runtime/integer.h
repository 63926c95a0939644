// Integer functions, on scalars and element by element on vectors.
#pragma once
#include "maths.h"

namespace msl {

template <class T>
using unsigned_of = std::make_unsigned_t<element_of<T>>;
template <class E>
constexpr uint bits = 8 * sizeof(E);

}  // namespace msl

namespace metal {

#define MSL_INTEGER1(NAME, EXPRESSION)                                \
    template <msl::Integral T>                                        \
    inline T NAME(T value) {                                          \
        using E = msl::element_of<T>;                                 \
        using U = msl::unsigned_of<T>;                                \
        constexpr uint width = msl::bits<E>;                          \
        return msl::each(value, [](E e) -> E {                        \
            U x = static_cast<U>(e);                                  \
            return static_cast<E>(EXPRESSION);                        \
        });                                                           \
    }
#define MSL_INTEGER2(NAME, EXPRESSION)                                \
    template <msl::Integral A, msl::Integral B>                       \
        requires msl::Alike<A, B>                                     \
    inline msl::wider<A, B> NAME(A a, B b) {                          \
        using E = msl::element_of<A>;                                 \
        using U = msl::unsigned_of<A>;                                \
        [[maybe_unused]] constexpr uint width = msl::bits<E>;         \
        return msl::each_of<msl::wider<A, B>>([](E x, E y) -> E { return static_cast<E>(EXPRESSION); }, a, b); \
    }

MSL_INTEGER1(popcount, __builtin_popcountll(x))
MSL_INTEGER1(clz, x == 0 ? width : __builtin_clzll(x) - (64 - width))
MSL_INTEGER1(ctz, x == 0 ? width : __builtin_ctzll(x))
MSL_INTEGER1(reverse_bits, [&] {
    U r = 0;
    for (uint i = 0; i < width; i++) r |= U((x >> i) & 1) << (width - 1 - i);
    return r;
}())

MSL_INTEGER2(absdiff, x < y ? U(y) - U(x) : U(x) - U(y))
MSL_INTEGER2(mulhi, ((__int128)x * (__int128)y) >> width)
MSL_INTEGER2(hadd, ((__int128)x + (__int128)y) >> 1)
MSL_INTEGER2(rhadd, ((__int128)x + (__int128)y + 1) >> 1)
MSL_INTEGER2(mul24, x * y)
MSL_INTEGER2(rotate, [&] {
    uint n = uint(y) & (width - 1);
    return n == 0 ? U(x) : U(U(x) << n | U(x) >> (width - n));
}())
MSL_INTEGER2(addsat, [&] {
    E r;
    if (!__builtin_add_overflow(x, y, &r)) return r;
    return std::is_signed_v<E> && y < 0 ? std::numeric_limits<E>::min() : std::numeric_limits<E>::max();
}())
MSL_INTEGER2(subsat, [&] {
    E r;
    if (!__builtin_sub_overflow(x, y, &r)) return r;
    return std::is_signed_v<E> && y < 0 ? std::numeric_limits<E>::max() : std::numeric_limits<E>::min();
}())
#undef MSL_INTEGER1
#undef MSL_INTEGER2

template <msl::Integral T>
inline T mad24(T a, T b, T c) {
    return a * b + c;
}
template <msl::Integral T>
inline T madhi(T a, T b, T c) {
    return mulhi(a, b) + c;
}
template <msl::Integral T>
inline T extract_bits(T value, uint offset, uint bits) {
    using E = msl::element_of<T>;
    using U = msl::unsigned_of<T>;
    constexpr uint width = msl::bits<E>;
    if (bits == 0) return T(0);
    // Sign extension where the type has a sign.
    return msl::each(value, [=](E x) -> E {
        return static_cast<E>(static_cast<U>(x) << (width - offset - bits)) >> (width - bits);
    });
}
template <msl::Integral T>
inline T insert_bits(T base, T insert, uint offset, uint bits) {
    using E = msl::element_of<T>;
    using U = msl::unsigned_of<T>;
    if (bits == 0) return base;
    U mask = (static_cast<U>(~U(0)) >> (msl::bits<E> - bits)) << offset;
    return msl::each_of<T>(
        [=](E b, E i) -> E { return static_cast<E>((U(b) & ~mask) | ((U(i) << offset) & mask)); }, base, insert);
}

}  // namespace metal
