//! Sorted tables: immutable files of entries.
