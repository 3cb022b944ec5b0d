//! Reads a whole table from the disk and checks everything that it promises.
//!
//! Ordinary reads check what they touch. This checks the rest: bytes that nobody reads, the order of the
//! entries, that index, filter and properties tell the truth about them. It goes past the block cache, since
//! the question is what the disk holds now.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hash::hash_key;
use crate::base::key::{InternalKey, Kind};
use crate::base::limits::EXPIRY_LEN_BYTES;
use crate::cursor::Cursor;
use crate::format::checksum::FileChecksum;
use crate::table::cursor::{CacheUse, TableCursor};
use crate::table::footer::FOOTER_LEN_BYTES;
use crate::table::properties::{OwnedKey, Properties};
use crate::table::reader::Table;
use std::cmp::Ordering;
use std::sync::Arc;

const READ_LEN_BYTES: usize = 256 << 10;

/// Checks every byte and every entry of a table. Reads the file twice.
///
/// # Errors
/// `Corruption` at the first thing that is not as it should be; `Incompatible` for an entry of a kind that this version
/// cannot read; `Io`.
pub fn verify(table: &Arc<Table>) -> Result<()> {
    // In this order, so that a damaged block is named by its own place and not by the file's.
    verify_entries(table)?;
    verify_bytes(table)
}

/// Checks the sum over the whole file.
fn verify_bytes(table: &Table) -> Result<()> {
    let end = table.len_bytes() - FOOTER_LEN_BYTES as u64;
    let mut checksum = FileChecksum::new();
    let piece_len = |rest: u64| usize::try_from(rest.min(READ_LEN_BYTES as u64)).expect("at most a buffer");
    let mut buffer = vec![0; piece_len(end)];
    let mut offset = 0;
    while offset < end {
        let len = piece_len(end - offset);
        table.read_exact(&mut buffer[..len], offset)?;
        checksum.update(&buffer[..len]);
        offset += len as u64;
    }
    if checksum.value() != table.file_checksum()? {
        return Err(Error::corruption(table.path(), 0, "checksum mismatch of the whole file"));
    }
    Ok(())
}

/// Checks the order of the entries, and that the filter knows and the properties count them.
fn verify_entries(table: &Arc<Table>) -> Result<()> {
    let mut cursor = TableCursor::new(Arc::clone(table), CacheUse::Bypass);
    cursor.seek_to_first()?;
    let mut counted = Properties::starting_with(cursor.key());
    let (mut last_key, mut last_tag) = (Vec::new(), cursor.key().tag);
    while cursor.is_valid() {
        let key = cursor.key();
        let corrupt = |message: &str| Error::corruption(table.path(), cursor.block_offset(), message);
        let before = InternalKey::new(&last_key, last_tag);
        if counted.entries_count > 0 && before.compare(&key, table.order()) != Ordering::Less {
            return Err(corrupt("the entries are out of order"));
        }
        if !key.tag.kind().is_some_and(Kind::is_supported) {
            let [code, ..] = key.tag.raw().to_le_bytes();
            let message = format!("an entry has kind {code}, which this version cannot read");
            return Err(Error::new(ErrorKind::Incompatible, message)
                .with_file(table.path())
                .with_offset(cursor.block_offset()));
        }
        if key.tag.kind() == Some(Kind::PutWithExpiry) && cursor.value().len() < EXPIRY_LEN_BYTES {
            return Err(corrupt("an entry lacks its expiry"));
        }
        if !table.may_contain(hash_key(key.user_key)) {
            return Err(corrupt("the filter denies a key that is there"));
        }
        if table.index()?.find(key) != cursor.block_index() {
            return Err(corrupt("the index does not lead to a key that is there"));
        }
        let is_new_key = counted.entries_count == 0 || last_key != key.user_key;
        counted.count(key, cursor.value(), is_new_key);
        last_key.clear();
        last_key.extend_from_slice(key.user_key);
        last_tag = key.tag;
        cursor.next()?;
    }
    counted.largest = OwnedKey::copy_from(InternalKey::new(&last_key, last_tag));
    let told = table.properties()?;
    let expected = Properties {
        keyspace: told.keyspace,
        comparator: told.comparator.clone(),
        created_at: told.created_at,
        compression: told.compression,
        keys_count: told.keys_count.and(counted.keys_count),
        data_blocks_count: table.index()?.blocks_count() as u64,
        data_len_bytes: table.footer()?.data_end(),
        data_raw_len_bytes: told.data_raw_len_bytes,
        features: told.features,
        ..counted
    };
    if *told != expected {
        let offset = table.footer()?.properties.offset;
        return Err(Error::corruption(table.path(), offset, "the properties do not fit the entries"));
    }
    Ok(())
}
