//! Files inside disks, without mounting anything: partitions and their filesystems, read through the verified reader.
//!
//! The top of a disk shows `disk.raw` and a directory `pN` for each partition; a disk that is one filesystem from its
//! first byte on shows it as `p0`. A disk image in a snapshot of a directory shows the same below its own path, but for
//! `disk.raw`, which it is itself. What is not read here is said, with the commands that open it.

pub mod bytes;
mod ext4;
mod fat;
pub mod filesystem;
mod journal;
mod magic;
pub mod partitions;
mod raw;
mod replayed;

use super::inode::{Inode, InodeKind};
use super::path::{TreePath, escaped, joined};
use super::view::{Each, Node, Part, PathError, Take, View, not_a_file};
use anyhow::Result;
use bytes::{Bytes, Window};
use filesystem::{Fault, MOST_READ, Served};
use magic::Content;
use partitions::Partition;
use std::ops::Range;
use std::sync::Arc;
use wherry_repo::format::tree::{InodeFlags, Set, Time};
use wherry_repo::{Error, Timestamp};

/// The name of the disk itself.
pub const DISK: &[u8] = b"disk.raw";

/// Which disk it is.
#[derive(Clone, Debug)]
pub struct Whose {
    /// The snapshot's id.
    pub snapshot: String,
    /// When it was taken.
    pub time: Timestamp,
    /// The path of the image in the snapshot of a directory; the top for the disk that a snapshot is of.
    pub image: TreePath,
}

impl Whose {
    /// Where a mount shows it, below the directory of its snapshot.
    fn mounted(&self) -> String {
        match self.image.names() {
            [] => escaped(DISK),
            names => magic::word(&[b"files", &joined(names)[..]].concat()),
        }
    }
}

/// The view of a disk. Paths begin with that of its image.
#[derive(Debug)]
pub struct DiskView {
    window: Window,
    parts: Vec<PartView>,
    time: Time,
    whose: Whose,
}

#[derive(Debug)]
struct PartView {
    name: Vec<u8>,
    partition: Partition,
    content: Content,
    window: Window,
    served: Option<Served>,
    whole: bool,
}

impl DiskView {
    /// Looks at the partition table and at what is in each partition.
    pub fn open(bytes: Arc<dyn Bytes>, whose: Whose) -> wherry_repo::Result<Self> {
        let window = Window::whole(bytes);
        let mut parts = Vec::new();
        let content = magic::tell(&window)?;
        // A container is no disk: what looks like a table in it is none.
        let container = matches!(content, Content::Locked(_, magic::Opener::Qemu));
        let table = if container { None } else { partitions::read(&window)? };
        match table {
            Some(table) => {
                let Whose { snapshot, image, .. } = &whose;
                table.warnings.iter().for_each(|warning| match image.names() {
                    [] => tracing::warn!(snapshot, "{warning}"),
                    _ => tracing::warn!(snapshot, "{image}: {warning}"),
                });
                for partition in table.partitions {
                    let name = format!("p{}", partition.number).into_bytes();
                    let part = window.part(partition.bytes.clone());
                    let content = magic::tell(&part)?;
                    parts.push(PartView::new(name, partition, content, part, false));
                }
            }
            None if content != Content::Unknown => {
                let kind = "whole disk".to_owned();
                let partition = Partition { number: 0, bytes: 0..window.size(), kind };
                parts.push(PartView::new(b"p0".to_vec(), partition, content, window.part(0..window.size()), true));
            }
            None => {}
        }
        let nanoseconds = whose.time.0.rem_euclid(1_000_000_000) as u32;
        let time = Time { seconds: whose.time.0.div_euclid(1_000_000_000), nanoseconds };
        Ok(Self { window, parts, time, whose })
    }

    /// Whether there is anything in it that is known: else it may be no disk at all.
    pub fn is_known(&self) -> bool {
        !self.parts.is_empty()
    }

    /// The path of the image.
    pub fn image(&self) -> &TreePath {
        &self.whose.image
    }

    /// The names of a path from the top of the disk on.
    fn inner<'a>(&self, path: &'a TreePath) -> &'a [Vec<u8>] {
        path.names().get(self.whose.image.names().len()..).unwrap_or_default()
    }

    /// Whether these names are those of the disk itself.
    fn is_disk_itself(&self, names: &[Vec<u8>]) -> bool {
        self.whose.image.names().is_empty() && matches!(names, [first] if first == DISK)
    }

    fn top(&self) -> Node {
        self.node(self.whose.image.name(), InodeKind::Folder, 0, None)
    }

    fn disk(&self) -> Node {
        self.node(DISK, InodeKind::File, self.window.size(), None)
    }

    fn part(&self, part: &PartView) -> Node {
        let shown = Part { kind: part.partition.kind.clone(), content: part.content.name().to_owned() };
        self.node(&part.name, InodeKind::Folder, part.window.size(), Some(shown))
    }

    fn node(&self, name: &[u8], kind: InodeKind, size: u64, part: Option<Part>) -> Node {
        let inode = Inode {
            permissions: if kind == InodeKind::Folder { 0o500 } else { 0o400 },
            kind,
            owner: 0,
            group: 0,
            flags: InodeFlags::default(),
            extended: Set::default(),
            modified: self.time,
            changed: self.time,
            number: 0,
            links: 1,
            size,
            allocated: size,
        };
        let (owner_name, group_name) = (Vec::new(), Vec::new());
        Node {
            name: name.to_vec(),
            inode,
            owner_name,
            group_name,
            owned: false,
            missing: None,
            partly: false,
            boundary: false,
            part,
        }
    }

    /// The filesystem a path is in, what an error about it is made with, and the path there.
    fn served<'a>(&mut self, path: &'a TreePath) -> Result<(&mut Served, Context, &'a [Vec<u8>])> {
        let Some((first, below)) = self.inner(path).split_first() else { return Err(none(path)) };
        let name = self.whose.image.join(first);
        let is_raw = self.is_disk_itself(std::slice::from_ref(first));
        let part = match self.parts.iter_mut().find(|part| part.name == *first) {
            Some(part) => part,
            None if is_raw => return Err(PathError::NotFolder(name.to_string()).into()),
            None => return Err(none(path)),
        };
        let advice =
            magic::advice(&part.content, &self.whose.snapshot, &self.whose.mounted(), &part.window, part.whole);
        let Some(served) = &mut part.served else {
            let what = match part.content {
                Content::Unknown => format!("{name} holds nothing that wherry knows"),
                content => format!("{name} holds {}, which wherry does not read", content.name()),
            };
            return Err(Error::invalid(format!("{what}; {advice}")).into());
        };
        Ok((served, Context { path: path.clone(), part: name.names().len(), advice }, below))
    }
}

/// What an error about a path is made with.
struct Context {
    path: TreePath,
    /// How many names of it lead to the partition.
    part: usize,
    advice: String,
}

impl Context {
    fn error(&self, fault: Fault) -> anyhow::Error {
        let upto = |depth: usize| {
            let names = self.path.names();
            escaped(&joined(&names[..(depth + self.part).min(names.len())]))
        };
        match fault {
            Fault::None => PathError::None(self.path.to_string()).into(),
            Fault::NotFolder(depth) => PathError::NotFolder(upto(depth)).into(),
            Fault::Link(depth, target) => PathError::Link(upto(depth), escaped(&target)).into(),
            Fault::NotFile => PathError::NotFile(self.path.to_string(), "something else").into(),
            Fault::Lacks(why) | Fault::Broken(why) => {
                PathError::Broken(self.path.to_string(), format!("{why}; {}", self.advice)).into()
            }
            Fault::Disk(error) => error.context(format!("{} cannot be read", self.path)).into(),
        }
    }
}

/// An error of a request, or of who takes the answers.
enum Either {
    Fault(Fault),
    Taker(anyhow::Error),
}

impl From<Fault> for Either {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Either {
    fn error(self, context: &Context) -> anyhow::Error {
        match self {
            Self::Fault(fault) => context.error(fault),
            Self::Taker(error) => error,
        }
    }
}

fn none(path: &TreePath) -> anyhow::Error {
    PathError::None(path.to_string()).into()
}

impl PartView {
    fn new(name: Vec<u8>, partition: Partition, content: Content, window: Window, whole: bool) -> Self {
        let served = Served::new(content, window.clone());
        Self { name, partition, content, window, served, whole }
    }
}

impl View for DiskView {
    fn stat(&mut self, path: &TreePath) -> Result<Node> {
        match self.inner(path) {
            [] => return Ok(self.top()),
            names if self.is_disk_itself(names) => return Ok(self.disk()),
            [first] => {
                let part = self.parts.iter().find(|part| part.name == *first);
                return part.map(|part| self.part(part)).ok_or_else(|| none(path));
            }
            _ => {}
        }
        let (served, context, below) = self.served(path)?;
        served.stat(below).map_err(|fault| context.error(fault))
    }

    fn list(&mut self, path: &TreePath, from: u64, each: Each<'_>) -> Result<()> {
        if self.inner(path).is_empty() {
            let disk = self.whose.image.names().is_empty().then(|| self.disk());
            let nodes: Vec<_> = disk.into_iter().chain(self.parts.iter().map(|p| self.part(p))).collect();
            return nodes.into_iter().skip(from as usize).try_for_each(each);
        }
        let (served, context, below) = self.served(path)?;
        served.list(below, from, &mut |node| each(node).map_err(Either::Taker)).map_err(|e| e.error(&context))
    }

    fn read(&mut self, path: &TreePath, bytes: Range<u64>, take: Take<'_>) -> Result<()> {
        match self.inner(path) {
            [] => return Err(not_a_file(path, &InodeKind::Folder).into()),
            names if self.is_disk_itself(names) => {
                let (mut at, end) = (bytes.start, bytes.end.min(self.window.size()));
                while at < end {
                    let piece = self.window.take(at, (end - at).min(MOST_READ as u64) as usize)?;
                    let piece = piece.ok_or_else(|| Error::internal("a read goes beyond the end of the disk"))?;
                    take(&piece)?;
                    at += piece.len() as u64;
                }
                return Ok(());
            }
            _ => {}
        }
        let (served, context, below) = self.served(path)?;
        served.read(below, bytes, &mut |bytes| take(bytes).map_err(Either::Taker)).map_err(|e| e.error(&context))
    }

    fn most_folders(&self) -> u64 {
        let parts = self.parts.iter().filter_map(|part| part.served.as_ref());
        parts.fold(self.parts.len() as u64 + 1, |sum, served| sum.saturating_add(served.most_folders()))
    }

    fn is_disk(&self, path: &TreePath) -> bool {
        self.inner(path).is_empty()
    }

    fn leaves_out(&self, path: &TreePath) -> Option<&'static str> {
        (!self.is_disk(path)).then_some(
            "extended attributes, ACLs and the numbers of devices are not read inside disks: devices are left out, a file \
             with several names comes once for each",
        )
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
