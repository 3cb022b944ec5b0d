//! The two dual questions: *may a reader see this entry?* and *may this entry be dropped?*
//!
//! Both are pure functions of data, side by side, because a mistake is always that one of them forgot what the
//! other does. Owns also the list of live snapshots, from which the answer to the second comes.

pub mod retain;
pub mod snapshots;
pub mod visible;
