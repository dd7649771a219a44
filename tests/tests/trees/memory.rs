//! The memory that a backup and a restore of many small files take at most. How many is in `WHERRY_TREES_FILES`.

use crate::harness::{Home, PATIENCE, Ran};
use std::fs;
use std::path::Path;
use wherry_tests::trees::list;

const CEILING: u64 = 256 << 20;
/// Files of the ordinary run; 2 000 000 are the long one.
const FILES: usize = 10_000;

/// Runs a command to its end; gives what it left and the most memory it had resident.
fn measured(home: &Home, args: &[&str]) -> (Ran, u64) {
    let mut running = home.spawn(args);
    let status = format!("/proc/{}/status", running.child().id());
    let mut peak = 0;
    while running.runs() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        // One that has ended has no such line.
        if let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            peak = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    (running.end_within(PATIENCE), peak)
}

fn grow(root: &Path, count: usize) {
    for n in 0..count {
        let folder = root.join(format!("{:x}", n / 10));
        if n % 10 == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        fs::write(folder.join(format!("a file of some kind {n}")), [b"content ", n.to_string().as_bytes()].concat())
            .unwrap();
    }
}

#[test]
fn many_small_files_stay_below_the_ceiling() {
    let given = std::env::var("WHERRY_TREES_FILES").ok();
    let count = given.map_or(FILES, |count| count.parse().expect("WHERRY_TREES_FILES is a number"));
    let home = Home::with_repository();
    grow(&home.path("tree"), count);
    for what in ["first", "unchanged", "restore"] {
        let args: &[&str] = match what {
            "restore" => &["restore", "latest:t", "out", "--json", "-q", "--memory", "256M"],
            _ => &["backup", "tree", "--name", "t", "--json", "-q", "--memory", "256M"],
        };
        let (ran, peak) = measured(&home, args);
        let report = ran.ok().json();
        println!("{what}: {count} files, {} MiB, {} s", peak >> 20, report["seconds"]);
        assert!(peak > 0 && peak <= CEILING, "{what}: {} MiB with {count} files", peak >> 20);
        assert_eq!(report["files"], count, "{what}");
    }
    // Each is named by its number, so none stands for another.
    assert_eq!(fs::read(home.path("out/0/a file of some kind 7")).unwrap(), b"content 7");
    assert_eq!(list(&home.path("out")).len(), 1 + count + count.div_ceil(10));
}
