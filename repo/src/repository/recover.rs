//! What a damaged newest configuration said, where that is certain: `docs/format.md`, *A damaged configuration*.

use super::identity::{older_configs, read_config};
use super::{Components, Repository, check_mac, config_mac};
use crate::format::clear::{self, Config, Feature};
use crate::id::RepositoryId;
use crate::keys::{Credential, Keys, unlock};
use crate::storage::{Key, Storage, keys};
use crate::{Error, ErrorKind, Result};

/// Digits of a digest of 64 that must be there. That so many are by chance, among all places and all configurations that are
/// tried, is less likely than 2^-100.
const DIGITS: usize = 48;

/// Opens a repository whose newest configuration is damaged as `why` says.
pub(super) fn open(
    components: Components,
    id: RepositoryId,
    credential: &Credential,
    why: Error,
) -> Result<Repository> {
    let storage = components.storage.clone();
    let older = older_configs(&*storage)?;
    let Some(key) = why.object().and_then(|key| Key::new(key).ok()).filter(|_| !older.is_empty()) else {
        return Err(why);
    };
    let keys = unlock(&*storage, id, credential)?.within(storage.clone());
    let intact = older.into_iter().find_map(|older| {
        let config = read_config(&*storage, &older).ok()?;
        check_mac(&keys, &older, &config).ok().map(|()| (older, config))
    });
    let Some((older, before)) = intact else { return Err(why) };
    let Some(config) = recovered(&*storage, &keys, &key, &before)? else {
        return Err(why.advise(&format!(
            "what it said is not known, and may have been that a newer wherry is needed; where no copy of it is to be had, move this \
             object out of the repository: then {older} counts again, which is right as long as no newer wherry has worked here, \
             and `wherry upgrade` adds what this one knows"
        )));
    };
    clear::check_readable(&config)?;
    tracing::warn!(
        "{key} is damaged: {}; what it said is known from {older} and its own digest, so reading goes on; nothing is written until \
         `wherry repair` has written the next one",
        why.message()
    );
    Ok(Repository::opened(components, keys, config, Some(key)))
}

/// A configuration of which the object still has the digest: `before`, and features that this build knows.
fn recovered(storage: &dyn Storage, keys: &Keys, key: &Key, before: &Config) -> Result<Option<Config>> {
    let Ok(bytes) = storage.get(key) else { return Ok(None) };
    for mut config in later(before) {
        let mac = config_mac(keys, key, &config)?;
        let same = |place: &[u8]| place.iter().zip(mac.as_bytes()).filter(|(a, b)| a == b).count() >= DIGITS;
        if bytes.windows(mac.len()).any(same) {
            config.mac = mac;
            return Ok(Some(config));
        }
    }
    Ok(None)
}

/// What may come after a configuration: features are added, and nothing else changes. In the order in which they came.
fn later(before: &Config) -> Vec<Config> {
    let mut all = vec![before.clone()];
    let mut from = 0;
    while from < all.len() {
        let Some(config) = all.get(from).cloned() else { break };
        let lacks = |feature: &&Feature| !feature.is_in(&config);
        for feature in clear::KNOWN.iter().filter(lacks) {
            let mut next = config.clone();
            feature.add(&mut next);
            if !all.contains(&next) {
                all.push(next);
            }
        }
        from += 1;
    }
    all
}

impl Repository {
    /// The newest configuration, when it was damaged as the repository was opened, and what it said is known all the same.
    pub fn damaged_config(&self) -> Option<&Key> {
        self.inner.damaged_config.as_ref()
    }

    /// Writes once more what the damaged newest configuration said, and gives the key. Whoever does the same at once writes the
    /// same bytes. To be opened anew afterwards.
    ///
    /// # Errors
    /// What the storage says.
    pub fn replace_config(&self) -> Result<Option<Key>> {
        let Some(n) = self.damaged_config().and_then(keys::parse_config) else { return Ok(None) };
        clear::check_writable(&self.inner.config)?;
        let next = n.checked_add(1).ok_or_else(|| Error::internal("there is no next configuration"))?;
        match self.create_config(next, self.inner.config.clone()) {
            // Somebody has written one meanwhile.
            Err(e) if e.kind() == ErrorKind::Conflict => {}
            created => created?,
        }
        Ok(Some(keys::config(next)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Memory;
    use crate::{InitOptions, PasswordCost, SnapshotWriter, System, WriterOptions, index::ChunkIndex};
    use std::sync::Arc;
    use std::time::Duration;

    fn password() -> Credential {
        Credential::Password("x".to_owned().into())
    }

    fn components(storage: Arc<Memory>) -> Components {
        let system = Arc::new(System::default());
        Components { storage, clock: system.clone(), rng: system }
    }

    /// With two configurations, and one snapshot.
    fn repository() -> (Arc<Memory>, Key, Vec<u8>) {
        let storage = Arc::new(Memory::default());
        let options = InitOptions { password_cost: PasswordCost::new(8, 1), ..InitOptions::default() };
        let repository = Repository::init(components(storage.clone()), &options, &password()).unwrap();
        let index = Arc::new(ChunkIndex::in_memory(1 << 20));
        let options = WriterOptions { name: "vm".into(), uploads: 0, ..WriterOptions::default() };
        SnapshotWriter::start(&repository, index, &options).unwrap().commit(crate::CommitInfo::default()).unwrap();
        repository.enable(clear::TREE).unwrap();
        repository.enable(clear::PIN).unwrap();
        let key = keys::config(2);
        let bytes = storage.get(&key).unwrap().to_vec();
        (storage, key, bytes)
    }

    #[test]
    fn a_flip_anywhere_keeps_from_writing_and_not_from_reading_and_repair_heals_it() {
        let (storage, key, sound) = repository();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            storage.overwrite(&key, bytes.into()).unwrap();
            let repository = Repository::open(components(storage.clone()), &password()).unwrap();
            assert_eq!(repository.damaged_config(), Some(&key), "byte {at}");
            let config = &repository.inner.config;
            assert!(clear::TREE.is_in(config) && clear::PIN.is_in(config), "byte {at}");
            assert_eq!(repository.snapshots(None).unwrap().snapshots.len(), 1);
            let id = repository.snapshots(None).unwrap().snapshots[0].id;
            let refused = repository.forget(&id, Duration::ZERO, "test").unwrap_err();
            assert!(refused.kind() == ErrorKind::Corrupt && refused.to_string().contains("wherry repair"), "{refused}");
            assert!(repository.was_writable().is_err());
        }
        let repository = Repository::open(components(storage.clone()), &password()).unwrap();
        let next = repository.replace_config().unwrap().unwrap();
        assert_eq!(next, keys::config(3));
        let repository = Repository::open(components(storage.clone()), &password()).unwrap();
        assert_eq!(repository.damaged_config(), None);
        assert!(clear::TREE.is_in(&repository.inner.config) && clear::PIN.is_in(&repository.inner.config));
        repository.check_writable().unwrap();
        assert_eq!(repository.replace_config().unwrap(), None);
    }

    #[test]
    fn what_is_not_certain_is_refused_and_the_way_out_is_named() {
        let (storage, key, sound) = repository();
        let refused = |bytes: Vec<u8>| {
            storage.overwrite(&key, bytes.into()).unwrap();
            let e = Repository::open(components(storage.clone()), &password()).unwrap_err();
            assert_eq!((e.kind(), e.object()), (ErrorKind::Corrupt, Some(key.as_str())), "{e}");
            e.to_string()
        };
        let text = refused(Vec::new());
        assert!(text.contains("config/00000001 counts again") && text.contains("move this"), "{text}");
        // One that has a feature of a newer version, and is damaged.
        storage.overwrite(&key, sound.into()).unwrap();
        let repository = Repository::open(components(storage.clone()), &password()).unwrap();
        let mut config = repository.inner.config.clone();
        config.read.push("future".to_owned());
        config.mac = config_mac(repository.keys(), &key, &config).unwrap();
        let mut bytes = clear::encode(&config).unwrap();
        bytes[20] ^= 1;
        let text = refused(bytes);
        assert!(text.contains("newer wherry"), "{text}");
        // What was said to do helps.
        storage.delete(&key).unwrap();
        let repository = Repository::open(components(storage.clone()), &password()).unwrap();
        repository.upgrade().unwrap();
        assert!(clear::PIN.is_in(&repository.newest_config().unwrap().1));
    }
}
