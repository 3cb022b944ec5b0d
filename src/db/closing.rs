//! How a database ends: closed in good order by one caller, or left by its last handle.

use crate::base::contain::contain;
use crate::base::error::{ErrorKind, Result};
use crate::base::limits;
use crate::db::board::JobKind;
use crate::db::core::{Core, Host, Leader};
use crate::db::ends::is_mendable;
use crate::db::jobs::Job;
use crate::sync::atomic::AtomicBool;
use crate::version::edit::Change;
use crate::wal::writer::WalWriter;
use std::sync::Arc;

impl Core {
    /// Closes the database. Whoever else closes it waits for that.
    ///
    /// Nothing on any thread can touch the directory any more when its lock is freed: jobs are told to stop and waited
    /// for, whoever runs them; then the leader and the manifest's lock are passed, behind which every later caller finds
    /// the database closed; then the directory itself lets nobody in.
    ///
    /// # Errors
    /// As `Db::close`; `Closed` if somebody else closed it.
    pub(crate) fn close(&self, stop_threads: impl FnOnce()) -> Result<()> {
        self.ends.begin_close()?;
        self.stop_jobs();
        stop_threads();
        let finished = contain("closing", || self.finish());
        let let_go = self.directory.let_go();
        self.ends.close();
        drop(self.book.lock());
        self.changed.notify_all();
        finished.and(let_go)
    }

    /// Leaves the database as a dead process would, when the last handle is gone: nothing is written any more.
    pub(crate) fn leave(&self) {
        self.ends.cancel();
        self.stop_jobs();
        // The lock ends with the process at the latest, and nobody is left to be told.
        drop(self.directory.let_go());
    }

    /// Waits until no job runs; none begins any more.
    fn stop_jobs(&self) {
        let mut book = self.book.lock();
        self.changed.notify_all();
        while book.board.is_working() {
            self.changed.wait(&mut book);
        }
    }

    /// Writes what makes the next opening cheap, and marks a good end in log and manifest.
    fn finish(&self) -> Result<()> {
        if matches!(self.host, Host::Nobody) {
            return Ok(());
        }
        if self.writing.leader.lock().unestablished.is_some() {
            // It was opened on a full disk and nothing was written: what lies there is as good as before.
            return Ok(());
        }
        if let Some(cause) = self.ends.failure() {
            // What jobs have left on a full disk would stay there until the next opening finds it.
            self.purge_at_the_end();
            if is_mendable(&cause) {
                drop(self.state_end());
            }
            return Err(cause.within(ErrorKind::ReadOnly, "writing was off when it was closed"));
        }
        let mut leader = self.writing.leader.lock();
        // If this fails, the log still holds everything, and the next opening flushes it.
        drop(self.flush_at_the_end(&mut leader));
        self.shrink_reserve_at_the_end();
        // The little that is still to be written may need the space of what is not needed.
        self.purge_at_the_end();
        let wal = leader.wal.as_mut().expect("a writable database has an open segment");
        wal.finish()?;
        self.note_wal_len(wal);
        let closed = Change::Closed { wal: wal.number(), good_len: wal.good_len() };
        {
            let mut manifest = self.manifest.lock();
            let time = Change::TimeHighWater(self.expiry_time());
            self.install_in_any_phase(&mut manifest, vec![time, closed])?;
            let manifest = manifest.as_mut().expect("a writable database has a manifest");
            manifest.finish(self.directory.as_ref(), self.take_file_number())?;
        }
        // Everything is durable, and the rest is tidying up.
        drop(leader);
        self.purge_at_the_end();
        Ok(())
    }

    /// Removes what is not needed, without a claim: jobs were stopped. What cannot be removed is an orphan for the next
    /// opening.
    fn purge_at_the_end(&self) {
        let names = self.book.lock().files.take_removable();
        drop(self.run_purge(&names));
    }

    /// Makes durable what the log holds that a full disk ended, and states that: the next opening need not find the space to
    /// write it again.
    fn state_end(&self) -> Result<()> {
        let mut leader = self.writing.leader.lock();
        let wal = leader.wal.as_mut().expect("a writable database has an open segment");
        let end = wal.abandon()?;
        let closed = Change::Closed { wal: end.number, good_len: end.good_len };
        let time = Change::TimeHighWater(self.expiry_time());
        self.install_in_any_phase(&mut self.manifest.lock(), vec![time, closed])
    }

    /// Writes memtables out if the log is so long that the next opening would have to.
    fn flush_at_the_end(&self, leader: &mut Leader) -> Result<()> {
        let wal_len = leader.wal.as_ref().map_or(0, WalWriter::len);
        let is_small = wal_len <= self.carried_len_max();
        if is_small && self.book.lock().sealed.is_empty() {
            return Ok(());
        }
        self.rotate(leader)?;
        loop {
            let Some((_, generation)) = self.book.lock().sealed.front().cloned() else { return Ok(()) };
            // Jobs were told to stop; this one is the end itself.
            self.run_flush(&generation, &AtomicBool::new(false))?;
        }
    }

    /// Writes out sealed memtables of earlier incarnations if they are more than may wait, and removes what is not needed:
    /// incarnations that end before the background comes to it would leave more each time. What fails here is left to the
    /// background.
    pub(crate) fn tidy_up(&self) {
        loop {
            let sealed = {
                let mut book = self.book.lock();
                let is_much = book.sealed.len() > self.options.sealed_memtables_max;
                let is_mine = is_much && !book.board.is_running(JobKind::Flush);
                let sealed = book.sealed.front().filter(|_| is_mine).map(|(_, oldest)| Arc::clone(oldest));
                if sealed.is_some() {
                    book.board.claim(JobKind::Flush);
                }
                sealed
            };
            let Some(generation) = sealed else { break };
            if self.run_claimed(Job::Flush(generation)).is_err() {
                break;
            }
        }
        self.purge_now();
    }

    /// Removes what is not needed, unless somebody is at it.
    pub(crate) fn purge_now(&self) {
        let names = {
            let mut book = self.book.lock();
            if !book.files.has_removable() || book.board.is_running(JobKind::Purge) {
                return;
            }
            book.board.claim(JobKind::Purge);
            book.files.take_removable()
        };
        drop(self.run_claimed(Job::Purge(names)));
    }

    /// Returns how much log an opening writes again instead of making tables of it.
    pub(crate) fn carried_len_max(&self) -> u64 {
        limits::carried_log_len_max(self.options.memtable_bytes)
    }
}
