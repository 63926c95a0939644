//! The two ways to Metal beside each other, executed on the CPU: CubeCL's Metal, and what naga (the
//! translator in wgpu) makes of CubeCL's WGSL of the same kernel. Two compilers that share nothing
//! but the expanded kernel must agree with each other to the last bit, with f64 within each case's
//! tolerance, and with the manifest: buffers, threads, shared memory and needs.
//!
//! No kernel is left out: one that naga cannot translate is a failure.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::{collections::BTreeMap, sync::Mutex};

use metal_candle::dispatch::{
    Entry,
    check::{self, Buffer, Case, Expected},
};
use msl_on_cpu::{Binding, Order, Program};

#[path = "support/metal.rs"]
mod metal;
#[path = "naga/translate.rs"]
mod translate;

use metal::{compile, entry, find, in_chunks, judge, launch, ours, text};
use translate::{Translated, translate};

/// How a family did.
#[derive(Clone, Copy, Default)]
struct Family {
    kernels: usize,
    runs: usize,
    /// Of naga's text from f64.
    error: f64,
}

/// A kernel's two programs.
struct Pair<'a> {
    entry: &'a Entry,
    ours: &'a Program,
    theirs: &'a Program,
    made: &'a Translated,
}

/// The largest difference between what two texts wrote, relative as the errors are.
fn difference(case: &Case, ours: &[Vec<u8>], theirs: &[Vec<u8>]) -> f64 {
    let outputs = case.buffers.iter().zip(ours).zip(theirs);
    let differences = outputs.filter_map(|((buffer, ours), theirs)| {
        let (Buffer::Output(expected) | Buffer::Both(_, expected)) = buffer else { return None };
        Some(Expected { values: expected.decode(ours), ..expected.clone() }.error(theirs))
    });
    differences.fold(0.0, f64::max)
}

impl Pair<'_> {
    /// What its texts and the manifest do not agree about.
    fn deviations(&self) -> Vec<String> {
        let mut found = self.made.deviations(self.entry);
        let count = self.entry.writes.len() as u32;
        // naga's sizes come last.
        for (whose, program, last) in
            [("our", self.ours, count), ("naga's", self.theirs, count + 1)]
        {
            let buffers = buffers(program);
            if !buffers.iter().copied().eq(0..last) {
                found.push(format!("{}: {whose} text has buffers {buffers:?}", self.entry.name));
            }
        }
        found
    }

    /// Runs both in all cases, naga's in every order: both are right, and give the same bits.
    fn compare(&self, cases: &[Case], family: &mut Family) -> Vec<String> {
        let mut failures = Vec::new();
        for case in cases {
            let mut failed = |whose: &str, order: Order, what: String| {
                let name = self.entry.name;
                failures.push(format!("{name} {} {order:?}, {whose} text: {what}", case.label));
            };
            let right = |after: Vec<Vec<u8>>| judge(case, &after).map(|error| (after, error));
            let order = Order::Forward;
            let own = launch(self.ours, self.entry.cube_dim, case, &[], order).and_then(right);
            let own = match own {
                Ok((own, _)) => own,
                Err(error) => {
                    failed("our", order, error);
                    continue;
                }
            };
            let sizes = self.made.sizes(case);
            for order in Order::ALL {
                family.runs += 1;
                let after = launch(self.theirs, self.made.threads, case, &[&sizes], order);
                match after.and_then(right) {
                    Ok((after, error)) => {
                        family.error = family.error.max(error);
                        if after != own {
                            let apart = difference(case, &own, &after);
                            failed("naga's", order, format!("other bits, apart by {apart:.1e}"));
                        }
                    }
                    Err(error) => failed("naga's", order, error),
                }
            }
        }
        failures
    }
}

/// The buffers of a program, as its text declares them.
fn buffers(program: &Program) -> Vec<u32> {
    let parameters = program.kernel().parameters.iter();
    parameters
        .filter_map(|parameter| match parameter.binding {
            Binding::Buffer(index) => Some(index),
            _ => None,
        })
        .collect()
}

#[test]
fn every_kernel_computes_what_its_wgsl_through_naga_computes() {
    let families: Mutex<BTreeMap<&str, Family>> = Mutex::default();
    in_chunks(&["msl", "wgsl"], |chunk| {
        let made: Result<Vec<_>, String> = chunk
            .iter()
            .map(|kernel| {
                let name = kernel.name();
                translate(&text(&name, "wgsl"), entry(&name)).map_err(|e| format!("{name}: {e}"))
            })
            .collect();
        let made = match made {
            Ok(made) => made,
            Err(error) => return vec![error],
        };
        let sources: Vec<_> = made.iter().map(|m| (m.text.clone(), m.entry.clone())).collect();
        let (own, theirs) = match (ours(chunk), compile(&sources)) {
            (Ok(own), Ok(theirs)) => (own, theirs),
            (own, theirs) => return [own.err(), theirs.err()].into_iter().flatten().collect(),
        };
        let mut failures = Vec::new();
        for (i, kernel) in chunk.iter().enumerate() {
            let entry = entry(&kernel.name());
            let pair = Pair { entry, ours: &own[i], theirs: &theirs[i], made: &made[i] };
            failures.extend(pair.deviations());
            let mut found = Family::default();
            failures.extend(pair.compare(&check::cases(*kernel), &mut found));
            let mut families = families.lock().expect("lock");
            let all = families.entry(kernel.family()).or_default();
            all.kernels += 1;
            all.runs += found.runs;
            all.error = all.error.max(found.error);
        }
        failures
    });
    for (name, Family { kernels, runs, error }) in families.into_inner().expect("lock") {
        println!(
            "  {name:<12} {kernels:>4} kernels {runs:>5} runs with the same bits, from f64 by \
             {error:.1e}"
        );
    }
}

/// What is wrong with a kernel whose WGSL is `wgsl`.
fn faults(wgsl: &str, name: &str) -> Vec<String> {
    let (kernel, entry) = find(name);
    let made = match translate(wgsl, entry) {
        Ok(made) => made,
        Err(error) => return vec![error],
    };
    let own = ours(&[kernel]).unwrap_or_else(|error| panic!("{error}"));
    let theirs = match compile(&[(made.text.clone(), made.entry.clone())]) {
        Ok(theirs) => theirs,
        Err(error) => return vec![error],
    };
    let pair = Pair { entry, ours: &own[0], theirs: &theirs[0], made: &made };
    let mut found = pair.deviations();
    if found.is_empty() {
        found = pair.compare(&check::cases(kernel), &mut Family::default());
    }
    found
}

/// WGSL that is wrong in one place, and the words for it: what is compared, can differ.
#[test]
fn changed_wgsl_is_caught() {
    for (name, from, to, words) in [
        // Against the manifest: its needs, sizes and buffers.
        ("dequantise_q4_0_f16", "enable f16;", "", "f16"),
        ("rms_norm_shared16", "sqrt(", "subgroupAdd(", "SUBGROUP"),
        ("copy_1", "@workgroup_size(256", "@workgroup_size(128", "threads: naga [128, 1, 1]"),
        ("copy_1", "buffer_1_global[", "buffer_0_global[", "buffers: naga"),
        ("swiglu", "@binding(3)", "@binding(4)", "buffers: naga"),
        (
            "attention_merge_d64",
            "<vec4<f32>, 256>;",
            "<vec4<f32>, 257>;",
            "shared bytes: naga 4240",
        ),
        // Executed.
        ("copy_1", "buffer_0_global[", "buffer_0_global[1u + ", "out of bounds"),
        ("add_rms_norm_shared16", "workgroupBarrier();", "", "data race"),
        ("attention_decode_d64_f32_r1_shared64", "tanh(", "sin(", " > 2.0e-5"),
        ("matvec_q4_0_b2_g4r1_plane32", "subgroupShuffleXor(", "subgroupShuffle(", " > 2.0e-5"),
        ("rope_append_halves_f16", " f16(", " f16(1.01 * ", " > 1.0e-3"),
        // Within the tolerance against f64.
        ("add_rms_norm_shared16", "sqrt(", "1.0000001 * sqrt(", "other bits, apart by"),
    ] {
        let right = text(name, "wgsl");
        assert!(right.contains(from), "{name} has no `{from}`");
        assert_eq!(faults(&right, name), [""; 0], "{name} as it is");
        let found = faults(&right.replacen(from, to, 1), name);
        let said = found.first().map_or("", |first| first.as_str());
        assert!(said.contains(words), "{name} with `{to}` for `{from}`: {said}");
        println!("  `{from}` to `{to}`: {said}");
    }
}
