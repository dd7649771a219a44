//! What is refused as a target, and what is said of a source in use. Needs root (loop devices, mounts).
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use common::{KIB, Loop, MIB, Mount, file_with, run, sparse_file, when_free};
use wherry_block::{
    BufferPool, Engine, Error, Sink, SinkOptions, Source, TargetKind, TargetState, disk_identity, inspect_target,
};

const SIZE: u64 = 16 * MIB as u64;

fn open(path: &Path) -> Result<Sink, Error> {
    let pool = BufferPool::new(64 * KIB, 2).unwrap();
    Sink::open(path, 4096, SinkOptions { engine: Engine::Threads, depth: 2, below_loop: false }, &pool)
}

fn empty_disk(folder: &Path) -> PathBuf {
    sparse_file(&folder.join("disk"), SIZE, &[])
}

fn delete_partition(disk: &str, number: &str) {
    when_free(|| {
        let delete = std::process::Command::new("delpart").args([disk, number]).status();
        delete.unwrap().success().then_some(())
    });
}

/// Both the look and the open must say that it is busy, and why.
fn assert_busy(path: &Path, why: &str) {
    let seen = inspect_target(path).unwrap().busy.unwrap_or_default();
    assert!(seen.contains(why), "{path:?}: looked {seen:?}, not {why:?}");
    match open(path) {
        Err(Error::Busy { by, .. }) => assert!(by.contains(why), "{path:?}: open said {by:?}, not {why:?}"),
        other => panic!("{path:?}: {other:?}"),
    }
}

#[test]
fn missing_files_and_folders() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none");
    let kind = |path: &Path| inspect_target(path).unwrap().kind;
    let refused = |path: &Path| match kind(path) {
        TargetKind::Missing { refused } => refused,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&missing), None);
    assert!(refused(&missing.join("disk")).unwrap().contains(missing.to_str().unwrap()));
    std::os::unix::fs::symlink(&missing, folder.path().join("link")).unwrap();
    assert!(refused(&folder.path().join("link")).unwrap().contains("symbolic link"));
    assert!(refused(&folder.path().join("none/")).unwrap().contains('/'));
    assert_eq!(inspect_target(folder.path()).unwrap().kind, TargetKind::Directory);
    assert_eq!(inspect_target("/dev/null".as_ref()).unwrap().kind, TargetKind::Other);
    assert!(matches!(open(&missing), Err(Error::NotFound { .. })));
    let pool = BufferPool::new(4096, 1).unwrap();
    let options = SinkOptions { engine: Engine::Threads, depth: 1, below_loop: false };
    let below = Sink::create(&missing.join("disk"), 1, options, &pool).unwrap_err();
    assert_eq!(below, Error::NotFound { path: missing });
    let file = file_with(&folder.path().join("file"), b"x");
    assert!(refused(&file.join("disk")).unwrap().contains("not a folder"));
    assert!(matches!(Sink::create(&file, 1, options, &pool), Err(Error::Exists { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
    let kind = TargetKind::File { size: 1, read_only: false };
    assert_eq!(inspect_target(&file).unwrap(), TargetState { kind, busy: None });
}

#[test]
fn empty_and_used_devices() {
    let folder = tempfile::tempdir().unwrap();
    let file = empty_disk(folder.path());
    let device = Loop::new(&file, &[]);
    let contents = || match inspect_target(&device.0).unwrap() {
        TargetState { kind: TargetKind::Device { size: SIZE, read_only: false, contents }, busy: None } => contents,
        other => panic!("{other:?}"),
    };
    assert_eq!(contents(), None);
    // Each byte at the rim of what is looked at counts; the one behind it does not.
    let raw = File::options().write(true).open(&device.0).unwrap();
    for (at, counts) in
        [(0, true), (MIB as u64 - 1, true), (MIB as u64, false), (SIZE - 1, true), (SIZE - MIB as u64, true)]
    {
        raw.write_all_at(&[1], at).unwrap();
        raw.sync_all().unwrap();
        assert_eq!(contents().is_some(), counts, "byte {at}");
        raw.write_all_at(&[0], at).unwrap();
        raw.sync_all().unwrap();
    }
    drop(raw);
    run("mkfs.ext4", &["-q", "-F", device.0.to_str().unwrap()]);
    assert_eq!(contents().unwrap(), "an ext2/3/4 filesystem");
}

#[test]
fn a_mounted_device_is_busy_and_so_is_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = empty_disk(folder.path());
    let device = Loop::new(&file, &[]);
    run("mkfs.ext4", &["-q", "-F", device.0.to_str().unwrap()]);
    let source = Source::open(&device.0, Engine::Threads).unwrap();
    let of_file = Source::open(&file, Engine::Threads).unwrap();
    assert_eq!((source.mounted_writable(), of_file.mounted_writable()), (None, None));

    let place = folder.path().join("mounted here");
    let mount = Mount::new(&device.0, &place, &[]);
    assert_busy(&device.0, place.to_str().unwrap());
    assert_busy(&file, "backing file");
    for source in [&source, &of_file] {
        let seen = source.mounted_writable().unwrap();
        assert_eq!((&seen.mount_point, seen.device), (&place, device.0.display().to_string()));
    }
    drop(mount);
    let mount = Mount::new(&device.0, &place, &["-o", "ro"]);
    assert_eq!(source.mounted_writable(), None);
    assert_busy(&device.0, place.to_str().unwrap());
    drop(mount);
    assert!(open(&device.0).is_ok());
}

#[test]
fn a_disk_with_a_mounted_partition_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let file = empty_disk(folder.path());
    let device = Loop::new(&file, &["--partscan"]);
    // Told to the kernel, not read from a table: it need not know any kind of table.
    run("addpart", &[device.0.to_str().unwrap(), "1", "2048", "16384"]);
    let partition = PathBuf::from(format!("{}p1", device.0.display()));
    run("mkfs.ext4", &["-q", "-F", partition.to_str().unwrap()]);
    let place = folder.path().join("mounted");
    let _mount = Mount::new(&partition, &place, &[]);
    assert_busy(&device.0, &format!("{} is mounted at {}", partition.display(), place.display()));
    assert_busy(&partition, "it is mounted at");
    let seen = Source::open(&device.0, Engine::Threads).unwrap().mounted_writable().unwrap();
    assert_eq!((seen.mount_point, seen.device), (place, partition.display().to_string()));
}

#[test]
fn what_shows_the_same_bytes_is_busy_together_whatever_became_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = empty_disk(folder.path());
    let other_name = folder.path().join("other name");
    std::fs::hard_link(&file, &other_name).unwrap();
    let (first, second) = (Loop::new(&file, &["--partscan"]), Loop::new(&other_name, &["--partscan"]));
    let name = |device: &Loop| device.0.to_str().unwrap().to_owned();
    run("addpart", &[&name(&first), "1", "2048", "8192"]);
    run("addpart", &[&name(&second), "1", "2048", "8192"]);
    run("addpart", &[&name(&second), "2", "10240", "8192"]);
    let part = |device: &Loop, number: u32| PathBuf::from(format!("{}p{number}", device.0.display()));
    run("mkfs.ext4", &["-q", "-F", part(&first, 1).to_str().unwrap()]);
    let place = folder.path().join("mounted");
    let mount = Mount::new(&part(&first, 1), &place, &[]);
    let mounted =
        format!("{}, which shows the same bytes, is mounted at {}", part(&first, 1).display(), place.display());
    for gone in [false, true] {
        assert_busy(&second.0, &mounted);
        assert_busy(&part(&second, 1), &mounted);
        let source = Source::open(&part(&second, 1), Engine::Threads).unwrap();
        assert_eq!(source.mounted_writable().unwrap().mount_point, place);
        // Of the same disk, but no byte of what is mounted: only the loop device over all of it is in the way.
        assert_busy(&part(&second, 2), &format!("losetup -d {}", name(&first)));
        assert_eq!(Source::open(&part(&second, 2), Engine::Threads).unwrap().mounted_writable(), None);
        if !gone {
            std::fs::remove_file(&file).unwrap();
            std::fs::remove_file(&other_name).unwrap();
            // Another file that has its name now is another file.
            let again = empty_disk(folder.path());
            let third = Loop::new(&again, &[]);
            assert!(open(&third.0).is_ok() && open(&again).is_err());
        }
    }
    let pool = BufferPool::new(64 * KIB, 2).unwrap();
    let options = SinkOptions { engine: Engine::Threads, depth: 2, below_loop: true };
    assert!(matches!(Sink::open(&part(&second, 1), 4096, options, &pool), Err(Error::Busy { .. })));
    // As of other loop devices: with that option only what is in use counts.
    when_free(|| Sink::open(&part(&second, 2), 4096, options, &pool).ok());
    drop(mount);
    drop(first);
    when_free(|| open(&part(&second, 1)).ok());
    for number in ["1", "2"] {
        delete_partition(&name(&second), number);
    }
}

#[test]
fn the_last_mib_is_looked_at_from_its_first_byte_on() {
    let folder = tempfile::tempdir().unwrap();
    for (sectors, size) in [("512", 4 * MIB + 7 * 512), ("512", MIB + 512), ("4096", 4 * MIB + 4096), ("512", 512)] {
        let file = sparse_file(&folder.path().join("disk"), size as u64, &[]);
        let device = Loop::new(&file, &["--sector-size", sectors]);
        let contents = || match inspect_target(&device.0).unwrap().kind {
            TargetKind::Device { contents, .. } => contents,
            other => panic!("{other:?}"),
        };
        assert_eq!(contents(), None);
        let raw = File::options().write(true).open(&device.0).unwrap();
        for at in [size.saturating_sub(MIB), size.saturating_sub(MIB - 5), size - 1] {
            raw.write_all_at(&[1], at as u64).unwrap();
            raw.sync_all().unwrap();
            assert_eq!(contents().unwrap(), format!("data (first at byte {at})"), "{size} bytes");
            raw.write_all_at(&[0], at as u64).unwrap();
            raw.sync_all().unwrap();
        }
    }
}

#[test]
fn a_disk_is_known_again_and_another_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let identity = |path: &Path| disk_identity(path).unwrap().unwrap();
    // At one and the same device, and so as soon as nobody else has it.
    let first = Loop::new(&empty_disk(folder.path()), &[]);
    let name = first.0.clone();
    let attach = |args: &[&str], file: &Path| {
        run("losetup", &["-d", name.to_str().unwrap()]);
        when_free(|| {
            let mut command = std::process::Command::new("losetup");
            command.args(args).arg(&name).arg(file).status().unwrap().success().then_some(())
        });
        identity(&name)
    };
    let disk = folder.path().join("disk");
    let known = identity(&name);
    assert_eq!(attach(&[], &disk), known);
    let moved = folder.path().join("moved");
    std::fs::rename(&disk, &moved).unwrap();
    assert_eq!(identity(&name), known, "by its place in the filesystem, not by its name");
    assert_eq!(attach(&[], &moved), known);
    let of_file = identity(&moved);
    let other = empty_disk(folder.path());
    assert_ne!(attach(&[], &other), known);
    let part = |offset: &str| attach(&["--offset", offset, "--sizelimit", "1048576"], &moved);
    assert_ne!(part("0"), part("1048576"));
    // Its number is free for the next one, once nothing is over it.
    attach(&[], &other);
    std::fs::remove_file(&moved).unwrap();
    std::fs::rename(&other, folder.path().join("other")).unwrap();
    let again = sparse_file(&moved, SIZE, &[]);
    assert_ne!(identity(&again), of_file);
    assert_ne!(attach(&[], &again), known);
    // What is behind it has lost its name: it is itself until it is detached.
    std::fs::remove_file(&again).unwrap();
    let nameless = identity(&name);
    assert_eq!(identity(&name), nameless);
    assert_ne!(attach(&[], &folder.path().join("other")), nameless);
    assert_eq!(disk_identity("/dev/null".as_ref()).unwrap(), None);
}

#[test]
fn partitions_of_a_disk_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::new(&empty_disk(folder.path()), &["--partscan"]);
    let name = device.0.to_str().unwrap();
    run("addpart", &[name, "1", "2048", "8192"]);
    let part = PathBuf::from(format!("{name}p1"));
    let first = when_free(|| disk_identity(&part).ok()).unwrap();
    assert_ne!(Some(&first), disk_identity(&device.0).unwrap().as_ref());
    delete_partition(name, "1");
    run("addpart", &[name, "1", "4096", "8192"]);
    assert_ne!(when_free(|| disk_identity(&part).ok()).unwrap(), first);
    delete_partition(name, "1");
    run("addpart", &[name, "1", "2048", "8192"]);
    assert_eq!(when_free(|| disk_identity(&part).ok()).unwrap(), first);
    delete_partition(name, "1");
}

#[test]
fn a_device_held_by_a_program_or_by_a_sink_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::new(&empty_disk(folder.path()), &[]);
    let held = File::options().read(true).custom_flags(libc::O_EXCL).open(&device.0).unwrap();
    assert_busy(&device.0, "exclusively");
    drop(held);
    let sink = when_free(|| open(&device.0).ok());
    assert_busy(&device.0, "exclusively");
    drop(sink);
    when_free(|| inspect_target(&device.0).unwrap().busy.is_none().then_some(()));
}

#[test]
fn a_device_in_use_as_swap_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::new(&empty_disk(folder.path()), &[]);
    let name = device.0.to_str().unwrap();
    run("mkswap", &[name]);
    struct Swap(String);
    impl Drop for Swap {
        fn drop(&mut self) {
            let _ = std::process::Command::new("swapoff").arg(&self.0).status();
        }
    }
    run("swapon", &[name]);
    let swap = Swap(name.to_owned());
    assert_busy(&device.0, "swap");
    drop(swap);
    assert!(open(&device.0).is_ok());
}

#[test]
fn small_and_read_only_devices_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = empty_disk(folder.path());
    let pool = BufferPool::new(4096, 1).unwrap();
    let options = SinkOptions { engine: Engine::Threads, depth: 1, below_loop: false };
    let device = Loop::new(&file, &[]);
    let error = Sink::open(&device.0, SIZE + 1, options, &pool).unwrap_err();
    assert_eq!(error, Error::TooSmall { path: device.0.clone(), size: SIZE, needed: SIZE + 1 });
    when_free(|| Sink::open(&device.0, SIZE, options, &pool).ok());
    drop(device);

    let device = Loop::new(&file, &["--read-only"]);
    assert!(matches!(inspect_target(&device.0).unwrap().kind, TargetKind::Device { read_only: true, .. }));
    assert_eq!(open(&device.0).unwrap_err(), Error::ReadOnly { path: device.0.clone() });
    drop(device);

    run("mkfs.ext4", &["-q", "-F", file.to_str().unwrap()]);
    let device = Loop::new(&file, &[]);
    let place = folder.path().join("mounted");
    let mount = Mount::new(&device.0, &place, &[]);
    file_with(&place.join("disk"), b"x");
    drop(mount);
    let _mount = Mount::new(&device.0, &place, &["-o", "ro"]);
    let inside = place.join("disk");
    let kind = TargetKind::File { size: 1, read_only: true };
    assert_eq!(inspect_target(&inside).unwrap(), TargetState { kind, busy: None });
    assert_eq!(open(&inside).unwrap_err(), Error::ReadOnly { path: inside });
}

#[test]
fn a_directory_is_known_again_and_another_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        folder.path().join(name)
    };
    let identity = |path: &Path| disk_identity(path).unwrap().unwrap();
    let (one, other) = (make("one"), make("other"));
    let known = identity(&one);
    assert_ne!(identity(&other), known);
    std::fs::write(one.join("file"), "x").unwrap();
    assert_eq!(identity(&one), known, "whatever is in it");
    std::fs::rename(&one, folder.path().join("moved")).unwrap();
    assert_eq!(identity(&folder.path().join("moved")), known);
    std::fs::remove_dir_all(folder.path().join("moved")).unwrap();
    assert_ne!(identity(&make("one")), known, "also with the number of the one that is gone");
}
