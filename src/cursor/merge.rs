//! Merges sorted cursors into one.
