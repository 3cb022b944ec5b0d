//! The database: handles, opening, writing, background jobs.
//!
//! Owns what ties the modules below together: which memtable belongs to which WAL segment, which tables make up what
//! readers see, who may write now, what happens after a failure. `core.rs` says what there is and in which order
//! it is locked. One owner each for what goes wrong most easily: `ends.rs` for the phases from opening to closed, `board.rs`
//! for which background job may run, `files.rs` for the states of every file, `directory.rs` for the directory itself.
//! `opening.rs` and `establish.rs` say how a database comes to be, `writing.rs`, `keyspaces.rs`, `jobs.rs` and `waiting.rs` how it changes,
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
mod book;
mod closing;
mod core;
mod directory;
mod edits;
mod ends;
mod establish;
mod files;
mod jobs;
mod keyspaces;
mod opening;
mod reserve;
mod state;
mod trace;
mod waiting;
mod writing;

use crate::base::contain::contain;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::base::time::UnixMillis;
use crate::db::batch::WriteBatch;
use crate::db::board::JobKind;
use crate::db::builder::DbBuilder;
use crate::db::core::Core;
use crate::db::iter::Iter;
use crate::db::keyspace::Keyspace;
use crate::db::options::{KeyspaceOptions, Options, WriteOptions};
use crate::db::range::{KeyRange, owned_bounds};
use crate::db::runtime::Runtime;
use crate::db::snapshot::Snapshot;
use crate::db::stats::{BackgroundError, Stats, VerifyReport};
use crate::db::writing::Reach;
use crate::format::batch::Batch;
use crate::mvcc::visible::Horizon;
use crate::read::contained;
use crate::sync::{Mutex, tell};
use crate::table::verify::verify;
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
/// directory is unlocked, as if the process had ended: what was written with [`Durability::None`] and not followed by a
/// stronger write, [`Db::sync`] or [`Db::flush`] is lost, and `Stats::held_back_commits` tells how much that is.
/// [`Db::close`] ends in good order, makes everything durable, and tells about errors.
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

    /// Opens a new database that is kept in memory and gone with its last handle.
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
        handle.core.wake_background();
        Db::of(&handle)
    }

    /// Makes another handle.
    pub(in crate::db) fn of(handle: &Arc<Handle>) -> Db {
        let info = Arc::clone(&handle.core.view.state().keyspace(KeyspaceId::DEFAULT).info);
        Db { handle: Arc::clone(handle), default: Keyspace::new(Arc::clone(handle), info) }
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
        let info = self.core().find_named(name)?;
        Ok(Keyspace::new(Arc::clone(&self.handle), info))
    }

    /// Opens a keyspace, or creates it, durably, if there is none of that name: what a program does that is started
    /// again and again.
    ///
    /// One that exists keeps the options that it was created with, which [`Keyspace::options`] tells; only another order
    /// of keys is refused.
    ///
    /// ```
    /// # fn main() -> tinylsm::Result<()> {
    /// let db = tinylsm::Db::open_in_memory()?;
    /// for visit in ["1", "2"] {
    ///     let users = db.open_keyspace("users", Default::default())?;
    ///     users.put("visits", visit)?;
    /// }
    /// assert_eq!(db.keyspaces(), ["default", "users"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Incompatible` if it has another comparator than `options` say; as [`Db::create_keyspace`].
    #[allow(clippy::needless_pass_by_value, reason = "as in create_keyspace: they are made in place")]
    pub fn open_keyspace(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        self.core().ends.check_open()?;
        options.validate()?;
        loop {
            match self.core().find_named(name) {
                Ok(info) if info.options.comparator == options.comparator => {
                    return Ok(Keyspace::new(Arc::clone(&self.handle), info));
                }
                Ok(info) => {
                    let message = format!(
                        "keyspace {name:?} is ordered by comparator {:?}, and {:?} is asked for",
                        info.options.comparator, options.comparator
                    );
                    return Err(Error::new(ErrorKind::Incompatible, message));
                }
                Err(_) => match self.create_keyspace(name, options.clone()) {
                    // Somebody else was quicker.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    created => return created,
                },
            }
        }
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
        check_name(name)?;
        let find = || core.comparators.find(&options.comparator, name);
        let order = contain(&format!("looking for the comparator of keyspace {name:?}"), find)?;
        tell(|| format!("create keyspace {name}"));
        let info = core.create_keyspace(name, options, order)?;
        Ok(Keyspace::new(Arc::clone(&self.handle), info))
    }

    /// Drops a keyspace with everything in it, durably: when this returns, a crash leaves nothing of it, and whatever was
    /// committed before is durable as well. Costs the same however much is in it; its files are removed in the background,
    /// once no iterator that reads them is left.
    ///
    /// Handles, snapshots and iterators of it give `Closed` from then on, with a text that says so, and so does a batch
    /// that writes to it, as a whole. A keyspace that is created under the same name later is another one.
    ///
    /// ```
    /// # fn main() -> tinylsm::Result<()> {
    /// let db = tinylsm::Db::open_in_memory()?;
    /// let old = db.create_keyspace("cache", Default::default())?;
    /// old.put("k", "v")?;
    /// db.drop_keyspace("cache")?;
    /// assert_eq!(old.get("k").unwrap_err().kind(), tinylsm::ErrorKind::Closed);
    /// assert!(db.create_keyspace("cache", Default::default())?.is_empty()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for the default keyspace, which every database has; `ReadOnly`, `Closed`; `NoSpace`,
    /// `Io` of log or manifest: if they turn writing off, it is there or not after the next opening.
    pub fn drop_keyspace(&self, name: &str) -> Result<()> {
        tell(|| format!("drop keyspace {name}"));
        self.core().drop_keyspace(name)
    }

    /// Gives a keyspace another name, durably. Its handles, snapshots and iterators stay good, and tell the new name.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` if there is one of the new name, also if that is its own; `InvalidArgument` for the
    /// default keyspace and for a name out of range; `ReadOnly`, `Closed`; `NoSpace`, `Io` of the manifest.
    pub fn rename_keyspace(&self, name: &str, new_name: &str) -> Result<()> {
        check_name(new_name)?;
        tell(|| format!("rename keyspace {name} to {new_name}"));
        self.core().rename_keyspace(name, new_name)
    }

    /// Returns a handle of every keyspace, all as of one moment, in the order they were created; the default one is the
    /// first.
    ///
    /// ```
    /// # fn main() -> tinylsm::Result<()> {
    /// let db = tinylsm::Db::open_in_memory()?;
    /// db.create_keyspace("users", Default::default())?.put("ada", "admin")?;
    /// let snapshot = db.snapshot();
    /// let keys_count: tinylsm::Result<u64> =
    ///     db.keyspace_handles().iter().map(|keyspace| snapshot.keyspace(keyspace).len()).sum();
    /// assert_eq!(keys_count?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn keyspace_handles(&self) -> Vec<Keyspace> {
        let state = self.core().view.state();
        let infos = state.keyspaces().map(|keyspace| Arc::clone(&keyspace.info));
        infos.map(|info| Keyspace::new(Arc::clone(&self.handle), info)).collect()
    }

    /// Returns the names of the keyspaces in the order they were created; `"default"` is the first.
    /// [`Db::keyspace_handles`] returns the keyspaces themselves.
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

    /// Sets a key of the default keyspace as `options` say; see [`Keyspace::put_with`].
    ///
    /// ```
    /// # fn main() -> tinylsm::Result<()> {
    /// use tinylsm::{Db, Durability};
    /// let db = Db::open_in_memory()?;
    /// db.put_with("visits", "1", Durability::None)?;
    /// assert_eq!(db.stats().held_back_commits, 1);
    /// db.delete_with("visits", Durability::Disk)?;
    /// assert_eq!(db.stats().held_back_commits, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: impl Into<WriteOptions>,
    ) -> Result<SeqNum> {
        self.default.put_with(key, value, options)
    }

    /// Deletes a key of the default keyspace; see [`Keyspace::delete`].
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<SeqNum> {
        self.default.delete(key)
    }

    /// Deletes a key of the default keyspace as `options` say; see [`Keyspace::put_with`].
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete_with(&self, key: impl AsRef<[u8]>, options: impl Into<WriteOptions>) -> Result<SeqNum> {
        self.default.delete_with(key, options)
    }

    /// Returns the value of a key of the default keyspace; see [`Keyspace::get`].
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        self.default.get(key)
    }

    /// Tells whether a key of the default keyspace has a value; see [`Keyspace::contains_key`].
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.default.contains_key(key)
    }

    /// Returns the first key of the default keyspace, with its value.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn first_key_value(&self) -> Result<Option<(Slice, Slice)>> {
        self.default.first_key_value()
    }

    /// Returns the last key of the default keyspace, with its value.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn last_key_value(&self) -> Result<Option<(Slice, Slice)>> {
        self.default.last_key_value()
    }

    /// Tells whether the default keyspace has no key; see [`Keyspace::is_empty`].
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn is_empty(&self) -> Result<bool> {
        self.default.is_empty()
    }

    /// Counts the keys of the default keyspace by reading every one of them; see [`Keyspace::len`].
    ///
    /// # Errors
    /// As [`Keyspace::len`].
    pub fn len(&self) -> Result<u64> {
        self.default.len()
    }

    /// Returns about how many bytes the entries of a range of the default keyspace take; see
    /// [`Keyspace::approximate_len_bytes`].
    ///
    /// # Errors
    /// As [`Keyspace::approximate_len_bytes`].
    pub fn approximate_len_bytes(&self, range: impl KeyRange) -> Result<u64> {
        self.default.approximate_len_bytes(range)
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
    /// A batch given by value is written without a copy; one that may have to be written again, after `Busy` say, is given
    /// by reference, and copied. `options` may be a [`Durability`].
    ///
    /// # Errors
    /// As [`Keyspace::put`]; an operation that cannot be written is named, with its place in the batch.
    pub fn write(&self, batch: impl Into<WriteBatch>, options: impl Into<WriteOptions>) -> Result<SeqNum> {
        let core = self.core();
        let (mut batch, options) = (batch.into(), options.into());
        let (batch, reach) = batch.take_for(core)?;
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
            return Snapshot::new(horizon, self.default.clone());
        }
        let now = core.expiry_time();
        let horizon = core.view.snapshots.take(|| core.view.visible_seq(), now);
        Snapshot::new(horizon, self.default.clone())
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
        core.compact_range(keyspace.info(), owned_bounds(&range))
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
    /// these, as the job `"writing"`, why writing is off; behind them, what was met in tables that cannot be merged, for
    /// as long as these are there. Empty if nothing is failing. In a forked process that is `Closed`
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
            keyspace: kind.keyspace().and_then(|id| state.find(id)).map(|found| found.info.name.clone()),
            error: error.clone(),
        });
        // What a merge has just met is told as its failure; later the table stays named.
        let is_told = |damage: &Error| book.board.troubles().any(|(_, error)| error.file() == damage.file());
        let damaged = state.keyspaces().flat_map(|keyspace| {
            let told = book.damage_of(keyspace.info.id).filter(|damage| !is_told(damage));
            told.map(|error| BackgroundError {
                job: JobKind::Compact(keyspace.info.id).name(),
                keyspace: Some(keyspace.info.name.clone()),
                error: error.clone(),
            })
        });
        writing.into_iter().chain(told).chain(damaged).collect()
    }

    /// Goes on after the operator has mended the cause: tries failed jobs again at once, and takes up writing
    /// again if a full disk (or a process out of descriptors) stopped it. Nothing that was acknowledged is lost by that,
    /// whatever its durability.
    ///
    /// # Errors
    /// `ReadOnly` if writing was turned off by anything else: reopen. `NoSpace` if there is no space yet; what resuming
    /// met otherwise.
    pub fn resume(&self) -> Result<()> {
        self.core().resume()
    }

    /// Returns figures about the database, taken at one moment. In a forked process they are of the moment of the fork, and
    /// those of files and sealed memtables are empty, which only threads of the parent could tell.
    pub fn stats(&self) -> Stats {
        self.core().stats()
    }

    /// Reads and checks every byte of every table, and the order of the entries in memory, which are those that only the
    /// log has yet.
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
        for keyspace in state.keyspaces() {
            for memtable in std::iter::once(&keyspace.tree.active).chain(&keyspace.tree.sealed) {
                core.ends.check_open()?;
                let order = &keyspace.tree.order;
                match contained(order, "verifying", || memtable.verify(order)) {
                    Ok(entries) => report.unflushed_entries += entries,
                    Err(error) => damaged(&keyspace.info.name, error)?,
                }
            }
        }
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

    /// Ends in good order: background threads stop, everything committed becomes durable, whatever its durability, the log
    /// is marked as complete, the directory is unlocked. A long log is written to tables, so that the next opening is quick.
    ///
    /// *Beside it*, on other threads, anything may run. Other handles give `Closed` as soon as this begins, iterators at
    /// their next step. Calls under way that write, and jobs, end first: a write is committed whole, and then durable, or
    /// gives `Closed`. A read under way is not waited for; it ends with `Closed`, or with what was there before the close. A
    /// second close waits for the first and gives `Closed`.
    ///
    /// *What outlives it*: handles, snapshots and iterators may be kept and dropped at any time, and give `Closed`; values
    /// that were read stay as they are. Files that they held are removed by then, or by the next opening. Once this returns,
    /// nothing of this database writes, renames or removes anything in the directory, which can be opened again at once.
    ///
    /// A database that was opened on a full disk and never got space to write has nothing to make durable, and closes
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

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Db({})", self.path().display())
    }
}

fn check_name(name: &str) -> Result<()> {
    if (1..=limits::NAME_LEN_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(Error::invalid("a keyspace's name has 1 to 255 bytes"))
}

#[cfg(test)]
mod tests;
