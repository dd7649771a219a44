//! Disk images in directories: which files are some, what they share with the same disk backed up as a volume, what a change
//! costs, and that everything that reads trees reads them.

use super::{age, backup, comes_back, files, restore};
use crate::harness::Home;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use wherry_tests::small::noise;
use wherry_tests::trees::{assert_same, list};

const MIB: usize = 1 << 20;
const CHUNK: usize = 256 << 10;

/// Something that files begin with, by which they are known.
fn with(head: &[(usize, &[u8])], mut bytes: Vec<u8>) -> Vec<u8> {
    for (at, magic) in head {
        bytes[*at..*at + magic.len()].copy_from_slice(magic);
    }
    bytes
}

fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"))
}

/// Bytes of all objects.
fn stored(home: &Home) -> u64 {
    number(&home.run(&["stats", "--json"]).ok().json(), "stored")
}

/// The features that the repository says it has.
fn features(home: &Home) -> Vec<String> {
    let newest = home.tree("repo/config").into_iter().max().unwrap().1;
    let json: Value = serde_json::from_slice(&newest).unwrap();
    json["read"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_disk_in_a_directory_and_as_a_volume_is_stored_once_in_either_order() {
    let mbr: &[(usize, &[u8])] = &[(510, b"\x55\xaa")];
    let gpt: &[(usize, &[u8])] = &[(512, b"EFI PART")];
    let gpt_4k: &[(usize, &[u8])] = &[(4096, b"EFI PART")];
    let qcow2: &[(usize, &[u8])] = &[(0, b"QFI\xfb\0\0\0\x03")];
    for (n, head) in [mbr, gpt, qcow2, gpt_4k, &[(0, b"KDMV")], &[(0, b"COWD")]].into_iter().enumerate() {
        // An end inside a chunk, and zeros.
        let mut bytes = with(head, noise(n as u64, 8 * MIB + 12_345));
        bytes[5 * MIB..6 * MIB].fill(0);
        let orders: &[bool] = if n < 3 { &[true, false] } else { &[false] };
        for tree_first in orders.iter().copied() {
            let home = Home::with_repository();
            files(&home.path("tree"), &[("vms/disk.img", &bytes), ("other", b"x")]);
            let volume = || home.run(&["backup", "tree/vms/disk.img", "--name", "a", "--json"]).ok().json();
            let before = stored(&home);
            if tree_first {
                backup(&home, "tree", &[])
            } else {
                volume()
            };
            let first = stored(&home) - before;
            let second = if tree_first { volume() } else { backup(&home, "tree", &[]) };
            let second_stored = stored(&home) - before - first;
            assert!(first > 6 * MIB as u64, "{first}");
            assert!(second_stored * 100 < first, "{n} {tree_first}: {second_stored} of {first}: {second}");
            assert!(number(&second, "new") <= 1 && number(&second, "known") > 6 * MIB as u64, "{second}");
            comes_back(&home, "tree", "an image");
            home.run(&["check", "--read-data", "-q"]).ok();
            assert_eq!(features(&home), ["tree", "tree-map"]);
        }
    }
}

#[test]
fn what_is_no_disk_image_is_cut_by_content() {
    let home = Home::with_repository();
    let whole = with(&[(510, b"\x55\xaa")], noise(1, MIB));
    files(
        &home.path("tree"),
        &[
            ("short", &whole[..MIB - 1]),
            ("near", &with(&[(509, b"\x55\xaa"), (1, b"QFI\xfb"), (513, b"EFI PART")], noise(2, 2 * MIB))),
            ("half", &with(&[(510, b"\x55\xab"), (512, b"EFI PARS"), (0, b"KDMW")], noise(3, 2 * MIB))),
        ],
    );
    // Longer than a gigabyte and whole, or with holes and not longer.
    let sparse = File::create(home.path("tree/sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(b"data", 512 << 20).unwrap();
    backup(&home, "tree", &[]);
    assert_eq!(features(&home), ["tree"]);
    sparse.set_len((1 << 30) + 1).unwrap();
    let report = backup(&home, "tree", &[]);
    assert_eq!(features(&home), ["tree", "tree-map"]);
    // Holes were not read.
    assert!(number(&report, "read") < 6 * MIB as u64 && number(&report, "hole") > 1 << 29, "{report}");
    let home = Home::with_repository();
    files(&home.path("tree"), &[("exactly", &whole)]);
    backup(&home, "tree", &[]);
    assert_eq!(features(&home), ["tree", "tree-map"]);
}

#[test]
fn a_changed_chunk_costs_one_and_an_image_that_is_as_it_was_nothing() {
    let home = Home::with_repository();
    let bytes = with(&[(510, b"\x55\xaa")], noise(1, 40 * MIB));
    files(&home.path("tree"), &[("disk.img", &bytes)]);
    age();
    let first = backup(&home, "tree", &[]);
    let again = backup(&home, "tree", &[]);
    assert_eq!((number(&again, "read"), number(&again, "stored"), number(&again, "files_unread")), (0, 0, 1));
    assert_eq!(again["root"], first["root"]);
    assert!(number(&again, "metadata") < 1000, "a record: {again}");
    let disk = File::options().write(true).open(home.path("tree/disk.img")).unwrap();
    disk.write_all_at(b"changed", 10 * MIB as u64 - 3).unwrap();
    let third = backup(&home, "tree", &[]);
    assert_eq!(number(&third, "read"), 40 * MIB as u64);
    // Two chunks, as it lies across the edge of one.
    assert_eq!((number(&third, "new"), number(&third, "unchanged")), (2 * CHUNK as u64, (40 * MIB - 2 * CHUNK) as u64));
    // A leaf of 128 slots, the top, a directory's node, and their pack.
    assert!(number(&third, "metadata") < 8000, "{third}");
    comes_back(&home, "tree", "changed");
    let line = home.run(&["diff", first["snapshot"].as_str().unwrap(), "latest:t"]).ok().stdout;
    assert!(line.contains("M /disk.img"), "{line}");
    let same = home.run(&["diff", first["snapshot"].as_str().unwrap(), again["snapshot"].as_str().unwrap()]).ok();
    assert!(!same.stdout.contains("disk.img"), "{}", same.stdout);
    // Read in full, it is the parent's all the same.
    let forced = backup(&home, "tree", &["--force-read"]);
    assert_eq!((number(&forced, "unchanged"), forced["root"].clone()), (40 * MIB as u64, third["root"].clone()));
    home.run(&["check", "--read-data", "-q"]).ok();
}

#[test]
fn a_file_becomes_a_disk_image_and_is_none_again() {
    let home = Home::with_repository();
    let bytes = noise(1, 3 * MIB);
    let image = with(&[(0, b"QFI\xfb")], bytes.clone());
    let shorter = &image[..2 * MIB + 100];
    let longer = [&image[..], &noise(2, 40 * MIB)].concat();
    let mut snapshots: Vec<String> = Vec::new();
    let states: [&[u8]; 7] = [&bytes, &image, shorter, &longer, &bytes, &image[..70_000], &image];
    for state in states {
        files(&home.path("tree"), &[("disk", state)]);
        let report = backup(&home, "tree", &[]);
        comes_back(&home, "tree", "a state");
        snapshots.push(report["snapshot"].as_str().unwrap().to_owned());
    }
    // What differs, whatever it is stored as.
    for (n, snapshot) in snapshots.iter().enumerate() {
        for (m, other) in snapshots.iter().enumerate() {
            let line = home.run(&["diff", snapshot, other]).ok().stdout;
            assert_eq!(line.contains("M /disk"), states[n] != states[m], "{n} {m}: {line}");
        }
    }
    home.run(&["check", "--read-data", "-q"]).ok();
}

fn read(path: &Path, at: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// A sparse image of 1.5 GiB with data in some places, and where that is.
fn sparse(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let file = File::create(path).unwrap();
    file.set_len(3 << 29).unwrap();
    let parts: Vec<_> = [0, 5 << 20, (1 << 30) + 77, (3 << 29) - 5000]
        .into_iter()
        .enumerate()
        .map(|(n, at)| (at, noise(n as u64, 5000)))
        .collect();
    parts.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
    parts
}

#[test]
fn a_sparse_image_stays_sparse_and_is_read_by_all_who_read_trees() {
    let home = Home::with_repository();
    fs::create_dir(home.path("tree")).unwrap();
    let parts = sparse(&home.path("tree/disk"));
    let report = backup(&home, "tree", &[]);
    assert!(number(&report, "read") == 4 * CHUNK as u64 && number(&report, "stored") < MIB as u64, "{report}");
    restore(&home, "copy", &[]);
    assert_same(&list(&home.path("copy")), &list(&home.path("tree")), "sparse");
    assert!(home.path("copy/disk").metadata().unwrap().blocks() * 512 <= 200_000, "in blocks, not in chunks");
    for (at, bytes) in &parts {
        let (at, len) = (at.to_string(), bytes.len().to_string());
        let args = ["cat", "latest:t", "/disk", "--offset", &at, "--length", &len];
        let output = home.command().args(args).output().unwrap();
        assert!(output.status.success() && output.stdout == *bytes, "{at}");
    }
    let hole =
        home.command().args(["cat", "latest:t", "/disk", "--offset", "100M", "--length", "3M"]).output().unwrap();
    assert!(hole.status.success() && hole.stdout == vec![0; 3 * MIB]);
    let listed = home.run(&["ls", "latest:t", "--json"]).ok().stdout;
    assert!(listed.contains(&(3_u64 << 29).to_string()), "{listed}");
    let found = home.run(&["find", "latest:t", "--name", "disk"]).ok().stdout;
    assert_eq!(found.trim(), "/disk");
    let shown = home.run(&["show", "latest:t", "--json"]).ok().json();
    assert_eq!((number(&shown, "size"), number(&shown["tree"], "files")), (3 << 29, 1), "{shown}");
    // An archive with its holes.
    let archive = home.command().args(["dump", "latest:t"]).output().unwrap();
    assert!(archive.status.success() && archive.stdout.len() < 2 * MIB, "{}", archive.stdout.len());
    fs::create_dir(home.path("unpacked")).unwrap();
    let mut tar = Command::new("tar");
    let mut tar = tar.args(["-xpf", "-", "-C"]).arg(home.path("unpacked")).stdin(Stdio::piped()).spawn().unwrap();
    tar.stdin.take().unwrap().write_all(&archive.stdout).unwrap();
    assert!(tar.wait().unwrap().success());
    for (at, bytes) in &parts {
        assert!(read(&home.path("unpacked/disk"), *at, bytes.len() as u64) == *bytes, "{at}");
    }
    assert!(home.path("unpacked/disk").metadata().unwrap().blocks() * 512 <= 8 * CHUNK as u64);
    home.run(&["check", "--read-data", "-q"]).ok();
}

#[test]
fn damage_of_an_image_is_told_by_its_path() {
    let home = Home::with_repository();
    let bytes = with(&[(510, b"\x55\xaa")], noise(1, 4 * MIB));
    files(&home.path("tree"), &[("a/other", b"small"), ("b/disk.img", &bytes)]);
    backup(&home, "tree", &[]);
    // The largest pack is that of the image's chunks.
    let (path, mut pack) = home.tree("repo/packs").into_iter().max_by_key(|(_, body)| body.len()).unwrap();
    let middle = pack.len() / 2;
    pack[middle] ^= 1;
    fs::write(path, pack).unwrap();
    let ran = home.run(&["check", "--read-data"]);
    assert_eq!(ran.code, 13, "{}", ran.stdout);
    assert!(ran.stdout.contains("b/disk.img") && !ran.stdout.contains("a/other"), "{}", ran.stdout);
    let ran = home.run(&["restore", "latest:t", "copy"]);
    assert_eq!(ran.code, 13);
    assert!(ran.stderr.contains("b/disk.img") && !home.path("copy/b/disk.img").exists(), "{}", ran.stderr);
    assert_eq!(home.run(&["cat", "latest:t", "/b/disk.img"]).code, 13);
    home.run(&["restore", "latest:t", "copy2", "/a"]).ok();
}
