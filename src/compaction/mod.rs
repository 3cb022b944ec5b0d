//! Flush, pick and merge.
