//! What can be typed of the commands that run in a cluster.

use super::Span;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// How the API server is reached, and for which Velero.
#[derive(Args, Clone, Debug, Default)]
pub struct ClusterFlags {
    /// The namespace of Velero [default: that of the pod] [env: WHERRY_NAMESPACE]
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// URL of the API server [default: that of the cluster of the pod]
    #[arg(long, value_name = "URL", requires = "ca_file", requires = "token_file")]
    pub server: Option<String>,
    /// Certificates that the server's is signed by, PEM
    #[arg(long, value_name = "FILE", requires = "server")]
    pub ca_file: Option<PathBuf>,
    /// Bearer token; read again once a minute
    #[arg(long, value_name = "FILE", requires = "server")]
    pub token_file: Option<PathBuf>,
}

/// `wherry agent`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Runs on each node of a cluster, as root and privileged, until SIGTERM: see controller/docs/agent.md. What is under way then
is let go, and the next agent goes on with it. --memory is for all volumes that are moved at once [default here: 1G].

Examples:
  wherry agent --node \"$NODE_NAME\" --namespace velero --health :8081
  wherry agent --node n1 --namespace velero --server https://127.0.0.1:6443 --ca-file ca.crt --token-file token")]
pub struct AgentArgs {
    /// The name of this node [env: NODE_NAME]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterFlags,
    /// Root directory of the kubelet, at the same path as the kubelet has it [default: setting kubeletRoot]
    #[arg(long, value_name = "DIR")]
    pub kubelet_root: Option<PathBuf>,
    /// Where the node's lock and notes of what was begun are kept, on the node [default: /var/lib/wherry]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Answers /healthz, /readyz and /metrics at this address, such as :8081
    #[arg(long, value_name = "ADDRESS")]
    pub health: Option<String>,
}

/// `wherry job ..`: what the controller has done by Jobs, once each.
#[derive(Subcommand, Debug)]
pub enum JobCommand {
    /// Forgets the snapshots of backups that are gone from the cluster and the bucket
    #[command(after_long_help = "\
Looks at the Backups of the cluster, at backups/ in the bucket of the location and at the snapshots beside it, forgets those
whose backup is gone for long enough, and takes that back where one has come again. See controller/docs/forgetting.md. The
result is a line of JSON, and is kept in ConfigMap wherry-jobs.

Examples:
  wherry job forget --location default
  wherry job forget --location default --namespace velero --delay 7d --missing-for 14d")]
    Forget(JobForgetArgs),
    /// Deletes what no snapshot of the location's repository needs any more
    #[command(after_long_help = "\
Does what `wherry gc` does, with the bucket, credentials and key of a BackupStorageLocation. The result is a line of JSON,
and is kept in ConfigMap wherry-jobs.

Examples:
  wherry job gc --location default --grace 24h")]
    Gc(JobGcArgs),
}

/// `wherry job forget`
#[derive(Args, Debug)]
pub struct JobForgetArgs {
    /// The BackupStorageLocation
    #[arg(long, value_name = "NAME")]
    pub location: String,
    /// How long a forget can be taken back [default: 7d]
    #[arg(long, value_name = "TIME")]
    pub delay: Option<Span>,
    /// How long a backup may be missing before its snapshots are forgotten [default: 14d]
    #[arg(long, value_name = "TIME")]
    pub missing_for: Option<Span>,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// `wherry job gc`
#[derive(Args, Debug)]
pub struct JobGcArgs {
    /// The BackupStorageLocation
    #[arg(long, value_name = "NAME")]
    pub location: String,
    /// How long packs are kept after their deletion was decided [default: 24h]
    #[arg(long, value_name = "TIME")]
    pub grace: Option<Span>,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterFlags,
}
