//! What a database is in memory: what readers see, and what writers and jobs keep.
//!
//! Readers see [`State`], immutable and published by an atomic swap. Everything that changes lies behind four
//! locks, taken in this order and never the other way round:
//!
//! 1. `leader`: commit leadership; the open WAL segment and the last number. Held over log I/O.
//! 2. `manifest`: one edit at a time. Held over manifest I/O.
//! 3. `book`: what is sealed, running, obsolete or failed. Short, never over I/O; `State` is swapped under it.
//! 4. the list of snapshots. Short.
//!
//! Syncs of the directory and of the open segment have locks of their own ([`crate::vfs::final_sync`]), taken last.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::db::directory::FinalDirSync;
use crate::db::options::{Comparators, KeyspaceOptions, Options};
use crate::format::names::FileName;
use crate::memtable::Memtable;
use crate::memtable::arena::Arena;
use crate::mvcc::snapshots::Snapshots;
use crate::mvcc::visible::Horizon;
use crate::read::tree::Tree;
use crate::sync::{Condvar, Mutex, yield_point};
use crate::table::reader::Table;
use crate::table::shared::Cache;
use crate::version::edit::Change;
use crate::version::levels::Live;
use crate::version::manifest::ManifestWriter;
use crate::vfs::{DirLock, Vfs};
use crate::wal::segment::Segment;
use crate::wal::writer::WalWriter;
use crate::write::commit::Request;
use crate::write::queue::Queue;
use arc_swap::{ArcSwap, Guard};
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// A table as the versions of this database hold it.
pub(crate) type LiveTable = Arc<Live<Arc<Table>>>;

/// What never changes about a keyspace.
#[derive(Debug)]
pub(crate) struct KeyspaceInfo {
    pub id: KeyspaceId,
    pub name: String,
    pub options: KeyspaceOptions,
}

/// What reading level 0 of a keyspace has cost since it was last merged; shared by all its moments.
#[derive(Debug)]
pub(crate) struct ReadWaste {
    /// Bytes of blocks that seeks would not have read from a merged tree.
    wasted_bytes: AtomicU64,
    /// From how many on a merge is worth its cost.
    due_at_bytes: AtomicU64,
}

impl Default for ReadWaste {
    fn default() -> ReadWaste {
        ReadWaste { wasted_bytes: AtomicU64::new(0), due_at_bytes: AtomicU64::new(u64::MAX) }
    }
}

impl ReadWaste {
    /// Counts a seek; tells whether it was the one that makes a merge due.
    ///
    /// A seek adds and then looks at the price, `weigh` sets the price and then looks at the sum: in one order of all
    /// four, at least one of the two sees what the other did, and no merge waits for the next occasion.
    fn count(&self, bytes: u64) -> bool {
        let before = self.wasted_bytes.fetch_add(bytes, Ordering::SeqCst);
        let due_at = self.due_at_bytes.load(Ordering::SeqCst);
        before < due_at && before + bytes >= due_at
    }

    /// Returns what was wasted so far, and learns what a merge would cost now.
    pub(crate) fn weigh(&self, merge_bytes: Option<u64>) -> u64 {
        self.due_at_bytes.store(merge_bytes.unwrap_or(u64::MAX), Ordering::SeqCst);
        self.wasted_bytes.load(Ordering::SeqCst)
    }

    /// Begins anew: level 0 was merged.
    pub(crate) fn forget(&self) {
        self.wasted_bytes.store(0, Ordering::Relaxed);
    }
}

/// A keyspace at one moment.
#[derive(Clone)]
pub(crate) struct KeyspaceTree {
    pub info: Arc<KeyspaceInfo>,
    pub waste: Arc<ReadWaste>,
    pub tree: Tree,
}

/// Everything readers look at, at one moment. Keyspaces lie at the index of their number.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub keyspaces: Vec<KeyspaceTree>,
}

impl State {
    pub(crate) fn keyspace(&self, id: KeyspaceId) -> &KeyspaceTree {
        &self.keyspaces[id.0 as usize]
    }

    fn active_len_bytes(&self) -> u64 {
        self.keyspaces.iter().map(|keyspace| keyspace.tree.active.len_bytes()).sum()
    }
}

/// What belongs to the holder of commit leadership.
pub(crate) struct Leader {
    /// None in a database opened read-only.
    pub wal: Option<WalWriter>,
    /// Holds the entries of the active memtables.
    pub arena: Arena,
    pub last_seq: SeqNum,
}

/// The memtables that were filled through one WAL segment, sealed together.
pub(crate) struct Generation {
    pub last_seq: SeqNum,
    pub memtables: Vec<(KeyspaceId, Arc<Memtable>)>,
}

/// What is sealed, running, obsolete or failed.
#[derive(Default)]
pub(crate) struct Book {
    /// Oldest first, each with the WAL segment that holds it.
    pub sealed: VecDeque<(FileNumber, Arc<Generation>)>,
    /// The segment that takes commits now; none in a database opened read-only.
    pub active_wal: Option<Arc<Segment>>,
    /// Every segment whose file may be needed.
    pub wals: BTreeSet<FileNumber>,
    pub is_flushing: bool,
    pub is_purging: bool,
    pub is_writing_back: bool,
    pub compacting: BTreeSet<KeyspaceId>,
    /// Tables in no current version, perhaps still read.
    pub obsolete: Vec<LiveTable>,
    /// Files that nobody needs any more.
    pub removable: BTreeSet<FileName>,
    /// Removals that failed, tried again at the next open or purge.
    pub unremovable: BTreeSet<FileName>,
    /// Why writing is off for good.
    pub writing_error: Option<Error>,
    /// The last failure of a job, until one of its kind succeeds.
    pub job_error: Option<Error>,
    pub job_failures_count: u64,
    /// Monotonic time before which no job is tried again after a failure.
    pub retry_at: u64,
}

impl Book {
    /// Tells whether a job is running.
    pub(crate) fn is_working(&self) -> bool {
        self.is_flushing || self.is_purging || self.is_writing_back || !self.compacting.is_empty()
    }
}

/// The heart of a database; shared by handles and threads.
pub(crate) struct Core {
    pub vfs: Arc<FinalDirSync>,
    pub directory: PathBuf,
    pub options: Options,
    pub comparators: Comparators,
    pub cache: Arc<Cache>,
    pub is_read_only: bool,
    pub is_manual: bool,
    pub threads_count: usize,
    pub state: ArcSwap<State>,
    pub visible: AtomicU64,
    pub time_high_water: AtomicI64,
    pub snapshots: Snapshots,
    pub next_file: AtomicU64,
    pub queue: Queue<Request, Result<SeqNum>>,
    pub leader: Mutex<Leader>,
    pub manifest: Mutex<Option<ManifestWriter>>,
    pub book: Mutex<Book>,
    /// Something in the book changed.
    pub changed: Condvar,
    pub sealed_count: AtomicUsize,
    /// The open segment has so much unsynced that a job was asked for; cleared when somebody looks for one.
    pub is_write_back_due: AtomicBool,
    pub is_poisoned: AtomicBool,
    pub is_closing: AtomicBool,
    pub directory_lock: Mutex<Option<Box<dyn DirLock>>>,
    pub counters: Counters,
}

/// What happened since the database was opened.
#[derive(Default, Debug)]
pub(crate) struct Counters {
    pub flushes: AtomicU64,
    pub compactions: AtomicU64,
    pub trivial_moves: AtomicU64,
    pub bytes_flushed: AtomicU64,
    pub bytes_compacted: AtomicU64,
    pub stalls: AtomicU64,
    pub stall_nanos: AtomicU64,
    pub manifests_rolled: AtomicU64,
    pub torn_tails_cut: AtomicU64,
    pub wal_len: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl Core {
    /// Pins a state and a number at which to read it.
    pub(crate) fn pin(&self) -> (Guard<Arc<State>>, SeqNum) {
        // In this order. The number may then be ahead of the state, if memtables were switched in between: what is read
        // is the state when they were, and it holds the newest version of every key. A number behind the state would
        // ask for versions that its tables may have dropped.
        let state = self.state.load();
        yield_point("pin: state loaded");
        let seq = self.visible_seq();
        yield_point("pin: number loaded");
        (state, seq)
    }

    pub(crate) fn visible_seq(&self) -> SeqNum {
        SeqNum::new(self.visible.load(Ordering::Acquire))
    }

    /// Returns the time by which expiry is decided: the wall clock, but never before what was decided by.
    pub(crate) fn expiry_time(&self) -> UnixMillis {
        let wall = self.vfs.wall().0;
        let before = self.time_high_water.load(Ordering::Relaxed);
        if wall <= before {
            return UnixMillis(before);
        }
        // Only here, once a millisecond, do readers change what other threads read.
        UnixMillis(self.time_high_water.fetch_max(wall, Ordering::Relaxed).max(wall))
    }

    /// Returns what a reader that starts now sees of the pinned number.
    pub(crate) fn horizon(&self, seq: SeqNum) -> Horizon {
        Horizon { seq, now: self.expiry_time() }
    }

    /// Counts what a seek in a keyspace wastes on level 0, and wakes the background when a merge has become due by it.
    pub(crate) fn count_seek(&self, keyspace: &KeyspaceTree) {
        let level0_count = keyspace.tree.tables.level(0).len() as u64;
        let block_bytes = keyspace.info.options.block_bytes as u64;
        if level0_count > 0 && keyspace.waste.count(level0_count * block_bytes) {
            self.wake_background();
        }
    }

    /// Makes idle background threads look for work.
    pub(crate) fn wake_background(&self) {
        // A thread that looked before is waiting by the time the lock is free.
        drop(self.book.lock());
        self.changed.notify_all();
    }

    /// Gives out a file number that was never used.
    pub(crate) fn take_file_number(&self) -> FileNumber {
        FileNumber(self.next_file.fetch_add(1, Ordering::Relaxed))
    }

    /// Publishes a changed state. Call with the book locked.
    pub(crate) fn change_state(&self, book: &mut Book, change: impl FnOnce(&mut State)) {
        let mut state = State::clone(&self.state.load());
        change(&mut state);
        yield_point("state: before publishing");
        self.state.store(Arc::new(state));
        yield_point("state: published");
        self.sealed_count.store(book.sealed.len(), Ordering::Release);
    }

    /// Tells whether the active memtables have reached their size.
    pub(crate) fn is_active_full(&self) -> bool {
        self.state.load().active_len_bytes() >= self.options.memtable_bytes as u64
    }

    pub(crate) fn active_len_bytes(&self) -> u64 {
        self.state.load().active_len_bytes()
    }

    /// Installs an edit durably, rolling the manifest when it has grown. After an error writing is off.
    pub(crate) fn install(
        &self,
        manifest: &mut Option<ManifestWriter>,
        mut changes: Vec<Change>,
    ) -> Result<()> {
        self.check_writable()?;
        let manifest = manifest.as_mut().expect("only a writable database installs edits");
        changes.push(Change::NextFile(FileNumber(self.next_file.load(Ordering::Relaxed))));
        manifest.install(&changes).map_err(|error| self.poison(&error))?;
        if manifest.is_grown(self.options.manifest_roll_bytes) {
            let (number, temporary) = (self.take_file_number(), self.take_file_number());
            match manifest.roll(self.vfs.as_ref(), number, temporary) {
                Ok(old) => {
                    Counters::add(&self.counters.manifests_rolled, 1);
                    self.book.lock().removable.insert(FileName::Manifest(old));
                }
                // The edit itself is installed; only the next one will be refused.
                Err(error) => drop(self.poison(&error)),
            }
        }
        Ok(())
    }

    /// Turns writing off for good because of `error`, and returns it. The first error is kept, unless `resume` could
    /// mend it and cannot mend this one.
    pub(crate) fn poison(&self, error: &Error) -> Error {
        let mut book = self.book.lock();
        if book.writing_error.as_ref().is_none_or(|first| is_full_log(first) && !is_full_log(error)) {
            book.writing_error = Some(error.clone());
        }
        self.is_poisoned.store(true, Ordering::Release);
        drop(book);
        self.changed.notify_all();
        error.clone()
    }

    /// Turns writing off if a sync of the directory has failed: no file can be given a name for sure any more.
    pub(crate) fn check_directory(&self) {
        if let Some(error) = self.vfs.failure() {
            drop(self.poison(&error));
        }
    }

    /// Fails if the database takes no writes.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.is_closing.load(Ordering::Acquire) {
            return Err(closed());
        }
        if self.is_read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the database was opened read-only"));
        }
        if self.is_poisoned.load(Ordering::Acquire) {
            // None, if writing was resumed since the flag was read.
            return self.read_only_error().map_or(Ok(()), Err);
        }
        Ok(())
    }

    fn read_only_error(&self) -> Option<Error> {
        let cause = self.book.lock().writing_error.clone()?;
        let message =
            format!("the database is read-only until it is reopened, since a write failed: {cause}");
        Some(cause.wrap(ErrorKind::ReadOnly, message))
    }

    /// Fails if the database was closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closing.load(Ordering::Relaxed) { Err(closed()) } else { Ok(()) }
    }
}

/// Tells whether an error is an append to a WAL segment that met a full disk, the one failure that `resume` mends.
pub(crate) fn is_full_log(error: &Error) -> bool {
    let name = error.file().and_then(Path::file_name).and_then(OsStr::to_str).and_then(FileName::parse);
    error.kind() == ErrorKind::NoSpace
        && error.operation() == Some("append")
        && matches!(name, Some(FileName::Wal(_)))
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the database was closed")
}
