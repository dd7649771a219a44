//! A real S3 server process: SeaweedFS, installed by `scripts/lib/seaweedfs.sh`.

use std::fmt;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
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

/// A running server on loopback ports of its own; dropped, it is killed and its data removed. Buckets come into being
/// by the first write.
#[derive(Debug)]
pub struct Seaweed {
    port: u16,
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
    folder: TempDir,
}

impl Seaweed {
    /// Starts a server and returns when it has stored an object.
    ///
    /// # Panics
    /// When there is no server to start, or it does not answer within a minute.
    pub fn start() -> Self {
        for _ in 0..3 {
            if let Some(server) = Self::try_start() {
                return server;
            }
        }
        panic!("SeaweedFS did not start; its log is above");
    }

    /// Free ports can be taken by others before the server takes them; then it ends, and this is `None`.
    fn try_start() -> Option<Self> {
        let Some(weed) = std::env::var_os(WHERRY_TEST_SEAWEED) else {
            panic!(
                "there is no S3 server to test with ({WHERRY_TEST_SEAWEED} is not set): run scripts/test, which installs one"
            );
        };
        let folder = tempfile::Builder::new().prefix("wherry-seaweed-").tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let ports = free_ports::<8>();
        let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, port, s3_grpc] = ports;
        let users = serde_json::json!({"identities": [{
            "name": "test", "actions": ["Admin"],
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        }]});
        std::fs::write(at("users.json"), users.to_string()).expect("the server's users are written");
        std::fs::create_dir(at("data")).expect("the server's folder is made");
        let log = std::fs::File::create(at("log")).expect("the server's log is made");
        let mut command = Command::new("setpriv");
        command
            // The thread below starts it and lives as long: whatever ends this process ends the server.
            .args(["--pdeathsig", "KILL"])
            .arg(weed)
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"])
            .args(["-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=100"])
            .args([format!("-dir={}", at("data")), format!("-s3.config={}", at("users.json"))])
            .args([format!("-filer.localSocket={}", at("filer.sock")), format!("-s3.localSocket={}", at("s3.sock"))])
            .args([format!("-master.port={master}"), format!("-master.port.grpc={master_grpc}")])
            .args([format!("-volume.port={volume}"), format!("-volume.port.grpc={volume_grpc}")])
            .args([format!("-filer.port={filer}"), format!("-filer.port.grpc={filer_grpc}")])
            .args([format!("-s3.port={port}"), format!("-s3.port.grpc={s3_grpc}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .env("HOME", folder.path())
            .current_dir(folder.path());
        let (stop, stopped) = channel::<()>();
        let (started, has_started) = channel();
        let keeper = std::thread::spawn(move || {
            let mut server = command.spawn().expect("setpriv (util-linux) starts the server");
            started.send(()).expect("the test waits for this");
            let _ = stopped.recv(); // an error says as well that nobody needs it any more
            server.kill().expect("the server can be killed");
            server.wait().expect("the server has ended");
        });
        has_started.recv().expect("the server's thread runs");
        let server = Self { port, stop: Some(stop), keeper: Some(keeper), folder };
        let ready = server.wait_until_ready();
        if !ready {
            let log = std::fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
            eprintln!("{}", log.lines().rev().take(30).collect::<Vec<_>>().join("\n"));
        }
        ready.then_some(server)
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
        endpoint(self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What opens a bucket of this server: endpoint, credentials, short pauses between retries.
    pub fn options(&self) -> Options {
        options_for(self.port)
    }

    /// Opens `s3://<place>` on this server.
    pub fn open(&self, place: &str) -> Arc<dyn Storage> {
        open(&format!("s3://{place}"), &self.options()).expect("the options are right")
    }

    /// The variables with which a child process reaches this server.
    pub fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
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

fn endpoint(port: impl fmt::Display) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Ports that were free a moment ago, all different.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}
