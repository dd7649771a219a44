//! Backups of standard input.

use super::harness::{Home, Ran};
use std::io::Write;
use std::process::Stdio;
use wherry_tests::small::noise;

const UNIT: usize = 64 << 10;

/// A repository with chunks of 64 KiB.
fn home() -> Home {
    let home = Home::new();
    home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
    home
}

/// Backs up what is piped in.
fn piped(home: &Home, content: &[u8], args: &[&str]) -> Ran {
    let mut command = home.command();
    let mut child = command.args(["backup", "-"]).args(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_stream_of_any_length_restores() {
    let home = home();
    // Several reads of the pipeline, the last one full, short by a byte, and a byte long.
    let many = 3 << 20;
    for len in [0, 1, UNIT - 1, UNIT, UNIT + 1, 5 * UNIT + 37_856, many - 1, many, many + 1] {
        for zeros in [0, 1, UNIT - 1, UNIT, 2 * UNIT + 7, 20 * UNIT + 3] {
            let mut disk = noise(len as u64, len);
            disk.resize(len + zeros, 0);
            let report = piped(&home, &disk, &["--name", "pipe", "--json"]).ok().json();
            assert_eq!((&report["size"], &report["hole"]), (&disk.len().into(), &0.into()), "{len} and {zeros} zeros");
            let id = report["snapshot"].as_str().unwrap();
            home.run(&["restore", id, "out.raw", "--force", "-q"]).ok();
            let restored = std::fs::read(home.path("out.raw")).unwrap();
            assert!(restored == disk, "{} bytes restored of {len} and {zeros} zeros", restored.len());
            std::fs::remove_file(home.path("out.raw")).unwrap();
        }
    }
    home.run(&["check", "--read-data"]).ok();
}
