//! What the test suites share: the executable under test, models, fault-injecting storage.
#![forbid(unsafe_code)]

pub mod binary;
