//! A packed weight is never there as a dense one of its full size, neither while it is loaded nor
//! while tokens are generated.

use metal_candle::{
    Backend,
    backend::{Cpu, Wgpu, wgpu::ShaderLanguage},
    dispatch::Kernels,
    formats::{Checkpoint, TensorInfo},
    generation::{GenerateOptions, generate},
    models::{self, LoadOptions},
    quant::Encoding,
};
use serde_json::json;

use super::{counter::Counter, support};

/// More than a backend takes for a few rows.
const PROMPT: u32 = 70;
const GENERATED: usize = 4;
const VOCABULARY: usize = 16_384;

/// A model whose embedding is its largest weight by far, in a block format.
fn random(encoding: Encoding, vocabulary: usize) -> Checkpoint {
    let config = json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": vocabulary, "tie_word_embeddings": false, "max_position_embeddings": 256,
    });
    Checkpoint::random(config, 1, encoding)
}

/// The bytes of the largest matrix of [`random`], and of all of them, in this format.
fn random_bytes(encoding: Encoding, vocabulary: usize) -> (usize, usize) {
    let bytes = |values| encoding.bytes_for(values).expect("whole blocks");
    let layer = 2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256;
    (bytes(vocabulary * 256), bytes(2 * vocabulary * 256 + 2 * layer))
}

/// Loads the model and lets it go on with a prompt.
fn run<B: Backend>(checkpoint: &Checkpoint, options: LoadOptions<'_>, device: &B::Device) {
    let model = models::load::<B>(checkpoint, options, device).expect("loads");
    let prompt: Vec<u32> = (1..=PROMPT).collect();
    let options = GenerateOptions {
        max_tokens: GENERATED,
        sampling: metal_candle::generation::SamplingOptions::default(),
        stop: Vec::new(),
        stop_tokens: Vec::new(),
    };
    let out = generate(&*model, None, &prompt, &options, |_| ()).expect("generates");
    assert_eq!(out.tokens.len(), GENERATED);
}

/// The largest allocation and the most bytes that lived at once.
fn measure(counter: &Counter, checkpoint: &Checkpoint, dequantize: bool) -> (usize, usize) {
    // Threads and their scratch memory are there already.
    run::<Cpu>(checkpoint, LoadOptions::default(), &Default::default());
    counter.reset();
    run::<Cpu>(checkpoint, LoadOptions { dequantize, ..Default::default() }, &Default::default());
    (counter.largest(), counter.peak())
}

/// In every format that has kernels. What is packed is made here, so that it counts as well.
#[test]
fn no_packed_weight_is_ever_dense_on_the_cpu() {
    let counter = Counter::alone();
    let (largest_f16, all_f16) = random_bytes(Encoding::F16, VOCABULARY);
    let kept = |encoding: &Encoding| Cpu::keeps_packed(*encoding, [16, 256], &Default::default());
    let packed: Vec<Encoding> = Encoding::ALL.into_iter().filter(kept).collect();
    assert_eq!(packed.len(), 12);
    for encoding in packed {
        let (largest_packed, all_packed) = random_bytes(encoding, VOCABULARY);
        let (largest, peak) = measure(&counter, &random(encoding, VOCABULARY), false);
        eprintln!("{encoding}: largest {largest}, peak {peak}, packed {all_packed}");
        // Nothing is larger than the largest weight as it is stored. (Rows whose blocks are no whole words are
        // filled up with two bytes.)
        assert!(largest <= largest_packed + 2 * VOCABULARY, "{encoding}: {largest} bytes at once");
        // All that lives beside the weights is far less than the largest of them in f16, but for one: their order
        // changes as they are loaded.
        let beside = peak.checked_sub(all_packed).expect("the weights live");
        let beside = beside.saturating_sub(largest_packed);
        assert!(beside < largest_f16 / 4, "{encoding}: {beside} bytes beside the weights");
    }

    // The same measurement notices dense weights.
    let (largest, peak) = measure(&counter, &random(Encoding::Q4_0, VOCABULARY), true);
    assert!(largest >= largest_f16, "{largest}");
    assert!(peak >= all_f16, "{peak}");
}

/// Formats that only load dense are noticed by it, too.
#[test]
fn a_format_without_kernels_is_dense() {
    let counter = Counter::alone();
    let (largest_f16, _) = random_bytes(Encoding::F16, VOCABULARY);
    let (largest, _) = measure(&counter, &random(Encoding::IQ2_XXS, VOCABULARY), false);
    assert!(largest >= largest_f16, "{largest}");
}

/// On a GPU, by what its pool holds: it gives nothing back while it runs, so that what it holds at
/// the end is the most that it ever held.
#[test]
fn no_packed_weight_is_ever_dense_on_a_gpu() {
    let _counter = Counter::alone();
    // Large beside the pages of the pool.
    let vocabulary = 4 * VOCABULARY;
    let (largest_f16, _) = random_bytes(Encoding::F16, vocabulary);
    let (_, all_packed) = random_bytes(Encoding::Q4_0, vocabulary);
    let held = |dequantize: bool| {
        let (device, _) = support::wgpu(ShaderLanguage::SpirV);
        let bytes = || Kernels::of(&device).memory_bytes().expect("a number");
        let before = bytes();
        let options = LoadOptions { dequantize, ..Default::default() };
        run::<Wgpu>(&random(Encoding::Q4_0, vocabulary), options, &device);
        usize::try_from(bytes() - before).expect("a size")
    };
    let packed = held(false);
    eprintln!("packed {packed}, weights {all_packed}");
    let beside = packed.checked_sub(all_packed).expect("the weights are there");
    assert!(beside < largest_f16, "{beside} bytes beside the weights");
    let dense = held(true);
    assert!(
        dense > packed + largest_f16,
        "{dense} bytes with dense weights, {packed} with packed ones"
    );
}

/// A real file: the weights are mapped, and copied into another order.
#[test]
fn smollm2_is_never_dense() {
    let counter = Counter::alone();
    let path = support::smollm2();
    let checkpoint = Checkpoint::open(&path).expect("checkpoint");
    let matrices: Vec<TensorInfo> = checkpoint.infos().filter(|i| i.shape.len() == 2).collect();
    let f16 = |info: &TensorInfo| 2 * info.shape.iter().product::<usize>();
    let largest_f16 = matrices.iter().map(f16).max().expect("matrices");
    let copied: usize = matrices.iter().map(|info| info.bytes).sum();

    let (largest, peak) = measure(&counter, &checkpoint, false);
    eprintln!("largest {largest}, peak {peak}, copied {copied}, largest in f16 {largest_f16}");
    // Nothing is larger than the largest matrix as it is stored.
    let largest_packed = matrices.iter().map(|info| info.bytes).max().expect("matrices");
    assert!(largest <= largest_packed, "{largest} bytes at once");
    let beside = peak.checked_sub(copied).expect("the copies live");
    assert!(beside < largest_f16 / 4, "{beside} bytes beside the copies");

    let (largest, _) = measure(&counter, &checkpoint, true);
    assert!(largest >= largest_f16, "{largest}");
}
