//! The SnapshotMetadata service of a driver (KEP-3314), as its sidecar serves it: gRPC over TLS. It asks the API server whose a token
//! is, for which audience, and what its account may do; it looks snapshots up by their VolumeSnapshots. What the driver behind it
//! knows is played: contents of storage snapshots. It can answer wrongly, be cut off, and refuse.

use crate::authority::Authority;
use crate::kube::Kube;
use parking_lot::Mutex;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Identity, Server, ServerTlsConfig};

/// The driver tells differences by blocks of so many bytes.
pub const BLOCK: u64 = 64 << 10;
/// Ranges in a message.
const RANGES: usize = 2;
const SERVICE: &str = "/snapshotmetadata.SnapshotMetadata/";

/// What it does wrong, or what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Each stream is cut after so many messages.
    Cut(usize),
    /// After so many messages tokens that were used up to then have expired; once.
    Expire(usize),
    /// No token is taken.
    NoToken,
    /// There is no such service behind the sidecar.
    Unimplemented,
    /// A delta is refused whose base is gone; that of others is answered.
    BaseGone,
    /// The ranges descend.
    Descending,
    /// The second range begins in the first one.
    Overlapping,
    /// The last range reaches beyond the volume.
    Beyond,
    /// The volume is said to be larger by a block.
    Capacity,
    /// The last message is about a volume of another size.
    TwoCapacities,
    /// The first range has no bytes.
    Empty,
    /// The stream ends well, without a message.
    Silent,
    /// Nothing ever comes.
    Hang,
    /// Deltas alone are wrong, as `Descending` has it.
    DeltaDescending,
}

/// A call that was answered, at least in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its base; none: allocated blocks were asked for.
    pub base: Option<String>,
    /// Handle of the snapshot.
    pub target: String,
    /// `starting_offset`.
    pub start: u64,
}

struct Snapshot {
    volume: String,
    content: Vec<u8>,
}

struct Shared {
    kube: Arc<Kube>,
    audience: String,
    snapshots: Mutex<BTreeMap<String, Snapshot>>,
    fault: Mutex<Option<Fault>>,
    expired: Mutex<BTreeSet<String>>,
    calls: Mutex<Vec<Call>>,
}

/// A running service; dropped, it has ended.
pub struct BlockService {
    shared: Arc<Shared>,
    address: String,
    authority: Authority,
    // Last: with it everything ends that the service does.
    _runtime: Runtime,
}

impl std::fmt::Debug for BlockService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockService").field("address", &self.address).finish_non_exhaustive()
    }
}

impl BlockService {
    /// Starts one that takes tokens for that audience.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(kube: Arc<Kube>, audience: &str) -> Self {
        let authority = Authority::make();
        let read = |name: &str| std::fs::read(authority.path(name)).expect("openssl has written it");
        let shared = Arc::new(Shared {
            kube,
            audience: audience.to_owned(),
            snapshots: Mutex::default(),
            fault: Mutex::default(),
            expired: Mutex::default(),
            calls: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime for the service");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let identity = Identity::from_pem(read("server.pem"), read("server.key"));
        let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).expect("a certificate");
        let calls = Arc::clone(&shared);
        let service = tower::service_fn(move |request| {
            let shared = Arc::clone(&calls);
            async move { Ok::<_, Infallible>(route(shared, request).await) }
        });
        runtime.spawn(async move { server.serve_with_incoming(service, TcpListenerStream::new(listener)).await });
        Self { shared, address, authority, _runtime: runtime }
    }

    /// `spec` of its SnapshotMetadataService.
    pub fn spec(&self) -> Value {
        let authority = std::fs::read(self.authority.path("ca.pem")).expect("openssl has written it");
        json!({ "address": self.address, "audience": self.shared.audience, "caCert": base64(&authority) })
    }

    /// The driver has that storage snapshot of that volume: what the file holds now.
    ///
    /// # Panics
    /// When the file cannot be read.
    pub fn has(&self, handle: &str, volume: &str, file: &Path) {
        let content = std::fs::read(file).expect("the file can be read");
        let snapshot = Snapshot { volume: volume.to_owned(), content };
        self.shared.snapshots.lock().insert(handle.to_owned(), snapshot);
    }

    /// From now on it does that wrong, or nothing.
    pub fn set(&self, fault: Option<Fault>) {
        *self.shared.fault.lock() = fault;
    }

    /// The calls since this was asked last.
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.shared.calls.lock())
    }
}

/// Base64 (RFC 4648 section 4).
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for n in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * n)) as usize & 63];
            text.push(if n > group.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

/// What is asked, of either method.
#[derive(Debug, Default)]
struct Asked {
    token: String,
    namespace: String,
    base: Option<String>,
    snapshot: String,
    start: i64,
}

async fn route(shared: Arc<Shared>, request: http::Request<tonic::body::Body>) -> http::Response<tonic::body::Body> {
    let path = request.uri().path().to_owned();
    match path.strip_prefix(SERVICE) {
        Some("GetMetadataAllocated") => serve::<Allocated>(shared, request).await,
        Some("GetMetadataDelta") => serve::<Delta>(shared, request).await,
        _ => Status::unimplemented(path).into_http(),
    }
}

async fn serve<Q: Message + Default + Into<Asked> + 'static>(
    shared: Arc<Shared>,
    request: http::Request<tonic::body::Body>,
) -> http::Response<tonic::body::Body> {
    let service = tower::service_fn(move |request: tonic::Request<Q>| {
        let shared = Arc::clone(&shared);
        async move {
            if *shared.fault.lock() == Some(Fault::Hang) {
                shared.calls.lock().push(Call { base: None, target: String::new(), start: 0 });
                std::future::pending::<()>().await;
            }
            let asked = request.into_inner().into();
            // The API server is asked by calls that block, on a runtime of their own.
            let answer = tokio::task::spawn_blocking(move || shared.answer(&asked)).await;
            let answer = answer.unwrap_or_else(|e| Err(Status::internal(e.to_string())))?;
            Ok::<_, Status>(tonic::Response::new(tokio_stream::iter(answer)))
        }
    });
    tonic::server::Grpc::new(Proto::<Q>(PhantomData)).server_streaming(service, request).await
}

impl Shared {
    fn answer(&self, asked: &Asked) -> Result<Vec<Result<Answer, Status>>, Status> {
        let fault = *self.fault.lock();
        self.admit(asked, fault)?;
        let handle = self.handle(&asked.namespace, &asked.snapshot)?;
        if fault == Some(Fault::Unimplemented) {
            return Err(Status::unimplemented("the driver has no SnapshotMetadata service"));
        }
        let snapshots = self.snapshots.lock();
        let gone = |handle: &str| Status::not_found(format!("there is no snapshot {handle:?}"));
        let target = snapshots.get(&handle).ok_or_else(|| gone(&handle))?;
        let base = match &asked.base {
            None => None,
            Some(base) if fault == Some(Fault::BaseGone) => return Err(gone(base)),
            Some(base) => Some(snapshots.get(base).ok_or_else(|| gone(base))?),
        };
        if base.is_some_and(|base| base.volume != target.volume) {
            return Err(Status::invalid_argument("the snapshots are of two volumes"));
        }
        let start = u64::try_from(asked.start).map_err(|_| Status::out_of_range("starting_offset"))?;
        self.calls.lock().push(Call { base: asked.base.clone(), target: handle, start });
        let size = target.content.len() as u64;
        let block = |content: &[u8], n: u64| content.chunks(BLOCK as usize).nth(n as usize).map(<[u8]>::to_vec);
        let differs = |n: &u64| {
            let now = block(&target.content, *n).unwrap_or_default();
            match base {
                None => now.iter().any(|byte| *byte != 0),
                Some(base) => block(&base.content, *n).unwrap_or_default() != now,
            }
        };
        let ranges = (0..size.div_ceil(BLOCK)).filter(differs).map(|n| (n * BLOCK, BLOCK.min(size - n * BLOCK)));
        let ranges: Vec<Range> = ranges
            .filter(|(offset, length)| offset + length > start)
            .map(|(offset, length)| Range { offset: offset as i64, size: length as i64 })
            .collect();
        let message = |ranges: &[Range]| Answer { kind: 2, capacity: size as i64, ranges: ranges.to_vec() };
        let mut messages: Vec<Answer> = ranges.chunks(RANGES).map(message).collect();
        if messages.is_empty() {
            messages.push(message(&[]));
        }
        let wrong =
            if fault == Some(Fault::DeltaDescending) { base.is_some().then_some(Fault::Descending) } else { fault };
        spoil(&mut messages, wrong);
        let mut answer: Vec<Result<Answer, Status>> = messages.into_iter().map(Ok).collect();
        match fault {
            Some(Fault::Cut(after)) if after < answer.len() => {
                answer.truncate(after);
                answer.push(Err(Status::unavailable("the stream is cut")));
            }
            Some(Fault::Expire(after)) if after < answer.len() => {
                answer.truncate(after);
                answer.push(Err(Status::unauthenticated("the token has expired")));
                self.expired.lock().insert(asked.token.clone());
                *self.fault.lock() = None;
            }
            _ => {}
        }
        Ok(answer)
    }

    /// As the sidecar does it: TokenReview, then SubjectAccessReview.
    fn admit(&self, asked: &Asked, fault: Option<Fault>) -> Result<(), Status> {
        let post = |path: &str, object: Value| {
            let body = Some(("application/json", object.to_string().into_bytes()));
            self.kube.ask(Method::POST, path, body).map_err(|e| Status::internal(e.to_string()))
        };
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": { "token": asked.token, "audiences": [self.audience] },
        });
        let who = post("/apis/authentication.k8s.io/v1/tokenreviews", review)?;
        let known = who["status"]["authenticated"] == true && who["status"]["audiences"] == json!([self.audience]);
        if !known || fault == Some(Fault::NoToken) || self.expired.lock().contains(&asked.token) {
            return Err(Status::unauthenticated("the token is not taken"));
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": who["status"]["user"]["username"], "groups": who["status"]["user"]["groups"],
                "resourceAttributes": {
                    "namespace": asked.namespace, "group": "snapshot.storage.k8s.io", "resource": "volumesnapshots", "verb": "get",
                },
            },
        });
        let may = post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)?;
        if may["status"]["allowed"] == true {
            return Ok(());
        }
        Err(Status::permission_denied("no right to get VolumeSnapshots"))
    }

    /// The driver's name of the storage snapshot behind a VolumeSnapshot: here that of its content.
    fn handle(&self, namespace: &str, name: &str) -> Result<String, Status> {
        let path = format!("/apis/snapshot.storage.k8s.io/v1/namespaces/{namespace}/volumesnapshots/{name}");
        let snapshot = self.kube.ask(Method::GET, &path, None).map_err(|e| Status::not_found(e.to_string()))?;
        let content = snapshot["status"]["boundVolumeSnapshotContentName"].as_str();
        Ok(content.ok_or_else(|| Status::unavailable("the snapshot is not ready"))?.to_owned())
    }
}

fn spoil(messages: &mut Vec<Answer>, fault: Option<Fault>) {
    let all: Vec<Range> = messages.iter().flat_map(|message| message.ranges.clone()).collect();
    assert!(fault.is_none() || all.len() > 1, "too few ranges to be wrong in: {all:?}");
    let one = |ranges: Vec<Range>| vec![Answer { ranges, ..messages[0].clone() }];
    *messages = match fault {
        Some(Fault::Descending) => one(all.into_iter().rev().collect()),
        Some(Fault::Overlapping) => {
            let mut all = all;
            all[0].size = all[1].offset - all[0].offset + 1;
            one(all)
        }
        Some(Fault::Beyond) => {
            let mut all = all;
            let last = all.len() - 1;
            all[last].size = messages[0].capacity - all[last].offset + 1;
            one(all)
        }
        Some(Fault::Empty) => {
            let mut all = all;
            all[0].size = 0;
            one(all)
        }
        Some(Fault::Capacity) => {
            messages.iter_mut().for_each(|message| message.capacity += BLOCK as i64);
            return;
        }
        Some(Fault::TwoCapacities) => {
            let last = messages.len() - 1;
            messages[last].capacity *= 2;
            return;
        }
        Some(Fault::Silent) => Vec::new(),
        _ => return,
    };
}

/// `BlockMetadata`.
#[derive(Debug, Default, Clone, PartialEq)]
struct Range {
    offset: i64,
    size: i64,
}

/// What either method answers.
#[derive(Debug, Default, Clone, PartialEq)]
struct Answer {
    kind: i32,
    capacity: i64,
    ranges: Vec<Range>,
}

#[derive(Debug, Default)]
struct Allocated {
    token: String,
    namespace: String,
    snapshot: String,
    start: i64,
    most: i32,
}

#[derive(Debug, Default)]
struct Delta {
    token: String,
    namespace: String,
    base: String,
    snapshot: String,
    start: i64,
    most: i32,
}

impl From<Allocated> for Asked {
    fn from(Allocated { token, namespace, snapshot, start, .. }: Allocated) -> Self {
        Self { token, namespace, base: None, snapshot, start }
    }
}

impl From<Delta> for Asked {
    fn from(Delta { token, namespace, base, snapshot, start, .. }: Delta) -> Self {
        Self { token, namespace, base: Some(base), snapshot, start }
    }
}

/// Messages by hand, as `schema.proto` of KEP-3314 has them.
macro_rules! message {
    ($name:ident { $($tag:literal $field:ident $module:ident $encode:ident $merge:ident $length:ident),* }) => {
        impl Message for $name {
            fn encode_raw(&self, buf: &mut impl BufMut) {
                $(encoding::$module::$encode($tag, &self.$field, buf);)*
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire: WireType,
                buf: &mut impl Buf,
                context: DecodeContext,
            ) -> Result<(), DecodeError> {
                match tag {
                    $($tag => encoding::$module::$merge(wire, &mut self.$field, buf, context),)*
                    _ => encoding::skip_field(wire, tag, buf, context),
                }
            }

            fn encoded_len(&self) -> usize {
                0 $(+ encoding::$module::$length($tag, &self.$field))*
            }

            fn clear(&mut self) {
                *self = Self::default();
            }
        }
    };
}

message!(Range { 1 offset int64 encode merge encoded_len, 2 size int64 encode merge encoded_len });
message!(Answer {
    1 kind int32 encode merge encoded_len,
    2 capacity int64 encode merge encoded_len,
    3 ranges message encode_repeated merge_repeated encoded_len_repeated
});
message!(Allocated {
    1 token string encode merge encoded_len,
    2 namespace string encode merge encoded_len,
    3 snapshot string encode merge encoded_len,
    4 start int64 encode merge encoded_len,
    5 most int32 encode merge encoded_len
});
message!(Delta {
    1 token string encode merge encoded_len,
    2 namespace string encode merge encoded_len,
    3 base string encode merge encoded_len,
    4 snapshot string encode merge encoded_len,
    5 start int64 encode merge encoded_len,
    6 most int32 encode merge encoded_len
});

struct Proto<Q>(PhantomData<fn() -> Q>);

impl<Q: Message + Default + 'static> Codec for Proto<Q> {
    type Encode = Answer;
    type Decode = Q;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<Q> Encoder for Proto<Q> {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, answer: Answer, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        answer.encode(buf).map_err(|e| Status::internal(e.to_string()))
    }
}

impl<Q: Message + Default> Decoder for Proto<Q> {
    type Item = Q;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Q>, Status> {
        Q::decode(buf).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}
