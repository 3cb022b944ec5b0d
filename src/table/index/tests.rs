//! What an index finds, and which bytes it refuses.

use super::*;
use crate::base::comparator::ReverseBytewise;
use crate::base::key::Kind;
use crate::base::limits::KEY_LEN_BYTES_MAX;
use crate::base::seq::SeqNum;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

fn tag(seq: u64) -> Tag {
    Tag::new(SeqNum::new(seq), Kind::Put)
}

/// Builds an index in which each key is a block of its own: last and first key at once.
fn build(keys: &[Vec<u8>], order: &KeyOrder) -> (Vec<u8>, u64) {
    let mut builder = IndexBuilder::new(order.clone());
    let mut offset = 0;
    for (position, key) in keys.iter().enumerate() {
        let next = keys.get(position + 1).map(|key| &key[..]);
        let handle = Handle { offset, len: 10 };
        builder.add(InternalKey::new(key, tag(7)), next, handle);
        offset = handle.end();
    }
    (builder.finish().to_vec(), offset)
}

fn sorted(keys: BTreeSet<Vec<u8>>, is_reverse: bool) -> (Vec<Vec<u8>>, KeyOrder) {
    let mut keys: Vec<_> = keys.into_iter().collect();
    if !is_reverse {
        return (keys, KeyOrder::Bytewise);
    }
    keys.reverse();
    (keys, KeyOrder::custom(Arc::new(ReverseBytewise)))
}

/// The same separators, left packed.
fn packed(index: &Index, block: &[u8]) -> Index {
    let separators = Separators::Packed(Packed { block: block.into() });
    Index { starts: index.starts.clone(), separators, order: index.order.clone() }
}

proptest! {
    #[test]
    fn the_block_that_can_hold_a_key_is_found(
        keys in prop::collection::btree_set(prop::collection::vec(97u8..100, 0..12), 2..40),
        common in prop::collection::vec(97u8..100, 0..4),
        wanted in prop::collection::vec(96u8..101, 0..14),
        is_reverse: bool,
    ) {
        let keys: BTreeSet<Vec<u8>> = keys.iter().map(|key| [&common[..], key].concat()).collect();
        let (keys, order) = sorted(keys, is_reverse);
        let (block, end) = build(&keys, &order);
        let index = Index::parse(&block, end, &order).expect("intact");
        prop_assert_eq!(index.blocks_count(), keys.len());
        let packed = packed(&index, &block);
        for (position, key) in keys.iter().enumerate() {
            for index in [&index, &packed] {
                prop_assert_eq!(index.find(InternalKey::new(key, tag(7))), Some(position));
                prop_assert_eq!(index.find(InternalKey::new(key, Tag::NEWEST)), Some(position));
            }
            let (mut one, mut other) = (Vec::new(), Vec::new());
            prop_assert_eq!(index.separator(position, &mut one), packed.separator(position, &mut other));
            prop_assert_eq!(one, other);
        }
        let target = InternalKey::new(&wanted, tag(7));
        let at_or_after =
            keys.iter().position(|key| InternalKey::new(key, tag(7)).compare(&target, &order).is_ge());
        let found = index.find(target);
        // The separator may reach into the gap, so the block before the first key is as good.
        prop_assert!(found == at_or_after || found.map(|i| i + 1) == at_or_after.or(Some(keys.len())));
        prop_assert_eq!(packed.find(target), found);
        prop_assert!(Index::parse(&block, end + 1, &order).is_err());
    }

    #[test]
    fn any_bytes_parse_or_are_refused(bytes: Vec<u8>, data_end: u64) {
        let _ = Index::parse(&bytes, data_end, &KeyOrder::Bytewise);
    }
}

#[test]
fn long_keys_that_neighbours_share_take_no_more_memory_than_their_block() {
    // Half of the keys share one long beginning, half another, so that all together share nothing.
    let key = |half: u8, number: u32| {
        let mut key = vec![half; KEY_LEN_BYTES_MAX - 4];
        key.extend_from_slice(&number.to_be_bytes());
        key
    };
    let keys: BTreeSet<Vec<u8>> = (0..600).map(|number| key(u8::from(number >= 300), number)).collect();
    for is_reverse in [false, true] {
        let (keys, order) = sorted(keys.clone(), is_reverse);
        let (block, end) = build(&keys, &order);
        let index = Index::parse(&block, end, &order).expect("intact");
        let in_memory = index.len_bytes();
        assert!(in_memory <= block.len() + 10_000, "{in_memory} for a block of {}", block.len());
        for (position, key) in keys.iter().enumerate() {
            assert_eq!(index.find(InternalKey::new(key, tag(7))), Some(position));
        }
    }
}

#[test]
fn an_index_whose_keys_would_grow_without_bound_is_refused() {
    // One whole key, and behind it any number that share it: twelve bytes each that stand for 64 KiB.
    let mut builder = BlockBuilder::new();
    let key = vec![b'k'; KEY_LEN_BYTES_MAX];
    builder.add(InternalKey::new(&key, tag(7)), 0, &[0, 10]);
    let one = builder.finish().to_vec();
    let entries_end = one.len() - 12;
    let mut forged = vec![];
    for number in 0..100_000u64 {
        varint::write_u64(&mut forged, 15 * number);
        varint::write_u32(&mut forged, 10);
    }
    let values_len = u32::try_from(forged.len()).expect("short");
    forged.extend_from_slice(&one[2..entries_end]);
    for number in 1..100_000u64 {
        let value_len = {
            let mut value = Vec::new();
            varint::write_u64(&mut value, 15 * number);
            value.len() + 1
        };
        varint::write_u32(&mut forged, 65_535);
        varint::write_u32(&mut forged, 0);
        varint::write_u32(&mut forged, u32::try_from(value_len).expect("short"));
        forged.extend_from_slice(&tag(7).raw().to_le_bytes());
    }
    forged.extend_from_slice(&values_len.to_le_bytes());
    forged.extend_from_slice(&[0; 4]);
    forged.extend_from_slice(&1u32.to_le_bytes());
    let parsed = Index::parse(&forged, 1_500_000, &KeyOrder::Bytewise);
    assert_eq!(parsed.map(drop), Err(Damaged("the restarts of an index are not where they belong")));
}

#[test]
fn a_data_block_longer_than_any_is_refused() {
    let handle = |len| Handle { offset: 0, len: u32::try_from(len).expect("32 bits") };
    for (len, is_legal) in [(BLOCK_LEN_BYTES_MAX, true), (BLOCK_LEN_BYTES_MAX + 1, false)] {
        let mut builder = IndexBuilder::new(KeyOrder::Bytewise);
        builder.add(InternalKey::new(b"k", tag(7)), None, handle(len));
        let block = builder.finish();
        let parsed = Index::parse(block, handle(len).end(), &KeyOrder::Bytewise);
        assert_eq!(parsed.is_ok(), is_legal, "{len} bytes");
    }
}
