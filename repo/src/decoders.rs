//! Decoders that are nobody's business outside of this crate, for the fuzz targets in `tests/src/fuzzed`: no part of what it
//! offers. Each reads as the crate itself does; what must hold of that is said there.

use crate::crypto::{self, Secret};
use crate::format::clear::{self, Epoch, KeySlot};
use crate::format::records::{self, Kind};
use crate::id::PackKind;
use crate::keys::{self, Bundle, Keys};
use crate::storage::object;
use crate::{
    Codec, Compression, Credential, Key, PackId, PasswordCost, RepositoryId, Result, Rng, SessionId, Timestamp,
};
use std::collections::HashMap;

const REPOSITORY: RepositoryId = RepositoryId::new([4; 16]);
const SECRET: Secret = Secret::new([5; 32]);

/// What opens the slot of [`seeds`].
fn key_file() -> Credential {
    Credential::KeyFile(vec![6; 32].into())
}

fn beat() -> Result<Key> {
    Key::new("sess/beat")
}

/// Unpacks a chunk, a tree node or a list into so many bytes of plaintext; `None` when it is not that.
pub fn unpacked(codec: Codec, packed: &[u8], plain: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; plain];
    crate::codec::unpack(codec, packed, &mut out).map(|()| out)
}

/// A chunk or a node as a writer packs it.
///
/// # Errors
/// When that fails.
pub fn packed(compression: Compression, plain: &[u8]) -> Result<(Codec, Vec<u8>)> {
    let mut packer = crate::codec::Packer::new(compression, plain.len())?;
    packer.pack(plain).map(|(codec, packed)| (codec, packed.to_vec()))
}

/// The key bundle that these bytes are, written again.
///
/// # Errors
/// When they are none.
pub fn bundle(bytes: &[u8]) -> Result<Vec<u8>> {
    Ok(Bundle::decode(bytes)?.encode().to_vec())
}

/// The key bundle of a slot, if the key file of [`seeds`] opens it.
///
/// # Errors
/// When the slot is damaged.
pub fn slot(slot: &KeySlot) -> Result<Option<Vec<u8>>> {
    let Some(kek) = keys::kek(slot, &key_file())? else { return Ok(None) };
    let Some(wrapped) = keys::unhex_vec(&slot.wrapped) else { return Ok(None) };
    let opened = crypto::open(&kek, &keys::slot_context(&REPOSITORY, slot)?, &wrapped);
    opened.map(|bytes| bundle(&bytes)).transpose()
}

/// The secrets of an epoch that the key of [`seeds`] opens, each with the name of its slot, and what it is when it was wrapped again.
///
/// # Errors
/// When one cannot be wrapped.
pub fn epoch(epoch: &Epoch) -> Result<Vec<(String, [u8; 32], Option<[u8; 32]>)>> {
    let open = |number, mine: &_| keys::unwrapped(&SECRET, &REPOSITORY, number, mine).map(|secret| *secret.bytes());
    let opened = epoch.slots.iter().filter_map(|mine| Some((mine, open(epoch.epoch, mine)?)));
    let again = |(mine, secret): (&clear::EpochSlot, [u8; 32])| {
        let wrapped = keys::wrapped(&SECRET, &REPOSITORY, epoch.epoch, &mine.slot, &secret)?;
        Ok((mine.slot.clone(), secret, open(epoch.epoch, &wrapped)))
    };
    opened.map(again).collect()
}

/// The body of a sealed record.
///
/// # Errors
/// When it is none.
pub fn record(sealed: &[u8]) -> Result<Vec<u8>> {
    records::open(&SECRET, Kind::Beat, &REPOSITORY, &beat()?, sealed)
}

/// Whether a page is a whole listing, of Azure or of S3.
pub fn is_listing(azure: bool, page: &str) -> bool {
    object::is_listing(azure, page)
}

/// What is said of an answer that is not success.
pub fn refusal(status: u16, text: &str) -> String {
    object::refusal(status, text)
}

/// When a server says that it answers, by a date of HTTP.
pub fn moment(date: &str) -> Option<Timestamp> {
    object::moment(date)
}

/// Status and message of one delete of a batch, by the text that there is of it.
pub fn part_of_batch(text: &str) -> Option<(u16, String)> {
    object::part_of_batch(text)
}

/// The values in one section of a file of AWS credentials.
pub fn section(text: &str, name: &str) -> HashMap<String, String> {
    object::values_in(text, name)
}

/// Who holds a repository, by the line in a lock file.
pub fn holder(line: &str, now: Timestamp) -> String {
    crate::turn::held_by(line, now)
}

/// The pack that values of the chunk index are about.
fn pack_of_index() -> PackId {
    PackId { kind: PackKind::Data, session: SessionId::new([8; 16]), seq: 1, random: 9 }
}

/// What a value, or the last key, of the database of the chunk index is read as, and how that would be written; `None` where the
/// index says that it is damaged. Of which kind it is `which` says, as in [`index_seeds`]; `mend` sets its check.
pub fn index_value(which: u8, bytes: &[u8], mend: bool) -> Option<(Vec<u8>, Vec<u8>)> {
    crate::index::again(which, bytes, pack_of_index(), mend)
}

/// One of each kind that is in the database of the chunk index, each with the number of its kind.
///
/// # Errors
/// When one cannot be made.
pub fn index_seeds() -> Result<Vec<(u8, Vec<u8>)>> {
    crate::index::seeds(pack_of_index())
}

/// What `/proc/<pid>/stat` says of a process: when it started, in clock ticks since boot.
pub fn started(stat: &str) -> Option<u64> {
    crate::process::started(stat)
}

/// The place that a URL names, without its scheme, as it is shown and as bucket and prefix.
///
/// # Errors
/// Why it is none.
pub fn place(scheme: &str, place: &str) -> Result<(String, String, String)> {
    object::place(scheme, place)
}

/// The server that an endpoint names.
///
/// # Errors
/// Why it names none.
pub fn endpoint(text: &str) -> Result<String> {
    object::endpoint(text)
}

/// The same bytes each time.
#[derive(Debug)]
struct Fixed;

impl Rng for Fixed {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        out.fill(7);
        Ok(())
    }
}

/// What is made here, and nowhere else: a key bundle, a line with a slot that holds one, a sealed record, a line with an epoch.
///
/// # Errors
/// When one cannot be made.
pub fn seeds() -> Result<[Vec<u8>; 4]> {
    let bundle = Bundle::draw(&Fixed)?;
    let encoded = bundle.encode().to_vec();
    let keys = Keys::new(REPOSITORY, 1, bundle);
    let slot = keys.wrap(&key_file(), PasswordCost::default(), 1, 1_780_000_000, &Fixed)?;
    let sealed = records::seal(&SECRET, Kind::Beat, &REPOSITORY, &beat()?, b"body")?;
    let slots = vec![keys::wrapped(&SECRET, &REPOSITORY, 2, "0000000000000001", &[9; 32])?];
    let epoch = Epoch { wherry: "epoch".into(), epoch: 2, created: 1_780_000_000, slots, crc: String::new() };
    Ok([encoded, clear::encode(&slot)?, sealed, clear::encode(&epoch)?])
}
