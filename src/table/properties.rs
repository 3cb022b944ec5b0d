//! What a table says about itself, so that nobody has to read its entries to know.
//!
//! The block is a sorted list of names and values, each with its length in front. A reader takes the names it
//! knows and skips the others, so a later version can say more without a new format; what a reader *must*
//! understand is a bit of `features` instead.
//!
//! ```text
//! properties := (name_len(varint) name value_len(varint) value)*     names ascending
//! number     := u64 LE      time := i64 LE, milliseconds      key := user key, tag u64 LE
//! ```

use crate::base::ids::KeyspaceId;
use crate::base::key::{InternalKey, Kind, Tag};
use crate::base::limits::{
    COUNT_FROM_DISK_MAX, KEY_LEN_BYTES_MAX, NAME_LEN_BYTES_MAX, PROPERTIES_LEN_BYTES_MAX,
};
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::base::time::UnixMillis;
use crate::format::varint;
use crate::table::block::{Damaged, UNKNOWN_FEATURES};
use crate::table::options::Compression;

/// Bits of [`Properties::features`] that this version understands.
pub const FEATURES_KNOWN: u64 = 0;
const VALUE_LEN_BYTES_MAX: usize = KEY_LEN_BYTES_MAX + 8;

/// A key of a table's first or last entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedKey {
    /// The caller's key.
    pub user_key: Slice,
    /// Which version of it.
    pub tag: Tag,
}

impl OwnedKey {
    /// Copies a key.
    pub fn copy_from(key: InternalKey<'_>) -> OwnedKey {
        OwnedKey { user_key: Slice::copy_from(key.user_key), tag: key.tag }
    }

    /// Borrows the key.
    pub fn as_internal(&self) -> InternalKey<'_> {
        InternalKey::new(&self.user_key, self.tag)
    }
}

/// What a table says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// The keyspace it was written for.
    pub keyspace: KeyspaceId,
    /// The name of the order of its keys.
    pub comparator: String,
    /// When it was written, by the writer's clock.
    pub created_at: UnixMillis,
    /// What its writer was told about packing.
    pub compression: Compression,
    /// Entries.
    pub entries_count: u64,
    /// Different user keys; fewer than entries where a key has several versions. The first tables did not state it.
    pub keys_count: Option<u64>,
    /// Entries that delete a key.
    pub deletes_count: u64,
    /// Entries that delete a range; none yet.
    pub range_deletes_count: u64,
    /// Entries with an expiry.
    pub expiring_count: u64,
    /// Bytes of all user keys.
    pub keys_len_bytes: u64,
    /// Bytes of all stored values, expiries included.
    pub values_len_bytes: u64,
    /// Data blocks.
    pub data_blocks_count: u64,
    /// Bytes of the data blocks as stored, trailers included.
    pub data_len_bytes: u64,
    /// Bytes of the data blocks before packing.
    pub data_raw_len_bytes: u64,
    /// The key of the first entry.
    pub smallest: OwnedKey,
    /// The key of the last entry.
    pub largest: OwnedKey,
    /// The lowest sequence number.
    pub seq_lowest: SeqNum,
    /// The highest sequence number.
    pub seq_highest: SeqNum,
    /// The earliest expiry; [`UnixMillis::MAX`] if no entry has one.
    pub expires_earliest: UnixMillis,
    /// The latest expiry; [`UnixMillis::MIN`] if no entry has one.
    pub expires_latest: UnixMillis,
    /// What a reader must understand; see [`FEATURES_KNOWN`].
    pub features: u64,
}

impl Properties {
    /// Starts the properties of a table whose first entry is `first`; [`Properties::count`] adds entries.
    pub(crate) fn starting_with(first: InternalKey<'_>) -> Properties {
        Properties {
            keyspace: KeyspaceId::DEFAULT,
            comparator: String::new(),
            created_at: UnixMillis::default(),
            compression: Compression::None,
            entries_count: 0,
            keys_count: Some(0),
            deletes_count: 0,
            range_deletes_count: 0,
            expiring_count: 0,
            keys_len_bytes: 0,
            values_len_bytes: 0,
            data_blocks_count: 0,
            data_len_bytes: 0,
            data_raw_len_bytes: 0,
            smallest: OwnedKey::copy_from(first),
            largest: OwnedKey::copy_from(first),
            seq_lowest: first.tag.seq(),
            seq_highest: first.tag.seq(),
            expires_earliest: UnixMillis::MAX,
            expires_latest: UnixMillis::MIN,
            features: 0,
        }
    }

    /// Adds one entry to all counts and ranges but the largest key; `is_new_key` says that its user key differs from
    /// the one before.
    #[inline]
    pub(crate) fn count(&mut self, key: InternalKey<'_>, value: &[u8], is_new_key: bool) {
        self.entries_count += 1;
        if is_new_key && let Some(count) = &mut self.keys_count {
            *count += 1;
        }
        self.keys_len_bytes += key.user_key.len() as u64;
        self.values_len_bytes += value.len() as u64;
        let seq = key.tag.seq();
        self.seq_lowest = self.seq_lowest.min(seq);
        self.seq_highest = self.seq_highest.max(seq);
        match key.tag.kind() {
            Some(Kind::Delete | Kind::SingleDelete) => self.deletes_count += 1,
            Some(Kind::RangeDelete) => self.range_deletes_count += 1,
            Some(Kind::PutWithExpiry) => {
                self.expiring_count += 1;
                if let Some(expiry) = value.first_chunk::<8>() {
                    let expires_at = UnixMillis(i64::from_le_bytes(*expiry));
                    self.expires_earliest = self.expires_earliest.min(expires_at);
                    self.expires_latest = self.expires_latest.max(expires_at);
                }
            }
            Some(Kind::Put | Kind::Merge | Kind::ValueReference) | None => {}
        }
    }

    /// Tells whether a merge could drop something, were no snapshot in the way: deletes or older versions.
    pub fn may_shrink(&self) -> bool {
        self.deletes_count > 0 || self.keys_count.is_none_or(|count| count < self.entries_count)
    }

    /// Says which entries the table holds, as far as it tells, that this version cannot read.
    pub(crate) fn unknown_entries(&self) -> Option<String> {
        if self.range_deletes_count > 0 {
            return Some(format!("{} range deletes", self.range_deletes_count));
        }
        let ends = [&self.smallest, &self.largest];
        let unknown = ends.iter().find(|key| !key.tag.kind().is_some_and(Kind::is_supported))?;
        let [code, ..] = unknown.tag.raw().to_le_bytes();
        Some(format!("entries of kind {code}"))
    }

    /// Encodes the properties block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let compression = match self.compression {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
        };
        let mut fields = FieldsWriter { block: Vec::with_capacity(512), last: "" };
        fields.add(name::COMPARATOR, self.comparator.as_bytes());
        fields.add(name::COMPRESSION, compression.as_bytes());
        fields.time(name::CREATED_AT, self.created_at);
        fields.number(name::DATA_BLOCKS, self.data_blocks_count);
        fields.number(name::DATA_LEN, self.data_len_bytes);
        fields.number(name::DATA_RAW_LEN, self.data_raw_len_bytes);
        fields.number(name::DELETES, self.deletes_count);
        fields.number(name::ENTRIES, self.entries_count);
        fields.time(name::EXPIRES_EARLIEST, self.expires_earliest);
        fields.time(name::EXPIRES_LATEST, self.expires_latest);
        fields.number(name::EXPIRING, self.expiring_count);
        fields.number(name::FEATURES, self.features);
        if let Some(count) = self.keys_count {
            fields.number(name::KEYS, count);
        }
        fields.number(name::KEYS_LEN, self.keys_len_bytes);
        fields.number(name::KEYSPACE, u64::from(self.keyspace.0));
        fields.key(name::LARGEST, &self.largest);
        fields.number(name::RANGE_DELETES, self.range_deletes_count);
        fields.number(name::SEQ_HIGHEST, self.seq_highest.get());
        fields.number(name::SEQ_LOWEST, self.seq_lowest.get());
        fields.key(name::SMALLEST, &self.smallest);
        fields.number(name::VALUES_LEN, self.values_len_bytes);
        fields.block
    }

    /// Decodes the properties block.
    pub(crate) fn decode(block: &[u8]) -> Result<Properties, Damaged> {
        if block.len() > PROPERTIES_LEN_BYTES_MAX {
            return Err(Damaged("the properties are longer than they may be"));
        }
        let fields = Fields::parse(block).ok_or(Damaged("the properties are not a sorted list"))?;
        Properties::from_fields(&fields).map_err(|fault| match fields.number(name::FEATURES) {
            // What a newer version must be understood by may have changed what could not be read.
            Ok(features) if features & !FEATURES_KNOWN != 0 => UNKNOWN_FEATURES,
            _ => fault,
        })
    }

    fn from_fields(fields: &Fields<'_>) -> Result<Properties, Damaged> {
        let keyspace = u32::try_from(fields.number(name::KEYSPACE)?).or(Err(UNREADABLE))?;
        let properties = Properties {
            keyspace: KeyspaceId(keyspace),
            comparator: Some(fields.text(name::COMPARATOR)?)
                .filter(|name| name.len() <= NAME_LEN_BYTES_MAX)
                .ok_or(UNREADABLE)?
                .to_owned(),
            created_at: fields.time(name::CREATED_AT)?,
            // What a later version may pack with is no concern of the reader: each block says its own type.
            compression: match fields.text(name::COMPRESSION)? {
                "lz4" => Compression::Lz4,
                _ => Compression::None,
            },
            entries_count: fields.count(name::ENTRIES)?,
            keys_count: if fields.has(name::KEYS) { Some(fields.count(name::KEYS)?) } else { None },
            deletes_count: fields.count(name::DELETES)?,
            range_deletes_count: fields.count(name::RANGE_DELETES)?,
            expiring_count: fields.count(name::EXPIRING)?,
            keys_len_bytes: fields.count(name::KEYS_LEN)?,
            values_len_bytes: fields.count(name::VALUES_LEN)?,
            data_blocks_count: fields.count(name::DATA_BLOCKS)?,
            data_len_bytes: fields.count(name::DATA_LEN)?,
            data_raw_len_bytes: fields.count(name::DATA_RAW_LEN)?,
            smallest: fields.key(name::SMALLEST)?,
            largest: fields.key(name::LARGEST)?,
            seq_lowest: fields.seq(name::SEQ_LOWEST)?,
            seq_highest: fields.seq(name::SEQ_HIGHEST)?,
            expires_earliest: fields.time(name::EXPIRES_EARLIEST)?,
            expires_latest: fields.time(name::EXPIRES_LATEST)?,
            features: fields.number(name::FEATURES)?,
        };
        properties.check_counts()?;
        Ok(properties)
    }

    /// Checks what others compute with: no sum or difference of counts may overflow.
    fn check_counts(&self) -> Result<(), Damaged> {
        if self.entries_count == 0 {
            return Err(Damaged("the properties tell of a table without entries"));
        }
        let of_one_kind = self.deletes_count + self.range_deletes_count + self.expiring_count;
        if of_one_kind > self.entries_count || self.keys_count.is_some_and(|keys| keys > self.entries_count) {
            return Err(Damaged("the properties tell of more of one kind than of all entries"));
        }
        if self.seq_lowest > self.seq_highest {
            return Err(Damaged("the properties' sequence numbers end before they begin"));
        }
        Ok(())
    }
}

mod name {
    pub(super) const COMPARATOR: &str = "comparator";
    pub(super) const COMPRESSION: &str = "compression";
    pub(super) const CREATED_AT: &str = "created_at";
    pub(super) const DATA_BLOCKS: &str = "data_blocks";
    pub(super) const DATA_LEN: &str = "data_len";
    pub(super) const DATA_RAW_LEN: &str = "data_raw_len";
    pub(super) const DELETES: &str = "deletes";
    pub(super) const ENTRIES: &str = "entries";
    pub(super) const EXPIRES_EARLIEST: &str = "expires_earliest";
    pub(super) const EXPIRES_LATEST: &str = "expires_latest";
    pub(super) const EXPIRING: &str = "expiring";
    pub(super) const FEATURES: &str = "features";
    pub(super) const KEYS: &str = "keys";
    pub(super) const KEYSPACE: &str = "keyspace";
    pub(super) const KEYS_LEN: &str = "keys_len";
    pub(super) const LARGEST: &str = "largest";
    pub(super) const RANGE_DELETES: &str = "range_deletes";
    pub(super) const SEQ_HIGHEST: &str = "seq_highest";
    pub(super) const SEQ_LOWEST: &str = "seq_lowest";
    pub(super) const SMALLEST: &str = "smallest";
    pub(super) const VALUES_LEN: &str = "values_len";
}

const UNREADABLE: Damaged = Damaged("a property is missing or cannot be read");

/// A block of names with their values, being written.
struct FieldsWriter {
    block: Vec<u8>,
    last: &'static str,
}

impl FieldsWriter {
    /// Adds a field.
    ///
    /// # Panics
    /// If `name` is not behind the last one: readers search by halves.
    fn add(&mut self, name: &'static str, value: &[u8]) {
        assert!(self.last < name, "the property {name} is written behind {}", self.last);
        self.last = name;
        varint::write_bytes(&mut self.block, name.as_bytes());
        varint::write_bytes(&mut self.block, value);
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.add(name, &number.to_le_bytes());
    }

    fn time(&mut self, name: &'static str, time: UnixMillis) {
        self.add(name, &time.0.to_le_bytes());
    }

    fn key(&mut self, name: &'static str, key: &OwnedKey) {
        let mut bytes = Vec::with_capacity(64);
        key.as_internal().encode_into(&mut bytes);
        self.add(name, &bytes);
    }
}

/// Names with their values, ascending by name.
struct Fields<'a>(Vec<(&'a [u8], &'a [u8])>);

impl<'a> Fields<'a> {
    fn parse(block: &'a [u8]) -> Option<Fields<'a>> {
        let mut fields: Vec<(&[u8], &[u8])> = Vec::with_capacity(24);
        let mut rest = block;
        while !rest.is_empty() {
            let name = varint::take_bytes(&mut rest, NAME_LEN_BYTES_MAX)?;
            let value = varint::take_bytes(&mut rest, VALUE_LEN_BYTES_MAX)?;
            if fields.last().is_some_and(|&(last, _)| last >= name) {
                return None;
            }
            fields.push((name, value));
        }
        Some(Fields(fields))
    }

    fn bytes(&self, name: &str) -> Result<&'a [u8], Damaged> {
        let at = self.0.binary_search_by_key(&name.as_bytes(), |field| field.0).or(Err(UNREADABLE))?;
        Ok(self.0[at].1)
    }

    fn has(&self, name: &str) -> bool {
        self.bytes(name).is_ok()
    }

    fn number(&self, name: &str) -> Result<u64, Damaged> {
        Ok(u64::from_le_bytes(self.bytes(name)?.try_into().or(Err(UNREADABLE))?))
    }

    /// Reads a count or length, which sums of must not overflow.
    fn count(&self, name: &str) -> Result<u64, Damaged> {
        Some(self.number(name)?).filter(|&count| count <= COUNT_FROM_DISK_MAX).ok_or(UNREADABLE)
    }

    fn time(&self, name: &str) -> Result<UnixMillis, Damaged> {
        Ok(UnixMillis(i64::from_le_bytes(self.bytes(name)?.try_into().or(Err(UNREADABLE))?)))
    }

    fn seq(&self, name: &str) -> Result<SeqNum, Damaged> {
        SeqNum::from_disk(self.number(name)?).ok_or(UNREADABLE)
    }

    fn text(&self, name: &str) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.bytes(name)?).or(Err(UNREADABLE))
    }

    fn key(&self, name: &str) -> Result<OwnedKey, Damaged> {
        InternalKey::decode(self.bytes(name)?).map(OwnedKey::copy_from).ok_or(UNREADABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Properties {
        let key = InternalKey::new(b"a", Tag::new(SeqNum::new(9), Kind::PutWithExpiry));
        let mut properties = Properties::starting_with(key);
        properties.count(key, &1234i64.to_le_bytes(), true);
        properties.comparator = "some.order".to_owned();
        properties.compression = Compression::Lz4;
        properties
    }

    #[test]
    fn what_is_encoded_is_decoded_and_unknown_names_are_skipped() {
        let properties = sample();
        let mut block = properties.encode();
        assert_eq!(Properties::decode(&block), Ok(properties.clone()));
        varint::write_bytes(&mut block, b"zzz_of_the_future");
        varint::write_bytes(&mut block, b"?");
        assert_eq!(Properties::decode(&block), Ok(properties));
        varint::write_bytes(&mut block, b"out of order");
        varint::write_bytes(&mut block, b"");
        assert!(Properties::decode(&block).is_err());
    }

    #[test]
    fn counts_that_others_could_not_compute_with_are_refused() {
        let refuse = |change: fn(&mut Properties)| {
            let mut properties = sample();
            change(&mut properties);
            assert!(Properties::decode(&properties.encode()).is_err(), "{properties:?}");
        };
        refuse(|properties| properties.entries_count = 0);
        refuse(|properties| properties.entries_count = u64::MAX);
        refuse(|properties| properties.deletes_count = 1);
        refuse(|properties| properties.keys_count = Some(2));
        refuse(|properties| properties.data_len_bytes = u64::MAX);
        refuse(|properties| properties.seq_highest = SeqNum::MAX);
        refuse(|properties| properties.seq_lowest = SeqNum::new(10));
        refuse(|properties| properties.comparator = "x".repeat(NAME_LEN_BYTES_MAX + 1));
    }

    #[test]
    fn what_a_newer_version_says_in_its_own_way_is_not_taken_for_damage() {
        let newer = Properties { features: 2, entries_count: 0, ..sample() };
        assert_eq!(Properties::decode(&newer.encode()), Err(UNKNOWN_FEATURES));
        let readable = Properties { features: 2, ..sample() };
        assert_eq!(Properties::decode(&readable.encode()), Ok(readable), "the reader names the bits");
    }

    #[test]
    fn entries_that_this_version_cannot_read_are_told_of() {
        assert_eq!(sample().unknown_entries(), None);
        let with_range_delete = Properties { range_deletes_count: 1, entries_count: 2, ..sample() };
        assert_eq!(with_range_delete.unknown_entries().as_deref(), Some("1 range deletes"));
        for code in 3..=255u64 {
            let mut properties = sample();
            properties.largest.tag = Tag::from_raw(9 << 8 | code);
            assert_eq!(properties.unknown_entries(), Some(format!("entries of kind {code}")));
        }
    }

    #[test]
    fn a_block_cut_anywhere_is_refused() {
        let block = sample().encode();
        for len in 0..block.len() {
            assert!(Properties::decode(&block[..len]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = Properties::decode(&bytes);
        }
    }
}
