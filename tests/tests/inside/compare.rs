//! Every file of every filesystem, beside what others read of it.

use super::images::*;
use super::{bytes, home_with};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use wherry_tests::home::Home;

/// What is known of a file: kind, size, mode, owner, group, time, target.
type Facts = (String, u64, Value, Value, Value, String, Value);

/// All that is below a directory, as the kernel tells it, by path.
fn kernel(root: &Path, prefix: &str) -> BTreeMap<Vec<u8>, Facts> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = match meta.file_type() {
                t if t.is_dir() => "directory",
                t if t.is_symlink() => "symlink",
                t if t.is_fifo() => "fifo",
                t if t.is_socket() => "socket",
                t if t.is_char_device() => "character-device",
                _ => "file",
            };
            let size = if matches!(kind, "file" | "symlink") { meta.len() } else { 0 };
            let time =
                wherry::output::utc_time(wherry_repo::Timestamp(meta.mtime() * 1_000_000_000 + meta.mtime_nsec()));
            let target =
                if kind == "symlink" { fs::read_link(&path).unwrap().to_str().unwrap().into() } else { Value::Null };
            let mode = format!("{:04o}", meta.mode() & 0o7777).into();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
            let facts = (kind.to_owned(), size, mode, meta.uid().into(), meta.gid().into(), time, target);
            all.insert([prefix.as_bytes(), b"/", name].concat(), facts);
            if meta.is_dir() {
                waiting.push(path);
            }
        }
    }
    all
}

/// The same, as wherry tells it.
fn listed(home: &Home, path: &str) -> BTreeMap<Vec<u8>, Facts> {
    // Not by `ok`, which shows all of the output.
    let list = bytes(home, &["ls", "latest", path, "-R", "--json"]);
    let list: Value = serde_json::from_slice(&list).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let facts = |e: &Value| {
        let (mode, uid, gid) = (e["mode"].clone(), e["uid"].clone(), e["gid"].clone());
        (text(&e["kind"]), e["size"].as_u64().unwrap(), mode, uid, gid, text(&e["modified"]), e["target"].clone())
    };
    let path = |e: &Value| match e["path_hex"].as_str() {
        Some(hex) => (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect(),
        None => text(&e["path"]).into_bytes(),
    };
    list.as_array().unwrap().iter().map(|e| (path(e), facts(e))).collect()
}

/// Compares all metadata, all content by an archive unpacked, and some files by `cat`. There have to be so many files.
pub fn compare(home: &Home, part: &str, mounted: &Path, least: usize) {
    let (ours, theirs) = (listed(home, part), kernel(mounted, part));
    for (path, facts) in &theirs {
        assert_eq!(ours.get(path), Some(facts), "{part}: {}", String::from_utf8_lossy(path));
    }
    assert_eq!(ours.len(), theirs.len(), "{part}");
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive.tar");
    fs::write(&archive, bytes(home, &["dump", "latest", part])).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    sh("tar", &["--numeric-owner", "-xpf", archive.to_str().unwrap(), "-C", out.to_str().unwrap()]);
    let unpacked = kernel(&out, part);
    let mut compared = 0;
    for (path, facts) in &theirs {
        if matches!(facts.0.as_str(), "socket" | "character-device") {
            assert!(!unpacked.contains_key(path));
            continue;
        }
        assert_eq!(unpacked.get(path), Some(facts), "{part}: unpacked {}", String::from_utf8_lossy(path));
        if facts.0 == "file" {
            let name = PathBuf::from(std::ffi::OsStr::from_bytes(&path[part.len() + 1..]));
            let expected = fs::read(mounted.join(&name)).unwrap();
            assert!(fs::read(out.join(&name)).unwrap() == expected, "{part}: {}", name.display());
            compared += 1;
            if compared % 300 == 0 || ["large", "sparse"].contains(&name.to_str().unwrap_or_default()) {
                let path = format!("{part}/{}", name.to_str().unwrap());
                assert!(bytes(home, &["cat", "latest", &path]) == expected, "{path}");
                let at = expected.len() / 2;
                let piece = bytes(home, &["cat", "latest", &path, "--offset", &at.to_string(), "--length", "1000"]);
                assert!(piece == expected[at..expected.len().min(at + 1000)], "{path} at {at}");
            }
        }
    }
    assert!(compared >= least, "{part}: {compared} files");
}

/// An image with a table made by sfdisk: its partitions as (number, first byte, bytes).
fn table(image: &Path, script: &str) -> Vec<(u32, u64, u64)> {
    sh_with("sfdisk", &["-q", image.to_str().unwrap()], script);
    let table: Value = serde_json::from_str(&sh("sfdisk", &["--json", image.to_str().unwrap()])).unwrap();
    let parts = table["partitiontable"]["partitions"].as_array().unwrap();
    let number = |node: &str| node.trim_start_matches(image.to_str().unwrap()).parse().unwrap();
    let part = |p: &Value| {
        let bytes = |key: &str| p[key].as_u64().unwrap() * 512;
        (number(p["node"].as_str().unwrap()), bytes("start"), bytes("size"))
    };
    parts.iter().map(part).collect()
}

/// Fills the partitions with filesystems and files, and compares all of them.
fn compare_all(script: &str, mib: u64, kinds: &[(u32, &str, &[&str])]) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = dir.path().join("disk");
    make(&image, mib);
    let parts = table(&image, script);
    let part = |number: u32| *parts.iter().find(|p| p.0 == number).unwrap();
    for (number, kind, options) in kinds {
        let (_, offset, size) = part(*number);
        let alone = dir.path().join("alone");
        make(&alone, size >> 20);
        mkfs(&alone, kind, options);
        place(&alone, &image, offset);
        fs::remove_file(&alone).unwrap();
        populate(Mounted::new(&image, Some((offset, size)), "rw").path(), u64::from(*number), kind);
    }
    let home = home_with(&image);
    let top = home.run(&["ls", "latest", "--json"]).ok().json();
    assert_eq!(top.as_array().unwrap().len(), 1 + kinds.len(), "{top}");
    for (number, kind, options) in kinds {
        let (_, offset, size) = part(*number);
        let name = format!("/p{number}");
        let entry = top.as_array().unwrap().iter().find(|e| e["path"] == name.as_str()).unwrap();
        assert_eq!((&entry["filesystem"], entry["size"].as_u64()), (&Value::from(*kind), Some(size)), "{options:?}");
        let options = if *kind == "ext2" { "ro" } else { "ro,noload" };
        compare(&home, &name, Mounted::new(&image, Some((offset, size)), options).path(), 1500);
    }
}

#[test]
fn ext_on_gpt_agrees_with_the_kernel() {
    // Defaults of mke2fs of RHEL 8, of Debian 12, and of RHEL 10; and what older and odder ones made.
    let rhel8 = ["-b", "4096", "-O", "64bit,metadata_csum,^metadata_csum_seed,^orphan_file"];
    let rhel10 = ["-O", "metadata_csum_seed,orphan_file"];
    let bare = ["-b", "1024", "-O", "^extent,^64bit,^metadata_csum,^flex_bg,^huge_file"];
    let kinds: &[(u32, &str, &[&str])] =
        &[(1, "ext4", &[]), (2, "ext4", &rhel8), (3, "ext4", &rhel10), (4, "ext3", &[]), (5, "ext2", &bare)];
    let script = format!("label: gpt\n{}", "size=40MiB\n".repeat(5));
    compare_all(&script, 204, kinds);
}

#[test]
fn ext_on_logical_partitions_agrees_with_the_kernel() {
    let script = "label: dos\nsize=24MiB\ntype=5\nsize=24MiB\nsize=24MiB\n";
    compare_all(script, 80, &[(1, "ext2", &[]), (5, "ext4", &["-b", "2048"]), (6, "ext3", &["-b", "1024"])]);
}

#[test]
fn a_journal_that_was_not_replayed_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    make(&image, 48);
    mkfs(&image, "ext4", &[]);
    {
        let mounted = Mounted::new(&image, None, "rw");
        populate(mounted.path(), 1, "ext4");
        sh("sync", &["-f", mounted.path().to_str().unwrap()]);
        fs::create_dir(mounted.path().join("only-in-the-journal")).unwrap();
        fs::write(mounted.path().join("only-in-the-journal/file"), "new").unwrap();
        sh("sync", &["-f", mounted.path().to_str().unwrap()]);
        // As after a power failure.
        fs::copy(&image, &copy).unwrap();
    }
    let state = sh("dumpe2fs", &["-h", copy.to_str().unwrap()]);
    assert!(state.contains("needs_recovery"), "{state}");
    let home = home_with(&copy);
    // The kernel replays it into a copy of its own.
    let mounted = Mounted::new(&copy, None, "rw");
    compare(&home, "/p0", mounted.path(), 1500);
    assert_eq!(bytes(&home, &["cat", "latest", "/p0/only-in-the-journal/file"]), b"new");
}

#[test]
fn fat_of_each_kind_agrees_with_mtools() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let file = |name: &str, len: usize| {
        let path = source.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, wherry_tests::small::noise(len as u64, len)).unwrap();
        sh("touch", &["-d", "2011-12-13 14:15:16", path.to_str().unwrap()]);
    };
    for (name, len) in [
        ("SHORT.TXT", 10),
        ("lower.txt", 0),
        ("Mixed Case and a long name.text", 5000),
        ("gr\u{fc}n \u{65e5}\u{672c}.txt", 70_000),
        ("EFI/debian/grubx64.efi", 300_001),
        ("a/b/c/d", 1),
    ] {
        file(name, len);
    }
    (0..300).for_each(|n| file(&format!("many/a name of some length {n:03}"), n));
    for (bits, mib) in [("12", 6), ("16", 24), ("32", 48)] {
        let image = dir.path().join(format!("fat{bits}"));
        make(&image, mib);
        sh("mkfs.fat", &["-F", bits, "-s", if bits == "12" { "8" } else { "1" }, image.to_str().unwrap()]);
        for entry in fs::read_dir(&source).unwrap() {
            let path = entry.unwrap().path();
            sh("mcopy", &["-s", "-m", "-Q", "-i", image.to_str().unwrap(), path.to_str().unwrap(), "::"]);
        }
        let home = home_with(&image);
        let ours = listed(&home, "/p0");
        let theirs = kernel(&source, "/p0");
        for (path, (kind, size, .., time, _)) in &theirs {
            let found = ours.get(path).unwrap_or_else(|| panic!("fat{bits}: {}", String::from_utf8_lossy(path)));
            assert_eq!((&found.0, found.1), (kind, *size), "fat{bits}: {}", String::from_utf8_lossy(path));
            if kind == "file" {
                assert_eq!(&found.5, time, "fat{bits}: {}", String::from_utf8_lossy(path));
                assert!(found.2.is_null() && found.3.is_null(), "FAT has no owners");
                let path = std::str::from_utf8(path).unwrap();
                if *size > 1000 || path.ends_with("7") {
                    let expected = fs::read(source.join(&path[4..])).unwrap();
                    assert!(bytes(&home, &["cat", "latest", path]) == expected, "fat{bits}: {path}");
                }
            }
        }
        assert_eq!(ours.len(), theirs.len(), "fat{bits}");
        // As the filesystem means it, in any case; and from the middle.
        let expected = fs::read(source.join("EFI/debian/grubx64.efi")).unwrap();
        let path = "/p0/efi/DEBIAN/GrubX64.EFI";
        assert!(bytes(&home, &["cat", "latest", path, "--offset", "123456"]) == expected[123_456..], "fat{bits}");
        let archive = dir.path().join("archive.tar");
        fs::write(&archive, bytes(&home, &["dump", "latest", "/p0"])).unwrap();
        let out = dir.path().join(format!("out{bits}"));
        fs::create_dir(&out).unwrap();
        sh("tar", &["-xf", archive.to_str().unwrap(), "-C", out.to_str().unwrap()]);
        sh("diff", &["-r", source.to_str().unwrap(), out.to_str().unwrap()]);
    }
}
