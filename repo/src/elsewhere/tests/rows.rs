//! Packs whose own index cannot be read, and whose chunks are where a segment says.

use super::*;

/// One byte of a pack is another one.
fn flip(repository: &Repository, pack: &PackId, at: impl Fn(usize) -> usize) {
    let key = keys::pack(pack);
    let mut bytes = repository.storage().get(&key).unwrap().to_vec();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    repository.storage().overwrite(&key, bytes.into()).unwrap();
}

/// Two backups of the same. The chunks of the first one are gone, and the packs of the second one do not say what is in them.
fn spoilt() -> (Repository, [Snapshot; 2]) {
    let (_, _, repository) = repository();
    let made = ["vm", "copy"].map(|name| backup(&repository, name, CHUNKS));
    remove(&repository, &of(&repository, &made[0], PackKind::Data));
    let left = packs(&repository, PackKind::Data);
    left.iter().for_each(|pack| flip(&repository, pack, |len| len - 10));
    (repository, made)
}

fn named(report: &CheckReport) -> Vec<(crate::Key, Vec<SessionId>)> {
    report.damages.iter().map(|d| (d.object.clone(), d.hits.iter().map(|hit| hit.snapshot).collect())).collect()
}

#[test]
fn a_segment_says_where_the_chunks_are() {
    let (first, made) = spoilt();
    let left = packs(&first, PackKind::Data);
    for memory in [32 << 20, 0] {
        for snapshot in &made {
            let repository = anew(&first);
            repository.limit_lookups(memory);
            assert_whole(&repository, snapshot);
        }
        for read_data in [false, true] {
            let repository = anew(&first);
            repository.limit_lookups(memory);
            let report = check(&repository, read_data);
            let want: Vec<_> = left.iter().map(|pack| (keys::pack(pack), vec![])).collect();
            assert_eq!(named(&report), want, "memory {memory}, data {read_data}");
            assert!(report.damages.iter().all(|damage| damage.advice().contains("nothing is lost")), "{report:?}");
            assert_eq!((report.moved_chunks, report.unused_packs), (CHUNKS, 0));
        }
    }
}

/// A header says under which key epoch a pack is sealed, and so do rows.
#[test]
fn the_header_may_be_damaged_too() {
    let (first, made) = spoilt();
    packs(&first, PackKind::Data).iter().for_each(|pack| flip(&first, pack, |_| 8));
    made.iter().for_each(|snapshot| assert_whole(&anew(&first), snapshot));
}

/// Nobody believes it: what is there is opened.
#[test]
fn a_chunk_that_is_damaged_there_is_lost() {
    let (first, made) = spoilt();
    let pack = packs(&first, PackKind::Data)[0];
    flip(&first, &pack, |_| 100);
    for read_data in [false, true] {
        let report = check(&anew(&first), read_data);
        let (hit, rest): (Vec<_>, Vec<_>) = named(&report).into_iter().partition(|(_, hits)| !hits.is_empty());
        let mut ids = made.each_ref().map(|snapshot| snapshot.id);
        ids.sort();
        let [(object, mut hits)] = <[_; 1]>::try_from(hit).unwrap();
        hits.sort();
        assert_eq!((object, &hits[..]), (keys::pack(&pack), &ids[..]), "{report:?}");
        assert_eq!(rest.len() + 1, packs(&first, PackKind::Data).len());
        assert!(report.damages.iter().flat_map(|d| &d.hits).all(|hit| hit.bytes == UNIT as u64), "{report:?}");
    }
}

/// Which segment it was is remembered, and looked for again where it has gone.
#[test]
fn a_segment_may_be_put_together_with_others_meanwhile() {
    let (first, made) = spoilt();
    let reader = SnapshotReader::open(&first, &made[0]).unwrap();
    assert!(read(&reader, 0).unwrap() == chunk(0));
    let segments = first.list(keys::IDX).unwrap();
    let rows: Vec<_> = segments.iter().flat_map(|key| table::rows_in(&first, key).unwrap()).collect();
    let key = keys::segment(&SessionId::new([9; 16]), 0);
    let body = crate::format::segment::encode(&rows);
    let sealed = first.keys().seal_record(crate::format::records::Kind::Segment, &key, &body).unwrap();
    first.storage().create(&key, sealed.into()).unwrap();
    segments.iter().for_each(|key| first.storage().delete(key).unwrap());
    first.elsewhere().recent.lock().clear();
    assert_whole(&first, &made[0]);
}

#[test]
fn what_no_segment_names_nobody_can_tell() {
    let (first, made) = spoilt();
    first.list(keys::IDX).unwrap().iter().for_each(|key| first.storage().delete(key).unwrap());
    let repository = anew(&first);
    let reader = SnapshotReader::open(&repository, &made[0]).unwrap();
    assert_eq!(read(&reader, 0).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_whole(&repository, &made[1]);
    let (mut unknown, mut left) = (repository.elsewhere().unknown(), packs(&first, PackKind::Data));
    unknown.sort_unstable();
    left.sort_unstable();
    assert_eq!(unknown, left);
    let report = check(&anew(&first), false);
    assert!(report.damages.iter().any(|damage| damage.missing && !damage.hits.is_empty()), "{report:?}");
}
