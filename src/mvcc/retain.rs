//! May this entry be dropped?
//!
//! A merge shows the entries of one key newest first. Live snapshots cut the sequence into stretches; of the
//! entries in one stretch only the newest can ever be seen, so the others go (INV-3). A delete that is the newest
//! of the oldest stretch, with nothing of its key beneath, hides nothing and goes too (INV-4).
//!
//! Expiry is not judged here yet: an entry with one is kept like any other.

use crate::base::key::{Kind, Tag};
use crate::base::seq::SeqNum;

/// Decides entry by entry, in the order of a merge.
#[derive(Debug)]
pub struct Retention {
    /// Live snapshots, ascending.
    snapshots: Vec<SeqNum>,
    /// The stretch of the entry before, of the same key; `None` at a new key.
    stretch: Option<usize>,
}

impl Retention {
    /// Starts a merge while `snapshots` are live.
    pub fn new(mut snapshots: Vec<SeqNum>) -> Retention {
        snapshots.sort_unstable();
        snapshots.dedup();
        Retention { snapshots, stretch: None }
    }

    /// Says that the next entry is of another key.
    pub fn next_key(&mut self) {
        self.stretch = None;
    }

    /// Decides whether the next entry of the current key is kept. `is_bottom` asks whether no older entry of
    /// the key can lie outside the merge; it is asked only when the answer matters.
    pub fn keeps(&mut self, tag: Tag, is_bottom: impl FnOnce() -> bool) -> bool {
        // Stretch i holds the numbers up to snapshot i and above snapshot i - 1; the last one has no end.
        let stretch = self.snapshots.partition_point(|&snapshot| snapshot < tag.seq());
        if self.stretch == Some(stretch) {
            return false;
        }
        assert!(self.stretch.is_none_or(|before| stretch < before), "versions come newest first");
        self.stretch = Some(stretch);
        let is_oldest_stretch = stretch == 0;
        !(tag.kind() == Some(Kind::Delete) && is_oldest_stretch && is_bottom())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(snapshots: &[u64], entries: &[(u64, Kind)], is_bottom: bool) -> Vec<u64> {
        let mut retention = Retention::new(snapshots.iter().map(|&seq| SeqNum::new(seq)).collect());
        let tags = entries.iter().map(|&(seq, kind)| Tag::new(SeqNum::new(seq), kind));
        tags.filter(|&tag| retention.keeps(tag, || is_bottom)).map(|tag| tag.seq().get()).collect()
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

    proptest! {
        #[test]
        fn every_snapshot_reads_the_same_before_and_after(
            seqs in prop::collection::btree_set(1u64..40, 1..20),
            deletes: u64,
            snapshots in prop::collection::vec(0u64..45, 0..5),
            is_bottom: bool,
        ) {
            let kind = |seq: u64| if deletes >> (seq % 64) & 1 == 1 { Kind::Delete } else { Kind::Put };
            let entries: Vec<_> = seqs.iter().rev().map(|&seq| (seq, kind(seq))).collect();
            let after = kept(&snapshots, &entries, is_bottom);
            let before: Vec<u64> = entries.iter().map(|entry| entry.0).collect();
            let read = |seqs: &[u64], at: u64| {
                seqs.iter().copied().find(|&seq| seq <= at).filter(|&seq| kind(seq) == Kind::Put)
            };
            for &at in snapshots.iter().chain([&100]) {
                prop_assert_eq!(read(&before, at), read(&after, at), "at {}", at);
            }
            if !is_bottom {
                // A delete that survives must still hide what may lie beneath.
                let newest = |seqs: &[u64], at: u64| seqs.iter().copied().find(|&seq| seq <= at);
                for &at in &snapshots {
                    prop_assert_eq!(newest(&before, at), newest(&after, at));
                }
            }
        }
    }
}
