//! The keys and values of a run: few keys, so that they meet, and every length and byte that may matter.

use crate::tape::{Label, Tape};
use crate::workload::swarm::Swarm;
use tinylsm::base::limits::{KEY_LEN_BYTES_MAX, WAL_HELD_BACK_LEN_BYTES_MAX};

/// What the keys of a run look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStyle {
    /// Text of different lengths with common beginnings.
    Text,
    /// The bytes 0x00, 0x01, 0xFE and 0xFF in every short combination, none of them included: many a key is the beginning
    /// of another, and the empty one of all.
    Edges,
    /// Like `Edges`, and some keys go on up to a length in the thousands, a few up to the longest.
    Long,
}

const EDGE_BYTES: [u8; 4] = [0x00, 0xFF, 0x01, 0xFE];

/// Returns key number `number` of a style; different numbers give different keys.
pub fn key_of(style: KeyStyle, number: u64) -> Vec<u8> {
    match style {
        KeyStyle::Text => {
            let mut key = format!("k{:02}", number % 17).into_bytes();
            key.extend(std::iter::repeat_n(b'/', usize::try_from(number % 5).expect("small") * 7));
            key.extend_from_slice(format!("{number}").as_bytes());
            key
        }
        KeyStyle::Edges => edge_key(number),
        KeyStyle::Long => {
            let mut key = edge_key(number);
            let len = match number % 24 {
                23 => KEY_LEN_BYTES_MAX,
                7 => 4_000,
                3 | 11 => 300,
                _ => return key,
            };
            let filler = *key.last().expect("only the first is empty");
            // No edge byte, so that two keys stay different whatever they are filled with.
            key.push(0x80);
            key.resize(len, filler);
            key
        }
    }
}

/// Counts in the four bytes: nothing, 00, ff, 01, fe, 0000, ff00, ...
fn edge_key(number: u64) -> Vec<u8> {
    let (mut rest, mut key) = (number, Vec::new());
    while rest > 0 {
        rest -= 1;
        key.push(EDGE_BYTES[usize::try_from(rest % 4).expect("below 4")]);
        rest /= 4;
    }
    key
}

impl Swarm {
    /// Draws a key, the low numbers more often.
    pub fn next_key(&self, tape: &Tape) -> Vec<u8> {
        let bound = 1 + tape.below(Label::Workload, self.keys_count);
        key_of(self.key_style, tape.below(Label::Workload, bound))
    }

    /// Returns about how long the longest value is.
    pub fn longest_value_len(&self) -> u64 {
        let threshold = self.value_thresholds.iter().max().map_or(0, |len| *len as u64);
        let big = if self.has_big_values { WAL_HELD_BACK_LEN_BYTES_MAX as u64 } else { 0 };
        self.value_len_max.max(threshold).max(big)
    }

    /// Draws how long a value is: any short length, or one around a threshold of the engine.
    pub fn next_value_len(&self, tape: &Tape) -> usize {
        let below = |bound| tape.below(Label::Workload, bound);
        if below(40) > 0 {
            return usize::try_from(below(self.value_len_max)).expect("small");
        }
        if self.has_big_values && below(2) == 0 {
            return WAL_HELD_BACK_LEN_BYTES_MAX - 64 + usize::try_from(below(128)).expect("small");
        }
        let thresholds = &self.value_thresholds;
        let threshold = thresholds[usize::try_from(below(thresholds.len() as u64)).expect("a few")];
        (threshold + usize::try_from(below(33)).expect("small")).saturating_sub(16)
    }
}

/// Makes a value that tells where it belongs, over and over, so that one that shows up elsewhere, in part or in whole,
/// gives itself away.
pub fn value_for(write: u64, index: usize, place: (u32, &[u8]), len_bytes: usize) -> Vec<u8> {
    let key = &place.1[..place.1.len().min(40)];
    let tag = format!("{write}.{index}@{}:{}|", place.0, key.escape_ascii()).into_bytes();
    let mut value = tag.repeat(1 + len_bytes / tag.len());
    value.truncate(len_bytes.max(tag.len()));
    value
}

/// Returns the first key behind all keys that begin with `prefix`; `None` if there is none such.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|&byte| byte < 0xFF)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_give_different_keys() {
        for style in [KeyStyle::Text, KeyStyle::Edges, KeyStyle::Long] {
            let keys: BTreeSet<Vec<u8>> = (0..500).map(|number| key_of(style, number)).collect();
            assert_eq!(keys.len(), 500, "{style:?}");
            assert!(keys.iter().all(|key| key.len() <= KEY_LEN_BYTES_MAX), "{style:?}");
        }
        assert!((0..24).any(|number| key_of(KeyStyle::Long, number).len() == KEY_LEN_BYTES_MAX));
    }

    #[test]
    fn edge_keys_count_every_combination() {
        let short: BTreeSet<Vec<u8>> = (0..21).map(edge_key).collect();
        assert!(edge_key(0).is_empty());
        assert_eq!(short.iter().filter(|key| key.len() == 1).count(), 4);
        assert_eq!(short.iter().filter(|key| key.len() == 2).count(), 16);
    }

    #[test]
    fn a_prefix_ends_behind_all_its_keys() {
        assert_eq!(prefix_end(b"a"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"a\xFF\xFF"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xFF"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
