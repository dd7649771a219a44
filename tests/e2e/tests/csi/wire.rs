//! The bytes of messages, compared with those of the Go types that the sidecars and the kubelet are built with: the texts
//! of hex digits were printed once by a program of
//! github.com/container-storage-interface/spec v1.12.0 (lib/go/csi) and k8s.io/kubelet v0.34.4 (pluginregistration/v1),
//! with the values that stand beside them here. Every field that the driver has is set.

use prost::Message;
use wherry_e2e::csi::*;
use wherry_e2e::registration::{PluginInfo, RegistrationStatus};
use wherry_e2e::wire::Part;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// Writes the same bytes, and reads the same message from them.
fn same<M: Part + PartialEq + std::fmt::Debug>(expected: &str, message: M) {
    assert_eq!(hex(&message.encode_to_vec()), expected, "{message:?}");
    assert_eq!(M::decode(&*bytes(expected)).unwrap(), message);
}

fn t(text: &str) -> String {
    text.to_owned()
}

fn map(key: &str, value: &str) -> Texts {
    Texts::from([(t(key), t(value))])
}

fn topology(value: &str) -> Topology {
    Topology { segments: map("k", value) }
}

fn block() -> VolumeCapability {
    let access_mode = Some(AccessMode { mode: access_mode::READER });
    VolumeCapability { block: Some(BlockVolume {}), mount: None, access_mode }
}

fn mount() -> VolumeCapability {
    let mount = MountVolume { fs_type: t("xfs"), mount_flags: vec![t("a"), t("b")] };
    VolumeCapability { block: None, mount: Some(mount), access_mode: Some(AccessMode { mode: access_mode::READERS }) }
}

fn source() -> Option<VolumeContentSource> {
    Some(VolumeContentSource { snapshot: Some(SnapshotSource { snapshot_id: t("s") }), volume: None })
}

fn snapshot() -> Snapshot {
    Snapshot {
        size_bytes: 1,
        snapshot_id: t("i"),
        source_volume_id: t("v"),
        creation_time: Some(Timestamp { seconds: 2, nanos: 3 }),
        ready_to_use: true,
    }
}

#[test]
fn registration() {
    same(
        "0a017412016e1a0165220131220132",
        PluginInfo { kind: t("t"), name: t("n"), endpoint: t("e"), supported_versions: vec![t("1"), t("2")] },
    );
    same("0801120165", RegistrationStatus { plugin_registered: true, error: t("e") });
}

#[test]
fn identity_and_volumes() {
    same("0a016e120176", GetPluginInfoResponse { name: t("n"), vendor_version: t("v") });
    same(
        "0a040a0208010a040a0208020a040a020804",
        GetPluginCapabilitiesResponse {
            capabilities: [plugin_service::CONTROLLER, plugin_service::TOPOLOGY, plugin_service::SNAPSHOT_METADATA]
                .map(|kind| PluginCapability { service: Some(ServiceKind { kind }) })
                .to_vec(),
        },
    );
    same("0a020801", ProbeResponse { ready: Some(BoolValue { value: true }) });
    same(
        "0a1e08051201691a060a016312016422050a030a01732a080a060a016b12016e",
        CreateVolumeResponse {
            volume: Some(Volume {
                capacity_bytes: 5,
                volume_id: t("i"),
                volume_context: map("c", "d"),
                content_source: source(),
                accessible_topology: vec![topology("n")],
            }),
        },
    );
    same("12030a0176", VolumeContentSource { snapshot: None, volume: Some(VolumeSource { volume_id: t("v") }) });
    same("0a0176", DeleteVolumeRequest { volume_id: t("v") });
    same(
        "0a017612060a01631201641a061a0208020a0022060a0161120162",
        ValidateVolumeCapabilitiesRequest {
            volume_id: t("v"),
            volume_context: map("c", "d"),
            volume_capabilities: vec![block()],
            parameters: map("a", "b"),
        },
    );
    same(
        "0a180a060a016312016412061a0208020a001a060a016112016212016d",
        ValidateVolumeCapabilitiesResponse {
            confirmed: Some(Confirmed {
                volume_context: map("c", "d"),
                volume_capabilities: vec![block()],
                parameters: map("a", "b"),
            }),
            message: t("m"),
        },
    );
    same(
        "0a061a0208020a0012060a01611201621a080a060a016b12016e",
        GetCapacityRequest {
            volume_capabilities: vec![block()],
            parameters: map("a", "b"),
            accessible_topology: Some(topology("n")),
        },
    );
    same(
        "080712020808",
        GetCapacityResponse { available_capacity: 7, maximum_volume_size: Some(Int64Value { value: 8 }) },
    );
    same(
        "0a040a0208010a040a0208040a040a0208050a040a020806",
        ControllerGetCapabilitiesResponse {
            capabilities: [
                controller_rpc::CREATE_DELETE_VOLUME,
                controller_rpc::GET_CAPACITY,
                controller_rpc::CREATE_DELETE_SNAPSHOT,
                controller_rpc::LIST_SNAPSHOTS,
            ]
            .map(|kind| ServiceCapability { rpc: Some(Rpc { kind }) })
            .to_vec(),
        },
    );
}

#[test]
fn snapshots_and_changed_blocks() {
    same(
        "0a017612016e22060a0161120162",
        CreateSnapshotRequest { source_volume_id: t("v"), name: t("n"), parameters: map("a", "b") },
    );
    same("0a1008011201691a01762204080210032801", CreateSnapshotResponse { snapshot: Some(snapshot()) });
    same("0a0173", DeleteSnapshotRequest { snapshot_id: t("s") });
    same(
        "08041201741a0176220173",
        ListSnapshotsRequest { max_entries: 4, starting_token: t("t"), source_volume_id: t("v"), snapshot_id: t("s") },
    );
    same(
        "0a120a1008011201691a01762204080210032801120174",
        ListSnapshotsResponse { entries: vec![ListedSnapshot { snapshot: Some(snapshot()) }], next_token: t("t") },
    );
    same(
        "0a0173108080808080201806",
        GetMetadataAllocatedRequest { snapshot_id: t("s"), starting_offset: 1 << 40, max_results: 6 },
    );
    same(
        "0801108080808080401a07088080041080201a021001",
        Metadata {
            block_metadata_type: block_metadata_type::FIXED_LENGTH,
            volume_capacity_bytes: 1 << 41,
            block_metadata: vec![
                BlockMetadata { byte_offset: 65536, size_bytes: 4096 },
                BlockMetadata { byte_offset: 0, size_bytes: 1 },
            ],
        },
    );
    same(
        "0a0162120174180a2006",
        GetMetadataDeltaRequest {
            base_snapshot_id: t("b"),
            target_snapshot_id: t("t"),
            starting_offset: 10,
            max_results: 6,
        },
    );
    same(
        "08021003",
        Metadata {
            block_metadata_type: block_metadata_type::VARIABLE_LENGTH,
            volume_capacity_bytes: 3,
            block_metadata: vec![],
        },
    );
}

#[test]
fn node() {
    same(
        "0a017612060a01701201711a022f7322111a020803120b0a0378667312016112016232060a0163120164",
        NodeStageVolumeRequest {
            volume_id: t("v"),
            publish_context: map("p", "q"),
            staging_target_path: t("/s"),
            volume_capability: Some(mount()),
            volume_context: map("c", "d"),
        },
    );
    same("0a017612022f73", NodeUnstageVolumeRequest { volume_id: t("v"), staging_target_path: t("/s") });
    same(
        "0a017612060a01701201711a022f7322022f742a111a020803120b0a03786673120161120162300142060a0163120164",
        NodePublishVolumeRequest {
            volume_id: t("v"),
            publish_context: map("p", "q"),
            staging_target_path: t("/s"),
            target_path: t("/t"),
            volume_capability: Some(mount()),
            readonly: true,
            volume_context: map("c", "d"),
        },
    );
    same("0a017612022f74", NodeUnpublishVolumeRequest { volume_id: t("v"), target_path: t("/t") });
    same(
        "0a040a020801",
        NodeGetCapabilitiesResponse {
            capabilities: vec![ServiceCapability { rpc: Some(Rpc { kind: node_rpc::STAGE_UNSTAGE_VOLUME }) }],
        },
    );
    same(
        "0a016e10091a080a060a016b12016e",
        NodeGetInfoResponse { node_id: t("n"), max_volumes_per_node: 9, accessible_topology: Some(topology("n")) },
    );
}

#[test]
fn fields_that_are_not_known_are_skipped() {
    let request = CreateVolumeRequest {
        name: t("n"),
        capacity_range: Some(CapacityRange { required_bytes: 1, limit_bytes: 300 }),
        volume_capabilities: vec![mount(), block()],
        parameters: map("a", "b"),
        volume_content_source: source(),
        accessibility_requirements: Some(TopologyRequirement {
            requisite: vec![topology("r")],
            preferred: vec![topology("p")],
        }),
    };
    // `secrets`, field 5, is between what is before and after it; the driver does not know it.
    let (before, secrets, after) = (
        "0a016e1205080110ac021a111a020803120b0a037866731201611201621a061a0208020a0022060a0161120162",
        "2a060a0178120179",
        "32050a030a01733a140a080a060a016b12017212080a060a016b120170",
    );
    same(&format!("{before}{after}"), request.clone());
    assert_eq!(CreateVolumeRequest::decode(&*bytes(&format!("{before}{secrets}{after}"))).unwrap(), request);
}
