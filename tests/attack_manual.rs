//! Attack: in a manual database puts stay refused with "the disk is full" after it has room again, for ever.
#![allow(warnings, clippy::all)]
mod common;
#[path = "common/small_disk.rs"]
mod small_disk;
use small_disk::SmallDisk;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::*;

#[test]
fn puts_go_on_once_there_is_room() {
    let clock = ManualClock::new(UnixMillis(0));
    let disk = SmallDisk::over(MemVfs::with_clock(clock.clone()), 64 << 20);
    let db = Db::builder("/db")
        .vfs(Arc::new(disk.clone()))
        .options(Options { memtable_bytes: 64 << 10, ..Options::default() })
        .background(Background::Manual)
        .open()
        .unwrap();
    while db.background_step().unwrap() {}
    disk.leave_free(0);
    let mut i = 0;
    while db.put(format!("key{i:05}"), vec![b'x'; 1000]).is_ok() {
        i += 1;
    }
    db.delete("key00000").unwrap();
    assert!(db.background_errors().iter().all(|e| e.job != "writing"));
    disk.leave_free(60 << 20);
    let mut errors = Vec::new();
    for n in 0..1000 {
        clock.advance(Duration::from_secs(60));
        if let Err(e) = db.put(format!("more{n}"), "v") {
            errors.push(e.to_string());
        }
    }
    assert!(
        errors.len() < 3,
        "{} of 1000 puts were refused in 16 hours with {} MiB free: {}",
        errors.len(),
        disk.free_bytes() >> 20,
        errors[0]
    );
}
