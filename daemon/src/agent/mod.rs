//! `wherry agent`: the data of the DataUploads and DataDownloads of one node. It takes those that the controller has prepared,
//! opens what the kubelet has published, moves the data in this process, and says so. What it knows is lost with the process;
//! the next one goes on from the CRs, the repository and the volume.

mod begun;
pub(crate) mod blocks;
mod download;
mod follow;
mod host;
mod indexes;
mod job;
pub(crate) mod located;
pub(crate) mod location;
mod report;
pub(crate) mod store;
pub(crate) mod surroundings;
mod upload;
mod verdict;
mod watch;

use crate::budget::NodeBudget;
use crate::cli::AgentArgs;
use crate::context::Context;
use crate::exit::{Exit, only_tell_panics};
use anyhow::{Context as _, Result};
pub(crate) use follow::turn;
use indexes::Indexes;
pub(crate) use job::since;
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
use store::KEY;
use surroundings::Surroundings;
use verdict::{Task, Verdict, verdict};
use wherry_api::api::{Api, ApiError, Key, Kind};
use wherry_api::health::{self, Beat};
use wherry_api::metrics::{ENGINE_INFO, SETTINGS_GOOD, SLOTS};
use wherry_api::settings::{CONFIG_MAP, Settings};
use wherry_block::EngineInfo;
use wherry_repo::index::ChunkIndex;
use wherry_repo::{Clock, Error, Repository};

/// Where the agent keeps its lock and what has been begun, on the node.
const STATE_DIR: &str = "/var/lib/wherry";
/// Another agent of this node is looked for so often.
const LOOK: Duration = Duration::from_millis(200);

/// What all work of this process shares.
#[derive(Debug)]
struct Agent {
    around: Surroundings,
    node: String,
    /// Wins over the setting.
    kubelet_root: Option<PathBuf>,
    state_dir: PathBuf,
    context: Context,
    /// None before the first look at them.
    settings: Mutex<Option<Settings>>,
    budget: Mutex<Option<NodeBudget>>,
    indexes: Indexes,
    /// The process was asked to end: nothing is tried again any more.
    leaving: AtomicBool,
}

/// Runs the agent until a signal.
pub(crate) fn run(context: &Context, args: AgentArgs) -> Result<Exit> {
    // A bug that one volume brings out is told of that volume, and the others go on.
    only_tell_panics();
    let AgentArgs { node, cluster, kubelet_root, state_dir, health } = args;
    let node = node.or_else(|| std::env::var("NODE_NAME").ok().filter(|value| !value.is_empty()));
    let node = node.ok_or_else(|| Error::invalid("no node is named: give --node, or set NODE_NAME"))?;
    let (around, runtime) = Surroundings::new(cluster)?;
    let state_dir = state_dir.unwrap_or_else(|| PathBuf::from(STATE_DIR));
    let _armed = context.cancel.arm("");
    // In a restart of the whole node by kubelet and runtime the old one may still be ending.
    // It lives while it waits for that, and is not ready.
    let beat = health.map(|address| health::serve(&address, Arc::clone(&around.metrics))).transpose()?;
    let Some(_lock) = lock(&state_dir, context, beat.as_deref())? else { return Ok(Exit::Done) };
    let mut own = context.for_job(String::new(), context.budget, context.cancel.clone())?;
    own.run = context.run;
    let agent = Arc::new(Agent {
        around,
        node,
        kubelet_root,
        state_dir,
        context: own,
        settings: Mutex::default(),
        budget: Mutex::default(),
        indexes: Indexes::default(),
        leaving: AtomicBool::new(false),
    });
    match wherry_block::Engine::from(agent.context.settings.engine).find() {
        Ok(engine) => {
            agent.has_engine(&engine);
            tracing::info!(engine = engine.name, why = engine.why, "the engine for devices");
        }
        // Each Block volume fails by it, too.
        Err(e) => tracing::error!("{e}"),
    }
    tracing::info!(node = %agent.node, namespace = %agent.around.namespace, "the agent runs");
    runtime.block_on(follow::run(agent, beat, context.cancel.clone()));
    // What is still asked of the API server is of no use to anybody.
    runtime.shutdown_background();
    Ok(Exit::Done)
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
    /// The CR of a task as the API server has it now, and what is to be done about it; `None`: it is gone.
    fn look(&self, task: &Task) -> Result<Option<(Value, Verdict)>, ApiError> {
        let Some(cr) = self.around.get(task.kind, &task.name)? else { return Ok(None) };
        let pod = self.around.get(Kind::Pod, &task.object())?;
        let verdict = verdict(&self.node, task.kind, &cr, |_| pod.as_ref());
        Ok(Some((cr, verdict)))
    }

    /// The engine for devices is this one.
    fn has_engine(&self, engine: &EngineInfo) {
        self.around.metrics.choose(&ENGINE_INFO, &[engine.name, engine.cause.as_str()]);
    }

    /// The root of the kubelet on this node.
    fn kubelet_root(&self) -> PathBuf {
        let of_settings = || self.settings.lock().as_ref().map(|settings| settings.kubelet_root.clone());
        self.kubelet_root.clone().unwrap_or_else(|| PathBuf::from(of_settings().unwrap_or_default()))
    }

    /// Takes the ConfigMap as it is now. What cannot be used is said, and what was before stays; so it is where there is none, which is
    /// no word for the defaults: it may be on its way (`kubectl replace --force`).
    fn take_settings(&self, map: Option<&Value>) {
        let Some(map) = map else {
            self.around.metrics.set(&SETTINGS_GOOD, &[], 0.0);
            let then = match *self.settings.lock() {
                Some(_) => "the settings before stay",
                None => "nothing is done until there is one",
            };
            return tracing::error!("there is no ConfigMap {CONFIG_MAP}; {then}");
        };
        let data =
            Some(map["data"].clone()).filter(Value::is_object).unwrap_or_else(|| Value::Object(Default::default()));
        let data: BTreeMap<String, String> = match serde_json::from_value(data) {
            Ok(data) => data,
            Err(e) => {
                self.around.metrics.set(&SETTINGS_GOOD, &[], 0.0);
                return tracing::error!("ConfigMap {CONFIG_MAP} cannot be read: {e}");
            }
        };
        let settings = Settings::lenient(&data);
        let good = settings.as_ref().is_ok_and(|(_, foreign)| foreign.is_empty());
        self.around.metrics.set(&SETTINGS_GOOD, &[], if good { 1.0 } else { 0.0 });
        match settings {
            Ok((settings, foreign)) => {
                foreign.iter().for_each(|foreign| tracing::error!("{foreign}; the others are in force"));
                self.around.up.set(settings.upload_rate);
                self.around.down.set(settings.download_rate);
                *self.settings.lock() = Some(settings);
            }
            Err(wrong) => wrong.iter().for_each(|wrong| tracing::error!("{wrong}")),
        }
    }

    /// Looks whether the key is back: the next backup may be a day away, and the alert is not to go on until then.
    async fn look_for_key(&self) {
        if self.around.is_key_missing() {
            match self.around.api.get(&Key::new(Kind::Secret, &self.around.namespace, KEY.0)).await {
                Ok(secret) => {
                    let there = secret.is_some_and(|secret| secret["data"][KEY.1].is_string());
                    self.around.set_key_missing(!there);
                }
                Err(e) => tracing::warn!("{e}"),
            }
        }
    }

    /// How the memory is shared out.
    fn budget(&self) -> NodeBudget {
        *self.budget.lock().get_or_insert_with(|| self.shared_out(1))
    }

    fn shared_out(&self, slots: usize) -> NodeBudget {
        NodeBudget::new(self.context.settings.memory, self.context.budget.workers, slots)
    }

    /// Volumes that may be moved at once by the settings of now. The memory is shared out anew only when nothing runs: what
    /// runs has its share. Fewer than before are heeded at once, as they need no memory.
    fn slots(&self, idle: bool) -> usize {
        let wanted = self.settings.lock().as_ref().map(|settings| settings.slots_per_node);
        let mut budget = self.budget.lock();
        if let Some(wanted) = wanted.filter(|_| idle) {
            *budget = Some(self.shared_out(wanted));
        }
        let slots = budget.as_ref().map_or(1, |budget| budget.slots);
        drop(budget);
        let slots = wanted.map_or(slots, |wanted| slots.min(wanted.max(1)));
        self.around.metrics.set(&SLOTS, &[], slots as f64);
        slots
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
