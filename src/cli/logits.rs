//! `logits`: the logits of given tokens, for comparison with other implementations.

use std::path::Path;

use burn::tensor::DType;
use metal_candle::{
    Backend,
    device::DeviceJob,
    formats::Checkpoint,
    models::{LogitRows, TokenBatch, Workload},
};
use safetensors::{Dtype, tensor::TensorView};

use super::{
    Failure,
    args::{LogitsArgs, ModelArgs},
    model::{self, Source},
};

pub fn run(args: &LogitsArgs) -> Result<(), Failure> {
    let sequences = match &args.tokens_file {
        Some(file) => read(file)?,
        None => vec![args.tokens.clone()],
    };
    let len = sequences.first().map_or(0, Vec::len);
    if let Some(row) = sequences.iter().position(|sequence| sequence.len() != len) {
        let found = sequences[row].len();
        return Err(format!(
            "all sequences must have the same number of tokens: the first has {len}, number {row} \
             has {found}"
        )
        .into());
    }
    let tokens = TokenBatch::new(&sequences)?;
    let source = Source::open(&args.model)?;
    let (sequences, rows) = (tokens.batch(), tokens.len());
    let workload = Workload { sequences, cached: 0, rows, logits: rows };
    source.check_memory(args.model.dequantize, workload)?;
    let (checkpoint, dtype) = (&source.checkpoint, source.dtype);
    let job = Job { args: &args.model, checkpoint, dtype, tokens };
    let (values, shape) = source.device.dispatch(job)?;
    let view = TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(&values))?;
    safetensors::serialize_to_file([("logits", view)], None, &args.output)
        .map_err(|error| format!("{}: {error}", args.output.display()))?;
    Ok(())
}

fn read(file: &Path) -> Result<Vec<Vec<u32>>, Failure> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| {
        let file = file.display();
        format!("{file}: expected lists of token ids, as in [[1,2,3]]: {error}").into()
    })
}

struct Job<'a> {
    args: &'a ModelArgs,
    checkpoint: &'a Checkpoint,
    dtype: DType,
    tokens: TokenBatch,
}

impl DeviceJob for Job<'_> {
    type Output = Result<(Vec<f32>, [usize; 3]), Failure>;

    fn run<B: Backend>(self, device: &B::Device) -> Self::Output {
        let model = model::load_adapted::<B>(self.checkpoint, self.dtype, self.args, device)?;
        let logits = model.forward(&self.tokens, None, LogitRows::All)?;
        let shape = logits.dims();
        let data = logits.try_into_data().map_err(|error| error.to_string())?;
        let values = data.into_vec().map_err(|error| format!("{error:?}"))?;
        Ok((values, shape))
    }
}
