//! Work on many things side by side.

use crate::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;

/// The same work, for another thread: what it logs is told to be of whom it is here, by the span that this thread is in.
pub fn as_here<R>(work: impl FnOnce() -> R) -> impl FnOnce() -> R {
    let span = tracing::Span::current();
    move || span.in_scope(work)
}

/// Does `work` for each item with so many threads at most; the results are in the order of the items. The first error ends
/// it.
pub(crate) fn each<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let threads = threads.clamp(1, items.len().max(1));
    if threads == 1 {
        return items.iter().map(work).collect();
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let thread = || {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(n) else { break };
            match work(item) {
                Ok(result) => done.push((n, result)),
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
        Ok(done)
    };
    let lost = || Err(Error::internal("a thread that worked beside others panicked"));
    let parts: Vec<Result<Vec<(usize, R)>>> = std::thread::scope(|scope| {
        let start = |_| Builder::new().spawn_scoped(scope, as_here(thread)).ok();
        let threads: Vec<_> = (0..threads).map_while(start).collect();
        // With as many as can be had, and without any all the same.
        let alone = threads.is_empty().then(thread);
        alone.into_iter().chain(threads.into_iter().map(|t| t.join().unwrap_or_else(|_| lost()))).collect()
    });
    let mut all = parts.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>();
    all.sort_unstable_by_key(|(n, _)| *n);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

/// Does `work` for a few parts at once, with a thread each; the results are in the order of the parts. What no thread can be had
/// for is done without one. `lost`: what comes of a part whose thread panics.
pub(crate) fn at_once<P: Send + Copy, R: Send>(
    parts: impl Iterator<Item = P>,
    work: impl Fn(P) -> R + Sync,
    lost: impl Fn() -> R,
) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let begin = |part| Builder::new().spawn_scoped(scope, as_here(move || work(part))).map_err(|_| work(part));
        let begun: Vec<_> = parts.map(begin).collect();
        let done = begun.into_iter().map(|begun| match begun {
            Ok(thread) => thread.join().unwrap_or_else(|_| lost()),
            Err(done) => done,
        });
        done.collect()
    })
}
