//! What the files of a database say, read behind the engine's back: the catalog, and every entry of every table.
//!
//! A look takes no virtual time, draws nothing, and is one step. It sees what readers of the disk would see at that moment, and so
//! it may be ahead of what the engine has published, never behind it.

use crate::disk::{SeenFile, SimDisk};
use crate::schedule;
use crate::workload::incarnation::files_of;
use crate::workload::orders::{Fuse, Order};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::Cache;
use tinylsm::base::ids::{FileNumber, KeyspaceId};
use tinylsm::base::key::Kind;
use tinylsm::base::limits::SMALL_EDIT_LEN_BYTES_MAX;
use tinylsm::cursor::Cursor;
use tinylsm::format::frame::{FRAME_HEADER_LEN_BYTES, FrameReader};
use tinylsm::format::names::FileName;
use tinylsm::table::cursor::{CacheUse, TableCursor};
use tinylsm::table::reader::{Table, TableFile, TableSource};
use tinylsm::version::edit::{self, TableMeta};
use tinylsm::version::{catalog::Catalog, manifest, pointer};
use tinylsm::vfs::{Advice, Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use tinylsm::{Error, ErrorKind, KeyOrder, Result, UnixMillis};

const DIRECTORY: &str = "/seen";

/// Returns how much of a framed log is proven by frames that begin at `from` or later.
///
/// # Errors
/// What the log's reader says.
pub fn proven_len(file: &SeenFile, number: FileNumber, from: u64) -> Result<u64> {
    schedule::look(|| {
        let path = Path::new(DIRECTORY).join(&file.name);
        let seen = FrozenFile(Arc::new(file.clone()));
        let mut frames = FrameReader::new(&seen, &path, number)?;
        let mut proven_len = 0;
        while let Some(frame) = frames.next_frame()? {
            if frame.offset >= from {
                proven_len = frame.synced_len.max(proven_len);
            }
        }
        Ok(proven_len)
    })
}

/// The space behind a manifest's last edit and the statement that follows it.
pub struct ManifestSpace {
    /// Whether that edit is large, and so no heir of the space that one before it had to leave.
    pub is_behind_large_edit: bool,
    /// Allocated and not yet written, in bytes.
    pub len_bytes: u64,
}

/// Returns what space the manifest in force has left; `None` if there is none, or no edit behind the catalog that it
/// begins with: the catalog is not stated.
///
/// # Errors
/// What the manifest's reader says.
pub fn manifest_space(files: &[SeenFile]) -> Result<Option<ManifestSpace>> {
    schedule::look(|| {
        let frozen = Frozen::new(files.to_vec());
        let directory = Path::new(DIRECTORY);
        let Some(pointer) = pointer::read(&frozen, directory)? else { return Ok(None) };
        let number = pointer.manifest;
        let path = FileName::Manifest(number).path(directory);
        let file = FrozenFile(Arc::clone(frozen.find(&path)?));
        let mut frames = FrameReader::new(&file, &path, number)?;
        let statement = edit::encode(&[]);
        let (mut before_len, mut last) = (0, None);
        while let Some(frame) = frames.next_frame()? {
            let len = frame.payload().len();
            if frame.payload() == statement && before_len > statement.len() {
                last = Some((before_len, frame.offset + (FRAME_HEADER_LEN_BYTES + len) as u64));
            }
            before_len = len;
        }
        let Some((edit_len, end)) = last else { return Ok(None) };
        Ok(Some(ManifestSpace {
            is_behind_large_edit: edit_len > SMALL_EDIT_LEN_BYTES_MAX,
            len_bytes: file.0.len.saturating_sub(end),
        }))
    })
}

/// The files of a database at one moment.
pub struct OnDisk {
    frozen: Frozen,
    /// What the manifest says.
    pub catalog: Catalog,
}

/// An entry of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The user key.
    pub key: Vec<u8>,
    /// The sequence number.
    pub seq: u64,
    /// Whether it deletes.
    pub is_delete: bool,
    /// The stored value.
    pub value: Vec<u8>,
}

impl OnDisk {
    /// Looks at a disk with one database; `None` if there is none yet.
    ///
    /// # Errors
    /// What the manifest's reader says.
    pub fn look(disk: &SimDisk) -> Result<Option<OnDisk>> {
        OnDisk::read(files_of(disk))
    }

    /// Reads files that were seen.
    ///
    /// # Errors
    /// As [`OnDisk::look`].
    pub fn read(files: Vec<SeenFile>) -> Result<Option<OnDisk>> {
        schedule::look(|| OnDisk::read_now(files))
    }

    fn read_now(files: Vec<SeenFile>) -> Result<Option<OnDisk>> {
        let frozen = Frozen::new(files);
        let directory = Path::new(DIRECTORY);
        let Some(pointer) = pointer::read(&frozen, directory)? else { return Ok(None) };
        let catalog = manifest::read(&frozen, directory, pointer)?;
        Ok(Some(OnDisk { frozen, catalog }))
    }

    /// Returns the tables of a keyspace with their levels.
    pub fn tables(&self, keyspace: u32) -> impl Iterator<Item = (usize, &Arc<TableMeta>)> {
        let levels = self.catalog.keyspaces.get(&KeyspaceId(keyspace)).map(|keyspace| &keyspace.levels);
        let levels = levels.into_iter().flatten().enumerate();
        levels.flat_map(|(level, tables)| tables.values().map(move |meta| (level, meta)))
    }

    /// Returns every entry of a keyspace's tables, by key in bytewise order and then the newest first.
    ///
    /// # Errors
    /// What the tables' readers say.
    pub fn entries(&self, keyspace: u32, order: Order) -> Result<Vec<Entry>> {
        schedule::look(|| self.entries_now(keyspace, order))
    }

    fn entries_now(&self, keyspace: u32, order: Order) -> Result<Vec<Entry>> {
        let cache = Arc::new(Cache::new(0, 0));
        let mut entries = Vec::new();
        for (_, meta) in self.tables(keyspace) {
            let path = FileName::Table(meta.number).path(Path::new(DIRECTORY));
            let file = self.frozen.open(&path)?;
            let source = TableFile {
                source: TableSource::File(file),
                path,
                number: meta.number,
                len_bytes: meta.len_bytes,
            };
            let table = Table::open(source, key_order(order), Arc::clone(&cache))?;
            let mut cursor = TableCursor::new(Arc::new(table), CacheUse::Peek);
            cursor.seek_to_first()?;
            while cursor.is_valid() {
                let key = cursor.key();
                entries.push(Entry {
                    key: key.user_key.to_vec(),
                    seq: key.tag.seq().get(),
                    is_delete: key.tag.kind() == Some(Kind::Delete),
                    value: cursor.value().to_vec(),
                });
                cursor.next()?;
            }
        }
        entries.sort_by(|a, b| (&a.key, b.seq).cmp(&(&b.key, a.seq)));
        Ok(entries)
    }
}

fn key_order(order: Order) -> KeyOrder {
    match order {
        Order::Bytewise => KeyOrder::Bytewise,
        _ => KeyOrder::custom(Fuse::default().comparator(order)),
    }
}

/// Files that nobody changes, as a disk.
struct Frozen(BTreeMap<String, Arc<SeenFile>>);

impl Frozen {
    fn new(files: Vec<SeenFile>) -> Frozen {
        Frozen(files.into_iter().map(|file| (file.name.clone(), Arc::new(file))).collect())
    }

    fn find(&self, path: &Path) -> Result<&Arc<SeenFile>> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let missing = || Error::new(ErrorKind::NotFound, "there is no such file").with_file(path);
        self.0.get(name).ok_or_else(missing)
    }
}

fn frozen<T>() -> Result<T> {
    Err(Error::new(ErrorKind::ReadOnly, "what was seen does not change"))
}

impl Vfs for Frozen {
    fn hold_dir(self: Arc<Self>, _path: &Path) -> Result<Arc<dyn Vfs>> {
        frozen()
    }
    fn create_new(&self, _path: &Path) -> Result<Box<dyn WriteFile>> {
        frozen()
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        Ok(Arc::new(FrozenFile(Arc::clone(self.find(path)?))))
    }
    fn sync_file(&self, _path: &Path) -> Result<()> {
        frozen()
    }
    fn rename(&self, _from: &Path, _to: &Path) -> Result<()> {
        frozen()
    }
    fn remove_file(&self, _path: &Path) -> Result<()> {
        frozen()
    }
    fn link_or_copy(&self, _from: &Path, _to: &Path) -> Result<Copied> {
        frozen()
    }
    fn create_dir_all(&self, _path: &Path) -> Result<()> {
        frozen()
    }
    fn read_dir(&self, _path: &Path) -> Result<Vec<DirEntry>> {
        Ok(self.0.keys().map(|name| DirEntry { name: name.clone(), is_dir: false }).collect())
    }
    fn sync_dir(&self, _path: &Path) -> Result<()> {
        frozen()
    }
    fn lock(&self, _path: &Path, _mode: LockMode) -> Result<Box<dyn DirLock>> {
        frozen()
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        Ok(Metadata { len: self.find(path)?.len, is_dir: false })
    }
    fn available_space(&self, _path: &Path) -> Result<u64> {
        Ok(0)
    }
    fn now(&self) -> u64 {
        0
    }
    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
    fn sleep(&self, _duration: Duration) {}
}

struct FrozenFile(Arc<SeenFile>);

impl ReadFile for FrozenFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let left = self.0.len.saturating_sub(offset);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.bytes.len());
        let written = &self.0.bytes[start..(start + count).min(self.0.bytes.len())];
        buffer[..written.len()].copy_from_slice(written);
        // Behind the last byte that was written, a file has zeros up to its length.
        buffer[written.len()..count].fill(0);
        Ok(count)
    }

    fn len(&self) -> Result<u64> {
        Ok(self.0.len)
    }

    fn advise(&self, _advice: Advice, _offset: u64, _len: u64) {}
}
