//! What a reader of one keyspace looks through, newest first.

use crate::base::comparator::KeyOrder;
use crate::memtable::Memtable;
use crate::table::reader::Table;
use crate::version::levels::Version;
use std::sync::Arc;

/// Tables by level with their open readers.
pub type Tables = Version<Arc<Table>>;

/// The memtables and tables of one keyspace at one moment, immutable as a whole.
#[derive(Clone)]
pub struct Tree {
    /// How its keys are ordered.
    pub order: KeyOrder,
    /// Takes the commits of the open WAL segment.
    pub active: Arc<Memtable>,
    /// Waiting to be flushed, newest first.
    pub sealed: Vec<Arc<Memtable>>,
    /// Everything older.
    pub tables: Arc<Tables>,
}

impl Tree {
    /// Makes an empty tree whose memtable will take about `memtable_bytes`.
    pub fn new(order: KeyOrder, memtable_bytes: usize) -> Tree {
        let active = Arc::new(Memtable::new(&order, memtable_bytes));
        Tree { order, active, sealed: Vec::new(), tables: Arc::default() }
    }
}
