//! Nodes of trees in memory, for all snapshots of a repository together, and whole packs of them. Nodes lie in packs in the
//! order of the walk, so whoever reads a tree in order has many nodes from one request.
//!
//! A node is known by its place and not by its id: equal ids may carry different hints, and a writer must take over those
//! of its parent alone (D1).

use super::Node;
use crate::format::tree::{ListNode, Placed, Ref, TreeNode};
use crate::id::{Location, PackId};
use crate::storage::keys;
use crate::{Error, ErrorKind, Repository, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Kept unless a limit is set (bytes).
const DEFAULT: usize = 24 << 20;
/// Packs of nodes are not longer than this (bytes) where this version wrote them; longer ones are read in parts.
const PACK: u64 = 4 << 20;
/// Packs whose misses are counted.
const COUNTED: usize = 4096;
/// The misses of a pack that cannot be read as a whole: no power of two, and they stay as they are.
const NEVER: u32 = u32::MAX;

/// A bounded number of bytes of nodes: a third as they are used, the rest as packs. What was used last stays.
#[derive(Debug)]
pub(crate) struct TreeCache {
    limit: AtomicUsize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By place, and whether a reader found it elsewhere by id.
    nodes: Recent<(PackId, u32, bool), (Ref, Arc<Node>)>,
    packs: Recent<PackId, Bytes>,
    misses: HashMap<PackId, u32>,
}

impl Default for TreeCache {
    fn default() -> Self {
        Self { limit: AtomicUsize::new(DEFAULT), kept: Mutex::default() }
    }
}

impl TreeCache {
    /// From now on about so many bytes are kept.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// A node; where `by_id`, also one that is not where its hint says (V3).
    pub(crate) fn load(&self, repository: &Repository, at: &Placed, by_id: bool) -> Result<Arc<Node>> {
        let read = match self.read(repository, at) {
            Err(e) if by_id && repository.is_damage(&e) => self.find(repository, at, &e),
            read => read,
        };
        read.map_err(|e| e.with_object(keys::pack(&at.at.pack)))
    }

    fn kept(&self, at: &Location, to: &Ref, elsewhere: bool) -> Option<Arc<Node>> {
        let mut kept = self.kept.lock();
        let (known, node) = kept.nodes.get(&(at.pack, at.ordinal, elsewhere))?;
        (known.id == to.id && known.class == to.class).then(|| node.clone())
    }

    fn keep(&self, at: &Placed, elsewhere: bool, bytes: usize, node: Node) -> Arc<Node> {
        // What is decoded takes more than its bytes.
        let entries = match &node {
            Node::Folder(TreeNode::Leaf(entries)) => entries.len() * 320,
            Node::Folder(TreeNode::Inner { children, .. }) => children.len() * 160,
            Node::List(ListNode::Leaf(pieces)) => pieces.len() * 96,
            Node::List(ListNode::Inner { children, .. }) => children.len() * 112,
        };
        let node = Arc::new(node);
        let most = self.limit.load(Ordering::Relaxed) / 3;
        let key = (at.at.pack, at.at.ordinal, elsewhere);
        self.kept.lock().nodes.insert(key, (at.to, node.clone()), bytes + entries, most);
        node
    }

    fn read(&self, repository: &Repository, at: &Placed) -> Result<Arc<Node>> {
        if let Some(node) = self.kept(&at.at, &at.to, false) {
            return Ok(node);
        }
        let open = |sealed: Vec<u8>| repository.opener().tree_node(&at.to, &at.at, &sealed);
        let (sealed, of_pack) = self.sealed(repository, &at.at)?;
        let bytes = match open(sealed) {
            // What was read with the whole pack may be bad in memory alone, or may have come so once: it is asked for itself.
            Err(_) if of_pack => {
                self.kept.lock().packs.remove(&at.at.pack);
                open(part_of(repository, &at.at)?)?
            }
            opened => opened?,
        };
        Ok(self.keep(at, false, bytes.len(), decode(&at.to, &bytes)?))
    }

    /// V3: a node from another place than its hint says, where `why` happened.
    fn find(&self, repository: &Repository, at: &Placed, why: &Error) -> Result<Arc<Node>> {
        if let Some(node) = self.kept(&at.at, &at.to, true) {
            return Ok(node);
        }
        match repository.elsewhere().tree_node(repository, at, why.kind() == ErrorKind::NotFound)? {
            Some(bytes) => Ok(self.keep(at, true, bytes.len(), decode(&at.to, &bytes)?)),
            None => {
                let text = format!(
                    "a part of the tree cannot be read: {}, and no other pack has it; run `wherry check --read-data`, or take another \
                     snapshot",
                    why.message()
                );
                Err(why.instead(text))
            }
        }
    }

    /// The sealed bytes of a node, and whether they came with the whole pack. When a pack is asked for again it is read whole;
    /// when that does not last, seldom again.
    fn sealed(&self, repository: &Repository, at: &Location) -> Result<(Vec<u8>, bool)> {
        let key = keys::pack(&at.pack);
        let range = u64::from(at.offset)..u64::from(at.offset) + u64::from(at.len);
        let part = |pack: &Bytes| pack.get(range.start as usize..range.end as usize).map(<[u8]>::to_vec);
        let misses = {
            let mut kept = self.kept.lock();
            if let Some(pack) = kept.packs.get(&at.pack) {
                let cut = || Error::corrupt("a pack of nodes is shorter than it was").with_object(&key);
                return part(pack).ok_or_else(cut).map(|sealed| (sealed, true));
            }
            if kept.misses.len() >= COUNTED {
                kept.misses.clear();
            }
            let misses = kept.misses.entry(at.pack).or_default();
            *misses = misses.saturating_add(1);
            *misses
        };
        // At misses 2, 8, 32 and so on: however it is read, whole packs are but a few for each node that is not in one.
        if misses >= 2 && misses.is_power_of_two() && misses.trailing_zeros() % 2 == 1 {
            let tail = repository.storage().get_tail(&key, PACK);
            repository.reached(&tail);
            match tail {
                Ok(tail) => {
                    if tail.bytes.len() as u64 == tail.size
                        && let Some(sealed) = part(&tail.bytes)
                    {
                        let most = self.limit.load(Ordering::Relaxed) / 3 * 2;
                        let len = tail.bytes.len();
                        self.kept.lock().packs.insert(at.pack, tail.bytes, len, most);
                        return Ok((sealed, true));
                    }
                }
                // What cannot be read may be another part of the pack. It is not asked for as a whole again.
                Err(e) if e.kind() != ErrorKind::NotFound && repository.is_damage(&e) => {
                    self.kept.lock().misses.insert(at.pack, NEVER);
                }
                Err(e) => return Err(e),
            }
        }
        Ok((part_of(repository, at)?, false))
    }
}

/// The sealed bytes of a node alone, from the storage.
fn part_of(repository: &Repository, at: &Location) -> Result<Vec<u8>> {
    let range = u64::from(at.offset)..u64::from(at.offset) + u64::from(at.len);
    let sealed = repository.storage().get_range(&keys::pack(&at.pack), range);
    repository.reached(&sealed);
    Ok(sealed?.to_vec())
}

/// A node from its bytes, whose id was checked.
pub(crate) fn decode(to: &Ref, bytes: &[u8]) -> Result<Node> {
    let node = match to.class {
        crate::format::tree::LIST.. => Node::List(ListNode::decode(bytes)?),
        _ => Node::Folder(TreeNode::decode(bytes)?),
    };
    let is_it = node.class() == to.class;
    is_it.then_some(node).ok_or_else(|| Error::corrupt("a tree node is damaged: it is of another class"))
}

/// What was used last, as much of it as fits.
#[derive(Debug)]
struct Recent<K, V> {
    found: HashMap<K, (u64, usize, V)>,
    order: BTreeMap<u64, K>,
    now: u64,
    cost: usize,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { found: HashMap::new(), order: BTreeMap::new(), now: 0, cost: 0 }
    }
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    fn get(&mut self, key: &K) -> Option<&V> {
        let (used, _, value) = self.found.get_mut(key)?;
        self.now += 1;
        self.order.remove(used);
        self.order.insert(self.now, *key);
        *used = self.now;
        Some(value)
    }

    fn remove(&mut self, key: &K) {
        if let Some((used, cost, _)) = self.found.remove(key) {
            self.order.remove(&used);
            self.cost -= cost;
        }
    }

    /// The newest one stays, whatever it costs.
    fn insert(&mut self, key: K, value: V, cost: usize, most: usize) {
        self.now += 1;
        if let Some((used, cost, _)) = self.found.insert(key, (self.now, cost, value)) {
            self.order.remove(&used);
            self.cost -= cost;
        }
        self.order.insert(self.now, key);
        self.cost += cost;
        while self.cost > most && self.order.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((_, cost, _)) = self.found.remove(&oldest) {
                self.cost -= cost;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays_within_the_bound() {
        let mut recent = Recent::default();
        for n in 0..100 {
            recent.insert(n, n, 10, 100);
            recent.insert(n, n, 10, 100);
            assert_eq!(recent.get(&0), Some(&0), "it is used all the time");
            assert!(recent.cost <= 100 && recent.cost == 10 * recent.found.len());
            assert_eq!(recent.order.len(), recent.found.len());
        }
        assert_eq!(recent.get(&50), None);
        recent.insert(1000, 1000, 500, 100);
        assert_eq!(recent.get(&1000), Some(&1000));
        assert_eq!(recent.found.len(), 1);
        recent.remove(&1000);
        assert_eq!(recent.get(&1000), None);
        assert_eq!((recent.cost, recent.order.len()), (0, 0));
    }
}
