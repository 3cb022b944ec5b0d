//! The write batch as callers see it.

use crate::base::error::{Error, Result};
use crate::base::ids::KeyspaceId;
use crate::base::limits;
use crate::db::keyspace::Keyspace;
use crate::db::state::Core;
use crate::db::writing::Reach;
use crate::format::batch::Batch;
use std::sync::{Arc, Weak};

/// Operations that are applied together or not at all, over any keyspaces of one database.
///
/// Later operations on a key win over earlier ones. A batch is not used up by writing it, so it can be written
/// again after `Busy` or `NoSpace`.
///
/// It takes 128 MiB (134,217,728 bytes) as counted by [`WriteBatch::byte_len`]: keys, values and a few bytes for each operation.
/// One that went over this, or over the limits of [`Keyspace::put`] for a key or value, is refused as a whole when it is written.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// use tinylsm::{Db, WriteBatch, WriteOptions};
/// let db = Db::open_in_memory()?;
/// let accounts = db.default_keyspace();
/// let mut batch = WriteBatch::new();
/// batch.put(accounts, "alice", "90");
/// batch.put(accounts, "bob", "110");
/// db.write(&batch, &WriteOptions::default())?;
/// assert_eq!(db.get("bob")?.as_deref(), Some(&b"110"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a batch does nothing until it is written"]
pub struct WriteBatch {
    batch: Batch,
    /// The database whose keyspaces were named.
    owner: Option<Weak<Core>>,
    /// The first operation that cannot be written, told when the batch is.
    failure: Option<Error>,
    /// The keyspaces that were named, sorted.
    keyspaces: Vec<KeyspaceId>,
    has_puts: bool,
}

impl WriteBatch {
    /// Makes an empty batch.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// Adds a put. A key or value over the limits (1 to 65,535 bytes, 64 MiB), or one too many for the batch, makes [`crate::db::Db::write`] fail with `InvalidArgument`.
    pub fn put(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (key, value) = (key.as_ref(), value.as_ref());
        if self.accepts(keyspace, key, value.len()) {
            self.has_puts = true;
            self.batch.put(keyspace.id(), key, value);
        }
    }

    /// Adds a delete; deleting what is not there is no error.
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) {
        let key = key.as_ref();
        if self.accepts(keyspace, key, 0) {
            self.batch.delete(keyspace.id(), key);
        }
    }

    fn accepts(&mut self, keyspace: &Keyspace, key: &[u8], value_len: usize) -> bool {
        let checked = self.check(keyspace, key, value_len);
        if let Err(error) = checked {
            self.failure.get_or_insert(error);
            return false;
        }
        if let Err(at) = self.keyspaces.binary_search(&keyspace.id()) {
            self.keyspaces.insert(at, keyspace.id());
        }
        true
    }

    fn check(&mut self, keyspace: &Keyspace, key: &[u8], value_len: usize) -> Result<()> {
        let core = Arc::downgrade(keyspace.core());
        if !self.owner.get_or_insert_with(|| core.clone()).ptr_eq(&core) {
            return Err(Error::invalid("a batch takes keyspaces of one database only"));
        }
        check_sizes(key, value_len)?;
        if self.batch.len_bytes() + key.len() + value_len + 32 > limits::BATCH_LEN_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a batch takes at most {} bytes",
                limits::BATCH_LEN_BYTES_MAX
            )));
        }
        Ok(())
    }

    /// Returns how many operations there are.
    pub fn len(&self) -> usize {
        self.batch.count() as usize
    }

    /// Tells whether there is no operation.
    pub fn is_empty(&self) -> bool {
        self.batch.count() == 0
    }

    /// Returns how many bytes the operations take in the log.
    pub fn byte_len(&self) -> usize {
        self.batch.len_bytes()
    }

    /// Removes every operation, keeping the memory.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.owner = None;
        self.failure = None;
        self.keyspaces.clear();
        self.has_puts = false;
    }

    /// Returns a copy to commit in `core`, and what it does.
    pub(crate) fn for_commit(&self, core: &Arc<Core>) -> Result<(Batch, Reach<'_>)> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        if self.owner.as_ref().is_some_and(|owner| !owner.ptr_eq(&Arc::downgrade(core))) {
            return Err(Error::invalid("the batch names keyspaces of another database"));
        }
        Ok((self.batch.clone(), Reach { keyspaces: &self.keyspaces, has_puts: self.has_puts }))
    }
}

/// Checks a key and a value's length against the limits.
pub(crate) fn check_sizes(key: &[u8], value_len: usize) -> Result<()> {
    if key.is_empty() {
        return Err(Error::invalid("a key has at least one byte"));
    }
    if key.len() > limits::KEY_LEN_BYTES_MAX {
        let message =
            format!("the key has {} bytes; at most {} are allowed", key.len(), limits::KEY_LEN_BYTES_MAX);
        return Err(Error::invalid(message));
    }
    if value_len > limits::VALUE_LEN_BYTES_MAX {
        let message =
            format!("the value has {value_len} bytes; at most {} are allowed", limits::VALUE_LEN_BYTES_MAX);
        return Err(Error::invalid(message));
    }
    Ok(())
}
