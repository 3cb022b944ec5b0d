//! Recent writes in memory, sorted.
