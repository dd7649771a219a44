//! Nothing changes a mounted tree: each system call that would is refused, by wherry's own table and by pjdfstest.

use super::trees::{backup, files, rsync, source};
use super::*;
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, IFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::fs::{RenameFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::unix::fs::PermissionsExt;
use wherry_tests::binary::wherry_bin;

/// What each call ends with. EROFS but where POSIX, or the kernel before it asks the filesystem, wants another one.
#[test]
fn every_call_that_changes_something_is_refused() {
    let place = Place::new();
    let root = source(&place);
    backup(&place, &root);
    let mount = place.mount(&[]);
    let shown = files(&mount.mnt);
    let at = |name: &str| shown.join(name);
    let (file, folder, link, new) = (at("large"), at("empty"), at("odd/link"), at("new"));
    let read = File::open(&file).unwrap();
    let open = |path: &Path, flags: OFlags| rustix::fs::open(path, flags, Mode::RUSR).map(drop);
    let then = Timespec { tv_sec: 1, tv_nsec: 1 };
    let times = Timestamps { last_access: then, last_modification: then };
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    let mode = Mode::from_bits_retain(0o600);
    let open2 =
        |path: &Path, flags| rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::empty()).map(drop);
    let device = rustix::fs::makedev(1, 3);
    let node = |kind, device| rustix::fs::mknodat(CWD, &new, kind, mode, device);
    let rename = |from: &Path, to: &Path| rustix::fs::renameat(CWD, from, CWD, to);
    let calls = [
        ("open to write", open(&file, OFlags::WRONLY), Errno::ROFS),
        ("open to read and write", open(&file, OFlags::RDWR), Errno::ROFS),
        ("open to append", open(&file, OFlags::WRONLY | OFlags::APPEND), Errno::ROFS),
        ("open and truncate", open(&file, OFlags::WRONLY | OFlags::TRUNC), Errno::ROFS),
        ("open through a link", open(&link, OFlags::WRONLY), Errno::ROFS),
        ("openat2 to write", open2(&file, OFlags::WRONLY), Errno::ROFS),
        ("create", open(&new, OFlags::WRONLY | OFlags::CREATE), Errno::ROFS),
        ("create exclusively", open(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL), Errno::ROFS),
        ("create what is there", open(&file, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL), Errno::EXIST),
        ("a file without a name", open(&folder, OFlags::WRONLY | OFlags::TMPFILE), Errno::ROFS),
        ("unlink", rustix::fs::unlink(&file), Errno::ROFS),
        ("unlink a link", rustix::fs::unlink(&link), Errno::ROFS),
        ("unlink a fifo", rustix::fs::unlink(at("odd/fifo")), Errno::ROFS),
        // The kernel asks for leave to write before it looks.
        ("unlink what is not there", rustix::fs::unlink(&new), Errno::ROFS),
        ("mkdir", rustix::fs::mkdir(&new, mode), Errno::ROFS),
        ("mkdir what is there", rustix::fs::mkdir(&folder, mode), Errno::EXIST),
        ("rmdir", rustix::fs::rmdir(&folder), Errno::ROFS),
        ("rename", rename(&file, &new), Errno::ROFS),
        ("rename over a file", rename(&at("many/1"), &at("many/2")), Errno::ROFS),
        ("rename a directory", rename(&folder, &new), Errno::ROFS),
        ("rename out of it", rename(&file, &place.path("out")), Errno::XDEV),
        ("rename into it", rename(&place.path("key"), &new), Errno::XDEV),
        (
            "exchange",
            rustix::fs::renameat_with(CWD, at("many/1"), CWD, at("many/2"), RenameFlags::EXCHANGE),
            Errno::ROFS,
        ),
        ("link", rustix::fs::link(&file, &new), Errno::ROFS),
        ("link over what is there", rustix::fs::link(&file, at("many/1")), Errno::EXIST),
        ("symlink", rustix::fs::symlink("to", &new), Errno::ROFS),
        ("symlink over what is there", rustix::fs::symlink("to", &file), Errno::EXIST),
        ("make a file", node(FileType::RegularFile, 0), Errno::ROFS),
        ("make a fifo", node(FileType::Fifo, 0), Errno::ROFS),
        ("make a socket", node(FileType::Socket, 0), Errno::ROFS),
        ("make a character device", node(FileType::CharacterDevice, device), Errno::ROFS),
        ("make a block device", node(FileType::BlockDevice, device), Errno::ROFS),
        ("chmod", rustix::fs::chmod(&file, mode), Errno::ROFS),
        ("chmod of a directory", rustix::fs::chmod(&folder, mode), Errno::ROFS),
        ("fchmod", rustix::fs::fchmod(&read, mode), Errno::ROFS),
        ("chown", rustix::fs::chown(&file, Some(rustix::fs::Uid::from_raw(1)), None), Errno::ROFS),
        ("lchown", rustix::fs::chownat(CWD, &link, Some(rustix::fs::Uid::from_raw(1)), None, no_follow), Errno::ROFS),
        ("fchown", rustix::fs::fchown(&read, None, Some(rustix::fs::Gid::from_raw(1))), Errno::ROFS),
        ("utimens", rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty()), Errno::ROFS),
        ("utimens of a link", rustix::fs::utimensat(CWD, &link, &times, no_follow), Errno::ROFS),
        ("futimens", rustix::fs::futimens(&read, &times), Errno::ROFS),
        ("truncate", sized(&file), Errno::ROFS),
        ("ftruncate of one that is read", rustix::fs::ftruncate(&read, 1), Errno::INVAL),
        ("fallocate of one that is read", rustix::fs::fallocate(&read, FallocateFlags::empty(), 0, 1), Errno::BADF),
        ("write to one that is read", rustix::io::pwrite(&read, b"x", 0).map(drop), Errno::BADF),
        ("setxattr", rustix::fs::setxattr(&file, "user.x", b"x", XattrFlags::empty()), Errno::ROFS),
        ("lsetxattr", rustix::fs::lsetxattr(&link, "trusted.x", b"x", XattrFlags::empty()), Errno::ROFS),
        ("fsetxattr", rustix::fs::fsetxattr(&read, "user.x", b"x", XattrFlags::empty()), Errno::ROFS),
        (
            "set an ACL",
            rustix::fs::setxattr(&folder, "system.posix_acl_default", b"", XattrFlags::empty()),
            Errno::ROFS,
        ),
        ("removexattr", rustix::fs::removexattr(at("many/3"), "user.one"), Errno::ROFS),
        ("lremovexattr", rustix::fs::lremovexattr(at("many/3"), "user.one"), Errno::ROFS),
        ("set flags", rustix::fs::ioctl_setflags(&read, IFlags::IMMUTABLE), Errno::ROFS),
    ];
    let wrong: Vec<_> = calls.into_iter().filter(|(_, ended, wanted)| *ended != Err(*wanted)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The folders above the tree, too.
    for folder in [mount.mnt.clone(), mount.mnt.join("by-volume"), shown.parent().unwrap().to_owned()] {
        assert_eq!(open(&folder.join("new"), OFlags::WRONLY | OFlags::CREATE), Err(Errno::ROFS), "{folder:?}");
        assert_eq!(rustix::fs::mkdir(folder.join("new"), mode), Err(Errno::ROFS), "{folder:?}");
    }
    assert_eq!(rustix::fs::rmdir(&shown), Err(Errno::ROFS));
    assert_eq!(rsync(&root, &shown), "");
}

/// truncate(2), which rustix has not.
fn sized(path: &Path) -> rustix::io::Result<()> {
    let status = Command::new("python3")
        .args(["-c", "import os, sys\ntry: os.truncate(sys.argv[1], 1)\nexcept OSError as e: sys.exit(e.errno)"])
        .arg(path)
        .status()
        .unwrap();
    match status.code().unwrap() {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

/// What pjdfstest calls to make its filesystem read-only: a mount of a snapshot of the same tree takes its place, so that
/// the read-only part of each of its tests meets a mount of wherry's. `mount -o remount,ro DIR`.
const INSTEAD_OF_MOUNT: &str = r#"#!/bin/sh
set -e
case "$2" in
  remount,ro)
    "$WHERRY" backup "$3" --name pjd --quiet
    "$WHERRY" mount "$SNAPSHOTS" latest:pjd >/dev/null 2>&1
    "$MOUNT" --bind "$SNAPSHOTS/by-volume/pjd/latest/files" "$3"
    echo once >>"$COUNT" ;;
  remount,rw)
    umount "$3"
    umount "$SNAPSHOTS" ;;
  *) echo "not expected: $*" >&2; exit 1 ;;
esac
"#;

#[test]
fn pjdfstest_finds_it_read_only() {
    let place = Place::new();
    let (work, tools, count) = (place.path("work"), place.path("tools"), place.path("count"));
    fs::create_dir(&work).unwrap();
    fs::create_dir(&tools).unwrap();
    fs::write(tools.join("mount"), INSTEAD_OF_MOUNT).unwrap();
    fs::set_permissions(tools.join("mount"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&count, "").unwrap();
    let settings = "[features]\nposix_fallocate = {}\nutimensat = {}\nutime_now = {}\n\
                    [settings]\nallow_remount = true\n\
                    [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n";
    fs::write(place.path("pjdfstest.toml"), settings).unwrap();
    let config = place.path("pjdfstest.toml");
    // A filesystem of its own: its device tells pjdfstest what to mount anew.
    let text = work.to_str().unwrap().to_owned();
    sh("mount", &["-t", "tmpfs", "-o", "size=16m", "pjdfstest", &text]).unwrap();
    let _mounted = Unmount(vec![place.mnt(), work.clone(), work.clone()]);
    let real = ["/usr/bin/mount", "/bin/mount"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    // The environment of a command of wherry's is that of its own repository.
    let of_wherry = place.command(&[]);
    let mut command = Command::new(pjdfstest());
    command.envs(of_wherry.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("WHERRY", wherry_bin()).env("SNAPSHOTS", place.mnt()).env("COUNT", &count).env("MOUNT", real);
    command.env("PATH", path).env("NO_COLOR", "1").args(["-c", config.to_str().unwrap(), "-p", &text, "erofs"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let ended =
        |how: &str| said.lines().filter(|line| line.contains("erofs") && line.trim_end().ends_with(how)).count();
    let times = fs::read_to_string(&count).unwrap().lines().count();
    println!("{said}");
    assert_eq!((ended("ok"), ended("skipped")), (PJDFSTEST, 0), "{said}");
    assert!(times >= PJDFSTEST, "{times} mounts for {PJDFSTEST} tests");
}

/// How many of its tests are about read-only filesystems, on Linux: chmod, chown, lchown, link, mkdir, mkfifo, open of what
/// is there and of what is not, rename, rmdir, symlink, truncate, unlink.
const PJDFSTEST: usize = 13;

/// The tool, as scripts/test builds it.
fn pjdfstest() -> PathBuf {
    let home = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"));
    let built = home.join("wherry/tools/bin/pjdfstest");
    assert!(built.exists(), "{} is missing: run scripts/test, which builds it", built.display());
    built
}

/// Unmounts what is mounted there when it is dropped, the first one first.
struct Unmount(Vec<PathBuf>);

impl Drop for Unmount {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = Command::new("umount").arg("-l").arg(path).stderr(Stdio::null()).status();
        }
    }
}
