//! Key epochs: new packs are sealed under a new secret from a rotation on, old ones stay readable. Section *Key epochs* of
//! `docs/format.md`: a rotation is one object, which is there whole or not at all.

use super::{Credential, Keys, Listed, kek, listed, slot_context, unhex_vec};
use crate::crypto::{self, Secret};
use crate::format::clear::{self, Epoch, EpochSlot, KeySlot};
use crate::format::pack;
use crate::id::{PackId, RepositoryId, hex};
use crate::storage::{Key, Storage, keys};
use crate::{Error, ErrorKind, Repository, Result, clock};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// What a rotation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The number of the epoch that new packs have.
    pub epoch: u32,
    /// The slots that open it.
    pub slots: Vec<u64>,
    /// Slots that others added at the same time and that do not: whoever added them is told, too.
    pub left_out: Vec<u64>,
}

/// An object that says of a key epoch what each slot needs.
fn read(storage: &dyn Storage, n: u32) -> Result<Epoch> {
    let key = keys::epoch(n);
    let object: Epoch = clear::decode(&storage.get(&key)?).map_err(|e| e.with_object(&key))?;
    let right = object.epoch == n && object.wherry == "epoch";
    if right { Ok(object) } else { Err(Error::corrupt("a key epoch stands under another's key").with_object(&key)) }
}

/// What the secret of an epoch is sealed for.
fn context(repository: &RepositoryId, epoch: u32, slot: &str) -> Vec<u8> {
    [b"wherry1 epoch".as_slice(), repository.bytes(), keys::epoch(epoch).as_str().as_bytes(), slot.as_bytes()].concat()
}

/// The secret of an epoch, as `kek` opens it for a slot; `None`: it does not.
pub(crate) fn unwrapped(kek: &Secret, repository: &RepositoryId, epoch: u32, mine: &EpochSlot) -> Option<Secret> {
    let wrapped = unhex_vec(&mine.wrapped)?;
    let opened = crypto::open(kek, &context(repository, epoch, &mine.slot), &wrapped).map(Zeroizing::new)?;
    <[u8; 32]>::try_from(opened.as_slice()).ok().map(Secret::new)
}

/// The reverse.
///
/// # Errors
/// When sealing fails.
pub(crate) fn wrapped(
    kek: &Secret,
    repository: &RepositoryId,
    epoch: u32,
    slot: &str,
    secret: &[u8; 32],
) -> Result<EpochSlot> {
    let sealed = crypto::seal(kek, &context(repository, epoch, slot), secret)?;
    Ok(EpochSlot { slot: slot.to_owned(), wrapped: hex(&sealed) })
}

/// Whether an epoch says what a slot needs.
fn names(epoch: &Epoch, slot: &KeySlot) -> bool {
    epoch.slots.iter().any(|other| other.slot == slot.slot)
}

/// Says what to do about a key epoch that no slot opens: it was created by a request of a rotation that had failed, when those it was
/// for had gone (P5). `None` where one opens it, or it may be in use: all slots are to be intact, and no pack sealed under it.
pub(super) fn stray(storage: &dyn Storage, listed: &Listed) -> Result<Option<Error>> {
    let slots: Vec<KeySlot> = listed.slots(storage).into_iter().map(|(_, slot)| slot).collect::<Result<_>>()?;
    let Some(n) = listed.epochs.last().copied() else { return Ok(None) };
    let object = read(storage, n)?;
    if slots.iter().any(|slot| slot.epoch >= n || names(&object, slot)) {
        return Ok(None);
    }
    let Sealed { found: None, unclear: false } = sealed_under(storage, n)? else { return Ok(None) };
    let key = keys::epoch(n);
    let text = format!(
        "no key slot opens key epoch {n}: it came from a rotation of the keys that had failed, after the slots it was made for were \
         removed, and nothing is sealed under it; when no wherry works in this repository, remove the object {key} from the storage, and run \
         the same command again"
    );
    Ok(Some(Error::new(ErrorKind::Denied, text).with_object(key)))
}

/// Which packs are sealed under an epoch or a later one.
struct Sealed {
    /// One that says so, and which epoch that is.
    found: Option<(Key, u32)>,
    /// Of some session no pack could be asked.
    unclear: bool,
}

/// Looks for packs that are sealed under this epoch or a later one. Of each session one is asked, the last one that can be read: what
/// a session seals has no older epoch than what it sealed before. Times say nothing where objects were brought back, or the repository is
/// a mirror.
fn sealed_under(storage: &dyn Storage, epoch: u32) -> Result<Sealed> {
    /// Packs of a session and kind that are asked at most.
    const LAST: usize = 4;
    let mut packs: BTreeMap<_, Vec<PackId>> = BTreeMap::new();
    for prefix in [keys::PACKS, keys::META] {
        storage.list(prefix, &mut |object| {
            if let Some(pack) = keys::parse_pack(&object.key) {
                let last = packs.entry((pack.kind, pack.session)).or_default();
                last.insert(last.partition_point(|other| other.seq > pack.seq), pack);
                last.truncate(LAST);
            }
            Ok(())
        })?;
    }
    let packs: Vec<Vec<PackId>> = packs.into_values().collect();
    let found = Mutex::new(None);
    // The first one that is ends it.
    let asked = crate::side::each(storage.lanes(), &packs, |last| {
        for key in last.iter().map(keys::pack) {
            let read = storage.get_range(&key, 0..pack::HEADER as u64).and_then(|header| pack::Header::decode(&header));
            match read {
                Err(e) if crate::storage::is_damage(storage, &e) => {}
                Err(e) => return Err(e),
                Ok(header) if header.epoch < epoch => return Ok(true),
                Ok(header) => {
                    *found.lock() = Some((key, header.epoch));
                    return Err(Error::new(ErrorKind::Conflict, "it is used"));
                }
            }
        }
        Ok(false)
    });
    match found.into_inner() {
        None => Ok(Sealed { found: None, unclear: asked?.contains(&false) }),
        found => Ok(Sealed { found, unclear: false }),
    }
}

impl Keys {
    /// Takes in the epochs that are newer than the slot, which `kek` has opened. `Denied` when it does not open one of them.
    pub(super) fn add_epochs(&self, storage: &dyn Storage, epochs: &[u32], kek: &Secret) -> Result<()> {
        for n in epochs {
            if self.bundle.read().epochs.contains_key(n) {
                continue;
            }
            let object = read(storage, *n)?;
            let slot = format!("{:016x}", self.slot);
            let Some(mine) = object.slots.iter().find(|mine| mine.slot == slot) else {
                let text = format!(
                    "key slot {slot} does not open key epoch {n}: it was added while the keys were rotated; use another \
                     password or key file, remove this slot with `wherry key remove`, and add it again"
                );
                return Err(Error::new(ErrorKind::Denied, text));
            };
            let damaged = || Error::corrupt("a key epoch does not open with its slot").with_object(keys::epoch(*n));
            let secret = unwrapped(kek, &self.repository, *n, mine).ok_or_else(damaged)?;
            self.bundle.write().epochs.insert(*n, secret);
        }
        Ok(())
    }

    /// Takes in the epochs that were made since the repository was opened: who reads for days must not be cut off by a
    /// rotation. `Denied` when the slot that opened it does not open one of them.
    pub(crate) fn learn(&self) -> Result<()> {
        let (Some(storage), Some(kek)) = (&self.storage, &self.kek) else { return Ok(()) };
        self.add_epochs(&**storage, &listed(&**storage)?.epochs, kek)
    }
}

impl Repository {
    /// The key epochs that have an object, and what it says.
    pub(crate) fn epochs(&self) -> Result<Vec<(Key, Result<Epoch>)>> {
        let found = listed(self.storage())?.epochs;
        Ok(found.into_iter().map(|n| (keys::epoch(n), read(self.storage(), n))).collect())
    }

    /// The first of the epochs that a slot does not open. Those that its bundle has are not read: what is damaged hurts those
    /// who need it alone.
    fn lacking(&self, slot: &KeySlot, listed: &Listed) -> Result<Option<u32>> {
        for n in listed.epochs.iter().filter(|n| **n > slot.epoch) {
            if !names(&read(self.storage(), *n)?, slot) {
                return Ok(Some(*n));
            }
        }
        Ok(None)
    }

    /// Fails when a rotation has made epochs that a slot which was just added does not open.
    pub(crate) fn check_slot(&self, slot: &KeySlot) -> Result<()> {
        match self.lacking(slot, &listed(self.storage())?)? {
            None => Ok(()),
            Some(n) => {
                let text =
                    format!("the keys were rotated at the same time (key epoch {n}): run the same command again");
                Err(Error::new(ErrorKind::Conflict, text))
            }
        }
    }

    /// Whether a slot opens all that there is.
    pub(crate) fn opens_all(&self, slot: &KeySlot) -> Result<bool> {
        Ok(self.lacking(slot, &listed(self.storage())?)?.is_none())
    }

    /// M4: new packs are sealed under a new secret by whoever opens the repository from now on. Every slot must open it, so
    /// the credentials of the `others` than the one in use are needed. `Invalid` when a slot is left: nothing was changed.
    /// `Conflict` when somebody else rotated at the same time.
    pub fn rotate(&self, others: &[Credential]) -> Result<Rotated> {
        self.check_writable()?;
        let (storage, own) = (self.storage(), self.keys());
        let before = listed(storage)?;
        // Also that of an object that is lost: its packs are there.
        let mut newest = before.epochs.last().copied().unwrap_or_default().max(own.epoch());
        let (mut found, mut left, mut opened) = (Vec::new(), Vec::new(), Vec::new());
        for (number, slot) in before.slots(storage) {
            let slot = match slot {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                slot => slot.map_err(|e| e.advise("remove that slot with `wherry key remove` first"))?,
            };
            newest = newest.max(slot.epoch);
            if self.lacking(&slot, &before)?.is_some() {
                left.push(slot.slot);
                continue;
            }
            let key = match number == own.slot {
                true => own.kek.clone(),
                false => opening(&self.id(), &slot, others)?,
            };
            match key {
                Some(key) => {
                    found.push((number, slot.slot.clone(), key));
                    opened.push((number, slot));
                }
                None => left.push(slot.slot),
            }
        }
        if !left.is_empty() {
            let text = format!(
                "key slot {} would not open what is written from then on, and nothing was changed: give its password or key \
                 with --slot-password-file or --slot-key-file, or remove it with `wherry key remove` and add it afterwards",
                left.join(", ")
            );
            return Err(Error::invalid(text));
        }
        self.look_for_lost(newest)?;
        self.enable(clear::EPOCHS)?;
        let epoch = newest.checked_add(1).filter(|n| *n <= u32::from(u16::MAX));
        let epoch = epoch.ok_or_else(|| Error::invalid("the keys were rotated too often"))?;
        let secret = Zeroizing::new(clock::random::<32>(self.rng())?);
        let wrap = |(_, slot, key): &(u64, String, Secret)| wrapped(key, &self.id(), epoch, slot, &secret);
        let slots: Vec<EpochSlot> = found.iter().map(wrap).collect::<Result<_>>()?;
        let created = self.clock().now().seconds();
        let object = Epoch { wherry: "epoch".into(), epoch, created, slots, crc: String::new() };
        storage.create(&keys::epoch(epoch), clear::encode(&object)?.into()).map_err(|e| match e.kind() {
            ErrorKind::Conflict => {
                let text = format!("somebody else has rotated the keys at the same time: key epoch {epoch} is theirs");
                Error::new(ErrorKind::Conflict, text)
            }
            _ => e,
        })?;
        // Whoever adds or removes a slot looks for epochs afterwards; so one of both sees the other.
        let done = |e: Error| e.context(format!("the keys were rotated (key epoch {epoch}); see `wherry key list`"));
        let after = listed(storage).map_err(done)?.slots(storage);
        let late = |slot: &KeySlot| !names(&object, slot);
        if !after.iter().any(|(_, slot)| slot.as_ref().is_ok_and(|slot| !late(slot))) {
            self.put_back(&opened).map_err(done)?;
        }
        let is_late = |(_, slot): &(u64, Result<KeySlot>)| slot.as_ref().is_ok_and(late);
        let left_out = after.iter().filter(|slot| is_late(slot)).map(|(number, _)| *number).collect();
        Ok(Rotated { epoch, slots: found.into_iter().map(|(number, ..)| number).collect(), left_out })
    }

    /// Fails when packs are sealed under an epoch of which there is no sign but these: its number must not stand for two secrets.
    fn look_for_lost(&self, newest: u32) -> Result<()> {
        let Some((pack, epoch)) = sealed_under(self.storage(), newest.saturating_add(1))?.found else { return Ok(()) };
        let key = keys::epoch(epoch);
        if listed(self.storage())?.epochs.contains(&epoch) {
            let text = format!("somebody else has rotated the keys at the same time: key epoch {epoch} is theirs");
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        let text = format!("{key} is lost, the key of pack {pack} and others: nothing was changed");
        Err(Error::corrupt(text)
            .with_object(&key)
            .advise("bring it back from a copy of the repository; `wherry check` says what it hits"))
    }

    /// All slots that open the new epoch were removed while it was made, and those that are there now do not: without these
    /// nobody could open the repository.
    fn put_back(&self, slots: &[(u64, KeySlot)]) -> Result<()> {
        let mut back = Vec::new();
        for (number, slot) in slots {
            match self.storage().create(&keys::slot(*number), clear::encode(slot)?.into()) {
                Ok(()) => back.push(slot.slot.as_str()),
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                Err(e) => return Err(e),
            }
        }
        if back.is_empty() {
            return Ok(());
        }
        let text = format!(
            "key slot {} was removed meanwhile and is there again, as no other one opens what is written from now on: remove \
             the others, add them again, then remove it",
            back.join(", ")
        );
        Err(Error::new(ErrorKind::Conflict, text))
    }
}

/// What opens a slot, made of the first of these credentials that does.
fn opening(repository: &RepositoryId, slot: &KeySlot, credentials: &[Credential]) -> Result<Option<Secret>> {
    let wrapped = unhex_vec(&slot.wrapped).unwrap_or_default();
    for credential in credentials {
        if let Some(key) = kek(slot, credential)?
            && crypto::open(&key, &slot_context(repository, slot)?, &wrapped).map(Zeroizing::new).is_some()
        {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
