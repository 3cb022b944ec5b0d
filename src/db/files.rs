//! The states of every file of a database, whatever its kind.
//!
//! ```text
//! pending ──▶ live ──▶ obsolete ──▶ removable ──▶ gone
//!    │                                 ▲  │
//!    └── its job failed ───────────────┘  └── could not be removed: tried again after a pause
//! ```
//!
//! - *Pending*: a number is taken, the file is written, synced, and so is its name. A crash leaves an orphan.
//! - *Live*: a synced edit or pointer names it.
//! - *Obsolete*: a synced edit dropped it, and a reader's version may still hold it (tables only).
//! - *Removable*: nobody can need it. Found orphans begin here.
//! - *Gone*: the purge job removed it, or found that it was not there.
//!
//! Pure data under the book's lock; removing is the purge job's work. Numbers are given out once, whatever becomes of
//! their files: they go on above those of the manifest and of the directory's listing.

use crate::base::ids::FileNumber;
use crate::db::state::LiveTable;
use crate::format::names::FileName;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Files and what may become of them.
#[derive(Default)]
pub(crate) struct FileLife {
    /// Files beside the tables that a database needs as it found them, with what they take: one that is only read, or that
    /// has not yet been established.
    found: BTreeMap<FileName, u64>,
    /// Log segments that may be needed, with the length of the sealed ones.
    segments: BTreeMap<FileNumber, u64>,
    /// Tables in no current version, perhaps still read.
    obsolete: Vec<LiveTable>,
    /// Files that nobody needs any more, with what they take on the disk as far as it is known.
    removable: BTreeMap<FileName, u64>,
}

impl FileLife {
    /// Notes a file that is needed as it was found.
    pub(crate) fn add_found(&mut self, name: FileName, len_bytes: u64) {
        self.found.insert(name, len_bytes);
    }

    /// Forgets what was found: the database is established, and needs files of its own.
    pub(crate) fn forget_found(&mut self) {
        self.found.clear();
    }

    /// Returns what is needed as it was found, with what it takes.
    pub(crate) fn found(&self) -> impl Iterator<Item = (FileName, u64)> {
        self.found.iter().map(|(name, len)| (*name, *len))
    }

    /// Notes a log segment that may be needed; `len_bytes` is what it takes once nothing is appended to it any more.
    pub(crate) fn add_segment(&mut self, number: FileNumber, len_bytes: u64) {
        self.segments.insert(number, len_bytes);
    }

    /// Notes how long a sealed segment is.
    pub(crate) fn seal_segment(&mut self, number: FileNumber, len_bytes: u64) {
        *self.segments.get_mut(&number).expect("a segment is known until it is unneeded") = len_bytes;
    }

    /// Lets go of every segment before `first`: their commits are in tables.
    pub(crate) fn drop_segments_before(&mut self, first: FileNumber) {
        let needed = self.segments.split_off(&first);
        let unneeded = std::mem::replace(&mut self.segments, needed);
        self.removable.extend(unneeded.into_iter().map(|(number, len)| (FileName::Wal(number), len)));
    }

    /// Returns the segments that may be needed, with the length of the sealed ones.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (FileNumber, u64)> {
        self.segments.iter().map(|(number, len)| (*number, *len))
    }

    /// Notes tables that an edit dropped.
    pub(crate) fn retire_tables(&mut self, tables: impl IntoIterator<Item = LiveTable>) {
        self.obsolete.extend(tables);
    }

    /// Notes a file that nobody needs and that may be there.
    pub(crate) fn discard(&mut self, name: FileName, len_bytes: u64) {
        self.removable.insert(name, len_bytes);
    }

    /// Moves obsolete tables that nobody reads any more to the removable files.
    pub(crate) fn release_unread(&mut self) {
        let (read, unread): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.obsolete).into_iter().partition(|live| Arc::strong_count(live) > 1);
        self.obsolete = read;
        let unread = unread.iter().map(|live| (FileName::Table(live.meta.number), live.meta.len_bytes));
        self.removable.extend(unread);
    }

    /// Takes the removable files, for the purge job.
    pub(crate) fn take_removable(&mut self) -> BTreeMap<FileName, u64> {
        self.release_unread();
        std::mem::take(&mut self.removable)
    }

    /// Tells whether a purge would have something to do.
    pub(crate) fn has_removable(&self) -> bool {
        !self.removable.is_empty() || self.obsolete.iter().any(|live| Arc::strong_count(live) == 1)
    }

    /// Tells whether a table waits for its last reader.
    pub(crate) fn has_obsolete(&self) -> bool {
        !self.obsolete.is_empty()
    }

    /// Returns how many tables wait for their last reader, those left out that only the next purge has to notice.
    pub(crate) fn obsolete_count(&self) -> usize {
        self.obsolete.iter().filter(|live| Arc::strong_count(live) > 1).count()
    }

    /// Returns what files take on the disk that the database no longer needs.
    pub(crate) fn unneeded_bytes(&self) -> u64 {
        let obsolete = self.obsolete.iter().map(|live| live.meta.len_bytes);
        obsolete.chain(self.removable.values().copied()).sum()
    }

    /// Sorts files that the manifest does not name, with what they take, into segments that are needed, which have to be
    /// known already, and orphans, which become removable.
    pub(crate) fn find_orphans(&mut self, unnamed: &BTreeMap<FileName, u64>) {
        for (name, len) in unnamed {
            let is_needed = matches!(name, FileName::Wal(number) if self.segments.contains_key(number));
            if !is_needed {
                self.discard(*name, *len);
            }
        }
    }
}
