//! The repository of a BackupStorageLocation for the commands that look into it: `--repo velero://NAME`, in a pod of the cluster.

use super::store::{Store, Use};
use super::{Agent, namespace_of_pod};
use crate::context::Context;
use crate::throttle::Throttle;
use anyhow::Result;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::runtime::Builder;
use wherry_api::client::{Access, Client};
use wherry_api::kube_api::KubeApi;
use wherry_api::metrics::{By, Registry};
use wherry_repo::{Error, ErrorKind, Repository};

/// What a place begins with that is the name of a BackupStorageLocation.
pub(crate) const SCHEME: &str = "velero://";

/// Opens the repository of that location, asking the API server as the account of the pod: where it lies, its credentials, its key.
/// Nothing is made.
///
/// # Errors
/// `Invalid` and `Denied` say what has to be mended.
pub(crate) fn open(context: &Context, name: &str) -> wherry_repo::Result<Repository> {
    let opened = try_open(context, name);
    opened.map_err(|e| {
        let kind = crate::backup::kind(&e).unwrap_or(ErrorKind::Invalid);
        Error::new(kind, format!("{SCHEME}{name}: {}", crate::exit::one_line(&e)))
    })
}

fn try_open(context: &Context, name: &str) -> Result<Repository> {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("wherry-api").enable_all().build()?;
    let metrics = Arc::new(Registry::new(By::Agent));
    let agent = Agent {
        api: KubeApi::new(Client::new(Access::in_cluster()?)?),
        runtime: runtime.handle().clone(),
        namespace: namespace_of_pod(None)?,
        node: String::new(),
        kubelet_root: None,
        state_dir: PathBuf::new(),
        context: context.for_job(String::new(), context.budget, context.cancel.clone())?,
        settings: Mutex::default(),
        up: Arc::new(Throttle::unlimited()),
        down: Arc::new(Throttle::unlimited()),
        budget: Mutex::default(),
        indexes: super::Indexes::default(),
        cluster: Mutex::default(),
        leaving: AtomicBool::new(false),
        metrics,
    };
    let store = Store::open(&agent, name, Use::Read, &context.cancel, context)?;
    tracing::debug!(location = %name, place = %store.url, "found");
    runtime.shutdown_background();
    Ok(store.into_repository())
}
