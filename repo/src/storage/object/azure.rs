//! Azure Blob Storage: whose account, as whom.
//!
//! Everything comes from the environment, by the names of Microsoft's tools: `AZURE_STORAGE_ACCOUNT_NAME` (or
//! `AZURE_STORAGE_ACCOUNT`), and one of `AZURE_STORAGE_ACCOUNT_KEY` (or `AZURE_STORAGE_KEY`), `AZURE_STORAGE_SAS_TOKEN`,
//! `AZURE_CLIENT_ID` with `AZURE_TENANT_ID` and `AZURE_CLIENT_SECRET` or `AZURE_FEDERATED_TOKEN_FILE`; else the managed
//! identity of the machine. `AZURE_STORAGE_ENDPOINT` names another server, with the account in its path where it wants it.

use super::client::{Connector, no_retries};
use super::place::{Place, check_endpoint};
use super::role::Role;
use super::{Objects, Service};
use crate::storage::retry::Policy;
use crate::storage::{Options, Storage};
use crate::{Error, ErrorKind, Result};
use object_store::ClientOptions;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use std::sync::Arc;

/// Where credentials belong.
const INSTEAD: &str = "AZURE_STORAGE_ACCOUNT_KEY";
/// What a user without credentials can do.
const ADVICE: &str = "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, or AZURE_CLIENT_ID with AZURE_TENANT_ID and \
                      AZURE_CLIENT_SECRET";

/// Opens `container/prefix`.
pub(in crate::storage) fn open(place: &str, options: &Options, policy: Policy) -> Result<Arc<dyn Storage>> {
    let place = Place::parse("az", place, "container", INSTEAD)?;
    let set = |names: &[&str]| names.iter().find_map(|name| options.env.get(name));
    let Some(account) = set(&["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"]) else {
        let text = format!("{} needs the name of the storage account: set AZURE_STORAGE_ACCOUNT_NAME", place.location);
        return Err(Error::new(ErrorKind::Denied, text));
    };
    let connector = Connector::new(options, None)?;
    let date = connector.date();
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(&place.bucket)
        .with_client_options(ClientOptions::new())
        .with_http_connector(connector)
        .with_retry(no_retries());
    if let Some(endpoint) = set(&["AZURE_STORAGE_ENDPOINT"]) {
        let endpoint = check_endpoint(&endpoint, INSTEAD)?;
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
    }
    let mut named = false;
    for (names, key, is_credential) in [
        (&["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"][..], AzureConfigKey::AccessKey, true),
        (&["AZURE_STORAGE_SAS_TOKEN"], AzureConfigKey::SasKey, true),
        (&["AZURE_CLIENT_SECRET"], AzureConfigKey::ClientSecret, true),
        (&["AZURE_FEDERATED_TOKEN_FILE"], AzureConfigKey::FederatedTokenFile, true),
        (&["AZURE_CLIENT_ID"], AzureConfigKey::ClientId, false),
        (&["AZURE_TENANT_ID"], AzureConfigKey::AuthorityId, false),
        (&["AZURE_AUTHORITY_HOST"], AzureConfigKey::AuthorityHost, false),
        (&["IDENTITY_ENDPOINT", "MSI_ENDPOINT"], AzureConfigKey::MsiEndpoint, false),
    ] {
        if let Some(value) = set(names) {
            builder = builder.with_config(key, value);
            named |= is_credential;
        }
    }
    // A key that is no base64 is told by its name, never by its value.
    let unusable = |e: object_store::Error| place.unusable(&e);
    named |= set(&["IDENTITY_ENDPOINT", "MSI_ENDPOINT"]).is_some();
    let given = builder.clone().build().map_err(unusable)?;
    let role = Role::new(Arc::clone(given.credentials()), named, ADVICE);
    let store = builder.with_credentials(Arc::new(role)).build().map_err(unusable)?;
    Ok(Arc::new(Objects::new(Service::Azure, place, Arc::new(store), options.single_writer, policy, date)?))
}
