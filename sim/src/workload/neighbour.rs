//! Another database on the same disk, which nothing that happens to the first may touch.

use crate::disk::SimDisk;
use crate::workload::judge::{Context, Violation, violation};
use crate::workload::ownership::Ownership;
use tinylsm::{Background, Db, Error, Keyspace, KeyspaceOptions, Options};

/// Its directory.
pub const DIRECTORY: &str = "/neighbour";

/// What it holds.
const CONTENT: [(&str, &str); 3] = [("a", "neighbour's"), ("b", "neighbour's too"), ("k00", "a key of both")];

/// The other database, open.
#[derive(Clone)]
pub struct Neighbour {
    db: Db,
}

impl Neighbour {
    /// Opens it, or creates it and writes what it holds; `None` if the disk is in the way.
    ///
    /// # Errors
    /// What was wrong with it.
    pub fn open(
        context: &Context,
        disk: &SimDisk,
        failures_before: u64,
    ) -> Result<Option<Neighbour>, Violation> {
        let may_fail = || disk.is_off() || disk.failures_count() > failures_before;
        // Whoever flushes it twice makes a merge due.
        let keyspace = KeyspaceOptions::default().level0_compaction_trigger(2);
        let options =
            Options::default().memtable_bytes(4 << 10).wal_preallocate_bytes(0).default_keyspace(keyspace);
        let background = context.runtime.clone().map_or(Background::Manual, Background::Shared);
        let builder = Db::builder(DIRECTORY)
            .vfs(Ownership::of_neighbour(disk, context))
            .options(options)
            .background(background);
        let opened = builder.open().and_then(|db| {
            if db.last_seq().get() == 0 {
                CONTENT.iter().try_for_each(|(key, value)| db.put(key, value).map(drop))?;
            }
            Ok(Neighbour { db })
        });
        match opened {
            Ok(neighbour) => {
                neighbour.check(may_fail)?;
                Ok(Some(neighbour))
            }
            Err(_) if may_fail() => Ok(None),
            Err(error) => Err(violation("neighbour", format!("it does not open: {error:?}"))),
        }
    }

    /// Checks that it holds a beginning of what was written to it, and all of it where nothing went wrong.
    ///
    /// # Errors
    /// What it holds instead.
    pub fn check(&self, may_fail: impl Fn() -> bool) -> Result<(), Violation> {
        let content: Result<Vec<_>, Error> = self.db.iter().and_then(Iterator::collect);
        let content = match content {
            Ok(content) => content,
            Err(_) if may_fail() => return Ok(()),
            Err(error) => return Err(violation("neighbour", format!("it cannot be read: {error:?}"))),
        };
        // What comes behind the content is the content again.
        let count = usize::try_from(self.db.last_seq().get()).unwrap_or(usize::MAX).min(CONTENT.len());
        let is_right = CONTENT.get(..count).is_some_and(|expected| {
            let pairs = content.iter().map(|(key, value)| (&**key, &**value));
            pairs.eq(expected.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())))
        });
        if is_right { Ok(()) } else { Err(violation("neighbour", format!("it holds {content:?}"))) }
    }

    /// Writes what it holds once more, twice, so that it has something to flush and to merge, and waits for that.
    pub(in crate::workload) fn stir(&self) -> Result<(), Error> {
        for _ in 0..2 {
            CONTENT.iter().try_for_each(|(key, value)| self.db.put(key, value).map(drop))?;
            self.db.flush()?;
        }
        self.db.wait_idle()
    }

    /// Tells whether it has everything that it is to hold.
    pub(in crate::workload) fn is_whole(&self) -> bool {
        self.db.last_seq().get() >= CONTENT.len() as u64
    }

    pub(in crate::workload) fn keyspace(&self) -> &Keyspace {
        self.db.default_keyspace()
    }
}
