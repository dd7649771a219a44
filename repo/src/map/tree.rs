//! Reading a map: nodes on demand, verified, a bounded number of them kept for the whole repository.

use super::{Image, above, chunk_count, levels, span};
use crate::format::node::{FANOUT_BITS, Node, Slot};
use crate::format::records::SnapshotRecord;
use crate::id::PackId;
use crate::storage::keys;
use crate::{Error, Repository, Result};
use std::sync::Arc;

/// Nodes in the same pack that lie this close (bytes) are fetched by one request.
const GAP: u64 = 64 << 10;
/// Longest such request (bytes).
const MOST: u64 = 4 << 20;

/// Nodes that one request brings: the pack, first byte and end of the range, numbers and slots.
type Group = (PackId, u64, u64, Vec<(u64, Slot)>);

/// The map of one disk.
#[derive(Debug)]
pub(crate) struct Tree {
    repository: Repository,
    top: Option<Arc<Node>>,
    levels: u8,
    class: u8,
    /// Nodes that are not where their slots say are looked up by id.
    by_id: bool,
    /// Tells its nodes in the repository's cache.
    number: u64,
}

impl Tree {
    /// Checks that the top node is the one the snapshot's root id was computed from.
    pub(crate) fn open(repository: &Repository, record: &SnapshotRecord) -> Result<Self> {
        let damaged = |why: &str| Error::corrupt(format!("the snapshot's record is damaged: {why}"));
        if record.tree.is_some() {
            let text = "a snapshot is the tree of a directory: it has no map of a disk";
            return Err(Error::invalid(text));
        }
        if !(crate::crypto::MIN_CLASS..=crate::crypto::MAX_CLASS).contains(&record.class)
            || record.levels != levels(chunk_count(record.size, record.class))
        {
            return Err(damaged("its size, chunk size and map do not fit each other"));
        }
        let ids = &repository.keys().ids;
        let top = if record.top.is_empty() { None } else { Some(Node::decode(&record.top)?) };
        let id = top.as_ref().map(|top| ids.node(top.level, top.present().map(|(n, slot)| (n as u8, slot.id))));
        if top.as_ref().is_some_and(|top| top.level + 1 != record.levels)
            || ids.root(record.size, record.class, record.levels, id) != record.root
        {
            return Err(damaged("its map is not the one its root id names"));
        }
        Ok(Self {
            repository: repository.clone(),
            top: top.map(Arc::new),
            levels: record.levels,
            class: record.class,
            by_id: false,
            number: repository.nodes().new_map(),
        })
    }

    /// That of a disk image in a tree, whose top node is read. Where `by_id`, nodes are found as with
    /// [`looking_up`](Self::looking_up).
    pub(crate) fn of_image(repository: &Repository, image: &Image, by_id: bool) -> Result<Self> {
        let Image { size, class, levels: high, top } = *image;
        if !(crate::crypto::MIN_CLASS..=crate::crypto::MAX_CLASS).contains(&class)
            || high != levels(chunk_count(size, class))
        {
            return Err(Error::corrupt("a file is damaged: its size, chunk size and map do not fit each other"));
        }
        let number = repository.nodes().new_map();
        let tree = Self { repository: repository.clone(), top: None, levels: high, class, by_id, number };
        let slot = Slot { id: top.to.id, at: top.at };
        let top = tree.fetch(&[(0, slot)], high - 1)?.pop().map(|(_, node)| node).ok_or_else(lost)?;
        Ok(Self { top: Some(Arc::new(top)), ..tree })
    }

    /// V3: a node that is not where its slot says is looked up by id. For readers: a writer must not take over a slot
    /// whose pack is gone (W8).
    pub(crate) fn looking_up(self) -> Self {
        Self { by_id: true, ..self }
    }

    /// With all nodes where their slots say, or not at all.
    pub(crate) fn by_place(self) -> Self {
        Self { by_id: false, ..self }
    }

    pub(crate) fn levels(&self) -> u8 {
        self.levels
    }

    /// The node at a place; `None` where all below is zero or the place is outside the map.
    pub(crate) fn node(&self, level: u8, number: u64) -> Result<Option<Arc<Node>>> {
        if level + 1 >= self.levels {
            return Ok(self.top.clone().filter(|_| level + 1 == self.levels && number == 0));
        }
        let (cache, place) = (self.repository.nodes(), (self.number, level, number));
        if let Some(node) = cache.get(place) {
            return Ok(Some(node));
        }
        let Some(slot) = self.slot(level + 1, number)? else { return Ok(None) };
        let node = Arc::new(self.fetch(&[(number, slot)], level)?.pop().map(|(_, node)| node).ok_or_else(lost)?);
        cache.insert(place, node.clone());
        Ok(Some(node))
    }

    /// What the node of `level` above chunk or node `number` says of it.
    pub(crate) fn slot(&self, level: u8, number: u64) -> Result<Option<Slot>> {
        let (parent, slot) = above(number);
        Ok(self.node(level, parent)?.and_then(|node| node.slot(slot).copied()))
    }

    /// Where chunk `number` is; `None` when it is zero.
    pub(crate) fn chunk(&self, number: u64) -> Result<Option<Slot>> {
        self.slot(0, number)
    }

    /// The first leaf that is present from leaf number `from` on. Those next to it come with it.
    pub(crate) fn next_leaf(&self, mut from: u64) -> Result<Option<(u64, Arc<Node>)>> {
        loop {
            match self.leaf_from(from)? {
                None => return Ok(None),
                Some(leaf) if leaf > from => from = leaf,
                Some(leaf) => {
                    self.load_below(leaf >> FANOUT_BITS, leaf)?;
                    return Ok(self.node(0, leaf)?.map(|node| (leaf, node)));
                }
            }
        }
    }

    /// Before which leaf there is none from leaf number `from` on, by what the nodes above say. That leaf is present if it is
    /// `from` itself, and may be otherwise: what begins behind `from` is not read, so a hole is known to be one although what
    /// is behind it is lost.
    pub(crate) fn leaf_from(&self, from: u64) -> Result<Option<u64>> {
        match &self.top {
            Some(_) if self.levels == 1 => Ok((from == 0).then_some(0)),
            Some(top) => self.first_leaf(self.levels - 1, 0, top, from),
            None => Ok(None),
        }
    }

    /// Likewise, below the node (`level`, `number`), level at least 1.
    fn first_leaf(&self, level: u8, number: u64, node: &Node, from: u64) -> Result<Option<u64>> {
        // Leaves below one child.
        let below = span(level - 1);
        for (n, _) in node.present() {
            let child = (number << FANOUT_BITS) + n as u64;
            let start = child.saturating_mul(below);
            if start.saturating_add(below) <= from {
                continue;
            }
            if level == 1 || start > from {
                return Ok(Some(start));
            }
            let Some(node) = self.node(level - 1, child)? else { continue };
            if let Some(found) = self.first_leaf(level - 1, child, &node, from)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Loads the leaves below the level-1 node `number`, from leaf `from` on, that are not in memory yet, in few requests.
    pub(crate) fn load_below(&self, number: u64, from: u64) -> Result<()> {
        if self.levels < 2 {
            return Ok(());
        }
        let Some(node) = self.node(1, number)? else { return Ok(()) };
        let cache = self.repository.nodes();
        let below = node.present().map(|(n, slot)| ((number << FANOUT_BITS) + n as u64, *slot));
        let missing: Vec<_> = below.filter(|(n, _)| *n >= from && !cache.contains((self.number, 0, *n))).collect();
        for (n, node) in self.fetch(&missing, 0)? {
            cache.insert((self.number, 0, n), Arc::new(node));
        }
        Ok(())
    }

    /// Nodes of `level` by their slots: neighbours in a pack come in one request.
    pub(crate) fn fetch(&self, wanted: &[(u64, Slot)], level: u8) -> Result<Vec<(u64, Node)>> {
        let mut sorted: Vec<_> = wanted.to_vec();
        sorted.sort_by_key(|(_, slot)| (slot.at.pack, slot.at.offset));
        let mut groups: Vec<Group> = Vec::new();
        for (number, slot) in sorted {
            let (start, end) = (u64::from(slot.at.offset), u64::from(slot.at.offset) + u64::from(slot.at.len));
            match groups.last_mut() {
                Some((pack, from, to, members))
                    if *pack == slot.at.pack && start <= *to + GAP && end - *from <= MOST =>
                {
                    *to = end.max(*to);
                    members.push((number, slot));
                }
                _ => groups.push((slot.at.pack, start, end, vec![(number, slot)])),
            }
        }
        let read = |(pack, from, to, members): &Group| -> Result<Vec<(u64, Node)>> {
            let bytes = self.repository.storage().get_range(&keys::pack(pack), *from..*to);
            let open = |(number, slot): &(u64, Slot)| {
                let node = match &bytes {
                    Ok(bytes) => {
                        let start = (u64::from(slot.at.offset) - from) as usize;
                        self.open_node(slot, level, &bytes[start..start + slot.at.len as usize])
                    }
                    // A part may still be readable.
                    Err(e) if self.by_id && members.len() > 1 && self.repository.is_damage(e) => {
                        self.read_node(slot, level)
                    }
                    Err(e) => Err(e.again()),
                };
                match node {
                    Err(e) if self.by_id && self.repository.is_damage(&e) => self.find_node(*number, slot, level, &e),
                    node => node,
                }
                .map(|node| (*number, node))
            };
            members.iter().map(open).collect()
        };
        let lanes = self.repository.storage().lanes().min(8);
        if groups.len() <= 2 || lanes == 1 {
            return groups
                .iter()
                .map(read)
                .collect::<Result<Vec<_>>>()
                .map(|parts| parts.into_iter().flatten().collect());
        }
        let share = groups.len().div_ceil(lanes);
        let read = |part: &[Group]| part.iter().map(read).collect::<Result<Vec<_>>>().map(|parts| parts.concat());
        let parts = crate::side::at_once(groups.chunks(share), read, || Err(lost()));
        Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }

    fn open_node(&self, slot: &Slot, level: u8, sealed: &[u8]) -> Result<Node> {
        self.repository.opener().node(&slot.id, level, &slot.at, sealed)
    }

    fn read_node(&self, slot: &Slot, level: u8) -> Result<Node> {
        let start = u64::from(slot.at.offset);
        let range = start..start + u64::from(slot.at.len);
        self.open_node(slot, level, &self.repository.storage().get_range(&keys::pack(&slot.at.pack), range)?)
    }

    /// A node from another place than its slot says, where `why` happened.
    fn find_node(&self, number: u64, slot: &Slot, level: u8, why: &Error) -> Result<Node> {
        let is_gone = why.kind() == crate::ErrorKind::NotFound;
        if let Some(node) = self.repository.elsewhere().node(&self.repository, slot, level, is_gone)? {
            return Ok(node);
        }
        let bytes = |chunk: u64| u128::from(chunk) << self.class;
        let (from, to) = (bytes(number.saturating_mul(span(level + 1))), bytes(span(level + 1)));
        let text = format!(
            "bytes {from} to {} cannot be read: the part of the map that leads to them is lost: {}, and no other pack has \
             it; run `wherry check --read-data`, or take another snapshot",
            from + to - 1,
            why.message()
        );
        Err(why.instead(text).with_object(keys::pack(&slot.at.pack)))
    }
}

fn lost() -> Error {
    Error::internal("a map node was read and lost")
}
