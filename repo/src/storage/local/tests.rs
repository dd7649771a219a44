use super::*;
use rustix::fs::FlockOperation;
use std::os::unix::fs::PermissionsExt;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_root_is_made_by_the_first_write_only() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/b/repo");
    let local = Local::new(&root, false);
    assert_eq!(local.get(&key("repo.json")).unwrap_err().kind(), ErrorKind::NotFound);
    local.list("", &mut |_| panic!("nothing to visit")).unwrap();
    local.delete(&key("repo.json")).unwrap();
    assert!(!root.exists());

    local.create(&key("packs/aa/x"), Bytes::from_static(b"1")).unwrap();
    let mode = |path: &str| root.join(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode(""), mode("packs"), mode("packs/aa"), mode("_tmp")], [0o700; 4]);
    assert_eq!(mode("packs/aa/x"), 0o600);
}

/// A disk or server may hang between the writing and the naming, and a process be stopped: nobody has heard of it before.
#[test]
fn an_object_is_as_old_as_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path(), false);
    local.create(&key("snap/before"), Bytes::from_static(b"1")).unwrap();
    let written = std::fs::File::create(folder.path().join("snap/file")).unwrap();
    written.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000)).unwrap();
    std::fs::rename(folder.path().join("snap/file"), folder.path().join("snap/after")).unwrap();
    let at = |name: &str| local.head(&key(name)).unwrap().modified;
    assert!(at("snap/after") >= at("snap/before"), "{:?} {:?}", at("snap/after"), at("snap/before"));
    let mut listed = Vec::new();
    let mut visit = |found: Listed| {
        listed.push(found.modified);
        Ok(())
    };
    local.list("snap/", &mut visit).unwrap();
    assert!(listed.iter().all(|modified| *modified >= at("snap/before")), "{listed:?}");
}

#[test]
fn many_folders_are_listed_whole_and_an_error_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path(), false);
    let mut all = Vec::new();
    for n in 0..100 {
        for object in 0..n % 4 {
            let key = key(&format!("snap/{n:02x}/{object}"));
            std::fs::create_dir_all(folder.path().join(format!("snap/{n:02x}"))).unwrap();
            std::fs::write(folder.path().join(key.as_str()), "1").unwrap();
            all.push(key);
        }
    }
    all.sort();
    for prefix in ["", "snap/"] {
        let mut found = Vec::new();
        let mut visit = |listed: Listed| {
            found.push(listed.key);
            Ok(())
        };
        local.list(prefix, &mut visit).unwrap();
        found.sort();
        assert_eq!(found, all);
    }
    let mut seen = 0;
    let enough = || Err(Error::internal("enough"));
    let ended = local.list("snap/", &mut |_| {
        seen += 1;
        if seen == 3 { enough() } else { Ok(()) }
    });
    assert_eq!((ended.unwrap_err().kind(), seen), (ErrorKind::Internal, 3));
}

/// Root may be at work in the folder of another user, who must not lead it elsewhere.
#[test]
fn links_in_place_of_folders_are_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let (root, elsewhere) = (place.path().join("repo"), place.path().join("elsewhere"));
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("open"), "not ours").unwrap();
    let first = Local::new(&root, false);
    first.create(&key("sess/aa/open"), Bytes::new()).unwrap();
    let link = |name: &str| {
        let path = root.join(name);
        std::fs::rename(&path, place.path().join("away")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let away = place.path().join("away");
        move || {
            std::fs::remove_file(&path).unwrap();
            std::fs::rename(away, &path).unwrap();
        }
    };
    for (folder, object) in [("_tmp", "sess/aa/beat"), ("sess/aa", "sess/aa/beat"), ("sess", "sess/aa/beat")] {
        let back = link(folder);
        // A new process, which sweeps first, and one that knows the folders already.
        for local in [&Local::new(&root, false), &first] {
            assert!(local.create(&key(object), Bytes::from_static(b"1")).is_err(), "{folder}");
            let _ = local.delete(&key("sess/aa/open"));
        }
        assert_eq!(names(&elsewhere), ["open"], "{folder}");
        back();
    }
    // A file that has another name too is not emptied for a lock.
    std::fs::hard_link(elsewhere.join("open"), root.join("_lock")).unwrap();
    assert!(first.lock("me").is_err());
    assert_eq!(std::fs::read(elsewhere.join("open")).unwrap(), b"not ours");
}

#[test]
fn aligned_and_odd_bodies_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path(), false);
    let raw: Vec<u8> = (0..(3u32 << 20)).flat_map(|n| n.to_le_bytes()).collect();
    let raw = Bytes::from(raw);
    let start = raw.as_ptr().align_offset(4096);
    let cases = [(0, 2 << 20), (0, (2 << 20) + 1), (0, (1 << 20) + 4095), (8, 2 << 20), (0, 0), (1, 4097)];
    for (n, (shift, len)) in cases.into_iter().enumerate() {
        let body = raw.slice(start + shift..start + shift + len);
        let key = key(&format!("x/{n}"));
        local.create(&key, body.clone()).unwrap();
        assert!(local.get(&key).unwrap() == body, "case {n}");
        assert_eq!(local.head(&key).unwrap().size, len as u64);
    }
    assert_eq!(names(&folder.path().join("_tmp")), Vec::<String>::new());
}

#[test]
fn what_a_dead_process_left_is_removed_and_work_under_way_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let tmp = folder.path().join("_tmp");
    std::fs::create_dir(&tmp).unwrap();
    std::fs::write(tmp.join("0000000000000001"), b"left behind").unwrap();
    let live = std::fs::File::create(tmp.join("0000000000000002")).unwrap();
    rustix::fs::flock(&live, FlockOperation::NonBlockingLockExclusive).unwrap();

    let local = Local::new(folder.path(), false);
    local.list("", &mut |found| panic!("{found:?} is no object")).unwrap();
    assert_eq!(names(&tmp).len(), 2, "readers remove nothing");
    local.create(&key("a"), Bytes::new()).unwrap();
    assert_eq!(names(&tmp), ["0000000000000002"]);
}

#[test]
fn an_emptied_folder_goes_and_can_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path(), false);
    for _ in 0..2 {
        local.create(&key("sess/ab/open"), Bytes::from_static(b"1")).unwrap();
        local.create(&key("sess/ab/beat"), Bytes::from_static(b"1")).unwrap();
        local.delete(&key("sess/ab/open")).unwrap();
        assert!(folder.path().join("sess/ab").exists());
        local.delete(&key("sess/ab/beat")).unwrap();
        assert!(!folder.path().join("sess/ab").exists());
        assert!(folder.path().join("sess").exists());
    }
    // Removed by somebody else: the folder is made again.
    local.create(&key("sess/cd/open"), Bytes::new()).unwrap();
    std::fs::remove_dir_all(folder.path().join("sess")).unwrap();
    local.create(&key("sess/cd/open"), Bytes::new()).unwrap();
}

#[test]
fn strangers_are_not_listed_and_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path(), false);
    local.create(&key("a/b"), Bytes::from_static(b"1")).unwrap();
    std::fs::create_dir(folder.path().join("lost+found")).unwrap();
    std::fs::write(folder.path().join("a/Readme"), b"").unwrap();
    std::os::unix::fs::symlink("b", folder.path().join("a/link")).unwrap();
    let mut seen = Vec::new();
    local
        .list("", &mut |found| {
            seen.push(found.key.to_string());
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, ["a/b"]);
    for wrong in ["a", "a/link"] {
        assert_eq!(local.get(&key(wrong)).unwrap_err().kind(), ErrorKind::Corrupt, "{wrong}");
    }
}

#[test]
fn a_file_that_may_not_be_so_long_says_what_to_do() {
    let error = Local::new("/nowhere", false).failed_on("write", "packs/a", Errno::FBIG);
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("ulimit -f"), "{error}");
}

#[test]
fn ranges_outside_an_object_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path(), false);
    local.create(&key("a"), Bytes::from_static(b"0123")).unwrap();
    assert_eq!(&local.get_range(&key("a"), 1..3).unwrap()[..], b"12");
    assert_eq!(&local.get_range(&key("a"), 4..4).unwrap()[..], b"");
    for range in [3..5, 5..5, 0..u64::MAX] {
        assert_eq!(local.get_range(&key("a"), range).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is the case")]
    let reversed = 2..1;
    assert_eq!(local.get_range(&key("a"), reversed).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(&local.get_tail(&key("a"), 9).unwrap().bytes[..], b"0123");
}

/// Else the owner could not list the sessions, and so back up nothing, while root has a disk mounted.
#[test]
fn what_root_makes_in_a_folder_of_another_user_is_that_users() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let local = Local::new(folder.path(), true);
    local.create(&key("sess/aa/open"), Bytes::from_static(b"1")).unwrap();
    local.overwrite(&key("sess/aa/beat"), Bytes::from_static(b"1")).unwrap();
    let _lock = local.lock("root").unwrap().unwrap();
    let owner = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        let metadata = folder.path().join(path).metadata().unwrap();
        (metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o7777)
    };
    for made in ["sess", "sess/aa", "_tmp"] {
        assert_eq!(owner(made), (NOBODY, NOBODY, 0o700), "{made}");
    }
    for made in ["sess/aa/open", "sess/aa/beat", "_lock"] {
        assert_eq!(owner(made), (NOBODY, NOBODY, 0o600), "{made}");
    }
    // Whose a folder is that is there already is not for us to say.
    std::os::unix::fs::chown(folder.path().join("sess"), Some(0), Some(0)).unwrap();
    Local::new(folder.path(), true).create(&key("sess/bb/open"), Bytes::from_static(b"1")).unwrap();
    assert_eq!((owner("sess").0, owner("sess/bb").0, owner("sess/bb/open").0), (0, 0, 0));
    // But one that was left half-made by a root that was killed is in nobody's way for ever.
    let left = folder.path().join("gc");
    std::fs::create_dir(&left).unwrap();
    std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o705)).unwrap();
    Local::new(folder.path(), true).create(&key("gc/lead/aa"), Bytes::from_static(b"1")).unwrap();
    assert_eq!([owner("gc"), owner("gc/lead")], [(NOBODY, NOBODY, 0o700); 2]);
}

/// Whoever brings it into memory, or waits for it, is at its mercy.
#[test]
fn a_wild_length_and_a_pipe_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Local::new(folder.path(), false);
    for (key, most) in [("snap/a", 1 << 30), ("sess/a/open", 16 << 20), ("repo.json", 16 << 20)] {
        let key = Key::new(key).unwrap();
        storage.create(&key, Bytes::from_static(b"sound")).unwrap();
        let file = std::fs::File::options().write(true).open(folder.path().join(key.as_str())).unwrap();
        for len in [most + 1, 8 << 40] {
            file.set_len(len).unwrap();
            let error = storage.get(&key).unwrap_err();
            assert!(error.kind() == ErrorKind::Corrupt && error.object() == Some(key.as_str()), "{error}");
            assert_eq!(storage.get_range(&key, 0..5).unwrap(), "sound");
        }
    }
    let pipe = folder.path().join("snap/pipe");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let key = Key::new("snap/pipe").unwrap();
    assert_eq!(storage.get(&key).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(storage.head(&key).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Whoever takes a pack for damaged stores anew what it holds, and leaves out of a restore what it cannot find elsewhere.
#[test]
fn only_what_a_medium_says_is_damage() {
    let local = Local::new("/nowhere", false);
    let is_damage = |storage: &dyn Storage, errno| {
        let error = local.failed(READ, &key("packs/a"), errno);
        let (kind, context) = (error.kind(), error.context("while reading"));
        (kind, super::super::is_damage(storage, &context))
    };
    for errno in [Errno::IO, Errno::BADMSG, Errno::UCLEAN] {
        assert_eq!(is_damage(&local, errno), (ErrorKind::Unavailable, true), "{errno:?}");
        assert!(!is_damage(&super::super::Memory::default(), errno).1, "{errno:?} elsewhere");
    }
    for errno in [Errno::STALE, Errno::TIMEDOUT, Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
        assert_eq!(is_damage(&local, errno), (ErrorKind::Unavailable, false), "{errno:?}");
    }
    assert_eq!(is_damage(&local, Errno::ACCESS), (ErrorKind::Denied, false));
}

/// Of what is not there nothing is to be kept; what cannot be asked for is told.
#[test]
fn what_others_have_named_is_made_durable() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path(), false);
    let ask = |keys: &[&str]| local.make_durable(&mut keys.iter().map(|name| key(name)));
    local.create(&key("packs/aa/1"), Bytes::from_static(b"1")).unwrap();
    local.create(&key("repo.json"), Bytes::from_static(b"1")).unwrap();
    ask(&[]).unwrap();
    ask(&["packs/aa/1", "packs/aa/2", "packs/bb/1", "snap/aa/1", "repo.json"]).unwrap();
    assert!(!folder.path().join("packs/bb").exists(), "nothing is made");
    let error = ask(&["packs/aa/1", "repo.json/1"]).unwrap_err();
    assert!(error.to_string().contains("make durable"), "{error}");
}
