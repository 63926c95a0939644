//! The generated Metal text without a Mac: every kernel executed on the CPU in four thread orders
//! against f64, checked by the rules that Metal imposes, and type-checked as C++ for OpenCL.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::{collections::BTreeMap, sync::Mutex};

use metal_candle::dispatch::check::{self, Buffer, Case};
use metal_candle_kernels::{
    Format, Kernel, MatrixUnits,
    attention::Flash,
    matmul::{MatMul, Way},
    targets::generate,
};
use msl_on_cpu::{Order, Program, check_opencl, check_rules};

#[path = "support/metal.rs"]
mod metal;

use metal::{entry, find, in_chunks, judge, launch, ours};

fn text(name: &str) -> String {
    metal::text(name, "msl")
}

/// The case in one order; the largest error, or what went wrong.
fn run(program: &Program, threads: [u32; 3], case: &Case, order: Order) -> Result<f64, String> {
    judge(case, &launch(program, threads, case, &[], order)?)
}

#[test]
fn every_kernel_computes_rightly_in_every_order() {
    let families: Mutex<BTreeMap<&str, (usize, usize, f64)>> = Mutex::default();
    in_chunks(&["msl"], |chunk| {
        let programs = match ours(chunk) {
            Ok(programs) => programs,
            Err(error) => return vec![error],
        };
        let mut failures = Vec::new();
        for (kernel, program) in chunk.iter().zip(&programs) {
            let entry = entry(&kernel.name());
            for case in check::cases(*kernel) {
                for order in Order::ALL {
                    let outcome = run(program, entry.cube_dim, &case, order);
                    let mut families = families.lock().expect("lock");
                    let family = families.entry(kernel.family()).or_default();
                    family.1 += 1;
                    match outcome {
                        Ok(error) => family.2 = family.2.max(error),
                        Err(error) => failures.push(format!(
                            "{} {} {order:?}: {error}",
                            kernel.name(),
                            case.label
                        )),
                    }
                }
            }
            families.lock().expect("lock").entry(kernel.family()).or_default().0 += 1;
        }
        failures
    });
    for (family, (kernels, runs, error)) in families.into_inner().expect("lock") {
        println!("  {family:<12} {kernels:>4} kernels {runs:>5} runs, largest error {error:.1e}");
    }
}

#[test]
fn every_text_keeps_metals_rules() {
    in_chunks(&["msl"], |chunk| {
        chunk
            .iter()
            .flat_map(|kernel| {
                let violations = check_rules(&text(&kernel.name()));
                violations.into_iter().map(move |v| format!("{}: {v:?}", kernel.name()))
            })
            .collect()
    });
}

#[test]
fn every_text_is_well_typed() {
    in_chunks(&["msl"], |chunk| {
        chunk
            .iter()
            .filter_map(|kernel| {
                let error = check_opencl(&text(&kernel.name())).err()?;
                Some(format!("{}: {error}", kernel.name()))
            })
            .collect()
    });
}

/// Where a context is long: one variant of each way to exchange, in one order.
#[test]
fn attention_is_right_over_32768_keys() {
    for name in ["attention_decode_d64_f16_r8_plane32", "attention_decode_d64_f32_r1_shared64"] {
        let (kernel, entry) = find(name);
        let program = Program::compile(&text(name), name).expect("compiles");
        let cases = check::long_cases(kernel);
        assert!(!cases.is_empty());
        for case in cases {
            run(&program, entry.cube_dim, &case, Order::ALL[0])
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

/// Matrix units of f16, whose numbers come in two halves, are made for Vulkan and CUDA; the same
/// source for Apple's is executed here.
fn check_halves(kernel: Kernel) {
    let generated = generate(&kernel).expect("generates");
    let program = Program::compile(&generated.msl.expect("Metal"), &generated.name);
    let program = program.expect("compiles");
    for case in check::cases(kernel) {
        for order in Order::ALL {
            let error = run(&program, generated.cube_dim, &case, order);
            error.unwrap_or_else(|e| panic!("{} {order:?}: {e}", generated.name));
        }
    }
}

const HALVES: MatrixUnits = MatrixUnits { edge: 8, halves: true };

#[test]
fn products_of_halves_are_right() {
    for format in [Format::Q4_0, Format::Q8_0, Format::Q4_K, Format::Q6_K] {
        check_halves(Kernel::MatMul(MatMul { format, way: Way::Units(HALVES), tile: 64 }));
    }
}

#[test]
fn attention_by_halves_is_right() {
    for dim in [32, 80, 128] {
        check_halves(Kernel::Flash(Flash::by_units(dim, HALVES).expect("fits")));
    }
}

/// What is no number in `x` is none in the result, also where `x` is taken as integers.
#[test]
fn what_is_no_number_shows() {
    for name in [
        "matvec_q4_0_b1_g8r2_plane32x2_bytes",
        "matvec_q5_1_b1_g8r2_plane32_bytes",
        "matvec_q8_0_b1_g4r4_plane32_bytes",
        "norm_matvec_q4_k_b1_g8r4_plane32_bytes",
        "norm_matvec_q4_0_b1_g4r4_plane32",
    ] {
        let (kernel, entry) = find(name);
        let program = Program::compile(&text(name), name).expect("compiles");
        for wrong in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut case = check::cases(kernel).swap_remove(0);
            let Buffer::Input(x) = &mut case.buffers[1] else { panic!("{name}: x is an input") };
            x[20..24].copy_from_slice(&wrong.to_le_bytes());
            let after = launch(&program, entry.cube_dim, &case, &[], Order::ALL[0]).expect(name);
            let results = after.last().expect("a result").chunks_exact(4);
            for bytes in results {
                let value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                assert!(!value.is_finite(), "{name}: {wrong} gives {value}");
            }
        }
    }
}

/// Every barrier of attention by matrix units matters, those of planes too.
#[test]
fn removed_barriers_of_halves_are_caught() {
    let kernel = Kernel::Flash(Flash::by_units(32, HALVES).expect("fits"));
    let generated = generate(&kernel).expect("generates");
    let (text, cases) = (generated.msl.expect("Metal"), check::cases(kernel));
    let is_caught = |text: &str| is_caught(text, &generated.name, generated.cube_dim, &cases);
    assert!(!is_caught(&text), "it fails as it is");
    for (barrier, least) in [(BARRIER, 10), (BARRIER_OF_PLANES, 10)] {
        let mutants: Vec<_> = (0..).map_while(|n| without_barrier(&text, barrier, n)).collect();
        assert!(mutants.len() >= least, "{} of {barrier}", mutants.len());
        for (n, mutant) in mutants.iter().enumerate() {
            // A thread here stores those values of a matrix that it has loaded. Units that share them out in
            // another way need a barrier between.
            let (at, _) = text.match_indices(barrier).nth(n).expect("one more");
            let matters = |line: &&str| !line.starts_with("const uint");
            let before = text[..at].lines().rfind(matters);
            let after = text[at..].lines().skip(1).find(matters);
            let is_same = before.is_some_and(|line| line.starts_with("simdgroup_load("))
                && after.is_some_and(|line| line.starts_with("simdgroup_store("));
            assert!(is_same || is_caught(mutant), "{barrier} {n} can go");
        }
    }
}

/// Whether a changed text is caught: it does not compile, faults, or computes wrongly in some order.
fn is_caught(text: &str, name: &str, threads: [u32; 3], cases: &[Case]) -> bool {
    let Ok(program) = Program::compile(text, name) else { return true };
    cases
        .iter()
        .any(|case| Order::ALL.iter().any(|order| run(&program, threads, case, *order).is_err()))
}

const BARRIER: &str = "threadgroup_barrier(mem_flags::mem_threadgroup);";
const BARRIER_OF_PLANES: &str = "simdgroup_barrier(mem_flags::mem_threadgroup);";

/// A text with its `n`-th barrier of a kind taken out.
fn without_barrier(text: &str, barrier: &str, n: usize) -> Option<String> {
    let (at, _) = text.match_indices(barrier).nth(n)?;
    Some(format!("{}{}", &text[..at], &text[at + barrier.len()..]))
}

/// A text whose `n`-th access to a buffer is one place further.
fn shifted(text: &str, n: usize) -> Option<String> {
    let body = text.find("{\nuint").or_else(|| text.find(") {"))?;
    let (at, _) = text[body..].match_indices("buffer_").nth(n)?;
    let open = body + at + text[body + at..].find('[')?;
    let close = open + text[open..].find(']')?;
    Some(format!("{}({}) + 1{}", &text[..=open], &text[open + 1..close], &text[close..]))
}

/// One kernel of each family (those with shared memory where there is a choice): every barrier
/// matters, and so does every access to a buffer that holds more than one value.
#[test]
fn removed_barriers_and_shifted_indices_are_caught() {
    let mut failures = Vec::new();
    let mut mutants = [0; 2];
    for name in [
        "add_rms_norm_shared16",
        "attention_decode_d64_f32_r2_shared64",
        "attention_flash_d80_f32_r32",
        "attention_merge_d64",
        "copy_1",
        "dequantise_q4_0_f32",
        "largest",
        "matmul_q4_0_plain_t64",
        "matmul_q4_k_units8_f32_t64",
        "matvec_f32_b1_g4r2_shared16",
        "matvec_q4_k_b2_g4r2_shared16",
        "norm_matvec_f32_b1_g4r2_shared16",
        "norm_matvec_q4_0_b1_g4r2_shared16",
        "rope_append_halves_f32",
        "rows_q6_k_f32",
        "swiglu",
    ] {
        let (kernel, entry) = find(name);
        let (text, cases) = (text(name), check::cases(kernel));
        assert!(!is_caught(&text, name, entry.cube_dim, &cases), "{name} fails as it is");
        for n in 0.. {
            let Some(mutant) = without_barrier(&text, BARRIER, n) else { break };
            mutants[0] += 1;
            // The first one there is for speed alone: others look when one thread has seen the last part.
            let is_for_speed = name == "attention_merge_d64" && n == 0;
            if is_for_speed == is_caught(&mutant, name, entry.cube_dim, &cases) {
                failures.push(format!("{name}: barrier {n} can go, or not"));
            }
        }
        let mut caught = 0;
        for n in 0..6 {
            let Some(mutant) = shifted(&text, n) else { break };
            mutants[1] += 1;
            caught += usize::from(is_caught(&mutant, name, entry.cube_dim, &cases));
        }
        if caught == 0 {
            failures.push(format!("{name}: no shifted index is caught"));
        }
    }
    println!("{} removed barriers, {} shifted indices", mutants[0], mutants[1]);
    assert!(mutants.iter().all(|n| *n > 5));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
