//! Certificates for servers that are reached by HTTPS, made by openssl.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// Below it a server finds buckets by their host name.
pub const DOMAIN: &str = "wherry.test";

/// An authority (`ca.pem`), and what it signed for a server at 127.0.0.1 and at `tls.<DOMAIN>` (`server.pem`, `server.key`).
#[derive(Debug)]
pub struct Authority(TempDir);

impl Authority {
    /// Makes one, and the certificate of a server.
    ///
    /// # Panics
    /// When openssl cannot be run.
    pub fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Of two that have the same name the wrong one would be looked up for the right one.
        let name = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        let this = Self(folder);
        let subject = |name: &str| format!("[req]\nprompt=no\ndistinguished_name=dn\n[dn]\nCN={name}\n[ext]\n");
        let authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
        fs::write(this.path("ca.cnf"), format!("{}{authority}", subject(&name))).unwrap();
        let server = format!("basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:tls.{DOMAIN}\n");
        fs::write(this.path("server.cnf"), format!("{}{server}", subject("server"))).unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        for command in [
            format!("req -x509 -config ca.cnf -extensions ext -days 2 {key} -keyout ca.key -out ca.pem"),
            format!("req -new -config server.cnf {key} -keyout server.key -out server.csr"),
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.cnf -extensions ext \
             -out server.pem"
                .to_owned(),
        ] {
            let output = Command::new("openssl").args(command.split_whitespace()).current_dir(this.0.path()).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
        this
    }

    /// The path of one of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}
