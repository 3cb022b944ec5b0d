//! What one world is like: options, operations and faults, drawn from the tape.
//!
//! Each world leaves out about half of the kinds of operation and of fault, so that the rest meet more often, and
//! has tiny engine options, so that a few hundred operations see flushes, several levels and new manifests.

use crate::tape::{Label, Tape};
use std::time::Duration;
use tinylsm::{Background, Comparator, Compression, Durability, KeyspaceOptions, Options, ReverseBytewise};

/// What a client may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// One put.
    Put,
    /// One delete.
    Delete,
    /// Several operations at once, over any keyspaces.
    Batch,
    /// A batch of no operations.
    EmptyBatch,
    /// A write that breaks a limit.
    RefusedWrite,
    /// One get.
    Get,
    /// Several gets at one moment.
    MultiGet,
    /// A scan of a range, from either end or both.
    Scan,
    /// A scan of the keys with a common beginning.
    Prefix,
    /// An iterator kept while other things happen.
    HoldIterator,
    /// A snapshot taken and kept.
    TakeSnapshot,
    /// A kept snapshot read again.
    ReadSnapshot,
    /// A kept snapshot let go.
    DropSnapshot,
    /// Everything before made durable.
    Sync,
    /// Memtables written out.
    Flush,
    /// A range merged down.
    Compact,
    /// Every table checked.
    Verify,
    /// One due job run; only where nobody else runs them.
    Step,
    /// Room made on the disk, and writing taken up again; only where the disk may fail.
    Resume,
}

const DEEDS: [(Deed, u32); 19] = [
    (Deed::Put, 40),
    (Deed::Delete, 12),
    (Deed::Batch, 14),
    (Deed::EmptyBatch, 2),
    (Deed::RefusedWrite, 1),
    (Deed::Get, 16),
    (Deed::MultiGet, 4),
    (Deed::Scan, 8),
    (Deed::Prefix, 4),
    (Deed::HoldIterator, 3),
    (Deed::TakeSnapshot, 4),
    (Deed::ReadSnapshot, 6),
    (Deed::DropSnapshot, 3),
    (Deed::Sync, 3),
    (Deed::Flush, 3),
    (Deed::Compact, 2),
    (Deed::Verify, 1),
    (Deed::Step, 6),
    (Deed::Resume, 3),
];

/// One world's character.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// The engine's options.
    pub options: Options,
    /// Who does background work.
    pub background: Background,
    /// Each keyspace's options, the default one first.
    pub keyspaces: Vec<KeyspaceOptions>,
    /// Threads that use the database at the same time.
    pub clients_count: u64,
    /// What each of them does between two openings.
    pub deeds_count: u64,
    /// Openings that end in a crash, an abandoned handle or a close.
    pub lives_count: u64,
    /// How often each deed is chosen.
    pub deeds: Vec<(Deed, u32)>,
    /// How often each durability is chosen.
    pub durabilities: [u32; 3],
    /// Distinct keys.
    pub keys_count: u64,
    /// Longest value.
    pub value_len_max: u64,
    /// Whether the disk may fail without losing power.
    pub has_faults: bool,
    /// Crash images taken from each running life.
    pub images_count: u64,
}

impl Swarm {
    /// Draws a world's character.
    pub fn draw(tape: &Tape) -> Swarm {
        let below = |bound| tape.below(Label::Options, bound);
        let flip = || tape.chance(Label::Options, 1, 2);
        let keyspaces_count = 1 + below(3);
        let keyspaces: Vec<KeyspaceOptions> = (0..keyspaces_count).map(|_| draw_keyspace(tape)).collect();
        let is_manual = tape.chance(Label::Options, 1, 5);
        let clients_count = 1 + below(4);
        let options = Options {
            memtable_bytes: *tape.pick(Label::Options, &[4 << 10, 2 << 10, 8 << 10, 16 << 10]),
            sealed_memtables_max: 1 + usize::try_from(below(3)).expect("small"),
            wal_preallocate_bytes: *tape.pick(Label::Options, &[4 << 10, 0, 1 << 10, 16 << 10]),
            block_cache_bytes: *tape.pick(Label::Options, &[16 << 10, 0, 4 << 10]),
            open_files_max: 8,
            durability: Durability::Disk,
            manifest_roll_bytes: *tape.pick(Label::Options, &[1 << 10, 512, 4 << 10]),
            stall_timeout: Duration::from_secs(600),
            level0_slowdown: 4 + usize::try_from(below(8)).expect("small"),
            level0_stop: 12 + usize::try_from(below(8)).expect("small"),
            default_keyspace: Some(keyspaces[0].clone()),
            reserve_bytes_max: 64 << 20,
        };
        let has_faults = tape.chance(Label::Options, 1, 3);
        let is_done = |deed: Deed| match deed {
            Deed::Put | Deed::Get => true,
            Deed::Step => is_manual && flip(),
            Deed::Resume => has_faults && flip(),
            _ => flip(),
        };
        let deeds = DEEDS.into_iter().filter(|(deed, _)| is_done(*deed)).collect();
        Swarm {
            options,
            background: if is_manual {
                Background::Manual
            } else {
                Background::Threads(1 + usize::try_from(below(3)).expect("small"))
            },
            keyspaces,
            clients_count,
            deeds_count: (30 + below(275)) / clients_count,
            lives_count: 1 + below(4),
            deeds,
            durabilities: *tape
                .pick(Label::Options, &[[0, 0, 1], [1, 2, 3], [0, 1, 1], [1, 0, 1], [3, 3, 1], [6, 0, 1]]),
            keys_count: *tape.pick(Label::Options, &[20, 8, 60, 200]),
            value_len_max: *tape.pick(Label::Options, &[100, 20, 400, 1500]),
            has_faults,
            images_count: below(3),
        }
    }

    /// Draws a client's next deed.
    pub fn next_deed(&self, tape: &Tape) -> Deed {
        let weights: Vec<u32> = self.deeds.iter().map(|deed| deed.1).collect();
        self.deeds[tape.weighted(Label::Workload, &weights)].0
    }

    /// Draws a write's durability.
    pub fn next_durability(&self, tape: &Tape) -> Durability {
        [Durability::None, Durability::Os, Durability::Disk]
            [tape.weighted(Label::Workload, &self.durabilities)]
    }

    /// Draws a key: few, of different lengths, with common beginnings, the low ones more often.
    pub fn next_key(&self, tape: &Tape) -> Vec<u8> {
        let bound = 1 + tape.below(Label::Workload, self.keys_count);
        let number = tape.below(Label::Workload, bound);
        let mut key = format!("k{:02}", number % 17).into_bytes();
        key.extend(std::iter::repeat_n(b'/', usize::try_from(number % 5).expect("small") * 7));
        key.extend_from_slice(format!("{number}").as_bytes());
        key
    }
}

fn draw_keyspace(tape: &Tape) -> KeyspaceOptions {
    let is_reverse = tape.chance(Label::Options, 1, 4);
    let mut options = KeyspaceOptions {
        compression: *tape.pick(Label::Options, &[Compression::Lz4, Compression::None]),
        block_bytes: *tape.pick(Label::Options, &[256, 64, 512, 1024]),
        filter_bits_per_key: *tape.pick(Label::Options, &[10, 0, 4]),
        level0_compaction_trigger: 2 + usize::try_from(tape.below(Label::Options, 3)).expect("small"),
        level_base_bytes: *tape.pick(Label::Options, &[8 << 10, 4 << 10, 32 << 10]),
        level_multiplier: 2 + tape.below(Label::Options, 3),
        table_bytes: *tape.pick(Label::Options, &[4 << 10, 2 << 10, 16 << 10]),
        ..KeyspaceOptions::default()
    };
    if is_reverse {
        options.comparator = ReverseBytewise.name().to_owned();
    }
    options
}

/// Makes a value that tells where it belongs, over and over, so that one that shows up elsewhere, in part or in whole,
/// gives itself away.
pub fn value_for(write: u64, index: usize, place: (u32, &[u8]), len_bytes: usize) -> Vec<u8> {
    let tag = format!("{write}.{index}@{}:{}|", place.0, place.1.escape_ascii()).into_bytes();
    let mut value = tag.repeat(1 + len_bytes / tag.len());
    value.truncate(len_bytes.max(tag.len()));
    value
}
