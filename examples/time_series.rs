//! A time-series store: samples of many series in a keyspace for each day, and hourly summaries of days gone by.
//!
//! Shows keys whose bytes sort as their numbers do, ranges read forwards and from the back, summaries that replace what
//! they sum up in one batch, and days that are dropped at the same cost however much is in them.
//!
//! Run with `cargo run --example time_series [DIRECTORY]`; without a directory it takes a temporary one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tinylsm::sync::RwLock;
use tinylsm::{Db, Durability, Error, ErrorKind, Keyspace, Result, WriteBatch};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// What is left of an hour.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Summary {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Summary {
    const NOTHING: Summary = Summary { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };

    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    fn encode(&self) -> [u8; 32] {
        let fields = [self.count, self.sum.to_bits(), self.min.to_bits(), self.max.to_bits()];
        let mut bytes = [0; 32];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Summary> {
        let (fields, _) = bytes.as_chunks();
        let [count, sum, min, max] = fields else { return Err(damaged("summary")) };
        let float = |bytes| f64::from_be_bytes(bytes);
        Ok(Summary {
            count: u64::from_be_bytes(*count),
            sum: float(*sum),
            min: float(*min),
            max: float(*max),
        })
    }
}

struct TimeSeries {
    db: Db,
    /// Summaries by series and first second of the hour.
    hourly: Keyspace,
    /// Shared by those who add samples, held alone by whoever drops a day: no sample may come in between.
    adding: RwLock<()>,
}

impl TimeSeries {
    fn open(directory: &Path) -> Result<TimeSeries> {
        let db = Db::open(directory)?;
        let hourly = db.open_keyspace("hourly", Default::default())?;
        Ok(TimeSeries { db, hourly, adding: RwLock::new(()) })
    }

    /// Adds samples (series, second, value), all or none. They survive the end of the process; the power may take the last ones.
    fn add(&self, samples: &[(&str, u64, f64)]) -> Result<()> {
        let _adding = self.adding.read();
        let mut batch = WriteBatch::new();
        for &(series, second, value) in samples {
            let day = self.db.open_keyspace(&day_name(second / DAY), Default::default())?;
            batch.put(&day, key(series, second), value.to_be_bytes());
        }
        self.db.write(batch, Durability::Os)?;
        Ok(())
    }

    /// Gives the samples of some seconds, by time, from either end. All days are read as of one moment.
    fn range(
        &self,
        series: &str,
        seconds: Range<u64>,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(u64, f64)>> + use<>> {
        let snapshot = self.db.snapshot();
        let mut parts = Vec::new();
        for (day, samples) in self.days()? {
            if day * DAY < seconds.end && seconds.start < (day + 1) * DAY {
                let keys = key(series, seconds.start)..key(series, seconds.end);
                parts.push(snapshot.keyspace(&samples).range(keys)?);
            }
        }
        Ok(parts.into_iter().flatten().map(|entry| {
            let (key, value) = entry?;
            Ok((second_of(&key)?, value_of(&value)?))
        }))
    }

    /// Returns the newest sample.
    fn latest(&self, series: &str) -> Result<Option<(u64, f64)>> {
        for (_, samples) in self.days()?.into_iter().rev() {
            if let Some(entry) = samples.prefix(series_prefix(series))?.next_back() {
                let (key, value) = entry?;
                return Ok(Some((second_of(&key)?, value_of(&value)?)));
            }
        }
        Ok(None)
    }

    /// Gives the summaries of the hours that begin in some seconds.
    fn hours(&self, series: &str, seconds: Range<u64>) -> Result<Vec<(u64, Summary)>> {
        let entries = self.hourly.range(key(series, seconds.start)..key(series, seconds.end))?;
        entries
            .map(|entry| {
                let (key, value) = entry?;
                Ok((second_of(&key)?, Summary::decode(&value)?))
            })
            .collect()
    }

    /// Replaces the samples of a day by summaries of its hours, durably.
    ///
    /// One batch writes the summaries and deletes what they sum up, so that no sample is counted twice, whenever the process
    /// is killed and whatever is added late. A batch takes 128 MiB, some millions of samples; more would go series by series.
    fn sum_up(&self, day: u64) -> Result<()> {
        let _adding = self.adding.write();
        let samples = self.db.open_keyspace(&day_name(day), Default::default())?;
        let mut batch = WriteBatch::new();
        let mut summaries: BTreeMap<Vec<u8>, Summary> = BTreeMap::new();
        for entry in samples.iter()? {
            let (sample, value) = entry?;
            let hour = hour_of(&sample)?;
            if !summaries.contains_key(&hour) {
                let earlier = self.hourly.get(&hour)?.map(|bytes| Summary::decode(&bytes)).transpose()?;
                summaries.insert(hour.clone(), earlier.unwrap_or(Summary::NOTHING));
            }
            if let Some(summary) = summaries.get_mut(&hour) {
                summary.add(value_of(&value)?);
            }
            batch.delete(&samples, sample);
        }
        for (hour, summary) in &summaries {
            batch.put(&self.hourly, hour, summary.encode());
        }
        // Dropping a keyspace makes durable what was committed before, so that this need not.
        self.db.write(batch, Durability::None)?;
        self.db.drop_keyspace(&day_name(day))
    }

    /// Drops the samples of all days before one, unsummed.
    fn drop_before(&self, day: u64) -> Result<()> {
        let _adding = self.adding.write();
        for (old, samples) in self.days()? {
            if old < day {
                self.db.drop_keyspace(&samples.name())?;
            }
        }
        Ok(())
    }

    /// Removes everything.
    fn clear(&self) -> Result<()> {
        self.drop_before(u64::MAX)?;
        self.hourly.clear()?;
        Ok(())
    }

    /// Lists the days that have samples, oldest first.
    fn days(&self) -> Result<Vec<(u64, Keyspace)>> {
        let mut days = Vec::new();
        for name in self.db.keyspaces() {
            let Some(day) = name.strip_prefix("day-").and_then(|number| number.parse().ok()) else {
                continue;
            };
            match self.db.keyspace(&name) {
                Ok(samples) => days.push((day, samples)),
                // Somebody dropped it meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        days.sort_by_key(|(day, _)| *day);
        Ok(days)
    }
}

fn day_name(day: u64) -> String {
    format!("day-{day}")
}

/// A series' name and a zero byte, which no name has: so no series' keys lie among another's.
fn series_prefix(series: &str) -> Vec<u8> {
    assert!(!series.contains('\0'), "a series' name has no zero byte");
    [series.as_bytes(), b"\0"].concat()
}

/// The second is big-endian, so that keys sort by time.
fn key(series: &str, second: u64) -> Vec<u8> {
    [series_prefix(series).as_slice(), &second.to_be_bytes()].concat()
}

fn second_of(key: &[u8]) -> Result<u64> {
    key.last_chunk().map(|second| u64::from_be_bytes(*second)).ok_or_else(|| damaged("key"))
}

fn value_of(bytes: &[u8]) -> Result<f64> {
    bytes.try_into().map(f64::from_be_bytes).map_err(|_| damaged("sample"))
}

/// Returns the key of the hour that a sample is in.
fn hour_of(sample: &[u8]) -> Result<Vec<u8>> {
    let second = second_of(sample)?;
    let series = &sample[..sample.len() - size_of::<u64>()];
    Ok([series, &(second - second % HOUR).to_be_bytes()].concat())
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corruption, format!("what is stored is no {what}"))
}

fn main() -> Result<()> {
    let temporary = tempfile::tempdir().expect("a temporary directory can be made");
    let directory = std::env::args_os().nth(1).map_or(temporary.path().to_owned(), PathBuf::from);

    let store = TimeSeries::open(&directory)?;
    let (days_count, hours_count) = (store.days()?.len(), store.hourly.len()?);
    if days_count > 0 || hours_count > 0 {
        println!("left from before, and removed now: days {days_count}, hours {hours_count}");
        store.clear()?;
    }

    // Three days, a sample a minute: the minute's number, and its negative.
    const FIRST: u64 = 20_000;
    for minute in 0..3 * DAY / 60 {
        let second = FIRST * DAY + minute * 60;
        let value = f64::from(u32::try_from(minute).expect("three days are few minutes"));
        store.add(&[("indoors", second, value), ("outdoors", second, -value)])?;
    }

    let midnight = (FIRST + 1) * DAY;
    let around: Vec<f64> =
        store.range("indoors", midnight - 120..midnight + 120)?.map(|s| Ok(s?.1)).collect::<Result<_>>()?;
    assert_eq!(around, [1438.0, 1439.0, 1440.0, 1441.0]);
    let newest: Vec<f64> =
        store.range("outdoors", 0..u64::MAX)?.rev().take(2).map(|s| Ok(s?.1)).collect::<Result<_>>()?;
    assert_eq!(newest, [-4319.0, -4318.0]);
    assert_eq!(store.latest("indoors")?, Some(((FIRST + 3) * DAY - 60, 4319.0)));
    assert_eq!(store.latest("nowhere")?, None);

    store.sum_up(FIRST)?;
    assert_eq!(store.range("indoors", FIRST * DAY..midnight)?.count(), 0);
    let hours = store.hours("indoors", FIRST * DAY..midnight)?;
    assert_eq!(hours.len(), 24);
    assert_eq!(hours[1], (FIRST * DAY + HOUR, Summary { count: 60, sum: 5370.0, min: 60.0, max: 119.0 }));

    // A sample that comes late is added to the summary that is there.
    store.add(&[("indoors", FIRST * DAY + HOUR, 1000.0)])?;
    store.sum_up(FIRST)?;
    let hours = store.hours("indoors", FIRST * DAY..midnight)?;
    assert_eq!(hours[1].1, Summary { count: 61, sum: 6370.0, min: 60.0, max: 1000.0 });

    store.drop_before(FIRST + 2)?;
    store.db.close()?;

    let store = TimeSeries::open(&directory)?;
    assert_eq!(store.days()?.len(), 1);
    assert_eq!(store.range("outdoors", 0..u64::MAX)?.count(), 24 * 60);
    println!("days left: {}, hours: {}", store.days()?.len(), store.hourly.len()?);
    store.db.close()
}
