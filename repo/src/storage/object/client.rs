//! The HTTPS client that all providers share.

use super::http::{Patient, innermost};
use crate::storage::Options;
use crate::{Error, Result};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use std::path::PathBuf;
use std::time::Duration;

/// Connections that can not be made in this time fail.
const CONNECT: Duration = Duration::from_secs(10);
/// See [`Options::patience`].
const PATIENCE: Duration = Duration::from_secs(45);

/// Whether to try again is decided above object_store.
pub(super) fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, backoff: BackoffConfig::default() }
}

/// Makes [`Patient`] clients.
#[derive(Clone, Debug)]
pub(super) struct Connector(Patient);

impl Connector {
    /// With the certificate authorities of the system and those of the options, or of `file` where they name none.
    pub(super) fn new(options: &Options, file: Option<String>) -> Result<Self> {
        let tls = &options.s3;
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("wherry/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none());
        let file = tls.ca_file.clone().or_else(|| file.map(PathBuf::from));
        let unusable = |why: String| {
            Error::invalid(match &file {
                Some(file) => format!("{} holds no usable certificates (--s3-ca-file, PEM): {why}", file.display()),
                None => format!("no HTTPS client can be made: {why}; install ca-certificates, or give --s3-ca-file"),
            })
        };
        if let Some(file) = &file {
            let pem = std::fs::read(file).map_err(|e| unusable(e.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| unusable(innermost(&e)))?;
            if certificates.is_empty() {
                return Err(unusable("there is none in it".to_owned()));
            }
            client = client.tls_certs_merge(certificates);
        }
        if tls.skip_verify {
            tracing::warn!("--s3-skip-verify: whoever sits between here and the storage can read credentials");
            client = client.tls_danger_accept_invalid_certs(true);
        }
        // Here it is seen whether they are certificates, or whether the machine has any without them.
        let client = client.build().map_err(|e| unusable(innermost(&e)))?;
        Ok(Self(Patient { client, patience: options.patience.unwrap_or(PATIENCE) }))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}
