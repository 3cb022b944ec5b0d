//! The database: handles, opening, writing, background jobs.
//!
//! Owns what ties the modules below together: which memtable belongs to which WAL segment, which tables make up what
//! readers see, who may write now, what happens after a failure. `state.rs` says what there is and in which order
//! it is locked. One owner each for what goes wrong most easily: `ends.rs` for the phases from opening to closed, `board.rs`
//! for which background job may run, `files.rs` for the life of every file, `directory.rs` for the directory itself.
//! `opening.rs` and `establish.rs` say how a database comes to be, `writing.rs`, `jobs.rs` and `waiting.rs` how it changes,
//! `closing.rs` how it ends.

pub mod batch;
pub mod builder;
pub mod iter;
pub mod keyspace;
pub mod options;
pub mod range;
pub mod runtime;
pub mod snapshot;
pub mod stats;

mod board;
mod closing;
mod directory;
mod ends;
mod establish;
mod files;
mod jobs;
mod opening;
mod reserve;
mod state;
mod told;
mod waiting;
mod writing;

use crate::base::comparator::KeyOrder;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::base::time::UnixMillis;
use crate::db::batch::WriteBatch;
use crate::db::builder::DbBuilder;
use crate::db::iter::Iter;
use crate::db::keyspace::Keyspace;
use crate::db::options::{KeyspaceOptions, Options, WriteOptions};
use crate::db::range::KeyRange;
use crate::db::runtime::Runtime;
use crate::db::snapshot::Snapshot;
use crate::db::state::{Core, KeyspaceInfo, KeyspaceTree};
use crate::db::stats::{BackgroundError, Stats, VerifyReport};
use crate::db::writing::Reach;
use crate::format::batch::Batch;
use crate::mvcc::visible::Horizon;
use crate::read::contained;
use crate::read::tree::Tree;
use crate::sync::{Mutex, tell};
use crate::table::verify::verify;
use crate::version::edit::Change;
use crate::vfs::mem::MemVfs;
use crate::write::commit::Durability;
use std::path::Path;
use std::sync::Arc;

/// The engine and its threads; when the last handle goes, so do the threads.
pub(crate) struct Handle {
    pub(crate) core: Arc<Core>,
    /// None once it was closed, and where the caller runs the jobs.
    runtime: Mutex<Option<Runtime>>,
}

impl Handle {
    fn new(core: Arc<Core>, runtime: Option<Runtime>) -> Arc<Handle> {
        Arc::new(Handle { core, runtime: Mutex::new(runtime) })
    }

    fn close(&self) -> Result<()> {
        self.core.close(|| {
            let runtime = self.runtime.lock().take();
            drop(runtime);
        })
    }
}

impl Drop for Handle {
    /// Waits for the running jobs, which are told to stop. Does nothing in a forked process, which has no thread of ours
    /// and may not take locks that they held.
    fn drop(&mut self) {
        if self.core.ends.is_forked() {
            std::mem::forget(std::mem::take(&mut self.runtime));
            return;
        }
        self.core.leave();
    }
}

/// An open database. Cheap to clone, and shared by all threads of a program.
///
/// When the last handle (keyspaces, snapshots and iterators count) is dropped, the background threads end and the
/// directory is unlocked; writes that were not durable are then as after a crash of the process. [`Db::close`] ends in
/// good order and tells about errors.
///
/// A child process that was forked off gets `Closed` at once for whatever reads or writes, and may drop its copies of the
/// handles.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// let db = tinylsm::Db::open_in_memory()?;
/// db.put("apple", "red")?;
/// assert_eq!(db.get("apple")?.as_deref(), Some(&b"red"[..]));
/// db.delete("apple")?;
/// assert_eq!(db.get("apple")?, None);
/// db.close()
/// # }
/// ```
#[derive(Clone)]
pub struct Db {
    handle: Arc<Handle>,
    default: Keyspace,
}

impl Db {
    /// Opens the database in a directory of the real disk, or creates it, with default options. Any directory will do for
    /// a new one, also one with files of others in it: these are left alone ([`DbBuilder::open`] says which are refused).
    ///
    /// # Errors
    /// As [`DbBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Db> {
        Db::builder(path).open()
    }

    /// Opens a new database that lives in memory and dies with its last handle.
    ///
    /// # Errors
    /// `Io` if the system has no thread to give.
    pub fn open_in_memory() -> Result<Db> {
        let options = Options { wal_preallocate_bytes: 0, reserve_bytes_max: 0, ..Options::default() };
        Db::builder("/memory").vfs(Arc::new(MemVfs::new())).options(options).open()
    }

    /// Prepares to open the database in a directory.
    pub fn builder(path: impl AsRef<Path>) -> DbBuilder {
        DbBuilder::new(path.as_ref())
    }

    /// Makes the first handle of an open core.
    pub(in crate::db) fn new(core: Arc<Core>, runtime: Option<Runtime>) -> Db {
        let handle = Handle::new(core, runtime);
        let info = Arc::clone(&handle.core.view.state().keyspace(KeyspaceId::DEFAULT).info);
        handle.core.wake_background();
        let default = Keyspace::new(Arc::clone(&handle), info);
        Db { handle, default }
    }

    fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// Returns the keyspace that every database has.
    pub fn default_keyspace(&self) -> &Keyspace {
        &self.default
    }

    /// Returns a keyspace by name.
    ///
    /// # Errors
    /// `NotFound`; `Closed`.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        self.core().ends.check_open()?;
        let state = self.core().view.state();
        let found = state.keyspaces().find(|keyspace| keyspace.info.name == name);
        let found =
            found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no keyspace {name:?}")))?;
        Ok(Keyspace::new(Arc::clone(&self.handle), Arc::clone(&found.info)))
    }

    /// Creates a keyspace, durably.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for a name or option out of range; `Incompatible` for an unknown
    /// comparator; `ReadOnly`; `NoSpace`, `Io` of the manifest, which turn writing off.
    pub fn create_keyspace(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        let core = self.core();
        core.ends.check_writable()?;
        options.validate()?;
        core.options.check_keyspace(name, &options)?;
        if !(1..=limits::NAME_LEN_BYTES_MAX).contains(&name.len()) {
            return Err(Error::invalid("a keyspace's name has 1 to 255 bytes"));
        }
        let order = core.comparators.find(&options.comparator, name)?;
        tell(|| format!("create keyspace {name}"));
        let info = core.create_keyspace(name, options, order)?;
        Ok(Keyspace::new(Arc::clone(&self.handle), info))
    }

    /// Returns the names of the keyspaces in the order they were created; `"default"` is the first.
    pub fn keyspaces(&self) -> Vec<String> {
        self.core().view.state().keyspaces().map(|keyspace| keyspace.info.name.clone()).collect()
    }

    /// Sets a key of the default keyspace; see [`Keyspace::put`].
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<SeqNum> {
        self.default.put(key, value)
    }

    /// Deletes a key of the default keyspace; see [`Keyspace::delete`].
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<SeqNum> {
        self.default.delete(key)
    }

    /// Returns the value of a key of the default keyspace; see [`Keyspace::get`].
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        self.default.get(key)
    }

    /// Returns the values of several keys of the default keyspace, as of one moment.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Slice>>> {
        self.default.multi_get(keys)
    }

    /// Iterates over the default keyspace; see [`Keyspace::iter`].
    ///
    /// # Errors
    /// As [`Keyspace::range`].
    pub fn iter(&self) -> Result<Iter> {
        self.default.iter()
    }

    /// Iterates over a range of the default keyspace; see [`Keyspace::range`].
    ///
    /// # Errors
    /// As [`Keyspace::range`].
    pub fn range(&self, range: impl KeyRange) -> Result<Iter> {
        self.default.range(range)
    }

    /// Iterates over the keys of the default keyspace that begin with `prefix`; see [`Keyspace::prefix`].
    ///
    /// # Errors
    /// As [`Keyspace::prefix`].
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Iter> {
        self.default.prefix(prefix)
    }

    /// Writes a batch: all of it or nothing, over all its keyspaces. Returns the number of its last operation; the
    /// others have the numbers before it. An empty batch writes nothing and returns the newest number.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn write(&self, batch: &WriteBatch, options: &WriteOptions) -> Result<SeqNum> {
        let core = self.core();
        let (batch, reach) = batch.for_commit(core)?;
        core.commit(batch, reach, options.durability.unwrap_or(core.options.durability))
    }

    /// Makes every commit that returned before this call durable.
    ///
    /// # Errors
    /// `Io`, `NoSpace`: what was not durable before may never be; writing is off. `ReadOnly`; `Closed`.
    pub fn sync(&self) -> Result<()> {
        self.core().commit(Batch::new(), Reach::default(), Durability::Disk).map(drop)
    }

    /// Takes a snapshot of the whole database. One taken in a forked process is of no use: reading it gives `Closed`.
    pub fn snapshot(&self) -> Snapshot {
        let core = self.core();
        if core.ends.is_forked() {
            // The list's lock may be held by a thread that is not there.
            let horizon = Horizon { seq: core.view.visible_seq(), now: UnixMillis::default() };
            return Snapshot::new(horizon, Arc::clone(&self.handle));
        }
        let now = core.expiry_time();
        let horizon = core.view.snapshots.take(|| core.view.visible_seq(), now);
        Snapshot::new(horizon, Arc::clone(&self.handle))
    }

    /// Returns the number of the newest visible commit; 0 before the first.
    pub fn last_seq(&self) -> SeqNum {
        self.core().view.visible_seq()
    }

    /// Writes everything that was committed before this call to tables, and waits for that.
    ///
    /// # Errors
    /// What the flush met: the data stay in memory and log, and it is tried again in the background. `ReadOnly`; `Closed`.
    pub fn flush(&self) -> Result<()> {
        tell(|| "flush".to_owned());
        self.core().flush().map(drop)
    }

    /// Merges everything in a range down to the deepest level that holds any of it, and waits. Of what was committed
    /// before the call, old versions and deletes that no snapshot needs are gone from the tables afterwards, and from
    /// the disk once no reader holds the tables that had them. A range whose end lies before its start is empty, and nothing
    /// is done.
    ///
    /// # Errors
    /// What the merge met; everything is as readable as before. `InvalidArgument` for a keyspace of another database;
    /// `ReadOnly`; `Closed`; `Internal` if the keyspace's comparator panics.
    pub fn compact_range(&self, keyspace: &Keyspace, range: impl KeyRange) -> Result<()> {
        let core = self.core();
        // Whether writing is off shows when the memtables are sealed, which may mend a full disk.
        core.ends.check_open()?;
        keyspace.check_belongs(core)?;
        core.compact_range(keyspace.id(), range.into_bounds())
    }

    /// Waits until every flush, merge and removal of a file that is due is done, and what these make due, such as become
    /// due in a quiet database included: unless something is written or read or a snapshot goes, none will be from then
    /// on. With writers beside it, it does not wait for what they make due later. At once in a database that was opened
    /// read-only.
    ///
    /// # Errors
    /// What a job met meanwhile, the one that keeps it from coming to rest; `ReadOnly` if writing is off; `Closed`.
    pub fn wait_idle(&self) -> Result<()> {
        self.core().wait_idle()
    }

    /// Runs one due job, for databases opened with [`options::Background::Manual`]; `false` if none was due.
    ///
    /// # Errors
    /// What the job met: its source is intact, and it is due again after a pause. `Closed`.
    pub fn background_step(&self) -> Result<bool> {
        self.core().ends.check_process()?;
        self.core().ends.check_open()?;
        self.core().run_due_job()
    }

    /// Returns why writing is off, or else the first of [`Db::background_errors`]. In a forked process that is `Closed`.
    pub fn background_error(&self) -> Option<Error> {
        self.background_errors().into_iter().next().map(|told| told.error)
    }

    /// Returns what each kind of background job, and the merges of each keyspace, have met since they last succeeded; before
    /// these, as the job `"writing"`, why writing is off. Empty if nothing is failing. In a forked process that is `Closed`
    /// alone.
    pub fn background_errors(&self) -> Vec<BackgroundError> {
        let core = self.core();
        if let Err(error) = core.ends.check_process() {
            return vec![BackgroundError { job: "writing", keyspace: None, error }];
        }
        let writing = core.ends.failure();
        let mut book = core.book.lock();
        // Whoever made a job's work needless need not have been one of the jobs, after which this is done as well.
        core.forget_the_done(&mut book);
        // In this order: whatever the board names is in the state by then.
        let state = core.view.state();
        let writing = writing.map(|error| BackgroundError { job: "writing", keyspace: None, error });
        let told = book.board.troubles().map(|(kind, error)| BackgroundError {
            job: kind.name(),
            keyspace: kind.keyspace().map(|id| state.keyspace(id).info.name.clone()),
            error: error.clone(),
        });
        writing.into_iter().chain(told).collect()
    }

    /// Goes on after the operator has mended the cause: tries failed jobs again at once, and takes up writing
    /// again if a full disk (or a process out of descriptors) stopped it. Nothing that was acknowledged is lost by that,
    /// whatever its durability.
    ///
    /// # Errors
    /// `ReadOnly` if writing was turned off by anything else: reopen. `NoSpace` if there is no room yet; what resuming
    /// met otherwise.
    pub fn resume(&self) -> Result<()> {
        self.core().resume()
    }

    /// Returns figures about the database, taken at one moment. In a forked process they are of the moment of the fork, and
    /// those of files and sealed memtables are empty, which only threads of the parent could tell.
    pub fn stats(&self) -> Stats {
        self.core().stats()
    }

    /// Reads and checks every byte of every table.
    ///
    /// # Errors
    /// `Corruption` with file and offset of the first damage; `Io`; `Closed`; `Internal` if a keyspace's comparator
    /// panics.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.verify_tables(&mut |_, error| Err(error))
    }

    /// Reads and checks every byte of every table, as [`Db::verify`], and goes on behind damage: `tell` hears of each
    /// table that has some, with the name of its keyspace and the first thing that is wrong. The report counts the others.
    ///
    /// # Errors
    /// `Closed`.
    pub fn verify_all(&self, mut tell: impl FnMut(&str, Error)) -> Result<VerifyReport> {
        self.verify_tables(&mut |keyspace, error| match error.kind() {
            ErrorKind::Closed => Err(error),
            _ => {
                tell(keyspace, error);
                Ok(())
            }
        })
    }

    fn verify_tables(&self, damaged: &mut dyn FnMut(&str, Error) -> Result<()>) -> Result<VerifyReport> {
        let core = self.core();
        core.ends.check_open()?;
        let state = core.view.pin_state();
        let mut report = VerifyReport::default();
        for (keyspace, live) in state.tables() {
            core.ends.check_open()?;
            let order = &keyspace.tree.order;
            let checked = contained(order, "verifying", || {
                verify(&live.table)?;
                Ok(live.table.index()?.blocks_count())
            });
            match checked {
                Ok(blocks_count) => {
                    report.files += 1;
                    report.blocks += blocks_count as u64;
                    report.entries += live.meta.entries;
                    report.bytes += live.meta.len_bytes;
                }
                Err(error) => damaged(&keyspace.info.name, error)?,
            }
        }
        Ok(report)
    }

    /// Returns the database's directory.
    pub fn path(&self) -> &Path {
        self.core().directory.path()
    }

    /// Ends in good order: background threads stop, everything committed becomes durable, the log is marked as
    /// complete, the directory is unlocked. A long log is written to tables, so that the next opening is quick.
    ///
    /// Other handles give `Closed` as soon as this begins, iterators at their next step. Calls under way that write, and
    /// jobs, end first: once this returns, nothing of this database writes, renames or removes anything in the directory.
    /// A read under way is not waited for; it ends with `Closed`, or with what was there before the close.
    ///
    /// A database that was opened on a full disk and never got room to write has nothing to make durable, and closes
    /// well: what it recovered stays as it was found, no more durable than before.
    ///
    /// # Errors
    /// `Io`, `NoSpace` of the log or manifest: the next open recovers as after a crash. `ReadOnly` if writing was
    /// off before. The database is closed in any case. `Closed`, once it is closed, if another handle closed it.
    pub fn close(self) -> Result<()> {
        tell(|| format!("close {}", self.path().display()));
        self.handle.close()
    }
}

impl Core {
    /// Creates a keyspace, durably.
    fn create_keyspace(
        &self,
        name: &str,
        options: KeyspaceOptions,
        order: KeyOrder,
    ) -> Result<Arc<KeyspaceInfo>> {
        // Leadership keeps the set of active memtables as it is while a group is committed.
        let _leader = self.writing.leader.lock();
        let mut manifest = self.manifest.lock();
        let count = self.view.state().keyspaces_count();
        if self.view.state().keyspaces().any(|keyspace| keyspace.info.name == name) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("keyspace {name:?} exists already")));
        }
        if count >= limits::KEYSPACES_COUNT_MAX {
            let message = format!("a database has at most {} keyspaces", limits::KEYSPACES_COUNT_MAX);
            return Err(Error::invalid(message));
        }
        let id = KeyspaceId(u32::try_from(count).expect("bounded by limits.rs"));
        let change = Change::CreateKeyspace {
            id,
            name: name.to_owned(),
            comparator: options.comparator.clone(),
            options: options.to_text(),
        };
        self.install(&mut manifest, vec![change])?;
        let info = Arc::new(KeyspaceInfo { id, name: name.to_owned(), options });
        let keyspace = KeyspaceTree {
            info: Arc::clone(&info),
            waste: self.new_waste(id),
            tree: Tree::new(order, self.options.memtable_bytes / (count + 1)),
        };
        let mut book = self.book.lock();
        self.change_state(&mut book, |state| state.add_keyspace(keyspace));
        Ok(info)
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Db({})", self.path().display())
    }
}

#[cfg(test)]
mod tests;
