//! What a leader does with its group: number, log, sync, apply.
//!
//! The order is the promise. A record is in the log before its entries are in a memtable, and synced before that
//! if any member asked for it; the caller publishes the last number only afterwards. Nothing else numbers or logs.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::key::{InternalKey, Tag};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::format::batch::{Batch, Operations, open_record};
use crate::memtable::Memtable;
use crate::memtable::arena::Arena;
use crate::wal::reader::Record;
use crate::wal::writer::WalWriter;
use crate::write::queue::Member;
use std::path::Path;

/// What a write survives once it has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing yet: the record waits in memory for the next stronger write, [`sync`](crate::db::Db::sync),
    /// [`flush`](crate::db::Db::flush) or [`close`](crate::db::Db::close). The cheapest, and still no hole: a later durable
    /// write takes it along. It is lost if the process ends before that, and also if the last handle of the database is
    /// dropped without `close`; [`Stats::held_back_commits`](crate::db::stats::Stats::held_back_commits) tells how much
    /// waits.
    None,
    /// The end of this process: the operating system has the record.
    Os,
    /// The loss of power: the record is synced. Shared by all writes of a commit group.
    #[default]
    Disk,
}

/// One member's wish.
#[derive(Debug)]
pub struct Request {
    /// What to write; an empty batch only raises what was written before to `durability`.
    pub batch: Batch,
    /// What it has to survive.
    pub durability: Durability,
    /// How many keyspaces had been dropped when its keyspaces were last looked at.
    pub drops_seen_count: u64,
    /// Why it cannot be committed, which the leader finds out; the rest of its group can.
    pub refusal: Option<Error>,
    /// Whether it takes space that a full disk leaves to deletes.
    pub has_puts: bool,
}

impl Request {
    /// Makes a request of a batch.
    pub fn new(batch: Batch, durability: Durability) -> Request {
        Request { batch, durability, drops_seen_count: 0, refusal: None, has_puts: false }
    }

    /// Returns how many operations are to be committed.
    fn count(&self) -> u64 {
        if self.refusal.is_some() { 0 } else { u64::from(self.batch.count()) }
    }
}

/// Why a group was not committed. Numbers, memtables and what the log holds back are as they were.
#[derive(Debug)]
pub enum Failure {
    /// Before anything was logged: the log is as it was.
    Untouched(Error),
    /// While logging: what lies behind the segment's good length is unknown, and it takes nothing more. After a failed
    /// append a successor may go on (`WalWriter::abandon`), after a failed sync nothing may.
    Broken(Error),
}

/// What a leader writes to: the open segment, and the memory of the memtables that belong to it.
pub struct Target<'a> {
    /// The segment.
    pub wal: &'a mut WalWriter,
    /// The memory.
    pub arena: &'a mut Arena,
}

/// Logs and applies a group; answers each member with its last number and returns that of the group.
///
/// `memtable_of` gives the memtable that belongs to this WAL segment.
///
/// # Errors
/// [`Failure`]; no entry is in a memtable then, and the answers mean nothing.
pub fn commit_group<'m>(
    target: Target<'_>,
    group: &mut [Member<Request, Result<SeqNum>>],
    committed_at: UnixMillis,
    last_seq: SeqNum,
    memtable_of: impl Fn(KeyspaceId, SeqNum) -> Option<&'m Memtable>,
) -> Result<SeqNum, Failure> {
    let Target { wal, arena } = target;
    let requests = || group.iter().map(|member| &member.request);
    let durability = requests().map(|request| request.durability).max().unwrap_or_default();
    let count: u64 = requests().map(Request::count).sum();
    if count > SeqNum::LAST.get().saturating_sub(last_seq.get()) {
        let error = Error::new(ErrorKind::ReadOnly, "the database has used up its sequence numbers");
        return Err(Failure::Untouched(error));
    }
    let mut records = wal.begin().map_err(Failure::Untouched)?;
    let mut last = last_seq;
    for member in group.iter_mut() {
        let count = member.request.count();
        if count > 0 {
            let first = last.plus(1);
            last = last.plus(count);
            records.add(member.request.batch.stamp(committed_at, first), first, last);
        }
        member.answer = Some(member.request.refusal.clone().map_or(Ok(last), Err));
    }
    let logged = || group.iter().filter(|member| member.request.count() > 0);
    let frames = logged().map(|member| member.request.batch.frame());
    match durability {
        Durability::Disk => records.sync(frames),
        Durability::Os => records.hand_over(frames),
        Durability::None if records.is_holding_much() => records.hand_over(frames),
        Durability::None => {
            records.hold();
            Ok(())
        }
    }
    .map_err(Failure::Broken)?;
    for member in logged() {
        apply(member.request.batch.frame(), arena, &memtable_of);
    }
    Ok(last)
}

/// Copies a record's operations into the memtables of their keyspaces; `memtable_of` gives none for an operation that is
/// passed over.
///
/// # Panics
/// If the record is not one of ours: disks' bytes go through [`check_record`] first.
pub fn apply<'m>(
    record: &[u8],
    arena: &mut Arena,
    memtable_of: &impl Fn(KeyspaceId, SeqNum) -> Option<&'m Memtable>,
) {
    let (header, mut operations) = open_record(record).expect("a record is checked before it is applied");
    let mut seq = header.first_seq;
    while let Some(operation) = operations.next_operation().expect("a record is checked before it is applied")
    {
        let key = InternalKey::new(&record[operation.key], Tag::new(seq, operation.kind));
        if let Some(memtable) = memtable_of(operation.keyspace, seq) {
            memtable.insert(arena, key, &record[operation.value]);
        }
        seq = seq.plus(1);
    }
    assert!(seq == header.last_seq().plus(1), "a record has as many operations as it says");
}

/// Checks a record of the segment `path`: every operation readable, every keyspace known.
///
/// # Errors
/// `Corruption`, and `Incompatible` for a kind of operation that this version cannot read; both name file and offset.
pub fn check_record(record: &Record, path: &Path, is_known: impl Fn(KeyspaceId) -> bool) -> Result<()> {
    let damaged = |at: usize, message| Error::corruption(path, record.offset + at as u64, message);
    let opened = open_record(&record.frame);
    let (_, mut operations) = opened.ok_or_else(|| damaged(0, "the record has no header"))?;
    let next = |operations: &mut Operations<'_>| {
        operations.next_operation().map_err(|unreadable| unreadable.into_error(path, record.offset))
    };
    while let Some(operation) = next(&mut operations)? {
        if !is_known(operation.keyspace) {
            return Err(damaged(operation.key.start, "the record is for a keyspace that does not exist"));
        }
    }
    Ok(())
}
