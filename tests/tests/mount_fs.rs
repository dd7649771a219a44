//! The file system of a mount, without a kernel, against a model: the disks as they were backed up.

#[path = "mount/latest_fs.rs"]
mod latest_fs;
#[path = "mount/trees_fs.rs"]
mod trees_fs;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use wherry::mount::attributes::time;
use wherry::mount::fs::{Fault, Fs, Kind};
use wherry::mount::source::Shared;
use wherry::mount::tree::{ROOT, Tree, What};
use wherry::mount::workers::Scratch;
use wherry_repo::storage::{Listed, Memory, Storage, Tail};
use wherry_repo::{ErrorKind, Key, Repository, Snapshot, Timestamp};
use wherry_tests::meddling::{Call, Fate, Meddling, unavailable};
use wherry_tests::small::*;

/// Room for so many chunks: reads of several, and reads ahead, press each other out.
const CACHE: u64 = 6 * UNIT as u64;

/// Room for all hard links of a test (bytes).
const LINKS: u64 = 1 << 20;

fn mounted(repository: &Repository) -> (Arc<Shared>, Fs) {
    let shared = Shared::new(CACHE, 2, 256 << 10).unwrap();
    (shared.clone(), Fs::new(repository.clone(), None, shared, LINKS).unwrap())
}

/// A disk whose chunk `n` is data where `data` says so.
fn disk(seed: u64, data: &[bool], tail: usize) -> Vec<u8> {
    let mut disk = vec![0; data.len() * UNIT + tail];
    for (n, chunk) in disk.chunks_mut(UNIT).enumerate() {
        if data.get(n).copied().unwrap_or(true) {
            chunk.copy_from_slice(&noise(seed + n as u64, chunk.len()));
        }
    }
    disk
}

/// The number of what a path leads to; symbolic links are followed.
fn walk(fs: &Fs, path: &str) -> Result<u64, Fault> {
    let mut at = ROOT;
    for name in path.split('/').filter(|n| !n.is_empty()) {
        let found = fs.lookup(at, name.as_bytes())?;
        at = match found.kind {
            Kind::Link => {
                let target = String::from_utf8(fs.read_link(found.number)?).unwrap();
                let mut parent = at;
                for name in target.split('/') {
                    parent = fs.lookup(parent, name.as_bytes())?.number;
                }
                parent
            }
            _ => found.number,
        };
    }
    Ok(at)
}

fn names(fs: &Fs, path: &str) -> Vec<String> {
    let mut names = Vec::new();
    let folder = walk(fs, path).unwrap();
    fs.list(folder, 0, false, |listed| {
        names.push(String::from_utf8(listed.name.to_vec()).unwrap());
        true
    })
    .unwrap();
    names.retain(|n| n != "." && n != "..");
    names
}

fn read(fs: &Fs, handle: u64, range: Range<usize>) -> Result<Vec<u8>, Fault> {
    fs.read(handle, range.start as u64, range.len(), false, &mut Scratch::default(), <[u8]>::to_vec)
}

/// What `SEEK_DATA` and `SEEK_HOLE` give on a disk whose zero chunks are holes.
fn seek_in(disk: &[u8], offset: usize, data: bool) -> Result<u64, Fault> {
    if offset >= disk.len() {
        return Err(Fault::Beyond);
    }
    let first = offset / UNIT;
    for (n, chunk) in disk.chunks(UNIT).enumerate().skip(first) {
        if chunk.iter().any(|b| *b != 0) == data {
            return Ok((n * UNIT).max(offset) as u64);
        }
    }
    if data { Err(Fault::Beyond) } else { Ok(disk.len() as u64) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn reads_and_seeks_are_those_of_the_disks(
        disks in prop::collection::vec((prop::collection::vec(any::<bool>(), 0..40), 0..UNIT), 1..4),
        ops in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), 0usize..5 * UNIT, 0u8..4), 1..60),
    ) {
        let (_, repository) = in_memory();
        let disks: Vec<_> = disks.iter().enumerate().map(|(n, (data, tail))| disk(n as u64 * 7, data, *tail)).collect();
        for (n, disk) in disks.iter().enumerate() {
            backup(&repository, &format!("vm{n}"), disk).unwrap();
        }
        let (shared, fs) = mounted(&repository);
        let handles: Vec<_> =
            (0..disks.len()).map(|n| fs.open(walk(&fs, &format!("by-volume/vm{n}/latest/disk.raw")).unwrap()).unwrap()).collect();
        for (which, at, len, op) in ops {
            let which = which.index(disks.len());
            let (disk, handle) = (&disks[which], handles[which]);
            let at = at as usize % (disk.len() + 2 * UNIT);
            match op {
                0 => prop_assert_eq!(fs.seek(handle, at as u64, true), seek_in(disk, at, true)),
                1 => prop_assert_eq!(fs.seek(handle, at as u64, false), seek_in(disk, at, false)),
                _ => {
                    let end = (at + len).min(disk.len());
                    let expected = disk.get(at..end).unwrap_or_default();
                    prop_assert!(read(&fs, handle, at..at + len).unwrap() == expected, "{which}: {at} + {len}");
                }
            }
            prop_assert!(shared.cache.allocated() <= CACHE);
        }
    }
}

#[test]
fn many_readers_at_once_read_right_within_the_bound() {
    let (_, repository) = in_memory();
    let disk = disk(1, &[true; 60], 100);
    backup(&repository, "vm", &disk).unwrap();
    let (shared, fs) = mounted(&repository);
    let number = walk(&fs, "by-volume/vm/latest/disk.raw").unwrap();
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (fs, disk, shared) = (&fs, &disk, &shared);
            scope.spawn(move || {
                let handle = fs.open(number).unwrap();
                let mut state = reader;
                for n in 0..200 {
                    let at = match reader % 2 {
                        0 => n * UNIT / 3 % disk.len(),
                        _ => splitmix(&mut state) as usize % disk.len(),
                    };
                    let len = (splitmix(&mut state) as usize % (4 * UNIT)).min(disk.len() - at);
                    assert!(read(fs, handle, at..at + len).unwrap() == disk[at..at + len]);
                    assert!(shared.cache.allocated() <= CACHE);
                }
                fs.close(handle);
            });
        }
    });
}

#[test]
fn folders_links_and_attributes() {
    let (_, repository) = in_memory();
    let odd = "a b'\"\\é$(x)*\u{202e}z";
    let first = backup(&repository, odd, &disk(1, &[true, false, true], 5)).unwrap();
    let second = backup(&repository, odd, &disk(2, &[], UNIT)).unwrap();
    backup(&repository, "other", &[]).unwrap();
    let (_, fs) = mounted(&repository);
    assert_eq!(names(&fs, ""), ["by-volume", "by-id"]);
    assert_eq!(names(&fs, "by-volume"), [odd, "other"]);
    // The clock of the tests moves by nanoseconds: both are of one second.
    let folder = "2026-05-28T20-26-40Z";
    assert_eq!(names(&fs, &format!("by-volume/{odd}")), [folder, "latest", &format!("{folder}-2")]);
    assert_eq!(names(&fs, "by-id").len(), 3);
    let disk = |path: &str| fs.attributes(walk(&fs, &format!("{path}/disk.raw")).unwrap()).unwrap();
    let of_first = disk(&format!("by-volume/{odd}/{folder}"));
    assert_eq!(of_first.size, first.record.size);
    assert_eq!(of_first.allocated, 3 * UNIT as u64, "the end counts as a whole chunk");
    let of_second = disk(&format!("by-volume/{odd}/latest"));
    assert_eq!(of_second.allocated, UNIT as u64, "but nothing is beyond the end");
    assert_eq!((of_first.kind, of_first.modified), (Kind::Disk, time(first.record.started)));
    assert_eq!(disk(&format!("by-id/{}", first.id)), of_first);
    assert_eq!(disk(&format!("by-volume/{odd}/latest")), disk(&format!("by-id/{}", second.id)));
    assert_eq!(disk("by-volume/other/latest").size, 0);
    let by_volume = walk(&fs, "by-volume").unwrap();
    assert_eq!(fs.lookup(by_volume, b".."), fs.attributes(ROOT));
    // What is not there, or not of that kind.
    let number = of_first.number;
    assert_eq!(fs.lookup(by_volume, b"none"), Err(Fault::NoEntry));
    assert_eq!(fs.lookup(number, b"x"), Err(Fault::NotFolder));
    assert_eq!(fs.attributes(9999), Err(Fault::NoEntry));
    assert_eq!(fs.read_link(number), Err(Fault::Invalid));
    assert_eq!(fs.open(by_volume), Err(Fault::IsFolder));
    assert_eq!(fs.list(number, 0, true, |_| true), Err(Fault::NotFolder));
    assert_eq!(read(&fs, 77, 0..1), Err(Fault::BadHandle));
    let handle = fs.open(number).unwrap();
    fs.close(handle);
    assert_eq!(read(&fs, handle, 0..1), Err(Fault::BadHandle));
}

#[test]
fn a_listing_goes_on_where_it_stopped() {
    let (_, repository) = in_memory();
    for n in 0..10 {
        backup(&repository, &format!("vm{n}"), &[]).unwrap();
    }
    let (_, fs) = mounted(&repository);
    let folder = walk(&fs, "by-volume").unwrap();
    let (mut place, mut found) = (0, Vec::new());
    loop {
        let before = found.len();
        // Three entries fit, as if the kernel's buffer were that small.
        let mut room = 3;
        fs.list(folder, place, false, |listed| {
            if room == 0 {
                return false;
            }
            room -= 1;
            found.push((listed.number, listed.kind, String::from_utf8(listed.name.to_vec()).unwrap()));
            place = listed.next;
            true
        })
        .unwrap();
        if found.len() == before {
            break;
        }
    }
    let names: Vec<_> = found.iter().map(|(_, _, name)| name.as_str()).collect();
    let volumes: Vec<_> = (0..10).map(|n| format!("vm{n}")).collect();
    assert_eq!(names, [&[".", ".."][..], &volumes.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    assert!(found.iter().all(|(number, kind, _)| *kind == Kind::Folder && *number > 0));
}

fn snapshot_at(like: &Snapshot, id: u8, seconds: i64, partial: bool) -> Snapshot {
    let mut snapshot = like.clone();
    snapshot.id = wherry_repo::SnapshotId::new([id; 16]);
    snapshot.record.started = Timestamp(seconds * 1_000_000_000);
    snapshot.record.partial = partial;
    snapshot
}

#[test]
fn latest_is_the_newest_whole_one_and_partial_ones_say_so() {
    let (_, repository) = in_memory();
    let like = backup(&repository, "vm", &[1]).unwrap();
    let mut tree = Tree::new(Timestamp(0));
    let folder = |tree: &Tree, number: u64, name: &str| match &tree.inode(number).unwrap().what {
        What::Folder(folder) => folder.get(name),
        _ => None,
    };
    let latest = |tree: &Tree| {
        let volume = folder(tree, folder(tree, ROOT, "by-volume").unwrap(), "vm").unwrap();
        folder(tree, volume, "latest").map(|link| match &tree.inode(link).unwrap().what {
            What::Link(target) => target.clone(),
            other => panic!("{other:?}"),
        })
    };
    tree.add(snapshot_at(&like, 1, 100, true));
    assert_eq!(latest(&tree), None);
    tree.add(snapshot_at(&like, 2, 100, false));
    assert_eq!(latest(&tree).as_deref(), Some("1970-01-01T00-01-40Z-2"));
    tree.add(snapshot_at(&like, 3, 300, false));
    tree.add(snapshot_at(&like, 4, 200, false));
    tree.add(snapshot_at(&like, 5, 400, true));
    tree.add(snapshot_at(&like, 3, 300, false));
    assert_eq!(latest(&tree).as_deref(), Some("1970-01-01T00-05-00Z"));
    let volume = folder(&tree, folder(&tree, ROOT, "by-volume").unwrap(), "vm").unwrap();
    let What::Folder(entries) = &tree.inode(volume).unwrap().what else { panic!() };
    let names: Vec<_> = (0..).map_while(|n| entries.entry(n)).map(|(name, _)| name.to_owned()).collect();
    let expected = [
        "1970-01-01T00-01-40Z.partial",
        "1970-01-01T00-01-40Z-2",
        "latest",
        "1970-01-01T00-05-00Z",
        "1970-01-01T00-03-20Z",
        "1970-01-01T00-06-40Z.partial",
    ];
    assert_eq!(names, expected);
    let id = folder(&tree, folder(&tree, ROOT, "by-id").unwrap(), &"05".repeat(16)).unwrap();
    let What::Link(target) = &tree.inode(id).unwrap().what else { panic!() };
    assert_eq!(target, "../by-volume/vm/1970-01-01T00-06-40Z.partial");
}

/// A new repository, and the clock that it goes by.
fn with_clock() -> (Repository, Arc<TestClock>) {
    let storage = Arc::new(Memory::default());
    let clock = Arc::new(TestClock::default());
    let mut parts = components(storage.clone());
    init(storage).unwrap();
    parts.clock = clock.clone();
    (Repository::open(parts, &password()).unwrap(), clock)
}

#[test]
fn new_snapshots_appear_when_folders_are_listed_and_numbers_stay() {
    let (repository, clock) = with_clock();
    backup(&repository, "vm", &[1]).unwrap();
    let (_, fs) = mounted(&repository);
    let number = walk(&fs, "by-volume/vm/latest/disk.raw").unwrap();
    clock.advance(Duration::from_secs(60));
    backup(&repository, "vm", &[2]).unwrap();
    backup(&repository, "new", &[3]).unwrap();
    // Also to who asks by name and has listed nothing.
    assert!(walk(&fs, "by-volume/new").is_ok());
    assert_eq!(walk(&fs, "by-volume/none"), Err(Fault::NoEntry));
    assert_eq!(names(&fs, "by-volume"), ["vm", "new"]);
    assert_eq!(names(&fs, "by-volume/vm").len(), 3);
    assert_ne!(walk(&fs, "by-volume/vm/latest/disk.raw").unwrap(), number);
    assert_eq!(fs.attributes(number).unwrap().kind, Kind::Disk);
    // Within a few seconds no listing asks the storage again.
    backup(&repository, "newer", &[3]).unwrap();
    assert_eq!(names(&fs, "by-volume"), ["vm", "new"]);
    clock.advance(Duration::from_secs(6));
    assert_eq!(names(&fs, "by-volume"), ["vm", "new", "newer"]);
    // One snapshot alone stays alone.
    let only = repository.snapshots(None).unwrap().snapshots[0].clone();
    let fs = Fs::new(repository.clone(), Some(only), Shared::new(CACHE, 1, 1 << 20).unwrap(), LINKS).unwrap();
    clock.advance(Duration::from_secs(60));
    assert_eq!((names(&fs, "by-volume"), names(&fs, "by-id").len()), (vec!["vm".to_owned()], 1));
}

/// The pack with the chunks of a repository with one pack.
fn pack(storage: &Memory) -> (Key, Bytes) {
    let keys: Vec<_> = keys_of(storage).into_iter().filter(|k| k.as_str().starts_with("packs/")).collect();
    assert_eq!(keys.len(), 1);
    let body = storage.get(&keys[0]).unwrap();
    (keys[0].clone(), body)
}

fn replace(storage: &Memory, key: &Key, body: Vec<u8>) {
    storage.delete(key).unwrap();
    storage.create(key, body.into()).unwrap();
}

/// Chunks of the disk that cannot be read, by single reads and by reads of the whole at once, which fail.
fn unreadable(repository: &Repository, disk: &[u8]) -> BTreeSet<usize> {
    let (_, fs) = mounted(repository);
    let handle = fs.open(walk(&fs, "by-volume/vm/latest/disk.raw").unwrap()).unwrap();
    assert_eq!(read(&fs, handle, 0..disk.len()), Err(Fault::Repository(ErrorKind::Corrupt)));
    let mut bad = BTreeSet::new();
    for (n, chunk) in disk.chunks(UNIT).enumerate() {
        match read(&fs, handle, n * UNIT..n * UNIT + chunk.len()) {
            Ok(bytes) => assert!(bytes == chunk, "chunk {n} is read as something else"),
            Err(fault) => {
                assert_eq!(fault, Fault::Repository(ErrorKind::Corrupt));
                bad.insert(n);
            }
        }
    }
    let first = bad.first().map_or(disk.len(), |n| n * UNIT);
    let short = fs.read(handle, 0, disk.len(), true, &mut Scratch::default(), <[u8]>::to_vec).unwrap();
    assert!(short == disk[..first], "whoever can take it gets what lies before");
    bad
}

#[test]
fn damage_is_damage_to_its_own_chunk_only() {
    let storage = Arc::new(Memory::default());
    let repository = init(storage.clone()).unwrap();
    let disk = disk(1, &[true; 12], 0);
    let mut options = options("vm");
    options.pack_size = 4 << 20;
    backup_with(&repository, index(), &options, &disk).unwrap();
    let (key, body) = pack(&storage);
    // A bit in the middle: one chunk.
    let mut flipped = body.to_vec();
    flipped[5 * UNIT] ^= 1;
    replace(&storage, &key, flipped);
    assert_eq!(unreadable(&repository, &disk).len(), 1);
    // Cut in the middle: what lies before is there.
    replace(&storage, &key, body[..5 * UNIT].to_vec());
    let bad = unreadable(&repository, &disk);
    assert_eq!(bad, (*bad.first().unwrap()..12).collect());
    assert_eq!(bad.len(), 8, "4 whole chunks and a part of one are left");
    // And when it is back, all is well, without a new mount.
    let (_, fs) = mounted(&repository);
    let handle = fs.open(walk(&fs, "by-volume/vm/latest/disk.raw").unwrap()).unwrap();
    assert!(read(&fs, handle, 0..disk.len()).is_err());
    replace(&storage, &key, body.to_vec());
    assert!(read(&fs, handle, 0..disk.len()).unwrap() == disk);
}

/// Counts the reads of data packs, and holds them up while the gate is shut.
#[derive(Debug)]
struct Gated {
    inner: Arc<Memory>,
    reads: AtomicUsize,
    bytes: AtomicUsize,
    shut: Mutex<bool>,
    bell: Condvar,
    arrived: AtomicBool,
}

impl Gated {
    fn new(inner: Arc<Memory>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            reads: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            shut: Mutex::new(false),
            bell: Condvar::new(),
            arrived: AtomicBool::new(false),
        })
    }
}

impl Storage for Gated {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn get(&self, key: &Key) -> wherry_repo::Result<Bytes> {
        self.inner.get(key)
    }
    fn get_range(&self, key: &Key, range: Range<u64>) -> wherry_repo::Result<Bytes> {
        if key.as_str().starts_with("packs/") {
            self.reads.fetch_add(1, Ordering::SeqCst);
            self.bytes.fetch_add((range.end - range.start) as usize, Ordering::SeqCst);
            self.arrived.store(true, Ordering::SeqCst);
            let mut shut = self.shut.lock();
            while *shut {
                self.bell.wait(&mut shut);
            }
        }
        self.inner.get_range(key, range)
    }
    fn get_tail(&self, key: &Key, len: u64) -> wherry_repo::Result<Tail> {
        self.inner.get_tail(key, len)
    }
    fn head(&self, key: &Key) -> wherry_repo::Result<Listed> {
        self.inner.head(key)
    }
    fn create(&self, key: &Key, body: Bytes) -> wherry_repo::Result<()> {
        self.inner.create(key, body)
    }
    fn overwrite(&self, key: &Key, body: Bytes) -> wherry_repo::Result<()> {
        self.inner.overwrite(key, body)
    }
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> wherry_repo::Result<()>) -> wherry_repo::Result<()> {
        self.inner.list(prefix, visit)
    }
    fn delete(&self, key: &Key) -> wherry_repo::Result<()> {
        self.inner.delete(key)
    }
}

fn gated(disk: &[u8]) -> (Arc<Gated>, Fs) {
    let storage = Arc::new(Memory::default());
    let repository = init(storage.clone()).unwrap();
    let mut options = options("vm");
    options.pack_size = 32 << 20;
    backup_with(&repository, index(), &options, disk).unwrap();
    let gated = Gated::new(storage);
    let repository = Repository::open(components(gated.clone()), &password()).unwrap();
    let shared = Shared::new(64 << 20, 2, 1 << 20).unwrap();
    (gated, Fs::new(repository, None, shared, LINKS).unwrap())
}

#[test]
fn a_chunk_many_want_is_fetched_once() {
    let disk = disk(1, &[true; 4], 0);
    let (storage, fs) = gated(&disk);
    let handle = fs.open(walk(&fs, "by-volume/vm/latest/disk.raw").unwrap()).unwrap();
    *storage.shut.lock() = true;
    let begun = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                begun.fetch_add(1, Ordering::SeqCst);
                assert!(read(&fs, handle, UNIT + 7..UNIT + 99).unwrap() == disk[UNIT + 7..UNIT + 99]);
            });
        }
        while begun.load(Ordering::SeqCst) < 6 || !storage.arrived.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        *storage.shut.lock() = false;
        storage.bell.notify_all();
    });
    assert_eq!(storage.reads.load(Ordering::SeqCst), 1);
}

/// That the storage did not answer the reader of one snapshot says nothing of another one.
#[test]
fn who_waits_for_the_reader_of_another_snapshot_tries_when_that_one_fails() {
    let storage = Meddling::new(Arc::new(Memory::default()), false);
    let repository = init(storage.clone()).unwrap();
    let disk = disk(1, &[true; 60], 0);
    let known = index();
    for name in ["vm", "other"] {
        backup_with(&repository, known.clone(), &options(name), &disk).unwrap();
    }
    let (_, fs) = mounted(&repository);
    let [first, second] =
        ["vm", "other"].map(|n| fs.open(walk(&fs, &format!("by-volume/{n}/latest/disk.raw")).unwrap()).unwrap());
    // The maps are at hand.
    [first, second].iter().for_each(|handle| drop(read(&fs, *handle, 0..9).unwrap()));
    let range = 50 * UNIT + 7..50 * UNIT + 99;
    let (arrived, waits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (arrive, wait) = (arrived.clone(), waits.clone());
    storage.meddle(move |call, key| {
        if call != Call::Read || !key.starts_with("packs/") || arrive.swap(true, Ordering::SeqCst) {
            return Fate::Done;
        }
        while !wait.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        // It is about to wait; if it is late, it finds nobody to wait for.
        std::thread::sleep(Duration::from_millis(100));
        Fate::Fails(unavailable())
    });
    std::thread::scope(|scope| {
        let failed = scope.spawn(|| read(&fs, first, range.clone()));
        while !arrived.load(Ordering::SeqCst) && !failed.is_finished() {
            std::thread::yield_now();
        }
        waits.store(true, Ordering::SeqCst);
        assert!(read(&fs, second, range.clone()).unwrap() == disk[range.clone()]);
        assert_eq!(failed.join().unwrap(), Err(Fault::Repository(ErrorKind::Unavailable)));
    });
}

#[test]
fn zeros_cost_nothing_and_a_jump_costs_one_chunk() {
    let mut data = vec![false; 64];
    data[20] = true;
    data[50] = true;
    let disk = disk(1, &data, 0);
    let (storage, fs) = gated(&disk);
    let handle = fs.open(walk(&fs, "by-volume/vm/latest/disk.raw").unwrap()).unwrap();
    assert!(read(&fs, handle, 0..20 * UNIT).unwrap() == disk[..20 * UNIT]);
    assert_eq!(storage.reads.load(Ordering::SeqCst), 0);
    assert!(read(&fs, handle, 50 * UNIT + 5..50 * UNIT + 10).unwrap() == disk[50 * UNIT + 5..50 * UNIT + 10]);
    assert_eq!(storage.reads.load(Ordering::SeqCst), 1);
    assert!(storage.bytes.load(Ordering::SeqCst) < UNIT + 100);
}

#[test]
fn who_reads_straight_on_is_served_ahead_in_large_requests() {
    let disk = disk(1, &[true; 200], 0);
    let (storage, fs) = gated(&disk);
    let handle = fs.open(walk(&fs, "by-volume/vm/latest/disk.raw").unwrap()).unwrap();
    for (n, chunk) in disk.chunks(UNIT).enumerate() {
        assert!(read(&fs, handle, n * UNIT..(n + 1) * UNIT).unwrap() == chunk);
    }
    let (reads, bytes) = (storage.reads.load(Ordering::SeqCst), storage.bytes.load(Ordering::SeqCst));
    assert!(reads <= 40, "200 chunks came in {reads} requests");
    assert!(bytes < disk.len() + disk.len() / 10, "nothing was fetched twice: {bytes}");
}

#[test]
fn what_is_opened_is_noted_once_and_a_bounded_number_of_notes_stays() {
    let (storage, repository) = in_memory();
    for n in 0..12 {
        backup(&repository, &format!("vm{n}"), &[n + 1]).unwrap();
    }
    let noted = || keys_of(&*storage).iter().filter(|key| key.as_str().ends_with("/open")).count() - 12;
    let (_, fs) = mounted(&repository);
    let number = |n: u8| walk(&fs, &format!("by-volume/vm{n}/latest/disk.raw")).unwrap();
    assert_eq!(noted(), 0);
    let handles: Vec<u64> = (0..3).map(|_| fs.open(number(0)).unwrap()).collect();
    assert_eq!(noted(), 1, "three handles of one disk");
    handles.iter().for_each(|handle| fs.close(*handle));
    let held = fs.open(number(0)).unwrap();
    for n in 1..12 {
        let handle = fs.open(number(n)).unwrap();
        assert_eq!(read(&fs, handle, 0..10).unwrap(), [n + 1]);
        fs.close(handle);
        assert!(noted() <= 1 + 5, "{} after {n}", noted());
    }
    assert_eq!(noted(), 1 + 4, "the one that is open and the last ones");
    assert_eq!(read(&fs, held, 0..10).unwrap(), [1]);
    fs.end();
    assert_eq!(noted(), 0);
}
