//! The CSI driver of the end-to-end tests, and a client for it. Never shipped.
#![forbid(unsafe_code)]
