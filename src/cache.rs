//! The block cache: bounded by bytes, read without a lock.
