//! `perplexity`: how well a model predicts a text, and how far it is from another one.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use indicatif::{ProgressBar, ProgressStyle};
use metal_candle::{
    Backend,
    device::DeviceJob,
    evaluation::{
        Base, BaseFile, BaseModel, BaseWriter, Divergence, Evaluation, Mean, Windows, evaluate,
    },
    formats::Checkpoint,
    models::Workload,
    tokenizer::Tokenizer,
};
use serde_json::{Value, json};

use super::{
    Failure,
    args::{Format, PerplexityArgs},
    model::{self, Source},
};

pub fn run(args: &PerplexityArgs) -> Result<(), Failure> {
    let mut named = args.model.clone();
    named.model = named.model.or_else(|| args.path.clone());
    let source = Source::open(&named)?;
    let windows = windows(args, &source.checkpoint)?;
    let rows = args.context;
    let workload = Workload { sequences: 1, cached: 0, rows, logits: rows };
    source.check_memory(args.model.dequantize, workload)?;
    let base = match &args.kl_base {
        Some(path) if BaseFile::is_one(path) => Some(BaseSource::File(path)),
        Some(path) => {
            let checkpoint = model::checkpoint(Some(path), None, args.model.encoding)?;
            Some(BaseSource::Model(Box::new(checkpoint)))
        }
        None => None,
    };
    let job = Job { args, source: &source, windows: &windows, base: base.as_ref() };
    let found = source.device.dispatch(job)?;
    match args.format {
        Format::Text => text(&found, &windows),
        Format::Json => writeln!(std::io::stdout(), "{}", report(&found, &windows))?,
    }
    Ok(())
}

/// The text's tokens, in windows.
fn windows(args: &PerplexityArgs, checkpoint: &Checkpoint) -> Result<Windows, Failure> {
    let text = std::fs::read_to_string(&args.text)
        .map_err(|error| format!("{}: {error}", args.text.display()))?;
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let tokens = tokenizer.encode(&text, true)?;
    let special = tokenizer.special_tokens();
    let bos = special.bos.filter(|_| special.add_bos);
    let windows = Windows::new(tokens, args.context, bos)
        .map_err(|error| format!("{}: {error}", args.text.display()))?;
    Ok(windows.take(args.windows.unwrap_or(usize::MAX)))
}

/// What `--kl-base` names.
enum BaseSource<'a> {
    File(&'a Path),
    Model(Box<Checkpoint>),
}

struct Job<'a> {
    args: &'a PerplexityArgs,
    source: &'a Source,
    windows: &'a Windows,
    base: Option<&'a BaseSource<'a>>,
}

impl DeviceJob for Job<'_> {
    type Output = Result<Evaluation, Failure>;

    fn run<B: Backend>(self, device: &B::Device) -> Self::Output {
        let Self { args, source, windows, base } = self;
        let (dtype, dequantize) = (source.dtype, args.model.dequantize);
        let model = model::load_adapted::<B>(&source.checkpoint, dtype, &args.model, device)?;
        // Without adapters: the distance from it is theirs too.
        let base_model = match base {
            Some(BaseSource::Model(checkpoint)) => {
                Some(model::load::<B>(checkpoint, dtype, dequantize, device)?)
            }
            _ => None,
        };
        let mut of_model = base_model.as_deref().map(BaseModel);
        let mut of_file = match base {
            Some(BaseSource::File(path)) => Some(BaseFile::open(path)?),
            _ => None,
        };
        let base: Option<&mut dyn Base> = match (&mut of_model, &mut of_file) {
            (Some(base), _) => Some(base),
            (None, Some(base)) => Some(base),
            (None, None) => None,
        };
        let vocabulary = model.config().vocabulary;
        let writer = |path: &PathBuf| BaseWriter::create(path, windows, vocabulary);
        let mut writer = args.save_base.as_ref().map(writer).transpose()?;

        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(windows.count() as u64)
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {eta}")?);
        let found = evaluate(&*model, windows, base, writer.as_mut(), |so_far| {
            bar.set_message(format!("perplexity {:.3}", so_far.perplexity()));
            bar.inc(1);
        })?;
        bar.finish_and_clear();
        if let Some(writer) = writer {
            writer.finish()?;
        }
        Ok(found)
    }
}

fn text(found: &Evaluation, windows: &Windows) {
    println!(
        "perplexity {:.4} ± {:.4} ({} tokens in {} windows of {})",
        found.perplexity(),
        found.perplexity_error(),
        found.nll.count(),
        windows.count(),
        windows.length()
    );
    let Some(divergence) = &found.divergence else { return };
    println!("base perplexity {:.4}", divergence.base_nll.value().exp());
    let (mean, top) = (divergence.divergence, divergence.same_top);
    let most = divergence.quantile(0.99);
    println!("KL divergence {:.6} ± {:.6}, 99 % below {most:.6}", mean.value(), mean.error());
    println!("same most likely token {:.3} ± {:.3} %", 100.0 * top.value(), 100.0 * top.error());
}

fn report(found: &Evaluation, windows: &Windows) -> Value {
    let mean = |mean: &Mean| json!({"value": mean.value(), "error": mean.error()});
    let of = |divergence: &Divergence| {
        json!({
            "base_perplexity": divergence.base_nll.value().exp(),
            "kl_divergence": mean(&divergence.divergence),
            "kl_divergence_99_percent": divergence.quantile(0.99),
            "same_top_token": mean(&divergence.same_top),
        })
    };
    json!({
        "perplexity": {"value": found.perplexity(), "error": found.perplexity_error()},
        "negative_log_likelihood": mean(&found.nll),
        "tokens": found.nll.count(), "windows": windows.count(), "context": windows.length(),
        "base": found.divergence.as_ref().map(of),
    })
}
