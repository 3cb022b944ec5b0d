//! Snapshots: reading the database as it was at one moment.

use crate::base::error::Result;
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::db::Db;
use crate::db::iter::Iter;
use crate::db::keyspace::{Keyspace, count};
use crate::db::range::KeyRange;
use crate::mvcc::visible::Horizon;
use std::sync::Arc;

/// The whole database as it was at one moment, over all keyspaces.
///
/// While it lives, flush and compaction keep every version it sees. Dropping the last clone lets them go, and a quiet
/// database gives back their space by itself; a short lock is taken for that. It keeps the database open.
///
/// Its own methods read the default keyspace, [`Snapshot::keyspace`] any other.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// let db = tinylsm::Db::open_in_memory()?;
/// db.put("k", "old")?;
/// let snapshot = db.snapshot();
/// db.put("k", "new")?;
/// assert_eq!(snapshot.get("k")?.as_deref(), Some(&b"old"[..]));
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
    /// Keeps the database open.
    default: Keyspace,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let core = self.default.core();
        // In a forked process, the list's lock may be held by a thread that is not there.
        if !core.ends.is_forked() {
            // A merge kept something for this one alone.
            core.nominate_all(&core.view.snapshots.release(self.horizon.seq));
            // What a keyspace was before it was emptied may have been kept for this one alone too.
            core.forget_past();
        }
    }
}

impl Snapshot {
    /// Wraps a snapshot that was taken from the list of a database, whose default keyspace this is.
    pub(crate) fn new(horizon: Horizon, default: Keyspace) -> Snapshot {
        Snapshot { pin: Arc::new(Pin { horizon, default }) }
    }

    /// Returns the number of the last commit that the snapshot sees.
    pub fn seq(&self) -> SeqNum {
        self.pin.horizon.seq
    }

    /// Returns a keyspace as it was. Reading one of another database gives `InvalidArgument`.
    ///
    /// ```
    /// # fn main() -> tinylsm::Result<()> {
    /// # let db = tinylsm::Db::open_in_memory()?;
    /// let users = db.create_keyspace("users", Default::default())?;
    /// users.put("ada", "admin")?;
    /// let snapshot = db.snapshot();
    /// users.delete("ada")?;
    /// let view = snapshot.keyspace(&users);
    /// assert!(view.contains_key("ada")? && !users.contains_key("ada")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn keyspace(&self, keyspace: &Keyspace) -> KeyspaceSnapshot {
        KeyspaceSnapshot { snapshot: self.clone(), keyspace: keyspace.clone() }
    }

    /// Returns the default keyspace as it was.
    pub fn default_keyspace(&self) -> KeyspaceSnapshot {
        self.keyspace(&self.pin.default)
    }

    /// Returns the database that it is of.
    pub fn db(&self) -> Db {
        self.pin.default.db()
    }

    /// Returns the value of a key of the default keyspace, as it was.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        self.pin.default.get_at(key.as_ref(), self.pin.horizon)
    }

    /// Returns the values of several keys of the default keyspace, as they were.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Slice>>> {
        self.default_keyspace().multi_get(keys)
    }

    /// Tells whether a key of the default keyspace had a value.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Returns the first key of the default keyspace in its order, with its value, as it was.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn first_key_value(&self) -> Result<Option<(Slice, Slice)>> {
        self.default_keyspace().first_key_value()
    }

    /// Returns the last key of the default keyspace in its order, with its value, as it was.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn last_key_value(&self) -> Result<Option<(Slice, Slice)>> {
        self.default_keyspace().last_key_value()
    }

    /// Tells whether there was no key in the default keyspace.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn is_empty(&self) -> Result<bool> {
        self.default_keyspace().is_empty()
    }

    /// Counts the keys that there were in the default keyspace, by reading every one of them.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn len(&self) -> Result<u64> {
        self.default_keyspace().len()
    }

    /// Returns about how many bytes a range of the default keyspace takes; see [`KeyspaceSnapshot::approximate_len_bytes`].
    ///
    /// # Errors
    /// As [`Keyspace::approximate_len_bytes`].
    pub fn approximate_len_bytes(&self, range: impl KeyRange) -> Result<u64> {
        self.default_keyspace().approximate_len_bytes(range)
    }

    /// Iterates over all keys of the default keyspace, as they were.
    ///
    /// # Errors
    /// `Closed`.
    pub fn iter(&self) -> Result<Iter> {
        self.range(..)
    }

    /// Iterates over the keys of a range of the default keyspace, as they were.
    ///
    /// # Errors
    /// As [`Keyspace::range`].
    pub fn range(&self, range: impl KeyRange) -> Result<Iter> {
        self.pin.default.range_at(range, self.pin.horizon)
    }

    /// Iterates over the keys of the default keyspace that begin with `prefix`, as they were.
    ///
    /// # Errors
    /// As [`Keyspace::prefix`].
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Iter> {
        self.default_keyspace().prefix(prefix)
    }
}

/// One keyspace as it was when a snapshot was taken; see [`Snapshot::keyspace`]. Keeps the snapshot.
#[derive(Clone)]
pub struct KeyspaceSnapshot {
    snapshot: Snapshot,
    keyspace: Keyspace,
}

impl KeyspaceSnapshot {
    /// Returns the snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Returns the keyspace as it is now.
    pub fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// Returns the value of `key` as it was.
    ///
    /// # Errors
    /// As [`Keyspace::get`]; `InvalidArgument` for a keyspace of another database, here and in all other reads.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        self.keyspace.get_at(key.as_ref(), self.horizon()?)
    }

    /// Returns the values of several keys as they were.
    ///
    /// # Errors
    /// As [`KeyspaceSnapshot::get`], for the first key that meets one.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Slice>>> {
        self.keyspace.multi_get_at(keys, self.horizon()?)
    }

    /// Tells whether `key` had a value.
    ///
    /// # Errors
    /// As [`KeyspaceSnapshot::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Returns the first key in the keyspace's order, with its value, as it was.
    ///
    /// # Errors
    /// As [`KeyspaceSnapshot::get`].
    pub fn first_key_value(&self) -> Result<Option<(Slice, Slice)>> {
        self.iter()?.next().transpose()
    }

    /// Returns the last key in the keyspace's order, with its value, as it was.
    ///
    /// # Errors
    /// As [`KeyspaceSnapshot::get`].
    pub fn last_key_value(&self) -> Result<Option<(Slice, Slice)>> {
        self.iter()?.next_back().transpose()
    }

    /// Tells whether there was no key.
    ///
    /// # Errors
    /// As [`KeyspaceSnapshot::get`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.first_key_value()?.is_none())
    }

    /// Counts the keys that there were, by reading every one of them.
    ///
    /// # Errors
    /// As [`KeyspaceSnapshot::get`].
    pub fn len(&self) -> Result<u64> {
        count(self.iter()?)
    }

    /// Returns about how many bytes the entries of a range take, as [`Keyspace::approximate_len_bytes`] does. What was written
    /// after the snapshot counts as well, as do versions that it does not see; only what was cleared since is still there.
    ///
    /// # Errors
    /// As [`Keyspace::approximate_len_bytes`]; `InvalidArgument` for a keyspace of another database.
    pub fn approximate_len_bytes(&self, range: impl KeyRange) -> Result<u64> {
        self.keyspace.approximate_len_at(range, self.horizon()?.seq)
    }

    /// Iterates over all keys as they were.
    ///
    /// # Errors
    /// As [`KeyspaceSnapshot::range`].
    pub fn iter(&self) -> Result<Iter> {
        self.range(..)
    }

    /// Iterates over the keys of a range as they were.
    ///
    /// # Errors
    /// As [`Keyspace::range`]; `InvalidArgument` for a keyspace of another database.
    pub fn range(&self, range: impl KeyRange) -> Result<Iter> {
        self.keyspace.range_at(range, self.horizon()?)
    }

    /// Iterates over the keys that begin with `prefix`, as they were.
    ///
    /// # Errors
    /// As [`Keyspace::prefix`]; `InvalidArgument` for a keyspace of another database.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Iter> {
        let horizon = self.horizon()?;
        self.keyspace.range_at(self.keyspace.prefix_range(prefix.as_ref())?, horizon)
    }

    fn horizon(&self) -> Result<Horizon> {
        self.keyspace.check_belongs(self.snapshot.pin.default.core())?;
        Ok(self.snapshot.pin.horizon)
    }
}

impl std::fmt::Debug for KeyspaceSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {}", self.keyspace, self.snapshot.seq())
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({})", self.pin.horizon.seq)
    }
}
