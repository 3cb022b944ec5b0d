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

/// Readers tell the background each time that they have wasted one part of this many of a memtable's size by stepping
/// over hidden entries: so often that little more is wasted than a merge costs, so seldom that telling costs nothing.
pub const NOTICE_PART: u64 = 256;

const _: () = assert!(BATCH_LEN_BYTES_MAX > VALUE_LEN_BYTES_MAX + KEY_LEN_BYTES_MAX + 1024);
const _: () = assert!(FRAME_PAYLOAD_LEN_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(BLOCK_LEN_BYTES_MAX < u32::MAX as usize);
