//! What a leader does with its group: number, log, sync, apply.
//!
//! The order is the promise. A record is in the log before its entries are in a memtable, and synced before that
//! if any member asked for it; the caller publishes the last number only afterwards. Nothing else numbers or logs.

use crate::base::error::Result;
use crate::base::ids::KeyspaceId;
use crate::base::key::Tag;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::format::batch::{Batch, open_record};
use crate::format::frame::FRAME_HEADER_LEN_BYTES;
use crate::memtable::{Insert, Memtable};
use crate::wal::writer::WalWriter;
use std::sync::Arc;

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
    Untouched(crate::base::error::Error),
    /// While logging: the segment's end is unknown and it must take nothing more.
    Broken(crate::base::error::Error),
}

/// Logs and applies a group; returns each member's last number, in order.
///
/// `memtable_of` gives the memtable that belongs to this WAL segment.
///
/// # Errors
/// [`Failure`]; no entry is in a memtable then.
pub fn commit_group<'m>(
    wal: &mut WalWriter,
    group: Vec<Request>,
    committed_at: UnixMillis,
    last_seq: SeqNum,
    memtable_of: impl Fn(KeyspaceId) -> &'m Memtable,
) -> Result<Vec<SeqNum>, Failure> {
    let needed: usize =
        group.iter().map(|request| request.batch.len_bytes() + FRAME_HEADER_LEN_BYTES + 32).sum();
    wal.reserve(needed as u64).map_err(Failure::Untouched)?;
    let durability = group.iter().map(|request| request.durability).max().unwrap_or_default();
    let mut records = Vec::with_capacity(group.len());
    let mut answers = Vec::with_capacity(group.len());
    let mut last = last_seq;
    for request in group {
        let count = u64::from(request.batch.count());
        if count > 0 {
            let first = last.plus(1);
            last = last.plus(count);
            records.push(wal.add(request.batch.into_frame(committed_at, first), first, last));
        }
        answers.push(last);
    }
    let logged = match durability {
        Durability::Disk => wal.sync(),
        Durability::Os => wal.hand_over(),
        Durability::None if wal.is_holding_much() => wal.hand_over(),
        Durability::None => Ok(()),
    };
    logged.map_err(Failure::Broken)?;
    for record in &records {
        apply(record, &memtable_of);
    }
    Ok(answers)
}

/// Inserts a record's operations into the memtables of their keyspaces.
///
/// # Panics
/// If the record is not one of ours: disks' bytes go through [`check_record`] first.
pub fn apply<'m>(record: &Arc<Vec<u8>>, memtable_of: &impl Fn(KeyspaceId) -> &'m Memtable) {
    let (header, mut operations) = open_record(record).expect("a record is checked before it is applied");
    let mut seq = header.first_seq;
    let mut is_counted = false;
    while let Some(operation) = operations.next_operation().expect("a record is checked before it is applied")
    {
        let tag = Tag::new(seq, operation.kind);
        let memtable = memtable_of(operation.keyspace);
        if !is_counted {
            memtable.count_record();
            is_counted = true;
        }
        memtable.insert(Insert { record, key: operation.key, value: operation.value, tag });
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
