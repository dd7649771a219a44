//! Trees in a mount, without a kernel, against the trees as they were made.

use super::*;
use std::collections::{BTreeMap, HashMap, HashSet};
use wherry::mount::files;
use wherry::mount::fs::Attributes;
use wherry_tests::made_trees::*;

/// An entry as it should be shown.
struct Expected<'a> {
    node: &'a Node,
    path: String,
    parent: u64,
    /// Number of the directory in which its filesystem begins.
    within: u64,
    children: Vec<u64>,
}

/// All entries of a tree by number: a directory comes before what is in it.
fn expected(root: &Node) -> Vec<Expected<'_>> {
    fn visit<'a>(all: &mut Vec<Expected<'a>>, node: &'a Node, path: String, parent: u64, within: u64) -> u64 {
        let number = all.len() as u64;
        all.push(Expected { node, path: path.clone(), parent, within, children: Vec::new() });
        let below = if matches!(node.what, Made::Folder { boundary: true, .. }) { number } else { within };
        for child in node.nodes() {
            let child_path = format!("{path}/{}", child.name.escape_ascii());
            let child = visit(all, child, child_path, number, below);
            all[number as usize].children.push(child);
        }
        number
    }
    let mut all = Vec::new();
    visit(&mut all, root, String::new(), 0, 0);
    all
}

/// What attributes of an entry are, if the inode has this number.
fn check_attributes(found: &Attributes, all: &[Expected<'_>], asked: u64, index: u64) {
    let (snapshot, entry) = files::split(found.number).unwrap();
    assert_eq!(snapshot, index);
    let (node, as_asked) = (all[entry as usize].node, all[asked as usize].node);
    let path = &all[asked as usize].path;
    if as_asked.links.is_none() || matches!(as_asked.what, Made::Unknown | Made::Folder { .. }) {
        assert_eq!(entry, asked, "{path}");
    } else {
        let inode = |n: u64| (all[n as usize].within, all[n as usize].node.inode);
        assert_eq!(inode(entry), inode(asked), "{path}");
    }
    if let Made::Unknown = node.what {
        assert_eq!((found.kind, found.size, found.permissions, found.links), (Kind::File, 0, 0, 1), "{path}");
        return;
    }
    let folders = |node: &Node| node.nodes().iter().filter(|n| matches!(n.what, Made::Folder { .. })).count() as u64;
    let (kind, size, allocated, links) = match &node.what {
        Made::File(parts) | Made::Image(parts) => {
            let stored = parts.iter().filter(|part| !part.is_hole).map(|part| part.bytes.len()).sum::<usize>();
            (Kind::File, bytes_of(parts).len() as u64, stored as u64, None)
        }
        Made::Unreadable(size) => (Kind::File, *size, *size, None),
        Made::Folder { .. } => (Kind::Folder, 0, 0, Some(2 + folders(node))),
        Made::Link(target) => (Kind::Link, target.len() as u64, 0, None),
        Made::Fifo => (Kind::Fifo, 0, 0, None),
        Made::Socket => (Kind::Socket, 0, 0, None),
        Made::Character(..) => (Kind::Character, 0, 0, None),
        Made::Block(..) => (Kind::Block, 0, 0, None),
        Made::Unknown => unreachable!(),
    };
    let device = match node.what {
        Made::Character(major, minor) | Made::Block(major, minor) => (major, minor),
        _ => (0, 0),
    };
    let links = links.unwrap_or_else(|| node.links.map_or(1, |links| links.get()));
    assert_eq!((found.kind, found.size, found.allocated, found.links), (kind, size, allocated, links), "{path}");
    // What could not be read may have had an ACL.
    let may_lack_acl = matches!(node.what, Made::Unreadable(_)) && node.set.0.is_empty();
    let permissions = if may_lack_acl { node.permissions & 0o700 } else { node.permissions };
    assert_eq!((found.device, found.permissions), (device, permissions), "{path}");
    assert_eq!(found.owner, Some((node.owner, node.group)), "{path}");
    assert_eq!((found.modified, found.changed), (node.modified, node.changed), "{path}");
    assert!(found.lasts);
}

type Names = Vec<(Vec<u8>, u64, Kind)>;

/// Names of a folder from a place on, at most `room` with each call; with attributes or without.
fn listed(fs: &Fs, folder: u64, mut place: u64, room: usize, wanted: bool) -> (Names, Vec<Option<Attributes>>) {
    let (mut names, mut attributes) = (Vec::new(), Vec::new());
    loop {
        let (before, mut left) = (names.len(), room);
        fs.list(folder, place, wanted, |listed| {
            if left == 0 {
                return false;
            }
            left -= 1;
            names.push((listed.name.to_vec(), listed.number, listed.kind));
            attributes.push(listed.attributes.copied());
            assert_eq!(listed.next, place + 1);
            place = listed.next;
            true
        })
        .unwrap();
        if names.len() == before {
            return (names, attributes);
        }
    }
}

fn seek_parts(parts: &[Part], offset: usize, data: bool) -> Result<u64, Fault> {
    let size = bytes_of(parts).len();
    if offset >= size {
        return Err(Fault::Beyond);
    }
    let mut at = 0;
    for part in parts {
        let end = at + part.bytes.len();
        if end > offset && part.is_hole != data {
            return Ok(at.max(offset) as u64);
        }
        at = end;
    }
    if data { Err(Fault::Beyond) } else { Ok(size as u64) }
}

fn check_file(fs: &Fs, number: u64, parts: &[Part], path: &str, state: &mut u64) {
    let bytes = bytes_of(parts);
    let handle = fs.open(number).unwrap();
    let mut ranges = vec![0..bytes.len() + 10];
    ranges.extend((0..6).map(|_| {
        let at = splitmix(state) as usize % (bytes.len() + 100);
        at..at + splitmix(state) as usize % 200_000
    }));
    for range in ranges {
        let expected = bytes.get(range.start..range.end.min(bytes.len())).unwrap_or_default();
        assert!(read(fs, handle, range.clone()).unwrap() == expected, "{path}: {range:?}");
    }
    for data in [true, false] {
        let at = splitmix(state) as usize % (bytes.len() + 100);
        assert_eq!(fs.seek(handle, at as u64, data), seek_parts(parts, at, data), "{path}: {at} {data}");
    }
    fs.close(handle);
}

/// Compares all of a tree with what a mount shows of it, and gives the number of each entry.
fn check_tree(fs: &Fs, snapshot: &Snapshot, root: &Node, seed: u64) -> Vec<u64> {
    let all = expected(root);
    let path = format!("by-id/{}", snapshot.id);
    let top = walk(fs, &format!("{path}/files")).unwrap();
    let (index, zero) = files::split(top).unwrap();
    assert_eq!(zero, 0);
    let snapshot = walk(fs, &path).unwrap();
    let mut state = seed;
    let mut numbers = vec![top];
    for (number, entry) in (0..).zip(&all) {
        let folder = files::number(index, number);
        let Made::Folder { .. } = entry.node.what else { continue };
        let parent = if number == 0 { snapshot } else { files::number(index, entry.parent) };
        assert_eq!(fs.lookup(folder, b"..").unwrap().number, parent, "{}", entry.path);
        let (names, attributes) = listed(fs, folder, 0, 1 + splitmix(&mut state) as usize % 300, true);
        assert_eq!((&names[0].0[..], names[0].1), (&b"."[..], folder));
        assert_eq!((&names[1].0[..], names[1].1), (&b".."[..], parent));
        assert_eq!(names.len(), entry.children.len() + 2, "{}", entry.path);
        for ((name, found, kind), (attributes, child)) in
            names[2..].iter().zip(attributes[2..].iter().zip(&entry.children))
        {
            let attributes = attributes.unwrap();
            assert!(*name == all[*child as usize].node.name, "{}", all[*child as usize].path);
            assert_eq!((*found, *kind), (attributes.number, attributes.kind));
            check_attributes(&attributes, &all, *child, index);
            assert_eq!(fs.lookup(folder, name).unwrap(), attributes);
            assert_eq!(fs.attributes(*found).unwrap(), attributes);
        }
        assert!(listed(fs, folder, 0, usize::MAX, false).0 == names);
        let from = splitmix(&mut state) % (names.len() as u64 + 2);
        assert!(listed(fs, folder, from, 7, false).0 == names.get(from as usize..).unwrap_or_default());
        assert_eq!(fs.lookup(folder, b"no such name"), Err(Fault::NoEntry));
        assert_eq!(fs.open(folder), Err(Fault::IsFolder));
    }
    for (number, entry) in (0..).zip(&all).skip(1) {
        let (node, path) = (entry.node, &entry.path);
        let found = fs.lookup(files::number(index, entry.parent), &node.name).unwrap().number;
        numbers.push(found);
        let of_all = files::number(index, number);
        match &node.what {
            Made::Unknown => {
                assert_eq!(fs.open(found), Err(Fault::Missing), "{path}");
                continue;
            }
            Made::File(parts) | Made::Image(parts) => check_file(fs, found, parts, path, &mut state),
            Made::Unreadable(_) => {
                let handle = fs.open(found).unwrap();
                assert_eq!(read(fs, handle, 0..10), Err(Fault::Missing), "{path}");
                assert_eq!(fs.seek(handle, 0, true), Err(Fault::Missing), "{path}");
                fs.close(handle);
            }
            Made::Link(target) => assert!(fs.read_link(found).unwrap() == *target, "{path}"),
            Made::Folder { .. } => {}
            _ => assert_eq!(fs.open(found), Err(Fault::Invalid), "{path}"),
        }
        if !matches!(node.what, Made::Folder { .. }) {
            assert_eq!(fs.lookup(found, b"x"), Err(Fault::NotFolder));
            assert_eq!(fs.list(found, 0, true, |_| true), Err(Fault::NotFolder));
        }
        assert!(fs.extended(of_all, &mut Scratch::default()).unwrap() == node.set, "{path}");
    }
    assert_eq!(fs.attributes(files::number(index, all.len() as u64)), Err(Fault::NoEntry));
    assert_eq!(fs.attributes(files::number(index + 1, 0)), Err(Fault::NoEntry));
    // Names of one inode have one number, and no others do.
    let mut inodes: BTreeMap<_, HashSet<u64>> = BTreeMap::new();
    for (entry, number) in
        all.iter().zip(&numbers).filter(|(entry, _)| !matches!(entry.node.what, Made::Unknown | Made::Folder { .. }))
    {
        // What differs is not taken for one inode: its number may have been given anew.
        let key = (entry.within, entry.node.inode, entry.node.modified);
        inodes.entry(key).or_default().insert(*number);
    }
    assert!(inodes.values().all(|numbers| numbers.len() == 1));
    let mut distinct: HashMap<u64, usize> = HashMap::new();
    inodes.values().flatten().for_each(|number| *distinct.entry(*number).or_default() += 1);
    assert!(distinct.values().all(|count| *count == 1));
    numbers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn a_mount_shows_trees_as_they_are(seed in any::<u64>()) {
        let (_, repository) = in_memory();
        let tree = made_up(seed, 600);
        backup(&repository, "vm", &disk(1, &[true, false], 5)).unwrap();
        let snapshot = backup_tree(&repository, "tree", &tree).unwrap();
        let (shared, fs) = mounted(&repository);
        let first = check_tree(&fs, &snapshot, &tree, seed);
        prop_assert!(shared.cache.allocated() <= CACHE);
        // Another mount of the same repository gives the same numbers, as it is walked in the same way.
        let (_, again) = mounted(&repository);
        prop_assert_eq!(check_tree(&again, &snapshot, &tree, seed), first);
        // The disk is there as before.
        let handle = fs.open(walk(&fs, "by-volume/vm/latest/disk.raw").unwrap()).unwrap();
        prop_assert!(read(&fs, handle, 0..3 * UNIT).unwrap() == disk(1, &[true, false], 5));
    }
}

#[test]
fn a_large_folder_is_listed_from_any_place() {
    let (_, repository) = in_memory();
    let nodes = (0..3000u32).map(|n| match n % 3 {
        0 => Node::folder(format!("{n:05}").as_bytes(), Vec::new()),
        1 => Node::folder(format!("{n:05}").as_bytes(), vec![Node::file(b"x", vec![n as u8])]),
        _ => Node::file(format!("{n:05}").as_bytes(), n.to_string().into_bytes()),
    });
    let tree = Node::folder(b"", nodes.collect());
    backup_tree(&repository, "tree", &tree).unwrap();
    let (_, fs) = mounted(&repository);
    let top = walk(&fs, "by-volume/tree/latest/files").unwrap();
    let (whole, _) = listed(&fs, top, 0, usize::MAX, false);
    let names: Vec<_> = whole[2..].iter().map(|(name, ..)| String::from_utf8(name.clone()).unwrap()).collect();
    assert!(names.iter().cloned().eq((0..3000).map(|n| format!("{n:05}"))));
    for place in 0..3003 {
        let mut first = None;
        fs.list(top, place, false, |listed| {
            first = Some((listed.name.to_vec(), listed.number, listed.kind));
            false
        })
        .unwrap();
        assert_eq!(first.as_ref(), whole.get(place as usize), "{place}");
    }
    // A small buffer of the kernel meets the end of each node.
    for room in [1, 3, 25] {
        assert!(listed(&fs, top, 0, room, true).0 == whole);
    }
    // What two entries say is what their numbers lead to.
    let number = |name: &str| fs.lookup(top, name.as_bytes()).unwrap().number;
    for n in [1, 2, 2999, 1501] {
        let name = format!("{n:05}");
        let number = if n % 3 == 1 {
            walk(&fs, &format!("by-volume/tree/latest/files/{name}/x")).unwrap()
        } else {
            number(&name)
        };
        let handle = fs.open(number).unwrap();
        let expected = if n % 3 == 1 { vec![n as u8] } else { n.to_string().into_bytes() };
        assert_eq!(read(&fs, handle, 0..100).unwrap(), expected);
    }
}

#[test]
fn links_beyond_the_table_are_files_of_their_own() {
    let (_, repository) = in_memory();
    let nodes = (0..40).map(|n| {
        let mut node = Node::file(format!("{n}").as_bytes(), b"x".to_vec());
        node.links = std::num::NonZeroU64::new(40);
        node
    });
    backup_tree(&repository, "tree", &Node::folder(b"", nodes.collect())).unwrap();
    let shown = |links| {
        let fs = Fs::new(repository.clone(), None, Shared::new(CACHE, 1, 1 << 20).unwrap(), links).unwrap();
        let top = walk(&fs, "by-volume/tree/latest/files").unwrap();
        let (names, attributes) = listed(&fs, top, 0, usize::MAX, true);
        let numbers: HashSet<u64> = names[2..].iter().map(|(_, number, _)| *number).collect();
        let links: HashSet<u64> = attributes[2..].iter().map(|a| a.unwrap().links).collect();
        (numbers.len(), links)
    };
    assert_eq!(shown(LINKS), (1, HashSet::from([40])));
    assert_eq!(shown(0), (40, HashSet::from([1])));
}

#[test]
fn a_number_that_was_given_anew_is_another_inode() {
    let (_, repository) = in_memory();
    // What all names of one inode say alike, and each of them once in another way.
    let one = || {
        let mut node = Node::file(b"a", b"content".to_vec());
        node.links = std::num::NonZeroU64::new(3);
        node
    };
    let mut others = vec![one(), one(), one(), one(), one()];
    others[1].what = Made::File(vec![Part { is_hole: false, bytes: b"longer content".to_vec() }]);
    others[2].modified.seconds += 1;
    others[3].changed.nanoseconds += 1;
    others[4].what = Made::Fifo;
    for (n, node) in others.iter_mut().enumerate() {
        node.name = format!("{n}").into_bytes();
    }
    let alone: Vec<bool> = (0..5).map(|n| n > 0).collect();
    others.push(one());
    backup_tree(&repository, "tree", &Node::folder(b"", others)).unwrap();
    let (_, fs) = mounted(&repository);
    let number = |name: &str| walk(&fs, &format!("by-volume/tree/latest/files/{name}")).unwrap();
    for (n, alone) in alone.into_iter().enumerate() {
        assert_eq!(number(&n.to_string()) != number("a"), alone, "{n}");
    }
}

/// Replaces the bytes in the middle of the one pack of a kind by others.
fn damage(storage: &Memory, kind: &str) {
    let keys: Vec<_> = keys_of(storage).into_iter().filter(|key| key.as_str().starts_with(kind)).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let mut body = storage.get(&keys[0]).unwrap().to_vec();
    // The first chunk.
    body[70] ^= 1;
    replace(storage, &keys[0], body);
}

#[test]
fn damage_is_damage_to_its_own_part_only() {
    let storage = Arc::new(Memory::default());
    let repository = init(storage.clone()).unwrap();
    let large = noise(3, 100_000);
    let tree = || {
        Node::folder(
            b"",
            vec![
                Node::folder(b"a", vec![Node::file(b"small", b"first".to_vec())]),
                Node::folder(b"b", vec![Node::file(b"large", large.clone())]),
            ],
        )
    };
    backup_tree(&repository, "tree", &tree()).unwrap();
    let open = |fs: &Fs, path: &str| fs.open(walk(fs, &format!("by-volume/tree/latest/files/{path}"))?);
    // The first chunk is the shared one.
    damage(&storage, "packs/");
    let (_, fs) = mounted(&repository);
    assert_eq!(read(&fs, open(&fs, "a/small").unwrap(), 0..5), Err(Fault::Repository(ErrorKind::Corrupt)));
    assert!(read(&fs, open(&fs, "b/large").unwrap(), 0..100_000).unwrap() == large);
    // The first node is that of the first directory.
    damage(&storage, "meta/");
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    let (_, fs) = mounted(&repository);
    assert_eq!(open(&fs, "a/small").err(), Some(Fault::Repository(ErrorKind::Corrupt)));
    let folder = walk(&fs, "by-volume/tree/latest/files/a").unwrap();
    let mut seen = Vec::new();
    let mut list = |place| {
        fs.list(folder, place, true, |listed| {
            seen.push(listed.name.to_vec());
            true
        })
    };
    // What came before it was taken, so the kernel asks again from there.
    assert_eq!((list(0), list(2)), (Ok(()), Err(Fault::Repository(ErrorKind::Corrupt))));
    assert_eq!(seen, [b".".to_vec(), b"..".to_vec()]);
    assert!(read(&fs, open(&fs, "b/large").unwrap(), 0..100_000).unwrap() == large);
}

#[test]
fn a_damaged_piece_is_unreadable_and_the_others_are_not() {
    let storage = Arc::new(Memory::default());
    let repository = init(storage.clone()).unwrap();
    // Pieces of 30000 bytes.
    let large = noise(3, 100_000);
    backup_tree(&repository, "tree", &Node::folder(b"", vec![Node::file(b"large", large.clone())])).unwrap();
    damage(&storage, "packs/");
    let (_, fs) = mounted(&repository);
    let handle = fs.open(walk(&fs, "by-volume/tree/latest/files/large").unwrap()).unwrap();
    let corrupt = Err(Fault::Repository(ErrorKind::Corrupt));
    assert_eq!(read(&fs, handle, 0..100_000), corrupt);
    assert_eq!(read(&fs, handle, 29_999..30_001), corrupt);
    assert!(read(&fs, handle, 30_000..100_000).unwrap() == large[30_000..]);
    let short = fs.read(handle, 29_000, 50_000, true, &mut Scratch::default(), <[u8]>::to_vec);
    assert_eq!(short, corrupt, "nothing lies before");
}

#[test]
fn damage_of_a_disk_image_is_an_error_of_its_own_bytes_only() {
    let storage = Arc::new(Memory::default());
    let repository = init(storage.clone()).unwrap();
    // Two leaves of the map, 200 chunks apart, and a hole between them.
    let (first, last) = (noise(3, 2 * UNIT), noise(4, UNIT + 5));
    let parts = [(false, first.clone()), (true, vec![0; 200 * UNIT]), (false, last.clone())];
    let parts: Vec<Part> = parts.into_iter().map(|(is_hole, bytes)| Part { is_hole, bytes }).collect();
    let whole = bytes_of(&parts);
    backup_tree(&repository, "tree", &Node::folder(b"", vec![Node::plain(b"disk", Made::Image(parts))])).unwrap();
    let corrupt = Fault::Repository(ErrorKind::Corrupt);
    let open = |repository: &Repository| {
        let (_, fs) = mounted(repository);
        let handle = fs.open(walk(&fs, "by-volume/tree/latest/files/disk").unwrap()).unwrap();
        (fs, handle)
    };
    let end = 202 * UNIT;
    // The first chunk.
    damage(&storage, "packs/");
    let (fs, handle) = open(&repository);
    assert_eq!(read(&fs, handle, 0..UNIT), Err(corrupt));
    assert_eq!(read(&fs, handle, UNIT - 1..UNIT + 1), Err(corrupt));
    assert!(read(&fs, handle, UNIT..end + 100).unwrap() == whole[UNIT..end + 100]);
    assert_eq!(fs.seek(handle, 0, true), Ok(0), "where data is can still be told");
    // The first node is the first leaf.
    damage(&storage, "meta/");
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    let (fs, handle) = open(&repository);
    for range in [0..1, UNIT..UNIT + 1, 100 * UNIT..100 * UNIT + 1] {
        assert_eq!(read(&fs, handle, range), Err(corrupt));
    }
    assert_eq!(fs.seek(handle, 5, true), Err(corrupt));
    // In the second leaf, in its hole and in its data.
    assert!(read(&fs, handle, 128 * UNIT..whole.len()).unwrap() == whole[128 * UNIT..]);
    assert_eq!(fs.seek(handle, 128 * UNIT as u64, true), Ok(end as u64));
    assert_eq!(fs.seek(handle, end as u64, false), Ok(whole.len() as u64));
    // What holes there are is not known: so none is said to be.
    let shown = fs.attributes(walk(&fs, "by-volume/tree/latest/files/disk").unwrap()).unwrap();
    assert_eq!(shown.allocated, whole.len() as u64);
}

#[test]
fn trees_are_noted_as_being_read_and_a_look_at_their_roots_is_not() {
    let (storage, repository) = in_memory();
    for n in 0..12u8 {
        let tree = Node::folder(b"", vec![Node::file(b"x", vec![n])]);
        backup_tree(&repository, &format!("tree{n}"), &tree).unwrap();
    }
    let noted = || keys_of(&*storage).iter().filter(|key| key.as_str().ends_with("/open")).count() - 12;
    let (_, fs) = mounted(&repository);
    let roots: Vec<_> = (0..12).map(|n| walk(&fs, &format!("by-volume/tree{n}/latest/files")).unwrap()).collect();
    roots.iter().for_each(|root| assert_eq!(fs.attributes(*root).unwrap().kind, Kind::Folder));
    assert_eq!(noted(), 0);
    let held = fs.open(fs.lookup(roots[0], b"x").unwrap().number).unwrap();
    for (n, root) in roots.iter().enumerate() {
        let handle = fs.open(fs.lookup(*root, b"x").unwrap().number).unwrap();
        assert_eq!(read(&fs, handle, 0..10).unwrap(), [n as u8]);
        fs.close(handle);
        assert!(noted() <= 9, "{} after {n}", noted());
    }
    assert_eq!(noted(), 9, "the one that is open and the last ones");
    assert_eq!(read(&fs, held, 0..10).unwrap(), [0]);
    fs.end();
    assert_eq!(noted(), 0);
}
