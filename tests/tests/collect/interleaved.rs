//! Writers, readers and other collectors that come at a bad moment: each step of a collector is stopped, something else is
//! done, and it goes on.

use super::*;
use parking_lot::Mutex;
use std::sync::mpsc;
use wherry_repo::index::ChunkIndex;
use wherry_repo::{CommitInfo, Error, ErrorKind, ReadSession, SnapshotWriter};
use wherry_tests::meddling::{Call, Fate, Meddling};

/// A snapshot that will be forgotten, one that needs little of it, one of its own, and an index that knows the first two.
pub(super) fn world() -> (World, Arc<ChunkIndex>, Vec<u8>, Snapshot) {
    let mut world = World::new();
    let index = index();
    let forgotten = disk(&(0..16).collect::<Vec<_>>());
    let snapshot = backup_with(&world.repository(), index.clone(), &wide("vm"), &forgotten).unwrap();
    world.disks.insert(snapshot.id, forgotten.clone());
    let bytes = disk(&[8, 201]);
    let little = backup_with(&world.repository(), index.clone(), &wide("little"), &bytes).unwrap();
    world.disks.insert(little.id, bytes);
    world.backup("other", &disk(&(100..108).collect::<Vec<_>>()));
    (world, index, forgotten, snapshot)
}

pub(super) fn commit(writer: SnapshotWriter, disk: &[u8]) -> Result<Snapshot> {
    writer.commit(CommitInfo { size: disk.len() as u64, ..CommitInfo::default() })
}

/// Something that is done once, inside a call to the storage.
pub(super) type Deed = Box<dyn FnOnce() + Send>;

/// A collector that does `deed` before its call number `at`; false when it has fewer calls.
pub(super) fn gc_with(world: &World, at: usize, deed: Deed) -> (bool, Result<Collected>) {
    let storage = Meddling::new(world.storage.clone(), false);
    let repository = world.over(storage.clone());
    let done = Arc::new(Mutex::new((0, Some(deed))));
    let counted = done.clone();
    storage.meddle(move |_: Call, _: &str| {
        let mut counted = counted.lock();
        counted.0 += 1;
        if counted.0 == at
            && let Some(deed) = counted.1.take()
        {
            deed();
        }
        Fate::Done
    });
    let options = CollectOptions { threads: 1, ..now() };
    let report = gc(&repository, &options);
    let done = done.lock().1.is_none();
    (done, report)
}

/// A writer that has hit what is forgotten commits at every moment of a collector: it is whole or was told that it is over.
#[test]
fn a_writer_that_commits_at_any_moment_is_whole_or_told() {
    let (mut committed, mut told) = (0, 0);
    let (first, index, bytes, snapshot) = world();
    for at in 1.. {
        let (mut world, index, bytes) = (first.copy(), index.clone(), bytes.clone());
        let writer = SnapshotWriter::start(&world.repository(), index, &wide("new")).unwrap();
        put_all(&writer, &bytes).unwrap();
        world.forget(&snapshot.id);
        let outcome = Arc::new(Mutex::new(None));
        let (theirs, disk) = (outcome.clone(), bytes.clone());
        let (reached, report) = gc_with(&world, at, Box::new(move || *theirs.lock() = Some(commit(writer, &disk))));
        let report = report.unwrap_or_else(|e| panic!("at {at}: {e}"));
        if !reached {
            assert!(at > 50, "a collector has only {at} calls");
            break;
        }
        match outcome.lock().take() {
            Some(Ok(snapshot)) => {
                committed += 1;
                assert_eq!(snapshot.record.stats.new, 0, "it was to hit all of the other one");
                world.disks.insert(snapshot.id, bytes);
            }
            Some(Err(e)) => {
                told += 1;
                assert_eq!(e.kind(), ErrorKind::Conflict, "at {at}: {e}");
                assert!(!report.fenced.is_empty() || e.to_string().contains("condemned"), "at {at}: {e}");
            }
            None => panic!("at {at}: no outcome"),
        }
        world.verify(&format!("a commit at call {at}"));
        world.verify_lean(&format!("a commit at call {at}"));
    }
    assert!(committed > 10 && told > 10, "{committed} committed, {told} were told");
}

/// A collector runs from its beginning to its end at every moment of a backup, also between its last look for lists and its
/// commit: it ends the backup, or waits for it, and is not passed over.
#[test]
fn a_collector_at_any_moment_of_a_backup_waits_or_ends_it() {
    let (first, index, bytes, snapshot) = world();
    let (mut whole, mut told) = (0, 0);
    for (fence_after, step) in [(0, 1), (7200, 2)] {
        for at in (1..).step_by(step) {
            let (mut world, index) = (first.copy(), index.clone());
            let storage = Meddling::new(world.storage.clone(), false);
            let (repository, others) = (world.over(storage.clone()), world.repository());
            let calls = Arc::new(Mutex::new(0));
            let (counted, id) = (calls.clone(), snapshot.id);
            let options = CollectOptions { fence_after: Duration::from_secs(fence_after), ..now() };
            storage.meddle(move |_, _| {
                let mut counted = counted.lock();
                *counted += 1;
                if *counted == at {
                    others.forget(&id, Duration::ZERO, "test").unwrap();
                    gc(&others, &options).unwrap();
                }
                Fate::Done
            });
            let made = backup_with(&repository, index, &wide("new"), &bytes);
            world.disks.remove(&snapshot.id);
            let what = format!("a collector at call {at}, {fence_after} s");
            match made {
                Ok(made) => {
                    whole += 1;
                    world.disks.insert(made.id, bytes.clone());
                }
                Err(e) => {
                    told += 1;
                    assert_eq!(e.kind(), ErrorKind::Conflict, "{what}: {e}");
                }
            }
            world.verify(&what);
            if *calls.lock() < at {
                break;
            }
            world.verify_lean(&what);
            world.verify(&format!("{what}, then others"));
        }
    }
    assert!(whole > 5 && told > 5, "{whole} whole, {told} told");
}

/// A whole backup that builds on what is forgotten meanwhile, at every moment.
#[test]
fn a_backup_at_any_moment_is_whole() {
    let (first, index, bytes, snapshot) = world();
    for at in (1..).step_by(2) {
        let (mut world, index, mut bytes) = (first.copy(), index.clone(), bytes.clone());
        let (clock, storage) = (world.clock.clone(), world.storage.clone());
        bytes[..UNIT].copy_from_slice(&noise(999, UNIT));
        let made = Arc::new(Mutex::new(None));
        let (theirs, disk) = (made.clone(), bytes.clone());
        let deed = move || {
            let components = Components { clock, ..components(storage) };
            let repository = Repository::open(components, &password()).unwrap();
            *theirs.lock() = Some(backup_with(&repository, index, &wide("vm"), &disk).unwrap());
            repository.forget(&snapshot.id, Duration::ZERO, "test").unwrap();
        };
        let (reached, report) = gc_with(&world, at, Box::new(deed));
        report.unwrap_or_else(|e| panic!("at {at}: {e}"));
        if !reached {
            break;
        }
        let made = made.lock().take().unwrap();
        world.disks.remove(&snapshot.id);
        world.disks.insert(made.id, bytes);
        world.verify(&format!("a backup at call {at}"));
        world.verify_lean(&format!("a backup at call {at}"));
    }
}

/// Another collector runs from its beginning to its end at every moment of this one.
#[test]
fn two_collectors_do_no_harm() {
    let mut swept = 0;
    let (mut first, index, _, snapshot) = world();
    // Of this one some packs are copied.
    let mixed: Vec<u64> = (200..216).map(|n| if n % 8 == 0 { n - 200 } else { n }).collect();
    let mixed = disk(&mixed);
    let hits = backup_with(&first.repository(), index, &wide("mixed"), &mixed).unwrap();
    assert!(hits.record.stats.known > 0);
    first.disks.insert(hits.id, mixed);
    first.forget(&snapshot.id);
    for at in 1.. {
        let world = first.copy();
        let (storage, clock) = (world.storage.clone(), world.clock.clone());
        let deed = move || {
            let components = Components { clock, ..components(storage) };
            let repository = Repository::open(components, &password()).unwrap();
            gc(&repository, &now()).unwrap();
        };
        let (reached, report) = gc_with(&world, at, Box::new(deed));
        let report = report.unwrap_or_else(|e| panic!("at {at}: {e}"));
        swept += report.swept.packs;
        world.verify(&format!("another collector at call {at}"));
        world.verify_lean(&format!("another collector at call {at}"));
        if !reached {
            assert!(report.copied.packs > 0, "{report:?}");
            break;
        }
    }
    assert!(swept > 0);
}

/// The worst moment for two: the second one lists the copies of the first, and marks where those were made from, before the
/// first one's list is out; it would condemn the copies.
#[test]
fn a_mark_from_before_the_last_list_is_thrown_away() {
    let (mut world, index, _, snapshot) = world();
    let bytes = disk(&[0, 8, 201, 202]);
    let hits = backup_with(&world.repository(), index, &wide("mixed"), &bytes).unwrap();
    world.disks.insert(hits.id, bytes);
    world.forget(&snapshot.id);
    let (first, second) = (Meddling::new(world.storage.clone(), false), Meddling::new(world.storage.clone(), false));
    let (stopped, reached) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    first.meddle(move |call, name| {
        if call == Call::Write && name == "gc/gen/00000001" {
            stopped.send(()).unwrap();
            let _ = wait.recv();
        }
        Fate::Done
    });
    let repository = world.over(first);
    let thread = std::thread::spawn(move || gc(&repository, &now()).unwrap());
    reached.recv().unwrap();
    let (thread, mut looks) = (Mutex::new(Some(thread)), 0);
    let copied = Arc::new(Mutex::new(0));
    let theirs = copied.clone();
    second.meddle(move |call, name| {
        // It looks for features when it is opened, when it begins, and before it publishes.
        looks += u64::from(call == Call::List && name == "config/");
        if looks == 3
            && let Some(thread) = thread.lock().take()
        {
            go.send(()).unwrap();
            *theirs.lock() = thread.join().unwrap().copied.packs;
        }
        Fate::Done
    });
    // It copies nothing, so that all is where the first one has put it.
    gc(&world.over(second), &CollectOptions { copy_most: 0, ..now() }).unwrap();
    assert_eq!(*copied.lock(), 2, "the first one has copied");
    world.verify("two collectors");
    world.verify_lean("two collectors");
}

/// What is sealed and still there is as good as gone: a mark that took it for there would not see that its copies are needed.
#[test]
fn what_is_sealed_and_not_yet_deleted_is_as_good_as_gone() {
    let (mut world, index, _, snapshot) = world();
    let unneeded = backup_with(&world.repository(), index, &wide("more"), &disk(&[0, 301])).unwrap();
    world.forget(&snapshot.id);
    let graced = CollectOptions { grace: Duration::from_secs(3600), ..now() };
    let report = gc(&world.repository(), &graced).unwrap();
    assert!(report.copied.packs == 2 && report.graced.packs > 0 && report.swept.packs == 0, "{report:?}");
    world.forget(&unneeded.id);
    gc(&world.repository(), &graced).unwrap();
    world.verify("sealed");
    world.clock.advance(Duration::from_secs(3601));
    gc(&world.repository(), &graced).unwrap();
    world.verify("swept");
    world.clock.advance(Duration::from_secs(3601));
    gc(&world.repository(), &graced).unwrap();
    world.verify("swept again");
    world.verify_lean("swept again");
}

/// A reader that is there keeps its snapshot; one that comes late is refused.
#[test]
fn a_reader_keeps_what_it_reads() {
    let (mut world, _, bytes, snapshot) = world();
    let repository = world.repository();
    let session = Arc::new(ReadSession::open(&repository, &snapshot).unwrap());
    world.forget(&snapshot.id);
    let before = world.packs().len();
    let report = world.gc();
    assert_eq!((report.settled, report.swept.packs, report.records), (1, 0, 0), "{report:?}");
    assert!(restore(&repository, &snapshot).unwrap() == bytes);
    let late = ReadSession::open(&repository, &snapshot).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::NoSnapshot);
    drop(session);
    assert!(world.gc().swept.packs > 0);
    assert!(world.packs().len() < before);
    world.verify("its reader has ended");
}

/// Who lives is waited for, for a while, and named; the next run goes on.
#[test]
fn who_lives_is_waited_for_and_the_next_run_goes_on() {
    let (mut world, index, bytes, snapshot) = world();
    let writer = SnapshotWriter::start(&world.repository(), index, &wide("slow")).unwrap();
    let id = writer.id();
    world.forget(&snapshot.id);
    let patient = CollectOptions { fence_after: Duration::from_secs(7200), patience: Duration::from_secs(60), ..now() };
    let repository = world.repository();
    let report = gc(&repository, &patient).unwrap();
    assert_eq!((report.generation, report.sealed, report.swept.packs), (Some(1), false, 0), "{report:?}");
    assert!(!report.completed, "{report:?}");
    assert_eq!(report.waiting.iter().map(|w| (w.session, w.name.as_str())).collect::<Vec<_>>(), [(id, "slow")]);
    assert_eq!(report.waiting[0].pid, std::process::id());
    assert!(report.fenced.is_empty());
    // It takes the list into account, and all that it hits from then on is not condemned.
    writer.pulse().beat().unwrap();
    put_all(&writer, &bytes).unwrap();
    let report = gc(&repository, &patient).unwrap();
    assert_eq!((report.generation, report.sealed, report.completed), (Some(1), true, true), "{report:?}");
    assert!(report.swept.packs > 0);
    let made = commit(writer, &bytes).unwrap();
    assert_eq!(made.record.stats.known, 0, "every hit was barred");
    world.disks.insert(made.id, bytes);
    world.verify("the writer has ended");
    world.verify_lean("the writer has ended");
}

/// The grace is counted from the seal, by the clock of the storage and not by one's own.
#[test]
fn the_grace_goes_by_the_clock_of_the_storage() {
    let (mut world, _, _, snapshot) = world();
    world.forget(&snapshot.id);
    let options = CollectOptions { grace: Duration::from_secs(3600), ..now() };
    let report = gc(&world.repository(), &options).unwrap();
    assert!(report.sealed && report.swept.packs == 0 && report.graced.packs > 0, "{report:?}");
    assert_eq!(report.graced.packs, report.condemned.packs + report.thin.packs);
    // A collector whose own clock runs a day ahead.
    let ahead = Arc::new(TestClock::default());
    ahead.advance(Duration::from_secs(86_400));
    let theirs = Components { clock: ahead, ..components(world.storage.clone()) };
    let theirs = Repository::open(theirs, &password()).unwrap();
    assert_eq!(gc(&theirs, &options).unwrap().swept.packs, 0);
    world.clock.advance(Duration::from_secs(3601));
    let report = gc(&world.repository(), &options).unwrap();
    assert!(report.swept.packs > 0 && report.graced.packs == 0, "{report:?}");
    assert_eq!(world.packs().len() as u64, report.all.packs, "what was deleted is gone");
    world.verify("the grace is over");
}

/// A delete that is refused is no error, and done by the next run.
#[test]
fn a_delete_that_fails_is_tried_again() {
    let (mut world, _, _, snapshot) = world();
    world.forget(&snapshot.id);
    let storage = Meddling::new(world.storage.clone(), false);
    let repository = world.over(storage.clone());
    storage.meddle(|call, name| match call == Call::Delete && name.starts_with("packs/") {
        true => Fate::Fails(Error::new(ErrorKind::Denied, "no")),
        false => Fate::Done,
    });
    let report = gc(&repository, &now()).unwrap();
    assert!(report.failed.packs > 0 && report.sealed, "{report:?}");
    storage.leave_alone();
    let again = gc(&repository, &now()).unwrap();
    assert_eq!((again.swept, again.generation), (report.failed, None));
    world.verify_lean("it was tried again");
}
