//! How the ceiling of the process's memory is shared out, and how many threads work. Pure.
//!
//! Every buffer of size comes from one of these shares, so the sum holds whatever the volume is. What is held back is
//! for the executable's own pages, stacks, TLS and what the allocator does not give back.

use crate::cli::Size;
use crate::tree::backup::Shares;
use wherry_repo::format::tree::MAX_PIECE;
use wherry_repo::{Error, Result};

const MIB: u64 = 1 << 20;

/// The smallest ceiling that is accepted.
pub const MIN_CEILING: Size = Size(64 * MIB);

/// The largest amount of memory that is made use of: more is allowed, and idle.
const MAX_USED: u64 = 16 << 30;

/// Held back for everything that is not a buffer, besides a sixteenth of the ceiling.
const BASE: u64 = 24 * MIB;

/// An error unless work is possible within this ceiling.
pub fn check_ceiling(memory: Size) -> Result<()> {
    if memory < MIN_CEILING {
        return Err(Error::invalid(format!("--memory {memory} is too little: give at least {MIN_CEILING}")));
    }
    Ok(())
}

/// An error unless a password can be turned into a key within this ceiling: that takes `cost` bytes, for a moment.
pub fn check_password(memory: u64, cost: u64) -> Result<()> {
    let least = cost + BASE;
    if memory < least {
        let (memory, least) = (Size(memory), Size(least.next_multiple_of(8 * MIB)));
        return Err(Error::invalid(format!(
            "--memory {memory} is too little for a password: give at least {least}, or use a key file"
        )));
    }
    Ok(())
}

/// The shares, in bytes, and the numbers of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The ceiling of the whole process.
    pub ceiling: u64,
    /// The target size of a data pack.
    pub pack_size: u64,
    /// How many packs may be in memory: being filled, waiting, or being uploaded. At least 2.
    pub packs: usize,
    /// Buffers that sources read into and sinks write from.
    pub io_buffers: u64,
    /// The chunk index: block cache, write buffers and table readers of RocksDB together.
    pub index: u64,
    /// Nodes of maps, read and being written.
    pub nodes: u64,
    /// Decoded chunks, for a mount and a restore: they fill no packs, this is the same memory.
    pub chunk_cache: u64,
    /// Threads that hash, compress and seal, or open and decompress.
    pub workers: usize,
    /// Uploads at a time.
    pub uploads: usize,
    /// Downloads at a time.
    pub downloads: usize,
}

impl Budget {
    /// Shares out `ceiling` bytes, which [`check_ceiling`] accepted, on a machine with so many cores.
    pub fn new(ceiling: u64, cores: usize) -> Self {
        let usable = ceiling.clamp(MIN_CEILING.0, MAX_USED);
        let free = usable - usable / 16 - BASE;
        let for_packs = free / 2;
        let pack_size = [32, 16].into_iter().map(|m| m * MIB).find(|size| for_packs >= 3 * size).unwrap_or(8 * MIB);
        let packs = (for_packs / pack_size).clamp(2, 16);
        let rest = free - packs * pack_size;
        let io_buffers = (rest * 2 / 5).min(128 * MIB);
        let workers = cores.clamp(1, 64);
        Self {
            ceiling,
            pack_size,
            packs: packs as usize,
            io_buffers,
            index: (rest / 3).min(256 * MIB),
            nodes: (rest / 8).min(64 * MIB),
            chunk_cache: packs * pack_size,
            workers,
            uploads: (packs as usize - 1).min(8),
            downloads: ((io_buffers / (2 * MIB)) as usize).clamp(4, 32),
        }
    }

    /// That of this machine: as many workers as the process may use cores.
    pub fn of_machine(ceiling: u64) -> Self {
        Self::new(ceiling, std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// How many reads or writes of this many bytes may be in flight.
    pub fn depth(&self, bytes: u64) -> usize {
        ((self.io_buffers / bytes.max(1)) as usize).clamp(2, 256)
    }

    /// Bytes of first names of hard links, for a restore or an archive of a directory: half of the share of the index, which
    /// they have not; the other half is for what has to be looked up by id.
    pub fn first_names(&self) -> usize {
        (self.index / 2).min(64 * MIB) as usize
    }

    /// Bytes for the marks and look-ups of a collector, which has no sources and no index: all that the packs which it fills and
    /// reads back leave. What it needs grows with the packs there are, so none is held back.
    pub fn collector(&self) -> u64 {
        let usable = self.ceiling.clamp(MIN_CEILING.0, MAX_USED);
        let left = (usable - usable / 16 - BASE).saturating_sub(4 * self.pack_size);
        left.max(self.index + self.nodes + self.chunk_cache / 2)
    }

    /// The most that all shares hold at a time.
    pub fn buffers(&self) -> u64 {
        self.chunk_cache.max(self.packs as u64 * self.pack_size) + self.io_buffers + self.index + self.nodes
    }
}

/// How a node's agent shares out its memory among the volumes that it moves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeBudget {
    /// The chunk index, which all of them use whose repository is the same. Each further repository has an index of
    /// [`Self::FURTHER_INDEX`] bytes, and there are no more repositories than volumes.
    pub index: u64,
    /// Volumes at once.
    pub slots: usize,
    /// What each of them gets; of it the share for an index is left over.
    pub each: Budget,
}

impl NodeBudget {
    /// The least that one volume gets: less is too little for a directory.
    const LEAST: u64 = 160 * MIB;

    /// Memory of the index of a second repository, and of each further one, while another one is in use (bytes).
    pub const FURTHER_INDEX: u64 = 8 * MIB;

    /// Shares out `ceiling` bytes for at most so many volumes.
    pub fn new(ceiling: u64, cores: usize, most: usize) -> Self {
        let index = (ceiling / 8).clamp(8 * MIB, 256 * MIB);
        let free = ceiling.saturating_sub(index + BASE);
        let slots = ((free / (Self::LEAST + Self::FURTHER_INDEX)) as usize).clamp(1, most.max(1));
        let free = free - free.min((slots as u64 - 1) * Self::FURTHER_INDEX);
        let each = Budget::new((free / slots as u64).max(MIN_CEILING.0), cores);
        Self { index, slots, each }
    }
}

/// The shares of the backup of a directory.
#[derive(Clone, Copy, Debug)]
pub struct TreeBudget {
    /// The target size of a data pack.
    pub pack_size: u64,
    /// How many of them may be in memory.
    pub packs: usize,
    /// Uploads at a time.
    pub uploads: usize,
    /// Nodes of the parent's tree (bytes).
    pub nodes: u64,
    /// Nodes of the maps of the parent's disk images (bytes).
    pub maps: u64,
    /// What the pipeline may use.
    pub shares: Shares,
}

/// What a worker of a tree's backup needs for the longest piece: packed, packed again to prove it, sealed.
const TREE_WORKER: u64 = 13 * MIB / 2;

/// Packs of nodes, being filled and under way.
const TREE_META: u64 = 12 * MIB;

impl Budget {
    /// Shares for the backup of a directory into a repository with chunks of so many bytes.
    ///
    /// # Errors
    /// `Invalid` below 128 MiB.
    pub fn of_tree(&self, chunk_size: u32) -> Result<TreeBudget> {
        let least = Size(128 * MIB);
        if self.ceiling < least.0 {
            let text = format!("--memory {} is too little for a directory: give at least {least}", Size(self.ceiling));
            return Err(Error::invalid(text));
        }
        let large = self.ceiling >= 256 * MIB;
        let (pack_size, workers) = if large { (16 * MIB, self.workers.clamp(2, 4) * 2) } else { (8 * MIB, 2) };
        let workers = if self.ceiling >= 512 * MIB { workers } else { workers.min(4) };
        // A chunk of a disk image may be longer than a piece: twice at most.
        let workers = if chunk_size > MAX_PIECE { workers / 2 } else { workers };
        let shares = Shares {
            // More than there are cores: with cold caches they wait for the disk, for one block of a directory each.
            walkers: (4 * self.workers).clamp(4, 16),
            workers,
            windows: if large { 2 } else { 1 },
            entries: if large { 32_768 } else { 16_384 },
            small: if large { 16 * MIB } else { 4 * MIB },
            names: if large { 8 << 20 } else { 2 << 20 },
            links: if large { 13 << 20 } else { 4 << 20 },
        };
        // Two images that are read at once need twice what one does.
        let (nodes, maps) = if large { (20 * MIB, 4 * MIB) } else { (6 * MIB, 2 * MIB) };
        Ok(TreeBudget { pack_size, packs: 3, uploads: 2, nodes, maps, shares })
    }
}

impl TreeBudget {
    /// The most that all shares hold at a time, `index` included; the walk's entries are 256 bytes each. `chunk_size` is
    /// that of the repository.
    pub fn buffers(&self, index: u64, chunk_size: u32) -> u64 {
        let shares = &self.shares;
        let windows = shares.windows as u64 * 4 * MIB;
        let walk = shares.names as u64 + 2 * shares.entries as u64 * 256;
        let worker = TREE_WORKER * u64::from(chunk_size.max(MAX_PIECE)) / u64::from(MAX_PIECE);
        let work = shares.small + windows + shares.links as u64 + shares.workers as u64 * worker;
        self.packs as u64 * self.pack_size + TREE_META + self.nodes + self.maps + work + walk + index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_shares_its_memory_among_volumes() {
        for (mib, slots) in [(256, 1), (512, 2), (1024, 4), (4096, 4)] {
            let node = NodeBudget::new(mib * MIB, 4, 4);
            assert_eq!(node.slots, slots, "{mib} MiB");
            assert!(node.each.of_tree(256 << 10).is_ok(), "{mib} MiB: {node:?}");
            let further = (slots as u64 - 1) * NodeBudget::FURTHER_INDEX;
            let all = node.index + further + slots as u64 * node.each.buffers();
            assert!(all + BASE <= mib * MIB, "{mib} MiB: {node:?}");
            // The indexes of further repositories are no volume's to use.
            let left = mib * MIB - node.index - further - BASE;
            assert_eq!(node.each, Budget::new(left / slots as u64, 4), "{mib} MiB");
        }
        assert_eq!(NodeBudget::new(64 * MIB, 1, 4).slots, 1);
    }

    #[test]
    fn shares_stay_below_the_ceiling() {
        for mib in (64..=20_000).step_by(8).chain([64, 128, 256, 1024, 65_536]) {
            for cores in [1, 2, 64, 1000] {
                let budget = Budget::new(mib * MIB, cores);
                assert!(budget.buffers() + BASE <= mib * MIB, "{mib} MiB: {budget:?}");
                assert!(budget.packs >= 2 && budget.uploads >= 1 && budget.uploads < budget.packs, "{budget:?}");
                assert!(
                    budget.io_buffers >= 7 * MIB && budget.index >= 6 * MIB && budget.nodes >= 2 * MIB,
                    "{budget:?}"
                );
                assert!(budget.downloads >= 1 && budget.workers >= 1);
            }
        }
    }

    #[test]
    fn a_collector_stays_below_the_ceiling_and_uses_it() {
        for mib in (64..=20_000).step_by(8).chain([65_536]) {
            let budget = Budget::new(mib * MIB, 2);
            assert!(budget.collector() + 2 * budget.pack_size + BASE <= mib * MIB, "{mib} MiB: {budget:?}");
        }
        // A pebibyte: 17.2 million packs, of which each takes 96 bytes, in one half.
        assert!(Budget::new(4096 * MIB, 2).collector() / 2 > 17_200_000 * 96);
    }

    #[test]
    fn shares_of_the_usual_ceilings() {
        let shares = |mib: u64| {
            let b = Budget::new(mib * MIB, 2);
            [b.pack_size, b.packs as u64 * MIB, b.io_buffers, b.index, b.nodes].map(|n| n / MIB)
        };
        assert_eq!(shares(64), [8, 2, 8, 6, 2]);
        assert_eq!(shares(128), [16, 3, 19, 16, 6]);
        assert_eq!(shares(256), [32, 3, 48, 40, 15]);
        assert_eq!(shares(1024), [32, 14, 128, 162, 61]);
    }

    #[test]
    fn more_memory_is_never_less_of_anything_but_rounding() {
        let mut last = Budget::new(64 * MIB, 2);
        for mib in 65..4096 {
            let next = Budget::new(mib * MIB, 2);
            assert!(next.pack_size >= last.pack_size && next.chunk_cache + 32 * MIB >= last.chunk_cache, "{mib} MiB");
            last = next;
        }
    }

    #[test]
    fn depth_follows_the_size_of_a_chunk() {
        let budget = Budget::new(256 * MIB, 2);
        assert_eq!(budget.depth(256 << 10), 192);
        assert_eq!(budget.depth(4 * MIB), 12);
        assert_eq!(budget.depth(64 << 10), 256);
    }

    #[test]
    fn shares_of_a_tree_stay_below_the_ceiling() {
        for mib in [128, 200, 256, 300, 512, 1024, 65_536] {
            for cores in [1, 2, 64] {
                let budget = Budget::new(mib * MIB, cores);
                for chunk_size in [64 << 10, 256 << 10, 2 << 20, 4 << 20] {
                    let tree = budget.of_tree(chunk_size).unwrap();
                    let sum = tree.buffers(budget.index, chunk_size) + BASE;
                    assert!(sum <= mib * MIB - mib * MIB / 16, "{mib} MiB, {cores} cores: {}", sum / MIB);
                    assert!(tree.shares.workers >= 1 && tree.shares.windows >= 1);
                }
            }
        }
        assert_eq!(Budget::new(127 * MIB, 2).of_tree(256 << 10).unwrap_err().kind(), wherry_repo::ErrorKind::Invalid);
    }

    #[test]
    fn a_small_ceiling_is_refused() {
        assert!(check_ceiling(Size(64 * MIB)).is_ok());
        let error = check_ceiling(Size(64 * MIB - 1)).unwrap_err();
        assert_eq!(error.kind(), wherry_repo::ErrorKind::Invalid);
        assert!(error.to_string().contains("at least 64M"), "{error}");
        assert!(check_password(88 * MIB, 64 * MIB).is_ok());
        let error = check_password(64 * MIB, 64 * MIB).unwrap_err();
        assert!(error.to_string().contains("at least 88M"), "{error}");
    }
}
