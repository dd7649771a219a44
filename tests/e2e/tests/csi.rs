//! The test CSI driver as a process of its own, called over its sockets as the sidecars and the kubelet do. Loop
//! devices and filesystems are real; root is needed.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "all of it is test code")]

#[path = "csi/changed.rs"]
mod changed;
#[path = "csi/faults.rs"]
mod faults;
#[path = "csi/lab.rs"]
mod lab;
#[path = "csi/volumes.rs"]
mod volumes;
#[path = "csi/wire.rs"]
mod wire;
