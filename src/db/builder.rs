//! How to open a database.

use crate::base::comparator::Comparator;
use crate::base::error::Result;
use crate::db::Db;
use crate::db::core::Host;
use crate::db::opening::{self, OpenRequest};
use crate::db::options::{Background, Comparators, Options};
use crate::db::runtime::Runtime;
use crate::sync::tell;
use crate::table::shared::Cache;
use crate::vfs::Vfs;
use crate::vfs::os::OsVfs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Gathers how to open a database; every plain number lies in [`Options`].
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// use std::sync::Arc;
/// use tinylsm::{Background, Db, Options, vfs::mem::MemVfs};
/// let disk = Arc::new(MemVfs::new());
/// let options = Options::default().memtable_bytes(1 << 20);
/// let db = Db::builder("/data").vfs(disk.clone()).options(options).background(Background::Manual).open()?;
/// db.put("k", "v")?;
/// db.close()?;
/// let db = Db::builder("/data").vfs(disk).open_read_only()?;
/// assert!(db.get("k")?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder opens nothing until it is told"]
pub struct DbBuilder {
    path: PathBuf,
    options: Options,
    vfs: Option<Arc<dyn Vfs>>,
    background: Background,
    comparators: Comparators,
    create_if_missing: bool,
    cache: Option<Arc<Cache>>,
    is_degraded: bool,
}

impl DbBuilder {
    pub(in crate::db) fn new(path: &Path) -> DbBuilder {
        DbBuilder {
            path: path.to_owned(),
            options: Options::default(),
            vfs: None,
            background: Background::default(),
            comparators: Comparators::default(),
            create_if_missing: true,
            cache: None,
            is_degraded: false,
        }
    }

    /// Sets the options.
    pub fn options(mut self, options: Options) -> DbBuilder {
        self.options = options;
        self
    }

    /// Sets disk and clock; the real ones by default.
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> DbBuilder {
        self.vfs = Some(vfs);
        self
    }

    /// Sets who runs flushes and compactions; two threads by default.
    pub fn background(mut self, background: Background) -> DbBuilder {
        self.background = background;
        self
    }

    /// Makes a comparator known by its name; repeatable. Bytewise and reverse bytewise order are always known.
    pub fn comparator(mut self, comparator: Arc<dyn Comparator>) -> DbBuilder {
        self.comparators.add(comparator);
        self
    }

    /// Sets whether [`DbBuilder::open`] creates what is not there; it does by default.
    pub fn create_if_missing(mut self, yes: bool) -> DbBuilder {
        self.create_if_missing = yes;
        self
    }

    /// Shares memory for blocks and open files with other databases; then `Options::block_cache_bytes` and
    /// `Options::open_files_max` do not count.
    pub fn cache(mut self, cache: Arc<Cache>) -> DbBuilder {
        self.cache = Some(cache);
        self
    }

    /// Sets whether to open although tables are missing, short or otherwise damaged, so that the rest can be read, written and saved. What
    /// would have to look into such a table fails with what is wrong with it, and [`Db::background_errors`] names it.
    pub fn degraded(mut self, yes: bool) -> DbBuilder {
        self.is_degraded = yes;
        self
    }

    /// Opens the database, recovering it first if it was not closed in good order. What was recovered is durable
    /// when this returns.
    ///
    /// A directory without `CURRENT` has no database, and a new one is made there, whatever else lies in it: files and
    /// directories with names that are none of ours (`docs/format/README.md` lists ours) are never touched. What a crash leaves
    /// while a database is made (`MANIFEST-NNNNNN`, `NNNNNN.wal` without a record, `NNNNNN.tmp` beside them) is removed. It is
    /// refused if files of ours prove that there was a database (`Corruption`: a table, or a log with records), and if there is
    /// a file that would be removed although no database can have left it (`Incompatible`: `RESERVE`, or `NNNNNN.tmp` and no
    /// manifest).
    ///
    /// A disk that is too full for that, even with the reserve of an earlier incarnation, is no error: the database can be read
    /// as it was recovered, [`Db::background_errors`] says that writing is off, and [`Db::resume`] takes it up, and makes
    /// durable what was not, once there is space.
    ///
    /// # Errors
    /// `NotFound`; `Locked` if it is open already; `InvalidArgument` for an option out of range; `Incompatible` for
    /// a newer format, an unknown comparator, or a directory as above; `Corruption` with file and offset, which for a
    /// table [`DbBuilder::degraded`] gets past; `NoSpace`; `Io`; `Closed` for a runtime or cache of the process that this
    /// one was forked from. Nothing that was in the directory is changed or removed then.
    pub fn open(self) -> Result<Db> {
        tell(|| format!("open {}", self.path.display()));
        let (host, runtime) = match &self.background {
            Background::Manual => (Host::Caller, None),
            Background::Threads(count) => hosted(Runtime::new(*count)?),
            Background::Shared(runtime) => {
                runtime.check_process()?;
                hosted(runtime.clone())
            }
        };
        let core = opening::open(self.request(host)?)?;
        Ok(Db::new(core, runtime))
    }

    /// Opens the database for reading only and changes no byte of it: what recovery would write stays in memory.
    ///
    /// Its lock file keeps writers away meanwhile. A copy of a database may have none, and a medium that cannot be written
    /// cannot get one: then nothing keeps a writer away. What is read stays as it was when this returned, until a read
    /// misses a file that a writer has removed since, which gives `Locked`.
    ///
    /// Options of the database that only concern writing do not count, whatever they are. `memtable_bytes` does, since the log is
    /// read into memory, and those of the default keyspace, if any are given, are checked as for [`DbBuilder::open`].
    ///
    /// # Errors
    /// As [`DbBuilder::open`]; `Locked` while a writer has it open, and if one has opened it meanwhile.
    pub fn open_read_only(mut self) -> Result<Db> {
        self.options = self.options.for_reading();
        Ok(Db::new(opening::open(self.request(Host::Nobody)?)?, None))
    }

    fn request(self, host: Host) -> Result<OpenRequest> {
        if let Some(cache) = &self.cache {
            cache.check_process()?;
        }
        Ok(self.gathered(host))
    }

    fn gathered(self, host: Host) -> OpenRequest {
        OpenRequest {
            directory: self.path,
            vfs: self.vfs.unwrap_or_else(|| Arc::new(OsVfs::new())),
            options: self.options,
            comparators: self.comparators,
            cache: self.cache,
            is_read_only: matches!(host, Host::Nobody),
            host,
            create_if_missing: self.create_if_missing,
            is_degraded: self.is_degraded,
        }
    }
}

fn hosted(runtime: Runtime) -> (Host, Option<Runtime>) {
    (Host::Threads(runtime.waker()), Some(runtime))
}
