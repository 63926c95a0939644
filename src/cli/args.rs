//! The arguments. The names are stable: scripts and tests rely on them.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use metal_candle::{
    device::{DeviceChoice, DeviceError},
    quant::Encoding,
};

/// Run, fine-tune and study language models, on any GPU or none.
#[derive(Debug, Parser)]
#[command(name = "metal-candle", version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue a prompt.
    Generate(GenerateArgs),
    /// Write the logits of given tokens to a safetensors file.
    Logits(LogitsArgs),
    /// Say what a model file holds.
    Inspect(InspectArgs),
    /// List the devices and check every kernel on them.
    Doctor(DoctorArgs),
    /// Time a model: prompts, and one token after the other.
    Bench(BenchArgs),
    /// Say how well a model predicts a text, and how far it is from another model.
    Perplexity(PerplexityArgs),
    /// Time the GPU kernels that fit, and keep the fastest.
    Tune(TuneArgs),
    /// Write a model with adapters merged into it.
    Fuse(FuseArgs),
}

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeChoice {
    /// f16 on a GPU that has it, f32 elsewhere.
    Auto,
    F32,
    F16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// f16, or a format in blocks.
fn encoding(text: &str) -> Result<Encoding, String> {
    let mut known = Encoding::ALL.to_vec();
    known.retain(|encoding| encoding.is_packed() || *encoding == Encoding::F16);
    let names: Vec<String> = known.iter().map(|encoding| encoding.name().to_lowercase()).collect();
    let found = names.iter().position(|name| name.eq_ignore_ascii_case(text));
    found.map(|i| known[i]).ok_or_else(|| format!("{text:?} is none of {}", names.join(", ")))
}

fn device(text: &str) -> Result<DeviceChoice, DeviceError> {
    text.parse()
}

/// `DIR[=SCALE]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterArg {
    pub path: PathBuf,
    pub scale: f64,
}

/// What follows the last `=` is a scale if it is a number, and no file is called so as a whole.
fn adapter(text: &str) -> Result<AdapterArg, String> {
    let whole = || AdapterArg { path: PathBuf::from(text), scale: 1.0 };
    if Path::new(text).exists() {
        return Ok(whole());
    }
    match text.rsplit_once('=') {
        Some((path, scale)) => match scale.parse::<f64>() {
            Ok(scale) if scale.is_finite() => Ok(AdapterArg { path: PathBuf::from(path), scale }),
            _ => Err(format!("{scale:?} is no scale: expected a number behind the `=`")),
        },
        None => Ok(whole()),
    }
}

#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// A model folder, a .gguf file, or the id of a model on the Hugging Face Hub
    /// (organisation/name, or organisation/name/file.gguf). Without it, the small model in
    /// fixtures/ is used.
    #[arg(long, value_name = "PATH|HUB_ID")]
    pub model: Option<PathBuf>,
    /// Random weights instead of a model: smollm2-135m, llama-3.2-1b, llama-3.2-3b, llama-3-8b, or
    /// a config.json. There is no tokenizer then.
    #[arg(long, value_name = "NAME|FILE.json", conflicts_with = "model")]
    pub shape: Option<String>,
    /// How the random weights of --shape are stored: `f16`, `q8_0`, `q4_0`, `q4_k` ...
    #[arg(long, requires = "shape", default_value = "f16", value_parser = encoding)]
    pub encoding: Encoding,
    /// A LoRA adapter (a folder of PEFT or of mlx-lm, or a .gguf file of llama.cpp), and what to
    /// multiply its changes with (1 without it); may be given several times.
    #[arg(long, value_name = "DIR[=SCALE]", value_parser = adapter)]
    pub adapter: Vec<AdapterArg>,
    /// auto, cpu, candle, wgpu, vulkan, metal or cuda, with an optional number: vulkan:1
    #[arg(long, default_value = "auto", value_parser = device)]
    pub device: DeviceChoice,
    /// How matrices are stored on the device.
    #[arg(long, value_enum, default_value_t = DtypeChoice::Auto)]
    pub dtype: DtypeChoice,
    /// Load packed weights as dense ones.
    #[arg(long)]
    pub dequantize: bool,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The text to continue.
    #[arg(conflicts_with = "tokens")]
    pub prompt: Option<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Token ids instead of a text: 1,2,3
    #[arg(long, value_delimiter = ',')]
    pub tokens: Vec<u32>,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 128)]
    pub max_tokens: usize,
    /// 0 takes the most likely token each time.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Keep the K most likely tokens.
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Keep the most likely tokens that reach this probability together.
    #[arg(long, value_name = "F")]
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the most likely one's probability.
    #[arg(long, value_name = "F")]
    pub min_p: Option<f32>,
    /// Make tokens that occurred before less likely; 1 changes nothing.
    #[arg(long, value_name = "F")]
    pub repeat_penalty: Option<f32>,
    /// Seed of the sampling.
    #[arg(long)]
    pub seed: Option<u64>,
    /// A text that ends the generation; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Do not stop at the end-of-text token.
    #[arg(long)]
    pub ignore_eos: bool,
    /// List what one decode step launches on a wgpu device, on standard error.
    #[arg(long)]
    pub trace_kernels: bool,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Token ids: 1,2,3
    #[arg(
        long,
        value_delimiter = ',',
        required_unless_present = "tokens_file",
        conflicts_with = "tokens_file"
    )]
    pub tokens: Vec<u32>,
    /// A JSON file of token ids, one list a sequence: [[1,2,3],[4,5,6]]
    #[arg(long, value_name = "FILE.json")]
    pub tokens_file: Option<PathBuf>,
    /// Where to write the tensor `logits`, f32 [batch, positions, vocabulary].
    #[arg(long, value_name = "FILE.safetensors")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Check this family of kernels only: attention, copy, dequantise, largest, matmul, matvec, norm, rope, rows or swiglu.
    #[arg(long)]
    pub family: Option<String>,
    /// Check kernels with this in their names only, such as `q4_0`.
    #[arg(long, value_name = "TEXT")]
    pub kernel: Option<String>,
    /// Check this device only: wgpu, vulkan, metal or cuda, with an optional number: vulkan:1
    #[arg(long, value_parser = device)]
    pub device: Option<DeviceChoice>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct TuneArgs {
    /// auto, wgpu, vulkan or metal, with an optional number: vulkan:1
    #[arg(long, default_value = "auto", value_parser = device)]
    pub device: DeviceChoice,
    /// Seconds for each shape.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub budget: f64,
    /// Formats of matrices, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = super::tune::format, default_value = "f16")]
    pub formats: Vec<metal_candle_kernels::Format>,
    /// Take the extents of matrices, and the heads, of this model, instead of --shapes.
    #[arg(long, value_name = "PATH|HUB_ID", conflicts_with = "shapes")]
    pub model: Option<PathBuf>,
    /// The same, of a well-known model: see `bench --help`.
    #[arg(long, value_name = "NAME|FILE.json", conflicts_with_all = ["shapes", "model"])]
    pub shape: Option<String>,
    /// Extents of matrices, rows by columns: 4096x4096,14336x4096
    #[arg(long, value_delimiter = ',', value_parser = super::tune::shape,
          default_value = "4096x4096,14336x4096,128256x2048")]
    pub shapes: Vec<(u32, u32)>,
    /// Rows of `x`: 1,2,4,8
    #[arg(long, value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=8))]
    pub batch: Vec<u32>,
    /// Numbers of keys to time decode attention with (the model's heads; without a model, 32 query
    /// heads and 8 key/value heads of 64 and of 128 values).
    #[arg(long, value_delimiter = ',')]
    pub keys: Vec<u32>,
    /// Variants to show of each shape, the fastest first.
    #[arg(long, default_value_t = 1)]
    pub top: usize,
    /// Launches in a sample: at most 32, which are one submission.
    #[arg(long)]
    pub repeats: Option<usize>,
    /// Bytes to measure the copy bandwidth with.
    #[arg(long, default_value_t = 512 << 20)]
    pub copy_bytes: usize,
    /// Where to save the choice; else what the README says of tuning files. What was
    /// saved there before is kept.
    #[arg(long, value_name = "FILE.json")]
    pub save: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

impl ModelArgs {
    /// What was asked for, for people.
    pub fn name(&self) -> String {
        match (&self.shape, &self.model) {
            (Some(shape), _) => {
                format!("random weights in the shape of {shape}, {}", self.encoding)
            }
            (None, Some(model)) => model.display().to_string(),
            (None, None) => "the default model".into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    Text,
    Json,
    Csv,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Lengths of prompts to time, separated by commas; 0 for none.
    #[arg(long, short = 'p', value_delimiter = ',', default_value = "512")]
    pub prompt: Vec<usize>,
    /// Numbers of tokens to generate one after the other; 0 for none.
    #[arg(long, short = 'n', value_delimiter = ',', default_value = "128")]
    pub generate: Vec<usize>,
    /// Tokens that are in the cache before each of these, separated by commas.
    #[arg(long, short = 'd', value_delimiter = ',', default_value = "0")]
    pub depth: Vec<usize>,
    /// How often each is timed, after once without counting.
    #[arg(long, short = 'r', default_value_t = 5,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub repeats: u16,
    #[arg(long, value_enum, default_value_t = BenchFormat::Text)]
    pub format: BenchFormat,
}

#[derive(Debug, Args)]
pub struct PerplexityArgs {
    /// The model, as --model takes it.
    #[arg(value_name = "MODEL", conflicts_with_all = ["model", "shape"])]
    pub path: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text, in UTF-8.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Compare with this model, or with the predictions in a file: --save-base writes it, and so does
    /// llama.cpp's --kl-divergence-base.
    #[arg(long, value_name = "MODEL|FILE")]
    pub kl_base: Option<PathBuf>,
    /// Write the model's predictions to a file, for --kl-base.
    #[arg(long, value_name = "FILE")]
    pub save_base: Option<PathBuf>,
    /// Tokens of a window; the second half of each counts.
    #[arg(long, short = 'c', value_name = "TOKENS", default_value_t = 512)]
    pub context: usize,
    /// Windows to evaluate at most.
    #[arg(long, value_name = "N")]
    pub windows: Option<usize>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct FuseArgs {
    /// The base: a model folder, a .gguf file, or the id of a model on the Hugging Face Hub.
    pub model: PathBuf,
    /// A LoRA adapter (a folder of PEFT or of mlx-lm, or a .gguf file of llama.cpp), and what to
    /// multiply its changes with (1 without it); may be given several times.
    #[arg(long, value_name = "DIR[=SCALE]", value_parser = adapter, required = true)]
    pub adapter: Vec<AdapterArg>,
    /// Where to write: a file if it ends in .gguf, else a folder as Hugging Face has them.
    pub out: PathBuf,
    /// How merged matrices are stored. auto: as in the base, or f16 where that is packed.
    #[arg(long, value_enum, default_value_t = DtypeChoice::Auto)]
    pub dtype: DtypeChoice,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A model folder, a .gguf file or a .safetensors file.
    pub path: PathBuf,
    /// The device to predict the memory for; as in `generate`.
    #[arg(long, default_value = "auto", value_parser = device)]
    pub device: DeviceChoice,
    /// How matrices are stored on it.
    #[arg(long, value_enum, default_value_t = DtypeChoice::Auto)]
    pub dtype: DtypeChoice,
    /// Positions of the cache; as many as the model was made for, if not given.
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Predict for packed weights loaded as dense ones.
    #[arg(long)]
    pub dequantize: bool,
}
