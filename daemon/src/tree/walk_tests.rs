use super::*;
use crate::tree::inode::InodeKind;
use rustix::fs::{CWD, Mode};
use rustix::mount::UnmountFlags;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[track_caller]
fn needs_root(what: &str) {
    assert!(rustix::process::geteuid().is_root(), "this test {what}: it needs root");
}

/// Sets an extended attribute, of a link itself.
#[track_caller]
fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    let set = rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty());
    let text = "this test needs extended attributes in the directory for temporary files (TMPDIR)";
    set.unwrap_or_else(|e| panic!("{name} of {}: {e} ({text})", path.display()));
}

/// What is mounted here; gone with this value.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        assert!(gone.is_ok() || std::thread::panicking(), "{}: {gone:?}", self.0.display());
    }
}

fn plain(threads: usize) -> Options {
    Options::new(Exclude::default(), threads, std::env::temp_dir())
}

fn excluding(patterns: &[&str], caches: bool, marks: &[&str]) -> Options {
    let os = |texts: &[&str]| texts.iter().map(OsString::from).collect::<Vec<_>>();
    Options::new(Exclude::new(&os(patterns), caches, &os(marks)).unwrap(), 2, std::env::temp_dir())
}

fn walk(root: &Path, options: Options) -> Vec<Event> {
    Walk::start(&Root::open(root, false).unwrap(), options).unwrap().collect::<Result<_>>().unwrap()
}

/// One line an event, so that walks can be compared.
fn lines(events: Vec<Event>) -> Vec<String> {
    let say = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut depth = 0_usize;
    let line = |event| match event {
        Event::Enter(f) => {
            depth += 1;
            let path = say(&f.dir.path());
            format!("{}> {path} {} {:?} {:?} {:?}", depth, f.boundary, f.missing, f.look.missing, f.look.inode)
        }
        Event::Entry(e) => format!("{} {:?}", say(&e.dir.path_of(&e.name)), e.look),
        Event::Mounted { dir, name } => format!("mounted {}", say(&dir.path_of(&name))),
        Event::Leave => {
            depth -= 1;
            "<".to_owned()
        }
    };
    let lines = events.into_iter().map(line).collect();
    assert_eq!(depth, 0, "each directory is left");
    lines
}

/// Paths alone, those of directories with a slash.
fn paths(events: &[Event]) -> Vec<String> {
    let path = |event: &Event| match event {
        Event::Enter(f) => Some(format!("{}/", f.dir.path().escape_ascii())),
        Event::Entry(e) => Some(e.dir.path_of(&e.name).escape_ascii().to_string()),
        Event::Mounted { .. } | Event::Leave => None,
    };
    events.iter().filter_map(path).collect()
}

fn make(root: &Path, files: &[&str]) {
    for file in files {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !file.ends_with('/') {
            std::fs::write(path, file).unwrap();
        } else {
            std::fs::create_dir_all(path).unwrap();
        }
    }
}

fn entry<'a>(events: &'a [Event], path: &str) -> &'a Look {
    let found = events.iter().find_map(|event| match event {
        Event::Entry(e) if e.dir.path_of(&e.name) == path.as_bytes() => Some(e.look.as_ref().unwrap()),
        Event::Enter(f) if f.dir.path() == path.as_bytes() => Some(&f.look),
        _ => None,
    });
    found.unwrap_or_else(|| unreachable!("{path} was not seen"))
}

#[test]
fn order_is_by_bytes_and_depth_first_whatever_the_threads_do() {
    let dir = scratch();
    // As texts made valid, \xff and \xfe would be one, and above U+FFFD; upper case is before lower case.
    let odd: [&[u8]; 8] = [b"\xff", b"\xfe", "\u{10000}".as_bytes(), b"a\nb", b"Z", b" ", b"-rf", &[b'n'; 255]];
    for name in odd {
        std::fs::create_dir(dir.path().join(OsString::from_vec(name.to_vec()))).unwrap();
    }
    make(dir.path(), &["a/b/c", "a/b.c", "a/b-/x", "a-", "a.d/e", "z/"]);
    for n in 0..1500 {
        make(&dir.path().join("many"), &[&format!("{n}"), &format!("d{n}/x")]);
    }
    let expected = lines(walk(dir.path(), plain(0)));
    let order = paths(&walk(dir.path(), plain(0)));
    let long = format!("{}/", "n".repeat(255));
    let top: Vec<_> =
        order.iter().filter(|p| p.trim_end_matches('/').matches('/').count() == 0).map(String::as_str).collect();
    let names = [
        "/",
        " /",
        "-rf/",
        "Z/",
        "a/",
        "a\\nb/",
        "a-",
        "a.d/",
        "many/",
        &long,
        "z/",
        "\\xf0\\x90\\x80\\x80/",
        "\\xfe/",
        "\\xff/",
    ];
    assert_eq!(top, names);
    let a: Vec<_> = order.iter().filter(|p| p.starts_with("a/")).map(String::as_str).collect();
    assert_eq!(a, ["a/", "a/b/", "a/b/c", "a/b-/", "a/b-/x", "a/b.c"]);
    for (threads, window, names) in
        [(1, 32_768, 8 << 20), (4, 32_768, 8 << 20), (3, 20, 2000), (0, 1, 300), (8, 100, 8 << 20)]
    {
        for _ in 0..5 {
            let options = Options { window, names, ..plain(threads) };
            assert_eq!(
                lines(walk(dir.path(), options)),
                expected,
                "{threads} threads, window {window}, {names} bytes of names"
            );
        }
    }
}

#[test]
fn every_kind_of_inode_is_told_as_it_is() {
    use std::os::unix::fs::MetadataExt;
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    make(dir.path(), &["file", "folder/"]);
    std::os::unix::fs::symlink("/nowhere\n", at("link")).unwrap();
    std::fs::hard_link(at("file"), at("folder/second")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let mode = Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    needs_root("makes devices and trusted attributes");
    let number = rustix::fs::makedev(300, 70_000);
    rustix::fs::mknodat(CWD, at("block"), rustix::fs::FileType::BlockDevice, mode, number).unwrap();
    rustix::fs::mknodat(CWD, at("character"), rustix::fs::FileType::CharacterDevice, mode, number).unwrap();
    set_attribute(&at("link"), "trusted.of-link", b"\0x");
    let time = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
    let times = rustix::fs::Timestamps { last_access: time(1, 1), last_modification: time(-5, 999_999_999) };
    rustix::fs::chmod(at("file"), Mode::from_raw_mode(0o6751)).unwrap();
    for (name, value) in [("user.b", "2"), ("user.a", "1"), ("user.empty", "")] {
        set_attribute(&at("file"), name, value.as_bytes());
    }
    rustix::fs::utimensat(CWD, at("file"), &times, rustix::fs::AtFlags::empty()).unwrap();
    let events = walk(dir.path(), plain(2));
    let file = &entry(&events, "file").inode;
    let stat = std::fs::metadata(at("file")).unwrap();
    assert_eq!((file.permissions, file.links, file.size, file.number), (0o6751, 2, 4, stat.ino()));
    assert_eq!((file.owner, file.group, file.allocated), (stat.uid(), stat.gid(), stat.blocks() * 512));
    assert_eq!((file.modified.seconds, file.modified.nanoseconds), (-5, 999_999_999));
    assert_eq!((file.changed.seconds, i64::from(file.changed.nanoseconds)), (stat.ctime(), stat.ctime_nsec()));
    let set =
        |pairs: &[(&str, &[u8])]| pairs.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.to_vec())).collect::<Vec<_>>();
    let own = |look: &Look| {
        look.inode.extended.0.iter().filter(|(n, _)| !n.starts_with(b"security.")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(own(entry(&events, "file")), set(&[("user.a", b"1"), ("user.b", b"2"), ("user.empty", b"")]));
    assert_eq!(entry(&events, "folder/second").inode, *file);
    let kind = |path| entry(&events, path).inode.kind.clone();
    assert_eq!(kind("link"), InodeKind::Link(b"/nowhere\n".to_vec()));
    assert_eq!(
        [kind("fifo"), kind("socket"), kind("folder"), kind("file")],
        [InodeKind::Fifo, InodeKind::Socket, InodeKind::Folder, InodeKind::File]
    );
    assert_eq!([kind("block"), kind("character")], [InodeKind::Block(300, 70_000), InodeKind::Character(300, 70_000)]);
    assert_eq!(own(entry(&events, "link")), set(&[("trusted.of-link", b"\0x")]));
}

#[test]
fn paths_of_any_length_are_walked_and_what_is_too_deep_is_missing() {
    let dir = scratch();
    let mut at = rustix::fs::open(dir.path(), rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..MAX_DEPTH + 2 {
        rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "deep", rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    for threads in [0, 3] {
        // Few descriptors: the way back has to open levels again.
        let root = Root::open(dir.path(), false).unwrap();
        let (mut entered, mut deepest) = (0, None);
        for event in Walk::start(&root, plain(threads)).unwrap() {
            if let Event::Enter(folder) = event.unwrap() {
                assert_eq!(folder.dir.depth(), entered);
                entered += 1;
                deepest = Some(folder);
            }
        }
        assert_eq!(entered, MAX_DEPTH + 1);
        let deepest = deepest.unwrap();
        assert_eq!(deepest.missing.map(u32::from), Some(36));
        assert_eq!(deepest.dir.path().len(), 5 * MAX_DEPTH as usize - 1);
        assert!(deepest.dir.parent().unwrap().descriptor().is_ok());
    }
    // remove_dir_all goes by path where it can and by descriptor else; this is deeper than its recursion likes.
    let top = dir.path();
    while top.join("deep").exists() {
        let half = rustix::fs::open(top, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
        let mut chain = vec![half];
        while let Ok(next) = rustix::fs::openat(chain.last().unwrap(), "deep", rustix::fs::OFlags::PATH, Mode::empty())
        {
            chain.push(next);
            if chain.len() > 500 {
                break;
            }
        }
        let lowest = chain.pop().unwrap();
        if chain.len() >= 500 {
            rustix::fs::renameat(&lowest, "deep", &chain[0], "other").unwrap();
        }
        while let Some(parent) = chain.pop() {
            let _ = rustix::fs::unlinkat(&parent, "deep", rustix::fs::AtFlags::REMOVEDIR);
        }
        if top.join("other").exists() {
            std::fs::rename(top.join("other"), top.join("deep")).unwrap();
        }
    }
}

#[test]
fn other_filesystems_are_boundaries() {
    needs_root("mounts");
    let dir = scratch();
    make(dir.path(), &["mount/below", "bound/", "source/inner", "file", "over"]);
    let at = |name: &str| dir.path().join(name);
    let flags = rustix::mount::MountFlags::empty();
    let mounted = |name: &str, done: rustix::io::Result<()>| {
        done.unwrap_or_else(|e| panic!("mounting {name}: {e} (this test needs the right to mount)"));
        Mounted(at(name))
    };
    // Dropped before the directory is removed: what is mounted is not emptied with it.
    let mounts = [
        mounted("mount", rustix::mount::mount("none", at("mount"), "tmpfs", flags, None)),
        // The same filesystem at another place: its device number tells nothing.
        mounted("bound", rustix::mount::mount_bind(at("source"), at("bound"))),
        mounted("over", rustix::mount::mount_bind(at("file"), at("over"))),
    ];
    make(dir.path(), &["mount/other"]);
    let seen: Vec<_> = [false, true]
        .map(|all| {
            let walk = Walk::start(&Root::open(dir.path(), all).unwrap(), plain(2)).unwrap();
            walk.collect::<Result<Vec<_>>>().unwrap()
        })
        .into();
    // By its own filesystem goes how near a ctime may be.
    let kind = |path: &str| {
        let found = seen[1].iter().find_map(|event| match event {
            Event::Enter(f) if f.dir.path() == path.as_bytes() => Some(f.dir.filesystem()),
            _ => None,
        });
        found.unwrap_or_else(|| unreachable!("{path} was not entered"))
    };
    assert_eq!(kind("mount").name(), "tmpfs");
    assert_eq!(kind("bound"), kind("source"));
    drop(mounts);
    assert_eq!(paths(&seen[0]), ["/", "bound/", "file", "mount/", "source/", "source/inner"]);
    assert_eq!(
        paths(&seen[1]),
        ["/", "bound/", "bound/inner", "file", "mount/", "mount/other", "over", "source/", "source/inner"]
    );
    for events in &seen {
        let boundary =
            |event: &Event| matches!(event, Event::Enter(f) if f.boundary).then(|| paths(std::slice::from_ref(event)));
        let boundaries: Vec<_> = events.iter().filter_map(boundary).flatten().collect();
        assert_eq!(boundaries, ["bound/", "mount/"]);
    }
    assert!(seen[0].iter().any(|event| matches!(event, Event::Mounted { name, .. } if name == b"over")));
}

#[test]
fn what_is_left_out_of_other_filesystems_is_told() {
    let dir = scratch();
    make(dir.path(), &["d/"]);
    for all in [false, true] {
        let root = Root::open(dir.path(), all).unwrap().dir().clone();
        let look = root.look(b"d").unwrap();
        let folder = |automount, boundary| {
            let look = Look { automount, ..look.clone() };
            Folder { dir: root.below(c"d", 0, &look), look, boundary, missing: None }.left_out()
        };
        assert_eq!(folder(false, false), None);
        assert_eq!(folder(false, true).is_some(), !all, "what is mounted is entered if all filesystems are");
        let why = folder(true, true).unwrap();
        assert!(why.contains("not mounted yet"), "nothing is mounted for a backup: {why}");
    }
}

/// Somebody puts a link to another place where a directory was, again and again.
#[test]
fn nobody_leads_the_walk_out_of_its_root() {
    let (dir, outside) = (scratch(), scratch());
    make(outside.path(), &["secret", "sub/secret"]);
    make(dir.path(), &["d/secret", "d/sub/mine", "d/sub/deeper/mine"]);
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
    let forbidden = std::fs::read(outside.path().join("secret")).unwrap();
    std::fs::write(dir.path().join("d/secret"), b"inside").unwrap();
    let stop = AtomicBool::new(false);
    let (mut entered, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (d, link) = (dir.path().join("d"), dir.path().join("link"));
            while !stop.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &d, CWD, &link, exchange).unwrap();
            }
        });
        for round in 0..2000 {
            for event in walk(dir.path(), plain(round % 3)) {
                match event {
                    Event::Enter(f) => entered += usize::from(f.dir.depth() > 0),
                    Event::Entry(e) if e.name == b"secret" => {
                        let Ok(look) = &e.look else { continue };
                        let Ok(mut file) = e.dir.open_file(b"secret", &look.inode) else {
                            refused += 1;
                            continue;
                        };
                        let mut content = Vec::new();
                        std::io::Read::read_to_end(&mut file, &mut content).unwrap();
                        assert_ne!(content, forbidden, "a file outside of the root");
                        assert_eq!(content, b"inside");
                    }
                    _ => {}
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(entered > 100, "{entered} {refused}");
}

#[test]
fn a_file_that_became_something_else_is_not_opened() {
    let (dir, outside) = (scratch(), scratch());
    make(dir.path(), &["link", "fifo", "new", "same"]);
    make(outside.path(), &["secret"]);
    let events = walk(dir.path(), plain(1));
    let at = |name: &str| dir.path().join(name);
    for name in ["link", "fifo", "new"] {
        std::fs::rename(at(name), at(&format!("old-{name}"))).unwrap();
    }
    std::os::unix::fs::symlink(outside.path().join("secret"), at("link")).unwrap();
    rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    std::fs::write(at("new"), "other").unwrap();
    let Event::Enter(Folder { dir, .. }) = &events[0] else { unreachable!() };
    for name in ["link", "fifo", "new"] {
        let error = dir.open_file(name.as_bytes(), &entry(&events, name).inode).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::STALE.raw_os_error()), "{name}");
    }
    dir.open_file(b"same", &entry(&events, "same").inode).unwrap();
    // A name that is a path, or leads up, opens nothing.
    let same = &entry(&events, "same").inode;
    assert!(dir.open_file(b"../x", same).is_err());
    assert!(dir.open_file(b"..", same).is_err());
}

#[test]
fn what_cannot_be_listed_is_told_and_the_walk_goes_on() {
    let dir = scratch();
    make(dir.path(), &["a/x", "b/y", "c/z"]);
    let root = Root::open(dir.path(), false).unwrap();
    let mut walk = Walk::start(&root, Options { window: 1, ..plain(0) }).unwrap();
    assert!(matches!(walk.next(), Some(Ok(Event::Enter(_)))));
    // Gone after it was seen: no entry and no error. Another directory in its place is looked at again.
    std::fs::remove_dir_all(dir.path().join("a")).unwrap();
    std::fs::rename(dir.path().join("b"), dir.path().join("was")).unwrap();
    make(dir.path(), &["b/new"]);
    let rest: Vec<_> = walk.collect::<Result<_>>().unwrap();
    assert_eq!(paths(&rest), ["b/", "b/new", "c/", "c/z"]);
    let error = |path: &Path| Root::open(path, false).unwrap_err().kind();
    assert_eq!(error(&dir.path().join("none")), ErrorKind::Invalid);
    assert_eq!(error(&dir.path().join("c/z")), ErrorKind::Invalid);
    std::os::unix::fs::symlink("c", dir.path().join("to-c")).unwrap();
    assert_eq!(paths(&super::tests::walk(&dir.path().join("to-c"), plain(1))), ["/", "z"]);
}

#[test]
fn patterns_and_marks_leave_out_what_they_say() {
    let dir = scratch();
    let files = [
        "a.o",
        "keep.o",
        "src/x.o",
        "src/x.c",
        "build/deep/f",
        "src/build/f",
        "cache/data/f",
        "fake/f",
        "marked/f",
        "q/.keep/f",
    ];
    make(dir.path(), &files);
    let tag = b"Signature: 8a477f597d28d172789f06886806bc55\n# more";
    std::fs::write(dir.path().join("cache/CACHEDIR.TAG"), tag).unwrap();
    std::fs::write(dir.path().join("fake/CACHEDIR.TAG"), b"Signature: other").unwrap();
    std::fs::write(dir.path().join("marked/.nobackup"), b"").unwrap();
    std::fs::create_dir(dir.path().join("marked/sub")).unwrap();
    for window in [32_768, 1] {
        let options = Options { window, ..excluding(&["*.o", "!keep.o", "/build/"], true, &[".nobackup"]) };
        let expected =
            ["/", "cache/", "cache/CACHEDIR.TAG", "fake/", "fake/CACHEDIR.TAG", "fake/f", "keep.o", "marked/"];
        let more = ["marked/.nobackup", "q/", "q/.keep/", "q/.keep/f", "src/", "src/build/", "src/build/f", "src/x.c"];
        assert_eq!(paths(&walk(dir.path(), options)), [expected, more].concat());
    }
    let root = Root::open(&dir.path().join("cache"), false).unwrap();
    let error = Walk::start(&root, excluding(&[], true, &[])).unwrap().next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let not_text = OsString::from_vec(b"\xff*".to_vec());
    assert_eq!(Exclude::new(&[not_text], false, &[]).unwrap_err().kind(), ErrorKind::Invalid);
    let pattern = Exclude::new(&["a{b".into()], false, &["ab".into()]).unwrap_err();
    assert_eq!(pattern.kind(), ErrorKind::Invalid);
    assert!(pattern.to_string().contains("--exclude a{b"), "{pattern}");
    let mark = Exclude::new(&["ab".into()], false, &["a/b".into()]).unwrap_err();
    assert_eq!(mark.kind(), ErrorKind::Invalid);
    assert!(mark.to_string().contains("--exclude-if-present a/b"), "{mark}");
}

#[test]
fn long_sets_of_attributes_are_bounded_in_what_is_ahead() {
    let dir = scratch();
    for n in 0..2500 {
        make(dir.path(), &[&format!("{n:04}")]);
        set_attribute(&dir.path().join(format!("{n:04}")), "user.x", &[7; 1000]);
    }
    let events = walk(dir.path(), Options { window: 50, ..plain(3) });
    assert_eq!(events.len(), 2502);
    let whole =
        |e: &Event| !matches!(e, Event::Entry(e) if e.look.as_ref().unwrap().inode.extended.0[0].1.len() != 1000);
    assert!(events.iter().all(whole));
}
