//! The choice tape: the one place where a simulation's chances come from.
//!
//! Owns every random decision of a run: workload, options, schedule, faults, torn sectors, latencies. A tape
//! plays from a seed (ChaCha8, one stream per [`Label`], so that a further draw for one purpose does not
//! shift the others), from recorded choices (replay and shrinking), or from raw bytes (a fuzzer's input).
//!
//! Promises: the same source gives the same choices on every machine, in every build, forever; the sampling
//! is our own (Lemire's multiply and reject), because the ready-made distributions may change between
//! versions. **Zero is the simplest choice**: no fault, the lowest index, the shortest delay. Choices and
//! bytes that run out go on as zeros, so a shortened tape is a simpler run, never an invalid one.
//!
//! A clone is another handle of the same tape. It may be stored in what is `Send + Sync`, but the order of
//! draws is the run's meaning: only the simulated threads of one simulation should share a tape. No draw suspends.

use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::sync::Arc;

/// What a choice is for. Each label has its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Label {
    /// Which operations, keys and values.
    Workload,
    /// Which engine options, profiles and switched-off kinds.
    Options,
    /// Which thread runs, which waiter wakes.
    Schedule,
    /// Which calls fail, and how.
    Fault,
    /// When the power goes, and what of the disk survives.
    Crash,
    /// How long things take.
    Latency,
    /// How the wall clock jumps.
    Clock,
    /// Which of the costly checks are made.
    Check,
}

impl Label {
    /// Every label, in the order of their streams.
    pub const ALL: [Label; 8] = [
        Label::Workload,
        Label::Options,
        Label::Schedule,
        Label::Fault,
        Label::Crash,
        Label::Latency,
        Label::Clock,
        Label::Check,
    ];
}

/// One recorded choice: `value` out of `0..bound`, for the purpose `label`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What it was for.
    pub label: Label,
    /// How many values there were.
    pub bound: u64,
    /// Which one was taken.
    pub value: u64,
}

/// The source of every choice of a run. Cheap to clone; clones share one position.
#[derive(Clone)]
pub struct Tape {
    // Not `tinylsm::sync::Mutex`: that is a scheduling point, and the scheduler itself draws from here.
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    source: Source,
    /// `Some` while recording.
    record: Option<Vec<Choice>>,
    draws: u64,
}

enum Source {
    /// One generator per label.
    Seed(Box<[ChaCha8Rng; Label::ALL.len()]>),
    Bytes(Bytes),
    /// One queue per label, so that leaving out a choice of one purpose does not shift the others.
    Choices(Box<[Queue; Label::ALL.len()]>),
}

struct Bytes {
    bytes: Vec<u8>,
    position: usize,
}

#[derive(Default)]
struct Queue {
    values: Vec<u64>,
    position: usize,
}

impl Tape {
    /// Creates the tape of a seed.
    pub fn from_seed(seed: u64) -> Tape {
        // The key is spelled out, since the ready-made expansion of a small seed may change between versions.
        let mut key = *b"........TinyLSM choice tape, v1.";
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let streams = Label::ALL.map(|label| {
            let mut generator = ChaCha8Rng::from_seed(key);
            generator.set_stream(label as u64);
            generator
        });
        Tape::new(Source::Seed(Box::new(streams)))
    }

    /// Creates a tape from bytes without meaning, such as a fuzzer's; after the last one come zeros.
    ///
    /// A choice takes as few whole bytes as its bound needs, whatever its label.
    pub fn from_bytes(bytes: Vec<u8>) -> Tape {
        Tape::new(Source::Bytes(Bytes { bytes, position: 0 }))
    }

    /// Creates a tape that plays recorded choices, label by label in their order; then come zeros.
    ///
    /// A value that is too large for the bound met on replay wraps around it.
    pub fn from_choices(choices: impl IntoIterator<Item = Choice>) -> Tape {
        let mut queues: [Queue; Label::ALL.len()] = Default::default();
        for choice in choices {
            queues[choice.label as usize].values.push(choice.value);
        }
        Tape::new(Source::Choices(Box::new(queues)))
    }

    /// Creates a tape of zeros: the simplest choice every time.
    pub fn zeros() -> Tape {
        Tape::from_bytes(Vec::new())
    }

    fn new(source: Source) -> Tape {
        Tape { inner: Arc::new(Mutex::new(Inner { source, record: None, draws: 0 })) }
    }

    /// Begins to record choices, forgetting those recorded before.
    pub fn record(&self) {
        self.inner.lock().record = Some(Vec::new());
    }

    /// Returns the choices made since [`Tape::record`], in order, and stops recording.
    pub fn take_record(&self) -> Vec<Choice> {
        self.inner.lock().record.take().unwrap_or_default()
    }

    /// Returns how many choices were drawn so far.
    pub fn draws(&self) -> u64 {
        self.inner.lock().draws
    }

    /// Chooses a number in `0..bound`. A bound of 1 leaves no choice and draws nothing.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&self, label: Label, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        if bound == 1 {
            return 0;
        }
        let mut inner = self.inner.lock();
        let value = inner.source.draw(label, bound);
        inner.draws += 1;
        if let Some(record) = &mut inner.record {
            record.push(Choice { label, bound, value });
        }
        assert!(value < bound, "a choice lies below its bound");
        value
    }

    /// Chooses `true` in `numerator` out of `denominator` cases; the simplest choice is `false`.
    /// What is certain draws nothing.
    ///
    /// # Panics
    /// If the fraction exceeds one, or its denominator is 0.
    pub fn chance(&self, label: Label, numerator: u64, denominator: u64) -> bool {
        assert!(numerator <= denominator, "a probability is at most one");
        assert!(denominator > 0, "a fraction has a denominator");
        match numerator {
            0 => false,
            _ if numerator == denominator => true,
            _ => self.below(label, denominator) >= denominator - numerator,
        }
    }

    /// Chooses a number from `low` to `high`, both included; the simplest choice is `low`.
    ///
    /// # Panics
    /// If `low` exceeds `high`, or the range is all of `u64`.
    pub fn range(&self, label: Label, low: u64, high: u64) -> u64 {
        assert!(low <= high, "a range does not end before it begins");
        let width = (high - low).checked_add(1).expect("no choice needs all of u64");
        low + self.below(label, width)
    }

    /// Chooses an item; the simplest choice is the first.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&self, label: Label, items: &'a [T]) -> &'a T {
        &items[self.below(label, items.len() as u64) as usize]
    }

    /// Chooses an index, each as often as its weight says; the simplest choice is the first one with a weight.
    ///
    /// # Panics
    /// If no weight is above 0.
    pub fn weighted(&self, label: Label, weights: &[u32]) -> usize {
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let mut rest = self.below(label, total);
        for (index, &weight) in weights.iter().enumerate() {
            let weight = u64::from(weight);
            if rest < weight {
                return index;
            }
            rest -= weight;
        }
        unreachable!("the draw lies below the sum of the weights");
    }

    /// Chooses a size between 1 and 2^`exponent_max` whose order of magnitude is evenly spread.
    ///
    /// # Panics
    /// If `exponent_max` exceeds 62.
    pub fn magnitude(&self, label: Label, exponent_max: u32) -> u64 {
        assert!(exponent_max <= 62, "sizes stay far from overflow");
        let exponent = self.below(label, u64::from(exponent_max) + 1);
        let floor = 1 << exponent;
        floor + self.below(label, floor)
    }
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.inner.lock();
        let source = match &inner.source {
            Source::Seed(_) => "seed",
            Source::Bytes(_) => "bytes",
            Source::Choices(_) => "choices",
        };
        write!(f, "Tape from {source} after {} draws", inner.draws)
    }
}

impl Source {
    /// Chooses below `bound`, which is at least 2.
    fn draw(&mut self, label: Label, bound: u64) -> u64 {
        match self {
            Source::Seed(streams) => sample(&mut streams[label as usize], bound),
            Source::Bytes(bytes) => bytes.take(bound),
            Source::Choices(queues) => queues[label as usize].take(bound),
        }
    }
}

/// Samples `0..bound` without bias: Lemire's multiplication with rejection of the uneven rest.
fn sample(generator: &mut ChaCha8Rng, bound: u64) -> u64 {
    let mut product = u128::from(generator.next_u64()) * u128::from(bound);
    if (product as u64) < bound {
        // 2^64 mod bound: that many of the low halves would favour small results.
        let uneven = bound.wrapping_neg() % bound;
        while (product as u64) < uneven {
            product = u128::from(generator.next_u64()) * u128::from(bound);
        }
    }
    (product >> 64) as u64
}

impl Bytes {
    fn take(&mut self, bound: u64) -> u64 {
        let needed = (u64::BITS - (bound - 1).leading_zeros()).div_ceil(8) as usize;
        let from = self.position.min(self.bytes.len());
        let to = (from + needed).min(self.bytes.len());
        self.position = to;
        let value = self.bytes[from..to].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        value % bound
    }
}

impl Queue {
    fn take(&mut self, bound: u64) -> u64 {
        let value = self.values.get(self.position).copied().unwrap_or(0);
        self.position += 1;
        value % bound
    }
}

#[cfg(test)]
mod tests {
    use crate::tape::{Choice, Label, Tape};

    /// Draws of every kind, for comparing tapes.
    fn draws(tape: &Tape) -> Vec<u64> {
        let mut out = Vec::new();
        for round in 0..50 {
            out.push(tape.below(Label::Workload, 1 + round * 7));
            out.push(u64::from(tape.chance(Label::Fault, 1, 3)));
            out.push(tape.range(Label::Latency, 10, 1_000_000));
            out.push(*tape.pick(Label::Options, &[5, 6, 7]));
            out.push(tape.weighted(Label::Crash, &[0, 3, 1]) as u64);
            out.push(tape.magnitude(Label::Check, 20));
        }
        out
    }

    #[test]
    fn streams_never_change() {
        let tape = Tape::from_seed(42);
        let mut text = String::new();
        for label in Label::ALL {
            let values: Vec<String> =
                (0..16).map(|_| format!("{:04x}", tape.below(label, 1 << 16))).collect();
            text.push_str(&format!("{label:?} {}\n", values.join(" ")));
        }
        insta::assert_snapshot!(text, @"
        Workload 584a ae5e 0fbc 1566 45f6 fead 7d86 2c52 e2e5 e1c6 8743 3aeb cde3 4ef2 92a2 fb8a
        Options a89e 32f6 2cdb eb8c c41f d33b 95e5 48c6 e19b fec8 045d 19df 89ad 3e54 da3e 5b57
        Schedule 6d91 a0ea 2a9b c1ac 853e a381 c087 8856 52de f395 7865 7e13 5ce6 8197 7a61 2cd1
        Fault e5a1 384b 1357 dd6d 3305 e1ee 0af8 b3b4 58d4 8ddb 89c3 fbec b787 bb32 0c86 c99c
        Crash 434e 955e 45b6 ebad e2d2 45b7 78c4 e3c7 8abc ee07 e7cd c6f4 9242 9464 27aa dd71
        Latency 287b 8d22 1955 7af6 a41d 2db1 d040 d14b 8119 ab2c 9a56 f957 f52f 9be5 400b 1c82
        Clock 94ed 7755 2ee3 8901 1861 0fcd ef36 aa8a b602 2933 16fb 66bf a3b0 b9b3 0bf4 3726
        Check d42c 25bf c927 d1be d30a a3f7 ce2b d95b 48c6 e365 a7c4 468a deaa 429c 0371 3090
        ");
    }

    #[test]
    fn one_seed_makes_one_tape() {
        assert_eq!(draws(&Tape::from_seed(9)), draws(&Tape::from_seed(9)));
        assert_ne!(draws(&Tape::from_seed(9)), draws(&Tape::from_seed(10)));
    }

    #[test]
    fn a_draw_for_one_purpose_does_not_shift_another() {
        let (plain, shifted) = (Tape::from_seed(3), Tape::from_seed(3));
        shifted.below(Label::Fault, 100);
        assert_eq!(plain.below(Label::Schedule, 1 << 40), shifted.below(Label::Schedule, 1 << 40));
    }

    #[test]
    fn recorded_choices_replay() {
        let tape = Tape::from_seed(7);
        tape.record();
        let drawn = draws(&tape);
        let record = tape.take_record();
        assert_eq!(record.len() as u64, tape.draws());
        assert_eq!(draws(&Tape::from_choices(record)), drawn);
    }

    #[test]
    fn what_runs_out_goes_on_as_the_simplest_choice() {
        for tape in [Tape::zeros(), Tape::from_choices([])] {
            assert_eq!(tape.below(Label::Schedule, 1 << 50), 0);
            assert!(!tape.chance(Label::Fault, 99, 100));
            assert_eq!(tape.range(Label::Latency, 12, 90), 12);
            assert_eq!(tape.weighted(Label::Workload, &[0, 0, 5, 9]), 2);
            assert_eq!(tape.magnitude(Label::Workload, 30), 1);
        }
    }

    #[test]
    fn bytes_are_taken_as_the_bound_needs_them() {
        let tape = Tape::from_bytes(vec![0x05, 0x34, 0x12, 0xff]);
        assert_eq!(tape.below(Label::Workload, 256), 5);
        assert_eq!(tape.below(Label::Fault, 1 << 16), 0x1234);
        assert_eq!(tape.below(Label::Schedule, 2), 1);
        assert_eq!(tape.below(Label::Schedule, 2), 0);
    }

    #[test]
    fn certainty_draws_nothing() {
        let tape = Tape::from_seed(1);
        assert!(tape.chance(Label::Fault, 5, 5));
        assert!(!tape.chance(Label::Fault, 0, 5));
        assert_eq!(tape.below(Label::Fault, 1), 0);
        assert_eq!(tape.draws(), 0);
    }

    #[test]
    fn sampling_is_even() {
        let tape = Tape::from_seed(5);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[tape.below(Label::Workload, 7) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }

    #[test]
    fn a_replayed_value_wraps_around_a_smaller_bound() {
        let tape = Tape::from_choices([Choice { label: Label::Fault, bound: 100, value: 57 }]);
        assert_eq!(tape.below(Label::Fault, 10), 7);
    }
}
