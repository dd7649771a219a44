//! What is not read is said, with commands that open it.

use super::home_with;
use super::images::*;
use std::fs::File;
use std::os::unix::fs::FileExt;

#[test]
fn xfs_is_said_with_a_loop_mount_that_works() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (alone, image) = (dir.path().join("alone"), dir.path().join("disk"));
    make(&alone, 300);
    sh("mkfs.xfs", &["-q", alone.to_str().unwrap()]);
    make(&image, 302);
    sh_with("sfdisk", &["-q", image.to_str().unwrap()], "label: dos\nstart=2048,size=300MiB\n");
    place(&alone, &image, 1 << 20);
    std::fs::remove_file(&alone).unwrap();
    let home = home_with(&image);
    let top = home.run(&["ls", "latest", "--json"]).ok().json();
    assert_eq!(top[1]["filesystem"], "xfs");
    let line = home.run(&["ls", "latest", "/p1"]).fails(2);
    let id = home.run(&["snapshots", "--json"]).ok().json()[0]["snapshot"].as_str().unwrap().to_owned();
    assert!(line.contains("/p1 holds xfs, which wherry does not read"), "{line}");
    let options = "ro,norecovery,nouuid,loop,offset=1048576,sizelimit=314572800";
    assert!(line.contains(&format!("mount -o {options} DIR/by-id/{id}/disk.raw /mnt")), "{line}");
    assert!(line.contains(&format!("wherry mount DIR {id}")), "{line}");
    drop(Mounted::new(&image, Some((1 << 20, 300 << 20)), "ro,norecovery,nouuid"));
    // The others are gone through all the same; this one is named.
    let ran = home.run(&["find", "latest"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "/\n/disk.raw\n/p1\n"));
    assert!(ran.stderr.contains("/p1 holds xfs"), "{}", ran.stderr);
}

#[test]
fn what_has_to_be_opened_first_is_said_and_not_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk");
    make(&image, 12);
    sh_with("sfdisk", &["-q", image.to_str().unwrap()], &format!("label: gpt\n{}", "size=1MiB\n".repeat(9)));
    let put = |part: u64, at: u64, bytes: &[u8]| {
        File::options().write(true).open(&image).unwrap().write_all_at(bytes, (part << 20) + at).unwrap();
    };
    put(1, 512, b"LABELONE");
    put(1, 536, b"LVM2 001");
    put(2, 0, b"LUKS\xba\xbe\0\x02");
    put(3, 3, b"NTFS    ");
    put(4, 65_600, b"_BHRfS_M");
    put(5, 3, b"-FVE-FS-");
    put(6, 4096, b"\xfc\x4e\x2b\xa9");
    put(7, 4086, b"SWAPSPACE2");
    let home = home_with(&image);
    for (part, words) in [
        (
            1,
            &["LVM physical volume", "losetup -r --find --show --offset 1048576 --sizelimit 1048576", "vgchange -ay"][..],
        ),
        (2, &["LUKS", "losetup -r", "cryptsetup open --readonly"]),
        (3, &["NTFS", "mount -t ntfs3 -o ro,loop,offset=3145728"]),
        (4, &["btrfs", "mount -o ro,loop,offset=4194304"]),
        (5, &["BitLocker", "--type bitlk"]),
        (6, &["Linux RAID", "mdadm --assemble --readonly"]),
        (7, &["swap", "holds no files"]),
        (8, &["/p8 holds nothing that wherry knows"]),
    ] {
        let path = format!("/p{part}/etc/fstab");
        for command in ["ls", "cat", "dump", "find"] {
            let line = home.run(&[command, "latest", &path]).fails(2);
            assert!(words.iter().all(|word| line.contains(word)), "{path}: {line}");
        }
    }
    // A container is no disk.
    for (magic, name) in [(&b"QFI\xfb"[..], "qcow2"), (b"KDMV", "vmdk")] {
        let image = dir.path().join(name);
        make(&image, 2);
        sh_with("sfdisk", &["-q", image.to_str().unwrap()], "label: dos\nstart=2048\n");
        File::options().write(true).open(&image).unwrap().write_all_at(magic, 0).unwrap();
        let line = home_with(&image).run(&["ls", "latest", "/p0"]).fails(2);
        assert!(line.contains(name) && line.contains("qemu-nbd -r -c /dev/nbd0"), "{line}");
    }
}

#[test]
fn features_that_the_reader_lacks_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    make(&image, 16);
    mkfs(&image, "ext4", &["-O", "inline_data"]);
    let line = home_with(&image).run(&["ls", "latest", "/p0"]).fails(1);
    assert!(line.contains("DATA_IN_INODE") && line.contains("mount -o ro,noload,loop DIR/by-id/"), "{line}");
}

/// 20 MiB of `S` where other files will be.
fn leave_secret(mounted: &Mounted) {
    let (folder, secret) = (mounted.path().to_str().unwrap(), mounted.path().join("secret"));
    std::fs::write(&secret, vec![b'S'; 20 << 20]).unwrap();
    sh("sync", &["-f", folder]);
    std::fs::remove_file(&secret).unwrap();
    sh("sync", &["-f", folder]);
}

#[test]
fn what_the_reader_would_get_wrong_is_said_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    make(&image, 32);
    mkfs(&image, "ext4", &["-b", "1024"]);
    {
        let mounted = Mounted::new(&image, None, "rw");
        let path = |name: &str| mounted.path().join(name).to_str().unwrap().to_owned();
        // What lies where the file is to be.
        leave_secret(&mounted);
        sh("fallocate", &["-l", "16M", &path("reserved")]);
        std::fs::write(path("other"), "fine").unwrap();
        // Many extents: their list has blocks of its own.
        sh("fallocate", &["-l", "2M", &path("mixed")]);
        let mixed = File::options().write(true).open(path("mixed")).unwrap();
        (0..500).for_each(|n| mixed.write_all_at(b"x", n * 4096).unwrap());
        sh("touch", &["-d", "1960-01-01", &path("old")]);
    }
    let home = home_with(&image);
    for name in ["reserved", "mixed"] {
        let line = home.run(&["cat", "latest", &format!("/p0/{name}")]).fails(1);
        assert!(line.contains("never written") && line.contains("mount -o ro,noload,loop"), "{line}");
    }
    assert_eq!(home.run(&["cat", "latest", "/p0/other"]).ok().stdout, "fine");
    let ran = home.run(&["dump", "latest", "/p0"]);
    assert!(ran.code == 3 && !ran.stdout.contains("SSSS") && ran.stderr.contains("/p0/reserved"), "{}", ran.stderr);
    // Zeros alone would pass for the files.
    let archive = dir.path().join("tar");
    std::fs::write(&archive, home.command().args(["dump", "latest", "/p0"]).output().unwrap().stdout).unwrap();
    let names = sh("tar", &["-tf", archive.to_str().unwrap()]);
    assert!(names.lines().any(|name| name == "./other" || name == "other"), "{names}");
    assert!(!names.contains("reserved") && !names.contains("mixed"), "{names}");
    let ran = home.run(&["ls", "latest", "/p0"]);
    assert!(ran.code == 3 && ran.stdout.contains("old (unreadable)"), "{}", ran.stdout);
    let line = home.run(&["cat", "latest", "/p0/old"]).fails(1);
    assert!(line.contains("times before 1970"), "{line}");
}

#[test]
fn what_only_the_journal_knows_to_be_never_written_is_said_too() {
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    make(&image, 32);
    mkfs(&image, "ext4", &["-b", "1024"]);
    {
        let mounted = Mounted::new(&image, None, "rw");
        let path = |name: &str| mounted.path().join(name).to_str().unwrap().to_owned();
        leave_secret(&mounted);
        // Of this file alone: its inode is in the journal, and where it belongs something else is.
        sh("fallocate", &["-l", "16M", &path("reserved")]);
        File::open(path("reserved")).unwrap().sync_all().unwrap();
        std::fs::copy(&image, &copy).unwrap();
    }
    let state = sh("dumpe2fs", &["-h", copy.to_str().unwrap()]);
    assert!(state.contains("needs_recovery"), "{state}");
    let home = home_with(&copy);
    let line = home.run(&["cat", "latest", "/p0/reserved"]).fails(1);
    assert!(line.contains("never written"), "{line}");
    let ran = home.run(&["dump", "latest", "/p0"]);
    assert!(ran.code == 3 && !ran.stdout.contains("SSSS") && ran.stderr.contains("/p0/reserved"), "{}", ran.stderr);
}

#[test]
fn changes_that_are_told_in_fast_commits_are_not_left_out_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    make(&image, 64);
    mkfs(&image, "ext4", &["-O", "fast_commit", "-J", "size=8"]);
    {
        let mounted = Mounted::new(&image, None, "rw");
        let write = |name: &str| {
            let path = mounted.path().join(name);
            std::fs::write(&path, name).unwrap();
            File::open(path).unwrap().sync_all().unwrap();
        };
        write("first");
        sh("sync", &["-f", mounted.path().to_str().unwrap()]);
        write("second");
        std::fs::copy(&image, &copy).unwrap();
    }
    let line = home_with(&copy).run(&["cat", "latest", "/p0/second"]).fails(1);
    assert!(line.contains("fast commits") && line.contains("restore the disk and mount that"), "{line}");
    // The kernel makes nothing of them that is left.
    drop(Mounted::new(&copy, None, "rw"));
    assert_eq!(home_with(&copy).run(&["cat", "latest", "/p0/second"]).ok().stdout, "second");
}
