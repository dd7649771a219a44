//! `wherry cat`

use super::opened::{Typed, look};
use crate::cli::CatArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::readers::Readers;
use crate::threads;
use crate::tree::inside::DISK;
use crate::tree::view::not_a_file;
use anyhow::Result;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use wherry_repo::{ChunkRef, Error, Repository, Snapshot, SnapshotReader, Verified};

/// Bytes that are read at once, and then written.
const WINDOW: u64 = 16 << 20;
/// Longest request to the storage (bytes).
const FETCH: u64 = 4 << 20;

/// Writes a disk, or a file inside it or of a directory, or a part of that, to standard output. What is missing in a partial one is said, and ends it as such.
pub(crate) fn run(context: &Context, args: CatArgs) -> Result<Exit> {
    let CatArgs { snap, path, offset, length } = args;
    let repository = context.open_repository()?;
    let snapshot = context.snapshot(&repository, &snap)?;
    let wanted = Wanted { start: offset.map_or(0, |o| o.0), length: length.map(|l| l.0) };
    let typed = path.map(|path| Typed::new(Some(path)));
    let is_disk = snapshot.record.tree.is_none();
    if typed.is_none() && !is_disk {
        let text = "the snapshot is of a directory: name a file in it, `wherry ls` shows what there is; all of it: `wherry dump`";
        return Err(Error::invalid(text).into());
    }
    match typed.filter(|typed| !is_disk || typed.path.names() != [DISK]) {
        Some(typed) => inside(context, &repository, &snapshot, &typed, &wanted),
        None => disk(context, &repository, &snapshot, &wanted),
    }
}

/// Which bytes are wanted.
struct Wanted {
    start: u64,
    /// To the end where there is none.
    length: Option<u64>,
}

impl Wanted {
    /// Those of something of this size.
    fn of(&self, size: u64, what: &str) -> wherry_repo::Result<Range<u64>> {
        let Self { start, length } = *self;
        if start > size {
            return Err(Error::invalid(format!("{what} ends at byte {size}: --offset {start} is beyond")));
        }
        Ok(start..length.map_or(size, |length| start.saturating_add(length).min(size)))
    }
}

/// Writes a file inside the disk.
fn inside(
    context: &Context,
    repository: &Repository,
    snapshot: &Snapshot,
    typed: &Typed,
    wanted: &Wanted,
) -> Result<Exit> {
    look(context, repository, snapshot, typed, |view, path| {
        let node = view.stat(path)?;
        if !node.is_file() {
            return Err(not_a_file(path, &node.inode.kind).into());
        }
        let bytes = wanted.of(node.inode.size, &path.to_string())?;
        view.read(path, bytes, &mut |bytes| {
            context.cancel.check()?;
            context.output.bytes(bytes)
        })?;
        Ok(Exit::Done)
    })
}

/// Writes the disk.
fn disk(context: &Context, repository: &Repository, snapshot: &Snapshot, wanted: &Wanted) -> Result<Exit> {
    snapshot.volume_chunk_size()?;
    // The session is ended by a signal too.
    let _armed = context.cancel.arm("");
    let readers = Readers::start(repository)?;
    let reader = SnapshotReader::within(readers.open(snapshot)?)?;
    let bytes = wanted.of(reader.size(), "the disk")?;
    let partial = snapshot.record.partial;
    if partial {
        tracing::warn!("snapshot {} is partial: what could not be read when it was made is missing", snapshot.id);
    }
    readers.until_a_signal(&context.cancel, || write(context, &reader, bytes))?;
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
        let threads = threads::some(scope, threads.min(plan.len()), work)?;
        Ok::<_, Error>(threads.into_iter().map(|t| t.join()).collect())
    })?;
    for result in results {
        result.map_err(|_| Error::internal("a worker thread panicked"))??;
    }
    Ok(found.into_inner())
}
