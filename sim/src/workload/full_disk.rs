//! A disk that is full: the database opens and can be read, deletes and merges go on, and with space all is well again.

use crate::disk::FaultPlan;
use crate::tape::Label;
use crate::workload::driver::Driver;
use crate::workload::incarnation::{directory_len, files_of};
use crate::workload::judge::{Violation, violation};
use crate::workload::model::CommitId;
use crate::workload::on_disk;
use crate::workload::quiet::names_of;
use crate::workload::recovery::numbered;
use tinylsm::base::limits::manifest_ahead_len;
use tinylsm::{
    Background, Compression, Db, Error, ErrorKind, Keyspace, KeyspaceOptions, SeqNum, WriteOptions,
};

/// Deletes that must go on on a full disk.
const DELETES_COUNT: usize = 8;
/// Keys that are deleted there are no longer than one part of this many of a memtable. What is set aside is so many of
/// these: no reserve takes deletes of any length before a flush and a merge have made space, and a table of one key holds it
/// five times.
const KEY_PART: usize = 32;

/// Puts after which a disk that is not full by then is left alone.
const FILLING_PUTS_MAX: u64 = 80;

/// What the beginning of a log segment takes.
const SEGMENT_HEADER_LEN_BYTES: u64 = 128;

/// More than everything that a run has on its disk.
const PLENTY_BYTES: u64 = 64 << 20;

impl Driver {
    /// Fills the disk with somebody else's file while the database is closed or was left, and uses it all the same.
    pub(in crate::workload) fn meet_full_disk(&mut self) -> Result<(), Violation> {
        let is_fit = !self.is_first && !self.disk.is_off() && self.disk.failures_count() == 0;
        if !is_fit || !self.context.tape.chance(Label::Check, 1, 6) {
            return Ok(());
        }
        self.heal_disk();
        // Opened once on a disk with space, so that what it sets aside is there.
        let db = self.open_on("a disk with space")?;
        self.context.judge_recovery(&db, self.reading())?;
        let settled = db.flush().and_then(|()| db.wait_idle());
        settled.map_err(|error| broken(format!("before it is full, work gives {error:?}")))?;
        let met = self.context.tape.below(Label::Check, 6);
        if met == 0 {
            return self.open_without_space(db);
        }
        db.close().map_err(|error| broken(format!("closing gives {error:?}")))?;
        self.context.judge.lock().note_closed();
        if met <= 3 {
            return self.fill_and_free();
        }
        let used = self.disk.space_used();
        self.disk.set_space(Some(used));
        self.reach("disk full to the last byte");
        let reserve = files_of(&self.disk).into_iter().find(|file| file.name == "RESERVE");
        let used = self.use_full_disk(reserve.map_or(0, |file| file.len));
        self.disk.set_space(None);
        used?;
        self.reach("judged: full disk");
        Ok(())
    }

    fn open_on(&mut self, what: &str) -> Result<Db, Violation> {
        self.failures_before = self.disk.failures_count();
        self.context.judge.lock().model.forget_writers();
        let opened = self.context.builder(&self.disk, self.context.background()).open();
        opened.map_err(|error| broken(format!("on {what} it does not open: {error:?}")))
    }

    fn use_full_disk(&mut self, reserve_len: u64) -> Result<(), Violation> {
        let mut db = self.open_on("a full disk")?;
        self.context.judge_recovery(&db, self.reading())?;
        self.delete_on_full_disk(&db, true)?;
        if self.context.tape.below(Label::Check, 2) == 0 {
            db = self.reopen_full_disk(db)?;
        }
        // With what is given now there is space for the reserve and for as much again, which is what it takes to go on: it
        // follows the tables, and what memory holds.
        let memtable_bytes = self.context.swarm.options.memtable_bytes as u64;
        let space = (64 << 10) + 2 * reserve_len + directory_len(&self.disk) + 3 * memtable_bytes;
        self.disk.add_space(space);
        let mut resumed = db.resume();
        if resumed.as_ref().is_err_and(|error| error.kind() == ErrorKind::NoSpace) {
            // Merges that were cut short count too. With far more than anything here takes there is no excuse.
            self.disk.add_space(PLENTY_BYTES);
            resumed = db.resume();
        }
        resumed.map_err(|error| broken(format!("with some space, resume gives {error:?}")))?;
        let put = self.context.put(&db, "space", "again")?;
        put.map_err(|error| broken(format!("with some space, a put gives {error:?}")))?;
        db.close().map_err(|error| broken(format!("closing gives {error:?}")))?;
        self.context.judge.lock().note_closed();
        Ok(())
    }

    /// Opens the database again on the disk that is still full, and puts what it takes: that leaves the deletes what they
    /// were given.
    fn reopen_full_disk(&mut self, db: Db) -> Result<Db, Violation> {
        db.close().map_err(|error| broken(format!("closing gives {error:?}")))?;
        self.context.judge.lock().note_closed();
        let db = self.open_on("a disk that is still full")?;
        self.context.judge_recovery(&db, self.reading())?;
        // An opening takes of what deletes were given, and with nothing put there is nothing to complain of.
        let mut has_put = false;
        for (id, keyspace) in keyspaces_of(&db)? {
            for number in 0..FILLING_PUTS_MAX {
                let value = format!("{number}.").repeat(100);
                if self.context.put_in(id, &keyspace, "fill", &value)?.is_err() {
                    break;
                }
                has_put = true;
            }
        }
        self.delete_on_full_disk(&db, has_put)?;
        self.reach("reopened on a full disk");
        Ok(db)
    }

    /// Deletes some keys of each keyspace, and has it merged; `is_owed` tells whether there must be space for that.
    fn delete_on_full_disk(&self, db: &Db, is_owed: bool) -> Result<(), Violation> {
        let keyspaces = keyspaces_of(db)?;
        let mut deleted_count = 0;
        for (id, keyspace) in &keyspaces {
            let id = *id;
            let keys: Result<Vec<_>, Error> = keyspace.iter().and_then(Iterator::collect);
            let keys = keys.map_err(|error| broken(format!("a scan gives {error:?}")))?;
            let key_len_max = self.context.swarm.options.memtable_bytes / KEY_PART;
            let short = keys.iter().filter(|(key, _)| key.len() <= key_len_max);
            for (key, _) in short.take(DELETES_COUNT) {
                let is_deleted = self.delete(keyspace, (id, key), is_owed)?;
                self.check_manifest_space()?;
                deleted_count += u64::from(is_deleted);
            }
            if keys.iter().any(|(key, _)| key.len() > key_len_max) {
                // What names such keys in the manifest may take the space of the deletes that come.
                continue;
            }
            // A merge that needs more than was set aside may have to give up, and says so.
            match db.compact_range(keyspace, ..) {
                Err(error) if error.kind() != ErrorKind::NoSpace => {
                    return Err(broken(format!("compact_range gives {error:?}")));
                }
                _ => {}
            }
        }
        self.context.judge.lock().reach_often("deleted on a full disk", deleted_count);
        Ok(())
    }

    /// Cuts the power, and opens the database several times where there is hardly space or none for what an opening writes:
    /// it can be read, and what was begun in vain leaves nothing behind.
    fn open_without_space(&mut self, db: Db) -> Result<(), Violation> {
        self.disk.power_off();
        drop(db);
        self.lose_power("power lost before a full disk");
        self.heal_disk();
        let below = |driver: &Driver, bound| driver.context.tape.below(Label::Check, bound);
        self.disk.set_space(Some(self.disk.space_used() + below(self, 3_000)));
        for _ in 0..1 + below(self, 3) {
            let before = self.disk.space_used();
            let db = self.open_on("a disk without space")?;
            self.context.judge_recovery(&db, self.reading())?;
            let left = self.disk.space_used().saturating_sub(before);
            if self.context.put(&db, "space", "none")?.is_err_and(|error| error.kind() == ErrorKind::ReadOnly)
            {
                // Nothing was established. The beginning of a segment may stay where it took the last byte: its name goes
                // only when another one has been given.
                if left > SEGMENT_HEADER_LEN_BYTES {
                    return Err(broken(format!("an opening that found no space left {left} bytes behind")));
                }
                self.reach("opened without space");
            }
        }
        self.disk.set_space(None);
        self.reach("judged: full disk");
        Ok(())
    }

    /// Fills the disk under the open database, makes space and resumes, again and again; then it is closed, or the power
    /// goes.
    fn fill_and_free(&mut self) -> Result<(), Violation> {
        let db = self.open_on("a disk with space")?;
        self.context.judge_recovery(&db, self.reading())?;
        let keyspaces = keyspaces_of(&db)?;
        let below = |bound| self.context.tape.below(Label::Check, bound);
        if below(2) == 0 {
            self.write_until_sealed(&db, &keyspaces[0].1)?;
        }
        // Once for all rounds: what was written while nobody told of the limit has nothing ahead, also when somebody does.
        let hides_limit = self.context.tape.chance(Label::Check, 1, 4);
        for round in 0..1 + below(3) {
            self.disk.set_faults(FaultPlan { hides_limit, ..FaultPlan::default() });
            // With hardly any, the log is full again before a memtable is.
            let space = *self.context.tape.pick(Label::Check, &[24 << 10, 4 << 10, 1 << 10]);
            match below(4) {
                0 | 1 => self.disk.set_space(Some(self.disk.space_used() + below(space))),
                others => {
                    // Somebody else fills it in the midst of things, and perhaps makes space before anybody asks for it.
                    let changes = 1 + below(40);
                    self.disk.change_space_behind(changes, Some(below(space)));
                    if others == 3 {
                        self.disk.change_space_behind(changes + 1 + below(60), None);
                    }
                }
            }
            let is_full = self.write_until_full(&db, &keyspaces, round)?;
            self.disk.set_space(None);
            db.resume()
                .map_err(|error| broken(format!("with all the space there is, resume gives {error:?}")))?;
            for (id, keyspace) in &keyspaces {
                let put = self.context.put_in(*id, keyspace, "space", "again")?;
                put.map_err(|error| {
                    broken(format!("with all the space there is, a put in {keyspace:?} gives {error:?}"))
                })?;
            }
            if is_full {
                self.reach("filled and freed while open");
            }
        }
        if below(2) == 0 {
            self.settle(&db)?;
            self.reach("settled behind a full disk");
        }
        if below(2) == 0 {
            db.close().map_err(|error| broken(format!("closing gives {error:?}")))?;
            self.context.judge.lock().note_closed();
        } else {
            self.disk.power_off();
            drop((keyspaces, db));
            self.lose_power("power lost behind a full disk");
            self.heal_disk();
        }
        self.reach("judged: full disk");
        Ok(())
    }

    /// Puts until a memtable is sealed; where callers run the jobs, it waits for its flush from then on.
    fn write_until_sealed(&self, db: &Db, keyspace: &Keyspace) -> Result<(), Violation> {
        for number in 0..FILLING_PUTS_MAX {
            let put = self.context.put_in(0, keyspace, "seal", &format!("{number}.").repeat(100))?;
            match put {
                Ok(()) if db.stats().sealed_memtables == 0 => {}
                Ok(()) => break,
                // Nobody flushes what is sealed.
                Err(error) if error.kind() == ErrorKind::Busy => break,
                Err(error) => {
                    return Err(broken(format!("with all the space there is, a put gives {error:?}")));
                }
            }
        }
        Ok(())
    }

    /// Checks that some space is left behind the manifest's end for the small edits that make space on a full disk.
    fn check_manifest_space(&self) -> Result<(), Violation> {
        let seen = on_disk::manifest_space(&files_of(&self.disk));
        let seen = seen.map_err(|error| broken(format!("the manifest is unreadable: {error:?}")))?;
        let ahead_len = manifest_ahead_len(self.context.swarm.options.manifest_roll_bytes);
        match seen {
            // Where the disk refuses to allocate and says that it has space, an edit is written as the disk takes it.
            Some(space)
                if space.is_behind_large_edit && !self.disk.hides_limit() && space.len_bytes < ahead_len =>
            {
                Err(broken(format!(
                    "the manifest has {} bytes left, and should have {ahead_len}",
                    space.len_bytes
                )))
            }
            _ => Ok(()),
        }
    }

    /// Puts until the disk is full, and deletes some keys there now and then; tells whether it came to that.
    fn write_until_full(
        &self,
        db: &Db,
        keyspaces: &[(u32, Keyspace)],
        round: u64,
    ) -> Result<bool, Violation> {
        let below = |bound| self.context.tape.below(Label::Check, bound);
        let index = |bound: usize| usize::try_from(below(bound as u64)).expect("below a usize");
        // Small tables may pile up in one keyspace, whose merges find no space long before its flushes.
        let piled = (below(4) == 0).then(|| index(keyspaces.len()));
        for number in 0..FILLING_PUTS_MAX {
            let at = piled.unwrap_or_else(|| index(keyspaces.len()));
            let (id, keyspace) = (keyspaces[at].0, &keyspaces[at].1);
            let worked = match below(16) {
                _ if piled.is_some() => db.flush(),
                0 => db.flush(),
                1 => db.compact_range(keyspace, ..),
                _ => Ok(()),
            };
            let key = format!("fill{}", below(8));
            let value = format!("{round}.{number}.").repeat(1 + index(100));
            let put = self.context.put_in(id, keyspace, &key, &value)?;
            match worked.and(put) {
                Ok(()) => {}
                Err(error) if self.is_full(&error) => {
                    self.check_manifest_space()?;
                    for _ in 0..below(4) {
                        self.delete(keyspace, (id, format!("fill{}", below(8)).as_bytes()), true)?;
                    }
                    return Ok(true);
                }
                Err(error) => return Err(broken(format!("while it fills up, a write gives {error:?}"))),
            }
        }
        Ok(false)
    }

    /// Tells whether an error is one that a write may meet on a full disk: its own, or that of an earlier one. Whoever
    /// waits for a flush or merge that finds no space is told so at once, unless nobody does the work.
    fn is_full(&self, error: &Error) -> bool {
        let is_manual = matches!(self.context.background(), Background::Manual);
        match error.kind() {
            ErrorKind::NoSpace | ErrorKind::ReadOnly => true,
            ErrorKind::Busy => is_manual,
            _ => false,
        }
    }

    /// Deletes a key, which a full disk does not hinder if space `is_owed`; tells whether it is deleted.
    fn delete(&self, keyspace: &Keyspace, (id, key): (u32, &[u8]), is_owed: bool) -> Result<bool, Violation> {
        let commit = self.context.judge.lock().model.begin(vec![((id, key.to_vec()), None)]);
        let result = keyspace.delete_with(key, WriteOptions::disk());
        self.note_delete(commit, &result)?;
        match result {
            Ok(_) => Ok(true),
            Err(error) if !is_owed && matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::ReadOnly) => {
                Ok(false)
            }
            Err(error) => Err(broken(format!("a delete in {keyspace:?} gives {error:?}"))),
        }
    }

    fn note_delete(&self, commit: CommitId, result: &Result<SeqNum, Error>) -> Result<(), Violation> {
        let mut judge = self.context.judge.lock();
        let noted = match result {
            Ok(seq) => judge.model.commit(commit, seq.get()),
            Err(error) if error.kind() == ErrorKind::ReadOnly => judge.model.cancel(commit),
            Err(_) => Ok(()),
        };
        noted.map_err(|message| violation("sequence numbers", message))
    }

    /// Opens the database with other options for its default keyspace: they are applied, or refused.
    pub(in crate::workload) fn reopen_with_other_options(&mut self) -> Result<(), Violation> {
        if self.is_first || self.disk.is_off() {
            return Ok(());
        }
        let mut options = self.context.swarm.options.clone();
        let mut asked = crate::workload::swarm::draw_keyspace(&self.context.tape);
        let own = self.context.judge.lock().keyspaces.get(&0).map(|known| known.options.clone());
        let Some(own) = own else { return Ok(()) };
        let is_same_order = self.context.tape.chance(Label::Check, 1, 2);
        if is_same_order {
            asked.comparator.clone_from(&own.comparator);
        }
        options.default_keyspace = Some(asked.clone());
        let before = names_of(&self.disk);
        let builder = self.context.builder(&self.disk, self.context.background());
        match builder.options(options).open() {
            Ok(db) if *db.default_keyspace().options() == asked => {
                // The next opening asks for the old ones again.
                self.reach("judged: other options applied");
                db.close().map_err(|error| violation("options", format!("closing gives {error:?}")))?;
                if packing_of(&asked) != packing_of(&own) {
                    let is_new = |name: &String| name.ends_with(".sst") && !before.contains(name);
                    self.packed_otherwise = names_of(&self.disk).into_iter().filter(is_new).collect();
                }
                Ok(())
            }
            Ok(db) => {
                let got = db.default_keyspace().options().clone();
                Err(violation("options", format!("asked for {asked:?}, got {got:?} and no error")))
            }
            Err(error) if asked.comparator != own.comparator && is_refusal(&error) => {
                self.reach("judged: other comparator refused");
                Ok(())
            }
            Err(error) => Err(violation("options", format!("other options give {error:?}"))),
        }
    }
}

/// Returns what decides how many bytes the same entries take in a table.
fn packing_of(options: &KeyspaceOptions) -> (Compression, usize, u8) {
    (options.compression, options.block_bytes, options.filter_bits_per_key)
}

fn keyspaces_of(db: &Db) -> Result<Vec<(u32, Keyspace)>, Violation> {
    let handle = |(id, name): (u32, String)| Ok((id, db.keyspace(&name)?));
    let keyspaces: Result<_, Error> = numbered(db).into_iter().map(handle).collect();
    keyspaces.map_err(|error| broken(format!("a keyspace gives {error:?}")))
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Incompatible | ErrorKind::InvalidArgument)
}

fn broken(message: String) -> Violation {
    violation("full disk", message)
}
