//! The hash of user keys: one for the filters of memtables and tables alike.

/// Hashes a user key (XXH3, 64 bits). The value is in table files and never changes.
#[inline]
pub fn hash_key(user_key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(user_key)
}
