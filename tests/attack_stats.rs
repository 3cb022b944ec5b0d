//! Attack: `Stats::disk_bytes` counts records of no durability twice once a full disk was mended: in the sealed segment,
//! which never got them, and in the one that did.
#![allow(warnings, clippy::all)]
mod common;
#[path = "common/hooked.rs"]
mod hooked;
use hooked::{HookedVfs, Op};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::*;

#[test]
fn held_back_records_are_counted_once_after_a_resume() {
    let disk = MemVfs::new();
    let hooked = HookedVfs::over(disk.clone());
    let options = Options { wal_preallocate_bytes: 0, reserve_bytes_max: 0, ..Options::default() };
    let db = Db::builder("/db")
        .vfs(Arc::new(hooked.clone()))
        .options(options)
        .background(Background::Manual)
        .open()
        .unwrap();
    for i in 0..100 {
        db.default_keyspace().put_with(format!("key{i}"), vec![b'x'; 1000], &WriteOptions::none()).unwrap();
    }
    // The disk is full for one append to the log.
    hooked.set_hook(|call| {
        if call.is(Op::Append, ".wal") {
            Err(Error::new(ErrorKind::NoSpace, "full").with_operation("append").with_file(call.path))
        } else {
            Ok(())
        }
    });
    db.put("one", "more").unwrap_err();
    hooked.clear_hook();
    db.resume().unwrap();
    db.sync().unwrap();
    db.wait_idle().unwrap();
    let told = db.stats().disk_bytes;
    let there: u64 = disk
        .files()
        .iter()
        .filter(|p| !p.ends_with("CURRENT"))
        .map(|p| disk.metadata(&Path::new("/").join(p)).unwrap().len)
        .sum();
    assert_eq!(told, there, "Stats::disk_bytes against what lies there");
}

/// A degraded database counts a table that is missing among the bytes and the files that it has on the disk.
#[test]
fn a_missing_table_takes_no_space() {
    let disk = MemVfs::new();
    let builder = || {
        Db::builder("/db")
            .vfs(Arc::new(disk.clone()))
            .options(Options { wal_preallocate_bytes: 0, reserve_bytes_max: 0, ..Options::default() })
            .background(Background::Manual)
    };
    let db = builder().open().unwrap();
    for i in 0..100 {
        db.put(format!("key{i:03}"), vec![i as u8; 1000]).unwrap();
    }
    db.flush().unwrap();
    db.close().unwrap();
    let table = disk.files().into_iter().find(|p| p.to_string_lossy().ends_with(".sst")).unwrap();
    disk.remove_file(&table).unwrap();
    let db = builder().degraded(true).open().unwrap();
    let told = db.stats().disk_bytes;
    let there: u64 = disk
        .files()
        .iter()
        .filter(|p| !p.ends_with("CURRENT"))
        .map(|p| disk.metadata(&Path::new("/").join(p)).unwrap().len)
        .sum();
    assert_eq!(
        told,
        there,
        "Stats::disk_bytes against what lies there; live files {:?}",
        db.stats().live_files
    );
}
