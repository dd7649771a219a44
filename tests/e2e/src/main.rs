//! The `wherry-test-csi` executable: a CSI driver for tests on loop devices.
#![forbid(unsafe_code)]

fn main() {}
