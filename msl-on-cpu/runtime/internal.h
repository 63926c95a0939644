// What the parts of the runtime library know of each other: a launch, its threadgroups, their
// fibres (one for each GPU thread), and the memory that is checked.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "abi.h"

namespace msl {

// One value of a thread in a SIMD-group operation; the widest is a pair of matrix fragments.
struct alignas(64) Slot {
    unsigned char bytes[64];
};

// Combines the posted values of the lanes in `active` and puts each lane's result in its slot.
// Returns -1, or (lane << 8 | source) for a lane that reads the value of an inactive one.
using Combine = int (*)(Slot* slots, uint64_t active, uint32_t width);

struct Fibre {
    void* stack_pointer = nullptr;
    MslState state = MSL_RUNNABLE;
    uint32_t site = 0;
    // Of the barrier that the fibre waits at.
    uint32_t flags = 0;
    uint32_t thread = 0, lane = 0, simd = 0;
    uint32_t position[3] = {};
    Combine combine = nullptr;
    bool whole = false;
};

struct Simd {
    uint64_t existing = 0;  // lanes that there are: the last SIMD-group may have fewer
    uint64_t present = 0;   // lanes that have not ended
    uint64_t waiting = 0;   // lanes at a SIMD-group operation
    // Clock values below these are ordered before this SIMD-group's accesses by a fence of its own.
    uint32_t fenced_device = 0, fenced_threadgroup = 0;
    Slot slots[MSL_MAX_SIMD_WIDTH];
};

// Who accessed a granule last, packed for speed:
// clock 24 bits | thread 10 | group + 1, 26 | level 2 | atomic 1.
// Level: one thread; several of one SIMD-group; several of one threadgroup; several threadgroups.
struct Stamp {
    static constexpr int THREAD = 24, GROUP = 34, LEVEL = 60, ATOMIC = 62;
    static constexpr uint64_t CLOCK_MASK = (1u << 24) - 1, THREAD_MASK = 1023, GROUP_MASK = (1u << 26) - 1;
    static uint32_t clock(uint64_t s) { return s & CLOCK_MASK; }
    static uint32_t thread(uint64_t s) { return s >> THREAD & THREAD_MASK; }
    static uint32_t group(uint64_t s) { return s >> GROUP & GROUP_MASK; }
    static uint32_t level(uint64_t s) { return s >> LEVEL & 3; }
    static bool atomic(uint64_t s) { return s >> ATOMIC & 1; }
    static uint64_t with_level(uint64_t s, uint64_t level) { return (s & ~(3ull << LEVEL)) | level << LEVEL; }
};

struct Cell {
    uint64_t write;
    uint64_t read;
};

// Who accessed each granule of some memory.
struct Shadow {
    Cell* cells = nullptr;
    uint64_t bytes = 0;
    // A granule is 4 bytes until something narrower is accessed, then 2, then 1.
    uint32_t granule_shift = 2;
    bool threadgroup = false;
};

// A buffer, a threadgroup variable or an array inside one: its bytes in an address range of its
// own, far from any other, so that every wild index still says which memory it missed.
struct Region {
    uint8_t* data = nullptr;
    uint64_t low = 0, bytes = 0;  // what may be accessed: [data + low, data + low + bytes)
    Shadow* shadow = nullptr;     // none: read-only, or races are not looked for
    bool writable = false, threadgroup = false;
};

// A threadgroup variable: one piece of memory, seen through any number of regions.
struct Variable {
    int file = -1;  // the memory, to be mapped into each region
    Shadow shadow;
    uint32_t poisoned_for = 0;  // Group::index
};

struct Group {
    uint32_t index = 0;  // + 1; 0: idle
    uint32_t coordinates[3] = {};
    uint32_t ended = 0;
    uint32_t clock = 0;
    // Clock values below these are ordered before the present by a barrier of the whole group.
    uint32_t ordered_device = 0, ordered_threadgroup = 0;
    uint32_t threadgroup_bytes = 0;
    size_t first_region = 0;
    std::vector<Variable> variables;  // as many as regions; views use the one that they look into
    std::vector<Fibre> fibres;
    std::vector<Simd> simds;
    std::vector<uint32_t> sequence;
};

// A write that races with an earlier one, before it is known whether it changes anything.
struct Doubt {
    const Region* region = nullptr;  // none: nothing is in doubt
    uint64_t offset = 0, size = 0;
    uint64_t other = 0;
    const void* pc = nullptr;
    uint8_t before[64];
};

struct Run {
    const MslLaunch* launch = nullptr;
    MslFault* fault = nullptr;
    Group* group = nullptr;
    Fibre* fibre = nullptr;
    void* scheduler_stack = nullptr;
    uint64_t stamp = 0;  // of the running fibre, now
    // Clock values that are ordered before the running fibre: by barriers of its threadgroup and
    // by fences of its SIMD-group, for device memory and for threadgroup memory.
    uint32_t ordered[2] = {}, fenced[2] = {};
    uint32_t simd_shift = 5;
    Doubt doubt;
    uintptr_t base = 0, span = 0;
    std::vector<Region> regions;
    std::vector<Shadow> shadows;  // of the buffers
    std::vector<Group> groups;    // resident at once
    uint32_t n_threads = 0;
    uint64_t random = 0;
};

extern thread_local Run* run __attribute__((tls_model("initial-exec")));

// ---- memory.cpp
// False where the system refuses the address space.
bool open_memory(Run& r);
void close_memory(Run& r);
// Whether the write in doubt, which has happened by now, left what was there. To be asked before
// anything else happens.
void confirm(Run& r);
// The writable buffers back to where they came from.
void copy_out(Run& r);

// ---- schedule.cpp
bool reserve_stacks(Run& r);
// All threadgroups to their end, or up to the first fault.
void run_groups(Run& r);
// The running fibre waits for its threadgroup, or for its SIMD-group.
void barrier(Run& r, uint32_t flags, uint32_t site);
void simd_operation(Run& r, Combine combine, bool whole, uint32_t flags, uint32_t site);
// Ends the launch from within a fibre whose fault is recorded; never comes back.
[[noreturn]] void leave();

}  // namespace msl
