//! The engine of plain threads: each takes a transfer, carries it out, takes the next.

use std::io;
use std::thread::{Builder, JoinHandle};

use crate::engine::{Channel, Exit};

/// Enough for a few calls deep; the default of 2 MiB each would only look large in the books.
const STACK_BYTES: usize = 256 * 1024;

/// Starts `depth` threads that work until there is no more to do.
pub(crate) fn spawn(depth: usize, channel: &Channel, exit: &Exit) -> io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::with_capacity(depth);
    for _ in 0..depth {
        let (channel, exit) = (channel.clone(), exit.share());
        let spawned = Builder::new().name("wherry-io".into()).stack_size(STACK_BYTES).spawn(move || {
            let work = exit.work();
            while let Some(mut request) = work.next() {
                let result = request.run(&channel.file, channel.alignment);
                work.done(request, result);
            }
        });
        match spawned {
            Ok(thread) => threads.push(thread),
            // Fewer threads than asked for are slower, not wrong.
            Err(e) if !threads.is_empty() => {
                tracing::warn!(threads = threads.len(), wanted = depth, error = %e, "could not start all reader threads");
                break;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(threads)
}
