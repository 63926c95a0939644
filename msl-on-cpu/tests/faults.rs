//! Accesses, arithmetic and launches that are wrong are found: each test breaks a right kernel in
//! one place.

mod support;

use msl_on_cpu::{Access, Fault, Launch, Memory, Place, Program, Undefined};
use support::{Bytes, SUM, compile, info, kernel, run_sum};

/// One access by one thread to buffers of 64 bytes, the second one writable.
fn access(statement: &str) -> Result<(), Fault> {
    let source = format!(
        "#include <metal_stdlib>
        using namespace metal;
        kernel void one(const device float* x [[buffer(0)]], device float* out [[buffer(1)]],
            constant uint& one [[buffer(2)]]) {{ threadgroup float tile[16];
            {statement} }}"
    );
    let (x, mut out, one) = (vec![0; 64], vec![0; 64], u32::bytes(&[1]));
    let mut launch = Launch::new([1, 1, 1], [1, 1, 1]).read(&x).read_write(&mut out).read(&one);
    compile(&source, "one").run(&mut launch)
}

#[test]
fn every_kind_of_access_is_bounded() {
    // The last index that is right, and the type.
    let types = [
        (15, "float"),
        (63, "uchar"),
        (31, "half"),
        (7, "float2"),
        (3, "float4"),
        (3, "float3"),
        (7, "half4"),
        (7, "half3"),
        (63, "bool"),
        (7, "long"),
        (3, "ulong2"),
        (15, "char4"),
        (3, "float_4"),
        (4, "three"),
        (1, "eight"),
        (4, "packed_float3"),
        (0, "float4x4"),
        (15, "atomic_uint"),
    ];
    for (last, ty) in types {
        let source = format!(
            "using namespace metal;
struct alignas(16) float_4 {{ float a, b, c, d; }};
struct three {{ float a, b, c; }};
struct eight {{ float v[8]; }};
kernel void copy(const device {ty}* x [[buffer(0)]], device {ty}* out [[buffer(1)]], constant int2& at [[buffer(2)]]) {{
    out[at.x] = x[at.y];
}}"
        );
        let program = compile(&source, "copy");
        let copy = |i: i32, j: i32| {
            let (x, mut out, at) = (vec![0; 64], vec![0; 64], i32::bytes(&[i, j]));
            program
                .run(&mut Launch::new([1, 1, 1], [1, 1, 1]).read(&x).read_write(&mut out).read(&at))
        };
        assert_eq!(copy(last, last), Ok(()), "{ty}");
        assert_eq!(copy(0, 0), Ok(()), "{ty}");
        for (i, j, buffer) in
            [(last, last + 1, 0), (last, -1, 0), (last + 1, last, 1), (-1, last, 1)]
        {
            let fault = copy(i, j).unwrap_err();
            let Fault::OutOfBounds(touch) = &fault else { panic!("{ty}: {fault}") };
            assert!(
                matches!(touch.memory, Memory::Buffer { index, .. } if index == buffer),
                "{ty}: {fault}"
            );
            assert_eq!((touch.len, touch.line), (64, Some(6)), "{ty}: {fault}");
        }
    }
}

#[test]
fn wild_indices_are_found_in_the_memory_that_they_missed() {
    for (statement, offset) in [
        ("out[0] = x[4294967295u];", 4 * 4_294_967_295i64),
        ("out[0] = x[one - 2];", 4 * 4_294_967_295),
        ("out[0] = x[int(one) - 2];", -4),
        ("out[0] = ((const device float4*)x)[4000000000u].x;", 64_000_000_000),
        ("out[0] = x[-2000000000];", -8_000_000_000),
    ] {
        let fault = access(statement).unwrap_err();
        let Fault::OutOfBounds(touch) = &fault else { panic!("{fault}") };
        assert_eq!(touch.memory, Memory::Buffer { index: 0, name: "x".to_owned() });
        assert_eq!((touch.offset, touch.access), (offset, Access::Read), "{fault}");
    }
}

#[test]
fn threadgroup_arrays_are_bounded() {
    for statement in [
        "tile[one * 16] = 0.0;",
        "out[0] = (&tile[0])[one + 15];",
        "threadgroup float* p = tile; p[int(one) - 2] = 0.0;",
    ] {
        let fault = access(statement).unwrap_err();
        let found = match &fault {
            // The size of `tile` is known where it is indexed.
            Fault::Undefined { what: Undefined::Index, .. } => true,
            Fault::OutOfBounds(touch) => {
                touch.memory == Memory::Threadgroup { name: "tile".to_owned() }
            }
            _ => false,
        };
        assert!(found, "{statement}: {fault}");
    }
}

#[test]
fn neighbours_in_one_threadgroup_allocation_are_apart() {
    // The second array begins where the first ends.
    let source = &kernel("flash_attn");
    let broken = source.replace("shared_memory_0[l_mut_23]", "shared_memory_0[l_mut_23 + uint(1)]");
    assert_ne!(*source, broken);
    let n = 4096;
    let (x, info) = (vec![0; n * 4], info(&[0.125f32.to_bits(), 0, 1, 64], &[n as u32; 4]));
    let mut out = vec![0; n * 4];
    let mut launch = Launch::new([1, 1, 1], [64, 1, 1])
        .read(&x)
        .read(&x)
        .read(&x)
        .read_write(&mut out)
        .read(&info);
    compile(source, "flash_attn").run(&mut launch).unwrap();
    let fault = compile(&broken, "flash_attn").run(&mut launch).unwrap_err();
    let Fault::OutOfBounds(touch) = &fault else { panic!("{fault}") };
    assert_eq!(touch.memory, Memory::Threadgroup { name: "shared_memory_0".to_owned() });
    assert_eq!((touch.offset, touch.len), (8192, 8192));
}

#[test]
fn an_index_shifted_by_one_is_found_at_the_end() {
    let shifted =
        SUM.replace("x[group.x * 256 + thread_index]", "x[group.x * 256 + thread_index + 1]");
    let fault = run_sum(&shifted, true).unwrap_err();
    let Fault::OutOfBounds(touch) = &fault else { panic!("{fault}") };
    assert_eq!(touch.place, Place { group: [1, 0, 0], thread: 255 });
    assert_eq!((touch.offset, touch.len, touch.line), (2048, 2048, Some(13)));
    let fault = run_sum(&SUM.replace("tile[255 - thread_index]", "tile[256 - thread_index]"), true)
        .unwrap_err();
    assert!(matches!(fault, Fault::Undefined { what: Undefined::Index, line: 15, .. }), "{fault}");
}

#[test]
fn read_only_and_misaligned() {
    let fault = access("((device float*)x)[0] = 0.0;").unwrap_err();
    assert!(matches!(fault, Fault::ReadOnly(_)), "{fault}");
    let fault =
        access("out[0] = *(const device float*)((const device char*)x + one);").unwrap_err();
    assert!(matches!(fault, Fault::Misaligned(_)), "{fault}");
    let fault = access("*(device float4*)(out + one) = 0.0;").unwrap_err();
    assert!(matches!(fault, Fault::Misaligned(_)), "{fault}");
}

#[test]
fn pointers_without_value() {
    for statement in
        ["const device float* p = nullptr; out[0] = p[one];", "device float* p; p[one] = 0.0;"]
    {
        let fault = access(statement).unwrap_err();
        assert!(matches!(fault, Fault::WildPointer { line: Some(5), .. }), "{statement}: {fault}");
    }
}

#[test]
fn undefined_arithmetic() {
    for (statement, what) in [
        ("out[0] = float(7u / (one - 1u));", Undefined::Division),
        ("out[0] = float(7 % (int(one) - 1));", Undefined::Division),
        ("out[0] = float(7u << (one + 31u));", Undefined::Shift),
        (
            "struct F { static float f(uint x) { if (x > 1) { return 1.0; } } }; out[0] = F::f(one);",
            Undefined::Unreachable,
        ),
        ("float a[4] = {0, 0, 0, 0}; out[0] = a[one + 3];", Undefined::Index),
        ("float4 a = 0.0; out[0] = a[one + 3];", Undefined::Index),
    ] {
        let fault = access(statement).unwrap_err();
        let Fault::Undefined { what: found, line, .. } = &fault else {
            panic!("{statement}: {fault}")
        };
        assert_eq!((*found, *line), (what, 5), "{statement}");
    }
}

#[test]
fn memory_starts_as_not_a_number() {
    let source = "kernel void fresh(device float* out [[buffer(0)]]) {
        threadgroup float tile[4]; float mine; float array[3];
        threadgroup half h[2];
        out[0] = tile[3]; out[1] = mine; out[2] = array[1]; out[3] = h[1]; }";
    let mut out = vec![0; 16];
    let mut launch = Launch::new([1, 1, 1], [1, 1, 1]).read_write(&mut out);
    compile(source, "fresh").run(&mut launch).unwrap();
    drop(launch);
    assert!(f32::values(&out).iter().all(|v| v.is_nan()), "{:?}", f32::values(&out));
}

#[test]
fn threadgroup_memory_is_limited() {
    let source = "kernel void big(device float* out [[buffer(0)]]) {
        threadgroup float a[8192]; a[0] = 1.0; threadgroup float b[1]; b[0] = 1.0; out[0] = a[0] + b[0]; }";
    let mut out = vec![0; 4];
    let mut launch = Launch::new([1, 1, 1], [1, 1, 1]).read_write(&mut out);
    let fault = compile(source, "big").run(&mut launch).unwrap_err();
    assert_eq!(fault, Fault::ThreadgroupMemory { bytes: 32772, limit: 32768 });
}

#[test]
fn a_threads_own_memory_is_limited() {
    let source = |n: usize| {
        format!("kernel void own(device uint* out [[buffer(0)]]) {{
            uint a[{n}]; for (uint i = 0; i < {n}; i++) {{ a[i] = out[i % 4]; }} out[0] = a[out[1]]; }}")
    };
    let mut out = u32::bytes(&[1, 2, 3, 4]);
    let mut launch = Launch::new([1, 1, 1], [1, 1, 1]).read_write(&mut out);
    compile(&source(40_000), "own").run(&mut launch).unwrap();
    let error = Program::compile(&source(60_000), "own").unwrap_err();
    assert!(support::diagnostics(&error).contains("stack frame size"), "{error}");
}

#[test]
fn launches_that_cannot_be() {
    let program = compile(SUM, "sum");
    let fails = |launch: &mut Launch| program.run(launch).unwrap_err().to_string();
    let x = vec![0; 1024];
    assert_eq!(
        fails(&mut Launch::new([1, 1, 1], [256, 1, 1]).read(&x)),
        "the launch is wrong: parameter `out` is buffer 1, found 1 buffers"
    );
    let mut out = vec![0; 4];
    let mut launch = Launch::new([0, 1, 1], [256, 1, 1]).read(&x).read_write(&mut out);
    assert!(fails(&mut launch).contains("threadgroups, found [0, 1, 1]"));
    launch.grid = [u32::MAX; 3];
    assert!(fails(&mut launch).contains("threadgroups, found"));
    (launch.grid, launch.threads) = ([1, 1, 1], [1025, 1, 1]);
    assert!(fails(&mut launch).contains("a threadgroup has 1 to 1024 threads"));
    (launch.threads, launch.simd_width) = ([32, 1, 1], 24);
    assert!(fails(&mut launch).contains("found 24"));
}

#[test]
fn kernels_that_cannot_be() {
    let missing = Program::compile(SUM, "max").unwrap_err().to_string();
    assert_eq!(missing, "there is no kernel `max`; the text has: sum");
    assert!(Program::compile("", "sum").unwrap_err().to_string().ends_with("none"));
    let wrong = Program::compile(&SUM.replace("simd_sum(", "warp_sum("), "sum").unwrap_err();
    assert!(support::diagnostics(&wrong).starts_with("sum.metal:16:"), "{wrong}");
    let fence = SUM.replace("threadgroup_barrier(", "threadgroup_thread_fence(");
    assert!(
        support::diagnostics(&Program::compile(&fence, "sum").unwrap_err())
            .contains("threadgroup_thread_fence")
    );
}
