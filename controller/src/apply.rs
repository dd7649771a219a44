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
    meaning(matches!(write, Write::Create { .. }), answer)
}

/// What an answer says of a write. A create that is refused by anything but the object being there (a quota that others wrote at the same
/// moment, a namespace that is gone) says nothing about what was seen: it keeps its reason, and is tried again.
fn meaning(is_create: bool, answer: Result<(), ApiError>) -> Result<Applied, ApiError> {
    match answer {
        Ok(()) => Ok(Applied::Done),
        Err(e) if e.refusal == Refusal::Exists => Ok(Applied::LookAgain),
        Err(e) if !is_create && matches!(e.refusal, Refusal::NotFound | Refusal::Conflict) => Ok(Applied::LookAgain),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_that_is_there_stands_in_the_way_of_a_create() {
        let answer = |is_create, refusal| {
            let message = "409: Operation cannot be fulfilled on resourcequotas \"q\"".to_owned();
            meaning(is_create, Err(ApiError::new(refusal, "create x", message))).map_err(|e| e.refusal)
        };
        assert_eq!(answer(true, Refusal::Exists), Ok(Applied::LookAgain));
        for refusal in [Refusal::Conflict, Refusal::NotFound] {
            assert_eq!(answer(true, refusal), Err(refusal));
            assert_eq!(answer(false, refusal), Ok(Applied::LookAgain));
        }
    }
}
