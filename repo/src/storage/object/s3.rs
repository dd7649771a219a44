//! Amazon S3 and its compatibles: where, as whom, and how to connect.

use super::client::{Connector, no_retries};
use super::credentials::{Credentials, Profile};
use super::place::{Place, check_endpoint};
use super::{Objects, Service};
use crate::Result;
use crate::storage::retry::Policy;
use crate::storage::{Options, Storage};
use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

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

/// Where credentials belong.
const INSTEAD: &str = "AWS_ACCESS_KEY_ID or a profile";

/// Opens `bucket/prefix`.
pub(in crate::storage) fn open(place: &str, all: &Options, policy: Policy) -> Result<Arc<dyn Storage>> {
    let place = Place::parse("s3", place, "bucket", INSTEAD)?;
    let Options { s3: options, env, .. } = all;
    let profile = Profile::new(options.profile.clone(), env);
    let set = |names: &[&str]| names.iter().find_map(|name| env.get(name));
    let named = profile.settings()?;
    let region = options.region.clone().or_else(|| set(&["AWS_REGION", "AWS_DEFAULT_REGION"])).or(named.region);
    let endpoint = options.endpoint.clone().or_else(|| set(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
    let endpoint = endpoint.or(named.endpoint).map(|text| check_endpoint(&text, INSTEAD)).transpose()?;

    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&place.bucket)
        .with_region(region.unwrap_or_else(|| "us-east-1".into()))
        .with_virtual_hosted_style_request(options.virtual_host)
        .with_disable_bulk_delete(true)
        // The digest is made for the signature anyway.
        .with_checksum_algorithm(Checksum::SHA256)
        .with_client_options(ClientOptions::new())
        .with_http_connector(Connector::new(all, env.get("AWS_CA_BUNDLE"))?)
        .with_retry(no_retries());
    if let Some(mut endpoint) = endpoint {
        if options.virtual_host {
            // As object_store wants it.
            endpoint = endpoint.replacen("://", &format!("://{}.", place.bucket), 1);
        }
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
    let unusable = |e: object_store::Error| place.unusable(&e);
    let role = builder.clone().build().map_err(unusable)?;
    let credentials = Credentials::new(profile, env.clone(), Arc::clone(role.credentials()));
    let store = builder.with_credentials(Arc::new(credentials)).build().map_err(unusable)?;
    Ok(Arc::new(Objects::new(Service::S3, place, Arc::new(store), all.single_writer, policy)?))
}
