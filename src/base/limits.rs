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

/// Tables of one job that are written and not yet synced. Together they cost little more than one sync; each holds a
/// descriptor until then.
pub const UNSYNCED_TABLES_COUNT_MAX: usize = 64;
/// Bytes of such tables: what the disk is given to write at once, so that the syncs of the log do not wait for long.
pub const UNSYNCED_TABLES_LEN_BYTES_MAX: u64 = 16 << 20;

/// Bytes of the log that only the system has, from which on the background makes them durable: few milliseconds of
/// a disk's time, which is what a seal then waits at most.
pub const WAL_WRITE_BACK_LEN_BYTES: u64 = 4 << 20;

const _: () = assert!(BATCH_LEN_BYTES_MAX > VALUE_LEN_BYTES_MAX + KEY_LEN_BYTES_MAX + 1024);
const _: () = assert!(FRAME_PAYLOAD_LEN_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(BLOCK_LEN_BYTES_MAX < u32::MAX as usize);
