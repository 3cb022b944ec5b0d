//! What open tables share: the blocks that lie in memory, and the files that are open.
//!
//! Owns nothing but the pair. One database has one of its own, or several databases of a process have one together:
//! then both bounds hold for all of them, and what one leaves unused another can use. Their blocks and files never
//! mix, since every open table takes a name of its own from the cache it belongs to.

use crate::cache::BlockCache;
use crate::table::descriptors::Descriptors;

/// Memory and descriptors for reading tables, to be shared.
///
/// ```
/// use tinylsm::Cache;
/// let cache = Cache::new(256 << 20, 1000);
/// assert_eq!(cache.blocks().stats().capacity_bytes, 256 << 20);
/// assert_eq!(cache.descriptors().stats().open_count, 0);
/// ```
#[derive(Debug)]
pub struct Cache {
    blocks: BlockCache,
    descriptors: Descriptors,
}

impl Cache {
    /// Makes a cache that holds up to `blocks_bytes` of unpacked blocks and keeps up to `open_files_max` tables open.
    /// Takes a few kilobytes until something is read.
    pub fn new(blocks_bytes: u64, open_files_max: usize) -> Cache {
        Cache { blocks: BlockCache::new(blocks_bytes), descriptors: Descriptors::new(open_files_max) }
    }

    /// Returns the blocks.
    #[inline]
    pub fn blocks(&self) -> &BlockCache {
        &self.blocks
    }

    /// Returns the open files.
    #[inline]
    pub fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }
}
