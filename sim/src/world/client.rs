//! What clients do, and what they note of it.
//!
//! A client is a simulated thread with a handle to the database. It notes every write in the model before and after,
//! and everything it reads as an observation: the numbers between which the reader stood, and what it saw. An
//! observation is judged when the life is over, since only then the model knows every commit.

use crate::disk::SimDisk;
use crate::tape::{Label, Tape};
use crate::world::model::{Change, Content, Model};
use crate::world::swarm::{Deed, Swarm, value_for};
use parking_lot::Mutex;
use std::ops::Bound;
use std::sync::Arc;
use tinylsm::{Db, Durability, Error, ErrorKind, Iter, Keyspace, Snapshot, WriteBatch, WriteOptions};

/// A law that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which oracle found it.
    pub oracle: &'static str,
    /// What is wrong.
    pub message: String,
}

/// Bounds of a scan.
pub type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// What a reader saw while it stood somewhere between two numbers.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Commits up to here had returned before the read began.
    pub low: u64,
    /// Nothing above this was visible when it ended.
    pub high: u64,
    /// Which keyspace.
    pub keyspace: u32,
    /// What it saw.
    pub sight: Sight,
}

/// What was seen.
#[derive(Clone, Debug)]
pub enum Sight {
    /// One key's value.
    Value(Vec<u8>, Option<Vec<u8>>),
    /// Several keys' values at one moment.
    Values(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    /// The first so many pairs of a range from one end.
    Pairs {
        /// The range.
        bounds: Bounds,
        /// Whether they came from the back.
        is_reverse: bool,
        /// Whether these are all there are.
        is_complete: bool,
        /// The pairs.
        pairs: Vec<(Vec<u8>, Vec<u8>)>,
    },
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
    /// Deeds done.
    pub deeds_count: u64,
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
    snapshots: Vec<(Snapshot, Vec<(u32, Content)>)>,
    iterators: Vec<(Iter, Held)>,
}

/// An iterator in use: where it stands and what it has shown.
struct Held {
    low: u64,
    high: u64,
    keyspace: u32,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The client goes home: the power is off, or a law is broken.
struct Stop;

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
            self.judge.lock().deeds_count += 1;
            let deed = self.swarm.next_deed(&self.tape);
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
                self.write(count, false)
            }
            Deed::Get => self.get(),
            Deed::MultiGet => self.multi_get(),
            Deed::Scan => self.scan(),
            Deed::HoldIterator => self.hold_iterator(),
            Deed::TakeSnapshot => self.take_snapshot(),
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
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.tape.below(Label::Workload, bound)
    }

    fn pick_keyspace(&self) -> usize {
        usize::try_from(self.below(self.keyspaces.len() as u64)).expect("a few")
    }

    /// Takes a result apart: `None` for an error that may be.
    fn allow<T>(&self, result: Result<T, Error>) -> Result<Option<T>, Stop> {
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

    fn violate(&self, oracle: &'static str, message: String) -> Stop {
        self.judge.lock().violation.get_or_insert(Violation { oracle, message });
        Stop
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
        let id = self.judge.lock().model.begin(changes);
        let options = WriteOptions { durability: Some(durability) };
        let result = self.db.write(&batch, &options);
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

    fn observe(&self, low: u64, keyspace: usize, sight: Sight) {
        let high = self.db.last_seq().get();
        let keyspace = u32::try_from(keyspace).expect("a few");
        self.judge.lock().observations.push(Observation { low, high, keyspace, sight });
    }

    fn get(&mut self) -> Result<(), Stop> {
        let (keyspace, key) = (self.pick_keyspace(), self.swarm.next_key(&self.tape));
        let low = self.db.last_seq().get();
        let result = self.keyspaces[keyspace].get(&key);
        if let Some(value) = self.allow(result)? {
            self.observe(low, keyspace, Sight::Value(key, value.map(|value| value.to_vec())));
        }
        Ok(())
    }

    fn multi_get(&mut self) -> Result<(), Stop> {
        let keyspace = self.pick_keyspace();
        let keys: Vec<Vec<u8>> = (0..2 + self.below(4)).map(|_| self.swarm.next_key(&self.tape)).collect();
        let low = self.db.last_seq().get();
        let result = self.keyspaces[keyspace].multi_get(&keys);
        if let Some(values) = self.allow(result)? {
            let values = values.into_iter().map(|value| value.map(|value| value.to_vec()));
            self.observe(low, keyspace, Sight::Values(keys.into_iter().zip(values).collect()));
        }
        Ok(())
    }

    fn bounds(&self) -> Bounds {
        let bound = || {
            let key = self.swarm.next_key(&self.tape);
            match self.below(3) {
                0 => Bound::Unbounded,
                1 => Bound::Included(key),
                _ => Bound::Excluded(key),
            }
        };
        (bound(), bound())
    }

    fn scan(&mut self) -> Result<(), Stop> {
        let keyspace = self.pick_keyspace();
        let mut bounds = self.bounds();
        let low = self.db.last_seq().get();
        let result = self.keyspaces[keyspace].range(bounds.clone());
        let Some(mut iter) = self.allow(result)? else { return Ok(()) };
        if self.below(4) == 0 {
            // The front at a key of our own choice: from there on it is a scan with another lower bound.
            let key = self.swarm.next_key(&self.tape);
            if self.allow(iter.seek(&key))?.is_none() {
                return Ok(());
            }
            if !is_before(&self.keyspaces[keyspace], &key, &bounds.0) {
                bounds.0 = Bound::Included(key);
            }
        }
        let limit = if self.below(2) == 0 { u64::MAX } else { 1 + self.below(10) };
        match self.below(3) {
            0 => self.walk(&mut iter, (low, keyspace, bounds), limit, false),
            1 => self.walk(&mut iter, (low, keyspace, bounds), limit, true),
            _ => self.walk_both_ends(iter, low, keyspace, bounds),
        }
    }

    fn walk(
        &self,
        iter: &mut Iter,
        (low, keyspace, bounds): (u64, usize, Bounds),
        limit: u64,
        is_reverse: bool,
    ) -> Result<(), Stop> {
        let mut pairs = Vec::new();
        let mut is_complete = false;
        while (pairs.len() as u64) < limit {
            let item = if is_reverse { iter.next_back() } else { iter.next() };
            let Some(item) = item else {
                is_complete = true;
                break;
            };
            let Some((key, value)) = self.allow(item)? else { return Ok(()) };
            pairs.push((key.to_vec(), value.to_vec()));
        }
        self.observe(low, keyspace, Sight::Pairs { bounds, is_reverse, is_complete, pairs });
        Ok(())
    }

    /// Takes from both ends in turn: together they must be the whole range, once.
    fn walk_both_ends(&self, mut iter: Iter, low: u64, keyspace: usize, bounds: Bounds) -> Result<(), Stop> {
        let (mut front, mut back) = (Vec::new(), Vec::new());
        loop {
            let from_back = self.below(2) == 0;
            let item = if from_back { iter.next_back() } else { iter.next() };
            let Some(item) = item else { break };
            let Some((key, value)) = self.allow(item)? else { return Ok(()) };
            if from_back { &mut back } else { &mut front }.push((key.to_vec(), value.to_vec()));
        }
        back.reverse();
        front.append(&mut back);
        self.observe(
            low,
            keyspace,
            Sight::Pairs { bounds, is_reverse: false, is_complete: true, pairs: front },
        );
        Ok(())
    }

    fn hold_iterator(&mut self) -> Result<(), Stop> {
        if self.iterators.len() < 2 {
            let keyspace = self.pick_keyspace();
            let low = self.db.last_seq().get();
            let result = self.keyspaces[keyspace].iter();
            let Some(iter) = self.allow(result)? else { return Ok(()) };
            let held = Held {
                low,
                high: self.db.last_seq().get(),
                keyspace: u32::try_from(keyspace).expect("a few"),
                pairs: Vec::new(),
            };
            self.iterators.push((iter, held));
            return Ok(());
        }
        let (mut iter, mut held) = self.iterators.remove(0);
        let limit = 1 + self.below(12);
        let mut is_complete = false;
        for _ in 0..limit {
            let Some(item) = iter.next() else {
                is_complete = true;
                break;
            };
            let Some((key, value)) = self.allow(item)? else { return Ok(()) };
            held.pairs.push((key.to_vec(), value.to_vec()));
        }
        let sight = Sight::Pairs {
            bounds: (Bound::Unbounded, Bound::Unbounded),
            is_reverse: false,
            is_complete,
            pairs: held.pairs.clone(),
        };
        let (low, high, keyspace) = (held.low, held.high, held.keyspace);
        self.judge.lock().observations.push(Observation { low, high, keyspace, sight });
        if !is_complete {
            self.iterators.push((iter, held));
        }
        Ok(())
    }

    fn take_snapshot(&mut self) -> Result<(), Stop> {
        if self.snapshots.len() < 3 {
            self.snapshots.push((self.db.snapshot(), Vec::new()));
        }
        Ok(())
    }

    fn read_snapshot(&mut self) -> Result<(), Stop> {
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let at = usize::try_from(self.below(self.snapshots.len() as u64)).expect("a few");
        let (snapshot, keyspace) = (self.snapshots[at].0.clone(), self.pick_keyspace());
        let seq = snapshot.seq().get();
        if self.below(3) == 0 {
            let key = self.swarm.next_key(&self.tape);
            let result = snapshot.get(&self.keyspaces[keyspace], &key);
            let Some(value) = self.allow(result)? else { return Ok(()) };
            self.observe_snapshot(seq, keyspace, Sight::Value(key, value.map(|value| value.to_vec())));
            return Ok(());
        }
        let result = snapshot.iter(&self.keyspaces[keyspace]);
        let Some(iter) = self.allow(result)? else { return Ok(()) };
        let mut content = Content::new();
        let mut pairs = Vec::new();
        for item in iter {
            let Some((key, value)) = self.allow(item)? else { return Ok(()) };
            content.insert(key.to_vec(), value.to_vec());
            pairs.push((key.to_vec(), value.to_vec()));
        }
        let id = u32::try_from(keyspace).expect("a few");
        let seen = &mut self.snapshots[at].1;
        match seen.iter().find(|(keyspace, _)| *keyspace == id) {
            Some((_, before)) if *before != content => {
                let message = format!("the snapshot at {seq} of keyspace {id} changed under its reader");
                return Err(self.violate("frozen snapshot", message));
            }
            Some(_) => {}
            None => seen.push((id, content)),
        }
        let bounds = (Bound::Unbounded, Bound::Unbounded);
        self.observe_snapshot(
            seq,
            keyspace,
            Sight::Pairs { bounds, is_reverse: false, is_complete: true, pairs },
        );
        Ok(())
    }

    fn observe_snapshot(&self, seq: u64, keyspace: usize, sight: Sight) {
        let keyspace = u32::try_from(keyspace).expect("a few");
        self.judge.lock().observations.push(Observation { low: seq, high: seq, keyspace, sight });
    }
}

fn is_reverse_order(keyspace: &Keyspace) -> bool {
    keyspace.options().comparator != tinylsm::base::comparator::BYTEWISE_NAME
}

/// Tells whether a key lies before a lower bound in its keyspace's order.
fn is_before(keyspace: &Keyspace, key: &[u8], lower: &Bound<Vec<u8>>) -> bool {
    let is_less = |bound: &[u8]| if is_reverse_order(keyspace) { key > bound } else { key < bound };
    match lower {
        Bound::Unbounded => false,
        Bound::Included(bound) => is_less(bound),
        Bound::Excluded(bound) => is_less(bound) || key == bound.as_slice(),
    }
}
