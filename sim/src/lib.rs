//! The simulator of TinyLSM: a disk, a clock and a schedule that a seed decides.
//!
//! A [`tape::Tape`] makes every choice. [`schedule::World`] runs code written against `tinylsm::sync` with
//! simulated threads on one OS thread, in virtual time, and hashes every event into a [`trace::Trace`]: the
//! same tape gives the same trace, bit for bit. [`disk::SimDisk`] is a disk that loses power; [`world`] tells the
//! stories of databases on it and judges them.

mod coroutine;
pub mod disk;
#[cfg(madsim)]
pub mod envelope;
pub mod schedule;
pub mod tape;
pub mod trace;
pub mod world;

/// The example of the simulator's page, compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/simulation.md")]
pub struct SimulatorsPage;
