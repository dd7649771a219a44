//! What all work on behalf of a cluster shares, that of an agent and that of a Job: the API server, asked by threads that wait,
//! the namespace of Velero, and limits on what is moved.

use crate::cli::ClusterFlags;
use crate::throttle::Throttle;
use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use wherry_api::api::{Api, ApiError, Key, Kind, Refusal};
use wherry_api::base64;
use wherry_api::client::{Access, Client};
use wherry_api::kube_api::KubeApi;
use wherry_api::metrics::{By, KEY_MISSING, Registry};
use wherry_repo::{Error, ErrorKind};
use zeroize::Zeroizing;

/// Where a pod finds its own namespace.
const NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// What is read is answered in this time, or asked again: nobody waits for a server that says nothing any longer.
const BRIEF: Duration = Duration::from_secs(10);

/// They.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) api: KubeApi,
    pub(crate) runtime: Handle,
    /// Of Velero.
    pub(crate) namespace: String,
    /// What is sent to all storages, and read from them.
    pub(crate) up: Arc<Throttle>,
    pub(crate) down: Arc<Throttle>,
    /// What the process tells of itself.
    pub(crate) metrics: Arc<Registry>,
    cluster: Mutex<Option<String>>,
    key_missing: AtomicBool,
}

impl Surroundings {
    /// As the command line, the environment and the pod say. The runtime is what the client of the API server works on.
    ///
    /// # Errors
    /// When something is not said anywhere.
    pub(crate) fn new(flags: ClusterFlags) -> Result<(Self, Runtime)> {
        let ClusterFlags { namespace, server, ca_file, token_file } = flags;
        let variable = std::env::var("WHERRY_NAMESPACE").ok().filter(|value| !value.is_empty());
        let namespace = match namespace.or(variable) {
            Some(namespace) => namespace,
            None => {
                let text = std::fs::read_to_string(NAMESPACE);
                let why = || format!("no --namespace is given, and {NAMESPACE} cannot be read");
                text.with_context(why)?.trim().to_owned()
            }
        };
        let access = match (&server, &ca_file, &token_file) {
            (Some(server), Some(authorities), Some(token)) => Access::with_files(server, authorities, token)?,
            _ => Access::in_cluster()?,
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("wherry-api")
            .enable_all()
            .build()
            .context("no threads for the API server can be started")?;
        let metrics = Arc::new(Registry::new(By::Agent));
        let this = Self {
            api: KubeApi::new(Client::new(access)?.counting(Arc::clone(&metrics))),
            runtime: runtime.handle().clone(),
            namespace,
            up: Arc::new(Throttle::unlimited()),
            down: Arc::new(Throttle::unlimited()),
            metrics,
            cluster: Mutex::default(),
            key_missing: AtomicBool::new(false),
        };
        Ok((this, runtime))
    }

    /// The answer of the API server, from a thread that may wait.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The same, but no longer than [`BRIEF`]; `call` goes into the error.
    pub(crate) fn wait_briefly<T>(
        &self,
        call: &str,
        future: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let silent = || ApiError::new(Refusal::Unavailable, call, format!("no answer within {} s", BRIEF.as_secs()));
        self.wait(async { tokio::time::timeout(BRIEF, future).await.unwrap_or_else(|_| Err(silent())) })
    }

    /// An object in the namespace of Velero; `None` if there is none.
    pub(crate) fn get(&self, kind: Kind, name: &str) -> Result<Option<Value>, ApiError> {
        self.wait_briefly(&format!("get {name}"), self.api.get(&Key::new(kind, &self.namespace, name)))
    }

    /// One key of a Secret; `None` if there is no such Secret, or no such key in it.
    pub(crate) fn secret(&self, name: &str, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(secret) = self.get(Kind::Secret, name)? else { return Ok(None) };
        let Some(text) = secret["data"][key].as_str() else { return Ok(None) };
        let bytes = base64::decode(text);
        let wrong = || Error::new(ErrorKind::Denied, format!("key {key:?} of Secret {name} is no base64"));
        Ok(Some(Zeroizing::new(bytes.ok_or_else(wrong)?)))
    }

    /// Whether there are repositories and not the key that opens them, as far as was looked last.
    pub(crate) fn is_key_missing(&self) -> bool {
        self.key_missing.load(Ordering::SeqCst)
    }

    /// What was found of that.
    pub(crate) fn set_key_missing(&self, missing: bool) {
        self.key_missing.store(missing, Ordering::SeqCst);
        self.metrics.set(&KEY_MISSING, &[], if missing { 1.0 } else { 0.0 });
    }

    /// Id of the cluster: uid of the namespace that every cluster has.
    pub(crate) fn cluster(&self) -> Result<String> {
        if let Some(known) = self.cluster.lock().as_ref() {
            return Ok(known.clone());
        }
        let namespace = self.get(Kind::Namespace, "kube-system")?;
        let uid = namespace.as_ref().and_then(|object| object["metadata"]["uid"].as_str());
        let uid = uid.ok_or_else(|| Error::internal("namespace kube-system has no uid"))?.to_owned();
        *self.cluster.lock() = Some(uid.clone());
        Ok(uid)
    }
}
