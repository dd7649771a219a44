//! A real S3 server process: SeaweedFS, installed by `scripts/lib/seaweedfs.sh`.

use crate::server::{Process, free_ports};
use rustix::process::Signal;
use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wherry_repo::Storage;
use wherry_repo::storage::{Environment, Key, Options, Retries, S3Options, open};

/// Environment variable with the path of the server's executable.
pub const WHERRY_TEST_SEAWEED: &str = "WHERRY_TEST_SEAWEED";
/// Key id of the one user, who may do everything.
pub const ACCESS_KEY: &str = "wherry-test";
/// The secret of that user.
pub const SECRET_KEY: &str = "wherry-test-secret";
/// Another key id of that user, and its secret.
pub const RENEWED: (&str, &str) = ("wherry-renewed", "wherry-renewed-secret");

/// A running server on loopback ports of its own; dropped, it is killed and its data removed. Buckets come into being
/// by the first write.
#[derive(Debug)]
pub struct Seaweed {
    ports: [u16; 9],
    extras: Extras,
    process: Option<Process>,
    folder: TempDir,
}

/// How a server differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Requests that nobody signed may do everything, too.
    pub open: bool,
    /// Certificate and key, both PEM: it answers by HTTPS as well, at a port of its own.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Buckets are also found by the host name `<bucket>.<domain>`.
    pub domain: Option<String>,
}

impl Seaweed {
    /// Starts a server and returns when it has stored an object.
    ///
    /// # Panics
    /// When there is no server to start, or it does not answer within a minute.
    pub fn start() -> Self {
        Self::start_with(&Extras::default())
    }

    /// Likewise, one that differs from the usual.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with(extras: &Extras) -> Self {
        for _ in 0..3 {
            if let Some(server) = Self::try_start(extras) {
                return server;
            }
        }
        panic!("SeaweedFS did not start; its log is above");
    }

    /// Free ports can be taken by others before the server takes them; then it ends, and this is `None`.
    fn try_start(extras: &Extras) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("wherry-seaweed-").tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut users = serde_json::json!({"identities": [{
            "name": "test", "actions": ["Admin"],
            "credentials": [
                {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY},
                {"accessKey": RENEWED.0, "secretKey": RENEWED.1},
            ],
        }]});
        if let (true, Some(users)) = (extras.open, users["identities"].as_array_mut()) {
            users.push(serde_json::json!({"name": "anonymous", "actions": ["Admin"]}));
        }
        std::fs::write(at("users.json"), users.to_string()).expect("the server's users are written");
        std::fs::create_dir(at("data")).expect("the server's folder is made");
        let mut server = Self { ports: free_ports(), extras: extras.clone(), process: None, folder };
        server.run().then_some(server)
    }

    /// Starts the process; false when it does not answer within a minute.
    fn run(&mut self) -> bool {
        let Some(weed) = std::env::var_os(WHERRY_TEST_SEAWEED) else {
            panic!(
                "there is no S3 server to test with ({WHERRY_TEST_SEAWEED} is not set): run scripts/test, which installs one"
            );
        };
        let folder = self.folder.path();
        let at = |name: &str| folder.join(name).display().to_string();
        let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, https, port, s3_grpc] = self.ports;
        let Extras { open: _, tls, domain } = &self.extras;
        let log = std::fs::File::create(at("log")).expect("the server's log is made");
        self.process = Some(Process::start(|command| {
            command
                .arg(weed)
                .args([
                    "server",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-s3",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                ])
                .args(["-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=100"])
                .args([format!("-dir={}", at("data")), format!("-s3.config={}", at("users.json"))])
                .args([
                    format!("-filer.localSocket={}", at("filer.sock")),
                    format!("-s3.localSocket={}", at("s3.sock")),
                ])
                .args([format!("-master.port={master}"), format!("-master.port.grpc={master_grpc}")])
                .args([format!("-volume.port={volume}"), format!("-volume.port.grpc={volume_grpc}")])
                .args([format!("-filer.port={filer}"), format!("-filer.port.grpc={filer_grpc}")])
                .args([format!("-s3.port={port}"), format!("-s3.port.grpc={s3_grpc}")])
                .args(domain.iter().map(|domain| format!("-s3.domainName={domain}")))
                .args(tls.iter().flat_map(|(certificate, key)| {
                    let [certificate, key] = [certificate, key].map(|path| path.display());
                    [
                        format!("-s3.port.https={https}"),
                        format!("-s3.cert.file={certificate}"),
                        format!("-s3.key.file={key}"),
                    ]
                }))
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a second handle of the log"))
                .stderr(log)
                .env("HOME", folder)
                .current_dir(folder);
        }));
        let ready = self.wait_until_ready();
        if !ready {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("{}", log.lines().rev().take(30).collect::<Vec<_>>().join("\n"));
        }
        ready
    }

    /// Pulls the plug (SIGKILL). What was acknowledged is there when it is started again.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends it a signal: stopped, it takes connections and answers nothing.
    pub fn send(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.send(signal);
        }
    }

    /// Starts it again after [`Self::kill`], at the same address.
    ///
    /// # Panics
    /// When it does not answer within a minute.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none() && self.run(), "SeaweedFS did not start again; its log is above");
    }

    fn wait_until_ready(&self) -> bool {
        let mut options = self.options();
        options.retries = Retries { total: Duration::ZERO, ..Retries::default() };
        let storage = open("s3://ready", &options).expect("the options are right");
        let key = Key::new("ready").expect("a key");
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(60) {
            if storage.overwrite(&key, bytes::Bytes::new()).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    }

    /// `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        endpoint(self.port())
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        let [.., port, _] = self.ports;
        port
    }

    /// The port on 127.0.0.1 where it answers by HTTPS, if it was started so.
    pub fn https_port(&self) -> u16 {
        let [.., https, _, _] = self.ports;
        https
    }

    /// What opens a bucket of this server: endpoint, credentials, short pauses between retries.
    pub fn options(&self) -> Options {
        options_for(self.port())
    }

    /// Opens `s3://<place>` on this server.
    pub fn open(&self, place: &str) -> Arc<dyn Storage> {
        open(&format!("s3://{place}"), &self.options()).expect("the options are right")
    }

    /// The variables with which a child process reaches this server.
    pub fn variables(&self) -> [(&'static str, String); 4] {
        variables_for(self.port())
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Options for a server of ours, or a proxy before it, on this port of 127.0.0.1.
pub fn options_for(port: u16) -> Options {
    Options {
        s3: S3Options { endpoint: Some(endpoint(port)), ..S3Options::default() },
        retries: Retries {
            total: Duration::from_secs(60),
            first: Duration::from_millis(20),
            longest: Duration::from_millis(500),
        },
        env: Environment::of(&[("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]),
        ..Options::default()
    }
}

/// The variables with which a child process reaches a server of ours, or a proxy before it, on this port of 127.0.0.1.
pub fn variables_for(port: u16) -> [(&'static str, String); 4] {
    [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ("AWS_ENDPOINT_URL", endpoint(port)),
        ("AWS_REGION", "us-east-1".into()),
    ]
}

fn endpoint(port: impl fmt::Display) -> String {
    format!("http://127.0.0.1:{port}")
}
