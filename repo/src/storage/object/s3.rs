//! Amazon S3 and its compatibles: where, as whom, and how to connect.

use super::client::{Connector, no_retries};
use super::credentials::{Credentials, Profile};
use super::place::{Place, check_endpoint, is_address};
use super::{Objects, Service};
use crate::storage::retry::Policy;
use crate::storage::{Options, Storage};
use crate::{Error, Result};
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
    /// What that file is called in errors, where its path says nothing to a user; else its path and the flag that names it.
    pub ca_name: Option<String>,
    /// Accept any certificate. For tests.
    pub skip_verify: bool,
    /// Where nothing says a region, and no server but Amazon is named, Amazon is asked in which one the bucket is.
    pub look_up_region: bool,
    /// How the server is to encrypt what is written to it.
    pub encryption: Option<Encryption>,
    /// Objects are sent without a header with their SHA-256: for servers that do not know it. Over the signature the server
    /// checks the content all the same.
    pub without_checksum: bool,
}

/// Encryption by an S3 server (`x-amz-server-side-encryption`), beneath ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub algorithm: String,
    /// Id, ARN or alias of a key; of `aws:kms` alone. None: the server's own.
    pub kms_key: Option<String>,
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
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
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

/// Where Amazon answers for a bucket whose region is not known. The certificate there is good for one label before it.
fn amazon(bucket: &str) -> String {
    if bucket.contains('.') {
        format!("https://s3.amazonaws.com/{bucket}")
    } else {
        format!("https://{bucket}.s3.amazonaws.com/")
    }
}

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
    if let Some(endpoint) = endpoint.as_ref().filter(|endpoint| options.virtual_host && is_address(endpoint)) {
        let text = format!(
            "the endpoint {endpoint:?} is an address, and no bucket can stand before one: leave out the virtual host style"
        );
        return Err(Error::invalid(text));
    }
    if let Some(region) = region.as_ref().filter(|region| !region.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Error::invalid(format!("the region {region:?} is no name of a region")));
    }
    let connector = Connector::new(all, env.get("AWS_CA_BUNDLE"))?;
    let date = connector.date();
    let region = match region {
        None if endpoint.is_none() && options.look_up_region => Some(connector.region_of(&amazon(&place.bucket))?),
        region => region,
    };

    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&place.bucket)
        .with_region(region.unwrap_or_else(|| "us-east-1".into()))
        .with_virtual_hosted_style_request(options.virtual_host)
        .with_disable_bulk_delete(true)
        .with_client_options(ClientOptions::new())
        .with_http_connector(connector)
        .with_retry(no_retries());
    if !options.without_checksum {
        // The digest is made for the signature anyway.
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    if let Some(Encryption { algorithm, kms_key }) = &options.encryption {
        // A key that object_store did not know would leave objects as the server likes them.
        let key = |name: &str| name.parse::<AmazonS3ConfigKey>().map_err(|e| place.unusable(&e));
        builder = builder.with_config(key("aws_server_side_encryption")?, algorithm);
        if let Some(id) = kms_key {
            builder = builder.with_config(key("aws_sse_kms_key_id")?, id);
        }
    }
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
    Ok(Arc::new(Objects::new(Service::S3, place, Arc::new(store), all.single_writer, policy, date)?))
}
