//! Where the workloads run: fresh databases for the fills, one loaded database for everything that reads.

use crate::bench::BenchArguments;
use crate::bench::workload::{Permutation, Values};
use crate::escape::shown;
use crate::failure::{Failure, Outcome};
use std::path::{Path, PathBuf};
use tinylsm::{Db, Durability, Options};

/// The directory, the data and the loaded database of one run.
pub(crate) struct Stage {
    root: PathBuf,
    pub(crate) keys: u64,
    pub(crate) values: Values,
    cache_bytes: u64,
    /// The database that `fillrandom` makes and later steps use.
    loaded: Option<Loaded>,
}

/// The database that later steps use.
pub(crate) struct Loaded {
    pub(crate) db: Db,
    pub(crate) dir: PathBuf,
    /// What this process had written before the fill, for the write amplification; gone once something else writes.
    pub(crate) written_before: Option<u64>,
}

impl Stage {
    pub(crate) fn new(root: &Path, arguments: &BenchArguments) -> Stage {
        Stage {
            root: root.to_owned(),
            keys: arguments.keys,
            values: Values::new(arguments.value_bytes),
            cache_bytes: arguments.cache_mib << 20,
            loaded: None,
        }
    }

    /// Returns the order in which fills number `round` visit the keys.
    pub(crate) fn order(&self, round: u64) -> Permutation {
        Permutation::new(self.keys, 0xF111 + round)
    }

    /// Creates an empty database called `name`.
    pub(crate) fn fresh(&self, name: &str, durability: Durability) -> Outcome<(Db, PathBuf)> {
        let dir = self.root.join(name);
        if dir.exists() {
            return Err(Failure::Usage(format!("{} exists already; give a new directory", shown(&dir))));
        }
        let options = Options::default()
            .memtable_bytes(64 << 20)
            .block_cache_bytes(self.cache_bytes)
            .durability(durability);
        Ok((Db::builder(&dir).options(options).open()?, dir))
    }

    /// Closes and removes a database that was only there to be filled.
    pub(crate) fn discard(&self, db: Db, dir: &Path) -> Outcome {
        db.close()?;
        std::fs::remove_dir_all(dir).map_err(|error| Failure::system("cannot remove a database", &error))
    }

    /// Makes `loaded` the database of the later steps.
    pub(crate) fn keep(&mut self, loaded: Loaded) -> Outcome {
        if let Some(old) = self.loaded.replace(loaded) {
            self.discard(old.db, &old.dir)?;
        }
        Ok(())
    }

    /// Tells whether the loaded database is there.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.is_some()
    }

    /// Returns the loaded database.
    ///
    /// # Panics
    /// If no step has made one; the runner sees to that.
    pub(crate) fn loaded(&self) -> &Loaded {
        self.loaded.as_ref().expect("the runner fills the database before any step that reads it")
    }

    /// Forgets where the write amplification is counted from, because something else wrote.
    pub(crate) fn forget_written(&mut self) {
        if let Some(loaded) = &mut self.loaded {
            loaded.written_before = None;
        }
    }

    /// Closes the loaded database.
    pub(crate) fn close(self) -> Outcome {
        match self.loaded {
            Some(loaded) => Ok(loaded.db.close()?),
            None => Ok(()),
        }
    }
}
