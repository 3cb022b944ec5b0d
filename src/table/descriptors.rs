//! Open files of tables, bounded in number: a table asks here for its file when it has to read a block.
//!
//! Owns which tables have an open file. Promises:
//!
//! - No more than a given number of files are *kept* open. A read that finds them all in use opens one more for
//!   itself, so beyond that number there are at most as many as there are threads reading.
//! - A file that somebody reads is never closed under them: what is handed out is shared, and only a file that nobody
//!   holds is closed to make space.
//! - Asking for a file that is open takes no lock and allocates nothing. No lock is held while a file is opened or
//!   closed. Two threads that miss the same file may both open it; one of the two is closed again.
//! - Running out of descriptors ([`ErrorKind::Exhausted`]) closes every idle file and tries once more.
//!
//! How: each table has a [`Slot`], which holds its file while it is open, and the slots that do so stand in a ring. When
//! the ring is full a hand walks over it, takes the mark of use from each slot that has one, and closes the first file
//! that has none and is idle (CLOCK). A table that goes takes its slot and file along; the ring notices when the hand
//! comes by.
//!
//! A cached block needs no file, so a database that serves its reads from memory opens none. It does not know what is
//! in a file, nor whether it is still the right one: that is the table's to check after each opening.

use crate::base::error::{ErrorKind, Result};
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Mutex, process_id};
use crate::vfs::{ReadFile, Vfs};
use arc_swap::ArcSwapOption;
use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// The open files of the tables that share it.
pub struct Descriptors {
    open_max: usize,
    ring: Mutex<Ring>,
    counts: Arc<Counts>,
    process: u32,
}

/// Where a table's file is while it is open.
#[derive(Default)]
pub struct Slot {
    file: ArcSwapOption<OpenFile>,
    is_used: AtomicBool,
}

/// An open file, counted as long as somebody holds it.
pub struct OpenFile {
    file: Arc<dyn ReadFile>,
    counts: Arc<Counts>,
}

/// The slots that have a file. One whose table is gone is as good as free.
#[derive(Default)]
struct Ring {
    slots: Vec<Weak<Slot>>,
    hand: usize,
}

#[derive(Default)]
struct Counts {
    open: AtomicU64,
    opened: AtomicU64,
    exhausted: AtomicU64,
}

/// What happened to the open files of tables since their cache was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorStats {
    /// Files open now, those included that were handed out and not given back yet.
    pub open_count: u64,
    /// Files opened.
    pub opened_count: u64,
    /// Times that the system had no descriptor to give.
    pub exhausted_count: u64,
}

impl Descriptors {
    /// Keeps up to `open_max` files open; 0 opens one for each read.
    pub fn new(open_max: usize) -> Descriptors {
        Descriptors { open_max, ring: Mutex::default(), counts: Arc::default(), process: process_id() }
    }

    /// Tells whether this process was forked off the one that made it: then a thread that is not there may hold the ring's
    /// lock forever, and no file is kept or closed.
    fn is_forked(&self) -> bool {
        process_id() != self.process
    }

    /// Returns the file of a slot, from `open` if it has none. Do not keep it longer than a read takes.
    ///
    /// # Errors
    /// What `open` meets.
    #[inline]
    pub fn get(&self, slot: &Arc<Slot>, open: impl FnOnce() -> Result<OpenFile>) -> Result<Arc<OpenFile>> {
        match slot.file.load_full() {
            Some(file) => {
                if !slot.is_used.load(Ordering::Relaxed) {
                    slot.is_used.store(true, Ordering::Relaxed);
                }
                Ok(file)
            }
            None => Ok(self.keep(slot, Arc::new(open()?))),
        }
    }

    /// Opens a file for a slot, or to be closed when it is dropped.
    ///
    /// # Errors
    /// As [`Vfs::open`]; `Exhausted` only if that did not change when every idle file was closed.
    pub fn open(&self, vfs: &dyn Vfs, path: &Path) -> Result<OpenFile> {
        let file = self.with_retry(|| vfs.open(path))?;
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
        Ok(OpenFile { file, counts: Arc::clone(&self.counts) })
    }

    /// Runs something that takes a descriptor; if the system has none to give, closes every idle file and runs it again.
    ///
    /// # Errors
    /// What the last attempt met.
    pub fn with_retry<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::Exhausted => {
                self.counts.exhausted.fetch_add(1, Ordering::Relaxed);
                self.close_idle();
                attempt()
            }
            result => result,
        }
    }

    /// Closes every file that nobody reads. They are opened again when they are asked for.
    pub fn close_idle(&self) {
        if self.is_forked() {
            return;
        }
        let mut closed = Vec::new();
        self.ring.lock().slots.retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            let is_idle = slot.is_idle();
            if is_idle {
                closed.extend(slot.file.swap(None));
            }
            !is_idle
        });
        drop(closed);
    }

    /// Returns what happened so far. The figures are read one by one and may be a few calls apart.
    pub fn stats(&self) -> DescriptorStats {
        DescriptorStats {
            open_count: self.counts.open.load(Ordering::Relaxed),
            opened_count: self.counts.opened.load(Ordering::Relaxed),
            exhausted_count: self.counts.exhausted.load(Ordering::Relaxed),
        }
    }

    /// Puts a file into its slot if there is space to be made, and returns the one to read from: the given one, or the
    /// one that another thread put there first.
    #[cold]
    fn keep(&self, slot: &Arc<Slot>, opened: Arc<OpenFile>) -> Arc<OpenFile> {
        if self.is_forked() {
            return opened;
        }
        let mut ring = self.ring.lock();
        if let Some(present) = slot.file.load_full() {
            return present;
        }
        let Some((place, closed)) = ring.take_place(self.open_max) else { return opened };
        ring.slots[place] = Arc::downgrade(slot);
        slot.is_used.store(false, Ordering::Relaxed);
        slot.file.store(Some(Arc::clone(&opened)));
        drop(ring);
        drop(closed);
        opened
    }
}

impl Ring {
    /// Finds a place for a slot, with the file that has to be closed for it; none if every file is being read.
    fn take_place(&mut self, open_max: usize) -> Option<(usize, Option<Arc<OpenFile>>)> {
        if self.slots.len() < open_max {
            self.slots.push(Weak::new());
            return Some((self.slots.len() - 1, None));
        }
        // Readers may mark slots all the while; after two rounds every mark was taken once.
        for _ in 0..2 * self.slots.len() {
            let place = self.hand;
            self.hand = (place + 1) % self.slots.len();
            let Some(slot) = self.slots[place].upgrade() else { return Some((place, None)) };
            if !slot.is_used.swap(false, Ordering::Relaxed) && slot.is_idle() {
                return Some((place, slot.file.swap(None)));
            }
        }
        None
    }
}

impl Slot {
    /// Tells whether there is a file and nobody but the slot holds it. Whoever gets it a moment later keeps it open.
    fn is_idle(&self) -> bool {
        self.file.load().as_ref().is_some_and(|file| Arc::strong_count(file) == 1)
    }
}

impl OpenFile {
    /// Returns the file.
    #[inline]
    pub fn file(&self) -> &dyn ReadFile {
        &*self.file
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Descriptors").field(&self.stats()).finish()
    }
}

#[cfg(test)]
mod tests;
