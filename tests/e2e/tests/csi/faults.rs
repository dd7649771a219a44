//! Each way to misbehave, and that it ends when it is taken back.

use crate::lab::{BLOCK, EXT4, Lab, MIB, XFS, refused};
use crate::volumes::write;
use std::fs;
use tonic::Code;
use wherry_e2e::csi::{self, *};

fn listed(lab: &Lab, snapshot: &str) -> Result<Snapshot, tonic::Status> {
    let request = ListSnapshotsRequest { snapshot_id: snapshot.to_owned(), ..Default::default() };
    let mut entries = lab.client.call(&csi::LIST_SNAPSHOTS, request)?.entries;
    assert_eq!(entries.len(), 1);
    Ok(entries.remove(0).snapshot.unwrap())
}

#[test]
fn snapshots_that_are_never_ready_late_or_without_size() {
    let lab = Lab::new();
    let volume = lab.create("pvc-1", MIB, &BLOCK, None);
    lab.set("snapshot-never-ready");
    let never = lab.try_snapshot(&volume, "never").unwrap();
    assert!(!never.ready_to_use);
    assert!(!listed(&lab, &never.snapshot_id).unwrap().ready_to_use);
    let clone = lab.try_create("pvc-2", MIB, &BLOCK, Some(&never.snapshot_id));
    refused(clone, Code::Unavailable, "not ready");
    lab.clear("snapshot-never-ready");
    assert!(listed(&lab, &never.snapshot_id).unwrap().ready_to_use);

    lab.set("snapshot-late=3");
    let mut answers = vec![lab.try_snapshot(&volume, "late").unwrap()];
    lab.clear("snapshot-late");
    let late = answers[0].snapshot_id.clone();
    answers.push(lab.try_snapshot(&volume, "late").unwrap());
    answers.extend((0..2).map(|_| listed(&lab, &late).unwrap()));
    let ready: Vec<bool> = answers.iter().map(|snapshot| snapshot.ready_to_use).collect();
    assert_eq!(ready, [false, false, false, true]);

    lab.set("snapshot-without-size");
    assert_eq!(listed(&lab, &late).unwrap().size_bytes, 0);
    assert_eq!(lab.try_snapshot(&volume, "late").unwrap().size_bytes, 0);
    lab.clear("snapshot-without-size");
    assert_eq!(listed(&lab, &late).unwrap().size_bytes, MIB as i64);

    for snapshot in [&never.snapshot_id, &late] {
        lab.drop_snapshot(snapshot);
    }
    lab.delete(&volume);
    lab.end();
}

#[test]
fn a_driver_that_cannot_list_snapshots() {
    let lab = Lab::new();
    let announced = || {
        let answer = lab.client.call(&csi::CONTROLLER_GET_CAPABILITIES, ControllerGetCapabilitiesRequest {}).unwrap();
        answer.capabilities.iter().any(|c| c.rpc.as_ref().unwrap().kind == controller_rpc::LIST_SNAPSHOTS)
    };
    let list = || lab.client.call(&csi::LIST_SNAPSHOTS, ListSnapshotsRequest::default());
    assert!(announced() && list().is_ok());
    lab.set("list-snapshots-unsupported");
    assert!(!announced());
    refused(list(), Code::Unimplemented, "ListSnapshots");
    lab.end();
}

#[test]
fn a_snapshot_that_its_clones_hold() {
    let lab = Lab::new();
    let volume = lab.create("pvc-1", MIB, &BLOCK, None);
    let snapshot = lab.snapshot(&volume, "snapshot-1");
    let clone = lab.create("pvc-2", MIB, &BLOCK, Some(&snapshot));
    lab.set("snapshot-held-by-clones");
    refused(lab.try_drop_snapshot(&snapshot), Code::FailedPrecondition, &clone);
    lab.delete(&clone);
    lab.drop_snapshot(&snapshot);
    lab.delete(&volume);
    lab.end();
}

#[test]
fn a_clone_that_is_copied_in_the_background() {
    let mut lab = Lab::new();
    let volume = lab.create("pvc-1", MIB, &BLOCK, None);
    write(&lab.mount(&volume, &BLOCK), 0, b"bytes");
    let snapshot = lab.snapshot(&volume, "snapshot-1");
    lab.set("clone-in-background=2");
    let clones = ["pvc-2", "pvc-3"].map(|name| lab.create(name, MIB, &BLOCK, Some(&snapshot)));
    lab.clear("clone-in-background");
    refused(lab.stage(&clones[0], &BLOCK), Code::Unavailable, "copied");
    lab.kill_and_start();
    refused(lab.try_drop_snapshot(&snapshot), Code::Unavailable, "copied");
    // The first of them is there now, the second not yet, although nobody wants to use it.
    let content = |id: &str| fs::read(lab.mount(id, &BLOCK)).unwrap();
    assert_eq!(content(&clones[0])[..5], *b"bytes");
    refused(lab.try_drop_snapshot(&snapshot), Code::Unavailable, "copied");
    lab.drop_snapshot(&snapshot);
    assert_eq!(content(&clones[1])[..5], *b"bytes");
    for volume in clones.iter().chain([&volume]) {
        lab.unmount(volume);
        lab.delete(volume);
    }
    lab.end();
}

#[test]
fn a_volume_that_is_made_slowly() {
    let lab = Lab::new();
    lab.set("create-volume-slow=2");
    for _ in 0..2 {
        refused(lab.try_create("pvc-1", MIB, &BLOCK, None), Code::DeadlineExceeded, "create-volume-slow");
        // It is there, and takes room, whatever becomes of the PVC meanwhile.
        assert_eq!(lab.ls().lines().filter(|line| line.contains("pvc-1")).count(), 1, "{}", lab.ls());
    }
    let volume = lab.create("pvc-1", MIB, &BLOCK, None);
    assert_eq!(lab.cli(&["fault", "list"], &[]).unwrap(), "");
    lab.delete(&volume);
    lab.end();
}

#[test]
fn new_volumes_full_of_old_bytes() {
    let lab = Lab::new();
    lab.set("old-bytes");
    let volume = lab.create("pvc-1", 2 * MIB, &BLOCK, None);
    let bytes = fs::read(lab.mount(&volume, &BLOCK)).unwrap();
    assert_eq!(bytes.len() as u64, 2 * MIB);
    assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte != 0)));
    // Filesystems are made over them, and leave those where they write nothing.
    for (name, kind, size) in [("pvc-2", &EXT4, 32 * MIB), ("pvc-3", &XFS, 320 * MIB)] {
        let files = lab.create(name, size, kind, None);
        let folder = lab.mount(&files, kind);
        fs::write(folder.join("file"), "new").unwrap();
        lab.unmount(&files);
        let image = fs::read(lab.path(&format!("data/volumes/{files}.img"))).unwrap();
        let old = image.windows(9).step_by(4096 - 1).filter(|bytes| *bytes == b"old bytes").count();
        assert!(old > 10, "{old} traces of old bytes in {name}");
        lab.delete(&files);
    }
    lab.unmount(&volume);
    lab.delete(&volume);
    lab.end();
}

#[test]
fn calls_that_fail_so_many_times() {
    let lab = Lab::new();
    let fails = |fault: &str, call: &dyn Fn() -> Result<(), tonic::Status>| {
        lab.set(&format!("{fault}=2"));
        refused(call(), Code::Internal, fault);
        refused(call(), Code::Internal, fault);
        call().unwrap();
        assert_eq!(lab.cli(&["fault", "list"], &[]).unwrap(), "");
    };
    fails("create-volume-fails", &|| lab.try_create("pvc-1", MIB, &BLOCK, None).map(drop));
    let volume = lab.create("pvc-1", MIB, &BLOCK, None);
    fails("stage-fails", &|| lab.stage(&volume, &BLOCK));
    fails("publish-fails", &|| lab.publish(&volume, &BLOCK));
    fails("create-snapshot-fails", &|| lab.try_snapshot(&volume, "snapshot-1").map(drop));
    let snapshot = lab.snapshot(&volume, "snapshot-1");
    fails("delete-snapshot-fails", &|| lab.try_drop_snapshot(&snapshot));
    lab.unmount(&volume);
    fails("delete-volume-fails", &|| lab.try_delete(&volume));

    // Without a number until it is taken back.
    lab.set("create-volume-fails");
    for _ in 0..5 {
        refused(lab.try_create("pvc-2", MIB, &BLOCK, None), Code::Internal, "create-volume-fails");
    }
    assert_eq!(lab.cli(&["fault", "list"], &[]).unwrap(), "create-volume-fails\n");
    lab.cli(&["fault", "clear"], &["--all"]).unwrap();
    lab.delete(&lab.create("pvc-2", MIB, &BLOCK, None));
    assert!(lab.cli(&["fault", "set"], &["sloth"]).unwrap_err().contains("sloth"));
    assert!(lab.cli(&["fault", "set"], &["stage-fails=x"]).unwrap_err().contains("number"));
    lab.end();
}

#[test]
fn the_readme_names_every_fault() {
    // Of the run, not of the build: another clone may have built it.
    let crate_dir = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let readme = fs::read_to_string(std::path::Path::new(&crate_dir).join("README.md")).unwrap();
    for fault in wherry_e2e::faults::ALL {
        let named = ["`", "=N`", "[=N]`"].iter().any(|end| readme.contains(&format!("`{}{end}", fault.name)));
        assert!(named, "README.md does not name {}", fault.name);
    }
}
