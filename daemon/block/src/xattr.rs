//! Extended attributes by directory and name, links and devices among them, without opening what has the name.
//!
//! Linux 6.13 has calls for that (`listxattrat`, `getxattrat`: `include/uapi/linux/xattr.h`), which neither libc nor rustix
//! knows yet. Elsewhere the path goes through `/proc/self/fd`, which costs three times as much: six names are looked up
//! for one.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

/// The same numbers on all architectures that are younger than the table they share.
const GETXATTRAT: libc::c_long = 464;
const LISTXATTRAT: libc::c_long = 465;

/// `/proc/self/fd/`, a number, a slash, a name of 255 bytes and the zero.
const LONGEST: usize = 14 + 10 + 1 + 255 + 1;

/// The kernel does not have the calls, or a filter of system calls keeps them from us.
static UNKNOWN: AtomicBool = AtomicBool::new(false);

/// `struct xattr_args`.
#[repr(C)]
struct Arguments {
    value: u64,
    size: u32,
    flags: u32,
}

/// Lists the names of the extended attributes of `name` in `dir` (of `dir` itself where `name` is empty), each with a zero
/// at its end. Nothing is followed. Gives the bytes that the names take.
///
/// # Errors
/// Those of `listxattr(2)`: `ERANGE` where `list` is too short, `EOPNOTSUPP` where the filesystem has no attributes.
pub fn list_xattr(dir: BorrowedFd<'_>, name: &CStr, list: &mut [u8]) -> Result<usize, Errno> {
    if !UNKNOWN.load(Ordering::Relaxed) {
        // SAFETY: the name ends with a zero, and the kernel writes `list.len()` bytes at most.
        let result = unsafe {
            libc::syscall(LISTXATTRAT, dir.as_raw_fd(), name.as_ptr(), flags(name), list.as_mut_ptr(), list.len())
        };
        match answer(result) {
            Err(errno) if is_unknown(errno) => {}
            answered => return answered,
        }
    }
    list_by_path(dir, name, list)
}

/// Reads the value of one extended attribute of `name` in `dir` (of `dir` itself where `name` is empty). Nothing is
/// followed. Gives the bytes that the value takes.
///
/// # Errors
/// Those of `getxattr(2)`: `ERANGE` where `value` is too short, `ENODATA` where there is no such attribute.
pub fn get_xattr(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
    if !UNKNOWN.load(Ordering::Relaxed) {
        let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let arguments = Arguments { value: value.as_mut_ptr().expose_provenance() as u64, size, flags: 0 };
        // SAFETY: both names end with a zero; the arguments have the layout and the size that are told, and name a buffer of
        // at least `size` bytes, which is borrowed until after the call.
        let result = unsafe {
            libc::syscall(
                GETXATTRAT,
                dir.as_raw_fd(),
                name.as_ptr(),
                flags(name),
                attribute.as_ptr(),
                &raw const arguments,
                size_of::<Arguments>(),
            )
        };
        match answer(result) {
            Err(errno) if is_unknown(errno) => {}
            answered => return answered,
        }
    }
    get_by_path(dir, name, attribute, value)
}

fn list_by_path(dir: BorrowedFd<'_>, name: &CStr, list: &mut [u8]) -> Result<usize, Errno> {
    match name.is_empty() {
        true => rustix::fs::flistxattr(dir, list),
        false => rustix::fs::llistxattr(path(dir, name, &mut [0; LONGEST])?, list),
    }
}

fn get_by_path(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
    match name.is_empty() {
        true => rustix::fs::fgetxattr(dir, attribute, value),
        false => rustix::fs::lgetxattr(path(dir, name, &mut [0; LONGEST])?, attribute, value),
    }
}

fn flags(name: &CStr) -> libc::c_int {
    if name.is_empty() { libc::AT_EMPTY_PATH } else { libc::AT_SYMLINK_NOFOLLOW }
}

fn answer(result: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// Whether the other way is to be gone from now on. `EPERM` is what filters say that are older than the call; where the
/// file itself is what is not permitted, the other way says the same.
fn is_unknown(errno: Errno) -> bool {
    let unknown = matches!(errno, Errno::NOSYS | Errno::PERM);
    if unknown {
        UNKNOWN.store(true, Ordering::Relaxed);
    }
    unknown
}

fn path<'a>(dir: BorrowedFd<'_>, name: &CStr, buffer: &'a mut [u8; LONGEST]) -> Result<&'a CStr, Errno> {
    let mut rest = &mut buffer[..];
    let written = std::io::Write::write_fmt(&mut rest, format_args!("/proc/self/fd/{}/", dir.as_raw_fd()));
    let name = name.to_bytes_with_nul();
    match written.ok().and_then(|()| rest.get_mut(..name.len())) {
        Some(rest) => rest.copy_from_slice(name),
        None => return Err(Errno::NAMETOOLONG),
    }
    CStr::from_bytes_until_nul(buffer).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
    use std::os::fd::{AsFd, OwnedFd};

    fn dir() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("x".repeat(255)), "").unwrap();
        rustix::fs::mknodat(CWD, dir.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let set = |name: &str, attribute: &str, value: &[u8]| {
            rustix::fs::lsetxattr(dir.path().join(name), attribute, value, XattrFlags::empty()).unwrap();
        };
        set("file", "user.a", b"1");
        set("file", "user.b", &[7; 3000]);
        set("", "user.root", b"of the directory");
        set("folder", "user.c", b"");
        // Names of users belong to files and directories alone.
        set("link", "trusted.of-the-link", b"not of the file");
        set("pipe", "trusted.p", b"2");
        set(&"x".repeat(255), "user.long", b"3");
        let fd = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, fd)
    }

    type List = fn(BorrowedFd<'_>, &CStr, &mut [u8]) -> Result<usize, Errno>;
    type Get = fn(BorrowedFd<'_>, &CStr, &CStr, &mut [u8]) -> Result<usize, Errno>;

    fn all(fd: &OwnedFd, name: &CStr, list: List, get: Get) -> Result<Vec<(String, Vec<u8>)>, Errno> {
        let (mut names, mut value) = ([0; 1000], [0; 5000]);
        let len = list(fd.as_fd(), name, &mut names)?;
        let mut found = Vec::new();
        for attribute in names[..len].split_inclusive(|byte| *byte == 0) {
            let attribute = CStr::from_bytes_with_nul(attribute).unwrap();
            let len = get(fd.as_fd(), name, attribute, &mut value)?;
            found.push((attribute.to_str().unwrap().to_owned(), value[..len].to_vec()));
        }
        found.retain(|(name, _)| name != "security.selinux");
        found.sort();
        Ok(found)
    }

    #[test]
    fn both_ways_give_the_same_of_all_kinds_and_follow_nothing() {
        assert!(rustix::process::geteuid().is_root(), "this test sets trusted attributes: it needs root");
        let (_dir, fd) = dir();
        let long = std::ffi::CString::new("x".repeat(255)).unwrap();
        for (name, expected) in [
            (c"file", vec![("user.a", b"1".to_vec()), ("user.b", vec![7; 3000])]),
            (c"", vec![("user.root", b"of the directory".to_vec())]),
            (c"folder", vec![("user.c", Vec::new())]),
            (c"link", vec![("trusted.of-the-link", b"not of the file".to_vec())]),
            (c"pipe", vec![("trusted.p", b"2".to_vec())]),
            (&long, vec![("user.long", b"3".to_vec())]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(all(&fd, name, list_xattr, get_xattr).unwrap(), expected, "{name:?}");
            assert_eq!(all(&fd, name, list_by_path, get_by_path).unwrap(), expected, "{name:?}, by path");
        }
    }

    #[test]
    fn both_ways_say_the_same_of_what_is_not_there_and_of_short_buffers() {
        let (_dir, fd) = dir();
        for (list, get) in [(list_xattr as List, get_xattr as Get), (list_by_path, get_by_path)] {
            let fd = fd.as_fd();
            assert_eq!(list(fd, c"nothing", &mut [0; 10]), Err(Errno::NOENT));
            assert_eq!(list(fd, c"file", &mut [0; 10]), Err(Errno::RANGE));
            assert_eq!(get(fd, c"file", c"user.b", &mut [0; 2999]), Err(Errno::RANGE));
            assert_eq!(get(fd, c"file", c"user.none", &mut [0; 10]), Err(Errno::NODATA));
            assert_eq!(get(fd, c"file", c"user.a", &mut [0; 10]), Ok(1));
        }
        let long = std::ffi::CString::new("y".repeat(256)).unwrap();
        assert_eq!(list_xattr(fd.as_fd(), &long, &mut [0; 10]), Err(Errno::NAMETOOLONG));
        assert_eq!(list_by_path(fd.as_fd(), &long, &mut [0; 10]), Err(Errno::NAMETOOLONG));
    }
}
