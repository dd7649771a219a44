//! Credentials that a machine or pod has by what it is, or that a server gives for others.

use super::cause;
use super::credentials::Missing;
use super::http::{Broken, Refused};
use crate::ErrorKind;
use async_trait::async_trait;
use object_store::CredentialProvider;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whoever gives credentials gave none. What that server says is no answer about an object, so it is none of the causes here.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct NotGiven {
    /// [`Unavailable`](ErrorKind::Unavailable) or [`Denied`](ErrorKind::Denied).
    pub(super) kind: ErrorKind,
    pub(super) text: String,
}

impl NotGiven {
    /// There may be some again soon.
    pub(super) fn for_now(why: &str) -> Self {
        Self { kind: ErrorKind::Unavailable, text: format!("no credentials are given: {why}") }
    }

    pub(super) fn new(error: &object_store::Error) -> Self {
        let (kind, why) = match (cause::<Refused>(error), cause::<Broken>(error)) {
            (Some(refused), _) => (meaning(refused), refused.to_string()),
            (None, Some(broken)) => (ErrorKind::Unavailable, broken.to_string()),
            // A file that is renewed right now, or a nonsensical answer.
            (None, None) => (ErrorKind::Unavailable, error.to_string()),
        };
        Self { kind, text: format!("no credentials are given: {why}") }
    }
}

/// Servers of metadata say 404 and 410 while they are renewed, those of tokens 400 when there is too much to do.
fn meaning(refused: &Refused) -> ErrorKind {
    let says = |word: &str| refused.code.contains(word) || refused.message.contains(word);
    match refused.status {
        404 | 408 | 410 | 425 | 429 | 500..=599 => ErrorKind::Unavailable,
        _ if ["Throttl", "IDPCommunicationError", "SlowDown", "temporarily_unavailable"].into_iter().any(says) => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Denied,
    }
}

/// Asks whoever gives credentials. Where nothing says that there is anybody, silence means that there are none at all.
pub(super) struct Role<C> {
    inner: Arc<dyn CredentialProvider<Credential = C>>,
    /// It was named, or has given credentials before: it is there, and a failure may pass.
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
    /// `is_named`: by a user, so it is there.
    pub(super) fn new(
        inner: Arc<dyn CredentialProvider<Credential = C>>,
        is_named: bool,
        advice: &'static str,
    ) -> Self {
        Self { inner, known: AtomicBool::new(is_named), advice }
    }
}

#[async_trait]
impl<C: fmt::Debug + Send + Sync + 'static> CredentialProvider for Role<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            Err(object_store::Error::Generic { store: "credentials", source })
        };
        match self.inner.get_credential().await {
            Ok(credential) => {
                self.known.store(true, Ordering::Relaxed);
                Ok(credential)
            }
            Err(error) if !self.known.load(Ordering::Relaxed) && is_nobody(&error) => {
                tracing::debug!(%error, "no credentials from the role of this machine");
                failed(Missing::new(format!("there are no credentials; {}", self.advice)).into())
            }
            Err(error) => failed(NotGiven::new(&error).into()),
        }
    }
}

/// There is no server where those of machines are.
fn is_nobody(error: &object_store::Error) -> bool {
    match (cause::<Refused>(error), cause::<Broken>(error)) {
        (Some(_), _) => false,
        (None, Some(Broken::Connection(error))) => error.is_connect(),
        (None, Some(_)) => false,
        // Nothing that a server of credentials says.
        (None, None) => true,
    }
}
