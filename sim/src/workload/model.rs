//! What the database must hold: every version of every key, by sequence number.
//!
//! A commit whose write returned is *known*: its number is. One that failed in a way that leaves it open, or that a
//! crash cut short, is *open*: at a recovery it is entirely in or entirely out, and what was recovered decides
//! which ([`Model::settle`]). Everything above the recovered number is then forgotten, and must never come back;
//! what lies below is one content, since nobody reads the past of an earlier incarnation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tinylsm::Slice;

/// A key in a keyspace.
pub type Place = (u32, Vec<u8>);

/// What one operation of a commit did; `None` deletes.
pub type Change = (Place, Option<Vec<u8>>);

/// The key of a change that empties its keyspace: no run writes it.
pub const EVERY_KEY: &[u8] = b"<every key>";

/// A key's value from a number on.
#[derive(Clone, Debug)]
struct Version {
    seq: u64,
    value: Option<Arc<[u8]>>,
}

/// Every version of each key of a keyspace, oldest first.
type Versions = BTreeMap<Vec<u8>, Vec<Version>>;

/// A row of keys and values as they were read.
pub type Pairs = Vec<(Slice, Slice)>;

/// What keyspaces hold: each in bytewise order.
pub type Contents = BTreeMap<u32, Pairs>;

/// Names a commit from its beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitId(u64);

/// Placements of open commits that [`Model::settle`] tries before it gives up; far more than runs need.
const PLACEMENTS_MAX: u32 = 20_000;

/// The database as it must be.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Where known commits end, with how many operations each has.
    known: BTreeMap<u64, u64>,
    open: BTreeMap<CommitId, Arc<Vec<Change>>>,
    /// Commits that were open at a recovery while their writers had not returned yet, with where they were found.
    settled: BTreeMap<CommitId, Option<u64>>,
    keyspaces: Vec<Versions>,
    /// The numbers at which keyspaces were emptied.
    clears: BTreeMap<u32, BTreeSet<u64>>,
    next_id: u64,
    /// Every number up to here belongs to a known commit.
    covered: u64,
    /// What the latest recovery came to; of what was before it, only the outcome is known.
    base: u64,
    /// What was known before a recovery that made nothing durable. Which numbers the open commits had that it found may
    /// be a guess, and another recovery, which comes to less, may prove it wrong.
    uncut: Option<Box<Model>>,
    /// Numbers up to here must survive a loss of power.
    pub durable_floor: u64,
    /// Numbers up to here must survive the end of the process.
    pub process_floor: u64,
}

impl Model {
    /// Forgets the commits whose writers will never return: they ended with the incarnation before.
    pub fn forget_writers(&mut self) {
        self.settled.clear();
    }

    /// Notes that a commit begins.
    pub fn begin(&mut self, changes: Vec<Change>) -> CommitId {
        let id = CommitId(self.next_id);
        self.next_id += 1;
        self.open.insert(id, Arc::new(changes));
        id
    }

    /// Notes that a commit returned with its last number.
    ///
    /// # Errors
    /// A sentence, if the number cannot be right.
    pub fn commit(&mut self, id: CommitId, last_seq: u64) -> Result<(), String> {
        // Before anything is committed, what was recovered is made durable.
        self.uncut = None;
        if let Some(changes) = self.open.remove(&id) {
            return self.place(&changes, last_seq);
        }
        // A recovery came before its writer's return.
        match self.settled.remove(&id).expect("a commit ends once") {
            Some(found) if found == last_seq => Ok(()),
            Some(found) => Err(format!("a commit returned number {last_seq} but was recovered as {found}")),
            None => Err(format!("a commit returned number {last_seq} but the recovery before had lost it")),
        }
    }

    /// Notes that a commit certainly did not happen.
    ///
    /// # Errors
    /// A sentence, if a recovery has found it.
    pub fn cancel(&mut self, id: CommitId) -> Result<(), String> {
        if self.open.remove(&id).is_some() {
            return Ok(());
        }
        match self.settled.remove(&id).expect("a commit ends once") {
            None => Ok(()),
            Some(found) => Err(format!("a commit that failed for good was recovered as number {found}")),
        }
    }

    fn place(&mut self, changes: &[Change], last_seq: u64) -> Result<(), String> {
        let count = changes.len() as u64;
        let first = (last_seq + 1).checked_sub(count).filter(|&first| first > 0);
        let first =
            first.ok_or_else(|| format!("a commit of {count} operations ends with number {last_seq}"))?;
        let before = self.known.range(..last_seq).next_back().map_or(0, |(&seq, _)| seq);
        let after = self.known.range(last_seq..).next().map(|(&seq, count)| seq + 1 - count);
        let is_taken = first <= self.covered || before >= first;
        if is_taken || after.is_some_and(|after| after <= last_seq) {
            return Err(format!("numbers {first}..={last_seq} were given out twice"));
        }
        for (at, ((keyspace, key), value)) in changes.iter().enumerate() {
            let seq = first + at as u64;
            if key == EVERY_KEY {
                self.clears.entry(*keyspace).or_default().insert(seq);
                continue;
            }
            let versions = self.versions_of(*keyspace, key);
            let index = versions.partition_point(|version| version.seq < seq);
            versions.insert(index, Version { seq, value: value.as_deref().map(Arc::from) });
        }
        self.known.insert(last_seq, count);
        self.cover();
        Ok(())
    }

    /// Takes back what [`Model::place`] did, given what was covered before.
    fn take_back(&mut self, changes: &[Change], last_seq: u64, covered: u64) {
        let first = last_seq + 1 - changes.len() as u64;
        for ((keyspace, key), _) in changes {
            if key == EVERY_KEY {
                self.clears.entry(*keyspace).or_default().retain(|seq| !(first..=last_seq).contains(seq));
                continue;
            }
            self.versions_of(*keyspace, key).retain(|version| !(first..=last_seq).contains(&version.seq));
        }
        self.known.remove(&last_seq);
        self.covered = covered;
    }

    fn versions_of(&mut self, keyspace: u32, key: &[u8]) -> &mut Vec<Version> {
        let index = keyspace as usize;
        if self.keyspaces.len() <= index {
            self.keyspaces.resize_with(index + 1, Versions::new);
        }
        let keyspace = &mut self.keyspaces[index];
        if !keyspace.contains_key(key) {
            keyspace.insert(key.to_vec(), Vec::new());
        }
        keyspace.get_mut(key).expect("made above")
    }

    /// Follows the known commits to the first number that none of them has.
    fn cover(&mut self) {
        for (&last, count) in self.known.range(self.covered + 1..) {
            if last - count != self.covered {
                break;
            }
            self.covered = last;
        }
    }

    /// Returns what the latest recovery came to: no state before it is known.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Returns the number up to which every commit is known: nobody who stands there can have seen an open one.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Returns the last number that is known to be given out.
    pub fn last_known(&self) -> u64 {
        self.known.keys().next_back().map_or(self.covered, |&last| last.max(self.covered))
    }

    /// Returns the value of a key as of a number.
    pub fn get_at(&self, keyspace: u32, key: &[u8], seq: u64) -> Option<&[u8]> {
        self.value_at(keyspace, self.keyspaces.get(keyspace as usize)?.get(key)?, seq)
    }

    /// Returns the newest value up to a number, unless the keyspace was emptied since.
    fn value_at<'m>(&self, keyspace: u32, versions: &'m [Version], seq: u64) -> Option<&'m [u8]> {
        let newest = versions[..versions.partition_point(|version| version.seq <= seq)].last()?;
        if self.is_cleared_between(keyspace, newest.seq, seq) { None } else { newest.value.as_deref() }
    }

    /// Tells whether a keyspace was emptied behind a number and up to another one.
    fn is_cleared_between(&self, keyspace: u32, low: u64, high: u64) -> bool {
        let clears = self.clears.get(&keyspace);
        low < high && clears.is_some_and(|clears| clears.range(low + 1..=high).next().is_some())
    }

    /// Tells whether a commit above a number has deleted a key, or may have.
    pub fn may_be_deleted_above(&self, keyspace: u32, key: &[u8], seq: u64) -> bool {
        let versions = self.keyspaces.get(keyspace as usize).and_then(|keyspace| keyspace.get(key));
        let is_deleted =
            versions.into_iter().flatten().any(|version| version.seq > seq && version.value.is_none());
        let deletes = |((id, name), value): &Change| {
            *id == keyspace && (name == key || name == EVERY_KEY) && value.is_none()
        };
        is_deleted
            || self.is_cleared_between(keyspace, seq, u64::MAX)
            || self.open.values().any(|changes| changes.iter().any(deletes))
    }

    /// Walks over a keyspace's whole content as of a number, in bytewise order.
    pub fn content_at(
        &self,
        keyspace: u32,
        seq: u64,
    ) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> + Clone {
        let keys = self.keyspaces.get(keyspace as usize).into_iter().flatten();
        keys.filter_map(move |(key, versions)| {
            Some((key.as_slice(), self.value_at(keyspace, versions, seq)?))
        })
    }

    /// Returns the numbers at which a reader between `low` and `high` may stand: where commits end.
    pub fn stands(&self, low: u64, high: u64) -> Vec<u64> {
        let inside = self.known.range(low..=high).map(|(&seq, _)| seq);
        let mut stands: Vec<u64> = std::iter::once(low).chain(inside).collect();
        stands.dedup();
        stands
    }

    /// Checks that a database that was recovered up to `seq` with `contents` is what it may be.
    ///
    /// # Errors
    /// As [`Model::settle`].
    pub fn check(&self, seq: u64, contents: &Contents) -> Result<(), String> {
        self.explain(seq, contents).map(drop).or_else(|message| {
            let otherwise = self.without_guesses().and_then(|other| other.explain(seq, contents).ok());
            otherwise.map(drop).ok_or(message)
        })
    }

    /// Returns what is known if nothing is taken from recoveries that made nothing durable; `None` if there were none.
    fn without_guesses(&self) -> Option<Model> {
        let mut other = Model::clone(self.uncut.as_ref()?);
        let begun_since = self.open.range(CommitId(other.next_id)..);
        other.open.extend(begun_since.map(|(id, changes)| (*id, Arc::clone(changes))));
        other.next_id = self.next_id;
        other.settled.clone_from(&self.settled);
        (other.durable_floor, other.process_floor) = (self.durable_floor, self.process_floor);
        Some(other)
    }

    /// Finds which open commits are in a database that was recovered up to `seq` with `contents`, and goes on from
    /// exactly that.
    ///
    /// # Errors
    /// A sentence, if no choice of open commits explains it: something acknowledged is missing, half of a batch
    /// is there, or something is there that never was.
    pub fn settle(&mut self, seq: u64, contents: &Contents) -> Result<(), String> {
        self.end_open(seq, contents)?;
        self.uncut = None;
        self.known.clear();
        self.covered = seq;
        self.base = seq;
        let clears = std::mem::take(&mut self.clears);
        for (id, keyspace) in (0..).zip(&mut self.keyspaces) {
            let cleared = clears.get(&id).and_then(|clears| clears.range(..=seq).next_back().copied());
            keyspace.retain(|_, versions| {
                versions.truncate(versions.partition_point(|version| version.seq <= seq));
                let is_there = |version: &Version| {
                    version.value.is_some() && cleared.is_none_or(|cleared| cleared < version.seq)
                };
                let last = versions.pop().filter(is_there);
                versions.clear();
                versions.extend(last);
                !versions.is_empty()
            });
        }
        self.durable_floor = self.durable_floor.min(seq);
        self.process_floor = self.process_floor.min(seq);
        Ok(())
    }

    /// Decides which open commits are in what was recovered; the others never happened.
    fn end_open(&mut self, seq: u64, contents: &Contents) -> Result<(), String> {
        let placed = match (self.explain(seq, contents), self.without_guesses()) {
            (Err(message), Some(other)) => {
                let placed = other.explain(seq, contents).map_err(|_| message)?;
                *self = other;
                placed
            }
            (explained, _) => explained?,
        };
        for &(id, last) in &placed {
            self.commit(id, last)?;
        }
        self.settled.extend(placed.into_iter().map(|(id, last)| (id, Some(last))));
        self.settled.extend(std::mem::take(&mut self.open).into_keys().map(|id| (id, None)));
        Ok(())
    }

    /// Finds which open commits are in a database that was recovered up to `seq` with `contents`, and goes on from that,
    /// but remembers what came before: what was recovered is not durable, and another recovery may come to less.
    ///
    /// # Errors
    /// As [`Model::settle`].
    pub fn cut(&mut self, seq: u64, contents: &Contents) -> Result<(), String> {
        let uncut = self.without_guesses().unwrap_or_else(|| self.clone());
        self.end_open(seq, contents)?;
        self.uncut = Some(Box::new(uncut));
        self.known.retain(|last, _| *last <= seq);
        for versions in self.keyspaces.iter_mut().flat_map(|keyspace| keyspace.values_mut()) {
            versions.truncate(versions.partition_point(|version| version.seq <= seq));
        }
        for clears in self.clears.values_mut() {
            clears.retain(|cleared| *cleared <= seq);
        }
        self.covered = self.covered.min(seq);
        self.cover();
        self.durable_floor = self.durable_floor.min(seq);
        self.process_floor = self.process_floor.min(seq);
        Ok(())
    }

    /// Finds the open commits, with their last numbers, that explain what was recovered.
    fn explain(&self, seq: u64, contents: &Contents) -> Result<Vec<(CommitId, u64)>, String> {
        if let Some((&last, &count)) = self.known.range(seq + 1..).next()
            && last + 1 - count <= seq
        {
            return Err(format!("recovery to number {seq} cuts the batch that ends with {last}"));
        }
        let mut placed = Vec::new();
        let is_explained = if self.covered >= seq {
            // No number is left to be given to a commit in doubt.
            self.agrees(seq, contents)
        } else {
            let mut budget = PLACEMENTS_MAX;
            self.clone().fill_gaps(seq, contents, &mut placed, &mut budget)
        };
        if is_explained { Ok(placed) } else { Err(self.describe(seq, contents)) }
    }

    /// Places open commits into the numbers up to `seq` that no known commit has, until the contents agree.
    ///
    /// The highest gap is filled first: what is above it is decided, so a commit that fits there must have left just
    /// what was recovered wherever nothing above it writes. That leaves hardly a choice, since no value is written
    /// twice.
    fn fill_gaps(
        &mut self,
        seq: u64,
        contents: &Contents,
        placed: &mut Vec<(CommitId, u64)>,
        budget: &mut u32,
    ) -> bool {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        let Some(last) = self.highest_gap(seq) else { return self.agrees(seq, contents) };
        let covered = self.covered;
        let mut candidates: Vec<(CommitId, Arc<Vec<Change>>)> =
            self.open.iter().map(|(id, changes)| (*id, Arc::clone(changes))).collect();
        candidates.retain(|(id, _)| placed.iter().all(|(used, _)| used != id));
        // Commits that wrote what was recovered have to be somewhere; the others need not.
        candidates
            .sort_by_key(|(_, changes)| !changes.iter().any(|change| is_recovered_put(change, contents)));
        for (id, changes) in candidates {
            if self.place(&changes, last).is_err() {
                continue;
            }
            placed.push((id, last));
            if self.has_left(&changes, last, seq, contents) && self.fill_gaps(seq, contents, placed, budget) {
                return true;
            }
            placed.pop();
            self.take_back(&changes, last, covered);
        }
        false
    }

    /// Returns the highest number up to `seq` that belongs to no known commit.
    fn highest_gap(&self, seq: u64) -> Option<u64> {
        let mut number = seq;
        for (&last, count) in self.known.range(..=seq).rev() {
            if last != number {
                break;
            }
            number = last - count;
        }
        (number > self.covered).then_some(number)
    }

    /// Tells whether a commit that ends with `last` fits what was recovered, wherever no later one writes.
    fn has_left(&self, changes: &[Change], last: u64, seq: u64, contents: &Contents) -> bool {
        changes.iter().all(|((keyspace, key), _)| {
            if key == EVERY_KEY || !contents.contains_key(keyspace) {
                // Of one that was dropped nothing is recovered, and of one that was emptied all that agrees in the end.
                return true;
            }
            let versions = &self.keyspaces[*keyspace as usize][key];
            let upto = &versions[..versions.partition_point(|version| version.seq <= seq)];
            let newest = upto.last().expect("the commit was placed");
            newest.seq > last
                || self.is_cleared_between(*keyspace, last, seq)
                || newest.value.as_deref() == recovered(contents, *keyspace, key)
        })
    }

    fn agrees(&self, seq: u64, contents: &Contents) -> bool {
        contents.iter().all(|(&keyspace, pairs)| {
            let pairs = pairs.iter().map(|(key, value)| (&**key, &**value));
            self.content_at(keyspace, seq).eq(pairs)
        })
    }

    /// Says what was recovered and what the known commits give instead.
    fn describe(&self, seq: u64, contents: &Contents) -> String {
        let mut text = format!(
            "no prefix explains the content recovered to number {seq} (known to {} without a gap and to {} in all, \
             {} in doubt)",
            self.covered,
            self.last_known(),
            self.open.len()
        );
        let show = |value: Option<&&[u8]>| {
            value.map_or_else(|| "nothing".to_owned(), |value| value.escape_ascii().to_string())
        };
        for (&keyspace, pairs) in contents {
            let expected: BTreeMap<&[u8], &[u8]> = self.content_at(keyspace, seq).collect();
            let recovered: BTreeMap<&[u8], &[u8]> =
                pairs.iter().map(|(key, value)| (&**key, &**value)).collect();
            let keys: BTreeSet<&&[u8]> = expected.keys().chain(recovered.keys()).collect();
            let differing = keys.into_iter().filter(|key| expected.get(*key) != recovered.get(*key));
            for key in differing.take(3) {
                text += &format!(
                    "\n  keyspace {keyspace} key {}: known commits give {:.60}, recovered {:.60}",
                    key.escape_ascii(),
                    show(expected.get(key)),
                    show(recovered.get(key))
                );
            }
        }
        text
    }
}

/// Returns the recovered value of a key.
fn recovered<'a>(contents: &'a Contents, keyspace: u32, key: &[u8]) -> Option<&'a [u8]> {
    let pairs = contents.get(&keyspace)?;
    let at = pairs.binary_search_by(|(each, _)| (**each).cmp(key)).ok()?;
    Some(&pairs[at].1)
}

fn is_recovered_put(((keyspace, key), value): &Change, contents: &Contents) -> bool {
    value.is_some() && value.as_deref() == recovered(contents, *keyspace, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Change {
        ((0, key.into()), Some(value.into()))
    }

    fn contents(pairs: &[(&str, &str)]) -> Contents {
        let slice = |text: &str| Slice::from(text.as_bytes());
        BTreeMap::from([(0, pairs.iter().map(|(key, value)| (slice(key), slice(value))).collect())])
    }

    #[test]
    fn an_open_commit_is_in_or_out_as_a_whole() {
        let mut model = Model::default();
        let first = model.begin(vec![put("a", "1")]);
        model.commit(first, 1).expect("fits");
        model.begin(vec![put("b", "2"), put("c", "3")]);
        assert!(model.check(1, &contents(&[("a", "1")])).is_ok());
        assert!(model.check(3, &contents(&[("a", "1"), ("b", "2"), ("c", "3")])).is_ok());
        assert!(model.check(2, &contents(&[("a", "1"), ("b", "2")])).is_err());
        assert!(model.check(3, &contents(&[("a", "1"), ("b", "2")])).is_err());
    }

    #[test]
    fn a_gap_before_a_known_commit_is_filled_by_an_open_one() {
        let mut model = Model::default();
        model.begin(vec![put("a", "1")]);
        let second = model.begin(vec![put("a", "2")]);
        model.commit(second, 2).expect("fits");
        assert!(model.check(2, &contents(&[("a", "1")])).is_err());
        model.settle(2, &contents(&[("a", "2")])).expect("explained");
        assert_eq!(model.get_at(0, b"a", 2), Some(&b"2"[..]));
    }

    #[test]
    fn commits_in_doubt_are_tried_in_every_order() {
        let mut model = Model::default();
        for value in ["1", "2", "3"] {
            model.begin(vec![put("a", value)]);
        }
        assert!(model.check(2, &contents(&[("a", "1")])).is_ok());
        assert!(model.check(3, &contents(&[("a", "2")])).is_ok());
        assert!(model.check(4, &contents(&[("a", "2")])).is_err());
    }

    #[test]
    fn what_a_recovery_cut_is_forgotten() {
        let mut model = Model::default();
        for (key, seq) in [("a", 1), ("b", 2)] {
            let id = model.begin(vec![put(key, "old")]);
            model.commit(id, seq).expect("fits");
        }
        model.settle(1, &contents(&[("a", "old")])).expect("a prefix");
        assert_eq!((model.covered(), model.last_known()), (1, 1));
        let again = model.begin(vec![put("c", "new")]);
        model.commit(again, 2).expect("the number is free again");
        assert!(model.check(2, &contents(&[("a", "old"), ("c", "new")])).is_ok());
    }

    #[test]
    fn a_recovery_to_less_may_prove_a_guess_wrong() {
        let mut model = Model::default();
        for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
            model.begin(vec![put(key, value)]);
        }
        // Every order explains this, and the first one taken is a, b, c.
        model.cut(3, &contents(&[("a", "1"), ("b", "2"), ("c", "3")])).expect("all three");
        assert!(model.check(2, &contents(&[("b", "2"), ("c", "3")])).is_ok());
        assert!(model.check(2, &contents(&[("c", "3")])).is_err());
        model.settle(1, &contents(&[("c", "3")])).expect("c was the first");
        assert!(model.check(1, &contents(&[("a", "1")])).is_err());
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
    fn an_emptied_keyspace_shows_nothing_of_before_and_a_reader_of_before_all() {
        let mut model = Model::default();
        let first = model.begin(vec![put("a", "1"), put("b", "2")]);
        model.commit(first, 2).expect("fits");
        let clear = model.begin(vec![((0, EVERY_KEY.to_vec()), None)]);
        assert!(model.may_be_deleted_above(0, b"a", 2));
        assert!(model.check(3, &contents(&[])).is_ok());
        assert!(model.check(3, &contents(&[("a", "1")])).is_err());
        assert!(model.check(2, &contents(&[("a", "1"), ("b", "2")])).is_ok());
        model.commit(clear, 3).expect("fits");
        let again = model.begin(vec![put("b", "3")]);
        model.commit(again, 4).expect("fits");
        assert_eq!(model.content_at(0, 2).count(), 2);
        assert_eq!((model.get_at(0, b"a", 3), model.get_at(0, b"b", 4)), (None, Some(&b"3"[..])));
        model.settle(4, &contents(&[("b", "3")])).expect("explained");
        assert_eq!(model.get_at(0, b"a", 4), None);
    }

    #[test]
    fn a_number_given_out_twice_is_refused() {
        let mut model = Model::default();
        let (a, b) = (model.begin(vec![put("a", "1")]), model.begin(vec![put("a", "2"), put("b", "2")]));
        model.commit(b, 2).expect("fits");
        assert!(model.commit(a, 1).is_err());
    }
}
