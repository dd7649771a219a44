//! The Controller service: volumes and snapshots.

use super::{Driver, Frozen, capabilities, given, internal};
use crate::csi::{
    Confirmed, ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse, CreateSnapshotRequest,
    CreateSnapshotResponse, CreateVolumeRequest, CreateVolumeResponse, DeleteSnapshotRequest, DeleteSnapshotResponse,
    DeleteVolumeRequest, DeleteVolumeResponse, GetCapacityRequest, GetCapacityResponse, ListSnapshotsRequest,
    ListSnapshotsResponse, ListedSnapshot, SnapshotSource, Timestamp, ValidateVolumeCapabilitiesRequest,
    ValidateVolumeCapabilitiesResponse, VolumeCapability, VolumeContentSource, controller_rpc,
};
use crate::store::{Snapshot, Table, Volume};
use crate::{csi, faults, host, images};
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::Status;

/// Size of a volume that is asked for without one, bytes.
const DEFAULT_SIZE: u64 = 1 << 30;

impl Driver {
    pub(crate) fn controller_get_capabilities(
        &self,
        _: ControllerGetCapabilitiesRequest,
    ) -> Result<ControllerGetCapabilitiesResponse, Status> {
        let mut kinds = vec![
            controller_rpc::CREATE_DELETE_VOLUME,
            controller_rpc::GET_CAPACITY,
            controller_rpc::CREATE_DELETE_SNAPSHOT,
        ];
        if !self.has(&faults::LIST_SNAPSHOTS_UNSUPPORTED)? {
            kinds.push(controller_rpc::LIST_SNAPSHOTS);
        }
        Ok(ControllerGetCapabilitiesResponse { capabilities: capabilities(kinds) })
    }

    pub(crate) fn validate_volume_capabilities(
        &self,
        request: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse, Status> {
        self.volume(&request.volume_id)?;
        check_capabilities(&request.volume_capabilities)?;
        let confirmed = Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
        };
        Ok(ValidateVolumeCapabilitiesResponse { confirmed: Some(confirmed), message: String::new() })
    }

    pub(crate) fn get_capacity(&self, _: GetCapacityRequest) -> Result<GetCapacityResponse, Status> {
        let dir = &self.options.data_dir;
        let room = rustix::fs::statvfs(dir).map_err(|e| Status::internal(format!("{}: {e}", dir.display())))?;
        let available_capacity = i64::try_from(room.f_bavail.saturating_mul(room.f_frsize)).unwrap_or(i64::MAX);
        Ok(GetCapacityResponse { available_capacity, maximum_volume_size: None })
    }

    pub(crate) fn create_volume(&self, request: CreateVolumeRequest) -> Result<CreateVolumeResponse, Status> {
        given(&request.name, "name")?;
        let block = check_capabilities(&request.volume_capabilities)?;
        self.check_topology(&request)?;
        let source = source(request.volume_content_source.as_ref())?;
        let range = request.capacity_range.clone().unwrap_or_default();
        if range.required_bytes < 0 || range.limit_bytes < 0 {
            return Err(Status::invalid_argument("capacity_range has a negative size"));
        }
        let (required, limit) = (range.required_bytes.cast_unsigned(), range.limit_bytes.cast_unsigned());
        let _one = self.lock();
        let id = id_of("vol", &request.name);
        if let Some(old) = self.volumes.get(&id).map_err(internal)? {
            let fits = old.size >= required && (limit == 0 || old.size <= limit);
            if !fits || old.source != source || old.block != block {
                let name = &request.name;
                return Err(Status::already_exists(format!(
                    "volume {name:?} exists with another size, source or mode"
                )));
            }
            return self.created(&old);
        }
        self.strike(&faults::CREATE_VOLUME_FAILS)?;
        let snapshot = source.as_deref().map(|source| self.snapshot(source)).transpose()?;
        let least = snapshot.as_ref().map_or(0, |snapshot| snapshot.size);
        let size = match (required, limit, least) {
            (0, 0, 0) => DEFAULT_SIZE,
            (0, limit, 0) => limit.min(DEFAULT_SIZE) / self.options.block_size * self.options.block_size,
            (0, _, least) => least,
            (required, ..) => required,
        };
        let size = size.max(1).checked_next_multiple_of(self.options.block_size).unwrap_or(u64::MAX);
        if size < least || (limit != 0 && size > limit) || size > i64::MAX.cast_unsigned() {
            let message = format!("a volume of {size} bytes is smaller than its source or beyond the limit of {limit}");
            return Err(Status::out_of_range(message));
        }
        let mut volume = Volume { id, name: request.name, size, block, source, copying: None };
        self.fill(&mut volume, snapshot.as_ref())?;
        self.volumes.put(&volume).map_err(internal)?;
        self.created(&volume)
    }

    /// Makes the bytes of a new volume.
    fn fill(&self, volume: &mut Volume, snapshot: Option<&Snapshot>) -> Result<(), Status> {
        let image = self.volumes.image(&volume.id);
        if let Some(snapshot) = snapshot {
            if snapshot.unready > 0 || self.has(&faults::SNAPSHOT_NEVER_READY)? {
                return Err(Status::unavailable(format!("snapshot {} is not ready", snapshot.id)));
            }
            volume.copying = self.faults.amount(&faults::CLONE_IN_BACKGROUND).map_err(internal)?;
            if volume.copying.is_none() {
                return images::copy(&self.snapshots.image(&snapshot.id), &image, volume.size).map_err(internal);
            }
        }
        images::create(&image, volume.size).map_err(internal)?;
        if snapshot.is_none() && self.has(&faults::OLD_BYTES)? {
            images::fill(&image, 0..volume.size).map_err(internal)?;
        }
        Ok(())
    }

    /// The answer about a volume that is there. One that says it is not done yet is asked again by the provisioner, also
    /// after the PVC is gone: in the end there is a PV for nobody.
    fn created(&self, volume: &Volume) -> Result<CreateVolumeResponse, Status> {
        if self.faults.strikes(&faults::CREATE_VOLUME_SLOW).map_err(internal)? {
            let name = faults::CREATE_VOLUME_SLOW.name;
            return Err(Status::deadline_exceeded(format!("volume {} is still being made ({name})", volume.id)));
        }
        let snapshot = |id: &String| SnapshotSource { snapshot_id: id.clone() };
        let content_source =
            volume.source.as_ref().map(|id| VolumeContentSource { snapshot: Some(snapshot(id)), volume: None });
        let volume = csi::Volume {
            capacity_bytes: volume.size.cast_signed(),
            volume_id: volume.id.clone(),
            content_source,
            accessible_topology: vec![self.topology()],
            ..Default::default()
        };
        Ok(CreateVolumeResponse { volume: Some(volume) })
    }

    /// Whether the volume may be where the driver can make it: on this node.
    fn check_topology(&self, request: &CreateVolumeRequest) -> Result<(), Status> {
        let requisite = request.accessibility_requirements.as_ref().map_or(&[][..], |asked| &asked.requisite);
        if requisite.is_empty() || requisite.contains(&self.topology()) {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!("volumes can be made on node {} only", self.options.node)))
    }

    pub(crate) fn delete_volume(&self, request: DeleteVolumeRequest) -> Result<DeleteVolumeResponse, Status> {
        let id = given(&request.volume_id, "volume_id")?;
        let _one = self.lock();
        let Some(volume) = self.volumes.get(id).map_err(internal)? else { return Ok(DeleteVolumeResponse {}) };
        self.strike(&faults::DELETE_VOLUME_FAILS)?;
        if !host::loops(&self.volumes.image(id)).map_err(internal)?.is_empty() {
            return Err(Status::failed_precondition(format!("volume {id} is still staged")));
        }
        for table in self.tables.all().map_err(internal)? {
            if table.volume == volume.id {
                self.tables.remove(&table.id).map_err(internal)?;
            }
        }
        self.volumes.remove(id).map_err(internal)?;
        Ok(DeleteVolumeResponse {})
    }

    pub(crate) fn create_snapshot(&self, request: CreateSnapshotRequest) -> Result<CreateSnapshotResponse, Status> {
        given(&request.name, "name")?;
        given(&request.source_volume_id, "source_volume_id")?;
        let _one = self.lock();
        let id = id_of("snap", &request.name);
        if let Some(old) = self.snapshots.get(&id).map_err(internal)? {
            if old.volume != request.source_volume_id {
                let message = format!("snapshot {:?} exists, of volume {}", request.name, old.volume);
                return Err(Status::already_exists(message));
            }
            return Ok(CreateSnapshotResponse { snapshot: Some(self.answer(old)?) });
        }
        self.strike(&faults::CREATE_SNAPSHOT_FAILS)?;
        let mut volume = self.volume(&request.source_volume_id)?;
        self.settle(&mut volume)?;
        self.take(&volume, &id).map_err(internal)?;
        let (seconds, nanos) = now();
        let block_size = self.options.block_size;
        let hashes = images::hashes(&self.snapshots.image(&id), block_size).map_err(internal)?;
        let table = Table { id: id.clone(), volume: volume.id.clone(), block_size, hashes };
        self.tables.put(&table).map_err(internal)?;
        let snapshot = Snapshot {
            id,
            name: request.name,
            volume: volume.id,
            size: volume.size,
            seconds,
            nanos,
            unready: self.faults.amount(&faults::SNAPSHOT_LATE).map_err(internal)?.unwrap_or(0),
        };
        self.snapshots.put(&snapshot).map_err(internal)?;
        Ok(CreateSnapshotResponse { snapshot: Some(self.answer(snapshot)?) })
    }

    /// Copies the bytes of a volume at this moment. A mounted filesystem is frozen meanwhile; a Block volume is as it
    /// would be after a loss of power.
    fn take(&self, volume: &Volume, id: &str) -> anyhow::Result<()> {
        let image = self.volumes.image(&volume.id);
        let mut frozen = None;
        for device in host::loops(&image)? {
            if let Some(mount) = host::mounts_of(&device.path)?.first() {
                frozen = Some(Frozen::new(&self.options.data_dir, &volume.id, &mount.target)?);
            }
            host::flush(&device.path)?;
        }
        let copied = images::copy(&image, &self.snapshots.image(id), volume.size);
        drop(frozen);
        copied
    }

    /// A snapshot as the driver tells of it, which counts.
    fn answer(&self, mut snapshot: Snapshot) -> Result<csi::Snapshot, Status> {
        let ready_to_use = snapshot.unready == 0 && !self.has(&faults::SNAPSHOT_NEVER_READY)?;
        if snapshot.unready > 0 {
            snapshot.unready -= 1;
            self.snapshots.put(&snapshot).map_err(internal)?;
        }
        let size = if self.has(&faults::SNAPSHOT_WITHOUT_SIZE)? { 0 } else { snapshot.size };
        let ahead = self.faults.amount(&faults::SNAPSHOT_CLOCK_AHEAD).map_err(internal)?.unwrap_or(0);
        let seconds = snapshot.seconds.saturating_add_unsigned(ahead);
        Ok(csi::Snapshot {
            size_bytes: size.cast_signed(),
            snapshot_id: snapshot.id,
            source_volume_id: snapshot.volume,
            creation_time: Some(Timestamp { seconds, nanos: snapshot.nanos }),
            ready_to_use,
        })
    }

    pub(crate) fn delete_snapshot(&self, request: DeleteSnapshotRequest) -> Result<DeleteSnapshotResponse, Status> {
        let id = given(&request.snapshot_id, "snapshot_id")?;
        let _one = self.lock();
        let Some(snapshot) = self.snapshots.get(id).map_err(internal)? else { return Ok(DeleteSnapshotResponse {}) };
        self.strike(&faults::DELETE_SNAPSHOT_FAILS)?;
        let mut clones = self.volumes.all().map_err(internal)?;
        clones.retain(|volume| volume.source.as_deref() == Some(id));
        // All of them get on, also when one is not there yet.
        let settled: Vec<_> = clones.iter_mut().map(|clone| self.settle(clone)).collect();
        settled.into_iter().collect::<Result<(), Status>>()?;
        if let Some(clone) = clones.first()
            && self.has(&faults::SNAPSHOT_HELD_BY_CLONES)?
        {
            let message = format!("snapshot {id} is held by volume {}, which was made from it", clone.id);
            return Err(Status::failed_precondition(message));
        }
        let volume = self.volumes.get(&snapshot.volume).map_err(internal)?;
        if volume.is_none() || self.has(&faults::DELTA_NEEDS_BASE)? {
            self.tables.remove(id).map_err(internal)?;
        }
        self.snapshots.remove(id).map_err(internal)?;
        Ok(DeleteSnapshotResponse {})
    }

    pub(crate) fn list_snapshots(&self, request: ListSnapshotsRequest) -> Result<ListSnapshotsResponse, Status> {
        if self.has(&faults::LIST_SNAPSHOTS_UNSUPPORTED)? {
            return Err(Status::unimplemented("ListSnapshots is not supported"));
        }
        let _one = self.lock();
        let mut found = self.snapshots.all().map_err(internal)?;
        found.retain(|snapshot| {
            (request.snapshot_id.is_empty() || snapshot.id == request.snapshot_id)
                && (request.source_volume_id.is_empty() || snapshot.volume == request.source_volume_id)
        });
        // A token is the last id that was told.
        if !request.starting_token.is_empty() {
            if !found.iter().any(|snapshot| snapshot.id == request.starting_token) {
                return Err(Status::aborted(format!("starting_token {:?} is of no snapshot", request.starting_token)));
            }
            found.retain(|snapshot| snapshot.id > request.starting_token);
        }
        let most = usize::try_from(request.max_entries).unwrap_or(0);
        let cut = most != 0 && found.len() > most;
        if cut {
            found.truncate(most);
        }
        let next_token = found.last().filter(|_| cut).map_or_else(String::new, |last| last.id.clone());
        let entry = |snapshot| Ok(ListedSnapshot { snapshot: Some(self.answer(snapshot)?) });
        let entries = found.into_iter().map(entry).collect::<Result<_, Status>>()?;
        Ok(ListSnapshotsResponse { entries, next_token })
    }
}

/// Whether they are of a Block volume; an error if the driver has no such volumes.
fn check_capabilities(capabilities: &[VolumeCapability]) -> Result<bool, Status> {
    if capabilities.is_empty() {
        return Err(Status::invalid_argument("volume_capabilities is missing"));
    }
    let mut blocks = 0;
    for capability in capabilities {
        match (&capability.block, &capability.mount) {
            (Some(_), None) => blocks += 1,
            (None, Some(mount)) if ["", "ext4", "xfs"].contains(&&*mount.fs_type) => {}
            (None, Some(mount)) => {
                let message = format!("fs_type {:?} is not supported; ext4 and xfs are", mount.fs_type);
                return Err(Status::invalid_argument(message));
            }
            _ => return Err(Status::invalid_argument("a volume capability is of block or of mount")),
        }
    }
    if blocks != 0 && blocks != capabilities.len() {
        return Err(Status::invalid_argument("a volume is Block or Filesystem, not both"));
    }
    Ok(blocks != 0)
}

/// The snapshot that a volume is to be made from.
fn source(content: Option<&VolumeContentSource>) -> Result<Option<String>, Status> {
    match content {
        None => Ok(None),
        Some(VolumeContentSource { snapshot: Some(snapshot), .. }) => {
            given(&snapshot.snapshot_id, "snapshot_id").map(|id| Some(id.to_owned()))
        }
        Some(_) => Err(Status::invalid_argument("volumes are made from snapshots, not from volumes")),
    }
}

/// The same name has the same id.
fn id_of(kind: &str, name: &str) -> String {
    let hash = blake3::hash(name.as_bytes()).to_hex();
    format!("{kind}-{}", &hash[..20])
}

/// Seconds since 1970, and nanoseconds.
#[expect(clippy::disallowed_methods, reason = "the real time, which nothing here decides by")]
fn now() -> (i64, i32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs().cast_signed(), since.subsec_nanos().cast_signed())
}
