//! A cursor over a run of tables that share no key: those of a sorted level, or one of level 0.
//!
//! A table is entered when the walk comes to it, not when the cursor is sought in front of it: until then the cursor
//! *waits* at the table's first key, or walking backwards at its last ([`Cursor::waits_at`]), which the version knows
//! without reading the table. So a short scan reads no block that it needs nothing of, and a table that cannot be read
//! stops a scan only where the table begins.

use crate::base::comparator::KeyOrder;
use crate::base::error::Result;
use crate::base::key::InternalKey;
use crate::base::slice::Slice;
use crate::cursor::Cursor;
use crate::read::tree::Tables;
use crate::table::cursor::{CacheUse, TableCursor};
use crate::table::reader::Table;
use crate::version::levels::Live;
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

/// A place in a run of tables; keeps the version alive.
pub struct RunCursor {
    tables: Arc<Tables>,
    level: usize,
    /// Which tables of the level are walked over.
    run: Range<usize>,
    order: KeyOrder,
    cache_use: CacheUse,
    /// The table of the level that `table` reads, or in front of which the cursor waits.
    at: usize,
    /// None while the cursor waits.
    table: Option<TableCursor>,
    waits: Option<Waits>,
}

/// On which side of a table a cursor waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    BeforeFirst,
    BehindLast,
}

impl RunCursor {
    /// Makes a cursor over the tables `run` of `level` that stands on no entry.
    ///
    /// # Panics
    /// If the level has no such tables, or they are several of level 0, which overlap.
    pub fn new(
        tables: Arc<Tables>,
        level: usize,
        run: Range<usize>,
        order: KeyOrder,
        cache_use: CacheUse,
    ) -> RunCursor {
        assert!(run.end <= tables.level(level).len(), "the tables are there");
        assert!(level > 0 || run.len() == 1, "the tables of level 0 overlap");
        RunCursor { tables, level, at: run.start, run, order, cache_use, table: None, waits: None }
    }

    fn tables(&self) -> &[Arc<Live<Arc<Table>>>] {
        &self.tables.level(self.level)[self.run.clone()]
    }

    fn live(&self, at: usize) -> &Arc<Live<Arc<Table>>> {
        &self.tables.level(self.level)[at]
    }

    /// Stands on no entry.
    fn leave(&mut self) {
        self.table = None;
        self.waits = None;
    }

    /// Waits in front of table `at`.
    fn wait(&mut self, at: usize, waits: Waits) {
        self.table = None;
        self.at = at;
        self.waits = Some(waits);
    }

    /// Moves within table `at`, which it opens if need be; waits in front of the next one if that has no more entries.
    fn enter(
        &mut self,
        at: usize,
        beyond: Waits,
        movement: impl FnOnce(&mut TableCursor) -> Result<()>,
    ) -> Result<()> {
        self.waits = None;
        if self.at != at {
            self.table = None;
        }
        self.at = at;
        let mut table = match self.table.take() {
            Some(table) => table,
            None => TableCursor::new(Arc::clone(&self.live(at).table), self.cache_use),
        };
        movement(&mut table)?;
        if table.is_valid() {
            self.table = Some(table);
        } else {
            self.pass(beyond);
        }
        Ok(())
    }

    /// Goes on behind, or before, the table it was in.
    fn pass(&mut self, beyond: Waits) {
        let next = match beyond {
            Waits::BeforeFirst => self.at + 1,
            Waits::BehindLast => self.at.wrapping_sub(1),
        };
        if self.run.contains(&next) {
            self.wait(next, beyond);
        } else {
            self.leave();
        }
    }

    /// Deals with a step that did not lead to an entry.
    #[cold]
    fn step_out(&mut self, step: Result<()>, beyond: Waits) -> Result<()> {
        match step {
            Ok(()) => self.pass(beyond),
            Err(_) => self.leave(),
        }
        step
    }

    #[inline]
    fn current(&self) -> &TableCursor {
        self.table.as_ref().expect("the cursor stands on an entry")
    }
}

impl Cursor for RunCursor {
    #[inline]
    fn is_valid(&self) -> bool {
        self.table.as_ref().is_some_and(Cursor::is_valid)
    }

    #[inline]
    fn key(&self) -> InternalKey<'_> {
        self.current().key()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.current().value()
    }

    fn value_slice(&self, skip: usize) -> Slice {
        self.current().value_slice(skip)
    }

    fn seek_to_first(&mut self) -> Result<()> {
        if self.run.is_empty() {
            self.leave();
        } else {
            self.wait(self.run.start, Waits::BeforeFirst);
        }
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        match self.run.clone().next_back() {
            Some(last) => self.wait(last, Waits::BehindLast),
            None => self.leave(),
        }
        Ok(())
    }

    fn seek(&mut self, target: InternalKey<'_>) -> Result<()> {
        let lies_before = |live: &Arc<Live<Arc<Table>>>| {
            self.order.compare(&live.meta.largest, target.user_key) == Ordering::Less
        };
        // A run that was cut to a range is mostly sought at its start.
        let is_first = self.tables().first().is_none_or(|first| !lies_before(first));
        let before = if is_first { 0 } else { self.tables().partition_point(lies_before) };
        let at = self.run.start + before;
        if at == self.run.end {
            self.leave();
            return Ok(());
        }
        if self.order.compare(&self.live(at).meta.smallest, target.user_key) == Ordering::Greater {
            self.wait(at, Waits::BeforeFirst);
            return Ok(());
        }
        self.enter(at, Waits::BeforeFirst, |table| table.seek(target))
    }

    fn seek_before(&mut self, target: InternalKey<'_>) -> Result<()> {
        // The last table that begins at or before the target's key may hold what is wanted; if all of it
        // lies behind the target, the table before does.
        let beginning = self.tables().partition_point(|live| {
            self.order.compare(&live.meta.smallest, target.user_key) != Ordering::Greater
        });
        let Some(before) = beginning.checked_sub(1) else {
            self.leave();
            return Ok(());
        };
        let at = self.run.start + before;
        if self.order.compare(&self.live(at).meta.largest, target.user_key) == Ordering::Less {
            self.wait(at, Waits::BehindLast);
            return Ok(());
        }
        self.enter(at, Waits::BehindLast, |table| table.seek_before(target))
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        let table = self.table.as_mut().expect("the cursor stands on an entry");
        match table.next() {
            Ok(()) if table.is_valid() => Ok(()),
            step => self.step_out(step, Waits::BeforeFirst),
        }
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        let table = self.table.as_mut().expect("the cursor stands on an entry");
        match table.prev() {
            Ok(()) if table.is_valid() => Ok(()),
            step => self.step_out(step, Waits::BehindLast),
        }
    }

    fn waits_at(&self) -> Option<&[u8]> {
        let waits = self.waits?;
        let meta = &self.live(self.at).meta;
        Some(match waits {
            Waits::BeforeFirst => &meta.smallest,
            Waits::BehindLast => &meta.largest,
        })
    }

    fn arrive(&mut self) -> Result<()> {
        match self.waits.expect("the cursor waits") {
            Waits::BeforeFirst => self.enter(self.at, Waits::BeforeFirst, TableCursor::seek_to_first),
            Waits::BehindLast => self.enter(self.at, Waits::BehindLast, TableCursor::seek_to_last),
        }
    }
}
