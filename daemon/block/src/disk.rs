//! Which disk or file lies behind a path: a text that no other one has, to know it again.

use std::fs;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::geometry::device_number;
use crate::source::Source;
use crate::sysfs::{Device, Number};
use crate::{Error, Result};

/// Where the kernel shows what a disk says of itself: device mapper, md, NVMe, SCSI, MMC, virtio.
const OWN_NAMES: [&str; 6] = ["dm/uuid", "md/uuid", "wwid", "device/wwid", "device/cid", "serial"];

/// Names the disk, file or directory at `path`. The same one has the same text at any later time, as long as a device keeps its size
/// and the disk its number; another one that has taken over the path has another. A disk that has no name of its own
/// loses its text when it is detached or the machine starts anew. `None` when it cannot be told from others, or is
/// none of device, file and directory.
///
/// # Errors
/// `NotFound`, `Denied`, `Io` when it cannot be looked at.
pub fn disk_identity(path: &Path) -> Result<Option<String>> {
    let stat = rustix::fs::stat(path).map_err(|errno| Error::on_path("look at", path, errno))?;
    match device_number(&stat) {
        Some(number) => Ok(device(number, Source::open_quietly(path)?.geometry().size)),
        None => Ok(file(path).map(|(text, _)| text)),
    }
}

fn device(number: Number, size: u64) -> Option<String> {
    let device = Device::new(number);
    // Not the number of a partition: it has another one each time it is found.
    let (disk, part) = match device.whole() {
        Some(disk) => {
            let part = format!("partition {} at sector {} of ", device.text("partition")?, device.text("start")?);
            (disk, part)
        }
        None => (device, String::new()),
    };
    Some(format!("{size} bytes, {part}{}", disk_name(&disk)?))
}

/// A loop device is what it is a loop over. Others go by the name they give themselves or, without one, by the number of
/// their attachment, which the kernel gives once between two starts.
fn disk_name(disk: &Device) -> Option<String> {
    let number = disk.text("dev")?;
    if let Some(backing) = disk.text("loop/backing_file")
        && let Some((file, true)) = file(backing.as_ref())
    {
        let part = |name| disk.text(name).unwrap_or_default();
        let (offset, limit) = (part("loop/offset"), part("loop/sizelimit"));
        return Some(format!("device {number}, loop from {offset} for {limit} over {file}"));
    }
    if let Some((place, name)) = OWN_NAMES.iter().find_map(|place| Some((place, disk.text(place)?))) {
        return Some(format!("device {number}, {place} {name}"));
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("device {number}, attachment {} since start {}", disk.text("diskseq")?, boot.trim()))
}

/// A file or directory, and whether its filesystem knows when it was made: the number of a file that was removed is soon given to
/// another one.
fn file(path: &Path) -> Option<(String, bool)> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), wanted).ok()?;
    let kind = match u32::from(stat.stx_mode) & libc::S_IFMT {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "directory",
        _ => return None,
    };
    let text = format!("{kind} {} on {}:{}", stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor);
    match stat.stx_mask & StatxFlags::BTIME.bits() != 0 {
        true => Some((format!("{text} made at {}.{:09}", stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec), true)),
        false => Some((text, false)),
    }
}
