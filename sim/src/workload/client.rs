//! What clients do, and what they note of it. How they read is told in `reads.rs`, how they keep the database in order in `upkeep.rs`.
//!
//! A client is a simulated thread with a handle to the database. It notes every write in the model before and after,
//! and everything it reads as an observation: the numbers between which the reader stood, and what it saw. An
//! observation is judged when the incarnation is over, since only then the model knows every commit.

use crate::disk::SimDisk;
use crate::schedule;
use crate::tape::Label;
use crate::workload::held::{HeldIter, HeldSnapshot};
use crate::workload::judge::{Context, Judge};
use crate::workload::keys::value_for;
use crate::workload::model::{Change, CommitId};
use crate::workload::neighbour::Neighbour;
use crate::workload::operations::Operation;
use crate::workload::orders::{Fuse, PANIC_MESSAGE};
use crate::workload::ownership::Ownership;
use crate::workload::recovery::numbered;
use parking_lot::MutexGuard;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Index;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use tinylsm::base::limits::{KEY_LEN_BYTES_MAX, VALUE_LEN_BYTES_MAX};
use tinylsm::vfs::Vfs;
use tinylsm::{
    Background, Db, DbBuilder, Durability, Error, ErrorKind, Keyspace, SeqNum, WriteBatch, WriteOptions,
};

/// No call may take longer, in nanoseconds of virtual time: a stalled writer gives up after ten minutes, everything
/// else ends long before.
const CALL_NS_MAX: u64 = 1_200_000_000_000;

/// An open database and what its clients have to know of it.
#[derive(Clone)]
pub struct Opened {
    /// The database.
    pub db: Db,
    /// The disk that it lies on.
    pub disk: SimDisk,
    /// Operations of the disk that had failed when it was opened; only later ones excuse an error.
    pub failures_before: u64,
    /// Comparisons that had panicked when it was opened.
    pub panics_before: u64,
    /// Which incarnation it is.
    pub incarnation: u64,
    /// Another database on the same disk, if there is one.
    pub neighbour: Option<Neighbour>,
}

/// What a client has at hand.
pub struct Client {
    pub(in crate::workload) context: Context,
    pub(in crate::workload) opened: Opened,
    /// The database's keyspaces, by number.
    pub(in crate::workload) keyspaces: Handles,
    pub(in crate::workload) snapshots: Vec<HeldSnapshot>,
    pub(in crate::workload) iterators: Vec<HeldIter>,
}

/// Handles of keyspaces, by number.
#[derive(Clone, Default)]
pub struct Handles(BTreeMap<usize, Keyspace>);

impl Handles {
    /// Gets a handle of every keyspace that a database has.
    ///
    /// # Errors
    /// What getting one meets.
    pub fn of(db: &Db) -> Result<Handles, Error> {
        let handle = |(id, name): (u32, String)| Ok((id as usize, db.keyspace(&name)?));
        numbered(db).into_iter().map(handle).collect::<Result<_, _>>().map(Handles)
    }

    /// Takes a handle of the default keyspace.
    pub fn of_default(db: &Db) -> Handles {
        Handles(BTreeMap::from([(0, db.default_keyspace().clone())]))
    }

    /// Returns them all with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Keyspace)> {
        self.0.iter().map(|(id, keyspace)| (u32::try_from(*id).expect("a few"), keyspace))
    }

    /// Takes one out.
    pub(in crate::workload) fn remove(&mut self, id: u32) -> Option<Keyspace> {
        self.0.remove(&(id as usize))
    }

    /// Chooses one.
    pub(in crate::workload) fn pick(&self, below: impl FnOnce(u64) -> u64) -> usize {
        let at = usize::try_from(below(self.0.len() as u64)).expect("a few");
        *self.0.keys().nth(at).expect("one of them")
    }
}

impl Index<usize> for Handles {
    type Output = Keyspace;

    fn index(&self, id: usize) -> &Keyspace {
        &self.0[&id]
    }
}

/// The client goes home: the power is off, or an invariant is broken.
pub(in crate::workload) struct Stop;

/// The directory of a run's database.
pub const DIRECTORY: &str = "/db";

impl Context {
    /// Prepares to open the run's database.
    pub fn builder(&self, disk: &SimDisk, background: Background) -> DbBuilder {
        let builder = Db::builder(DIRECTORY).vfs(Ownership::new(disk, self)).background(background);
        self.fuse.attach(builder.options(self.swarm.options.clone()))
    }

    /// Prepares to open a copy of it, on a disk beside the run's own and with comparators that never panic.
    pub fn copy_builder(&self, disk: &SimDisk, background: Background) -> DbBuilder {
        self.copy_builder_with(disk, background, &Fuse::default())
    }

    /// As [`Context::copy_builder`], with comparators that panic when `fuse` says so.
    pub fn copy_builder_with(&self, disk: &SimDisk, background: Background, fuse: &Fuse) -> DbBuilder {
        let builder = Db::builder(DIRECTORY).vfs(Ownership::on_copy(disk, self)).background(background);
        fuse.attach(builder.options(self.swarm.options.clone()))
    }
}

impl Client {
    /// Makes a client without snapshots or iterators.
    pub fn new(context: Context, opened: Opened, keyspaces: Handles) -> Client {
        Client { context, opened, keyspaces, snapshots: Vec::new(), iterators: Vec::new() }
    }

    /// Does so many operations, unless the power goes off or an invariant is broken.
    pub fn run(mut self, operations_count: u64) {
        for _ in 0..operations_count {
            if self.judge().violation.is_some() || self.opened.disk.is_off() {
                return;
            }
            let operation = self.context.swarm.next_operation(&self.context.tape);
            {
                let mut judge = self.judge();
                judge.operations_count += 1;
                judge.reach(operation.event());
            }
            schedule::note(|| format!("the client begins: {operation:?}"));
            let done = catch_unwind(AssertUnwindSafe(|| self.act(operation)));
            match done {
                Ok(Ok(())) => {}
                Ok(Err(Stop)) => return,
                Err(payload) if is_comparators(payload.as_ref()) => self.judge().reach(PANIC_REACHED_CALLER),
                Err(payload) => resume_unwind(payload),
            }
        }
    }

    fn act(&mut self, operation: Operation) -> Result<(), Stop> {
        match operation {
            Operation::Put => self.write(1, false),
            Operation::Delete => self.write(1, true),
            Operation::Batch => {
                let count = 1 + self.below(6);
                self.count_operations(count - 1);
                self.write(count, false)
            }
            Operation::EmptyBatch => self.write_nothing(),
            Operation::RefusedWrite => self.write_refused(),
            Operation::Get => self.get(None),
            Operation::MultiGet => self.multi_get(None),
            Operation::Scan => self.scan(None),
            Operation::Prefix => self.scan_prefix(None),
            Operation::HoldIterator => self.hold_iterator(),
            Operation::TakeSnapshot => {
                self.keep_snapshot();
                Ok(())
            }
            Operation::ReadSnapshot => self.read_snapshot(),
            Operation::DropSnapshot => {
                self.snapshots.pop();
                self.iterators.pop();
                Ok(())
            }
            Operation::ManySnapshots => self.take_many_snapshots(),
            Operation::Sync => self.sync(),
            Operation::Flush => self.flush(),
            Operation::Compact => self.compact(),
            Operation::Shrink => self.shrink(),
            Operation::Verify => self.verify(),
            Operation::WaitIdle => self.wait_idle(),
            Operation::Look => self.look(),
            Operation::Step => self.step(),
            Operation::Resume => self.resume(),
            Operation::CreateKeyspace => self.create_keyspace(),
            Operation::RefusedKeyspace => self.ask_for_refused_keyspace(),
            Operation::DropKeyspace => self.drop_keyspace(),
            Operation::RenameKeyspace => self.rename_keyspace(),
            Operation::ClearKeyspace => self.clear_keyspace(),
            Operation::SecondOpening => self.open_again(),
            Operation::ForeignHandle => self.use_foreign_handle(),
        }
    }

    pub(in crate::workload) fn judge(&self) -> MutexGuard<'_, Judge> {
        self.context.judge.lock()
    }

    pub(in crate::workload) fn db(&self) -> &Db {
        &self.opened.db
    }

    /// Counts operations; the caller of an operation has counted the first of each.
    pub(in crate::workload) fn count_operations(&self, count: u64) {
        self.judge().operations_count += count;
    }

    pub(in crate::workload) fn below(&self, bound: u64) -> u64 {
        self.context.tape.below(Label::Workload, bound)
    }

    pub(in crate::workload) fn next_key(&self) -> Vec<u8> {
        self.context.swarm.next_key(&self.context.tape)
    }

    /// Chooses a keyspace, among those that other clients have created as well.
    pub(in crate::workload) fn pick_keyspace(&mut self) -> usize {
        let (missing, gone) = {
            let judge = self.judge();
            if judge.incarnation != self.opened.incarnation {
                (Vec::new(), BTreeSet::new())
            } else {
                let unknown =
                    judge.possible().filter(|(id, _)| !self.keyspaces.0.contains_key(&(*id as usize)));
                (unknown.map(|(id, known)| (id, known.name.clone())).collect(), judge.gone())
            }
        };
        self.keyspaces.0.retain(|id, _| !gone.contains(&u32::try_from(*id).expect("a few")));
        for (id, name) in missing {
            // A database that closes gives no handle, and one that is being renamed may have none of that name; the ones
            // at hand do as well.
            if let Ok(keyspace) = self.db().keyspace(&name) {
                self.keyspaces.0.insert(id as usize, keyspace);
            }
        }
        self.keyspaces.pick(|bound| self.below(bound))
    }

    /// Makes a call, and judges how long it takes. A comparator's panic that reaches the caller is an error like any.
    pub(in crate::workload) fn call<T>(
        &self,
        name: &'static str,
        call: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let began_ns = self.opened.disk.now();
        let was_closed = self.was_closed();
        let result = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(result) => result,
            Err(payload) if is_comparators(payload.as_ref()) => {
                self.judge().reach(PANIC_REACHED_CALLER);
                Err(Error::new(ErrorKind::Io, PANIC_MESSAGE))
            }
            Err(payload) => resume_unwind(payload),
        };
        let took_ns = self.opened.disk.now() - began_ns;
        let mut judge = self.judge();
        let slowest = judge.slowest.entry(name).or_default();
        *slowest = took_ns.max(*slowest);
        if took_ns > CALL_NS_MAX {
            judge.violate(
                "every call ends",
                format!("{name} took {} virtual seconds", took_ns / 1_000_000_000),
            );
        }
        drop(judge);
        if was_closed && result.is_ok() {
            self.judge()
                .violate("closed is closed", format!("{name} was begun behind a close, and goes well"));
        }
        result
    }

    /// Tells whether a close of the database has returned: whatever is begun from now on gives `Closed`.
    pub(in crate::workload) fn was_closed(&self) -> bool {
        let judge = self.judge();
        judge.closing.has_succeeded || judge.incarnation != self.opened.incarnation
    }

    /// Tells whether an operation of the disk has failed since the database was opened.
    pub(in crate::workload) fn has_disk_failed(&self) -> bool {
        self.opened.disk.failures_count() > self.opened.failures_before
    }

    /// Tells whether a comparator has panicked since the database was opened.
    pub(in crate::workload) fn has_panicked(&self) -> bool {
        self.context.fuse.panics_count() > self.opened.panics_before
    }

    /// Takes a result apart: `None` for an error that may be.
    pub(in crate::workload) fn allow<T>(&self, result: Result<T, Error>) -> Result<Option<T>, Stop> {
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(_) if self.opened.disk.is_off() => return Err(Stop),
            Err(error) => error,
        };
        if self.is_excused(&error) {
            return Ok(None);
        }
        Err(self.violate("error honesty", format!("an error without a cause: {error:?}")))
    }

    pub(in crate::workload) fn is_excused(&self, error: &Error) -> bool {
        let kind = error.kind();
        if kind == ErrorKind::Closed {
            let judge = self.judge();
            if is_of_drop(error) && judge.has_drops() {
                return true;
            }
            return judge.closing.has_begun || judge.incarnation != self.opened.incarnation;
        }
        let of_disk =
            [ErrorKind::Io, ErrorKind::NoSpace, ErrorKind::Exhausted, ErrorKind::Busy, ErrorKind::ReadOnly];
        // A merge that does not fit on a small disk is not begun.
        (self.has_disk_failed() && of_disk.contains(&kind))
            || (kind == ErrorKind::NoSpace && self.opened.disk.is_limited())
            || (self.has_panicked() && is_of_panic(error))
    }

    pub(in crate::workload) fn violate(&self, oracle: &'static str, message: String) -> Stop {
        self.judge().violate(oracle, message);
        Stop
    }

    /// Writes a batch of no operations: it has no number of its own, but makes what came before durable.
    fn write_nothing(&self) -> Result<(), Stop> {
        let durability = self.context.swarm.next_durability(&self.context.tape);
        let before = self.db().last_seq().get();
        let options = WriteOptions::default().durability(durability);
        let result = self.call("write", || self.db().write(WriteBatch::new(), options));
        if let Ok(seq) = result
            && !(before..=self.db().last_seq().get()).contains(&seq.get())
        {
            let message = format!("an empty batch after number {before} got number {seq}");
            return Err(self.violate("sequence numbers", message));
        }
        if durability == Durability::Disk {
            return self.note_durable(result.map(drop), before).map(drop);
        }
        self.allow(result).map(drop)
    }

    /// Writes what must be refused, alone or behind something that would be fine, and leaves nothing: what the
    /// model does not know shows in a later read.
    fn write_refused(&mut self) -> Result<(), Stop> {
        let at = self.pick_keyspace();
        let keyspace = &self.keyspaces[at];
        let key = self.next_key();
        let (bad_key, bad_value) = match self.below(2) {
            0 => (vec![b'k'; KEY_LEN_BYTES_MAX + 1], Vec::new()),
            _ => (key.clone(), vec![0; VALUE_LEN_BYTES_MAX + 1]),
        };
        let result = if self.below(2) == 0 {
            keyspace.put(&bad_key, &bad_value)
        } else {
            let mut batch = WriteBatch::new();
            batch.put(keyspace, &key, "never written");
            batch.put(keyspace, &bad_key, &bad_value);
            self.db().write(&batch, WriteOptions::default())
        };
        self.expect_refusal("a write that breaks a limit", result.map(drop))
    }

    /// Expects `InvalidArgument`, or that the database is closed.
    pub(in crate::workload) fn expect_refusal(
        &self,
        what: &str,
        result: Result<(), Error>,
    ) -> Result<(), Stop> {
        match result {
            Err(error) if error.kind() == ErrorKind::InvalidArgument => Ok(()),
            Err(error) if error.kind() == ErrorKind::Closed => self.allow::<()>(Err(error)).map(drop),
            Err(_) if self.opened.disk.is_off() => Err(Stop),
            other => Err(self.violate("error honesty", format!("{what} gives {other:?}"))),
        }
    }

    /// Notes that everything up to a number is durable if a call says so; tells whether it does.
    pub(in crate::workload) fn note_durable(
        &self,
        result: Result<(), Error>,
        before: u64,
    ) -> Result<bool, Stop> {
        if self.allow(result)?.is_none() {
            return Ok(false);
        }
        let mut judge = self.judge();
        if judge.incarnation == self.opened.incarnation {
            judge.model.durable_floor = judge.model.durable_floor.max(before);
            judge.model.process_floor = judge.model.process_floor.max(before);
        }
        Ok(true)
    }

    pub(in crate::workload) fn write(&mut self, count: u64, deletes: bool) -> Result<(), Stop> {
        let durability = self.context.swarm.next_durability(&self.context.tape);
        let write = {
            let mut judge = self.judge();
            judge.writes_count += 1;
            judge.writes_count
        };
        let mut batch = WriteBatch::new();
        let mut changes: Vec<Change> = Vec::new();
        for index in 0..usize::try_from(count).expect("a few") {
            let at = self.pick_keyspace();
            let (keyspace, id) = (&self.keyspaces[at], u32::try_from(at).expect("a few"));
            let key = self.next_key();
            let is_delete = deletes || (count > 1 && self.below(4) == 0);
            if is_delete {
                batch.delete(keyspace, &key);
                changes.push(((id, key), None));
            } else {
                let len = self.context.swarm.next_value_len(&self.context.tape);
                let value = value_for(write, index, (id, &key), len);
                batch.put(keyspace, &key, &value);
                changes.push(((id, key), Some(value)));
            }
        }
        schedule::note(|| format!("it writes, for {durability:?}: {}", show_changes(&changes)));
        let (id, is_old, told_time) = {
            let mut judge = self.judge();
            let told = schedule::thread_id().and_then(|thread| judge.told_times.get(&thread).copied());
            let is_old = judge.incarnation != self.opened.incarnation;
            (judge.model.begin(changes), is_old, told)
        };
        let options = WriteOptions::default().durability(durability);
        let result = self.call("write", || self.db().write(&batch, options));
        schedule::note(|| format!("the write gives {result:?}"));
        self.note_write(id, &result, durability)?;
        if result.is_ok() {
            if is_old {
                let message = "a database that was closed took a write".to_owned();
                return Err(self.violate("closed is closed", message));
            }
            let mut judge = self.judge();
            judge.committed_time = judge.committed_time.max(told_time);
        }
        self.allow(result).map(drop)
    }

    /// Notes what became of a write.
    pub(in crate::workload) fn note_write(
        &self,
        id: CommitId,
        result: &Result<SeqNum, Error>,
        durability: Durability,
    ) -> Result<(), Stop> {
        let mut judge = self.judge();
        let is_old = judge.incarnation != self.opened.incarnation;
        let model = &mut judge.model;
        let noted = match result {
            Ok(seq) => {
                let noted = model.commit(id, seq.get());
                if durability >= Durability::Os && !is_old {
                    model.process_floor = model.process_floor.max(seq.get());
                }
                if durability == Durability::Disk && !is_old {
                    model.durable_floor = model.durable_floor.max(seq.get());
                }
                noted
            }
            Err(error) if is_final(error) && !self.opened.disk.is_off() => model.cancel(id),
            // It may be in the log, whole; only a recovery will tell.
            Err(_) => Ok(()),
        };
        drop(judge);
        noted.map_err(|message| self.violate("sequence numbers", message))
    }
}

/// The event of a comparator's panic that came through to whoever made the call.
pub const PANIC_REACHED_CALLER: &str = "a comparator's panic reached the caller";

/// Tells whether an error says that a keyspace was dropped.
pub(in crate::workload) fn is_of_drop(error: &Error) -> bool {
    error.kind() == ErrorKind::Closed && error.to_string().contains("was dropped")
}

/// Tells whether an error says that nothing was written, and nothing ever will be.
pub(in crate::workload) fn is_final(error: &Error) -> bool {
    let kind = error.kind();
    // A full disk refuses puts before anything is tried; what the log has met names what it was doing.
    let is_refused = kind == ErrorKind::NoSpace && error.operation().is_none();
    is_refused || matches!(kind, ErrorKind::ReadOnly | ErrorKind::Busy | ErrorKind::Closed)
}

fn is_comparators(payload: &(dyn std::any::Any + Send)) -> bool {
    payload.downcast_ref::<String>().is_some_and(|text| text.ends_with(PANIC_MESSAGE))
        || payload.downcast_ref::<&str>().is_some_and(|text| text.ends_with(PANIC_MESSAGE))
}

/// Tells whether an error may come of a panic that was contained: its own, or one of the calls that it hinders.
fn is_of_panic(error: &Error) -> bool {
    let is_ours = format!("{error:?}").contains(PANIC_MESSAGE);
    is_ours || matches!(error.kind(), ErrorKind::Busy | ErrorKind::ReadOnly)
}

fn show_changes(changes: &[Change]) -> String {
    let show = |((keyspace, key), value): &Change| {
        let value = value.as_ref().map_or_else(|| "deleted".to_owned(), |v| v.escape_ascii().to_string());
        format!("{keyspace}:{:.60}={value:.24} ", key.escape_ascii().to_string())
    };
    changes.iter().map(show).collect()
}

/// Tells whether an error is an append to the log that met a full disk, the one failure that `resume` mends.
pub(in crate::workload) fn is_full_log(error: &Error) -> bool {
    error.kind() == ErrorKind::NoSpace
        && error.operation() == Some("append")
        && error.file().is_some_and(|file| file.extension().is_some_and(|extension| extension == "wal"))
}
