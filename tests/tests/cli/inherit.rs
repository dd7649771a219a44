//! `--changed-blocks`: what is taken over from the parent, what is read all the same, and how it is counted.

use super::harness::Home;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use wherry_tests::small::noise;

const UNIT: usize = 64 << 10;
/// Three leaves of a map; the last chunk is a short one.
const DISK: usize = 300 * UNIT + 1000;

/// Noise, but for the chunks from 100 to 110, which are zero.
fn disk(seed: u64, len: usize) -> Vec<u8> {
    let mut disk = noise(seed, len);
    disk[100 * UNIT..110 * UNIT].fill(0);
    disk
}

/// Backs up `vm.raw` with this list; gives the report and the warnings.
fn with_list(home: &Home, list: &str, args: &[&str]) -> (Value, String) {
    let list = home.write("list", list);
    let args = [&["backup", "vm.raw", "--name", "vm", "--json", "--changed-blocks", &list], args].concat();
    let ran = home.run(&args).ok();
    let warnings: String = ran.stderr.lines().filter(|line| line.contains(" WARN ")).collect();
    (ran.json(), warnings)
}

fn get(report: &Value, names: &[&str]) -> u64 {
    names.iter().map(|name| report[name].as_u64().unwrap()).sum()
}

#[track_caller]
fn assert_restores(home: &Home, report: &Value, disk: &[u8]) {
    let output = home.command().args(["cat", report["snapshot"].as_str().unwrap()]).output().unwrap();
    assert!(output.status.success() && output.stdout == disk, "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every byte counts once, as what it is.
#[track_caller]
fn assert_adds_up(report: &Value) {
    assert_eq!(get(report, &["hole", "zero", "unchanged", "known", "new"]), get(report, &["size"]), "{report}");
}

#[test]
fn what_is_not_listed_is_the_parents_and_counts_as_unchanged() {
    let home = Home::with_small_chunks();
    let mut disk = disk(1, DISK);
    home.backup("vm", &disk);
    let file = fs::File::options().write(true).open(home.path("vm.raw")).unwrap();
    for at in [3 * UNIT + 5, 200 * UNIT] {
        disk[at] ^= 1;
        file.write_all_at(&disk[at..=at], at as u64).unwrap();
    }
    let list = format!("# offset length\n{} 1\n\n{} 10  # the second\n", 3 * UNIT + 5, 200 * UNIT);
    let (report, said) = with_list(&home, &list, &[]);
    assert_restores(&home, &report, &disk);
    assert_eq!((get(&report, &["read"]), get(&report, &["new"])), (2 * UNIT as u64, 2 * UNIT as u64));
    // The last chunk is no longer than it is, and nothing of it is a hole.
    assert_eq!(get(&report, &["unchanged"]), (DISK - 2 * UNIT) as u64);
    assert_eq!((get(&report, &["hole"]), said.as_str()), (0, ""));
    assert_adds_up(&report);

    // An empty list: nothing is read.
    let (report, _) = with_list(&home, "", &[]);
    assert_restores(&home, &report, &disk);
    assert_eq!((get(&report, &["read", "hole"]), get(&report, &["unchanged"])), (0, DISK as u64));

    // A hole in what is listed is one, and is not the parent's.
    drop(file);
    let status = std::process::Command::new("fallocate")
        .args(["--punch-hole", "--offset", &(50 * UNIT).to_string(), "--length", &(4 * UNIT).to_string()])
        .arg(home.path("vm.raw"))
        .status();
    assert!(status.unwrap().success());
    disk[50 * UNIT..54 * UNIT].fill(0);
    let (report, _) = with_list(&home, &format!("{} {}", 49 * UNIT, 6 * UNIT), &[]);
    assert_restores(&home, &report, &disk);
    let (hole, read) = (get(&report, &["hole"]), get(&report, &["read"]));
    assert_eq!((hole, read), (4 * UNIT as u64, 2 * UNIT as u64), "{report}");
    assert_adds_up(&report);
}

#[test]
fn a_disk_that_grew_or_shrank() {
    let home = Home::with_small_chunks();
    let long = disk(1, 302 * UNIT);
    for (before, now) in [(DISK - 70_000, DISK), (DISK, DISK - 70_000), (150 * UNIT, 301 * UNIT), (DISK, 300 * UNIT)] {
        home.backup("vm", &long[..before]);
        let mut disk = long[..now].to_vec();
        disk[7 * UNIT] ^= 1;
        home.write("vm.raw", &disk);
        let (report, said) = with_list(&home, &format!("{} 1", 7 * UNIT), &["--parent", "auto"]);
        assert_restores(&home, &report, &disk);
        assert_adds_up(&report);
        let grown = (now as u64).saturating_sub(before as u64);
        assert!(get(&report, &["read"]) <= grown + 2 * UNIT as u64, "{report}");
        assert_eq!(said, "");
    }
}

#[test]
fn what_the_repository_lost_is_read_again() {
    let home = Home::with_small_chunks();
    let disk = disk(1, DISK);
    let first = home.backup("vm", &disk);
    let packs = || home.tree("repo/packs").into_keys();
    let lost = packs().next().unwrap();
    fs::remove_file(&lost).unwrap();
    assert_eq!(home.run(&["check", &first]).code, 13);
    let (report, said) = with_list(&home, "0 1", &[]);
    assert!(said.contains("although the list does not name them"), "{said}");
    assert_restores(&home, &report, &disk);
    assert!(get(&report, &["new"]) > UNIT as u64, "{report}");
    assert_eq!(get(&report, &["hole"]), 0);
    assert_adds_up(&report);
    home.run(&["check", report["snapshot"].as_str().unwrap(), "--read-data"]).ok();

    // The map itself.
    let home = Home::with_small_chunks();
    home.backup("vm", &disk);
    fs::remove_dir_all(home.path("repo/meta")).unwrap();
    let (report, said) = with_list(&home, "0 1", &[]);
    assert!(said.contains("map cannot be read") && said.contains("although the list does not name"), "{said}");
    assert_eq!(get(&report, &["read"]), DISK as u64);
    assert_restores(&home, &report, &disk);
    assert_adds_up(&report);
}

#[test]
fn a_list_of_something_else_is_not_used() {
    let home = Home::with_small_chunks();
    let disk = disk(1, DISK);
    home.backup("vm", &disk);
    let (report, said) = with_list(&home, &format!("0 10\n{DISK} 512"), &[]);
    let reason = report["changed_blocks"]["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("512 bytes at {DISK}")) && reason.contains("another disk"), "{reason}");
    assert!(said.contains(reason), "{said}");
    assert_eq!((get(&report, &["read"]), &report["changed_blocks"]["used"]), (DISK as u64, &Value::Bool(false)));
    assert_restores(&home, &report, &disk);
    assert_adds_up(&report);
    let list = home.write("list", "0 10\n5");
    let line = home.run(&["backup", "vm.raw", "--name", "vm", "--changed-blocks", &list, "-q"]).fails(2);
    assert!(line.contains("list:2"), "{line}");
    // One that was rounded up to whole blocks is used, and one that names what a disk that shrank had.
    let (report, said) = with_list(&home, &format!("{} 4096", DISK - 100), &[]);
    assert_eq!((get(&report, &["read"]), said.as_str()), (1000, ""));
    assert_restores(&home, &report, &disk);
    home.write("vm.raw", &disk[..200 * UNIT]);
    let (report, said) = with_list(&home, &format!("{} 4096", 250 * UNIT), &[]);
    assert_eq!((get(&report, &["read"]), said.as_str()), (0, ""));
    assert_restores(&home, &report, &disk[..200 * UNIT]);
}
