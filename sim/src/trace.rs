//! The trace of a run: a rolling hash over every event, and what it takes to find the first differing one.
//!
//! Owns the fingerprint by which two runs are compared. Promises that the hash depends on the events, their
//! values and their order, and on nothing else: no float, no pointer, no clock, no build profile. Readable
//! entries are kept only for the events asked for ([`Keep`]), and never change the hash, so a long run is
//! recorded cheaply and a narrow window of it is looked at afterwards.
//!
//! ```text
//! events   0 ......... 1023 | 1024 ...... 2047 | 2048 ...
//! hash     -> -> -> -> -> c0   -> -> -> -> -> c1   -> ->      c0, c1: checkpoints
//! ```
//!
//! Two runs that differ have equal checkpoints up to one; [`diverging_window`] names the events between it
//! and its forerunner, and [`first_difference`] runs both again with those events kept and names the first
//! that is not the same.

use std::ops::Range;

/// How many events lie between two checkpoints: rare enough to cost nothing, narrow enough to be read.
const CHECKPOINT_EVENTS: u64 = 1024;

/// Which events a trace keeps in readable form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// None; only the hash.
    #[default]
    Nothing,
    /// What programs and disks do, without what the scheduler does.
    Told,
    /// Those whose number lies in the range.
    Window(Range<u64>),
    /// All.
    Everything,
}

/// One readable event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How many events came before it.
    pub number: u64,
    /// The virtual time in nanoseconds.
    pub now_ns: u64,
    /// Which simulated thread it happened on, or `None` for the scheduler.
    pub thread: Option<u32>,
    /// What happened.
    pub text: String,
    /// The hash with this event in it.
    pub hash: u64,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>8} {:>14} ns  ", self.number, self.now_ns)?;
        match self.thread {
            Some(thread) => write!(f, "thread {thread:<3}")?,
            None => write!(f, "scheduler ")?,
        }
        write!(f, " {}", self.text)
    }
}

/// The fingerprint of a run, growing while it runs.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    checkpoints: Vec<u64>,
    keep: Keep,
    entries: Vec<Entry>,
}

impl Trace {
    /// Begins a trace that keeps `keep` in readable form.
    pub fn new(keep: Keep) -> Trace {
        // The start value is arbitrary; it only must not be zero, so that leading zeros count.
        Trace { hash: 0x7469_6e79_6c73_6d31, events: 0, checkpoints: Vec::new(), keep, entries: Vec::new() }
    }

    /// Adds an event: `kind` says what it is, `values` what it is about.
    #[inline]
    pub fn event(&mut self, kind: u64, values: &[u64]) {
        let mut hash = mix(self.hash, kind);
        for &value in values {
            hash = mix(hash, value);
        }
        // The count keeps [1, 2] apart from [1] and [2].
        self.hash = mix(hash, values.len() as u64);
        self.events += 1;
        if self.events.is_multiple_of(CHECKPOINT_EVENTS) {
            self.checkpoints.push(self.hash);
        }
    }

    /// Tells whether the event added last is to be kept in readable form.
    #[inline]
    pub fn keeps(&self) -> bool {
        match &self.keep {
            Keep::Nothing | Keep::Told => false,
            Keep::Everything => true,
            Keep::Window(window) => window.contains(&self.events.saturating_sub(1)),
        }
    }

    /// Tells whether the event added last is to be kept in readable form if a program or a disk made it.
    #[inline]
    pub fn keeps_told(&self) -> bool {
        self.keep == Keep::Told || self.keeps()
    }

    /// Keeps `text` for the event added last. Does not change the hash.
    pub fn keep(&mut self, now_ns: u64, thread: Option<u32>, text: String) {
        let number = self.events.saturating_sub(1);
        self.entries.push(Entry { number, now_ns, thread, text, hash: self.hash() });
    }

    /// Returns the fingerprint of all events so far.
    pub fn hash(&self) -> u64 {
        // Spreads the last event's bits over the whole word.
        let mut hash = self.hash ^ self.hash >> 32;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^ hash >> 32
    }

    /// Returns how many events were added.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Returns the kept events, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// One step of the rolling hash: a bijection of `hash` for each `value`, so that a difference never fades.
#[inline]
fn mix(hash: u64, value: u64) -> u64 {
    (hash.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Returns the numbers of the events among which two traces first differ; `None` if they are equal.
///
/// Hashes alone decide, so the traces need not have kept anything.
pub fn diverging_window(left: &Trace, right: &Trace) -> Option<Range<u64>> {
    if left.hash == right.hash && left.events == right.events {
        return None;
    }
    let shared = left.checkpoints.iter().zip(&right.checkpoints);
    // Checkpoints differ for good once they differ, so the count of equal ones could be found by halving;
    // they are so few that a walk is as fast.
    let equal = shared.take_while(|(left, right)| left == right).count() as u64;
    Some(equal * CHECKPOINT_EVENTS..(equal + 1) * CHECKPOINT_EVENTS)
}

/// Where two runs part.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The events just before, the same in both.
    pub before: Vec<Entry>,
    /// The first event of the left run that differs; `None` if it ended there.
    pub left: Option<Entry>,
    /// The first event of the right run that differs; `None` if it ended there.
    pub right: Option<Entry>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for entry in &self.before {
            writeln!(f, "  both {entry}")?;
        }
        for (side, entry) in [("left", &self.left), ("right", &self.right)] {
            match entry {
                Some(entry) => writeln!(f, "{side:>6} {entry}")?,
                None => writeln!(f, "{side:>6} has ended")?,
            }
        }
        Ok(())
    }
}

/// How many equal events a [`Difference`] shows before the first that differs.
const CONTEXT_EVENTS: usize = 12;

/// Finds the first event in which two runs differ, running each twice; `None` if they do not.
///
/// `left` and `right` make one run each and return its trace, which keeps what they are told to keep.
///
/// # Panics
/// If a run does not repeat itself, since then there is no first difference to find.
pub fn first_difference(
    mut left: impl FnMut(Keep) -> Trace,
    mut right: impl FnMut(Keep) -> Trace,
) -> Option<Difference> {
    let (left_hashes, right_hashes) = (left(Keep::Nothing), right(Keep::Nothing));
    let window = diverging_window(&left_hashes, &right_hashes)?;
    let (left_kept, right_kept) = (left(Keep::Window(window.clone())), right(Keep::Window(window)));
    assert_eq!(left_kept.hash, left_hashes.hash, "the left run repeats itself");
    assert_eq!(right_kept.hash, right_hashes.hash, "the right run repeats itself");
    Some(compare(&left_kept.entries, &right_kept.entries))
}

/// Finds the first difference among kept events.
pub(crate) fn compare(left: &[Entry], right: &[Entry]) -> Difference {
    let same = left.iter().zip(right).take_while(|(left, right)| left.hash == right.hash).count();
    let before = left[same.saturating_sub(CONTEXT_EVENTS)..same].to_vec();
    Difference { before, left: left.get(same).cloned(), right: right.get(same).cloned() }
}

#[cfg(test)]
mod tests {
    use crate::trace::{Keep, Trace, diverging_window, first_difference};

    /// A run of `count` events that differs from others at number `odd`.
    fn run(count: u64, odd: Option<u64>) -> impl Fn(Keep) -> Trace {
        move |keep| {
            let mut trace = Trace::new(keep);
            for number in 0..count {
                let value = number + u64::from(odd == Some(number));
                trace.event(1, &[value]);
                if trace.keeps() {
                    trace.keep(number * 100, Some(3), format!("value {value}"));
                }
            }
            trace
        }
    }

    #[test]
    fn hash_depends_on_values_and_order() {
        let hash = |events: &[(u64, &[u64])]| {
            let mut trace = Trace::new(Keep::Nothing);
            for (kind, values) in events {
                trace.event(*kind, values);
            }
            trace.hash()
        };
        let base = hash(&[(1, &[2, 3]), (4, &[])]);
        assert_eq!(base, hash(&[(1, &[2, 3]), (4, &[])]));
        assert_ne!(base, hash(&[(4, &[]), (1, &[2, 3])]));
        assert_ne!(base, hash(&[(1, &[3, 2]), (4, &[])]));
        assert_ne!(base, hash(&[(1, &[2]), (3, &[4])]));
        assert_ne!(hash(&[]), hash(&[(0, &[])]));
        insta::assert_snapshot!(format!("{base:016x}"), @"c374b913ef95556a");
    }

    #[test]
    fn first_difference_is_found_by_checkpoints() {
        for odd in [0, 1_023, 1_024, 5_000, 9_999] {
            let found = first_difference(run(10_000, None), run(10_000, Some(odd))).expect("they differ");
            let (left, right) = (found.left.expect("not ended"), found.right.expect("not ended"));
            assert_eq!((left.number, right.number), (odd, odd));
            assert_ne!(left.text, right.text);
        }
    }

    #[test]
    fn equal_runs_have_no_difference() {
        assert!(first_difference(run(3_000, None), run(3_000, None)).is_none());
    }

    #[test]
    fn a_run_that_ends_early_differs_where_it_ends() {
        for count in [1_500, 2_048] {
            let found = first_difference(run(count, None), run(5_000, None)).expect("they differ");
            assert!(found.left.is_none());
            assert_eq!(found.right.expect("not ended").number, count);
            assert!(found.before.len() <= 12);
        }
    }

    #[test]
    fn keeping_does_not_change_the_hash() {
        let (kept, bare) = (run(5_000, None)(Keep::Everything), run(5_000, None)(Keep::Nothing));
        assert_eq!(kept.hash(), bare.hash());
        assert!(diverging_window(&kept, &bare).is_none());
        assert_eq!(kept.entries().len(), 5_000);
        assert!(bare.entries().is_empty());
    }
}
