//! What fuzzing begins with: small, whole, and made by our own encoders.

use crate::small::{in_memory, keys_of};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use wherry_repo::format::checked::{Checked, ReadTogether, Readings, States};
use wherry_repo::format::node::{Node, Slot};
use wherry_repo::format::pack::{self, Header, Index, Trailer};
use wherry_repo::format::records::{
    self, Asked, Beat, Fence, Generation, MissingPath, Moved, Origin, Outcome, Pinned, Process, Seen, SessionKind,
    SessionOpen, Settled, SnapshotRecord, Stats, Sweep, TreeInfo, Unpinned, Verdict,
};
use wherry_repo::format::segment::{self, PackRows};
use wherry_repo::format::tree::{
    Attributes, Below, Child, Content, Entry, Extended, FOLDER, InodeFlags, Known, LIST, ListNode, PIECE, Piece,
    Placed, Ref, SHARED, Set, Time, Totals, TreeNode, What,
};
use wherry_repo::storage::Storage;
use wherry_repo::{
    ChunkId, Codec, Location, PackId, PackKind, RepositoryId, SessionId, ShortId, SnapshotId, Timestamp, VolumeId,
};

const SESSION: SessionId = SessionId::new([7; 16]);

fn data(seq: u32) -> PackId {
    PackId { kind: PackKind::Data, session: SESSION, seq, random: 5 }
}

fn placed(class: u8, n: u8) -> Placed {
    let kind = if class < 128 { PackKind::Data } else { PackKind::Meta };
    let pack = PackId { kind, ..data(0) };
    let ordinal = u32::from(n);
    let at = Location { pack, epoch: 1, ordinal, offset: 64 + 1000 * ordinal, len: 1000, codec: Codec::Lz4 };
    // A node of a map is shorter than one of a tree may be.
    let plain = if class < FOLDER { 4096 } else { 16384 };
    Placed { to: Ref { id: ShortId::new([n + 1; 16]), class, plain }, at }
}

fn known(name: &str, what: What) -> Known {
    let extended = Extended::Here(Set(vec![(b"user.a".to_vec(), b"1".to_vec())]));
    let attributes = Attributes {
        permissions: 0o644,
        owner: 1000,
        group: 100,
        owner_name: b"ann".to_vec(),
        group_name: b"users".to_vec(),
        flags: InodeFlags(0),
        extended: if matches!(what, What::Link(_)) { Extended::None } else { extended },
    };
    let links = (!matches!(what, What::Folder { .. })).then(|| NonZeroU64::new(2)).flatten();
    Known {
        name: name.into(),
        attributes: Arc::new(attributes),
        modified: Time { seconds: 1_780_000_000, nanoseconds: 5 },
        changed: Time { seconds: 1_780_000_001, nanoseconds: 0 },
        inode: 12,
        links,
        missing: None,
        unsettled: false,
        what,
    }
}

fn folder(name: &str) -> Known {
    let totals = Totals { below: 1, folders: 0, bytes: 4096, missing: 0 };
    known(name, What::Folder { boundary: false, below: Some(Below { node: placed(FOLDER, 3), entries: 1, totals }) })
}

fn list() -> ListNode {
    ListNode::Leaf(vec![Piece::Chunk(placed(PIECE, 0)), Piece::Hole(1 << 20), Piece::Chunk(placed(PIECE, 1))])
}

fn trees() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let entry = |name, what| Entry::Known(Box::new(known(name, what)));
    let content = Content::Shared { chunk: placed(SHARED, 1), offset: 3 };
    let leaf = TreeNode::Leaf(vec![
        entry("a", What::File { size: 4000, content }),
        entry("b", What::Link(b"a".to_vec())),
        Entry::Known(Box::new(folder("c"))),
        Entry::Unknown { name: b"d".to_vec(), errno: NonZeroU32::MIN },
        entry("e", What::File { size: 1 << 30, content: Content::List(placed(LIST, 9)) }),
        entry("f", What::Block(8, 1)),
        entry(
            "g",
            What::File {
                size: 4096 + 7,
                content: Content::Pieces(vec![Piece::Hole(7), Piece::Chunk(placed(PIECE, 2))]),
            },
        ),
        entry("h", What::File { size: 1 << 30, content: Content::Map { class: 16, levels: 2, top: placed(129, 5) } }),
    ]);
    let totals = Totals { below: 9, folders: 2, bytes: 1 << 20, missing: 1 };
    let child = |first: &str, n: u8| Child { first: first.into(), node: placed(FOLDER, n), entries: 4, totals };
    let inner = TreeNode::Inner { height: 1, children: vec![child("a", 3), child("m", 4)] };
    let lists = ListNode::Inner { height: 1, children: vec![(placed(LIST, 3), 1 << 20), (placed(LIST, 4), 5)] };
    vec![
        ("tree_node", "leaf", leaf.encode()),
        ("tree_node", "inner", inner.encode()),
        ("list_node", "inner", lists.encode()),
        ("tree_root", "root", TreeNode::Leaf(vec![Entry::Known(Box::new(folder("")))]).encode()),
        ("list_node", "leaf", list().encode()),
        ("attributes", "two", Set(vec![(b"a".to_vec(), vec![]), (b"user.b".to_vec(), vec![1; 40])]).encode()),
    ]
}

fn packs() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let header = Header { epoch: 1, pack: data(1), commitment: [9; 16] };
    let entry = |n: u32, origin| pack::Entry {
        id: ChunkId::new([n as u8; 32]),
        offset: 64 + 100 * n,
        len: 100,
        plain: 200,
        ordinal: n,
        codec: Codec::Zstd,
        class: 0,
        origin,
    };
    let index = Index { origins: vec![(data(2), 1)], entries: vec![entry(0, 0), entry(1, 1), entry(2, 0)] };
    let bytes = index.encode();
    let trailer = Trailer::of(364, &bytes, 3);
    let size = u64::from(trailer.pack_len);
    let rows = PackRows { pack: data(1), epoch: 1, chunks: vec![(ShortId::new([1; 16]), 100, Codec::Raw)] };
    let map = |level: u8, class: u8| {
        let mut node = Node::new(level);
        for n in [0, 1, 2, 9] {
            let Placed { to, at } = placed(class, n as u8);
            node.set(n, Slot { id: to.id, at });
        }
        node.encode()
    };
    vec![
        ("pack_header", "one", header.encode().to_vec()),
        ("pack_index", "three", [&364_u32.to_le_bytes()[..], &bytes].concat()),
        ("pack_trailer", "one", [&size.to_le_bytes()[..], &trailer.encode()].concat()),
        ("packed", "node", super::crate_seeds::zstd(&map(1, 128))),
        ("segment", "two", segment::encode(&[rows.clone(), PackRows { pack: data(2), ..rows }])),
        ("map_node", "leaf", map(0, 0)),
        ("map_node", "inner", map(1, 128)),
    ]
}

/// With all there is to say of one; of a directory, where that is told.
fn snapshot(tree: Option<TreeInfo>) -> SnapshotRecord {
    let (class, levels, chunks) = if tree.is_some() { (0, 0, 0) } else { (22, 2, 300) };
    SnapshotRecord {
        name: "vm1".into(),
        size: 5 << 30,
        class,
        levels,
        root: ChunkId::new([1; 32]),
        top: vec![1, 2, 3],
        chunks,
        parent: Some(SnapshotId::new([3; 16])),
        tags: [("key".to_owned(), "value".to_owned())].into(),
        started: Timestamp(1_780_000_000_000_000_000),
        ended: Timestamp(1_780_000_001_000_000_000),
        host: "node-1".into(),
        source: "/dev/sda".into(),
        run: "r".into(),
        engine: "ring".into(),
        partial: tree.is_some(),
        resumed: true,
        stats: Stats { read: 9, hole: 8, zero: 7, unchanged: 6, known: 5, new: 4, stored: 3, metadata: 2 },
        version: "1.0.0".into(),
        nonce: [2; 16],
        tree,
        origin: Some(Origin { repository: RepositoryId::new([4; 16]), snapshot: SnapshotId::new([5; 16]) }),
    }
}

fn sealed() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    fn body<T: records::Record>(which: u8, record: &T) -> Vec<u8> {
        [vec![which], records::encode(record).expect("a seed can be written")].concat()
    }
    let at = Timestamp(1_780_000_000_000_000_000);
    let process = Process { host: "node-1".into(), boot: "b".into(), pid: 7, start: 9 };
    let (volume, nonce) = (VolumeId::new([1; 16]), [2; 16]);
    let open = SessionOpen {
        kind: SessionKind::Write,
        volume,
        name: "vm1".into(),
        parent: Some(SnapshotId::new([3; 16])),
        adopts: vec![SESSION],
        process,
        started: at,
        nonce,
    };
    let list = Generation {
        condemned: vec![data(1), data(2)],
        roots: vec![SESSION],
        dead: vec![SESSION],
        nonce,
        moved: Vec::new(),
    };
    let moved = vec![Moved { pack: data(1), places: vec![0b101] }, Moved { pack: data(2), places: vec![0, 1] }];
    let tree = TreeInfo {
        files: 3,
        folders: 2,
        others: 1,
        missing: 1,
        first_missing: vec![MissingPath { path: b"a/b".to_vec(), errno: 5 }],
        unsettled: 1,
        filesystem: "ext4".into(),
        excluded: vec!["--exclude *.tmp".into()],
        thin: vec![ShortId::new([9; 16])],
    };
    let read = ReadTogether { at, intact: vec![data(1), data(2)], damaged: vec![data(3)] };
    let state = Checked { snapshot: SESSION, said: at, verified: Some(at), damaged: false };
    vec![
        ("records", "open", body(0, &open)),
        ("records", "seen", body(1, &Seen { generation: 3, volume: Some(VolumeId::new([4; 16])) })),
        ("records", "beat", body(2, &Beat { at })),
        ("records", "asked", body(3, &Asked { reason: "old".into(), at, not_before: at, nonce })),
        ("records", "settled", body(4, &Settled { verdict: Verdict::Final, at, nonce })),
        ("records", "sweep", body(5, &Sweep { packs: vec![data(1)], nonce })),
        ("records", "generation", body(8, &list)),
        ("records", "generation-moved", body(8, &Generation { moved, ..list.clone() })),
        ("records", "pinned", body(6, &Pinned { at, nonce })),
        ("records", "unpinned", body(7, &Unpinned { at, nonce })),
        ("records", "snapshot", body(9, &Outcome::Snapshot(Box::new(snapshot(None))))),
        ("records", "snapshot-tree", body(9, &Outcome::Snapshot(Box::new(snapshot(Some(tree)))))),
        ("records", "readings", body(10, &Readings { groups: vec![read] })),
        ("records", "states", body(11, &States { snapshots: vec![state] })),
        ("records", "fence", body(9, &Outcome::Fence(Fence { reason: "silent".into(), at, nonce }))),
    ]
}

/// The lines in the clear of a real repository.
fn clear() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (storage, repository) = in_memory();
    repository.rotate(&[]).expect("the keys can be rotated");
    let mut found = Vec::new();
    for key in keys_of(storage.as_ref()) {
        let bytes = storage.get(&key).expect("it was listed");
        let (which, name) = match key.as_str() {
            "repo.json" => (0, "identity"),
            text if text.starts_with("config/") => (1, "config"),
            text if text.starts_with("keys/epoch") => (3, "epoch"),
            text if text.starts_with("keys/") => (2, "slot"),
            _ => continue,
        };
        found.push(("clear", name, [&[which][..], &bytes].concat()));
    }
    found
}

fn texts() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let text = |target, name, text: &str| (target, name, text.as_bytes().to_vec());
    let id = "0".repeat(32);
    vec![
        text("keys", "seen", &format!("sess/{id}/seen-00000003")),
        text("keys", "snap", &format!("snap/{id}/{id}")),
        text("keys", "forget", &format!("forget/{id}/00000001-settled")),
        text("keys", "list", "gc/gen/00000001-sealed"),
        text("keys", "readings", &format!("checked/packs/{id}-00000002")),
        text("keys", "states", &format!("checked/snaps/{id}")),
        text("keys", "pack", wherry_repo::storage::keys::pack(&data(1)).as_str()),
        text("values", "size", "32M"),
        text("values", "span", "30d"),
        text("values", "percent", "10%"),
        text("values", "tag", "key=value"),
        text("values", "snap", "latest:vm1"),
        text("values", "compression", "zstd:19"),
        text("changed_blocks", "three", "# changed\n0 4096\n8192 100\n1099511627775 1\n"),
        text("exclude", "few", "a/keep.tmp\n*.tmp\n!keep.tmp\n/a/**/b[0-9]?\n# no\n\\!c\nd/"),
        text("exclude", "folder", "a/c/d/\n/a/**/b[0-9]?\nd/"),
    ]
}

/// Each with the name of its target and its own.
///
/// # Panics
/// When one is not what its target reads.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let ours = [trees(), packs(), sealed(), clear(), texts()].concat();
    let theirs =
        [super::crate_seeds::seeds(), super::local::seeds(), super::cluster::seeds(), super::disks::seeds()].concat();
    [ours, theirs, super::state::seeds()].concat()
}
