//! Trees of real tables in memory, without a database around them: what is picked, and where it ends.

use crate::base::comparator::KeyOrder;
use crate::base::error::{ErrorKind, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::key::{InternalKey, Kind, Tag};
use crate::base::limits::LEVELS_COUNT;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::compaction::flush::{FlushSource, flush_all};
use crate::compaction::merge::{Surroundings, merge};
use crate::compaction::output::{JobContext, OutputSettings};
use crate::compaction::picker::{LevelLimits, Pick, Situation, Unflushed, is_seal_due, pick};
use crate::compaction::plan::Plan;
use crate::compaction::range::RangeWalk;
use crate::compaction::space::{LiveTable, Survey};
use crate::cursor::Cursor;
use crate::memtable::Memtable;
use crate::memtable::arena::Arena;
use crate::mvcc::retain::{Retention, Verdict};
use crate::mvcc::visible::Horizon;
use crate::read::get::get;
use crate::read::scan::Scan;
use crate::read::tree::Tree;
use crate::read::waste::{ReadWaste, STEP_COST_BYTES};
use crate::sync::atomic::AtomicBool;
use crate::table::cursor::{CacheUse, TableCursor};
use crate::table::options::TableOptions;
use crate::table::shared::Cache;
use crate::vfs::Vfs;
use crate::vfs::mem::MemVfs;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

const LIMITS: LevelLimits =
    LevelLimits { level0_trigger: 3, level_base_bytes: 12 << 10, level_multiplier: 3 };
static NONE_PARKED: BTreeSet<FileNumber> = BTreeSet::new();
const TABLE_BYTES: u64 = 4 << 10;
const MEMTABLE_BYTES: u64 = 8 << 10;
/// What a table takes besides its entries, at most: properties, footer, index and filter of one so small.
const TABLE_OVERHEAD_BYTES: u64 = 900;

/// A keyspace's tree, and what ought to be in it.
struct Forest {
    disk: MemVfs,
    cache: Arc<Cache>,
    next_file: Cell<u64>,
    tree: Tree,
    seq: u64,
    /// The versions of each key with their numbers, oldest first; the length of the value, or none.
    model: BTreeMap<u16, Vec<(u64, Option<usize>)>>,
    snapshots: BTreeSet<u64>,
    available_bytes: Option<u64>,
    /// What merges have written.
    merged_bytes: u64,
}

fn key(number: u16) -> Vec<u8> {
    format!("key{number:05}").into_bytes()
}

/// A value that does not pack.
fn value(seq: u64, len: usize) -> Vec<u8> {
    let mut state = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(byte).collect()
}

impl Forest {
    fn new() -> Forest {
        let disk = MemVfs::new();
        disk.create_dir_all(&PathBuf::from("/db")).expect("memory");
        Forest {
            disk,
            cache: Arc::new(Cache::new(1 << 20, 8)),
            next_file: Cell::new(1),
            tree: Tree::new(KeyOrder::Bytewise, 1 << 10),
            seq: 0,
            model: BTreeMap::new(),
            snapshots: BTreeSet::new(),
            available_bytes: None,
            merged_bytes: 0,
        }
    }

    fn write(&mut self, number: u16, len: Option<usize>) {
        self.seq += 1;
        self.model.entry(number).or_default().push((self.seq, len));
        let (kind, value) = len.map_or((Kind::Delete, Vec::new()), |len| (Kind::Put, value(self.seq, len)));
        let tag = Tag::new(SeqNum::new(self.seq), kind);
        self.tree.active.insert(&mut Arena::new(1 << 10), InternalKey::new(&key(number), tag), &value);
    }

    /// Puts `0..count` in two flushes and merges them, so that level 1 or a deeper one has them in tables of usual size.
    fn load(&mut self, count: u16, len: usize) {
        self.fill((0..count).step_by(2), Some(len));
        self.fill((1..count).step_by(2), Some(len));
        self.compact((None, None));
        self.settle(true);
    }

    fn fill(&mut self, numbers: impl IntoIterator<Item = u16>, len: Option<usize>) {
        numbers.into_iter().for_each(|number| self.write(number, len));
        self.flush();
    }

    fn job<T>(&self, space_bytes: Option<u64>, body: impl FnOnce(&JobContext<'_>, OutputSettings) -> T) -> T {
        let next_number = || {
            self.next_file.set(self.next_file.get() + 1);
            FileNumber(self.next_file.get())
        };
        let context = JobContext {
            vfs: Arc::new(self.disk.clone()),
            directory: PathBuf::from("/db"),
            cache: Arc::clone(&self.cache),
            next_number: &next_number,
            is_cancelled: &AtomicBool::new(false),
            created_at: UnixMillis(0),
            space_bytes,
        };
        let settings = OutputSettings {
            keyspace: KeyspaceId::DEFAULT,
            order: KeyOrder::Bytewise,
            table: TableOptions { block_len_bytes: 256, ..TableOptions::default() },
            table_len_bytes_max: TABLE_BYTES,
        };
        body(&context, settings)
    }

    fn around(&self) -> Surroundings<'_> {
        Surroundings { tables: &self.tree.tables, snapshots: self.live() }
    }

    fn live(&self) -> Vec<SeqNum> {
        self.snapshots.iter().map(|&seq| SeqNum::new(seq)).collect()
    }

    fn flush(&mut self) {
        if self.tree.active.is_empty() {
            return;
        }
        let fresh = Arc::new(Memtable::new(&KeyOrder::Bytewise, 1 << 10));
        let sealed = std::mem::replace(&mut self.tree.active, fresh);
        let added = self
            .job(None, |context, settings| {
                let tables = Arc::clone(&self.tree.tables);
                let source = FlushSource { memtable: Arc::clone(&sealed), tables, settings };
                flush_all(context, vec![source], &self.live(), &mut Vec::new())
            })
            .expect("memory");
        self.install(&[], 0, added.into_iter().map(|(_, live)| live).collect());
    }

    fn merge(&self, plan: &Plan) -> Result<Vec<LiveTable>> {
        if plan.is_trivial_move() {
            return Ok(plan.upper.clone());
        }
        self.job(self.available_bytes, |context, settings| {
            merge(context, plan, self.around(), settings, &mut Vec::new())
        })
    }

    /// Merges; `false` if there was no space for it, which can be only where it was not sure to have any.
    fn run(&mut self, plan: &Plan) -> bool {
        let outputs = match self.merge(plan) {
            Ok(outputs) => outputs,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace);
                // The overhead of tables is not what an estimate of entries knows.
                let overhead = TABLE_OVERHEAD_BYTES * (1 + plan.len_bytes() / TABLE_BYTES);
                assert!(self.available_bytes.is_some_and(|bytes| bytes < plan.needs_bytes() + overhead));
                return false;
            }
        };
        if !plan.is_trivial_move() {
            self.merged_bytes += bytes_of(&outputs);
        }
        self.finish(plan, outputs);
        true
    }

    fn finish(&mut self, plan: &Plan, outputs: Vec<LiveTable>) {
        let upper = plan.upper.iter().map(|live| (plan.level, live.meta.number));
        let lower = plan.lower.iter().map(|live| (plan.target, live.meta.number));
        let removed: Vec<(usize, FileNumber)> = upper.chain(lower).collect();
        self.install(&removed, plan.target, outputs);
    }

    fn install(&mut self, removed: &[(usize, FileNumber)], level: usize, added: Vec<LiveTable>) {
        let added = added.into_iter().map(|live| (level, live)).collect();
        self.tree.tables = Arc::new(self.tree.tables.with(removed, added, &KeyOrder::Bytewise));
    }

    fn situation<'a>(&self, is_quiet: bool, snapshots: &'a [SeqNum]) -> Situation<'a> {
        Situation {
            is_quiet,
            snapshots,
            level0_wasted_bytes: 0,
            memtable_bytes: MEMTABLE_BYTES,
            available_bytes: self.available_bytes,
            parked: &NONE_PARKED,
        }
    }

    fn pick(&self, is_quiet: bool) -> Pick {
        let live = self.live();
        pick(&self.tree.tables, LIMITS, &KeyOrder::Bytewise, self.situation(is_quiet, &live))
    }

    /// Merges until nothing is due, which has to come; returns how many merges that took, and what is waited for.
    fn settle(&mut self, is_quiet: bool) -> (usize, Vec<SeqNum>) {
        for count in 0..500 {
            let Pick { plan, awaited, .. } = self.pick(is_quiet);
            let Some(plan) = plan else { return (count, awaited) };
            if !self.run(&plan) {
                return (count, awaited);
            }
        }
        panic!("merges are due forever:\n{}", self.picture());
    }

    fn walk(&self, range: (Option<u16>, Option<u16>)) -> RangeWalk {
        let bound = |end: Option<u16>| end.map_or(Bound::Unbounded, |end| Bound::Included(key(end)));
        RangeWalk::new((bound(range.0), bound(range.1)), SeqNum::new(self.seq))
    }

    /// Takes one step of a walk; `false` if it has come to its end.
    fn step(&mut self, walk: &mut RangeWalk) -> bool {
        let Some(plan) = walk.next(&self.tree.tables, &KeyOrder::Bytewise, &self.live()) else {
            return false;
        };
        assert!(self.run(&plan), "a walk is only taken where there is space");
        walk.installed(&plan, &KeyOrder::Bytewise);
        true
    }

    fn compact(&mut self, range: (Option<u16>, Option<u16>)) {
        let mut walk = self.walk(range);
        for _ in 0..500 {
            if !self.step(&mut walk) {
                return;
            }
        }
        panic!("the walk does not end:\n{}", self.picture());
    }

    fn bytes(&self) -> u64 {
        self.tree.tables.levels().iter().map(|level| bytes_of(level)).sum()
    }

    fn tables_count(&self) -> u64 {
        self.tree.tables.levels().iter().flatten().count() as u64
    }

    /// Returns every entry in tables, by key, newest first.
    fn entries(&self) -> BTreeMap<Vec<u8>, Vec<Tag>> {
        let mut entries: BTreeMap<Vec<u8>, Vec<Tag>> = BTreeMap::new();
        for live in self.tree.tables.levels().iter().flatten() {
            let mut cursor = TableCursor::new(Arc::clone(&live.table), CacheUse::Bypass);
            cursor.seek_to_first().expect("memory");
            while cursor.is_valid() {
                let InternalKey { user_key, tag } = cursor.key();
                entries.entry(user_key.to_vec()).or_default().push(tag);
                cursor.next().expect("memory");
            }
        }
        entries.values_mut().for_each(|tags| tags.sort_by(|a, b| b.cmp(a)));
        entries
    }

    /// Checks that readers of all live snapshots and of now see what was written.
    fn check(&self) {
        for &at in self.snapshots.iter().chain([&self.seq]) {
            let horizon = Horizon { seq: SeqNum::new(at), now: UnixMillis(0) };
            for (&number, versions) in &self.model {
                let wanted = versions.iter().rev().find(|(seq, _)| *seq <= at);
                let wanted = wanted.and_then(|&(seq, len)| Some(value(seq, len?)));
                let found =
                    get(&self.tree, &key(number), horizon).expect("memory").map(|slice| slice.to_vec());
                assert_eq!(found, wanted, "key {number} at {at}\n{}", self.picture());
            }
        }
    }

    fn picture(&self) -> String {
        let mut picture = format!("live: {:?}\n", self.snapshots);
        for (level, tables) in self.tree.tables.levels().iter().enumerate() {
            for live in tables {
                let meta = &live.meta;
                picture += &format!(
                    "  level {level}: table {} {}..{}, {} bytes, {} entries, {} deletes, numbers {}..{}, {:?}\n",
                    meta.number,
                    meta.smallest.escape_ascii(),
                    meta.largest.escape_ascii(),
                    meta.len_bytes,
                    meta.entries,
                    meta.deletes,
                    meta.smallest_seq,
                    meta.largest_seq,
                    live.kept
                );
            }
        }
        picture
    }
}

fn bytes_of(tables: &[LiveTable]) -> u64 {
    tables.iter().map(|live| live.meta.len_bytes).sum()
}

/// Returns how many of a key's entries are needed by nobody, if nothing of the key lies elsewhere.
fn garbage_count(tags: &[Tag], snapshots: &[SeqNum]) -> usize {
    let mut retention = Retention::new(snapshots);
    let (mut dropped, mut waiting) = (0, 0);
    for &tag in tags {
        match retention.judge(tag, || true).expect("known kinds") {
            Verdict::Keep(_) => waiting = 0,
            Verdict::Wait(_) => waiting += 1,
            Verdict::Drop => dropped += 1,
        }
    }
    dropped + waiting
}

#[test]
fn deletes_make_the_merge_due_that_frees_what_they_hide() {
    let mut forest = Forest::new();
    forest.load(300, 100);
    let full = forest.bytes();
    forest.fill(0..200, None);
    // One table on level 0, below the trigger.
    assert!(forest.settle(false).0 > 0);
    assert!(forest.bytes() < full / 2, "{}", forest.picture());
    forest.check();
}

#[test]
fn few_deletes_wait_for_the_next_merge() {
    let mut forest = Forest::new();
    forest.load(600, 100);
    forest.fill((0..600).step_by(100), None);
    let merged_bytes = forest.merged_bytes;
    forest.settle(false);
    forest.settle(true);
    assert_eq!(forest.merged_bytes, merged_bytes, "not even when it is quiet\n{}", forest.picture());
}

#[test]
fn overwritten_bytes_come_back_when_it_is_quiet() {
    let mut forest = Forest::new();
    forest.load(300, 100);
    let full = forest.bytes();
    forest.fill(0..150, Some(100));
    assert_eq!(forest.settle(false).0, 0);
    assert!(forest.bytes() > full * 14 / 10);
    assert!(forest.settle(true).0 > 0);
    assert!(forest.bytes() < full * 11 / 10, "{}", forest.picture());
    forest.check();
}

#[test]
fn what_a_snapshot_held_is_due_when_it_is_gone_and_not_before() {
    let mut forest = Forest::new();
    forest.fill(0..100, Some(100));
    forest.snapshots.insert(forest.seq);
    forest.fill(0..100, None);
    let (_, awaited) = forest.settle(true);
    assert_eq!(awaited, forest.live());
    assert_eq!(forest.settle(true).0, 0);
    forest.check();
    forest.snapshots.clear();
    // It is a good part of what is rewritten, so nobody has to be quiet for it.
    assert!(forest.settle(false).0 > 0);
    assert_eq!(forest.tables_count(), 0, "{}", forest.picture());
}

#[test]
fn one_snapshot_of_several_gives_back_its_own() {
    let mut forest = Forest::new();
    for _ in 0..4 {
        forest.fill(0..60, Some(100));
        forest.snapshots.insert(forest.seq);
    }
    let (_, awaited) = forest.settle(true);
    // The newest versions are not kept for a snapshot.
    assert_eq!(awaited, forest.live()[..3]);
    let full = forest.bytes();
    let second = forest.live()[1].get();
    forest.snapshots.remove(&second);
    forest.settle(true);
    assert!(forest.bytes() < full * 9 / 10, "{}", forest.picture());
    assert_eq!(forest.settle(true).0, 0);
    forest.check();
}

#[test]
fn a_table_of_deletes_is_not_moved_to_where_they_hide_nothing() {
    let mut forest = Forest::new();
    forest.fill(0..100, Some(100));
    forest.compact((None, None));
    forest.snapshots.insert(forest.seq);
    forest.fill(0..100, None);
    forest.snapshots.clear();
    // The puts go, as if by a merge of their own; the deletes are left above nothing.
    let bottom: Vec<_> = forest.tree.tables.level(1).iter().map(|live| (1, live.meta.number)).collect();
    forest.install(&bottom, 1, Vec::new());
    forest.model.clear();
    let plan = forest.pick(true).plan.expect("the deletes can go");
    assert!(!plan.is_trivial_move());
    forest.run(&plan);
    assert_eq!(forest.tables_count(), 0, "{}", forest.picture());
}

/// Deletes that reach a little into the next table do not keep the one that they hide whole.
#[test]
fn on_a_full_disk_a_table_goes_that_deletes_hide_whole() {
    let mut forest = Forest::new();
    forest.load(600, 100);
    forest.compact((None, None));
    let tables =
        forest.tree.tables.levels().iter().rev().find(|tables| tables.len() > 1).expect("there are many");
    let (first, second) = (Arc::clone(&tables[0].meta), Arc::clone(&tables[1].meta));
    let number = |key: &[u8]| String::from_utf8_lossy(&key[3..]).parse::<u16>().expect("keys are numbered");
    let cut = number(&second.smallest) + u16::try_from(second.entries / 8).expect("few");
    let (len, full) = (first.len_bytes, forest.bytes());
    forest.fill(0..cut, None);
    // A third of the table, and so too little if half of the deletes were taken to lie in the next one.
    forest.available_bytes = Some(len / 3 + TABLE_OVERHEAD_BYTES);
    let (count, _) = forest.settle(true);
    assert!(count > 0 && forest.bytes() < full, "{}", forest.picture());
    forest.check();
}

#[test]
fn on_a_full_disk_a_smaller_merge_frees_what_it_can() {
    let mut forest = Forest::new();
    forest.load(600, 100);
    let full = forest.bytes();
    forest.fill((0..600).filter(|number| number % 3 > 0), None);
    // Too little for level 0 and all that lies below it, enough for one table.
    forest.available_bytes = Some(TABLE_BYTES);
    let (count, _) = forest.settle(false);
    assert!(count > 0);
    assert!(forest.bytes() < full / 2, "{}", forest.picture());
    forest.check();
    forest.available_bytes = Some(0);
    forest.settle(true);
    forest.check();
}

#[test]
fn steps_over_hidden_entries_make_their_merge_due() {
    let mut forest = Forest::new();
    forest.load(600, 100);
    forest.fill((0..600).step_by(20), None);
    forest.settle(true);
    let merged_bytes = forest.merged_bytes;
    let waste = Arc::new(ReadWaste::new(1, Arc::new(|| {})));
    let scan = |forest: &Forest| {
        let horizon = Horizon { seq: SeqNum::new(forest.seq), now: UnixMillis(0) };
        let mut scan = Scan::new(forest.tree.clone(), horizon, Bound::Unbounded, Bound::Unbounded)
            .telling(Arc::clone(&waste));
        while let Some(pair) = scan.next_pair() {
            pair.expect("memory");
        }
    };
    scan(&forest);
    let counted = |forest: &Forest| -> u64 {
        forest.tree.tables.levels().iter().flatten().map(|live| live.steps_count()).sum()
    };
    // The deletes, and the puts that they hide.
    let deletes: u64 = forest.tree.tables.levels().iter().flatten().map(|live| live.meta.deletes).sum();
    assert!(deletes > 20, "{}", forest.picture());
    assert_eq!(counted(&forest), 2 * deletes);
    assert!(waste.count_seek(0), "the next seek is told to look");
    let price = forest.bytes() / STEP_COST_BYTES;
    // What is stepped over sinks by a level each time that it has cost as much.
    for _ in 0..LEVELS_COUNT {
        (0..=price / deletes).for_each(|_| scan(&forest));
        forest.settle(false);
    }
    assert!(forest.merged_bytes > merged_bytes, "{}", forest.picture());
    scan(&forest);
    assert_eq!(counted(&forest), 0, "{}", forest.picture());
}

#[test]
fn steps_in_the_memtable_make_it_due_to_be_sealed() {
    let mut forest = Forest::new();
    forest.fill(0..100, Some(100));
    forest.settle(true);
    let is_due = |forest: &Forest, steps_count: u64, is_quiet: bool| {
        let unflushed = Unflushed {
            entries_count: forest.tree.active.count(),
            len_bytes: forest.tree.active.len_bytes(),
            steps_count,
        };
        let order = KeyOrder::Bytewise;
        is_seal_due(unflushed, &forest.tree.tables, LIMITS, &order, forest.situation(is_quiet, &[]))
    };
    assert!(!is_due(&forest, u64::MAX, true), "there is nothing to seal");
    forest.write(0, None);
    assert!(is_due(&forest, u64::MAX, false));
    assert!(!is_due(&forest, 0, true), "one entry hides little");
    (1..50).for_each(|number| forest.write(number, None));
    assert!(is_due(&forest, 0, true));
    assert!(!is_due(&forest, 0, false));
    forest.available_bytes = Some(10);
    assert!(!is_due(&forest, u64::MAX, true), "there is no space for the table");
}

#[test]
fn a_merge_that_began_before_does_not_break_the_promise_of_a_range() {
    let mut forest = Forest::new();
    forest.fill(0..50, Some(100));
    forest.compact((None, None));
    forest.snapshots.insert(forest.seq);
    forest.fill(0..50, None);
    // The background begins to merge while the snapshot lives, and is done after the walk has begun.
    let plan = Plan::level0(
        &Survey::new(&forest.tree.tables, &KeyOrder::Bytewise, &forest.live()),
        crate::compaction::plan::Thrift::Frugal,
    );
    let plan = plan.expect("there are deletes");
    let outputs = forest.merge(&plan).expect("memory");
    forest.snapshots.clear();
    let mut walk = forest.walk((None, None));
    forest.finish(&plan, outputs);
    while forest.step(&mut walk) {}
    assert_eq!(forest.tables_count(), 0, "{}", forest.picture());
}

/// One thing that happens to a tree.
#[derive(Clone, Debug)]
enum Step {
    Put(u16, usize),
    DeleteRun(u16, u16),
    Flush,
    Merge,
    Take,
    Release(usize),
}

fn steps(value_lens: impl Strategy<Value = usize> + 'static) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0u16..80, value_lens).prop_map(|(number, len)| Step::Put(number, len)),
        3 => (0u16..80, 1u16..30).prop_map(|(first, count)| Step::DeleteRun(first, count)),
        4 => Just(Step::Flush),
        2 => Just(Step::Merge),
        1 => Just(Step::Take),
        1 => any::<usize>().prop_map(Step::Release),
    ];
    prop::collection::vec(step, 1..200)
}

impl Forest {
    fn act(&mut self, step: &Step) {
        match *step {
            Step::Put(number, len) => self.write(number, Some(len)),
            Step::DeleteRun(first, count) => {
                (first..(first + count).min(80)).for_each(|number| self.write(number, None));
            }
            Step::Flush => self.flush(),
            Step::Merge => {
                if let Some(plan) = self.pick(false).plan {
                    self.run(&plan);
                }
            }
            Step::Take => {
                self.snapshots.insert(self.seq);
            }
            Step::Release(which) => {
                let count = self.snapshots.len().max(1);
                if let Some(&seq) = self.snapshots.iter().nth(which % count) {
                    self.snapshots.remove(&seq);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_quiet_tree_comes_to_rest_and_every_released_snapshot_brings_it_nearer_to_its_live_size(
        steps in steps(prop_oneof![0usize..20, 100usize..120, 1000usize..3000]),
        available_bytes in prop::option::of(0u64..20_000),
    ) {
        let mut forest = Forest::new();
        forest.available_bytes = available_bytes;
        steps.iter().for_each(|step| forest.act(step));
        forest.flush();
        forest.settle(true);
        forest.check();
        prop_assert!(available_bytes.is_some() || forest.settle(true).0 == 0);
        while let Some(seq) = forest.snapshots.pop_first() {
            forest.settle(true);
            forest.check();
            prop_assert!(available_bytes.is_some() || forest.pick(true).plan.is_none());
            prop_assert!(forest.pick(true).awaited.iter().all(|awaited| awaited.get() != seq));
        }
        forest.available_bytes = None;
        forest.settle(true);
        forest.check();
    }

    #[test]
    fn of_entries_of_one_size_a_quiet_tree_keeps_little_more_than_lives(
        steps in steps(100usize..101),
    ) {
        let mut forest = Forest::new();
        steps.iter().for_each(|step| forest.act(step));
        forest.snapshots.clear();
        forest.flush();
        forest.settle(true);
        let quiet = forest.bytes().saturating_sub(forest.tables_count() * TABLE_OVERHEAD_BYTES);
        forest.compact((None, None));
        let live = forest.bytes();
        prop_assert!(
            quiet <= live * 115 / 100 + MEMTABLE_BYTES,
            "{} bytes at rest, {} live", quiet, live
        );
    }

    #[test]
    fn a_walk_keeps_its_promise_whatever_is_written_and_merged_meanwhile(
        before in steps(0usize..200),
        meanwhile in steps(0usize..200),
        (first, last) in (prop::option::of(0u16..80), prop::option::of(0u16..80)),
    ) {
        let mut forest = Forest::new();
        before.iter().for_each(|step| forest.act(step));
        forest.flush();
        let (seq, live_before) = (forest.seq, forest.live());
        let mut walk = forest.walk((first, last));
        let mut meanwhile = meanwhile.iter();
        for count in 0.. {
            prop_assert!(count < 500, "the walk does not end");
            meanwhile.by_ref().take(5).for_each(|step| forest.act(step));
            if !forest.step(&mut walk) {
                break;
            }
        }
        forest.check();
        // Of what was committed before, whatever no snapshot of then or since needs is gone.
        let live: Vec<SeqNum> = live_before.into_iter().chain((seq..=forest.seq).map(SeqNum::new)).collect();
        for (key_bytes, tags) in forest.entries() {
            let is_inside = first.is_none_or(|first| key_bytes >= key(first))
                && last.is_none_or(|last| key_bytes <= key(last));
            let old: Vec<Tag> = tags.into_iter().filter(|tag| tag.seq().get() <= seq).collect();
            if is_inside {
                prop_assert_eq!(garbage_count(&old, &live), 0, "{}\n{}", key_bytes.escape_ascii(), forest.picture());
            }
        }
    }
}
