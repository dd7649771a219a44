//! Many processes on one repository behind a server that fails, killed and stopped at random; `scripts/soak` runs it for
//! as long as one likes. Needs root, /dev/fuse and the S3 server.
#![forbid(unsafe_code)]

use std::time::Duration;
use wherry_tests::soak::{Length, record_head, soak};

/// Minutes to soak for; without it, until everything has happened once.
const WHERRY_SOAK_MINUTES: &str = "WHERRY_SOAK_MINUTES";
/// Another seed gives another soak.
const WHERRY_SOAK_SEED: &str = "WHERRY_SOAK_SEED";

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is to be a whole number, not {text:?}")))
}

#[test]
fn what_was_acknowledged_restores_whatever_happens() {
    let minutes = number(WHERRY_SOAK_MINUTES);
    let least = Duration::from_secs(60 * minutes.unwrap_or(0));
    let length = Length { least, most: least + Duration::from_secs(600) };
    let seed = number(WHERRY_SOAK_SEED).unwrap_or(1);
    let outcome = soak(seed, length, &|line| println!("{line}"));
    println!("{}", outcome.text());
    assert!(outcome.wrong.is_empty(), "{}\n{}", outcome.wrong.join("\n"), outcome.text());
    let lacking = outcome.lacking(length.is_long());
    assert_eq!(lacking, [""; 0], "this did not happen, so nothing was shown about it\n{}", outcome.text());
    // For the table in `repo/docs/concurrency-results.md`; `scripts/soak` looks for it, and puts the day before it.
    println!("{}", outcome.record(minutes.unwrap_or(0), seed));
}

#[test]
fn the_page_keeps_what_a_soak_tells() {
    let page = include_str!("../../repo/docs/concurrency-results.md");
    assert!(page.contains(&format!("\n{}\n", record_head())), "{}", record_head());
}
