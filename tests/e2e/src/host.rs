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

/// The loop devices over an image.
pub(crate) fn loops(image: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !image.exists() {
        return Ok(Vec::new());
    }
    let listed = run("losetup", &["--noheadings", "--output", "NAME", "--associated", &text(image)?])?;
    Ok(listed.lines().map(|line| PathBuf::from(line.trim())).collect())
}

/// Makes a loop device over an image.
pub(crate) fn attach(image: &Path, read_only: bool) -> anyhow::Result<PathBuf> {
    let image = text(image)?;
    let mut args = vec!["--find", "--show"];
    args.extend(read_only.then_some("--read-only"));
    args.push(&image);
    run("losetup", &args).map(PathBuf::from)
}

/// Takes all loop devices off an image.
pub(crate) fn detach(image: &Path) -> anyhow::Result<()> {
    for device in loops(image)? {
        run("losetup", &["--detach", &text(&device)?])?;
    }
    Ok(())
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
        Some(Mount { device, target: unescaped(fields.nth(1)?) })
    };
    Ok(table.lines().filter_map(mount).collect())
}

/// Where the filesystem of a device is mounted.
pub(crate) fn mounts_of(device: &Path) -> anyhow::Result<Vec<Mount>> {
    let number = fs::metadata(device).with_context(|| format!("looking at {}", device.display()))?.rdev();
    let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    Ok(mounts()?.into_iter().filter(|mount| mount.device == number).collect())
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(target: &Path) -> anyhow::Result<bool> {
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

/// Lets a mounted filesystem fill its device.
pub(crate) fn grow(device: &Path, target: &Path, kind: &str) -> anyhow::Result<()> {
    match kind {
        "ext4" => run("resize2fs", &[&text(device)?]),
        "xfs" => run("xfs_growfs", &[&text(target)?]),
        _ => return Ok(()),
    }
    .map(drop)
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
