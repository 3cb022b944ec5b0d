//! What one run is like: options, operations, habits of its users and faults, drawn from the tape.
//!
//! Each run leaves out about half of the kinds of operation and of fault, so that the rest meet more often, and
//! has tiny engine options, so that a few hundred operations see flushes, several levels and new manifests.

use crate::tape::{Label, Tape};
use crate::workload::keys::KeyStyle;
use crate::workload::operations::{OPERATIONS, Operation};
use crate::workload::orders::Order;
use std::time::Duration;
use tinylsm::{Background, Compression, Durability, KeyspaceOptions, Options, Runtime};

/// How the users of a run live with their database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// A few incarnations with a few hundred operations in all.
    Ordinary,
    /// Many incarnations with hardly an operation in each, as a command-line tool has them.
    ShortIncarnations,
    /// A disk that is small from the start, and stays so.
    SmallDisk,
    /// There is no database of the run's own, but one apart, made for one question.
    Apart,
}

/// One run's character.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// The engine's options.
    pub options: Options,
    /// Who does background work.
    pub background: Background,
    /// Each keyspace's options, the default one first.
    pub keyspaces: Vec<KeyspaceOptions>,
    /// How its users live.
    pub habit: Habit,
    /// Threads that use the database at the same time.
    pub clients_count: u64,
    /// What each of them does between two openings.
    pub operations_count: u64,
    /// Openings that end in a crash, an abandoned handle or a close.
    pub incarnations_count: u64,
    /// How often each operation is chosen.
    pub operations: Vec<(Operation, u32)>,
    /// How often each durability is chosen.
    pub durabilities: [u32; 3],
    /// What keys look like.
    pub key_style: KeyStyle,
    /// Distinct keys.
    pub keys_count: u64,
    /// Longest ordinary value.
    pub value_len_max: u64,
    /// Lengths around which something in the engine changes.
    pub value_thresholds: Vec<usize>,
    /// Whether there are values that the log does not hold back.
    pub has_big_values: bool,
    /// Keyspaces that clients may create in all.
    pub keyspaces_max: usize,
    /// Bytes that the disk has from the start.
    pub disk_bytes: Option<u64>,
    /// Descriptors that the process has, in about every other incarnation.
    pub descriptors_max: Option<u64>,
    /// Whether there is another database on the disk.
    pub has_neighbour: bool,
    /// Whether there are foreign names in the directory before there is a database.
    pub has_foreign_names: bool,
    /// Whether a comparator may panic.
    pub has_panics: bool,
    /// Whether the disk may fail without losing power.
    pub has_faults: bool,
    /// Crash images taken from each running incarnation.
    pub images_count: u64,
}

impl Swarm {
    /// Starts the threads that the run's database shares with its neighbour; none if it has none, or no threads.
    pub fn runtime(&self) -> Option<Runtime> {
        match self.background {
            Background::Threads(count) if self.has_neighbour => {
                Some(Runtime::new(count).expect("the schedule has threads to give"))
            }
            _ => None,
        }
    }

    /// Draws a run's character.
    pub fn draw(tape: &Tape, without: Option<Operation>) -> Swarm {
        let below = |bound| tape.below(Label::Options, bound);
        let flip = || tape.chance(Label::Options, 1, 2);
        let rarely = |one_in| tape.chance(Label::Options, 1, one_in);
        let keyspaces_count = 1 + below(3);
        let keyspaces: Vec<KeyspaceOptions> = (0..keyspaces_count).map(|_| draw_keyspace(tape)).collect();
        let is_manual = rarely(5);
        let mut options = draw_options(tape, &keyspaces[0]);
        let has_faults = rarely(3);
        let has_big_values = rarely(120);
        if has_big_values && flip() {
            options.wal_preallocate_bytes = 0;
        }
        let habit = match below(64) {
            62 => Habit::ShortIncarnations,
            60 | 61 | 63 => Habit::SmallDisk,
            0..=19 => Habit::Apart,
            _ => Habit::Ordinary,
        };
        let has_neighbour = rarely(12);
        let is_done = |operation: Operation| match operation {
            _ if Some(operation) == without => false,
            Operation::Put | Operation::Get => true,
            Operation::Step => is_manual && flip(),
            Operation::Resume => (has_faults || habit == Habit::SmallDisk) && flip(),
            Operation::ForeignHandle => has_neighbour,
            _ => flip(),
        };
        let operations = OPERATIONS.into_iter().filter(|(operation, _)| is_done(*operation)).collect();
        let clients_count = if habit == Habit::ShortIncarnations { 1 } else { 1 + below(4) };
        let (incarnations_count, operations_count) = match habit {
            // Now and then a hundred.
            Habit::ShortIncarnations if rarely(8) => (100, 1 + below(3)),
            Habit::ShortIncarnations => (8 + below(30), below(6)),
            _ => (1 + below(4), (30 + below(275)) / clients_count),
        };
        let key_style = match below(96) {
            64..=94 => KeyStyle::Edges,
            95 => KeyStyle::Long,
            _ => KeyStyle::Text,
        };
        let value_thresholds = vec![
            0,
            keyspaces[0].block_bytes,
            usize::try_from(keyspaces[0].table_bytes).expect("a run's tables are small"),
            options.memtable_bytes / 2,
            options.memtable_bytes,
        ];
        let has_user_order = keyspaces.iter().any(|keyspace| Order::of(keyspace) != Order::Bytewise);
        let has_panics = has_user_order && rarely(3);
        Swarm {
            options,
            background: if is_manual {
                Background::Manual
            } else {
                Background::Threads(1 + usize::try_from(below(3)).expect("small"))
            },
            keyspaces,
            habit,
            clients_count,
            operations_count,
            incarnations_count,
            operations,
            durabilities: *tape
                .pick(Label::Options, &[[0, 0, 1], [1, 2, 3], [0, 1, 1], [1, 0, 1], [3, 3, 1], [6, 0, 1]]),
            key_style,
            keys_count: *tape.pick(Label::Options, &[20, 8, 60, 200]),
            value_len_max: *tape.pick(Label::Options, &[100, 20, 400, 1500]),
            value_thresholds,
            has_big_values,
            keyspaces_max: if rarely(64) { 40 } else { 4 },
            disk_bytes: (habit == Habit::SmallDisk).then(|| tape.magnitude(Label::Options, 18)),
            descriptors_max: rarely(12).then(|| 8 + below(40)),
            has_neighbour,
            has_foreign_names: rarely(16),
            has_panics,
            has_faults,
            images_count: if habit == Habit::ShortIncarnations { 0 } else { below(3) },
        }
    }

    /// Draws a client's next operation.
    pub fn next_operation(&self, tape: &Tape) -> Operation {
        let weights: Vec<u32> = self.operations.iter().map(|operation| operation.1).collect();
        self.operations[tape.weighted(Label::Workload, &weights)].0
    }

    /// Draws a write's durability.
    pub fn next_durability(&self, tape: &Tape) -> Durability {
        [Durability::None, Durability::Os, Durability::Disk]
            [tape.weighted(Label::Workload, &self.durabilities)]
    }
}

fn draw_options(tape: &Tape, default_keyspace: &KeyspaceOptions) -> Options {
    let below = |bound| usize::try_from(tape.below(Label::Options, bound)).expect("small");
    Options::default()
        .open_files_max(8)
        .reserve_bytes_max(64 << 20)
        .memtable_bytes(*tape.pick(Label::Options, &[4 << 10, 2 << 10, 8 << 10, 16 << 10]))
        .sealed_memtables_max(1 + below(3))
        .wal_preallocate_bytes(*tape.pick(Label::Options, &[4 << 10, 0, 1 << 10, 16 << 10]))
        .block_cache_bytes(*tape.pick(Label::Options, &[16 << 10, 0, 4 << 10]))
        .durability(Durability::Disk)
        .manifest_roll_bytes(*tape.pick(Label::Options, &[1 << 10, 512, 4 << 10]))
        .stall_timeout(Duration::from_secs(600))
        .level0_slowdown(4 + below(8))
        .level0_stop(12 + below(8))
        .default_keyspace(default_keyspace.clone())
}

/// Draws a keyspace's options.
pub fn draw_keyspace(tape: &Tape) -> KeyspaceOptions {
    let order = match tape.below(Label::Options, 8) {
        5 | 6 => Order::Reverse,
        7 => Order::LengthFirst,
        _ => Order::Bytewise,
    };
    KeyspaceOptions::default()
        .comparator(order.name())
        .compression(*tape.pick(Label::Options, &[Compression::Lz4, Compression::None]))
        .block_bytes(*tape.pick(Label::Options, &[256, 64, 512, 1024]))
        .filter_bits_per_key(*tape.pick(Label::Options, &[10, 0, 4]))
        .level0_compaction_trigger(2 + usize::try_from(tape.below(Label::Options, 3)).expect("small"))
        .level_base_bytes(*tape.pick(Label::Options, &[8 << 10, 4 << 10, 32 << 10, 1 << 10]))
        .level_multiplier(2 + tape.below(Label::Options, 3))
        .table_bytes(*tape.pick(Label::Options, &[4 << 10, 2 << 10, 16 << 10, 1 << 10]))
}
