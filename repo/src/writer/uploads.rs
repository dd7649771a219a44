//! Packs on their way to the storage, and what is done when they are acknowledged: index rows, then now and then a
//! checkpoint.

use crate::format::segment::{self, PackRows};
use crate::id::{Location, PackKind, ShortId};
use crate::index::{ChunkIndex, Row};
use crate::pack::SealedPack;
use crate::session::Session;
use crate::side::as_here;
use crate::storage::keys;
use crate::{Error, ErrorKind, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};

#[derive(Debug)]
pub(super) struct Uploads {
    shared: Arc<Shared>,
    queue: Mutex<Option<Sender<SealedPack>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    session: Arc<Session>,
    index: Arc<ChunkIndex>,
    failed: Mutex<Option<Error>>,
    /// Chunks of this run whose packs are not acknowledged yet.
    on_the_way: Mutex<HashMap<ShortId, Location>>,
    /// Acknowledged packs that no segment names yet.
    acknowledged: Mutex<Vec<PackRows>>,
    checkpoint_packs: usize,
    segments: AtomicU32,
    stored: AtomicU64,
}

impl Uploads {
    /// With `threads` packs under way at once; fewer where no more threads can be had.
    ///
    /// # Errors
    /// `Unavailable` when there is none at all.
    pub(super) fn start(
        session: Arc<Session>,
        index: Arc<ChunkIndex>,
        threads: usize,
        checkpoint_packs: usize,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            session,
            index,
            failed: Mutex::default(),
            on_the_way: Mutex::default(),
            acknowledged: Mutex::default(),
            checkpoint_packs: checkpoint_packs.max(1),
            segments: AtomicU32::new(0),
            stored: AtomicU64::new(0),
        });
        if threads == 0 {
            return Ok(Self { shared, queue: Mutex::default(), threads: Mutex::default() });
        }
        // As long as packs have buffers; the pool is what bounds them.
        let (sender, receiver): (_, Receiver<SealedPack>) = bounded(1024);
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..threads {
            let (shared, receiver) = (shared.clone(), receiver.clone());
            let work = as_here(move || receiver.iter().for_each(|pack| shared.upload(pack)));
            match Builder::new().spawn(work) {
                Ok(worker) => workers.push(worker),
                Err(e) if workers.is_empty() => {
                    let text = "no thread could be started for uploads: allow this user more processes";
                    return Err(Error::new(ErrorKind::Unavailable, text).with_source(e));
                }
                Err(_) => break,
            }
        }
        Ok(Self { shared, queue: Mutex::new(Some(sender)), threads: Mutex::new(workers) })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Fails when an upload has failed: nothing more is taken then.
    pub(super) fn check(&self) -> Result<()> {
        self.shared.failed.lock().as_ref().map_or(Ok(()), |e| Err(e.again()))
    }

    /// Makes every later call fail.
    pub(super) fn fail(&self, error: Error) {
        self.shared.fail(error);
    }

    pub(super) fn stored(&self) -> u64 {
        self.shared.stored.load(Ordering::Relaxed)
    }

    pub(super) fn on_the_way(&self, id: &ShortId) -> Option<Location> {
        self.shared.on_the_way.lock().get(id).copied()
    }

    /// The chunk will be in this place when its pack is acknowledged.
    pub(super) fn expect(&self, id: ShortId, at: Location) {
        self.shared.on_the_way.lock().insert(id, at);
    }

    pub(super) fn send(&self, pack: SealedPack) -> Result<()> {
        let queue = self.queue.lock().clone();
        match queue {
            Some(queue) => queue.send(pack).map_err(|_| Error::internal("the upload threads are gone"))?,
            None => self.shared.upload(pack),
        }
        self.check()
    }

    /// Waits until everything sent is acknowledged, and writes the last checkpoint.
    pub(super) fn finish(&self) -> Result<()> {
        self.queue.lock().take();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                self.fail(Error::internal("an upload thread panicked"));
            }
        }
        self.check()?;
        if !self.shared.on_the_way.lock().is_empty() {
            return Err(Error::internal("some chunks were never stored; nothing is committed"));
        }
        self.shared.checkpoint(1)
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.queue.lock().take();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    pub(super) fn fail(&self, error: Error) {
        self.failed.lock().get_or_insert(error);
    }

    fn upload(&self, pack: SealedPack) {
        if self.failed.lock().is_some() {
            return;
        }
        if let Err(e) = self.store(pack) {
            self.failed.lock().get_or_insert(e);
        }
    }

    fn store(&self, pack: SealedPack) -> Result<()> {
        let SealedPack { id, body, rows } = pack;
        let len = body.len() as u64;
        self.session.repository.storage().create(&keys::pack(&id), body)?;
        if id.kind == PackKind::Meta {
            self.session.metadata.fetch_add(len, Ordering::Relaxed);
            return Ok(());
        }
        self.stored.fetch_add(len, Ordering::Relaxed);
        // D5: rows only now that the storage has acknowledged the pack.
        let entries = Row::all(&rows);
        if let Err(e) = self.index.insert(&id, rows.epoch, &entries) {
            tracing::warn!("the chunk index takes no more rows: {e}");
        }
        let mut on_the_way = self.on_the_way.lock();
        for row in &entries {
            if on_the_way.get(&row.id).is_some_and(|at| at.pack == id) {
                on_the_way.remove(&row.id);
            }
        }
        drop(on_the_way);
        self.acknowledged.lock().push(rows);
        self.checkpoint(self.checkpoint_packs)
    }

    /// K1: an index segment of the acknowledged packs, when there are at least so many.
    fn checkpoint(&self, at_least: usize) -> Result<()> {
        let packs = {
            let mut acknowledged = self.acknowledged.lock();
            if acknowledged.len() < at_least {
                return Ok(());
            }
            std::mem::take(&mut *acknowledged)
        };
        let key = keys::segment(&self.session.id, self.segments.fetch_add(1, Ordering::Relaxed));
        let repository = &self.session.repository;
        let kind = crate::format::records::Kind::Segment;
        let sealed = repository.keys().seal_record(kind, &key, &segment::encode(&packs))?;
        self.session.metadata.fetch_add(sealed.len() as u64, Ordering::Relaxed);
        repository.storage().create(&key, sealed.into())?;
        if let Err(e) = self.index.cover(key.as_str()) {
            tracing::warn!("the chunk index takes no more rows: {e}");
        }
        Ok(())
    }
}
