//! The view of a tree of directories.

use super::inode::{Inode, InodeKind, kind_of};
use super::path::{TreePath, escaped, joined};
use super::view::{Each, Node, PathError, Take, View, not_a_file};
use crate::threads;
use anyhow::Result;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use wherry_repo::format::tree::{Below, Content, Entry, Extended, InodeFlags, Known, Set, Time, What};
use wherry_repo::{ChunkRef, Error, ShortId, Span, TreeReader};

/// Bytes of chunks that are fetched at once, at most, but for the last one.
const WINDOW: u64 = 16 << 20;
/// Entries that are looked at for what to fetch ahead.
const AHEAD: u64 = 4096;
/// Longest request to the storage (bytes).
const FETCH: u64 = 4 << 20;
/// Zeros are handed out in pieces of so many.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The view of the tree of a snapshot.
#[derive(Debug)]
pub struct TreeView<'a> {
    reader: &'a TreeReader,
    kept: Kept,
    /// Bytes that are fetched at once.
    window: u64,
    threads: usize,
    /// What lies behind a small file is going to be read too.
    ahead: bool,
    /// The directory that was looked into last, its number, and what is in it.
    last: Option<(Vec<Vec<u8>>, u64, Option<Below>)>,
}

/// Where names lead.
#[derive(Debug)]
pub(super) enum Way {
    /// To a directory: its number, and what is in it.
    Folder(u64, Option<Below>),
    /// So many of them to a regular file.
    File(usize, Box<Known>),
}

/// Chunks of small files that were used last: they lie side by side, and so do the files.
#[derive(Debug)]
struct Kept {
    chunks: VecDeque<(Id, Arc<Vec<u8>>)>,
    bytes: u64,
    most: u64,
}

/// What tells chunks apart.
type Id = (ShortId, usize);

impl Kept {
    fn get(&mut self, id: &Id) -> Option<Arc<Vec<u8>>> {
        // From the newest on: it mostly is that one.
        let at = self.chunks.iter().rposition(|(kept, _)| kept == id)?;
        if at + 1 < self.chunks.len() {
            let used = self.chunks.remove(at)?;
            self.chunks.push_back(used);
        }
        self.chunks.back().map(|(_, chunk)| chunk.clone())
    }

    fn put(&mut self, id: Id, chunk: Arc<Vec<u8>>) {
        self.bytes += chunk.len() as u64;
        self.chunks.push_back((id, chunk));
        while self.bytes > self.most && self.chunks.len() > 1 {
            let Some((_, oldest)) = self.chunks.pop_front() else { break };
            self.bytes -= oldest.len() as u64;
        }
    }
}

impl<'a> TreeView<'a> {
    /// Keeps about `memory` bytes of chunks in memory, and has so many requests under way at a time.
    pub fn new(reader: &'a TreeReader, memory: u64, threads: usize) -> Self {
        // A window is there opened, and sealed as far as it is being read.
        let window = (memory / 4).clamp(1 << 20, WINDOW);
        let kept = Kept { chunks: VecDeque::new(), bytes: 0, most: memory / 4 };
        Self { reader, kept, window, threads: threads.max(1), ahead: false, last: None }
    }

    /// The number of the directory of these names, and what is in it.
    fn folder(&mut self, names: &[Vec<u8>]) -> Result<(u64, Option<Below>)> {
        match self.way(names)? {
            Way::Folder(number, below) => Ok((number, below)),
            Way::File(depth, _) => Err(PathError::NotFolder(escaped(&joined(&names[..depth]))).into()),
        }
    }

    /// Where these names lead: to a directory, or to the first regular file among them.
    pub(super) fn way(&mut self, names: &[Vec<u8>]) -> Result<Way> {
        // A walk goes on from where it was: a tree may be thousands of directories deep.
        let (known, mut number, mut below) = match &self.last {
            Some((last, number, below)) if names.starts_with(last) => (last.len(), *number, *below),
            _ => (0, 0, below(self.reader.root())),
        };
        if known == names.len() {
            return Ok(Way::Folder(number, below));
        }
        for (depth, name) in names.iter().enumerate().skip(known) {
            let shown = || escaped(&joined(&names[..=depth]));
            let (behind, entry) = self.find(below, name, &names[..=depth])?;
            number += behind;
            let Entry::Known(known) = entry else {
                return Err(
                    PathError::Broken(shown(), "it could not be looked at when the snapshot was made".into()).into()
                );
            };
            below = match known.what {
                What::Folder { below, .. } => below,
                What::File { .. } => return Ok(Way::File(depth + 1, known)),
                What::Link(target) => return Err(PathError::Link(shown(), escaped(&target)).into()),
                _ => return Err(PathError::NotFolder(shown()).into()),
            };
        }
        self.last = Some((names.to_vec(), number, below));
        Ok(Way::Folder(number, below))
    }

    /// The entry of a name in a directory, and its number counted from that; `names` is its path.
    fn find(&self, folder: Option<Below>, name: &[u8], names: &[Vec<u8>]) -> Result<(u64, Entry)> {
        let shown = || escaped(&joined(names));
        let found = folder.map(|folder| self.reader.find(&folder, name)).transpose();
        let found = found.map_err(|e| e.context(format!("{} cannot be looked up", shown())))?.flatten();
        found.ok_or_else(|| PathError::None(shown()).into())
    }

    fn entry(&mut self, path: &TreePath) -> Result<(u64, Entry)> {
        let Some((name, above)) = path.names().split_last() else {
            return Ok((0, Entry::Known(Box::new(self.reader.root().clone()))));
        };
        let (number, folder) = self.folder(above)?;
        let (behind, entry) = self.find(folder, name, path.names())?;
        Ok((number + behind, entry))
    }

    /// Number, size and content of a regular file.
    fn file(&mut self, path: &TreePath) -> Result<(u64, u64, Content)> {
        let (number, entry) = self.entry(path)?;
        match entry {
            Entry::Unknown { errno, .. } => Err(PathError::Broken(path.to_string(), lack(errno)).into()),
            Entry::Known(known) => content_of(path, *known).map(|(size, content)| (number, size, content)),
        }
    }

    /// The chunks of a window: each opened, or why not.
    fn chunks(&mut self, spans: &[Span], keep: bool) -> HashMap<Id, wherry_repo::Result<Arc<Vec<u8>>>> {
        let mut found = HashMap::new();
        let mut wanted: Vec<ChunkRef> = Vec::new();
        for chunk in spans.iter().filter_map(|span| span.data).map(|part| part.chunk) {
            let id = (chunk.id(), chunk.len);
            if found.contains_key(&id) {
                continue;
            }
            match self.kept.get(&id) {
                Some(kept) => drop(found.insert(id, Ok(kept))),
                None => {
                    wanted.push(chunk);
                    found.insert(id, Err(Error::internal("a chunk was not fetched")));
                }
            }
        }
        for (id, opened) in self.fetch(wanted) {
            if let (true, Ok(chunk)) = (keep, &opened) {
                self.kept.put(id, chunk.clone());
            }
            found.insert(id, opened);
        }
        found
    }

    /// Keeps the chunks that small files behind the entry of this number share, if the one it lies in itself is not kept:
    /// what is read next lies side by side, and one request brings much of it. What cannot be read is met again, and said,
    /// when its file is read.
    fn fetch_ahead(&mut self, number: u64, chunk: &ChunkRef) {
        if !self.ahead || self.kept.get(&(chunk.id(), chunk.len)).is_some() {
            return;
        }
        let (mut wanted, mut bytes) = (vec![*chunk], chunk.len as u64);
        let mut seen = HashSet::from([(chunk.id(), chunk.len)]);
        for next in number + 1..=number + AHEAD {
            let Ok(Entry::Known(known)) = self.reader.by_number(next) else { break };
            let What::File { size, content: content @ Content::Shared { .. } } = &known.what else { continue };
            let Ok(mut pieces) = self.reader.pieces(*size, content, 0) else { break };
            let Some(Ok(Span { data: Some(part), .. })) = pieces.next() else { continue };
            let id = (part.chunk.id(), part.chunk.len);
            if seen.insert(id) && self.kept.get(&id).is_none() {
                bytes += part.chunk.len as u64;
                if bytes > self.window.min(self.kept.most / 2) {
                    break;
                }
                wanted.push(part.chunk);
            }
        }
        for (id, opened) in self.fetch(wanted) {
            if let Ok(chunk) = opened {
                self.kept.put(id, chunk);
            }
        }
    }

    fn fetch(&self, wanted: Vec<ChunkRef>) -> Vec<(Id, wherry_repo::Result<Arc<Vec<u8>>>)> {
        let chunks = self.reader.chunks();
        let plan = chunks.plan(wanted, FETCH);
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            let mut scratch = Vec::new();
            while let Some(fetch) = plan.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Ok(()) = chunks.read(
                    fetch,
                    &mut scratch,
                    |chunk| vec![0; chunk.len],
                    |chunk, opened| -> std::result::Result<(), std::convert::Infallible> {
                        let opened = opened.map(|verified| Arc::new(verified.into_inner()));
                        found.lock().push(((chunk.id(), chunk.len), opened));
                        Ok(())
                    },
                );
            }
        };
        match plan.len() {
            0 => {}
            1 => work(),
            many => std::thread::scope(|scope| {
                if threads::some(scope, self.threads.min(many), work).is_err() {
                    work();
                }
            }),
        }
        found.into_inner()
    }
}

fn below(known: &Known) -> Option<Below> {
    match known.what {
        What::Folder { below, .. } => below,
        _ => None,
    }
}

/// Size and content of a regular file.
pub(super) fn content_of(path: &TreePath, known: Known) -> Result<(u64, Content)> {
    match known.what {
        What::File { size: 1.., content: Content::Nothing } if known.missing.is_some() => {
            let why = known.missing.map(lack).unwrap_or_default();
            Err(PathError::Broken(path.to_string(), why).into())
        }
        What::File { size, content } => Ok((size, content)),
        _ => Err(not_a_file(path, &inode(&known).kind).into()),
    }
}

/// Why something is missing.
fn lack(errno: NonZeroU32) -> String {
    let why = std::io::Error::from_raw_os_error(errno.get().cast_signed());
    format!("it was not read when the snapshot was made: {why}")
}

/// Metadata of an entry, without extended attributes that stand in a chunk.
fn inode(known: &Known) -> Inode {
    let attributes = &known.attributes;
    let (kind, mut size) = kind_of(&known.what);
    // As the kernel shows it.
    if let InodeKind::Link(target) = &kind {
        size = target.len() as u64;
    }
    Inode {
        kind,
        permissions: attributes.permissions,
        owner: attributes.owner,
        group: attributes.group,
        flags: attributes.flags,
        extended: match &attributes.extended {
            Extended::Here(set) => set.clone(),
            _ => Set::default(),
        },
        modified: known.modified,
        changed: known.changed,
        number: known.inode,
        links: known.links.map_or(1, NonZeroU64::get),
        size,
        allocated: size,
    }
}

/// An entry as the view shows it.
fn node(entry: &Entry) -> Node {
    let known = match entry {
        Entry::Known(known) => known,
        Entry::Unknown { name, errno } => {
            let inode = Inode {
                kind: InodeKind::File,
                permissions: 0,
                owner: 0,
                group: 0,
                flags: InodeFlags::default(),
                extended: Set::default(),
                modified: Time::default(),
                changed: Time::default(),
                number: 0,
                links: 1,
                size: 0,
                allocated: 0,
            };
            return Node {
                name: name.clone(),
                inode,
                owner_name: Vec::new(),
                group_name: Vec::new(),
                owned: false,
                missing: Some(*errno),
                partly: false,
                boundary: false,
                part: None,
            };
        }
    };
    Node {
        name: known.name.clone(),
        inode: inode(known),
        owner_name: known.attributes.owner_name.clone(),
        group_name: known.attributes.group_name.clone(),
        owned: true,
        missing: known.missing,
        // Of a file without data nothing is right but its metadata, and it would pass for the whole.
        partly: !matches!(known.what, What::File { size: 1.., content: Content::Nothing }),
        boundary: matches!(known.what, What::Folder { boundary: true, .. }),
        part: None,
    }
}

impl View for TreeView<'_> {
    fn stat(&mut self, path: &TreePath) -> Result<Node> {
        Ok(node(&self.entry(path)?.1))
    }

    fn list(&mut self, path: &TreePath, from: u64, each: Each<'_>) -> Result<()> {
        let (_, Some(below)) = self.folder(path.names())? else { return Ok(()) };
        let named = |e: Error| e.context(format!("{path} cannot be listed"));
        for entry in self.reader.list(&below, from).map_err(named)? {
            each(node(&entry.map_err(named)?.1))?;
        }
        Ok(())
    }

    fn read(&mut self, path: &TreePath, bytes: Range<u64>, take: Take<'_>) -> Result<()> {
        let (number, size, content) = self.file(path)?;
        let named = |e: Error| e.context(format!("{path} cannot be read"));
        let keep = matches!(content, Content::Shared { .. });
        let (mut at, end) = (bytes.start, bytes.end.min(size));
        while at < end {
            let (mut spans, mut sum, mut reached, mut broken) = (Vec::new(), 0, at, None);
            for span in self.reader.pieces(size, &content, at).map_err(named)? {
                let span = match span {
                    Ok(span) => span,
                    Err(e) => {
                        broken = Some(e);
                        break;
                    }
                };
                sum += span.data.map_or(0, |part| part.chunk.len as u64);
                reached = span.offset + span.len;
                spans.push(span);
                if sum >= self.window || reached >= end || spans.len() >= 4096 {
                    break;
                }
            }
            if let (true, Some(part)) = (keep, spans.first().and_then(|span| span.data)) {
                self.fetch_ahead(number, &part.chunk);
            }
            let mut chunks = self.chunks(&spans, keep);
            for span in &spans {
                let until = (span.offset + span.len).min(end);
                let Some(part) = span.data else {
                    while at < until {
                        let piece = &ZEROS[..(until - at).min(ZEROS.len() as u64) as usize];
                        take(piece)?;
                        at += piece.len() as u64;
                    }
                    continue;
                };
                let id = (part.chunk.id(), part.chunk.len);
                let chunk = match chunks.get(&id) {
                    Some(Ok(chunk)) => chunk.clone(),
                    _ => {
                        let lost = chunks.remove(&id).and_then(Result::err);
                        return Err(named(lost.unwrap_or_else(|| Error::internal("a chunk is lost"))).into());
                    }
                };
                let skip = u64::from(part.skip);
                let range = (skip + at - span.offset) as usize..(skip + until - span.offset) as usize;
                let piece = chunk.get(range).ok_or_else(|| named(Error::corrupt("a file is outside of its chunk")))?;
                take(piece)?;
                at = until;
            }
            match broken {
                Some(e) => return Err(named(e).into()),
                None if at < reached.min(end) || spans.is_empty() => {
                    return Err(named(Error::corrupt("the parts of a file do not add up")).into());
                }
                None => {}
            }
        }
        Ok(())
    }

    fn most_folders(&self) -> u64 {
        // What it leads to is known by its content: there is no circle.
        u64::MAX
    }

    fn expect_all(&mut self) {
        self.ahead = true;
    }

    fn leaves_out(&self, _path: &TreePath) -> Option<&'static str> {
        None
    }

    fn regions(&mut self, path: &TreePath, size: u64, from: u64, most: usize) -> Result<Vec<Range<u64>>> {
        let (_, own, content) = self.file(path)?;
        let named = |e: Error| e.context(format!("{path} cannot be read"));
        let mut regions: Vec<Range<u64>> = Vec::new();
        for span in self.reader.pieces(own.min(size), &content, from).map_err(named)? {
            let span = span.map_err(named)?;
            let data = span.offset.max(from)..span.offset + span.len;
            let full = regions.len() == most;
            match regions.last_mut() {
                _ if span.data.is_none() => {}
                Some(last) if last.end == data.start => last.end = data.end,
                _ if full => break,
                _ => regions.push(data),
            }
        }
        Ok(regions)
    }

    fn extended(&mut self, path: &TreePath, _node: &Node) -> Result<Set> {
        let (_, Entry::Known(known)) = self.entry(path)? else { return Ok(Set::default()) };
        let Extended::Chunk(chunk) = &known.attributes.extended else { return Ok(inode(&known).extended) };
        let chunk = self.reader.set(chunk);
        let id = (chunk.id(), chunk.len);
        let named = |e: Error| e.context(format!("the extended attributes of {path} cannot be read"));
        let bytes = match self.kept.get(&id) {
            Some(kept) => kept,
            None => {
                let bytes = Arc::new(self.reader.chunks().read_chunk(&chunk).map_err(named)?.into_inner());
                self.kept.put(id, bytes.clone());
                bytes
            }
        };
        Ok(Set::decode(&bytes).map_err(named)?)
    }

    fn lack(&self, errno: NonZeroU32) -> String {
        lack(errno)
    }
}
