//! The target whose name this program has.
#![no_main]

use std::sync::LazyLock;
use wherry_tests::fuzzed::{Target, target};

static TARGET: LazyLock<Target> = LazyLock::new(|| target(env!("CARGO_BIN_NAME")));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    TARGET(bytes);
});
