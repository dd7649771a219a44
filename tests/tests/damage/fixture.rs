//! A repository of a few disks, known chunk by chunk, and ways to damage it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::format::records::{Generation, Sweep};
use wherry_repo::storage::Local;
use wherry_repo::{
    CheckOptions, CheckReport, CommitInfo, Damage, Error, ErrorKind, Key, PackKind, ReadData, Repository, SessionId,
    Snapshot, SnapshotReader, SnapshotWriter, storage::keys,
};
use wherry_tests::small::*;
/// A sparse disk: chunks that are not there are zero.
#[derive(Clone, Default)]
pub struct Disk {
    pub size: u64,
    pub chunks: BTreeMap<u64, Vec<u8>>,
}

impl Disk {
    /// Chunk `n` gets new content: some noise and much that compresses, cut off where the disk ends.
    pub fn fill(&mut self, n: u64, seed: u64) {
        let mut chunk = noise(seed << 32 | n, 3000).repeat(UNIT / 3000 + 1);
        let start = n * UNIT as u64;
        chunk.truncate(UNIT.min((self.size - start) as usize));
        self.chunks.insert(n, chunk);
    }

    pub fn of(size: u64, chunks: impl Iterator<Item = u64>, seed: u64) -> Self {
        let mut disk = Self { size, ..Self::default() };
        chunks.for_each(|n| disk.fill(n, seed));
        disk
    }
}

pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub repository: Repository,
    /// In the order they were made.
    pub snapshots: Vec<(Snapshot, Disk)>,
}

pub const MIB: u64 = 1 << 20;

impl Fixture {
    /// Two volumes with three snapshots each and one chunk in common; maps of one, two and three levels; small packs.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = init(Arc::new(Local::new(folder.path(), false))).unwrap();
        let mut fixture = Self { folder, repository, snapshots: Vec::new() };
        let index = index();
        let mut alpha = Disk::of(300 * UNIT as u64 - 5000, (0..290).filter(|n| n % 50 != 7).chain([299]), 1);
        fixture.backup("alpha", &index, &alpha);
        [3, 4, 5, 140, 288].into_iter().for_each(|n| alpha.fill(n, 2));
        fixture.backup("alpha", &index, &alpha);
        // It grows: what was its last chunk is longer now.
        alpha.size = 301 * UNIT as u64;
        [0, 299, 300].into_iter().for_each(|n| alpha.fill(n, 3));
        fixture.backup("alpha", &index, &alpha);
        let mut beta = Disk::of(2048 * MIB, [0, 1, 127, 128, 5000, 16_383, 16_384, 16_385, 32_767].into_iter(), 4);
        fixture.backup("beta", &index, &beta);
        beta.chunks.insert(77, alpha.chunks[&20].clone());
        beta.fill(5000, 5);
        fixture.backup("beta", &index, &beta);
        let small = Disk::of(3 * UNIT as u64 + 17, 0..4, 6);
        fixture.backup("gamma", &index, &small);
        fixture.repository.add_slot(&password(), CHEAP).unwrap();
        let forgotten = fixture.snapshots[1].0.id;
        fixture.repository.forget(&forgotten, Duration::from_secs(1), "test").unwrap();
        fixture.repository.unforget(&forgotten).unwrap();
        fixture.repository.publish_generation(1, &Generation::default()).unwrap();
        fixture
    }

    /// Likewise, with an object of each kind that there is: a delete set, a Fence, a pin and the end of one, a key epoch, and what a check
    /// has noted.
    pub fn of_all_kinds() -> Self {
        let fixture = Self::new();
        let repository = &fixture.repository;
        let (first, last) = (&fixture.snapshots[0].0, &fixture.snapshots[5].0);
        repository.publish_sweep(1, &Sweep::default()).unwrap();
        repository.end_session(first.volume, SessionId::new([7; 16]), "test").unwrap();
        [first.id, last.id].iter().for_each(|id| assert!(repository.pin(id).unwrap()));
        repository.unpin(&last.id).unwrap();
        // Both ways in.
        repository.rotate(&[password()]).unwrap();
        let keep = CheckOptions { read_data: Some(ReadData::default()), keep: true, ..CheckOptions::default() };
        assert_eq!(check(&fixture.open().unwrap(), &keep).damages, []);
        let kinds: BTreeSet<String> = fixture.keys().iter().map(kind_of_object).collect();
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), KINDS);
        fixture
    }

    pub fn backup(&mut self, name: &str, index: &Arc<wherry_repo::index::ChunkIndex>, disk: &Disk) {
        let options = wherry_repo::WriterOptions { pack_size: 192 << 10, ..options(name) };
        let writer = SnapshotWriter::start(&self.repository, index.clone(), &options).unwrap();
        let mut scratch = writer.scratch().unwrap();
        for (n, chunk) in &disk.chunks {
            writer.put(&mut scratch, *n, chunk).unwrap();
            writer.advance(n + 1).unwrap();
        }
        let snapshot = writer.commit(CommitInfo { size: disk.size, ..CommitInfo::default() }).unwrap();
        self.snapshots.push((snapshot, disk.clone()));
    }

    pub fn path(&self, key: &Key) -> PathBuf {
        self.folder.path().join(key.as_str())
    }

    /// The repository as a new process sees it.
    pub fn open(&self) -> Result<Repository, Error> {
        Repository::open(components(Arc::new(Local::new(self.folder.path(), false))), &password())
    }

    pub fn keys(&self) -> Vec<Key> {
        keys_of(self.repository.storage())
    }

    /// The only object below a prefix for which this holds, or the first one.
    pub fn key(&self, prefix: &str, is: impl Fn(&Key) -> bool) -> Key {
        self.keys().into_iter().find(|key| key.as_str().starts_with(prefix) && is(key)).unwrap()
    }

    /// Changes an object, does `work` and puts the object back.
    pub fn with<T>(&self, key: &Key, change: impl FnOnce(&mut Vec<u8>), work: impl FnOnce() -> T) -> T {
        let path = self.path(key);
        let before = fs::read(&path).unwrap();
        let mut bytes = before.clone();
        change(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let result = work();
        fs::write(&path, before).unwrap();
        result
    }

    pub fn without<T>(&self, key: &Key, work: impl FnOnce() -> T) -> T {
        let (path, aside) = (self.path(key), self.folder.path().join("_aside"));
        fs::rename(&path, &aside).unwrap();
        let result = work();
        fs::rename(&aside, &path).unwrap();
        result
    }

    pub fn check(&self, read_data: bool) -> CheckReport {
        let options = CheckOptions { read_data: read_data.then(ReadData::default), ..CheckOptions::default() };
        check(&self.open().unwrap(), &options)
    }

    /// Bytes of each snapshot that cannot be read. Everything else reads as it was written.
    pub fn unreadable(&self) -> Vec<Vec<Range<u64>>> {
        let repository = self.open().unwrap();
        self.snapshots.iter().map(|(snapshot, disk)| unreadable(&repository, snapshot, disk)).collect()
    }

    /// The report names this one object, and as hit exactly what cannot be read.
    pub fn assert_one(&self, report: &CheckReport, key: &Key) -> Damage {
        assert_eq!(report.damages.len(), 1, "damaged is {key}, reported {:#?}", report.damages);
        let damage = report.damages[0].clone();
        assert_eq!(damage.object, *key);
        let mut hits: BTreeMap<_, _> = damage.hits.iter().map(|hit| (hit.snapshot, hit.clone())).collect();
        assert_eq!(hits.len(), damage.hits.len(), "a snapshot is named once");
        for ((snapshot, _), lost) in self.snapshots.iter().zip(self.unreadable()) {
            let Some(hit) = hits.remove(&snapshot.id) else {
                assert_eq!(lost, [], "{}: bytes of {} are lost and not named", key, snapshot.record.name);
                continue;
            };
            let bytes: u64 = lost.iter().map(|r| r.end - r.start).sum();
            assert_eq!((&hit.ranges, hit.bytes, hit.more), (&lost, bytes, 0), "{key}: {damage:?}");
            assert_eq!(hit.name.as_deref(), Some(snapshot.record.name.as_str()));
            assert_eq!((hit.volume, hit.whole), (snapshot.volume, bytes == snapshot.record.size));
        }
        assert_eq!(hits.len(), 0, "a snapshot is named that is none");
        damage
    }
}

pub fn check(repository: &Repository, options: &CheckOptions) -> CheckReport {
    repository.check(options, &|_, _, _| Ok(())).unwrap()
}

pub fn unreadable(repository: &Repository, snapshot: &Snapshot, disk: &Disk) -> Vec<Range<u64>> {
    let mut lost: Vec<Range<u64>> = Vec::new();
    let reader = SnapshotReader::open(repository, snapshot).unwrap();
    for n in 0..reader.chunk_count() {
        let read = match reader.chunk(n) {
            Ok(Some(chunk)) => reader.read_chunk(&chunk).map(|bytes| Some(bytes.into_inner())),
            Ok(None) => Ok(None),
            Err(e) => Err(e),
        };
        match read {
            Ok(read) => assert!(read.as_ref() == disk.chunks.get(&n), "chunk {n} reads as something else"),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound), "{e:?}");
                let range = n * UNIT as u64..((n + 1) * UNIT as u64).min(disk.size);
                match lost.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => lost.push(range),
                }
            }
        }
    }
    lost
}

pub fn flip(at: usize) -> impl Fn(&mut Vec<u8>) {
    move |bytes| bytes[at] ^= 0x10
}

pub fn flip_from_end(at: usize) -> impl Fn(&mut Vec<u8>) {
    move |bytes| {
        let at = bytes.len() - at;
        bytes[at] ^= 0x10;
    }
}

/// Where objects lie, and how the last part of their names ends where that says what they are.
const KINDS: [&str; 19] = [
    "checked/packs",
    "checked/snaps",
    "config",
    "forget asked",
    "forget settled",
    "gc/gen",
    "gc/gen sealed",
    "idx",
    "keys",
    "keys epoch",
    "meta",
    "packs",
    "pin pinned",
    "pin unpinned",
    "repo.json",
    "sess beat",
    "sess open",
    "sess seen",
    "snap",
];

fn kind_of_object(key: &Key) -> String {
    let text = key.as_str();
    let place = match text.split('/').collect::<Vec<_>>()[..] {
        [place @ ("checked" | "gc"), below, ..] => format!("{place}/{below}"),
        [place, ..] => place.to_owned(),
        [] => String::new(),
    };
    let parts = ["asked", "settled", "sealed", "epoch", "unpinned", "pinned", "beat", "open", "seen"];
    let name = text.rsplit('/').next().unwrap_or_default();
    match parts.into_iter().find(|part| name.contains(part)) {
        Some(part) => format!("{place} {part}"),
        None => place,
    }
}

pub fn kind_of(key: &Key) -> Option<PackKind> {
    keys::parse_pack(key).map(|id| id.kind)
}
