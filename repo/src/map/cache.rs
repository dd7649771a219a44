//! Nodes of maps that were read, for all maps that are open in one repository: so many open disks take no more memory
//! than one.

use crate::format::node::{FANOUT, Node, Slot};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What one node takes (bytes): its slots, and its entries here.
const NODE: usize = FANOUT * size_of::<Option<Slot>>() + 256;

/// Kept unless a limit is set (bytes).
const DEFAULT: usize = 4 << 20;

/// All nodes below one node of level 1, which are loaded together, and some above them.
const LEAST: usize = FANOUT + 32;

/// A map, the level of a node in it and its number there.
type Place = (u64, u8, u64);

/// A bounded number of nodes; the oldest go first.
#[derive(Debug)]
pub(crate) struct NodeCache {
    /// Nodes kept.
    limit: AtomicUsize,
    maps: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    nodes: HashMap<Place, Arc<Node>>,
    order: VecDeque<Place>,
}

impl Default for NodeCache {
    fn default() -> Self {
        let cache = Self { limit: AtomicUsize::new(0), maps: AtomicU64::new(0), kept: Mutex::default() };
        cache.set_limit(DEFAULT);
        cache
    }
}

impl NodeCache {
    /// From now on about so many bytes are kept, but not fewer nodes than work needs: 1.5 MiB.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.limit.store((bytes / NODE).max(LEAST), Ordering::Relaxed);
    }

    /// A number that tells the nodes of one map from those of all others.
    pub(crate) fn new_map(&self) -> u64 {
        self.maps.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn get(&self, place: Place) -> Option<Arc<Node>> {
        self.kept.lock().nodes.get(&place).cloned()
    }

    pub(crate) fn contains(&self, place: Place) -> bool {
        self.kept.lock().nodes.contains_key(&place)
    }

    pub(crate) fn insert(&self, place: Place, node: Arc<Node>) {
        let mut kept = self.kept.lock();
        if kept.nodes.insert(place, node).is_none() {
            kept.order.push_back(place);
        }
        while kept.nodes.len() > self.limit.load(Ordering::Relaxed) {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.nodes.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_maps_share_one_limit() {
        let cache = NodeCache::default();
        let node = Arc::new(Node::new(0));
        let maps: Vec<_> = (0..20).map(|_| cache.new_map()).collect();
        for limit in [DEFAULT, 100 * LEAST * NODE, 0] {
            cache.set_limit(limit);
            for (map, number) in maps.iter().flat_map(|map| (0..2000).map(move |n| (*map, n))) {
                cache.insert((map, 0, number), node.clone());
                cache.insert((map, 0, number), node.clone());
                assert!(cache.get((map, 0, number)).is_some(), "the newest is kept");
            }
            let kept = cache.kept.lock();
            assert_eq!(kept.nodes.len(), (limit / NODE).max(LEAST));
            assert_eq!(kept.order.len(), kept.nodes.len());
        }
        assert!(!cache.contains((maps[0], 0, 1999)), "nodes of another map took its place");
    }
}
