use super::*;
use crate::collect::{CollectOptions, Now};
use crate::format::records::{Generation, Sweep};
use crate::id::{Codec, PackKind, ShortId};
use crate::storage::Storage;
use crate::testing::{StillClock, Watched, repository};
use crate::{Clock, Repository};
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// A repository of which nothing but index segments and delete sets is there.
struct Place {
    storage: Arc<Watched>,
    clock: Arc<StillClock>,
    repository: Repository,
    packs: u32,
    sets: u32,
}

impl Place {
    fn new() -> Self {
        let (storage, clock, repository) = repository();
        Self { storage, clock, repository, packs: 0, sets: 0 }
    }

    /// Rows of packs with so many chunks each, as a session stores them.
    fn segment(&mut self, chunks: &[usize]) -> Vec<PackRows> {
        let session = SessionId::new(clock::random(self.repository.rng()).unwrap());
        let rows = chunks.iter().map(|chunks| {
            self.packs += 1;
            // Without an order by age.
            let random = u64::from(self.packs).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let pack = PackId { kind: PackKind::Data, session, seq: self.packs, random };
            let id = |n: usize| ShortId::new((u128::from(self.packs) << 32 | n as u128).to_le_bytes());
            PackRows { pack, epoch: 0, chunks: (0..*chunks).map(|n| (id(n), 300, Codec::Lz4)).collect() }
        });
        let rows: Vec<PackRows> = rows.collect();
        let key = keys::segment(&session, 0);
        let sealed = self.repository.keys().seal_record(Kind::Segment, &key, &segment::encode(&rows)).unwrap();
        self.storage.create(&key, sealed.into()).unwrap();
        rows
    }

    /// These are in a delete set from now on.
    fn sweep(&mut self, rows: &[PackRows]) {
        let packs: Vec<PackId> = rows.iter().map(|rows| rows.pack).collect();
        self.sets += 1;
        let list = Generation {
            condemned: packs.clone(),
            roots: Vec::new(),
            dead: Vec::new(),
            nonce: [0; 16],
            moved: Vec::new(),
        };
        self.repository.publish_generation(self.sets, &list).unwrap();
        self.repository.create(&keys::sealed(self.sets), &Sweep { packs, nonce: [0; 16] }).unwrap();
    }

    /// How many segments a run wrote and dropped, an hour after the last one. It has deleted so many packs.
    fn run(&self, memory: u64, swept: u64) -> (usize, u64) {
        self.clock.advance(HOUR);
        let options = CollectOptions { memory, ..CollectOptions::default() };
        let now = Now { at: self.clock.now(), since: self.clock.monotonic() };
        let before = self.keys();
        let run = Run::new(&self.repository, &options, &|_, _, _| Ok(()), now);
        let mut report = Collected::default();
        report.swept.packs = swept;
        run.compact(&mut report).unwrap();
        let written = self.keys().iter().filter(|key| !before.contains(key)).count();
        (written, report.segments)
    }

    fn keys(&self) -> Vec<Key> {
        self.repository.list(keys::IDX).unwrap()
    }

    /// All that the segments say.
    fn rows(&self) -> BTreeMap<PackId, PackRows> {
        let read = |key: &Key| {
            let bytes = self.storage.get(key).unwrap();
            segment::decode(&self.repository.keys().open_record(Kind::Segment, key, &bytes).unwrap()).unwrap()
        };
        self.keys().iter().flat_map(read).map(|rows| (rows.pack, rows)).collect()
    }
}

const MEMORY: u64 = 64 << 20;

/// What takes the place of many short ones is long, and they wait for a day: until then, and after it, nothing is written again.
#[test]
fn what_was_put_together_is_not_put_together_again() {
    let mut place = Place::new();
    (0..40).for_each(|_| drop(place.segment(&[1500, 1500])));
    let rows = place.rows();
    assert_eq!(place.run(MEMORY, 0), (2, 0), "40 of 60 KB each become two, of 100 000 rows and the rest");
    for hour in 1..24 {
        assert_eq!(place.run(MEMORY, hour % 2), (0, 0), "{hour} h later");
    }
    place.run(MEMORY, 0);
    assert_eq!((place.keys().len(), place.rows() == rows), (2, true), "the short ones go when the grace is over");
    (0..3).for_each(|_| assert_eq!(place.run(MEMORY, 1), (0, 0)));
}

/// Packs with so many chunks that no two of them fit into one: each part is short, and is left as it is.
#[test]
fn what_cannot_be_put_together_is_left_alone() {
    let mut place = Place::new();
    (0..40).for_each(|_| drop(place.segment(&[51_000])));
    for _ in 0..3 {
        assert_eq!(place.run(4 << 30, 1), (0, 0));
    }
    assert_eq!(place.keys().len(), 40);
}

/// Another collector that gives no grace drops what was just put together, as the short ones say it too.
#[test]
fn what_another_one_drops_at_once_is_no_end() {
    let mut place = Place::new();
    (0..40).for_each(|_| drop(place.segment(&[1500, 1500])));
    let rows = place.rows();
    let there = place.storage.clone();
    let drops = move |key: &Key| there.inner.delete(key).unwrap();
    *place.storage.after.lock() = Some((keys::IDX, Box::new(drops)));
    assert_eq!(place.run(MEMORY, 0), (1, 0), "one of two parts is left");
    place.clock.advance(24 * HOUR);
    place.run(MEMORY, 0);
    assert!(place.rows() == rows, "the short ones stay of which it was");
}

#[test]
fn long_ones_whose_packs_are_gone_go() {
    let mut place = Place::new();
    let dead = place.segment(&[30_000, 30_000]);
    let live = place.segment(&[30_000, 30_000]);
    let mut half = place.segment(&[30_000, 30_000]);
    place.sweep(&dead);
    assert_eq!(place.run(MEMORY, 0), (0, 0), "they are looked at by runs that deleted something");
    assert_eq!(place.run(MEMORY, 2), (0, 1));
    place.sweep(&half.split_off(1));
    assert_eq!(place.run(MEMORY, 1), (0, 0));
    let names: Vec<PackId> = live.iter().chain(&half).map(|rows| rows.pack).collect();
    assert!(names.iter().all(|pack| place.rows().contains_key(pack)));
}

/// What is left of long ones is put together with short ones.
#[test]
fn of_long_ones_what_is_left_is_kept_in_few() {
    let mut place = Place::new();
    let mut left = Vec::new();
    for _ in 0..MANY {
        let mut rows = place.segment(&[1000, 60_000]);
        place.sweep(&rows.split_off(1));
        left.append(&mut rows);
    }
    let memory = 1 << 30;
    assert_eq!(place.run(memory, 1), (1, 0));
    place.clock.advance(24 * HOUR);
    place.run(memory, 1);
    let rows = place.rows();
    assert!(place.keys().len() == 1 && rows.len() == left.len() && left.iter().all(|r| rows.get(&r.pack) == Some(r)));
}

/// Backups, sweeps and runs for a long time: what is kept stays in proportion to what is live, and when nothing more comes the
/// segments soon stay as they are.
#[test]
fn whatever_comes_the_segments_come_to_rest() {
    let mut place = Place::new();
    let (mut live, mut state) = (Vec::<PackRows>::new(), 7u64);
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for round in 0..60 {
        for _ in 0..below(20) {
            let chunks: Vec<usize> = (0..1 + below(4)).map(|_| 100 + below(3000) as usize).collect();
            live.append(&mut place.segment(&chunks));
        }
        let goes = live.len() / 4 * usize::from(round % 3 == 0);
        let gone: Vec<PackRows> = (0..goes).map(|_| live.swap_remove(below(live.len() as u64) as usize)).collect();
        place.sweep(&gone);
        place.clock.advance(6 * HOUR);
        place.run(MEMORY, gone.len() as u64);
    }
    // How soon depends on names, which are drawn. What was replaced goes within a day, two runs: after four nothing is left to do.
    let (mut at_rest, mut runs) = (0, 0);
    while at_rest < 4 {
        place.sweep(&[]);
        place.clock.advance(12 * HOUR);
        at_rest = if place.run(MEMORY, 1) == (0, 0) { at_rest + 1 } else { 0 };
        runs += 1;
        assert!(runs < 40, "it does not come to rest");
    }
    let rows = place.rows();
    assert!(live.iter().all(|r| rows.get(&r.pack) == Some(r)), "rows of live packs are lost");
    let said: usize = rows.values().map(|r| r.chunks.len()).sum();
    let true_ones: usize = live.iter().map(|r| r.chunks.len()).sum();
    assert!(said < 3 * true_ones, "{said} rows for {true_ones}");
    assert!(place.keys().len() < 2 * MANY, "{} segments", place.keys().len());
}
