//! Operations against a sorted map, reopening now and then.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tinylsm_fuzz::ops::{Op, Pair};

fuzz_target!(|ops: Vec<Op>| {
    let mut pair = Pair::open().expect("a disk in memory does not fail");
    for op in ops {
        pair.play(op).expect("a disk in memory does not fail");
    }
    pair.compare().expect("a disk in memory does not fail");
});
