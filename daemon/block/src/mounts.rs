//! Who uses a device or file: mounts, devices built on it, swap, loop devices.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

use crate::geometry::{Identity, device_number};
use crate::loops::{self, Backing, Neighbour};
use crate::source::MountedSource;
use crate::sysfs::{self, Device, Number};

/// A line of /proc/self/mountinfo.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    device: Number,
    pub(crate) mount_point: PathBuf,
    pub(crate) source: PathBuf,
    /// The filesystem, not only this mount of it, takes writes.
    writable: bool,
}

/// All mounts this process sees; none where /proc is not to be had.
fn mounts() -> Vec<Mount> {
    fs::read("/proc/self/mountinfo").map(|table| all(&table)).unwrap_or_default()
}

/// Those of a table. Names in it need not be UTF-8.
fn all(table: &[u8]) -> Vec<Mount> {
    table.split(|&byte| byte == b'\n').filter_map(parse).collect()
}

/// "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
pub(crate) fn parse(line: &[u8]) -> Option<Mount> {
    let end = line.windows(3).position(|bytes| bytes == b" - ")?;
    let (mount, filesystem) = (&line[..end], &line[end + 3..]);
    let mut fields = mount.split(|&byte| byte == b' ');
    let device = sysfs::parse_number(std::str::from_utf8(fields.nth(2)?).ok()?)?;
    let mount_point = unescape(fields.nth(1)?);
    let mut fields = filesystem.split(|&byte| byte == b' ');
    let source = unescape(fields.nth(1)?);
    let writable = fields.next()?.split(|&byte| byte == b',').any(|option| option == b"rw");
    Some(Mount { device, mount_point, source, writable })
}

/// Undoes the octal escapes (`\040`) of the tables of the kernel.
pub(crate) fn unescape(bytes: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if byte == b'\\' => {
                plain.push(code);
                at += 4;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(plain).into()
}

impl Mount {
    /// Whether this is a filesystem on that device. Some filesystems (btrfs) show a number of their own, so the name of
    /// the source counts too.
    fn is_on(&self, number: Number) -> bool {
        self.device == number
            || (self.source.is_absolute()
                && rustix::fs::stat(&self.source).ok().as_ref().and_then(device_number) == Some(number))
    }
}

/// The first of `numbers` that is mounted.
fn mounted(numbers: &[Number], wanted: impl Fn(&Mount) -> bool) -> Option<(Number, Mount)> {
    let mounts = mounts();
    let found = numbers.iter().find_map(|number| {
        let index = mounts.iter().position(|mount| wanted(mount) && mount.is_on(*number))?;
        Some((*number, index))
    });
    let (number, index) = found?;
    Some((number, mounts.into_iter().nth(index)?))
}

/// Whether the device or file of `identity`, anything built on it or what shows the same bytes, is mounted so that it may
/// change.
pub(crate) fn mounted_writable(identity: &Identity) -> Option<MountedSource> {
    let stat = rustix::fs::stat(&identity.path).ok()?;
    let numbers: Vec<_> = match device_number(&stat) {
        Some(number) => {
            let beside = loops::neighbours(number).into_iter().flat_map(|other| with_holders(other.number));
            sysfs::with_users(number).into_iter().chain(beside).collect()
        }
        None => {
            let loops = loops::loops().into_iter().filter(|l| l.is_over(Backing::of(&stat)));
            loops.flat_map(|l| sysfs::with_users(l.number)).collect()
        }
    };
    let (number, mount) = mounted(&numbers, |mount| mount.writable)?;
    Some(MountedSource { mount_point: mount.mount_point, device: Device::new(number).name() })
}

/// The device and all that is built on it. Its partitions are no part of this: they need not have all of its bytes.
fn with_holders(number: Number) -> Vec<Number> {
    let above = Device::new(number).holders().into_iter().flat_map(sysfs::with_users);
    std::iter::once(number).chain(above).collect()
}

/// Who uses the device or file so that it must not be written to; `None` if nobody is known to.
pub(crate) fn user_of(stat: &Stat) -> Option<String> {
    user(stat, true)
}

/// Likewise, but for loop devices over it: the kubelet puts one over each device that it publishes to a pod, as a lock.
pub(crate) fn user_but_loops(stat: &Stat) -> Option<String> {
    user(stat, false)
}

fn user(stat: &Stat, loops: bool) -> Option<String> {
    // The device and what overlaps with it. A loop device over any of them sees what is written.
    let (mut overlapping, mut beside) = (Vec::new(), Vec::new());
    if let Some(number) = device_number(stat) {
        beside = loops::neighbours(number);
        let users = sysfs::with_users(number);
        if let Some((mounted, mount)) = mounted(&users, |_| true) {
            let what = if mounted == number { "it".to_owned() } else { Device::new(mounted).name() };
            return Some(format!("{what} is mounted at {}", mount.mount_point.display()));
        }
        overlapping.push(number);
        overlapping.extend(Device::new(number).partitions());
        for user in &overlapping {
            if let Some(holder) = Device::new(*user).holders().first() {
                return Some(format!("{} is built on it", Device::new(*holder).name()));
            }
        }
        if let Some(user) = beside.iter().find_map(user_of_neighbour) {
            return Some(user);
        }
        overlapping.extend(Device::new(number).disk());
    }
    for above in if loops { loops::loops() } else { Vec::new() } {
        if above.is_over(Backing::of(stat)) {
            return Some(format!("it is the backing file of {}", above.name));
        }
        if let Some(below) = above.device().filter(|below| overlapping.contains(below)) {
            return Some(format!(
                "{}, a part of the same disk, is the backing file of {}",
                Device::new(below).name(),
                above.name
            ));
        }
    }
    if let Some(other) = beside.iter().find(|other| loops && other.is_loop) {
        let name = Device::new(other.number).name();
        return Some(format!("{name} shows the same bytes (`losetup -d {name}` ends that)"));
    }
    sysfs::is_swap(stat).then(|| "it is in use as swap (`swapoff` ends that)".to_owned())
}

/// Who uses what shows the same bytes: they would change under him.
fn user_of_neighbour(other: &Neighbour) -> Option<String> {
    let device = Device::new(other.number);
    let name = device.name();
    if let Some((number, mount)) = mounted(&with_holders(other.number), |_| true) {
        let built = match number == other.number {
            true => String::new(),
            false => format!(" has {} built on it, which", Device::new(number).name()),
        };
        let at = mount.mount_point.display();
        return Some(format!("{name}, which shows the same bytes,{built} is mounted at {at}"));
    }
    if let Some(holder) = device.holders().first() {
        return Some(format!("{} is built on {name}, which shows the same bytes", Device::new(*holder).name()));
    }
    device.is_held().then(|| format!("another program has {name} open exclusively, which shows the same bytes"))
}

/// As [`user_of`], by path, with a word for "nobody known".
pub(crate) fn holder(path: &Path) -> String {
    let known = rustix::fs::stat(path).ok().as_ref().and_then(user_of);
    known.unwrap_or_else(|| "another program has it open exclusively".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo() {
        let line = br"36 35 7:1 / /mnt/a\040b ro,noatime master:1 shared:2 - ext4 /dev/loop1 rw,errors=continue";
        let expected =
            Mount { device: (7, 1), mount_point: "/mnt/a b".into(), source: "/dev/loop1".into(), writable: true };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b"36 35 7:1 / /mnt"), None);
        assert!(!parse(b"1 0 0:1 / / rw - tmpfs none ro,size=4k").unwrap().writable);
        assert_eq!(unescape(br"\0"), PathBuf::from(r"\0"));
    }

    #[test]
    fn a_name_that_is_no_utf_8_hides_no_other_mount() {
        let table = b"1 0 7:1 / /mnt/a rw - ext4 /dev/loop1 rw\n2 0 7:2 / /mnt/\xff\xfe rw - ext4 /dev/loop2 rw\n";
        let points: Vec<_> =
            all(table).into_iter().map(|mount| mount.mount_point.into_os_string().into_vec()).collect();
        assert_eq!(points, [&b"/mnt/a"[..], b"/mnt/\xff\xfe"]);
    }
}
