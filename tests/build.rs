//! Leaves the debug information of RocksDB's C++ out of test executables: with it each is half a gigabyte long.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg=-Wl,--strip-debug");
}
