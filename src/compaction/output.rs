//! Entries in, new tables out.
//!
//! Writes as many tables as their size asks for and cuts only between user keys, so that no two tables of a level
//! share one (INV-1). Small tables are synced together, and their names at the end: the flush of a thousand keyspaces costs
//! some twenty syncs.

use crate::base::comparator::KeyOrder;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::key::InternalKey;
use crate::base::limits::{UNSYNCED_TABLES_COUNT_MAX, UNSYNCED_TABLES_LEN_BYTES_MAX};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::format::names::FileName;
use crate::mvcc::retain::{Kept, Reason};
use crate::sync::atomic::AtomicBool;
use crate::table::options::TableOptions;
use crate::table::properties::Properties;
use crate::table::reader::{Table, TableFile, TableSource};
use crate::table::shared::Cache;
use crate::table::writer::{TableSettings, TableSummary, TableWriter};
use crate::version::edit::TableMeta;
use crate::version::levels::Live;
use crate::vfs::{Vfs, WriteFile};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a job needs from the database around it.
pub struct JobContext<'a> {
    /// Where tables are written.
    pub vfs: Arc<dyn Vfs>,
    /// The database's directory.
    pub directory: PathBuf,
    /// Through which the new tables will be read.
    pub cache: Arc<Cache>,
    /// Gives out a file number that was never used.
    pub next_number: &'a dyn Fn() -> FileNumber,
    /// Set when the job has to stop.
    pub is_cancelled: &'a AtomicBool,
    /// What the tables state as their time.
    pub created_at: UnixMillis,
    /// Bytes that the tables may take together, if the disk is short of them.
    pub space_bytes: Option<u64>,
}

/// What the tables of one keyspace look like.
#[derive(Clone, Debug)]
pub struct OutputSettings {
    /// The keyspace.
    pub keyspace: KeyspaceId,
    /// The order of its keys.
    pub order: KeyOrder,
    /// The layout of its tables.
    pub table: TableOptions,
    /// Where a table is cut, in bytes.
    pub table_len_bytes_max: u64,
}

/// Tables of one job that were written and are not durable yet.
#[derive(Default)]
#[must_use = "nothing may rely on a table before its group was settled"]
pub struct Unsynced {
    files: Vec<Box<dyn WriteFile>>,
    len_bytes: u64,
    has_new_names: bool,
}

impl Unsynced {
    /// Takes a written table. Syncs those at hand if they have become many.
    fn add(&mut self, file: Box<dyn WriteFile>, vfs: &dyn Vfs) -> Result<()> {
        self.len_bytes += file.len();
        self.files.push(file);
        self.has_new_names = true;
        let is_full =
            self.files.len() >= UNSYNCED_TABLES_COUNT_MAX || self.len_bytes >= UNSYNCED_TABLES_LEN_BYTES_MAX;
        if is_full { self.sync(vfs) } else { Ok(()) }
    }

    /// Makes the bytes of the tables durable and closes them.
    fn sync(&mut self, vfs: &dyn Vfs) -> Result<()> {
        match &mut self.files[..] {
            [] => {}
            [file] => file.sync()?,
            files => vfs.sync_files(files)?,
        }
        self.files.clear();
        self.len_bytes = 0;
        Ok(())
    }

    /// Makes every table taken so far durable, and its name.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; none of the tables may be used.
    pub fn settle(mut self, context: &JobContext<'_>) -> Result<()> {
        self.sync(&*context.vfs)?;
        if self.has_new_names {
            // Their bytes are safe, their names not yet.
            context.vfs.sync_dir(&context.directory)?;
        }
        Ok(())
    }
}

/// Who sees to it that written tables become durable.
enum Group<'a> {
    /// These outputs, when they are finished.
    Own(Unsynced),
    /// Whoever has the group.
    Shared(&'a mut Unsynced),
}

/// Tables being written by one job.
pub struct Outputs<'a> {
    context: &'a JobContext<'a>,
    settings: OutputSettings,
    writer: Option<TableWriter>,
    group: Group<'a>,
    /// Why what is in the table being written stays.
    kept: Kept,
    shaded_seq: SeqNum,
    finished: Vec<(TableSummary, Kept)>,
    finished_len_bytes: u64,
    /// Every number whose file may exist, for cleaning up after a failure.
    created: &'a mut Vec<FileNumber>,
}

impl<'a> Outputs<'a> {
    /// Starts without any table; numbers of files are noted in `created` before they exist.
    pub fn new(
        context: &'a JobContext<'a>,
        settings: OutputSettings,
        created: &'a mut Vec<FileNumber>,
    ) -> Outputs<'a> {
        Outputs::with_group(context, settings, created, Group::Own(Unsynced::default()))
    }

    /// Starts like [`Outputs::new`], but leaves it to the owner of `group` to make the tables durable.
    pub fn in_group(
        context: &'a JobContext<'a>,
        settings: OutputSettings,
        created: &'a mut Vec<FileNumber>,
        group: &'a mut Unsynced,
    ) -> Outputs<'a> {
        Outputs::with_group(context, settings, created, Group::Shared(group))
    }

    fn with_group(
        context: &'a JobContext<'a>,
        settings: OutputSettings,
        created: &'a mut Vec<FileNumber>,
        group: Group<'a>,
    ) -> Outputs<'a> {
        let kept = Kept::default();
        Outputs {
            context,
            settings,
            writer: None,
            group,
            kept,
            shaded_seq: SeqNum::ZERO,
            finished: Vec::new(),
            finished_len_bytes: 0,
            created,
        }
    }

    /// Says that what lies above the outputs was taken into account up to a number.
    pub fn shaded_up_to(mut self, seq: SeqNum) -> Outputs<'a> {
        self.shaded_seq = seq;
        self.kept = Kept::shaded(seq);
        self
    }

    /// Appends an entry that stays for `reason`; the table is cut only where `is_new_key` says that its user key
    /// differs from the one before.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; `Closed` if the job was cancelled.
    pub fn add(
        &mut self,
        key: InternalKey<'_>,
        value: &[u8],
        reason: Reason,
        is_new_key: bool,
    ) -> Result<()> {
        let is_full = self.writer.as_ref().is_some_and(|writer| {
            writer.estimated_len() >= self.settings.table_len_bytes_max || writer.is_index_full()
        });
        if is_full && is_new_key {
            self.end_table()?;
        }
        if self.writer.is_none() || self.context.space_bytes.is_some() {
            self.check()?;
        }
        if self.writer.is_none() {
            self.writer = Some(self.start_table()?);
        }
        self.kept.note(reason);
        self.writer.as_mut().expect("started above").add(key, value)
    }

    /// Fails if the job has to stop.
    ///
    /// # Errors
    /// `Closed` if it was cancelled; `NoSpace` if it takes more of the disk than it may.
    pub fn check(&self) -> Result<()> {
        if self.context.is_cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Closed, "the database is closing"));
        }
        let open_len_bytes = self.writer.as_ref().map_or(0, TableWriter::estimated_len);
        if let Some(space_bytes) = self.context.space_bytes
            && self.finished_len_bytes + open_len_bytes > space_bytes
        {
            let message =
                format!("the tables would take more than the {space_bytes} bytes that are left for them");
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        Ok(())
    }

    fn start_table(&mut self) -> Result<TableWriter> {
        let number = (self.context.next_number)();
        self.created.push(number);
        let path = FileName::Table(number).path(&self.context.directory);
        let context = self.context;
        let file = self.with_descriptor(|| context.vfs.create_new(&path))?;
        let settings = TableSettings {
            number,
            keyspace: self.settings.keyspace,
            order: self.settings.order.clone(),
            created_at: self.context.created_at,
            options: self.settings.table,
        };
        let writer = TableWriter::new(file, settings);
        // How well a block packs is known only when it is to be written.
        let left = self.context.space_bytes.map(|bytes| bytes.saturating_sub(self.finished_len_bytes));
        Ok(writer.with_len_max(left.unwrap_or(u64::MAX)))
    }

    fn end_table(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            let (summary, file) = writer.finish_unsynced()?;
            let vfs = &*self.context.vfs;
            self.unsynced().add(file, vfs)?;
            self.finished_len_bytes += summary.len_bytes;
            let kept = std::mem::replace(&mut self.kept, Kept::shaded(self.shaded_seq));
            self.finished.push((summary, kept));
        }
        Ok(())
    }

    fn unsynced(&mut self) -> &mut Unsynced {
        match &mut self.group {
            Group::Own(unsynced) => unsynced,
            Group::Shared(unsynced) => unsynced,
        }
    }

    /// Runs something that takes a descriptor. If there is none, idle tables and then our own unsynced ones are closed for
    /// it.
    fn with_descriptor<T>(&mut self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        let context = self.context;
        match context.cache.descriptors().with_retry(&attempt) {
            Err(error) if error.kind() == ErrorKind::Exhausted && !self.unsynced().files.is_empty() => {
                self.unsynced().sync(&*context.vfs)?;
                attempt()
            }
            result => result,
        }
    }

    /// Ends the last table, makes all tables durable unless the owner of a group does that, and opens them for reading.
    ///
    /// # Errors
    /// `NoSpace`, `Exhausted`, `Io`; none of the tables may be used.
    pub fn finish(mut self) -> Result<Vec<Arc<Live<Arc<Table>>>>> {
        self.end_table()?;
        if let Group::Own(unsynced) = &mut self.group {
            std::mem::take(unsynced).settle(self.context)?;
        }
        let finished = std::mem::take(&mut self.finished);
        finished.into_iter().map(|(summary, kept)| self.open(&summary, kept)).collect()
    }

    fn open(&mut self, summary: &TableSummary, kept: Kept) -> Result<Arc<Live<Arc<Table>>>> {
        let meta = Arc::new(meta_of(summary.number, summary.len_bytes, &summary.properties));
        let (context, order) = (self.context, self.settings.order.clone());
        let keyspace = self.settings.keyspace;
        let table = self.with_descriptor(|| {
            open_table(&context.vfs, &context.directory, (keyspace, &meta), &order, &context.cache)
        })?;
        Ok(Arc::new(Live::new(meta, table, Some(kept))))
    }
}

/// Opens a table that the catalog knows, and checks that it is the one that the catalog means.
///
/// # Errors
/// `Corruption` if it is missing or damaged, or another table has its name; `Incompatible`; `Exhausted`; `Io`.
pub fn open_table(
    vfs: &Arc<dyn Vfs>,
    directory: &Path,
    (keyspace, meta): (KeyspaceId, &TableMeta),
    order: &KeyOrder,
    cache: &Arc<Cache>,
) -> Result<Arc<Table>> {
    let file = TableFile {
        source: TableSource::Path(Arc::clone(vfs)),
        path: FileName::Table(meta.number).path(directory),
        number: meta.number,
        len_bytes: meta.len_bytes,
    };
    let table = Table::open(file, order.clone(), Arc::clone(cache))?;
    // Its checksums are right and bound to its number, but a table of another database, or of an earlier copy of this one,
    // can have the same number and length.
    let told = table.properties()?;
    if told.keyspace != keyspace || meta_of(meta.number, meta.len_bytes, told) != *meta {
        let message = "the table is not the one that the manifest names: it holds other entries";
        return Err(Error::corruption(table.path(), table.footer()?.properties.offset, message));
    }
    Ok(Arc::new(table))
}

/// Returns what the catalog is told of a table with these properties.
fn meta_of(number: FileNumber, len_bytes: u64, properties: &Properties) -> TableMeta {
    TableMeta {
        number,
        len_bytes,
        smallest: properties.smallest.user_key.to_vec(),
        largest: properties.largest.user_key.to_vec(),
        smallest_seq: properties.seq_lowest,
        largest_seq: properties.seq_highest,
        entries: properties.entries_count,
        deletes: properties.deletes_count,
        earliest_expiry: properties.expires_earliest,
        latest_expiry: properties.expires_latest,
    }
}
