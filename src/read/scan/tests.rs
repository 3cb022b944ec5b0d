use super::*;
use crate::base::comparator::{KeyOrder, ReverseBytewise};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::memtable::arena::Arena;
use crate::sync::atomic::AtomicU64;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering as Atomic;

/// A tree of memtables with the versions of each key: by number, a value or none.
struct Stage {
    tree: Tree,
    model: BTreeMap<u8, BTreeMap<u64, Option<u8>>>,
    seq: u64,
}

impl Stage {
    fn new(is_reverse: bool) -> Stage {
        let order = if is_reverse { KeyOrder::custom(Arc::new(ReverseBytewise)) } else { KeyOrder::Bytewise };
        Stage { tree: Tree::new(order, 1 << 10), model: BTreeMap::new(), seq: 0 }
    }

    fn write(&mut self, key: u8, value: Option<u8>) {
        self.seq += 1;
        self.model.entry(key).or_default().insert(self.seq, value);
        let kind = if value.is_some() { Kind::Put } else { Kind::Delete };
        let tag = Tag::new(SeqNum::new(self.seq), kind);
        let stored: Vec<u8> = value.into_iter().collect();
        self.tree.active.insert(&mut Arena::new(1 << 10), InternalKey::new(&[key], tag), &stored);
    }

    fn seal(&mut self) {
        let fresh = Arc::new(Memtable::new(&self.tree.order, 1 << 10));
        self.tree.sealed.insert(0, std::mem::replace(&mut self.tree.active, fresh));
    }

    fn scan(&self, at: u64, lower: Bound<Vec<u8>>, upper: Bound<Vec<u8>>) -> Scan {
        let horizon = Horizon { seq: SeqNum::new(at), now: UnixMillis(0) };
        Scan::new(self.tree.clone(), horizon, lower, upper)
    }

    /// Returns what a reader at `at` sees, in the tree's order.
    fn visible(&self, at: u64) -> Vec<(u8, u8)> {
        let newest = |versions: &BTreeMap<u64, Option<u8>>| *versions.range(..=at).next_back()?.1;
        let mut pairs: Vec<(u8, u8)> =
            self.model.iter().filter_map(|(&key, versions)| Some((key, newest(versions)?))).collect();
        pairs.sort_by(|a, b| self.tree.order.compare(&[a.0], &[b.0]));
        pairs
    }
}

/// Counts how often the background is woken.
fn waste(notice_bytes: u64) -> (Arc<ReadWaste>, Arc<AtomicU64>) {
    let woken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&woken);
    let wake = move || {
        counter.fetch_add(1, Atomic::Relaxed);
    };
    (Arc::new(ReadWaste::new(notice_bytes, Arc::new(wake))), woken)
}

fn drain(scan: &mut Scan) -> Vec<u8> {
    std::iter::from_fn(|| scan.next_pair()).map(|pair| pair.expect("memory").0[0]).collect()
}

#[test]
fn what_is_stepped_over_is_counted_where_it_is_hidden() {
    let mut stage = Stage::new(false);
    (0..40).for_each(|key| stage.write(key, Some(key)));
    stage.seal();
    (0..30).for_each(|key| stage.write(key, None));
    stage.write(35, Some(0));
    let (waste, woken) = waste(1);
    let mut scan = stage.scan(stage.seq, Bound::Unbounded, Bound::Unbounded).telling(Arc::clone(&waste));
    assert_eq!(drain(&mut scan).len(), 10);
    assert_eq!(stage.tree.active.steps_count(), 0, "they are gathered first");
    drop(scan);
    // Thirty deletes, what they hide, and the old version of one more.
    assert_eq!(stage.tree.active.steps_count(), 61);
    assert_eq!(stage.tree.sealed[0].steps_count(), 0);
    assert_eq!(woken.load(Atomic::Relaxed), 0, "a drop wakes nobody");
    assert!(waste.count_seek(0), "but the next seek does");
    assert!(!waste.count_seek(0));
    let mut scan = stage.scan(stage.seq, Bound::Unbounded, Bound::Unbounded).telling(waste);
    while scan.next_pair_back().is_some() {}
    drop(scan);
    assert_eq!(stage.tree.active.steps_count(), 122, "backwards they are the same");
}

#[test]
fn a_long_run_wakes_the_background_while_it_is_walked() {
    let mut stage = Stage::new(false);
    for _ in 0..100 {
        (0..100).for_each(|key| stage.write(key, None));
    }
    let (waste, woken) = waste(1);
    let mut scan = stage.scan(stage.seq, Bound::Unbounded, Bound::Unbounded).telling(waste);
    assert!(scan.next_pair().is_none());
    assert!(woken.load(Atomic::Relaxed) > 0);
    // Of a hundred versions, a few are passed over step by step and the others by seeking.
    let steps_count = stage.tree.active.steps_count();
    assert!(steps_count < 100 * 11, "{steps_count} steps");
}

#[test]
fn versions_newer_than_the_reader_are_nobodys_fault() {
    let mut stage = Stage::new(false);
    (0..20).for_each(|key| stage.write(key, Some(1)));
    let at = stage.seq;
    for _ in 0..50 {
        (0..20).for_each(|key| stage.write(key, None));
    }
    let (waste, _) = waste(1);
    for is_back in [false, true] {
        let mut scan = stage.scan(at, Bound::Unbounded, Bound::Unbounded).telling(Arc::clone(&waste));
        let next = if is_back { Scan::next_pair_back } else { Scan::next_pair };
        assert_eq!(std::iter::from_fn(|| next(&mut scan)).count(), 20);
    }
    assert_eq!(stage.tree.active.steps_count(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Next,
    Back,
    Seek(u8),
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        2 => Just(Bound::Unbounded),
        1 => (0u8..12).prop_map(|key| Bound::Included(vec![key])),
        1 => (0u8..12).prop_map(|key| Bound::Excluded(vec![key])),
    ]
}

proptest! {
    #[test]
    fn a_scan_gives_what_the_reader_sees_whatever_lies_between(
        writes in prop::collection::vec((0u8..12, 0u8..3, prop::option::of(any::<u8>())), 0..200),
        hot in 0u8..12,
        (is_reverse, at) in (any::<bool>(), 0u64..400),
        (lower, upper) in (bound(), bound()),
        steps in prop::collection::vec(
            prop_oneof![6 => Just(Step::Next), 6 => Just(Step::Back), 1 => (0u8..12).prop_map(Step::Seek)],
            1..40,
        ),
    ) {
        let mut stage = Stage::new(is_reverse);
        for (count, &(key, heat, value)) in writes.iter().enumerate() {
            // Some keys get so many versions that they are passed over by seeking.
            for _ in 0..if key == hot { 1 + u32::from(heat) * 6 } else { 1 } {
                stage.write(key, value);
            }
            if count % 50 == 49 {
                stage.seal();
            }
        }
        let at = at.min(stage.seq);
        let order = stage.tree.order.clone();
        let is_before = |key: u8, lower: &Bound<Vec<u8>>| match lower {
            Bound::Included(bound) => order.compare(&[key], bound).is_lt(),
            Bound::Excluded(bound) => order.compare(&[key], bound).is_le(),
            Bound::Unbounded => false,
        };
        let is_behind = |key: u8| match &upper {
            Bound::Included(bound) => order.compare(&[key], bound).is_gt(),
            Bound::Excluded(bound) => order.compare(&[key], bound).is_ge(),
            Bound::Unbounded => false,
        };
        let inside: Vec<(u8, u8)> = stage
            .visible(at)
            .into_iter()
            .filter(|&(key, _)| !is_before(key, &lower) && !is_behind(key))
            .collect();
        let mut scan = stage.scan(at, lower.clone(), upper.clone()).telling(waste(64).0);
        // The next place at the front, and the one behind the next at the back.
        let (mut front, mut back) = (0, inside.len());
        for step in &steps {
            let (got, wanted) = match step {
                Step::Next => {
                    let wanted = (front < back).then(|| inside[front]);
                    front += usize::from(wanted.is_some());
                    (scan.next_pair(), wanted)
                }
                Step::Back => {
                    let wanted = (front < back).then(|| inside[back - 1]);
                    back -= usize::from(wanted.is_some());
                    (scan.next_pair_back(), wanted)
                }
                Step::Seek(key) => {
                    scan.seek(&[*key]).expect("memory");
                    front = inside.partition_point(|&(other, _)| order.compare(&[other], &[*key]).is_lt());
                    continue;
                }
            };
            let got = got.map(|pair| pair.expect("memory")).map(|(key, value)| (key[0], value[0]));
            prop_assert_eq!(got, wanted, "{:?} of {:?}", step, inside);
        }
    }
}
