//! What damage of the storage cannot do, and a mistake of a writer could: authentic objects that do not fit each other.

mod healing;
mod listed;
mod lost_notes;
mod named;
mod over_time;
mod stored;
mod trees;

use super::*;
use crate::format::pack::{Entry, Index, TRAILER, Trailer};
use crate::format::records::Outcome;
use crate::id::{PackId, PackKind};
use crate::index::ChunkIndex;
use crate::pack::read_index;
use crate::storage::{Memory, keys};
use crate::{
    CommitInfo, Components, Credential, InitOptions, PasswordCost, Snapshot, SnapshotWriter, System, WriterOptions,
};
use std::sync::Arc;

const UNIT: usize = 64 << 10;

/// A repository with one snapshot of so many chunks.
fn repository(chunks: u64) -> (Repository, Snapshot) {
    let components = Components {
        storage: Arc::new(Memory::default()),
        clock: Arc::new(System::default()),
        rng: Arc::new(System::default()),
    };
    let cheap = PasswordCost { memory_kib: 8, passes: 1 };
    let options = InitOptions { chunk_size: UNIT as u32, password_cost: cheap, ..InitOptions::default() };
    let credential = Credential::Password("x".to_owned().into());
    let repository = Repository::init(components, &options, &credential).unwrap();
    let options = WriterOptions { name: "vm".into(), uploads: 0, ..WriterOptions::default() };
    let index = Arc::new(ChunkIndex::in_memory(1 << 20));
    let writer = SnapshotWriter::start(&repository, index, &options).unwrap();
    let mut scratch = writer.scratch().unwrap();
    for n in 0..chunks {
        writer.put(&mut scratch, n, &(n + 1).to_le_bytes().repeat(UNIT / 8)).unwrap();
    }
    let snapshot = writer.commit(CommitInfo { size: chunks * UNIT as u64, ..CommitInfo::default() }).unwrap();
    (repository, snapshot)
}

fn check(repository: &Repository) -> CheckReport {
    repository.check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap()
}

fn pack(repository: &Repository, kind: PackKind) -> PackId {
    let prefix = if kind == PackKind::Data { keys::PACKS } else { keys::META };
    keys::parse_pack(&repository.list(prefix).unwrap()[0]).unwrap()
}

/// Writes the index of a pack anew, with the right keys.
fn forge(repository: &Repository, id: &PackId, change: impl FnOnce(&mut Index)) {
    let (storage, key) = (repository.storage(), keys::pack(id));
    let (mut index, epoch, _) = read_index(storage, repository.keys(), id).unwrap();
    let body = storage.get(&key).unwrap();
    let trailer = Trailer::decode(&body[body.len() - TRAILER..], body.len() as u64).unwrap();
    change(&mut index);
    let entries = index.entries.len() as u32;
    let sealed = repository.keys().pack(id, epoch).unwrap().seal_index(index.encode()).unwrap();
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(&sealed).as_bytes()[..16]);
    let end = trailer.index_offset as usize;
    let size = (end + sealed.len() + TRAILER) as u32;
    let trailer = Trailer { index_len: sealed.len() as u32, entries, pack_len: size, index_hash: hash, ..trailer };
    storage.overwrite(&key, [&body[..end], &sealed, &trailer.encode()].concat().into()).unwrap();
}

#[test]
fn an_index_that_does_not_say_what_a_map_says_is_named_and_who_is_hit_is_read_from_the_chunks() {
    type Change = fn(&mut Entry);
    let changes: [(&str, Change); 4] = [
        ("id", |e| e.id = crate::ChunkId::new([5; 32])),
        ("codec", |e| e.codec = crate::Codec::Zstd),
        ("class", |e| e.class += 1),
        ("plain", |e| e.plain -= 1),
    ];
    for (what, change) in changes {
        let (repository, _) = repository(6);
        let id = pack(&repository, PackKind::Data);
        assert!(check(&repository).is_clean());
        forge(&repository, &id, |index| change(&mut index.entries[2]));
        let report = check(&repository);
        let [damage] = &report.damages[..] else { panic!("{what}: {:?}", report.damages) };
        assert_eq!(damage.object, keys::pack(&id), "{what}");
        assert_eq!(damage.what, "its index and a map do not agree on number 2", "{what}");
        assert_eq!(damage.hits, [], "{what}: the chunk itself is as the map says");
        assert!(report.read_bytes > 0);
    }
    // Chunks at other offsets, fewer chunks: all that a map refers to is looked at.
    let (repository, snapshot) = repository(6);
    let id = pack(&repository, PackKind::Data);
    forge(&repository, &id, |index| {
        index.entries[0].len += 1;
        index.entries[1..].iter_mut().for_each(|e| e.offset += 1);
        index.entries[5].len -= 1;
    });
    let damage = check(&repository).damages.remove(0);
    assert!((0..6).all(|n| damage.what.contains(&format!("number {n}"))), "{}", damage.what);
    assert_eq!(damage.hits, []);
    let read = CheckOptions { read_data: Some(ReadData::default()), ..CheckOptions::default() };
    let report = repository.check(&read, &|_, _, _| Ok(())).unwrap();
    assert_eq!(report.damages[0].hits, [], "what the index says does not verify, what the map says does");
    assert!(report.damages[0].what.contains("do not verify"), "{:?}", report.damages);
    assert_eq!(snapshot.record.chunks, 6);
}

#[test]
fn an_index_of_a_pack_of_nodes_is_compared_too() {
    let (repository, _) = repository(200);
    let id = pack(&repository, PackKind::Meta);
    forge(&repository, &id, |index| index.entries[1].class += 1);
    let damage = check(&repository).damages.remove(0);
    assert_eq!(
        (damage.object, damage.what.as_str()),
        (keys::pack(&id), "its index and a map do not agree on number 1")
    );
    assert_eq!(damage.hits, []);
    forge(&repository, &id, |index| index.entries[1].class = 18);
    assert!(check(&repository).damages[0].what.contains("makes no sense"), "a chunk among nodes");
}

#[test]
fn a_map_that_is_longer_than_its_volume_is_named() {
    let (repository, snapshot) = repository(200);
    let id = crate::SessionId::new([7; 16]);
    let ids = &repository.keys().ids;
    let top = crate::format::node::Node::decode(&snapshot.record.top).unwrap();
    let top = ids.node(top.level, top.present().map(|(n, slot)| (n as u8, slot.id)));
    let mut record = snapshot.record.clone();
    record.size -= 3 * UNIT as u64;
    // It comes second, when all its nodes were seen already.
    record.started.0 += 1;
    record.root = ids.root(record.size, record.class, record.levels, Some(top));
    let key = keys::snap(&snapshot.volume, &id);
    repository.create(&key, &Outcome::Snapshot(Box::new(record))).unwrap();
    let options = CheckOptions { threads: 1, ..CheckOptions::default() };
    let damage = repository.check(&options, &|_, _, _| Ok(())).unwrap().damages.remove(0);
    assert_eq!((damage.object, damage.what.as_str()), (key, "its map goes on behind the end of the volume"));
}

#[test]
fn a_snapshot_under_another_volume_and_one_whose_map_is_not_its_own_are_named() {
    let (repository, snapshot) = repository(3);
    let moved = keys::snap(&crate::VolumeId::new([1; 16]), &crate::SessionId::new([7; 16]));
    repository.create(&moved, &Outcome::Snapshot(Box::new(snapshot.record.clone()))).unwrap();
    let other = keys::snap(&snapshot.volume, &crate::SessionId::new([8; 16]));
    let record = crate::SnapshotRecord { root: crate::ChunkId::new([1; 32]), ..snapshot.record.clone() };
    repository.create(&other, &Outcome::Snapshot(Box::new(record))).unwrap();
    let report = check(&repository);
    let found: Vec<_> = report.damages.iter().map(|d| (d.object.clone(), d.hits.len(), d.hits[0].whole)).collect();
    let mut want = vec![(moved, 1, true), (other, 1, true)];
    want.sort();
    assert_eq!(found, want);
}

#[test]
fn ranges_join_and_are_bounded() {
    let mut ranges = report::Ranges::default();
    for n in 0..5000 {
        let start = n * 10;
        ranges.push(start..start + 3);
        ranges.push(start + 3..start + 5);
    }
    assert_eq!((ranges.bytes, ranges.kept.len(), ranges.more), (25_000, 1000, 4000));
    assert_eq!(ranges.kept[999], 9990..9995);
}

#[test]
fn paths_are_counted_once_and_bounded() {
    let mut paths = report::Paths::default();
    for n in 0..5000 {
        let path = format!("{n:04}").into_bytes();
        paths.entry(&path, 5);
        paths.entry(&path, 7);
    }
    assert_eq!((paths.bytes, paths.entries, paths.kept.len(), paths.more), (60_000, 5000, 200, 4800));
    let mut paths = report::Paths::default();
    paths.entry(b"a", 0);
    paths.below(b"a", 3, 10);
    paths.entry(b"a/b", 1);
    paths.below(b"a", 4, 10);
    let lost = |path: &[u8], below| LostPath { path: path.to_vec(), itself: true, below };
    assert_eq!(paths.kept, [lost(b"a", 7), lost(b"a/b", 0)]);
    assert_eq!((paths.bytes, paths.entries, paths.more), (21, 9, 0));
    let mut paths = report::Paths::default();
    for n in 0..100u8 {
        paths.entry(&[&[n][..], &[b'x'; 1000]].concat(), 1);
    }
    assert_eq!((paths.kept.len(), paths.more), (16, 84));
}

#[test]
fn a_pack_that_fails_between_the_steps_is_not_said_to_be_read() {
    let (repository, _) = repository(6);
    let key = keys::pack(&pack(&repository, PackKind::Data));
    let options = CheckOptions { read_data: Some(ReadData::default()), ..CheckOptions::default() };
    let whole = repository.check(&options, &|_, _, _| Ok(())).unwrap();
    assert!(whole.is_clean() && whole.not_read.is_empty() && whole.read_bytes > 0, "{whole:?}");
    let report = repository.check(&options, &|step, done, total| {
        if step == CheckStep::Maps && done == total {
            let mut body = repository.storage().get(&key)?.to_vec();
            body.truncate(body.len() - 1);
            repository.storage().overwrite(&key, body.into())?;
        }
        Ok(())
    });
    let report = report.unwrap();
    assert_eq!(report.damages.iter().map(|damage| &damage.object).collect::<Vec<_>>(), [&key]);
    assert_eq!(report.read_bytes, 0);
    let failed = NotRead { reason: NotReadReason::Failed, packs: 1, bytes: report.data_bytes };
    assert_eq!(report.not_read, [failed]);
}
