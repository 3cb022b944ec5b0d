//! Users by number, an index of them by city, and a bug: which write comes first when a user moves?
//!
//! `cargo run -p tinylsm-sim --example secondary_index` runs the application once on a disk in memory;
//! `cargo run -p tinylsm-sim --example secondary_index -- check` looks for a seed at which a crash leaves it broken, and
//! `… -- check-mended` finds none when both writes are one batch.

use std::collections::BTreeMap;
use std::process::ExitCode;
use tinylsm::{Db, DbBuilder, ErrorKind, Keyspace, KeyspaceOptions, Result, WriteBatch, WriteOptions};
use tinylsm_sim::check::Report;
use tinylsm_sim::{Check, Run};

/// How a user's row and index entry are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// One after the other: the planted bug.
    Apart,
    /// In one batch.
    Together,
}

/// The application.
struct Users {
    db: Db,
    by_number: Keyspace,
    by_city: Keyspace,
    writes: Writes,
}

impl Users {
    fn open(builder: DbBuilder, writes: Writes) -> Result<Users> {
        let db = builder.open()?;
        let keyspace = |name| match db.keyspace(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                db.create_keyspace(name, KeyspaceOptions::small())
            }
            found => found,
        };
        let (by_number, by_city) = (keyspace("users")?, keyspace("users-by-city")?);
        Ok(Users { db, by_number, by_city, writes })
    }

    /// Moves a user, who may be new, to a city.
    fn move_to(&self, number: u64, city: &str) -> Result<()> {
        let row = format!("{number}");
        let old = self.by_number.get(&row)?;
        if self.writes == Writes::Apart {
            if let Some(old) = old {
                self.by_city.delete(entry(&old, number))?;
            }
            self.by_number.put(row, city)?;
            self.by_city.put(entry(city.as_bytes(), number), "")?;
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        if let Some(old) = old {
            batch.delete(&self.by_city, entry(&old, number));
        }
        batch.put(&self.by_number, row, city);
        batch.put(&self.by_city, entry(city.as_bytes(), number), "");
        self.db.write(&batch, WriteOptions::default())?;
        Ok(())
    }

    /// Returns who lives where, by the rows and by the index.
    fn both_ways(&self) -> Result<(BTreeMap<u64, String>, BTreeMap<u64, String>)> {
        let snapshot = self.db.snapshot();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let number = |text: &str| text.parse().unwrap_or(u64::MAX);
        let mut by_row = BTreeMap::new();
        for pair in snapshot.keyspace(&self.by_number).iter()? {
            let (key, city) = pair?;
            by_row.insert(number(&text(&key)), text(&city));
        }
        let mut by_index = BTreeMap::new();
        for pair in snapshot.keyspace(&self.by_city).iter()? {
            let key = text(&pair?.0);
            if let Some((city, user)) = key.split_once('/') {
                by_index.insert(number(user), city.to_owned());
            }
        }
        Ok((by_row, by_index))
    }
}

fn entry(city: &[u8], number: u64) -> Vec<u8> {
    [city, b"/", number.to_string().as_bytes()].concat()
}

/// The test: whatever happens to the process, the index says what the rows say.
fn index_agrees_with_rows(run: &Run, writes: Writes) -> Result<()> {
    for _ in 0..3 {
        run.incarnation(|| -> Result<()> {
            let users = Users::open(run.db("/users"), writes)?;
            for _ in 0..10 {
                let (number, city) = (run.below(5), run.pick(&["Brno", "London", "Turin"]));
                run.note(format!("user {number} moves to {city}"));
                users.move_to(number, city)?;
            }
            Ok(())
        });
        let users = Users::open(run.db("/users"), writes)?;
        let (by_row, by_index) = users.both_ways()?;
        run.note(format!("rows {by_row:?}, index {by_index:?}"));
        run.always("the index says what the rows say", by_row == by_index);
    }
    Ok(())
}

/// Checks 500 seeds, or as many as it takes. A test would call `tinylsm_sim::check(0..500, …)`, which panics with the report.
pub fn look_for_a_seed(writes: Writes) -> Report {
    Check::new(0..500).run(move |run| index_agrees_with_rows(run, writes))
}

fn main() -> ExitCode {
    let writes = match std::env::args().nth(1).as_deref() {
        Some("check") => Writes::Apart,
        Some("check-mended") => Writes::Together,
        _ => return use_once(),
    };
    let report = look_for_a_seed(writes);
    println!("{report}");
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn use_once() -> ExitCode {
    let run = || -> Result<()> {
        let disk = std::sync::Arc::new(tinylsm::vfs::mem::MemVfs::new());
        let users = Users::open(Db::builder("/users").vfs(disk), Writes::Together)?;
        users.move_to(1, "London")?;
        users.move_to(1, "Turin")?;
        let (by_row, by_index) = users.both_ways()?;
        println!("rows {by_row:?}, index {by_index:?}");
        users.db.close()
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
