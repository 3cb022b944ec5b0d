//! What readers see of a database: [`View`], whose [`State`] is immutable and published by an atomic swap.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::db::options::KeyspaceOptions;
use crate::mvcc::snapshots::Snapshots;
use crate::read::tree::{Tables, Tree};
use crate::read::waste::ReadWaste;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use crate::sync::yield_point;
use crate::table::reader::Table;
use crate::version::levels::Live;
use crate::vfs::Vfs;
use arc_swap::{ArcSwap, Guard};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

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
    last_name: OnceLock<String>,
}

impl KeyspaceInfo {
    /// Notes that the keyspace was dropped; call it when no state has it any more, on what it was last.
    pub(crate) fn note_dropped(&self) {
        self.fate.last_name.get_or_init(|| self.name.clone());
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
        Error::new(ErrorKind::Closed, format!("keyspace {:?} was dropped", self.last_name()))
    }

    /// Returns the name that it had when it was dropped; if it was not, the one that this has.
    pub(crate) fn last_name(&self) -> &str {
        self.fate.last_name.get().unwrap_or(&self.name)
    }
}

/// A keyspace at one moment.
#[derive(Clone)]
pub(crate) struct KeyspaceTree {
    pub info: Arc<KeyspaceInfo>,
    pub waste: Arc<ReadWaste>,
    pub tree: Tree,
    /// The number at which it was emptied last; 0 if it never was.
    pub emptied_at: SeqNum,
    /// What it was before it was emptied, newest first, as far as a snapshot may see that.
    pub pasts: Arc<[Past]>,
}

/// A keyspace as it was before it was emptied.
#[derive(Clone)]
pub(crate) struct Past {
    /// The number at which it was emptied the time before: readers before it see nothing of this.
    since: SeqNum,
    /// The number at which it was emptied: readers before it see this.
    until: SeqNum,
    tree: Tree,
}

impl Past {
    /// Tells whether anybody may see it: one of the live snapshots, ascending, or one that is yet to be taken, which stands
    /// at `visible` or later.
    fn is_seen(&self, snapshots: &[SeqNum], visible: SeqNum) -> bool {
        let first = snapshots.partition_point(|seq| *seq < self.since);
        visible < self.until || snapshots.get(first).is_some_and(|seq| *seq < self.until)
    }
}

impl KeyspaceTree {
    /// Makes a keyspace that was never emptied.
    pub(crate) fn new(info: Arc<KeyspaceInfo>, waste: Arc<ReadWaste>, tree: Tree) -> KeyspaceTree {
        KeyspaceTree { info, waste, tree, emptied_at: SeqNum::ZERO, pasts: Arc::default() }
    }

    /// Returns the tree that a reader at a number sees.
    #[inline]
    pub(crate) fn tree_at(&self, seq: SeqNum) -> &Tree {
        if seq >= self.emptied_at {
            return &self.tree;
        }
        // The oldest one that was still there: what lies between is seen by nobody.
        let seen = self.pasts.partition_point(|past| seq < past.until);
        self.pasts[..seen].last().map_or(&self.tree, |past| &past.tree)
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
        let past = Past { since: keyspace.emptied_at, until: seq, tree: keyspace.tree.clone() };
        keyspace.pasts = std::iter::once(past).chain(keyspace.pasts.iter().cloned()).collect();
        keyspace.emptied_at = seq;
        keyspace.tree = Tree { tables: Arc::clone(&keyspace.tree.tables), ..empty };
        self.with_past.insert(id);
        // Counted, what goes and what comes.
        self.set_tables(id, Arc::default());
    }

    /// Lets go of what emptied keyspaces were before, as far as nobody may see it ([`Past::is_seen`]).
    pub(crate) fn forget_past(&mut self, snapshots: &[SeqNum], visible: SeqNum) {
        for id in std::mem::take(&mut self.with_past) {
            let keyspace = self.find_mut(id).expect("what has a past is there");
            let seen = keyspace.pasts.iter().filter(|past| past.is_seen(snapshots, visible));
            keyspace.pasts = seen.cloned().collect();
            if !keyspace.pasts.is_empty() {
                self.with_past.insert(id);
            }
        }
    }

    /// Tells whether something is kept of what emptied keyspaces were before.
    pub(crate) fn has_past(&self) -> bool {
        !self.with_past.is_empty()
    }

    /// Tells whether something of that is kept and seen by nobody.
    pub(crate) fn has_unseen_past(&self, snapshots: &[SeqNum], visible: SeqNum) -> bool {
        let mut pasts = self.with_past.iter().filter_map(|id| self.find(*id)).flat_map(|it| it.pasts.iter());
        pasts.any(|past| !past.is_seen(snapshots, visible))
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

    /// Lets readers see another state from here on.
    pub(in crate::db) fn publish_state(&self, state: State) {
        self.state.store(Arc::new(state));
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
