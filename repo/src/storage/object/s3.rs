//! Amazon S3 and its compatibles: where, as whom, and how to connect.

use super::Objects;
use super::credentials::{Credentials, Profile};
use super::http::{Connector, innermost};
use crate::storage::retry::Policy;
use crate::storage::{Options, Storage};
use crate::{Error, ErrorKind, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How to reach an S3 bucket; what is not set comes from the `AWS_*` environment, the profile, or a default. The
/// secrets themselves are never here: they come from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
/// `AWS_SESSION_TOKEN`, from the files of a profile, or from the machine's role.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// URL of the server; `http://` is allowed if written. Else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, the
    /// profile's `endpoint_url`, Amazon.
    pub endpoint: Option<String>,
    /// Region; else `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile's, `us-east-1`.
    pub region: Option<String>,
    /// Profile in `~/.aws/credentials` and `~/.aws/config`. Named here, it goes before keys in the environment.
    pub profile: Option<String>,
    /// The bucket is part of the host name and not of the path.
    pub virtual_host: bool,
    /// PEM file with further certificate authorities; else `AWS_CA_BUNDLE`.
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate. For tests.
    pub skip_verify: bool,
}

/// Where environment variables come from: the process by default.
#[derive(Clone)]
pub struct Environment(Arc<dyn Fn(&str) -> Option<String> + Send + Sync>);

impl Environment {
    /// These variables and no others.
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let variables: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Self(Arc::new(move |name| variables.get(name).cloned()))
    }

    /// The value of a variable; one that is empty counts as not set.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self(Arc::new(|name| std::env::var(name).ok()))
    }
}

impl fmt::Debug for Environment {
    /// Variables may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

/// Connections that can not be made in this time fail.
const CONNECT: Duration = Duration::from_secs(10);
/// See [`Options::patience`].
const PATIENCE: Duration = Duration::from_secs(45);

/// Opens `bucket/prefix`.
pub(in crate::storage) fn open(place: &str, options: &Options, policy: Policy) -> Result<Arc<dyn Storage>> {
    let location = format!("s3://{place}");
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let prefix = prefix.trim_matches('/');
    if place.contains('@') {
        // Not repeated, here and below: it may hold a password.
        return Err(Error::invalid("an s3:// place must not hold credentials; use AWS_ACCESS_KEY_ID or a profile"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if bucket.is_empty() || !bucket.bytes().all(plain) {
        return Err(Error::invalid(format!("{location} names no bucket; write s3://bucket/prefix")));
    }
    let prefix = match prefix {
        "" => String::new(),
        _ if object_store::path::Path::parse(prefix).is_ok() => format!("{prefix}/"),
        _ => return Err(Error::invalid(format!("{location}: {prefix:?} can not be a prefix of objects"))),
    };

    let Options { s3: options, env, single_writer, patience, .. } = options;
    let (single_writer, patience) = (*single_writer, patience.unwrap_or(PATIENCE));
    let profile = Profile::new(options.profile.clone(), env);
    let set = |names: &[&str]| names.iter().find_map(|name| env.get(name));
    let named = profile.settings()?;
    let region = options.region.clone().or_else(|| set(&["AWS_REGION", "AWS_DEFAULT_REGION"])).or(named.region);
    let endpoint = options.endpoint.clone().or_else(|| set(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
    let endpoint = endpoint.or(named.endpoint).map(|text| check_endpoint(text, bucket, options.virtual_host));

    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region.unwrap_or_else(|| "us-east-1".into()))
        .with_virtual_hosted_style_request(options.virtual_host)
        .with_disable_bulk_delete(true)
        // The digest is made for the signature anyway.
        .with_checksum_algorithm(Checksum::SHA256)
        .with_client_options(ClientOptions::new())
        .with_http_connector(connector(options, env, patience)?)
        .with_retry(RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, backoff: BackoffConfig::default() });
    if let Some(endpoint) = endpoint {
        let endpoint = endpoint?;
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
    }
    // Roles of machines and pods are object_store's.
    for name in [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_ENDPOINT_URL_STS",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_METADATA_ENDPOINT",
    ] {
        if let (Some(value), Ok(key)) = (set(&[name]), name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()) {
            builder = builder.with_config(key, value);
        }
    }
    let unusable = |e: object_store::Error| Error::invalid(format!("{location} can not be opened: {e}"));
    let role = builder.clone().build().map_err(unusable)?;
    let credentials = Credentials::new(profile, env.clone(), Arc::clone(role.credentials()));
    let store = builder.with_credentials(Arc::new(credentials)).build().map_err(unusable)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("wherry-storage")
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Unavailable, "no threads for the network can be started").with_source(e))?;
    let (store, runtime) = (Arc::new(store), Some(runtime));
    Ok(Arc::new(Objects { location, prefix, store, single_writer, policy, runtime }))
}

/// The URL as object_store wants it: with the bucket in the host name if it is to be there.
fn check_endpoint(text: String, bucket: &str, virtual_host: bool) -> Result<String> {
    let invalid = |why: &str| Error::invalid(format!("the endpoint {text:?} {why}; write http(s)://host[:port]"));
    let Some((scheme @ ("http" | "https"), host)) = text.split_once("://") else {
        return Err(invalid("does not begin with http:// or https://"));
    };
    let host = host.trim_end_matches('/');
    if host.is_empty() {
        return Err(invalid("names no host"));
    }
    if host.contains('@') {
        // Not repeated: it may hold a password.
        return Err(Error::invalid("an endpoint must not hold credentials; use AWS_ACCESS_KEY_ID or a profile"));
    }
    Ok(if virtual_host { format!("{scheme}://{bucket}.{host}") } else { format!("{scheme}://{host}") })
}

fn connector(options: &S3Options, env: &Environment, patience: Duration) -> Result<Connector> {
    let mut client = reqwest::Client::builder()
        .user_agent(concat!("wherry/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none());
    let file = options.ca_file.clone().or_else(|| env.get("AWS_CA_BUNDLE").map(PathBuf::from));
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
    if options.skip_verify {
        tracing::warn!("--s3-skip-verify: whoever sits between here and the storage can read credentials");
        client = client.tls_danger_accept_invalid_certs(true);
    }
    // Here it is seen whether they are certificates, or whether the machine has any without them.
    let client = client.build().map_err(|e| unusable(innermost(&e)))?;
    Ok(Connector { client, patience })
}
