//! What fuzzing of `crates` begins with.

use std::collections::BTreeMap;
use wherry_api::settings::ENTRIES;
use wherry_repo::{Codec, Compression, decoders as of_repo};

const TEXT: &[u8] = b"wherry wherry wherry wherry wherry wherry wherry wherry wherry wherry wherry";

fn packed(codec: Codec, plain: usize, packed: &[u8]) -> Vec<u8> {
    [&[codec as u8][..], &plain.to_le_bytes()[..3], packed].concat()
}

/// A frame, as a writer makes it. libFuzzer, which does not see into C, does not come upon one.
pub(super) fn zstd(plain: &[u8]) -> Vec<u8> {
    let (codec, frame) = of_repo::packed(Compression::Zstd(3), plain).expect("a seed can be made");
    assert_eq!(codec, Codec::Zstd, "it is not shorter than what is in it");
    packed(codec, plain.len(), &frame)
}

/// A message of the service of changed blocks, by the rules of the encoding: type 2, capacity 1 MiB, two ranges.
fn blocks() -> Vec<u8> {
    let message = [
        &[0x08, 2, 0x10, 0x80, 0x80, 0x40][..],
        &[0x1a, 6, 0x08, 0x80, 0x20, 0x10, 0x80, 0x20],
        &[0x1a, 7, 0x08, 0x80, 0x80, 0x08, 0x10, 0x80, 0x20],
    ];
    let message = message.concat();
    [&(1_u64 << 20).to_le_bytes()[..], &(message.len() as u16).to_le_bytes(), &message].concat()
}

/// All settings with their defaults, and one of them for a class.
fn settings() -> Vec<u8> {
    let mut data: BTreeMap<&str, &str> = ENTRIES.iter().map(|entry| (entry.key, entry.default)).collect();
    data.insert("keepBase.fast", "never");
    serde_json::to_vec(&data).expect("texts can be written")
}

const AWS: &str = r#"{"metadata":{"name":"a"},"spec":{"provider":"velero.io/aws","objectStorage":{"bucket":"b","prefix":"p"},"config":{"region":"r","s3Url":"http://localhost:1","s3ForcePathStyle":"true","kmsKeyId":"k"},"credential":{"name":"s","key":"cloud"}}}
[default]
aws_access_key_id=a
aws_secret_access_key=s
"#;
const AZURE: &str = r#"{"spec":{"provider":"azure","objectStorage":{"bucket":"b"},"config":{"storageAccount":"a","storageAccountKeyEnvVar":"KEY"}}}
export KEY="secret"
AZURE_CLOUD_NAME=AzureUSGovernmentCloud
"#;
const LIST: &str = r#"{"kind":"DataUploadList","metadata":{"resourceVersion":"7","continue":"c"},"items":[{"metadata":{"name":"a","managedFields":[{}]}}]}"#;
const WATCH: &str = r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"8"}}}
{"type":"DELETED","object":{"metadata":{"name":"a"}}}
{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}
{"type":"ERROR","object":{"code":410,"message":"too old"}}
"#;
const REFUSED: &str = r#"{"kind":"Status","reason":"NotFound","message":"m","details":{"name":"a"}}"#;
const TOKEN: &str =
    r#"{"kind":"TokenRequest","status":{"token":"a.b.c","expirationTimestamp":"2026-11-26T13:00:00Z"}}"#;
const GROUPS: &str =
    r#"{"groups":[{"name":"cbt.storage.k8s.io","versions":[{"version":"v1alpha1"},{"version":"v1beta1"}]}]}"#;
const SERVICE: &str = r#"{"spec":{"address":"10.0.0.1:1","audience":"a","caCert":"UEVN"}}"#;
const RECORDED: &str = r#"{"repository":"1","location":"a","earlier":[{"repository":"2","location":"b"}]}"#;
const CONFIG: &str = "repo = \"/r\"\nmemory = \"1G\"\nkeep-daily = 7\nkeep-within = \"30d\"\nexclude = [\"*.tmp\"]\ncompression = \"zstd:3\"\nsample = \"10%\"\n";
const MOUNTS: &str = "36 35 98:0 / /mnt\\0401 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n36 35 0:7 / /b rw - tmpfs tmpfs ro\n";
const S3: &str = "\0<?xml?><ListBucketResult xmlns=\"x\"><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>";
const BLOBS: &str = "\x01<EnumerationResults><Blobs></Blobs><NextMarker/></EnumerationResults>";
const ERROR: &str = "\x02<?xml?><Error><Code>NoSuchBucket</Code><Message>gone</Message></Error>";
const PROFILE: &str = "\x03default\n[default]\naws_access_key_id = a\n# no\n[profile b]\nregion = r\n";
const PART: &str = "\x06Generic MicrosoftAzure error: request failed for key a/b: The lease is held (code: 412)";
const HOLDER: &str = "\x04backup of \"vm1\" node-1 77 1779999999000000000";

pub(super) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let [bundle, slot, record, epoch] = of_repo::seeds().expect("seeds can be made");
    let text = |target, name, text: &str| (target, name, text.as_bytes().to_vec());
    // Of all but the last byte nothing repeats: one run of literals, as the format of LZ4 blocks has it.
    let lz4 = [&[0xf0, TEXT.len() as u8 - 15][..], TEXT].concat();
    vec![
        ("key_bundle", "two", bundle),
        ("key_slot", "slot", [&[0], &slot[..]].concat()),
        ("key_slot", "record", [&[1], &record[..]].concat()),
        ("key_slot", "epoch", [&[0], &epoch[..]].concat()),
        ("packed", "raw", packed(Codec::Raw, TEXT.len(), TEXT)),
        ("packed", "lz4", packed(Codec::Lz4, TEXT.len(), &lz4)),
        ("packed", "zstd", zstd(TEXT)),
        ("block_answers", "two", blocks()),
        ("settings", "all", settings()),
        text("location", "aws", AWS),
        text("location", "azure", AZURE),
        text("location", "recorded", RECORDED),
        text("kubernetes_answers", "list", LIST),
        text("kubernetes_answers", "watch", WATCH),
        text("kubernetes_answers", "refused", REFUSED),
        text("kubernetes_answers", "groups", GROUPS),
        text("kubernetes_answers", "service", SERVICE),
        text("kubernetes_answers", "token", TOKEN),
        text("kubernetes_answers", "retry-after", "120"),
        text("config_file", "few", CONFIG),
        text("mounts", "two", MOUNTS),
        text("storage_texts", "s3", S3),
        text("storage_texts", "azure", BLOBS),
        text("storage_texts", "error", ERROR),
        text("storage_texts", "profile", PROFILE),
        text("storage_texts", "holder", HOLDER),
        text("storage_texts", "date", "\x05Thu, 26 Nov 2026 13:00:00 GMT"),
        text("storage_texts", "batch", PART),
        text("glob", "set", "a*[!b-d]\\?x?\nabce?xy"),
    ]
}
