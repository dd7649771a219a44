//! A power cut between the name of an object and its being durable: nothing that was acknowledged leans on what others have not made
//! durable yet.

use super::{disk, refused};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wherry_repo::storage::{Memory, Metered, Retries, Retrying, Storage};
use wherry_repo::{
    CommitInfo, Components, CopyOptions, CopyPlan, ErrorKind, ReadSession, Repository, Result, Snapshot, SnapshotCopy,
    SnapshotWriter,
};
use wherry_tests::fleeting::Fleeting;
use wherry_tests::small::*;

struct World {
    storage: Arc<Fleeting>,
    clock: Arc<TestClock>,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(TestClock::default());
        let storage = Fleeting::new(Arc::new(Memory::new(clock.clone())));
        init_with(Components { clock: clock.clone(), ..components(storage.clone()) }).unwrap();
        Self { storage, clock }
    }

    /// What another process has open.
    fn open(&self) -> Repository {
        Repository::open(Components { clock: self.clock.clone(), ..components(self.storage.clone()) }, &password())
            .unwrap()
    }

    /// What `others` give when they come in between the name and the answer of the first object with `part` in its key that `work` stores.
    fn amid<T: Send + 'static, U>(
        &self,
        part: &'static str,
        others: impl FnOnce() -> T + Send + 'static,
        work: impl FnOnce() -> Result<U>,
    ) -> T {
        let tell = Arc::new(Mutex::new(None));
        let heard = tell.clone();
        self.storage.stop_at(part, move || *tell.lock().unwrap() = Some(others()));
        refused(work());
        heard.lock().unwrap().take().unwrap()
    }
}

/// Whoever has an empty index, and no segment to read.
fn backup_anew(repository: &Repository, name: &str, disk: &[u8]) -> Result<Snapshot> {
    let known = index();
    known.synchronise(repository, true)?;
    backup_with(repository, known, &options(name), disk)
}

#[track_caller]
fn survives(world: &World, snapshot: &Snapshot, disk: &[u8]) {
    world.storage.cut_power();
    assert!(restore(&world.open(), snapshot).unwrap() == disk);
}

#[test]
fn a_backup_may_know_packs_of_a_writer_that_is_storing_them() {
    let (world, disk) = (World::new(), disk(1, 6));
    let (theirs, same) = (world.open(), disk.clone());
    let b = world.amid("packs/", move || backup_anew(&theirs, "b", &same), || backup(&world.open(), "a", &disk));
    let b = b.unwrap();
    assert!(b.record.stats.new < disk.len() as u64, "what is made durable is known: {:?}", b.record.stats);
    survives(&world, &b, &disk);
}

#[test]
fn a_backup_may_adopt_packs_whose_writer_died_storing_them() {
    for silent in [false, true] {
        let (world, disk) = (World::new(), disk(2, 6));
        let writer = SnapshotWriter::start(&world.open(), index(), &options("vm")).unwrap();
        world.amid("packs/", || (), || put_all(&writer, &disk));
        if silent {
            world.clock.advance(Duration::from_secs(3 * 3600));
        } else {
            let repository = world.open();
            assert!(repository.end_session(repository.volume_id("vm"), writer.id(), "it was killed").unwrap());
        }
        let next = SnapshotWriter::start(&world.open(), index(), &options("vm")).unwrap();
        assert!(next.is_resumed());
        put_all(&next, &disk).unwrap();
        let next = next.commit(CommitInfo { size: disk.len() as u64, ..CommitInfo::default() }).unwrap();
        assert!(next.record.stats.new < disk.len() as u64, "{:?}", next.record.stats);
        survives(&world, &next, &disk);
    }
}

/// A segment that a repair writes of such packs says of them what one of their writer would.
#[test]
fn a_backup_may_know_packs_that_a_repair_has_found() {
    let (world, disk) = (World::new(), disk(7, 6));
    let theirs = world.open();
    let repair = move || theirs.rebuild_index(&|_, _| Ok(())).unwrap().rebuilt;
    assert_eq!(world.amid("packs/", repair, || backup(&world.open(), "a", &disk)), 1);
    let known = index();
    assert_eq!(known.synchronise(&world.open(), false).unwrap().packs, 0);
    let b = backup_with(&world.open(), known, &options("b"), &disk).unwrap();
    assert!(b.record.stats.new < disk.len() as u64, "{:?}", b.record.stats);
    survives(&world, &b, &disk);
}

#[test]
fn what_cannot_be_made_durable_is_stored_anew() {
    let (world, disk) = (World::new(), disk(3, 6));
    world.amid("packs/", || (), || backup(&world.open(), "a", &disk));
    world.storage.refuse();
    let b = backup_anew(&world.open(), "b", &disk).unwrap();
    assert_eq!(b.record.stats.new, disk.len() as u64);
    survives(&world, &b, &disk);
}

/// The packs of a run are no use when what opens them is gone.
#[test]
fn a_key_epoch_that_packs_are_sealed_under_is_durable() {
    let (world, disk) = (World::new(), disk(4, 6));
    world.amid("keys/epoch-", || (), || world.open().rotate(&[]));
    let b = backup(&world.open(), "b", &disk).unwrap();
    survives(&world, &b, &disk);
}

#[test]
fn what_is_told_as_copied_pinned_or_taken_back_stays_so() {
    let (world, disk) = (World::new(), disk(5, 6));
    let (_, source) = in_memory();
    let original = backup(&source, "vm", &disk).unwrap();
    let copy = |plan: &CopyPlan, target: &Repository| {
        let options = CopyOptions { writer: options(""), threads: 1, fetch: 1 << 20, run: String::new() };
        let session = Arc::new(ReadSession::open(&source, &original)?);
        SnapshotCopy::start(session, target, index(), None, &options)?.run(plan, &|_| Ok(()))
    };
    let plan = |target: &Repository| {
        CopyPlan::new(&source, source.snapshots(None).unwrap(), target, &target.snapshots(None).unwrap()).unwrap()
    };
    let before = plan(&world.open());
    world.amid("snap/", || (), || copy(&before, &world.open()));
    for since in [true, false] {
        let target = world.open();
        let there = match since {
            true => before.copied_since(&target, &original).unwrap(),
            false => plan(&target).copy_of(&original.id),
        };
        let (there, _) = there.unwrap();
        world.storage.cut_power();
        let list = world.open().snapshots(None).unwrap();
        let there = list.snapshots.iter().find(|s| s.id == there).expect("it was told as copied");
        assert!(restore(&world.open(), there).unwrap() == disk);
        if since {
            let of = world.open();
            let delay = Duration::from_secs(60);
            world.amid("-pinned", || (), || of.pin(&there.id));
            assert!(!of.pin(&there.id).unwrap());
            world.storage.cut_power();
            assert!(of.is_pinned(&there.id).unwrap());
            of.unpin(&there.id).unwrap();
            assert!(of.forget(&there.id, delay, "test").unwrap());
            world.amid("-settled", || (), || of.unforget(&there.id));
            assert!(!of.unforget(&there.id).unwrap());
            world.storage.cut_power();
            assert!(!of.is_gone(&there.id).unwrap() && of.forget_due(&there.id).unwrap().is_none());
        }
    }
}

/// A refusal of the disk is no reason to say that it is there.
#[test]
fn what_cannot_be_made_durable_is_not_told_as_pinned() {
    let (world, disk) = (World::new(), disk(6, 2));
    let snapshot = backup(&world.open(), "vm", &disk).unwrap();
    world.amid("-pinned", || (), || world.open().pin(&snapshot.id));
    world.storage.refuse();
    assert_eq!(refused(world.open().pin(&snapshot.id)).kind(), ErrorKind::Unavailable);
}

/// Neither who counts nor who tries again keeps it to himself.
#[test]
fn a_storage_around_another_hands_on_what_is_to_be_durable() {
    let storage = Fleeting::new(Arc::new(Memory::default()));
    storage.refuse();
    let metered: Arc<dyn Storage> = Arc::new(Metered::new(storage, Arc::default()));
    let system = Arc::new(wherry_repo::System::default());
    let retrying = Retrying::new(metered.clone(), Retries::default(), system.clone(), system);
    let ask = |storage: &dyn Storage| storage.make_durable(&mut std::iter::once(super::key("packs/aa/1")));
    assert!(ask(&*metered).is_err() && ask(&retrying).is_err());
}
