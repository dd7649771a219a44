//! What the suites share: small repositories, steered time, faulty storage, real servers.
#![forbid(unsafe_code)]

pub mod small;
