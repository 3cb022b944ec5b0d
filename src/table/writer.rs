//! Writes one table, front to back.
//!
//! Entries come in ascending order and are gathered into blocks; a full block is packed, summed and put into a
//! buffer, which goes to the file 128 KiB at a time. The index, the filter and the properties grow in memory
//! (about 8 bytes an entry and 40 a block) and follow behind the data at the end.
//!
//! The bytes are a pure function of the settings and the entries: no clock, no randomness, no dependence on
//! how the disk behaved. Running a flush or compaction twice gives the same file.
//!
//! The writer makes the file's bytes durable, or leaves that to a caller who syncs many files at once; the name is the
//! caller's to sync in any case.

use crate::base::comparator::KeyOrder;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::key::{InternalKey, Kind, Tag};
use crate::base::limits::{
    BLOCK_TARGET_LEN_BYTES_MAX, KEY_LEN_BYTES_MAX, STORED_VALUE_LEN_BYTES_MAX, TABLE_INDEX_LEN_BYTES_MAX,
};
use crate::base::time::UnixMillis;
use crate::format::checksum::FileChecksum;
use crate::table::block::{BlockBuilder, common_prefix_len};
use crate::table::filter::FilterBuilder;
use crate::table::footer::{FOOTER_LEN_BYTES, Footer, Handle};
use crate::table::index::IndexBuilder;
use crate::table::options::TableOptions;
use crate::table::properties::{OwnedKey, Properties};
use crate::table::stored::{Packer, TRAILER_LEN_BYTES};
use crate::vfs::WriteFile;
use std::cmp::Ordering;
use std::io::IoSlice;

const BUFFER_LEN_BYTES: usize = 128 << 10;
const BLOCK_LEN_BYTES_LOWEST: usize = 64;
/// The properties and the index's trailer, for the estimate.
const END_LEN_BYTES: usize = 600;

/// What a table is and how it is laid out.
#[derive(Clone, Debug)]
pub struct TableSettings {
    /// The file's number, which every checksum in it is bound to.
    pub number: FileNumber,
    /// The keyspace it belongs to.
    pub keyspace: KeyspaceId,
    /// The order of its keys.
    pub order: KeyOrder,
    /// What the properties give as time of writing.
    pub created_at: UnixMillis,
    /// Its layout.
    pub options: TableOptions,
}

/// What a finished table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSummary {
    /// The file's number.
    pub number: FileNumber,
    /// The file's length in bytes.
    pub len_bytes: u64,
    /// The sum of all bytes before the footer, as the footer has it.
    pub file_checksum: u32,
    /// What the table says about itself.
    pub properties: Properties,
}

/// A table being written.
pub struct TableWriter {
    file: Box<dyn WriteFile>,
    settings: TableSettings,
    /// Bytes that the file does not have yet.
    buffer: Vec<u8>,
    flushed_len_bytes: u64,
    checksum: FileChecksum,
    block: BlockBuilder,
    packer: Packer,
    index: IndexBuilder,
    filter: FilterBuilder,
    /// None before the first entry.
    properties: Option<Properties>,
    last_key: Vec<u8>,
    last_tag: Tag,
    /// The last data block, until the first key behind it is known.
    unindexed: Option<Handle>,
    /// How long the file may become.
    len_bytes_max: u64,
    /// The first failure: nothing may be appended behind it.
    failure: Option<Error>,
}

impl TableWriter {
    /// Starts a table in an empty file.
    ///
    /// # Panics
    /// If the file is not empty.
    pub fn new(file: Box<dyn WriteFile>, settings: TableSettings) -> TableWriter {
        assert!(file.is_empty(), "a table begins at the beginning of its file");
        TableWriter {
            file,
            // It grows as it has to: most tables of a flush of many keyspaces are small.
            buffer: Vec::new(),
            flushed_len_bytes: 0,
            checksum: FileChecksum::new(),
            block: BlockBuilder::new(),
            packer: Packer::new(settings.options.compression),
            index: IndexBuilder::new(settings.order.clone()),
            filter: FilterBuilder::new(settings.options.filter),
            properties: None,
            last_key: Vec::new(),
            last_tag: Tag::OLDEST,
            unindexed: None,
            len_bytes_max: u64::MAX,
            failure: None,
            settings,
        }
    }

    /// Has the table fail with `NoSpace` rather than give its file more bytes than this.
    #[must_use]
    pub fn with_len_max(mut self, len_bytes_max: u64) -> TableWriter {
        self.len_bytes_max = len_bytes_max;
        self
    }

    /// Appends an entry, which comes behind all before it.
    ///
    /// # Errors
    /// As [`WriteFile::append`]; the table is lost then, and every later call says so again.
    ///
    /// # Panics
    /// If the entry is out of order, of a kind that does not exist, or over a limit of limits.rs.
    pub fn add(&mut self, key: InternalKey<'_>, value: &[u8]) -> Result<()> {
        assert!(key.user_key.len() <= KEY_LEN_BYTES_MAX, "keys are checked before they are written");
        assert!(value.len() <= STORED_VALUE_LEN_BYTES_MAX, "values are checked before they are written");
        let kind = key.tag.kind().expect("only kinds that exist are written");
        assert!(kind != Kind::PutWithExpiry || value.len() >= 8, "an expiry takes eight bytes");
        let (shared, is_new_key) = self.continue_from_last(key);
        if let Some(handle) = self.unindexed.take() {
            let last = InternalKey::new(&self.last_key, self.last_tag);
            self.index.add(last, Some(key.user_key), handle);
        }
        self.block.add(key, shared, value);
        self.properties.get_or_insert_with(|| Properties::starting_with(key)).count(key, value, is_new_key);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key.user_key[shared..]);
        self.last_tag = key.tag;
        let target =
            self.settings.options.block_len_bytes.clamp(BLOCK_LEN_BYTES_LOWEST, BLOCK_TARGET_LEN_BYTES_MAX);
        if self.block.len() >= target {
            self.end_block()?;
        }
        Ok(())
    }

    /// Returns about how long the file would be if it were finished now.
    pub fn estimated_len(&self) -> u64 {
        let ahead = self.block.len() + self.index.len_bytes() + self.filter.len_bytes() + END_LEN_BYTES;
        self.position() + (ahead + FOOTER_LEN_BYTES) as u64
    }

    /// Tells whether the index has become so large that the table should end, however short it is.
    pub fn is_index_full(&self) -> bool {
        self.index.len_bytes() >= TABLE_INDEX_LEN_BYTES_MAX
    }

    /// Tells whether no entry was added.
    pub fn is_empty(&self) -> bool {
        self.properties.is_none()
    }

    /// Ends the table and makes its bytes durable.
    ///
    /// # Errors
    /// As [`WriteFile::append`] and [`WriteFile::sync`]; the table is lost then.
    ///
    /// # Panics
    /// If no entry was added.
    pub fn finish(self) -> Result<TableSummary> {
        let (summary, mut file) = self.finish_unsynced()?;
        file.sync()?;
        Ok(summary)
    }

    /// Ends the table and returns its file, which the caller has to sync before anything may rely on the table.
    ///
    /// # Errors
    /// As [`WriteFile::append`]; the table is lost then.
    ///
    /// # Panics
    /// If no entry was added.
    pub fn finish_unsynced(mut self) -> Result<(TableSummary, Box<dyn WriteFile>)> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let mut properties = self.properties.take().expect("a table holds at least one entry");
        let handle = self.unindexed.take().expect("a data block ended after the last entry");
        let last = InternalKey::new(&self.last_key, self.last_tag);
        self.index.add(last, None, handle);
        properties.data_len_bytes = handle.end();
        properties.largest = OwnedKey::copy_from(last);
        properties.keyspace = self.settings.keyspace;
        properties.comparator = self.settings.order.name().to_owned();
        properties.created_at = self.settings.created_at;
        properties.compression = self.settings.options.compression;
        self.write_end(properties)
    }

    /// Writes all that follows the data blocks, in the order that the footer checks.
    fn write_end(mut self, properties: Properties) -> Result<(TableSummary, Box<dyn WriteFile>)> {
        let filter = std::mem::replace(&mut self.filter, FilterBuilder::new(self.settings.options.filter));
        let filter = match filter.finish() {
            Some(block) => Some(self.write_plain(&block)?),
            None => None,
        };
        let offset = self.position();
        let (payload, trailer) = self.packer.pack(self.index.finish(), self.settings.number, offset);
        let index = Handle { offset, len: len_u32(payload.len()) };
        self.buffer.extend_from_slice(payload);
        self.buffer.extend_from_slice(&trailer);
        let block = properties.encode();
        let handle = self.write_plain(&block)?;
        self.checksum.update(&self.buffer);
        let footer = Footer { index, filter, properties: handle, file_checksum: self.checksum.value() };
        let offset = self.position();
        self.buffer.extend_from_slice(&footer.encode(self.settings.number, offset));
        self.append()?;
        let summary = TableSummary {
            number: self.settings.number,
            len_bytes: self.flushed_len_bytes,
            file_checksum: footer.file_checksum,
            properties,
        };
        Ok((summary, self.file))
    }

    /// Checks that `key` follows the last one, and returns how much of the user key they share and whether they differ.
    #[inline]
    fn continue_from_last(&mut self, key: InternalKey<'_>) -> (usize, bool) {
        let shared = common_prefix_len(&self.last_key, key.user_key);
        let is_same = shared == key.user_key.len() && shared == self.last_key.len();
        if self.properties.is_some() {
            let order = &self.settings.order;
            let ordering = match order {
                _ if is_same => key.tag.cmp(&self.last_tag).reverse(),
                KeyOrder::Bytewise => key.user_key[shared..].cmp(&self.last_key[shared..]),
                KeyOrder::Custom(_) => order.compare(key.user_key, &self.last_key),
            };
            assert!(ordering == Ordering::Greater, "entries are added in ascending order");
        }
        let is_new_key = !is_same || self.properties.is_none();
        if is_new_key {
            self.filter.add(key.user_key);
        }
        (shared, is_new_key)
    }

    /// Packs the block at hand into the buffer.
    fn end_block(&mut self) -> Result<()> {
        let offset = self.position();
        let block = self.block.finish();
        let properties = self.properties.as_mut().expect("a block holds an entry, which was counted");
        properties.data_blocks_count += 1;
        properties.data_raw_len_bytes += block.len() as u64;
        let (payload, trailer) = self.packer.pack(block, self.settings.number, offset);
        self.unindexed = Some(Handle { offset, len: len_u32(payload.len()) });
        self.buffer.extend_from_slice(payload);
        self.buffer.extend_from_slice(&trailer);
        self.block.clear();
        if self.buffer.len() >= BUFFER_LEN_BYTES { self.flush() } else { Ok(()) }
    }

    /// Puts a block that is never packed into the buffer.
    fn write_plain(&mut self, block: &[u8]) -> Result<Handle> {
        let handle = Handle { offset: self.position(), len: len_u32(block.len()) };
        let trailer = Packer::wrap(block, self.settings.number, handle.offset);
        self.buffer.extend_from_slice(block);
        self.buffer.extend_from_slice(&trailer);
        assert!(self.position() == handle.end(), "a block takes its payload and {TRAILER_LEN_BYTES} bytes");
        if self.buffer.len() >= BUFFER_LEN_BYTES {
            self.flush()?;
        }
        Ok(handle)
    }

    /// Hands the buffer to the file, as part of what the file's checksum covers.
    fn flush(&mut self) -> Result<()> {
        self.checksum.update(&self.buffer);
        self.append()
    }

    /// Hands the buffer to the file.
    fn append(&mut self) -> Result<()> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let appended = if self.position() <= self.len_bytes_max {
            self.file.append(&[IoSlice::new(&self.buffer)])
        } else {
            let message = format!(
                "the table would take more than the {} bytes that are left for it",
                self.len_bytes_max
            );
            Err(Error::new(ErrorKind::NoSpace, message))
        };
        if let Err(error) = appended {
            self.failure = Some(error.clone());
            return Err(error);
        }
        self.flushed_len_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        assert!(self.file.len() == self.flushed_len_bytes, "only this writer appends to its file");
        Ok(())
    }

    fn position(&self) -> u64 {
        self.flushed_len_bytes + self.buffer.len() as u64
    }
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("blocks, filters and indexes are kept below 4 GiB")
}
