//! Flush, pick and merge: how entries move from memtables down the levels.
//!
//! The picker is a pure function from a version to a plan; the jobs write new tables and change nothing else.
//! Installing what they made is the database's business, so a job that fails leaves only files nobody knows.

pub mod flush;
pub mod merge;
pub mod output;
pub mod picker;
pub mod plan;
pub mod range;
pub mod space;

#[cfg(test)]
mod tests;
