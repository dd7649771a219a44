//! What checks note of what they have read: V8 of `docs/concurrency.md`.

use super::stored::{self, Thing, noise};
use crate::check::{CheckOptions, CheckReport, CheckStep, NotReadReason, ReadData};
use crate::format::checked::{Checked, ReadTogether, Readings};
use crate::id::{PackId, PackKind, SessionId};
use crate::index::ChunkIndex;
use crate::storage::{Memory, Storage, keys};
use crate::testing::{StillClock, UNIT, Watched, backup, chunk, password, repository};
use crate::{
    Clock, CollectOptions, CommitInfo, Components, Error, ErrorKind, Key, ParentChoice, Repository, Result, Snapshot,
    SnapshotId, SnapshotWriter, System, Timestamp, WriterOptions,
};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub(super) const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn share(share: f64) -> ReadData {
    ReadData { share, max_age: None }
}

pub(super) fn older(days: u32) -> ReadData {
    ReadData { share: 1.0, max_age: Some(DAY * days) }
}

pub(super) fn options(read: ReadData, snapshots: &[SnapshotId]) -> CheckOptions {
    CheckOptions { read_data: Some(read), keep: true, threads: 1, snapshots: snapshots.to_vec(), ..Default::default() }
}

/// A check that notes what it reads, and how that went.
#[track_caller]
pub(super) fn check(repository: &Repository, read: ReadData) -> CheckReport {
    let report = repository.check(&options(read, &[]), &|_, _, _| Ok(())).unwrap();
    assert_eq!((report.kept, &report.not_kept), (true, &None));
    report
}

pub(super) fn checked(repository: &Repository, snapshot: &Snapshot) -> Option<Checked> {
    repository.checked().unwrap().get(&snapshot.id).copied()
}

pub(super) fn verified(repository: &Repository, snapshot: &Snapshot) -> Option<Timestamp> {
    checked(repository, snapshot).and_then(|checked| checked.verified)
}

/// What was left out for this reason, in packs and bytes.
pub(super) fn left(report: &CheckReport, reason: NotReadReason) -> (u64, u64) {
    let left: Vec<_> = report.not_read.iter().filter(|left| left.reason == reason).collect();
    (left.iter().map(|left| left.packs).sum(), left.iter().map(|left| left.bytes).sum())
}

pub(super) fn packs(repository: &Repository) -> Vec<Key> {
    repository.list(keys::PACKS).unwrap()
}

/// The packs that records of readings name.
pub(super) fn noted(repository: &Repository) -> BTreeSet<PackId> {
    let records = repository.list(keys::READ).unwrap();
    let groups = records.iter().flat_map(|key| repository.read::<Readings>(key).unwrap().groups);
    groups.flat_map(|ReadTogether { intact, damaged, .. }| intact.into_iter().chain(damaged)).collect()
}

/// One bit of the middle of an object is another one.
pub(super) fn spoil(storage: &dyn Storage, key: &Key) {
    let mut body = storage.get(key).unwrap().to_vec();
    let middle = body.len() / 2;
    body[middle] ^= 1;
    storage.overwrite(key, body.into()).unwrap();
}

/// A disk with these chunks at its beginning; what the index has is not stored again.
pub(super) fn sharing(repository: &Repository, name: &str, chunks: impl Iterator<Item = u64>) -> Snapshot {
    let index = ChunkIndex::in_memory(1 << 20);
    index.synchronise(repository, true).unwrap();
    let (name, parent) = (name.into(), ParentChoice::None);
    let options = WriterOptions { name, pack_size: 512 << 10, uploads: 0, parent, ..WriterOptions::default() };
    let writer = SnapshotWriter::start(repository, Arc::new(index), &options).unwrap();
    let mut scratch = writer.scratch().unwrap();
    let mut count = 0;
    for n in chunks {
        writer.put(&mut scratch, count, &chunk(n)).unwrap();
        count += 1;
        writer.advance(count).unwrap();
    }
    writer.commit(CommitInfo { size: count * UNIT as u64, ..CommitInfo::default() }).unwrap()
}

/// The same repository as another process sees it whose clock is this one.
pub(super) fn again(storage: Arc<dyn Storage>, clock: Arc<dyn Clock>) -> Repository {
    Repository::open(Components { storage, clock, rng: Arc::new(System::default()) }, &password()).unwrap()
}

/// What would be there if all processes ended now.
fn image(storage: &dyn Storage, clock: &Arc<StillClock>) -> Repository {
    // Its objects are as old as can be.
    let copy = Arc::new(Memory::new(Arc::new(StillClock::default())));
    let mut found = Vec::new();
    let mut take = |object: crate::storage::Listed| {
        found.push(object.key);
        Ok(())
    };
    storage.list("", &mut take).unwrap();
    found.iter().for_each(|key| copy.create(key, storage.get(key).unwrap()).unwrap());
    again(copy, clock.clone())
}

#[test]
fn shares_come_to_everything_before_anything_is_read_twice() {
    let (storage, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", 300);
    assert!(packs(&repository).len() >= 15, "the map has two levels, and there are many packs");
    let all = packs(&repository).len();
    let mut first = None;
    for run in 0..5 {
        let before = noted(&repository).len();
        assert!(before < all || run == 4, "it is done too soon");
        clock.advance(DAY);
        let report = check(&repository, share(0.2));
        first = first.or(checked(&repository, &snapshot).map(|checked| checked.said));
        assert!(5 * report.read_bytes >= report.data_bytes);
        assert_eq!(report.read_bytes + left(&report, NotReadReason::Sample).1, report.data_bytes);
        let (after, read) = (noted(&repository).len(), all - left(&report, NotReadReason::Sample).0 as usize);
        assert!(after == all || after == before + read, "run {run}: something was read a second time");
        assert_eq!(verified(&repository, &snapshot).is_some(), after == all, "run {run}");
    }
    assert!(first.is_some() && verified(&repository, &snapshot) == first, "what was read first is the oldest");

    // What is new comes first, then what was read longest ago.
    let before = noted(&repository);
    let new = backup(&repository, "new", 20);
    clock.advance(DAY);
    check(&repository, share(0.06));
    assert!(verified(&repository, &new).is_some() && noted(&repository).len() == before.len() + 2);
    let oldest = verified(&repository, &snapshot);
    for _ in 0..5 {
        clock.advance(DAY);
        check(&repository, share(0.2));
    }
    assert!(verified(&repository, &snapshot) > oldest, "all of it was read once more");
    drop(storage);
}

#[test]
fn damage_is_found_by_some_share_and_looked_at_by_each_run_from_then_on() {
    let (storage, clock, repository) = repository();
    let hit = backup(&repository, "hit", 160);
    let key = packs(&repository)[3].clone();
    let whole = storage.get(&key).unwrap();
    let other = sharing(&repository, "other", 1000..1040);
    check(&repository, share(1.0));
    let known = verified(&repository, &hit);
    assert!(known.is_some());
    spoil(&*storage, &key);
    let found = (0..5).find(|_| {
        clock.advance(DAY);
        let report = check(&repository, share(0.2));
        assert!(report.damages.len() <= 1);
        assert_eq!(report.damages.is_empty(), verified(&repository, &hit).is_some());
        report.damages.iter().any(|damage| damage.object == key)
    });
    assert!(found.is_some(), "five fifths are all");
    for read in [share(0.01), older(30), share(0.2)] {
        clock.advance(DAY);
        let report = check(&repository, read);
        assert_eq!(report.damages.iter().map(|damage| &damage.object).collect::<Vec<_>>(), [&key]);
        let state = checked(&repository, &hit).unwrap();
        assert_eq!((state.verified, state.damaged), (None, true));
        assert!(!checked(&repository, &other).unwrap().damaged && verified(&repository, &other).is_some());
    }
    // It is brought back from a copy.
    storage.overwrite(&key, whole).unwrap();
    clock.advance(DAY);
    assert!(check(&repository, older(30)).is_clean());
    let state = checked(&repository, &hit).unwrap();
    assert!(!state.damaged && state.verified >= known, "{state:?}");
}

#[test]
fn a_chunk_that_is_intact_elsewhere_is_verified_there() {
    let (storage, _, repository) = repository();
    let first = backup(&repository, "a", 20);
    let key = packs(&repository)[0].clone();
    let second = backup(&repository, "b", 20);
    spoil(&*storage, &key);
    for again in [false, true] {
        let report = check(&repository, share(1.0));
        assert!(report.damages[0].object == key && report.damages[0].hits.is_empty(), "{again}: {report:?}");
        let both = [&first, &second].map(|snapshot| verified(&repository, snapshot).is_some());
        assert_eq!(both, [true, true], "{again}");
    }
}

#[test]
fn what_was_read_or_written_lately_is_left_out() {
    let (_, clock, repository) = repository();
    let old = backup(&repository, "old", 40);
    let report = check(&repository, older(30));
    assert_eq!((report.read_bytes, left(&report, NotReadReason::Younger).1), (0, report.data_bytes), "written today");
    clock.advance(DAY * 31);
    let new = backup(&repository, "new", 40);
    let report = check(&repository, older(30));
    assert_eq!(2 * report.read_bytes, report.data_bytes, "the old one is due");
    let at = verified(&repository, &old);
    assert!(at.is_some() && checked(&repository, &new).is_some_and(|new| new.verified.is_none() && !new.damaged));
    clock.advance(DAY * 29);
    let report = check(&repository, older(30));
    assert_eq!(report.read_bytes, 0, "nothing is");
    assert_eq!(verified(&repository, &old), at);
    clock.advance(DAY * 2);
    let report = check(&repository, older(30));
    assert_eq!(report.read_bytes, report.data_bytes, "both are");
    assert!(verified(&repository, &old) > at && verified(&repository, &new) == verified(&repository, &old));
}

#[test]
fn a_check_of_one_snapshot_says_nothing_of_others_and_is_known_to_their_checks() {
    let (_, clock, repository) = repository();
    let first = backup(&repository, "a", 32);
    let second = sharing(&repository, "b", 16..48);
    let check = |read, id: &Snapshot| {
        clock.advance(DAY);
        repository.check(&options(read, &[id.id]), &|_, _, _| Ok(())).unwrap()
    };
    let whole = check(share(1.0), &first);
    let at = verified(&repository, &first);
    assert!(whole.read_bytes > 0 && at.is_some() && checked(&repository, &second).is_none());
    clock.advance(DAY * 40);
    let rest = check(older(42), &second);
    assert!(rest.read_bytes > 0 && rest.read_bytes < rest.data_bytes, "what both have was read: {rest:?}");
    assert_eq!(verified(&repository, &second), at, "the part that was read first counts");
    assert_eq!(verified(&repository, &first), at);
}

#[test]
fn a_check_that_is_killed_or_ended_keeps_what_it_read() {
    let (storage, clock, repository) = repository();
    backup(&repository, "vm", 160);
    clock.advance(DAY * 40);
    let images = std::cell::RefCell::new(Vec::new());
    let seen = parking_lot::Mutex::new(Vec::new());
    let ended = repository.check(&options(share(1.0), &[]), &|step, done, _| {
        if step == CheckStep::Data {
            clock.advance(Duration::from_secs(301));
            seen.lock().push((done, image(&*storage, &clock)));
            if seen.lock().len() == 5 {
                return Err(Error::new(ErrorKind::Cancelled, "ended"));
            }
        }
        Ok(())
    });
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Cancelled);
    images.borrow_mut().extend(seen.into_inner());
    for (n, (_, image)) in images.borrow().iter().enumerate() {
        // Of one that is killed, all but what was read in the last five minutes: at first nothing, then each pack.
        let kept = if n == 0 { 0 } else { n + 1 };
        assert_eq!(noted(image).len(), kept);
        let rest = check(image, older(30));
        assert_eq!(left(&rest, NotReadReason::Younger).0, kept as u64);
        assert!(rest.is_clean() && rest.read_bytes + left(&rest, NotReadReason::Younger).1 == rest.data_bytes);
    }
    let rest = check(&repository, older(30));
    assert_eq!(left(&rest, NotReadReason::Younger).0, 5, "of one that is asked to end, all");
}

#[test]
fn records_are_put_together_and_what_a_collector_took_is_left_out() {
    let (storage, clock, repository) = repository();
    let gone = backup(&repository, "gone", 48);
    let stays = sharing(&repository, "stays", (0..3).chain(100..120));
    check(&repository, share(1.0));
    let at = verified(&repository, &stays);
    let before = noted(&repository);
    repository.forget(&gone.id, Duration::ZERO, "test").unwrap();
    let (grace, fence_after) = (Duration::ZERO, Duration::ZERO);
    let collect = CollectOptions { grace, fence_after, pack_size: 512 << 10, threads: 1, ..CollectOptions::default() };
    let collected = repository.collect(&collect, &|_, _, _| Ok(())).unwrap();
    assert!(collected.copied.packs > 0 && collected.swept.packs > 2, "{collected:?}");
    let there: BTreeSet<PackId> = packs(&repository).iter().filter_map(keys::parse_pack).collect();
    assert!(before.iter().any(|id| !there.contains(id)) && there.iter().any(|id| !before.contains(id)));

    // A copy was never read, but what is in it was.
    clock.advance(DAY);
    let report = check(&repository, older(1000));
    assert!(report.is_clean() && report.moved_chunks == 3, "{report:?}");
    assert_eq!(verified(&repository, &stays), at);
    assert!(!repository.checked().unwrap().contains_key(&gone.id));
    for run in 0..40 {
        clock.advance(DAY);
        assert!(check(&repository, share(0.3)).is_clean());
        let (readings, states) = (repository.list(keys::READ).unwrap(), repository.list(keys::STATES).unwrap());
        assert!(readings.len() <= 17 && states.len() == 1, "run {run}: {readings:?} {states:?}");
    }
    assert!(noted(&repository).is_subset(&there), "packs that are gone");
    assert_eq!(noted(&repository), there, "packs that were never read");
    assert!(verified(&repository, &stays) > at);
    drop(storage);
}

/// A repair that began before a check stores a pack after the check has listed them, reads it back, and finds it damaged.
#[test]
fn what_was_found_damaged_in_a_pack_that_came_since_the_listing_stays_noted() {
    let (storage, clock, repository) = repository();
    backup(&repository, "a", 40);
    for _ in 0..16 {
        clock.advance(DAY);
        check(&repository, share(0.1));
    }
    let began = clock.now();
    clock.advance(DAY);
    let other = again(storage.clone(), clock.clone());
    let new = Mutex::new(None);
    let report = repository.check(&options(share(1.0), &[]), &|step, _, _| {
        let mut new = new.lock();
        if step == CheckStep::Maps && new.is_none() {
            let snapshot = sharing(&other, "b", 100..101);
            let pack =
                packs(&other).iter().filter_map(keys::parse_pack).find(|pack| pack.session == snapshot.id).unwrap();
            let swept = PackId { seq: 99, ..pack };
            let group = ReadTogether { at: began, intact: Vec::new(), damaged: vec![pack, swept] };
            let key = keys::readings(&SessionId::new([7; 16]), 0);
            other.create(&key, &Readings { groups: vec![group] }).unwrap();
            *new = Some((pack, swept));
        }
        Ok(())
    });
    assert!(report.unwrap().kept);
    let (pack, swept) = new.into_inner().unwrap();
    assert!(repository.list(keys::READ).unwrap().len() <= 2, "they were put together");
    assert!(noted(&repository).contains(&pack), "nobody would know that it is damaged");
    assert!(!noted(&repository).contains(&swept), "of what is gone nobody needs to know");
}

/// Another check comes at each moment of one, and both have their say.
#[test]
fn two_checks_at_once_lose_nothing() {
    let moments = AtomicUsize::new(1);
    let mut moment = 0;
    while moment < moments.load(Ordering::Relaxed) {
        let (storage, clock, repository) = repository();
        let snapshots = [backup(&repository, "a", 40), backup(&repository, "b", 40)];
        // As many records as make the next check put them together.
        for _ in 0..16 {
            clock.advance(DAY);
            check(&repository, share(0.1));
        }
        clock.advance(DAY * 40);
        let other = again(storage.clone(), clock.clone());
        let calls = AtomicUsize::new(0);
        let report = repository.check(&options(share(1.0), &[]), &|_, _, _| {
            if calls.fetch_add(1, Ordering::Relaxed) == moment {
                check(&other, share(0.5));
            }
            Ok(())
        });
        let report = report.unwrap();
        assert!(report.is_clean() && report.kept, "moment {moment}: {report:?}");
        moments.store(calls.into_inner(), Ordering::Relaxed);
        for snapshot in &snapshots {
            assert!(verified(&repository, snapshot).is_some_and(|at| at.0 > clock.now().0 - DAY.as_nanos() as i64));
        }
        let report = check(&repository, older(1));
        assert!(report.read_bytes == 0 && report.is_clean(), "moment {moment}: {report:?}");
        moment += 1;
    }
    assert!(moment > 8, "{moment}");
}

#[test]
fn records_that_go_while_they_are_read_are_looked_for_again() {
    let (storage, clock, repository) = repository();
    let snapshot = backup(&repository, "a", 40);
    check(&repository, share(1.0));
    let state = repository.list(keys::STATES).unwrap().remove(0);
    let record: crate::format::checked::States = repository.read(&state).unwrap();
    let new = keys::states(&crate::SessionId::new([9; 16]));
    let sealed = repository.sealed(&new, &record).unwrap();
    let going = Arc::new(Going { inner: storage.clone(), goes: state, comes: (new, sealed) });
    assert!(verified(&again(going.clone(), clock.clone()), &snapshot).is_some());
    assert!(storage.get(&going.goes).is_err());
}

/// Between the listing of a record and the look into it another one takes its place.
#[derive(Debug)]
struct Going {
    inner: Arc<Watched>,
    goes: Key,
    comes: (Key, bytes::Bytes),
}

impl Storage for Going {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn get(&self, key: &Key) -> Result<bytes::Bytes> {
        if *key == self.goes && self.inner.head(key).is_ok() {
            self.inner.create(&self.comes.0, self.comes.1.clone())?;
            self.inner.delete(key)?;
        }
        self.inner.get(key)
    }
    fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<bytes::Bytes> {
        self.inner.get_range(key, range)
    }
    fn get_tail(&self, key: &Key, len: u64) -> Result<crate::storage::Tail> {
        self.inner.get_tail(key, len)
    }
    fn head(&self, key: &Key) -> Result<crate::storage::Listed> {
        self.inner.head(key)
    }
    fn create(&self, key: &Key, body: bytes::Bytes) -> Result<()> {
        self.inner.create(key, body)
    }
    fn overwrite(&self, key: &Key, body: bytes::Bytes) -> Result<()> {
        self.inner.overwrite(key, body)
    }
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(crate::storage::Listed) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, visit)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }
}

#[test]
fn where_nothing_may_be_written_a_check_is_as_good_and_says_so() {
    let (storage, _, repository) = repository();
    let snapshot = backup(&repository, "vm", 40);
    *storage.refuses.lock() = Some(("", ErrorKind::Denied));
    let report = repository.check(&options(share(1.0), &[]), &|_, _, _| Ok(())).unwrap();
    assert!(report.is_clean() && report.read_bytes == report.data_bytes && !report.kept, "{report:?}");
    assert!(report.not_kept.is_some_and(|why| why.contains("nothing may be written here")));
    *storage.refuses.lock() = None;
    for keep in [false, true] {
        let options = CheckOptions { read_data: (!keep).then(ReadData::default), keep, ..CheckOptions::default() };
        let report = repository.check(&options, &|_, _, _| Ok(())).unwrap();
        assert!(report.is_clean() && !report.kept && report.not_kept.is_none(), "nobody asked for it");
    }
    assert!(repository.list(keys::CHECKED).unwrap().is_empty() && checked(&repository, &snapshot).is_none());
}

#[test]
fn what_a_clock_says_that_was_a_year_ahead_counts_for_nothing() {
    let (storage, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", 40);
    clock.advance(DAY * 40);
    let wrong = Arc::new(StillClock::default());
    wrong.advance(DAY * 400);
    check(&again(storage.clone(), wrong), share(1.0));
    assert_eq!(verified(&repository, &snapshot), None);
    let report = check(&repository, older(30));
    assert_eq!(report.read_bytes, report.data_bytes);
    assert!(verified(&repository, &snapshot).is_some_and(|at| at < clock.now()));
}

/// Files of each kind, in several packs, none of which compresses.
fn packs_of_all() -> stored::Folder {
    let small = |seed: u64| -> stored::Folder {
        (0..10).map(|n| (vec![b'a' + n], Thing::Small(noise(seed + u64::from(n), 20_000)))).collect()
    };
    let image = (0..30).map(|n| (n, noise(100 + n, 250_000))).collect();
    let inner = small(30).into_iter().chain([(b"marked".to_vec(), Thing::Marked(noise(40, 30_000)))]).collect();
    [
        (b"disk.img".to_vec(), Thing::Image(30, image)),
        (b"folder".to_vec(), Thing::Folder(small(10))),
        (b"large".to_vec(), Thing::Large(noise(20, 9_000_000), 300_000)),
        (b"other".to_vec(), Thing::Folder(inner)),
    ]
    .into()
}

#[test]
fn a_tree_is_verified_when_all_that_is_in_it_was_read() {
    let storage = stored::init();
    let snapshot = stored::save(&storage, &packs_of_all(), &mut |_, _| {});
    let repository = stored::open(&storage);
    let data: Vec<PackId> = packs(&repository).iter().filter_map(keys::parse_pack).collect();
    assert!(data.len() > 3 && data.iter().all(|id| id.kind == PackKind::Data), "{data:?}");
    // Each pack in turn is the one that was not read.
    let said = Timestamp(repository.clock().now().0);
    for unread in data.iter().map(Some).chain([None]) {
        let storage = Arc::new(Memory::default());
        let from = stored::open_from(&repository, &storage);
        let intact = data.iter().filter(|id| Some(*id) != unread).copied().collect();
        let group = ReadTogether { at: said, intact, damaged: Vec::new() };
        from.create(&keys::readings(&snapshot.id, 0), &Readings { groups: vec![group] }).unwrap();
        // Nothing is due.
        let report = check(&from, older(1000));
        assert_eq!(report.read_bytes, 0);
        assert_eq!(verified(&from, &snapshot), unread.is_none().then_some(said), "{unread:?}");
    }
}

/// A check that began before it, and has read what was whole then, ends after it.
#[test]
fn damage_that_a_later_check_found_is_not_said_to_be_gone_by_one_that_began_before() {
    let (storage, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", 40);
    clock.advance(DAY * 40);
    let other = again(storage.clone(), clock.clone());
    let done = AtomicUsize::new(0);
    let report = repository.check(&options(share(1.0), &[]), &|step, now, total| {
        if step == CheckStep::Data && now == total && done.fetch_add(1, Ordering::Relaxed) == 0 {
            packs(&other).iter().for_each(|key| spoil(&*storage, key));
            clock.advance(DAY / 24);
            let report = other.check(&options(share(1.0), &[snapshot.id]), &|_, _, _| Ok(())).unwrap();
            assert!(!report.is_clean() && report.kept);
        }
        Ok(())
    });
    assert!(report.unwrap().kept && done.into_inner() > 0);
    assert!(checked(&repository, &snapshot).unwrap().damaged);
}

#[test]
fn who_has_a_clock_that_is_days_behind_leaves_what_others_have_noted() {
    let (storage, clock, repository) = repository();
    let (first, second) = (backup(&repository, "a", 40), sharing(&repository, "b", 100..140));
    clock.advance(DAY * 40);
    let key = packs(&repository).into_iter().find(|key| keys::parse_pack(key).unwrap().session == first.id).unwrap();
    spoil(&*storage, &key);
    assert!(!check(&repository, share(1.0)).is_clean() && checked(&repository, &first).unwrap().damaged);
    let behind = Arc::new(StillClock::default());
    behind.advance(DAY * 30);
    let report = again(storage, behind).check(&options(share(1.0), &[second.id]), &|_, _, _| Ok(())).unwrap();
    assert!(report.is_clean() && report.kept);
    assert!(checked(&repository, &first).unwrap().damaged);
}
