//! Threads that end with the work they are for.

use std::thread::{Builder, Scope, ScopedJoinHandle};
use wherry_repo::{Error, ErrorKind, Result, as_here};

/// Starts a thread; what it logs is told to be of whom it is here.
///
/// # Errors
/// `Unavailable` when none can be had.
pub(crate) fn one<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, as_here(work)).map_err(|e| {
        let text = "no thread could be started: allow this user more processes, or wherry more memory";
        Error::new(ErrorKind::Unavailable, text).with_source(e)
    })
}

/// Starts so many that do the same, at least one; fewer where no more can be had.
///
/// # Errors
/// `Unavailable` when there is none at all.
pub(crate) fn some<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    most: usize,
    work: impl FnOnce() -> T + Clone + Send + 'scope,
) -> Result<Vec<ScopedJoinHandle<'scope, T>>> {
    let mut all = vec![one(scope, work.clone())?];
    all.extend((1..most).map_while(|_| one(scope, work.clone()).ok()));
    Ok(all)
}
