//! What it costs to flush a thousand keyspaces with twenty bytes each, and to merge them: time, and time on a processor.
//!
//! Run with `cargo run --release --example flush_of_keyspaces [COUNT]`.
#![allow(
    clippy::disallowed_methods,
    reason = "an application has threads and a clock of its own; the bans are for the engine"
)]

use std::time::{Duration, Instant};
use tinylsm::{Background, Db, KeyspaceOptions, Result, WriteBatch, WriteOptions};

/// Returns how long this thread was on a processor; nothing where the system does not say.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

fn report<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (began, processor) = (Instant::now(), on_processor());
    let result = work()?;
    println!("{what}: {:?}, of it {:?} on a processor", began.elapsed(), on_processor() - processor);
    Ok(result)
}

fn main() -> Result<()> {
    let count: usize = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1000);
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    // The jobs run on this thread, so that they can be measured.
    let db = Db::builder(dir.path()).background(Background::Manual).open()?;
    let mut keyspaces = Vec::new();
    report(&format!("making {count} keyspaces"), || {
        for number in 0..count {
            keyspaces.push(db.create_keyspace(&format!("keyspace{number}"), KeyspaceOptions::default())?);
        }
        Ok(())
    })?;
    for round in 0..4 {
        let mut batch = WriteBatch::new();
        for keyspace in &keyspaces {
            batch.put(keyspace, "key", format!("{round}: twenty bytes"));
        }
        db.write(&batch, WriteOptions::disk())?;
        report("a flush of all", || db.flush())?;
    }
    report("what is due then", || db.wait_idle())?;
    keyspaces[count / 2].put("key", "new")?;
    report("a flush of one", || db.flush())?;
    report("what is due then", || db.wait_idle())?;
    db.close()
}
