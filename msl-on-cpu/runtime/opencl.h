// The Metal Shading Language's functions as declarations in C++ for OpenCL, for a check of types
// and address spaces: device, threadgroup, constant and thread are real here, and nothing is
// declared that Metal does not have. Never executed.
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;
typedef ulong size_t;

#define MSL_VECTORS(T)                                  \
    typedef T T##2 __attribute__((ext_vector_type(2))); \
    typedef T T##3 __attribute__((ext_vector_type(3))); \
    typedef T T##4 __attribute__((ext_vector_type(4)));
MSL_VECTORS(char)
MSL_VECTORS(uchar)
MSL_VECTORS(short)
MSL_VECTORS(ushort)
MSL_VECTORS(int)
MSL_VECTORS(uint)
MSL_VECTORS(long)
MSL_VECTORS(ulong)
MSL_VECTORS(half)
MSL_VECTORS(float)
// What comparisons of 32-bit vectors give.
typedef int2 bool2;
typedef int3 bool3;
typedef int4 bool4;

// Types that OpenCL has built in, different from Metal's.
#define atomic_int metal_atomic_int
#define atomic_uint metal_atomic_uint
#define atomic_ulong metal_atomic_ulong
#define atomic_float metal_atomic_float

#define device __global
#define threadgroup __local
#define constant __constant
#define thread __private

namespace msl {
template <class V, class... A>
V make(A...);
template <class To, class From>
To convert(From);
template <class To>
struct Cast {
    template <class From>
    To operator->*(From) const;
};

template <class A, class B>
struct Same {
    enum { value = 0 };
};
template <class A>
struct Same<A, A> {
    enum { value = 1 };
};
template <bool, class T>
struct If {};
template <class T>
struct If<true, T> {
    typedef T Type;
};
template <class T>
struct Of {
    typedef T Element;
};
template <class T, int N>
struct Of<T __attribute__((ext_vector_type(N)))> {
    typedef T Element;
};
template <class T>
using element = typename Of<T>::Element;
// Metal overloads each function for its types only; an argument of another is an error.
template <class T>
using floating = typename If<(Same<element<T>, float>::value || Same<element<T>, half>::value), T>::Type;
template <class T>
using integral = typename If<!(Same<element<T>, float>::value || Same<element<T>, half>::value), T>::Type;
template <class T>
using plain = typename If<true, T>::Type;
}  // namespace msl

template <class To, class From>
To as_type(From);

namespace metal {
#define MSL_USING(T) \
    using ::T##2;    \
    using ::T##3;    \
    using ::T##4;
MSL_USING(bool)
MSL_USING(char)
MSL_USING(uchar)
MSL_USING(short)
MSL_USING(ushort)
MSL_USING(int)
MSL_USING(uint)
MSL_USING(long)
MSL_USING(ulong)
MSL_USING(half)
MSL_USING(float)
using ::uchar;
using ::uint;
using ::ulong;
using ::ushort;
using ::as_type;
template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));

// One argument; two or three of one type, or scalars beside a vector.
#define MSL_FLOAT1(NAME) \
    template <class T>   \
    msl::floating<T> NAME(T);
#define MSL_PAIR(NAME, KIND)                              \
    template <class T>                                    \
    msl::KIND<T> NAME(T, T);                              \
    template <class T, int N>                             \
    msl::KIND<vec<T, N>> NAME(vec<T, N>, msl::plain<T>);  \
    template <class T, int N>                             \
    msl::KIND<vec<T, N>> NAME(msl::plain<T>, vec<T, N>);
#define MSL_TRIPLE(NAME, KIND)   \
    template <class T>           \
    msl::KIND<T> NAME(T, T, T);  \
    template <class T, int N>    \
    msl::KIND<vec<T, N>> NAME(vec<T, N>, msl::plain<T>, msl::plain<T>);
#define MSL_FUNCTIONS                                                                                             \
    MSL_FLOAT1(exp) MSL_FLOAT1(exp2) MSL_FLOAT1(exp10) MSL_FLOAT1(log) MSL_FLOAT1(log2) MSL_FLOAT1(log10)         \
    MSL_FLOAT1(sqrt) MSL_FLOAT1(rsqrt) MSL_FLOAT1(sin) MSL_FLOAT1(cos) MSL_FLOAT1(tan) MSL_FLOAT1(sinpi)          \
    MSL_FLOAT1(cospi) MSL_FLOAT1(asin) MSL_FLOAT1(acos) MSL_FLOAT1(atan) MSL_FLOAT1(sinh) MSL_FLOAT1(cosh)        \
    MSL_FLOAT1(tanh) MSL_FLOAT1(asinh) MSL_FLOAT1(acosh) MSL_FLOAT1(atanh) MSL_FLOAT1(floor) MSL_FLOAT1(ceil)     \
    MSL_FLOAT1(trunc) MSL_FLOAT1(round) MSL_FLOAT1(rint) MSL_FLOAT1(fabs) MSL_FLOAT1(saturate) MSL_FLOAT1(sign)   \
    MSL_FLOAT1(fract) MSL_PAIR(fmin, floating) MSL_PAIR(fmax, floating) MSL_PAIR(pow, floating)                   \
    MSL_PAIR(powr, floating) MSL_PAIR(fmod, floating) MSL_PAIR(fdim, floating) MSL_PAIR(atan2, floating)          \
    MSL_PAIR(copysign, floating) MSL_PAIR(divide, floating) MSL_TRIPLE(fma, floating)                             \
    template <class T>                                                                                            \
    msl::floating<T> sincos(T, __private T&);
MSL_FUNCTIONS
namespace precise {
MSL_FUNCTIONS
}
namespace fast {
MSL_FUNCTIONS
}
MSL_PAIR(min, plain)
MSL_PAIR(max, plain)
MSL_PAIR(step, floating)
MSL_TRIPLE(clamp, plain)
MSL_TRIPLE(min3, plain)
MSL_TRIPLE(max3, plain)
MSL_TRIPLE(median3, plain)
MSL_TRIPLE(mix, floating)
template <class T, int N>
msl::floating<vec<T, N>> mix(vec<T, N>, vec<T, N>, msl::plain<T>);
MSL_TRIPLE(smoothstep, floating)
template <class T>
msl::floating<T> ldexp(T, int);
template <class T>
msl::floating<T> frexp(T, __private int&);
template <class T>
msl::floating<T> modf(T, __private T&);
template <class T>
msl::element<msl::floating<T>> dot(T, T);
template <class T>
msl::element<msl::floating<T>> length(T);
template <class T>
msl::element<msl::floating<T>> distance(T, T);
template <class T>
msl::floating<T> normalize(T);
template <class T>
T abs(T);
template <class T, class C>
T select(T, T, C);
template <class T>
bool all(T);
template <class T>
bool any(T);
#define MSL_CLASS(NAME)                 \
    bool NAME(float);                   \
    bool NAME(half);                    \
    template <int N>                    \
    vec<int, N> NAME(vec<float, N>);    \
    template <int N>                    \
    vec<int, N> NAME(vec<half, N>);
MSL_CLASS(isnan)
MSL_CLASS(isinf)
MSL_CLASS(isfinite)
MSL_CLASS(isnormal)
MSL_CLASS(signbit)

#define MSL_INTEGER1(NAME) \
    template <class T>     \
    msl::integral<T> NAME(T);
MSL_INTEGER1(popcount)
MSL_INTEGER1(clz)
MSL_INTEGER1(ctz)
MSL_INTEGER1(reverse_bits)
MSL_PAIR(absdiff, integral)
MSL_PAIR(mulhi, integral)
MSL_PAIR(hadd, integral)
MSL_PAIR(rhadd, integral)
MSL_PAIR(mul24, integral)
MSL_PAIR(rotate, integral)
MSL_PAIR(addsat, integral)
MSL_PAIR(subsat, integral)
MSL_TRIPLE(mad24, integral)
MSL_TRIPLE(madhi, integral)
template <class T>
msl::integral<T> extract_bits(T, uint, uint);
template <class T>
msl::integral<T> insert_bits(T, T, uint, uint);

// ---- synchronisation
enum class mem_flags { mem_none, mem_device, mem_threadgroup, mem_texture = 4 };
mem_flags operator|(mem_flags, mem_flags);
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);
#define MSL_FOLD(NAME)   \
    template <class T>   \
    T simd_##NAME(T);    \
    template <class T>   \
    T quad_##NAME(T);
MSL_FOLD(sum)
MSL_FOLD(product)
MSL_FOLD(max)
MSL_FOLD(min)
MSL_FOLD(and)
MSL_FOLD(or)
MSL_FOLD(xor)
#define MSL_SCAN(NAME) \
    template <class T> \
    T NAME(T);
MSL_SCAN(simd_prefix_inclusive_sum)
MSL_SCAN(simd_prefix_exclusive_sum)
MSL_SCAN(simd_prefix_inclusive_product)
MSL_SCAN(simd_prefix_exclusive_product)
MSL_SCAN(simd_broadcast_first)
#define MSL_MOVE(NAME) \
    template <class T> \
    T NAME(T, ushort);
MSL_MOVE(simd_shuffle)
MSL_MOVE(simd_broadcast)
MSL_MOVE(simd_shuffle_xor)
MSL_MOVE(simd_shuffle_up)
MSL_MOVE(simd_shuffle_down)
MSL_MOVE(quad_shuffle)
MSL_MOVE(quad_broadcast)
MSL_MOVE(quad_shuffle_xor)
MSL_MOVE(quad_shuffle_up)
MSL_MOVE(quad_shuffle_down)
struct simd_vote {
    typedef uint64_t vote_t;
    uint64_t votes;
    explicit operator vote_t() const;
    bool all() const;
    bool any() const;
};
simd_vote simd_ballot(bool);
simd_vote simd_active_threads_mask();
bool simd_all(bool);
bool simd_any(bool);
bool simd_is_first();

// ---- SIMD-group matrices
template <class T, int COLUMNS = 8, int ROWS = 8>
struct simdgroup_matrix {
    vec<T, 2> elements;
    simdgroup_matrix() = default;
    explicit simdgroup_matrix(T);
    __private vec<T, 2>& thread_elements() __private;
};
using simdgroup_float8x8 = simdgroup_matrix<float>;
using simdgroup_half8x8 = simdgroup_matrix<half>;
template <class T, int COLUMNS = 8, int ROWS = 8>
simdgroup_matrix<T, COLUMNS, ROWS> make_filled_simdgroup_matrix(T);
#define MSL_MATRIX_MEMORY(SPACE)                                                                                \
    template <class T>                                                                                          \
    void simdgroup_load(__private simdgroup_matrix<T>&, const SPACE T*, ulong = 8, ulong2 = 0, bool = false);   \
    template <class T>                                                                                          \
    void simdgroup_store(simdgroup_matrix<T>, SPACE T*, ulong = 8, ulong2 = 0, bool = false);
MSL_MATRIX_MEMORY(__global)
MSL_MATRIX_MEMORY(__local)
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(__private simdgroup_matrix<D>&, simdgroup_matrix<A>, simdgroup_matrix<B>,
                                   simdgroup_matrix<C>);
template <class D, class A, class B>
void simdgroup_multiply(__private simdgroup_matrix<D>&, simdgroup_matrix<A>, simdgroup_matrix<B>);

// ---- atomics
enum memory_order { memory_order_relaxed };
template <class T>
struct atomic {
    T value;
};
// Complete, or they could not be a kernel's parameters.
template struct atomic<int>;
template struct atomic<uint>;
template struct atomic<float>;
template struct atomic<bool>;
template struct atomic<ulong>;
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
using atomic_bool = atomic<bool>;
using atomic_ulong = atomic<ulong>;
#define MSL_ATOMIC(NAME, SPACE) \
    template <class T>          \
    T atomic_##NAME##_explicit(volatile SPACE atomic<T>*, msl::plain<T>, memory_order);
#define MSL_ATOMICS(SPACE)                                                                   \
    template <class T>                                                                       \
    T atomic_load_explicit(const volatile SPACE atomic<T>*, memory_order);                   \
    template <class T>                                                                       \
    void atomic_store_explicit(volatile SPACE atomic<T>*, msl::plain<T>, memory_order);      \
    template <class T>                                                                       \
    bool atomic_compare_exchange_weak_explicit(volatile SPACE atomic<T>*, __private T*, msl::plain<T>, memory_order, \
                                               memory_order);                                \
    MSL_ATOMIC(exchange, SPACE)                                                              \
    MSL_ATOMIC(fetch_add, SPACE)                                                             \
    MSL_ATOMIC(fetch_sub, SPACE)                                                             \
    MSL_ATOMIC(fetch_max, SPACE)                                                             \
    MSL_ATOMIC(fetch_min, SPACE)                                                             \
    MSL_ATOMIC(fetch_and, SPACE)                                                             \
    MSL_ATOMIC(fetch_or, SPACE)                                                              \
    MSL_ATOMIC(fetch_xor, SPACE)
MSL_ATOMICS(__global)
MSL_ATOMICS(__local)

// ---- packed vectors
#define MSL_PACKED_IN(SPACE)        \
    operator vec<T, N>() const SPACE; \
    void operator=(vec<T, N>) SPACE;  \
    SPACE T& operator[](int) SPACE;
template <class T, int N>
struct packed {
    T v[N];
    packed() = default;
    packed(vec<T, N>);
    MSL_PACKED_IN(__global)
    MSL_PACKED_IN(__local)
    MSL_PACKED_IN(__private)
};
#define MSL_PACKED(T)                  \
    using packed_##T##2 = packed<T, 2>; \
    using packed_##T##3 = packed<T, 3>; \
    using packed_##T##4 = packed<T, 4>; \
    template struct packed<T, 2>;       \
    template struct packed<T, 3>;       \
    template struct packed<T, 4>;
MSL_PACKED(char)
MSL_PACKED(uchar)
MSL_PACKED(short)
MSL_PACKED(ushort)
MSL_PACKED(int)
MSL_PACKED(uint)
MSL_PACKED(half)
MSL_PACKED(float)
}  // namespace metal

using metal::vec;
#define METAL_FUNC inline
#define INFINITY 1e999f
#define MAXFLOAT 3.402823466e38f
#define FLT_MAX 3.402823466e38f
#define FLT_MIN 1.17549435e-38f
#define HALF_MAX half(65504.0f)
#define M_PI_F 3.14159274f
#define M_LOG2E_F 1.44269504f
#define M_LN2_F 0.69314718f
#define M_SQRT1_2_F 0.70710678f
