//! Dense decode and prefill on the CPU: this crate beside candle-transformers' Llama, on the same
//! f32 weights, alternately in one process.
//!
//! ```sh
//! RAYON_NUM_THREADS=2 cargo run --release --manifest-path benches/peers/Cargo.toml \
//!     --target-dir target -- MODEL.gguf [ROUNDS]
//! ```
//!
//! Prints one JSON object: medians in tokens per second, and the median of the ratios round by
//! round (ours / candle's; above 1, ours is faster).

use std::{collections::HashMap, error::Error, path::Path, time::Instant};

use burn::tensor::DType;
use candle_core::{Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama;
use metal_candle::{
    backend::Cpu,
    formats::Checkpoint,
    models::{self, CausalLm, LoadOptions, LogitRows, TokenBatch},
    quant,
};
use serde_json::json;

const PREFILL: usize = 512;
const DECODE: usize = 64;
const DECODE_CONTEXT: usize = 16;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Tokens per second.
#[derive(Clone, Copy)]
struct Rates {
    prefill: f64,
    decode: f64,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: metal-candle-peers MODEL [ROUNDS]")?;
    let rounds: usize = args.next().map_or(Ok(7), |n| n.parse())?;
    let checkpoint = Checkpoint::open(Path::new(&path))?;

    let options = LoadOptions { dtype: DType::F32, ..LoadOptions::default() };
    let ours = models::load::<Cpu>(&checkpoint, options, &Default::default())?;
    let options = LoadOptions { dtype: DType::F16, ..LoadOptions::default() };
    let ours_f16 = models::load::<Cpu>(&checkpoint, options, &Default::default())?;
    let candle = Candle::load(&checkpoint, ours.config())?;

    let prompt: Vec<u32> = (0..PREFILL as u32).map(|i| 100 + i * 37 % 40_000).collect();
    let difference = difference(&*ours, &candle, &prompt[..32])?;

    let mut all = Vec::new();
    for round in 0..=rounds {
        let rates =
            [run_ours(&*ours, &prompt)?, candle.run(&prompt)?, run_ours(&*ours_f16, &prompt)?];
        // The first round warms caches and pools up.
        if round > 0 {
            all.push(rates);
        }
    }
    let column = |who: usize, what: fn(&Rates) -> f64| -> Vec<f64> {
        all.iter().map(|rates| what(&rates[who])).collect()
    };
    let mut report = serde_json::Map::new();
    let kinds: [(&str, fn(&Rates) -> f64); 2] =
        [("prefill_512", |r| r.prefill), ("decode_64", |r| r.decode)];
    for (name, what) in kinds {
        let (ours, candle, f16) = (column(0, what), column(1, what), column(2, what));
        let ratio = |a: &[f64]| median(a.iter().zip(&candle).map(|(a, b)| a / b).collect());
        report.insert(
            name.into(),
            json!({
                "ours_f32": median(ours.clone()),
                "candle_f32": median(candle.clone()),
                "ours_f16_weights": median(f16.clone()),
                "ratio_f32": ratio(&ours),
                "ratio_f16_weights": ratio(&f16),
            }),
        );
    }
    let report = json!({
        "model": path,
        "threads": std::env::var("RAYON_NUM_THREADS").ok(),
        "rounds": rounds,
        "max_logit_difference": difference,
        "tokens_per_second": report,
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn run_ours(model: &dyn CausalLm<Cpu>, prompt: &[u32]) -> Result<Rates> {
    let forward = |tokens: &[u32], cache: &mut models::Cache<Cpu>| -> Result<Vec<f32>> {
        let tokens = TokenBatch::new(&[tokens])?;
        let logits = model.forward(&tokens, Some(cache), LogitRows::Last)?;
        Ok(logits.into_data().into_vec().map_err(|e| format!("{e:?}"))?)
    };
    let mut cache = model.new_cache(&[0], prompt.len());
    let start = Instant::now();
    forward(prompt, &mut cache)?;
    let prefill = prompt.len() as f64 / start.elapsed().as_secs_f64();

    let mut cache = model.new_cache(&[0], DECODE_CONTEXT + DECODE);
    forward(&prompt[..DECODE_CONTEXT], &mut cache)?;
    let start = Instant::now();
    for &token in &prompt[..DECODE] {
        forward(&[token], &mut cache)?;
    }
    Ok(Rates { prefill, decode: DECODE as f64 / start.elapsed().as_secs_f64() })
}

/// candle-transformers' Llama on the same weights.
struct Candle {
    model: llama::Llama,
    config: llama::Config,
}

impl Candle {
    fn load(checkpoint: &Checkpoint, config: &models::DecoderConfig) -> Result<Self> {
        let mut names = vec!["model.embed_tokens.weight".to_string(), "model.norm.weight".into()];
        for layer in 0..config.layers {
            for name in [
                "input_layernorm",
                "post_attention_layernorm",
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.o_proj",
                "mlp.gate_proj",
                "mlp.up_proj",
                "mlp.down_proj",
            ] {
                names.push(format!("model.layers.{layer}.{name}.weight"));
            }
        }
        if !config.tied {
            names.push("lm_head.weight".into());
        }
        let mut tensors = HashMap::new();
        for name in names {
            let raw = checkpoint.tensor(&name)?;
            let mut values = vec![0.0f32; raw.elements()];
            quant::dequantize(raw.encoding, &raw.bytes, &mut values)?;
            tensors.insert(name, Tensor::from_vec(values, raw.shape, &Device::Cpu)?);
        }
        let config = llama::Config {
            hidden_size: config.hidden,
            intermediate_size: config.intermediate,
            vocab_size: config.vocabulary,
            num_hidden_layers: config.layers,
            num_attention_heads: config.heads,
            num_key_value_heads: config.kv_heads,
            use_flash_attn: false,
            rms_norm_eps: config.norm_epsilon,
            rope_theta: config.rope_theta,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: config.context,
            tie_word_embeddings: config.tied,
        };
        let weights = VarBuilder::from_tensors(tensors, candle_core::DType::F32, &Device::Cpu);
        Ok(Self { model: llama::Llama::load(weights, &config)?, config })
    }

    fn cache(&self) -> Result<llama::Cache> {
        Ok(llama::Cache::new(true, candle_core::DType::F32, &self.config, &Device::Cpu)?)
    }

    fn forward(&self, tokens: &[u32], at: usize, cache: &mut llama::Cache) -> Result<Vec<f32>> {
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        Ok(self.model.forward(&input, at, cache)?.i(0)?.to_vec1()?)
    }

    fn run(&self, prompt: &[u32]) -> Result<Rates> {
        let mut cache = self.cache()?;
        let start = Instant::now();
        self.forward(prompt, 0, &mut cache)?;
        let prefill = prompt.len() as f64 / start.elapsed().as_secs_f64();

        let mut cache = self.cache()?;
        self.forward(&prompt[..DECODE_CONTEXT], 0, &mut cache)?;
        let start = Instant::now();
        for (i, &token) in prompt[..DECODE].iter().enumerate() {
            self.forward(&[token], DECODE_CONTEXT + i, &mut cache)?;
        }
        Ok(Rates { prefill, decode: DECODE as f64 / start.elapsed().as_secs_f64() })
    }
}

/// Largest difference of the last logits: both must compute the same thing to be compared.
fn difference(ours: &dyn CausalLm<Cpu>, candle: &Candle, prompt: &[u32]) -> Result<f32> {
    let tokens = TokenBatch::new(&[prompt])?;
    let ours: Vec<f32> = ours
        .forward(&tokens, None, LogitRows::Last)?
        .into_data()
        .into_vec()
        .map_err(|e| format!("{e:?}"))?;
    let theirs = candle.forward(prompt, 0, &mut candle.cache()?)?;
    Ok(ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}
