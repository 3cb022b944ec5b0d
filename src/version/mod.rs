//! Which tables make up each keyspace, in memory and in the manifest.
