//! Folders on filesystems that are full, read-only, or lack what a create needs; and what a killed process leaves.

use super::{Storage, conforms, failed, key};
use bytes::Bytes;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use wherry_repo::ErrorKind;
use wherry_repo::storage::conformance::{self, Options, body_of};
use wherry_repo::storage::{Key, Local};
use wherry_tests::nolinks::NoLinks;
use wherry_tests::volumes::{Volume, fill};

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn a_full_filesystem_says_so_and_goes_on_when_there_is_room() {
    let volume = Volume::ext4(8);
    let local = Local::new(volume.path().join("repo"), false);
    // Through the cache, directly, directly with an odd end: all fill it up.
    for (n, len) in [100, 1 << 20, (1 << 20) + 1].into_iter().enumerate() {
        let mut made: Vec<Key> = Vec::new();
        let error = loop {
            let key = key(&format!("packs/{n}/{}", made.len()));
            match local.create(&key, body_of(0, n as u32, len)) {
                Ok(()) => made.push(key),
                Err(error) => break error,
            }
            if len == 100 {
                // Small ones would take long: leave no room for them.
                fill(&volume.path().join("filler"));
            }
        };
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("{len} bytes were to be written")) && text.contains(" free"), "{text}");
        assert_eq!(files(&volume.path().join("repo/_tmp")), 0, "nothing half-made is left");
        for key in &made {
            assert!(local.get(key).unwrap() == body_of(0, n as u32, len));
        }
        let _ = std::fs::remove_file(volume.path().join("filler"));
        let next = key(&format!("packs/{n}/{}", made.len()));
        made.iter().for_each(|key| local.delete(key).unwrap());
        local.create(&next, body_of(0, n as u32, len)).unwrap();
        local.delete(&next).unwrap();
    }
}

#[test]
fn a_read_only_filesystem_can_be_read_and_says_how_to_write() {
    let volume = Volume::ext4(8);
    let path = volume.path().join("repo");
    Local::new(&path, false).create(&key("a/b"), Bytes::from_static(b"1")).unwrap();
    volume.remount("ro");
    let local = Local::new(&path, false);
    assert_eq!(&local.get(&key("a/b")).unwrap()[..], b"1");
    local.list("", &mut |_| Ok(())).unwrap();
    for error in [
        local.create(&key("a/c"), Bytes::new()).unwrap_err(),
        local.overwrite(&key("a/b"), Bytes::new()).unwrap_err(),
        local.delete(&key("a/b")).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains("mount the filesystem read-write"), "{error}");
    }
}

#[test]
fn without_links_one_writer_at_a_time_works_and_many_are_refused() {
    let nolinks = NoLinks::mount();
    let many = Local::new(nolinks.path(), false);
    let error = many.create(&key("a/b"), Bytes::from_static(b"1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("--single-writer"), "{error}");
    many.list("", &mut |found| panic!("{found:?} was made although it was refused")).unwrap();
    many.overwrite(&key("sess/a/beat"), Bytes::from_static(b"1")).unwrap();
    many.delete(&key("sess/a/beat")).unwrap();

    let report = conformance::run(&|| Ok(Arc::new(Local::new(nolinks.path(), false))), &Options::SHORT).unwrap();
    assert!(!report.many_writers());

    let single: Arc<dyn Storage> = Arc::new(Local::new(nolinks.path(), true));
    // Alone, it keeps all of the contract.
    conforms(&|| Ok(Arc::clone(&single)), &Options { racers: 1, objects: 50, ..Options::SHORT });
    single.create(&key("a/b"), Bytes::from_static(b"1")).unwrap();
    assert_eq!(single.create(&key("a/b"), Bytes::from_static(b"2")).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(&many.get(&key("a/b")).unwrap()[..], b"1");
    assert!(!failed(&report).is_empty());
}

const ROOT: &str = "WHERRY_TEST_DENIED_ROOT";

/// Not a test: what another user meets.
#[test]
fn other_user() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let local = Local::new(&root, false);
    for error in [
        local.get(&key("a/b")).unwrap_err(),
        local.create(&key("a/c"), Bytes::new()).unwrap_err(),
        local.list("", &mut |_| Ok(())).unwrap_err(),
    ] {
        println!("told {:?} {error}", error.kind());
    }
}

#[test]
fn a_folder_of_somebody_else_is_denied() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repo");
    Local::new(&root, false).create(&key("a/b"), Bytes::new()).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // The other user may not be able to come to where this binary lies.
    let exe = folder.path().join("exe");
    std::fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&exe)
        .args(["--exact", "filesystems::other_user", "--nocapture"])
        .env(ROOT, &root)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let told: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once("told ")?.1)).collect();
    assert_eq!(told.len(), 3, "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.iter().all(|t| t.starts_with("Denied") && t.contains("run as the owner")), "{told:?}");
}

const KILLED: &str = "WHERRY_TEST_KILLED_ROOT";

/// Not a test: writes until it is killed.
#[test]
fn endless_writer() {
    let Ok(root) = std::env::var(KILLED) else { return };
    let local = Local::new(&root, false);
    for n in 0.. {
        local.create(&key(&format!("packs/{n}")), body_of(n, 0, 4 << 20)).unwrap();
        println!("wrote {n}");
    }
}

#[test]
fn a_killed_writer_leaves_whole_objects_and_its_rest_is_swept() {
    use std::io::BufRead;
    let folder = tempfile::tempdir().unwrap();
    let mut rests = 0;
    for round in 0..10 {
        let root = folder.path().join(format!("{round}"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "filesystems::endless_writer", "--nocapture"])
            .env(KILLED, &root)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = lines.filter_map(|line| Some(line.unwrap().split_once("wrote ")?.1.parse::<u32>().unwrap()));
        let last = told.by_ref().nth(2).unwrap();
        child.kill().unwrap();
        let last = told.last().unwrap_or(last);
        child.wait().unwrap();
        rests += files(&root.join("_tmp"));

        let local = Local::new(&root, false);
        let mut found = 0;
        local
            .list("packs/", &mut |listed| {
                let n: u32 = listed.key.as_str().trim_start_matches("packs/").parse().unwrap();
                assert!(local.get(&listed.key)? == body_of(n, 0, 4 << 20), "object {n} is not whole");
                found += 1;
                Ok(())
            })
            .unwrap();
        assert!(found > last, "{found} objects, but number {last} was acknowledged");
        local.create(&key("next"), Bytes::new()).unwrap();
        assert_eq!(files(&root.join("_tmp")), 0);
    }
    println!("{rests} of 10 kills hit a write");
}
