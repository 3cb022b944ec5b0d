//! The block cache: unpacked blocks of tables, bounded by bytes, read without a lock.
//!
//! # Shape
//!
//! A fixed number of sets with eight ways each. A key hashes to one set; its eight tags fill one cache line,
//! and a way's block is touched only when its tag matches. Sets lie in chunks that are allocated when the first
//! block goes into them, so a cache costs memory for what it holds and not for what it might hold.
//!
//! ```text
//! set:  | tag 0 | tag 1 | … | tag 7 |  block 0 | block 1 | … | block 7 |
//!         61 bits of hash, 3 bits of use        shared pointers
//! ```
//!
//! # Promises
//!
//! - A hit takes no lock and allocates nothing: it is a scan of eight words and one guarded load.
//! - **A hit is always the block that was asked for.** Every cached block carries its own key as its last
//!   bytes ([`BlockKey::stamp`]), and a reader checks it on the block it holds, so neither equal hashes nor
//!   a replacement under the reader's feet can hand out another block.
//! - What is held never exceeds the capacity: an insert first reserves its bytes, then evicts, and only then
//!   becomes visible.
//! - Given the same calls in the same order, the same blocks are evicted: the hash is fixed and nothing
//!   depends on time.
//!
//! # Eviction
//!
//! CLOCK. Each way counts its uses up to three. A hand walks over all ways, takes one use from each that has
//! one, and evicts those that have none. A block comes in without a use and has to earn its place within a
//! round, and steps of a scan earn nothing: so a scan larger than the cache passes through without washing out
//! what point reads keep using. `docs/decisions/0003-block-cache.md` has the measurements.
//!
//! Inserting is best effort: if another thread is changing the same set, the block is simply not kept. No
//! thread ever waits here, but for another one that allocates the chunk it needs.
//!
//! # What it does not do
//!
//! It does not load blocks, and it does not forget a file that was removed: keys are never reused, so its
//! blocks just grow old.

#![allow(clippy::disallowed_types, reason = "a lookup reads eight tags, and may miss at any moment")]

use crate::sync::process_id;
use arc_swap::{ArcSwapOption, Guard};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

const WAYS_COUNT: usize = 8;
/// One way for so many bytes of capacity: half of what a usual block takes, so that a set rarely overflows
/// while the cache as a whole has space.
const CAPACITY_BYTES_PER_WAY: u64 = 2048;
/// Sets allocated together: 8 KiB, so that a cache of a few blocks stays small and the list of chunks short.
const SETS_PER_CHUNK_COUNT: usize = 64;
/// Most sets of a cache. They can take 2 GiB and hold 256 GiB of usual blocks with every other way free; a larger
/// capacity, which may be meant as "no limit", reserves nothing more than their list of chunks (4 MiB).
const SETS_COUNT_MAX: usize = 1 << 24;
/// What a block costs beside its bytes: the shared pointer's counters and the vector's three words.
const OVERHEAD_BYTES: u64 = 64;
const STAMP_LEN_BYTES: usize = 16;
const COUNTER_SHARDS_COUNT: usize = 16;

/// The three lowest bits of a tag count uses: 000, 001, 011, 111. So a use more or less is one bit set or
/// cleared, and no race can carry into the hash.
const USES_MASK: u64 = 0b111;
const USES_MAX: usize = 3;
const TAG_EMPTY: u64 = 0;

/// Names a source of blocks within one cache; see [`BlockCache::register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerId(u64);

/// Names one block within one cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockKey {
    /// Whose block it is.
    pub owner: OwnerId,
    /// Where in the owner's file it begins, in bytes.
    pub offset: u64,
}

impl BlockKey {
    /// Bytes that [`BlockKey::stamp`] appends; reserve them to avoid moving the block.
    pub const STAMP_LEN_BYTES: usize = STAMP_LEN_BYTES;

    /// Appends the key to a block, which makes it fit for [`BlockCache::insert`].
    #[inline]
    pub fn stamp(&self, block: &mut Vec<u8>) {
        block.extend_from_slice(&self.owner.0.to_le_bytes());
        block.extend_from_slice(&self.offset.to_le_bytes());
    }

    #[inline]
    fn is_stamped_on(&self, block: &[u8]) -> bool {
        let Some((rest, offset)) = block.split_last_chunk::<8>() else { return false };
        let Some((_, owner)) = rest.split_last_chunk::<8>() else { return false };
        u64::from_le_bytes(*offset) == self.offset && u64::from_le_bytes(*owner) == self.owner.0
    }

    /// Multiplies and folds; the constants are the fractions of the golden ratio and of the root of three.
    #[inline]
    fn hash(&self) -> u64 {
        let mixed = fold(self.owner.0 ^ 0xBB67_AE85_84CA_A73B, 0x9E37_79B9_7F4A_7C15);
        fold(mixed ^ self.offset, 0x9E37_79B9_7F4A_7C15)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// Why a block is asked for, which decides whether that speaks for keeping it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A point read or a seek: likely to come again.
    Point,
    /// A step of a scan: likely not to.
    Scan,
}

/// A cached block, held without counting a reference. Let go of it before doing I/O.
pub struct Pinned(Held);

type Held = Guard<Option<Arc<Vec<u8>>>>;

impl Pinned {
    /// Returns the block, stamp included.
    #[inline]
    pub fn block(&self) -> &Arc<Vec<u8>> {
        self.0.as_ref().expect("get returns only ways that hold a block")
    }

    /// Takes a counted reference to the block.
    #[inline]
    pub fn into_block(self) -> Arc<Vec<u8>> {
        Guard::into_inner(self.0).expect("get returns only ways that hold a block")
    }
}

/// A cache of stamped blocks, shared between tables and, if wanted, between databases.
pub struct BlockCache {
    capacity_bytes: u64,
    sets_count: usize,
    chunks: Box<[OnceLock<Box<Chunk>>]>,
    used_bytes: AtomicU64,
    hand: AtomicU64,
    owners_count: AtomicU64,
    inserts_count: AtomicU64,
    evictions_count: AtomicU64,
    counters: Box<[Counters]>,
    process: u32,
}

/// Sets that are allocated together, each with the claim of whoever changes it.
struct Chunk {
    sets: [Set; SETS_PER_CHUNK_COUNT],
    changing: [AtomicBool; SETS_PER_CHUNK_COUNT],
}

/// Two cache lines that processors fetch as a pair.
#[repr(align(128))]
struct Set {
    tags: [AtomicU64; WAYS_COUNT],
    blocks: [ArcSwapOption<Vec<u8>>; WAYS_COUNT],
}

const _: () = assert!(size_of::<Set>() == 128);

/// A cache line of its own, so that counting does not slow other threads down.
#[derive(Default)]
#[repr(align(64))]
struct Counters {
    hits_count: AtomicU64,
    misses_count: AtomicU64,
}

/// What a cache did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Blocks asked for and found.
    pub hits_count: u64,
    /// Blocks asked for and not found.
    pub misses_count: u64,
    /// Blocks taken in.
    pub inserts_count: u64,
    /// Blocks pushed out.
    pub evictions_count: u64,
    /// Bytes held now.
    pub used_bytes: u64,
    /// Most bytes held at any time.
    pub capacity_bytes: u64,
}

impl BlockCache {
    /// Makes a cache that holds up to `capacity_bytes` of blocks; 0 turns it off. What it takes beside the blocks
    /// grows with them, up to 1 % of the capacity.
    pub fn new(capacity_bytes: u64) -> BlockCache {
        let ways_count = usize::try_from(capacity_bytes / CAPACITY_BYTES_PER_WAY).unwrap_or(usize::MAX);
        let sets_count = match capacity_bytes {
            0 => 0,
            _ => ways_count.div_ceil(WAYS_COUNT).clamp(1, SETS_COUNT_MAX),
        };
        BlockCache {
            capacity_bytes,
            sets_count,
            chunks: (0..sets_count.div_ceil(SETS_PER_CHUNK_COUNT)).map(|_| OnceLock::new()).collect(),
            used_bytes: AtomicU64::new(0),
            hand: AtomicU64::new(0),
            owners_count: AtomicU64::new(0),
            inserts_count: AtomicU64::new(0),
            evictions_count: AtomicU64::new(0),
            counters: (0..COUNTER_SHARDS_COUNT).map(|_| Counters::default()).collect(),
            process: process_id(),
        }
    }

    /// Gives out a name that no other user of this cache has or will have. Each open file takes one.
    pub fn register(&self) -> OwnerId {
        OwnerId(self.owners_count.fetch_add(1, Ordering::Relaxed))
    }

    /// Looks a block up. Never waits, never allocates.
    #[inline]
    pub fn get(&self, key: BlockKey, access: Access) -> Option<Pinned> {
        if self.sets_count == 0 {
            return None;
        }
        let hash = key.hash();
        let counters = &self.counters[counter_shard()];
        let Some(set) = self.set(self.set_of(hash)) else {
            counters.misses_count.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let Some((way, tag, block)) = set.find(key, tag_of(hash)) else {
            counters.misses_count.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        if access == Access::Point && tag & USES_MASK != USES_MASK {
            // A replacement may have come between; the bit then favours the newcomer, which harms nobody.
            let use_bit = (tag & USES_MASK) + 1;
            set.tags[way].fetch_or(use_bit, Ordering::Relaxed);
        }
        counters.hits_count.fetch_add(1, Ordering::Relaxed);
        Some(Pinned(block))
    }

    /// Takes a stamped block in if there is space to be made, and returns the block that now stands for the
    /// key: the given one, or the one that another thread put there first.
    ///
    /// # Panics
    /// If the block does not end with the stamp of `key`.
    pub fn insert(&self, key: BlockKey, block: Arc<Vec<u8>>) -> Arc<Vec<u8>> {
        assert!(key.is_stamped_on(&block), "a cached block carries its key");
        let charge = charge_of(&block);
        // In a forked process, a thread that is not there may be allocating the chunk, forever.
        if charge > self.capacity_bytes || process_id() != self.process {
            return block;
        }
        self.used_bytes.fetch_add(charge, Ordering::Relaxed);
        if !self.evict_to_capacity() {
            self.used_bytes.fetch_sub(charge, Ordering::Relaxed);
            return block;
        }
        let hash = key.hash();
        let (set_index, at) = (self.set_of(hash), self.set_of(hash) % SETS_PER_CHUNK_COUNT);
        let chunk = self.chunks[set_index / SETS_PER_CHUNK_COUNT].get_or_init(Chunk::new);
        if !chunk.begin_change(at) {
            self.used_bytes.fetch_sub(charge, Ordering::Relaxed);
            return block;
        }
        let set = &chunk.sets[at];
        if let Some((_, _, present)) = set.find(key, tag_of(hash)) {
            chunk.end_change(at);
            self.used_bytes.fetch_sub(charge, Ordering::Relaxed);
            return Guard::into_inner(present).expect("find returns only ways that hold a block");
        }
        let way = set.choose_way();
        let evicted = set.blocks[way].swap(Some(Arc::clone(&block)));
        set.tags[way].store(tag_of(hash), Ordering::Relaxed);
        chunk.end_change(at);
        self.inserts_count.fetch_add(1, Ordering::Relaxed);
        self.count_out(evicted.as_deref());
        block
    }

    /// Returns what happened so far. The figures are read one by one and may be a few calls apart.
    pub fn stats(&self) -> CacheStats {
        let sum = |of: fn(&Counters) -> &AtomicU64| {
            self.counters.iter().map(|counters| of(counters).load(Ordering::Relaxed)).sum()
        };
        CacheStats {
            hits_count: sum(|counters| &counters.hits_count),
            misses_count: sum(|counters| &counters.misses_count),
            inserts_count: self.inserts_count.load(Ordering::Relaxed),
            evictions_count: self.evictions_count.load(Ordering::Relaxed),
            used_bytes: self.used_bytes.load(Ordering::Relaxed),
            capacity_bytes: self.capacity_bytes,
        }
    }

    #[inline]
    fn set_of(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.sets_count as u128) >> 64) as usize
    }

    /// Returns a set, if its chunk is there yet.
    #[inline]
    fn set(&self, set_index: usize) -> Option<&Set> {
        let chunk = self.chunks[set_index / SETS_PER_CHUNK_COUNT].get()?;
        Some(&chunk.sets[set_index % SETS_PER_CHUNK_COUNT])
    }

    /// Walks the hand until reserved and held bytes fit; tells whether they do. One round after the last use is
    /// taken from every block, only reservations of other threads make it fail.
    fn evict_to_capacity(&self) -> bool {
        let ways_count = (self.sets_count * WAYS_COUNT) as u64;
        for _ in 0..=(USES_MAX as u64 + 2) * ways_count {
            if self.used_bytes.load(Ordering::Relaxed) <= self.capacity_bytes {
                return true;
            }
            let slot = self.hand.fetch_add(1, Ordering::Relaxed) % ways_count;
            let slot = usize::try_from(slot).expect("less than the count of ways");
            self.pass(slot / WAYS_COUNT, slot % WAYS_COUNT);
        }
        false
    }

    /// Takes one use from a way, or its block if it has none left.
    fn pass(&self, set_index: usize, way: usize) {
        let Some(chunk) = self.chunks[set_index / SETS_PER_CHUNK_COUNT].get() else { return };
        let at = set_index % SETS_PER_CHUNK_COUNT;
        let set = &chunk.sets[at];
        if set.take_use(way) || !chunk.begin_change(at) {
            return;
        }
        set.tags[way].store(TAG_EMPTY, Ordering::Relaxed);
        let evicted = set.blocks[way].swap(None);
        chunk.end_change(at);
        self.count_out(evicted.as_deref());
    }

    fn count_out(&self, evicted: Option<&Vec<u8>>) {
        if let Some(block) = evicted {
            self.used_bytes.fetch_sub(charge_of(block), Ordering::Relaxed);
            self.evictions_count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Chunk {
    fn new() -> Box<Chunk> {
        let empty_set = || Set {
            tags: [const { AtomicU64::new(TAG_EMPTY) }; WAYS_COUNT],
            blocks: [const { ArcSwapOption::const_empty() }; WAYS_COUNT],
        };
        Box::new(Chunk {
            sets: std::array::from_fn(|_| empty_set()),
            changing: std::array::from_fn(|_| AtomicBool::new(false)),
        })
    }

    /// Claims the right to change a set; fails rather than waits.
    fn begin_change(&self, at: usize) -> bool {
        !self.changing[at].swap(true, Ordering::Acquire)
    }

    fn end_change(&self, at: usize) {
        self.changing[at].store(false, Ordering::Release);
    }
}

impl Set {
    #[inline]
    fn find(&self, key: BlockKey, tag: u64) -> Option<(usize, u64, Held)> {
        for (way, seen) in self.tags.iter().enumerate() {
            let seen = seen.load(Ordering::Relaxed);
            if seen & !USES_MASK != tag {
                continue;
            }
            let block = self.blocks[way].load();
            if block.as_ref().is_some_and(|block| key.is_stamped_on(block)) {
                return Some((way, seen, block));
            }
        }
        None
    }

    /// Takes one use from a way that has one, and skips an empty one; `false` if the way is ripe.
    fn take_use(&self, way: usize) -> bool {
        let tag = self.tags[way].load(Ordering::Relaxed);
        if tag & !USES_MASK == TAG_EMPTY {
            return true;
        }
        if tag & USES_MASK == 0 {
            return false;
        }
        let use_bit = ((tag & USES_MASK) >> 1) + 1;
        self.tags[way].fetch_and(!use_bit, Ordering::Relaxed);
        true
    }

    /// Returns an empty way, or else the first that runs out of uses.
    fn choose_way(&self) -> usize {
        let is_empty = |tag: &AtomicU64| tag.load(Ordering::Relaxed) & !USES_MASK == TAG_EMPTY;
        if let Some(way) = self.tags.iter().position(is_empty) {
            return way;
        }
        // Readers may add uses all the while; in the end the first way has to go.
        let mut rounds = (0..WAYS_COUNT).cycle().take((USES_MAX + 1) * WAYS_COUNT);
        rounds.find(|&way| !self.take_use(way)).unwrap_or(0)
    }
}

thread_local! {
    static MARK: u8 = const { 0 };
}

/// Picks a counter by thread, so that threads do not fight for one cache line. Nothing but the place of a
/// count depends on it.
#[inline]
fn counter_shard() -> usize {
    let address = MARK.with(|mark| std::ptr::from_ref(mark).addr()) as u64;
    (address.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - COUNTER_SHARDS_COUNT.ilog2())) as usize
}

/// The part of the hash that a tag keeps; never that of an empty way.
#[inline]
fn tag_of(hash: u64) -> u64 {
    (hash & !USES_MASK).max(USES_MASK + 1)
}

fn charge_of(block: &Vec<u8>) -> u64 {
    block.capacity() as u64 + OVERHEAD_BYTES
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlockCache").field(&self.stats()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn block(key: BlockKey, len: usize) -> Arc<Vec<u8>> {
        let mut bytes = vec![0; len];
        bytes.reserve_exact(STAMP_LEN_BYTES);
        key.stamp(&mut bytes);
        Arc::new(bytes)
    }

    fn is_cached(cache: &BlockCache, key: BlockKey) -> bool {
        cache.get(key, Access::Scan).is_some()
    }

    #[test]
    fn a_hit_returns_the_very_block() {
        let cache = BlockCache::new(1 << 20);
        let owner = cache.register();
        let key = BlockKey { owner, offset: 4096 };
        assert!(cache.get(key, Access::Point).is_none());
        let first = cache.insert(key, block(key, 100));
        let hit = cache.get(key, Access::Point).expect("just inserted").into_block();
        assert!(Arc::ptr_eq(&first, &hit));
        let second = cache.insert(key, block(key, 100));
        assert!(Arc::ptr_eq(&first, &second), "the block that came first stays");
        let stats = cache.stats();
        assert_eq!((stats.hits_count, stats.misses_count, stats.inserts_count), (1, 1, 1));
    }

    #[test]
    fn owners_do_not_see_each_other() {
        let cache = BlockCache::new(1 << 20);
        let (a, b) = (cache.register(), cache.register());
        let key = BlockKey { owner: a, offset: 0 };
        cache.insert(key, block(key, 10));
        assert!(!is_cached(&cache, BlockKey { owner: b, offset: 0 }));
    }

    #[test]
    fn no_capacity_means_no_cache() {
        let cache = BlockCache::new(0);
        let key = BlockKey { owner: cache.register(), offset: 0 };
        cache.insert(key, block(key, 10));
        assert!(!is_cached(&cache, key));
        assert_eq!(cache.stats(), CacheStats::default());
    }

    #[test]
    fn chunks_come_with_the_blocks_that_go_into_them() {
        let chunks_count = |cache: &BlockCache| cache.chunks.iter().filter(|c| c.get().is_some()).count();
        for (capacity_bytes, chunks_count_max) in
            [(1, 1), (64 << 20, 64), (1 << 40, 1 << 18), (u64::MAX, 1 << 18)]
        {
            let cache = BlockCache::new(capacity_bytes);
            assert_eq!((cache.chunks.len(), chunks_count(&cache)), (chunks_count_max, 0));
            let owner = cache.register();
            let keys = [0, 4096, 8192].map(|offset| BlockKey { owner, offset });
            assert!(keys.iter().all(|&key| !is_cached(&cache, key)));
            keys.iter().for_each(|&key| drop(cache.insert(key, block(key, 4096))));
            assert!(chunks_count(&cache) <= 3);
            let is_kept = keys.map(|key| is_cached(&cache, key));
            assert_eq!(is_kept, [capacity_bytes > 1; 3]);
        }
    }

    #[test]
    fn a_scan_larger_than_the_cache_leaves_what_is_used() {
        let cache = BlockCache::new(4 << 20);
        let owner = cache.register();
        let hot: Vec<_> = (0..200).map(|i| BlockKey { owner, offset: i }).collect();
        for &key in &hot {
            cache.insert(key, block(key, 4096));
        }
        for round in 0..20u64 {
            for i in 0..200 {
                let key = BlockKey { owner, offset: 1_000_000 + round * 200 + i };
                cache.insert(key, block(key, 4096));
            }
            for &key in &hot {
                cache.get(key, Access::Point);
            }
        }
        let kept = hot.iter().filter(|&&key| is_cached(&cache, key)).count();
        assert!(kept >= 190, "{kept} of 200 hot blocks survived the scan");
        assert!(cache.stats().evictions_count > 2000);
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_its_capacity_nor_a_wrong_block(
            capacity in 0u64..20_000,
            calls in prop::collection::vec((0u64..40, any::<bool>()), 1..300),
        ) {
            let cache = BlockCache::new(capacity);
            let again = BlockCache::new(capacity);
            let owner = cache.register();
            let mut inserted = BTreeMap::new();
            for (offset, is_point) in calls {
                let len = 70 * usize::try_from(offset).expect("small");
                let key = BlockKey { owner, offset };
                let access = if is_point { Access::Point } else { Access::Scan };
                let found = cache.get(key, access).map(Pinned::into_block);
                if let Some(found) = &found {
                    prop_assert!(Arc::ptr_eq(found, &inserted[&offset]));
                }
                prop_assert_eq!(found.is_some(), again.get(key, access).is_some(), "it is deterministic");
                let resident = cache.insert(key, block(key, len));
                again.insert(key, block(key, len));
                inserted.insert(offset, resident);
                prop_assert!(cache.stats().used_bytes <= capacity);
                prop_assert_eq!(cache.stats(), again.stats());
            }
        }
    }
}
