//! What runs beside each other.

use super::storage::Seen;
use super::{Sim, schedule};
use crate::small::{TestRng, index, noise, options, password, read_whole, splitmix};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wherry_repo::index::ChunkIndex;
use wherry_repo::{
    Clock, CollectOptions, CommitInfo, Components, Error, ErrorKind, ReadSession, Repository, Result, Snapshot,
    SnapshotReader, SnapshotWriter, Timestamp,
};

/// Chunks of a disk.
const DISK: u64 = 10;
/// Chunks that there are: so few that what one volume drops others have.
const POOL: u64 = 60;

pub(super) type Play = fn(&Sim, usize, u64);

/// Three writers, and some of all others.
pub(super) fn cast(state: &mut u64) -> Vec<Play> {
    let mut cast: Vec<Play> = vec![write, write, write, collect, forget, forget, read];
    let more: [Play; 3] = [collect, forget, write];
    cast.extend(more.into_iter().filter(|_| splitmix(state).is_multiple_of(2)));
    cast
}

/// The bytes of a disk.
pub(super) fn disk(chunks: &[u64]) -> Vec<u8> {
    static CHUNKS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let all = CHUNKS.get_or_init(|| (0..POOL).map(|n| noise(n + 1, crate::small::UNIT)).collect());
    chunks.iter().flat_map(|n| all[*n as usize].iter().copied()).collect()
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
        self.schedule.sleep(self.actor, time);
    }
}

/// One life of a process.
struct Process<'a> {
    sim: &'a Sim,
    actor: usize,
    state: u64,
    collects: bool,
}

impl<'a> Process<'a> {
    fn new(sim: &'a Sim, actor: usize, state: u64) -> Self {
        Self { sim, actor, state, collects: false }
    }

    fn below(&mut self, n: u64) -> u64 {
        splitmix(&mut self.state) % n
    }

    /// One of the snapshots that must restore, and the chunks of its disk.
    fn pick(&mut self) -> Option<(Snapshot, Vec<u64>)> {
        let mut standing = self.sim.ledger.lock().standing();
        (!standing.is_empty()).then(|| standing.swap_remove(self.below(standing.len() as u64) as usize))
    }

    fn pause(&mut self, most: u64) {
        let seconds = self.below(most);
        self.sim.schedule.sleep(self.actor, Duration::from_secs(seconds));
    }

    /// A process begins anew, and may die.
    fn open(&mut self) -> Result<Repository> {
        let life = if self.below(5) == 0 { 1 + self.below(80) } else { u64::MAX };
        let storage = Seen {
            memory: self.sim.memory.clone(),
            schedule: self.sim.schedule.clone(),
            actor: self.actor,
            collects: self.collects,
            life: Mutex::new(life),
        };
        let skew = self.below(20 * 3600) as i64 - 10 * 3600;
        let clock = ProcessClock { schedule: self.sim.schedule.clone(), actor: self.actor, skew };
        let rng = TestRng::new(splitmix(&mut self.state));
        let components = Components { storage: Arc::new(storage), clock: Arc::new(clock), rng: Arc::new(rng) };
        Repository::open(components, &password())
    }

    /// Errors that a fault, a death or another process explains; any other is wrong.
    fn failed(&self, doing: &str, e: &Error) {
        if !matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Conflict | ErrorKind::Busy) {
            self.sim.wrong(format!("actor {}: {doing}: {:?}: {e}", self.actor, e.kind()));
        }
    }
}

/// Backs up one volume again and again.
fn write(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed);
    let mut chunks: Vec<u64> = (0..DISK).map(|_| process.below(POOL)).collect();
    let mut kept = index();
    for _ in 0..5 {
        process.pause(3600);
        for _ in 0..process.below(DISK) {
            let at = process.below(DISK) as usize;
            chunks[at] = process.below(POOL);
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
    // Some actors share a volume.
    let mut options = options(&format!("vm{}", process.actor % 4));
    if process.below(2) == 0 {
        // All of a disk is in one pack, of which little may be left.
        options.pack_size = 1 << 20;
    }
    let writer = SnapshotWriter::start(&repository, index.clone(), &options)?;
    process.sim.schedule.count("adoption", u64::from(writer.is_resumed()));
    let (pulse, mut scratch) = (writer.pulse(), writer.scratch()?);
    let content = disk(chunks);
    let mut beaten = process.sim.schedule.time();
    for (n, chunk) in content.chunks(writer.chunk_size()).enumerate() {
        writer.put(&mut scratch, n as u64, chunk)?;
        writer.advance(n as u64 + 1)?;
        if process.below(3) == 0 {
            process.pause(600);
        }
        let now = process.sim.schedule.time();
        if now.saturating_sub(beaten) > Duration::from_secs(60) {
            beaten = now;
            pulse.beat()?;
        }
    }
    let snapshot = writer.commit(CommitInfo { size: content.len() as u64, ..CommitInfo::default() })?;
    process.sim.ledger.lock().made.push((snapshot, chunks.to_vec()));
    Ok(())
}

/// Collects with any grace, long or none.
fn collect(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process { collects: true, ..Process::new(sim, actor, seed) };
    for _ in 0..7 {
        process.pause(2 * 3600);
        let time = |n: u64| Duration::from_secs([0, 0, 600, 7200][n as usize]);
        let options = CollectOptions {
            grace: time(process.below(4)),
            fence_after: time(process.below(4)),
            patience: time(process.below(4)),
            threads: 1,
            pack_size: 512 << 10,
            ..CollectOptions::default()
        };
        let report = process.open().and_then(|repository| repository.collect(&options, &|_, _, _| Ok(())));
        match report {
            Ok(report) => {
                let count = |case, by| sim.schedule.count(case, by);
                count("condemned", report.condemned.packs);
                count("relocation", report.copied.packs);
                count("rescued", report.rescued);
                count("swept", report.swept.packs);
            }
            Err(e) => process.failed("gc", &e),
        }
    }
}

/// Forgets, and changes its mind.
fn forget(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed);
    for _ in 0..6 {
        process.pause(2 * 3600);
        let Some((Snapshot { id, .. }, _)) = process.pick() else { continue };
        sim.ledger.lock().doomed.insert(id);
        let delay = Duration::from_secs([0, 0, 1800][process.below(3) as usize]);
        let forgotten = process.open().and_then(|repository| repository.forget(&id, delay, "simulated"));
        match forgotten {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NoSnapshot => continue,
            // It may have been done, or be done yet.
            Err(e) => {
                process.failed("forget", &e);
                continue;
            }
        }
        if process.below(2) == 0 {
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

/// Reads what is there, slowly.
fn read(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed);
    for _ in 0..6 {
        process.pause(2 * 3600);
        let Some((snapshot, chunks)) = process.pick() else { continue };
        let read = process.open().and_then(|repository| restore(sim, &repository, &snapshot));
        let is_doomed = sim.ledger.lock().doomed.contains(&snapshot.id);
        match read {
            Ok(bytes) if bytes == disk(&chunks) => {
                sim.schedule.count(if is_doomed { "read while it was forgotten" } else { "restored" }, 1);
            }
            Ok(_) => sim.wrong(format!("{} was read as something else", snapshot.id)),
            Err(e) if e.kind() == ErrorKind::Unavailable || is_doomed => {}
            Err(e) => sim.wrong(format!("{} does not restore: {:?}: {e}", snapshot.id, e.kind())),
        }
    }
}

fn restore(sim: &Sim, repository: &Repository, snapshot: &Snapshot) -> Result<Vec<u8>> {
    let session = Arc::new(ReadSession::open(repository, snapshot)?);
    let reader = SnapshotReader::within(session.clone())?;
    let mut beaten = sim.schedule.time();
    read_whole(&reader, || {
        let now = sim.schedule.time();
        if now.saturating_sub(beaten) > Duration::from_secs(60) {
            beaten = now;
            session.beat()?;
        }
        Ok(())
    })
}
