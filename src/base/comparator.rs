//! How user keys are ordered.
//!
//! Every place that orders keys goes through [`KeyOrder`]: bytewise is one branch and a memcmp, anything else
//! a call through [`Comparator`]. The comparator's name is stored with its keyspace and checked at open.

use crate::base::contain::words_of;
use arc_swap::ArcSwapOption;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// A total order over user keys.
///
/// Rules: the order is total and never changes for a given [`Comparator::name`]; `Equal` means that the bytes
/// are equal. A comparator that breaks them makes reads miss keys.
///
/// One that panics makes the call that met it fail with `Internal`, and so fail merges of its keyspace; other keyspaces
/// are read and merged as ever. Writes are held up in all of them: one flush writes the recent writes of every keyspace,
/// and while it fails for the sake of one, memory fills up until puts and deletes to any keyspace get `Busy`. Nothing is
/// lost. Once the comparator answers again it goes on by itself within minutes, or at once with `Db::resume`.
pub trait Comparator: Send + Sync + 'static {
    /// Names the order forever; stored with the keyspace, at most 255 bytes.
    fn name(&self) -> &str;

    /// Compares two user keys.
    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering;

    /// Maps a key to a number that never contradicts [`Comparator::compare`]: `a < b` implies
    /// `sort_prefix(a) <= sort_prefix(b)`. The memtable compares these first; 0 for all keys is always right.
    fn sort_prefix(&self, key: &[u8]) -> u128 {
        let _ = key;
        0
    }

    /// Appends to `out` a short key `s` with `a <= s < b`, given `a < b`. Index blocks store it. The default
    /// copies `a`.
    fn separator(&self, a: &[u8], b: &[u8], out: &mut Vec<u8>) {
        let _ = b;
        out.extend_from_slice(a);
    }
}

/// The name under which bytewise order is stored.
pub const BYTEWISE_NAME: &str = "tinylsm.bytewise";

/// The name under which [`ReverseBytewise`] is stored.
pub const REVERSE_BYTEWISE_NAME: &str = "tinylsm.reverse-bytewise";

/// Reads the first 16 bytes of a key as a big-endian number, zero-padded.
#[inline]
pub fn bytewise_prefix(key: &[u8]) -> u128 {
    if let Some(head) = key.first_chunk::<16>() {
        return u128::from_be_bytes(*head);
    }
    let mut head = [0u8; 16];
    head[..key.len()].copy_from_slice(key);
    u128::from_be_bytes(head)
}

/// The order of one keyspace, as the engine carries it around.
#[derive(Clone)]
pub enum KeyOrder {
    /// Plain byte order: the fast path.
    Bytewise,
    /// Any other order.
    Custom(Arc<CustomOrder>),
}

/// A comparator, which may be the caller's and panic: what it panics with then names the keyspace that it orders.
pub struct CustomOrder {
    comparator: Arc<dyn Comparator>,
    keyspace: ArcSwapOption<String>,
}

impl CustomOrder {
    fn ask<'a, T>(&'a self, ask: impl FnOnce(&'a dyn Comparator) -> T) -> T {
        catch_unwind(AssertUnwindSafe(|| ask(self.comparator.as_ref()))).unwrap_or_else(|payload| {
            match (self.keyspace.load().as_deref(), words_of(payload.as_ref())) {
                (Some(keyspace), Some(words)) => {
                    resume_unwind(Box::new(format!("the comparator of keyspace {keyspace:?} says: {words}")))
                }
                // Without words it may be no panic but the end of a simulated thread.
                _ => resume_unwind(payload),
            }
        })
    }
}

impl KeyOrder {
    /// Returns the order of a comparator.
    pub fn custom(comparator: Arc<dyn Comparator>) -> KeyOrder {
        KeyOrder::Custom(Arc::new(CustomOrder { comparator, keyspace: ArcSwapOption::empty() }))
    }

    /// Says which keyspace it orders, for the words of a panic; here and in all clones.
    pub(crate) fn note_keyspace(&self, name: &str) {
        if let KeyOrder::Custom(order) = self {
            order.keyspace.store(Some(Arc::new(name.to_owned())));
        }
    }

    /// Compares two user keys.
    #[inline]
    pub fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        match self {
            KeyOrder::Bytewise => a.cmp(b),
            KeyOrder::Custom(order) => order.ask(|comparator| comparator.compare(a, b)),
        }
    }

    /// Returns a number that never contradicts [`KeyOrder::compare`].
    #[inline]
    pub fn sort_prefix(&self, key: &[u8]) -> u128 {
        match self {
            KeyOrder::Bytewise => bytewise_prefix(key),
            KeyOrder::Custom(order) => order.ask(|comparator| comparator.sort_prefix(key)),
        }
    }

    /// Appends a short key at or above `a` and below `b` to `out`.
    pub fn separator(&self, a: &[u8], b: &[u8], out: &mut Vec<u8>) {
        match self {
            KeyOrder::Bytewise => bytewise_separator(a, b, out),
            KeyOrder::Custom(order) => order.ask(|comparator| comparator.separator(a, b, out)),
        }
    }

    /// Tells whether no key can lie between two bounds: they are one key that one of them excludes, or the lower one comes
    /// after the upper one.
    pub fn is_range_empty(&self, lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>) -> bool {
        let (Some(first), Some(last)) = (key_of(lower), key_of(upper)) else { return false };
        match self.compare(first, last) {
            Ordering::Less => false,
            Ordering::Equal => !matches!((lower, upper), (Bound::Included(_), Bound::Included(_))),
            Ordering::Greater => true,
        }
    }

    /// Returns the stored name of the order.
    pub fn name(&self) -> &str {
        match self {
            KeyOrder::Bytewise => BYTEWISE_NAME,
            KeyOrder::Custom(order) => order.ask(Comparator::name),
        }
    }

    /// Tells whether keys with a common prefix lie side by side.
    pub fn is_bytewise(&self) -> bool {
        matches!(self, KeyOrder::Bytewise)
    }
}

impl fmt::Debug for KeyOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn key_of(bound: &Bound<Vec<u8>>) -> Option<&[u8]> {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => Some(key),
        Bound::Unbounded => None,
    }
}

/// Appends the shortest key `s` with `a <= s < b` that this cheap rule finds (LevelDB's
/// `FindShortestSeparator`).
fn bytewise_separator(a: &[u8], b: &[u8], out: &mut Vec<u8>) {
    let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    if let (Some(&x), Some(&y)) = (a.get(common), b.get(common))
        && x < 0xFF
        && x + 1 < y
    {
        out.extend_from_slice(&a[..common]);
        out.push(x + 1);
    } else {
        out.extend_from_slice(a);
    }
}

/// Bytewise order, backwards: the largest keys come first. Every database knows it by its name,
/// `tinylsm.reverse-bytewise`, which [`KeyspaceOptions::comparator`] takes.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// use tinylsm::{Comparator, Db, KeyspaceOptions, ReverseBytewise};
/// let db = Db::open_in_memory()?;
/// let comparator = ReverseBytewise.name().to_owned();
/// let newest_first =
///     db.create_keyspace("log", KeyspaceOptions::default().comparator(comparator))?;
/// newest_first.put("2026-01", "old")?;
/// newest_first.put("2026-02", "new")?;
/// let (_, value) = newest_first.iter()?.next().expect("there are two")?;
/// assert_eq!(value, "new");
/// # Ok(())
/// # }
/// ```
///
/// [`KeyspaceOptions::comparator`]: crate::KeyspaceOptions::comparator
#[derive(Clone, Copy, Debug, Default)]
pub struct ReverseBytewise;

impl Comparator for ReverseBytewise {
    fn name(&self) -> &str {
        REVERSE_BYTEWISE_NAME
    }

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        b.cmp(a)
    }

    fn sort_prefix(&self, key: &[u8]) -> u128 {
        !bytewise_prefix(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sort_prefix_never_contradicts_compare(a: Vec<u8>, b: Vec<u8>) {
            for order in [KeyOrder::Bytewise, KeyOrder::custom(Arc::new(ReverseBytewise))] {
                if order.compare(&a, &b) == Ordering::Less {
                    prop_assert!(order.sort_prefix(&a) <= order.sort_prefix(&b));
                }
            }
        }

        #[test]
        fn separator_lies_between(a: Vec<u8>, b: Vec<u8>) {
            for order in [KeyOrder::Bytewise, KeyOrder::custom(Arc::new(ReverseBytewise))] {
                if order.compare(&a, &b) == Ordering::Less {
                    let mut s = Vec::new();
                    order.separator(&a, &b, &mut s);
                    prop_assert!(order.compare(&a, &s) != Ordering::Greater);
                    prop_assert!(order.compare(&s, &b) == Ordering::Less);
                }
            }
        }
    }
}
