//! Sources that change between backups or under one, and what is mounted in them.

use super::{age, backup, comes_back, files, has};
use crate::harness::{Home, PATIENCE};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wherry::progress::Screen;
use wherry::signals::Cancel;
use wherry::tree::backup::{Shares, TreeBackup};
use wherry::tree::dir::Root;
use wherry::tree::exclude::Exclude;
use wherry_repo::format::tree::{Entry, What};
use wherry_repo::storage::Memory;
use wherry_repo::{CommitInfo, TreeInfo, TreeReader, TreeWriter};
use wherry_tests::meddling::{Call, Fate, Meddling};
use wherry_tests::small::{index, init, noise, options};
use wherry_tests::volumes::Volume;

/// A process that has a file mapped and writes to its first byte; gone when this is dropped.
struct Mapping(Child);

impl Mapping {
    fn new(path: &Path) -> Self {
        const MAP: &str = "import mmap, sys\n\
            file = open(sys.argv[1], 'r+b')\n\
            memory = mmap.mmap(file.fileno(), 0)\n\
            for line in sys.stdin.buffer:\n    memory[0] = line[0]\n    print('done', flush=True)\n";
        let mut python = Command::new("python3");
        python.args(["-c", MAP]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(python.spawn().unwrap())
    }

    /// Writes a byte to the memory; nobody writes it to the disk.
    fn put(&mut self, byte: u8) {
        self.0.stdin.as_mut().unwrap().write_all(&[byte, b'\n']).unwrap();
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A page that is written through a mapping sets the times of its file once, until it is written out.
#[test]
fn what_a_mapping_changes_is_read_again() {
    let home = Home::with_repository();
    let volume = Volume::ext4(16);
    let tree = volume.path().join("tree");
    let path = tree.join("mapped");
    // Each longer than what shares a chunk.
    files(&tree, &[("mapped", &noise(1, 70_000)), ("other", &noise(2, 70_000))]);
    let mut mapping = Mapping::new(&path);
    mapping.put(b'1');
    age();
    for byte in [b'2', b'3'] {
        let report = backup(&home, tree.to_str().unwrap(), &[]);
        comes_back(&home, tree.to_str().unwrap(), &format!("before {byte}: {report}"));
        mapping.put(byte);
        // What is too young is read in any case.
        age();
    }
    let last = backup(&home, tree.to_str().unwrap(), &[]);
    assert_eq!(last["files_unread"], 1, "only the other one was as it had been: {last}");
    comes_back(&home, tree.to_str().unwrap(), "at the end");
}

/// A backup that reads one file at a time, and looks at nothing ahead of it.
fn one_by_one(root: Root, writer: TreeWriter, cancel: &Cancel) -> TreeBackup<'_> {
    let shares =
        Shares { walkers: 0, workers: 1, windows: 1, entries: 1, small: 1 << 20, names: 1 << 20, links: 1 << 20 };
    TreeBackup {
        root,
        writer,
        own: None,
        exclude: Exclude::default(),
        scratch: std::env::temp_dir(),
        ignore_inode: false,
        force_read: false,
        ring: false,
        shares,
        limit_read: None,
        beat: std::time::Duration::from_secs(60),
        progress: Screen::new(true, true).progress("backup", None),
        cancel,
    }
}

#[test]
fn small_files_do_not_wait_for_others_that_cannot_come() {
    let home = Home::new();
    files(&home.path("tree"), &[("a", b"1"), ("b", b"2"), ("c/d", b"3"), ("empty", b"")]);
    let repository = init(Arc::new(Memory::default())).unwrap();
    let writer = TreeWriter::start(&repository, index(), &options("t")).unwrap();
    let (source, cancel) = (Root::open(&home.path("tree"), false).unwrap(), Cancel::default());
    // One that waits for ever ends with an error.
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let flag = cancel.flag();
    let watch = std::thread::spawn(move || flag.store(ended.recv_timeout(PATIENCE).is_err(), Ordering::SeqCst));
    let run = one_by_one(source, writer, &cancel).run(CommitInfo::default(), TreeInfo::default());
    let _ = done.send(());
    watch.join().unwrap();
    let (_, counts) = run.unwrap();
    assert_eq!((counts.files, counts.missing), (4, 0));
}

/// All names of a file go while the tree is read, and its number is given to another one, whose names the walk comes to.
#[test]
fn a_number_that_is_given_anew_makes_no_link() {
    let volume = Volume::ext4(32);
    let at = |name: &str| volume.path().join(name);
    // Large enough to have chunks of their own; those that come next complete a pack, whose storing is the moment.
    let (one, more) = (noise(1, 100_000), noise(2, 8 << 20));
    files(&at("tree"), &[("a/one", &one), ("a/two", &more), ("b/gap", b"")]);
    fs::hard_link(at("tree/a/one"), at("outside")).unwrap();
    let number = fs::metadata(at("outside")).unwrap().ino();
    let storage = Meddling::new(Arc::new(Memory::default()), true);
    let repository = init(storage.clone()).unwrap();
    let writer = TreeWriter::start(&repository, index(), &options("t")).unwrap();
    let swapped = Arc::new(AtomicBool::new(false));
    let (swap, root) = (swapped.clone(), volume.path());
    storage.meddle(move |call, key| {
        if call == Call::Write && key.starts_with("packs/") && !swap.swap(true, Ordering::SeqCst) {
            let at = |name: &str| root.join(name);
            fs::remove_file(at("tree/a/one")).unwrap();
            fs::remove_file(at("outside")).unwrap();
            fs::write(at("tree/b/new"), noise(3, 80_000)).unwrap();
            fs::hard_link(at("tree/b/new"), at("outside")).unwrap();
        }
        Fate::Done
    });
    let (source, cancel) = (Root::open(&at("tree"), false).unwrap(), Cancel::default());
    let work = one_by_one(source, writer, &cancel);
    let (snapshot, counts) = work.run(CommitInfo::default(), TreeInfo::default()).unwrap();
    assert!(swapped.load(Ordering::SeqCst), "no pack was stored before the end");
    assert_eq!(counts.missing, 0, "{counts:?}");
    let new = fs::metadata(at("tree/b/new")).unwrap();
    assert_eq!(new.ino(), number, "ext4 gives the lowest number that is free");
    let reader = TreeReader::open(&repository, &snapshot).unwrap();
    let below = |known: &What| match known {
        What::Folder { below: Some(below), .. } => *below,
        other => panic!("{other:?}"),
    };
    let find = |folder: &What, name: &str| match reader.find(&below(folder), name.as_bytes()).unwrap() {
        Some((_, Entry::Known(known))) => *known,
        other => panic!("{name}: {other:?}"),
    };
    let root = reader.root().what.clone();
    let (one, new) = (find(&find(&root, "a").what, "one"), find(&find(&root, "b").what, "new"));
    assert_eq!((one.inode, one.links), (number, NonZeroU64::new(2)));
    assert_eq!((new.inode, new.links), (number, NonZeroU64::new(2)));
    let size = |what: &What| match what {
        What::File { size, .. } => *size,
        other => panic!("{other:?}"),
    };
    assert_eq!((size(&one.what), size(&new.what)), (100_000, 80_000), "the new file was taken for the one that went");
}

#[test]
fn what_is_mounted_in_the_tree_is_left_out_and_counted() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("d/under", b"1"), ("f", b"2"), ("kept", b"3")]);
    files(&home.path("over"), &[("d/secret", b"4"), ("f", b"5")]);
    let bound = [(home.path("over/d"), home.path("tree/d")), (home.path("over/f"), home.path("tree/f"))];
    let bound: Vec<_> = bound.iter().map(|(from, at)| (from.as_path(), at.as_path())).collect();
    let run = |flags: &[&str]| {
        let args = [&["backup", "tree", "--name", "t", "--json", "-v"], flags].concat();
        home.ran(home.command_with_bound(&bound).args(args).output().unwrap()).ok()
    };
    let names = || {
        home.run(&["restore", "latest:t", "copy", "-q"]).ok();
        let names: Vec<_> = wherry_tests::trees::list(&home.path("copy")).into_keys().collect();
        fs::remove_dir_all(home.path("copy")).unwrap();
        names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
    };
    let ran = run(&[]);
    let report = ran.json();
    assert_eq!((&report["boundaries"], &report["partial"]), (&2.into(), &false.into()), "{report}");
    has(&ran.stderr, &["d: another filesystem is mounted there, and left out", "f: something of another filesystem"]);
    assert_eq!(names(), ["", "d", "kept"], "neither what is over it nor what is below");
    let ran = run(&["--all-filesystems"]);
    assert_eq!(ran.json()["boundaries"], 0, "{ran:?}");
    assert_eq!(names(), ["", "d", "d/secret", "f", "kept"]);
    let without = backup(&home, "tree", &[]);
    assert_eq!(without["boundaries"], 0, "{without}");
}
