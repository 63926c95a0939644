// The Metal Shading Language as C++: included before every kernel text. Kernels see checked memory
// (memory.cpp) through compiler instrumentation, so pointers and references are plain ones.
#pragma once
#include "atomic.h"
#include "matrix.h"

extern "C" {
void msl_builtins(uint32_t (*triples)[3], uint32_t* singles);
void* msl_buffer(uint32_t index);
void* msl_threadgroup(uint32_t id, uint64_t bytes);
void* msl_threadgroup_part(uint32_t id, void* inside, uint64_t bytes);
}

// ---- what the rewritten text calls
namespace msl {

struct Triple {
    uint32_t v[3];
    template <class T>
    operator T() const {
        if constexpr (size_of<T> == 1)
            return v[0];
        else if constexpr (size_of<T> == 2)
            return T{element_of<T>(v[0]), element_of<T>(v[1])};
        else
            return T{element_of<T>(v[0]), element_of<T>(v[1]), element_of<T>(v[2])};
    }
};

struct Builtins {
    Triple triples[5];
    uint32_t singles[5];
    Builtins() { msl_builtins(&triples[0].v, singles); }
    Triple thread_position_in_grid() const { return triples[0]; }
    Triple threadgroup_position_in_grid() const { return triples[1]; }
    Triple thread_position_in_threadgroup() const { return triples[2]; }
    Triple threads_per_threadgroup() const { return triples[3]; }
    Triple dispatch_threads_per_threadgroup() const { return triples[3]; }
    Triple threadgroups_per_grid() const { return triples[4]; }
    Triple threads_per_grid() const {
        Triple t;
        for (int i = 0; i < 3; i++) t.v[i] = triples[3].v[i] * triples[4].v[i];
        return t;
    }
    uint32_t thread_index_in_threadgroup() const { return singles[0]; }
    uint32_t thread_index_in_simdgroup() const { return singles[1]; }
    uint32_t simdgroup_index_in_threadgroup() const { return singles[2]; }
    uint32_t threads_per_simdgroup() const { return singles[3]; }
    uint32_t thread_execution_width() const { return singles[3]; }
    uint32_t simdgroups_per_threadgroup() const { return singles[4]; }
    uint32_t dispatch_simdgroups_per_threadgroup() const { return singles[4]; }
    uint32_t quadgroup_index_in_threadgroup() const { return singles[0] / 4; }
    uint32_t thread_index_in_quadgroup() const { return singles[0] % 4; }
};

// A kernel's parameters bound to memory: they take the type that the kernel declares.
struct PointerTo {
    void* p;
    template <class T>
    operator T*() const {
        return static_cast<T*>(p);
    }
};
struct ReferenceTo {
    void* p;
    template <class T>
    operator T&() const {
        return *static_cast<T*>(p);
    }
};
struct ThreadgroupReference {
    uint32_t id;
    template <class T>
    operator T&() const {
        return *static_cast<T*>(msl_threadgroup(id, sizeof(T)));
    }
};

template <class T, uint32_t ID>
inline T& threadgroup_variable() {
    return *static_cast<T*>(msl_threadgroup(ID, sizeof(T)));
}
template <class T>
inline T* threadgroup_part(T* inside, uint32_t id, uint64_t bytes) {
    return static_cast<T*>(msl_threadgroup_part(id, inside, bytes));
}

}  // namespace msl

#define __METAL__ 1
#define __METAL_VERSION__ 310
#define __HAVE_BFLOAT__ 1
#define METAL_FUNC inline __attribute__((always_inline))
#define kernel
#define device
#define thread
#define threadgroup
#define constant const
