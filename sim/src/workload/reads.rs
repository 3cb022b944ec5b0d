//! How clients read: at the newest state or through a snapshot, by key, by range and by prefix, at once or with an
//! iterator that is kept while other things happen.

use crate::workload::client::{Client, Stop};
use crate::workload::held::{HeldIter, HeldSnapshot};
use crate::workload::keys::prefix_end;
use crate::workload::model::Pairs;
use crate::workload::orders::Order;
use crate::workload::sight::{Bounds, Observation, Sight};
use std::cmp::Ordering;
use std::ops::Bound;
use tinylsm::{Iter, Keyspace, Snapshot};

const EVERYTHING: Bounds = (Bound::Unbounded, Bound::Unbounded);

/// Which ends of a scan are used.
#[derive(Clone, Copy)]
enum Ends {
    Front,
    Back,
    Both,
}

impl Client {
    /// Returns the number at which a reader stands, or one that it stands at or above.
    fn stand(&self, past: Option<&Snapshot>) -> u64 {
        past.map_or_else(|| self.db().last_seq(), Snapshot::seq).get()
    }

    fn observe(&self, past: Option<&Snapshot>, low: u64, keyspace: usize, sight: Sight) {
        let high = self.stand(past);
        self.note(Observation { low, high, keyspace: id_of(keyspace), sight });
    }

    fn note(&self, observation: Observation) {
        let mut judge = self.judge();
        if judge.incarnation == self.opened.incarnation {
            judge.observations.push(observation);
        } else {
            // The model knows only what the latest recovery found.
            judge.reach("read of an old incarnation, not judged");
        }
    }

    pub(in crate::workload) fn get(&mut self, past: Option<&Snapshot>) -> Result<(), Stop> {
        let (at, key) = (self.pick_keyspace(), self.next_key());
        let (low, keyspace) = (self.stand(past), &self.keyspaces[at]);
        let result = self.call("get", || match past {
            Some(snapshot) => snapshot.keyspace(keyspace).get(&key),
            None => keyspace.get(&key),
        });
        if let Some(value) = self.allow(result)? {
            self.observe(past, low, at, Sight::Values(vec![(key, value)]));
        }
        Ok(())
    }

    pub(in crate::workload) fn multi_get(&mut self, past: Option<&Snapshot>) -> Result<(), Stop> {
        let at = self.pick_keyspace();
        let keys: Vec<Vec<u8>> = (0..2 + self.below(4)).map(|_| self.next_key()).collect();
        self.count_operations(keys.len() as u64 - 1);
        let (low, keyspace) = (self.stand(past), &self.keyspaces[at]);
        let result = self.call("multi_get", || match past {
            Some(snapshot) => snapshot.keyspace(keyspace).multi_get(&keys),
            None => keyspace.multi_get(&keys),
        });
        if let Some(values) = self.allow(result)? {
            self.observe(past, low, at, Sight::Values(keys.into_iter().zip(values).collect()));
        }
        Ok(())
    }

    pub(in crate::workload) fn scan(&mut self, past: Option<&Snapshot>) -> Result<(), Stop> {
        let (at, bounds) = (self.pick_keyspace(), self.bounds());
        let Some(mut held) = self.open_range(past, at, bounds)? else { return Ok(()) };
        if self.below(4) == 0 && !self.seek(&mut held)? {
            return Ok(());
        }
        self.walk_and_observe(&mut held).map(drop)
    }

    /// Scans the keys with a common beginning; where they need not lie side by side, that is refused.
    pub(in crate::workload) fn scan_prefix(&mut self, past: Option<&Snapshot>) -> Result<(), Stop> {
        let at = self.pick_keyspace();
        let mut prefix = self.next_key();
        prefix.truncate(usize::try_from(self.below(prefix.len() as u64 + 1)).expect("short"));
        let (low, keyspace) = (self.stand(past), &self.keyspaces[at]);
        let result = self.call("prefix", || match past {
            Some(snapshot) => snapshot.keyspace(keyspace).prefix(&prefix),
            None => keyspace.prefix(&prefix),
        });
        if order_of(keyspace) != Order::Bytewise {
            return self.expect_refusal("a prefix scan in another order than bytewise", result.map(drop));
        }
        let Some(iter) = self.allow(result)? else { return Ok(()) };
        let mut held = self.hold(past, low, at, (iter, prefix_bounds(prefix)));
        self.walk_and_observe(&mut held).map(drop)
    }

    /// Makes an iterator to keep, or goes on with one.
    pub(in crate::workload) fn hold_iterator(&mut self) -> Result<(), Stop> {
        if self.iterators.len() < 2 {
            let at = self.pick_keyspace();
            let bounds = if self.below(2) == 0 { EVERYTHING } else { self.bounds() };
            let held = self.open_range(None, at, bounds)?;
            self.iterators.extend(held);
            return Ok(());
        }
        let mut held = self.iterators.remove(0);
        if self.below(4) == 0 && !self.seek(&mut held)? {
            return Ok(());
        }
        if self.walk_and_observe(&mut held)? {
            self.iterators.push(held);
        }
        Ok(())
    }

    pub(in crate::workload) fn keep_snapshot(&mut self) {
        if self.snapshots.len() < 3 {
            self.snapshots.push(HeldSnapshot::take(&self.context, self.db()));
        }
    }

    pub(in crate::workload) fn read_snapshot(&mut self) -> Result<(), Stop> {
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let at = usize::try_from(self.below(self.snapshots.len() as u64)).expect("a few");
        let snapshot = self.snapshots[at].snapshot.clone();
        match self.below(6) {
            0 => self.get(Some(&snapshot)),
            1 => self.multi_get(Some(&snapshot)),
            2 => self.scan(Some(&snapshot)),
            3 => self.scan_prefix(Some(&snapshot)),
            _ => self.compare_snapshot(at, &snapshot),
        }
    }

    /// Reads a whole keyspace through a snapshot and compares it with what the snapshot showed before.
    fn compare_snapshot(&mut self, at: usize, snapshot: &Snapshot) -> Result<(), Stop> {
        let keyspace = self.pick_keyspace();
        let read = || {
            snapshot
                .keyspace(&self.keyspaces[keyspace])
                .iter()
                .and_then(Iterator::collect::<Result<Pairs, _>>)
        };
        let result = self.call("scan", read);
        let Some(pairs) = self.allow(result)? else { return Ok(()) };
        let (id, seen) = (id_of(keyspace), &mut self.snapshots[at].seen);
        match seen.iter().find(|(keyspace, _)| *keyspace == id) {
            Some((_, before)) if *before != pairs => {
                let message =
                    format!("the snapshot at {} of keyspace {id} changed under its reader", snapshot.seq());
                return Err(self.violate("frozen snapshot", message));
            }
            Some(_) => {}
            None => seen.push((id, pairs.clone())),
        }
        let sight = Sight::Scan { bounds: EVERYTHING, front: pairs, back: Pairs::new(), is_complete: true };
        self.observe(Some(snapshot), snapshot.seq().get(), keyspace, sight);
        Ok(())
    }

    fn bounds(&self) -> Bounds {
        let bound = || {
            let key = self.next_key();
            match self.below(3) {
                0 => Bound::Unbounded,
                1 => Bound::Included(key),
                _ => Bound::Excluded(key),
            }
        };
        (bound(), bound())
    }

    fn open_range(
        &self,
        past: Option<&Snapshot>,
        keyspace: usize,
        bounds: Bounds,
    ) -> Result<Option<HeldIter>, Stop> {
        let low = self.stand(past);
        let result = self.call("range", || match past {
            Some(snapshot) => snapshot.keyspace(&self.keyspaces[keyspace]).range(bounds.clone()),
            None => self.keyspaces[keyspace].range(bounds.clone()),
        });
        Ok(self.allow(result)?.map(|iter| self.hold(past, low, keyspace, (iter, bounds))))
    }

    fn hold(
        &self,
        past: Option<&Snapshot>,
        low: u64,
        keyspace: usize,
        (iter, bounds): (Iter, Bounds),
    ) -> HeldIter {
        let high = self.stand(past);
        let whole = bounds.clone();
        HeldIter { iter, low, high, keyspace, whole, bounds, front: Pairs::new(), back: Pairs::new() }
    }

    /// Moves one end of an iterator to a key of our own choice: from there on it is a scan with other bounds.
    /// `false` if reading failed.
    fn seek(&self, held: &mut HeldIter) -> Result<bool, Stop> {
        let key = self.next_key();
        let is_back = self.below(2) == 0;
        let sought = match is_back {
            true => self.call("seek_back", || held.iter.seek_back(&key)),
            false => self.call("seek", || held.iter.seek(&key)),
        };
        if self.allow(sought)?.is_none() {
            return Ok(false);
        }
        let keyspace = &self.keyspaces[held.keyspace];
        if is_back {
            self.judge().reach("an iterator sought from the back");
            let is_outside = is_behind(keyspace, &key, &held.whole.1);
            held.bounds.1 = if is_outside { held.whole.1.clone() } else { Bound::Included(key) };
            if let Some((last, _)) = held.front.last() {
                held.bounds.0 = Bound::Excluded(last.to_vec());
            }
        } else {
            let is_outside = is_before(keyspace, &key, &held.whole.0);
            held.bounds.0 = if is_outside { held.whole.0.clone() } else { Bound::Included(key) };
            if let Some((last, _)) = held.back.last() {
                held.bounds.1 = Bound::Excluded(last.to_vec());
            }
        }
        held.front.clear();
        held.back.clear();
        Ok(true)
    }

    /// Takes pairs from an iterator and notes all that it has shown; `false` if it gives no more.
    fn walk_and_observe(&self, held: &mut HeldIter) -> Result<bool, Stop> {
        let ends =
            [Ends::Front, Ends::Back, Ends::Both][usize::try_from(self.below(3)).expect("one of three")];
        let limit = if self.below(2) == 0 { u64::MAX } else { 1 + self.below(12) };
        let Some(is_complete) = self.walk(held, ends, limit)? else { return Ok(false) };
        let (front, back) = (held.front.clone(), held.back.clone());
        let sight = Sight::Scan { bounds: held.bounds.clone(), front, back, is_complete };
        let (low, high, keyspace) = (held.low, held.high, id_of(held.keyspace));
        self.note(Observation { low, high, keyspace, sight });
        Ok(!is_complete)
    }

    /// Takes up to `limit` pairs; tells whether the end was met, or nothing if reading failed.
    fn walk(&self, held: &mut HeldIter, ends: Ends, limit: u64) -> Result<Option<bool>, Stop> {
        for _ in 0..limit {
            let is_back = match ends {
                Ends::Front => false,
                Ends::Back => true,
                Ends::Both => self.below(2) == 0,
            };
            let was_closed = self.was_closed();
            let item = if is_back { held.iter.next_back() } else { held.iter.next() };
            let Some(item) = item else { return Ok(Some(true)) };
            if was_closed && item.is_ok() {
                let message = "an iterator took a step behind a close, and goes well".to_owned();
                return Err(self.violate("closed is closed", message));
            }
            let has_failed = item.is_err();
            if has_failed && (held.iter.next().is_some() || held.iter.error().is_none()) {
                return Err(self.violate("error honesty", "an iterator forgets its error".to_owned()));
            }
            let Some(pair) = self.allow(item)? else { return Ok(None) };
            if is_back { &mut held.back } else { &mut held.front }.push(pair);
        }
        Ok(Some(false))
    }
}

fn id_of(keyspace: usize) -> u32 {
    u32::try_from(keyspace).expect("a few")
}

fn order_of(keyspace: &Keyspace) -> Order {
    Order::of(keyspace.options())
}

/// Tells whether a key lies before a lower bound in its keyspace's order.
fn is_before(keyspace: &Keyspace, key: &[u8], lower: &Bound<Vec<u8>>) -> bool {
    let compare = |bound: &[u8]| order_of(keyspace).compare(key, bound);
    match lower {
        Bound::Unbounded => false,
        Bound::Included(bound) => compare(bound) == Ordering::Less,
        Bound::Excluded(bound) => compare(bound) != Ordering::Greater,
    }
}

/// Tells whether a key lies behind an upper bound in its keyspace's order.
fn is_behind(keyspace: &Keyspace, key: &[u8], upper: &Bound<Vec<u8>>) -> bool {
    let compare = |bound: &[u8]| order_of(keyspace).compare(key, bound);
    match upper {
        Bound::Unbounded => false,
        Bound::Included(bound) => compare(bound) == Ordering::Greater,
        Bound::Excluded(bound) => compare(bound) != Ordering::Less,
    }
}

/// Returns the bounds of the keys that begin with `prefix`.
fn prefix_bounds(prefix: Vec<u8>) -> Bounds {
    let end = prefix_end(&prefix).map_or(Bound::Unbounded, Bound::Excluded);
    (Bound::Included(prefix), end)
}
