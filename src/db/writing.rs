//! How a write goes: wait for room, queue up, and perhaps lead.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::db::state::{Core, Counters, Generation, Leader, is_full_log};
use crate::format::batch::Batch;
use crate::format::names::FileName;
use crate::memtable::Memtable;
use crate::memtable::arena::Arena;
use crate::sync::yield_point;
use crate::version::edit::Change;
use crate::vfs::Vfs;
use crate::wal::Predecessor;
use crate::wal::writer::WalWriter;
use crate::write::commit::{Durability, Failure, Request, Target, commit_group};
use crate::write::queue::{Member, Turn};
use crate::write::stall::{Lag, Pace, pace};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A writer whose request is in a group.
type Writer = Member<Request, Result<SeqNum>>;

impl Core {
    /// Commits a batch; returns the number of its last operation.
    pub(crate) fn commit(&self, batch: Batch, durability: Durability) -> Result<SeqNum> {
        self.check_writable()?;
        if batch.count() > 0 {
            self.wait_for_room()?;
        }
        match self.queue.enter(Request { batch, durability }) {
            Turn::Answered(answer) => answer,
            Turn::Lead(mut group, own) => {
                self.lead(&mut group);
                self.queue.finish(group, own)
            }
        }
    }

    /// Commits a group under leadership, and answers every member.
    fn lead(&self, group: &mut [Writer]) {
        let mut leader = self.leader.lock();
        if let Err(error) = self.commit_as_leader(&mut leader, group) {
            for member in group {
                member.answer = Some(Err(error.clone()));
            }
        }
    }

    fn commit_as_leader(&self, leader: &mut Leader, group: &mut [Writer]) -> Result<()> {
        self.check_writable()?;
        if self.is_active_full()
            && self.sealed_count.load(Ordering::Acquire) < self.options.sealed_memtables_max
        {
            self.rotate(leader)?;
        }
        let committed_at = self.expiry_time();
        // Leadership is what switches memtables, so these are the ones that belong to the open segment.
        let state = self.state.load_full();
        let memtable_of = |id| -> &Memtable { &state.keyspace(id).tree.active };
        let wal = leader.wal.as_mut().expect("a writable database has an open segment");
        let target = Target { wal, arena: &mut leader.arena };
        leader.last_seq = match commit_group(target, group, committed_at, leader.last_seq, memtable_of) {
            Ok(last_seq) => last_seq,
            Err(Failure::Untouched(error)) => return Err(error),
            Err(Failure::Broken(error)) => return Err(self.poison(&error)),
        };
        self.counters.wal_len.store(wal.len(), Ordering::Relaxed);
        if wal.segment().unsynced_len() >= self.write_back_len() {
            self.ask_for_write_back();
        }
        yield_point("commit: before publishing");
        self.visible.store(leader.last_seq.get(), Ordering::Release);
        yield_point("commit: published");
        Ok(())
    }

    /// Returns how much of the open segment may be unsynced before the background syncs it. A small database, which
    /// seals often, gets a part of it.
    pub(crate) fn write_back_len(&self) -> u64 {
        limits::WAL_WRITE_BACK_LEN_BYTES.min(self.options.memtable_bytes as u64 / 8)
    }

    /// Wakes the background, once until the job begins.
    fn ask_for_write_back(&self) {
        if !self.is_write_back_due.swap(true, Ordering::Relaxed) {
            self.wake_background();
        }
    }

    /// Seals the active memtables with their WAL segment and opens the next one. Does nothing if they are empty.
    pub(crate) fn rotate(&self, leader: &mut Leader) -> Result<()> {
        let wal = leader.wal.as_mut().expect("a writable database has an open segment");
        if self.active_len_bytes() == 0 {
            return Ok(());
        }
        // Everything in the old segment becomes durable here, so that its end can be stated in the next one's
        // header, and so that no table ever holds a commit whose batch another keyspace could lose.
        wal.sync().map_err(|error| self.poison(&error))?;
        let next = self.open_segment(wal.as_predecessor())?;
        self.seal(leader, next);
        Ok(())
    }

    /// Creates the segment behind `predecessor` and names it in the manifest.
    fn open_segment(&self, predecessor: Predecessor) -> Result<WalWriter> {
        let number = self.take_file_number();
        let step = self.options.wal_preallocate_bytes;
        let created = WalWriter::create(self.vfs.as_ref(), &self.directory, number, Some(predecessor), step);
        let segment = created.inspect_err(|_| {
            // Nobody knows the file, if there is one; the old segment is as good as before.
            self.book.lock().removable.insert(FileName::Wal(number));
            self.check_directory();
        })?;
        let mut manifest = self.manifest.lock();
        self.install(&mut manifest, vec![Change::WalOpened(number)])?;
        Ok(segment.with_held_len_max(self.options.wal_held_len_max()))
    }

    /// Switches to `next`: the memtables filled so far become a sealed generation.
    fn seal(&self, leader: &mut Leader, next: WalWriter) {
        let mut book = self.book.lock();
        let old = book.active_wal.replace(Arc::clone(next.segment()));
        let old = old.expect("a writable database has an open segment").number;
        let old = book.active_first.take().unwrap_or(old);
        book.wals.insert(next.number());
        let state = self.state.load_full();
        let filled = state.keyspaces.iter().filter(|keyspace| !keyspace.tree.active.is_empty());
        let memtables =
            filled.map(|keyspace| (keyspace.info.id, Arc::clone(&keyspace.tree.active))).collect();
        book.sealed.push_back((old, Arc::new(Generation { last_seq: leader.last_seq, memtables })));
        let share = self.options.memtable_bytes / state.keyspaces.len();
        self.change_state(&mut book, |state| {
            for keyspace in &mut state.keyspaces {
                let tree = &mut keyspace.tree;
                if !tree.active.is_empty() {
                    let fresh = Arc::new(Memtable::new(&tree.order, share));
                    tree.sealed.insert(0, std::mem::replace(&mut tree.active, fresh));
                }
            }
        });
        drop(book);
        if let Some(mut old) = leader.wal.replace(next) {
            old.trim();
        }
        leader.arena = Arena::new(self.options.memtable_bytes);
        self.changed.notify_all();
    }

    /// Seals the active memtables if there is anything in them; waits for room like a writer.
    pub(crate) fn rotate_now(&self) -> Result<()> {
        self.check_writable()?;
        let mut leader = self.leader.lock();
        self.check_writable()?;
        self.rotate(&mut leader)
    }

    /// Waits until background work has caught up enough for another write.
    fn wait_for_room(&self) -> Result<()> {
        match self.pace() {
            Pace::Go => Ok(()),
            Pace::Delay(delay) => self.stall(|| {
                self.run_or_sleep(delay);
                Ok(())
            }),
            Pace::Stop => self.stall(|| self.wait_until_pace_allows()),
        }
    }

    fn stall(&self, wait: impl FnOnce() -> Result<()>) -> Result<()> {
        let began = self.vfs.now();
        Counters::add(&self.counters.stalls, 1);
        let result = wait();
        Counters::add(&self.counters.stall_nanos, self.vfs.now().saturating_sub(began));
        result
    }

    fn run_or_sleep(&self, delay: Duration) {
        if self.is_manual {
            // A failure is in the book, and the write that it hinders finds it there.
            drop(self.run_due_job());
        } else {
            self.vfs.sleep(delay);
        }
    }

    fn wait_until_pace_allows(&self) -> Result<()> {
        let deadline = self.vfs.now().saturating_add(nanos(self.options.stall_timeout));
        while self.pace() == Pace::Stop {
            self.check_writable()?;
            if self.is_manual {
                if !self.run_or_await_job()? && self.pace() == Pace::Stop {
                    return Err(self.busy());
                }
                continue;
            }
            let now = self.vfs.now();
            if now >= deadline {
                return Err(self.busy());
            }
            let mut book = self.book.lock();
            if self.pace() == Pace::Stop
                && !self.is_closing.load(Ordering::Acquire)
                && book.writing_error.is_none()
            {
                self.changed.wait_for(&mut book, Duration::from_nanos(deadline - now));
            }
        }
        Ok(())
    }

    fn busy(&self) -> Error {
        let cause = self.book.lock().job_error.clone();
        match cause {
            Some(cause) => {
                let message = format!("writes wait for flush and compaction, which fail: {cause}");
                cause.wrap(ErrorKind::Busy, message)
            }
            None => Error::new(
                ErrorKind::Busy,
                "writes wait for flush and compaction, and the time for that is over",
            ),
        }
    }

    fn pace(&self) -> Pace {
        let state = self.state.load();
        let level0 = state.keyspaces.iter().map(|keyspace| keyspace.tree.tables.level(0).len());
        let lag = Lag {
            is_active_full: self.is_active_full(),
            sealed_count: self.sealed_count.load(Ordering::Acquire),
            level0_count: level0.max().unwrap_or(0),
        };
        pace(lag, self.options.stall_limits())
    }

    /// Takes up writing again after a full disk, in a new segment behind what the old one holds for sure.
    pub(crate) fn resume(&self) -> Result<()> {
        self.check_open()?;
        let mut leader = self.leader.lock();
        let Some(error) = self.book.lock().writing_error.clone() else {
            let mut book = self.book.lock();
            book.job_error = None;
            book.retry_at = 0;
            drop(book);
            self.changed.notify_all();
            return Ok(());
        };
        let wal = leader.wal.as_mut().expect("only a writable database is poisoned");
        if !is_full_log(&error) || error.file() != Some(wal.path()) {
            return Err(self.check_writable().expect_err("writing is off"));
        }
        let predecessor = wal.abandon().map_err(|error| self.poison(&error))?;
        self.is_poisoned.store(false, Ordering::Release);
        let mut next = self
            .open_segment(predecessor)
            .inspect_err(|_| self.is_poisoned.store(true, Ordering::Release))?;
        let old = leader.wal.as_mut().expect("only a writable database is poisoned");
        // The memtables go on, with commits of both segments: what the old one held back is in them too.
        next.take_over(old);
        old.trim();
        {
            let mut book = self.book.lock();
            book.active_first.get_or_insert(old.number());
            book.active_wal = Some(Arc::clone(next.segment()));
            book.wals.insert(next.number());
        }
        leader.wal = Some(next);
        let mut book = self.book.lock();
        if self.is_poisoned.load(Ordering::Acquire) {
            // Another failure came between, such as one of the manifest's, which `poison` put in place of the first.
            drop(book);
            return self.check_writable();
        }
        book.writing_error = None;
        drop(book);
        self.changed.notify_all();
        Ok(())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
