//! Figures about an open database.

use crate::base::error::Error;
use crate::base::seq::SeqNum;
use crate::db::core::Core;
use crate::db::state::{KeyspaceTree, State};
use crate::format::names::FileName;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Figures about an open database, taken at one moment. Counters start at zero when it is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// The number of the newest visible commit.
    pub last_seq: SeqNum,
    /// Memory of the active memtables in bytes.
    pub memtable_bytes: u64,
    /// Sealed generations that wait to be flushed.
    pub sealed_memtables: usize,
    /// Commits of [`Durability::None`](crate::Durability::None) that wait in memory to be handed to the system: those that
    /// are lost if the process ends now, or the last handle is dropped without closing. As of the last commit.
    pub held_back_commits: u64,
    /// Bytes that they take in the log.
    pub held_back_bytes: u64,
    /// Each keyspace, in the order they were created.
    pub keyspaces: Vec<KeyspaceStats>,
    /// Length of the open WAL segment in bytes, with commits that wait to be appended to it.
    pub wal_bytes: u64,
    /// Bytes of all files of the database on the disk, what is allocated ahead and what waits to be removed included; only
    /// the one line of `CURRENT` and what a job that failed has left are not.
    pub disk_bytes: u64,
    /// Bytes of blocks in the cache.
    pub block_cache_bytes: u64,
    /// Blocks that were asked for and found in the cache.
    pub cache_hits: u64,
    /// Blocks that were asked for and not found in the cache.
    pub cache_misses: u64,
    /// Generations flushed.
    pub flushes: u64,
    /// Merges done.
    pub compactions: u64,
    /// Tables moved down without a merge.
    pub trivial_moves: u64,
    /// Bytes of tables written by flushes.
    pub bytes_flushed: u64,
    /// Bytes of tables written by merges.
    pub bytes_compacted: u64,
    /// Writes that had to wait for background work.
    pub stalls: u64,
    /// How long they waited in all, in nanoseconds.
    pub stall_nanos: u64,
    /// Manifests begun because the one before had grown.
    pub manifests_rolled: u64,
    /// WAL segments whose torn tail was cut off when the database was opened.
    pub torn_tails_cut: u64,
    /// Tables in no current version that a reader still holds.
    pub obsolete_tables: usize,
    /// Names of every file that belongs to the database now, sorted.
    pub live_files: Vec<String>,
}

/// Figures about one keyspace.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyspaceStats {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// Its comparator's name.
    pub comparator: String,
    /// Entries that only memory and the log have, deletes and old versions included.
    pub unflushed_entries: u64,
    /// About how much memory they take, in bytes.
    pub unflushed_bytes: u64,
    /// Its levels, the newest first.
    pub levels: Vec<LevelStats>,
}

/// Figures about one level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LevelStats {
    /// Tables.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their entries, deletes and old versions included.
    pub entries: u64,
}

/// What `verify` read and found in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Tables.
    pub files: u64,
    /// Their data blocks.
    pub blocks: u64,
    /// Their entries.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries that only memory and the log have.
    pub unflushed_entries: u64,
}

/// What a kind of background job has met since it last succeeded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackgroundError {
    /// What the job does.
    pub job: &'static str,
    /// The keyspace that it is about, if it is about one.
    pub keyspace: Option<String>,
    /// The last failure.
    pub error: Error,
}

impl std::fmt::Display for BackgroundError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.keyspace {
            Some(keyspace) => write!(f, "{} of keyspace {keyspace:?}: {}", self.job, self.error),
            None => write!(f, "{}: {}", self.job, self.error),
        }
    }
}

/// What the locks of manifest and book guard, as far as figures tell of it.
#[derive(Default)]
struct Guarded {
    /// The state at the moment when the book was locked.
    state: Arc<State>,
    sealed_memtables: usize,
    disk_bytes: u64,
    obsolete_tables: usize,
    live_files: Vec<String>,
}

impl Core {
    pub(crate) fn stats(&self) -> Stats {
        let guarded = if self.ends.is_forked() {
            // A thread that is not there may hold either lock.
            Guarded { state: self.view.pin_state(), ..Guarded::default() }
        } else {
            self.guarded()
        };
        let cache = self.cache.blocks().stats();
        Stats {
            last_seq: self.view.visible_seq(),
            memtable_bytes: self.writing.active_bytes.load(Ordering::Relaxed),
            sealed_memtables: guarded.sealed_memtables,
            held_back_commits: self.writing.held_back_count.get(),
            held_back_bytes: self.writing.held_back_bytes.get(),
            keyspaces: guarded.state.keyspaces().map(keyspace_stats).collect(),
            wal_bytes: self.writing.wal_bytes.load(Ordering::Relaxed),
            disk_bytes: guarded.disk_bytes,
            block_cache_bytes: cache.used_bytes,
            cache_hits: cache.hits_count,
            cache_misses: cache.misses_count,
            flushes: self.counters.flushes.get(),
            compactions: self.counters.compactions.get(),
            trivial_moves: self.counters.trivial_moves.get(),
            bytes_flushed: self.counters.bytes_flushed.get(),
            bytes_compacted: self.counters.bytes_compacted.get(),
            stalls: self.counters.stalls.get(),
            stall_nanos: self.counters.stall_nanos.get(),
            manifests_rolled: self.counters.manifests_rolled.get(),
            torn_tails_cut: self.counters.torn_tails_cut.get(),
            obsolete_tables: guarded.obsolete_tables,
            live_files: guarded.live_files,
        }
    }

    fn guarded(&self) -> Guarded {
        let manifest = self.manifest.lock().as_ref().map(|manifest| (manifest.number(), manifest.disk_len()));
        let book = self.book.lock();
        let state = self.view.pin_state();
        let (readable, damaged): (Vec<_>, Vec<_>) =
            state.tables().map(|(_, live)| live).partition(|live| live.table.failure().is_none());
        let mut live: BTreeSet<FileName> =
            readable.iter().map(|live| FileName::Table(live.meta.number)).collect();
        live.extend(book.files.found().map(|(name, _)| name));
        live.extend(book.files.segments().map(|(number, _)| FileName::Wal(number)));
        if let Some((number, _)) = manifest {
            live.extend([FileName::Lock, FileName::Current, FileName::Manifest(number)]);
        }
        live.extend(self.reserve.is_there().then_some(FileName::Reserve));
        let mut live_files: Vec<String> = live.iter().map(ToString::to_string).collect();
        let tables_bytes: u64 = readable.iter().map(|live| live.meta.len_bytes).sum();
        let found = book.files.found().filter(|(name, _)| *name != FileName::Current);
        let found_bytes: u64 = found.map(|(_, len)| len).sum();
        let sealed_log_bytes: u64 = book.files.segments().map(|(_, len)| len).sum();
        let open_log_bytes = book.active_wal.as_ref().map_or(0, |segment| segment.disk_len());
        let mut disk_bytes = tables_bytes
            + found_bytes
            + sealed_log_bytes
            + open_log_bytes
            + manifest.map_or(0, |(_, len)| len + self.lock_len)
            + self.reserve.held_bytes()
            + book.files.unneeded_bytes();
        let (sealed_memtables, obsolete_tables) = (book.sealed.len(), book.files.obsolete_count());
        drop(book);
        // What a degraded opening could not open may be there with any length, or not at all.
        let found = damaged.iter().map(|live| FileName::Table(live.meta.number));
        for (name, len) in found.map(|name| (name, self.directory.len_of(name))).filter(|(_, len)| *len > 0) {
            live_files.push(name.to_string());
            disk_bytes += len;
        }
        live_files.sort();
        Guarded { sealed_memtables, disk_bytes, obsolete_tables, live_files, state: Arc::clone(&state) }
    }
}

fn keyspace_stats(keyspace: &KeyspaceTree) -> KeyspaceStats {
    let memtables = || std::iter::once(&keyspace.tree.active).chain(&keyspace.tree.sealed);
    let levels = keyspace.tree.tables.levels().iter().map(|tables| LevelStats {
        files: tables.len(),
        bytes: tables.iter().map(|live| live.meta.len_bytes).sum(),
        entries: tables.iter().map(|live| live.meta.entries).sum(),
    });
    KeyspaceStats {
        name: keyspace.info.name.clone(),
        id: keyspace.info.id.0,
        comparator: keyspace.info.options.comparator.clone(),
        unflushed_entries: memtables().map(|memtable| memtable.count()).sum(),
        unflushed_bytes: memtables().map(|memtable| memtable.len_bytes()).sum(),
        levels: levels.collect(),
    }
}
