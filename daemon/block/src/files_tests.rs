//! A ring answers as the system calls do: for any names, in any number, whatever stands behind them.

use super::*;
use proptest::prelude::*;
use rustix::fs::Mode;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn resolve() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// What a name of the tests stands for; its number is its name.
#[derive(Clone, Debug)]
enum Thing {
    File(usize),
    Folder,
    Link,
    Above,
    Nothing,
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        6 => (0usize..70_000).prop_map(Thing::File),
        1 => Just(Thing::Folder),
        1 => Just(Thing::Link),
        1 => Just(Thing::Above),
        1 => Just(Thing::Nothing),
    ]
}

fn make(root: &Path, number: usize, thing: &Thing) -> CString {
    let path = root.join(number.to_string());
    match thing {
        Thing::File(len) => std::fs::write(&path, vec![number as u8 + 1; *len]).unwrap(),
        Thing::Folder => std::fs::create_dir(&path).unwrap(),
        Thing::Link => symlink("0", &path).unwrap(),
        Thing::Above => return c"..".to_owned(),
        Thing::Nothing => {}
    }
    CString::new(number.to_string()).unwrap()
}

/// The same by system calls, one after the other.
fn plain(dir: &OwnedFd, name: &CString, len: usize) -> Result<Result<Vec<u8>, Errno>, Errno> {
    let file = rustix::fs::openat2(dir, name, FLAGS, Mode::empty(), resolve())?;
    let mut buffer = vec![0; len];
    Ok(rustix::io::pread(&file, &mut buffer, 0).map(|got| {
        buffer.truncate(got);
        buffer
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn both_ways_give_the_same(things in prop::collection::vec((thing(), 0usize..80_000), 0..90), depth in 1usize..40) {
        let dir = tempfile::tempdir().unwrap();
        let fd = Arc::new(OwnedFd::from(std::fs::File::open(dir.path()).unwrap()));
        let names: Vec<_> = things.iter().enumerate().map(|(n, (thing, _))| make(dir.path(), n, thing)).collect();
        let mut ring = FileRing::open(depth).unwrap();
        let wanted = names.iter().map(|name| ToOpen { dir: fd.clone(), name: name.clone() }).collect();
        let opened = ring.open_all(wanted, FLAGS, resolve());
        prop_assert_eq!(opened.len(), things.len());
        let files: Vec<_> =
            opened.iter().zip(&things).filter_map(|(file, (_, len))| Some((file.as_ref().ok()?.as_fd(), *len))).collect();
        // None stands for another.
        let numbers: BTreeSet<i32> = files.iter().map(|(file, _)| file.as_raw_fd()).collect();
        prop_assert_eq!(numbers.len(), files.len());
        let mut read = ring.read_all(&files).into_iter();
        for (n, ((file, name), (_, len))) in opened.iter().zip(&names).zip(&things).enumerate() {
            let ours = file.as_ref().map(|_| read.next().unwrap()).map_err(|errno| *errno);
            prop_assert_eq!(ours, plain(&fd, name, *len), "number {}", n);
        }
        prop_assert!(read.next().is_none());
    }
}

#[test]
fn a_ring_that_is_lost_answers_nothing_and_frees_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), b"abc").unwrap();
    let fd = Arc::new(OwnedFd::from(std::fs::File::open(dir.path()).unwrap()));
    let mut ring = FileRing::open(4).unwrap();
    let file = std::fs::File::open(dir.path().join("a")).unwrap();
    ring.lost = true;
    let opened = ring.open_all(vec![ToOpen { dir: fd.clone(), name: c"a".to_owned() }], FLAGS, resolve());
    assert!(matches!(opened[..], [Err(Errno::CANCELED)]));
    assert_eq!(Arc::strong_count(&fd), 2, "what the kernel may still use was let go");
    assert_eq!(ring.read_all(&[(file.as_fd(), 3)]), [Err(Errno::CANCELED)]);
}

#[test]
fn a_kernel_that_does_not_know_how_to_save_switches_reads_all_the_same() {
    let error = |errno| Err(io::Error::from_raw_os_error(errno));
    let why = set_up(8, |_| error(libc::EPERM)).map(drop).unwrap_err();
    assert!(why.starts_with("io_uring_setup: ") && why.contains("kernel.io_uring_disabled"), "{why}");
    let mut asked = 0;
    let old = set_up(8, |entries| {
        asked = entries;
        error(libc::EINVAL)
    });
    assert_eq!(asked, 8);
    let mut ring = FileRing::with(8, old.unwrap()).unwrap();
    let files: Vec<_> = (0..20).map(|n| (tempfile::tempfile().unwrap(), n)).collect();
    files.iter().for_each(|(file, n)| std::os::unix::fs::FileExt::write_all_at(file, &[*n; 5000], 0).unwrap());
    let wanted: Vec<_> = files.iter().map(|(file, _)| (file.as_fd(), 5000)).collect();
    assert!(ring.read_all(&wanted) == (0..20).map(|n| Ok(vec![n; 5000])).collect::<Vec<_>>());
}

#[test]
fn a_kernel_short_of_memory_is_asked_again_and_not_for_ever() {
    let error = io::Error::from_raw_os_error;
    for errno in [libc::EAGAIN, libc::EBUSY] {
        let mut idle = Idle::default();
        for _ in 0..PATIENCE {
            // Signals say nothing about the kernel.
            assert!(idle.bears(&error(errno)) && idle.bears(&error(libc::EINTR)));
        }
        assert!(!idle.bears(&error(errno)), "{errno}");
    }
    assert!([libc::EIO, libc::EBADF, libc::ENOMEM].iter().all(|errno| !Idle::default().bears(&error(*errno))));
}
