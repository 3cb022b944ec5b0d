//! Walking over a memtable, forwards and backwards.
//!
//! A cursor keeps the memtable alive and fetches entries in runs: 1 at first, then more and more, so that a short
//! scan pays for one search and a long one for few. Entries inserted behind its back are either seen or newer than
//! the view that reads through the cursor; it does not matter which.

use crate::base::error::Result;
use crate::base::key::{InternalKey, Tag};
use crate::base::slice::Slice;
use crate::cursor::Cursor;
use crate::memtable::entry::{ByteOrder, CustomOrder, Entry, EntryOrder, Probe, Wanted};
use crate::memtable::{List, Memtable};
use crossbeam_skiplist::SkipSet;
use std::ops::Bound;
use std::sync::Arc;

const RUN_COUNT_MAX: usize = 64;

impl Memtable {
    /// Returns a cursor that stands on no entry and keeps the memtable alive.
    pub fn cursor(self: &Arc<Memtable>) -> Box<dyn Cursor> {
        match &self.list {
            List::Bytewise(_) => Box::new(MemtableCursor::new(Arc::clone(self), ByteOrder, |memtable| {
                let List::Bytewise(set) = &memtable.list else {
                    unreachable!("a list never changes its order")
                };
                set
            })),
            List::Custom(_, order) => {
                Box::new(MemtableCursor::new(Arc::clone(self), CustomOrder(order.clone()), |memtable| {
                    let List::Custom(set, _) = &memtable.list else {
                        unreachable!("a list never changes its order")
                    };
                    set
                }))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Forward,
    Backward,
}

struct MemtableCursor<O: EntryOrder> {
    memtable: Arc<Memtable>,
    list_of: fn(&Memtable) -> &SkipSet<Entry<O>>,
    order: O,
    /// Entries in walking order; the cursor stands on `run[at]`.
    run: Vec<Entry<O>>,
    at: usize,
    direction: Direction,
    run_count: usize,
}

impl<O: EntryOrder + Clone> MemtableCursor<O> {
    fn new(
        memtable: Arc<Memtable>,
        order: O,
        list_of: fn(&Memtable) -> &SkipSet<Entry<O>>,
    ) -> MemtableCursor<O> {
        MemtableCursor {
            memtable,
            list_of,
            order,
            run: Vec::new(),
            at: 0,
            direction: Direction::Forward,
            run_count: 1,
        }
    }

    fn entry(&self) -> &Entry<O> {
        assert!(self.at < self.run.len(), "the cursor stands on an entry");
        &self.run[self.at]
    }

    /// Fetches a run from `bound` on, in `direction`.
    fn fetch(&mut self, bound: Bound<InternalKey<'_>>, direction: Direction) {
        let list = (self.list_of)(&self.memtable);
        let wanted = match bound {
            Bound::Included(key) | Bound::Excluded(key) => Some(Wanted::new(key, self.order.clone())),
            Bound::Unbounded => None,
        };
        let bound: Bound<&dyn Probe<O>> = match (&bound, &wanted) {
            (Bound::Included(_), Some(wanted)) => Bound::Included(wanted),
            (Bound::Excluded(_), Some(wanted)) => Bound::Excluded(wanted),
            _ => Bound::Unbounded,
        };
        self.run.clear();
        self.at = 0;
        self.direction = direction;
        let count = self.run_count;
        match direction {
            Direction::Forward => {
                let found = list.range::<dyn Probe<O>, _>((bound, Bound::Unbounded));
                self.run.extend(found.take(count).map(|entry| entry.value().clone()));
            }
            Direction::Backward => {
                let found = list.range::<dyn Probe<O>, _>((Bound::Unbounded, bound));
                self.run.extend(found.rev().take(count).map(|entry| entry.value().clone()));
            }
        }
    }

    fn start(&mut self, bound: Bound<InternalKey<'_>>, direction: Direction) {
        self.run_count = 1;
        self.fetch(bound, direction);
    }

    fn step(&mut self, direction: Direction) {
        assert!(self.at < self.run.len(), "the cursor stands on an entry");
        if self.direction == direction && self.at + 1 < self.run.len() {
            self.at += 1;
            return;
        }
        self.run_count = (self.run_count * 2).min(RUN_COUNT_MAX);
        let last = self.run[self.at].clone();
        self.fetch(Bound::Excluded(last.internal_key()), direction);
    }
}

impl<O: EntryOrder + Clone> Cursor for MemtableCursor<O>
where
    Entry<O>: Send + Sync,
{
    fn is_valid(&self) -> bool {
        self.at < self.run.len()
    }

    fn key(&self) -> InternalKey<'_> {
        self.entry().internal_key()
    }

    fn value(&self) -> &[u8] {
        self.entry().value()
    }

    fn value_slice(&self, skip: usize) -> Slice {
        self.entry().value_slice(skip)
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.start(Bound::Unbounded, Direction::Forward);
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.start(Bound::Unbounded, Direction::Backward);
        Ok(())
    }

    fn seek(&mut self, target: InternalKey<'_>) -> Result<()> {
        self.start(Bound::Included(target), Direction::Forward);
        Ok(())
    }

    fn seek_before(&mut self, target: InternalKey<'_>) -> Result<()> {
        // The bound excludes the target itself, so a tag of the newest kind stands before every version.
        debug_assert!(target.tag >= Tag::OLDEST);
        self.start(Bound::Excluded(target), Direction::Backward);
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.step(Direction::Forward);
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.step(Direction::Backward);
        Ok(())
    }
}
