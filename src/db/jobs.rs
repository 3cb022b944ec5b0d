//! Background work as bounded jobs, and who runs them.
//!
//! A job is claimed under the book's lock, runs without any lock, and installs its result through the manifest.
//! Production threads merely loop over [`Core::run_due_job`]; a manual host calls it itself. Flushes go first,
//! then the log's write-back, then merges, then removals. A job that fails has changed nothing: its source stands,
//! its files are removable, and it is tried again under new file numbers after a pause.

use crate::base::error::{Error, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::compaction::flush::{FlushSource, flush_all};
use crate::compaction::merge::merge;
use crate::compaction::output::{JobContext, OutputSettings};
use crate::compaction::picker::{self, Plan};
use crate::db::state::{Book, Core, Counters, Generation, KeyspaceTree, LiveTable};
use crate::format::names::FileName;
use crate::memtable::Memtable;
use crate::read::tree::Tables;
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

/// One job, claimed: nobody else will do it.
pub(crate) enum Job {
    Flush(Arc<Generation>),
    WriteBack(Arc<Segment>),
    Compact(KeyspaceTree, Plan),
    Purge(BTreeSet<FileName>),
}

/// What a job that ended was.
enum End {
    Flush,
    WriteBack,
    Compact(KeyspaceId),
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
            } else if book.obsolete.is_empty() {
                self.changed.wait(&mut book);
            } else {
                self.changed.wait_for(&mut book, PURGE_INTERVAL);
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

    fn pick_compaction(&self, book: &Book) -> Option<(KeyspaceTree, Plan)> {
        let state = self.state.load();
        let idle = state.keyspaces.iter().filter(|keyspace| !book.compacting.contains(&keyspace.info.id));
        for keyspace in idle {
            let limits = keyspace.info.options.level_limits();
            let (tables, order) = (&keyspace.tree.tables, &keyspace.tree.order);
            let merge_bytes = picker::plan_level0(tables, order).map(|plan| plan.len_bytes());
            let wasted_bytes = keyspace.waste.weigh(merge_bytes);
            if let Some(plan) = picker::pick(tables, limits, order, wasted_bytes) {
                return Some((keyspace.clone(), plan));
            }
        }
        None
    }

    fn run_claimed(&self, job: Job) -> Result<()> {
        let result = match &job {
            Job::Flush(generation) => self.run_flush(generation),
            Job::WriteBack(segment) => self.run_write_back(segment),
            Job::Compact(keyspace, plan) => self.run_compaction(keyspace, plan),
            Job::Purge(names) => {
                self.run_purge(names);
                Ok(())
            }
        };
        let end = match &job {
            Job::Flush(_) => End::Flush,
            Job::WriteBack(_) => End::WriteBack,
            Job::Compact(keyspace, _) => End::Compact(keyspace.info.id),
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
            vfs: self.vfs.clone(),
            directory: self.directory.clone(),
            cache: Arc::clone(&self.cache),
            next_number: &|| self.take_file_number(),
            is_cancelled: &self.is_closing,
            created_at: self.expiry_time(),
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
        let source = |(id, memtable): &(KeyspaceId, Arc<Memtable>)| FlushSource {
            memtable: Arc::clone(memtable),
            settings: Core::output_settings(state.keyspace(*id)),
        };
        let sources = generation.memtables.iter().map(source).collect();
        let added = self.with_context(|context, created| flush_all(context, sources, &snapshots, created))?;
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
        let snapshots = self.snapshots.live();
        let tables: &Arc<Tables> = &keyspace.tree.tables;
        let settings = Core::output_settings(keyspace);
        let outputs =
            self.with_context(|context, created| merge(context, plan, tables, settings, snapshots, created))?;
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
        self.retry_removals();
        self.wait_for_jobs(|book| {
            book.sealed.is_empty()
                && !book.is_flushing
                && !book.is_writing_back
                && book.compacting.is_empty()
                && !book.is_purging
                && self.pick_compaction(book).is_none()
                && !has_removable(book)
        })
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
    pub(crate) fn wait_for_jobs(&self, is_done: impl Fn(&Book) -> bool) -> Result<()> {
        let mut book = self.book.lock();
        let failures_before = book.job_failures_count;
        if book.job_error.is_some() {
            book.retry_at = 0;
            self.changed.notify_all();
        }
        loop {
            if is_done(&book) {
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
    /// if that can drop anything.
    pub(crate) fn compact_range(&self, id: KeyspaceId, range: (&[u8], Option<&[u8]>)) -> Result<()> {
        self.rotate_now()?;
        self.wait_for_jobs(|book| book.sealed.is_empty())?;
        // What this call itself writes has dropped all it can.
        let before = FileNumber(self.next_file.load(Ordering::Relaxed));
        let mut level = 0;
        loop {
            self.check_writable()?;
            let mut book = self.book.lock();
            if book.compacting.contains(&id) {
                drop(book);
                self.wait_for_jobs(|book| !book.compacting.contains(&id))?;
                continue;
            }
            let keyspace = self.state.load().keyspace(id).clone();
            let (tables, order) = (&keyspace.tree.tables, &keyspace.tree.order);
            let is_deepest = level > 0 && level >= tables.deepest().unwrap_or(0);
            let plan = if is_deepest {
                picker::pick_rewrite(tables, level, range, order, before)
            } else {
                picker::pick_range(tables, level, range, order)
            };
            let Some(plan) = plan else {
                if is_deepest {
                    return Ok(());
                }
                level += 1;
                continue;
            };
            book.compacting.insert(id);
            drop(book);
            self.run_claimed(Job::Compact(keyspace, plan))?;
            level += usize::from(!is_deepest);
        }
    }
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
