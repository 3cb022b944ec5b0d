//! One world: a database, its clients and its accidents, decided by a tape and judged by oracles.

pub mod client;
pub mod model;
pub mod oracle;
mod reads;
pub mod run;
pub mod scene;
pub mod seed_file;
pub mod sight;
pub mod story;
pub mod swarm;
