//! Tokens of the agent's own account for the service of a driver. The service asks the API server whose they are, and whether that
//! account may get VolumeSnapshots in the namespace.

use crate::agent::surroundings::Surroundings;
use std::time::{Duration, Instant};
use wherry_api::api::ApiError;

/// The account of the agent, in the namespace of Velero (`controller/deploy/rbac.yaml`).
const ACCOUNT: &str = "wherry-agent";
/// What is asked for: the shortest time that the API server gives.
const SECONDS: u32 = 600;
/// One is not begun a call with when it is older. The service looks at it when a call begins, and what calls take is its affair.
const FRESH: Duration = Duration::from_secs(SECONDS as u64 * 4 / 5);

/// The token in use.
pub(super) struct Tokens<'a> {
    around: &'a Surroundings,
    audience: &'a str,
    known: Option<(Instant, String)>,
}

impl<'a> Tokens<'a> {
    /// For that audience; none is asked for yet.
    pub(super) fn new(around: &'a Surroundings, audience: &'a str) -> Self {
        Self { around, audience, known: None }
    }

    /// One that is good for some time.
    pub(super) async fn get(&mut self) -> Result<String, ApiError> {
        if let Some((_, token)) = self.known.as_ref().filter(|(until, _)| Instant::now() < *until) {
            return Ok(token.clone());
        }
        let begin = Instant::now();
        let api = &self.around.api;
        let token = api.account_token(&self.around.namespace, ACCOUNT, self.audience, SECONDS).await?;
        // By the clock of this process alone; one that the server made shorter is refused, and another one asked for.
        self.known = Some((begin + FRESH, token.text.clone()));
        Ok(token.text)
    }

    /// The service does not take it.
    pub(super) fn refused(&mut self) {
        self.known = None;
    }
}
