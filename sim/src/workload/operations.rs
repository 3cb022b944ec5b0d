//! What clients do, and how often.

/// What a client may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// One put.
    Put,
    /// One delete.
    Delete,
    /// Several writes at once, over any keyspaces.
    Batch,
    /// A batch of no writes.
    EmptyBatch,
    /// A write that breaks a limit.
    RefusedWrite,
    /// One get.
    Get,
    /// Several gets at one moment.
    MultiGet,
    /// A scan of a range, from either end or both.
    Scan,
    /// A scan of the keys with a common beginning.
    Prefix,
    /// An iterator kept while other things happen.
    HoldIterator,
    /// A snapshot taken and kept.
    TakeSnapshot,
    /// A kept snapshot read again.
    ReadSnapshot,
    /// A kept snapshot let go.
    DropSnapshot,
    /// Hundreds of snapshots taken and let go.
    ManySnapshots,
    /// Everything before made durable.
    Sync,
    /// Memtables written out.
    Flush,
    /// A range merged down.
    Compact,
    /// Much overwritten and deleted under a snapshot, that let go, and everything merged at once.
    Shrink,
    /// Every table checked.
    Verify,
    /// Everything that is due awaited.
    WaitIdle,
    /// Figures and errors asked for.
    Look,
    /// One due job run; only where nobody else runs them.
    Step,
    /// Space made on the disk, and writing taken up again; only where the disk may fail.
    Resume,
    /// A keyspace created.
    CreateKeyspace,
    /// A keyspace asked for with options that cannot be.
    RefusedKeyspace,
    /// A keyspace dropped.
    DropKeyspace,
    /// A keyspace given another name.
    RenameKeyspace,
    /// A keyspace emptied.
    ClearKeyspace,
    /// The database opened once more while it is open.
    SecondOpening,
    /// A handle of another database used; only where there is one.
    ForeignHandle,
}

/// Every operation with its weight.
pub const OPERATIONS: [(Operation, u32); 30] = [
    (Operation::Put, 40),
    (Operation::Delete, 12),
    (Operation::Batch, 14),
    (Operation::EmptyBatch, 2),
    (Operation::RefusedWrite, 1),
    (Operation::Get, 16),
    (Operation::MultiGet, 4),
    (Operation::Scan, 8),
    (Operation::Prefix, 4),
    (Operation::HoldIterator, 3),
    (Operation::TakeSnapshot, 4),
    (Operation::ReadSnapshot, 6),
    (Operation::DropSnapshot, 3),
    (Operation::ManySnapshots, 1),
    (Operation::Sync, 3),
    (Operation::Flush, 3),
    (Operation::Compact, 2),
    (Operation::Shrink, 1),
    (Operation::Verify, 1),
    (Operation::WaitIdle, 1),
    (Operation::Look, 2),
    (Operation::Step, 6),
    (Operation::Resume, 3),
    (Operation::CreateKeyspace, 1),
    (Operation::RefusedKeyspace, 1),
    (Operation::DropKeyspace, 1),
    (Operation::RenameKeyspace, 1),
    (Operation::ClearKeyspace, 1),
    (Operation::SecondOpening, 1),
    (Operation::ForeignHandle, 2),
];

impl Operation {
    /// Finds an operation by its name, in the spelling of this file.
    pub fn from_name(name: &str) -> Option<Operation> {
        OPERATIONS.into_iter().map(|(operation, _)| operation).find(|each| format!("{each:?}") == name)
    }

    /// Returns the name under which a run counts it.
    pub const fn event(self) -> &'static str {
        match self {
            Operation::Put => "operation: put",
            Operation::Delete => "operation: delete",
            Operation::Batch => "operation: batch",
            Operation::EmptyBatch => "operation: empty batch",
            Operation::RefusedWrite => "operation: refused write",
            Operation::Get => "operation: get",
            Operation::MultiGet => "operation: multi_get",
            Operation::Scan => "operation: scan",
            Operation::Prefix => "operation: prefix scan",
            Operation::HoldIterator => "operation: hold an iterator",
            Operation::TakeSnapshot => "operation: take a snapshot",
            Operation::ReadSnapshot => "operation: read a snapshot",
            Operation::DropSnapshot => "operation: drop a snapshot",
            Operation::ManySnapshots => "operation: hundreds of snapshots",
            Operation::Sync => "operation: sync",
            Operation::Flush => "operation: flush",
            Operation::Compact => "operation: compact_range",
            Operation::Shrink => "operation: shrink",
            Operation::Verify => "operation: verify",
            Operation::WaitIdle => "operation: wait_idle",
            Operation::Look => "operation: stats and background_error",
            Operation::Step => "operation: background_step",
            Operation::Resume => "operation: resume",
            Operation::CreateKeyspace => "operation: create a keyspace",
            Operation::RefusedKeyspace => "operation: refused keyspace",
            Operation::DropKeyspace => "operation: drop a keyspace",
            Operation::RenameKeyspace => "operation: rename a keyspace",
            Operation::ClearKeyspace => "operation: clear a keyspace",
            Operation::SecondOpening => "operation: second opening",
            Operation::ForeignHandle => "operation: foreign handle",
        }
    }
}
