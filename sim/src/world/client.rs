//! What clients do, and what they note of it. How they read is told in `reads.rs`.
//!
//! A client is a simulated thread with a handle to the database. It notes every write in the model before and after,
//! and everything it reads as an observation: the numbers between which the reader stood, and what it saw. An
//! observation is judged when the life is over, since only then the model knows every commit.

use crate::disk::SimDisk;
use crate::schedule;
use crate::tape::{Label, Tape};
use crate::world::model::{Change, Model};
use crate::world::reads::{HeldIter, HeldSnapshot};
use crate::world::sight::Observation;
use crate::world::swarm::{Deed, Swarm, value_for};
use parking_lot::Mutex;
use std::sync::Arc;
use tinylsm::base::limits::{KEY_LEN_BYTES_MAX, VALUE_LEN_BYTES_MAX};
use tinylsm::{Db, Durability, Error, ErrorKind, Keyspace, WriteBatch, WriteOptions};

/// A law that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which oracle found it.
    pub oracle: &'static str,
    /// What is wrong.
    pub message: String,
}

/// What all clients of a world share.
pub struct Judge {
    /// The database as it must be.
    pub model: Model,
    /// What was seen in this life.
    pub observations: Vec<Observation>,
    /// The first broken law.
    pub violation: Option<Violation>,
    /// Writes begun.
    pub writes_count: u64,
    /// Operations done; each write of a batch and each key of a `multi_get` counts.
    pub operations_count: u64,
    /// Times that writing was taken up again after a full disk.
    pub resumed_count: u64,
}

/// What a client has at hand.
pub struct Client {
    /// The world's choices.
    pub tape: Tape,
    /// The world's character.
    pub swarm: Arc<Swarm>,
    /// Where everything is noted.
    pub judge: Arc<Mutex<Judge>>,
    /// The database.
    pub db: Db,
    /// Its keyspaces, by number.
    pub keyspaces: Vec<Keyspace>,
    /// The disk that it lies on.
    pub disk: SimDisk,
    /// Operations of the disk that had failed when the database was opened; only later ones excuse an error.
    pub failures_before: u64,
    pub(in crate::world) snapshots: Vec<HeldSnapshot>,
    pub(in crate::world) iterators: Vec<HeldIter>,
}

/// The client goes home: the power is off, or a law is broken.
pub(in crate::world) struct Stop;

impl Client {
    /// Makes a client without snapshots or iterators.
    pub fn new(
        tape: Tape,
        swarm: Arc<Swarm>,
        judge: Arc<Mutex<Judge>>,
        db: Db,
        keyspaces: Vec<Keyspace>,
        (disk, failures_before): (SimDisk, u64),
    ) -> Client {
        Client {
            tape,
            swarm,
            judge,
            db,
            keyspaces,
            disk,
            failures_before,
            snapshots: Vec::new(),
            iterators: Vec::new(),
        }
    }

    /// Does its deeds until they are done, the power is off or a law is broken.
    pub fn run(mut self) {
        for _ in 0..self.swarm.deeds_count {
            if self.judge.lock().violation.is_some() || self.disk.is_off() {
                return;
            }
            self.count_operations(1);
            let deed = self.swarm.next_deed(&self.tape);
            schedule::note(|| format!("the client begins: {deed:?}"));
            if self.act(deed).is_err() {
                return;
            }
        }
    }

    fn act(&mut self, deed: Deed) -> Result<(), Stop> {
        match deed {
            Deed::Put => self.write(1, false),
            Deed::Delete => self.write(1, true),
            Deed::Batch => {
                let count = 1 + self.below(6);
                self.count_operations(count - 1);
                self.write(count, false)
            }
            Deed::EmptyBatch => self.write_nothing(),
            Deed::RefusedWrite => self.write_refused(),
            Deed::Get => self.get(None),
            Deed::MultiGet => self.multi_get(None),
            Deed::Scan => self.scan(None),
            Deed::Prefix => self.scan_prefix(None),
            Deed::HoldIterator => self.hold_iterator(),
            Deed::TakeSnapshot => {
                self.take_snapshot();
                Ok(())
            }
            Deed::ReadSnapshot => self.read_snapshot(),
            Deed::DropSnapshot => {
                self.snapshots.pop();
                self.iterators.pop();
                Ok(())
            }
            Deed::Sync => {
                let before = self.db.last_seq().get();
                let result = self.db.sync();
                self.note_durable(result, before)
            }
            Deed::Flush => {
                let before = self.db.last_seq().get();
                let result = self.db.flush();
                self.note_durable(result, before)
            }
            Deed::Compact => {
                let keyspace = self.pick_keyspace();
                let result = if self.below(2) == 0 {
                    self.db.compact_range(&self.keyspaces[keyspace], ..)
                } else {
                    let (a, b) = (self.swarm.next_key(&self.tape), self.swarm.next_key(&self.tape));
                    self.db.compact_range(&self.keyspaces[keyspace], a..b)
                };
                self.allow(result).map(drop)
            }
            Deed::Verify => {
                let result = self.db.verify();
                self.allow(result).map(drop)
            }
            Deed::Step => {
                let result = self.db.background_step();
                self.allow(result).map(drop)
            }
            Deed::Resume => {
                self.disk.add_space(self.tape.magnitude(Label::Workload, 17));
                let was_full = self.db.background_error().is_some_and(|error| is_full_log(&error));
                let result = self.db.resume();
                let is_resumed = self.allow(result)?.is_some() && was_full;
                self.judge.lock().resumed_count += u64::from(is_resumed);
                Ok(())
            }
        }
    }

    /// Counts operations; the caller of a deed has counted the first of each.
    pub(in crate::world) fn count_operations(&self, count: u64) {
        self.judge.lock().operations_count += count;
    }

    pub(in crate::world) fn below(&self, bound: u64) -> u64 {
        self.tape.below(Label::Workload, bound)
    }

    pub(in crate::world) fn pick_keyspace(&self) -> usize {
        usize::try_from(self.below(self.keyspaces.len() as u64)).expect("a few")
    }

    /// Takes a result apart: `None` for an error that may be.
    pub(in crate::world) fn allow<T>(&self, result: Result<T, Error>) -> Result<Option<T>, Stop> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(_) if self.disk.is_off() => Err(Stop),
            Err(error) => {
                let kinds = [ErrorKind::Io, ErrorKind::NoSpace, ErrorKind::Busy, ErrorKind::ReadOnly];
                let has_cause = self.disk.failures_count() > self.failures_before;
                if has_cause && kinds.contains(&error.kind()) {
                    return Ok(None);
                }
                Err(self.violate("error honesty", format!("an error without a cause: {error:?}")))
            }
        }
    }

    pub(in crate::world) fn violate(&self, oracle: &'static str, message: String) -> Stop {
        self.judge.lock().violation.get_or_insert(Violation { oracle, message });
        Stop
    }

    /// Writes a batch of no operations: it has no number of its own, but makes what came before durable.
    fn write_nothing(&self) -> Result<(), Stop> {
        let durability = self.swarm.next_durability(&self.tape);
        let before = self.db.last_seq().get();
        let result = self.db.write(&WriteBatch::new(), &WriteOptions { durability: Some(durability) });
        if let Ok(seq) = result
            && !(before..=self.db.last_seq().get()).contains(&seq.get())
        {
            let message = format!("an empty batch after number {before} got number {seq}");
            return Err(self.violate("sequence numbers", message));
        }
        if durability == Durability::Disk {
            return self.note_durable(result.map(drop), before);
        }
        self.allow(result).map(drop)
    }

    /// Writes what must be refused, alone or behind something that would be fine, and leaves nothing: what the
    /// model does not know shows in a later read.
    fn write_refused(&self) -> Result<(), Stop> {
        let keyspace = &self.keyspaces[self.pick_keyspace()];
        let key = self.swarm.next_key(&self.tape);
        let (bad_key, bad_value) = match self.below(4) {
            0 | 1 => (Vec::new(), Vec::new()),
            2 => (vec![b'k'; KEY_LEN_BYTES_MAX + 1], Vec::new()),
            _ => (key.clone(), vec![0; VALUE_LEN_BYTES_MAX + 1]),
        };
        let result = if self.below(2) == 0 {
            keyspace.put(&bad_key, &bad_value)
        } else {
            let mut batch = WriteBatch::new();
            batch.put(keyspace, &key, "never written");
            batch.put(keyspace, &bad_key, &bad_value);
            self.db.write(&batch, &WriteOptions::default())
        };
        match result {
            Err(error) if error.kind() == ErrorKind::InvalidArgument => Ok(()),
            other => Err(self.violate("error honesty", format!("a write to be refused gives {other:?}"))),
        }
    }

    fn note_durable(&self, result: Result<(), Error>, before: u64) -> Result<(), Stop> {
        if self.allow(result)?.is_some() {
            let mut judge = self.judge.lock();
            judge.model.durable_floor = judge.model.durable_floor.max(before);
            judge.model.process_floor = judge.model.process_floor.max(before);
        }
        Ok(())
    }

    fn write(&mut self, count: u64, deletes: bool) -> Result<(), Stop> {
        let durability = self.swarm.next_durability(&self.tape);
        let write = {
            let mut judge = self.judge.lock();
            judge.writes_count += 1;
            judge.writes_count
        };
        let mut batch = WriteBatch::new();
        let mut changes: Vec<Change> = Vec::new();
        for index in 0..usize::try_from(count).expect("a few") {
            let at = self.pick_keyspace();
            let (keyspace, id) = (&self.keyspaces[at], u32::try_from(at).expect("a few"));
            let key = self.swarm.next_key(&self.tape);
            let is_delete = deletes || (count > 1 && self.below(4) == 0);
            if is_delete {
                batch.delete(keyspace, &key);
                changes.push(((id, key), None));
            } else {
                let len = usize::try_from(self.below(self.swarm.value_len_max)).expect("small");
                let value = value_for(write, index, (id, &key), len);
                batch.put(keyspace, &key, &value);
                changes.push(((id, key), Some(value)));
            }
        }
        schedule::note(|| format!("it writes, for {durability:?}: {}", show_changes(&changes)));
        let id = self.judge.lock().model.begin(changes);
        let options = WriteOptions { durability: Some(durability) };
        let result = self.db.write(&batch, &options);
        schedule::note(|| format!("the write gives {result:?}"));
        let mut judge = self.judge.lock();
        match &result {
            Ok(seq) => {
                if let Err(message) = judge.model.commit(id, seq.get()) {
                    drop(judge);
                    return Err(self.violate("sequence numbers", message));
                }
                let model = &mut judge.model;
                if durability >= Durability::Os {
                    model.process_floor = model.process_floor.max(seq.get());
                }
                if durability == Durability::Disk {
                    model.durable_floor = model.durable_floor.max(seq.get());
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::ReadOnly | ErrorKind::Busy) && !self.disk.is_off() =>
            {
                judge.model.cancel(id);
            }
            // It may be in the log, whole; only a recovery will tell.
            Err(_) => {}
        }
        drop(judge);
        self.allow(result).map(drop)
    }
}

fn show_changes(changes: &[Change]) -> String {
    let show = |((keyspace, key), value): &Change| {
        let value = value.as_ref().map_or_else(|| "deleted".to_owned(), |v| v.escape_ascii().to_string());
        format!("{keyspace}:{}={value:.24} ", key.escape_ascii())
    };
    changes.iter().map(show).collect()
}

/// Tells whether an error is an append to the log that met a full disk, the one failure that `resume` mends.
pub(in crate::world) fn is_full_log(error: &Error) -> bool {
    error.kind() == ErrorKind::NoSpace
        && error.operation() == Some("append")
        && error.file().is_some_and(|file| file.extension().is_some_and(|extension| extension == "wal"))
}
