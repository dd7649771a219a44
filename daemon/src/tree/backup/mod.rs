//! The way of a tree's backup: the walk looks ahead, workers read files and store their data, and the nodes of the tree are
//! built in the order of the walk, each when everything in it is decided.

mod batch;
mod group;
mod image;
mod line;
mod links;
mod parent;
mod read;
mod report;
mod runs;
mod thin;

pub use batch::BATCH;
pub use report::{Counts, Missing};
pub use runs::TreeRuns;

use super::dir::Root;
use super::exclude::Exclude;
use super::walk::{Options, Walk};
use crate::backup::{Beating, kind};
use crate::exit::caught;
use crate::own::Identity;
use crate::progress::Progress;
use crate::signals::Cancel;
use crate::threads;
use crate::throttle::Throttle;
use anyhow::Result;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use line::Line;
use parent::Rule;
use parking_lot::Mutex;
use read::{Job, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use wherry_block::FileRing;
use wherry_repo::format::tree::{Known, Placed, SHARED};
use wherry_repo::{CommitInfo, Error, ErrorKind, PieceSet, Put, Scratch, Snapshot, TreeInfo, TreeWriter};

/// Whoever waits for workers looks this often whether the run goes on.
const LOOK: Duration = Duration::from_millis(200);

/// What a backup of a tree works with.
#[derive(Debug)]
pub struct TreeBackup<'a> {
    /// What is read; let go of as soon as all is read, or the run is to end.
    pub root: Root,
    /// What is written.
    pub writer: TreeWriter,
    /// What is left out.
    pub exclude: Exclude,
    /// The folder of the repository that is written to, if it is on this machine: it is not to be met.
    pub own: Option<Identity>,
    /// For names of directories that do not fit into memory.
    pub scratch: PathBuf,
    /// The inode number does not tell whether a file is the one it was.
    pub ignore_inode: bool,
    /// Nothing is taken over unread.
    pub force_read: bool,
    /// Small files are opened and read many at once over rings, not one by one.
    pub ring: bool,
    /// Shares of the memory.
    pub shares: Shares,
    /// Bytes per second to read at most.
    pub limit_read: Option<u64>,
    /// A sign of life is given this often.
    pub beat: Duration,
    /// Shows how far it is.
    pub progress: Progress,
    /// Asks to end.
    pub cancel: &'a Cancel,
}

/// What the parts of a tree's backup may use.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Threads that look at names ahead of the walk.
    pub walkers: usize,
    /// Threads that read, hash, compress and seal.
    pub workers: usize,
    /// Large files and disk images that are read at once; each takes 4 MiB.
    pub windows: usize,
    /// Entries between the walk and the nodes of the tree, at most.
    pub entries: usize,
    /// Bytes of small files between their reading and the storing of their chunk, at most.
    pub small: u64,
    /// Bytes of names of one directory.
    pub names: usize,
    /// Bytes of inodes of which not all names were seen, at most; beyond, a file is read for each of its names.
    pub links: usize,
}

/// What the workers share.
struct Shared<'a> {
    writer: &'a TreeWriter,
    windows: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    throttle: Option<Throttle>,
    progress: &'a Progress,
    cancel: &'a Cancel,
    workers: usize,
    /// Files that a worker reads at once over a ring; 0: it has none.
    depth: usize,
    /// Workers that have read over a ring.
    rings: AtomicUsize,
    /// It was said that a worker has none.
    told: AtomicBool,
    /// The run has failed.
    stop: &'a AtomicBool,
}

/// What a worker does.
enum Work {
    /// Reads a file.
    Read(Box<Job>),
    /// Stores a shared chunk.
    Put { group: u64, bytes: Vec<u8> },
}

/// What a worker has done.
enum Done {
    Read { at: u64, read: Box<Read> },
    Put { group: u64, chunk: Placed, bytes: u64 },
}

/// A buffer for a large file, which goes back when it is no longer needed. There are few, and who has none waits.
struct Window<'a> {
    bytes: Vec<u8>,
    home: &'a Sender<Vec<u8>>,
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        // There is room for all.
        let _ = self.home.send(std::mem::take(&mut self.bytes));
    }
}

impl TreeBackup<'_> {
    /// Reads everything, stores it and commits, with what is found out of `info` filled in. After an error there is no
    /// snapshot, and what was stored is left to the next run of the volume.
    pub fn run(self, info: CommitInfo, tree: TreeInfo) -> Result<(Snapshot, Counts)> {
        let _beating = Beating::start(self.writer.pulse(), self.beat)?;
        // After the session began: a page that is written through a mapping sets the ctime only once until it reaches the disk.
        self.root.sync();
        // Asked to end at the very end, it takes no more, and is not to be committed.
        let built = self.build().and_then(|built| self.cancel.check().map(|()| built).map_err(Into::into));
        let filesystem = self.root.filesystem().name();
        let Self { root, writer, progress, cancel, .. } = self;
        drop((progress, root));
        cancel.only_sends(true);
        match built {
            Ok((top, counts, engine)) => {
                let info = CommitInfo { hole: counts.hole, engine: engine.to_owned(), ..info };
                let tree = counts.fill(TreeInfo { filesystem, ..tree });
                Ok((writer.commit_unless(top, info, tree, || cancel.may_commit())?, counts))
            }
            Err(error) => {
                if let Err(e) = writer.abandon() {
                    tracing::debug!("the run was not left in order: {e}");
                }
                Err(error)
            }
        }
    }

    /// Builds the tree, and gives its root, and the engine that small files were read with.
    fn build(&self) -> Result<(Known, Counts, &'static str)> {
        let stop = AtomicBool::new(false);
        let windows = bounded(self.shares.windows.max(1));
        for _ in 0..self.shares.windows.max(1) {
            // There is room for all.
            let _ = windows.0.send(vec![0; read::WINDOW]);
        }
        let shared = Shared {
            writer: &self.writer,
            windows,
            throttle: self.limit_read.map(Throttle::new),
            progress: &self.progress,
            cancel: self.cancel,
            workers: self.shares.workers.max(1),
            depth: if self.ring { batch::depth(self.shares.workers.max(1)) } else { 0 },
            rings: AtomicUsize::new(0),
            told: AtomicBool::new(false),
            stop: &stop,
        };
        let options = Options {
            exclude: self.exclude.clone(),
            threads: self.shares.walkers,
            window: self.shares.entries,
            names: self.shares.names,
            scratch: self.scratch.clone(),
        };
        let failed: Mutex<Option<anyhow::Error>> = Mutex::default();
        let (work, jobs) = unbounded::<Work>();
        let (ready, results) = unbounded::<Done>();
        let built = std::thread::scope(|scope| {
            let (ended, end) = bounded::<()>(0);
            let watch = || {
                let end = end;
                while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    // Whoever waits for a slow storage has the source open. The line may be the one that waits.
                    if self.cancel.is_cancelled() || stop.load(Ordering::Relaxed) {
                        return self.writer.take_no_more();
                    }
                }
            };
            let (shared, failed, stop) = (&shared, &failed, &stop);
            let worker = move || {
                if let Err(e) = caught(|| shared.work(&jobs, &ready)) {
                    failed.lock().get_or_insert(e);
                    stop.store(true, Ordering::Relaxed);
                }
            };
            // The last worker takes the other end of the line with it.
            let begun = threads::one(scope, watch).and_then(|_| threads::some(scope, self.shares.workers, worker));
            // Dropped with the line: then the workers end.
            let build = || Line::new(self, work, &results)?.run(Walk::start(&self.root, options)?, stop);
            let built = begun.map_err(anyhow::Error::from).and_then(|_| build());
            if built.is_err() {
                stop.store(true, Ordering::Relaxed);
                self.writer.take_no_more();
            }
            drop(ended);
            built
        });
        let engine = if shared.rings.load(Ordering::Relaxed) > 0 { "ring" } else { "threads" };
        match failed.into_inner() {
            // A worker that only ended with the others knows less of why.
            Some(error) if kind(&error) == Some(ErrorKind::Cancelled) => {
                self.cancel.check()?;
                Err(built.err().unwrap_or(error))
            }
            Some(error) => Err(error),
            None => built.map(|(root, counts)| (root, counts, engine)),
        }
    }

    /// The rule of what is taken over unread; none where everything is read.
    fn rule(&self) -> Option<Rule> {
        let record = &self.writer.parent_snapshot().filter(|_| !self.force_read)?.record;
        let thin = record.tree.as_ref().map(|tree| tree.thin.clone()).unwrap_or_default();
        Some(Rule::new(parent::as_of(record.started, &record.tags)?, self.ignore_inode, thin))
    }
}

impl Shared<'_> {
    /// What one worker does, until there is nothing more to do.
    fn work(&self, jobs: &Receiver<Work>, ready: &Sender<Done>) -> Result<()> {
        let mut scratch = self.writer.scratch(self.writer.largest())?;
        let mut ring = self.file_ring();
        let mut later = None;
        while let Some(work) = later.take().or_else(|| jobs.recv().ok()) {
            self.go_on()?;
            let batch = match (work, &mut ring) {
                (Work::Read(job), Some(ring)) if batch::may(&job) => {
                    let mut batch = vec![*job];
                    later = self.gather(jobs, &mut batch);
                    self.read_batch(ring, batch)?
                }
                (Work::Read(job), _) => vec![(*job, None)],
                (Work::Put { group, bytes }, _) => {
                    let chunk = self.put(&mut scratch, SHARED, &bytes, None)?;
                    if ready.send(Done::Put { group, chunk, bytes: bytes.len() as u64 }).is_err() {
                        break;
                    }
                    continue;
                }
            };
            if ring.as_ref().is_some_and(FileRing::is_lost) {
                self.goes_without("the kernel does not answer over it any more");
                ring = None;
            }
            for (job, read) in batch {
                let read = read.map_or_else(|| self.read_file(&job, &mut scratch), Ok)?;
                if ready.send(Done::Read { at: job.at, read: Box::new(read) }).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Fails when the run does not go on.
    fn go_on(&self) -> Result<()> {
        self.cancel.check()?;
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "another thread has failed").into());
        }
        Ok(())
    }

    /// Stores a chunk.
    fn put(&self, scratch: &mut Scratch, class: u8, plain: &[u8], kept: Option<&PieceSet>) -> Result<Placed> {
        let (placed, put) = self.writer.put(scratch, class, plain, kept)?;
        if put == Put::New {
            self.progress.add_stored(plain.len() as u64);
        }
        Ok(placed)
    }

    /// Waits until so many bytes may be read.
    fn pay(&self, bytes: u64) -> Result<()> {
        self.go_on()?;
        if let Some(throttle) = &self.throttle {
            let ended = || self.cancel.is_cancelled() || self.stop.load(Ordering::Relaxed);
            throttle.take(bytes, ended);
            self.go_on()?;
        }
        self.progress.add(bytes);
        Ok(())
    }

    /// A window for a large file, when one is free.
    fn window(&self) -> Result<Window<'_>> {
        loop {
            match self.windows.1.recv_timeout(LOOK) {
                Ok(bytes) => return Ok(Window { bytes, home: &self.windows.0 }),
                Err(RecvTimeoutError::Timeout) => self.go_on()?,
                Err(RecvTimeoutError::Disconnected) => return Err(Error::internal("a window was lost").into()),
            }
        }
    }
}
