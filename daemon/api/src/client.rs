//! HTTPS to an API server: who asks, one request and its answer, and what an answer means.
//!
//! A client of our own, on what the workspace has: who runs in a pod is told where the server is, and its token lies in a
//! file. Kubeconfig, exec plugins and other people's types are not needed for that.

use crate::api::{ApiError, Refusal};
use crate::metrics::{CONFLICTS, REQUESTS, Registry};
use crate::page;
use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, Response};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the kubelet puts what a pod needs to ask the API server.
const IN_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A token in a file is read again after so long: the kubelet replaces it while it is still good for a fifth of its life.
const TOKEN_AGE: Duration = Duration::from_secs(60);
/// The longest that one request may take. The server itself gives up after 60 s.
const REQUEST: Duration = Duration::from_secs(70);

/// Where the server is, and who asks.
#[derive(Debug, Clone)]
pub struct Access {
    /// `https://HOST:PORT`.
    pub server: String,
    /// Certificates that the server's is signed by, PEM.
    pub authorities: Vec<u8>,
    /// The bearer token.
    pub token: Token,
}

/// A bearer token.
#[derive(Clone)]
pub enum Token {
    /// Does not change.
    Fixed(String),
    /// In a file that others replace.
    File(PathBuf),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(_) => f.write_str("Fixed(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// What a token says. Never printed: with it anybody is this account.
#[derive(Clone, PartialEq)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why no server can be asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Not in a pod.
    #[error(
        "{0} is not set, so this is no pod of a cluster: run it there, or give --server, --ca-file and --token-file"
    )]
    NotInACluster(&'static str),
    /// A file that cannot be read.
    #[error("{}: {reason}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The HTTP client cannot be made of this.
    #[error("no client for the API server {server}: {reason}")]
    Client {
        /// Its URL.
        server: String,
        /// Why not.
        reason: String,
    },
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    std::fs::read(path).map_err(|e| AccessError::File { path: path.to_owned(), reason: e.to_string() })
}

impl Access {
    /// As every pod with a service account has it.
    pub fn in_cluster() -> Result<Self, AccessError> {
        let variable = |name| std::env::var(name).map_err(|_| AccessError::NotInACluster(name));
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        // An IPv6 address stands in brackets.
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let folder = Path::new(IN_POD);
        Self::with_files(&format!("https://{host}:{port}"), &folder.join("ca.crt"), &folder.join("token"))
    }

    /// The server of a URL, with its authorities and a token in files.
    pub fn with_files(server: &str, authorities: &Path, token: &Path) -> Result<Self, AccessError> {
        let server = server.trim_end_matches('/').to_owned();
        Ok(Self { server, authorities: read(authorities)?, token: Token::File(token.to_owned()) })
    }
}

/// A client of one server; clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    access: Arc<Access>,
    known: Arc<Mutex<Option<(Instant, Secret)>>>,
    registry: Option<Arc<Registry>>,
    pace: Option<Arc<Mutex<Pace>>>,
}

/// Requests as they may be sent: a bucket of tokens. Who comes when it is empty waits, one after the other.
#[derive(Debug)]
struct Pace {
    /// Between two of a long row.
    each: Duration,
    /// So many are sent at once after a pause.
    burst: u32,
    /// When the bucket is full again.
    full: Option<Instant>,
}

impl Pace {
    /// Takes a token; how long it is waited for.
    fn take(&mut self, now: Instant) -> Duration {
        let full = self.full.filter(|full| *full > now).unwrap_or(now) + self.each;
        self.full = Some(full);
        full.duration_since(now).saturating_sub(self.each.saturating_mul(self.burst))
    }
}

/// A request under way. One that nobody waits for any longer is counted too, as one without an answer.
struct Asked<'a> {
    registry: Option<&'a Registry>,
    /// First word of the call.
    verb: &'a str,
    status: Option<u16>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(registry) = self.registry else { return };
        registry.add(&REQUESTS, &[self.verb, class(self.status)], 1.0);
        if self.status == Some(409) {
            registry.add(&CONFLICTS, &[], 1.0);
        }
    }
}

/// Value of label `code`.
fn class(status: Option<u16>) -> &'static str {
    match status {
        None => "none",
        Some(200..300) => "2xx",
        Some(404) => "404",
        Some(409) => "409",
        Some(429) => "429",
        Some(400..500) => "4xx",
        Some(500..600) => "5xx",
        Some(_) => "other",
    }
}

/// A body and its media type.
type Body<'a> = Option<(&'a str, Vec<u8>)>;

impl Client {
    /// A client; nothing is sent yet.
    pub fn new(access: Access) -> Result<Self, AccessError> {
        let wrong = |e: reqwest::Error| AccessError::Client { server: access.server.clone(), reason: chain(&e) };
        let authorities = reqwest::Certificate::from_pem_bundle(&access.authorities).map_err(wrong)?;
        let http = reqwest::Client::builder()
            .https_only(true)
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            // A server that went without a word is noticed although nothing is sent to it.
            .tcp_keepalive(Duration::from_secs(20))
            .user_agent(concat!("wherry/", env!("CARGO_PKG_VERSION")))
            .tls_certs_only(authorities)
            .build()
            .map_err(wrong)?;
        Ok(Self { http, access: Arc::new(access), known: Arc::default(), registry: None, pace: None })
    }

    /// The same; its requests are counted there.
    #[must_use]
    pub fn counting(self, registry: Arc<Registry>) -> Self {
        Self { registry: Some(registry), ..self }
    }

    /// The same; it and all clones of it together send no more than so many requests a second, after a pause `burst` at once.
    #[must_use]
    pub fn paced(self, a_second: u32, burst: u32) -> Self {
        let pace = Pace { each: Duration::from_secs(1) / a_second.max(1), burst, full: None };
        Self { pace: Some(Arc::new(Mutex::new(pace))), ..self }
    }

    fn token(&self, call: &str) -> Result<Secret, ApiError> {
        let path = match &self.access.token {
            Token::Fixed(token) => return Ok(Secret(token.clone())),
            Token::File(path) => path,
        };
        let mut known = self.known.lock();
        if let Some((_, token)) = known.as_ref().filter(|(since, _)| since.elapsed() < TOKEN_AGE) {
            return Ok(token.clone());
        }
        match read(path) {
            Ok(text) => {
                let token = Secret(String::from_utf8_lossy(&text).trim().to_owned());
                *known = Some((Instant::now(), token.clone()));
                Ok(token)
            }
            Err(e) => Err(ApiError::new(Refusal::Unavailable, call, e.to_string())),
        }
    }

    async fn ask(&self, call: &str, method: Method, path: &str, body: Body<'_>) -> Result<Response, ApiError> {
        let wait = self.pace.as_ref().map(|pace| pace.lock().take(Instant::now())).unwrap_or_default();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let request = self.http.request(method, format!("{}{path}", self.access.server));
        let mut request = request.bearer_auth(&self.token(call)?.0);
        let verb = call.split(' ').next().unwrap_or_default();
        let mut asked = Asked { registry: self.registry.as_deref(), verb, status: None };
        if let Some((media, bytes)) = body {
            request = request.header(CONTENT_TYPE, media).body(bytes);
        }
        let answer = request.send().await;
        asked.status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        answer.map_err(|e| ApiError::new(Refusal::Unavailable, call, chain(&e.without_url())))
    }

    /// One request, and the object that is the answer, without `metadata.managedFields`. `call` (verb and object) goes into
    /// errors. Whatever breaks off is [`Refusal::Unavailable`]: nobody knows whether it was done.
    pub async fn send(&self, call: &str, method: Method, path: &str, body: Body<'_>) -> Result<Value, ApiError> {
        self.send_for(call, method, path, body, page::object).await
    }

    /// The same; `read` makes of the answer's text what is wanted of it.
    pub(crate) async fn send_for<T>(
        &self,
        call: &str,
        method: Method,
        path: &str,
        body: Body<'_>,
        read: impl FnOnce(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, ApiError> {
        let all = async {
            let answer = self.ask(call, method, path, body).await?;
            let status = answer.status().as_u16();
            let retry_after = retry_after(&answer);
            let unknown = |e: String| ApiError::new(Refusal::Unavailable, call, e);
            let bytes = answer.bytes().await.map_err(|e| unknown(chain(&e.without_url())))?;
            if (200..300).contains(&status) {
                return read(&bytes).map_err(|e| unknown(format!("the answer cannot be read: {e}")));
            }
            Err(self.refused(call, status, &bytes, retry_after))
        };
        match tokio::time::timeout(REQUEST, all).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(ApiError::new(Refusal::Unavailable, call, format!("no answer within {} s", REQUEST.as_secs())))
            }
        }
    }

    /// A request whose answer goes on and on.
    pub(crate) async fn stream(&self, call: &str, path: &str) -> Result<Response, ApiError> {
        let unknown = |e: String| ApiError::new(Refusal::Unavailable, call, e);
        let asked = tokio::time::timeout(REQUEST, self.ask(call, Method::GET, path, None)).await;
        let answer = asked.map_err(|_| unknown(format!("no answer within {} s", REQUEST.as_secs())))??;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (status, retry_after) = (answer.status().as_u16(), retry_after(&answer));
        let bytes = tokio::time::timeout(REQUEST, answer.bytes()).await.ok().and_then(Result::ok).unwrap_or_default();
        Err(self.refused(call, status, &bytes, retry_after))
    }

    fn refused(&self, call: &str, status: u16, body: &[u8], retry_after: Option<Duration>) -> ApiError {
        if status == 401 {
            *self.known.lock() = None; // another token may lie in the file by now
        }
        ApiError { retry_after, ..refused(call, status, body) }
    }
}

fn retry_after(answer: &Response) -> Option<Duration> {
    pause(answer.headers().get(RETRY_AFTER)?.to_str().ok()?)
}

/// What a header `Retry-After` asks for, where it says seconds.
pub(crate) fn pause(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_secs)
}

/// An error and all that it comes from, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// What an answer that is no success means to the caller. The body is a `Status` where the API server itself answers.
#[must_use]
pub fn refused(call: &str, code: u16, body: &[u8]) -> ApiError {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let refusal = match (code, text("/reason")) {
        (400..=422, _) if is_denied(text("/message")) => Refusal::Forbidden,
        // Only where it names what is not there. Without a name it is the path that is not served, by a server that is
        // still starting or a CustomResourceDefinition that is gone: no word about any object.
        (404, "NotFound") if !text("/details/name").is_empty() => Refusal::NotFound,
        (404, _) => Refusal::Unavailable,
        (409, "AlreadyExists") => Refusal::Exists,
        (409, _) => Refusal::Conflict,
        (410, _) => Refusal::Expired,
        (401 | 403, _) => Refusal::Forbidden,
        (429, _) => Refusal::Busy,
        // A 400 of a proxy before the server is none about the object.
        (400, _) if status["kind"] == "Status" => Refusal::Invalid,
        (413 | 422, _) => Refusal::Invalid,
        _ => Refusal::Unavailable,
    };
    let said = match text("/message") {
        "" => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
        message => message.to_owned(),
    };
    ApiError::new(refusal, call, format!("{code}: {said}"))
}

/// Whether a policy of the cluster denied it: nothing is wrong with the object, and the policy may change. A ValidatingAdmissionPolicy
/// denies by 422 (`Invalid`) unless it says otherwise, and a webhook that sets no code by 400: by the code alone both look as an object
/// that the server can never take. The messages are those of the API server, whatever the policy says in them.
fn is_denied(message: &str) -> bool {
    message.starts_with("admission webhook ") || message.contains(" is forbidden: ValidatingAdmissionPolicy ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(code: u16, reason: &str, name: &str) -> Refusal {
        let body = json!({ "kind": "Status", "reason": reason, "message": "m", "details": { "name": name } });
        refused("get x", code, body.to_string().as_bytes()).refusal
    }

    #[test]
    fn what_an_answer_means() {
        for (code, reason, expected) in [
            (404, "NotFound", Refusal::NotFound),
            (409, "AlreadyExists", Refusal::Exists),
            (409, "Conflict", Refusal::Conflict),
            (410, "Expired", Refusal::Expired),
            (403, "Forbidden", Refusal::Forbidden),
            (401, "Unauthorized", Refusal::Forbidden),
            (422, "Invalid", Refusal::Invalid),
            (400, "BadRequest", Refusal::Invalid),
            (413, "RequestEntityTooLarge", Refusal::Invalid),
            (429, "TooManyRequests", Refusal::Busy),
            (405, "MethodNotAllowed", Refusal::Unavailable),
            (415, "UnsupportedMediaType", Refusal::Unavailable),
            (408, "Timeout", Refusal::Unavailable),
            (500, "InternalError", Refusal::Unavailable),
            (503, "ServiceUnavailable", Refusal::Unavailable),
            (504, "Timeout", Refusal::Unavailable),
            (302, "", Refusal::Unavailable),
        ] {
            assert_eq!(status(code, reason, "x"), expected, "{code} {reason}");
        }
    }

    /// It is waited for, as a quota is: one that is rolled out by mistake must not fail every backup at once.
    #[test]
    fn what_a_policy_denies_may_be_taken_later() {
        let of = |code: u16, reason: &str, message: &str| {
            let body = json!({ "kind": "Status", "reason": reason, "message": message, "code": code });
            refused("create x", code, body.to_string().as_bytes()).refusal
        };
        let policy =
            "pods \"wherry-1\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no";
        let webhook = "admission webhook \"validate.kyverno.svc-fail\" denied the request: no";
        let quota =
            "pods \"wherry-1\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1";
        for (code, reason, message) in [
            (422, "Invalid", policy),
            (403, "Forbidden", policy),
            (413, "RequestEntityTooLarge", policy),
            (400, "BadRequest", webhook),
            (400, "", webhook),
            (403, "Forbidden", webhook),
            (409, "Conflict", webhook),
            (403, "Forbidden", quota),
        ] {
            assert_eq!(of(code, reason, message), Refusal::Forbidden, "{code} {reason} {message}");
        }
        let invalid = "Pod \"wherry-1\" is invalid: spec.containers: Required value";
        assert_eq!(of(422, "Invalid", invalid), Refusal::Invalid);
        assert_eq!(of(400, "BadRequest", "unknown field \"spec.x\""), Refusal::Invalid);
        // A webhook that cannot be asked has denied nothing.
        let failed = "Internal error occurred: failed calling webhook \"w\": no endpoints";
        assert_eq!(of(500, "InternalError", failed), Refusal::Unavailable);
    }

    #[test]
    fn a_path_that_is_not_served_says_nothing_about_an_object() {
        assert_eq!(status(404, "NotFound", ""), Refusal::Unavailable);
        let plain = refused("get x", 404, b"404 page not found\n");
        assert_eq!(plain.refusal, Refusal::Unavailable);
        assert_eq!(plain.to_string(), "get x: 404: 404 page not found");
    }

    /// Else it would fail CRs that nothing is wrong with.
    #[test]
    fn a_400_of_a_proxy_says_nothing_about_an_object() {
        assert_eq!(refused("create x", 400, b"<html>400 Bad Request</html>").refusal, Refusal::Unavailable);
    }

    #[test]
    fn requests_are_spread_out_after_a_burst() {
        let mut pace = Pace { each: Duration::from_millis(50), burst: 3, full: None };
        let now = Instant::now();
        let mut waits = |now: Instant, times: usize| (0..times).map(|_| pace.take(now).as_millis()).collect::<Vec<_>>();
        assert_eq!(waits(now, 6), [0, 0, 0, 50, 100, 150]);
        // What was promised is over then, and one more token is there.
        assert_eq!(waits(now + Duration::from_millis(200), 2), [0, 50]);
        // However long the pause, no more than the burst.
        assert_eq!(waits(now + Duration::from_secs(3600), 5), [0, 0, 0, 50, 100]);
    }

    #[test]
    fn tokens_are_not_printed() {
        assert!(!format!("{:?}", Token::Fixed("secret".to_owned())).contains("secret"));
    }

    #[test]
    fn a_token_in_a_file_is_read_when_it_is_needed_and_again_after_a_refusal() {
        let file = std::env::temp_dir().join(format!("wherry-token-{}", std::process::id()));
        let access = |token| Access { server: "https://127.0.0.1:1".to_owned(), authorities: Vec::new(), token };
        let client = Client::new(access(Token::File(file.clone()))).unwrap();
        assert_eq!(client.token("get x").unwrap_err().refusal, Refusal::Unavailable);
        std::fs::write(&file, "secret-1\n").unwrap();
        assert_eq!(client.token("get x").unwrap().0, "secret-1");
        std::fs::write(&file, "secret-2\n").unwrap();
        assert_eq!(client.token("get x").unwrap().0, "secret-1");
        assert!(client.known.lock().is_some() && !format!("{client:?}").contains("secret-1"), "{client:?}");
        drop(client.refused("get x", 401, b"", None));
        assert_eq!(client.token("get x").unwrap().0, "secret-2");
        std::fs::remove_file(&file).unwrap();
    }
}
