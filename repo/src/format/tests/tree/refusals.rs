//! All that a decoder refuses, each for its own reason.

use super::*;

/// `bytes` are refused as damaged, because of `why`.
#[track_caller]
fn refused<T: Debug>(decoded: Result<T>, why: &str) {
    let e = decoded.expect_err(why);
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    assert!(e.to_string().contains(why), "{e}, and not: {why}");
}

fn number(n: u64) -> Vec<u8> {
    let (mut out, mut n) = (Vec::new(), n);
    while n >= 128 {
        out.push(n as u8 | 128);
        n /= 128;
    }
    out.push(n as u8);
    out
}

/// A run as bytes: number of refs, pack, ordinal, offset; each ref 1000 bytes, codec 0.
fn run(refs: u16, pack: u16, ordinal: u32, offset: u32) -> Vec<u8> {
    let head = [&refs.to_le_bytes()[..], &pack.to_le_bytes(), &ordinal.to_le_bytes(), &offset.to_le_bytes()].concat();
    [head, [232, 3, 0, 0].repeat(usize::from(refs))].concat()
}

fn pack(seq: u8, kind: PackKind) -> PackId {
    PackId { kind, session: SessionId::new([7; 16]), seq: u32::from(seq), random: 5 }
}

fn hints(packs: &[PackId], runs: &[Vec<u8>]) -> Vec<u8> {
    let mut out = [(packs.len() as u16).to_le_bytes(), (runs.len() as u16).to_le_bytes()].concat();
    for pack in packs {
        out.extend_from_slice(&pack.to_bytes());
        out.extend_from_slice(&[1, 0, 0, 0]);
    }
    [out, runs.concat()].concat()
}

/// A node as bytes, of refs (first byte of the id, class, length), the rest of the body, and hints.
fn raw(class: u8, refs: &[(u8, u8, u32)], said: &[u8], hints: &[u8]) -> Vec<u8> {
    let mut body = (refs.len() as u16).to_le_bytes().to_vec();
    for (id, class, plain) in refs {
        body.extend_from_slice(&[*id; 16]);
        body.push(*class);
        body.extend_from_slice(&plain.to_le_bytes()[..3]);
    }
    body.extend_from_slice(said);
    [&[1, class, 0, 0][..], &(body.len() as u32).to_le_bytes(), &body, hints].concat()
}

/// A leaf of a list without refs.
fn holes(said: &[u8]) -> Result<ListNode> {
    ListNode::decode(&raw(LIST, &[], said, &[0; 4]))
}

const A: (u8, u8, u32) = (1, PIECE, 1000);
const B: (u8, u8, u32) = (2, PIECE, 1000);
const DATA: PackKind = PackKind::Data;

/// A leaf of a list of two chunks, named as said.
fn two(refs: [(u8, u8, u32); 2], said: &[u8], hints: &[u8]) -> Result<ListNode> {
    ListNode::decode(&raw(LIST, &refs, said, hints))
}

#[test]
fn numbers_not_in_their_shortest_form() {
    let hole = |n: &[u8]| holes(&[&[1, 0, 0][..], n].concat());
    for n in [1, 127, 128, 1 << 40, u64::MAX] {
        assert_eq!(hole(&number(n)).unwrap(), ListNode::Leaf(vec![Piece::Hole(n)]));
    }
    refused(hole(&[0x85, 0]), "shortest");
    refused(hole(&[0x85, 0x80, 0]), "shortest");
    refused(hole(&[&[0xff; 9][..], &[2]].concat()), "too large");
    refused(hole(&[&[0x80; 10][..], &[1]].concat()), "too large");
    refused(hole(&[0x85]), "too early");
}

#[test]
fn heads_and_ends() {
    let good = raw(LIST, &[], &[1, 0, 0, 5], &[0; 4]);
    ListNode::decode(&good).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for (at, byte, why) in [(0, 2, "head"), (0, 0, "head"), (2, 1, "reserved"), (3, 1, "reserved"), (4, 99, "early")] {
        refused(ListNode::decode(&with(at, byte)), why);
        refused(body(&with(at, byte)), why);
    }
    for class in (0..160).chain(192..=255) {
        refused(ListNode::decode(&with(1, class)), "head");
        refused(body(&with(1, class)), "head");
    }
    refused(ListNode::decode(&with(1, FOLDER)), "another class");
    refused(TreeNode::decode(&good), "another class");
    refused(ListNode::decode(&[&good[..], &[0]].concat()), "follow its end");
    refused(holes(&[1, 0, 0, 5, 0]), "follow its end");
    refused(ListNode::decode(&raw(LIST, &[], &vec![0; MAX_BODY - 1], &[0; 4])), "head");
    refused(ListNode::decode(&[&good[..], &vec![0; MAX_NODE as usize]].concat()), "head");
}

#[test]
fn counts() {
    refused(holes(&[0, 0]), "count");
    refused(holes(&[1, 1]), "count");
    refused(holes(&[0, 1]), "too early");
    refused(ListNode::decode(&raw(LIST + 1, &[], &[0, 0], &[0; 4])), "count");
    refused(TreeNode::decode(&raw(FOLDER, &[], &[0, 0, 0, 0], &[0; 4])), "count");
    refused(TreeNode::decode(&raw(FOLDER, &[], &[1, 1, 0, 0], &[0; 4])), "count");
    refused(TreeNode::decode(&raw(FOLDER + 1, &[], &[1, 1, 0, 0], &[0; 4])), "count");
    refused(ListNode::decode(&[&[1, LIST, 0, 0, 4, 0, 0, 0][..], &[1, 0x21, 0, 0], &[0; 4]].concat()), "count");
    refused(ListNode::decode(&[&[1, LIST, 0, 0, 4, 0, 0, 0][..], &[0, 0x21, 0, 0], &[0; 4]].concat()), "too early");
    refused(Set::decode(&[0, 0]), "count");
    refused(Set::decode(&[0xff, 0xff, 0, 0]), "too early");
    let chunk = Piece::Chunk(placed(PIECE, 1));
    assert!(ListNode::decode(&ListNode::Leaf(vec![chunk; 256]).encode()).is_ok());
    for bad in [ListNode::Leaf(vec![]), ListNode::Leaf(vec![chunk; 257])] {
        assert!(bad.fault().is_some());
        refused(ListNode::decode(&bad.encode()), "count");
    }
}

#[test]
fn refs_not_in_order_twice_unused_or_of_no_class() {
    let in_a_row = hints(&[pack(1, DATA)], &[run(2, 0, 3, 64)]);
    two([A, B], &[2, 0, 1, 2], &in_a_row).unwrap();
    two([A, B], &[3, 0, 1, 2, 1], &in_a_row).unwrap();
    refused(two([A, B], &[2, 0, 2, 1], &in_a_row), "first use");
    refused(two([A, B], &[2, 0, 1, 3], &in_a_row), "first use");
    refused(two([A, B], &[2, 0, 1, 1], &in_a_row), "not used");
    refused(two([A, A], &[2, 0, 1, 2], &in_a_row), "twice");
    refused(two([A, (1, PIECE, 999)], &[2, 0, 1, 2], &in_a_row), "twice");
    refused(two([A, (1, SHARED, 1000)], &[2, 0, 1, 2], &in_a_row), "another class");
    refused(two([A, (2, PIECE, 0)], &[2, 0, 1, 2], &in_a_row), "unknown class or a length");
    for class in 0..=255 {
        let most = max_plain(class);
        let why = "unknown class or a length";
        refused(two([A, (2, class, most.unwrap_or(0) + 1)], &[2, 0, 1, 2], &in_a_row), why);
    }
    // Many are looked at in another way.
    let mut many: Vec<_> = (1..=20).map(|id| (id, PIECE, 1000)).collect();
    let said = [&[20, 0][..], &(1..=20).collect::<Vec<u8>>()].concat();
    let in_a_row = hints(&[pack(1, DATA)], &[run(20, 0, 3, 64)]);
    ListNode::decode(&raw(LIST, &many, &said, &in_a_row)).unwrap();
    many[17] = (3, PIECE, 900);
    refused(ListNode::decode(&raw(LIST, &many, &said, &in_a_row)), "twice");
}

#[test]
fn hints_that_are_not_the_only_ones() {
    let (one, other) = (pack(1, DATA), pack(2, DATA));
    let with = |packs: &[PackId], runs: &[Vec<u8>]| two([A, B], &[2, 0, 1, 2], &hints(packs, runs));
    with(&[one, other], &[run(1, 0, 3, 64), run(1, 1, 4, 1064)]).unwrap();
    with(&[one], &[run(1, 0, 3, 64), run(1, 0, 4, 1065)]).unwrap();
    with(&[one], &[run(1, 0, 3, 64), run(1, 0, 5, 1064)]).unwrap();
    refused(with(&[one], &[run(1, 0, 3, 64), run(1, 0, 4, 1064)]), "could be continued");
    refused(with(&[one, other], &[run(1, 1, 3, 64), run(1, 0, 4, 64)]), "first use");
    refused(with(&[one, other], &[run(1, 0, 3, 64), run(1, 0, 9, 64)]), "its packs");
    refused(with(&[one, other], &[run(2, 0, 3, 64)]), "as many as");
    refused(with(&[one, one], &[run(1, 0, 3, 64), run(1, 1, 9, 64)]), "a pack is there twice");
    refused(with(&[one], &[run(1, 1, 3, 64), run(1, 0, 9, 64)]), "first use");
    refused(with(&[one], &[run(1, 0, 3, 64)]), "as many as");
    refused(with(&[one], &[run(1, 0, 3, 64), vec![0; 4]]), "as many as");
    refused(with(&[one], &[[run(0, 0, 1, 64), run(2, 0, 3, 64)].concat(), vec![]]), "do not cover");
    refused(with(&[one], &[run(3, 0, 3, 64)]), "do not cover");
    refused(with(&[one], &[run(2, 0, 3, 64), run(1, 0, 9, 64)]), "do not cover");
    refused(with(&[one], &[run(2, 0, 3, 64), run(0, 0, 9, 64)]), "do not cover");
    refused(with(&[], &[]), "as many as");
    refused(with(&[one, other, pack(3, DATA)], &[run(2, 0, 3, 64)]), "count");
    refused(with(&[pack(1, PackKind::Meta)], &[run(2, 0, 3, 64)]), "other kind");
    refused(with(&[one], &[run(2, 0, u32::MAX, 64)]), "ordinal");
    refused(with(&[one], &[run(2, 0, 3, u32::MAX - 1500)]), "offset");
    with(&[one], &[run(2, 0, u32::MAX - 1, u32::MAX - 2000)]).unwrap();
    let mut codec = run(2, 0, 3, 64);
    codec[15] = 3;
    refused(with(&[one], &[codec]), "codec");
    let mut kind = hints(&[one], &[run(2, 0, 3, 64)]);
    kind[4] = 2;
    refused(two([A, B], &[2, 0, 1, 2], &kind), "kind of pack");
    refused(two([A, B], &[2, 0, 1, 2], &[&hints(&[one], &[run(2, 0, 3, 64)])[..], &[0]].concat()), "follow its end");
    // The length of a node stands among the hints.
    let node = |kind, said: u32, len: u32| {
        let run = [&run(1, 0, 3, 64)[..], &len.to_le_bytes()[..3]].concat();
        ListNode::decode(&raw(LIST + 1, &[(1, LIST, said)], &[1, 0, 0, 5], &hints(&[pack(1, kind)], &[run])))
    };
    node(PackKind::Meta, 0, 9).unwrap();
    refused(node(DATA, 0, 9), "other kind");
    refused(node(PackKind::Meta, 9, 9), "a length that its class");
    refused(node(PackKind::Meta, 0, 0), "a length that its class");
    refused(node(PackKind::Meta, 0, (2 << 20) + 1), "a length that its class");
}

/// Attributes that say little, of this owner.
fn row(owner: u8) -> Vec<u8> {
    [&[0xa4, 1, owner][..], &[0; 11]].concat()
}

/// An entry as bytes: name, type, flags, attributes, times and inode zero, then `more`.
fn entry(name: &[u8], kind: u8, flags: u8, row: u8, more: &[u8]) -> Vec<u8> {
    [&[name.len() as u8][..], name, &[kind, flags, row], &[0; 25], more].concat()
}

fn leaf(rows: &[Vec<u8>], entries: &[Vec<u8>]) -> Result<TreeNode> {
    let count = |of: &[Vec<u8>]| (of.len() as u16).to_le_bytes().to_vec();
    let said = [count(rows), rows.concat(), count(entries), entries.concat()].concat();
    TreeNode::decode(&raw(FOLDER, &[], &said, &[0; 4]))
}

#[test]
fn attributes_not_in_order_twice_or_unused() {
    let fifo = |name: &[u8], row| entry(name, 4, 0, row, &[]);
    leaf(&[row(1), row(2)], &[fifo(b"a", 0), fifo(b"b", 1), fifo(b"c", 0)]).unwrap();
    refused(leaf(&[row(1), row(2)], &[fifo(b"a", 1), fifo(b"b", 0)]), "first use");
    refused(leaf(&[row(1)], &[fifo(b"a", 0), fifo(b"b", 1)]), "first use");
    refused(leaf(&[row(1), row(2)], &[fifo(b"a", 0)]), "attributes are not used");
    refused(leaf(&[row(1), row(1)], &[fifo(b"a", 0), fifo(b"b", 1)]), "attributes are there twice");
    let mut extended = row(1);
    extended[13] = 3;
    refused(leaf(&[extended], &[fifo(b"a", 0)]), "unknown place");
    // A set that is shorter or longer than it says.
    let set = [&[1, 0, 1, b'x', 1, 0, 0, 0, b'v'][..], &[0]].concat();
    for (len, why) in [(8u8, "too early"), (9, ""), (10, "follow its end")] {
        let here = [&row(1)[..13], &[1, len, 0], &set[..usize::from(len)]].concat();
        match leaf(&[here], &[fifo(b"a", 0)]) {
            Ok(_) => assert_eq!(why, ""),
            bad => refused(bad, why),
        }
    }
}

#[test]
fn types_flags_and_contents_that_are_not_listed() {
    let one = |kind, flags, more: &[u8]| leaf(&[row(1)], &[entry(b"a", kind, flags, 0, more)]);
    one(1, 0, &[0, 0]).unwrap();
    one(1, 8, &[0, 0]).unwrap();
    one(2, 4, &[0]).unwrap();
    for kind in 8..=255 {
        refused(one(kind, 0, &[]), "unknown type");
    }
    for bit in 4..8 {
        refused(one(4, 1 << bit, &[]), "flag");
    }
    for kind in [1, 3, 4, 5, 6, 7] {
        refused(one(kind, 4, &[0; 8]), "flag");
    }
    refused(one(2, 1, &[2, 0]), "flag of others");
    refused(one(2, 8, &[0]), "flag of others");
    refused(one(1, 0, &[0, 5]), "unknown content");
    refused(one(2, 0, &[2]), "unknown content");
    refused(one(4, 1, &[0]), "no name");
    refused(one(4, 1, &[1]), "one name");
    one(4, 1, &[2]).unwrap();
    refused(one(4, 2, &[0]), "error");
    refused(one(4, 2, &number(1 << 32)), "error");
    one(4, 2, &number(u32::MAX.into())).unwrap();
    refused(one(1, 2, &[]), "too early");
    let unknown = |errno: &[u8]| leaf(&[], &[[&[1, b'a', 0], errno].concat()]);
    unknown(&[13]).unwrap();
    refused(unknown(&[0]), "error");
    refused(unknown(&[]), "too early");
    refused(one(1, 0, &[5, 2, 33]), "pieces");
    refused(one(1, 0, &[5, 2, 0]), "pieces");
    refused(one(3, 0, &[0, 0]), "target");
}

/// A node with one entry that `change` made wrong.
#[track_caller]
fn wrong(why: &str, change: impl Fn(&mut Known)) {
    let attributes = Arc::new(Attributes {
        permissions: 0o644,
        owner: 1,
        group: 2,
        owner_name: b"one".to_vec(),
        group_name: Vec::new(),
        flags: InodeFlags(0),
        extended: Extended::None,
    });
    let time = Time { seconds: -5, nanoseconds: 999_999_999 };
    let mut known = Known {
        name: b"name".to_vec(),
        attributes,
        modified: time,
        changed: time,
        inode: 5,
        links: None,
        missing: None,
        unsettled: false,
        what: What::Fifo,
    };
    let node = |known: &Known| TreeNode::Leaf(vec![Entry::Known(Box::new(known.clone()))]);
    assert_eq!(TreeNode::decode(&node(&known).encode()).unwrap(), node(&known));
    change(&mut known);
    assert!(node(&known).fault().is_some_and(|fault| fault.contains(why)), "{:?}, not {why}", node(&known).fault());
    refused(TreeNode::decode(&node(&known).encode()), why);
}

#[test]
fn names_times_and_attributes_that_are_not_allowed() {
    for name in ["", ".", "..", "a/b", "/", "a\0"] {
        wrong("name", |known| known.name = name.into());
        assert!(!is_name(name.as_bytes()));
    }
    assert!(is_name(&[b'n'; 255]) && !is_name(&[b'n'; 256]) && is_name(b"..."));
    wrong("nanoseconds", |known| known.modified.nanoseconds = 1_000_000_000);
    wrong("nanoseconds", |known| known.changed.nanoseconds = u32::MAX);
    let attributes = |why, change: &dyn Fn(&mut Attributes)| {
        wrong(why, |known| change(Arc::make_mut(&mut known.attributes)));
    };
    attributes("permissions", &|row| row.permissions = 0o10000);
    attributes("inode flags", &|row| row.flags = InodeFlags(8));
    attributes("owner", &|row| row.owner_name = b"a\0".to_vec());
    attributes("owner", &|row| row.group_name = b"a\0".to_vec());
    let set = |why, set: &[(&[u8], usize)]| {
        let set = Set(set.iter().map(|(name, len)| (name.to_vec(), vec![0; *len])).collect());
        attributes(why, &|row| row.extended = Extended::Here(set.clone()));
        set
    };
    set("name", &[(b"b", 1), (b"a", 1)]);
    set("name", &[(b"a", 1), (b"a", 2)]);
    set("name", &[(b"", 1)]);
    set("name", &[(b"a\0", 1)]);
    set("a long set", &[(b"a", MAX_HERE - 7)]);
    attributes("a short set", &|row| {
        let mut chunk = placed(ATTRIBUTES, 1);
        chunk.to.plain = MAX_HERE as u32;
        row.extended = Extended::Chunk(chunk);
    });
    attributes("another class", &|row| row.extended = Extended::Chunk(placed(PIECE, 1)));
}

#[test]
fn sets_that_are_not_allowed() {
    let set = |values: &[usize]| {
        let name = |n: usize| format!("user.{n:03}").into_bytes();
        Set(values.iter().enumerate().map(|(n, len)| (name(n), vec![1; *len])).collect())
    };
    Set::decode(&set(&[MAX_VALUE; 15]).encode()).unwrap();
    for (bad, why) in [(set(&[MAX_VALUE + 1]), "value"), (set(&[MAX_VALUE; 16]), "too long"), (set(&[]), "none")] {
        assert!(bad.fault().is_some_and(|fault| fault.contains(why)), "{:?}", bad.fault());
        refused(Set::decode(&bad.encode()), if why == "none" { "count" } else { why });
    }
}

#[test]
fn contents_that_do_not_fit() {
    let file = |why, size, content: Content| {
        wrong(why, |known| known.what = What::File { size, content: content.clone() });
    };
    let chunk = |class, plain| {
        let placed = placed(class, 1);
        Placed { to: Ref { plain, ..placed.to }, ..placed }
    };
    let shared = |offset| Content::Shared { chunk: chunk(SHARED, 100_000), offset };
    assert_eq!(shared(34_464).fault(65_536), None);
    file("no bytes", 0, shared(5));
    file("outside", 65_536, shared(34_465));
    file("outside", 1, shared(u32::MAX));
    file("too long", 65_537, shared(0));
    file("another class", 5, Content::Shared { chunk: chunk(PIECE, 1000), offset: 0 });
    let data = Piece::Chunk(chunk(PIECE, 1000));
    let pieces = |pieces: &[Piece]| Content::Pieces(pieces.to_vec());
    assert_eq!(pieces(&[data, Piece::Hole(1), data]).fault(2001), None);
    file("add up", 2000, pieces(&[data, Piece::Hole(1), data]));
    file("add up", 999, pieces(&[data, Piece::Hole(u64::MAX)]));
    file("two holes", 1002, pieces(&[data, Piece::Hole(1), Piece::Hole(1)]));
    file("no bytes", 1000, pieces(&[data, Piece::Hole(0)]));
    file("is all", 5, pieces(&[Piece::Hole(5)]));
    file("limit", 33_000, pieces(&[data; 33]));
    file("another class", 1000, pieces(&[Piece::Chunk(chunk(SHARED, 1000))]));
    file("another class", 1000, Content::List(chunk(FOLDER, 1000)));
    file("no bytes", 0, Content::List(chunk(LIST, 1000)));
    let map = |class, levels, top| Content::Map { class, levels, top: chunk(top, 1000) };
    assert_eq!(map(16, 1, 128).fault(1 << 23), None);
    file("levels", 1 + (1 << 23), map(16, 1, 128));
    file("levels", 1 << 23, map(16, 2, 129));
    file("levels", 1 << 23, map(15, 1, 128));
    file("levels", 1 << 23, map(23, 1, 128));
    file("another class", 1 << 23, map(16, 1, 129));
    file("no bytes", 0, map(16, 1, 128));
    let below = |class, entries| Below { node: chunk(class, 1000), entries, totals: Totals::default() };
    for (why, below) in [("another class", below(LIST, 1)), ("empty", below(FOLDER, 0))] {
        wrong(why, |known| known.what = What::Folder { boundary: false, below: Some(below) });
    }
    wrong("target", |known| known.what = What::Link(Vec::new()));
    wrong("target", |known| known.what = What::Link(vec![b't'; 4096]));
    wrong("target", |known| known.what = What::Link(b"a\0b".to_vec()));
}

#[test]
fn names_that_do_not_ascend_and_children_that_do_not_fit() {
    let unknown = |name: &str| Entry::Unknown { name: name.into(), errno: NonZeroU32::MIN };
    let leaf = |names: &[&str]| TreeNode::Leaf(names.iter().map(|name| unknown(name)).collect());
    TreeNode::decode(&leaf(&["a", "a.", "b"]).encode()).unwrap();
    let child =
        |first: &str| Child { first: first.into(), node: placed(FOLDER, 1), entries: 1, totals: Totals::default() };
    let inner = |names: &[&str]| TreeNode::Inner { height: 1, children: names.iter().map(|n| child(n)).collect() };
    TreeNode::decode(&inner(&["a", "b"]).encode()).unwrap();
    let empty = Child { entries: 0, ..child("a") };
    let high = Child { node: placed(FOLDER + 1, 1), ..child("a") };
    for (why, bad) in [
        ("ascend", leaf(&["b", "a"])),
        ("ascend", leaf(&["a", "a"])),
        ("ascend", inner(&["b", "a"])),
        ("ascend", inner(&["a", "a"])),
        ("not allowed", inner(&["."])),
        ("without entries", TreeNode::Inner { height: 1, children: vec![empty] }),
        ("another class", TreeNode::Inner { height: 1, children: vec![high] }),
    ] {
        assert!(bad.fault().is_some_and(|fault| fault.contains(why)), "{bad:?}: {:?}", bad.fault());
        refused(TreeNode::decode(&bad.encode()), why);
    }
    assert!(TreeNode::Inner { height: 16, children: vec![child("a")] }.fault().is_some());
    let top = |n: u8, bytes| (placed(LIST + n, 1), bytes);
    for (why, children) in [
        ("another class", vec![top(1, 5)]),
        ("without bytes", vec![top(0, 0)]),
        ("more bytes", vec![top(0, u64::MAX), top(0, 1)]),
    ] {
        let bad = ListNode::Inner { height: 1, children };
        assert!(bad.fault().is_some_and(|fault| fault.contains(why)), "{bad:?}: {:?}", bad.fault());
        refused(ListNode::decode(&bad.encode()), why);
    }
}

#[test]
fn what_is_no_root() {
    let root = samples(root(), 1).remove(0);
    let with = |change: &dyn Fn(&mut Known)| {
        let mut bad = root.clone();
        change(&mut bad);
        refused(Known::decode_root(&encode_root(&bad)), "does not hold a root");
    };
    with(&|root| root.name = b"a".to_vec());
    with(&|root| root.what = What::Fifo);
    let unknown = Entry::Unknown { name: Vec::new(), errno: NonZeroU32::MAX };
    refused(Known::decode_root(&TreeNode::Leaf(vec![unknown]).encode()), "does not hold a root");
    let two = TreeNode::Leaf(vec![Entry::Known(Box::new(root)), samples(entries(1), 1).remove(0).remove(0)]);
    refused(Known::decode_root(&two.encode()), "count");
    let inner = samples(node(), 20).into_iter().find(|node| node.class() != FOLDER).unwrap();
    refused(Known::decode_root(&inner.encode()), "another class");
}
