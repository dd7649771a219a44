//! HTTP below object_store: one client whose waiting is bounded by silence and not by the size of what is moved, and
//! whose refusals stay what the server said. object_store turns 409 and 412 into the same error, hides status and text
//! of others, and would try again by itself; here every answer but success becomes a [`Refused`], which the adapter
//! finds again in the chain of sources.

use super::listing::Lists;
use crate::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};
use parking_lot::Mutex;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Longer texts of refusals are cut.
const TEXT: usize = 16 << 10;

/// A page of a listing, a thousand objects or five thousand, is much shorter.
const PAGE: usize = 64 << 20;

/// Headers in which servers number their answers: whoever answers in their place does not.
const NUMBERS: [&str; 4] = ["x-amz-request-id", "x-amz-id-2", "x-ms-request-id", "x-guploader-uploadid"];

/// An answer that is not success.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) struct Refused {
    pub(super) status: u16,
    /// The `Code` of an S3 error, or empty.
    pub(super) code: String,
    /// Its `Message`, or the beginning of the text.
    pub(super) message: String,
    /// It is the storage that answered, and not something that stands before it.
    pub(super) is_known: bool,
}

impl Refused {
    fn new(status: u16, headers: &http::HeaderMap, text: &str) -> Self {
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            Some(rest.split_once(&format!("</{name}>"))?.0.to_owned())
        };
        let message = element("Message").unwrap_or_else(|| text.chars().take(200).collect());
        let of_header = || Some(headers.get("x-ms-error-code")?.to_str().ok()?.to_owned());
        let code = element("Code").or_else(of_header).unwrap_or_default();
        // Google's JSON has a reason and no code.
        let says = code.starts_with("NoSuch") || code.ends_with("NotFound") || text.contains("\"notFound\"");
        let numbered =
            |name: &http::HeaderName| NUMBERS.contains(&name.as_str()) || name.as_str().starts_with("x-goog-");
        Self { status, code, message, is_known: says || headers.keys().any(numbered) }
    }

    /// Something is not there, says somebody who need not know: an ingress without a backend, say, or a server that gives the
    /// answer to a HEAD no number.
    pub(super) fn is_hearsay(&self) -> bool {
        self.status == 404 && !self.is_known
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}", self.status)?;
        for part in [&self.code, &self.message] {
            if !part.is_empty() {
                write!(f, " {part}")?;
            }
        }
        Ok(())
    }
}

/// No answer, or no whole one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Nothing moved for this long.
    #[error("no byte went either way for {:.1} s", .0.as_secs_f64())]
    Silent(Duration),
    /// Nobody waits for it any more.
    #[error("there was no answer yet when the work was over")]
    Over,
    /// An answer to the wish for a listing that is none, or that does not say where it goes on.
    #[error("the answer is no whole listing ({0}): what is missing of it is not known")]
    Listing(&'static str),
    /// The connection was refused, lost or nonsensical.
    #[error("{}", innermost(.0))]
    Connection(#[source] reqwest::Error),
}

/// The last cause says what happened; the outer ones that a request failed.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn broken(error: reqwest::Error) -> HttpError {
    // Whoever holds the URL of an Azure request with a shared access signature, or of a role's token, holds the secret.
    HttpError::new(HttpErrorKind::Unknown, Broken::Connection(error.without_url()))
}

fn silent(patience: Duration) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, Broken::Silent(patience))
}

/// A client that waits as long as something moves.
#[derive(Clone, Debug)]
pub(super) struct Patient {
    pub(super) client: reqwest::Client,
    /// How long nothing may move.
    pub(super) patience: Duration,
    /// What the newest answer to a listing said.
    pub(super) date: Date,
}

/// When a server answered, by its own clock (RFC 9110, 6.6.1): that which also says when objects were written. Whole seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Date(Arc<Mutex<Option<Timestamp>>>);

impl Date {
    /// `None`: no answer so far, or the newest one did not say it.
    pub(super) fn get(&self) -> Option<Timestamp> {
        *self.0.lock()
    }

    fn note(&self, headers: &http::HeaderMap) {
        let text = headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
        *self.0.lock() = text.and_then(moment);
    }
}

/// A date of HTTP.
pub(crate) fn moment(date: &str) -> Option<Timestamp> {
    let moment = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    i64::try_from(moment.as_nanosecond()).ok().map(Timestamp)
}

#[async_trait]
impl HttpService for Patient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let Self { client, patience, date } = self;
        let sent = Arc::new(AtomicU64::new(0));
        let lists = Lists::of(request.uri().query().unwrap_or_default());
        let request = request.map(|body| reqwest::Body::wrap(Counted { body, sent: Arc::clone(&sent) }));
        let request = reqwest::Request::try_from(request).map_err(broken)?;
        let mut answer = std::pin::pin!(client.execute(request));
        let mut seen = 0;
        let answer = loop {
            match tokio::time::timeout(*patience, &mut answer).await {
                Ok(answer) => break answer.map_err(broken)?,
                Err(_) => {
                    let now = sent.load(Ordering::Relaxed);
                    if std::mem::replace(&mut seen, now) == now {
                        return Err(silent(*patience));
                    }
                }
            }
        };
        let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        let patience = Box::pin(tokio::time::sleep(*patience));
        let mut body = Timed { body, limit: self.patience, patience };
        if parts.status.is_success() {
            let Some(lists) = lists else { return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body))) };
            let mut page = Vec::new();
            while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                page.extend_from_slice(frame?.data_ref().unwrap_or(&Bytes::new()));
                if page.len() > PAGE {
                    return Err(HttpError::new(HttpErrorKind::Unknown, Broken::Listing("it has no end")));
                }
            }
            let text = String::from_utf8_lossy(&page);
            lists.check(&text).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
            date.note(&parts.headers);
            let page = lists.without_foreign(&text).map_or(page, String::into_bytes);
            return Ok(HttpResponse::from_parts(parts, page.into()));
        }
        let mut text = Vec::new();
        // A text that breaks off is still the answer.
        while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            text.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
            if text.len() > TEXT {
                break;
            }
        }
        let refused = Refused::new(parts.status.as_u16(), &parts.headers, &String::from_utf8_lossy(&text));
        Err(HttpError::new(HttpErrorKind::Unknown, refused))
    }
}

/// What is said of an answer that is not success.
pub(crate) fn refusal(status: u16, text: &str) -> String {
    Refused::new(status, &http::HeaderMap::new(), text).to_string()
}

/// A body on its way out that counts what the connection took.
struct Counted {
    body: HttpRequestBody,
    sent: Arc<AtomicU64>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body on its way in that fails when nothing comes for too long.
struct Timed {
    body: reqwest::Body,
    limit: Duration,
    patience: Pin<Box<Sleep>>,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let limit = self.limit;
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.patience.as_mut().reset(Instant::now() + limit);
                Poll::Ready(frame.map(|frame| frame.map_err(broken)))
            }
            Poll::Pending => {
                std::task::ready!(self.patience.as_mut().poll(cx));
                Poll::Ready(Some(Err(silent(limit))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_read_and_anything_else_is_none() {
        let said = |text: &str| {
            let date = Date::default();
            date.note(&http::HeaderMap::from_iter([(http::header::DATE, text.parse().unwrap())]));
            date.get()
        };
        // The example of RFC 9110, 5.6.7.
        assert_eq!(said("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Timestamp(784_111_777_000_000_000)));
        for odd in ["", "now", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37", "784111777"] {
            assert_eq!(said(odd), None, "{odd}");
        }
        let date = Date::default();
        date.note(&http::HeaderMap::new());
        assert_eq!(date.get(), None);
    }

    #[test]
    fn refusals_keep_code_and_message() {
        let new = |status, text| Refused::new(status, &http::HeaderMap::new(), text);
        let text = "<?xml?><Error><Code>NoSuchBucket</Code><Message>gone</Message></Error>";
        assert_eq!(new(404, text).to_string(), "HTTP 404 NoSuchBucket gone");
        assert_eq!(new(502, "bad gateway").to_string(), "HTTP 502 bad gateway");
        assert_eq!(new(500, "<Code>x").code, "");
    }

    #[test]
    fn what_is_not_there_only_the_storage_knows() {
        let hearsay = |header: Option<(&'static str, &str)>, text: &str| {
            let headers = header.map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
            Refused::new(404, &http::HeaderMap::from_iter(headers), text).is_hearsay()
        };
        for text in
            ["", "404 page not found", "<html><h1>Not Found</h1></html>", "default backend - 404", "{\"error\": 404}"]
        {
            assert!(hearsay(None, text), "{text}");
            assert!(hearsay(Some(("x-request-id", "7")), text), "of an ingress: {text}");
        }
        for code in
            ["NoSuchKey", "NoSuchBucket", "NoSuchUpload", "BlobNotFound", "ContainerNotFound", "ResourceNotFound"]
        {
            assert!(!hearsay(None, &format!("<Error><Code>{code}</Code></Error>")), "{code}");
        }
        assert!(!hearsay(None, r#"{"error": {"code": 404, "errors": [{"reason": "notFound"}]}}"#));
        for header in ["x-amz-request-id", "x-ms-request-id", "x-guploader-uploadid", "x-goog-hash", "x-amz-id-2"] {
            assert!(!hearsay(Some((header, "7")), ""), "{header}");
        }
        assert!(!hearsay(Some(("x-ms-error-code", "BlobNotFound")), ""));
        assert!(!Refused::new(403, &http::HeaderMap::new(), "").is_hearsay());
    }
}
