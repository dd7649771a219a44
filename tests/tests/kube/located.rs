//! `--repo velero://NAME`, as in `kubectl exec ds/wherry-agent -- wherry ...`: with what a pod has, and the agent's account alone.

use crate::agent::{disk, snapshot_of, uploaded};
use crate::stand;
use std::process::{Command, Output};
use wherry_api::api::Kind;
use wherry_tests::binary::wherry_bin;
use wherry_tests::hosted::Stand;

/// What the kubelet puts into a pod, seen by one process alone.
const POD: &str = r#"
mount -t tmpfs none /run
folder=/run/secrets/kubernetes.io/serviceaccount
mkdir -p "$folder"
cp "$CA" "$folder/ca.crt"
printf %s "$TOKEN" >"$folder/token"
printf %s "$SPACE" >"$folder/namespace"
unset CA TOKEN SPACE
exec "$@"
"#;

fn in_pod(stand: &Stand, arguments: &[&str]) -> Output {
    let url = stand.kube.url();
    let (host, port) = url.strip_prefix("https://").unwrap().split_once(':').unwrap();
    let cache = stand.path("cache-of-exec");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", POD, "pod"]).arg(wherry_bin()).args(arguments).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CA", stand.kube.authorities());
    command.env("TOKEN", stand.kube.token(&stand.namespace, "wherry-agent")).env("SPACE", &stand.namespace);
    command.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port);
    command.env("WHERRY_REPOSITORY", "velero://default").env("WHERRY_CACHE_DIR", cache).output().unwrap()
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && text.contains(words), "{words:?}, {code}: {output:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn snapshots_are_listed_and_read_in_a_pod_of_the_agent() {
    let stand = stand("agent-located");
    refused(&in_pod(&stand, &["snapshots"]), 2, "there is no repository at s3://velero/agent-located/plugins/wherry");
    assert!(stand.repository_key().is_null(), "looking makes no key");

    let agent = stand.agent();
    let file = disk(&stand, "disk", 64, 8);
    let id = snapshot_of(&uploaded(&stand, &agent, "first", &file));
    agent.end();
    let listed = in_pod(&stand, &["snapshots", "--json"]);
    assert!(listed.status.success(), "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&id.session), "{listed:?}");
    let read = in_pod(&stand, &["cat", &id.session]);
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    assert!(read.stdout == std::fs::read(&file).unwrap(), "it is another disk");

    refused(&in_pod(&stand, &["--repo", "velero://other", "snapshots"]), 2, "no BackupStorageLocation \"other\"");
    refused(&in_pod(&stand, &["init"]), 2, "velero://default is no storage");
    // The key is what opens it, and nobody makes another one.
    let key = stand.key(Kind::Secret, "wherry-repository");
    assert_eq!(stand.get(&key)["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    stand.delete(&key, false);
    refused(&in_pod(&stand, &["snapshots"]), 2, "there is no Secret wherry-repository");
}
