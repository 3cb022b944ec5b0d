//! The workloads and clocks of the command line's ladder.

#[path = "../../../src/bin/tinylsm/bench/measure.rs"]
#[allow(dead_code, reason = "shared with the command line, which uses all of it")]
pub(crate) mod measure;
#[path = "../../../src/bin/tinylsm/bench/workload.rs"]
pub(crate) mod workload;
