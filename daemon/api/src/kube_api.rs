//! The verbs on a real API server. Objects are JSON from end to end: one that has a field of a wrong type is read apart
//! from the others, and no list fails by it.

use crate::api::{Api, ApiError, Guard, Key, Kind, Refusal};
use crate::client::Client;
use crate::page::{Page, page};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;

/// Objects of one answer of a list; longer lists come in several. What is sent of one is in memory at once.
const PAGE: u32 = 200;
const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// A real API server.
#[derive(Debug, Clone)]
pub struct KubeApi {
    client: Client,
    page: u32,
    /// Whoever lists to keep little: one after the other, so that there is one page of it in memory.
    sifting: Arc<tokio::sync::Mutex<()>>,
}

/// All objects of a kind, or what is kept of them, with the resourceVersion that a watch goes on from.
#[derive(Debug, Clone, PartialEq)]
pub struct List<T = Value> {
    /// They.
    pub objects: Vec<T>,
    /// `metadata.resourceVersion` of the list.
    pub version: String,
}

impl KubeApi {
    /// Through that client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, page: PAGE, sifting: Arc::default() }
    }

    /// The same with so many objects in one answer of a list.
    #[must_use]
    pub fn with_pages_of(self, page: u32) -> Self {
        Self { page, ..self }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    async fn write(
        &self,
        verb: &str,
        key: &Key,
        method: Method,
        path: &str,
        (media, body): (&str, &Value),
    ) -> Result<Value, ApiError> {
        let call = format!("{verb} {key}");
        if !can_be(key) {
            return Err(ApiError::new(Refusal::Invalid, &call, "no object can have that name".to_owned()));
        }
        self.client.send(&call, method, path, Some((media, body.to_string().into_bytes()))).await
    }

    /// All that a label selector fits; empty: all.
    pub async fn list_all(&self, kind: Kind, namespace: &str, selector: &str) -> Result<List, ApiError> {
        self.list_as(kind, namespace, selector, Some).await
    }

    /// The same; `read` says what is kept of each object, and the rest is dropped before the next one is read. So it
    /// takes the memory of a page and of what is kept, however long the list is.
    pub async fn list_as<T>(
        &self,
        kind: Kind,
        namespace: &str,
        selector: &str,
        read: impl FnMut(Value) -> Option<T>,
    ) -> Result<List<T>, ApiError> {
        let query = match selector {
            "" => String::new(),
            selector => format!("&labelSelector={}", escape(selector)),
        };
        self.list_by(kind, namespace, &query, read).await
    }

    /// The same, of what a query says: each of its parts after an `&`.
    pub(crate) async fn list_by<T>(
        &self,
        kind: Kind,
        namespace: &str,
        query: &str,
        mut read: impl FnMut(Value) -> Option<T>,
    ) -> Result<List<T>, ApiError> {
        let call = format!("list {}", kind.word());
        let base = format!("{}?limit={}{query}", path(kind, namespace), self.page);
        let mut list = List { objects: Vec::new(), version: String::new() };
        let mut next = String::new();
        let mut again = true;
        loop {
            let from = if next.is_empty() { base.clone() } else { format!("{base}&continue={}", escape(&next)) };
            let mut each = |object| list.objects.extend(read(object));
            match self.client.send_for(&call, Method::GET, &from, None, |text| page(text, &mut each)).await {
                Ok(Page { version, more }) => {
                    if list.version.is_empty() {
                        list.version = version;
                    }
                    if more.is_empty() {
                        return Ok(list);
                    }
                    next = more;
                }
                // The server has forgotten the state that this list began with.
                Err(e) if e.refusal == Refusal::Expired && !next.is_empty() && again => {
                    list.objects.clear();
                    list.version.clear();
                    (next, again) = (String::new(), false);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// The path of all objects of a kind in a namespace; in all of them, if it is empty.
#[must_use]
pub fn path(kind: Kind, namespace: &str) -> String {
    let (group, version, _, plural, namespaced) = kind.names();
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    if namespaced && !namespace.is_empty() {
        format!("{root}/namespaces/{}/{plural}", escape(namespace))
    } else {
        format!("{root}/{plural}")
    }
}

/// The path of one object.
#[must_use]
pub fn path_of(key: &Key) -> String {
    format!("{}/{}", path(key.kind, &key.namespace), escape(&key.name))
}

/// Whether an object can have that key. Names come from others' objects, and must not become other paths: one without
/// the namespace that its kind needs would be a path that no server has.
fn can_be(key: &Key) -> bool {
    let segment = |text: &str| !text.is_empty() && !matches!(text, "." | "..") && !text.contains(['/', '%']);
    segment(&key.name) && (!key.kind.is_namespaced() || segment(&key.namespace))
}

/// Percent-encodes all that has a meaning in a URL.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b'.' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

impl Api for KubeApi {
    async fn get(&self, key: &Key) -> Result<Option<Value>, ApiError> {
        if !can_be(key) {
            return Ok(None);
        }
        match self.client.send(&format!("get {key}"), Method::GET, &path_of(key), None).await {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.refusal == Refusal::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn list(&self, kind: Kind, namespace: &str, labels: &[(&str, &str)]) -> Result<Vec<Value>, ApiError> {
        let selector = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        Ok(self.list_all(kind, namespace, &selector).await?.objects)
    }

    async fn list_where(
        &self,
        kind: Kind,
        namespace: &str,
        keep: impl Fn(&Value) -> bool + Send + Sync,
    ) -> Result<Vec<Value>, ApiError> {
        let _turn = self.sifting.lock().await;
        Ok(self.list_as(kind, namespace, "", |object| Some(object).filter(&keep)).await?.objects)
    }

    async fn create(&self, key: &Key, object: &Value) -> Result<Value, ApiError> {
        let path = path(key.kind, &key.namespace);
        self.write("create", key, Method::POST, &path, (JSON, object)).await
    }

    async fn patch(&self, key: &Key, patch: &Value) -> Result<Value, ApiError> {
        self.write("patch", key, Method::PATCH, &path_of(key), (MERGE_PATCH, patch)).await
    }

    async fn delete(&self, key: &Key, guard: &Guard) -> Result<(), ApiError> {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": { "uid": guard.uid, "resourceVersion": guard.resource_version },
        });
        self.write("delete", key, Method::DELETE, &path_of(key), (JSON, &options)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(path(Kind::DataUpload, "velero"), "/apis/velero.io/v2alpha1/namespaces/velero/datauploads");
        assert_eq!(path(Kind::Claim, "a"), "/api/v1/namespaces/a/persistentvolumeclaims");
        assert_eq!(path(Kind::Volume, "a"), "/api/v1/persistentvolumes");
        assert_eq!(path(Kind::Pod, ""), "/api/v1/pods");
        let key = Key::new(Kind::Attachment, "a", "csi-1");
        assert_eq!(path_of(&key), "/apis/storage.k8s.io/v1/volumeattachments/csi-1");
    }

    #[test]
    fn a_name_is_no_path() {
        for (name, escaped) in [("../x", "..%2Fx"), ("a.b-c", "a.b-c"), ("a?b#c", "a%3Fb%23c")] {
            assert_eq!(path_of(&Key::new(Kind::Volume, "", name)), format!("/api/v1/persistentvolumes/{escaped}"));
        }
        for name in ["", ".", "..", "a/b", "a%2Fb"] {
            assert!(!can_be(&Key::new(Kind::Volume, "", name)), "{name}");
            assert!(!can_be(&Key::new(Kind::Claim, name, "a")), "{name}");
        }
        assert!(can_be(&Key::new(Kind::Claim, "a", "b.c")) && can_be(&Key::new(Kind::Volume, "", "b")));
        assert_eq!(escape("a/b=ä"), "a%2Fb%3D%C3%A4");
    }
}
