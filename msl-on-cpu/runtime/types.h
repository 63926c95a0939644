// Scalars, vectors, packed vectors, matrices and conversions of the Metal Shading Language.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <limits>
#include <type_traits>
#include <utility>

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef __bf16 bfloat;

#define MSL_VECTORS(T)                                    \
    typedef T T##2 __attribute__((ext_vector_type(2)));   \
    typedef T T##3 __attribute__((ext_vector_type(3)));   \
    typedef T T##4 __attribute__((ext_vector_type(4)));
MSL_VECTORS(bool)
MSL_VECTORS(char)
MSL_VECTORS(uchar)
MSL_VECTORS(short)
MSL_VECTORS(ushort)
MSL_VECTORS(int)
MSL_VECTORS(uint)
MSL_VECTORS(half)
MSL_VECTORS(bfloat)
MSL_VECTORS(float)
#undef MSL_VECTORS
// long3 and wider are left out: the instrumentation does not see accesses beyond 16 bytes.
typedef long long2 __attribute__((ext_vector_type(2)));
typedef ulong ulong2 __attribute__((ext_vector_type(2)));

namespace msl {

template <class T>
using bare = std::remove_cv_t<std::remove_reference_t<T>>;

template <class T>
struct Shape {
    using Element = T;
    static constexpr int size = 1;
};
template <class T, int N>
struct Shape<T __attribute__((ext_vector_type(N)))> {
    using Element = T;
    static constexpr int size = N;
};
template <class T>
constexpr int size_of = Shape<bare<T>>::size;
template <class T>
using element_of = typename Shape<bare<T>>::Element;

template <class T>
concept Floating = std::is_same_v<element_of<T>, half> || std::is_same_v<element_of<T>, bfloat> ||
                   std::is_same_v<element_of<T>, float>;
template <class T>
concept Integral = std::is_integral_v<element_of<T>>;
template <class T>
concept Scalar = size_of<T> == 1 && (Floating<T> || Integral<T>);

// half and bfloat convert to each other through float only.
template <class To, class From>
constexpr To number(From x) {
    if constexpr (Floating<To> && Floating<From>)
        return static_cast<To>(static_cast<float>(x));
    else
        return static_cast<To>(x);
}

// The vector, or the scalar, of `f(0)`, `f(1)` and so on.
template <class V, class F, int... I>
constexpr V generate(F f, std::integer_sequence<int, I...>) {
    return V{number<element_of<V>>(f(I))...};
}
template <class V, class F>
constexpr V generate(F f) {
    return generate<V>(f, std::make_integer_sequence<int, size_of<V>>());
}
template <class T>
constexpr element_of<T> element(const T& x, int i) {
    if constexpr (size_of<T> == 1)
        return x;
    else
        return x[i];
}

// Vector constructors: float4(x), float4(v), float4(v, 0, 1), and float(x) alike.
template <class V, class... A>
constexpr V make(A... a) {
    if constexpr (sizeof...(A) == 0 || !(size_of<V> > 1)) {
        return V(a...);
    } else {
        constexpr int given = (size_of<A> + ...);
        static_assert(given == size_of<V> || (sizeof...(A) == 1 && given == 1),
                      "a vector constructor needs one value or as many as elements");
        using E = element_of<V>;
        if constexpr (sizeof...(A) == 1) {
            return generate<V>([&](int i) { return (number<E>(element(a, i)), ...); });
        } else {
            V v{};
            int i = 0;
            auto put = [&](auto x) {
                for (int k = 0; k < size_of<decltype(x)>; k++) v[i++] = number<E>(element(x, k));
            };
            (put(a), ...);
            return v;
        }
    }
}

// static_cast, which clang does not offer between vectors of different elements.
template <class To, class From>
    requires(std::is_reference_v<To>)
constexpr To convert(From& x) {
    return static_cast<To>(x);
}
template <class To, class From>
    requires(!std::is_reference_v<To>)
constexpr To convert(From x) {
    if constexpr (size_of<To> > 1)
        return make<To>(x);
    else if constexpr (Scalar<To> && Scalar<From>)
        return number<To>(x);
    else
        return static_cast<To>(x);
}
// (float4)x, as `Cast<float4>() ->* x`.
template <class To>
struct Cast {
    template <class From>
    constexpr To operator->*(From x) const {
        return convert<To>(x);
    }
};

// What operands of two types are worked on as: a scalar goes with a vector of its element.
template <class A, class B>
concept Alike = std::is_same_v<element_of<A>, element_of<B>> &&
                (size_of<A> == size_of<B> || size_of<A> == 1 || size_of<B> == 1);
template <class A, class B>
using wider = std::conditional_t<(size_of<A> >= size_of<B>), A, B>;

// naga's runtime-sized array: `typedef T name[1];` stands for as many as the buffer holds.
template <class T>
struct Unsized {
    T first;
    T& operator[](size_t i) { return (&first)[i]; }
    const T& operator[](size_t i) const { return (&first)[i]; }
};

}  // namespace msl

template <class To, class From>
constexpr To as_type(From x) {
    static_assert(sizeof(To) == sizeof(From), "as_type needs types of the same size");
    return __builtin_bit_cast(To, x);
}

namespace metal {

#define MSL_USING(T) \
    using ::T;       \
    using ::T##2;    \
    using ::T##3;    \
    using ::T##4;
#define MSL_USING_KEYWORD(T) \
    using ::T##2;            \
    using ::T##3;            \
    using ::T##4;
MSL_USING(uchar)
MSL_USING(ushort)
MSL_USING(uint)
using ::ulong;
using ::ulong2;
MSL_USING(half)
MSL_USING(bfloat)
MSL_USING_KEYWORD(bool)
MSL_USING_KEYWORD(char)
MSL_USING_KEYWORD(short)
MSL_USING_KEYWORD(int)
using ::long2;
MSL_USING_KEYWORD(float)
#undef MSL_USING
#undef MSL_USING_KEYWORD

// Not beyond 16 bytes: the instrumentation does not see wider accesses.
template <class T, int N>
using vec = T __attribute__((ext_vector_type(N * sizeof(T) <= 16 ? N : -1)));

using ::as_type;
using std::conditional_t;
using std::enable_if_t;
using std::is_floating_point_v;
using std::is_integral_v;
using std::is_same_v;

template <class T>
struct numeric_limits : std::numeric_limits<T> {};
template <>
struct numeric_limits<half> {
    static constexpr half max() { return 65504.0f; }
    static constexpr half lowest() { return -65504.0f; }
    static constexpr half min() { return 6.103515625e-05f; }
    static constexpr half epsilon() { return 0.0009765625f; }
    static constexpr half infinity() { return __builtin_inff(); }
    static constexpr half quiet_NaN() { return __builtin_nanf(""); }
};

template <class T, int N>
struct packed {
    T v[N];
    packed() = default;
    packed(vec<T, N> x) {
        for (int i = 0; i < N; i++) v[i] = x[i];
    }
    operator vec<T, N>() const {
        return msl::generate<vec<T, N>>([&](int i) { return v[i]; });
    }
    T& operator[](int i) { return v[i]; }
    const T& operator[](int i) const { return v[i]; }
};
#define MSL_PACKED(T)                  \
    using packed_##T##2 = packed<T, 2>; \
    using packed_##T##3 = packed<T, 3>; \
    using packed_##T##4 = packed<T, 4>;
MSL_PACKED(char)
MSL_PACKED(uchar)
MSL_PACKED(short)
MSL_PACKED(ushort)
MSL_PACKED(int)
MSL_PACKED(uint)
MSL_PACKED(half)
MSL_PACKED(float)
#undef MSL_PACKED

template <class T, size_t N>
struct array {
    T v[N];
    T& operator[](size_t i) { return v[i]; }
    const T& operator[](size_t i) const { return v[i]; }
    static constexpr size_t size() { return N; }
};

// Columns of rows, as in the language.
template <class T, int C, int R>
struct matrix {
    vec<T, R> columns[C];
    matrix() = default;
    template <class... V>
        requires(sizeof...(V) == C)
    matrix(V... v) : columns{v...} {}
    vec<T, R>& operator[](int i) { return columns[i]; }
    const vec<T, R>& operator[](int i) const { return columns[i]; }
};
template <class T, int C, int R>
vec<T, R> operator*(const matrix<T, C, R>& m, vec<T, C> v) {
    vec<T, R> r = m[0] * v[0];
    for (int i = 1; i < C; i++) r += m[i] * v[i];
    return r;
}
using float2x2 = matrix<float, 2, 2>;
using float3x3 = matrix<float, 3, 3>;
using float4x4 = matrix<float, 4, 4>;
using half4x4 = matrix<half, 4, 4>;

}  // namespace metal

using metal::vec;
