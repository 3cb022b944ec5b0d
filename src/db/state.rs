//! What a database is in memory: what readers see, and what writers and jobs keep.
//!
//! Readers see [`View`], whose [`State`] is immutable and published by an atomic swap. Everything that changes lies behind
//! locks, taken in this order and never the other way round:
//!
//! 1. `leader`: commit leadership; the open WAL segment and the last number. Held over log I/O.
//! 2. `manifest`: one edit at a time. Held over manifest I/O.
//! 3. `book`: what is sealed, running, obsolete or failed. Short, never over I/O; `State` is swapped under it.
//! 4. the failure inside [`Ends`], the list of snapshots, the queue of the background threads. Short.
//!
//! Syncs of the directory and of the open segment have locks of their own ([`crate::vfs::final_sync`]), taken last.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::db::board::{Board, PARKED_FOR, nanos};
use crate::db::directory::Directory;
use crate::db::ends::{Ends, is_mendable};
use crate::db::files::FileLife;
use crate::db::options::{Comparators, KeyspaceOptions, Options};
use crate::db::reserve::Reserve;
use crate::db::runtime::Waker;
use crate::format::names::FileName;
use crate::memtable::Memtable;
use crate::memtable::arena::Arena;
use crate::mvcc::snapshots::Snapshots;
use crate::mvcc::visible::Horizon;
use crate::read::tree::{Tables, Tree};
use crate::read::waste::ReadWaste;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Counter};
use crate::sync::{Condvar, Mutex, yield_point};
use crate::table::reader::Table;
use crate::table::shared::Cache;
use crate::version::edit::{self, Change};
use crate::version::levels::Live;
use crate::version::manifest::{Failure, ManifestWriter};
use crate::vfs::Vfs;
use crate::wal::segment::Segment;
use crate::wal::writer::WalWriter;
use crate::write::commit::Request;
use crate::write::queue::Queue;
use arc_swap::{ArcSwap, Guard};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

/// A table as the versions of this database hold it.
pub(crate) type LiveTable = Arc<Live<Arc<Table>>>;

/// What a keyspace is. Another name makes another one of these, with the same number and the same `fate`.
#[derive(Debug)]
pub(crate) struct KeyspaceInfo {
    pub id: KeyspaceId,
    pub name: String,
    pub options: KeyspaceOptions,
    pub fate: Arc<Fate>,
}

/// What became of a keyspace.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    is_dropped: AtomicBool,
}

impl KeyspaceInfo {
    /// Notes that the keyspace was dropped; call it when no state has it any more.
    pub(crate) fn note_dropped(&self) {
        self.fate.is_dropped.store(true, Ordering::Release);
    }

    /// Fails if the keyspace was dropped.
    ///
    /// # Errors
    /// `Closed`.
    #[inline]
    pub(crate) fn check_not_dropped(&self) -> Result<()> {
        if self.fate.is_dropped.load(Ordering::Acquire) { Err(self.dropped()) } else { Ok(()) }
    }

    /// Returns what whoever uses it gets once it was dropped.
    #[cold]
    pub(crate) fn dropped(&self) -> Error {
        Error::new(ErrorKind::Closed, format!("keyspace {:?} was dropped", self.name))
    }
}

/// A keyspace at one moment.
#[derive(Clone)]
pub(crate) struct KeyspaceTree {
    pub info: Arc<KeyspaceInfo>,
    pub waste: Arc<ReadWaste>,
    pub tree: Tree,
    /// What it was before it was emptied, while a snapshot may see that.
    pub past: Option<Arc<Past>>,
}

/// A keyspace as it was before it was emptied.
pub(crate) struct Past {
    /// The number at which it was emptied: readers before it see this.
    pub until: SeqNum,
    pub tree: Tree,
    /// What it was before it was emptied the time before.
    pub older: Option<Arc<Past>>,
}

impl Past {
    /// Returns the first number at which the keyspace was emptied, of those that are told of here.
    fn oldest_until(&self) -> SeqNum {
        let mut past = self;
        while let Some(older) = &past.older {
            past = older;
        }
        past.until
    }

    /// Returns what readers at a number and later see of this.
    fn kept_from(self: &Arc<Past>, first_seq: SeqNum) -> Option<Arc<Past>> {
        if self.until <= first_seq {
            return None;
        }
        let older = self.older.as_ref().and_then(|older| older.kept_from(first_seq));
        Some(Arc::new(Past { until: self.until, tree: self.tree.clone(), older }))
    }
}

impl KeyspaceTree {
    /// Returns the tree that a reader at a number sees.
    #[inline]
    pub(crate) fn tree_at(&self, seq: SeqNum) -> &Tree {
        let mut tree = &self.tree;
        let mut past = self.past.as_deref();
        while let Some(earlier) = past
            && seq < earlier.until
        {
            tree = &earlier.tree;
            past = earlier.older.as_deref();
        }
        tree
    }

    /// Lets go of what only readers before a number see.
    fn forget_past(&mut self, first_seq: SeqNum) {
        self.past = self.past.take().and_then(|past| past.kept_from(first_seq));
    }
}

/// Keyspaces that states share together.
const SHARE_COUNT: usize = 32;

/// Everything readers look at, at one moment.
///
/// A state that differs from the one before in a few keyspaces shares all others with it, some tens together: what is
/// copied for a change hardly grows with how many keyspaces there are.
#[derive(Clone, Default)]
pub(crate) struct State {
    /// By number; none is empty, and until a keyspace is dropped, every share but the last is full.
    shares: Vec<Arc<[KeyspaceTree]>>,
    keyspaces_count: usize,
    /// Keyspaces that were dropped since the database was opened.
    drops_count: u64,
    /// Keyspaces of which is kept what they were before they were emptied.
    with_past: BTreeSet<KeyspaceId>,
    tables_len_bytes: u64,
    catalog_len_bytes: u64,
    /// Keyspaces that have tables.
    filled_count: u64,
}

impl State {
    /// Returns a keyspace that is there for sure, as the default one is.
    ///
    /// # Panics
    /// If it is not.
    #[inline]
    pub(crate) fn keyspace(&self, id: KeyspaceId) -> &KeyspaceTree {
        self.find(id).expect("only what cannot be dropped now is asked for like this")
    }

    /// Returns a keyspace; none if it was dropped.
    #[inline]
    pub(crate) fn find(&self, id: KeyspaceId) -> Option<&KeyspaceTree> {
        // Its place, unless one with a lower number was dropped.
        let index = id.0 as usize;
        let guess = self.shares.get(index / SHARE_COUNT).and_then(|share| share.get(index % SHARE_COUNT));
        match guess {
            Some(keyspace) if keyspace.info.id == id => Some(keyspace),
            _ => self.place(id).map(|(share, at)| &self.shares[share][at]),
        }
    }

    /// Finds the place of a keyspace.
    fn place(&self, id: KeyspaceId) -> Option<(usize, usize)> {
        let is_before = |share: &Arc<[KeyspaceTree]>| share.last().is_some_and(|last| last.info.id < id);
        let share = self.shares.partition_point(is_before);
        let keyspaces = self.shares.get(share)?;
        let at = keyspaces.binary_search_by_key(&id, |keyspace| keyspace.info.id).ok()?;
        Some((share, at))
    }

    fn find_mut(&mut self, id: KeyspaceId) -> Option<&mut KeyspaceTree> {
        let (share, at) = self.place(id)?;
        Some(&mut Arc::make_mut(&mut self.shares[share])[at])
    }

    /// Lends a keyspace's tree to be changed, all but its tables.
    ///
    /// # Panics
    /// If there is no such keyspace.
    pub(crate) fn tree_mut(&mut self, id: KeyspaceId) -> &mut Tree {
        &mut self.find_mut(id).expect("only what cannot be dropped now is changed").tree
    }

    /// Gives a keyspace other tables.
    pub(crate) fn set_tables(&mut self, id: KeyspaceId, tables: Arc<Tables>) {
        let before = std::mem::replace(&mut self.tree_mut(id).tables, tables);
        self.tables_len_bytes -= before.len_bytes();
        self.catalog_len_bytes -= before.catalog_len_bytes();
        self.filled_count -= u64::from(before.deepest().is_some());
        self.count_tables(id);
    }

    fn count_tables(&mut self, id: KeyspaceId) {
        let tables = Arc::clone(&self.keyspace(id).tree.tables);
        self.tables_len_bytes += tables.len_bytes();
        self.catalog_len_bytes += tables.catalog_len_bytes();
        self.filled_count += u64::from(tables.deepest().is_some());
    }

    /// Adds a keyspace, whose number is above all others.
    pub(crate) fn add_keyspace(&mut self, keyspace: KeyspaceTree) {
        let id = keyspace.info.id;
        let last = self.keyspaces().next_back();
        assert!(last.is_none_or(|last| last.info.id < id), "numbers of keyspaces count up");
        match self.shares.last_mut().filter(|share| share.len() < SHARE_COUNT) {
            Some(share) => *share = share.iter().cloned().chain([keyspace]).collect(),
            None => self.shares.push(Arc::new([keyspace])),
        }
        self.keyspaces_count += 1;
        self.count_tables(id);
    }

    /// Takes a keyspace out; none if it is not there.
    pub(crate) fn remove_keyspace(&mut self, id: KeyspaceId) -> Option<KeyspaceTree> {
        let removed = self.find(id)?.clone();
        // They are no longer counted.
        self.set_tables(id, Arc::default());
        let (share, _) = self.place(id)?;
        let left = self.shares[share].iter().filter(|keyspace| keyspace.info.id != id).cloned();
        self.shares[share] = left.collect();
        if self.shares[share].is_empty() {
            self.shares.remove(share);
        }
        self.keyspaces_count -= 1;
        self.drops_count += 1;
        self.with_past.remove(&id);
        Some(removed)
    }

    /// Says of a keyspace what it is from now on.
    pub(crate) fn set_info(&mut self, info: Arc<KeyspaceInfo>) {
        if let Some(keyspace) = self.find_mut(info.id) {
            keyspace.info = info;
        }
    }

    /// Empties a keyspace with the commit `seq`; readers before it see what was in it.
    pub(crate) fn clear_keyspace(&mut self, id: KeyspaceId, seq: SeqNum, memtable_bytes: usize) {
        let Some(keyspace) = self.find_mut(id) else { return };
        let empty = Tree::new(keyspace.tree.order.clone(), memtable_bytes);
        let tree = keyspace.tree.clone();
        keyspace.past = Some(Arc::new(Past { until: seq, tree, older: keyspace.past.take() }));
        keyspace.tree = Tree { tables: Arc::clone(&keyspace.tree.tables), ..empty };
        self.with_past.insert(id);
        // Counted, what goes and what comes.
        self.set_tables(id, Arc::default());
    }

    /// Lets go of what only readers before a number see.
    pub(crate) fn forget_past(&mut self, first_seq: SeqNum) {
        for id in std::mem::take(&mut self.with_past) {
            let keyspace = self.find_mut(id).expect("what has a past is there");
            keyspace.forget_past(first_seq);
            if keyspace.past.is_some() {
                self.with_past.insert(id);
            }
        }
    }

    /// Tells whether something is kept that only readers before some number see.
    pub(crate) fn has_past(&self) -> bool {
        !self.with_past.is_empty()
    }

    /// Tells whether something is kept that only readers before a number see.
    pub(crate) fn has_past_before(&self, first_seq: SeqNum) -> bool {
        let mut pasts = self.with_past.iter().filter_map(|id| self.find(*id)?.past.as_deref());
        pasts.any(|past| past.oldest_until() <= first_seq)
    }

    /// Returns all keyspaces by number.
    pub(crate) fn keyspaces(&self) -> impl DoubleEndedIterator<Item = &KeyspaceTree> {
        self.shares.iter().flat_map(|share| share.iter())
    }

    pub(crate) fn keyspaces_count(&self) -> usize {
        self.keyspaces_count
    }

    /// Returns how many keyspaces were dropped since the database was opened.
    pub(crate) fn drops_count(&self) -> u64 {
        self.drops_count
    }

    /// Returns how many bytes all tables have.
    pub(crate) fn tables_len_bytes(&self) -> u64 {
        self.tables_len_bytes
    }

    /// Returns about how many bytes all tables take in a manifest.
    pub(crate) fn catalog_len_bytes(&self) -> u64 {
        self.catalog_len_bytes
    }

    /// Returns how many keyspaces have tables.
    pub(crate) fn filled_count(&self) -> u64 {
        self.filled_count
    }

    /// Returns every table with its keyspace.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (&KeyspaceTree, &LiveTable)> {
        self.keyspaces().flat_map(|keyspace| {
            let tables = keyspace.tree.tables.levels().iter().flatten();
            tables.map(move |live| (keyspace, live))
        })
    }
}

/// What readers pin: a state, the number and the time up to which they see it, and who still looks at the past.
pub(crate) struct View {
    state: ArcSwap<State>,
    visible: AtomicU64,
    time_high_water: AtomicI64,
    pub snapshots: Snapshots,
}

impl View {
    pub(crate) fn new(state: State, visible: SeqNum, time_high_water: UnixMillis) -> View {
        View {
            state: ArcSwap::from_pointee(state),
            visible: AtomicU64::new(visible.get()),
            time_high_water: AtomicI64::new(time_high_water.0),
            snapshots: Snapshots::default(),
        }
    }

    /// Returns the state as it is now.
    pub(crate) fn state(&self) -> Guard<Arc<State>> {
        self.state.load()
    }

    /// Returns the state as it is now, to keep.
    pub(crate) fn pin_state(&self) -> Arc<State> {
        self.state.load_full()
    }

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

    /// Lets readers see everything up to a number.
    pub(crate) fn publish(&self, seq: SeqNum) {
        yield_point("commit: before publishing");
        self.visible.store(seq.get(), Ordering::Release);
        yield_point("commit: published");
    }

    /// Returns the time by which expiry is decided: the wall clock, but never before what was decided by.
    pub(crate) fn expiry_time(&self, clock: &dyn Vfs) -> UnixMillis {
        let wall = clock.wall().0;
        let before = self.time_high_water.load(Ordering::Relaxed);
        if wall <= before {
            return UnixMillis(before);
        }
        // Only here, once a millisecond, do readers change what other threads read.
        UnixMillis(self.time_high_water.fetch_max(wall, Ordering::Relaxed).max(wall))
    }
}

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

/// How long nothing was written, and who waits for nothing to be due.
#[derive(Default)]
pub(crate) struct Quiet {
    /// The newest commit that was seen, and the monotonic time at which it was first.
    pub since: (SeqNum, u64),
    /// Callers that wait for idleness, which counts as quiet.
    pub waiting_count: usize,
    /// The newest commit when all keyspaces were last looked at because of quiet.
    pub looked_at: Option<SeqNum>,
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
    /// The segment that takes commits now; none in a database that cannot write.
    pub active_wal: Option<Arc<Segment>>,
    /// The oldest segment with commits of the active memtables, where `active_wal` took over from it.
    pub active_first: Option<FileNumber>,
    pub board: Board,
    pub files: FileLife,
    /// The keyspace that was merged last: the others come first.
    pub merged_last: Option<KeyspaceId>,
    /// Keyspaces whose merges had no space on the disk when they were looked at.
    pub short_of_space: BTreeSet<KeyspaceId>,
    /// Tables that a merge could not read, or that a degraded opening could not open.
    pub damaged: BTreeMap<FileNumber, Damage>,
    pub quiet: Quiet,
    /// A look found that memtables which are not full should be sealed.
    pub is_seal_wanted: bool,
    /// How often a job has made something due that a look had found at rest: such a seal, or space on the disk.
    pub revivals_count: u64,
}

/// Why a table cannot be merged.
pub(crate) struct Damage {
    pub keyspace: KeyspaceId,
    error: Error,
    /// Monotonic time before which no merge tries it again.
    retry_at: u64,
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
    next_file: AtomicU64,
    /// Numbers below this one are stated as taken by a synced edit.
    stated_next_file: AtomicU64,
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

impl Book {
    /// Has keyspaces looked at again whose merges had no space: there may be some now.
    pub(crate) fn nominate_short(&mut self) {
        for id in std::mem::take(&mut self.short_of_space) {
            self.board.revive(id);
            self.revivals_count += 1;
        }
    }

    /// Notes that a table of a keyspace cannot be merged because of `error`.
    pub(crate) fn note_damage(
        &mut self,
        (keyspace, number): (KeyspaceId, FileNumber),
        error: &Error,
        now: u64,
    ) {
        let retry_at = now.saturating_add(nanos(PARKED_FOR));
        self.damaged.insert(number, Damage { keyspace, error: error.clone(), retry_at });
    }

    /// Returns what was met in the tables of a keyspace that cannot be merged.
    pub(crate) fn damage_of(&self, id: KeyspaceId) -> impl Iterator<Item = &Error> {
        self.damaged.values().filter(move |damage| damage.keyspace == id).map(|damage| &damage.error)
    }

    /// Returns the tables of a keyspace that no merge tries at `now`.
    pub(crate) fn parked_tables(&self, id: KeyspaceId, now: u64) -> impl Iterator<Item = FileNumber> {
        let is_parked = move |damage: &Damage| damage.keyspace == id && damage.retry_at > now;
        self.damaged.iter().filter(move |(_, damage)| is_parked(damage)).map(|(number, _)| *number)
    }

    /// Has merges try damaged tables again whose time is `meant`.
    pub(crate) fn retry_damaged(&mut self, is_meant: impl Fn(u64) -> bool) {
        for damage in
            self.damaged.values_mut().filter(|damage| damage.retry_at > 0 && is_meant(damage.retry_at))
        {
            damage.retry_at = 0;
            self.board.nominate(damage.keyspace);
        }
    }

    /// Returns the first monotonic time after `now` at which a damaged table is tried again.
    pub(crate) fn next_retry_of_damaged(&self, now: u64) -> Option<u64> {
        self.damaged.values().map(|damage| damage.retry_at).filter(|at| *at > now).min()
    }

    /// Tells whether a job that frees space on the disk runs or may be about to.
    pub(crate) fn may_make_space(&self, now: u64) -> bool {
        self.board.is_working()
            || self.board.next_candidate(None, now).is_some()
            || self.files.has_removable()
    }
}

impl Core {
    /// Puts a core together, in the phase of opening.
    pub(crate) fn new(parts: Parts) -> Arc<Core> {
        let Parts { directory, options, comparators, cache, host, view, leader, book, next_file, link } =
            parts;
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

    /// Gives out a file number that was never used.
    pub(crate) fn take_file_number(&self) -> FileNumber {
        FileNumber(self.next_file.fetch_add(1, Ordering::Relaxed))
    }

    /// Notes that numbers below `next_file` are stated as taken by a synced edit.
    pub(crate) fn note_stated(&self, next_file: FileNumber) {
        self.stated_next_file.fetch_max(next_file.0, Ordering::Relaxed);
    }

    /// Makes sure that the number of a file that is going to be removed is never given out again: an edit states it as
    /// taken. Without that only the file's name would tell.
    ///
    /// # Errors
    /// As [`Core::install`].
    pub(crate) fn state_number(&self, number: FileNumber) -> Result<()> {
        if self.is_stated(number) {
            return Ok(());
        }
        let mut manifest = self.manifest.lock();
        if manifest.is_none() {
            return self.ends.check_writable();
        }
        // Some ahead: jobs that fail on a full disk again and again leave files, and must not fill it with such edits.
        let ahead = FileNumber(self.next_file_number().0 + limits::NUMBERS_STATED_AHEAD_COUNT);
        self.install_in_any_phase(&mut manifest, vec![Change::NextFile(ahead)])?;
        self.note_stated(ahead);
        Ok(())
    }

    /// Tells whether a synced edit states that a number is taken.
    pub(crate) fn is_stated(&self, number: FileNumber) -> bool {
        number.0 < self.stated_next_file.load(Ordering::Relaxed)
    }

    /// Returns the number that the next file will get, or a higher one.
    pub(crate) fn next_file_number(&self) -> FileNumber {
        FileNumber(self.next_file.load(Ordering::Relaxed))
    }

    /// Publishes a changed state. Call with the book locked.
    pub(crate) fn change_state(&self, book: &mut Book, change: impl FnOnce(&mut State)) {
        let mut state = State::clone(&self.view.state());
        change(&mut state);
        yield_point("state: before publishing");
        self.view.state.store(Arc::new(state));
        yield_point("state: published");
        self.writing.sealed_count.store(book.sealed.len(), Ordering::Release);
    }

    /// Tells whether the active memtables have reached their size, or as much as a full disk could still flush.
    pub(crate) fn is_active_full(&self) -> bool {
        let active_bytes = self.writing.active_bytes.load(Ordering::Relaxed);
        active_bytes >= self.options.memtable_bytes as u64 || self.reserve.is_overtaken(active_bytes)
    }

    /// Installs an edit durably, rolling the manifest when it has grown.
    ///
    /// # Errors
    /// As [`Ends::check_writable`]; what the manifest meets. Either the edit was refused, and nothing has changed,
    /// or it is in doubt, and writing is off.
    pub(crate) fn install(&self, manifest: &mut Option<ManifestWriter>, changes: Vec<Change>) -> Result<()> {
        self.ends.check_writable()?;
        self.install_in_any_phase(manifest, changes)
    }

    /// Installs an edit as [`Core::install`] does, for whoever closes the database or resumes writing.
    ///
    /// # Errors
    /// What the manifest meets.
    pub(crate) fn install_in_any_phase(
        &self,
        manifest: &mut Option<ManifestWriter>,
        mut changes: Vec<Change>,
    ) -> Result<()> {
        let manifest = manifest.as_mut().expect("only a writable database installs edits");
        let next_file = self.next_file_number();
        changes.push(Change::NextFile(next_file));
        self.install_edit(manifest, &changes)?;
        self.note_stated(next_file);
        Ok(())
    }

    fn install_edit(&self, manifest: &mut ManifestWriter, changes: &[Change]) -> Result<()> {
        let refused = |failure| match failure {
            // The manifest is as good as before, and so is the database.
            Failure::NotInstalled(error) => error,
            Failure::InDoubt(error) => self.fail(&in_doubt(error)),
        };
        if manifest.is_oversized(changes) {
            return self.roll(manifest, changes).map_err(refused);
        }
        let mut installed = manifest.install(changes);
        if matches!(installed, Err(Failure::NotInstalled(_))) && self.has_space_for_edit(changes) {
            manifest.go_unallocated();
            installed = manifest.install(changes);
        }
        installed.map_err(refused)?;
        if manifest.is_grown(self.options.manifest_roll_bytes) {
            match self.roll(manifest, &[]) {
                Ok(()) => {}
                // The old manifest is as good as before.
                Err(Failure::NotInstalled(_)) => {
                    manifest.postpone_roll(self.options.manifest_roll_bytes);
                    self.check_directory();
                }
                // The edit itself is installed; only the next one will be refused.
                Err(Failure::InDoubt(error)) => drop(self.fail(&in_doubt(error))),
            }
        }
        Ok(())
    }

    /// Tells whether there is so much space that an edit was refused only because the disk cannot allocate. What the disk
    /// says of its space is not enough, since it may not know of a quota: as much is written to a file that goes again.
    fn has_space_for_edit(&self, changes: &[Change]) -> bool {
        let len = changes.iter().map(edit::len_bytes_max).sum::<usize>() as u64;
        let available = self.directory.available_space(self.directory.path());
        if !available.is_ok_and(|bytes| bytes >= len + limits::UNALLOCATED_SPACE_LEN_BYTES) {
            return false;
        }
        let path = FileName::Temporary(self.take_file_number()).path(self.directory.path());
        let zeros = vec![0; usize::try_from(len).unwrap_or(usize::MAX) + limits::SMALL_EDIT_LEN_BYTES_MAX];
        let created = self.directory.create_new(&path);
        let written = created.and_then(|mut file| file.append(&[IoSlice::new(&zeros)]));
        // What cannot be removed now is an orphan for the next opening.
        drop(self.directory.remove_file(&path));
        written.is_ok()
    }

    /// Begins a new manifest with `changes` in it.
    fn roll(&self, manifest: &mut ManifestWriter, changes: &[Change]) -> Result<(), Failure> {
        let (number, temporary) = (self.take_file_number(), self.take_file_number());
        let old_len = manifest.disk_len();
        let rolled = manifest.roll_with(self.directory.as_ref(), changes, number, temporary);
        let mut book = self.book.lock();
        match &rolled {
            Ok(old) => {
                self.counters.manifests_rolled.add(1);
                book.files.discard(FileName::Manifest(*old), old_len);
            }
            Err(Failure::NotInstalled(_)) => {
                book.files.discard(FileName::Manifest(number), 0);
                book.files.discard(FileName::Temporary(temporary), 0);
            }
            Err(Failure::InDoubt(_)) => {}
        }
        drop(book);
        self.wake_background();
        rolled.map(drop)
    }

    /// Lets go of files that an edit was to name, if it was refused.
    pub(crate) fn discard_if_refused(
        &self,
        manifest: &Option<ManifestWriter>,
        names: impl IntoIterator<Item = FileName>,
    ) {
        if manifest.as_ref().is_some_and(|manifest| manifest.failure().is_some()) {
            // Nobody knows whether the manifest names them, so they stay.
            return;
        }
        let mut book = self.book.lock();
        for name in names {
            book.files.discard(name, 0);
        }
        drop(book);
        self.wake_background();
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

/// Makes a failure that leaves the manifest in doubt one that no space on the disk mends.
fn in_doubt(error: Error) -> Error {
    if !is_mendable(&error) {
        return error;
    }
    error.within(ErrorKind::Io, "what the manifest says is in doubt")
}
