//! How a check went, in figures and in words.

use crate::check::SEED_VARIABLE;
use crate::check::run::{CONTENT, DISK, NOTE, State};
use crate::check::runner::Ran;
use crate::schedule::Outcome;
use crate::trace::Entry;
use std::collections::BTreeMap;
use std::fmt;

/// Lines shown before the end: enough to see the operation that went wrong and what led to it.
const LAST_LINES: usize = 25;

/// Operations of disks in a row that are shown; of more, these are the last.
const DISK_LINES_MAX: usize = 2;

/// Longer lines are cut, in the short trace of a report, unless they are notes: these are the user's own words.
const LINE_CHARS_MAX: usize = 160;

/// How far in the text of a line begins, behind time and thread.
const INDENT_CHARS: usize = 31;

/// Losses of the last power cut that are shown.
const LOSSES_MAX: usize = 12;

/// How a check went.
#[derive(Clone, Debug, Default)]
#[must_use = "a report that nobody looks at finds nothing; see `expect_clean`"]
pub struct Report {
    /// Runs that came to their end.
    pub runs_count: u64,
    /// Incarnations of processes in all runs.
    pub incarnations_count: u64,
    /// How many of them lost power.
    pub power_cuts_count: u64,
    /// How many of them were killed.
    pub kills_count: u64,
    /// Changes of disks, up to the end of the last incarnation of each run.
    pub changes_count: u64,
    /// Runs that ended early without a verdict, because a thread of a dead process could not be brought to its end: a
    /// destructor that runs in a panic waits for what never comes.
    pub unjudged_count: u64,
    /// What is wrong, at the lowest seed; `None` if nothing is.
    pub finding: Option<Finding>,
    /// What should have happened in some run ([`crate::check::Run::sometimes`]), and did in none.
    pub never_happened: Vec<String>,
    sometimes: BTreeMap<String, bool>,
}

/// What is wrong with a run.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The seed of the run.
    pub seed: u64,
    /// What is wrong: a panic, an error that was returned, an invariant, a deadlock, a broken rule.
    pub cause: String,
    /// What was done last: a line each, cut where it is very long, and notes whole, which may have several lines.
    pub last_operations: Vec<String>,
    /// What the last loss of power took, a line each; `None` if the power never went.
    pub lost: Option<String>,
}

impl Report {
    pub(crate) fn of_wrong_use(message: String) -> Report {
        Report { finding: Some(Finding::without_trace(0, message)), ..Report::default() }
    }

    pub(crate) fn add(&mut self, state: &State) {
        self.runs_count += 1;
        self.unjudged_count += u64::from(state.is_unjudged);
        self.incarnations_count += state.incarnations_count;
        self.power_cuts_count += state.power_cuts_count;
        self.kills_count += state.kills_count;
        self.changes_count += state.changes_count;
        for (what, happened) in &state.sometimes {
            *self.sometimes.entry(what.clone()).or_default() |= happened;
        }
        let never = self.sometimes.iter().filter(|(_, happened)| !**happened);
        self.never_happened = never.map(|(what, _)| what.clone()).collect();
    }

    /// Does nothing if nothing is wrong.
    ///
    /// # Panics
    /// With the report, if something is.
    #[track_caller]
    pub fn expect_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }

    /// Tells whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.finding.is_none() && self.never_happened.is_empty() && !self.is_mostly_unjudged()
    }

    fn is_mostly_unjudged(&self) -> bool {
        self.unjudged_count * 2 > self.runs_count
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.finding {
            Some(finding) => write!(f, "{finding}"),
            None if self.is_mostly_unjudged() => write!(
                f,
                "{} of {} runs ended without a verdict: destructors that run while a thread panics wait there for what never \
                 comes once the power is off",
                self.unjudged_count, self.runs_count
            ),
            None if !self.never_happened.is_empty() => {
                let what = self.never_happened.join("\n  ");
                write!(f, "in none of {} runs it happened that\n  {what}", self.runs_count)
            }
            None => write!(
                f,
                "{} runs with {} incarnations, of which {} lost power and {} were killed: nothing is wrong",
                self.runs_count, self.incarnations_count, self.power_cuts_count, self.kills_count
            ),
        }
    }
}

impl Finding {
    pub(crate) fn new(seed: u64, cause: String, ran: &Ran) -> Finding {
        let lines = shortened(&ran.outcome);
        let last_operations = lines[lines.len().saturating_sub(LAST_LINES)..].to_vec();
        Finding { seed, cause, last_operations, lost: ran.state.last_loss.clone() }
    }

    pub(crate) fn without_trace(seed: u64, cause: String) -> Finding {
        Finding { seed, cause, last_operations: Vec::new(), lost: None }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} fails: {}", self.seed, self.cause.trim_end())?;
        if !self.last_operations.is_empty() {
            writeln!(f, "\nthe last operations (virtual time, thread):")?;
        }
        self.last_operations.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        match self
            .lost
            .as_deref()
            .map(|lost| lost.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>())
        {
            None => {}
            Some(lost) if lost.is_empty() => writeln!(f, "\nthe last loss of power took nothing")?,
            Some(lost) => {
                writeln!(f, "\nthe last loss of power took:")?;
                lost.iter().take(LOSSES_MAX).try_for_each(|line| writeln!(f, "{line}"))?;
                if lost.len() > LOSSES_MAX {
                    writeln!(f, "  and {} more", lost.len() - LOSSES_MAX)?;
                }
            }
        }
        write!(f, "\nto run it again, with everything that happens: {SEED_VARIABLE}={}", self.seed)
    }
}

/// Returns the kept trace in short, an item for each event. Leaves out operations of disks where there are many in a row, as
/// in a recovery.
fn shortened(outcome: &Outcome<()>) -> Vec<String> {
    let is_of_disk = |entry: &&Entry| entry.text.starts_with(DISK);
    let entries: Vec<&Entry> = told(outcome).collect();
    let mut short = Vec::new();
    for mut group in entries.chunk_by(|left, right| is_of_disk(left) && is_of_disk(right)) {
        let left_out = group.len().saturating_sub(DISK_LINES_MAX);
        if left_out > 1 {
            short.push(format!("{:>13}{left_out} operations of the disk", ""));
            group = &group[left_out..];
        }
        short.extend(group.iter().map(|entry| short_line(outcome, entry)));
    }
    short
}

/// Returns a note whole, with its further lines below its first, and of anything else a line that is not too long. What a loss
/// of power took has its own place in the report.
fn short_line(outcome: &Outcome<()>, entry: &Entry) -> String {
    let whole = line(outcome, entry);
    if entry.text.starts_with(NOTE) {
        return whole.trim_end().replace('\n', &format!("\n{:INDENT_CHARS$}", ""));
    }
    let first = whole.lines().next().unwrap_or_default();
    match first.char_indices().nth(LINE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &first[..end]),
        None => first.to_owned(),
    }
}

/// Returns the kept trace, an item for each event.
pub(crate) fn readable(outcome: &Outcome<()>) -> Vec<String> {
    told(outcome).map(|entry| line(outcome, entry)).collect()
}

fn told(outcome: &Outcome<()>) -> impl Iterator<Item = &Entry> {
    outcome.trace.entries().iter().filter(|entry| !entry.text.starts_with(CONTENT))
}

fn line(outcome: &Outcome<()>, entry: &Entry) -> String {
    let thread = entry.thread.and_then(|thread| outcome.thread_names.get(thread as usize));
    let (ms, us) = (entry.now_ns / 1_000_000, entry.now_ns / 1_000 % 1_000);
    format!("{ms:>6}.{us:03} ms  {:<15} {}", thread.map_or("", String::as_str), entry.text)
}
