//! The job board: which background jobs run, which wait before they are tried again, and what each has met.
//!
//! Pure data, kept under the book's lock; nothing here runs a job. Claims, pauses and errors belong to one kind of job,
//! and merges to one keyspace as well, so that a merge that fails delays nothing elsewhere, and no failure is forgotten
//! when something else succeeds. A flush is of one generation, which is of all keyspaces (docs/decisions/0001): one that
//! fails forever, because the comparator of one keyspace panics, comes to stop the writes to all of them.
//!
//! ```text
//!           due, and its pause is over
//!   idle ──────────────────────────────▶ claimed ──▶ done: its error is forgotten
//!    ▲                                      │
//!    └── pause, doubling: backing off ◀─────┤ failed
//!    └── long pause: parked ◀───────────────┘ failed on bytes that a retry will hardly change
//! ```
//!
//! Whether a job is due is for the database to say. A keyspace is a *candidate* for a merge from the moment something
//! about it changed until a look at it finds nothing to do: so looking costs what changed, not what there is.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Damaged bytes may be read well another time, if a cable was loose; but hardly a second later.
pub(crate) const PARKED_FOR: Duration = Duration::from_secs(600);

/// A kind of job, each with a claim, a pause and an error of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum JobKind {
    /// Seals memtables that are not full, because of what they hide.
    Seal,
    /// Writes the oldest sealed memtables out.
    Flush,
    /// Syncs what the open log segment left to the system.
    WriteBack,
    /// Merges tables of one keyspace.
    Compact(KeyspaceId),
    /// Removes files that nobody needs.
    Purge,
    /// Sets space aside for a full disk again.
    Reserve,
}

impl JobKind {
    /// Returns what messages call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            JobKind::Seal => "sealing",
            JobKind::Flush => "flush",
            JobKind::WriteBack => "log write-back",
            JobKind::Compact(_) => "compaction",
            JobKind::Purge => "file removal",
            JobKind::Reserve => "space reserve",
        }
    }

    /// Returns the keyspace that it is about, if it is about one.
    pub(crate) fn keyspace(self) -> Option<KeyspaceId> {
        if let JobKind::Compact(id) = self { Some(id) } else { None }
    }
}

/// What a kind of job has met since it last succeeded.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// The last failure.
    pub error: Error,
    failures_count: u32,
    /// Which claim it was that failed last.
    claim: u64,
    /// Monotonic time before which it is not tried again.
    retry_at: u64,
}

/// What runs, what waits, what failed.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// What runs, each with which claim it was.
    running: BTreeMap<JobKind, u64>,
    /// Those of them after whose failure there is no pause: what they meet may have been mended since they were claimed.
    excused: BTreeSet<JobKind>,
    troubles: BTreeMap<JobKind, Trouble>,
    candidates: BTreeSet<KeyspaceId>,
    /// How many callers wait to merge a range of a keyspace: the background leaves it to them.
    callers: BTreeMap<KeyspaceId, usize>,
    /// The last look at a keyspace to begin, and the last that found nothing to merge, as a count of looks.
    looks: BTreeMap<KeyspaceId, u64>,
    idle: BTreeMap<KeyspaceId, u64>,
    looks_count: u64,
    /// How many jobs of each kind have ended.
    ended: BTreeMap<JobKind, u64>,
    claims_count: u64,
    changes_count: u64,
}

impl Board {
    /// Tells whether a job of a kind may be claimed now: none runs, and no pause holds it back.
    pub(crate) fn is_free(&self, kind: JobKind, now: u64) -> bool {
        !self.is_running(kind) && self.troubles.get(&kind).is_none_or(|trouble| trouble.retry_at <= now)
    }

    /// Claims a kind of job: nobody else does it until it is finished.
    ///
    /// # Panics
    /// If one runs.
    pub(crate) fn claim(&mut self, kind: JobKind) {
        self.note_change();
        self.claims_count += 1;
        let before = self.running.insert(kind, self.claims_count);
        assert!(before.is_none(), "{kind:?} is claimed once at a time");
    }

    /// Ends a claim with what came of it. `Closed` tells that the job was told to stop, which is no failure.
    ///
    /// # Panics
    /// If it was not claimed.
    pub(crate) fn finish(&mut self, kind: JobKind, result: &Result<()>, now: u64) {
        self.note_change();
        let claim = self.running.remove(&kind).unwrap_or_else(|| panic!("{kind:?} was claimed until now"));
        *self.ended.entry(kind).or_default() += 1;
        let is_excused = self.excused.remove(&kind);
        match result {
            Ok(()) => drop(self.troubles.remove(&kind)),
            Err(error) if error.kind() == ErrorKind::Closed => {}
            Err(error) => {
                let before = self.troubles.get(&kind).map_or(0, |trouble| trouble.failures_count);
                let retry_at = if is_excused { 0 } else { now.saturating_add(nanos(pause(error, before))) };
                let trouble = Trouble { error: error.clone(), failures_count: before + 1, claim, retry_at };
                self.troubles.insert(kind, trouble);
            }
        }
    }

    /// Gives a claim back without having tried anything.
    ///
    /// # Panics
    /// If it was not claimed.
    pub(crate) fn give_back(&mut self, kind: JobKind) {
        self.note_change();
        assert!(self.running.remove(&kind).is_some(), "{kind:?} was claimed until now");
        self.excused.remove(&kind);
        if let Some(id) = kind.keyspace()
            && !self.candidates.contains(&id)
        {
            // It is at rest, whatever comes next: that counts like a look that found nothing.
            self.looks_count += 1;
            self.idle.insert(id, self.looks_count);
        }
    }

    /// Notes that other jobs may be due, or may be claimed, than before.
    pub(crate) fn note_change(&mut self) {
        self.changes_count += 1;
    }

    /// Returns how often something changed about which jobs are due or may be claimed.
    pub(crate) fn changes_count(&self) -> u64 {
        self.changes_count
    }

    /// Tells whether a job of a kind runs.
    pub(crate) fn is_running(&self, kind: JobKind) -> bool {
        self.running.contains_key(&kind)
    }

    /// Returns how many jobs of a kind will have ended once one has that began no earlier than now.
    pub(crate) fn end_of_next(&self, kind: JobKind) -> u64 {
        self.ended_count(kind) + u64::from(self.is_running(kind)) + 1
    }

    /// Returns how many jobs of a kind have ended.
    pub(crate) fn ended_count(&self, kind: JobKind) -> u64 {
        self.ended.get(&kind).copied().unwrap_or(0)
    }

    /// Tells whether any job runs.
    pub(crate) fn is_working(&self) -> bool {
        !self.running.is_empty()
    }

    /// Notes that a keyspace may have something to merge.
    pub(crate) fn nominate(&mut self, id: KeyspaceId) {
        self.note_change();
        self.candidates.insert(id);
    }

    /// Nominates a keyspace that a look has found at rest, and would not any more.
    pub(crate) fn revive(&mut self, id: KeyspaceId) {
        self.nominate(id);
        self.idle.remove(&id);
    }

    /// Takes a keyspace off the candidates, to look at it. A change that comes later nominates it again.
    pub(crate) fn dismiss(&mut self, id: KeyspaceId) {
        self.candidates.remove(&id);
        self.looks_count += 1;
        self.looks.insert(id, self.looks_count);
    }

    /// Notes that the look at a keyspace that was begun last found nothing to merge. It tells nothing of what came
    /// after its beginning: that has nominated the keyspace again.
    pub(crate) fn note_idle(&mut self, id: KeyspaceId) {
        let look = *self.looks.get(&id).expect("a look that ends has begun");
        let idle = self.idle.entry(id).or_default();
        *idle = look.max(*idle);
    }

    /// Returns how many looks have begun.
    pub(crate) fn looks_count(&self) -> u64 {
        self.looks_count
    }

    /// Tells whether a keyspace may have something to merge or is being merged, and was so ever since `count` looks had
    /// begun.
    pub(crate) fn is_busy_since(&self, id: KeyspaceId, count: u64) -> bool {
        self.is_busy(id) && self.idle.get(&id).is_none_or(|at| *at <= count)
    }

    /// Tells whether a keyspace may have something to merge or is being merged.
    pub(crate) fn is_busy(&self, id: KeyspaceId) -> bool {
        self.candidates.contains(&id) || self.is_running(JobKind::Compact(id))
    }

    /// Returns the keyspaces that may have something to merge or are being merged.
    pub(crate) fn busy_keyspaces(&self) -> impl Iterator<Item = KeyspaceId> {
        let merging = self.running.keys().filter_map(|kind| kind.keyspace());
        self.candidates.iter().copied().chain(merging)
    }

    /// Returns the next keyspace behind `last` that may have something to merge and may be claimed, going round, so
    /// that a busy one does not hold up the others.
    pub(crate) fn next_candidate(&self, last: Option<KeyspaceId>, now: u64) -> Option<KeyspaceId> {
        let start = last.map_or(KeyspaceId(0), |last| KeyspaceId(last.0.saturating_add(1)));
        let around = self.candidates.range(start..).chain(self.candidates.range(..start));
        let is_free =
            |id: &KeyspaceId| self.is_free(JobKind::Compact(*id), now) && !self.callers.contains_key(id);
        around.copied().find(is_free)
    }

    /// Forgets a keyspace that was dropped, but for a merge of it that runs.
    pub(crate) fn forget_keyspace(&mut self, id: KeyspaceId) {
        self.note_change();
        self.candidates.remove(&id);
        let kind = JobKind::Compact(id);
        if !self.is_running(kind) {
            self.troubles.remove(&kind);
            self.ended.remove(&kind);
            self.looks.remove(&id);
            self.idle.remove(&id);
        }
    }

    /// Notes that a caller waits to merge a range of a keyspace.
    pub(crate) fn add_caller(&mut self, id: KeyspaceId) {
        *self.callers.entry(id).or_default() += 1;
    }

    /// Tells whether a caller waits to merge a range: it goes on by itself when it may.
    pub(crate) fn has_callers(&self) -> bool {
        !self.callers.is_empty()
    }

    /// Notes that such a caller waits no more.
    pub(crate) fn remove_caller(&mut self, id: KeyspaceId) {
        let count = self.callers.get_mut(&id).expect("a caller that leaves has come");
        *count -= 1;
        if *count == 0 {
            self.callers.remove(&id);
        }
        self.note_change();
    }

    /// Returns the first monotonic time after `now` at which a paused job may be tried again.
    pub(crate) fn next_retry_at(&self, now: u64) -> Option<u64> {
        self.troubles.values().map(|trouble| trouble.retry_at).filter(|at| *at > now).min()
    }

    /// Ends the pauses of some kinds: somebody asks, or has mended something. A job that runs began before that: if it
    /// fails, there is none either.
    pub(crate) fn retry_now(&mut self, is_meant: impl Fn(JobKind) -> bool) {
        self.excused.extend(self.running.keys().copied().filter(|kind| is_meant(*kind)));
        for (_, trouble) in self.troubles.iter_mut().filter(|(kind, _)| is_meant(**kind)) {
            trouble.retry_at = 0;
        }
    }

    /// Notes that the disk has space again: what has met a full one is tried again at once, and so is what runs now, if it
    /// fails.
    pub(crate) fn note_space(&mut self) {
        self.excused.extend(self.running.keys().copied());
        for trouble in self.troubles.values_mut().filter(|it| it.error.kind() == ErrorKind::NoSpace) {
            trouble.retry_at = 0;
        }
    }

    /// Ends the pauses of kinds that failed last in a job that was among the first `count` to be claimed: what it met may
    /// have been mended before it failed. Tells whether there were any.
    pub(crate) fn retry_if_claimed_before(&mut self, count: u64, is_meant: impl Fn(JobKind) -> bool) -> bool {
        let mut has_any = false;
        for (kind, trouble) in &mut self.troubles {
            if trouble.claim <= count && trouble.retry_at > 0 && is_meant(*kind) {
                trouble.retry_at = 0;
                has_any = true;
            }
        }
        has_any
    }

    /// Returns the error of a job of some kinds that was claimed behind the first `count` and has failed.
    pub(crate) fn failure_since(&self, count: u64, is_meant: impl Fn(JobKind) -> bool) -> Option<&Error> {
        let mut troubles = self.troubles.iter().filter(|(kind, _)| is_meant(**kind));
        troubles.find(|(_, trouble)| trouble.claim > count).map(|(_, trouble)| &trouble.error)
    }

    /// Forgets what a kind of job has met, since there is nothing left for it to do.
    pub(crate) fn forget(&mut self, kind: JobKind) {
        if !self.is_running(kind) {
            self.troubles.remove(&kind);
        }
    }

    /// Returns what holds a kind of job back at `now`, so that it is not tried again yet.
    pub(crate) fn pausing(&self, kind: JobKind, now: u64) -> Option<&Error> {
        let trouble = self.troubles.get(&kind).filter(|trouble| trouble.retry_at > now);
        trouble.map(|trouble| &trouble.error)
    }

    /// Returns how many jobs were claimed so far.
    pub(crate) fn claims_count(&self) -> u64 {
        self.claims_count
    }

    /// Returns what a kind of job has met since it last succeeded.
    pub(crate) fn trouble(&self, kind: JobKind) -> Option<&Error> {
        self.troubles.get(&kind).map(|trouble| &trouble.error)
    }

    /// Returns what every kind of job has met since it last succeeded, flushes first.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = (JobKind, &Error)> {
        self.troubles.iter().map(|(kind, trouble)| (*kind, &trouble.error))
    }
}

/// Tells whether a failure came from bytes or code that trying again will hardly change.
pub(crate) fn is_lasting(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Incompatible | ErrorKind::Internal)
}

fn pause(error: &Error, failures_before: u32) -> Duration {
    if is_lasting(error) {
        return PARKED_FOR;
    }
    (RETRY_AFTER * (1 << failures_before.min(10))).min(RETRY_AFTER_MAX)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Result<()> {
        Err(Error::new(ErrorKind::Io, "on purpose"))
    }

    const ONE: JobKind = JobKind::Compact(KeyspaceId(1));
    const TWO: JobKind = JobKind::Compact(KeyspaceId(2));

    #[test]
    fn a_failure_holds_back_its_own_kind_only_and_lasts_until_that_succeeds() {
        let mut board = Board::default();
        board.claim(ONE);
        board.claim(TWO);
        board.finish(ONE, &failed(), 0);
        board.finish(TWO, &Ok(()), 0);
        board.claim(JobKind::Flush);
        board.finish(JobKind::Flush, &Ok(()), 0);
        assert_eq!(board.troubles().map(|(kind, _)| kind).collect::<Vec<_>>(), [ONE]);
        assert!(!board.is_free(ONE, 0));
        assert!(board.is_free(TWO, 0) && board.is_free(JobKind::Flush, 0));
        board.claim(ONE);
        board.finish(ONE, &Ok(()), 0);
        assert!(board.troubles().next().is_none());
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_damage_is_parked() {
        let mut board = Board::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            board.claim(ONE);
            board.finish(ONE, &failed(), 0);
            pauses.push(board.next_retry_at(0).expect("it failed"));
        }
        assert_eq!(pauses[..3], [100_000_000, 200_000_000, 400_000_000]);
        assert_eq!(pauses.last(), Some(&10_000_000_000));
        board.claim(TWO);
        board.finish(TWO, &Err(Error::new(ErrorKind::Corruption, "bad")), 0);
        assert!(!board.is_free(TWO, 599_000_000_000));
        board.retry_now(|_| true);
        assert!(board.is_free(TWO, 0) && board.is_free(ONE, 0));
        assert_eq!(board.troubles().count(), 2, "asking again is no success");
    }

    #[test]
    fn a_job_that_runs_while_something_is_mended_is_tried_again_at_once_and_no_more_than_once() {
        let mut board = Board::default();
        board.claim(ONE);
        board.claim(TWO);
        board.retry_now(|kind| kind == ONE);
        board.finish(ONE, &failed(), 0);
        board.finish(TWO, &failed(), 0);
        assert!(board.is_free(ONE, 0) && !board.is_free(TWO, 0));
        board.claim(ONE);
        board.finish(ONE, &failed(), 0);
        assert!(!board.is_free(ONE, 0));
    }

    #[test]
    fn a_failure_concerns_who_asked_before_the_job_began_and_is_tried_again_for_others() {
        let mut board = Board::default();
        let before = board.claims_count();
        board.claim(ONE);
        let meanwhile = board.claims_count();
        board.finish(ONE, &failed(), 0);
        assert!(board.failure_since(before, |_| true).is_some());
        assert!(board.failure_since(meanwhile, |_| true).is_none() && !board.is_free(ONE, 0));
        assert!(!board.retry_if_claimed_before(meanwhile, |kind| kind != ONE) && !board.is_free(ONE, 0));
        assert!(board.retry_if_claimed_before(meanwhile, |_| true) && board.is_free(ONE, 0));
        assert!(!board.retry_if_claimed_before(meanwhile, |_| true), "once is enough");
    }

    #[test]
    fn being_told_to_stop_is_no_failure() {
        let mut board = Board::default();
        board.claim(ONE);
        board.finish(ONE, &Err(Error::new(ErrorKind::Closed, "closing")), 0);
        assert!(board.troubles().next().is_none() && board.failure_since(0, |_| true).is_none());
    }

    #[test]
    fn candidates_take_turns() {
        let mut board = Board::default();
        for id in [1, 2, 5] {
            board.nominate(KeyspaceId(id));
        }
        assert_eq!(board.next_candidate(Some(KeyspaceId(2)), 0), Some(KeyspaceId(5)));
        assert_eq!(board.next_candidate(Some(KeyspaceId(5)), 0), Some(KeyspaceId(1)));
        board.claim(ONE);
        assert_eq!(board.next_candidate(Some(KeyspaceId(5)), 0), Some(KeyspaceId(2)));
        board.dismiss(KeyspaceId(2));
        board.dismiss(KeyspaceId(5));
        assert_eq!(board.next_candidate(Some(KeyspaceId(5)), 0), None);
    }

    #[test]
    #[should_panic(expected = "claimed once")]
    fn nothing_is_claimed_twice() {
        let mut board = Board::default();
        board.claim(ONE);
        board.claim(ONE);
    }
}
