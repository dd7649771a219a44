//! Snapshots as read-only disk images and directories, through FUSE.
//!
//! [`Fs`] is the whole file system and knows no kernel; `fuse.rs` is the thin shell around it. A read goes from there to
//! a worker, through [`disk::Disk`] or [`file::File`] and the [`cache::ChunkCache`] to the repository's verified reader.

pub mod attributes;
pub mod cache;
pub mod disk;
pub mod file;
pub mod files;
pub mod fs;
mod fuse;
pub(crate) mod holders;
pub mod links;
pub(crate) mod point;
mod show;
pub mod source;
pub mod streams;
pub mod tree;
pub mod workers;

pub use fs::Fs;
pub use point::{Point, Unmount};

use crate::budget::Budget;
use crate::signals::Cancel;
use fuse::Shell;
use fuser::{Config, MountOption, Session, SessionACL};
use source::Shared;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::{Error, ErrorKind, Repository, Result, Snapshot};

/// Longest request to the storage (bytes), unless a single chunk is longer.
const FETCH: u64 = 1 << 20;

/// Threads that take requests from the kernel. They only look things up; reads go on to workers.
const LISTENERS: usize = 2;

/// How often the end of the mount and signals are looked for.
const TICK: Duration = Duration::from_millis(50);

/// How many reads are answered, and fetched ahead, at a time, within the share of memory for buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of opened chunks.
    pub cache: u64,
    /// Threads that answer reads.
    pub readers: usize,
    /// Threads that fetch ahead.
    pub ahead: usize,
    /// Bytes of nodes of trees.
    pub tree_nodes: u64,
    /// Bytes of the table of hard links.
    pub links: u64,
}

impl Limits {
    /// From the shares of memory and the largest chunk (bytes).
    pub fn new(budget: &Budget, chunk: u64) -> Self {
        let half = budget.io_buffers / 2;
        // A reader has an answer and a fetch in memory, both have a sealed chunk of their own.
        let fetch = FETCH.max(chunk);
        let readers = (half / (FETCH + fetch + chunk)).clamp(2, 16);
        let ahead = (half / (fetch + chunk)).clamp(2, 16);
        // A mount has no chunk index.
        let links = (budget.index * 2 / 5).min(32 << 20);
        let tree_nodes = (budget.index - links).min(64 << 20);
        Self { cache: budget.chunk_cache, readers: readers as usize, ahead: ahead as usize, tree_nodes, links }
    }
}

/// What is mounted, and where.
#[derive(Debug)]
pub struct Mount {
    point: Point,
    fs: Arc<Fs>,
    device: String,
    /// Its own way to unmount is never taken: it knows no "busy", and does not see when another mount has taken the
    /// place of this one.
    session: ManuallyDrop<fuser::BackgroundSession>,
}

impl Mount {
    /// Makes the file system of a repository, or of `only` one of its snapshots, appear at `point`. It answers when this
    /// returns.
    pub fn start(
        repository: Repository,
        only: Option<Snapshot>,
        point: Point,
        limits: Limits,
        allow_other: bool,
    ) -> Result<Self> {
        let threads = |e| {
            Error::new(ErrorKind::Unavailable, "threads cannot be started: allow this user more processes")
                .with_source(e)
        };
        let shared = Shared::new(limits.cache, limits.ahead, FETCH).map_err(threads)?;
        repository.limit_tree_nodes(limits.tree_nodes);
        let fs = Arc::new(Fs::new(repository, only, shared, limits.links)?);
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let shell = Shell::new(fs.clone(), limits.readers, owner, allow_other).map_err(threads)?;
        let mut config = Config::default();
        let name = || "wherry".to_owned();
        config.mount_options = vec![
            MountOption::FSName(name()),
            MountOption::Subtype(name()),
            MountOption::RO,
            MountOption::NoAtime,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        if allow_other {
            // Who has the key may read all; others what the files let them.
            config.mount_options.push(MountOption::DefaultPermissions);
        }
        config.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(LISTENERS);
        config.clone_fd = true;
        let session = Session::new(shell, point.dir(), &config).and_then(Session::spawn);
        let session = ManuallyDrop::new(session.map_err(|e| cannot_mount(&point, e))?);
        let gone = || Error::new(ErrorKind::Unavailable, format!("{} was unmounted at once", point.dir().display()));
        let device = point.device().ok_or_else(gone)?;
        point.raise_read_ahead(&device);
        let mount = Self { point, fs, device, session };
        if let Err(e) = std::fs::read_dir(mount.point.dir()) {
            mount.point.detach()?;
            return Err(cannot_mount(&mount.point, e));
        }
        Ok(mount)
    }

    /// Serves until somebody unmounts it, or a signal asks for that and nobody uses it.
    pub fn serve(&self, cancel: &Cancel) -> Result<()> {
        while !self.session.guard.is_finished() {
            if cancel.is_cancelled() {
                let Unmount::Busy(by) = self.end()? else { return Ok(()) };
                // In this order: who reads the message may send the next signal at once.
                cancel.decline();
                let by = if by.is_empty() { "somebody out of sight".to_owned() } else { by.join("; ") };
                tracing::warn!("{} is busy and stays mounted: it is used by {by}", self.point.dir().display());
            }
            std::thread::sleep(TICK);
        }
        // The connection was cut, not the mount: what is left answers nobody. One that answers is not this one, though it
        // has its number: the kernel gives it to the next mount as soon as this one is gone.
        if self.point.device().as_deref() == Some(&self.device) && self.point.is_dead() {
            self.point.detach()?;
        }
        Ok(())
    }

    /// Unmounts unless somebody uses it.
    pub fn end(&self) -> Result<Unmount> {
        self.point.unmount(&self.device)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Threads of the session may hold disks for a moment longer than the process lives.
        self.fs.end();
    }
}

fn cannot_mount(point: &Point, e: std::io::Error) -> Error {
    let dir = point.dir().display();
    let text = match e.kind() {
        std::io::ErrorKind::NotFound => {
            format!(
                "{dir} cannot be mounted: {e}; is the fuse module loaded, and for other users than root fusermount3 installed?"
            )
        }
        std::io::ErrorKind::PermissionDenied if e.raw_os_error().is_some() => {
            format!("{dir} cannot be mounted: {e}; may this user write to /dev/fuse?")
        }
        // What fusermount3 said ends with a line end.
        _ => format!("{dir} cannot be mounted: {}", e.to_string().trim_end()),
    };
    Error::new(ErrorKind::Unavailable, text).with_source(e)
}
