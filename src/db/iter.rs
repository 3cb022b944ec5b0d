//! Iterators as callers see them.

use crate::base::error::{Error, Result};
use crate::base::slice::Slice;
use crate::db::Handle;
use crate::db::keyspace::Keyspace;
use crate::db::state::KeyspaceInfo;
use crate::read::scan::{Pair, Scan};
use std::fmt;
use std::sync::Arc;

/// Keys and values of a range, as of the moment the iterator was made; from both ends.
///
/// `'static`, fused, and independent of what is written meanwhile. It keeps the memtables and tables it reads from
/// existing until it is dropped, so one that is kept for long keeps their disk space, and it keeps the database open. That one has come
/// to its end changes nothing about this, since [`Iter::seek`] can take it back: drop it where no more is wanted of it. After an error it
/// ends; [`Iter::error`] still tells why, so that a loop that stopped early is not taken for the end.
///
/// Once somebody closes the database or drops the keyspace, and in a forked process, its next step is the error `Closed`.
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
    info: Arc<KeyspaceInfo>,
    // Declared last: what it reads from is let go of before the database may be.
    handle: Arc<Handle>,
}

impl Iter {
    pub(crate) fn new(scan: Scan, info: Arc<KeyspaceInfo>, handle: Arc<Handle>) -> Iter {
        Iter { scan, error: None, info, handle }
    }

    /// Moves the front to the first key at or after `key` in the keyspace's order, within the range; also
    /// backwards, over keys already given out. Keys given out at the back stay given out, and the back ends here too.
    ///
    /// # Errors
    /// What reading meets, or has met before; the iterator has ended then. `Closed`.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.seek_with(|scan| scan.seek(key.as_ref()))
    }

    /// Moves the back to the last key at or before `key` in the keyspace's order, within the range; also
    /// forwards, over keys already given out. Keys given out at the front stay given out, and the front ends here too.
    ///
    /// ```
    /// # fn main() -> tinylsm::Result<()> {
    /// let db = tinylsm::Db::open_in_memory()?;
    /// for key in ["a", "c", "e"] {
    ///     db.put(key, "")?;
    /// }
    /// let mut iter = db.iter()?;
    /// iter.seek_back("d")?;
    /// assert_eq!(iter.next_back().expect("there is one")?.0, "c");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Iter::seek`].
    pub fn seek_back(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.seek_with(|scan| scan.seek_back(key.as_ref()))
    }

    fn seek_with(&mut self, seek: impl FnOnce(&mut Scan) -> Result<()>) -> Result<()> {
        let open = self.check_open();
        let sought = open.and_then(|()| seek(&mut self.scan));
        sought.inspect_err(|error| {
            self.scan.stop(error.clone());
            self.error = Some(error.clone());
        })
    }

    /// Returns the error that ended the iterator, if one did.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    #[inline]
    fn check_open(&self) -> Result<()> {
        self.handle.core.ends.check_open()?;
        self.info.check_not_dropped()
    }

    /// Takes a step, unless the keyspace was dropped, the database was closed meanwhile or this process was forked off: tables may be gone then.
    #[inline]
    fn step(&mut self, step: fn(&mut Scan) -> Option<Result<Pair>>) -> Option<Result<Pair>> {
        let item = match self.check_open() {
            Ok(()) => step(&mut self.scan),
            Err(error) => self.scan.stop(error.clone()).then_some(Err(error)),
        };
        self.note(item)
    }

    fn note(&mut self, item: Option<Result<Pair>>) -> Option<Result<Pair>> {
        if let Some(Err(error)) = &item {
            self.error = Some(error.clone());
        }
        item
    }
}

impl Iterator for Iter {
    type Item = Result<(Slice, Slice)>;

    fn next(&mut self) -> Option<Result<(Slice, Slice)>> {
        self.step(Scan::next_pair)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Result<(Slice, Slice)>> {
        self.step(Scan::next_pair_back)
    }
}

impl std::iter::FusedIterator for Iter {}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = self.scan.bounds();
        let mut text = f.debug_struct("Iter");
        text.field("keyspace", &Keyspace::new(Arc::clone(&self.handle), Arc::clone(&self.info)).name());
        text.field("lower", &bounds.0.map(ShownKey)).field("upper", &bounds.1.map(ShownKey));
        text.field("seq", &self.scan.seq().get()).field("error", &self.error).finish_non_exhaustive()
    }
}

/// A key as `Debug` shows it.
struct ShownKey<'a>(&'a [u8]);

impl fmt::Debug for ShownKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

const _: () = {
    const fn is_send_and_static<T: Send + 'static>() {}
    is_send_and_static::<Iter>();
};
