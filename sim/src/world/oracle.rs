//! Judging what was seen against what must be.

use crate::world::client::{Bounds, Observation, Sight, Violation};
use crate::world::model::Model;
use std::ops::Bound;

/// Judges an observation; `is_reverse_order` tells which way its keyspace is sorted.
///
/// # Errors
/// The broken law.
pub fn judge(model: &Model, observation: &Observation, is_reverse_order: bool) -> Result<(), Violation> {
    let Observation { low, high, keyspace, sight } = observation;
    let stands = model.stands(*low, *high);
    let oracle = if low == high { "frozen view" } else { "reads see commits" };
    let is_explained = |stand: u64| match sight {
        Sight::Value(key, value) => model.get_at(&(*keyspace, key.clone()), stand) == value.as_ref(),
        Sight::Values(values) => {
            values.iter().all(|(key, value)| model.get_at(&(*keyspace, key.clone()), stand) == value.as_ref())
        }
        Sight::Pairs { bounds, is_reverse, is_complete, pairs } => {
            let content = model.content_at(*keyspace, stand);
            let mut expected: Vec<_> =
                content.into_iter().filter(|(key, _)| is_inside(key, bounds, is_reverse_order)).collect();
            if is_reverse_order != *is_reverse {
                expected.reverse();
            }
            let is_right_length =
                if *is_complete { pairs.len() == expected.len() } else { pairs.len() <= expected.len() };
            is_right_length && pairs.iter().zip(&expected).all(|(pair, wanted)| pair == wanted)
        }
    };
    if stands.iter().any(|&stand| is_explained(stand)) {
        return Ok(());
    }
    let expected = match sight {
        Sight::Value(key, _) => {
            format!("{:?}", model.get_at(&(*keyspace, key.clone()), *high).map(|v| show(v)))
        }
        Sight::Values(_) => String::new(),
        Sight::Pairs { .. } => {
            let content = model.content_at(*keyspace, *high);
            content.iter().map(|(key, value)| format!("{}={:.30} ", show(key), show(value))).collect()
        }
    };
    let message = format!(
        "between {low} and {high} (commits end at {stands:?}), keyspace {keyspace}: saw {}; at {high} it was {expected}",
        show_sight(sight)
    );
    Err(Violation { oracle, message })
}

fn is_inside(key: &[u8], bounds: &Bounds, is_reverse_order: bool) -> bool {
    let less = |a: &[u8], b: &[u8]| if is_reverse_order { a > b } else { a < b };
    let is_above = match &bounds.0 {
        Bound::Unbounded => true,
        Bound::Included(lower) => !less(key, lower),
        Bound::Excluded(lower) => less(lower, key),
    };
    let is_below = match &bounds.1 {
        Bound::Unbounded => true,
        Bound::Included(upper) => !less(upper, key),
        Bound::Excluded(upper) => less(key, upper),
    };
    is_above && is_below
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn show_sight(sight: &Sight) -> String {
    match sight {
        Sight::Value(key, value) => format!("{} = {:?}", show(key), value.as_ref().map(|v| show(v))),
        Sight::Values(values) => values
            .iter()
            .map(|(key, value)| format!("{} = {:?} ", show(key), value.as_ref().map(|v| show(v))))
            .collect(),
        Sight::Pairs { bounds, is_reverse, is_complete, pairs } => {
            let pairs: String =
                pairs.iter().map(|(key, value)| format!("{}={:.30} ", show(key), show(value))).collect();
            format!("range {bounds:?} reverse {is_reverse} complete {is_complete}: {pairs}")
        }
    }
}
