//! Trees made up from a seed, with all that a tree may have, and put into a repository without a filesystem.

use crate::small::{UNIT, index, noise, options, splitmix};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use wherry_repo::format::tree::{
    Attributes, Content, Entry, Extended, InodeFlags, Known, PIECE, Piece, Placed, SHARED, Set, Time, What,
};
use wherry_repo::{CommitInfo, Repository, Result, Scratch, Snapshot, TreeInfo, TreeWriter};

/// A name and all that is behind it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name; empty for the root.
    pub name: Vec<u8>,
    /// What it is.
    pub what: Made,
    /// The 12 bits of the mode below the type.
    pub permissions: u16,
    /// User id.
    pub owner: u32,
    /// Group id.
    pub group: u32,
    /// mtime.
    pub modified: Time,
    /// ctime.
    pub changed: Time,
    /// Extended attributes.
    pub set: Set,
    /// Inode number.
    pub inode: u64,
    /// Names of the inode, when it has several.
    pub links: Option<NonZeroU64>,
}

/// The types of nodes.
#[derive(Clone, Debug)]
pub enum Made {
    /// A regular file: data and holes (as zeros) in turns.
    File(Vec<Part>),
    /// A regular file that is stored as a disk image: likewise, in whole chunks of the repository's size but at its end.
    Image(Vec<Part>),
    /// A regular file of so many bytes that could not be read.
    Unreadable(u64),
    /// A directory, in the order of names.
    Folder {
        /// Another filesystem begins here.
        boundary: bool,
        /// What is in it.
        nodes: Vec<Node>,
    },
    /// A symbolic link.
    Link(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// It could not be looked at.
    Unknown,
}

/// A part of a file.
#[derive(Clone, Debug)]
pub struct Part {
    /// All zero and not stored.
    pub is_hole: bool,
    /// What is read there.
    pub bytes: Vec<u8>,
}

impl Node {
    /// A node of this name and type with nothing special.
    pub fn plain(name: &[u8], what: Made) -> Self {
        Self {
            name: name.to_vec(),
            what,
            permissions: 0o644,
            owner: 0,
            group: 0,
            modified: Time { seconds: 1_700_000_000, nanoseconds: 5 },
            changed: Time { seconds: 1_700_000_001, nanoseconds: 6 },
            set: Set::default(),
            inode: 1,
            links: None,
        }
    }

    /// A regular file without holes.
    pub fn file(name: &[u8], bytes: Vec<u8>) -> Self {
        let parts = if bytes.is_empty() { Vec::new() } else { vec![Part { is_hole: false, bytes }] };
        Self::plain(name, Made::File(parts))
    }

    /// A directory with these nodes, in any order.
    pub fn folder(name: &[u8], mut nodes: Vec<Node>) -> Self {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Self::plain(name, Made::Folder { boundary: false, nodes })
    }

    /// What is in it; empty when it is no directory.
    pub fn nodes(&self) -> &[Node] {
        match &self.what {
            Made::Folder { nodes, .. } => nodes,
            _ => &[],
        }
    }
}

/// The content of a regular file.
pub fn bytes_of(parts: &[Part]) -> Vec<u8> {
    parts.iter().map(|part| &part.bytes[..]).collect::<Vec<_>>().concat()
}

struct Maker {
    state: u64,
    inode: u64,
    /// Nodes with several names, and how many are still to come.
    linked: Vec<Node>,
}

/// A tree of about `names` names; the same for the same seed.
pub fn made_up(seed: u64, names: usize) -> Node {
    let mut maker = Maker { state: seed, inode: 100, linked: Vec::new() };
    let mut left = names;
    let mut root = maker.folder(0, &mut left, false);
    root.name = Vec::new();
    root
}

impl Maker {
    fn below(&mut self, bound: usize) -> usize {
        splitmix(&mut self.state) as usize % bound
    }

    fn name(&mut self) -> Vec<u8> {
        let len = match self.below(20) {
            0 => 255,
            1 => 1,
            _ => 2 + self.below(10),
        };
        let name: Vec<u8> = (0..len)
            .map(|_| [b'a' + self.below(26) as u8, self.below(256) as u8][usize::from(self.below(4) == 0)])
            .collect();
        let allowed = !name.contains(&0) && !name.contains(&b'/') && name != b"." && name != b"..";
        if allowed { name } else { self.name() }
    }

    fn node(&mut self, what: Made) -> Node {
        self.inode += 1;
        let time = |at: u64| Time {
            seconds: at as i64 % 10_000_000_000 - 2_000_000_000,
            nanoseconds: (at >> 32) as u32 % 1_000_000_000,
        };
        let mut node = Node::plain(&self.name(), what);
        node.permissions = self.below(0o10000) as u16;
        (node.owner, node.group) = (self.below(3) as u32, self.below(70_000) as u32);
        (node.modified, node.changed) = (time(splitmix(&mut self.state) >> 1), time(splitmix(&mut self.state) >> 1));
        node.inode = self.inode;
        let attributes = match self.below(8) {
            0 => 1 + self.below(3),
            1 => 40,
            _ => 0,
        };
        let mut set: Vec<_> = (0..attributes)
            .map(|n| {
                let len = self.below(if attributes == 40 { 3000 } else { 50 });
                (format!("user.{n}-{}", self.below(1000)).into_bytes(), noise(self.state, len))
            })
            .collect();
        set.sort();
        node.set = Set(set);
        node
    }

    fn file(&mut self) -> Made {
        match self.below(10) {
            0 => Made::File(Vec::new()),
            1 => Made::Unreadable(1 + self.below(10_000) as u64),
            // Parts in turns; more than 32 make a list, more than 256 one of several nodes.
            2..5 => {
                let count = [1, 3, 20, 60, 700][self.below(5)];
                let longest = if count == 1 { 200_000 } else { 6000 };
                let first = self.below(2);
                let part = |maker: &mut Self, n: usize| {
                    let (is_hole, len) = ((n + first).is_multiple_of(2), 1 + maker.below(longest));
                    Part { is_hole, bytes: if is_hole { vec![0; len] } else { noise(maker.state, len) } }
                };
                Made::File((0..count).map(|n| part(self, n)).collect())
            }
            _ => {
                let len = 1 + self.below(5000);
                Made::File(vec![Part { is_hole: false, bytes: noise(self.state, len) }])
            }
        }
    }

    /// Of one level or two; the last part ends inside a chunk.
    fn image(&mut self) -> Made {
        let (count, first) = (2 + self.below(5), self.below(2));
        let mut parts = Vec::new();
        for n in 0..count {
            let is_hole = (n + first).is_multiple_of(2);
            // Far apart now and then, so that leaves lie between.
            let chunks = if is_hole && self.below(4) == 0 { 100 + self.below(40) } else { 1 + self.below(3) };
            let len = chunks * UNIT - if n + 1 == count { self.below(UNIT) } else { 0 };
            parts.push(Part { is_hole, bytes: if is_hole { vec![0; len] } else { noise(self.state, len) } });
        }
        Made::Image(parts)
    }

    fn folder(&mut self, depth: usize, left: &mut usize, boundary: bool) -> Node {
        let mut nodes: Vec<Node> = Vec::new();
        let want = match self.below(4) {
            0 if depth > 0 => 0,
            1 => 400,
            _ => 1 + self.below(12),
        };
        while nodes.len() < want.max(usize::from(depth == 0) * 12) && *left > 0 {
            *left -= 1;
            let node = match self.below(if want == 400 { 60 } else { 17 }) {
                0..5 if depth < 8 => {
                    let boundary = self.below(6) == 0;
                    self.folder(depth + 1, left, boundary)
                }
                5 => {
                    let len = 1 + self.below(300);
                    let target = noise(self.state, len).into_iter().map(|byte| byte.max(1)).collect();
                    self.node(Made::Link(target))
                }
                6 => {
                    let special = [Made::Fifo, Made::Socket, Made::Character(5, 1), Made::Block(259, 70_000)];
                    let which = self.below(special.len());
                    self.node(special[which].clone())
                }
                7 => self.node(Made::Unknown),
                8 | 9 => self.linked(),
                16 => {
                    let what = if self.below(3) == 0 { self.image() } else { self.file() };
                    self.node(what)
                }
                _ => {
                    let what = self.file();
                    self.node(what)
                }
            };
            if nodes.iter().all(|other| other.name != node.name) {
                nodes.push(node);
            }
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        self.node(Made::Folder { boundary, nodes })
    }

    /// One more name of an inode that has several, or the first one of a new one.
    fn linked(&mut self) -> Node {
        if self.linked.len() < 4 || self.below(3) == 0 {
            let what = self.file();
            let mut node = self.node(what);
            node.links = NonZeroU64::new(2 + self.below(5) as u64);
            self.linked.push(node);
        }
        let at = self.below(self.linked.len());
        let mut node = self.linked[at].clone();
        node.name = self.name();
        if self.below(4) == 0 {
            // It changed between two looks.
            node.modified.seconds += 1;
        }
        node
    }
}

/// Small files in chunks, in the order of the walk.
struct Groups {
    chunks: Vec<Vec<u8>>,
    placed: Vec<Placed>,
    /// Chunk and offset of each small file, in order.
    files: Vec<(usize, u32)>,
    next: usize,
}

fn is_small(parts: &[Part]) -> bool {
    matches!(parts, [part] if !part.is_hole && part.bytes.len() <= 64 << 10)
}

impl Groups {
    fn gather(&mut self, node: &Node) {
        match &node.what {
            Made::File(parts) if is_small(parts) => {
                let bytes = &parts[0].bytes;
                if self.chunks.last().is_none_or(|chunk| chunk.len() + bytes.len() > 40_000) {
                    self.chunks.push(Vec::new());
                }
                let at = self.chunks.len() - 1;
                self.files.push((at, self.chunks[at].len() as u32));
                self.chunks[at].extend_from_slice(bytes);
            }
            Made::Folder { nodes, .. } => nodes.iter().for_each(|node| self.gather(node)),
            _ => {}
        }
    }
}

/// Backs such a tree up.
pub fn backup_tree(repository: &Repository, name: &str, root: &Node) -> Result<Snapshot> {
    let writer = TreeWriter::start(repository, index(), &options(name))?;
    let mut scratch = writer.scratch(2 << 20)?;
    let mut groups = Groups { chunks: Vec::new(), placed: Vec::new(), files: Vec::new(), next: 0 };
    groups.gather(root);
    for chunk in &groups.chunks {
        groups.placed.push(writer.put(&mut scratch, SHARED, chunk, None)?.0);
    }
    let Entry::Known(root) = entry(&writer, &mut scratch, &mut groups, root)? else { panic!("the root is known") };
    writer.commit(*root, CommitInfo::default(), TreeInfo::default())
}

fn entry(writer: &TreeWriter, scratch: &mut Scratch, groups: &mut Groups, node: &Node) -> Result<Entry> {
    let errno = NonZeroU32::new(13).unwrap();
    let mut missing = None;
    let what = match &node.what {
        Made::Unknown => return Ok(Entry::Unknown { name: node.name.clone(), errno }),
        Made::File(parts) if is_small(parts) => {
            let (chunk, offset) = groups.files[groups.next];
            groups.next += 1;
            let chunk = groups.placed[chunk];
            What::File { size: parts[0].bytes.len() as u64, content: Content::Shared { chunk, offset } }
        }
        Made::File(parts) => {
            let mut list = writer.list(None);
            for part in parts {
                match part.is_hole {
                    true => list.push(Piece::Hole(part.bytes.len() as u64))?,
                    false => {
                        for piece in part.bytes.chunks(30_000) {
                            list.push(Piece::Chunk(writer.put(scratch, PIECE, piece, None)?.0))?;
                        }
                    }
                }
            }
            What::File { size: list.size(), content: list.finish()? }
        }
        Made::Image(parts) => {
            let bytes = bytes_of(parts);
            let mut image = writer.image(bytes.len() as u64, None)?;
            for (n, chunk) in bytes.chunks(image.chunk_size()).enumerate() {
                if chunk.iter().any(|byte| *byte != 0) {
                    image.put(scratch, n as u64, chunk)?;
                }
            }
            What::File { size: bytes.len() as u64, content: image.finish()? }
        }
        Made::Unreadable(size) => {
            missing = Some(errno);
            What::File { size: *size, content: Content::Nothing }
        }
        Made::Folder { boundary, nodes } => {
            let mut builder = writer.folder(None);
            for node in nodes {
                let entry = entry(writer, scratch, groups, node)?;
                builder.push(entry)?;
            }
            What::Folder { boundary: *boundary, below: builder.finish()? }
        }
        Made::Link(target) => What::Link(target.clone()),
        Made::Fifo => What::Fifo,
        Made::Socket => What::Socket,
        Made::Character(major, minor) => What::Character(*major, *minor),
        Made::Block(major, minor) => What::Block(*major, *minor),
    };
    let extended = writer.extended(scratch, node.set.clone(), None)?.unwrap_or(Extended::None);
    let attributes = Arc::new(Attributes {
        permissions: node.permissions,
        owner: node.owner,
        group: node.group,
        owner_name: Vec::new(),
        group_name: Vec::new(),
        flags: InodeFlags::default(),
        extended,
    });
    Ok(Entry::Known(Box::new(Known {
        name: node.name.clone(),
        attributes,
        modified: node.modified,
        changed: node.changed,
        inode: node.inode,
        links: node.links,
        missing,
        unsettled: false,
        what,
    })))
}
