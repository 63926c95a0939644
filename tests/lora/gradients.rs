//! Gradients of adapters against PEFT's, and against difference quotients where the base is packed.

use std::collections::BTreeMap;

use burn::{
    module::Param,
    tensor::{DType, Int, Tensor, TensorData, activation::log_softmax},
};
use metal_candle::{
    AutodiffBackend,
    adapters::Adapter,
    backend::{Autodiff, Candle, Cpu, Wgpu, wgpu::ShaderLanguage},
    models::{CausalLm, LogitRows, Pass, TokenBatch},
    nn::{DeltaSet, Deltas, LowRank, Matrix},
};

use crate::{
    models::{ARCHITECTURES, Model, load},
    support::{Golden, fixture, wgpu},
};

/// The adapter's tensors as parameters, by PEFT's names without their prefix.
struct Parameters<B: AutodiffBackend> {
    modules: BTreeMap<String, LowRank<B>>,
}

impl<B: AutodiffBackend> Parameters<B> {
    fn new(adapter: &Adapter, device: &B::Device) -> Self {
        let modules = adapter.modules.iter().map(|(module, tensors)| {
            let tensor = |raw: &metal_candle::formats::RawTensor| {
                let data = TensorData::new(adapter.values(raw).expect("values"), raw.shape.clone());
                Tensor::<B, 2>::from_data(data, (device, DType::F32)).require_grad()
            };
            let magnitude = tensors.magnitude.as_ref().map(|raw| {
                let values = adapter.values(raw).expect("values");
                Tensor::<B, 1>::from_data(&values[..], (device, DType::F32)).require_grad()
            });
            let low = LowRank {
                a: tensor(&tensors.a),
                b: tensor(&tensors.b),
                scale: adapter.scaling(module).expect("rules"),
                magnitude,
            };
            (module.clone(), low)
        });
        Self { modules: modules.collect() }
    }

    fn set(&self, model: &dyn CausalLm<B>) -> DeltaSet<B> {
        let slots = model.slots();
        let modules = self
            .modules
            .iter()
            .map(|(module, low)| (slots.table().get(module).expect("a slot"), low.clone()));
        DeltaSet::new(slots, modules, []).expect("deltas")
    }

    /// Every parameter moved by `step` times its direction.
    fn moved(
        &self,
        directions: &BTreeMap<String, Vec<f32>>,
        step: f32,
        device: &B::Device,
    ) -> Self {
        let moved = |name: String, values: Tensor<B, 2>| {
            let Some(direction) = directions.get(&name) else { return values };
            let data = TensorData::new(direction.clone(), values.dims());
            values + Tensor::<B, 2>::from_data(data, (device, DType::F32)) * step
        };
        let modules = self.modules.iter().map(|(module, low)| {
            let low = LowRank {
                a: moved(format!("{module}.lora_A.weight"), low.a.clone()),
                b: moved(format!("{module}.lora_B.weight"), low.b.clone()),
                scale: low.scale,
                magnitude: low.magnitude.clone().map(|m| {
                    let name = format!("{module}.lora_magnitude_vector");
                    moved(name, m.unsqueeze_dim::<2>(0)).squeeze_dim::<1>(0)
                }),
            };
            (module.clone(), low)
        });
        Self { modules: modules.collect() }
    }
}

/// The mean negative log-likelihood of the next tokens whose label is not -100.
fn loss<B: AutodiffBackend>(
    model: &dyn CausalLm<B>,
    parameters: &Parameters<B>,
    batch: &Batch,
) -> Tensor<B, 1> {
    let set = parameters.set(model);
    let tokens = TokenBatch::new(&batch.ids).expect("tokens");
    let pass = Pass { deltas: Deltas::all(&set), ..Pass::of(LogitRows::All) };
    let logits = model.run(&tokens, None, pass).expect("forward");
    let [rows, len, vocabulary] = logits.dims();
    let logits = logits.reshape([rows * len, vocabulary]);
    let (mut at, mut targets) = (Vec::new(), Vec::new());
    for (row, labels) in batch.labels.iter().enumerate() {
        for (position, &label) in labels.iter().enumerate().skip(1).filter(|(_, l)| **l >= 0) {
            at.push((row * len + position - 1) as i32);
            targets.push(label as i32);
        }
    }
    let device = model.device();
    let count = targets.len();
    let targets = Tensor::<B, 1, Int>::from_data(&targets[..], device).reshape([count, 1]);
    let rows = logits.select(0, Tensor::<B, 1, Int>::from_data(&at[..], device));
    -log_softmax(rows, 1).gather(1, targets).mean()
}

struct Batch {
    ids: Vec<Vec<u32>>,
    labels: Vec<Vec<i64>>,
}

fn batch(arch: &str, step: usize) -> Batch {
    let golden = Golden::open(&format!("reference/lora/{arch}/train/batches.safetensors"));
    Batch {
        ids: golden.ids("input_ids")[2 * step..2 * step + 2].to_vec(),
        labels: golden.i64("labels")[2 * step..2 * step + 2].to_vec(),
    }
}

fn value<B: AutodiffBackend>(loss: Tensor<B, 1>) -> f32 {
    loss.into_data().into_vec::<f32>().expect("f32")[0]
}

/// Gradients by name.
fn gradients<B: AutodiffBackend>(
    parameters: &Parameters<B>,
    grads: &B::Gradients,
) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    for (module, low) in &parameters.modules {
        let mut add = |name: &str, grad: Option<Tensor<B::InnerBackend, 2>>| {
            let values = grad.unwrap_or_else(|| panic!("{module}.{name} has no gradient"));
            all.insert(format!("{module}.{name}"), values.into_data().into_vec().expect("f32"));
        };
        add("lora_A.weight", low.a.grad(grads));
        add("lora_B.weight", low.b.grad(grads));
        if let Some(magnitude) = &low.magnitude {
            let grad = magnitude.grad(grads).map(|grad| grad.unsqueeze_dim::<2>(0));
            add("lora_magnitude_vector", grad);
        }
    }
    all
}

fn adapter(path: &str) -> Adapter {
    Adapter::open(&fixture(&format!("reference/lora/{path}"))).expect("adapter")
}

/// The first two steps of PEFT's training; the first one has a learning rate of 0, so that the
/// second begins with the same weights.
fn reference<B: AutodiffBackend>(device: &B::Device) {
    for arch in ARCHITECTURES {
        let model = load::<B>(&format!("reference/models/{arch}"), DType::F32, true, device);
        let golden =
            Golden::open(&format!("reference/lora/{arch}/train/grads_before_clip.safetensors"));
        let log =
            std::fs::read(fixture(&format!("reference/lora/{arch}/reference.json"))).expect("log");
        let log: serde_json::Value = serde_json::from_slice(&log).expect("JSON");
        let parameters = Parameters::<B>::new(&adapter(&format!("{arch}/train/initial")), device);
        for step in 0..2 {
            let loss = loss(&*model, &parameters, &batch(arch, step));
            let grads = gradients(&parameters, &loss.backward());
            let want = log["steps_log"][step]["loss"].as_f64().expect("a number");
            let got = f64::from(value(loss));
            assert!((got - want).abs() <= 1e-4, "{arch} step {step}: loss {got}, expected {want}");
            assert_eq!(grads.len(), 28);
            let mut squares = 0.0;
            for (name, got) in &grads {
                let want = golden.f32(&format!("step{step}.base_model.model.{name}"));
                let scale = want.iter().fold(0.0f32, |most, v| most.max(v.abs()));
                let diff = crate::support::max_abs_diff(got, &want);
                // B begins with nothing: A's first gradients are zeros.
                assert!(diff <= 1e-4 * scale, "{arch} step {step} {name}: {diff} of {scale}");
                squares += got.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            }
            let want = log["steps_log"][step]["grad_norm_before_clip"].as_f64().expect("a number");
            let got = squares.sqrt();
            assert!(
                (got / want - 1.0).abs() <= 1e-3,
                "{arch} step {step}: norm {got}, expected {want}"
            );
        }
    }
}

#[test]
fn gradients_match_the_reference_on_cpu() {
    reference::<Autodiff<Cpu>>(&Default::default());
}

#[test]
fn gradients_match_the_reference_on_candle() {
    reference::<Autodiff<Candle>>(&Default::default());
}

#[test]
fn gradients_match_the_reference_on_wgpu_spirv() {
    reference::<Autodiff<Wgpu>>(&wgpu(ShaderLanguage::SpirV).0);
}

#[test]
fn gradients_match_the_reference_on_wgpu_wgsl() {
    reference::<Autodiff<Wgpu>>(&wgpu(ShaderLanguage::Wgsl).0);
}

/// The derivative of the loss along a direction, by gradients and by a difference quotient.
fn check_direction<B: AutodiffBackend>(
    what: &str,
    model: &Model<B>,
    parameters: &Parameters<B>,
    keep: impl Fn(&str) -> bool,
) {
    let (batch, device) = (batch("llama", 0), model.device().clone());
    let grads = gradients(parameters, &loss(&**model, parameters, &batch).backward());
    // Along the gradient itself the derivative is its length.
    let chosen: BTreeMap<_, _> = grads.into_iter().filter(|(name, _)| keep(name)).collect();
    let squares = chosen.values().flatten().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let want = squares.sqrt();
    assert!(want > 1e-2, "{what}: there is nothing to measure: {want}");
    let unit = |values: Vec<f32>| values.into_iter().map(|v| v / want as f32).collect();
    let directions: BTreeMap<_, _> =
        chosen.into_iter().map(|(name, values)| (name, unit(values))).collect();
    let at = |step: f32| {
        f64::from(value(loss(&**model, &parameters.moved(&directions, step, &device), &batch)))
    };
    // Of fourth order: the loss is curved, and f32 forbids smaller steps.
    let step = 2e-2;
    let quotient = |step: f32| (at(step) - at(-step)) / f64::from(2.0 * step);
    let got = (4.0 * quotient(step / 2.0) - quotient(step)) / 3.0;
    assert!((got / want - 1.0).abs() <= 5e-3, "{what}: difference quotient {got}, gradient {want}");
}

/// On a packed base whose products are exact (activations stay f32), A's and B's gradients are the
/// loss's.
#[test]
fn gradients_on_a_packed_base_are_difference_quotients() {
    type B = Autodiff<Wgpu>;
    let device = wgpu(ShaderLanguage::SpirV).0;
    for file in ["llama-q8_0", "llama-q4_0"] {
        let model =
            load::<B>(&format!("reference/gguf/models/{file}.gguf"), DType::F32, false, &device);
        let packed =
            |stored: &metal_candle::nn::Stored<B>| matches!(stored.matrix, Matrix::Packed(_));
        assert!(model.slots().groups().iter().any(packed), "{file}: nothing is packed");
        let parameters = Parameters::<B>::new(&adapter("llama/all_linear"), &device);
        for part in ["lora_A", "lora_B"] {
            check_direction(&format!("{file} {part}"), &model, &parameters, |name| {
                name.contains(part)
            });
        }
    }
}

/// `DoRA`: the magnitudes' gradients. (Those of `A` and `B` leave the norm's out, as PEFT does, and
/// so are no derivatives of the loss.)
#[test]
fn gradients_of_magnitudes_are_difference_quotients() {
    type B = Autodiff<Cpu>;
    let device = Default::default();
    let model = load::<B>("reference/models/llama", DType::F32, true, &device);
    let parameters = Parameters::<B>::new(&adapter("llama/dora"), &device);
    check_direction("magnitudes", &model, &parameters, |name| name.contains("magnitude"));
}

/// The base has no gradients, and nothing that is kept for some: its tensors are not tracked.
#[test]
fn the_base_gets_no_gradients() {
    type B = Autodiff<Cpu>;
    let device = Default::default();
    let model = load::<B>("reference/models/llama", DType::F32, true, &device);
    let parameters = Parameters::<B>::new(&adapter("llama/train/initial"), &device);
    let grads = loss(&*model, &parameters, &batch("llama", 0)).backward();
    let is_tracked = |tensor: Tensor<B, 2>| {
        let primitive = tensor.into_primitive().tensor();
        !primitive.node.requirement.is_none()
    };
    for stored in model.slots().groups() {
        let Matrix::Dense(weight) = &stored.matrix else { panic!("it was loaded dense") };
        let weight = Param::val(weight);
        assert!(weight.grad(&grads).is_none() && !weight.is_require_grad());
        assert!(!is_tracked(weight));
    }
    let trained = parameters.modules.values().next().expect("a module");
    assert!(is_tracked(trained.a.clone()) && trained.a.grad(&grads).is_some());
    // Without parameters there is no graph at all.
    let frozen: BTreeMap<_, _> = parameters
        .modules
        .into_iter()
        .map(|(name, low)| {
            let plain = |tensor: Tensor<B, 2>| Tensor::from_inner(tensor.inner());
            (name, LowRank { a: plain(low.a), b: plain(low.b), ..low })
        })
        .collect();
    let set = Parameters { modules: frozen }.set(&*model);
    let tokens = TokenBatch::new(&batch("llama", 0).ids).expect("tokens");
    let deltas = Deltas::all(&set);
    let logits =
        model.run(&tokens, None, Pass { deltas, ..Pass::of(LogitRows::Last) }).expect("run");
    let [rows, _, vocabulary] = logits.dims();
    assert!(!is_tracked(logits.reshape([rows, vocabulary])));
}
