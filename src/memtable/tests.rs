use super::*;
use crate::base::comparator::ReverseBytewise;
use crate::base::key::Kind;
use crate::sync::atomic::AtomicU64;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn insert(memtable: &Memtable, key: &[u8], seq: u64, value: &[u8]) {
    let tag = Tag::new(SeqNum::new(seq), Kind::Put);
    memtable.insert(&mut Arena::new(4096), InternalKey::new(key, tag), value);
}

fn orders() -> [KeyOrder; 2] {
    [KeyOrder::Bytewise, KeyOrder::custom(Arc::new(ReverseBytewise))]
}

#[test]
fn get_finds_the_newest_at_or_below() {
    for order in orders() {
        let memtable = Memtable::new(&order, 4096);
        insert(&memtable, b"k", 3, b"three");
        insert(&memtable, b"k", 7, b"seven");
        insert(&memtable, b"k\0", 5, b"other");
        let value = |seq| memtable.get(b"k", SeqNum::new(seq)).map(|(_, value)| value.to_vec());
        assert_eq!(value(2), None);
        assert_eq!(value(3), Some(b"three".to_vec()));
        assert_eq!(value(6), Some(b"three".to_vec()));
        assert_eq!(value(100), Some(b"seven".to_vec()));
        assert_eq!(memtable.get(b"j", SeqNum::MAX).map(|_| ()), None);
    }
}

proptest! {
    #[test]
    fn cursor_walks_like_a_sorted_vector(
        keys in prop::collection::vec(prop::collection::vec(0u8..3, 1..20), 1..60),
        steps in prop::collection::vec((0u8..6, prop::collection::vec(0u8..3, 1..20)), 1..60),
    ) {
        for order in orders() {
            let memtable = Arc::new(Memtable::new(&order, 4096));
            let mut model = Vec::new();
            for (at, key) in keys.iter().enumerate() {
                insert(&memtable, key, at as u64 + 1, b"v");
                model.push((key.clone(), at as u64 + 1));
            }
            model.sort_by(|a, b| order.compare(&a.0, &b.0).then(b.1.cmp(&a.1)));
            let mut cursor = memtable.cursor();
            let mut place: Option<usize> = None;
            for (action, key) in &steps {
                let target = InternalKey::new(key, Tag::NEWEST);
                let below = model.partition_point(|entry| order.compare(&entry.0, key) == std::cmp::Ordering::Less);
                match (action, place) {
                    (0, _) => { cursor.seek_to_first().expect("memory"); place = Some(0); }
                    (1, _) => { cursor.seek_to_last().expect("memory"); place = Some(model.len() - 1); }
                    (2, _) => { cursor.seek(target).expect("memory"); place = Some(below); }
                    (3, _) => { cursor.seek_before(target).expect("memory"); place = below.checked_sub(1); }
                    (4, Some(at)) => { cursor.next().expect("memory"); place = Some(at + 1); }
                    (5, Some(at)) => { cursor.prev().expect("memory"); place = at.checked_sub(1); }
                    _ => {}
                }
                place = place.filter(|&at| at < model.len());
                prop_assert_eq!(cursor.is_valid(), place.is_some());
                if let Some(at) = place {
                    prop_assert_eq!(cursor.key().user_key, model[at].0.as_slice());
                    prop_assert_eq!(cursor.key().tag.seq().get(), model[at].1);
                }
            }
        }
    }
}

#[test]
fn a_published_entry_is_found_while_the_filter_grows() {
    const ENTRIES_COUNT: u64 = 5_000;
    for order in orders() {
        let memtable = Arc::new(Memtable::new(&order, 64 << 20));
        let published = Arc::new(AtomicU64::new(0));
        let key = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        let readers: Vec<_> = (0..2u64)
            .map(|reader| {
                let (memtable, published) = (Arc::clone(&memtable), Arc::clone(&published));
                let body = move || {
                    let mut at = reader;
                    loop {
                        let count = published.load(Ordering::Acquire);
                        for number in [count.saturating_sub(1), at % count.max(1)] {
                            let found = memtable.get(&key(number), SeqNum::new(count));
                            assert_eq!(found.is_some(), count > 0, "{number} of {count}");
                        }
                        if count == ENTRIES_COUNT {
                            return;
                        }
                        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    }
                };
                crate::sync::spawn("memtable-test", body).expect("the system has threads")
            })
            .collect();
        let mut arena = Arena::new(64 << 20);
        for number in 0..ENTRIES_COUNT {
            let tag = Tag::new(SeqNum::new(number + 1), Kind::Put);
            memtable.insert(&mut arena, InternalKey::new(&key(number), tag), b"v");
            published.store(number + 1, Ordering::Release);
        }
        readers.into_iter().for_each(|reader| assert!(reader.join()));
        assert!((0..ENTRIES_COUNT).all(|number| memtable.get(&key(number), SeqNum::MAX).is_some()));
        assert_eq!(memtable.count(), ENTRIES_COUNT);
    }
}
