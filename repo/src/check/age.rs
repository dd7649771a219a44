//! Step 6: when all data of a snapshot was read. Maps and trees are walked once more; what several snapshots share is looked at
//! once. Nothing is walked when this check has read everything and found it intact.

use super::hits::Bad;
use super::maps::{View, open_nodes};
use super::packs::Packs;
use super::trees::{each_chunk, image, len, open, piece, step, top};
use super::{CheckStep, Piece, Run};
use crate::elsewhere::Copy;
use crate::format::node::{FANOUT_BITS, Node as MapNode, Slot};
use crate::format::tree::{PIECE, Placed};
use crate::id::{PackId, SnapshotId};
use crate::map::Image;
use crate::tree::{Node, TreeReader};
use crate::{Result, Snapshot, Timestamp};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A check has opened all chunks of a pack. The greater one of two counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reading {
    /// When the check began.
    pub(super) at: Timestamp,
    /// Some chunk was damaged.
    pub(super) damaged: bool,
}

/// Since when the data below something was read and intact. The least of all parts is that of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Age {
    /// An earlier check found damage in a pack, and this one has not looked again.
    Damaged,
    /// Some of it was not read yet.
    Never,
    /// Each part was read by a check that began then or later.
    Since(Timestamp),
}

/// Of each snapshot; `None`: damage hits it.
pub(super) fn of_all(
    run: &Run<'_>,
    packs: &Packs<'_>,
    snapshots: &[Snapshot],
    bad: &Bad,
    hit: &HashSet<SnapshotId>,
) -> Result<Vec<(SnapshotId, Option<Age>)>> {
    let names = bad.parts.iter().map(|(pack, _)| *pack).chain(bad.packs.iter().copied()).collect();
    let walk = Walk { run, packs, bad, names, done: AtomicU64::new(0), total: snapshots.len() as u64 };
    let all_read = walk.names.is_empty() && packs.all_read();
    run.each_with(run.options.threads.min(4), snapshots, |snapshot| {
        walk.watch()?;
        let age = match (hit.contains(&snapshot.id), all_read) {
            (true, _) => None,
            (false, true) => Some(walk.now()),
            (false, false) => Some(walk.snapshot(snapshot)?),
        };
        walk.done.fetch_add(1, Ordering::Relaxed);
        Ok((snapshot.id, age))
    })
}

struct Walk<'a> {
    run: &'a Run<'a>,
    packs: &'a Packs<'a>,
    bad: &'a Bad,
    /// The packs of all that is damaged.
    names: HashSet<PackId>,
    /// Snapshots.
    done: AtomicU64,
    total: u64,
}

/// A tree node on the way.
struct Frame {
    /// `None`: the node in the record.
    at: Option<Placed>,
    /// What of it is next.
    next: usize,
    least: Age,
}

impl Walk<'_> {
    fn watch(&self) -> Result<()> {
        (self.run.watch)(CheckStep::Ages, self.done.load(Ordering::Relaxed), self.total)
    }

    /// Of what this check has read, and of what has no data: nodes are read by each check.
    fn now(&self) -> Age {
        Age::Since(self.run.began)
    }

    fn snapshot(&self, snapshot: &Snapshot) -> Result<Age> {
        if snapshot.record.tree.is_some() {
            return self.tree(snapshot);
        }
        self.map(&View::open(self.run, snapshot)?)
    }

    fn map(&self, view: &View) -> Result<Age> {
        match view.top()? {
            Some(top) => self.below(view, top.level, 0, &top),
            None => Ok(self.now()),
        }
    }

    fn below(&self, view: &View, level: u8, number: u64, node: &MapNode) -> Result<Age> {
        self.watch()?;
        let child = |n: usize| (number << FANOUT_BITS) + n as u64;
        let mut least = self.now();
        if level == 0 {
            let pieces: Vec<Piece> = node.present().map(|(n, slot)| view.chunk(child(n), slot)).collect();
            self.expect(view.class, &pieces);
            for piece in pieces {
                least = least.min(self.chunk(&piece)?);
            }
            return Ok(least);
        }
        let mut wanted = Vec::new();
        for (n, slot) in node.present() {
            match self.packs.age_below(&slot.at) {
                Some(age) => least = least.min(age),
                None => wanted.push((child(n), *slot)),
            }
        }
        // What is not verified as a whole is not looked at any further.
        if least <= Age::Never {
            return Ok(least);
        }
        for (n, slot, node) in open_nodes(&view.tree, &wanted, level - 1) {
            let age = match self.found(&slot, level - 1, node)? {
                Some(node) => self.below(view, level - 1, n, &node)?,
                None => Age::Damaged,
            };
            self.packs.set_age_below(&slot.at, age);
            least = least.min(age);
        }
        Ok(least)
    }

    /// A node from where its slot says, or from wherever else it is.
    fn found(&self, slot: &Slot, level: u8, node: Result<MapNode>) -> Result<Option<MapNode>> {
        match node {
            Err(e) if self.run.is_damage(&e) => {
                self.run.repository.elsewhere().node(self.run.repository, slot, level, true)
            }
            node => node.map(Some),
        }
    }

    /// Not held on the way down: see `trees`.
    fn tree(&self, snapshot: &Snapshot) -> Result<Age> {
        let root = top(TreeReader::open(self.run.repository, snapshot)?.root());
        let mut whole = self.now();
        let mut stack = vec![Frame { at: None, next: 0, least: whole }];
        while let Some(frame) = stack.last_mut() {
            let node = match &frame.at {
                None => Some(root.clone()),
                Some(at) => open(self.run, at, &mut |_| {})?,
            };
            if let Some(at) = self.node(frame, node)? {
                stack.push(Frame { at: Some(at), next: 0, least: self.now() });
                continue;
            }
            let Some(Frame { at, least, .. }) = stack.pop() else { break };
            at.iter().for_each(|at| self.packs.set_age_below(&at.at, least));
            match stack.last_mut() {
                Some(above) => above.least = above.least.min(least),
                None => whole = least,
            }
        }
        Ok(whole)
    }

    /// Goes on in a node, and gives the next one below it.
    fn node(&self, frame: &mut Frame, node: Option<Arc<Node>>) -> Result<Option<Placed>> {
        self.watch()?;
        let Some(node) = node else {
            frame.least = Age::Damaged;
            return Ok(None);
        };
        if frame.next == 0 && !self.names.is_empty() {
            let mut pieces = Vec::new();
            for n in 0..len(&node) {
                each_chunk(&node, n, &mut |chunk, _| {
                    pieces.push(piece(chunk));
                    Ok(())
                })?;
            }
            self.expect(PIECE, &pieces);
        }
        while frame.next < len(&node) && frame.least > Age::Never {
            let n = frame.next;
            frame.next += 1;
            let least = &mut frame.least;
            each_chunk(&node, n, &mut |chunk, _| {
                *least = (*least).min(self.chunk(&piece(chunk))?);
                Ok(())
            })?;
            if let Some(image) = image(&node, n) {
                *least = (*least).min(self.image(&image)?);
            }
            let Some(step) = step(&node, n) else { continue };
            match self.packs.age_below(&step.at.at) {
                Some(age) => *least = (*least).min(age),
                None => return Ok(Some(step.at)),
            }
        }
        Ok(None)
    }

    /// A disk image in a tree.
    fn image(&self, image: &Image) -> Result<Age> {
        let at = &image.top.at;
        if let Some(age) = self.packs.age_below(at) {
            return Ok(age);
        }
        let age = match View::of_image(self.run, image, &mut |_| {})? {
            Some(view) => self.map(&view)?,
            None => Age::Damaged,
        };
        self.packs.set_age_below(at, age);
        Ok(age)
    }

    fn chunk(&self, piece: &Piece) -> Result<Age> {
        if !self.is_bad(piece) {
            return Ok(self.packs.age(&piece.at.pack));
        }
        // It is found there by whoever reads it.
        let mut copies = self.packs.elsewhere(piece)?;
        let is_intact = |copy: &Copy| !self.is_bad_in(&copy.pack, &Piece { at: copy.at, ..*piece });
        copies.retain(is_intact);
        if copies.is_empty() {
            copies = self.packs.all_elsewhere(piece)?;
            copies.retain(is_intact);
        }
        Ok(copies.iter().map(|copy| self.packs.age_of_copy(copy)).max().unwrap_or(Age::Damaged))
    }

    fn is_bad(&self, piece: &Piece) -> bool {
        self.is_bad_in(&piece.at.pack, piece)
    }

    /// The pack is not that of its key when a collector has copied it.
    fn is_bad_in(&self, pack: &PackId, piece: &Piece) -> bool {
        self.names.contains(pack) && (self.bad.packs.contains(pack) || self.bad.parts.contains(&(*pack, piece.print())))
    }

    /// Those that are not where their hints say are looked for together.
    fn expect(&self, class: u8, pieces: &[Piece]) {
        let bad = pieces.iter().filter(|piece| self.is_bad(piece)).map(|piece| piece.id);
        self.run.repository.elsewhere().expect(class, bad);
    }
}
