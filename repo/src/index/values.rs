//! Keys of the database, and its values but for the rows of chunks, which are in `row.rs`: what each is read as. Nothing here
//! touches the database, so that [`again`] reads made-up bytes as the index reads its own.

use super::row::{self, COPY_LEN, Copy, MAX_COPIES, Pack, Row};
use crate::{PackId, RepositoryId, ShortId};

/// First byte of the keys of chunks.
pub(super) const ROW: u8 = b'r';
const PACK: u8 = b'p';
const NUMBER: u8 = b'P';
const COVERED: u8 = b'c';
/// First bytes of all that is taken in of packs and segments, but for the names of packs.
pub(super) const TAKEN: [u8; 3] = [NUMBER, COVERED, ROW];
pub(super) const STAMP: &[u8] = b"m-stamp";
pub(super) const SAMPLING: &[u8] = b"m-sampling";

/// Of the database's keys and values; another version is dropped.
pub(super) const VERSION: u32 = 1;

/// At most so many zero bits: beyond, the index is of no use, and the hard bound does the rest.
pub(super) const MAX_SAMPLING: u32 = 16;

/// How many rows are kept, as stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    pub(super) bits: u32,
    /// Whether the rows to be left out are gone.
    pub(super) trimmed: bool,
}

impl Sampling {
    pub(super) fn encode(self) -> Vec<u8> {
        row::checked(SAMPLING, &[self.bits as u8, self.trimmed.into()])
    }

    /// `None`: it is not what was written.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        match *row::unchecked(SAMPLING, value)? {
            [bits, trimmed @ (0 | 1)] if u32::from(bits) <= MAX_SAMPLING => {
                Some(Self { bits: bits.into(), trimmed: trimmed == 1 })
            }
            _ => None,
        }
    }
}

pub(super) fn stamp(repository: &RepositoryId) -> Vec<u8> {
    row::checked(STAMP, &[&VERSION.to_le_bytes()[..], repository.bytes()].concat())
}

/// The version, and of which repository it is; `None`: it is not what was written.
pub(super) fn stamp_in(value: &[u8]) -> Option<(u32, &[u8])> {
    let (version, repository) = row::unchecked(STAMP, value)?.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*version), repository))
}

/// A pack's name and key epoch, under the key of its number.
pub(super) fn pack_value(key: &[u8], pack: &Pack) -> Vec<u8> {
    row::checked(key, &[&pack.id.to_bytes()[..], &pack.epoch.to_le_bytes()].concat())
}

/// The pack of this number and key; `None`: it is not what was written there.
pub(super) fn pack_in(number: u32, key: &[u8], value: &[u8]) -> Option<Pack> {
    let (id, epoch) = row::unchecked(key, value)?.split_first_chunk::<{ PackId::LEN }>()?;
    Some(Pack { number, id: PackId::from_bytes(id)?, epoch: u32::from_le_bytes(epoch.try_into().ok()?) })
}

/// A pack's number, under the key of its name.
pub(super) fn number_value(key: &[u8], number: u32) -> Vec<u8> {
    row::checked(key, &number.to_le_bytes())
}

/// The number of the pack with this key; `None`: it is not what was written there.
pub(super) fn number_in(key: &[u8], value: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(row::unchecked(key, value)?).ok().map(u32::from_le_bytes)
}

/// The number of the next pack, after the last key that is not behind those of packs.
pub(super) fn next_after(key: &[u8]) -> u32 {
    match *key {
        [PACK, a, b, c, d] => u32::from_be_bytes([a, b, c, d]).saturating_add(1),
        _ => 0,
    }
}

/// The copies of a chunk with one more; `None` when it is there already. Numbers grow, so the newest has the highest.
pub(super) fn merge(old: &[[u8; COPY_LEN]], copy: [u8; COPY_LEN]) -> Option<Vec<[u8; COPY_LEN]>> {
    let number = |raw: &[u8; COPY_LEN]| Copy::decode(raw).0.pack;
    if old.contains(&copy) {
        return None;
    }
    let mut new: Vec<_> = old.iter().filter(|o| number(o) != number(&copy)).copied().collect();
    let at = new.partition_point(|o| number(o) > number(&copy));
    new.insert(at, copy);
    new.truncate(MAX_COPIES);
    Some(new)
}

pub(super) fn row_key(id: &ShortId) -> [u8; 17] {
    let mut key = [ROW; 17];
    key[1..].copy_from_slice(id.bytes());
    key
}

pub(super) fn pack_key(number: u32) -> [u8; 5] {
    let mut key = [PACK; 5];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn number_key(id: &PackId) -> [u8; 1 + PackId::LEN] {
    let mut key = [NUMBER; 1 + PackId::LEN];
    key[1..].copy_from_slice(&id.to_bytes());
    key
}

/// Where the keys of packs by their names begin.
pub(super) const NUMBERS: [u8; 1] = [NUMBER];

/// The pack of a key made by [`number_key`]; `None` for any other key.
pub(super) fn numbered(key: &[u8]) -> Option<PackId> {
    PackId::from_bytes(key.strip_prefix(&NUMBERS)?.try_into().ok()?)
}

pub(super) fn covered_key(segment: &str) -> Vec<u8> {
    let mut key = vec![COVERED];
    key.extend_from_slice(segment.as_bytes());
    key
}

/// For the fuzz target `index_values`. Reads a value as the index does, and gives what was read and how it would be written;
/// `None` where the index says that it is damaged. `which`: the copies of a chunk, a pack's name, its number, the stamp, the
/// note on sampling, a covered segment (its check comes first); above that the last key. `mend`: with the checks that it should
/// have, behind which nothing else would ever be reached.
pub(crate) fn again(which: u8, bytes: &[u8], pack: PackId, mend: bool) -> Option<(Vec<u8>, Vec<u8>)> {
    let (pack, id) = (Pack { number: 7, id: pack, epoch: 3 }, ShortId::new([5; 16]));
    let value = |key: &[u8]| if mend { row::checked(key, bytes) } else { bytes.to_vec() };
    let (pack_key, number_key) = (pack_key(pack.number), number_key(&pack.id));
    match which {
        0 => {
            let mut read: Vec<[u8; COPY_LEN]> = row::copies(bytes)?.to_vec();
            if mend {
                read.iter_mut().for_each(|raw| *raw = Copy::decode(raw).0.encode(&id, &pack));
            }
            let mut written = Vec::new();
            for raw in &read {
                let (copy, check) = Copy::decode(raw);
                let at = copy.verify(check, &id, &pack)?;
                let row = Row { id, ordinal: at.ordinal, offset: at.offset, len: at.len, codec: at.codec };
                written.extend(row.copy_in(pack.number).ok()?.encode(&id, &pack));
            }
            // With one more it is still what is read.
            let more = Copy { pack: 7, ordinal: 0, offset: 0, len_codec: 0 }.encode(&id, &pack);
            let is_read = merge(&read, more).is_none_or(|all| row::copies(all.as_flattened()).is_some());
            Some((read.as_flattened().to_vec(), if is_read { written } else { Vec::new() }))
        }
        1 => {
            let read = value(&pack_key);
            let written = pack_value(&pack_key, &pack_in(pack.number, &pack_key, &read)?);
            Some((read, written))
        }
        2 => {
            let read = value(&number_key);
            let written = number_value(&number_key, number_in(&number_key, &read)?);
            Some((read, written))
        }
        3 => {
            let read = value(STAMP);
            let (version, repository) = stamp_in(&read)?;
            let repository = RepositoryId::new(repository.try_into().ok().filter(|_| version == VERSION)?);
            Some((read, stamp(&repository)))
        }
        4 => {
            let read = value(SAMPLING);
            let written = Sampling::decode(&read)?.encode();
            Some((read, written))
        }
        5 => {
            let (check, name) = bytes.split_first_chunk::<4>()?;
            let key = covered_key(std::str::from_utf8(name).ok()?);
            let read = if mend { row::checked(&key, &[]) } else { check.to_vec() };
            let written = row::checked(&key, row::unchecked(&key, &read)?);
            Some((read, written))
        }
        _ => {
            let next = next_after(bytes);
            (1..u32::MAX).contains(&next).then(|| (bytes.to_vec(), self::pack_key(next - 1).to_vec()))
        }
    }
}

/// What [`again`] reads whole, of each kind: its number, and its bytes.
///
/// # Errors
/// When a row cannot be made.
pub(crate) fn seeds(id: PackId) -> crate::Result<Vec<(u8, Vec<u8>)>> {
    let (pack, chunk) = (Pack { number: 7, id, epoch: 3 }, ShortId::new([5; 16]));
    let row = |ordinal| Row { id: chunk, ordinal, offset: 64, len: 100, codec: crate::Codec::Zstd };
    let rows = [row(1).copy_in(7)?.encode(&chunk, &pack), row(2).copy_in(7)?.encode(&chunk, &pack)];
    let name = "0123";
    let covered = [row::checked(&covered_key(name), &[]), name.into()].concat();
    Ok(vec![
        (0, rows.as_flattened().to_vec()),
        (1, pack_value(&pack_key(7), &pack)),
        (2, number_value(&number_key(&id), 7)),
        (3, stamp(&RepositoryId::new([4; 16]))),
        (4, Sampling { bits: 2, trimmed: false }.encode()),
        (5, covered),
        (6, pack_key(7).to_vec()),
    ])
}
