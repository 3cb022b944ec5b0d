//! What a reader saw, noted for the judgement at the end of an incarnation.

use crate::workload::model::Pairs;
use std::fmt;
use std::ops::Bound;
use tinylsm::Slice;

/// Bounds of a scan, in the keyspace's order.
pub type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// What a reader saw while it stood somewhere between two numbers.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Commits up to here had returned before the read began.
    pub low: u64,
    /// Nothing above this was visible when it ended.
    pub high: u64,
    /// Which keyspace.
    pub keyspace: u32,
    /// What it saw.
    pub sight: Sight,
}

/// What was seen.
#[derive(Clone, Debug)]
pub enum Sight {
    /// Values of keys, all at one moment.
    Values(Vec<(Vec<u8>, Option<Slice>)>),
    /// Pairs from both ends of a range.
    Scan {
        /// The range.
        bounds: Bounds,
        /// What the front gave.
        front: Pairs,
        /// What the back gave, the last pair first.
        back: Pairs,
        /// Whether these are all there are.
        is_complete: bool,
    },
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sight::Values(values) => values.iter().try_for_each(|(key, value)| {
                let value = value.as_ref().map(|value| value.escape_ascii().to_string());
                write!(f, "{} = {value:?} ", key.escape_ascii())
            }),
            Sight::Scan { bounds, front, back, is_complete } => {
                write!(f, "range {} to {}", show_bound(&bounds.0), show_bound(&bounds.1))?;
                f.write_str(if *is_complete { ", all of it: " } else { ", some of it: " })?;
                front.iter().try_for_each(|pair| write_pair(f, pair))?;
                f.write_str("… ")?;
                back.iter().rev().try_for_each(|pair| write_pair(f, pair))
            }
        }
    }
}

fn write_pair(f: &mut fmt::Formatter<'_>, (key, value): &(Slice, Slice)) -> fmt::Result {
    write!(f, "{}={:.30} ", key.escape_ascii(), value.escape_ascii().to_string())
}

fn show_bound(bound: &Bound<Vec<u8>>) -> String {
    match bound {
        Bound::Unbounded => "the end".to_owned(),
        Bound::Included(key) => format!("{} included", key.escape_ascii()),
        Bound::Excluded(key) => format!("{} excluded", key.escape_ascii()),
    }
}
