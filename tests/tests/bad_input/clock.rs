//! Clocks that jump. The executable takes the time from the system, which a test must not set: these hand their own to
//! the library. What such a clock decides is the order of snapshots, never who counts as dead nor what is kept.

use super::UNIT;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use wherry_repo::storage::Memory;
use wherry_repo::{CheckOptions, Clock, CommitInfo, Components, Repository, Snapshot, SnapshotWriter, Timestamp};
use wherry_tests::small::{backup, components, index, init, noise, options, password, put_all, restore};

const HOUR: i64 = 3600 * 1_000_000_000;
const YEAR: i64 = 365 * 24 * HOUR;

/// Shows what it is set to, a nanosecond more each time; the time since the start goes on evenly.
#[derive(Debug)]
struct Jumping(AtomicI64);

impl Jumping {
    fn jump(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        wherry_repo::System::default().monotonic()
    }

    fn sleep(&self, _: Duration) {}
}

/// A repository in memory whose clock is that of the system until it jumps.
fn repository() -> (Arc<Jumping>, Repository) {
    let storage = Arc::new(Memory::default());
    init(storage.clone()).unwrap();
    let clock = Arc::new(Jumping(AtomicI64::new(wherry_repo::System::default().now().0)));
    let repository = Repository::open(Components { clock: clock.clone(), ..components(storage) }, &password()).unwrap();
    (clock, repository)
}

/// All are there, clean and as they were.
#[track_caller]
fn all_whole(repository: &Repository, all: &[(Snapshot, Vec<u8>)]) {
    let options = CheckOptions { read_data: Some(Default::default()), ..CheckOptions::default() };
    assert_eq!(repository.check(&options, &|_, _, _| Ok(())).unwrap().damages, []);
    let list = repository.snapshots(None).unwrap();
    assert_eq!(list.visible().count(), all.len());
    for (snapshot, disk) in all {
        assert!(restore(repository, snapshot).unwrap() == *disk, "{}", snapshot.id);
    }
}

#[test]
fn backups_go_on_whatever_the_clock_shows() {
    let (clock, repository) = repository();
    let mut all = Vec::new();
    // Back before the first one, before 1970, far ahead, and to where it was.
    for (n, by) in [0, -YEAR, -80 * YEAR, 200 * YEAR, -119 * YEAR].into_iter().enumerate() {
        clock.jump(by);
        let disk = noise(80 + n as u64, 5 * UNIT + 7);
        all.push((backup(&repository, "vm", &disk).unwrap(), disk));
        all_whole(&repository, &all);
    }
    // And in the middle of a run.
    for by in [5 * HOUR, -2 * YEAR] {
        let disk = noise(90, 9 * UNIT);
        let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
        put_all(&writer, &disk).unwrap();
        clock.jump(by);
        writer.pulse().beat().unwrap();
        let info = CommitInfo { size: disk.len() as u64, ..CommitInfo::default() };
        all.push((writer.commit(info).unwrap(), disk));
        all_whole(&repository, &all);
    }
}

/// Who is silent is told by the storage's clock: one of a host that jumps ends nobody, and all commit.
#[test]
fn a_run_is_not_taken_for_dead_by_the_clock_of_another_host() {
    let (clock, repository) = repository();
    let disk = noise(91, 9 * UNIT);
    let info = || CommitInfo { size: disk.len() as u64, ..CommitInfo::default() };
    let run = || {
        let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
        put_all(&writer, &disk).unwrap();
        writer
    };
    let mut all = Vec::new();
    for by in [YEAR, -3 * YEAR] {
        let first = run();
        clock.jump(by);
        let second = run();
        assert!(!second.is_resumed());
        all.push((second.commit(info()).unwrap(), disk.clone()));
        all.push((first.commit(info()).unwrap(), disk.clone()));
        all_whole(&repository, &all);
    }
}

#[test]
fn a_forget_can_be_taken_back_whatever_the_clock_shows() {
    let (clock, repository) = repository();
    let disk = noise(92, 3 * UNIT);
    let all = [(backup(&repository, "vm", &disk).unwrap(), disk)];
    for by in [0, 10 * YEAR, -20 * YEAR] {
        repository.forget(&all[0].0.id, Duration::from_secs(3600), "test").unwrap();
        clock.jump(by);
        assert_eq!(repository.snapshots(None).unwrap().visible().count(), 0);
        repository.unforget(&all[0].0.id).unwrap();
        all_whole(&repository, &all);
    }
}
