//! What runs beside each other.

use super::others::{check, mount, rotate};
use super::schedule::Silent;
use super::storage::{Role, Seen};
use super::{Sim, schedule, trees};
use crate::small::{TestRng, index, noise, options, password, read_chunks, splitmix};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wherry_repo::index::ChunkIndex;
use wherry_repo::{
    Clock, CollectOptions, CommitInfo, Components, Error, ErrorKind, ParentChoice, ReadSession, Repository, Result,
    Snapshot, SnapshotId, SnapshotReader, SnapshotWriter, Timestamp, WriterOptions,
};

/// Chunks that there are, in the largest world.
const POOL: u64 = 60;

/// How large a simulation is, and what is likely in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    /// Chunks of a disk.
    disk: u64,
    /// Chunks that there are: so few that what one volume drops others have.
    pool: u64,
    /// So many disks there are, mostly without a chunk in common: the packs of one are garbage as soon as all its snapshots
    /// are forgotten, and wanted again by whoever backs it up next. 0: any chunks make a disk.
    images: u64,
    volumes: u64,
    /// Longest pause of an actor between two things it does, in seconds.
    pub(super) pause: u64,
    /// Of how long a collector waits for anything at most: one of these seconds.
    times: [u64; 4],
    /// After how many seconds of silence sessions are fenced; `None`: one of `times`. Where that is long, collectors have to
    /// wait for who is silent (G9); else they find fenced already whoever might be in their way (G0).
    fence_after: Option<u64>,
    /// Many sessions lean on no parent, or on an old one.
    any_parent: bool,
    /// All that stands is forgotten at once, and collectors come one after the other: whoever is silent in between is the only
    /// one who still needs a pack.
    hostile: bool,
    /// There are checks, mounts and new keys besides.
    others: bool,
    /// So many chunks lie between one of a disk and the next, all zero but the first: what is far enough apart has nodes in packs.
    pub(super) spread: u64,
    /// How long actors are silent.
    pub(super) silent: Silent,
}

/// A disk of four chunks has two nodes below its top.
const SPREAD: u64 = 43;

/// Pauses where actors are silent for days, in seconds: somebody collects and forgets meanwhile.
const DAYS: u64 = 4 * 86_400;

/// Of sixteen seeds four play among actors that are silent for days, four among others of which those who collect and forget are so,
/// too, for hours.
pub(super) fn world(seed: u64) -> World {
    let others = matches!(seed % 16, 3 | 5 | 6 | 7 | 11 | 14 | 15);
    let spread = if others { SPREAD } else { 1 };
    let world = World { others, spread, ..world_of(seed) };
    match seed / 4 % 4 {
        1 => World { silent: Silent::All, ..world },
        2 => World { silent: Silent::Days, pause: DAYS, ..world },
        _ => world,
    }
}

/// Of scenes.
pub(super) fn plain() -> World {
    world(0)
}

/// Where something is healed: as that of scenes, with nodes in packs.
pub(super) fn healing() -> World {
    World { spread: SPREAD, ..world(0) }
}

/// Every other seed plays in a small world, where all are after the same few disks and little time passes between what
/// they do. There collectors wait for those who live, or, in some, for nobody.
fn world_of(seed: u64) -> World {
    if seed.is_multiple_of(2) {
        let times = [0, 0, 600, 7200];
        return World {
            disk: 10,
            pool: POOL,
            images: 0,
            volumes: 4,
            pause: 3600,
            times,
            fence_after: None,
            any_parent: false,
            hostile: false,
            others: false,
            spread: 1,
            silent: Silent::Others,
        };
    }
    let times = [[0, 600, 7200, 7200], [0, 0, 600, 7200]][(seed / 4 % 4 / 3) as usize];
    let small = World {
        disk: 4,
        pool: 24,
        images: 3,
        volumes: 1 + seed / 4 % 2,
        pause: 1200,
        times,
        fence_after: None,
        any_parent: true,
        hostile: false,
        others: false,
        spread: 1,
        silent: Silent::Others,
    };
    if seed % 4 == 3 {
        return small;
    }
    let patient = !(seed / 4).is_multiple_of(3);
    let times = if patient { [0, 600, 600, 3600] } else { times };
    World { images: 6, pause: 600, times, fence_after: patient.then_some(100 * 3600), hostile: true, ..small }
}

/// Writers of a hostile world.
const WRITERS: u64 = 2;

pub(super) type Play = fn(&Sim, usize, u64);

/// Three writers, and some of all others.
pub(super) fn cast(world: &World, state: &mut u64) -> Vec<Play> {
    let others: &[Play] = if world.others { &[check, mount, mount, rotate, trees::store] } else { &[] };
    [&ordinary(world, state), others].concat()
}

fn ordinary(world: &World, state: &mut u64) -> Vec<Play> {
    if world.hostile {
        return vec![write, write, read, collect, collect, forget];
    }
    let mut cast: Vec<Play> = vec![write, write, write, collect, forget, forget, read];
    let more: [Play; 3] = [collect, forget, write];
    cast.extend(more.into_iter().filter(|_| splitmix(state).is_multiple_of(2)));
    cast
}

/// The bytes of a disk.
pub(super) fn disk(chunks: &[u64]) -> Vec<u8> {
    static CHUNKS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let all = CHUNKS.get_or_init(|| (0..POOL).map(|n| noise(n + 1, crate::small::UNIT)).collect());
    chunks.iter().map(|n| all[*n as usize].as_slice()).collect::<Vec<_>>().concat()
}

/// What [`disk`] has, of one that was read; nothing when its chunks are not where they should be.
pub(super) fn read_disk(
    reader: &SnapshotReader,
    world: &World,
    between: impl FnMut() -> Result<()>,
) -> Result<Vec<u8>> {
    let mut parts: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    read_chunks(reader, |chunk, bytes| drop(parts.insert(chunk.number, bytes.to_vec())), between)?;
    let is_there = |(n, number): (usize, &u64)| n as u64 * world.spread == *number;
    let is_whole = reader.size() == size(parts.len(), world) && parts.keys().enumerate().all(is_there);
    Ok(if is_whole { parts.into_values().collect::<Vec<_>>().concat() } else { Vec::new() })
}

/// Backs a disk up, without a pause.
pub(super) fn store_disk(
    repository: &Repository,
    index: Arc<ChunkIndex>,
    options: &WriterOptions,
    chunks: &[u64],
    world: &World,
) -> Result<Snapshot> {
    let writer = SnapshotWriter::start(repository, index, options)?;
    let mut scratch = writer.scratch()?;
    for (n, chunk) in disk(chunks).chunks(writer.chunk_size()).enumerate() {
        writer.put(&mut scratch, n as u64 * world.spread, chunk)?;
        writer.advance(n as u64 * world.spread + 1)?;
    }
    writer.commit(CommitInfo { size: size(chunks.len(), world), ..CommitInfo::default() })
}

/// Bytes of a disk of so many chunks.
fn size(chunks: usize, world: &World) -> u64 {
    ((chunks.max(1) as u64 - 1) * world.spread + 1) * crate::small::UNIT as u64
}

/// The clock of one process: its wall time is wrong by hours.
#[derive(Debug)]
struct ProcessClock {
    schedule: Arc<schedule::Schedule>,
    actor: usize,
    /// Seconds ahead.
    skew: i64,
}

impl Clock for ProcessClock {
    fn now(&self) -> Timestamp {
        Timestamp(schedule::wall(self.schedule.time()).0 + self.skew * 1_000_000_000)
    }

    fn monotonic(&self) -> Duration {
        self.schedule.time()
    }

    fn sleep(&self, time: Duration) {
        self.schedule.doze(self.actor, time);
    }
}

/// One life of a process.
pub(super) struct Process<'a> {
    pub(super) sim: &'a Sim,
    pub(super) actor: usize,
    pub(super) state: u64,
    pub(super) role: Role,
    pub(super) volume: Option<String>,
    /// It may die at any call, and its clock is wrong.
    pub(super) is_mortal: bool,
    /// It ends others that were silent for so long.
    pub(super) silent_for: Duration,
}

/// After so long a writer takes over from another one (A1).
const SILENT: Duration = Duration::from_secs(2 * 3600);

impl<'a> Process<'a> {
    pub(super) fn new(sim: &'a Sim, actor: usize, state: u64, role: Role) -> Self {
        Self { sim, actor, state, role, volume: None, is_mortal: true, silent_for: SILENT }
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        splitmix(&mut self.state) % n
    }

    /// One of the snapshots that must restore, and the chunks of its disk.
    pub(super) fn pick(&mut self) -> Option<(Snapshot, Vec<u64>)> {
        let mut standing = self.sim.ledger.lock().standing();
        (!standing.is_empty()).then(|| standing.swap_remove(self.below(standing.len() as u64) as usize))
    }

    pub(super) fn pause(&mut self, most: u64) {
        let seconds = self.below(most);
        self.sim.schedule.sleep(self.actor, Duration::from_secs(seconds));
    }

    /// A process begins anew, and may die.
    pub(super) fn open(&mut self) -> Result<Repository> {
        let life = if self.is_mortal && self.below(5) == 0 { 1 + self.below(80) } else { u64::MAX };
        let storage = Seen::new(self, life);
        let skew = i64::from(self.is_mortal) * (self.below(20 * 3600) as i64 - 10 * 3600);
        let clock = ProcessClock { schedule: self.sim.schedule.clone(), actor: self.actor, skew };
        let rng = TestRng::new(splitmix(&mut self.state));
        let components = Components { storage: Arc::new(storage), clock: Arc::new(clock), rng: Arc::new(rng) };
        Repository::open(components, &password())
    }

    /// Errors that a fault, a death or another process explains; any other is wrong.
    pub(super) fn failed(&self, doing: &str, e: &Error) {
        if !matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Conflict | ErrorKind::Busy) {
            self.sim.wrong(format!("actor {}: {doing}: {:?}: {e}", self.actor, e.kind()));
        }
    }
}

impl Sim {
    /// So often an actor does what it does.
    fn rounds(&self, ordinary: u64) -> u64 {
        if self.world.hostile { 40 } else { ordinary }
    }

    /// In a hostile world collectors and forgetters go on as long as anybody writes, and no longer.
    fn is_over(&self) -> bool {
        self.world.hostile && self.writers_done.load(Ordering::Relaxed) == WRITERS
    }
}

/// Backs up one volume again and again.
fn write(sim: &Sim, actor: usize, seed: u64) {
    backups(sim, actor, seed);
    sim.writers_done.fetch_add(1, Ordering::Relaxed);
}

fn backups(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Writes);
    let World { disk, pool, pause, volumes, .. } = sim.world;
    // Some actors share a volume.
    process.volume = Some(format!("vm{}", actor as u64 % volumes));
    let mut chunks: Vec<u64> = (0..disk).map(|_| process.below(pool)).collect();
    let mut kept = index();
    for round in 0..if sim.world.hostile { 7 } else { 5 } {
        process.pause(pause);
        if sim.world.images > 0 {
            // In a hostile world each writer has a disk twice, and nobody has it again: a chunk that is lost is not found by
            // its id in what somebody stored since.
            let image = match sim.world.hostile {
                true => (round / 2 + 3 * actor as u64) % sim.world.images,
                false => process.below(sim.world.images),
            };
            chunks = (image * disk..(image + 1) * disk).collect();
        }
        let most = if sim.world.images > 0 { 2 } else { disk };
        for _ in 0..process.below(most) {
            let at = process.below(disk) as usize;
            chunks[at] = process.below(pool);
        }
        if process.below(4) == 0 {
            kept = index();
        }
        if let Err(e) = backup(&mut process, &kept, &chunks) {
            process.failed("backup", &e);
        }
    }
}

fn backup(process: &mut Process<'_>, index: &Arc<ChunkIndex>, chunks: &[u64]) -> Result<()> {
    let repository = process.open()?;
    let mut options = options(process.volume.as_deref().unwrap_or_default());
    if process.sim.world.any_parent && process.below(4) > 0 {
        options.parent = match process.pick() {
            Some((old, _)) if old.record.name == options.name && process.below(2) == 0 => {
                ParentChoice::Snapshot(old.id)
            }
            _ => ParentChoice::None,
        };
    }
    if process.below(2) == 0 {
        // All of a disk is in one pack, of which little may be left.
        options.pack_size = 1 << 20;
    }
    let writer = match (SnapshotWriter::start(&repository, index.clone(), &options), &options.parent) {
        // It was chosen just before somebody began to forget it.
        (Err(e), ParentChoice::Snapshot(old))
            if matches!(e.kind(), ErrorKind::Invalid | ErrorKind::NoSnapshot)
                && process.sim.ledger.lock().doomed.contains(old) =>
        {
            return Ok(());
        }
        (started, _) => started?,
    };
    process.sim.schedule.count("adoption", u64::from(writer.is_resumed()));
    let (pulse, mut scratch) = (writer.pulse(), writer.scratch()?);
    let content = disk(chunks);
    // As a list of changed blocks says it: what is the same as in the parent is not read.
    let is_told = process.sim.world.others && process.below(2) == 0;
    let parent = writer.parent().filter(|_| is_told && writer.can_inherit()).map(|parent| parent.id);
    let unchanged = parent.and_then(|id| process.sim.ledger.lock().disk_of(&id)).unwrap_or_default();
    let mut beaten = process.sim.schedule.time();
    for (n, chunk) in content.chunks(writer.chunk_size()).enumerate() {
        let number = n as u64 * process.sim.world.spread;
        let is_known = unchanged.get(n) == Some(&chunks[n]);
        let place = number..number + 1;
        if is_known && writer.inheritable(place.clone())? == std::slice::from_ref(&place) {
            writer.inherit(place, chunk.len() as u64)?;
            process.sim.schedule.count("taken over unread", 1);
        } else {
            writer.put(&mut scratch, number, chunk)?;
        }
        writer.advance(number + 1)?;
        if process.below(3) == 0 {
            process.pause(600);
        }
        let now = process.sim.schedule.time();
        if now.saturating_sub(beaten) > Duration::from_secs(60) {
            beaten = now;
            pulse.beat()?;
        }
    }
    let snapshot =
        writer.commit(CommitInfo { size: size(chunks.len(), &process.sim.world), ..CommitInfo::default() })?;
    if process.sim.adopted.lock().ended_later.contains(&snapshot.id) {
        process.sim.wrong(format!("{} committed after another session had adopted it", snapshot.id));
    }
    process.sim.ledger.lock().made.push((snapshot, chunks.to_vec()));
    Ok(())
}

/// Collects with any grace, long or none.
fn collect(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Collects);
    for _ in 0..sim.rounds(7) {
        if sim.is_over() {
            return;
        }
        process.pause(2 * sim.world.pause);
        let time = |n: u64| Duration::from_secs(sim.world.times[n as usize]);
        let options = CollectOptions {
            grace: time(process.below(4)),
            fence_after: sim.world.fence_after.map_or_else(|| time(process.below(4)), Duration::from_secs),
            patience: time(process.below(4)),
            threads: 1,
            pack_size: 512 << 10,
            rewrite: sim.world.others && process.below(3) == 0,
            ..CollectOptions::default()
        };
        process.silent_for = options.fence_after;
        let report = process.open().and_then(|repository| repository.collect(&options, &|_, _, _| Ok(())));
        match report {
            Ok(report) => {
                let count = |case, by| sim.schedule.count(case, by);
                count("condemned", report.condemned.packs);
                count("relocation", report.copied.packs);
                count("sealed anew", report.rewritten.packs);
                count("rescued", report.rescued);
                count("swept", report.swept.packs);
            }
            Err(e) => process.failed("gc", &e),
        }
    }
}

/// Forgets, and changes its mind.
fn forget(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Forgets);
    for _ in 0..sim.rounds(6) {
        if sim.is_over() {
            return;
        }
        process.pause(2 * sim.world.pause);
        let Some((Snapshot { id, .. }, chunks)) = process.pick() else { continue };
        // In a small world all snapshots of a disk go, so that nobody needs its packs.
        let alike: Vec<_> = match sim.world.images > 0 && (sim.world.hostile || process.below(3) > 0) {
            true => sim.ledger.lock().standing(),
            false => Vec::new(),
        };
        let goes = |c: &[u64]| sim.world.hostile || c.last() == chunks.last();
        let alike: Vec<_> = alike.into_iter().filter(|(_, chunks)| goes(chunks)).collect();
        for (other, _) in alike.into_iter().filter(|(other, _)| other.id != id) {
            ask(&mut process, &other.id);
        }
        if !ask(&mut process, &id) || process.below(2) == 0 {
            continue;
        }
        process.pause(1800);
        match process.open().and_then(|repository| repository.unforget(&id)) {
            Ok(_) => {
                sim.ledger.lock().doomed.remove(&id);
                sim.schedule.count("undo won", 1);
            }
            Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::NoSnapshot) => {
                sim.schedule.count("final won", 1)
            }
            Err(e) => process.failed("unforget", &e),
        }
    }
}

/// Asks to forget one snapshot; whether that was done.
fn ask(process: &mut Process<'_>, id: &SnapshotId) -> bool {
    process.sim.ledger.lock().doomed.insert(*id);
    let delay = Duration::from_secs([0, 0, 1800][process.below(3) as usize]);
    match process.open().and_then(|repository| repository.forget(id, delay, "simulated")) {
        Ok(_) => true,
        Err(e) if e.kind() == ErrorKind::NoSnapshot => false,
        // It may have been done, or be done yet.
        Err(e) => {
            process.failed("forget", &e);
            false
        }
    }
}

/// Reads what is there, slowly.
fn read(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Reads);
    for _ in 0..6 {
        sim.readers.lock().begin(actor);
        process.pause(2 * sim.world.pause);
        let Some((snapshot, chunks)) = process.pick() else { continue };
        let is_doomed = || sim.ledger.lock().doomed.contains(&snapshot.id);
        let opened = process.open().and_then(|repository| ReadSession::open(&repository, &snapshot));
        let session = match opened {
            Ok(session) => Arc::new(session),
            Err(e) if e.kind() == ErrorKind::Unavailable || is_doomed() => continue,
            Err(e) => {
                sim.wrong(format!("{} cannot be read: {:?}: {e}", snapshot.id, e.kind()));
                continue;
            }
        };
        // From here on it stays whole, whoever forgets it (V2), until a collector takes its note (V4).
        let restored = restore(&mut process, session);
        let (was_cleared, has_returned) = {
            let readers = sim.readers.lock();
            (readers.was_cleared(actor), readers.has_returned(actor))
        };
        match restored {
            Ok(bytes) if bytes == disk(&chunks) => {
                sim.schedule.count(if is_doomed() { "read while it was forgotten" } else { "restored" }, 1);
                sim.schedule.count("reader let in again", has_returned.into());
            }
            Ok(_) => sim.wrong(format!("{} was read as something else", snapshot.id)),
            Err(e) if e.kind() == ErrorKind::Unavailable => {}
            Err(e) if e.kind() == ErrorKind::NoSnapshot && was_cleared && is_doomed() => {
                sim.schedule.count("reader refused on its way back", 1);
            }
            Err(e) => sim.wrong(format!("{} does not restore: {:?}: {e}", snapshot.id, e.kind())),
        }
    }
}

pub(super) fn restore(process: &mut Process<'_>, session: Arc<ReadSession>) -> Result<Vec<u8>> {
    let sim = process.sim;
    if process.below(2) == 0 {
        let most = if sim.world.silent == Silent::Days { 3 * DAYS } else { 4 * 3600 };
        process.pause(most);
    }
    let reader = SnapshotReader::within(session.clone())?;
    let mut beaten = sim.schedule.time();
    read_disk(&reader, &sim.world, || {
        let now = sim.schedule.time();
        if now.saturating_sub(beaten) > Duration::from_secs(60) {
            beaten = now;
            session.beat()?;
        }
        Ok(())
    })
}
