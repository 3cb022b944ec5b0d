//! A plain disk in memory.
