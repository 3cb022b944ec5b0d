//! Space comes back: what is deleted, overwritten, or kept for a snapshot that is gone does not stay on the disk, and
//! what `compact_range` promises holds whatever runs beside it.

#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]
mod common;

use common::{contents, tiny};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tinylsm::inspect::dump_file;
use tinylsm::sync::spawn;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::{Background, Db, ErrorKind, KeyspaceOptions, Options, Snapshot, UnixMillis};

/// Choices that are the same in every run.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Options under which tables hold some dozens of keys and overheads are small beside them.
fn small() -> Options {
    let keyspace = KeyspaceOptions::default()
        .block_bytes(512)
        .level0_compaction_trigger(4)
        .level_base_bytes(64 << 10)
        .level_multiplier(4)
        .table_bytes(16 << 10);
    Options::default()
        .memtable_bytes(32 << 10)
        .wal_preallocate_bytes(0)
        .block_cache_bytes(64 << 10)
        .default_keyspace(keyspace)
}

fn manual(options: Options) -> (Db, ManualClock) {
    let clock = ManualClock::new(UnixMillis(0));
    let disk = MemVfs::with_clock(clock.clone());
    let builder = Db::builder("/db").vfs(Arc::new(disk)).options(options);
    (builder.background(Background::Manual).open().expect("opens"), clock)
}

fn table_bytes(db: &Db) -> u64 {
    db.stats().keyspaces[0].levels.iter().map(|level| level.bytes).sum()
}

fn table_entries(db: &Db) -> u64 {
    db.stats().keyspaces[0].levels.iter().map(|level| level.entries).sum()
}

/// Lets the clock say that the database is quiet, and does what is due then.
fn be_quiet(db: &Db, clock: &ManualClock) {
    while db.background_step().expect("memory") {}
    clock.advance(Duration::from_secs(10));
    while db.background_step().expect("memory") {}
}

/// A value that hardly packs.
fn noise(choices: &mut Choices, len: usize) -> Vec<u8> {
    (0..len).map(|_| choices.below(256).to_le_bytes()[0]).collect()
}

#[test]
fn half_of_what_was_put_comes_back_by_itself_once_it_is_deleted() {
    let (db, clock) = manual(small());
    let mut choices = Choices(1);
    for i in 0..4000u32 {
        db.put(format!("{i:08}"), noise(&mut choices, 200)).expect("puts");
    }
    be_quiet(&db, &clock);
    let full = table_bytes(&db);
    for i in (0..4000u32).step_by(2) {
        db.delete(format!("{i:08}")).expect("deletes");
    }
    be_quiet(&db, &clock);
    let quiet = table_bytes(&db);
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    let live = table_bytes(&db);
    assert!(live < full * 55 / 100, "{live} of {full} bytes live");
    assert!(quiet <= live * 115 / 100 + (32 << 10), "{quiet} bytes at rest, {live} live");
    assert_eq!(table_entries(&db), 2000);
}

#[test]
fn what_is_overwritten_or_held_by_a_snapshot_comes_back_too() {
    let (db, clock) = manual(small());
    let mut choices = Choices(2);
    let mut write_all = |db: &Db| {
        for i in 0..2000u32 {
            db.put(format!("{i:08}"), noise(&mut choices, 200)).expect("puts");
        }
    };
    write_all(&db);
    be_quiet(&db, &clock);
    let live = table_bytes(&db);
    write_all(&db);
    be_quiet(&db, &clock);
    assert!(table_bytes(&db) <= live * 115 / 100 + (32 << 10), "{} bytes of {live}", table_bytes(&db));
    let snapshots: Vec<Snapshot> = (0..2)
        .map(|_| {
            let snapshot = db.snapshot();
            write_all(&db);
            snapshot
        })
        .collect();
    be_quiet(&db, &clock);
    assert!(table_bytes(&db) > live * 5 / 2, "two old versions are kept");
    assert!(!db.background_step().expect("memory"), "what is kept is not merged again and again");
    for (snapshot, left) in snapshots.into_iter().zip([2, 1]) {
        drop(snapshot);
        be_quiet(&db, &clock);
        let bytes = table_bytes(&db);
        assert!(bytes <= live * left * 115 / 100 + (32 << 10), "{bytes} bytes of {left} times {live}");
    }
}

#[test]
fn deletes_that_meet_nothing_on_the_disk_do_not_reach_it() {
    let (db, _) = manual(small());
    for i in 0..100u32 {
        db.put(format!("{i:08}"), "value").expect("puts");
        db.delete(format!("{i:08}")).expect("deletes");
    }
    db.flush().expect("flushes");
    assert_eq!(table_entries(&db), 0);
}

#[test]
fn a_queue_does_not_drag_its_past_along() {
    let (db, _) = manual(small());
    let mut choices = Choices(3);
    let key = |number: u32| format!("{number:08}");
    for i in 0..1000 {
        db.put(key(i), noise(&mut choices, 50)).expect("puts");
    }
    for i in 0..20_000 {
        let (first, _) = db.iter().expect("open").next().expect("there are some").expect("readable");
        assert_eq!(first, key(i).as_bytes());
        db.delete(&first).expect("deletes");
        db.put(key(i + 1000), noise(&mut choices, 50)).expect("puts");
        while db.background_step().expect("memory") {}
        assert!(table_entries(&db) < 3000, "{:?}", db.stats().keyspaces[0]);
    }
    // Far more often than memtables were full: because readers stepped over their deletes.
    let filled = 20_000 * (58 + 112 + 8 + 112) / (32 << 10);
    assert!(db.stats().flushes > filled * 3 / 2, "{} flushes, {filled} full memtables", db.stats().flushes);
}

#[test]
fn taking_snapshots_without_end_takes_no_memory() {
    let db = Db::open_in_memory().expect("opens");
    db.put("key", "value").expect("puts");
    let info = allocation_counter::measure(|| (0..1000).for_each(|_| drop(db.snapshot())));
    assert!(info.bytes_current < 1024, "{info:?}");
}

/// Returns the entries of all tables as lines of text: number, kind, key, value.
fn entries(disk: &MemVfs, db: &Db) -> Vec<String> {
    let is_table = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "sst");
    'again: loop {
        let mut text = String::new();
        for name in db.stats().live_files.iter().filter(|name| is_table(name)) {
            match dump_file(disk, &Path::new("/db").join(name), &mut text) {
                Ok(()) => {}
                // A merge was faster.
                Err(error) if error.kind() == ErrorKind::NotFound => continue 'again,
                Err(error) => panic!("{error:?}"),
            }
        }
        return text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect();
    }
}

#[test]
fn compact_range_drops_a_delete_that_only_a_snapshot_that_is_gone_saw() {
    let (db, _) = manual(small());
    let key = "key";
    db.put(key, "value").expect("puts");
    let sees_the_value = db.snapshot();
    db.delete(key).expect("deletes");
    let sees_the_delete = db.snapshot();
    db.delete(key).expect("deletes");
    let entries_after_merge = || {
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        table_entries(&db)
    };
    assert_eq!(entries_after_merge(), 3);
    drop(sees_the_delete);
    // The value stays, and so does one delete above it.
    assert_eq!(entries_after_merge(), 2);
    assert_eq!(sees_the_value.get(key).expect("reads").as_deref(), Some(&b"value"[..]));
    drop(sees_the_value);
    assert_eq!(entries_after_merge(), 0);
}

#[test]
fn compact_range_keeps_its_promise_beside_background_merges() {
    let disk = MemVfs::new();
    let db = Db::builder("/db").vfs(Arc::new(disk)).options(tiny()).open().expect("opens");
    let mut choices = Choices(4);
    let mut snapshots: Vec<Snapshot> = Vec::new();
    for round in 0..150 {
        for _ in 0..choices.below(200) {
            let key = format!("key{:04}", choices.below(300));
            match choices.below(8) {
                0 => snapshots.push(db.snapshot()),
                1 if !snapshots.is_empty() => {
                    let which = choices.below(snapshots.len() as u64);
                    drop(snapshots.swap_remove(usize::try_from(which).expect("small")));
                }
                2..=4 => drop(db.delete(key).expect("deletes")),
                _ => drop(db.put(key, noise(&mut choices, 40)).expect("puts")),
            }
        }
        // A merge that began before may still keep what they see.
        snapshots.clear();
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        let live = contents(db.default_keyspace()).len() as u64;
        assert_eq!(table_entries(&db), live, "round {round}: {:?}", db.stats().keyspaces[0]);
    }
}

/// As a scan of such a range finds nothing, merging it does nothing.
#[test]
fn compact_range_of_an_empty_range_merges_nothing() {
    let mut options = small();
    options.default_keyspace.get_or_insert_default().level0_compaction_trigger = 30;
    let (db, _) = manual(options);
    for round in 0..2 {
        for i in 0..10 {
            db.put(format!("{i}"), format!("{round}")).expect("puts");
        }
        db.flush().expect("flushes");
    }
    db.put("unflushed", "").expect("puts");
    let flushes = db.stats().flushes;
    let excluded = |key: &'static str| Bound::Excluded(key);
    let keyspace = db.default_keyspace();
    db.compact_range(keyspace, "9".."1").expect("nothing to do");
    db.compact_range(keyspace, "5".."5").expect("nothing to do");
    db.compact_range(keyspace, "6"..="5").expect("nothing to do");
    db.compact_range(keyspace, (excluded("5"), excluded("5"))).expect("nothing to do");
    assert_eq!(db.stats().compactions + db.stats().trivial_moves, 0);
    assert_eq!(db.stats().flushes, flushes);
    // A bound that the range leaves out touches nothing either.
    db.compact_range(keyspace, (excluded("unflushed"), Bound::Unbounded::<&str>)).expect("nothing there");
    db.compact_range(keyspace, .."0").expect("nothing there");
    assert_eq!(db.stats().compactions + db.stats().trivial_moves, 0);
    db.compact_range(keyspace, "5"..="5").expect("merges");
    assert_eq!(db.stats().compactions + db.stats().trivial_moves, 1);
}

#[test]
fn compact_range_ends_and_keeps_its_promise_beside_writers() {
    let disk = MemVfs::new();
    let db = Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny()).open().expect("opens");
    let is_over = Arc::new(AtomicBool::new(false));
    // Writes around the range and, with keys of its own, within it.
    let writer = spawn("writer", {
        let (db, is_over) = (db.clone(), Arc::clone(&is_over));
        move || {
            let mut choices = Choices(5);
            while !is_over.load(Ordering::Relaxed) {
                let prefix = ["a", "m/new", "z"][usize::try_from(choices.below(3)).expect("small")];
                let key = format!("{prefix}{:03}", choices.below(200));
                if choices.below(2) == 0 {
                    db.put(key, noise(&mut choices, 40)).expect("puts");
                } else {
                    db.delete(key).expect("deletes");
                }
            }
        }
    })
    .expect("a thread");
    let mut choices = Choices(6);
    for round in 0..40 {
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for _ in 0..60 {
            let key = format!("m/old{:03}", choices.below(100));
            if choices.below(2) == 0 {
                db.put(&key, noise(&mut choices, 40)).expect("puts");
                gone.remove(&key);
            } else {
                db.delete(&key).expect("deletes");
                gone.insert(key);
            }
        }
        db.compact_range(db.default_keyspace(), "m/old".."m/old~").expect("merges");
        let left: Vec<String> = entries(&disk, &db);
        for key in gone {
            let of_key = left.iter().find(|line| line.contains(&format!("\"{key}\"")));
            assert_eq!(of_key, None, "round {round}: {key} was deleted");
        }
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(writer.join());
    db.close().expect("closes");
}
