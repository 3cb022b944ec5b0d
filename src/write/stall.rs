//! When writers have to wait: a pure function of how far flush and compaction lag behind.

use std::time::Duration;

/// How far background work lags behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Whether the active memtables are full.
    pub is_active_full: bool,
    /// Sealed generations that wait to be flushed.
    pub sealed_count: usize,
    /// The most tables that any keyspace has on level 0.
    pub level0_count: usize,
}

/// From where on writers wait.
#[derive(Clone, Copy, Debug)]
pub struct StallLimits {
    /// Sealed generations that may wait while writes go on.
    pub sealed_max: usize,
    /// Level 0 tables from which on each write is delayed.
    pub level0_slowdown: usize,
    /// Level 0 tables from which on writes stop.
    pub level0_stop: usize,
}

/// What a writer does before it queues up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Writes.
    Go,
    /// Waits once, then writes.
    Delay(Duration),
    /// Waits until there is space.
    Stop,
}

const DELAY_STEP: Duration = Duration::from_micros(200);

/// Decides how a writer goes on. The delay grows with every table above the slowdown mark.
pub fn pace(lag: Lag, limits: StallLimits) -> Pace {
    if lag.is_active_full && lag.sealed_count >= limits.sealed_max {
        return Pace::Stop;
    }
    if lag.level0_count >= limits.level0_stop {
        return Pace::Stop;
    }
    match lag.level0_count.checked_sub(limits.level0_slowdown) {
        Some(over) => Pace::Delay(DELAY_STEP * u32::try_from(over + 1).unwrap_or(u32::MAX)),
        None => Pace::Go,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_slow_down_before_they_stop() {
        let limits = StallLimits { sealed_max: 2, level0_slowdown: 4, level0_stop: 6 };
        let lag = |level0_count| Lag { is_active_full: false, sealed_count: 2, level0_count };
        assert_eq!(pace(lag(3), limits), Pace::Go);
        assert_eq!(pace(lag(4), limits), Pace::Delay(DELAY_STEP));
        assert_eq!(pace(lag(5), limits), Pace::Delay(DELAY_STEP * 2));
        assert_eq!(pace(lag(6), limits), Pace::Stop);
        assert_eq!(pace(Lag { is_active_full: true, ..lag(0) }, limits), Pace::Stop);
    }
}
