//! Collecting garbage: all that anybody may still want survives, whatever happens at the same time, and the rest goes.

#[path = "collect/blamed.rs"]
mod blamed;
#[path = "collect/copied.rs"]
mod copied;
#[path = "collect/crash.rs"]
mod crash;
#[path = "collect/damaged.rs"]
mod damaged;
#[path = "collect/ended.rs"]
mod ended;
#[path = "collect/interleaved.rs"]
mod interleaved;
#[path = "collect/listings.rs"]
mod listings;
#[path = "collect/moved.rs"]
mod moved;
#[path = "collect/power.rs"]
mod power;
#[path = "collect/random.rs"]
mod random;
#[path = "collect/requests.rs"]
mod requests;
#[path = "collect/rewrite.rs"]
mod rewrite;
#[path = "collect/rules.rs"]
mod rules;
#[path = "collect/unreadable.rs"]
mod unreadable;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::storage::{Memory, Storage, keys};
use wherry_repo::{
    CheckOptions, Clock, CollectOptions, Collected, Components, PackId, Repository, Result, Snapshot, SnapshotId,
    WriterOptions,
};
use wherry_tests::small::*;

/// Without any delay: who is silent is ended, and what is sealed goes at once.
fn now() -> CollectOptions {
    CollectOptions {
        grace: Duration::ZERO,
        fence_after: Duration::ZERO,
        patience: Duration::ZERO,
        pack_size: 512 << 10,
        ..CollectOptions::default()
    }
}

fn gc(repository: &Repository, options: &CollectOptions) -> Result<Collected> {
    repository.collect(options, &|_, _, _| Ok(()))
}

/// A storage and a clock that both go by, and all that is to be there.
struct World {
    storage: Arc<Memory>,
    clock: Arc<TestClock>,
    disks: BTreeMap<SnapshotId, Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(TestClock::default());
        let storage = Arc::new(Memory::new(clock.clone()));
        init_with(Components { clock: clock.clone(), ..components(storage.clone()) }).unwrap();
        Self { storage, clock, disks: BTreeMap::new() }
    }

    /// The same, at the same time, in another storage.
    fn copy(&self) -> Self {
        let clock = Arc::new(TestClock::default());
        clock.advance(self.clock.monotonic());
        let storage = Arc::new(Memory::new(clock.clone()));
        for key in keys_of(&*self.storage) {
            storage.create(&key, self.storage.get(&key).unwrap()).unwrap();
        }
        Self { storage, clock, disks: self.disks.clone() }
    }

    /// One that remembers nothing.
    fn repository(&self) -> Repository {
        self.over(self.storage.clone())
    }

    /// Likewise, over a storage that hands on to this one.
    fn over(&self, storage: Arc<dyn Storage>) -> Repository {
        Repository::open(Components { clock: self.clock.clone(), ..components(storage) }, &password()).unwrap()
    }

    fn backup(&mut self, name: &str, disk: &[u8]) -> Snapshot {
        self.clock.advance(Duration::from_secs(60));
        let snapshot = backup_with(&self.repository(), index(), &wide(name), disk).unwrap();
        self.disks.insert(snapshot.id, disk.to_vec());
        snapshot
    }

    /// For good with the next collector.
    fn forget(&mut self, id: &SnapshotId) {
        self.repository().forget(id, Duration::ZERO, "test").unwrap();
        self.disks.remove(id);
    }

    fn gc(&self) -> Collected {
        gc(&self.repository(), &now()).unwrap()
    }

    fn packs(&self) -> Vec<PackId> {
        keys_of(&*self.storage).iter().filter_map(keys::parse_pack).collect()
    }

    /// All that is to be there restores, and nothing is damaged.
    #[track_caller]
    fn verify(&self, what: &str) {
        let repository = self.repository();
        let list = repository.snapshots(None).unwrap();
        for (id, disk) in &self.disks {
            let snapshot = list.snapshots.iter().find(|s| s.id == *id);
            let snapshot = snapshot.unwrap_or_else(|| panic!("{what}: {id} is lost"));
            let restored = restore(&repository, snapshot).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(restored == *disk, "{what}: {id} is another disk");
        }
        let report = repository.check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap();
        assert!(report.is_clean(), "{what}: {:?}", report.damages);
    }

    /// Nothing is left that no snapshot needs, once collectors have had their say: the first ends what was left, whose parents
    /// the second need not keep any more.
    #[track_caller]
    fn verify_lean(&self, what: &str) {
        self.gc();
        self.gc();
        let last = self.gc();
        assert_eq!((last.generation, last.swept.packs, last.spared.packs), (None, 0, 0), "{what}: {last:?}");
        assert_eq!(last.all, last.live, "{what}");
        for prefix in [keys::SESS, keys::LEAD] {
            self.storage.list(prefix, &mut |object| panic!("{what}: {} is left", object.key)).unwrap();
        }
    }
}

/// Packs of eight chunks, so that little of one may be needed.
fn wide(name: &str) -> WriterOptions {
    WriterOptions { pack_size: 8 * UNIT + (16 << 10), ..options(name) }
}

/// Chunks of noise, numbered.
fn disk(chunks: &[u64]) -> Vec<u8> {
    chunks.iter().flat_map(|n| noise(*n, UNIT)).collect()
}
