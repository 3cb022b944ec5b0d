//! Standard output, buffered, with a quiet end when its reader goes away, and text that fits the terminal.
//!
//! Data (values, entries, dumps, JSON) is never broken, however long its lines are. What is said in sentences is broken
//! between words where the terminal ends, or where the environment says so (`COLUMNS`), and nowhere if neither does: a
//! program that reads it gets whole lines. Characters that could do something to the terminal are escaped in sentences,
//! dumps and JSON, whoever made the text; entries are escaped before they come here.

use crate::escape::{printable, printable_json};
use crate::failure::{Failure, Outcome};
use std::fmt;
use std::io::{self, BufWriter, StdoutLock, Write};
use terminal_size::{Width, terminal_size_of};

/// Longest line of text, however wide the terminal is.
pub(crate) const TEXT_COLUMNS_MAX: usize = 120;
/// Where a narrower terminal is not taken seriously.
const TEXT_COLUMNS_MIN: usize = 20;

/// The one way this program prints results.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    /// Where sentences are broken; `None` for nowhere.
    columns: Option<usize>,
    /// The first error met while some formatter wrote through us; formatters cannot carry it themselves.
    failed: Option<io::Error>,
}

impl Output {
    /// Takes standard output until dropped.
    pub(crate) fn new() -> Output {
        let stdout = io::stdout();
        let columns = columns(terminal_size_of(&stdout));
        Output { out: BufWriter::with_capacity(1 << 16, stdout.lock()), columns, failed: None }
    }

    /// Writes `text` and a newline.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> Outcome {
        writeln!(self.out, "{text}").map_err(|error| Failure::output(&error))
    }

    /// Writes JSON and a newline. It means what it did, and no character of it can do anything to a terminal.
    pub(crate) fn json(&mut self, json: impl fmt::Display) -> Outcome {
        let text = json.to_string();
        self.line(printable_json(&text))
    }

    /// Writes what is said in sentences and a newline; lines that are too long go on below, two columns further in.
    pub(crate) fn text(&mut self, text: impl fmt::Display) -> Outcome {
        let text = wrapped(&printable(&text.to_string()), self.columns);
        self.line(text)
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
        self.out.write_all(printable(text).as_bytes()).map_err(|error| {
            self.failed = Some(error);
            fmt::Error
        })
    }
}

/// Writes a message for a person to standard error. Where that cannot be written either, nobody is left to be told.
pub(crate) fn message(text: &str) {
    let stderr = io::stderr();
    let columns = columns(terminal_size_of(&stderr));
    drop(writeln!(stderr.lock(), "{}", wrapped(&printable(text), columns)));
}

/// Returns where sentences are to be broken: at the terminal's edge, or where the environment says if there is none.
fn columns(terminal: Option<(Width, terminal_size::Height)>) -> Option<usize> {
    let of_terminal = terminal.map(|(Width(columns), _)| usize::from(columns));
    let columns = of_terminal.or_else(|| std::env::var("COLUMNS").ok()?.parse().ok())?;
    (columns >= TEXT_COLUMNS_MIN).then_some(columns.min(TEXT_COLUMNS_MAX))
}

/// Breaks lines between words; a word that is longer than a line stays whole.
fn wrapped(text: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    let one_line = |line: &str| {
        let indent = &line[..line.len() - line.trim_start_matches(' ').len()];
        let indent = format!("{indent}  ");
        let options = textwrap::Options::new(columns)
            .subsequent_indent(&indent)
            .break_words(false)
            .word_separator(textwrap::WordSeparator::AsciiSpace)
            .word_splitter(textwrap::WordSplitter::NoHyphenation)
            .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
        textwrap::fill(line, options)
    };
    text.split('\n').map(one_line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use crate::output::wrapped;

    #[test]
    fn sentences_break_between_words_and_nowhere_else() {
        let text = "  one two three\nfour /a/path/longer/than/a/line five";
        assert_eq!(wrapped(text, None), text);
        assert_eq!(wrapped(text, Some(80)), text);
        assert_eq!(
            wrapped(text, Some(12)),
            "  one two\n    three\nfour\n  /a/path/longer/than/a/line\n  five"
        );
    }
}
