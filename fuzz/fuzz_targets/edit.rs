//! Any bytes as a version edit; what decodes comes back the same.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tinylsm::version::edit::{decode, encode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(changes) = decode(bytes) {
        assert_eq!(decode(&encode(&changes)), Ok(changes));
    }
});
