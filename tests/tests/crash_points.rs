//! A history is cut after every single mutation of the storage, in four ways. Everything that was acknowledged before
//! the cut is there afterwards, nothing is damaged, and the history is finished on top of what is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::index::ChunkIndex;
use wherry_repo::storage::{Memory, Storage};
use wherry_repo::{
    CheckOptions, CommitInfo, Credential, Error, ErrorKind, ReadData, Repository, Result, SnapshotId, SnapshotWriter,
};
use wherry_tests::recording::{CUTS, Cut, Cutting};
use wherry_tests::small::*;

/// What the history was told is safe, and how far it came.
#[derive(Debug, Default)]
struct Acknowledged {
    snapshots: BTreeMap<SnapshotId, Vec<u8>>,
    hidden: BTreeMap<SnapshotId, bool>,
    /// Asked for, but not answered: may be so or not.
    doubtful: Option<SnapshotId>,
    /// Disks whose snapshots may or may not be there.
    pending: Vec<Vec<u8>>,
    /// Steps that ended well.
    steps: usize,
    /// The snapshots of the first two steps.
    first: SnapshotId,
    second: SnapshotId,
}

fn disk(seed: u64) -> Vec<u8> {
    let mut disk = vec![0; 9 * UNIT + 77];
    for n in [0, 1, 4, 5, 6, 8] {
        disk[n * UNIT..][..UNIT].copy_from_slice(&noise(n as u64, UNIT));
    }
    disk[4 * UNIT..][..UNIT].copy_from_slice(&noise(seed, UNIT));
    disk
}

const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Where chunks are looked up. Each backup asks for one.
type Indexes<'a> = &'a dyn Fn() -> Arc<ChunkIndex>;

/// How many steps a history has.
const STEPS: usize = 9;

/// One step: backs up, forgets, takes back, gives up or takes over. It is acknowledged or fails, and can then be done
/// again.
fn step(repository: &Repository, index: Indexes<'_>, told: &mut Acknowledged) -> Result<()> {
    let commit = |told: &mut Acknowledged, name: &str, disk: Vec<u8>| {
        told.pending.push(disk.clone());
        let snapshot = backup_with(repository, index(), &options(name), &disk)?;
        told.pending.pop();
        told.snapshots.insert(snapshot.id, disk);
        told.hidden.insert(snapshot.id, false);
        Ok::<_, Error>(snapshot.id)
    };
    let forget = |told: &mut Acknowledged, id: SnapshotId| {
        told.doubtful = Some(id);
        repository.forget(&id, WEEK, "test")?;
        told.doubtful = None;
        told.hidden.insert(id, true);
        Ok::<_, Error>(())
    };
    match told.steps {
        0 => told.first = commit(told, "vm", disk(100))?,
        1 => told.second = commit(told, "vm", disk(101))?,
        2 => drop(commit(told, "other", disk(100))?),
        3 => {
            let id = told.first;
            forget(told, id)?;
        }
        4 => {
            let id = told.second;
            forget(told, id)?;
        }
        5 => {
            told.doubtful = Some(told.second);
            repository.unforget(&told.second)?;
            told.doubtful = None;
            told.hidden.insert(told.second, false);
        }
        6 => {
            let slot = repository.add_slot(&Credential::Password("other".to_owned().into()), CHEAP)?;
            repository.remove_slot(slot)?;
        }
        7 => {
            let writer = SnapshotWriter::start(repository, index(), &options("vm"))?;
            put_all(&writer, &disk(102))?;
            writer.abandon()?;
        }
        _ => drop(commit(told, "vm", disk(102))?),
    }
    told.steps += 1;
    Ok(())
}

/// Makes a repository, or opens what is there, and does all the steps that are left.
fn history(storage: Arc<dyn Storage>, index: Indexes<'_>, told: &mut Acknowledged) -> Result<()> {
    let repository = match Repository::open(components(storage.clone()), &password()) {
        Ok(repository) => repository,
        Err(e) if e.kind() == ErrorKind::NoRepository => init(storage)?,
        Err(e) => return Err(e),
    };
    while told.steps < STEPS {
        step(&repository, index, told)?;
    }
    Ok(())
}

/// Everything that was acknowledged is there, whole, what is in doubt is there whole or not at all, and nothing is
/// damaged.
fn verify(storage: &Arc<Memory>, told: &Acknowledged, what: &str) {
    let repository = match Repository::open(components(storage.clone()), &password()) {
        Ok(repository) => repository,
        Err(e) if e.kind() == ErrorKind::NoRepository && told.snapshots.is_empty() => return,
        Err(e) => panic!("{what}: {e}"),
    };
    let list = repository.snapshots(None).unwrap();
    assert!(list.damaged.is_empty(), "{what}: {:?}", list.damaged);
    for (id, disk) in &told.snapshots {
        let snapshot = list.snapshots.iter().find(|s| s.id == *id).unwrap_or_else(|| panic!("{what}: {id} is lost"));
        assert!(restore(&repository, snapshot).unwrap() == *disk, "{what}: {id} is another disk");
        if told.doubtful != Some(*id) {
            assert_eq!(!list.is_visible(id), told.hidden[id], "{what}: {id} is hidden or not");
        }
    }
    let mut pending = told.pending.clone();
    for snapshot in list.snapshots.iter().filter(|s| !told.snapshots.contains_key(&s.id)) {
        let disk = restore(&repository, snapshot).unwrap();
        let found = pending.iter().position(|p| *p == disk);
        pending.remove(found.unwrap_or_else(|| panic!("{what}: {} was never made, or is not whole", snapshot.id)));
    }
    let options = CheckOptions { read_data: Some(ReadData { share: 1.0, max_age: None }), ..CheckOptions::default() };
    let report = repository.check(&options, &|_, _, _| Ok(())).unwrap();
    assert!(report.is_clean(), "{what}: {:?}", report.damages);
}

/// `keeps_index`: one index goes through the whole history and outlives the cut; else each backup begins with nothing.
fn run(keeps_index: bool) -> u64 {
    let kept = index();
    let whole = Arc::new(Cutting::new(Arc::default(), 0, Cut::NotApplied));
    let indexes = || if keeps_index { kept.clone() } else { index() };
    history(whole.clone(), &indexes, &mut Acknowledged::default()).unwrap();
    let total = whole.mutations();
    for at in 1..=total {
        for how in CUTS {
            let what = format!("cut at {at} of {total}, {how:?}");
            let kept = index();
            let indexes = || if keeps_index { kept.clone() } else { index() };
            let storage = Arc::new(Memory::default());
            let mut told = Acknowledged::default();
            let cut = Arc::new(Cutting::new(storage.clone(), at, how));
            // One that is refused may be a hint that nobody needs.
            if let Err(e) = history(cut, &indexes, &mut told) {
                assert_eq!(e.kind(), ErrorKind::Unavailable, "{what}: {e}");
            } else {
                assert_eq!(how, Cut::Refused, "{what}: nobody noticed");
            }
            verify(&storage, &told, &what);
            // All memory is gone but the index, if it is kept. What follows works on what is left, and loses nothing of it.
            let finished = history(storage.clone(), &indexes, &mut told);
            finished.unwrap_or_else(|e| panic!("{what}: the rest of the history: {e}"));
            verify(&storage, &told, &format!("{what}, then the rest"));
            let repository = Repository::open(components(storage.clone()), &password()).unwrap();
            let disk = disk(200 + at);
            let snapshot = backup_with(&repository, indexes(), &options("vm"), &disk).unwrap();
            told.snapshots.insert(snapshot.id, disk);
            told.hidden.insert(snapshot.id, false);
            verify(&storage, &told, &format!("{what}, then another backup"));
        }
    }
    total
}

#[test]
fn nothing_acknowledged_is_lost_whatever_is_cut_off() {
    let mutations = run(false);
    assert!(mutations >= 40, "the history has only {mutations} mutations");
}

#[test]
fn nor_with_an_index_that_outlives_the_cut() {
    let mutations = run(true);
    assert!(mutations >= 35, "the history has only {mutations} mutations");
}

/// The retrying layer settles every lost reply: the history ends well.
#[test]
fn a_lost_reply_changes_nothing_under_retries() {
    use wherry_repo::storage::{Retries, Retrying};
    let whole = Arc::new(Cutting::new(Arc::default(), 0, Cut::NotApplied));
    history(whole.clone(), &index, &mut Acknowledged::default()).unwrap();
    for at in 1..=whole.mutations() {
        let storage = Arc::new(Once { inner: Memory::default(), at, seen: Default::default() });
        let clock = Arc::new(TestClock::default());
        let retrying = Arc::new(Retrying::new(storage, Retries::default(), clock, Arc::new(TestRng::new(at))));
        let repository = init(retrying.clone()).unwrap();
        let first = backup(&repository, "vm", &disk(1)).unwrap();
        let second = backup(&repository, "vm", &disk(2)).unwrap();
        assert!(repository.forget(&first.id, WEEK, "test").unwrap());
        assert!(repository.unforget(&first.id).unwrap());
        assert!(restore(&repository, &first).unwrap() == disk(1) && restore(&repository, &second).unwrap() == disk(2));
        let info = CommitInfo { size: 0, ..CommitInfo::default() };
        let writer = SnapshotWriter::start(&repository, index(), &options("empty")).unwrap();
        writer.commit(info).unwrap();
    }
}

/// Loses one reply and then works on.
#[derive(Debug)]
struct Once {
    inner: Memory,
    at: u64,
    seen: std::sync::atomic::AtomicU64,
}

impl wherry_repo::Storage for Once {
    fn location(&self) -> String {
        "memory".into()
    }
    fn get(&self, key: &wherry_repo::Key) -> Result<bytes::Bytes> {
        self.inner.get(key)
    }
    fn get_range(&self, key: &wherry_repo::Key, range: std::ops::Range<u64>) -> Result<bytes::Bytes> {
        self.inner.get_range(key, range)
    }
    fn get_tail(&self, key: &wherry_repo::Key, len: u64) -> Result<wherry_repo::storage::Tail> {
        self.inner.get_tail(key, len)
    }
    fn head(&self, key: &wherry_repo::Key) -> Result<wherry_repo::storage::Listed> {
        self.inner.head(key)
    }
    fn create(&self, key: &wherry_repo::Key, body: bytes::Bytes) -> Result<()> {
        self.inner.create(key, body)?;
        self.lose()
    }
    fn overwrite(&self, key: &wherry_repo::Key, body: bytes::Bytes) -> Result<()> {
        self.inner.overwrite(key, body)?;
        self.lose()
    }
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(wherry_repo::storage::Listed) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, visit)
    }
    fn delete(&self, key: &wherry_repo::Key) -> Result<()> {
        self.inner.delete(key)?;
        self.lose()
    }
}

impl Once {
    fn lose(&self) -> Result<()> {
        let n = self.seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        if n == self.at { Err(Error::new(ErrorKind::Unavailable, "the reply was lost")) } else { Ok(()) }
    }
}
