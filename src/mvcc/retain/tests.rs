use super::*;
use crate::base::error::ErrorKind;
use proptest::prelude::*;

/// Returns the numbers of the entries of one key that a merge keeps, and why.
fn merged(snapshots: &[u64], entries: &[(u64, Kind)], is_bottom: bool) -> (Vec<u64>, Kept) {
    let snapshots: BTreeSet<SeqNum> = snapshots.iter().map(|&seq| SeqNum::new(seq)).collect();
    let snapshots = Vec::from_iter(snapshots);
    let mut retention = Retention::new(&snapshots);
    let (mut kept, mut waiting, mut why) = (Vec::new(), Vec::new(), Kept::default());
    for &(seq, kind) in entries {
        let tag = Tag::new(SeqNum::new(seq), kind);
        match retention.judge(tag, || is_bottom).expect("kinds that are known") {
            Verdict::Keep(reason) => {
                for (seq, reason) in waiting.drain(..).chain([(seq, reason)]) {
                    kept.push(seq);
                    why.note(reason);
                }
            }
            Verdict::Wait(reason) => waiting.push((seq, reason)),
            Verdict::Drop => {}
        }
    }
    (kept, why)
}

fn kept(snapshots: &[u64], entries: &[(u64, Kind)], is_bottom: bool) -> Vec<u64> {
    merged(snapshots, entries, is_bottom).0
}

#[test]
fn without_snapshots_only_the_newest_stays() {
    assert_eq!(kept(&[], &[(9, Kind::Put), (5, Kind::Put), (1, Kind::Put)], false), [9]);
    assert_eq!(kept(&[], &[(9, Kind::Delete), (5, Kind::Put)], false), [9]);
    assert_eq!(kept(&[], &[(9, Kind::Delete), (5, Kind::Put)], true), [0u64; 0]);
}

#[test]
fn a_snapshot_keeps_what_it_sees_and_the_delete_above_it() {
    assert_eq!(kept(&[5], &[(9, Kind::Delete), (5, Kind::Put), (1, Kind::Put)], true), [9, 5]);
    assert_eq!(kept(&[4], &[(9, Kind::Put), (5, Kind::Put), (1, Kind::Put)], true), [9, 1]);
}

#[test]
fn a_delete_above_a_snapshot_that_sees_nothing_beneath_it_goes() {
    assert_eq!(kept(&[5], &[(9, Kind::Delete), (7, Kind::Put)], true), [0u64; 0]);
    assert_eq!(kept(&[5, 8], &[(9, Kind::Delete), (7, Kind::Put)], true), [9, 7]);
    assert_eq!(kept(&[5, 8], &[(9, Kind::Delete), (7, Kind::Delete), (3, Kind::Delete)], true), [0u64; 0]);
    assert_eq!(kept(&[5], &[(9, Kind::Delete), (7, Kind::Put)], false), [9]);
}

#[test]
fn what_stays_has_its_reason_noted() {
    let (_, why) = merged(&[4, 6], &[(9, Kind::Put), (5, Kind::Put), (1, Kind::Put)], true);
    assert_eq!(Vec::from_iter(why.for_snapshots()), [&SeqNum::new(4), &SeqNum::new(6)]);
    assert_eq!(why.for_deeper_count(), 0);
    let (_, why) = merged(&[4], &[(9, Kind::Delete), (3, Kind::Delete)], false);
    assert_eq!(why.for_deeper_count(), 2);
    // The older delete is what the younger snapshot sees: without that one it goes, though the put has to stay.
    let deletes_above_a_put = [(9, Kind::Delete), (5, Kind::Delete), (1, Kind::Put)];
    let (all, why) = merged(&[3, 7], &deletes_above_a_put, true);
    assert_eq!(
        (all, why.for_snapshots()),
        (vec![9, 5, 1], &BTreeSet::from([SeqNum::new(3), SeqNum::new(7)]))
    );
    assert_eq!(kept(&[3], &deletes_above_a_put, true), [9, 1]);
    assert_eq!(merged(&[], &[(9, Kind::Put), (5, Kind::Put)], false).1, Kept::default());
}

/// A key with a version for each of very many snapshots is merged in decent time: its versions name them backwards.
#[test]
fn very_many_snapshots_are_noted_in_decent_time() {
    const COUNT: u64 = 1_000_000;
    let snapshots: Vec<SeqNum> = (1..=COUNT).map(SeqNum::new).collect();
    let mut retention = Retention::new(&snapshots);
    let mut why = Kept::default();
    for &seq in snapshots.iter().rev() {
        match retention.judge(Tag::new(seq, Kind::Put), || true).expect("known") {
            Verdict::Keep(reason) => why.note(reason),
            verdict => panic!("{seq}: {verdict:?}"),
        }
    }
    assert!(why.for_snapshots().iter().eq(&snapshots[..snapshots.len() - 1]));
}

#[test]
fn an_entry_of_an_unknown_kind_is_neither_kept_nor_dropped() {
    for kind in [Kind::RangeDelete, Kind::Merge, Kind::SingleDelete, Kind::ValueReference] {
        let mut retention = Retention::new(&[]);
        let put = Tag::new(SeqNum::new(9), Kind::Put);
        assert_eq!(retention.judge(put, || true).expect("known"), Verdict::Keep(Reason::Newest));
        // Not even where a newer entry hides it.
        let error = retention.judge(Tag::new(SeqNum::new(5), kind), || true).expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::Incompatible);
    }
    let error = Retention::new(&[]).judge(Tag::from_raw(5 << 8 | 0x7F), || true).expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::Incompatible);
}

proptest! {
    #[test]
    fn every_snapshot_reads_the_same_and_nothing_stays_without_a_reason(
        seqs in prop::collection::btree_set(1u64..40, 1..20),
        deletes: u64,
        snapshots in prop::collection::vec(0u64..45, 0..5),
        is_bottom: bool,
    ) {
        let kind = |seq: u64| if deletes >> (seq % 64) & 1 == 1 { Kind::Delete } else { Kind::Put };
        let entries: Vec<_> = seqs.iter().rev().map(|&seq| (seq, kind(seq))).collect();
        let (after, why) = merged(&snapshots, &entries, is_bottom);
        let before: Vec<u64> = entries.iter().map(|entry| entry.0).collect();
        let newest = |seqs: &[u64], at: u64| seqs.iter().copied().find(|&seq| seq <= at);
        let read = |seqs: &[u64], at: u64| newest(seqs, at).filter(|&seq| kind(seq) == Kind::Put);
        for &at in snapshots.iter().chain([&100]) {
            prop_assert_eq!(read(&before, at), read(&after, at), "at {}", at);
            if !is_bottom {
                // A delete that survives must still hide what may lie below.
                prop_assert_eq!(newest(&before, at), newest(&after, at));
            }
        }
        // Merged again under the same snapshots, nothing changes, nor while those live that are noted; without them, all
        // garbage goes.
        let again: Vec<_> = after.iter().map(|&seq| (seq, kind(seq))).collect();
        prop_assert_eq!(&kept(&snapshots, &again, is_bottom), &after);
        if why.for_deeper_count() == 0 {
            let noted: Vec<u64> = why.for_snapshots().iter().map(|seq| seq.get()).collect();
            prop_assert_eq!(&kept(&noted, &again, is_bottom), &after);
        }
        let others: Vec<u64> =
            snapshots.iter().copied().filter(|&seq| !why.for_snapshots().contains(&SeqNum::new(seq))).collect();
        if is_bottom {
            prop_assert_eq!(why.for_deeper_count(), 0);
            prop_assert!(after.last().is_none_or(|&seq| kind(seq) == Kind::Put), "a delete hides nothing");
            if why.for_snapshots().is_empty() {
                prop_assert!(after.len() <= 1);
            }
            let rest = kept(&others, &again, true);
            prop_assert!(others.len() < snapshots.len() || rest == after);
        }
    }
}
