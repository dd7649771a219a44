//! Random trees: all kinds of inodes, names and metadata that Linux has.

use crate::small::{noise, splitmix};
use rustix::fs::{AtFlags, CWD, FileType, IFlags, Mode, Timespec, Timestamps, XattrFlags};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;

/// Below so much.
pub(super) fn below(state: &mut u64, n: usize) -> usize {
    (splitmix(state) % n as u64) as usize
}

pub(super) fn pick<'a, T>(state: &mut u64, from: &'a [T]) -> &'a T {
    &from[below(state, from.len())]
}

/// A name that nothing has yet; the number keeps it so.
pub(super) fn name(state: &mut u64, number: usize) -> Vec<u8> {
    let plain = format!("{number:x}");
    match below(state, 9) {
        0 => [b"\xff\xfe\x80 ", plain.as_bytes()].concat(),
        1 => [b"line\nline\t\x1b[31m", plain.as_bytes()].concat(),
        2 => [plain.as_bytes(), &vec![*pick(state, b"x\xe9 "); 255 - plain.len()]].concat(),
        3 => format!("-{plain}").into(),
        4 => format!(".wherry-0123456789abcdef-{number}").into(),
        5 => format!("\u{e9}\u{65}\u{301}\u{1F4BE}{plain}").into(),
        6 => format!("a \\ b'\"*?[{plain}").into(),
        _ => plain.into(),
    }
}

/// Makes a directory that is empty into a random tree, the same one for the same seed.
///
/// # Panics
/// When the system refuses something. Needs root.
pub fn grow(root: &Path, seed: u64) {
    let mut state = seed;
    let (mut folders, mut others) = (vec![root.to_owned()], Vec::new());
    for n in 0..14 {
        let depth = |path: &PathBuf| path.strip_prefix(root).unwrap().components().count();
        let inside = pick(&mut state, &folders).clone();
        let inside = if depth(&inside) > 5 { root.to_owned() } else { inside };
        let path = inside.join(OsStr::from_bytes(&name(&mut state, n)));
        fs::create_dir(&path).unwrap();
        folders.push(path);
    }
    // One of many names.
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..600 {
        fs::write(many.join(format!("{n:04}")), noise(seed ^ n, n as usize % 300)).unwrap();
    }
    // One each, whatever the seed is.
    for (n, len) in [0, 1, 100, 4096, 65_536, 65_537, MIB, 3 * MIB + 4321, 9 * MIB].into_iter().enumerate() {
        fs::write(many.join(format!("file {n}")), noise(seed ^ len as u64, len)).unwrap();
    }
    sparse(&many.join("sparse"), &mut state);
    image(&many.join("disk.img"), &mut state);
    fs::create_dir(root.join("empty")).unwrap();
    for n in 100..190 {
        // One in many stays empty.
        let path = pick(&mut state, &folders[1..]).join(OsStr::from_bytes(&name(&mut state, n)));
        make(&path, &mut state, &others);
        others.push(path);
    }
    // Metadata after all names are there; times of directories last.
    for path in others.iter().chain([&many.join("file 3"), &many.join("file 7")]) {
        dress(path, &mut state);
    }
    folders.push(many);
    for path in folders.iter().rev() {
        dress(path, &mut state);
    }
}

/// A file with holes at its begin, in it and at its end.
fn sparse(path: &Path, state: &mut u64) {
    let file = File::create(path).unwrap();
    let mut at = 128 << 10;
    for _ in 0..4 {
        let len = 1 + below(state, 200_000);
        file.write_all_at(&noise(splitmix(state), len), at).unwrap();
        at += ((len + below(state, 2 * MIB)) as u64).next_multiple_of(4096) + (64 << 10);
    }
    file.set_len(at + (256 << 10)).unwrap();
}

/// A disk image, by its first sector: with parts that are zero, and holes as large as chunks, since archives and mounts show
/// no others.
fn image(path: &Path, state: &mut u64) {
    let file = File::create(path).unwrap();
    let chunks = 4 + below(state, 12) as u64;
    for n in 0..chunks {
        let at = n << 18;
        match below(state, 4) {
            0 if n > 0 => {}
            1 if n > 0 => file.write_all_at(&vec![0; 1 << 18], at).unwrap(),
            2 => file.write_all_at(&[vec![0; 100_000], noise(splitmix(state), 162_144)].concat(), at).unwrap(),
            _ => file.write_all_at(&noise(splitmix(state), 1 << 18), at).unwrap(),
        }
    }
    let magic: [u8; 4] = *pick(state, &[*b"QFI\xfb", *b"KDMV", *b"none"]);
    file.write_all_at(&magic, 0).unwrap();
    file.write_all_at(b"\x55\xaa", 510).unwrap();
    file.set_len((chunks << 18) + below(state, 1 << 18) as u64).unwrap();
}

/// Makes a name of a random kind that is no directory.
pub(super) fn make(path: &Path, state: &mut u64, others: &[PathBuf]) {
    let node = |kind, number| rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), number).unwrap();
    match below(state, 16) {
        0 => fs::write(path, "").unwrap(),
        1 | 2 => fs::write(path, noise(splitmix(state), below(state, 70_000))).unwrap(),
        3 => fs::write(path, noise(splitmix(state), 65_000 + below(state, 300_000))).unwrap(),
        4 => sparse(path, state),
        5 => File::create(path).unwrap().set_len(1 + below(state, MIB) as u64).unwrap(),
        6 => fs::write(path, vec![0; below(state, 200_000)]).unwrap(),
        7 => symlink(OsStr::from_bytes(b"../no\xffwhere"), path).unwrap(),
        8 => symlink(OsStr::from_bytes(&vec![b'l'; 1 + below(state, 4000)]), path).unwrap(),
        9 => node(FileType::Fifo, 0),
        10 => node(FileType::Socket, 0),
        11 => {
            node(FileType::CharacterDevice, rustix::fs::makedev(below(state, 300) as u32, below(state, 70_000) as u32))
        }
        12 => node(FileType::BlockDevice, rustix::fs::makedev(259, below(state, 1 << 20) as u32)),
        13 => image(path, state),
        // Another name of what there is, of whatever kind.
        _ if !others.is_empty() => fs::hard_link(pick(state, others), path).unwrap(),
        _ => fs::write(path, "small").unwrap(),
    }
}

/// Sets an extended attribute of what is there, links not followed.
///
/// # Panics
/// When the system refuses it.
pub fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|e| panic!("{path:?} {name}: {e}"));
}

/// Sets the time of the last change, links not followed: seconds since 1970, and nanoseconds.
///
/// # Panics
/// When the system refuses it.
pub fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// An ACL as the kernel has it: for the owner, one user, the group, one group, at most this, others.
fn acl(user: u32, group: u32) -> Vec<u8> {
    let entries =
        [(1_u16, 7_u16, u32::MAX), (2, 6, user), (4, 5, u32::MAX), (8, 1, group), (16, 7, u32::MAX), (32, 4, u32::MAX)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(may.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Gives random metadata to what is there.
pub(super) fn dress(path: &Path, state: &mut u64) {
    let kind = path.symlink_metadata().unwrap().file_type();
    if below(state, 2) == 0 {
        let owner = *pick(state, &[0, 1, 1000, 65_534, 3_000_000_000]);
        lchown(path, Some(owner), Some(below(state, 70_000) as u32)).unwrap();
    }
    if !kind.is_symlink() && below(state, 2) == 0 {
        let mode = below(state, 0o10_000) as u32;
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    if below(state, 3) == 0 {
        set_attribute(path, "trusted.wherry=%\u{e9}", &noise(splitmix(state), below(state, 60)));
    }
    if (kind.is_file() || kind.is_dir()) && below(state, 3) == 0 {
        set_attribute(path, "user.long", &noise(7, 1 + below(state, 1500)));
        set_attribute(path, "user.empty", b"");
        set_attribute(path, "security.wherry", &[0, 255]);
    }
    if (kind.is_file() || kind.is_dir()) && below(state, 3) == 0 {
        set_attribute(path, "system.posix_acl_access", &acl(1000, 12));
    }
    if kind.is_dir() && below(state, 3) == 0 {
        set_attribute(path, "system.posix_acl_default", &acl(below(state, 5000) as u32, 7));
    }
    if kind.is_file() && below(state, 4) == 0 {
        // cap_net_raw, permitted and effective.
        let capability = [0x0200_0001_u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
        set_attribute(path, "security.capability", &capability);
    }
    if (kind.is_file() || kind.is_dir()) && below(state, 5) == 0 {
        let file = File::open(path).unwrap();
        let flags = rustix::fs::ioctl_getflags(&file).unwrap();
        rustix::fs::ioctl_setflags(&file, flags | IFlags::NODUMP).unwrap();
    }
    if below(state, 3) != 0 {
        let seconds = *pick(state, &[-2_000_000_000, -1, 0, 1_700_000_000, 4_200_000_000, 10_000_000_000]);
        set_times(path, seconds, *pick(state, &[0, 1, 999_999_999, 500_000_000]));
    }
}
