//! `ls`, `find`, `cat`, `dump` and `diff` of directories with the real executable. Needs root.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use wherry::tree::compare::{Change, Compare};
use wherry_repo::storage::Local;
use wherry_repo::{Credential, Repository, TreeReader};
use wherry_tests::faulty_s3::FaultyS3;
use wherry_tests::home::Home;
use wherry_tests::made_trees::{Made, Node, Part, backup_tree};
use wherry_tests::seaweed::{Seaweed, variables_for};
use wherry_tests::small::{components, in_memory, noise};
use wherry_tests::trees::{Kind, Listing, assert_same, change, grow, list, set_attribute, set_times};

/// A backup that works, and its id.
#[track_caller]
fn backup(home: &Home) -> String {
    let report = home.run(&["backup", "tree", "--name", "t", "--json"]).ok().json();
    report["snapshot"].as_str().unwrap().to_owned()
}

/// Standard output of a command that must end with this code.
#[track_caller]
fn bytes(home: &Home, args: &[&OsStr], code: i32) -> Vec<u8> {
    let output = home.command().args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Unpacks an archive as the contract says.
#[track_caller]
fn unpack(archive: &[u8], into: &Path) {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--selinux", "-xp", "-f", "-", "-C"]);
    unpack_with(tar, archive, into);
}

/// Unpacks it with libarchive, which shares no code with GNU tar.
#[track_caller]
fn unpack_with_bsdtar(archive: &[u8], into: &Path) {
    let mut tar = Command::new("bsdtar");
    // In a locale of UTF-8 it composes the characters of names; in this one it says that it cannot, and leaves them alone.
    tar.env("LC_ALL", "C");
    tar.args(["--numeric-owner", "--xattrs", "--acls", "-xp", "-f", "-", "-C"]);
    let (code, said) = run_with(tar, archive, into);
    let is_expected = |line: &str| {
        line.ends_with("can't be converted from UTF-8 to current locale.")
            || line.ends_with("delayed from previous errors.")
    };
    assert!(code <= 1 && said.lines().all(is_expected), "{code}: {said}");
}

#[track_caller]
fn unpack_with(tar: Command, archive: &[u8], into: &Path) {
    let (code, said) = run_with(tar, archive, into);
    assert_eq!(code, 0, "{said}");
}

/// Exit code and standard error of a program that unpacks an archive.
#[track_caller]
fn run_with(mut tar: Command, archive: &[u8], into: &Path) -> (i32, String) {
    fs::create_dir(into).unwrap();
    let mut child = tar.arg(into).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(archive).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What bsdtar (libarchive 3.6) makes of a listing: it does not decode `%` and `=` in names of attributes, and adds
/// the part of a second of a time before 1970 where it should take it away.
fn by_bsdtar(listing: Listing) -> Listing {
    let mut listing = archived(listing);
    for facts in listing.values_mut() {
        let encoded = |name: Vec<u8>| -> Vec<u8> {
            name.iter()
                .flat_map(|byte| match byte {
                    b'%' => b"%25".to_vec(),
                    b'=' => b"%3D".to_vec(),
                    byte => vec![*byte],
                })
                .collect()
        };
        let attributes = std::mem::take(&mut facts.attributes);
        facts.attributes = attributes.into_iter().map(|(name, value)| (encoded(name), value)).collect();
        if facts.modified.0 < 0 && facts.modified.1 > 0 {
            facts.modified = (facts.modified.0 + 1, 1_000_000_000 - facts.modified.1);
        }
    }
    listing
}

/// What an archive can hold of a listing: no sockets and no flags.
fn archived(listing: Listing) -> Listing {
    let mut listing: Listing = listing.into_iter().filter(|(_, facts)| facts.kind != Kind::Socket).collect();
    listing.values_mut().for_each(|facts| facts.flags = 0);
    listing
}

#[test]
fn archives_of_random_trees_unpack_as_the_trees_were() {
    for seed in 0..4 {
        let home = Home::with_repository();
        fs::create_dir(home.path("tree")).unwrap();
        grow(&home.path("tree"), seed);
        backup(&home);
        let archive = bytes(&home, &["dump".as_ref(), "latest".as_ref()], 0);
        unpack(&archive, &home.path("copy"));
        let (copy, source) = (archived(list(&home.path("copy"))), archived(list(&home.path("tree"))));
        assert_same(&copy, &source, &format!("seed {seed}"));
    }
}

#[test]
fn another_program_unpacks_the_same_archives() {
    for seed in 4..8 {
        let home = Home::with_repository();
        fs::create_dir(home.path("tree")).unwrap();
        grow(&home.path("tree"), seed);
        backup(&home);
        let archive = bytes(&home, &["dump".as_ref(), "latest".as_ref()], 0);
        unpack_with_bsdtar(&archive, &home.path("copy"));
        let (mut copy, mut source) = (archived(list(&home.path("copy"))), by_bsdtar(list(&home.path("tree"))));
        // Nor does it set the time and the default ACL of the directory that it unpacks into.
        copy.get_mut(&b""[..]).unwrap().modified = source[&b""[..]].modified;
        source.get_mut(&b""[..]).unwrap().attributes.remove(&b"system.posix_acl_default"[..]);
        assert_same(&copy, &source, &format!("seed {seed}"));
    }
}

#[test]
fn what_is_hard_to_say_in_an_archive_is_there_again() {
    let home = Home::with_repository();
    let tree = home.path("tree");
    let deep = tree.join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f".repeat(255)), "deep").unwrap();
    fs::write(deep.join(OsStr::from_bytes(b"not \xff utf-8 \n")), "odd").unwrap();
    fs::hard_link(deep.join("f".repeat(255)), tree.join("second")).unwrap();
    for (n, (seconds, nanoseconds)) in
        [(0, 0), (-1, 500_000_000), (-2, 250_000_000), (-1_000_000_000, 1), (5_000_000_000, 999_999_999)]
            .into_iter()
            .enumerate()
    {
        let path = tree.join(format!("time {n}"));
        fs::write(&path, "x").unwrap();
        set_times(&path, seconds, nanoseconds);
    }
    for (n, size) in [512, 4096, 4097, 1 << 20, (1 << 20) + 1].into_iter().enumerate() {
        let file = fs::File::create(tree.join(format!("sparse {n}"))).unwrap();
        file.write_all_at(&noise(n as u64, 5000), 64 << 10).unwrap();
        file.write_all_at(b"end", (256 << 10) + size).unwrap();
        file.set_len((256 << 10) + size + 3 + if n % 2 == 0 { 0 } else { 100_000 }).unwrap();
    }
    let marked = tree.join("marked");
    fs::create_dir(&marked).unwrap();
    fs::write(marked.join("file"), "x").unwrap();
    for path in [&marked, &marked.join("file")] {
        set_attribute(path, "user.a=b%c%3Dd", b"with = and \n and \0");
        set_attribute(path, "user.empty", b"");
        set_attribute(path, "security.selinux", b"system_u:object_r:etc_t:s0\0");
        // Longer than what stands in a node.
        set_attribute(path, "trusted.long", &noise(1, 2000));
    }
    for args in [&["-m", "u:12345:r,g:7:rwx,m::rx"][..], &["-d", "-m", "u:3:rw"]] {
        assert!(Command::new("setfacl").args(args).arg(&marked).status().unwrap().success());
    }
    backup(&home);
    unpack(&bytes(&home, &["dump".as_ref(), "latest".as_ref()], 0), &home.path("copy"));
    assert_same(&list(&home.path("copy")), &list(&tree), "the whole");
    // A part of it, and one file.
    unpack(&bytes(&home, &["dump".as_ref(), "latest".as_ref(), "marked".as_ref()], 0), &home.path("part"));
    assert_same(&list(&home.path("part")), &list(&marked), "a part");
    unpack(&bytes(&home, &["dump".as_ref(), "latest".as_ref(), "/second".as_ref()], 0), &home.path("one"));
    assert_eq!(fs::read(home.path("one/second")).unwrap(), b"deep");
}

#[test]
fn the_same_bytes_in_pieces_and_as_a_disk_image_are_no_difference() {
    let (_, repository) = in_memory();
    // Holes and data, in other parts than chunks, and an end inside one.
    let part =
        |n: u64, is_hole: bool, len: usize| Part { is_hole, bytes: if is_hole { vec![0; len] } else { noise(n, len) } };
    let parts = vec![part(1, false, 100_000), part(2, true, 400_000), part(3, false, 70_001), part(4, true, 90_000)];
    let mut other = parts.clone();
    other[2].bytes[5] ^= 1;
    let empty = vec![part(5, true, 660_001)];
    let all = [
        Made::File(parts.clone()),
        Made::Image(parts),
        Made::File(other.clone()),
        Made::Image(other),
        Made::File(empty),
    ];
    let readers = all.map(|what| {
        let tree = Node::folder(b"", vec![Node::plain(b"disk", what)]);
        TreeReader::open(&repository, &backup_tree(&repository, "tree", &tree).unwrap()).unwrap()
    });
    for (n, old) in readers.iter().enumerate() {
        for (m, new) in readers.iter().enumerate() {
            let mut told = Vec::new();
            let compare = Compare::new([old, new], 1 << 20, 2);
            let failed = compare.run(&mut |change, path, _| {
                told.push((change, path.to_string()));
                Ok(())
            });
            assert_eq!(failed.unwrap().count, 0);
            let want = if n / 2 == m / 2 { vec![] } else { vec![(Change::Content, "/disk".to_owned())] };
            assert_eq!(told, want, "{n} {m}");
        }
    }
}

#[test]
fn an_archive_of_small_files_takes_few_requests() {
    let server = Seaweed::start();
    let proxy = FaultyS3::start(server.port());
    let home = Home::new().at("s3://bucket/x", &variables_for(proxy.port()));
    home.run(&["init", "-q"]).ok();
    for n in 0..3000_u64 {
        let folder = home.path(&format!("tree/{}/{}", n % 11, n % 130));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{n}")), noise(n, (n % 16_000) as usize)).unwrap();
    }
    backup(&home);
    let before = proxy.came("GET", "/packs/");
    let archive = bytes(&home, &["dump".as_ref(), "latest".as_ref()], 0);
    let requests = proxy.came("GET", "/packs/") - before;
    // 24 MB in chunks of 137 KiB on average: one each would be 170.
    assert!(requests < 40, "{requests} requests");
    unpack(&archive, &home.path("copy"));
    assert_same(&list(&home.path("copy")), &list(&home.path("tree")), "of small files");
}

/// What differs, from two listings: letter by path.
fn naive(old: &Listing, new: &Listing) -> BTreeMap<Vec<u8>, char> {
    let names = |all: &Listing, first: &[u8]| all.values().filter(|facts| facts.first == first).count();
    let rest = |all: &Listing, path: &Vec<u8>| {
        let facts = &all[path];
        let links = if facts.kind == Kind::Folder { 1 } else { names(all, &facts.first) };
        (facts.mode, facts.owner, facts.modified, facts.attributes.clone(), facts.flags, links)
    };
    let mut found = BTreeMap::new();
    for path in old.keys().chain(new.keys()) {
        let letter = match (old.get(path), new.get(path)) {
            (Some(_), None) => '-',
            (None, _) => '+',
            (Some(a), Some(b)) if a.kind != b.kind => 'M',
            _ if rest(old, path) != rest(new, path) => 'm',
            _ => continue,
        };
        found.insert([b"/", &path[..]].concat(), letter);
    }
    found
}

#[test]
fn the_difference_of_random_trees_is_the_naive_one() {
    for seed in 10..13 {
        let home = Home::with_repository();
        let tree = home.path("tree");
        fs::create_dir(&tree).unwrap();
        grow(&tree, seed);
        let (first, before) = (backup(&home), list(&tree));
        change(&tree, seed, 40);
        let (second, after) = (backup(&home), list(&tree));
        for (args, expected) in
            [([&first, &second], naive(&before, &after)), ([&second, &first], naive(&after, &before))]
        {
            let report = home.run(&["diff", args[0], args[1], "--json"]).ok().json();
            let letter = |word: &str| match word {
                "added" => '+',
                "removed" => '-',
                "content" => 'M',
                "metadata" => 'm',
                _ => panic!("{word}"),
            };
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let path = |change: &serde_json::Value| match change["path_hex"].as_str() {
                Some(hex) => {
                    (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect()
                }
                None => text(&change["path"]).into_bytes(),
            };
            let changes = report["changes"].as_array().unwrap();
            let found: BTreeMap<Vec<u8>, char> =
                changes.iter().map(|change| (path(change), letter(&text(&change["change"])))).collect();
            let show = |all: &BTreeMap<Vec<u8>, char>| -> Vec<String> {
                all.iter().map(|(path, letter)| format!("{letter} {:.200}", path.escape_ascii().to_string())).collect()
            };
            assert_eq!(show(&found), show(&expected), "seed {seed}");
            assert_eq!(changes.len(), expected.len(), "seed {seed}: each path once");
            let lines = home.run(&["diff", args[0], args[1]]).ok().stdout;
            assert_eq!(lines.lines().count(), expected.len() + 1);
        }
        assert_eq!(home.run(&["diff", &second, &second]).ok().stdout.lines().count(), 1);
    }
}

#[test]
fn equal_files_that_are_stored_differently_are_equal() {
    let home = Home::with_repository();
    let tree = home.path("tree");
    fs::create_dir(&tree).unwrap();
    for n in 0..20 {
        fs::write(tree.join(format!("{n:02}")), noise(n, 1000)).unwrap();
    }
    let first = backup(&home);
    // All are read again, and lie elsewhere in a chunk of their own.
    fs::write(tree.join("00"), noise(99, 1001)).unwrap();
    let args = ["backup", "tree", "--name", "t", "--parent", "none", "--json"];
    let second = home.run(&args).ok().json()["snapshot"].as_str().unwrap().to_owned();
    assert_eq!(home.run(&["diff", &first, &second]).ok().stdout.lines().next(), Some("M /00"));
    assert_eq!(home.run(&["diff", &first, &second]).ok().stdout.lines().count(), 2);
}

/// The number of an inode is given anew when its names have gone, also while a tree is read.
#[test]
fn names_of_one_number_are_one_file_only_if_they_say_the_same() {
    let home = Home::with_repository();
    let key = fs::read_to_string(home.path("key")).unwrap();
    let key = Credential::KeyFile(key.trim().as_bytes().to_vec().into());
    let storage = Arc::new(Local::new(home.path("repo"), false));
    let repository = Repository::open(components(storage), &key).unwrap();
    let node = |name: &str, bytes: &str, later: i64| {
        let mut node = Node::file(name.as_bytes(), bytes.into());
        node.links = std::num::NonZeroU64::new(2);
        node.changed.seconds += later;
        node
    };
    // All have the same inode number: there are three files of two names each.
    let nodes =
        [("a", "one", 0), ("b", "two", 9), ("c", "three", 0), ("d", "one", 0), ("e", "two", 9), ("f", "three", 0)];
    let tree = Node::folder(b"", nodes.map(|(name, bytes, later)| node(name, bytes, later)).to_vec());
    backup_tree(&repository, "t", &tree).unwrap();
    drop(repository);
    home.run(&["restore", "latest:t", "restored", "-q"]).ok();
    unpack(&bytes(&home, &["dump".as_ref(), "latest:t".as_ref()], 0), &home.path("unpacked"));
    for copy in ["restored", "unpacked"] {
        let listing = list(&home.path(copy));
        let firsts: Vec<_> = listing.iter().skip(1).map(|(_, facts)| facts.first.escape_ascii().to_string()).collect();
        assert_eq!(firsts, ["a", "b", "c", "a", "b", "c"], "{copy}");
        for (name, content, _) in nodes {
            assert_eq!(fs::read_to_string(home.path(copy).join(name)).unwrap(), content, "{copy}/{name}");
        }
    }
}

#[test]
fn each_command_shows_odd_names_and_says_what_is_not_there() {
    let home = Home::with_repository();
    let tree = home.path("tree");
    fs::create_dir_all(tree.join("etc/empty")).unwrap();
    fs::write(tree.join("etc/hostname"), "vm1\n").unwrap();
    fs::write(tree.join("disk.raw"), "a name like any other").unwrap();
    fs::write(tree.join("big"), noise(3, 5 << 20)).unwrap();
    let odd = OsStr::from_bytes(b"odd\xff\n\\name");
    fs::write(tree.join("etc").join(odd), "odd").unwrap();
    std::os::unix::fs::symlink("etc", tree.join("link")).unwrap();
    backup(&home);
    let top = home.run(&["ls", "latest"]).ok().stdout;
    assert!(top.contains("link -> etc") && top.contains("5.0 MiB") && top.contains("drwx"), "{top}");
    let etc = home.run(&["ls", "latest", "etc", "-R"]).ok().stdout;
    assert!(etc.contains("odd\\xff\\x0a\\\\name") && etc.contains("/etc/empty:"), "{etc}");
    let found = home.run(&["find", "latest", "--name", "host*"]).ok().stdout;
    assert_eq!(found, "/etc/hostname\n");
    assert_eq!(home.run(&["find", "latest"]).ok().stdout.lines().count(), 8);
    let path = OsStr::from_bytes(b"/etc/odd\xff\n\\name");
    assert_eq!(bytes(&home, &["cat".as_ref(), "latest".as_ref(), path], 0), b"odd");
    assert_eq!(home.run(&["cat", "latest", "disk.raw"]).ok().stdout, "a name like any other");
    let args = ["cat", "latest", "big", "--offset", "1000001", "--length", "3000003"].map(OsStr::new);
    assert!(bytes(&home, &args, 0) == noise(3, 5 << 20)[1_000_001..4_000_004]);
    let json = home.run(&["ls", "latest", "/etc", "--json"]).ok().json();
    let entry = json.as_array().unwrap().iter().find(|e| e["path_hex"].is_string()).unwrap();
    let hex: String = path.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!((entry["path_hex"].as_str(), entry["size"].as_u64()), (Some(hex.as_str()), Some(3)));
    let disk = home.backup("vm", &noise(1, 100_000));
    for (args, code, words) in [
        (&["cat", "latest:t"][..], 2, "name a file in it"),
        (&["cat", "latest:t", "/etc/none"], 1, "there is no /etc/none"),
        (&["cat", "latest:t", "/none/none"], 1, "there is no /none"),
        (&["cat", "latest:t", "/link"], 1, "symbolic link to etc"),
        (&["cat", "latest:t", "/link/hostname"], 1, "symbolic link to etc"),
        (&["cat", "latest:t", "/etc"], 1, "a directory"),
        (&["ls", "latest:t", "/etc/hostname/x"], 1, "no directory"),
        (&["diff", "latest:t", &disk], 2, "of a disk"),
        (&["diff", &disk, "latest:t"], 2, "of a disk"),
    ] {
        let line = home.run(args).fails(code);
        assert!(line.contains(words), "{args:?}: {line}");
    }
}

/// Dumps a snapshot of which this byte of its one pack is wrong, and unpacks that; gives what was said.
#[track_caller]
fn dumped_with(home: &Home, pack: &Path, at: usize, into: &Path) -> String {
    let sound = fs::read(pack).unwrap();
    let mut bytes = sound.clone();
    bytes[at] ^= 1;
    fs::set_permissions(pack, PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(pack, bytes).unwrap();
    let dumped = home.command().args(["dump", "latest"]).output().unwrap();
    fs::write(pack, sound).unwrap();
    let said = String::from_utf8_lossy(&dumped.stderr).into_owned();
    assert_eq!(dumped.status.code(), Some(13), "{said}");
    unpack(&dumped.stdout, into);
    said
}

#[test]
fn what_is_damaged_is_named_and_the_rest_is_there() {
    let home = Home::with_repository();
    let tree = home.path("tree");
    fs::create_dir_all(&tree).unwrap();
    let big = noise(3, 3 << 20);
    fs::write(tree.join("big"), &big).unwrap();
    fs::hard_link(tree.join("big"), tree.join("too")).unwrap();
    fs::write(tree.join("small"), "small").unwrap();
    backup(&home);
    let packs: Vec<_> = home.tree("repo/packs").into_keys().collect();
    let [pack] = &packs[..] else { panic!("{packs:?}") };
    // In the first chunk, which is a piece of the large file: there is nothing to begin with, by no name of it.
    let said = dumped_with(&home, pack, 1000, &home.path("copy"));
    assert!(said.contains("/big is left out: ") && said.contains("/too is left out: "), "{said}");
    assert_eq!(fs::read(home.path("copy/small")).unwrap(), b"small");
    assert_eq!(fs::read_dir(home.path("copy")).unwrap().count(), 1);
    // Further on: the size was said already.
    let said = dumped_with(&home, pack, 2 << 20, &home.path("midst"));
    assert!(said.contains("/big cannot be read") && said.contains("zeros stand in its place from byte "), "{said}");
    let copy = fs::read(home.path("midst/big")).unwrap();
    let rest = copy.iter().zip(&big).position(|(a, b)| a != b).unwrap();
    assert!(copy.len() == big.len() && rest > 0 && copy[rest..].iter().all(|b| *b == 0), "from byte {rest} on");
    assert_eq!(fs::read(home.path("midst/small")).unwrap(), b"small");
    assert_eq!(fs::metadata(home.path("midst/too")).unwrap().nlink(), 2);

    let mut bytes = fs::read(pack).unwrap();
    bytes[1000] ^= 1;
    fs::write(pack, bytes).unwrap();
    assert_eq!(home.run(&["ls", "latest"]).ok().stdout.lines().count(), 4);
    assert!(home.run(&["cat", "latest", "/big"]).stderr.contains("/big"));
    assert_eq!(home.run(&["cat", "latest", "/big"]).code, 13);
}

#[test]
fn a_file_with_holes_whose_data_is_damaged_is_no_file_of_zeros() {
    let home = Home::with_repository();
    let tree = home.path("tree");
    fs::create_dir_all(&tree).unwrap();
    let file = fs::File::create(tree.join("sparse")).unwrap();
    file.set_len(8 << 20).unwrap();
    for (n, at) in [1 << 20, 4 << 20].into_iter().enumerate() {
        file.write_all_at(&noise(n as u64, 300_000), at).unwrap();
    }
    file.sync_all().unwrap();
    backup(&home);
    let packs: Vec<_> = home.tree("repo/packs").into_keys().collect();
    let [pack] = &packs[..] else { panic!("{packs:?}") };
    let said = dumped_with(&home, pack, 1000, &home.path("copy"));
    assert!(said.contains("/sparse is left out: "), "{said}");
    assert_eq!(fs::read_dir(home.path("copy")).unwrap().count(), 0);
    let said = dumped_with(&home, pack, 500_000, &home.path("midst"));
    assert!(said.contains("zeros stand in its place"), "{said}");
    let copy = fs::read(home.path("midst/sparse")).unwrap();
    assert!(copy.len() == 8 << 20 && copy[1 << 20..][..300_000] == noise(0, 300_000));
}
