//! What a client holds while other things happen: snapshots and iterators, with what they have shown.

use crate::workload::judge::Context;
use crate::workload::model::Pairs;
use crate::workload::sight::Bounds;
use tinylsm::{Db, Error, Iter, Snapshot};

/// A snapshot in use, with what it showed of whole keyspaces.
pub(in crate::workload) struct HeldSnapshot {
    pub(in crate::workload) snapshot: Snapshot,
    pub(in crate::workload) seen: Vec<(u32, Pairs)>,
    // Declared behind the snapshot, which is let go before that is noted.
    _note: SnapshotNote,
}

/// Notes a snapshot as held while it lives.
struct SnapshotNote {
    context: Context,
    name: u64,
}

impl Drop for SnapshotNote {
    fn drop(&mut self) {
        self.context.judge.lock().snapshots.let_go(self.name);
    }
}

impl HeldSnapshot {
    pub(in crate::workload) fn take(context: &Context, db: &Db) -> HeldSnapshot {
        context.judge.lock().snapshots.being_taken_count += 1;
        let snapshot = db.snapshot();
        let name = {
            let snapshots = &mut context.judge.lock().snapshots;
            snapshots.being_taken_count -= 1;
            snapshots.take(snapshot.seq().get())
        };
        HeldSnapshot { snapshot, seen: Vec::new(), _note: SnapshotNote { context: context.clone(), name } }
    }

    pub(in crate::workload) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

/// An iterator in use: where it stands and what it has shown.
pub(in crate::workload) struct HeldIter {
    pub(in crate::workload) iter: Iter,
    pub(in crate::workload) low: u64,
    pub(in crate::workload) high: u64,
    pub(in crate::workload) keyspace: usize,
    /// The range's own bounds; seeks may go back to them.
    pub(in crate::workload) whole: Bounds,
    /// The range less what a seek left out.
    pub(in crate::workload) bounds: Bounds,
    pub(in crate::workload) front: Pairs,
    pub(in crate::workload) back: Pairs,
}

impl HeldIter {
    /// Tells whether it reads a keyspace.
    pub(in crate::workload) fn is_of(&self, keyspace: u32) -> bool {
        u32::try_from(self.keyspace).is_ok_and(|it| it == keyspace)
    }

    /// Goes back to the front.
    pub(in crate::workload) fn rewind(&mut self) -> Result<(), Error> {
        self.iter.seek("")
    }
}
