//! What others do to a database while it is open: an operator moves its directory or removes its lock file, its process
//! forks. Whatever that leads to, it is an error or nothing, and never harm to another database.

use crate::disk::SimDisk;
use crate::schedule;
use crate::tape::Label;
use crate::workload::client::DIRECTORY;
use crate::workload::driver::Driver;
use crate::workload::incarnation::start;
use crate::workload::judge::{Violation, violation};
use crate::workload::ownership::Ownership;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use tinylsm::vfs::Vfs;
use tinylsm::{Background, Db, Error, ErrorKind, Options, WriteOptions};

/// A call and what it gave.
type Answer = (&'static str, Result<(), Error>);

/// The event of a lock file that an operator removed under an open database.
pub const LOCK_FILE_REMOVED: &str = "lock file removed";

/// Where the operator puts the directory.
const MOVED: &str = "/moved";

/// Where the database goes that was made in its place, when it is moved back.
const ASIDE: &str = "/aside";

/// The number of a forked child's process.
const CHILD: u32 = 2;

impl Driver {
    /// Lets something happen to the open database now and then, while no client uses it and nothing has failed. Tells
    /// whether the database is still the handle's.
    pub(in crate::workload) fn meet_others(&mut self, db: &Db) -> Result<bool, Violation> {
        let met = self.context.tape.below(Label::Fault, 60);
        if met < 57 {
            return Ok(true);
        }
        // None of these is to be cut short.
        self.mend_disk();
        self.disk.power_off_after(u64::MAX);
        match met {
            57 => self.fork(db)?,
            58 => self.move_directory(db)?,
            _ => self.remove_lock(db)?,
        }
        Ok(met != 59)
    }

    /// Uses every handle in a forked child: each call is an error at once and changes nothing, and so does dropping.
    fn fork(&mut self, db: &Db) -> Result<(), Violation> {
        self.reach("forked");
        let (child_db, keyspace) = (db.clone(), db.default_keyspace().clone());
        // A fork copies handles; here parent and child share them, and the parent's is to be the last.
        let parents = db.snapshot();
        let snapshot = parents.clone();
        let fault = |error: Error| violation("forked child", format!("before it, a scan gives {error:?}"));
        let mut iter = keyspace.iter().map_err(fault)?;
        let answers: Arc<Mutex<Vec<Answer>>> = Arc::default();
        let told = Arc::clone(&answers);
        let child = start("child", move || {
            schedule::enter_process(CHILD);
            let options = WriteOptions::disk();
            let calls = [
                ("put", keyspace.put_with("child", "never", options).map(drop)),
                ("delete", keyspace.delete_with("rest", options).map(drop)),
                ("get", keyspace.get("child").map(drop)),
                ("scan", keyspace.iter().map(drop)),
                ("snapshot get", snapshot.keyspace(&keyspace).get("child").map(drop)),
                ("snapshot of its own", child_db.snapshot().keyspace(&keyspace).get("child").map(drop)),
                ("next", iter.next().map_or(Ok(()), |item| item.map(drop))),
                ("seek", iter.seek("child")),
                ("verify", child_db.verify().map(drop)),
                ("background_error", child_db.background_error().map_or(Ok(()), Err)),
                ("sync", child_db.sync()),
                ("flush", child_db.flush()),
                ("compact_range", child_db.compact_range(&keyspace, ..)),
                ("wait_idle", child_db.wait_idle()),
                ("resume", child_db.resume()),
                ("background_step", child_db.background_step().map(drop)),
                ("create_keyspace", child_db.create_keyspace("child", Default::default()).map(drop)),
            ];
            drop((snapshot, keyspace, iter));
            drop(child_db.stats());
            let closed = child_db.close();
            told.lock().extend(calls.into_iter().chain([("close", closed)]));
        })?;
        if !child.join() {
            return Err(violation("forked child", "it panicked".to_owned()));
        }
        drop(parents);
        for (call, answer) in answers.lock().iter() {
            if answer.is_ok() {
                return Err(violation("forked child", format!("{call} is no error")));
            }
        }
        self.reach("judged: forked child");
        // The parent has noticed nothing.
        let put = match self.context.put(db, "parent", "yes")? {
            // That the disk is full may be known from before.
            Err(error) if error.kind() == ErrorKind::NoSpace => db.resume(),
            put => put,
        };
        put.map_err(|error| violation("forked child", format!("then a put of the parent gives {error:?}")))
    }

    /// Moves the directory away, and makes another database in its place: neither touches the other.
    fn move_directory(&mut self, db: &Db) -> Result<(), Violation> {
        let fault =
            |what: &str, error: Error| violation("moved directory", format!("{what} gives {error:?}"));
        let (own, moved) = (Path::new(DIRECTORY), Path::new(MOVED));
        self.asides_count += 1;
        let aside = format!("{ASIDE}-{}", self.asides_count);
        self.disk.move_dir(own, moved).map_err(|error| fault("moving", error))?;
        self.reach("directory moved");
        let stranger =
            self.open_in_place(&self.disk.foreign()).map_err(|error| fault("another open", error))?;
        stranger.put("mine", "a stranger's").map_err(|error| fault("another put", error))?;
        // The handle goes on in the directory that it holds, or says that it cannot.
        let put = self.context.put(db, "moved", "yes")?;
        let flushed = db.flush();
        schedule::note(|| format!("in a moved directory put gives {put:?}, flush {flushed:?}"));
        let content: Result<Vec<_>, Error> = stranger.iter().and_then(Iterator::collect);
        let is_right = |pairs: &[(tinylsm::Slice, tinylsm::Slice)]| matches!(pairs, [(key, value)] if &**key == b"mine" && &**value == b"a stranger's");
        match content {
            Ok(content) if is_right(&content) => {}
            other => {
                let message = format!("the database in the old place holds {other:?}");
                return Err(violation("moved directory", message));
            }
        }
        stranger.verify().map_err(|error| fault("another verify", error))?;
        stranger.close().map_err(|error| fault("another close", error))?;
        self.disk.move_dir(own, Path::new(&aside)).map_err(|error| fault("moving aside", error))?;
        self.disk.move_dir(moved, own).map_err(|error| fault("moving back", error))?;
        // No later crash undoes it.
        self.disk.sync_dir(Path::new("/")).map_err(|error| fault("syncing", error))?;
        self.reach("judged: moved directory");
        Ok(())
    }

    /// Opens the database that another process has in place of this one.
    fn open_in_place(&self, disk: &SimDisk) -> Result<Db, Error> {
        let options = Options::default().memtable_bytes(4 << 10).wal_preallocate_bytes(0);
        let ownership = Ownership::on_copy(disk, &self.context);
        Db::builder(DIRECTORY).vfs(ownership).options(options).background(Background::Manual).open()
    }

    /// Removes the lock file, so that another process can open the database: from then on the first one has lost it.
    fn remove_lock(&mut self, db: &Db) -> Result<(), Violation> {
        let fault = |what: &str, error: Error| violation("removed lock", format!("{what} gives {error:?}"));
        // What waits in memory is nobody's loss then.
        db.sync().map_err(|error| fault("sync", error))?;
        let lock = Path::new(DIRECTORY).join("LOCK");
        self.disk.take_away(&lock).map_err(|error| fault("removing", error))?;
        self.reach(LOCK_FILE_REMOVED);
        let foreign = self.disk.foreign();
        let second = self.context.copy_builder(&foreign, Background::Manual).open();
        let second = second.map_err(|error| fault("a second opening", error))?;
        let put = db.default_keyspace().put_with("lost", "never", WriteOptions::disk());
        if put.is_ok() {
            return Err(violation("removed lock", "a put of the first handle is no error".to_owned()));
        }
        let ended = [db.flush(), db.sync(), db.wait_idle()];
        schedule::note(|| format!("without the lock: {ended:?}"));
        self.context.judge_recovery(&second, self.reading())?;
        let put = self.context.put(&second, "second", "yes")?;
        put.map_err(|error| fault("a put of the second", error))?;
        second.verify().map_err(|error| fault("verify of the second", error))?;
        second.close().map_err(|error| fault("close of the second", error))?;
        self.context.judge.lock().note_closed();
        self.reach("judged: removed lock");
        Ok(())
    }
}
