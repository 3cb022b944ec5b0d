//! What a database is in memory: what readers see ([`View`]), and what writers and jobs keep.
//!
//! Everything that changes lies behind locks, taken in this order and never the other way round:
//!
//! 1. `leader`: commit leadership; the open WAL segment and the last number. Held over log I/O.
//! 2. `manifest`: one edit at a time. Held over manifest I/O.
//! 3. `book`: what is sealed, running, obsolete or failed. Short, never over I/O; the state is swapped under it.
//! 4. the failure inside [`Ends`], the list of snapshots, the queue of the background threads. Short.
//!
//! Syncs of the directory and of the open segment have locks of their own ([`crate::vfs::final_sync`]), taken last.

use crate::base::error::{Error, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::db::book::Book;
use crate::db::directory::Directory;
use crate::db::ends::Ends;
use crate::db::options::{Comparators, Options};
use crate::db::reserve::Reserve;
use crate::db::runtime::Waker;
use crate::db::state::{KeyspaceTree, State, View};
use crate::memtable::arena::Arena;
use crate::mvcc::visible::Horizon;
use crate::read::waste::ReadWaste;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Counter};
use crate::sync::{Condvar, Mutex, yield_point};
use crate::table::shared::Cache;
use crate::version::manifest::ManifestWriter;
use crate::vfs::Vfs;
use crate::wal::writer::WalWriter;
use crate::write::commit::Request;
use crate::write::queue::Queue;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

/// What belongs to the holder of commit leadership.
pub(crate) struct Leader {
    /// None in a database opened read-only, and where a full disk did not let a segment be begun.
    pub wal: Option<WalWriter>,
    /// Holds the entries of the active memtables.
    pub arena: Arena,
    pub last_seq: SeqNum,
    /// All up to this number is in sealed memtables or tables, or passed over.
    pub sealed_seq: SeqNum,
    /// What has to be done before the first write, if opening could not.
    pub unestablished: Option<Box<crate::db::establish::Establishment>>,
}

/// How writes come in: the queue behind the leader, and what they weigh.
pub(crate) struct Writing {
    pub queue: Queue<Request, Result<SeqNum>>,
    pub leader: Mutex<Leader>,
    /// Bytes of all active memtables, as the leader last counted them.
    pub active_bytes: AtomicU64,
    pub sealed_count: AtomicUsize,
    /// The open segment has so much unsynced that a job was asked for; cleared when somebody looks for one.
    pub is_write_back_due: AtomicBool,
    /// Length of the open segment with what is still to be appended, as the leader last counted it.
    pub wal_bytes: AtomicU64,
    /// Commits that the open segment holds back in memory, and their bytes, as the leader last counted them.
    pub held_back_count: Counter,
    pub held_back_bytes: Counter,
}

/// Leads from what readers count to the database, which is made after it.
#[derive(Clone, Default)]
pub(crate) struct Link {
    core: Arc<OnceLock<Weak<Core>>>,
}

impl Link {
    /// Makes what counts the reads of a keyspace in vain.
    pub(crate) fn new_waste(&self, id: KeyspaceId, memtable_bytes: usize) -> Arc<ReadWaste> {
        let link = Arc::clone(&self.core);
        let wake = move || {
            if let Some(core) = link.get().and_then(Weak::upgrade) {
                core.nominate_all(&[id]);
            }
        };
        Arc::new(ReadWaste::new(memtable_bytes as u64 / limits::NOTICE_PART, Arc::new(wake)))
    }
}

/// Who runs the background jobs.
pub(crate) enum Host {
    /// Whoever calls `background_step` or would have to wait.
    Caller,
    /// Threads, of this database or of many.
    Threads(Waker),
    /// Nobody: the database is only read.
    Nobody,
}

/// The heart of a database; shared by handles and threads.
pub(crate) struct Core {
    me: Weak<Core>,
    pub directory: Arc<Directory>,
    pub options: Options,
    pub comparators: Comparators,
    pub cache: Arc<Cache>,
    pub ends: Ends,
    pub host: Host,
    pub view: View,
    pub writing: Writing,
    pub manifest: Mutex<Option<ManifestWriter>>,
    pub book: Mutex<Book>,
    /// Something in the book changed.
    pub changed: Condvar,
    pub reserve: Reserve,
    /// Bytes of the lock file, which nobody changes while it is held.
    pub(in crate::db) lock_len: u64,
    pub(in crate::db) next_file: AtomicU64,
    /// Numbers below this one are stated as taken by a synced edit.
    pub(in crate::db) stated_next_file: AtomicU64,
    is_queued: AtomicBool,
    /// It waits for the right to merge, among the databases of its runtime.
    is_refused: AtomicBool,
    /// Nothing is going to become due until somebody writes; the next commit wakes the background, so that it hears of
    /// the quiet after it.
    pub is_settled: AtomicBool,
    link: Link,
    pub counters: Counters,
}

/// What a core is made of.
pub(crate) struct Parts {
    pub directory: Arc<Directory>,
    pub options: Options,
    pub comparators: Comparators,
    pub cache: Arc<Cache>,
    pub host: Host,
    pub view: View,
    pub leader: Leader,
    pub book: Book,
    pub next_file: FileNumber,
    pub lock_len: u64,
    pub link: Link,
}

/// What happened since the database was opened.
#[derive(Default, Debug)]
pub(crate) struct Counters {
    pub flushes: Counter,
    pub compactions: Counter,
    pub trivial_moves: Counter,
    pub bytes_flushed: Counter,
    pub bytes_compacted: Counter,
    pub stalls: Counter,
    pub stall_nanos: Counter,
    pub manifests_rolled: Counter,
    pub torn_tails_cut: Counter,
}

impl Core {
    /// Puts a core together, in the phase of opening.
    pub(crate) fn new(parts: Parts) -> Arc<Core> {
        let Parts { directory, options, comparators, cache, host, view, leader, book, next_file, .. } = parts;
        let (lock_len, link) = (parts.lock_len, parts.link);
        let writing = Writing {
            queue: Queue::default(),
            active_bytes: AtomicU64::new(leader.arena.charged_bytes()),
            leader: Mutex::new(leader),
            sealed_count: AtomicUsize::new(book.sealed.len()),
            is_write_back_due: AtomicBool::new(false),
            wal_bytes: AtomicU64::new(0),
            held_back_count: Counter::new(0),
            held_back_bytes: Counter::new(0),
        };
        let core = Arc::new_cyclic(|me| Core {
            me: me.clone(),
            directory,
            options,
            comparators,
            cache,
            ends: Ends::new(),
            host,
            view,
            writing,
            manifest: Mutex::new(None),
            book: Mutex::new(book),
            changed: Condvar::new(),
            reserve: Reserve::default(),
            lock_len,
            next_file: AtomicU64::new(next_file.0),
            stated_next_file: AtomicU64::new(0),
            is_queued: AtomicBool::new(false),
            is_refused: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            link,
            counters: Counters::default(),
        });
        assert!(core.link.core.set(Arc::downgrade(&core)).is_ok(), "a link leads to one core");
        core
    }

    /// Returns the disk that everything of this database lies on.
    pub(crate) fn disk(&self) -> Arc<dyn Vfs> {
        Arc::clone(&self.directory) as Arc<dyn Vfs>
    }

    pub(crate) fn weak(&self) -> Weak<Core> {
        self.me.clone()
    }

    /// Notes that a background thread is going to look at this database; `false` if one was already.
    pub(crate) fn begin_wake(&self) -> bool {
        !self.is_queued.swap(true, Ordering::SeqCst)
    }

    /// Notes that a background thread looks now: who has something for it later calls again.
    pub(crate) fn end_wake(&self) {
        self.is_queued.store(false, Ordering::SeqCst);
        yield_point("background: woken");
    }

    /// Notes that it waits for the right to merge; `false` if it did already.
    pub(crate) fn begin_refusal(&self) -> bool {
        !self.is_refused.swap(true, Ordering::SeqCst)
    }

    /// Notes that it does not, and is going to be looked at.
    pub(crate) fn end_refusal(&self) {
        self.is_refused.store(false, Ordering::SeqCst);
    }

    /// Makes the background look for work.
    pub(crate) fn wake_background(&self) {
        match &self.host {
            Host::Threads(waker) => waker.wake(self),
            Host::Caller | Host::Nobody => {}
        }
    }

    /// Returns the time by which expiry is decided.
    pub(crate) fn expiry_time(&self) -> UnixMillis {
        self.view.expiry_time(self.directory.as_ref())
    }

    /// Returns what a reader that starts now sees of the pinned number.
    pub(crate) fn horizon(&self, seq: SeqNum) -> Horizon {
        Horizon { seq, now: self.expiry_time() }
    }

    /// Counts what a seek in a keyspace wastes on level 0, and lets the background look when that may make a merge due.
    pub(crate) fn count_seek(&self, keyspace: &KeyspaceTree) {
        let level0_count = keyspace.tree.tables.level(0).len() as u64;
        let block_bytes = keyspace.info.options.block_bytes as u64;
        if keyspace.waste.count_seek(level0_count * block_bytes) {
            self.nominate_all(&[keyspace.info.id]);
        }
    }

    /// Makes what counts the reads of a new keyspace in vain.
    pub(crate) fn new_waste(&self, id: KeyspaceId) -> Arc<ReadWaste> {
        self.link.new_waste(id, self.options.memtable_bytes)
    }

    /// Lets the background look whether keyspaces have something to merge.
    pub(crate) fn nominate_all(&self, ids: &[KeyspaceId]) {
        if ids.is_empty() || self.ends.is_cancelled() || self.ends.is_forked() {
            return;
        }
        let mut book = self.book.lock();
        for id in ids {
            book.board.nominate(*id);
        }
        drop(book);
        self.wake_background();
        // Those who wait for idleness wait for more now.
        self.changed.notify_all();
    }

    /// Publishes a changed state. Call with the book locked.
    pub(crate) fn change_state(&self, book: &mut Book, change: impl FnOnce(&mut State)) {
        let mut state = State::clone(&self.view.state());
        change(&mut state);
        yield_point("state: before publishing");
        self.view.publish_state(state);
        yield_point("state: published");
        self.writing.sealed_count.store(book.sealed.len(), Ordering::Release);
    }

    /// Tells whether the active memtables have reached their size, or as much as a full disk could still flush.
    pub(crate) fn is_active_full(&self) -> bool {
        let active_bytes = self.writing.active_bytes.load(Ordering::Relaxed);
        active_bytes >= self.options.memtable_bytes as u64 || self.reserve.is_overtaken(active_bytes)
    }

    /// Turns writing off because of `error`, returns it, and tells everybody who waits.
    pub(crate) fn fail(&self, error: &Error) -> Error {
        let error = self.ends.fail(error);
        // Who looked before is waiting by the time the lock is free.
        drop(self.book.lock());
        self.changed.notify_all();
        error
    }

    /// Turns writing off if a sync of the directory has failed: no file can be given a name for sure any more.
    pub(crate) fn check_directory(&self) {
        if let Some(error) = self.directory.failure() {
            drop(self.fail(&error));
        }
    }
}
