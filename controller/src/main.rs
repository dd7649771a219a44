//! The `wherry-controller` executable.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::{Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use wherry_api::api::{Api, Key, Kind};
use wherry_api::client::{Access, Client};
use wherry_api::health::{self, Beat};
use wherry_api::kube_api::KubeApi;
use wherry_api::metrics::{By, Registry};
use wherry_api::settings::{ENTRIES, Settings};
use wherry_api::time::parse_duration;
use wherry_controller::drain::{DrainError, LEFT, Times, drain};
use wherry_controller::run::{Options, RETRY};

/// The controller of wherry in a cluster: exposes the volumes of DataUploads and DataDownloads, gives restored ones to
/// their PVCs, and leaves nothing behind. It has run in a cluster of one node.
#[derive(Debug, Parser)]
#[command(name = "wherry-controller", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the controller until SIGTERM or SIGINT. Of several replicas one acts, the one with the Lease.
    Run(RunArgs),
    /// Ends all work and waits until nothing of it is left: before wherry is removed. Pauses, cancels what is under way, and says
    /// what keeps it; the controller has to run meanwhile, as it is what removes things. Secret wherry-repository stays.
    /// Exit code 3: its time is over, and something is left; 1: it could not go on.
    Drain(DrainArgs),
    /// Lists the settings of ConfigMap `wherry`: key, default, unit, what it does.
    Settings,
    /// Says whether the `data` of a ConfigMap can be used: a JSON file, as from `kubectl get cm wherry -o json`.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// How the API server is reached, and for which Velero.
#[derive(Debug, clap::Args)]
struct ClusterArgs {
    /// Namespace of Velero; default: that of the pod.
    #[arg(long, env = "WHERRY_NAMESPACE")]
    namespace: Option<String>,
    /// URL of the API server; default: that of the cluster of the pod.
    #[arg(long, requires = "ca_file", requires = "token_file")]
    server: Option<String>,
    /// Certificates that the server's is signed by, PEM.
    #[arg(long, requires = "server")]
    ca_file: Option<PathBuf>,
    /// Bearer token; read again once a minute.
    #[arg(long, requires = "server")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Image of hosting pods where the setting hostingImage is empty; default: that of the pod that --pod names.
    #[arg(long, env = "WHERRY_IMAGE", default_value = "")]
    image: String,
    /// Name of the pod that this runs in.
    #[arg(long, env = "WHERRY_POD")]
    pod: Option<String>,
    /// Answers /healthz, /readyz and /metrics at this address, such as :8081.
    #[arg(long, value_name = "ADDRESS")]
    health: Option<String>,
    /// What is logged to stderr: error, warn, info, debug, trace.
    #[arg(long, env = "WHERRY_LOG", default_value = "info")]
    log: LevelFilter,
}

#[derive(Debug, clap::Args)]
struct DrainArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How long work under way may go on before it is canceled, such as 30m; 0s: not at all.
    #[arg(long, value_parser = parse_duration, default_value = "0s")]
    wait: Duration,
    /// How long it then waits for all to be gone.
    #[arg(long, value_parser = parse_duration, default_value = "10m")]
    timeout: Duration,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr().lock(), "wherry-controller: {e:#}");
            match e.downcast_ref::<DrainError>() {
                Some(DrainError::Left { .. }) => ExitCode::from(LEFT),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match &args.command {
        Command::Run(args) => {
            drop(out);
            return control(args);
        }
        Command::Drain(args) => {
            let (access, namespace) = args.cluster.resolve()?;
            let api = KubeApi::new(Client::new(access)?);
            let times = Times { wait: args.wait, timeout: args.timeout };
            // Whoever reads it may have gone.
            let say = |text: &str| drop(writeln!(std::io::stderr().lock(), "{text}"));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return Ok(runtime.block_on(drain(&api, &namespace, times, say))?);
        }
        Command::Settings => {
            for entry in ENTRIES {
                writeln!(out, "{:22} {:18} {:28} {}", entry.key, entry.default, entry.unit, entry.about)?;
            }
        }
        Command::Check { file } => {
            let data = data_of(file)?;
            if let Err(wrong) = Settings::parse(&data) {
                anyhow::bail!(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
            }
            writeln!(out, "{} settings, all good", data.len())?;
        }
    }
    Ok(())
}

/// Requests a second to the API server at most, and at once after a pause.
const REQUESTS: (u32, u32) = (19, 40);

/// Name of the container in controller/deploy.
const CONTAINER: &str = "controller";

/// Where a pod finds its own namespace.
const NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

impl ClusterArgs {
    /// Access to the API server, and the namespace of Velero.
    fn resolve(&self) -> anyhow::Result<(Access, String)> {
        let access = match (&self.server, &self.ca_file, &self.token_file) {
            (Some(server), Some(authorities), Some(token)) => Access::with_files(server, authorities, token)?,
            _ => Access::in_cluster()?,
        };
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => std::fs::read_to_string(NAMESPACE)
                .with_context(|| format!("no --namespace is given, and {NAMESPACE} cannot be read"))?
                .trim()
                .to_owned(),
        };
        Ok((access, namespace))
    }
}

fn control(args: &RunArgs) -> anyhow::Result<()> {
    // Ours alone: what the HTTP client says of its connections helps nobody.
    let ours = Targets::new().with_target("wherry_controller", args.log);
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(layer.with_filter(ours)).init();
    let (ask, stop) = tokio::sync::watch::channel(false);
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            tracing::info!("signal {signal}: ends after what is under way");
            let _ = ask.send(true); // an error says that it has ended
        }
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let registry = Arc::new(Registry::new(By::Controller));
    let beat = args.health.as_ref().map(|address| health::serve(address, Arc::clone(&registry))).transpose()?;
    runtime.block_on(async {
        let Some((api, namespace, image)) = reach(args, &registry, beat.as_deref(), stop.clone()).await? else {
            return Ok(());
        };
        let options = Options { namespace, identity: identity()?, image, registry, beat };
        Ok(wherry_controller::run::run(api, options, stop).await?)
    })
}

/// Access to the API server, the namespace and the image of hosting pods. A server that gives no answer is waited for, as
/// whoever ends is started again later and later; what leads to it (address, certificates) is looked up anew each time. None:
/// it was asked to end meanwhile.
async fn reach(
    args: &RunArgs,
    registry: &Arc<Registry>,
    beat: Option<&Beat>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> anyhow::Result<Option<(KubeApi, String, String)>> {
    while !*stop.borrow() {
        let (access, namespace) = args.cluster.resolve()?;
        let client = Client::new(access)?.paced(REQUESTS.0, REQUESTS.1);
        let api = KubeApi::new(client.counting(Arc::clone(registry)));
        let Some(pod) = args.pod.as_ref().filter(|_| args.image.is_empty()) else {
            return Ok(Some((api, namespace, args.image.clone())));
        };
        match api.get(&Key::new(Kind::Pod, &namespace, pod)).await {
            Ok(own) => {
                let image = image_of(own.as_ref(), &namespace, pod)?;
                return Ok(Some((api, namespace, image)));
            }
            Err(e) => tracing::warn!("the image of pod {pod}: {e}; it is asked for again every {} s", RETRY.as_secs()),
        }
        if let Some(beat) = beat {
            beat.beat(false);
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = stop.changed() => {}
        }
    }
    Ok(None)
}

/// The image of our container in that pod. An overlay that changes the image of the controller need not say it twice.
fn image_of(own: Option<&serde_json::Value>, namespace: &str, pod: &str) -> anyhow::Result<String> {
    let containers = own.and_then(|object| object["spec"]["containers"].as_array()).map_or(&[][..], Vec::as_slice);
    // Others may have put a container of theirs beside it.
    let ours = containers.iter().find(|container| container["name"] == CONTAINER).or(containers.first());
    let image = ours.and_then(|container| container["image"].as_str());
    let image = image.with_context(|| format!("--pod: there is no pod {pod} in {namespace}; give --image instead"))?;
    Ok(image.to_owned())
}

/// The pod's name, and what tells this process from others of it: a name never comes again.
fn identity() -> anyhow::Result<String> {
    let pod = std::env::var("HOSTNAME").unwrap_or_default();
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("random bytes for the name in the Lease")?;
    let random = u64::from_ne_bytes(random);
    Ok(format!("{}_{random:016x}", if pod.is_empty() { "wherry" } else { &pod }))
}

fn data_of(file: &std::path::Path) -> anyhow::Result<BTreeMap<String, String>> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    let object: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{name} is no JSON"))?;
    let data = object.get("data").cloned().unwrap_or_else(|| serde_json::json!({}));
    serde_json::from_value(data).with_context(|| format!("data of {name} is no map of texts"))
}
