//! `wherry dump`

use super::opened::{Typed, ended, look};
use crate::cli::DumpArgs;
use crate::context::Context;
use crate::exit::{self, Exit};
use crate::output::Output;
use crate::tree::alike;
use crate::tree::first::{FirstNames, Key};
use crate::tree::inode::{Inode, InodeKind, OWNERS};
use crate::tree::path::{TreePath, escaped};
use crate::tree::pax::{self, BLOCK, Form};
use crate::tree::view::{Failed, Node, View, is_damage, is_local, kind_word, page, walk};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use wherry_repo::Error;
use wherry_repo::format::tree::Set;

/// Writes a directory and all below it as a tar archive.
pub(crate) fn run(context: &Context, args: DumpArgs) -> Result<Exit> {
    let DumpArgs { snap, path } = args;
    let typed = Typed::new(path);
    let repository = context.open_repository()?;
    let snapshot = context.snapshot(&repository, &snap)?;
    repository.limit_lookups(context.budget.index / 2);
    look(context, &repository, &snapshot, &typed, |view, path| {
        let top = view.stat(path)?;
        if view.is_disk(path) {
            let what = if path.names().is_empty() { "the snapshot".to_owned() } else { path.to_string() };
            let such = match page(view, path, 0)?.iter().find(|node| node.is_folder()) {
                Some(partition) => format!("such as {}", path.join(&partition.name)),
                None => "as `wherry ls` shows them".to_owned(),
            };
            let text = format!("{what} is of a disk: name a partition, {such}, or use `wherry cat` for all of it");
            return Err(Error::invalid(text).into());
        }
        let mut archive = Archive::new(context, view.leaves_out(path).is_some());
        let mut failed = Failed::default();
        if top.is_folder() {
            // What cannot be listed leaves nothing behind that looks like an archive.
            page(view, path, 0)?;
            view.expect_all();
            archive.name(view, path, b"./", &top)?;
            let mut last = path.clone();
            failed = walk(view, path, true, &mut |view, folder, nodes| {
                // A directory right before what is in it: tar sets its times when it comes to a name outside.
                if *folder != last {
                    last = folder.clone();
                    let node = view.stat(folder)?;
                    archive.entry(view, folder, path, &node)?;
                }
                let others = nodes.iter().filter(|node| !node.is_folder());
                others.into_iter().try_for_each(|node| archive.entry(view, &folder.join(&node.name), path, node))
            })?;
        } else {
            let above = TreePath::of(&path.names()[..path.names().len() - 1]);
            archive.entry(view, path, &above, &top)?;
        }
        archive.out.put(&[0; 2 * BLOCK as usize])?;
        archive.out.write()?;
        if let Some(what) = view.leaves_out(path) {
            tracing::warn!("{what}");
        }
        for (what, count) in &archive.left {
            tracing::warn!("left out, as archives do not have it: {count} x {what}");
        }
        if archive.links.beyond() > 0 {
            tracing::warn!("up to {} files have further names that are files of their own", archive.links.beyond());
        }
        failed.count += archive.failed.count + archive.links.beyond();
        failed.damaged |= archive.failed.damaged;
        Ok(ended(failed))
    })
}

/// Standard output, written in pieces that are not small.
struct Out {
    output: Output,
    waiting: Vec<u8>,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.waiting.len() + bytes.len() > WRITE {
            self.write()?;
        }
        if bytes.len() > WRITE {
            return self.output.bytes(bytes);
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.output.bytes(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

/// Bytes of output that are kept before they are written.
const WRITE: usize = 64 << 10;

/// An archive that goes to standard output.
struct Archive<'a> {
    context: &'a Context,
    out: Out,
    /// It is inside of a disk.
    is_disk: bool,
    /// How many of what are left out.
    left: BTreeMap<&'static str, u64>,
    /// What could not be read, or not to its end.
    failed: Failed,
    /// Directories in which inode numbers are of another filesystem.
    boundaries: Vec<TreePath>,
    links: FirstNames,
}

impl<'a> Archive<'a> {
    fn new(context: &'a Context, is_disk: bool) -> Self {
        let (left, failed) = (BTreeMap::new(), Failed::default());
        let links = FirstNames::new(context.budget.first_names());
        let out = Out { output: context.output, waiting: Vec::with_capacity(WRITE) };
        Self { context, out, is_disk, left, failed, boundaries: Vec::new(), links }
    }

    /// Writes an entry; `top` is the directory that the names in the archive begin below.
    fn entry(&mut self, view: &mut dyn View, path: &TreePath, top: &TreePath, node: &Node) -> Result<()> {
        let mut name = path.below(top);
        if node.missing.is_some() && !node.partly {
            return Ok(());
        }
        match &node.inode.kind {
            InodeKind::Socket => {
                tracing::warn!("{path} is left out: it is a socket");
                return self.leave_out(node);
            }
            // Inside disks the numbers of a device may not be known.
            InodeKind::Character(0, 0) | InodeKind::Block(0, 0) if self.is_disk => return self.leave_out(node),
            InodeKind::Folder => name.push(b'/'),
            _ => {}
        }
        if node.boundary {
            self.boundaries.push(path.clone());
        }
        self.name(view, path, &name, node)
    }

    fn leave_out(&mut self, node: &Node) -> Result<()> {
        *self.left.entry(kind_word(&node.inode.kind)).or_default() += 1;
        Ok(())
    }

    /// Writes an entry under this name.
    fn name(&mut self, view: &mut dyn View, path: &TreePath, name: &[u8], node: &Node) -> Result<()> {
        let key = (!node.is_folder() && !self.is_disk && node.inode.links > 1).then(|| self.key(path, node));
        if let Some(key) = key
            && let Some(first) = self.links.further(&key)
        {
            return self.header(name, node, &Set::default(), Form::Link(&first));
        }
        if node.inode.flags.0 != 0 {
            *self.left.entry("inode flags (immutable, append only, no dump)").or_default() += 1;
        }
        let (extended, is_lost) = match view.extended(path, node) {
            Err(e) if is_local(&e) => {
                self.failed.add(&e);
                (Set::default(), true)
            }
            extended => (extended?, false),
        };
        // Without the ACL that may be among them, what its mask lets through would be the group's.
        let may_lack_acl = is_lost || node.missing.is_some() && node.inode.extended.0.is_empty();
        let guarded = may_lack_acl.then(|| {
            let inode = Inode { permissions: node.inode.permissions & OWNERS, ..node.inode.clone() };
            Node { inode, ..node.clone() }
        });
        let node = guarded.as_ref().unwrap_or(node);
        if node.is_file() {
            if !self.file(view, path, name, node, &extended)? {
                return Ok(());
            }
        } else {
            self.header(name, node, &extended, Form::Whole)?;
        }
        if let Some(key) = key {
            self.links.note(key, name.to_vec(), node.inode.links);
        }
        Ok(())
    }

    /// What an inode is known by.
    fn key(&self, path: &TreePath, node: &Node) -> Key {
        let above = |boundary: &TreePath| path.names().starts_with(boundary.names());
        let depth = |n: &usize| self.boundaries[*n].names().len();
        let nearest = (0..self.boundaries.len()).filter(|n| above(&self.boundaries[*n])).max_by_key(depth);
        (nearest.map_or(0, |n| n as u64 + 1), node.inode.number, alike::of_inode(&node.inode, node.missing.is_some()))
    }

    /// Writes a regular file, with its holes as such. False: nothing of it was written, as its parts are not known, or its data
    /// cannot be read from the first byte on: zeros alone would pass for the file.
    fn file(&mut self, view: &mut dyn View, path: &TreePath, name: &[u8], node: &Node, extended: &Set) -> Result<bool> {
        let size = node.inode.size;
        let (mut count, mut data, mut text, mut first) = (0u64, 0, 0u64, None);
        let sum = regions(view, path, size, &mut |_, range| {
            count += 1;
            data += range.end - range.start;
            first.get_or_insert_with(|| range.start..range.end.min(range.start + BLOCK));
            text += pax::region(&range).len() as u64;
            Ok(())
        });
        match sum {
            Err(e) if is_local(&e) => return self.unread(path, e),
            sum => sum?,
        }
        if data == size {
            let header = header(name, node, extended, Form::Whole)?;
            let is_written = self.data(view, path, 0..size, header)?;
            if is_written {
                self.pad(size)?;
            }
            return Ok(is_written);
        }
        // The map comes between: whether anything follows it is asked first.
        match first.map_or(Ok(()), |first| view.read(path, first, &mut |_| Ok(()))) {
            Err(e) if is_local(&e) => return self.unread(path, e),
            read => read?,
        }
        text += format!("{count}\n").len() as u64;
        let map = text.next_multiple_of(BLOCK);
        self.header(name, node, extended, Form::Sparse(map + data))?;
        self.out.put(format!("{count}\n").as_bytes())?;
        regions(view, path, size, &mut |_, range| self.out.put(pax::region(&range).as_bytes()))?;
        self.zeros(map - text)?;
        regions(view, path, size, &mut |view, range| self.data(view, path, range, Vec::new()).map(drop))?;
        self.pad(data)?;
        Ok(true)
    }

    /// Writes bytes of a file, after its `header`, if that is still to come. What cannot be read is zeros, once its size was
    /// said; false: that was not so, and nothing was written.
    fn data(&mut self, view: &mut dyn View, path: &TreePath, range: Range<u64>, mut header: Vec<u8>) -> Result<bool> {
        let (out, cancel) = (&mut self.out, &self.context.cancel);
        let mut at = range.start;
        let read = match range.is_empty() {
            true => Ok(()),
            false => view.read(path, range.clone(), &mut |bytes| {
                cancel.check()?;
                out.put(&std::mem::take(&mut header))?;
                at += bytes.len() as u64;
                out.put(bytes)
            }),
        };
        match read {
            Ok(()) => self.out.put(&header)?,
            Err(e) if !is_local(&e) => return Err(e),
            Err(e) if !header.is_empty() => return self.unread(path, e),
            Err(e) => {
                tracing::error!("{}; zeros stand in its place from byte {at} on", exit::one_line(&e));
                self.failed.count += 1;
                self.failed.damaged |= is_damage(&e);
            }
        }
        self.zeros(range.end.saturating_sub(at))?;
        Ok(true)
    }

    /// A file that is left out for this reason: gives false.
    fn unread(&mut self, path: &TreePath, e: anyhow::Error) -> Result<bool> {
        self.failed.add(&e.context(format!("{path} is left out")));
        Ok(false)
    }

    /// Fills up the last block behind so many bytes.
    fn pad(&mut self, bytes: u64) -> Result<()> {
        self.zeros(bytes.next_multiple_of(BLOCK) - bytes)
    }

    fn zeros(&mut self, mut left: u64) -> Result<()> {
        let zeros = [0; 64 << 10];
        while left > 0 {
            self.context.cancel.check()?;
            let piece = left.min(zeros.len() as u64);
            self.out.put(&zeros[..piece as usize])?;
            left -= piece;
        }
        Ok(())
    }

    fn header(&mut self, name: &[u8], node: &Node, extended: &Set, form: Form<'_>) -> Result<()> {
        self.out.put(&header(name, node, extended, form)?)
    }
}

/// A header, after one of extensions for what does not fit into it.
fn header(name: &[u8], node: &Node, extended: &Set, form: Form<'_>) -> Result<Vec<u8>> {
    let bytes = pax::header(name, node, extended, form);
    bytes.with_context(|| format!("making the header of {} in an archive", escaped(name)))
}

/// Ranges of data that are looked up at once.
const PART: usize = 4096;

/// Gives `each` the ranges of a file that have data, in whole blocks but at its end, and behind a last hole an empty one: as
/// the map of a sparse file has them. GNU tar reads each from a block of its own, others read one right behind the other.
fn regions(
    view: &mut dyn View,
    path: &TreePath,
    size: u64,
    each: &mut dyn FnMut(&mut dyn View, Range<u64>) -> Result<()>,
) -> Result<()> {
    let (mut open, mut from) = (0..0, 0);
    loop {
        let found = view.regions(path, size, from, PART)?;
        for range in &found {
            let range = range.start / BLOCK * BLOCK..range.end.next_multiple_of(BLOCK).min(size);
            if range.start <= open.end && !open.is_empty() {
                open.end = range.end;
                continue;
            }
            if !open.is_empty() {
                each(view, open)?;
            }
            open = range;
        }
        match found.last() {
            Some(last) if found.len() == PART => from = last.end,
            _ => break,
        }
    }
    let end = open.end;
    if !open.is_empty() {
        each(view, open)?;
    }
    if end < size { each(view, size..size) } else { Ok(()) }
}
