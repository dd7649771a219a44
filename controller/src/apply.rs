//! Does what was decided: the only place that writes.

use crate::reconcile::Write;
use wherry_api::api::{Api, ApiError, Refusal, guarded};

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is done.
    Done,
    /// The cluster is not as it was when this was decided: look and decide again.
    LookAgain,
}

/// Does one write. Whatever the answer is, the next decision is made from a new look, so an answer that got lost does
/// no harm.
pub async fn apply<A: Api>(api: &A, write: &Write) -> Result<Applied, ApiError> {
    let answer = match write {
        Write::Create { key, object } => api.create(key, object).await.map(drop),
        Write::Patch { key, guard, patch } => api.patch(key, &guarded(patch, guard)).await.map(drop),
        Write::Delete { key, guard } => api.delete(key, guard).await,
    };
    match answer {
        Ok(()) => Ok(Applied::Done),
        Err(e) if matches!(e.refusal, Refusal::NotFound | Refusal::Conflict | Refusal::Exists) => {
            Ok(Applied::LookAgain)
        }
        Err(e) => Err(e),
    }
}
