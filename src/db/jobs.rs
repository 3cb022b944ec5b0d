//! Background work as bounded jobs, and who runs them.
//!
//! A job is claimed under the book's lock, runs without any lock, and installs its result through the manifest.
//! Production threads merely loop over [`Core::run_due_job`]; a manual host calls it itself. Flushes go first,
//! then the log's write-back, then merges, then removals. A job that fails has changed nothing: its source stands,
//! its files are removable, and it is tried again under new file numbers after a pause.

use crate::base::error::{Error, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::seq::SeqNum;
use crate::compaction::flush::flush;
use crate::compaction::merge::{Surroundings, merge};
use crate::compaction::output::{JobContext, OutputSettings};
use crate::compaction::picker::{self, Situation, Unflushed};
use crate::compaction::plan::Plan;
use crate::compaction::range::RangeWalk;
use crate::db::state::{Book, Core, Counters, Generation, KeyspaceTree, LiveTable};
use crate::format::names::FileName;
use crate::sync::yield_point;
use crate::version::edit::Change;
use crate::vfs::Vfs;
use crate::wal::segment::Segment;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// How often an idle thread looks whether the last reader of an obsolete table is gone.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// How long nothing may be written before the database counts as quiet.
const QUIET_AFTER: Duration = Duration::from_secs(2);

/// One job, claimed: nobody else will do it.
pub(crate) enum Job {
    Flush(Arc<Generation>),
    WriteBack(Arc<Segment>),
    Compact(KeyspaceTree, Plan),
    Seal,
    Purge(BTreeSet<FileName>),
}

/// What a job that ended was.
enum End {
    Flush,
    WriteBack,
    Compact(KeyspaceId),
    Seal,
    Purge,
}

impl Core {
    /// Runs one due job; `false` if none was due.
    ///
    /// # Errors
    /// What the job met; it stays due.
    pub(crate) fn run_due_job(&self) -> Result<bool> {
        let job = self.claim_job(&mut self.book.lock());
        let Some(job) = job else { return Ok(false) };
        self.run_claimed(job).map(|()| true)
    }

    /// Runs one due job, or waits for one that another caller runs; `false` if there is neither. How a manual
    /// database waits.
    ///
    /// # Errors
    /// What the job met; it stays due.
    pub(crate) fn run_or_await_job(&self) -> Result<bool> {
        let mut book = self.book.lock();
        if let Some(job) = self.claim_job(&mut book) {
            drop(book);
            return self.run_claimed(job).map(|()| true);
        }
        if book.is_working() {
            self.changed.wait(&mut book);
            return Ok(true);
        }
        Ok(false)
    }

    /// Loops over due jobs until the database closes.
    pub(crate) fn work(&self) {
        while !self.is_closing.load(Ordering::Acquire) {
            let mut book = self.book.lock();
            let job = if self.vfs.now() < book.retry_at { None } else { self.claim_job(&mut book) };
            if let Some(job) = job {
                drop(book);
                // The failure is in the book, where writers and `background_error` find it.
                drop(self.run_claimed(job));
                continue;
            }
            if self.is_closing.load(Ordering::Acquire) {
                return;
            }
            let until_retry = book.retry_at.saturating_sub(self.vfs.now());
            if until_retry > 0 {
                self.changed.wait_for(&mut book, Duration::from_nanos(until_retry));
            } else if !book.obsolete.is_empty() {
                self.changed.wait_for(&mut book, PURGE_INTERVAL);
            } else if self.settles(&mut book) {
                self.changed.wait(&mut book);
            } else {
                self.changed.wait_for(&mut book, QUIET_AFTER);
            }
        }
    }

    fn claim_job(&self, book: &mut Book) -> Option<Job> {
        if self.is_closing.load(Ordering::Acquire) || self.is_read_only {
            return None;
        }
        if book.writing_error.is_none() {
            if let Some((_, generation)) = book.sealed.front().filter(|_| !book.is_flushing) {
                let generation = Arc::clone(generation);
                book.is_flushing = true;
                return Some(Job::Flush(generation));
            }
            if !book.is_writing_back {
                // Whoever asked is heard here; a commit that crosses the mark later asks again.
                self.is_write_back_due.store(false, Ordering::Relaxed);
                if let Some(segment) =
                    book.active_wal.as_ref().filter(|segment| segment.unsynced_len() >= self.write_back_len())
                {
                    let segment = Arc::clone(segment);
                    book.is_writing_back = true;
                    return Some(Job::WriteBack(segment));
                }
            }
            if book.compacting.len() < self.threads_count.saturating_sub(1).max(1)
                && let Some((keyspace, plan)) = self.pick_compaction(book)
            {
                book.compacting.insert(keyspace.info.id);
                return Some(Job::Compact(keyspace, plan));
            }
            if self.is_seal_due(book) {
                book.is_sealing = true;
                return Some(Job::Seal);
            }
        }
        if book.is_purging {
            return None;
        }
        release_obsolete(book);
        if book.removable.is_empty() {
            return None;
        }
        book.is_purging = true;
        Some(Job::Purge(std::mem::take(&mut book.removable)))
    }

    /// Tells whether nothing was written for a while, or somebody waits for nothing to be due.
    fn is_quiet(&self, book: &mut Book) -> bool {
        let (seq, now) = (self.visible_seq(), self.vfs.now());
        if book.quiet_since.0 != seq {
            book.quiet_since = (seq, now);
        }
        book.idle_waiting > 0 || now.saturating_sub(book.quiet_since.1) >= nanos(QUIET_AFTER)
    }

    /// Tells whether nothing will become due until somebody writes, reads, or gives up a snapshot; each of them wakes
    /// the background then.
    fn settles(&self, book: &mut Book) -> bool {
        if !self.is_quiet(book) {
            return false;
        }
        // In this order: a commit is seen here, or it sees the mark.
        self.is_settled.swap(true, Ordering::SeqCst);
        yield_point("background: settled");
        if self.is_quiet(book) {
            return true;
        }
        self.is_settled.store(false, Ordering::Relaxed);
        false
    }

    fn situation<'a>(
        &self,
        keyspace: &KeyspaceTree,
        is_quiet: bool,
        snapshots: &'a [SeqNum],
    ) -> Situation<'a> {
        let count = self.state.load().keyspaces.len().max(1);
        let price_bytes = picker::level0_price_bytes(&keyspace.tree.tables, &keyspace.tree.order);
        Situation {
            is_quiet,
            snapshots,
            level0_wasted_bytes: keyspace.waste.weigh(price_bytes),
            memtable_bytes: (self.options.memtable_bytes / count) as u64,
            available_bytes: None,
        }
    }

    fn pick_compaction(&self, book: &mut Book) -> Option<(KeyspaceTree, Plan)> {
        let is_quiet = self.is_quiet(book);
        let state = self.state.load();
        loop {
            let snapshots = self.snapshots.live();
            let mut awaited = Vec::new();
            let idle = state.keyspaces.iter().filter(|keyspace| {
                let id = keyspace.info.id;
                !book.compacting.contains(&id) && !book.range_waiting.contains_key(&id)
            });
            for keyspace in idle {
                let limits = keyspace.info.options.level_limits();
                let situation = self.situation(keyspace, is_quiet, &snapshots);
                let pick = picker::pick(&keyspace.tree.tables, limits, &keyspace.tree.order, situation);
                if let Some(plan) = pick.plan {
                    return Some((keyspace.clone(), plan));
                }
                awaited.extend(pick.awaited);
            }
            awaited.sort_unstable();
            awaited.dedup();
            // If one is gone meanwhile, something may be due.
            if self.snapshots.watch(awaited) {
                return None;
            }
        }
    }

    fn is_seal_due(&self, book: &mut Book) -> bool {
        if book.is_sealing || !book.sealed.is_empty() || !book.compacting.is_empty() {
            return false;
        }
        let is_quiet = self.is_quiet(book);
        let snapshots = self.snapshots.live();
        self.state.load().keyspaces.iter().any(|keyspace| {
            let (tree, limits) = (&keyspace.tree, keyspace.info.options.level_limits());
            let unflushed = Unflushed {
                entries_count: tree.active.count(),
                len_bytes: tree.active.len_bytes(),
                steps_count: tree.active.steps_count(),
            };
            let situation = self.situation(keyspace, is_quiet, &snapshots);
            picker::is_seal_due(unflushed, &tree.tables, limits, &tree.order, situation)
        })
    }

    fn run_claimed(&self, job: Job) -> Result<()> {
        let result = match &job {
            Job::Flush(generation) => self.run_flush(generation),
            Job::WriteBack(segment) => self.run_write_back(segment),
            Job::Compact(keyspace, plan) => self.run_compaction(keyspace, plan),
            Job::Seal => self.rotate_now().map(drop),
            Job::Purge(names) => {
                self.run_purge(names);
                Ok(())
            }
        };
        let end = match &job {
            Job::Flush(_) => End::Flush,
            Job::WriteBack(_) => End::WriteBack,
            Job::Compact(keyspace, _) => End::Compact(keyspace.info.id),
            Job::Seal => End::Seal,
            Job::Purge(_) => End::Purge,
        };
        // The job's own hold on its inputs must be gone before it counts as done, or they would outlive the wait
        // for idleness.
        drop(job);
        let mut book = self.book.lock();
        match end {
            End::Flush => book.is_flushing = false,
            End::WriteBack => book.is_writing_back = false,
            End::Compact(id) => assert!(book.compacting.remove(&id), "claimed until now"),
            End::Seal => book.is_sealing = false,
            End::Purge => book.is_purging = false,
        }
        match &result {
            // Only jobs that may fail and be tried again prove that the trouble is over.
            Ok(()) if matches!(end, End::Flush | End::Compact(_)) => {
                book.job_error = None;
                book.job_failures_count = 0;
                book.retry_at = 0;
            }
            Ok(()) => {}
            Err(error) => self.note_failure(&mut book, error),
        }
        drop(book);
        self.check_directory();
        self.changed.notify_all();
        result
    }

    fn note_failure(&self, book: &mut Book, error: &Error) {
        book.job_error = Some(error.clone());
        book.job_failures_count += 1;
        let doublings = u32::try_from(book.job_failures_count.min(10)).expect("at most 10");
        let pause = (RETRY_AFTER * (1 << doublings)).min(RETRY_AFTER_MAX);
        let pause_nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        book.retry_at = self.vfs.now().saturating_add(pause_nanos);
    }

    /// Runs `body` with what a job needs; if it fails, the files it created become removable.
    fn with_context<T>(
        &self,
        body: impl FnOnce(&JobContext<'_>, &mut Vec<FileNumber>) -> Result<T>,
    ) -> Result<T> {
        let context = JobContext {
            vfs: self.vfs.as_ref(),
            directory: self.directory.clone(),
            cache: Arc::clone(&self.cache),
            next_number: &|| self.take_file_number(),
            is_cancelled: &self.is_closing,
            created_at: self.expiry_time(),
            space_bytes: None,
        };
        let mut created = Vec::new();
        body(&context, &mut created).inspect_err(|_| {
            self.book.lock().removable.extend(created.into_iter().map(FileName::Table));
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
        segment.write_back(self.vfs.as_ref()).map_err(|error| self.poison(&error))
    }

    fn run_flush(&self, generation: &Arc<Generation>) -> Result<()> {
        let state = self.state.load_full();
        let snapshots = self.snapshots.live();
        let mut added: Vec<(KeyspaceId, LiveTable)> = Vec::new();
        self.with_context(|context, created| {
            for (id, memtable) in &generation.memtables {
                let keyspace = state.keyspace(*id);
                // Older memtables were flushed before, so what is older than this one is in the tables.
                let around = Surroundings { tables: &keyspace.tree.tables, snapshots: snapshots.clone() };
                let tables = flush(context, memtable, around, Core::output_settings(keyspace), created)?;
                added.extend(tables.into_iter().map(|table| (*id, table)));
            }
            Ok(())
        })?;
        let bytes = added.iter().map(|(_, live)| live.meta.len_bytes).sum();
        self.install_flush(generation, &added)?;
        Counters::add(&self.counters.flushes, 1);
        Counters::add(&self.counters.bytes_flushed, bytes);
        Ok(())
    }

    /// Replaces a generation by its tables: from the synced edit on, its WAL segment is not needed.
    fn install_flush(&self, generation: &Arc<Generation>, added: &[(KeyspaceId, LiveTable)]) -> Result<()> {
        let mut manifest = self.manifest.lock();
        let wal_first = {
            let book = self.book.lock();
            let (_, oldest) = book.sealed.front().expect("the flushed generation is there");
            assert!(Arc::ptr_eq(oldest, generation), "generations are flushed oldest first");
            let active = || book.active_wal.as_ref().expect("a writable database has an open segment").number;
            book.sealed.get(1).map_or_else(active, |(wal, _)| *wal)
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
        // If this fails, nobody knows whether the manifest names the tables, so their files stay.
        self.install(&mut manifest, changes)?;
        let mut book = self.book.lock();
        book.sealed.pop_front();
        let needed = book.wals.split_off(&wal_first);
        let unneeded = std::mem::replace(&mut book.wals, needed);
        book.removable.extend(unneeded.into_iter().map(FileName::Wal));
        self.change_state(&mut book, |state| {
            for (id, memtable) in &generation.memtables {
                let tree = &mut state.keyspaces[id.0 as usize].tree;
                let oldest = tree.sealed.pop().expect("a flushed memtable was sealed");
                assert!(Arc::ptr_eq(&oldest, memtable), "memtables are flushed oldest first");
            }
            for (id, live) in added {
                let tree = &mut state.keyspaces[id.0 as usize].tree;
                tree.tables = Arc::new(tree.tables.with(&[], vec![(0, Arc::clone(live))], &tree.order));
            }
        });
        Ok(())
    }

    fn run_compaction(&self, keyspace: &KeyspaceTree, plan: &Plan) -> Result<()> {
        if plan.is_trivial_move() {
            self.install_compaction(keyspace, plan, plan.upper.clone())?;
            Counters::add(&self.counters.trivial_moves, 1);
            return Ok(());
        }
        let around = Surroundings { tables: &keyspace.tree.tables, snapshots: self.snapshots.live() };
        let settings = Core::output_settings(keyspace);
        let outputs =
            self.with_context(|context, created| merge(context, plan, around, settings, created))?;
        let bytes = outputs.iter().map(|live| live.meta.len_bytes).sum();
        self.install_compaction(keyspace, plan, outputs)?;
        Counters::add(&self.counters.compactions, 1);
        Counters::add(&self.counters.bytes_compacted, bytes);
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
        let mut manifest = self.manifest.lock();
        self.install(&mut manifest, changes)?;
        if plan.level == 0 {
            keyspace.waste.forget();
        }
        let mut book = self.book.lock();
        if !plan.is_trivial_move() {
            book.obsolete.extend(plan.upper.iter().chain(&plan.lower).cloned());
        }
        self.change_state(&mut book, |state| {
            let tree = &mut state.keyspaces[id.0 as usize].tree;
            let added = outputs.into_iter().map(|live| (plan.target, live)).collect();
            tree.tables = Arc::new(tree.tables.with(&removed, added, &tree.order));
        });
        Ok(())
    }

    /// Removes files; what cannot be removed now waits for the next purge that has work.
    fn run_purge(&self, names: &BTreeSet<FileName>) {
        for name in names {
            let path = name.path(&self.directory);
            match self.vfs.remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == crate::base::error::ErrorKind::NotFound => {}
                Err(_) => {
                    self.book.lock().unremovable.insert(*name);
                }
            }
        }
    }

    /// Waits until no job is due or running.
    ///
    /// # Errors
    /// What a job met meanwhile.
    pub(crate) fn wait_idle(&self) -> Result<()> {
        self.book.lock().idle_waiting += 1;
        self.retry_removals();
        let result = self.wait_for_jobs(|book| {
            book.sealed.is_empty()
                && !book.is_working()
                && self.pick_compaction(book).is_none()
                && !self.is_seal_due(book)
                && !has_removable(book)
        });
        self.book.lock().idle_waiting -= 1;
        result
    }

    fn retry_removals(&self) {
        let mut book = self.book.lock();
        let again = std::mem::take(&mut book.unremovable);
        book.removable.extend(again);
        drop(book);
        self.changed.notify_all();
    }

    /// Waits until `is_done`, running jobs itself in a manual database.
    ///
    /// # Errors
    /// The failure of a job that ran after the call began; why writing is off; `Closed`.
    pub(crate) fn wait_for_jobs(&self, is_done: impl Fn(&mut Book) -> bool) -> Result<()> {
        let mut book = self.book.lock();
        let failures_before = book.job_failures_count;
        if book.job_error.is_some() {
            book.retry_at = 0;
            self.changed.notify_all();
        }
        loop {
            if is_done(&mut book) {
                return Ok(());
            }
            if book.writing_error.is_some() || self.is_closing.load(Ordering::Acquire) {
                drop(book);
                return self.check_writable();
            }
            if book.job_failures_count > failures_before
                && let Some(error) = &book.job_error
            {
                return Err(error.clone());
            }
            if self.is_manual {
                drop(book);
                self.run_or_await_job()?;
                book = self.book.lock();
            } else {
                self.changed.wait(&mut book);
            }
        }
    }

    /// Merges what lies in a range down to the deepest level that holds any of it, and rewrites what lies there already
    /// if that can drop anything. The keys are included; `None` is no bound.
    pub(crate) fn compact_range(
        &self,
        id: KeyspaceId,
        (smallest, largest): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> Result<()> {
        let seq = self.rotate_now()?;
        self.wait_for_jobs(|book| book.sealed.iter().all(|(_, generation)| generation.last_seq > seq))?;
        let mut walk = RangeWalk::new(smallest, largest, seq);
        let mut is_helping = false;
        loop {
            let Some((keyspace, plan, is_step)) = self.claim_range(id, &mut walk, &mut is_helping)? else {
                return Ok(());
            };
            let order = keyspace.tree.order.clone();
            self.run_claimed(Job::Compact(keyspace, plan.clone()))?;
            if is_step {
                walk.installed(&plan, &order);
            }
        }
    }

    /// Waits until no merge of a keyspace is running and claims the next one of a walk; or before it the one that is
    /// due for the writers' sake, every other time at most, since the background lets the walk go first.
    fn claim_range(
        &self,
        id: KeyspaceId,
        walk: &mut RangeWalk,
        is_helping: &mut bool,
    ) -> Result<Option<(KeyspaceTree, Plan, bool)>> {
        self.check_writable()?;
        let mut book = self.book.lock();
        while book.compacting.contains(&id) {
            *book.range_waiting.entry(id).or_default() += 1;
            drop(book);
            let result = self.wait_for_jobs(|book| !book.compacting.contains(&id));
            book = self.book.lock();
            let count = book.range_waiting.get_mut(&id).expect("counted above");
            *count -= 1;
            if *count == 0 {
                book.range_waiting.remove(&id);
            }
            result?;
        }
        let keyspace = self.state.load().keyspace(id).clone();
        let (tables, order) = (&keyspace.tree.tables, &keyspace.tree.order);
        let snapshots = self.snapshots.live();
        *is_helping = !*is_helping;
        if *is_helping {
            let limits = keyspace.info.options.level_limits();
            let situation = self.situation(&keyspace, false, &snapshots);
            if let Some(plan) = picker::pick(tables, limits, order, situation).plan {
                book.compacting.insert(id);
                return Ok(Some((keyspace, plan, false)));
            }
            *is_helping = false;
        }
        let Some(plan) = walk.next(tables, order, &snapshots) else { return Ok(None) };
        book.compacting.insert(id);
        Ok(Some((keyspace, plan, true)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Moves obsolete tables that nobody reads any more to the files that may be removed.
fn release_obsolete(book: &mut Book) {
    let (pinned, free): (Vec<_>, Vec<_>) =
        std::mem::take(&mut book.obsolete).into_iter().partition(|live| Arc::strong_count(live) > 1);
    book.obsolete = pinned;
    book.removable.extend(free.iter().map(|live| FileName::Table(live.meta.number)));
}

fn has_removable(book: &Book) -> bool {
    !book.removable.is_empty() || book.obsolete.iter().any(|live| Arc::strong_count(live) == 1)
}
