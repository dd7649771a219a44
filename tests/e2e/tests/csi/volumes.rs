//! Volumes, snapshots and volumes from them, and a driver that is killed.

use crate::lab::{BLOCK, EXT4, Kind, Lab, MIB, NAME, NODE, XFS, refused};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::process::Command;
use tonic::Code;
use wherry_e2e::client::Client;
use wherry_e2e::csi::{self, *};
use wherry_e2e::registration::{self, InfoRequest, RegistrationStatus};
use wherry_e2e::serve::registration_socket;

/// Writes to a device.
pub(crate) fn write(device: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(device).unwrap().write_all_at(bytes, offset).unwrap();
}

fn read(device: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open(device).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn a_block_volume_its_snapshot_and_its_clone() {
    let lab = Lab::new();
    let volume = lab.create("pvc-1", 8 * MIB, &BLOCK, None);
    let device = lab.mount(&volume, &BLOCK);
    assert!(fs::metadata(&device).unwrap().file_type().is_block_device());
    // As long as it is open, what is written to it is in a cache: closing would write it out.
    let open = OpenOptions::new().write(true).open(&device).unwrap();
    open.write_all_at(b"first", 0).unwrap();
    open.write_all_at(b"last", 8 * MIB - 4).unwrap();
    let snapshot = lab.snapshot(&volume, "snapshot-1");
    open.write_all_at(b"later", 0).unwrap();
    drop(open);
    lab.unmount(&volume);

    let clone = lab.create("pvc-2", 16 * MIB, &BLOCK, Some(&snapshot));
    let device = lab.mount(&clone, &BLOCK);
    assert_eq!(read(&device, 0, 5), b"first");
    assert_eq!(read(&device, 8 * MIB - 4, 4), b"last");
    assert_eq!(read(&device, 8 * MIB, 8 << 20), vec![0; 8 << 20]);
    // Each has its own bytes.
    write(&device, 0, b"clone");
    let device = lab.mount(&volume, &BLOCK);
    assert_eq!(read(&device, 0, 5), b"later");
    lab.unmount(&volume);
    lab.unmount(&clone);

    // A snapshot outlives its volume, a clone its snapshot.
    lab.delete(&volume);
    let again = lab.create("pvc-3", 8 * MIB, &BLOCK, Some(&snapshot));
    lab.drop_snapshot(&snapshot);
    let device = lab.mount(&again, &BLOCK);
    assert_eq!(read(&device, 0, 5), b"first");
    lab.unmount(&again);
    lab.delete(&again);
    lab.delete(&clone);
    lab.end();
}

#[test]
fn the_same_name_is_the_same_object() {
    let lab = Lab::new();
    let volume = lab.create("pvc-1", 4 * MIB, &BLOCK, None);
    assert_eq!(lab.create("pvc-1", 4 * MIB, &BLOCK, None), volume);
    refused(lab.try_create("pvc-1", 8 * MIB, &BLOCK, None), Code::AlreadyExists, "pvc-1");
    refused(lab.try_create("pvc-1", 4 * MIB, &EXT4, None), Code::AlreadyExists, "pvc-1");
    let snapshot = lab.snapshot(&volume, "snapshot-1");
    assert_eq!(lab.snapshot(&volume, "snapshot-1"), snapshot);
    refused(lab.try_create("pvc-1", 4 * MIB, &BLOCK, Some(&snapshot)), Code::AlreadyExists, "pvc-1");
    refused(lab.try_create("small", MIB, &BLOCK, Some(&snapshot)), Code::OutOfRange, "smaller");
    let other = lab.create("pvc-2", 4 * MIB, &BLOCK, None);
    refused(lab.try_snapshot(&other, "snapshot-1"), Code::AlreadyExists, "snapshot-1");
    assert_eq!(lab.ls().lines().count(), 3, "{}", lab.ls());
    lab.drop_snapshot(&snapshot);
    lab.drop_snapshot(&snapshot);
    for volume in [&volume, &other, &volume] {
        lab.delete(volume);
    }
    lab.end();
}

/// A filesystem that is written to is frozen: what was written before the snapshot is in it whole.
fn files_survive(kind: &Kind, size: u64) {
    let lab = Lab::new();
    let volume = lab.create("pvc-1", size, kind, None);
    let folder = lab.mount(&volume, kind);
    let content = vec![7; 3 << 20];
    fs::write(folder.join("file"), &content).unwrap(); // not synced
    let snapshot = lab.snapshot(&volume, "snapshot-1");
    fs::write(folder.join("file"), "later").unwrap(); // it is thawed again

    // Beside its source, and larger.
    let clone = lab.create("pvc-2", 2 * size, kind, Some(&snapshot));
    let other = lab.mount(&clone, kind);
    assert_eq!(fs::read(other.join("file")).unwrap(), content);
    let bytes = rustix::fs::statvfs(&other).unwrap();
    assert!(bytes.f_blocks * bytes.f_frsize > size, "it has not grown");
    let shown = Command::new("findmnt").args(["-n", "-o", "FSTYPE", "--mountpoint"]).arg(&other).output().unwrap();
    assert_eq!(String::from_utf8(shown.stdout).unwrap().trim(), kind.fs_type.unwrap());
    lab.unmount(&clone);

    let reader = Kind { mode: access_mode::READERS, ..*kind };
    let other = lab.mount(&clone, &reader);
    assert_eq!(fs::read(other.join("file")).unwrap(), content);
    assert_eq!(fs::write(other.join("file"), "").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    lab.unmount(&clone);

    refused(lab.try_delete(&volume), Code::FailedPrecondition, &volume);
    assert_eq!(fs::read(folder.join("file")).unwrap(), b"later");
    lab.unmount(&volume);
    lab.drop_snapshot(&snapshot);
    lab.delete(&volume);
    lab.delete(&clone);
    lab.end();
}

#[test]
fn files_survive_on_ext4() {
    files_survive(&EXT4, 32 * MIB);
}

#[test]
fn files_survive_on_xfs() {
    files_survive(&XFS, 320 * MIB);
}

#[test]
fn calls_are_repeated_without_harm() {
    let lab = Lab::new();
    let volume = lab.create("pvc-1", 32 * MIB, &EXT4, None);
    refused(lab.publish(&volume, &EXT4), Code::FailedPrecondition, "not staged");
    for _ in 0..2 {
        lab.mount(&volume, &EXT4);
    }
    assert_eq!((lab.loops().len(), lab.mounts()), (1, 2));
    lab.unmount(&volume);
    lab.unmount(&volume);
    // A volume that cannot be mounted is not left with a device: nobody would unstage it.
    let small = lab.create("pvc-2", MIB, &XFS, None);
    refused(lab.stage(&small, &XFS), Code::Internal, "mkfs.xfs");
    assert_eq!(lab.loops(), [""; 0]);
    lab.delete(&small);
    lab.delete(&volume);
    lab.end();
}

#[test]
fn a_device_that_is_open_is_not_let_go() {
    let lab = Lab::new();
    let volume = lab.create("pvc-1", MIB, &BLOCK, None);
    let held = File::open(lab.mount(&volume, &BLOCK)).unwrap();
    let unstage = || {
        let staging_target_path = lab.staging(&volume).display().to_string();
        let request = NodeUnstageVolumeRequest { volume_id: volume.clone(), staging_target_path };
        lab.client.call(&csi::NODE_UNSTAGE_VOLUME, request)
    };
    refused(unstage(), Code::Internal, "still open");
    refused(lab.stage(&volume, &BLOCK), Code::Aborted, "still open");
    refused(lab.try_delete(&volume), Code::FailedPrecondition, &volume);
    drop(held);
    lab.unmount(&volume);
    lab.delete(&volume);
    lab.end();
}

#[test]
fn killed_and_started_again_it_goes_on() {
    let mut lab = Lab::new();
    let block = lab.create("pvc-1", 4 * MIB, &BLOCK, None);
    let files = lab.create("pvc-2", 32 * MIB, &EXT4, None);
    let device = lab.mount(&block, &BLOCK);
    let folder = lab.mount(&files, &EXT4);
    write(&device, 0, b"kept");
    let snapshot = lab.snapshot(&block, "snapshot-1");
    let before = lab.ls();

    lab.kill();
    // As if it had been killed while it froze a filesystem, and while it made objects.
    let frozen = lab.path("data/frozen");
    fs::create_dir_all(&frozen).unwrap();
    fs::write(frozen.join(&files), folder.to_str().unwrap()).unwrap();
    let freeze = Command::new("fsfreeze").arg("--freeze").arg(&folder).status().unwrap();
    assert!(freeze.success());
    for stray in ["volumes/vol-half.img", "snapshots/snap-half.img", "volumes/vol-half.new"] {
        fs::write(lab.path("data").join(stray), "half").unwrap();
    }
    assert_eq!(lab.ls().lines().filter(|line| line.starts_with("stray ")).count(), 3, "{}", lab.ls());
    lab.kill_and_start();

    assert_eq!(lab.ls(), before);
    // A write to a frozen filesystem would never return: its state is asked.
    let thaw = Command::new("fsfreeze").arg("--unfreeze").arg(&folder).output().unwrap();
    assert!(!thaw.status.success(), "it was still frozen");
    fs::write(folder.join("file"), "goes on").unwrap();
    assert_eq!(lab.create("pvc-1", 4 * MIB, &BLOCK, None), block);
    lab.mount(&block, &BLOCK);
    let clone = lab.create("pvc-3", 4 * MIB, &BLOCK, Some(&snapshot));
    assert_eq!(read(&lab.mount(&clone, &BLOCK), 0, 4), b"kept");
    for volume in [&block, &files, &clone] {
        lab.unmount(volume);
        lab.delete(volume);
    }
    lab.drop_snapshot(&snapshot);
    lab.end();
}

#[test]
fn what_is_in_use_can_be_tidied() {
    let mut lab = Lab::new();
    let block = lab.create("pvc-1", MIB, &BLOCK, None);
    let files = lab.create("pvc-2", 32 * MIB, &EXT4, None);
    lab.mount(&block, &BLOCK);
    lab.mount(&files, &EXT4);
    lab.kill();
    assert_eq!(lab.loops().len(), 2);
    lab.cli(&["tidy"], &[]).unwrap();
    assert_eq!(lab.loops(), [""; 0]);
    assert_eq!(lab.mounts(), 0);
    assert_eq!(lab.ls().lines().count(), 2);
}

#[test]
fn static_volumes() {
    let lab = Lab::new();
    let make = |id: &str, size: &str| lab.cli(&["volume", "create"], &["--id", id, "--size", size]);
    make("static-1", "33554432").unwrap();
    assert!(make("static-1", "33554432").unwrap_err().contains("already"));
    assert!(make("../static", "33554432").unwrap_err().contains("volumeHandle"));
    assert!(make("odd", "33554433").unwrap_err().contains("512"));
    let folder = lab.mount("static-1", &EXT4);
    fs::write(folder.join("file"), "of a static volume").unwrap();
    let remove = || lab.cli(&["volume", "delete"], &["--id", "static-1"]);
    assert!(remove().unwrap_err().contains("in use"));
    lab.unmount("static-1");
    let folder = lab.mount("static-1", &EXT4);
    assert_eq!(fs::read(folder.join("file")).unwrap(), b"of a static volume");
    lab.unmount("static-1");
    remove().unwrap();
    refused(lab.stage("static-1", &EXT4), Code::NotFound, "static-1");
    lab.end();
}

#[test]
fn it_says_where_volumes_are_and_makes_none_elsewhere() {
    let lab = Lab::new();
    let here = Topology { segments: Texts::from([(format!("{NAME}/node"), NODE.to_owned())]) };
    let elsewhere = Topology { segments: Texts::from([(format!("{NAME}/node"), "node-2".to_owned())]) };
    let info = lab.client.call(&csi::NODE_GET_INFO, NodeGetInfoRequest {}).unwrap();
    assert_eq!((info.node_id.as_str(), info.accessible_topology), (NODE, Some(here.clone())));
    let create = |requisite: Vec<Topology>| {
        let request = CreateVolumeRequest {
            name: "pvc-1".to_owned(),
            volume_capabilities: vec![VolumeCapability { block: Some(BlockVolume {}), ..Default::default() }],
            capacity_range: Some(CapacityRange { required_bytes: 100_000, limit_bytes: 0 }),
            accessibility_requirements: Some(TopologyRequirement { requisite, preferred: Vec::new() }),
            ..Default::default()
        };
        lab.client.call(&csi::CREATE_VOLUME, request).map(|answer| answer.volume.unwrap())
    };
    refused(create(vec![elsewhere.clone()]), Code::ResourceExhausted, NODE);
    let volume = create(vec![elsewhere, here.clone()]).unwrap();
    assert_eq!((volume.capacity_bytes, volume.accessible_topology), (131_072, vec![here]));
    lab.delete(&volume.volume_id);
    lab.end();
}

#[test]
fn the_kubelet_is_told_who_it_is() {
    let lab = Lab::new();
    let socket = registration_socket(&lab.plugins(), NAME);
    let kubelet = Client::connect(&socket).unwrap();
    let info = kubelet.call(&registration::GET_INFO, InfoRequest {}).unwrap();
    assert_eq!((info.kind.as_str(), info.name.as_str()), ("CSIPlugin", NAME));
    assert_eq!(info.endpoint, lab.path("csi.sock").display().to_string());
    assert_eq!(info.supported_versions, ["1.0.0"]);
    let status = RegistrationStatus { plugin_registered: true, error: String::new() };
    kubelet.call(&registration::NOTIFY, status).unwrap();
    // What the kubelet would call it by: its path, percent-encoded as gRPC for Go does.
    let authority = socket.display().to_string().replace('/', "%2F");
    authority.parse::<http::uri::Authority>().unwrap();
}
