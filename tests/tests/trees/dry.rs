//! `restore --dry-run` of a directory tells what the same command then does, and does none of it.

use super::{backup, files, has};
use crate::harness::{Home, Ran};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use wherry_tests::binary::wherry_bin;
use wherry_tests::small::noise;
use wherry_tests::trees::{Facts, Listing, assert_same, change, grow, list, set_times};

/// What a dry run says of each path, without the slash that it begins with.
fn told(report: &Value) -> BTreeMap<Vec<u8>, String> {
    let path = |change: &Value| match change["path_hex"].as_str() {
        Some(hex) => (0..hex.len()).step_by(2).map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap()).collect(),
        None => change["path"].as_str().unwrap().as_bytes().to_vec(),
    };
    let all = report["changes"].as_array().into_iter().flatten();
    all.map(|c| (path(c)[1..].to_vec(), c["change"].as_str().unwrap().to_owned())).collect()
}

/// How each path differs in what a restore sets.
fn differ(before: &Listing, after: &Listing) -> BTreeMap<Vec<u8>, &'static str> {
    let metadata = |f: &Facts| (f.mode, f.owner, f.modified, f.attributes.clone(), f.flags);
    let how = |path: &Vec<u8>| match (before.get(path), after.get(path)) {
        (None, _) => Some("added"),
        (_, None) => Some("removed"),
        (Some(a), Some(b)) if a.kind != b.kind => Some("content"),
        (Some(a), Some(b)) => (metadata(a) != metadata(b)).then_some("metadata"),
    };
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    paths.into_iter().filter_map(|path| Some((path.clone(), how(path)?))).collect()
}

#[test]
fn a_dry_run_tells_what_the_restore_then_does() {
    for seed in 40..42 {
        let home = Home::with_repository();
        fs::create_dir(home.path("tree")).unwrap();
        grow(&home.path("tree"), seed);
        backup(&home, "tree", &[]);
        home.run(&["restore", "latest:t", "out", "-q"]).ok();
        change(&home.path("out"), seed, 40);
        let before = list(&home.path("out"));
        let args = ["restore", "latest:t", "out", "--delta", "--delete", "--json"];
        let dry = home.run(&[&args[..], &["--dry-run"]].concat()).ok().json();
        assert_same(&list(&home.path("out")), &before, "nothing is written");
        let report = home.run(&args).ok().json();
        let after = list(&home.path("out"));
        for count in ["files", "kept", "directories", "others", "links", "removed", "skipped", "size"] {
            assert_eq!(dry[count], report[count], "seed {seed}, {count}");
        }
        let (told, differ) = (told(&dry), differ(&before, &after));
        let shown = |path: &[u8]| path.escape_ascii().to_string();
        for (path, how) in &differ {
            let above = |told: &Vec<u8>| path.starts_with(told) && path.get(told.len()) == Some(&b'/');
            let is_below = *how == "removed" && told.iter().any(|(path, how)| how != "metadata" && above(path));
            let said = told.get(path);
            assert!(
                is_below || said.is_some_and(|said| said == how || said == "content"),
                "seed {seed}: {} {how}: {said:?}",
                shown(path)
            );
        }
        // Of what has several names nothing tells where they are: it is made anew. Nothing else is told that stays.
        let several = |all: &Listing, path: &Vec<u8>| {
            all.get(path).is_some_and(|f| all.values().filter(|g| g.inode == f.inode).count() > 1)
        };
        let linked = |path: &Vec<u8>| several(&before, path) || several(&after, path);
        for path in told.keys().filter(|path| before.contains_key(*path) && !differ.contains_key(*path)) {
            assert!(linked(path), "seed {seed}: {} {} stays: {:?}", shown(path), told[path], before[path]);
        }
    }
}

#[test]
fn a_dry_run_asks_for_the_same_leave_and_fetches_nothing_that_is_there() {
    let home = Home::with_repository();
    let large = noise(1, 3 << 20);
    files(&home.path("tree"), &[("a", b"small"), ("b", b"also small"), ("large", &large)]);
    backup(&home, "tree", &[]);
    let dry = |flags: &[&str]| home.run(&[&["restore", "latest:t", "out", "--dry-run", "--json"], flags].concat());
    let whole = dry(&[]).ok().json();
    let size = whole["size"].as_u64().unwrap();
    assert_eq!((&whole["written"], &whole["fetched"], &whole["files"]), (&size.into(), &size.into(), &3.into()));
    assert!(!home.path("out").exists());
    home.run(&["restore", "latest:t", "out", "-q"]).ok();
    has(&dry(&[]).fails(2), &["not empty", "--delta"]);
    // A byte of the large one, and one of two that share a chunk, which then comes whole.
    let mut bytes = large.clone();
    bytes[2 << 20] ^= 1;
    fs::write(home.path("out/large"), bytes).unwrap();
    fs::write(home.path("out/b"), "else small").unwrap();
    fs::write(home.path("out/extra"), "x").unwrap();
    let delta = dry(&["--delta"]).ok().json();
    assert_eq!((&delta["files"], &delta["kept"], &delta["removed"]), (&2.into(), &1.into(), &0.into()), "{delta}");
    let (written, fetched) = (delta["written"].as_u64().unwrap(), delta["fetched"].as_u64().unwrap());
    assert_eq!(written, size - 5);
    assert!((15..3 << 20).contains(&fetched), "{delta}");
    let text = home.run(&["restore", "latest:t", "out", "--dry-run", "--delta", "--delete"]).ok().stdout;
    let lines: Vec<_> =
        text.lines().filter(|line| line.contains(" /")).take_while(|line| !line.starts_with("would")).collect();
    let changed: BTreeSet<_> = lines.into_iter().collect();
    assert_eq!(changed, ["m /", "M /b", "M /large", "- /extra"].into(), "{text}");
    has(&text, &["would write", "would remove 1 names", "nothing was written of snapshot"]);
    let never = dry(&["--overwrite", "never"]).ok().json();
    assert_eq!((&never["files"], &never["skipped"], &never["written"]), (&0.into(), &3.into(), &0.into()), "{never}");
    let part = dry(&["--force", "/large"]).ok().json();
    assert_eq!((&part["files"], &part["size"]), (&1.into(), &(3 << 20).into()), "{part}");
}

/// Restores the newest snapshot, after a dry run that ends with the same code and says the same: how much, what not, and
/// why. Each second path of `bound` is what is at the first. Gives the code and what the dry run said.
#[track_caller]
fn alike(home: &Home, bound: &[(PathBuf, PathBuf)], target: &str, flags: &[&str]) -> (i32, Value) {
    let bound: Vec<_> = bound.iter().map(|(from, at)| (from.as_path(), at.as_path())).collect();
    let run = |more: &[&str]| {
        let args = [&["restore", "latest:t", target, "--json", "-v"], flags, more].concat();
        home.ran(home.command_with_bound(&bound).args(args).output().unwrap())
    };
    let before = home.path(target).exists().then(|| list(&home.path(target)));
    let dry = run(&["--dry-run"]);
    if let Some(before) = before {
        assert_same(&list(&home.path(target)), &before, "nothing is written");
    }
    says_the_same(target, &dry, &run(&[]))
}

/// A dry run and the restore itself end with the same code and say the same: how much, what not, and why. Gives the code and
/// what the dry run said.
#[track_caller]
pub(super) fn says_the_same(target: &str, dry: &Ran, real: &Ran) -> (i32, Value) {
    let why = |text: &str| -> BTreeSet<String> {
        let said = |line: &str| {
            ["not restored: ", "left as it is: "].iter().find_map(|s| line.find(s)).map(|at| line[at..].to_owned())
        };
        text.lines().filter_map(said).collect()
    };
    assert_eq!((dry.code, why(&dry.stderr)), (real.code, why(&real.stderr)), "{target}: {dry:?} {real:?}");
    let (code, dry, real) = (real.code, dry.json(), real.json());
    let counts =
        ["files", "kept", "directories", "others", "links", "removed", "skipped", "refused", "size", "written"];
    for count in counts.iter().chain(&["missing", "unlinked"]) {
        assert_eq!(dry[count], real[count], "{target}, {count}: {dry} {real}");
    }
    (code, dry)
}

/// A tree with files, directories and a file with two names, a snapshot of it, and a directory with these files.
fn beside(target: &[(&str, &[u8])]) -> Home {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("d/s/x", b"1"), ("f", b"22"), ("g", b"333"), ("l1", b"4444")]);
    fs::hard_link(home.path("tree/l1"), home.path("tree/l2")).unwrap();
    for name in ["d/s/x", "f", "g", "l1"] {
        set_times(&home.path("tree").join(name), 2_000_000, 0);
    }
    backup(&home, "tree", &[]);
    fs::create_dir(home.path("out")).unwrap();
    files(&home.path("out"), target);
    home
}

#[test]
fn a_dry_run_ends_as_the_restore_and_for_the_same_reasons() {
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a [u8])], i32, u64, u64);
    let cases: [Case<'_>; 9] = [
        (&["--force"], &[("f/x", b"")], 3, 1, 0),
        // Its further name has nothing to lead to.
        (&["--force"], &[("l1/x", b"")], 3, 1, 0),
        (&["--force"], &[("l2/x", b"")], 3, 1, 0),
        (&["--force", "--delete"], &[("f/x/y", b""), ("more/x", b"")], 0, 0, 5),
        (&["--overwrite", "never"], &[("f", b""), ("d/s/x", b"")], 0, 2, 0),
        (&["--overwrite", "never"], &[("f/x", b""), ("d", b""), ("l2", b"")], 3, 3, 0),
        (&["--overwrite", "if-newer"], &[("f", b""), ("l2", b"")], 0, 2, 0),
        (&["--overwrite", "if-newer"], &[("f/x", b""), ("d", b"")], 3, 2, 0),
        (&["--overwrite", "always"], &[("d", b""), ("l1", b"")], 0, 0, 0),
    ];
    for (flags, target, code, skipped, removed) in cases {
        let home = beside(target);
        let (ended, said) = alike(&home, &[], "out", flags);
        let expected = (code, &skipped.into(), &removed.into());
        assert_eq!((ended, &said["skipped"], &said["removed"]), expected, "{flags:?} {target:?}: {said}");
    }
}

#[test]
fn an_empty_directory_gives_way_and_an_empty_target_gets_its_metadata() {
    let home = beside(&[]);
    fs::create_dir(home.path("out/f")).unwrap();
    let (code, said) = alike(&home, &[], "out", &["--force"]);
    assert_eq!((code, told(&said).get(&b"f"[..]).map(String::as_str)), (0, Some("content")), "{said}");
    assert_eq!(fs::read(home.path("out/f")).unwrap(), b"22");
    fs::create_dir(home.path("empty")).unwrap();
    fs::set_permissions(home.path("empty"), PermissionsExt::from_mode(0o711)).unwrap();
    let (code, said) = alike(&home, &[], "empty", &[]);
    assert_eq!((code, told(&said).get(&b""[..]).map(String::as_str)), (0, Some("metadata")), "{said}");
    assert_same(&list(&home.path("empty")), &list(&home.path("tree")), "into an empty directory");
}

#[test]
fn where_something_is_mounted_nothing_goes_nor_is_it_said_to() {
    let home =
        beside(&[("d/s/under", b""), ("f/m/under", b""), ("f/x", b""), ("gone/m/under", b""), ("gone/n/x", b"")]);
    files(&home.path("over"), &[("extra", b""), ("s/extra", b"")]);
    let bound: Vec<_> = ["out/d", "out/f/m", "out/gone/m"].map(|at| (home.path("over"), home.path(at))).into();
    let (code, said) = alike(&home, &bound, "out", &["--force", "--delete"]);
    let told = told(&said);
    let removed: BTreeSet<_> = told.iter().filter(|(_, how)| *how == "removed").map(|(path, _)| &path[..]).collect();
    assert_eq!((code, removed), (3, [&b"f/x"[..], b"gone/n"].into()), "{said}");
    assert!(home.path("over/extra").exists() && home.path("over/s/extra").exists());
    assert_eq!(fs::read(home.path("over/s/x")).unwrap(), b"1", "it is restored into");
    // An empty one that is a mount does not give way.
    let home = beside(&[]);
    ["out/f", "over"].iter().for_each(|path| fs::create_dir(home.path(path)).unwrap());
    let bound = [(home.path("over"), home.path("out/f"))];
    let (code, said) = alike(&home, &bound, "out", &["--force"]);
    assert_eq!((code, &said["refused"]), (3, &1.into()), "{said}");
}

/// A restore that the system ends, for the size of a file, before it has given a name; then one file has its name.
#[test]
fn a_dry_run_of_a_restore_that_goes_on_knows_what_is_done() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("d/done", b"1"), ("d/x", b"2"), ("large", &noise(1, 8 << 20))]);
    backup(&home, "tree", &[]);
    let mut limited = Command::new("sh");
    home.prepare(&mut limited);
    home.point_to_repository(&mut limited);
    limited.args(["-c", "ulimit -f 8192; exec \"$0\" restore latest:t out"]).arg(wherry_bin());
    let ended = limited.output().unwrap();
    assert!(!ended.status.success(), "{ended:?}");
    fs::create_dir_all(home.path("out/d")).unwrap();
    let copy =
        |from: &Path, to: &Path| assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    copy(&home.path("tree/d/done"), &home.path("out/d/done"));
    let temporary = list(&home.path("out")).keys().filter(|name| name.starts_with(b".wherry-")).count();
    assert!(temporary > 0, "nothing was begun");
    let (code, said) = alike(&home, &[], "out", &["--delete"]);
    let done = told(&said).contains_key(&b"d/done"[..]);
    assert_eq!(
        (code, &said["resumed"], &said["files"], &said["removed"], done),
        (0, &true.into(), &2.into(), &0.into(), false)
    );
    assert_same(&list(&home.path("out")), &list(&home.path("tree")), "what went on");
}
