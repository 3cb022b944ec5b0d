//! Merges sorted cursors into one.
//!
//! One source, the *winner*, stands on the current entry; the others wait in a heap, ordered by where they
//! stand. A step moves the winner and compares it with the top of the heap: as long as it stays ahead, that is
//! one comparison, and with a single source there is none. Keys are compared by their sort prefixes first,
//! numbers that were taken when the source came to its entry, so most comparisons touch no key.
//!
//! Walking forwards the heap holds sources that stand behind the current entry, walking backwards sources that
//! stand before it. To turn round, each of them is moved to the other side of the current key.
//!
//! A source that waits ([`Cursor::waits_at`]) takes part with the key it waits at, ahead of all entries of that key, and
//! has to arrive before it can become the winner. So it reads nothing until everything in front of it was met.
//!
//! A source that fails leaves the merge on no entry: no key of the failed source can be skipped silently,
//! because every positioning call asks all sources again and gives up at the first error.
//!
//! Sources must not hold the same internal key twice; sequence numbers see to that. If they do, each copy is
//! met at least once on a walk in one direction.

use crate::base::comparator::KeyOrder;
use crate::base::error::Result;
use crate::base::key::{InternalKey, Tag};
use crate::base::slice::Slice;
use crate::cursor::Cursor;
use std::cmp::Ordering;

/// A cursor over everything that its sources hold.
pub struct MergeCursor {
    sources: Vec<Box<dyn Cursor>>,
    order: KeyOrder,
    direction: Direction,
    /// Stands on the current entry, if there is one; never waits.
    winner: Option<Runner>,
    /// The other sources that stand on an entry or wait; the one to come next is first (a binary heap).
    heap: Vec<Runner>,
    /// The current key while turning round.
    pivot: Vec<u8>,
}

/// A source that stands on an entry, or waits in front of one.
#[derive(Clone, Copy)]
struct Runner {
    prefix: u128,
    source: usize,
    is_waiting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

impl MergeCursor {
    /// Merges `sources`, whose keys are in `order`; stands on no entry.
    pub fn new(sources: Vec<Box<dyn Cursor>>, order: KeyOrder) -> MergeCursor {
        let heap = Vec::with_capacity(sources.len());
        MergeCursor { sources, order, direction: Direction::Forward, winner: None, heap, pivot: Vec::new() }
    }

    /// Returns which of the sources holds the current entry, counted in the order they were given.
    ///
    /// # Panics
    /// If the cursor stands on no entry.
    #[inline]
    pub fn source(&self) -> usize {
        self.winner.as_ref().expect("the cursor stands on no entry").source
    }

    /// Goes on to the first entry at or after `target`, which is not before the current one. Only sources that stand
    /// before it are moved, each once, however many entries lie between.
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    ///
    /// # Panics
    /// If the cursor stands on no entry.
    pub fn skip_to(&mut self, target: InternalKey<'_>) -> Result<()> {
        assert!(self.winner.is_some(), "the cursor stands on no entry");
        if self.direction != Direction::Forward {
            return self.seek(target);
        }
        let mut first = self.winner.take();
        while let Some(runner) = first {
            // A source that waits in front of the target is moved as well, so that it does not read what lies between.
            if self.key_of(runner).compare(&target, &self.order) != Ordering::Less {
                break;
            }
            self.sources[runner.source].seek(target)?;
            self.enlist(runner.source);
            first = self.pop();
        }
        self.settle(first)
    }

    /// Positions every source with `go` and starts in `direction`.
    fn start(
        &mut self,
        direction: Direction,
        mut go: impl FnMut(&mut dyn Cursor) -> Result<()>,
    ) -> Result<()> {
        self.winner = None;
        self.heap.clear();
        self.direction = direction;
        for source in &mut self.sources {
            go(&mut **source)?;
        }
        for source in 0..self.sources.len() {
            self.enlist(source);
        }
        let first = self.pop();
        self.settle(first)
    }

    /// Moves the winner one entry on, and finds out who leads then.
    fn step(&mut self, direction: Direction) -> Result<()> {
        assert!(self.winner.is_some(), "the cursor stands on no entry");
        if self.direction != direction {
            self.turn(direction)?;
        }
        let winner = self.winner.take().expect("checked above; turning keeps it");
        let source = &mut self.sources[winner.source];
        match direction {
            Direction::Forward => source.next()?,
            Direction::Backward => source.prev()?,
        }
        if !source.is_valid() {
            self.enlist(winner.source);
            let first = self.pop();
            return self.settle(first);
        }
        if self.heap.is_empty() {
            self.winner = Some(winner);
            return Ok(());
        }
        let moved = self.runner(winner.source);
        if self.is_ahead(moved, self.heap[0]) {
            self.winner = Some(moved);
            return Ok(());
        }
        let first = std::mem::replace(&mut self.heap[0], moved);
        self.sift_down(0);
        self.settle(Some(first))
    }

    /// Makes `first`, which all others are behind, the winner; if it waits it arrives before, and whoever is first then
    /// is the winner.
    #[inline]
    fn settle(&mut self, mut first: Option<Runner>) -> Result<()> {
        while let Some(waiting) = first.filter(|runner| runner.is_waiting) {
            self.sources[waiting.source].arrive()?;
            self.enlist(waiting.source);
            first = self.pop();
        }
        self.winner = first;
        Ok(())
    }

    /// Moves every source but the winner to the other side of the current key.
    fn turn(&mut self, direction: Direction) -> Result<()> {
        let winner = self.winner.take().expect("the caller stands on an entry");
        self.heap.clear();
        let mut pivot = std::mem::take(&mut self.pivot);
        pivot.clear();
        let current = self.sources[winner.source].key();
        pivot.extend_from_slice(current.user_key);
        let current = InternalKey::new(&pivot, current.tag);
        for (index, source) in self.sources.iter_mut().enumerate() {
            if index == winner.source {
                continue;
            }
            match direction {
                Direction::Forward => source.seek(current)?,
                Direction::Backward => source.seek_before(current)?,
            }
        }
        self.pivot = pivot;
        self.direction = direction;
        for source in 0..self.sources.len() {
            if source != winner.source {
                self.enlist(source);
            }
        }
        self.winner = Some(self.runner(winner.source));
        Ok(())
    }

    /// Puts a source into the heap if it stands on an entry or waits in front of one.
    fn enlist(&mut self, source: usize) {
        let runner = if self.sources[source].is_valid() {
            self.runner(source)
        } else if let Some(key) = self.sources[source].waits_at() {
            Runner { prefix: self.order.sort_prefix(key), source, is_waiting: true }
        } else {
            return;
        };
        self.heap.push(runner);
        self.sift_up(self.heap.len() - 1);
    }

    fn pop(&mut self) -> Option<Runner> {
        if self.heap.is_empty() {
            return None;
        }
        let first = self.heap.swap_remove(0);
        self.sift_down(0);
        Some(first)
    }

    #[inline]
    fn runner(&self, source: usize) -> Runner {
        let prefix = self.order.sort_prefix(self.sources[source].key().user_key);
        Runner { prefix, source, is_waiting: false }
    }

    /// Returns the key a source stands on, or a key that comes before everything it waits in front of.
    #[inline]
    fn key_of(&self, runner: Runner) -> InternalKey<'_> {
        let source = &self.sources[runner.source];
        if !runner.is_waiting {
            return source.key();
        }
        let tag = if self.direction == Direction::Forward { Tag::NEWEST } else { Tag::OLDEST };
        InternalKey::new(source.waits_at().expect("the source waits"), tag)
    }

    /// Tells whether `a` comes to its turn before `b`.
    #[inline]
    fn is_ahead(&self, a: Runner, b: Runner) -> bool {
        let ordering = a.prefix.cmp(&b.prefix).then_with(|| self.compare_in_full(a, b));
        match self.direction {
            Direction::Forward => ordering == Ordering::Less,
            Direction::Backward => ordering == Ordering::Greater,
        }
    }

    /// Compares by key, and equal keys by source, so that the outcome depends on nothing else.
    fn compare_in_full(&self, a: Runner, b: Runner) -> Ordering {
        let keys = (self.key_of(a), self.key_of(b));
        keys.0.compare(&keys.1, &self.order).then(a.source.cmp(&b.source))
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.is_ahead(self.heap[place], self.heap[parent]) {
                break;
            }
            self.heap.swap(place, parent);
            place = parent;
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let mut child = 2 * place + 1;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && self.is_ahead(self.heap[child + 1], self.heap[child]) {
                child += 1;
            }
            if !self.is_ahead(self.heap[child], self.heap[place]) {
                break;
            }
            self.heap.swap(place, child);
            place = child;
        }
    }

    #[inline]
    fn current(&self) -> &dyn Cursor {
        let winner = self.winner.as_ref().expect("the cursor stands on no entry");
        &*self.sources[winner.source]
    }
}

impl Cursor for MergeCursor {
    fn is_valid(&self) -> bool {
        self.winner.is_some()
    }

    fn key(&self) -> InternalKey<'_> {
        self.current().key()
    }

    fn value(&self) -> &[u8] {
        self.current().value()
    }

    fn value_slice(&self, skip: usize) -> Slice {
        self.current().value_slice(skip)
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.start(Direction::Forward, |source| source.seek_to_first())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.start(Direction::Backward, |source| source.seek_to_last())
    }

    fn seek(&mut self, target: InternalKey<'_>) -> Result<()> {
        self.start(Direction::Forward, |source| source.seek(target))
    }

    fn seek_before(&mut self, target: InternalKey<'_>) -> Result<()> {
        self.start(Direction::Backward, |source| source.seek_before(target))
    }

    fn next(&mut self) -> Result<()> {
        self.step(Direction::Forward)
    }

    fn prev(&mut self) -> Result<()> {
        self.step(Direction::Backward)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_types, reason = "the tests count what a cursor does")]

    use super::*;
    use crate::base::comparator::ReverseBytewise;
    use crate::base::error::{Error, ErrorKind};
    use crate::base::key::{Kind, Tag};
    use crate::base::seq::SeqNum;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering as Atomic};

    type Entry = (Vec<u8>, Tag);

    /// Sorted entries in memory, with an error at the call that `fuse` counts down to.
    struct Source {
        entries: Vec<Entry>,
        order: KeyOrder,
        place: Option<usize>,
        fuse: Arc<AtomicUsize>,
        /// Waits wherever it may.
        is_lazy: bool,
        is_waiting: bool,
    }

    impl Source {
        fn position(&self, target: InternalKey<'_>) -> usize {
            self.entries.partition_point(|(key, tag)| {
                InternalKey::new(key, *tag).compare(&target, &self.order) == Ordering::Less
            })
        }

        fn go(&mut self, place: Option<usize>) -> Result<()> {
            self.place = None;
            if self.fuse.fetch_sub(1, Atomic::Relaxed) == 1 {
                return Err(Error::new(ErrorKind::Io, "the disk is gone"));
            }
            self.place = place.filter(|&place| place < self.entries.len());
            self.is_waiting = self.is_lazy && self.place.is_some();
            Ok(())
        }

        /// Goes to where it was sought, and waits there if that has another key.
        fn go_from(&mut self, target: InternalKey<'_>, place: Option<usize>) -> Result<()> {
            self.go(place)?;
            let is_same = self.place.is_some_and(|place| self.entries[place].0 == target.user_key);
            self.is_waiting &= !is_same;
            Ok(())
        }
    }

    impl Cursor for Source {
        fn is_valid(&self) -> bool {
            self.place.is_some() && !self.is_waiting
        }
        fn key(&self) -> InternalKey<'_> {
            assert!(!self.is_waiting, "on an entry");
            let (key, tag) = &self.entries[self.place.expect("on an entry")];
            InternalKey::new(key, *tag)
        }
        fn value(&self) -> &[u8] {
            self.key().user_key
        }
        fn value_slice(&self, skip: usize) -> Slice {
            Slice::copy_from(&self.value()[skip..])
        }
        fn seek_to_first(&mut self) -> Result<()> {
            self.go(Some(0))
        }
        fn seek_to_last(&mut self) -> Result<()> {
            self.go(self.entries.len().checked_sub(1))
        }
        fn seek(&mut self, target: InternalKey<'_>) -> Result<()> {
            self.go_from(target, Some(self.position(target)))
        }
        fn seek_before(&mut self, target: InternalKey<'_>) -> Result<()> {
            self.go_from(target, self.position(target).checked_sub(1))
        }
        fn next(&mut self) -> Result<()> {
            self.go(Some(self.place.expect("on an entry") + 1))
        }
        fn prev(&mut self) -> Result<()> {
            self.go(self.place.expect("on an entry").checked_sub(1))
        }
        fn waits_at(&self) -> Option<&[u8]> {
            self.is_waiting.then(|| &*self.entries[self.place.expect("it waits")].0)
        }
        fn arrive(&mut self) -> Result<()> {
            assert!(self.is_waiting, "it waits");
            self.go(self.place)?;
            self.is_waiting = false;
            Ok(())
        }
    }

    fn merge(parts: &[Vec<Entry>], order: &KeyOrder, fuse: usize) -> (MergeCursor, Arc<AtomicUsize>) {
        let fuse = Arc::new(AtomicUsize::new(fuse));
        // Every other source waits wherever it may.
        let source = |(index, entries): (usize, &Vec<Entry>)| -> Box<dyn Cursor> {
            let (entries, order, fuse) = (entries.clone(), order.clone(), Arc::clone(&fuse));
            Box::new(Source { entries, order, place: None, fuse, is_lazy: index % 2 == 1, is_waiting: false })
        };
        (MergeCursor::new(parts.iter().enumerate().map(source).collect(), order.clone()), fuse)
    }

    #[derive(Clone, Debug)]
    enum Step {
        First,
        Last,
        Seek(Vec<u8>, u64),
        SeekBefore(Vec<u8>, u64),
        SkipTo(Vec<u8>, u64),
        Next,
        Prev,
    }

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(97u8..100, 0..4),
            (0u8..9).prop_map(|last| [&b"the same sixteen"[..], &[last]].concat()),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => Just(Step::First),
            1 => Just(Step::Last),
            2 => (keys(), 0u64..300).prop_map(|(key, seq)| Step::Seek(key, seq)),
            2 => (keys(), 0u64..300).prop_map(|(key, seq)| Step::SeekBefore(key, seq)),
            4 => (keys(), 0u64..300).prop_map(|(key, seq)| Step::SkipTo(key, seq)),
            10 => Just(Step::Next),
            10 => Just(Step::Prev),
        ];
        prop::collection::vec(step, 1..150)
    }

    /// Takes one step in the merge and in the model; `None` if neither stands on an entry to step from.
    fn take(step: &Step, merged: &mut MergeCursor, model: &mut Source) -> Option<Result<()>> {
        let target = |key| move |seq: &u64| InternalKey::new(key, Tag::seek_at(SeqNum::new(*seq)));
        let of_model = match step {
            Step::First => model.seek_to_first(),
            Step::Last => model.seek_to_last(),
            Step::SeekBefore(key, seq) => model.seek_before(target(key)(seq)),
            Step::Next | Step::Prev | Step::SkipTo(..) if !model.is_valid() => return None,
            Step::SkipTo(key, seq) if model.key().compare(&target(key)(seq), &model.order).is_gt() => {
                return None;
            }
            Step::Seek(key, seq) | Step::SkipTo(key, seq) => model.seek(target(key)(seq)),
            Step::Next => model.next(),
            Step::Prev => model.prev(),
        };
        of_model.expect("the model has no fuse");
        Some(match step {
            Step::First => merged.seek_to_first(),
            Step::Last => merged.seek_to_last(),
            Step::Seek(key, seq) => merged.seek(target(key)(seq)),
            Step::SeekBefore(key, seq) => merged.seek_before(target(key)(seq)),
            Step::SkipTo(key, seq) => merged.skip_to(target(key)(seq)),
            Step::Next => merged.next(),
            Step::Prev => merged.prev(),
        })
    }

    proptest! {
        #[test]
        fn a_merge_walks_like_one_sorted_list_and_stops_at_errors(
            entries in prop::collection::vec((keys(), 0usize..5), 0..60),
            steps in steps(),
            is_reverse: bool,
            fuse in prop_oneof![Just(usize::MAX), 1usize..200],
        ) {
            let order = if is_reverse {
                KeyOrder::custom(Arc::new(ReverseBytewise))
            } else {
                KeyOrder::Bytewise
            };
            let mut all: Vec<(Entry, usize)> = (1..)
                .zip(entries)
                .map(|(seq, (key, part))| ((key, Tag::new(SeqNum::new(seq), Kind::Put)), part))
                .collect();
            all.sort_by(|((a, s), _), ((b, t), _)| InternalKey::new(a, *s).compare(&InternalKey::new(b, *t), &order));
            let part = |part| all.iter().filter(|each| each.1 == part).map(|each| each.0.clone()).collect();
            let parts: Vec<Vec<Entry>> = (0..5).map(part).collect();
            let (mut merged, fuse) = merge(&parts, &order, fuse);
            let mut model = Source {
                entries: all.iter().map(|each| each.0.clone()).collect(),
                order: order.clone(),
                place: None,
                fuse: Arc::new(AtomicUsize::new(usize::MAX)),
                is_lazy: false,
                is_waiting: false,
            };
            for step in &steps {
                let is_armed = fuse.load(Atomic::Relaxed) <= usize::MAX / 2;
                match take(step, &mut merged, &mut model) {
                    None => {}
                    Some(Ok(())) => {
                        prop_assert_eq!(merged.is_valid(), model.is_valid());
                        if model.is_valid() {
                            prop_assert_eq!(merged.key(), model.key());
                            prop_assert_eq!(merged.value(), model.value());
                        }
                    }
                    Some(Err(error)) => {
                        prop_assert!(is_armed);
                        prop_assert_eq!(error.kind(), ErrorKind::Io);
                        prop_assert!(!merged.is_valid(), "an error leaves it on no entry");
                        model.place = None;
                    }
                }
            }
        }
    }

    /// A source that waits and cannot arrive is an error where it begins, not before.
    #[test]
    fn a_source_reads_nothing_until_the_merge_comes_to_it() {
        let entry = |key: &str| (key.as_bytes().to_vec(), Tag::new(SeqNum::new(1), Kind::Put));
        let parts = [vec![entry("a"), entry("e")], vec![entry("c"), entry("d")]];
        // The calls: both sources are sought, "a" is left; then the other source arrives.
        let (mut merged, _) = merge(&parts, &KeyOrder::Bytewise, 4);
        merged.seek_to_first().expect("reads only the first source");
        assert_eq!(merged.key().user_key, b"a");
        assert_eq!(merged.next().expect_err("the second source is entered").kind(), ErrorKind::Io);
        assert!(!merged.is_valid());
        let (mut merged, _) = merge(&parts, &KeyOrder::Bytewise, 4);
        merged.seek_to_last().expect("reads only the first source");
        assert_eq!(merged.key().user_key, b"e");
        assert_eq!(merged.prev().expect_err("the second source is entered").kind(), ErrorKind::Io);
        assert!(!merged.is_valid());
    }

    #[test]
    fn no_sources_make_an_empty_merge() {
        let (mut merged, _) = merge(&[], &KeyOrder::Bytewise, usize::MAX);
        merged.seek_to_first().expect("nothing can fail");
        assert!(!merged.is_valid());
        merged.seek_to_last().expect("nothing can fail");
        assert!(!merged.is_valid());
    }
}
