//! Attack: odds and ends.
#![allow(warnings, clippy::all)]
mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/small_disk.rs"]
mod small_disk;
#[path = "common/watchdog.rs"]
mod watchdog;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::*;

/// Panics in what else a comparator has: name, sort_prefix, separator.
#[derive(Default)]
struct Odd {
    name: AtomicBool,
    prefix: AtomicBool,
    separator: AtomicBool,
}
impl Comparator for Odd {
    fn name(&self) -> &str {
        if self.name.load(Ordering::SeqCst) {
            panic!("name on purpose")
        }
        "odd"
    }
    fn compare(&self, a: &[u8], b: &[u8]) -> std::cmp::Ordering {
        a.cmp(b)
    }
    fn sort_prefix(&self, _: &[u8]) -> u128 {
        if self.prefix.load(Ordering::SeqCst) {
            panic!("prefix on purpose")
        }
        0
    }
    fn separator(&self, a: &[u8], _: &[u8], out: &mut Vec<u8>) {
        if self.separator.load(Ordering::SeqCst) {
            panic!("separator on purpose")
        }
        out.extend_from_slice(a);
    }
}

fn odd() -> (Arc<Odd>, Db, Keyspace) {
    let odd = Arc::new(Odd::default());
    let db = Db::builder("/db")
        .vfs(Arc::new(MemVfs::new()))
        .options(common::tiny())
        .background(Background::Manual)
        .comparator(odd.clone())
        .open()
        .unwrap();
    let ks = db
        .create_keyspace("odd", KeyspaceOptions { comparator: "odd".into(), ..common::tiny_keyspace() })
        .unwrap();
    for i in 0..60 {
        ks.put(format!("key{i:03}"), vec![b'x'; 100]).unwrap();
    }
    (odd, db, ks)
}

#[test]
fn name_panics_in_create_keyspace() {
    let (odd, db, ks) = odd();
    odd.name.store(true, Ordering::SeqCst);
    let db2 = db.clone();
    let out = watchdog::ends_somehow("create", move || {
        db2.create_keyspace("other", KeyspaceOptions { comparator: "odd".into(), ..common::tiny_keyspace() })
            .map(drop)
    });
    odd.name.store(false, Ordering::SeqCst);
    let r = out.unwrap_or_else(|t| panic!("the panic got out of create_keyspace: {t}"));
    assert_eq!(r.unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn name_panics_elsewhere() {
    let (odd, db, ks) = odd();
    odd.name.store(true, Ordering::SeqCst);
    for what in ["stats", "range", "prefix", "get", "flush", "compact", "idle", "verify", "errors", "debug"] {
        let (db, ks) = (db.clone(), ks.clone());
        let out = watchdog::ends_somehow(what, move || -> Result<()> {
            match what {
                "stats" => {
                    db.stats();
                    Ok(())
                }
                "range" => ks.iter().map(drop),
                "prefix" => ks.prefix("a").map(drop),
                "get" => ks.get("key000").map(drop),
                "flush" => db.flush(),
                "compact" => db.compact_range(&ks, ..),
                "idle" => db.wait_idle(),
                "verify" => db.verify().map(drop),
                "debug" => {
                    let _ = format!("{db:?} {ks:?} {:?}", ks.options());
                    Ok(())
                }
                _ => {
                    db.background_errors();
                    Ok(())
                }
            }
        });
        if let Err(t) = out {
            odd.name.store(false, Ordering::SeqCst);
            panic!("{what}: {t}");
        }
    }
    odd.name.store(false, Ordering::SeqCst);
}

#[test]
fn prefix_and_separator_panics_are_contained() {
    for which in 0..2 {
        let (odd, db, ks) = odd();
        let flag = if which == 0 { &odd.prefix } else { &odd.separator };
        flag.store(true, Ordering::SeqCst);
        for what in ["get", "range", "seek", "flush", "compact", "idle", "step", "verify", "put", "delete"] {
            let (db, ks) = (db.clone(), ks.clone());
            let out = watchdog::ends_somehow(what, move || -> Result<()> {
                match what {
                    "get" => ks.get("key000").map(drop),
                    "range" => ks.range("a".."z")?.try_for_each(|x| x.map(drop)),
                    "seek" => ks.iter()?.seek("k"),
                    "flush" => db.flush(),
                    "compact" => db.compact_range(&ks, ..),
                    "idle" => db.wait_idle(),
                    "step" => db.background_step().map(drop),
                    "verify" => db.verify().map(drop),
                    "put" => ks.put("key", "v").map(drop),
                    _ => ks.delete("key000").map(drop),
                }
            });
            if let Err(t) = out {
                flag.store(false, Ordering::SeqCst);
                panic!("{which} {what}: {t}");
            }
        }
        flag.store(false, Ordering::SeqCst);
    }
}

/// More keyspaces than a memtable has bytes.
#[test]
fn more_keyspaces_than_memtable_bytes() {
    watchdog::within(|| {
        let disk = MemVfs::new();
        let mut options = Options { memtable_bytes: 1024, ..Options::default() };
        let open = || {
            Db::builder("/db")
                .vfs(Arc::new(disk.clone()))
                .options(options.clone())
                .background(Background::Manual)
                .open()
                .unwrap()
        };
        let db = open();
        let mut all = vec![db.default_keyspace().clone()];
        for i in 0..1100 {
            all.push(db.create_keyspace(&format!("k{i}"), KeyspaceOptions::default()).unwrap());
        }
        let mut batch = WriteBatch::new();
        for k in &all {
            batch.put(k, "a", "1");
        }
        db.write(&batch, &WriteOptions::default()).unwrap();
        db.flush().unwrap();
        let mut batch = WriteBatch::new();
        for k in &all {
            batch.delete(k, "a");
        }
        db.write(&batch, &WriteOptions::default()).unwrap();
        db.wait_idle().unwrap();
        for k in &all {
            assert!(k.get("a").unwrap().is_none());
        }
        db.close().unwrap();
        let db = open();
        db.wait_idle().unwrap();
        assert!(db.background_errors().is_empty());
    });
}

/// A degraded read-only opening names what it could not read.
#[test]
fn degraded_read_only_names_the_table() {
    let disk = MemVfs::new();
    let builder = || {
        Db::builder("/db").vfs(Arc::new(disk.clone())).options(common::tiny()).background(Background::Manual)
    };
    let db = builder().open().unwrap();
    for i in 0..100 {
        db.put(format!("key{i:03}"), vec![i as u8; 100]).unwrap();
    }
    db.flush().unwrap();
    db.close().unwrap();
    let table = disk.files().into_iter().find(|p| p.to_string_lossy().ends_with(".sst")).unwrap();
    disk.remove_file(&table).unwrap();
    let db = builder().degraded(true).open_read_only().unwrap();
    assert_eq!(db.background_errors().len(), 1);
    db.wait_idle().unwrap();
    let _ = db.resume();
    assert_eq!(db.background_errors().len(), 1);
    assert!(db.verify().is_err());
    let mut told = 0;
    db.verify_all(|_, _| told += 1).unwrap();
    assert_eq!(told, 1);
    db.close().unwrap();
}
