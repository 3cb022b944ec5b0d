//! What a run costs follows what it does. Work is counted, in bytes that are allocated: how long it takes says little on a
//! busy machine.

#![allow(clippy::disallowed_types, clippy::unwrap_used, reason = "the test counts what other threads do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tinylsm::{Db, Options, Result};
use tinylsm_sim::Check;

/// Less than what is allocated ahead for a single segment of the log.
const RUN_LEN_BYTES_MAX: u64 = 32 << 20;

#[test]
fn space_that_is_allocated_ahead_costs_nothing_on_a_simulated_disk() {
    assert!(Options::default().wal_preallocate_bytes > RUN_LEN_BYTES_MAX);
    let highest = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&highest);
    let report = Check::new(0..20).run(move |run| {
        let info = allocation_counter::measure(|| {
            for _ in 0..3 {
                run.incarnation(|| -> Result<()> {
                    let db =
                        Db::builder("/db").vfs(Arc::new(run.disk())).options(Options::default()).open()?;
                    (0..20_u32).try_for_each(|number| db.put(number.to_be_bytes(), "v").map(drop))
                });
            }
            run.db("/db").open().unwrap().verify().unwrap();
        });
        seen.fetch_max(info.bytes_total, Ordering::SeqCst);
    });
    report.expect_clean();
    let highest = highest.load(Ordering::SeqCst);
    println!("{highest} bytes at most");
    assert!(highest > 0 && highest < RUN_LEN_BYTES_MAX, "{highest} bytes are allocated by one run");
}
