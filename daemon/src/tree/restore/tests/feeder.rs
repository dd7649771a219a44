//! A snapshot in memory, and the walk that feeds it to a restore.

use super::super::{Begun, FileHandle, Has, Item, Known, Options, Report, Restorer, Target, There, Why};
use crate::tree::inode::{Inode, InodeKind};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use wherry_repo::format::tree::{InodeFlags, Set, Time};

/// An inode under its name, and what is in it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) inode: Inode,
    pub(super) owner: Vec<u8>,
    pub(super) group: Vec<u8>,
    pub(super) data: Vec<(u64, Vec<u8>)>,
    pub(super) inside: BTreeMap<Vec<u8>, Node>,
    /// The path of the first name of its inode.
    pub(super) first: Option<Vec<u8>>,
}

impl Node {
    fn new(kind: InodeKind, permissions: u16) -> Self {
        let inode = Inode {
            kind,
            permissions,
            owner: 0,
            group: 0,
            flags: InodeFlags::default(),
            extended: Set::default(),
            modified: Time { seconds: 1_500_000_000, nanoseconds: 123_456_789 },
            changed: Time::default(),
            number: 0,
            links: 1,
            size: 0,
            allocated: 0,
        };
        Self { inode, owner: Vec::new(), group: Vec::new(), data: Vec::new(), inside: BTreeMap::new(), first: None }
    }

    pub(super) fn folder<N: AsRef<[u8]>>(inside: impl IntoIterator<Item = (N, Node)>) -> Self {
        let mut node = Self::new(InodeKind::Folder, 0o755);
        node.inside = inside.into_iter().map(|(name, node)| (name.as_ref().to_vec(), node)).collect();
        node
    }

    pub(super) fn file(data: impl Into<Vec<u8>>) -> Self {
        let data = data.into();
        let mut node = Self::new(InodeKind::File, 0o644);
        node.inode.size = data.len() as u64;
        node.data = if data.is_empty() { Vec::new() } else { vec![(0, data)] };
        node
    }

    /// A file with holes between its data.
    pub(super) fn sparse(size: u64, data: &[(u64, &[u8])]) -> Self {
        let mut node = Self::file("");
        node.inode.size = size;
        node.data = data.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect();
        node
    }

    pub(super) fn other(kind: InodeKind) -> Self {
        let permissions = if matches!(kind, InodeKind::Link(_)) { 0o777 } else { 0o640 };
        Self::new(kind, permissions)
    }

    pub(super) fn link(to: impl AsRef<[u8]>) -> Self {
        Self::other(InodeKind::Link(to.as_ref().to_vec()))
    }

    /// Further names of it come.
    pub(super) fn linked(mut self) -> Self {
        self.inode.links = 2;
        self
    }

    /// A further name of the inode of another one.
    pub(super) fn again(mut self, first: &str) -> Self {
        self.first = Some(first.into());
        self.linked()
    }

    pub(super) fn mode(mut self, permissions: u16) -> Self {
        self.inode.permissions = permissions;
        self
    }

    pub(super) fn owned(mut self, owner: u32, group: u32) -> Self {
        (self.inode.owner, self.inode.group) = (owner, group);
        self
    }

    pub(super) fn at(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.inode.modified = Time { seconds, nanoseconds };
        self
    }

    pub(super) fn flags(mut self, flags: u8) -> Self {
        self.inode.flags = InodeFlags(flags);
        self
    }

    pub(super) fn attribute(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.inode.extended.0.push((name.into(), value.as_ref().to_vec()));
        self.inode.extended.0.sort();
        self
    }

    /// As a restore takes it.
    pub(super) fn item<'a>(&'a self, name: &'a [u8]) -> Item<'a> {
        Item { name, inode: &self.inode, owner: &self.owner, group: &self.group }
    }
}

/// An ACL in the kernel's form: owner, one user more, group, mask, others.
pub(super) fn acl(owner: u16, user: (u32, u16), group: u16, mask: u16, others: u16) -> Vec<u8> {
    let none = u32::MAX;
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1, owner, none), (2, user.1, user.0), (4, group, none), (0x10, mask, none), (0x20, others, none)]
    {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Something that a program may do beyond its user, in the kernel's form.
pub(super) fn capability() -> Vec<u8> {
    let mut bytes = 0x0200_0001_u32.to_le_bytes().to_vec();
    bytes.extend(0x2000_u32.to_le_bytes());
    bytes.resize(20, 0);
    bytes
}

/// Restores a tree.
pub(super) fn restore(target: &Path, tree: &Node, options: &Options) -> anyhow::Result<Report> {
    let mut restorer = Restorer::start(Target::open(target)?, options.clone())?;
    restorer.root(&tree.item(b""));
    let mut files = Vec::new();
    walk(&mut restorer, &mut files, tree)?;
    write_all(&mut files)?;
    if options.delete {
        restorer.prune(&Snapshot(tree))?;
    }
    restorer.finish()
}

type Files<'a> = Vec<(FileHandle, &'a Node)>;

fn walk<'a>(restorer: &mut Restorer, files: &mut Files<'a>, folder: &'a Node) -> anyhow::Result<()> {
    for (name, node) in &folder.inside {
        let item = node.item(name);
        match (&node.first, &node.inode.kind) {
            (Some(first), _) => restorer.link(name, first)?,
            (None, InodeKind::Folder) => {
                if restorer.enter(&item)? {
                    walk(restorer, files, node)?;
                    restorer.leave()?;
                }
            }
            (None, InodeKind::File) => match restorer.file(&item)? {
                Begun::Write(file) => files.push((file, node)),
                Begun::There(there) => compare(there, node)?,
                Begun::Left(why) => assert_ne!(why, Some(Why::Mounted)),
            },
            _ => {
                restorer.other(&item)?;
            }
        }
        if restorer.window_full() || files.len() >= 64 {
            write_all(files)?;
            restorer.finish_window()?;
        }
    }
    Ok(())
}

/// What is there stays if it has this data; else it is written anew from it, without a look at what is right.
fn compare(there: There, node: &Node) -> anyhow::Result<()> {
    let mut wanted = vec![0; node.inode.size as usize];
    for (at, bytes) in &node.data {
        wanted[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    let mut old = vec![0; wanted.len()];
    if there.may_stay() && there.read_at(0, &mut old) && old == wanted {
        return there.keep();
    }
    let Some(file) = there.replace()? else { return Ok(()) };
    for (at, bytes) in &node.data {
        file.write_at(*at, bytes)?;
    }
    file.finish()
}

/// Writes all files of a window from three threads, each a part of each file, the last parts first.
pub(super) fn write_all(files: &mut Files<'_>) -> anyhow::Result<()> {
    const THREADS: usize = 3;
    let write = |thread: usize| -> anyhow::Result<()> {
        for (file, node) in files.iter() {
            for (at, bytes) in node.data.iter().rev() {
                let part = bytes.len().div_ceil(THREADS).max(1);
                for (n, bytes) in bytes.chunks(part).enumerate().filter(|(n, _)| n % THREADS == thread) {
                    file.write_at(at + (n * part) as u64, bytes)?;
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || write(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    files.drain(..).try_for_each(|(file, _)| file.finish())
}

/// What the tree has, for what it has not.
pub(super) struct Snapshot<'a>(pub(super) &'a Node);

impl<'a> Known for Snapshot<'a> {
    type Folder = &'a Node;

    fn root(&self) -> anyhow::Result<&'a Node> {
        Ok(self.0)
    }

    fn find(&self, folder: &&'a Node, name: &[u8]) -> anyhow::Result<Has<&'a Node>> {
        Ok(match folder.inside.get(name) {
            None => Has::Nothing,
            Some(node) if node.inode.kind == InodeKind::Folder => Has::Folder(node),
            Some(_) => Has::Other,
        })
    }

    fn names(&self, folder: &&'a Node, each: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        folder.inside.keys().try_for_each(|name| each(name))
    }

    fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// The same, until nothing more is to be removed after so many names.
pub(super) struct Ends<'a>(pub(super) Snapshot<'a>, pub(super) Cell<usize>);

impl<'a> Known for Ends<'a> {
    type Folder = &'a Node;

    fn root(&self) -> anyhow::Result<&'a Node> {
        self.0.root()
    }

    fn find(&self, folder: &&'a Node, name: &[u8]) -> anyhow::Result<Has<&'a Node>> {
        self.0.find(folder, name)
    }

    fn names(&self, folder: &&'a Node, each: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.0.names(folder, each)
    }

    fn check(&self) -> anyhow::Result<()> {
        let left = self.1.get().checked_sub(1);
        self.1.set(left.ok_or_else(|| anyhow::anyhow!("it is over"))?);
        Ok(())
    }
}
