//! Keyspaces: handles to read and write one tree of a database.

use crate::base::error::{Error, Result};
use crate::base::ids::KeyspaceId;
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::db::Handle;
use crate::db::batch::check_sizes;
use crate::db::iter::Iter;
use crate::db::options::{KeyspaceOptions, WriteOptions};
use crate::db::range::{KeyRange, prefix_bounds};
use crate::db::state::{Core, KeyspaceInfo, State};
use crate::db::told;
use crate::db::writing::Reach;
use crate::format::batch::Batch;
use crate::mvcc::visible::Horizon;
use crate::read::scan::Scan;
use crate::read::{contained, get};
use std::sync::Arc;

/// A keyspace of an open database: a tree of its own, with its own order of keys and options, that shares log,
/// sequence and snapshots with the others. Cheap to clone; keeps the database open.
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

    /// Fails if the keyspace is of another database than `core`.
    pub(crate) fn check_belongs(&self, core: &Arc<Core>) -> Result<()> {
        if Arc::ptr_eq(core, self.core()) {
            return Ok(());
        }
        Err(Error::invalid(format!("keyspace {:?} is of another database", self.info.name)))
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Returns the options it was created with.
    pub fn options(&self) -> &KeyspaceOptions {
        &self.info.options
    }

    /// Sets `key` to `value`, with the durability of the database's options. Returns the commit's number. A key has 1 to
    /// 65,535 bytes, a value at most 64 MiB (67,108,864).
    ///
    /// # Errors
    /// `InvalidArgument`, `Busy`, `NoSpace`: nothing was written. `Io`, `NoSpace` of the log, then `ReadOnly` for
    /// every later write: after a reopen the write is there or not at all.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<SeqNum> {
        self.put_with(key, value, &WriteOptions::default())
    }

    /// Sets `key` to `value` as `options` say.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<SeqNum> {
        let (key, value) = (key.as_ref(), value.as_ref());
        check_sizes(key, value.len())?;
        let mut batch = Batch::with_capacity(key.len() + value.len() + 24);
        batch.put(self.info.id, key, value);
        self.commit(batch, true, options)
    }

    /// Deletes `key`; it is no error if it is not there.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<SeqNum> {
        self.delete_with(key, &WriteOptions::default())
    }

    /// Deletes `key` as `options` say.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete_with(&self, key: impl AsRef<[u8]>, options: &WriteOptions) -> Result<SeqNum> {
        let key = key.as_ref();
        check_sizes(key, 0)?;
        let mut batch = Batch::with_capacity(key.len() + 16);
        batch.delete(self.info.id, key);
        self.commit(batch, false, options)
    }

    fn commit(&self, batch: Batch, has_puts: bool, options: &WriteOptions) -> Result<SeqNum> {
        let core = self.core();
        let reach = Reach { keyspaces: &[self.info.id], has_puts };
        core.commit(batch, reach, options.durability.unwrap_or(core.options.durability))
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
        let answer = get::get(&state.keyspace(self.info.id).tree, key.as_ref(), core.horizon(seq));
        told::tell_get(&self.info.name, key.as_ref(), &answer);
        answer
    }

    /// Returns the values of several keys, all as of one moment.
    ///
    /// # Errors
    /// As [`Keyspace::get`], for the first key that meets one.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Slice>>> {
        let core = self.core();
        core.ends.check_open()?;
        let (state, seq) = core.view.pin();
        let (state, horizon) = (Arc::clone(&state), core.horizon(seq));
        self.multi_get_at(&state, keys, horizon)
    }

    pub(crate) fn get_at(&self, key: &[u8], horizon: Horizon) -> Result<Option<Slice>> {
        self.core().ends.check_open()?;
        let state = self.core().view.state();
        let answer = get::get(&state.keyspace(self.info.id).tree, key, horizon);
        told::tell_get(&self.info.name, key, &answer);
        answer
    }

    pub(crate) fn multi_get_at<K: AsRef<[u8]>>(
        &self,
        state: &State,
        keys: &[K],
        horizon: Horizon,
    ) -> Result<Vec<Option<Slice>>> {
        let tree = &state.keyspace(self.info.id).tree;
        let get = |key: &[u8]| {
            let answer = get::get(tree, key, horizon);
            told::tell_get(&self.info.name, key, &answer);
            answer
        };
        keys.iter().map(|key| get(key.as_ref())).collect()
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
        let keyspace = state.keyspace(self.info.id);
        self.core().count_seek(keyspace);
        let (lower, upper) = range.into_bounds();
        told::tell_range(&self.info.name, &lower, &upper);
        let tree = keyspace.tree.clone();
        let scan = contained(&keyspace.tree.order, "making an iterator", || {
            Ok(Scan::new(tree, horizon, lower, upper).telling(Arc::clone(&keyspace.waste)))
        })?;
        Ok(Iter::new(scan, Arc::clone(&self.handle)))
    }

    pub(crate) fn prefix_range(&self, prefix: &[u8]) -> Result<impl KeyRange + use<>> {
        if self.core().view.state().keyspace(self.info.id).tree.order.is_bytewise() {
            return Ok(prefix_bounds(prefix));
        }
        let message = format!(
            "keyspace {:?} is in the order {:?}, where keys with a common prefix need not lie side by side",
            self.info.name, self.info.options.comparator
        );
        Err(Error::invalid(message))
    }
}

impl std::fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyspace({:?})", self.info.name)
    }
}
