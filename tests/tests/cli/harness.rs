//! What the suites of the executable share is in the library of this crate.

pub use wherry_tests::home::*;
