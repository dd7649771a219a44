//! `--delete`.

use super::super::{Options, Overwrite, Restorer, Target, Why};
use super::feeder::{Ends, Node, Snapshot, restore};
use super::kinds::everything;
use super::lister::{Scratch, assert_holds, list};
use rustix::fs::IFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use std::cell::Cell;
use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

fn options() -> Options {
    Options { overwrite: Overwrite::Always, delete: true, ..Options::new(1) }
}

#[test]
fn what_the_snapshot_lacks_goes_and_the_rest_is_as_it_was() {
    let scratch = Scratch::new();
    let (target, tree) = (scratch.at("target"), everything());
    restore(&target, &tree, &Options::new(1)).unwrap();
    for folder in ["", "folder", "not dumped", "sticky"] {
        let folder = target.join(folder);
        fs::create_dir_all(folder.join("extra/a/b")).unwrap();
        for name in ["extra/file", "extra/a/b/file", "extra file"] {
            fs::write(folder.join(name), "x").unwrap();
        }
        for name in ["extra/a/b/file", "extra/a"] {
            let file = fs::File::open(folder.join(name)).unwrap();
            rustix::fs::ioctl_setflags(&file, IFlags::IMMUTABLE).unwrap();
        }
    }
    let report = restore(&target, &tree, &options()).unwrap();
    assert_eq!(report.refused.list.first, []);
    assert_eq!(report.removed, 4 * 6);
    assert_holds(&target, &tree);
}

/// Once the work is to end nothing more goes, in directories of the snapshot and in others; nor is a directory listed to its
/// end of which the snapshot has all.
#[test]
fn a_removal_that_is_to_end_ends() {
    let scratch = Scratch::new();
    let all = Node::folder((0..50).map(|n| (n.to_string(), Node::file("x"))));
    let none = Node::folder::<&str>([]);
    let cases =
        [("known", "", &none, 65, 30..50), ("unknown", "extra", &none, 65, 30..50), ("all", "", &all, 10, 50..51)];
    for (name, folder, tree, checks, wanted) in cases {
        let target = scratch.at(name);
        fs::create_dir_all(target.join(folder)).unwrap();
        (0..50).for_each(|n| fs::write(target.join(folder).join(n.to_string()), "x").unwrap());
        let mut restorer = Restorer::start(Target::open(&target).unwrap(), options()).unwrap();
        restorer.root(&tree.item(b""));
        let error = restorer.prune(&Ends(Snapshot(tree), Cell::new(checks))).unwrap_err();
        assert!(error.to_string().contains("it is over"), "{error}");
        let left = fs::read_dir(target.join(folder)).unwrap().count();
        assert!(wanted.contains(&left), "{name}: {left} of 50 are left");
    }
}

/// A mount that goes away.
pub(super) struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path) -> Self {
        Self::of("tmpfs", at)
    }

    /// Of this kind, which needs no device.
    pub(super) fn of(kind: &str, at: &Path) -> Self {
        Self::with(kind, at, "")
    }

    fn with(kind: &str, at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = CString::new(options).unwrap();
        rustix::mount::mount(kind, at, kind, MountFlags::empty(), Some(&*options)).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

#[test]
fn what_is_mounted_stays() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    let tree = Node::folder([("kept", Node::folder([("known", Node::folder::<&str>([]))]))]);
    let mounts = ["extra/mounted", "kept/mounted"].map(|at| Mounted::new(&target.join(at)));
    for mount in &mounts {
        fs::write(mount.0.join("file"), "x").unwrap();
    }
    fs::write(target.join("extra/file"), "x").unwrap();
    let report = restore(&target, &tree, &options()).unwrap();
    let mut skipped: Vec<_> = report.skipped.first.iter().map(|s| (&s.path[..], s.why)).collect();
    skipped.sort_by_key(|(path, _)| *path);
    assert_eq!(skipped, [(&b"extra/mounted"[..], Why::Mounted), (b"kept/mounted", Why::Mounted)]);
    assert_eq!(report.refused.list.first, []);
    for mount in &mounts {
        assert_eq!(fs::read(mount.0.join("file")).unwrap(), b"x");
    }
    assert!(!target.join("extra/file").exists());
    drop(mounts);
    restore(&target, &tree, &options()).unwrap();
    assert_holds(&target, &tree);
}

#[test]
fn nothing_goes_unless_it_is_asked_for() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("extra"), "x").unwrap();
    let tree = Node::folder([("a", Node::file("a"))]);
    restore(&target, &tree, &Options { delete: false, ..options() }).unwrap();
    assert_eq!(list(&target).len(), 3);
}

/// More than are removed at once, and all of them lead to what a name of the snapshot leads to.
#[test]
fn however_many_names_the_snapshot_lacks_they_go() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    let tree = Node::folder([("a", Node::file("a"))]);
    restore(&target, &tree, &Options::new(1)).unwrap();
    (0..20_000).for_each(|n| fs::hard_link(target.join("a"), target.join(format!("extra {n}"))).unwrap());
    let report = restore(&target, &tree, &Options { overwrite: Overwrite::Never, ..options() }).unwrap();
    assert_eq!(report.removed, 20_000);
    assert_eq!(list(&target).len(), 2);
}

/// It leads to what a name of the snapshot leads to, and yet is a name of its own.
#[test]
fn a_further_name_of_what_stays_goes() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("a"), "theirs").unwrap();
    fs::hard_link(target.join("a"), target.join("extra")).unwrap();
    let tree = Node::folder([("a", Node::file("a"))]);
    let report = restore(&target, &tree, &Options { overwrite: Overwrite::Never, ..options() }).unwrap();
    assert_eq!((report.removed, report.reasons), (1, [(Why::Exists, 1)].into()));
    assert!(target.join("a").exists() && !target.join("extra").exists());
}

/// What is mounted there is asked nothing: it may be a server that is away, which would be waited for.
#[test]
fn what_is_spelled_otherwise_stays_and_what_is_mounted_is_not_looked_at() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    fs::create_dir(&target).unwrap();
    ["readme", "extra"].iter().for_each(|name| fs::write(target.join(name), "x").unwrap());
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let mount = Mounted::with(
        "fuse",
        &target.join("mounted"),
        &format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd()),
    );
    // Whoever asks waits until this is closed.
    let (end, ended) = mpsc::channel::<()>();
    let server = thread::spawn(move || {
        let _ = ended.recv_timeout(Duration::from_secs(10));
        drop(device);
    });
    // Any target knows this name, and lists it otherwise.
    let tree = Node::folder([("./readme", Node::file("x"))]);
    let mut restorer = Restorer::start(Target::open(&target).unwrap(), options()).unwrap();
    restorer.root(&tree.item(b""));
    let pruned = restorer.prune(&Snapshot(&tree));
    let waited = server.is_finished();
    drop(end);
    server.join().unwrap();
    drop(mount);
    pruned.unwrap();
    assert!(!waited, "what is mounted was looked at");
    let report = restorer.finish().unwrap();
    let mut skipped: Vec<_> = report.skipped.first.iter().map(|s| (&s.path[..], s.why)).collect();
    skipped.sort_by_key(|(path, _)| *path);
    assert_eq!(skipped, [(&b"mounted"[..], Why::Mounted), (b"readme", Why::Taken)]);
    assert_eq!((report.removed, report.refused.list.first.len()), (1, 0));
    assert!(target.join("readme").exists() && !target.join("extra").exists());
}
