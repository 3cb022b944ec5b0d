//! What an embedder may choose, each with its default.

use crate::base::comparator::{BYTEWISE_NAME, Comparator, KeyOrder, REVERSE_BYTEWISE_NAME, ReverseBytewise};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::limits;
use crate::compaction::picker::LevelLimits;
use crate::db::runtime::Runtime;
use crate::table::options::{Compression, FilterPolicy, TableOptions};
use crate::write::commit::Durability;
use crate::write::stall::StallLimits;
use std::sync::Arc;
use std::time::Duration;

/// Options of a database; plain data, checked when the database is opened. Each field has a method that sets it.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// use tinylsm::{Durability, Options};
/// let options = Options::default().memtable_bytes(1 << 20).durability(Durability::Os);
/// assert_eq!((options.memtable_bytes, options.sealed_memtables_max), (1 << 20, 2));
/// options.validate()
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Memory of all active memtables together, in bytes, at which they are sealed and flushed. 64 MiB.
    pub memtable_bytes: usize,
    /// Sealed generations of memtables that may wait for their flush while writes go on. 2.
    pub sealed_memtables_max: usize,
    /// Most bytes that are reserved on the disk behind the end of the open WAL segment, in steps that grow with it; 0
    /// leaves it to grow with each append. 64 MiB.
    pub wal_preallocate_bytes: u64,
    /// Bytes of table blocks kept in memory. 64 MiB.
    pub block_cache_bytes: u64,
    /// Tables whose files are kept open for reading blocks that are not in memory, 8 or more. One more is open for each
    /// thread that finds them all in use. 512.
    pub open_files_max: usize,
    /// What a write survives if it does not say so itself. [`Durability::Disk`].
    pub durability: Durability,
    /// Bytes of version edits after which a new manifest is begun. 4 MiB.
    pub manifest_roll_bytes: u64,
    /// How long a write waits for flush or compaction before it fails with `Busy`. 60 s.
    pub stall_timeout: Duration,
    /// Tables on level 0 of a keyspace from which on writes are delayed. 20.
    pub level0_slowdown: usize,
    /// Tables on level 0 of a keyspace from which on writes wait. 36.
    pub level0_stop: usize,
    /// Options of the default keyspace. With none, a new database takes the defaults, and one that exists keeps what it
    /// has; with some, they are applied whenever the database is opened, to what is written from then on. Another
    /// comparator than the one it has is refused. None.
    pub default_keyspace: Option<KeyspaceOptions>,
    /// Most bytes that are set aside for a full disk, so that deletes, flushes and merges can go on there; 0 for none. The
    /// reserve is about an eighth of the tables or a flush of what memory holds, whichever is more, and 32 KiB at least. 128 MiB.
    pub reserve_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            memtable_bytes: 64 << 20,
            sealed_memtables_max: 2,
            wal_preallocate_bytes: 64 << 20,
            block_cache_bytes: 64 << 20,
            open_files_max: 512,
            durability: Durability::Disk,
            manifest_roll_bytes: 4 << 20,
            stall_timeout: Duration::from_secs(60),
            level0_slowdown: 20,
            level0_stop: 36,
            default_keyspace: None,
            reserve_bytes_max: 128 << 20,
        }
    }
}

impl Options {
    /// Returns options for tests and for small databases: little memory, nothing set aside on the disk, and limits so low
    /// that a few hundred writes already flush, merge and begin another manifest.
    ///
    /// ```
    /// # fn main() -> tinylsm::Result<()> {
    /// use tinylsm::{Db, Options};
    /// let options = Options::small();
    /// let db = Db::builder("/small").vfs(std::sync::Arc::new(tinylsm::vfs::mem::MemVfs::new())).options(options).open()?;
    /// db.put("k", "v")?;
    /// # db.close()
    /// # }
    /// ```
    pub fn small() -> Options {
        Options {
            memtable_bytes: 16 << 10,
            wal_preallocate_bytes: 0,
            block_cache_bytes: 1 << 20,
            open_files_max: 64,
            manifest_roll_bytes: 4 << 10,
            default_keyspace: Some(KeyspaceOptions::small()),
            reserve_bytes_max: 0,
            ..Options::default()
        }
    }

    /// Sets [`Options::memtable_bytes`](field@Options::memtable_bytes).
    #[must_use]
    pub fn memtable_bytes(mut self, value: usize) -> Options {
        self.memtable_bytes = value;
        self
    }

    /// Sets [`Options::sealed_memtables_max`](field@Options::sealed_memtables_max).
    #[must_use]
    pub fn sealed_memtables_max(mut self, value: usize) -> Options {
        self.sealed_memtables_max = value;
        self
    }

    /// Sets [`Options::wal_preallocate_bytes`](field@Options::wal_preallocate_bytes).
    #[must_use]
    pub fn wal_preallocate_bytes(mut self, value: u64) -> Options {
        self.wal_preallocate_bytes = value;
        self
    }

    /// Sets [`Options::block_cache_bytes`](field@Options::block_cache_bytes).
    #[must_use]
    pub fn block_cache_bytes(mut self, value: u64) -> Options {
        self.block_cache_bytes = value;
        self
    }

    /// Sets [`Options::open_files_max`](field@Options::open_files_max).
    #[must_use]
    pub fn open_files_max(mut self, value: usize) -> Options {
        self.open_files_max = value;
        self
    }

    /// Sets [`Options::durability`](field@Options::durability).
    #[must_use]
    pub fn durability(mut self, value: Durability) -> Options {
        self.durability = value;
        self
    }

    /// Sets [`Options::manifest_roll_bytes`](field@Options::manifest_roll_bytes).
    #[must_use]
    pub fn manifest_roll_bytes(mut self, value: u64) -> Options {
        self.manifest_roll_bytes = value;
        self
    }

    /// Sets [`Options::stall_timeout`](field@Options::stall_timeout).
    #[must_use]
    pub fn stall_timeout(mut self, value: Duration) -> Options {
        self.stall_timeout = value;
        self
    }

    /// Sets [`Options::level0_slowdown`](field@Options::level0_slowdown).
    #[must_use]
    pub fn level0_slowdown(mut self, value: usize) -> Options {
        self.level0_slowdown = value;
        self
    }

    /// Sets [`Options::level0_stop`](field@Options::level0_stop).
    #[must_use]
    pub fn level0_stop(mut self, value: usize) -> Options {
        self.level0_stop = value;
        self
    }

    /// Sets [`Options::default_keyspace`](field@Options::default_keyspace).
    #[must_use]
    pub fn default_keyspace(mut self, value: KeyspaceOptions) -> Options {
        self.default_keyspace = Some(value);
        self
    }

    /// Sets [`Options::reserve_bytes_max`](field@Options::reserve_bytes_max).
    #[must_use]
    pub fn reserve_bytes_max(mut self, value: u64) -> Options {
        self.reserve_bytes_max = value;
        self
    }

    /// Checks every option.
    ///
    /// # Errors
    /// `InvalidArgument` that names the option and its range.
    pub fn validate(&self) -> Result<()> {
        require(self.memtable_bytes >= 1024, "memtable_bytes must be 1024 or more")?;
        require(self.sealed_memtables_max >= 1, "sealed_memtables_max must be 1 or more")?;
        require(self.open_files_max >= 8, "open_files_max must be 8 or more")?;
        require(self.manifest_roll_bytes >= 64, "manifest_roll_bytes must be 64 or more")?;
        require(self.level0_slowdown <= self.level0_stop, "level0_slowdown must not be above level0_stop")?;
        match &self.default_keyspace {
            Some(keyspace) => {
                keyspace.validate()?;
                self.check_keyspace(KeyspaceId::DEFAULT_NAME, keyspace)
            }
            None => Ok(()),
        }
    }

    /// Returns the options as far as reading goes; what only concerns writing has its default, which is in range, and a
    /// stop that no keyspace's trigger is above.
    pub(crate) fn for_reading(self) -> Options {
        let Options { memtable_bytes, block_cache_bytes, open_files_max, default_keyspace, .. } = self;
        let writing = Options::default().level0_stop(usize::MAX);
        Options { memtable_bytes, block_cache_bytes, open_files_max, default_keyspace, ..writing }
    }

    /// Checks that a keyspace's options go with those of the database.
    ///
    /// # Errors
    /// `InvalidArgument` that names the keyspace and both options.
    pub(crate) fn check_keyspace(&self, name: &str, keyspace: &KeyspaceOptions) -> Result<()> {
        let trigger = keyspace.level0_compaction_trigger;
        if trigger <= self.level0_stop {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "keyspace {name:?} has level0_compaction_trigger {trigger}, which must not be above the database's \
             level0_stop {}: writes would stop before a merge is due",
            self.level0_stop
        )))
    }

    /// Returns how many bytes of the log wait in memory at most. A small database, as in a short test, meets this too.
    pub(crate) fn wal_held_len_max(&self) -> usize {
        self.memtable_bytes / 8
    }

    pub(crate) fn stall_limits(&self) -> StallLimits {
        StallLimits {
            sealed_max: self.sealed_memtables_max,
            level0_slowdown: self.level0_slowdown,
            level0_stop: self.level0_stop,
        }
    }
}

/// Options of a keyspace, fixed when it is created and stored with it; plain data. Each field has a method that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceOptions {
    /// The name of the comparator that orders its keys: `tinylsm.bytewise`, `tinylsm.reverse-bytewise`
    /// ([`ReverseBytewise`]: largest keys first), or the name of one that
    /// [`DbBuilder::comparator`](crate::db::builder::DbBuilder::comparator) was given. `tinylsm.bytewise`.
    pub comparator: String,
    /// How data blocks are packed. LZ4.
    pub compression: Compression,
    /// Bytes gathered into one block before packing, 64 to 1 MiB. 4096.
    pub block_bytes: usize,
    /// Bits of bloom filter a key, at most 24; 0 for none. 10.
    pub filter_bits_per_key: u8,
    /// Tables on level 0 that make a compaction due. 4.
    pub level0_compaction_trigger: usize,
    /// Target of level 1 in bytes. 256 MiB.
    pub level_base_bytes: u64,
    /// How many times larger each deeper level is. 10.
    pub level_multiplier: u64,
    /// Bytes at which compaction cuts a table. 64 MiB.
    pub table_bytes: u64,
}

impl Default for KeyspaceOptions {
    fn default() -> KeyspaceOptions {
        KeyspaceOptions {
            comparator: BYTEWISE_NAME.to_owned(),
            compression: Compression::Lz4,
            block_bytes: 4096,
            filter_bits_per_key: 10,
            level0_compaction_trigger: 4,
            level_base_bytes: 256 << 20,
            level_multiplier: 10,
            table_bytes: 64 << 20,
        }
    }
}

impl KeyspaceOptions {
    /// Returns options that go with [`Options::small`]: small tables, and levels that fill up soon.
    pub fn small() -> KeyspaceOptions {
        KeyspaceOptions {
            block_bytes: 512,
            level_base_bytes: 64 << 10,
            level_multiplier: 4,
            table_bytes: 16 << 10,
            ..KeyspaceOptions::default()
        }
    }

    /// Sets [`KeyspaceOptions::comparator`](field@KeyspaceOptions::comparator).
    #[must_use]
    pub fn comparator(mut self, value: impl Into<String>) -> KeyspaceOptions {
        self.comparator = value.into();
        self
    }

    /// Sets [`KeyspaceOptions::compression`](field@KeyspaceOptions::compression).
    #[must_use]
    pub fn compression(mut self, value: Compression) -> KeyspaceOptions {
        self.compression = value;
        self
    }

    /// Sets [`KeyspaceOptions::block_bytes`](field@KeyspaceOptions::block_bytes).
    #[must_use]
    pub fn block_bytes(mut self, value: usize) -> KeyspaceOptions {
        self.block_bytes = value;
        self
    }

    /// Sets [`KeyspaceOptions::filter_bits_per_key`](field@KeyspaceOptions::filter_bits_per_key).
    #[must_use]
    pub fn filter_bits_per_key(mut self, value: u8) -> KeyspaceOptions {
        self.filter_bits_per_key = value;
        self
    }

    /// Sets [`KeyspaceOptions::level0_compaction_trigger`](field@KeyspaceOptions::level0_compaction_trigger).
    #[must_use]
    pub fn level0_compaction_trigger(mut self, value: usize) -> KeyspaceOptions {
        self.level0_compaction_trigger = value;
        self
    }

    /// Sets [`KeyspaceOptions::level_base_bytes`](field@KeyspaceOptions::level_base_bytes).
    #[must_use]
    pub fn level_base_bytes(mut self, value: u64) -> KeyspaceOptions {
        self.level_base_bytes = value;
        self
    }

    /// Sets [`KeyspaceOptions::level_multiplier`](field@KeyspaceOptions::level_multiplier).
    #[must_use]
    pub fn level_multiplier(mut self, value: u64) -> KeyspaceOptions {
        self.level_multiplier = value;
        self
    }

    /// Sets [`KeyspaceOptions::table_bytes`](field@KeyspaceOptions::table_bytes).
    #[must_use]
    pub fn table_bytes(mut self, value: u64) -> KeyspaceOptions {
        self.table_bytes = value;
        self
    }

    /// Checks every option.
    ///
    /// # Errors
    /// `InvalidArgument` that names the option and its range.
    pub fn validate(&self) -> Result<()> {
        let name_len = self.comparator.len();
        require(
            (1..=limits::NAME_LEN_BYTES_MAX).contains(&name_len),
            "comparator needs a name of 1 to 255 bytes",
        )?;
        require((64..=1 << 20).contains(&self.block_bytes), "block_bytes must be 64 to 1048576")?;
        require(self.filter_bits_per_key <= 24, "filter_bits_per_key must be 24 or less")?;
        require(self.level0_compaction_trigger >= 1, "level0_compaction_trigger must be 1 or more")?;
        require(self.level_base_bytes >= 1, "level_base_bytes must be 1 or more")?;
        require(self.level_multiplier >= 2, "level_multiplier must be 2 or more")?;
        require(self.table_bytes >= 1024, "table_bytes must be 1024 or more")
    }

    /// Writes the options as they are stored: `name=value` lines. The comparator is stored beside them.
    pub(crate) fn to_text(&self) -> String {
        let compression = match self.compression {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
        };
        format!(
            "compression={compression}\nblock_bytes={}\nfilter_bits_per_key={}\nlevel0_compaction_trigger={}\n\
             level_base_bytes={}\nlevel_multiplier={}\ntable_bytes={}\n",
            self.block_bytes,
            self.filter_bits_per_key,
            self.level0_compaction_trigger,
            self.level_base_bytes,
            self.level_multiplier,
            self.table_bytes
        )
    }

    /// Reads stored options. A name that this version does not know is refused: it may change what data mean.
    pub(crate) fn from_text(comparator: &str, text: &str) -> Result<KeyspaceOptions, String> {
        let mut options = KeyspaceOptions { comparator: comparator.to_owned(), ..KeyspaceOptions::default() };
        for line in text.lines() {
            let (name, value) =
                line.split_once('=').ok_or_else(|| format!("option line {line:?} has no value"))?;
            let number =
                || value.parse::<u64>().map_err(|_| format!("option {name} has no number: {value:?}"));
            let size = || {
                number().and_then(|n| usize::try_from(n).map_err(|_| format!("option {name} is too large")))
            };
            match name {
                "compression" => {
                    options.compression = match value {
                        "none" => Compression::None,
                        "lz4" => Compression::Lz4,
                        _ => return Err(format!("compression {value:?} is unknown")),
                    }
                }
                "block_bytes" => options.block_bytes = size()?,
                "filter_bits_per_key" => {
                    options.filter_bits_per_key =
                        u8::try_from(number()?).map_err(|_| format!("option {name} is too large"))?;
                }
                "level0_compaction_trigger" => options.level0_compaction_trigger = size()?,
                "level_base_bytes" => options.level_base_bytes = number()?,
                "level_multiplier" => options.level_multiplier = number()?,
                "table_bytes" => options.table_bytes = number()?,
                _ => return Err(format!("option {name:?} is unknown")),
            }
        }
        options.validate().map_err(|error| error.to_string())?;
        Ok(options)
    }

    pub(crate) fn table_options(&self) -> TableOptions {
        let filter = match self.filter_bits_per_key {
            0 => FilterPolicy::None,
            bits_per_key => FilterPolicy::Bloom { bits_per_key },
        };
        TableOptions { block_len_bytes: self.block_bytes, compression: self.compression, filter }
    }

    pub(crate) fn level_limits(&self) -> LevelLimits {
        LevelLimits {
            level0_trigger: self.level0_compaction_trigger,
            level_base_bytes: self.level_base_bytes,
            level_multiplier: self.level_multiplier,
        }
    }
}

/// Options of one write. A [`Durability`] becomes one, so that it can stand for them.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// use tinylsm::{Db, Durability, WriteBatch};
/// let db = Db::open_in_memory()?;
/// let mut batch = WriteBatch::new();
/// batch.put(db.default_keyspace(), "a", "1").delete(db.default_keyspace(), "b");
/// db.write(batch, Durability::Disk)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteOptions {
    /// What the write survives; by default what [`Options::durability`] says.
    pub durability: Option<Durability>,
}

impl From<Durability> for WriteOptions {
    fn from(durability: Durability) -> WriteOptions {
        WriteOptions { durability: Some(durability) }
    }
}

impl From<&WriteOptions> for WriteOptions {
    fn from(options: &WriteOptions) -> WriteOptions {
        *options
    }
}

impl WriteOptions {
    /// Sets what the write survives.
    #[must_use]
    pub fn durability(mut self, value: Durability) -> WriteOptions {
        self.durability = Some(value);
        self
    }

    /// Asks for [`Durability::Disk`].
    pub fn disk() -> WriteOptions {
        WriteOptions { durability: Some(Durability::Disk) }
    }

    /// Asks for [`Durability::Os`].
    pub fn os() -> WriteOptions {
        WriteOptions { durability: Some(Durability::Os) }
    }

    /// Asks for [`Durability::None`].
    pub fn none() -> WriteOptions {
        WriteOptions { durability: Some(Durability::None) }
    }
}

/// Who runs flushes and compactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Background {
    /// So many threads of the database's own, 1 to 64. With two or more, one is always left for flushes.
    Threads(usize),
    /// Threads that many databases share.
    Shared(Runtime),
    /// The caller, with `Db::background_step`. A write that would have to wait runs the due jobs itself.
    Manual,
}

impl Default for Background {
    fn default() -> Background {
        Background::Threads(2)
    }
}

/// The comparators that a database can look up by stored name.
#[derive(Clone, Default)]
pub(crate) struct Comparators {
    added: Vec<Arc<dyn Comparator>>,
}

impl Comparators {
    pub(crate) fn add(&mut self, comparator: Arc<dyn Comparator>) {
        self.added.push(comparator);
    }

    /// Finds a comparator by name; `keyspace` is for the texts of errors, those of its panics too.
    pub(crate) fn find(&self, name: &str, keyspace: &str) -> Result<KeyOrder> {
        if name == BYTEWISE_NAME {
            return Ok(KeyOrder::Bytewise);
        }
        if let Some(found) = self.added.iter().rev().find(|comparator| comparator.name() == name) {
            let order = KeyOrder::custom(Arc::clone(found));
            order.note_keyspace(keyspace);
            return Ok(order);
        }
        if name == ReverseBytewise.name() {
            return Ok(KeyOrder::custom(Arc::new(ReverseBytewise)));
        }
        let added = self.added.iter().map(|comparator| comparator.name());
        let known: Vec<&str> = [BYTEWISE_NAME, REVERSE_BYTEWISE_NAME].into_iter().chain(added).collect();
        let message = format!(
            "keyspace {keyspace:?} is ordered by comparator {name:?}, which is unknown here; known are {}, and \
             only a program that adds it can open the database",
            known.join(", ")
        );
        Err(Error::new(ErrorKind::Incompatible, message))
    }
}

fn require(is_met: bool, rule: &str) -> Result<()> {
    if is_met { Ok(()) } else { Err(Error::invalid(rule)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_options_come_back_and_unknown_ones_are_refused() {
        let options =
            KeyspaceOptions { compression: Compression::None, table_bytes: 4096, ..Default::default() };
        let text = options.to_text();
        assert_eq!(KeyspaceOptions::from_text(&options.comparator, &text), Ok(options));
        assert!(KeyspaceOptions::from_text("c", "merge_operator=sum\n").is_err());
        assert!(KeyspaceOptions::from_text("c", "block_bytes=1\n").is_err());
    }

    #[test]
    fn an_unknown_comparator_is_told_which_are_known() {
        assert!(Comparators::default().find(REVERSE_BYTEWISE_NAME, "k").is_ok());
        let error = Comparators::default().find("mine", "k").expect_err("nobody gave it");
        for name in ["\"k\"", "\"mine\"", BYTEWISE_NAME, REVERSE_BYTEWISE_NAME] {
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn defaults_are_valid() {
        Options::default().validate().expect("defaults");
        Options::small().validate().expect("small ones");
    }
}
