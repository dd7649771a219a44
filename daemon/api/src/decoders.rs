//! Decoders that are nobody's business outside of this crate, for the fuzz targets in `tests/src/fuzzed`: no part of what it
//! offers. Each reads as the crate itself does; what must hold of that is said there.

use crate::snapshot_metadata::{self, AccountToken, Service};
use crate::watch;
use serde_json::Value;
use std::time::Duration;

/// A page of a list: its objects, its version, and where the next page begins.
///
/// # Errors
/// When it is none.
pub fn page(text: &[u8]) -> serde_json::Result<(Vec<Value>, String, String)> {
    let mut objects = Vec::new();
    let page = crate::page::page(text, &mut |object| objects.push(object))?;
    Ok((objects, page.version, page.more))
}

/// One object.
///
/// # Errors
/// When it is no JSON.
pub fn object(text: &[u8]) -> serde_json::Result<Value> {
    crate::page::object(text)
}

/// What the lines of a watch say that arrives in these parts, as `Debug` shows it.
pub fn watched(parts: &[&[u8]]) -> Vec<String> {
    let mut lines = watch::Lines::default();
    parts.iter().flat_map(|part| lines.add(part)).map(|line| format!("{:?}", watch::line(&line))).collect()
}

/// Which version of the API of changed blocks is asked for, by an `APIGroupList`.
///
/// # Errors
/// Why none is.
pub fn served(groups: &Value) -> Result<&'static str, String> {
    snapshot_metadata::served(groups)
}

/// Where the service of a driver is, by a `SnapshotMetadataService`.
///
/// # Errors
/// What it lacks.
pub fn service(object: &Value) -> Result<Service, String> {
    snapshot_metadata::service("driver", object)
}

/// The token in a TokenRequest that was answered.
pub fn token(answer: &Value) -> Option<AccountToken> {
    snapshot_metadata::token(answer)
}

/// What a header `Retry-After` asks for.
pub fn retry_after(text: &str) -> Option<Duration> {
    crate::client::pause(text)
}

/// What a request over HTTP asks for.
pub fn asked(request: &[u8]) -> String {
    crate::health::path(request)
}
