//! A database of which a part is missing or damaged: opened degraded it gives the rest, names what is wrong, and harms
//! nothing.

mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{Model, contents, keyspace_of, tiny};
use hooked::{HookedVfs, Op};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{Background, Db, DbBuilder, Error, ErrorKind, Iter, Keyspace, Options};
use watchdog::within;

fn options() -> Options {
    let mut options = tiny();
    options.memtable_bytes = 64 << 10;
    options.block_cache_bytes = 0;
    keyspace_of(&mut options).table_bytes = 1024;
    keyspace_of(&mut options).level_base_bytes = 1 << 30;
    options
}

fn builder(disk: &MemVfs) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(options()).background(Background::Manual)
}

const NAMES: [&str; 3] = ["default", "bad", "good"];

fn key(i: usize) -> String {
    format!("key{i:03}")
}

/// Bytes that do not pack.
fn noise(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[7]
    };
    (0..200).map(|_| next()).collect()
}

/// A closed database whose keyspaces have several tables each on one level.
struct Ground {
    disk: MemVfs,
    expected: Model,
    /// The tables of keyspace `bad`, with their bytes.
    tables: Vec<(PathBuf, Vec<u8>)>,
}

impl Ground {
    fn new() -> Ground {
        let disk = MemVfs::new();
        let db = builder(&disk).open().expect("opens");
        for name in &NAMES[1..] {
            db.create_keyspace(name, keyspace_of(&mut options()).clone()).expect("creates");
        }
        let mut expected = Model::new();
        let mut tables = Vec::new();
        for name in NAMES {
            let before = tables_of(&db);
            let keyspace = db.keyspace(name).expect("there");
            for round in 0..2 {
                for i in 0..40 {
                    keyspace.put(key(i), noise(i + round)).expect("puts");
                    expected.insert(key(i).into_bytes(), noise(i + round));
                }
                db.flush().expect("flushes");
            }
            db.compact_range(&keyspace, ..).expect("merges");
            db.wait_idle().expect("idle");
            if name == "bad" {
                tables = tables_of(&db).into_iter().filter(|table| !before.contains(table)).collect();
            }
        }
        assert!(tables.len() >= 4, "{} tables", tables.len());
        db.close().expect("closes");
        let with_bytes = |path: PathBuf| {
            let bytes = disk.read(&path).expect("live");
            (path, bytes)
        };
        let tables = tables.into_iter().map(with_bytes).collect();
        Ground { disk, expected, tables }
    }

    /// The second of the damaged keyspace's tables, which holds keys in the middle.
    fn victim(&self) -> &Path {
        &self.tables[1].0
    }

    fn harm(&self, harm: Harm) {
        match harm {
            Harm::Removed => self.disk.remove_file(self.victim()).expect("it is there"),
            Harm::Damaged => {
                let len = self.tables[1].1.len() as u64;
                self.disk.flip(self.victim(), len - 10, 0x40).expect("the byte is there");
            }
            Harm::Cut => self.disk.truncate(self.victim(), 100).expect("it is there"),
        }
    }

    fn mend(&self) {
        let (path, bytes) = &self.tables[1];
        self.disk.write(path, bytes).expect("memory does not fail");
    }

    #[track_caller]
    fn check_names_the_victim(&self, what: &str, error: &Error) {
        assert_eq!(error.kind(), ErrorKind::Corruption, "{what}: {error:?}");
        assert_eq!(error.file(), Some(self.victim()), "{what}: {error:?}");
    }
}

/// What happened to a table.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Removed,
    Damaged,
    Cut,
}

const HARMS: [Harm; 3] = [Harm::Removed, Harm::Damaged, Harm::Cut];

fn tables_of(db: &Db) -> Vec<PathBuf> {
    let names = db.stats().live_files.into_iter().filter(|name| name.ends_with(".sst"));
    names.map(|name| Path::new("/db").join(name)).collect()
}

/// Returns the keys that a scan gives before it fails, and how it fails.
fn split(items: impl Iterator<Item = <Iter as Iterator>::Item>) -> (Vec<String>, Option<Error>) {
    let mut keys = Vec::new();
    for item in items {
        match item {
            Ok((key, _)) => keys.push(String::from_utf8(key.to_vec()).expect("text")),
            Err(error) => return (keys, Some(error)),
        }
    }
    (keys, None)
}

/// Reads every key of the harmed keyspace; returns which can be read.
fn readable(ground: &Ground, bad: &Keyspace) -> Vec<usize> {
    let is_readable = |i: &usize| match bad.get(key(*i)) {
        Ok(value) => {
            let expected = ground.expected.get(key(*i).as_bytes()).map(Vec::as_slice);
            assert_eq!(value.as_deref(), expected, "a wrong answer for {}", key(*i));
            true
        }
        Err(error) => {
            ground.check_names_the_victim("get", &error);
            false
        }
    };
    (0..40).filter(is_readable).collect()
}

/// Without the option a missing or damaged table forbids opening; with it the rest is read and written, and what is
/// wrong is named.
#[test]
fn a_database_without_one_of_its_tables_is_opened_degraded() {
    for harm in HARMS {
        within(move || {
            let ground = Ground::new();
            ground.harm(harm);
            let error = builder(&ground.disk).open().map(drop).expect_err("a table is missing");
            ground.check_names_the_victim("opening", &error);
            let text = error.to_string();
            assert!(text.contains("\"bad\"") && text.contains("a degraded opening goes without"), "{text}");
            let db = builder(&ground.disk).degraded(true).open().expect("opens degraded");
            let [plain, bad, good] = NAMES.map(|name| db.keyspace(name).expect("there"));
            let errors = db.background_errors();
            assert_eq!(errors.len(), 1, "{harm:?}: {errors:?}");
            assert_eq!(errors[0].keyspace.as_deref(), Some("bad"));
            ground.check_names_the_victim("background_errors", &errors[0].error);
            ground.check_names_the_victim("background_error", &db.background_error().expect("one"));
            let readable = readable(&ground, &bad);
            assert!((10..40).contains(&readable.len()), "{harm:?}: {} of 40 keys are read", readable.len());
            let lost: Vec<usize> = (0..40).filter(|i| !readable.contains(i)).collect();
            let (first_lost, last_lost) = (lost[0], lost[lost.len() - 1]);
            let (keys, error) = split(bad.iter().expect("open"));
            ground.check_names_the_victim("a scan", &error.expect("a table is missing"));
            assert_eq!(
                keys,
                (0..first_lost).map(key).collect::<Vec<_>>(),
                "rows in front of what is missing"
            );
            let (keys, error) = split(bad.range(key(last_lost + 1)..).expect("open"));
            assert!(error.is_none() && keys.len() == 39 - last_lost, "a range behind it: {error:?}");
            for keyspace in [&plain, &good] {
                assert_eq!(contents(keyspace), ground.expected);
            }
            assert!(db.verify().is_err(), "verify passes over what is missing");
            let mut damaged = Vec::new();
            let report = db.verify_all(|keyspace, error| {
                ground.check_names_the_victim("verify_all", &error);
                damaged.push(keyspace.to_owned());
            });
            assert_eq!(damaged, ["bad"]);
            let levels = db.stats().keyspaces.into_iter().flat_map(|keyspace| keyspace.levels);
            let named_count: usize = levels.map(|level| level.files).sum();
            assert_eq!(report.expect("open").files as usize, named_count - 1, "{harm:?}");
        });
    }
}

/// A degraded database is written as ever; no merge removes or drops anything of the harmed part, and once the table is
/// back the database opens whole.
#[test]
fn a_degraded_database_is_written_and_loses_nothing_more() {
    for harm in HARMS {
        within(move || {
            let ground = Ground::new();
            ground.harm(harm);
            let db = builder(&ground.disk).degraded(true).open().expect("opens degraded");
            let keyspaces = NAMES.map(|name| db.keyspace(name).expect("there"));
            let mut expected = ground.expected.clone();
            for round in 0..5 {
                for i in 40..60 {
                    for keyspace in &keyspaces {
                        keyspace.put(key(i), noise(i * round)).expect("puts");
                    }
                    expected.insert(key(i).into_bytes(), noise(i * round));
                }
                for keyspace in &keyspaces {
                    keyspace.delete(key(0)).expect("deletes");
                }
                expected.remove(key(0).as_bytes());
                db.flush().expect("flushes");
            }
            for keyspace in [&keyspaces[0], &keyspaces[2]] {
                db.compact_range(keyspace, ..).expect("merges");
                assert_eq!(contents(keyspace), expected);
            }
            let error = db.compact_range(&keyspaces[1], ..).expect_err("an input is missing");
            ground.check_names_the_victim("compact_range", &error);
            drop(keyspaces);
            db.close().expect("closes");
            for (path, bytes) in ground.tables.iter().filter(|(path, _)| path != ground.victim()) {
                assert!(ground.disk.read(path).is_ok_and(|now| now == *bytes), "{} is gone", path.display());
            }
            let error = builder(&ground.disk).open().map(drop).expect_err("it is still missing");
            ground.check_names_the_victim("opening again", &error);
            ground.mend();
            let db = builder(&ground.disk).open().expect("whole again");
            assert!(db.background_errors().is_empty(), "{:?}", db.background_errors());
            for name in NAMES {
                assert_eq!(contents(&db.keyspace(name).expect("there")), expected, "{name}");
            }
            db.verify().expect("sound");
        });
    }
}

/// Reading degraded changes no byte.
#[test]
fn a_degraded_database_is_opened_for_reading_only_too() {
    let ground = Ground::new();
    ground.harm(Harm::Removed);
    let files = || {
        let with_bytes = |path: PathBuf| (ground.disk.read(&path).expect("listed"), path);
        ground.disk.files().into_iter().map(with_bytes).collect::<Vec<_>>()
    };
    let before = files();
    assert!(builder(&ground.disk).open_read_only().is_err());
    let db = builder(&ground.disk).degraded(true).open_read_only().expect("opens degraded");
    let bad = db.keyspace("bad").expect("there");
    assert!(readable(&ground, &bad).len() < 40);
    assert_eq!(contents(&db.keyspace("good").expect("there")), ground.expected);
    assert_eq!(db.background_errors().len(), 1);
    drop((db, bad));
    assert!(files() == before, "a reader changed a file");
}

/// A table that the system lets nobody open is as good as missing.
#[test]
fn a_degraded_opening_goes_without_a_table_that_may_not_be_opened() {
    let ground = Ground::new();
    let victim = ground.victim().to_owned();
    let disk = HookedVfs::over(ground.disk.clone());
    disk.set_hook(move |call| match call.op {
        Op::Open if call.path == victim => {
            let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            Err(Error::from_io("open", call.path, denied))
        }
        _ => Ok(()),
    });
    let open = || {
        let builder = Db::builder("/db").vfs(Arc::new(disk.clone())).options(options());
        builder.background(Background::Manual)
    };
    let error = open().open().map(drop).expect_err("it may not be opened");
    assert_eq!(error.file(), Some(ground.victim()), "{error:?}");
    assert!(error.to_string().contains("bad"), "{error}");
    let db = open().degraded(true).open().expect("opens degraded");
    assert_eq!(contents(&db.keyspace("good").expect("there")), ground.expected);
    assert_eq!(db.background_errors().len(), 1);
}

/// The option changes nothing for a sound database, and nothing excuses a damaged manifest or log.
#[test]
fn degraded_is_about_tables_only() {
    let ground = Ground::new();
    let db = builder(&ground.disk).degraded(true).open().expect("opens");
    assert!(db.background_errors().is_empty() && db.background_error().is_none());
    assert_eq!(contents(&db.keyspace("bad").expect("there")), ground.expected);
    db.close().expect("closes");
    // An older one may wait for its removal.
    let manifest = ground.disk.files().into_iter().rfind(|path| path.to_string_lossy().contains("MANIFEST"));
    ground.disk.flip(&manifest.expect("there is one"), 30, 1).expect("the byte is there");
    let error = builder(&ground.disk).degraded(true).open().map(drop).expect_err("the manifest is damaged");
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error:?}");
}

/// Each failure of the background is listed with its keyspace, until its own cause is gone.
#[test]
fn background_errors_are_listed_by_keyspace_until_their_cause_is_gone() {
    within(|| {
        let ground = Ground::new();
        let good_table = {
            let db = builder(&ground.disk).open().expect("opens");
            let all = tables_of(&db);
            all.last().expect("the last tables are of `good`").clone()
        };
        let db = builder(&ground.disk).open().expect("opens");
        // A byte of a data block: found by the merge that reads it and not when the table is opened. Open handles see
        // the change, and see it undone.
        let turn = |table: &Path| ground.disk.flip(table, 3, 1).expect("the byte is there");
        turn(ground.victim());
        turn(&good_table);
        let merge_due = || {
            for name in NAMES {
                let keyspace = db.keyspace(name).expect("there");
                for round in 0..2 {
                    for i in 0..40 {
                        keyspace.put(key(i), noise(i + round)).expect("puts");
                    }
                    db.flush().expect("flushes");
                }
            }
            for _ in 0..50 {
                if let Ok(false) = db.background_step() {
                    break;
                }
            }
        };
        let listed = || {
            let errors = db.background_errors();
            let mut names: Vec<String> = errors.into_iter().filter_map(|each| each.keyspace).collect();
            names.sort();
            names
        };
        merge_due();
        assert_eq!(listed(), ["bad", "good"]);
        turn(ground.victim());
        db.resume().expect("tries again");
        // What is merged around it need not read it again; this does.
        db.compact_range(&db.keyspace("bad").expect("there"), ..).expect("it is mended");
        assert_eq!(listed(), ["good"], "only the other cause is still there");
        turn(&good_table);
        db.resume().expect("tries again");
        db.compact_range(&db.keyspace("good").expect("there"), ..).expect("it is mended");
        while db.background_step().expect("works") {}
        assert!(db.background_errors().is_empty() && db.background_error().is_none());
        for name in NAMES {
            assert_eq!(contents(&db.keyspace(name).expect("there")).len(), 40);
        }
    });
}
