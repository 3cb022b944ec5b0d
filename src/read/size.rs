//! How much a range takes, without reading it.

use crate::base::error::Result;
use crate::base::key::{InternalKey, Tag};
use crate::memtable::Memtable;
use crate::read::tree::Tree;
use crate::table::reader::Table;
use std::ops::Bound;
use std::sync::Arc;

/// Returns about how many bytes the entries between two bounds take: in tables by their index, in memtables by walking
/// over them.
///
/// # Errors
/// What a table's stand-in was made with.
pub fn len_bytes_between(tree: &Tree, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Result<u64> {
    let mut len_bytes = 0;
    for live in tree.tables.levels().iter().flatten() {
        len_bytes += table_len_bytes(&live.table, lower, upper)?;
    }
    for memtable in std::iter::once(&tree.active).chain(&tree.sealed) {
        len_bytes += memtable_len_bytes(tree, memtable, lower, upper)?;
    }
    Ok(len_bytes)
}

fn table_len_bytes(table: &Table, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Result<u64> {
    let start = match front_of(lower) {
        Some(target) => table.approximate_offset_of(target)?,
        None => 0,
    };
    let end = match upper {
        Bound::Included(key) => table.approximate_end_of(InternalKey::new(key, Tag::OLDEST))?,
        Bound::Excluded(key) => table.approximate_end_of(InternalKey::new(key, Tag::NEWEST))?,
        Bound::Unbounded => table.footer()?.data_end(),
    };
    Ok(end.saturating_sub(start))
}

fn memtable_len_bytes(
    tree: &Tree,
    memtable: &Arc<Memtable>,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
) -> Result<u64> {
    let mut cursor = memtable.cursor();
    match front_of(lower) {
        Some(target) => cursor.seek(target)?,
        None => cursor.seek_to_first()?,
    }
    let mut len_bytes = 0;
    while cursor.is_valid() {
        let key = cursor.key().user_key;
        let is_behind = match upper {
            Bound::Included(upper) => tree.order.compare(key, upper).is_gt(),
            Bound::Excluded(upper) => tree.order.compare(key, upper).is_ge(),
            Bound::Unbounded => false,
        };
        if is_behind {
            break;
        }
        len_bytes += (key.len() + cursor.value().len()) as u64;
        cursor.next()?;
    }
    Ok(len_bytes)
}

/// Returns where a range begins; none if that is before every key.
fn front_of(lower: Bound<&[u8]>) -> Option<InternalKey<'_>> {
    match lower {
        Bound::Included(key) => Some(InternalKey::new(key, Tag::NEWEST)),
        Bound::Excluded(key) => Some(InternalKey::new(key, Tag::OLDEST)),
        Bound::Unbounded => None,
    }
}
