//! Credentials that a machine or pod has by what it is.

use super::credentials::Missing;
use async_trait::async_trait;
use object_store::CredentialProvider;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Asks the machine's role; as long as it never gave any, a failure means that there are no credentials at all.
pub(super) struct Role<C> {
    inner: Arc<dyn CredentialProvider<Credential = C>>,
    /// It has given credentials before, so it is there and a failure may pass.
    known: AtomicBool,
    /// What a user can do who has none.
    advice: &'static str,
}

impl<C> fmt::Debug for Role<C> {
    /// What it holds is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Role")
    }
}

impl<C> Role<C> {
    pub(super) fn new(inner: Arc<dyn CredentialProvider<Credential = C>>, advice: &'static str) -> Self {
        Self { inner, known: AtomicBool::new(false), advice }
    }
}

#[async_trait]
impl<C: fmt::Debug + Send + Sync + 'static> CredentialProvider for Role<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        match self.inner.get_credential().await {
            Ok(credential) => {
                self.known.store(true, Ordering::Relaxed);
                Ok(credential)
            }
            Err(error) if self.known.load(Ordering::Relaxed) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "no credentials from the role of this machine");
                let missing = Missing::new(format!("there are no credentials; {}", self.advice));
                Err(object_store::Error::Generic { store: "role", source: missing.into() })
            }
        }
    }
}
