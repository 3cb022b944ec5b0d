//! What all threads of a run share to be judged by: the model, what was seen, what is held, what happened.

use crate::disk::Profile;
use crate::schedule::ThreadId;
use crate::tape::Tape;
use crate::workload::model::Model;
use crate::workload::orders::Fuse;
use crate::workload::scene::Pictures;
use crate::workload::sight::Observation;
use crate::workload::swarm::Swarm;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use tinylsm::{Background, KeyspaceOptions, Runtime};

/// An invariant that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which oracle found it.
    pub oracle: &'static str,
    /// What is wrong.
    pub message: String,
}

/// Makes a violation.
pub fn violation(oracle: &'static str, message: String) -> Violation {
    Violation { oracle, message }
}

/// A keyspace that clients know of.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownKeyspace {
    /// Its name.
    pub name: String,
    /// Its options.
    pub options: KeyspaceOptions,
    /// Whether it is there.
    pub fate: Fate,
    /// Whether its creation is durable for sure.
    pub is_sure: bool,
}

/// Whether a keyspace is there.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// Yes.
    There,
    /// A client drops it, or somebody has tried to.
    Dropping,
    /// A client gives it this name, or somebody has tried to.
    Renaming(String),
    /// No, and it never will be again.
    Dropped,
}

/// The keyspaces by number.
pub type KnownKeyspaces = BTreeMap<u32, KnownKeyspace>;

impl KnownKeyspace {
    /// Makes one that was created.
    pub fn new(name: String, options: KeyspaceOptions, is_sure: bool) -> KnownKeyspace {
        KnownKeyspace { name, options, fate: Fate::There, is_sure }
    }

    /// Tells whether a database must have it.
    pub fn is_owed(&self) -> bool {
        self.is_sure && matches!(self.fate, Fate::There | Fate::Renaming(_))
    }
}

/// How far the closing of an incarnation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closing {
    /// A client is about to close, or has closed: every call may give `Closed`.
    pub has_begun: bool,
    /// A `close` has returned without an error.
    pub has_succeeded: bool,
}

/// What a run is judged by.
#[derive(Default)]
pub struct Judge {
    /// The database as it must be.
    pub model: Model,
    /// What was seen in this incarnation.
    pub observations: Vec<Observation>,
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// Writes begun.
    pub writes_count: u64,
    /// Operations done; each write of a batch and each key of a `multi_get` counts.
    pub operations_count: u64,
    /// How often each event happened.
    pub events: BTreeMap<&'static str, u64>,
    /// The keyspaces.
    pub keyspaces: KnownKeyspaces,
    /// Keyspaces that clients have asked for; names them apart.
    pub keyspaces_asked_count: u64,
    /// Counts the incarnations: handles of an earlier one are old.
    pub incarnation: u64,
    /// How far the closing of this incarnation has come.
    pub closing: Closing,
    /// File numbers that were given out on this disk, by directory.
    pub file_numbers: BTreeSet<(PathBuf, u64)>,
    /// Snapshots in use.
    pub snapshots: SnapshotBook,
    /// The latest wall-clock time that each thread was told.
    pub told_times: BTreeMap<ThreadId, i64>,
    /// A time that acknowledged commits were made at or after; `None` if none is known.
    pub committed_time: Option<i64>,
    /// The longest virtual time that each kind of call has taken, in nanoseconds.
    pub slowest: BTreeMap<&'static str, u64>,
}

impl Judge {
    /// Counts an event.
    pub fn reach(&mut self, event: &'static str) {
        self.reach_often(event, 1);
    }

    /// Counts an event that happened so many times; none is no event.
    pub fn reach_often(&mut self, event: &'static str, count: u64) {
        if count > 0 {
            *self.events.entry(event).or_default() += count;
        }
    }

    /// Returns the keyspaces that may be there.
    pub fn possible(&self) -> impl Iterator<Item = (u32, &KnownKeyspace)> {
        let all = self.keyspaces.iter().map(|(id, known)| (*id, known));
        all.filter(|(_, known)| known.fate != Fate::Dropped)
    }

    /// Returns the numbers of the keyspaces that a database must have.
    pub fn owed(&self) -> BTreeSet<u32> {
        self.possible().filter(|(_, known)| known.is_owed()).map(|(id, _)| id).collect()
    }

    /// Returns the numbers of the keyspaces that no database may have any more.
    pub fn gone(&self) -> BTreeSet<u32> {
        let all = self.keyspaces.iter().filter(|(_, known)| known.fate == Fate::Dropped);
        all.map(|(id, _)| *id).collect()
    }

    /// Tells whether a client has dropped a keyspace, or has begun to.
    pub fn has_drops(&self) -> bool {
        self.keyspaces.values().any(|known| matches!(known.fate, Fate::Dropping | Fate::Dropped))
    }

    /// Notes a broken invariant, unless one was broken before.
    pub fn violate(&mut self, oracle: &'static str, message: String) {
        self.violation.get_or_insert(Violation { oracle, message });
    }

    /// Notes that the database was closed in good order: everything that was acknowledged is durable.
    pub fn note_closed(&mut self) {
        self.closing.has_succeeded = true;
        let last = self.model.last_known();
        self.model.durable_floor = self.model.durable_floor.max(last);
        self.model.process_floor = self.model.process_floor.max(last);
    }

    /// Begins another incarnation: the handles so far are old, and so is what they saw.
    pub fn begin_incarnation(&mut self) {
        self.incarnation += 1;
        self.closing = Closing::default();
        self.observations.clear();
        // What was not durable took its time along.
        self.told_times.clear();
        self.committed_time = None;
    }
}

/// The snapshots that clients hold, and those that calls of `compact_range` have met.
#[derive(Default)]
pub struct SnapshotBook {
    held: BTreeMap<u64, u64>,
    /// Snapshots being taken now, whose numbers nobody knows yet.
    pub being_taken_count: u64,
    watches: BTreeMap<u64, BTreeSet<u64>>,
    next: u64,
}

impl SnapshotBook {
    /// Notes a snapshot at a number; returns its name.
    pub fn take(&mut self, seq: u64) -> u64 {
        self.next += 1;
        self.held.insert(self.next, seq);
        for met in self.watches.values_mut() {
            met.insert(seq);
        }
        self.next
    }

    /// Notes that a snapshot was let go.
    pub fn let_go(&mut self, name: u64) {
        self.held.remove(&name);
    }

    /// Returns how many are held.
    pub fn held_count(&self) -> u64 {
        self.held.len() as u64
    }

    /// Begins to note which snapshots are live at any time from now on; returns the name of the watch.
    pub fn watch(&mut self) -> u64 {
        self.next += 1;
        self.watches.insert(self.next, self.held.values().copied().collect());
        self.next
    }

    /// Ends a watch; returns the numbers of the snapshots that were live at any time during it. `None` if one is being
    /// taken at this moment, whose number is unknown.
    pub fn end_watch(&mut self, watch: u64) -> Option<BTreeSet<u64>> {
        let met = self.watches.remove(&watch).expect("a watch ends once");
        (self.being_taken_count == 0).then_some(met)
    }
}

/// What everything in a run shares. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The run's choices.
    pub tape: Tape,
    /// The run's character.
    pub swarm: Arc<Swarm>,
    /// Its kind of disk.
    pub profile: Profile,
    /// Where everything is noted.
    pub judge: Arc<Mutex<Judge>>,
    /// Pictures for replays.
    pub pictures: Pictures,
    /// When a comparator panics.
    pub fuse: Fuse,
    /// The threads that the run's database and its neighbour share, if they do.
    pub runtime: Option<Runtime>,
}

impl Context {
    /// Returns who runs the background jobs of the run's database.
    pub fn background(&self) -> Background {
        self.runtime.clone().map_or_else(|| self.swarm.background.clone(), Background::Shared)
    }

    /// Counts an event.
    pub fn reach(&self, event: &'static str) {
        self.judge.lock().reach(event);
    }
}
