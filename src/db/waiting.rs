//! Waiting for background work: each caller for what it asked for, and for no longer than that can come.

use crate::base::contain::contain;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::seq::SeqNum;
use crate::compaction::picker;
use crate::compaction::plan::Plan;
use crate::compaction::range::RangeWalk;
use crate::db::board::JobKind;
use crate::db::ends::{Phase, writing_is_off};
use crate::db::jobs::Job;
use crate::db::state::{Book, Core, Host, KeyspaceTree};
use crate::vfs::Vfs;
use std::collections::BTreeSet;

/// How often a merge on request is tried again on a full disk without one that succeeds.
const FULL_DISK_ATTEMPTS: u32 = 8;

impl Core {
    /// Waits until `is_done`, running jobs itself in a manual database. Ends when a job that `concerns` the caller fails.
    ///
    /// # Errors
    /// The failure of such a job that ran after the call began; why writing is off; `Closed`; `Busy` if nothing that
    /// could be run would help.
    pub(crate) fn await_jobs(
        &self,
        concerns: impl Fn(JobKind) -> bool,
        mut is_done: impl FnMut(&mut Book) -> bool,
    ) -> Result<()> {
        self.ends.check_process()?;
        let failures_before = {
            let mut book = self.book.lock();
            // Whoever waits has a reason to think that it goes better now.
            book.board.retry_now(&concerns);
            book.board.failures_count()
        };
        self.wake_background();
        let mut book = self.book.lock();
        loop {
            if is_done(&mut book) {
                return Ok(());
            }
            match self.ends.phase() {
                Phase::Open => {}
                Phase::Failed => {
                    drop(book);
                    let Some(cause) = self.ends.failure() else {
                        // Resumed since.
                        book = self.book.lock();
                        continue;
                    };
                    return Err(writing_is_off(&cause));
                }
                Phase::Opening | Phase::ReadOnly | Phase::Closing | Phase::Closed => {
                    drop(book);
                    return self.ends.check_writable();
                }
            }
            if let Some(error) = book.board.failure_since(failures_before, &concerns) {
                return Err(error.clone());
            }
            if matches!(self.host, Host::Caller) {
                drop(book);
                let has_run = self.run_or_await_job();
                book = self.book.lock();
                match has_run {
                    // A failure that does not concern this caller is on the board for others.
                    Ok(true) | Err(_) => {}
                    Ok(false) if is_done(&mut book) => return Ok(()),
                    Ok(false) => {
                        drop(book);
                        // Nothing runs any more once somebody closes, and that is what the caller is told.
                        self.ends.check_writable()?;
                        return Err(Error::new(ErrorKind::Busy, "no background job can be run now"));
                    }
                }
            } else {
                self.changed.wait(&mut book);
            }
        }
    }

    /// Seals the active memtables if there is anything in them. Returns the number of the last commit: all up to it are
    /// in sealed memtables or tables then.
    ///
    /// # Errors
    /// As `check_writable`; what beginning a segment meets.
    pub(crate) fn seal_now(&self) -> Result<SeqNum> {
        if self.ends.phase() == Phase::Failed && self.reserve.held_bytes() > 0 {
            self.use_reserve()?;
        }
        self.ends.check_writable()?;
        let mut leader = self.writing.leader.lock();
        self.ends.check_writable()?;
        self.rotate(&mut leader)?;
        Ok(leader.last_seq)
    }

    /// Writes everything that was committed before the call to tables, and waits for that; returns the last number of it.
    ///
    /// # Errors
    /// As `Db::flush`.
    pub(crate) fn flush(&self) -> Result<SeqNum> {
        let upto = self.with_reserve(|| self.seal_now())?;
        self.with_reserve(|| {
            self.await_jobs(
                |kind| kind == JobKind::Flush,
                |book| book.sealed.front().is_none_or(|(_, generation)| generation.last_seq > upto),
            )
        })?;
        Ok(upto)
    }

    /// Waits until every flush, merge and removal that is due now is done, and what they make due.
    ///
    /// # Errors
    /// As `Db::wait_idle`.
    pub(crate) fn wait_idle(&self) -> Result<()> {
        self.ends.check_process()?;
        self.ends.check_open()?;
        if self.ends.phase() == Phase::ReadOnly {
            return Ok(());
        }
        {
            // Whoever waits for nothing to be due waits for what quiet would make due.
            let mut book = self.book.lock();
            book.quiet.waiting_count += 1;
            self.look_at_quiet(&mut book);
        }
        let result = self.await_idle();
        self.book.lock().quiet.waiting_count -= 1;
        result
    }

    fn await_idle(&self) -> Result<()> {
        let mut upto = self.book.lock().sealed.back().map(|(_, generation)| generation.last_seq);
        let mut due: Option<BTreeSet<KeyspaceId>> = None;
        let mut looks_before = 0;
        self.await_jobs(
            |kind| kind != JobKind::Reserve,
            |book| {
                let is_flushed =
                    |front: &crate::db::state::Generation| upto.is_none_or(|upto| front.last_seq > upto);
                if !book.sealed.front().is_none_or(|(_, generation)| is_flushed(generation)) {
                    return false;
                }
                if book.is_seal_wanted || book.board.is_running(JobKind::Seal) {
                    // What it seals is waited for too, once.
                    due = None;
                    upto = None;
                    return false;
                }
                if upto.is_none() {
                    upto = book.sealed.back().map(|(_, generation)| generation.last_seq);
                    if upto.is_some() {
                        return false;
                    }
                }
                // Merges count from the moment when the last of those flushes has made its own due.
                let due = due.get_or_insert_with(|| {
                    looks_before = book.board.looks_count();
                    book.board.busy_keyspaces().collect()
                });
                due.retain(|id| {
                    let is_busy =
                        book.board.is_candidate(*id) || book.board.is_running(JobKind::Compact(*id));
                    is_busy && !book.board.was_idle_since(*id, looks_before)
                });
                due.is_empty()
                    && !self.is_reserve_awaited(book)
                    && !book.board.is_running(JobKind::Flush)
                    && !book.board.is_running(JobKind::WriteBack)
                    && !book.board.is_running(JobKind::Purge)
                    && !book.files.has_removable()
            },
        )
    }

    /// Tells whether space is going to be set aside now.
    fn is_reserve_awaited(&self, book: &mut Book) -> bool {
        let now = self.directory.now();
        book.board.is_running(JobKind::Reserve)
            || (book.board.is_free(JobKind::Reserve, now) && self.is_reserve_due(book, now))
    }

    /// Merges what lies in a range down to the deepest level that holds any of it, and rewrites what lies there already
    /// if that can drop anything. The keys are included; `None` is no bound.
    ///
    /// # Errors
    /// As `Db::compact_range`.
    pub(crate) fn compact_range(
        &self,
        id: KeyspaceId,
        (smallest, largest): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> Result<()> {
        let upto = self.flush()?;
        let mut walk = RangeWalk::new(smallest, largest, upto);
        let mut is_helping = false;
        let mut attempts_left = FULL_DISK_ATTEMPTS;
        loop {
            self.await_merge_claim(id)?;
            let keyspace = self.view.state().keyspace(id).clone();
            // On a full disk, first whatever frees most in the room that there is.
            is_helping = !is_helping || self.reserve.is_spent();
            let planned =
                contain("picking a merge", || Ok(self.plan_range(&keyspace, &mut walk, &mut is_helping)));
            let plan = match planned {
                Ok(Some(plan)) => plan,
                Ok(None) => {
                    self.give_merge_claim_back(id);
                    return Ok(());
                }
                Err(error) => {
                    self.give_merge_claim_back(id);
                    return Err(error);
                }
            };
            let order = keyspace.tree.order.clone();
            let merged = self.run_claimed(Job::Compact(keyspace, plan.clone()));
            self.wake_background();
            if let Err(error) = merged {
                if error.kind() != ErrorKind::NoSpace || attempts_left == 0 {
                    return Err(error);
                }
                // Tried again in the room that the reserve and the files of earlier merges make.
                attempts_left -= 1;
                if !self.use_reserve()? {
                    self.purge_now();
                }
                is_helping = false;
                continue;
            }
            attempts_left = FULL_DISK_ATTEMPTS;
            if self.reserve.is_spent() {
                self.purge_now();
            }
            if !is_helping {
                walk.installed(&plan, &order);
            }
        }
    }

    /// Returns the next merge of a walk; or before it, if `is_helping`, the one that is due for the writers' sake, every
    /// other time at most, since the background lets the walk go first.
    fn plan_range(
        &self,
        keyspace: &KeyspaceTree,
        walk: &mut RangeWalk,
        is_helping: &mut bool,
    ) -> Option<Plan> {
        let snapshots = self.view.snapshots.live();
        let (tables, order) = (&keyspace.tree.tables, &keyspace.tree.order);
        if *is_helping {
            let limits = keyspace.info.options.level_limits();
            let situation = self.situation(keyspace, self.reserve.is_spent(), &snapshots);
            if let Some(plan) = picker::pick(tables, limits, order, situation).plan {
                return Some(plan);
            }
            *is_helping = false;
        }
        walk.next(tables, order, &snapshots)
    }
}
