//! Follows the objects of a kind in a namespace: a list, then a watch that goes on where it was broken off.

use crate::api::{ApiError, Key, Kind, Refusal};
use crate::kube_api::{KubeApi, escape, path};
use crate::page;
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// The server ends a watch after so long, and it is begun anew: once in ten minutes at most, as that is a request.
pub const WATCH: Duration = Duration::from_secs(610);
/// And if it does not.
const SILENT: Duration = Duration::from_secs(640);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A watch that is cut off after more than this worked: it goes on from where it was, however often that happens.
const RAN_WELL: Duration = Duration::from_secs(60);

/// What is seen: objects, or what is kept of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen<T = Value> {
    /// All that there are; any other of the kind that was known is gone.
    Listed(Kind, Vec<T>),
    /// One is new or has changed.
    Changed(Kind, T),
    /// One is gone; this is what it was at last.
    Gone(Kind, T),
}

/// What is followed.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Of this kind.
    pub kind: Kind,
    /// In this namespace.
    pub namespace: String,
    /// That this label selector fits; empty: all.
    pub label: String,
    /// Of this name; empty: all. A right to follow an object may then name it (RBAC's `resourceNames`).
    pub name: String,
}

impl Selection {
    /// As a query has it, each part after an `&`.
    fn query(&self) -> String {
        let mut query = String::new();
        if !self.label.is_empty() {
            query += &format!("&labelSelector={}", escape(&self.label));
        }
        if !self.name.is_empty() {
            query += &format!("&fieldSelector={}", escape(&format!("metadata.name={}", self.name)));
        }
        query
    }
}

/// A line of a watch.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    Object(Value),
    Gone(Value),
    /// Only the resourceVersion.
    Bookmark(String),
    /// What the watch goes on from is forgotten, or it is broken in another way.
    Failed(Refusal, String),
}

pub(crate) fn line(bytes: &[u8]) -> Line {
    let mut event = match page::object(bytes) {
        Ok(event) => event,
        Err(e) => return Line::Failed(Refusal::Unavailable, format!("a line that cannot be read: {e}")),
    };
    let object = event.get_mut("object").map(Value::take).unwrap_or_default();
    match event["type"].as_str().unwrap_or_default() {
        "ADDED" | "MODIFIED" => Line::Object(object),
        "DELETED" => Line::Gone(object),
        "BOOKMARK" => Line::Bookmark(version(&object)),
        _ => {
            let message = object["message"].as_str().unwrap_or("no message").to_owned();
            let refusal = if object["code"] == 410 { Refusal::Expired } else { Refusal::Unavailable };
            Line::Failed(refusal, message)
        }
    }
}

/// Whether the server has less than was seen of it already: it was restored from a backup of its own.
fn went_back(from: &str, to: &str) -> bool {
    matches!((from.parse::<u64>(), to.parse::<u64>()), (Ok(from), Ok(to)) if to < from)
}

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

/// Cuts what arrives into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.rest.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let tail = self.rest.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.rest, tail);
            line.pop();
            if !line.is_empty() {
                lines.push(line);
            }
        }
        lines
    }
}

/// Follows until nobody listens any more: from a list, or from a version that was seen before.
pub async fn follow(api: KubeApi, of: Selection, from: Option<String>, to: UnboundedSender<Seen>) {
    follow_as(api, of, from, to, |_, object| object).await;
}

/// The same; `keep` makes of each object, as it is read, what is kept of it: a list of thousands is never there as a whole.
pub async fn follow_as<T: Send>(
    api: KubeApi,
    of: Selection,
    mut from: Option<String>,
    to: UnboundedSender<Seen<T>>,
    keep: fn(Kind, Value) -> T,
) {
    let mut failures = 0_u32;
    while !to.is_closed() {
        let begin = Instant::now();
        let result = match &mut from {
            None => begin_anew(&api, &of, &to, &mut from, keep).await,
            Some(version) => go_on(&api, &of, &to, version, keep).await,
        };
        match result {
            Ok(()) => failures = 0,
            Err(e) if e.refusal == Refusal::Expired => {
                tracing::info!("{e}: listed anew");
                from = None;
                failures = failures.saturating_add(1);
            }
            Err(e) => {
                tracing::warn!("{e}");
                // One that ran well for a time and was cut off is no failure in a row.
                failures = if begin.elapsed() > RAN_WELL { 1 } else { failures.saturating_add(1) };
                // Whatever it is, a list may mend it: a cluster that was restored from a backup knows no such version.
                if failures >= 3 {
                    from = None;
                }
            }
        }
        // One that breaks off at once is not begun at once again, whatever it says.
        let pause = if failures == 0 && begin.elapsed() < Duration::from_secs(1) && from.is_some() {
            Duration::from_millis(200)
        } else {
            pause(failures)
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = to.closed() => {}
        }
    }
}

/// How long nothing is asked after so many failures in a row.
fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_secs(1_u64.checked_shl(n - 1).unwrap_or(u64::MAX)).min(LONGEST_PAUSE),
    }
}

async fn begin_anew<T>(
    api: &KubeApi,
    of: &Selection,
    to: &UnboundedSender<Seen<T>>,
    from: &mut Option<String>,
    keep: fn(Kind, Value) -> T,
) -> Result<(), ApiError> {
    let list = api.list_by(of.kind, &of.namespace, &of.query(), |object| Some(keep(of.kind, object))).await?;
    *from = Some(list.version);
    // Nobody listens: the caller sees it.
    let _ = to.send(Seen::Listed(of.kind, list.objects));
    Ok(())
}

async fn go_on<T>(
    api: &KubeApi,
    of: &Selection,
    to: &UnboundedSender<Seen<T>>,
    from: &mut String,
    keep: fn(Kind, Value) -> T,
) -> Result<(), ApiError> {
    let call = format!("watch {}", of.kind.word());
    let (base, seconds) = (path(of.kind, &of.namespace), WATCH.as_secs());
    let path = format!(
        "{base}?watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={from}{}",
        of.query()
    );
    let broken = |refusal, message| ApiError::new(refusal, &call, message);
    let mut answer = api.client().stream(&call, &path).await?;
    let mut lines = Lines::default();
    let end = tokio::time::Instant::now() + SILENT;
    loop {
        let chunk = tokio::select! {
            () = to.closed() => return Ok(()),
            chunk = tokio::time::timeout_at(end, answer.chunk()) => chunk,
        };
        let chunk = match chunk {
            Err(_) => return Err(broken(Refusal::Unavailable, "the server did not end it".to_owned())),
            Ok(Err(e)) => return Err(broken(Refusal::Unavailable, e.without_url().to_string())),
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(chunk))) => chunk,
        };
        for bytes in lines.add(&chunk) {
            match line(&bytes) {
                Line::Bookmark(version) if went_back(from, &version) => {
                    let message = format!("the server went back from version {from} to {version}");
                    return Err(broken(Refusal::Expired, message));
                }
                Line::Bookmark(version) => *from = version,
                Line::Failed(refusal, message) => return Err(broken(refusal, message)),
                Line::Object(object) => {
                    *from = version(&object);
                    let _ = to.send(Seen::Changed(of.kind, keep(of.kind, object)));
                }
                Line::Gone(object) => {
                    *from = version(&object);
                    let _ = to.send(Seen::Gone(of.kind, keep(of.kind, object)));
                }
            }
        }
    }
}

/// The key of an object of a kind.
#[must_use]
pub fn key_of(kind: Kind, object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    Key::new(kind, text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"{\"a\""), Vec::<Vec<u8>>::new());
        assert_eq!(lines.add(b":1}\n\n{\"b\":2}\n{"), [b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()]);
        assert_eq!(lines.add(b"}\n"), [b"{}".to_vec()]);
    }

    #[test]
    fn what_lines_say() {
        let say = |kind: &str, object: Value| line(json!({ "type": kind, "object": object }).to_string().as_bytes());
        let object = json!({ "metadata": { "name": "a", "resourceVersion": "7" } });
        assert_eq!(say("ADDED", object.clone()), Line::Object(object.clone()));
        assert_eq!(say("MODIFIED", object.clone()), Line::Object(object.clone()));
        assert_eq!(say("DELETED", object.clone()), Line::Gone(object.clone()));
        assert_eq!(say("BOOKMARK", object), Line::Bookmark("7".to_owned()));
        let expired = json!({ "code": 410, "message": "too old resource version" });
        assert_eq!(say("ERROR", expired), Line::Failed(Refusal::Expired, "too old resource version".to_owned()));
        let other = json!({ "code": 500, "message": "m" });
        assert_eq!(say("ERROR", other), Line::Failed(Refusal::Unavailable, "m".to_owned()));
        for bad in ["{", "[]", "7", "\"x\"", "{}", "null"] {
            assert!(matches!(line(bad.as_bytes()), Line::Failed(Refusal::Unavailable, _)), "{bad}");
        }
    }

    #[test]
    fn a_server_that_went_back_is_noticed() {
        assert!(went_back("100", "99") && went_back("10", "9"));
        assert!(!went_back("9", "10") && !went_back("7", "7") && !went_back("x", "1") && !went_back("1", ""));
    }

    #[test]
    fn failures_are_paused_after() {
        let seconds: Vec<u64> = (0..8).map(|n| pause(n).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(200), LONGEST_PAUSE);
    }
}
