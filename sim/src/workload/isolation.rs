//! A failure stays where it is: a damaged file of one keyspace keeps nobody from using the others.

use crate::workload::damage::Damaged;
use crate::workload::judge::Violation;
use std::collections::BTreeMap;
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::{Background, Db, Error, Keyspace, Slice};

/// Rounds of writing and flushing, beyond the number of tables on level 0 at which writes wait.
const ROUNDS_BEYOND_STOP: usize = 3;

/// No call on an undamaged keyspace takes longer, in nanoseconds of virtual time: longer than any pause of a failing job
/// would make it, shorter than a stalled writer waits.
const CALL_NS_MAX: u64 = 120_000_000_000;

/// Longer than any failed job is left alone.
const LONGER_THAN_PARKED: Duration = Duration::from_secs(900);

/// Using a database one of whose files is damaged.
pub(in crate::workload) struct Isolation<'a> {
    damaged: &'a Damaged<'a>,
    /// What the undamaged keyspaces hold, by name.
    content: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl<'a> Isolation<'a> {
    pub(in crate::workload) fn new(damaged: &'a Damaged<'a>) -> Isolation<'a> {
        Isolation { damaged, content: BTreeMap::new() }
    }

    /// Opens the copy to be written, uses it, closes it and reads it again.
    ///
    /// # Errors
    /// The broken invariant.
    pub(in crate::workload) fn judge(mut self) -> Result<(), Violation> {
        let Some(db) = self.open()? else { return Ok(()) };
        let damaged = self.damaged;
        damaged.judge_content(&db)?;
        self.note_content(&db)?;
        self.write_beyond_thresholds(&db)?;
        self.judge_errors(&db)?;
        self.judge_undamaged(&db)?;
        damaged.context.reach("judged: isolation");
        // Whether it closes without an error depends on what is damaged; that it ends does not.
        drop(self.call("close", || db.close())?);
        let Some(db) = self.open()? else {
            return Err(self.broken("a database that could be opened cannot be opened again"));
        };
        self.judge_undamaged(&db)
    }

    fn broken(&self, what: &str) -> Violation {
        self.damaged.broken("isolation", what)
    }

    /// Opens it, in parts if it does not open as a whole. `None` if the damage is of a kind that forbids both.
    fn open(&self) -> Result<Option<Db>, Violation> {
        let damaged = self.damaged;
        let builder = || damaged.context.copy_builder(&damaged.copy, Background::Threads(2));
        match builder().open() {
            Ok(db) => return Ok(Some(db)),
            Err(error) if damaged.may_refuse(&error) => {}
            Err(error) => return Err(self.broken(&format!("open gives {error:?}"))),
        }
        match builder().degraded(true).open() {
            Ok(db) => {
                damaged.context.reach("opened degraded");
                if db.background_errors().iter().any(|told| damaged.may_refuse(&told.error)) {
                    return Ok(Some(db));
                }
                Err(self.broken(&format!("opened degraded, it tells {:?}", db.background_errors())))
            }
            Err(error) if damaged.keyspace.is_none() && damaged.may_refuse(&error) => Ok(None),
            Err(error) => Err(self.broken(&format!("open degraded gives {error:?}"))),
        }
    }

    /// Makes a call that may fail, and judges how long it takes.
    fn call<T>(&self, name: &str, call: impl FnOnce() -> T) -> Result<T, Violation> {
        let disk = &self.damaged.copy;
        let began_ns = disk.now();
        let result = call();
        let took_ns = disk.now() - began_ns;
        if took_ns > CALL_NS_MAX {
            return Err(self.broken(&format!("{name} took {} virtual seconds", took_ns / 1_000_000_000)));
        }
        Ok(result)
    }

    fn undamaged(&self, db: &Db) -> Vec<Keyspace> {
        let names = self.damaged.keyspaces().into_iter();
        let others = names.filter(|(id, _, _)| Some(*id) != self.damaged.keyspace);
        others.filter_map(|(_, name, _)| db.keyspace(&name).ok()).collect()
    }

    fn note_content(&mut self, db: &Db) -> Result<(), Violation> {
        for keyspace in self.undamaged(db) {
            let pairs: Result<Vec<(Slice, Slice)>, Error> = keyspace.iter().and_then(Iterator::collect);
            let pairs = pairs.map_err(|error| self.broken(&format!("{keyspace:?} gives {error:?}")))?;
            let content = pairs.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
            self.content.insert(keyspace.name(), content);
        }
        Ok(())
    }

    /// Writes to the undamaged keyspaces until every threshold that makes writers wait is crossed.
    fn write_beyond_thresholds(&mut self, db: &Db) -> Result<(), Violation> {
        let others = self.undamaged(db);
        let rounds_count = self.damaged.context.swarm.options.level0_stop + ROUNDS_BEYOND_STOP;
        if let Some((_, name, _)) =
            self.damaged.keyspaces().into_iter().find(|(id, _, _)| Some(*id) == self.damaged.keyspace)
            && let Ok(keyspace) = db.keyspace(&name)
        {
            // Makes merges due in the damaged keyspace; what becomes of them is told, and hinders nobody.
            for round in 0..rounds_count.min(6) {
                drop(self.call("put", || keyspace.put(format!("isolated-{round}"), "x"))?);
                drop(self.call("flush", || db.flush())?);
            }
            drop(self.call("compact_range", || db.compact_range(&keyspace, ..))?);
        }
        for round in 0..rounds_count {
            for keyspace in &others {
                let (key, value) = (format!("isolated-{}", round % 5), format!("{round} in {keyspace:?}"));
                let put = self.call("put", || keyspace.put(&key, &value))?;
                put.map_err(|error| self.broken(&format!("a put into {keyspace:?} gives {error:?}")))?;
                let content = self.content.entry(keyspace.name()).or_default();
                content.insert(key.into_bytes(), value.into_bytes());
            }
            let flushed = self.call("flush", || db.flush())?;
            flushed.map_err(|error| self.broken(&format!("a flush gives {error:?}")))?;
        }
        for keyspace in &others {
            let compacted = self.call("compact_range", || db.compact_range(keyspace, ..))?;
            compacted
                .map_err(|error| self.broken(&format!("compact_range of {keyspace:?} gives {error:?}")))?;
        }
        Ok(())
    }

    /// Judges what is told of failures: what fails for the damage is told for as long as it fails.
    fn judge_errors(&self, db: &Db) -> Result<(), Violation> {
        let Some(damaged_id) = self.damaged.keyspace else { return Ok(()) };
        let Some((_, name, _)) = self.damaged.keyspaces().into_iter().find(|(id, _, _)| *id == damaged_id)
        else {
            return Ok(());
        };
        let Ok(keyspace) = db.keyspace(&name) else { return Ok(()) };
        let merged = self.call("compact_range", || db.compact_range(&keyspace, ..))?;
        match merged {
            Err(error) if self.damaged.is_named(&error) => {
                // Work of others goes well meanwhile.
                drop(self.call("put", || db.put("told", "yes"))?);
                drop(self.call("flush", || db.flush())?);
                self.judge_told(db, "a merge fails for it")?;
                // Other merges of the keyspace may go well, and a merge may have nothing to do any more.
                for number in 0..3 {
                    let key = format!("isolated-{number}");
                    drop(self.call("compact_range", || db.compact_range(&keyspace, &*key..=&*key))?);
                }
                self.judge_told(db, "other merges of its keyspace were done")?;
                self.damaged.copy.sleep(LONGER_THAN_PARKED);
                drop(self.call("wait_idle", || db.wait_idle())?);
                self.judge_told(db, "a quarter of an hour has gone by")?;
                self.damaged.context.reach("judged: background_error of damage");
                Ok(())
            }
            // A merge that has no need of what is damaged may succeed.
            Ok(()) => Ok(()),
            Err(error) => Err(self.broken(&format!("compact_range of the damaged keyspace gives {error:?}"))),
        }
    }

    fn judge_told(&self, db: &Db, since: &str) -> Result<(), Violation> {
        let told = db.background_errors();
        if told.iter().any(|told| self.damaged.is_named(&told.error)) {
            return Ok(());
        }
        Err(self.broken(&format!("{since}, and told is {told:?}")))
    }

    fn judge_undamaged(&self, db: &Db) -> Result<(), Violation> {
        for keyspace in self.undamaged(db) {
            let Some(content) = self.content.get(&keyspace.name()) else { continue };
            let pairs: Result<BTreeMap<Slice, Slice>, Error> = keyspace.iter().and_then(Iterator::collect);
            let pairs = pairs.map_err(|error| self.broken(&format!("{keyspace:?} gives {error:?}")))?;
            // The default keyspace may have got one key more, to see a flush go well.
            let found = pairs.iter().filter(|(key, _)| &***key != b"told");
            let found: Vec<(&[u8], &[u8])> = found.map(|(key, value)| (&**key, &**value)).collect();
            let expected: Vec<(&[u8], &[u8])> =
                content.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
            if found != expected {
                return Err(self.broken(&format!("{keyspace:?} does not hold what was written to it")));
            }
        }
        Ok(())
    }
}
