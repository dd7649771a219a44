//! Everything that reads bytes from outside, one function for each kind: what `scripts/fuzz` calls with made-up bytes, and
//! `tests/tests/fuzzed.rs` with those in `fuzz/corpus`. None may panic, and each says what else must hold.

mod cluster;
mod crate_seeds;
mod crates;
mod disks;
mod local;
pub mod panics;
mod patterns;
pub mod seeds;
mod state;

use std::ffi::CStr;
use std::fmt::{Debug, Display};
use std::ops::Range;
use std::str::FromStr;
use wherry::backup::ChangedBlocks;
use wherry::cli::{Compression, Parent, Percent, Rate, Size, Span, Tag, VolumeName};
use wherry::select::SnapSpec;
use wherry_repo::ErrorKind;
use wherry_repo::format::checked::{Readings, States};
use wherry_repo::format::clear::{self, Config, Epoch, Identity, KeySlot};
use wherry_repo::format::node::Node;
use wherry_repo::format::pack::{Header, Index, Trailer};
use wherry_repo::format::records::{
    self, Asked, Beat, Generation, Outcome, Pinned, Record, Seen, SessionOpen, Settled, Sweep, Unpinned,
};
use wherry_repo::format::segment;
use wherry_repo::format::tree::{Entry, Known, ListNode, Set, TreeNode};
use wherry_repo::storage::{Key, keys};

/// Reads bytes as one kind, and says whether they are that; panics when what it has read is not as it must be.
pub type Target = fn(&[u8]) -> bool;

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 36] = [
    ("archived", local::archived),
    ("attributes", attributes),
    ("block_answers", crates::block_answers),
    ("changed_blocks", changed_blocks),
    ("clear", clear_lines),
    ("cluster_state", state::cluster_state),
    ("config_file", crates::config_file),
    ("disk", disks::disk),
    ("exclude", patterns::exclude),
    ("glob", patterns::glob),
    ("index_values", local::index_values),
    ("job_result", cluster::job_result),
    ("key_bundle", crates::key_bundle),
    ("key_slot", crates::key_slot),
    ("keys", names),
    ("kubernetes_answers", crates::kubernetes_answers),
    ("kubernetes_objects", cluster::objects),
    ("list_node", list_node),
    ("local_texts", local::local_texts),
    ("location", crates::location),
    ("map_node", map_node),
    ("mounts", crates::mounts),
    ("pack_header", pack_header),
    ("pack_index", pack_index),
    ("pack_trailer", pack_trailer),
    ("packed", crates::packed),
    ("partitions", disks::partition_table),
    ("plans", cluster::plans),
    ("records", record),
    ("segment", index_segment),
    ("settings", crates::settings),
    ("storage_texts", crates::storage_texts),
    ("tree_node", tree_node),
    ("tree_root", tree_root),
    ("urls", local::urls),
    ("values", values),
];

/// The target of this name.
///
/// # Panics
/// There is none.
pub fn target(name: &str) -> Target {
    TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("there is no target {name}")).1
}

/// What was read is written as it was: there is one way to say it.
fn same(written: impl AsRef<[u8]>, read: &[u8]) {
    assert_eq!(written.as_ref(), read, "it was read, and is written in another way");
}

fn pack_header(bytes: &[u8]) -> bool {
    let Ok(header) = Header::decode(bytes) else { return false };
    same(header.encode(), bytes);
    true
}

/// The first eight bytes say how long the object is.
fn pack_trailer(bytes: &[u8]) -> bool {
    let Some((size, bytes)) = bytes.split_first_chunk() else { return false };
    let size = u64::from_le_bytes(*size);
    // As it is, and with the checksum that it should have, behind which nothing else would ever be reached.
    let mended = bytes.split_at_checked(60).map(|(body, rest)| {
        let sum = clear::checksum(body).to_le_bytes();
        if rest.len() == sum.len() { [body, &sum].concat() } else { bytes.to_vec() }
    });
    trailer(bytes, size) | mended.is_some_and(|mended| trailer(&mended, size))
}

fn trailer(bytes: &[u8], size: u64) -> bool {
    let Ok(trailer) = Trailer::decode(bytes, size) else { return false };
    same(trailer.encode(), bytes);
    assert!(u64::from(trailer.index_offset) + u64::from(trailer.index_len) < size, "the index is in the pack");
    true
}

/// The first four bytes say where the index begins.
fn pack_index(bytes: &[u8]) -> bool {
    let Some((end, bytes)) = bytes.split_first_chunk() else { return false };
    let end = u32::from_le_bytes(*end);
    let Ok(index) = Index::decode(bytes, end) else { return false };
    same(index.encode(), bytes);
    assert!(index.entries.iter().all(|entry| entry.offset + entry.len <= end), "a chunk lies before the index");
    true
}

fn index_segment(bytes: &[u8]) -> bool {
    let Ok(packs) = segment::decode(bytes) else { return false };
    same(segment::encode(&packs), bytes);
    assert!(packs.iter().all(|rows| rows.locations().count() == rows.chunks.len()));
    true
}

fn map_node(bytes: &[u8]) -> bool {
    let Ok(node) = Node::decode(bytes) else { return false };
    same(node.encode(), bytes);
    true
}

fn tree_node(bytes: &[u8]) -> bool {
    let Ok(node) = TreeNode::decode(bytes) else { return false };
    same(node.encode(), bytes);
    assert_eq!(node.fault(), None, "a reader takes what a writer would not make");
    true
}

fn tree_root(bytes: &[u8]) -> bool {
    let Ok(root) = Known::decode_root(bytes) else { return false };
    same(TreeNode::Leaf(vec![Entry::Known(Box::new(root))]).encode(), bytes);
    true
}

fn list_node(bytes: &[u8]) -> bool {
    let Ok(node) = ListNode::decode(bytes) else { return false };
    same(node.encode(), bytes);
    assert_eq!(node.fault(), None, "a reader takes what a writer would not make");
    true
}

/// A set, which the kernel tells as it is, or a list of names as the kernel gives it.
fn attributes(bytes: &[u8]) -> bool {
    let is_list = local::attribute_names(bytes);
    let Ok(set) = Set::decode(bytes) else { return is_list };
    same(set.encode(), bytes);
    assert_eq!(set.encoded_len(), bytes.len());
    let list: Vec<u8> = set.0.iter().flat_map(|(name, _)| [name, &[0][..]].concat()).collect();
    let value =
        |wanted: &CStr| set.0.iter().find(|(name, _)| name == wanted.to_bytes()).map(|(_, value)| value.clone());
    assert_eq!(wherry::decoders::attributes(&list, value).as_ref(), Ok(&set), "a backup sees it as another");
    true
}

/// CBOR has many ways to say the same: what was read is read again from how it is written.
fn again<T: Record + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(read) = records::decode::<T>(bytes) else { return false };
    let written = records::encode(&read).expect("what was read can be written");
    assert_eq!(records::decode::<T>(&written).expect("what was written can be read"), read);
    true
}

/// The first byte says which record.
fn record(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    match which % 12 {
        0 => again::<SessionOpen>(bytes),
        1 => again::<Seen>(bytes),
        2 => again::<Beat>(bytes),
        3 => again::<Asked>(bytes),
        4 => again::<Settled>(bytes),
        5 => again::<Sweep>(bytes),
        6 => again::<Pinned>(bytes),
        7 => again::<Unpinned>(bytes),
        8 => again::<Generation>(bytes),
        9 => again::<Outcome>(bytes),
        10 => again::<Readings>(bytes),
        _ => again::<States>(bytes),
    }
}

/// The first byte says which of the lines that are not sealed.
fn clear_lines(bytes: &[u8]) -> bool {
    fn line<T: clear::Clear>(bytes: &[u8]) -> bool {
        // Behind the checksum too.
        if let Ok(object) = serde_json::from_slice::<T>(bytes) {
            let written = clear::encode(&object).expect("what was read can be written");
            let read = match clear::decode::<T>(&written) {
                // Of a format to come.
                Err(e) if e.kind() == ErrorKind::Unsupported => return true,
                read => read.expect("what was written can be read"),
            };
            same(clear::encode(&read).expect("what was read can be written"), &written);
        }
        let Ok(read) = clear::decode::<T>(bytes) else { return false };
        same(clear::encode(&read).expect("what was read can be written"), bytes);
        true
    }
    let Some((which, bytes)) = bytes.split_first() else { return false };
    match which % 4 {
        0 => line::<Identity>(bytes),
        1 => line::<Config>(bytes),
        2 => line::<KeySlot>(bytes),
        _ => line::<Epoch>(bytes),
    }
}

/// A key that is taken for the name of something is the name that this has.
fn names(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(key) = Key::new(text) else { return false };
    let mut found = false;
    let mut is = |made: Option<Key>| {
        found |= made.is_some();
        assert!(made.is_none_or(|made| made == key), "{key} is no name that is ever made");
    };
    is(keys::parse_pack(&key).map(|id| keys::pack(&id)));
    is(keys::parse_segment(&key).map(|(id, k)| keys::segment(&id, k)));
    is(keys::parse_session(&key).map(|(id, part)| keys::session(&id, part)));
    is(keys::parse_snap(&key).map(|(volume, id)| keys::snap(&volume, &id)));
    is(keys::parse_forget(&key).map(|(id, k, settled)| keys::forget(&id, k, settled)));
    is(keys::parse_pin(&key).map(|(id, k, unpinned)| keys::pin(&id, k, unpinned)));
    is(keys::parse_generation(&key).map(|(n, sealed)| if sealed { keys::sealed(n) } else { keys::generation(n) }));
    is(keys::parse_readings(&key).map(|(check, k)| keys::readings(&check, k)));
    is(keys::parse_states(&key).map(|check| keys::states(&check)));
    is(keys::parse_lead(&key).map(|id| keys::lead(&id)));
    is(keys::parse_epoch(&key).map(keys::epoch));
    is(keys::parse_config(&key).map(keys::config));
    found
}

/// Sizes, times and names as people write them.
fn values(bytes: &[u8]) -> bool {
    fn shown<T: FromStr<Err = String> + Display>(text: &str) -> bool {
        let Ok(value) = T::from_str(text) else { return false };
        let shown = value.to_string();
        let again = T::from_str(&shown).map(|again| again.to_string());
        assert_eq!(again.as_ref(), Ok(&shown), "{text:?} is shown as what means something else");
        true
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let (size, span, name) = (shown::<Size>(text), shown::<Span>(text), shown::<VolumeName>(text));
    let snap = shown::<SnapSpec>(text);
    let percent = Percent::from_str(text);
    if let Ok(Percent(percent)) = &percent {
        assert!((0.0..=100.0).contains(percent), "{text:?} is {percent} %");
    }
    let rate = Rate::from_str(text).ok().map(|Rate(bytes)| bytes);
    assert_eq!(rate, Size::from_str(text).ok().map(|Size(bytes)| bytes).filter(|bytes| *bytes > 0), "{text:?}");
    let compression = Compression::from_str(text);
    assert!(!matches!(compression, Ok(Compression::Zstd(level)) if !(1..=19).contains(&level)), "{text:?}");
    match Parent::from_str(text) {
        Ok(Parent::Snap(parent)) => assert_eq!(SnapSpec::from_str(text), Ok(parent)),
        Ok(_) => assert!(matches!(text, "auto" | "none")),
        Err(_) => assert!(!snap, "{text:?} is a snapshot"),
    }
    size || span || name || snap || compression.is_ok() || percent.is_ok() || Tag::from_str(text).is_ok()
}

/// Lists of changed blocks: what they say to read and what they leave out is all there is, once.
fn changed_blocks(bytes: &[u8]) -> bool {
    const SIZE: u64 = 1 << 40;
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(list) = ChangedBlocks::parse("list", text) else { return false };
    assert!(list.ranges().iter().all(|range| range.start < range.end));
    assert!(list.ranges().windows(2).all(|pair| pair[0].end < pair[1].start), "ranges ascend and do not touch");
    let rounded = list.rounded(4 << 20, SIZE, SIZE - 1);
    let changed: u64 = rounded.ranges().iter().map(|range| range.end - range.start).sum();
    let left: u64 = rounded.gaps(SIZE).iter().map(|gap| gap.end - gap.start).sum();
    assert_eq!(changed + left, SIZE, "what is read and what is left out is all there is");
    let is_read =
        |r: &Range<u64>| rounded.ranges().iter().any(|read| read.start <= r.start && r.end.min(SIZE) <= read.end);
    assert!(list.ranges().iter().filter(|r| r.start < SIZE).all(is_read), "what is named is read");
    true
}
