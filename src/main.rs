//! The command-line program.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocator;
mod cli;

fn main() -> std::process::ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    allocator::keep_large_pieces();
    cli::main()
}
