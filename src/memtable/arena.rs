//! Where the bytes of memtable entries lie: chunks that many entries share.
//!
//! An entry of its own allocation would cost two calls of the allocator and some fifty bytes of bookkeeping, and its
//! end a call from another thread. Here an entry costs its bytes, and a chunk goes at once when the last entry or
//! [`crate::base::slice::Slice`] in it does.

use bytes::{Bytes, BytesMut};

/// Longest chunk: what a value that a reader keeps can hold on to.
const CHUNK_LEN_BYTES_MAX: usize = 64 << 10;
const CHUNK_LEN_BYTES_MIN: usize = 256;
/// The first chunk is so long, and each one twice as long as the one before: few entries take little memory.
const CHUNK_LEN_BYTES_FIRST: usize = 4 << 10;
/// A memtable has at least so many chunks, so that the unused end of the last one is a small part of it.
const CHUNKS_COUNT_MIN: usize = 16;
/// An entry longer than this part of the longest chunk gets memory of its own, so that none of those wastes more than that.
const CHUNK_PART_MAX: usize = 16;

/// What one entry costs besides its bytes: a node of 64 bytes, with a tower of two on average, as the allocator rounds
/// it up.
pub(in crate::memtable) const NODE_LEN_BYTES: u64 = 112;

/// Takes the bytes of entries; belongs to the one writer.
pub struct Arena {
    chunk: BytesMut,
    /// Length of the next chunk.
    chunk_len_bytes: usize,
    chunk_len_bytes_max: usize,
    charged_bytes: u64,
}

impl Arena {
    /// Makes an arena for memtables that will take about `memtable_bytes` together. Allocates nothing yet.
    pub fn new(memtable_bytes: usize) -> Arena {
        let chunk_len_bytes_max =
            (memtable_bytes / CHUNKS_COUNT_MIN).clamp(CHUNK_LEN_BYTES_MIN, CHUNK_LEN_BYTES_MAX);
        let chunk_len_bytes = CHUNK_LEN_BYTES_FIRST.min(chunk_len_bytes_max);
        Arena { chunk: BytesMut::new(), chunk_len_bytes, chunk_len_bytes_max, charged_bytes: 0 }
    }

    /// Copies key and value, side by side.
    pub(in crate::memtable) fn store(&mut self, key: &[u8], value: &[u8]) -> Bytes {
        let len = key.len() + value.len();
        self.charged_bytes += charge_of(key, value);
        if len > self.chunk_len_bytes_max / CHUNK_PART_MAX {
            return Bytes::from([key, value].concat());
        }
        if self.chunk.capacity() < len {
            self.chunk = BytesMut::with_capacity(self.chunk_len_bytes.max(len));
            self.chunk_len_bytes = (2 * self.chunk_len_bytes).min(self.chunk_len_bytes_max);
        }
        self.chunk.extend_from_slice(key);
        self.chunk.extend_from_slice(value);
        self.chunk.split().freeze()
    }

    /// Returns about how much memory all entries so far take, in bytes.
    pub fn charged_bytes(&self) -> u64 {
        self.charged_bytes
    }
}

/// Returns about how much memory an entry takes, in bytes.
pub(in crate::memtable) fn charge_of(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + NODE_LEN_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_lie_side_by_side_and_long_ones_alone() {
        let mut arena = Arena::new(16 << 10);
        let first = arena.store(b"key", b"value");
        let second = arena.store(b"k", b"");
        assert_eq!((&first[..], &second[..]), (&b"keyvalue"[..], &b"k"[..]));
        assert_eq!(first.as_ptr_range().end, second.as_ptr());
        let long = arena.store(b"k", &[7; 1000]);
        assert_eq!(long.len(), 1001);
        assert_eq!(arena.store(b"x", b"").as_ptr(), second.as_ptr_range().end, "the chunk goes on");
        let kept: Vec<Bytes> = (0..100u8).map(|byte| arena.store(&[byte], &[byte; 99])).collect();
        assert!(kept.iter().zip(0..100u8).all(|(bytes, byte)| bytes.iter().all(|&each| each == byte)));
    }
}
