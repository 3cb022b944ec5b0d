//! Walking over a whole table.
//!
//! A cursor stands in one block at a time. When it walks on into blocks that are not cached, it reads ahead:
//! the first step reads 16 KiB, and each further read twice as much up to 256 KiB, forwards or backwards. A
//! seek reads its one block only, so a short scan does not pay for a long one.

use crate::base::error::{Error, Result};
use crate::base::key::InternalKey;
use crate::base::slice::Slice;
use crate::cache::Access;
use crate::cursor::Cursor;
use crate::table::block::Damaged;
use crate::table::block_cursor::BlockCursor;
use crate::table::index::Span;
use crate::table::reader::Table;
use std::sync::Arc;

const WINDOW_LEN_BYTES_FIRST: u64 = 16 << 10;
const WINDOW_LEN_BYTES_MAX: u64 = 256 << 10;

/// What a cursor does with the block cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// Uses it and fills it: a caller's read.
    Fill,
    /// Uses what is there, adds nothing, and reads far ahead from the start: a compaction.
    Peek,
    /// Keeps away from it, and reads far ahead from the start: a check of what the disk really holds.
    Bypass,
}

/// A place in a table; owns a share of it.
pub struct TableCursor {
    table: Arc<Table>,
    cache_use: CacheUse,
    block: BlockCursor,
    /// The block that `block` has, if any.
    block_index: Option<usize>,
    ahead: ReadAhead,
}

/// How a cursor comes to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Motion {
    Seek,
    Forward,
    Backward,
}

/// Stored bytes read before they were asked for.
#[derive(Default)]
struct ReadAhead {
    buffer: Vec<u8>,
    /// Where in the file the bytes begin.
    start: u64,
    /// How many of the buffer's bytes count.
    len: usize,
    window_len_bytes: u64,
}

impl TableCursor {
    /// Makes a cursor that stands on no entry.
    pub fn new(table: Arc<Table>, cache_use: CacheUse) -> TableCursor {
        TableCursor {
            table,
            cache_use,
            block: BlockCursor::default(),
            block_index: None,
            ahead: ReadAhead::default(),
        }
    }

    /// Returns the table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Returns the data block the cursor stands in, if any.
    pub fn block_index(&self) -> Option<usize> {
        self.block_index
    }

    /// Returns where in the file that block begins, in bytes; 0 for none.
    pub fn block_offset(&self) -> u64 {
        self.block_index.map_or(0, |block_index| self.table.span(block_index).start)
    }

    /// Passes on the outcome of a step within a block, turning what is wrong with it into an error.
    #[inline]
    fn checked(&mut self, step: Result<(), Damaged>) -> Result<()> {
        match step {
            Ok(()) => Ok(()),
            Err(damaged) => Err(self.fail(damaged)),
        }
    }

    #[cold]
    fn fail(&mut self, damaged: Damaged) -> Error {
        self.block.leave();
        let block_index = self.block_index.expect("a step is taken in a block");
        self.table.damaged(block_index, damaged)
    }

    fn enter_first_of(&mut self, block_index: usize, motion: Motion) -> Result<()> {
        self.enter(block_index, motion)?;
        let step = self.block.seek_to_first();
        self.checked(step)
    }

    fn enter_last_of(&mut self, block_index: usize, motion: Motion) -> Result<()> {
        self.enter(block_index, motion)?;
        let step = self.block.seek_to_last();
        self.checked(step)
    }

    /// Goes from past the end of a block to the first entry of the next, if there is one.
    #[cold]
    fn go_on_behind(&mut self) -> Result<()> {
        let next = self.block_index.expect("the cursor was in a block") + 1;
        if next == self.table.index()?.blocks_count() {
            Ok(())
        } else {
            self.enter_first_of(next, Motion::Forward)
        }
    }

    /// Goes from before the start of a block to the last entry of the one before, if there is one.
    #[cold]
    fn go_on_before(&mut self) -> Result<()> {
        let block_index = self.block_index.expect("the cursor was in a block");
        match block_index.checked_sub(1) {
            Some(previous) => self.enter_last_of(previous, Motion::Backward),
            None => Ok(()),
        }
    }

    /// Takes up a block, standing on no entry.
    fn enter(&mut self, block_index: usize, motion: Motion) -> Result<()> {
        if self.block_index == Some(block_index) {
            self.block.leave();
            return Ok(());
        }
        // From here to the end the cursor has no block, which is what an error leaves behind.
        self.block_index = None;
        self.block.leave();
        let block = self.fetch(block_index, motion)?;
        self.block.enter(block);
        self.block_index = Some(block_index);
        Ok(())
    }

    fn fetch(&mut self, block_index: usize, motion: Motion) -> Result<Arc<Vec<u8>>> {
        let access = if motion == Motion::Seek { Access::Point } else { Access::Scan };
        if self.cache_use != CacheUse::Bypass
            && let Some(block) = self.table.cached_block(block_index, access)
        {
            return Ok(block);
        }
        let span = self.table.span(block_index);
        if motion == Motion::Seek && self.cache_use == CacheUse::Fill && !self.ahead.covers(span) {
            self.ahead.window_len_bytes = 0;
            let block = self.table.load_block(block_index)?;
            return Ok(self.table.keep(block_index, block));
        }
        if !self.ahead.covers(span) {
            self.read_ahead(block_index, motion)?;
        }
        let block = self.table.unpack_block(self.ahead.stored(span), block_index)?;
        Ok(match self.cache_use {
            CacheUse::Fill => self.table.keep(block_index, block),
            CacheUse::Peek | CacheUse::Bypass => Arc::new(block),
        })
    }

    /// Reads a window that begins, or walking backwards ends, with the given block.
    fn read_ahead(&mut self, block_index: usize, motion: Motion) -> Result<()> {
        let window = match self.cache_use {
            CacheUse::Fill => self.ahead.window_len_bytes * 2,
            CacheUse::Peek | CacheUse::Bypass => WINDOW_LEN_BYTES_MAX,
        };
        let window = window.clamp(WINDOW_LEN_BYTES_FIRST, WINDOW_LEN_BYTES_MAX);
        let index = self.table.index()?;
        let span = index.span(block_index);
        let (start, end) = match motion {
            Motion::Seek | Motion::Forward => {
                (span.start, index.end_of_run(block_index, span.start + window))
            }
            Motion::Backward => (index.start_of_run(span.end.saturating_sub(window), block_index), span.end),
        };
        let len = usize::try_from(end - start).expect("a window, or one block");
        self.ahead.len = 0;
        if self.ahead.buffer.len() < len {
            self.ahead.buffer.resize(len, 0);
        }
        self.table.read_exact(&mut self.ahead.buffer[..len], start)?;
        self.ahead = ReadAhead {
            buffer: std::mem::take(&mut self.ahead.buffer),
            start,
            len,
            window_len_bytes: window,
        };
        Ok(())
    }
}

impl ReadAhead {
    fn covers(&self, span: Span) -> bool {
        self.start <= span.start && span.end <= self.start + self.len as u64
    }

    fn stored(&self, span: Span) -> &[u8] {
        assert!(self.covers(span), "the block was read");
        let start = usize::try_from(span.start - self.start).expect("within the buffer");
        &self.buffer[start..start + span.len_bytes()]
    }
}

impl Cursor for TableCursor {
    #[inline]
    fn is_valid(&self) -> bool {
        self.block.is_valid()
    }

    #[inline]
    fn key(&self) -> InternalKey<'_> {
        self.block.key()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.block.value()
    }

    fn value_slice(&self, skip: usize) -> Slice {
        self.block.value_slice(skip)
    }

    fn seek_to_first(&mut self) -> Result<()> {
        // Every table has a block; a stand-in for one is told here from an open one.
        self.table.index()?;
        self.enter_first_of(0, Motion::Seek)
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.enter_last_of(self.table.index()?.blocks_count() - 1, Motion::Seek)
    }

    fn seek(&mut self, target: InternalKey<'_>) -> Result<()> {
        let Some(block_index) = self.table.index()?.find(target) else {
            self.block.leave();
            return Ok(());
        };
        self.enter(block_index, Motion::Seek)?;
        let step = self.block.seek(target, self.table.order());
        self.checked(step)?;
        // A shortened separator may lie between the block's last key and the next one's first.
        if self.block.is_valid() { Ok(()) } else { self.go_on_behind() }
    }

    fn seek_before(&mut self, target: InternalKey<'_>) -> Result<()> {
        let Some(block_index) = self.table.index()?.find(target) else { return self.seek_to_last() };
        self.enter(block_index, Motion::Seek)?;
        let step = self.block.seek_before(target, self.table.order());
        self.checked(step)?;
        if self.block.is_valid() { Ok(()) } else { self.go_on_before() }
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        let step = self.block.next();
        self.checked(step)?;
        if self.block.is_valid() { Ok(()) } else { self.go_on_behind() }
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        let step = self.block.prev();
        self.checked(step)?;
        if self.block.is_valid() { Ok(()) } else { self.go_on_before() }
    }
}
