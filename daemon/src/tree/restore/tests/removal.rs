//! `--delete`.

use super::super::{Options, Overwrite, Restorer, Target, Why};
use super::feeder::{Ends, Node, Snapshot, restore};
use super::kinds::everything;
use super::lister::{Scratch, assert_holds, list};
use rustix::fs::IFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

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

/// Once the work is to end nothing more goes, in directories of the snapshot and in others.
#[test]
fn a_removal_that_is_to_end_ends() {
    let scratch = Scratch::new();
    for (name, folder) in [("known", ""), ("unknown", "extra")] {
        let target = scratch.at(name);
        fs::create_dir_all(target.join(folder)).unwrap();
        (0..50).for_each(|n| fs::write(target.join(folder).join(n.to_string()), "x").unwrap());
        let tree = Node::folder::<&str>([]);
        let mut restorer = Restorer::start(Target::open(&target).unwrap(), options()).unwrap();
        restorer.root(&tree.item(b""));
        let error = restorer.prune(&Ends(Snapshot(&tree), Cell::new(10))).unwrap_err();
        assert!(error.to_string().contains("it is over"), "{error}");
        let left = fs::read_dir(target.join(folder)).unwrap().count();
        assert!((40..50).contains(&left), "{name}: {left} of 50 are left");
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
        fs::create_dir_all(at).unwrap();
        rustix::mount::mount(kind, at, kind, MountFlags::empty(), None).unwrap();
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

/// More than are removed at once.
#[test]
fn however_many_names_the_snapshot_lacks_they_go() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    fs::create_dir(&target).unwrap();
    (0..17_000).for_each(|n| drop(fs::File::create(target.join(format!("extra {n}"))).unwrap()));
    let tree = Node::folder([("a", Node::file("a"))]);
    let report = restore(&target, &tree, &options()).unwrap();
    assert_eq!(report.removed, 17_000);
    assert_holds(&target, &tree);
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
