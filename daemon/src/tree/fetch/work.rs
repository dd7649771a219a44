//! What the threads of a restore do: requests, and what is compared or read back.

use super::readback::Check;
use super::{Damage, Told, TreeRestore};
use crate::exit::{caught, one_line};
use crate::tree::path::escaped;
use crate::tree::restore::{FileHandle, Listed, There};
use crate::tree::view::is_damage;
use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, select, unbounded};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use wherry_block::BufferPool;
use wherry_repo::format::tree::Content;
use wherry_repo::{ChunkRef, Error, Fetch, ShortId};

/// Bytes that are read back at once.
const BUFFER: usize = 512 << 10;

/// A file that is being written. It is finished by whoever writes the last of it.
pub(super) struct Target {
    /// Below the target of the restore.
    pub(super) path: Vec<u8>,
    /// Bytes it has in the snapshot.
    size: u64,
    pub(super) handle: Mutex<Option<Arc<FileHandle>>>,
    /// Parts that are still to be written, and one for whoever may find more.
    pub(super) left: AtomicUsize,
    /// What is there of this name, until it was compared.
    pub(super) there: Mutex<Option<There>>,
    /// There was something.
    pub(super) is_there: bool,
    /// Of a part of a chunk that others share: the id that a chunk with only this part would have.
    pub(super) part: OnceLock<ShortId>,
    /// Some of it cannot be had: nothing of it is wanted any more.
    lost: AtomicBool,
}

impl Target {
    pub(super) fn written(path: Vec<u8>, size: u64, handle: FileHandle) -> Self {
        Self { handle: Mutex::new(Some(Arc::new(handle))), ..Self::new(path, size, None) }
    }

    pub(super) fn there(path: Vec<u8>, size: u64, there: There) -> Self {
        Self::new(path, size, Some(there))
    }

    fn new(path: Vec<u8>, size: u64, there: Option<There>) -> Self {
        Self {
            path,
            size,
            handle: Mutex::default(),
            left: AtomicUsize::new(1),
            is_there: there.is_some(),
            there: Mutex::new(there),
            part: OnceLock::new(),
            lost: AtomicBool::new(false),
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// One part less to come; the file is finished with the last.
    pub(super) fn part_done(&self) -> Result<()> {
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        match self.handle.lock().take().map(Arc::into_inner) {
            Some(Some(handle)) => handle.finish(),
            None if self.is_lost() => Ok(()),
            _ => Err(Error::internal("a file was finished while it is written").into()),
        }
    }
}

/// Where a part of a chunk belongs.
pub(super) struct Place {
    pub(super) file: Arc<Target>,
    pub(super) skip: usize,
    pub(super) len: usize,
    pub(super) offset: u64,
    /// Of a new file that holds a disk image, in which zeros and holes are one: zeros are left out.
    pub(super) sparse: bool,
}

/// Where the chunks of a batch belong.
pub(super) type Places = HashMap<(ShortId, usize), Vec<Place>>;

/// Where a chunk belongs.
pub(super) fn at<'a>(places: &'a Places, chunk: &ChunkRef) -> &'a [Place] {
    places.get(&(chunk.id(), chunk.len)).map(Vec::as_slice).unwrap_or_default()
}

/// Zeros are left out in pieces of this many bytes, which filesystems allocate.
const BLOCK: usize = 4096;

/// Writes bytes; `sparse`: into holes, and their zeros are left out.
pub(super) fn write(handle: &FileHandle, offset: u64, bytes: &[u8], sparse: bool) -> Result<()> {
    if !sparse {
        return handle.write_at(offset, bytes);
    }
    data_of(bytes).into_iter().try_for_each(|part| handle.write_at(offset + part.start as u64, &bytes[part]))
}

/// The parts of a chunk that have data, in whole blocks but at its end.
fn data_of(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (n, block) in bytes.chunks(BLOCK).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
        let (start, end) = (n * BLOCK, n * BLOCK + block.len());
        match parts.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => parts.push(start..end),
        }
    }
    parts
}

/// Something for one thread to do.
pub(super) enum Job {
    /// One request, and where its chunks belong.
    Fetch { fetch: Fetch, places: Arc<Places> },
    /// Chunks that files in the target may hold together.
    Assemble { chunks: Vec<ChunkRef>, places: Arc<Places> },
    /// A file that is there, to be compared piece by piece.
    Compare { file: Arc<Target>, size: u64, content: Content },
    /// A file to be read back.
    ReadBack(Box<Check>),
}

/// Counts what is under way, and keeps what failed first.
#[derive(Default)]
pub(super) struct Under {
    way: Mutex<(usize, Option<anyhow::Error>)>,
    done: Condvar,
}

impl Under {
    pub(super) fn begin(&self) {
        self.way.lock().0 += 1;
    }

    pub(super) fn end(&self, result: Result<()>) {
        let mut way = self.way.lock();
        way.0 -= 1;
        if let Err(e) = result {
            way.1.get_or_insert(e);
        }
        drop(way);
        self.done.notify_all();
    }

    /// Waits until nothing is under way.
    pub(super) fn wait(&self) -> Result<()> {
        let mut way = self.way.lock();
        while way.0 > 0 {
            self.done.wait(&mut way);
        }
        way.1.take().map_or(Ok(()), Err)
    }

    pub(super) fn check(&self) -> Result<()> {
        self.way.lock().1.take().map_or(Ok(()), Err)
    }
}

/// What the threads share.
pub(super) struct Work<'a> {
    pub(super) restore: &'a TreeRestore<'a>,
    damage: Damage,
    /// Bytes of files that are not whole.
    lost: AtomicU64,
    pub(super) under: Under,
    /// What a worker found to do. It has no bound, so that nobody waits who is to empty it; who fills it does some of it.
    more: (Sender<Job>, Receiver<Job>),
    fetched: AtomicU64,
    pub(super) wrong: Mutex<Listed<Vec<u8>>>,
    pub(super) cached: AtomicU64,
    pub(super) unread: AtomicU64,
    pub(super) pool: Option<BufferPool>,
}

impl<'a> Work<'a> {
    pub(super) fn new(restore: &'a TreeRestore<'a>, damage: Damage) -> Result<Self> {
        let pool = restore.read_back.then(|| BufferPool::new(BUFFER, restore.fetchers.max(1))).transpose()?;
        Ok(Self {
            restore,
            damage,
            lost: AtomicU64::new(0),
            under: Under::default(),
            more: unbounded(),
            fetched: AtomicU64::new(0),
            wrong: Mutex::default(),
            cached: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            pool,
        })
    }

    /// Adds what the threads counted.
    pub(super) fn tell(&self, told: &mut Told) {
        told.bytes = told.bytes.saturating_sub(self.lost.load(Ordering::Relaxed));
        told.fetched = self.fetched.load(Ordering::Relaxed);
        told.unread += self.unread.load(Ordering::Relaxed);
        told.cached = self.cached.load(Ordering::Relaxed);
        told.wrong = std::mem::take(&mut *self.wrong.lock());
    }

    /// Whether the restore goes on without what this error is about.
    pub(super) fn goes_on(&self, error: &anyhow::Error) -> bool {
        self.damage == Damage::LeaveOut && is_damage(error)
    }

    /// A file that cannot be had whole does not get its name; it is told why once.
    pub(super) fn lose(&self, file: &Target, error: &anyhow::Error) {
        if file.lost.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!("not restored: {}: {}", escaped(&file.path), one_line(error));
        self.lost.fetch_add(file.size, Ordering::Relaxed);
        if let Some(handle) = file.handle.lock().take() {
            handle.lose();
        }
        if let Some(there) = file.there.lock().take() {
            there.lose();
        }
    }

    /// Does what there is to do, until there will be no more.
    pub(super) fn run(&self, jobs: Receiver<Job>) {
        let mut scratch = Vec::new();
        loop {
            // What was found comes first: files wait for it.
            let found = self.more.1.try_recv().ok().or_else(|| {
                select! {
                    recv(self.more.1) -> job => job.ok(),
                    recv(jobs) -> job => job.or_else(|_| self.more.1.try_recv()).ok(),
                }
            });
            let Some(job) = found else { return };
            // Whoever waits for what is under way is told also where this panics.
            self.under.end(caught(|| self.job(job, &mut scratch)));
        }
    }

    /// Lets another thread do something, or this one later.
    pub(super) fn add(&self, job: Job) {
        self.under.begin();
        if self.more.0.send(job).is_err() {
            self.under.end(Err(Error::internal("the workers are gone").into()));
        }
    }

    /// Does what was found, as long as there is some.
    pub(super) fn help(&self, scratch: &mut Vec<u8>) {
        while let Ok(job) = self.more.1.try_recv() {
            self.under.end(caught(|| self.job(job, scratch)));
        }
    }

    fn job(&self, job: Job, scratch: &mut Vec<u8>) -> Result<()> {
        self.restore.cancel.check()?;
        match job {
            Job::Fetch { fetch, places } => {
                self.fetched.fetch_add(fetch.bytes(), Ordering::Relaxed);
                let buffer = |chunk: &ChunkRef| vec![0; chunk.len];
                self.restore.reader.chunks().read(&fetch, scratch, buffer, |chunk, opened| {
                    let places = at(&places, chunk);
                    let e = match opened {
                        Ok(verified) => return self.write(chunk, verified.as_ref(), places, &[]),
                        Err(e) => e,
                    };
                    if self.damage == Damage::LeaveOut {
                        let e = anyhow::Error::new(e);
                        if !is_damage(&e) {
                            return Err(e);
                        }
                        places.iter().for_each(|place| self.lose(&place.file, &e));
                        return Ok(());
                    }
                    Err(match places {
                        [] => e,
                        [one] => e.context(escaped(&one.file.path)),
                        [first, ..] => {
                            e.context(format!("{} and {} files more", escaped(&first.file.path), places.len() - 1))
                        }
                    }
                    .into())
                })
            }
            Job::Assemble { chunks, places } => self.assemble(&chunks, &places),
            Job::Compare { file, size, content } => self.compare(&file, size, &content, scratch),
            Job::ReadBack(check) => self.read_back(&check),
        }
    }

    /// Writes a chunk that is what its id says wherever it belongs. `sources`: places whose files hold their part already.
    pub(super) fn write(&self, chunk: &ChunkRef, plain: &[u8], places: &[Place], sources: &[usize]) -> Result<()> {
        for (n, place) in places.iter().enumerate() {
            let Some(bytes) = plain.get(place.skip..place.skip + place.len) else {
                return Err(Error::internal("a chunk has no place in its file").into());
            };
            if self.restore.read_back && bytes.len() != plain.len() {
                let id = self.restore.reader.chunks().identify(chunk, bytes);
                place.file.part.get_or_init(|| id);
            }
            // What was asked for before the work was to end may come much later: others may have the target by then.
            self.restore.cancel.check()?;
            let there = place.file.there.lock().take();
            match there {
                Some(there) => self.settle(there, place, bytes, sources.contains(&n))?,
                None => {
                    let Some(handle) = place.file.handle.lock().clone() else {
                        // Another chunk of it cannot be had.
                        if place.file.is_lost() {
                            continue;
                        }
                        return Err(Error::internal("a chunk came for a file that is not written").into());
                    };
                    write(&handle, place.offset, bytes, place.sparse)?;
                    drop(handle);
                    place.file.part_done()?;
                }
            }
            self.restore.progress.add(place.len as u64);
        }
        Ok(())
    }
}
