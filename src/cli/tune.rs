//! `tune`: times the kernels that fit, and keeps the fastest.

use std::time::Duration;

use metal_candle::{
    Device,
    dispatch::{
        Choices,
        tune::{self, Timing, Tuner, attention_class, fewest_parts, matvec_class},
    },
    models::DecoderConfig,
    quant::Encoding,
};
use metal_candle_kernels::{Format, attention, matvec};
use serde_json::json;

use super::{
    Failure, NO_KERNELS,
    args::{Format as OutputFormat, TuneArgs},
    model,
};

/// Of the norms that matrices are timed behind.
const NORM_EPSILON: f32 = 1e-5;

pub fn run(args: &TuneArgs) -> Result<(), Failure> {
    let (device, why) = Device::open(args.device)?;
    let kernels = device.kernels().ok_or(NO_KERNELS)?;
    eprintln!("tuning {} ({why})", device.describe());
    let tuner = Tuner::new(&kernels, args.repeats.unwrap_or(tune::MOST_REPEATS));
    let ceiling = tuner.copy_bandwidth(args.copy_bytes)?;
    let text = args.format == OutputFormat::Text;
    if text {
        println!("copy, read and written together: {:.1} GB/s", ceiling / 1e9);
    }
    let mut report = Vec::new();
    let mut say = |label: String, timing: &Timing, ceiling: f64| {
        let bandwidth = timing.bandwidth();
        if text {
            println!(
                "{label:<36} {:<40} {:>9.2} us {:>8.1} GB/s {:>5.1} %",
                timing.kernel,
                timing.seconds * 1e6,
                bandwidth / 1e9,
                100.0 * bandwidth / ceiling
            );
        }
        report.push(json!({
            "shape": label, "kernel": timing.kernel, "microseconds": timing.seconds * 1e6,
            "gb_per_second": bandwidth / 1e9, "share_of_copy": bandwidth / ceiling,
        }));
    };
    let mut chosen = Choices::default();
    let budget = Duration::from_secs_f64(args.budget.max(0.0));
    let shapes = Shapes::of(args)?;
    for &format in &args.formats {
        for &(rows, columns) in &shapes.matrices {
            if !(columns as usize).is_multiple_of(matvec::MatVec::columns_multiple(format)) {
                eprintln!("{}: rows of {columns} are no whole number of blocks", format.name());
                continue;
            }
            // One row also comes through a norm.
            let rows_of_x = args.batch.iter().map(|&batch| (batch, None));
            let normed = args.batch.contains(&1).then_some((1, Some(NORM_EPSILON)));
            for (batch, norm) in rows_of_x.chain(normed) {
                let params =
                    matvec::Params { rows, columns, batch, norm, ..matvec::Params::default() };
                let timings = tuner.matvec(format, &params, budget)?;
                let class = matvec_class(format, &params);
                for timing in timings.iter().take(args.top) {
                    say(class.clone(), timing, ceiling);
                }
                if let Some(best) = timings.first() {
                    chosen.matvec.insert(class, best.kernel.clone());
                }
            }
        }
    }
    for &keys in &args.keys {
        for &(dim, heads, kv_heads) in &shapes.heads {
            let params = decode_params(heads, kv_heads, keys);
            let timings = tuner.attention(dim, kernels.f16(), params)?;
            for (splits, timing) in timings.iter().take(args.top) {
                say(format!("attention d{dim} {keys} keys, {splits} parts"), timing, ceiling);
            }
            if let Some(splits) = fewest_parts(&timings) {
                chosen.attention.insert(attention_class(dim, kernels.f16(), &params), splits);
            }
        }
    }
    if args.format == OutputFormat::Json {
        let device = device.describe();
        println!(
            "{}",
            json!({"device": device, "copy_gb_per_second": ceiling / 1e9, "kernels": report})
        );
    }
    let mut choices = kernels.choices();
    choices.matvec.extend(chosen.matvec);
    choices.attention.extend(chosen.attention);
    let path = args.save.clone().or_else(|| tune::default_path(&device.describe()));
    if let Some(path) = path.filter(|_| !choices.is_empty()) {
        choices.save(&path)?;
        eprintln!("saved the fastest to {}", path.display());
    }
    Ok(())
}

/// What is timed.
struct Shapes {
    matrices: Vec<(u32, u32)>,
    /// Head dimension, query heads and key/value heads.
    heads: Vec<(u32, u32, u32)>,
}

impl Shapes {
    fn of(args: &TuneArgs) -> Result<Self, Failure> {
        if args.model.is_none() && args.shape.is_none() {
            let heads = vec![(64, 32, 8), (128, 32, 8)];
            return Ok(Self { matrices: args.shapes.clone(), heads });
        }
        let checkpoint =
            model::checkpoint(args.model.as_deref(), args.shape.as_deref(), Encoding::F16)?;
        let config = DecoderConfig::from_json(checkpoint.config(), checkpoint.config_path())?;
        let matrices = config.matrices().into_iter().map(|[r, c]| (r as u32, c as u32)).collect();
        let heads = (config.head_dim as u32, config.heads as u32, config.kv_heads as u32);
        Ok(Self { matrices, heads: vec![heads] })
    }
}

/// One new position over so many keys.
fn decode_params(heads: u32, kv_heads: u32, keys: u32) -> attention::Params {
    attention::Params {
        batch: 1,
        len: 1,
        heads,
        kv_heads,
        keys,
        capacity: keys,
        start: 0,
        splits: 1,
        scale: 0.125,
        soft_cap: 0.0,
        window: 0,
        causal: true,
        padded: false,
        angles_per_sequence: false,
    }
}

/// `4096x2048`: rows and columns.
pub fn shape(text: &str) -> Result<(u32, u32), String> {
    let parse = |part: &str| part.parse::<u32>().ok().filter(|&n| n > 0);
    text.split_once('x')
        .and_then(|(rows, columns)| Some((parse(rows)?, parse(columns)?)))
        .ok_or_else(|| format!("{text:?} is no shape: expected ROWSxCOLUMNS"))
}

/// A format by its name.
pub fn format(text: &str) -> Result<Format, String> {
    Format::ALL.into_iter().find(|format| format.name() == text.to_lowercase()).ok_or_else(|| {
        let all: Vec<String> = Format::ALL.into_iter().map(Format::name).collect();
        format!("unknown format {text:?}: expected one of {}", all.join(", "))
    })
}
