//! The write batch as callers see it.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::limits;
use crate::db::core::Core;
use crate::db::keyspace::{Keyspace, check_sizes, refused};
use crate::db::writing::Reach;
use crate::format::batch::Batch;
use std::sync::{Arc, Weak};

/// Operations that are applied together or not at all, over any keyspaces of one database.
///
/// Later operations on a key win over earlier ones. [`Db::write`](crate::db::Db::write) takes it by value, or copies it from a
/// reference: then it can be written again after `Busy` or `NoSpace`.
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
/// batch.put(accounts, "alice", "90").put(accounts, "bob", "110");
/// db.write(batch, WriteOptions::default())?;
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

    /// Adds a put. A key or value over the limits (65,535 bytes, 64 MiB), or one too many for the batch, makes
    /// [`crate::db::Db::write`] fail with an `InvalidArgument` that names the operation.
    pub fn put(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> &mut WriteBatch {
        let (key, value) = (key.as_ref(), value.as_ref());
        if self.accepts(keyspace, key, Some(value.len())) {
            self.has_puts = true;
            self.batch.put(keyspace.id(), key, value);
        }
        self
    }

    /// Adds a delete; deleting what is not there is no error.
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> &mut WriteBatch {
        let key = key.as_ref();
        if self.accepts(keyspace, key, None) {
            self.batch.delete(keyspace.id(), key);
        }
        self
    }

    /// Checks an operation, a put if it has a value; the first that cannot be written is told when the batch is.
    fn accepts(&mut self, keyspace: &Keyspace, key: &[u8], value_len: Option<usize>) -> bool {
        if self.failure.is_some() {
            return false;
        }
        if let Err(error) = self.check(keyspace, key, value_len) {
            let context = format!("operation {} of the batch", self.batch.count());
            self.failure = Some(error.within(ErrorKind::InvalidArgument, &context));
            return false;
        }
        if let Err(at) = self.keyspaces.binary_search(&keyspace.id()) {
            self.keyspaces.insert(at, keyspace.id());
        }
        true
    }

    fn check(&mut self, keyspace: &Keyspace, key: &[u8], value_len: Option<usize>) -> Result<()> {
        let core = Arc::downgrade(keyspace.core());
        if !self.owner.get_or_insert_with(|| core.clone()).ptr_eq(&core) {
            return Err(refused(keyspace, key, value_len, "a batch takes keyspaces of one database only"));
        }
        check_sizes(keyspace, key, value_len)?;
        let len_bytes = self.batch.len_bytes() + key.len() + value_len.unwrap_or(0) + 32;
        if len_bytes > limits::BATCH_LEN_BYTES_MAX {
            let rule = format!("a batch takes at most {} bytes", limits::BATCH_LEN_BYTES_MAX);
            return Err(refused(keyspace, key, value_len, &rule));
        }
        Ok(())
    }

    /// Returns how many operations there are; those that cannot be written, and all behind them, are left out.
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

    /// Checks that it can be committed in `core`, and takes out what to commit.
    pub(crate) fn take_for(&mut self, core: &Arc<Core>) -> Result<(Batch, Reach<'_>)> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        if self.owner.as_ref().is_some_and(|owner| !owner.ptr_eq(&Arc::downgrade(core))) {
            return Err(Error::invalid("the batch names keyspaces of another database"));
        }
        let batch = std::mem::take(&mut self.batch);
        Ok((batch, Reach { keyspaces: &self.keyspaces, has_puts: self.has_puts }))
    }
}

/// Copies the batch.
impl From<&WriteBatch> for WriteBatch {
    fn from(batch: &WriteBatch) -> WriteBatch {
        batch.clone()
    }
}

/// Copies the batch.
impl From<&mut WriteBatch> for WriteBatch {
    fn from(batch: &mut WriteBatch) -> WriteBatch {
        batch.clone()
    }
}
