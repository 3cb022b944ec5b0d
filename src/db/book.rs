//! The book of a database: what is sealed, which jobs and files there are, and which tables are damaged.

use crate::base::error::Error;
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::seq::SeqNum;
use crate::db::board::{Board, PARKED_FOR, is_lasting, nanos};
use crate::db::files::FileLife;
use crate::memtable::Memtable;
use crate::wal::segment::Segment;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The memtables that were filled through one WAL segment, sealed together.
pub(crate) struct Generation {
    pub last_seq: SeqNum,
    pub memtables: Vec<(KeyspaceId, Arc<Memtable>)>,
}

/// What is sealed, running, obsolete or failed.
#[derive(Default)]
pub(crate) struct Book {
    /// Oldest first, each with the WAL segment that holds it.
    pub sealed: VecDeque<(FileNumber, Arc<Generation>)>,
    /// The segment that takes commits now; none in a database that cannot write.
    pub active_wal: Option<Arc<Segment>>,
    /// The oldest segment with commits of the active memtables, where `active_wal` took over from it.
    pub active_first: Option<FileNumber>,
    pub board: Board,
    pub files: FileLife,
    /// The keyspace that was merged last: the others come first.
    pub merged_last: Option<KeyspaceId>,
    /// Keyspaces whose merges had no space on the disk when they were looked at.
    pub short_of_space: BTreeSet<KeyspaceId>,
    /// Tables that a merge could not read, or that a degraded opening could not open.
    pub damaged: BTreeMap<FileNumber, Damage>,
    pub quiet: Quiet,
    /// A look found that memtables which are not full should be sealed.
    pub is_seal_wanted: bool,
    /// How often a job has made something due that a look had found at rest: such a seal, or space on the disk.
    pub revivals_count: u64,
}

/// How long a table is left alone first whose reading failed as it may only once.
const PARKED_FIRST_FOR: Duration = Duration::from_millis(100);

/// Why a table cannot be merged.
pub(crate) struct Damage {
    pub keyspace: KeyspaceId,
    error: Error,
    /// How long it is left alone: longer each time, if what went wrong may pass.
    parked_for: Duration,
    /// Monotonic time before which no merge tries it again.
    retry_at: u64,
}

/// How long nothing was written, and who waits for nothing to be due.
#[derive(Default)]
pub(crate) struct Quiet {
    /// The newest commit that was seen, and the monotonic time at which it was first.
    pub since: (SeqNum, u64),
    /// Callers that wait for idleness, which counts as quiet.
    pub waiting_count: usize,
    /// The newest commit when all keyspaces were last looked at because of quiet.
    pub looked_at: Option<SeqNum>,
}

impl Book {
    /// Has keyspaces looked at again whose merges had no space: there may be some now.
    pub(crate) fn nominate_short(&mut self) {
        for id in std::mem::take(&mut self.short_of_space) {
            self.board.revive(id);
            self.revivals_count += 1;
        }
    }

    /// Notes that a table of a keyspace cannot be merged because of `error`.
    pub(crate) fn note_damage(
        &mut self,
        (keyspace, number): (KeyspaceId, FileNumber),
        error: &Error,
        now: u64,
    ) {
        let before = self.damaged.get(&number).map(|damage| damage.parked_for);
        let parked_for = match is_lasting(error) {
            true => PARKED_FOR,
            false => before.map_or(PARKED_FIRST_FOR, |before| before.saturating_mul(2).min(PARKED_FOR)),
        };
        let retry_at = now.saturating_add(nanos(parked_for));
        self.damaged.insert(number, Damage { keyspace, error: error.clone(), parked_for, retry_at });
    }

    /// Tells whether a keyspace has a table at `now` that no merge will be able to read.
    pub(crate) fn has_lasting_damage(&self, id: KeyspaceId, now: u64) -> bool {
        let mut parked =
            self.damaged.values().filter(|damage| damage.keyspace == id && damage.retry_at > now);
        parked.any(|damage| is_lasting(&damage.error))
    }

    /// Returns what was met in the tables of a keyspace that cannot be merged. What may have passed is told while the table
    /// is left alone.
    pub(crate) fn damage_of(&self, id: KeyspaceId) -> impl Iterator<Item = &Error> {
        let is_told = |damage: &&Damage| damage.retry_at > 0 || is_lasting(&damage.error);
        let damaged = self.damaged.values().filter(move |damage| damage.keyspace == id);
        damaged.filter(is_told).map(|damage| &damage.error)
    }

    /// Returns the tables of a keyspace that no merge tries at `now`.
    pub(crate) fn parked_tables(&self, id: KeyspaceId, now: u64) -> impl Iterator<Item = FileNumber> {
        let is_parked = move |damage: &Damage| damage.keyspace == id && damage.retry_at > now;
        self.damaged.iter().filter(move |(_, damage)| is_parked(damage)).map(|(number, _)| *number)
    }

    /// Has merges try damaged tables again whose time is `meant`.
    pub(crate) fn retry_damaged(&mut self, is_meant: impl Fn(u64) -> bool) {
        for damage in
            self.damaged.values_mut().filter(|damage| damage.retry_at > 0 && is_meant(damage.retry_at))
        {
            damage.retry_at = 0;
            self.board.nominate(damage.keyspace);
        }
    }

    /// Returns the first monotonic time after `now` at which a damaged table is tried again.
    pub(crate) fn next_retry_of_damaged(&self, now: u64) -> Option<u64> {
        self.damaged.values().map(|damage| damage.retry_at).filter(|at| *at > now).min()
    }

    /// Tells whether a job that frees space on the disk runs or may be about to.
    pub(crate) fn may_make_space(&self, now: u64) -> bool {
        self.board.is_working()
            || self.board.next_candidate(None, now).is_some()
            || self.files.has_removable()
    }
}
