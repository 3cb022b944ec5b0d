//! The lowest layer: the words that every other module uses.
//!
//! Owns ids, sequence numbers, internal keys, comparators, time, limits, the value type [`slice::Slice`] and
//! the one error type. Knows no disk, no thread and no file format; imports nothing of the crate.

pub mod comparator;
pub mod contain;
pub mod error;
pub mod hash;
pub mod ids;
pub mod key;
pub mod limits;
pub mod seq;
pub mod slice;
pub mod time;
