//! Waiting for background work: each caller for what it asked for, and for no longer than that can come.

use crate::base::contain::contain;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::seq::SeqNum;
use crate::compaction::picker::{self, target_bytes};
use crate::compaction::plan::Plan;
use crate::compaction::range::RangeWalk;
use crate::db::board::JobKind;
use crate::db::book::Book;
use crate::db::core::{Core, Host};
use crate::db::ends::{Phase, writing_is_off};
use crate::db::jobs::Job;
use crate::db::state::{KeyspaceInfo, KeyspaceTree, LiveTable};
use crate::vfs::Vfs;
use std::collections::BTreeSet;
use std::ops::Bound;

/// How often a merge on request is tried again on a full disk without one that succeeds.
const FULL_DISK_ATTEMPTS: u32 = 8;

impl Core {
    /// Waits until `is_done`, running jobs itself in a manual database. Ends when a job that `concerns` the caller fails.
    ///
    /// # Errors
    /// The failure of such a job that began after the call did; why writing is off; `Closed`; `Busy` if nothing that
    /// could be run would help.
    pub(crate) fn await_jobs(
        &self,
        concerns: impl Fn(JobKind) -> bool,
        mut is_done: impl FnMut(&mut Book) -> bool,
    ) -> Result<()> {
        self.ends.check_process()?;
        let claims_before = {
            let mut book = self.book.lock();
            // Whoever waits has a reason to think that it goes better now.
            book.board.retry_now(&concerns);
            book.board.claims_count()
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
            if let Some(error) = book.board.failure_since(claims_before, &concerns) {
                return Err(error.clone());
            }
            if book.board.retry_if_claimed_before(claims_before, &concerns) {
                drop(book);
                self.wake_background();
                book = self.book.lock();
                continue;
            }
            if matches!(self.host, Host::Caller) {
                drop(book);
                let has_run = self.run_or_await_job(None);
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
            // Whoever waits has a reason to think that it goes better now.
            self.reserve.try_now();
            book.board.retry_now(|kind| kind == JobKind::Reserve);
            book.retry_damaged(|_| true);
            self.look_at_quiet(&mut book);
        }
        let result = self.await_idle();
        self.book.lock().quiet.waiting_count -= 1;
        result?;
        // What is due after that comes when writing goes on.
        self.ends.check_writable()
    }

    fn await_idle(&self) -> Result<()> {
        let mut idleness = Idleness { seq: self.view.visible_seq(), ..Idleness::default() };
        self.await_jobs(|kind| kind != JobKind::Reserve, |book| idleness.has_come(self, book))
    }

    /// Tells whether space is going to be set aside now.
    pub(crate) fn is_reserve_awaited(&self, book: &mut Book) -> bool {
        let now = self.directory.now();
        book.board.is_running(JobKind::Reserve)
            || (book.board.is_free(JobKind::Reserve, now) && self.is_reserve_due(book, now))
    }

    /// Merges what lies in a range down to the deepest level that holds any of it, and rewrites what lies there already
    /// if that can drop anything.
    ///
    /// # Errors
    /// As `Db::compact_range`.
    pub(crate) fn compact_range(
        &self,
        info: &KeyspaceInfo,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    ) -> Result<()> {
        let id = info.id;
        let look = || self.view.state().find(id).cloned().ok_or_else(|| info.dropped());
        let order = look()?.tree.order;
        let is_empty = || Ok(order.is_range_empty(&bounds.0, &bounds.1));
        if contain("looking at a range", is_empty)? {
            return Ok(());
        }
        let upto = self.flush()?;
        let mut walk = RangeWalk::new(bounds, upto);
        let mut is_helping = false;
        let mut attempts_left = FULL_DISK_ATTEMPTS;
        loop {
            self.await_merge_claim(id)?;
            let keyspace = look().inspect_err(|_| self.give_merge_claim_back(id))?;
            // On a full disk, first whatever frees most in the space that there is.
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
            let merged = self.run_claimed(Job::Compact {
                keyspace,
                plan: plan.clone(),
                space_bytes: None,
                _permit: None,
            });
            self.wake_background();
            if let Err(error) = merged {
                if error.kind() != ErrorKind::NoSpace || attempts_left == 0 {
                    return Err(error);
                }
                // Tried again in the space that the reserve and the files of earlier merges make.
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
            let parked = self.book.lock().parked_tables(keyspace.info.id, self.directory.now()).collect();
            let situation = self.situation(keyspace, self.reserve.is_spent(), (&snapshots, &parked));
            let plan = if self.reserve.is_spent() {
                picker::pick(tables, limits, order, situation).plan
            } else {
                picker::pick_overdue(tables, limits, order, situation)
            };
            if plan.is_some() {
                return plan;
            }
            *is_helping = false;
        }
        walk.next(tables, order, &snapshots)
    }
}

/// How far it is to a moment with nothing due, for one caller.
///
/// Beside writers there may be no such moment. Then it is enough that what was due at the beginning is done: it has been
/// flushed, no level is over its target by the tables that there were then, and whatever ran or was to be removed then
/// has had its turn.
#[derive(Default)]
struct Idleness {
    /// The last commit when it began.
    seq: SeqNum,
    /// Once writers go on: everything up to here is flushed first.
    upto: Option<SeqNum>,
    /// What is awaited after the flushes; none while these are.
    rest: Option<Rest>,
    /// How often something at rest had been made due when that was found out.
    revivals_before: u64,
}

/// What is due once everything is flushed.
struct Rest {
    keyspaces: BTreeSet<KeyspaceId>,
    looks_before: u64,
    /// The tables that there are.
    tables: BTreeSet<FileNumber>,
    /// Jobs that end for everybody, with how many have to have ended.
    ends: Vec<(JobKind, u64)>,
}

impl Idleness {
    /// Tells whether it has come.
    fn has_come(&mut self, core: &Core, book: &mut Book) -> bool {
        let goes_on = core.view.visible_seq() > self.seq;
        if !self.is_flushed(book, goes_on) {
            return false;
        }
        let rest = self.rest.get_or_insert_with(|| Rest::of(core, book));
        let state = core.view.state();
        let (tables, looks_before) = (&rest.tables, rest.looks_before);
        // One after the other: each of many jobs wakes this waiter, and one at rest is not asked about again.
        let is_due = |id| {
            let is_busy = book.board.is_busy_since(id, looks_before);
            is_busy && !(goes_on && state.find(id).is_none_or(|keyspace| has_merged(keyspace, tables)))
        };
        while rest.keyspaces.first().is_some_and(|&id| !is_due(id)) {
            rest.keyspaces.pop_first();
        }
        let is_still =
            |kind, until| !book.board.is_running(kind) || (goes_on && book.board.ended_count(kind) >= until);
        let are_still = rest.ends.iter().all(|&(kind, until)| is_still(kind, until));
        let is_clean = !book.files.has_removable() || (goes_on && rest.has_purged(book));
        rest.keyspaces.is_empty() && are_still && is_clean && !core.is_reserve_awaited(book)
    }

    /// Tells whether everything is flushed, what was sealed for the sake of what it hides included; beside writers, what
    /// had been sealed when the first of them was seen.
    fn is_flushed(&mut self, book: &Book, goes_on: bool) -> bool {
        if goes_on {
            let last = || book.sealed.back().map_or(SeqNum::default(), |(_, generation)| generation.last_seq);
            let upto = *self.upto.get_or_insert_with(last);
            return book.sealed.front().is_none_or(|(_, generation)| generation.last_seq > upto);
        }
        let is_flushed =
            book.sealed.is_empty() && !book.is_seal_wanted && !book.board.is_running(JobKind::Seal);
        // A count tells of what was sealed and flushed between two looks of this caller: the look that wanted the seal
        // has found nothing to merge, and the flush may have made something due. So it is with space on the disk.
        if !is_flushed || book.revivals_count != self.revivals_before {
            self.revivals_before = book.revivals_count;
            self.rest = None;
        }
        is_flushed
    }
}

impl Rest {
    /// Merges count from the moment when the last of the flushes has made its own due.
    fn of(core: &Core, book: &Book) -> Rest {
        let state = core.view.state();
        let once = [JobKind::Flush, JobKind::WriteBack, JobKind::Purge];
        Rest {
            keyspaces: book.board.busy_keyspaces().collect(),
            looks_before: book.board.looks_count(),
            tables: state.tables().map(|(_, live)| live.meta.number).collect(),
            ends: once.iter().map(|&kind| (kind, book.board.end_of_next(kind))).collect(),
        }
    }

    fn has_purged(&self, book: &Book) -> bool {
        let purge = self.ends.iter().find(|(kind, _)| *kind == JobKind::Purge);
        purge.is_some_and(|&(kind, until)| book.board.ended_count(kind) >= until)
    }
}

/// Tells whether no level of a keyspace is over its target by the tables that there were.
fn has_merged(keyspace: &KeyspaceTree, before: &BTreeSet<FileNumber>) -> bool {
    let limits = keyspace.info.options.level_limits();
    let levels = keyspace.tree.tables.levels();
    let left = |tables: &[LiveTable]| {
        let left = tables.iter().filter(|live| before.contains(&live.meta.number));
        left.fold((0, 0), |(count, bytes), live| (count + 1, bytes + live.meta.len_bytes))
    };
    let is_over = |(level, tables): (usize, &Vec<LiveTable>)| match (level, left(tables)) {
        (0, (count, _)) => count >= limits.level0_trigger,
        (_, (_, bytes)) => bytes > target_bytes(level, limits),
    };
    !levels.iter().enumerate().take(levels.len() - 1).any(is_over)
}
