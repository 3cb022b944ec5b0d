//! Space set aside for a full disk.
//!
//! A database on a full disk must be able to shrink: a delete needs a little log, a flush or a merge writes its new tables
//! before the old ones go. So a file `RESERVE` of allocated zeros lies in the directory while there is room. Puts, jobs
//! and openings that meet a full disk leave it alone. It is removed when somebody deletes, flushes or merges on a full
//! disk. From then on puts are refused with `NoSpace`, deletes are taken, jobs go on, and the reserve is set aside again
//! once there is room for it and as much again.
//!
//! It grows with the database: a part of what the tables take, within bounds. Where the disk cannot allocate, there is
//! none.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits;
use crate::db::state::Core;
use crate::format::names::FileName;
use crate::vfs::Vfs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is set aside.
#[derive(Default)]
pub(crate) struct Reserve {
    held_bytes: AtomicU64,
    /// It was used, and is not back yet.
    is_spent: AtomicBool,
    /// The disk allocates nothing.
    is_impossible: AtomicBool,
    /// Monotonic time before which it is not tried: there was no room, and nobody needs it yet.
    try_at: AtomicU64,
}

/// How long to wait for room that nobody needs yet.
const TRY_AGAIN_AFTER_NANOS: u64 = 10_000_000_000;

impl Reserve {
    /// Returns what it takes on the disk.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Tells whether it was used and is not back yet: the disk is full, and only what shrinks the database may write.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_spent.load(Ordering::Relaxed)
    }
}

impl Core {
    fn reserve_path(&self) -> PathBuf {
        FileName::Reserve.path(self.directory.path())
    }

    /// Returns how much should be set aside for what the tables take now; zero for none.
    fn reserve_target(&self) -> u64 {
        let max = self.options.reserve_bytes_max;
        if max == 0 || self.reserve.is_impossible.load(Ordering::Relaxed) {
            return 0;
        }
        let wanted = self.view.state().tables_len_bytes() / limits::RESERVE_PART;
        let min = limits::reserve_len_min(self.options.memtable_bytes);
        wanted.clamp(min, max.max(min))
    }

    /// Tells whether the reserve should be made, or made larger.
    pub(crate) fn is_reserve_due(&self, now: u64) -> bool {
        let target = self.reserve_target();
        // Three quarters of it will do, so that it is not made anew for every table.
        let is_short = self.reserve.held_bytes() < target - target / 4;
        is_short && now >= self.reserve.try_at.load(Ordering::Relaxed)
    }

    /// Returns when to look for room again, if there was none and that is after `now`.
    pub(crate) fn reserve_try_at(&self, now: u64) -> Option<u64> {
        let try_at = self.reserve.try_at.load(Ordering::Relaxed);
        (try_at > now).then_some(try_at)
    }

    /// Sets space aside, if there is room for it and as much again.
    ///
    /// # Errors
    /// `NoSpace` while there is not, if it was spent; what the disk meets. Tried again after a pause.
    pub(crate) fn run_reserve(&self) -> Result<()> {
        let (target, path) = (self.reserve_target(), self.reserve_path());
        let held = self.reserve.held_bytes();
        let available = self.directory.available_space(self.directory.path())?;
        if available.saturating_add(held) < target.saturating_mul(2) {
            if !self.reserve.is_spent() {
                // What is there serves as well as it can.
                let try_at = self.directory.now().saturating_add(TRY_AGAIN_AFTER_NANOS);
                self.reserve.try_at.store(try_at, Ordering::Relaxed);
                return Ok(());
            }
            let message = format!(
                "the disk is full: {available} bytes are free, and only deletes are taken until {} are",
                target.saturating_mul(2)
            );
            return Err(Error::new(ErrorKind::NoSpace, message).with_file(&path).with_operation("reserve"));
        }
        self.reserve.try_at.store(0, Ordering::Relaxed);
        self.remove_reserve()?;
        let made = self.make_reserve(target);
        if made.is_err() {
            // The first error is the one that matters.
            drop(self.remove_reserve());
        }
        made
    }

    fn make_reserve(&self, target: u64) -> Result<()> {
        let path = self.reserve_path();
        let mut file = self.directory.create_new(&path)?;
        file.allocate(target)?;
        drop(file);
        let len = self.directory.metadata(&path)?.len;
        if len < target {
            self.reserve.is_impossible.store(true, Ordering::Relaxed);
            self.reserve.is_spent.store(false, Ordering::Relaxed);
            return self.remove_reserve();
        }
        self.reserve.held_bytes.store(len, Ordering::Relaxed);
        self.reserve.is_spent.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn remove_reserve(&self) -> Result<()> {
        self.reserve.held_bytes.store(0, Ordering::Relaxed);
        match self.directory.remove_file(&self.reserve_path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns how many bytes new tables may take, if the disk is short of them.
    pub(crate) fn short_space(&self) -> Option<u64> {
        if !self.reserve.is_spent() {
            return None;
        }
        self.directory.available_space(self.directory.path()).ok()
    }

    /// Returns how much of the log may be allocated ahead: nothing that the reserve has made room for.
    pub(crate) fn preallocate_bytes(&self) -> u64 {
        if self.reserve.is_spent() { 0 } else { self.options.wal_preallocate_bytes }
    }

    /// Gives the reserve up; tells whether that made room.
    pub(crate) fn spend_reserve(&self) -> bool {
        if self.reserve.held_bytes.swap(0, Ordering::Relaxed) == 0 {
            return false;
        }
        self.reserve.is_spent.store(true, Ordering::Relaxed);
        self.directory.remove_file(&self.reserve_path()).is_ok()
    }

    /// Takes over the reserve that an earlier life left.
    pub(crate) fn adopt_reserve(&self, is_there: bool) {
        if !is_there {
            return;
        }
        // One that cannot be looked at counts as none, and is made anew.
        let len = self.directory.metadata(&self.reserve_path()).map_or(0, |metadata| metadata.len);
        self.reserve.held_bytes.store(len, Ordering::Relaxed);
    }
}
