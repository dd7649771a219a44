//! The same as `fuzz`, to be compiled with AddressSanitizer: `scripts/lib/fuzz_rustc`.
#![no_main]

mod fuzzing;
