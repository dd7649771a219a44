//! The HTTPS client that all providers share.

use super::http::{Date, Patient, innermost};
use crate::storage::Options;
use crate::{Error, ErrorKind, Result};
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
                Some(_) if let Some(name) = &tls.ca_name => format!("{name} holds no usable certificates (PEM): {why}"),
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
            tracing::warn!(
                "the storage's certificate is not checked (--s3-skip-verify, config key insecureSkipTLSVerify of a \
                 BackupStorageLocation): whoever sits between here and it can read credentials"
            );
            client = client.tls_danger_accept_invalid_certs(true);
        }
        // Here it is seen whether they are certificates, or whether the machine has any without them.
        let client = client.build().map_err(|e| unusable(innermost(&e)))?;
        let patience = options.patience.unwrap_or(PATIENCE);
        Ok(Self(Patient { client, patience, date: Date::default() }))
    }

    /// What time servers say it is.
    pub(super) fn date(&self) -> Date {
        self.0.date.clone()
    }

    /// The region of the bucket that answers at `url`: every answer of S3 (HeadBucket) names it, a refusal too, so no
    /// credentials are shown.
    ///
    /// # Errors
    /// Where there is no such bucket, no answer, or none that says it.
    pub(super) fn region_of(&self, url: &str) -> Result<String> {
        let instead = "name it (config key region of a BackupStorageLocation, --s3-region, AWS_REGION)";
        let failed = |kind, why: String| {
            Error::new(kind, format!("the region of the bucket at {url} cannot be looked up: {why}; {instead}"))
        };
        let unavailable = |why: String| failed(ErrorKind::Unavailable, why);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| unavailable(e.to_string()))?;
        let asked = async { self.0.client.head(url).timeout(self.0.patience).send().await };
        let answer = runtime.block_on(asked).map_err(|e| unavailable(innermost(&e)))?;
        let region = answer.headers().get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
        match region {
            Some(region) => Ok(region.to_owned()),
            None if answer.status() == 404 => {
                Err(failed(ErrorKind::NoRepository, "there is no such bucket".to_owned()))
            }
            None => Err(unavailable(format!("HTTP {} without a region", answer.status()))),
        }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}
