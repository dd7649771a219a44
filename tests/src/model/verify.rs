//! What is compared after every step, and what a snapshot must be.

use super::world::{Kept, World};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;
use wherry_repo::storage::{Storage, keys};
use wherry_repo::{
    CheckOptions, ChunkRef, Damage, DamageKind, Error, ErrorKind, Hit, Key, ReadData, Repository, SnapshotId,
    SnapshotReader, Verified,
};

/// A repository that has looked by id does so again after this time.
const FRESH: Duration = Duration::from_secs(61);

impl World {
    /// The list of snapshots, which are hidden, and that no rule was broken meanwhile.
    pub(super) fn look(&mut self) {
        let broken = self.storage.take_broken();
        assert!(broken.is_empty(), "{broken:?}");
        let list = self.repository.snapshots(None).unwrap();
        assert!(list.damaged.is_empty(), "{:?}", list.damaged);
        let mut want: Vec<_> = self.kept.iter().filter(|kept| !kept.gone).map(|kept| &kept.snapshot).collect();
        want.sort_by_key(|s| (s.record.started, s.id));
        let ids: Vec<SnapshotId> = list.snapshots.iter().map(|s| s.id).collect();
        assert_eq!(ids, want.iter().map(|s| s.id).collect::<Vec<_>>(), "the snapshots there are");
        assert!(list.snapshots.iter().eq(want), "a record is not what was committed");
        let hidden = |id: &SnapshotId| self.kept.iter().any(|kept| kept.snapshot.id == *id && kept.hidden);
        for id in &ids {
            assert_eq!(list.is_visible(id), !hidden(id), "snapshot {id} is hidden or not");
        }
        assert_eq!(list.fenced.len(), self.fences, "sessions that were fenced");
    }

    pub(super) fn read_all(&mut self) {
        (0..self.kept.len()).for_each(|n| self.read(n));
    }

    /// Reads a snapshot with a repository that has been open for long, or with a new one.
    pub(super) fn read(&mut self, n: usize) {
        if self.kept[n].gone {
            return;
        }
        let (failed, long) = match self.draw() % 4 {
            0 => {
                self.fails(&self.repository, n, false);
                return;
            }
            1 => {
                self.clock.advance(FRESH);
                (self.fails(&self.repository, n, true), true)
            }
            _ => (self.fails(&self.fresh(), n, true), false),
        };
        if failed.is_some() && self.is_elsewhere(&self.kept[n]) {
            self.cases.add("a lost map was found elsewhere");
        }
        if self.kept[n].needs().iter().any(|key| self.lost.contains_key(key)) {
            let whole = failed.is_some_and(|failed| failed.is_empty());
            self.cases.add(match (whole, long) {
                (true, true) => "all that was lost was found elsewhere after long",
                (true, false) => "all that was lost was found elsewhere",
                (false, _) => "a snapshot with a lost pack was read",
            });
        }
    }

    /// Reads a snapshot, compares every byte of what it gives, and returns the chunks it does not give; `None` when parts
    /// of the map are lost. What does not lie in a lost pack must be given, and by a repository that is `new`, or may look
    /// again, also what another pack has.
    fn fails(&self, repository: &Repository, n: usize, new: bool) -> Option<BTreeSet<u64>> {
        let kept = &self.kept[n];
        let (snapshot, disk) = (&kept.snapshot, &kept.disk);
        let unit = snapshot.chunk_size().unwrap();
        let reader = SnapshotReader::open(repository, snapshot).unwrap();
        assert_eq!((reader.size(), reader.chunk_count()), (disk.size, disk.chunks(unit)));
        let is_lost = |key: &Key| self.lost.contains_key(key);
        let (mut failed, mut found) = (BTreeSet::new(), BTreeSet::new());
        let mut next = 0;
        loop {
            let (chunks, then) = match reader.next_chunks(next) {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
                    assert!(self.is_elsewhere(kept), "the map is gone, and nobody took it: {e}");
                    let same =
                        |other: &&Kept| (&other.disk, other.snapshot.record.class) == (disk, snapshot.record.class);
                    let whole = |other: &Kept| other.nodes.iter().all(|key| self.storage.head(key).is_ok());
                    let is_there = new && self.kept.iter().filter(same).any(whole);
                    assert!(!is_there, "another snapshot's map is the same one and was not read in its place: {e}");
                    return None;
                }
            };
            next = then;
            for fetch in reader.plan(chunks, 1 << (16 + n % 6)) {
                let take = |chunk: &ChunkRef, opened: Result<Verified<Vec<u8>>, Error>| {
                    found.insert(chunk.number);
                    match opened {
                        Ok(bytes) => self.compare_chunk(n, chunk.number, bytes.as_ref()),
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
                            // A repository that is open for long knows for a minute only the packs it knew before.
                            let is_new_to_it = !new && self.is_elsewhere(kept);
                            assert!(is_lost(&kept.packs[&chunk.number]) || is_new_to_it, "nobody took its pack: {e}");
                            failed.insert(chunk.number);
                        }
                    }
                    Ok::<(), Error>(())
                };
                reader.read(&fetch, &mut Vec::new(), |chunk| vec![0; chunk.len], take).unwrap();
            }
        }
        let present = disk.present(unit);
        assert!(found == present, "other chunks are there than were written");
        for number in failed.iter().filter(|_| new) {
            let copies = self.places.get(&disk.content(*number, unit)).into_iter().flatten();
            let copy = copies.into_iter().find(|key| self.storage.head(key).is_ok());
            assert_eq!(copy, None, "chunk {number} of {} is there as well, and was not read", snapshot.id);
        }
        let one = (found.len() * 31 + n) as u64 % (disk.chunks(unit) + 1);
        assert_eq!(reader.chunk(one).unwrap().is_some(), present.contains(&one));
        if one < disk.chunks(unit) {
            assert!(reader.is_same(one, &disk.chunk(one, unit)).unwrap());
        }
        Some(failed)
    }

    fn compare_chunk(&self, n: usize, number: u64, bytes: &[u8]) {
        let kept = &self.kept[n];
        let same = bytes == kept.disk.chunk(number, kept.snapshot.chunk_size().unwrap());
        assert!(same, "chunk {number} of snapshot {} is another one", kept.snapshot.id);
    }

    /// Where a snapshot's parts are, as its map says: it is read with everything back that was lost.
    fn learn(&mut self, n: usize) {
        for (key, body) in &self.lost {
            self.storage.bring_back(key, body.clone());
        }
        let repository = self.fresh();
        let kept = &self.kept[n];
        let reader = SnapshotReader::open(&repository, &kept.snapshot).unwrap();
        self.storage.take_read();
        let (mut packs, mut nodes) = (BTreeMap::new(), BTreeSet::new());
        let mut next = 0;
        while let Some((chunks, then)) = reader.next_chunks(next).unwrap() {
            nodes.extend(self.storage.take_read());
            next = then;
            for chunk in chunks {
                self.compare_chunk(n, chunk.number, reader.read_chunk(&chunk).unwrap().as_ref());
                let read: Vec<Key> = self.storage.take_read().into_iter().collect();
                assert_eq!(read.len(), 1, "chunk {} is not where the map says: {read:?}", chunk.number);
                packs.extend(read.into_iter().map(|key| (chunk.number, key)));
            }
        }
        let unit = kept.snapshot.chunk_size().unwrap();
        assert!(packs.keys().eq(&kept.disk.present(unit)), "other chunks are there than were written");
        for (number, key) in &packs {
            self.places.entry(kept.disk.content(*number, unit)).or_default().insert(key.clone());
        }
        (self.kept[n].packs, self.kept[n].nodes) = (packs, nodes);
        self.lost.keys().for_each(|key| self.storage.delete(key).unwrap());
    }

    /// `check` finds what was lost, and says of exactly those chunks that they are lost that cannot be read.
    pub(super) fn check(&mut self, data: bool) {
        let read_data = data.then(ReadData::default);
        let options = CheckOptions { threads: 1, read_data, ..CheckOptions::default() };
        let report = self.fresh().check(&options, &|_, _, _| Ok(())).unwrap();
        assert_eq!(report.snapshots, self.kept.iter().filter(|kept| !kept.gone).count() as u64);
        // The lists of this model have no delete sets: nobody seals them.
        let is_unsealed = |damage: &&Damage| damage.object.as_str().ends_with("-sealed");
        for damage in report.damages.iter().filter(|damage| !is_unsealed(damage)) {
            let what = format!("{}: {}", damage.object, damage.what);
            let of = |hit: &Hit| self.kept.iter().find(|kept| kept.snapshot.id == hit.snapshot && !kept.gone).unwrap();
            // A part of a map that is read in another place may lead to what was swept, or was never stored.
            let is_led = !damage.hits.is_empty() && damage.hits.iter().all(|hit| self.is_elsewhere(of(hit)));
            let is_known = self.lost.contains_key(&damage.object) || is_led;
            assert!(damage.missing && is_known, "{what}, and nobody did that");
            let meta = damage.object.as_str().starts_with(keys::META);
            assert_eq!(damage.kind, if meta { DamageKind::Map } else { DamageKind::Pack }, "{what}");
            for hit in &damage.hits {
                let kept = of(hit);
                let is_hit = kept.needs().contains(&damage.object) || self.is_elsewhere(kept);
                assert!(is_hit, "{what}: it does not hit {}", hit.snapshot);
            }
        }
        let is_hit = |n: &usize| self.kept[*n].needs().iter().any(|key| self.lost.contains_key(key));
        for n in (0..self.kept.len()).filter(|n| !self.kept[*n].gone).filter(is_hit) {
            let kept = &self.kept[n];
            let id = kept.snapshot.id;
            let hits = report.damages.iter().flat_map(|d| d.hits.iter().map(move |hit| (&d.object, hit)));
            let hits: BTreeMap<&Key, _> = hits.filter(|(_, hit)| hit.snapshot == id).collect();
            let Some(failed) = self.fails(&self.fresh(), n, true) else {
                let mut keys = hits.keys();
                assert!(
                    keys.any(|key| key.as_str().starts_with(keys::META)),
                    "check does not say that {id} lost its map"
                );
                continue;
            };
            let mut want: BTreeMap<&Key, Vec<Range<u64>>> = BTreeMap::new();
            for number in failed {
                let range = kept.disk.range(number, kept.snapshot.chunk_size().unwrap());
                let ranges = want.entry(&kept.packs[&number]).or_default();
                match ranges.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => ranges.push(range),
                }
            }
            let said: BTreeMap<&Key, _> = hits.into_iter().map(|(key, hit)| (key, hit.ranges.clone())).collect();
            if !self.is_elsewhere(kept) {
                assert_eq!(said, want, "what check says of {id}");
                continue;
            }
            assert_eq!(joined(said), joined(want), "what check says of {id}");
        }
    }

    /// Parts of its map are lost. Those that are found are of other snapshots, or of runs that failed, and look for the same
    /// chunks elsewhere.
    fn is_elsewhere(&self, kept: &Kept) -> bool {
        kept.nodes.iter().any(|key| self.lost.contains_key(key))
    }

    /// A snapshot that was just committed, by its parts; its content is read as well.
    pub(super) fn read_new(&mut self, n: usize) {
        self.learn(n);
        self.read(n);
        let kept = &self.kept[n];
        let record = &kept.snapshot.record;
        let order = self.storage.order(&keys::snap(&kept.snapshot.volume, &kept.snapshot.id)).unwrap();
        for key in kept.needs() {
            assert!(self.storage.order(key).unwrap() < order, "{key} was stored after what refers to it");
        }
        for other in &self.kept[..n] {
            let same = other.snapshot.record.class == record.class && other.disk == kept.disk;
            assert_eq!(other.snapshot.record.root == record.root, same, "equal roots are equal disks");
            if same && !kept.packs.is_empty() {
                self.cases.add("the same disk gave the same root");
            }
        }
        if record.levels > 1 && !kept.packs.is_empty() {
            self.cases.add(if record.levels > 2 { "a map of three levels" } else { "a map of several levels" });
        }
        if !kept.disk.size.is_multiple_of(kept.snapshot.chunk_size().unwrap()) {
            self.cases.add("a last chunk was not whole");
        }
        let another = self.draw() as usize % (n + 1);
        self.read(another);
        self.check(false);
    }
}

/// The ranges of all packs, neighbours as one.
fn joined(ranges: BTreeMap<&Key, Vec<Range<u64>>>) -> Vec<Range<u64>> {
    let mut sorted = ranges.into_values().flatten().collect::<Vec<_>>();
    sorted.sort_by_key(|range| range.start);
    sorted.dedup_by(|next, last| {
        let is_next = next.start == last.end;
        if is_next {
            last.end = next.end;
        }
        is_next
    });
    sorted
}
