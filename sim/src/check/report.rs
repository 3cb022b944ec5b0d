//! How a check went, in figures and in words.

use crate::check::SEED_VARIABLE;
use crate::check::run::{CONTENT, State};
use crate::check::runner::Ran;
use crate::schedule::Outcome;
use std::collections::BTreeMap;
use std::fmt;

/// Lines shown before the end: enough to see the operation that went wrong and what led to it.
const LAST_LINES: usize = 25;

/// Operations of disks in a row that are shown; of more, these are the last.
const DISK_LINES_MAX: usize = 2;

/// Longer lines are cut, in the short trace of a report.
const LINE_CHARS_MAX: usize = 160;

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
    /// What was done last, a line each.
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
        let lines = shortened(&readable(&ran.outcome));
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
        // What a loss of power took comes below.
        for line in self.last_operations.iter().filter_map(|line| line.lines().next()) {
            match line.char_indices().nth(LINE_CHARS_MAX) {
                Some((end, _)) => writeln!(f, "{}…", &line[..end])?,
                None => writeln!(f, "{line}")?,
            }
        }
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

/// Leaves out operations of disks where there are many in a row, as in a recovery.
fn shortened(lines: &[String]) -> Vec<String> {
    let is_of_disk = |line: &String| line.contains(" disk: ");
    let mut short = Vec::new();
    for group in lines.chunk_by(|left, right| is_of_disk(left) && is_of_disk(right)) {
        let left_out = group.len().saturating_sub(DISK_LINES_MAX);
        if left_out > 1 {
            short.push(format!("{:>13}{left_out} operations of the disk", ""));
            short.extend_from_slice(&group[left_out..]);
        } else {
            short.extend_from_slice(group);
        }
    }
    short
}

/// Returns the kept trace, a line for each event.
pub(crate) fn readable(outcome: &Outcome<()>) -> Vec<String> {
    let name = |thread: Option<u32>| {
        thread.and_then(|thread| outcome.thread_names.get(thread as usize)).map_or("", String::as_str)
    };
    let line = |entry: &crate::trace::Entry| {
        let (ms, us) = (entry.now_ns / 1_000_000, entry.now_ns / 1_000 % 1_000);
        format!("{ms:>6}.{us:03} ms  {:<15} {}", name(entry.thread), entry.text)
    };
    outcome.trace.entries().iter().filter(|entry| !entry.text.starts_with(CONTENT)).map(line).collect()
}
