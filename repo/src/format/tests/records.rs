//! Records: the frame, the seal, the bodies.

use super::*;
use crate::Timestamp;
use crate::crypto::Secret;
use crate::format::checked::*;
use crate::format::records::*;
use crate::id::{RepositoryId, VolumeId};
use crate::storage::{Key, keys};

fn time() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp)
}

fn session() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId::new)
}

fn open() -> impl Strategy<Value = SessionOpen> {
    let process = (any::<String>(), any::<String>(), any::<u32>(), any::<u64>())
        .prop_map(|(host, boot, pid, start)| Process { host, boot, pid, start });
    let adopts = proptest::collection::vec(session(), 0..4);
    let rest = (proptest::option::of(session()), adopts, process, time(), any::<[u8; 16]>());
    (any::<bool>(), any::<[u8; 16]>(), any::<String>(), rest).prop_map(|(read, volume, name, rest)| SessionOpen {
        kind: if read { SessionKind::Read } else { SessionKind::Write },
        volume: VolumeId::new(volume),
        name,
        parent: rest.0,
        adopts: rest.1,
        process: rest.2,
        started: rest.3,
        nonce: rest.4,
    })
}

fn snapshot() -> impl Strategy<Value = SnapshotRecord> {
    let stats = any::<[u64; 8]>().prop_map(|[read, hole, zero, unchanged, known, new, stored, metadata]| Stats {
        read,
        hole,
        zero,
        unchanged,
        known,
        new,
        stored,
        metadata,
    });
    let tags = proptest::collection::btree_map(any::<String>(), any::<String>(), 0..3);
    let texts = proptest::collection::vec(any::<String>(), 6);
    let shape = (any::<u64>(), any::<u8>(), any::<u8>(), chunk_id(), proptest::collection::vec(any::<u8>(), 0..99));
    let rest = (any::<u64>(), proptest::option::of(session()), tags, (time(), time()), any::<[bool; 2]>());
    (texts, shape, rest, stats, any::<[u8; 16]>()).prop_map(|(texts, shape, rest, stats, nonce)| SnapshotRecord {
        name: texts[0].clone(),
        size: shape.0,
        class: shape.1,
        levels: shape.2,
        root: shape.3,
        top: shape.4,
        chunks: rest.0,
        parent: rest.1,
        tags: rest.2,
        started: rest.3.0,
        ended: rest.3.1,
        host: texts[1].clone(),
        source: texts[2].clone(),
        run: texts[3].clone(),
        engine: texts[4].clone(),
        partial: rest.4[0],
        resumed: rest.4[1],
        stats,
        version: texts[5].clone(),
        nonce,
        tree: None,
        origin: None,
    })
}

fn tree() -> impl Strategy<Value = TreeInfo> {
    let missing = (proptest::collection::vec(any::<u8>(), 0..20), 1..u32::MAX)
        .prop_map(|(path, errno)| MissingPath { path, errno });
    let lists = (
        proptest::collection::vec(missing, 0..4),
        proptest::collection::vec(any::<String>(), 0..3),
        proptest::collection::vec(any::<[u8; 16]>().prop_map(ShortId::new), 0..4),
    );
    (any::<[u64; 5]>(), any::<String>(), lists).prop_map(|(n, filesystem, (first_missing, excluded, thin))| TreeInfo {
        files: n[0],
        folders: n[1],
        others: n[2],
        missing: n[3],
        first_missing,
        unsettled: n[4],
        filesystem,
        excluded,
        thin,
    })
}

/// That of a volume, or of a tree.
fn any_snapshot() -> impl Strategy<Value = SnapshotRecord> {
    (snapshot(), proptest::option::of(tree())).prop_map(|(record, tree)| match tree {
        None => record,
        tree => SnapshotRecord { class: 0, levels: 0, chunks: 0, tree, ..record },
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let fence = (any::<String>(), time(), any::<[u8; 16]>())
        .prop_map(|(reason, at, nonce)| Outcome::Fence(Fence { reason, at, nonce }));
    prop_oneof![fence, any_snapshot().prop_map(|s| Outcome::Snapshot(Box::new(s)))]
}

fn asked() -> impl Strategy<Value = Asked> {
    (time(), time(), any::<String>(), any::<[u8; 16]>()).prop_map(|(at, not_before, reason, nonce)| Asked {
        at,
        not_before,
        reason,
        nonce,
    })
}

fn settled() -> impl Strategy<Value = Settled> {
    (any::<bool>(), time(), any::<[u8; 16]>()).prop_map(|(last, at, nonce)| Settled {
        verdict: if last { Verdict::Final } else { Verdict::Undone },
        at,
        nonce,
    })
}

fn generation() -> impl Strategy<Value = Generation> {
    let packs = proptest::collection::vec(pack_id(), 0..4);
    let sessions = || proptest::collection::vec(session(), 0..4);
    let places = proptest::collection::vec(any::<u8>(), 0..4);
    (packs, sessions(), sessions(), any::<[u8; 16]>(), places).prop_map(
        |(condemned, roots, dead, nonce, mut places)| {
            places.push(1);
            let mut packs: Vec<PackId> = condemned.iter().copied().step_by(2).collect();
            packs.sort_unstable();
            packs.dedup();
            let moved = packs.into_iter().map(|pack| Moved { pack, places: places.clone() }).collect();
            Generation { condemned, roots, dead, nonce, moved }
        },
    )
}

fn sweep() -> impl Strategy<Value = Sweep> {
    (proptest::collection::vec(pack_id(), 0..4), any::<[u8; 16]>()).prop_map(|(packs, nonce)| Sweep { packs, nonce })
}

fn readings() -> impl Strategy<Value = Readings> {
    let packs = || proptest::collection::vec(pack_id(), 0..4);
    let group = (time(), packs(), packs()).prop_map(|(at, intact, damaged)| ReadTogether { at, intact, damaged });
    proptest::collection::vec(group, 0..3).prop_map(|groups| Readings { groups })
}

fn seen() -> impl Strategy<Value = Seen> {
    let volume = proptest::option::of(any::<[u8; 16]>().prop_map(VolumeId::new));
    (any::<u32>(), volume).prop_map(|(generation, volume)| Seen { generation, volume })
}

fn states() -> impl Strategy<Value = States> {
    let one = (session(), time(), proptest::option::of(time()), any::<bool>());
    let one = one.prop_map(|(snapshot, said, verified, damaged)| Checked {
        snapshot,
        said,
        verified,
        damaged: damaged && verified.is_none(),
    });
    proptest::collection::vec(one, 0..4).prop_map(|snapshots| States { snapshots })
}

const KEY: Secret = Secret::new([7; 32]);
const REPOSITORY: RepositoryId = RepositoryId::new([8; 16]);

fn place() -> Key {
    keys::snap(&VolumeId::new([1; 16]), &SessionId::new([2; 16]))
}

/// A whole object.
fn sealed<T: Record>(record: &T) -> Vec<u8> {
    super::super::records::seal(&KEY, T::KIND, &REPOSITORY, &place(), &encode(record).unwrap()).unwrap()
}

fn opened<T: Record>(bytes: &[u8]) -> Result<T> {
    decode(&super::super::records::open(&KEY, T::KIND, &REPOSITORY, &place(), bytes)?)
}

fn come_back<T: Record + PartialEq + Debug + Clone>(strategy: impl Strategy<Value = T>) {
    for record in samples(strategy, 200) {
        assert_eq!(decode::<T>(&encode(&record).unwrap()).unwrap(), record);
        assert_eq!(opened::<T>(&sealed(&record)).unwrap(), record);
    }
}

#[test]
fn records_come_back() {
    come_back(open());
    come_back(seen());
    come_back(time().prop_map(|at| Beat { at }));
    come_back(outcome());
    come_back(asked());
    come_back(settled());
    come_back(generation());
    come_back(sweep());
    come_back(readings());
    come_back(states());
}

fn changes_are_found<T: Record + Debug>(strategy: impl Strategy<Value = T>) {
    // Short ones: each of thousands of changes is opened.
    for record in samples(strategy, 40).into_iter().filter(|record| encode(record).unwrap().len() < 700).take(3) {
        assert_every_change_is_corrupt(&sealed(&record), opened::<T>);
    }
}

#[test]
fn every_change_of_a_sealed_record_is_found() {
    changes_are_found(open());
    changes_are_found(seen());
    changes_are_found(time().prop_map(|at| Beat { at }));
    changes_are_found(outcome());
    changes_are_found(asked());
    changes_are_found(settled());
    changes_are_found(generation());
    changes_are_found(sweep());
    changes_are_found(readings());
    changes_are_found(states());
}

#[test]
fn a_record_opens_as_what_it_is_where_it_belongs_and_nowhere_else() {
    let bytes = sealed(&samples(asked(), 1)[0]);
    let open = super::super::records::open;
    assert!(open(&KEY, Kind::Asked, &REPOSITORY, &place(), &bytes).is_ok());
    let other = keys::snap(&VolumeId::new([1; 16]), &SessionId::new([3; 16]));
    for (key, kind, repository, place) in [
        (Secret::new([6; 32]), Kind::Asked, REPOSITORY, place()),
        (KEY, Kind::Settled, REPOSITORY, place()),
        (KEY, Kind::Asked, RepositoryId::new([9; 16]), place()),
        (KEY, Kind::Asked, REPOSITORY, other),
    ] {
        let e = open(&key, kind, &repository, &place, &bytes).unwrap_err();
        assert_eq!((e.kind(), e.object()), (ErrorKind::Corrupt, Some(place.as_str())), "{kind:?}");
    }
    // The kind in the clear head is not what is believed.
    let mut relabelled = bytes.clone();
    relabelled[8] = Kind::Settled as u8;
    assert!(open(&KEY, Kind::Settled, &REPOSITORY, &place(), &relabelled).is_err());
}

#[test]
fn unknown_fields_are_skipped_and_missing_ones_are_damage() {
    // {0: 7, 99: [[[...]]], 100: "x"} is a Seen of some later version.
    let depth = 200;
    let mut body = vec![0xa3, 0x00, 0x07, 0x18, 99];
    body.extend(std::iter::repeat_n(0x81, depth));
    body.extend_from_slice(&[0x00, 0x18, 100, 0x61, b'x']);
    assert_eq!(decode::<Seen>(&body).unwrap(), Seen { generation: 7, volume: None });
    // What earlier builds wrote, and what this one writes.
    assert_eq!(decode::<Seen>(&[0xa1, 0x00, 0x07]).unwrap(), Seen { generation: 7, volume: None });
    let mut now = vec![0xa2, 0x00, 0x07, 0x01, 0x50];
    now.extend([9; 16]);
    assert_eq!(encode(&Seen { generation: 7, volume: Some(VolumeId::new([9; 16])) }).unwrap(), now);
    assert_eq!(decode::<Seen>(&[0xa0]).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(decode::<Seen>(&[]).unwrap_err().kind(), ErrorKind::Corrupt);
    body.push(0);
    assert_eq!(decode::<Seen>(&body).unwrap_err().kind(), ErrorKind::Corrupt, "bytes follow its end");
}

#[test]
fn absurd_lengths_and_depths_are_refused_before_anything_is_taken_for_them() {
    let huge = [0xff; 8];
    // Bytes, text, array and map of 2^64 - 1 elements, alone and as the first field of a map.
    for major in [0x5b, 0x7b, 0x9b, 0xbb] {
        for head in [&[][..], &[0xa1, 0x00], &[0xa1, 0x04], &[0xa1, 0x08]] {
            let body = [head, &[major], &huge].concat();
            assert_eq!(decode::<SessionOpen>(&body).unwrap_err().kind(), ErrorKind::Corrupt);
            assert_eq!(decode::<Outcome>(&body).unwrap_err().kind(), ErrorKind::Corrupt);
            assert_eq!(decode::<Generation>(&body).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
    // Nested a million times, in a field that is skipped.
    let mut deep = vec![0xa1, 0x18, 99];
    deep.extend(std::iter::repeat_n(0x81, 1 << 20));
    assert_eq!(decode::<Seen>(&deep).unwrap_err().kind(), ErrorKind::Corrupt);
}

fn bodies_survive<T: Record>(strategy: impl Strategy<Value = T>) {
    let valid: Vec<_> = samples(strategy, 4).iter().map(|record| encode(record).unwrap()).collect();
    // CBOR spells some things in several ways, and unknown fields go: what is accepted comes back as itself once more.
    assert_garbage_is_survived(&valid, decode::<T>, |record, _| {
        let bytes = encode(record).unwrap();
        assert_eq!(encode(&decode::<T>(&bytes).unwrap()).unwrap(), bytes);
    });
}

#[test]
fn garbage_is_survived() {
    bodies_survive(open());
    bodies_survive(seen());
    bodies_survive(time().prop_map(|at| Beat { at }));
    bodies_survive(outcome());
    bodies_survive(asked());
    bodies_survive(settled());
    bodies_survive(generation());
    bodies_survive(sweep());
    bodies_survive(readings());
    bodies_survive(states());
    let valid: Vec<_> = samples(asked(), 3).iter().map(sealed).collect();
    let open = |bytes: &[u8]| super::super::records::open(&KEY, Kind::Asked, &REPOSITORY, &place(), bytes);
    let accepted = assert_garbage_is_survived(&valid, open, |_, bytes| assert!(valid.iter().any(|v| v == bytes)));
    assert!(accepted > 0, "some are left as they were");
}

/// What older versions wrote and read: field 20 is there for a tree alone.
#[test]
fn a_record_without_a_tree_is_encoded_as_before_there_were_any() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..100 {
        let record = snapshot().new_tree(&mut runner).unwrap().current();
        let fields = |record: SnapshotRecord| {
            let body = encode(&Outcome::Snapshot(Box::new(record))).unwrap();
            let mut decoder = minicbor::Decoder::new(&body);
            // Outcome: its number and a row of one.
            decoder.array().unwrap();
            decoder.u32().unwrap();
            decoder.array().unwrap();
            decoder.map().unwrap().unwrap()
        };
        let old = 19 + u64::from(record.parent.is_some());
        assert_eq!(fields(record.clone()), old);
        let tree = SnapshotRecord { class: 0, levels: 0, chunks: 0, tree: Some(TreeInfo::default()), ..record };
        assert_eq!(fields(tree), old + 1);
    }
}

#[test]
fn a_tree_says_no_more_than_it_may() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let record = snapshot().new_tree(&mut runner).unwrap().current();
    let record = SnapshotRecord { class: 0, levels: 0, chunks: 0, tree: Some(TreeInfo::default()), ..record };
    let missing = |path: usize, errno| MissingPath { path: vec![b'a'; path], errno };
    let changes: [fn(&mut SnapshotRecord, &mut TreeInfo, &dyn Fn(usize, u32) -> MissingPath); 8] = [
        |record, _, _| record.class = 16,
        |record, _, _| record.levels = 1,
        |record, _, _| record.chunks = 1,
        |_, tree, missing| tree.first_missing = vec![missing(1, 5); TreeInfo::MOST_MISSING + 1],
        |_, tree, missing| tree.first_missing = vec![missing(TreeInfo::MOST_BYTES / 2, 5), missing(40_000, 5)],
        |_, tree, missing| tree.first_missing = vec![missing(1, 0)],
        |_, tree, _| tree.excluded = vec!["a".repeat(TreeInfo::MOST_BYTES + 1)],
        |_, tree, _| tree.thin = vec![ShortId::new([1; 16]); TreeInfo::MOST_THIN + 1],
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let (mut record, mut tree) = (record.clone(), TreeInfo::default());
        change(&mut record, &mut tree, &missing);
        record.tree = Some(tree);
        let outcome = Outcome::Snapshot(Box::new(record));
        assert_eq!(encode(&outcome).unwrap_err().kind(), ErrorKind::Internal, "{n}");
        let body = minicbor::to_vec(&outcome).unwrap();
        assert_eq!(decode::<Outcome>(&body).unwrap_err().kind(), ErrorKind::Corrupt, "{n}");
    }
}

#[test]
fn what_was_moved_is_of_condemned_packs_each_once_and_says_which() {
    let pack = |n: u64| PackId { kind: PackKind::Data, session: SessionId::new([1; 16]), seq: n as u32, random: n };
    let moved = |n: u64, places: &[u8]| Moved { pack: pack(n), places: places.to_vec() };
    let list = |moved: Vec<Moved>| Generation { condemned: vec![pack(2), pack(1)], moved, ..Generation::default() };
    let fine = list(vec![moved(1, &[0, 0b10]), moved(2, &[1])]);
    assert_eq!(decode::<Generation>(&encode(&fine).unwrap()).unwrap(), fine);
    let places = (0..20).filter(|place| fine.moved[0].holds(*place)).collect::<Vec<_>>();
    assert_eq!(places, [9]);
    // As earlier builds wrote it.
    let body = minicbor::to_vec(&fine).unwrap();
    assert_eq!(body[0], 0xa5, "a map of five");
    let at = minicbor::to_vec(&Generation { moved: Vec::new(), ..fine.clone() }).unwrap().len() - 2;
    let old = [&[0xa4], &body[1..at]].concat();
    assert_eq!(decode::<Generation>(&old).unwrap(), Generation { moved: Vec::new(), ..fine });
    for bad in [
        vec![moved(3, &[1])],
        vec![moved(2, &[1]), moved(1, &[1])],
        vec![moved(1, &[1]), moved(1, &[1])],
        vec![moved(1, &[])],
        vec![moved(1, &[1, 0])],
    ] {
        assert_eq!(encode(&list(bad.clone())).unwrap_err().kind(), ErrorKind::Internal, "{bad:?}");
        let body = minicbor::to_vec(list(bad.clone())).unwrap();
        assert_eq!(decode::<Generation>(&body).unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
    }
}

#[test]
fn records_of_checks_say_no_more_than_they_may() {
    let (at, pack) = (Timestamp(7), samples(pack_id(), 1)[0]);
    let of = |count| Readings { groups: vec![ReadTogether { at, intact: vec![pack; count], damaged: vec![pack] }] };
    assert!(decode::<Readings>(&encode(&of(Readings::MOST - 1)).unwrap()).is_ok());
    let long = minicbor::to_vec(of(Readings::MOST)).unwrap();
    assert_eq!(decode::<Readings>(&long).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(encode(&of(Readings::MOST)).unwrap_err().kind(), ErrorKind::Internal);
    let both = Checked { snapshot: SessionId::new([1; 16]), said: at, verified: Some(at), damaged: true };
    let both = minicbor::to_vec(States { snapshots: vec![both] }).unwrap();
    assert_eq!(decode::<States>(&both).unwrap_err().kind(), ErrorKind::Corrupt);
}
