//! What the suites share: small repositories, steered time, faulty storage, real servers.
#![forbid(unsafe_code)]

pub mod authority;
pub mod binary;
pub mod block_service;
pub mod clouds;
pub mod cluster;
pub mod faulty_s3;
pub mod fleeting;
pub mod fuse;
pub mod fuzzed;
pub mod home;
pub mod hosted;
pub mod jobs;
pub mod kube;
pub mod made_trees;
pub mod meddling;
pub mod model;
pub mod nolinks;
pub mod protocol;
pub mod recording;
pub mod seaweed;
pub mod server;
pub mod sim;
pub mod small;
pub mod soak;
pub mod steered;
pub mod trees;
pub mod volumes;
pub mod witness;
