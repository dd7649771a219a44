//! The part of a storage's URL after `scheme://`: a bucket, or container, and a prefix.

use crate::{Error, Result};

/// What comes before or behind these may be a password, or a shared access signature.
const SECRETS: [char; 3] = ['@', '?', '#'];

/// A checked place.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The whole URL, without secrets.
    pub(super) location: String,
    pub(super) bucket: String,
    /// Before every key: empty, or text that ends with `/`.
    pub(super) prefix: String,
}

impl Place {
    /// Takes `bucket/prefix` apart. `bucket` is the provider's word for it, `instead` says where credentials belong.
    pub(super) fn parse(scheme: &str, place: &str, bucket: &str, instead: &str) -> Result<Self> {
        let location = format!("{scheme}://{place}");
        let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_matches('/');
        if place.contains(SECRETS) {
            // Not repeated: it may hold a password.
            return Err(Error::invalid(format!("a {scheme}:// place must not hold credentials; use {instead}")));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(Error::invalid(format!("{location} names no {bucket}; write {scheme}://{bucket}/prefix")));
        }
        let prefix = match prefix {
            "" => String::new(),
            _ if object_store::path::Path::parse(prefix).is_ok() => format!("{prefix}/"),
            _ => return Err(Error::invalid(format!("{location}: {prefix:?} can not be a prefix of objects"))),
        };
        Ok(Self { location, bucket: name.to_owned(), prefix })
    }

    /// Says why no client can be made for it.
    pub(super) fn unusable(&self, error: &object_store::Error) -> Error {
        Error::invalid(format!("{} can not be opened: {error}", self.location))
    }
}

/// Checks the URL of a server and takes trailing slashes off. `instead` says where credentials belong.
pub(super) fn check_endpoint(text: &str, instead: &str) -> Result<String> {
    let invalid = |why: &str| Error::invalid(format!("the endpoint {text:?} {why}; write http(s)://host[:port]"));
    if text.contains(SECRETS) {
        // Not repeated: it may hold a password.
        return Err(Error::invalid(format!("an endpoint must not hold credentials; use {instead}")));
    }
    let Some((scheme @ ("http" | "https"), host)) = text.split_once("://") else {
        return Err(invalid("does not begin with http:// or https://"));
    };
    let host = host.trim_end_matches('/');
    if host.is_empty() {
        return Err(invalid("names no host"));
    }
    let endpoint = format!("{scheme}://{host}");
    // Both read it later, and neither takes no for an answer.
    let is_url =
        reqwest::Url::parse(&endpoint).is_ok_and(|url| url.has_host()) && endpoint.parse::<http::Uri>().is_ok();
    if is_url { Ok(endpoint) } else { Err(invalid("names no valid host or port")) }
}

/// Whether an endpoint names its host by an address: no bucket can stand before that.
pub(super) fn is_address(endpoint: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(endpoint) else { return false };
    let host = url.host_str().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok()
}

/// For the fuzz target `urls`: the place as it is shown, bucket and prefix.
pub(crate) fn place(scheme: &str, place: &str) -> Result<(String, String, String)> {
    Place::parse(scheme, place, "bucket", "a profile").map(|found| (found.location, found.bucket, found.prefix))
}

/// Likewise, the URL of a server.
pub(crate) fn endpoint(text: &str) -> Result<String> {
    check_endpoint(text, "a profile")
}
