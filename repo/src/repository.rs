//! A repository: made, opened, its records read and written, its snapshots listed.

mod identity;
mod listing;
mod recover;

use crate::elsewhere::Elsewhere;
use crate::forget::Forget;
use crate::format::clear::{self, Config, KeySlot, SUITE};
use crate::format::records::{self, Record, SnapshotRecord};
use crate::id::{RepositoryId, SessionId, SnapshotId, VolumeId};
use crate::keys::{self as bundle, Bundle, Credential, Keys, PasswordCost, SlotInfo};
use crate::map::NodeCache;
use crate::pack::{KeyCache, Opener};
use crate::storage::{Key, Storage, keys};
use crate::tree::TreeCache;
use crate::{Clock, Error, ErrorKind, Result, Rng, Timestamp, clock};
use bytes::Bytes;
use identity::{create_identity, highest_config, is_young, read_identity};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use identity::{newest_config, no_repository, presumed_config};

/// What a repository works with, passed in so that tests can steer it.
#[derive(Clone, Debug)]
pub struct Components {
    /// Where its objects live.
    pub storage: Arc<dyn Storage>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
}

/// How a new repository is made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct InitOptions {
    /// Default chunk size of block volumes in bytes: a power of two from 64 KiB to 4 MiB.
    pub chunk_size: u32,
    /// Allow a storage that cannot tell two writers apart; then only one process may work at a time.
    pub single_writer: bool,
    /// Cost of turning a password into a key.
    pub password_cost: PasswordCost,
}

/// 256 KiB: a leaf of the map covers 32 MiB, and a random 4 KiB write costs a quarter of what it costs at 1 MiB.
pub const DEFAULT_CHUNK_SIZE: u32 = 256 << 10;

impl Default for InitOptions {
    fn default() -> Self {
        Self { chunk_size: DEFAULT_CHUNK_SIZE, single_writer: false, password_cost: PasswordCost::default() }
    }
}

/// log2 of a chunk size in bytes, if it is one of those allowed.
pub fn class_of(chunk_size: u32) -> Result<u8> {
    let class = chunk_size.trailing_zeros() as u8;
    let fits = chunk_size.is_power_of_two() && (crate::crypto::MIN_CLASS..=crate::crypto::MAX_CLASS).contains(&class);
    let text = || Error::invalid(format!("a chunk size of {chunk_size} bytes is not a power of two from 64K to 4M"));
    fits.then_some(class).ok_or_else(text)
}

/// A committed snapshot and whether somebody asked to forget it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Its volume.
    pub volume: VolumeId,
    /// What it holds.
    pub record: SnapshotRecord,
    /// Bytes that the record takes in the storage.
    pub record_size: u64,
}

impl Snapshot {
    /// Bytes of all objects the run left in the storage that are no data packs, this record included, which cannot hold
    /// its own length.
    pub fn metadata(&self) -> u64 {
        self.record.stats.metadata + self.record_size
    }

    /// Chunk size of the volume in bytes; `None`: it is the tree of a directory.
    pub fn chunk_size(&self) -> Option<u64> {
        self.record.tree.is_none().then(|| 1 << self.record.class)
    }

    /// Likewise, for whoever can do nothing with a tree: an error of kind [`Invalid`](ErrorKind::Invalid) says so.
    pub fn volume_chunk_size(&self) -> Result<u64> {
        let text = || {
            let Self { id, record, .. } = self;
            let name = &record.name;
            Error::invalid(format!(
                "snapshot {id} of {name:?} is the tree of a directory, not a disk: name one of a disk"
            ))
        };
        self.chunk_size().ok_or_else(text)
    }
}

/// All snapshots, and the outcome objects that could not be read.
#[derive(Debug, Default)]
pub struct SnapshotList {
    /// The readable ones, oldest first; those somebody asked to forget are in `hidden` too.
    pub snapshots: Vec<Snapshot>,
    /// Those that are gone for good and whose records a collector has not removed yet.
    pub(crate) gone: Vec<Snapshot>,
    /// What the newest forget says of each snapshot that has a record and was asked for.
    pub forgets: BTreeMap<SnapshotId, Forget>,
    /// Those with a forget that was settled, and without a record; not in a list of one volume.
    pub traces: BTreeSet<SnapshotId>,
    /// Objects that are damaged, and how; but for those of snapshots that are gone for good.
    pub damaged: Vec<(Key, Error)>,
    /// Records that are damaged, of what is gone for good.
    pub(crate) spoiled: Vec<Key>,
    /// Sessions that ended without a snapshot, and when.
    pub fenced: Vec<(SessionId, Timestamp)>,
}

impl SnapshotList {
    /// True unless somebody asked to forget it and did not take that back.
    pub fn is_visible(&self, id: &SnapshotId) -> bool {
        !self.forgets.get(id).is_some_and(|f| f.hides())
    }

    /// Those nobody asked to forget, oldest first.
    pub fn visible(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().filter(|s| self.is_visible(&s.id))
    }
}

/// An opened repository. Clones share everything.
#[derive(Clone, Debug)]
pub struct Repository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    components: Components,
    keys: Keys,
    config: Config,
    /// The newest configuration, when it is damaged and what it said is known all the same.
    damaged_config: Option<Key>,
    pack_keys: KeyCache,
    nodes: NodeCache,
    tree_nodes: TreeCache,
    elsewhere: Elsewhere,
    /// It was said that readers go without a session.
    told_alone: AtomicBool,
    out_of_reach: AtomicBool,
}

impl Repository {
    /// Makes a repository, or finishes one whose making was interrupted. [`ErrorKind::Conflict`] when there is one.
    pub fn init(components: Components, options: &InitOptions, credential: &Credential) -> Result<Self> {
        class_of(options.chunk_size)?;
        let storage = components.storage.clone();
        let id = match read_identity(&*storage) {
            Ok(id) => id,
            Err(e) if e.kind() == ErrorKind::NoRepository => create_identity(&components)?,
            Err(e) => return Err(e),
        };
        let slots = bundle::slots(&*storage)?;
        if !slots.is_empty() && highest_config(&*storage)?.is_some() {
            let text = format!("there is a repository at {} already; it was not touched", storage.location());
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        is_young(&*storage, if slots.is_empty() { "each object below keys/" } else { "each object below config/" })?;
        let keys = if slots.is_empty() {
            // The first slot has a fixed name, so that of two who make it at once only one draws the keys.
            let keys = Keys::new(id, 0, Bundle::draw(&*components.rng)?);
            let now = components.clock.now().seconds();
            let slot = keys.wrap(credential, options.password_cost, 0, now, &*components.rng)?;
            storage.create(&keys::slot(0), clear::encode(&slot)?.into())?;
            keys
        } else {
            bundle::unlock(&*storage, id, credential).map_err(|e| {
                e.context("a repository was begun here and not finished, and its key slot does not open")
            })?
        };
        let config = Config {
            wherry: "config".into(),
            minor: 0,
            read: Vec::new(),
            write: Vec::new(),
            gc: Vec::new(),
            suite: SUITE.into(),
            chunk_size: options.chunk_size,
            single_writer: options.single_writer,
            mac: String::new(),
            crc: String::new(),
        };
        let key = keys::config(0);
        let config = Config { mac: config_mac(&keys, &key, &config)?, ..config };
        storage.create(&key, clear::encode(&config)?.into())?;
        Self::open(components, credential)
    }

    /// Opens with a password or key. Errors: `NoRepository`, `Denied` (wrong password), `Unsupported` (newer),
    /// `Corrupt`.
    pub fn open(components: Components, credential: &Credential) -> Result<Self> {
        let storage = components.storage.clone();
        let id = read_identity(&*storage).map_err(|e| match e.kind() {
            ErrorKind::NoRepository => no_repository(&*storage, e),
            _ => e,
        })?;
        let newest = match newest_config(&*storage) {
            Err(e) if crate::storage::is_damage(&*storage, &e) => {
                return recover::open(components, id, credential, e);
            }
            newest => newest?,
        };
        let Some((key, config)) = newest else {
            is_young(&*storage, "each object below config/")?;
            let text =
                format!("the repository at {} was begun and not finished: run `wherry init` again", storage.location());
            return Err(Error::new(ErrorKind::NoRepository, text));
        };
        clear::check_readable(&config)?;
        class_of(config.chunk_size).map_err(|e| Error::corrupt(e.to_string()).with_object(&key))?;
        let keys = bundle::unlock(&*storage, id, credential)?.within(storage);
        check_mac(&keys, &key, &config)?;
        Ok(Self::opened(components, keys, config, None))
    }

    fn opened(components: Components, keys: Keys, config: Config, damaged_config: Option<Key>) -> Self {
        let inner = Inner {
            components,
            keys,
            config,
            damaged_config,
            pack_keys: KeyCache::default(),
            nodes: NodeCache::default(),
            tree_nodes: TreeCache::default(),
            elsewhere: Elsewhere::default(),
            told_alone: AtomicBool::new(false),
            out_of_reach: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The repository's uuid.
    pub fn id(&self) -> RepositoryId {
        self.inner.keys.repository
    }

    /// Default chunk size of block volumes in bytes.
    pub fn chunk_size(&self) -> u32 {
        self.inner.config.chunk_size
    }

    /// True when there may have been snapshots of trees when it was opened.
    pub fn has_trees(&self) -> bool {
        clear::TREE.is_in(&self.inner.config)
    }

    /// True when only one process may work in it at a time.
    pub fn is_single_writer(&self) -> bool {
        self.inner.config.single_writer
    }

    /// Where its objects live.
    pub fn storage(&self) -> &dyn Storage {
        &*self.inner.components.storage
    }

    /// Storage, clock and randomness.
    pub fn components(&self) -> &Components {
        &self.inner.components
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.inner.components.clock
    }

    pub(crate) fn rng(&self) -> &dyn Rng {
        &*self.inner.components.rng
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    pub(crate) fn opener(&self) -> Opener<'_> {
        Opener { keys: &self.inner.keys, cache: &self.inner.pack_keys }
    }

    pub(crate) fn nodes(&self) -> &NodeCache {
        &self.inner.nodes
    }

    /// Keeps about so many bytes of nodes of maps, for all snapshots that are read or built upon together.
    pub fn limit_nodes(&self, bytes: u64) {
        self.inner.nodes.set_limit(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    pub(crate) fn tree_nodes(&self) -> &TreeCache {
        &self.inner.tree_nodes
    }

    /// Keeps about so many bytes of nodes of trees, packs of them included, for all snapshots together. With less than
    /// 6 MiB no whole pack is kept for long, which makes a walk through a large tree slow.
    pub fn limit_tree_nodes(&self, bytes: u64) {
        self.inner.tree_nodes.set_limit(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// What is looked up by id, since it is not where a map says.
    pub(crate) fn elsewhere(&self) -> &Elsewhere {
        &self.inner.elsewhere
    }

    /// Whether it was said before that readers go without a session; from now on it was.
    pub(crate) fn told_alone(&self) -> bool {
        self.inner.told_alone.swap(true, Ordering::Relaxed)
    }

    /// Notes whether the storage answered a request.
    pub(crate) fn reached<T>(&self, result: &Result<T>) {
        let silent = result.as_ref().is_err_and(|e| self.is_silence(e));
        self.inner.out_of_reach.store(silent, Ordering::Relaxed);
    }

    /// True when a storage that is not of this machine did not answer the last time: what need not be asked of it should
    /// not be, for each request waits long.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        self.inner.out_of_reach.load(Ordering::Relaxed)
    }

    /// True when the error says that a storage which is not of this machine does not answer.
    pub(crate) fn is_silence(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::Unavailable && !self.storage().is_local()
    }

    /// Fails when the repository had a feature, when it was opened, that this build must not write beside. Costs nothing.
    pub(crate) fn was_writable(&self) -> Result<()> {
        if let Some(key) = &self.inner.damaged_config {
            return Err(Error::corrupt("the repository's configuration is damaged").with_object(key));
        }
        clear::check_writable(&self.inner.config)
    }

    /// The id of a volume by its name.
    pub fn volume_id(&self, name: &str) -> VolumeId {
        self.inner.keys.ids.volume(name)
    }

    pub(crate) fn nonce(&self) -> Result<[u8; 16]> {
        clock::random(self.rng())
    }

    /// Creates configuration `n`: the present one, changed, and under this repository's keys. What an upgrade does.
    /// `Conflict` when the number is taken.
    pub fn publish_config(&self, n: u32, change: impl FnOnce(&mut Config)) -> Result<()> {
        let mut config = self.inner.config.clone();
        change(&mut config);
        self.create_config(n, config)
    }

    /// Fails when the repository was given a feature meanwhile that this build must not write beside.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.newest_config().map(drop)
    }

    /// Fails when the repository has a feature by now that this build must not delete beside.
    pub(crate) fn check_collectable(&self) -> Result<()> {
        self.newest_config().and_then(|(_, config)| clear::check_collectable(&config))
    }

    /// The newest configuration, if this build may write beside it, and its number.
    pub(crate) fn newest_config(&self) -> Result<(u32, Config)> {
        let gone = || Error::corrupt("the repository has no configuration any more").with_object(keys::config(0));
        let newest = newest_config(self.storage()).map_err(|e| match &self.inner.damaged_config {
            Some(key) if e.object() == Some(key.as_str()) => {
                e.advise("reading goes on, and nothing is written until `wherry repair` has written the next one")
            }
            _ => e,
        })?;
        let (key, config) = newest.ok_or_else(gone)?;
        check_mac(self.keys(), &key, &config)?;
        clear::check_writable(&config)?;
        Ok((keys::parse_config(&key).ok_or_else(gone)?, config))
    }

    pub(crate) fn create_config(&self, n: u32, mut config: Config) -> Result<()> {
        let key = keys::config(n);
        config.mac = config_mac(self.keys(), &key, &config)?;
        self.storage().create(&key, clear::encode(&config)?.into())
    }

    /// True when the error says that an object is not as it should be; others may pass.
    pub(crate) fn is_damage(&self, error: &Error) -> bool {
        crate::storage::is_damage(self.storage(), error)
    }

    /// Reads a record and checks that it was written for this key.
    pub(crate) fn read<T: Record>(&self, key: &Key) -> Result<T> {
        self.read_sized(key).map(|(record, _)| record)
    }

    /// Reads a record, and gives the bytes it takes in the storage.
    pub(crate) fn read_sized<T: Record>(&self, key: &Key) -> Result<(T, u64)> {
        let bytes = self.storage().get(key)?;
        let body = self.keys().open_record(T::KIND, key, &bytes)?;
        records::decode(&body).map(|record| (record, bytes.len() as u64)).map_err(|e| e.with_object(key))
    }

    /// The sealed bytes of a record.
    pub(crate) fn sealed<T: Record>(&self, key: &Key, record: &T) -> Result<Bytes> {
        Ok(self.keys().seal_record(T::KIND, key, &records::encode(record)?)?.into())
    }

    /// Creates a record; `Conflict` when the key holds another one.
    pub(crate) fn create<T: Record>(&self, key: &Key, record: &T) -> Result<u64> {
        let bytes = self.sealed(key, record)?;
        let len = bytes.len() as u64;
        self.storage().create(key, bytes)?;
        Ok(len)
    }

    /// All keys below a prefix.
    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<Key>> {
        let mut found = Vec::new();
        self.storage().list(prefix, &mut |object| {
            found.push(object.key);
            Ok(())
        })?;
        Ok(found)
    }

    /// Reads records, and how long they are, with several requests under way, in the order of `found`.
    pub(crate) fn read_many<K: Sync, T: Record + Send>(&self, found: &[(K, Key)]) -> Vec<Result<(T, u64)>> {
        let lanes = self.storage().lanes();
        let share = found.len().div_ceil(lanes).max(8);
        let read = |part: &[(K, Key)]| part.iter().map(|(_, key)| self.read_sized(key)).collect::<Vec<_>>();
        let lost = || vec![Err(Error::internal("a thread that read records panicked"))];
        crate::side::at_once(found.chunks(share), read, lost).into_iter().flatten().collect()
    }

    /// The key slots; damaged ones as errors.
    pub fn slots(&self) -> Result<Vec<Result<SlotInfo>>> {
        let info = |(slot, object): (u64, Result<KeySlot>)| {
            object.map(|o| SlotInfo { slot, kind: o.kind, created: o.created, current: slot == self.keys().slot })
        };
        Ok(bundle::slots(self.storage())?.into_iter().map(info).collect())
    }

    /// Adds a way in; returns the new slot's number.
    pub fn add_slot(&self, credential: &Credential, cost: PasswordCost) -> Result<u64> {
        self.check_writable()?;
        let slot = u64::from_le_bytes(clock::random(self.rng())?);
        let object = self.keys().wrap(credential, cost, slot, self.clock().now().seconds(), self.rng())?;
        self.storage().create(&keys::slot(slot), clear::encode(&object)?.into())?;
        if let Err(e) = self.check_slot(&object) {
            // It would open a part of what there is, and be taken for a way in.
            self.storage().delete(&keys::slot(slot))?;
            return Err(e);
        }
        Ok(slot)
    }

    /// The number of a slot that this opens, other than `but`; `None` when it opens none of those that can be read.
    pub fn slot_of(&self, credential: &Credential, but: Option<u64>) -> Result<Option<u64>> {
        let mut listed = bundle::listed(self.storage())?;
        listed.leave_out(but);
        match bundle::unlock_one_of(self.storage(), self.id(), credential, &listed) {
            Ok(keys) => Ok(Some(keys.slot)),
            Err(e) if e.kind() == ErrorKind::Denied || self.is_damage(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes a way in; never the last one. `Conflict` when another was removed at the same time and this one was the
    /// last: it is there again.
    pub fn remove_slot(&self, slot: u64) -> Result<()> {
        self.check_writable()?;
        let all = bundle::slots(self.storage())?;
        if !all.iter().any(|(n, _)| *n == slot) {
            return Err(Error::invalid(format!("there is no key slot {slot:016x}: see `wherry key list`")));
        }
        let opens = |object: &KeySlot| match self.opens_all(object) {
            Err(e) if self.is_damage(&e) => Ok(false),
            opens => opens,
        };
        let mut has_another = false;
        for object in all.iter().filter(|(n, _)| *n != slot).filter_map(|(_, object)| object.as_ref().ok()) {
            has_another = has_another || opens(object)?;
        }
        let is_another = |(n, object): &(u64, Result<KeySlot>)| {
            *n != slot && object.as_ref().is_ok_and(|object| opens(object).unwrap_or(false))
        };
        if !has_another {
            return Err(Error::invalid(format!(
                "key slot {slot:016x} is the last one: without it all data is lost for ever"
            )));
        }
        let (storage, key) = (self.storage(), keys::slot(slot));
        let kept = match storage.get(&key) {
            Ok(bytes) => Some(bytes),
            // It opens nothing as it is: nothing is lost with it.
            Err(e) if self.is_damage(&e) => None,
            Err(e) => return Err(e),
        };
        let deleted = storage.delete(&key);
        // Of two who remove each the other's way in, whoever looks last sees that none is left.
        let looked = bundle::slots(storage);
        if let Ok(all) = &looked
            && all.iter().any(is_another)
        {
            deleted?;
            // Who hears that it is gone may give away what opens it.
            let gone = |object: &Result<KeySlot>| object.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound);
            if all.iter().any(|(n, object)| *n == slot && !gone(object)) {
                let text =
                    format!("key slot {slot:016x} is still there, although it was removed: run the same command again");
                return Err(Error::new(ErrorKind::Unavailable, text).with_object(&key));
            }
            return Ok(());
        }
        match kept.map(|bytes| storage.create(&key, bytes)) {
            Some(Err(e)) if e.kind() != ErrorKind::Conflict => {
                let what =
                    format!("key slot {slot:016x} was removed, may have been the last one, and was not put back");
                return Err(e.context(what));
            }
            _ => {}
        }
        looked
            .map_err(|e| e.context(format!("key slot {slot:016x} was put back: which others are left is not known")))?;
        let text = format!(
            "key slot {slot:016x} is there again: the others were removed at the same time, and without any all data is lost \
             for ever; see `wherry key list`"
        );
        Err(Error::new(ErrorKind::Conflict, text))
    }
}

/// What the `mac` field of a configuration must be.
fn config_mac(keys: &Keys, key: &Key, config: &Config) -> Result<String> {
    let bare = Config { mac: "0".repeat(64), crc: "0".repeat(8), ..config.clone() };
    let line = serde_json::to_vec(&bare).map_err(|e| Error::internal("JSON was not written").with_source(e))?;
    Ok(keys.config_mac(key, &line))
}

/// Fails unless a configuration was written with these keys.
pub(crate) fn check_mac(keys: &Keys, key: &Key, config: &Config) -> Result<()> {
    if config_mac(keys, key, config)? == config.mac {
        return Ok(());
    }
    Err(Error::corrupt("the repository's configuration was not written with its keys").with_object(key))
}

#[cfg(test)]
mod tests;
