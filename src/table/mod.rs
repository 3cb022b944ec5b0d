//! Sorted tables: immutable files of entries.
//!
//! Owns the format of a table (`docs/format/table.md` has the byte map), its writer, its reader and the cursor
//! over it. Promises that what was added is found again, that a missing key costs one memory access where a
//! filter is kept, and that damaged bytes give the right answer or an error with file and offset.
//!
//! ```text
//! table := data block* filter block? index block properties block footer
//! ```
//!
//! From the bytes up: [`stored`] packs and sums one block, [`block`] lays entries out in it, `block_cursor`
//! walks over it; [`filter`], [`index`], [`properties`] and [`footer`] are what follows the data; [`writer`],
//! [`reader`], [`cursor`] and [`verify`] work on the whole, as [`options`] say.
//!
//! It has not heard of levels, versions, snapshots or expiry: an entry is a key, a tag and bytes. It never
//! removes, renames or overwrites a file.

pub mod block;
pub(crate) mod block_cursor;
pub mod cursor;
pub mod filter;
pub mod footer;
pub mod index;
pub mod options;
pub mod properties;
pub mod reader;
pub mod stored;
pub mod verify;
pub mod writer;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod golden;
