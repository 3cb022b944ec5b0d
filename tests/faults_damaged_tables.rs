//! A table that is damaged or missing: merges go around it, it stays named for as long as it is so, and it is counted as
//! what it is.

mod common;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{keyspace_of, noise, tiny};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::Mutex;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::vfs::wrap::VfsWrapper;
use tinylsm::vfs::{Advice, ReadFile, Vfs};
use tinylsm::{
    Background, Compression, Db, DbBuilder, Error, ErrorKind, KeyspaceOptions, Options, Result, UnixMillis,
};
use watchdog::within;

const KEYS_COUNT: u64 = 100;

/// Options under which the keys make many tables, all of them on one level.
fn options() -> Options {
    let mut options = tiny().memtable_bytes(16 << 10).block_cache_bytes(0);
    keyspace_of(&mut options).table_bytes = 1024;
    keyspace_of(&mut options).level_base_bytes = 1 << 30;
    options
}

fn builder(disk: &MemVfs, background: &Background) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(options()).background(background.clone())
}

fn key(i: u64) -> String {
    format!("key{i:03}")
}

fn tables_of(disk: &MemVfs) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|path| path.to_string_lossy().ends_with(".sst")).collect()
}

/// Makes a database of many tables without the last of them, which holds the last keys. It is closed.
fn without_the_last_table(disk: &MemVfs) {
    let db = builder(disk, &Background::Manual).open().expect("opens");
    for round in 0..2 {
        for i in 0..KEYS_COUNT {
            db.put(key(i), noise(i + round * 1000, 200)).expect("puts");
        }
        db.flush().expect("flushes");
    }
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    db.wait_idle().expect("idle");
    db.close().expect("closes");
    let tables = tables_of(disk);
    assert!(tables.len() > 5, "{} tables", tables.len());
    disk.remove_file(tables.last().expect("counted")).expect("it is there");
    let error = builder(disk, &Background::Manual).open().map(drop).expect_err("a table is missing");
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error:?}");
}

// ---- Missing tables ----

/// The sound ranges of a keyspace without one of its tables are written as ever, for as long as one likes.
#[test]
fn a_missing_table_stops_no_writes_to_other_ranges() {
    for background in [Background::Manual, Background::Threads(2)] {
        within(move || {
            let disk = MemVfs::new();
            without_the_last_table(&disk);
            let db = builder(&disk, &background).degraded(true).open().expect("opens degraded");
            // Several times what stops writes if nothing is merged.
            for i in 0..8000 {
                db.put(key(i % 10), noise(i, 200)).unwrap_or_else(|error| {
                    let level0_count = db.stats().keyspaces[0].levels[0].files;
                    panic!("{background:?}: put {i}, with {level0_count} tables on level 0: {error:?}");
                });
            }
            assert!(db.get(key(KEYS_COUNT - 1)).is_err(), "{background:?}: the table is still missing");
            assert_eq!(db.background_errors().len(), 1, "{:?}", db.background_errors());
        });
    }
}

/// A merge of another range does not make a missing table forgotten.
#[test]
fn a_missing_table_stays_named_after_a_merge_elsewhere() {
    let disk = MemVfs::new();
    without_the_last_table(&disk);
    let db = builder(&disk, &Background::Manual).degraded(true).open().expect("opens degraded");
    let named = || db.background_errors().into_iter().map(|told| told.error).collect::<Vec<Error>>();
    let before = named();
    assert_eq!(before.len(), 1, "{before:?}");
    db.put(key(0), "new").expect("puts");
    db.compact_range(db.default_keyspace(), key(0)..key(5)).expect("this range is whole");
    let after = named();
    assert_eq!(after.len(), 1, "{after:?}");
    assert_eq!(after[0].file(), before[0].file());
    let error = db.get(key(KEYS_COUNT - 1)).expect_err("the table is still missing");
    assert_eq!(error.file(), before[0].file());
}

/// Nor does anything that a database does that is open for reading only.
#[test]
fn a_missing_table_stays_named_in_a_read_only_database() {
    let disk = MemVfs::new();
    without_the_last_table(&disk);
    let db = builder(&disk, &Background::Manual).degraded(true).open_read_only().expect("opens degraded");
    db.wait_idle().expect("nothing is due");
    // A reader has nothing to resume.
    drop(db.resume());
    assert_eq!(db.background_errors().len(), 1, "{:?}", db.background_errors());
    assert!(db.verify().is_err());
    let mut told_count = 0;
    db.verify_all(|_, _| told_count += 1).expect("goes on behind what it finds");
    assert_eq!(told_count, 1);
    db.close().expect("closes");
}

/// A missing table counts neither as bytes on the disk nor as a file there.
#[test]
fn a_missing_table_takes_no_space() {
    let disk = MemVfs::new();
    without_the_last_table(&disk);
    let options = options().wal_preallocate_bytes(0).reserve_bytes_max(0);
    let builder = builder(&disk, &Background::Manual).options(options).degraded(true);
    let db = builder.open().expect("opens degraded");
    db.wait_idle().expect("idle");
    let stats = db.stats();
    // Whose length `disk_bytes` leaves out, as its documentation says.
    let files = disk.files().into_iter().filter(|path| !path.ends_with("CURRENT"));
    let there: u64 = files.map(|path| disk.metadata(&path).expect("listed").len).sum();
    assert_eq!(stats.disk_bytes, there, "live files: {:?}", stats.live_files);
    let named_count = stats.live_files.iter().filter(|name| name.ends_with(".sst")).count();
    assert_eq!(named_count, tables_of(&disk).len(), "live files: {:?}", stats.live_files);
}

// ---- Damaged blocks ----

/// Makes a database in which a merge has met a damaged block.
fn with_damage_met(clock: &ManualClock) -> (MemVfs, Db, PathBuf) {
    let disk = MemVfs::with_clock(clock.clone());
    let options = Options::default().memtable_bytes(64 << 10).block_cache_bytes(0);
    let builder = Db::builder("/db").vfs(Arc::new(disk.clone())).options(options);
    let db = builder.background(Background::Manual).open().expect("opens");
    for round in 0..2 {
        for i in 0..KEYS_COUNT {
            db.put(key(i), noise(i + round * 1000, 200)).expect("puts");
        }
        db.flush().expect("flushes");
    }
    let damaged = tables_of(&disk).swap_remove(0);
    turn_a_byte(&disk, &damaged);
    let error = db.compact_range(db.default_keyspace(), ..).expect_err("an input is damaged");
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error:?}");
    assert_eq!(db.background_errors().len(), 1, "{:?}", db.background_errors());
    (disk, db, damaged)
}

/// Damages a block of a table, or undoes that.
fn turn_a_byte(disk: &MemVfs, table: &Path) {
    disk.flip(table, 50, 0x10).expect("the byte is there");
}

/// What may go by, or be called, without any effect on a damaged block. Whether the call says so itself is open.
type Event = (&'static str, fn(&ManualClock, &Db));

const EVENTS: [Event; 3] = [
    ("eleven minutes", |clock, db| {
        clock.advance(Duration::from_secs(660));
        work(db);
    }),
    ("wait_idle", |_, db| drop(db.wait_idle())),
    ("resume", |_, db| {
        drop(db.resume());
        work(db);
    }),
];

/// Does what is due, until that is nothing or fails.
fn work(db: &Db) {
    while db.background_step().unwrap_or(true) {}
}

/// A damaged block that a merge has met stays named for as long as it is damaged, and no longer.
#[test]
fn a_damaged_block_stays_named_until_it_is_mended() {
    for (what, happen) in EVENTS {
        within(move || {
            let clock = ManualClock::new(UnixMillis(0));
            let (disk, db, damaged) = with_damage_met(&clock);
            for time in 0..3 {
                happen(&clock, &db);
                let told = db.background_errors();
                assert_eq!(told.len(), 1, "after {what}, time {time}: {told:?}");
                let file = told[0].error.file().expect("it is a table's");
                assert!(file.ends_with(damaged.file_name().expect("a file")), "after {what}: {told:?}");
                db.verify().expect_err("it is as damaged as before");
            }
            turn_a_byte(&disk, &damaged);
            db.resume().expect("tries again");
            db.compact_range(db.default_keyspace(), ..).expect("nothing is damaged");
            work(&db);
            assert!(db.background_errors().is_empty(), "{:?}", db.background_errors());
            db.verify().expect("sound");
        });
    }
}

// ---- Damage anywhere ----

/// Whichever table is damaged: steps come to rest, few of them fail, and writing goes on away from the damage.
#[test]
fn damage_to_any_table_keeps_nobody_busy() {
    within(|| {
        let builder = |disk: &MemVfs| {
            let options = tiny().memtable_bytes(2 << 10).block_cache_bytes(0);
            Db::builder("/db").vfs(Arc::new(disk.clone())).options(options).background(Background::Manual)
        };
        let make = || {
            let disk = MemVfs::new();
            let db = builder(&disk).open().expect("opens");
            for i in 0..160 {
                db.put(key(i), noise(i, 100)).expect("puts");
                if i % 20 == 19 {
                    db.flush().expect("flushes");
                    db.wait_idle().expect("idle");
                }
            }
            db.close().expect("closes");
            disk
        };
        let tables = tables_of(&make());
        assert!(tables.len() > 5, "{} tables", tables.len());
        for table in tables {
            let disk = make();
            disk.flip(&table, 3, 1).expect("it is there");
            let db = builder(&disk).open().expect("opens");
            let mut failures_count = 0;
            for round in 0..12 {
                for i in 0..20 {
                    let i = (i * 7 + round * 31) % 160;
                    // Where level 0 overlaps the damage, writers may come to wait for it.
                    if let Err(error) = db.put(key(i), noise(i + 1000 * round, 100)) {
                        assert_eq!(error.kind(), ErrorKind::Busy, "{table:?}: {error:?}");
                    }
                }
                loop {
                    match db.background_step() {
                        Ok(false) => break,
                        Ok(true) => {}
                        Err(_) => failures_count += 1,
                    }
                    assert!(failures_count < 50, "{table:?}: steps fail without end");
                }
            }
            // Whoever asks for everything to be merged meets it, unless all that it held is written anew.
            if let Err(error) = db.compact_range(db.default_keyspace(), ..) {
                assert_eq!(error.file(), Some(&*Path::new("/").join(&table)), "{error:?}");
                let told = db.background_errors();
                assert!(told.iter().any(|told| told.error.file() == error.file()), "{told:?}");
            } else {
                assert!(!disk.files().contains(&table), "{table:?} is merged, damaged as it is");
            }
        }
    });
}

// ---- Bad sectors, and small writes beside damage ----

/// The tables that are bad, and how reads of them fail.
type Bad = (Vec<PathBuf>, ErrorKind);

/// Reads of some tables fail at their beginning, or bring a wrong byte.
#[derive(Clone)]
struct BadSectors {
    disk: Arc<dyn Vfs>,
    bad: Arc<Mutex<Option<Bad>>>,
}

struct BadFile {
    file: Arc<dyn ReadFile>,
    path: PathBuf,
    sectors: BadSectors,
}

impl ReadFile for BadFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let bad =
            self.sectors.bad.lock().clone().filter(|(paths, _)| offset < 64 && paths.contains(&self.path));
        match bad {
            Some((_, ErrorKind::Io)) => {
                let error = Error::new(ErrorKind::Io, "a bad sector").with_operation("read");
                Err(error.with_file(&self.path))
            }
            Some(_) => {
                let count = self.file.read_at(buffer, offset)?;
                buffer[0] ^= 1;
                Ok(count)
            }
            None => self.file.read_at(buffer, offset),
        }
    }
    fn len(&self) -> Result<u64> {
        self.file.len()
    }
    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        self.file.advise(advice, offset, len);
    }
}

impl VfsWrapper for BadSectors {
    fn inner(&self) -> &Arc<dyn Vfs> {
        &self.disk
    }
    fn around(&self, inner: Arc<dyn Vfs>) -> BadSectors {
        BadSectors { disk: inner, bad: Arc::clone(&self.bad) }
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        let file = self.disk.open(path)?;
        Ok(Arc::new(BadFile { file, path: path.to_owned(), sectors: self.clone() }))
    }
}

/// A table that cannot be read stops no more than one that is wrong: merges go around it, and writes elsewhere go on.
#[test]
fn a_bad_sector_stops_no_more_than_damage_does() {
    for kind in [ErrorKind::Corruption, ErrorKind::Io] {
        within(move || {
            let clock = ManualClock::new(UnixMillis(1_000_000));
            let disk = MemVfs::with_clock(clock.clone());
            let sectors = BadSectors { disk: Arc::new(disk.clone()), bad: Arc::default() };
            let keyspace = KeyspaceOptions::small().level_base_bytes(32 << 10).compression(Compression::None);
            let options = Options::small().default_keyspace(keyspace).block_cache_bytes(0);
            let builder = Db::builder("/db").vfs(Arc::new(sectors.clone())).options(options);
            let db = builder.background(Background::Manual).open().expect("opens");
            let number = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            for i in 0..6000 {
                db.put(format!("a{:05}", number(i) % 3000), [1; 100]).expect("puts");
            }
            db.flush().expect("flushes");
            while db.background_step().expect("merges") {}
            let tables = tables_of(&disk).into_iter().map(|path| Path::new("/").join(path));
            *sectors.bad.lock() = Some((tables.collect(), kind));
            for round in 0..150 {
                for i in 0..100 {
                    let put = db.put(format!("z{:05}", number(round * 100 + i) % 3000), [3; 100]);
                    put.unwrap_or_else(|error| panic!("{kind:?}, round {round}: {error}"));
                }
                for _ in 0..50 {
                    drop(db.background_step());
                }
                // Longer than a pause of the job.
                clock.advance(Duration::from_secs(11));
            }
            assert!(!db.background_errors().is_empty(), "what cannot be read is told");
        });
    }
}

/// Beside a damaged table, much garbage that cannot be merged away is no reason to seal each small write.
#[test]
fn small_writes_beside_damage_are_not_sealed_one_by_one() {
    within(|| {
        let clock = ManualClock::new(UnixMillis(1_000_000));
        let disk = MemVfs::with_clock(clock.clone());
        let options = Options::default().reserve_bytes_max(0).memtable_bytes(1 << 20);
        let builder = Db::builder("/db").vfs(Arc::new(disk.clone())).options(options);
        let db = builder.background(Background::Manual).open().expect("opens");
        for i in 0..10_000 {
            db.put(format!("{i:05}"), noise(i, 150)).expect("puts");
        }
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        db.wait_idle().expect("idle");
        let table = tables_of(&disk).pop().expect("there is one");
        disk.flip(&table, 10, 1).expect("it is there");
        for i in 0..9_000 {
            db.delete(format!("{i:05}")).expect("deletes");
        }
        drop(db.flush());
        drop(db.wait_idle());
        let before = db.stats().flushes;
        for count in 0..100 {
            db.put("00007", format!("{count}")).unwrap_or_else(|error| panic!("write {count}: {error}"));
            drop(db.background_step());
            clock.advance(Duration::from_secs(3));
            for _ in 0..50 {
                drop(db.background_step());
            }
        }
        let flushes = db.stats().flushes - before;
        assert!(flushes < 10, "{flushes} flushes of a hundred small writes");
    });
}
