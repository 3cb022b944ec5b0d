//! The real disk and clock.
