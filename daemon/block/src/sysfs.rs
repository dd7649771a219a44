//! What the kernel says of block devices under /sys.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::geometry::device_number;
use crate::loops::{Backing, loops};

/// (major, minor).
pub(crate) type Number = (u32, u32);

/// A block device, by its folder under /sys.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    folder: PathBuf,
}

impl Device {
    pub(crate) fn new((major, minor): Number) -> Self {
        Self { folder: format!("/sys/dev/block/{major}:{minor}").into() }
    }

    /// For people: the name under /dev, with that of the device mapper if it has one.
    pub(crate) fn name(&self) -> String {
        let kernel = fs::canonicalize(&self.folder).ok();
        let kernel = kernel.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let kernel = kernel.unwrap_or_else(|| self.folder.display().to_string());
        match self.text("dm/name") {
            Some(mapped) => format!("/dev/{kernel} ({mapped})"),
            None => format!("/dev/{kernel}"),
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.text("ro").is_some_and(|text| text == "1")
    }

    /// Devices built on this one: LVM, dm-crypt, md, ...
    pub(crate) fn holders(&self) -> Vec<Number> {
        self.numbers("holders", |_| true)
    }

    pub(crate) fn partitions(&self) -> Vec<Number> {
        self.numbers("", |folder| folder.join("partition").exists())
    }

    fn numbers(&self, below: &str, wanted: impl Fn(&Path) -> bool) -> Vec<Number> {
        let Ok(entries) = fs::read_dir(self.folder.join(below)) else { return Vec::new() };
        let folders = entries.flatten().map(|entry| entry.path()).filter(|folder| wanted(folder));
        folders.filter_map(|folder| parse_number(fs::read_to_string(folder.join("dev")).ok()?.trim())).collect()
    }

    /// The disk this is a partition of.
    pub(crate) fn whole(&self) -> Option<Self> {
        self.text("partition")?;
        let folder = fs::canonicalize(&self.folder).ok()?;
        Some(Self { folder: folder.parent()?.to_owned() })
    }

    /// The number of that.
    pub(crate) fn disk(&self) -> Option<Number> {
        parse_number(&self.whole()?.text("dev")?)
    }

    /// Whether somebody, perhaps in another container, has it open exclusively. Of a disk with partitions nobody knows: it
    /// counts as open as soon as one of them is.
    pub(crate) fn is_held(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        self.partitions().is_empty()
            && self.node().is_some_and(|node| rustix::fs::open(node, flags, Mode::empty()).err() == Some(Errno::BUSY))
    }

    /// Its place under /dev, if that is this device.
    fn node(&self) -> Option<PathBuf> {
        let node = Path::new("/dev").join(fs::canonicalize(&self.folder).ok()?.file_name()?);
        let number = device_number(&rustix::fs::stat(&node).ok()?)?;
        (Some(number) == parse_number(&self.text("dev")?)).then_some(node)
    }

    /// What a file in its folder says, without the end of the line; `None` when there is none, or nothing in it.
    pub(crate) fn text(&self, file: &str) -> Option<String> {
        Some(fs::read_to_string(self.folder.join(file)).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
    }
}

/// "8:1"
pub(crate) fn parse_number(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// All block devices.
pub(crate) fn devices() -> Vec<Number> {
    let Ok(entries) = fs::read_dir("/sys/dev/block") else { return Vec::new() };
    entries.flatten().filter_map(|entry| parse_number(entry.file_name().to_str()?)).collect()
}

/// The device, its partitions and all that is built on them, loop devices too; itself first.
pub(crate) fn with_users(number: Number) -> Vec<Number> {
    let loops = loops();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut todo = vec![number];
    while let Some(number) = todo.pop() {
        if !seen.insert(number) {
            continue;
        }
        found.push(number);
        let device = Device::new(number);
        todo.extend(device.partitions());
        todo.extend(device.holders());
        todo.extend(loops.iter().filter(|l| l.device() == Some(number)).map(|l| l.number));
    }
    found
}

/// The paths in `/proc/swaps`, whose names need not be UTF-8.
pub(crate) fn swaps(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = table.split(|&byte| byte == b'\n').skip(1);
    let names = lines.filter_map(|line| line.split(u8::is_ascii_whitespace).next()).filter(|name| !name.is_empty());
    names.map(crate::mounts::unescape)
}

/// Swap areas in use that are the device or file with this `stat`.
pub(crate) fn is_swap(stat: &Stat) -> bool {
    let Ok(table) = fs::read("/proc/swaps") else { return false };
    swaps(&table).filter_map(|swap| rustix::fs::stat(swap).ok()).any(|swap| {
        let file = matches!(FileType::from_raw_mode(swap.st_mode), FileType::RegularFile | FileType::BlockDevice);
        file && Backing::of(&swap) == Backing::of(stat)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_utf_8_hides_no_other_swap() {
        let table =
            b"Filename\tType\tSize\n/dev/sda2   partition\t7\t0\t-2\n/srv/\xff\t\tfile\t7\n/swap\\040file file\t7\n";
        let names: Vec<_> = swaps(table).map(|path| path.into_os_string().into_encoded_bytes()).collect();
        assert_eq!(names, [&b"/dev/sda2"[..], b"/srv/\xff", b"/swap file"]);
    }
}
