//! An open table: its index and filter in memory, its blocks and its file behind the cache.
//!
//! Opening reads the footer and, in one piece, filter, index and properties, and closes the file again. From then on
//! a point read costs one filter line and, if that lets it through, a search of the index and of one block. On a cache
//! hit it takes no lock, allocates nothing and copies nothing but a value short enough to lie inline.
//!
//! A block that is not cached is read through [`Descriptors`](crate::table::descriptors), which bound how many
//! tables have an open file. A file that is opened again is checked to be the one that was there before: its footer
//! holds the sum of all its bytes.
//!
//! Every byte is checked before it is believed: what does not fit is `Corruption` with file and offset.
//!
//! A table that cannot be opened has a stand-in ([`Table::unavailable`]), which answers every read with the error
//! that opening it met. So the rest of a database can be read, and nothing that the table may hold is ever reported
//! as missing.

use crate::base::comparator::{Comparator, KeyOrder};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hash::hash_key;
use crate::base::ids::FileNumber;
use crate::base::key::{InternalKey, Tag};
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::cache::{Access, BlockKey, OwnerId};
use crate::table::block::{BlockView, Damaged};
use crate::table::descriptors::{OpenFile, Slot};
use crate::table::filter::Filter;
use crate::table::footer::{FOOTER_LEN_BYTES_MAX, Footer, Handle};
use crate::table::index::{Index, Span};
use crate::table::properties::{FEATURES_KNOWN, Properties};
use crate::table::shared::Cache;
use crate::table::stored;
use crate::vfs::{ReadFile, Vfs, read_full};
use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that is to be opened as a table, and what the caller knows of it.
pub struct TableFile {
    /// How to get at its bytes.
    pub source: TableSource,
    /// Its name.
    pub path: PathBuf,
    /// Its number, which every checksum in it is bound to.
    pub number: FileNumber,
    /// The length it should have, in bytes.
    pub len_bytes: u64,
}

/// How a table gets at its bytes.
pub enum TableSource {
    /// By its path, through the descriptors of its cache, whenever a block has to be read.
    Path(Arc<dyn Vfs>),
    /// Through one open file, kept as long as the table: for a look at a single file.
    File(Arc<dyn ReadFile>),
}

/// An open table. Shared by readers; lives as long as one of them does.
pub struct Table {
    path: PathBuf,
    number: FileNumber,
    len_bytes: u64,
    order: KeyOrder,
    /// Why the table cannot be read, if so.
    readable: Result<Readable>,
}

/// What there is of a table that could be opened.
struct Readable {
    source: Source,
    cache: Arc<Cache>,
    owner: OwnerId,
    footer: Footer,
    index: Index,
    filter: Option<Filter>,
    properties: Properties,
}

enum Source {
    Path(Arc<dyn Vfs>, Arc<Slot>),
    File(Arc<dyn ReadFile>),
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
    /// `Incompatible` if it was written by a newer version or in another order; `Corruption` if it is missing, has not
    /// its length, or its end is not what was written; `Exhausted`; `Io`. Data blocks are not looked at.
    pub fn open(file: TableFile, order: KeyOrder, cache: Arc<Cache>) -> Result<Table> {
        let TableFile { source, path, number, len_bytes } = file;
        let source = match source {
            TableSource::Path(vfs) => Source::Path(vfs, Arc::default()),
            TableSource::File(file) => Source::File(file),
        };
        let readable = match &source {
            // Closed when this returns: most tables of a database are at rest most of the time.
            Source::Path(vfs, _) => {
                let opened = cache.descriptors().open(&**vfs, &path).map_err(name_missing)?;
                Parts::read(opened.file(), &path, number, len_bytes, &order)?
            }
            Source::File(file) => Parts::read(&**file, &path, number, len_bytes, &order)?,
        };
        let Parts { footer, index, filter, properties } = readable;
        let owner = cache.blocks().register();
        let readable = Readable { source, cache, owner, footer, index, filter, properties };
        Ok(Table { path, number, len_bytes, order, readable: Ok(readable) })
    }

    /// Opens a table to show what is in it, whatever order its keys are in: it can be read block by block, and not searched.
    ///
    /// # Errors
    /// As [`Table::open`], but for the order.
    pub fn open_to_show(file: TableFile, cache: Arc<Cache>) -> Result<Table> {
        Table::open(file, KeyOrder::custom(Arc::new(UnknownOrder)), cache)
    }

    /// Makes a stand-in for a table that could not be opened: every read of it gives `error`.
    pub fn unavailable(
        path: PathBuf,
        number: FileNumber,
        len_bytes: u64,
        order: KeyOrder,
        error: Error,
    ) -> Table {
        Table { path, number, len_bytes, order, readable: Err(error) }
    }

    /// Returns why the table cannot be read, if it is a stand-in.
    pub fn failure(&self) -> Option<&Error> {
        self.readable.as_ref().err()
    }

    /// Finds the newest entry of `user_key` at or below `at`.
    ///
    /// # Errors
    /// `Corruption` of a data block, or of the whole file if another one has its name now; `Exhausted`; `Io`; what a
    /// stand-in was made with.
    #[inline]
    pub fn get(&self, user_key: &[u8], at: SeqNum) -> Result<Lookup> {
        self.get_hashed(user_key, hash_key(user_key), at)
    }

    /// Finds like [`Table::get`], given [`hash_key`] of the key, so that one hash serves several tables.
    ///
    /// # Errors
    /// As [`Table::get`].
    #[inline]
    pub fn get_hashed(&self, user_key: &[u8], hash: u64, at: SeqNum) -> Result<Lookup> {
        let readable = self.readable()?;
        if !readable.may_contain(hash) {
            return Ok(Lookup::RuledOut);
        }
        self.search(readable, InternalKey::new(user_key, Tag::seek_at(at)))
    }

    /// Asks the filter about a key with this [`hash_key`]; `false` is certain. Reads nothing.
    #[inline]
    pub fn may_contain(&self, hash: u64) -> bool {
        self.readable.as_ref().map_or(true, |readable| readable.may_contain(hash))
    }

    /// Returns what the table says about itself.
    ///
    /// # Errors
    /// What a stand-in was made with.
    pub fn properties(&self) -> Result<&Properties> {
        Ok(&self.readable()?.properties)
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
    ///
    /// # Errors
    /// What a stand-in was made with.
    pub fn file_checksum(&self) -> Result<u32> {
        Ok(self.footer()?.file_checksum)
    }

    /// Returns the footer.
    ///
    /// # Errors
    /// What a stand-in was made with.
    pub fn footer(&self) -> Result<&Footer> {
        Ok(&self.readable()?.footer)
    }

    /// Returns the index.
    ///
    /// # Errors
    /// What a stand-in was made with.
    #[inline]
    pub fn index(&self) -> Result<&Index> {
        Ok(&self.readable()?.index)
    }

    /// Returns the bytes that index and filter take in memory; 0 for a stand-in.
    pub fn memory_len_bytes(&self) -> usize {
        self.readable.as_ref().map_or(0, |readable| {
            readable.index.len_bytes() + readable.filter.as_ref().map_or(0, Filter::len_bytes)
        })
    }

    /// Returns about how many bytes of data blocks lie before `target`.
    ///
    /// # Errors
    /// What a stand-in was made with.
    pub fn approximate_offset_of(&self, target: InternalKey<'_>) -> Result<u64> {
        let readable = self.readable()?;
        Ok(match readable.index.find(target) {
            Some(block_index) => readable.index.span(block_index).start,
            None => readable.footer.data_end(),
        })
    }

    /// Returns about how many bytes of data blocks lie before the end of the block that `target` would be in.
    ///
    /// # Errors
    /// What a stand-in was made with.
    pub fn approximate_end_of(&self, target: InternalKey<'_>) -> Result<u64> {
        let readable = self.readable()?;
        let smallest = &self.properties()?.smallest;
        if target.compare(&smallest.as_internal(), &self.order).is_lt() {
            return Ok(0);
        }
        Ok(match readable.index.find(target) {
            Some(block_index) => readable.index.span(block_index).end,
            None => readable.footer.data_end(),
        })
    }

    #[inline]
    fn readable(&self) -> Result<&Readable> {
        self.readable.as_ref().map_err(Error::clone)
    }

    /// Returns what there is of a table that has blocks.
    #[inline]
    fn opened(&self) -> &Readable {
        self.readable.as_ref().expect("whoever knows a block has it from the index of an open table")
    }

    fn search(&self, readable: &Readable, target: InternalKey<'_>) -> Result<Lookup> {
        let Some(block_index) = readable.index.find(target) else { return Ok(Lookup::Missing) };
        match readable.cache.blocks().get(readable.block_key(block_index), Access::Point) {
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

    /// Returns where a block lies.
    #[inline]
    pub(crate) fn span(&self, block_index: usize) -> Span {
        self.opened().index.span(block_index)
    }

    /// Names a block in the cache.
    pub(crate) fn block_key(&self, block_index: usize) -> BlockKey {
        self.opened().block_key(block_index)
    }

    /// Looks a block up in the cache.
    pub(crate) fn cached_block(&self, block_index: usize, access: Access) -> Option<Arc<Vec<u8>>> {
        Some(self.opened().cache.blocks().get(self.block_key(block_index), access)?.into_block())
    }

    /// Gives a block to the cache, and returns the one that stands for it from now on.
    pub(crate) fn keep(&self, block_index: usize, block: Vec<u8>) -> Arc<Vec<u8>> {
        self.opened().cache.blocks().insert(self.block_key(block_index), Arc::new(block))
    }

    /// Reads one block and unpacks it, past the cache.
    pub(crate) fn load_block(&self, block_index: usize) -> Result<Vec<u8>> {
        let span = self.span(block_index);
        stored::with_scratch(span.len_bytes(), |stored| {
            self.read_exact(stored, span.start)?;
            self.unpack_block(stored, block_index)
        })
    }

    /// Checks a stored block, unpacks it and stamps it.
    pub(crate) fn unpack_block(&self, stored: &[u8], block_index: usize) -> Result<Vec<u8>> {
        let offset = self.span(block_index).start;
        let mut block = stored::unpack(stored, self.number, offset, BlockKey::STAMP_LEN_BYTES)
            .map_err(|damaged| self.damaged(block_index, damaged))?;
        self.block_key(block_index).stamp(&mut block);
        Ok(block)
    }

    /// Fills `buffer` from `offset` of the file, which is opened for it if it has to be.
    pub(crate) fn read_exact(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let readable = self.readable()?;
        match &readable.source {
            Source::File(file) => read_exact(&**file, &self.path, buffer, offset),
            Source::Path(vfs, slot) => {
                let descriptors = readable.cache.descriptors();
                let opened = descriptors.get(slot, || self.open_again(readable, &**vfs))?;
                read_exact(opened.file(), &self.path, buffer, offset)
            }
        }
    }

    /// Opens the file once more and checks that it is the one that was opened first. The checksums of its blocks could
    /// not tell it from another table of the same number, such as that of a copy made earlier.
    #[cold]
    fn open_again(&self, readable: &Readable, vfs: &dyn Vfs) -> Result<OpenFile> {
        let opened = readable.cache.descriptors().open(vfs, &self.path).map_err(name_missing)?;
        let footer = read_footer(opened.file(), &self.path, self.number, self.len_bytes)?;
        if footer != readable.footer {
            let message = "another file has taken the place of the one that was opened before";
            return Err(Error::corruption(&self.path, 0, message));
        }
        Ok(opened)
    }

    /// Makes an error of what is wrong with a block.
    #[cold]
    pub(crate) fn damaged(&self, block_index: usize, damaged: Damaged) -> Error {
        damaged.into_error(&self.path, self.span(block_index).start)
    }
}

impl Readable {
    #[inline]
    fn block_key(&self, block_index: usize) -> BlockKey {
        BlockKey { owner: self.owner, offset: self.index.span(block_index).start }
    }

    #[inline]
    fn may_contain(&self, hash: u64) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_contain(hash))
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties = self.readable.as_ref().map(|readable| &readable.properties);
        f.debug_struct("Table").field("path", &self.path).field("properties", &properties).finish()
    }
}

/// What is read when a table is opened.
struct Parts {
    footer: Footer,
    index: Index,
    filter: Option<Filter>,
    properties: Properties,
}

impl Parts {
    /// Reads and checks all that follows the data blocks.
    fn read(
        file: &dyn ReadFile,
        path: &Path,
        number: FileNumber,
        len_bytes: u64,
        order: &KeyOrder,
    ) -> Result<Parts> {
        let footer = read_footer(file, path, number, len_bytes)?;
        let end = Blocks {
            start: footer.data_end(),
            bytes: read_range(file, path, footer.data_end(), footer.properties.end())?,
            path,
            number,
        };
        let properties = end.parse(footer.properties, Properties::decode)?;
        check_compatible(&properties, order, path, footer.properties.offset)?;
        let index = end.parse(footer.index, |block| Index::parse(block, footer.data_end(), order))?;
        let filter = match footer.filter {
            Some(handle) => Some(end.parse(handle, Filter::parse)?),
            None => None,
        };
        if properties.data_blocks_count != index.blocks_count() as u64 {
            let message = "index and properties do not agree on how many blocks there are";
            return Err(Error::corruption(path, footer.index.offset, message));
        }
        if is_unknown(order) {
            return Ok(Parts { footer, index, filter, properties });
        }
        let ends = [&properties.smallest, &properties.largest].map(|key| index.find(key.as_internal()));
        if ends != [Some(0), Some(index.blocks_count() - 1)] {
            let message = "index and properties do not agree on where the entries begin and end";
            return Err(Error::corruption(path, footer.index.offset, message));
        }
        Ok(Parts { footer, index, filter, properties })
    }
}

/// The order of a table that is only shown, which nobody here knows.
struct UnknownOrder;

impl Comparator for UnknownOrder {
    fn name(&self) -> &str {
        UNKNOWN_ORDER
    }

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        a.cmp(b)
    }
}

/// No comparator that is known to a database has an empty name.
const UNKNOWN_ORDER: &str = "";

fn is_unknown(order: &KeyOrder) -> bool {
    order.name() == UNKNOWN_ORDER
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
    let message = if properties.comparator != order.name() && !is_unknown(order) {
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

/// Reads the footer of a file that should have `len_bytes`.
fn read_footer(file: &dyn ReadFile, path: &Path, number: FileNumber, len_bytes: u64) -> Result<Footer> {
    let actual_len_bytes = file.len().map_err(name_missing)?;
    if actual_len_bytes != len_bytes {
        let message = format!("the file has {actual_len_bytes} bytes and should have {len_bytes}");
        return Err(Error::corruption(path, actual_len_bytes.min(len_bytes), message));
    }
    let footer_len = len_bytes.min(FOOTER_LEN_BYTES_MAX as u64);
    let tail = read_range(file, path, len_bytes - footer_len, len_bytes)?;
    Footer::decode(&tail, len_bytes, number, path)
}

/// Says of a file that is not there what that means: tables are opened because a version names them.
fn name_missing(error: Error) -> Error {
    error.if_missing("a table that the manifest names")
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
