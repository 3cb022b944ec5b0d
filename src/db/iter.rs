//! Iterators as callers see them.

use crate::base::error::{Error, Result};
use crate::base::slice::Slice;
use crate::db::Handle;
use crate::read::scan::Scan;
use std::sync::Arc;

/// Keys and values of a range, as of the moment the iterator was made; from both ends.
///
/// `'static`, fused, and independent of what is written meanwhile. It keeps the memtables and tables it reads from
/// existing until it is dropped, so one that is kept for long keeps their disk space, and it keeps the database open. That one has come
/// to its end changes nothing about this, since [`Iter::seek`] can take it back: drop it where no more is wanted of it. After an error it
/// ends; [`Iter::error`] still tells why, so that a loop that stopped early is not taken for the end.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// let db = tinylsm::Db::open_in_memory()?;
/// for key in ["a", "b", "c"] {
///     db.put(key, "")?;
/// }
/// let mut iter = db.range("a".."c")?;
/// let (last, _) = iter.next_back().expect("there are two")?;
/// assert_eq!(last, "b");
/// assert_eq!(iter.count(), 1);
/// # Ok(())
/// # }
/// ```
#[must_use = "an iterator reads nothing until it is asked"]
pub struct Iter {
    scan: Scan,
    error: Option<Error>,
    // Declared last: what it reads from is let go of before the database may be.
    _handle: Arc<Handle>,
}

impl Iter {
    pub(crate) fn new(scan: Scan, handle: Arc<Handle>) -> Iter {
        Iter { scan, error: None, _handle: handle }
    }

    /// Moves the front to the first key at or after `key` in the keyspace's order, within the range; also
    /// backwards, over keys already given out. Keys given out at the back stay given out.
    ///
    /// # Errors
    /// What reading meets, or has met before; the iterator has ended then.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.scan.seek(key.as_ref()).inspect_err(|error| self.error = Some(error.clone()))
    }

    /// Returns the error that ended the iterator, if one did.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn note(&mut self, item: Option<Result<(Slice, Slice)>>) -> Option<Result<(Slice, Slice)>> {
        if let Some(Err(error)) = &item {
            self.error = Some(error.clone());
        }
        item
    }
}

impl Iterator for Iter {
    type Item = Result<(Slice, Slice)>;

    fn next(&mut self) -> Option<Result<(Slice, Slice)>> {
        let item = self.scan.next_pair();
        self.note(item)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Result<(Slice, Slice)>> {
        let item = self.scan.next_pair_back();
        self.note(item)
    }
}

impl std::iter::FusedIterator for Iter {}

const _: () = {
    const fn is_send_and_static<T: Send + 'static>() {}
    is_send_and_static::<Iter>();
};
