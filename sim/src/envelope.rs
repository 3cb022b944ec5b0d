//! The madsim runtime as an envelope.
//!
//! Runs code as the only task of a madsim runtime on a fresh OS thread. What madsim intercepts there (the clock, the
//! system's entropy, the start of threads) then follows its seed or fails, so code that reaches past `vfs` and `sync`
//! gives itself away. Nothing of madsim's scheduler, disk or network is used.

use std::panic::resume_unwind;

/// Runs `body` inside a madsim runtime seeded with `seed`, and returns what it returned.
///
/// # Panics
/// As `body` does, or if the system has no thread to give.
pub fn hosted<T: Send + 'static>(seed: u64, body: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().name("madsim".to_owned());
    let runtime = move || {
        let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.block_on(async move { body() })
    };
    match thread.spawn(runtime).expect("the system has a thread for a runtime").join() {
        Ok(value) => value,
        Err(payload) => resume_unwind(payload),
    }
}
