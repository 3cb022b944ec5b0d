//! Damage to a database is noticed.
//!
//! A small database has everything: two keyspaces in two orders, packed and plain blocks, tables on two levels, and
//! commits that are only in the log. One was closed in good order, the other's process died and left sealed segments
//! and an open one. Every byte of every file is changed, every file is cut short, every file is taken away; each time
//! a reader opens the database. Either that fails, naming file and offset, or every lookup and every scan gives the
//! right answer or an error that names them. A wrong value, a missing key, a changed file or a panic fails the test.
//!
//! Two things cannot be known of a process that died (docs/format/log.md). The last commit has nothing behind it that
//! says it was synced, so a change to its bytes looks like the torn tail of a commit that never was: it may be missing,
//! whole. And a log that was cut short looks as if its end had never been written: what is left must be the state
//! after some commit.

mod common;

use common::{Model, contents, tiny};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::format::frame::{FRAME_HEADER_LEN_BYTES, FrameReader};
use tinylsm::format::names::FileName;
use tinylsm::vfs::{Vfs, mem::MemVfs};
use tinylsm::{
    Background, Comparator, Compression, Db, DbBuilder, Error, ErrorKind, Iter, Keyspace, KeyspaceOptions,
    Options, ReverseBytewise, SeqNum,
};

/// How the process left the database.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Closed,
    Died,
}

const ENDS: [End; 2] = [End::Closed, End::Died];

type Models = Vec<(&'static str, Model)>;

/// The disk with the database in `/db`, and what belongs to it.
struct Ground {
    disk: Arc<MemVfs>,
    /// What each keyspace held after each of the last commits.
    history: BTreeMap<SeqNum, Models>,
    live_files: Vec<String>,
    /// Where the last commit lies, if nothing says that it was synced.
    unproven: Option<(PathBuf, usize)>,
}

fn options() -> Options {
    let mut options = tiny();
    options.wal_preallocate_bytes = 256;
    options.memtable_bytes = 12 << 10;
    // Its bytes mean nothing, so nobody would notice a change.
    options.reserve_bytes_max = 0;
    options.sealed_memtables_max = 8;
    options.manifest_roll_bytes = 64 << 10;
    options.default_keyspace.as_mut().expect("given").level0_compaction_trigger = 10;
    options
}

fn builder(disk: &Arc<MemVfs>) -> DbBuilder {
    Db::builder("/db").vfs(disk.clone()).options(options()).background(Background::Manual)
}

fn open(disk: &Arc<MemVfs>) -> Db {
    builder(disk).open().expect("opens")
}

fn models(db: &Db) -> Models {
    let other = db.keyspace("other").expect("there");
    vec![("default", contents(db.default_keyspace())), ("other", contents(&other))]
}

/// Lists the files that hold bytes.
fn files_of(disk: &MemVfs) -> Vec<(PathBuf, Vec<u8>)> {
    let with_bytes = |path: PathBuf| {
        let bytes = disk.read(&path).expect("listed");
        (path, bytes)
    };
    disk.files().into_iter().map(with_bytes).filter(|(_, bytes)| !bytes.is_empty()).collect()
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wal")
}

fn last_frame_offset(disk: &MemVfs, segment: &Path) -> usize {
    let name = segment.file_name().and_then(|name| name.to_str()).expect("listed");
    let number = FileName::parse(name).and_then(|name| name.number()).expect("a segment is numbered");
    let file = disk.open(segment).expect("listed");
    let mut frames = FrameReader::new(file.as_ref(), segment, number).expect("measured");
    let offsets = std::iter::from_fn(|| frames.next_frame().expect("unharmed")).map(|frame| frame.offset);
    usize::try_from(offsets.last().expect("a segment has a header")).expect("small")
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
    fn new(end: End) -> Ground {
        let disk = Arc::new(MemVfs::new());
        let db = open(&disk);
        let reverse = options()
            .default_keyspace
            .expect("given")
            .comparator(ReverseBytewise.name())
            .compression(Compression::None);
        let other = db.create_keyspace("other", reverse).expect("creates");
        let keyspaces = [db.default_keyspace().clone(), other];
        for generation in 0..2 {
            for keyspace in &keyspaces {
                write_generation(keyspace, generation);
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
        for keyspace in &keyspaces {
            write_generation(keyspace, 2);
        }
        drop(keyspaces);
        match end {
            End::Closed => Ground::closed(disk, db),
            End::Died => Ground::died(&disk, db),
        }
    }

    fn closed(disk: Arc<MemVfs>, db: Db) -> Ground {
        assert!(db.stats().memtable_bytes > 0, "some commits are only in the log");
        let history = BTreeMap::from([(db.last_seq(), models(&db))]);
        let live_files = db.stats().live_files;
        db.close().expect("closes");
        Ground { disk, history, live_files, unproven: None }
    }

    /// Fills more segments, none of which is flushed, and lets the process die.
    fn died(disk: &Arc<MemVfs>, db: Db) -> Ground {
        drop(db);
        // What was replayed stays sealed, beside its segment.
        let db = open(disk);
        let mut history = BTreeMap::from([(db.last_seq(), models(&db))]);
        let mut put = |i: usize| {
            db.put(format!("key{:02}", i % 26), format!("{i}{}", "x".repeat(20))).expect("puts");
            history.insert(db.last_seq(), models(&db));
        };
        let mut count = 0;
        while db.stats().sealed_memtables < 2 {
            put(count);
            count += 1;
        }
        (count..count + 3).for_each(&mut put);
        let (died, live_files) = (Arc::new(disk.fork()), db.stats().live_files);
        drop(db);
        let segments: Vec<PathBuf> = died.files().into_iter().filter(|path| is_segment(path)).collect();
        assert!(segments.len() >= 3, "two sealed segments and an open one: {segments:?}");
        let segment = segments.last().expect("just counted").clone();
        let offset = last_frame_offset(&died, &segment);
        Ground { disk: died, history, live_files, unproven: Some((segment, offset)) }
    }

    /// Returns how many commits may be missing when the bytes of a file from `at` on are not what they were.
    fn may_lose_count(&self, path: &Path, at: usize) -> u64 {
        let is_unproven = |unproven: &(PathBuf, usize)| unproven.0 == path && unproven.1 <= at;
        u64::from(self.unproven.as_ref().is_some_and(is_unproven))
    }

    /// Returns how many commits may be missing when a file was cut short: no other file states where the manifest and
    /// the last segment of a process that died must end.
    fn may_lose_count_when_cut(&self, path: &Path) -> u64 {
        let has_no_stated_end = self
            .unproven
            .as_ref()
            .is_some_and(|(segment, _)| segment == path || path.to_string_lossy().contains("MANIFEST"));
        if has_no_stated_end { u64::MAX } else { 0 }
    }

    fn is_live(&self, path: &Path) -> bool {
        self.live_files.iter().any(|name| path.ends_with(name))
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        files_of(&self.disk)
    }

    /// Reads everything from the disk, one file of which is damaged; tells whether any error was met.
    fn read_all(&self, damaged: &Path, may_lose_count: u64) -> bool {
        let before = self.files();
        let is_noticed = match builder(&self.disk).open_read_only() {
            Ok(db) => self.check_db(&db, damaged, may_lose_count),
            Err(error) => {
                check_error(&error, damaged);
                true
            }
        };
        assert!(self.files() == before, "a reader changes no byte");
        is_noticed
    }

    /// Looks every key up and scans every keyspace both ways; tells whether any error was met.
    fn check_db(&self, db: &Db, damaged: &Path, may_lose_count: u64) -> bool {
        let mut is_noticed = false;
        for (name, model) in self.models_of(db, may_lose_count) {
            let keyspace = match db.keyspace(name) {
                Ok(keyspace) => keyspace,
                Err(error) => panic!("keyspace {name} is gone without a word: {error}"),
            };
            for i in 0..27 {
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

    /// Returns what the database must hold.
    fn models_of(&self, db: &Db, may_lose_count: u64) -> &Models {
        let (last_seq, found) = (self.history.keys().last().expect("there are commits"), db.last_seq());
        let lost_count = last_seq.get() - found.get();
        assert!(lost_count <= may_lose_count, "{lost_count} commits are gone without a word");
        self.history.get(&found).expect("what is left ends with a commit")
    }
}

fn check_error(error: &Error, damaged: &Path) {
    let is_honest = matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Incompatible);
    assert!(is_honest, "{:?} is no way to speak of damage: {error}", error.kind());
    let named = error.file().unwrap_or_else(|| panic!("no file is named: {error}"));
    assert_eq!(named, Path::new("/").join(damaged), "the wrong file is blamed: {error}");
    let text = error.to_string();
    assert!(text.contains(&named.display().to_string()), "the text names no file: {text}");
    if let Some(offset) = error.offset() {
        assert!(text.contains(&format!("at byte {offset}")), "the text names no offset: {text}");
        return;
    }
    // There is no place in a file that is not there, and none of interest in one of another version.
    let is_placeless = error.kind() == ErrorKind::Incompatible || text.contains("is missing");
    assert!(is_placeless, "no offset is named: {text}");
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
    for end in ENDS {
        let ground = Ground::new(end);
        assert!(!ground.read_all(Path::new("none"), 0));
        let names: Vec<String> = ground.files().iter().map(|(path, _)| path.display().to_string()).collect();
        let count_of = |part: &str| names.iter().filter(|name| name.contains(part)).count();
        assert!(count_of(".sst") >= 4 && count_of(".wal") >= 1, "{names:?}");
        assert!(count_of("MANIFEST-") >= 1 && count_of("CURRENT") == 1, "{names:?}");
    }
}

/// Returns how many bytes of a file count: behind a log's end lie zeros that nobody reads.
fn used_len(path: &Path, bytes: &[u8]) -> usize {
    if is_segment(path) || path.to_string_lossy().contains("MANIFEST") {
        bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1)
    } else {
        bytes.len()
    }
}

/// Changes every byte of every file, and returns how many bytes that count were changed without any notice.
fn change_every_byte(ground: &Ground) -> Vec<(PathBuf, usize)> {
    let mut unnoticed = Vec::new();
    for (path, bytes) in ground.files() {
        let mut unnoticed_count = 0;
        for at in 0..bytes.len() {
            for mask in [0x01, 0xFF] {
                let _doing = Doing(&path, "changed at byte", at);
                ground.disk.flip(&path, at as u64, mask).expect("the byte is there");
                let is_noticed = ground.read_all(&path, ground.may_lose_count(&path, at));
                unnoticed_count += usize::from(!is_noticed && mask == 0x01 && at < used_len(&path, &bytes));
                ground.disk.flip(&path, at as u64, mask).expect("the byte is there");
            }
        }
        unnoticed.push((path, unnoticed_count));
    }
    unnoticed
}

#[test]
fn every_changed_byte_of_a_closed_database_is_noticed() {
    for (path, unnoticed_count) in change_every_byte(&Ground::new(End::Closed)) {
        assert_eq!(unnoticed_count, 0, "changed bytes of {} are not noticed", path.display());
    }
}

#[test]
fn every_changed_byte_of_a_database_whose_process_died_is_noticed_or_does_not_matter() {
    let ground = Ground::new(End::Died);
    for (path, unnoticed_count) in change_every_byte(&ground) {
        let needless_count = if !ground.is_live(&path) || is_segment(&path) {
            // Bytes behind the length that the next segment states, and the last commit: `models_of` judges them.
            usize::MAX
        } else if path.to_string_lossy().contains("MANIFEST") {
            // The last frame, which only states that those before it are synced.
            FRAME_HEADER_LEN_BYTES
        } else {
            0
        };
        assert!(
            unnoticed_count <= needless_count,
            "{unnoticed_count} bytes of {} are not noticed",
            path.display()
        );
    }
}

#[test]
fn every_file_cut_short_is_noticed_or_does_not_matter() {
    for end in ENDS {
        let ground = Ground::new(end);
        for (path, bytes) in ground.files() {
            for len in 0..bytes.len() {
                let _doing = Doing(&path, "cut to length", len);
                ground.disk.truncate(&path, len as u64).expect("cuts");
                let may_lose_count = ground.may_lose_count_when_cut(&path);
                let is_noticed = ground.read_all(&path, may_lose_count);
                let is_needed = end == End::Closed && len < used_len(&path, &bytes);
                assert!(is_noticed || !is_needed, "{} cut to {len} passes for whole", path.display());
                ground.disk.write(&path, &bytes).expect("mends");
            }
        }
    }
}

#[test]
fn every_file_longer_than_it_was_is_noticed_or_does_not_matter() {
    for end in ENDS {
        let ground = Ground::new(end);
        for (path, bytes) in ground.files() {
            for tail in [&[0u8; 1][..], &[0; 100], &[0xFF; 1], &[7; 100], &bytes] {
                let _doing = Doing(&path, "lengthened by", tail.len());
                ground.disk.write(&path, &[&bytes, tail].concat()).expect("lengthens");
                ground.read_all(&path, 0);
                ground.disk.write(&path, &bytes).expect("mends");
            }
        }
    }
}

/// A writer that is refused leaves the directory as it was; one that is not has lost nothing.
#[test]
fn a_writer_that_meets_damage_changes_nothing() {
    for end in ENDS {
        let ground = Ground::new(end);
        for (path, bytes) in ground.files() {
            for at in (0..bytes.len()).step_by(5) {
                let _doing = Doing(&path, "changed, for a writer, at byte", at);
                let damaged = Arc::new(ground.disk.fork());
                damaged.flip(&path, at as u64, 0x10).expect("the byte is there");
                let before = files_of(&damaged);
                match builder(&damaged).open() {
                    Ok(db) => drop(ground.check_db(&db, &path, ground.may_lose_count(&path, at))),
                    Err(error) => {
                        check_error(&error, &path);
                        assert!(files_of(&damaged) == before, "a refused writer changed a file");
                    }
                }
            }
        }
    }
}

#[test]
fn every_missing_file_is_noticed() {
    for end in ENDS {
        let ground = Ground::new(end);
        for (path, bytes) in ground.files() {
            let _doing = Doing(&path, "missing, of length", bytes.len());
            ground.disk.remove_file(&path).expect("removes");
            if path.ends_with("CURRENT") {
                check_a_missing_pointer(&ground, &path);
            } else {
                let is_noticed = ground.read_all(&path, 0);
                let is_live = ground.is_live(&path);
                assert!(is_noticed || !is_live, "{} is missing and nobody notices", path.display());
            }
            ground.disk.write(&path, &bytes).expect("mends");
        }
    }
}

/// For a reader there is no database then; but a writer must not make a new one over what is left.
fn check_a_missing_pointer(ground: &Ground, path: &Path) {
    let error = builder(&ground.disk).open_read_only().map(drop).expect_err("there is no pointer");
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corruption), "{error}");
    let before = ground.files();
    let error = builder(&ground.disk).open().map(drop).expect_err("tables are there");
    check_error(&error, path);
    assert!(ground.files() == before, "a refused writer changed a file");
}

#[test]
fn two_tables_that_change_places_are_noticed() {
    let ground = Ground::new(End::Closed);
    let is_table = |path: &Path| path.extension().is_some_and(|extension| extension == "sst");
    let tables: Vec<_> = ground.files().into_iter().filter(|(path, _)| is_table(path)).collect();
    for (path, bytes) in &tables {
        for (other, others_bytes) in tables.iter().filter(|(other, _)| other != path) {
            let _doing = Doing(path, "replaced by a table of length", others_bytes.len());
            ground.disk.write(path, others_bytes).expect("replaces");
            assert!(ground.read_all(path, 0), "{} passes for {}", other.display(), path.display());
            ground.disk.write(path, bytes).expect("mends");
        }
    }
}

/// What is put into a database before its only flush.
type Fill<'a> = &'a dyn Fn(&Db);

/// A table of another database, with the same number and length: all its checksums are right, and it is not ours.
#[test]
fn a_table_of_another_database_is_told_from_our_own() {
    let put_all = |db: &Db, entries: &[(&str, &str)]| {
        for (key, value) in entries {
            db.put(key, value).expect("puts");
        }
    };
    let make = |fill: Fill<'_>| {
        let disk = Arc::new(MemVfs::new());
        let mut options = options();
        options.default_keyspace.get_or_insert_default().compression = Compression::None;
        let builder = Db::builder("/db").vfs(disk.clone()).options(options).background(Background::Manual);
        let db = builder.clone().open().expect("opens");
        fill(&db);
        db.flush().expect("flushes");
        db.close().expect("closes");
        let is_table = |path: &Path| path.extension().is_some_and(|extension| extension == "sst");
        let (path, bytes) = files_of(&disk).into_iter().find(|(path, _)| is_table(path)).expect("one table");
        (builder, disk, path, bytes)
    };
    let (builder, disk, path, ours) = make(&|db| put_all(db, &[("bbbb", "one"), ("cccc", "two")]));
    // Other keys; other deletes; other numbers of the same.
    let strangers: [(&str, Fill<'_>); 4] = [
        ("first", &|db| put_all(db, &[("aaaa", "one"), ("cccc", "two")])),
        ("last", &|db| put_all(db, &[("bbbb", "one"), ("dddd", "two")])),
        ("seq", &|db| put_all(db, &[("bbbb", "xxx"), ("bbbb", "one"), ("cccc", "two")])),
        ("keyspace", &|db| {
            let other = db.create_keyspace("other", KeyspaceOptions::default()).expect("creates");
            other.put("bbbb", "one").expect("puts");
            other.put("cccc", "two").expect("puts");
        }),
    ];
    for (what, fill) in strangers {
        let (_, _, strange_path, strange) = make(fill);
        assert_eq!(strange_path, path, "{what}");
        let is_alike = strange.len() == ours.len() || what == "keyspace";
        assert!(is_alike, "{what}: {} and {} bytes", strange.len(), ours.len());
        disk.write(&path, &strange).expect("replaces");
        let error = builder.clone().open().map(drop).expect_err(what);
        check_error(&error, &path);
        disk.write(&path, &ours).expect("mends");
    }
}
