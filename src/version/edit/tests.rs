//! Edits come back as they were, within their bounds, and what is unknown is told from damage.

use super::*;
use proptest::prelude::*;

#[test]
fn every_change_comes_back_as_it_was() {
    let meta = TableMeta {
        number: FileNumber(9),
        len_bytes: 1 << 40,
        smallest: b"a".to_vec(),
        largest: vec![0xFF; 300],
        smallest_seq: SeqNum::new(1),
        largest_seq: SeqNum::LAST,
        entries: 12,
        deletes: 3,
        earliest_expiry: UnixMillis::MAX,
        latest_expiry: UnixMillis(-7),
    };
    let id = KeyspaceId(4);
    let changes = vec![
        Change::CreateKeyspace { id, name: "x".into(), comparator: "c".into(), options: "a=1\n".into() },
        Change::AddTable { keyspace: id, level: 6, meta },
        Change::RemoveTable { keyspace: id, level: 0, number: FileNumber(3) },
        Change::NextFile(FileNumber(11)),
        Change::Flushed { wal_first: FileNumber(8), seq: SeqNum::new(77) },
        Change::WalOpened(FileNumber(8)),
        Change::Closed { wal: FileNumber(8), good_len: 5000 },
        Change::TimeHighWater(UnixMillis(1)),
        Change::DropKeyspace(id),
        Change::RenameKeyspace { id: KeyspaceId(u32::MAX), name: "y".repeat(limits::NAME_LEN_BYTES_MAX) },
        Change::ClearKeyspace { id: KeyspaceId(u32::MAX), seq: SeqNum::LAST },
        Change::NextKeyspace(KeyspaceId(u32::MAX)),
    ];
    for change in &changes {
        assert!(encode(std::slice::from_ref(change)).len() <= len_bytes_max(change));
    }
    assert_eq!(decode(&encode(&changes)), Ok(changes));
}

#[test]
fn the_longest_table_and_keyspace_fit_their_bound() {
    let meta = TableMeta {
        number: FileNumber(limits::FILE_NUMBER_MAX),
        len_bytes: limits::COUNT_FROM_DISK_MAX,
        smallest: vec![0xFF; limits::KEY_LEN_BYTES_MAX],
        largest: vec![0xFF; limits::KEY_LEN_BYTES_MAX],
        smallest_seq: SeqNum::LAST,
        largest_seq: SeqNum::LAST,
        entries: limits::COUNT_FROM_DISK_MAX,
        deletes: limits::COUNT_FROM_DISK_MAX,
        earliest_expiry: UnixMillis::MIN,
        latest_expiry: UnixMillis::MAX,
    };
    let text = |len: usize| "x".repeat(len);
    let longest = [
        Change::AddTable { keyspace: KeyspaceId(u32::MAX), level: limits::LEVELS_COUNT - 1, meta },
        Change::CreateKeyspace {
            id: KeyspaceId(u32::MAX),
            name: text(limits::NAME_LEN_BYTES_MAX),
            comparator: text(limits::NAME_LEN_BYTES_MAX),
            options: text(limits::OPTIONS_LEN_BYTES_MAX),
        },
    ];
    for change in &longest {
        let len = encode(std::slice::from_ref(change)).len();
        assert!(len <= len_bytes_max(change), "{len} bytes");
        assert!(len_bytes_max(change) <= limits::CHANGE_LEN_BYTES_MAX);
    }
    assert_eq!(decode(&encode(&longest)), Ok(longest.to_vec()));
}

#[test]
fn what_a_newer_version_wrote_is_told_from_damage() {
    let known = encode(&[Change::NextFile(FileNumber(7))]);
    for tag in (TAG_NEXT_KEYSPACE + 1..=255).chain([0]) {
        let payload = [&known[..], &[tag, 2, 0xAA, 0xBB]].concat();
        assert_eq!(decode(&payload), Err(Unreadable::Unknown { at: known.len(), tag }));
    }
    // One field more than this version knows.
    let longer = [TAG_WAL_OPENED, 2, 9, 1];
    assert_eq!(decode(&longer), Err(Unreadable::Unknown { at: 0, tag: TAG_WAL_OPENED }));
    let shorter = [TAG_FLUSHED, 1, 9];
    assert_eq!(decode(&shorter), Err(Unreadable::Damaged { at: 0 }));
    let unknown = decode(&longer).expect_err("refused").into_error(Path::new("MANIFEST-000001"), 100);
    assert_eq!((unknown.kind(), unknown.offset()), (ErrorKind::Incompatible, Some(100)));
    let damaged = decode(&shorter).expect_err("refused").into_error(Path::new("MANIFEST-000001"), 100);
    assert_eq!(damaged.kind(), ErrorKind::Corruption);
}

#[test]
fn numbers_beyond_their_bounds_are_refused() {
    let refused = [
        Change::NextFile(FileNumber(limits::FILE_NUMBER_MAX + 1)),
        Change::WalOpened(FileNumber(u64::MAX)),
        Change::Flushed { wal_first: FileNumber(1), seq: SeqNum::MAX },
        Change::ClearKeyspace { id: KeyspaceId(1), seq: SeqNum::MAX },
        Change::Closed { wal: FileNumber(1), good_len: limits::COUNT_FROM_DISK_MAX + 1 },
        Change::RemoveTable { keyspace: KeyspaceId(0), level: limits::LEVELS_COUNT, number: FileNumber(1) },
    ];
    for change in refused {
        assert_eq!(decode(&encode(&[change])), Err(Unreadable::Damaged { at: 0 }));
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes: Vec<u8>) {
        let _ = decode(&bytes);
    }
}
