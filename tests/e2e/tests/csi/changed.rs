//! Allocated and changed blocks, compared with what a full read says.

use crate::lab::{BLOCK, Lab, MIB, refused};
use crate::volumes::write;
use std::fs;
use tonic::{Code, Status};
use wherry_e2e::csi::{self, *};

const BLOCK_SIZE: u64 = 65536;

/// The ranges that a stream told, and how it ended.
type Told = (Vec<(u64, u64)>, Option<Status>);

fn told((messages, error): (Vec<Metadata>, Option<Status>)) -> Told {
    let ranges = messages.iter().flat_map(|message| &message.block_metadata);
    (ranges.map(|range| (range.byte_offset as u64, range.size_bytes as u64)).collect(), error)
}

fn allocated(lab: &Lab, snapshot: &str, from: u64, most: i32) -> Told {
    let request = GetMetadataAllocatedRequest {
        snapshot_id: snapshot.to_owned(),
        starting_offset: from as i64,
        max_results: most,
    };
    told(lab.client.stream(&csi::GET_METADATA_ALLOCATED, request))
}

fn delta_request(base: &str, target: &str, from: u64, most: i32) -> GetMetadataDeltaRequest {
    GetMetadataDeltaRequest {
        base_snapshot_id: base.to_owned(),
        target_snapshot_id: target.to_owned(),
        starting_offset: from as i64,
        max_results: most,
    }
}

fn delta(lab: &Lab, base: &str, target: &str, from: u64, most: i32) -> Told {
    told(lab.client.stream(&csi::GET_METADATA_DELTA, delta_request(base, target, from, most)))
}

/// The bytes of a snapshot, through a volume made from it.
fn content(lab: &Lab, snapshot: &str) -> Vec<u8> {
    let clone = lab.create(&format!("of {snapshot}"), SIZE, &BLOCK, Some(snapshot));
    let bytes = fs::read(lab.mount(&clone, &BLOCK)).unwrap();
    lab.unmount(&clone);
    lab.delete(&clone);
    bytes
}

/// The blocks in which they differ.
fn compared(base: &[u8], target: &[u8]) -> Vec<(u64, u64)> {
    let blocks = base.chunks(BLOCK_SIZE as usize).zip(target.chunks(BLOCK_SIZE as usize)).enumerate();
    blocks.filter(|(_, (a, b))| a != b).map(|(at, _)| (at as u64 * BLOCK_SIZE, BLOCK_SIZE)).collect()
}

const SIZE: u64 = 8 * MIB;

/// A volume with two snapshots: bytes written, changed, written again alike, set to zero, and new.
fn two_snapshots(lab: &Lab) -> (String, String, String) {
    let volume = lab.create("pvc-1", SIZE, &BLOCK, None);
    let device = lab.mount(&volume, &BLOCK);
    for block in [0, 1, 2, 3, 50, 51, 127] {
        write(&device, block * BLOCK_SIZE, &[1; 5000]);
    }
    let base = lab.snapshot(&volume, "base");
    write(&device, BLOCK_SIZE + 4999, &[2; 1]); // the last byte that was written
    write(&device, 2 * BLOCK_SIZE, &[1; 5000]); // the same again
    write(&device, 50 * BLOCK_SIZE, &[0; 5000]);
    write(&device, 91 * BLOCK_SIZE - 1, &[3; 2]); // across a border
    write(&device, SIZE - 1, &[4; 1]);
    let target = lab.snapshot(&volume, "target");
    lab.unmount(&volume);
    (volume, base, target)
}

fn remove(lab: Lab, (volume, base, target): &(String, String, String)) {
    lab.drop_snapshot(base);
    lab.drop_snapshot(target);
    lab.delete(volume);
    assert_eq!(lab.cli(&["ls"], &["--tables"]).unwrap(), "");
    lab.end();
}

#[test]
fn a_delta_is_what_a_full_compare_says() {
    let lab = Lab::new();
    let made = two_snapshots(&lab);
    let (_, base, target) = &made;
    let (old, new) = (content(&lab, base), content(&lab, target));
    let expected = compared(&old, &new);
    assert_eq!(expected.iter().map(|range| range.0 / BLOCK_SIZE).collect::<Vec<_>>(), [1, 50, 90, 91, 127]);
    for most in [0, 1, 2, 5, 100] {
        let (ranges, error) = delta(&lab, base, target, 0, most);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(ranges, expected, "{most} at a time");
    }
    // Backwards too, and against itself.
    assert_eq!(delta(&lab, target, base, 0, 0).0, expected);
    assert_eq!(delta(&lab, target, target, 0, 0).0, []);
    // From within a block on that has changed.
    assert_eq!(delta(&lab, base, target, 50 * BLOCK_SIZE + 1, 0).0, expected[1..]);
    assert_eq!(delta(&lab, base, target, 51 * BLOCK_SIZE, 0).0, expected[2..]);
    // What is not allocated is zero.
    let (ranges, error) = allocated(&lab, target, 0, 3);
    assert!(error.is_none(), "{error:?}");
    let zeros = vec![0; new.len()];
    for range in compared(&zeros, &new) {
        assert!(ranges.contains(&range), "{range:?} is not zero and not told");
    }
    assert!(ranges.len() < 20, "{ranges:?}: all is told");
    let resumed = allocated(&lab, target, ranges[3].0, 3).0;
    assert_eq!(resumed, ranges[3..]);
    remove(lab, &made);
}

#[test]
fn what_the_answers_look_like() {
    for (args, kind) in
        [(&[][..], block_metadata_type::FIXED_LENGTH), (&["--variable-blocks"], block_metadata_type::VARIABLE_LENGTH)]
    {
        let lab = Lab::with(args);
        let made = two_snapshots(&lab);
        let request = delta_request(&made.1, &made.2, 0, 2);
        let (messages, error) = lab.client.stream(&csi::GET_METADATA_DELTA, request);
        assert!(error.is_none(), "{error:?}");
        assert!(messages.len() > 1 && messages.iter().all(|message| message.block_metadata.len() <= 2));
        for message in &messages {
            assert_eq!((message.block_metadata_type, message.volume_capacity_bytes), (kind, SIZE as i64));
        }
        let joined = (90 * BLOCK_SIZE, 2 * BLOCK_SIZE);
        assert_eq!(told((messages, None)).0.contains(&joined), kind == block_metadata_type::VARIABLE_LENGTH);
        remove(lab, &made);
    }
}

#[test]
fn what_cannot_be_answered() {
    let lab = Lab::new();
    let made = two_snapshots(&lab);
    let (_, base, target) = &made;
    let other = lab.create("pvc-2", SIZE, &BLOCK, None);
    let foreign = lab.snapshot(&other, "foreign");
    let code = |told: Told| (told.0, told.1.map(|status| status.code()));
    assert_eq!(code(delta(&lab, &foreign, target, 0, 0)), (vec![], Some(Code::InvalidArgument)));
    assert_eq!(code(delta(&lab, "", target, 0, 0)), (vec![], Some(Code::InvalidArgument)));
    assert_eq!(code(delta(&lab, "snap-none", target, 0, 0)), (vec![], Some(Code::NotFound)));
    assert_eq!(code(delta(&lab, base, "snap-none", 0, 0)), (vec![], Some(Code::NotFound)));
    assert_eq!(code(delta(&lab, base, target, SIZE, 0)), (vec![], Some(Code::OutOfRange)));
    assert_eq!(code(allocated(&lab, target, SIZE + 1, 0)), (vec![], Some(Code::OutOfRange)));
    lab.drop_snapshot(&foreign);
    lab.delete(&other);
    remove(lab, &made);
}

#[test]
fn a_deleted_base_serves_unless_it_is_needed() {
    let mut lab = Lab::new();
    let made = two_snapshots(&lab);
    let (_, base, target) = &made;
    let expected = compared(&content(&lab, base), &content(&lab, target));
    lab.drop_snapshot(base);
    lab.kill_and_start();
    let (ranges, error) = delta(&lab, base, target, 0, 0);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(ranges, expected);
    lab.set("delta-needs-base");
    let (ranges, error) = delta(&lab, base, target, 0, 0);
    assert_eq!(ranges, []);
    refused(Err::<(), _>(error.unwrap()), Code::NotFound, base);
    remove(lab, &made);
}

#[test]
fn a_base_deleted_while_it_is_needed_does_not_serve_later() {
    let lab = Lab::new();
    let made = two_snapshots(&lab);
    lab.set("delta-needs-base");
    lab.drop_snapshot(&made.1);
    lab.clear("delta-needs-base");
    let error = delta(&lab, &made.1, &made.2, 0, 0).1;
    assert_eq!(error.unwrap().code(), Code::NotFound);
    remove(lab, &made);
}

#[test]
fn answers_that_are_missing_cut_or_wrong() {
    let lab = Lab::new();
    let made = two_snapshots(&lab);
    let (_, base, target) = &made;
    let all = delta(&lab, base, target, 0, 0).0;
    let offered = || {
        let answer = lab.client.call(&csi::GET_PLUGIN_CAPABILITIES, GetPluginCapabilitiesRequest {}).unwrap();
        let kinds: Vec<i32> = answer.capabilities.iter().map(|c| c.service.as_ref().unwrap().kind).collect();
        kinds.contains(&plugin_service::SNAPSHOT_METADATA)
    };
    assert!(offered());
    lab.set("changed-blocks-missing");
    assert!(!offered());
    assert_eq!(delta(&lab, base, target, 0, 0).1.unwrap().code(), Code::Unimplemented);
    assert_eq!(allocated(&lab, target, 0, 0).1.unwrap().code(), Code::Unimplemented);
    lab.clear("changed-blocks-missing");

    // Cut again and again, it is complete when it was resumed to its end.
    lab.set("changed-blocks-cut=2");
    let (mut ranges, mut from, mut cuts) = (Vec::new(), 0, 0);
    loop {
        let (more, error) = delta(&lab, base, target, from, 1);
        from = more.last().map_or(from, |range| range.0 + range.1);
        ranges.extend(more);
        let Some(error) = error else { break };
        refused(Err::<(), _>(error), Code::Unavailable, "cut");
        cuts += 1;
    }
    assert_eq!((ranges, cuts), (all.clone(), 2));
    lab.clear("changed-blocks-cut");

    lab.set("changed-blocks-short=2");
    let (ranges, error) = delta(&lab, base, target, 0, 1);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(ranges, all[..2]);
    lab.clear("changed-blocks-short");

    let messages = || lab.client.stream(&csi::GET_METADATA_DELTA, delta_request(base, target, 0, 2)).0;
    lab.set("changed-blocks-wrong=1");
    assert!(!told((messages(), None)).0.is_sorted());
    lab.set("changed-blocks-wrong=2");
    assert!(told((messages(), None)).0.iter().any(|range| range.0 + range.1 > SIZE));
    lab.set("changed-blocks-wrong=3");
    let sizes: Vec<i64> = messages().iter().map(|message| message.volume_capacity_bytes).collect();
    assert!(sizes.contains(&(SIZE as i64)) && sizes.contains(&(2 * SIZE as i64)), "{sizes:?}");
    lab.clear("changed-blocks-wrong");
    assert_eq!(delta(&lab, base, target, 0, 0).0, all);
    remove(lab, &made);
}
