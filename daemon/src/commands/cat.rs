//! `wherry cat`

use crate::cli::CatArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::readers::Readers;
use anyhow::Result;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use wherry_repo::{ChunkRef, Error, SnapshotReader, Verified};

/// Bytes that are read at once, and then written.
const WINDOW: u64 = 16 << 20;
/// Longest request to the storage (bytes).
const FETCH: u64 = 4 << 20;

/// Writes a disk, or a part of it, to standard output. What is missing in a partial one is said, and ends it as such.
pub(crate) fn run(context: &Context, args: CatArgs) -> Result<Exit> {
    let CatArgs { snap, offset, length } = args;
    let repository = context.open_repository()?;
    let snapshot = context.snapshot(&repository, &snap)?;
    // The session is ended by a signal too.
    let _armed = context.cancel.arm("");
    let readers = Readers::start(&repository)?;
    let reader = SnapshotReader::within(readers.open(&snapshot)?)?;
    let size = reader.size();
    let start = offset.map_or(0, |o| o.0);
    if start > size {
        return Err(Error::invalid(format!("the disk ends at byte {size}: --offset {start} is beyond")).into());
    }
    let end = length.map_or(size, |l| start.saturating_add(l.0).min(size));
    let partial = snapshot.record.partial;
    if partial {
        tracing::warn!("snapshot {} is partial: what could not be read when it was made is missing", snapshot.id);
    }
    readers.until_a_signal(&context.cancel, || write(context, &reader, start..end))?;
    Ok(if partial { Exit::Partial } else { Exit::Done })
}

/// Writes these bytes of the disk.
fn write(context: &Context, reader: &SnapshotReader, bytes: Range<u64>) -> Result<()> {
    let unit = reader.chunk_size();
    let Range { start, end } = bytes;
    let zeros = vec![0; unit as usize];
    let mut window = start / unit..start / unit;
    while window.end * unit < end {
        window = window.end..(window.end + (WINDOW / unit).max(4)).min(end.div_ceil(unit));
        let chunks = read(reader, window.clone(), context.budget.downloads)?;
        for number in window.clone() {
            context.cancel.check()?;
            let bytes = chunks.get(&number).map_or(&zeros[..], AsRef::as_ref);
            let from = start.saturating_sub(number * unit) as usize;
            let to = (end - number * unit).min(unit) as usize;
            context.output.bytes(&bytes[from..to])?;
        }
    }
    Ok(())
}

/// The chunks of a window that are not zero.
fn read(reader: &SnapshotReader, window: Range<u64>, threads: usize) -> Result<HashMap<u64, Verified<Vec<u8>>>> {
    let chunks = window.filter_map(|n| reader.chunk(n).transpose()).collect::<wherry_repo::Result<Vec<_>>>()?;
    let plan = reader.plan(chunks, FETCH);
    let next = AtomicUsize::new(0);
    let found = Mutex::new(HashMap::new());
    let work = || -> wherry_repo::Result<()> {
        let mut scratch = Vec::new();
        while let Some(fetch) = plan.get(next.fetch_add(1, Ordering::Relaxed)) {
            let buffer = |chunk: &ChunkRef| vec![0; chunk.len];
            reader.read(fetch, &mut scratch, buffer, |chunk, opened| -> wherry_repo::Result<()> {
                found.lock().insert(chunk.number, opened?);
                Ok(())
            })?;
        }
        Ok(())
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(plan.len())).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join()).collect()
    });
    for result in results {
        result.map_err(|_| Error::internal("a worker thread panicked"))??;
    }
    Ok(found.into_inner())
}
