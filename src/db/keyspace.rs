//! Keyspaces: handles to read and write one tree of a database.

use crate::base::comparator::BYTEWISE_NAME;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::db::core::Core;
use crate::db::iter::Iter;
use crate::db::options::{KeyspaceOptions, WriteOptions};
use crate::db::range::{KeyRange, owned_bounds, prefix_bounds};
use crate::db::state::{KeyspaceInfo, KeyspaceTree, State};
use crate::db::trace;
use crate::db::writing::Reach;
use crate::db::{Db, Handle};
use crate::format::batch::Batch;
use crate::mvcc::visible::Horizon;
use crate::read::scan::Scan;
use crate::read::tree::Tree;
use crate::read::{contained, get, size};
use crate::sync::tell;
use std::sync::Arc;

/// A keyspace of an open database: a tree of its own, with its own order of keys and options, that shares log,
/// sequence and snapshots with the others. Cheap to clone; keeps the database open, as [`Db`] says: what happens when the
/// last handle of all is dropped is told there.
///
/// Once the keyspace is dropped ([`Db::drop_keyspace`]), whatever reads or writes it gives `Closed`.
#[derive(Clone)]
pub struct Keyspace {
    handle: Arc<Handle>,
    info: Arc<KeyspaceInfo>,
}

impl Keyspace {
    pub(crate) fn new(handle: Arc<Handle>, info: Arc<KeyspaceInfo>) -> Keyspace {
        Keyspace { handle, info }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    pub(crate) fn id(&self) -> KeyspaceId {
        self.info.id
    }

    pub(crate) fn info(&self) -> &KeyspaceInfo {
        &self.info
    }

    /// Finds it in a state.
    #[inline]
    fn find<'s>(&self, state: &'s State) -> Result<&'s KeyspaceTree> {
        state.find(self.info.id).ok_or_else(|| self.info.dropped())
    }

    /// Fails if the keyspace is of another database than `core`.
    pub(crate) fn check_belongs(&self, core: &Arc<Core>) -> Result<()> {
        if Arc::ptr_eq(core, self.core()) {
            return Ok(());
        }
        Err(Error::invalid(format!("keyspace {:?} is of another database", self.name())))
    }

    /// Returns the name that it has now; the last one, if it was dropped.
    pub fn name(&self) -> String {
        let state = self.core().view.state();
        match state.find(self.info.id) {
            Some(keyspace) => keyspace.info.name.clone(),
            None => self.info.last_name().to_owned(),
        }
    }

    /// Returns the options it was created with.
    pub fn options(&self) -> &KeyspaceOptions {
        &self.info.options
    }

    /// Returns the database that it is of.
    pub fn db(&self) -> Db {
        Db::of(&self.handle)
    }

    /// Sets `key` to `value`, with the durability of the database's options. Returns the commit's number. A key has at
    /// most 65,535 bytes and may be empty, a value at most 64 MiB (67,108,864).
    ///
    /// # Errors
    /// `InvalidArgument`, `Busy`, `NoSpace`: nothing was written. `Io`, `NoSpace` of the log, then `ReadOnly` for
    /// every later write: after a reopen the write is there or not at all.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<SeqNum> {
        self.put_with(key, value, WriteOptions::default())
    }

    /// Sets `key` to `value` as `options` say.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: impl Into<WriteOptions>,
    ) -> Result<SeqNum> {
        let (key, value) = (key.as_ref(), value.as_ref());
        check_sizes(self, key, Some(value.len()))?;
        let mut batch = Batch::with_capacity(key.len() + value.len() + 24);
        batch.put(self.info.id, key, value);
        self.commit(batch, true, options.into())
    }

    /// Deletes `key`; it is no error if it is not there.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<SeqNum> {
        self.delete_with(key, WriteOptions::default())
    }

    /// Deletes `key` as `options` say.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete_with(&self, key: impl AsRef<[u8]>, options: impl Into<WriteOptions>) -> Result<SeqNum> {
        let key = key.as_ref();
        check_sizes(self, key, None)?;
        let mut batch = Batch::with_capacity(key.len() + 16);
        batch.delete(self.info.id, key);
        self.commit(batch, false, options.into())
    }

    fn commit(&self, batch: Batch, has_puts: bool, options: WriteOptions) -> Result<SeqNum> {
        let core = self.core();
        let reach = Reach { keyspaces: &[self.info.id], has_puts };
        let durability = options.durability.unwrap_or(core.options.durability);
        core.commit(batch, reach, durability).map_err(|error| match error.kind() {
            // The same, by name.
            ErrorKind::Closed => self.info.check_not_dropped().err().unwrap_or(error),
            _ => error,
        })
    }

    /// Removes every key, durably: when this returns, a crash leaves nothing of what was there, and whatever was committed
    /// before, in other keyspaces too, is durable as well. Returns the number of that commit.
    ///
    /// Costs the same however much is in it, a few syncs: nothing is read or merged. Snapshots and iterators from before go
    /// on seeing what was there, and keep its files while they live.
    ///
    /// ```
    /// # fn main() -> tinylsm::Result<()> {
    /// let db = tinylsm::Db::open_in_memory()?;
    /// db.put("k", "v")?;
    /// let before = db.snapshot();
    /// db.default_keyspace().clear()?;
    /// assert!(db.is_empty()? && before.contains_key("k")?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What flushing meets if too much waits for it, `NoSpace`, `ReadOnly`, `Closed`: nothing has changed. `Io` of log or
    /// manifest, which turn writing off: it is empty or as before, after the next opening.
    pub fn clear(&self) -> Result<SeqNum> {
        tell(|| format!("clear keyspace {}", self.name()));
        self.core().clear_keyspace(&self.info)
    }

    /// Returns the value of `key`. Takes no lock; a value found in memory is not copied.
    ///
    /// # Errors
    /// `Corruption`, `Io` of the table that would have had to answer; `Closed`, also in a forked process; `Internal` if
    /// the keyspace's comparator panics.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        let core = self.core();
        core.ends.check_open()?;
        let (state, seq) = core.view.pin();
        self.get_in(self.find(&state)?.tree_at(seq), key.as_ref(), core.horizon(seq))
    }

    /// Tells whether `key` has a value. Costs what [`Keyspace::get`] does.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Returns the first key in the keyspace's order, with its value.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn first_key_value(&self) -> Result<Option<(Slice, Slice)>> {
        self.iter()?.next().transpose()
    }

    /// Returns the last key in the keyspace's order, with its value.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn last_key_value(&self) -> Result<Option<(Slice, Slice)>> {
        self.iter()?.next_back().transpose()
    }

    /// Tells whether there is no key. Looks for the first one, over deletes that no merge has removed yet.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.first_key_value()?.is_none())
    }

    /// Counts the keys, as of now, by reading every one of them: nothing keeps a count.
    ///
    /// ```
    /// # fn main() -> tinylsm::Result<()> {
    /// let db = tinylsm::Db::open_in_memory()?;
    /// db.put("", "the empty key is a key")?;
    /// db.put("a", "")?;
    /// assert_eq!((db.len()?, db.is_empty()?), (2, false));
    /// assert_eq!(db.first_key_value()?.expect("there are two").0, "");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::get`], for the first key that meets one.
    pub fn len(&self) -> Result<u64> {
        count(self.iter()?)
    }

    /// Returns about how many bytes the entries of a range take, old versions and deletes included: in tables as they are
    /// packed, to a block exactly, and in memory as keys and values. Reads nothing from the disk; walks over the entries of
    /// the range that are not yet in tables.
    ///
    /// # Errors
    /// `Closed`; `Corruption` of a table that a degraded opening found damaged; `Internal` if the comparator panics.
    pub fn approximate_len_bytes(&self, range: impl KeyRange) -> Result<u64> {
        self.approximate_len_at(range, SeqNum::MAX)
    }

    pub(crate) fn approximate_len_at(&self, range: impl KeyRange, seq: SeqNum) -> Result<u64> {
        let core = self.core();
        core.ends.check_open()?;
        let (state, _) = core.view.pin();
        let tree = self.find(&state)?.tree_at(seq);
        let (lower, upper) = range.key_bounds();
        contained(&tree.order, "measuring a range", || size::len_bytes_between(tree, lower, upper))
    }

    /// Returns the values of several keys, all as of one moment.
    ///
    /// # Errors
    /// As [`Keyspace::get`], for the first key that meets one.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Slice>>> {
        let core = self.core();
        core.ends.check_open()?;
        let (state, seq) = core.view.pin();
        self.multi_get_in(&state, keys, core.horizon(seq))
    }

    pub(crate) fn get_at(&self, key: &[u8], horizon: Horizon) -> Result<Option<Slice>> {
        self.core().ends.check_open()?;
        let state = self.core().view.state();
        self.get_in(self.find(&state)?.tree_at(horizon.seq), key, horizon)
    }

    #[inline]
    fn get_in(&self, tree: &Tree, key: &[u8], horizon: Horizon) -> Result<Option<Slice>> {
        let answer = get::get(tree, key, horizon);
        trace::tell_get(&self.info.name, key, &answer);
        answer
    }

    pub(crate) fn multi_get_at<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        horizon: Horizon,
    ) -> Result<Vec<Option<Slice>>> {
        self.core().ends.check_open()?;
        self.multi_get_in(&self.core().view.state(), keys, horizon)
    }

    fn multi_get_in<K: AsRef<[u8]>>(
        &self,
        state: &State,
        keys: &[K],
        horizon: Horizon,
    ) -> Result<Vec<Option<Slice>>> {
        let tree = self.find(state)?.tree_at(horizon.seq);
        keys.iter().map(|key| self.get_in(tree, key.as_ref(), horizon)).collect()
    }

    /// Writes everything that was committed before this call to tables, and waits for that: of this keyspace and, since
    /// they share the log, of all others, as [`Db::flush`] does.
    ///
    /// # Errors
    /// As [`Db::flush`].
    pub fn flush(&self) -> Result<()> {
        self.core().flush().map(drop)
    }

    /// Iterates over all keys, as of now.
    ///
    /// # Errors
    /// `Closed`.
    pub fn iter(&self) -> Result<Iter> {
        self.range(..)
    }

    /// Iterates over the keys of a range, as of now. A range whose end lies before its start is empty.
    ///
    /// # Errors
    /// `Closed`; `Internal` if the keyspace's comparator panics. What reading meets later, the iterator gives as an item.
    pub fn range(&self, range: impl KeyRange) -> Result<Iter> {
        let core = self.core();
        core.ends.check_open()?;
        let (state, seq) = core.view.pin();
        self.scan(&state, range, core.horizon(seq))
    }

    /// Iterates over the keys that begin with `prefix`, as of now.
    ///
    /// # Errors
    /// `InvalidArgument` unless the keyspace is in bytewise order; `Closed`.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Iter> {
        self.range(self.prefix_range(prefix.as_ref())?)
    }

    pub(crate) fn range_at(&self, range: impl KeyRange, horizon: Horizon) -> Result<Iter> {
        let core = self.core();
        core.ends.check_open()?;
        self.scan(&core.view.state(), range, horizon)
    }

    fn scan(&self, state: &State, range: impl KeyRange, horizon: Horizon) -> Result<Iter> {
        let keyspace = self.find(state)?;
        self.core().count_seek(keyspace);
        let (lower, upper) = owned_bounds(&range);
        trace::tell_range(&self.info.name, &lower, &upper);
        let tree = keyspace.tree_at(horizon.seq).clone();
        let scan = contained(&keyspace.tree.order, "making an iterator", || {
            Ok(Scan::new(tree, horizon, lower, upper).telling(Arc::clone(&keyspace.waste)))
        })?;
        Ok(Iter::new(scan, Arc::clone(&keyspace.info), Arc::clone(&self.handle)))
    }

    pub(crate) fn prefix_range(&self, prefix: &[u8]) -> Result<impl KeyRange + use<>> {
        if self.info.options.comparator == BYTEWISE_NAME {
            return Ok(prefix_bounds(prefix));
        }
        let message = format!(
            "keyspace {:?} is in the order {:?}, where keys with a common prefix need not lie side by side",
            self.name(),
            self.info.options.comparator
        );
        Err(Error::invalid(message))
    }
}

/// Counts what an iterator gives.
///
/// # Errors
/// What it meets.
pub(crate) fn count(mut iter: Iter) -> Result<u64> {
    iter.try_fold(0, |count, item| item.map(|_| count + 1))
}

impl std::fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyspace({:?})", self.name())
    }
}

/// Checks an operation, a put if it has a value, against the limits.
///
/// # Errors
/// `InvalidArgument` that names it.
pub(in crate::db) fn check_sizes(keyspace: &Keyspace, key: &[u8], value_len: Option<usize>) -> Result<()> {
    if key.len() > limits::KEY_LEN_BYTES_MAX {
        let rule =
            format!("the key has {} bytes; at most {} are allowed", key.len(), limits::KEY_LEN_BYTES_MAX);
        return Err(refused(keyspace, key, value_len, &rule));
    }
    if let Some(len) = value_len.filter(|len| *len > limits::VALUE_LEN_BYTES_MAX) {
        let rule = format!("the value has {len} bytes; at most {} are allowed", limits::VALUE_LEN_BYTES_MAX);
        return Err(refused(keyspace, key, value_len, &rule));
    }
    Ok(())
}

/// Bytes of a key that an error's text shows.
const SHOWN_KEY_LEN_BYTES_MAX: usize = 32;

#[cold]
pub(in crate::db) fn refused(keyspace: &Keyspace, key: &[u8], value_len: Option<usize>, rule: &str) -> Error {
    let operation = if value_len.is_some() { "put" } else { "delete" };
    let (shown, dots) = match key.split_at_checked(SHOWN_KEY_LEN_BYTES_MAX) {
        Some((head, rest)) if !rest.is_empty() => (head, "…"),
        _ => (key, ""),
    };
    let key = shown.escape_ascii();
    Error::invalid(format!("{operation} of key \"{key}{dots}\" in keyspace {:?}: {rule}", keyspace.name()))
}
