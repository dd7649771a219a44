//! Scenes: the shortest ways in which a step that was left out loses something, as far as the order of calls matters for it.
//! A dozen of calls of several actors in one order is what chance does not come upon in any number of seeds.
//!
//! Each begins with its plant's name. What the code does with all steps in place is played too: then nothing is lost.

mod parents;
mod writers;

use super::actors::{Play, Process, disk, restore};
use super::planted::Plant;
use super::schedule::Gate;
use super::storage::Role;
use super::{Ledger, Sim};
use crate::small::{UNIT, index, options};
use parents::{adopted, exchanged, first, order, parent, second};
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::index::ChunkIndex;
use wherry_repo::{
    CollectOptions, CommitInfo, ErrorKind, ParentChoice, ReadSession, Result, Snapshot, SnapshotId, SnapshotWriter,
};
use writers::{raise, rows, unknown};

/// Longer than any scene.
const LONG: Duration = Duration::from_secs(10_000 * 3600);

/// How long a collector of a scene waits for sessions: where a scene goes wrong it ends, and says so. Longer than the seed makes
/// anybody silent.
const PATIENCE: Duration = Duration::from_secs(100 * 3600);

/// Who plays the scene of a step.
pub(super) fn cast(of: Plant) -> Option<Vec<Play>> {
    Some(match of {
        Plant::ListsBeforeOpen => vec![lists::writer, lists::collector],
        Plant::ParentUnchecked => vec![parent::writer, parent::forgetter, parent::collector],
        Plant::SettledTwice => vec![undo::forgetter, undo::collector],
        Plant::SessionsBeforeForgets => vec![order::writer, order::forgetter, order::collector],
        Plant::FirstMarkWithoutParents => vec![first::writer, first::forgetter, first::collector],
        Plant::OpenIsCondemned => vec![own::first, own::second, own::collector],
        Plant::OlderListsBarNothing => vec![older::writer, older::forgetter, older::one, older::other],
        Plant::FencesGo => vec![fences::writer, fences::forgetter, fences::collector],
        Plant::SweptIsThere => vec![swept::writer, swept::forgetter, swept::one, swept::other],
        Plant::ListOverwritten => vec![twice::writer, twice::forgetter, twice::one, twice::other],
        Plant::NothingIsRescued => vec![rescue::writer, rescue::forgetter, rescue::collector],
        Plant::SecondMarkWithoutParents => {
            vec![second::writer, second::next, second::forgetter, second::collector, second::late]
        }
        Plant::ReturnedUnchecked => vec![stalled::writer, stalled::reader, stalled::forgetter, stalled::collector],
        Plant::ReaderUnchecked => vec![reader::writer, reader::reader, reader::forgetter, reader::collector],
        Plant::StaleHintsCount => vec![swept::writer, swept::forgetter, swept::alone],
        Plant::NodesOfStrangers => vec![first::writer, first::forgetter, first::collector],
        Plant::SlotsAreAdopted => vec![adopted::writer, first::forgetter, first::collector],
        Plant::ParentIsExchanged => vec![exchanged::writer, exchanged::forgetter, first::collector],
        Plant::BarsAfterSeen => vec![raise::writer, raise::pulse, raise::forgetter, raise::collector],
        Plant::RowsBeforePacks => vec![rows::writer],
        Plant::ForgottenIsDamage => vec![checked::writer, checked::check, checked::forgetter, checked::collector],
        Plant::UnknownIsCondemned => vec![unknown::writer, unknown::collector],
        _ => return None,
    })
}

/// Chunks of two disks that have none in common.
const A: [u64; 4] = [0, 1, 2, 3];
const B: [u64; 4] = [4, 5, 6, 7];

/// Bytes of a pack that has room for all of a disk of eight chunks.
const WIDE: usize = 8 * UNIT + (16 << 10);

/// One actor, as a scene wants it.
struct Actor<'a>(Process<'a>);

impl<'a> Actor<'a> {
    fn new(sim: &'a Sim, number: usize, seed: u64, role: Role) -> Self {
        let volume = (role == Role::Writes).then(|| "vm".to_owned());
        Self(Process { volume, is_mortal: false, ..Process::new(sim, number, seed, role) })
    }

    fn until(&self, what: &'static str) {
        self.0.sim.schedule.until(self.0.actor, what);
    }

    fn tell(&self, what: &'static str) {
        self.0.sim.schedule.tell(what);
    }

    /// Before the next such call of this actor the others hear `tells`, and it waits.
    fn hold(&self, begin: &'static str, has: &'static str, tells: &'static str, until: &'static str) {
        self.0.sim.schedule.hold(Gate { actor: self.0.actor, begin, has, tells, until });
    }

    /// What does not go well is noted where the protocol does not want it so.
    fn done<T>(&self, doing: &str, done: Result<T>) -> Option<T> {
        done.inspect_err(|e| self.0.failed(doing, e)).ok()
    }

    fn ledger(&self) -> parking_lot::MutexGuard<'a, Ledger> {
        self.0.sim.ledger.lock()
    }

    /// The snapshot that was made as number `n`.
    fn made(&self, n: usize) -> Option<(Snapshot, SnapshotId)> {
        self.ledger().made.get(n).map(|(snapshot, _)| (snapshot.clone(), snapshot.id))
    }

    /// Begins a backup and puts all of a disk.
    fn begin(&mut self, known: &Arc<ChunkIndex>, parent: ParentChoice, chunks: &[u64]) -> Option<SnapshotWriter> {
        let writer = self.start(known, parent, chunks)?;
        self.put(&writer, chunks)?;
        Some(writer)
    }

    /// Begins a backup of a disk.
    fn start(&mut self, known: &Arc<ChunkIndex>, parent: ParentChoice, chunks: &[u64]) -> Option<SnapshotWriter> {
        let options = options(self.0.volume.as_deref().unwrap_or_default());
        let pack_size = if chunks.len() > A.len() { WIDE } else { options.pack_size };
        let options = wherry_repo::WriterOptions { parent, pack_size, ..options };
        let started = self.0.open().and_then(|repository| SnapshotWriter::start(&repository, known.clone(), &options));
        self.done("backup", started)
    }

    /// Puts all of a disk.
    fn put(&self, writer: &SnapshotWriter, chunks: &[u64]) -> Option<()> {
        let put = (|| {
            let mut scratch = writer.scratch()?;
            for (n, chunk) in disk(chunks).chunks(writer.chunk_size()).enumerate() {
                writer.put(&mut scratch, n as u64, chunk)?;
            }
            writer.advance(chunks.len() as u64)
        })();
        self.done("backup", put)
    }

    fn commit(&self, writer: Option<SnapshotWriter>, chunks: &[u64]) {
        let Some(writer) = writer else { return };
        let info = CommitInfo { size: disk(chunks).len() as u64, ..CommitInfo::default() };
        if let Some(snapshot) = self.done("commit", writer.commit(info)) {
            self.ledger().made.push((snapshot, chunks.to_vec()));
        }
    }

    fn backup(&mut self, known: &Arc<ChunkIndex>, parent: ParentChoice, chunks: &[u64]) {
        let writer = self.begin(known, parent, chunks);
        self.commit(writer, chunks);
    }

    /// Forgets the snapshot that was made as number `n`, without a delay.
    fn forget(&mut self, n: usize) {
        let Some((_, id)) = self.made(n) else { return };
        self.ledger().doomed.insert(id);
        let asked = self.0.open().and_then(|repository| repository.forget(&id, Duration::ZERO, "a scene"));
        self.done("forget", asked);
    }

    fn collect(&mut self, patience: Duration) {
        self.collect_with(CollectOptions { patience, ..scenic() });
    }

    fn collect_with(&mut self, options: CollectOptions) {
        self.0.silent_for = options.fence_after;
        let collected = self.0.open().and_then(|repository| repository.collect(&options, &|_, _, _| Ok(())));
        self.done("gc", collected);
    }
}

/// A collector that deletes at once, and fences nobody.
fn scenic() -> CollectOptions {
    CollectOptions { grace: Duration::ZERO, fence_after: LONG, patience: PATIENCE, threads: 1, ..Default::default() }
}

/// Whoever plays only when the first backup is there.
fn forget_when(sim: &Sim, number: usize, seed: u64, when: &'static str) {
    let mut actor = Actor::new(sim, number, seed, Role::Forgets);
    actor.until(when);
    actor.forget(0);
    actor.tell("forgotten");
}

/// `SettledTwice` (F2, F3): a collector has seen that a forget is due, and is stalled before it makes it final. Meanwhile it
/// is taken back, and whoever did so was told that it was not too late.
mod undo {
    use super::*;

    pub(super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        let mut writer = Actor::new(sim, number, seed, Role::Writes);
        writer.backup(&index(), ParentChoice::None, &A);
        let mut actor = Actor::new(sim, number, seed, Role::Forgets);
        actor.forget(0);
        actor.tell("forgotten");
        actor.until("due");
        let Some((_, id)) = actor.made(0) else { return };
        match actor.0.open().and_then(|repository| repository.unforget(&id)) {
            Ok(_) => drop(actor.ledger().doomed.remove(&id)),
            Err(e) => sim.wrong(format!("a forget that is not settled is not taken back: {e}")),
        }
        actor.tell("undone");
    }

    pub(super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        actor.hold("create forget/", "-settled", "due", "undone");
        actor.collect(PATIENCE);
    }
}

/// `ReaderUnchecked` (V1): what is to be read is forgotten and swept between the choice and `open`.
mod reader {
    use super::*;

    pub(super) fn writer(sim: &Sim, number: usize, seed: u64) {
        store(sim, number, seed);
    }

    pub(super) fn reader(sim: &Sim, number: usize, seed: u64) {
        read_held(sim, number, seed, ("create sess/", "/open"));
    }

    pub(super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "chosen");
    }

    pub(super) fn collector(sim: &Sim, number: usize, seed: u64) {
        sweep_forgotten(sim, number, seed);
    }
}

/// `ReturnedUnchecked` (V4): a request of a reader is stalled for longer than readers are kept. Meanwhile what it reads is forgotten,
/// its note taken, and all of it swept.
mod stalled {
    use super::*;

    pub(super) fn writer(sim: &Sim, number: usize, seed: u64) {
        store(sim, number, seed);
    }

    pub(super) fn reader(sim: &Sim, number: usize, seed: u64) {
        read_held(sim, number, seed, ("range packs/", ""));
    }

    pub(super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "chosen");
    }

    pub(super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        sim.schedule.pass(Duration::from_secs(8 * 86_400));
        actor.collect(PATIENCE);
        actor.tell("swept");
    }
}

/// `ForgottenIsDamage` (V6): all of a snapshot is swept while a check looks at it.
mod checked {
    use super::*;
    use wherry_repo::CheckOptions;

    pub(super) fn writer(sim: &Sim, number: usize, seed: u64) {
        store(sim, number, seed);
    }

    pub(super) fn check(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Checks);
        actor.until("stored");
        actor.hold("tail packs/", "", "chosen", "swept");
        let options = CheckOptions { threads: 1, ..CheckOptions::default() };
        let checked = actor.0.open().and_then(|repository| repository.check(&options, &|_, _, _| Ok(())));
        match actor.done("check", checked) {
            Some(report) if !report.is_clean() => sim.wrong(format!("a check finds damage: {:?}", report.damages)),
            _ => {}
        }
    }

    pub(super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "chosen");
    }

    pub(super) fn collector(sim: &Sim, number: usize, seed: u64) {
        sweep_forgotten(sim, number, seed);
    }
}

/// Sweeps what was forgotten.
fn sweep_forgotten(sim: &Sim, number: usize, seed: u64) {
    let mut actor = Actor::new(sim, number, seed, Role::Collects);
    actor.until("forgotten");
    actor.collect(PATIENCE);
    actor.tell("swept");
}

/// There is something to be read.
fn store(sim: &Sim, number: usize, seed: u64) {
    let mut actor = Actor::new(sim, number, seed, Role::Writes);
    actor.backup(&index(), ParentChoice::None, &A);
    // The newest record of a volume stays.
    actor.tell("stored");
}

/// Reads it, and is held before its first such call until all of it was swept.
fn read_held(sim: &Sim, number: usize, seed: u64, (begin, has): (&'static str, &'static str)) {
    let mut actor = Actor::new(sim, number, seed, Role::Reads);
    actor.until("stored");
    let Some((snapshot, id)) = actor.made(0) else { return };
    actor.hold(begin, has, "chosen", "swept");
    let read = actor.0.open().and_then(|repository| ReadSession::open(&repository, &snapshot));
    match read.and_then(|session| restore(&mut actor.0, Arc::new(session))) {
        Ok(bytes) if bytes == disk(&A) => sim.wrong(format!("{id} is still there: the scene is wrong")),
        Ok(_) => sim.wrong(format!("{id} was read as something else")),
        Err(e) if e.kind() == ErrorKind::NoSnapshot => {}
        Err(e) => sim.wrong(format!("{id}, which a reader was let in for, does not restore: {e}")),
    }
}

/// `NothingIsRescued` (G10, G11): a hit (T2) in a pack that nothing refers to any more, of a session that commits after the
/// list is out and without having heard of it.
mod rescue {
    use super::*;

    pub(super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        let known = index();
        actor.backup(&known, ParentChoice::None, &A);
        let writer = actor.begin(&known, ParentChoice::None, &A);
        actor.hold("create snap/", "", "deciding", "published");
        actor.commit(writer, &A);
        actor.tell("committed");
    }

    pub(super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "deciding");
    }

    pub(super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        actor.hold("get gc/gen/00000001", "", "published", "committed");
        actor.collect(PATIENCE);
    }
}

/// `ListOverwritten` (G8, G12): two collectors have marked for the same number, and between their marks another snapshot has
/// become Final. A session has seen the list that was there first.
mod twice {
    use super::*;

    pub(super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        let known = index();
        actor.backup(&known, ParentChoice::None, &B);
        actor.backup(&known, ParentChoice::None, &A);
        actor.tell("stored");
        actor.until("published");
        let writer = actor.begin(&known, ParentChoice::None, &A);
        actor.tell("leaning");
        actor.until("swept");
        actor.commit(writer, &A);
    }

    pub(super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "stored");
        let mut actor = Actor::new(sim, number, seed, Role::Forgets);
        actor.until("one has marked");
        actor.forget(1);
        actor.tell("forgotten again");
    }

    pub(super) fn one(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        actor.hold("create gc/gen/", "", "one has marked", "both have marked");
        actor.hold("get gc/gen/00000001", "", "published", "swept");
        actor.collect(Duration::ZERO);
    }

    pub(super) fn other(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten again");
        actor.hold("create gc/gen/", "", "both have marked", "leaning");
        actor.collect(Duration::ZERO);
        actor.tell("swept");
    }
}

/// `ListsBeforeOpen` (W3): a list is out and sealed between the lists and `open`; the packs go when they were listed (W8). The
/// heartbeat before the commit reads that list (C1): nothing is lost.
mod lists {
    use super::*;

    pub(super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        let known = index();
        actor.backup(&known, ParentChoice::None, &A);
        let mut forgetter = Actor::new(sim, number, seed ^ 1, Role::Forgets);
        forgetter.forget(0);
        actor.hold("create sess/", "/open", "chosen", "sealed");
        let writer = actor.begin(&known, ParentChoice::None, &A);
        actor.commit(writer, &A);
        actor.tell("committed");
    }

    pub(super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("chosen");
        actor.hold("delete packs/", "", "sealed", "committed");
        actor.collect(PATIENCE);
    }
}

/// `OpenIsCondemned` (G6): one session commits without having heard of the list that has its packs, and is rescued (G11); one
/// hears of it before it commits, and ends itself (R2). Nothing is lost but uploads.
mod own {
    use super::*;

    pub(super) fn first(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        let writer = actor.begin(&index(), ParentChoice::None, &A);
        actor.until("second has stored");
        actor.hold("create snap/", "", "both have stored", "published");
        actor.commit(writer, &A);
    }

    pub(super) fn second(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        actor.0.volume = Some("another vm".into());
        let writer = actor.begin(&index(), ParentChoice::None, &B);
        actor.tell("second has stored");
        actor.until("published");
        actor.commit(writer, &B);
    }

    pub(super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("both have stored");
        actor.hold("get gc/gen/00000001", "", "published", "");
        actor.collect(PATIENCE);
        actor.tell("published");
    }
}

/// `OlderListsBarNothing` (W3): a pack of a delete set is still there, and the list that condemned it is not the newest one.
mod older {
    use super::*;

    pub(super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        let known = index();
        actor.backup(&known, ParentChoice::None, &A);
        actor.backup(&known, ParentChoice::None, &B);
        actor.tell("stored");
        actor.until("both sealed");
        actor.backup(&known, ParentChoice::None, &A);
        actor.tell("committed");
    }

    pub(super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "stored");
        let mut actor = Actor::new(sim, number, seed, Role::Forgets);
        actor.until("one sealed");
        actor.forget(1);
        actor.tell("forgotten again");
    }

    pub(super) fn one(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        actor.hold("delete packs/", "", "one sealed", "committed");
        actor.collect(PATIENCE);
    }

    pub(super) fn other(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten again");
        actor.collect_with(CollectOptions { grace: LONG, ..scenic() });
        actor.tell("both sealed");
    }
}

/// `FencesGo` (N1): a session with a hit in what is condemned is stalled just before its commit, gets a Fence, and wakes up when
/// all is swept.
mod fences {
    use super::*;

    pub(super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        let known = index();
        actor.backup(&known, ParentChoice::None, &A);
        let writer = actor.begin(&known, ParentChoice::None, &A);
        actor.hold("create snap/", "", "deciding", "swept");
        actor.commit(writer, &A);
    }

    pub(super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "deciding");
    }

    pub(super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        actor.collect_with(CollectOptions { fence_after: Duration::ZERO, ..scenic() });
        actor.tell("swept");
    }
}

/// `SweptIsThere` (G1): a chunk was moved, and the pack that it was in is in a delete set and still there. A mark that believes its
/// place sees no need for the copy.
mod swept {
    use super::*;

    /// All in one pack.
    const FIRST: [u64; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
    /// One chunk of it, and another pack.
    const SECOND: [u64; 8] = [0, 8, 9, 10, 11, 12, 13, 14];

    pub(super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        let known = index();
        actor.backup(&known, ParentChoice::None, &FIRST);
        actor.backup(&known, ParentChoice::None, &SECOND);
        actor.tell("stored");
    }

    pub(super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "stored");
    }

    pub(super) fn one(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        actor.hold("delete packs/", "", "sealed", "swept");
        actor.collect(PATIENCE);
    }

    pub(super) fn other(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("sealed");
        // Nothing is moved once more.
        actor.collect_with(CollectOptions { copy_most: 0, ..scenic() });
        actor.tell("swept");
    }

    /// `StaleHintsCount` (G5): the pack is gone when the next mark comes.
    pub(super) fn alone(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        actor.collect(PATIENCE);
        actor.collect_with(CollectOptions { copy_most: 0, ..scenic() });
    }
}
