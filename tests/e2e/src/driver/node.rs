//! The Node service: loop devices and mounts.

use super::{Driver, capabilities, given, internal, log};
use crate::csi::{
    MountVolume, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeStageVolumeRequest, NodeStageVolumeResponse,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse,
    VolumeCapability, access_mode, node_rpc,
};
use crate::store::Volume;
use crate::{faults, host};
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};
use tonic::Status;

impl Driver {
    pub(crate) fn node_get_info(&self, _: NodeGetInfoRequest) -> Result<NodeGetInfoResponse, Status> {
        let node_id = self.options.node.clone();
        Ok(NodeGetInfoResponse { node_id, max_volumes_per_node: 0, accessible_topology: Some(self.topology()) })
    }

    pub(crate) fn node_get_capabilities(
        &self,
        _: NodeGetCapabilitiesRequest,
    ) -> Result<NodeGetCapabilitiesResponse, Status> {
        Ok(NodeGetCapabilitiesResponse { capabilities: capabilities(vec![node_rpc::STAGE_UNSTAGE_VOLUME]) })
    }

    pub(crate) fn node_stage_volume(&self, request: NodeStageVolumeRequest) -> Result<NodeStageVolumeResponse, Status> {
        given(&request.volume_id, "volume_id")?;
        let staging = given(&request.staging_target_path, "staging_target_path")?;
        let capability = capability(request.volume_capability.as_ref())?;
        let _one = self.lock();
        let mut volume = self.volume(&request.volume_id)?;
        self.strike(&faults::STAGE_FAILS)?;
        self.settle(&mut volume)?;
        let image = self.volumes.image(&volume.id);
        let read_only = reads_only(capability);
        let (device, fresh) = match self.device(&volume)? {
            Some(device) => (device, false),
            // A filesystem must be able to play its journal back, so its device can always be written.
            None => (host::attach(&image, read_only && capability.block.is_some()).map_err(internal)?, true),
        };
        let Some(mount) = &capability.mount else { return Ok(NodeStageVolumeResponse {}) };
        let staging = Path::new(staging);
        if let Err(e) = mount_filesystem(&volume, mount, read_only, &device, staging) {
            // Nobody unstages what was never staged. What fails now is told with the next call.
            let undone = if fresh { host::unmount(staging).and_then(|()| host::detach(&image)) } else { Ok(()) };
            if let Err(e) = undone {
                log(&format!("{e:#}"));
            }
            return Err(internal(e));
        }
        Ok(NodeStageVolumeResponse {})
    }

    pub(crate) fn node_unstage_volume(
        &self,
        request: NodeUnstageVolumeRequest,
    ) -> Result<NodeUnstageVolumeResponse, Status> {
        given(&request.volume_id, "volume_id")?;
        let staging = given(&request.staging_target_path, "staging_target_path")?;
        let _one = self.lock();
        let volume = self.volume(&request.volume_id)?;
        host::unmount(Path::new(staging)).map_err(internal)?;
        host::detach(&self.volumes.image(&volume.id)).map_err(internal)?;
        Ok(NodeUnstageVolumeResponse {})
    }

    pub(crate) fn node_publish_volume(
        &self,
        request: NodePublishVolumeRequest,
    ) -> Result<NodePublishVolumeResponse, Status> {
        given(&request.volume_id, "volume_id")?;
        let target = Path::new(given(&request.target_path, "target_path")?);
        let capability = capability(request.volume_capability.as_ref())?;
        let _one = self.lock();
        let volume = self.volume(&request.volume_id)?;
        self.strike(&faults::PUBLISH_FAILS)?;
        let device = self.device(&volume)?;
        let not_staged = || Status::failed_precondition(format!("volume {} is not staged", volume.id));
        let device = device.ok_or_else(not_staged)?;
        if host::is_mounted(target).map_err(internal)? {
            return Ok(NodePublishVolumeResponse {});
        }
        if capability.block.is_some() {
            if request.readonly {
                host::set_read_only(&device).map_err(internal)?;
            }
            place(target, false).and_then(|()| host::bind(&device, target, false)).map_err(internal)?;
        } else {
            let staging = Path::new(given(&request.staging_target_path, "staging_target_path")?);
            if !host::is_mounted(staging).map_err(internal)? {
                return Err(not_staged());
            }
            place(target, true).and_then(|()| host::bind(staging, target, request.readonly)).map_err(internal)?;
        }
        Ok(NodePublishVolumeResponse {})
    }

    pub(crate) fn node_unpublish_volume(
        &self,
        request: NodeUnpublishVolumeRequest,
    ) -> Result<NodeUnpublishVolumeResponse, Status> {
        given(&request.volume_id, "volume_id")?;
        let target = Path::new(given(&request.target_path, "target_path")?);
        let _one = self.lock();
        self.volume(&request.volume_id)?;
        host::unmount(target).map_err(internal)?;
        let removed = match fs::symlink_metadata(target) {
            Ok(found) if found.is_dir() => fs::remove_dir(target), // never what is in it
            Ok(_) => fs::remove_file(target),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        };
        removed.with_context(|| format!("removing {}", target.display())).map_err(internal)?;
        Ok(NodeUnpublishVolumeResponse {})
    }
}

impl Driver {
    /// The device of a staged volume.
    fn device(&self, volume: &Volume) -> Result<Option<PathBuf>, Status> {
        let devices = host::loops(&self.volumes.image(&volume.id)).map_err(internal)?;
        if devices.iter().any(|device| device.leaving) {
            return Err(Status::aborted(format!("volume {} is still open somewhere after it was unstaged", volume.id)));
        }
        Ok(devices.into_iter().next().map(|device| device.path))
    }
}

/// Mounts the filesystem of a device, which is made if there is none, and grown if it came from a smaller snapshot.
fn mount_filesystem(
    volume: &Volume,
    mount: &MountVolume,
    read_only: bool,
    device: &Path,
    staging: &Path,
) -> anyhow::Result<()> {
    if host::is_mounted(staging)? {
        return Ok(());
    }
    let found = host::filesystem(device)?;
    let kind = match &found {
        Some(kind) => kind,
        None => {
            let kind = if mount.fs_type.is_empty() { "ext4" } else { &*mount.fs_type };
            host::make_filesystem(device, kind)?;
            kind
        }
    };
    let mut options = mount.mount_flags.clone();
    if kind == "xfs" {
        options.push("nouuid".to_owned()); // a clone has the identity of its source
    }
    if read_only {
        options.push("ro".to_owned());
    }
    place(staging, true)?;
    let grows = volume.source.is_some() && !read_only;
    if grows && kind == "ext4" {
        host::grow_ext4(device)?;
    }
    host::mount(device, staging, kind, &options)?;
    if grows && kind == "xfs" {
        host::grow_xfs(staging)?;
    }
    Ok(())
}

/// Makes an empty folder or file to mount on.
fn place(target: &Path, folder: bool) -> anyhow::Result<()> {
    let parent = target.parent().unwrap_or(target);
    let made = if folder {
        fs::create_dir_all(target)
    } else {
        let file = || fs::OpenOptions::new().create(true).append(true).open(target).map(drop);
        fs::create_dir_all(parent).and_then(|()| file())
    };
    made.with_context(|| format!("making {}", target.display()))
}

fn capability(capability: Option<&VolumeCapability>) -> Result<&VolumeCapability, Status> {
    match capability {
        Some(capability) if capability.block.is_some() != capability.mount.is_some() => Ok(capability),
        _ => Err(Status::invalid_argument("volume_capability is missing, or neither of block nor of mount")),
    }
}

fn reads_only(capability: &VolumeCapability) -> bool {
    let mode = capability.access_mode.as_ref().map_or(access_mode::WRITER, |mode| mode.mode);
    mode == access_mode::READER || mode == access_mode::READERS
}
