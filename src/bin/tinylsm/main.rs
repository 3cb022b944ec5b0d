//! The command line of TinyLSM: `cargo tinylsm …`.
//!
//! Owns everything that faces a person at a terminal: arguments, text forms of bytes, messages, exit codes. It is
//! an ordinary user of the library's public face and could live in another repository; what it can do, every
//! embedder can do.
//!
//! Commands that only look (`get`, `scan`, `keyspaces`, `stats`, `verify`, `dump`) open the database read-only and change no
//! byte. Every command ends with one of the exit codes of `Failure`, and a reader that closes the pipe
//! early ends it quietly.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans wall off the engine; this binary is an application on top of it, with files, clocks, threads and processes of its own"
)]

mod bench;
mod demo;
mod escape;
mod failure;
mod keyspaces;
mod load;
mod look;
mod modify;
mod numbers;
mod output;
mod place;

use crate::escape::on_one_line;
use crate::failure::{Failure, Outcome};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;

/// Memtables are filled by whichever thread leads a commit and freed by the background. The system's allocator (glibc)
/// keeps what each thread freed for that thread, which adds up to half as much again; this one gives it to all.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXIT_CODES: &str = "\
Exit codes:
  0  all right
  1  the engine failed (I/O error, corruption, full disk, locked, not a
     database …) or a check did not hold; what was done by then is said first
  2  wrong usage, or bad input to `load`
  3  the key was not found (`get`)

Keys and values are bytes. As text, what is not printable is escaped:
\\t \\n \\r \\\\ \\xNN, and arguments and input understand the same escapes,
as names of keyspaces do.
An argument that begins with a hyphen and is no number goes behind `--`.";

/// An embedded, ordered key-value engine: load, look up, scan and check a database.
#[derive(Parser)]
#[command(
    name = "tinylsm",
    version,
    after_help = EXIT_CODES,
    max_term_width = output::TEXT_COLUMNS_MAX,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load a file of `key<TAB>value` lines or JSON lines.
    Load(load::LoadArguments),
    /// Print the value of a key.
    Get(look::GetArguments),
    /// Give a key a value.
    Put(modify::PutArguments),
    /// Delete a key; all right if it is not there.
    Delete(modify::DeleteArguments),
    /// Print the entries of a range in key order, or backwards.
    Scan(look::ScanArguments),
    /// Print the names of the keyspaces.
    Keyspaces(keyspaces::KeyspacesArguments),
    /// Create a keyspace.
    CreateKeyspace(keyspaces::CreateArguments),
    /// Give a keyspace another name.
    RenameKeyspace(keyspaces::RenameArguments),
    /// Remove every key of a keyspace.
    ClearKeyspace(keyspaces::RemoveArguments),
    /// Remove a keyspace with every key in it.
    DropKeyspace(keyspaces::RemoveArguments),
    /// Print levels, files, sizes and counters.
    Stats(look::StatsArguments),
    /// Read everything the database holds and check every checksum and order.
    Verify(look::VerifyArguments),
    /// Print any file of a database as text: table, log, manifest, pointer.
    Dump(look::DumpArguments),
    /// Merge a range of keys down to its last level.
    Compact(modify::CompactArguments),
    /// Load the Unicode Character Database, look up, scan, crash by SIGKILL, recover and prove that nothing is lost.
    Demo(demo::DemoArguments),
    /// Measure the ladder of workloads: fills, reads, seeks, scans, mixes, synced writes.
    Bench(bench::BenchArguments),
    /// Print this, or the help of one command.
    Help(HelpArguments),
    /// The part of `demo` that is killed.
    #[command(hide = true)]
    DemoWriter(demo::writer::WriterArguments),
}

/// What clap calls it if there is no command at all, to which it says the help.
const IS_WITHOUT_COMMAND: ErrorKind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

/// `help COMMAND`
#[derive(Args)]
struct HelpArguments {
    /// The command to explain.
    command: Option<String>,
}

fn main() -> ExitCode {
    ended(&run(Arguments::try_parse()))
}

/// Tells what went wrong, if anything, and returns the exit code.
fn ended(outcome: &Outcome) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    if let Some(message) = failure.message() {
        output::message(&format!("tinylsm: {message}"));
    }
    if let Some(hint) = failure.hint() {
        output::message(hint);
    }
    ExitCode::from(failure.exit_code())
}

/// Does what the arguments say, or shows what is wrong with them. Ends the process if they ask for help.
fn run(arguments: Result<Arguments, clap::Error>) -> Outcome {
    match arguments {
        Ok(Arguments { command: Command::Help(help) }) => {
            let command = help.command.as_deref();
            run(Arguments::try_parse_from(["tinylsm"].into_iter().chain(command).chain(["--help"])))
        }
        Ok(arguments) => run_command(&arguments.command),
        // Help and the version go to standard output; help that nobody asked for, where there is no command, does not.
        Err(asked) if !asked.use_stderr() || asked.kind() == IS_WITHOUT_COMMAND => asked.exit(),
        Err(wrong) => {
            let text = with_escapes(wrong).render().to_string();
            Err(Failure::Usage(text.trim_end().strip_prefix("error: ").unwrap_or(&text).to_owned()))
        }
    }
}

/// Escapes what the arguments say in the message about them: a line end in one must not look like one of the message.
fn with_escapes(mut wrong: clap::Error) -> clap::Error {
    let escaped: Vec<(ContextKind, ContextValue)> = wrong
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(on_one_line(text).into_owned()))),
            _ => None,
        })
        .collect();
    for (kind, value) in escaped {
        wrong.insert(kind, value);
    }
    wrong
}

fn run_command(command: &Command) -> Outcome {
    match command {
        Command::Load(arguments) => load::run(arguments),
        Command::Get(arguments) => look::get(arguments),
        Command::Put(arguments) => modify::put(arguments),
        Command::Delete(arguments) => modify::delete(arguments),
        Command::Scan(arguments) => look::scan(arguments),
        Command::Keyspaces(arguments) => keyspaces::list(arguments),
        Command::CreateKeyspace(arguments) => keyspaces::create(arguments),
        Command::RenameKeyspace(arguments) => keyspaces::rename(arguments),
        Command::ClearKeyspace(arguments) => keyspaces::clear(arguments),
        Command::DropKeyspace(arguments) => keyspaces::drop_one(arguments),
        Command::Stats(arguments) => look::stats(arguments),
        Command::Verify(arguments) => look::verify(arguments),
        Command::Dump(arguments) => look::dump(arguments),
        Command::Compact(arguments) => modify::compact(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::DemoWriter(arguments) => demo::writer::run(arguments),
        Command::Help(_) => unreachable!("help is shown before a command runs"),
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
