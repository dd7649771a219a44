//! Objects in memory: for tests and simulations, and the plainest reading of the contract.

use super::{Key, Listed, Storage, Tail, check_prefix};
use crate::clock::{Clock, System};
use crate::{Error, ErrorKind, Result, Timestamp};
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A [`Storage`] that lives as long as it is referred to.
#[derive(Debug)]
pub struct Memory {
    objects: RwLock<BTreeMap<Key, (Bytes, Timestamp)>>,
    clock: Arc<dyn Clock>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(Arc::new(System::default()))
    }
}

impl Memory {
    /// An empty storage; `clock` says when objects were written.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { objects: RwLock::default(), clock }
    }

    fn with<T>(&self, key: &Key, read: impl FnOnce(&Bytes, Timestamp) -> Result<T>) -> Result<T> {
        match self.objects.read().get(key) {
            Some((body, modified)) => read(body, *modified),
            None => {
                Err(Error::new(ErrorKind::NotFound, format!("there is no object {key} in memory")).with_object(key))
            }
        }
    }
}

impl Storage for Memory {
    fn location(&self) -> String {
        "memory".into()
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.with(key, |body, _| Ok(body.clone()))
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.with(key, |body, _| {
            super::check_range(key, &range, body.len() as u64)?;
            Ok(body.slice(range.start as usize..range.end as usize))
        })
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.with(key, |body, _| {
            let size = body.len() as u64;
            Ok(Tail { bytes: body.slice(size.saturating_sub(len) as usize..), size })
        })
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.with(key, |body, modified| Ok(Listed { key: key.clone(), size: body.len() as u64, modified }))
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        let mut objects = self.objects.write();
        if objects.contains_key(key) {
            return Err(super::conflict(key));
        }
        objects.insert(key.clone(), (Bytes::copy_from_slice(&body), self.clock.now()));
        Ok(())
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.objects.write().insert(key.clone(), (Bytes::copy_from_slice(&body), self.clock.now()));
        Ok(())
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        check_prefix(prefix)?;
        // Collected first: `visit` may call this storage again.
        let found: Vec<Listed> = self
            .objects
            .read()
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, (body, modified))| Listed { key: key.clone(), size: body.len() as u64, modified: *modified })
            .collect();
        found.into_iter().try_for_each(visit)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.objects.write().remove(key);
        Ok(())
    }

    fn time(&self) -> Result<Option<Timestamp>> {
        Ok(Some(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_may_delete_what_it_visits() {
        let memory = Memory::default();
        let key = Key::new("a/b").unwrap();
        memory.create(&key, Bytes::from_static(b"x")).unwrap();
        memory.list("a/", &mut |found| memory.delete(&found.key)).unwrap();
        assert_eq!(memory.head(&key).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn prefixes_end_at_a_segment() {
        let memory = Memory::default();
        assert_eq!(memory.list("a", &mut |_| Ok(())).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
