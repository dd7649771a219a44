//! What is there already, and what was planted there.

use super::super::{Begun, Options, Overwrite, Refused, Restorer, Step, Target, Why};
use super::feeder::{Node, restore};
use super::lister::{Scratch, assert_holds, list};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// A target that does not tell two names apart has one inode for both; a second name of it is as near as any filesystem gets.
#[test]
fn a_name_that_is_another_one_of_the_snapshot_in_the_target_does_not_replace_it() {
    let tree = Node::folder([("d", Node::folder([("A", Node::file("A").at(1000, 0)), ("b", Node::file("b"))]))]);
    // In a directory that this restore makes, one that is there, and one that holds the first already.
    for there in [0, 1, 2] {
        for overwrite in [Overwrite::Always, Overwrite::IfNewer, Overwrite::Never] {
            let scratch = Scratch::new();
            let target = scratch.at("target");
            if there > 0 {
                fs::create_dir_all(target.join("d")).unwrap();
            }
            if there > 1 && overwrite == Overwrite::Always {
                fs::write(target.join("d/A"), "A").unwrap();
            }
            let at = target.clone();
            let fold = move |step, path: &[u8]| {
                if (step, path) == (Step::Rename, &b"d/b"[..]) {
                    fs::hard_link(at.join("d/A"), at.join("d/b"))?;
                }
                Ok(())
            };
            let options = Options { compare: true, steps: Some(Arc::new(fold)), ..mode(overwrite) };
            let report = restore(&target, &tree, &options).unwrap();
            let skipped: Vec<_> = report.skipped.first.iter().map(|s| (&s.path[..], s.why)).collect();
            assert_eq!(skipped, [(&b"d/b"[..], Why::Taken)], "{there} {overwrite:?}");
            assert_eq!(fs::read(target.join("d/A")).unwrap(), b"A");
            assert_eq!(fs::read(target.join("d/b")).unwrap(), b"A", "{there} {overwrite:?}");
            let names = fs::read_dir(target.join("d")).unwrap().count();
            assert_eq!(names, 2, "a temporary name stayed");
        }
    }
}

/// To open a terminal of which nobody has the other end fails, as an unreadable medium does.
#[test]
fn what_is_no_regular_file_is_not_opened_for_a_comparison() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    fs::create_dir(&target).unwrap();
    let device = rustix::fs::makedev(136, 77_777);
    let mode_bits = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, target.join("a"), rustix::fs::FileType::CharacterDevice, mode_bits, device)
        .unwrap();
    let error = fs::File::open(target.join("a")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    let tree = Node::folder([("a", Node::file("a"))]);
    restore(&target, &tree, &Options { compare: true, ..mode(Overwrite::Always) }).unwrap();
    assert_holds(&target, &tree);
}

#[test]
fn where_no_hole_can_be_made_zeros_are_written() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    let writes = AtomicUsize::new(0);
    let refuse = move |step, path: &[u8]| match (step, path) {
        // The first one is data, the second one the hole.
        (Step::Write, b"a") if writes.fetch_add(1, Ordering::Relaxed) == 1 => Err(rustix::io::Errno::OPNOTSUPP.into()),
        _ => Ok(()),
    };
    let options = Options { steps: Some(Arc::new(refuse)), ..Options::new(1) };
    let mut restorer = Restorer::start(Target::open(&target).unwrap(), options).unwrap();
    let node = Node::file(vec![7; 300_000]);
    let Begun::Write(file) = restorer.file(&node.item(b"a")).unwrap() else { panic!("not begun") };
    file.write_at(0, &[7; 300_000]).unwrap();
    file.clear(1000..201_000).unwrap();
    file.finish().unwrap();
    restorer.finish().unwrap();
    let wanted = [&[7; 1000][..], &[0; 200_000], &[7; 99_000]].concat();
    assert!(fs::read(target.join("a")).unwrap() == wanted);
}

#[test]
fn what_an_earlier_run_linked_stays_or_is_replaced_under_all_its_names() {
    let tree = Node::folder([
        ("a", Node::file("data").linked()),
        ("b", Node::file("data").again("a")),
        ("c", Node::file("one")),
    ]);
    let scratch = Scratch::new();
    let target = scratch.at("target");
    restore(&target, &tree, &Options::new(1)).unwrap();
    let options = Options { resume: true, trust_names: true, distrust: true, ..Options::new(1) };
    let inode = fs::metadata(target.join("a")).unwrap().ino();
    let report = restore(&target, &tree, &options).unwrap();
    assert_eq!((report.skipped.first, report.kept, report.files), (vec![], 2, 0));
    assert_eq!(fs::metadata(target.join("a")).unwrap().ino(), inode);
    for name in ["a", "c"] {
        let modified = fs::metadata(target.join(name)).unwrap().modified().unwrap();
        let len = fs::metadata(target.join(name)).unwrap().len();
        fs::write(target.join(name), vec![b'x'; len as usize]).unwrap();
        fs::File::options().write(true).open(target.join(name)).unwrap().set_modified(modified).unwrap();
    }
    let report = restore(&target, &tree, &options).unwrap();
    assert_eq!((report.skipped.first, report.kept, report.files), (vec![], 0, 2));
    assert_holds(&target, &tree);
}
