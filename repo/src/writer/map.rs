//! Writing a map, of a volume or of a disk image in a tree: chunks go in by number, from any number of threads, and are the
//! parent's, or found, or stored; nodes are written when all below them is decided.

use super::shape::Shape;
use super::store::{Scratch, Store};
use super::{Put, is_zero};
use crate::format::node::{FANOUT_BITS, Node, Slot};
use crate::id::{Location, ShortId};
use crate::map::{MapBuilder, Tree, chunk_count, levels};
use crate::storage::keys;
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One map being written. The store is given to each call: it is that of the whole run.
#[derive(Debug)]
pub(crate) struct MapWriter {
    class: u8,
    parent: Option<Arc<Tree>>,
    parent_broken: AtomicBool,
    parent_loaded: AtomicU64,
    map: Mutex<MapState>,
    shape: Shape,
}

#[derive(Debug)]
struct MapState {
    builder: MapBuilder,
    waiting: BTreeMap<u64, Slot>,
    /// Chunks that are the parent's: first and one past the last.
    inherited: BTreeMap<u64, u64>,
    next: u64,
}

/// A map that was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// Levels it has.
    pub(crate) levels: u8,
    /// Its top node, which is not stored; `None`: all is zero.
    pub(crate) top: Option<Node>,
    /// Chunks that are not zero.
    pub(crate) chunks: u64,
}

impl MapWriter {
    /// In chunks of 2^`class` bytes, as those of `parent`.
    pub(crate) fn new(class: u8, parent: Option<Arc<Tree>>) -> Self {
        Self {
            class,
            parent,
            parent_broken: AtomicBool::new(false),
            parent_loaded: AtomicU64::new(u64::MAX),
            map: Mutex::new(MapState {
                builder: MapBuilder::new(),
                waiting: BTreeMap::new(),
                inherited: BTreeMap::new(),
                next: 0,
            }),
            shape: Shape::new(class),
        }
    }

    /// log2 of the chunk size.
    pub(crate) fn class(&self) -> u8 {
        self.class
    }

    /// The parent's map, as long as it could be read.
    pub(crate) fn parent(&self) -> Option<&Tree> {
        self.parent.as_deref().filter(|_| !self.parent_broken.load(Ordering::Relaxed))
    }

    /// Takes chunk `number`, read from the source. Each number at most once; those never put are zero. All have the chunk
    /// size but the last one of a disk that ends inside it. After an error there is no snapshot.
    pub(crate) fn put(&self, store: &Store, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<Put> {
        store.check()?;
        // What was not put would be zero.
        self.take(store, scratch, number, plain).inspect_err(|e| store.fail(e))
    }

    fn take(&self, store: &Store, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<Put> {
        self.shape.note(number, plain.len())?;
        let len = plain.len() as u64;
        store.counts.read.fetch_add(len, Ordering::Relaxed);
        let put = if is_zero(plain) { Put::Zero } else { self.decide(store, scratch, number, plain)? };
        store.counts.note(put, len);
        Ok(put)
    }

    /// Finds or makes a place for a chunk that is not zero.
    fn decide(&self, store: &Store, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<Put> {
        let id = store.repository.keys().ids.chunk(self.class, plain);
        let short = id.short();
        let same = self.parent_slot(store, number)?.filter(|s| s.id == short && store.is_listed(&s.at));
        let (at, put) = match same {
            Some(slot) => (slot.at, Put::Unchanged),
            None => store.put_chunk(scratch, self.class, &id, plain)?,
        };
        self.place(number, short, at);
        Ok(put)
    }

    /// Chunk `number` is this one.
    pub(super) fn place(&self, number: u64, id: ShortId, at: Location) {
        self.map.lock().waiting.insert(number, Slot { id, at });
    }

    /// T1: what the parent has at this place. A parent whose map cannot be read is not built upon any longer.
    fn parent_slot(&self, store: &Store, number: u64) -> Result<Option<Slot>> {
        let Some(tree) = self.parent() else { return Ok(None) };
        let group = number >> (2 * FANOUT_BITS);
        let load = || match self.parent_loaded.swap(group, Ordering::Relaxed) == group {
            true => Ok(()),
            false => tree.load_below(group, 0),
        };
        match load().and_then(|()| tree.chunk(number)) {
            Ok(slot) => Ok(slot),
            Err(e) if store.repository.is_damage(&e) => {
                if !self.parent_broken.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the parent's map cannot be read and is not built upon any further: {e}");
                }
                Ok(None)
            }
            Err(e) => Err(e.context("the parent's map").advise("--parent none does without it")),
        }
    }

    /// W8: those of these chunks that can be inherited, ascending: the parent's map can be read there, and every pack it
    /// names was there when the session began. All others have to be put.
    pub(crate) fn inheritable(&self, store: &Store, chunks: Range<u64>) -> Result<Vec<Range<u64>>> {
        let mut found = Vec::new();
        let Some(tree) = &self.parent else { return Ok(found) };
        let mut start = chunks.start;
        let mut leaf = start >> FANOUT_BITS;
        loop {
            match tree.next_leaf(leaf) {
                Ok(Some((number, node))) if number << FANOUT_BITS < chunks.end => {
                    for (n, _) in node.present().filter(|(_, slot)| !store.is_listed(&slot.at)) {
                        let lost = (number << FANOUT_BITS) + n as u64;
                        if chunks.contains(&lost) {
                            found.push(start..lost);
                            start = lost + 1;
                        }
                    }
                    leaf = number + 1;
                }
                Ok(_) => break,
                // What lies behind it cannot be told from what is zero.
                Err(e) if store.repository.is_damage(&e) => {
                    self.parent_broken.store(true, Ordering::Relaxed);
                    tracing::warn!("a part of the parent's map cannot be read and is not built upon: {e}");
                    found.push(start..(leaf << FANOUT_BITS).clamp(start, chunks.end));
                    start = chunks.end;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        found.push(start..chunks.end);
        found.retain(|range| range.start < range.end);
        Ok(found)
    }

    /// Takes these chunks over from the parent without reading them, when a list of changed blocks says they are the
    /// same and they are [inheritable](Self::inheritable). They are not put. `bytes` is their length in the volume.
    pub(crate) fn inherit(&self, store: &Store, chunks: Range<u64>, bytes: u64) -> Result<()> {
        if self.parent.is_none() {
            return Err(Error::internal("nothing to inherit from"));
        }
        store.counts.note(Put::Unchanged, bytes);
        if !chunks.is_empty() {
            self.map.lock().inherited.insert(chunks.start, chunks.end);
        }
        Ok(())
    }

    /// True when chunks can be inherited: there is an intact parent with the same chunk size.
    pub(crate) fn can_inherit(&self) -> bool {
        self.parent.is_some()
    }

    /// Says that every chunk below `number` was put, is inherited or is zero, so that the map of these can be written. After
    /// an error there is no snapshot.
    pub(crate) fn advance(&self, store: &Store, number: u64) -> Result<()> {
        // What was being put into the map is in it no more.
        self.write(store, number).inspect_err(|e| store.fail(e))
    }

    fn write(&self, store: &Store, number: u64) -> Result<()> {
        let mut guard = self.map.lock();
        let map = &mut *guard;
        if number <= map.next {
            return Ok(());
        }
        map.next = number;
        let later = map.waiting.split_off(&number);
        let ready = std::mem::replace(&mut map.waiting, later);
        for (n, slot) in ready {
            self.push_inherited(store, map, n)?;
            map.builder.push(n, slot, self.parent(), store)?;
        }
        self.push_inherited(store, map, number)
    }

    /// Puts the inherited chunks below `end` into the map.
    fn push_inherited(&self, store: &Store, map: &mut MapState, end: u64) -> Result<()> {
        while let Some((&from, &to)) = map.inherited.first_key_value().filter(|(from, _)| **from < end) {
            map.inherited.pop_first();
            let stop = to.min(end);
            if stop < to {
                map.inherited.insert(stop, to);
            }
            let tree = self.parent.as_ref().ok_or_else(|| Error::internal("nothing to inherit from"))?;
            let mut leaf = from >> FANOUT_BITS;
            // Not a leaf further: whether that can be read is not known.
            while leaf << FANOUT_BITS < stop
                && let Some((number, node)) =
                    tree.next_leaf(leaf).map_err(went)?.filter(|(n, _)| n << FANOUT_BITS < stop)
            {
                for (n, slot) in node.present() {
                    let chunk = (number << FANOUT_BITS) + n as u64;
                    if (from..stop).contains(&chunk) {
                        if !store.is_listed(&slot.at) {
                            // Who asked what is inheritable does not come here. The chunk would be lost.
                            return Err(Error::internal(format!(
                                "chunk {chunk} was taken over unread from {}, which is gone; nothing is committed, please \
                                 report it",
                                keys::pack(&slot.at.pack)
                            )));
                        }
                        map.builder.push(chunk, *slot, self.parent(), store)?;
                    }
                }
                leaf = number + 1;
            }
        }
        Ok(())
    }

    /// Ends the map of a disk of `size` bytes: what was put must fit that.
    pub(crate) fn finish(&self, store: &Store, size: u64) -> Result<Written> {
        self.shape.check(size)?;
        self.advance(store, u64::MAX)?;
        let map = std::mem::replace(&mut self.map.lock().builder, MapBuilder::new());
        let (chunks, levels) = (map.chunks(), levels(chunk_count(size, self.class)));
        let top = map.finish(levels, self.parent(), store)?;
        Ok(Written { levels, top, chunks })
    }
}

/// The parent's nodes are not where they were: a collector has sealed them anew meanwhile. The run starts over.
fn went(e: Error) -> Error {
    match e.kind() {
        ErrorKind::NotFound => Error::new(ErrorKind::Conflict, "the parent's map has moved").with_source(e),
        _ => e,
    }
}
