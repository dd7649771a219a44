//! Copying snapshots from one repository into another (M3 of `docs/concurrency.md`): a reader at the source, a writer at the
//! target. Every chunk is opened with the keys of the one and sealed, under another id, with those of the other. What the
//! target has is not sent again; what a copy of an older snapshot shows to be the same is not even read.

mod map;
mod plan;
mod tree;

pub(crate) use plan::origin;
pub use plan::{Base, CopyPlan};

use crate::format::records::Origin;
use crate::id::SessionId;
use crate::index::ChunkIndex;
use crate::reader::{ChunkReader, ChunkRef};
use crate::session::ParentChoice;
use crate::writer::Copied;
use crate::{
    CommitInfo, Error, ErrorKind, Pulse, ReadSession, Repository, Result, Snapshot, SnapshotReader, SnapshotWriter,
    TreeReader, TreeWriter, WriterOptions,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How a snapshot is copied.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// How it is written; name, chunk size and parent are not taken from here.
    pub writer: WriterOptions,
    /// Threads that read and write, each with one range of a pack at a time.
    pub threads: usize,
    /// Longest such range in bytes.
    pub fetch: u64,
    /// The run, as in its log lines.
    pub run: String,
}

/// Is told of bytes that were read and copied; an error ends the copy.
pub type CopyWatch<'a> = &'a (dyn Fn(u64) -> Result<()> + Sync);

/// One snapshot being copied. Drop it without [`run`](Self::run) and there is no copy.
#[derive(Debug)]
pub struct SnapshotCopy {
    target: Repository,
    snapshot: Snapshot,
    origin: Origin,
    options: CopyOptions,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Disk(Box<Sides<SnapshotReader, SnapshotWriter>>),
    Tree(Box<Sides<TreeReader, TreeWriter>>),
}

/// The original, the snapshot whose copy the writer builds upon, and the copy.
#[derive(Debug)]
struct Sides<R, W> {
    reader: R,
    base: Option<R>,
    writer: W,
}

impl SnapshotCopy {
    /// Opens a session at the target for the snapshot that `session` reads at the source. `base`: what is the same as in that
    /// snapshot of the source need not be read, as the target has a copy of it.
    pub fn start(
        session: Arc<ReadSession>,
        target: &Repository,
        index: Arc<ChunkIndex>,
        base: Option<&Base>,
        options: &CopyOptions,
    ) -> Result<Self> {
        let (source, snapshot) = (session.repository().clone(), session.snapshot().clone());
        let parent = base.map_or(ParentChoice::None, |base| ParentChoice::Snapshot(base.copy));
        let of = |parent| WriterOptions {
            name: snapshot.record.name.clone(),
            chunk_size: snapshot.chunk_size().and_then(|size| u32::try_from(size).ok()),
            parent,
            ..options.writer.clone()
        };
        let kind = match snapshot.record.tree.is_some() {
            false => {
                let reader = of_source(&source, SnapshotReader::within(session))?;
                let writer = or_alone(parent, |parent| SnapshotWriter::start(target, index.clone(), &of(parent)))?;
                let base = base.filter(|_| writer.can_inherit());
                let base = base.and_then(|base| or_none(&source, SnapshotReader::open(&source, &base.of)));
                Kind::Disk(Box::new(Sides { reader, base: base.transpose()?, writer }))
            }
            true => {
                let reader = of_source(&source, TreeReader::within(session))?;
                let writer = or_alone(parent, |parent| TreeWriter::start_copy(target, index.clone(), &of(parent)))?;
                let base = base.filter(|_| writer.parent().is_some());
                let base = base.and_then(|base| or_none(&source, TreeReader::open(&source, &base.of)));
                Kind::Tree(Box::new(Sides { reader, base: base.transpose()?, writer }))
            }
        };
        let origin = plan::origin(&source, &snapshot);
        Ok(Self { target: target.clone(), snapshot, origin, options: options.clone(), kind })
    }

    /// Id of the session at the target, and of the copy if it is committed.
    pub fn id(&self) -> SessionId {
        match &self.kind {
            Kind::Disk(of) => of.writer.id(),
            Kind::Tree(of) => of.writer.id(),
        }
    }

    /// Gives signs of life of this run at the target; somebody has to do that about once a minute. The session at the source
    /// needs its own.
    pub fn pulse(&self) -> Pulse {
        match &self.kind {
            Kind::Disk(of) => of.writer.pulse(),
            Kind::Tree(of) => of.writer.pulse(),
        }
    }

    /// Copies and commits nothing: all chunks and nodes of the snapshot are at the target then, the nodes stored by this run, the
    /// chunks where the target did not have them in a pack that is there and not known to be damaged (M7). After an error some are.
    pub(crate) fn store(self, watch: CopyWatch<'_>) -> Result<()> {
        let Self { snapshot, options, kind, .. } = self;
        match kind {
            Kind::Disk(of) => {
                let Sides { reader, base, writer } = *of;
                let lost = AtomicU64::new(0);
                let work = Work { options: &options, chunks: reader.chunks(), watch, lost: Some(&lost) };
                match map::disk(&work, &reader, base.as_ref(), &writer) {
                    Ok(()) => writer.store(snapshot.record.size)?,
                    // Nodes of what was read until then may be the ones that are needed.
                    Err(e) if e.kind() == ErrorKind::Corrupt => return writer.store_as_it_is().and(Err(e)),
                    Err(e) => return Err(left(writer.abandon(), e)),
                }
                match lost.into_inner() {
                    0 => Ok(()),
                    n => Err(Error::corrupt(format!(
                        "{n} of the chunks of snapshot {} do not verify there",
                        snapshot.id
                    ))),
                }
            }
            Kind::Tree(of) => {
                let Sides { reader, base, writer } = *of;
                let work = Work { options: &options, chunks: reader.chunks(), watch, lost: None };
                match tree::copy(&work, &reader, base.as_ref(), &writer) {
                    Ok(_) => writer.store(),
                    Err(e) if e.kind() == ErrorKind::Corrupt => writer.store().and(Err(e)),
                    Err(e) => Err(left(writer.abandon(), e)),
                }
            }
        }
    }

    /// Copies and commits: Ok means the copy is durable and will restore as the original does. After an error there is none,
    /// and what was stored is left to the next run. `Corrupt`: some of the original is lost; `Conflict`: the run was ended by
    /// a collector of the target, or somebody else has copied the snapshot since `plan` was made.
    pub fn run(self, plan: &CopyPlan, watch: CopyWatch<'_>) -> Result<Snapshot> {
        let Self { target, snapshot, origin, options, kind } = self;
        let record = &snapshot.record;
        let copied = Copied { origin, started: record.started, host: record.host.clone(), chunks: record.chunks };
        let info = CommitInfo {
            size: record.size,
            tags: record.tags.clone(),
            source: record.source.clone(),
            run: options.run.clone(),
            engine: record.engine.clone(),
            partial: record.partial,
            copied: Some(copied),
            ..CommitInfo::default()
        };
        let refused = || {
            watch(0)?;
            match plan.copied_since(&target, &snapshot)? {
                None => Ok(()),
                Some((copy, _)) => {
                    let text = format!("snapshot {} has been copied by somebody else, as {copy}", snapshot.id);
                    Err(Error::new(ErrorKind::Conflict, text))
                }
            }
        };
        match kind {
            Kind::Disk(of) => {
                let Sides { reader, base, writer } = *of;
                match map::disk(
                    &Work { options: &options, chunks: reader.chunks(), watch, lost: None },
                    &reader,
                    base.as_ref(),
                    &writer,
                ) {
                    Ok(()) => writer.commit_unless(info, refused),
                    Err(e) => Err(left(writer.abandon(), e)),
                }
            }
            Kind::Tree(of) => {
                let Sides { reader, base, writer } = *of;
                let work = Work { options: &options, chunks: reader.chunks(), watch, lost: None };
                match tree::copy(&work, &reader, base.as_ref(), &writer) {
                    Ok((root, described)) => writer.commit_unless(root, info, described, refused),
                    Err(e) => Err(left(writer.abandon(), e)),
                }
            }
        }
    }
}

/// Starts with this parent, or without one when it may not be built upon any more.
fn or_alone<T>(parent: ParentChoice, start: impl Fn(ParentChoice) -> Result<T>) -> Result<T> {
    match start(parent.clone()) {
        // Forgotten since it was chosen, or gone for good since.
        Err(e) if matches!(e.kind(), ErrorKind::Invalid | ErrorKind::NoSnapshot) && parent != ParentChoice::None => {
            tracing::debug!("the copy is not built upon another: {e}");
            start(ParentChoice::None)
        }
        started => started,
    }
}

/// What was read of the original. What its storage will not give in a minute either is damage of the original: whoever copies
/// goes on with the others, which an answer that is late, or an error of the target, would end.
fn of_source<T>(source: &Repository, read: Result<T>) -> Result<T> {
    read.map_err(|e| if source.is_damage(&e) { e.into_damage() } else { e })
}

/// What can be read at the source of the base; `None` when it is damaged: then everything is read.
fn or_none<T>(source: &Repository, opened: Result<T>) -> Option<Result<T>> {
    match opened {
        Err(e) if source.is_damage(&e) => {
            tracing::warn!("everything is read, as an older snapshot cannot be: {e}");
            None
        }
        opened => Some(opened),
    }
}

fn left(abandoned: Result<()>, why: Error) -> Error {
    if let Err(e) = abandoned {
        tracing::debug!("the run was not left in order: {e}");
    }
    why
}

/// What all parts of a copy share.
struct Work<'a> {
    options: &'a CopyOptions,
    /// Reads chunks at the source.
    chunks: &'a ChunkReader,
    watch: CopyWatch<'a>,
    /// Counts chunks that do not verify at the source, which are left out: for what is not committed. `None`: the first one ends it.
    lost: Option<&'a AtomicU64>,
}

impl Work<'_> {
    /// See [`of_source`].
    fn of_source<T>(&self, read: Result<T>) -> Result<T> {
        of_source(self.chunks.repository(), read)
    }

    /// Reads these chunks and gives each, verified, to `take`, on several threads and in any order. `state` makes what a thread
    /// keeps. The first error ends it.
    fn each<S>(
        &self,
        chunks: Vec<ChunkRef>,
        state: impl Fn() -> Result<S> + Sync,
        take: impl Fn(&mut S, &ChunkRef, &[u8]) -> Result<()> + Sync,
    ) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        let plan = self.chunks.plan(chunks, self.options.fetch);
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None::<Error>));
        let work = || -> Result<()> {
            let (mut state, mut sealed) = (state()?, Vec::new());
            while let Some(fetch) = plan.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.lock().is_some() {
                    return Ok(());
                }
                self.chunks.read(
                    fetch,
                    &mut sealed,
                    |chunk| vec![0; chunk.len],
                    |chunk, opened| {
                        let plain = match (self.of_source(opened), self.lost) {
                            (Err(e), Some(lost)) if e.kind() == ErrorKind::Corrupt => {
                                tracing::debug!("a chunk of the other repository is of no use: {e}");
                                lost.fetch_add(1, Ordering::Relaxed);
                                return Ok(());
                            }
                            (opened, _) => opened?.into_inner(),
                        };
                        (self.watch)(plain.len() as u64)?;
                        take(&mut state, chunk, &plain)
                    },
                )?;
            }
            Ok(())
        };
        let tell = |done: Result<()>| {
            if let Err(e) = done {
                failed.lock().get_or_insert(e);
            }
        };
        let threads = self.options.threads.clamp(1, plan.len());
        std::thread::scope(|scope| {
            let start = |_| std::thread::Builder::new().spawn_scoped(scope, || tell(work())).ok();
            let others: Vec<_> = (1..threads).map_while(start).collect();
            tell(work());
            for other in others {
                if other.join().is_err() {
                    tell(Err(Error::internal("a thread that copied panicked")));
                }
            }
        });
        failed.into_inner().map_or(Ok(()), Err)
    }
}
