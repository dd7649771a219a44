//! The controller: decides what is done next about each DataUpload and DataDownload, and does it.
//!
//! [`reconcile`] is pure: from what the API server shows ([`reconcile::UploadView`], [`reconcile::DownloadView`]) it
//! gives one [`reconcile::Step`], which is one write at most. [`apply`] alone writes, [`observe`] alone reads, both
//! through the few verbs of [`wherry_api::api::Api`]; [`glance`] has them, too, and answers from the [`mirror`] what may be so old. Killed between any two calls, the next run goes on from what is there.
//! [`run`] is the loop around that: [`wherry_api::watch`] says what changed, [`queue`] what is looked at when, [`lease`] who acts.
//! [`jobs`] and [`sweep`] run beside it: what becomes of snapshots whose backup is gone, and gc, by Jobs; and what no CR removes any more.
#![forbid(unsafe_code)]

pub mod admission;
pub mod apply;
#[doc(hidden)]
pub mod decoders;
pub mod drain;
mod figures;
pub mod glance;
mod holder;
mod host;
pub mod jobs;
mod known;
mod last_good;
pub mod leaks;
pub mod lease;
mod memory;
pub mod mirror;
pub mod observe;
pub mod queue;
pub mod reconcile;
pub mod run;
pub mod sweep;
mod tell;
mod work;
