//! Any bytes as a WAL record.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tinylsm::format::batch::open_record;

fuzz_target!(|bytes: &[u8]| {
    if let Some((_, mut operations)) = open_record(bytes) {
        while let Ok(Some(operation)) = operations.next_operation() {
            assert!(operation.value.end <= bytes.len());
        }
    }
});
