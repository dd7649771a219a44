//! A driver of a test's own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tonic::{Code, Status};
use wherry_e2e::client::Client;
use wherry_e2e::csi::{self, *};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const NODE: &str = "node-1";
pub(crate) const NAME: &str = "csi.test.wherry.io";

/// A driver that runs, and the folder where all of its files are.
pub(crate) struct Lab {
    folder: TempDir,
    args: Vec<String>,
    driver: Child,
    pub(crate) client: Client,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With these further arguments of `serve`.
    pub(crate) fn with(args: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("wherry-csi-").tempdir().unwrap();
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let (driver, client) = start(folder.path(), &args);
        Self { folder, args, driver, client }
    }

    /// Kills the driver as the kernel would and starts it again.
    pub(crate) fn kill_and_start(&mut self) {
        self.kill();
        (self.driver, self.client) = start(self.folder.path(), &self.args);
    }

    pub(crate) fn kill(&mut self) {
        self.driver.kill().unwrap();
        self.driver.wait().unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the registration socket is.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.path("plugins_registry")
    }

    /// What a command prints that is given the data directory; an error is its message.
    pub(crate) fn cli(&self, command: &[&str], args: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_wherry-test-csi"))
            .args(command)
            .arg("--data-dir")
            .arg(self.path("data"))
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub(crate) fn ls(&self) -> String {
        self.cli(&["ls"], &[]).unwrap()
    }

    pub(crate) fn set(&self, fault: &str) {
        self.cli(&["fault", "set"], &[fault]).unwrap();
    }

    pub(crate) fn clear(&self, fault: &str) {
        self.cli(&["fault", "clear"], &[fault]).unwrap();
    }

    /// Tries to make a volume.
    pub(crate) fn try_create(&self, name: &str, size: u64, kind: &Kind, from: Option<&str>) -> Result<Volume, Status> {
        let source = |id: &str| SnapshotSource { snapshot_id: id.to_owned() };
        let request = CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: size as i64, limit_bytes: 0 }),
            volume_capabilities: vec![kind.capability()],
            volume_content_source: from.map(|id| VolumeContentSource { snapshot: Some(source(id)), volume: None }),
            ..Default::default()
        };
        Ok(self.client.call(&csi::CREATE_VOLUME, request)?.volume.unwrap())
    }

    /// The id of a new volume.
    pub(crate) fn create(&self, name: &str, size: u64, kind: &Kind, from: Option<&str>) -> String {
        let volume = self.try_create(name, size, kind, from).unwrap();
        assert_eq!(volume.capacity_bytes, size as i64);
        volume.volume_id
    }

    pub(crate) fn try_delete(&self, volume: &str) -> Result<(), Status> {
        self.client.call(&csi::DELETE_VOLUME, DeleteVolumeRequest { volume_id: volume.to_owned() }).map(drop)
    }

    pub(crate) fn delete(&self, volume: &str) {
        self.try_delete(volume).unwrap();
    }

    pub(crate) fn try_snapshot(&self, volume: &str, name: &str) -> Result<Snapshot, Status> {
        let request =
            CreateSnapshotRequest { source_volume_id: volume.to_owned(), name: name.to_owned(), ..Default::default() };
        Ok(self.client.call(&csi::CREATE_SNAPSHOT, request)?.snapshot.unwrap())
    }

    /// The id of a new snapshot.
    pub(crate) fn snapshot(&self, volume: &str, name: &str) -> String {
        self.try_snapshot(volume, name).unwrap().snapshot_id
    }

    pub(crate) fn try_drop_snapshot(&self, id: &str) -> Result<(), Status> {
        self.client.call(&csi::DELETE_SNAPSHOT, DeleteSnapshotRequest { snapshot_id: id.to_owned() }).map(drop)
    }

    pub(crate) fn drop_snapshot(&self, id: &str) {
        self.try_drop_snapshot(id).unwrap();
    }

    pub(crate) fn staging(&self, volume: &str) -> PathBuf {
        self.path(&format!("staging-{volume}"))
    }

    pub(crate) fn target(&self, volume: &str) -> PathBuf {
        self.path(&format!("pods/{volume}"))
    }

    pub(crate) fn stage(&self, volume: &str, kind: &Kind) -> Result<(), Status> {
        let request = NodeStageVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: self.staging(volume).display().to_string(),
            volume_capability: Some(kind.capability()),
            ..Default::default()
        };
        self.client.call(&csi::NODE_STAGE_VOLUME, request).map(drop)
    }

    pub(crate) fn publish(&self, volume: &str, kind: &Kind) -> Result<(), Status> {
        let request = NodePublishVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: self.staging(volume).display().to_string(),
            target_path: self.target(volume).display().to_string(),
            volume_capability: Some(kind.capability()),
            ..Default::default()
        };
        self.client.call(&csi::NODE_PUBLISH_VOLUME, request).map(drop)
    }

    /// Where the volume can be used: a device, or a folder.
    pub(crate) fn mount(&self, volume: &str, kind: &Kind) -> PathBuf {
        self.stage(volume, kind).unwrap();
        self.publish(volume, kind).unwrap();
        self.target(volume)
    }

    /// Like the kubelet, calls again while something is still open: a process that another test is just starting holds
    /// the files of this one until it is there.
    pub(crate) fn unmount(&self, volume: &str) {
        let (volume_id, staging) = (volume.to_owned(), self.staging(volume).display().to_string());
        let target_path = self.target(volume).display().to_string();
        let request = NodeUnpublishVolumeRequest { volume_id: volume_id.clone(), target_path };
        again(|| self.client.call(&csi::NODE_UNPUBLISH_VOLUME, request.clone()));
        let request = NodeUnstageVolumeRequest { volume_id, staging_target_path: staging };
        again(|| self.client.call(&csi::NODE_UNSTAGE_VOLUME, request.clone()));
        assert!(!self.target(volume).exists());
    }

    /// Loop devices over files of this driver.
    pub(crate) fn loops(&self) -> Vec<String> {
        let output = Command::new("losetup").args(["--noheadings", "--output", "NAME,BACK-FILE"]).output().unwrap();
        assert!(output.status.success());
        let (all, here) = (String::from_utf8(output.stdout).unwrap(), self.folder.path().display().to_string());
        all.lines().filter(|line| line.contains(&here)).map(str::to_owned).collect()
    }

    /// Mounts beneath this driver's folder.
    pub(crate) fn mounts(&self) -> usize {
        let here = self.folder.path().display().to_string();
        fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&here)).count()
    }

    /// Ends a test: nothing may be left.
    pub(crate) fn end(self) {
        assert_eq!(self.ls(), "");
        assert_eq!(self.loops(), [""; 0]);
        assert_eq!(self.mounts(), 0);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = self.cli(&["tidy"], &[]);
    }
}

fn again<T>(call: impl Fn() -> Result<T, Status>) {
    for _ in 0..100 {
        match call() {
            Err(e) if e.message().contains("busy") || e.message().contains("still open") => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            result => return drop(result.unwrap()),
        }
    }
    call().unwrap();
}

/// Starts a driver; it is up when it says so.
fn start(folder: &Path, args: &[String]) -> (Child, Client) {
    let socket = folder.join("csi.sock");
    let mut driver = Command::new(env!("CARGO_BIN_EXE_wherry-test-csi"))
        .args(["serve", "--node", NODE, "--data-dir"])
        .arg(folder.join("data"))
        .arg("--socket")
        .arg(&socket)
        .arg("--registration-dir")
        .arg(folder.join("plugins_registry"))
        .args(args)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(driver.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains(" serves ") {
        assert_ne!(log.read_line(&mut said).unwrap(), 0, "the driver ended: {said}");
    }
    // Nobody may stop it by not reading what it says.
    std::thread::spawn(move || {
        let mut rest = String::new();
        let _ = log.read_to_string(&mut rest);
    });
    (driver, Client::connect(&socket).unwrap())
}

/// How a volume is used.
pub(crate) struct Kind {
    /// None for a Block volume.
    pub(crate) fs_type: Option<&'static str>,
    /// Of `access_mode`.
    pub(crate) mode: i32,
}

pub(crate) const BLOCK: Kind = Kind { fs_type: None, mode: access_mode::WRITER };
pub(crate) const EXT4: Kind = Kind { fs_type: Some("ext4"), mode: access_mode::WRITER };
pub(crate) const XFS: Kind = Kind { fs_type: Some("xfs"), mode: access_mode::WRITER };

impl Kind {
    fn capability(&self) -> VolumeCapability {
        let mount = |fs_type: &str| MountVolume { fs_type: fs_type.to_owned(), mount_flags: Vec::new() };
        VolumeCapability {
            block: self.fs_type.is_none().then_some(BlockVolume {}),
            mount: self.fs_type.map(mount),
            access_mode: Some(AccessMode { mode: self.mode }),
        }
    }
}

/// The code of an error, and that its message names this.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, names: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(status.message().contains(names), "{:?} does not name {names}", status.message());
}
