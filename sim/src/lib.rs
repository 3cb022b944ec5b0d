//! The simulator of TinyLSM: a disk, a clock and a schedule that a seed decides.
//!
//! To test an application of one's own, begin with [`check()`]; the rest is what it stands on, and how TinyLSM tests itself.
//!
//! A [`tape::Tape`] makes every choice. [`schedule::Simulation`] runs code written against `tinylsm::sync` with
//! simulated threads on one OS thread, in virtual time, and hashes every event into a [`trace::Trace`]: the
//! same tape gives the same trace, bit for bit. [`disk::SimDisk`] is a disk that loses power; [`workload`] drives
//! databases on it and judges what they do.

pub mod check;
pub mod contract;
mod coroutine;
pub mod disk;
#[cfg(madsim)]
pub mod envelope;
pub mod schedule;
pub mod tape;
pub mod trace;
pub mod workload;

pub use crate::check::{Check, Outcome, Run, check};

/// The example of the simulator's page, compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/simulation.md")]
pub struct SimulatorsPage;
