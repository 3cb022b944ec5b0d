//! What was recovered, read in full and compared with the model.

use crate::disk::SimDisk;
use crate::workload::client::is_final;
use crate::workload::endings::is_writing_off;
use crate::workload::judge::{Context, Fate, KnownKeyspace, KnownKeyspaces, Violation, violation};
use crate::workload::model::{Contents, Pairs};
use crate::workload::oracle;
use crate::workload::orders::Order;
use std::collections::{BTreeMap, BTreeSet};
use tinylsm::{Db, Error, ErrorKind, Keyspace, WriteOptions};

/// Reads of a keyspace that injected errors may spoil in a row: the disk says that they pass.
const READS_MAX: u32 = 20;

/// How a database on a disk is read.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// The disk.
    pub disk: &'a SimDisk,
    /// Operations of the disk that had failed when the database was opened; later ones excuse an error.
    pub failures_before: u64,
}

impl Reading<'_> {
    fn has_cause(&self) -> bool {
        self.disk.failures_count() > self.failures_before
    }

    /// Reads everything, both ways and key by key. The keyspaces `owed` are there for sure.
    ///
    /// # Errors
    /// What contradicts itself or cannot be read.
    pub fn read_all(&self, db: &Db, owed: &BTreeSet<u32>) -> Result<(u64, Contents), Violation> {
        let seq = db.last_seq().get();
        let mut contents: Contents = owed.iter().map(|id| (*id, Pairs::new())).collect();
        for (id, name) in numbered(db) {
            let keyspace = db.keyspace(&name).map_err(|error| unreadable(&error))?;
            contents.insert(id, self.read_keyspace(&keyspace)?);
        }
        Ok((seq, contents))
    }

    fn read_keyspace(&self, keyspace: &Keyspace) -> Result<Pairs, Violation> {
        for _ in 0..READS_MAX {
            let forwards: Result<Pairs, _> = keyspace.iter().map_err(|e| unreadable(&e))?.collect();
            let backwards: Result<Pairs, _> = keyspace.iter().map_err(|e| unreadable(&e))?.rev().collect();
            let (forwards, backwards) = match (forwards, backwards) {
                (Ok(forwards), Ok(backwards)) => (forwards, backwards),
                (Err(error), _) | (_, Err(error)) => {
                    if self.has_cause() && is_passing(&error) && !self.disk.is_off() {
                        if error.kind() == ErrorKind::Exhausted {
                            // Who judges needs descriptors as well.
                            self.disk.set_descriptors(None);
                        }
                        continue;
                    }
                    return Err(unreadable(&error));
                }
            };
            if !forwards.iter().rev().eq(&backwards) {
                let message = "a scan backwards is not the scan forwards reversed".to_owned();
                return Err(violation("both ways", message));
            }
            for (key, value) in forwards.iter().step_by(3) {
                match keyspace.get(key) {
                    Ok(found) if found.as_ref() == Some(value) => {}
                    Ok(found) => {
                        let message = format!("get of {key:?} gives {found:?}, the scan gave {value:?}");
                        return Err(violation("get and scan", message));
                    }
                    Err(error) if self.has_cause() && is_passing(&error) => {}
                    Err(error) => return Err(unreadable(&error)),
                }
            }
            return Ok(in_bytewise_order(keyspace, forwards));
        }
        Err(violation("recovery", format!("{READS_MAX} reads in a row of {keyspace:?} have failed")))
    }
}

/// Returns the keyspaces of a database with their numbers.
pub fn numbered(db: &Db) -> Vec<(u32, String)> {
    db.stats().keyspaces.into_iter().map(|keyspace| (keyspace.id, keyspace.name)).collect()
}

/// Tells whether a read may do better at the next attempt.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::Exhausted)
}

fn in_bytewise_order(keyspace: &Keyspace, mut pairs: Pairs) -> Pairs {
    match Order::of(keyspace.options()) {
        Order::Bytewise => {}
        Order::Reverse => pairs.reverse(),
        Order::LengthFirst => pairs.sort_by(|a, b| a.0.cmp(&b.0)),
    }
    pairs
}

/// An error where none may be.
pub fn unreadable(error: &Error) -> Violation {
    violation("recovery", format!("a recovered database cannot be read: {error:?}"))
}

/// Checks that everything owed is there.
///
/// # Errors
/// What is missing.
pub fn check_floor(seq: u64, floor: u64) -> Result<(), Violation> {
    if seq >= floor {
        return Ok(());
    }
    let message = format!("recovered to number {seq}, but {floor} was acknowledged as durable");
    Err(violation("durability", message))
}

impl Context {
    /// Compares what was recovered with the model, goes on with what that decided, and begins an incarnation.
    ///
    /// # Errors
    /// The broken invariant.
    pub fn judge_recovery(&self, db: &Db, reading: Reading<'_>) -> Result<(), Violation> {
        let owed = self.judge.lock().owed();
        let (seq, contents) = reading.read_all(db, &owed)?;
        self.judge_observations()?;
        self.check_keyspaces(db)?;
        let is_writing_off = is_writing_off(db);
        let mut judge = self.judge.lock();
        let model = &mut judge.model;
        // A failed sync may take back what the system had accepted, so only synced commits are owed then.
        let has_failed = reading.disk.failures_count() > 0;
        let floor = if has_failed { model.durable_floor } else { model.process_floor };
        check_floor(seq, floor)?;
        if is_writing_off {
            // On a full disk it is only read, and may lose again what nobody had synced.
            model.cut(seq, &contents).map_err(|message| violation("exact prefix", message))?;
            judge.reach("recovered on a disk too full to write");
            judge.begin_incarnation();
            return Ok(());
        }
        model.settle(seq, &contents).map_err(|message| violation("exact prefix", message))?;
        // What was recovered is durable when the database is open.
        model.durable_floor = seq;
        model.process_floor = seq;
        judge.reach("judged: recovery");
        judge.begin_incarnation();
        Ok(())
    }

    /// Checks that every keyspace that was created is there and none that was dropped, and notes those of which nobody
    /// knew, and what became of those in doubt.
    ///
    /// # Errors
    /// What is there instead.
    pub fn check_keyspaces(&self, db: &Db) -> Result<(), Violation> {
        let mut found = KnownKeyspaces::new();
        // Whether it was made durable; that a job has failed says nothing about that.
        let has_established = !is_writing_off(db);
        for (id, name) in numbered(db) {
            let keyspace = db.keyspace(&name).map_err(|error| unreadable(&error))?;
            found.insert(id, KnownKeyspace::new(name, keyspace.options().clone(), has_established));
        }
        let mut judge = self.judge.lock();
        for (id, known) in &judge.keyspaces {
            let is_right = match (&known.fate, found.get(id)) {
                (Fate::Dropped, found) => found.is_none(),
                (_, None) => !known.is_owed(),
                (Fate::Renaming(other), Some(found)) => {
                    (found.name == known.name || found.name == *other) && found.options == known.options
                }
                (_, Some(found)) => {
                    !known.is_sure || (found.name == known.name && found.options == known.options)
                }
            };
            if !is_right {
                let message = format!("keyspace {id} is known as {known:?}, recovered are {found:?}");
                return Err(violation("keyspaces", message));
            }
        }
        let highest_gone = judge.gone().last().copied();
        let is_new = |id: &u32| !judge.keyspaces.contains_key(id);
        if let Some(id) = found.keys().find(|id| is_new(id) && highest_gone.is_some_and(|gone| **id < gone)) {
            let message = format!("keyspace {id} is new, but {highest_gone:?} was given out before");
            return Err(violation("keyspaces", message));
        }
        // One whose edit may not be durable, found by an opening that made nothing durable, may be gone with the power, and
        // so may what became of one in doubt; unless another one has its name by now, which was given behind that.
        let names: BTreeMap<String, u32> =
            found.iter().map(|(id, found)| (found.name.clone(), *id)).collect();
        let mut keyspaces = KnownKeyspaces::new();
        for (id, known) in &judge.keyspaces {
            let is_decided = has_established || names.get(&known.name).is_some_and(|named| named != id);
            match (found.remove(id), &known.fate) {
                (None, Fate::Dropping) if is_decided => {
                    keyspaces.insert(*id, KnownKeyspace { fate: Fate::Dropped, ..known.clone() });
                }
                (None, Fate::There | Fate::Renaming(_)) => {}
                (Some(found), _) if is_decided => {
                    keyspaces.insert(*id, KnownKeyspace { is_sure: true, ..found });
                }
                (_, _) => drop(keyspaces.insert(*id, known.clone())),
            }
        }
        keyspaces.extend(found);
        judge.keyspaces = keyspaces;
        Ok(())
    }

    /// Judges what was seen so far in this incarnation.
    ///
    /// # Errors
    /// The broken invariant.
    pub fn judge_observations(&self) -> Result<(), Violation> {
        let mut judge = self.judge.lock();
        if let Some(violation) = judge.violation.clone() {
            return Err(violation);
        }
        let observations = std::mem::take(&mut judge.observations);
        let covered = judge.model.covered();
        let (mut judged_count, mut left_count) = (0, 0);
        for observation in &observations {
            // A commit in doubt may have been seen, and which number it has nobody knows.
            if observation.high > covered {
                left_count += 1;
                continue;
            }
            judged_count += 1;
            let order = Order::of(&judge.keyspaces[&observation.keyspace].options);
            oracle::judge(&judge.model, observation, order)?;
        }
        judge.reach_often("read judged", judged_count);
        judge.reach_often("read not judged", left_count);
        Ok(())
    }

    /// Puts a key of the default keyspace durably, and notes it in the model. The inner result is the call's.
    ///
    /// # Errors
    /// The broken invariant.
    pub fn put(&self, db: &Db, key: &str, value: &str) -> Result<Result<(), Error>, Violation> {
        self.put_in(0, db.default_keyspace(), key, value)
    }

    /// As [`Context::put`], in the keyspace with this id.
    ///
    /// # Errors
    /// Sequence numbers that cannot be.
    pub fn put_in(
        &self,
        id: u32,
        keyspace: &Keyspace,
        key: &str,
        value: &str,
    ) -> Result<Result<(), Error>, Violation> {
        let change = ((id, key.as_bytes().to_vec()), Some(value.as_bytes().to_vec()));
        let id = self.judge.lock().model.begin(vec![change]);
        let result = keyspace.put_with(key, value, WriteOptions::disk());
        let mut judge = self.judge.lock();
        let model = &mut judge.model;
        match &result {
            Ok(seq) => {
                let seq = seq.get();
                model.commit(id, seq).map_err(|message| violation("sequence numbers", message))?;
                model.durable_floor = model.durable_floor.max(seq);
                model.process_floor = model.process_floor.max(seq);
            }
            Err(error) if is_final(error) => {
                model.cancel(id).map_err(|message| violation("sequence numbers", message))?;
            }
            // Whether it is there only a recovery will tell.
            Err(_) => {}
        }
        Ok(result.map(drop))
    }
}
