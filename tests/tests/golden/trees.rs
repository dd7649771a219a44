//! The golden repository of the feature `tree`: one of everything that an entry can be.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use wherry_repo::format::tree::{
    Attributes, Below, Content, Entry, Extended, InodeFlags, Known, PIECE, Piece, SHARED, Set, Time, What,
};
use wherry_repo::{
    CheckOptions, CommitInfo, MissingPath, PieceSet, ReadData, Repository, Scratch, Snapshot, TreeInfo, TreeReader,
    TreeWriter, WriterOptions,
};
use wherry_tests::small::*;

/// A directory by name.
pub type Folder = BTreeMap<Vec<u8>, Thing>;

/// What is in one.
#[derive(Clone, Debug, PartialEq)]
pub enum Thing {
    /// In a chunk with others.
    Small(Vec<u8>),
    /// Pieces of so many bytes, a hole of 4096 behind every third.
    Large(Vec<u8>, usize),
    /// A hole and nothing else.
    Hole(u64),
    /// A disk image of so many bytes, and what is in some of its chunks.
    Image(u64, BTreeMap<u64, Vec<u8>>),
    Link(Vec<u8>),
    Fifo,
    Socket,
    Character(u32, u32),
    Block(u32, u32),
    Folder(bool, Folder),
    /// Content that could not be read.
    Unread(u32),
    /// A name that could not be looked at.
    Unknown(u32),
}

fn many(count: u64) -> Folder {
    (0..count).map(|n| (format!("file {n:04}").into_bytes(), Thing::Small(noise(n, 10 + n as usize)))).collect()
}

/// The tree of the first snapshot.
pub fn first() -> Folder {
    let mut deep = Folder::new();
    for n in 0..20u8 {
        deep = Folder::from([(vec![n + 1], Thing::Folder(false, deep))]);
    }
    Folder::from([
        (b"block".to_vec(), Thing::Block(8, 1 << 20)),
        (b"character".to_vec(), Thing::Character(1, 3)),
        (b"deep".to_vec(), Thing::Folder(false, deep)),
        (b"empty".to_vec(), Thing::Small(Vec::new())),
        (b"fifo".to_vec(), Thing::Fifo),
        (b"hole".to_vec(), Thing::Hole(1 << 50)),
        (b"large".to_vec(), Thing::Large(noise(1, 100_000), 30_001)),
        (b"link".to_vec(), Thing::Link(b"../\xff elsewhere".to_vec())),
        (b"list".to_vec(), Thing::Large(noise(2, 30_000), 100)),
        (b"many".to_vec(), Thing::Folder(false, many(500))),
        (b"mount".to_vec(), Thing::Folder(true, Folder::new())),
        (b"no \xfe UTF-8\n".to_vec(), Thing::Small(b"content".to_vec())),
        (b"socket".to_vec(), Thing::Socket),
        (vec![b'x'; 255], Thing::Small(noise(3, 40_000))),
    ])
}

/// That of the second one: a little changed, some of it unreadable.
pub fn second() -> Folder {
    let mut folder = first();
    folder.remove(&b"fifo"[..]);
    folder.insert(b"forbidden".to_vec(), Thing::Unread(13));
    folder.insert(b"gone".to_vec(), Thing::Unknown(5));
    if let Some(Thing::Folder(_, many)) = folder.get_mut(&b"many"[..]) {
        many.insert(b"file 0300 and one more".to_vec(), Thing::Small(b"new".to_vec()));
    }
    folder
}

/// Disk images: of one level, of three with an end inside a chunk, and one that is all zero. With `more` another one is in it,
/// and the same chunks are somewhere else too.
pub fn images(more: bool) -> Folder {
    let chunk = |n: u64| {
        let mut chunk = noise(n, 700);
        chunk.resize(UNIT, 0);
        chunk
    };
    let unit = UNIT as u64;
    let small: BTreeMap<u64, Vec<u8>> = [0, 1, 3].map(|n| (n, chunk(n))).into();
    let mut large: BTreeMap<u64, Vec<u8>> = [0, 1, 127, 128, 16_383, 16_384].map(|n| (n, chunk(100 + n))).into();
    large.insert(20_000, noise(7, 77));
    let mut folder = Folder::from([
        (b"disk.img".to_vec(), Thing::Image(20_000 * unit + 77, large.clone())),
        (b"empty.img".to_vec(), Thing::Image(1 << 50, BTreeMap::new())),
        (b"floppy".to_vec(), Thing::Image(4 * unit, small)),
        (b"small".to_vec(), Thing::Small(noise(8, 300))),
    ]);
    if more {
        large.insert(129, chunk(1000));
        large.remove(&127);
        let inner = Folder::from([(b"disk.img".to_vec(), Thing::Image(20_000 * unit + 77, large))]);
        folder.insert(b"copy".to_vec(), Thing::Folder(false, inner));
    }
    folder
}

/// The metadata of an entry, which its name decides. Every time that a filesystem can have, and beyond.
fn known(name: &[u8], extended: Extended, what: What) -> Known {
    let mark = name.iter().fold(name.len() as u32, |sum, byte| sum * 31 % 65_521 + u32::from(*byte));
    let folder = matches!(what, What::Folder { .. });
    Known {
        name: name.to_vec(),
        attributes: Arc::new(Attributes {
            permissions: [0o644, 0o4755, 0o1777, 0][mark as usize % 4],
            owner: [0, 1000, u32::MAX - 1][mark as usize % 3],
            group: 100,
            owner_name: [&b"root"[..], b"somebody", b""][mark as usize % 3].to_vec(),
            group_name: b"users".to_vec(),
            flags: InodeFlags((mark % 8) as u8),
            extended,
        }),
        modified: Time { seconds: [-1, 0, 1 << 40][mark as usize % 3], nanoseconds: 999_999_999 - mark },
        changed: Time { seconds: 1_700_000_000, nanoseconds: mark },
        inode: u64::MAX - u64::from(mark),
        links: NonZeroU64::new(2).filter(|_| mark % 5 == 0 && !folder),
        missing: None,
        unsettled: mark % 7 == 0 && !folder,
        what,
    }
}

/// Of a name; some are long.
fn set(name: &[u8]) -> Set {
    match name {
        b"large" => {
            Set(vec![(b"system.posix_acl_access".to_vec(), noise(10, 44)), (b"user.long".to_vec(), noise(11, 5000))])
        }
        b"link" => Set(vec![(b"security.selinux".to_vec(), b"system_u:object_r:etc_t:s0\0".to_vec())]),
        _ => Set::default(),
    }
}

struct Writing<'a> {
    writer: &'a TreeWriter,
    scratch: Scratch,
}

impl Writing<'_> {
    fn what(&mut self, thing: &Thing, parent: Option<&Known>, set: &PieceSet) -> What {
        let theirs = parent.map(|known| &known.what);
        let file = |size: usize, content| What::File { size: size as u64, content };
        match thing {
            Thing::Small(data) if data.is_empty() => file(0, Content::Nothing),
            Thing::Small(data) => {
                // Behind something of another file.
                let chunk = [&data[..data.len() / 2], data].concat();
                let (chunk, _) = self.writer.put(&mut self.scratch, SHARED, &chunk, Some(set)).unwrap();
                file(data.len(), Content::Shared { chunk, offset: data.len() as u32 / 2 })
            }
            Thing::Large(data, unit) => {
                let theirs = match theirs {
                    Some(What::File { content, .. }) => Some(content),
                    _ => None,
                };
                let mut list = self.writer.list(theirs);
                for (n, part) in data.chunks(*unit).enumerate() {
                    let (piece, _) = self.writer.put(&mut self.scratch, PIECE, part, Some(set)).unwrap();
                    list.push(Piece::Chunk(piece)).unwrap();
                    if n % 3 == 2 {
                        list.push(Piece::Hole(4096)).unwrap();
                    }
                }
                What::File { size: list.size(), content: list.finish().unwrap() }
            }
            Thing::Hole(size) => What::File { size: *size, content: Content::Nothing },
            Thing::Image(size, chunks) => {
                let mut image = self.writer.image(*size, parent).unwrap();
                for (n, chunk) in chunks {
                    image.put(&mut self.scratch, *n, chunk).unwrap();
                }
                What::File { size: *size, content: image.finish().unwrap() }
            }
            Thing::Unread(_) => file(77, Content::Nothing),
            Thing::Link(target) => What::Link(target.clone()),
            Thing::Fifo => What::Fifo,
            Thing::Socket => What::Socket,
            Thing::Character(major, minor) => What::Character(*major, *minor),
            Thing::Block(major, minor) => What::Block(*major, *minor),
            Thing::Folder(boundary, inner) => {
                let theirs = match theirs {
                    Some(What::Folder { below, .. }) => below.as_ref(),
                    _ => None,
                };
                What::Folder { boundary: *boundary, below: self.folder(inner, theirs) }
            }
            Thing::Unknown(_) => unreachable!("it has no inode"),
        }
    }

    fn folder(&mut self, folder: &Folder, theirs: Option<&Below>) -> Option<Below> {
        let mut builder = self.writer.folder(theirs);
        for (name, thing) in folder {
            if let Thing::Unknown(errno) = thing {
                builder.push(Entry::Unknown { name: name.clone(), errno: NonZeroU32::new(*errno).unwrap() }).unwrap();
                continue;
            }
            let parent = theirs.and_then(|below| self.writer.in_parent(below, name).unwrap());
            let kept = parent.as_ref().map(|known| self.writer.kept_pieces(known).unwrap()).unwrap_or_default();
            let what = self.what(thing, parent.as_ref(), &kept);
            let extended = self.writer.extended(&mut self.scratch, set(name), Some(&kept)).unwrap().unwrap();
            let mut known = known(name, extended, what);
            if let Thing::Unread(errno) = thing {
                known.missing = NonZeroU32::new(*errno);
            }
            builder.push(Entry::Known(Box::new(known))).unwrap();
        }
        builder.finish().unwrap()
    }
}

/// Backs a tree up.
pub fn save(repository: &Repository, folder: &Folder) -> Snapshot {
    let options = WriterOptions { pack_size: 4 << 20, ..options("home") };
    let writer = TreeWriter::start(repository, index(), &options).unwrap();
    let theirs = writer.parent().and_then(|tree| match tree.root().what {
        What::Folder { below, .. } => below,
        _ => None,
    });
    let mut writing = Writing { writer: &writer, scratch: writer.scratch(256 << 10).unwrap() };
    let below = writing.folder(folder, theirs.as_ref());
    let root = known(b"", Extended::None, What::Folder { boundary: false, below });
    drop(writing);
    let unread = folder.iter().filter_map(|(name, thing)| match thing {
        Thing::Unread(errno) | Thing::Unknown(errno) => Some(MissingPath { path: name.clone(), errno: *errno }),
        _ => None,
    });
    let info = TreeInfo {
        files: 1,
        folders: 2,
        others: 3,
        first_missing: unread.collect(),
        unsettled: 4,
        filesystem: "ext4".into(),
        excluded: vec!["*.o".into()],
        ..TreeInfo::default()
    };
    writer.commit(root, CommitInfo::default(), info).unwrap()
}

fn bytes(tree: &TreeReader, size: u64, content: &Content) -> Vec<u8> {
    let mut out = Vec::new();
    for span in tree.pieces(size, content, 0).unwrap() {
        let span = span.unwrap();
        match span.data {
            None => out.resize(out.len() + span.len as usize, 0),
            Some(part) => {
                let chunk = tree.chunks().read_chunk(&part.chunk).unwrap();
                out.extend_from_slice(&chunk.as_ref()[part.skip as usize..][..span.len as usize]);
            }
        }
    }
    out
}

/// The chunks of a disk image that are not zero.
fn chunks_of(tree: &TreeReader, size: u64, content: &Content) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut at = 0;
    for span in tree.pieces(size, content, 0).unwrap().map(Result::unwrap) {
        assert_eq!(span.offset, at);
        at += span.len;
        if let Some(part) = span.data {
            let chunk = tree.chunks().read_chunk(&part.chunk).unwrap();
            assert_eq!((span.len, part.skip), (chunk.as_ref().len() as u64, 0));
            found.insert(span.offset / UNIT as u64, chunk.into_inner());
        }
    }
    assert_eq!(at, size);
    found
}

/// What a file of pieces holds.
fn with_holes(data: &[u8], unit: usize) -> Vec<u8> {
    let part = |(n, part): (usize, &[u8])| [part, &vec![0; if n % 3 == 2 { 4096 } else { 0 }][..]].concat();
    data.chunks(unit).enumerate().flat_map(part).collect()
}

/// Compares a directory with what was written.
fn compare(tree: &TreeReader, below: Option<&Below>, folder: &Folder) {
    let entries: Vec<Entry> =
        below.map_or_else(Vec::new, |below| tree.list(below, 0).unwrap().map(|entry| entry.unwrap().1).collect());
    assert!(entries.iter().map(Entry::name).eq(folder.keys()));
    for (entry, (name, thing)) in entries.iter().zip(folder) {
        let found = match (entry, thing) {
            (Entry::Unknown { errno, .. }, Thing::Unknown(want)) => {
                assert_eq!(errno.get(), *want);
                continue;
            }
            (Entry::Known(found), _) => found,
            _ => panic!("{entry:?}"),
        };
        let extended = match &found.attributes.extended {
            Extended::None => Set::default(),
            Extended::Here(set) => set.clone(),
            Extended::Chunk(chunk) => {
                Set::decode(tree.chunks().read_chunk(&tree.set(chunk)).unwrap().as_ref()).unwrap()
            }
        };
        assert_eq!(extended, set(name));
        let missing = if let Thing::Unread(errno) = thing { NonZeroU32::new(*errno) } else { None };
        let want = known(name, found.attributes.extended.clone(), found.what.clone());
        assert_eq!(**found, Known { missing, ..want });
        match (&found.what, thing) {
            (What::File { size, content }, Thing::Small(data)) => assert_eq!(&bytes(tree, *size, content), data),
            (What::File { size, content }, Thing::Large(data, unit)) => {
                let is_list = matches!(content, Content::List(_));
                assert_eq!(is_list, data.len() / unit > 32);
                assert_eq!(bytes(tree, *size, content), with_holes(data, *unit));
            }
            (What::File { size, content: Content::Nothing }, Thing::Hole(want)) => assert_eq!(size, want),
            (What::File { size, content }, Thing::Image(want, chunks)) => {
                assert_eq!((size, matches!(content, Content::Map { .. })), (want, !chunks.is_empty()));
                assert_eq!(&chunks_of(tree, *size, content), chunks);
            }
            (What::File { size: 77, content: Content::Nothing }, Thing::Unread(_)) => {}
            (What::Link(target), Thing::Link(want)) => assert_eq!(target, want),
            (What::Fifo, Thing::Fifo) | (What::Socket, Thing::Socket) => {}
            (What::Character(a, b), Thing::Character(c, d)) | (What::Block(a, b), Thing::Block(c, d)) => {
                assert_eq!((a, b), (c, d));
            }
            (What::Folder { boundary, below }, Thing::Folder(want, inner)) => {
                assert_eq!(boundary, want);
                compare(tree, below.as_ref(), inner);
            }
            (what, thing) => panic!("{what:?} is not {thing:?}"),
        }
    }
}

/// Reads it as a repository that another build made, with these trees in it.
pub fn read(repository: &Repository, folders: &[Folder]) {
    let list = repository.snapshots(None).unwrap();
    assert!(list.damaged.is_empty(), "{:?}", list.damaged);
    let snapshots: Vec<_> = list.visible().collect();
    for (snapshot, folder) in snapshots.iter().zip(folders) {
        let tree = TreeReader::open(repository, snapshot).unwrap();
        let What::Folder { below, .. } = &tree.root().what else { panic!("no root") };
        compare(&tree, below.as_ref(), folder);
        let missing: Vec<_> = tree.missing().map(Result::unwrap).collect();
        let told = tree.info().first_missing.iter().map(|missing| (missing.path.clone(), missing.errno));
        assert!(told.eq(missing.iter().cloned()));
    }
    assert_eq!(snapshots.len(), folders.len());
    let options = CheckOptions { read_data: Some(ReadData::default()), ..CheckOptions::default() };
    let report = repository.check(&options, &|_, _, _| Ok(())).unwrap();
    assert!(report.is_clean() && report.trees == folders.len() as u64, "{:?}", report.damages);
}
