//! The orders of keys that runs use: built in, defined by a user, and a comparator that panics once.

use parking_lot::Mutex;
use std::cmp::Ordering;
use std::sync::Arc;
use tinylsm::base::comparator::BYTEWISE_NAME;
use tinylsm::{Comparator, DbBuilder, KeyspaceOptions, ReverseBytewise};

/// What a comparator of a run says when it panics on purpose.
pub const PANIC_MESSAGE: &str = "a comparator panics on purpose";

/// How the keys of a keyspace are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By their bytes.
    Bytewise,
    /// By their bytes, backwards.
    Reverse,
    /// Short keys first: an order that only a user's comparator has.
    LengthFirst,
}

impl Order {
    /// Returns the order that a keyspace was created with.
    pub fn of(options: &KeyspaceOptions) -> Order {
        let name = options.comparator.as_str();
        [Order::Bytewise, Order::Reverse, Order::LengthFirst]
            .into_iter()
            .find(|order| order.name() == name)
            .expect("runs create keyspaces in these orders only")
    }

    /// Returns the name under which it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Order::Bytewise => BYTEWISE_NAME,
            Order::Reverse => "tinylsm.reverse-bytewise",
            Order::LengthFirst => "run.length-first",
        }
    }

    /// Compares two keys.
    pub fn compare(self, a: &[u8], b: &[u8]) -> Ordering {
        match self {
            Order::Bytewise => a.cmp(b),
            Order::Reverse => b.cmp(a),
            Order::LengthFirst => (a.len(), a).cmp(&(b.len(), b)),
        }
    }

    /// Sorts pairs that come in bytewise order.
    pub fn sort<V>(self, mut pairs: Vec<(&[u8], V)>) -> Vec<(&[u8], V)> {
        match self {
            Order::Bytewise => {}
            Order::Reverse => pairs.reverse(),
            Order::LengthFirst => pairs.sort_by(|a, b| self.compare(a.0, b.0)),
        }
        pairs
    }
}

/// What the comparators of a run share: when the next comparison panics.
#[derive(Clone, Debug, Default)]
pub struct Fuse(Arc<Mutex<Burning>>);

#[derive(Debug, Default)]
struct Burning {
    /// Comparisons left before the one that panics; `None` if none will.
    left: Option<u64>,
    /// Whether every later one panics too.
    goes_on: bool,
    panics_count: u64,
}

impl Fuse {
    /// Lets the comparison panic that comes after so many others.
    pub fn light(&self, comparisons: u64) {
        self.0.lock().left = Some(comparisons);
    }

    /// Lets every comparison panic from now on.
    pub fn keep_burning(&self) {
        let mut burning = self.0.lock();
        (burning.left, burning.goes_on) = (Some(0), true);
    }

    /// Lets no comparison panic.
    pub fn put_out(&self) {
        let mut burning = self.0.lock();
        (burning.left, burning.goes_on) = (None, false);
    }

    /// Returns how often a comparison has panicked.
    pub fn panics_count(&self) -> u64 {
        self.0.lock().panics_count
    }

    fn burn(&self) {
        let mut burning = self.0.lock();
        let Some(left) = burning.left else { return };
        burning.left = left.checked_sub(1);
        if burning.left.is_none() {
            burning.left = burning.goes_on.then_some(0);
            burning.panics_count += 1;
            drop(burning);
            panic!("{PANIC_MESSAGE}");
        }
    }

    /// Makes the comparators of a run known to a builder.
    pub fn attach(&self, builder: DbBuilder) -> DbBuilder {
        builder.comparator(self.comparator(Order::LengthFirst)).comparator(self.comparator(Order::Reverse))
    }

    /// Returns the comparator of an order, which panics when the fuse says so.
    pub fn comparator(&self, order: Order) -> Arc<dyn Comparator> {
        Arc::new(UserOrder { order, fuse: self.clone() })
    }
}

/// A comparator as a user writes one.
struct UserOrder {
    order: Order,
    fuse: Fuse,
}

impl Comparator for UserOrder {
    fn name(&self) -> &str {
        self.order.name()
    }

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        self.fuse.burn();
        self.order.compare(a, b)
    }

    fn sort_prefix(&self, key: &[u8]) -> u128 {
        match self.order {
            Order::Reverse => ReverseBytewise.sort_prefix(key),
            _ => (key.len() as u128) << 64,
        }
    }
}
