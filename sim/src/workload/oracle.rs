//! Judging what was seen against what must be.

use crate::workload::judge::Violation;
use crate::workload::model::{Model, Pairs};
use crate::workload::orders::Order;
use crate::workload::sight::{Bounds, Observation, Sight};
use std::cmp::Ordering;
use std::ops::Bound;

/// Judges an observation of a keyspace that is sorted in `order`.
///
/// # Errors
/// The broken invariant.
pub fn judge(model: &Model, observation: &Observation, order: Order) -> Result<(), Violation> {
    let (low, high) = (observation.low, observation.high);
    let stands = model.stands(low, high);
    if stands.iter().any(|&stand| is_explained(model, observation, order, stand)) {
        return Ok(());
    }
    let oracle = if low == high { "frozen view" } else { "reads see commits" };
    let message = format!(
        "between {low} and {high} (commits end at {stands:?}), keyspace {}\n  saw {}\n  but at {high} it was {}",
        observation.keyspace,
        observation.sight,
        show_expected(model, observation)
    );
    Err(Violation { oracle, message })
}

/// Tells whether a reader that stands at one number sees this.
fn is_explained(model: &Model, observation: &Observation, order: Order, stand: u64) -> bool {
    let keyspace = observation.keyspace;
    let is_right = |(key, value): &(Vec<u8>, Option<tinylsm::Slice>)| {
        model.get_at(keyspace, key, stand) == value.as_deref()
    };
    match &observation.sight {
        Sight::Values(values) => values.iter().all(is_right),
        Sight::Scan { bounds, front, back, is_complete } => {
            let content = model.content_at(keyspace, stand);
            let inside = content.filter(|(key, _)| is_inside(key, bounds, order));
            match order {
                Order::Bytewise => are_ends(inside, front, back, *is_complete),
                Order::Reverse => are_ends(inside.rev(), front, back, *is_complete),
                Order::LengthFirst => {
                    are_ends(order.sort(inside.collect()).into_iter(), front, back, *is_complete)
                }
            }
        }
    }
}

/// Tells whether `expected` begins with `front` and ends with `back` turned round, without an overlap, and whether
/// nothing is missing between them if they are complete.
fn are_ends<'m>(
    expected: impl DoubleEndedIterator<Item = (&'m [u8], &'m [u8])>,
    front: &Pairs,
    back: &Pairs,
    is_complete: bool,
) -> bool {
    let mut expected = expected;
    let is_next = |next: Option<(&[u8], &[u8])>, (key, value): &(tinylsm::Slice, tinylsm::Slice)| {
        next == Some((&**key, &**value))
    };
    front.iter().all(|pair| is_next(expected.next(), pair))
        && back.iter().all(|pair| is_next(expected.next_back(), pair))
        && (!is_complete || expected.next().is_none())
}

fn show_expected(model: &Model, observation: &Observation) -> String {
    let (keyspace, high) = (observation.keyspace, observation.high);
    match &observation.sight {
        Sight::Values(values) => values
            .iter()
            .map(|(key, _)| (key, model.get_at(keyspace, key, high)))
            .map(|(key, value)| format!("{} = {:?} ", show(key), value.map(show)))
            .collect(),
        Sight::Scan { .. } => model
            .content_at(keyspace, high)
            .map(|(key, value)| format!("{}={:.30} ", show(key), show(value)))
            .collect(),
    }
}

/// Tells whether a key lies between bounds.
pub fn is_inside(key: &[u8], bounds: &Bounds, order: Order) -> bool {
    let is_above = match &bounds.0 {
        Bound::Unbounded => true,
        Bound::Included(lower) => order.compare(key, lower) != Ordering::Less,
        Bound::Excluded(lower) => order.compare(key, lower) == Ordering::Greater,
    };
    let is_below = match &bounds.1 {
        Bound::Unbounded => true,
        Bound::Included(upper) => order.compare(key, upper) != Ordering::Greater,
        Bound::Excluded(upper) => order.compare(key, upper) == Ordering::Less,
    };
    is_above && is_below
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
