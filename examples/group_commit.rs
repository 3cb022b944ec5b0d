//! Eight threads, every write on disk before it is acknowledged, and one sync for many of them.
//!
//! Run with `cargo run --release --example group_commit`.
#![allow(
    clippy::disallowed_methods,
    reason = "an application has threads and a clock of its own; the bans are for the engine"
)]

use std::time::Instant;
use tinylsm::{Db, Result};

const THREADS: u32 = 8;
const WRITES_PER_THREAD: u32 = 200;

fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let db = Db::open(dir.path())?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..THREADS)
            .map(|thread| {
                let db = db.clone();
                scope.spawn(move || -> Result<()> {
                    for number in 0..WRITES_PER_THREAD {
                        db.put(format!("{thread}/{number:04}"), "acknowledged")?;
                    }
                    Ok(())
                })
            })
            .collect();
        handles.into_iter().try_for_each(|handle| handle.join().expect("no thread panics"))
    })?;
    let taken = started.elapsed();
    assert_eq!(db.iter()?.count(), (THREADS * WRITES_PER_THREAD) as usize);
    println!("{} synced writes in {taken:?}", THREADS * WRITES_PER_THREAD);
    db.close()
}
