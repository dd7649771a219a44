//! A pack is damaged, and healed from another repository (M7), while others write, forget, collect and make new keys.

use super::Sim;
use super::actors::{Play, Process, store_disk};
use super::others::rotate;
use super::storage::Role;
use crate::small::{CHEAP, TestRng, UNIT, index, options, password};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wherry_repo::heal::admit;
use wherry_repo::storage::{Key, Memory, Storage, keys};
use wherry_repo::{
    CheckOptions, CollectOptions, Components, CopyOptions, CopyPlan, ErrorKind, Heal, HealOptions, InitOptions,
    NodeHeal, ReadData, ReadSession, Repository, Result, Snapshot, SnapshotCopy, Wanted,
};

/// Chunks of the disk that is damaged.
const DISK: [u64; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// The volume that is damaged.
const VOLUME: &str = "vm";

/// What others wait for.
const DAMAGED: &str = "damaged";
const HEALED: &str = "healed";
const WRITTEN: &str = "written";
const FORGOTTEN: &str = "forgotten";

/// Writers of the cast.
const WRITERS: u64 = 3;

pub(super) fn cast() -> Vec<Play> {
    vec![heal, write, write, copy, forget, collect, collect, rotate]
}

/// The other repository, which nobody else calls, with the same disk.
fn other(sim: &Sim, seed: u64) -> Result<(Repository, Snapshot)> {
    let clock = Arc::new(super::StorageClock(sim.schedule.clone()));
    let storage = Arc::new(Memory::new(clock.clone()));
    let components = Components { storage, clock, rng: Arc::new(TestRng::new(seed ^ 0x07_4E12)) };
    let mut init = InitOptions::default();
    (init.chunk_size, init.password_cost) = (UNIT as u32, CHEAP);
    let repository = Repository::init(components, &init, &password())?;
    let snapshot = store_disk(&repository, index(), &options("another vm"), &DISK, &sim.world)?;
    Ok((repository, snapshot))
}

/// What `repair --from` looks at.
fn look(repository: &Repository) -> Result<Wanted> {
    let read_data = Some(ReadData::default());
    let options = CheckOptions { read_data, keep: true, threads: 1, ..CheckOptions::default() };
    let (report, wanted) = repository.find_wanted(&options, &|_, _, _| Ok(()))?;
    admit(repository, &report)?;
    Ok(wanted)
}

/// Some pack of chunks or of nodes is lost, or a byte of it.
fn damage(sim: &Sim, process: &mut Process<'_>) -> Result<()> {
    let mut packs: Vec<Key> = Vec::new();
    for prefix in [keys::PACKS, keys::META] {
        sim.memory.list(prefix, &mut |object| {
            packs.push(object.key);
            Ok(())
        })?;
    }
    let key = packs.swap_remove(process.below(packs.len() as u64) as usize);
    if process.below(2) == 0 {
        return sim.memory.delete(&key);
    }
    let mut body = sim.memory.get(&key)?.to_vec();
    // In its first chunk or node.
    body[80] ^= 1;
    sim.memory.overwrite(&key, body.into())
}

/// Makes the nodes of all of the disk again; gives the packs that were stored.
fn make_nodes(mine: &Repository, theirs: &Repository, snapshot: &Snapshot) -> Result<u64> {
    let session = Arc::new(ReadSession::open(theirs, snapshot)?);
    let copy = SnapshotCopy::start(session, mine, index(), None, &copying())?;
    Ok(NodeHeal::new(mine, copy).run(&|_| Ok(()))?.0)
}

/// Stores the disk, has a pack of it damaged, which is noted before others come, and heals that while they work.
fn heal(sim: &Sim, actor: usize, seed: u64) {
    heal_one(sim, actor, seed);
    sim.schedule.tell(HEALED);
}

fn heal_one(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Heals);
    process.is_mortal = false;
    let begun = (|| {
        let stored = store_disk(&process.open()?, index(), &options(VOLUME), &DISK, &sim.world)?;
        sim.ledger.lock().made.push((stored, DISK.to_vec()));
        damage(sim, &mut process)?;
        sim.is_damaged.store(true, Ordering::Relaxed);
        // Of damage that nobody knows of a collector may sweep what would have healed it.
        look(&process.open()?).map(drop)
    })();
    sim.schedule.tell(DAMAGED);
    if let Err(e) = begun {
        return sim.wrong(format!("nothing is there to be healed: {e}"));
    }
    process.pause(1200);
    let healed = (|| {
        let (theirs, snapshot) = other(sim, seed)?;
        // New keys may come in between, and a conflict with whoever made them.
        for _ in 0..8 {
            let mine = process.open()?;
            let mut wanted = look(&mine)?;
            if wanted.chunks() == 0 && wanted.nodes() == 0 {
                return Ok(true);
            }
            if wanted.nodes() > 0 {
                match make_nodes(&mine, &theirs, &snapshot) {
                    Err(e) if e.kind() == ErrorKind::Conflict => continue,
                    made => sim.schedule.count("packs of nodes made again", made?),
                }
                wanted = look(&mine)?;
            }
            let options = HealOptions { copy: copying(), dry_run: false };
            let healing = Heal::start(&mine, &wanted, &options)?;
            healing.take_from(Arc::new(ReadSession::open(&theirs, &snapshot)?), false, &|_| Ok(()))?;
            sim.schedule.count("healed", healing.finish(&|_| Ok(()))?.chunks);
        }
        Ok::<_, wherry_repo::Error>(false)
    })();
    match healed {
        Ok(true) => sim.is_damaged.store(false, Ordering::Relaxed),
        Ok(false) => sim.wrong("what was healed is wanted again and again".into()),
        Err(e) => sim.wrong(format!("heal: {:?}: {e}", e.kind())),
    }
}

/// Backs up the same disk as another volume: whoever knows of the damage heals it, too (W8).
fn write(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Writes);
    (process.is_mortal, process.volume) = (false, Some(format!("vm{actor}")));
    sim.schedule.until(actor, DAMAGED);
    let known = index();
    for _ in 0..3 {
        process.pause(1200);
        let mut chunks = DISK;
        chunks[process.below(8) as usize] = 8 + process.below(8);
        let options = options(process.volume.as_deref().unwrap_or_default());
        let made = process.open().and_then(|repository| {
            // Where the packs are, also the one that is damaged.
            known.synchronise(&repository, true)?;
            store_disk(&repository, known.clone(), &options, &chunks, &sim.world)
        });
        match made {
            Ok(snapshot) => sim.ledger.lock().made.push((snapshot, chunks.to_vec())),
            Err(e) => process.failed("backup", &e),
        }
    }
    end_of_writer(sim);
}

fn end_of_writer(sim: &Sim) {
    if sim.writers_done.fetch_add(1, Ordering::Relaxed) + 1 == WRITERS {
        sim.schedule.tell(WRITTEN);
    }
}

/// Copies the same disk from another repository (M3).
fn copy(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Writes);
    (process.is_mortal, process.volume) = (false, Some("another vm".into()));
    sim.schedule.until(actor, DAMAGED);
    for round in 0..2 {
        process.pause(1200);
        let copied = (|| {
            let (source, snapshot) = other(sim, seed + round)?;
            let target = process.open()?;
            let plan = CopyPlan::new(&source, source.snapshots(None)?, &target, &target.snapshots(None)?)?;
            let session = Arc::new(ReadSession::open(&source, &snapshot)?);
            SnapshotCopy::start(session, &target, index(), None, &copying())?.run(&plan, &|_| Ok(()))
        })();
        match copied {
            Ok(copy) => {
                sim.ledger.lock().made.push((copy, DISK.to_vec()));
                sim.schedule.count("copied", 1);
            }
            Err(e) => process.failed("copy", &e),
        }
    }
    end_of_writer(sim);
}

fn copying() -> CopyOptions {
    CopyOptions { writer: options(""), threads: 1, fetch: 256 << 10, run: "run".into() }
}

/// Forgets what the others made, so that what may have healed something is garbage.
fn forget(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Forgets);
    process.is_mortal = false;
    sim.schedule.until(actor, DAMAGED);
    for round in 0..4 {
        match round {
            3 => sim.schedule.until(actor, WRITTEN),
            _ => process.pause(1200),
        }
        let standing = sim.ledger.lock().standing();
        for (snapshot, _) in standing.into_iter().filter(|(snapshot, _)| snapshot.record.name != VOLUME) {
            sim.ledger.lock().doomed.insert(snapshot.id);
            let asked =
                process.open().and_then(|repository| repository.forget(&snapshot.id, Duration::ZERO, "a scene"));
            if let Err(e) = asked {
                process.failed("forget", &e);
            }
        }
    }
    sim.schedule.tell(FORGOTTEN);
}

/// Collects without any grace, and once more when all that the others made is garbage. As long as something is lost it may say so, and delete nothing.
fn collect(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Collects);
    process.is_mortal = false;
    sim.schedule.until(actor, DAMAGED);
    for round in 0..6 {
        process.pause(1200);
        if round == 4 {
            sim.schedule.until(actor, HEALED);
            sim.schedule.until(actor, FORGOTTEN);
        }
        let was_damaged = sim.is_damaged.load(Ordering::Relaxed);
        let options = CollectOptions {
            grace: Duration::ZERO,
            fence_after: Duration::from_secs(3600),
            patience: Duration::from_secs(600),
            threads: 1,
            pack_size: 512 << 10,
            rewrite: process.below(3) == 0,
            ..CollectOptions::default()
        };
        process.silent_for = options.fence_after;
        match process.open().and_then(|repository| repository.collect(&options, &|_, _, _| Ok(()))) {
            Ok(report) => sim.schedule.count("swept", report.swept.packs),
            Err(e) if e.kind() == ErrorKind::Corrupt && was_damaged => sim.schedule.count("damage kept a collector", 1),
            Err(e) => process.failed("gc", &e),
        }
    }
}
