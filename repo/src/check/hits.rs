//! Step 5: whom the damage concerns. Maps and trees are walked once more; below a node where nothing was damaged for one
//! snapshot, nothing is for another one. Where a look at a copy shows new damage, all maps are walked again.

use super::maps::{View, node_piece, open_nodes};
use super::objects::Objects;
use super::packs::Packs;
use super::report::Lost;
use super::wanted::Wanted;
use super::{CheckStep, Hit, Piece, Run, data, paths, trees};
use crate::elsewhere::Copy;
use crate::format::node::{FANOUT_BITS, Node, Slot};
use crate::format::records::Sweep;
use crate::id::{PackId, ShortId};
use crate::map::Image;
use crate::storage::{Key, keys};
use crate::{ErrorKind, Result, Snapshot};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

/// What is damaged.
pub(super) struct Bad {
    /// Packs that are gone.
    pub(super) packs: BTreeSet<PackId>,
    /// Chunks and nodes, by pack and [`Piece::print`].
    pub(super) parts: HashSet<(PackId, u64)>,
}

/// Answers whether a chunk is elsewhere that are kept (about 100 bytes each).
const ANSWERS: usize = 1 << 16;

/// The hits of each damaged object, all that is damaged by then, and what of it is nowhere else, of which no more is named than
/// `most` allows.
pub(super) fn find(
    run: &Run<'_>,
    packs: &Packs<'_>,
    objects: &Objects,
    unreadable: &HashSet<usize>,
    bad: Bad,
    most: usize,
) -> Result<(BTreeMap<Key, Vec<Hit>>, Bad, Wanted)> {
    let mut search = Search::new(run, packs, bad, most);
    loop {
        let hits = search.all(objects, unreadable)?;
        let more = search.more.take();
        if more.is_empty() {
            return Ok((hits, search.bad, search.wanted.into_inner()));
        }
        // Snapshots that were looked at before may refer to that.
        let Bad { packs: gone, mut parts } = search.bad;
        parts.extend(more);
        packs.forget_clean();
        search = Search::new(run, packs, Bad { packs: gone, parts }, most);
    }
}

/// True when the snapshot was forgotten for good meanwhile, so that a collector may have removed what it needs.
fn has_gone(run: &Run<'_>, snapshot: &Snapshot) -> Result<bool> {
    match run.storage().head(&keys::snap(&snapshot.volume, &snapshot.id)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
        Ok(_) => Ok(run.repository.forget_of(&snapshot.id)?.is_some_and(|forget| forget.is_final())),
    }
}

pub(super) struct Search<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) packs: &'a Packs<'a>,
    pub(super) bad: Bad,
    /// The packs of all of it.
    names: HashSet<PackId>,
    /// What turned out to be damaged in this search.
    pub(super) more: RefCell<HashSet<(PackId, u64)>>,
    /// The pack to blame for a damaged chunk, if it is nowhere else: many snapshots refer to the same.
    answers: RefCell<HashMap<(PackId, u64), Option<PackId>>>,
    /// The random parts of the names of all packs that may go at any moment, those in sealed delete sets: from when somebody needed
    /// to know, and nothing that is known of packs is older.
    condemned: RefCell<Option<HashSet<u64>>>,
    /// Packs that are lost, by chunks that were in them: from when somebody needed to know.
    pub(super) lost: RefCell<Option<HashMap<ShortId, PackId>>>,
    /// What is nowhere.
    pub(super) wanted: RefCell<Wanted>,
    /// Snapshots done, and all.
    at: Cell<(u64, u64)>,
}

impl<'a> Search<'a> {
    fn new(run: &'a Run<'a>, packs: &'a Packs<'a>, bad: Bad, most: usize) -> Self {
        let names = bad.parts.iter().map(|(pack, _)| *pack).chain(bad.packs.iter().copied()).collect();
        let (more, answers, condemned, lost) = Default::default();
        let wanted = RefCell::new(Wanted::new(most));
        Self { run, packs, bad, names, more, answers, condemned, lost, wanted, at: Cell::default() }
    }

    pub(super) fn watch(&self) -> Result<()> {
        let (done, total) = self.at.get();
        (self.run.watch)(CheckStep::Hits, done, total)
    }

    fn all(&self, objects: &Objects, unreadable: &HashSet<usize>) -> Result<BTreeMap<Key, Vec<Hit>>> {
        let run = self.run;
        let mut hits: BTreeMap<Key, Vec<Hit>> = BTreeMap::new();
        for (volume, id, name) in &objects.lost {
            let hit = Hit {
                snapshot: *id,
                volume: *volume,
                name: name.clone(),
                time: None,
                whole: true,
                bytes: 0,
                ranges: Vec::new(),
                more: 0,
                paths: Vec::new(),
                more_paths: 0,
                entries: 0,
            };
            hits.entry(keys::snap(volume, id)).or_default().push(hit);
        }
        let total = objects.snapshots.len() as u64;
        for (n, snapshot) in objects.snapshots.iter().enumerate() {
            let mut found = BTreeMap::new();
            self.wanted.borrow_mut().begin();
            if unreadable.contains(&n) {
                let size = snapshot.record.size;
                let lost: &mut Lost = found.entry(keys::snap(&snapshot.volume, &snapshot.id)).or_default();
                if snapshot.record.tree.is_some() {
                    (lost.paths.whole, lost.paths.bytes) = (true, size);
                } else {
                    lost.ranges.push(0..size);
                }
            } else if !self.names.is_empty() {
                self.at.set((n as u64, total));
                self.watch()?;
                self.snapshot(snapshot, &mut found)?;
            }
            if found.is_empty() || has_gone(run, snapshot)? {
                continue;
            }
            self.wanted.borrow_mut().end(snapshot);
            let is_tree = snapshot.record.tree.is_some();
            for (key, Lost { ranges, paths }) in found {
                hits.entry(key).or_default().push(Hit {
                    snapshot: snapshot.id,
                    volume: snapshot.volume,
                    name: Some(snapshot.record.name.clone()),
                    time: Some(snapshot.record.started),
                    whole: if is_tree { paths.whole } else { ranges.bytes == snapshot.record.size },
                    bytes: if is_tree { paths.bytes } else { ranges.bytes },
                    ranges: ranges.kept,
                    more: ranges.more,
                    paths: paths.kept,
                    more_paths: paths.more,
                    entries: paths.entries,
                });
            }
        }
        Ok(hits)
    }

    fn snapshot(&self, snapshot: &Snapshot, found: &mut BTreeMap<Key, Lost>) -> Result<()> {
        if snapshot.record.tree.is_some() {
            return paths::find(self, snapshot, found);
        }
        let view = View::open(self.run, snapshot)?;
        match view.top()? {
            Some(top) => self.below(&view, top.level, 0, &top, found).map(drop),
            None => Ok(()),
        }
    }

    /// How many bytes of a disk image in a tree cannot be read, by the object that is to blame.
    pub(super) fn image(&self, image: &Image) -> Result<Vec<(Key, u64)>> {
        let (at, top) = (&image.top.at, trees::piece(&image.top));
        if self.packs.is_clean(&at.pack, at.ordinal) {
            return Ok(Vec::new());
        }
        let none = self.wanted.borrow_mut().inside(true);
        let found = self.of_image(image, &top);
        self.wanted.borrow_mut().inside(none);
        found
    }

    fn of_image(&self, image: &Image, top: &Piece) -> Result<Vec<(Key, u64)>> {
        let at = &image.top.at;
        let view = View::of_image(self.run, image, &mut |why| {
            if !self.is_bad(top) {
                self.run.does_not_open(top, why);
                self.more.borrow_mut().insert((at.pack, top.print()));
            }
        })?;
        let Some(view) = view else {
            self.wanted.borrow_mut().node(top);
            return Ok(vec![(keys::pack(&self.culprit(top)?), image.size)]);
        };
        let mut found = BTreeMap::new();
        if let Some(top) = view.top()?
            && self.below(&view, top.level, 0, &top, &mut found)?
        {
            return Ok(found.into_iter().map(|(key, lost)| (key, lost.ranges.bytes)).collect());
        }
        self.packs.set_clean(&at.pack, at.ordinal);
        Ok(Vec::new())
    }

    pub(super) fn is_bad(&self, piece: &Piece) -> bool {
        let pack = &piece.at.pack;
        self.names.contains(pack) && (self.bad.packs.contains(pack) || self.bad.parts.contains(&(*pack, piece.print())))
    }

    /// The pack to blame for a chunk; `None` when another one holds it. Of one whose pack is gone that is believed of the first copy
    /// as far as it was looked at; one that is damaged is read there, and so is what stands behind a copy that is.
    pub(super) fn lost_from(&self, piece: &Piece) -> Result<Option<PackId>> {
        let name = (piece.at.pack, piece.print());
        if let Some(answer) = self.answers.borrow().get(&name) {
            return Ok(*answer);
        }
        // Finding it may take a while.
        self.watch()?;
        let answer = if self.is_elsewhere(piece)? { None } else { Some(self.culprit(piece)?) };
        let mut answers = self.answers.borrow_mut();
        if answers.len() >= ANSWERS {
            answers.clear();
        }
        answers.insert(name, answer);
        Ok(answer)
    }

    fn is_elsewhere(&self, piece: &Piece) -> Result<bool> {
        let knew = self.condemned.borrow().is_some();
        if self.look(piece)? {
            return Ok(true);
        }
        // Else that was of before it was known what is condemned.
        if knew || self.condemned.borrow().is_none() { Ok(false) } else { self.look(piece) }
    }

    fn look(&self, piece: &Piece) -> Result<bool> {
        let known = self.packs.elsewhere(piece)?;
        if self.is_among(piece, &known)? {
            return Ok(true);
        }
        let mut others = self.packs.all_elsewhere(piece)?;
        others.retain(|copy| !known.contains(copy));
        self.is_among(piece, &others)
    }

    /// Whether one of these copies is intact.
    fn is_among(&self, piece: &Piece, copies: &[Copy]) -> Result<bool> {
        let named = |copy: &Copy| (copy.pack, Piece { at: copy.at, ..*piece }.print());
        let is_bad = |copy: &Copy| self.bad.packs.contains(&copy.pack) || self.bad.parts.contains(&named(copy));
        // The only thing that is known of a pack nobody has read is that it is not known to be damaged; where one copy is, another may
        // well be. One whose own index cannot be read is.
        let believed = self.bad.packs.contains(&piece.at.pack) && !copies.iter().any(is_bad);
        for copy in copies.iter().filter(|copy| !is_bad(copy)) {
            let there = Piece { at: copy.at, ..*piece };
            // A collector that has sealed its list asks nobody any more: what it has not copied of that goes.
            if self.is_condemned(&copy.pack)? {
                continue;
            }
            if believed && !copy.is_by_rows() {
                return Ok(true);
            }
            if data::opens(self.run, &copy.pack, &there)? {
                self.packs.set_opened(piece, copy);
                return Ok(true);
            }
            self.more.borrow_mut().insert(named(copy));
        }
        Ok(false)
    }

    /// Whether a pack may go at any moment. Who asks first, for whatever it is, learns that of all packs.
    pub(super) fn is_condemned(&self, pack: &PackId) -> Result<bool> {
        if let Some(condemned) = &*self.condemned.borrow() {
            return Ok(condemned.contains(&pack.random));
        }
        let (repository, mut condemned) = (self.run.repository, HashSet::new());
        for key in repository.list(keys::GEN)? {
            if !matches!(keys::parse_generation(&key), Some((_, true))) {
                continue;
            }
            self.watch()?;
            match repository.read::<Sweep>(&key) {
                Ok(sweep) => condemned.extend(sweep.packs.iter().map(|pack| pack.random)),
                // No collector takes anything by it, and it is told with the records.
                Err(e) if self.run.is_damage(&e) => {}
                Err(e) => return Err(e),
            }
        }
        // What collectors have copied of these is there by now (G7), and nothing of it was known by whoever looked before.
        repository.elsewhere().look_anew(repository)?;
        let is = condemned.contains(&pack.random);
        *self.condemned.borrow_mut() = Some(condemned);
        Ok(is)
    }

    /// True when something below the node is damaged.
    fn below(&self, view: &View, level: u8, number: u64, node: &Node, found: &mut BTreeMap<Key, Lost>) -> Result<bool> {
        let child = |n: usize| (number << FANOUT_BITS) + n as u64;
        if level == 0 {
            let pieces = node.present().map(|(n, slot)| (n, view.chunk(child(n), slot)));
            let bad: Vec<_> = pieces.filter(|(_, piece)| self.is_bad(piece)).collect();
            self.run.repository.elsewhere().expect(view.class, bad.iter().map(|(_, piece)| piece.id));
            let mut any = false;
            for (n, piece) in bad {
                if let Some(pack) = self.lost_from(&piece)? {
                    hit(found, &pack, view.bytes_of(child(n)));
                    self.wanted.borrow_mut().chunk(&piece, Some(child(n)));
                    any = true;
                }
            }
            return Ok(any);
        }
        let elsewhere = |slot: &Slot| self.run.repository.elsewhere().node(self.run.repository, slot, level - 1, true);
        let slots = node.present().map(|(n, slot)| (child(n), *slot));
        let (bad, rest): (Vec<_>, Vec<_>) = slots.partition(|(_, slot)| self.is_bad(&node_piece(slot, level - 1)));
        let wanted: Vec<_> = rest.into_iter().filter(|(_, s)| !self.packs.is_clean(&s.at.pack, s.at.ordinal)).collect();
        let mut steps: Vec<(u64, Slot, Option<Node>)> = Vec::new();
        for (n, slot) in bad {
            steps.push((n, slot, elsewhere(&slot)?));
        }
        for (n, slot, node) in open_nodes(&view.tree, &wanted, level - 1) {
            match node {
                Ok(node) => steps.push((n, slot, Some(node))),
                Err(e) if self.run.is_damage(&e) => {
                    let piece = node_piece(&slot, level - 1);
                    self.run.does_not_open(&piece, &e);
                    self.more.borrow_mut().insert((slot.at.pack, piece.print()));
                    steps.push((n, slot, elsewhere(&slot)?));
                }
                Err(e) => return Err(e),
            }
        }
        // Ascending, as the ranges are to be.
        steps.sort_unstable_by_key(|(n, ..)| *n);
        let mut any = false;
        for (n, slot, node) in steps {
            match node {
                None => {
                    let piece = node_piece(&slot, level - 1);
                    hit(found, &self.culprit(&piece)?, view.bytes_below(level - 1, n));
                    self.wanted.borrow_mut().node(&piece);
                    any = true;
                }
                Some(node) if self.below(view, level - 1, n, &node, found)? => any = true,
                Some(_) => self.packs.set_clean(&slot.at.pack, slot.at.ordinal),
            }
        }
        Ok(any)
    }
}

fn hit(found: &mut BTreeMap<Key, Lost>, pack: &PackId, bytes: Range<u64>) {
    if !bytes.is_empty() {
        found.entry(keys::pack(pack)).or_default().ranges.push(bytes);
    }
}
