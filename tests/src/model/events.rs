//! Everything that is not a run: the disks change, time passes, things get lost, collectors work.

use super::ops::{Fill, Place, Size};
use super::world::{World, credential};
use crate::small::{CHEAP, UNIT, keys_of, noise, splitmix};
use std::collections::BTreeSet;
use std::time::Duration;
use wherry_repo::format::records::Generation;
use wherry_repo::index::{ChunkIndex, Row};
use wherry_repo::storage::{Storage, keys};
use wherry_repo::{Clock, Codec, Components, ErrorKind, Key, PackId, PackKind, Repository, SessionId, SnapshotReader};

/// No disk grows beyond this (pages).
const MOST_PAGES: u64 = 40_000;
/// A disk holds no more pages that are not zero; one that would is left as it is.
const MOST_FULL: usize = 120;

fn page(fill: Fill, n: u64) -> Vec<u8> {
    match fill {
        Fill::Noise(seed) => noise(1000 + u64::from(seed) + n, UNIT),
        Fill::Text(seed) => noise(2000 + u64::from(seed) + n, 777).repeat(UNIT / 777 + 1)[..UNIT].to_vec(),
        Fill::Zero => vec![0; UNIT],
        Fill::Few(seed) => vec![seed | 1; 3],
    }
}

impl World {
    pub(super) fn write(&mut self, volume: usize, place: Place, pages: u8, fill: Fill) {
        let disk = &mut self.disks[volume];
        let unit = UNIT as u64;
        if disk.present(unit).len() > MOST_FULL && !matches!(fill, Fill::Zero) {
            return;
        }
        let first = match place {
            Place::Page(n) => u64::from(n) % (disk.size / unit + 1) * unit,
            Place::Edge(n) => (u64::from(n) - 1) * unit,
            Place::End(bytes) => disk.size.saturating_sub(u64::from(bytes)),
        };
        if let Fill::Few(seed) = fill {
            let odd = if matches!(place, Place::End(_)) { 0 } else { u64::from(seed) * 200 };
            return disk.write(first + odd, &page(fill, 0));
        }
        for n in 0..u64::from(pages) {
            disk.write(first + n * unit, &page(fill, n));
        }
    }

    pub(super) fn resize(&mut self, volume: usize, size: Size) {
        let disk = &mut self.disks[volume];
        let before = disk.size;
        let bytes = |pages: u16, bytes: u16| u64::from(pages) * UNIT as u64 + u64::from(bytes);
        let size = match size {
            Size::Nothing => 0,
            Size::Pages(pages, rest) => bytes(pages, rest),
            Size::More(pages, rest) => before + bytes(pages, rest),
            Size::Less(pages, rest) => before.saturating_sub(bytes(pages, rest)),
        };
        disk.resize(size.min(MOST_PAGES * UNIT as u64));
    }

    fn chosen(&self, which: u8) -> Option<usize> {
        (!self.kept.is_empty()).then(|| usize::from(which) % self.kept.len())
    }

    pub(super) fn forget(&mut self, which: u8, hours: u16) {
        let Some(n) = self.chosen(which) else { return };
        let (id, hidden) = (self.kept[n].snapshot.id, self.kept[n].hidden);
        let delay = Duration::from_secs(u64::from(hours) * 3600);
        let before = self.clock.now().0;
        assert_eq!(self.repository.forget(&id, delay, "model").unwrap(), !hidden);
        self.kept[n].hidden = true;
        if !hidden {
            let due = self.repository.forget_due(&id).unwrap().unwrap().0;
            assert!((before..=self.clock.now().0).contains(&(due - delay.as_nanos() as i64)));
            self.kept[n].due = due;
        }
    }

    pub(super) fn unforget(&mut self, which: u8) {
        let Some(n) = self.chosen(which) else { return };
        let (id, hidden) = (self.kept[n].snapshot.id, self.kept[n].hidden);
        let undone = self.repository.unforget(&id);
        if self.kept[n].gone {
            assert_eq!(undone.unwrap_err().kind(), ErrorKind::Conflict);
            self.cases.add("too late to unforget");
            return;
        }
        assert_eq!(undone.unwrap(), hidden);
        assert_eq!(self.repository.forget_due(&id).unwrap(), None);
        self.kept[n].hidden = false;
        if hidden {
            self.cases.add("unforgotten");
        }
    }

    /// Makes a forget final that is due.
    pub(super) fn settle(&mut self, which: u8) {
        let Some(n) = self.chosen(which) else { return };
        let kept = &self.kept[n];
        let (pending, due) = (kept.hidden && !kept.gone, self.clock.now().0 >= kept.due);
        let settled = self.repository.settle(&kept.snapshot.id);
        if pending && !due {
            assert_eq!(settled.unwrap_err().kind(), ErrorKind::Invalid);
            return;
        }
        assert_eq!(settled.unwrap(), pending);
        if pending {
            self.kept[n].gone = true;
            self.cases.add("forgotten for good");
        }
    }

    pub(super) fn pass(&mut self, minutes: u32, back: bool) {
        let time = Duration::from_secs(u64::from(minutes) * 60);
        if back {
            self.clock.put_back(time);
            self.cases.add("the clock went back");
        } else {
            self.clock.advance(time);
        }
    }

    /// The repository as a new process sees it.
    pub(super) fn fresh(&self) -> Repository {
        self.open(&self.slots[0].1).unwrap()
    }

    fn open(&self, password: &str) -> Result<Repository, wherry_repo::Error> {
        let components = Components { storage: self.storage.clone(), clock: self.clock.clone(), rng: self.rng.clone() };
        Repository::open(components, &credential(password))
    }

    pub(super) fn reopen(&mut self) {
        let n = self.draw() as usize % self.slots.len();
        let (slot, password) = &self.slots[n];
        let repository = self.open(password).unwrap();
        assert_eq!(repository.id(), self.repository.id());
        let slots: Vec<_> = repository.slots().unwrap().into_iter().map(|slot| slot.unwrap()).collect();
        let want: BTreeSet<u64> = self.slots.iter().map(|(slot, _)| *slot).collect();
        assert_eq!(slots.iter().map(|s| s.slot).collect::<BTreeSet<_>>(), want);
        assert!(slots.iter().all(|s| s.current == (s.slot == *slot)));
        assert_eq!(self.open("never a password").unwrap_err().kind(), ErrorKind::Denied);
        self.repository = repository;
    }

    pub(super) fn add_slot(&mut self) {
        let password = format!("password {}", self.draw());
        let slot = self.repository.add_slot(&credential(&password), CHEAP).unwrap();
        self.slots.push((slot, password));
    }

    pub(super) fn remove_slot(&mut self, which: u8) {
        let n = usize::from(which) % self.slots.len();
        let slot = self.slots[n].0;
        if self.slots.len() == 1 {
            assert_eq!(self.repository.remove_slot(slot).unwrap_err().kind(), ErrorKind::Invalid);
            return;
        }
        self.repository.remove_slot(slot).unwrap();
        let (_, password) = self.slots.remove(n);
        assert_eq!(self.open(&password).unwrap_err().kind(), ErrorKind::Denied);
        self.cases.add("a removed way in was refused");
    }

    /// 0: a new one, empty. 1: filled from segments. 2: filled from segments and trailers. 3: closed and opened again.
    pub(super) fn lose_index(&mut self, which: usize, how: u8) {
        let on_disk = self.caches[which].folder.is_some();
        if on_disk && self.writers.iter().flatten().any(|w| w.task.setup.index == which) {
            return;
        }
        let folder = self.caches[which].folder.take();
        // The database is closed when nobody has it any more.
        self.caches[which].index = self.new_index(None);
        if let Some(folder) = folder.as_ref().filter(|_| how != 3) {
            ChunkIndex::destroy(folder.path(), &self.repository.id()).unwrap();
        }
        let index = self.new_index(folder.as_ref());
        if !(on_disk && how == 3) {
            (self.caches[which].knows, self.caches[which].foreign) = (BTreeSet::new(), 0);
        }
        match how {
            1 => {
                index.synchronise(&self.repository, false).unwrap();
                self.cases.add("a lost index was rebuilt from segments");
                let ended = self.kept.iter().map(|kept| kept.snapshot.id);
                let ended: BTreeSet<SessionId> = ended.filter(|id| !self.unsegmented.contains(id)).collect();
                let packs = self.packs(false).into_iter();
                let known = packs.filter(|key| keys::parse_pack(key).is_some_and(|p| ended.contains(&p.session)));
                self.caches[which].knows = known.collect();
            }
            2 => {
                index.synchronise(&self.repository, true).unwrap();
                self.cases.add("a lost index was rebuilt from trailers");
                if !self.unsegmented.is_empty() {
                    self.cases.add("a lost index was rebuilt without all segments");
                }
                // Uploads of runs that are under way may come in at any moment.
                let open: BTreeSet<SessionId> = self.writers.iter().flatten().map(|w| w.writer.id()).collect();
                let packs = self.packs(false).into_iter();
                let known = packs.filter(|key| keys::parse_pack(key).is_some_and(|p| !open.contains(&p.session)));
                self.caches[which].knows = known.collect();
            }
            3 if on_disk => {}
            _ => self.cases.add("a lost index was replaced by an empty one"),
        }
        (self.caches[which].index, self.caches[which].folder) = (index, folder);
    }

    /// Rows of packs that never were, for chunks that are.
    pub(super) fn foreign_rows(&mut self, which: usize, snapshot: u8) {
        let Some(n) = self.chosen(snapshot).filter(|n| self.caches[which].foreign < 2 && !self.kept[*n].gone) else {
            return;
        };
        let reader = SnapshotReader::open(&self.repository, &self.kept[n].snapshot).unwrap();
        let Ok(Some((chunks, _))) = reader.next_chunks(0) else { return };
        let session = SessionId::new(self.draw().to_le_bytes().repeat(2).try_into().unwrap());
        let pack = PackId { kind: PackKind::Data, session, seq: 0, random: self.draw() };
        let row = |(n, id)| Row { id, ordinal: n, offset: 64 + n * 100, len: 100, codec: Codec::Raw };
        let rows: Vec<Row> = chunks.iter().enumerate().map(|(n, chunk)| row((n as u32, chunk.id()))).collect();
        self.caches[which].index.insert(&pack, 0, &rows).unwrap();
        self.caches[which].foreign += 1;
        self.cases.add("the index had foreign rows");
    }

    pub(super) fn lose_pack(&mut self, which: u16, meta: bool) {
        let mut packs: Vec<Key> = self.packs(meta).into_iter().collect();
        let needed: BTreeSet<&Key> = self.kept.iter().filter(|kept| !kept.gone).flat_map(|kept| kept.needs()).collect();
        if packs.iter().any(|key| needed.contains(key)) {
            packs.retain(|key| needed.contains(key));
        }
        if packs.is_empty() {
            return;
        }
        let key = packs.swap_remove(usize::from(which) % packs.len());
        self.lost.insert(key.clone(), self.storage.get(&key).unwrap());
        self.storage.delete(&key).unwrap();
    }

    pub(super) fn bring_back(&mut self) {
        while let Some((key, body)) = self.lost.pop_first() {
            self.storage.bring_back(&key, body);
        }
    }

    pub(super) fn lose_segment(&mut self, which: u16) {
        let keys: Vec<Key> =
            keys_of(&*self.storage).into_iter().filter(|key| keys::parse_segment(key).is_some()).collect();
        let Some(key) = keys.get(usize::from(which) % keys.len().max(1)) else { return };
        self.storage.delete(key).unwrap();
        self.unsegmented.extend(keys::parse_segment(key).map(|(id, _)| id));
    }

    pub(super) fn condemn(&mut self, draw: u64, any: bool) {
        let needed: BTreeSet<&Key> = self.kept.iter().filter(|kept| !kept.gone).flat_map(|kept| kept.needs()).collect();
        let mut state = draw;
        let packs: BTreeSet<Key> = self.packs(false);
        let condemned: BTreeSet<Key> = packs
            .into_iter()
            .filter(|key| (any || !needed.contains(key)) && splitmix(&mut state).is_multiple_of(2))
            .collect();
        let packs = condemned.iter().filter_map(keys::parse_pack).collect();
        self.lists.push(condemned);
        let list = Generation { condemned: packs, ..Generation::default() };
        self.repository.publish_generation(self.lists.len() as u32, &list).unwrap();
        let again = self.repository.publish_generation(self.lists.len() as u32, &Generation::default());
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
    }

    pub(super) fn sweep(&mut self) {
        for slot in 0..2 {
            if !self.beat(slot) {
                return;
            }
        }
        let parents: Vec<usize> = self.writers.iter().flatten().filter_map(|w| w.task.parent).collect();
        let roots = self.kept.iter().enumerate().filter(|(n, kept)| !kept.gone || parents.contains(n));
        let needed: BTreeSet<&Key> = roots.flat_map(|(_, kept)| kept.needs()).collect();
        let condemned: BTreeSet<&Key> = self.lists.iter().flatten().collect();
        let mut swept = false;
        for key in self.packs(false).iter().filter(|key| condemned.contains(key) && !needed.contains(key)) {
            self.storage.delete(key).unwrap();
            swept = true;
        }
        if swept {
            self.cases.add("a pack was deleted as a collector does");
        }
    }
}
