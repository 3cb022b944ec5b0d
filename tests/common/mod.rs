//! What several integration tests share: options so small that a few writes fill every level, and a look at everything.

use std::collections::BTreeMap;
use tinylsm::{Keyspace, KeyspaceOptions, Options};

/// Keys with their values.
#[allow(dead_code, reason = "not every test file reads whole keyspaces")]
pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Returns options under which a few hundred writes flush, compact and roll the manifest.
pub fn tiny() -> Options {
    let keyspace = KeyspaceOptions::default()
        .block_bytes(128)
        .level0_compaction_trigger(2)
        .level_base_bytes(8 << 10)
        .level_multiplier(2)
        .table_bytes(2 << 10);
    Options::default()
        .memtable_bytes(4 << 10)
        .wal_preallocate_bytes(1 << 10)
        .manifest_roll_bytes(1 << 10)
        .block_cache_bytes(16 << 10)
        .default_keyspace(keyspace)
}

/// Returns the options of a keyspace like the default one under [`tiny`].
#[allow(dead_code, reason = "not every test file makes keyspaces")]
pub fn tiny_keyspace() -> KeyspaceOptions {
    tiny().default_keyspace.expect("tiny options have them")
}

/// Lends the options of the default keyspace.
#[allow(dead_code, reason = "not every test file changes them")]
pub fn keyspace_of(options: &mut Options) -> &mut KeyspaceOptions {
    options.default_keyspace.get_or_insert_default()
}

/// Reads a whole keyspace, which must be sound.
#[allow(dead_code, reason = "not every test file reads whole keyspaces")]
pub fn contents(keyspace: &Keyspace) -> Model {
    let items = keyspace.iter().expect("the database is open").map(|item| item.expect("readable"));
    items.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Bytes that do not pack, and that differ from number to number.
#[allow(dead_code, reason = "not every test file writes what does not pack")]
pub fn noise(number: u64, len: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}
