//! Writes what our own encoders make into the corpora of `fuzz/`: `cargo run -p wherry-tests --release --example fuzz_seeds
//! -- fuzz/corpus`. The same bytes each time, but for the key slot.
#![forbid(unsafe_code)]

use std::path::Path;
use wherry_tests::fuzzed::seeds::seeds;

fn main() {
    let to = std::env::args().nth(1).expect("usage: fuzz_seeds DIRECTORY");
    for (target, name, bytes) in seeds() {
        let dir = Path::new(&to).join(target);
        std::fs::create_dir_all(&dir).expect("the directory can be made");
        std::fs::write(dir.join(name), bytes).expect("the directory can be written to");
    }
}
