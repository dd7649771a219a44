//! Real server processes that speak the protocols of Azure Blob Storage and of Google Cloud Storage: azurite and
//! fake-gcs-server, installed by `scripts/lib/clouds.sh`.

use crate::faulty_s3::FaultyS3;
use crate::server::{Process, free_ports};
use std::ffi::OsString;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wherry_repo::Storage;
use wherry_repo::storage::{Environment, Options, open};

/// Environment variable with the path of azurite's executable.
pub const WHERRY_TEST_AZURITE: &str = "WHERRY_TEST_AZURITE";
/// Environment variable with the path of fake-gcs-server.
pub const WHERRY_TEST_FAKE_GCS: &str = "WHERRY_TEST_FAKE_GCS";
/// The one account of the Azure server.
pub const ACCOUNT: &str = "wherrytest";
/// Its key, base64.
pub const ACCOUNT_KEY: &str = "d2hlcnJ5LXRlc3Qta2V5LXdoZXJyeS10ZXN0LWtleS13aGVycnk=";

/// Makes the container argv[3] of the account argv[1] at the URL argv[4]; requests are signed with the key argv[2].
/// See "Authorize with Shared Key" in the documentation of Azure Storage.
const MAKE_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
account, key, name, url = sys.argv[1:]
date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/{name}\nrestype:container"
sign = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {account}:{sign}", "Content-Length": "0"}
request = urllib.request.Request(f"{url}/{name}?restype=container", method="PUT", headers=headers)
urllib.request.urlopen(request).read()
"#;

fn executable(variable: &str) -> OsString {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("there is no server to test with ({variable} is not set): run scripts/test"))
}

/// Starts a server and waits until its port answers; `None` when it does not within a minute, as when another process
/// took the port first.
fn start(folder: &TempDir, port: u16, arguments: impl FnOnce(&mut Command)) -> Option<Process> {
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).expect("the server's log is made");
    let process = Process::start(|command| {
        arguments(command);
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of the log"))
            .stderr(file)
            .current_dir(folder);
    });
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(process);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    eprintln!("{}", std::fs::read_to_string(log).unwrap_or_default());
    None
}

fn some<T>(name: &str, attempt: impl FnMut() -> Option<T>) -> T {
    std::iter::repeat_with(attempt).take(3).flatten().next().unwrap_or_else(|| panic!("{name} did not start"))
}

fn succeed(what: &str, command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

fn opened(url: &str, variables: &[(&'static str, String)]) -> Arc<dyn Storage> {
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    open(url, &Options { env: Environment::of(&variables), ..Options::default() }).expect("the options are right")
}

fn temporary() -> TempDir {
    tempfile::Builder::new().prefix("wherry-cloud-").tempdir().expect("a temporary folder")
}

/// A running azurite; dropped, it is killed and its data removed.
#[derive(Debug)]
pub struct Azurite {
    port: u16,
    _process: Process,
    _folder: TempDir,
}

impl Azurite {
    /// Starts a server without containers.
    ///
    /// # Panics
    /// When there is none to start, or it does not answer.
    pub fn start() -> Self {
        let executable = executable(WHERRY_TEST_AZURITE);
        some("azurite", || {
            let (folder, [port]) = (temporary(), free_ports());
            let process = start(&folder, port, |command| {
                command
                    .arg(&executable)
                    .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--location", "."])
                    .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
                    .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{ACCOUNT_KEY}"));
            })?;
            Some(Self { port, _process: process, _folder: folder })
        })
    }

    /// Makes a container.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn make(&self, container: &str) {
        let mut command = Command::new("python3");
        command.args(["-c", MAKE_CONTAINER, ACCOUNT, ACCOUNT_KEY, container, &self.endpoint()]);
        succeed("a container is made", &mut command);
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// The variables with which a process reaches this server.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.into()),
            ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY.into()),
            ("AZURE_STORAGE_ENDPOINT", self.endpoint()),
        ]
    }

    /// Opens `az://<place>` on this server.
    pub fn open(&self, place: &str) -> Arc<dyn Storage> {
        opened(&format!("az://{place}"), &self.variables())
    }
}

/// A running fake-gcs-server behind a proxy that translates uploads; dropped, both end and the data is gone.
#[derive(Debug)]
pub struct FakeGcs {
    proxy: FaultyS3,
    _process: Process,
    _folder: TempDir,
}

impl FakeGcs {
    /// Starts a server without buckets.
    ///
    /// # Panics
    /// When there is none to start, or it does not answer.
    pub fn start() -> Self {
        let executable = executable(WHERRY_TEST_FAKE_GCS);
        some("fake-gcs-server", || {
            let (folder, [port]) = (temporary(), free_ports());
            let proxy = FaultyS3::start(port);
            proxy.translate_for_google();
            // It answers to one host name.
            let host = format!("127.0.0.1:{}", proxy.port());
            let process =
                start(&folder, port, |command| {
                    command
                        .arg(&executable)
                        .args(["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"])
                        .args(["-port", &port.to_string(), "-public-host", &host]);
                })?;
            Some(Self { proxy, _process: process, _folder: folder })
        })
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn make(&self, bucket: &str) {
        let script = "import sys, urllib.request as r; \
                      r.urlopen(r.Request(sys.argv[1], sys.argv[2].encode(), {'Content-Type': 'application/json'}))";
        let url = format!("http://127.0.0.1:{}/storage/v1/b?project=test", self.proxy.port());
        let body = serde_json::json!({"name": bucket}).to_string();
        succeed("a bucket is made", Command::new("python3").args(["-c", script, &url, &body]));
    }

    /// The variables with which a process reaches this server.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![("STORAGE_EMULATOR_HOST", format!("127.0.0.1:{}", self.proxy.port()))]
    }

    /// Opens `gs://<place>` on this server.
    pub fn open(&self, place: &str) -> Arc<dyn Storage> {
        opened(&format!("gs://{place}"), &self.variables())
    }
}
