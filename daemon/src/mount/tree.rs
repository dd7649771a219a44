//! Folders, links and disk images of a mount, without a kernel and without a repository: a table of inodes that only
//! ever grows, so that a number means the same thing for as long as the mount lives.
//!
//! ```text
//! by-volume/<name>/<2026-11-22T19-30-05Z>[-2][.partial]/disk.raw, or files/ of the tree of a directory
//! by-volume/<name>/latest -> <the newest whole one; nowhere while that is not certain>
//! by-id/<32 hex> -> ../by-volume/<name>/<time>
//! ```

use super::files::{self, Home};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use wherry_repo::{Snapshot, SnapshotId, Timestamp};

/// Number of the topmost folder.
pub const ROOT: u64 = 1;
const BY_VOLUME: u64 = 2;
const BY_ID: u64 = 3;

/// Where `latest` leads while it is not certain which snapshot that is: nowhere.
const UNCERTAIN: &str = "latest-is-not-certain";

/// One inode.
#[derive(Debug)]
pub struct Inode {
    /// Number of the folder it is in; the topmost is in itself.
    pub parent: u64,
    /// Its modification time.
    pub time: Timestamp,
    /// What it is.
    pub what: What,
}

/// What an inode is.
#[derive(Debug)]
pub enum What {
    /// A folder.
    Folder(Folder),
    /// A symbolic link to this.
    Link(String),
    /// The disk of a snapshot.
    Disk(Arc<Snapshot>),
}

/// The entries of a folder, in the order in which they came.
#[derive(Debug, Default)]
pub struct Folder {
    entries: Vec<(String, u64)>,
    numbers: HashMap<String, u64>,
    /// For the folder of a volume: how many snapshots it has of each second.
    seconds: HashMap<String, u32>,
    /// For the folder of a volume: the newest whole snapshot.
    newest: Option<(Timestamp, SnapshotId)>,
}

impl Folder {
    /// The number of an entry.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.numbers.get(name).copied()
    }

    /// The entry at a place, counted from 0; later entries come behind, so places stay.
    pub fn entry(&self, place: usize) -> Option<(&str, u64)> {
        self.entries.get(place).map(|(name, number)| (name.as_str(), *number))
    }
}

/// The table.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    known: HashSet<SnapshotId>,
    homes: Vec<Home>,
}

impl Tree {
    /// The folders there always are.
    pub fn new(now: Timestamp) -> Self {
        let mut tree = Self { inodes: Vec::new(), known: HashSet::new(), homes: Vec::new() };
        tree.inodes.push(Inode { parent: ROOT, time: now, what: What::Folder(Folder::default()) });
        tree.put(ROOT, "by-volume", now, What::Folder(Folder::default()));
        tree.put(ROOT, "by-id", now, What::Folder(Folder::default()));
        tree
    }

    /// The inode of this number.
    pub fn inode(&self, number: u64) -> Option<&Inode> {
        self.inodes.get(usize::try_from(number.checked_sub(1)?).ok()?)
    }

    /// The snapshot of a tree that [`split`](files::split) gives this index for.
    pub fn home(&self, index: u64) -> Option<&Home> {
        self.homes.get(usize::try_from(index).ok()?)
    }

    /// Shows a snapshot, unless it is shown already.
    pub fn add(&mut self, snapshot: Snapshot) {
        let is_tree = snapshot.chunk_size().is_none();
        if is_tree && self.homes.len() == files::MOST {
            if self.known.insert(snapshot.id) {
                tracing::warn!("snapshot {} is not shown: so many are shown already; mount it alone", snapshot.id);
            }
            return;
        }
        if !self.known.insert(snapshot.id) {
            return;
        }
        let (id, time, partial) = (snapshot.id, snapshot.record.started, snapshot.record.partial);
        let volume = snapshot.record.name.clone();
        let home = match self.folder(BY_VOLUME).and_then(|f| f.get(&volume)) {
            Some(home) => home,
            None => self.put(BY_VOLUME, &volume, time, What::Folder(Folder::default())),
        };
        let second = file_time(time);
        let count = self.folder_mut(home).map_or(1, |f| {
            let count = f.seconds.entry(second.clone()).or_default();
            *count += 1;
            *count
        });
        let again = if count > 1 { format!("-{count}") } else { String::new() };
        let name = format!("{second}{again}{}", if partial { ".partial" } else { "" });
        let own = self.put(home, &name, time, What::Folder(Folder::default()));
        if is_tree {
            let home = Home { index: self.homes.len() as u64, snapshot: Arc::new(snapshot), folder: own };
            self.enter(own, "files", time, files::number(home.index, 0));
            self.homes.push(home);
        } else {
            self.put(own, "disk.raw", time, What::Disk(Arc::new(snapshot)));
        }
        self.put(BY_ID, &id.to_string(), time, What::Link(format!("../by-volume/{volume}/{name}")));
        if !partial {
            self.make_latest(home, (time, id), name);
        }
    }

    fn make_latest(&mut self, home: u64, age: (Timestamp, SnapshotId), name: String) {
        match self.folder_mut(home) {
            Some(folder) if folder.newest.is_none_or(|newest| newest < age) => folder.newest = Some(age),
            _ => return,
        }
        self.lead(home, age.0, name);
    }

    /// Makes `latest` of a volume lead to this snapshot, and nowhere where there is none: it is not certain then which one is the newest.
    /// True when it led elsewhere before.
    pub fn set_latest(&mut self, volume: &str, latest: Option<SnapshotId>) -> bool {
        let Some(home) = self.folder(BY_VOLUME).and_then(|f| f.get(volume)) else { return false };
        let own = latest.and_then(|id| self.folder(BY_ID)?.get(&id.to_string())).and_then(|link| self.inode(link));
        let (time, name) = match own {
            Some(Inode { time, what: What::Link(path), .. }) => (*time, path.rsplit('/').next().unwrap_or(path)),
            _ => (Timestamp(0), UNCERTAIN),
        };
        self.lead(home, time, name.to_owned())
    }

    /// True when it is another name.
    fn lead(&mut self, home: u64, time: Timestamp, name: String) -> bool {
        let Some(link) = self.folder(home).and_then(|f| f.get("latest")) else {
            self.put(home, "latest", time, What::Link(name));
            return true;
        };
        match self.inode_mut(link) {
            Some(inode) if !matches!(&inode.what, What::Link(before) if *before == name) => {
                (inode.time, inode.what) = (time, What::Link(name));
                true
            }
            _ => false,
        }
    }

    /// Makes an inode and its entry.
    fn put(&mut self, parent: u64, name: &str, time: Timestamp, what: What) -> u64 {
        self.inodes.push(Inode { parent, time, what });
        let number = self.inodes.len() as u64;
        self.enter(parent, name, time, number);
        number
    }

    fn enter(&mut self, parent: u64, name: &str, time: Timestamp, number: u64) {
        if let Some(folder) = self.folder_mut(parent) {
            folder.entries.push((name.to_owned(), number));
            folder.numbers.insert(name.to_owned(), number);
        }
        if let Some(parent) = self.inode_mut(parent) {
            parent.time = parent.time.max(time);
        }
    }

    fn folder(&self, number: u64) -> Option<&Folder> {
        match &self.inode(number)?.what {
            What::Folder(folder) => Some(folder),
            _ => None,
        }
    }

    fn inode_mut(&mut self, number: u64) -> Option<&mut Inode> {
        self.inodes.get_mut(usize::try_from(number.checked_sub(1)?).ok()?)
    }

    fn folder_mut(&mut self, number: u64) -> Option<&mut Folder> {
        match &mut self.inode_mut(number)?.what {
            What::Folder(folder) => Some(folder),
            _ => None,
        }
    }
}

/// A time as the name of a folder: UTC, to the second, without colons.
fn file_time(time: Timestamp) -> String {
    // 64 bits of nanoseconds are within what jiff knows.
    let time = jiff::Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H-%M-%SZ").to_string()
}
