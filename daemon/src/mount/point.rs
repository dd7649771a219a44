//! The folder a mount appears in: whether it may, how it goes away again, and what the kernel knows of it.

use super::holders::holders;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use wherry_repo::{Error, ErrorKind, Result};

/// What the kernel reads ahead of who reads straight on (KiB), where it may be told. Only requests of a reader that is
/// slower than that profit from more.
const READ_AHEAD: u32 = 4096;

/// One mount, of those this process sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// `<major>:<minor>` of its filesystem.
    pub(super) device: String,
    pub(crate) at: PathBuf,
    pub(super) kind: String,
    pub(crate) source: PathBuf,
}

/// All mounts, in the order in which they lie on each other.
pub(super) fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 / /mnt rw,noatime shared:1 - ext3 /dev/root rw`
pub(crate) fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let at = unescape(fields.nth(1)?);
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(MountEntry { device, at, kind, source: unescape(fields.next()?) })
}

/// The kernel writes a blank, a tab, a line end and a backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(code) => {
                plain.push(code);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain).into()
}

/// The folder of a mount, by its one absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    dir: PathBuf,
}

/// What became of an attempt to unmount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// It is gone.
    Done,
    /// Somebody uses it; who, as far as this process can see.
    Busy(Vec<String>),
}

impl Point {
    /// Makes sure that a mount may appear in `dir`. What a killed process left mounted there is removed.
    /// Errors: `Invalid` no empty folder, `Busy` something is mounted there.
    pub fn prepare(dir: &Path) -> Result<Self> {
        /// Dead mounts may lie on each other.
        const TRIES: usize = 16;
        let name = dir.display();
        for _ in 0..TRIES {
            let entries = match fs::read_dir(dir) {
                Err(e) if answers_nobody(&e) => {
                    detach(&absolute(dir)?)?;
                    tracing::warn!("{name} held the mount of a process that was killed: it was removed");
                    continue;
                }
                other => other.map_err(|e| no_folder(dir, e))?,
            };
            let dir = absolute(dir)?;
            let mounts = mounts().map_err(|e| Error::internal("/proc/self/mountinfo cannot be read").with_source(e))?;
            if let Some(there) = mounts.iter().rfind(|m| m.at == dir) {
                let (kind, source) = (&there.kind, there.source.display());
                let text =
                    format!("{name} has {source} ({kind}) mounted on it: name another folder, or `umount` it first");
                return Err(Error::new(ErrorKind::Busy, text));
            }
            if entries.count() > 0 {
                return Err(Error::invalid(format!("{name} is not empty: a mount would hide what is in it")));
            }
            return Ok(Self { dir });
        }
        Err(Error::new(ErrorKind::Busy, format!("{name} has dead mounts that cannot be removed: `umount -l` them")))
    }

    /// Its path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The device number of what is mounted there now, as `<major>:<minor>`.
    pub fn device(&self) -> Option<String> {
        mounts().ok()?.into_iter().rfind(|m| m.at == self.dir).map(|m| m.device)
    }

    /// What is mounted there has no process any more that would answer.
    pub fn is_dead(&self) -> bool {
        fs::read_dir(&self.dir).is_err_and(|e| answers_nobody(&e))
    }

    /// Unmounts what has this device number.
    pub fn unmount(&self, device: &str) -> Result<Unmount> {
        match self.device() {
            Some(now) if now == device => {}
            Some(_) => return Ok(Unmount::Busy(vec!["another mount on top of it".to_owned()])),
            None => return Ok(Unmount::Done),
        }
        let busy = match rustix::mount::unmount(&self.dir, UnmountFlags::NOFOLLOW) {
            Ok(()) => false,
            Err(Errno::BUSY) => true,
            // The kernel lets root alone unmount; this helper is there for everybody else.
            Err(Errno::PERM) => !fusermount(&["-u"], &self.dir).is_ok_and(|(done, _)| done),
            // Somebody was faster.
            Err(Errno::INVAL | Errno::NOENT) => false,
            Err(errno) => return Err(self.failed("cannot be unmounted", errno.into())),
        };
        Ok(if busy && self.device().is_some() { Unmount::Busy(holders(&self.dir)) } else { Unmount::Done })
    }

    /// Takes it out of the tree of folders at once; who uses it may go on.
    pub fn detach(&self) -> Result<()> {
        detach(&self.dir)
    }

    /// Lets the kernel read further ahead, which root alone may tell it.
    pub fn raise_read_ahead(&self, device: &str) {
        let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
        if let Err(e) = fs::write(&file, READ_AHEAD.to_string()) {
            tracing::debug!("{file} is left as it is, reads are smaller: {e}");
        }
    }

    fn failed(&self, what: &str, error: io::Error) -> Error {
        Error::new(ErrorKind::Unavailable, format!("{} {what}: {error}", self.dir.display())).with_source(error)
    }
}

fn answers_nobody(e: &io::Error) -> bool {
    // The second one only for a moment: requests that were under way when the process ended.
    [Errno::NOTCONN, Errno::CONNABORTED].iter().any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}

fn no_folder(dir: &Path, e: io::Error) -> Error {
    let name = dir.display();
    let text = match e.kind() {
        io::ErrorKind::NotFound => format!("{name} does not exist: make it with `mkdir`"),
        io::ErrorKind::NotADirectory => format!("{name} is not a folder: name an empty folder"),
        _ => format!("{name} cannot be mounted on: {e}"),
    };
    Error::invalid(text).with_source(e)
}

/// The path without links. The last part is not looked at: it may be a dead mount.
fn absolute(dir: &Path) -> Result<PathBuf> {
    let found = match (dir.canonicalize(), dir.parent(), dir.file_name()) {
        (Ok(path), _, _) => Ok(path),
        (Err(_), Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().map(|parent| parent.join(name))
        }
        (Err(e), _, _) => Err(e),
    };
    found.map_err(|e| no_folder(dir, e))
}

fn detach(dir: &Path) -> Result<()> {
    let failed = |why: String| {
        let text = format!("{} holds a dead mount that cannot be removed: {why}; `umount -l` it", dir.display());
        Error::new(ErrorKind::Busy, text)
    };
    match rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => match fusermount(&["-u", "-z"], dir) {
            Ok((true, _)) => Ok(()),
            Ok((false, why)) => Err(failed(why)),
            Err(e) => Err(failed(format!("fusermount3: {e}"))),
        },
        Err(errno) => Err(failed(errno.to_string())),
    }
}

/// Runs the helper that may do what only root may; whether it succeeded, and what it said.
fn fusermount(flags: &[&str], dir: &Path) -> io::Result<(bool, String)> {
    let output = Command::new("fusermount3").args(flags).arg("--").arg(dir).output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Whether `path` is `dir` or below it.
pub(super) fn is_below(path: &Path, dir: &Path) -> bool {
    let (path, dir) = (path.as_os_str().as_bytes(), dir.as_os_str().as_bytes());
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo() {
        let line = br"36 35 0:45 / /mnt/a\040b\134c ro,nosuid shared:1 master:2 - fuse wherry ro,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!((entry.device.as_str(), entry.at.to_str().unwrap()), ("0:45", r"/mnt/a b\c"));
        assert_eq!((entry.kind.as_str(), entry.source.to_str().unwrap()), ("fuse", "wherry"));
        assert_eq!(parse(b"36 35 0:45 / /mnt ro"), None);
        assert!(mounts().unwrap().iter().any(|m| m.at == Path::new("/")));
    }

    #[test]
    fn only_an_empty_folder_will_do() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Point::prepare(dir.path()).is_ok());
        fs::write(dir.path().join("x"), "").unwrap();
        for path in [dir.path().into(), dir.path().join("x"), dir.path().join("none")] {
            assert_eq!(Point::prepare(&path).unwrap_err().kind(), ErrorKind::Invalid, "{path:?}");
        }
        assert_eq!(Point::prepare(Path::new("/proc")).unwrap_err().kind(), ErrorKind::Busy);
    }

    #[test]
    fn below_is_by_whole_names() {
        let below = |path, dir| is_below(Path::new(path), Path::new(dir));
        assert!(below("/mnt/a", "/mnt") && below("/mnt", "/mnt"));
        assert!(!below("/mnt2/a", "/mnt") && !below("/", "/mnt"));
    }
}
