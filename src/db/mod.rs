//! The database: handles, state, recovery, background jobs.
