//! The command line: arguments, progress and exit codes. All work is done by the library.

mod args;
mod bench;
mod doctor;
mod fuse;
mod generate;
mod inspect;
mod logits;
mod model;
mod perplexity;
mod trace;
mod tune;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// Any failure that the user should read as one message.
type Failure = Box<dyn std::error::Error>;

/// Of commands that are about kernels.
const NO_KERNELS: &str = "kernels run on a GPU: name one with --device vulkan, metal, cuda or wgpu";

/// Runs the program: 0 done, 1 the work failed, 2 wrong usage (clap's own exit code).
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Whatever makes a run slower or larger than it need be is said unless asked otherwise.
    let log = std::env::var("METAL_CANDLE_LOG").unwrap_or_else(|_| "metal_candle=warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(log))
        .with_writer(std::io::stderr)
        .init();
    let result = match cli.command {
        Command::Generate(args) => generate::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Fuse(args) => fuse::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}
