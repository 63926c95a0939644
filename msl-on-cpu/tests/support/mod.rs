//! Kernels of the fixtures folder, and bytes of numbers.
#![allow(dead_code, reason = "each test file uses a part")]

use msl_on_cpu::{Error, Fault, Launch, Program};

/// A kernel's text from `tests/kernels/`.
pub fn kernel(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kernels")
        .join(name)
        .with_extension("metal");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn compile(source: &str, entry: &str) -> Program {
    Program::compile(source, entry).unwrap_or_else(|e| panic!("{e}"))
}

pub fn diagnostics(error: &Error) -> String {
    match error {
        Error::Rejected { diagnostics, .. } => diagnostics.clone(),
        other => panic!("rejected by the compiler was expected, found: {other}"),
    }
}

/// Numbers as bytes, and back.
pub trait Bytes: Sized {
    fn bytes(values: &[Self]) -> Vec<u8>;
    fn values(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! bytes {
    ($($t:ty),*) => {$(
        impl Bytes for $t {
            fn bytes(values: &[Self]) -> Vec<u8> {
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
            fn values(bytes: &[u8]) -> Vec<Self> {
                bytes.chunks_exact(size_of::<$t>()).map(|c| <$t>::from_le_bytes(c.try_into().unwrap())).collect()
            }
        }
    )*};
}
bytes!(u8, u16, u32, i32, f32);

/// `n` numbers between -1 and 1 without pattern.
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// A half from a float that it holds exactly or rounds to nearest (finite, not subnormal).
pub fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    if x == 0.0 {
        return (bits >> 16) as u16;
    }
    let rounded = bits + 0xfff + (bits >> 13 & 1);
    ((rounded >> 16 & 0x8000) | ((rounded & 0x7fff_ffff) >> 13).wrapping_sub(112 << 10)) as u16
}

/// The float that a half is (finite, not subnormal).
pub fn float(h: u16) -> f32 {
    let (sign, rest) = (u32::from(h & 0x8000) << 16, u32::from(h & 0x7fff));
    if rest == 0 {
        f32::from_bits(sign)
    } else {
        f32::from_bits(sign | ((rest << 13) + (112 << 23)))
    }
}

/// The information block of a generated kernel: scalars, then the lengths of its buffers twice.
pub fn info(scalars: &[u32], lengths: &[u32]) -> Vec<u8> {
    let mut words = scalars.to_vec();
    if words.len() % 2 == 1 {
        words.push(0);
    }
    words.extend(lengths);
    words.extend(lengths);
    u32::bytes(&words)
}

/// The sum of 256 numbers a threadgroup; first through `tile`, then by SIMD-groups.
pub const SUM: &str = "#include <metal_stdlib>
using namespace metal;
kernel void sum(
    const device float* x [[buffer(0)]],
    device float* out [[buffer(1)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simd_group [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]
) {
    threadgroup float tile[256];
    threadgroup float partial[8];
    tile[thread_index] = x[group.x * 256 + thread_index];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float mirrored = tile[255 - thread_index];
    float total = simd_sum(mirrored);
    if (lane == 0) { partial[simd_group] = total; }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index == 0) {
        float all = 0.0;
        for (uint i = 0; i < 8; i++) { all += partial[i]; }
        out[group.x] = all;
    }
}
";

pub fn expected(x: &[f32]) -> Vec<f32> {
    x.chunks(256).map(|c| c.iter().sum()).collect()
}

/// Runs a version of `SUM` over 512 numbers in every order: whether each gave right numbers.
pub fn run_sum(source: &str, races: bool) -> Result<Vec<bool>, Fault> {
    let program = compile(source, "sum");
    let x = noise(512, 1);
    let bytes = f32::bytes(&x);
    let mut out = vec![0xff; 8];
    let mut launch = Launch::new([2, 1, 1], [256, 1, 1]).read(&bytes).read_write(&mut out);
    launch.check_races = races;
    let mut right = Vec::new();
    let check = |_, buffers: &[msl_on_cpu::Buffer]| {
        let found = f32::values(buffers[1].bytes());
        right.push(found.iter().zip(expected(&x)).all(|(a, b)| (a - b).abs() < 1e-4));
    };
    program.run_in_every_order(&mut launch, check).map_err(|f| f.fault)?;
    Ok(right)
}

/// `source` without its `n`th line that has `text`; the other lines keep their numbers.
pub fn without(source: &str, text: &str, n: usize) -> String {
    let mut seen = 0;
    let lines = source.lines().map(|line| {
        let hit = line.contains(text);
        seen += usize::from(hit);
        if hit && seen == n + 1 { "" } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}
