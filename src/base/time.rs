//! Wall-clock time as the engine stores it.

use std::fmt;

/// A moment as unix time in milliseconds; may be negative (before 1970).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// Before every other moment.
    pub const MIN: UnixMillis = UnixMillis(i64::MIN);
    /// After every other moment; as an expiry it means "never".
    pub const MAX: UnixMillis = UnixMillis(i64::MAX);
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
