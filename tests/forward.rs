//! A whole forward pass, taken down on every backend: the hidden state after each layer and the
//! logits, against a golden file, and that file against transformers.

mod support;

use metal_candle::{
    Backend,
    backend::Cpu,
    formats::Checkpoint,
    models::{self, CausalLm, LoadOptions, LogitRows, TokenBatch},
    testing::{Capture, HostTensor, Snapshot, Tolerance, compare},
};
use support::{Golden, fixture};

/// The tolerance of `fixtures/README.md`; logits reach 13.
const TOLERANCE: Tolerance = Tolerance::absolute(1e-4);
/// Positions of the prompt; one more is run from the cache.
const PROMPT: usize = 3;

fn golden_file() -> &'static str {
    "tests/golden/llama.safetensors"
}

fn load<B: Backend>(device: &B::Device) -> Box<dyn CausalLm<B>> {
    let checkpoint = Checkpoint::open(&fixture("reference/models/llama")).expect("checkpoint");
    models::load(&checkpoint, LoadOptions::default(), device).expect("model")
}

fn reference() -> Golden {
    Golden::open("reference/models/llama/reference.safetensors")
}

fn tokens(positions: std::ops::Range<usize>) -> TokenBatch {
    TokenBatch::new(&[&reference().ids("input_ids")[0][positions]]).expect("tokens")
}

/// A prompt, and the token after it.
fn forward<B: Backend>(device: &B::Device, capture: &mut Capture<B>) {
    let model = load::<B>(device);
    let mut cache = model.new_cache(&[0], PROMPT + 1);
    for (name, tokens) in [("prompt", tokens(0..PROMPT)), ("step", tokens(PROMPT..PROMPT + 1))] {
        capture
            .forward(name, &*model, &tokens, Some(&mut cache), LogitRows::All)
            .expect("there is room");
    }
}

metal_candle::golden_test!(llama_golden, golden_file(), TOLERANCE, forward);

/// What transformers gives for the same positions of the first sequence.
fn transformers() -> Snapshot {
    let (golden, mut snapshot) = (reference(), Snapshot::new());
    for (pass, positions) in [("prompt", 0..PROMPT), ("step", PROMPT..PROMPT + 1)] {
        for (name, width) in [
            ("hidden.embed", 64),
            ("hidden.layer.0", 64),
            ("hidden.layer.1", 64),
            ("hidden.final_norm", 64),
            ("logits", 512),
        ] {
            let values = golden.f32(name)[positions.start * width..positions.end * width].to_vec();
            let tensor = HostTensor::floats([1, positions.len(), width], values);
            snapshot.insert(format!("{pass}.{name}"), tensor);
        }
    }
    snapshot
}

#[test]
fn the_golden_numbers_are_those_of_transformers() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(golden_file());
    let golden = Snapshot::read(&path).expect("a golden file");
    compare(&golden, &transformers(), TOLERANCE).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn who_watches_changes_nothing() {
    let model = load::<Cpu>(&Default::default());
    let tokens = TokenBatch::new(&[vec![5, 99, 300], vec![77]]).expect("tokens");
    let mut capture = Capture::new();
    let seen = capture.forward("pass", &*model, &tokens, None, LogitRows::Last).expect("forward");
    let unseen = model.forward(&tokens, None, LogitRows::Last).expect("forward");
    assert_eq!(seen.to_data(), unseen.into_data());

    let snapshot = capture.finish();
    let shapes: Vec<_> = snapshot.iter().map(|(name, tensor)| (name, tensor.shape())).collect();
    assert_eq!(
        shapes,
        [
            ("pass.hidden.embed", &[2, 3, 64][..]),
            ("pass.hidden.layer.0", &[2, 3, 64]),
            ("pass.hidden.layer.1", &[2, 3, 64]),
            ("pass.hidden.final_norm", &[2, 1, 64]),
            ("pass.logits", &[2, 1, 512]),
        ]
    );
    assert_eq!(snapshot.get("pass.logits"), Some(&HostTensor::from(&seen)));
}
