//! Databases apart from the run's own, each small and made for one question that clients would seldom come to ask.
//!
//! They lie on disks of their own, so that the run's model knows nothing of them: what they must hold is noted here. They
//! come last in a run, whose course does not depend on them; and many runs are nothing else, since these are short.

use crate::disk::SimDisk;
use crate::tape::Label;
use crate::workload::client::DIRECTORY;
use crate::workload::driver::Watcher;
use crate::workload::judge::{Context, Violation, violation};
use crate::workload::on_disk::OnDisk;
use crate::workload::orders::Fuse;
use crate::workload::quiet::{check_shape, jobs_of, names_of};
use crate::workload::swarm::draw_keyspace;
use crate::workload::{bad_sectors, clears, crowd, lives, readers, tight_disk};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tinylsm::format::names::FileName;
use tinylsm::vfs::Vfs;
use tinylsm::{Background, Compression, Db, Error, Keyspace, KeyspaceOptions, Slice};

/// A run has one in so many cases.
const ONE_IN: u64 = 10;

/// What a keyspace holds.
pub(in crate::workload) type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// Asks one of the questions now and then.
///
/// # Errors
/// The broken invariant.
pub(in crate::workload) fn judge(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    if !context.tape.chance(Label::Check, 1, ONE_IN) {
        return Ok(());
    }
    ask(context, watcher)
}

/// Asks one of the questions.
///
/// # Errors
/// The broken invariant.
pub(in crate::workload) fn ask(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    match context.tape.weighted(Label::Check, &[3, 3, 3, 4, 5, 6]) {
        0 => clears::judge(context, watcher),
        1 => bad_sectors::judge(context, watcher),
        2 => crowd::judge(context, watcher),
        3 => tight_disk::judge(context, watcher),
        4 => readers::judge(context, watcher),
        _ => lives::judge(context, watcher),
    }
}

fn open(context: &Context, disk: &SimDisk, background: Background, fuse: &Fuse) -> Result<Db, Error> {
    let options = context.swarm.options.clone().block_cache_bytes(0);
    context.copy_builder_with(disk, background, fuse).options(options).open()
}

/// Draws how many threads a database has, from one to `count_max`.
pub(in crate::workload) fn threads(context: &Context, count_max: u64) -> Background {
    Background::Threads(1 + usize::try_from(context.tape.below(Label::Check, count_max)).expect("small"))
}

/// A database apart.
pub(in crate::workload) struct Apart<'a> {
    pub(in crate::workload) context: &'a Context,
    pub(in crate::workload) disk: SimDisk,
    pub(in crate::workload) db: Db,
    /// Which question it is for: the oracle's name.
    question: &'static str,
    /// When its comparators panic.
    pub(in crate::workload) fuse: Fuse,
}

impl<'a> Apart<'a> {
    /// Creates one on a healthy disk that takes no time.
    pub(in crate::workload) fn create(
        (context, watcher): (&'a Context, Watcher),
        question: &'static str,
        background: Background,
    ) -> Result<Apart<'a>, Violation> {
        let disk = SimDisk::new(context.profile, context.tape.clone());
        watcher(&disk);
        let fuse = Fuse::default();
        let db = open(context, &disk, background, &fuse);
        let db = db.map_err(|error| violation(question, format!("open gives {error:?}")))?;
        Ok(Apart { context, disk, db, question, fuse })
    }

    /// Opens it again, after it was closed.
    pub(in crate::workload) fn reopen(&mut self, background: Background) -> Result<(), Violation> {
        self.db = self.well("opening it again", open(self.context, &self.disk, background, &self.fuse))?;
        Ok(())
    }

    pub(in crate::workload) fn below(&self, bound: u64) -> u64 {
        self.context.tape.below(Label::Check, bound)
    }

    pub(in crate::workload) fn broken(&self, what: &str) -> Violation {
        violation(self.question, what.to_owned())
    }

    /// Expects a call to go well.
    pub(in crate::workload) fn well<T>(&self, what: &str, result: Result<T, Error>) -> Result<T, Violation> {
        result.map_err(|error| self.broken(&format!("{what} gives {error:?}")))
    }

    /// Creates a keyspace whose values take the space that they have.
    pub(in crate::workload) fn keyspace(&self, name: &str) -> Result<Keyspace, Violation> {
        self.keyspace_with(name, |options| options)
    }

    /// As [`Apart::keyspace`], with some of its options changed.
    pub(in crate::workload) fn keyspace_with(
        &self,
        name: &str,
        change: impl FnOnce(KeyspaceOptions) -> KeyspaceOptions,
    ) -> Result<Keyspace, Violation> {
        let options = change(draw_keyspace(&self.context.tape).compression(Compression::None));
        self.well("create_keyspace", self.db.create_keyspace(name, options))
    }

    /// Puts a key, and notes it.
    pub(in crate::workload) fn put(
        &self,
        keyspace: &Keyspace,
        content: &mut Content,
        (number, value_len): (u64, usize),
    ) -> Result<(), Violation> {
        let key = format!("{number:04}").into_bytes();
        let value = format!("{}.{number}|", self.db.last_seq()).into_bytes();
        let value: Vec<u8> = value.iter().copied().cycle().take(value_len).collect();
        self.well("a put", keyspace.put(&key, &value))?;
        content.insert(key, value);
        Ok(())
    }

    /// Puts every one of `count` keys, and leaves nothing to be done.
    pub(in crate::workload) fn fill(
        &self,
        keyspace: &Keyspace,
        content: &mut Content,
        (count, value_len): (u64, usize),
    ) -> Result<(), Violation> {
        (0..count).try_for_each(|number| self.put(keyspace, content, (number, value_len)))?;
        self.well("a flush", self.db.flush())?;
        self.well("wait_idle", self.db.wait_idle())
    }

    /// Returns the tables that the manifest gives a keyspace.
    pub(in crate::workload) fn tables_of(&self, name: &str) -> Result<Vec<PathBuf>, Violation> {
        let on_disk = OnDisk::look(&self.disk);
        let on_disk = self.well("a look at the manifest", on_disk)?;
        let on_disk = on_disk.ok_or_else(|| self.broken("there is no manifest"))?;
        let id = self.id_of(name)?;
        let path = |number| FileName::Table(number).path(Path::new(DIRECTORY));
        Ok(on_disk.tables(id).map(|(_, meta)| path(meta.number)).collect())
    }

    /// Returns the number of a keyspace.
    pub(in crate::workload) fn id_of(&self, name: &str) -> Result<u32, Violation> {
        let figures = self.db.stats().keyspaces.into_iter().find(|figures| figures.name == name);
        figures.map(|figures| figures.id).ok_or_else(|| self.broken(&format!("{name:?} is not there")))
    }

    /// Returns how many bytes the tables of a keyspace have.
    pub(in crate::workload) fn bytes_of(&self, name: &str) -> u64 {
        let stats = self.db.stats();
        let figures = stats.keyspaces.iter().find(|figures| figures.name == name);
        figures.map_or(0, |figures| figures.levels.iter().map(|level| level.bytes).sum())
    }

    /// Compares what is read of a keyspace with what it must hold.
    pub(in crate::workload) fn check_content(
        &self,
        what: &str,
        pairs: Result<Vec<(Slice, Slice)>, Error>,
        content: &Content,
    ) -> Result<(), Violation> {
        let pairs = self.well(what, pairs)?;
        let found: Content = pairs.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        if found == *content {
            return Ok(());
        }
        let show = |content: &Content| {
            let pairs = content.iter().map(|(key, value)| {
                let value = &value[..value.len().min(16)];
                format!("{}={}", key.escape_ascii(), value.escape_ascii())
            });
            pairs.collect::<Vec<String>>().join(" ")
        };
        Err(self.broken(&format!("{what} shows {}, not {}", show(&found), show(content))))
    }

    /// Checks a database that has been left alone for long enough, with nothing wrong any more: it tells of no error, and has
    /// nothing left to do, whoever asks.
    pub(in crate::workload) fn check_rest(&self) -> Result<(), Violation> {
        let told = self.db.background_errors();
        if !told.is_empty() {
            return Err(self.broken(&format!("nothing is wrong any more, but it tells {told:?}")));
        }
        let before = self.db.stats();
        self.well("wait_idle", self.db.wait_idle())?;
        let stats = self.db.stats();
        if jobs_of(&before) != jobs_of(&stats) {
            let message = format!("left alone it did {:?}, asked {:?}", jobs_of(&before), jobs_of(&stats));
            return Err(self.broken(&message));
        }
        check_shape(&self.db, &stats, self.context.swarm.longest_value_len())?;
        self.check_files()
    }

    /// Checks that the directory is the live set.
    pub(in crate::workload) fn check_files(&self) -> Result<(), Violation> {
        let (names, live) = (names_of(&self.disk), self.db.stats().live_files);
        if names != live {
            return Err(self.broken(&format!("at rest the directory has {names:?}, it says {live:?}")));
        }
        Ok(())
    }

    pub(in crate::workload) fn sleep(&self, duration: Duration) {
        self.disk.sleep(duration);
    }
}
