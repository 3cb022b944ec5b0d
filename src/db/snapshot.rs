//! Snapshots: reading the database as it was at one moment.

use crate::base::error::Result;
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::db::Handle;
use crate::db::iter::Iter;
use crate::db::keyspace::Keyspace;
use crate::db::range::KeyRange;
use crate::mvcc::visible::Horizon;
use std::sync::Arc;

/// The whole database as it was at one moment, over all keyspaces.
///
/// While it lives, flush and compaction keep every version it sees. Dropping the last clone lets them go, and a quiet
/// database gives back their space by itself; a short lock is taken for that. It keeps the database open.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// let db = tinylsm::Db::open_in_memory()?;
/// db.put("k", "old")?;
/// let snapshot = db.snapshot();
/// db.put("k", "new")?;
/// assert_eq!(snapshot.get(db.default_keyspace(), "k")?.as_deref(), Some(&b"old"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Snapshot {
    pin: Arc<Pin>,
}

/// What the clones of one snapshot hold together.
struct Pin {
    horizon: Horizon,
    handle: Arc<Handle>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let core = &self.handle.core;
        // In a forked process, the list's lock may be held by a thread that is not there.
        if !core.ends.is_forked() {
            // A merge kept something for this one alone.
            core.nominate_all(&core.view.snapshots.release(self.horizon.seq));
        }
    }
}

impl Snapshot {
    /// Wraps a snapshot that was taken from the list of `handle`'s database.
    pub(crate) fn new(horizon: Horizon, handle: Arc<Handle>) -> Snapshot {
        Snapshot { pin: Arc::new(Pin { horizon, handle }) }
    }

    /// Returns the number of the last commit that the snapshot sees.
    pub fn seq(&self) -> SeqNum {
        self.pin.horizon.seq
    }

    /// Returns the value of `key` as it was.
    ///
    /// # Errors
    /// As `Keyspace::get`; `InvalidArgument` for a keyspace of another database.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        keyspace.check_belongs(&self.pin.handle.core)?;
        keyspace.get_at(key.as_ref(), self.pin.horizon)
    }

    /// Returns the values of several keys as they were.
    ///
    /// # Errors
    /// As `Keyspace::get`; `InvalidArgument` for a keyspace of another database.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keyspace: &Keyspace, keys: &[K]) -> Result<Vec<Option<Slice>>> {
        keyspace.check_belongs(&self.pin.handle.core)?;
        keys.iter().map(|key| keyspace.get_at(key.as_ref(), self.pin.horizon)).collect()
    }

    /// Iterates over all keys as they were.
    ///
    /// # Errors
    /// `Closed`; `InvalidArgument` for a keyspace of another database.
    pub fn iter(&self, keyspace: &Keyspace) -> Result<Iter> {
        self.range(keyspace, ..)
    }

    /// Iterates over the keys of a range as they were.
    ///
    /// # Errors
    /// `Closed`; `InvalidArgument` for a keyspace of another database.
    pub fn range(&self, keyspace: &Keyspace, range: impl KeyRange) -> Result<Iter> {
        keyspace.check_belongs(&self.pin.handle.core)?;
        keyspace.range_at(range, self.pin.horizon)
    }

    /// Iterates over the keys that begin with `prefix`, as they were.
    ///
    /// # Errors
    /// `InvalidArgument` unless the keyspace is in bytewise order and of this database; `Closed`.
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Result<Iter> {
        keyspace.check_belongs(&self.pin.handle.core)?;
        keyspace.range_at(keyspace.prefix_range(prefix.as_ref())?, self.pin.horizon)
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({})", self.pin.horizon.seq)
    }
}
