//! The key bundle and the slots that wrap it. Slots come and go without touching data.

use crate::crypto::{self, IdKeys, PackKey, Secret};
use crate::format::clear::{self, KeySlot};
use crate::format::{Fields, records};
use crate::id::{PackId, RepositoryId, hex, unhex};
use crate::storage::{Key, Storage, keys};
use crate::{Error, ErrorKind, Result, Rng};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use zeroize::Zeroizing;

/// What opens a key slot.
#[derive(Clone)]
pub enum Credential {
    /// A password.
    Password(Zeroizing<String>),
    /// The content of a key file: at least 32 bytes.
    KeyFile(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::KeyFile(_) => "KeyFile(..)",
        })
    }
}

/// Cost of turning a password into a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
}

impl PasswordCost {
    /// Memory in KiB and passes.
    pub const fn new(memory_kib: u32, passes: u32) -> Self {
        Self { memory_kib, passes }
    }
}

impl Default for PasswordCost {
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3 }
    }
}

/// One way into the repository, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its number.
    pub slot: u64,
    /// `password` or `keyfile`.
    pub kind: String,
    /// When it was made: seconds since 1970.
    pub created: i64,
    /// True when it is the one that opened the repository.
    pub current: bool,
}

/// Every secret of a repository.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    id: Secret,
    record: Secret,
    epochs: BTreeMap<u32, Secret>,
}

impl Bundle {
    pub(crate) fn draw(rng: &dyn Rng) -> Result<Self> {
        let secret = || crate::clock::random(rng).map(Secret::new);
        Ok(Self { id: secret()?, record: secret()?, epochs: BTreeMap::from([(0, secret()?)]) })
    }

    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(67 + 36 * self.epochs.len()));
        out.push(1);
        out.extend_from_slice(self.id.bytes());
        out.extend_from_slice(self.record.bytes());
        out.extend_from_slice(&(self.epochs.len() as u16).to_le_bytes());
        for (n, secret) in &self.epochs {
            out.extend_from_slice(&n.to_le_bytes());
            out.extend_from_slice(secret.bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut f = Fields::new("the key bundle", bytes);
        if f.u8()? != 1 {
            return Err(Error::new(ErrorKind::Unsupported, "the key bundle is of a newer version: use a newer wherry"));
        }
        let (id, record) = (Secret::new(f.array()?), Secret::new(f.array()?));
        let count = f.u16()?;
        let mut epochs = BTreeMap::new();
        for _ in 0..count {
            let (n, secret) = (f.u32()?, Secret::new(f.array()?));
            // One of two secrets of an epoch would go unseen.
            if epochs.last_key_value().is_some_and(|(last, _)| *last >= n) {
                return Err(f.bad("its key epochs do not ascend"));
            }
            epochs.insert(n, secret);
        }
        if epochs.is_empty() {
            return Err(f.bad("it has no key epoch"));
        }
        f.end()?;
        Ok(Self { id, record, epochs })
    }
}

/// The keys of an opened repository.
pub(crate) struct Keys {
    pub(crate) repository: RepositoryId,
    pub(crate) ids: IdKeys,
    pub(crate) slot: u64,
    /// Epochs are added when they are met.
    bundle: RwLock<Bundle>,
    /// What opened the slot; none before there is one.
    kek: Option<Secret>,
    /// Where newer epochs are looked for.
    storage: Option<Arc<dyn Storage>>,
    /// The newest epoch that is known to be durable.
    held: AtomicU32,
    /// Epochs that a writer has met and that are not to be had.
    looked_for: Mutex<BTreeSet<u32>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys(repository {}, slot {:016x}, ..)", self.repository, self.slot)
    }
}

impl Keys {
    pub(crate) fn new(repository: RepositoryId, slot: u64, bundle: Bundle) -> Self {
        let (ids, bundle) = (IdKeys::new(&bundle.id), RwLock::new(bundle));
        Self {
            repository,
            ids,
            slot,
            bundle,
            kek: None,
            storage: None,
            held: AtomicU32::new(0),
            looked_for: Mutex::default(),
        }
    }

    /// From now on epochs that are met and not known are looked for there.
    pub(crate) fn within(self, storage: Arc<dyn Storage>) -> Self {
        Self { storage: Some(storage), ..self }
    }

    /// The epoch new packs are sealed under.
    pub(crate) fn epoch(&self) -> u32 {
        self.bundle.read().epochs.keys().next_back().copied().unwrap_or_default()
    }

    /// The same, for who seals a pack now: what opens it must not be gone after a power cut, when whoever rotates was not told yet that
    /// the epoch is stored.
    pub(crate) fn epoch_to_seal(&self) -> Result<u32> {
        let epoch = self.epoch();
        if let Some(storage) = self.storage.as_ref().filter(|_| epoch > self.held.load(Ordering::Acquire)) {
            storage.make_durable(&mut std::iter::once(keys::epoch(epoch)))?;
            self.held.fetch_max(epoch, Ordering::AcqRel);
        }
        Ok(epoch)
    }

    /// The keys of a pack.
    pub(crate) fn pack(&self, pack: &PackId, epoch: u32) -> Result<PackKey> {
        let known = || self.bundle.read().epochs.get(&epoch).cloned();
        let named = |e: Error| e.with_object(keys::pack(pack));
        if known().is_none() {
            self.learn().map_err(named)?;
        }
        // It is acknowledged before any pack is sealed under it, and nobody deletes it: what was looked for and is not there is lost.
        let lost = || {
            let text = format!("its key is lost: there is no object {} (key epoch {epoch})", keys::epoch(epoch));
            let way = format!("bring {} back from a copy of the repository", keys::epoch(epoch));
            named(Error::corrupt(text).advise(&way))
        };
        PackKey::new(&known().ok_or_else(lost)?, &self.repository, pack)
    }

    fn is_damage(&self, error: &Error) -> bool {
        self.storage.as_ref().is_some_and(|storage| crate::storage::is_damage(&**storage, error))
    }

    /// W8: false when the key of packs of this epoch is lost, or not for this slot: what they hold counts as not known.
    pub(crate) fn has(&self, epoch: u32) -> bool {
        let known = || self.bundle.read().epochs.contains_key(&epoch);
        if known() {
            return true;
        }
        // Looked for once: a writer asks for each chunk.
        let mut looked = self.looked_for.lock();
        if known() || looked.contains(&epoch) {
            return known();
        }
        let why = match self.learn() {
            Ok(()) if known() => return true,
            Ok(()) => format!("there is no object {}", keys::epoch(epoch)),
            // It may be heard of later.
            Err(e) if e.kind() == ErrorKind::Unavailable && !self.is_damage(&e) => return false,
            Err(e) => e.to_string(),
        };
        tracing::warn!("packs of key epoch {epoch} cannot be read, and what they hold is stored anew: {why}");
        looked.insert(epoch);
        false
    }

    pub(crate) fn seal_record(&self, kind: records::Kind, key: &Key, body: &[u8]) -> Result<Vec<u8>> {
        records::seal(&self.bundle.read().record, kind, &self.repository, key, body)
    }

    pub(crate) fn open_record(&self, kind: records::Kind, key: &Key, bytes: &[u8]) -> Result<Vec<u8>> {
        records::open(&self.bundle.read().record, kind, &self.repository, key, bytes)
    }

    /// Keyed digest of a configuration line.
    pub(crate) fn config_mac(&self, key: &Key, line: &[u8]) -> String {
        let parts = [&self.repository.bytes()[..], key.as_str().as_bytes(), line];
        hex(crypto::prf(&self.bundle.read().record, "wherry1 config", &parts).bytes())
    }

    /// A new slot for `credential` that wraps the same bundle.
    pub(crate) fn wrap(
        &self,
        credential: &Credential,
        cost: PasswordCost,
        slot: u64,
        now: i64,
        rng: &dyn Rng,
    ) -> Result<KeySlot> {
        let salt: [u8; 16] = crate::clock::random(rng)?;
        let (kind, cost) = match credential {
            Credential::Password(_) => ("password", cost),
            Credential::KeyFile(_) => ("keyfile", PasswordCost { memory_kib: 0, passes: 0 }),
        };
        let mut object = KeySlot {
            wherry: "key".into(),
            slot: format!("{slot:016x}"),
            kind: kind.into(),
            created: now,
            m_kib: cost.memory_kib,
            t: cost.passes,
            p: u32::from(cost.passes > 0),
            salt: hex(&salt),
            wrapped: String::new(),
            crc: String::new(),
            epoch: self.epoch(),
        };
        let kek = kek(&object, credential)?.ok_or_else(|| Error::internal("a new key slot has the wrong kind"))?;
        let sealed = crypto::seal(&kek, &slot_context(&self.repository, &object)?, &self.bundle.read().encode())?;
        object.wrapped = hex(&sealed);
        Ok(object)
    }
}

pub(crate) fn slot_context(repository: &RepositoryId, slot: &KeySlot) -> Result<Vec<u8>> {
    let bare = KeySlot { wrapped: String::new(), crc: "00000000".into(), ..slot.clone() };
    let line = serde_json::to_vec(&bare).map_err(|e| Error::internal("JSON was not written").with_source(e))?;
    Ok([b"wherry1 slot".as_slice(), repository.bytes(), &line].concat())
}

/// Key file content shorter than this many bytes is refused.
pub const MIN_KEY_FILE: usize = 32;

/// The key that wraps a slot's bundle; `None` when the slot is for another kind of credential.
pub(crate) fn kek(slot: &KeySlot, credential: &Credential) -> Result<Option<Secret>> {
    let damaged = |why: &str| Error::corrupt(format!("key slot {} is damaged: {why}", slot.slot));
    let salt: [u8; 16] = unhex(&slot.salt).ok_or_else(|| damaged("its salt is no hex"))?;
    match (slot.kind.as_str(), credential) {
        ("password", Credential::Password(password)) => {
            // Bounded so that a forged slot cannot take all memory or time.
            if slot.m_kib > 1 << 20 || slot.t > 64 || slot.p > 16 {
                return Err(damaged("its cost is absurd"));
            }
            let params =
                argon2::Params::new(slot.m_kib, slot.t, slot.p, Some(32)).map_err(|e| damaged(&e.to_string()))?;
            let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
            let mut out = Zeroizing::new([0; 32]);
            let made = argon.hash_password_into(password.as_bytes(), &salt, out.as_mut_slice());
            made.map_err(|e| Error::internal(format!("Argon2id failed: {e}")))?;
            Ok(Some(Secret::new(*out)))
        }
        ("keyfile", Credential::KeyFile(content)) => {
            if content.len() < MIN_KEY_FILE {
                let text = format!(
                    "the key file holds {} bytes, a key has at least {MIN_KEY_FILE}: is it the right file?",
                    content.len()
                );
                return Err(Error::new(ErrorKind::Denied, text));
            }
            let mut hasher = blake3::Hasher::new_derive_key("wherry1 keyfile");
            hasher.update(&salt).update(content);
            Ok(Some(Secret::new(*hasher.finalize().as_bytes())))
        }
        _ => Ok(None),
    }
}

/// What is below `keys/`, ascending.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    slots: Vec<u64>,
    /// Key epochs that have an object of their own.
    pub(crate) epochs: Vec<u32>,
}

pub(crate) fn listed(storage: &dyn Storage) -> Result<Listed> {
    let mut found = Listed::default();
    storage.list(keys::KEYS, &mut |object| {
        let name = object.key.as_str().strip_prefix(keys::KEYS).and_then(|name| unhex(name).map(u64::from_be_bytes));
        found.slots.extend(name);
        found.epochs.extend(keys::parse_epoch(&object.key));
        Ok(())
    })?;
    found.slots.sort_unstable();
    found.epochs.sort_unstable();
    Ok(found)
}

/// Every slot object: its number and what it holds or why it does not.
pub(crate) fn slots(storage: &dyn Storage) -> Result<Vec<(u64, Result<KeySlot>)>> {
    Ok(listed(storage)?.slots(storage))
}

impl Listed {
    pub(crate) fn leave_out(&mut self, slot: Option<u64>) {
        self.slots.retain(|other| Some(*other) != slot);
    }

    pub(crate) fn slots(&self, storage: &dyn Storage) -> Vec<(u64, Result<KeySlot>)> {
        self.slots.iter().map(|slot| (*slot, read_slot(storage, *slot))).collect()
    }
}

fn read_slot(storage: &dyn Storage, slot: u64) -> Result<KeySlot> {
    let key = keys::slot(slot);
    let object: KeySlot = clear::decode(&storage.get(&key)?).map_err(|e| e.with_object(&key))?;
    let right = object.slot == format!("{slot:016x}") && object.wherry == "key";
    if right { Ok(object) } else { Err(Error::corrupt("a key slot stands under another's key").with_object(&key)) }
}

/// Tries `credential` on every slot.
pub(crate) fn unlock(storage: &dyn Storage, repository: RepositoryId, credential: &Credential) -> Result<Keys> {
    unlock_one_of(storage, repository, credential, &listed(storage)?)
}

/// Likewise, of some of them.
pub(crate) fn unlock_one_of(
    storage: &dyn Storage,
    repository: RepositoryId,
    credential: &Credential,
    listed: &Listed,
) -> Result<Keys> {
    let (mut damaged, mut tried, mut lacks) = (None, 0, None);
    if listed.slots.is_empty() {
        let text = format!("each key slot below keys/ of the repository at {} is gone", storage.location());
        return Err(Error::corrupt(text)
            .advise("no password and no key file opens it without one: bring one back from a copy of the repository"));
    }
    for (number, slot) in listed.slots(storage) {
        let slot = match slot {
            Ok(slot) => slot,
            // Removed since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            // Another one may open.
            Err(e) if crate::storage::is_damage(storage, &e) => {
                damaged = Some(e);
                continue;
            }
            Err(e) => return Err(e),
        };
        let kek = match kek(&slot, credential) {
            Ok(Some(kek)) => kek,
            Ok(None) => continue,
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                damaged = Some(e);
                continue;
            }
            Err(e) => return Err(e),
        };
        tried += 1;
        let Some(wrapped) = unhex_vec(&slot.wrapped) else { continue };
        if let Some(bundle) = crypto::open(&kek, &slot_context(&repository, &slot)?, &wrapped) {
            let keys = Keys::new(repository, number, Bundle::decode(&Zeroizing::new(bundle))?);
            match keys.add_epochs(storage, &listed.epochs, &kek) {
                Ok(()) => return Ok(Keys { kek: Some(kek), ..keys }),
                // Another slot may take it too, and have them all.
                Err(e) if matches!(e.kind(), ErrorKind::Denied) || crate::storage::is_damage(storage, &e) => {
                    lacks.get_or_insert(e);
                }
                Err(e) => return Err(e),
            }
        }
    }
    if let Some(e) = lacks {
        let slots_are_intact = damaged.is_none();
        // What to do about it is worth no other error.
        let stray = slots_are_intact.then(|| epochs::stray(storage, listed)).and_then(|n| n.ok().flatten());
        return Err(stray.filter(|_| e.kind() == ErrorKind::Denied).unwrap_or(e));
    }
    if let Some(e) = damaged {
        return Err(e.context("no intact key slot takes this password or key, and one slot cannot be read"));
    }
    let what = match (credential, tried) {
        (_, 0) => {
            "no key slot of this repository is of that kind: try a password instead of a key file, or the reverse"
        }
        (Credential::Password(_), _) => {
            "wrong password: no key slot of this repository opens with it; try another one, or a key file"
        }
        (Credential::KeyFile(_), _) => {
            "wrong key file: no key slot of this repository opens with it; try another one, or a password"
        }
    };
    Err(Error::new(ErrorKind::Denied, what))
}

pub(crate) fn unhex_vec(text: &str) -> Option<Vec<u8>> {
    text.as_bytes().chunks(2).map(|pair| unhex::<1>(std::str::from_utf8(pair).ok()?).map(|[b]| b)).collect()
}

mod epochs;
pub use epochs::Rotated;
pub(crate) use epochs::{unwrapped, wrapped};
