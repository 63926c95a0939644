//! `bench`: tokens per second of prompts and of single tokens.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use burn::tensor::DType;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use metal_candle::{
    Backend,
    device::DeviceJob,
    dispatch::tune::FIRST_WARM_UP,
    formats::Checkpoint,
    generation::bench::{self, Speed, Task},
    memory,
};
use serde_json::{Value, json};

use super::{
    Failure,
    args::{BenchArgs, BenchFormat},
    model::{self, Source},
};

/// For how long a task is run without counting it, once at least: caches, clocks, and the memory pool,
/// which still grows with the second and third prompt (short ones take four times as long meanwhile).
const WARM_UP: Duration = Duration::from_millis(300);

pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let tasks = (args.prompt.iter().map(|&n| Task::Prompt(n)))
        .chain(args.generate.iter().map(|&n| Task::Generate(n)))
        .filter(|task| task.tokens() > 0);
    let tasks: Vec<Test> =
        tasks.flat_map(|task| args.depth.iter().map(move |&depth| Test { task, depth })).collect();
    if tasks.is_empty() {
        return Err("nothing to time: --prompt and --generate are both 0".into());
    }
    let source = Source::open(&args.model)?;
    let opened = start.elapsed();
    let longest = tasks.iter().map(|test| test.depth.saturating_add(test.task.tokens())).max();
    source.check_context(args.model.dequantize, longest.unwrap_or(0))?;
    let job = Job { args, checkpoint: &source.checkpoint, dtype: source.dtype, tasks: &tasks };
    let outcome = source.device.dispatch(job)?;
    let report = Report {
        model: args.model.name(),
        device: source.device.describe(),
        dtype: source.dtype.name(),
        opened,
        peak_host: memory::peak_host_bytes(),
        device_bytes: source.device.memory_bytes(),
        outcome,
    };
    match args.format {
        BenchFormat::Text => report.text(),
        BenchFormat::Json => writeln!(std::io::stdout(), "{}", report.json())?,
        BenchFormat::Csv => report.csv(),
    }
    Ok(())
}

/// A task behind so many tokens.
#[derive(Clone, Copy)]
struct Test {
    task: Task,
    depth: usize,
}

/// As `llama-bench` has it.
impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.depth {
            0 => write!(f, "{}", self.task),
            depth => write!(f, "{} @ d{depth}", self.task),
        }
    }
}

struct Job<'a> {
    args: &'a BenchArgs,
    checkpoint: &'a Checkpoint,
    dtype: DType,
    tasks: &'a [Test],
}

/// What was measured.
struct Outcome {
    load: Duration,
    /// The first step of the process: one token.
    first_step: Duration,
    speeds: Vec<(Test, Speed)>,
}

impl DeviceJob for Job<'_> {
    type Output = Result<Outcome, Failure>;

    fn run<B: Backend>(self, device: &B::Device) -> Self::Output {
        let start = Instant::now();
        let model =
            model::load_adapted::<B>(self.checkpoint, self.dtype, &self.args.model, device)?;
        let load = start.elapsed();
        let start = Instant::now();
        bench::time(&*model, Task::Generate(1), 0)?;
        let first_step = start.elapsed();
        let runs = self.tasks.len() * (usize::from(self.args.repeats) + 1);
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(runs as u64)
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(ProgressStyle::with_template("{msg} {bar:40} {pos}/{len}")?);
        let mut speeds = Vec::new();
        for &test in self.tasks {
            let Test { task, depth } = test;
            bar.set_message(test.to_string());
            let warming = Instant::now();
            let warm_up = if speeds.is_empty() { FIRST_WARM_UP } else { WARM_UP };
            loop {
                bench::time(&*model, task, depth)?;
                if warming.elapsed() >= warm_up {
                    break;
                }
            }
            bar.inc(1);
            let mut samples = Vec::new();
            for _ in 0..self.args.repeats {
                samples.push(bench::time(&*model, task, depth)?);
                bar.inc(1);
            }
            speeds.push((test, Speed { samples }));
        }
        bar.finish_and_clear();
        Ok(Outcome { load, first_step, speeds })
    }
}

struct Report {
    model: String,
    device: String,
    dtype: &'static str,
    opened: Duration,
    peak_host: Option<u64>,
    device_bytes: Option<u64>,
    outcome: Outcome,
}

impl Report {
    fn text(&self) {
        let Outcome { load, first_step, speeds } = &self.outcome;
        println!("{}, {} on {}", self.model, self.dtype, self.device);
        println!("{:<16} {:>12} {:>10}", "test", "tokens/s", "±");
        for (test, speed) in speeds {
            println!("{:<16} {:>12.2} {:>10.2}", test.to_string(), speed.mean(), speed.deviation());
        }
        println!(
            "start: device {:.3} s, weights {:.3} s, first token {:.3} s",
            self.opened.as_secs_f64(),
            load.as_secs_f64(),
            first_step.as_secs_f64(),
        );
        let bytes =
            |n: Option<u64>, none: &str| n.map_or(none.to_string(), |n| HumanBytes(n).to_string());
        println!(
            "memory: host peak {}, device {}",
            bytes(self.peak_host, "unknown"),
            bytes(self.device_bytes, "is the host"),
        );
    }

    fn json(&self) -> Value {
        let Outcome { load, first_step, speeds } = &self.outcome;
        let speeds: Vec<Value> = speeds
            .iter()
            .map(|(test, speed)| {
                json!({
                    "test": test.to_string(),
                    "tokens_per_second": speed.mean(),
                    "deviation": speed.deviation(),
                    "samples": speed.samples,
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "results": speeds,
            "start": {
                "device_seconds": self.opened.as_secs_f64(),
                "weights_seconds": load.as_secs_f64(),
                "first_token_seconds": first_step.as_secs_f64(),
            },
            "peak_host_bytes": self.peak_host,
            "device_bytes": self.device_bytes,
        })
    }

    fn csv(&self) {
        // Names of devices and models may hold commas; quotes within are doubled (RFC 4180).
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        println!("model,device,dtype,test,tokens_per_second,deviation,repeats");
        for (test, speed) in &self.outcome.speeds {
            println!(
                "{},{},{},{test},{:.3},{:.3},{}",
                quoted(&self.model),
                quoted(&self.device),
                self.dtype,
                speed.mean(),
                speed.deviation(),
                speed.samples.len()
            );
        }
    }
}
