//! What is refused as a target, and what is said of a source in use. Needs root (loop devices, mounts).
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use common::{KIB, Loop, MIB, Mount, file_with, run, sparse_file};
use wherry_block::{BufferPool, Engine, Error, Sink, SinkOptions, Source, TargetKind, TargetState, inspect_target};

const SIZE: u64 = 16 * MIB as u64;

fn open(path: &Path) -> Result<Sink, Error> {
    let pool = BufferPool::new(64 * KIB, 2).unwrap();
    Sink::open(path, 4096, SinkOptions { engine: Engine::Threads, depth: 2 }, &pool)
}

fn empty_disk(folder: &Path) -> PathBuf {
    sparse_file(&folder.join("disk"), SIZE, &[])
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
    assert_eq!(inspect_target(&missing).unwrap(), TargetState { kind: TargetKind::Missing, busy: None });
    assert_eq!(inspect_target(folder.path()).unwrap().kind, TargetKind::Directory);
    assert_eq!(inspect_target("/dev/null".as_ref()).unwrap().kind, TargetKind::Other);
    assert!(matches!(open(&missing), Err(Error::NotFound { .. })));
    let pool = BufferPool::new(4096, 1).unwrap();
    let options = SinkOptions { engine: Engine::Threads, depth: 1 };
    let below = Sink::create(&missing.join("disk"), 1, options, &pool).unwrap_err();
    assert_eq!(below, Error::NotFound { path: missing });
    let file = file_with(&folder.path().join("file"), b"x");
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
    assert_eq!(contents().unwrap(), "it holds an ext2/3/4 filesystem");
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

/// What was closed may still be open in a process that another test is just starting.
fn when_free<T>(mut get: impl FnMut() -> Option<T>) -> T {
    for _ in 0..200 {
        if let Some(got) = get() {
            return got;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("the device stays busy");
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
    let options = SinkOptions { engine: Engine::Threads, depth: 1 };
    let device = Loop::new(&file, &[]);
    let error = Sink::open(&device.0, SIZE + 1, options, &pool).unwrap_err();
    assert_eq!(error, Error::TooSmall { path: device.0.clone(), size: SIZE, needed: SIZE + 1 });
    assert!(Sink::open(&device.0, SIZE, options, &pool).is_ok());
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
