//! What background jobs do, and how their results become visible and durable.
//!
//! A job is claimed on the board, runs without any lock, and installs its result through the manifest. Threads merely loop
//! over [`Core::run_due_job`]; a manual host calls it itself. Flushes go first, then the log's write-back, then removals,
//! then merges, which may be due for as long as somebody writes. A job that fails has changed nothing: its source stands,
//! its files are removable, and it is tried again under new file numbers after a pause of its own. A panic in a job is
//! such a failure.

use crate::base::contain::contain;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::compaction::flush::{FlushSource, flush_all};
use crate::compaction::merge::{Surroundings, merge};
use crate::compaction::output::{JobContext, OutputSettings};
use crate::compaction::picker::{self, Pick, Situation, Unflushed};
use crate::compaction::plan::Plan;
use crate::db::board::{JobKind, is_lasting, nanos};
use crate::db::book::{Book, Generation};
use crate::db::core::{Core, Host};
use crate::db::ends::Phase;
use crate::db::runtime::MergePermit;
use crate::db::state::{KeyspaceTree, LiveTable};
use crate::format::names::FileName;
use crate::memtable::Memtable;
use crate::read::tree::Tables;
use crate::sync::atomic::AtomicBool;
use crate::sync::yield_point;
use crate::version::edit::Change;
use crate::vfs::Vfs;
use crate::wal::segment::Segment;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often it is looked whether the last reader of an obsolete table is gone.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing may be written before the database counts as quiet.
const QUIET_AFTER: Duration = Duration::from_secs(2);

/// One job, claimed: nobody else will do it.
pub(crate) enum Job {
    Seal,
    Flush(Arc<Generation>),
    WriteBack(Arc<Segment>),
    /// A background thread holds a permit meanwhile; a caller merges without.
    Compact {
        keyspace: KeyspaceTree,
        plan: Plan,
        /// What its tables may take on the disk, if they are only likely to have space there.
        space_bytes: Option<u64>,
        _permit: Option<MergePermit>,
    },
    Purge(BTreeMap<FileName, u64>),
    Reserve,
}

/// A merge, and what its tables may take on the disk if they are only likely to have space there.
type FittingPlan = (Plan, Option<u64>);

/// When a background thread should look at a database again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// At once: there may be more to do.
    Now,
    /// At a monotonic time.
    At(u64),
    /// When somebody calls.
    WhenCalled,
}

impl Job {
    fn kind(&self) -> JobKind {
        match self {
            Job::Seal => JobKind::Seal,
            Job::Flush(_) => JobKind::Flush,
            Job::WriteBack(_) => JobKind::WriteBack,
            Job::Compact { keyspace, .. } => JobKind::Compact(keyspace.info.id),
            Job::Purge(_) => JobKind::Purge,
            Job::Reserve => JobKind::Reserve,
        }
    }
}

impl Core {
    /// Looks once for a background thread, and does one job.
    pub(crate) fn work_once(&self) -> Look {
        self.end_wake();
        let looked_at = self.directory.now();
        let Some(job) = self.claim_job() else { return self.next_look(looked_at) };
        // What this thread does not do now, another may.
        self.wake_background();
        // The failure is on the board, where writers and `background_error` find it.
        drop(self.run_claimed(job));
        Look::Now
    }

    /// Returns when a background thread should look again although nobody calls it. What was possible at the last look
    /// was not due then, and whoever makes it due calls.
    fn next_look(&self, looked_at: u64) -> Look {
        if self.ends.is_cancelled() {
            return Look::WhenCalled;
        }
        let mut book = self.book.lock();
        let purge_at = book.files.has_obsolete().then(|| looked_at.saturating_add(nanos(PURGE_INTERVAL)));
        let quiet_at = self.quiet_at(&mut book);
        let damaged_at = book.next_retry_of_damaged(looked_at);
        let others =
            self.reserve_try_at(looked_at).into_iter().chain(purge_at).chain(quiet_at).chain(damaged_at);
        let next = book.board.next_retry_at(looked_at).into_iter().chain(others).min();
        next.map_or(Look::WhenCalled, Look::At)
    }

    /// Tells whether nothing was written for a while, or somebody waits for nothing to be due.
    pub(crate) fn is_quiet(&self, book: &mut Book) -> bool {
        let (seq, now) = (self.view.visible_seq(), self.directory.now());
        let quiet = &mut book.quiet;
        if quiet.since.0 != seq {
            quiet.since = (seq, now);
        }
        quiet.waiting_count > 0 || now.saturating_sub(quiet.since.1) >= nanos(QUIET_AFTER)
    }

    /// Returns when the quiet begins in which every keyspace is to be looked at once more; none if it was, in which case
    /// the next commit calls.
    fn quiet_at(&self, book: &mut Book) -> Option<u64> {
        if self.ends.phase() != Phase::Open {
            return None;
        }
        self.is_quiet(book);
        if book.quiet.looked_at == Some(book.quiet.since.0) {
            // In this order: a commit is seen here, or it sees the mark.
            self.is_settled.store(true, Ordering::SeqCst);
            yield_point("background: settled");
            self.is_quiet(book);
            if book.quiet.looked_at == Some(book.quiet.since.0) {
                return None;
            }
            self.is_settled.store(false, Ordering::SeqCst);
        }
        Some(book.quiet.since.1.saturating_add(nanos(QUIET_AFTER)))
    }

    /// Nominates every keyspace, once in each quiet.
    pub(crate) fn look_at_quiet(&self, book: &mut Book) {
        if !self.is_quiet(book) || book.quiet.looked_at == Some(book.quiet.since.0) {
            return;
        }
        book.quiet.looked_at = Some(book.quiet.since.0);
        for keyspace in self.view.state().keyspaces() {
            book.board.nominate(keyspace.info.id);
        }
    }

    /// Runs one due job; `false` if none was due.
    ///
    /// # Errors
    /// What the job met; it stays due.
    pub(crate) fn run_due_job(&self) -> Result<bool> {
        let Some(job) = self.claim_job() else { return Ok(false) };
        self.run_claimed(job).map(|()| true)
    }

    /// Runs one due job, or waits for one that another caller runs, for that no longer than until a monotonic time;
    /// `false` if there is neither. How a manual database waits.
    ///
    /// # Errors
    /// What the job met; it stays due.
    pub(crate) fn run_or_await_job(&self, until: Option<u64>) -> Result<bool> {
        let changes_before = self.book.lock().board.changes_count();
        if let Some(job) = self.claim_job() {
            return self.run_claimed(job).map(|()| true);
        }
        let mut book = self.book.lock();
        if book.board.is_working() || book.board.has_callers() {
            match until {
                None => self.changed.wait(&mut book),
                Some(until) => {
                    let left = until.saturating_sub(self.directory.now());
                    self.changed.wait_for(&mut book, Duration::from_nanos(left));
                }
            }
            return Ok(true);
        }
        // What another caller has done since may have made something due.
        Ok(book.board.changes_count() != changes_before)
    }

    fn claim_job(&self) -> Option<Job> {
        loop {
            let mut book = self.book.lock();
            let phase = self.ends.phase();
            if self.ends.is_cancelled() || !matches!(phase, Phase::Open | Phase::Failed) {
                return None;
            }
            let now = self.directory.now();
            if phase == Phase::Open {
                book.retry_damaged(|retry_at| retry_at <= now);
                self.look_at_quiet(&mut book);
                if let Some(job) = self.claim_log_job(&mut book, now) {
                    return Some(job);
                }
                // Before merges, which may be due for as long as somebody writes; but space that one made is theirs first.
                if !self.reserve.is_spent()
                    && let Some(job) = self.claim_reserve(&mut book, now)
                {
                    return Some(job);
                }
            }
            if book.board.is_free(JobKind::Purge, now) && book.files.has_removable() {
                book.board.claim(JobKind::Purge);
                return Some(Job::Purge(book.files.take_removable()));
            }
            if phase == Phase::Open {
                if let Some((id, permit)) = self.claim_merge(&mut book, now) {
                    drop(book);
                    match self.plan_merge(id) {
                        Ok(Some((keyspace, (plan, space_bytes)))) => {
                            return Some(Job::Compact { keyspace, plan, space_bytes, _permit: permit });
                        }
                        Ok(None) => self.dismiss(id),
                        Err(error) => self.end_claim(JobKind::Compact(id), &Err(error), None),
                    }
                    continue;
                }
                if let Some(job) = self.claim_reserve(&mut book, now) {
                    return Some(job);
                }
            }
            self.forget_the_done(&mut book);
            return None;
        }
    }

    pub(crate) fn claim_reserve(&self, book: &mut Book, now: u64) -> Option<Job> {
        if !book.board.is_free(JobKind::Reserve, now) || !self.is_reserve_due(book, now) {
            return None;
        }
        book.board.claim(JobKind::Reserve);
        Some(Job::Reserve)
    }

    /// Forgets what jobs have met that have nothing left to do: another way was found, or it is not wanted any more.
    pub(crate) fn forget_the_done(&self, book: &mut Book) {
        if book.sealed.is_empty() {
            book.board.forget(JobKind::Flush);
        }
        if !book.is_seal_wanted {
            book.board.forget(JobKind::Seal);
        }
        let unsynced_len = book.active_wal.as_ref().map_or(0, |segment| segment.unsynced_len());
        if unsynced_len < self.write_back_len() {
            book.board.forget(JobKind::WriteBack);
        }
        if !book.files.has_removable() {
            book.board.forget(JobKind::Purge);
        }
        if !self.reserve.is_spent() && !self.is_reserve_due(book, self.directory.now()) {
            book.board.forget(JobKind::Reserve);
        }
    }

    fn claim_log_job(&self, book: &mut Book, now: u64) -> Option<Job> {
        if book.is_seal_wanted && book.sealed.is_empty() && book.board.is_free(JobKind::Seal, now) {
            book.is_seal_wanted = false;
            book.board.claim(JobKind::Seal);
            return Some(Job::Seal);
        }
        if book.board.is_free(JobKind::Flush, now)
            && let Some((_, generation)) = book.sealed.front()
        {
            let generation = Arc::clone(generation);
            book.board.claim(JobKind::Flush);
            return Some(Job::Flush(generation));
        }
        if book.board.is_running(JobKind::WriteBack) {
            return None;
        }
        // Whoever asked is heard here; a commit that crosses the mark later asks again.
        self.writing.is_write_back_due.store(false, Ordering::Relaxed);
        let segment = book.active_wal.as_ref()?;
        if segment.unsynced_len() < self.write_back_len() || !book.board.is_free(JobKind::WriteBack, now) {
            return None;
        }
        let segment = Arc::clone(segment);
        book.board.claim(JobKind::WriteBack);
        Some(Job::WriteBack(segment))
    }

    /// Claims the merges of the next keyspace that may have something to merge. Whether it has is looked at outside the
    /// lock: while it is claimed, only flushes change its tables.
    fn claim_merge(&self, book: &mut Book, now: u64) -> Option<(KeyspaceId, Option<MergePermit>)> {
        let id = book.board.next_candidate(book.merged_last, now)?;
        let permit = match &self.host {
            Host::Threads(waker) => Some(waker.begin_merge(self)?),
            _ => None,
        };
        book.board.claim(JobKind::Compact(id));
        // What changes from here on nominates it again.
        book.board.dismiss(id);
        book.merged_last = Some(id);
        Some((id, permit))
    }

    /// Looks what a claimed keyspace has to merge; if that is nothing, whether its active memtable hides so much that it
    /// should be sealed.
    fn plan_merge(&self, id: KeyspaceId) -> Result<Option<(KeyspaceTree, FittingPlan)>> {
        contain("picking a merge", || {
            loop {
                let Some(keyspace) = self.view.state().find(id).cloned() else { return Ok(None) };
                let snapshots = self.view.snapshots.live();
                let (is_quiet, parked) = {
                    let mut book = self.book.lock();
                    (self.is_quiet(&mut book), book.parked_tables(id, self.directory.now()).collect())
                };
                let situation = self.situation(&keyspace, is_quiet, (&snapshots, &parked));
                let limits = keyspace.info.options.level_limits();
                let tree = &keyspace.tree;
                let pick_by =
                    |situation: Situation<'_>| picker::pick(&tree.tables, limits, &tree.order, situation);
                let pick = pick_by(situation);
                if let Some(plan) = pick.plan {
                    let fitting = self.that_fits(plan, situation, pick_by)?;
                    return Ok(Some((keyspace, fitting)));
                }
                let unflushed = Unflushed {
                    entries_count: tree.active.count(),
                    len_bytes: tree.active.len_bytes(),
                    steps_count: tree.active.steps_count(),
                };
                if pick.lacks_space {
                    let mut book = self.book.lock();
                    book.short_of_space.insert(id);
                    // Whoever makes space from here on sees it; what was made meanwhile is seen here.
                    if !self.reserve.is_spent() {
                        book.nominate_short();
                    }
                }
                let is_flushed = tree.sealed.is_empty();
                if is_flushed && picker::is_seal_due(unflushed, &tree.tables, limits, &tree.order, situation)
                {
                    self.book.lock().is_seal_wanted = true;
                }
                // If one is gone meanwhile, something may be due.
                if self.view.snapshots.watch(id, pick.awaited) {
                    return Ok(None);
                }
            }
        })
    }

    /// Returns what counts for a keyspace's merges besides its tables.
    pub(crate) fn situation<'a>(
        &self,
        keyspace: &KeyspaceTree,
        is_quiet: bool,
        (snapshots, parked): (&'a [SeqNum], &'a BTreeSet<FileNumber>),
    ) -> Situation<'a> {
        let count = self.view.state().keyspaces_count().max(1);
        let price_bytes = picker::level0_price_bytes(&keyspace.tree.tables, &keyspace.tree.order);
        Situation {
            is_quiet,
            snapshots,
            level0_wasted_bytes: keyspace.waste.weigh(price_bytes),
            memtable_bytes: (self.options.memtable_bytes / count) as u64,
            available_bytes: self.short_space(),
            parked,
        }
    }

    /// Returns a merge that is not sure to fill the disk: the one that is due, or else one that is picked by the space that
    /// there is; with that, if it is only likely to fit. What is begun in vain takes space from flushes and from the log for
    /// as long as it goes on.
    ///
    /// # Errors
    /// `NoSpace` if no merge that is due fits.
    fn that_fits(
        &self,
        plan: Plan,
        situation: Situation<'_>,
        pick: impl Fn(Situation<'_>) -> Pick,
    ) -> Result<FittingPlan> {
        let needs = plan.needs_bytes();
        // A move needs nothing, and where space is known to be short the plan was picked by it.
        if needs == 0 || situation.available_bytes.is_some() {
            return Ok((plan, None));
        }
        let available = match self.directory.available_space(self.directory.path()) {
            Ok(available) if needs > available => available,
            _ => return Ok((plan, None)),
        };
        let plan =
            pick(Situation { available_bytes: Some(available), ..situation }).plan.ok_or_else(|| {
                let message = format!("a merge may take {needs} bytes on the disk, and {available} are free");
                Error::new(ErrorKind::NoSpace, message).with_file(self.directory.path())
            })?;
        let is_sure = plan.needs_bytes() <= available;
        // What a table takes beside its entries is not known before its end.
        let overhead = limits::table_space_len_bytes(self.options.memtable_bytes);
        Ok((plan, (!is_sure).then(|| available.saturating_sub(overhead))))
    }

    /// Gives back the claim of a keyspace that has nothing to merge.
    fn dismiss(&self, id: KeyspaceId) {
        let mut book = self.book.lock();
        book.board.give_back(JobKind::Compact(id));
        book.board.note_idle(id);
        book.board.forget(JobKind::Compact(id));
        self.forget_if_dropped(&mut book, id);
        drop(book);
        self.changed.notify_all();
    }

    /// Claims the merges of a keyspace for a caller, waiting for whoever has them; the background lets callers go first.
    ///
    /// # Errors
    /// As `check_writable`.
    pub(crate) fn await_merge_claim(&self, id: KeyspaceId) -> Result<()> {
        let kind = JobKind::Compact(id);
        let mut book = self.book.lock();
        book.board.add_caller(id);
        let claimed = loop {
            if self.ends.phase() != Phase::Open {
                drop(book);
                let checked = self.ends.check_writable();
                book = self.book.lock();
                match checked {
                    // Writing was resumed since.
                    Ok(()) => continue,
                    Err(error) => break Err(error),
                }
            }
            if !book.board.is_running(kind) {
                book.board.claim(kind);
                break Ok(());
            }
            self.changed.wait(&mut book);
        };
        book.board.remove_caller(id);
        drop(book);
        if claimed.is_err() {
            self.wake_background();
            self.changed.notify_all();
        }
        claimed
    }

    /// Gives a caller's claim of a keyspace's merges back.
    pub(crate) fn give_merge_claim_back(&self, id: KeyspaceId) {
        let mut book = self.book.lock();
        book.board.give_back(JobKind::Compact(id));
        self.forget_if_dropped(&mut book, id);
        drop(book);
        self.wake_background();
        self.changed.notify_all();
    }

    /// Runs a job that was claimed, and tells everybody what came of it.
    pub(crate) fn run_claimed(&self, job: Job) -> Result<()> {
        let kind = job.kind();
        let result = contain(kind.name(), || match &job {
            Job::Seal => self.seal_now().map(drop),
            Job::Flush(generation) => self.run_flush(generation, self.ends.cancelled()),
            Job::WriteBack(segment) => self.run_write_back(segment),
            Job::Compact { keyspace, plan, space_bytes, .. } => {
                self.run_compaction(keyspace, plan, *space_bytes)
            }
            Job::Purge(names) => self.run_purge(names),
            Job::Reserve => self.run_reserve(),
        });
        let damaged = result.as_ref().err().and_then(|error| damaged_input(&job, error));
        // The job's own hold on its inputs must be gone before it counts as done, or they would outlive the wait
        // for idleness.
        drop(job);
        self.end_claim(kind, &result, damaged);
        result
    }

    /// Forgets what is noted about a keyspace if it was dropped: nobody would do so later.
    pub(crate) fn forget_if_dropped(&self, book: &mut Book, id: KeyspaceId) {
        if self.view.state().find(id).is_none() {
            book.board.forget_keyspace(id);
            book.short_of_space.remove(&id);
            book.damaged.retain(|_, damage| damage.keyspace != id);
            // Nothing of it waits for a snapshot to go.
            self.view.snapshots.watch(id, Vec::new());
        }
    }

    /// Tells whether a keyspace still has a table, which may have gone with its emptying.
    fn has_table(&self, id: KeyspaceId, number: FileNumber) -> bool {
        let state = self.view.state();
        let mut tables = state.find(id).into_iter().flat_map(|it| it.tree.tables.levels().iter().flatten());
        tables.any(|live| live.meta.number == number)
    }

    /// Ends a claim with what came of it, and with the table that the job could not read, if it was a merge that met one.
    fn end_claim(&self, kind: JobKind, result: &Result<()>, damaged: Option<FileNumber>) {
        let mut book = self.book.lock();
        let now = self.directory.now();
        book.board.finish(kind, result, now);
        if let (Some(number), Some(id), Err(error)) = (damaged, kind.keyspace(), result)
            && self.has_table(id, number)
        {
            // It is the table that is not tried again for a while; others of its keyspace go on.
            book.note_damage((id, number), error, now);
            book.board.retry_now(|paused| paused == kind);
        }
        if kind == JobKind::Seal {
            book.revivals_count += 1;
            book.is_seal_wanted |= result.is_err();
        }
        if let Some(id) = kind.keyspace() {
            // One merge may make the next one due; one that failed still is.
            book.board.nominate(id);
            self.forget_if_dropped(&mut book, id);
        }
        drop(book);
        self.check_directory();
        // What a failed job wrote is to be removed, and what is done may make something else due.
        self.wake_background();
        self.changed.notify_all();
    }

    /// Runs `body` with what a job needs, `space_bytes` of the disk among it if that is short; if it fails, the files it created become removable.
    fn with_context<T>(
        &self,
        (space_bytes, is_cancelled): (Option<u64>, &AtomicBool),
        body: impl FnOnce(&JobContext<'_>, &mut Vec<FileNumber>) -> Result<T>,
    ) -> Result<T> {
        let context = JobContext {
            vfs: self.disk(),
            directory: self.directory.path().to_owned(),
            cache: Arc::clone(&self.cache),
            next_number: &|| self.take_file_number(),
            is_cancelled,
            created_at: self.expiry_time(),
            space_bytes,
        };
        let mut created = Vec::new();
        // A panic is contained here and not further out, since the files have to be known.
        contain("a job", || body(&context, &mut created)).inspect_err(|_| {
            let mut book = self.book.lock();
            for number in &created {
                book.files.discard(FileName::Table(*number), 0);
            }
        })
    }

    fn output_settings(keyspace: &KeyspaceTree) -> OutputSettings {
        OutputSettings {
            keyspace: keyspace.info.id,
            order: keyspace.tree.order.clone(),
            table: keyspace.info.options.table_options(),
            table_len_bytes_max: keyspace.info.options.table_bytes,
        }
    }

    /// Makes durable what writers left to the system. A failure is final, like that of any sync of the log.
    fn run_write_back(&self, segment: &Segment) -> Result<()> {
        segment.write_back(self.directory.as_ref()).map_err(|error| match error.kind() {
            // The sync did not begin.
            ErrorKind::Exhausted | ErrorKind::Closed => error,
            _ => self.fail(&error),
        })
    }

    /// Writes a generation's memtables out and installs the tables, unless it is told to stop.
    pub(crate) fn run_flush(&self, generation: &Arc<Generation>, is_cancelled: &AtomicBool) -> Result<()> {
        let state = Arc::clone(&self.view.state());
        let snapshots = self.view.snapshots.live();
        let source = |(id, memtable): &(KeyspaceId, Arc<Memtable>)| {
            let keyspace = state.find(*id).filter(|keyspace| is_oldest_of(keyspace, memtable))?;
            Some(FlushSource {
                memtable: Arc::clone(memtable),
                // Older memtables were flushed before, so what is older than this one is in the tables.
                tables: Arc::clone(&keyspace.tree.tables),
                settings: Core::output_settings(keyspace),
            })
        };
        let sources = generation.memtables.iter().filter_map(source).collect();
        let added = self.with_context((None, is_cancelled), |context, created| {
            flush_all(context, sources, &snapshots, created)
        })?;
        let bytes = added.iter().map(|(_, live)| live.meta.len_bytes).sum();
        self.install_flush(generation, added)?;
        self.counters.flushes.add(1);
        self.counters.bytes_flushed.add(bytes);
        Ok(())
    }

    /// Replaces a generation by its tables: from the synced edit on, its WAL segment is not needed.
    fn install_flush(
        &self,
        generation: &Arc<Generation>,
        written: Vec<(KeyspaceId, LiveTable)>,
    ) -> Result<()> {
        let mut manifest = self.manifest.lock();
        // Keyspaces are dropped and emptied under the manifest's lock: what is there now is there until the end.
        let wanted: Vec<&(KeyspaceId, Arc<Memtable>)> = {
            let state = self.view.state();
            let is_there = |id, memtable: &Arc<Memtable>| {
                state.find(id).is_some_and(|keyspace| is_oldest_of(keyspace, memtable))
            };
            generation.memtables.iter().filter(|(id, memtable)| is_there(*id, memtable)).collect()
        };
        let is_wanted = |(id, _): &(KeyspaceId, LiveTable)| wanted.iter().any(|(wanted, _)| wanted == id);
        let (added, unwanted): (Vec<_>, Vec<_>) = written.into_iter().partition(is_wanted);
        if !unwanted.is_empty() {
            let mut book = self.book.lock();
            book.files.retire_tables(unwanted.into_iter().map(|(_, live)| live));
        }
        let wal_first = {
            let book = self.book.lock();
            let (_, oldest) = book.sealed.front().expect("the flushed generation is there");
            assert!(Arc::ptr_eq(oldest, generation), "generations are flushed oldest first");
            let open = || book.active_wal.as_ref().expect("a writable database has an open segment").number;
            book.sealed.get(1).map_or_else(|| book.active_first.unwrap_or_else(open), |(wal, _)| *wal)
        };
        let mut changes: Vec<Change> = added
            .iter()
            .map(|(keyspace, live)| Change::AddTable {
                keyspace: *keyspace,
                level: 0,
                meta: (*live.meta).clone(),
            })
            .collect();
        changes.push(Change::Flushed { wal_first, seq: generation.last_seq });
        // The segments that go with this edit were what told of the time.
        changes.push(Change::TimeHighWater(self.expiry_time()));
        // A comparator may panic here, and must not where something has changed already. Tables change only under the
        // manifest's lock, so this stays right.
        let with_added = || {
            let state = self.view.pin_state();
            let mut merged: BTreeMap<KeyspaceId, Arc<Tables>> = BTreeMap::new();
            for (id, live) in &added {
                let tree = &state.keyspace(*id).tree;
                let tables = merged.get(id).unwrap_or(&tree.tables);
                let tables = Arc::new(tables.with(&[], vec![(0, Arc::clone(live))], &tree.order));
                merged.insert(*id, tables);
            }
            Ok(merged)
        };
        let merged = contain("installing a flush", with_added)
            .and_then(|merged| self.install_in_any_phase(&mut manifest, changes).map(|()| merged))
            .inspect_err(|_| {
                let created = added.iter().map(|(_, live)| FileName::Table(live.meta.number));
                self.discard_if_refused(&manifest, created);
            })?;
        let mut book = self.book.lock();
        book.sealed.pop_front();
        book.files.drop_segments_before(wal_first);
        self.change_state(&mut book, |state| {
            for (id, memtable) in wanted {
                let oldest = state.tree_mut(*id).sealed.pop().expect("a flushed memtable was sealed");
                assert!(Arc::ptr_eq(&oldest, memtable), "memtables are flushed oldest first");
            }
            for (id, tables) in merged {
                state.set_tables(id, tables);
            }
        });
        for (id, _) in &added {
            book.board.nominate(*id);
        }
        Ok(())
    }

    fn run_compaction(&self, keyspace: &KeyspaceTree, plan: &Plan, space_bytes: Option<u64>) -> Result<()> {
        if plan.is_trivial_move() {
            self.install_compaction(keyspace, plan, plan.upper.clone())?;
            self.counters.trivial_moves.add(1);
            return Ok(());
        }
        let needs = plan.needs_bytes();
        let outputs = loop {
            let around =
                Surroundings { tables: &keyspace.tree.tables, snapshots: self.view.snapshots.live() };
            let limit = self.short_space().or(space_bytes);
            let merged = self.with_context((limit, self.ends.cancelled()), |context, created| {
                merge(context, plan, around, Core::output_settings(keyspace), created)
            });
            match merged {
                // The disk was short of what it needs when it began, and is not any more.
                Err(error)
                    if error.kind() == ErrorKind::NoSpace
                        && space_bytes.is_none()
                        && limit.is_some_and(|limit| limit < needs)
                        && self.short_space().is_none_or(|left| left >= needs) => {}
                merged => break merged?,
            }
        };
        let bytes = outputs.iter().map(|live| live.meta.len_bytes).sum();
        self.install_compaction(keyspace, plan, outputs)?;
        self.counters.compactions.add(1);
        self.counters.bytes_compacted.add(bytes);
        Ok(())
    }

    fn install_compaction(
        &self,
        keyspace: &KeyspaceTree,
        plan: &Plan,
        outputs: Vec<LiveTable>,
    ) -> Result<()> {
        let id = keyspace.info.id;
        let upper = plan.upper.iter().map(|live| (plan.level, live.meta.number));
        let lower = plan.lower.iter().map(|live| (plan.target, live.meta.number));
        let removed: Vec<(usize, FileNumber)> = upper.chain(lower).collect();
        let mut changes: Vec<Change> = removed
            .iter()
            .map(|&(level, number)| Change::RemoveTable { keyspace: id, level, number })
            .collect();
        changes.extend(outputs.iter().map(|live| Change::AddTable {
            keyspace: id,
            level: plan.target,
            meta: (*live.meta).clone(),
        }));
        let written: Vec<FileNumber> = match plan.is_trivial_move() {
            true => Vec::new(),
            false => outputs.iter().map(|live| live.meta.number).collect(),
        };
        let mut manifest = self.manifest.lock();
        if !self.has_inputs(id, plan) {
            // The keyspace was dropped or emptied meanwhile, and the inputs went with that.
            self.discard_unwanted(outputs, &written);
            return Ok(());
        }
        // As in a flush: nothing may panic once the edit is installed.
        let with_outputs = || {
            let state = self.view.pin_state();
            let tree = &state.keyspace(id).tree;
            let added = outputs.into_iter().map(|live| (plan.target, live)).collect();
            Ok(Arc::new(tree.tables.with(&removed, added, &tree.order)))
        };
        let tables = contain("installing a merge", with_outputs)
            .and_then(|tables| self.install(&mut manifest, changes).map(|()| tables))
            .inspect_err(|_| {
                let created = written.iter().map(|number| FileName::Table(*number));
                self.discard_if_refused(&manifest, created);
            })?;
        if plan.level == 0 {
            keyspace.waste.forget();
        }
        let mut book = self.book.lock();
        if !plan.is_trivial_move() {
            book.files.retire_tables(plan.upper.iter().chain(&plan.lower).cloned());
            for (_, number) in &removed {
                book.damaged.remove(number);
            }
        }
        self.change_state(&mut book, |state| state.set_tables(id, tables));
        Ok(())
    }

    /// Tells whether the tables that a plan merges are still there. None of them can go alone while its merges are claimed.
    fn has_inputs(&self, id: KeyspaceId, plan: &Plan) -> bool {
        let state = self.view.state();
        let Some(keyspace) = state.find(id) else { return false };
        let is_there = |level: usize, input: &LiveTable| {
            keyspace.tree.tables.level(level).iter().any(|live| Arc::ptr_eq(live, input))
        };
        plan.upper.iter().all(|input| is_there(plan.level, input))
            && plan.lower.iter().all(|input| is_there(plan.target, input))
    }

    /// Lets go of what a merge wrote and nobody wants.
    fn discard_unwanted(&self, outputs: Vec<LiveTable>, written: &[FileNumber]) {
        let mut book = self.book.lock();
        let is_written = |live: &LiveTable| written.contains(&live.meta.number);
        book.files.retire_tables(outputs.into_iter().filter(is_written));
    }

    /// Removes files; those that cannot be removed stay removable.
    ///
    /// # Errors
    /// What the last removal that failed met.
    pub(crate) fn run_purge(&self, names: &BTreeMap<FileName, u64>) -> Result<()> {
        // Stated once for all of them; where that fails, those whose numbers are stated already still go.
        let stated = names.keys().filter_map(FileName::number).max().map(|last| self.state_number(last));
        let mut result = stated.unwrap_or(Ok(()));
        let (mut left, mut has_made_space) = (Vec::new(), false);
        for (name, len) in names {
            if name.number().is_some_and(|number| !self.is_stated(number)) {
                // What a full disk did not let be created needs no removal.
                if !self.is_absent(*name) {
                    left.push((*name, *len));
                }
                continue;
            }
            match self.remove(*name) {
                // A failed attempt to make a reserve is removed here too, and must not lead to the next one at once.
                Ok(()) => has_made_space |= !matches!(name, FileName::Temporary(_)),
                Err(error) => {
                    left.push((*name, *len));
                    result = Err(error);
                }
            }
        }
        let mut book = self.book.lock();
        left.into_iter().for_each(|(name, len)| book.files.discard(name, len));
        if has_made_space {
            book.nominate_short();
            book.board.retry_now(|kind| kind == JobKind::Reserve);
        }
        drop(book);
        if has_made_space {
            self.reserve.try_now();
        }
        result
    }

    fn is_absent(&self, name: FileName) -> bool {
        let found = self.directory.metadata(&name.path(self.directory.path()));
        found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }

    fn remove(&self, name: FileName) -> Result<()> {
        match self.directory.remove_file(&name.path(self.directory.path())) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Tells whether a memtable is the next of its keyspace to be flushed: not so if the keyspace was emptied since.
fn is_oldest_of(keyspace: &KeyspaceTree, memtable: &Arc<Memtable>) -> bool {
    keyspace.tree.sealed.last().is_some_and(|oldest| Arc::ptr_eq(oldest, memtable))
}

/// Returns the table because of which a merge failed, if it was one.
fn damaged_input(job: &Job, error: &Error) -> Option<FileNumber> {
    let Job::Compact { plan, .. } = job else { return None };
    let is_named = |live: &&LiveTable| error.file() == Some(live.table.path());
    // A sector that cannot be read is as bad as one that is wrong.
    let is_of_table = is_lasting(error) || error.kind() == ErrorKind::Io;
    plan.inputs().find(is_named).filter(|_| is_of_table).map(|live| live.meta.number)
}
