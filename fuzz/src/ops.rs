//! Operations, and a database beside the sorted map that it has to agree with.

use crate::builder;
use arbitrary::{Arbitrary, Unstructured};
use std::collections::BTreeMap;
use std::sync::Arc;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{Db, Iter, Result, Slice, Snapshot, WriteBatch, WriteOptions};

/// What a caller may do. Keys are one byte long, so that operations meet.
#[derive(Arbitrary, Debug)]
pub enum Op {
    Put(u8, Value),
    Delete(u8),
    Batch(Vec<(u8, Option<Value>)>),
    Get(u8),
    Range(u8, u8),
    Snapshot,
    Compare,
    Flush,
    Compact(u8, u8),
    Step,
    Reopen,
}

/// As many operations as the input has bytes for.
///
/// A derived `Vec` asks the input after each item whether it ends: half of all inputs would end after the first.
#[derive(Debug)]
pub struct Ops(pub Vec<Op>);

impl<'a> Arbitrary<'a> for Ops {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Ops> {
        let mut ops = Vec::new();
        while !input.is_empty() {
            ops.push(input.arbitrary()?);
        }
        Ok(Ops(ops))
    }
}

/// One byte, repeated: an input of a few bytes fills a memtable.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Value {
    fill: u8,
    len: u8,
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        vec![self.fill; usize::from(self.len) * 2]
    }
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A database and what it should hold.
pub struct Pair {
    disk: Arc<MemVfs>,
    // `None` only between closing and opening again.
    db: Option<Db>,
    model: Model,
    snapshot: Option<(Snapshot, Model)>,
}

impl Pair {
    /// Begins with an empty database.
    pub fn open() -> Result<Pair> {
        let disk = Arc::new(MemVfs::new());
        let db = Some(builder(&disk).open()?);
        Ok(Pair { disk, db, model: Model::new(), snapshot: None })
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("open between operations")
    }

    /// Plays one operation on both.
    ///
    /// # Panics
    /// If they disagree.
    pub fn play(&mut self, op: Op) -> Result<()> {
        match op {
            Op::Put(key, value) => {
                self.db().put([key], value.bytes())?;
                self.model.insert(vec![key], value.bytes());
            }
            Op::Delete(key) => {
                self.db().delete([key])?;
                self.model.remove(&[key][..]);
            }
            Op::Batch(changes) => self.write(&changes)?,
            Op::Get(key) => {
                let found = self.db().get([key])?.map(|value| value.to_vec());
                assert_eq!(found.as_ref(), self.model.get(&[key][..]), "key {key}");
            }
            Op::Range(a, b) => {
                let (low, high) = (vec![a.min(b)], vec![a.max(b)]);
                let expected = self.model.range(low.clone()..high.clone());
                let expected: Model = expected.map(|(key, value)| (key.clone(), value.clone())).collect();
                assert_eq!(collect(self.db().range(low.clone()..high.clone())?)?, expected);
                assert_eq!(collect_backwards(self.db().range(low..high)?)?, expected);
            }
            Op::Snapshot => self.snapshot = Some((self.db().snapshot(), self.model.clone())),
            Op::Compare => self.compare()?,
            Op::Flush => self.db().flush()?,
            Op::Compact(a, b) => {
                self.db().compact_range(self.db().default_keyspace(), vec![a.min(b)]..=vec![a.max(b)])?;
            }
            Op::Step => {
                self.db().background_step()?;
            }
            Op::Reopen => {
                self.snapshot = None;
                self.db.take().expect("open between operations").close()?;
                self.db = Some(builder(&self.disk).open()?);
                self.compare()?;
            }
        }
        Ok(())
    }

    fn write(&mut self, changes: &[(u8, Option<Value>)]) -> Result<()> {
        let mut batch = WriteBatch::new();
        let keyspace = self.db().default_keyspace();
        for &(key, value) in changes {
            match value {
                Some(value) => batch.put(keyspace, [key], value.bytes()),
                None => batch.delete(keyspace, [key]),
            };
        }
        self.db().write(batch, WriteOptions::default())?;
        for &(key, value) in changes {
            match value {
                Some(value) => self.model.insert(vec![key], value.bytes()),
                None => self.model.remove(&[key][..]),
            };
        }
        Ok(())
    }

    /// Compares everything, forwards and backwards, and what the snapshot sees.
    ///
    /// # Panics
    /// If they disagree.
    pub fn compare(&self) -> Result<()> {
        assert_eq!(collect(self.db().iter()?)?, self.model);
        assert_eq!(collect_backwards(self.db().iter()?)?, self.model);
        if let Some((snapshot, model)) = &self.snapshot {
            assert_eq!(&collect(snapshot.iter()?)?, model);
        }
        Ok(())
    }
}

fn collect(items: Iter) -> Result<Model> {
    items.map(|item| item.map(owned)).collect()
}

fn collect_backwards(items: Iter) -> Result<Model> {
    items.rev().map(|item| item.map(owned)).collect()
}

fn owned((key, value): (Slice, Slice)) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), value.to_vec())
}
