//! The messages of the service, after `schema.proto` of KEP-3314 (package `snapshotmetadata`), by hand: prost's derive would, by
//! a feature beneath bindgen, mean a second build of RocksDB. Only what is asked is written, and only what is answered is read.

use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, int32, int64, message, skip_field, string};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Which blocks of the snapshot hold data.
pub(super) const ALLOCATED: &str = "/snapshotmetadata.SnapshotMetadata/GetMetadataAllocated";
/// Which of its blocks differ from an earlier snapshot's.
pub(super) const DELTA: &str = "/snapshotmetadata.SnapshotMetadata/GetMetadataDelta";

/// `GetMetadataAllocatedRequest`, or with a base `GetMetadataDeltaRequest`. Never printed: it holds a token.
pub(super) struct Request {
    /// `security_token`.
    pub(super) token: String,
    /// `namespace` of the VolumeSnapshot.
    pub(super) namespace: String,
    /// `base_snapshot_id`: the driver's name of the earlier snapshot.
    pub(super) base: Option<String>,
    /// `snapshot_name`, `target_snapshot_name`: the VolumeSnapshot.
    pub(super) snapshot: String,
    /// `starting_offset`: bytes.
    pub(super) start: i64,
    /// `max_results`: ranges in a message.
    pub(super) most: i32,
}

impl Request {
    fn put(&self, buf: &mut impl BufMut) {
        string::encode(1, &self.token, buf);
        string::encode(2, &self.namespace, buf);
        // The base stands before the snapshot, and moves what follows.
        let after = match &self.base {
            None => 3,
            Some(base) => {
                string::encode(3, base, buf);
                4
            }
        };
        string::encode(after, &self.snapshot, buf);
        int64::encode(after + 1, &self.start, buf);
        int32::encode(after + 2, &self.most, buf);
    }
}

/// `GetMetadataAllocatedResponse` and `GetMetadataDeltaResponse`, which are alike.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Answer {
    /// `volume_capacity_bytes`.
    pub(super) capacity: i64,
    /// `block_metadata`.
    pub(super) blocks: Vec<Block>,
}

/// `BlockMetadata`: a range of bytes.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Block {
    /// `byte_offset`.
    pub(super) offset: i64,
    /// `size_bytes`.
    pub(super) size: i64,
}

/// What both types are to prost: fields by their numbers; others are passed over.
macro_rules! message {
    ($name:ident { $($tag:literal $field:ident: $module:ident $encode:ident $merge:ident $length:ident),* }) => {
        impl Message for $name {
            fn encode_raw(&self, buf: &mut impl BufMut) {
                $($module::$encode($tag, &self.$field, buf);)*
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire: WireType,
                buf: &mut impl Buf,
                context: DecodeContext,
            ) -> Result<(), DecodeError> {
                match tag {
                    $($tag => $module::$merge(wire, &mut self.$field, buf, context),)*
                    _ => skip_field(wire, tag, buf, context),
                }
            }

            fn encoded_len(&self) -> usize {
                0 $(+ $module::$length($tag, &self.$field))*
            }

            fn clear(&mut self) {
                *self = Self::default();
            }
        }
    };
}

message!(Block { 1 offset: int64 encode merge encoded_len, 2 size: int64 encode merge encoded_len });
message!(Answer {
    2 capacity: int64 encode merge encoded_len,
    3 blocks: message encode_repeated merge_repeated encoded_len_repeated
});

/// Between these messages and their bytes, as tonic wants it.
#[derive(Default, Clone, Copy)]
pub(super) struct Proto;

impl Codec for Proto {
    type Encode = Request;
    type Decode = Answer;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Proto {
    type Item = Request;
    type Error = Status;

    fn encode(&mut self, request: Request, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.put(buf);
        Ok(())
    }
}

impl Decoder for Proto {
    type Item = Answer;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Answer>, Status> {
        // What cannot be read is no answer that anything of which could be believed.
        Answer::decode(buf).map(Some).map_err(|e| Status::data_loss(format!("bytes that are no such message: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(base: Option<&str>) -> Vec<u8> {
        let base = base.map(ToOwned::to_owned);
        let (token, namespace, snapshot) = ("t".to_owned(), "n".to_owned(), "s".to_owned());
        let mut bytes = Vec::new();
        Request { token, namespace, base, snapshot, start: 300, most: 7 }.put(&mut bytes);
        bytes
    }

    /// Against bytes written by the rules of the encoding: key (number << 3 | type), then length or varint.
    #[test]
    fn requests_are_written_by_number() {
        let begin = [0x0a, 1, b't', 0x12, 1, b'n'];
        assert_eq!(request(None), [&begin[..], &[0x1a, 1, b's', 0x20, 0xac, 2, 0x28, 7]].concat());
        assert_eq!(request(Some("b")), [&begin[..], &[0x1a, 1, b'b', 0x22, 1, b's', 0x28, 0xac, 2, 0x30, 7]].concat());
    }

    #[test]
    fn answers_are_read_by_number() {
        // Type 2, capacity 300, an empty range, one from 5 of 6 bytes with a field that nobody knows.
        let bytes = [0x08, 2, 0x10, 0xac, 2, 0x1a, 0, 0x1a, 6, 0x08, 5, 0x10, 6, 0x18, 9];
        let blocks = vec![Block::default(), Block { offset: 5, size: 6 }];
        let answer = Answer { capacity: 300, blocks };
        assert_eq!(Answer::decode(&bytes[..]), Ok(answer.clone()));
        assert_eq!(Answer::decode(&answer.encode_to_vec()[..]), Ok(answer));
        for cut in 1..bytes.len() {
            // A message that is cut at a field is a message; what it has not is seen by its capacity, or its ranges.
            if let Ok(read) = Answer::decode(&bytes[..cut]) {
                assert!(read.capacity == 0 || read.capacity == 300, "{cut}: {read:?}");
            }
        }
        assert!(Answer::decode(&[0x1a, 9, 1][..]).is_err());
    }
}
