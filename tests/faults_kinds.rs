//! What a caller can do about a panic that was contained, and about descriptors that ran out.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the tests use up their process's descriptors"
)]

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{contents, tiny, tiny_keyspace};
use std::cmp::Ordering;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use tempfile::TempDir;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{Background, Comparator, Db, Error, ErrorKind, Keyspace, Result};
use watchdog::{ends, ends_somehow, within};

const PANIC: &str = "the comparator panics on purpose";

/// Orders like bytes, unless it is broken.
#[derive(Default)]
struct Fragile {
    is_broken: AtomicBool,
}

impl Comparator for Fragile {
    fn name(&self) -> &str {
        "test.fragile"
    }
    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        assert!(!self.is_broken.load(Atomic::SeqCst), "{PANIC}");
        a.cmp(b)
    }
}

fn fragile(background: Background) -> (Db, Keyspace, Arc<Fragile>) {
    let order = Arc::new(Fragile::default());
    let db = Db::builder("/db")
        .vfs(Arc::new(MemVfs::new()))
        .options(tiny().memtable_bytes(64 << 10))
        .comparator(order.clone())
        .background(background)
        .open()
        .expect("opens");
    let options = tiny_keyspace().comparator(order.name());
    let keyspace = db.create_keyspace("fragile", options).expect("creates");
    for i in 0..20 {
        keyspace.put(format!("key{i:02}"), "v").expect("puts");
    }
    (db, keyspace, order)
}

#[track_caller]
fn check_internal<T>(what: &str, outcome: watchdog::Outcome<Result<T>>) {
    let result = outcome.unwrap_or_else(|text| panic!("the panic got out of {what}: {text}"));
    check_internal_error(what, &result.map(drop).expect_err(what));
}

#[track_caller]
fn check_internal_error(what: &str, error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Internal, "{what}: {error:?}");
    assert!(error.to_string().contains(PANIC), "{what} does not say what panicked: {error:?}");
    assert!(!error.is_retryable(), "{what}: {error:?}");
}

/// A panic that was contained is told as what it is.
#[test]
fn a_contained_panic_is_internal() {
    for background in [Background::Threads(2), Background::Manual] {
        within(move || {
            let (db, keyspace, order) = fragile(background.clone());
            order.is_broken.store(true, Atomic::SeqCst);
            check_internal(
                "get",
                ends_somehow("get", {
                    let keyspace = keyspace.clone();
                    move || keyspace.get("key05")
                }),
            );
            check_internal(
                "flush",
                ends_somehow("flush", {
                    let db = db.clone();
                    move || db.flush()
                }),
            );
            let errors = db.background_errors();
            assert!(errors.iter().any(|each| each.job == "flush"), "{errors:?}");
            check_internal_error("background_error", &db.background_error().expect("it is latched"));
            // The first entry of a memtable is compared with nothing.
            drop(ends_somehow("put", {
                let keyspace = keyspace.clone();
                move || keyspace.put("key04", "w")
            }));
            check_internal(
                "put",
                ends_somehow("put", {
                    let keyspace = keyspace.clone();
                    move || keyspace.put("key05", "w")
                }),
            );
            check_internal_error("background_error", &db.background_error().expect("it is latched"));
            order.is_broken.store(false, Atomic::SeqCst);
            ends("closing", move || db.close()).map_or_else(drop, drop);
        });
    }
}

/// What ran out is told as such: an error that may be retried.
#[test]
fn missing_descriptors_are_exhausted() {
    const NAME: &str = "missing_descriptors_are_exhausted";
    if let Some(place) = child::place_in_child(NAME) {
        let opener = || Db::builder(place.join("db")).options(tiny()).background(Background::Manual);
        let db = opener().open().expect("opens");
        db.put("k", "v").expect("puts");
        let take_all = || {
            let mut taken = Vec::new();
            while let Ok(file) = File::open("/dev/null") {
                taken.push(file);
            }
            taken
        };
        let taken = take_all();
        let flush = db.flush();
        drop(taken);
        let error = flush.expect_err("a table needs a descriptor");
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
        assert!(error.is_retryable());
        db.flush().expect("there are descriptors");
        db.close().expect("closes");
        let taken = take_all();
        let opened = [opener().open().map(drop), opener().open_read_only().map(drop)];
        drop(taken);
        for result in opened {
            let error = result.expect_err("a database needs descriptors");
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
        }
        assert_eq!(contents(opener().open().expect("opens").default_keyspace()).len(), 1);
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run_with_few_descriptors(NAME, dir.path(), 64);
}
