//! The simulator, from the command line: sweep seeds, replay one, hunt planted bugs.
//!
//! Exit codes: 0 all right; 1 an invariant was broken, or a planted bug was missed; 2 wrong usage.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the command line stands outside of runs: real threads, files and clocks"
)]

mod cli;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo sim", about = "Runs TinyLSM on a simulated disk, clock and schedule")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds; stop at the first broken invariant
    Sweep(cli::sweep::Sweep),
    /// Run one seed and tell what happened
    Replay(cli::replay::Replay),
    /// Plant each known bug in a scratch copy and count the seeds until it is caught
    Mutants(cli::mutants::Mutants),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Sweep(sweep) => sweep.run(),
        Command::Replay(replay) => replay.run(),
        Command::Mutants(mutants) => mutants.run(),
    }
}
