//! libFuzzer on one of the targets of `wherry_tests::fuzzed`, the one that WHERRY_FUZZ_TARGET names: one executable for all
//! of them, for RocksDB is linked into it.

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use wherry_tests::fuzzed::{Target, panics, target};

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("WHERRY_FUZZ_TARGET").expect("WHERRY_FUZZ_TARGET names the target");
        TARGET.get_or_init(|| target(&name));
        // The hook that is there makes a finding of a panic.
        panics::leave_others_alone();
    },
    |bytes: &[u8]| {
        TARGET.get().expect("it was set first")(bytes);
    }
);
