//! `wherry agent`: the data of the DataUploads and DataDownloads of one node. It takes those that the controller has prepared,
//! opens what the kubelet has published, moves the data in this process, and says so. What it knows is lost with the process;
//! the next one goes on from the CRs, the repository and the volume.

mod download;
mod follow;
mod health;
mod host;
mod job;
mod location;
mod report;
mod store;
mod upload;
mod verdict;

use crate::budget::NodeBudget;
use crate::cli::AgentArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::throttle::Throttle;
use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use wherry_api::api::{Api, ApiError, Key, Kind};
use wherry_api::base64;
use wherry_api::client::{Access, Client};
use wherry_api::kube_api::KubeApi;
use wherry_api::settings::{CONFIG_MAP, Settings};
use wherry_repo::index::ChunkIndex;
use wherry_repo::{Clock, Error, ErrorKind, Repository};
use zeroize::Zeroizing;

/// Where a pod finds its own namespace.
const NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// Where the agent keeps its lock and what has been begun, on the node.
const STATE_DIR: &str = "/var/lib/wherry";
/// Another agent of this node is looked for so often.
const LOOK: Duration = Duration::from_millis(200);

/// What all work of this process shares.
#[derive(Debug)]
struct Agent {
    api: KubeApi,
    runtime: Handle,
    namespace: String,
    node: String,
    /// Wins over the setting.
    kubelet_root: Option<PathBuf>,
    state_dir: PathBuf,
    context: Context,
    /// None before the first look at them.
    settings: Mutex<Option<Settings>>,
    /// What is sent to all storages, and read from them.
    up: Arc<Throttle>,
    down: Arc<Throttle>,
    budget: Mutex<Option<NodeBudget>>,
    /// One index for each repository, while somebody works with it.
    indexes: Mutex<HashMap<String, Arc<ChunkIndex>>>,
    cluster: Mutex<Option<String>>,
    /// The process was asked to end: nothing is tried again any more.
    leaving: AtomicBool,
}

/// Runs the agent until a signal.
pub(crate) fn run(context: &Context, args: AgentArgs) -> Result<Exit> {
    let AgentArgs { node, namespace, server, ca_file, token_file, kubelet_root, state_dir, health } = args;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let node = node.or_else(|| variable("NODE_NAME"));
    let node = node.ok_or_else(|| Error::invalid("no node is named: give --node, or set NODE_NAME"))?;
    let namespace = match namespace.or_else(|| variable("WHERRY_NAMESPACE")) {
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
    let state_dir = state_dir.unwrap_or_else(|| PathBuf::from(STATE_DIR));
    let _armed = context.cancel.arm("");
    // In a restart of the whole node by kubelet and runtime the old one may still be ending.
    let Some(_lock) = lock(&state_dir, context)? else { return Ok(Exit::Done) };
    let mut own = context.for_job(String::new(), context.budget, context.cancel.clone())?;
    own.run = context.run;
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("wherry-api")
        .enable_all()
        .build()
        .context("no threads for the API server can be started")?;
    let agent = Arc::new(Agent {
        api: KubeApi::new(Client::new(access)?),
        runtime: runtime.handle().clone(),
        namespace,
        node,
        kubelet_root,
        state_dir,
        context: own,
        settings: Mutex::default(),
        up: Arc::new(Throttle::unlimited()),
        down: Arc::new(Throttle::unlimited()),
        budget: Mutex::default(),
        indexes: Mutex::default(),
        cluster: Mutex::default(),
        leaving: AtomicBool::new(false),
    });
    let beat = health.map(|address| health::serve(&address)).transpose()?;
    tracing::info!(node = %agent.node, namespace = %agent.namespace, "the agent runs");
    runtime.block_on(follow::run(agent, beat, context.cancel.clone()));
    // What is still asked of the API server is of no use to anybody.
    runtime.shutdown_background();
    Ok(Exit::Done)
}

/// Keeps every other agent of this node out as long as this process lives, however it ends. `None`: a signal came first.
fn lock(state_dir: &Path, context: &Context) -> Result<Option<File>> {
    let shown = state_dir.display();
    std::fs::create_dir_all(state_dir).with_context(|| format!("state directory {shown} cannot be made"))?;
    let file = File::create(state_dir.join("agent.lock")).with_context(|| format!("no lock can be made in {shown}"))?;
    let mut told = false;
    while !context.cancel.is_cancelled() {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(e) => return Err(anyhow::Error::new(e).context(format!("{shown} cannot be locked"))),
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("another agent of this node runs ({shown} is locked): waits for its end");
        }
        std::thread::sleep(LOOK);
    }
    Ok(None)
}

impl Agent {
    /// The answer of the API server, from a thread that may wait.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// An object in the namespace of Velero; `None` if there is none.
    fn get(&self, kind: Kind, name: &str) -> Result<Option<Value>, ApiError> {
        self.wait(self.api.get(&Key::new(kind, &self.namespace, name)))
    }

    /// One key of a Secret; `None` if there is no such Secret, or no such key in it.
    fn secret(&self, name: &str, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(secret) = self.get(Kind::Secret, name)? else { return Ok(None) };
        let Some(text) = secret["data"][key].as_str() else { return Ok(None) };
        let bytes = base64::decode(text);
        let wrong = || Error::new(ErrorKind::Denied, format!("key {key:?} of Secret {name} is no base64"));
        Ok(Some(Zeroizing::new(bytes.ok_or_else(wrong)?)))
    }

    /// The root of the kubelet on this node.
    fn kubelet_root(&self) -> PathBuf {
        let of_settings = || self.settings.lock().as_ref().map(|settings| settings.kubelet_root.clone());
        self.kubelet_root.clone().unwrap_or_else(|| PathBuf::from(of_settings().unwrap_or_default()))
    }

    /// Takes the ConfigMap as it is now. What cannot be used is said, and what was before stays.
    fn take_settings(&self, map: Option<&Value>) {
        let data = map
            .map(|map| map["data"].clone())
            .filter(Value::is_object)
            .unwrap_or_else(|| Value::Object(Default::default()));
        let data: BTreeMap<String, String> = match serde_json::from_value(data) {
            Ok(data) => data,
            Err(e) => return tracing::error!("ConfigMap {CONFIG_MAP} cannot be read: {e}"),
        };
        match Settings::parse(&data) {
            Ok(settings) => {
                self.up.set(settings.upload_rate);
                self.down.set(settings.download_rate);
                self.budget.lock().get_or_insert_with(|| {
                    let cores = self.context.budget.workers;
                    NodeBudget::new(self.context.settings.memory, cores, settings.slots_per_node)
                });
                *self.settings.lock() = Some(settings);
            }
            Err(wrong) => wrong.iter().for_each(|wrong| tracing::error!("{wrong}")),
        }
    }

    /// How the memory is shared out.
    fn budget(&self) -> NodeBudget {
        let new = || NodeBudget::new(self.context.settings.memory, self.context.budget.workers, 1);
        *self.budget.lock().get_or_insert_with(new)
    }

    /// Id of the cluster: uid of the namespace that every cluster has.
    fn cluster(&self) -> Result<String> {
        let mut known = self.cluster.lock();
        if let Some(known) = known.as_ref() {
            return Ok(known.clone());
        }
        let namespace = self.get(Kind::Namespace, "kube-system")?;
        let uid = namespace.as_ref().and_then(|object| object["metadata"]["uid"].as_str());
        let uid = uid.ok_or_else(|| Error::internal("namespace kube-system has no uid"))?.to_owned();
        *known = Some(uid.clone());
        Ok(uid)
    }

    /// The index of a repository, which all work with it shares.
    fn index(&self, context: &Context, repository: &Repository) -> Result<Arc<ChunkIndex>> {
        let mut indexes = self.indexes.lock();
        let id = repository.id().to_string();
        if let Some(index) = indexes.get(&id) {
            // What other nodes have stored since.
            index.synchronise(repository, false)?;
            return Ok(Arc::clone(index));
        }
        let index = context.index_within(repository, self.budget().index)?;
        indexes.insert(id, Arc::clone(&index));
        Ok(index)
    }

    /// Closes the indexes that nobody works with any more.
    fn close_indexes(&self) {
        self.indexes.lock().retain(|_, index| Arc::strong_count(index) > 1);
    }

    fn now(&self) -> wherry_api::Time {
        wherry_api::Time(self.context.system.now().seconds())
    }
}
