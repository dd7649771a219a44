//! How runs begin: what the session must choose, and in which order the chunks will come.

use super::disk::{Content, Disk};
use super::ops::{Parent, Setup, VOLUMES};
use super::world::{Run, World};
use crate::small::{keys_of, splitmix};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::index::ChunkIndex;
use wherry_repo::storage::{Storage, keys};
use wherry_repo::{Clock, Compression, ErrorKind, Key, ParentChoice, SessionId, SnapshotWriter, Stats, WriterOptions};

/// A run and its writer.
pub(super) struct Writing {
    pub(super) writer: SnapshotWriter,
    pub(super) task: Task,
}

/// What the reference knows of a run.
pub(super) struct Task {
    pub(super) setup: Setup,
    pub(super) id: SessionId,
    pub(super) index: Arc<ChunkIndex>,
    /// The volume when the run began.
    pub(super) disk: Disk,
    pub(super) unit: u64,
    pub(super) parent: Option<usize>,
    /// The parent's map can be built upon.
    pub(super) usable: bool,
    /// Chunks still to be put, by windows of ascending numbers.
    pub(super) windows: VecDeque<Vec<u64>>,
    /// Chunks that are not zero and are taken over unread.
    pub(super) inherited: BTreeSet<u64>,
    /// Bytes that are taken over unread, the zeros among them included.
    pub(super) skipped: u64,
    /// What was lost and what was there when the run began.
    pub(super) absent: BTreeSet<Key>,
    pub(super) listed: BTreeSet<Key>,
    /// Lists it has read.
    pub(super) seen: usize,
    /// Somebody took it for dead.
    pub(super) fenced: bool,
    pub(super) resumed: bool,
    /// Dead runs whose packs it may use.
    pub(super) adopts: BTreeSet<SessionId>,
    pub(super) tally: Stats,
    /// What its index knows, since it was stored or found there.
    pub(super) own: HashSet<Content>,
    /// What it has stored.
    pub(super) new: HashSet<Content>,
}

/// A session of another machine that is silent for longer is taken for dead.
const SILENT: Duration = Duration::from_secs(2 * 3600);

impl World {
    /// The sessions that the next run of a volume must take for dead (A1), and what these had adopted.
    fn dead(&self, volume: usize) -> (Vec<SessionId>, BTreeSet<SessionId>) {
        let (mut opened, mut newest): (BTreeMap<SessionId, i64>, BTreeMap<SessionId, i64>) = Default::default();
        let visit = &mut |found: wherry_repo::storage::Listed| {
            if let Some((id, part)) = keys::parse_session(&found.key) {
                let at = newest.entry(id).or_insert(i64::MIN);
                *at = found.modified.0.max(*at);
                if part == "open" {
                    opened.insert(id, found.modified.0);
                }
            }
            Ok(())
        };
        self.storage.list(keys::SESS, visit).unwrap();
        let now = self.clock.now().0;
        let last = self.snapshots_of(volume).last().map(|n| self.kept[*n].snapshot.record.started.0);
        let fenced: BTreeSet<SessionId> = {
            let list = self.repository.snapshots(Some(self.repository.volume_id(VOLUMES[volume]))).unwrap();
            list.fenced.into_iter().filter(|(_, at)| Some(at.0) > last).map(|(id, _)| id).collect()
        };
        let is_dead = |run: &&Run| match (fenced.contains(&run.id), run.ended) {
            (true, _) => Some(opened[&run.id]) > last,
            (_, ended) => !ended && now - newest[&run.id] > SILENT.as_nanos() as i64,
        };
        let dead: Vec<&Run> = self.runs.iter().filter(|run| run.volume == volume).filter(is_dead).collect();
        let all = dead.iter().flat_map(|run| run.adopts.iter().copied().chain([run.id])).collect();
        (dead.iter().map(|run| run.id).collect(), all)
    }

    /// The newest snapshot that is not hidden.
    fn newest(&self, volume: usize) -> Option<usize> {
        self.snapshots_of(volume).into_iter().rfind(|n| !self.kept[*n].hidden)
    }

    /// Opens a session; `None` when the parent that was asked for cannot be one.
    pub(super) fn start(&mut self, setup: &Setup) -> Option<Writing> {
        let volume = setup.volume;
        let all = self.snapshots_of(volume);
        let given = match setup.parent {
            Parent::Given(n) if !all.is_empty() => Some(all[usize::from(n) % all.len()]),
            _ => None,
        };
        let (choice, mut parent) = match (given, setup.parent) {
            (Some(n), _) => (ParentChoice::Snapshot(self.kept[n].snapshot.id), Some(n)),
            (None, Parent::None) => (ParentChoice::None, None),
            _ => (ParentChoice::Auto, self.newest(volume)),
        };
        let options = WriterOptions {
            name: VOLUMES[volume].into(),
            chunk_size: setup.class.map(|class| (64 << 10) << class),
            parent: choice,
            compression: [Compression::None, Compression::Lz4, Compression::Zstd(1), Compression::Lz4]
                [usize::from(setup.compression)],
            pack_size: setup.pack_kib << 10,
            pack_buffers: setup.buffers,
            uploads: setup.uploads,
            checkpoint_packs: setup.checkpoint,
        };
        let is_open = given.is_none_or(|n| !self.kept[n].hidden);
        let (dead, mut all) = if is_open { self.dead(volume) } else { (Vec::new(), BTreeSet::new()) };
        let race = parent.filter(|n| setup.race && !self.kept[*n].hidden);
        if let Some(n) = race {
            let (repository, id) = (self.repository.clone(), self.kept[n].snapshot.id);
            self.storage.on_open(Box::new(move || {
                repository.forget(&id, Duration::from_secs(3600), "at a bad moment").unwrap();
            }));
        }
        let (absent, listed) = (self.lost.keys().cloned().collect(), self.packs(false));
        let index = self.caches[setup.index].index.clone();
        let result = SnapshotWriter::start(&self.repository, index.clone(), &options);
        for id in dead {
            let Run { ended, left, .. } = *self.run(id);
            self.fences += usize::from(!ended);
            self.run(id).ended = true;
            self.cases.add(match (ended, left) {
                (false, _) => "a silent run was adopted",
                (_, true) => "a run that was given up was adopted",
                _ => "a run that a list had ended was adopted",
            });
            if let Some(open) = self.writers.iter_mut().flatten().find(|w| w.task.id == id) {
                open.task.fenced = true;
            }
        }
        if let Some(n) = race {
            assert!(!self.storage.forget_hook(), "no session was opened");
            self.kept[n].hidden = true;
            self.kept[n].due = self.repository.forget_due(&self.kept[n].snapshot.id).unwrap().unwrap().0;
            self.fences += 1;
            self.cases.add("a parent was lost in the midst of opening");
            parent = self.newest(volume);
            self.add_refused(volume, result.as_ref().ok().map(SnapshotWriter::id), all);
            all = self.dead(volume).1;
        }
        if given.is_some_and(|n| self.kept[n].hidden) {
            assert!(matches!(result.unwrap_err().kind(), ErrorKind::NoSnapshot | ErrorKind::Invalid));
            return None;
        }
        let writer = result.unwrap();
        assert_eq!(writer.parent().map(|p| p.id), parent.map(|n| self.kept[n].snapshot.id), "the parent");
        let of = |key: &Key, id: &SessionId| keys::parse_pack(key).is_some_and(|pack| pack.session == *id);
        let adopts: BTreeSet<SessionId> =
            all.iter().filter(|id| listed.iter().any(|key| of(key, id))).copied().collect();
        let alive = self.writers.iter().flatten().any(|w| all.contains(&w.task.id));
        // One that lives may store its first pack at any moment.
        assert!(alive || writer.is_resumed() != adopts.is_empty(), "what was adopted");
        let inherited_unit = parent.map(|n| self.kept[n].snapshot.chunk_size().unwrap());
        let unit = setup.class.map(|class| (64 << 10) << class).or(inherited_unit).unwrap_or(64 << 10);
        assert_eq!(writer.chunk_size() as u64, unit);
        let usable = inherited_unit == Some(unit);
        assert_eq!(writer.can_inherit(), usable);
        if parent.is_some() && !usable {
            self.cases.add("other chunk size than the parent");
        }
        let adopted = |key: &&Key| adopts.iter().any(|id| of(key, id));
        self.caches[setup.index].knows.extend(listed.iter().filter(adopted).cloned());
        let id = writer.id();
        self.runs.push(Run { id, volume, ended: false, left: false, adopts: all.into_iter().collect() });
        let mut task = Task {
            setup: *setup,
            id: writer.id(),
            index,
            disk: self.disks[volume].clone(),
            unit,
            parent,
            usable,
            windows: VecDeque::new(),
            inherited: BTreeSet::new(),
            skipped: 0,
            absent,
            listed,
            seen: self.lists.len(),
            fenced: false,
            resumed: writer.is_resumed(),
            adopts,
            tally: Stats::default(),
            own: HashSet::new(),
            new: HashSet::new(),
        };
        self.plan(&writer, &mut task);
        Some(Writing { writer, task })
    }

    /// A session that ended at once because its parent was being forgotten. It had adopted what it found.
    fn add_refused(&mut self, volume: usize, next: Option<SessionId>, adopts: BTreeSet<SessionId>) {
        let found = keys_of(&*self.storage);
        let mut ids = found.iter().filter_map(keys::parse_session).map(|(id, _)| id);
        let id = ids.find(|id| Some(*id) != next && self.runs.iter().all(|run| run.id != *id)).unwrap();
        self.runs.push(Run { id, volume, ended: true, left: false, adopts: adopts.into_iter().collect() });
    }

    /// What of these chunks the writer would take over unread: all that is not lost.
    fn inheritable(
        &mut self,
        writer: &SnapshotWriter,
        task: &Task,
        parent: usize,
        part: Range<u64>,
    ) -> Vec<Range<u64>> {
        let found = writer.inheritable(part.clone()).unwrap();
        let parent = &self.kept[parent];
        let shaky = |key: &Key| task.absent.contains(key) || self.lost.contains_key(key);
        if !parent.nodes.iter().any(shaky) {
            let lost = parent.packs.range(part.clone()).filter(|(_, key)| task.absent.contains(*key));
            let lost: BTreeSet<u64> = lost.map(|(n, _)| *n).collect();
            let want: BTreeSet<u64> = part.filter(|n| !lost.contains(n)).collect();
            assert!(found.iter().cloned().flatten().eq(want), "what can be taken over unread");
            if !lost.is_empty() {
                self.cases.add("an unread chunk was lost and had to be read");
            }
        }
        found
    }

    /// Decides which chunks are taken over unread and in which order the others are put.
    fn plan(&mut self, writer: &SnapshotWriter, task: &mut Task) {
        let mut state = task.setup.order;
        let present = task.disk.present(task.unit);
        let mut read: BTreeSet<u64> = present.clone();
        let mut skipped: Vec<Range<u64>> = Vec::new();
        if let Some(parent) = task.parent.filter(|_| task.usable && task.setup.inherit > 0) {
            for run in task.disk.unchanged(&self.kept[parent].disk, task.unit) {
                if splitmix(&mut state) % 8 >= u64::from(task.setup.inherit) {
                    continue;
                }
                // Sometimes in two parts, with a chunk between them that is read for nothing.
                let middle = run.start + splitmix(&mut state) % (2 * (run.end - run.start));
                for part in [run.start..middle.min(run.end), (middle + 1).min(run.end)..run.end] {
                    skipped.extend(self.inheritable(writer, task, parent, part));
                }
            }
            for run in &skipped {
                let bytes = task.disk.range(run.end - 1, task.unit).end - run.start * task.unit;
                task.skipped += bytes;
                task.inherited.extend(present.range(run.clone()));
                writer.inherit(run.clone(), bytes).unwrap();
            }
            read.retain(|n| !task.inherited.contains(n));
        }
        // Zeros that the source has allocated.
        let chunks = task.disk.chunks(task.unit);
        let zeros = (0..chunks.min(300)).chain(chunks.checked_sub(1));
        let is_skipped = |n: u64| skipped.iter().any(|run| run.contains(&n));
        read.extend(zeros.filter(|n| splitmix(&mut state).is_multiple_of(4) && !is_skipped(*n)));
        let mut read: VecDeque<u64> = read.into_iter().collect();
        while !read.is_empty() {
            let mut window: Vec<u64> = read.drain(..read.len().min(1 + splitmix(&mut state) as usize % 30)).collect();
            for n in (1..window.len()).rev() {
                window.swap(n, splitmix(&mut state) as usize % (n + 1));
            }
            task.windows.push_back(window);
        }
    }
}
