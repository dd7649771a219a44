//! Trees through real mounts: metadata, links, attributes, data, under load and after a kill.

use super::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use wherry_repo::storage::Local;
use wherry_repo::{Components, Credential, Repository, System};
use wherry_tests::nolinks::NoLinks;
use wherry_tests::trees::{assert_same, grow, list};

/// Makes a directory with all a tree may have, and gives its path.
pub fn source(place: &Place) -> PathBuf {
    let root = place.path("source");
    let at = |name: &str| root.join(name);
    let run = |program: &str, args: &[&str]| sh(program, args).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for folder in ["many", "deep/a/b/c/d", "empty", "links", "odd"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    for n in 0..700u64 {
        fs::write(at(&format!("many/{n}")), noise(n, (n * 37 % 5000) as usize)).unwrap();
        if n % 9 == 0 {
            fs::create_dir(at(&format!("many/{n}-folder"))).unwrap();
        }
    }
    fs::write(at("deep/a/b/c/d/last"), "deep").unwrap();
    fs::write(at("large"), noise(7, 9_000_000)).unwrap();
    // Holes at its beginning, between parts, and at its end.
    let sparse = File::create(at("sparse")).unwrap();
    for n in 0..100u64 {
        sparse.write_all_at(&noise(n, 4096), n * 65_536 + 32_768).unwrap();
    }
    sparse.set_len(100 * 65_536 + 99).unwrap();
    File::create(at("hole")).unwrap().set_len(1 << 20).unwrap();
    // A disk image with a hole.
    let disk = File::create(at("disk.img")).unwrap();
    disk.write_all_at(&noise(8, 2_000_000), 0).unwrap();
    disk.write_all_at(b"\x55\xaa", 510).unwrap();
    disk.write_all_at(&noise(9, 300_000), 5 << 20).unwrap();
    disk.set_len((6 << 20) + 777).unwrap();
    // Names of one inode in several directories.
    for n in 0..20 {
        fs::write(at(&format!("links/{n}")), format!("{n}")).unwrap();
        fs::hard_link(at(&format!("links/{n}")), at(&format!("deep/a/{n}"))).unwrap();
        fs::hard_link(at(&format!("links/{n}")), at(&format!("many/linked-{n}"))).unwrap();
    }
    symlink("../large", at("odd/link")).unwrap();
    symlink("dangling/\u{e9}", at("odd/dangling")).unwrap();
    fs::hard_link(at("odd/dangling"), at("odd/dangling too")).unwrap();
    fs::write(root.join("odd").join(OsStr::from_bytes(b"not \xff utf-8\n")), "odd").unwrap();
    fs::write(root.join("odd").join("n".repeat(255)), "long").unwrap();
    run("mkfifo", &[&text(&at("odd/fifo"))]);
    run("mknod", &[&text(&at("odd/character")), "c", "5", "1"]);
    run("mknod", &[&text(&at("odd/block")), "b", "259", "70000"]);
    std::os::unix::net::UnixListener::bind(at("odd/socket")).unwrap();
    run("chmod", &["4751", &text(&at("many/1"))]);
    run("chown", &["1234:4321", &text(&at("many/2")), &text(&at("empty"))]);
    run("chown", &["--no-dereference", "77:88", &text(&at("odd/link"))]);
    run("setfattr", &["-n", "user.one", "-v", "1", &text(&at("many/3"))]);
    run("setfattr", &["-n", "user.empty", &text(&at("many/3"))]);
    run("setfattr", &["-n", "trusted.two", "-v", "2", &text(&at("empty"))]);
    for n in 0..3 {
        run("setfattr", &["-n", &format!("user.long{n}"), "-v", &"x".repeat(900), &text(&at("many/4"))]);
    }
    run("setfacl", &["-m", "u:1234:rw,g:4321:r", &text(&at("many/5"))]);
    run("setfacl", &["-m", "d:u:1234:rwx", &text(&at("deep"))]);
    for (name, time) in [
        ("many/6", "1960-05-06 07:08:09.123456789"),
        ("empty", "2150-01-02 03:04:05.5"),
        ("large", "1969-12-31 23:59:59.999999999"),
    ] {
        run("touch", &["--no-dereference", "--date", time, &text(&at(name))]);
    }
    root
}

pub fn backup(place: &Place, root: &Path) {
    place.run(&["backup", root.to_str().unwrap(), "--name", "tree"]);
}

pub fn files(mnt: &Path) -> PathBuf {
    mnt.join("by-volume/tree/latest/files")
}

/// What rsync would change in `to` to make it as `from`.
pub fn rsync(from: &Path, to: &Path) -> String {
    let path = |path: &Path| format!("{}/", path.to_str().unwrap());
    let args = ["-aHAXn", "--devices", "--specials", "--numeric-ids", "--checksum", "--delete", "--itemize-changes"];
    let output = Command::new("rsync").args(args).args([path(from), path(to)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn rsync_and_cp_find_no_difference() {
    let place = Place::new();
    let root = source(&place);
    backup(&place, &root);
    let mount = place.mount(&[]);
    let shown = files(&mount.mnt);
    assert_eq!(rsync(&root, &shown), "");
    assert_eq!(rsync(&shown, &root), "");
    let copy = place.path("copy");
    sh("cp", &["-a", shown.to_str().unwrap(), copy.to_str().unwrap()]).unwrap();
    assert_eq!(rsync(&root, &copy), "");
    assert_eq!(rsync(&copy, &root), "");
    // What rsync does not compare.
    for name in ["many/1", "links/3", "deep", "empty", "many", "odd/block", "odd/dangling", "sparse", "hole"] {
        let meta = |at: &Path| {
            let meta = fs::symlink_metadata(at.join(name)).unwrap();
            (meta.mode(), meta.nlink(), meta.rdev(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
        };
        assert_eq!(meta(&shown), meta(&root), "{name}");
    }
    for name in ["sparse", "hole", "copy/sparse", "copy/hole"] {
        let path = if let Some(name) = name.strip_prefix("copy/") { copy.join(name) } else { shown.join(name) };
        let meta = fs::metadata(&path).unwrap();
        assert!(meta.blocks() * 512 <= meta.len() / 4, "{name} takes {} blocks", meta.blocks());
    }
    let holes = |path: &Path| {
        let file = File::open(path).unwrap();
        let (mut at, mut found) = (0, Vec::new());
        while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            at = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
            found.push(data..at);
        }
        found
    };
    assert_eq!(holes(&shown.join("sparse")), holes(&root.join("sparse")));
    // Who gives too little room is told.
    let path = shown.join("many/4");
    let value = |name: &str, room| rustix::fs::getxattr(&path, name, &mut vec![0; room][..]);
    assert_eq!((value("user.long1", 900), value("user.long1", 899)), (Ok(900), Err(rustix::io::Errno::RANGE)));
    assert_eq!(value("user.none", 900), Err(rustix::io::Errno::NODATA));
    let names = |room| rustix::fs::listxattr(&path, &mut vec![0; room][..]);
    assert_eq!((names(33), names(32)), (Ok(3 * "user.long0 ".len()), Err(rustix::io::Errno::RANGE)));
    // By id it is the same directory, and nothing can be changed in it.
    let options = sh("findmnt", &["-n", "-o", "OPTIONS", mount.mnt.to_str().unwrap()]).unwrap();
    assert!(["ro", "nosuid", "nodev"].iter().all(|flag| options.split(',').any(|o| o == *flag)), "{options}");
    let rofs = rustix::io::Errno::ROFS.raw_os_error();
    assert_eq!(errno(File::create(shown.join("many/1"))), rofs);
    assert_eq!(errno(fs::remove_dir(shown.join("empty"))), rofs);
    assert_eq!(errno(fs::hard_link(shown.join("large"), shown.join("x"))), rofs);
    assert!(sh("setfattr", &["-x", "user.one", shown.join("many/3").to_str().unwrap()]).is_err());
}

#[test]
fn random_trees_look_as_their_sources_do() {
    for seed in 50..52 {
        let place = Place::new();
        let root = place.path("tree");
        fs::create_dir(&root).unwrap();
        grow(&root, seed);
        backup(&place, &root);
        let mount = place.mount(&[]);
        let mut source = list(&root);
        // A mount has no inode flags.
        source.values_mut().for_each(|facts| facts.flags = 0);
        assert_same(&list(&files(&mount.mnt)), &source, &format!("seed {seed}"));
    }
}

#[test]
fn others_may_do_what_modes_and_acls_let_them() {
    let place = Place::new();
    let root = place.path("source");
    fs::create_dir(&root).unwrap();
    for (name, mode, acl) in [("open", "644", None), ("shut", "600", None), ("acl", "600", Some("u:65534:r"))] {
        let path = root.join(name);
        fs::write(&path, name).unwrap();
        sh("chmod", &[mode, path.to_str().unwrap()]).unwrap();
        if let Some(acl) = acl {
            sh("setfacl", &["-m", acl, path.to_str().unwrap()]).unwrap();
        }
    }
    backup(&place, &root);
    let as_nobody = |mnt: &Path, name: &str| {
        sh(
            "setpriv",
            &["--reuid=65534", "--regid=65534", "--clear-groups", "cat", files(mnt).join(name).to_str().unwrap()],
        )
    };
    let mount = place.mount(&[]);
    assert!(as_nobody(&mount.mnt, "open").unwrap_err().contains("Permission denied"));
    assert_eq!(fs::read(files(&mount.mnt).join("shut")).unwrap(), b"shut");
    drop(mount);
    let mount = place.mount(&["--allow-other"]);
    assert_eq!(as_nobody(&mount.mnt, "open").unwrap(), "open");
    assert_eq!(as_nobody(&mount.mnt, "acl").unwrap(), "acl");
    assert!(as_nobody(&mount.mnt, "shut").unwrap_err().contains("Permission denied"));
    assert_eq!(fs::read(files(&mount.mnt).join("shut")).unwrap(), b"shut");
}

#[test]
fn many_threads_read_what_the_source_has_wherever_they_look() {
    let place = Place::new();
    let root = source(&place);
    backup(&place, &root);
    let mount = place.mount(&[]);
    let shown = files(&mount.mnt);
    std::thread::scope(|scope| {
        for reader in 0..8u64 {
            let (root, shown) = (&root, &shown);
            scope.spawn(move || {
                let mut state = reader;
                for name in ["large", "sparse", "many/699", "hole", "large"] {
                    let bytes = fs::read(root.join(name)).unwrap();
                    let direct = if reader % 2 == 1 { rustix::fs::OFlags::DIRECT.bits() } else { 0 };
                    let file =
                        OpenOptions::new().read(true).custom_flags(direct as i32).open(shown.join(name)).unwrap();
                    for _ in 0..150 {
                        let at = splitmix(&mut state) as usize % (bytes.len() + 5000);
                        let len = splitmix(&mut state) as usize % (300 << 10);
                        let mut found = vec![0; len];
                        let mut have = 0;
                        while have < len {
                            match file.read_at(&mut found[have..], (at + have) as u64).unwrap() {
                                0 => break,
                                n => have += n,
                            }
                        }
                        let expected = bytes.get(at..(at + len).min(bytes.len())).unwrap_or_default();
                        assert!(found[..have] == *expected, "{name}: {at} + {len}");
                    }
                }
            });
        }
    });
}

#[test]
fn sixty_four_readers_of_one_tree_each_read_what_the_source_has() {
    let place = Place::new();
    let root = source(&place);
    backup(&place, &root);
    let mount = place.mount(&["--memory", "128M"]);
    let shown = files(&mount.mnt);
    let all: Vec<_> = ["large", "sparse", "hole"]
        .map(str::to_owned)
        .into_iter()
        .chain((0..700).map(|n| format!("many/{n}")))
        .collect();
    let sources: Vec<_> = all.iter().map(|name| fs::read(root.join(name)).unwrap()).collect();
    let compared: usize = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..64u64)
            .map(|reader| {
                let (all, sources, shown) = (&all, &sources, &shown);
                scope.spawn(move || {
                    let (mut state, mut compared) = (reader, 0);
                    for n in 0..40 {
                        // Every fourth of a large one, anywhere in it; and a directory in between.
                        let which = splitmix(&mut state) as usize % if n % 4 == 0 { 3 } else { all.len() };
                        let (name, bytes) = (&all[which], &sources[which]);
                        let file = File::open(shown.join(name)).unwrap();
                        let at = splitmix(&mut state) as usize % (bytes.len() + 1);
                        let len = (splitmix(&mut state) as usize % (200 << 10)).min(bytes.len() - at);
                        let mut found = vec![0; len];
                        file.read_exact_at(&mut found, at as u64).unwrap();
                        assert!(found == bytes[at..at + len], "{name}: {at} + {len}");
                        compared += len;
                        if n % 10 == 0 {
                            assert_eq!(fs::read_dir(shown.join("many")).unwrap().count(), 700 + 78 + 20);
                        }
                    }
                    compared
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(compared > 48 << 20, "only {compared} bytes were compared");
}

#[test]
fn a_mount_of_a_tree_in_use_says_so_and_one_that_is_killed_makes_room() {
    let place = Place::new();
    let root = source(&place);
    backup(&place, &root);
    let mut mount = place.mount_here();
    let stop = AtomicBool::new(false);
    let (begun, begins) = channel();
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..4 {
            let (shown, stop, begun) = (files(&mount.mnt), &stop, begun.clone());
            scope.spawn(move || {
                let held = File::open(shown.join("large")).unwrap();
                begun.send(()).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(fs::read_dir(shown.join("many")).unwrap().count(), 700 + 78 + 20);
                    assert_eq!(held.metadata().unwrap().len(), 9_000_000);
                }
            });
        }
        (0..4).for_each(|_| begins.recv_timeout(PATIENCE).unwrap());
        let me = format!("(pid {}, in by-volume/tree/", std::process::id());
        for _ in 0..2 {
            mount.signal(Signal::TERM);
            let said = mount.says("is busy");
            assert!(said.contains(&me), "{said}");
        }
    });
    mount.signal(Signal::TERM);
    assert_eq!(mount.child.wait().unwrap().code(), Some(0));
    let killed = place.mount(&[]);
    let held = File::open(files(&killed.mnt).join("large")).unwrap();
    killed.signal(Signal::KILL);
    wait("the process to end", || !is_running(killed.pid));
    let notconn = rustix::io::Errno::NOTCONN.raw_os_error();
    wait("the mount to be dead", || errno(fs::read_dir(&killed.mnt)) == notconn);
    let mount = place.mount(&[]);
    assert_eq!(rsync(&root, &files(&mount.mnt)), "");
    assert_eq!(errno((&held).read(&mut [0; 10])), notconn);
    mount.signal(Signal::TERM);
    mount.ended();
}

/// What a listing gives until it ends, and the error that it ends with.
fn listed(folder: &Path) -> (Vec<String>, Option<i32>) {
    let mut names = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => return (names, e.raw_os_error()),
    };
    for entry in entries {
        match entry {
            Ok(entry) => names.push(entry.file_name().into_string().unwrap()),
            Err(e) => return (names, e.raw_os_error()),
        }
    }
    (names, None)
}

/// Whoever copies a directory must not take for the whole what came before an error.
#[test]
fn no_listing_that_lacks_names_ends_well() {
    let place = Place::new();
    let source = NoLinks::mount();
    // Longer than a tree can hold: this filesystem takes them.
    let long = "n".repeat(300);
    for folder in ["whole", "part", "nothing"] {
        fs::create_dir(source.path().join(folder)).unwrap();
        for name in ["a", "b", &long] {
            if name != long && folder != "nothing" || name == long && folder != "whole" {
                fs::write(source.path().join(folder).join(name), name).unwrap();
            }
        }
    }
    let output = place.output(&["--json", "backup", source.path().to_str().unwrap(), "--name", "tree"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mount = place.mount(&[]);
    let volume = mount.mnt.join("by-volume/tree");
    let (snapshots, ended) = listed(&volume);
    assert_eq!((snapshots.len(), ended), (1, None), "{snapshots:?}");
    let shown = volume.join(&snapshots[0]).join("files");
    let io = Some(rustix::io::Errno::IO.raw_os_error());
    let both = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(listed(&shown.join("whole")), (both.clone(), None));
    assert_eq!(listed(&shown.join("part")), (both, io));
    assert_eq!(listed(&shown.join("nothing")), (Vec::new(), io));
    // The snapshot goes, and nobody has opened it yet.
    drop(mount);
    let mount = place.mount(&[]);
    assert_eq!(listed(&mount.mnt.join("by-volume/tree")).0, snapshots);
    let shown = mount.mnt.join("by-volume/tree").join(&snapshots[0]).join("files");
    fs::metadata(&shown).unwrap();
    let key = fs::read_to_string(place.path("key")).unwrap();
    let key = Credential::KeyFile(key.trim().as_bytes().to_vec().into());
    let storage = Arc::new(Local::new(place.path("repo"), false));
    let system = Arc::new(System::default());
    let repository = Repository::open(Components { storage, clock: system.clone(), rng: system }, &key).unwrap();
    let id = report["snapshot"].as_str().unwrap().parse().unwrap();
    repository.forget(&id, std::time::Duration::ZERO, "test").unwrap();
    assert!(repository.settle(&id).unwrap());
    let stale = Some(rustix::io::Errno::STALE.raw_os_error());
    assert_eq!(listed(&shown), (Vec::new(), stale), "an empty directory is none that could not be listed");
}

#[test]
fn a_damaged_chunk_of_a_file_is_unreadable_and_all_others_are_not() {
    let place = Place::new();
    let root = place.path("source");
    fs::create_dir(&root).unwrap();
    let bytes = noise(3, 8_000_000);
    fs::write(root.join("large"), &bytes).unwrap();
    fs::write(root.join("small"), "small").unwrap();
    backup(&place, &root);
    let pack = pack_of(&place);
    let file = OpenOptions::new().read(true).write(true).open(&pack).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4_000_000).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 4_000_000).unwrap();
    let mount = place.mount_here();
    let file = File::open(files(&mount.mnt).join("large")).unwrap();
    let (mut at, mut bad) = (0, Vec::new());
    while at < bytes.len() {
        let mut found = vec![0; (1 << 20).min(bytes.len() - at)];
        match file.read_at(&mut found, at as u64) {
            Ok(0) => panic!("the file ends at {at}"),
            Ok(len) => {
                assert!(found[..len] == bytes[at..at + len], "{at} + {len}");
                at += len;
            }
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
                bad.push(at);
                at += 4096;
            }
        }
    }
    let (first, last) = (bad[0], bad[bad.len() - 1]);
    assert!(last - first <= 2 << 20 && bad.len() == (last - first) / 4096 + 1, "one piece: {first} to {last}");
    assert_eq!(fs::read(files(&mount.mnt).join("small")).unwrap(), b"small");
    let said = mount.says("a part of it cannot be read");
    assert!(said.contains("files/large"), "{said}");
}
