//! The suite passes what keeps the contract and catches what does not.

use super::*;
use crate::ErrorKind;
use crate::storage::{Listed, Local, Memory, Tail};
use std::ops::Range;
use std::time::Duration;

const QUICK: Options = Options { rounds: 5, large_rounds: 1, racers: 16, large: 1 << 20, objects: 50 };

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sin {
    None,
    /// Create overwrites.
    Overwrites,
    /// Create looks first and writes later.
    LooksThenWrites,
    /// A listing shows what the listing before should have shown.
    ListsLate,
    /// A listing matches by letters, not by segments.
    ListsByLetters,
    /// A listing ends after some objects.
    ListsOnePage,
    /// Ranges that are too long are cut.
    CutsRanges,
    /// A range of a missing object is empty.
    InventsObjects,
    /// Overwrites keep the old time.
    KeepsTime,
    /// Deletes of missing objects fail.
    DeletesOnce,
    /// Reads after an overwrite show the old content once more.
    ReadsLate,
}

#[derive(Debug)]
struct Sinner {
    sin: Sin,
    inner: Memory,
    last: Mutex<Vec<Listed>>,
    old: Mutex<Option<(Key, Bytes)>>,
}

impl Storage for Sinner {
    fn location(&self) -> String {
        "sinner".into()
    }
    fn get(&self, key: &Key) -> Result<Bytes> {
        match self.old.lock().take() {
            Some((k, body)) if self.sin == Sin::ReadsLate && k == *key => Ok(body),
            _ => self.inner.get(key),
        }
    }
    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        match (self.sin, self.inner.get(key)) {
            (Sin::InventsObjects, Err(_)) => Ok(Bytes::new()),
            (Sin::CutsRanges, Ok(body)) => {
                let end = (body.len() as u64).min(range.end) as usize;
                Ok(body.slice((range.start as usize).min(end)..end))
            }
            _ => self.inner.get_range(key, range),
        }
    }
    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.inner.get_tail(key, len)
    }
    fn head(&self, key: &Key) -> Result<Listed> {
        let mut found = self.inner.head(key)?;
        if self.sin == Sin::KeepsTime {
            found.modified = crate::Timestamp(1_700_000_000_000_000_000);
        }
        Ok(found)
    }
    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        match self.sin {
            Sin::Overwrites => self.inner.overwrite(key, body),
            Sin::LooksThenWrites => {
                if self.inner.head(key).is_ok() {
                    return Err(crate::storage::conflict(key));
                }
                std::thread::sleep(Duration::from_millis(20));
                self.inner.overwrite(key, body)
            }
            _ => self.inner.create(key, body),
        }
    }
    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        *self.old.lock() = self.inner.get(key).ok().map(|old| (key.clone(), old));
        self.inner.overwrite(key, body)
    }
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let mut found = Vec::new();
        let wanted = if self.sin == Sin::ListsByLetters { "" } else { prefix };
        self.inner.list(wanted, &mut |listed| {
            found.push(listed);
            Ok(())
        })?;
        match self.sin {
            Sin::ListsByLetters => found.retain(|l| l.key.as_str().starts_with(prefix.trim_end_matches('/'))),
            Sin::ListsOnePage => found.truncate(40),
            Sin::ListsLate => {
                found = std::mem::replace(&mut *self.last.lock(), found);
                found.retain(|l| l.key.as_str().starts_with(prefix));
            }
            Sin::KeepsTime => found.iter_mut().for_each(|l| l.modified = crate::Timestamp(1_700_000_000_000_000_000)),
            _ => {}
        }
        found.into_iter().try_for_each(visit)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        if self.sin == Sin::DeletesOnce {
            self.inner.head(key)?;
        }
        self.inner.delete(key)
    }
}

fn report(sin: Sin) -> Report {
    let sinner: Arc<dyn Storage> =
        Arc::new(Sinner { sin, inner: Memory::default(), last: Mutex::default(), old: Mutex::default() });
    run(&|| Ok(Arc::clone(&sinner)), &QUICK).unwrap()
}

fn failed(report: &Report) -> Vec<&str> {
    report.failed().map(|check| check.name).collect()
}

#[test]
fn each_sin_is_caught_by_its_check() {
    for (sin, check, need) in [
        (Sin::Overwrites, "create-if-absent", Need::CreateIfAbsent),
        (Sin::LooksThenWrites, "create-if-absent", Need::CreateIfAbsent),
        (Sin::LooksThenWrites, "create-if-absent-large", Need::CreateIfAbsent),
        (Sin::ListsLate, "list-after-write", Need::ListAfterWrite),
        (Sin::ListsByLetters, "prefixes", Need::Basic),
        (Sin::ListsOnePage, "pages", Need::Basic),
        (Sin::CutsRanges, "ranges", Need::Basic),
        (Sin::InventsObjects, "absent", Need::Basic),
        (Sin::KeepsTime, "modified", Need::Basic),
        (Sin::DeletesOnce, "delete", Need::Basic),
        (Sin::ReadsLate, "overwrite", Need::Basic),
    ] {
        let report = report(sin);
        assert!(failed(&report).contains(&check), "{sin:?}: {:?}", failed(&report));
        assert!(!report.meets(need) && !report.many_writers(), "{sin:?}");
    }
    assert_eq!(failed(&report(Sin::None)), Vec::<&str>::new());
    let lone = report(Sin::LooksThenWrites);
    assert!(lone.usable(), "{:?}", failed(&lone));
}

#[test]
fn memory_and_a_folder_keep_the_contract_and_are_left_clean() {
    let memory: Arc<dyn Storage> = Arc::new(Memory::default());
    let folder = tempfile::tempdir().unwrap();
    let local = || -> Result<Arc<dyn Storage>> { Ok(Arc::new(Local::new(folder.path(), false))) };
    for open in [&(|| Ok(Arc::clone(&memory))) as &dyn Fn() -> Result<Arc<dyn Storage>>, &local] {
        let report = run(open, &QUICK).unwrap();
        assert!(report.many_writers(), "{report:?}");
        assert_eq!(failed(&report), Vec::<&str>::new());
        open().unwrap().list("", &mut |left| panic!("{left:?} was left behind")).unwrap();
    }
}

#[test]
fn a_place_where_nothing_can_be_checked_is_an_error_and_no_report() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"").unwrap();
    let path = folder.path().join("file");
    let error = run(&|| Ok(Arc::new(Local::new(&path, false))), &QUICK).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRepository, "{error}");
    assert!(error.to_string().contains("could not be made"), "{error}");
    let error = Local::new(&path, false).create(&Key::new("a").unwrap(), Bytes::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRepository, "{error}");
}
