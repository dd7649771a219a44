//! Filesystems that do not do as others do: as sources and as targets.

use super::{backup, files, has};
use crate::harness::{Home, Ran};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use wherry_tests::nolinks::{NoLinks, Quirks};
use wherry_tests::small::noise;

/// Ended with code 3 and a result.
#[track_caller]
fn partly(ran: &Ran) -> Value {
    assert_eq!(ran.code, 3, "stdout: {}\nstderr: {}", ran.stdout, ran.stderr);
    ran.json()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What was just restored has the name that the target knew. Numbers of inodes do not tell which one that is, where a
/// filesystem may make them up: there all stays that is beside it.
#[test]
fn delete_spares_what_the_target_knows_by_another_spelling() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("README", b"new"), ("Dir/File", b"new"), ("same/same", b"new")]);
    backup(&home, "tree", &[]);
    for numbers_names in [true, false] {
        let target = NoLinks::with(Quirks { folds: true, numbers_names, ..Quirks::default() });
        let at = |name: &str| target.path().join(name);
        files(target.path(), &[("readme", b"old"), ("dir/file", b"old"), ("same/same", b"old"), ("beside", b"x")]);
        files(target.path(), &[("same/extra", b"x"), ("same/more/extra", b"x")]);
        let flags = ["--overwrite", "always", "--delete", "--json"];
        let ran = home.run(&[&["restore", "latest:t", text(target.path())], &flags[..]].concat());
        for name in ["readme", "dir/file", "same/same"] {
            assert_eq!(fs::read_to_string(at(name)).ok().as_deref(), Some("new"), "{name}: {ran:?}");
        }
        assert!(at("beside").exists() && !at("same/extra").exists() && !at("same/more").exists(), "{ran:?}");
        let report = partly(&ran);
        assert_eq!((&report["removed"], &report["skipped"]), (&3.into(), &3.into()), "{report}");
        for name in ["readme", "dir", "beside"] {
            has(
                &ran.stderr,
                &[&format!("not restored: {name}: another name of the snapshot is the same in the target")],
            );
        }
    }
}

#[test]
fn what_the_target_loses_after_the_last_write_gets_no_name() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("d/file", b"data")]);
    backup(&home, "tree", &[]);
    let quirks = [Quirks { fails_sync: true, ..Quirks::default() }, Quirks { fails_close: true, ..Quirks::default() }];
    for quirks in quirks {
        let said = format!("{quirks:?}");
        let target = NoLinks::with(quirks);
        let ran = home.run(&["restore", "latest:t", text(target.path()), "--overwrite", "always"]);
        assert_eq!(ran.code, 1, "{said}: {ran:?}");
        has(&ran.stderr, &["d/file: making it durable: ", "quota"]);
        assert!(!target.path().join("d/file").exists(), "{said}");
    }
    let target = NoLinks::mount();
    home.run(&["restore", "latest:t", text(target.path()), "--overwrite", "always"]).ok();
    assert_eq!(fs::read(target.path().join("d/file")).unwrap(), b"data");
}

#[test]
fn a_name_that_is_listed_and_not_found_is_missing() {
    let home = Home::with_repository();
    let source = NoLinks::with(Quirks { unfound: Some("unfound"), ..Quirks::default() });
    files(source.path(), &[("d/a", b"1"), ("d/unfound", b"2"), ("d/z", b"3"), ("unfound", b"4")]);
    // More than are looked at in one go.
    (0..1100).for_each(|n| fs::write(source.path().join(format!("large{n}")), "").unwrap());
    let ran = home.run(&["backup", text(source.path()), "--name", "t", "--json"]);
    let report = partly(&ran);
    let missing: Vec<_> = report["missing_paths"].as_array().unwrap().iter().collect();
    let missing: Vec<_> = missing.iter().map(|m| (m["path"].as_str().unwrap(), m["errno"].as_i64().unwrap())).collect();
    assert_eq!(missing, [("d/unfound", 2), ("unfound", 2)], "{report}");
    assert_eq!(report["files"], 1102, "{report}");
}

#[test]
fn a_file_that_is_there_and_cannot_be_opened_is_missing_whatever_the_reason() {
    for engine in ["ring", "threads"] {
        let home = Home::with_repository();
        let source = NoLinks::mount();
        files(source.path(), &[("a", b"1"), ("shut", b"2"), ("z", b"3")]);
        source.shut(&source.path().join("shut"), fuser::Errno::ENOENT);
        let ran = home.run(&["backup", text(source.path()), "--name", "t", "--json", "--engine", engine]);
        let report = partly(&ran);
        let missing = &report["missing_paths"][0];
        assert_eq!((&report["missing"], &missing["errno"]), (&1.into(), &2.into()), "{report}");
        assert_eq!(missing["path"].as_str().unwrap().trim_start_matches('/'), "shut");
        assert_eq!(report["files"], 3, "{report}");
    }
}

/// An ACL may be what is missing: the bits of the group are its mask then.
#[test]
fn what_may_lack_its_acl_is_its_owners_alone() {
    let home = Home::with_repository();
    let source = NoLinks::with(Quirks { no_attributes: &["secret", "shut"], ..Quirks::default() });
    files(source.path(), &[("secret", b"1"), ("open", b"2"), ("shut/in", b"3")]);
    for (name, mode) in [("secret", 0o6775), ("open", 0o660), ("shut", 0o1775), ("shut/in", 0o664)] {
        fs::set_permissions(source.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let report = partly(&home.run(&["backup", text(source.path()), "--name", "t", "--json"]));
    assert_eq!((&report["missing"], &report["missing_paths"][0]["errno"]), (&2.into(), &5.into()), "{report}");
    let id = report["snapshot"].as_str().unwrap();
    let expected = [("secret", 0o700), ("open", 0o660), ("shut", 0o700), ("shut/in", 0o664)];
    let modes = |at: &Path| expected.map(|(name, _)| (name, fs::metadata(at.join(name)).unwrap().mode() & 0o7777));

    let restored = partly(&home.run(&["restore", id, "out", "--allow-partial", "--json"]));
    assert_eq!(modes(&home.path("out")), expected, "{restored}");
    let again = ["restore", id, "out", "--allow-partial", "--delta", "--dry-run", "--json"];
    let dry = partly(&home.run(&again));
    assert_eq!(dry["changes"].as_array().map(Vec::len).unwrap_or_default(), 0, "{dry}");

    fs::create_dir(home.path("unpacked")).unwrap();
    let dumped = home.command().args(["dump", id]).output().unwrap();
    home.write("tar", &dumped.stdout);
    assert_eq!(dumped.status.code(), Some(3));
    let tar = Command::new("tar").args(["-xpf", &home.text("tar"), "-C", &home.text("unpacked")]).status().unwrap();
    assert!(tar.success());
    assert_eq!(modes(&home.path("unpacked")), expected, "of the archive");

    fs::create_dir(home.path("mnt")).unwrap();
    let mut mount = home.spawn(&["mount", "mnt", id, "--foreground", "--allow-other"]);
    let shown = home.path("mnt/by-id").join(id).join("files");
    mount.until("the mount answers", || shown.join("open").exists());
    let seen = modes(&shown);
    mount.send(rustix::process::Signal::TERM);
    mount.end();
    assert_eq!(seen, expected, "of the mount");
}

/// As of a network filesystem whose server is lost meanwhile. One that was removed while it was listed is no error, and is
/// told from it by its links.
#[test]
fn a_listing_that_ends_as_if_the_folder_were_gone_is_not_all_of_it() {
    for folder in ["", "d/"] {
        let home = Home::with_repository();
        let source = NoLinks::with(Quirks { ends_early: Some(10), ..Quirks::default() });
        for n in 0..20 {
            files(source.path(), &[(&format!("{folder}{n:02}"), b"data")]);
        }
        let ran = home.run(&["backup", text(source.path()), "--name", "t", "--json"]);
        let report = partly(&ran);
        assert_eq!((&report["files"], &report["missing"]), (&10.into(), &1.into()), "{folder}: {report}");
        assert_eq!(report["missing_paths"][0]["errno"], 2, "{folder}: {report}");
    }
}

/// Writes "late" again and again at 4 MiB, says whether the filesystem has heard of data, and waits until its input ends: what is
/// closed is given to the filesystem, here also when a process begins.
const WRITER: &str = r#"open(F, "+<", $ARGV[0]) or die $!; $| = 1;
sysseek(F, 4 << 20, 0); syswrite(F, "late" x (32 << 10)) == 128 << 10 or die $!;
print defined(sysseek(F, 0, 3)) ? "heard\n" : "nothing\n"; <STDIN>;"#;

/// The kernel has it, and where the holes are is asked of who has not.
#[test]
fn what_a_filesystem_has_not_been_given_yet_is_no_hole() {
    let source = NoLinks::with(Quirks { writes_late: true, ..Quirks::default() });
    let disk = source.path().join("disk.raw");
    for engine in ["threads", "ring"] {
        for whole in [true, false] {
            let home = Home::with_repository();
            fs::File::create(&disk).unwrap().set_len(32 << 20).unwrap();
            let mut writer = Command::new("perl");
            let writer = writer.args(["-e", WRITER]).arg(&disk).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut writer = writer.spawn().unwrap();
            let mut said = String::new();
            BufReader::new(writer.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
            assert_eq!(said, "nothing\n");
            let of = if whole { &disk } else { source.path() };
            home.run(&["backup", text(of), "--name", "t", "--engine", engine]).ok();
            drop(writer.stdin.take());
            assert!(writer.wait().unwrap().success());
            home.run(&["restore", "latest:t", "out"]).ok();
            let out = if whole { home.path("out") } else { home.path("out/disk.raw") };
            let back = fs::read(out).unwrap();
            assert!(back[4 << 20..][..128 << 10] == *b"late".repeat(32 << 10), "{engine}, as a disk: {whole}");
            assert!(back.len() == 32 << 20 && back[..4 << 20].iter().all(|byte| *byte == 0));
        }
    }
}

/// What is said of it and what it holds are not of one moment.
#[test]
fn a_file_that_ends_before_its_end_is_not_settled() {
    let home = Home::with_repository();
    let source = NoLinks::mount();
    // One that shares a chunk, one that is cut into pieces, and a disk image.
    let mut image = noise(2, 2 << 20);
    image[510..512].copy_from_slice(b"\x55\xaa");
    files(source.path(), &[("small", &noise(1, 1000)), ("large", &noise(3, 300_000)), ("image", &image)]);
    let whole = backup(&home, text(source.path()), &[]);
    assert_eq!(whole["unsettled"], 0, "{whole}");
    for name in ["small", "large", "image"] {
        source.lengthen(&source.path().join(name), 100);
    }
    for engine in ["threads", "ring"] {
        let args = ["backup", text(source.path()), "--name", "t", "--json", "--force-read", "--engine", engine];
        let ran = home.run(&args).ok();
        assert_eq!(ran.json()["unsettled"], 3, "{engine}: {ran:?}");
        for name in ["small", "large", "image"] {
            has(&ran.stderr, &[&format!("{name}: changed each time it was read, or ended before its end")]);
        }
    }
}

/// Whether there is such a user is not known: the number may be another one's here.
#[test]
fn an_owner_that_cannot_be_asked_for_is_refused() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("of-daemon", b"1"), ("of-nobody-known", b"2")]);
    std::os::unix::fs::chown(home.path("tree/of-daemon"), Some(1), Some(0)).unwrap();
    std::os::unix::fs::chown(home.path("tree/of-nobody-known"), Some(3_999_999), Some(0)).unwrap();
    fs::set_permissions(home.path("tree/of-daemon"), std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    backup(&home, "tree", &[]);
    let odd = NoLinks::mount();
    files(odd.path(), &[("passwd", b"")]);
    let passwd = odd.path().join("passwd");
    odd.shut(&passwd, fuser::Errno::EIO);
    // Where another service is asked behind it, that one's answer counts.
    home.write("nsswitch", "passwd: files\ngroup: files\n");
    let services = home.path("nsswitch");
    let mut bound = vec![(passwd.as_path(), Path::new("/etc/passwd")), (&services, Path::new("/etc/nsswitch.conf"))];
    // A cache of names would answer in their place.
    let (cache, none) = (Path::new("/run/nscd"), home.path("none"));
    fs::create_dir(&none).unwrap();
    bound.extend(cache.exists().then_some((none.as_path(), cache)));
    let run = |args: &[&str]| home.ran(home.command_with_bound(&bound).args(args).output().unwrap());

    let report = partly(&run(&["restore", "latest:t", "out", "--json"]));
    let refused: Vec<_> = report["refused_paths"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert!(refused.iter().any(|line| line.starts_with("of-daemon: its owner: ")), "{report}");
    assert!(!refused.iter().any(|line| line.starts_with("of-nobody-known")), "{report}");
    let meta = fs::metadata(home.path("out/of-daemon")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777;
    assert_eq!((std::os::unix::fs::MetadataExt::uid(&meta), mode), (0, 0o755), "with the rights of another one");
    run(&["restore", "latest:t", "numbers", "--numeric-ids"]).ok();

    let ran = run(&["backup", "tree", "--name", "t", "--json"]).ok();
    has(&ran.stderr, &["names of owners", "numbers"]);
    let restored = home.run(&["restore", "latest:t", "again", "--json"]).ok().json();
    assert_eq!(restored["refused"], 0, "it has numbers alone: {restored}");
}
