//! Standard output, buffered, with a quiet end when its reader goes away.

use crate::failure::{Failure, Outcome};
use std::fmt;
use std::io::{self, BufWriter, StdoutLock, Write};

/// The one way this program prints results.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    /// The first error met while some formatter wrote through us; formatters cannot carry it themselves.
    failed: Option<io::Error>,
}

impl Output {
    /// Takes standard output until dropped.
    pub(crate) fn new() -> Output {
        Output { out: BufWriter::with_capacity(1 << 16, io::stdout().lock()), failed: None }
    }

    /// Writes `text` and a newline.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> Outcome {
        writeln!(self.out, "{text}").map_err(|error| Failure::output(&error))
    }

    /// Writes `bytes` as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Outcome {
        self.out.write_all(bytes).map_err(|error| Failure::output(&error))
    }

    /// Shows what was written so far.
    pub(crate) fn flush(&mut self) -> Outcome {
        self.out.flush().map_err(|error| Failure::output(&error))
    }

    /// Ends a run of formatting through [`fmt::Write`]: tells what really went wrong with the output, if anything.
    pub(crate) fn check(&mut self) -> Outcome {
        match self.failed.take() {
            Some(error) => Err(Failure::output(&error)),
            None => Ok(()),
        }
    }
}

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.out.write_all(text.as_bytes()).map_err(|error| {
            self.failed = Some(error);
            fmt::Error
        })
    }
}
