//! The list of live snapshots.
//!
//! A snapshot is a shared token; the list finds out by the count of its shares that the last one is gone. So
//! dropping a snapshot takes no lock.

use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::mvcc::visible::Horizon;
use crate::sync::Mutex;
use std::sync::Arc;

/// The live snapshots of a database.
#[derive(Default, Debug)]
pub struct Snapshots {
    tokens: Mutex<Vec<Arc<Horizon>>>,
}

impl Snapshots {
    /// Registers a snapshot of what `visible` and `now` say once the list is locked, so that no merge can start
    /// between the two without knowing of it.
    pub fn take(&self, visible: impl FnOnce() -> SeqNum, now: UnixMillis) -> Arc<Horizon> {
        let mut tokens = self.tokens.lock();
        let token = Arc::new(Horizon { seq: visible(), now });
        tokens.push(Arc::clone(&token));
        token
    }

    /// Returns the numbers of the live snapshots, in no order.
    pub fn live(&self) -> Vec<SeqNum> {
        let mut tokens = self.tokens.lock();
        tokens.retain(|token| Arc::strong_count(token) > 1);
        tokens.iter().map(|token| token.seq).collect()
    }
}
