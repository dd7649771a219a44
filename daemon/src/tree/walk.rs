//! The walk over a tree: what is in it, in an order that depends on nothing but names. Depth first, names ascending byte
//! by byte, a directory before what is in it. Threads look ahead; they change when something is seen, never the order.

use super::ahead::{Ahead, Found, Job, Output, Seen};
use super::attributes::{Look, Scratch, number};
use super::dir::{Dir, Root};
use super::exclude::Exclude;
use super::names::{Names, Spill};
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use wherry_repo::{Error, ErrorKind, Result};

/// Directories above an entry, at most; what is deeper is missing.
pub const MAX_DEPTH: u32 = 4096;

/// How to walk.
#[derive(Debug)]
pub struct Options {
    /// What is left out.
    pub exclude: Exclude,
    /// Threads that look ahead; 0: none.
    pub threads: usize,
    /// Entries that are looked at ahead, at most, about 256 bytes each.
    pub window: usize,
    /// Bytes of names of one directory in memory; beyond, they are sorted on disk.
    pub names: usize,
    /// A directory for that; nothing is seen of it.
    pub scratch: PathBuf,
}

impl Options {
    /// As the arithmetic of the memory has it: a window of 32 768 and 8 MiB of names.
    pub fn new(exclude: Exclude, threads: usize, scratch: PathBuf) -> Self {
        Self { exclude, threads, window: 32_768, names: 8 << 20, scratch }
    }
}

/// What the walk comes to.
#[derive(Debug)]
pub enum Event {
    /// A directory; what is in it follows, up to its [`Event::Leave`]. The first one is the root, with the empty name.
    Enter(Folder),
    /// A name that is no directory, or could not be looked at.
    Entry(Entry),
    /// A name that is no directory, over which something of another filesystem is mounted: left out.
    Mounted {
        /// Where.
        dir: Arc<Dir>,
        /// The name.
        name: Vec<u8>,
    },
    /// The end of the directory that was entered last and not left yet: all that is in it was told.
    Leave,
}

/// A directory.
#[derive(Debug)]
pub struct Folder {
    /// Itself.
    pub dir: Arc<Dir>,
    /// Its metadata.
    pub look: Look,
    /// Something is mounted here (or would be). It is entered only with all filesystems.
    pub boundary: bool,
    /// Why its list is not there, or not whole: an error number.
    pub missing: Option<NonZeroU32>,
}

impl Folder {
    /// Why nothing that is in it is told, if so: it is of another filesystem.
    pub fn left_out(&self) -> Option<&'static str> {
        if self.look.automount {
            return Some(
                "another filesystem would be mounted there by entering it: what is not mounted yet is left out",
            );
        }
        let is_left = self.boundary && !self.dir.enters_filesystems();
        is_left.then_some("another filesystem is mounted there, and left out")
    }
}

/// A name that is no directory.
#[derive(Debug)]
pub struct Entry {
    /// The directory it is in: [`Dir::open_file`] opens it, from any thread.
    pub dir: Arc<Dir>,
    /// 1 to 255 bytes.
    pub name: Vec<u8>,
    /// What was seen; or why nothing was, an error number.
    pub look: Result<Look, NonZeroU32>,
}

/// A walk that is under way. Dropped, it ends, wherever it is.
#[derive(Debug)]
pub struct Walk {
    ahead: Ahead,
    scratch: Scratch,
    names: usize,
    root: Option<Root>,
    stack: Vec<Level>,
    over: bool,
}

/// A directory that was entered and not left.
#[derive(Debug)]
struct Level {
    dir: Arc<Dir>,
    ready: std::vec::IntoIter<Found>,
    batches: VecDeque<Arc<Job>>,
    /// Of a large directory: what is not in a batch yet.
    names: Option<Names>,
    keep: Option<Vec<Vec<u8>>>,
    ordinal: u64,
}

/// What a directory turned out to be when it was to be entered.
enum Entered {
    Yes(Level, Option<Errno>),
    Gone,
    /// Somebody put something else in its place.
    Changed,
    /// Not entered, for this reason.
    Failed(Errno),
}

impl Walk {
    /// Begins one; the root was opened before, and with it was said whether other filesystems are entered.
    ///
    /// # Errors
    /// No threads can be started.
    pub fn start(root: &Root, options: Options) -> Result<Self> {
        let spill = Spill::new(&options.scratch, options.names);
        let ahead = Ahead::start(options.exclude, spill, options.window, options.threads);
        let ahead =
            ahead.map_err(|e| Error::new(ErrorKind::Unavailable, "starting threads for the walk").with_source(e))?;
        let (scratch, root) = (Scratch::new(), Some(root.clone()));
        Ok(Self { ahead, scratch, names: options.names, root, stack: Vec::new(), over: false })
    }

    fn step(&mut self) -> Result<Option<Event>> {
        if let Some(root) = self.root.take() {
            return self.enter_root(&root).map(Some);
        }
        loop {
            let Some(found) = self.next_found()? else {
                return Ok(self.stack.pop().map(|_| Event::Leave));
            };
            if let Some(event) = self.event(found)? {
                return Ok(Some(event));
            }
        }
    }

    fn enter_root(&mut self, root: &Root) -> Result<Event> {
        let dir = root.dir().clone();
        let job = Job::expand(dir.clone(), &dir, 0);
        let (level, missing) = match self.enter(&dir, &job)? {
            Entered::Yes(level, missing) => (level, missing),
            Entered::Gone | Entered::Changed => (Level::empty(&dir), Some(Errno::STALE)),
            Entered::Failed(errno) => (Level::empty(&dir), Some(errno)),
        };
        if level.keep.is_some() {
            return Err(Error::invalid(format!(
                "{}: what is backed up is itself left out by --exclude-caches or --exclude-if-present; leave that option out",
                root.path().display()
            )));
        }
        self.stack.push(level);
        Ok(Event::Enter(Folder { dir, look: root.look().clone(), boundary: false, missing: missing.map(number) }))
    }

    /// The next name of the directory that was entered last.
    fn next_found(&mut self) -> Result<Option<Found>> {
        let Some(level) = self.stack.last_mut() else { return Ok(None) };
        loop {
            if let Some(found) = level.ready.next() {
                self.ahead.took(found.weight);
                return Ok(Some(found));
            }
            level.refill(&self.ahead).map_err(broken)?;
            let Some(job) = level.batches.pop_front() else { return Ok(None) };
            match self.ahead.obtain(&job, &mut self.scratch) {
                Output::Found(found, _) | Output::Kept(found, _) => level.ready = found.into_iter(),
                Output::Broken(e) => return Err(broken(e)),
                Output::TooMany | Output::Failed(_) => {}
            }
        }
    }

    fn event(&mut self, mut found: Found) -> Result<Option<Event>> {
        let Some(dir) = self.stack.last().map(|level| level.dir.clone()) else { return Ok(None) };
        // What changes while we look is looked at again, a few times.
        for _ in 0..4 {
            let name = || found.name.to_bytes().to_vec();
            match found.seen {
                Seen::Failed(errno) => {
                    return Ok(Some(Event::Entry(Entry { dir, name: name(), look: Err(number(errno)) })));
                }
                Seen::Leaf(look) if look.mounted && !dir.all_filesystems() => {
                    return Ok(Some(Event::Mounted { dir, name: name() }));
                }
                Seen::Leaf(look) => return Ok(Some(Event::Entry(Entry { dir, name: name(), look: Ok(look) }))),
                Seen::Folder(look, below, job) => match self.enter_below(&below, job.as_ref(), &look)? {
                    Entered::Gone => return Ok(None),
                    Entered::Changed => {}
                    Entered::Yes(level, missing) => return Ok(Some(self.entered(below, look, level, missing))),
                    Entered::Failed(errno) => {
                        let level = Level::empty(&below);
                        return Ok(Some(self.entered(below, look, level, Some(errno))));
                    }
                },
                Seen::Later => {}
            }
            let name = super::names::Name { name: found.name.clone(), kind: rustix::fs::FileType::Unknown };
            let again = self.ahead.shared.look_all(&dir, vec![(found.ordinal, name)], usize::MAX, &mut self.scratch);
            let Some(again) = again.into_iter().next() else { return Ok(None) };
            self.ahead.took(again.weight);
            found = again;
        }
        let name = found.name.to_bytes().to_vec();
        Ok(Some(Event::Entry(Entry { dir, name, look: Err(number(Errno::STALE)) })))
    }

    fn entered(&mut self, dir: Arc<Dir>, look: Look, level: Level, missing: Option<Errno>) -> Event {
        if let Some(Level { names: Some(names), .. }) = self.stack.last_mut() {
            names.park();
        }
        self.stack.push(level);
        let boundary = look.mounted || look.automount;
        Event::Enter(Folder { dir, look, boundary, missing: missing.map(number) })
    }

    fn enter_below(&mut self, dir: &Arc<Dir>, job: Option<&Arc<Job>>, look: &Look) -> Result<Entered> {
        match job {
            Some(job) => self.enter(dir, job),
            None if look.mounted || look.automount => Ok(Entered::Yes(Level::empty(dir), None)),
            None => Ok(Entered::Failed(Errno::NAMETOOLONG)),
        }
    }

    fn enter(&mut self, dir: &Arc<Dir>, job: &Arc<Job>) -> Result<Entered> {
        let mut level = Level::empty(dir);
        let missing = match self.ahead.obtain(job, &mut self.scratch) {
            Output::Found(found, missing) => {
                level.ready = found.into_iter();
                missing
            }
            Output::Kept(found, missing) => {
                level.ready = found.into_iter();
                level.keep = Some(Vec::new());
                missing
            }
            Output::TooMany => match self.list(dir, &mut level)? {
                Ok(missing) => missing,
                Err(errno) => return of_errno(errno),
            },
            Output::Failed(errno) => return of_errno(errno),
            Output::Broken(e) => return Err(broken(e)),
        };
        Ok(Entered::Yes(level, missing))
    }

    /// Lists a large directory.
    fn list(&mut self, dir: &Arc<Dir>, level: &mut Level) -> Result<Result<Option<Errno>, Errno>> {
        let fd = match dir.descriptor() {
            Ok(fd) => fd,
            Err(errno) => return Ok(Err(errno)),
        };
        let shared = &self.ahead.shared;
        let (names, missing) = super::names::list(fd.as_fd(), self.names, &shared.spill).map_err(broken)?;
        level.keep = shared.keeps_only(dir, &names, &mut self.scratch).map_err(broken)?;
        level.names = Some(names);
        Ok(Ok(missing))
    }
}

impl Iterator for Walk {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let event = self.step().transpose();
        self.over = matches!(event, None | Some(Err(_)));
        event
    }
}

impl Level {
    fn empty(dir: &Arc<Dir>) -> Self {
        let (ready, batches) = (Vec::new().into_iter(), VecDeque::new());
        Self { dir: dir.clone(), ready, batches, names: None, keep: None, ordinal: 0 }
    }

    /// Batches for all threads, as far as the window has room; one in any case.
    fn refill(&mut self, ahead: &Ahead) -> std::io::Result<()> {
        while let Some(names) = &mut self.names {
            let full = ahead.shared.is_full();
            if self.batches.len() > 2 * ahead.threads() || full && !self.batches.is_empty() {
                return Ok(());
            }
            let mut batch = Vec::new();
            while batch.len() < if full { 8 } else { 256 } {
                let Some(name) = names.next()? else {
                    self.names = None;
                    break;
                };
                let ordinal = self.ordinal;
                self.ordinal += 1;
                if self.keep.as_ref().is_none_or(|keep| keep.iter().any(|kept| *kept == name.name.as_bytes())) {
                    batch.push((ordinal, name));
                }
            }
            if !batch.is_empty() {
                let job = Job::look(&self.dir, batch);
                ahead.push(&job);
                self.batches.push_back(job);
            }
        }
        Ok(())
    }
}

/// What an error of a directory means for the walk.
fn of_errno(errno: Errno) -> Result<Entered> {
    match errno {
        Errno::NOENT => Ok(Entered::Gone),
        Errno::STALE | Errno::LOOP | Errno::NOTDIR | Errno::XDEV => Ok(Entered::Changed),
        // Nothing is wrong with the directory.
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            let text = "a directory cannot be opened: raise the limit of open files (ulimit -n)";
            Err(Error::new(ErrorKind::Unavailable, text).with_source(std::io::Error::from(errno)))
        }
        errno => Ok(Entered::Failed(errno)),
    }
}

fn broken(e: std::io::Error) -> Error {
    let text = "the names of a large directory cannot be sorted on disk: is there room for temporary files?";
    Error::new(ErrorKind::Unavailable, text).with_source(e)
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
