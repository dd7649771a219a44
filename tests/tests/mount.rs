//! Real mounts by the real executable. Needs root, /dev/fuse and loop devices.

#[path = "mount/ends.rs"]
mod ends;
#[path = "mount/latest.rs"]
mod latest;
#[path = "mount/lost.rs"]
mod lost;
#[path = "mount/place.rs"]
mod place;
#[path = "mount/read_only.rs"]
mod read_only;
#[path = "mount/trees.rs"]
mod trees;

use place::*;
use rustix::fs::SeekFrom;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use wherry_tests::small::{noise, splitmix};

#[test]
fn a_disk_reads_as_it_was_and_knows_its_holes() {
    let place = Place::new();
    let data = |n: usize| n % 7 < 3 || n > 290;
    let disk = disk(1, 300, 12_345, data);
    let id = place.backup("vm", &disk);
    let mount = place.mount(&[]);
    let path = latest(&mount.mnt, "vm");
    let file = File::open(&path).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o7777), (disk.len() as u64, 0o400));
    let allocated = (0..=300).filter(|n| data(*n)).count() * UNIT;
    assert_eq!(meta.blocks(), (allocated / 512) as u64);
    assert!(fs::read(&path).unwrap() == disk);
    // Random reads by several threads, from what the kernel has not got yet: through the page cache and past it.
    drop(file);
    sh("umount", &[mount.mnt.to_str().unwrap()]).unwrap();
    mount.ended();
    let mount = place.mount(&[]);
    std::thread::scope(|scope| {
        for reader in 0..4u64 {
            let (disk, path) = (&disk, &path);
            scope.spawn(move || {
                let direct = if reader % 2 == 1 { rustix::fs::OFlags::DIRECT.bits() } else { 0 };
                let file = OpenOptions::new().read(true).custom_flags(direct as i32).open(path).unwrap();
                let mut state = reader;
                for _ in 0..300 {
                    let at = splitmix(&mut state) as usize % disk.len() / 512 * 512;
                    let len = (splitmix(&mut state) as usize % (300 << 10)).min(disk.len() - at);
                    let mut bytes = vec![0; len];
                    file.read_exact_at(&mut bytes, at as u64).unwrap();
                    assert!(bytes == disk[at..at + len], "{at} + {len}");
                }
            });
        }
    });
    let file = File::open(&path).unwrap();
    let (mut at, mut found) = (0, Vec::new());
    while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
        found.push(data..hole);
        at = hole;
    }
    let mut expected: Vec<std::ops::Range<u64>> = Vec::new();
    for (n, chunk) in disk.chunks(UNIT).enumerate().filter(|(n, _)| data(*n)) {
        let (start, end) = ((n * UNIT) as u64, (n * UNIT + chunk.len()) as u64);
        match expected.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => expected.push(start..end),
        }
    }
    assert_eq!(found, expected);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(disk.len() as u64)), Err(rustix::io::Errno::NXIO));
    // By id it is the same file.
    let by_id = fs::metadata(mount.mnt.join("by-id").join(&id).join("disk.raw")).unwrap();
    assert_eq!(by_id.ino(), file.metadata().unwrap().ino());
}

/// Everything below a folder: what links say, and for files their bytes.
fn seen(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let (path, kind) = (entry.as_ref().unwrap().path(), entry.unwrap().file_type().unwrap());
        match kind.is_dir() {
            true => all.extend(seen(&path)),
            false if kind.is_symlink() => {
                all.insert(path.clone(), fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
            }
            false => {
                all.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    all
}

#[test]
fn the_cache_makes_no_difference() {
    let place = Place::new();
    let disks = [disk(1, 40, 700, |n| n % 3 > 0), disk(2, 30, 0, |_| true)];
    place.backup("vm", &disks[0]);
    place.backup("vm", &disks[1]);
    place.backup("other", &disks[0]);
    let cache = place.path("cache");
    assert!(!seen(&cache).is_empty(), "the backups made no cache");
    let mounted = |args: &[&str]| {
        let mount = place.mount(args);
        let all = seen(&mount.mnt);
        mount.signal(Signal::TERM);
        mount.ended();
        all
    };
    let with = mounted(&[]);
    let files = with.keys().filter(|path| path.ends_with("disk.raw"));
    // Each by volume; what leads there by id and by `latest` is a link.
    assert_eq!(files.count(), 3);
    assert!(disks.iter().all(|disk| with.values().any(|bytes| bytes == disk)));
    let same = |what: &str, args: &[&str]| assert!(mounted(args) == with, "{what}");
    same("without it", &["--no-cache"]);
    for (file, bytes) in seen(&cache) {
        fs::write(file, noise(3, bytes.len() + 1)).unwrap();
    }
    same("with junk in it", &[]);
    fs::remove_dir_all(&cache).unwrap();
    same("deleted", &[]);
    let _ = fs::remove_dir_all(&cache);
    same("deleted, and without it", &["--no-cache"]);
    // A file in its place: it cannot be made.
    let _ = fs::remove_dir_all(&cache);
    fs::write(&cache, "").unwrap();
    same("impossible", &[]);
}

#[test]
fn names_times_and_links() {
    let place = Place::new();
    let odd = "a b'\"\\é$(x)*\u{202e}z";
    place.backup(odd, &disk(1, 2, 0, |_| true));
    let second = place.backup(odd, &disk(2, 2, 0, |_| true));
    let mount = place.mount(&[]);
    let volume = mount.mnt.join("by-volume").join(odd);
    let latest = fs::read_link(volume.join("latest")).unwrap();
    let by_id = fs::read_link(mount.mnt.join("by-id").join(&second)).unwrap();
    assert_eq!(by_id, Path::new("../by-volume").join(odd).join(&latest));
    let mut names: Vec<_> = fs::read_dir(&volume).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 3);
    // The name of the folder is the time of the file, in UTC.
    let meta = fs::metadata(volume.join("latest/disk.raw")).unwrap();
    let name = latest.to_str().unwrap();
    let name = name.split_once('Z').unwrap().0;
    let time = sh("date", &["--utc", "--date", &format!("@{}", meta.mtime()), "+%Y-%m-%dT%H-%M-%S"]).unwrap();
    assert_eq!(name, time);
    // Snapshots made meanwhile appear when the folder is listed, after a few seconds,
    place.backup("new", &[1]);
    wait("the new volume", || fs::read_dir(mount.mnt.join("by-volume")).unwrap().count() == 2);
    // to who asks by name without a listing, and behind a link.
    let third = place.backup("newer", &[2]);
    wait("the newer volume", || mount.mnt.join("by-volume/newer").exists());
    assert_eq!(fs::read(mount.mnt.join("by-id").join(&third).join("disk.raw")).unwrap()[0], 2);
    let newest = mount.mnt.join("by-volume/newer/latest/disk.raw");
    place.backup("newer", &[3]);
    wait("the link to lead on", || fs::read(&newest).unwrap()[0] == 3);
    drop(mount);
    let mount = place.mount(&[&second[..8]]);
    assert_eq!(fs::read_dir(mount.mnt.join("by-id")).unwrap().count(), 1);
    assert!(fs::read(self::latest(&mount.mnt, odd)).unwrap() == disk(2, 2, 0, |_| true));
}

#[test]
fn nothing_can_be_changed_and_others_stay_out_unless_let_in() {
    let place = Place::new();
    let disk = disk(1, 2, 0, |_| true);
    place.backup("vm", &disk);
    sh("chmod", &["755", place.dir.path().to_str().unwrap()]).unwrap();
    let as_nobody = |path: &Path| sh("setpriv", &["--reuid=65534", "--clear-groups", "cksum", path.to_str().unwrap()]);
    let mount = place.mount(&[]);
    let path = latest(&mount.mnt, "vm");
    let rofs = rustix::io::Errno::ROFS.raw_os_error();
    let check = || {
        assert_eq!(errno(OpenOptions::new().write(true).open(&path)), rofs);
        assert_eq!(errno(OpenOptions::new().read(true).append(true).open(&path)), rofs);
        assert_eq!(errno(File::create(mount.mnt.join("x"))), rofs);
        assert_eq!(errno(fs::create_dir(mount.mnt.join("by-id/x"))), rofs);
        assert_eq!(errno(fs::remove_file(&path)), rofs);
        assert_eq!(errno(fs::rename(&path, path.with_file_name("y"))), rofs);
        assert_eq!(errno(std::os::unix::fs::symlink("a", mount.mnt.join("b"))), rofs);
        assert_eq!(errno(fs::hard_link(&path, path.with_file_name("z"))), rofs);
        assert_eq!(errno(fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))), rofs);
        let times = rustix::fs::utimensat(
            rustix::fs::CWD,
            &path,
            &rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
                last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
            },
            rustix::fs::AtFlags::empty(),
        );
        assert_eq!(times, Err(rustix::io::Errno::ROFS));
    };
    check();
    // The kernel is not the only one who refuses.
    sh("mount", &["-i", "-o", "remount,rw", mount.mnt.to_str().unwrap()]).unwrap();
    check();
    assert!(as_nobody(&path).unwrap_err().contains("Permission denied"));
    drop(mount);
    let mount = place.mount(&["--allow-other"]);
    let sum = as_nobody(&latest(&mount.mnt, "vm")).unwrap();
    assert!(sum.split(' ').nth(1) == Some(&disk.len().to_string()), "{sum}");
}

/// The one pack with chunks.
fn pack_of(place: &Place) -> PathBuf {
    let found = sh("find", &[place.path("repo/packs").to_str().unwrap(), "-type", "f"]).unwrap();
    assert_eq!(found.lines().count(), 1, "{found}");
    found.into()
}

#[test]
fn a_damaged_chunk_is_unreadable_and_all_others_are_not() {
    let place = Place::new();
    let disk = disk(1, 100, 0, |_| true);
    let id = place.backup("vm", &disk);
    let pack = pack_of(&place);
    let file = OpenOptions::new().read(true).write(true).open(&pack).unwrap();
    let at = 42 * UNIT as u64;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    let mount = place.mount_here();
    let path = latest(&mount.mnt, "vm");
    for direct in [false, true] {
        let flags = if direct { rustix::fs::OFlags::DIRECT.bits() as i32 } else { 0 };
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        // As `dd conv=noerror` goes: a large block, and where that fails, on with the next page.
        let (mut at, mut bad) = (0, Vec::new());
        while at < disk.len() {
            let len = (1 << 20).min(disk.len() - at);
            let mut buffer = vec![0; len + 4096];
            // From the begin of a page on: else the kernel makes two requests of a direct read, and fails the whole of it when
            // one of them fails.
            let begin = buffer.as_ptr().align_offset(4096);
            let bytes = &mut buffer[begin..begin + len];
            match file.read_at(bytes, at as u64) {
                Ok(0) => panic!("the disk ends at {at}"),
                Ok(len) => {
                    assert!(bytes[..len] == disk[at..at + len], "{at} + {len}");
                    at += len;
                }
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
                    bad.push(at);
                    at += 4096;
                }
            }
        }
        assert_eq!(bad.len(), UNIT / 4096, "direct: {direct}, {bad:?}");
        assert_eq!((bad[0] % UNIT, bad[bad.len() - 1] - bad[0]), (0, UNIT - 4096), "one chunk");
    }
    let said = mount.says("cannot be read");
    assert!(said.contains(&id) && said.contains("packs/"), "{said}");
}

/// A disk with two partitions, ext4 and xfs, copied while both are mounted and written to.
fn partitioned(place: &Place) -> (PathBuf, Vec<u8>) {
    let (image, copy) = (place.path("disk.img"), place.path("copy.img"));
    File::create(&image).unwrap().set_len(340 << 20).unwrap();
    let mut sfdisk = Command::new("sfdisk");
    let mut sfdisk = sfdisk.arg("--quiet").arg(&image).stdin(Stdio::piped()).spawn().unwrap();
    sfdisk.stdin.take().unwrap().write_all(b"label: gpt\n,20M\n,310M\n").unwrap();
    assert!(sfdisk.wait().unwrap().success());
    let contents = noise(77, 3_000_000);
    let device = Loop::new(&[], &image);
    sh("mkfs.ext4", &["-q", &device.part(1)]).unwrap();
    sh("mkfs.xfs", &["-q", &device.part(2)]).unwrap();
    let mounts = [1, 2].map(|n| Mounted::new(&[], &device.part(n), place.path(&format!("fs{n}"))));
    for Mounted(at) in &mounts {
        let mut file = File::create(at.join("file")).unwrap();
        file.write_all(&contents).unwrap();
        drop(file);
        // What is in the journal alone is not seen by who does not replay it.
        sh("fsfreeze", &["--freeze", at.to_str().unwrap()]).unwrap();
        sh("fsfreeze", &["--unfreeze", at.to_str().unwrap()]).unwrap();
        File::create(at.join("later")).unwrap().sync_all().unwrap();
    }
    sh("cp", &["--sparse=always", &device.0, copy.to_str().unwrap()]).unwrap();
    (copy, contents)
}

#[test]
fn a_partitioned_disk_copied_while_in_use_mounts_through_a_loop_device() {
    let place = Place::new();
    let (copy, contents) = partitioned(&place);
    place.backup_file("vm", &copy);
    let mount = place.mount(&["latest:vm"]);
    {
        let device = Loop::new(&["--read-only"], &latest(&mount.mnt, "vm"));
        let options = [(1, "ro,noload"), (2, "ro,norecovery,nouuid")];
        let mounts =
            options.map(|(n, options)| Mounted::new(&["-o", options], &device.part(n), place.path(&format!("in{n}"))));
        for Mounted(at) in &mounts {
            assert!(fs::read(at.join("file")).unwrap() == contents);
        }
        // Whoever wants to unmount now learns who holds it, and nothing breaks.
        let busy = sh("umount", &[mount.mnt.to_str().unwrap()]).unwrap_err();
        assert!(busy.contains("busy"), "{busy}");
        assert!(is_running(mount.pid));
    }
    sh("umount", &[mount.mnt.to_str().unwrap()]).unwrap();
    mount.ended();
}

#[test]
fn a_mount_that_cannot_say_that_it_is_there_does_not_stay() {
    let place = Place::new();
    place.backup("vm", &[1]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = place.command(&["mount", place.mnt().to_str().unwrap()]).stdout(full).status().unwrap();
    assert_eq!(ended.code(), Some(1));
    assert!(!is_mounted(&place.mnt()));
}

#[test]
fn what_a_mount_in_the_background_says_is_kept_in_a_file_it_names() {
    let place = Place::new();
    place.backup("vm", &[1; 5000]);
    let mnt = place.mnt();
    let line = place.run(&["mount", mnt.to_str().unwrap()]);
    let (_, log) = line.trim_end().split_once("; messages go to ").unwrap_or_else(|| panic!("{line}"));
    let log = PathBuf::from(log);
    let name = log.file_name().unwrap().to_str().unwrap();
    let pid = name.strip_prefix("mount-").and_then(|n| n.strip_suffix(".log")).unwrap().parse().unwrap();
    let mount = Background { mnt, pid };
    assert_eq!(log.parent().unwrap(), place.path("cache"));
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
    let read = || fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(read(), "");

    let held = File::open(latest(&mount.mnt, "vm")).unwrap();
    mount.signal(Signal::TERM);
    wait("the message", || read().contains("is busy"));
    assert!(read().contains(&format!("(pid {}, in by-volume/vm/", std::process::id())), "{}", read());
    assert!(is_running(pid) && is_mounted(&mount.mnt));
    drop(held);
    mount.signal(Signal::TERM);
    mount.ended();
    assert!(read().contains("is busy"), "what was said is kept");

    // One that had nothing to say leaves nothing.
    let report = place.run(&["--json", "mount", mount.mnt.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let second = Background { mnt: mount.mnt.clone(), pid: report["pid"].as_u64().unwrap() as i32 };
    let log = PathBuf::from(report["log"].as_str().unwrap());
    assert!(log.exists());
    sh("umount", &[second.mnt.to_str().unwrap()]).unwrap();
    second.ended();
    assert!(!log.exists());

    // Where standard error outlives whoever started it, it is kept.
    let said = place.path("said");
    let mut command = place.command(&["--json", "mount", mount.mnt.to_str().unwrap()]);
    let output = command.stderr(File::create(&said).unwrap()).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let third = Background { mnt: mount.mnt.clone(), pid: report["pid"].as_u64().unwrap() as i32 };
    assert_eq!(report["log"], serde_json::Value::Null);
    let held = File::open(latest(&third.mnt, "vm")).unwrap();
    third.signal(Signal::TERM);
    wait("the message", || fs::read_to_string(&said).unwrap().contains("is busy"));
    drop(held);
    third.signal(Signal::TERM);
    third.ended();
}

#[test]
fn the_kernel_reads_further_ahead() {
    let place = Place::new();
    place.backup("vm", &[1]);
    let mount = place.mount(&[]);
    let device = fs::metadata(&mount.mnt).unwrap().dev();
    let file = format!("/sys/class/bdi/{}:{}/read_ahead_kb", rustix::fs::major(device), rustix::fs::minor(device));
    let ahead: u32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    assert_eq!(ahead, 4096, "{file}");
}

#[test]
fn under_load_it_says_who_reads_and_goes_on() {
    let place = Place::new();
    let disk = disk(1, 400, 0, |_| true);
    place.backup("vm", &disk);
    let mut mount = place.mount_here();
    let path = latest(&mount.mnt, "vm");
    let stop = AtomicBool::new(false);
    let (begun, begins) = channel();
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let readers: Vec<_> = (0..4u64)
            .map(|reader| {
                let (path, stop, disk, begun) = (&path, &stop, &disk, begun.clone());
                scope.spawn(move || {
                    let file = File::open(path).unwrap();
                    let mut state = reader;
                    begun.send(()).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        let at = splitmix(&mut state) as usize % (disk.len() - 5000);
                        let mut bytes = vec![0; 5000];
                        file.read_exact_at(&mut bytes, at as u64).unwrap();
                        assert!(bytes == disk[at..at + 5000]);
                    }
                })
            })
            .collect();
        // Whoever has not opened the disk yet does not keep it busy.
        readers.iter().for_each(|_| begins.recv_timeout(PATIENCE).unwrap());
        let me = format!("(pid {}, in by-volume/vm/", std::process::id());
        for _ in 0..3 {
            mount.signal(Signal::TERM);
            let said = mount.says("is busy");
            assert!(said.contains(&me), "{said}");
        }
        assert!(readers.iter().all(|r| !r.is_finished()), "nobody was disturbed");
    });
    mount.signal(Signal::TERM);
    assert_eq!(mount.child.wait().unwrap().code(), Some(0));
    assert!(!is_mounted(&mount.mnt));
}

#[test]
fn a_mount_that_ends_late_leaves_the_next_one_alone() {
    let place = Place::new();
    let disk = disk(1, 3, 0, |_| true);
    place.backup("vm", &disk);
    let device = || fs::metadata(place.mnt()).unwrap().dev();
    // Other tests mount too, and one of them may be given the number first.
    let pair = (0..100).find_map(|_| {
        let mut first = place.mount_here();
        let its = device();
        // It sees only later that somebody unmounted it.
        first.signal(Signal::STOP);
        // The program of this name would ask what is mounted there, and wait for an answer.
        rustix::mount::unmount(place.mnt(), rustix::mount::UnmountFlags::NOFOLLOW).unwrap();
        let second = place.mount_here();
        if device() == its {
            return Some((first, second));
        }
        first.signal(Signal::CONT);
        first.child.wait().unwrap();
        None
    });
    let (mut first, mut second) = pair.expect("the kernel gives the number of a mount again");
    first.signal(Signal::CONT);
    assert_eq!(first.child.wait().unwrap().code(), Some(0));
    assert!(fs::read(latest(&second.mnt, "vm")).unwrap() == disk);
    second.signal(Signal::TERM);
    assert_eq!(second.child.wait().unwrap().code(), Some(0));
    assert!(!is_mounted(&second.mnt));
}

#[test]
fn a_loop_device_and_a_working_folder_are_named_too() {
    let place = Place::new();
    let (copy, _) = partitioned(&place);
    place.backup_file("vm", &copy);
    let mount = place.mount_here();
    let device = Loop::new(&["--read-only"], &latest(&mount.mnt, "vm"));
    let inside = Mounted::new(&["-o", "ro,noload"], &device.part(1), place.path("in"));
    let mut sleeper = Command::new("sleep").arg("600").current_dir(mount.mnt.join("by-id")).spawn().unwrap();
    mount.signal(Signal::TERM);
    let said = mount.says("is busy");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(said.contains(&format!("{} (of by-volume/vm/", device.0)), "{said}");
    assert!(said.contains(&format!("mounted at {}", inside.0.display())), "{said}");
    assert!(said.contains(&format!("sleep (pid {}, in by-id)", sleeper.id())), "{said}");
}

#[test]
fn a_killed_mount_is_removed_by_the_next_one() {
    let place = Place::new();
    let disk = disk(1, 5, 0, |_| true);
    place.backup("vm", &disk);
    let killed = place.mount(&[]);
    let held = File::open(latest(&killed.mnt, "vm")).unwrap();
    killed.signal(Signal::KILL);
    wait("the process to end", || !is_running(killed.pid));
    let notconn = rustix::io::Errno::NOTCONN.raw_os_error();
    // While the kernel takes the connection apart it is "aborted".
    wait("the mount to be dead", || errno(fs::read_dir(&killed.mnt)) == notconn);
    let mount = place.mount(&[]);
    assert!(fs::read(latest(&mount.mnt, "vm")).unwrap() == disk);
    assert_eq!(errno((&held).read(&mut [0; 10])), notconn);
    mount.signal(Signal::TERM);
    mount.ended();
}

#[test]
fn what_cannot_be_mounted_is_refused_with_the_right_code() {
    let place = Place::new();
    let id = place.backup("vm", &[1]);
    let mnt = place.mnt();
    let mnt = mnt.to_str().unwrap();
    let missing = place.path("missing");
    let (code, said) = place.fail(&["mount", missing.to_str().unwrap()]);
    assert!(code == 2 && said.contains("does not exist"), "{code} {said}");
    let (code, said) = place.fail(&["mount", place.path("key").to_str().unwrap()]);
    assert!(code == 2 && said.contains("not a folder"), "{code} {said}");
    let (code, said) = place.fail(&["mount", place.dir.path().to_str().unwrap()]);
    assert!(code == 2 && said.contains("not empty"), "{code} {said}");
    assert_eq!(place.fail(&["mount", mnt, "0123456789abcdef"]).0, 14);
    assert_eq!(place.fail(&["--repo", missing.to_str().unwrap(), "mount", mnt]).0, 10);
    let mut wrong = place.command(&["mount", mnt]);
    fs::write(place.path("other-key"), "a".repeat(64)).unwrap();
    assert_eq!(wrong.env("WHERRY_KEY_FILE", place.path("other-key")).output().unwrap().status.code(), Some(12));
    assert!(!is_mounted(Path::new(mnt)));
    let mount = place.mount(&[&id[..6]]);
    let (code, said) = place.fail(&["mount", mnt]);
    assert!(code == 11 && said.contains("wherry"), "{code} {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    drop(mount);
}

#[test]
fn a_connection_that_is_cut_leaves_no_mount() {
    let place = Place::new();
    place.backup("vm", &[1]);
    let mount = place.mount(&[]);
    let device = fs::metadata(&mount.mnt).unwrap().dev();
    let connection = format!("/sys/fs/fuse/connections/{}/abort", rustix::fs::minor(device));
    if !Path::new(&connection).exists() {
        let _ = sh("mount", &["-t", "fusectl", "fusectl", "/sys/fs/fuse/connections"]);
    }
    fs::write(connection, "1").unwrap();
    mount.ended();
}

#[test]
fn a_file_read_to_its_end_goes_on_from_where_seek_says() {
    let place = Place::new();
    let disk = disk(3, 20, 777, |n| n % 2 == 0);
    place.backup("vm", &disk);
    let mount = place.mount(&[]);
    let mut file = File::open(latest(&mount.mnt, "vm")).unwrap();
    file.seek(io::SeekFrom::End(-1000)).unwrap();
    let mut end = Vec::new();
    file.read_to_end(&mut end).unwrap();
    assert!(end == disk[disk.len() - 1000..]);
    let mut bytes = [0; 10];
    assert_eq!(file.read_at(&mut bytes, disk.len() as u64 + 5).unwrap(), 0);
}
