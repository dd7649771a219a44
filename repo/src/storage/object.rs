//! The contract over object_store. What an answer means is decided here, whether to try again above
//! (`Retrying`): object_store only encodes, signs and sends. Every object is one PUT, never a multipart upload. On S3
//! it carries its SHA-256, which the server checks; elsewhere TLS guards it on its way.

mod azure;
mod client;
mod credentials;
mod google;
mod http;
mod listing;
mod place;
mod role;
mod s3;
mod service;

pub(crate) use credentials::values_in;
pub(crate) use http::{moment, refusal};
pub(crate) use listing::is_listing;
pub(crate) use place::{endpoint, place};

use super::retry::{LAST_REQUEST, LOOK, Over, Policy};
use super::{Key, Listed, Storage, Tail, check_prefix, check_range, check_size, conflict, keys};
use crate::{Error, ErrorKind, Result, Timestamp};
use bytes::Bytes;
use http::{Broken, Date, Refused};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use place::Place;
use role::NotGiven;
use service::Service;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::time::Instant;

pub(super) use azure::open as open_azure;
pub(super) use google::open as open_google;
pub(super) use s3::open as open_s3;
pub use s3::{Encryption, Environment, S3Options};

/// Bodies are handed to the connection in pieces of this size; a piece that was taken counts as progress.
const PIECE: usize = 256 << 10;
/// The one request that can end in a conflict.
const CREATE: &str = "create";
const OVERWRITE: &str = "overwrite";
const LIST: &str = "list";
/// What is needed of object_store beyond its main trait.
trait Backend: ObjectStore + PaginatedListStore {}
impl<T: ObjectStore + PaginatedListStore> Backend for T {}

/// A [`Storage`] in a bucket. Its methods block the calling thread, which must not be one of an async runtime.
#[derive(Debug)]
struct Objects {
    service: Service,
    place: Place,
    store: Arc<dyn Backend>,
    /// Creates are "look, then write": for storages without create-if-absent.
    single_writer: bool,
    policy: Policy,
    date: Date,
    /// Taken out when dropped.
    runtime: Option<Runtime>,
}

impl Drop for Objects {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Objects {
    fn new(
        service: Service,
        place: Place,
        store: Arc<dyn Backend>,
        single_writer: bool,
        policy: Policy,
        date: Date,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("wherry-storage")
            .enable_all()
            .build()
            .map_err(|e| {
                Error::new(ErrorKind::Unavailable, "no threads for the network can be started").with_source(e)
            })?;
        Ok(Self { service, place, store, single_writer, policy, date, runtime: Some(runtime) })
    }

    fn wait<T>(&self, request: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(until_over(&self.policy.over, request)),
            None => Err(object_store::Error::NotImplemented {
                operation: "request after shutdown".into(),
                implementer: "Objects".into(),
            }),
        }
    }

    fn path(&self, key: &Key) -> Result<Path> {
        let text = format!("{}{key}", self.place.prefix);
        Path::parse(&text).map_err(|e| Error::internal(format!("{text} is no object path")).with_source(e))
    }

    /// Bytes of an object, and its size; none where all of them were asked for and there are too many.
    fn fetch(&self, key: &Key, range: Option<GetRange>) -> Result<(Bytes, u64), object_store::Error> {
        let path = self.path(key).map_err(|e| object_store::Error::Generic { store: "path", source: e.into() })?;
        let all = range.is_none();
        self.wait(async {
            let found = self.store.get_opts(&path, GetOptions { range, ..GetOptions::default() }).await?;
            let size = found.meta.size;
            let is_too_long = all && check_size(key, size).is_err();
            Ok((if is_too_long { Bytes::new() } else { found.bytes().await? }, size))
        })
    }

    fn put(&self, doing: &str, key: &Key, body: Bytes, mode: PutMode) -> Result<()> {
        let path = self.path(key)?;
        let pieces = (0..body.len()).step_by(PIECE).map(|at| body.slice(at..body.len().min(at + PIECE)));
        let payload: PutPayload = pieces.collect();
        let options = PutOptions { mode, ..PutOptions::default() };
        self.wait(self.store.put_opts(&path, payload, options)).map(|_| ()).map_err(|e| self.failed(doing, key, e))
    }

    fn listed(&self, meta: &ObjectMeta) -> Option<Listed> {
        let key = Key::new(meta.location.as_ref().strip_prefix(&self.place.prefix)?).ok()?;
        let modified = Timestamp(meta.last_modified.timestamp_nanos_opt().unwrap_or_default());
        Some(Listed { key, size: meta.size, modified })
    }

    fn failed(&self, doing: &str, key: &Key, error: object_store::Error) -> Error {
        self.failed_on(doing, key.as_str(), error).with_object(key)
    }

    fn failed_on(&self, doing: &str, name: &str, error: object_store::Error) -> Error {
        let no_bucket = self.service.no_bucket();
        let (kind, text) = match explain(self.service, &error) {
            // Without a condition in the request: "others are at it, too".
            (ErrorKind::Conflict, text) if doing != CREATE => (ErrorKind::Unavailable, text),
            // No object was asked for: it is the bucket that is not there.
            (ErrorKind::NotFound, text) if matches!(doing, CREATE | OVERWRITE | LIST) => {
                (ErrorKind::NoRepository, format!("{}{no_bucket}", text.trim_end_matches(no_bucket)))
            }
            explained => explained,
        };
        Error::new(kind, format!("can not {doing} {name} in {}: {text}", self.place.location)).with_source(error)
    }
}

/// The answer; a failure when the work has been over for [`LAST_REQUEST`] and there is none yet.
async fn until_over<T>(over: &Over, request: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
    if !over.is_watched() {
        return request.await;
    }
    let mut request = std::pin::pin!(request);
    let mut since = None;
    loop {
        if let Ok(answer) = tokio::time::timeout(LOOK, &mut request).await {
            return answer;
        }
        if over.is_over() && since.get_or_insert_with(Instant::now).elapsed() >= LAST_REQUEST {
            return Err(object_store::Error::Generic { store: "request", source: Box::new(Broken::Over) });
        }
    }
}

/// The first error of type `E` in the chain of sources.
fn cause<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// What a failure means, and what to do about it.
fn explain(service: Service, error: &object_store::Error) -> (ErrorKind, String) {
    if let Some(NotGiven { kind, text }) = cause::<NotGiven>(error) {
        let untrusted = service.untrusted(text);
        return match (kind, untrusted) {
            (_, Some(step)) => (ErrorKind::Denied, format!("{text}; {step}")),
            (ErrorKind::Denied, None) => (ErrorKind::Denied, format!("{text}{}", service.credentials())),
            (kind, None) => (*kind, text.clone()),
        };
    }
    if let Some(refused) = cause::<Refused>(error) {
        let (kind, hint) = service.meaning(refused);
        return (kind, format!("{refused}{hint}"));
    }
    if let Some(missing) = cause::<credentials::Missing>(error) {
        return (ErrorKind::Denied, missing.to_string());
    }
    match cause::<Broken>(error) {
        Some(broken) => {
            let text = broken.to_string();
            match service.untrusted(&text) {
                Some(step) => (ErrorKind::Denied, format!("{text}; {step}")),
                None => (ErrorKind::Unavailable, text),
            }
        }
        // Azure's deletes are batches, whose parts have no answer of their own.
        None if matches!(error, object_store::Error::NotFound { .. }) => (ErrorKind::NotFound, error.to_string()),
        None if let Some(refused) = refused_part(&error.to_string()) => {
            let (kind, hint) = service.meaning(&refused);
            (kind, format!("{refused}{hint}"))
        }
        // A nonsensical answer, which may pass as well as not.
        None => (ErrorKind::Unavailable, error.to_string()),
    }
}

/// What became of one delete of a batch; object_store keeps it as text alone, which ends in `(code: NNN)`.
fn refused_part(text: &str) -> Option<Refused> {
    let (message, status) = text.split_once("request failed for key")?.1.rsplit_once("(code: ")?;
    let status = status.trim_end_matches(')').parse().ok()?;
    // The batch as a whole was answered by the storage.
    Some(Refused { status, code: String::new(), message: message.trim().to_owned(), is_known: true })
}

/// Status and message of such a text.
pub(crate) fn part_of_batch(text: &str) -> Option<(u16, String)> {
    refused_part(text).map(|refused| (refused.status, refused.message))
}

impl Storage for Objects {
    fn location(&self) -> String {
        self.place.location.clone()
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        let (bytes, size) = self.fetch(key, None).map_err(|e| self.failed("read", key, e))?;
        check_size(key, size)?;
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(cut(key, bytes.len(), size)) }
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            // HTTP has no empty ranges.
            return check_range(key, &range, self.head(key)?.size).map(|()| Bytes::new());
        }
        match self.fetch(key, Some(GetRange::Bounded(range.clone()))) {
            Ok((bytes, size)) => {
                check_range(key, &range, size)?;
                let len = range.end - range.start;
                if bytes.len() as u64 == len { Ok(bytes) } else { Err(cut(key, bytes.len(), len)) }
            }
            Err(error)
                if matches!(cause::<Refused>(&error), Some(refused) if refused.status != 416)
                    || cause::<Broken>(&error).is_some() =>
            {
                Err(self.failed("read", key, error))
            }
            // 416, or another range than the one asked for: is the object too short?
            Err(error) => {
                check_range(key, &range, self.head(key)?.size)?;
                let (_, text) = explain(self.service, &error);
                let message = format!("can not read bytes {range:?} of {key} in {}: {text}", self.place.location);
                Err(Error::new(ErrorKind::Unavailable, message).with_object(key).with_source(error))
            }
        }
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        let empty = |size| Tail { bytes: Bytes::new(), size };
        if len == 0 {
            return Ok(empty(self.head(key)?.size));
        }
        if !self.service.has_suffix_ranges() {
            let size = self.head(key)?.size;
            return Ok(Tail { bytes: self.get_range(key, size.saturating_sub(len)..size)?, size });
        }
        match self.fetch(key, Some(GetRange::Suffix(len))) {
            Ok((bytes, size)) if bytes.len() as u64 == len.min(size) => Ok(Tail { bytes, size }),
            Ok((bytes, size)) => Err(cut(key, bytes.len(), len.min(size))),
            Err(error) => {
                // An empty object has no last byte: some servers say 416, some send the whole.
                if cause::<Broken>(&error).is_none()
                    && cause::<Refused>(&error).is_none_or(|refused| refused.status == 416)
                    && self.head(key)?.size == 0
                {
                    return Ok(empty(0));
                }
                Err(self.failed("read", key, error))
            }
        }
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        let path = self.path(key)?;
        let meta = match self.wait(self.store.head(&path)) {
            // It has no text that would say who answers: that of a read does.
            Err(error) if cause::<Refused>(&error).is_some_and(Refused::is_hearsay) => {
                let options = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
                self.wait(async { Ok(self.store.get_opts(&path, options).await?.meta) })
                    .map_err(|read| if cause::<Refused>(&read).is_some_and(|r| r.status == 416) { error } else { read })
            }
            found => found,
        };
        let meta = meta.map_err(|e| self.failed("look at", key, e))?;
        self.listed(&meta).ok_or_else(|| Error::internal("another object than asked for").with_object(key))
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        if !self.single_writer {
            return self.put(CREATE, key, body, PutMode::Create);
        }
        match self.head(key) {
            Ok(_) => Err(conflict(key)),
            Err(error) if error.kind() == ErrorKind::NotFound => self.overwrite(key, body),
            Err(error) => Err(error),
        }
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.put(OVERWRITE, key, body, PutMode::Overwrite)
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        check_prefix(prefix)?;
        let whole = format!("{}{prefix}", self.place.prefix);
        let whole = (!whole.is_empty()).then_some(whole.as_str());
        let mut token = None;
        loop {
            // Page by page: a listing that failed goes on where it was, which nobody above can do.
            let page = self.policy.run(LIST, prefix, || {
                let options = PaginatedListOptions { page_token: token.clone(), ..PaginatedListOptions::default() };
                let page = self.wait(self.store.list_paginated(whole, options));
                let page = page.map_err(|e| self.failed_on(LIST, prefix, e))?;
                // It would go on for ever.
                if page.page_token.is_some() && page.page_token == token {
                    let text = format!("a listing of {} goes on where it began", self.place.location);
                    return Err(Error::new(ErrorKind::Unavailable, text));
                }
                Ok(page)
            })?;
            // Other keys were not written by us.
            page.result.objects.iter().filter_map(|meta| self.listed(meta)).try_for_each(&mut *visit)?;
            token = page.page_token;
            if token.is_none() {
                return Ok(());
            }
        }
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key)?;
        match self.wait(self.store.delete(&path)).map_err(|e| self.failed("delete", key, e)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }

    fn time(&self) -> Result<Option<Timestamp>> {
        // Whoever may read may list, and there is hardly anything here.
        self.list(keys::LEAD, &mut |_| Ok(()))?;
        Ok(self.date.get())
    }
}

fn cut(key: &Key, came: usize, len: u64) -> Error {
    Error::new(ErrorKind::Unavailable, format!("only {came} of {len} bytes of {key} came")).with_object(key)
}

#[cfg(test)]
mod tests;
