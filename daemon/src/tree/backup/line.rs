//! What stands between the walk and the tree: a line of entries in the order of the walk. They come in at its end, workers
//! read those that have to be read, small files are grouped as they lie, and what is decided leaves at the front, into the
//! nodes of its directory. So the tree is the same whatever the threads do.

use super::group::Group;
use super::links::{Followed, InodeKey, Links};
use super::parent::{Beside, Rule};
use super::read::{Data, Job, Read, Stamp};
use super::report::{Counts, warn_of_own};
use super::thin::Thin;
use super::{Done, LOOK, TreeBackup, Work};
use crate::tree::attributes::Look;
use crate::tree::dir::Dir;
use crate::tree::inode::{Inode, InodeKind};
use crate::tree::owners::Owners;
use crate::tree::walk::{self, Event, Walk};
use anyhow::Result;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::{HashMap, VecDeque};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wherry_repo::format::tree::{Attributes, Below, Content, Entry, Extended, Known, MAX_SET, MAX_SHARED, Set, What};
use wherry_repo::{Error, FolderBuilder, Scratch};

/// Files that wait for a worker or are with one, at most.
const READING: usize = 1024;

/// A place in the line.
enum Slot {
    /// A directory begins, and what the parent has in it.
    Enter(Box<Known>, Option<Below>),
    /// The directory that began last ends.
    Leave,
    /// Decided.
    Entry(Entry, Option<InodeKey>),
    /// With a worker.
    Reading(Box<Pending>),
    /// Read, and not yet in a group.
    Small(Box<Pending>, Vec<u8>),
    /// In a group whose chunk is not stored yet.
    Grouped(Box<Pending>),
    /// Another name of an inode.
    Follow(Box<Follow>),
    /// The name is gone.
    Gone,
}

/// A file whose content is still to come.
struct Pending {
    known: Known,
    key: Option<InodeKey>,
    /// Bytes that are counted for it.
    reserved: u64,
}

/// What is needed to read another name of an inode after all.
struct Follow {
    key: InodeKey,
    pending: Pending,
    job: Job,
}

/// A directory whose nodes are being built.
struct Open<'a> {
    known: Known,
    builder: FolderBuilder<'a>,
    /// Length of the path above it.
    above: usize,
}

/// See the module.
pub(super) struct Line<'a> {
    backup: &'a TreeBackup<'a>,
    work: Sender<Work>,
    results: &'a Receiver<Done>,
    rule: Option<Rule>,
    scratch: Scratch,
    owners: Owners,
    slots: VecDeque<Slot>,
    /// Number in the walk of the front of the line.
    first: u64,
    /// Number of the first one that was not looked at for grouping.
    ungrouped: u64,
    group: Group,
    /// Members of groups whose chunks are with workers.
    groups: HashMap<u64, Vec<(u64, u32)>>,
    next_group: u64,
    /// Bytes of small files in memory.
    small: u64,
    reading: usize,
    links: Links,
    thin: Thin,
    counts: Counts,
    /// What the parent has in the directories that the walk is in.
    beside: Vec<Beside<'a>>,
    /// The directories that the front of the line is in, and their path.
    open: Vec<Open<'a>>,
    path: Vec<u8>,
    root: Option<Known>,
    /// The last row of attributes: most entries have that of the one before.
    last: Option<Arc<Attributes>>,
}

impl<'a> Line<'a> {
    /// Work goes to `work`, and its results are expected from `results`.
    pub(super) fn new(backup: &'a TreeBackup<'a>, work: Sender<Work>, results: &'a Receiver<Done>) -> Result<Self> {
        Ok(Self {
            backup,
            work,
            results,
            rule: backup.rule(),
            scratch: backup.writer.scratch(MAX_SET as usize)?,
            owners: Owners::default(),
            slots: VecDeque::new(),
            first: 0,
            ungrouped: 0,
            group: Group::default(),
            groups: HashMap::new(),
            next_group: 0,
            small: 0,
            reading: 0,
            links: Links::new(backup.shares.links),
            thin: Thin::default(),
            counts: Counts::default(),
            beside: Vec::new(),
            open: Vec::new(),
            path: Vec::new(),
            root: None,
            last: None,
        })
    }

    /// Takes the whole walk, and gives the root of the tree.
    pub(super) fn run(mut self, mut walk: Walk, stop: &AtomicBool) -> Result<(Known, Counts)> {
        let mut has_ended = false;
        loop {
            self.backup.cancel.check()?;
            while let Ok(done) = self.results.try_recv() {
                self.take(done)?;
            }
            self.group(has_ended)?;
            self.build()?;
            if has_ended && self.slots.is_empty() {
                break;
            }
            let shares = &self.backup.shares;
            let room = self.slots.len() < shares.entries && self.small < shares.small && self.reading < READING;
            if !room || has_ended {
                if self.reading == 0 && self.groups.is_empty() {
                    // No worker will make room: all there is to wait for are files for this chunk, and none can come.
                    self.send_group()?;
                }
                self.wait(stop)?;
                continue;
            }
            match walk.next() {
                Some(event) => self.event(event?)?,
                None => has_ended = true,
            }
        }
        self.counts.thin = self.thin.ids();
        let root = self.root.ok_or_else(|| Error::internal("the walk has no root; nothing is committed"))?;
        Ok((root, self.counts))
    }

    /// Waits for a worker.
    fn wait(&mut self, stop: &AtomicBool) -> Result<()> {
        self.backup.cancel.check()?;
        self.backup.writer.check()?;
        if stop.load(Ordering::Relaxed) {
            return Err(Error::internal("a worker has failed").into());
        }
        match self.results.recv_timeout(LOOK) {
            Ok(done) => self.take(done),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Error::internal("the workers are gone").into()),
        }
    }

    /// Takes what the walk came to.
    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Enter(folder) => self.enter(folder),
            Event::Entry(entry) => self.entry(entry),
            Event::Leave => {
                self.beside.pop();
                self.slots.push_back(Slot::Leave);
                Ok(())
            }
            Event::Mounted { dir, name } => {
                let path = crate::tree::path::escaped(&dir.path_of(&name));
                tracing::warn!("{path}: something of another filesystem is mounted over this file, which is left out");
                self.counts.boundaries += 1;
                Ok(())
            }
        }
    }

    fn enter(&mut self, folder: walk::Folder) -> Result<()> {
        let backup = self.backup;
        let parent = backup.writer.parent();
        let name = folder.dir.name().to_vec();
        let theirs = match self.beside.last_mut() {
            Some(beside) => beside.find(&name)?,
            None => parent.map(|parent| parent.root().clone()),
        };
        if let Some(why) = folder.left_out() {
            let path = crate::tree::path::escaped(&folder.dir.path());
            match folder.dir.enters_filesystems() {
                true => tracing::warn!("{path}: {why}"),
                false => tracing::info!("{path}: {why}"),
            }
            self.counts.boundaries += 1;
        } else if folder.boundary {
            // As of the root's: a page that is written through a mapping must set the ctime again.
            folder.dir.sync();
        }
        warn_of_own(&folder, backup.own);
        let what = What::Folder { boundary: folder.boundary, below: None };
        self.links.devices.folder(folder.look.device);
        let mut known = self.known(name, &folder.look, what, theirs.as_ref())?;
        known.missing = folder.missing.or(known.missing);
        known.links = None;
        let below = match theirs {
            Some(Known { what: What::Folder { below, .. }, .. }) => below,
            _ => None,
        };
        let margin = folder.dir.filesystem().margin();
        self.beside.push(Beside::new(parent, below.as_ref(), margin)?);
        self.slots.push_back(Slot::Enter(Box::new(known), below));
        Ok(())
    }

    fn entry(&mut self, entry: walk::Entry) -> Result<()> {
        let walk::Entry { dir, name, look } = entry;
        let theirs = match self.beside.last_mut() {
            Some(beside) => beside.find(&name)?,
            None => None,
        };
        let look = match look {
            Ok(look) => look,
            Err(errno) => {
                self.slots.push_back(Slot::Entry(Entry::Unknown { name, errno }, None));
                return Ok(());
            }
        };
        let what = match &look.inode.kind {
            InodeKind::File => return self.file(dir, name, look, theirs),
            InodeKind::Folder => return Err(Error::internal("a directory came as a name alone").into()),
            InodeKind::Link(target) => What::Link(target.clone()),
            InodeKind::Fifo => What::Fifo,
            InodeKind::Socket => What::Socket,
            InodeKind::Character(major, minor) => What::Character(*major, *minor),
            InodeKind::Block(major, minor) => What::Block(*major, *minor),
        };
        let known = self.known(name, &look, what, theirs.as_ref())?;
        self.slots.push_back(Slot::Entry(Entry::Known(Box::new(known)), None));
        Ok(())
    }

    fn file(&mut self, dir: Arc<Dir>, name: Vec<u8>, look: Look, theirs: Option<Known>) -> Result<()> {
        let inode = &look.inode;
        let key = (inode.links > 1).then_some((look.device, inode.number, look.born));
        let is_first = key.is_none_or(|key| self.links.meet(key, inode.links));
        let what = What::File { size: inode.size, content: Content::Nothing };
        let known = self.known(name, &look, what, theirs.as_ref())?;
        let number = known.inode;
        let mut pending = Pending { known, key, reserved: 0 };
        if is_first {
            if inode.size == 0 {
                return self.decide_last(pending, Content::Nothing);
            }
            let margin = self.beside.last().map_or(Duration::MAX, Beside::margin);
            let same = self.rule.as_ref().zip(theirs.as_ref());
            let same = same.filter(|(rule, theirs)| rule.is_same(inode, number, theirs, margin));
            if let Some((_, theirs)) = same
                && let Some(kept) = self.backup.writer.keep(theirs)?
            {
                self.counts.kept += 1;
                self.backup.progress.add(inode.size);
                return self.decide_last(pending, kept.into_content());
            }
        }
        let at = self.first + self.slots.len() as u64;
        // Attributes can be large, and nothing is compared with them.
        let seen = Inode { extended: Set::default(), ..look.inode };
        let job = Job { at, dir, name: pending.known.name.clone(), seen, parent: theirs.map(Box::new) };
        if let (Some(key), false) = (key, is_first) {
            self.slots.push_back(Slot::Follow(Box::new(Follow { key, pending, job })));
            return Ok(());
        }
        pending.reserved = self.send(job)?;
        self.slots.push_back(Slot::Reading(Box::new(pending)));
        Ok(())
    }

    /// Hands a file to the workers; gives the bytes that are counted for it.
    fn send(&mut self, job: Job) -> Result<u64> {
        let reserved = if job.seen.size <= MAX_SHARED { job.seen.size } else { 0 };
        self.small += reserved;
        self.reading += 1;
        self.hand_out(Work::Read(Box::new(job)))?;
        Ok(reserved)
    }

    fn hand_out(&self, work: Work) -> Result<()> {
        self.work.send(work).map_err(|_| Error::internal("the workers are gone").into())
    }

    fn decide_last(&mut self, pending: Pending, content: Content) -> Result<()> {
        self.slots.push_back(decided(pending, content));
        Ok(())
    }

    /// What an entry says of its inode.
    fn known(&mut self, name: Vec<u8>, look: &Look, what: What, theirs: Option<&Known>) -> Result<Known> {
        let inode = &look.inode;
        let attributes = self.attributes(inode, theirs)?;
        let links = NonZeroU64::new(inode.links).filter(|links| links.get() > 1);
        let linked = links.and_then(|links| Some((self.links.devices.number(look)?, links)));
        Ok(Known {
            name,
            attributes,
            modified: inode.modified,
            changed: inode.changed,
            inode: linked.map_or(inode.number, |(number, _)| number),
            links: linked.map(|(_, links)| links),
            missing: look.missing,
            unsettled: false,
            what,
        })
    }

    fn attributes(&mut self, inode: &Inode, theirs: Option<&Known>) -> Result<Arc<Attributes>> {
        let same = |last: &&Arc<Attributes>| {
            let extended = match &last.extended {
                Extended::None => inode.extended.0.is_empty(),
                Extended::Here(set) => *set == inode.extended,
                Extended::Chunk(_) => false,
            };
            extended
                && last.permissions == inode.permissions
                && (last.owner, last.group, last.flags) == (inode.owner, inode.group, inode.flags)
        };
        if let Some(last) = self.last.as_ref().filter(same) {
            return Ok(last.clone());
        }
        let kept = match theirs.map(|theirs| &theirs.attributes.extended) {
            Some(Extended::Chunk(_)) => theirs.map(|theirs| self.backup.writer.kept_pieces(theirs)).transpose()?,
            _ => None,
        };
        let extended = self.backup.writer.extended(&mut self.scratch, inode.extended.clone(), kept.as_ref())?;
        // Who looked at it has left out what is too long.
        let extended = extended.ok_or_else(|| Error::internal("extended attributes are too long for a tree"))?;
        let names = self.owners.names(inode.owner, inode.group);
        let has_names = names.is_some();
        let (owner_name, group_name) = names.unwrap_or_default();
        let attributes = Arc::new(Attributes {
            permissions: inode.permissions,
            owner: inode.owner,
            group: inode.group,
            owner_name,
            group_name,
            flags: inode.flags,
            extended,
        });
        // The next one asks again, which costs nothing for a while.
        self.last = has_names.then(|| attributes.clone());
        Ok(attributes)
    }

    fn slot(&mut self, at: u64) -> Result<&mut Slot> {
        let slot = at.checked_sub(self.first).and_then(|n| self.slots.get_mut(n as usize));
        slot.ok_or_else(|| Error::internal("a file came back after it had left the line").into())
    }

    /// Takes what a worker has done.
    fn take(&mut self, done: Done) -> Result<()> {
        match done {
            Done::Read { at, read } => self.take_file(at, *read),
            Done::Put { group, chunk, bytes } => {
                self.small -= bytes;
                for (at, offset) in self.groups.remove(&group).unwrap_or_default() {
                    let slot = self.slot(at)?;
                    *slot = match std::mem::replace(slot, Slot::Gone) {
                        Slot::Grouped(pending) => decided(*pending, Content::Shared { chunk, offset }),
                        _ => return Err(Error::internal("a file is in no group and has its chunk").into()),
                    };
                }
                Ok(())
            }
        }
    }

    fn take_file(&mut self, at: u64, read: Read) -> Result<()> {
        let Read { stamp: Stamp { size, modified, changed }, unsettled, hole, fresh, data } = read;
        self.counts.hole += hole;
        self.reading -= 1;
        let slot = self.slot(at)?;
        let Slot::Reading(mut pending) = std::mem::replace(slot, Slot::Gone) else {
            return Err(Error::internal("a file was read that is not in the line").into());
        };
        let reserved = std::mem::take(&mut pending.reserved);
        if let Some(look) = fresh {
            let name = std::mem::take(&mut pending.known.name);
            pending.known = self.known(name, &look, What::Fifo, None)?;
            // Another file has taken the name; which other names it has is not asked.
            if pending.key != Some((look.device, look.inode.number, look.born)) {
                (pending.known.links, pending.key) = (None, None);
            }
        }
        let known = &mut pending.known;
        (known.modified, known.changed, known.unsettled) = (modified, changed, unsettled);
        known.what = What::File { size, content: Content::Nothing };
        let mut held = 0;
        let new = match data {
            Data::Gone => Slot::Gone,
            Data::Missing(errno) => {
                known.missing = Some(errno);
                decided(*pending, Content::Nothing)
            }
            Data::Stored(content) => decided(*pending, content),
            Data::Small(bytes) => {
                held = bytes.len() as u64;
                Slot::Small(pending, bytes)
            }
        };
        self.small = self.small + held - reserved;
        *self.slot(at)? = new;
        if at < self.ungrouped {
            // The others around it have their chunks already.
            self.group_one(at)?;
            self.send_group()?;
        }
        Ok(())
    }

    /// Puts what was read into groups, in order.
    fn group(&mut self, has_ended: bool) -> Result<()> {
        self.ungrouped = self.ungrouped.max(self.first);
        while let Some(slot) = self.slots.get((self.ungrouped - self.first) as usize) {
            match slot {
                Slot::Reading(_) => return Ok(()),
                Slot::Small(..) => self.group_one(self.ungrouped)?,
                _ if self.group.is_over(self.ungrouped) => self.send_group()?,
                _ => {}
            }
            self.ungrouped += 1;
        }
        if has_ended { self.send_group() } else { Ok(()) }
    }

    fn group_one(&mut self, at: u64) -> Result<()> {
        let slot = self.slot(at)?;
        let (pending, bytes) = match std::mem::replace(slot, Slot::Gone) {
            Slot::Small(pending, bytes) => (pending, bytes),
            other => {
                *slot = other;
                return Ok(());
            }
        };
        let may_end = self.backup.writer.ends_group(&pending.known.name);
        *self.slot(at)? = Slot::Grouped(pending);
        if self.group.is_full(at, bytes.len()) {
            self.send_group()?;
        }
        if self.group.push(at, &bytes, may_end) { self.send_group() } else { Ok(()) }
    }

    /// Ends the group and has its chunk stored.
    fn send_group(&mut self) -> Result<()> {
        let Group { bytes, members, .. } = std::mem::take(&mut self.group);
        if members.is_empty() {
            return Ok(());
        }
        let group = self.next_group;
        self.next_group += 1;
        self.groups.insert(group, members);
        self.hand_out(Work::Put { group, bytes })
    }

    /// Builds the tree as far as everything is decided.
    fn build(&mut self) -> Result<()> {
        while let Some(slot) = self.slots.pop_front() {
            let slot = match slot {
                Slot::Reading(_) | Slot::Small(..) | Slot::Grouped(_) => {
                    self.slots.push_front(slot);
                    return Ok(());
                }
                Slot::Follow(follow) => {
                    match self.links.follow(follow.key, &follow.pending.known.name, &Stamp::seen(&follow.job.seen)) {
                        Followed::Same(known) => Slot::Entry(Entry::Known(known), None),
                        followed => {
                            let Follow { mut pending, job, .. } = *follow;
                            if followed == Followed::Other {
                                (pending.known.links, pending.key) = (None, None);
                            }
                            pending.reserved = self.send(job)?;
                            self.slots.push_front(Slot::Reading(Box::new(pending)));
                            return Ok(());
                        }
                    }
                }
                slot => slot,
            };
            self.first += 1;
            match slot {
                Slot::Enter(known, below) => self.open(*known, below.as_ref())?,
                Slot::Leave => self.close()?,
                Slot::Entry(entry, key) => self.add(entry, key)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn open(&mut self, known: Known, below: Option<&Below>) -> Result<()> {
        let above = self.path.len();
        if above > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&known.name);
        self.counts.directories += 1;
        if let Some(errno) = known.missing {
            self.counts.miss(self.path.clone(), errno.get());
        }
        self.open.push(Open { known, builder: self.backup.writer.folder(below), above });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(Open { mut known, builder, above }) = self.open.pop() else {
            return Err(Error::internal("a directory ended twice").into());
        };
        self.path.truncate(above);
        if let What::Folder { below, .. } = &mut known.what {
            *below = builder.finish()?;
        }
        match self.open.last_mut() {
            Some(open) => open.builder.push(Entry::Known(Box::new(known)))?,
            None => self.root = Some(known),
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry, key: Option<InodeKey>) -> Result<()> {
        let missing = match &entry {
            Entry::Unknown { errno, .. } => {
                self.counts.others += 1;
                Some(*errno)
            }
            Entry::Known(known) => {
                // What could not be read by this name may be readable by another one.
                if let Some(key) = key.filter(|_| known.missing.is_none()) {
                    self.links.decide(key, known);
                }
                if let What::File { size, content } = &known.what {
                    self.counts.files += 1;
                    if let Content::Shared { chunk, .. } = content {
                        self.thin.note(chunk, *size);
                    }
                } else {
                    self.counts.others += 1;
                }
                if known.unsettled {
                    let path = self.path_of(&known.name);
                    self.counts.unsettle(&path);
                }
                known.missing
            }
        };
        if let Some(errno) = missing {
            self.counts.miss(self.path_of(entry.name()), NonZeroU32::get(errno));
        }
        match self.open.last_mut() {
            Some(open) => Ok(open.builder.push(entry)?),
            None => Err(Error::internal("a name came outside of every directory").into()),
        }
    }

    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }
}

/// A file whose content is known.
fn decided(pending: Pending, data: Content) -> Slot {
    let Pending { mut known, key, .. } = pending;
    if let What::File { content, .. } = &mut known.what {
        *content = data;
    }
    Slot::Entry(Entry::Known(Box::new(known)), key)
}
