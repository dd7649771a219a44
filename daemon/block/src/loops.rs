//! Loop devices: what lies below them, and who else shows the same bytes.

use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, Stat};
use rustix::ioctl::{Getter, Opcode, opcode};

use crate::geometry::device_number;
use crate::sysfs::{self, Device, Number, parse_number};

/// `LOOP_GET_STATUS64`: fills in a `struct loop_info64`.
const LOOP_GET_STATUS64: Opcode = opcode::none(b'L', 5);

/// The kernel counts the bytes of all devices in units of this many.
const SECTOR: u64 = 512;

/// `struct loop_info64`, as far as it is looked at.
#[repr(C)]
struct Status {
    device: u64,
    inode: u64,
    /// The number of the device below, 0 for a file.
    rdevice: u64,
    offset: u64,
    rest: [u64; 25],
}

const _: () = assert!(size_of::<Status>() == 232, "what the kernel fills in");

/// What holds bytes: by its number, or by where its inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A block device.
    Device(Number),
    /// A file.
    File { device: u64, inode: u64 },
}

impl Backing {
    pub(crate) fn of(stat: &Stat) -> Self {
        device_number(stat).map_or(Self::File { device: stat.st_dev, inode: stat.st_ino }, Self::Device)
    }

    /// Whether both are files with this number, of whatever device.
    fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::File { inode, .. }, Self::File { inode: theirs, .. }) => inode == theirs,
            _ => false,
        }
    }
}

/// A loop device.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) number: Number,
    /// Its name under /dev, for people.
    pub(crate) name: String,
    /// The file or device below it.
    backing: Backing,
    /// The same as whoever looks at the file sees it: btrfs and overlays give files another device than the kernel has.
    seen: Option<Backing>,
    /// Where in that it begins (bytes).
    offset: u64,
}

impl Loop {
    /// The device below it; `None`: it is a file.
    pub(crate) fn device(&self) -> Option<Number> {
        match self.backing {
            Backing::Device(number) => Some(number),
            Backing::File { .. } => None,
        }
    }

    /// Whether this is what lies below it.
    pub(crate) fn is_over(&self, backing: Backing) -> bool {
        self.backing == backing || self.seen == Some(backing)
    }
}

/// All loop devices that have something below them. The kernel does not keep that for them alone, as it does for other
/// devices that are built on one.
pub(crate) fn loops() -> Vec<Loop> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let is_loop = |entry: &fs::DirEntry| entry.file_name().as_bytes().starts_with(b"loop");
    let described = |entry: fs::DirEntry| {
        let folder = entry.path();
        let path = fs::read(folder.join("loop/backing_file")).ok()?;
        let number = parse_number(fs::read_to_string(folder.join("dev")).ok()?.trim())?;
        let name = format!("/dev/{}", entry.file_name().to_string_lossy());
        let seen = rustix::fs::stat(Path::new(OsStr::from_bytes(path.trim_ascii_end())));
        let seen = seen.ok().map(|stat| Backing::of(&stat));
        let (backing, offset) = match status(name.as_ref(), number) {
            Some(known) => known,
            None => (seen?, Device::new(number).text("loop/offset")?.parse().ok()?),
        };
        // Another file may have taken the name since.
        Some(Loop { number, name, backing, seen: seen.filter(|seen| seen.is_like(backing)), offset })
    };
    entries.flatten().filter(is_loop).filter_map(described).collect()
}

/// What a loop device itself says lies below it, and from which byte on: that holds also where the file has no name
/// any more, or none that leads to it from here. `None` where the device may not be asked.
fn status(path: &Path, number: Number) -> Option<(Backing, u64)> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    (device_number(&rustix::fs::fstat(&fd).ok()?)? == number).then_some(())?;
    // SAFETY: the call fills in a `struct loop_info64`, which has the size of `Status` and takes any bytes.
    let call = unsafe { Getter::<LOOP_GET_STATUS64, Status>::new() };
    // SAFETY: the opcode and its argument belong together, see above; on anything but a loop device it fails.
    let status = unsafe { rustix::ioctl::ioctl(&fd, call) }.ok()?;
    let backing = match status.rdevice {
        0 => Backing::File { device: status.device, inode: status.inode },
        below => Backing::Device((rustix::fs::major(below), rustix::fs::minor(below))),
    };
    Some((backing, status.offset))
}

/// Where the bytes of a device lie below all partitions and loop devices.
struct Place {
    below: Backing,
    bytes: Range<u64>,
    /// The device and those that lead from it to what is below.
    way: Vec<Number>,
}

fn place(number: Number, loops: &[Loop]) -> Option<Place> {
    let bytes = |device: &Device, what: &str| device.text(what)?.parse::<u64>().ok()?.checked_mul(SECTOR);
    let size = bytes(&Device::new(number), "size")?;
    let (mut below, mut start, mut way) = (Backing::Device(number), 0_u64, Vec::new());
    while let Backing::Device(number) = below {
        // The kernel makes no loop device over itself, but what was read while others were attached may look like one.
        if way.contains(&number) {
            return None;
        }
        way.push(number);
        let device = Device::new(number);
        let offset = if let Some(disk) = device.disk() {
            below = Backing::Device(disk);
            bytes(&device, "start")?
        } else if let Some(above) = loops.iter().find(|l| l.number == number) {
            below = above.backing;
            above.offset
        } else {
            break;
        };
        start = start.checked_add(offset)?;
    }
    Some(Place { below, bytes: start..start.saturating_add(size), way })
}

/// Another device that shows some of the bytes of a device.
pub(crate) struct Neighbour {
    pub(crate) number: Number,
    /// It is a loop device that is not below that device: that it is there is enough for what it shows to change.
    pub(crate) is_loop: bool,
}

/// Devices that show some of the bytes of this one without being built on it: loop devices over the same part of a file,
/// partitions of those, what is below a loop device. Not the disk of a partition.
pub(crate) fn neighbours(number: Number) -> Vec<Neighbour> {
    let loops = loops();
    let Some(own) = place(number, &loops) else { return Vec::new() };
    let mut built = sysfs::with_users(number);
    built.extend(Device::new(number).disk());
    let shares = |other: Number| {
        place(other, &loops).is_some_and(|its| {
            its.below == own.below && its.bytes.start < own.bytes.end && own.bytes.start < its.bytes.end
        })
    };
    let others = sysfs::devices().into_iter().filter(|other| !built.contains(other) && shares(*other));
    let neighbour = |number| {
        let is_loop = !own.way.contains(&number) && loops.iter().any(|l| l.number == number);
        Neighbour { number, is_loop }
    };
    others.map(neighbour).collect()
}
