// Arithmetic functions. Everything is computed in single precision and rounded once to the type.
#pragma once
#include "types.h"

namespace msl {

template <class T, class F, class... A>
inline T each_of(F f, const A&... a) {
    return generate<T>([&](int i) { return f(element(a, i)...); });
}
template <class T, class F>
inline T each(T x, F f) {
    return each_of<T>(f, x);
}

// An element of a comparison: bool, or the -1 of clang's vector comparisons.
template <class T>
inline bool truth(const T& x, int i) {
    return element(x, i) != 0;
}

}  // namespace msl

namespace metal {

// The same functions in three namespaces: the difference is precision, of which the CPU has the most.
#define MSL_FLOAT1(NAME, EXPRESSION)                          \
    template <msl::Floating T>                                \
    inline T NAME(T value) {                                  \
        return msl::each(value, [](float x) { return EXPRESSION; }); \
    }
#define MSL_FLOAT2(NAME, EXPRESSION)                                                                   \
    template <msl::Floating A, msl::Floating B>                                                        \
        requires msl::Alike<A, B>                                                                      \
    inline msl::wider<A, B> NAME(A a, B b) {                                                           \
        return msl::each_of<msl::wider<A, B>>([](float x, float y) -> float { return EXPRESSION; }, a, b); \
    }
#define MSL_FUNCTIONS                                                       \
    MSL_FLOAT1(exp, __builtin_expf(x))                                      \
    MSL_FLOAT1(exp2, __builtin_exp2f(x))                                    \
    MSL_FLOAT1(exp10, __builtin_powf(10.0f, x))                             \
    MSL_FLOAT1(log, __builtin_logf(x))                                      \
    MSL_FLOAT1(log2, __builtin_log2f(x))                                    \
    MSL_FLOAT1(log10, __builtin_log10f(x))                                  \
    MSL_FLOAT1(sqrt, __builtin_sqrtf(x))                                    \
    MSL_FLOAT1(rsqrt, 1.0f / __builtin_sqrtf(x))                            \
    MSL_FLOAT1(sin, __builtin_sinf(x))                                      \
    MSL_FLOAT1(cos, __builtin_cosf(x))                                      \
    MSL_FLOAT1(tan, __builtin_tanf(x))                                      \
    MSL_FLOAT1(sinpi, __builtin_sinf(3.14159265358979f * x))                \
    MSL_FLOAT1(cospi, __builtin_cosf(3.14159265358979f * x))                \
    MSL_FLOAT1(asin, __builtin_asinf(x))                                    \
    MSL_FLOAT1(acos, __builtin_acosf(x))                                    \
    MSL_FLOAT1(atan, __builtin_atanf(x))                                    \
    MSL_FLOAT1(sinh, __builtin_sinhf(x))                                    \
    MSL_FLOAT1(cosh, __builtin_coshf(x))                                    \
    MSL_FLOAT1(tanh, __builtin_tanhf(x))                                    \
    MSL_FLOAT1(asinh, __builtin_asinhf(x))                                  \
    MSL_FLOAT1(acosh, __builtin_acoshf(x))                                  \
    MSL_FLOAT1(atanh, __builtin_atanhf(x))                                  \
    MSL_FLOAT1(floor, __builtin_floorf(x))                                  \
    MSL_FLOAT1(ceil, __builtin_ceilf(x))                                    \
    MSL_FLOAT1(trunc, __builtin_truncf(x))                                  \
    MSL_FLOAT1(round, __builtin_roundf(x))                                  \
    MSL_FLOAT1(rint, __builtin_rintf(x))                                    \
    MSL_FLOAT1(fabs, __builtin_fabsf(x))                                    \
    MSL_FLOAT1(saturate, x < 0 ? 0.0f : x > 1 ? 1.0f : x)                   \
    MSL_FLOAT1(sign, x > 0 ? 1.0f : x < 0 ? -1.0f : x)                      \
    MSL_FLOAT1(fract, __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f)) \
    MSL_FLOAT2(fmin, __builtin_fminf(x, y))                                 \
    MSL_FLOAT2(fmax, __builtin_fmaxf(x, y))                                 \
    MSL_FLOAT2(pow, __builtin_powf(x, y))                                   \
    MSL_FLOAT2(powr, __builtin_powf(x, y))                                  \
    MSL_FLOAT2(fmod, __builtin_fmodf(x, y))                                 \
    MSL_FLOAT2(fdim, __builtin_fdimf(x, y))                                 \
    MSL_FLOAT2(atan2, __builtin_atan2f(x, y))                               \
    MSL_FLOAT2(copysign, __builtin_copysignf(x, y))                         \
    MSL_FLOAT2(divide, x / y)                                               \
    template <msl::Floating T>                                              \
    inline T fma(T a, T b, T c) {                                           \
        return msl::each_of<T>([](float x, float y, float z) { return __builtin_fmaf(x, y, z); }, a, b, c); \
    }                                                                       \
    template <msl::Floating T>                                              \
    inline T sincos(T x, T& cosine) {                                       \
        cosine = cos(x);                                                    \
        return sin(x);                                                      \
    }
MSL_FUNCTIONS
namespace precise {
MSL_FUNCTIONS
}
namespace fast {
MSL_FUNCTIONS
}
#undef MSL_FUNCTIONS
MSL_FLOAT2(step, y < x ? 0.0f : 1.0f)
#undef MSL_FLOAT1
#undef MSL_FLOAT2

template <msl::Scalar A>
inline A min(A a, A b) {
    return b < a ? b : a;
}
template <msl::Scalar A>
inline A max(A a, A b) {
    return a < b ? b : a;
}
template <class A, class B>
    requires(msl::Alike<A, B> && (msl::size_of<A> > 1 || msl::size_of<B> > 1))
inline msl::wider<A, B> min(A a, B b) {
    return msl::each_of<msl::wider<A, B>>([](auto x, auto y) { return y < x ? y : x; }, a, b);
}
template <class A, class B>
    requires(msl::Alike<A, B> && (msl::size_of<A> > 1 || msl::size_of<B> > 1))
inline msl::wider<A, B> max(A a, B b) {
    return msl::each_of<msl::wider<A, B>>([](auto x, auto y) { return x < y ? y : x; }, a, b);
}
template <class T, class L, class H>
    requires(msl::Alike<T, L> && msl::Alike<T, H>)
inline T clamp(T x, L low, H high) {
    return min(max(x, low), high);
}
template <class T>
inline T min3(T a, T b, T c) {
    return min(min(a, b), c);
}
template <class T>
inline T max3(T a, T b, T c) {
    return max(max(a, b), c);
}
template <class T>
inline T median3(T a, T b, T c) {
    return max(min(a, b), min(max(a, b), c));
}
namespace precise {
using metal::clamp;
using metal::max;
using metal::min;
}  // namespace precise
namespace fast {
using metal::clamp;
using metal::max;
using metal::min;
}  // namespace fast

template <msl::Floating T, msl::Floating U>
    requires msl::Alike<T, U>
inline T mix(T a, T b, U t) {
    return a + (b - a) * t;
}
template <msl::Floating E, msl::Floating T>
    requires msl::Alike<E, T>
inline T smoothstep(E low, E high, T x) {
    T t = saturate((x - low) / (high - low));
    return t * t * (msl::element_of<T>(3) - msl::element_of<T>(2) * t);
}
template <msl::Floating T>
inline T ldexp(T x, msl::wider<int, decltype(msl::make<vec<int, msl::size_of<T> + (msl::size_of<T> == 1)>>(0))> n)
    requires(msl::size_of<T> > 1)
{
    return msl::each_of<T>([](float a, int b) { return __builtin_ldexpf(a, b); }, x, n);
}
template <msl::Floating T>
    requires(msl::size_of<T> == 1)
inline T ldexp(T x, int n) {
    return __builtin_ldexpf(x, n);
}
template <msl::Floating T>
    requires(msl::size_of<T> == 1)
inline T frexp(T x, int& exponent) {
    return __builtin_frexpf(x, &exponent);
}
template <msl::Floating T>
inline T modf(T x, T& whole) {
    whole = trunc(x);
    return x - whole;
}

template <msl::Floating T>
inline msl::element_of<T> dot(T a, T b) {
    float sum = 0;
    for (int i = 0; i < msl::size_of<T>; i++) sum += float(msl::element(a, i)) * float(msl::element(b, i));
    return sum;
}
template <msl::Floating T>
inline msl::element_of<T> length(T a) {
    return __builtin_sqrtf(dot(a, a));
}
template <msl::Floating T>
inline msl::element_of<T> distance(T a, T b) {
    return length(a - b);
}
template <msl::Floating T>
inline T normalize(T a) {
    return a / length(a);
}

// ---- choosing and comparing

template <class T, class C>
inline T select(T otherwise, T where_set, C condition) {
    if constexpr (msl::size_of<T> == 1) {
        return condition ? where_set : otherwise;
    } else {
        T r{};
        for (int i = 0; i < msl::size_of<T>; i++) r[i] = msl::truth(condition, i) ? where_set[i] : otherwise[i];
        return r;
    }
}
template <class T>
inline bool all(T v) {
    for (int i = 0; i < msl::size_of<T>; i++)
        if (!msl::truth(v, i)) return false;
    return true;
}
template <class T>
inline bool any(T v) {
    for (int i = 0; i < msl::size_of<T>; i++)
        if (msl::truth(v, i)) return true;
    return false;
}
#define MSL_CLASS(NAME, EXPRESSION)                                                              \
    template <msl::Floating T>                                                                   \
    inline auto NAME(T value) {                                                                  \
        if constexpr (msl::size_of<T> == 1) {                                                    \
            float x = value;                                                                     \
            return bool(EXPRESSION);                                                             \
        } else {                                                                                 \
            vec<bool, msl::size_of<T>> r{};                                                      \
            for (int i = 0; i < msl::size_of<T>; i++) r[i] = NAME(msl::element_of<T>(value[i])); \
            return r;                                                                            \
        }                                                                                        \
    }
MSL_CLASS(isnan, x != x)
MSL_CLASS(isinf, __builtin_isinf(x))
MSL_CLASS(isfinite, __builtin_isfinite(x))
MSL_CLASS(isnormal, __builtin_isnormal(x))
MSL_CLASS(signbit, __builtin_signbit(x))
#undef MSL_CLASS

template <class T>
    requires(msl::Floating<T> || msl::Integral<T>)
inline T abs(T value) {
    return msl::each(value, [](auto x) { return x < 0 ? -x : x; });
}

}  // namespace metal

#define MAXFLOAT 3.402823466e38f
#define FLT_MAX 3.402823466e38f
#define FLT_MIN 1.17549435e-38f
#define FLT_EPSILON 1.19209290e-07f
#define HALF_MAX half(65504.0f)
#define HALF_MIN half(6.103515625e-05f)
#define INFINITY (__builtin_inff())
#define HUGE_VALF (__builtin_inff())
#define NAN (__builtin_nanf(""))
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define M_E_F 2.71828183f
#define M_LOG2E_F 1.44269504f
#define M_LOG10E_F 0.434294482f
#define M_LN2_F 0.69314718f
#define M_LN10_F 2.30258509f
#define M_PI_F 3.14159274f
#define M_PI_2_F 1.57079633f
#define M_1_PI_F 0.318309886f
#define M_2_PI_F 0.636619772f
#define M_2_SQRTPI_F 1.12837917f
#define M_SQRT2_F 1.41421356f
#define M_SQRT1_2_F 0.70710678f
