//! `wherry diff`

use crate::cli::DiffArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output;
use crate::readers::Readers;
use anyhow::Result;
use std::collections::VecDeque;
use std::ops::Range;
use wherry_repo::{ChunkRef, Error, SnapshotReader};

/// Output is written in pieces of about so many bytes.
const PIECE: usize = 64 << 10;

/// Says which bytes differ between two snapshots of disks, in whole chunks, from their maps alone: no data is read. Of
/// directories: which paths.
pub(crate) fn run(context: &Context, args: DiffArgs) -> Result<Exit> {
    let DiffArgs { old, new } = args;
    let repository = context.open_repository()?;
    let (old, new) = (context.snapshot(&repository, &old)?, context.snapshot(&repository, &new)?);
    if let (Some(_), Some(_)) = (&old.record.tree, &new.record.tree) {
        return super::diff_tree::run(context, &repository, [&old, &new]);
    }
    if old.record.tree.is_some() != new.record.tree.is_some() {
        let (tree, disk) = if old.record.tree.is_some() { (&old, &new) } else { (&new, &old) };
        let text = format!("{} is of a directory and {} of a disk: they cannot be compared", tree.id, disk.id);
        return Err(Error::invalid(text).into());
    }
    if old.volume_chunk_size()? != new.volume_chunk_size()? {
        let text = format!("{} and {} have chunks of another size: they cannot be compared", old.id, new.id);
        return Err(Error::invalid(text).into());
    }
    // The sessions are ended by a signal too.
    let _armed = context.cancel.arm("");
    let readers = Readers::start(&repository)?;
    let sides = [SnapshotReader::within(readers.open(&old)?)?, SnapshotReader::within(readers.open(&new)?)?];
    let mut report = Report::new(context);
    if context.output.is_json() {
        let head = [("old", &old.id), ("new", &new.id)].map(|(name, id)| format!("\"{name}\":\"{id}\",")).concat();
        report.text(&format!("{{{head}\"ranges\":["))?;
    }
    readers.until_a_signal(&context.cancel, || compare(&sides, context, &mut report))?;
    report.end(old.record.size.max(new.record.size))?;
    let partial = old.record.partial || new.record.partial;
    if partial {
        tracing::warn!("a snapshot is partial: what could not be read when it was made counts as zero");
    }
    Ok(if partial { Exit::Partial } else { Exit::Done })
}

/// Gives `report` the ranges that differ, ascending.
fn compare(sides: &[SnapshotReader; 2], context: &Context, report: &mut Report<'_>) -> Result<()> {
    let unit = sides[0].chunk_size();
    let [small, large] = {
        let [a, b] = sides.each_ref().map(SnapshotReader::size);
        [a.min(b), a.max(b)]
    };
    let [mut old, mut new] = sides.each_ref().map(Chunks::new);
    loop {
        let (a, b) = (old.first()?, new.first()?);
        let Some(number) = a.into_iter().chain(b).map(|chunk| chunk.number).min() else { break };
        // One of them does not reach so far.
        if number * unit >= small {
            break;
        }
        let at = |chunk: Option<ChunkRef>| chunk.filter(|chunk| chunk.number == number);
        let (a, b) = (at(a), at(b));
        if a.map(|chunk| (chunk.id(), chunk.len)) != b.map(|chunk| (chunk.id(), chunk.len)) {
            report.range(number * unit..((number + 1) * unit).min(large))?;
        }
        old.take(a);
        new.take(b);
        context.cancel.check()?;
    }
    report.range(small..large)
}

/// The chunks of a snapshot that are not zero, in their order.
struct Chunks<'a> {
    reader: &'a SnapshotReader,
    found: VecDeque<ChunkRef>,
    /// The map was read up to this chunk; `None` at its end.
    next: Option<u64>,
}

impl<'a> Chunks<'a> {
    fn new(reader: &'a SnapshotReader) -> Self {
        Self { reader, found: VecDeque::new(), next: Some(0) }
    }

    fn first(&mut self) -> Result<Option<ChunkRef>> {
        while let (None, Some(from)) = (self.found.front(), self.next) {
            self.next = self.reader.next_chunks(from)?.map(|(chunks, next)| {
                self.found.extend(chunks);
                next
            });
        }
        Ok(self.found.front().copied())
    }

    fn take(&mut self, first: Option<ChunkRef>) {
        if first.is_some() {
            self.found.pop_front();
        }
    }
}

/// Writes ranges as they are found: there may be more of them than memory holds.
struct Report<'a> {
    context: &'a Context,
    /// The last one, which may go on.
    open: Range<u64>,
    ranges: u64,
    bytes: u64,
    piece: String,
}

impl<'a> Report<'a> {
    fn new(context: &'a Context) -> Self {
        Self { context, open: 0..0, ranges: 0, bytes: 0, piece: String::new() }
    }

    /// The next range; it begins nowhere before the last one, which it may overlap.
    fn range(&mut self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        if range.start <= self.open.end && !self.open.is_empty() {
            self.open.end = self.open.end.max(range.end);
            return Ok(());
        }
        self.close()?;
        self.open = range;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Range { start, end } = std::mem::replace(&mut self.open, 0..0);
        if start == end {
            return Ok(());
        }
        let length = end - start;
        let line = match (self.context.output.is_json(), self.ranges) {
            (false, _) => format!("{start} {length}\n"),
            (true, 0) => format!("{{\"offset\":{start},\"length\":{length}}}"),
            (true, _) => format!(",{{\"offset\":{start},\"length\":{length}}}"),
        };
        self.ranges += 1;
        self.bytes += length;
        self.text(&line)
    }

    fn text(&mut self, text: &str) -> Result<()> {
        self.piece.push_str(text);
        if self.piece.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let piece = std::mem::take(&mut self.piece);
        self.context.output.bytes(piece.as_bytes())
    }

    /// The sum, of a disk of `size` bytes.
    fn end(mut self, size: u64) -> Result<()> {
        self.close()?;
        let Self { ranges, bytes, .. } = self;
        let sum = match self.context.output.is_json() {
            true => format!("],\"size\":{size},\"bytes\":{bytes}}}\n"),
            false => {
                let differ = if ranges == 1 { "1 range differs".to_owned() } else { format!("{ranges} ranges differ") };
                format!("# {differ}, {} of {}\n", output::size(bytes), output::size(size))
            }
        };
        self.text(&sum)?;
        self.flush()
    }
}
