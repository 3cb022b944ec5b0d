//! What the database must hold: every version of every key, by sequence number.
//!
//! A commit whose write returned is *known*: its number is. One that failed in a way that leaves it open, or that a
//! crash cut short, is *open*: at a recovery it is entirely in or entirely out, and what was recovered decides
//! which ([`Model::settle`]). Everything above the recovered number is then forgotten, and must never come back.

use std::collections::BTreeMap;

/// A key in a keyspace.
pub type Place = (u32, Vec<u8>);

/// What one operation of a commit did; `None` deletes.
pub type Change = (Place, Option<Vec<u8>>);

/// A key's value from a number on.
type Version = (u64, Option<Vec<u8>>);

/// Everything a keyspace holds, in bytewise order.
pub type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// Names a commit from its beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitId(u64);

/// The database as it must be.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Known commits by their last number.
    known: BTreeMap<u64, Vec<Change>>,
    open: BTreeMap<CommitId, Vec<Change>>,
    versions: BTreeMap<Place, Vec<Version>>,
    next_id: u64,
    /// Every number up to here belongs to a known commit.
    covered: u64,
    /// Numbers up to here must survive a loss of power.
    pub durable_floor: u64,
    /// Numbers up to here must survive the end of the process.
    pub process_floor: u64,
}

impl Model {
    /// Notes that a commit begins.
    pub fn begin(&mut self, changes: Vec<Change>) -> CommitId {
        let id = CommitId(self.next_id);
        self.next_id += 1;
        self.open.insert(id, changes);
        id
    }

    /// Notes that a commit returned with its last number.
    ///
    /// # Errors
    /// A sentence, if the number cannot be right.
    pub fn commit(&mut self, id: CommitId, last_seq: u64) -> Result<(), String> {
        let changes = self.open.remove(&id).expect("a commit ends once");
        self.place(changes, last_seq)
    }

    /// Notes that a commit certainly did not happen.
    pub fn cancel(&mut self, id: CommitId) {
        self.open.remove(&id).expect("a commit ends once");
    }

    fn place(&mut self, changes: Vec<Change>, last_seq: u64) -> Result<(), String> {
        let count = changes.len() as u64;
        let first = (last_seq + 1).checked_sub(count).filter(|&first| first > 0);
        let first =
            first.ok_or_else(|| format!("a commit of {count} operations ends with number {last_seq}"))?;
        let before = self.known.range(..last_seq).next_back().map_or(0, |(&seq, _)| seq);
        let after = self.known.range(last_seq..).next().map(|(&seq, changes)| seq + 1 - changes.len() as u64);
        if before >= first || after.is_some_and(|after| after <= last_seq) {
            return Err(format!("numbers {first}..={last_seq} were given out twice"));
        }
        for (at, (place, value)) in changes.iter().enumerate() {
            let versions = self.versions.entry(place.clone()).or_default();
            let seq = first + at as u64;
            let index = versions.partition_point(|version| version.0 < seq);
            versions.insert(index, (seq, value.clone()));
        }
        self.known.insert(last_seq, changes);
        self.cover();
        Ok(())
    }

    /// Follows the known commits to the first number that none of them has.
    fn cover(&mut self) {
        for (&last, changes) in self.known.range(self.covered + 1..) {
            if last - changes.len() as u64 != self.covered {
                break;
            }
            self.covered = last;
        }
    }

    /// Returns the number up to which every commit is known: nobody who stands there can have seen an open one.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Returns the last number that is known to be given out.
    pub fn last_known(&self) -> u64 {
        self.known.keys().next_back().copied().unwrap_or(0)
    }

    /// Returns the value of a key as of a number.
    pub fn get_at(&self, place: &Place, seq: u64) -> Option<&Vec<u8>> {
        let versions = self.versions.get(place)?;
        let index = versions.partition_point(|version| version.0 <= seq);
        versions[..index].last()?.1.as_ref()
    }

    /// Returns a keyspace's whole content as of a number.
    pub fn content_at(&self, keyspace: u32, seq: u64) -> Content {
        let range = (keyspace, Vec::new())..(keyspace + 1, Vec::new());
        let values = self.versions.range(range).map(|(place, _)| (place, self.get_at(place, seq)));
        values.filter_map(|((_, key), value)| Some((key.clone(), value?.clone()))).collect()
    }

    /// Returns the numbers at which a reader between `low` and `high` may stand: where commits end.
    pub fn stands(&self, low: u64, high: u64) -> Vec<u64> {
        let inside = self.known.range(low..=high).map(|(&seq, _)| seq);
        let mut stands: Vec<u64> = std::iter::once(low).chain(inside).collect();
        stands.dedup();
        stands
    }

    /// Finds which open commits are in a database that was recovered up to `seq` with `contents` by keyspace, and
    /// returns the model of exactly that.
    ///
    /// # Errors
    /// A sentence, if no choice of open commits explains it: something acknowledged is missing, half of a batch
    /// is there, or something is there that never was.
    pub fn settle(&self, seq: u64, contents: &BTreeMap<u32, Content>) -> Result<Model, String> {
        let last = self.known.range(seq + 1..).next();
        if let Some((&last, changes)) = last
            && last + 1 - changes.len() as u64 <= seq
        {
            return Err(format!("recovery to number {seq} cuts the batch that ends with {last}"));
        }
        let mut cut = self.clone();
        cut.forget_above(seq);
        let candidates: Vec<(CommitId, Vec<Change>)> =
            self.open.iter().map(|(&id, changes)| (id, changes.clone())).collect();
        cut.open.clear();
        let mut budget = 20_000u32;
        match cut.fill_gaps(1, seq, &candidates, &mut Vec::new(), contents, &mut budget) {
            Some(mut settled) => {
                settled.durable_floor = settled.durable_floor.min(seq);
                settled.process_floor = settled.process_floor.min(seq);
                Ok(settled)
            }
            None => Err(self.explain(seq, contents)),
        }
    }

    /// Forgets everything above a number.
    fn forget_above(&mut self, seq: u64) {
        self.known.retain(|&last, _| last <= seq);
        self.covered = self.covered.min(seq);
        for versions in self.versions.values_mut() {
            versions.retain(|version| version.0 <= seq);
        }
        self.versions.retain(|_, versions| !versions.is_empty());
    }

    /// Places open commits into the numbers that no known commit has, until the contents agree.
    fn fill_gaps(
        &self,
        from: u64,
        seq: u64,
        candidates: &[(CommitId, Vec<Change>)],
        used: &mut Vec<CommitId>,
        contents: &BTreeMap<u32, Content>,
        budget: &mut u32,
    ) -> Option<Model> {
        *budget = budget.checked_sub(1)?;
        let mut gap = from;
        for (&last, changes) in self.known.range(from..) {
            let first = last + 1 - changes.len() as u64;
            if gap < first {
                break;
            }
            gap = last + 1;
        }
        if gap > seq {
            return self.agrees(seq, contents).then(|| self.clone());
        }
        for (id, changes) in candidates {
            let last = gap + changes.len() as u64 - 1;
            if used.contains(id) || last > seq {
                continue;
            }
            let mut with = self.clone();
            if with.place(changes.clone(), last).is_err() {
                continue;
            }
            used.push(*id);
            if let Some(settled) = with.fill_gaps(last + 1, seq, candidates, used, contents, budget) {
                return Some(settled);
            }
            used.pop();
        }
        None
    }

    fn agrees(&self, seq: u64, contents: &BTreeMap<u32, Content>) -> bool {
        contents.iter().all(|(&keyspace, content)| self.content_at(keyspace, seq) == *content)
    }

    fn explain(&self, seq: u64, contents: &BTreeMap<u32, Content>) -> String {
        let mut text = format!(
            "no prefix explains the content recovered to number {seq} ({} known to {}, {} open)",
            self.known.len(),
            self.last_known(),
            self.open.len()
        );
        for (&keyspace, content) in contents {
            let expected = self.content_at(keyspace, seq);
            let keys: std::collections::BTreeSet<_> = expected.keys().chain(content.keys()).collect();
            let differing = keys.into_iter().filter(|key| expected.get(*key) != content.get(*key));
            for key in differing.take(3) {
                let show = |value: Option<&Vec<u8>>| {
                    value.map_or("nothing".into(), |v| v.escape_ascii().to_string())
                };
                text += &format!(
                    "\n  keyspace {keyspace} key {}: known commits give {:.60}, recovered {:.60}",
                    key.escape_ascii(),
                    show(expected.get(key)),
                    show(content.get(key))
                );
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Change {
        ((0, key.into()), Some(value.into()))
    }

    fn content(pairs: &[(&str, &str)]) -> BTreeMap<u32, Content> {
        let pairs = pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
        BTreeMap::from([(0, pairs.collect())])
    }

    #[test]
    fn an_open_commit_is_in_or_out_as_a_whole() {
        let mut model = Model::default();
        let first = model.begin(vec![put("a", "1")]);
        model.commit(first, 1).expect("fits");
        model.begin(vec![put("b", "2"), put("c", "3")]);
        assert!(model.settle(1, &content(&[("a", "1")])).is_ok());
        assert!(model.settle(3, &content(&[("a", "1"), ("b", "2"), ("c", "3")])).is_ok());
        assert!(model.settle(2, &content(&[("a", "1"), ("b", "2")])).is_err());
        assert!(model.settle(3, &content(&[("a", "1"), ("b", "2")])).is_err());
    }

    #[test]
    fn a_gap_before_a_known_commit_is_filled_by_an_open_one() {
        let mut model = Model::default();
        model.begin(vec![put("a", "1")]);
        let second = model.begin(vec![put("a", "2")]);
        model.commit(second, 2).expect("fits");
        let settled = model.settle(2, &content(&[("a", "2")])).expect("explained");
        assert_eq!(settled.get_at(&(0, b"a".to_vec()), 1), Some(&b"1".to_vec()));
        assert!(model.settle(2, &content(&[("a", "1")])).is_err());
    }

    #[test]
    fn numbers_are_covered_up_to_the_first_gap() {
        let mut model = Model::default();
        let commits: Vec<CommitId> =
            ["a", "b", "c"].map(|key| model.begin(vec![put(key, "1"), put(key, "2")])).into();
        model.commit(commits[0], 2).expect("fits");
        model.commit(commits[2], 6).expect("fits");
        assert_eq!(model.covered(), 2);
        model.commit(commits[1], 4).expect("fits");
        assert_eq!(model.covered(), 6);
    }

    #[test]
    fn a_number_given_out_twice_is_refused() {
        let mut model = Model::default();
        let (a, b) = (model.begin(vec![put("a", "1")]), model.begin(vec![put("a", "2"), put("b", "2")]));
        model.commit(b, 2).expect("fits");
        assert!(model.commit(a, 1).is_err());
    }
}
