//! What becomes of files that are no more what the walk saw.

use super::*;
use crate::progress::Screen;
use crate::signals::Cancel;
use crate::tree::dir::Root;
use crossbeam_channel::bounded;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use wherry_repo::index::ChunkIndex;
use wherry_repo::storage::Memory;
use wherry_repo::{Components, Credential, InitOptions, PasswordCost, Repository, System, TreeWriter, WriterOptions};

/// Reads a file as a worker does, into a repository of its own.
fn read(job: &Job) -> Read {
    let system = Arc::new(System::default());
    let components = Components { storage: Arc::new(Memory::default()), clock: system.clone(), rng: system };
    let mut options = InitOptions::default();
    options.password_cost = PasswordCost::new(8, 1);
    let password = Credential::Password("x".to_owned().into());
    let repository = Repository::init(components, &options, &password).unwrap();
    let options = WriterOptions { name: "tree".into(), pack_size: 1 << 20, ..WriterOptions::default() };
    let writer = TreeWriter::start(&repository, Arc::new(ChunkIndex::in_memory(1 << 20)), &options).unwrap();
    let windows = bounded(1);
    windows.0.send(vec![0; WINDOW]).unwrap();
    let progress = Screen::new(true, true).progress("backup", None);
    let (cancel, stop) = (Cancel::default(), AtomicBool::new(false));
    let shared = Shared {
        writer: &writer,
        windows,
        throttle: None,
        progress: &progress,
        cancel: &cancel,
        stop: &stop,
        depth: 0,
        rings: AtomicUsize::new(0),
        told: AtomicBool::new(false),
        workers: 1,
    };
    let read = shared.read_file(job, &mut writer.scratch(MAX_PIECE as usize).unwrap()).unwrap();
    drop(shared);
    writer.abandon().unwrap();
    read
}

/// The file of this name as the walk hands it out.
fn seen(dir: &Arc<Dir>, name: &[u8]) -> Job {
    let seen = dir.look(name).unwrap().inode;
    Job { at: 0, dir: dir.clone(), name: name.to_vec(), seen, parent: None }
}

fn root(path: &Path) -> Arc<Dir> {
    Root::open(path, false).unwrap().dir().clone()
}

#[test]
fn permissions_are_as_new_as_the_content() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("file");
    fs::write(&path, "open to all").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let job = seen(&root(scratch.path()), b"file");
    assert!(read(&job).fresh.is_none(), "nothing has changed");
    // The kernel's clock has ticks: as often as it takes until the ctime is another one.
    fs::write(&path, "a secret").unwrap();
    while job.dir.look(b"file").unwrap().inode.changed == job.seen.changed {
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let read = read(&job);
    assert!(matches!(&read.data, Data::Small(bytes) if bytes == b"a secret"), "{read:?}");
    let now = read.fresh.as_ref().map_or(&job.seen, |look| &look.inode);
    assert_eq!((now.permissions, now.changed), (0o600, read.stamp.changed), "a secret with the rights of what it was");
}

#[test]
fn a_name_that_is_gone_is_not_one_whose_directory_is_elsewhere() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    for name in ["gone", "kept"] {
        fs::create_dir_all(at("d")).unwrap();
        fs::write(at("d").join(name), name).unwrap();
    }
    let root = root(scratch.path());
    let look = root.look(b"d").unwrap();
    // As often as it is said, a directory that has to be opened again.
    let d = || root.below(c"d", 0, &look);
    let (gone, kept) = (seen(&d(), b"gone"), seen(&d(), b"kept"));
    fs::remove_file(at("d/gone")).unwrap();
    assert!(matches!(read(&Job { dir: d(), ..gone }).data, Data::Gone));
    let data =
        |job: &Job| read(&Job { dir: d(), name: job.name.clone(), seen: job.seen.clone(), at: 0, parent: None }).data;
    assert!(matches!(data(&kept), Data::Small(bytes) if bytes == b"kept"));
    let stale = Some(Errno::STALE.raw_os_error().unsigned_abs());
    let missing = |data: Data| match data {
        Data::Missing(errno) => Some(errno.get()),
        _ => None,
    };
    fs::rename(at("d"), at("elsewhere")).unwrap();
    assert_eq!(missing(data(&kept)), stale, "the file is there still, under a name that may never be met");
    fs::create_dir(at("d")).unwrap();
    assert_eq!(missing(data(&kept)), stale, "another directory has taken the name");
    fs::write(at("d/kept"), "of another one").unwrap();
    assert_eq!(missing(data(&kept)), stale, "and has a file of that name");
}
