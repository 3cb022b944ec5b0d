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

/// Longest line of help, however wide the terminal is.
const TEXT_COLUMNS_MAX: usize = 120;

const EXIT_CODES: &str = "\
Exit codes:
  0  all right
  1  an invariant was broken, or a planted bug or a goal was missed
  2  wrong usage";

/// Runs TinyLSM on a simulated disk, clock and schedule.
#[derive(Parser)]
#[command(
    name = "cargo sim",
    bin_name = "cargo sim",
    after_help = EXIT_CODES,
    max_term_width = TEXT_COLUMNS_MAX
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds; stop at the first broken invariant.
    Sweep(cli::sweep::Sweep),
    /// Run one seed and tell what happened.
    Replay(cli::replay::Replay),
    /// Plant each known bug in a scratch copy and count the seeds until it is caught.
    Mutants(cli::mutants::Mutants),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Sweep(sweep) => sweep.run(),
        Command::Replay(replay) => replay.run(),
        Command::Mutants(mutants) => mutants.run(),
    }
}

#[cfg(test)]
mod tests {
    use crate::Arguments;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
