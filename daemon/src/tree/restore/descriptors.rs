//! Descriptors that are closed when others are needed, and opened again.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

/// A place for a descriptor.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Option<Arc<File>>>);

impl Slot {
    /// One that stays open.
    pub(super) fn held(file: File) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Arc::new(file)))))
    }

    /// The descriptor, if it is open.
    pub(super) fn now(&self) -> Option<Arc<File>> {
        self.0.lock().clone()
    }

    /// Closes it, as soon as nobody works with it.
    pub(super) fn close(&self) {
        self.0.lock().take();
    }
}

/// Keeps a bounded number of slots open: the ones opened last.
#[derive(Debug)]
pub(super) struct Descriptors {
    open: Mutex<VecDeque<Weak<Slot>>>,
    limit: usize,
}

impl Descriptors {
    pub(super) fn new(limit: usize) -> Self {
        Self { open: Mutex::default(), limit: limit.max(1) }
    }

    /// Puts an open descriptor into its slot, unless another thread was faster, and closes the oldest ones above the limit.
    pub(super) fn put(&self, slot: &Arc<Slot>, file: File) -> Arc<File> {
        let file = {
            let mut place = slot.0.lock();
            if let Some(there) = &*place {
                return Arc::clone(there);
            }
            Arc::clone(place.insert(Arc::new(file)))
        };
        // No lock of a slot is held from here on: each one is taken alone.
        let mut closing = Vec::new();
        {
            let mut open = self.open.lock();
            open.push_back(Arc::downgrade(slot));
            while open.len() > self.limit {
                closing.extend(open.pop_front());
            }
        }
        for old in closing.iter().filter_map(Weak::upgrade).filter(|old| !Arc::ptr_eq(old, slot)) {
            old.close();
        }
        file
    }

    /// What is in the slot, opened if it must be.
    pub(super) fn get(&self, slot: &Arc<Slot>, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<File>> {
        match slot.now() {
            Some(file) => Ok(file),
            None => Ok(self.put(slot, open()?)),
        }
    }
}
