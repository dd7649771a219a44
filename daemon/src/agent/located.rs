//! The repository of a BackupStorageLocation for the commands that look into it: `--repo velero://NAME`, in a pod of the cluster.

use super::store::{Store, Use};
use super::surroundings::Surroundings;
use crate::cli::ClusterFlags;
use crate::context::Context;
use anyhow::Result;
use wherry_repo::{Error, ErrorKind, Repository};

/// What a place begins with that is the name of a BackupStorageLocation.
pub(crate) const SCHEME: &str = "velero://";

/// Opens the repository of that location, asking the API server as the account of the pod: where it lies, its credentials, its key.
/// Nothing is made.
///
/// # Errors
/// `Invalid` and `Denied` say what has to be mended.
pub(crate) fn open(context: &Context, name: &str) -> wherry_repo::Result<Repository> {
    let opened = try_open(context, name);
    opened.map_err(|e| {
        let kind = crate::backup::kind(&e).unwrap_or(ErrorKind::Invalid);
        Error::new(kind, format!("{SCHEME}{name}: {}", crate::exit::one_line(&e)))
    })
}

fn try_open(context: &Context, name: &str) -> Result<Repository> {
    let (around, runtime) = Surroundings::new(ClusterFlags::default())?;
    let store = Store::open(&around, name, Use::Read, &context.cancel, context)?;
    tracing::debug!(location = %name, place = %store.url, "found");
    runtime.shutdown_background();
    Ok(store.into_repository())
}
