//! Small trees in a repository in memory.

use crate::format::tree::{
    Attributes, Below, Content, Entry, Extended, InodeFlags, Known, PIECE, Piece, Placed, SHARED, Set, Time, What,
};
use crate::index::ChunkIndex;
use crate::storage::{Memory, Storage};
use crate::{
    CommitInfo, Components, Credential, InitOptions, ParentChoice, PasswordCost, Repository, Scratch, Snapshot, System,
    TreeInfo, TreeWriter, WriterOptions,
};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// What a directory here has, made anew with each write.
#[derive(Clone, Debug)]
pub(super) enum Thing {
    /// Several in one chunk, each of so many bytes.
    Small(Vec<u8>),
    /// In pieces of so many bytes, with holes between some.
    Large(Vec<u8>, usize),
    /// With long extended attributes.
    Marked(Vec<u8>),
    /// A disk image of so many chunks, and what begins those of them that are not zero.
    Image(u64, BTreeMap<u64, Vec<u8>>),
    Link,
    Unknown,
    Unread,
    Folder(Folder),
}

pub(super) type Folder = BTreeMap<Vec<u8>, Thing>;

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Some of everything: directories and lists of several nodes, names that are no UTF-8.
pub(super) fn tree() -> Folder {
    let mut many: Folder =
        (0..300).map(|n| (format!("f{n:03}").into_bytes(), Thing::Small(noise(n, 40 + n as usize)))).collect();
    many.insert(b"f100d".to_vec(), Thing::Folder(Folder::from([(b"in".to_vec(), Thing::Small(noise(1000, 3000)))])));
    many.insert(b"f200 \xff".to_vec(), Thing::Link);
    let mut deep = Folder::from([(b"end".to_vec(), Thing::Marked(noise(1001, 500)))]);
    for n in 0..6 {
        let below = Thing::Folder(deep);
        deep = Folder::from([
            (vec![b'd', 200 + n], below),
            (b"file".to_vec(), Thing::Small(noise(1002 + u64::from(n), 70))),
        ]);
    }
    Folder::from([
        (b"deep".to_vec(), Thing::Folder(deep)),
        (b"disk.img".to_vec(), Thing::Image(400, [0, 1, 127, 130, 399].map(|n| (n, noise(4000 + n, 3000))).into())),
        (b"empty".to_vec(), Thing::Folder(Folder::new())),
        (b"floppy".to_vec(), Thing::Image(4, [1, 2].map(|n| (n, noise(4500 + n, 3000))).into())),
        (b"large".to_vec(), Thing::Large(noise(2000, 20_000), 7000)),
        (b"list".to_vec(), Thing::Large(noise(2001, 12_000), 30)),
        (b"many".to_vec(), Thing::Folder(many)),
        (b"marked".to_vec(), Thing::Marked(noise(2002, 30_000))),
    ])
}

pub(super) fn attributes(extended: Extended) -> Arc<Attributes> {
    let flags = InodeFlags::default();
    let (owner_name, group_name) = (Vec::new(), Vec::new());
    Arc::new(Attributes { permissions: 0o600, owner: 0, group: 0, owner_name, group_name, flags, extended })
}

pub(super) fn known(name: &[u8], extended: Extended, what: What) -> Known {
    Known {
        name: name.to_vec(),
        attributes: attributes(extended),
        modified: Time::default(),
        changed: Time::default(),
        inode: 1,
        links: None,
        missing: None,
        unsettled: false,
        what,
    }
}

/// Writes a tree; `change` may do something to each entry.
struct Writing<'a> {
    writer: &'a TreeWriter,
    scratch: Scratch,
    change: &'a mut dyn FnMut(&[u8], &mut Known),
}

impl Writing<'_> {
    fn put(&mut self, class: u8, data: &[u8]) -> Placed {
        self.writer.put(&mut self.scratch, class, data, None).unwrap().0
    }

    fn small(&mut self, all: &[&Vec<u8>], n: usize) -> What {
        // Chunks of ten files, those of each chunk known by the place of the file.
        let from = n / 10 * 10;
        let group = &all[from..all.len().min(from + 10)];
        let data = group.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>();
        let offset = group[..n - from].iter().map(|data| data.len()).sum::<usize>() as u32;
        What::File { size: all[n].len() as u64, content: Content::Shared { chunk: self.put(SHARED, &data), offset } }
    }

    fn large(&mut self, data: &[u8], unit: usize, parent: Option<&Content>) -> What {
        let mut pieces = Vec::new();
        for (n, part) in data.chunks(unit).enumerate() {
            pieces.push(Piece::Chunk(self.put(PIECE, part)));
            if n % 3 == 1 {
                pieces.push(Piece::Hole(10));
            }
        }
        let mut list = self.writer.list(parent);
        pieces.into_iter().for_each(|piece| list.push(piece).unwrap());
        What::File { size: list.size(), content: list.finish().unwrap() }
    }

    fn image(&mut self, chunks: u64, data: &BTreeMap<u64, Vec<u8>>, parent: Option<&Known>) -> What {
        let unit = u64::from(crate::DEFAULT_CHUNK_SIZE);
        let mut image = self.writer.image(chunks * unit, parent).unwrap();
        for (n, bytes) in data {
            let mut chunk = bytes.clone();
            chunk.resize(unit as usize, 0);
            image.put(&mut self.scratch, *n, &chunk).unwrap();
        }
        What::File { size: chunks * unit, content: image.finish().unwrap() }
    }

    fn folder(&mut self, folder: &Folder, path: &[u8], theirs: Option<&Below>) -> Option<Below> {
        let mut builder = self.writer.folder(theirs);
        let small: Vec<&Vec<u8>> =
            folder.values().filter_map(|t| if let Thing::Small(data) = t { Some(data) } else { None }).collect();
        let mut next = 0;
        for (name, thing) in folder {
            let mut here = path.to_vec();
            if !here.is_empty() {
                here.push(b'/');
            }
            here.extend_from_slice(name);
            let parent = theirs.and_then(|theirs| self.writer.parent().unwrap().find(theirs, name).unwrap());
            let whole = match parent {
                Some((_, Entry::Known(known))) => Some(known),
                _ => None,
            };
            let parent = whole.as_ref().map(|known| known.what.clone());
            let mut extended = Extended::None;
            let mut missing = None;
            let what = match thing {
                Thing::Unknown => {
                    builder.push(Entry::Unknown { name: name.clone(), errno: NonZeroU32::new(13).unwrap() }).unwrap();
                    continue;
                }
                Thing::Unread => {
                    missing = NonZeroU32::new(5);
                    What::File { size: 100, content: Content::Nothing }
                }
                Thing::Small(_) => {
                    next += 1;
                    self.small(&small, next - 1)
                }
                Thing::Large(data, unit) => {
                    let theirs = match &parent {
                        Some(What::File { content, .. }) => Some(content),
                        _ => None,
                    };
                    self.large(data, *unit, theirs)
                }
                Thing::Marked(data) => {
                    let set = Set(vec![(b"user.a".to_vec(), noise(data.len() as u64, 2000))]);
                    extended = self.writer.extended(&mut self.scratch, set, None).unwrap().unwrap();
                    self.small(&[data], 0)
                }
                Thing::Image(chunks, data) => self.image(*chunks, data, whole.as_deref()),
                Thing::Link => What::Link(b"to".to_vec()),
                Thing::Folder(inner) => {
                    let theirs = match &parent {
                        Some(What::Folder { below, .. }) => *below,
                        _ => None,
                    };
                    What::Folder { boundary: false, below: self.folder(inner, &here, theirs.as_ref()) }
                }
            };
            let mut known = Known { missing, ..known(name, extended, what) };
            (self.change)(&here, &mut known);
            builder.push(Entry::Known(Box::new(known))).unwrap();
        }
        builder.finish().unwrap()
    }
}

pub(super) fn components(storage: &Arc<Memory>) -> Components {
    Components { storage: storage.clone(), clock: Arc::new(System::default()), rng: Arc::new(System::default()) }
}

pub(super) fn credential() -> Credential {
    Credential::Password("x".to_owned().into())
}

/// Nothing that was read before is remembered.
pub(super) fn open(storage: &Arc<Memory>) -> Repository {
    Repository::open(components(storage), &credential()).unwrap()
}

/// A copy of all objects in another storage, opened there.
pub(super) fn open_from(repository: &Repository, storage: &Arc<Memory>) -> Repository {
    for key in repository.list("").unwrap() {
        storage.create(&key, repository.storage().get(&key).unwrap()).unwrap();
    }
    open(storage)
}

pub(super) fn init() -> Arc<Memory> {
    let storage = Arc::new(Memory::default());
    let cheap = PasswordCost { memory_kib: 8, passes: 1 };
    let options = InitOptions { password_cost: cheap, ..InitOptions::default() };
    Repository::init(components(&storage), &options, &credential()).unwrap();
    storage
}

pub(super) fn save(storage: &Arc<Memory>, folder: &Folder, change: &mut dyn FnMut(&[u8], &mut Known)) -> Snapshot {
    save_knowing(storage, &Arc::new(ChunkIndex::in_memory(1 << 20)), ParentChoice::None, folder, change)
}

/// Likewise, with what `index` knows.
pub(super) fn save_knowing(
    storage: &Arc<Memory>,
    index: &Arc<ChunkIndex>,
    parent: ParentChoice,
    folder: &Folder,
    change: &mut dyn FnMut(&[u8], &mut Known),
) -> Snapshot {
    let options =
        WriterOptions { name: "home".into(), uploads: 0, pack_size: 1 << 20, parent, ..WriterOptions::default() };
    save_with(&open(storage), index.clone(), &options, folder, change)
}

pub(super) fn save_with(
    repository: &Repository,
    index: Arc<ChunkIndex>,
    options: &WriterOptions,
    folder: &Folder,
    change: &mut dyn FnMut(&[u8], &mut Known),
) -> Snapshot {
    let writer = TreeWriter::start(repository, index, options).unwrap();
    let theirs = writer.parent().and_then(|tree| match tree.root().what {
        What::Folder { below, .. } => below,
        _ => None,
    });
    let scratch = writer.scratch(writer.largest()).unwrap();
    let mut writing = Writing { writer: &writer, scratch, change };
    let below = writing.folder(folder, b"", theirs.as_ref());
    let set = Set(vec![(b"user.root".to_vec(), noise(77, 1500))]);
    let extended = writer.extended(&mut writing.scratch, set, None).unwrap().unwrap();
    let mut root = known(b"", extended, What::Folder { boundary: false, below });
    (writing.change)(b"", &mut root);
    drop(writing);
    writer.commit(root, CommitInfo::default(), TreeInfo::default()).unwrap()
}
