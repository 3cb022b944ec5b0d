//! Dumps and checks any file of a database.
