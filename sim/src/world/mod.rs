//! One run: a database, its clients and its accidents, decided by a tape and judged by oracles.

pub mod client;
mod damage;
mod endings;
mod images;
mod incarnation;
pub mod judge;
pub mod keys;
pub mod known_faults;
pub mod model;
mod neighbour;
mod on_disk;
pub mod operations;
pub mod oracle;
pub mod orders;
mod promises;
mod quiet;
mod reads;
mod recovery;
mod rest;
pub mod run;
pub mod scene;
pub mod seed_file;
pub mod sight;
pub mod story;
pub mod swarm;
mod tenure;
mod upkeep;
