//! What the controller and the agent say to each other, as plain types: the objects of Velero and Kubernetes as far as
//! wherry reads them, the names and marks of its own objects, the plan, results of jobs, settings. And how both say it:
//! the verbs ([`api`]), the HTTPS beneath ([`client`], [`kube_api`]), what changes ([`watch`]).
//!
//! Nothing here decides anything: it parses, prints, asks and hears. Objects are only ever written by merge patches of
//! single fields, so what these types do not know stays as it is in the cluster.
#![forbid(unsafe_code)]

pub mod api;
pub mod base;
pub mod base64;
pub mod by_class;
pub mod client;
pub mod cluster;
pub mod decode;
#[doc(hidden)]
pub mod decoders;
pub mod download;
pub mod events;
pub mod health;
pub mod job;
pub mod kube_api;
pub mod labels;
pub mod location;
pub mod meta;
pub mod metrics;
pub mod names;
mod page;
pub mod phase;
pub mod plan;
mod pods;
pub mod quantity;
pub mod settings;
pub mod snapshot;
pub mod snapshot_id;
pub mod snapshot_metadata;
pub mod time;
pub mod upload;
pub mod watch;

pub use base::Base;
pub use by_class::{ByClass, KeepBase, WaitForNode};
pub use download::DataDownload;
pub use location::BackupStorageLocation;
pub use meta::Meta;
pub use phase::Phase;
pub use plan::{DataDone, DownloadPlan, LocalVolume, UploadPlan};
pub use pods::Env;
pub use settings::Settings;
pub use snapshot::{VolumeSnapshot, VolumeSnapshotContent};
pub use snapshot_id::SnapshotId;
pub use time::Time;
pub use upload::DataUpload;
