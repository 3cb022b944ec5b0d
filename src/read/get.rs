//! Reading one key.

use crate::base::error::Result;
use crate::base::hash::hash_key;
use crate::base::key::Tag;
use crate::base::slice::Slice;
use crate::mvcc::visible::{Horizon, Sight, sight, unknown_kind};
use crate::read::contained;
use crate::read::tree::Tree;

/// Returns the value of `key` as a reader at `horizon` sees it.
///
/// Goes newest to oldest; the first entry at or below the reader's number decides, whatever it is.
///
/// # Errors
/// `Corruption`, `Io` of the table that would have had to answer; `Incompatible` for an entry of a kind this
/// version does not know; `Internal` if the comparator panics.
#[inline]
pub fn get(tree: &Tree, key: &[u8], horizon: Horizon) -> Result<Option<Slice>> {
    contained(&tree.order, "a get", || find(tree, key, horizon))
}

fn find(tree: &Tree, key: &[u8], horizon: Horizon) -> Result<Option<Slice>> {
    let hash = hash_key(key);
    for memtable in std::iter::once(&tree.active).chain(&tree.sealed) {
        if let Some((tag, stored)) = memtable.get_hashed(key, hash, horizon.seq) {
            return value_of(tag, stored, horizon);
        }
    }
    let [level0, ..] = tree.tables.levels() else { return Ok(None) };
    for live in level0 {
        let is_inside = tree.order.compare(&live.meta.smallest, key).is_le()
            && tree.order.compare(&live.meta.largest, key).is_ge();
        if is_inside && let Some(found) = live.table.get_hashed(key, hash, horizon.seq)?.found() {
            return value_of(found.tag, found.value, horizon);
        }
    }
    for level in 1..tree.tables.levels().len() {
        let Some(live) = tree.tables.find(level, key, &tree.order) else { continue };
        if let Some(found) = live.table.get_hashed(key, hash, horizon.seq)?.found() {
            return value_of(found.tag, found.value, horizon);
        }
    }
    Ok(None)
}

/// Makes of a stored value what the reader gets.
fn value_of(tag: Tag, stored: Slice, horizon: Horizon) -> Result<Option<Slice>> {
    match sight(tag, &stored, horizon) {
        Sight::Value(0) => Ok(Some(stored)),
        Sight::Value(skip) => Ok(Some(Slice::copy_from(&stored[skip..]))),
        Sight::Gone => Ok(None),
        Sight::Unknown => Err(unknown_kind(tag)),
    }
}
