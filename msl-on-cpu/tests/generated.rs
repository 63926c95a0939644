//! Kernels as `CubeCL` and naga write them: right numbers in every order of threads.

mod support;

use msl_on_cpu::{Buffer, Fault, Launch, Memory, Rule, check_opencl, check_rules};
use support::{Bytes, compile, float, half, info, kernel, noise};

fn close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= tolerance,
            "element {i}: found {a}, expected {b} within {tolerance}"
        );
    }
}

fn floats(buffer: &Buffer) -> Vec<f32> {
    f32::values(buffer.bytes())
}

/// Sums of the parts of 256 numbers of a thousand.
fn sums(x: &[f32]) -> Vec<f32> {
    x.chunks(256).map(|c| c.iter().map(|&v| f64::from(v)).sum::<f64>() as f32).collect()
}

#[test]
fn dequantises_q8_0() {
    let program = compile(&kernel("dequant_q8_0_f32"), "dequant_q8_0_f32");
    // 16 blocks of a half scale and 32 signed bytes.
    let (mut blocks, mut expected) = (Vec::new(), Vec::new());
    for b in 0..16u16 {
        let scale = half(0.25 + f32::from(b));
        blocks.extend(scale.to_le_bytes());
        for i in 0..32 {
            let q = (i * 8 - 124 + i32::from(b)) as i8;
            blocks.push(q as u8);
            expected.push(f32::from(q) * float(scale));
        }
    }
    let mut out = vec![0; expected.len() * 4];
    let info = info(&[16], &[blocks.len() as u32 / 4, expected.len() as u32]);
    let mut launch =
        Launch::new([2, 1, 1], [64, 1, 1]).read(&blocks).read_write(&mut out).read(&info);
    program
        .run_in_every_order(&mut launch, |_, buffers| assert_eq!(floats(&buffers[1]), expected))
        .unwrap();
}

#[test]
fn reduces_through_threadgroup_memory() {
    let x = noise(1000, 1);
    let (bytes, info) = (f32::bytes(&x), info(&[], &[1000, 4]));
    let mut out = vec![0; 16];
    let program = compile(&kernel("reduce_sum"), "reduce_sum");
    let mut launch =
        Launch::new([4, 1, 1], [256, 1, 1]).read(&bytes).read_write(&mut out).read(&info);
    program.run_in_every_order(&mut launch, |_, b| close(&floats(&b[1]), &sums(&x), 1e-5)).unwrap();
}

#[test]
fn nagas_text_runs_too() {
    let x = noise(1000, 1);
    let (bytes, info, sizes) = (f32::bytes(&x), info(&[], &[1000, 4]), u32::bytes(&[4000, 16]));
    for source in [&kernel("naga_reduce_sum"), &kernel("naga_checked_reduce_sum")] {
        let program = compile(source, "reduce_sum");
        let mut out = vec![0; 16];
        let mut launch = Launch::new([4, 1, 1], [256, 1, 1])
            .read(&bytes)
            .read_write(&mut out)
            .read(&info)
            .read(&sizes);
        program
            .run_in_every_order(&mut launch, |_, b| close(&floats(&b[1]), &sums(&x), 1e-5))
            .unwrap();
    }
}

#[test]
fn softmax_over_a_simd_group() {
    let x = noise(128, 2);
    let expected: Vec<f32> = x
        .chunks(32)
        .flat_map(|c| {
            let max = c.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f32> = c.iter().map(|v| (v - max).exp()).collect();
            let sum: f32 = e.iter().sum();
            e.into_iter().map(move |v| v / sum)
        })
        .collect();
    let (bytes, info, sizes) = (f32::bytes(&x), info(&[], &[128, 128]), u32::bytes(&[512, 512]));
    for source in [&kernel("plane_softmax"), &kernel("naga_plane_softmax")] {
        let program = compile(source, "plane_softmax");
        let mut out = vec![0; 512];
        let mut launch = Launch::new([2, 1, 1], [64, 1, 1])
            .read(&bytes)
            .read_write(&mut out)
            .read(&info)
            .read(&sizes);
        program
            .run_in_every_order(&mut launch, |_, b| close(&floats(&b[1]), &expected, 1e-6))
            .unwrap();
    }
}

#[test]
fn histogram_with_atomics() {
    let x: Vec<u32> = (0..640).map(|i| i * i % 1000).collect();
    let mut expected = vec![0u32; 16];
    for v in &x {
        expected[*v as usize % 16] += 1;
    }
    let (bytes, info, sizes) = (u32::bytes(&x), info(&[], &[640, 16]), u32::bytes(&[2560, 64]));
    for source in [&kernel("atomic_hist"), &kernel("naga_atomic_hist")] {
        let program = compile(source, "atomic_hist");
        let mut out = vec![0; 64];
        let mut launch = Launch::new([10, 1, 1], [64, 1, 1])
            .read(&bytes)
            .read_write(&mut out)
            .read(&info)
            .read(&sizes);
        program
            .run_in_every_order(&mut launch, |_, b| assert_eq!(u32::values(b[1].bytes()), expected))
            .unwrap();
    }
}

/// `a` of 8 × k by `b` of k × 8, through f32.
fn product(a: &[u16], b: &[u16]) -> Vec<f32> {
    let k = b.len() / 8;
    let at = |i: usize, j: usize| (0..k).map(|t| float(a[i * k + t]) * float(b[t * 8 + j])).sum();
    (0..64).map(|i| at(i / 8, i % 8)).collect()
}

#[test]
fn simd_group_matrices() {
    let halves = |n, seed| noise(n, seed).into_iter().map(|x| half(x + 1.5)).collect::<Vec<_>>();
    let (a, b) = (halves(64, 3), halves(64, 4));
    let (raw_a, raw_b) = (u16::bytes(&a), u16::bytes(&b));
    let mut out = vec![0; 256];
    let lengths = info(&[], &[64, 64, 64]);
    let program = compile(&kernel("cmma_8x8"), "cmma_8x8");
    let mut launch = Launch::new([1, 1, 1], [32, 1, 1])
        .read(&raw_a)
        .read(&raw_b)
        .read_write(&mut out)
        .read(&lengths);
    program
        .run_in_every_order(&mut launch, |_, buffers| {
            close(&floats(&buffers[2]), &product(&a, &b), 1e-4);
        })
        .unwrap();

    let (a, b) = (halves(8 * 40, 5), halves(40 * 8, 6));
    let (raw_a, raw_b) = (u16::bytes(&a), u16::bytes(&b));
    let expected: Vec<f32> = product(&a, &b).into_iter().map(|x| 2.0 * x).collect();
    let info = info(&[40], &[320, 320, 64]);
    let program = compile(&kernel("cmma_tiled"), "cmma_tiled");
    let mut launch = Launch::new([1, 1, 1], [32, 1, 1])
        .read(&raw_a)
        .read(&raw_b)
        .read_write(&mut out)
        .read(&info);
    program
        .run_in_every_order(&mut launch, |_, buffers| close(&floats(&buffers[2]), &expected, 1e-3))
        .unwrap();

    // 16 threads are half of a SIMD-group.
    launch.threads = [16, 1, 1];
    let fault = program.run(&mut launch).unwrap_err();
    assert!(matches!(fault, Fault::PartialMatrix { .. }), "{fault}");
    (launch.threads, launch.simd_width) = ([32, 1, 1], 16);
    let fault = program.run(&mut launch).unwrap_err();
    assert!(matches!(fault, Fault::PartialMatrix { .. }), "{fault}");
}

/// Causal attention of `h` heads, `n` positions, 64 wide, in f64.
fn attention(q: &[f32], k: &[f32], v: &[f32], h: usize, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; q.len()];
    for row in 0..h * n {
        let (head, i) = (row / n, row % n);
        let scores: Vec<f64> = (0..=i)
            .map(|j| {
                (0..64)
                    .map(|d| f64::from(q[row * 64 + d] * k[(head * n + j) * 64 + d]))
                    .sum::<f64>()
                    * 0.125
            })
            .collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for d in 0..64 {
            let mixed: f64 =
                (0..=i).map(|j| weights[j] * f64::from(v[(head * n + j) * 64 + d])).sum();
            out[row * 64 + d] = (mixed / sum) as f32;
        }
    }
    out
}

#[test]
fn flash_attention() {
    let (h, n) = (2, 128);
    let size = h * n * 64;
    let (q, k, v) = (noise(size, 7), noise(size, 8), noise(size, 9));
    let expected = attention(&q, &k, &v, h, n);
    let (q, k, v) = (f32::bytes(&q), f32::bytes(&k), f32::bytes(&v));
    // Each group of scalars is padded to 8 bytes.
    let info = info(&[0.125f32.to_bits(), 0, 1, n as u32], &[size as u32; 4]);
    let sizes = u32::bytes(&[size as u32 * 4; 4]);
    for source in [&kernel("flash_attn"), &kernel("naga_flash_attn")] {
        let program = compile(source, "flash_attn");
        let mut out = vec![0; size * 4];
        let mut launch = Launch::new([n as u32 / 64, h as u32, 1], [64, 1, 1])
            .read(&q)
            .read(&k)
            .read(&v)
            .read_write(&mut out)
            .read(&info)
            .read(&sizes);
        program
            .run_in_every_order(&mut launch, |_, b| close(&floats(&b[3]), &expected, 1e-6))
            .unwrap();
    }
}

#[test]
fn vectors_shuffles_and_float_atomics() {
    let n = 128;
    let (x, s) = (noise(n * 4, 10), noise(n, 11));
    let halves: Vec<u16> = s.iter().map(|&v| half(v)).collect();
    let s: Vec<f32> = halves.iter().map(|&h| float(h)).collect();
    let expected: Vec<f32> =
        x.iter().enumerate().map(|(i, v)| (v * s[i / 4] + 1.0).exp()).collect();
    let erf = |x: f32| {
        // 7.1.26 of Abramowitz and Stegun, as the kernel has it.
        let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
        let p = ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_8) * t - 0.284_496_72) * t
            + 0.254_829_6)
            * t;
        x.signum() * (1.0 - p * (-x * x).exp())
    };
    let total: f32 = (0..n).map(|i| (s[i ^ 1] + s[i / 32 * 32 + 3]).tanh() + erf(s[i])).sum();
    let (x, halves) = (f32::bytes(&x), u16::bytes(&halves));
    let info = info(&[], &[n as u32, n as u32, n as u32, 1]);
    let (mut out, mut sum) = (vec![0; n * 16], vec![0; 4]);
    let program = compile(&kernel("vector_mix"), "vector_mix");
    let mut launch = Launch::new([2, 1, 1], [64, 1, 1])
        .read(&x)
        .read(&halves)
        .read_write(&mut out)
        .read_write(&mut sum)
        .read(&info);
    program
        .run_in_every_order(&mut launch, |_, b| {
            close(&floats(&b[2]), &expected, 1e-5);
            close(&floats(&b[3]), &[total], 1e-4);
        })
        .unwrap();
}

#[test]
fn device_memory_is_not_ordered_by_a_threadgroup_fence() {
    let program = compile(&kernel("device_pass"), "device_pass");
    let mut out = vec![0; 512];
    let info = info(&[], &[128]);
    let mut launch = Launch::new([1, 1, 1], [64, 1, 1]).read_write(&mut out).read(&info);
    let fault = program.run_in_every_order(&mut launch, |_, _| ()).unwrap_err().fault;
    let Fault::Race { touch, .. } = &fault else { panic!("{fault}") };
    assert_eq!(touch.memory, Memory::Buffer { index: 0, name: "buffer_0".to_owned() });
    let ordered =
        kernel("device_pass").replace("mem_flags::mem_threadgroup", "mem_flags::mem_device");
    compile(&ordered, "device_pass").run_in_every_order(&mut launch, |_, _| ()).unwrap();
}

#[test]
fn a_cast_between_matrices_writes_beyond_a_lanes_two_elements() {
    let source = &kernel("cmma_cast");
    let (halves, info) = (vec![0; 128], info(&[], &[64, 64, 64]));
    let mut out = vec![0; 128];
    let mut launch = Launch::new([1, 1, 1], [32, 1, 1])
        .read(&halves)
        .read(&halves)
        .read_write(&mut out)
        .read(&info);
    let fault = compile(source, "cmma_cast").run(&mut launch).unwrap_err();
    assert!(
        matches!(fault, Fault::Undefined { what: msl_on_cpu::Undefined::Index, .. }),
        "{fault}"
    );
    let rules: Vec<_> = check_rules(source).iter().map(|v| v.rule).collect();
    assert_eq!(rules, [Rule::MatrixElements; 2]);
}

#[test]
fn generated_texts_pass_the_checks() {
    let cubecl = [
        &kernel("dequant_q8_0_f32"),
        &kernel("reduce_sum"),
        &kernel("plane_softmax"),
        &kernel("cmma_8x8"),
        &kernel("cmma_tiled"),
        &kernel("flash_attn"),
        &kernel("device_pass"),
    ];
    for source in cubecl {
        assert_eq!(check_rules(source), []);
        check_opencl(source).unwrap_or_else(|e| panic!("{e}"));
    }
    let naga = [
        &kernel("naga_reduce_sum"),
        &kernel("naga_checked_reduce_sum"),
        &kernel("naga_plane_softmax"),
        &kernel("naga_atomic_hist"),
        &kernel("naga_flash_attn"),
    ];
    for source in naga {
        check_opencl(source).unwrap_or_else(|e| panic!("{e}"));
    }
    // With its bounds checks on, CubeCL loses the address space of a pointer to an atomic.
    for source in [&kernel("atomic_hist"), &kernel("vector_mix")] {
        let rules: Vec<_> = check_rules(source).iter().map(|v| v.rule).collect();
        assert_eq!(rules, [Rule::AddressSpaces]);
    }
}
