//! A simulation: writers, collectors, forget and readers run as real code, each in a thread, but one at a time. Before each
//! call to the storage a seed says who goes on, what becomes of the call, and how much time passes. The same seed gives the
//! same trace.
//!
//! What can become of a call is all that a network can do: nothing; done and the answer lost; not done now but later, long
//! after whoever asked has given up, or died. Processes die at any call and are silent for longer than any grace. Their
//! clocks are hours apart.

mod actors;
mod deletes;
mod healing;
mod others;
mod planted;
mod scenes;
mod schedule;
mod storage;
mod trees;

use crate::small::{CHEAP, TestRng, UNIT, password, splitmix};
use actors::{Play, World};
use deletes::Deletes;
use parking_lot::Mutex;
pub use planted::Plant;
use planted::Planted;
use schedule::Schedule;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use storage::{Adopted, Readers};
use wherry_repo::storage::{Memory, Storage};
use wherry_repo::{
    CheckOptions, Clock, CollectOptions, Components, InitOptions, Pulse, Repository, Snapshot, SnapshotId,
    SnapshotReader, Timestamp, TreeReader,
};

/// What all simulations together must have reached.
pub const CASES: [&str; 32] = [
    "a delayed call took effect",
    "a fault",
    "a file was taken over unread",
    "a lost reply",
    "a node was stored",
    "a process died",
    "a process was silent",
    "a process was silent before it decided",
    "a tree was read",
    "adoption",
    "checked",
    "checked what had moved",
    "commit won",
    "condemned",
    "fence won",
    "final won",
    "index made again",
    "keys rotated",
    "mounted",
    "mounted while it was forgotten",
    "read while it was forgotten",
    "reader cleared",
    "reader let in again",
    "reader refused on its way back",
    "relocation",
    "rescued",
    "restored",
    "sealed anew",
    "swept",
    "taken over unread",
    "undo won",
    "who collects or forgets was silent for hours before it decided",
];

/// What one simulation showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How often which case came up.
    pub cases: BTreeMap<&'static str, u64>,
    /// What must not be.
    pub wrong: Vec<String>,
    /// Calls to the storage.
    pub steps: u64,
    /// A hash of all of them, in their order.
    pub trace: String,
}

/// Snapshots by what was promised of them.
#[derive(Debug, Default)]
struct Ledger {
    /// Acknowledged, with their disks as numbers of chunks.
    made: Vec<(Snapshot, Vec<u64>)>,
    /// Likewise trees, with the versions of their files.
    trees: Vec<(Snapshot, trees::Versions)>,
    /// Somebody has begun to forget these.
    doomed: BTreeSet<SnapshotId>,
}

impl Ledger {
    /// The chunks of a snapshot.
    fn disk_of(&self, id: &SnapshotId) -> Option<Vec<u64>> {
        self.made.iter().find(|(snapshot, _)| snapshot.id == *id).map(|(_, chunks)| chunks.clone())
    }

    fn standing_trees(&self) -> Vec<(Snapshot, trees::Versions)> {
        self.trees.iter().filter(|(tree, _)| !self.doomed.contains(&tree.id)).cloned().collect()
    }

    fn standing(&self) -> Vec<(Snapshot, Vec<u64>)> {
        self.made.iter().filter(|(snapshot, _)| !self.doomed.contains(&snapshot.id)).cloned().collect()
    }
}

/// What all actors share.
#[derive(Debug)]
struct Sim {
    world: World,
    memory: Arc<Memory>,
    schedule: Arc<Schedule>,
    planted: Arc<Planted>,
    adopted: Arc<Mutex<Adopted>>,
    readers: Arc<Mutex<Readers>>,
    deletes: Arc<Deletes>,
    ledger: Mutex<Ledger>,
    /// Writers that have ended.
    writers_done: AtomicU64,
    /// Of a scene whose writer has a thread for its signs of life.
    pulse: Mutex<Option<Pulse>>,
    /// Something is lost, and not healed yet.
    is_damaged: AtomicBool,
    /// There is an object that was damaged once.
    may_be_damaged: bool,
    wrong: Mutex<Vec<String>>,
}

impl Sim {
    fn wrong(&self, what: String) {
        self.wrong.lock().push(what);
    }
}

/// The clock of the storage, and of whoever looks at the end.
#[derive(Debug)]
struct StorageClock(Arc<Schedule>);

impl Clock for StorageClock {
    fn now(&self) -> Timestamp {
        schedule::wall(self.0.time())
    }

    fn monotonic(&self) -> Duration {
        self.0.time()
    }

    fn sleep(&self, time: Duration) {
        self.0.pass(time);
    }
}

/// Plays the simulation of a seed. `faults`: of a thousand calls so many go wrong. `plants`: what the code is made to do
/// wrong; mostly nothing.
pub fn simulate(seed: u64, faults: u64, plants: &[Plant]) -> Outcome {
    let (world, mut state) = (actors::world(seed), seed);
    let cast = actors::cast(&world, &mut state);
    play(seed, faults, plants, (world, cast, state), false)
}

/// Plays the scene in which this step is needed, if there is one: who comes when is told, so far as it matters; all else is up
/// to the seed, and nothing goes wrong in the storage.
pub fn scene(of: Plant, seed: u64, plants: &[Plant]) -> Option<Outcome> {
    let cast = scenes::cast(of)?;
    Some(play(seed, 0, plants, (actors::plain(), cast, seed), false))
}

/// Plays how a damaged pack is healed from another repository while others write, forget, collect and make new keys. Who comes when is
/// up to the seed.
pub fn healing(seed: u64, plants: &[Plant]) -> Outcome {
    play(seed, 0, plants, (actors::healing(), healing::cast(), seed), true)
}

fn play(
    seed: u64,
    faults: u64,
    plants: &[Plant],
    (world, cast, state): (World, Vec<Play>, u64),
    may_be_damaged: bool,
) -> Outcome {
    let schedule = Arc::new(Schedule::new(seed, faults, world.silent));
    let memory = Arc::new(Memory::new(Arc::new(StorageClock(schedule.clone()))));
    let components = || Components {
        storage: memory.clone(),
        clock: Arc::new(StorageClock(schedule.clone())),
        rng: Arc::new(TestRng::new(seed ^ 0x5EED)),
    };
    let mut options = InitOptions::default();
    (options.chunk_size, options.password_cost) = (UNIT as u32, CHEAP);
    let made = Repository::init(components(), &options, &password()).expect("an empty storage takes a repository");
    let twin = Arc::new(Memory::new(Arc::new(StorageClock(schedule.clone()))));
    let copied = memory.list("", &mut |object| twin.create(&object.key, memory.get(&object.key)?));
    copied.expect("a storage in memory can be copied");
    let planted = Planted::new(plants, Components { storage: twin.clone(), ..components() }, twin);
    let sim = Arc::new(Sim {
        world,
        planted: Arc::new(planted.expect("a copy of a repository is one")),
        adopted: Arc::default(),
        readers: Arc::default(),
        deletes: Arc::new(Deletes::new(made, memory.clone())),
        memory: memory.clone(),
        schedule: schedule.clone(),
        ledger: Mutex::default(),
        writers_done: AtomicU64::new(0),
        pulse: Mutex::default(),
        is_damaged: AtomicBool::new(false),
        may_be_damaged,
        wrong: Mutex::default(),
    });
    let mut state = state;
    sim.schedule.begin(cast.len());
    std::thread::scope(|scope| {
        for (number, play) in cast.into_iter().enumerate() {
            let (sim, seed) = (sim.clone(), splitmix(&mut state));
            scope.spawn(move || {
                let _turn = sim.schedule.enter(number);
                let played = catch_unwind(AssertUnwindSafe(|| play(&sim, number, seed)));
                if played.is_err() {
                    sim.wrong(format!("actor {number} panicked"));
                }
            });
        }
    });
    if sim.schedule.is_stuck() {
        sim.wrong("all actors wait for each other: the scene is wrong".into());
    }
    sim.wrong.lock().append(&mut sim.adopted.lock().hasty);
    sim.wrong.lock().append(&mut sim.deletes.told());
    verify(&sim, components);
    let (cases, steps, trace) = sim.schedule.told();
    let wrong = std::mem::take(&mut *sim.wrong.lock());
    Outcome { cases, wrong, steps, trace }
}

/// When all is quiet: all that was promised is there, before and after what is garbage went.
fn verify(sim: &Sim, components: impl Fn() -> Components) {
    sim.schedule.quiet(&sim.memory);
    for round in 0..3 {
        let repository = match Repository::open(components(), &password()) {
            Ok(repository) => repository,
            Err(e) => return sim.wrong(format!("at the end the repository does not open: {e}")),
        };
        for (snapshot, chunks) in sim.ledger.lock().standing() {
            let read = SnapshotReader::open(&repository, &snapshot);
            match read.and_then(|reader| actors::read_disk(&reader, &sim.world, || Ok(()))) {
                Ok(disk) if disk == actors::disk(&chunks) => {}
                Ok(_) => sim.wrong(format!("round {round}: {} is not what it was", snapshot.id)),
                Err(e) => sim.wrong(format!("round {round}: {} does not restore: {e}", snapshot.id)),
            }
        }
        for (tree, versions) in sim.ledger.lock().standing_trees() {
            match TreeReader::open(&repository, &tree).and_then(|reader| trees::read(&reader, &versions)) {
                Ok(true) => {}
                Ok(false) => sim.wrong(format!("round {round}: tree {} is not what it was", tree.id)),
                Err(e) => sim.wrong(format!("round {round}: tree {} does not restore: {e}", tree.id)),
            }
        }
        let options = CheckOptions { threads: 1, ..CheckOptions::default() };
        match repository.check(&options, &|_, _, _| Ok(())) {
            Ok(report) if report.is_clean() => {}
            // What was damaged once stays so, and hits nobody.
            Ok(report) if sim.may_be_damaged && report.damages.iter().all(|damage| damage.hits.is_empty()) => {}
            Ok(report) => sim.wrong(format!("round {round}: damaged: {:?}", report.damages)),
            Err(e) => sim.wrong(format!("round {round}: check: {e}")),
        }
        let options = CollectOptions {
            grace: Duration::ZERO,
            fence_after: Duration::ZERO,
            patience: Duration::ZERO,
            threads: 1,
            ..CollectOptions::default()
        };
        if let Err(e) = repository.collect(&options, &|_, _, _| Ok(())) {
            sim.wrong(format!("round {round}: gc: {e}"));
        }
    }
}
