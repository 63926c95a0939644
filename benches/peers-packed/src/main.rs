//! Times candle-transformers' quantised Llama on the CPU: a prompt of 512 tokens, then 64 tokens one
//! after the other. Prints one JSON object, tokens per second.
//!
//! ```sh
//! RUSTFLAGS='-C target-cpu=native' cargo build --release --manifest-path benches/peers-packed/Cargo.toml
//! RAYON_NUM_THREADS=2 candle-packed MODEL.gguf
//! ```

use std::{error::Error, fs::File, time::Instant};

use candle_core::{Device, Tensor, quantized::gguf_file};
use candle_transformers::models::quantized_llama::ModelWeights;
use serde_json::json;

const PREFILL: usize = 512;
const DECODE: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: candle-packed MODEL.gguf")?;
    let mut file = File::open(path)?;
    let content = gguf_file::Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    let prompt: Vec<u32> = (0..PREFILL as u32).map(|i| 100 + i * 37 % 3_900).collect();

    // A model that starts at position 0 forgets what it had; once without counting.
    let mut run = |tokens: &[u32], at: usize| -> Result<(), Box<dyn Error>> {
        let logits = model.forward(&Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?, at)?;
        logits.flatten_all()?.to_vec1::<f32>()?;
        Ok(())
    };
    run(&prompt, 0)?;
    let start = Instant::now();
    run(&prompt, 0)?;
    let prefill = PREFILL as f64 / start.elapsed().as_secs_f64();
    run(&prompt[..1], 0)?;
    let start = Instant::now();
    for at in 1..=DECODE {
        run(&prompt[at..=at], at)?;
    }
    let decode = DECODE as f64 / start.elapsed().as_secs_f64();
    println!("{}", json!({ "prefill": prefill, "decode": decode }));
    Ok(())
}
