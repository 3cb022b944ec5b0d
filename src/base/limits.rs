//! Every bound of the engine, each with its reason.

/// Longest key, in bytes. A key is copied into index blocks and table bounds, and a two-byte length fits it.
pub const KEY_LEN_BYTES_MAX: usize = 65_535;
/// Longest value a caller may write, in bytes. One record must fit a WAL frame with space to spare.
pub const VALUE_LEN_BYTES_MAX: usize = 64 << 20;
/// Bytes of expiry in front of the value of a put-with-expiry.
pub const EXPIRY_LEN_BYTES: usize = 8;
/// Longest value as log, memtable and tables store it: the longest of a caller's, with an expiry.
pub const STORED_VALUE_LEN_BYTES_MAX: usize = VALUE_LEN_BYTES_MAX + EXPIRY_LEN_BYTES;
/// Most bytes an operation of a batch takes besides key and value: its kind, and three varints of 32 bits.
pub const OPERATION_OVERHEAD_LEN_BYTES_MAX: usize = 1 + 3 * 5;
/// Largest batch in its encoded form ([`WriteBatch::byte_len`](crate::db::batch::WriteBatch::byte_len)), in bytes, so that one
/// WAL frame always holds one batch.
pub const BATCH_LEN_BYTES_MAX: usize = 128 << 20;
/// Largest payload a frame may claim. Bytes of a disk may claim anything; this bounds what is allocated.
pub const FRAME_PAYLOAD_LEN_BYTES_MAX: usize = BATCH_LEN_BYTES_MAX + (1 << 20);
/// Bytes of entries from which on a table's writer ends a block, at most.
pub const BLOCK_TARGET_LEN_BYTES_MAX: usize = 1 << 20;
/// Most bytes an entry of a block takes besides key and value: three varints of 32 bits, a tag, a restart; and the
/// block's count of restarts.
pub const ENTRY_OVERHEAD_LEN_BYTES_MAX: usize = 3 * 5 + 8 + 8 + 4;
/// Largest data block, stored or unpacked: one that just missed its target and took one more entry of the largest kind.
pub const BLOCK_LEN_BYTES_MAX: usize = BLOCK_TARGET_LEN_BYTES_MAX
    + KEY_LEN_BYTES_MAX
    + STORED_VALUE_LEN_BYTES_MAX
    + ENTRY_OVERHEAD_LEN_BYTES_MAX;
/// Bytes of index from which on a table is cut, whatever its length: it is in memory while the table is open, and its
/// length has 32 bits. Reached by keys near their limit only.
pub const TABLE_INDEX_LEN_BYTES_MAX: usize = 256 << 20;
/// Largest properties block: two keys of a table, two names, and space for what a later version may add.
pub const PROPERTIES_LEN_BYTES_MAX: usize = 1 << 20;
/// Longest stored options of a keyspace.
pub const OPTIONS_LEN_BYTES_MAX: usize = 64 << 10;
/// Longest version edit that is written as one record. A longer one is installed by beginning a new manifest, and a
/// whole catalog is written as several. One record is in memory three times while it is written.
pub const EDIT_LEN_BYTES_MAX: usize = 16 << 20;
/// Space that is kept allocated behind the manifest's end: some forty small edits, or a few of the usual ones.
pub const MANIFEST_AHEAD_LEN_BYTES: u64 = 4 << 10;

/// Returns how much space is kept allocated behind the manifest's end; one that is begun anew more often needs less.
pub const fn manifest_ahead_len(roll_bytes: u64) -> u64 {
    let part = roll_bytes / 4;
    if part < MANIFEST_AHEAD_LEN_BYTES { part } else { MANIFEST_AHEAD_LEN_BYTES }
}

/// Free space on the disk from which on a manifest's edit is written without allocating, if the disk refuses that.
pub const UNALLOCATED_SPACE_LEN_BYTES: u64 = 1 << 20;

/// About what a table or a keyspace takes in a manifest, besides a table's keys.
pub const CATALOG_ENTRY_LEN_BYTES: u64 = 128;
/// An edit that may take the last of that: no table is in it, only numbers.
pub const SMALL_EDIT_LEN_BYTES_MAX: usize = 64;
/// Most bytes one change of an edit takes: a table with two keys, or a keyspace with its options and names.
pub const CHANGE_LEN_BYTES_MAX: usize = 2 * KEY_LEN_BYTES_MAX + OPTIONS_LEN_BYTES_MAX + 1024;
/// Numbers beyond the last one given out that an edit states as taken, if it is made only for that.
pub const NUMBERS_STATED_AHEAD_COUNT: u64 = 4096;
/// Highest file number that a disk may state or show. A frame holds 56 bits of it; no database comes near by counting.
pub const FILE_NUMBER_MAX: u64 = 1 << 55;
/// Largest size or count that a disk may state, in bytes or entries: sums of any number of them stay below 64 bits.
pub const COUNT_FROM_DISK_MAX: u64 = 1 << 48;
/// Levels of a keyspace's tree.
pub const LEVELS_COUNT: usize = 7;
/// Longest name of a keyspace or comparator, in bytes of UTF-8.
pub const NAME_LEN_BYTES_MAX: usize = 255;
/// Most keyspaces of one database: each has an entry in every published state.
pub const KEYSPACES_COUNT_MAX: usize = 4096;
/// Records of weak durability held back in memory before they are handed to the system in one append.
pub const WAL_HELD_BACK_LEN_BYTES_MAX: usize = 1 << 20;
/// Bytes that a WAL segment is allocated ahead at first; later a quarter of what it holds. So a small database takes
/// little, and in a large segment one sync in thousands has to wait for the file's new length as well.
pub const WAL_ALLOCATE_LEN_BYTES_MIN: u64 = 64 << 10;

/// Tables of one job that are written and not yet synced. Together they cost little more than one sync; each holds a
/// descriptor until then.
pub const UNSYNCED_TABLES_COUNT_MAX: usize = 128;
/// Bytes of such tables: what the disk is given to write at once, so that the syncs of the log do not wait for long.
pub const UNSYNCED_TABLES_LEN_BYTES_MAX: u64 = 16 << 20;

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

/// Returns the least space that is set aside; a database with small memtables does with less.
pub const fn reserve_len_min(memtable_bytes: usize) -> u64 {
    let part = memtable_bytes as u64 / 2;
    if part < RESERVE_LEN_BYTES_MIN { part } else { RESERVE_LEN_BYTES_MIN }
}

/// What the smallest table takes on a disk, which gives files whole blocks; less where memtables are so small that it would
/// be most of what there is.
pub const fn table_space_len_bytes(memtable_bytes: usize) -> u64 {
    let part = memtable_bytes as u64 / 64;
    if part < TABLE_OVERHEAD_LEN_BYTES {
        TABLE_OVERHEAD_LEN_BYTES
    } else if part < DISK_BLOCK_LEN_BYTES {
        part
    } else {
        DISK_BLOCK_LEN_BYTES
    }
}

/// Returns how many files may lie in a directory needed by nobody before an opening takes the time to remove them first;
/// small databases, which have few, meet this too.
pub const fn leftovers_count_max(memtable_bytes: usize) -> usize {
    let part = memtable_bytes / (4 << 10);
    if part < 16 { part } else { 16 }
}

/// What a file system gives a file at least, and whole numbers of.
const DISK_BLOCK_LEN_BYTES: u64 = 4 << 10;

/// About what a table takes besides its entries: filter, properties, footer.
pub const TABLE_OVERHEAD_LEN_BYTES: u64 = 1 << 10;

/// About what an entry takes in a table besides key and value, its share of filter and index included.
pub const TABLE_ENTRY_LEN_BYTES: u64 = 32;

/// Where the reserve cannot follow the memtables, they are sealed when they are half as large as it is, but not below this:
/// many small tables and segments take more than they give back.
pub const SEAL_EARLY_LEN_BYTES_MIN: u64 = 1 << 20;

/// What part of the tables' bytes is set aside.
pub const RESERVE_PART: u64 = 8;

/// Readers tell the background each time that they have wasted one part of this many of a memtable's size by stepping
/// over hidden entries: so often that little more is wasted than a merge costs, so seldom that telling costs nothing.
pub const NOTICE_PART: u64 = 256;

// How the limits compose: what a call accepts can be logged, flushed, merged, named in the manifest and read back.
const _: () = assert!(
    STORED_VALUE_LEN_BYTES_MAX + KEY_LEN_BYTES_MAX + OPERATION_OVERHEAD_LEN_BYTES_MAX <= BATCH_LEN_BYTES_MAX,
    "a batch holds the largest operation"
);
const _: () =
    assert!(BATCH_LEN_BYTES_MAX + 20 <= FRAME_PAYLOAD_LEN_BYTES_MAX, "a frame holds the largest batch");
const _: () = assert!(FRAME_PAYLOAD_LEN_BYTES_MAX < u32::MAX as usize, "a frame's length has 32 bits");
const _: () = assert!(BLOCK_LEN_BYTES_MAX < u32::MAX as usize, "a block's length has 32 bits");
const _: () = assert!(
    TABLE_INDEX_LEN_BYTES_MAX + KEY_LEN_BYTES_MAX + 64 < u32::MAX as usize,
    "an index that just missed its limit takes one more block and still has a length of 32 bits"
);
const _: () = assert!(
    2 * (KEY_LEN_BYTES_MAX + 8) + 2 * NAME_LEN_BYTES_MAX + 4096 <= PROPERTIES_LEN_BYTES_MAX,
    "the properties hold two of the longest keys"
);
const _: () = assert!(CHANGE_LEN_BYTES_MAX <= EDIT_LEN_BYTES_MAX, "an edit holds the longest change");
const _: () = assert!(EDIT_LEN_BYTES_MAX <= FRAME_PAYLOAD_LEN_BYTES_MAX, "a frame holds the longest edit");
const _: () = assert!(FILE_NUMBER_MAX < 1 << 56, "a frame holds 56 bits of its log's number");
