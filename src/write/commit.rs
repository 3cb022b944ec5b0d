//! What a leader does with its group: number, log, sync, apply.
//!
//! The order is the promise. A record is in the log before its entries are in a memtable, and synced before that
//! if any member asked for it; the caller publishes the last number only afterwards. Nothing else numbers or logs.

use crate::base::error::{Error, Result};
use crate::base::ids::KeyspaceId;
use crate::base::key::{InternalKey, Tag};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::format::batch::{Batch, open_record};
use crate::format::frame::FRAME_HEADER_LEN_BYTES;
use crate::memtable::Memtable;
use crate::memtable::arena::Arena;
use crate::wal::writer::WalWriter;
use crate::write::queue::Member;

/// What a write survives once it has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing yet: the record waits in memory for the next stronger write, `sync` or `flush`. The cheapest, and
    /// still no hole: a later durable write takes it along.
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
}

/// Why a group was not committed.
#[derive(Debug)]
pub enum Failure {
    /// Before anything was logged: the log is as it was.
    Untouched(Error),
    /// While logging: the segment's end is unknown and it must take nothing more.
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
    memtable_of: impl Fn(KeyspaceId) -> &'m Memtable,
) -> Result<SeqNum, Failure> {
    let Target { wal, arena } = target;
    let requests = || group.iter().map(|member| &member.request);
    let needed: usize =
        requests().map(|request| request.batch.len_bytes() + FRAME_HEADER_LEN_BYTES + 32).sum();
    wal.reserve(needed as u64).map_err(Failure::Untouched)?;
    let durability = requests().map(|request| request.durability).max().unwrap_or_default();
    let mut last = last_seq;
    for member in group.iter_mut() {
        let batch = &mut member.request.batch;
        if batch.count() > 0 {
            let first = last.plus(1);
            last = last.plus(u64::from(batch.count()));
            wal.add(batch.stamp(committed_at, first), first, last).map_err(Failure::Broken)?;
        }
        member.answer = Some(Ok(last));
    }
    let logged = match durability {
        Durability::Disk => wal.sync(),
        Durability::Os => wal.hand_over(),
        Durability::None if wal.is_holding_much() => wal.hand_over(),
        Durability::None => Ok(()),
    };
    logged.map_err(Failure::Broken)?;
    for member in group.iter().filter(|member| member.request.batch.count() > 0) {
        apply(member.request.batch.frame(), arena, &memtable_of);
    }
    Ok(last)
}

/// Copies a record's operations into the memtables of their keyspaces.
///
/// # Panics
/// If the record is not one of ours: disks' bytes go through [`check_record`] first.
pub fn apply<'m>(record: &[u8], arena: &mut Arena, memtable_of: &impl Fn(KeyspaceId) -> &'m Memtable) {
    let (header, mut operations) = open_record(record).expect("a record is checked before it is applied");
    let mut seq = header.first_seq;
    while let Some(operation) = operations.next_operation().expect("a record is checked before it is applied")
    {
        let key = InternalKey::new(&record[operation.key], Tag::new(seq, operation.kind));
        memtable_of(operation.keyspace).insert(arena, key, &record[operation.value]);
        seq = seq.plus(1);
    }
    assert!(seq == header.last_seq().plus(1), "a record has as many operations as it says");
}

/// Checks a record from a disk: every operation readable, every keyspace known.
///
/// # Errors
/// The offset in the record and what is wrong there.
pub fn check_record(
    record: &[u8],
    is_known: impl Fn(KeyspaceId) -> bool,
) -> Result<(), (usize, &'static str)> {
    let Some((_, mut operations)) = open_record(record) else { return Err((0, "the record has no header")) };
    loop {
        match operations.next_operation() {
            Ok(Some(operation)) if !is_known(operation.keyspace) => {
                return Err((operation.key.start, "the record is for a keyspace that does not exist"));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(at) => return Err((at, "an operation of the record is unreadable")),
        }
    }
}
