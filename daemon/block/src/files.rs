//! Small files, many at once: opened and read over a ring, one thread waiting for all of a batch. Whatever is unusual is an
//! answer of its own, and who asks goes another way with that file.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::Result;
use crate::engine::{Engine, EngineInfo};
use crate::ring::explain;

/// Finds out how small files are read on this system: `depth` at once over rings, or one by one in threads.
///
/// # Errors
/// `Unsupported` when the ring is asked for by name and cannot be had.
pub fn file_engine(engine: Engine, depth: usize) -> Result<EngineInfo> {
    let info = EngineInfo::choose(engine, || FileRing::open(depth))?;
    tracing::info!(engine = info.name, why = info.why, "engine for files chosen");
    Ok(info)
}

/// A ring of one thread for opening and reading files.
pub struct FileRing {
    ring: IoUring,
    depth: usize,
    /// The kernel no longer tells what became of what it was asked for.
    lost: bool,
}

impl fmt::Debug for FileRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRing").field("depth", &self.depth).finish_non_exhaustive()
    }
}

/// A name in a directory, to be opened.
#[derive(Debug)]
pub struct ToOpen {
    /// The directory; it stays open meanwhile.
    pub dir: Arc<OwnedFd>,
    /// The name.
    pub name: CString,
}

/// What the kernel may still read or write if the ring is lost: then it is never freed.
struct Held<T>(ManuallyDrop<T>);

impl<T> Held<T> {
    fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }

    /// The kernel is done with it.
    fn release(self) -> T {
        ManuallyDrop::into_inner(self.0)
    }
}

impl FileRing {
    /// Opens a ring for batches of `depth` files; the error is a reason for people.
    ///
    /// # Errors
    /// The kernel has no io_uring or denies it, or lacks what is needed.
    pub fn open(depth: usize) -> Result<Self, String> {
        let depth = depth.max(1);
        let newer = |entries| IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
        Self::with(depth, set_up((depth as u32).next_power_of_two(), newer)?)
    }

    /// Finds out whether a ring does what is needed.
    fn with(depth: usize, mut ring: IoUring) -> Result<Self, String> {
        let mut known = Probe::new();
        ring.submitter().register_probe(&mut known).map_err(|e| explain("the kernel is too old: probing", &e))?;
        if let Some(code) = [opcode::OpenAt2::CODE, opcode::Read::CODE].iter().find(|code| !known.is_supported(**code))
        {
            return Err(format!("the kernel is too old: operation {code} is missing"));
        }
        // A filter may allow the setup and deny the rest.
        // SAFETY: a no-op refers to no memory.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(|_| "a new ring is full".to_owned())?;
        while let Err(e) = ring.submit_and_wait(1) {
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(explain("io_uring_enter", &e));
            }
        }
        ring.completion().next().ok_or("a no-op did not complete")?;
        Ok(Self { ring, depth, lost: false })
    }

    /// True when the kernel no longer tells what became of what it was asked for: then every answer is `ECANCELED`.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Opens each name in its directory, as `openat2` does with these flags.
    ///
    /// # Errors
    /// Of each file what the kernel says, `ECANCELED` where the ring does not work any more.
    pub fn open_all(
        &mut self,
        names: Vec<ToOpen>,
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Vec<Result<OwnedFd, Errno>> {
        let how = types::OpenHow::new().flags(u64::from(flags.bits())).resolve(resolve.bits());
        let held = Held::new((names, Box::new(how)));
        let (names, how) = &*held.0;
        let answers = self.run(names.len(), |n| {
            let (dir, name): (i32, _) = (names[n].dir.as_raw_fd(), names[n].name.as_ptr());
            opcode::OpenAt2::new(types::Fd(dir), name, &raw const **how).build()
        });
        if !self.lost {
            drop(held.release());
        }
        // SAFETY: what the kernel answers to an open is a new descriptor, which nobody else has.
        answers.into_iter().map(|answer| answer.map(|fd| unsafe { OwnedFd::from_raw_fd(fd.cast_signed()) })).collect()
    }

    /// Reads the first bytes of each file, so many as are said beside it; fewer come where it ends before, and may come
    /// elsewhere.
    ///
    /// # Errors
    /// As of [`FileRing::open_all`].
    pub fn read_all(&mut self, files: &[(BorrowedFd<'_>, usize)]) -> Vec<Result<Vec<u8>, Errno>> {
        let mut held = Held::new(files.iter().map(|(_, len)| vec![0; *len]).collect::<Vec<Vec<u8>>>());
        let buffers = &mut *held.0;
        let answers = self.run(files.len(), |n| {
            let (file, len) = (types::Fd(files[n].0.as_raw_fd()), buffers[n].len() as u32);
            opcode::Read::new(file, buffers[n].as_mut_ptr(), len).offset(0).build()
        });
        if self.lost {
            return answers.into_iter().map(|_| Err(Errno::CANCELED)).collect();
        }
        let filled = held.release().into_iter().zip(answers);
        filled
            .map(|(mut buffer, answer)| {
                buffer.truncate(answer? as usize);
                Ok(buffer)
            })
            .collect()
    }

    /// Has the kernel do `count` things and waits for all; none is left with it unless the ring is lost.
    fn run(&mut self, count: usize, mut entry: impl FnMut(usize) -> squeue::Entry) -> Vec<Result<u32, Errno>> {
        let mut answers = vec![Err(Errno::CANCELED); count];
        let (mut next, mut under_way, mut idle) = (0, 0, Idle::default());
        while !self.lost && (next < count || under_way > 0) {
            while next < count && under_way < self.depth {
                // SAFETY: what an entry refers to is held by the caller until all are answered, and for good if the ring is
                // lost; descriptors stay open as long.
                if unsafe { self.ring.submission().push(&entry(next).user_data(next as u64)) }.is_err() {
                    break;
                }
                (next, under_way) = (next + 1, under_way + 1);
            }
            let waited = self.ring.submit_and_wait(1);
            let before = under_way;
            for done in self.ring.completion() {
                // A negative result is a negated errno.
                let answer = u32::try_from(done.result());
                answers[done.user_data() as usize] =
                    answer.map_err(|_| Errno::from_raw_os_error(done.result().wrapping_neg()));
                under_way -= 1;
            }
            if let (Err(e), true) = (waited, under_way == before) {
                self.lost = !idle.bears(&e);
            }
        }
        answers
    }
}

/// A ring of so many entries; `newer` sets it up as kernels from Linux 6.1 on can.
fn set_up(entries: u32, newer: impl FnOnce(u32) -> io::Result<IoUring>) -> Result<IoUring, String> {
    let ring = match newer(entries) {
        // What is new in it saves switches, no more.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries),
        built => built,
    };
    ring.map_err(|e| explain("io_uring_setup", &e))
}

/// The kernel may be short of memory so often without anything coming to an end.
const PATIENCE: u32 = 1000;

/// How often a batch asked the kernel in vain.
#[derive(Debug, Default)]
struct Idle(u32);

impl Idle {
    /// Whether it is asked again after this error, with which nothing came to an end.
    fn bears(&mut self, error: &io::Error) -> bool {
        self.0 += u32::from(error.kind() != io::ErrorKind::Interrupted);
        is_passing(error) && self.0 <= PATIENCE
    }
}

/// Whether the kernel may take it the next time.
fn is_passing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted || matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
