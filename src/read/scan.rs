//! Scanning: the keys and values of a range as one reader sees them, from both ends.
//!
//! Below lie entries, several to a key, with deletes among them; above lie keys with values. Each end has a
//! merging cursor of its own, made when that end is first used. The two ends meet where a key was already given
//! out from the other side.
//!
//! A pair is given out before the step to the next one is taken, for that may fail; and a table is entered only when the
//! scan comes to it ([`RunCursor`]). So a scan gives all that lies in front of what cannot be read.
//!
//! Of the entries of a key one decides and the others are passed over: a few of them step by step, many by seeking
//! behind them. What has to be stepped over because it is deleted or hidden is counted where the entry lies that hides
//! it ([`crate::read::steps`]), so that a run of such entries is not walked again and again.

use crate::base::contain::contain;
use crate::base::error::{Error, Result};
use crate::base::key::{InternalKey, Kind, Tag};
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::cursor::Cursor;
use crate::cursor::merge::MergeCursor;
use crate::memtable::Memtable;
use crate::mvcc::visible::{Horizon, Sight, sight, unknown_kind};
use crate::read::get::get;
use crate::read::level::RunCursor;
use crate::read::steps::Steps;
use crate::read::tree::Tree;
use crate::read::waste::ReadWaste;
use crate::table::cursor::CacheUse;
use std::cmp::Ordering;
use std::ops::{Bound, Range};
use std::sync::Arc;

/// A key and its value.
pub type Pair = (Slice, Slice);

/// A scan over one keyspace, double-ended.
pub struct Scan {
    tree: Tree,
    horizon: Horizon,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    /// Where the front began: the lower bound, or where it was sought to. The back ends here.
    start: Bound<Vec<u8>>,
    /// Where the back began: the upper bound, or where it was sought to. The front ends here.
    stop: Bound<Vec<u8>>,
    front: Option<End>,
    back: Option<End>,
    failure: Option<Error>,
    is_done: bool,
    /// Where is told what had to be stepped over; nowhere, if none.
    waste: Option<Arc<ReadWaste>>,
}

/// Entries of one key that are passed over step by step before the cursor seeks behind the others. A step costs a
/// small part of a seek.
const STEPS_BEFORE_SEEK: u32 = 8;

/// One end of a scan.
struct End {
    cursor: MergeCursor,
    /// The last key given out or passed over at this end.
    last_key: Vec<u8>,
    has_last_key: bool,
    /// The source of the entry that decided about that key.
    decider: usize,
    steps: Steps,
    /// The front has given out what the entry it stands on decided, and has still to step on.
    is_given: bool,
    /// What the back met behind the pair it gave out last.
    failure: Option<Error>,
}

impl Scan {
    /// Prepares a scan between two bounds, in the keyspace's order. Reads nothing yet.
    pub fn new(tree: Tree, horizon: Horizon, lower: Bound<Vec<u8>>, upper: Bound<Vec<u8>>) -> Scan {
        let mut scan = Scan {
            tree,
            horizon,
            start: lower.clone(),
            stop: upper.clone(),
            lower,
            upper,
            front: None,
            back: None,
            failure: None,
            is_done: false,
            waste: None,
        };
        scan.is_done = scan.is_range_empty();
        scan
    }

    /// Has what the scan steps over counted against the merges that would spare it, and `waste` told.
    #[must_use]
    pub fn telling(mut self, waste: Arc<ReadWaste>) -> Scan {
        self.waste = Some(waste);
        self
    }

    fn is_range_empty(&self) -> bool {
        self.tree.order.is_range_empty(&self.lower, &self.upper)
    }

    /// Returns the next pair from the front; `None` at the end, forever.
    ///
    /// # Errors
    /// What reading meets, once; the scan is over then.
    pub fn next_pair(&mut self) -> Option<Result<Pair>> {
        self.step(Scan::advance_front)
    }

    /// Returns the next pair from the back; `None` at the end, forever.
    ///
    /// # Errors
    /// As [`Scan::next_pair`].
    pub fn next_pair_back(&mut self) -> Option<Result<Pair>> {
        self.step(Scan::advance_back)
    }

    /// Ends the scan with an error that its caller met; `false` if it is over, and an iterator that ended stays as it is.
    #[cold]
    pub fn stop(&mut self, error: Error) -> bool {
        let is_going = !self.is_done;
        if is_going {
            self.fail(error);
        }
        is_going
    }

    /// Moves the front to the first key at or after `key` within the bounds, and forgets what was given out at
    /// the front before. A scan that has failed stays failed.
    ///
    /// # Errors
    /// What reading meets.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.seek_with(|scan| scan.place_front_at(key))
    }

    /// Moves the back to the last key at or before `key` within the bounds, and forgets what was given out at
    /// the back before. A scan that has failed stays failed.
    ///
    /// # Errors
    /// What reading meets.
    pub fn seek_back(&mut self, key: &[u8]) -> Result<()> {
        self.seek_with(|scan| scan.place_back_at(key))
    }

    /// Returns the bounds that it was made with.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.lower.as_ref().map(Vec::as_slice), self.upper.as_ref().map(Vec::as_slice))
    }

    /// Returns the number up to which it sees entries.
    pub fn seq(&self) -> SeqNum {
        self.horizon.seq
    }

    fn seek_with(&mut self, place: impl FnOnce(&mut Scan) -> Result<()>) -> Result<()> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let result =
            if self.tree.order.is_bytewise() { place(self) } else { contain("a seek", || place(self)) };
        if let Err(error) = &result {
            self.fail(error.clone());
        }
        result
    }

    fn place_front_at(&mut self, key: &[u8]) -> Result<()> {
        self.is_done = self.is_range_empty();
        let mut end = self.front.take().unwrap_or_else(|| self.new_end());
        self.start =
            if self.lower_violation(key) { self.lower.clone() } else { Bound::Included(key.to_vec()) };
        end.has_last_key = false;
        end.is_given = false;
        let result = place_front(&mut end.cursor, &self.start);
        self.front = Some(end);
        result
    }

    fn place_back_at(&mut self, key: &[u8]) -> Result<()> {
        self.is_done = self.is_range_empty();
        let mut end = self.back.take().unwrap_or_else(|| self.new_end());
        self.stop =
            if self.upper_violation(key) { self.upper.clone() } else { Bound::Included(key.to_vec()) };
        end.has_last_key = false;
        end.failure = None;
        let result = place_back(&mut end.cursor, &self.stop);
        self.back = Some(end);
        result
    }

    fn step(&mut self, advance: fn(&mut Scan) -> Result<Option<Pair>>) -> Option<Result<Pair>> {
        if self.is_done {
            return None;
        }
        let outcome = if self.tree.order.is_bytewise() {
            advance(self)
        } else {
            contain("a step of an iterator", || advance(self))
        };
        match outcome {
            Ok(Some(pair)) => Some(Ok(pair)),
            Ok(None) => {
                self.is_done = true;
                None
            }
            Err(error) => {
                self.fail(error.clone());
                Some(Err(error))
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.failure = Some(error);
        self.is_done = true;
        self.report_all();
        self.front = None;
        self.back = None;
    }

    /// Tells of the steps of both ends. Wakes nobody: the next scan will.
    fn report_all(&mut self) {
        let Some(waste) = &self.waste else { return };
        for end in [&mut self.front, &mut self.back].into_iter().flatten() {
            end.steps.tell_all(&self.tree, waste);
        }
    }

    /// Counts steps because of the entry that decided about the last key.
    fn step_over(&self, end: &mut End, count: u64) {
        if let Some(waste) = &self.waste
            && end.steps.count(&self.tree, waste, (end.decider, &end.last_key), count)
        {
            waste.wake();
        }
    }

    fn new_end(&self) -> End {
        let tree = &self.tree;
        let mut sources: Vec<Box<dyn Cursor>> = Vec::new();
        let has_active = !tree.active.is_empty();
        sources.extend(has_active.then(|| tree.active.cursor()));
        let sealed = tree.sealed.iter().filter(|memtable| !memtable.is_empty());
        sources.extend(sealed.map(Memtable::cursor));
        let mut runs = Vec::new();
        for (level, run) in self.runs() {
            runs.push((level, run.start));
            let tables = Arc::clone(&tree.tables);
            let cursor = RunCursor::new(tables, level, run, tree.order.clone(), CacheUse::Fill);
            sources.push(Box::new(cursor));
        }
        let cursor = MergeCursor::new(sources, tree.order.clone());
        End {
            cursor,
            last_key: Vec::new(),
            has_last_key: false,
            decider: 0,
            steps: Steps::new(has_active, runs),
            is_given: false,
            failure: None,
        }
    }

    /// Returns the runs of tables that hold keys within the bounds, by level and place in it: the tables of level 0
    /// one by one, then what there is of each sorted level.
    fn runs(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let tables = &self.tree.tables;
        let level0 = tables.level(0).iter().enumerate().filter(|(_, live)| {
            !self.lies_before(&live.meta.largest, &self.lower) && !self.upper_violation(&live.meta.smallest)
        });
        let sorted = (1..tables.levels().len()).map(|level| {
            let tables = tables.level(level);
            let start = match &self.lower {
                Bound::Unbounded => 0,
                lower => tables.partition_point(|live| self.lies_before(&live.meta.largest, lower)),
            };
            let end = match &self.upper {
                Bound::Unbounded => tables.len(),
                _ => tables.partition_point(|live| !self.upper_violation(&live.meta.smallest)),
            };
            (level, start..end)
        });
        level0.map(|(at, _)| (0, at..at + 1)).chain(sorted.filter(|(_, run)| !run.is_empty()))
    }

    /// Tells whether `key` lies before the lower bound.
    fn lower_violation(&self, key: &[u8]) -> bool {
        self.lies_before(key, &self.lower)
    }

    fn lies_before(&self, key: &[u8], lower: &Bound<Vec<u8>>) -> bool {
        match lower {
            Bound::Included(lower) => self.tree.order.compare(key, lower) == Ordering::Less,
            Bound::Excluded(lower) => self.tree.order.compare(key, lower) != Ordering::Greater,
            Bound::Unbounded => false,
        }
    }

    /// Tells whether `key` lies behind the upper bound.
    fn upper_violation(&self, key: &[u8]) -> bool {
        self.lies_behind(key, &self.upper)
    }

    fn lies_behind(&self, key: &[u8], upper: &Bound<Vec<u8>>) -> bool {
        match upper {
            Bound::Included(upper) => self.tree.order.compare(key, upper) == Ordering::Greater,
            Bound::Excluded(upper) => self.tree.order.compare(key, upper) != Ordering::Less,
            Bound::Unbounded => false,
        }
    }

    fn advance_front(&mut self) -> Result<Option<Pair>> {
        if self.front.is_none() {
            let mut end = self.new_end();
            place_front(&mut end.cursor, &self.lower)?;
            self.front = Some(end);
        }
        let mut end = self.front.take().expect("made above");
        let pair = self.find_forward(&mut end)?;
        self.front = Some(end);
        Ok(pair)
    }

    fn find_forward(&self, end: &mut End) -> Result<Option<Pair>> {
        let order = &self.tree.order;
        if std::mem::take(&mut end.is_given) {
            end.cursor.next()?;
        }
        while end.cursor.is_valid() {
            let InternalKey { user_key, tag } = end.cursor.key();
            if end.has_last_key && end.last_key == user_key {
                self.pass_older(end)?;
                continue;
            }
            if self.lies_behind(user_key, &self.stop) {
                return Ok(None);
            }
            if let Some(back) = self.back.as_ref().filter(|back| back.has_last_key)
                && order.compare(user_key, &back.last_key) != Ordering::Less
            {
                return Ok(None);
            }
            if tag.seq() > self.horizon.seq {
                self.pass_newer(end)?;
                continue;
            }
            end.last_key.clear();
            end.last_key.extend_from_slice(user_key);
            end.has_last_key = true;
            end.decider = end.cursor.source();
            match sight(tag, end.cursor.value(), self.horizon) {
                Sight::Value(skip) => {
                    let pair = (Slice::copy_from(user_key), end.cursor.value_slice(skip));
                    end.is_given = true;
                    return Ok(Some(pair));
                }
                Sight::Gone => {
                    end.cursor.next()?;
                    // No merge removes an expired entry yet, so there is none to ask for.
                    if tag.kind() == Some(Kind::Delete) {
                        self.step_over(end, 1);
                    }
                }
                Sight::Unknown => return Err(unknown_kind(tag)),
            }
        }
        Ok(None)
    }

    /// Passes over the entries of the last key, which are older than the one that decided about it.
    fn pass_older(&self, end: &mut End) -> Result<()> {
        let mut count = 0;
        while end.cursor.is_valid() && end.cursor.key().user_key == end.last_key {
            if count == STEPS_BEFORE_SEEK {
                end.cursor.skip_to(InternalKey::new(&end.last_key, Tag::OLDEST))?;
            } else {
                end.cursor.next()?;
            }
            count += 1;
        }
        self.step_over(end, u64::from(count));
        Ok(())
    }

    /// Passes over the entries of the current key that are newer than the reader's number. They are not counted: no
    /// merge would spare this reader from them.
    fn pass_newer(&self, end: &mut End) -> Result<()> {
        let key = Slice::copy_from(end.cursor.key().user_key);
        for _ in 0..STEPS_BEFORE_SEEK {
            end.cursor.next()?;
            let is_newer = end.cursor.is_valid() && {
                let InternalKey { user_key, tag } = end.cursor.key();
                tag.seq() > self.horizon.seq && user_key == &*key
            };
            if !is_newer {
                return Ok(());
            }
        }
        end.cursor.skip_to(InternalKey::new(&key, Tag::seek_at(self.horizon.seq)))
    }

    fn advance_back(&mut self) -> Result<Option<Pair>> {
        if self.back.is_none() {
            let mut end = self.new_end();
            place_back(&mut end.cursor, &self.upper)?;
            self.back = Some(end);
        }
        let mut end = self.back.take().expect("made above");
        let pair = self.find_backward(&mut end)?;
        self.back = Some(end);
        Ok(pair)
    }

    /// Walks back over whole keys: their entries come oldest first, and the last visible one decides.
    fn find_backward(&self, end: &mut End) -> Result<Option<Pair>> {
        let order = &self.tree.order;
        if let Some(error) = end.failure.take() {
            return Err(error);
        }
        while end.cursor.is_valid() {
            let key = end.cursor.key().user_key;
            if self.lies_before(key, &self.start) {
                return Ok(None);
            }
            if let Some(front) = self.front.as_ref().filter(|front| front.has_last_key)
                && order.compare(key, &front.last_key) != Ordering::Greater
            {
                return Ok(None);
            }
            end.last_key.clear();
            end.last_key.extend_from_slice(key);
            end.has_last_key = true;
            match self.decide_backward(end) {
                Ok(Some((_, Sight::Value(_), value))) => {
                    return Ok(Some((Slice::copy_from(&end.last_key), value)));
                }
                Ok(Some((tag, Sight::Unknown, _))) => return Err(unknown_kind(tag)),
                Ok(Some((_, Sight::Gone, _)) | None) => {}
                Err(error) => return self.decide_in_spite_of(error, end).map(Some),
            }
        }
        Ok(None)
    }

    /// Gives out the last key, if a get finds what decides about it; `error`, which the walk back over its entries met,
    /// is for the next call then. The walk goes on to the key before, and what it met may lie there.
    #[cold]
    fn decide_in_spite_of(&self, error: Error, end: &mut End) -> Result<Pair> {
        match get(&self.tree, &end.last_key, self.horizon) {
            Ok(Some(value)) => {
                end.failure = Some(error);
                Ok((Slice::copy_from(&end.last_key), value))
            }
            Ok(None) | Err(_) => Err(error),
        }
    }

    /// Finds what decides about the last key, at whose oldest entry the cursor stands, and leaves the cursor at the key
    /// before; `None` if the reader sees no entry of it.
    fn decide_backward(&self, end: &mut End) -> Result<Option<(Tag, Sight, Slice)>> {
        let mut newest = None;
        let (mut count, mut seen_count) = (0, 0u64);
        while end.cursor.is_valid() && end.cursor.key().user_key == end.last_key {
            if count == STEPS_BEFORE_SEEK {
                // The key has many versions: the one that decides is found from the front.
                end.cursor.seek(InternalKey::new(&end.last_key, Tag::seek_at(self.horizon.seq)))?;
                if end.cursor.is_valid() && end.cursor.key().user_key == end.last_key {
                    newest = Some(self.look(end));
                }
                end.cursor.seek_before(InternalKey::new(&end.last_key, Tag::NEWEST))?;
                break;
            }
            if end.cursor.key().tag.seq() <= self.horizon.seq {
                newest = Some(self.look(end));
                seen_count += 1;
            }
            end.cursor.prev()?;
            count += 1;
        }
        let hidden_count = match &newest {
            Some((tag, Sight::Gone, _)) if tag.kind() == Some(Kind::Delete) => seen_count,
            _ => seen_count.saturating_sub(1),
        };
        if hidden_count > 0 {
            self.step_over(end, hidden_count);
        }
        Ok(newest)
    }

    /// Returns what the entry at hand means to the reader, and notes that it decides as far as is known.
    fn look(&self, end: &mut End) -> (Tag, Sight, Slice) {
        let tag = end.cursor.key().tag;
        let seen = sight(tag, end.cursor.value(), self.horizon);
        let value = match seen {
            Sight::Value(skip) => end.cursor.value_slice(skip),
            _ => Slice::copy_from(&[]),
        };
        end.decider = end.cursor.source();
        (tag, seen, value)
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.report_all();
    }
}

fn place_front(cursor: &mut MergeCursor, lower: &Bound<Vec<u8>>) -> Result<()> {
    match lower {
        Bound::Included(key) => cursor.seek(InternalKey::new(key, Tag::NEWEST)),
        Bound::Excluded(key) => {
            cursor.seek(InternalKey::new(key, Tag::OLDEST))?;
            // An entry with the oldest tag is the last of its key.
            while cursor.is_valid() && cursor.key().user_key == key.as_slice() {
                cursor.next()?;
            }
            Ok(())
        }
        Bound::Unbounded => cursor.seek_to_first(),
    }
}

fn place_back(cursor: &mut MergeCursor, upper: &Bound<Vec<u8>>) -> Result<()> {
    match upper {
        Bound::Included(key) => {
            // Nothing sorts behind the oldest tag of a key but the tag itself, which nobody writes: its number
            // would be zero.
            cursor.seek_before(InternalKey::new(key, Tag::OLDEST))
        }
        Bound::Excluded(key) => cursor.seek_before(InternalKey::new(key, Tag::NEWEST)),
        Bound::Unbounded => cursor.seek_to_last(),
    }
}

#[cfg(test)]
mod tests;
