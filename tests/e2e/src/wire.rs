//! Messages of gRPC without a code generator: a macro that makes prost messages from field numbers, and methods that
//! client and server name alike.

use prost::Message;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// What decoding says of bytes that are no message.
pub type DecodeError = prost::DecodeError;

/// A type that a field of a message can have: proto3, so a default value is not written.
pub trait Field: Default {
    /// Writes it with this number.
    fn put(&self, tag: u32, buf: &mut impl BufMut);
    /// Adds what was read.
    ///
    /// # Errors
    /// If the bytes are not of this type.
    fn take(&mut self, wire: WireType, buf: &mut impl Buf, context: DecodeContext) -> Result<(), DecodeError>;
    /// How many bytes `put` writes.
    fn length(&self, tag: u32) -> usize;
}

/// A message of ours. prost's own trait is also that of bare strings and numbers, which are other fields.
pub trait Part: Message + Default {}

macro_rules! scalar {
    ($($kind:ty: $module:ident),*) => {$(
        impl Field for $kind {
            fn put(&self, tag: u32, buf: &mut impl BufMut) {
                if *self != Self::default() {
                    encoding::$module::encode(tag, self, buf);
                }
            }

            fn take(&mut self, wire: WireType, buf: &mut impl Buf, context: DecodeContext) -> Result<(), DecodeError> {
                encoding::$module::merge(wire, self, buf, context)
            }

            fn length(&self, tag: u32) -> usize {
                if *self == Self::default() { 0 } else { encoding::$module::encoded_len(tag, self) }
            }
        }
    )*};
}

scalar!(String: string, i32: int32, i64: int64, bool: bool);

impl Field for Vec<String> {
    fn put(&self, tag: u32, buf: &mut impl BufMut) {
        encoding::string::encode_repeated(tag, self, buf);
    }

    fn take(&mut self, wire: WireType, buf: &mut impl Buf, context: DecodeContext) -> Result<(), DecodeError> {
        encoding::string::merge_repeated(wire, self, buf, context)
    }

    fn length(&self, tag: u32) -> usize {
        encoding::string::encoded_len_repeated(tag, self)
    }
}

impl<M: Part> Field for Option<M> {
    fn put(&self, tag: u32, buf: &mut impl BufMut) {
        if let Some(message) = self {
            encoding::message::encode(tag, message, buf);
        }
    }

    fn take(&mut self, wire: WireType, buf: &mut impl Buf, context: DecodeContext) -> Result<(), DecodeError> {
        encoding::message::merge(wire, self.get_or_insert_default(), buf, context)
    }

    fn length(&self, tag: u32) -> usize {
        self.as_ref().map_or(0, |message| encoding::message::encoded_len(tag, message))
    }
}

impl<M: Part> Field for Vec<M> {
    fn put(&self, tag: u32, buf: &mut impl BufMut) {
        encoding::message::encode_repeated(tag, self, buf);
    }

    fn take(&mut self, wire: WireType, buf: &mut impl Buf, context: DecodeContext) -> Result<(), DecodeError> {
        encoding::message::merge_repeated(wire, self, buf, context)
    }

    fn length(&self, tag: u32) -> usize {
        encoding::message::encoded_len_repeated(tag, self)
    }
}

impl Field for BTreeMap<String, String> {
    fn put(&self, tag: u32, buf: &mut impl BufMut) {
        use encoding::string::{encode, encoded_len};
        encoding::btree_map::encode(encode, encoded_len, encode, encoded_len, tag, self, buf);
    }

    fn take(&mut self, _: WireType, buf: &mut impl Buf, context: DecodeContext) -> Result<(), DecodeError> {
        encoding::btree_map::merge(encoding::string::merge, encoding::string::merge, self, buf, context)
    }

    fn length(&self, tag: u32) -> usize {
        use encoding::string::encoded_len;
        encoding::btree_map::encoded_len(encoded_len, encoded_len, tag, self)
    }
}

/// Makes messages: `Name { 1 name: String, 2 size: i64 }`. Fields that are not named are skipped when read. A oneof of
/// messages is written as one `Option` for each: the bytes are the same.
macro_rules! messages {
    ($($(#[$about:meta])* $name:ident { $($tag:literal $field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$about])*
        #[doc = concat!("The message `", stringify!($name), "`.")]
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $(
                #[doc = concat!("Field ", $tag, ".")]
                pub $field: $kind,
            )*
        }

        #[allow(unused_variables)] // of messages without fields
        impl ::prost::Message for $name {
            fn encode_raw(&self, buf: &mut impl ::prost::bytes::BufMut) {
                $($crate::wire::Field::put(&self.$field, $tag, buf);)*
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire: ::prost::encoding::WireType,
                buf: &mut impl ::prost::bytes::Buf,
                context: ::prost::encoding::DecodeContext,
            ) -> Result<(), $crate::wire::DecodeError> {
                match tag {
                    $($tag => $crate::wire::Field::take(&mut self.$field, wire, buf, context),)*
                    _ => ::prost::encoding::skip_field(wire, tag, buf, context),
                }
            }

            fn encoded_len(&self) -> usize {
                0 $(+ $crate::wire::Field::length(&self.$field, $tag))*
            }

            fn clear(&mut self) {
                *self = Self::default();
            }
        }

        impl $crate::wire::Part for $name {}
    )*};
}
pub(crate) use messages;

/// A method of a service: where it is, what is asked and what is answered, once or as a stream.
#[derive(Debug)]
pub struct Method<Q, R> {
    /// `/package.Service/Method`.
    pub path: &'static str,
    kinds: PhantomData<fn(Q) -> R>,
}

impl<Q, R> Method<Q, R> {
    /// The method at this path.
    pub const fn new(path: &'static str) -> Self {
        Self { path, kinds: PhantomData }
    }
}

/// Between messages and their bytes, as tonic wants it: `E` is encoded, `D` is decoded.
#[derive(Debug)]
pub struct Proto<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> Default for Proto<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E: Part + 'static, D: Part + 'static> Codec for Proto<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: Part, D> Encoder for Proto<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buf).map_err(|e| Status::internal(format!("an answer cannot be encoded: {e}")))
    }
}

impl<E, D: Part> Decoder for Proto<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        D::decode(buf).map(Some).map_err(|e| Status::internal(format!("bytes that are no such message: {e}")))
    }
}
