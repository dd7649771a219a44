//! Sectors of a target that cannot be read.

use super::harness::Home;
use std::fs;
use wherry_tests::nolinks::NoLinks;
use wherry_tests::small::noise;

const UNIT: usize = 64 << 10;

#[test]
fn what_cannot_be_read_of_a_target_is_written() {
    let home = Home::new();
    home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
    let disk = noise(1, 40 * UNIT + 4096);
    home.backup("vm", &disk);
    let place = NoLinks::mount();
    let target = place.path().join("target");
    let mut before = disk.clone();
    before[11 * UNIT] ^= 1;
    fs::write(&target, &before).unwrap();
    for engine in ["ring", "threads"] {
        // Two in one chunk, in two neighbours, in the last one.
        for start in [UNIT, UNIT + 8192, 5 * UNIT + 512, 6 * UNIT, 40 * UNIT] {
            place.spoil(&target, start..start + 512, false);
        }
        let args = ["restore", "latest", target.to_str().unwrap(), "--delta", "--engine", engine];
        let dry = home.run(&[&args[..], &["--dry-run", "--json"]].concat()).ok().json();
        let done = home.run(&[&args[..], &["--verify", "--json"]].concat()).ok();
        assert_eq!(dry["written"], done.json()["written"]);
        assert!(done.stderr.contains("written anew"), "{}", done.stderr);
        assert!(fs::read(&target).unwrap() == disk, "{engine}");
    }
    // Writing gives this one back nothing: the restore must not say that all is well.
    place.spoil(&target, 7 * UNIT..7 * UNIT + 1, true);
    let ran = home.run(&["restore", "latest", target.to_str().unwrap(), "--delta", "--verify"]);
    assert!(ran.code == 1 && ran.stdout.is_empty(), "{}: {}", ran.code, ran.stdout);
    assert!(ran.stderr.lines().last().unwrap().contains(&format!("at {}", 7 * UNIT)), "{}", ran.stderr);
}
