//! The controller: decides what is done next about each DataUpload and DataDownload, and does it.
//!
//! [`reconcile`] is pure: from what the API server shows ([`reconcile::UploadView`], [`reconcile::DownloadView`]) it
//! gives one [`reconcile::Step`], which is one write at most. [`apply`] alone writes, [`observe`] alone reads, both
//! through the few verbs of [`api::Api`]. Killed between any two calls, the next run goes on from what is there.
#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod apply;
pub mod client;
pub mod kube_api;
pub mod observe;
pub mod reconcile;
