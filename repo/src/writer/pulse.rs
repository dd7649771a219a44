//! Signs of life of a run, for as long as it may still commit.

use super::uploads::Shared;
use crate::session::Session;
use crate::{ErrorKind, Result};
use parking_lot::Mutex;
use std::sync::Arc;

/// Gives signs of life of one writer, also while that commits or is given up. Clones are one.
#[derive(Clone, Debug)]
pub struct Pulse {
    session: Arc<Session>,
    uploads: Arc<Shared>,
    /// What one beat learns from collectors the next one takes as known.
    one_at_a_time: Arc<Mutex<()>>,
}

impl Pulse {
    pub(super) fn new(session: Arc<Session>, uploads: Arc<Shared>) -> Self {
        Self { session, uploads, one_at_a_time: Arc::default() }
    }

    /// A sign of life, and news from collectors; call it about once a minute. `Conflict`: the session is over, and
    /// whatever the writer is asked to do from now on fails.
    pub fn beat(&self) -> Result<()> {
        let _one = self.one_at_a_time.lock();
        let result = self.session.beat();
        if let Err(e) = &result
            && e.kind() == ErrorKind::Conflict
        {
            self.uploads.fail(e.again());
        }
        result
    }

    /// N3: gives the run up before it has stored anything, where nobody can give signs of life. Else collectors on other machines would
    /// wait for it until it counts as silent.
    ///
    /// # Errors
    /// What the storage says when it does not answer.
    pub fn give_up(&self) -> Result<()> {
        self.session.leave()
    }
}
