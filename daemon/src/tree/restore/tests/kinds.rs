//! Everything comes back, as root.

use super::super::{Begun, Options, Overwrite, Restorer, Step, Target};
use super::feeder::{Node, acl, capability, restore};
use super::lister::{Scratch, assert_holds, below, list};
use super::removal::Mounted;
use crate::tree::inode::InodeKind;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use wherry_repo::format::tree::InodeFlags;

/// Every kind of inode with everything it can have.
pub(super) fn everything() -> Node {
    let long = "n".repeat(255);
    let set_id = Node::file("program").owned(1234, 4321).mode(0o6755).attribute("security.capability", capability());
    let with_acl = |mode| Node::file("acl").mode(mode).attribute("system.posix_acl_access", acl(6, (77, 4), 4, 6, 0));
    let inherited = acl(7, (78, 7), 5, 7, 5);
    let odd: [&[u8]; 6] =
        [b"\xff\xfe not UTF-8", b" ", b"-rf", b"new\nline", b".wherry-0000000000000001-", b"a\\b\"c*"];
    Node::folder([
        ("acl", with_acl(0o660)),
        ("empty", Node::file("")),
        ("empty folder", Node::folder::<&str>([])),
        ("fifo", Node::other(InodeKind::Fifo).owned(5, 6).attribute("trusted.of", "a fifo")),
        ("first", Node::file("linked").attribute("user.a", "1").linked()),
        ("folder", {
            let inside = [
                ("again", Node::file("linked").attribute("user.a", "1").again("first")),
                ("inherits nothing", Node::file("plain").mode(0o604)),
                ("nor this", Node::folder([("nor that", Node::file("x"))])),
            ];
            Node::folder(inside).mode(0o3771).owned(9, 8).attribute("system.posix_acl_default", &inherited)
        }),
        ("forbidden", Node::folder([("file", Node::file("x").mode(0))]).mode(0)),
        ("immutable", Node::folder([("file", Node::file("i").flags(1).at(7, 7))]).flags(InodeFlags::IMMUTABLE)),
        ("grows", Node::file("a").flags(InodeFlags::APPEND | InodeFlags::NO_DUMP)),
        ("linked immutable", Node::file("both").flags(InodeFlags::IMMUTABLE).linked()),
        ("linked immutable 2", Node::file("both").flags(InodeFlags::IMMUTABLE).again("linked immutable")),
        ("link", Node::link("/nowhere/at all").owned(3, 4).attribute("trusted.of", "a link").at(1, 2)),
        ("link, long", Node::link("x".repeat(4095))),
        ("not dumped", Node::folder([("file", Node::file("f")), ("too", Node::file("f").flags(4))]).flags(4)),
        ("null", Node::other(InodeKind::Character(1, 3)).mode(0o666)),
        ("disk", Node::other(InodeKind::Block(259, 1_048_575))),
        ("set-id", set_id),
        ("socket", Node::other(InodeKind::Socket).mode(0o4700)),
        ("sparse", Node::sparse(10 << 20, &[(3 << 20, b"in the middle"), (8 << 20, b"behind")])),
        ("hole", Node::sparse(1 << 20, &[])),
        ("sticky", Node::folder::<&str>([]).mode(0o1777)),
        ("early", Node::file("1900").at(-2_208_988_800, 1)),
        ("before 1970", Node::file("1969").at(-1, 999_999_999)),
        ("late", Node::file("2600").at(19_880_899_200, 5)),
        ("never", Node::file("end").at(i64::MAX / 2, 0)),
        ("many attributes", {
            let node = Node::file("x").attribute("security.other", "label").attribute("trusted.empty", "");
            (0..20).fold(node, |node, n| node.attribute(&format!("user.{n}"), vec![n; 50]))
        }),
        (&long[..], Node::folder(odd.map(|name| (name, Node::file(name))))),
    ])
    .mode(0o750)
    .owned(11, 12)
    .at(1_000_000_000, 1)
}

#[test]
fn everything_comes_back() {
    let scratch = Scratch::new();
    let (target, tree) = (scratch.at("target"), everything());
    let report = restore(&target, &tree, &Options::new(1)).unwrap();
    assert_holds(&target, &tree);
    assert_eq!(report.refused.list.first, []);
    assert_eq!((report.skipped.count, report.links, report.others), (0, 2, 6));
    assert_eq!(report.files + report.directories + report.others + report.links, list(&target).len() as u64 - 1);
    let sparse = target.join("sparse").metadata().unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "holes take {} blocks", sparse.blocks());
    assert_eq!(target.join("hole").metadata().unwrap().blocks(), 0);
}

#[test]
fn what_a_directory_hands_down_is_taken_away() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    fs::create_dir(&target).unwrap();
    let handed_down = acl(7, (66, 7), 7, 7, 7);
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&target, name, &handed_down, flags).unwrap();
    }
    rustix::fs::setxattr(&target, "user.old", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::ioctl_setflags(fs::File::open(&target).unwrap(), rustix::fs::IFlags::NODUMP).unwrap();
    let tree = everything();
    let options = Options { overwrite: Overwrite::Always, ..Options::new(1) };
    let report = restore(&target, &tree, &options).unwrap();
    assert_eq!(report.refused.list.first, []);
    assert_holds(&target, &tree);
}

#[test]
fn owners_go_by_name() {
    let scratch = Scratch::new();
    let mut file = Node::file("x").owned(4242, 4343);
    file.owner = b"daemon".to_vec();
    file.group = b"daemon".to_vec();
    let mut unknown = Node::file("x").owned(4242, 4343);
    unknown.owner = b"nobody here is called so \xff".to_vec();
    let mut tree = Node::folder([("known", file), ("unknown", unknown)]);
    let numeric = scratch.at("numeric");
    restore(&numeric, &tree, &Options { numeric_ids: true, ..Options::new(1) }).unwrap();
    assert_holds(&numeric, &tree);
    let named = scratch.at("named");
    restore(&named, &tree, &Options::new(1)).unwrap();
    let daemon = nix::unistd::User::from_name("daemon").unwrap().unwrap();
    tree.inside.get_mut(&b"known"[..]).unwrap().inode.owner = daemon.uid.as_raw();
    tree.inside.get_mut(&b"known"[..]).unwrap().inode.group = daemon.gid.as_raw();
    assert_holds(&named, &tree);
}

/// Descriptors of this process that lead below a directory.
fn open_below(root: &std::path::Path) -> usize {
    let names = fs::read_dir("/proc/self/fd").unwrap().flatten();
    names.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(root))).count()
}

#[test]
fn a_window_needs_few_descriptors() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    let options = Options { descriptors: 16, ..Options::new(1) };
    let mut restorer = Restorer::start(Target::open(&target).unwrap(), options).unwrap();
    let (folder, data) = (Node::folder::<&str>([]), Node::file(vec![7; 300]));
    let mut files = Vec::new();
    for n in 0..100 {
        assert!(restorer.enter(&folder.item(format!("folder {n}").as_bytes())).unwrap());
        for n in 0..5 {
            match restorer.file(&data.item(n.to_string().as_bytes())).unwrap() {
                Begun::Write(file) => files.push(file),
                left => panic!("{left:?}"),
            }
        }
        restorer.leave().unwrap();
    }
    for at in [200, 0, 100] {
        files.iter().for_each(|file| file.write_at(at, &[7; 100]).unwrap());
        assert!(open_below(&target) <= 18, "{} descriptors", open_below(&target));
    }
    assert!(files[0].write_at(250, &[0; 51]).is_err(), "bytes beyond the end were written");
    let dropped = files.pop().unwrap();
    files.into_iter().for_each(|file| file.finish().unwrap());
    assert!(restorer.finish_window().is_err(), "a window ended before its last file");
    drop(dropped);
    let report = restorer.finish().unwrap();
    assert_eq!((report.files, report.bytes, open_below(&target)), (499, 499 * 300, 0));
    assert!(!target.join("folder 99/4").exists(), "a file that was given up has its name");
    for n in 0..100 {
        let names: Vec<_> = fs::read_dir(target.join(format!("folder {n}"))).unwrap().flatten().collect();
        assert_eq!(names.len(), if n == 99 { 4 } else { 5 });
        names.iter().for_each(|name| assert_eq!(fs::read(name.path()).unwrap(), [7; 300]));
    }
}

#[test]
fn deeper_than_a_path_and_than_the_descriptors() {
    const DEPTH: usize = 3000;
    let scratch = Scratch::new();
    let target = scratch.at("target");
    let options = Options { descriptors: 16, ..Options::new(1) };
    let folder = Node::folder::<&str>([]).mode(0o711);
    let file = Node::file("deep");
    let mut restorer = Restorer::start(Target::open(&target).unwrap(), options.clone()).unwrap();
    for _ in 0..DEPTH {
        assert!(restorer.enter(&folder.item(b"d")).unwrap());
    }
    let Begun::Write(handle) = restorer.file(&file.item(b"d")).unwrap() else { panic!("not begun") };
    handle.write_at(0, b"deep").unwrap();
    handle.finish().unwrap();
    for _ in 0..DEPTH {
        restorer.leave().unwrap();
    }
    assert_eq!(restorer.finish().unwrap().files, 1);
    let mut at = fs::File::open(&target).unwrap();
    for _ in 0..DEPTH {
        let flags = rustix::fs::OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).unwrap().into();
        assert_eq!(at.metadata().unwrap().mode() & 0o7777, 0o711);
        assert_eq!(at.metadata().unwrap().mtime(), 1_500_000_000);
    }
    assert_eq!(rustix::fs::statat(&at, "d", rustix::fs::AtFlags::empty()).unwrap().st_size, 4);
    drop(at);
    // Nothing else here removes so deep a tree.
    let options = Options { delete: true, ..options };
    let report = restore(&target, &Node::folder::<&str>([]), &options).unwrap();
    assert_eq!(report.removed, DEPTH as u64 + 1);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn names_that_are_none_are_refused() {
    let scratch = Scratch::new();
    let mut restorer = Restorer::start(Target::open(&scratch.at("target")).unwrap(), Options::new(1)).unwrap();
    let node = Node::file("x");
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", &[b'x'; 256]] {
        let item = node.item(name);
        assert!(restorer.file(&item).is_err(), "{name:?}");
        assert!(restorer.enter(&item).is_err(), "{name:?}");
        assert!(restorer.other(&item).is_err(), "{name:?}");
        assert!(restorer.link(name, b"x").is_err(), "{name:?}");
    }
    assert!(restorer.link(b"x", b"../x").is_err(), "a first name outside");
    assert!(restorer.leave().is_err(), "the target was left");
    assert_eq!(fs::read_dir(below(&scratch.at("target"), b"")).unwrap().count(), 0);
}

/// With an ACL the permissions of the group are the mask.
#[test]
fn a_refused_acl_leaves_nothing_open_to_the_group() {
    let scratch = Scratch::new();
    let mount = Mounted::of("ramfs", &scratch.at("ramfs"));
    let target = scratch.at("ramfs/target");
    let with = |acl: Vec<u8>| Node::file("a").mode(0o674).attribute("system.posix_acl_access", acl);
    let minimal = acl(6, (0, 0), 4, 7, 4).into_iter().enumerate();
    // Neither the one user nor the mask.
    let minimal =
        minimal.filter(|(n, _)| !(12..20).contains(n) && !(28..36).contains(n)).map(|(_, byte)| byte).collect();
    let tree = Node::folder([
        ("closed", with(acl(6, (1000, 7), 0, 7, 4))),
        ("masked", with(acl(6, (1000, 7), 6, 5, 4))),
        ("minimal", with(minimal)),
        ("odd", with(b"\x03\0\0\0".to_vec())),
    ]);
    let report = restore(&target, &tree, &Options::new(1)).unwrap();
    assert_eq!(report.refused.kinds[&Step::Acl], 4, "{:?}", report.refused);
    let mode = |name: &str| format!("{:o}", fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777);
    let modes = ["closed", "masked", "minimal", "odd"].map(mode);
    assert_eq!(modes, ["604", "644", "644", "604"]);
    drop(mount);
    // Where it is not refused, the mask stands in their place.
    let tree = Node::folder([("masked", with(acl(6, (1000, 7), 6, 7, 4)))]);
    restore(&scratch.at("target"), &tree, &Options::new(1)).unwrap();
    assert_holds(&scratch.at("target"), &tree);
}
