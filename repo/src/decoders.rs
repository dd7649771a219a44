//! Decoders that are nobody's business outside of this crate, for the fuzz targets in `tests/src/fuzzed`: no part of what it
//! offers. Each reads as the crate itself does; what must hold of that is said there.

use crate::crypto::{self, Secret};
use crate::format::clear::{self, KeySlot};
use crate::format::records::{self, Kind};
use crate::keys::{self, Bundle, Keys};
use crate::storage::object;
use crate::{Codec, Credential, Key, PasswordCost, RepositoryId, Result, Rng, Timestamp};
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

/// The values in one section of a file of AWS credentials.
pub fn section(text: &str, name: &str) -> HashMap<String, String> {
    object::values_in(text, name)
}

/// Who holds a repository, by the line in a lock file.
pub fn holder(line: &str, now: Timestamp) -> String {
    crate::turn::held_by(line, now)
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

/// What is made here, and nowhere else: a key bundle, a line with a slot that holds one, a sealed record.
///
/// # Errors
/// When one cannot be made.
pub fn seeds() -> Result<[Vec<u8>; 3]> {
    let bundle = Bundle::draw(&Fixed)?;
    let encoded = bundle.encode().to_vec();
    let keys = Keys::new(REPOSITORY, 1, bundle);
    let slot = keys.wrap(&key_file(), PasswordCost::default(), 1, 1_780_000_000, &Fixed)?;
    let sealed = records::seal(&SECRET, Kind::Beat, &REPOSITORY, &beat()?, b"body")?;
    Ok([encoded, clear::encode(&slot)?, sealed])
}
