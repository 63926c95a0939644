//! The language's types and functions, beside the same in Rust.

mod support;

use msl_on_cpu::{Launch, Order, Program, check_opencl};
use support::{Bytes, compile, half};

/// Runs `statements` in one thread; `f` and `u` are the results, as floats and as integers.
fn evaluate(statements: &str) -> (Vec<f32>, Vec<u32>) {
    let source = format!(
        "#include <metal_stdlib>
        using namespace metal;
        kernel void one(device float* f [[buffer(0)]], device uint* u [[buffer(1)]], constant float& two [[buffer(2)]],
            constant uint& three [[buffer(3)]]) {{ {statements} }}"
    );
    check_opencl(&source).unwrap_or_else(|e| panic!("{e}"));
    let (mut f, mut u, two, three) =
        (vec![0; 64], vec![0; 64], f32::bytes(&[2.0]), u32::bytes(&[3]));
    let mut launch = Launch::new([1, 1, 1], [1, 1, 1])
        .read_write(&mut f)
        .read_write(&mut u)
        .read(&two)
        .read(&three);
    compile(&source, "one").run(&mut launch).unwrap_or_else(|e| panic!("{e}"));
    drop(launch);
    (f32::values(&f), u32::values(&u))
}

#[track_caller]
fn floats(statements: &str, expected: &[f32]) {
    let found = evaluate(statements).0;
    for (i, e) in expected.iter().enumerate() {
        assert!(
            (found[i] - e).abs() <= 1e-6 * e.abs().max(1.0),
            "{statements}: f[{i}] is {}, expected {e}",
            found[i]
        );
    }
}

#[track_caller]
fn integers(statements: &str, expected: &[u32]) {
    assert_eq!(evaluate(statements).1[..expected.len()], *expected, "{statements}");
}

#[test]
fn literals_are_single_precision() {
    // In double precision the sum would round to another float.
    let sum = 0.1f32 + 0.2f32 * 3.0;
    floats("f[0] = 0.1 + 0.2 * three;", &[sum]);
    integers(
        "f[0] = 16777216.0 + 1.0 * two / 2.0; u[0] = as_type<uint>(f[0]);",
        &[16_777_216f32.to_bits()],
    );
    floats(
        "f[0] = 1.5h; f[1] = float(half(0.1)); f[2] = 5.960464477539063e-8;",
        &[1.5, 0.099_975_586, 5.960_464_5e-8],
    );
}

#[test]
fn half_rounds_after_each_operation() {
    // 2048 + 1 is not a half; in single precision the sum would be 2050.
    floats(
        "half h = half(two) * 1024.0h; f[0] = (h + 1.0h) + 1.0h; f[1] = h * 0.5h + 0.25h;",
        &[2048.0, 1024.0],
    );
    integers(
        &format!("u[0] = as_type<ushort>(half(two) / half(3.0)); u[1] = {};", half(-0.3)),
        &[u32::from(half(0.666_503_9)), u32::from(half(-0.3))],
    );
}

#[test]
fn conversions_saturate() {
    integers(
        "u[0] = uint(-two); u[1] = uint(two * 4e9); u[2] = as_type<uint>(int(two * -4e9)); u[3] = uchar(three + 255);",
        &[0, u32::MAX, i32::MIN as u32, 2],
    );
}

#[test]
fn vectors() {
    floats(
        "float4 a = float4(1, two, float2(3, 4)); a.xy = a.zw; f[0] = dot(a, float4(1.0)); f[1] = a.wzyx.y;",
        &[14.0, 3.0],
    );
    floats(
        "f[0] = float4(int4(1, 2, 3, 4)).w; f[1] = ((float4)uint4(7)).x; f[2] = static_cast<float2>(int2(-1, 5)).x;",
        &[4.0, 7.0, -1.0],
    );
    floats(
        "half4 h = half4(float4(two)); float4 g = float4(h * h); f[0] = g.z; f[1] = length(float2(3, 4));",
        &[4.0, 5.0],
    );
    integers(
        "uint3 v = uint3(1, 2, 3); u[0] = all(v == uint3(1, 2, 3)); u[1] = any(v > 2u); u[2] = select(5u, 6u, three == 3); uint2 s = select(uint2(1), uint2(2), v.xy > 1u); u[3] = s.x * 10 + s.y;",
        &[1, 1, 6, 12],
    );
    integers(
        "u[0] = as_type<uint>(half2(1.0h, 2.0h)); u[1] = as_type<uint>(uchar4(1, 2, 3, 4)); *(device float4*)(u + 4) = as_type<float4>(uint4(9));",
        &[u32::from(half(1.0)) | u32::from(half(2.0)) << 16, 0x0403_0201],
    );
    floats(
        "packed_float3 p = packed_float3(float3(1, 2, 3)); float3 q = p; f[0] = q.z; vec<half, 4> r = vec<half, 4>(2.0h); f[1] = r.y;",
        &[3.0, 2.0],
    );
}

#[test]
fn functions_of_floats() {
    floats(
        "f[0] = exp(two); f[1] = log2(two * 4); f[2] = rsqrt(two); f[3] = precise::tanh(two); f[4] = fast::exp(-two); f[5] = pow(two, 3.0);",
        &[2f32.exp(), 3.0, 2f32.sqrt().recip(), 2f32.tanh(), (-2f32).exp(), 8.0],
    );
    floats(
        "f[0] = max(two, -1.0); f[1] = min(half(two), 1.0h); f[2] = clamp(two, 0.0, 1.0); f[3] = mix(1.0, 3.0, 0.25); f[4] = fma(two, two, 1.0); f[5] = sign(-two); f[6] = fract(-1.25); f[7] = rint(2.5); f[8] = round(2.5); f[9] = trunc(-1.5);",
        &[2.0, 1.0, 1.0, 1.5, 5.0, -1.0, 0.75, 2.0, 3.0, -1.0],
    );
    floats(
        "float4 v = max(float4(1, -2, 3, -4), 0.0); f[0] = v.x + v.y + v.z + v.w; f[1] = abs(-two); f[2] = abs(int(-3)); f[3] = fmod(7.5, two); f[4] = saturate(two); float c; f[5] = sincos(two, c); f[6] = c;",
        &[4.0, 2.0, 3.0, 1.5, 1.0, 2f32.sin(), 2f32.cos()],
    );
    integers(
        "u[0] = isnan(two - two); u[1] = isinf(exp(two * 100)); u[2] = isfinite(two); u[3] = as_type<uint>(ldexp(two, 3));",
        &[0, 1, 1, 16f32.to_bits()],
    );
}

#[test]
fn functions_of_integers() {
    integers(
        "u[0] = clz(three); u[1] = ctz(three * 8); u[2] = popcount(uint(0xff0f)); u[3] = reverse_bits(three); u[4] = extract_bits(uint(0xabcd), 4, 8); u[5] = insert_bits(0u, 0xfu, 8, 4); u[6] = rotate(0x80000001u, 4u); u[7] = mulhi(0x80000000u, 6u);",
        &[30, 3, 12, 0xc000_0000, 0xbc, 0xf00, 0x18, 3],
    );
    integers(
        "u[0] = addsat(0xffffffffu, three); u[1] = subsat(1u, three); u[2] = as_type<uint>(addsat(0x7fffffff, int(three))); u[3] = absdiff(1u, three); u[4] = hadd(0xffffffffu, 1u); u[5] = as_type<uint>(extract_bits(int(0xf0), 4, 4)); u[6] = as_type<uint>(mulhi(int(-1), int(three))); u[7] = clz(ushort(1));",
        &[u32::MAX, 0, i32::MAX as u32, 2, 1 << 31, u32::MAX, u32::MAX, 15],
    );
    // Integers wrap.
    integers(
        "int m = 0x7fffffff; u[0] = as_type<uint>(m + int(three)); u[1] = 0u - three;",
        &[0x8000_0002, u32::MAX - 2],
    );
}

/// An expression of the thread `t`, lane `l`, and what it is for thread `t`.
type Case = (&'static str, fn(u32) -> u32);

/// Each of `expressions` of the thread `t`, lane `l`, for 64 threads of two SIMD-groups; the same in
/// every order.
fn lanes(expressions: &[&str]) -> Vec<Vec<u32>> {
    let mut statements = String::new();
    for (i, expression) in expressions.iter().enumerate() {
        statements += "out[t + 64 * ";
        statements += &i.to_string();
        statements += "] = ";
        statements += expression;
        statements += ";\n";
    }
    let source = format!(
        "#include <metal_stdlib>
using namespace metal;
kernel void lanes(device uint* out [[buffer(0)]], uint t [[thread_index_in_threadgroup]], uint l [[thread_index_in_simdgroup]]) {{
{statements}}}"
    );
    check_opencl(&source).unwrap_or_else(|e| panic!("{e}"));
    let mut out = vec![0; 256 * expressions.len()];
    let mut all: Vec<Vec<u32>> = Vec::new();
    let mut launch = Launch::new([1, 1, 1], [64, 1, 1]).read_write(&mut out);
    compile(&source, "lanes")
        .run_in_every_order(&mut launch, |_, b| all.push(u32::values(b[0].bytes())))
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(all.windows(2).all(|w| w[0] == w[1]));
    all[0].chunks(64).map(<[u32]>::to_vec).collect()
}

#[test]
fn simd_group_functions() {
    fn base(t: u32) -> u32 {
        t / 32 * 32
    }
    fn sum(low: u32, n: u32) -> u32 {
        (low..low + n).sum()
    }
    let cases: [Case; 29] = [
        ("simd_sum(t)", |t| sum(base(t), 32)),
        ("uint(simd_sum(float(t)))", |t| sum(base(t), 32)),
        ("simd_max(t)", |t| base(t) + 31),
        ("simd_min(t)", base),
        ("simd_product(t % 2 + 1)", |_| 1 << 16),
        ("simd_and(t | 1)", |t| base(t) | 1),
        ("simd_or(t)", |t| base(t) | 31),
        ("simd_xor(1u << l)", |_| u32::MAX),
        ("simd_shuffle(t, 5)", |t| base(t) + 5),
        ("simd_shuffle(t, 31 - l)", |t| base(t) + 31 - t % 32),
        ("simd_broadcast(t, 7)", |t| base(t) + 7),
        ("simd_broadcast_first(t)", base),
        ("simd_shuffle_xor(t, 3)", |t| t ^ 3),
        ("simd_shuffle_down(t, 4)", |t| if t % 32 + 4 < 32 { t + 4 } else { t }),
        ("simd_shuffle_up(t, 4)", |t| if t % 32 >= 4 { t - 4 } else { t }),
        ("simd_prefix_inclusive_sum(t)", |t| sum(base(t), t % 32 + 1)),
        ("simd_prefix_exclusive_sum(t)", |t| sum(base(t), t % 32)),
        ("simd_prefix_inclusive_product(l % 8 == 7 ? 2u : 1u)", |t| 1 << ((t % 32 + 1) / 8)),
        ("uint(uint64_t(simd_ballot(l % 3 == 0)))", |_| {
            (0..32).filter(|l| l % 3 == 0).map(|l| 1 << l).sum()
        }),
        ("simd_all(l < 32) ? (simd_any(l == 40) ? 1 : 2) : 3", |_| 2),
        ("simd_is_first() ? 1 : 0", |t| u32::from(t % 32 == 0)),
        ("quad_sum(t)", |t| sum(t / 4 * 4, 4)),
        ("quad_max(t)", |t| t / 4 * 4 + 3),
        ("quad_broadcast(t, 2)", |t| t / 4 * 4 + 2),
        ("quad_shuffle(t, 3 - t % 4)", |t| t / 4 * 4 + 3 - t % 4),
        ("quad_shuffle_xor(t, 1)", |t| t ^ 1),
        ("quad_shuffle_down(t, 1)", |t| if t % 4 < 3 { t + 1 } else { t }),
        ("quad_shuffle_up(t, 2)", |t| if t % 4 >= 2 { t - 2 } else { t }),
        ("uint(simd_sum(half2(1.0h, 2.0h)).y)", |_| 64),
    ];
    let expressions: Vec<&str> = cases.iter().map(|c| c.0).collect();
    for ((expression, f), found) in cases.iter().zip(lanes(&expressions)) {
        let expected: Vec<u32> = (0..64).map(*f).collect();
        assert_eq!(found, expected, "{expression}");
    }
}

#[test]
fn atomics() {
    let source = "#include <metal_stdlib>
using namespace metal;
kernel void count(device atomic_uint* a [[buffer(0)]], device atomic_int* i [[buffer(1)]],
    device atomic_float* f [[buffer(2)]], uint t [[thread_position_in_grid]]) {
    threadgroup atomic_uint local_count;
    if (t % 64 == 0) { atomic_store_explicit(&local_count, 0u, memory_order_relaxed); }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    atomic_fetch_add_explicit(&local_count, 1u, memory_order_relaxed);
    atomic_fetch_max_explicit(&a[0], t, memory_order_relaxed);
    atomic_fetch_or_explicit(&a[1], 1u << t % 32, memory_order_relaxed);
    atomic_fetch_and_explicit(&a[2], ~(1u << t % 32), memory_order_relaxed);
    atomic_fetch_xor_explicit(&a[3], t, memory_order_relaxed);
    atomic_fetch_min_explicit(&i[0], -int(t), memory_order_relaxed);
    atomic_fetch_sub_explicit(&i[1], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(f, 0.5, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (t % 64 == 0) {
        uint n = atomic_load_explicit(&local_count, memory_order_relaxed);
        uint expected = 0;
        while (!atomic_compare_exchange_weak_explicit(&a[4], &expected, expected + n, memory_order_relaxed, memory_order_relaxed)) {}
        atomic_exchange_explicit(&a[5], 7u, memory_order_relaxed);
    }
}";
    check_opencl(source).unwrap_or_else(|e| panic!("{e}"));
    let (mut a, mut i, mut f) = (u32::bytes(&[0, 0, u32::MAX, 0, 0, 0]), vec![0; 8], vec![0; 4]);
    let mut launch =
        Launch::new([3, 1, 1], [64, 1, 1]).read_write(&mut a).read_write(&mut i).read_write(&mut f);
    compile(source, "count")
        .run_in_every_order(&mut launch, |_, b| {
            assert_eq!(u32::values(b[0].bytes()), [191, u32::MAX, 0, 0, 192, 7]);
            assert_eq!(i32::values(b[1].bytes()), [-191, -192]);
            assert_eq!(f32::values(b[2].bytes()), [96.0]);
        })
        .unwrap();
}

#[test]
fn positions_and_sizes() {
    let source = "kernel void where(device metal::uint4* out [[buffer(0)]],
    metal::uint3 p [[thread_position_in_grid]], metal::uint3 g [[threadgroup_position_in_grid]],
    metal::ushort3 t [[thread_position_in_threadgroup]], uint3 n [[threads_per_threadgroup]],
    uint3 groups [[threadgroups_per_grid]], uint3 threads [[threads_per_grid]],
    ushort i [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]], uint width [[threads_per_simdgroup]],
    uint simds [[simdgroups_per_threadgroup]], uint2 flat [[thread_position_in_grid]]) {
    uint at = (p.z * threads.y + p.y) * threads.x + p.x;
    bool right = p.x == g.x * n.x + t.x && p.y == g.y * n.y + t.y && p.z == g.z * n.z + t.z
        && threads.x == groups.x * n.x && i == (t.z * n.y + t.y) * n.x + t.x
        && i == simd * width + lane && simds == (n.x * n.y * n.z + width - 1) / width && flat.y == p.y;
    out[at] = metal::uint4(right ? 1u : 0u, width, simds, at);
}";
    let threads = [5, 2, 3];
    for width in [4, 16, 32, 64] {
        let total = 30 * 8;
        let mut out = vec![0; total * 16];
        let mut launch = Launch::new([2, 2, 2], threads).read_write(&mut out);
        launch.simd_width = width;
        compile(source, "where")
            .run_in_every_order(&mut launch, |_, b| {
                for (at, w) in u32::values(b[0].bytes()).chunks(4).enumerate() {
                    assert_eq!(w, [1, width, 30u32.div_ceil(width), at as u32]);
                }
            })
            .unwrap();
    }
}

#[test]
fn orders_differ_and_are_repeatable() {
    let source = "kernel void order(device metal::atomic_uint* next [[buffer(0)]], device uint* out [[buffer(1)]],
        uint t [[thread_position_in_grid]]) {
        out[metal::atomic_fetch_add_explicit(next, 1u, metal::memory_order_relaxed)] = t; }";
    let program = compile(source, "order");
    let run = |order: Order| {
        let (mut next, mut out) = (vec![0; 4], vec![0; 4 * 4 * 64]);
        let mut launch = Launch::new([4, 1, 1], [64, 1, 1])
            .read_write(&mut next)
            .read_write(&mut out)
            .order(order);
        program.run(&mut launch).unwrap();
        drop(launch);
        u32::values(&out)
    };
    let ascending: Vec<u32> = (0..256).collect();
    assert_eq!(run(Order::Forward), ascending);
    assert_eq!(run(Order::Reverse), ascending.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!(run(Order::Interleaved)[..6], [0, 32, 1, 33, 2, 34]);
    let shuffled = run(Order::Shuffled(1));
    assert_eq!(shuffled, run(Order::Shuffled(1)));
    assert_ne!(shuffled, run(Order::Shuffled(2)));
    assert_ne!(shuffled, ascending);
    for order in Order::ALL {
        let mut found = run(order);
        found.sort_unstable();
        assert_eq!(found, ascending, "{order:?}");
    }
}

#[test]
fn many_kernels_in_one_unit_and_in_many_threads() {
    let text = |n: u32| {
        format!(
            "#include <metal_stdlib>\nusing namespace metal;\nstruct info_st {{ uint v[{n}]; }};
            kernel void fill(device uint* out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {{
            threadgroup info_st tile; tile.v[t % {n}] = {n}; threadgroup_barrier(mem_flags::mem_threadgroup);
            out[t] = tile.v[{n} - 1]; }}"
        )
    };
    let texts: Vec<String> = (1..=8).map(text).collect();
    let list: Vec<(&str, &str)> = texts.iter().map(|t| (t.as_str(), "fill")).collect();
    let programs = Program::compile_all(&list).unwrap_or_else(|e| panic!("{e}"));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let programs = &programs;
            scope.spawn(move || {
                for (n, program) in (1u32..).zip(programs) {
                    let mut out = vec![0; 4 * n as usize];
                    let mut launch = Launch::new([1, 1, 1], [n, 1, 1]).read_write(&mut out);
                    launch.order = Order::Shuffled(thread);
                    program.run(&mut launch).unwrap_or_else(|e| panic!("{e}"));
                    drop(launch);
                    assert_eq!(u32::values(&out), vec![n; n as usize]);
                }
            });
        }
    });
}

#[test]
fn no_text_is_too_strange_for_an_error() {
    for source in [
        "kernel void k(",
        "kernel void k() { ",
        "kernel void k() {} }",
        "\"",
        "kernel void k(device float* a [[buffer(0)]]) { a[ }",
        "#error no\nkernel void k() {}",
    ] {
        assert!(Program::compile(source, "k").is_err(), "{source}");
        assert!(check_opencl(source).is_err() || !source.contains("kernel"), "{source}");
    }
}
