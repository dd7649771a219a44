//! What is ahead of the walk: directories to be listed and names to be looked at, nearest first, by a few threads. The
//! walk takes each result in its order and does itself what no thread has begun.

use super::attributes::{Look, Scratch, look};
use super::dir::Dir;
use super::exclude::Exclude;
use super::inode::InodeKind;
use super::names::{Listed, Name, Names, Spill, list_again, list_small};
use super::walk::MAX_DEPTH;
use crate::exit::caught;
use parking_lot::{Condvar, Mutex};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::cmp::Ordering as Order;
use std::collections::{BinaryHeap, HashSet};
use std::ffi::CString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// Names of a directory that is listed and looked at in one go; beyond, the walk does it by batches.
const SMALL: usize = 1024;
/// The same while the window is full.
const TIGHT: usize = 16;
/// Names that are not found are looked at so often as long as they are listed.
const LOOKS: u32 = 3;
/// So often a directory is listed once more for names that were not found.
const LISTED_AGAIN: u32 = 16;
/// Bytes of extended attributes that one job may come to before it leaves the rest for later.
const HEAVY: usize = 1 << 20;
/// Bytes of extended attributes that count as one entry more.
const WEIGHT: usize = 256;

/// What a name came to.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: CString,
    pub(crate) ordinal: u64,
    pub(crate) seen: Seen,
    /// What it takes of the window.
    pub(crate) weight: usize,
}

/// See [`Found`].
#[derive(Debug)]
pub(crate) enum Seen {
    /// No directory.
    Leaf(Look),
    /// A directory, and its list if it is to be entered.
    Folder(Look, Arc<Dir>, Option<Arc<Job>>),
    /// Nothing, for this reason.
    Failed(Errno),
    /// There was too much before it.
    Later,
}

/// What a job came to.
#[derive(Debug)]
pub(crate) enum Output {
    /// Names, and why there may be more.
    Found(Vec<Found>, Option<Errno>),
    /// The same, and it keeps nothing but these names, by the rules of exclusion.
    Kept(Vec<Found>, Option<Errno>),
    /// A directory too large for one go.
    TooMany,
    /// A directory that could not be opened.
    Failed(Errno),
    /// The file with the names failed.
    Broken(io::Error),
}

/// A piece of work ahead.
#[derive(Debug)]
pub(crate) struct Job {
    /// Where in the walk its result is needed: this entry of this directory.
    dir: Arc<Dir>,
    ordinal: u64,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug)]
enum State {
    Waiting(Work),
    Running,
    Done(Output),
    Taken,
}

#[derive(Debug)]
enum Work {
    /// List a directory and look at all that is in it.
    Expand(Arc<Dir>),
    /// Look at names of a directory, numbered from the job's ordinal on.
    Look(Vec<(u64, Name)>),
}

impl Job {
    pub(crate) fn expand(folder: Arc<Dir>, parent: &Arc<Dir>, ordinal: u64) -> Arc<Self> {
        Self::new(parent.clone(), ordinal, Work::Expand(folder))
    }

    pub(crate) fn look(dir: &Arc<Dir>, names: Vec<(u64, Name)>) -> Arc<Self> {
        let first = names.first().map_or(0, |(ordinal, _)| *ordinal);
        Self::new(dir.clone(), first, Work::Look(names))
    }

    fn new(dir: Arc<Dir>, ordinal: u64, work: Work) -> Arc<Self> {
        Arc::new(Self { dir, ordinal, state: Mutex::new(State::Waiting(work)), done: Condvar::new() })
    }

    fn claim(&self) -> Option<Work> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Running) {
            State::Waiting(work) => Some(work),
            other => {
                *state = other;
                None
            }
        }
    }

    fn finish(&self, output: Output) {
        *self.state.lock() = State::Done(output);
        self.done.notify_all();
    }
}

/// In the heap the nearest is the greatest.
#[derive(Debug)]
struct Queued(Arc<Job>);

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Order {
        other.0.dir.order(other.0.ordinal, &self.0.dir, self.0.ordinal)
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Queued {}

/// What walk and threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) exclude: Exclude,
    pub(crate) spill: Arc<Spill>,
    window: usize,
    used: AtomicUsize,
    /// A thread waits until there is room in the window.
    full: AtomicBool,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: BinaryHeap<Queued>,
    stop: bool,
}

/// The threads; dropped, they end.
#[derive(Debug)]
pub(crate) struct Ahead {
    pub(crate) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Ahead {
    pub(crate) fn start(exclude: Exclude, spill: Arc<Spill>, window: usize, threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            exclude,
            spill,
            window,
            used: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            queue: Mutex::default(),
            wake: Condvar::new(),
        });
        let mut this = Self { shared, threads: Vec::with_capacity(threads) };
        for _ in 0..threads {
            let shared = this.shared.clone();
            this.threads.push(
                std::thread::Builder::new()
                    .name("walk".to_owned())
                    .spawn(wherry_repo::as_here(move || shared.work()))?,
            );
        }
        Ok(this)
    }

    /// How many there are.
    pub(crate) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// A job for whoever comes first.
    pub(crate) fn push(&self, job: &Arc<Job>) {
        if !self.threads.is_empty() {
            self.shared.push([job.clone()]);
        }
    }

    /// The result of a job, done here unless somebody else has begun.
    pub(crate) fn obtain(&self, job: &Arc<Job>, scratch: &mut Scratch) -> Output {
        if let Some(work) = job.claim() {
            return self.shared.run(&job.dir, work, scratch);
        }
        let mut state = job.state.lock();
        while matches!(*state, State::Running) {
            job.done.wait(&mut state);
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(output) => output,
            _ => Output::Failed(Errno::STALE),
        }
    }

    /// The walk has taken so much out of the window.
    pub(crate) fn took(&self, weight: usize) {
        let shared = &self.shared;
        let left = shared.used.fetch_sub(weight, Ordering::SeqCst) - weight;
        if left < shared.window / 8 * 7 && shared.full.swap(false, Ordering::SeqCst) {
            let _queue = shared.queue.lock();
            shared.wake.notify_all();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Whether no more should be looked at ahead.
    pub(crate) fn is_full(&self) -> bool {
        self.used.load(Ordering::SeqCst) >= self.window
    }

    fn push(&self, jobs: impl IntoIterator<Item = Arc<Job>>) {
        let mut queue = self.queue.lock();
        let before = queue.jobs.len();
        queue.jobs.extend(jobs.into_iter().map(Queued));
        let more = queue.jobs.len() - before;
        if queue.jobs.len() > 2 * self.window + SMALL {
            // The walk did these itself.
            queue.jobs.retain(|job| matches!(*job.0.state.lock(), State::Waiting(_)));
        }
        drop(queue);
        match more {
            0 => {}
            1 => drop(self.wake.notify_one()),
            _ => drop(self.wake.notify_all()),
        }
    }

    fn work(&self) {
        let mut scratch = Scratch::new();
        while let Some(job) = self.nearest() {
            if let Some(work) = job.claim() {
                // The walk waits for it, also where this panics.
                let output = caught(|| Ok(self.run(&job.dir, work, &mut scratch)));
                job.finish(output.unwrap_or_else(|e| Output::Broken(io::Error::other(e))));
            }
        }
    }

    /// The nearest job, when there is one and room for what it comes to; none at the end.
    fn nearest(&self) -> Option<Arc<Job>> {
        let mut queue = self.queue.lock();
        loop {
            if queue.stop {
                return None;
            }
            if self.is_full() {
                self.full.store(true, Ordering::SeqCst);
            }
            // Asked again: the walk may have made room before it could see that somebody waits.
            if !self.is_full()
                && let Some(job) = queue.jobs.pop()
            {
                return Some(job.0);
            }
            self.wake.wait(&mut queue);
        }
    }

    fn run(&self, dir: &Arc<Dir>, work: Work, scratch: &mut Scratch) -> Output {
        match work {
            Work::Look(names) => Output::Found(self.look_all(dir, names, HEAVY, scratch), None),
            Work::Expand(folder) => self.expand(&folder, scratch).unwrap_or_else(Output::Failed),
        }
    }

    /// Lists a small directory and looks at all that is in it.
    ///
    /// # Errors
    /// It cannot be opened, or is another one by now.
    fn expand(&self, folder: &Arc<Dir>, scratch: &mut Scratch) -> Result<Output, Errno> {
        let fd = folder.descriptor()?;
        let most = if self.is_full() { TIGHT } else { SMALL };
        let Listed::All(mut names, missing) = list_small(fd.as_fd(), most, &self.spill) else {
            return Ok(Output::TooMany);
        };
        let keep = match self.keeps_only(folder, &names, scratch) {
            Ok(keep) => keep,
            Err(e) => return Ok(Output::Broken(e)),
        };
        let mut all = Vec::new();
        for ordinal in 0.. {
            match names.next() {
                Ok(Some(name)) if keep.as_ref().is_none_or(|keep| keep.iter().any(|k| *k == name.name.as_bytes())) => {
                    all.push((ordinal, name));
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(e) => return Ok(Output::Broken(e)),
            }
        }
        drop(names);
        let found = self.look_all(folder, all, HEAVY, scratch);
        Ok(if keep.is_some() { Output::Kept(found, missing) } else { Output::Found(found, missing) })
    }

    /// The names that a directory keeps, if it is one of those that do not keep all.
    pub(crate) fn keeps_only(
        &self,
        dir: &Arc<Dir>,
        names: &Names,
        scratch: &mut Scratch,
    ) -> io::Result<Option<Vec<Vec<u8>>>> {
        self.exclude.keeps_only(
            dir,
            |name| names.has(name),
            |name| {
                let name = CString::new(name).ok()?;
                look(dir.descriptor().ok()?.as_fd(), &name, scratch).ok().map(|look| look.inode)
            },
        )
    }

    /// Looks at names of a directory, until extended attributes take more than `heavy` bytes.
    pub(crate) fn look_all(
        &self,
        dir: &Arc<Dir>,
        names: Vec<(u64, Name)>,
        heavy: usize,
        scratch: &mut Scratch,
    ) -> Vec<Found> {
        let fd = dir.descriptor();
        let mut path = if self.exclude.has_patterns() { dir.path_of(b"") } else { Vec::new() };
        let prefix = path.len();
        let mut left_out = |name: &[u8], folder: bool| {
            self.exclude.has_patterns() && {
                path.truncate(prefix);
                path.extend_from_slice(name);
                self.exclude.leaves_out(&path, folder)
            }
        };
        let (mut found, mut jobs) = (Vec::with_capacity(names.len()), Vec::new());
        let mut unfound = Vec::new();
        let (mut extended, mut total) = (0, 0);
        for (ordinal, Name { name, kind }) in names {
            let said = kind == FileType::Directory;
            if kind != FileType::Unknown && left_out(name.to_bytes(), said) {
                continue;
            }
            let looked = match &fd {
                Ok(_) if extended > heavy => None,
                Ok(fd) => Some(look(fd.as_fd(), &name, scratch)),
                Err(errno) => Some(Err(*errno)),
            };
            let mut weight = 1;
            let seen = match looked {
                None => Seen::Later,
                Some(Err(Errno::NOENT)) => {
                    unfound.push((ordinal, name));
                    continue;
                }
                Some(Err(errno)) => Seen::Failed(errno),
                Some(Ok(mut look)) => {
                    let folder = look.inode.kind == InodeKind::Folder;
                    if (kind == FileType::Unknown || folder != said) && left_out(name.to_bytes(), folder) {
                        continue;
                    }
                    let bytes: usize =
                        look.inode.extended.0.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
                    extended += bytes;
                    weight += bytes / WEIGHT;
                    if folder {
                        let (below, job) = self.folder(dir, &name, ordinal, &mut look);
                        jobs.extend(job.clone());
                        Seen::Folder(look, below, job)
                    } else {
                        if look.mounted {
                            // Its other names are where it was mounted from.
                            look.inode.links = 1;
                        }
                        Seen::Leaf(look)
                    }
                }
            };
            total += weight;
            found.push(Found { name, ordinal, seen, weight });
        }
        if let Ok(fd) = &fd
            && !unfound.is_empty()
        {
            total += self.listed_still(dir, fd.as_fd(), unfound, &mut found, scratch);
        }
        self.used.fetch_add(total, Ordering::SeqCst);
        if !jobs.is_empty() {
            self.push(jobs);
        }
        found
    }

    /// Names that were listed and not found. Those that are not listed any more are gone: no entry, no error. The others are
    /// there, and something is wrong with them. Gives what is added to the window.
    fn listed_still(
        &self,
        dir: &Arc<Dir>,
        fd: BorrowedFd<'_>,
        mut unfound: Vec<(u64, CString)>,
        found: &mut Vec<Found>,
        scratch: &mut Scratch,
    ) -> usize {
        let more = found.len();
        // One that comes and goes all the time may be listed and gone again: it is looked at more than once.
        for left in (0..LOOKS).rev() {
            // Where many go while a large directory is read, it is not listed for each few of them.
            if unfound.is_empty() || dir.lists_again() > LISTED_AGAIN {
                break;
            }
            let mut wanted: HashSet<_> = unfound.iter().map(|(_, name)| name.as_bytes()).collect();
            let listed = list_again(fd, |name| !wanted.remove(name) || !wanted.is_empty());
            let gone: HashSet<Vec<u8>> = match listed {
                Ok(()) => wanted.into_iter().map(<[u8]>::to_vec).collect(),
                Err(_) => HashSet::new(),
            };
            unfound.retain(|(_, name)| !gone.contains(name.as_bytes()));
            unfound.retain(|(ordinal, name)| {
                let seen = match look(fd, name, scratch) {
                    Err(Errno::NOENT) if left > 0 => return true,
                    Err(errno) => Seen::Failed(errno),
                    Ok(_) => Seen::Later,
                };
                found.push(Found { name: name.clone(), ordinal: *ordinal, seen, weight: 1 });
                false
            });
        }
        let more = found.len() - more;
        found.sort_by_key(|found| found.ordinal);
        more
    }

    fn folder(&self, dir: &Arc<Dir>, name: &CString, ordinal: u64, look: &mut Look) -> (Arc<Dir>, Option<Arc<Job>>) {
        look.mounted |= look.device != dir.device();
        let below = dir.below(name, ordinal, look);
        let boundary = look.automount || look.mounted && !dir.all_filesystems();
        let enter = !boundary && below.depth() < MAX_DEPTH;
        let job = enter.then(|| Job::expand(below.clone(), dir, ordinal));
        (below, job)
    }
}
