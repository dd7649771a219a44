//! The CSI driver of the end-to-end tests, which misbehaves on demand, and a client for it. Never shipped.
#![forbid(unsafe_code)]

pub mod client;
pub mod csi;
pub mod driver;
pub mod faults;
mod host;
mod images;
pub mod registration;
pub mod serve;
pub mod store;
pub mod tidy;
pub mod wire;
