//! Which tables make up each keyspace: in memory as immutable versions, on disk as the manifest.
//!
//! Owns version edits, the catalog they add up to, the manifest files and the pointer `CURRENT`. Promises that
//! after any crash the pointer leads to a manifest whose edits are exactly the installed ones. Never opens a
//! table: a version carries whatever handle its users give it.

pub mod catalog;
pub mod edit;
#[cfg(test)]
mod golden;
pub mod levels;
pub mod manifest;
pub mod pointer;
