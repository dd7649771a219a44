//! CSI: messages, numbers and methods that the driver needs, after `csi.proto` of the specification, v1.12.0
//! (github.com/container-storage-interface/spec). Enums are numbers; secrets, which nobody sends here, are left out.

use crate::wire::{Method, messages};
use std::collections::BTreeMap;

/// `map<string, string>`.
pub type Texts = BTreeMap<String, String>;

messages! {
    /// google.protobuf.
    BoolValue { 1 value: bool }
    /// google.protobuf: seconds since 1970 and nanoseconds.
    Timestamp { 1 seconds: i64, 2 nanos: i32 }
    /// google.protobuf.
    Int64Value { 1 value: i64 }

    GetPluginInfoRequest {}
    GetPluginInfoResponse { 1 name: String, 2 vendor_version: String }
    GetPluginCapabilitiesRequest {}
    GetPluginCapabilitiesResponse { 1 capabilities: Vec<PluginCapability> }
    /// Its oneof.
    PluginCapability { 1 service: Option<ServiceKind> }
    /// `PluginCapability.Service`; of `plugin_service`.
    ServiceKind { 1 kind: i32 }
    ProbeRequest {}
    ProbeResponse { 1 ready: Option<BoolValue> }

    CreateVolumeRequest {
        1 name: String,
        2 capacity_range: Option<CapacityRange>,
        3 volume_capabilities: Vec<VolumeCapability>,
        4 parameters: Texts,
        6 volume_content_source: Option<VolumeContentSource>,
        7 accessibility_requirements: Option<TopologyRequirement>,
    }
    /// Its oneof.
    VolumeContentSource { 1 snapshot: Option<SnapshotSource>, 2 volume: Option<VolumeSource> }
    /// `VolumeContentSource.SnapshotSource`.
    SnapshotSource { 1 snapshot_id: String }
    /// `VolumeContentSource.VolumeSource`.
    VolumeSource { 1 volume_id: String }
    CreateVolumeResponse { 1 volume: Option<Volume> }
    /// Block or mount is its oneof, which Go writes last.
    VolumeCapability { 3 access_mode: Option<AccessMode>, 1 block: Option<BlockVolume>, 2 mount: Option<MountVolume> }
    /// `VolumeCapability.BlockVolume`.
    BlockVolume {}
    /// `VolumeCapability.MountVolume`.
    MountVolume { 1 fs_type: String, 2 mount_flags: Vec<String> }
    /// `VolumeCapability.AccessMode`; of `access_mode`.
    AccessMode { 1 mode: i32 }
    /// Bytes; 0 is: not said.
    CapacityRange { 1 required_bytes: i64, 2 limit_bytes: i64 }
    Volume {
        1 capacity_bytes: i64,
        2 volume_id: String,
        3 volume_context: Texts,
        4 content_source: Option<VolumeContentSource>,
        5 accessible_topology: Vec<Topology>,
    }
    TopologyRequirement { 1 requisite: Vec<Topology>, 2 preferred: Vec<Topology> }
    Topology { 1 segments: Texts }
    DeleteVolumeRequest { 1 volume_id: String }
    DeleteVolumeResponse {}
    ValidateVolumeCapabilitiesRequest {
        1 volume_id: String,
        2 volume_context: Texts,
        3 volume_capabilities: Vec<VolumeCapability>,
        4 parameters: Texts,
    }
    ValidateVolumeCapabilitiesResponse { 1 confirmed: Option<Confirmed>, 2 message: String }
    /// `ValidateVolumeCapabilitiesResponse.Confirmed`.
    Confirmed { 1 volume_context: Texts, 2 volume_capabilities: Vec<VolumeCapability>, 3 parameters: Texts }
    GetCapacityRequest { 1 volume_capabilities: Vec<VolumeCapability>, 2 parameters: Texts, 3 accessible_topology: Option<Topology> }
    GetCapacityResponse { 1 available_capacity: i64, 2 maximum_volume_size: Option<Int64Value> }
    ControllerGetCapabilitiesRequest {}
    ControllerGetCapabilitiesResponse { 1 capabilities: Vec<ServiceCapability> }
    /// `ControllerServiceCapability` and `NodeServiceCapability`, which are alike.
    ServiceCapability { 1 rpc: Option<Rpc> }
    /// Their `RPC`; of `controller_rpc` and `node_rpc`.
    Rpc { 1 kind: i32 }
    CreateSnapshotRequest { 1 source_volume_id: String, 2 name: String, 4 parameters: Texts }
    CreateSnapshotResponse { 1 snapshot: Option<Snapshot> }
    Snapshot {
        1 size_bytes: i64,
        2 snapshot_id: String,
        3 source_volume_id: String,
        4 creation_time: Option<Timestamp>,
        5 ready_to_use: bool,
    }
    DeleteSnapshotRequest { 1 snapshot_id: String }
    DeleteSnapshotResponse {}
    ListSnapshotsRequest { 1 max_entries: i32, 2 starting_token: String, 3 source_volume_id: String, 4 snapshot_id: String }
    ListSnapshotsResponse { 1 entries: Vec<ListedSnapshot>, 2 next_token: String }
    /// `ListSnapshotsResponse.Entry`.
    ListedSnapshot { 1 snapshot: Option<Snapshot> }

    NodeStageVolumeRequest {
        1 volume_id: String,
        2 publish_context: Texts,
        3 staging_target_path: String,
        4 volume_capability: Option<VolumeCapability>,
        6 volume_context: Texts,
    }
    NodeStageVolumeResponse {}
    NodeUnstageVolumeRequest { 1 volume_id: String, 2 staging_target_path: String }
    NodeUnstageVolumeResponse {}
    NodePublishVolumeRequest {
        1 volume_id: String,
        2 publish_context: Texts,
        3 staging_target_path: String,
        4 target_path: String,
        5 volume_capability: Option<VolumeCapability>,
        6 readonly: bool,
        8 volume_context: Texts,
    }
    NodePublishVolumeResponse {}
    NodeUnpublishVolumeRequest { 1 volume_id: String, 2 target_path: String }
    NodeUnpublishVolumeResponse {}
    NodeGetCapabilitiesRequest {}
    NodeGetCapabilitiesResponse { 1 capabilities: Vec<ServiceCapability> }
    NodeGetInfoRequest {}
    NodeGetInfoResponse { 1 node_id: String, 2 max_volumes_per_node: i64, 3 accessible_topology: Option<Topology> }

    /// A range of bytes.
    BlockMetadata { 1 byte_offset: i64, 2 size_bytes: i64 }
    GetMetadataAllocatedRequest { 1 snapshot_id: String, 2 starting_offset: i64, 3 max_results: i32 }
    GetMetadataDeltaRequest {
        1 base_snapshot_id: String,
        2 target_snapshot_id: String,
        3 starting_offset: i64,
        4 max_results: i32,
    }
    /// `GetMetadataAllocatedResponse` and `GetMetadataDeltaResponse`, which are alike. `block_metadata_type` is of the
    /// module of that name.
    Metadata { 1 block_metadata_type: i32, 2 volume_capacity_bytes: i64, 3 block_metadata: Vec<BlockMetadata> }
}

/// `PluginCapability.Service.Type`.
pub mod plugin_service {
    /// CONTROLLER_SERVICE.
    pub const CONTROLLER: i32 = 1;
    /// VOLUME_ACCESSIBILITY_CONSTRAINTS: topology.
    pub const TOPOLOGY: i32 = 2;
    /// SNAPSHOT_METADATA_SERVICE.
    pub const SNAPSHOT_METADATA: i32 = 4;
}

/// `ControllerServiceCapability.RPC.Type`.
pub mod controller_rpc {
    /// CREATE_DELETE_VOLUME.
    pub const CREATE_DELETE_VOLUME: i32 = 1;
    /// GET_CAPACITY.
    pub const GET_CAPACITY: i32 = 4;
    /// CREATE_DELETE_SNAPSHOT.
    pub const CREATE_DELETE_SNAPSHOT: i32 = 5;
    /// LIST_SNAPSHOTS.
    pub const LIST_SNAPSHOTS: i32 = 6;
}

/// `NodeServiceCapability.RPC.Type`.
pub mod node_rpc {
    /// STAGE_UNSTAGE_VOLUME.
    pub const STAGE_UNSTAGE_VOLUME: i32 = 1;
}

/// `VolumeCapability.AccessMode.Mode`.
pub mod access_mode {
    /// SINGLE_NODE_WRITER.
    pub const WRITER: i32 = 1;
    /// SINGLE_NODE_READER_ONLY.
    pub const READER: i32 = 2;
    /// MULTI_NODE_READER_ONLY.
    pub const READERS: i32 = 3;
}

/// `BlockMetadataType`.
pub mod block_metadata_type {
    /// FIXED_LENGTH.
    pub const FIXED_LENGTH: i32 = 1;
    /// VARIABLE_LENGTH.
    pub const VARIABLE_LENGTH: i32 = 2;
}

macro_rules! methods {
    ($($name:ident: $service:ident $method:ident, $request:ident => $response:ident;)*) => {$(
        #[doc = concat!("`", stringify!($method), "` of the service `", stringify!($service), "`.")]
        pub const $name: Method<$request, $response> =
            Method::new(concat!("/csi.v1.", stringify!($service), "/", stringify!($method)));
    )*};
}

methods! {
    GET_PLUGIN_INFO: Identity GetPluginInfo, GetPluginInfoRequest => GetPluginInfoResponse;
    GET_PLUGIN_CAPABILITIES: Identity GetPluginCapabilities, GetPluginCapabilitiesRequest => GetPluginCapabilitiesResponse;
    PROBE: Identity Probe, ProbeRequest => ProbeResponse;
    CREATE_VOLUME: Controller CreateVolume, CreateVolumeRequest => CreateVolumeResponse;
    DELETE_VOLUME: Controller DeleteVolume, DeleteVolumeRequest => DeleteVolumeResponse;
    VALIDATE_VOLUME_CAPABILITIES: Controller ValidateVolumeCapabilities,
        ValidateVolumeCapabilitiesRequest => ValidateVolumeCapabilitiesResponse;
    GET_CAPACITY: Controller GetCapacity, GetCapacityRequest => GetCapacityResponse;
    CONTROLLER_GET_CAPABILITIES: Controller ControllerGetCapabilities,
        ControllerGetCapabilitiesRequest => ControllerGetCapabilitiesResponse;
    CREATE_SNAPSHOT: Controller CreateSnapshot, CreateSnapshotRequest => CreateSnapshotResponse;
    DELETE_SNAPSHOT: Controller DeleteSnapshot, DeleteSnapshotRequest => DeleteSnapshotResponse;
    LIST_SNAPSHOTS: Controller ListSnapshots, ListSnapshotsRequest => ListSnapshotsResponse;
    NODE_STAGE_VOLUME: Node NodeStageVolume, NodeStageVolumeRequest => NodeStageVolumeResponse;
    NODE_UNSTAGE_VOLUME: Node NodeUnstageVolume, NodeUnstageVolumeRequest => NodeUnstageVolumeResponse;
    NODE_PUBLISH_VOLUME: Node NodePublishVolume, NodePublishVolumeRequest => NodePublishVolumeResponse;
    NODE_UNPUBLISH_VOLUME: Node NodeUnpublishVolume, NodeUnpublishVolumeRequest => NodeUnpublishVolumeResponse;
    NODE_GET_CAPABILITIES: Node NodeGetCapabilities, NodeGetCapabilitiesRequest => NodeGetCapabilitiesResponse;
    NODE_GET_INFO: Node NodeGetInfo, NodeGetInfoRequest => NodeGetInfoResponse;
    GET_METADATA_ALLOCATED: SnapshotMetadata GetMetadataAllocated, GetMetadataAllocatedRequest => Metadata;
    GET_METADATA_DELTA: SnapshotMetadata GetMetadataDelta, GetMetadataDeltaRequest => Metadata;
}
