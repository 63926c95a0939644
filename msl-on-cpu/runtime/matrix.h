// SIMD-group matrices: 8x8, two elements a lane, of 32 lanes.
#pragma once
#include "simd.h"

namespace msl {

// Where a lane's first element is; the second is in the next column.
struct Place {
    uint row, column;
    static Place of(uint lane) {
        uint quad = lane / 4;
        return {(quad & 4) + lane / 2 % 4, (quad & 2) * 2 + lane % 2 * 2};
    }
};

}  // namespace msl

namespace metal {

template <class T, int COLUMNS = 8, int ROWS = 8>
struct simdgroup_matrix {
    static_assert(COLUMNS == 8 && ROWS == 8, "SIMD-group matrices are 8x8");
    static_assert(msl::Floating<T>, "SIMD-group matrices are of floating-point numbers");
    vec<T, 2> elements;
    simdgroup_matrix() = default;
    // On the diagonal.
    explicit simdgroup_matrix(T value) {
        msl::Place at = msl::Place::of(msl_lane());
        elements[0] = at.row == at.column ? value : T(0);
        elements[1] = at.row == at.column + 1 ? value : T(0);
    }
    vec<T, 2>& thread_elements() { return elements; }
    const vec<T, 2>& thread_elements() const { return elements; }
};
using simdgroup_float8x8 = simdgroup_matrix<float>;
using simdgroup_half8x8 = simdgroup_matrix<half>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat>;

template <class T, int COLUMNS = 8, int ROWS = 8, class V>
inline simdgroup_matrix<T, COLUMNS, ROWS> make_filled_simdgroup_matrix(V value) {
    simdgroup_matrix<T, COLUMNS, ROWS> m;
    m.elements = msl::number<T>(value);
    return m;
}

template <class T, class U>
inline void simdgroup_load(simdgroup_matrix<T>& m, const U* from, ulong stride = 8, ulong2 origin = 0,
                           bool transpose = false) {
    static_assert(std::is_same_v<T, U>, "a matrix is loaded from its own type");
    msl::Place at = msl::Place::of(msl_lane());
    from += origin.y * stride + origin.x;
    for (uint i = 0; i < 2; i++)
        m.elements[i] = transpose ? from[(at.column + i) * stride + at.row] : from[at.row * stride + at.column + i];
}
template <class T, class U>
inline void simdgroup_store(const simdgroup_matrix<T>& m, U* to, ulong stride = 8, ulong2 origin = 0,
                            bool transpose = false) {
    static_assert(std::is_same_v<T, U>, "a matrix is stored as its own type");
    msl::Place at = msl::Place::of(msl_lane());
    to += origin.y * stride + origin.x;
    for (uint i = 0; i < 2; i++) {
        U& element = transpose ? to[(at.column + i) * stride + at.row] : to[at.row * stride + at.column + i];
        element = m.elements[i];
    }
}

}  // namespace metal

namespace msl {

template <class D, class A, class B, class C>
struct Fragments {
    vec<A, 2> a;
    vec<B, 2> b;
    vec<C, 2> c;
    vec<D, 2> d;
};
template <class D, class A, class B, class C>
struct Multiply {
    MSL_UNCHECKED static int apply(Lanes<Fragments<D, A, B, C>> lanes) {
        float a[8][8], b[8][8];
        for (uint lane = 0; lane < 32; lane++) {
            Place at = Place::of(lane);
            for (uint i = 0; i < 2; i++) {
                a[at.row][at.column + i] = lanes[lane].a[i];
                b[at.row][at.column + i] = lanes[lane].b[i];
            }
        }
        for (uint lane = 0; lane < 32; lane++) {
            Place at = Place::of(lane);
            for (uint i = 0; i < 2; i++) {
                float sum = lanes[lane].c[i];
                for (uint k = 0; k < 8; k++) sum += a[at.row][k] * b[k][at.column + i];
                lanes[lane].d[i] = number<D>(sum);
            }
        }
        return -1;
    }
};

}  // namespace msl

namespace metal {

template <class D, class A, class B, class C>
inline void simdgroup_multiply_accumulate(simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a,
                                          const simdgroup_matrix<B>& b, const simdgroup_matrix<C>& c, MSL_SITE) {
    using Pieces = msl::Fragments<D, A, B, C>;
    Pieces pieces{a.elements, b.elements, c.elements, {}};
    d.elements = msl::Exchange<msl::Multiply<D, A, B, C>, Pieces>::run(pieces, MSL_HERE, true).d;
}
template <class D, class A, class B>
inline void simdgroup_multiply(simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a, const simdgroup_matrix<B>& b,
                               MSL_SITE) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D>(0.0f), line, column);
}

}  // namespace metal
