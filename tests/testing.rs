//! Golden tests of what golden tests do: what fails and with which message, what is written and
//! what is not.

use std::{
    any::TypeId,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use burn::tensor::{Int, Tensor};
use metal_candle::{
    Backend,
    backend::Candle,
    testing::{
        Capture, Golden, GoldenError, Prototype, SKIP_ABSENT, Snapshot, Target, Tolerance,
        Tolerances, uniform,
    },
};

/// Names another folder for the golden file of `ramp`, in the tests below that run this program.
const FOLDER: &str = "METAL_CANDLE_TEST_FOLDER";

fn ramp_file() -> PathBuf {
    let folder = std::env::var_os(FOLDER).map_or_else(|| "tests/golden".into(), PathBuf::from);
    folder.join("ramp.safetensors")
}

/// Numbers that every backend gives exactly.
fn ramp<B: Backend>(device: &B::Device, capture: &mut Capture<B>) {
    let ids = Tensor::<B, 1, Int>::arange(0..6, device).reshape([2, 3]);
    capture.tensor("ids", &ids);
    capture.tensor("low", &ids.clone().lower_elem(3));
    capture.tensor("halves", &(ids.float() * 0.5));
}

metal_candle::golden_test!(ramp_golden, ramp_file(), Tolerance::EXACT, ramp);

/// Runs one test of this program with variables set.
fn rerun(test: &str, variables: &[(&str, &Path)]) -> (bool, String) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--exact", test]).env_remove(SKIP_ABSENT).env_remove("METAL_CANDLE_BLESS");
    let Output { status, stdout, stderr } =
        command.envs(variables.iter().copied()).output().expect("it runs");
    let text = [stdout, stderr].map(|text| String::from_utf8(text).expect("UTF-8")).concat();
    assert!(text.contains("running 1 test"), "no test {test}: {text}");
    (status.success(), text)
}

#[test]
fn a_golden_file_is_made_when_the_environment_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let (folder, file) = (folder.path(), folder.path().join("ramp.safetensors"));
    let here = (FOLDER, folder);
    let bless = ("METAL_CANDLE_BLESS", Path::new("1"));

    let (passed, text) = rerun("ramp_golden::cpu", &[here]);
    assert!(!passed && !file.exists());
    assert!(text.contains("ramp.safetensors: there is no such golden file. This makes it:\n"));
    assert!(text.contains("\n  METAL_CANDLE_BLESS=1 cargo test -p metal-candle ramp_golden::\n"));

    let (passed, text) =
        rerun("ramp_golden::candle", &[here, ("METAL_CANDLE_BLESS", Path::new("0"))]);
    assert!(!passed && !file.exists(), "{text}");

    let (passed, text) = rerun("ramp_golden::candle", &[here, bless]);
    assert!(passed && text.contains("ramp.safetensors: written, 3 tensors"), "{text}");
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ramp.safetensors");
    assert_eq!(fs::read(&file).expect("written"), fs::read(committed).expect("committed"));

    for test in ["ramp_golden::cpu", "ramp_golden::candle"] {
        let (passed, text) = rerun(test, &[here]);
        assert!(passed && !text.contains("written"), "{text}");
    }

    let half = &fs::read(&file).expect("written")[..100];
    fs::write(&file, half).expect("writes");
    let (passed, text) = rerun("ramp_golden::cpu", &[here]);
    assert!(!passed && text.contains("ramp.safetensors: "), "{text}");
    assert_eq!(fs::read(&file).expect("still there"), half, "a failure writes nothing");
}

#[cfg(target_os = "linux")]
#[test]
fn a_machine_without_an_adapter_fails_unless_told_otherwise() {
    let nowhere = Path::new("/nonexistent");
    let none = [("VK_DRIVER_FILES", nowhere), ("VK_ICD_FILENAMES", nowhere)];
    for test in ["ramp_golden::wgpu_spirv", "ramp_golden::wgpu_wgsl"] {
        let (passed, text) = rerun(test, &none);
        assert!(!passed && text.contains("install a driver: apt-get install mesa-"), "{text}");
        assert!(text.contains("METAL_CANDLE_SKIP_ABSENT=1"), "{text}");
        let (passed, text) = rerun(test, &[none[0], none[1], (SKIP_ABSENT, Path::new("1"))]);
        assert!(passed && text.contains("ramp_golden: wgpu-"), "{text}");
        assert!(text.contains(" is left out: no "), "{text}");
    }
}

/// Two sums, one of them off where it is told to be.
struct Sums {
    off: f32,
}

impl Prototype for Sums {
    fn run<B: Backend>(&self, device: &B::Device, capture: &mut Capture<B>) {
        let x: Tensor<B, 3> = uniform([2, 3, 4], 1, device);
        capture.tensor("sums", &x.clone().sum_dim(2));
        let ones = Tensor::<B, 3>::ones([1, 1, 1], device);
        let patch = [1..2, 2..3, 3..4];
        let off = x.clone().slice(patch.clone()) + ones * self.off;
        capture.tensor("values", &x.slice_assign(patch, off));
    }
}

#[test]
fn one_wrong_value_is_found_on_every_backend() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("sums.safetensors");
    let tolerance = Tolerance::new(1e-6, 1e-6);
    let golden = Golden::new(&path, tolerance).bless(false);
    golden.clone().bless(true).check(Target::Cpu, &Sums { off: 0.0 }).expect("blesses");
    let blessed = fs::read(&path).expect("written");
    for target in Target::EVERY {
        golden.check(target, &Sums { off: 0.0 }).unwrap_or_else(|error| panic!("{error}"));
        let error = golden.check(target, &Sums { off: 0.25 }).expect_err("one value is off");
        let start = format!("{target} differs from {}: 1 of 2 tensors differs\n", path.display());
        let text = error.to_string();
        assert!(text.starts_with(&start), "{text}");
        let rest =
            "values [2, 3, 4]: 1 of 24 values not within 1e-6 + 1e-6 |want|\n  at [1, 2, 3]: got ";
        assert!(text[start.len()..].starts_with(rest), "{text}");
        assert!(text.ends_with(", off by 2.50e-1"), "{text}");
        // What a backend or a tensor states for itself counts.
        let wide = Tolerance::absolute(0.3);
        let by_tensor = Tolerances::from(tolerance).tensor("values", wide);
        let by_backend = Tolerances::from(tolerance).backend(target, wide);
        for tolerances in [by_tensor, by_backend] {
            let golden = Golden::new(&path, tolerances).bless(false);
            golden.check(target, &Sums { off: 0.25 }).unwrap_or_else(|error| panic!("{error}"));
        }
    }
    assert_eq!(fs::read(&path).expect("still there"), blessed, "only blessing writes");
}

#[test]
fn the_cpu_backend_blesses_for_every_other() {
    /// Tells which backend it ran on.
    struct Signed;

    impl Prototype for Signed {
        fn run<B: Backend>(&self, device: &B::Device, capture: &mut Capture<B>) {
            let candle = TypeId::of::<B>() == TypeId::of::<Candle>();
            let sign = if candle { -1.0 } else { 1.0 };
            capture.tensor("sign", &(Tensor::<B, 1>::ones([1], device) * sign));
        }
    }

    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("sign.safetensors");
    let golden = Golden::new(&path, Tolerance::EXACT).bless(true);
    let error = golden.check(Target::Candle, &Signed).expect_err("the CPU gives another sign");
    assert!(error.to_string().ends_with("at [0]: got -1.0, want 1.0, off by 2.00e0"), "{error}");
    golden.bless(false).check(Target::Cpu, &Signed).expect("these are the CPU's");

    let own = Golden::new(&path, Tolerance::EXACT).bless(false);
    let error = own.check_on::<Candle>("mine", &Default::default(), &Signed).expect_err("-1");
    assert!(error.to_string().starts_with("mine differs from "), "{error}");
}

#[test]
fn what_could_never_fail_or_never_pass_is_refused() {
    struct Nothing;

    impl Prototype for Nothing {
        fn run<B: Backend>(&self, _: &B::Device, _: &mut Capture<B>) {}
    }

    struct Undefined;

    impl Prototype for Undefined {
        fn run<B: Backend>(&self, device: &B::Device, capture: &mut Capture<B>) {
            let x = Tensor::<B, 2>::from_data([[0.0, 1.0], [-1.0, 4.0]], device);
            capture.tensor("roots", &x.sqrt());
        }
    }

    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("golden.safetensors");
    let golden = Golden::new(&path, Tolerance::EXACT);
    let bless = golden.clone().bless(true);
    let error = bless.check(Target::Cpu, &Nothing).expect_err("nothing to write");
    assert!(matches!(error, GoldenError::Nothing { .. }), "{error}");
    let error = bless.check(Target::Cpu, &Undefined).expect_err("no number").to_string();
    assert!(error.ends_with("tensor roots is NaN at [1, 0] on the CPU backend"), "{error}");
    assert!(!path.exists());

    Snapshot::new().write(&path).expect("writes");
    let error = golden.bless(false).check(Target::Cpu, &Nothing).expect_err("nothing to compare");
    assert!(matches!(error, GoldenError::Nothing { .. }), "{error}");
}
