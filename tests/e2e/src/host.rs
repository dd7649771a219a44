//! What the machine does for the driver: loop devices, filesystems, mounts. Its tools are called, so that the driver
//! needs no unsafe code.

use anyhow::{Context, bail};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A line of `/proc/self/mountinfo`.
#[derive(Debug)]
pub(crate) struct Mount {
    /// `major:minor` of what is mounted.
    device: String,
    /// What of it: `/` unless something within it is shown.
    root: PathBuf,
    /// Where.
    pub(crate) target: PathBuf,
}

/// Runs a tool and returns what it printed.
fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{program} can not be run; is it installed?"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A loop device.
#[derive(Debug)]
pub(crate) struct Loop {
    /// The device.
    pub(crate) path: PathBuf,
    /// It was detached, but somebody holds it open: it goes when that ends, and must not be used again.
    pub(crate) leaving: bool,
}

/// The loop devices over an image.
pub(crate) fn loops(image: &Path) -> anyhow::Result<Vec<Loop>> {
    if !image.exists() {
        return Ok(Vec::new());
    }
    let columns = ["--noheadings", "--raw", "--output", "NAME,AUTOCLEAR", "--associated"];
    let listed = run("losetup", &[&columns[..], &[&text(image)?]].concat())?;
    let device = |line: &str| {
        let (path, leaving) = line.trim().split_once(' ')?;
        Some(Loop { path: path.into(), leaving: leaving.trim() != "0" })
    };
    Ok(listed.lines().filter_map(device).collect())
}

/// Makes a loop device over an image.
#[expect(clippy::print_stderr, reason = "the log of the driver")]
pub(crate) fn attach(image: &Path, read_only: bool) -> anyhow::Result<PathBuf> {
    let image = text(image)?;
    let mut args = vec!["--find", "--show"];
    args.extend(read_only.then_some("--read-only"));
    args.push(&image);
    let device = run("losetup", &args)?;
    // As a disk is: a cache below those of the device would have all of it written a second time at each flush. Where the
    // filesystem of the image cannot do that, it stays as it is.
    if let Err(e) = run("losetup", &["--direct-io=on", &device]) {
        eprintln!("{device} over {image} goes through the cache: {e:#}");
    }
    Ok(PathBuf::from(device))
}

/// Takes all loop devices off an image; an error as long as somebody holds one open.
pub(crate) fn detach(image: &Path) -> anyhow::Result<()> {
    for device in loops(image)?.iter().filter(|device| !device.leaving) {
        run("losetup", &["--detach", &text(&device.path)?])?;
    }
    // Whoever looks at new devices, such as udev, lets go of them soon.
    for _ in 0..20 {
        if loops(image)?.is_empty() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    bail!("a loop device over {} is still open; close it and call again", image.display())
}

/// Writes out what is cached for a device, so that it is in the image.
pub(crate) fn flush(device: &Path) -> anyhow::Result<()> {
    let file = File::open(device).with_context(|| format!("opening {}", device.display()))?;
    file.sync_all().with_context(|| format!("flushing {}", device.display()))
}

/// Forbids writes to a device.
pub(crate) fn set_read_only(device: &Path) -> anyhow::Result<()> {
    run("blockdev", &["--setro", &text(device)?]).map(drop)
}

/// All mounts of this mount namespace.
pub(crate) fn mounts() -> anyhow::Result<Vec<Mount>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let mount = |line: &str| {
        let mut fields = line.split(' ');
        let device = fields.nth(2)?.to_owned();
        Some(Mount { device, root: unescaped(fields.next()?), target: unescaped(fields.next()?) })
    };
    Ok(table.lines().filter_map(mount).collect())
}

/// Where the filesystem of a device is mounted.
pub(crate) fn mounts_of(device: &Path) -> anyhow::Result<Vec<Mount>> {
    let number = fs::metadata(device).with_context(|| format!("looking at {}", device.display()))?.rdev();
    let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    Ok(mounts()?.into_iter().filter(|mount| mount.device == number).collect())
}

/// Where the node of a loop device is shown, as it is for a published Block volume.
pub(crate) fn binds_of(device: &Path) -> anyhow::Result<Vec<Mount>> {
    let Some(name) = device.file_name() else { return Ok(Vec::new()) };
    let node = Path::new("/").join(name); // from the root of /dev
    Ok(mounts()?.into_iter().filter(|mount| mount.root == node).collect())
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(target: &Path) -> anyhow::Result<bool> {
    // The table of mounts has no links in it.
    let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    Ok(mounts()?.iter().any(|mount| mount.target == target))
}

/// Unmounts all that is mounted exactly there.
pub(crate) fn unmount(target: &Path) -> anyhow::Result<()> {
    while is_mounted(target)? {
        run("umount", &[&text(target)?])?;
    }
    Ok(())
}

/// Mounts a filesystem.
pub(crate) fn mount(device: &Path, target: &Path, kind: &str, options: &[String]) -> anyhow::Result<()> {
    let (device, target, options) = (text(device)?, text(target)?, options.join(","));
    let mut args = vec!["-t", kind];
    if !options.is_empty() {
        args.extend(["-o", &options]);
    }
    args.extend([&*device, &*target]);
    run("mount", &args).map(drop)
}

/// Shows a file or folder at another place too.
pub(crate) fn bind(from: &Path, target: &Path, read_only: bool) -> anyhow::Result<()> {
    let target = text(target)?;
    run("mount", &["--bind", &text(from)?, &target])?;
    if read_only {
        run("mount", &["-o", "remount,bind,ro", &target])?;
    }
    Ok(())
}

/// The filesystem on a device, if there is one.
pub(crate) fn filesystem(device: &Path) -> anyhow::Result<Option<String>> {
    let args = ["--probe", "--match-tag", "TYPE", "--output", "value", &text(device)?];
    let output = Command::new("blkid").args(args).stdin(Stdio::null()).output().context("running blkid")?;
    match output.status.code() {
        Some(0) => Ok(Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|kind| !kind.is_empty())),
        Some(2) => Ok(None), // that is how it says that it has found nothing
        _ => bail!("blkid {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// Makes a filesystem. What is on the device is not discarded: old bytes stay where the filesystem writes nothing.
pub(crate) fn make_filesystem(device: &Path, kind: &str) -> anyhow::Result<()> {
    let device = text(device)?;
    match kind {
        "ext4" => run("mkfs.ext4", &["-q", "-m", "0", "-E", "nodiscard", &device]),
        "xfs" => run("mkfs.xfs", &["-q", "-K", &device]),
        _ => bail!("no filesystem {kind} can be made here; ext4 and xfs can"),
    }
    .map(drop)
}

/// Lets an ext4 filesystem that is not mounted fill its device. Mounted, it would need CAP_SYS_RESOURCE, which root in a
/// sandbox may lack.
pub(crate) fn grow_ext4(device: &Path) -> anyhow::Result<()> {
    let name = text(device)?;
    let header = run("dumpe2fs", &["-h", &name])?;
    let number = |key: &str| {
        let value = header.lines().find_map(|line| line.strip_prefix(key));
        value
            .and_then(|value| value.trim().parse::<u64>().ok())
            .with_context(|| format!("dumpe2fs tells no {key} {name}"))
    };
    let (blocks, block) = (number("Block count:")?, number("Block size:")?);
    let size: u64 = run("blockdev", &["--getsize64", &name])?.parse().context("blockdev tells no size")?;
    if size / block <= blocks {
        return Ok(()); // the usual case, in which nothing is written
    }
    let check =
        Command::new("e2fsck").args(["-f", "-p", &name]).stdin(Stdio::null()).output().context("running e2fsck")?;
    // 1: it played the journal back.
    if !matches!(check.status.code(), Some(0 | 1)) {
        bail!("e2fsck {name}: {}", String::from_utf8_lossy(&check.stdout).trim());
    }
    run("resize2fs", &[&name]).map(drop)
}

/// Lets a mounted xfs filesystem fill its device.
pub(crate) fn grow_xfs(target: &Path) -> anyhow::Result<()> {
    run("xfs_growfs", &["-d", &text(target)?]).map(drop)
}

/// Writes a mounted filesystem out and stops writes to it.
pub(crate) fn freeze(target: &Path) -> anyhow::Result<()> {
    run("fsfreeze", &["--freeze", &text(target)?]).map(drop)
}

/// Lets writes go on.
pub(crate) fn thaw(target: &Path) -> anyhow::Result<()> {
    run("fsfreeze", &["--unfreeze", &text(target)?]).map(drop)
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is no UTF-8", path.display()))
}

/// `mountinfo` writes blanks and the like as `\040`.
fn unescaped(field: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}
