//! Runs: whole ones, and those whose steps others come between.

use super::ops::{End, Setup, Trouble};
use super::start::{Task, Writing};
use super::world::World;
use crate::witness::Fault;
use std::collections::BTreeMap;
use std::sync::Arc;
use wherry_repo::storage::keys;
use wherry_repo::{CommitInfo, Error, ErrorKind, Key, PackId, Put};

impl World {
    /// Puts so many windows.
    fn feed(&mut self, Writing { writer, task }: &mut Writing, windows: usize) -> Result<(), Error> {
        for _ in 0..windows {
            let Some(window) = task.windows.pop_front() else { break };
            let share = window.len().div_ceil(task.setup.threads);
            let put = |part: &[u64]| -> Result<Vec<(u64, Put)>, Error> {
                let mut scratch = writer.scratch()?;
                let one = |n: &u64| Ok((*n, writer.put(&mut scratch, *n, &task.disk.chunk(*n, task.unit))?));
                part.iter().map(one).collect()
            };
            let mut done = Vec::new();
            if task.setup.threads == 1 {
                // One by one, as each may find what the one before it has stored.
                for n in &window {
                    let want = self.expected(task, *n);
                    let (_, said) = put(&[*n])?[0];
                    done.push((*n, said, want));
                    if matches!(said, Put::Known | Put::New) {
                        task.own.insert(task.disk.content(*n, task.unit));
                    }
                }
            } else {
                let parts: Vec<Result<Vec<(u64, Put)>, Error>> = std::thread::scope(|scope| {
                    let threads: Vec<_> = window.chunks(share).map(|part| scope.spawn(move || put(part))).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                for (n, said) in parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat() {
                    done.push((n, said, self.expected(task, n)));
                }
            }
            for (n, said, want) in done {
                self.compare(task, n, said, want);
            }
            if task.setup.advance {
                // Anywhere up to the next one that will be put; so also in the midst of chunks taken over unread.
                let done = window.iter().max().map_or(0, |n| n + 1);
                let next = task.windows.iter().flatten().min().copied().unwrap_or(task.disk.chunks(task.unit));
                writer.advance(done + self.draw() % (next - done + 1))?;
            }
        }
        Ok(())
    }

    /// A whole run, with or without trouble.
    pub(super) fn backup(&mut self, setup: &Setup, trouble: Option<Trouble>) {
        let Some(mut writing) = self.start(setup) else { return };
        if let Some(Trouble { read, prefix, skip, applied }) = trouble {
            let part = if read { String::new() } else { writing.task.id.to_string() };
            self.storage.arm(Fault { read, prefix, part, skip, applied });
        }
        self.storage.set_slow(setup.uploads > 0 && setup.order.is_multiple_of(2));
        match self.feed(&mut writing, usize::MAX) {
            Ok(()) => self.commit(writing),
            Err(e) => self.fail(writing, &e),
        }
        self.storage.set_slow(false);
        self.storage.disarm();
    }

    pub(super) fn start_in(&mut self, slot: usize, setup: &Setup) {
        if self.writers[slot].is_some() {
            return;
        }
        self.writers[slot] = self.start(setup);
        if let [Some(a), Some(b)] = &self.writers {
            let same = a.task.setup.volume == b.task.setup.volume;
            self.cases.add(if same { "two runs at once on one volume" } else { "two runs at once on two volumes" });
        }
    }

    pub(super) fn feed_in(&mut self, slot: usize, windows: u8) {
        let Some(mut writing) = self.writers[slot].take() else { return };
        match self.feed(&mut writing, usize::from(windows)) {
            Ok(()) => self.writers[slot] = Some(writing),
            Err(e) => self.fail(writing, &e),
        }
    }

    /// False when it ended the run.
    pub(super) fn beat(&mut self, slot: usize) -> bool {
        let Some(mut writing) = self.writers[slot].take() else { return true };
        match writing.writer.pulse().beat() {
            Ok(()) => {
                assert!(!writing.task.fenced, "it must see its fence");
                if writing.task.seen < self.lists.len() {
                    self.cases.add("a list let a run go on");
                }
                writing.task.seen = self.lists.len();
                self.writers[slot] = Some(writing);
                true
            }
            Err(e) => {
                self.fail(writing, &e);
                false
            }
        }
    }

    pub(super) fn end_in(&mut self, slot: usize, end: End) {
        let Some(mut writing) = self.writers[slot].take() else { return };
        match end {
            End::Commit => match self.feed(&mut writing, usize::MAX) {
                Ok(()) => self.commit(writing),
                Err(e) => self.fail(writing, &e),
            },
            End::Drop => {
                let Writing { writer, task } = writing;
                drop(writer);
                self.uploaded(&task);
            }
            End::Abandon => self.abandon(writing),
        }
    }

    pub(super) fn give_up(&mut self, setup: &Setup) {
        let Some(mut writing) = self.start(setup) else { return };
        match self.feed(&mut writing, usize::MAX) {
            Ok(()) => self.abandon(writing),
            Err(e) => self.fail(writing, &e),
        }
    }

    fn abandon(&mut self, Writing { writer, task }: Writing) {
        writer.abandon().unwrap();
        self.fences += usize::from(!task.fenced);
        let run = self.run(task.id);
        (run.left, run.ended) = (true, true);
        self.uploaded(&task);
        let own = |key: &Key| keys::parse_pack(key).is_some_and(|pack| pack.session == task.id);
        let packs = self.packs(false).into_iter().filter(own).collect();
        self.left.insert(task.id, (task.new, packs));
    }

    /// A run that failed: for a reason, and whoever does not believe it gets no snapshot either.
    fn fail(&mut self, writing: Writing, error: &Error) {
        let Writing { writer, task } = writing;
        self.explain(&task, error);
        let stubborn = writer.commit(CommitInfo { size: task.disk.size, ..CommitInfo::default() });
        assert!(stubborn.is_err(), "a run that had failed ({error}) was committed");
        self.cases.add("a run failed");
    }

    /// Packs whose rows the index now has.
    fn uploaded(&mut self, task: &Task) {
        let cache = &self.caches[task.setup.index];
        if self.storage.has_fired() || !Arc::ptr_eq(&cache.index, &task.index) {
            return;
        }
        let own = |key: &Key| keys::parse_pack(key).is_some_and(|pack: PackId| pack.session == task.id);
        let packs: Vec<Key> = self.packs(false).into_iter().filter(own).collect();
        self.caches[task.setup.index].knows.extend(packs);
    }

    fn commit(&mut self, writing: Writing) {
        let Writing { writer, task } = writing;
        let tags = BTreeMap::from([("number".to_owned(), self.kept.len().to_string())]);
        let info = CommitInfo { size: task.disk.size, tags, source: "model".into(), ..CommitInfo::default() };
        let result = writer.commit(info);
        self.storage.calm();
        match result {
            Ok(snapshot) => {
                self.uploaded(&task);
                self.keep(snapshot, task);
            }
            Err(e) => {
                self.uploaded(&task);
                self.explain(&task, &e);
                self.cases.add("a run failed");
                // Asked for, applied, not answered.
                let found = self.repository.snapshots(None).unwrap().snapshots;
                if let Some(snapshot) = found.into_iter().find(|s| s.id == task.id) {
                    assert_eq!(e.kind(), ErrorKind::Unavailable, "there is a snapshot: {e}");
                    self.cases.add("a lost reply of the commit");
                    self.keep(snapshot, task);
                }
            }
        }
    }
}
