//! The storage as the settings name it, and limits on what is sent to it and read from it.

use crate::cli::{S3Flags, Span};
use crate::signals::Cancel;
use crate::throttle::Throttle;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::format::clear::Config;
use wherry_repo::storage::{self, Listed, Lock, Options, S3Options, Storage, Tail, keys};
use wherry_repo::{Error, ErrorKind, Key, Result, Timestamp};

/// A request on which nothing moves is given up after a sixth of the time for trying again, within these bounds.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);
const MOST_PATIENCE: Duration = Duration::from_secs(45);

/// Settings of the storage. `single_writer` promises that no other process writes meanwhile.
pub(crate) fn options(flags: &S3Flags, single_writer: bool) -> Options {
    let S3Flags { s3_endpoint, s3_region, s3_profile, s3_virtual_host, s3_ca_file, s3_skip_verify, retry_for } =
        flags.clone();
    let s3 = S3Options {
        endpoint: s3_endpoint,
        region: s3_region,
        profile: s3_profile,
        virtual_host: s3_virtual_host,
        ca_file: s3_ca_file,
        skip_verify: s3_skip_verify,
        ..S3Options::default()
    };
    let mut options = Options { s3, single_writer, ..Options::default() };
    if let Some(Span(time)) = retry_for {
        options.retries.total = time;
        // Silence must be noticed while there is time left to try again.
        options.patience = Some((time / 6).clamp(LEAST_PATIENCE, MOST_PATIENCE));
    }
    options
}

/// The newest configuration of the repository that can be read, before anything vouches for it; `None` when its making was not
/// finished.
/// Errors: [`ErrorKind::NoRepository`].
pub(crate) fn peek(storage: &dyn Storage) -> Result<Option<Config>> {
    match storage.head(&keys::repo()) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let place = storage.location();
            let text =
                format!("there is no repository at {place}: check how it is named, or make one with `wherry init`");
            return Err(Error::new(ErrorKind::NoRepository, text));
        }
        found => found?,
    };
    Ok(wherry_repo::presumed_config(storage)?.map(|(_, config)| config))
}

/// Opens the storage of a repository that exists, by the rules its configuration asks for.
pub(crate) fn open(url: &str, flags: &S3Flags) -> Result<Arc<dyn Storage>> {
    let many = storage::open(url, &options(flags, false))?;
    let found = peek(&*many).map_err(|e| match e.kind() {
        ErrorKind::NoRepository => wherry_repo::no_repository(&*many, e),
        _ => e,
    })?;
    match found {
        Some(config) if config.single_writer => storage::open(url, &options(flags, true)),
        _ => Ok(many),
    }
}

/// Bytes that are paid for at once of what was read.
const SLICE: u64 = 64 << 10;

/// A storage that is sent, or gives, no more than so many bytes per second, until the run is asked to end: what is under way then
/// goes out as fast as it can, so that the run ends soon and nothing of it has to be sent again.
#[derive(Debug)]
pub(crate) struct Limited {
    inner: Arc<dyn Storage>,
    /// What is sent.
    up: Arc<Throttle>,
    /// What is read.
    down: Option<Arc<Throttle>>,
    cancel: Cancel,
}

impl Limited {
    /// At most `rate` bytes per second go to `inner`.
    pub(crate) fn new(inner: Arc<dyn Storage>, rate: u64, cancel: Cancel) -> Self {
        Self { inner, up: Arc::new(Throttle::new(rate)), down: None, cancel }
    }

    /// By limits that others share.
    pub(crate) fn sharing(inner: Arc<dyn Storage>, up: Arc<Throttle>, down: Arc<Throttle>, cancel: Cancel) -> Self {
        Self { inner, up, down: Some(down), cancel }
    }

    /// What was read is paid for before the next request, in slices: the small reads by which a volume begins do not stand in line
    /// behind all that dozens of fetchers of another one have asked for.
    fn read(&self, bytes: u64) {
        let Some(down) = &self.down else { return };
        let mut left = bytes;
        while left > 0 {
            let slice = left.min(SLICE);
            down.take(slice, || self.cancel.is_cancelled());
            left -= slice;
        }
    }
}

impl Storage for Limited {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn lanes(&self) -> usize {
        self.inner.lanes()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    fn lock(&self, holder: &str) -> Result<Option<Lock>> {
        self.inner.lock(holder)
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.inner.get(key).inspect(|bytes| self.read(bytes.len() as u64))
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(key, range).inspect(|bytes| self.read(bytes.len() as u64))
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.inner.get_tail(key, len).inspect(|tail| self.read(tail.bytes.len() as u64))
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.inner.head(key)
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.up.take(body.len() as u64, || self.cancel.is_cancelled());
        self.inner.create(key, body)
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.inner.overwrite(key, body)
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, visit)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }

    fn make_durable(&self, keys: &mut dyn Iterator<Item = Key>) -> Result<()> {
        self.inner.make_durable(keys)
    }

    fn time(&self) -> Result<Option<Timestamp>> {
        self.inner.time()
    }

    fn free(&self) -> Option<u64> {
        self.inner.free()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else what a backup under a limit rests on is not made durable.
    #[test]
    fn a_limit_hands_on_what_is_to_be_durable() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("packs"), "no folder").unwrap();
        let inner = Arc::new(storage::Local::new(folder.path(), false));
        let limited = Limited::new(inner, 1 << 20, Cancel::default());
        let key = Key::new("packs/aa/1").unwrap();
        assert!(limited.make_durable(&mut std::iter::once(key)).is_err());
    }
}
