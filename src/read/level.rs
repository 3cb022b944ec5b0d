//! A cursor over one sorted level: its tables one after another, each opened when it is reached.

use crate::base::comparator::KeyOrder;
use crate::base::error::Result;
use crate::base::key::InternalKey;
use crate::base::slice::Slice;
use crate::cursor::Cursor;
use crate::read::tree::Tables;
use crate::table::cursor::{CacheUse, TableCursor};
use std::cmp::Ordering;
use std::sync::Arc;

/// A place in a level; keeps the version alive.
pub struct LevelCursor {
    tables: Arc<Tables>,
    level: usize,
    order: KeyOrder,
    cache_use: CacheUse,
    at: usize,
    table: Option<TableCursor>,
}

impl LevelCursor {
    /// Makes a cursor over `level` that stands on no entry.
    pub fn new(tables: Arc<Tables>, level: usize, order: KeyOrder, cache_use: CacheUse) -> LevelCursor {
        assert!(level > 0, "the tables of level 0 overlap");
        LevelCursor { tables, level, order, cache_use, at: 0, table: None }
    }

    /// Opens table `at` of the level; none if there is no such table.
    fn open(&mut self, at: usize) {
        if self.table.is_some() && self.at == at {
            return;
        }
        let live = self.tables.level(self.level).get(at);
        self.table = live.map(|live| TableCursor::new(Arc::clone(&live.table), self.cache_use));
        self.at = at;
    }

    /// Goes to the first entry of the next table while this one has none.
    fn skip_forward(&mut self) -> Result<()> {
        while self.table.as_ref().is_some_and(|table| !table.is_valid()) {
            self.open(self.at + 1);
            if let Some(table) = &mut self.table {
                table.seek_to_first()?;
            }
        }
        Ok(())
    }

    /// Goes to the last entry of the previous table while this one has none.
    fn skip_backward(&mut self) -> Result<()> {
        while self.table.as_ref().is_some_and(|table| !table.is_valid()) {
            let Some(before) = self.at.checked_sub(1) else {
                self.table = None;
                break;
            };
            self.open(before);
            if let Some(table) = &mut self.table {
                table.seek_to_last()?;
            }
        }
        Ok(())
    }

    fn current(&self) -> &TableCursor {
        self.table.as_ref().expect("the cursor stands on an entry")
    }

    /// Runs one movement; after an error the cursor stands on no entry.
    fn guarded(&mut self, movement: impl FnOnce(&mut LevelCursor) -> Result<()>) -> Result<()> {
        let result = movement(self);
        if result.is_err() {
            self.table = None;
        }
        result
    }
}

impl Cursor for LevelCursor {
    fn is_valid(&self) -> bool {
        self.table.as_ref().is_some_and(Cursor::is_valid)
    }

    fn key(&self) -> InternalKey<'_> {
        self.current().key()
    }

    fn value(&self) -> &[u8] {
        self.current().value()
    }

    fn value_slice(&self, skip: usize) -> Slice {
        self.current().value_slice(skip)
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.guarded(|level| {
            level.open(0);
            let Some(table) = &mut level.table else { return Ok(()) };
            table.seek_to_first()?;
            level.skip_forward()
        })
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.guarded(|level| {
            let count = level.tables.level(level.level).len();
            let Some(last) = count.checked_sub(1) else { return Ok(()) };
            level.open(last);
            let Some(table) = &mut level.table else { return Ok(()) };
            table.seek_to_last()?;
            level.skip_backward()
        })
    }

    fn seek(&mut self, target: InternalKey<'_>) -> Result<()> {
        self.guarded(|level| {
            let tables = level.tables.level(level.level);
            let at = tables.partition_point(|live| {
                level.order.compare(&live.meta.largest, target.user_key) == Ordering::Less
            });
            level.open(at);
            let Some(table) = &mut level.table else { return Ok(()) };
            table.seek(target)?;
            level.skip_forward()
        })
    }

    fn seek_before(&mut self, target: InternalKey<'_>) -> Result<()> {
        self.guarded(|level| {
            // The last table that begins at or before the target's key may hold what is wanted; if all of it
            // lies behind the target, the table before does.
            let tables = level.tables.level(level.level);
            let beginning = tables.partition_point(|live| {
                level.order.compare(&live.meta.smallest, target.user_key) != Ordering::Greater
            });
            let Some(at) = beginning.checked_sub(1) else {
                level.table = None;
                return Ok(());
            };
            level.open(at);
            let Some(table) = &mut level.table else { return Ok(()) };
            table.seek_before(target)?;
            level.skip_backward()
        })
    }

    fn next(&mut self) -> Result<()> {
        self.guarded(|level| {
            level.table.as_mut().expect("the cursor stands on an entry").next()?;
            level.skip_forward()
        })
    }

    fn prev(&mut self) -> Result<()> {
        self.guarded(|level| {
            level.table.as_mut().expect("the cursor stands on an entry").prev()?;
            level.skip_backward()
        })
    }
}
