//! What a disk or a partition holds, told by its magic bytes, and what opens what is not read here.

use super::bytes::Window;
use crate::tree::path::escaped;
use wherry_repo::Result;

/// What is in a range of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// ext2, ext3 or ext4.
    Ext(&'static str),
    /// FAT of 12, 16 or 32 bits.
    Fat,
    /// A filesystem that is not read here: its name, and what its mount is given besides `ro`.
    Other(&'static str, &'static str),
    /// Something that has to be opened first: its name, and how.
    Locked(&'static str, Opener),
    /// Swap, which holds no files.
    Swap,
    /// Nothing that is known.
    Unknown,
}

/// What opens a range of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opener {
    /// A physical volume of LVM.
    Lvm,
    /// LUKS.
    Luks,
    /// BitLocker.
    BitLocker,
    /// Linux RAID.
    Md,
    /// A format of images of virtual machines.
    Qemu,
}

impl Content {
    /// Its name, for people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ext(name) | Self::Other(name, _) | Self::Locked(name, _) => name,
            Self::Fat => "FAT",
            Self::Swap => "swap",
            Self::Unknown => "unknown",
        }
    }
}

/// Magic bytes at a fixed place.
const MAGIC: &[(u64, &[u8], Content)] = &[
    (0, b"LUKS\xba\xbe", Content::Locked("LUKS", Opener::Luks)),
    (3, b"-FVE-FS-", Content::Locked("BitLocker", Opener::BitLocker)),
    (3, b"NTFS    ", Content::Other("NTFS", ",norecover")),
    (3, b"EXFAT   ", Content::Other("exFAT", "")),
    (0, b"XFSB", Content::Other("xfs", ",norecovery,nouuid")),
    (65_600, b"_BHRfS_M", Content::Other("btrfs", "")),
    (0, b"hsqs", Content::Other("squashfs", "")),
    (1024, b"\xe2\xe1\xf5\xe0", Content::Other("erofs", "")),
    (1024, b"\x10\x20\xf5\xf2", Content::Other("f2fs", "")),
    (32_768, b"JFS1", Content::Other("jfs", "")),
    (32_769, b"CD001", Content::Other("iso9660", "")),
    (0, b"QFI\xfb", Content::Locked("qcow2", Opener::Qemu)),
    (0, b"KDMV", Content::Locked("vmdk", Opener::Qemu)),
    (0, b"# Disk DescriptorFile", Content::Locked("vmdk", Opener::Qemu)),
    (0, b"vhdxfile", Content::Locked("vhdx", Opener::Qemu)),
    (64, b"\x7f\x10\xda\xbe", Content::Locked("vdi", Opener::Qemu)),
    (4096, b"\xfc\x4e\x2b\xa9", Content::Locked("Linux RAID", Opener::Md)),
    (0, b"\xfc\x4e\x2b\xa9", Content::Locked("Linux RAID", Opener::Md)),
    (4086, b"SWAPSPACE2", Content::Swap),
];

/// Tells what is in a window.
pub(super) fn tell(window: &Window) -> Result<Content> {
    // LVM writes its label into one of the first four sectors.
    for sector in 0..4 {
        if let Some(label) = window.take(sector * 512, 32)?
            && &label[..8] == b"LABELONE"
            && &label[24..] == b"LVM2 001"
        {
            return Ok(Content::Locked("LVM physical volume", Opener::Lvm));
        }
    }
    for (at, magic, content) in MAGIC {
        if window.take(*at, magic.len())?.as_deref() == Some(magic) {
            return Ok(*content);
        }
    }
    // Linux RAID of 0.90 and 1.0 at the end, before what the filesystem of one of two mirrors looks like.
    let size = window.size();
    for at in [(size & !0xffff).saturating_sub(0x1_0000), (size & !0xfff).saturating_sub(0x2000)] {
        if at > 0 && window.take(at, 4)?.as_deref() == Some(b"\xfc\x4e\x2b\xa9") {
            return Ok(Content::Locked("Linux RAID", Opener::Md));
        }
    }
    if let Some(superblock) = window.take(1024, 1024)?
        && superblock[56..58] == [0x53, 0xef]
    {
        return Ok(Content::Ext(ext_name(&superblock)));
    }
    if let Some(boot) = window.take(0, 512)?
        && super::fat::is_fat(&boot)
    {
        return Ok(Content::Fat);
    }
    Ok(Content::Unknown)
}

/// ext4 has what ext3 does not know, ext3 a journal.
fn ext_name(superblock: &[u8]) -> &'static str {
    let features = |at: usize| superblock[at..at + 4].iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b));
    let (compatible, incompatible, read_only) = (features(92), features(96), features(100));
    match (incompatible & !0x16 != 0 || read_only & !0x7 != 0, compatible & 0x4 != 0) {
        (true, _) => "ext4",
        (false, true) => "ext3",
        (false, false) => "ext2",
    }
}

/// Bytes as a word of a shell.
pub(super) fn word(bytes: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+:@,".contains(b);
    if bytes.iter().all(plain) {
        return escaped(bytes);
    }
    // Between these a shell understands what is escaped.
    format!("$'{}'", escaped(bytes).replace('\'', "\\'"))
}

/// What to do about a range of a disk that is not read here: commands for a shell. A mount shows the disk as `file` in the
/// directory of its snapshot.
pub(super) fn advice(content: &Content, snapshot: &str, file: &str, window: &Window, whole: bool) -> String {
    let disk = format!("DIR/by-id/{snapshot}/{file}");
    let (offset, size) = (window.start(), window.size());
    let (losetup, mount) = if whole {
        (format!("losetup -r --find --show {disk}"), String::new())
    } else {
        let limits = format!("--offset {offset} --sizelimit {size}");
        (format!("losetup -r --find --show {limits} {disk}"), format!(",offset={offset},sizelimit={size}"))
    };
    let then = match content {
        // Without a journal there is none to leave alone.
        Content::Ext("ext2") => format!("`mount -o ro,loop{mount} {disk} /mnt`"),
        Content::Ext(_) => format!("`mount -o ro,noload,loop{mount} {disk} /mnt`"),
        Content::Fat => format!("`mount -o ro,loop{mount} {disk} /mnt`"),
        Content::Other("NTFS", _) => format!("`mount -t ntfs3 -o ro,loop{mount} {disk} /mnt`"),
        Content::Other(_, options) => format!("`mount -o ro{options},loop{mount} {disk} /mnt`"),
        Content::Locked(_, Opener::Lvm) => {
            format!("`{losetup}`, then `vgchange -ay --readonly`, then mount a logical volume with -o ro")
        }
        Content::Locked(_, Opener::Luks) => {
            format!("`{losetup}`, then `cryptsetup open --readonly LOOP NAME`, then mount /dev/mapper/NAME with -o ro")
        }
        Content::Locked(_, Opener::BitLocker) => {
            format!(
                "`{losetup}`, then `cryptsetup open --readonly --type bitlk LOOP NAME`, then mount /dev/mapper/NAME with -o ro"
            )
        }
        Content::Locked(_, Opener::Md) => format!(
            "`{losetup}`, then `mdadm --assemble --readonly --run /dev/md/NAME LOOP`, then mount that with -o ro"
        ),
        Content::Locked(_, Opener::Qemu) => {
            format!("`qemu-nbd -r -c /dev/nbd0 {disk}`, then mount one of /dev/nbd0p* with -o ro")
        }
        Content::Swap => return "it holds no files".to_owned(),
        Content::Unknown => format!("`{losetup}` makes a device of it"),
    };
    format!("`wherry mount DIR {snapshot}`, then {then}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn window(at: usize, magic: &[u8]) -> Window {
        let mut bytes = vec![0; 1 << 20];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        Window::whole(Arc::new(bytes))
    }

    #[test]
    fn each_is_known_by_its_magic_and_says_what_opens_it() {
        for (at, magic, content) in MAGIC {
            let window = window(*at as usize, magic);
            assert_eq!(tell(&window).unwrap(), *content, "{}", content.name());
            let said = advice(content, "0123", "disk.raw", &window.part(4096..8192), false);
            if *content != Content::Swap {
                assert!(said.contains("wherry mount DIR 0123") && said.contains("DIR/by-id/0123/disk.raw"), "{said}");
            }
            match content {
                Content::Other(..) => {
                    assert!(said.contains("ro") && said.contains("offset=4096,sizelimit=4096"), "{said}")
                }
                Content::Locked(_, Opener::Qemu) => assert!(said.contains("qemu-nbd -r"), "{said}"),
                Content::Locked(..) => assert!(said.contains("losetup -r") && said.contains("--offset 4096"), "{said}"),
                _ => {}
            }
        }
        assert_eq!(tell(&window(0, b"")).unwrap(), Content::Unknown);
        assert_eq!(tell(&Window::whole(Arc::new(vec![0; 100]))).unwrap(), Content::Unknown);
    }

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        for name in [&b"files/a/disk.img"[..], b"it's a\n\\disk $x", b"\xff\x01"] {
            let script = format!("printf %s {} > {}/out", word(name), dir.path().display());
            assert!(std::process::Command::new("bash").args(["-c", &script]).status().unwrap().success());
            assert_eq!(std::fs::read(dir.path().join("out")).unwrap(), name, "{script}");
        }
    }

    #[test]
    fn lvm_is_found_in_each_of_its_sectors_and_raid_at_the_end() {
        for sector in 0..4 {
            let mut label = [0; 32];
            label[..8].copy_from_slice(b"LABELONE");
            label[24..].copy_from_slice(b"LVM2 001");
            assert_eq!(tell(&window(sector * 512, &label)).unwrap().name(), "LVM physical volume");
        }
        for at in [(1 << 20) - 0x1_0000, (1 << 20) - 0x2000] {
            assert_eq!(tell(&window(at, b"\xfc\x4e\x2b\xa9")).unwrap().name(), "Linux RAID");
        }
    }
}
