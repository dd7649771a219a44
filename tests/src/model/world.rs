//! The repository under test and what the reference knows of it.

use super::cases::Cases;
use super::disk::{Content, Disk};
use super::ops::{History, Op, VOLUMES};
use super::start::Writing;
use crate::small::{CHEAP, TestClock, TestRng, UNIT, keys_of, splitmix};
use crate::witness::Witness;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tempfile::TempDir;
use wherry_repo::index::{ChunkIndex, IndexOptions};
use wherry_repo::{Components, Credential, InitOptions, Key, Repository, SessionId, Snapshot};

/// A snapshot that was acknowledged.
pub(super) struct Kept {
    pub(super) snapshot: Snapshot,
    pub(super) volume: usize,
    pub(super) disk: Disk,
    pub(super) hidden: bool,
    /// When the pending forget may become final.
    pub(super) due: i64,
    /// It did.
    pub(super) gone: bool,
    /// The pack of each chunk that is not zero.
    pub(super) packs: BTreeMap<u64, Key>,
    /// The packs of its map.
    pub(super) nodes: BTreeSet<Key>,
}

impl Kept {
    /// Everything it needs.
    pub(super) fn needs(&self) -> BTreeSet<&Key> {
        self.packs.values().chain(&self.nodes).collect()
    }
}

/// A session.
pub(super) struct Run {
    pub(super) id: SessionId,
    pub(super) volume: usize,
    /// It has an outcome.
    pub(super) ended: bool,
    pub(super) left: bool,
    pub(super) adopts: Vec<SessionId>,
}

/// An index and the packs it must know.
pub(super) struct Cache {
    pub(super) index: Arc<ChunkIndex>,
    pub(super) folder: Option<TempDir>,
    pub(super) knows: BTreeSet<Key>,
    /// How often it was given rows that are not true.
    pub(super) foreign: u32,
}

pub(super) struct World {
    pub(super) storage: Arc<Witness>,
    pub(super) clock: Arc<TestClock>,
    pub(super) rng: Arc<TestRng>,
    pub(super) repository: Repository,
    pub(super) caches: Vec<Cache>,
    pub(super) disks: Vec<Disk>,
    /// In the order they were made.
    pub(super) kept: Vec<Kept>,
    pub(super) runs: Vec<Run>,
    pub(super) writers: [Option<Writing>; 2],
    pub(super) fences: usize,
    /// The condemned packs of each generation.
    pub(super) lists: Vec<BTreeSet<Key>>,
    pub(super) lost: BTreeMap<Key, Bytes>,
    /// Sessions of which an index segment was lost.
    pub(super) unsegmented: BTreeSet<SessionId>,
    pub(super) slots: Vec<(u64, String)>,
    /// How often a content was stored.
    pub(super) stored: HashMap<Content, u32>,
    /// Packs where a content is.
    pub(super) places: HashMap<Content, BTreeSet<Key>>,
    /// What each run that was given up has stored, and its packs.
    pub(super) left: HashMap<SessionId, (HashSet<Content>, BTreeSet<Key>)>,
    pub(super) cases: Cases,
    state: u64,
}

/// Plays a history; panics when the repository and the reference part. Returns which cases came up.
pub fn play(history: &History) -> Cases {
    let mut world = World::new(history);
    for op in &history.ops {
        world.step(op);
        world.look();
    }
    for slot in 0..2 {
        world.writers[slot] = None;
    }
    world.reopen();
    world.read_all();
    world.check(true);
    world.cases
}

pub(super) fn credential(password: &str) -> Credential {
    Credential::Password(password.to_owned().into())
}

impl World {
    fn new(history: &History) -> Self {
        let clock = Arc::new(TestClock::default());
        let storage = Arc::new(Witness::new(clock.clone()));
        let rng = Arc::new(TestRng::new(history.seed));
        let components = Components { storage: storage.clone(), clock: clock.clone(), rng: rng.clone() };
        let mut options = InitOptions::default();
        options.chunk_size = UNIT as u32;
        options.password_cost = CHEAP;
        let repository = Repository::init(components, &options, &credential("first")).unwrap();
        let unit = UNIT as u64;
        let sizes = [9 * unit + 77, 200 * unit + 1000, 20_000 * unit + 5];
        let mut world = Self {
            storage,
            clock,
            rng,
            repository,
            caches: Vec::new(),
            disks: sizes.into_iter().map(Disk::new).collect(),
            kept: Vec::new(),
            runs: Vec::new(),
            writers: [None, None],
            fences: 0,
            lists: Vec::new(),
            lost: BTreeMap::new(),
            unsegmented: BTreeSet::new(),
            slots: vec![(0, "first".into())],
            stored: HashMap::new(),
            places: HashMap::new(),
            left: HashMap::new(),
            cases: Cases::default(),
            state: history.seed,
        };
        let folder = history.database.then(|| tempfile::tempdir().unwrap());
        if folder.is_some() {
            world.cases.add("the index was on disk");
        }
        for folder in [folder, None] {
            let index = world.new_index(folder.as_ref());
            world.caches.push(Cache { index, folder, knows: BTreeSet::new(), foreign: 0 });
        }
        assert_eq!(world.disks.len(), VOLUMES.len());
        world
    }

    /// Opens an index, in this folder or in memory.
    pub(super) fn new_index(&self, folder: Option<&TempDir>) -> Arc<ChunkIndex> {
        let index = match folder {
            Some(folder) => {
                let dir = folder.path().to_owned();
                let repository = self.repository.id();
                let options = IndexOptions { dir, repository, memory: 4 << 20, max_disk: 64 << 20 };
                ChunkIndex::open(&options).unwrap().0
            }
            None => ChunkIndex::in_memory(4 << 20),
        };
        let index = Arc::new(index);
        self.storage.watch(&index);
        index
    }

    /// The next number of the history.
    pub(super) fn draw(&mut self) -> u64 {
        splitmix(&mut self.state)
    }

    /// All packs there are, of chunks or of nodes.
    pub(super) fn packs(&self, meta: bool) -> BTreeSet<Key> {
        let prefix = if meta { "meta/" } else { "packs/" };
        keys_of(&*self.storage).into_iter().filter(|key| key.as_str().starts_with(prefix)).collect()
    }

    pub(super) fn run(&mut self, id: SessionId) -> &mut Run {
        self.runs.iter_mut().find(|run| run.id == id).unwrap()
    }

    /// Snapshots of a volume, oldest first, as the repository sorts them.
    pub(super) fn snapshots_of(&self, volume: usize) -> Vec<usize> {
        let mut found: Vec<usize> =
            (0..self.kept.len()).filter(|n| self.kept[*n].volume == volume && !self.kept[*n].gone).collect();
        found.sort_by_key(|n| (self.kept[*n].snapshot.record.started, self.kept[*n].snapshot.id));
        found
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Write { volume, place, pages, fill } => self.write(volume, place, pages, fill),
            Op::Resize { volume, size } => self.resize(volume, size),
            Op::Backup(setup, trouble) => self.backup(&setup, trouble),
            Op::GiveUp(setup) => self.give_up(&setup),
            Op::Start { slot, setup } => self.start_in(slot, &setup),
            Op::Feed { slot, windows } => self.feed_in(slot, windows),
            Op::Beat { slot } => drop(self.beat(slot)),
            Op::End { slot, end } => self.end_in(slot, end),
            Op::Forget { which, hours } => self.forget(which, hours),
            Op::Unforget { which } => self.unforget(which),
            Op::Settle { which } => self.settle(which),
            Op::Pass { minutes } => self.pass(minutes, false),
            Op::PutBack { minutes } => self.pass(minutes, true),
            Op::Reopen => self.reopen(),
            Op::LoseIndex { which, how } => self.lose_index(which, how),
            Op::ForeignRows { which, snapshot } => self.foreign_rows(which, snapshot),
            Op::LosePack { which, meta } => self.lose_pack(which, meta),
            Op::BringBack => self.bring_back(),
            Op::LoseSegment { which } => self.lose_segment(which),
            Op::Condemn { draw, any } => self.condemn(draw, any),
            Op::Sweep => self.sweep(),
            Op::AddSlot => self.add_slot(),
            Op::RemoveSlot { which } => self.remove_slot(which),
            Op::Verify => self.read_all(),
            Op::Check => self.check(true),
        }
    }
}
