//! What each step of a run must say, why a run may have failed, and what a snapshot may refer to.

use super::ops::VOLUMES;
use super::start::Task;
use super::world::{Kept, World};
use crate::small::keys_of;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wherry_repo::storage::{Storage, keys};
use wherry_repo::{Error, ErrorKind, Key, Put, Snapshot};

impl World {
    /// What a put must say, and whether it may say `Known` or `New` in its place.
    pub(super) fn expected(&self, task: &Task, n: u64) -> (Put, bool) {
        if task.disk.is_zero(n, task.unit) {
            return (Put::Zero, false);
        }
        let parent = task.parent.filter(|_| task.usable).map(|n| &self.kept[n]);
        if let Some(parent) = parent.filter(|parent| task.disk.is_same(&parent.disk, n, task.unit)) {
            let shaky = |key: &Key| task.absent.contains(key) || self.lost.contains_key(key);
            if parent.nodes.iter().any(shaky) {
                return (Put::Unchanged, true);
            }
            if !task.absent.contains(&parent.packs[&n]) {
                return (Put::Unchanged, false);
            }
        }
        let content = task.disk.content(n, task.unit);
        let cache = &self.caches[task.setup.index];
        let usable = |key: &Key| task.listed.contains(key) && !task.absent.contains(key) && !self.is_barred(task, key);
        let in_index = Arc::ptr_eq(&cache.index, &task.index)
            && self
                .places
                .get(&content)
                .is_some_and(|packs| packs.iter().any(|k| cache.knows.contains(k) && usable(k)));
        // Whichever index this run has: it takes in what the dead one stored.
        let left = task.adopts.iter().filter_map(|id| self.left.get(id));
        let adopted = left.into_iter().any(|(new, packs)| new.contains(&content) && packs.iter().all(usable));
        // An index keeps eight copies of a chunk.
        let few = self.stored.get(&content).is_none_or(|n| *n <= 5);
        if task.setup.threads == 1 && few && (in_index || adopted || task.own.contains(&content)) {
            return (Put::Known, false);
        }
        (Put::Known, true)
    }

    /// Condemned by a list that the run has read.
    fn is_barred(&self, task: &Task, key: &Key) -> bool {
        self.lists[..task.seen].iter().any(|list| list.contains(key))
    }

    pub(super) fn compare(&mut self, task: &mut Task, n: u64, said: Put, (want, or_not): (Put, bool)) {
        let stored = matches!(said, Put::Known | Put::New);
        assert!(said == want || or_not && stored, "chunk {n}: {said:?} in place of {want:?}");
        let len = task.disk.range(n, task.unit);
        let len = len.end - len.start;
        task.tally.read += len;
        match said {
            Put::Zero => task.tally.zero += len,
            Put::Unchanged => task.tally.unchanged += len,
            Put::Known => task.tally.known += len,
            Put::New => task.tally.new += len,
        }
        if said == Put::New {
            let content = task.disk.content(n, task.unit);
            *self.stored.entry(content).or_default() += 1;
            task.new.insert(content);
            let cache = &self.caches[task.setup.index];
            let there =
                |key: &&Key| task.listed.contains(*key) && !task.absent.contains(*key) && cache.knows.contains(*key);
            let mut usable = self.places.get(&content).into_iter().flatten().filter(there);
            if Arc::ptr_eq(&cache.index, &task.index) && usable.any(|key| self.is_barred(task, key)) {
                self.cases.add("barred and stored anew");
            }
            if self.places.get(&content).is_some_and(|packs| packs.iter().any(|key| task.absent.contains(key))) {
                self.cases.add("lost and stored anew");
            }
        }
        if said == Put::Known && !task.adopts.is_empty() {
            let content = task.disk.content(n, task.unit);
            if task.adopts.iter().any(|id| self.left.get(id).is_some_and(|(new, _)| new.contains(&content))) {
                self.cases.add("known from a run that was given up");
            }
        }
        if said == Put::Known && task.parent.is_none() {
            self.cases.add("known without a parent");
            let other = |kept: &Kept| kept.volume != task.setup.volume;
            if self.kept.iter().any(other) && !self.kept.iter().any(|kept| !other(kept)) {
                self.cases.add("one content under another name");
            }
        }
    }

    /// Why a run may have ended like this.
    pub(super) fn explain(&mut self, task: &Task, error: &Error) {
        match error.kind() {
            ErrorKind::Unavailable => assert!(self.storage.has_fired(), "{error}"),
            ErrorKind::Conflict if task.fenced => self.cases.add("a run that was taken for dead was refused"),
            ErrorKind::Conflict => {
                let own = |key: &Key| keys::parse_pack(key).is_some_and(|pack| pack.session == task.id);
                let hit = task.tally.known > 0 || task.skipped > 0;
                let mut news = self.lists[task.seen..].iter().flatten();
                assert!(news.any(|key| hit || own(key)), "nothing that concerns it was condemned: {error}");
                self.fences += 1;
                self.run(task.id).ended = true;
                self.cases.add("a list ended a run");
            }
            ErrorKind::Corrupt | ErrorKind::NotFound => {
                assert!(task.skipped > 0, "{error}");
                let parent = &self.kept[task.parent.unwrap()];
                let gone = |key: &&Key| task.absent.contains(*key) || self.lost.contains_key(*key);
                assert!(parent.nodes.iter().any(|key| gone(&key)), "{error}");
            }
            _ => panic!("{error:?}"),
        }
    }

    /// The record says what was done, and the snapshot holds the disk.
    pub(super) fn keep(&mut self, snapshot: Snapshot, task: Task) {
        assert!(!task.fenced, "a session that somebody has fenced has committed");
        self.run(task.id).ended = true;
        let record = &snapshot.record;
        let present = task.disk.present(task.unit);
        let chunks = task.disk.chunks(task.unit);
        let levels = (1..9).find(|levels| 128u64.pow(*levels) >= chunks).unwrap();
        assert_eq!((snapshot.id, record.name.as_str()), (task.id, VOLUMES[task.setup.volume]));
        assert_eq!((record.size, 1 << record.class), (task.disk.size, task.unit));
        assert_eq!((record.chunks, u32::from(record.levels)), (present.len() as u64, levels));
        assert_eq!(record.parent, task.parent.map(|n| self.kept[n].snapshot.id));
        assert_eq!((record.resumed, record.partial), (task.resumed, false));
        assert_eq!(record.tags["number"], self.kept.len().to_string());
        self.keep_stats(&snapshot, &task);
        if let Some(n) = self.snapshots_of(task.setup.volume).last() {
            let before = self.kept[*n].disk.size;
            match record.size {
                0 => self.cases.add("the disk became empty"),
                size if before == 0 && size > 0 => self.cases.add("the disk came back"),
                size if size > before => self.cases.add("the disk grew"),
                size if size < before => self.cases.add("the disk shrank"),
                _ => {}
            }
        }
        if !task.inherited.is_empty() {
            self.cases.add("runs taken over unread");
        }
        if task.seen < self.lists.len() {
            self.cases.add("a list let a run go on");
        }
        let volume = task.setup.volume;
        let (packs, nodes) = (BTreeMap::new(), BTreeSet::new());
        self.kept.push(Kept {
            snapshot,
            volume,
            disk: task.disk.clone(),
            hidden: false,
            due: 0,
            gone: false,
            packs,
            nodes,
        });
        self.read_new(self.kept.len() - 1);
        self.keep_rules(&task);
    }

    fn keep_stats(&mut self, snapshot: &Snapshot, task: &Task) {
        let stats = snapshot.record.stats;
        let mut want = task.tally;
        want.unchanged += task.skipped;
        let id = task.id.to_string();
        let own = |prefix: &str| -> u64 {
            let own = |key: &Key| key.as_str().starts_with(prefix) && key.as_str().contains(&id);
            let keys = keys_of(&*self.storage).into_iter().filter(own);
            keys.filter(|key| !key.as_str().ends_with("beat")).map(|key| self.storage.head(&key).unwrap().size).sum()
        };
        let lost = self.lost.keys().any(|key| key.as_str().contains(&id));
        if lost {
            return;
        }
        want.stored = own("packs/");
        assert!(stats.metadata >= own("meta/") + own("idx/") + own("sess/"), "{stats:?}");
        want.metadata = stats.metadata;
        assert_eq!(stats, want, "what the run did");
    }

    /// W8, D1 and D2 on what the snapshot refers to.
    fn keep_rules(&mut self, task: &Task) {
        let kept = self.kept.last().unwrap();
        let parent = task.parent.filter(|_| task.usable).map(|n| &self.kept[n]);
        for key in kept.packs.values() {
            assert!(!task.absent.contains(key), "{key} was gone when the session began, and it refers to it");
        }
        // Nodes that are there again may be taken over again.
        for key in kept.nodes.iter().filter(|key| self.lost.contains_key(key)) {
            assert!(!task.absent.contains(key), "{key} is gone since before the session began, and it refers to it");
        }
        let condemned = |key: &Key| self.lists.iter().any(|list| list.contains(key));
        for (n, key) in kept.packs.iter().filter(|(_, key)| condemned(key)) {
            let same = parent.is_some_and(|p| p.packs.get(n) == Some(key) && task.disk.is_same(&p.disk, *n, task.unit));
            assert!(same, "chunk {n} lies in {key}, which is condemned");
        }
        if parent.is_some_and(|p| p.nodes.intersection(&kept.nodes).next().is_some()) {
            self.cases.add("a node was taken over from the parent");
        }
    }
}
