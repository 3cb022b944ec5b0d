//! What a segment's writer and the background share: how far it is written, how far it is synced.
//!
//! Commits that ask for no sync leave bytes that only the system has. Left to the seal, which has to sync them all
//! while every writer waits, a full segment takes a hundred milliseconds; so the background syncs them a few
//! megabytes at a time (`docs/decisions/0010-wal-write-back.md`). That is a second way to sync the same bytes, and so
//! both go through one [`FinalSync`].

use crate::base::error::Result;
use crate::base::ids::FileNumber;
use crate::sync::atomic::AtomicU64;
use crate::vfs::Vfs;
use crate::vfs::final_sync::FinalSync;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// A segment that may still grow.
#[derive(Debug)]
pub struct Segment {
    /// Its number.
    pub number: FileNumber,
    /// Its file.
    pub path: PathBuf,
    syncs: FinalSync,
    handed_len: AtomicU64,
    synced_len: AtomicU64,
    /// Up to where space was reserved.
    reserved_len: AtomicU64,
}

impl Segment {
    /// Describes a segment of which nothing was written.
    pub fn new(number: FileNumber, path: PathBuf) -> Segment {
        Segment {
            number,
            path,
            syncs: FinalSync::default(),
            handed_len: AtomicU64::new(0),
            synced_len: AtomicU64::new(0),
            reserved_len: AtomicU64::new(0),
        }
    }

    /// Returns how many bytes the file has, with what was reserved ahead.
    pub fn disk_len(&self) -> u64 {
        self.handed_len.load(Ordering::Relaxed).max(self.reserved_len.load(Ordering::Relaxed))
    }

    /// Notes up to where space is reserved.
    pub(in crate::wal) fn note_reserved(&self, len: u64) {
        self.reserved_len.store(len, Ordering::Relaxed);
    }

    /// Returns how many bytes the system has that no sync has covered.
    pub fn unsynced_len(&self) -> u64 {
        self.handed_len.load(Ordering::Relaxed).saturating_sub(self.synced_len.load(Ordering::Relaxed))
    }

    /// Returns how many bytes are synced: whole frames.
    pub(in crate::wal) fn synced_len(&self) -> u64 {
        self.synced_len.load(Ordering::Relaxed)
    }

    /// Makes durable what the system has by now, beside the writer. Does nothing if all of it is: such a segment may
    /// be sealed, and its file gone.
    ///
    /// # Errors
    /// As `WriteFile::sync`; the writer's own sync fails with the same error from then on.
    pub fn write_back(&self, vfs: &dyn Vfs) -> Result<()> {
        self.syncs.run(|| {
            let upto = self.handed_len.load(Ordering::Acquire);
            if upto > self.synced_len.load(Ordering::Relaxed) {
                vfs.sync_file(&self.path)?;
                self.synced_len.fetch_max(upto, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    /// Notes that the system has the first `len` bytes.
    pub(in crate::wal) fn note_handed(&self, len: u64) {
        self.handed_len.store(len, Ordering::Release);
    }

    /// Runs the writer's own sync of its first `len` bytes.
    pub(in crate::wal) fn sync(&self, len: u64, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        self.syncs.run(|| {
            sync()?;
            // Before the next sync's turn: a write-back that still saw unsynced bytes would sync a file that may be gone.
            self.synced_len.fetch_max(len, Ordering::Relaxed);
            Ok(())
        })
    }
}
