//! Reading: one key, or a scan, over a pinned view.
//!
//! A view holds the memtables and tables of one moment and the number up to which entries exist for it. Nothing
//! here takes a lock or writes; what the view holds cannot change.
//!
//! A panic in a comparator of the caller's ends here, as an `Internal` error of the read that met it.

pub mod get;
pub mod level;
pub mod scan;
pub mod size;
pub mod steps;
pub mod tree;
pub mod waste;

use crate::base::comparator::KeyOrder;
use crate::base::contain::contain;
use crate::base::error::Result;

/// Runs `body`, which compares keys in `order`. A panic in a comparator of the caller's becomes an error that names
/// `what` was going on; bytewise order cannot panic, and costs nothing here.
///
/// # Errors
/// What `body` returns; `Internal`.
#[inline]
pub fn contained<T>(order: &KeyOrder, what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    if order.is_bytewise() { body() } else { contain(what, body) }
}
