//! The loop from prompt to tokens to text.

use std::time::{Duration, Instant};

use thiserror::Error;

use super::{
    Sampler, SamplingError, SamplingOptions, StopError, StopStrings, TextStream,
    tokens::{PART, Tokens},
};
use crate::{
    backend::Backend,
    models::{BatchError, CausalLm, ModelError, Workload},
    tokenizer::{Tokenizer, TokenizerError},
};

/// What generating takes in a context of so many positions: the prompt and what follows it.
pub fn workload(context: usize) -> Workload {
    Workload { sequences: 1, cached: context, rows: context.min(PART), logits: 1 }
}

/// Why a generation failed.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The model could not be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// There is no prompt.
    #[error("the prompt has no tokens")]
    Prompt(#[from] BatchError),
    /// The prompt leaves no room.
    #[error("the prompt has {prompt} tokens, but the model was made for {context} positions")]
    Context {
        /// Tokens in the prompt.
        prompt: usize,
        /// Positions of the model.
        context: usize,
    },
    /// The sampling options or the logits do not make sense.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The tokens could not be turned into text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A stop string makes no sense.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// Stop strings need text.
    #[error("stop strings need a tokenizer, and this model has none")]
    StopWithoutTokenizer,
    /// The device failed.
    #[error("reading back from the device: {0}")]
    Device(String),
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Tokens at most.
    pub max_tokens: usize,
    /// How each token is chosen.
    pub sampling: SamplingOptions,
    /// Texts that end the generation; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the generation, such as the model's end-of-text tokens.
    pub stop_tokens: Vec<u32>,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// As many tokens as asked for, or as the model has positions.
    Length,
    /// A stop token.
    Eos,
    /// A stop string.
    Stop,
}

impl StopReason {
    /// The word in the program's JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Eos => "eos",
            Self::Stop => "stop",
        }
    }
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// From the start to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// A finished generation.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Generated tokens, a stop token included.
    pub tokens: Vec<u32>,
    /// Their text, without stop tokens and stop strings; empty without a tokenizer.
    pub text: String,
    /// Why it ended.
    pub stop: StopReason,
    /// Where the time went.
    pub timings: Timings,
}

/// Generates from a prompt, calling `on_text` with each piece of text that is certain: whole
/// characters, and nothing that may turn out to be the start of a stop string.
///
/// # Errors
/// [`GenerateError`] when the prompt does not fit, the options make no sense, or the model fails.
pub fn generate<B: Backend>(
    model: &dyn CausalLm<B>,
    tokenizer: Option<&Tokenizer>,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_text: impl FnMut(&str),
) -> Result<Generation, GenerateError> {
    let context = model.config().context;
    if prompt.len() >= context {
        return Err(GenerateError::Context { prompt: prompt.len(), context });
    }
    if !options.stop.is_empty() && tokenizer.is_none() {
        return Err(GenerateError::StopWithoutTokenizer);
    }
    let max_tokens = options.max_tokens.min(context - prompt.len());
    let sampler = Sampler::new(&options.sampling)?;
    let mut text = Output {
        stream: tokenizer.map(|tokenizer| TextStream::new(tokenizer, true)),
        stops: StopStrings::new(options.stop.clone())?,
        text: String::new(),
    };

    let start = Instant::now();
    let mut timings = Timings::default();
    let mut tokens = Tokens::new(model, prompt, prompt.len() + max_tokens, sampler);
    let mut history = prompt.to_vec();
    let mut stop = StopReason::Length;
    while history.len() < prompt.len() + max_tokens {
        let more = prompt.len() + max_tokens - history.len() - 1;
        let token = tokens.next(&history, more)?;
        if history.len() == prompt.len() {
            timings.prefill = start.elapsed();
        }
        history.push(token);
        if options.stop_tokens.contains(&token) {
            stop = StopReason::Eos;
            break;
        }
        if text.push(token, &mut on_text)? {
            stop = StopReason::Stop;
            break;
        }
    }
    if stop != StopReason::Stop && text.finish(&mut on_text)? {
        stop = StopReason::Stop;
    }
    timings.decode = start.elapsed().saturating_sub(timings.prefill);
    let tokens = history.split_off(prompt.len());
    Ok(Generation { tokens, text: text.text, stop, timings })
}

/// Tokens on their way to text.
struct Output<'t> {
    stream: Option<TextStream<'t>>,
    stops: StopStrings,
    text: String,
}

impl Output<'_> {
    /// Adds a token; true when it completes a stop string.
    fn push(&mut self, token: u32, on_text: &mut impl FnMut(&str)) -> Result<bool, GenerateError> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        let Some(piece) = stream.push(token)? else { return Ok(false) };
        Ok(self.emit(&piece, on_text))
    }

    fn emit(&mut self, piece: &str, on_text: &mut impl FnMut(&str)) -> bool {
        let certain = self.stops.push(piece);
        self.say(&certain.text, on_text);
        certain.stopped
    }

    fn say(&mut self, piece: &str, on_text: &mut impl FnMut(&str)) {
        if !piece.is_empty() {
            self.text.push_str(piece);
            on_text(piece);
        }
    }

    /// Gives out what was held back; true when that completes a stop string.
    fn finish(&mut self, on_text: &mut impl FnMut(&str)) -> Result<bool, GenerateError> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        if let Some(piece) = stream.finish()?
            && self.emit(&piece, on_text)
        {
            return Ok(true);
        }
        let rest = self.stops.flush();
        self.say(&rest, on_text);
        Ok(false)
    }
}
