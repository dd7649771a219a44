//! What libFuzzer runs; `scripts/fuzz` builds it.
#![no_main]

mod fuzzing;
