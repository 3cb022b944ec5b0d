//! Every bound of the engine, each with its reason.

/// Longest user key. A key is copied into index blocks and table bounds, and a two-byte length fits it.
pub const KEY_LEN_BYTES_MAX: usize = 65_535;
/// Longest value. One record must fit a WAL frame with room to spare.
pub const VALUE_LEN_BYTES_MAX: usize = 64 << 20;
/// Largest batch in its encoded form, so that one WAL frame always holds one batch.
pub const BATCH_LEN_BYTES_MAX: usize = 128 << 20;
/// Largest payload a frame may claim. Bytes of a disk may claim anything; this bounds what is allocated.
pub const FRAME_PAYLOAD_LEN_BYTES_MAX: usize = BATCH_LEN_BYTES_MAX + (1 << 20);
/// Largest block a table may claim, stored or unpacked, for the same reason. One value must fit.
pub const BLOCK_LEN_BYTES_MAX: usize = VALUE_LEN_BYTES_MAX + KEY_LEN_BYTES_MAX + (1 << 20);
/// Levels of a keyspace's tree.
pub const LEVELS_COUNT: usize = 7;
/// Longest name of a keyspace or comparator.
pub const NAME_LEN_BYTES_MAX: usize = 255;
/// Keyspaces of one database: each has an entry in every published state.
pub const KEYSPACES_COUNT_MAX: usize = 4096;
/// Records of weak durability held back in memory before they are handed to the system in one append.
pub const WAL_HELD_BACK_LEN_BYTES_MAX: usize = 1 << 20;

/// Bytes of the log that only the system has, from which on the background makes them durable: few milliseconds of
/// a disk's time, which is what a seal then waits at most.
pub const WAL_WRITE_BACK_LEN_BYTES: u64 = 4 << 20;

/// Log that an opening writes again instead of making tables of it: about what one sync costs, so that it is not felt,
/// and small enough that a closed small database takes little.
pub const CARRIED_LOG_LEN_BYTES_MAX: u64 = 32 << 10;

/// Returns how much log an opening writes again; a database with small memtables writes a part of one.
pub const fn carried_log_len_max(memtable_bytes: usize) -> u64 {
    let part = memtable_bytes as u64 / 4;
    if part < CARRIED_LOG_LEN_BYTES_MAX { part } else { CARRIED_LOG_LEN_BYTES_MAX }
}

/// The least space that is set aside for a full disk: some hundred deletes and a small flush.
pub const RESERVE_LEN_BYTES_MIN: u64 = 32 << 10;
/// What part of the tables' bytes is set aside.
pub const RESERVE_PART: u64 = 16;

const _: () = assert!(BATCH_LEN_BYTES_MAX > VALUE_LEN_BYTES_MAX + KEY_LEN_BYTES_MAX + 1024);
const _: () = assert!(FRAME_PAYLOAD_LEN_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(BLOCK_LEN_BYTES_MAX < u32::MAX as usize);
