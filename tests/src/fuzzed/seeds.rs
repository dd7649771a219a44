//! What fuzzing begins with: small, whole, and made by our own encoders.

use crate::small::{in_memory, keys_of};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use wherry_api::job::{Forgetting, JobKind, JobResult, State};
use wherry_api::{Base, UploadPlan, plan};
use wherry_repo::format::checked::{Checked, ReadTogether, Readings, States};
use wherry_repo::format::node::{Node, Slot};
use wherry_repo::format::pack::{self, Header, Index, Trailer};
use wherry_repo::format::records::{
    self, Asked, Beat, Fence, Generation, Outcome, Process, Seen, SessionKind, SessionOpen, Settled, Sweep, Verdict,
};
use wherry_repo::format::segment::{self, PackRows};
use wherry_repo::format::tree::{
    Attributes, Below, Content, Entry, Extended, FOLDER, InodeFlags, Known, LIST, ListNode, PIECE, Piece, Placed, Ref,
    SHARED, Set, Time, Totals, TreeNode, What,
};
use wherry_repo::storage::Storage;
use wherry_repo::{ChunkId, Codec, Location, PackId, PackKind, SessionId, ShortId, SnapshotId, Timestamp, VolumeId};

const SESSION: SessionId = SessionId::new([7; 16]);

fn data(seq: u32) -> PackId {
    PackId { kind: PackKind::Data, session: SESSION, seq, random: 5 }
}

fn placed(class: u8, n: u8) -> Placed {
    let kind = if class < 128 { PackKind::Data } else { PackKind::Meta };
    let pack = PackId { kind, ..data(0) };
    let ordinal = u32::from(n);
    let at = Location { pack, epoch: 1, ordinal, offset: 64 + 1000 * ordinal, len: 1000, codec: Codec::Lz4 };
    let plain = if class < 128 { 4096 } else { 16384 };
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
    ]);
    vec![
        ("tree_node", "leaf", leaf.encode()),
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
    let mut node = Node::new(0);
    for n in [0, 1, 2, 9] {
        let Placed { to, at } = placed(0, n as u8);
        node.set(n, Slot { id: to.id, at });
    }
    vec![
        ("pack_header", "one", header.encode().to_vec()),
        ("pack_index", "three", [&364_u32.to_le_bytes()[..], &bytes].concat()),
        ("pack_trailer", "one", [&size.to_le_bytes()[..], &trailer.encode()].concat()),
        ("segment", "two", segment::encode(&[rows.clone(), PackRows { pack: data(2), ..rows }])),
        ("map_node", "leaf", node.encode()),
    ]
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
        ("records", "readings", body(10, &Readings { groups: vec![read] })),
        ("records", "states", body(11, &States { snapshots: vec![state] })),
        ("records", "fence", body(9, &Outcome::Fence(Fence { reason: "silent".into(), at, nonce }))),
    ]
}

/// The lines in the clear of a real repository.
fn clear() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (storage, _repository) = in_memory();
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
    let upload = UploadPlan {
        version: plan::VERSION,
        cr_uid: "uid".into(),
        attempt: 1,
        snapshot_uid: "su".into(),
        content: "c".into(),
        content_uid: "cu".into(),
        snapshot_handle: "h".into(),
        driver: "d".into(),
        ..UploadPlan::default()
    };
    let completed = wherry_api::Time(1_800_000_000);
    let (cr, pvc) = ("a".to_owned(), "p".to_owned());
    let base = Base { version: plan::VERSION, cr_uid: "uid".into(), completed, cr, pvc, ..Base::default() };
    let mut result =
        JobResult::new(JobKind::Forget, wherry_api::Time(1_800_000_000), State::OnHold, "many are missing".into());
    let missing = [("gone".to_owned(), wherry_api::Time(1_700_000_000))].into();
    result.forgetting = Some(Forgetting { kept: 1, held: 7, missing, ..Forgetting::default() });
    vec![
        text("keys", "seen", &format!("sess/{id}/seen-00000003")),
        text("keys", "snap", &format!("snap/{id}/{id}")),
        text("keys", "forget", &format!("forget/{id}/00000001-settled")),
        text("keys", "list", "gc/gen/00000001-sealed"),
        text("keys", "readings", &format!("checked/packs/{id}-00000002")),
        text("keys", "states", &format!("checked/snaps/{id}")),
        text("keys", "pack", wherry_repo::storage::keys::pack(&data(1)).as_str()),
        text("plans", "upload", &["uid", &upload.print()].join("\n")),
        text("plans", "base", &["uid", &base.print()].join("\n")),
        text("job_result", "forgetting", &result.print()),
        text(
            "kubernetes_objects",
            "upload",
            r#"{"metadata":{"name":"a","uid":"u"},"spec":{"cancel":true},"status":{"phase":"Prepared"}}"#,
        ),
        text("kubernetes_objects", "time", "2026-11-26T13:00:00Z"),
        text("kubernetes_objects", "quantity", "1.5Gi"),
        text("kubernetes_objects", "duration", "4h0m10s"),
        text("values", "size", "32M"),
        text("values", "span", "30d"),
        text("values", "percent", "10%"),
        text("values", "tag", "key=value"),
        text("values", "snap", "latest:vm1"),
        text("changed_blocks", "three", "# changed\n0 4096\n8192 100\n1099511627775 1\n"),
        text("exclude", "few", "*.tmp\n!keep.tmp\n/a/**/b[0-9]?\n"),
    ]
}

/// An MBR with one primary and one logical partition.
fn mbr() -> Vec<u8> {
    let mut disk = vec![0; 16 << 10];
    let mut entry = |at: usize, kind: u8, start: u32, count: u32| {
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    };
    entry(446, 0x83, 1, 4);
    entry(462, 0x05, 8, 16);
    entry(8 * 512 + 446, 0x83, 1, 4);
    for at in [510, 8 * 512 + 510] {
        disk[at..at + 2].copy_from_slice(&[0x55, 0xaa]);
    }
    disk
}

/// Each with the name of its target and its own.
///
/// # Panics
/// When one is not what its target reads.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let disks = vec![("partitions", "mbr", mbr()), ("disk", "mbr", mbr())];
    [trees(), packs(), sealed(), clear(), texts(), disks, super::crate_seeds::seeds(), super::local::seeds()].concat()
}
