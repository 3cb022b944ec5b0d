//! Reading: one key, or a scan, over a pinned view.
//!
//! A view holds the memtables and tables of one moment and the number up to which entries exist for it. Nothing
//! here takes a lock or writes; what the view holds cannot change.

pub mod get;
pub mod level;
pub mod scan;
pub mod steps;
pub mod tree;
pub mod waste;
