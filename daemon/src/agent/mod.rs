//! `wherry agent`: the data of the DataUploads and DataDownloads of one node. It takes those that the controller has prepared,
//! opens what the kubelet has published, moves the data in this process, and says so. What it knows is lost with the process;
//! the next one goes on from the CRs, the repository and the volume.

mod begun;
mod download;
mod follow;
mod host;
mod indexes;
mod job;
pub(crate) mod located;
mod location;
mod report;
mod store;
mod upload;
mod verdict;
mod watch;

use crate::budget::NodeBudget;
use crate::cli::AgentArgs;
use crate::context::Context;
use crate::exit::{Exit, only_tell_panics};
use crate::throttle::Throttle;
use anyhow::{Context as _, Result};
use indexes::Indexes;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use verdict::{Task, Verdict, verdict};
use wherry_api::api::{Api, ApiError, Key, Kind, Refusal};
use wherry_api::base64;
use wherry_api::client::{Access, Client};
use wherry_api::health::{self, Beat};
use wherry_api::kube_api::KubeApi;
use wherry_api::metrics::{By, Registry, SETTINGS_GOOD, SLOTS};
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
/// What is read is answered in this time, or asked again: nobody waits for a server that says nothing any longer.
const BRIEF: Duration = Duration::from_secs(10);

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
    indexes: Indexes,
    cluster: Mutex<Option<String>>,
    /// The process was asked to end: nothing is tried again any more.
    leaving: AtomicBool,
    /// What it tells of itself.
    metrics: Arc<Registry>,
}

/// Runs the agent until a signal.
pub(crate) fn run(context: &Context, args: AgentArgs) -> Result<Exit> {
    // A bug that one volume brings out is told of that volume, and the others go on.
    only_tell_panics();
    let AgentArgs { node, namespace, server, ca_file, token_file, kubelet_root, state_dir, health } = args;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let node = node.or_else(|| variable("NODE_NAME"));
    let node = node.ok_or_else(|| Error::invalid("no node is named: give --node, or set NODE_NAME"))?;
    let namespace = namespace_of_pod(namespace)?;
    let access = match (&server, &ca_file, &token_file) {
        (Some(server), Some(authorities), Some(token)) => Access::with_files(server, authorities, token)?,
        _ => Access::in_cluster()?,
    };
    let state_dir = state_dir.unwrap_or_else(|| PathBuf::from(STATE_DIR));
    let _armed = context.cancel.arm("");
    // In a restart of the whole node by kubelet and runtime the old one may still be ending.
    // It lives while it waits for that, and is not ready.
    let metrics = Arc::new(Registry::new(By::Agent));
    let beat = health.map(|address| health::serve(&address, Arc::clone(&metrics))).transpose()?;
    let Some(_lock) = lock(&state_dir, context, beat.as_deref())? else { return Ok(Exit::Done) };
    let mut own = context.for_job(String::new(), context.budget, context.cancel.clone())?;
    own.run = context.run;
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("wherry-api")
        .enable_all()
        .build()
        .context("no threads for the API server can be started")?;
    let agent = Arc::new(Agent {
        api: KubeApi::new(Client::new(access)?.counting(Arc::clone(&metrics))),
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
        indexes: Indexes::default(),
        cluster: Mutex::default(),
        leaving: AtomicBool::new(false),
        metrics,
    });
    tracing::info!(node = %agent.node, namespace = %agent.namespace, "the agent runs");
    runtime.block_on(follow::run(agent, beat, context.cancel.clone()));
    // What is still asked of the API server is of no use to anybody.
    runtime.shutdown_background();
    Ok(Exit::Done)
}

/// The namespace of Velero: the one that is named, else that of the environment, else that of the pod.
fn namespace_of_pod(named: Option<String>) -> Result<String> {
    let of_environment = std::env::var("WHERRY_NAMESPACE").ok().filter(|value| !value.is_empty());
    if let Some(namespace) = named.or(of_environment) {
        return Ok(namespace);
    }
    let text = std::fs::read_to_string(NAMESPACE);
    let why = || format!("no --namespace is given, and {NAMESPACE} cannot be read");
    Ok(text.with_context(why)?.trim().to_owned())
}

/// Keeps every other agent of this node out as long as this process lives, however it ends. `None`: a signal came first.
fn lock(state_dir: &Path, context: &Context, beat: Option<&Beat>) -> Result<Option<File>> {
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
        if let Some(beat) = beat {
            beat.beat(false);
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

    /// The same, but no longer than [`BRIEF`]; `call` goes into the error.
    fn wait_briefly<T>(&self, call: &str, future: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        let silent = || ApiError::new(Refusal::Unavailable, call, format!("no answer within {} s", BRIEF.as_secs()));
        self.wait(async { tokio::time::timeout(BRIEF, future).await.unwrap_or_else(|_| Err(silent())) })
    }

    /// An object in the namespace of Velero; `None` if there is none.
    fn get(&self, kind: Kind, name: &str) -> Result<Option<Value>, ApiError> {
        self.wait_briefly(&format!("get {name}"), self.api.get(&Key::new(kind, &self.namespace, name)))
    }

    /// The CR of a task as the API server has it now, and what is to be done about it; `None`: it is gone.
    fn look(&self, task: &Task) -> Result<Option<(Value, Verdict)>, ApiError> {
        let Some(cr) = self.get(task.kind, &task.name)? else { return Ok(None) };
        let pod = self.get(Kind::Pod, &task.object())?;
        let verdict = verdict(&self.node, task.kind, &cr, |_| pod.as_ref());
        Ok(Some((cr, verdict)))
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
            Err(e) => {
                self.metrics.set(&SETTINGS_GOOD, &[], 0.0);
                return tracing::error!("ConfigMap {CONFIG_MAP} cannot be read: {e}");
            }
        };
        let settings = Settings::parse(&data);
        self.metrics.set(&SETTINGS_GOOD, &[], if settings.is_ok() { 1.0 } else { 0.0 });
        match settings {
            Ok(settings) => {
                self.up.set(settings.upload_rate);
                self.down.set(settings.download_rate);
                self.budget.lock().get_or_insert_with(|| {
                    let cores = self.context.budget.workers;
                    NodeBudget::new(self.context.settings.memory, cores, settings.slots_per_node)
                });
                self.metrics.set(&SLOTS, &[], self.budget().slots as f64);
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
        if let Some(known) = self.cluster.lock().as_ref() {
            return Ok(known.clone());
        }
        let namespace = self.get(Kind::Namespace, "kube-system")?;
        let uid = namespace.as_ref().and_then(|object| object["metadata"]["uid"].as_str());
        let uid = uid.ok_or_else(|| Error::internal("namespace kube-system has no uid"))?.to_owned();
        *self.cluster.lock() = Some(uid.clone());
        Ok(uid)
    }

    /// The index of a repository, which all work with it shares. Of several repositories one has the large share of the memory.
    fn index(&self, context: &Context, repository: &Repository) -> Result<Arc<ChunkIndex>> {
        let budget = self.budget();
        let open = |is_large| {
            let memory = if is_large { budget.index } else { NodeBudget::FURTHER_INDEX };
            context.index_within(repository, memory)
        };
        // What other nodes have stored since.
        let catch_up = |index: &ChunkIndex| index.synchronise(repository, false).map(drop);
        Ok(self.indexes.get(&repository.id().to_string(), open, catch_up)?)
    }

    fn now(&self) -> wherry_api::Time {
        wherry_api::Time(self.context.system.now().seconds())
    }
}
