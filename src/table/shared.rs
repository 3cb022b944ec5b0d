//! What open tables share: the blocks that lie in memory, and the files that are open.
//!
//! Owns nothing but the pair. One database has one of its own, or several databases of a process have one together:
//! then both bounds hold for all of them, and what one leaves unused another can use. Their blocks and files never
//! mix, since every open table takes a name of its own from the cache it belongs to.

use crate::base::error::{Error, ErrorKind, Result};
use crate::cache::BlockCache;
use crate::sync::process_id;
use crate::table::descriptors::Descriptors;

/// Memory and descriptors for reading tables, to be shared.
///
/// A child process that was forked off cannot open databases with its copy, which gives `Closed`; dropping it does nothing.
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
    process: u32,
}

impl Cache {
    /// Makes a cache that holds up to `blocks_bytes` of unpacked blocks and keeps up to `open_files_max` tables open.
    /// Takes a few kilobytes until something is read.
    pub fn new(blocks_bytes: u64, open_files_max: usize) -> Cache {
        Cache {
            blocks: BlockCache::new(blocks_bytes),
            descriptors: Descriptors::new(open_files_max),
            process: process_id(),
        }
    }

    /// Fails in a process that was forked off the one that made the cache: a thread that is not there may have been
    /// changing it.
    ///
    /// # Errors
    /// `Closed`.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.process == process_id() {
            return Ok(());
        }
        let message = "this cache was made by the process that this one was forked from; make a new one";
        Err(Error::new(ErrorKind::Closed, message))
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
