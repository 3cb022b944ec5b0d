//! Any bytes over any span of a closed database: an answer or an error, never a panic.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tinylsm_fuzz::{builder, damage};

fuzz_target!(|input: (u8, u16, bool, &[u8])| {
    let (file, offset, is_sealed_anew, bytes) = input;
    let disk = damage::damaged(&damage::Damage { file, offset, bytes, is_sealed_anew });
    if let Ok(db) = builder(&disk).open_read_only() {
        drop(db.verify());
        drop(db.iter().map(|items| items.take_while(Result::is_ok).count()));
    }
});
