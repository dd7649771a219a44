mod classes;
mod rows;

use super::*;
use crate::check::{CheckOptions, CheckReport, DamageKind, ReadData};
use crate::format::pack::{Entry, Header, Index, Trailer};
use crate::id::{Codec, SessionId};
use crate::pack::{OpenPack, PackPool, Piece, read_index};
use crate::storage::Storage;
use crate::testing::{UNIT, Watched, backup, chunk, repository};
use crate::{ErrorKind, Snapshot, SnapshotReader};

/// Chunks of the disks here: three leaves of the map, below the node in the record.
const CHUNKS: u64 = 300;

fn packs(repository: &Repository, kind: PackKind) -> Vec<PackId> {
    let prefix = if kind == PackKind::Data { keys::PACKS } else { keys::META };
    repository.list(prefix).unwrap().iter().filter_map(keys::parse_pack).collect()
}

fn of(repository: &Repository, snapshot: &Snapshot, kind: PackKind) -> Vec<PackId> {
    packs(repository, kind).into_iter().filter(|pack| pack.session == snapshot.id).collect()
}

fn remove(repository: &Repository, packs: &[PackId]) {
    packs.iter().for_each(|pack| repository.storage().delete(&keys::pack(pack)).unwrap());
}

/// Copies all that is in some packs into a new one, as a repack does: sealed as it is, with where it came from.
fn repack(repository: &Repository, from: &[PackId]) -> PackId {
    repack_as(repository, from, 0)
}

/// Likewise; its number tells the pack from others.
fn repack_as(repository: &Repository, from: &[PackId], seq: u32) -> PackId {
    let (storage, secrets) = (repository.storage(), repository.keys());
    let session = SessionId::new([77; 16]);
    let id = PackId { kind: from[0].kind, session, seq, random: (1 << 60) + u64::from(seq) };
    let key = secrets.pack(&id, 0).unwrap();
    let mut body = Header { epoch: 0, pack: id, commitment: key.commitment }.encode().to_vec();
    let mut index = Index::default();
    for pack in from {
        let (theirs, epoch, _) = read_index(storage, secrets, pack).unwrap();
        let bytes = storage.get(&keys::pack(pack)).unwrap();
        index.origins.push((*pack, epoch));
        for entry in theirs.entries {
            let offset = body.len() as u32;
            body.extend_from_slice(&bytes[entry.offset as usize..][..entry.len as usize]);
            index.entries.push(Entry { offset, origin: index.origins.len() as u16, ..entry });
        }
    }
    finish(repository, &id, &index, body);
    id
}

/// Adds index and trailer to chunks and stores the pack.
fn finish(repository: &Repository, id: &PackId, index: &Index, mut body: Vec<u8>) {
    let sealed = repository.keys().pack(id, 0).unwrap().seal_index(index.encode()).unwrap();
    let trailer = Trailer::of(body.len(), &sealed, index.entries.len());
    body.extend_from_slice(&sealed);
    body.extend_from_slice(&trailer.encode());
    repository.storage().overwrite(&keys::pack(id), body.into()).unwrap();
}

/// A repository that knows nothing of what was looked up before.
fn anew(repository: &Repository) -> Repository {
    Repository::open(repository.components().clone(), &crate::testing::password()).unwrap()
}

fn read(reader: &SnapshotReader, n: u64) -> Result<Vec<u8>> {
    let chunk = reader.chunk(n)?.expect("no chunk here is zero");
    reader.read_chunk(&chunk).map(crate::Verified::into_inner)
}

#[track_caller]
fn assert_whole(repository: &Repository, snapshot: &Snapshot) {
    let reader = SnapshotReader::open(repository, snapshot).unwrap();
    let (mut read, mut next) = (0, 0);
    while let Some((chunks, then)) = reader.next_chunks(next).unwrap() {
        for fetch in reader.plan(chunks, 1 << 20) {
            let take = |found: &crate::ChunkRef, opened: Result<crate::Verified<Vec<u8>>>| -> Result<()> {
                assert!(opened?.as_ref() == chunk(found.number), "chunk {}", found.number);
                read += 1;
                Ok(())
            };
            reader.read(&fetch, &mut Vec::new(), |chunk| vec![0; chunk.len], take).unwrap();
        }
        next = then;
        assert_eq!(read, next.min(CHUNKS));
    }
    assert_eq!(read, CHUNKS);
}

fn check(repository: &Repository, read_data: bool) -> CheckReport {
    let read_data = read_data.then(ReadData::default);
    repository.check(&CheckOptions { read_data, ..CheckOptions::default() }, &|_, _, _| Ok(())).unwrap()
}

#[test]
fn what_a_repack_moved_is_found() {
    let (_, _, first) = repository();
    let snapshot = backup(&first, "vm", CHUNKS);
    for kind in [PackKind::Data, PackKind::Meta] {
        let old = packs(&first, kind);
        repack(&first, &old);
        remove(&first, &old);
    }
    for memory in [32 << 20, 0] {
        let repository = anew(&first);
        repository.limit_lookups(memory);
        assert_whole(&repository, &snapshot);
        assert_eq!(repository.found_elsewhere(), CHUNKS + 3, "three leaves of the map");
        for read_data in [false, true] {
            let report = check(&repository, read_data);
            assert_eq!(report.damages, [], "{read_data}");
            assert_eq!((report.moved_chunks, report.moved_nodes), (CHUNKS, 3));
            assert_eq!((report.chunks, report.nodes, report.unused_packs), (CHUNKS, 3, 0));
            assert_eq!(report.read_bytes, if read_data { report.data_bytes } else { 0 });
        }
    }
}

#[test]
fn a_segment_in_a_sector_that_cannot_be_read_hides_nothing_and_goes() {
    let (storage, _, first) = repository();
    let snapshot = backup(&first, "vm", CHUNKS);
    let old = packs(&first, PackKind::Data);
    repack(&first, &old);
    remove(&first, &old);
    let segment = first.list(keys::IDX).unwrap().remove(0);
    *storage.unreadable.lock() = Some(segment.clone());
    let repository = anew(&first);
    assert_whole(&repository, &snapshot);
    let report = check(&repository, false);
    assert!(report.damages.iter().all(|damage| damage.object == segment && damage.hits.is_empty()), "{report:?}");
    assert_eq!(repository.rebuild_index(&|_, _| Ok(())).unwrap().damaged.len(), 1);
    assert!(!repository.list(keys::IDX).unwrap().contains(&segment));
    assert!(check(&anew(&first), true).is_clean());
}

#[test]
fn the_copy_of_another_backup_will_do() {
    let (_, _, repository) = repository();
    let one = backup(&repository, "vm", CHUNKS);
    let two = backup(&repository, "copy", CHUNKS);
    // Nodes of the same id in the other one's pack lead to the other one's chunks, which are gone too.
    remove(&repository, &of(&repository, &one, PackKind::Meta));
    remove(&repository, &of(&repository, &two, PackKind::Data));
    for snapshot in [&one, &two] {
        assert_whole(&anew(&repository), snapshot);
    }
    let report = check(&anew(&repository), true);
    assert_eq!(report.damages, []);
    assert_eq!((report.moved_chunks, report.moved_nodes), (CHUNKS, 3));
}

#[test]
fn what_is_nowhere_is_damage_with_its_bytes_and_its_pack() {
    let (_, _, repository) = repository();
    let snapshot = backup(&repository, "vm", CHUNKS);
    let lost = of(&repository, &snapshot, PackKind::Data)[0];
    remove(&repository, &[lost]);
    let reader = SnapshotReader::open(&repository, &snapshot).unwrap();
    let mut failed = 0;
    for n in 0..CHUNKS {
        match read(&reader, n) {
            Ok(bytes) => assert!(bytes == chunk(n)),
            Err(e) => {
                failed += 1;
                let range = format!("bytes {} to {}", n * UNIT as u64, (n + 1) * UNIT as u64 - 1);
                let words = [range, snapshot.id.to_string(), "\"vm\"".into(), keys::pack(&lost).to_string()];
                assert!(words.iter().all(|word| e.to_string().contains(word)), "{words:?} in {e}");
                assert_eq!((e.kind(), e.object()), (ErrorKind::Corrupt, Some(keys::pack(&lost).as_str())));
            }
        }
    }
    assert!(failed > 0 && failed < CHUNKS);
    remove(&repository, &of(&repository, &snapshot, PackKind::Meta));
    let reader = SnapshotReader::open(&repository, &snapshot).unwrap();
    let e = reader.chunk(200).unwrap_err();
    let leaf = 128 * UNIT;
    assert!(e.to_string().contains(&format!("bytes {leaf} to {}", 2 * leaf - 1)), "{e}");
    assert!(e.to_string().contains("meta/") && e.to_string().contains(&snapshot.id.to_string()), "{e}");
    assert_eq!(e.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_damaged_chunk_is_read_elsewhere_and_is_damage_that_hits_nobody() {
    let (storage, _, repository) = repository();
    let one = backup(&repository, "vm", CHUNKS);
    let two = backup(&repository, "copy", CHUNKS);
    let flip = |pack: &PackId| {
        let key = keys::pack(pack);
        let mut bytes = storage.get(&key).unwrap().to_vec();
        bytes[100] ^= 1;
        storage.overwrite(&key, bytes.into()).unwrap();
    };
    // The last chunks are not below the first node.
    let last = of(&repository, &one, PackKind::Data).into_iter().max_by_key(|pack| pack.seq).unwrap();
    let damaged = [last, of(&repository, &one, PackKind::Meta)[0]];
    damaged.iter().for_each(flip);
    assert_whole(&anew(&repository), &one);
    let report = check(&anew(&repository), true);
    let found: Vec<_> = report.damages.iter().map(|d| (d.kind, d.object.clone(), d.hits.len())).collect();
    let want = [(DamageKind::Map, 1), (DamageKind::Pack, 0)].map(|(kind, n)| (kind, keys::pack(&damaged[n]), 0));
    assert_eq!(found, want);
    // The only other copy is damaged as well.
    let (index, ..) = read_index(&*storage, repository.keys(), &damaged[0]).unwrap();
    let id = index.entries[0].id;
    let other = of(&repository, &two, PackKind::Data).into_iter().find(|pack| {
        let (index, ..) = read_index(&*storage, repository.keys(), pack).unwrap();
        index.entries[0].id == id
    });
    flip(&other.expect("both backups fill their packs in the same way"));
    for snapshot in [&one, &two] {
        let reader = SnapshotReader::open(&repository, snapshot).unwrap();
        let lost: Vec<u64> = (0..CHUNKS).filter(|n| read(&reader, *n).is_err()).collect();
        assert_eq!(lost.len(), 1);
        let report = check(&anew(&repository), true);
        let hits: Vec<_> = report.damages.iter().flat_map(|d| &d.hits).filter(|h| h.snapshot == snapshot.id).collect();
        let range = lost[0] * UNIT as u64..(lost[0] + 1) * UNIT as u64;
        assert_eq!((hits.len(), &hits[0].ranges), (1, &vec![range]));
    }
}

/// Its index says what snapshots need that were looked at before.
#[test]
fn a_copy_that_turns_out_to_be_damaged_is_damage_to_whoever_refers_to_it() {
    let (storage, _, repository) = repository();
    let (one, two) = (backup(&repository, "vm", CHUNKS), backup(&repository, "copy", CHUNKS));
    let last = |snapshot: &Snapshot| {
        of(&repository, snapshot, PackKind::Data).into_iter().max_by_key(|pack| pack.seq).unwrap()
    };
    let flip = |pack: &PackId, at: fn(usize) -> usize| {
        let key = keys::pack(pack);
        let mut bytes = storage.get(&key).unwrap().to_vec();
        let at = at(bytes.len());
        bytes[at] ^= 1;
        storage.overwrite(&key, bytes.into()).unwrap();
    };
    flip(&last(&one), |_| 100);
    flip(&last(&two), |_| 100);
    // What is in this one is read whether data are or not, for its index cannot be.
    flip(&last(&two), |len| len - 10);
    let report = check(&anew(&repository), false);
    let mut found: Vec<(crate::Key, Vec<SessionId>)> =
        report.damages.iter().map(|d| (d.object.clone(), d.hits.iter().map(|hit| hit.snapshot).collect())).collect();
    found.sort();
    let mut want = [one, two].map(|snapshot| (keys::pack(&last(&snapshot)), vec![snapshot.id]));
    want.sort();
    assert_eq!(found, want);
}

/// What no damage does, and a mistake of a writer could: copies that say they are what they are not.
#[test]
fn a_copy_counts_only_when_its_seal_and_its_content_fit() {
    let (storage, _, repository) = repository();
    let snapshot = backup(&repository, "vm", 2);
    let old = of(&repository, &snapshot, PackKind::Data)[0];
    let (index, ..) = read_index(&*storage, repository.keys(), &old).unwrap();
    // Properly sealed under the id of chunk 0, with other content.
    let (secrets, pool) = (repository.keys(), PackPool::new(2, 512 << 10));
    let forged = OpenPack::new(PackKind::Data, SessionId::new([5; 16]), 0, secrets, repository.rng(), &pool).unwrap();
    let content = chunk(7);
    let piece = Piece { id: index.entries[0].id, class: 16, codec: Codec::Raw, plain: UNIT as u32, packed: &content };
    let at = forged.reserve(&piece, pool.capacity()).unwrap();
    forged.fill(&at, &piece, &mut Vec::new()).unwrap();
    assert!(forged.close());
    let forged = forged.finish(&pool).unwrap();
    storage.create(&keys::pack(&forged.id), forged.body).unwrap();
    // A repack that mixed up its index: the id of chunk 1 at the bytes of chunk 0.
    let mixed = repack(&repository, &[old]);
    let (mut theirs, ..) = read_index(&*storage, repository.keys(), &mixed).unwrap();
    let body = storage.get(&keys::pack(&mixed)).unwrap();
    let end = theirs.entries.iter().map(|e| e.offset + e.len).max().unwrap();
    (theirs.entries[0].id, theirs.entries[1].id) = (theirs.entries[1].id, theirs.entries[0].id);
    finish(&repository, &mixed, &theirs, body[..end as usize].to_vec());
    remove(&repository, &[old]);
    let reader = SnapshotReader::open(&anew(&repository), &snapshot).unwrap();
    for n in 0..2 {
        let e = read(&reader, n).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    }
    // The right one beside them is taken.
    (theirs.entries[0].id, theirs.entries[1].id) = (theirs.entries[1].id, theirs.entries[0].id);
    finish(&repository, &mixed, &theirs, body[..end as usize].to_vec());
    let reader = SnapshotReader::open(&anew(&repository), &snapshot).unwrap();
    for n in 0..2 {
        assert!(read(&reader, n).unwrap() == chunk(n));
    }
}

#[test]
fn what_moves_later_is_found_and_what_is_lost_is_not_looked_for_again_and_again() {
    let (storage, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", CHUNKS);
    let old = packs(&repository, PackKind::Data);
    let kept: Vec<_> = old.iter().map(|pack| (*pack, storage.get(&keys::pack(pack)).unwrap())).collect();
    remove(&repository, &old);
    let reader = SnapshotReader::open(&repository, &snapshot).unwrap();
    let lookups = |storage: &Watched| storage.lookups.load(Ordering::Relaxed);
    assert!(read(&reader, 0).is_err());
    let before = lookups(&storage);
    (0..CHUNKS).for_each(|n| assert!(read(&reader, n).is_err()));
    assert_eq!(lookups(&storage), before, "for a minute");
    for (pack, body) in &kept {
        storage.create(&keys::pack(pack), body.clone()).unwrap();
    }
    repack(&repository, &old);
    remove(&repository, &old);
    clock.advance(FRESH);
    assert_whole(&repository, &snapshot);
}

/// Both have looked in vain before one of them brings the table up to date.
#[test]
fn two_that_look_at_once_both_find_what_came_since() {
    let (_, clock, repository) = repository();
    let old = of(&repository, &backup(&repository, "vm", 2), PackKind::Data);
    let (index, epoch, _) = read_index(repository.storage(), repository.keys(), &old[0]).unwrap();
    let entry = &index.entries[0];
    let at = index.location(entry, &old[0], epoch).unwrap();
    let not = Location { offset: at.offset + 1, ..at };
    let (elsewhere, id) = (repository.elsewhere(), entry.id.short());
    assert_eq!(elsewhere.find(&repository, &id, entry.class, &not).unwrap().len(), 1);
    let new = repack(&repository, &old);
    clock.advance(FRESH);
    let both = std::sync::Barrier::new(2);
    let look = || {
        elsewhere.first(&repository, &id, entry.class, &not, |copy| {
            if copy.pack == new {
                return Ok(Some(copy.pack));
            }
            both.wait();
            Ok(None)
        })
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(look), scope.spawn(look)];
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap().unwrap(), Some(new)));
    });
}

#[test]
fn what_comes_when_the_table_has_no_room_left_is_found() {
    let (_, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", 2);
    let old = of(&repository, &snapshot, PackKind::Data);
    // Room for one pack of two chunks.
    repository.limit_lookups(2 * ROW * (2 + 6));
    let reader = SnapshotReader::open(&repository, &snapshot).unwrap();
    let id = reader.chunk(0).unwrap().unwrap().id();
    let any =
        Location { pack: PackId { seq: 9, ..old[0] }, epoch: 0, ordinal: 0, offset: 0, len: 0, codec: Codec::Raw };
    assert_eq!(repository.elsewhere().find(&repository, &id, 16, &any).unwrap().len(), 1);
    assert!(!repository.elsewhere().data.table.lock().is_full);
    backup(&repository, "copy", 2);
    remove(&repository, &old);
    clock.advance(FRESH);
    (0..2).for_each(|n| assert!(read(&reader, n).unwrap() == chunk(n)));
    assert!(repository.elsewhere().data.table.lock().is_full);
}

#[test]
fn all_copies_are_found_where_the_table_has_room_for_one() {
    let (storage, _, repository) = repository();
    let snapshots = ["vm", "a", "b"].map(|name| backup(&repository, name, 2));
    let mut all = snapshots.each_ref().map(|snapshot| of(&repository, snapshot, PackKind::Data)[0]);
    // Segments, and so the rows of the table, are read in the order of their names.
    all.sort_unstable_by_key(|pack| pack.session);
    let (index, ..) = read_index(&*storage, repository.keys(), &all[0]).unwrap();
    let id = index.entries[0].id.short();
    let pack = PackId { seq: 9, ..all[0] };
    let not = Location { pack, epoch: 0, ordinal: 0, offset: 0, len: 0, codec: Codec::Raw };
    let room = 2 * ROW * (2 + 6);
    let elsewhere = Elsewhere::new(room);
    let packs = |copies: Vec<Copy>| copies.iter().map(|copy| copy.pack).collect::<Vec<_>>();
    assert_eq!(packs(elsewhere.find(&repository, &id, 16, &not).unwrap()), all[..1]);
    assert!(elsewhere.may_know_more(16));
    let mut found = packs(elsewhere.find_all(&repository, &id, 16, &not).unwrap());
    found.sort_unstable_by_key(|pack| pack.session);
    assert_eq!(found, all);
    // What is intact in the third one alone is damage that hits nobody.
    for pack in &all[..2] {
        let mut bytes = storage.get(&keys::pack(pack)).unwrap().to_vec();
        bytes[100] ^= 1;
        storage.overwrite(&keys::pack(pack), bytes.into()).unwrap();
    }
    let repository = anew(&repository);
    repository.limit_lookups(room);
    let options = CheckOptions { read_data: Some(ReadData::default()), keep: true, ..CheckOptions::default() };
    let report = repository.check(&options, &|_, _, _| Ok(())).unwrap();
    assert_eq!(report.damages.iter().map(|damage| damage.hits.len()).collect::<Vec<_>>(), [0, 0]);
    let checked = repository.checked().unwrap();
    for snapshot in &snapshots {
        let state = checked[&snapshot.id];
        assert!(!state.damaged && state.verified.is_some(), "{state:?}");
    }
}

#[test]
fn where_there_is_no_room_for_all_there_is_for_what_collectors_copied() {
    let (storage, _, first) = repository();
    let snapshot = backup(&first, "vm", CHUNKS);
    let writer = crate::testing::writer(&first, "other");
    let mut scratch = writer.scratch().unwrap();
    for n in 0..2 * CHUNKS {
        writer.put(&mut scratch, n, &chunk(1000 + n)).unwrap();
        writer.advance(n + 1).unwrap();
    }
    writer.commit(crate::CommitInfo { size: 2 * CHUNKS * UNIT as u64, ..Default::default() }).unwrap();
    let old = of(&first, &snapshot, PackKind::Data);
    assert!(old.len() > KEPT, "more than the indexes that are kept");
    let copies: Vec<PackId> = old.iter().enumerate().map(|(n, pack)| repack_as(&first, &[*pack], n as u32)).collect();
    remove(&first, &old);
    crate::session::fence(&first, crate::VolumeId::new([0; 16]), copies[0].session, "a collector's").unwrap();
    let repository = anew(&first);
    let rows = CHUNKS + table::PACK_ROWS as u64 * (copies.len() as u64 + 2);
    repository.limit_lookups(2 * ROW * rows);
    let reader = SnapshotReader::open(&repository, &snapshot).unwrap();
    assert!(read(&reader, 0).unwrap() == chunk(0));
    assert!(repository.elsewhere().data.table.lock().is_full);
    let before = storage.lookups.load(Ordering::Relaxed);
    for n in 1..CHUNKS {
        assert!(read(&reader, n).unwrap() == chunk(n), "chunk {n}");
    }
    // Each copy's own index, and nothing that was walked through for it.
    assert_eq!(storage.lookups.load(Ordering::Relaxed) - before, copies.len() - 1);
}

#[test]
fn without_memory_all_indexes_are_read_once_for_many_chunks_and_hold_for_a_minute() {
    let (storage, clock, first) = repository();
    let snapshot = backup(&first, "vm", CHUNKS);
    backup(&first, "other", 2);
    let old = of(&first, &snapshot, PackKind::Data);
    remove(&first, &old);
    let taken = |work: &dyn Fn()| {
        let before = storage.lookups.load(Ordering::Relaxed);
        work();
        storage.lookups.load(Ordering::Relaxed) - before
    };
    // A check has a table of the repository, or walks once for each batch, and not for each chunk.
    let of_check = |memory| {
        let repository = anew(&first);
        repository.limit_lookups(memory);
        taken(&|| assert_eq!(check(&repository, false).damages.len(), old.len()))
    };
    let (with, without) = (of_check(32 << 20), of_check(0));
    assert!(without < with + 20, "{without} lookups without memory, {with} with it");
    let repository = anew(&first);
    repository.limit_lookups(0);
    let reader = SnapshotReader::open(&repository, &snapshot).unwrap();
    let chunks: Vec<_> = (0..CHUNKS).map(|n| reader.chunk(n).unwrap().unwrap()).collect();
    let plan = reader.plan(chunks, 1 << 20);
    let read_all = || {
        for fetch in &plan {
            let take = |chunk: &crate::ChunkRef, opened: Result<crate::Verified<Vec<u8>>>| -> Result<()> {
                assert_eq!(opened.is_ok(), chunk.number < 2);
                Ok(())
            };
            reader.read(fetch, &mut Vec::new(), |chunk| vec![0; chunk.len], take).unwrap();
        }
    };
    let first_time = taken(&read_all);
    assert!(first_time <= plan.len() * (packs(&repository, PackKind::Data).len() + 3), "{first_time}");
    assert_eq!(taken(&read_all), 0, "for a minute");
    clock.advance(FRESH);
    assert!(taken(&read_all) > 0);
}

/// The index of a pack that is gone is still in memory.
#[test]
fn what_is_lost_once_more_is_looked_for_once_more() {
    let (_, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", CHUNKS);
    for name in ["one", "two", "three"] {
        let copy = backup(&repository, name, CHUNKS);
        let old =
            |kind| packs(&repository, kind).into_iter().filter(|pack| pack.session != copy.id).collect::<Vec<_>>();
        [PackKind::Data, PackKind::Meta].into_iter().for_each(|kind| remove(&repository, &old(kind)));
        clock.advance(FRESH);
        assert_whole(&repository, &snapshot);
    }
}

/// A collector that waits for nobody moves it twice before the table is due.
#[test]
fn what_is_lost_again_within_the_minute_is_found_at_once_and_without_a_look_for_each_chunk() {
    let (storage, _, repository) = repository();
    let snapshot = backup(&repository, "vm", CHUNKS);
    let reader = SnapshotReader::open(&repository, &snapshot).unwrap();
    backup(&repository, "one", CHUNKS);
    let lose = |name: &str| {
        let copy = backup(&repository, name, CHUNKS);
        let old = |kind| packs(&repository, kind).into_iter().filter(|p| p.session != copy.id).collect::<Vec<_>>();
        [PackKind::Data, PackKind::Meta].into_iter().for_each(|kind| remove(&repository, &old(kind)));
    };
    remove(&repository, &of(&repository, &snapshot, PackKind::Data)[..1]);
    (0..CHUNKS).for_each(|n| assert!(read(&reader, n).unwrap() == chunk(n)));
    lose("two");
    (0..CHUNKS).for_each(|n| assert!(read(&reader, n).unwrap() == chunk(n)));
    // When all is lost one look says so, within the same minute.
    [PackKind::Data, PackKind::Meta].into_iter().for_each(|kind| remove(&repository, &packs(&repository, kind)));
    let before = storage.lookups.load(Ordering::Relaxed);
    (0..CHUNKS).for_each(|n| assert!(read(&reader, n).is_err()));
    let taken = storage.lookups.load(Ordering::Relaxed) - before;
    assert!(taken < 20, "{taken}");
}

/// What was moved a moment ago is moved once more, and where it was then is deleted: no loss to a reader, nor to a check, whether or
/// not there is room for a table.
#[test]
fn what_is_moved_twice_in_a_moment_is_not_lost() {
    for room in [0, 32 << 20] {
        let (storage, _, repository) = repository();
        let snapshot = backup(&repository, "vm", CHUNKS);
        let first = of(&repository, &snapshot, PackKind::Data);
        let copies: Vec<PackId> = (0..3).map(|n| repack_as(&repository, &first, n)).collect();
        let bodies: Vec<_> = copies.iter().map(|copy| storage.get(&keys::pack(copy)).unwrap()).collect();
        remove(&repository, &copies[1..]);
        remove(&repository, &first);
        repository.limit_lookups(room);
        let reader = SnapshotReader::open(&repository, &snapshot).unwrap();
        assert_eq!(read(&reader, 7).unwrap(), chunk(7));
        let check = || repository.check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap();
        let report = check();
        assert!(report.is_clean() && report.moved_chunks == CHUNKS, "{room}: {report:?}");
        storage.create(&keys::pack(&copies[1]), bodies[1].clone()).unwrap();
        remove(&repository, &copies[..1]);
        let report = check();
        assert!(report.is_clean() && report.moved_chunks == CHUNKS, "{room}: {:?}", report.damages);
        // And once more, for a reader.
        storage.create(&keys::pack(&copies[2]), bodies[2].clone()).unwrap();
        remove(&repository, &copies[1..2]);
        assert_eq!(read(&reader, 7).unwrap(), chunk(7), "{room}");
    }
}
