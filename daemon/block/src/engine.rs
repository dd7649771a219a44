//! Choice and start of the engine that carries transfers out.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;

use rustix::io::Errno;

use crate::buffer::BufferPool;
use crate::request::Request;
use crate::ring::Ring;
use crate::wake::Waker;
use crate::{Error, Result, threads};

/// Deeper queues gain nothing and cost a thread each in one of the engines.
const MAX_DEPTH: usize = 256;

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// `Ring` where the system has it, else `Threads`; which one and why is logged once.
    #[default]
    Auto,
    /// io_uring; opening fails with `Unsupported` where the system denies it.
    Ring,
    /// As many threads as the queue is deep, each with one positioned read or write at a time.
    Threads,
}

impl Engine {
    /// Finds out which engine this means on this system for devices, before there is any.
    ///
    /// # Errors
    /// `Unsupported` when the ring is asked for by name and cannot be had.
    pub fn find(self) -> Result<EngineInfo> {
        EngineInfo::choose(self, || Ring::open(8, None))
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "ring" => Ok(Self::Ring),
            "threads" => Ok(Self::Threads),
            _ => Err(format!("no engine {text:?}: want auto, ring or threads")),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Ring => "ring",
            Self::Threads => "threads",
        })
    }
}

/// The engine that runs, and why that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// "ring", "threads" or "stream" (standard input).
    pub name: &'static str,
    /// Reason, for people.
    pub why: String,
    /// Reason, in a word, for metrics.
    pub cause: Cause,
}

/// Why an engine was chosen: one of few, where [`EngineInfo::why`] has the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was asked for by its name.
    Asked,
    /// io_uring works here.
    Works,
    /// io_uring is off, denied or not in this kernel.
    NoRing,
    /// There is no other for what is done.
    Only,
}

impl Cause {
    /// The word: `asked`, `works`, `no-ring` or `only`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Works => "works",
            Self::NoRing => "no-ring",
            Self::Only => "only",
        }
    }
}

impl EngineInfo {
    /// One beside which there is no other for what is done, and why.
    #[must_use]
    pub fn only(name: &'static str, why: &str) -> Self {
        Self { name, why: why.to_owned(), cause: Cause::Only }
    }

    fn threads(why: String, cause: Cause) -> Self {
        Self { name: "threads", why, cause }
    }

    fn ring(why: String, cause: Cause) -> Self {
        Self { name: "ring", why, cause }
    }

    /// What `engine` means here, where `open` says whether there is a ring.
    ///
    /// # Errors
    /// `Unsupported` when the ring is asked for by name and cannot be had.
    pub(crate) fn choose<T>(engine: Engine, open: impl FnOnce() -> Result<T, String>) -> Result<Self> {
        match engine {
            Engine::Threads => Ok(Self::threads("asked for".into(), Cause::Asked)),
            Engine::Ring | Engine::Auto => match open() {
                Ok(_) if engine == Engine::Ring => Ok(Self::ring("asked for".into(), Cause::Asked)),
                Ok(_) => Ok(Self::ring("io_uring works here".into(), Cause::Works)),
                Err(why) => no_ring(engine, why),
            },
        }
    }
}

/// What an engine works on: hands out transfers and takes them back. Both engines pull, so an engine never holds more
/// than it can have in flight.
pub(crate) trait Work: Send + Sync {
    /// The next transfer, waiting for one. `None`: there will be none any more.
    fn next(&self) -> Option<Request>;
    /// The next transfer if there is one now. After `Pending` the waker given to [`start`] is woken when to ask again.
    fn try_next(&self) -> Poll<Option<Request>>;
    /// Takes back a transfer that is over, with the bytes transferred.
    fn done(&self, request: Request, result: Result<usize, Errno>);
    /// The engine broke; transfers not yet taken back will not be.
    fn broken(&self, why: &str);
    /// The last thread of the engine is about to end.
    fn finished(&self);
}

/// Where the transfers of one engine go.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    pub(crate) file: Arc<OwnedFd>,
    /// Offsets and lengths of transfers are multiples of this; 1 where the page cache is used.
    pub(crate) alignment: usize,
}

/// Settings of one engine.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// What was asked for.
    pub(crate) engine: Engine,
    /// What [`probe`] found.
    pub(crate) chosen: EngineInfo,
    /// Transfers in flight at most.
    pub(crate) depth: usize,
    /// Registered with the ring if the system allows it.
    pub(crate) pool: Option<&'a BufferPool>,
    /// Named in errors and logs.
    pub(crate) path: &'a Path,
}

/// A running engine. Dropping it waits for its threads, which end when [`Work::next`] is at its end.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) info: EngineInfo,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn new(info: EngineInfo, threads: Vec<JoinHandle<()>>) -> Self {
        Self { info, threads }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic was reported through `Work::broken` already.
            let _ = thread.join();
        }
    }
}

/// Tells `Work` how a thread of an engine ended, also when it panicked. The last one says that all is over.
pub(crate) struct Exit {
    all: Arc<Finish>,
}

struct Finish(Arc<dyn Work>);

impl Exit {
    fn new(work: Arc<dyn Work>) -> Self {
        Self { all: Arc::new(Finish(work)) }
    }

    pub(crate) fn share(&self) -> Self {
        Self { all: self.all.clone() }
    }

    pub(crate) fn work(&self) -> &dyn Work {
        &*self.all.0
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.all.0.broken("a thread of the engine panicked");
        }
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finished();
    }
}

/// Finds out which engine `engine` means on this system.
///
/// # Errors
/// `Unsupported` when the ring is asked for by name and cannot be had.
pub(crate) fn probe(engine: Engine, path: &Path) -> Result<EngineInfo> {
    let info = engine.find()?;
    log(path, &info);
    Ok(info)
}

/// Starts the engine that `setup` names on `channel`; it works until `work` has no more.
///
/// # Errors
/// `Unsupported` as in [`probe`]; `Stopped` when no thread can be started.
pub(crate) fn start(setup: &Setup<'_>, channel: Channel, waker: Arc<Waker>, work: Arc<dyn Work>) -> Result<Running> {
    let depth = setup.depth.clamp(1, MAX_DEPTH);
    let exit = Exit::new(work);
    let no_thread = |e: std::io::Error| {
        exit.work().broken("no thread could be started");
        Error::Stopped { path: setup.path.to_owned(), why: format!("cannot start a thread: {e}") }
    };
    let mut chosen = setup.chosen.clone();
    if chosen.name == "ring" {
        match Ring::open(depth, setup.pool) {
            Ok(ring) => {
                let info = EngineInfo::ring(format!("{}; {}", chosen.why, ring.describe()), chosen.cause);
                let thread = ring.spawn(channel, waker, exit.share()).map_err(no_thread)?;
                return Ok(Running::new(info, vec![thread]));
            }
            Err(why) => {
                chosen = no_ring(setup.engine, why)?;
                log(setup.path, &chosen);
            }
        }
    }
    let threads = threads::spawn(depth, &channel, &exit).map_err(no_thread)?;
    let info = EngineInfo::threads(format!("{}; {} threads", chosen.why, threads.len()), chosen.cause);
    Ok(Running::new(info, threads))
}

fn log(path: &Path, info: &EngineInfo) {
    tracing::info!(path = %path.display(), engine = info.name, why = info.why, "block engine chosen");
}

/// What is done without a ring.
///
/// # Errors
/// `Unsupported` when the ring was asked for by name.
fn no_ring(engine: Engine, why: String) -> Result<EngineInfo> {
    match engine {
        Engine::Ring => Err(Error::Unsupported { engine: "ring", why }),
        _ => Ok(EngineInfo::threads(format!("no io_uring: {why}"), Cause::NoRing)),
    }
}
