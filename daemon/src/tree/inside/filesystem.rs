//! Filesystems in a disk, each on a thread of its own. A parser of bytes that anybody may have made can panic, or go on for
//! ever: that is an error of what was asked of it, and the next request finds a new thread.

use super::bytes::{Meter, Window};
use super::magic::Content;
use super::{ext4, fat};
use crate::tree::view::Node;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wherry_repo::{Error, ErrorKind};

/// Most bytes that are read at a time.
pub(super) const MOST_READ: usize = 256 << 10;

/// Entries that come at a time.
const BATCH: usize = 64;

/// So long a parser may work without an answer; time it waits for the storage does not count.
const PATIENCE: Duration = Duration::from_secs(60);

/// It may read this much more than all there is (bytes) without an answer.
const REREAD: u64 = 64 << 20;

/// Name of the threads of parsers. A panic of one does not end the process, see [`crate::exit`].
pub const THREAD: &str = "inside";

/// What a parser says of a path.
pub(super) type Found<T> = Result<T, Fault>;

/// Why a parser gives nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is nothing of that name.
    None,
    /// The first so many names lead to what is no directory.
    NotFolder(usize),
    /// The first so many names lead to a link with this target.
    Link(usize, Vec<u8>),
    /// It is no regular file.
    NotFile,
    /// The reader lacks what this takes.
    Lacks(String),
    /// The filesystem is damaged.
    Broken(String),
    /// The disk cannot be read, or nobody wants to know any more.
    Disk(Error),
}

impl Fault {
    pub(super) fn broken(why: impl fmt::Display) -> Self {
        Self::Broken(format!("the filesystem is damaged: {why}"))
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Disk(error)
    }
}

/// A filesystem that can be read. Paths are names from its root down; links are not followed.
pub(super) trait Filesystem {
    /// The entry at a path.
    fn stat(&mut self, path: &[Vec<u8>]) -> Found<Node>;

    /// The entries of a directory but the first `from`.
    fn list(&mut self, path: &[Vec<u8>], from: u64, each: &mut dyn FnMut(Node) -> Found<()>) -> Found<()>;

    /// Bytes of a regular file, at most [`MOST_READ`] at a time.
    fn read(&mut self, path: &[Vec<u8>], bytes: Range<u64>, take: &mut dyn FnMut(Vec<u8>) -> Found<()>) -> Found<()>;

    /// So many directories it can have.
    fn most_folders(&self) -> u64;
}

enum Ask {
    Stat(Vec<Vec<u8>>),
    List(Vec<Vec<u8>>, u64),
    Read(Vec<Vec<u8>>, Range<u64>),
}

enum Answer {
    Nodes(Vec<Node>),
    Data(Vec<u8>),
    Folders(u64),
    End(Found<()>),
}

type Open = Arc<dyn Fn(Window) -> Found<Box<dyn Filesystem>> + Send + Sync>;

/// A filesystem on its thread.
pub(super) struct Served {
    window: Window,
    open: Open,
    patience: Duration,
    thread: Option<Thread>,
    most_folders: u64,
}

struct Thread {
    asks: Sender<(Ask, Sender<Answer>)>,
    meter: Arc<Meter>,
    handle: JoinHandle<()>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Served({:?})", self.window)
    }
}

impl Served {
    /// What this window holds; `None` when that is not read here. Nothing is opened yet.
    pub(super) fn new(content: Content, window: Window) -> Option<Self> {
        let open: Open = match content {
            Content::Ext(_) => Arc::new(|window| Ok(Box::new(ext4::Ext::open(window)?))),
            Content::Fat => Arc::new(|window| Ok(Box::new(fat::Fat::open(window)?))),
            _ => return None,
        };
        Some(Self::with(window, open, PATIENCE))
    }

    fn with(window: Window, open: Open, patience: Duration) -> Self {
        Self { window, open, patience, thread: None, most_folders: u64::MAX }
    }

    /// So many directories it can have, once something was asked.
    pub(super) fn most_folders(&self) -> u64 {
        self.most_folders
    }

    /// The entry at a path.
    pub(super) fn stat(&mut self, path: &[Vec<u8>]) -> Found<Node> {
        let mut found = None;
        self.ask(Ask::Stat(path.to_vec()), &mut |answer| {
            if let Answer::Nodes(nodes) = answer {
                found = nodes.into_iter().next();
            }
            Ok::<(), Fault>(())
        })?;
        found.ok_or_else(|| Fault::broken("its reader gave no answer"))
    }

    /// The entries of a directory but the first `from`.
    pub(super) fn list<E: From<Fault>>(
        &mut self,
        path: &[Vec<u8>],
        from: u64,
        each: &mut dyn FnMut(Node) -> Result<(), E>,
    ) -> Result<(), E> {
        self.ask(Ask::List(path.to_vec(), from), &mut |answer| match answer {
            Answer::Nodes(nodes) => nodes.into_iter().try_for_each(&mut *each),
            _ => Ok(()),
        })
    }

    /// Bytes of a regular file.
    pub(super) fn read<E: From<Fault>>(
        &mut self,
        path: &[Vec<u8>],
        bytes: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.ask(Ask::Read(path.to_vec(), bytes), &mut |answer| match answer {
            Answer::Data(bytes) => take(&bytes),
            _ => Ok(()),
        })
    }

    /// Asks, and gives each answer to `each` until the last. An error of `each` ends it.
    fn ask<E: From<Fault>>(&mut self, ask: Ask, each: &mut dyn FnMut(Answer) -> Result<(), E>) -> Result<(), E> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => self.start()?,
        };
        // Few: an answer may be long.
        let (answers, answered) = bounded(2);
        if thread.asks.send((ask, answers)).is_err() {
            return Err(died(thread).into());
        }
        loop {
            match wait(&answered, &thread.meter, self.patience, self.window.size()) {
                Ok(Answer::End(end)) => {
                    let end = end.map_err(|fault| from_disk(fault, &thread.meter));
                    self.thread = Some(thread);
                    return end.map_err(E::from);
                }
                Ok(Answer::Folders(most)) => self.most_folders = most,
                Ok(answer) => {
                    if let Err(e) = each(answer) {
                        // The thread sees that nobody waits, and is ready for the next request.
                        self.thread = Some(thread);
                        return Err(e);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(died(thread).into()),
                Err(RecvTimeoutError::Timeout) => {
                    // Its thread is left to itself: it cannot be ended, but it reads nothing any more.
                    thread.meter.stop();
                    let seconds = self.patience.as_secs();
                    return Err(Fault::broken(format!("its reader came to no end in {seconds} s")).into());
                }
            }
        }
    }

    fn start(&self) -> Found<Thread> {
        let window = self.window.part(0..self.window.size());
        let meter = window.meter();
        let (asks, asked) = unbounded();
        let open = self.open.clone();
        let serve = move || serve(&asked, || open(window.clone()));
        let handle = std::thread::Builder::new().name(THREAD.to_owned()).spawn(serve);
        let handle = handle.map_err(|e| {
            Error::new(ErrorKind::Unavailable, "threads cannot be started: allow this user more processes")
                .with_source(e)
        })?;
        Ok(Thread { asks, meter, handle })
    }
}

/// The next answer. `Timeout` when the parser works for too long, or reads the same again and again.
fn wait(answered: &Receiver<Answer>, meter: &Meter, patience: Duration, size: u64) -> Result<Answer, RecvTimeoutError> {
    const LOOK: Duration = Duration::from_millis(100);
    let (start, waited, read) = (Instant::now(), meter.waited(), meter.read());
    loop {
        match answered.recv_timeout(LOOK.min(patience)) {
            Err(RecvTimeoutError::Timeout) => {
                // In this order: a read that has ended is in the sum.
                let waiting = meter.is_waiting();
                let worked = start.elapsed().saturating_sub(meter.waited() - waited);
                if !waiting && worked > patience || meter.read() - read > size.saturating_add(REREAD) {
                    return Err(RecvTimeoutError::Timeout);
                }
            }
            answer => return answer,
        }
    }
}

/// A parser hides the error of the disk in one of its own.
fn from_disk(fault: Fault, meter: &Meter) -> Fault {
    match (fault, meter.failed()) {
        (Fault::Broken(_) | Fault::Lacks(_) | Fault::Disk(_), Some(error)) => Fault::Disk(error),
        (fault, _) => fault,
    }
}

fn died(thread: Thread) -> Fault {
    drop(thread.asks);
    if let Some(error) = thread.meter.failed() {
        return Fault::Disk(error);
    }
    match thread.handle.join() {
        Ok(()) => Fault::broken("its reader ended"),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = crate::exit::on_one_line(&text.unwrap_or_else(|| "no message".to_owned()));
            Fault::broken(format!("its reader gave up ({text})"))
        }
    }
}

/// Answers until nobody asks any more.
fn serve(asked: &Receiver<(Ask, Sender<Answer>)>, open: impl Fn() -> Found<Box<dyn Filesystem>>) {
    let mut filesystem = None;
    for (ask, answers) in asked {
        let end = match &mut filesystem {
            Some(filesystem) => answer(filesystem, ask, &answers),
            none => match open() {
                Ok(opened) => {
                    // Gone with the receiver, or taken.
                    let _ = answers.send(Answer::Folders(opened.most_folders()));
                    answer(none.insert(opened), ask, &answers)
                }
                Err(fault) => Err(fault),
            },
        };
        let _ = answers.send(Answer::End(end));
    }
}

fn answer(filesystem: &mut Box<dyn Filesystem>, ask: Ask, answers: &Sender<Answer>) -> Found<()> {
    let send = |answer| {
        let gone = |_| Fault::Disk(Error::new(ErrorKind::Cancelled, "nobody waits for the answer"));
        answers.send(answer).map_err(gone)
    };
    match ask {
        Ask::Stat(path) => send(Answer::Nodes(vec![filesystem.stat(&path)?])),
        Ask::List(path, from) => {
            let mut batch = Vec::new();
            filesystem.list(&path, from, &mut |node| {
                batch.push(node);
                if batch.len() == BATCH { send(Answer::Nodes(std::mem::take(&mut batch))) } else { Ok(()) }
            })?;
            send(Answer::Nodes(batch))
        }
        Ask::Read(path, bytes) => filesystem.read(&path, bytes, &mut |bytes| send(Answer::Data(bytes))),
    }
}

#[cfg(test)]
#[path = "filesystem_tests.rs"]
mod tests;
