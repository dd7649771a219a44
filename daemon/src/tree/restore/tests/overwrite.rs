//! What is there already, and what was planted there.

use super::super::{Begun, Options, Overwrite, Refused, Restorer, Step, Target, Why};
use super::feeder::{Node, restore};
use super::lister::{Scratch, assert_holds, list};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;
use wherry_repo::format::tree::InodeFlags;

fn mode(overwrite: Overwrite) -> Options {
    Options { overwrite, ..Options::new(1) }
}

/// A tree with this content and time everywhere.
fn tree(content: &str, seconds: i64) -> Node {
    let at = |node: Node| node.at(seconds, 0);
    Node::folder([
        ("file", at(Node::file(content))),
        ("folder", at(Node::folder([("inside", at(Node::file(content)))]))),
        ("linked", at(Node::file(content)).linked()),
        ("linked too", at(Node::file(content)).again("linked")),
        ("link", at(Node::link(content))),
    ])
    .at(seconds, 0)
}

#[test]
fn the_modes() {
    let (old, new) = (tree("old", 1000), tree("new", 2000));
    let scratch = Scratch::new();
    let run = |name: &str, first: &Node, second: &Node, overwrite| {
        let target = scratch.at(name);
        restore(&target, first, &Options::new(1)).unwrap();
        let report = restore(&target, second, &mode(overwrite)).unwrap();
        assert_eq!(report.refused.list.first, []);
        let skipped: Vec<_> = report.skipped.first.iter().map(|s| s.why).collect();
        let holds = if list(&target)[&b"file"[..]].data == b"old" { &old } else { &new };
        (holds.inode.modified.seconds, skipped, target)
    };
    let (holds, skipped, target) = run("never", &old, &new, Overwrite::Never);
    // The further name is one already.
    assert_eq!((holds, skipped), (1000, vec![Why::Exists; 4]));
    let facts = list(&target);
    assert_eq!((facts[&b"folder"[..]].modified.0, facts[&b""[..]].modified.0), (1000, 1000));
    let (holds, skipped, target) = run("newer there", &new, &old, Overwrite::IfNewer);
    assert_eq!((holds, skipped), (2000, vec![Why::NotOlder; 4]));
    assert_holds(&target, &new);
    let (holds, skipped, target) = run("newer here", &old, &new, Overwrite::IfNewer);
    assert_eq!((holds, skipped), (2000, vec![]));
    assert_holds(&target, &new);
    let (_, skipped, target) = run("always", &new, &old, Overwrite::Always);
    assert_eq!(skipped, []);
    assert_holds(&target, &old);
}

#[test]
fn other_kinds_of_the_same_name() {
    let wanted = Node::folder([
        ("a", Node::folder([("x", Node::file("x"))])),
        ("b", Node::file("b")),
        ("c", Node::link("c")),
        ("d", Node::file("d").flags(InodeFlags::IMMUTABLE)),
    ]);
    let scratch = Scratch::new();
    let prepare = |name: &str| {
        let target = scratch.at(name);
        fs::create_dir(&target).unwrap();
        fs::write(target.join("a"), "a file").unwrap();
        fs::create_dir(target.join("b")).unwrap();
        fs::create_dir_all(target.join("c/not empty")).unwrap();
        fs::write(target.join("d"), "old").unwrap();
        let file = fs::File::open(target.join("d")).unwrap();
        rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::IMMUTABLE).unwrap();
        target
    };
    let target = prepare("never");
    let before = list(&target);
    let report = restore(&target, &wanted, &mode(Overwrite::Never)).unwrap();
    let skipped: Vec<_> = report.skipped.first.iter().map(|s| (&s.path[..], s.why)).collect();
    let other = Why::OtherType;
    assert_eq!(skipped, [(&b"a"[..], other), (b"b", other), (b"c", other), (b"d", Why::Exists)]);
    let mut after = list(&target);
    after.insert(Vec::new(), before[&b""[..]].clone());
    assert_eq!(after, before);

    let target = prepare("always");
    let report = restore(&target, &wanted, &mode(Overwrite::Always)).unwrap();
    let skipped: Vec<_> = report.skipped.first.iter().map(|s| (&s.path[..], s.why)).collect();
    assert_eq!(skipped, [(&b"c"[..], Why::OtherType)]);
    assert!(target.join("c/not empty").is_dir());

    let target = prepare("delete");
    restore(&target, &wanted, &Options { delete: true, ..mode(Overwrite::Always) }).unwrap();
    assert_holds(&target, &wanted);
}

#[test]
fn a_further_name_of_what_stays_although_it_is_immutable() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    let one = || Node::file("x").flags(InodeFlags::IMMUTABLE).linked();
    restore(&target, &Node::folder([("a", one())]), &Options::new(1)).unwrap();
    let tree = Node::folder([("a", one()), ("b", one().again("a"))]);
    let report = restore(&target, &tree, &mode(Overwrite::IfNewer)).unwrap();
    assert_eq!((report.refused.list.first, report.links), (vec![], 1));
    let there = list(&target);
    assert_eq!(there[&b"b"[..]], there[&b"a"[..]]);
    assert_eq!(there[&b"b"[..]].flags, InodeFlags::IMMUTABLE);
}

#[test]
fn nothing_outside_changes_whatever_links_are_planted() {
    let inside = |name: &str| (name.to_owned(), Node::file("new").attribute("user.x", "x"));
    let wanted = Node::folder([
        ("folder", Node::folder([inside("file")]).owned(5, 5)),
        ("absolute", Node::folder([inside("file")])),
        ("file", inside("").1),
        ("hard", inside("").1),
        ("link", Node::link("elsewhere").owned(7, 7)),
        ("fifo", Node::other(crate::tree::inode::InodeKind::Fifo).owned(7, 7)),
    ]);
    for overwrite in [Overwrite::Never, Overwrite::IfNewer, Overwrite::Always] {
        for delete in [false, true] {
            let scratch = Scratch::new();
            let (outside, target) = (scratch.at("outside"), scratch.at("target"));
            for dir in [&outside, &target] {
                fs::create_dir(dir).unwrap();
            }
            fs::write(outside.join("file"), "outside").unwrap();
            fs::write(outside.join("hard"), "outside").unwrap();
            symlink("../outside", target.join("folder")).unwrap();
            symlink(&outside, target.join("absolute")).unwrap();
            symlink("../outside/file", target.join("file")).unwrap();
            symlink("../outside/file", target.join("link")).unwrap();
            symlink("../outside/new", target.join("fifo")).unwrap();
            symlink("../outside", target.join("extra")).unwrap();
            fs::hard_link(outside.join("hard"), target.join("hard")).unwrap();
            for n in (0..16).step_by(2) {
                let temporary = target.join(format!(".wherry-0000000000000001-{n}"));
                fs::hard_link(outside.join("hard"), temporary).unwrap();
            }
            let before = list(&outside);
            let options = Options { delete, resume: delete, ..mode(overwrite) };
            restore(&target, &wanted, &options).unwrap();
            assert_eq!(list(&outside), before, "{overwrite:?}, delete {delete}");
            if overwrite == Overwrite::Always {
                assert_eq!(target.join("extra").symlink_metadata().is_ok(), !delete);
                let _ = fs::remove_file(target.join("extra"));
                let after = list(&target);
                for (path, facts) in super::lister::expected(&wanted, &scratch.at("")) {
                    assert!(path.is_empty() || after[&path] == facts, "{}", path.escape_ascii());
                }
            }
        }
    }
}

#[test]
fn a_directory_that_is_swapped_while_it_is_written() {
    for link in [true, false] {
        let scratch = Scratch::new();
        let (outside, target) = (scratch.at("outside"), scratch.at("target"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("a"), "outside").unwrap();
        let before = list(&outside);
        // The one that is swapped has nothing in it: only its metadata is still to be set.
        let inside = |n: usize| (format!("folder {n}"), Node::folder((0..n.min(1)).map(|_| ("a", Node::file("new")))));
        let tree = Node::folder((0..40).map(inside));
        let (moved, away, other) = (target.join("folder 0"), scratch.at("away"), outside.clone());
        let swap = move |step, path: &[u8]| {
            if (step, path) == (Step::Create, &b"folder 20/a"[..]) {
                fs::rename(&moved, &away)?;
                if link { symlink(&other, &moved)? } else { fs::rename(&other, &moved)? }
            }
            Ok(())
        };
        // So few descriptors that the directory must be opened again.
        let options = Options { descriptors: 8, steps: Some(Arc::new(swap)), ..mode(Overwrite::Always) };
        let ended = restore(&target, &tree, &options);
        assert!(ended.is_err(), "another directory was taken for it: {ended:?}");
        let now = if link { outside } else { target.join("folder 0") };
        assert_eq!(list(&now), before);
    }
}

#[test]
fn a_first_name_that_was_not_given_lends_no_names_to_what_is_there() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("a"), "theirs").unwrap();
    let mut restorer = Restorer::start(Target::open(&target).unwrap(), mode(Overwrite::Always)).unwrap();
    let node = Node::file("ours").linked();
    let Begun::Write(file) = restorer.file(&node.item(b"a")).unwrap() else { panic!("not begun") };
    file.write_at(0, b"ours").unwrap();
    let back = file.read_back();
    file.finish().unwrap();
    restorer.link(b"b", b"a").unwrap();
    restorer.sync_window().unwrap();
    back.reject();
    let report = restorer.finish().unwrap();
    let refused: Vec<_> = report.refused.list.first.iter().map(|r| (&r.path[..], r.step)).collect();
    assert_eq!(refused, [(&b"b"[..], Step::Link)]);
    assert_eq!(fs::read(target.join("a")).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
}

#[test]
fn the_name_of_a_first_that_is_not_there_is_reported() {
    let scratch = Scratch::new();
    let tree = Node::folder([("a", Node::file("a").again("not there"))]);
    let report = restore(&scratch.at("target"), &tree, &Options::new(1)).unwrap();
    let errno = rustix::io::Errno::NOENT.raw_os_error();
    let refused = Refused { path: b"a".to_vec(), step: Step::Link, attribute: None, errno };
    assert_eq!(report.refused.list.first, [refused]);
    assert_eq!(report.refused.kinds[&Step::Link], 1);
    assert_eq!(scratch.at("target").metadata().unwrap().nlink(), 2);
}
