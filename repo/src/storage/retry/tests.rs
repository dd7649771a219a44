use super::*;
use crate::Timestamp;
use crate::storage::Memory;
use parking_lot::Mutex;
use std::collections::VecDeque;

#[derive(Debug, Default)]
struct Steered {
    passed: Mutex<Duration>,
}

impl Clock for Steered {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
    fn monotonic(&self) -> Duration {
        *self.passed.lock()
    }
    fn sleep(&self, time: Duration) {
        *self.passed.lock() += time;
    }
}

impl Rng for Steered {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        out.fill(0x80);
        Ok(())
    }
}

/// What happens to the next call.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing happens, and the call fails.
    Before(ErrorKind),
    /// It happens, and the call fails.
    After(ErrorKind),
    /// Half of what was asked for comes.
    Short,
    None,
}

#[derive(Debug, Default)]
struct Faulty {
    inner: Memory,
    script: Mutex<VecDeque<Fault>>,
    calls: Mutex<Vec<&'static str>>,
}

impl Faulty {
    fn call<T>(&self, verb: &'static str, act: impl FnOnce() -> Result<T>, cut: impl FnOnce(T) -> T) -> Result<T> {
        self.calls.lock().push(verb);
        let fault = self.script.lock().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::Before(kind) => Err(Error::new(kind, "planted")),
            Fault::After(kind) => act().and(Err(Error::new(kind, "planted"))),
            Fault::Short => act().map(cut),
            Fault::None => act(),
        }
    }
}

fn half(bytes: Bytes) -> Bytes {
    bytes.slice(..bytes.len() / 2)
}

impl Storage for Faulty {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn get(&self, key: &Key) -> Result<Bytes> {
        self.call("get", || self.inner.get(key), half)
    }
    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.call("range", || self.inner.get_range(key, range), half)
    }
    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.call("tail", || self.inner.get_tail(key, len), |t| Tail { bytes: half(t.bytes), size: t.size })
    }
    fn head(&self, key: &Key) -> Result<Listed> {
        self.call("head", || self.inner.head(key), |l| l)
    }
    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.call("create", || self.inner.create(key, body), |()| ())
    }
    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.call("overwrite", || self.inner.overwrite(key, body), |()| ())
    }
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.call("list", || self.inner.list(prefix, visit), |()| ())
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.call("delete", || self.inner.delete(key), |()| ())
    }
}

fn setup(script: &[Fault]) -> (Arc<Faulty>, Arc<Steered>, Retrying) {
    let faulty = Arc::new(Faulty { script: Mutex::new(script.iter().copied().collect()), ..Faulty::default() });
    let steered = Arc::new(Steered::default());
    let retrying = Retrying::new(faulty.clone(), Retries::default(), steered.clone(), steered.clone());
    (faulty, steered, retrying)
}

fn key() -> Key {
    Key::new("snap/a").unwrap()
}

const OURS: Bytes = Bytes::from_static(b"ours");
const OTHER: Bytes = Bytes::from_static(b"them");
use ErrorKind::{Conflict, Denied, NotFound, Unavailable};
use Fault::{After, Before, Short};

#[test]
fn a_lost_reply_is_settled_by_reading_back() {
    let (faulty, _, retrying) = setup(&[After(Unavailable)]);
    retrying.create(&key(), OURS).unwrap();
    assert_eq!(*faulty.calls.lock(), ["create", "tail"]);
}

#[test]
fn a_lost_reply_is_settled_even_if_reading_back_fails_first() {
    let (faulty, _, retrying) = setup(&[After(Unavailable), Before(Unavailable)]);
    retrying.create(&key(), OURS).unwrap();
    assert_eq!(*faulty.calls.lock(), ["create", "tail", "tail"]);
}

#[test]
fn what_was_not_found_is_sent_again() {
    let (faulty, _, retrying) = setup(&[Before(Unavailable)]);
    retrying.create(&key(), OURS).unwrap();
    assert_eq!(*faulty.calls.lock(), ["create", "tail", "create"]);
    assert_eq!(faulty.inner.get(&key()).unwrap(), OURS);
}

#[test]
fn a_conflict_with_our_own_bytes_is_success_and_with_others_is_not() {
    let (faulty, _, retrying) = setup(&[After(Conflict)]);
    retrying.create(&key(), OURS).unwrap();
    assert_eq!(retrying.create(&key(), OTHER).unwrap_err().kind(), Conflict);
    assert_eq!(faulty.inner.get(&key()).unwrap(), OURS);
}

#[test]
fn a_conflict_about_nothing_is_tried_again() {
    let (faulty, _, retrying) = setup(&[Before(Conflict)]);
    retrying.create(&key(), OURS).unwrap();
    assert_eq!(faulty.inner.get(&key()).unwrap(), OURS);
}

#[test]
fn somebody_elses_object_behind_a_lost_reply_is_a_conflict() {
    let (faulty, _, retrying) = setup(&[Before(Unavailable)]);
    faulty.inner.create(&key(), OTHER).unwrap();
    assert_eq!(retrying.create(&key(), OURS).unwrap_err().kind(), Conflict);
    assert_eq!(faulty.inner.get(&key()).unwrap(), OTHER);
}

#[test]
fn bodies_are_compared_by_length_and_end() {
    let large = |fill: u8, len: usize| Bytes::from(vec![fill; len]);
    for (stored, sent, same) in [
        (large(1, WHOLE + 5), large(1, WHOLE + 5), true),
        (large(1, WHOLE + 4), large(1, WHOLE + 5), false),
        (large(2, WHOLE + 5), large(1, WHOLE + 5), false),
        (large(1, WHOLE), [&[0][..], &vec![1; WHOLE - 1]].concat().into(), false),
        (Bytes::new(), Bytes::new(), true),
    ] {
        let (faulty, _, retrying) = setup(&[]);
        faulty.inner.create(&key(), stored).unwrap();
        assert_eq!(retrying.create(&key(), sent).is_ok(), same);
    }
}

#[test]
fn short_answers_are_asked_for_again() {
    let (faulty, _, retrying) = setup(&[Short, Fault::None, Short, Fault::None]);
    faulty.inner.create(&key(), OURS).unwrap();
    assert_eq!(retrying.get_range(&key(), 0..4).unwrap(), OURS);
    assert_eq!(retrying.get_tail(&key(), 4).unwrap().bytes, OURS);
    assert_eq!(*faulty.calls.lock(), ["range", "range", "tail", "tail"]);
}

#[test]
fn only_what_may_pass_is_tried_again() {
    for kind in [Denied, NotFound, ErrorKind::Full] {
        let (faulty, _, retrying) = setup(&[Before(kind)]);
        assert_eq!(retrying.get(&key()).unwrap_err().kind(), kind);
        assert_eq!(faulty.calls.lock().len(), 1);
    }
}

#[test]
fn time_is_bounded_and_pauses_grow() {
    let (faulty, steered, retrying) = setup(&[Before(Unavailable); 1000]);
    let error = retrying.delete(&key()).unwrap_err();
    assert_eq!(error.kind(), Unavailable);
    assert!(error.to_string().contains("gave up after"), "{error}");
    assert!(error.to_string().ends_with("run the same command again"), "{error}");
    assert_eq!(*steered.passed.lock(), Duration::from_secs(300));
    // 0.2, 0.4 ... 12.8 s, then 20 s each; the last one is cut to what is left.
    assert_eq!(faulty.calls.lock().len(), 22);
}

#[test]
fn a_listing_visits_nothing_twice() {
    let (faulty, _, retrying) = setup(&[Before(Unavailable), After(Unavailable)]);
    faulty.inner.create(&key(), OURS).unwrap();
    let mut visited = 0;
    let listed = retrying.list("", &mut |_| {
        visited += 1;
        Ok(())
    });
    assert_eq!((listed.unwrap_err().kind(), visited), (Unavailable, 1));
    assert_eq!(*faulty.calls.lock(), ["list", "list"]);
}

/// Whoever unmounts a volume, or ends a backup, does not wait for a storage that is away.
#[test]
fn nothing_is_tried_again_when_the_work_is_over() {
    let faulty = Arc::new(Faulty { script: Mutex::new(vec![Before(Unavailable); 50].into()), ..Faulty::default() });
    let steered = Arc::new(Steered::default());
    let watched = steered.clone();
    let over = Over::when(move || watched.monotonic() >= Duration::from_secs(1));
    let policy = Policy { settings: Retries::default(), over, clock: steered.clone(), rng: steered.clone() };
    let error = Retrying { inner: faulty.clone(), policy, has_pages: false }.get(&key()).unwrap_err();
    assert!(error.kind() == Unavailable && error.to_string().contains("the work is over"), "{error}");
    assert!(steered.monotonic() <= Duration::from_secs(1) + LOOK, "{:?}", steered.monotonic());
    let calls = faulty.calls.lock().len();
    assert!(calls > 1, "before that it is tried again: {calls}");
}

/// What ends a create that had no answer says that it may have been done; what ends one at once does not.
#[test]
fn what_ends_a_create_of_unclear_outcome_says_so() {
    for (script, unclear) in [
        (&[After(Unavailable), Before(Denied)][..], true),
        (&[Before(Unavailable), Before(NotFound), Before(Denied)], true),
        (&[After(Conflict), Before(Denied)], true),
        (&[Before(Denied)], false),
    ] {
        let (_, _, retrying) = setup(script);
        let error = retrying.create(&key(), OURS).unwrap_err();
        assert_eq!((error.kind(), error.is_unclear()), (Denied, unclear), "{script:?}");
    }
    let (faulty, _, retrying) = setup(&[Before(Unavailable)]);
    faulty.inner.create(&key(), OTHER).unwrap();
    assert!(!retrying.create(&key(), OURS).unwrap_err().is_unclear(), "it is somebody else's");
}

/// Eight packs on a slow line take minutes each, and then one connection is reset.
#[test]
fn the_time_that_a_working_upload_takes_is_not_that_of_its_retries() {
    let attempts = |seconds: u64, total: u64, fails: u32| {
        let steered = Arc::new(Steered::default());
        let settings = Retries { total: Duration::from_secs(total), ..Retries::default() };
        let policy = Policy { settings, over: Over::default(), clock: steered.clone(), rng: steered.clone() };
        let mut begun = 0;
        let done = policy.run("create", "packs/a", || {
            begun += 1;
            steered.sleep(Duration::from_secs(seconds));
            if begun > fails { Ok(()) } else { Err(Error::new(Unavailable, "reset")) }
        });
        (done.is_ok(), begun)
    };
    for total in [30, 300] {
        assert_eq!(attempts(350, total, 1), (true, 2), "{total} s");
        assert_eq!(attempts(350, total, u32::MAX), (false, 3), "it comes to an end: {total} s");
    }
    assert_eq!(attempts(350, 0, 1), (false, 1), "nothing is to be tried again");
    // Silence is charged as it is.
    assert_eq!(attempts(90, 300, u32::MAX), (false, 4));
    assert_eq!(attempts(90, 30, u32::MAX), (false, 1));
}
