//! What can be typed of the commands that run in a cluster.

use clap::Args;
use std::path::PathBuf;

/// `wherry agent`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Runs on each node of a cluster, as root and privileged, until SIGTERM: see controller/docs/plan.md. What is under way then
is let go, and the next agent goes on with it. --memory is for all volumes that are moved at once [default here: 1G].

Examples:
  wherry agent --node \"$NODE_NAME\" --namespace velero --health :8081
  wherry agent --node n1 --namespace velero --server https://127.0.0.1:6443 --ca-file ca.crt --token-file token")]
pub struct AgentArgs {
    /// The name of this node [env: NODE_NAME]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
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
