//! A prototype of an attention variant, written once and golden-tested on every backend: a sliding
//! window with attention sinks (Xiao et al., "Efficient Streaming Language Models with Attention
//! Sinks", 2023, arXiv:2309.17453).
//!
//! A query sees the last few keys, as in any sliding window, and also the first few of the
//! sequence. Softmax has to put its weight somewhere; models learn to put it there when nothing
//! else fits, and fail once a window alone has left these keys behind.
//!
//! ```sh
//! cargo run --example sliding_sink_attention      # which keys are seen, and how backends differ
//! cargo test --example sliding_sink_attention     # the golden tests at the end of this file
//! ```

use burn::tensor::{Int, Tensor, activation::softmax};
use metal_candle::{
    Backend,
    backend::NOTHING_VISIBLE,
    device::DeviceJob,
    testing::{Capture, HostTensor, Snapshot, Target, Values, uniform},
};

/// Keys at the start of the sequence that every later query sees.
const SINKS: usize = 2;
/// The last keys that a query sees, its own among them.
const WINDOW: usize = 4;
/// Batch, heads, positions and head dimension of the example: small, and odd where it may be.
const SHAPE: [usize; 4] = [2, 3, 11, 8];

/// Causal attention of each query over the first `sinks` keys and the last `window`.
///
/// # Shapes
/// - `q`, `k`, `v`: `[batch, heads, positions, head_dim]`
/// - output: the probabilities, `[batch, heads, positions, positions]`, and the weighted values,
///   shaped as `v`
fn sliding_sink_attention<B: Backend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    sinks: usize,
    window: usize,
) -> [Tensor<B, 4>; 2] {
    let [_, _, positions, head_dim] = q.dims();
    let scores = q.matmul(k.swap_dims(2, 3)) / (head_dim as f64).sqrt();

    let index = Tensor::<B, 1, Int>::arange(0..positions as i64, &scores.device());
    let key = index.clone().reshape([1, positions]).repeat_dim(0, positions);
    let query = index.reshape([positions, 1]).repeat_dim(1, positions);
    let after = key.clone().greater(query.clone());
    let left_behind = (key.clone() + window as i64).lower_equal(query);
    let no_sink = key.greater_equal_elem(sinks as i64);
    let hidden = after.bool_or(left_behind.bool_and(no_sink));

    let hidden = hidden.unsqueeze::<4>().expand(scores.dims().map(|d| d as i32));
    let probabilities = softmax(scores.mask_fill(hidden, NOTHING_VISIBLE), 3);
    [probabilities.clone(), probabilities.matmul(v)]
}

/// The prototype: what it runs on, and what is compared.
fn prototype<B: Backend>(device: &B::Device, capture: &mut Capture<B>) {
    let [q, k, v] = [1, 2, 3].map(|seed| uniform(SHAPE, seed, device));
    let [probabilities, output] = sliding_sink_attention::<B>(q, k, v, SINKS, WINDOW);
    capture.tensor("probabilities", &probabilities);
    capture.tensor("output", &output);
}

/// What the prototype gives on a backend.
struct Run;

impl DeviceJob for Run {
    type Output = Snapshot;

    fn run<B: Backend>(self, device: &B::Device) -> Snapshot {
        let mut capture = Capture::new();
        prototype::<B>(device, &mut capture);
        capture.finish()
    }
}

fn main() {
    let cpu = Target::Cpu.run(Run).expect("the CPU is always there");
    let floats = |tensor: &HostTensor| match tensor.values() {
        Values::Float(values) => values.clone(),
        Values::Int(_) => unreachable!("attention gives floats"),
    };

    println!("{SINKS} sinks and a window of {WINDOW}: the keys that each query sees, first head");
    let positions = SHAPE[2];
    let probabilities = floats(cpu.get("probabilities").expect("it is captured"));
    for (query, row) in probabilities.chunks(positions).take(positions).enumerate() {
        let keys: String = row.iter().map(|p| if *p > 0.0 { " #" } else { " ." }).collect();
        println!("{query:5} {keys}");
    }

    println!("\nlargest difference from the CPU backend");
    for target in Target::EVERY.into_iter().filter(|target| *target != Target::Cpu) {
        let snapshot = match target.run(Run) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                println!("{target:>10}  not here: {error}");
                continue;
            }
        };
        for ((name, got), (_, want)) in snapshot.iter().zip(cpu.iter()) {
            let pairs = floats(got).into_iter().zip(floats(want));
            let most = pairs.map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
            println!("{target:>10}  {name:13} {most:.1e}");
        }
    }
}

// Probabilities and outputs are at most 1, and come from sums of at most 11 products of f32: a few
// times 11 · 2⁻²⁴ ≈ 7e-7.
metal_candle::golden_test!(
    golden,
    "examples/golden/sliding_sink_attention.safetensors",
    metal_candle::testing::Tolerance::absolute(3e-6),
    prototype,
    autodiff
);

#[cfg(test)]
mod tests {
    use metal_candle::testing::{Golden, GoldenError, Prototype, Tolerance, compare};

    use super::*;

    /// The formula of the paper, query by query in plain loops, in f64.
    fn reference() -> Snapshot {
        let device = Default::default();
        let [q, k, v] = [1, 2, 3].map(|seed| {
            let input: Tensor<metal_candle::backend::Cpu, 4> = uniform(SHAPE, seed, &device);
            let values: Vec<f32> = input.into_data().into_vec().expect("f32");
            values.into_iter().map(f64::from).collect::<Vec<_>>()
        });
        let [batch, heads, positions, dim] = SHAPE;
        let (mut probabilities, mut output) = (Vec::new(), Vec::new());
        for head in 0..batch * heads {
            let at =
                |x: &[f64], position: usize, i: usize| x[(head * positions + position) * dim + i];
            for query in 0..positions {
                let seen = |key: usize| key <= query && (key < SINKS || query - key < WINDOW);
                let weights: Vec<f64> = (0..positions)
                    .map(|key| {
                        let dot: f64 = (0..dim).map(|i| at(&q, query, i) * at(&k, key, i)).sum();
                        if seen(key) { (dot / (dim as f64).sqrt()).exp() } else { 0.0 }
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                probabilities.extend(weights.iter().map(|weight| (weight / sum) as f32));
                output.extend((0..dim).map(|i| {
                    let terms = weights.iter().enumerate().map(|(key, w)| w / sum * at(&v, key, i));
                    terms.sum::<f64>() as f32
                }));
            }
        }
        let mut snapshot = Snapshot::new();
        let shape = [batch, heads, positions, positions];
        snapshot.insert("probabilities", HostTensor::floats(shape, probabilities));
        snapshot.insert("output", HostTensor::floats(SHAPE, output));
        snapshot
    }

    fn golden_path() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples/golden/sliding_sink_attention.safetensors")
    }

    /// The golden numbers are the right ones, not only the ones we had before.
    #[test]
    fn the_golden_numbers_are_those_of_the_formula() {
        let golden = Snapshot::read(&golden_path()).expect("a golden file");
        compare(&golden, &reference(), Tolerance::absolute(1e-6)).unwrap_or_else(|e| panic!("{e}"));
    }

    /// A window that is one key too wide.
    struct Wider;

    impl Prototype for Wider {
        fn run<B: Backend>(&self, device: &B::Device, capture: &mut Capture<B>) {
            let [q, k, v] = [1, 2, 3].map(|seed| uniform(SHAPE, seed, device));
            let [probabilities, output] = sliding_sink_attention::<B>(q, k, v, SINKS, WINDOW + 1);
            capture.tensor("probabilities", &probabilities);
            capture.tensor("output", &output);
        }
    }

    #[test]
    fn one_key_too_many_is_noticed() {
        let golden = Golden::new(golden_path(), Tolerance::absolute(3e-6)).bless(false);
        let error = golden.check(Target::Cpu, &Wider).expect_err("it sees one key too many");
        let GoldenError::Mismatch { mismatch, .. } = &error else { panic!("{error}") };
        // Query 6 is the first with a key (its number 2) between the sinks and the window.
        let text = mismatch.to_string();
        assert!(
            text.starts_with("2 of 2 tensors differ\nprobabilities [2, 3, 11, 11]: "),
            "{text}"
        );
        assert!(text.contains("first at [0, 0, 6, 0]: "), "{text}");
        assert!(text.contains("\noutput [2, 3, 11, 8]: "), "{text}");
        assert!(text.contains("first at [0, 0, 6, 0]: "), "{text}");
    }
}
