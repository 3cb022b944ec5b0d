//! Any bytes as the choices of a whole run.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tinylsm_sim::{disk::Profile, tape::Tape, trace::Keep, workload::run::run_tape};

fuzz_target!(|bytes: &[u8]| {
    let ended = run_tape(0, Tape::from_bytes(bytes.to_vec()), Profile::Worst, Keep::Nothing);
    if let Some(violation) = ended.violation {
        panic!("{}: {}", violation.oracle, violation.message);
    }
});
