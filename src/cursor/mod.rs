//! Walking over sorted entries, one trait for every source of them.
//!
//! A memtable, a block, a table, a level and a merge of all of these are cursors. A cursor stands on an entry
//! or on none; entries come in the order of [`InternalKey::compare`].

pub mod merge;

use crate::base::error::Result;
use crate::base::key::InternalKey;
use crate::base::slice::Slice;

/// A place among sorted entries.
///
/// After an error the cursor stands on no entry until the next positioning call, and the caller must not take
/// "no entry" for "no more entries".
///
/// A cursor may *wait* instead of reading what may never be needed: after a positioning call it stands on no entry, yet
/// it is not at its end but names a user key that it has nothing in front of ([`Cursor::waits_at`]). Only a merge can
/// make use of that; a cursor that waits says so where it is made.
pub trait Cursor: Send {
    /// Tells whether the cursor stands on an entry.
    fn is_valid(&self) -> bool;

    /// Returns the entry's key.
    ///
    /// # Panics
    /// If the cursor stands on no entry.
    fn key(&self) -> InternalKey<'_>;

    /// Returns the entry's stored value.
    ///
    /// # Panics
    /// If the cursor stands on no entry.
    fn value(&self) -> &[u8];

    /// Returns the value from byte `skip` on, sharing its block where that is cheap.
    ///
    /// # Panics
    /// If the cursor stands on no entry or the value is shorter than `skip`.
    fn value_slice(&self, skip: usize) -> Slice;

    /// Goes to the first entry.
    ///
    /// # Errors
    /// What reading the source meets; so for all positioning calls.
    fn seek_to_first(&mut self) -> Result<()>;

    /// Goes to the last entry.
    ///
    /// # Errors
    /// As [`Cursor::seek_to_first`].
    fn seek_to_last(&mut self) -> Result<()>;

    /// Goes to the first entry at or after `target`.
    ///
    /// # Errors
    /// As [`Cursor::seek_to_first`].
    fn seek(&mut self, target: InternalKey<'_>) -> Result<()>;

    /// Goes to the last entry strictly before `target`.
    ///
    /// # Errors
    /// As [`Cursor::seek_to_first`].
    fn seek_before(&mut self, target: InternalKey<'_>) -> Result<()>;

    /// Goes to the next entry.
    ///
    /// # Errors
    /// As [`Cursor::seek_to_first`].
    ///
    /// # Panics
    /// If the cursor stands on no entry.
    fn next(&mut self) -> Result<()>;

    /// Goes to the previous entry.
    ///
    /// # Errors
    /// As [`Cursor::seek_to_first`].
    ///
    /// # Panics
    /// If the cursor stands on no entry.
    fn prev(&mut self) -> Result<()>;

    /// Returns the user key at which the cursor waits, if it does. Nothing that lies ahead comes before that key, in the
    /// direction of the movement that led here; and the key itself comes behind the user key that was sought.
    fn waits_at(&self) -> Option<&[u8]> {
        None
    }

    /// Ends waiting: goes on to the entry ahead, or waits at a key further on, or is at the end.
    ///
    /// # Errors
    /// As [`Cursor::seek_to_first`].
    ///
    /// # Panics
    /// If the cursor does not wait.
    fn arrive(&mut self) -> Result<()> {
        panic!("a cursor that never waits cannot arrive");
    }
}

impl Cursor for Box<dyn Cursor> {
    fn is_valid(&self) -> bool {
        (**self).is_valid()
    }
    fn key(&self) -> InternalKey<'_> {
        (**self).key()
    }
    fn value(&self) -> &[u8] {
        (**self).value()
    }
    fn value_slice(&self, skip: usize) -> Slice {
        (**self).value_slice(skip)
    }
    fn seek_to_first(&mut self) -> Result<()> {
        (**self).seek_to_first()
    }
    fn seek_to_last(&mut self) -> Result<()> {
        (**self).seek_to_last()
    }
    fn seek(&mut self, target: InternalKey<'_>) -> Result<()> {
        (**self).seek(target)
    }
    fn seek_before(&mut self, target: InternalKey<'_>) -> Result<()> {
        (**self).seek_before(target)
    }
    fn next(&mut self) -> Result<()> {
        (**self).next()
    }
    fn prev(&mut self) -> Result<()> {
        (**self).prev()
    }
    fn waits_at(&self) -> Option<&[u8]> {
        (**self).waits_at()
    }
    fn arrive(&mut self) -> Result<()> {
        (**self).arrive()
    }
}
