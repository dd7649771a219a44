//! A real Kubernetes API server: etcd and kube-apiserver, built by `scripts/lib/kube.sh`, on loopback ports of their
//! own. Nothing else of a cluster runs: no controller, no scheduler, no kubelet. What those would do, a test does.

use crate::server::{Process, free_ports};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use wherry_api::api::ApiError;
use wherry_api::client::{Access, Client, Token};
use wherry_api::kube_api::KubeApi;

/// Environment variable with the folder that has `bin/` and `crds/`.
pub const WHERRY_TEST_KUBE: &str = "WHERRY_TEST_KUBE";

/// What is written of what: of our accounts every request, of others nothing.
const AUDIT: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
  "rules": [{ "level": "Metadata", "userGroups": ["system:serviceaccounts"] }, { "level": "None" }]
}"#;

/// A running API server with the custom resources of Velero and of the snapshot controller; dropped, it and its etcd
/// are killed and their data removed. Killed with this process, too.
#[derive(Debug)]
pub struct Kube {
    tools: PathBuf,
    port: u16,
    runtime: Runtime,
    admin: Option<KubeApi>,
    processes: Vec<Process>,
    folder: TempDir,
}

impl Kube {
    /// Token of who may do everything.
    pub const ADMIN: &str = "admin-token";

    /// Starts a server and returns when it serves the custom resources.
    ///
    /// # Panics
    /// When there is none to start, or it does not answer within two minutes.
    pub fn start() -> Self {
        for _ in 0..3 {
            if let Some(kube) = Self::try_start() {
                kube.install_custom_resources();
                return kube;
            }
        }
        panic!("kube-apiserver did not start; its log is above");
    }

    /// Free ports can be taken by others before the server takes them; then it ends, and this is `None`.
    fn try_start() -> Option<Self> {
        let Some(tools) = std::env::var_os(WHERRY_TEST_KUBE).map(PathBuf::from) else {
            panic!(
                "there is no API server to test with ({WHERRY_TEST_KUBE} is not set): run scripts/test, which builds one"
            );
        };
        let folder = tempfile::Builder::new().prefix("wherry-kube-").tempdir().expect("a temporary folder");
        let [port, etcd, peer] = free_ports();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for the clients");
        let mut kube = Self { tools, port, runtime, admin: None, processes: Vec::new(), folder };
        kube.write_identity();
        kube.spawn("etcd", |command, at| {
            let (client, peer) = (format!("http://127.0.0.1:{etcd}"), format!("http://127.0.0.1:{peer}"));
            command
                .arg(format!("--data-dir={}", at("etcd")))
                .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
                .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
                .args([format!("--initial-cluster=default={peer}"), "--log-level=warn".into()])
                .arg("--unsafe-no-fsync"); // its data dies with it
        });
        kube.spawn("kube-apiserver", |command, at| {
            command
                .args([format!("--etcd-servers=http://127.0.0.1:{etcd}"), format!("--secure-port={port}")])
                .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"])
                .args(["--service-cluster-ip-range=10.96.0.0/24", "--authorization-mode=RBAC", "--allow-privileged"])
                .args([format!("--cert-dir={}", at("tls")), format!("--token-auth-file={}", at("tokens"))])
                .arg("--service-account-issuer=https://kubernetes.default.svc")
                .args([format!("--service-account-key-file={}", at("accounts.key"))])
                .args([format!("--service-account-signing-key-file={}", at("accounts.key"))])
                .args([
                    format!("--audit-policy-file={}", at("audit.json")),
                    format!("--audit-log-path={}", at("audit")),
                ])
                // As OpenShift has it: an ownerRef that blocks deletion needs a right to the owner's finalizers.
                .arg("--enable-admission-plugins=OwnerReferencesPermissionEnforcement");
        });
        kube.wait_until_ready().then_some(kube)
    }

    /// The administrator's token, the key of service accounts, and what is written of requests.
    fn write_identity(&self) {
        let at = |name: &str| self.folder.path().join(name);
        std::fs::create_dir(at("tls")).expect("a folder for the server's certificate");
        std::fs::write(at("tokens"), format!("{},admin,admin,system:masters\n", Self::ADMIN))
            .expect("the tokens are written");
        std::fs::write(at("audit.json"), AUDIT).expect("the audit policy is written");
        let key = Command::new("openssl").args(["genrsa", "-out"]).arg(at("accounts.key")).arg("2048").output();
        assert!(key.is_ok_and(|output| output.status.success()), "openssl makes a key");
    }

    fn spawn(&mut self, name: &str, arguments: impl FnOnce(&mut Command, &dyn Fn(&str) -> String)) {
        let folder = self.folder.path();
        let log = std::fs::File::create(folder.join(format!("{name}.log"))).expect("a log is made");
        let tool = self.tools.join("bin").join(name);
        self.processes.push(Process::start(|command| {
            arguments(command.arg(tool), &|name| folder.join(name).display().to_string());
            command
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a second handle of the log"))
                .stderr(log)
                .current_dir(folder);
        }));
    }

    fn wait_until_ready(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(120) {
            // The server makes its certificate when it starts.
            if self.admin.is_none() && self.authorities().exists() {
                self.admin = Client::new(self.access(Token::Fixed(Self::ADMIN.to_owned()))).ok().map(KubeApi::new);
            }
            let namespace = "/api/v1/namespaces/default";
            if self.admin.is_some() && self.ask(Method::GET, namespace, None).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for name in ["etcd", "kube-apiserver"] {
            let log = std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
            let mut last: Vec<&str> = log.lines().rev().take(20).collect();
            last.reverse();
            eprintln!("{name}: {}", last.join("\n"));
        }
        false
    }

    fn install_custom_resources(&self) {
        let folder = self.tools.join("crds");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).expect("the custom resources are there") {
            let path = entry.expect("a folder can be read").path();
            let text = std::fs::read(&path).expect("a custom resource can be read");
            let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            let made = self.ask(Method::POST, crds, Some(("application/yaml", text)));
            let made = made.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let text = |pointer: &str| made.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            names.push((text("/spec/group"), text("/spec/versions/0/name"), text("/spec/names/plural")));
        }
        assert!(names.len() >= 5, "only {names:?} in {}", folder.display());
        let begin = Instant::now();
        for (group, version, plural) in names {
            while let Err(e) = self.ask(Method::GET, &format!("/apis/{group}/{version}/{plural}?limit=1"), None) {
                assert!(begin.elapsed() < Duration::from_secs(60), "{plural}.{group} is not served: {e}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Makes a custom resource, and returns when it is served.
    ///
    /// # Panics
    /// When it is refused, or not served within a minute.
    pub fn define(&self, definition: &Value) {
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        self.ask(Method::POST, crds, Some(("application/json", definition.to_string().into_bytes())))
            .unwrap_or_else(|e| panic!("{e}"));
        let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let served = definition["spec"]["versions"].as_array().into_iter().flatten();
        let version = served.filter(|version| version["served"] == true).find_map(|version| version["name"].as_str());
        let (group, plural) = (text("/spec/group"), text("/spec/names/plural"));
        let path = format!("/apis/{group}/{}/{plural}?limit=1", version.unwrap_or_default());
        let begin = Instant::now();
        while let Err(e) = self.ask(Method::GET, &path, None) {
            assert!(begin.elapsed() < Duration::from_secs(60), "{path} is not served: {e}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The server's own certificate and the authority that it made.
    pub fn authorities(&self) -> PathBuf {
        self.folder.path().join("tls/apiserver.crt")
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Access with a token.
    pub fn access(&self, token: Token) -> Access {
        Access { server: self.url(), authorities: std::fs::read(self.authorities()).expect("its certificate"), token }
    }

    /// The administrator.
    pub fn admin(&self) -> &KubeApi {
        self.admin.as_ref().expect("the server has started")
    }

    /// A token of a service account, which must be there, for an hour.
    pub fn token(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        let answer = self.ask(Method::POST, &path, Some(("application/json", body.to_string().into_bytes())));
        let answer = answer.expect("the account gets a token");
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Who asks as a service account.
    pub fn account(&self, namespace: &str, name: &str) -> KubeApi {
        let token = Token::Fixed(self.token(namespace, name));
        KubeApi::new(Client::new(self.access(token)).expect("a client"))
    }

    /// One request of the administrator.
    pub fn ask(&self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> Result<Value, ApiError> {
        self.wait(self.admin().client().send(&format!("{method} {path}"), method.clone(), path, body))
    }

    /// Makes all objects of a YAML file as the administrator. A field that the server does not know is refused.
    ///
    /// # Panics
    /// When one is refused.
    pub fn apply(&self, yaml: &str) {
        self.make(yaml, "");
    }

    /// What the server would make of each object of a YAML file; nothing is made.
    ///
    /// # Panics
    /// When one is refused.
    pub fn rehearse(&self, yaml: &str) -> Vec<Value> {
        self.make(yaml, "&dryRun=All")
    }

    fn make(&self, yaml: &str, query: &str) -> Vec<Value> {
        let documents = yaml.split("\n---\n");
        let documents =
            documents.filter(|text| text.lines().any(|l| !l.is_empty() && l != "---" && !l.starts_with('#')));
        let made = documents.map(|document| {
            let field = |name: &str| {
                let line = document.lines().map(str::trim_start).find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim().to_owned()).unwrap_or_default()
            };
            let (version, kind, namespace) = (field("apiVersion:"), field("kind:"), field("namespace:"));
            let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
            let plural = format!("{}s", kind.to_lowercase());
            let path = match kind.as_str() {
                "Namespace" | "ClusterRole" | "ClusterRoleBinding" => format!("{root}/{plural}"),
                "PriorityClass" => format!("{root}/priorityclasses"),
                // Its name is a plural already.
                "SecurityContextConstraints" => format!("{root}/{}", kind.to_lowercase()),
                _ => format!("{root}/namespaces/{namespace}/{plural}"),
            };
            let path = format!("{path}?fieldValidation=Strict{query}");
            let made = self.ask(Method::POST, &path, Some(("application/yaml", document.as_bytes().to_vec())));
            made.unwrap_or_else(|e| panic!("{e}\n{document}"))
        });
        made.collect()
    }

    /// The value of a future, on the runtime of its clients.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// How many requests of service accounts were answered so far.
    pub fn audited(&self) -> usize {
        self.audit_log().matches('\n').count()
    }

    /// Requests of service accounts, in the order in which they were answered, after so many.
    pub fn audit(&self, after: usize) -> Vec<Value> {
        let log = self.audit_log();
        // The last line may not be whole yet.
        let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n')).skip(after);
        lines.map(|line| serde_json::from_str(line).expect("the audit log has a request a line")).collect()
    }

    fn audit_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("audit")).unwrap_or_default()
    }

    /// The folder of the logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Kube {
    /// The API server first: without etcd it would only log.
    fn drop(&mut self) {
        while self.processes.pop().is_some() {}
    }
}
