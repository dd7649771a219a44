//! libFuzzer on one of the targets of `wherry_tests::fuzzed`, the one that WHERRY_FUZZ_TARGET names: one executable for all
//! of them, for RocksDB is linked into it.

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use wherry::tree::inside::filesystem::THREAD;
use wherry_tests::fuzzed::{Target, target};

static TARGET: OnceLock<Target> = OnceLock::new();

/// Parsers of other people's filesystems may panic: whoever waits for their thread says so. Any other panic is a finding, and
/// the hook that is there makes one of it.
fn leave_parsers_alone() {
    let finding = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some(THREAD) {
            finding(info);
        }
    }));
}

fuzz_target!(
    init: {
        let name = std::env::var("WHERRY_FUZZ_TARGET").expect("WHERRY_FUZZ_TARGET names the target");
        TARGET.get_or_init(|| target(&name));
        leave_parsers_alone();
    },
    |bytes: &[u8]| {
        TARGET.get().expect("it was set first")(bytes);
    }
);
