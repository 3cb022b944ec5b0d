//! The list of live snapshots.
//!
//! Owns how many snapshots live at each number. Taking one and giving it up costs a short lock and a search among the
//! *different* numbers that live; nothing is kept of a snapshot that is gone. A merge that had to keep something for a
//! snapshot can have that one watched: whoever gives up the last snapshot at a watched number is told to wake the
//! background for the keyspaces it was watched for, and nobody else is.

use crate::base::ids::KeyspaceId;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::mvcc::visible::Horizon;
use crate::sync::Mutex;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// The live snapshots of a database.
#[derive(Default, Debug)]
pub struct Snapshots {
    list: Mutex<List>,
}

#[derive(Default, Debug)]
struct List {
    /// How many snapshots live at each number; never none.
    live: BTreeMap<SeqNum, usize>,
    /// Numbers that the background waits for, ascending, by the keyspace for whose sake it does.
    watched: BTreeMap<KeyspaceId, Vec<SeqNum>>,
    /// The same by number: giving a snapshot up does not ask every keyspace.
    watchers: BTreeSet<(SeqNum, KeyspaceId)>,
}

impl Snapshots {
    /// Registers a snapshot of what `visible` and `now` say once the list is locked, so that no merge can start
    /// between the two without knowing of it. Each one is to be [released](Snapshots::release) once.
    pub fn take(&self, visible: impl FnOnce() -> SeqNum, now: UnixMillis) -> Horizon {
        let mut list = self.list.lock();
        let seq = visible();
        *list.live.entry(seq).or_default() += 1;
        Horizon { seq, now }
    }

    /// Gives up a snapshot at `seq`; returns the keyspaces for whose sake the background waits for that.
    ///
    /// # Panics
    /// If none is live at that number.
    pub fn release(&self, seq: SeqNum) -> Vec<KeyspaceId> {
        let mut list = self.list.lock();
        let Entry::Occupied(mut count) = list.live.entry(seq) else {
            panic!("a snapshot is released once, and was taken before");
        };
        *count.get_mut() -= 1;
        if *count.get() > 0 {
            return Vec::new();
        }
        count.remove();
        let waiting = list.watchers.range((seq, KeyspaceId(0))..=(seq, KeyspaceId(u32::MAX)));
        waiting.map(|(_, id)| *id).collect()
    }

    /// Returns the numbers of the live snapshots, ascending, each once.
    pub fn live(&self) -> Vec<SeqNum> {
        self.list.lock().live.keys().copied().collect()
    }

    /// Asks to hear, for the sake of a keyspace, when one of `seqs`, which ascend, is live no more; `false`, and nothing is
    /// watched for it, if one is gone already. What was watched for it before is not watched any more.
    pub fn watch(&self, id: KeyspaceId, seqs: Vec<SeqNum>) -> bool {
        let mut list = self.list.lock();
        let are_live = seqs.iter().all(|seq| list.live.contains_key(seq));
        list.set_watched(id, if are_live { seqs } else { Vec::new() });
        are_live
    }
}

impl List {
    /// Has a keyspace hear of `seqs`, which ascend, and of nothing else.
    fn set_watched(&mut self, id: KeyspaceId, seqs: Vec<SeqNum>) {
        let before = self.watched.remove(&id).unwrap_or_default();
        // Mostly few of many change.
        for seq in before.iter().filter(|seq| seqs.binary_search(seq).is_err()) {
            self.watchers.remove(&(*seq, id));
        }
        let new = seqs.iter().filter(|seq| before.binary_search(seq).is_err());
        self.watchers.extend(new.map(|seq| (*seq, id)));
        if !seqs.is_empty() {
            self.watched.insert(id, seqs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(snapshots: &Snapshots, seq: u64) -> Horizon {
        snapshots.take(|| SeqNum::new(seq), UnixMillis(0))
    }

    #[test]
    fn nothing_is_kept_of_a_snapshot_that_is_gone() {
        let snapshots = Snapshots::default();
        for seq in [7, 3, 7] {
            take(&snapshots, seq);
        }
        assert_eq!(snapshots.live(), [SeqNum::new(3), SeqNum::new(7)]);
        snapshots.release(SeqNum::new(7));
        assert_eq!(snapshots.live(), [SeqNum::new(3), SeqNum::new(7)]);
        snapshots.release(SeqNum::new(7));
        snapshots.release(SeqNum::new(3));
        assert_eq!(snapshots.list.lock().live.len(), 0);
    }

    const ONE: KeyspaceId = KeyspaceId(1);
    const TWO: KeyspaceId = KeyspaceId(2);

    #[test]
    fn only_the_last_release_of_a_watched_number_wakes() {
        let snapshots = Snapshots::default();
        for seq in [3, 7, 7, 9] {
            take(&snapshots, seq);
        }
        assert!(!snapshots.watch(ONE, vec![SeqNum::new(3), SeqNum::new(5)]), "5 is gone: look again");
        assert_eq!(snapshots.release(SeqNum::new(3)), []);
        assert!(snapshots.watch(ONE, vec![SeqNum::new(7)]));
        assert!(snapshots.watch(TWO, vec![SeqNum::new(7)]));
        assert_eq!(snapshots.release(SeqNum::new(9)), []);
        assert_eq!(snapshots.release(SeqNum::new(7)), []);
        assert_eq!(snapshots.release(SeqNum::new(7)), [ONE, TWO]);
    }

    #[test]
    fn watching_others_ends_the_watch() {
        let snapshots = Snapshots::default();
        take(&snapshots, 3);
        take(&snapshots, 7);
        assert!(snapshots.watch(ONE, vec![SeqNum::new(3)]));
        assert!(snapshots.watch(ONE, vec![SeqNum::new(7)]));
        assert_eq!(snapshots.release(SeqNum::new(3)), []);
        assert!(snapshots.watch(ONE, Vec::new()));
        assert_eq!(snapshots.release(SeqNum::new(7)), []);
        let list = snapshots.list.lock();
        assert!(list.watched.is_empty() && list.watchers.is_empty());
    }
}
