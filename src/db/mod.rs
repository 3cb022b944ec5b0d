//! The database: handles, opening, writing, background jobs.
//!
//! Owns what ties the rooms below together: which memtable belongs to which WAL segment, which tables make up what
//! readers see, who may write now, what happens after a failure. `state.rs` says what there is and in which order
//! it is locked; `opening.rs` how it comes to be; `writing.rs` and `jobs.rs` how it changes.

pub mod batch;
pub mod iter;
pub mod keyspace;
pub mod options;
pub mod range;
pub mod snapshot;
pub mod stats;

mod directory;
mod jobs;
mod opening;
mod state;
mod writing;

use crate::base::comparator::Comparator;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::db::batch::WriteBatch;
use crate::db::directory::FinalDirSync;
use crate::db::iter::Iter;
use crate::db::keyspace::Keyspace;
use crate::db::opening::OpenRequest;
use crate::db::options::{Background, Comparators, KeyspaceOptions, Options, WriteOptions};
use crate::db::range::KeyRange;
use crate::db::snapshot::Snapshot;
use crate::db::state::{Core, KeyspaceInfo, KeyspaceTree};
use crate::db::stats::{Stats, VerifyReport};
use crate::format::batch::Batch;
use crate::read::tree::Tree;
use crate::sync::{JoinHandle, Mutex, spawn};
use crate::table::verify::verify;
use crate::version::edit::Change;
use crate::vfs::Vfs;
use crate::vfs::mem::MemVfs;
use crate::vfs::os::OsVfs;
use crate::write::commit::Durability;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The engine and its threads; when the last handle goes, so do the threads.
pub(crate) struct Handle {
    pub(crate) core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle>>,
}

impl Handle {
    /// Tells the threads to stop and waits for them. Does no I/O of its own.
    fn stop_threads(&self) {
        self.core.is_closing.store(true, Ordering::Release);
        // A thread that looked at the flag before it was set is waiting by the time the lock is free.
        drop(self.core.book.lock());
        self.core.changed.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

/// An open database. Cheap to clone, and shared by all threads of a program.
///
/// When the last handle (keyspaces and snapshots count) is dropped, the background threads end; writes that were
/// not durable are then as after a crash of the process. [`Db::close`] ends in good order and tells about errors.
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
    /// Opens the database in a directory of the real disk, or creates it, with default options.
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
        let options = Options { wal_preallocate_bytes: 0, ..Options::default() };
        Db::builder("/memory").vfs(Arc::new(MemVfs::new())).options(options).open()
    }

    /// Prepares to open the database in a directory.
    pub fn builder(path: impl AsRef<Path>) -> DbBuilder {
        DbBuilder {
            path: path.as_ref().to_owned(),
            options: Options::default(),
            vfs: None,
            background: Background::default(),
            comparators: Comparators::default(),
            create_if_missing: true,
        }
    }

    fn start(core: Core, background: Background) -> Result<Db> {
        let is_read_only = core.is_read_only;
        let handle = Arc::new(Handle { core: Arc::new(core), threads: Mutex::new(Vec::new()) });
        let count = match background {
            Background::Threads(count) if !is_read_only => count,
            _ => 0,
        };
        for number in 0..count {
            let core = Arc::clone(&handle.core);
            let thread = spawn(&format!("tinylsm-{number}"), move || core.work())
                .map_err(|error| Error::from_io("spawn", &handle.core.directory, error))?;
            handle.threads.lock().push(thread);
        }
        let info = Arc::clone(&handle.core.state.load().keyspace(KeyspaceId::DEFAULT).info);
        let default = Keyspace::new(Arc::clone(&handle), info);
        Ok(Db { handle, default })
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
        self.core().check_open()?;
        let state = self.core().state.load();
        let found = state.keyspaces.iter().find(|keyspace| keyspace.info.name == name);
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
        core.check_writable()?;
        options.validate()?;
        if !(1..=limits::NAME_LEN_BYTES_MAX).contains(&name.len()) {
            return Err(Error::invalid("a keyspace's name has 1 to 255 bytes"));
        }
        let order = core.comparators.find(&options.comparator, name)?;
        // Leadership keeps the set of active memtables as it is while a group is committed.
        let _leader = core.leader.lock();
        let mut manifest = core.manifest.lock();
        let count = core.state.load().keyspaces.len();
        if core.state.load().keyspaces.iter().any(|keyspace| keyspace.info.name == name) {
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
        core.install(&mut manifest, vec![change])?;
        let info = Arc::new(KeyspaceInfo { id, name: name.to_owned(), options });
        let keyspace = KeyspaceTree {
            info: Arc::clone(&info),
            waste: Arc::default(),
            tree: Tree::new(order, core.options.memtable_bytes / (count + 1)),
        };
        let mut book = core.book.lock();
        core.change_state(&mut book, |state| state.keyspaces.push(keyspace));
        Ok(Keyspace::new(Arc::clone(&self.handle), info))
    }

    /// Returns the names of the keyspaces in the order they were created; `"default"` is the first.
    pub fn keyspaces(&self) -> Vec<String> {
        self.core().state.load().keyspaces.iter().map(|keyspace| keyspace.info.name.clone()).collect()
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
        let batch = batch.for_commit(core)?;
        core.commit(batch, options.durability.unwrap_or(core.options.durability))
    }

    /// Makes every commit that returned before this call durable.
    ///
    /// # Errors
    /// `Io`, `NoSpace`: what was not durable before may never be; writing is off. `ReadOnly`; `Closed`.
    pub fn sync(&self) -> Result<()> {
        self.core().commit(Batch::new(), Durability::Disk).map(drop)
    }

    /// Takes a snapshot of the whole database.
    pub fn snapshot(&self) -> Snapshot {
        let core = self.core();
        let now = core.expiry_time();
        let horizon = core.snapshots.take(|| core.visible_seq(), now);
        Snapshot::new(horizon, Arc::clone(&self.handle))
    }

    /// Returns the number of the newest visible commit; 0 before the first.
    pub fn last_seq(&self) -> SeqNum {
        self.core().visible_seq()
    }

    /// Writes everything in memory to tables and waits for it.
    ///
    /// # Errors
    /// What the flush met: the data stay in memory and log, and it is tried again in the background.
    pub fn flush(&self) -> Result<()> {
        let core = self.core();
        core.rotate_now()?;
        core.wait_for_jobs(|book| book.sealed.is_empty())
    }

    /// Merges everything in a range down to the deepest level that holds any of it, and waits. Old versions and
    /// deletes that no snapshot needs are gone from the disk afterwards, once no reader holds their tables.
    ///
    /// # Errors
    /// What the merge met; everything is as readable as before.
    pub fn compact_range(&self, keyspace: &Keyspace, range: impl KeyRange) -> Result<()> {
        let core = self.core();
        core.check_writable()?;
        if !Arc::ptr_eq(core, keyspace.core()) {
            return Err(Error::invalid("the keyspace is of another database"));
        }
        let (lower, upper) = range.into_bounds();
        let order = core.state.load().keyspace(keyspace.id()).tree.order.clone();
        // Nothing sorts before an unbounded start in any order, so all tables are asked for then.
        let (Bound::Included(lower) | Bound::Excluded(lower)) = lower else {
            let smallest = core.smallest_key(keyspace.id(), &order);
            return core.compact_range(keyspace.id(), (&smallest, upper_key(&upper)));
        };
        core.compact_range(keyspace.id(), (&lower, upper_key(&upper)))
    }

    /// Waits until no flush, merge or removal of a file is due.
    ///
    /// # Errors
    /// What a job met meanwhile; `ReadOnly` if writing is off; `Closed`.
    pub fn wait_idle(&self) -> Result<()> {
        self.core().wait_idle()
    }

    /// Runs one due job, for databases opened with [`Background::Manual`]; `false` if none was due.
    ///
    /// # Errors
    /// What the job met: its source is intact and it stays due.
    pub fn background_step(&self) -> Result<bool> {
        self.core().check_open()?;
        self.core().run_due_job()
    }

    /// Returns why writing is off, or else the last failure of a background job that has not succeeded since.
    pub fn background_error(&self) -> Option<Error> {
        let book = self.core().book.lock();
        book.writing_error.clone().or_else(|| book.job_error.clone())
    }

    /// Goes on after the operator has mended the cause: tries failed jobs again at once, and takes up writing
    /// again if only an append to the log met a full disk.
    ///
    /// # Errors
    /// `ReadOnly` if writing was turned off by anything else, or commits of [`Durability::None`] still waited in
    /// memory for their place in the log: only a reopen tells what is on disk then.
    pub fn resume(&self) -> Result<()> {
        self.core().resume()
    }

    /// Returns figures about the database.
    pub fn stats(&self) -> Stats {
        self.core().stats()
    }

    /// Reads every table and checks everything that can be checked.
    ///
    /// # Errors
    /// `Corruption` with file and offset of the first damage; `Io`; `Closed`.
    pub fn verify(&self) -> Result<VerifyReport> {
        let core = self.core();
        core.check_open()?;
        let state = core.state.load_full();
        let mut report = VerifyReport::default();
        for live in state.keyspaces.iter().flat_map(|keyspace| keyspace.tree.tables.levels().iter().flatten())
        {
            verify(&live.table)?;
            report.files += 1;
            report.blocks += live.table.index()?.blocks_count() as u64;
            report.entries += live.meta.entries;
            report.bytes += live.meta.len_bytes;
        }
        Ok(report)
    }

    /// Returns the database's directory.
    pub fn path(&self) -> &Path {
        &self.core().directory
    }

    /// Ends in good order: background threads stop, everything committed becomes durable, the log is marked as
    /// complete, the directory is unlocked. Other handles give `Closed` from then on.
    ///
    /// # Errors
    /// `Io`, `NoSpace` of the log or manifest: the next open recovers as after a crash. `ReadOnly` if writing was
    /// off before. The database is closed in any case.
    pub fn close(self) -> Result<()> {
        let core = self.core();
        core.check_open()?;
        self.handle.stop_threads();
        let result = core.finish();
        *core.directory_lock.lock() = None;
        result
    }
}

fn upper_key(bound: &Bound<Vec<u8>>) -> Option<&[u8]> {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => Some(key),
        Bound::Unbounded => None,
    }
}

impl Core {
    /// Returns a key at or before every key of a keyspace's tables once they are flushed.
    fn smallest_key(&self, id: KeyspaceId, order: &crate::base::comparator::KeyOrder) -> Vec<u8> {
        let state = self.state.load();
        let tree = &state.keyspace(id).tree;
        let tables = tree.tables.levels().iter().flatten().map(|live| live.meta.smallest.clone());
        let memtables = std::iter::once(&tree.active).chain(&tree.sealed).filter_map(|memtable| {
            let mut cursor = memtable.cursor();
            cursor.seek_to_first().expect("memory");
            cursor.is_valid().then(|| cursor.key().user_key.to_vec())
        });
        tables.chain(memtables).min_by(|a, b| order.compare(a, b)).unwrap_or_default()
    }

    /// Marks a good end in log and manifest, after the threads have stopped.
    fn finish(&self) -> Result<()> {
        if self.is_read_only {
            return Ok(());
        }
        if let Some(error) = self.book.lock().writing_error.clone() {
            return Err(error.wrap(ErrorKind::ReadOnly, "writing was off when the database was closed"));
        }
        let mut leader = self.leader.lock();
        let wal = leader.wal.as_mut().expect("a writable database has an open segment");
        wal.finish()?;
        let closed = Change::Closed { wal: wal.number(), good_len: wal.good_len() };
        let mut manifest = self.manifest.lock();
        let manifest = manifest.as_mut().expect("a writable database has a manifest");
        manifest.install(&[closed])?;
        manifest.finish(self.vfs.as_ref(), self.take_file_number())
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Db({})", self.core().directory.display())
    }
}

/// Gathers how to open a database; every plain number lies in [`Options`].
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// use std::sync::Arc;
/// use tinylsm::{Background, Db, Options, vfs::mem::MemVfs};
/// let disk = Arc::new(MemVfs::new());
/// let options = Options { memtable_bytes: 1 << 20, ..Options::default() };
/// let db = Db::builder("/data").vfs(disk.clone()).options(options).background(Background::Manual).open()?;
/// db.put("k", "v")?;
/// db.close()?;
/// let db = Db::builder("/data").vfs(disk).open_read_only()?;
/// assert!(db.get("k")?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder opens nothing until it is told"]
pub struct DbBuilder {
    path: PathBuf,
    options: Options,
    vfs: Option<Arc<dyn Vfs>>,
    background: Background,
    comparators: Comparators,
    create_if_missing: bool,
}

impl DbBuilder {
    /// Sets the options.
    pub fn options(mut self, options: Options) -> DbBuilder {
        self.options = options;
        self
    }

    /// Sets disk and clock; the real ones by default.
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> DbBuilder {
        self.vfs = Some(vfs);
        self
    }

    /// Sets who runs flushes and compactions; two threads by default.
    pub fn background(mut self, background: Background) -> DbBuilder {
        self.background = background;
        self
    }

    /// Makes a comparator known by its name; repeatable. Bytewise and reverse bytewise order are always known.
    pub fn comparator(mut self, comparator: Arc<dyn Comparator>) -> DbBuilder {
        self.comparators.add(comparator);
        self
    }

    /// Sets whether [`DbBuilder::open`] creates what is not there; it does by default.
    pub fn create_if_missing(mut self, yes: bool) -> DbBuilder {
        self.create_if_missing = yes;
        self
    }

    /// Opens the database, recovering it first if it was not closed in good order. What was recovered is durable
    /// when this returns.
    ///
    /// # Errors
    /// `NotFound`; `Locked` if it is open already; `InvalidArgument` for an option out of range; `Incompatible` for
    /// a newer format, an unknown comparator, or a directory that is not a database; `Corruption` with file and
    /// offset; `NoSpace`; `Io`. Nothing that was in the directory is changed or removed then.
    pub fn open(self) -> Result<Db> {
        let background = self.background;
        Db::start(opening::open(self.request(false))?, background)
    }

    /// Opens the database for reading only and changes no byte of it: what recovery would write stays in memory.
    ///
    /// # Errors
    /// As [`DbBuilder::open`]; `Locked` while a writer has it open.
    pub fn open_read_only(self) -> Result<Db> {
        let background = self.background;
        Db::start(opening::open(self.request(true))?, background)
    }

    fn request(self, is_read_only: bool) -> OpenRequest {
        OpenRequest {
            directory: self.path,
            vfs: Arc::new(FinalDirSync::new(self.vfs.unwrap_or_else(|| Arc::new(OsVfs::new())))),
            options: self.options,
            comparators: self.comparators,
            background: self.background,
            create_if_missing: self.create_if_missing,
            is_read_only,
        }
    }
}

#[cfg(test)]
mod tests;
