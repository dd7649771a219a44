//! Trees beside disks: one actor backs up a directory of large files, each a list of many pieces, takes over unread what has not
//! changed, forgets what it made before, and reads what it made last.

use super::Sim;
use super::actors::Process;
use super::storage::Role;
use crate::made_trees::Node as Made;
use crate::small::{index, noise, options};
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::format::tree::{Attributes, Content, Entry, Extended, InodeFlags, Known, PIECE, Piece, What};
use wherry_repo::index::ChunkIndex;
use wherry_repo::{CommitInfo, ErrorKind, ReadSession, Repository, Result, Snapshot, TreeInfo, TreeReader, TreeWriter};

/// Files of the directory.
const FILES: usize = 3;
/// Pieces of a file: so many that they are in nodes of their own.
const PIECES: u64 = 40;
/// Bytes of a piece.
const PIECE_LEN: usize = 1500;

/// Versions of all files.
pub(super) type Versions = [u64; FILES];

fn name(file: usize) -> Vec<u8> {
    vec![b'a' + file as u8]
}

/// What a file has in a version: its first half changes every other time only.
fn content(file: usize, version: u64) -> Vec<Vec<u8>> {
    let piece = |n: u64| {
        let version = if n < PIECES / 2 { version / 2 } else { version };
        noise(1_000_000 * file as u64 + 1000 * version + n + 1, PIECE_LEN)
    };
    (0..PIECES).map(piece).collect()
}

/// Backs the directory up again and again, and forgets all but the last.
pub(super) fn store(sim: &Sim, actor: usize, seed: u64) {
    let mut process = Process::new(sim, actor, seed, Role::Writes);
    process.volume = Some("tree".into());
    let mut reader = Process::new(sim, actor, seed ^ 1, Role::Reads);
    let mut forgetter = Process::new(sim, actor, seed ^ 2, Role::Forgets);
    let known = index();
    let mut versions: Versions = [0; FILES];
    for _ in 0..4 {
        process.pause(sim.world.pause);
        versions[process.below(FILES as u64) as usize] += process.below(3);
        match process.open().and_then(|repository| back_up(&mut process, &repository, &known, &versions)) {
            Ok(snapshot) => sim.ledger.lock().trees.push((snapshot, versions)),
            Err(e) => process.failed("backup of a tree", &e),
        }
        let Some((last, was)) = sim.ledger.lock().trees.last().cloned() else { continue };
        reader.pause(sim.world.pause);
        // Nobody else forgets it.
        sim.readers.lock().begin(actor);
        let opened = reader.open().and_then(|repository| ReadSession::open(&repository, &last));
        let read = opened.and_then(|session| TreeReader::within(Arc::new(session))).and_then(|tree| read(&tree, &was));
        match read {
            Ok(true) => sim.schedule.count("a tree was read", 1),
            Ok(false) => sim.wrong(format!("tree {} was read as something else", last.id)),
            Err(e) if e.kind() == ErrorKind::Unavailable => {}
            Err(e) => sim.wrong(format!("tree {} does not restore: {:?}: {e}", last.id, e.kind())),
        }
        let old: Vec<_> =
            sim.ledger.lock().standing_trees().into_iter().filter(|(tree, _)| tree.id != last.id).collect();
        for (tree, _) in old {
            sim.ledger.lock().doomed.insert(tree.id);
            let asked =
                forgetter.open().and_then(|repository| repository.forget(&tree.id, Duration::ZERO, "simulated"));
            match asked {
                Err(e) if e.kind() != ErrorKind::NoSnapshot => forgetter.failed("forget", &e),
                _ => {}
            }
        }
    }
}

fn back_up(
    process: &mut Process<'_>,
    repository: &Repository,
    known: &Arc<ChunkIndex>,
    versions: &Versions,
) -> Result<Snapshot> {
    let writer = TreeWriter::start(repository, known.clone(), &options("tree"))?;
    let mut scratch = writer.scratch(2 << 20)?;
    let root = match writer.parent().map(|parent| &parent.root().what) {
        Some(What::Folder { below, .. }) => *below,
        _ => None,
    };
    let mut folder = writer.folder(root.as_ref());
    for (file, version) in versions.iter().enumerate() {
        let theirs = match &root {
            Some(root) => writer.in_parent(root, &name(file))?,
            None => None,
        };
        // What has not changed says its mtime.
        let same = theirs.as_ref().filter(|theirs| theirs.modified.seconds == *version as i64);
        let kept = match same {
            Some(theirs) if process.below(4) > 0 => writer.keep(theirs)?,
            _ => None,
        };
        let content = match kept {
            Some(kept) => {
                process.sim.schedule.count("a file was taken over unread", 1);
                kept.into_content()
            }
            None => {
                let before = match theirs.as_ref().map(|theirs| &theirs.what) {
                    Some(What::File { content, .. }) => Some(content),
                    _ => None,
                };
                let pieces = theirs.as_ref().map(|theirs| writer.kept_pieces(theirs)).transpose()?;
                let mut list = writer.list(before);
                for piece in content(file, *version) {
                    list.push(Piece::Chunk(writer.put(&mut scratch, PIECE, &piece, pieces.as_ref())?.0))?;
                }
                list.finish()?
            }
        };
        folder.push(entry(name(file), *version, What::File { size: PIECES * PIECE_LEN as u64, content }))?;
        process.pause(600);
        writer.pulse().beat()?;
    }
    let below = folder.finish()?;
    let Entry::Known(root) = entry(Vec::new(), 0, What::Folder { boundary: false, below }) else {
        unreachable!("a directory is known")
    };
    writer.commit(*root, CommitInfo::default(), TreeInfo::default())
}

fn entry(name: Vec<u8>, version: u64, what: What) -> Entry {
    let plain = Made::folder(b"", Vec::new());
    let attributes = Attributes {
        permissions: plain.permissions,
        owner: 0,
        group: 0,
        owner_name: Vec::new(),
        group_name: Vec::new(),
        flags: InodeFlags::default(),
        extended: Extended::None,
    };
    let mut modified = plain.modified;
    modified.seconds = version as i64;
    Entry::Known(Box::new(Known {
        name,
        attributes: Arc::new(attributes),
        modified,
        changed: plain.changed,
        inode: 1,
        links: None,
        missing: None,
        unsettled: false,
        what,
    }))
}

/// Whether all of a tree is what it was.
pub(super) fn read(tree: &TreeReader, versions: &Versions) -> Result<bool> {
    let What::Folder { below: Some(root), .. } = &tree.root().what else { return Ok(false) };
    for (file, version) in versions.iter().enumerate() {
        let Some((_, Entry::Known(known))) = tree.find(root, &name(file))? else { return Ok(false) };
        let What::File { size, content: of } = &known.what else { return Ok(false) };
        if bytes(tree, *size, of)? != content(file, *version).concat() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn bytes(tree: &TreeReader, size: u64, content: &Content) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for span in tree.pieces(size, content, 0)? {
        if let Some(part) = span?.data {
            bytes.extend_from_slice(tree.chunks().read_chunk(&part.chunk)?.as_ref());
        }
    }
    Ok(bytes)
}
