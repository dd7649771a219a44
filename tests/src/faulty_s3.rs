//! A reverse proxy before a real S3 server that breaks what it is told to break, by script or by seed. It speaks as
//! much HTTP/1.1 as S3 clients do: one request per connection, bodies with a Content-Length.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// What is done to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this status; the server sees nothing.
    Refuse(u16),
    /// Answered as if the bucket did not exist; the server sees nothing.
    NoSuchBucket,
    /// Answered as by an ingress that knows no way to the server, which sees nothing.
    NoBackend,
    /// Who asks with this access key is answered that the token has expired, and the server sees nothing; others are served.
    ExpiredToken(&'static str),
    /// The request waits until [`FaultyS3::release`], then it is served.
    Hold,
    /// The server does it, the answer is this status.
    ApplyAndRefuse(u16),
    /// The server does it, the connection ends without an answer.
    LoseReply,
    /// The connection ends when the head of the request has come; the server sees nothing.
    DropRequest,
    /// The connections end when half of the body has gone to the server.
    CutRequest,
    /// The connection ends when half of the answer's body has come back (of the head, if there is no body).
    CutReply,
    /// The request is read and never answered; the server sees nothing.
    Stall,
    /// Half of the answer's body comes back, then nothing more.
    StallReply,
}

impl Fault {
    /// A name for counters, without numbers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse(_) => "refuse",
            Self::NoSuchBucket => "no-such-bucket",
            Self::NoBackend => "no-backend",
            Self::ExpiredToken(_) => "expired-token",
            Self::Hold => "hold",
            Self::ApplyAndRefuse(_) => "apply-and-refuse",
            Self::LoseReply => "lose-reply",
            Self::DropRequest => "drop-request",
            Self::CutRequest => "cut-request",
            Self::CutReply => "cut-reply",
            Self::Stall => "stall",
            Self::StallReply => "stall-reply",
        }
    }
}

/// Which requests a fault is for, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Only this method; all if empty.
    pub method: &'static str,
    /// Only paths (with query) that contain this.
    pub path: &'static str,
    /// So many matching requests pass first.
    pub skip: u32,
    /// Then so many are hit; then the rule is spent.
    pub times: u32,
    /// What hits them.
    pub fault: Fault,
}

impl Rule {
    /// The next request of this method, any path.
    pub fn next(method: &'static str, fault: Fault) -> Self {
        Self { method, path: "", skip: 0, times: 1, fault }
    }

    /// Every request of this method whose path contains this.
    pub fn every(method: &'static str, path: &'static str, fault: Fault) -> Self {
        Self { method, path, skip: 0, times: u32::MAX, fault }
    }
}

/// What becomes of creates that must not overwrite: PUTs with `If-None-Match`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conditions {
    /// The server sees them as they are.
    #[default]
    Kept,
    /// The server sees none, as if it had never heard of them: a create overwrites. They are signed with the rest of the
    /// request, so its signature goes too, and this takes a server that lets in those who show none.
    Ignored,
    /// Answered with 501; the server sees nothing.
    Refused,
}

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    /// With its query.
    path: String,
    /// Length of its body.
    len: u64,
    /// It has not come to its end yet.
    open: bool,
}

/// Faults by chance.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// The same seed gives the same sequence of decisions; which request gets which depends on their order.
    pub seed: u64,
    /// Of a thousand requests so many are hit.
    pub per_mille: u64,
    /// Of a thousand PUTs, of which there are few.
    pub puts_per_mille: u64,
    /// Drawn from evenly.
    pub faults: Vec<Fault>,
}

#[derive(Debug, Default)]
struct State {
    /// The server speaks the JSON dialect of Google Cloud Storage, and the client the XML one.
    google: bool,
    conditions: Conditions,
    rules: Vec<Rule>,
    chaos: Option<Chaos>,
    latency: Duration,
    /// Bytes of a body that are passed on per second; as fast as it goes if 0.
    pace: u64,
    /// How often those held were let go.
    releases: u64,
    seen: Vec<Seen>,
    hits: BTreeMap<&'static str, u64>,
    /// Those of them that were PUTs.
    put_hits: BTreeMap<&'static str, u64>,
}

impl State {
    /// Counts a request and decides what happens to it.
    fn decide(&mut self, method: &str, path: &str, len: u64) -> Option<Fault> {
        self.seen.push(Seen { method: method.into(), path: path.into(), len, open: true });
        let fault = self.by_rule(method, path).or_else(|| self.by_chance(method));
        if let Some(fault) = fault {
            *self.hits.entry(fault.name()).or_default() += 1;
            *self.put_hits.entry(fault.name()).or_default() += u64::from(method == "PUT");
        }
        fault
    }

    fn by_rule(&mut self, method: &str, path: &str) -> Option<Fault> {
        let applies = |rule: &&mut Rule| {
            rule.times > 0 && (rule.method.is_empty() || rule.method == method) && path.contains(rule.path)
        };
        let rule = self.rules.iter_mut().find(applies)?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        Some(rule.fault)
    }

    fn by_chance(&mut self, method: &str) -> Option<Fault> {
        let chaos = self.chaos.as_mut()?;
        let mut draw = |below: u64| {
            // splitmix64
            chaos.seed = chaos.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = chaos.seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % below
        };
        let hit = draw(1000) < if method == "PUT" { chaos.puts_per_mille } else { chaos.per_mille };
        let which = draw(chaos.faults.len() as u64) as usize;
        hit.then(|| chaos.faults.get(which).copied()).flatten()
    }
}

/// The header of a condition.
const CONDITION: &str = "if-none-match";
/// That of Google; a create sends the generation 0.
const GENERATION: &str = "x-goog-if-generation-match";

/// The proxy; dropped, it ends with all its connections.
#[derive(Debug)]
pub struct FaultyS3 {
    port: u16,
    state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

impl FaultyS3 {
    /// Listens on a free port of 127.0.0.1 and passes on to `server`, a port there.
    pub fn start(server: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread for the proxy");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let mut number = None;
                    // Errors are what this is about.
                    serve(client, server, &state, &mut number).await.ok();
                    if let Some(number) = number {
                        state.lock().seen[number].open = false;
                    }
                });
            }
        });
        Self { port, state, runtime: Some(runtime) }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Adds a rule; of several that match, the first that is not spent counts.
    pub fn inject(&self, rule: Rule) {
        self.state.lock().rules.push(rule);
    }

    /// Hits requests by chance from now on, or no longer.
    pub fn chaos(&self, chaos: Option<Chaos>) {
        self.state.lock().chaos = chaos;
    }

    /// What becomes of conditions from now on.
    pub fn conditions(&self, conditions: Conditions) {
        self.state.lock().conditions = conditions;
    }

    /// From now on PUTs go to the server as uploads of Google's JSON API: the stand-in for Google Cloud Storage knows no
    /// others, and conditions only in them. `object_store` speaks the XML API.
    pub fn translate_for_google(&self) {
        self.state.lock().google = true;
    }

    /// Every request waits this long before it is passed on.
    pub fn latency(&self, latency: Duration) {
        self.state.lock().latency = latency;
    }

    /// Of the body of a request so many bytes are passed on per second.
    pub fn pace(&self, bytes: u64) {
        self.state.lock().pace = bytes;
    }

    /// Whether no rule waits for requests to hit.
    pub fn is_spent(&self) -> bool {
        self.state.lock().rules.iter().all(|rule| rule.times == 0)
    }

    /// No rule holds any longer.
    pub fn heal(&self) {
        self.state.lock().rules.clear();
    }

    /// Lets those go that are held now.
    pub fn release(&self) {
        self.state.lock().releases += 1;
    }

    /// Requests that came, hit or not.
    pub fn requests(&self) -> u64 {
        self.state.lock().seen.len() as u64
    }

    fn matching<T: std::iter::Sum>(&self, method: &str, path: &str, count: impl Fn(&Seen) -> T) -> T {
        let state = self.state.lock();
        state.seen.iter().filter(|seen| seen.method == method && seen.path.contains(path)).map(count).sum()
    }

    /// Requests of this method, whose path contains this, that are under way now.
    pub fn open(&self, method: &str, path: &str) -> usize {
        self.matching(method, path, |seen| usize::from(seen.open))
    }

    /// Those that came so far.
    pub fn came(&self, method: &str, path: &str) -> usize {
        self.matching(method, path, |_| 1)
    }

    /// Bytes of their bodies, as far as announced.
    pub fn bytes(&self, method: &str, path: &str) -> u64 {
        self.matching(method, path, |seen| seen.len)
    }

    /// Requests that were hit, by [`Fault::name`].
    pub fn hits(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().hits.clone()
    }

    /// PUTs that were hit, likewise: one that ends in the middle of a request, say, does nothing to a GET.
    pub fn put_hits(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().put_hits.clone()
    }
}

impl Drop for FaultyS3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One request, one answer, both connections end.
async fn serve(mut client: TcpStream, server: u16, state: &Mutex<State>, number: &mut Option<usize>) -> io::Result<()> {
    let Some(request) = read_head(&mut client).await? else { return Ok(()) };
    let first = request.text.lines().next().unwrap_or_default();
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let body = request.content_length;
    let (fault, latency, pace, releases, conditions, google) = {
        let mut state = state.lock();
        *number = Some(state.seen.len());
        let fault = state.decide(method, path, body);
        (fault, state.latency, state.pace, state.releases, state.conditions, state.google)
    };
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    while fault == Some(Fault::Hold) && state.lock().releases == releases {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let without = without_header(&request.text, CONDITION);
    let fault = match conditions {
        Conditions::Refused if without.len() < request.text.len() => fault.or(Some(Fault::Refuse(501))),
        _ => fault,
    };
    let mut incoming = request.rest.as_slice().chain(&mut client);
    match fault {
        Some(Fault::DropRequest) => return Ok(()),
        Some(Fault::Refuse(status)) => {
            // Read to its end, or the client sees a reset and not the answer.
            discard(&mut incoming, body).await?;
            return refuse(&mut client, status, code_of(status), method).await;
        }
        Some(Fault::NoSuchBucket) => {
            discard(&mut incoming, body).await?;
            return refuse(&mut client, 404, "NoSuchBucket", method).await;
        }
        Some(Fault::NoBackend) => {
            discard(&mut incoming, body).await?;
            let text = if method == "HEAD" { "" } else { "404 page not found\n" };
            let head = "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 19\r\n";
            client.write_all(format!("{head}Connection: close\r\n\r\n{text}").as_bytes()).await?;
            return client.shutdown().await;
        }
        // The scope of a signature begins with the access key ("Signature Version 4" in the documentation of S3).
        Some(Fault::ExpiredToken(key)) if request.text.contains(&format!("Credential={key}/")) => {
            discard(&mut incoming, body).await?;
            return refuse(&mut client, 400, "ExpiredToken", method).await;
        }
        Some(Fault::Stall) => {
            discard(&mut incoming, body).await?;
            return wait_for_end(&mut client).await;
        }
        _ => {}
    }

    let mut upstream = TcpStream::connect(("127.0.0.1", server)).await?;
    // So that the end of the answer is the end of the connection.
    let head = match conditions {
        Conditions::Ignored if without.len() < request.text.len() => without_header(&without, "authorization"),
        _ if google && method == "PUT" => as_upload(&request.text),
        _ => request.text.clone(),
    };
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    upstream.write_all(head.as_bytes()).await?;
    let sent = if fault == Some(Fault::CutRequest) { body / 2 } else { body };
    let passed = pass_on(&mut incoming.take(sent), &mut upstream, pace).await?;
    // Of a client that has gone the server would wait for the rest.
    if passed < body || fault == Some(Fault::CutRequest) {
        return Ok(());
    }
    match fault {
        Some(Fault::LoseReply) => {
            discard(&mut upstream, u64::MAX).await?;
            Ok(())
        }
        Some(Fault::ApplyAndRefuse(status)) => {
            discard(&mut upstream, u64::MAX).await?;
            refuse(&mut client, status, code_of(status), method).await
        }
        Some(cut @ (Fault::CutReply | Fault::StallReply)) => {
            let Some(reply) = read_head(&mut upstream).await? else { return Ok(()) };
            let head = reply.text.as_bytes();
            if reply.content_length == 0 || method == "HEAD" {
                client.write_all(&head[..head.len() / 2]).await?;
            } else {
                client.write_all(head).await?;
                let mut half = reply.rest.as_slice().chain(&mut upstream).take(reply.content_length / 2);
                tokio::io::copy(&mut half, &mut client).await?;
            }
            client.flush().await?;
            if cut == Fault::StallReply { wait_for_end(&mut client).await } else { Ok(()) }
        }
        _ if google && method == "PUT" => {
            // The XML API answers with the tag of the object.
            let Some(reply) = read_head(&mut upstream).await? else { return Ok(()) };
            let head = reply.text.replacen("\r\n", "\r\nETag: \"1\"\r\n", 1);
            client.write_all(head.as_bytes()).await?;
            tokio::io::copy(&mut reply.rest.as_slice().chain(&mut upstream), &mut client).await.map(|_| ())
        }
        _ if google => {
            // Which numbers its answers.
            let Some(reply) = read_head(&mut upstream).await? else { return Ok(()) };
            let head = reply.text.replacen("\r\n", "\r\nX-GUploader-UploadID: 1\r\n", 1);
            client.write_all(head.as_bytes()).await?;
            tokio::io::copy(&mut reply.rest.as_slice().chain(&mut upstream), &mut client).await.map(|_| ())
        }
        _ => tokio::io::copy(&mut upstream, &mut client).await.map(|_| ()),
    }
}

/// The head of a PUT of `/bucket/name` as an upload of the JSON API of Google Cloud Storage.
fn as_upload(head: &str) -> String {
    let (first, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let (bucket, name) = path.split_once('/').unwrap_or((path, ""));
    let condition = match without_header(head, GENERATION).len() < head.len() {
        true => "&ifGenerationMatch=0",
        false => "",
    };
    format!("POST /upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}{condition} HTTP/1.1\r\n{rest}")
}

/// The head of a message, and what came with it of the body.
struct Head {
    text: String,
    content_length: u64,
    rest: Vec<u8>,
}

async fn read_head(from: &mut TcpStream) -> io::Result<Option<Head>> {
    let mut raw = Vec::new();
    let end = loop {
        if let Some(at) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if from.read_buf(&mut raw).await? == 0 {
            return Ok(None);
        }
    };
    let rest = raw.split_off(end);
    let text = String::from_utf8(raw).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let content_length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0);
    Ok(Some(Head { text, content_length, rest }))
}

/// The head without the lines of one header; `name` is in lower case.
fn without_header(head: &str, name: &str) -> String {
    let is_it = |line: &str| line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name));
    head.split_inclusive("\r\n").filter(|line| !is_it(line)).collect()
}

async fn discard(from: &mut (impl AsyncRead + Unpin), len: u64) -> io::Result<u64> {
    tokio::io::copy(&mut from.take(len), &mut tokio::io::sink()).await
}

/// Passes a body on, so many bytes per second if that is not 0.
async fn pass_on(from: &mut (impl AsyncRead + Unpin), to: &mut TcpStream, pace: u64) -> io::Result<u64> {
    const PIECE: u64 = 64 << 10;
    let mut passed = 0;
    loop {
        let piece = tokio::io::copy(&mut (&mut *from).take(PIECE), to).await?;
        passed += piece;
        if piece == 0 {
            return Ok(passed);
        }
        if pace > 0 {
            tokio::time::sleep(Duration::from_secs_f64(piece as f64 / pace as f64)).await;
        }
    }
}

/// Until the client has had enough.
async fn wait_for_end(client: &mut TcpStream) -> io::Result<()> {
    discard(client, u64::MAX).await.map(|_| ())
}

fn code_of(status: u16) -> &'static str {
    match status {
        403 => "AccessDenied",
        404 => "NoSuchKey",
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        429 => "TooManyRequests",
        501 => "NotImplemented",
        503 => "SlowDown",
        507 => "InsufficientStorage",
        _ => "InternalError",
    }
}

async fn refuse(client: &mut TcpStream, status: u16, code: &str, method: &str) -> io::Result<()> {
    let text = format!("<Error><Code>{code}</Code><Message>planted</Message></Error>");
    let body = if method == "HEAD" { "" } else { text.as_str() };
    let head = format!("HTTP/1.1 {status} Planted\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    client.write_all(format!("{head}{body}").as_bytes()).await?;
    client.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_in_order_and_are_spent() {
        let mut state = State::default();
        state.rules.push(Rule { method: "PUT", path: "packs/", skip: 1, times: 2, fault: Fault::LoseReply });
        state.rules.push(Rule::next("", Fault::Stall));
        let seen: Vec<_> = [("PUT", "/b/packs/1"), ("PUT", "/b/packs/2"), ("GET", "/b/packs/2"), ("PUT", "/b/packs/3")]
            .into_iter()
            .chain([("PUT", "/b/packs/4"), ("GET", "/")])
            .map(|(method, path)| state.decide(method, path, 1))
            .collect();
        let (lost, stall) = (Some(Fault::LoseReply), Some(Fault::Stall));
        assert_eq!(seen, [None, lost, stall, lost, None, None]);
        assert_eq!((state.seen.len(), state.hits["lose-reply"], state.hits["stall"]), (6, 2, 1));
        assert_eq!((state.put_hits["lose-reply"], state.put_hits["stall"]), (2, 0));
    }

    #[test]
    fn a_header_is_taken_out_and_nothing_else() {
        let head = "PUT /if-none-match:x HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\nX: if-none-match\r\n\r\n";
        let without = "PUT /if-none-match:x HTTP/1.1\r\nHost: a\r\nX: if-none-match\r\n\r\n";
        assert_eq!(without_header(head, CONDITION), without);
    }

    #[test]
    fn an_upload_keeps_its_condition() {
        let put = "PUT /bucket/a/b HTTP/1.1\r\nHost: a\r\n\r\n";
        let upload = "POST /upload/storage/v1/b/bucket/o?uploadType=media&name=a/b HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(as_upload(put), upload);
        let head = as_upload("PUT /bucket/a HTTP/1.1\r\nX-Goog-If-Generation-Match: 0\r\n\r\n");
        assert!(head.starts_with("POST /upload/storage/v1/b/bucket/o?uploadType=media&name=a&ifGenerationMatch=0 "));
    }

    #[test]
    fn a_seed_repeats() {
        let decide = |seed| {
            let faults = vec![Fault::LoseReply, Fault::CutReply];
            let mut state =
                State { chaos: Some(Chaos { seed, per_mille: 300, puts_per_mille: 0, faults }), ..State::default() };
            (0..200).map(|_| state.decide("GET", "/", 0)).collect::<Vec<_>>()
        };
        assert_eq!(decide(1), decide(1));
        assert_ne!(decide(1), decide(2));
        let hits = decide(1).iter().flatten().count();
        assert!((30..90).contains(&hits), "{hits}");
    }
}
