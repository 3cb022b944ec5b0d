//! SQL on TinyLSM: a storage of [GlueSQL](https://gluesql.org), with transactions.
//!
//! Shows how the storage traits of an SQL engine become keys, prefixes, snapshots and batches: a transaction reads a snapshot
//! with its own writes laid over it, and commits them in one batch. `cargo test` in this directory runs GlueSQL's own
//! conformance suite.
//!
//! ```
//! # fn main() -> gluesql_core::error::Result<()> {
//! use gluesql_core::prelude::Glue;
//! use tinylsm_gluesql::TinyLsmStorage;
//!
//! let db = tinylsm::Db::open_in_memory().expect("there are threads");
//! let mut glue = Glue::new(TinyLsmStorage::new(db));
//! glue.execute("CREATE TABLE fruit (name TEXT PRIMARY KEY, color TEXT)")?;
//! glue.execute("BEGIN; INSERT INTO fruit VALUES ('apple', 'red'), ('banana', 'yellow'); COMMIT")?;
//! glue.execute("BEGIN; DELETE FROM fruit; ROLLBACK")?;
//! let fruit = glue.execute("SELECT COUNT(*) FROM fruit")?;
//! # assert!(format!("{fruit:?}").contains("I64(2)"));
//! # Ok(())
//! # }
//! ```
//!
//! Keys begin with what they are of: `s`, table: its schema; `r`, length of the table's name, table, primary key: a row;
//! `n`: the number of the newest row without a primary key. Indexes and custom functions are left to GlueSQL's defaults, which
//! refuse them.

use gluesql_core::chrono::DateTime;
use gluesql_core::data::{Key, Schema, Value};
use gluesql_core::error::{Error, Result};
use gluesql_core::store::{
    AlterTable, CustomFunction, CustomFunctionMut, Index, IndexMut, MetaIter, Metadata, Planner, RowIter,
    Store, StoreMut, Transaction,
};
use itertools::{EitherOrBoth, Itertools};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use tinylsm::sync::time;
use tinylsm::{Db, Slice, Snapshot, WriteBatch, WriteOptions};

const NEWEST_ROW: &[u8] = b"n";

/// A database of TinyLSM as GlueSQL's storage.
///
/// It is the only writer that it expects: transactions of two storages on one database would not notice each other.
pub struct TinyLsmStorage {
    db: Db,
    transaction: Option<Pending>,
}

/// A transaction that is under way.
struct Pending {
    /// The database as it was when the transaction began.
    before: Snapshot,
    /// What it has written since, by key; nothing where it has deleted.
    writes: BTreeMap<Vec<u8>, Option<Slice>>,
}

impl TinyLsmStorage {
    /// Takes a database whose default keyspace is empty or was written by this storage. Commits are as durable as the
    /// database's options say.
    pub fn new(db: Db) -> TinyLsmStorage {
        TinyLsmStorage { db, transaction: None }
    }

    /// Rolls back what is under way, and closes the database.
    ///
    /// # Errors
    /// As [`Db::close`].
    pub fn close(self) -> tinylsm::Result<()> {
        drop(self.transaction);
        self.db.close()
    }

    /// Does something in the transaction that is under way, or in one of its own.
    fn atomically(&mut self, work: impl FnOnce(&mut TinyLsmStorage) -> Result<()>) -> Result<()> {
        let is_own = self.begin(true)?;
        let done = work(self);
        match (is_own, &done) {
            (false, _) => done,
            (true, Ok(())) => self.commit(),
            (true, Err(_)) => self.rollback().and(done),
        }
    }

    fn put(&mut self, key: Vec<u8>, value: &impl Serialize) -> Result<()> {
        let value = postcard::to_stdvec(value).map_err(storage_error)?;
        self.pending()?.writes.insert(key, Some(Slice::from(value)));
        Ok(())
    }

    fn delete(&mut self, key: Vec<u8>) -> Result<()> {
        self.pending()?.writes.insert(key, None);
        Ok(())
    }

    fn pending(&mut self) -> Result<&mut Pending> {
        self.transaction.as_mut().ok_or_else(|| storage_error("no transaction is under way"))
    }

    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        let value = match &self.transaction {
            Some(pending) => match pending.writes.get(key) {
                Some(written) => written.clone(),
                None => pending.before.get(key).map_err(storage_error)?,
            },
            None => self.db.get(key).map_err(storage_error)?,
        };
        value.map(|value| decode(&value)).transpose()
    }

    /// Gives the values of all keys with a prefix, by key: those of the snapshot, overlaid with what was written since.
    fn scan<T: DeserializeOwned>(
        &self,
        prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<T>> + use<'_, T>> {
        let stored = match &self.transaction {
            Some(pending) => pending.before.prefix(prefix),
            None => self.db.prefix(prefix),
        };
        let prefix = prefix.to_vec();
        let written = self.transaction.iter().flat_map(move |pending| {
            let prefix = prefix.clone();
            pending.writes.range(prefix.clone()..).take_while(move |(key, _)| key.starts_with(&prefix))
        });
        let merged =
            stored.map_err(storage_error)?.merge_join_by(written, |stored, (written, _)| match stored {
                Ok((stored, _)) => (**stored).cmp(written),
                Err(_) => Ordering::Less,
            });
        let values = merged.filter_map(|entry| match entry {
            EitherOrBoth::Left(stored) => Some(stored.map(|(_, value)| value)),
            EitherOrBoth::Right((_, written)) | EitherOrBoth::Both(_, (_, written)) => {
                written.clone().map(Ok)
            }
        });
        Ok(values.map(|value| decode(&value.map_err(storage_error)?)))
    }

    /// Gives all tables by name, with the millisecond in which each was created.
    fn tables(&self) -> Result<impl Iterator<Item = Result<(Schema, i64)>> + use<'_>> {
        self.scan(&schema_key(""))
    }
}

fn schema_key(table: &str) -> Vec<u8> {
    [b"s", table.as_bytes()].concat()
}

/// Returns what the keys of a table's rows begin with. The length keeps them apart from those of a table whose name only
/// begins alike.
fn rows_prefix(table: &str) -> Vec<u8> {
    let len = u32::try_from(table.len()).expect("a name in a statement is far below 4 GiB");
    [b"r", &len.to_be_bytes()[..], table.as_bytes()].concat()
}

fn row_key(table: &str, key: &Key) -> Result<Vec<u8>> {
    Ok([rows_prefix(table), key.to_cmp_be_bytes()?].concat())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(storage_error)
}

fn storage_error(error: impl ToString) -> Error {
    Error::StorageMsg(error.to_string())
}

impl Store for TinyLsmStorage {
    fn fetch_schema(&self, table_name: &str) -> Result<Option<Schema>> {
        let table: Option<(Schema, i64)> = self.get(&schema_key(table_name))?;
        Ok(table.map(|(schema, _)| schema))
    }

    fn fetch_all_schemas(&self) -> Result<Vec<Schema>> {
        self.tables()?.map_ok(|(schema, _)| schema).collect()
    }

    fn fetch_data(&self, table_name: &str, key: &Key) -> Result<Option<Vec<Value>>> {
        let row: Option<(Key, Vec<Value>)> = self.get(&row_key(table_name, key)?)?;
        Ok(row.map(|(_, values)| values))
    }

    fn scan_data<'a>(&'a self, table_name: &str) -> Result<RowIter<'a>> {
        Ok(Box::new(self.scan(&rows_prefix(table_name))?))
    }
}

impl StoreMut for TinyLsmStorage {
    fn insert_schema(&mut self, schema: &Schema) -> Result<()> {
        self.atomically(|storage| {
            let key = schema_key(&schema.table_name);
            let earlier: Option<(Schema, i64)> = storage.get(&key)?;
            let created = earlier.map_or_else(|| time::wall().0, |(_, created)| created);
            storage.put(key, &(schema, created))
        })
    }

    fn delete_schema(&mut self, table_name: &str) -> Result<()> {
        self.atomically(|storage| {
            let rows: Vec<(Key, Vec<Value>)> = storage.scan_data(table_name)?.collect::<Result<_>>()?;
            storage.delete_data(table_name, rows.into_iter().map(|(key, _)| key).collect())?;
            storage.delete(schema_key(table_name))
        })
    }

    fn append_data(&mut self, table_name: &str, rows: Vec<Vec<Value>>) -> Result<()> {
        self.atomically(|storage| {
            let mut newest: i64 = storage.get(NEWEST_ROW)?.unwrap_or(0);
            for row in rows {
                newest += 1;
                let key = Key::I64(newest);
                storage.put(row_key(table_name, &key)?, &(key, row))?;
            }
            storage.put(NEWEST_ROW.to_vec(), &newest)
        })
    }

    fn insert_data(&mut self, table_name: &str, rows: Vec<(Key, Vec<Value>)>) -> Result<()> {
        self.atomically(|storage| {
            rows.into_iter().try_for_each(|(key, row)| storage.put(row_key(table_name, &key)?, &(key, row)))
        })
    }

    fn delete_data(&mut self, table_name: &str, keys: Vec<Key>) -> Result<()> {
        self.atomically(|storage| keys.iter().try_for_each(|key| storage.delete(row_key(table_name, key)?)))
    }
}

impl Transaction for TinyLsmStorage {
    fn begin(&mut self, autocommit: bool) -> Result<bool> {
        match (&self.transaction, autocommit) {
            (Some(_), true) => Ok(false),
            (Some(_), false) => Err(storage_error("a transaction is under way")),
            (None, _) => {
                self.transaction = Some(Pending { before: self.db.snapshot(), writes: BTreeMap::new() });
                Ok(autocommit)
            }
        }
    }

    fn rollback(&mut self) -> Result<()> {
        self.transaction = None;
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let Some(pending) = self.transaction.take() else { return Ok(()) };
        let keyspace = self.db.default_keyspace();
        let mut batch = WriteBatch::new();
        for (key, value) in pending.writes {
            match value {
                Some(value) => batch.put(keyspace, key, value),
                None => batch.delete(keyspace, key),
            };
        }
        self.db.write(batch, WriteOptions::default()).map(drop).map_err(storage_error)
    }
}

impl Metadata for TinyLsmStorage {
    fn scan_table_meta(&self) -> Result<MetaIter> {
        let tables = self.tables()?.map(|table| {
            let (schema, created) = table?;
            let created = DateTime::from_timestamp_millis(created).ok_or_else(|| storage_error("no date"))?;
            let created = Value::Timestamp(created.naive_utc());
            Ok((schema.table_name, BTreeMap::from([("CREATED".to_owned(), created)])))
        });
        Ok(Box::new(tables.collect::<Vec<_>>().into_iter()))
    }
}

impl AlterTable for TinyLsmStorage {}
impl Index for TinyLsmStorage {}
impl IndexMut for TinyLsmStorage {}
impl CustomFunction for TinyLsmStorage {}
impl CustomFunctionMut for TinyLsmStorage {}
impl Planner for TinyLsmStorage {}
