// Checked memory: bounds, alignment, write protection and data races.
//
// The kernels are compiled with ThreadSanitizer's instrumentation, which calls a function before
// every access that can leave the thread's own registers and stack; these functions are here, and
// no ThreadSanitizer runtime is linked. Races are found from barriers alone, whatever the order in
// which threads happen to run: two accesses to the same bytes by different threads, one of them a
// write and not both atomic, must be ordered by a barrier that fences that kind of memory.
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

namespace msl {

thread_local Run* run __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

// Each region has 128 GiB of address space, its data 32 GiB into it.
constexpr int SLOT_SHIFT = 37;
constexpr uintptr_t SLOT = 1ull << SLOT_SHIFT, LEAD = 1ull << 35;
constexpr size_t PAGE = 4096;
constexpr size_t CELLS_PER_BYTE = sizeof(Cell);

size_t pages(uint64_t bytes) { return bytes == 0 ? PAGE : (bytes + PAGE - 1) / PAGE * PAGE; }

bool open_shadow(Shadow& shadow, uint64_t bytes, bool threadgroup) {
    void* p = mmap(nullptr, pages(bytes * CELLS_PER_BYTE), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return false;
    shadow = Shadow{static_cast<Cell*>(p), bytes, 2, threadgroup};
    return true;
}

void close_shadow(Shadow& shadow) {
    if (shadow.cells) munmap(shadow.cells, pages(shadow.bytes * CELLS_PER_BYTE));
    shadow.cells = nullptr;
}

// Makes granules small enough for an access with these edges (its offset and size, or-ed).
[[gnu::noinline]] void refine(Shadow& shadow, uint64_t edges) {
    while (edges & ((1u << shadow.granule_shift) - 1)) {
        uint64_t n = (shadow.bytes + (1u << shadow.granule_shift) - 1) >> shadow.granule_shift;
        for (uint64_t i = n; i-- > 0;) {
            Cell cell = shadow.cells[i];
            // Untouched pages stay untouched.
            for (Cell* half = shadow.cells + 2 * i; half < shadow.cells + 2 * i + 2; half++)
                if (memcmp(half, &cell, sizeof cell) != 0) *half = cell;
        }
        shadow.granule_shift--;
    }
}

[[gnu::noinline, noreturn]] void fail_access(MslFaultKind kind, const Region& region, int64_t offset, uint64_t size,
                                             MslAccess access, const void* pc) {
    MslFault& fault = *run->fault;
    size_t index = &region - run->regions.data();
    size_t n_buffers = run->launch->n_buffers;
    fault.kind = kind;
    fault.in_threadgroup = region.threadgroup;
    fault.memory =
        region.threadgroup ? (index - n_buffers) % run->launch->n_threadgroup_variables : static_cast<uint32_t>(index);
    fault.detail = access;
    fault.offset = offset;
    fault.bytes = region.bytes;
    fault.access_bytes = static_cast<uint32_t>(size);
    fault.pc = pc;
    leave();
}

[[gnu::noinline, noreturn]] void fail_race(const Region& region, int64_t offset, uint64_t size, MslAccess access,
                                           uint64_t other, bool other_wrote, const void* pc) {
    MslFault& fault = *run->fault;
    fault.other_thread = Stamp::thread(other);
    fault.other_group = Stamp::group(other) - 1;
    fault.other_many = Stamp::level(other) != 0;
    fault.other_access = !other_wrote ? MSL_READ : Stamp::atomic(other) ? MSL_ATOMIC_WRITE : MSL_WRITE;
    fail_access(MSL_RACE, region, offset, size, access, pc);
}

// No address of a program: null, or the pattern that variables start with.
inline bool is_wild(const void* address) {
    uintptr_t a = reinterpret_cast<uintptr_t>(address);
    return a < 65536 || a >> 47 != 0;
}

[[gnu::noinline, noreturn]] void fail_wild(const void* pc) {
    run->fault->kind = MSL_WILD_POINTER;
    run->fault->pc = pc;
    leave();
}

// Whether the accesses that `s` stands for come before anything that the running fibre does now.
inline bool ordered(const Run& r, uint64_t s, bool threadgroup) {
    uint64_t difference = s ^ r.stamp;
    // Same thread of the same group, and no other.
    if ((difference >> Stamp::THREAD & ((1ull << (Stamp::LEVEL - Stamp::THREAD)) - 1)) == 0 && Stamp::level(s) == 0)
        return true;
    // Threadgroups are never ordered; a stamp of another one in threadgroup memory is of an
    // earlier tenant.
    if (Stamp::group(difference) != 0) return threadgroup;
    if (Stamp::level(s) == 3) return false;
    uint32_t clock = Stamp::clock(s);
    if (clock < r.ordered[threadgroup]) return true;
    return Stamp::level(s) <= 1 && clock < r.fenced[threadgroup] &&
           Stamp::thread(difference) >> r.simd_shift == 0;
}

// The stamp for those of `previous` that are not yet ordered before everyone, and the running fibre.
inline uint64_t joined(const Run& r, uint64_t previous, bool threadgroup) {
    if (previous == 0) return r.stamp;
    uint64_t difference = previous ^ r.stamp;
    if (Stamp::group(difference) != 0) return threadgroup ? r.stamp : Stamp::with_level(r.stamp, 3);
    uint32_t level = Stamp::level(previous);
    if (level == 3) return Stamp::with_level(r.stamp, 3);
    if (Stamp::clock(previous) < r.ordered[threadgroup]) return r.stamp;
    if (level == 0 && Stamp::thread(difference) == 0) return r.stamp;
    bool same_simd = Stamp::thread(difference) >> r.simd_shift == 0;
    return Stamp::with_level(r.stamp, level <= 1 && same_simd ? 1 : 2);
}

template <bool WRITE, bool ATOMIC>
constexpr MslAccess ACCESS = WRITE ? (ATOMIC ? MSL_ATOMIC_WRITE : MSL_WRITE) : (ATOMIC ? MSL_ATOMIC_READ : MSL_READ);

template <bool WRITE, bool ATOMIC>
inline void check_race(Run& r, const Region& region, uint64_t offset, uint64_t size, const void* pc) {
    Shadow& shadow = *region.shadow;
    bool threadgroup = shadow.threadgroup;
    if ((offset | size) & ((1u << shadow.granule_shift) - 1)) refine(shadow, offset | size);
    uint32_t shift = shadow.granule_shift;
    Cell* end = shadow.cells + ((offset + size) >> shift);
    for (Cell* cell = shadow.cells + (offset >> shift); cell != end; cell++) {
        uint64_t write = cell->write, read = cell->read;
        if (write && !(ATOMIC && Stamp::atomic(write)) && !ordered(r, write, threadgroup)) {
            bool may_be_equal = WRITE && !ATOMIC && r.launch->allow_equal_writes && size <= sizeof r.doubt.before;
            if (!may_be_equal) fail_race(region, offset - region.low, size, ACCESS<WRITE, ATOMIC>, write, true, pc);
            r.doubt = Doubt{&region, offset, size, write, pc, {}};
            memcpy(r.doubt.before, region.data + offset, size);
        }
        if (!WRITE) {
            if (!ATOMIC && read != r.stamp) cell->read = joined(r, read, threadgroup);
            continue;
        }
        if (read && !ordered(r, read, threadgroup))
            fail_race(region, offset - region.low, size, ACCESS<WRITE, ATOMIC>, read, false, pc);
        cell->read = 0;
        if (!ATOMIC)
            cell->write = r.stamp;
        else
            cell->write = joined(r, Stamp::atomic(write) ? write : 0, threadgroup) | 1ull << Stamp::ATOMIC;
    }
}

template <bool WRITE, bool ATOMIC = false>
inline void check(const void* address, uint64_t size, uint64_t alignment, const void* pc) {
    Run* r = run;
    if (!r) return;
    if (r->doubt.region) confirm(*r);
    uintptr_t away = reinterpret_cast<uintptr_t>(address) - r->base;
    if (away >= r->span) {
        // The thread's own stack, or a constant; else a pointer without value, which would crash.
        if (is_wild(address)) fail_wild(pc);
        return;
    }
    const Region& region = r->regions[away >> SLOT_SHIFT];
    uint64_t offset = (away & (SLOT - 1)) - LEAD, within = offset - region.low;
    if (within >= region.bytes || size > region.bytes - within)
        fail_access(MSL_OUT_OF_BOUNDS, region, static_cast<int64_t>(within), size, ACCESS<WRITE, ATOMIC>, pc);
    if (offset & (alignment - 1))
        fail_access(MSL_MISALIGNED, region, static_cast<int64_t>(within), size, ACCESS<WRITE, ATOMIC>, pc);
    if (WRITE && !region.writable)
        fail_access(MSL_READ_ONLY, region, static_cast<int64_t>(within), size, ACCESS<WRITE, ATOMIC>, pc);
    if (region.shadow) check_race<WRITE, ATOMIC>(*r, region, offset, size, pc);
}

uint8_t* slot_data(const Run& r, size_t index) { return reinterpret_cast<uint8_t*>(r.base + index * SLOT + LEAD); }

}  // namespace

void confirm(Run& r) {
    Doubt& doubt = r.doubt;
    const Region* region = doubt.region;
    doubt.region = nullptr;
    if (region && memcmp(doubt.before, region->data + doubt.offset, doubt.size) != 0)
        fail_race(*region, doubt.offset - region->low, doubt.size, MSL_WRITE, doubt.other, true, doubt.pc);
}

bool open_memory(Run& r) {
    const MslLaunch& launch = *r.launch;
    size_t n_variables = launch.n_threadgroup_variables;
    size_t n_regions = launch.n_buffers + n_variables * r.groups.size();
    r.regions.resize(n_regions);
    r.shadows.resize(launch.n_buffers);
    if (n_regions == 0) return true;
    void* base =
        mmap(nullptr, n_regions * SLOT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return false;
    r.base = reinterpret_cast<uintptr_t>(base);
    r.span = n_regions * SLOT;
    for (size_t i = 0; i < launch.n_buffers; i++) {
        const MslBuffer& buffer = launch.buffers[i];
        Region& region = r.regions[i];
        region.data = slot_data(r, i);
        region.bytes = buffer.bytes;
        region.writable = buffer.writable;
        if (mprotect(region.data, pages(buffer.bytes), PROT_READ | PROT_WRITE) != 0) return false;
        if (buffer.bytes) memcpy(region.data, buffer.data, buffer.bytes);
        if (buffer.writable && launch.check_races) {
            if (!open_shadow(r.shadows[i], buffer.bytes, false)) return false;
            region.shadow = &r.shadows[i];
        }
    }
    for (size_t g = 0; g < r.groups.size(); g++) {
        r.groups[g].first_region = launch.n_buffers + g * n_variables;
        r.groups[g].variables.resize(n_variables);
    }
    return true;
}

void close_memory(Run& r) {
    for (Shadow& shadow : r.shadows) close_shadow(shadow);
    for (Group& group : r.groups)
        for (Variable& variable : group.variables) {
            close_shadow(variable.shadow);
            if (variable.file >= 0) close(variable.file);
        }
    if (r.span) munmap(reinterpret_cast<void*>(r.base), r.span);
}

void copy_out(Run& r) {
    for (size_t i = 0; i < r.launch->n_buffers; i++) {
        const MslBuffer& buffer = r.launch->buffers[i];
        if (buffer.writable && buffer.bytes) memcpy(buffer.data, r.regions[i].data, buffer.bytes);
    }
}

namespace {

[[noreturn]] void fail_system() {
    run->fault->kind = MSL_SYSTEM;
    leave();
}

bool map_variable(Region& region, uint8_t* at, int file) {
    void* p = mmap(at, MSL_THREADGROUP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    region.data = at;
    region.writable = region.threadgroup = true;
    return p != MAP_FAILED;
}

}  // namespace
}  // namespace msl

using namespace msl;

extern "C" {

// The threadgroup variable `id`, made and filled with not-a-number when its threadgroup first
// asks. Kernels and the runtime agree on the ids through the rewritten text.
[[gnu::visibility("default")]] void* msl_threadgroup(uint32_t id, uint64_t bytes) {
    Run& r = *run;
    Group& g = *r.group;
    Variable& variable = g.variables[id];
    Region& region = r.regions[g.first_region + id];
    if (variable.poisoned_for == g.index) return region.data;
    g.threadgroup_bytes += bytes;
    if (g.threadgroup_bytes > MSL_THREADGROUP_BYTES) {
        r.fault->kind = MSL_THREADGROUP_MEMORY;
        r.fault->bytes = g.threadgroup_bytes;
        leave();
    }
    if (variable.file < 0) {
        variable.file = memfd_create("threadgroup", MFD_CLOEXEC);
        if (variable.file < 0 || ftruncate(variable.file, MSL_THREADGROUP_BYTES) != 0) fail_system();
        if (!map_variable(region, slot_data(r, g.first_region + id), variable.file)) fail_system();
        if (r.launch->check_races) {
            if (!open_shadow(variable.shadow, MSL_THREADGROUP_BYTES, true)) fail_system();
            region.shadow = &variable.shadow;
        }
    }
    region.bytes = bytes;
    memset(region.data, 0xff, bytes);
    variable.poisoned_for = g.index;
    return region.data;
}

// `bytes` bytes at `inside`, which lies in a threadgroup variable, as a region `id` of its own: the
// same memory at another address, where an index beyond its end is found.
[[gnu::visibility("default")]] void* msl_threadgroup_part(uint32_t id, void* inside, uint64_t bytes) {
    Run& r = *run;
    Group& g = *r.group;
    uintptr_t away = reinterpret_cast<uintptr_t>(inside) - r.base;
    size_t whole = away >> SLOT_SHIFT;
    if (away >= r.span || whole < g.first_region) return inside;
    Region& region = r.regions[g.first_region + id];
    uint64_t offset = (away & (SLOT - 1)) - LEAD;
    if (!region.data) {
        if (offset > r.regions[whole].bytes || bytes > r.regions[whole].bytes - offset)
            fail_access(MSL_OUT_OF_BOUNDS, r.regions[whole], static_cast<int64_t>(offset), bytes, MSL_READ,
                        __builtin_return_address(0));
        Variable& variable = g.variables[whole - g.first_region];
        if (!map_variable(region, slot_data(r, g.first_region + id), variable.file)) fail_system();
        region.low = offset;
        region.bytes = bytes;
        region.shadow = r.regions[whole].shadow;
    }
    return region.data + offset;
}

// Before an atomic operation, which the header carries out itself.
[[gnu::visibility("default")]] void msl_atomic(const volatile void* p, uint64_t size, uint32_t writes) {
    const void* pc = __builtin_return_address(0);
    if (writes)
        check<true, true>(const_cast<const void*>(p), size, size, pc);
    else
        check<false, true>(const_cast<const void*>(p), size, size, pc);
}

#define MSL_ACCESS(NAME, WRITE, SIZE, ALIGNMENT)                              \
    [[gnu::visibility("default")]] void NAME(void* p) {                       \
        check<WRITE>(p, SIZE, ALIGNMENT, __builtin_return_address(0));        \
    }
#define MSL_ACCESSES(SIZE, ALIGNMENT)                     \
    MSL_ACCESS(__tsan_read##SIZE, false, SIZE, ALIGNMENT) \
    MSL_ACCESS(__tsan_write##SIZE, true, SIZE, ALIGNMENT) \
    MSL_ACCESS(__tsan_unaligned_read##SIZE, false, SIZE, 1) \
    MSL_ACCESS(__tsan_unaligned_write##SIZE, true, SIZE, 1)
MSL_ACCESSES(1, 1)
MSL_ACCESSES(2, 2)
MSL_ACCESSES(4, 4)
MSL_ACCESSES(8, 8)
// The instrumentation calls a 16-byte access aligned when it is to 8 bytes.
MSL_ACCESSES(16, 8)

[[gnu::visibility("default")]] void* __tsan_memcpy(void* to, const void* from, uint64_t n) {
    const void* pc = __builtin_return_address(0);
    if (n) check<false>(from, n, 1, pc), check<true>(to, n, 1, pc);
    return memmove(to, from, n);
}
[[gnu::visibility("default")]] void* __tsan_memmove(void* to, const void* from, uint64_t n) {
    const void* pc = __builtin_return_address(0);
    if (n) check<false>(from, n, 1, pc), check<true>(to, n, 1, pc);
    return memmove(to, from, n);
}
[[gnu::visibility("default")]] void* __tsan_memset(void* to, int value, uint64_t n) {
    if (n) check<true>(to, n, 1, __builtin_return_address(0));
    return memset(to, value, n);
}
[[gnu::visibility("default")]] void __tsan_init() {}
[[gnu::visibility("default")]] void __tsan_func_entry(void*) {}
[[gnu::visibility("default")]] void __tsan_func_exit() {}
}
