//! Images that are written to while they are backed up.

use super::harness::Home;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use wherry_tests::small::noise;

const SAID: &str = "was written to while it was read";

#[test]
fn an_image_that_changes_under_its_backup_is_said_to() {
    let home = Home::with_repository();
    let image = home.write("vm1.img", noise(1, 4 << 20));
    let args = ["backup", &image, "--name", "vm1", "--json", "--limit-read", "4M"];
    let quiet = home.run(&args).ok();
    assert!(!quiet.stderr.contains(SAID), "{quiet:?}");
    let mut running = home.spawn(&args);
    let disk = File::options().write(true).open(&image).unwrap();
    let mut writes = 0_u64;
    while running.runs() {
        disk.write_all_at(&writes.to_le_bytes(), 0).unwrap();
        writes += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    let ran = running.end().ok();
    assert!(writes > 10, "it was over after {writes} writes");
    assert_eq!(ran.stderr.matches(SAID).count(), 1, "{ran:?}");
    assert!(ran.stderr.contains("vm1.img was"), "{ran:?}");
}
