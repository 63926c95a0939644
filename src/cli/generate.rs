//! `generate`: text (or tokens) in, text out as it is made.

use std::{
    io::{IsTerminal, Read, Write},
    time::Duration,
};

use burn::tensor::DType;
use metal_candle::{
    Backend,
    device::DeviceJob,
    formats::Checkpoint,
    generation::{GenerateOptions, Generation, SamplingOptions, generate},
    models::CausalLm,
    tokenizer::Tokenizer,
};
use serde_json::json;

use super::{
    Failure,
    args::{Format, GenerateArgs},
    model::{self, Source},
    trace,
};

pub fn run(args: &GenerateArgs) -> Result<(), Failure> {
    // From before the first device is opened.
    let recorder = if args.trace_kernels { Some(trace::install()?) } else { None };
    let source = Source::open(&args.model)?;
    let trace = recorder.map(|recorder| trace::Step::new(recorder, &source.device)).transpose()?;
    let tokenizer = tokenizer(&source.checkpoint, args)?;
    let prompt = prompt(args, tokenizer.as_ref())?;
    source.check_context(args.model.dequantize, prompt.len() + args.max_tokens)?;
    let job = Job {
        args,
        checkpoint: &source.checkpoint,
        dtype: source.dtype,
        tokenizer: tokenizer.as_ref(),
        prompt: &prompt,
        trace,
    };
    let (generation, load) = source.device.dispatch(job)?;
    report(args, &prompt, &generation, load)
}

/// The tokenizer, if the model has one: with `--tokens`, none is needed.
fn tokenizer(checkpoint: &Checkpoint, args: &GenerateArgs) -> Result<Option<Tokenizer>, Failure> {
    match Tokenizer::from_checkpoint(checkpoint) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(error) if args.tokens.is_empty() => Err(error.into()),
        Err(error) => {
            tracing::info!(%error, "going on without a tokenizer");
            Ok(None)
        }
    }
}

fn prompt(args: &GenerateArgs, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>, Failure> {
    if !args.tokens.is_empty() {
        return Ok(args.tokens.clone());
    }
    let text = match &args.prompt {
        Some(text) => text.clone(),
        None if std::io::stdin().is_terminal() => {
            return Err(
                "no prompt: give it as an argument, by --tokens, or on standard input".into()
            );
        }
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
    };
    let tokenizer = tokenizer.ok_or("this model has no tokenizer: give --tokens")?;
    let ids = tokenizer.encode(&text, true)?;
    if ids.is_empty() {
        return Err("the prompt is empty".into());
    }
    Ok(ids)
}

struct Job<'a> {
    args: &'a GenerateArgs,
    checkpoint: &'a Checkpoint,
    dtype: DType,
    tokenizer: Option<&'a Tokenizer>,
    prompt: &'a [u32],
    trace: Option<trace::Step>,
}

impl DeviceJob for Job<'_> {
    type Output = Result<(Generation, Duration), Failure>;

    fn run<B: Backend>(self, device: &B::Device) -> Self::Output {
        let start = std::time::Instant::now();
        let model =
            model::load_adapted::<B>(self.checkpoint, self.dtype, &self.args.model, device)?;
        let load = start.elapsed();
        let options = self.options(&*model);
        let print = self.args.format == Format::Text;
        if print && let Some(text) = &self.args.prompt {
            print!("{text}");
        }
        let generation = generate(&*model, self.tokenizer, self.prompt, &options, |piece| {
            if print {
                print!("{piece}");
                // Text must appear as it is made; a reader that has gone away is noticed below.
                let _ = std::io::stdout().flush();
            }
        })?;
        if let Some(trace) = self.trace {
            trace.print(&*model, self.prompt)?;
        }
        Ok((generation, load))
    }
}

impl Job<'_> {
    fn options<B: Backend>(&self, model: &dyn CausalLm<B>) -> GenerateOptions {
        let args = self.args;
        let mut stop_tokens = model.config().eos.clone();
        stop_tokens.extend(self.checkpoint.generation_eos());
        if let Some(tokenizer) = self.tokenizer {
            stop_tokens.extend_from_slice(tokenizer.eos_ids());
        }
        if args.ignore_eos {
            stop_tokens.clear();
        }
        GenerateOptions {
            max_tokens: args.max_tokens,
            sampling: SamplingOptions {
                temperature: args.temperature,
                top_k: args.top_k,
                top_p: args.top_p,
                min_p: args.min_p,
                repeat_penalty: args.repeat_penalty,
                seed: args.seed,
            },
            stop: args.stop.clone(),
            stop_tokens,
        }
    }
}

fn report(
    args: &GenerateArgs,
    prompt: &[u32],
    generation: &Generation,
    load: Duration,
) -> Result<(), Failure> {
    let timings = generation.timings;
    let rate = |n: usize, t: Duration| {
        if t.is_zero() { 0.0 } else { n as f64 / t.as_secs_f64() }
    };
    let decoded = generation.tokens.len().saturating_sub(1);
    let prefill_rate = rate(prompt.len(), timings.prefill);
    let decode_rate = rate(decoded, timings.decode);
    match args.format {
        Format::Text => {
            if generation.text.is_empty() && !generation.tokens.is_empty() && args.prompt.is_none()
            {
                let ids: Vec<String> = generation.tokens.iter().map(u32::to_string).collect();
                println!("{}", ids.join(","));
            } else {
                println!();
            }
            eprintln!(
                "prompt {} tokens, {prefill_rate:.1}/s; generated {}, {decode_rate:.1}/s; stopped \
                 by {}",
                prompt.len(),
                generation.tokens.len(),
                generation.stop.name(),
            );
        }
        Format::Json => {
            let object = json!({
                "prompt_tokens": prompt,
                "tokens": generation.tokens,
                "text": generation.text,
                "stop": generation.stop.name(),
                "timings": {
                    "load_seconds": load.as_secs_f64(),
                    "prefill_seconds": timings.prefill.as_secs_f64(),
                    "decode_seconds": timings.decode.as_secs_f64(),
                    "prefill_tokens_per_second": prefill_rate,
                    "decode_tokens_per_second": decode_rate,
                },
            });
            writeln!(std::io::stdout(), "{object}")?;
        }
    }
    Ok(())
}
