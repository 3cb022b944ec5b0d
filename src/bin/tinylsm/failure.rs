//! How a command ends when it does not end well: the message and the exit code.
//!
//! Owns the four exit codes that `--help` promises. A failure is made where it is understood; `main` prints it.

use std::io;
use tinylsm::{Error, ErrorKind};

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The engine or the system failed, or a check did not hold: exit code 1.
    Engine(String),
    /// The arguments or the input are wrong: exit code 2.
    Usage(String),
    /// The key is not there: exit code 3.
    KeyNotFound(String),
    /// Whoever read our output has gone, as `head` does: a quiet end, exit code 0.
    ReaderGone,
}

impl Failure {
    /// Returns the exit code that `--help` documents.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::ReaderGone => 0,
            Failure::Engine(_) => 1,
            Failure::Usage(_) => 2,
            Failure::KeyNotFound(_) => 3,
        }
    }

    /// Returns what to tell the user, if anything.
    pub(crate) fn message(&self) -> Option<&str> {
        match self {
            Failure::ReaderGone => None,
            Failure::Engine(text) | Failure::Usage(text) | Failure::KeyNotFound(text) => Some(text),
        }
    }

    /// Makes the failure that `later` is once something is done: `done` says what, and that stands.
    pub(crate) fn after(done: &str, doing: &str, later: &Error) -> Failure {
        Failure::Engine(format!("{done}; {doing} met: {}", text_of(later)))
    }

    /// Makes the failure of a system call while doing `what`.
    pub(crate) fn system(what: &str, error: &io::Error) -> Failure {
        Failure::Engine(format!("{what}: {error}"))
    }

    /// Makes the failure of writing to standard output.
    pub(crate) fn output(error: &io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::ReaderGone;
        }
        Failure::system("cannot write the output", error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let text = text_of(&error);
        match error.kind() {
            ErrorKind::InvalidArgument => Failure::Usage(text),
            _ => Failure::Engine(text),
        }
    }
}

/// Returns what an error of the engine says, with its causes, each of them once.
pub(crate) fn text_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    // The engine names a way out as a caller in Rust has it; this is the same one here.
    text.replace("DbBuilder::degraded", "--degraded")
}

#[cfg(test)]
mod tests {
    use crate::failure::Failure;
    use std::io;
    use std::path::Path;
    use tinylsm::Error;

    #[test]
    fn engine_errors_keep_their_cause_and_say_it_once() {
        let inner = Error::from_io("sync", Path::new("x.wal"), io::Error::from_raw_os_error(5));
        let failure = Failure::from(inner.wrap(tinylsm::ErrorKind::ReadOnly, "the log failed"));
        assert_eq!(failure.exit_code(), 1);
        let message = failure.message().expect("an engine failure has a message");
        assert!(message.contains("the log failed"), "{message}");
        assert_eq!(message.matches("os error 5").count(), 1, "{message}");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = Failure::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((gone.exit_code(), gone.message()), (0, None));
    }
}
