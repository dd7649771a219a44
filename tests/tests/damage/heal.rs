//! What a pack has lost is taken from another repository that has the same: and nothing else is, and nothing counts as healed
//! before it was read back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wherry_repo::heal::{admit, candidates, node_candidates};
use wherry_repo::storage::{Memory, Storage};
use wherry_repo::{
    CheckOptions, CheckReport, CollectOptions, Components, CopyOptions, Error, ErrorKind, Heal, HealOptions,
    InitOptions, Key, NodeHeal, PackKind, ReadData, ReadSession, Repository, Result, Snapshot, SnapshotCopy,
    SnapshotId, Wanted, storage::keys,
};
use wherry_tests::made_trees::{Made, Node, Part, backup_tree, made_up};
use wherry_tests::meddling::{Call, Fate, Meddling};
use wherry_tests::recording::{CUTS, Cutting};
use wherry_tests::small::*;

/// One repository and all that is to be in it.
struct World {
    storage: Arc<Memory>,
    clock: Arc<TestClock>,
    disks: BTreeMap<SnapshotId, Vec<u8>>,
}

fn with(storage: Arc<dyn Storage>, clock: &Arc<TestClock>) -> Components {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let seed = SEED.fetch_add(1, Ordering::Relaxed) << 24;
    Components { storage, clock: clock.clone(), rng: Arc::new(TestRng::new(seed)) }
}

impl World {
    fn new(chunk_size: usize) -> Self {
        let clock = Arc::new(TestClock::default());
        let storage = Arc::new(Memory::new(clock.clone()));
        let mut options = InitOptions::default();
        (options.chunk_size, options.password_cost) = (chunk_size as u32, CHEAP);
        Repository::init(with(storage.clone(), &clock), &options, &password()).unwrap();
        Self { storage, clock, disks: BTreeMap::new() }
    }

    /// As a new process sees it.
    fn open(&self) -> Repository {
        self.over(self.storage.clone())
    }

    fn over(&self, storage: Arc<dyn Storage>) -> Repository {
        Repository::open(with(storage, &self.clock), &password()).unwrap()
    }

    fn backup(&mut self, name: &str, disk: &[u8]) -> Snapshot {
        let snapshot = backup(&self.open(), name, disk).unwrap();
        self.disks.insert(snapshot.id, disk.to_vec());
        snapshot
    }

    /// The same objects in another place.
    fn twin(&self) -> Self {
        let storage = Arc::new(Memory::new(self.clock.clone()));
        for key in keys_of(&*self.storage) {
            storage.create(&key, self.storage.get(&key).unwrap()).unwrap();
        }
        Self { storage, clock: self.clock.clone(), disks: self.disks.clone() }
    }

    fn packs(&self, kind: PackKind) -> Vec<Key> {
        let is = |key: &Key| keys::parse_pack(key).is_some_and(|id| id.kind == kind);
        keys_of(&*self.storage).into_iter().filter(is).collect()
    }

    fn spoil(&self, key: &Key, at: usize) {
        spoil(&self.storage, key, at);
    }

    /// Copies every snapshot into another one.
    fn copy_into(&self, other: &Self) {
        let (mine, theirs) = (self.open(), other.open());
        for snapshot in mine.snapshots(None).unwrap().snapshots {
            let list = |of: &Repository| of.snapshots(None).unwrap();
            let plan = wherry_repo::CopyPlan::new(&mine, list(&mine), &theirs, &list(&theirs)).unwrap();
            let session = Arc::new(ReadSession::open(&mine, &snapshot).unwrap());
            let copy = SnapshotCopy::start(session, &theirs, index(), None, &copying()).unwrap();
            copy.run(&plan, &|_| Ok(())).unwrap();
        }
    }

    /// No snapshot is hit, each disk is what it was, and a collector changes nothing about that.
    #[track_caller]
    fn is_whole(&self, what: &str) {
        for again in [false, true] {
            let report = check(&self.open());
            let hit: Vec<_> = report.damages.iter().filter(|d| !d.hits.is_empty()).collect();
            assert!(hit.is_empty(), "{what}, collected {again}: {hit:?}");
            let list = self.open().snapshots(None).unwrap();
            for (id, disk) in &self.disks {
                let snapshot = list.snapshots.iter().find(|s| s.id == *id).unwrap();
                assert!(restore(&self.open(), snapshot).unwrap() == *disk, "{what}, collected {again}");
            }
            let said = self.open().checked().unwrap();
            assert!(said.values().all(|state| !state.damaged && state.verified.is_some()), "{what}: {said:?}");
            self.gc();
        }
    }

    fn gc(&self) {
        let zero = Duration::ZERO;
        let options = CollectOptions { grace: zero, fence_after: zero, patience: zero, ..CollectOptions::default() };
        self.open().collect(&options, &|_, _, _| Ok(())).unwrap();
    }
}

fn spoil(storage: &Memory, key: &Key, at: usize) {
    let Ok(body) = storage.get(key) else { return };
    let mut body = body.to_vec();
    let at = at.min(body.len() - 1);
    body[at] ^= 1;
    storage.overwrite(key, body.into()).unwrap();
}

fn copying() -> CopyOptions {
    CopyOptions { writer: options(""), threads: 2, fetch: 256 << 10, run: "run".into() }
}

fn look(repository: &Repository, share: f64) -> Result<(CheckReport, Wanted)> {
    let read_data = Some(ReadData { share, max_age: None });
    let options = CheckOptions { read_data, threads: 2, keep: true, ..CheckOptions::default() };
    repository.find_wanted(&options, &|_, _, _| Ok(()))
}

fn check(repository: &Repository) -> CheckReport {
    look(repository, 1.0).unwrap().0
}

/// What `wherry repair --from` does, but for what it says. Gives the chunks that were taken, and what is wanted then.
fn heal(mine: &Repository, theirs: &Repository, all: bool) -> Result<(u64, Wanted)> {
    let (report, mut wanted) = look(mine, 1.0)?;
    admit(mine, &report)?;
    let listed = theirs.snapshots(None)?;
    if wanted.nodes() > 0 {
        for candidate in node_candidates(mine, &wanted, theirs, &listed, 3) {
            let session = Arc::new(ReadSession::open(theirs, &candidate.snapshot)?);
            let copy = match SnapshotCopy::start(session, mine, index(), None, &copying()) {
                Err(e) if e.kind() == ErrorKind::Corrupt => continue,
                copy => copy?,
            };
            NodeHeal::new(mine, copy).run(&|_| Ok(()))?;
            if wanted.missing_nodes(mine)? == 0 {
                break;
            }
        }
        wanted = look(mine, 1.0)?.1;
    }
    let options = HealOptions { copy: copying(), dry_run: false };
    let healing = Heal::start(mine, &wanted, &options)?;
    let found = candidates(mine, &wanted, theirs, &listed, all);
    let taken = found.iter().try_for_each(|candidate| {
        let session = Arc::new(ReadSession::open(theirs, &candidate.snapshot)?);
        healing.take_from(session, all, &|_| Ok(())).map(drop)
    });
    let healed = healing.finish(&|_| Ok(()));
    taken?;
    Ok((healed?.chunks, look(mine, 1.0)?.1))
}

/// Two versions of a disk whose map has two levels, and one of zeros.
fn disks() -> [Vec<u8>; 3] {
    let mut first = vec![0; 140 * UNIT + 1234];
    for n in [0, 1, 2, 3, 7, 129, 130, 131, 139] {
        first[n * UNIT..][..UNIT].copy_from_slice(&noise(n as u64, UNIT));
    }
    first[140 * UNIT..].fill(7);
    let mut second = first.clone();
    second[130 * UNIT] ^= 1;
    [first, second, vec![0; 3 * UNIT]]
}

/// With a list of pieces, a disk image and attributes that are a chunk.
fn tree() -> Node {
    let mut root = made_up(5, 60);
    let Made::Folder { nodes, .. } = &mut root.what else { panic!("the root is a directory") };
    let mut long = Node::file(b"aa long", noise(5, 2 << 20));
    long.set.0 = vec![(b"user.long".to_vec(), noise(6, 5000))];
    let image = Node::plain(b"ab image", Made::Image(vec![Part { is_hole: false, bytes: noise(8, 17 * UNIT + 99) }]));
    nodes.extend([long, image]);
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.dedup_by(|a, b| a.name == b.name);
    root
}

/// Disks and a tree, and a copy of all of it.
fn pair() -> (World, World) {
    let (mut mine, theirs) = (World::new(UNIT), World::new(UNIT));
    disks().iter().for_each(|disk| drop(mine.backup("vm", disk)));
    backup_tree(&mine.open(), "home", &tree()).unwrap();
    mine.copy_into(&theirs);
    (mine, theirs)
}

#[test]
fn each_pack_that_is_lost_cut_or_damaged_is_healed_from_a_copy_and_stays_so() {
    let (whole, theirs) = pair();
    let (mut chunks, mut nodes) = (0, 0);
    for key in [PackKind::Data, PackKind::Meta].iter().flat_map(|kind| whole.packs(*kind)) {
        for how in ["gone", "cut", "flipped"] {
            let mine = whole.twin();
            let len = mine.storage.get(&key).unwrap().len();
            match how {
                "gone" => mine.storage.delete(&key).unwrap(),
                "cut" => mine.storage.overwrite(&key, mine.storage.get(&key).unwrap().slice(..len / 2)).unwrap(),
                // In the first chunk or node, behind the header.
                _ => mine.spoil(&key, 70),
            }
            let what = format!("{key} {how}");
            let (before, wanted) = look(&mine.open(), 1.0).unwrap();
            assert!(!wanted.is_empty() && before.damages.iter().any(|d| !d.hits.is_empty()), "{what}");
            (chunks, nodes) = (chunks + wanted.chunks(), nodes + wanted.nodes());
            let (_, after) = heal(&mine.open(), &theirs.open(), false).unwrap();
            assert!(after.is_empty(), "{what}: {after:?}");
            mine.is_whole(&what);
        }
    }
    assert!(chunks > 50 && nodes > 5, "{chunks} {nodes}");
}

#[test]
fn all_packs_at_once_come_back() {
    let (mine, theirs) = pair();
    for key in [PackKind::Data, PackKind::Meta].iter().flat_map(|kind| mine.packs(*kind)) {
        mine.storage.delete(&key).unwrap();
    }
    let (_, after) = heal(&mine.open(), &theirs.open(), false).unwrap();
    assert!(after.is_empty(), "{after:?}");
    mine.is_whole("all");
}

#[test]
fn the_same_disk_backed_up_on_its_own_heals_whatever_the_size_of_its_chunks() {
    let [first, second, _] = disks();
    for size in [UNIT, 2 * UNIT, 4 * UNIT] {
        let (mut mine, mut theirs) = (World::new(UNIT), World::new(size));
        mine.backup("vm", &first);
        mine.backup("vm", &second);
        // Of a time long after, and of another content where the second one changed.
        theirs.clock.advance(Duration::from_secs(1 << 20));
        theirs.backup("vm", &first);
        theirs.backup("vm", &second);
        for key in mine.packs(PackKind::Data) {
            mine.storage.delete(&key).unwrap();
        }
        if size == UNIT {
            mine.packs(PackKind::Meta).iter().for_each(|key| mine.storage.delete(key).unwrap());
        }
        let (chunks, after) = heal(&mine.open(), &theirs.open(), false).unwrap();
        assert!(after.is_empty() && (size == UNIT || chunks == 11), "{size}: {chunks} {after:?}");
        mine.is_whole("independent");
    }
}

#[test]
fn what_the_other_one_lacks_stays_lost_and_who_needs_it_stays_damaged() {
    let [first, second, _] = disks();
    let (mut mine, mut theirs) = (World::new(UNIT), World::new(UNIT));
    let old = mine.backup("vm", &first);
    let new = mine.backup("vm", &second);
    // It has the later version alone.
    theirs.backup("vm", &second);
    let data = mine.packs(PackKind::Data);
    data.iter().for_each(|key| mine.storage.delete(key).unwrap());
    let (chunks, after) = heal(&mine.open(), &theirs.open(), false).unwrap();
    assert_eq!((chunks, after.chunks(), after.nodes()), (10, 1, 0));
    let report = check(&mine.open());
    let hits: Vec<_> = report.damages.iter().flat_map(|d| &d.hits).collect();
    let [hit] = &hits[..] else { panic!("{hits:?}") };
    let lost = 130 * UNIT as u64..131 * UNIT as u64;
    assert_eq!((hit.snapshot, hit.whole, &hit.ranges), (old.id, false, &vec![lost]));
    let said = mine.open().checked().unwrap();
    assert_eq!((said[&old.id].damaged, said[&old.id].verified), (true, None));
    assert!(!said[&new.id].damaged && said[&new.id].verified.is_some(), "{said:?}");
    assert!(restore(&mine.open(), &new).unwrap() == second);
    assert_eq!(restore(&mine.open(), &old).unwrap_err().kind(), ErrorKind::Corrupt);
    // A second time there is nothing to take, and nothing is stored.
    let before = mine.packs(PackKind::Data);
    assert_eq!(heal(&mine.open(), &theirs.open(), true).unwrap().0, 0);
    assert_eq!(mine.packs(PackKind::Data), before);
    // A third repository has the rest, in another place of a disk of another name: only who looks everywhere finds it.
    let mut third = World::new(UNIT);
    third.backup("other", &[&noise(99, UNIT)[..], &first[130 * UNIT..131 * UNIT]].concat());
    assert_eq!(heal(&mine.open(), &third.open(), false).unwrap().0, 0);
    assert_eq!(heal(&mine.open(), &third.open(), true).unwrap().0, 1);
    mine.is_whole("from two");
}

#[test]
fn a_disk_of_the_same_name_and_size_with_another_content_gives_nothing() {
    let [first, ..] = disks();
    let (mut mine, mut theirs) = (World::new(UNIT), World::new(UNIT));
    mine.backup("vm", &first);
    let other: Vec<u8> = first.iter().map(|byte| byte.wrapping_add(1)).collect();
    theirs.backup("vm", &other);
    for kind in [PackKind::Data, PackKind::Meta] {
        let mine = mine.twin();
        mine.packs(kind).iter().for_each(|key| mine.storage.delete(key).unwrap());
        let before = look(&mine.open(), 1.0).unwrap().1;
        let (chunks, after) = heal(&mine.open(), &theirs.open(), true).unwrap();
        assert_eq!((chunks, after.chunks(), after.nodes()), (0, before.chunks(), before.nodes()));
        let report = check(&mine.open());
        assert!(report.damages.iter().any(|damage| !damage.hits.is_empty()), "{report:?}");
    }
}

#[test]
fn where_both_are_damaged_what_is_intact_in_either_comes_together() {
    let (mine, theirs) = pair();
    let (own, other) = (mine.packs(PackKind::Data), theirs.packs(PackKind::Data));
    mine.storage.delete(&own[0]).unwrap();
    other.iter().for_each(|key| theirs.spoil(key, 70));
    theirs.storage.delete(&other[1]).unwrap();
    let before = look(&mine.open(), 1.0).unwrap().1;
    let (chunks, after) = heal(&mine.open(), &theirs.open(), false).unwrap();
    assert!(chunks + after.chunks() == before.chunks() && !before.is_empty(), "{before:?} {after:?}");
    let report = check(&mine.open());
    assert_eq!(report.damages.iter().any(|damage| !damage.hits.is_empty()), !after.is_empty());
    // Its map is lost too.
    theirs.packs(PackKind::Meta).iter().for_each(|key| theirs.storage.delete(key).unwrap());
    let (_, left) = heal(&mine.open(), &theirs.open(), true).unwrap();
    assert_eq!(left.chunks(), after.chunks());
}

/// A flipped chunk, a lost pack, a lost part of a map.
fn damage(world: &World) {
    let (data, meta) = (world.packs(PackKind::Data), world.packs(PackKind::Meta));
    world.spoil(&data[0], 70);
    world.storage.delete(&data[1]).unwrap();
    world.storage.delete(&meta[0]).unwrap();
}

#[test]
fn cut_off_at_any_moment_nothing_is_worse_and_the_next_time_finishes() {
    let [first, second, _] = disks();
    let (mut whole, theirs) = (World::new(UNIT), World::new(UNIT));
    whole.backup("vm", &first);
    whole.backup("vm", &second);
    whole.copy_into(&theirs);
    damage(&whole);
    let mut cuts = 0;
    for how in CUTS {
        for at in 1.. {
            let mine = whole.twin();
            let cutting = Arc::new(Cutting::new(mine.storage.clone(), at, how));
            let done = heal(&mine.over(cutting.clone()), &theirs.open(), false);
            if let Ok((_, after)) = &done {
                assert!(after.is_empty(), "acknowledged: {how:?} {at}");
                mine.is_whole(&format!("{how:?} {at}, acknowledged"));
            }
            let (report, wanted) = look(&mine.open(), 1.0).unwrap();
            // What is lost is said to be: a snapshot that nothing hits restores.
            for snapshot in mine.open().snapshots(None).unwrap().snapshots {
                let is_hit = report.damages.iter().flat_map(|d| &d.hits).any(|hit| hit.snapshot == snapshot.id);
                match restore(&mine.open(), &snapshot) {
                    Ok(disk) => assert!(!is_hit && disk == mine.disks[&snapshot.id], "{how:?} {at}"),
                    Err(_) => assert!(is_hit && !wanted.is_empty(), "{how:?} {at}"),
                }
            }
            assert!(heal(&mine.open(), &theirs.open(), false).unwrap().1.is_empty(), "{how:?} {at}");
            mine.is_whole(&format!("{how:?} {at}"));
            if cutting.mutations() < at {
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 40, "{cuts}");
}

#[test]
fn a_collector_between_any_two_writes_takes_nothing_that_was_healed() {
    let [first, second, _] = disks();
    let (mut whole, theirs) = (World::new(UNIT), World::new(UNIT));
    whole.backup("vm", &first);
    let gone = whole.backup("vm", &second);
    whole.copy_into(&theirs);
    let data = whole.packs(PackKind::Data);
    data.iter().for_each(|key| whole.spoil(key, 70));
    // Something goes, so that there is something to condemn.
    whole.disks.remove(&gone.id);
    whole.open().forget(&gone.id, Duration::ZERO, "test").unwrap();
    let mut runs = 0;
    for at in 1.. {
        let mine = whole.twin();
        let meddling = Meddling::new(mine.storage.clone(), false);
        let (beside, clock, mut seen) = (mine.storage.clone(), mine.clock.clone(), 0);
        let reached = Arc::new(AtomicU64::new(0));
        let count = reached.clone();
        meddling.meddle(move |call, _| {
            if call == Call::Write {
                seen += 1;
                if seen == at {
                    let world = World { storage: beside.clone(), clock: clock.clone(), disks: BTreeMap::new() };
                    world.gc();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            Fate::Done
        });
        let (_, after) = heal(&mine.over(meddling), &theirs.open(), false).unwrap();
        assert!(after.is_empty(), "{at}: {after:?}");
        mine.is_whole(&format!("gc before write {at}"));
        if reached.load(Ordering::Relaxed) == 0 {
            break;
        }
        runs += 1;
    }
    assert!(runs > 5, "{runs}");
}

#[test]
fn what_does_not_come_back_as_it_was_stored_heals_nothing() {
    let (whole, theirs) = pair();
    for kind in [PackKind::Data, PackKind::Meta] {
        let mine = whole.twin();
        let key = &mine.packs(kind)[0];
        mine.storage.delete(key).unwrap();
        let lost = look(&mine.open(), 1.0).unwrap().1;
        let meddling = Meddling::new(mine.storage.clone(), false);
        let (inner, known) = (mine.storage.clone(), keys_of(&*mine.storage));
        let mut spoiled: Vec<String> = Vec::new();
        meddling.meddle(move |call, name| {
            let is_pack = name.starts_with(keys::PACKS) || name.starts_with(keys::META);
            let is_new = is_pack && !known.iter().any(|key| key.as_str() == name);
            if call == Call::Read && is_new && !spoiled.iter().any(|done| done == name) {
                spoiled.push(name.to_owned());
                // Each chunk and node in it.
                let key = Key::new(name).unwrap();
                if let Ok(body) = inner.get(&key) {
                    let mut body = body.to_vec();
                    body.iter_mut().skip(70).step_by(40).for_each(|byte| *byte ^= 1);
                    inner.overwrite(&key, body.into()).unwrap();
                }
            }
            Fate::Done
        });
        let error: Error = heal(&mine.over(meddling), &theirs.open(), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        // What was healed until then is not told from the rest: all of it is looked at anew, also where nobody asks for data.
        for share in [0.0, 1.0] {
            let (report, wanted) = look(&mine.open(), share).unwrap();
            assert!(!wanted.is_empty() && (kind == PackKind::Meta || wanted.chunks() <= lost.chunks()), "{wanted:?}");
            let hit = report.damages.iter().flat_map(|d| &d.hits).map(|hit| hit.snapshot).next().unwrap();
            assert!(mine.open().checked().unwrap()[&hit].damaged);
        }
        assert!(heal(&mine.open(), &theirs.open(), false).unwrap().1.is_empty());
        mine.is_whole("healed at last");
    }
}

/// Several times: which of two copies a collector comes upon first is up to their names.
#[test]
fn a_healing_pack_that_is_damaged_itself_is_healed_again_and_what_is_intact_in_it_stays() {
    for round in 0..8 {
        let (mut mine, theirs) = (World::new(UNIT), World::new(UNIT));
        mine.backup("vm", &noise(round, 3 * UNIT));
        mine.copy_into(&theirs);
        let [old] = &mine.packs(PackKind::Data)[..] else { panic!("several packs") };
        // Each chunk has its tag behind it.
        (0..3).for_each(|n| mine.spoil(old, 70 + n * (UNIT + 16)));
        let (chunks, after) = heal(&mine.open(), &theirs.open(), false).unwrap();
        assert!(chunks == 3 && after.is_empty(), "{round}: {chunks} {after:?}");
        let new = mine.packs(PackKind::Data).into_iter().find(|key| key != old).unwrap();
        // The others in it are nowhere else, and nobody refers to them by place.
        mine.spoil(&new, 70);
        let (chunks, after) = heal(&mine.open(), &theirs.open(), false).unwrap();
        assert!(chunks == 1 && after.is_empty(), "{round}: {chunks} {after:?}");
        (0..2).for_each(|_| mine.gc());
        mine.is_whole(&format!("healed twice, {round}"));
    }
}

#[test]
fn nothing_is_stored_where_the_damage_cannot_be_noted() {
    let [first, ..] = disks();
    let (mut mine, theirs) = (World::new(UNIT), World::new(UNIT));
    mine.backup("vm", &first);
    mine.copy_into(&theirs);
    mine.spoil(&mine.packs(PackKind::Data)[0], 70);
    let before = mine.packs(PackKind::Data);
    let meddling = Meddling::new(mine.storage.clone(), false);
    meddling.meddle(|call, name| match call == Call::Write && name.starts_with(keys::CHECKED) {
        true => Fate::Fails(Error::new(ErrorKind::Denied, "no right to write there")),
        false => Fate::Done,
    });
    let error = heal(&mine.over(meddling), &theirs.open(), false).unwrap_err();
    assert!(error.to_string().contains("could not be noted") && error.to_string().contains("no right"), "{error}");
    assert_eq!(mine.packs(PackKind::Data), before);
}

#[test]
fn a_chunk_is_asked_for_wherever_a_damaged_volume_has_it() {
    let (mut mine, mut theirs) = (World::new(UNIT), World::new(UNIT));
    let chunk = noise(1, UNIT);
    mine.backup("a", &chunk);
    let disk = [noise(2, UNIT), noise(3, UNIT), chunk].concat();
    mine.backup("b", &disk);
    // Of the volume that is looked at first there is nothing.
    theirs.backup("b", &disk);
    mine.packs(PackKind::Data).iter().for_each(|key| mine.storage.delete(key).unwrap());
    let (chunks, after) = heal(&mine.open(), &theirs.open(), false).unwrap();
    assert!(chunks == 3 && after.is_empty(), "{chunks} {after:?}");
    mine.is_whole("in another place");
}

#[test]
fn the_last_chunk_of_a_disk_that_has_grown_since_is_healed() {
    let (mut mine, mut theirs) = (World::new(UNIT), World::new(UNIT));
    let disk = noise(1, 2 * UNIT + UNIT / 2);
    mine.backup("vm", &disk);
    theirs.backup("vm", &[&disk[..], &noise(2, 2 * UNIT)].concat());
    mine.packs(PackKind::Data).iter().for_each(|key| mine.storage.delete(key).unwrap());
    let (chunks, after) = heal(&mine.open(), &theirs.open(), false).unwrap();
    assert!(chunks == 3 && after.is_empty(), "{chunks} {after:?}");
    mine.is_whole("grown");
}

#[test]
fn a_chunk_that_is_damaged_there_too_keeps_only_the_nodes_above_it_lost() {
    let [first, ..] = disks();
    let (mut mine, theirs) = (World::new(UNIT), World::new(UNIT));
    mine.backup("vm", &first);
    mine.copy_into(&theirs);
    mine.packs(PackKind::Meta).iter().for_each(|key| mine.storage.delete(key).unwrap());
    let before = look(&mine.open(), 1.0).unwrap().1;
    theirs.spoil(&theirs.packs(PackKind::Data)[0], 70);
    let (_, after) = heal(&mine.open(), &theirs.open(), false).unwrap();
    assert_eq!((before.nodes(), after.nodes()), (2, 1));
}

#[test]
fn a_node_of_which_each_copy_is_damaged_is_missing_whatever_indexes_say() {
    let [first, ..] = disks();
    let mut mine = World::new(UNIT);
    mine.backup("a", &first);
    mine.backup("b", &first);
    mine.packs(PackKind::Meta).iter().for_each(|key| mine.spoil(key, 70));
    let wanted = look(&mine.open(), 1.0).unwrap().1;
    assert!(wanted.nodes() > 0, "{wanted:?}");
    assert_eq!(wanted.missing_nodes(&mine.open()).unwrap(), wanted.nodes());
}
