//! What the integration tests share: the backends, the fixtures and numbers to compare.
#![allow(dead_code)] // each test file uses its part

use std::path::{Path, PathBuf};

use metal_candle::{
    Device,
    backend::{
        Backend,
        wgpu::{ShaderLanguage, WgpuDevice},
    },
    device::DeviceJob,
    testing::{INSTALL_A_DRIVER, Target, open_wgpu},
};

/// A path below `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// The real model: `scripts/fetch-models` puts it where this looks for it, and checks its hash.
pub fn smollm2() -> PathBuf {
    let path = std::env::var_os("SMOLLM2_GGUF").map_or_else(
        || {
            PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("target/models/SmolLM2-135M-Instruct.Q4_1.gguf")
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is missing: run scripts/fetch-models", path.display());
    path
}

/// The first adapter that takes a language, and its device. A machine without one fails: a test
/// must not pass by finding nothing to test.
pub fn wgpu(language: ShaderLanguage) -> (WgpuDevice, String) {
    open_wgpu(language).unwrap_or_else(|error| panic!("{error}\n{INSTALL_A_DRIVER}"))
}

/// Runs a test on [`wgpu`]'s device for SPIR-V, and on that for WGSL.
pub fn on_both(mut test: impl FnMut(&WgpuDevice)) {
    for language in [ShaderLanguage::SpirV, ShaderLanguage::Wgsl] {
        let (device, adapter) = wgpu(language);
        println!("on {adapter}");
        test(&device);
    }
}

/// The same job on every backend that this version has, in f32 unless it says otherwise.
pub trait EveryBackend {
    /// Runs on one of them.
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device);
}

/// Runs a job on the backend of that name.
pub fn on(name: &str, job: &mut impl EveryBackend) {
    struct Labelled<'a, J>(&'a str, &'a mut J);

    impl<J: EveryBackend> DeviceJob for Labelled<'_, J> {
        type Output = ();

        fn run<B: Backend>(self, device: &B::Device) {
            self.1.run::<B>(self.0, device);
        }
    }

    let target: Target = name.parse().unwrap_or_else(|error| panic!("{error}"));
    let done = target.run(Labelled(name, job));
    done.unwrap_or_else(|error| panic!("{error}\n{INSTALL_A_DRIVER}"));
}

/// The same backend as the program opens it.
pub fn device(name: &str) -> Device {
    let choice = match name {
        "wgpu-spirv" => "vulkan",
        "wgpu-wgsl" => "wgpu",
        other => other,
    };
    Device::open(choice.parse().expect("a device name")).unwrap_or_else(|e| panic!("{e}")).0
}

/// Tensors of a safetensors file as f32 (floats) or i64 (ids).
pub struct Golden(Vec<u8>);

impl Golden {
    pub fn open(path: &str) -> Self {
        let path = fixture(path);
        Self(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    fn view(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let file = safetensors::SafeTensors::deserialize(&self.0).expect("golden file");
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        (view.shape().to_vec(), view.data().to_vec())
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.view(name)
            .1
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    /// The names of all tensors.
    pub fn names(&self) -> Vec<String> {
        let file = safetensors::SafeTensors::deserialize(&self.0).expect("golden file");
        file.names().into_iter().map(str::to_owned).collect()
    }

    /// Rows of integers.
    pub fn i64(&self, name: &str) -> Vec<Vec<i64>> {
        let (shape, bytes) = self.view(name);
        let values: Vec<i64> =
            bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
        values.chunks(*shape.last().unwrap()).map(<[i64]>::to_vec).collect()
    }

    /// Rows of token ids.
    pub fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let ids = |row: Vec<i64>| row.into_iter().map(|id| u32::try_from(id).unwrap()).collect();
        self.i64(name).into_iter().map(ids).collect()
    }
}

/// The largest absolute difference; panics on different lengths and on NaN.
pub fn max_abs_diff(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "different numbers of values");
    let diff = |(a, b): (&f32, &f32)| {
        let d = (a - b).abs();
        assert!(!d.is_nan(), "NaN: {a} and {b}");
        d
    };
    got.iter().zip(want).map(diff).fold(0.0, f32::max)
}

/// Index of the largest value, the first of equals.
pub fn argmax(values: &[f32]) -> u32 {
    let best = values
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best });
    best.0 as u32
}
