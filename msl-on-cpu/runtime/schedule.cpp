// Runs a launch: every GPU thread is a fibre; a threadgroup's fibres run one after another, in a
// chosen order, each up to its next synchronisation point.
#include <string.h>
#include <sys/mman.h>

#include <utility>

#include "internal.h"

#if !defined(__x86_64__) || defined(MSL_UCONTEXT)
#include <ucontext.h>
#endif

namespace msl {
namespace {

constexpr size_t STACK_BYTES = 256 * 1024, PAGE = 4096;

// Stacks are kept by the thread that runs launches: their pages stay mapped.
struct Stacks {
    uint8_t* memory = nullptr;
    size_t count = 0;
    ~Stacks() { release(); }
    void release() {
        if (memory) munmap(memory, count * STACK_BYTES);
        memory = nullptr;
        count = 0;
    }
    bool reserve(size_t n) {
        if (n <= count) return true;
        release();
        void* p = mmap(nullptr, n * STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return false;
        memory = static_cast<uint8_t*>(p);
        count = n;
        // A guard page below each stack: an overflow faults instead of overwriting a neighbour.
        for (size_t i = 0; i < n; i++)
            if (mprotect(memory + i * STACK_BYTES, PAGE, PROT_NONE) != 0) return false;
        return true;
    }
    uint8_t* top(size_t i) const {
        // Staggered, or all stacks would compete for the same cache sets.
        return memory + (i + 1) * STACK_BYTES - i % 61 * 192;
    }
};
thread_local Stacks stacks;

void fibre_main();

#if defined(__x86_64__) && !defined(MSL_UCONTEXT)
extern "C" void msl_switch(void** save, void* to);
asm(R"(
    .text
    .hidden msl_switch
    .globl msl_switch
    .type msl_switch, @function
msl_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size msl_switch, . - msl_switch
)");

void* new_stack(size_t, uint8_t* top) {
    void** sp = reinterpret_cast<void**>(top) - 2;
    sp[0] = reinterpret_cast<void*>(fibre_main);
    sp[1] = nullptr;
    for (int i = 1; i <= 6; i++) sp[-i] = nullptr;
    return sp - 6;
}
#else
// Elsewhere the C library's contexts do, at the cost of a system call a switch.
thread_local std::vector<ucontext_t> contexts;
thread_local ucontext_t scheduler_context;

void msl_switch(void** save, void* to) {
    ucontext_t* here = save == &run->scheduler_stack ? &scheduler_context : static_cast<ucontext_t*>(*save);
    *save = here;
    swapcontext(here, static_cast<ucontext_t*>(to));
}

void* new_stack(size_t i, uint8_t* top) {
    if (contexts.size() < stacks.count) contexts.resize(stacks.count);
    ucontext_t& context = contexts[i];
    getcontext(&context);
    uint8_t* low = stacks.memory + i * STACK_BYTES + PAGE;
    context.uc_stack.ss_sp = low;
    context.uc_stack.ss_size = top - low;
    context.uc_link = nullptr;
    makecontext(&context, fibre_main, 0);
    return &context;
}
#endif

uint32_t next_random(Run& r) {
    r.random ^= r.random << 13;
    r.random ^= r.random >> 7;
    r.random ^= r.random << 17;
    return r.random >> 32;
}

// What the running fibre's accesses are stamped with, and what came before it.
void refresh(Run& r) {
    const Group& g = *r.group;
    const Simd& simd = g.simds[r.fibre->simd];
    r.stamp = g.clock | static_cast<uint64_t>(r.fibre->thread) << Stamp::THREAD |
              static_cast<uint64_t>(g.index) << Stamp::GROUP;
    r.ordered[0] = g.ordered_device;
    r.ordered[1] = g.ordered_threadgroup;
    r.fenced[0] = simd.fenced_device;
    r.fenced[1] = simd.fenced_threadgroup;
}

void wait(Run& r, MslState state) {
    r.fibre->state = state;
    msl_switch(&r.fibre->stack_pointer, r.scheduler_stack);
}

void record(Run& r, const Group& g, MslFaultKind kind) {
    MslFault& fault = *r.fault;
    fault.kind = kind;
    memcpy(fault.group, g.coordinates, sizeof fault.group);
    fault.n_threads = r.n_threads;
    for (const Fibre& f : g.fibres) {
        fault.site[f.thread] = f.site;
        fault.state[f.thread] = f.state;
    }
}

// Lets `lanes`, which all wait at one operation, exchange their values and go on.
void complete(Run& r, Group& g, uint32_t index, uint64_t lanes) {
    Simd& simd = g.simds[index];
    uint32_t width = r.launch->simd_width;
    Fibre* first = &g.fibres[index * width + __builtin_ctzll(lanes)];
    // A matrix is spread over 32 lanes.
    if (first->whole && (width != 32 || lanes != 0xffffffff)) {
        r.fault->thread = first->thread;
        r.fault->line = first->site >> 10;
        return record(r, g, MSL_PARTIAL_MATRIX);
    }
    if (first->combine) {
        int lane = first->combine(simd.slots, lanes, width);
        if (lane >= 0) {
            r.fault->thread = index * width + (lane >> 8);
            r.fault->other_thread = index * width + (lane & 255);
            r.fault->line = first->site >> 10;
            return record(r, g, MSL_INACTIVE_LANE);
        }
    } else {
        g.clock++;
        if (first->flags & 1) simd.fenced_device = g.clock;
        if (first->flags & 2) simd.fenced_threadgroup = g.clock;
    }
    simd.waiting &= ~lanes;
    for (uint64_t rest = lanes; rest; rest &= rest - 1)
        g.fibres[index * width + __builtin_ctzll(rest)].state = MSL_RUNNABLE;
}

// The lanes that wait at one operation.
uint64_t companions(const Run& r, const Group& g, uint32_t index, uint32_t site) {
    uint64_t lanes = 0;
    uint32_t width = r.launch->simd_width;
    for (uint64_t rest = g.simds[index].waiting; rest; rest &= rest - 1) {
        uint32_t lane = __builtin_ctzll(rest);
        if (g.fibres[index * width + lane].site == site) lanes |= 1ull << lane;
    }
    return lanes;
}

void complete_if_all_wait(Run& r, Group& g, uint32_t index) {
    Simd& simd = g.simds[index];
    // Lanes that have ended are missing, unless some may be.
    uint64_t needed = r.launch->allow_partial_simd ? simd.present : simd.existing;
    if (simd.waiting == 0 || simd.waiting != needed) return;
    uint32_t site = g.fibres[index * r.launch->simd_width + __builtin_ctzll(simd.waiting)].site;
    if (companions(r, g, index, site) == simd.waiting) complete(r, g, index, simd.waiting);
}

void fibre_main() {
    run->launch->entry();
    Run& r = *run;
    confirm(r);
    Group& g = *r.group;
    Fibre& f = *r.fibre;
    f.state = MSL_ENDED;
    g.ended++;
    g.simds[f.simd].present &= ~(1ull << f.lane);
    complete_if_all_wait(r, g, f.simd);
    wait(r, MSL_ENDED);
    __builtin_trap();
}

void start(Run& r, Group& g, uint32_t number, size_t first_stack) {
    const MslLaunch& launch = *r.launch;
    uint32_t n = r.n_threads, width = launch.simd_width;
    g.index = number + 1;
    g.coordinates[0] = number % launch.grid[0];
    g.coordinates[1] = number / launch.grid[0] % launch.grid[1];
    g.coordinates[2] = number / launch.grid[0] / launch.grid[1];
    g.ended = g.threadgroup_bytes = 0;
    g.clock = 1;
    g.ordered_device = g.ordered_threadgroup = 0;
    g.fibres.assign(n, Fibre{});
    g.simds.resize((n + width - 1) / width);
    for (Simd& simd : g.simds)
        simd.existing = simd.present = simd.waiting = simd.fenced_device = simd.fenced_threadgroup = 0;
    for (uint32_t i = 0; i < n; i++) {
        Fibre& f = g.fibres[i];
        f.thread = i;
        f.lane = i % width;
        f.simd = i / width;
        f.position[0] = i % launch.threads[0];
        f.position[1] = i / launch.threads[0] % launch.threads[1];
        f.position[2] = i / launch.threads[0] / launch.threads[1];
        g.simds[f.simd].existing |= 1ull << f.lane;
        f.stack_pointer = new_stack(first_stack + i, stacks.top(first_stack + i));
    }
    for (Simd& simd : g.simds) simd.present = simd.existing;
    g.sequence.resize(n);
    for (uint32_t i = 0; i < n; i++) g.sequence[i] = launch.order == MSL_REVERSE ? n - 1 - i : i;
    if (launch.order == MSL_INTERLEAVED) {
        uint32_t k = 0;
        for (uint32_t lane = 0; lane < width; lane++)
            for (uint32_t t = lane; t < n; t += width) g.sequence[k++] = t;
    }
}

// Every runnable fibre of the group runs up to where it waits. Returns whether any ran.
bool pass(Run& r, Group& g) {
    if (r.launch->order == MSL_SHUFFLED)
        for (uint32_t i = r.n_threads - 1; i > 0; i--)
            std::swap(g.sequence[i], g.sequence[next_random(r) % (i + 1)]);
    bool ran = false;
    r.group = &g;
    for (uint32_t t : g.sequence) {
        Fibre& f = g.fibres[t];
        if (f.state != MSL_RUNNABLE) continue;
        ran = true;
        r.fibre = &f;
        refresh(r);
        msl_switch(&r.scheduler_stack, f.stack_pointer);
        if (r.fault->kind != MSL_OK) break;
    }
    return ran;
}

// No fibre of the group can run: opens its barrier, or says why it stays shut.
void settle(Run& r, Group& g) {
    for (uint32_t i = 0; i < g.simds.size(); i++) {
        Simd& simd = g.simds[i];
        if (simd.waiting == 0) continue;
        if (!r.launch->allow_partial_simd) {
            r.fault->thread = i * r.launch->simd_width + __builtin_ctzll(simd.waiting);
            return record(r, g, MSL_SIMD_DIVERGENCE);
        }
        // The operation that comes first in the text runs first, with those lanes that are there.
        uint32_t site = UINT32_MAX;
        for (uint64_t rest = simd.waiting; rest; rest &= rest - 1) {
            uint32_t s = g.fibres[i * r.launch->simd_width + __builtin_ctzll(rest)].site;
            if (s < site) site = s;
        }
        return complete(r, g, i, companions(r, g, i, site));
    }
    const Fibre& first = g.fibres[0];
    for (const Fibre& f : g.fibres)
        if (f.state != MSL_AT_BARRIER || f.site != first.site || f.flags != first.flags)
            return record(r, g, MSL_BARRIER_DIVERGENCE);
    g.clock++;
    if (first.flags & 1) g.ordered_device = g.clock;
    if (first.flags & 2) g.ordered_threadgroup = g.clock;
    for (Fibre& f : g.fibres) f.state = MSL_RUNNABLE;
}

// The order in which threadgroups are taken: a walk that meets each of them once.
struct Walk {
    uint64_t total, step, offset;
    explicit Walk(Run& r) {
        const MslLaunch& launch = *r.launch;
        total = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
        step = launch.order == MSL_REVERSE ? total - 1 : 1;
        offset = launch.order == MSL_REVERSE ? total - 1 : 0;
        if (launch.order != MSL_SHUFFLED) return;
        offset = next_random(r) % total;
        for (step = 1 + next_random(r) % total; common_factor(step, total) != 1;) step++;
    }
    static uint64_t common_factor(uint64_t a, uint64_t b) { return b == 0 ? a : common_factor(b, a % b); }
    uint32_t operator[](uint64_t i) const { return static_cast<uint32_t>((offset + i * step) % total); }
};

}  // namespace

void run_groups(Run& r) {
    Walk walk(r);
    uint64_t next = 0;
    auto take = [&](Group& g, size_t resident) {
        g.index = 0;
        if (next < walk.total) start(r, g, walk[next++], resident * r.n_threads);
    };
    for (size_t i = 0; i < r.groups.size(); i++) take(r.groups[i], i);
    for (bool busy = true; busy;) {
        busy = false;
        for (size_t i = 0; i < r.groups.size(); i++) {
            Group& g = r.groups[i];
            if (g.index == 0) continue;
            busy = true;
            if (!pass(r, g)) settle(r, g);
            if (r.fault->kind != MSL_OK) return;
            if (g.ended == r.n_threads) take(g, i);
        }
    }
}

bool reserve_stacks(Run& r) { return stacks.reserve(r.groups.size() * r.n_threads); }

void barrier(Run& r, uint32_t flags, uint32_t site) {
    confirm(r);
    r.fibre->site = site;
    r.fibre->flags = flags;
    wait(r, MSL_AT_BARRIER);
}

void simd_operation(Run& r, Combine combine, bool whole, uint32_t flags, uint32_t site) {
    confirm(r);
    Fibre& f = *r.fibre;
    Group& g = *r.group;
    f.site = site;
    f.flags = flags;
    f.combine = combine;
    f.whole = whole;
    f.state = MSL_AT_SIMD;
    g.simds[f.simd].waiting |= 1ull << f.lane;
    complete_if_all_wait(r, g, f.simd);
    if (r.fault->kind != MSL_OK) leave();
    if (f.state == MSL_RUNNABLE)
        refresh(r);
    else
        wait(r, MSL_AT_SIMD);
}

void leave() {
    Run& r = *run;
    if (r.fault->n_threads == 0) {
        r.fault->thread = r.fibre->thread;
        record(r, *r.group, static_cast<MslFaultKind>(r.fault->kind));
    }
    void* discarded = r.fibre->stack_pointer;
    msl_switch(&discarded, r.scheduler_stack);
    __builtin_trap();
}

}  // namespace msl
