//! The write-ahead log: segments of framed records.
