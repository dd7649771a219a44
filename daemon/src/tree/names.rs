//! All names of a directory, ascending byte by byte, in bounded memory: what does not fit is written in sorted runs to
//! a file without a name, and merged from there.

use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{FileType, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest name that the format can hold, bytes.
const MAX_NAME: usize = 255;
/// Bytes that all runs of one directory are read by at once.
const MERGE: usize = 512 << 10;
/// Bytes that one run is read by, at most and at least. A record has at most 257.
const READ: (usize, usize) = (64 << 10, 4 << 10);

/// A name, and what the directory says it is: that may be old, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) name: CString,
    pub(crate) kind: FileType,
}

/// Names one after the other and where each begins: kind (1), length (1), name.
#[derive(Debug, Default)]
struct Arena {
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl Arena {
    fn push(&mut self, name: &[u8], kind: FileType) {
        self.starts.push(self.bytes.len() as u32);
        self.bytes.push(code(kind));
        self.bytes.push(name.len() as u8);
        self.bytes.extend_from_slice(name);
    }

    /// What it takes of memory.
    fn size(&self) -> usize {
        self.bytes.len() + 4 * self.starts.len()
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.starts.sort_unstable_by(|a, b| record(bytes, *a as usize).1.cmp(record(bytes, *b as usize).1));
    }
}

/// The record that begins here: kind and name.
fn record(bytes: &[u8], at: usize) -> (u8, &[u8]) {
    (bytes[at], &bytes[at + 2..at + 2 + usize::from(bytes[at + 1])])
}

fn code(kind: FileType) -> u8 {
    match kind {
        FileType::Directory => 1,
        FileType::Unknown => 0,
        _ => 2,
    }
}

fn kind(code: u8) -> FileType {
    match code {
        1 => FileType::Directory,
        2 => FileType::RegularFile,
        _ => FileType::Unknown,
    }
}

/// What a listing came to.
#[derive(Debug)]
pub(crate) enum Listed {
    /// All names, and why there may be more: an error of the directory.
    All(Names, Option<Errno>),
    /// There are more than was allowed; nothing is kept.
    TooMany,
}

/// Reads all names of an open directory.
///
/// # Errors
/// What the file that the runs are in says, if it came to that: the directory's own errors are in [`Listed`].
pub(crate) fn list(dir: BorrowedFd<'_>, room: usize, spill: &Arc<Spill>) -> io::Result<(Names, Option<Errno>)> {
    let mut runs = Vec::new();
    let mut arena = Arena::default();
    let mut failed = Ok(());
    let missing = read(dir, |name, kind| {
        if arena.size() + name.len() + 6 > room {
            arena.sort();
            failed = spill.write(&arena).map(|run| runs.push(run));
            arena.bytes.clear();
            arena.starts.clear();
        }
        arena.push(name, kind);
        failed.is_ok()
    });
    failed?;
    arena.sort();
    let inner = if runs.is_empty() && spill.keep(arena.size()) {
        Inner::Here { arena, next: 0, spill: spill.clone() }
    } else {
        runs.push(spill.write(&arena)?);
        Inner::Runs { runs, spill: spill.clone() }
    };
    Ok((Names { inner, last: None }, missing))
}

/// The same of a small directory: up to `most` names, without a file.
pub(crate) fn list_small(dir: BorrowedFd<'_>, most: usize, spill: &Arc<Spill>) -> Listed {
    let mut arena = Arena::default();
    let mut more = false;
    let missing = read(dir, |name, kind| {
        more = arena.starts.len() >= most;
        if !more {
            arena.push(name, kind);
        }
        !more
    });
    if more {
        return Listed::TooMany;
    }
    arena.sort();
    spill.take(arena.size());
    Listed::All(Names { inner: Inner::Here { arena, next: 0, spill: spill.clone() }, last: None }, missing)
}

/// Reads the names of a directory once more, by a descriptor of its own: others may be reading by this one. `take` says whether
/// to go on. One that was removed has none.
///
/// # Errors
/// What the kernel says.
pub(crate) fn list_again(dir: BorrowedFd<'_>, mut take: impl FnMut(&[u8]) -> bool) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, c".", flags, Mode::empty()) {
        Ok(dir) => read(dir.as_fd(), |name, _| take(name)).map_or(Ok(()), Err),
        Err(Errno::NOENT) if is_removed(dir) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Whether an open directory has no name any more. One whose filesystem cannot say is not: that its names are not found may be
/// an answer of a server that is lost.
fn is_removed(dir: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(dir).is_ok_and(|stat| stat.st_nlink == 0)
}

/// From its beginning to its end or to the first error; `take` says whether to go on. A name that is too long for the
/// format is an error of the directory, as it cannot stand anywhere.
fn read(dir: BorrowedFd<'_>, mut take: impl FnMut(&[u8], FileType) -> bool) -> Option<Errno> {
    let mut missing = rustix::fs::seek(dir, SeekFrom::Start(0)).err();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 << 10];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::INTR) => continue,
            // It was removed while it was read.
            Err(Errno::NOENT) if is_removed(dir) => return missing,
            Err(errno) => return Some(errno),
        };
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." || name.is_empty() || name.contains(&b'/') {
            continue;
        }
        if name.len() > MAX_NAME {
            missing = Some(Errno::NAMETOOLONG);
        } else if !take(name, entry.file_type()) {
            return missing;
        }
    }
    missing
}

/// The names of one directory, ascending, each once.
#[derive(Debug)]
pub(crate) struct Names {
    inner: Inner,
    /// A filesystem that changes while it is listed may give a name twice.
    last: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Inner {
    Here { arena: Arena, next: usize, spill: Arc<Spill> },
    Runs { runs: Vec<Run>, spill: Arc<Spill> },
}

impl Names {
    /// The next one.
    ///
    /// # Errors
    /// What the file that the runs are in says.
    pub(crate) fn next(&mut self) -> io::Result<Option<Name>> {
        loop {
            let (code, name) = match &mut self.inner {
                Inner::Here { arena, next, .. } => {
                    let Some(start) = arena.starts.get(*next) else { return Ok(None) };
                    *next += 1;
                    let (code, name) = record(&arena.bytes, *start as usize);
                    (code, name.to_vec())
                }
                Inner::Runs { runs, spill } => match merge(runs, spill)? {
                    Some(found) => found,
                    None => return Ok(None),
                },
            };
            if self.last.as_deref() == Some(&name) {
                continue;
            }
            let text = CString::new(name.clone()).map_err(io::Error::other)?;
            self.last = Some(name);
            return Ok(Some(Name { name: text, kind: kind(code) }));
        }
    }

    /// Whether the whole directory is in memory and has this name.
    pub(crate) fn has(&self, wanted: &[u8]) -> io::Result<bool> {
        match &self.inner {
            Inner::Here { arena, .. } => {
                let at = |start: &u32| record(&arena.bytes, *start as usize).1.cmp(wanted);
                Ok(arena.starts.binary_search_by(at).is_ok())
            }
            Inner::Runs { runs, spill } => {
                runs.iter().try_fold(false, |found, run| Ok(found || run.has(wanted, spill)?))
            }
        }
    }

    /// Others come first for a while: gives back what can be read again.
    pub(crate) fn park(&mut self) {
        if let Inner::Runs { runs, .. } = &mut self.inner {
            runs.iter_mut().for_each(Run::park);
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        match &self.inner {
            Inner::Here { arena, spill, .. } => spill.state.lock().memory -= arena.size(),
            Inner::Runs { runs, spill } => {
                let mut state = spill.state.lock();
                state.live -= runs.len();
                // Nobody needs any of it: its place can be used again.
                if state.live == 0 {
                    state.end = 0;
                }
            }
        }
    }
}

/// The smallest of the heads. Few runs, so no heap: 2 million names of 255 bytes are 65.
fn merge(runs: &mut [Run], spill: &Spill) -> io::Result<Option<(u8, Vec<u8>)>> {
    let share = (MERGE / runs.len().max(1)).clamp(READ.1, READ.0);
    let mut least: Option<(usize, (u8, &[u8]))> = None;
    for run in runs.iter_mut() {
        run.fill(share, spill)?;
    }
    for (at, run) in runs.iter().enumerate() {
        let Some(head) = run.head() else { continue };
        if least.is_none_or(|(_, (_, name))| head.1 < name) {
            least = Some((at, head));
        }
    }
    let Some((at, (code, name))) = least else { return Ok(None) };
    let name = name.to_vec();
    runs[at].place += 2 + name.len();
    Ok(Some((code, name)))
}

/// Sorted records in the file.
#[derive(Debug)]
struct Run {
    /// Next byte to be read into the buffer.
    from: u64,
    end: u64,
    buffer: Vec<u8>,
    place: usize,
}

impl Run {
    fn head(&self) -> Option<(u8, &[u8])> {
        (self.place < self.buffer.len()).then(|| record(&self.buffer, self.place))
    }

    /// At least one whole record is in the buffer, unless it is at its end.
    fn fill(&mut self, share: usize, spill: &Spill) -> io::Result<()> {
        let rest = &self.buffer[self.place..];
        if rest.len() >= 2 && rest.len() >= 2 + usize::from(rest[1]) {
            return Ok(());
        }
        self.buffer.drain(..self.place);
        self.place = 0;
        let old = self.buffer.len();
        let more = usize::try_from(self.end - self.from).unwrap_or(usize::MAX).min(share);
        self.buffer.resize(old + more, 0);
        spill.read(&mut self.buffer[old..], self.from)?;
        self.from += more as u64;
        Ok(())
    }

    fn park(&mut self) {
        self.from -= (self.buffer.len() - self.place) as u64;
        self.buffer = Vec::new();
        self.place = 0;
    }

    fn has(&self, wanted: &[u8], spill: &Spill) -> io::Result<bool> {
        let mut run = Self { from: self.from, end: self.end, buffer: self.buffer.clone(), place: self.place };
        loop {
            run.fill(READ.0, spill)?;
            let Some((_, name)) = run.head() else { return Ok(false) };
            match name.cmp(wanted) {
                std::cmp::Ordering::Less => run.place += 2 + name.len(),
                other => return Ok(other.is_eq()),
            }
        }
    }
}

/// The file of all runs of one walk, made when the first one is written, and how much of names is in memory.
#[derive(Debug)]
pub(crate) struct Spill {
    folder: PathBuf,
    /// Bytes of names that may stay in memory.
    room: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<Arc<File>>,
    end: u64,
    live: usize,
    memory: usize,
}

impl Spill {
    /// In this directory, beyond so many bytes of names.
    pub(crate) fn new(folder: &Path, room: usize) -> Arc<Self> {
        Arc::new(Self { folder: folder.to_owned(), room, state: Mutex::default() })
    }

    /// Whether so many bytes may stay in memory; then they are counted.
    fn keep(&self, size: usize) -> bool {
        let mut state = self.state.lock();
        let fits = state.memory + size <= self.room;
        state.memory += if fits { size } else { 0 };
        fits
    }

    fn take(&self, size: usize) {
        self.state.lock().memory += size;
    }

    fn write(&self, sorted: &Arena) -> io::Result<Run> {
        let mut state = self.state.lock();
        let file = match &state.file {
            Some(file) => file.clone(),
            None => state.file.insert(Arc::new(unnamed(&self.folder)?)).clone(),
        };
        let mut buffer = Vec::with_capacity(READ.0 + 2 + MAX_NAME);
        let (from, mut end) = (state.end, state.end);
        for (at, start) in sorted.starts.iter().enumerate() {
            let start = *start as usize;
            buffer.extend_from_slice(&sorted.bytes[start..start + 2 + usize::from(sorted.bytes[start + 1])]);
            if buffer.len() >= READ.0 || at + 1 == sorted.starts.len() {
                file.write_all_at(&buffer, end)?;
                end += buffer.len() as u64;
                buffer.clear();
            }
        }
        state.end = end;
        state.live += 1;
        Ok(Run { from, end, buffer: Vec::new(), place: 0 })
    }

    fn read(&self, into: &mut [u8], from: u64) -> io::Result<()> {
        let file = self.state.lock().file.clone();
        file.map_or(Ok(()), |file| file.read_exact_at(into, from))
    }
}

/// A file that goes away by itself.
fn unnamed(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok(File::from(fd)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let path = folder.join(format!("wherry-names-{}", std::process::id()));
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_removed_has_no_names_and_nothing_is_missing() {
        let temp = tempfile::tempdir().unwrap();
        let gone = temp.path().join("gone");
        std::fs::create_dir(&gone).unwrap();
        let dir = std::fs::File::open(&gone).unwrap();
        assert!(!is_removed(dir.as_fd()));
        std::fs::remove_dir(&gone).unwrap();
        assert!(is_removed(dir.as_fd()));
        let (mut names, missing) = list(dir.as_fd(), 1 << 20, &Spill::new(temp.path(), 1 << 20)).unwrap();
        assert!(names.next().unwrap().is_none() && missing.is_none());
        assert_eq!(list_again(dir.as_fd(), |name| unreachable!("{name:?}")), Ok(()));
    }
}
