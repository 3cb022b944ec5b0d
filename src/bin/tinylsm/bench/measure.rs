//! Clocks, histograms and what the system says about memory and writes.
//!
//! Throughput is operations over wall time. Latency is taken of every 16th operation only, because two clock reads
//! cost tens of nanoseconds, as much as a tenth of a cached read; synced operations are all taken.

use crate::failure::{Failure, Outcome};
use hdrhistogram::Histogram;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest latency the histogram tells apart.
const LATENCY_NANOS_MAX: u64 = 600_000_000_000;

/// What a run of operations took.
pub(crate) struct Measured {
    pub(crate) operations: u64,
    pub(crate) time: Duration,
    latency: Histogram<u64>,
}

/// Which operations have their latency taken.
#[derive(Clone, Copy)]
pub(crate) enum Sample {
    Every16th,
    Each,
}

impl Measured {
    /// Returns the latency in microseconds below which `quantile` of the operations stay.
    pub(crate) fn latency_micros(&self, quantile: f64) -> f64 {
        crate::numbers::as_f64(self.latency.value_at_quantile(quantile)) / 1e3
    }

    /// Adds up threads that ran side by side.
    pub(crate) fn side_by_side(parts: Vec<Measured>) -> Measured {
        let mut parts = parts.into_iter();
        let mut whole = parts.next().expect("there is at least one thread");
        for part in parts {
            whole.operations += part.operations;
            whole.time = whole.time.max(part.time);
            whole.latency.add(&part.latency).expect("all histograms have the same bounds");
        }
        whole
    }
}

/// Runs `operation` with the numbers below `count`.
pub(crate) fn timed(
    count: u64,
    sample: Sample,
    mut operation: impl FnMut(u64) -> Outcome,
) -> Outcome<Measured> {
    let mut next = 0;
    timed_until(sample, |number| {
        next = number + 1;
        operation(number)?;
        Ok(next < count)
    })
}

/// Runs `operation` until it returns `false`.
pub(crate) fn timed_until(
    sample: Sample,
    mut operation: impl FnMut(u64) -> Outcome<bool>,
) -> Outcome<Measured> {
    let mut latency =
        Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3).expect("the bounds are constants that hold");
    let every = match sample {
        Sample::Every16th => 16,
        Sample::Each => 1,
    };
    let started = Instant::now();
    let mut number = 0;
    loop {
        let goes_on = if number % every == 0 {
            let before = Instant::now();
            let goes_on = operation(number)?;
            let nanos = u64::try_from(before.elapsed().as_nanos()).unwrap_or(LATENCY_NANOS_MAX);
            latency.saturating_record(nanos.max(1));
            goes_on
        } else {
            operation(number)?
        };
        number += 1;
        if !goes_on {
            return Ok(Measured { operations: number, time: started.elapsed(), latency });
        }
    }
}

/// Starts a new peak of this process's memory, where the system can do that.
pub(crate) fn reset_peak_memory() {
    // Without the right to do so the peak is that of the process so far; the report is about the last peak known.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Returns the most memory this process held since the last reset, in bytes, where the system tells.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Returns how many bytes this process has handed to write calls so far, where the system tells.
pub(crate) fn written_bytes() -> Option<u64> {
    let io = fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("wchar: "))?.trim().parse().ok()
}

/// Returns how many bytes the files of a directory occupy on the disk.
pub(crate) fn disk_bytes(dir: &Path) -> Outcome<u64> {
    use std::os::unix::fs::MetadataExt;
    let cannot = |error| Failure::system("cannot measure the database", &error);
    let mut sum = 0;
    for entry in fs::read_dir(dir).map_err(cannot)? {
        let metadata = entry.and_then(|entry| entry.metadata()).map_err(cannot)?;
        sum += metadata.blocks() * 512;
    }
    Ok(sum)
}
