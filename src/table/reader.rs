//! An open table: its index and filter in memory, its blocks behind the cache.
//!
//! Opening reads the footer and, in one piece, filter, index and properties. From then on a point read costs
//! one filter line and, if that lets it through, a search of the index and of one block. On a cache hit it
//! takes no lock, allocates nothing and copies nothing but a value short enough to lie inline.
//!
//! Every byte is checked before it is believed: what does not fit is `Corruption` with file and offset.

use crate::base::comparator::KeyOrder;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hash::hash_key;
use crate::base::ids::FileNumber;
use crate::base::key::{InternalKey, Tag};
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::cache::{Access, BlockCache, BlockKey, OwnerId};
use crate::table::block::{BlockView, Damaged};
use crate::table::filter::Filter;
use crate::table::footer::{FOOTER_LEN_BYTES, Footer, Handle};
use crate::table::index::Index;
use crate::table::properties::{FEATURES_KNOWN, Properties};
use crate::table::stored;
use crate::vfs::{ReadFile, read_full};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that is to be opened as a table, and what the caller knows of it.
pub struct TableFile {
    /// The file.
    pub file: Arc<dyn ReadFile>,
    /// Its name, for error texts.
    pub path: PathBuf,
    /// Its number, which every checksum in it is bound to.
    pub number: FileNumber,
    /// The length it should have, in bytes.
    pub len_bytes: u64,
}

/// An open table. Shared by readers; lives as long as one of them does.
pub struct Table {
    file: Arc<dyn ReadFile>,
    path: PathBuf,
    number: FileNumber,
    len_bytes: u64,
    order: KeyOrder,
    cache: Arc<BlockCache>,
    owner: OwnerId,
    footer: Footer,
    index: Index,
    filter: Option<Filter>,
    properties: Properties,
}

/// An entry that a point read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its sequence number and kind.
    pub tag: Tag,
    /// Its stored value, which shares the block it lies in.
    pub value: Slice,
}

/// What a point read learned from one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The newest entry at or below the wanted sequence number.
    Found(Found),
    /// The filter ruled the key out.
    RuledOut,
    /// A block was searched in vain: the filter, if any, was wrong, or all entries are newer.
    Missing,
}

impl Lookup {
    /// Returns the entry, if there was one.
    pub fn found(self) -> Option<Found> {
        match self {
            Lookup::Found(found) => Some(found),
            Lookup::RuledOut | Lookup::Missing => None,
        }
    }
}

impl Table {
    /// Opens a table whose keys are in `order`, reading its blocks through `cache`.
    ///
    /// # Errors
    /// `Incompatible` if it was written by a newer version or in another order; `Corruption` if it has not
    /// its length or its end is not what was written; `Io`. Data blocks are not looked at.
    pub fn open(source: TableFile, order: KeyOrder, cache: Arc<BlockCache>) -> Result<Table> {
        let TableFile { file, path, number, len_bytes } = source;
        let actual_len_bytes = file.len()?;
        if actual_len_bytes != len_bytes {
            let message = format!("the file has {actual_len_bytes} bytes and should have {len_bytes}");
            return Err(Error::corruption(&path, actual_len_bytes.min(len_bytes), message));
        }
        let footer_len = len_bytes.min(FOOTER_LEN_BYTES as u64);
        let tail = read_range(&*file, &path, len_bytes - footer_len, len_bytes)?;
        let footer = Footer::decode(&tail, len_bytes, number, &path)?;
        let end = Blocks {
            start: footer.data_end(),
            bytes: read_range(&*file, &path, footer.data_end(), footer.properties.end())?,
            path: &path,
            number,
        };
        let properties = end.parse(footer.properties, Properties::decode)?;
        check_compatible(&properties, &order, &path, footer.properties.offset)?;
        let index = end.parse(footer.index, |block| Index::parse(block, footer.data_end(), &order))?;
        let filter = match footer.filter {
            Some(handle) => Some(end.parse(handle, Filter::parse)?),
            None => None,
        };
        if properties.data_blocks_count != index.blocks_count() as u64 {
            let message = "index and properties do not agree on how many blocks there are";
            return Err(Error::corruption(&path, footer.index.offset, message));
        }
        let owner = cache.register();
        Ok(Table { file, path, number, len_bytes, order, cache, owner, footer, index, filter, properties })
    }

    /// Finds the newest entry of `user_key` at or below `at`.
    ///
    /// # Errors
    /// `Corruption` of a data block; `Io`.
    #[inline]
    pub fn get(&self, user_key: &[u8], at: SeqNum) -> Result<Lookup> {
        let hash = if self.filter.is_some() { hash_key(user_key) } else { 0 };
        self.get_hashed(user_key, hash, at)
    }

    /// Finds like [`Table::get`], given [`hash_key`] of the key, so that one hash serves several tables.
    ///
    /// # Errors
    /// As [`Table::get`].
    #[inline]
    pub fn get_hashed(&self, user_key: &[u8], hash: u64, at: SeqNum) -> Result<Lookup> {
        if !self.may_contain(hash) {
            return Ok(Lookup::RuledOut);
        }
        self.search(InternalKey::new(user_key, Tag::seek_at(at)))
    }

    /// Asks the filter about a key with this [`hash_key`]; `false` is certain. Reads nothing.
    #[inline]
    pub fn may_contain(&self, hash: u64) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_contain(hash))
    }

    /// Returns what the table says about itself.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Returns the file's number.
    pub fn number(&self) -> FileNumber {
        self.number
    }

    /// Returns the file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file's length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Returns the order of its keys.
    pub fn order(&self) -> &KeyOrder {
        &self.order
    }

    /// Returns the sum of all bytes before the footer, as it was written; see `verify` for what it is now.
    pub fn file_checksum(&self) -> u32 {
        self.footer.file_checksum
    }

    /// Returns the footer.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Returns the index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns the bytes that index and filter take in memory.
    pub fn memory_len_bytes(&self) -> usize {
        self.index.len_bytes() + self.filter.as_ref().map_or(0, Filter::len_bytes)
    }

    /// Returns about how many bytes of data blocks lie before `target`.
    pub fn approximate_offset_of(&self, target: InternalKey<'_>) -> u64 {
        match self.index.find(target) {
            Some(block_index) => self.index.span(block_index).start,
            None => self.footer.data_end(),
        }
    }

    fn search(&self, target: InternalKey<'_>) -> Result<Lookup> {
        let Some(block_index) = self.index.find(target) else { return Ok(Lookup::Missing) };
        match self.cache.get(self.block_key(block_index), Access::Point) {
            Some(pinned) => self.search_block(pinned.block(), block_index, target),
            None => {
                let block = self.load_block(block_index)?;
                let block = self.keep(block_index, block);
                self.search_block(&block, block_index, target)
            }
        }
    }

    #[inline]
    fn search_block(
        &self,
        block: &Arc<Vec<u8>>,
        block_index: usize,
        target: InternalKey<'_>,
    ) -> Result<Lookup> {
        let contents = &block[..block.len() - BlockKey::STAMP_LEN_BYTES];
        let search = || {
            let view = BlockView::parse(contents)?;
            let Some(entry) = view.find(target, &self.order)? else { return Ok(Lookup::Missing) };
            let value = Slice::of(block, entry.value_start, entry.value_end - entry.value_start);
            Ok(Lookup::Found(Found { tag: view.tag(&entry), value }))
        };
        search().map_err(|damaged| self.damaged(block_index, damaged))
    }

    /// Names a block in the cache.
    pub(crate) fn block_key(&self, block_index: usize) -> BlockKey {
        BlockKey { owner: self.owner, offset: self.index.span(block_index).start }
    }

    /// Looks a block up in the cache.
    pub(crate) fn cached_block(&self, block_index: usize, access: Access) -> Option<Arc<Vec<u8>>> {
        Some(self.cache.get(self.block_key(block_index), access)?.into_block())
    }

    /// Gives a block to the cache, and returns the one that stands for it from now on.
    pub(crate) fn keep(&self, block_index: usize, block: Vec<u8>) -> Arc<Vec<u8>> {
        self.cache.insert(self.block_key(block_index), Arc::new(block))
    }

    /// Reads one block and unpacks it, past the cache.
    pub(crate) fn load_block(&self, block_index: usize) -> Result<Vec<u8>> {
        let span = self.index.span(block_index);
        stored::with_scratch(span.len_bytes(), |stored| {
            self.read_exact(stored, span.start)?;
            self.unpack_block(stored, block_index)
        })
    }

    /// Checks a stored block, unpacks it and stamps it.
    pub(crate) fn unpack_block(&self, stored: &[u8], block_index: usize) -> Result<Vec<u8>> {
        let offset = self.index.span(block_index).start;
        let mut block = stored::unpack(stored, self.number, offset, BlockKey::STAMP_LEN_BYTES)
            .map_err(|damaged| self.damaged(block_index, damaged))?;
        self.block_key(block_index).stamp(&mut block);
        Ok(block)
    }

    /// Fills `buffer` from `offset` of the file.
    pub(crate) fn read_exact(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        read_exact(&*self.file, &self.path, buffer, offset)
    }

    /// Makes an error of what is wrong with a block.
    #[cold]
    pub(crate) fn damaged(&self, block_index: usize, damaged: Damaged) -> Error {
        damaged.into_error(&self.path, self.index.span(block_index).start)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("path", &self.path).field("properties", &self.properties).finish()
    }
}

/// The blocks behind the data blocks, read in one piece.
struct Blocks<'a> {
    start: u64,
    bytes: Vec<u8>,
    path: &'a Path,
    number: FileNumber,
}

impl Blocks<'_> {
    fn parse<T>(&self, handle: Handle, read: impl Fn(&[u8]) -> Result<T, Damaged>) -> Result<T> {
        let at = |offset: u64| usize::try_from(offset - self.start).expect("the bytes are in memory");
        let stored = &self.bytes[at(handle.offset)..at(handle.end())];
        stored::unpack(stored, self.number, handle.offset, 0)
            .and_then(|block| read(&block))
            .map_err(|damaged| damaged.into_error(self.path, handle.offset))
    }
}

fn check_compatible(properties: &Properties, order: &KeyOrder, path: &Path, offset: u64) -> Result<()> {
    let unknown_features = properties.features & !FEATURES_KNOWN;
    let message = if properties.comparator != order.name() {
        format!("the table is in the order {:?}, the keyspace in {:?}", properties.comparator, order.name())
    } else if unknown_features != 0 {
        format!("the table needs features {unknown_features:#x}, which this build does not know")
    } else if let Some(entries) = properties.unknown_entries() {
        format!("the table holds {entries}, which this version cannot read")
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Incompatible, message).with_file(path).with_offset(offset))
}

/// Reads `start..end`, which lies within the file's checked length and so bounds the buffer.
fn read_range(file: &dyn ReadFile, path: &Path, start: u64, end: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(end - start).map_err(|_| {
        Error::corruption(path, start, "the table's end is larger than this machine can address")
    })?;
    let mut buffer = vec![0; len];
    read_exact(file, path, &mut buffer, start)?;
    Ok(buffer)
}

fn read_exact(file: &dyn ReadFile, path: &Path, buffer: &mut [u8], offset: u64) -> Result<()> {
    let len = read_full(file, buffer, offset)?;
    if len < buffer.len() {
        return Err(Error::corruption(path, offset + len as u64, "the file ends too early"));
    }
    Ok(())
}
