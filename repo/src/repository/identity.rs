//! What a repository is: the objects in clear that are there before all others.

use super::Components;
use crate::format::clear::{self, Config, FORMAT, Identity};
use crate::id::RepositoryId;
use crate::storage::{Key, Storage, is_damage, keys};
use crate::{Error, ErrorKind, Result, clock};

/// The uuid of the repository that is there.
pub(super) fn read_identity(storage: &dyn Storage) -> Result<RepositoryId> {
    let key = keys::repo();
    let bytes = match storage.get(&key) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(none(storage)),
        Err(e) => return Err(e),
    };
    let identity: Identity = clear::decode(&bytes).map_err(|e| e.with_object(&key))?;
    if identity.wherry != "repository" || identity.format != FORMAT {
        return Err(Error::corrupt("the repository's identity is damaged: its fields make no sense").with_object(&key));
    }
    identity.uuid.parse().map_err(|e: Error| Error::corrupt(e.to_string()).with_object(&key))
}

fn none(storage: &dyn Storage) -> Error {
    let text = format!(
        "there is no repository at {}: check how it is named, or make one with `wherry init`",
        storage.location()
    );
    Error::new(ErrorKind::NoRepository, text)
}

fn lost(storage: &dyn Storage, key: &Key) -> Error {
    Error::corrupt(format!(
        "{} holds objects of a repository ({key}) but no repo.json: it was lost, or the path is wrong",
        storage.location()
    ))
}

/// Why a repository whose `repo.json` is not there does not open: there is `none`, or it has lost that.
pub fn no_repository(storage: &dyn Storage, none: Error) -> Error {
    // Without packs, which may be very many: where there are any, so is a key slot.
    match first_below(storage, &[keys::KEYS, keys::CONFIG, keys::SNAP]) {
        Ok(Some(key)) => lost(storage, &key).advise("put repo.json back from a copy of the repository"),
        // Who may not list is told what was asked for.
        Ok(None) | Err(_) => none,
    }
}

pub(super) fn create_identity(components: &Components) -> Result<RepositoryId> {
    let storage = &*components.storage;
    if let Some(key) = first_below(storage, &[keys::KEYS, keys::CONFIG, keys::SNAP, keys::PACKS])? {
        return Err(lost(storage, &key).advise("nothing was written"));
    }
    let id = RepositoryId::new(clock::random(&*components.rng)?);
    let identity = Identity { wherry: "repository".into(), format: FORMAT, uuid: id.to_string(), crc: String::new() };
    match storage.create(&keys::repo(), clear::encode(&identity)?.into()) {
        Ok(()) => Ok(id),
        Err(e) if e.kind() == ErrorKind::Conflict => read_identity(storage),
        Err(e) => Err(e),
    }
}

/// The newest configuration's number.
pub(super) fn highest_config(storage: &dyn Storage) -> Result<Option<u32>> {
    let mut highest = None;
    storage.list(keys::CONFIG, &mut |object| {
        highest = highest.max(keys::parse_config(&object.key));
        Ok(())
    })?;
    Ok(highest)
}

/// The newest configuration and its key, before anything vouches for it; `None` when there is none, because a repository's
/// making was not finished.
pub fn newest_config(storage: &dyn Storage) -> Result<Option<(Key, Config)>> {
    let Some(key) = highest_config(storage)?.map(keys::config) else { return Ok(None) };
    let config = read_config(storage, &key)?;
    Ok(Some((key, config)))
}

/// As [`newest_config`], but where that is damaged the newest one that is not: for what all of them say alike.
pub fn presumed_config(storage: &dyn Storage) -> Result<Option<(Key, Config)>> {
    let newest = newest_config(storage);
    if !newest.as_ref().is_err_and(|e| is_damage(storage, e)) {
        return newest;
    }
    match older_configs(storage)?.into_iter().find_map(|key| Some((read_config(storage, &key).ok()?, key))) {
        Some((config, key)) => Ok(Some((key, config))),
        None => newest,
    }
}

/// All but the newest, the next older one first.
pub(super) fn older_configs(storage: &dyn Storage) -> Result<Vec<Key>> {
    let mut found = Vec::new();
    storage.list(keys::CONFIG, &mut |object| {
        found.extend(keys::parse_config(&object.key));
        Ok(())
    })?;
    found.sort_unstable();
    found.pop();
    Ok(found.into_iter().rev().map(keys::config).collect())
}

pub(super) fn read_config(storage: &dyn Storage, key: &Key) -> Result<Config> {
    clear::decode(&storage.get(key)?).map_err(|e| e.with_object(key))
}

/// Some object below one of these prefixes.
fn first_below(storage: &dyn Storage, prefixes: &[&str]) -> Result<Option<Key>> {
    let mut first = None;
    for prefix in prefixes {
        storage.list(prefix, &mut |object| {
            first.get_or_insert(object.key);
            Ok(())
        })?;
    }
    Ok(first)
}

/// An error where there is data: keys or settings that are not there were lost then, and are not those of a repository whose
/// making was not finished. Made anew, keys would not open what is there, and settings would say that nothing in it is
/// beyond an old build.
pub(super) fn is_young(storage: &dyn Storage, lacks: &str) -> Result<()> {
    let Some(key) = first_below(storage, &[keys::SNAP, keys::GEN, keys::PACKS])? else { return Ok(()) };
    let text = format!("{lacks} of the repository at {} is gone, although there is data ({key})", storage.location());
    Err(Error::corrupt(text).advise("bring it back from a copy of the repository; nothing was written"))
}
