//! The chunk indexes of the repositories that are worked with: one for each, which all work with it shares.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use wherry_repo::Result;
use wherry_repo::index::ChunkIndex;

/// All that are open.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    /// By the id of the repository. Held for a moment only: what is opened or caught up with waits for a storage, and work with
    /// other storages does not wait for that.
    open: Mutex<HashMap<String, Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    /// It has the large share of the memory, which there is once.
    is_large: bool,
    index: Mutex<Option<Arc<ChunkIndex>>>,
}

impl Indexes {
    /// That of a repository: it is opened, with the large share of the memory or a small one, or caught up with what other
    /// nodes have stored since.
    pub(super) fn get(
        &self,
        repository: &str,
        open: impl FnOnce(bool) -> Result<Arc<ChunkIndex>>,
        catch_up: impl FnOnce(&ChunkIndex) -> Result<()>,
    ) -> Result<Arc<ChunkIndex>> {
        let entry = {
            let mut all = self.open.lock();
            let is_large = !all.values().any(|entry| entry.is_large);
            let new = || Arc::new(Entry { is_large, index: Mutex::default() });
            Arc::clone(all.entry(repository.to_owned()).or_insert_with(new))
        };
        let mut index = entry.index.lock();
        if let Some(index) = index.as_ref() {
            catch_up(index)?;
            return Ok(Arc::clone(index));
        }
        Ok(Arc::clone(index.insert(open(entry.is_large)?)))
    }

    /// Closes those that nobody works with any more. One that is just being opened is left alone.
    pub(super) fn close(&self) {
        let all: Vec<_> = self.open.lock().values().cloned().collect();
        for entry in &all {
            // It is closed before anybody else can open it.
            if let Some(mut index) = entry.index.try_lock()
                && index.as_ref().is_some_and(|index| Arc::strong_count(index) == 1)
            {
                *index = None;
            }
        }
        drop(all);
        let in_use = |entry: &Arc<Entry>| {
            Arc::strong_count(entry) > 1 || entry.index.try_lock().is_none_or(|index| index.is_some())
        };
        self.open.lock().retain(|_, entry| in_use(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;
    use std::time::Duration;
    use wherry_repo::Error;

    fn new(_: bool) -> Result<Arc<ChunkIndex>> {
        Ok(Arc::new(ChunkIndex::in_memory(1 << 20)))
    }

    fn known(_: &ChunkIndex) -> Result<()> {
        Ok(())
    }

    /// A storage that does not answer keeps nobody waiting who works with another one.
    #[test]
    fn one_that_takes_long_holds_up_no_other() {
        let indexes = Arc::new(Indexes::default());
        let (opening, opens) = bounded(0);
        let (answer, answered) = bounded::<()>(0);
        let slow = {
            let indexes = indexes.clone();
            std::thread::spawn(move || {
                indexes.get(
                    "slow",
                    |is_large| {
                        opening.send(()).unwrap();
                        let _ = answered.recv();
                        new(is_large)
                    },
                    known,
                )
            })
        };
        opens.recv().unwrap();
        let (done, ended) = bounded(1);
        let others = indexes.clone();
        let other = std::thread::spawn(move || {
            drop(others.get("other", new, known).unwrap());
            others.close();
            done.send(()).unwrap();
        });
        let result = ended.recv_timeout(Duration::from_secs(60));
        drop(answer);
        result.expect("it waits for the slow one");
        other.join().unwrap();
        drop(slow.join().unwrap().unwrap());
        indexes.close();
        assert!(indexes.open.lock().is_empty());
    }

    #[test]
    fn one_is_shared_and_closed_after_the_last() {
        let indexes = Indexes::default();
        let never = |_: bool| Err(Error::internal("it is opened twice"));
        let first = indexes.get("a", new, known).unwrap();
        let mut caught_up = false;
        let second = indexes.get("a", never, |_| {
            caught_up = true;
            Ok(())
        });
        let second = second.unwrap();
        assert!(Arc::ptr_eq(&first, &second) && caught_up);
        drop(first);
        indexes.close();
        assert!(Arc::ptr_eq(&second, &indexes.get("a", never, known).unwrap()));
        drop(second);
        indexes.close();
        assert!(indexes.open.lock().is_empty());
        assert!(indexes.get("a", never, known).is_err());
        indexes.close();
        assert!(indexes.open.lock().is_empty(), "one that could not be opened is left");
    }

    #[test]
    fn the_large_share_is_given_once() {
        let indexes = Indexes::default();
        let ask = |id: &str| {
            let mut share = None;
            let open = |is_large| {
                share = Some(is_large);
                new(is_large)
            };
            let index = indexes.get(id, open, known).unwrap();
            (index, share.unwrap())
        };
        let (a, large) = ask("a");
        assert!(large);
        let (b, large) = ask("b");
        assert!(!large);
        drop(a);
        indexes.close();
        let (_c, large) = ask("c");
        assert!(large, "it is free again");
        drop(b);
    }
}
