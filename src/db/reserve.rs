//! Space set aside for a full disk.
//!
//! A database on a full disk must be able to shrink: a delete needs a little log, a flush or a merge writes its new tables
//! before the old ones go. So a file `RESERVE` of allocated zeros lies in the directory while there is space. Puts, jobs
//! and openings that meet a full disk leave it alone. It is emptied when somebody deletes, flushes or merges on a full
//! disk. From then on puts are refused with `NoSpace`, deletes are taken, jobs go on, and the reserve is set aside again
//! once there is space for it and as much again. An empty `RESERVE` tells the next incarnation that it was used; it would
//! let puts take what the deletes have been given, otherwise.
//!
//! How large it is:
//!
//! - space for a manifest, which the next opening or a mended log may have to begin, for what that opening writes again of
//!   the log, and for two of the smallest tables in each keyspace;
//! - and a part of what the tables take, for merges; or as much as the largest generation of memtables, if that is
//!   more, since nothing is freed before it is flushed, and a flush frees its log only at its end.
//!
//! So it follows the data both ways: it is made larger as soon as it is too small, and smaller in a quiet database, so
//! that it is not made anew for every memtable. Where the disk cannot allocate, there is none.

use crate::base::contain::contain;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::FileNumber;
use crate::base::limits;
use crate::db::board::{JobKind, nanos};
use crate::db::book::Book;
use crate::db::core::{Core, Host};
use crate::db::ends::Phase;
use crate::db::jobs::Job;
use crate::db::writing::FULL_DISK_WAIT_MAX;
use crate::format::names::FileName;
use crate::memtable::Memtable;
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::vfs::Vfs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What is set aside.
#[derive(Default)]
pub(crate) struct Reserve {
    held_bytes: AtomicU64,
    /// There is a file of this name, be it empty.
    is_there: AtomicBool,
    /// It was used, and is not back yet.
    is_spent: AtomicBool,
    /// How many deletes are about to use what it gave back.
    users_count: AtomicU64,
    /// The next write is to look whether it is large enough.
    is_asked_for: AtomicBool,
    /// The disk allocates nothing.
    is_impossible: AtomicBool,
    /// Monotonic time before which it is not tried: there was no space, and nobody needs it yet.
    try_at: AtomicU64,
    /// Bytes of active memtables from which on it may have become too small.
    tell_at_bytes: AtomicU64,
    /// Bytes at which active memtables are sealed early, since there is no space for a reserve that follows them; 0 for
    /// their full size.
    seal_at_bytes: AtomicU64,
}

/// How much should be set aside.
#[derive(Clone, Copy, Default)]
struct Target {
    /// What is made when one is made.
    wanted_bytes: u64,
    /// What will do.
    least_bytes: u64,
}

/// It is looked at whenever the memtables have grown by one part of this many, and is then large enough for as much again.
const GROWTH_PART: u64 = 8;

/// How many jobs a caller runs at most before a write, where only callers run them.
const JOBS_FOR_RESERVE_MAX: usize = 64;

/// How long to wait for space that nobody needs yet.
const TRY_AGAIN_AFTER_NANOS: u64 = 10_000_000_000;

impl Reserve {
    /// Returns what it takes on the disk.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Tells whether there is a file of this name.
    pub(crate) fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Relaxed)
    }

    /// Notes that space may have been made: it is tried without waiting.
    pub(crate) fn try_now(&self) {
        self.try_at.store(0, Ordering::Relaxed);
    }

    /// Tells whether active memtables of so many bytes may need a larger one; so seldom that a look each time costs nothing.
    pub(crate) fn is_outgrown(&self, active_bytes: u64) -> bool {
        if active_bytes < self.tell_at_bytes.load(Ordering::Relaxed) {
            return false;
        }
        self.tell_at_bytes.store(active_bytes + active_bytes / GROWTH_PART, Ordering::Relaxed);
        true
    }

    /// Notes that it may have become too small: the next write sees to it. Left to the background, which may be busy, a
    /// memtable could become larger than what can be flushed on a full disk.
    pub(crate) fn ask_writer(&self) {
        self.is_asked_for.store(true, Ordering::Relaxed);
    }

    /// Tells whether active memtables of so many bytes are to be sealed, be they full or not.
    pub(crate) fn is_overtaken(&self, active_bytes: u64) -> bool {
        let seal_at_bytes = self.seal_at_bytes.load(Ordering::Relaxed);
        seal_at_bytes > 0 && active_bytes >= seal_at_bytes
    }

    fn is_in_use(&self) -> bool {
        self.users_count.load(Ordering::SeqCst) > 0
    }

    fn seals_early(&self) -> bool {
        self.seal_at_bytes.load(Ordering::Relaxed) > 0
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

    /// Returns how much should be set aside now, and how much will do, so that it is not made anew for every table; zero for
    /// none.
    fn reserve_target(&self, book: &Book) -> Target {
        let max = self.options.reserve_bytes_max;
        if max == 0 || self.reserve.is_impossible.load(Ordering::Relaxed) {
            return Target::default();
        }
        let state = self.view.state();
        let tables_bytes = state.tables_len_bytes();
        let min = limits::reserve_len_min(self.options.memtable_bytes);
        let part = (tables_bytes / limits::RESERVE_PART).max(min);
        // Half of the least is left to the deletes that come before the flush.
        let flush_bytes = self.unflushed_bytes(book) + min / 2;
        // However few they are, deletes become a table in each keyspace that has any, and a merge makes another; and an
        // opening begins a segment, a manifest and a `CURRENT`.
        let files_count = 2 * state.filled_count() + 3;
        let files = files_count * limits::table_space_len_bytes(self.options.memtable_bytes);
        // What no sync has covered is written again by an opening.
        let unsynced = book.active_wal.as_ref().map_or(0, |segment| segment.unsynced_len());
        let fixed = files + self.manifest_bytes() + 2 * unsynced.min(self.write_back_len());
        let bounded = |bytes: u64| (bytes + fixed).min(max.max(min));
        Target {
            wanted_bytes: bounded(part.max(flush_bytes + flush_bytes / 4)),
            least_bytes: bounded((part - part / 4).max(flush_bytes + flush_bytes / GROWTH_PART)),
        }
    }

    /// Returns about how many bytes the tables of the largest generation of memtables will take.
    fn unflushed_bytes(&self, book: &Book) -> u64 {
        let block = limits::table_space_len_bytes(self.options.memtable_bytes);
        let len_of = |memtable: &Memtable| memtable.table_len_bytes().next_multiple_of(block);
        let sealed = book
            .sealed
            .iter()
            .map(|(_, generation)| generation.memtables.iter().map(|(_, memtable)| len_of(memtable)).sum());
        let state = self.view.state();
        let active = state.keyspaces().map(|keyspace| len_of(&keyspace.tree.active)).sum();
        sealed.fold(active, u64::max)
    }

    /// Returns about how many bytes a manifest takes that begins now.
    fn manifest_bytes(&self) -> u64 {
        let state = self.view.state();
        let keyspaces = state.keyspaces_count() as u64 * limits::CATALOG_ENTRY_LEN_BYTES;
        state.catalog_len_bytes()
            + keyspaces
            + 2 * limits::manifest_ahead_len(self.options.manifest_roll_bytes)
    }

    /// Tells whether the reserve should be made, or made larger; or smaller, if nothing else goes on.
    pub(crate) fn is_reserve_due(&self, book: &mut Book, now: u64) -> bool {
        if self.reserve.is_spent() && (self.reserve.is_in_use() || self.is_flush_first(book)) {
            return false;
        }
        let (target, held) = (self.reserve_target(book), self.reserve.held_bytes());
        let is_unwanted = target.wanted_bytes == 0 && self.reserve.is_there();
        let is_due_now = is_unwanted || held < target.least_bytes || self.reserve.seals_early();
        (is_due_now || is_too_large(held, target.wanted_bytes))
            && now >= self.reserve.try_at.load(Ordering::Relaxed)
            && (is_due_now || self.is_quiet(book))
    }

    /// Tells whether the space that the reserve made is still wanted by what is sealed. Where the disk does not tell of a
    /// quota, a new reserve would take it away again.
    fn is_flush_first(&self, book: &Book) -> bool {
        let trouble = book.board.trouble(JobKind::Flush);
        !book.sealed.is_empty() && trouble.is_none_or(|error| error.kind() == ErrorKind::NoSpace)
    }

    /// Makes the reserve larger before a write if it may have become too small. Where only callers run jobs, these run a flush
    /// or merge when they have to wait for one, and would come to making it anew when the disk is full.
    pub(crate) fn see_to_reserve(&self) {
        if self.reserve.is_spent() && matches!(self.host, Host::Caller) {
            // Puts are refused until it is back, and nobody else may come to what that takes. Not without end: several callers
            // who each find something to do for the others would.
            for _ in 0..JOBS_FOR_RESERVE_MAX {
                if !self.reserve.is_spent() || !self.run_due_job().unwrap_or(false) {
                    break;
                }
            }
            return;
        }
        if !self.reserve.is_asked_for.load(Ordering::Relaxed) {
            return;
        }
        self.reserve.is_asked_for.store(false, Ordering::Relaxed);
        let job = {
            let mut book = self.book.lock();
            let is_open = self.ends.phase() == Phase::Open;
            is_open.then(|| self.claim_reserve(&mut book, self.directory.now())).flatten()
        };
        // What it meets is on the board.
        job.map(|job| self.run_claimed(job));
    }

    /// Returns when to look for space again, if there was none and that is after `now`.
    pub(crate) fn reserve_try_at(&self, now: u64) -> Option<u64> {
        let try_at = self.reserve.try_at.load(Ordering::Relaxed);
        (try_at > now).then_some(try_at)
    }

    /// Sets space aside, if there is space for it and as much again.
    ///
    /// # Errors
    /// `NoSpace` while there is not, if it was spent; what the disk meets. Tried again after a pause.
    pub(crate) fn run_reserve(&self) -> Result<()> {
        let Target { wanted_bytes: target, least_bytes } = self.reserve_target(&self.book.lock());
        let held = self.reserve.held_bytes();
        let available = self.directory.available_space(self.directory.path())?;
        if held >= least_bytes && !is_too_large(held, target) && self.reserve.seals_early() {
            // It serves memtables that are sealed early. Larger ones may come once there is space for what they need.
            let grown = target.saturating_add(self.options.memtable_bytes as u64);
            if available.saturating_add(held) >= grown.saturating_mul(2) {
                self.reserve.seal_at_bytes.store(0, Ordering::Relaxed);
            } else {
                self.reserve.try_at.store(self.try_again_at(), Ordering::Relaxed);
            }
            return Ok(());
        }
        // The old one stays until the new one is there: whoever fills the disk meanwhile must not get its space.
        let has_space = available >= target && available.saturating_add(held) >= target.saturating_mul(2);
        if held > target && !has_space {
            // A smaller one would be right, and one that is too large does no harm.
            self.reserve.try_at.store(self.try_again_at(), Ordering::Relaxed);
            return Ok(());
        }
        if held < target && !has_space {
            if !self.reserve.is_spent() {
                // What is there serves as well as it can: half of it for a flush, half for what an opening writes again.
                let seal_at_bytes = (held / 2).max(limits::SEAL_EARLY_LEN_BYTES_MIN);
                self.reserve.seal_at_bytes.store(seal_at_bytes, Ordering::Relaxed);
                self.reserve.try_at.store(self.try_again_at(), Ordering::Relaxed);
                return Ok(());
            }
            let message = format!(
                "the disk is full: {available} bytes are free, and only deletes are taken until {} are",
                target.saturating_mul(2)
            );
            let path = self.reserve_path();
            return Err(Error::new(ErrorKind::NoSpace, message).with_file(&path).with_operation("reserve"));
        }
        self.reserve.try_at.store(0, Ordering::Relaxed);
        if target == 0 {
            return self.remove_reserve();
        }
        let number = self.take_file_number();
        let made = self.make_reserve(target, number);
        if let Err(error) = &made {
            self.book.lock().files.discard(FileName::Temporary(number), 0);
            let is_space_gone = matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Exhausted);
            if is_space_gone && !self.reserve.is_spent() {
                // Nobody needs it yet.
                self.reserve.try_at.store(self.try_again_at(), Ordering::Relaxed);
                return Ok(());
            }
        }
        made
    }

    /// Makes it smaller when the database closes, if it was for memtables that are tables by now. What fails is tried again
    /// when the database is open again.
    pub(crate) fn shrink_reserve_at_the_end(&self) {
        let (target, held) = (self.reserve_target(&self.book.lock()).wanted_bytes, self.reserve.held_bytes());
        if target == 0 || self.reserve.is_spent() || !is_too_large(held, target) {
            return;
        }
        let number = self.take_file_number();
        if self.make_reserve(target, number).is_err() {
            self.book.lock().files.discard(FileName::Temporary(number), 0);
        }
    }

    fn try_again_at(&self) -> u64 {
        self.directory.now().saturating_add(TRY_AGAIN_AFTER_NANOS)
    }

    /// Makes a reserve under the name of temporary file `number`, and puts it in the place of the one that is there.
    fn make_reserve(&self, target: u64, number: FileNumber) -> Result<()> {
        let path = FileName::Temporary(number).path(self.directory.path());
        let mut file = self.directory.create_new(&path)?;
        file.allocate(target)?;
        drop(file);
        let len = self.directory.metadata(&path)?.len;
        if len < target {
            self.reserve.is_impossible.store(true, Ordering::Relaxed);
            self.reserve.is_spent.store(false, Ordering::Relaxed);
            self.book.lock().files.discard(FileName::Temporary(number), 0);
            return self.remove_reserve();
        }
        self.directory.rename(&path, &self.reserve_path())?;
        self.reserve.is_there.store(true, Ordering::Relaxed);
        self.reserve.held_bytes.store(len, Ordering::Relaxed);
        self.reserve.seal_at_bytes.store(0, Ordering::Relaxed);
        self.reserve.tell_at_bytes.store(len / 4, Ordering::Relaxed);
        self.reserve.is_spent.store(false, Ordering::Relaxed);
        // Merges are picked without regard to space from here on.
        let mut book = self.book.lock();
        book.nominate_short();
        book.board.note_space();
        Ok(())
    }

    fn remove_reserve(&self) -> Result<()> {
        match self.directory.remove_file(&self.reserve_path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {
                self.reserve.is_there.store(false, Ordering::Relaxed);
                self.reserve.held_bytes.store(0, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Gives back what it takes, and leaves an empty file in its place. That comes second, since the disk may be too full for
    /// it before; where it fails, the next incarnation does not know that the reserve was used.
    fn empty_reserve(&self) -> Result<()> {
        self.remove_reserve()?;
        let is_marked = self.directory.create_new(&self.reserve_path()).is_ok();
        self.reserve.is_there.store(is_marked, Ordering::Relaxed);
        Ok(())
    }

    /// Returns how many bytes the tables of a merge may take, if the disk is short of them: what is left by then is
    /// enough to name them and to flush what memory holds, or to open the database again if it is left there and then.
    pub(crate) fn short_space(&self) -> Option<u64> {
        if !self.reserve.is_spent() {
            return None;
        }
        let available = self.directory.available_space(self.directory.path()).ok()?;
        let unflushed = self.unflushed_bytes(&self.book.lock());
        Some(available.saturating_sub(self.manifest_bytes() + unflushed))
    }

    /// Returns how much of the log may be allocated ahead: nothing that the reserve has made space for.
    pub(crate) fn preallocate_bytes(&self) -> u64 {
        if self.reserve.is_spent() { 0 } else { self.options.wal_preallocate_bytes }
    }

    /// Calls `body`, which uses the space that was given back: it is not set aside again before that returns. Where the disk
    /// does not tell of a quota, it could be.
    pub(crate) fn while_reserve_is_used<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        self.reserve.users_count.fetch_add(1, Ordering::SeqCst);
        let result = contain("a delete on a full disk", body);
        self.reserve.users_count.fetch_sub(1, Ordering::SeqCst);
        // Whoever waits for another has looked under this lock.
        drop(self.book.lock());
        self.changed.notify_all();
        self.wake_background();
        result
    }

    /// Waits a while for whoever uses what the reserve gave back; tells whether another may be made by now.
    pub(crate) fn await_reserve_users(&self) -> bool {
        let until = self.directory.now().saturating_add(nanos(FULL_DISK_WAIT_MAX));
        let mut book = self.book.lock();
        while self.reserve.is_in_use() {
            let left = until.saturating_sub(self.directory.now());
            if left == 0 {
                return false;
            }
            self.changed.wait_for(&mut book, Duration::from_nanos(left));
        }
        self.is_reserve_awaited(&mut book)
    }

    /// Gives the reserve up, once nobody is making another; tells whether that made space.
    pub(crate) fn spend_reserve(&self) -> bool {
        let mut book = self.book.lock();
        while book.board.is_running(JobKind::Reserve) {
            self.changed.wait(&mut book);
        }
        if self.reserve.held_bytes() == 0 {
            return false;
        }
        book.board.claim(JobKind::Reserve);
        drop(book);
        // Puts are refused before they could take the space. Where none is wanted any more, there is none to come back.
        let is_wanted = self.options.reserve_bytes_max > 0;
        self.reserve.is_spent.store(is_wanted, Ordering::Relaxed);
        let give_back = || if is_wanted { self.empty_reserve() } else { self.remove_reserve() };
        let spent = contain("spending the reserve", give_back);
        if spent.is_err() {
            self.reserve.is_spent.store(false, Ordering::Relaxed);
        }
        self.reserve.try_now();
        self.book.lock().board.give_back(JobKind::Reserve);
        self.changed.notify_all();
        spent.is_ok()
    }

    /// Takes over the reserve that an earlier incarnation left.
    ///
    /// # Errors
    /// `Io`, `Exhausted`: it cannot be looked at. Without a look it could neither be used nor be made anew on a full disk.
    pub(crate) fn adopt_reserve(&self, is_there: bool) -> Result<()> {
        if !is_there {
            return Ok(());
        }
        let len = match self.directory.metadata(&self.reserve_path()) {
            Ok(metadata) => metadata.len,
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        self.reserve.is_there.store(true, Ordering::Relaxed);
        self.reserve.held_bytes.store(len, Ordering::Relaxed);
        if self.options.reserve_bytes_max == 0 {
            // One that cannot be removed goes later.
            drop(self.remove_reserve());
        } else if len == 0 {
            // It was used, or a power cut took what was allocated: either way, what is free is what it was.
            self.reserve.is_spent.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes the reserve that an earlier incarnation has used, before anybody puts: with space, no put is refused. What it
    /// meets is on the board.
    pub(crate) fn make_used_reserve(&self) {
        if !self.reserve.is_spent() {
            return;
        }
        let mut book = self.book.lock();
        while book.board.is_running(JobKind::Reserve) {
            self.changed.wait(&mut book);
        }
        if self.reserve.is_spent() {
            book.board.claim(JobKind::Reserve);
            drop(book);
            drop(self.run_claimed(Job::Reserve));
        }
    }
}

/// Tells whether a reserve takes so much more than is wanted that a smaller one should take its place.
fn is_too_large(held: u64, wanted: u64) -> bool {
    held > wanted + wanted / 8
}
