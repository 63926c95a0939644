//! Golden numbers for every family of kernels: what each makes of input that is always the same, as plain loops in
//! f64 gave it once. Elsewhere kernels are compared with those loops; here neither of them may change.

mod support;

use std::{collections::BTreeSet, path::Path, sync::OnceLock};

use metal_candle::{
    backend::wgpu::ShaderLanguage,
    dispatch::{
        Kernels,
        check::{self, Buffer, Case, Expected},
    },
    testing::{BLESS, HostTensor, Snapshot, Tolerance, Values, compare},
};
use metal_candle_kernels::table;

const FILE: &str = "tests/golden/kernels.safetensors";

/// Kernels that every GPU can run.
const KERNELS: [&str; 17] = [
    "add_rms_norm_shared16",
    "attention_decode_d64_f32_r1_shared64",
    "attention_flash_d64_f32_r32",
    "attention_merge_d64",
    "attention_rotary_decode_d64_f32_r4_shared64",
    "copy_4",
    "dequantise_q4_k_f32",
    "largest",
    "lora_matvec_q4_0_b1_g4r2_shared16",
    "matmul_q4_0_plain_t64",
    "matvec_q4_0_b1_g4r2_shared16",
    "matvec_q6_k_b8_g4r1_shared16",
    "norm_matvec_q8_0_b1_g4r2_shared16",
    "rope_append_halves_f32",
    "rows_f32_f32",
    "rows_q5_1_f32",
    "swiglu_joined",
];

/// Rounding to f32, and `exp` of other libraries.
const SAME: Tolerance = Tolerance { absolute: 1e-7, relative: 1e-6 };

/// Results of a case at most.
const MOST: usize = 8192;

/// Of each the case with the most results, and of those with as many the one with the most input.
fn cases() -> Vec<Case> {
    let chosen = table().into_iter().filter(|kernel| KERNELS.contains(&kernel.name().as_str()));
    let largest = |kernel| {
        let count = |case: &mut Case| results(case).map(|(_, it)| it.values.len()).sum::<usize>();
        let cases = check::cases(kernel).into_iter().map(|mut case| (count(&mut case), case));
        let bytes = |case: &Case| case.before().iter().map(Vec::len).sum::<usize>();
        cases.filter(|(count, _)| *count <= MOST).max_by_key(|(count, case)| (*count, bytes(case)))
    };
    chosen.filter_map(largest).map(|(_, case)| case).collect()
}

/// What a case must write, with a name for each result.
fn results(case: &mut Case) -> impl Iterator<Item = (String, &mut Expected)> {
    let (kernel, label) = (case.kernel.name(), &case.label);
    case.buffers.iter_mut().enumerate().filter_map(move |(place, buffer)| match buffer {
        Buffer::Input(_) => None,
        Buffer::Output(expected) | Buffer::Both(_, expected) => {
            Some((format!("{kernel} {label} buffer {place}"), expected))
        }
    })
}

/// What the loops give now; 0 where a value does not matter.
fn reference() -> Snapshot {
    let mut all = Snapshot::new();
    for mut case in cases() {
        for (name, expected) in results(&mut case) {
            let known = |value: &f64| if value.is_nan() { 0.0 } else { *value as f32 };
            let values: Vec<f32> = expected.values.iter().map(known).collect();
            all.insert(name, HostTensor::floats([values.len()], values));
        }
    }
    all
}

fn golden() -> &'static Snapshot {
    static GOLDEN: OnceLock<Snapshot> = OnceLock::new();
    GOLDEN.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
        if std::env::var_os(BLESS).is_some_and(|value| value == "1") {
            reference().write(&path).expect("the golden file is written");
        }
        Snapshot::read(&path).unwrap_or_else(|error| {
            panic!("{error}\n{BLESS}=1 cargo test --test golden_kernels writes it")
        })
    })
}

fn on(kernels: &Kernels, device: &str) {
    for mut case in cases() {
        for (name, expected) in results(&mut case) {
            let Some(Values::Float(values)) = golden().get(&name).map(HostTensor::values) else {
                panic!("{FILE} has no {name:?}");
            };
            assert_eq!(values.len(), expected.values.len(), "{name}");
            for (value, golden) in expected.values.iter_mut().zip(values) {
                if !value.is_nan() {
                    *value = f64::from(*golden);
                }
            }
        }
        let name = format!("{} on {device}", case.kernel.name());
        let outcome = case.run(kernels).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(outcome.passed(), "{name}: {:.1e} > {:.1e}", outcome.error, outcome.tolerance);
    }
}

#[test]
fn every_family_has_golden_numbers() {
    let all: BTreeSet<_> = table().iter().map(metal_candle_kernels::Kernel::family).collect();
    let cases = cases();
    assert_eq!(cases.len(), KERNELS.len(), "each of the kernels is in the table");
    let with: BTreeSet<_> = cases.iter().map(|case| case.kernel.family()).collect();
    assert_eq!(with, all);
}

#[test]
fn the_reference_has_not_changed() {
    if let Err(mismatch) = compare(&reference(), golden(), SAME) {
        panic!("{mismatch}");
    }
}

#[test]
fn wgpu_spirv() {
    let (device, name) = support::wgpu(ShaderLanguage::SpirV);
    on(&Kernels::of(&device), &name);
}

#[test]
fn wgpu_wgsl() {
    let (device, name) = support::wgpu(ShaderLanguage::Wgsl);
    on(&Kernels::of(&device), &name);
}

#[cfg(feature = "cuda")]
#[test]
fn cuda() {
    let opened = metal_candle::backend::cuda::open(0);
    let (device, name) = opened.unwrap_or_else(|error| panic!("{error}"));
    on(&Kernels::of_cuda(&device), &name);
}
