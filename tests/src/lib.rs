//! What the suites share: small repositories, steered time, faulty storage, real servers; and the model of
//! the protocol.
#![forbid(unsafe_code)]

pub mod binary;
pub mod protocol;
pub mod small;
