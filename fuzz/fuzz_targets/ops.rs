//! Operations against a sorted map, reopening now and then.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tinylsm_fuzz::ops::{Ops, Pair};

fuzz_target!(|ops: Ops| {
    let mut pair = Pair::open().expect("a disk in memory does not fail");
    for op in ops.0 {
        pair.play(op).expect("a disk in memory does not fail");
    }
    pair.compare().expect("a disk in memory does not fail");
});
