// What compiled kernels and the Rust side call.
#include "internal.h"

using namespace msl;

namespace {

// The head of every record that clang passes to its undefined-behaviour handlers.
struct SourceLocation {
    const char* file;
    uint32_t line, column;
};

[[noreturn]] void undefined(MslUndefined what, const SourceLocation* location, const void* pc) {
    // Outside a launch nobody could hear of it.
    if (!run) __builtin_trap();
    run->fault->kind = MSL_UNDEFINED;
    run->fault->detail = what;
    run->fault->line = location->line;
    run->fault->pc = pc;
    leave();
}

}  // namespace

#define MSL_EXPORT [[gnu::visibility("default")]]

extern "C" {

MSL_EXPORT uint32_t msl_run(const MslLaunch* launch, MslFault* fault) {
    Run r;
    r.launch = launch;
    r.fault = fault;
    r.n_threads = launch->threads[0] * launch->threads[1] * launch->threads[2];
    r.simd_shift = __builtin_ctz(launch->simd_width);
    // Never zero, which the generator could not leave.
    r.random = launch->seed * 0x9e3779b97f4a7c15ull | 1;
    // In the mixed orders two threadgroups run at once, alternately.
    bool mixed = launch->order == MSL_INTERLEAVED || launch->order == MSL_SHUFFLED;
    uint64_t total = uint64_t(launch->grid[0]) * launch->grid[1] * launch->grid[2];
    r.groups.resize(mixed && total > 1 ? 2 : 1);
    fault->kind = MSL_OK;
    fault->n_threads = 0;
    if (open_memory(r) && reserve_stacks(r)) {
        run = &r;
        run_groups(r);
        run = nullptr;
        copy_out(r);
    } else {
        fault->kind = MSL_SYSTEM;
    }
    close_memory(r);
    return fault->kind;
}

// thread_position_in_grid, threadgroup_position_in_grid, thread_position_in_threadgroup,
// threads_per_threadgroup, threadgroups_per_grid; then single numbers.
MSL_EXPORT void msl_builtins(uint32_t (*triples)[3], uint32_t* singles) {
    const Run& r = *run;
    const Fibre& f = *r.fibre;
    for (int i = 0; i < 3; i++) {
        triples[0][i] = r.group->coordinates[i] * r.launch->threads[i] + f.position[i];
        triples[1][i] = r.group->coordinates[i];
        triples[2][i] = f.position[i];
        triples[3][i] = r.launch->threads[i];
        triples[4][i] = r.launch->grid[i];
    }
    singles[0] = f.thread;
    singles[1] = f.lane;
    singles[2] = f.simd;
    singles[3] = r.launch->simd_width;
    singles[4] = static_cast<uint32_t>(r.group->simds.size());
}

MSL_EXPORT void* msl_buffer(uint32_t index) { return run->regions[index].data; }
MSL_EXPORT uint32_t msl_lane() { return run->fibre->lane; }

MSL_EXPORT void msl_barrier(uint32_t flags, uint32_t site) { barrier(*run, flags, site); }
MSL_EXPORT void msl_simd_barrier(uint32_t flags, uint32_t site) {
    simd_operation(*run, nullptr, false, flags, site);
}
// Where the running thread puts its value before msl_simd, and finds its result after.
MSL_EXPORT void* msl_simd_slot() { return run->group->simds[run->fibre->simd].slots[run->fibre->lane].bytes; }
MSL_EXPORT void msl_simd(int (*combine)(void*, uint64_t, uint32_t), uint32_t whole, uint32_t site) {
    simd_operation(*run, reinterpret_cast<Combine>(combine), whole != 0, 0, site);
}

MSL_EXPORT void __ubsan_handle_out_of_bounds(SourceLocation* at, void*) {
    undefined(MSL_INDEX, at, __builtin_return_address(0));
}
MSL_EXPORT void __ubsan_handle_shift_out_of_bounds(SourceLocation* at, void*, void*) {
    undefined(MSL_SHIFT, at, __builtin_return_address(0));
}
MSL_EXPORT void __ubsan_handle_divrem_overflow(SourceLocation* at, void*, void*) {
    undefined(MSL_DIVISION, at, __builtin_return_address(0));
}
MSL_EXPORT void __ubsan_handle_builtin_unreachable(SourceLocation* at) {
    undefined(MSL_UNREACHABLE, at, __builtin_return_address(0));
}
MSL_EXPORT void __ubsan_handle_missing_return(SourceLocation* at) {
    undefined(MSL_UNREACHABLE, at, __builtin_return_address(0));
}

// Conversions to bfloat, which older compiler libraries lack.
MSL_EXPORT __bf16 __truncsfbf2(float x) {
    uint32_t bits = __builtin_bit_cast(uint32_t, x);
    bool nan = (bits & 0x7fffffff) > 0x7f800000;
    uint32_t rounded = nan ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
    return __builtin_bit_cast(__bf16, static_cast<uint16_t>(rounded >> 16));
}
MSL_EXPORT __bf16 __truncdfbf2(double x) { return __truncsfbf2(static_cast<float>(x)); }
}
