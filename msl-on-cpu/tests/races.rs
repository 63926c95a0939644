//! Synchronisation that is missing or misplaced is found: each test breaks a right kernel in one
//! place.

mod support;

use msl_on_cpu::{Fault, Launch, Memory, Order};
use support::{Bytes, SUM, compile, info, kernel, run_sum, without};

#[test]
fn the_whole_kernel_is_right() {
    assert_eq!(run_sum(SUM, true).unwrap(), [true; 4]);
}

#[test]
fn a_missing_barrier_is_a_race_in_every_order() {
    for (n, name, line) in [(0, "tile", 15), (1, "partial", 21)] {
        let source = without(SUM, "threadgroup_barrier", n);
        let program = compile(&source, "sum");
        let bytes = vec![0; 2048];
        let mut out = vec![0; 8];
        let mut launch = Launch::new([2, 1, 1], [256, 1, 1]).read(&bytes).read_write(&mut out);
        for order in Order::ALL {
            launch.order = order;
            let fault = program.run(&mut launch).unwrap_err();
            let Fault::Race { touch, .. } = &fault else { panic!("{order:?}: {fault}") };
            assert_eq!(touch.memory, Memory::Threadgroup { name: name.to_owned() }, "{order:?}");
            // The read or the write, whichever this order does last.
            assert!([13, line, 17, 18].contains(&touch.line.unwrap()), "{order:?}: {fault}");
        }
    }
}

#[test]
fn a_missing_barrier_gives_wrong_numbers_in_some_order() {
    for n in 0..2 {
        let right = run_sum(&without(SUM, "threadgroup_barrier", n), false).unwrap();
        assert!(right.contains(&false), "barrier {n}: {right:?}");
    }
}

#[test]
fn each_barrier_of_generated_kernels_is_needed() {
    let x = vec![0; 4000];
    let sizes = u32::bytes(&[4000, 16]);
    let lengths = info(&[], &[1000, 4]);
    for source in
        [&kernel("reduce_sum"), &kernel("naga_reduce_sum"), &kernel("naga_checked_reduce_sum")]
    {
        let barriers = source.matches("threadgroup_barrier").count();
        assert!(barriers >= 2);
        for n in 0..barriers {
            let program = compile(&without(source, "threadgroup_barrier", n), "reduce_sum");
            let mut out = vec![0; 16];
            let mut launch = Launch::new([4, 1, 1], [256, 1, 1])
                .read(&x)
                .read_write(&mut out)
                .read(&lengths)
                .read(&sizes);
            for order in Order::ALL {
                launch.order = order;
                let fault = program.run(&mut launch).unwrap_err();
                assert!(matches!(fault, Fault::Race { .. }), "barrier {n}, {order:?}: {fault}");
            }
        }
    }
}

#[test]
fn a_barrier_without_the_right_fence_orders_nothing() {
    let fault = run_sum(&SUM.replace("mem_threadgroup", "mem_none"), true).unwrap_err();
    assert!(matches!(fault, Fault::Race { .. }), "{fault}");
    assert_eq!(run_sum(&SUM.replace("mem_threadgroup", "mem_none"), false).unwrap(), [true; 4]);
}

#[test]
fn fences_of_a_simd_group_order_its_own_lanes_only() {
    let source = |distance: u32, flags: &str| {
        format!(
            "kernel void pass(device uint* out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {{
            threadgroup uint tile[64];
            tile[t] = t;
            metal::simdgroup_barrier(metal::mem_flags::{flags});
            out[t] = tile[(t + {distance}) % 64];\n}}"
        )
    };
    let run = |source: &str| {
        let mut out = vec![0; 256];
        let mut launch = Launch::new([1, 1, 1], [64, 1, 1]).read_write(&mut out);
        compile(source, "pass").run_in_every_order(&mut launch, |_, _| ()).map_err(|f| f.fault)
    };
    // Thread t ^ 1 is in the same SIMD-group.
    let neighbour = source(0, "mem_threadgroup").replace("(t + 0)", "(t ^ 1)");
    assert_eq!(run(&neighbour), Ok(()));
    assert!(matches!(
        run(&neighbour.replace("mem_threadgroup", "mem_none")),
        Err(Fault::Race { .. })
    ));
    assert!(matches!(run(&source(32, "mem_threadgroup")), Err(Fault::Race { .. })));
}

#[test]
fn threadgroups_race_in_device_memory() {
    let source =
        "kernel void all(device uint* out [[buffer(0)]], uint t [[thread_index_in_threadgroup]],
        uint g [[threadgroup_position_in_grid]]) { if (t == 0) { out[g / 2] = g; } }";
    let mut out = vec![0; 64];
    let mut launch = Launch::new([3, 1, 1], [32, 1, 1]).read_write(&mut out);
    let fault = compile(source, "all").run(&mut launch).unwrap_err();
    let Fault::Race { touch, other } = &fault else { panic!("{fault}") };
    assert_eq!((touch.place.group, other.group, touch.offset), ([1, 0, 0], 0, 0));
    let atomic = source.replace("uint* out", "metal::atomic_uint* out").replace(
        "out[g / 2] = g",
        "metal::atomic_fetch_max_explicit(&out[g / 2], g, metal::memory_order_relaxed)",
    );
    compile(&atomic, "all").run_in_every_order(&mut launch, |_, _| ()).unwrap();
    drop(launch);
    assert_eq!(u32::values(&out)[..3], [1, 2, 0]);
}

#[test]
fn equal_writes_race_unless_they_are_allowed() {
    let source =
        "kernel void same(device uint* out [[buffer(0)]], constant uint& factor [[buffer(1)]],
        uint t [[thread_index_in_threadgroup]], uint g [[threadgroup_position_in_grid]]) {
        threadgroup uint four[4]; four[t % 4] = t * factor;
        out[0] = 5 + g * factor; }";
    let program = compile(source, "same");
    let run = |factor: u32, equal_writes: bool| {
        let (mut out, factor) = (vec![0; 4], u32::bytes(&[factor]));
        let mut launch = Launch::new([3, 1, 1], [64, 1, 1]).read_write(&mut out).read(&factor);
        launch.equal_writes = equal_writes;
        program.run_in_every_order(&mut launch, |_, b| assert_eq!(b[0].bytes(), [5, 0, 0, 0]))
    };
    run(0, true).unwrap();
    // Thread 1 writes `out` again, thread 4 the first of `four`.
    let out = Memory::Buffer { index: 0, name: "out".to_owned() };
    let four = Memory::Threadgroup { name: "four".to_owned() };
    for (factor, equal_writes, thread, memory) in
        [(0, false, 1, &out), (1, false, 1, &out), (1, true, 4, &four)]
    {
        let fault = run(factor, equal_writes).unwrap_err().fault;
        let Fault::Race { touch, .. } = &fault else { panic!("{fault}") };
        assert_eq!((touch.place.thread, &touch.memory), (thread, memory), "{fault}");
    }
}

#[test]
fn atomics_race_with_plain_accesses() {
    let source = "kernel void mixed(device metal::atomic_uint* a [[buffer(0)]], device uint* out [[buffer(1)]],
        uint t [[thread_index_in_threadgroup]]) {
        metal::atomic_fetch_add_explicit(a, 1u, metal::memory_order_relaxed);
        metal::threadgroup_barrier(metal::mem_flags::mem_device);
        out[t] = *reinterpret_cast<device uint*>(a); }";
    let run = |source: &str| {
        let (mut a, mut out) = (vec![0; 4], vec![0; 256]);
        let mut launch = Launch::new([1, 1, 1], [64, 1, 1]).read_write(&mut a).read_write(&mut out);
        compile(source, "mixed").run_in_every_order(&mut launch, |_, b| {
            assert_eq!(u32::values(b[1].bytes()), [64; 64]);
        })
    };
    run(source).unwrap();
    let fault = run(&without(source, "threadgroup_barrier", 0)).unwrap_err().fault;
    assert!(matches!(fault, Fault::Race { .. }), "{fault}");
}

#[test]
fn arrays_that_share_memory_race_through_it() {
    // Both arrays begin at byte 0, as where one is no longer used when the other begins to be.
    let source = "kernel void alias(device uint* out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
threadgroup uchar dynamic_shared_mem[256];
// Shared array size: 64, 256 bytes
threadgroup uint* a = reinterpret_cast<threadgroup uint*>(&dynamic_shared_mem[0]);
// Shared array size: 128, 256 bytes
threadgroup ushort* b = reinterpret_cast<threadgroup ushort*>(&dynamic_shared_mem[0]);
a[t] = t;
metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
uint sum = a[63 - t];
metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
b[t] = t;
out[t] = sum;
}";
    let run = |source: &str| {
        let mut out = vec![0; 256];
        let mut launch = Launch::new([2, 1, 1], [64, 1, 1]).read_write(&mut out);
        launch.grid = [1, 1, 1];
        compile(source, "alias").run_in_every_order(&mut launch, |_, b| {
            assert_eq!(u32::values(b[0].bytes()), (0..64).rev().collect::<Vec<_>>());
        })
    };
    run(source).unwrap();
    let fault = run(&without(source, "threadgroup_barrier", 1)).unwrap_err().fault;
    assert!(matches!(fault, Fault::Race { .. }), "{fault}");
}

#[test]
fn barriers_that_not_all_threads_reach() {
    let inside = SUM.replace(
        "    threadgroup_barrier(mem_flags::mem_threadgroup);\n    if (thread",
        "    if (thread_index < 200) { threadgroup_barrier(mem_flags::mem_threadgroup); }\n    if (thread",
    );
    let fault = run_sum(&inside, true).unwrap_err();
    let Fault::BarrierDivergence { waiting, ended, .. } = &fault else { panic!("{fault}") };
    assert_eq!((waiting.len(), waiting[0].line, waiting[0].threads.len()), (1, 18, 200));
    assert_eq!(*ended, (200..256).collect::<Vec<_>>());
    assert_eq!(
        fault.to_string(),
        "divergent barrier in threadgroup [0, 0, 0]: threads 0-199 wait at the barrier in line 18, \
         threads 200-255 have ended"
    );

    let other_site = SUM.replace(
        "    threadgroup_barrier(mem_flags::mem_threadgroup);\n    if (thread",
        "    if (lane < 16) { threadgroup_barrier(mem_flags::mem_threadgroup); } else {
          threadgroup_barrier(mem_flags::mem_threadgroup); }\n    if (thread",
    );
    let fault = run_sum(&other_site, true).unwrap_err();
    let Fault::BarrierDivergence { waiting, ended, .. } = &fault else { panic!("{fault}") };
    assert_eq!((waiting.len(), waiting[0].line, waiting[1].line, ended.len()), (2, 18, 19, 0));
}

#[test]
fn simd_group_functions_that_not_all_lanes_reach() {
    let source = "#include <metal_stdlib>
using namespace metal;
kernel void part(device uint* out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
    uint v = 0;
    if (t % 32 < 16) {
        v = simd_sum(t);
    }
    out[t] = v;
}";
    let mut out = vec![0; 256];
    let mut launch = Launch::new([1, 1, 1], [64, 1, 1]).read_write(&mut out);
    let fault = compile(source, "part").run(&mut launch).unwrap_err();
    let Fault::SimdDivergence { waiting, .. } = &fault else { panic!("{fault}") };
    assert_eq!((waiting[0].line, waiting[0].simd, waiting[0].threads.len()), (6, true, 16));

    // Where Metal's rules are meant, the lanes that are there take part.
    launch.partial_simd = true;
    let meet = source.replace(
        "    out[t] = v;",
        "    threadgroup_barrier(mem_flags::mem_none);\n    out[t] = v;",
    );
    compile(&meet, "part").run(&mut launch).unwrap();
    let inactive = meet.replace("simd_sum(t)", "simd_shuffle_xor(t, 16)");
    let fault = compile(&inactive, "part").run(&mut launch).unwrap_err();
    assert!(matches!(fault, Fault::InactiveLane { from: 16, line: 6, .. }), "{fault}");
    drop(launch);
    let sums = |low: u32| (low..low + 16).sum::<u32>();
    let found = u32::values(&out);
    assert_eq!(
        (found[0], found[15], found[16], found[32], found[48]),
        (sums(0), sums(0), 0, sums(32), 0)
    );
}
