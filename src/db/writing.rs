//! How a write goes: wait for space, queue up, and perhaps lead.

use crate::base::contain::contain;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::db::board::{JobKind, is_lasting, nanos};
use crate::db::book::{Book, Generation};
use crate::db::core::{Core, Host, Leader};
use crate::db::ends::{Phase, is_mendable, writing_is_off};
use crate::db::state::State;
use crate::format::batch::Batch;
use crate::format::names::FileName;
use crate::memtable::Memtable;
use crate::memtable::arena::Arena;
use crate::sync::tell;
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

/// What a batch does, as far as it decides whether and when it may be written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reach<'a> {
    /// The keyspaces that it writes to.
    pub keyspaces: &'a [KeyspaceId],
    /// Whether it holds more than deletes.
    pub has_puts: bool,
}

/// How often a delete is tried again on a full disk while nobody removes files.
const FULL_DISK_ATTEMPTS: u32 = 20;
const FULL_DISK_PAUSE: Duration = Duration::from_millis(10);
/// How long it waits at most for whoever removes files.
pub(crate) const FULL_DISK_WAIT_MAX: Duration = Duration::from_secs(5);

impl Core {
    /// Commits a batch; returns the number of its last operation.
    pub(crate) fn commit(&self, batch: Batch, reach: Reach<'_>, durability: Durability) -> Result<SeqNum> {
        self.tell_batch(&batch, durability);
        let answer = self.commit_untold(batch, reach, durability);
        tell(|| match &answer {
            Ok(seq) => format!("committed as {seq}"),
            Err(error) => format!("NOT COMMITTED: {error}"),
        });
        answer
    }

    fn commit_untold(&self, batch: Batch, reach: Reach<'_>, durability: Durability) -> Result<SeqNum> {
        self.ends.check_process()?;
        self.see_to_reserve();
        let is_of_deletes = batch.count() > 0 && !reach.has_puts;
        let mut request = Request::new(batch, durability);
        request.has_puts = reach.has_puts;
        if !is_of_deletes {
            return self.commit_once(request, reach).1;
        }
        self.make_space_for_deletes(reach)?;
        match self.commit_once(request, reach) {
            // Only who meets the full disk uses what the reserve gives back: others would keep it from coming back.
            (request, Err(error))
                if error.kind() == ErrorKind::NoSpace
                    || (error.kind() == ErrorKind::ReadOnly && self.is_disk_full()) =>
            {
                self.while_reserve_is_used(|| {
                    let is_mine =
                        !self.reserve.is_spent() && matches!(self.use_reserve_for_deletes(), Ok(true));
                    if is_mine {
                        self.commit_on_full_disk(request, reach, None)
                    } else if self.reserve.is_spent() {
                        // By somebody else, perhaps a moment ago.
                        self.commit_on_full_disk(request, reach, Some(error))
                    } else {
                        // Where going on in the reserve's space fails, the attempt may be in the log, as its error says.
                        Err(error)
                    }
                })
            }
            (_, answer) => answer,
        }
    }

    /// Commits deletes when the reserve is spent: a job may take the space for a moment that they need, and gives it back
    /// when it fails.
    fn commit_on_full_disk(
        &self,
        mut request: Request,
        reach: Reach<'_>,
        first: Option<Error>,
    ) -> Result<SeqNum> {
        let mut in_doubt = first.filter(|error| error.kind() == ErrorKind::NoSpace);
        let until = self.directory.now().saturating_add(nanos(FULL_DISK_WAIT_MAX));
        let mut attempts_left = FULL_DISK_ATTEMPTS;
        while attempts_left > 0 {
            // Who removes files may be kept from it for a while.
            if self.directory.now() >= until || !self.book.lock().board.is_running(JobKind::Purge) {
                attempts_left -= 1;
            }
            let answer;
            (request, answer) = self.commit_once(request, reach);
            match answer {
                Ok(last_seq) => return Ok(last_seq),
                Err(error) if error.kind() == ErrorKind::NoSpace => in_doubt = Some(error),
                Err(error) if error.kind() == ErrorKind::ReadOnly => {}
                Err(error) => return Err(in_doubt.unwrap_or(error)),
            }
            // It may have been made again meanwhile.
            if !self.reserve.is_spent() && self.reserve.held_bytes() > 0 {
                drop(self.use_reserve_for_deletes());
                continue;
            }
            self.run_or_sleep(FULL_DISK_PAUSE);
            self.purge_now();
            // The log may hold the batch of a failed attempt until going on cuts it off. If going on fails, the next
            // attempt tells why; "nothing was written" is true of that attempt only.
            if self.resume_as_leader(&mut self.writing.leader.lock()).is_ok() {
                in_doubt = None;
            }
        }
        let (_, answer) = self.commit_once(request, reach);
        answer.map_err(|error| in_doubt.unwrap_or(error))
    }

    /// Commits a batch if there is space; gives it back, for another attempt.
    fn commit_once(&self, mut request: Request, reach: Reach<'_>) -> (Request, Result<SeqNum>) {
        let checked = self.check_keyspaces(&mut request, reach);
        if let Err(error) = checked.and_then(|()| self.admit(&request, reach)) {
            return (request, Err(error));
        }
        match self.writing.queue.enter(request) {
            Turn::Answered(request, answer) => (request, answer),
            Turn::Lead(mut group, own) => {
                self.lead(&mut group);
                self.writing.queue.finish(group, own)
            }
        }
    }

    /// Checks that the keyspaces are there that a batch writes to, and notes when that was.
    fn check_keyspaces(&self, request: &mut Request, reach: Reach<'_>) -> Result<()> {
        let state = self.view.state();
        request.drops_seen_count = state.drops_count();
        match reach.keyspaces.iter().find(|id| state.find(**id).is_none()) {
            Some(id) => Err(was_dropped(*id)),
            None => Ok(()),
        }
    }

    /// Waits until a batch may queue up, or tells why it may not.
    fn admit(&self, request: &Request, reach: Reach<'_>) -> Result<()> {
        self.ends.check_writable()?;
        let is_spent = self.reserve.is_spent();
        if reach.has_puts && is_spent {
            return Err(self.told_full());
        }
        // On a full disk, flushes and merges wait for what deletes free, so these do not wait for them.
        if request.batch.count() == 0 || is_spent {
            return Ok(());
        }
        match self.wait_for_space(reach.keyspaces) {
            // Merges that find no space may wait for what these free, too.
            Err(error)
                if error.kind() == ErrorKind::NoSpace
                    && !reach.has_puts
                    && self.pace_of_flushes() != Pace::Stop =>
            {
                Ok(())
            }
            waited => waited,
        }
    }

    /// Tells whether the reserve was used, or a full disk has turned writing off.
    fn is_disk_full(&self) -> bool {
        self.reserve.is_spent() || self.ends.failure().is_some_and(|error| error.kind() == ErrorKind::NoSpace)
    }

    /// Returns what a put is told while only deletes are taken: how much is missing, if that is known.
    fn told_full(&self) -> Error {
        let known = self.book.lock().board.trouble(JobKind::Reserve).cloned();
        known.filter(|error| error.kind() == ErrorKind::NoSpace).unwrap_or_else(|| {
            let message = "the disk is full: only deletes are taken until there is space again";
            Error::new(ErrorKind::NoSpace, message).with_file(self.directory.path())
        })
    }

    /// Gives the reserve up for deletes that would meet a full disk: that is what it is for.
    fn make_space_for_deletes(&self, reach: Reach<'_>) -> Result<()> {
        if self.reserve.held_bytes() == 0 {
            return Ok(());
        }
        let is_full = self.ends.phase() == Phase::Failed
            || (self.pace(reach.keyspaces) == Pace::Stop && self.is_a_job_short_of_space());
        if is_full { self.use_reserve_for_deletes().map(drop) } else { Ok(()) }
    }

    fn is_a_job_short_of_space(&self) -> bool {
        let book = self.book.lock();
        book.board.troubles().any(|(_, error)| error.kind() == ErrorKind::NoSpace)
    }

    /// Gives the reserve up if a full disk stopped writing or a job, and goes on in the space that this makes; tells whether
    /// there was one.
    ///
    /// # Errors
    /// As `Db::resume`.
    pub(crate) fn use_reserve(&self) -> Result<bool> {
        self.ends.check_process()?;
        let mut leader = self.writing.leader.lock();
        let failure = self.ends.failure();
        let is_full = |error: &Error| error.kind() == ErrorKind::NoSpace && is_mendable(error);
        if failure.is_some_and(|error| !is_full(&error)) || !self.spend_reserve() {
            return Ok(false);
        }
        let resumed = self.resume_as_leader(&mut leader);
        drop(leader);
        // What resuming took, or a job that failed before, is given back first.
        self.purge_now();
        self.book.lock().board.retry_now(|_| true);
        self.wake_background();
        resumed.map(|()| true)
    }

    /// As [`Core::use_reserve`], for deletes: what is sealed is flushed first into the space that this makes, since its log
    /// goes with that, and deletes would only take space away from it. Where it does not fit, deletes are what helps.
    ///
    /// # Errors
    /// As `Db::resume`.
    fn use_reserve_for_deletes(&self) -> Result<bool> {
        let is_used = self.use_reserve()?;
        if is_used {
            drop(self.await_jobs(|kind| kind == JobKind::Flush, |book| book.sealed.is_empty()));
        }
        Ok(is_used)
    }

    /// Tries again in the space of the reserve what has met a full disk.
    ///
    /// # Errors
    /// What the last attempt meets.
    pub(crate) fn with_reserve<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::NoSpace && self.use_reserve()? => attempt(),
            answer => answer,
        }
    }

    /// Commits a group under leadership, and answers every member.
    fn lead(&self, group: &mut [Writer]) {
        // Held until a panic has turned writing off: whoever leads next would seal what is half applied.
        let mut leader = self.writing.leader.lock();
        let led = contain("a commit", || self.commit_as_leader(&mut leader, group));
        if let Err(error) = led {
            if error.kind() == ErrorKind::Internal {
                // What was logged may be half applied: nobody sees it, and nothing may follow it.
                drop(self.fail(&error));
            }
            for member in group {
                let refusal = member.request.refusal.clone();
                member.answer = Some(Err(refusal.unwrap_or_else(|| error.clone())));
            }
        }
    }

    fn commit_as_leader(&self, leader: &mut Leader, group: &mut [Writer]) -> Result<()> {
        self.ends.check_writable()?;
        if self.is_active_full()
            && self.writing.sealed_count.load(Ordering::Acquire) < self.options.sealed_memtables_max
        {
            self.rotate(leader)?;
        }
        let committed_at = self.expiry_time();
        // Leadership is what switches memtables, so these are the ones that belong to the open segment.
        let state = self.view.pin_state();
        for member in &mut *group {
            let request = &mut member.request;
            if request.drops_seen_count != state.drops_count() {
                // Rare: one of its keyspaces may have been dropped since it was admitted.
                request.refusal = first_dropped(&request.batch, &state).map(was_dropped);
            }
            if request.has_puts && request.refusal.is_none() && self.reserve.is_spent() {
                // It was used while this waited for a flush, which may have had space only because of that.
                request.refusal = Some(self.told_full());
            }
        }
        let memtable_of = |id, _| Some(&*state.keyspace(id).tree.active);
        let wal = leader.wal.as_mut().expect("a writable database has an open segment");
        let target = Target { wal, arena: &mut leader.arena };
        leader.last_seq = match commit_group(target, group, committed_at, leader.last_seq, memtable_of) {
            Ok(last_seq) => last_seq,
            Err(Failure::Untouched(error)) => return Err(error),
            Err(Failure::Broken(error)) => return Err(self.fail(&error)),
        };
        self.writing.active_bytes.store(leader.arena.charged_bytes(), Ordering::Relaxed);
        if self.reserve.is_outgrown(leader.arena.charged_bytes()) {
            self.reserve.ask_writer();
        }
        self.note_wal_len(wal);
        if wal.segment().unsynced_len() >= self.write_back_len() {
            self.ask_for_write_back();
        }
        self.view.publish(leader.last_seq);
        if self.is_settled.swap(false, Ordering::SeqCst) {
            // There is going to be a quiet after this commit too.
            self.wake_background();
        }
        Ok(())
    }

    /// Tells of the open segment's length and of what it holds back, after anything that changes it or takes another
    /// segment.
    pub(crate) fn note_wal_len(&self, wal: &WalWriter) {
        self.writing.wal_bytes.store(wal.len(), Ordering::Relaxed);
        self.writing.held_back_count.set(wal.held_count());
        self.writing.held_back_bytes.set(wal.held_len_bytes());
    }

    /// Returns how much of the open segment may be unsynced before the background syncs it. A small database, which
    /// seals often, gets a part of it.
    pub(crate) fn write_back_len(&self) -> u64 {
        limits::WAL_WRITE_BACK_LEN_BYTES.min(self.options.memtable_bytes as u64 / 8)
    }

    /// Wakes the background, once until the job begins.
    fn ask_for_write_back(&self) {
        if !self.writing.is_write_back_due.swap(true, Ordering::Relaxed) {
            self.wake_background();
        }
    }

    /// Seals the active memtables with their WAL segment and opens the next one. Does nothing if nothing was committed since
    /// the last time; memtables may be empty all the same, where keyspaces were dropped or cleared.
    pub(crate) fn rotate(&self, leader: &mut Leader) -> Result<()> {
        let wal = leader.wal.as_mut().expect("a writable database has an open segment");
        if leader.last_seq == leader.sealed_seq {
            return Ok(());
        }
        // Everything in the old segment becomes durable here, so that its end can be stated in the next one's
        // header, and so that no table ever holds a commit whose batch another keyspace could lose.
        wal.sync().map_err(|error| self.fail(&error))?;
        let next = self.open_segment(wal.as_predecessor())?;
        self.seal(leader, next, None);
        Ok(())
    }

    /// Creates the segment behind `predecessor` and names it in the manifest.
    fn open_segment(&self, predecessor: Predecessor) -> Result<WalWriter> {
        let segment = self.create_segment(predecessor)?;
        let mut manifest = self.manifest.lock();
        self.install_in_any_phase(&mut manifest, vec![Change::WalOpened(segment.number())])
            .inspect_err(|_| self.discard_if_refused(&manifest, [FileName::Wal(segment.number())]))?;
        Ok(segment)
    }

    pub(crate) fn create_segment(&self, predecessor: Predecessor) -> Result<WalWriter> {
        let number = self.take_file_number();
        let step = self.preallocate_bytes();
        let (disk, path) = (self.directory.as_ref(), self.directory.path());
        let created = WalWriter::create(disk, path, number, Some(predecessor), step).inspect_err(|_| {
            // Nobody knows the file, if there is one; the old segment is as good as before.
            self.book.lock().files.discard(FileName::Wal(number), 0);
            self.check_directory();
            self.wake_background();
        })?;
        Ok(created.with_held_len_max(self.options.wal_held_len_max()))
    }

    /// Switches to `next`: the memtables filled so far become a sealed generation, all but those of a keyspace that is
    /// emptied by the first commit of `next`, with that number.
    pub(crate) fn seal(&self, leader: &mut Leader, next: WalWriter, cleared: Option<(KeyspaceId, SeqNum)>) {
        let state = self.view.pin_state();
        let is_kept = |id: KeyspaceId| cleared.is_none_or(|(cleared, _)| cleared != id);
        let filled = state
            .keyspaces()
            .filter(|keyspace| !keyspace.tree.active.is_empty() && is_kept(keyspace.info.id));
        let memtables: Vec<_> =
            filled.map(|keyspace| (keyspace.info.id, Arc::clone(&keyspace.tree.active))).collect();
        let share = self.options.memtable_bytes / state.keyspaces_count();
        let sealed: Vec<KeyspaceId> = memtables.iter().map(|(id, _)| *id).collect();
        let old_len = leader.wal.as_ref().map_or(0, WalWriter::len);
        let mut book = self.book.lock();
        let old = book.active_wal.replace(Arc::clone(next.segment()));
        let old = old.expect("a writable database has an open segment").number;
        let first = book.active_first.take().unwrap_or(old);
        book.files.seal_segment(old, old_len);
        book.files.add_segment(next.number(), 0);
        book.board.note_change();
        book.sealed.push_back((first, Arc::new(Generation { last_seq: leader.last_seq, memtables })));
        self.change_state(&mut book, |state| {
            for id in sealed {
                let tree = state.tree_mut(id);
                let fresh = Arc::new(Memtable::new(&tree.order, share));
                tree.sealed.insert(0, std::mem::replace(&mut tree.active, fresh));
            }
            if let Some((id, seq)) = cleared {
                state.clear_keyspace(id, seq, share);
            }
        });
        if let Some(emptied) = cleared.and_then(|(id, _)| state.find(id)) {
            book.files.retire_tables(emptied.tree.tables.levels().iter().flatten().cloned());
            emptied.waste.forget();
            // Whatever a merge or flush of it has met is over.
            let id = emptied.info.id;
            book.damaged.retain(|_, damage| damage.keyspace != id);
            book.board.nominate(id);
            book.board.retry_now(|kind| kind == JobKind::Compact(id) || kind == JobKind::Flush);
        }
        drop(book);
        self.note_wal_len(&next);
        if let Some(mut old) = leader.wal.replace(next) {
            old.trim();
        }
        leader.arena = Arena::new(self.options.memtable_bytes);
        leader.sealed_seq = leader.last_seq;
        self.writing.active_bytes.store(0, Ordering::Relaxed);
        self.wake_background();
        self.changed.notify_all();
    }

    /// Waits until background work has caught up enough for another write to some keyspaces.
    fn wait_for_space(&self, keyspaces: &[KeyspaceId]) -> Result<()> {
        match self.pace(keyspaces) {
            Pace::Go => Ok(()),
            Pace::Delay(delay) => self.stall(|| {
                self.run_or_sleep(delay);
                Ok(())
            }),
            Pace::Stop => self.stall(|| self.wait_until_pace_allows(keyspaces)),
        }
    }

    fn stall(&self, wait: impl FnOnce() -> Result<()>) -> Result<()> {
        let began = self.directory.now();
        self.counters.stalls.add(1);
        let result = wait();
        self.counters.stall_nanos.add(self.directory.now().saturating_sub(began));
        result
    }

    fn run_or_sleep(&self, delay: Duration) {
        if matches!(self.host, Host::Caller) {
            // A failure is on the board, and the write that it hinders finds it there.
            drop(self.run_due_job());
        } else {
            self.directory.sleep(delay);
        }
    }

    fn wait_until_pace_allows(&self, keyspaces: &[KeyspaceId]) -> Result<()> {
        let deadline = self.directory.now().saturating_add(nanos(self.options.stall_timeout));
        while self.pace(keyspaces) == Pace::Stop {
            self.ends.check_writable()?;
            if let Some(error) = self.hopeless(keyspaces, &self.book.lock()) {
                return Err(error);
            }
            if matches!(self.host, Host::Caller) {
                // A failure is on the board, where `busy` finds it.
                let has_run = self.run_or_await_job(Some(deadline)).unwrap_or(true);
                let is_over = !has_run || self.directory.now() >= deadline;
                if is_over && self.pace(keyspaces) == Pace::Stop {
                    // Nothing runs any more once somebody closes, and that is what the writer is told.
                    self.ends.check_writable()?;
                    return Err(self.busy(keyspaces, &self.book.lock()));
                }
                continue;
            }
            let now = self.directory.now();
            if now >= deadline {
                return Err(self.busy(keyspaces, &self.book.lock()));
            }
            self.wake_background();
            let mut book = self.book.lock();
            // What ends the wait is told under this lock.
            let is_hopeful = self.hopeless(keyspaces, &book).is_none();
            if is_hopeful && self.pace(keyspaces) == Pace::Stop && self.ends.phase() == Phase::Open {
                self.changed.wait_for(&mut book, Duration::from_nanos(deadline - now));
            }
        }
        Ok(())
    }

    /// Returns an error if what writers to these keyspaces wait for will not come: merging them meets damage, or what
    /// they wait for a full disk.
    fn hopeless(&self, keyspaces: &[KeyspaceId], book: &Book) -> Option<Error> {
        let awaits_flushes = self.pace_of_flushes() == Pace::Stop;
        let now = self.directory.now();
        let merges = keyspaces.iter().map(|id| JobKind::Compact(*id));
        let awaited = std::iter::once(JobKind::Flush).filter(|_| awaits_flushes);
        let awaited = awaited.chain(merges.filter(|_| !awaits_flushes));
        let mut short = awaited.filter_map(|kind| Some((kind, book.board.pausing(kind, now)?)));
        if let Some((kind, error)) = short.find(|(_, error)| error.kind() == ErrorKind::NoSpace)
            && !book.may_make_space(now)
        {
            let context = format!("writes wait for a {}, which finds no space", kind.name());
            return Some(error.clone().within(ErrorKind::NoSpace, &context));
        }
        let is_stuck = |id: &KeyspaceId| {
            let is_damaged = !book.board.is_busy(*id) && book.has_lasting_damage(*id, now);
            is_damaged
                || book.board.trouble(JobKind::Compact(*id)).is_some_and(|error| {
                    is_lasting(error) && book.board.pausing(JobKind::Compact(*id), now).is_some()
                })
        };
        let is_hopeless = !awaits_flushes && keyspaces.iter().any(is_stuck);
        is_hopeless.then(|| self.busy(keyspaces, book))
    }

    fn busy(&self, keyspaces: &[KeyspaceId], book: &Book) -> Error {
        let kinds = std::iter::once(JobKind::Flush).chain(keyspaces.iter().map(|id| JobKind::Compact(*id)));
        let trouble = kinds.into_iter().find_map(|kind| book.board.trouble(kind));
        let damage = || keyspaces.iter().find_map(|id| book.damage_of(*id).next());
        let cause = trouble.or_else(damage).cloned();
        match cause {
            Some(cause) => cause.within(ErrorKind::Busy, "writes wait for flush and compaction, which fail"),
            None => Error::new(
                ErrorKind::Busy,
                "writes wait for flush and compaction, and the time for that is over",
            ),
        }
    }

    /// Decides how a write to some keyspaces goes on: flushes hold up everybody, merges only those who write there.
    fn pace(&self, keyspaces: &[KeyspaceId]) -> Pace {
        let state = self.view.state();
        let found = keyspaces.iter().filter_map(|id| state.find(*id));
        let level0 = found.map(|keyspace| keyspace.tree.tables.level(0).len());
        self.pace_at(level0.max().unwrap_or(0))
    }

    fn pace_of_flushes(&self) -> Pace {
        self.pace_at(0)
    }

    fn pace_at(&self, level0_count: usize) -> Pace {
        let lag = Lag {
            is_active_full: self.is_active_full(),
            sealed_count: self.writing.sealed_count.load(Ordering::Acquire),
            level0_count,
        };
        pace(lag, self.options.stall_limits())
    }

    /// Takes up writing again after a full disk, and tries failed jobs again at once.
    ///
    /// # Errors
    /// As `Db::resume`.
    pub(crate) fn resume(&self) -> Result<()> {
        self.ends.check_process()?;
        self.ends.check_open()?;
        let resumed = self.resume_as_leader(&mut self.writing.leader.lock());
        self.reserve.try_now();
        {
            let mut book = self.book.lock();
            book.board.retry_now(|_| true);
            book.retry_damaged(|_| true);
            book.nominate_short();
        }
        self.wake_background();
        self.changed.notify_all();
        resumed?;
        // Puts are refused until the reserve is back.
        let concerns = |kind| matches!(kind, JobKind::Reserve | JobKind::Flush);
        while self.reserve.is_spent() {
            match self.await_jobs(concerns, |_| !self.reserve.is_spent()) {
                // Nobody could make it while deletes used its space.
                Err(error) if error.kind() == ErrorKind::Busy && self.await_reserve_users() => {}
                answer => return answer,
            }
        }
        Ok(())
    }

    /// Mends what a full disk broke: what opening could not do, and the log, by a new segment behind what the old one holds
    /// for sure. Records that waited in memory go into the new one.
    ///
    /// # Errors
    /// As `Db::resume`. A panic has turned writing off for good.
    fn resume_as_leader(&self, leader: &mut Leader) -> Result<()> {
        let resumed = contain("resuming", || self.try_to_resume(leader));
        if let Err(error) = &resumed
            && error.kind() == ErrorKind::Internal
        {
            drop(self.fail(error));
        }
        resumed
    }

    fn try_to_resume(&self, leader: &mut Leader) -> Result<()> {
        // A directory that could not be synced is a final failure, whoever met it.
        self.check_directory();
        let Some(cause) = self.ends.failure() else { return Ok(()) };
        if !is_mendable(&cause) {
            return Err(writing_is_off(&cause));
        }
        self.mend(leader).map_err(|error| {
            let kind = error.kind();
            error.within(kind, "writing cannot be resumed")
        })?;
        if self.ends.resume(&cause) {
            return Ok(());
        }
        // Another failure came between and took the place of the first.
        self.ends.check_writable()
    }

    fn mend(&self, leader: &mut Leader) -> Result<()> {
        self.establish(leader)?;
        {
            let manifest = self.manifest.lock();
            if let Some(error) = manifest.as_ref().expect("established").failure() {
                return Err(error.clone());
            }
        }
        let old = leader.wal.as_mut().expect("established");
        if old.failure().is_none() {
            return Ok(());
        }
        let predecessor = old.abandon().map_err(|error| self.fail(&error))?;
        let mut next = self.open_segment(predecessor)?;
        // What it has on the disk; what it held back goes into the next one.
        let old_len = old.good_len();
        next.take_over(old);
        old.trim();
        let mut book = self.book.lock();
        // The memtables go on, with commits of both segments: what the old one held back is in them too.
        book.active_first.get_or_insert(old.number());
        book.files.seal_segment(old.number(), old_len);
        book.files.add_segment(next.number(), 0);
        book.active_wal = Some(Arc::clone(next.segment()));
        drop(book);
        self.note_wal_len(&next);
        leader.wal = Some(next);
        Ok(())
    }
}

/// Returns the first keyspace that a batch writes to and that is not there.
#[cold]
fn first_dropped(batch: &Batch, state: &State) -> Option<KeyspaceId> {
    let mut operations = batch.operations();
    while let Some(operation) = operations.next_operation().expect("a batch of our own is readable") {
        if state.find(operation.keyspace).is_none() {
            return Some(operation.keyspace);
        }
    }
    None
}

#[cold]
fn was_dropped(id: KeyspaceId) -> Error {
    Error::new(
        ErrorKind::Closed,
        format!("a keyspace that the write is for was dropped (it had number {id})"),
    )
}
