//! As somebody who may not do everything: a thread of this process that has given up all it may.

use super::super::{Options, Overwrite, Report, Step, Why};
use super::feeder::{Node, capability, restore};
use super::lister::{Scratch, assert_holds, list};
use crate::tree::inode::InodeKind;
use rustix::fs::{Gid, Uid};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

const NOBODY: u32 = 65534;

/// Restores as nobody. System calls that change the user change it for one thread, and for those it starts.
fn restore_as_nobody(target: &Path, tree: &Node, options: &Options) -> anyhow::Result<Report> {
    let work = || {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        restore(target, tree, options)
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// A directory in which nobody may do what they want.
fn place(scratch: &Scratch) -> std::path::PathBuf {
    fs::set_permissions(scratch.at(""), fs::Permissions::from_mode(0o755)).unwrap();
    let home = scratch.at("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    home.join("target")
}

fn own(node: Node) -> Node {
    let mut node = node.owned(NOBODY, NOBODY);
    node.inside = node.inside.into_iter().map(|(name, node)| (name, own(node))).collect();
    node
}

#[test]
fn what_may_be_restored_is_and_the_rest_is_named() {
    let scratch = Scratch::new();
    let target = place(&scratch);
    let tree = Node::folder([
        ("device", Node::other(InodeKind::Character(1, 3))),
        ("set-id", Node::file("x").mode(0o6755).attribute("security.capability", capability())),
        ("mine", Node::file("x").mode(0o6711).owned(NOBODY, NOBODY)),
        ("trusted", Node::file("x").owned(NOBODY, NOBODY).attribute("trusted.x", "x").attribute("user.x", "x")),
        ("immutable", Node::file("x").owned(NOBODY, NOBODY).flags(5)),
        ("shared", Node::folder::<&str>([]).mode(0o2775).owned(0, 0)),
    ]);
    let tree = tree.owned(NOBODY, NOBODY);
    let report = restore_as_nobody(&target, &tree, &Options::new(1)).unwrap();
    let refused: Vec<_> =
        report.refused.list.first.iter().map(|r| (&r.path[..], r.step, r.attribute.as_deref())).collect();
    let mut wanted = vec![
        (&b"device"[..], Step::Create, None),
        (b"set-id", Step::Owner, None),
        (b"set-id", Step::Attribute, Some(&b"security.capability"[..])),
        (b"trusted", Step::Attribute, Some(b"trusted.x")),
        (b"immutable", Step::Flags, None),
        (b"shared", Step::Owner, None),
    ];
    let mut refused = refused;
    refused.sort();
    wanted.sort();
    assert_eq!(refused, wanted);
    assert_eq!(report.refused.kinds[&Step::Owner], 2);

    let mut left = tree.clone();
    left.inside.remove(&b"device"[..]);
    let node = |name: &[u8]| left.inside.get(name).unwrap().clone();
    let mut set_id = node(b"set-id").mode(0o755).owned(NOBODY, NOBODY);
    set_id.inode.extended.0.clear();
    let mut trusted = node(b"trusted");
    trusted.inode.extended.0.retain(|(name, _)| name == b"user.x");
    let immutable = node(b"immutable").flags(4);
    let shared = node(b"shared").owned(NOBODY, NOBODY).mode(0o775);
    for (name, node) in [("set-id", set_id), ("trusted", trusted), ("immutable", immutable), ("shared", shared)] {
        left.inside.insert(name.into(), node);
    }
    assert_holds(&target, &left);
}

/// The same once more goes on with what there is, and forgets nothing that was refused.
#[test]
fn an_owner_that_is_refused_is_refused_each_time() {
    let scratch = Scratch::new();
    let target = place(&scratch);
    let theirs = [("file", Node::file("x")), ("link", Node::link("x")), ("set-id", Node::file("x").mode(0o4755))];
    let tree = Node::folder(theirs).owned(NOBODY, NOBODY);
    let again = Options { resume: true, trust_names: true, ..Options::new(1) };
    for options in [Options::new(1), again.clone()] {
        let report = restore_as_nobody(&target, &tree, &options).unwrap();
        assert_eq!(
            (report.refused.kinds, report.reasons.contains_key(&Why::Exists)),
            ([(Step::Owner, 3)].into(), false)
        );
    }
    // Who may do it does, with all that hung on it.
    let report = restore(&target, &tree, &again).unwrap();
    assert_eq!((report.refused.list.first, report.files), (vec![], 0));
    assert_holds(&target, &tree);
}

/// Directories that their owner may not write, read or enter, with further names across them.
fn closed() -> Node {
    own(Node::folder([
        (
            "a",
            Node::folder([("file", Node::file("x")), ("in", Node::folder([("file", Node::file("y"))]).mode(0o500))])
                .mode(0o500),
        ),
        // So many that what comes behind them is in another window.
        ("m", Node::folder((0..70).map(|n| (n.to_string(), Node::file("m"))))),
        ("n", Node::folder([("again", Node::file("z").mode(0o400).again("c/c/file"))])),
        ("b", Node::folder([("again", Node::file("x").again("a/file"))]).mode(0o555)),
        (
            "c",
            Node::folder([("c", Node::folder([("file", Node::file("z").mode(0o400).linked())]).mode(0))]).mode(0o111),
        ),
    ])
    .mode(0o500))
}

#[test]
fn directories_that_forbid_it() {
    let scratch = Scratch::new();
    let (target, tree) = (place(&scratch), closed());
    let report = restore_as_nobody(&target, &tree, &Options::new(1)).unwrap();
    assert_eq!(report.refused.list.first, []);
    assert_holds(&target, &tree);
    // Into directories that forbid it from the beginning, and out of them.
    for name in ["a/in/extra", "c/c/extra"] {
        fs::write(target.join(name), "x").unwrap();
    }
    let mut tree = tree;
    tree.inside.get_mut(&b"b"[..]).unwrap().inside.insert(b"new".to_vec(), own(Node::file("new")));
    let options = Options { overwrite: Overwrite::Always, delete: true, ..Options::new(1) };
    let report = restore_as_nobody(&target, &tree, &options).unwrap();
    assert_eq!((report.refused.list.first, report.removed), (vec![], 2));
    assert_holds(&target, &tree);
    // They keep what they have.
    let report = restore_as_nobody(&target, &tree, &Options::new(2)).unwrap();
    assert_eq!(report.refused.list.first, []);
    let there = list(&target);
    for path in ["a", "a/in", "b", "c", "c/c"] {
        assert_eq!(there[path.as_bytes()].mode, list(&target)[path.as_bytes()].mode);
        assert_ne!(there[path.as_bytes()].mode & 0o700, 0o700, "{path} was left open");
    }
}

#[test]
fn what_belongs_to_others_stays_and_is_named() {
    let scratch = Scratch::new();
    let target = place(&scratch);
    let tree = own(Node::folder([
        ("theirs", Node::folder([("new", Node::file("x")), ("old", Node::file("x"))])),
        ("mine", Node::file("x")),
    ]));
    fs::create_dir_all(target.join("theirs")).unwrap();
    fs::write(target.join("theirs/old"), "theirs").unwrap();
    chown(&target, Some(NOBODY), Some(NOBODY)).unwrap();
    let options = Options { overwrite: Overwrite::Always, ..Options::new(1) };
    let report = restore_as_nobody(&target, &tree, &options).unwrap();
    let mut steps: Vec<_> = report.refused.list.first.iter().map(|r| (r.path.clone(), r.step)).collect();
    steps.sort();
    assert_eq!(
        steps,
        [
            (b"theirs".to_vec(), Step::Owner),
            (b"theirs".to_vec(), Step::Mode),
            (b"theirs".to_vec(), Step::Times),
            (b"theirs/new".to_vec(), Step::Create),
            (b"theirs/old".to_vec(), Step::Create),
        ]
    );
    let there = list(&target);
    assert_eq!((&there[&b"theirs/old"[..]].data[..], &there[&b"mine"[..]].data[..]), (&b"theirs"[..], &b"x"[..]));
}
