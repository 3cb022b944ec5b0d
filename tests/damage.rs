//! Damage to a database that was closed in good order is always noticed.
//!
//! A small database has everything: two keyspaces in two orders, packed and plain blocks, tables on two levels, and
//! commits that are only in the log. Every byte of every file is changed, every file is cut short, every file is taken
//! away; each time a reader opens the database. Either that fails, naming the file, or every lookup and every scan
//! gives the right answer or an error that names the file. A wrong value, a missing key or a panic fails the test.

mod common;

use common::{Model, contents, tiny};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{
    Background, Comparator, Compression, Db, Error, ErrorKind, Iter, Keyspace, KeyspaceOptions, Options,
    ReverseBytewise,
};

/// The disk with the database in `/db`, and what each keyspace holds.
struct Ground {
    disk: Arc<MemVfs>,
    models: Vec<(&'static str, Model)>,
}

fn options() -> Options {
    let mut options = tiny();
    options.wal_preallocate_bytes = 256;
    options.memtable_bytes = 64 << 10;
    options.manifest_roll_bytes = 64 << 10;
    options.default_keyspace.level0_compaction_trigger = 10;
    options
}

fn write_generation(keyspace: &Keyspace, generation: usize) {
    for i in (generation..24).step_by(generation + 1) {
        let key = format!("key{i:02}");
        if (i + generation) % 4 == 3 {
            keyspace.delete(&key).expect("deletes");
        } else {
            let value = format!("{}{generation}{i}", "abc".repeat(i % 7));
            keyspace.put(&key, &value).expect("puts");
        }
    }
}

impl Ground {
    fn new() -> Ground {
        let disk = Arc::new(MemVfs::new());
        let builder = Db::builder("/db").vfs(disk.clone()).options(options());
        let db = builder.background(Background::Manual).open().expect("opens");
        let reverse = KeyspaceOptions {
            comparator: ReverseBytewise.name().to_owned(),
            compression: Compression::None,
            ..options().default_keyspace
        };
        let other = db.create_keyspace("other", reverse).expect("creates");
        let keyspaces = [db.default_keyspace().clone(), other];
        for generation in 0..3 {
            for keyspace in &keyspaces {
                write_generation(keyspace, generation);
            }
            if generation == 2 {
                break;
            }
            db.flush().expect("flushes");
            if generation == 0 {
                for keyspace in &keyspaces {
                    db.compact_range(keyspace, ..).expect("merges");
                }
            }
        }
        db.wait_idle().expect("idle");
        for keyspace in &db.stats().keyspaces {
            let filled = keyspace.levels.iter().filter(|level| level.files > 0).count();
            assert_eq!(filled, 2, "tables of {} lie on two levels", keyspace.name);
        }
        assert!(db.stats().memtable_bytes > 0, "some commits are only in the log");
        let models = vec![("default", contents(&keyspaces[0])), ("other", contents(&keyspaces[1]))];
        assert_ne!(models[0].1, Model::new());
        drop(keyspaces);
        db.close().expect("closes");
        Ground { disk, models }
    }

    /// Lists the files that hold bytes.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let with_bytes = |path: PathBuf| {
            let bytes = self.disk.read(&path).expect("listed");
            (path, bytes)
        };
        self.disk.files().into_iter().map(with_bytes).filter(|(_, bytes)| !bytes.is_empty()).collect()
    }

    /// Reads everything from the damaged disk; tells whether any error was met.
    fn read_all(&self, damaged: &Path) -> bool {
        let builder = Db::builder("/db").vfs(self.disk.clone()).options(options());
        let db = match builder.background(Background::Manual).open_read_only() {
            Ok(db) => db,
            Err(error) => {
                check_error(&error, damaged);
                return true;
            }
        };
        let mut is_noticed = false;
        for (name, model) in &self.models {
            let keyspace = match db.keyspace(name) {
                Ok(keyspace) => keyspace,
                Err(error) => panic!("keyspace {name} is gone without a word: {error}"),
            };
            for i in 0..26 {
                let key = format!("key{i:02}");
                match keyspace.get(&key) {
                    Ok(value) => {
                        let expected = model.get(key.as_bytes());
                        assert_eq!(value.as_deref(), expected.map(Vec::as_slice), "get {key} in {name}");
                    }
                    Err(error) => {
                        check_error(&error, damaged);
                        is_noticed = true;
                    }
                }
            }
            let mut expected: Vec<_> = model.iter().collect();
            if *name == "other" {
                expected.reverse();
            }
            is_noticed |= check_scan(keyspace.iter(), expected.iter().copied(), damaged, Iter::next);
            is_noticed |=
                check_scan(keyspace.iter(), expected.iter().rev().copied(), damaged, Iter::next_back);
        }
        is_noticed
    }
}

fn check_error(error: &Error, damaged: &Path) {
    let is_honest = matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Incompatible);
    assert!(is_honest, "{:?} is no way to speak of damage: {error}", error.kind());
    let named = error.file().unwrap_or_else(|| panic!("no file is named: {error}"));
    assert_eq!(named, Path::new("/").join(damaged), "the wrong file is blamed: {error}");
}

/// Follows a scan to its end or its first error; tells whether there was one.
fn check_scan<'a>(
    iter: tinylsm::Result<Iter>,
    mut expected: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
    damaged: &Path,
    mut step: impl FnMut(&mut Iter) -> Option<<Iter as Iterator>::Item>,
) -> bool {
    let mut iter = match iter {
        Ok(iter) => iter,
        Err(error) => {
            check_error(&error, damaged);
            return true;
        }
    };
    loop {
        match step(&mut iter) {
            Some(Ok((key, value))) => {
                let (right_key, right_value) = expected.next().expect("the scan gives too much");
                assert!(key == *right_key && value == *right_value, "{key:?} is not {right_key:?}");
            }
            Some(Err(error)) => {
                check_error(&error, damaged);
                assert!(iter.error().is_some() && step(&mut iter).is_none(), "an error ends the scan");
                return true;
            }
            None => {
                assert_eq!(expected.next(), None, "the scan ends early and says nothing");
                return false;
            }
        }
    }
}

/// Says what was being done if the test fails meanwhile.
struct Doing<'a>(&'a Path, &'static str, usize);

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with {} {} {}", self.0.display(), self.1, self.2);
        }
    }
}

#[test]
fn an_undamaged_database_reads_back() {
    let ground = Ground::new();
    assert!(!ground.read_all(Path::new("none")));
    let names: Vec<String> = ground.files().iter().map(|(path, _)| path.display().to_string()).collect();
    let count_of = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
    assert!(count_of(".sst") >= 4 && count_of(".wal") >= 1, "{names:?}");
}

#[test]
fn every_changed_byte_is_noticed_or_does_not_matter() {
    let ground = Ground::new();
    for (path, bytes) in ground.files() {
        let mut noticed_count = 0;
        for at in 0..bytes.len() {
            for mask in [0x01, 0xFF] {
                let _doing = Doing(&path, "changed at byte", at);
                ground.disk.flip(&path, at as u64, mask).expect("the byte is there");
                noticed_count += usize::from(ground.read_all(&path));
                ground.disk.flip(&path, at as u64, mask).expect("the byte is there");
            }
        }
        let name = path.display();
        // Behind a log's end lie zeros that nobody reads; everything else has a checksum somewhere.
        let is_padded = path.extension().is_some_and(|extension| extension == "wal");
        let used = if is_padded {
            bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1)
        } else {
            bytes.len()
        };
        assert!(
            noticed_count >= used * 2,
            "{name}: only {noticed_count} changes of {} are noticed",
            used * 2
        );
    }
}

#[test]
fn every_file_cut_short_is_noticed_or_does_not_matter() {
    let ground = Ground::new();
    for (path, bytes) in ground.files() {
        for len in 0..bytes.len() {
            let _doing = Doing(&path, "cut to length", len);
            ground.disk.truncate(&path, len as u64).expect("cuts");
            let is_noticed = ground.read_all(&path);
            let is_needed = bytes[len..].iter().any(|&byte| byte != 0);
            assert!(is_noticed || !is_needed, "{} cut to {len} passes for whole", path.display());
            ground.disk.write(&path, &bytes).expect("mends");
        }
    }
}

#[test]
fn every_file_longer_than_it_was_is_noticed_or_does_not_matter() {
    let ground = Ground::new();
    for (path, bytes) in ground.files() {
        for tail in [&[0u8; 1][..], &[0; 100], &[0xFF; 1], &[7; 100], &bytes] {
            let _doing = Doing(&path, "lengthened by", tail.len());
            ground.disk.write(&path, &[&bytes, tail].concat()).expect("lengthens");
            ground.read_all(&path);
            ground.disk.write(&path, &bytes).expect("mends");
        }
    }
}

#[test]
fn every_missing_file_is_noticed() {
    use tinylsm::vfs::Vfs;
    let ground = Ground::new();
    for (path, bytes) in ground.files() {
        let _doing = Doing(&path, "missing, of length", bytes.len());
        ground.disk.remove_file(&path).expect("removes");
        if path.ends_with("CURRENT") {
            // For a reader there is no database; but a writer must not make a new one over what is left.
            let builder = || Db::builder("/db").vfs(ground.disk.clone()).options(options());
            let error = builder().open_read_only().map(drop).expect_err("there is no pointer");
            assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corruption), "{error}");
            let before: Vec<PathBuf> = ground.disk.files();
            let error = builder().open().map(drop).expect_err("tables are there");
            check_error(&error, &path);
            assert_eq!(ground.disk.files(), before);
        } else {
            assert!(ground.read_all(&path), "{} is missing and nobody notices", path.display());
        }
        ground.disk.write(&path, &bytes).expect("mends");
    }
}

#[test]
fn two_tables_that_change_places_are_noticed() {
    let ground = Ground::new();
    let tables: Vec<_> =
        ground.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "sst")).collect();
    for (path, bytes) in &tables {
        for (other, others_bytes) in tables.iter().filter(|(other, _)| other != path) {
            let _doing = Doing(path, "replaced by a table of length", others_bytes.len());
            ground.disk.write(path, others_bytes).expect("replaces");
            assert!(ground.read_all(path), "{} passes for {}", other.display(), path.display());
            ground.disk.write(path, bytes).expect("mends");
        }
    }
}
