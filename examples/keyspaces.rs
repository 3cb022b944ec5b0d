//! An index kept in step with its data: two keyspaces, one atomic batch, one snapshot over both.
//!
//! Run with `cargo run --example keyspaces`.

use tinylsm::{Db, Keyspace, KeyspaceOptions, Result, WriteBatch, WriteOptions};

/// People by number, and their numbers by city.
struct People {
    db: Db,
    by_number: Keyspace,
    by_city: Keyspace,
}

impl People {
    fn new() -> Result<People> {
        let db = Db::open_in_memory()?;
        let by_number = db.create_keyspace("people", KeyspaceOptions::default())?;
        let by_city = db.create_keyspace("people-by-city", KeyspaceOptions::default())?;
        Ok(People { db, by_number, by_city })
    }

    /// Adds a person to both keyspaces, or to none.
    fn add(&self, number: u32, name: &str, city: &str) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.put(&self.by_number, number.to_be_bytes(), name);
        batch.put(&self.by_city, [city.as_bytes(), b"/", &number.to_be_bytes()].concat(), "");
        self.db.write(&batch, WriteOptions::disk())?;
        Ok(())
    }

    /// Lists who lives in a city, by number. The snapshot keeps index and data in step while others write.
    fn living_in(&self, city: &str) -> Result<Vec<String>> {
        let snapshot = self.db.snapshot();
        let prefix = [city.as_bytes(), b"/"].concat();
        let mut names = Vec::new();
        for entry in snapshot.keyspace(&self.by_city).prefix(&prefix)? {
            let (key, _) = entry?;
            let name = snapshot.keyspace(&self.by_number).get(&key[prefix.len()..])?;
            names.extend(name.map(|name| String::from_utf8_lossy(&name).into_owned()));
        }
        Ok(names)
    }
}

fn main() -> Result<()> {
    let people = People::new()?;
    people.add(1, "Ada", "London")?;
    people.add(2, "Kurt", "Brno")?;
    people.add(3, "Alan", "London")?;
    let londoners = people.living_in("London")?;
    assert_eq!(londoners, ["Ada", "Alan"]);
    println!("in London: {}", londoners.join(", "));
    people.db.close()
}
