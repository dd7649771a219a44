//! Who comes besides in some worlds: checks, mounts, rotated keys.

use super::Sim;
use super::actors::{Process, disk, read_disk};
use super::storage::Role;
use std::sync::Arc;
use wherry_repo::{CheckOptions, ErrorKind, ReadData, ReadSession, SnapshotReader};

/// Checks all there is, beside everybody: it must not find damage. Now and then it makes index segments again (M1).
pub(super) fn check(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Checks);
    for _ in 0..3 {
        process.pause(3 * sim.world.pause);
        let read_data = (process.below(2) == 0).then(ReadData::default);
        let keep = process.below(2) == 0;
        let options = CheckOptions { read_data, keep, threads: 1, ..CheckOptions::default() };
        match process.open().and_then(|repository| repository.check(&options, &|_, _, _| Ok(()))) {
            Ok(report) if report.is_clean() => {
                sim.schedule.count("checked", 1);
                sim.schedule.count("checked what had moved", report.moved_chunks + report.moved_nodes);
            }
            Ok(report) => sim.wrong(format!("actor {actor}: a check finds damage: {:?}", report.damages)),
            Err(e) => process.failed("check", &e),
        }
        if process.below(2) == 0 {
            match process.open().and_then(|repository| repository.rebuild_index(&|_, _| Ok(()))) {
                Ok(_) => sim.schedule.count("index made again", 1),
                Err(e) => process.failed("rebuild", &e),
            }
        }
    }
}

/// Opens a disk and reads it again and again, with long pauses in between, and knows where its chunks were (V7).
pub(super) fn mount(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Reads);
    process.is_mortal = false;
    process.pause(2 * sim.world.pause);
    sim.readers.lock().begin(actor);
    let Some((snapshot, chunks)) = process.pick() else { return };
    let is_doomed = || sim.ledger.lock().doomed.contains(&snapshot.id);
    let opened = process.open().and_then(|repository| ReadSession::open(&repository, &snapshot));
    let opened = opened.map(Arc::new).and_then(|session| Ok((SnapshotReader::within(session.clone())?, session)));
    let (reader, session) = match opened {
        Ok(opened) => opened,
        Err(e) if e.kind() == ErrorKind::Unavailable || is_doomed() => return,
        Err(e) => return sim.wrong(format!("{} cannot be mounted: {:?}: {e}", snapshot.id, e.kind())),
    };
    for _ in 0..5 {
        process.pause(2 * sim.world.pause);
        // Without: the next read looks for the note itself.
        if process.below(2) == 0 {
            match session.beat() {
                Err(e) if e.kind() != ErrorKind::Unavailable && e.kind() != ErrorKind::NoSnapshot => {
                    sim.wrong(format!("{}: a sign of life: {:?}: {e}", snapshot.id, e.kind()));
                }
                _ => {}
            }
        }
        match read_disk(&reader, &sim.world, || Ok(())) {
            Ok(bytes) if bytes == disk(&chunks) => {
                sim.schedule.count(if is_doomed() { "mounted while it was forgotten" } else { "mounted" }, 1);
            }
            Ok(_) => sim.wrong(format!("{} was mounted and read as something else", snapshot.id)),
            Err(e) if e.kind() == ErrorKind::Unavailable => {}
            Err(e) if e.kind() == ErrorKind::NoSnapshot && sim.readers.lock().was_cleared(actor) && is_doomed() => {
                return;
            }
            Err(e) => sim.wrong(format!("{}, which is mounted, is not read: {:?}: {e}", snapshot.id, e.kind())),
        }
    }
}

/// Makes new data keys (M4) beside everybody who goes on with those they know.
pub(super) fn rotate(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Rotates);
    for _ in 0..3 {
        process.pause(3 * sim.world.pause);
        match process.open().and_then(|repository| repository.rotate(&[])) {
            Ok(_) => sim.schedule.count("keys rotated", 1),
            Err(e) => process.failed("rotate", &e),
        }
    }
}
