//! What the suites share: small repositories, steered time, faulty storage, real servers.
#![forbid(unsafe_code)]

pub mod binary;
pub mod small;
