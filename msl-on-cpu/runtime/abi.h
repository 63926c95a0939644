// The binary interface between the Rust side (src/run.rs mirrors these structures), the runtime
// library and the compiled kernels. Plain C types only.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define MSL_MAX_THREADS 1024u
#define MSL_MAX_SIMD_WIDTH 64u
// A threadgroup's memory on Apple GPUs.
#define MSL_THREADGROUP_BYTES 32768u

// What went wrong. The order is mirrored in Rust.
enum MslFaultKind : uint32_t {
    MSL_OK = 0,
    MSL_OUT_OF_BOUNDS = 1,
    MSL_READ_ONLY = 2,
    MSL_MISALIGNED = 3,
    MSL_RACE = 4,
    MSL_BARRIER_DIVERGENCE = 5,
    MSL_SIMD_DIVERGENCE = 6,
    MSL_INACTIVE_LANE = 7,
    MSL_PARTIAL_MATRIX = 8,
    MSL_THREADGROUP_MEMORY = 9,
    MSL_UNDEFINED = 10,
    MSL_SYSTEM = 11,
    MSL_WILD_POINTER = 12,
};

// What undefined arithmetic or indexing a kernel ran into (MslFault::detail).
enum MslUndefined : uint32_t {
    MSL_INDEX = 0,
    MSL_SHIFT = 1,
    MSL_DIVISION = 2,
    MSL_UNREACHABLE = 3,
};

// How an access touches memory (MslFault::detail, MslFault::other_access).
enum MslAccess : uint32_t { MSL_READ = 0, MSL_WRITE = 1, MSL_ATOMIC_READ = 2, MSL_ATOMIC_WRITE = 3 };

// Where a thread of the faulting threadgroup was (MslFault::state).
enum MslState : uint8_t { MSL_RUNNABLE = 0, MSL_AT_BARRIER = 1, MSL_AT_SIMD = 2, MSL_ENDED = 3 };

// In which order threads run between two synchronisation points.
enum MslOrder : uint32_t { MSL_FORWARD = 0, MSL_REVERSE = 1, MSL_INTERLEAVED = 2, MSL_SHUFFLED = 3 };

struct MslBuffer {
    uint8_t* data;
    uint64_t bytes;
    uint32_t writable;
};

struct MslLaunch {
    void (*entry)();
    const MslBuffer* buffers;
    uint64_t seed;
    uint32_t n_buffers;
    uint32_t n_threadgroup_variables;
    uint32_t grid[3];
    uint32_t threads[3];
    uint32_t simd_width;
    uint32_t order;
    uint32_t check_races;
    uint32_t allow_partial_simd;
    uint32_t allow_equal_writes;
};

struct MslFault {
    uint32_t kind;
    // Buffer index, or the number of a threadgroup variable where `in_threadgroup` is set.
    uint32_t memory;
    uint32_t in_threadgroup;
    uint32_t detail;
    int64_t offset;
    uint64_t bytes;
    uint32_t access_bytes;
    uint32_t thread;
    uint32_t group[3];
    uint32_t other_thread;
    uint32_t other_group;
    uint32_t other_access;
    // Set where the other access was by several threads, of which one is named.
    uint32_t other_many;
    uint32_t line;
    // Where in the compiled kernel the access happened, for a symboliser.
    const void* pc;
    // For divergence: what each thread of the threadgroup waits for.
    uint32_t n_threads;
    uint32_t site[MSL_MAX_THREADS];
    uint8_t state[MSL_MAX_THREADS];
};

extern "C" {
// Runs a launch to its end or its first fault; fills `fault` and returns its kind.
uint32_t msl_run(const MslLaunch* launch, MslFault* fault);
}
