//! Who runs next: the strategies that a run's schedule follows.
//!
//! Owns the choice among runnable threads, as a function of the tape and of what is runnable; knows neither
//! stacks nor locks. Four strategies, because each finds what the others miss:
//!
//! - **random walk**, which goes on with the current thread in 0 to 90 of 100 cases, drawn once per run: long
//!   undisturbed stretches and fine mixing are different simulations;
//! - **PCT** (probabilistic concurrency testing): strict random priorities with 1 to 4 points at which the
//!   running thread drops to the lowest; finds a bug that needs d orderings with a probability that has a bound;
//! - **round robin** with a drawn quantum;
//! - **starvation**: a random walk in which one thread after another is off the processor for up to seconds: one that is
//!   drawn when its time comes, or the running one where it stands, or the running one at a [named point](is_named). Only
//!   that stops a thread for long between two steps that take no time, as behind the release of a lock.
//!
//! A thread that runs on and on while others wait is made to give way after [`FAIR_STEPS`] steps, since a
//! real machine would do that too: strict priorities must not turn a waiting loop into a hang.

use crate::tape::{Label, Tape};

/// A simulated thread's number, counted from 0 in order of creation.
pub type ThreadId = u32;

/// After how many steps in a row a thread gives way: long against a critical section, short against a run.
const FAIR_STEPS: u64 = 10_000;

/// PCT places its priority changes within the first 2^6 to 2^16 steps; how long a run is, nobody knows before.
const PCT_HORIZON_EXPONENTS: (u64, u64) = (6, 16);

/// A thread starves for up to 2^30 ns, about two seconds with the spread, and up to 2^27 ns lie between.
const STARVED_NS_EXPONENT_MAX: u32 = 30;
const FED_NS_EXPONENT_MAX: u32 = 27;

/// Between two bouts in which the running thread starves lie up to 2^12 steps.
const FED_STEPS_EXPONENT_MAX: u32 = 12;

/// Between two bouts that begin at a named point the running threads pass up to 2^6 of those.
const FED_POINTS_EXPONENT_MAX: u32 = 6;

/// Tells whether a scheduling point is one that code states by hand between two steps of a protocol, as
/// `"pin: state loaded"`, and not one that a lock or an atomic brings along.
fn is_named(site: &str) -> bool {
    site.contains(": ")
}

/// The kinds of strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrategyKind {
    /// Goes on with the current thread with a probability drawn per run, or with any.
    RandomWalk,
    /// Runs the thread with the highest priority, which changes at a few points.
    Pct,
    /// Runs each thread for a quantum of steps.
    RoundRobin,
    /// Walks at random, without one thread for a while.
    Starvation,
}

impl StrategyKind {
    /// Every kind, the simplest first.
    pub const ALL: [StrategyKind; 4] =
        [StrategyKind::RandomWalk, StrategyKind::Pct, StrategyKind::RoundRobin, StrategyKind::Starvation];

    /// How often each kind is drawn, in percent.
    const WEIGHTS: [u32; 4] = [40, 25, 10, 25];

    /// Draws a kind.
    pub(crate) fn draw(tape: &Tape) -> StrategyKind {
        StrategyKind::ALL[tape.weighted(Label::Schedule, &StrategyKind::WEIGHTS)]
    }
}

/// What a strategy sees of the simulation.
pub(crate) struct View<'a> {
    /// Who can run, by ascending number; never empty.
    pub(crate) runnable: &'a [ThreadId],
    /// Who ran last, if it can go on.
    pub(crate) current: Option<ThreadId>,
    /// The scheduling point at which that thread stands.
    pub(crate) site: &'static str,
    /// How many threads there ever were.
    pub(crate) threads: u32,
    /// How many steps were made.
    pub(crate) step: u64,
    /// The virtual time in nanoseconds.
    pub(crate) now_ns: u64,
}

/// What a strategy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// This thread runs.
    Run(ThreadId),
    /// Nobody runs before this time, unless a timer makes another thread runnable.
    IdleUntil(u64),
}

/// A strategy at work.
pub(crate) struct Strategy {
    kind: Kind,
    /// How many steps in a row the current thread made while others could run.
    in_a_row: u64,
}

enum Kind {
    RandomWalk { preempt_percent: u64 },
    Pct(Pct),
    RoundRobin { quantum: u64, used: u64 },
    Starvation { preempt_percent: u64, starved: Starved },
}

struct Pct {
    /// By thread number; higher runs first.
    priorities: Vec<u64>,
    /// The steps at which the running thread's priority drops, last first.
    changes: Vec<u64>,
    /// The next priority to drop to; below all that were given.
    low: u64,
}

struct Starved {
    onset: Onset,
    victim: ThreadId,
    from_ns: u64,
    until_ns: u64,
}

/// What begins a bout of starvation.
enum Onset {
    /// A moment.
    Time,
    /// A step of the thread that starves from then on.
    Step { next: u64 },
    /// A named point of the thread that starves from then on, when so many have been passed.
    Point { left: u64 },
}

impl Strategy {
    /// Draws the parameters of a strategy of `kind`.
    pub(crate) fn draw(kind: StrategyKind, tape: &Tape) -> Strategy {
        let kind = match kind {
            StrategyKind::RandomWalk => Kind::RandomWalk { preempt_percent: draw_preemption(tape) },
            StrategyKind::Pct => Kind::Pct(Pct::draw(tape)),
            StrategyKind::RoundRobin => {
                Kind::RoundRobin { quantum: 1 + tape.below(Label::Schedule, 16), used: 0 }
            }
            StrategyKind::Starvation => {
                Kind::Starvation { preempt_percent: draw_preemption(tape), starved: Starved::draw(tape) }
            }
        };
        Strategy { kind, in_a_row: 0 }
    }

    /// Decides who runs next.
    pub(crate) fn decide(&mut self, tape: &Tape, view: &View<'_>) -> Decision {
        assert!(!view.runnable.is_empty(), "somebody can run");
        let decision = match &mut self.kind {
            Kind::RandomWalk { preempt_percent } => Decision::Run(walk(tape, view, *preempt_percent, None)),
            Kind::Pct(pct) => Decision::Run(pct.decide(tape, view)),
            Kind::RoundRobin { quantum, used } => Decision::Run(round_robin(view, *quantum, used)),
            Kind::Starvation { preempt_percent, starved } => {
                starved.renew(tape, view);
                match starved.victim_now(view) {
                    Some(victim) if view.runnable == [victim] => Decision::IdleUntil(starved.until_ns),
                    victim => Decision::Run(walk(tape, view, *preempt_percent, victim)),
                }
            }
        };
        self.give_way(view, decision)
    }

    /// Takes the processor from a thread that had it for too long.
    fn give_way(&mut self, view: &View<'_>, decision: Decision) -> Decision {
        let Decision::Run(chosen) = decision else { return decision };
        if view.current != Some(chosen) || view.runnable.len() == 1 {
            self.in_a_row = 0;
            return decision;
        }
        self.in_a_row += 1;
        if self.in_a_row < FAIR_STEPS {
            return decision;
        }
        self.in_a_row = 0;
        if let Kind::Pct(pct) = &mut self.kind {
            pct.demote(chosen);
        }
        Decision::Run(successor(view.runnable, chosen))
    }
}

/// Draws how often the current thread is left, in percent.
fn draw_preemption(tape: &Tape) -> u64 {
    tape.range(Label::Schedule, 10, 100)
}

/// Goes on with the current thread or with any runnable one but `excluded`; somebody else must be runnable.
fn walk(tape: &Tape, view: &View<'_>, preempt_percent: u64, excluded: Option<ThreadId>) -> ThreadId {
    let excluded = excluded.and_then(|thread| view.runnable.binary_search(&thread).ok());
    let count = view.runnable.len() - usize::from(excluded.is_some());
    if let Some(current) = view.current
        && excluded.is_none_or(|index| view.runnable[index] != current)
        && (count == 1 || !tape.chance(Label::Schedule, preempt_percent, 100))
    {
        return current;
    }
    let index = tape.below(Label::Schedule, count as u64) as usize;
    match excluded {
        Some(hole) if index >= hole => view.runnable[index + 1],
        _ => view.runnable[index],
    }
}

fn round_robin(view: &View<'_>, quantum: u64, used: &mut u64) -> ThreadId {
    match view.current {
        Some(current) if *used < quantum => {
            *used += 1;
            current
        }
        current => {
            *used = 1;
            current.map_or(view.runnable[0], |current| successor(view.runnable, current))
        }
    }
}

/// Returns the runnable thread after `thread`, the first after the last.
fn successor(runnable: &[ThreadId], thread: ThreadId) -> ThreadId {
    let index = runnable.partition_point(|&other| other <= thread);
    runnable.get(index).copied().unwrap_or(runnable[0])
}

impl Pct {
    fn draw(tape: &Tape) -> Pct {
        let depth = 1 + tape.below(Label::Schedule, 4);
        let (low, high) = PCT_HORIZON_EXPONENTS;
        let horizon = 1 << tape.range(Label::Schedule, low, high);
        let mut changes: Vec<u64> = (0..depth).map(|_| tape.below(Label::Schedule, horizon)).collect();
        changes.sort_unstable_by(|left, right| right.cmp(left));
        Pct { priorities: Vec::new(), changes, low: 1 << 32 }
    }

    fn decide(&mut self, tape: &Tape, view: &View<'_>) -> ThreadId {
        while self.priorities.len() < view.threads as usize {
            // The simplest choice lets older threads go first.
            let drawn = tape.below(Label::Schedule, 1 << 16);
            self.priorities.push((2 << 32) + (((1 << 16) - drawn) << 16));
        }
        while self.changes.last().is_some_and(|&change| change <= view.step) {
            self.changes.pop();
            if let Some(current) = view.current {
                self.demote(current);
            }
        }
        let mut best = view.runnable[0];
        for &thread in view.runnable {
            if self.priorities[thread as usize] > self.priorities[best as usize] {
                best = thread;
            }
        }
        best
    }

    /// Puts a thread behind all others.
    fn demote(&mut self, thread: ThreadId) {
        self.low -= 1;
        self.priorities[thread as usize] = self.low;
    }
}

impl Starved {
    fn draw(tape: &Tape) -> Starved {
        let onset = match tape.below(Label::Schedule, 3) {
            0 => Onset::Time,
            1 => Onset::Step { next: 0 },
            _ => Onset::Point { left: 0 },
        };
        Starved { onset, victim: 0, from_ns: 0, until_ns: 0 }
    }

    /// Chooses the next victim when the last one's time is over.
    fn renew(&mut self, tape: &Tape, view: &View<'_>) {
        if view.now_ns < self.until_ns {
            return;
        }
        match &mut self.onset {
            Onset::Time => {
                self.victim = tape.below(Label::Schedule, u64::from(view.threads)) as ThreadId;
                self.from_ns = view.now_ns + tape.magnitude(Label::Schedule, FED_NS_EXPONENT_MAX);
            }
            Onset::Step { next } => {
                let Some(current) = view.current.filter(|_| view.step >= *next) else { return };
                *next = view.step + tape.magnitude(Label::Schedule, FED_STEPS_EXPONENT_MAX);
                self.victim = current;
                self.from_ns = view.now_ns;
            }
            Onset::Point { left } => {
                let Some(current) = view.current.filter(|_| is_named(view.site)) else { return };
                if *left > 0 {
                    *left -= 1;
                    return;
                }
                *left = tape.magnitude(Label::Schedule, FED_POINTS_EXPONENT_MAX);
                self.victim = current;
                self.from_ns = view.now_ns;
            }
        }
        self.until_ns = self.from_ns + tape.magnitude(Label::Schedule, STARVED_NS_EXPONENT_MAX);
    }

    /// Returns who starves now, if it could run otherwise.
    fn victim_now(&self, view: &View<'_>) -> Option<ThreadId> {
        let starving = (self.from_ns..self.until_ns).contains(&view.now_ns);
        (starving && view.runnable.binary_search(&self.victim).is_ok()).then_some(self.victim)
    }
}

#[cfg(test)]
mod tests {
    use crate::schedule::strategy::{Decision, FAIR_STEPS, Strategy, StrategyKind, ThreadId, View};
    use crate::tape::Tape;

    /// Who ran, step by step, when three threads never wait; `None` is idleness.
    fn schedule(kind: StrategyKind, tape: &Tape, steps: u64) -> Vec<Option<ThreadId>> {
        let mut strategy = Strategy::draw(kind, tape);
        let (mut current, mut now_ns) = (None, 0);
        (0..steps)
            .map(|step| {
                now_ns += 100;
                let site = if step % 8 == 0 { "test: between" } else { "lock" };
                let view = View { runnable: &[0, 1, 2], current, site, threads: 3, step, now_ns };
                match strategy.decide(tape, &view) {
                    Decision::Run(thread) => {
                        current = Some(thread);
                        Some(thread)
                    }
                    Decision::IdleUntil(until_ns) => {
                        now_ns = until_ns;
                        None
                    }
                }
            })
            .collect()
    }

    #[test]
    fn nobody_waits_for_ever_under_any_strategy() {
        for kind in StrategyKind::ALL {
            for tape in [Tape::zeros(), Tape::from_seed(1), Tape::from_seed(2)] {
                let ran = schedule(kind, &tape, 3 * FAIR_STEPS + 3);
                for thread in 0..3 {
                    // A few milliseconds of 100 ns steps may lie within one bout of starvation.
                    let ran = ran.contains(&Some(thread)) || kind == StrategyKind::Starvation;
                    assert!(ran, "{kind:?} {tape:?} thread {thread}");
                }
            }
        }
    }

    #[test]
    fn zeros_do_not_preempt() {
        for kind in [StrategyKind::RandomWalk, StrategyKind::Pct] {
            let ran = schedule(kind, &Tape::zeros(), 500);
            let switches = ran.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(switches <= 1, "{kind:?} switched {switches} times");
        }
    }

    #[test]
    fn round_robin_serves_all_alike() {
        let ran = schedule(StrategyKind::RoundRobin, &Tape::from_seed(4), 16 * 3 * 20);
        for thread in 0..3 {
            let share = ran.iter().filter(|&&ran| ran == Some(thread)).count();
            assert!((300..340).contains(&share), "thread {thread} ran {share} of 960 steps");
        }
    }

    #[test]
    fn a_starved_thread_does_not_run() {
        let longest = |tape: &Tape| {
            let ran = schedule(StrategyKind::Starvation, tape, 20_000);
            let gaps = ran.split(|&thread| thread == Some(0)).map(<[_]>::len);
            gaps.max().unwrap_or(0)
        };
        assert!((0..20).any(|seed| longest(&Tape::from_seed(seed)) > 5_000));
    }
}
