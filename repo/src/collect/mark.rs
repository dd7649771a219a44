//! G5 and G11: everything that roots lead to, each chunk and node once by its place.
//!
//! Nodes are opened some at a time: those that lie close to each other in a pack with one request, several requests side by
//! side. None is held: what is left of one is what it refers to.

use super::lists::{Lists, Root};
use super::packs::{Number, Packs};
use super::{CollectStep, Run};
use crate::elsewhere::{Copy, Elsewhere};
use crate::format::node::Node as MapNode;
use crate::format::records::{Generation, Outcome};
use crate::format::tree::{Entry, FOLDER, Placed, Ref, TreeNode};
use crate::id::{Location, PackId, ShortId, SnapshotId};
use crate::map::{Image, Tree};
use crate::storage::keys;
use crate::tree::{Leads, Node, TreeReader, decode};
use crate::{Error, ErrorKind, Repository, Result, Snapshot};
use std::collections::HashSet;

/// Nodes opened at a time.
const BATCH: usize = 256;
/// Above so many nodes that wait, one is opened at a time: its own come next, so no more wait than a path has.
const WAITING: usize = 1 << 16;
/// Nodes in the same pack that lie this close (bytes) are fetched by one request.
const GAP: u64 = 64 << 10;
/// Roots whose records are read at a time.
const ROOTS: usize = 64;

/// What something refers to.
#[derive(Clone, Copy, Debug)]
struct Child {
    id: ShortId,
    at: Location,
    class: u8,
    /// Bytes of its plaintext; of a map node 0.
    plain: u32,
    /// Of a map node: class of the chunks below it.
    chunks: u8,
    /// The root itself says where it is, and not a copy of a node, found by its id, that another snapshot's hints are in.
    own: bool,
}

/// A node that is to be opened: what it is and where its bytes are.
#[derive(Clone, Copy, Debug)]
struct Want {
    pack: PackId,
    node: Child,
}

impl Child {
    fn placed(placed: &Placed) -> Self {
        Self { id: placed.to.id, at: placed.at, class: placed.to.class, plain: placed.to.plain, chunks: 0, own: true }
    }

    fn image(image: &Image) -> Self {
        Self { chunks: image.class, plain: 0, ..Self::placed(&image.top) }
    }
}

/// What a snapshot needs is in no pack.
fn nowhere(child: &Child, is_cut: bool) -> Error {
    let key = keys::pack(&child.at.pack);
    let what = if child.class < 128 { "a chunk" } else { "a node" };
    let how = if is_cut { "was cut" } else { "is gone" };
    Error::corrupt(format!("{key} {how}, and {what} that a snapshot needs of it is in no other pack")).with_object(key)
}

/// An error about what a root leads to: whose it is, and how the collector comes to work again.
fn needed(e: Error, snapshot: &Snapshot, is_final: bool) -> Error {
    let e = match e.kind() {
        // By another collector, or lost: whoever gets this looks which.
        ErrorKind::NotFound => {
            let object = e.object().unwrap_or_default().to_owned();
            e.instead(format!("{object} is gone")).with_object(object)
        }
        _ => e,
    };
    let Snapshot { id, record, .. } = snapshot;
    e.advise(&match is_final {
        true => format!(
            "snapshot {id} of volume {:?} is gone for good and a session that began before needs it: end that session, or wait for its end",
            record.name
        ),
        false => format!(
            "snapshot {id} of volume {:?} needs it: heal it (`wherry repair --from` another repository with the same data, or \
             a new backup of the same data), or give the snapshot up (`wherry forget {id}`)",
            record.name
        ),
    })
}

/// What a map node refers to; `chunks` is the class of the chunks below it.
fn of_map(node: &MapNode, chunks: u8) -> Vec<Child> {
    let class = if node.level == 0 { chunks } else { 128 + node.level - 1 };
    node.present().map(|(_, slot)| Child { id: slot.id, at: slot.at, class, plain: 0, chunks, own: true }).collect()
}

/// What a node of a tree refers to.
fn of_tree(node: &Node) -> Vec<Child> {
    let mut children = Vec::new();
    node.each_lead(&mut |lead| {
        children.push(match lead {
            Leads::Chunk(placed) | Leads::Node(placed) => Child::placed(&placed),
            Leads::Image(image) => Child::image(&image),
        });
    });
    children
}

impl Run<'_> {
    /// G5. Anything that cannot be found or read is an error that names it. The result are packs that are not to go although nothing in
    /// them is marked, or a list condemns them: what they hold, or may hold, has no other copy.
    pub(super) fn mark(&self, packs: &mut Packs, roots: &[Root]) -> Result<HashSet<Number>> {
        let elsewhere = Elsewhere::new(self.options.memory / 2);
        let (stack, last_copies, found) = (Vec::new(), HashSet::new(), HashSet::new());
        let mut mark =
            Mark { run: self, packs, elsewhere, stack, last_copies, found, is_final: false, is_unclear: false };
        for part in roots.chunks(ROOTS) {
            mark.roots(part)?;
        }
        mark.keep_left_out()?;
        // For their sake others may go, which have the same.
        self.storage().make_durable(&mut mark.found.iter().map(keys::pack))?;
        Ok(mark.last_copies)
    }

    /// G10, G11: the delete set, what of a list is left when all that came meanwhile has been marked.
    pub(super) fn mark_again(&self, n: u32, list: &Generation) -> Result<Vec<PackId>> {
        let Lists { mut packs, roots } = self.lists_again(n)?;
        packs.condemn(&list.condemned);
        let known: HashSet<SnapshotId> = list.roots.iter().copied().collect();
        // A pack that was damaged since the list was made may leave a condemned one with the only intact copy of what an old root needs.
        let damaged = packs.all().any(|pack| packs.is_damaged(pack));
        let mut new = roots.all()?;
        new.retain(|root| damaged || !known.contains(&root.made.id));
        let last_copies = self.mark(&mut packs, &new)?;
        // Of all that are there: what the listing left out and a mark found is rescued, too.
        let rescued: HashSet<PackId> = packs
            .all()
            .filter(|pack| packs.is_condemned(*pack))
            .filter(|pack| {
                // Also of what was moved, when the copy is gone.
                if last_copies.contains(pack) {
                    return true;
                }
                let id = packs.id(*pack);
                let moved = list.moved.binary_search_by_key(&id, |moved| moved.pack).ok().map(|at| &list.moved[at]);
                packs.marks(*pack).any(|place| !moved.is_some_and(|moved| moved.holds(place)))
            })
            .map(|pack| packs.id(pack))
            .collect();
        Ok(list.condemned.iter().filter(|pack| !rescued.contains(pack)).copied().collect())
    }
}

struct Mark<'a, 'b> {
    run: &'a Run<'a>,
    packs: &'b mut Packs,
    /// Not the repository's, which may be older than the list of packs.
    elsewhere: Elsewhere,
    stack: Vec<Want>,
    /// Condemned packs in which something was found by its id, and nowhere else.
    last_copies: HashSet<Number>,
    /// Packs in which something was found by its id. They were listed, and nobody who committed has named them.
    found: HashSet<PackId>,
    /// The root that is walked is a snapshot that is gone for good. What it misses of a swept pack is passed over.
    is_final: bool,
    /// Of some chunk no copy was found but in packs that a check has found damaged.
    is_unclear: bool,
}

/// From this rank on a copy is in a pack that a check has found damaged, or whose own index cannot be read.
const DAMAGED: u8 = 3;

/// How a copy compares with others, the least first: one that is marked already, then one that no list condemns, then any; each
/// in a pack that no check has found damaged and whose own index can be read, and then in any other. `None` when it is not there.
fn rank(packs: &mut Packs, repository: &Repository, copy: &Copy) -> Result<Option<(u8, Number)>> {
    let n = packs.find(repository, &copy.pack)?.filter(|n| copy.at.end() <= packs.size(*n));
    if copy.is_by_rows() {
        // No collector can move what is in it.
        packs.set_damaged([&copy.pack]);
    }
    Ok(n.map(|n| {
        let rank = match (packs.is_condemned(n), packs.is_marked(n, copy.place)) {
            (false, true) => 0,
            (false, false) => 1,
            (true, _) => 2,
        };
        (if packs.is_damaged(n) || copy.is_by_rows() { DAMAGED + rank } else { rank }, n)
    }))
}

impl Mark<'_, '_> {
    fn roots(&mut self, roots: &[Root]) -> Result<()> {
        let repository = self.run.repository;
        let wanted: Vec<_> = roots.iter().map(|root| (root, keys::snap(&root.volume, &root.made.id))).collect();
        for ((root, key), outcome) in wanted.iter().zip(repository.read_many::<_, Outcome>(&wanted)) {
            let (outcome, record_size) = match outcome {
                // Another collector removed the record (G13): nobody leans on it.
                Err(e) if e.kind() == ErrorKind::NotFound && root.is_final => continue,
                outcome => outcome?,
            };
            let Outcome::Snapshot(record) = outcome else {
                return Err(Error::corrupt("a snapshot has become a fence").with_object(key));
            };
            let snapshot = Snapshot { id: root.made.id, volume: root.volume, record: *record, record_size };
            let children = self.top(&snapshot).map_err(|e| e.with_object(key))?;
            self.is_final = root.is_final;
            self.walk(children)
                .map_err(|e| if repository.is_damage(&e) { needed(e, &snapshot, root.is_final) } else { e })?;
        }
        Ok(())
    }

    /// A root to its end before the next one begins: what is there twice is looked for by the newest that need it.
    fn walk(&mut self, children: Vec<Child>) -> Result<()> {
        self.take(children)?;
        while !self.stack.is_empty() {
            (self.run.watch)(CollectStep::Mark, self.packs.marked, self.packs.total.max(self.packs.marked))?;
            self.open()?;
        }
        Ok(())
    }

    /// What the record of a snapshot refers to.
    fn top(&self, snapshot: &Snapshot) -> Result<Vec<Child>> {
        let repository = self.run.repository;
        if snapshot.record.tree.is_some() {
            let root = TreeReader::open(repository, snapshot)?.root().clone();
            return Ok(of_tree(&Node::Folder(TreeNode::Leaf(vec![Entry::Known(Box::new(root))]))));
        }
        let tree = Tree::open(repository, &snapshot.record)?;
        let top = tree.node(tree.levels() - 1, 0)?;
        Ok(top.map_or_else(Vec::new, |top| of_map(&top, snapshot.record.class)))
    }

    /// Marks these; nodes that were not marked before are to be opened.
    fn take(&mut self, children: Vec<Child>) -> Result<()> {
        let repository = self.run.repository;
        let mut found = Vec::with_capacity(children.len());
        for child in children {
            let pack = self.packs.find(repository, &child.at.pack)?;
            if pack.is_none_or(|n| self.may_be_lost(n, &child)) {
                self.elsewhere.expect(child.class, [child.id]);
            }
            found.push((child, pack));
        }
        for (child, pack) in found {
            let is_cut = pack.is_some_and(|n| child.at.end() > self.packs.size(n));
            let (pack, place, node) = match pack.filter(|_| !is_cut) {
                Some(pack) => {
                    self.keep_intact(pack, &child)?;
                    (pack, child.at.ordinal, child)
                }
                None => {
                    let Some((pack, copy)) = self.resolve(&child)? else {
                        // Whoever holds such a root opened after it was final, and is refused (W5, V1).
                        // But not where the index of a pack could not be read: that pack may have it.
                        let gone = self.is_final && child.own && self.packs.is_swept(&child.at.pack);
                        if gone && self.elsewhere.left_out().is_empty() {
                            continue;
                        }
                        return Err(nowhere(&child, is_cut));
                    };
                    let own = child.own && self.packs.is_swept(&child.at.pack);
                    self.found.insert(copy.pack);
                    if self.packs.is_condemned(pack) {
                        self.last_copies.insert(pack);
                    }
                    (pack, copy.place, Child { at: copy.at, plain: copy.plain, own, ..child })
                }
            };
            self.packs.note_epoch(pack, node.at.epoch);
            if self.packs.mark(pack, place, node.at.len)? && node.class >= 128 {
                self.stack.push(Want { pack: self.packs.id(pack), node });
            }
        }
        Ok(())
    }

    /// Whether a chunk is not marked yet and in a pack that a check has found damaged: which of its chunks are nobody noted.
    fn may_be_lost(&self, pack: Number, child: &Child) -> bool {
        child.class < 128 && self.packs.is_damaged(pack) && !self.packs.is_marked(pack, child.at.ordinal)
    }

    /// Of such a chunk an intact copy is kept besides, if there is one: readers find it by id, and it may be all that is left.
    fn keep_intact(&mut self, pack: Number, child: &Child) -> Result<()> {
        if !self.may_be_lost(pack, child) {
            return Ok(());
        }
        match self.best(child)? {
            Some((rank, n, copy)) if rank < DAMAGED => self.keep(n, &copy),
            Some(_) => self.keep_all(child),
            None => {
                self.is_unclear = true;
                Ok(())
            }
        }
    }

    /// All copies of a chunk that are only in packs in which a check has found damage: any of them may be the intact one.
    fn keep_all(&mut self, child: &Child) -> Result<()> {
        self.is_unclear = true;
        let repository = self.run.repository;
        for copy in self.elsewhere.find_all(repository, &child.id, child.class, &child.at)? {
            match rank(self.packs, repository, &copy)? {
                Some((_, n)) => self.keep(n, &copy)?,
                // Where its index was read it was not cut: it is the listing that could not see how long it is.
                None => self.last_copies.extend(self.packs.find(repository, &copy.pack)?),
            }
        }
        Ok(())
    }

    /// An intact copy may be in a pack whose index cannot be read for now.
    fn keep_left_out(&mut self) -> Result<()> {
        if !self.is_unclear {
            return Ok(());
        }
        for pack in self.elsewhere.left_out() {
            self.last_copies.extend(self.packs.find(self.run.repository, &pack)?);
        }
        Ok(())
    }

    fn keep(&mut self, n: Number, copy: &Copy) -> Result<()> {
        self.found.insert(copy.pack);
        if self.packs.is_condemned(n) {
            self.last_copies.insert(n);
        }
        self.packs.note_epoch(n, copy.at.epoch);
        self.packs.mark(n, copy.place, copy.at.len).map(drop)
    }

    /// A copy of what is not where its hint says, in a pack that is there.
    fn resolve(&mut self, child: &Child) -> Result<Option<(Number, Copy)>> {
        let mut best = self.best(child)?;
        if best.is_none() {
            // Those that were known are all gone: once more, with what came since.
            let (repository, packs) = (self.run.repository, &mut *self.packs);
            best = self.elsewhere.first(repository, &child.id, child.class, &child.at, |copy| {
                Ok(rank(packs, repository, copy)?.map(|(rank, n)| (rank, n, *copy)))
            })?;
        }
        if best.is_some_and(|(rank, ..)| rank >= DAMAGED) && child.class < 128 {
            self.keep_all(child)?;
        }
        Ok(best.map(|(_, n, copy)| (n, copy)))
    }

    /// The copy to keep, and its rank: of those that are known; of all there are where none of these is in a pack that is there and
    /// that no check has found damaged.
    fn best(&mut self, child: &Child) -> Result<Option<(u8, Number, Copy)>> {
        let repository = self.run.repository;
        let known = self.elsewhere.find(repository, &child.id, child.class, &child.at)?;
        let best = self.best_of(&known)?;
        if best.is_some_and(|(rank, ..)| rank < DAMAGED) || !self.elsewhere.may_know_more(child.class) {
            return Ok(best);
        }
        let all = self.elsewhere.find_all(repository, &child.id, child.class, &child.at)?;
        self.best_of(&all)
    }

    fn best_of(&mut self, copies: &[Copy]) -> Result<Option<(u8, Number, Copy)>> {
        let mut best: Option<(u8, Number, Copy)> = None;
        for copy in copies {
            if let Some((rank, n)) = rank(self.packs, self.run.repository, copy)?
                && best.as_ref().is_none_or(|(known, ..)| rank < *known)
            {
                best = Some((rank, n, *copy));
            }
        }
        Ok(best)
    }

    /// Opens some of the nodes that wait and takes what they refer to.
    fn open(&mut self) -> Result<()> {
        let many = if self.stack.len() > WAITING { 1 } else { BATCH };
        // Bytes of nodes in memory at once.
        let most = (self.run.options.memory / 16).max(1 << 20);
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(want) = self.stack.last().copied()
            && taken.len() < many
            && (taken.is_empty() || bytes + u64::from(want.node.at.len) <= most)
        {
            bytes += u64::from(want.node.at.len);
            taken.push(want);
            self.stack.pop();
        }
        taken.sort_unstable_by_key(|want| (want.pack, want.node.at.offset));
        let near = |a: &Want, b: &Want| {
            let end = u64::from(a.node.at.offset) + u64::from(a.node.at.len);
            a.pack == b.pack && u64::from(b.node.at.offset) <= end + GAP
        };
        let groups: Vec<&[Want]> = taken.chunk_by(near).collect();
        let opened = crate::side::each(self.run.options.threads, &groups, |group| self.each_of(group))?;
        for (want, children) in taken.iter().zip(opened.into_iter().flatten()) {
            match children {
                Ok(children) => self.take(children)?,
                Err(damage) => self.take_elsewhere(want, damage)?,
            }
        }
        Ok(())
    }

    /// What each node of a group refers to, or how it is damaged. Any other error ends it.
    fn each_of(&self, group: &[Want]) -> Result<Vec<Result<Vec<Child>>>> {
        // What is gone is for the caller to tell: another collector may have deleted it.
        let is_damage = |e: &Error| e.kind() != ErrorKind::NotFound && self.run.repository.is_damage(e);
        let alone = |want: &Want| match self.run.group(std::slice::from_ref(want)) {
            Err(e) if is_damage(&e) => Ok(Err(e)),
            opened => Ok(Ok(opened?.into_iter().flatten().collect())),
        };
        match self.run.group(group) {
            Err(e) if is_damage(&e) => group.iter().map(alone).collect(),
            opened => Ok(opened?.into_iter().map(Ok).collect()),
        }
    }

    /// A node that is damaged where it should be is walked where it is found by its id, as readers find it (V3). Its own place
    /// stays marked, in a pack that counts as damaged from here on: no collector moves it. `damage` is the error when it is nowhere.
    fn take_elsewhere(&mut self, Want { pack, node }: &Want, damage: Error) -> Result<()> {
        let (run, packs) = (self.run, &mut *self.packs);
        let repository = run.repository;
        let found = self.elsewhere.first(repository, &node.id, node.class, &node.at, |copy| {
            // One that is in a delete set is as good as gone.
            let Some(n) = packs.find(repository, &copy.pack)? else { return Ok(None) };
            let there = Child { at: copy.at, plain: copy.plain, own: false, ..*node };
            match run.group(&[Want { pack: copy.pack, node: there }]) {
                Ok(_) => Ok(Some((n, *copy, there))),
                Err(e) if repository.is_damage(&e) => Ok(None),
                Err(e) => Err(e),
            }
        })?;
        let Some((n, copy, there)) = found else { return Err(damage) };
        self.found.insert(copy.pack);
        tracing::warn!("a node is damaged where a snapshot says that it is, and intact in another pack: {damage}");
        self.packs.set_damaged([pack]);
        if self.packs.is_condemned(n) {
            self.last_copies.insert(n);
        }
        self.packs.note_epoch(n, copy.at.epoch);
        if self.packs.mark(n, copy.place, copy.at.len)? {
            self.stack.push(Want { pack: copy.pack, node: there });
        }
        Ok(())
    }
}

impl Run<'_> {
    /// What each node of a group refers to.
    fn group(&self, group: &[Want]) -> Result<Vec<Vec<Child>>> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(Vec::new()) };
        let key = keys::pack(&first.pack);
        let start = u64::from(first.node.at.offset);
        let end = group.iter().map(|want| u64::from(want.node.at.offset) + u64::from(want.node.at.len)).max();
        let end = end.unwrap_or_else(|| u64::from(last.node.at.offset));
        let bytes = self.storage().get_range(&key, start..end).map_err(|e| e.with_object(&key))?;
        let open = |want: &Want| {
            let from = (u64::from(want.node.at.offset) - start) as usize;
            let mut children = self.children(&want.node, &bytes[from..from + want.node.at.len as usize])?;
            children.iter_mut().for_each(|child| child.own &= want.node.own);
            Ok(children)
        };
        group.iter().map(open).collect::<Result<_>>().map_err(|e| e.with_object(&key))
    }

    fn children(&self, node: &Child, sealed: &[u8]) -> Result<Vec<Child>> {
        let opener = self.repository.opener();
        if node.class >= FOLDER {
            let to = Ref { id: node.id, class: node.class, plain: node.plain };
            let bytes = opener.tree_node(&to, &node.at, sealed)?;
            return Ok(of_tree(&decode(&to, &bytes)?));
        }
        Ok(of_map(&opener.node(&node.id, node.class - 128, &node.at, sealed)?, node.chunks))
    }
}
