//! Google Cloud Storage: as whom.
//!
//! Credentials are those of Google's tools: the file that `GOOGLE_APPLICATION_CREDENTIALS` names (a service account or
//! an authorized user), the one that `gcloud auth application-default login` writes, or the service account of the
//! machine or pod. `STORAGE_EMULATOR_HOST` names another server, which is not shown any.

use super::client::{Connector, no_retries};
use super::place::{Place, check_endpoint};
use super::role::Role;
use super::{Objects, Service};
use crate::storage::retry::Policy;
use crate::storage::{Options, Storage};
use crate::{Error, ErrorKind, Result};
use object_store::ClientOptions;
use object_store::gcp::GoogleCloudStorageBuilder;
use std::path::PathBuf;
use std::sync::Arc;

/// Where credentials belong.
const INSTEAD: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// What a user without credentials can do.
const ADVICE: &str = "name the key file of a service account by GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth \
                      application-default login`";
/// Where that login writes them, below the home directory.
const LOGIN: &str = ".config/gcloud/application_default_credentials.json";

/// Opens `bucket/prefix`.
pub(in crate::storage) fn open(place: &str, options: &Options, policy: Policy) -> Result<Arc<dyn Storage>> {
    let place = Place::parse("gs", place, "bucket", INSTEAD)?;
    let connector = Connector::new(options, None)?;
    let date = connector.date();
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&place.bucket)
        .with_client_options(ClientOptions::new())
        .with_http_connector(connector)
        .with_retry(no_retries());
    let unusable = |e: object_store::Error| place.unusable(&e);
    let store = if let Some(host) = options.env.get("STORAGE_EMULATOR_HOST") {
        let url = if host.contains("://") { host } else { format!("http://{host}") };
        let nobody = object_store::gcp::GcpCredential { bearer: String::new() };
        builder
            .with_base_url(&check_endpoint(&url, INSTEAD)?)
            .with_skip_signature(true)
            .with_credentials(Arc::new(object_store::StaticCredentialProvider::new(nobody)))
            .build()
            .map_err(unusable)?
    } else if let Some(file) = credentials_file(options) {
        if let Err(e) = std::fs::File::open(&file) {
            let text = format!("{} can not be read: {e}; {ADVICE}", file.display());
            return Err(Error::new(ErrorKind::Denied, text));
        }
        builder = builder.with_application_credentials(file.display().to_string());
        let of_file = builder.clone().build().map_err(|e| {
            let text = format!("{} holds no usable credentials: {e}", file.display());
            Error::new(ErrorKind::Denied, text).with_source(e)
        })?;
        let role = Role::new(Arc::clone(of_file.credentials()), true, ADVICE);
        builder.with_credentials(Arc::new(role)).build().map_err(unusable)?
    } else {
        let machine = builder.clone().build().map_err(unusable)?;
        let role = Role::new(Arc::clone(machine.credentials()), false, ADVICE);
        builder.with_credentials(Arc::new(role)).build().map_err(unusable)?
    };
    Ok(Arc::new(Objects::new(Service::Google, place, Arc::new(store), options.single_writer, policy, date)?))
}

/// The file that is named, or the one of a login if there is one.
fn credentials_file(options: &Options) -> Option<PathBuf> {
    if let Some(named) = options.env.get("GOOGLE_APPLICATION_CREDENTIALS") {
        return Some(PathBuf::from(named));
    }
    let login = PathBuf::from(options.env.get("HOME")?).join(LOGIN);
    login.exists().then_some(login)
}
