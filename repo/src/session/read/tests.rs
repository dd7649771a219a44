use super::*;
use crate::SnapshotReader;
use crate::storage::Storage;
use crate::testing::*;
use std::sync::Arc;

const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// The sessions of readers, and the names of all their objects.
fn readers(repository: &Repository) -> Vec<(SessionId, SessionOpen, Vec<String>)> {
    let keys = repository.list(keys::SESS).unwrap();
    let mut found: Vec<(SessionId, SessionOpen, Vec<String>)> = Vec::new();
    for (id, _) in keys.iter().filter_map(keys::parse_session).filter(|(_, part)| *part == "open") {
        let open: SessionOpen = repository.read(&keys::session(&id, "open")).unwrap();
        let parts = keys.iter().filter_map(keys::parse_session).filter(|(other, _)| *other == id);
        let parts = parts.map(|(_, part)| part.to_owned()).collect();
        if open.kind == SessionKind::Read {
            found.push((id, open, parts));
        }
    }
    found
}

fn beats(repository: &Repository) -> usize {
    repository.list(keys::SESS).unwrap().iter().filter(|key| key.as_str().ends_with("/beat")).count()
}

fn forget_for_good(repository: &Repository, snapshot: &Snapshot) {
    repository.forget(&snapshot.id, Duration::ZERO, "test").unwrap();
    assert!(repository.settle(&snapshot.id).unwrap());
}

#[test]
fn it_says_what_it_reads_and_takes_that_away() {
    let (_, _, repository) = repository();
    let snapshot = backup(&repository, "vm", 3);
    let (others, before) = (beats(&repository), repository.list(keys::SESS).unwrap());
    let session = ReadSession::open(&repository, &snapshot).unwrap();
    let [(id, open, parts)] = &readers(&repository)[..] else { panic!() };
    assert_eq!((open.parent, open.volume, open.name.as_str()), (Some(snapshot.id), snapshot.volume, "vm"));
    assert_eq!((open.adopts.len(), parts.len()), (0, 1));
    assert_ne!(*id, snapshot.id);
    session.beat().unwrap();
    assert_eq!((beats(&repository), readers(&repository)[0].0), (others + 1, *id));
    session.close();
    assert_eq!(repository.list(keys::SESS).unwrap(), before);
    session.beat().unwrap();
    assert_eq!(repository.list(keys::SESS).unwrap(), before, "what has ended gives no sign of life");
    drop(ReadSession::open(&repository, &snapshot).unwrap());
    assert_eq!(repository.list(keys::SESS).unwrap(), before);
}

#[test]
fn what_is_forgotten_for_good_is_refused_and_what_is_asked_is_not() {
    let (_, _, repository) = repository();
    let snapshot = backup(&repository, "vm", 3);
    repository.forget(&snapshot.id, WEEK, "test").unwrap();
    ReadSession::open(&repository, &snapshot).unwrap();
    assert_eq!(repository.settle(&snapshot.id).unwrap_err().kind(), ErrorKind::Invalid, "the delay is not over");
    repository.unforget(&snapshot.id).unwrap();
    assert!(!repository.settle(&snapshot.id).unwrap());
    forget_for_good(&repository, &snapshot);
    assert_eq!(repository.unforget(&snapshot.id).unwrap_err().kind(), ErrorKind::Conflict);
    let e = ReadSession::open(&repository, &snapshot).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSnapshot);
    assert!(e.to_string().contains(&snapshot.id.to_string()), "{e}");
    assert_eq!(readers(&repository).len(), 0);
}

#[test]
fn a_snapshot_that_goes_for_good_just_before_it_is_opened_is_refused() {
    let (storage, _, repository) = repository();
    let snapshot = backup(&repository, "vm", 3);
    // Whoever lists forgets before `open` is there would not see this one.
    let (other, id) = (repository.clone(), snapshot.clone());
    *storage.after.lock() = Some(("/open", Box::new(move |_| forget_for_good(&other, &id))));
    assert_eq!(ReadSession::open(&repository, &snapshot).unwrap_err().kind(), ErrorKind::NoSnapshot);
    assert_eq!(readers(&repository).len(), 0);
}

#[test]
fn where_nothing_can_be_written_it_reads_without_a_session() {
    let (storage, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", 3);
    let before = repository.list("").unwrap();
    *storage.refuses.lock() = Some(("", ErrorKind::Denied));
    let session = Arc::new(ReadSession::open(&repository, &snapshot).unwrap());
    let reader = SnapshotReader::within(session.clone()).unwrap();
    clock.advance(WEEK);
    session.beat().unwrap();
    assert!(reader.read_chunk(&reader.chunk(1).unwrap().unwrap()).unwrap().as_ref() == chunk(1));
    session.close();
    assert_eq!(repository.list("").unwrap(), before);
    *storage.refuses.lock() = None;
    forget_for_good(&repository, &snapshot);
    *storage.refuses.lock() = Some(("", ErrorKind::Denied));
    assert_eq!(ReadSession::open(&repository, &snapshot).unwrap_err().kind(), ErrorKind::NoSnapshot);
}

/// What has no room today may have some tomorrow, and a storage may refuse in passing.
#[test]
fn a_reader_without_a_session_gets_one_when_it_may() {
    let (storage, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", 3);
    for (kind, later) in [(ErrorKind::Full, 1), (ErrorKind::Denied, 0)] {
        *storage.refuses.lock() = Some(("", kind));
        let session = Arc::new(ReadSession::open(&repository, &snapshot).unwrap());
        let reader = SnapshotReader::within(session.clone()).unwrap();
        session.beat().unwrap();
        reader.read_chunk(&reader.chunk(1).unwrap().unwrap()).unwrap();
        *storage.refuses.lock() = None;
        // What was known a moment ago holds for a while.
        *storage.silent.lock() = Some("sess/");
        assert_eq!(session.beat().is_err(), later == 1, "{kind:?}");
        reader.read_chunk(&reader.chunk(2).unwrap().unwrap()).unwrap();
        *storage.silent.lock() = None;
        clock.advance(UNSEEN);
        session.beat().unwrap();
        assert_eq!(readers(&repository).len(), later, "{kind:?}");
        session.close();
        assert_eq!(readers(&repository).len(), 0);
    }
}

#[test]
fn a_storage_that_does_not_answer_is_no_reason_to_read_without_a_session() {
    let (storage, _, repository) = repository();
    let snapshot = backup(&repository, "vm", 3);
    *storage.silent.lock() = Some("sess/");
    let e = ReadSession::open(&repository, &snapshot).unwrap_err();
    assert_eq!((e.kind(), storage.unanswered.load(Ordering::Relaxed)), (ErrorKind::Unavailable, 1), "{e}");
}

/// Each request may wait for minutes.
#[test]
fn the_end_of_many_readers_waits_for_one_answer_at_most() {
    type Notice = fn(&Repository, &ReadSession, &SnapshotReader);
    let nothing: Notice = |_, _, _| {};
    let beat: Notice = |_, session, _| assert!(session.beat().is_err());
    let chunk: Notice = |_, _, reader| {
        let chunk = reader.chunk(1).unwrap().unwrap();
        assert!(reader.read_chunk(&chunk).is_err());
    };
    let map: Notice = |repository, session, _| {
        let reader = SnapshotReader::open(repository, session.snapshot()).unwrap();
        assert!(reader.chunk(0).is_err());
    };
    let open: Notice = |repository, session, _| assert!(ReadSession::open(repository, session.snapshot()).is_err());
    for (notice, silent, most) in [
        (nothing, "", 1),
        (beat, "", 0),
        (chunk, "packs/", 0),
        (map, "meta/", 0),
        (open, "sess/", 0),
        (open, "forget/", 0),
    ] {
        let (storage, _, repository) = repository();
        let snapshot = backup(&repository, "vm", 300);
        let sessions: Vec<_> = (0..3).map(|_| Arc::new(ReadSession::open(&repository, &snapshot).unwrap())).collect();
        sessions.iter().for_each(|session| session.beat().unwrap());
        let reader = SnapshotReader::within(sessions[0].clone()).unwrap();
        reader.chunk(1).unwrap();
        *storage.silent.lock() = Some(silent);
        notice(&repository, &sessions[0], &reader);
        *storage.silent.lock() = Some("");
        storage.unanswered.store(0, Ordering::Relaxed);
        sessions.iter().for_each(|session| session.close());
        assert_eq!(storage.unanswered.load(Ordering::Relaxed), most, "{silent:?}");
        drop((reader, sessions));
        assert_eq!(storage.unanswered.load(Ordering::Relaxed), most, "{silent:?}");
    }
}

#[test]
fn a_feature_beside_which_nothing_may_be_written_is_one_for_readers_too() {
    let (_, _, first) = repository();
    let snapshot = backup(&first, "vm", 3);
    first.publish_config(1, |config| config.write = vec!["later".into()]).unwrap();
    let later = Repository::open(first.components().clone(), &password()).unwrap();
    let before = later.list("").unwrap();
    let session = Arc::new(ReadSession::open(&later, &snapshot).unwrap());
    let reader = SnapshotReader::within(session).unwrap();
    assert!(reader.read_chunk(&reader.chunk(1).unwrap().unwrap()).unwrap().as_ref() == chunk(1));
    assert_eq!(later.list("").unwrap(), before);
}

#[test]
fn a_reader_that_was_taken_for_dead_starts_again_before_it_reads_on() {
    let (storage, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", 3);
    let session = Arc::new(ReadSession::open(&repository, &snapshot).unwrap());
    let reader = SnapshotReader::within(session.clone()).unwrap();
    let chunk = reader.chunk(1).unwrap().unwrap();
    let remove = || {
        let (id, _, parts) = readers(&repository).remove(0);
        parts.iter().for_each(|part| storage.delete(&keys::session(&id, part)).unwrap());
        id
    };
    let others = beats(&repository);
    // At its next sign of life.
    let first = remove();
    session.beat().unwrap();
    let [(second, open, _)] = &readers(&repository)[..] else { panic!() };
    assert!(*second != first && open.parent == Some(snapshot.id));
    assert_eq!(beats(&repository), others, "nothing is left of the first one");
    // And when it sleeps for longer than that, before the next read.
    remove();
    reader.read_chunk(&chunk).unwrap();
    assert_eq!(readers(&repository).len(), 0, "it has just seen it");
    clock.advance(WEEK);
    reader.read_chunk(&chunk).unwrap();
    assert_eq!(readers(&repository).len(), 1);
    // A map is read no more than chunks are.
    remove();
    clock.advance(WEEK);
    reader.chunk(2).unwrap();
    assert_eq!(readers(&repository).len(), 1);
    // Too late: not one byte more.
    remove();
    forget_for_good(&repository, &snapshot);
    clock.advance(WEEK);
    assert_eq!(reader.read_chunk(&chunk).unwrap_err().kind(), ErrorKind::NoSnapshot);
    assert_eq!(reader.chunk(0).unwrap_err().kind(), ErrorKind::NoSnapshot);
    assert_eq!(session.beat().unwrap_err().kind(), ErrorKind::NoSnapshot);
    assert_eq!(readers(&repository).len(), 0);
}

/// It was stalled within a request, its own clock with it: what is missing is so as it comes too late, however fresh its note seems.
#[test]
fn a_reader_whose_note_was_taken_reports_no_damage() {
    for is_map in [false, true] {
        let (storage, _, repository) = repository();
        let snapshot = backup(&repository, "vm", 300);
        let session = Arc::new(ReadSession::open(&repository, &snapshot).unwrap());
        let reader = SnapshotReader::within(session.clone()).unwrap();
        let chunk = reader.chunk(1).unwrap().unwrap();
        let gone = |prefix: &str| {
            for key in repository.list(prefix).unwrap() {
                storage.delete(&key).unwrap();
            }
        };
        let read = || match is_map {
            true => SnapshotReader::within(session.clone()).and_then(|reader| reader.chunk(299)).map(drop),
            false => reader.read_chunk(&chunk).map(drop),
        };
        let prefix = if is_map { keys::META } else { keys::PACKS };
        // What is lost while it is kept is damage.
        let (id, ..) = readers(&repository).remove(0);
        let kept: Vec<_> =
            repository.list(prefix).unwrap().into_iter().map(|key| (storage.get(&key).unwrap(), key)).collect();
        gone(prefix);
        assert_eq!(read().unwrap_err().kind(), ErrorKind::Corrupt);
        kept.into_iter().for_each(|(body, key)| storage.create(&key, body).unwrap());
        forget_for_good(&repository, &snapshot);
        storage.delete(&keys::session(&id, "open")).unwrap();
        gone(prefix);
        assert_eq!(read().unwrap_err().kind(), ErrorKind::NoSnapshot);
        assert_eq!(readers(&repository).len(), 0);
    }
}

/// It fails in passing, and is to be done again: nothing is read before.
#[test]
fn a_reader_that_could_not_start_again_reads_nothing_until_it_has() {
    for silent in ["sess/", "forget/"] {
        let (storage, _, repository) = repository();
        let snapshot = backup(&repository, "vm", 3);
        let session = Arc::new(ReadSession::open(&repository, &snapshot).unwrap());
        let reader = SnapshotReader::within(session.clone()).unwrap();
        let chunk = reader.chunk(1).unwrap().unwrap();
        let (id, ..) = readers(&repository).remove(0);
        storage.delete(&keys::session(&id, "open")).unwrap();
        let again = |kind| {
            assert_eq!(session.beat().unwrap_err().kind(), kind);
            assert_eq!(reader.read_chunk(&chunk).unwrap_err().kind(), kind);
        };
        if silent == "forget/" {
            *storage.silent.lock() = Some(silent);
        } else {
            // It sees that its `open` is gone, and no more.
            *storage.refuses.lock() = Some(("", ErrorKind::Unavailable));
        }
        again(ErrorKind::Unavailable);
        *storage.refuses.lock() = None;
        *storage.silent.lock() = None;
        reader.read_chunk(&chunk).unwrap();
        assert_eq!(readers(&repository).len(), 1, "{silent}");
        // The same, and meanwhile it is forgotten for good.
        let (id, ..) = readers(&repository).remove(0);
        storage.delete(&keys::session(&id, "open")).unwrap();
        *storage.silent.lock() = Some("forget/");
        again(ErrorKind::Unavailable);
        *storage.silent.lock() = None;
        forget_for_good(&repository, &snapshot);
        again(ErrorKind::NoSnapshot);
        assert_eq!(readers(&repository).len(), 0, "{silent}");
    }
}

#[test]
fn a_snapshot_that_is_read_stays_readable_whoever_forgets_it() {
    let (_, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", 3);
    let session = Arc::new(ReadSession::open(&repository, &snapshot).unwrap());
    let reader = SnapshotReader::within(session.clone()).unwrap();
    forget_for_good(&repository, &snapshot);
    clock.advance(WEEK);
    session.beat().unwrap();
    assert!(reader.read_chunk(&reader.chunk(1).unwrap().unwrap()).unwrap().as_ref() == chunk(1));
    assert_eq!(readers(&repository).len(), 1);
}

#[test]
fn a_run_adopts_no_reader() {
    let (_, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", 3);
    // Of a process that is gone.
    let open = |kind| SessionOpen {
        kind,
        volume: snapshot.volume,
        name: "vm".into(),
        parent: Some(snapshot.id),
        adopts: vec![SessionId::new([9; 16])],
        process: Process { start: 1, ..Process::current() },
        started: repository.clock().now(),
        nonce: [0; 16],
    };
    let (reader, writer_id) = (SessionId::new([1; 16]), SessionId::new([2; 16]));
    repository.create(&keys::session(&reader, "open"), &open(SessionKind::Read)).unwrap();
    // And one that has been silent for long.
    let silent = ReadSession::open(&repository, &snapshot).unwrap();
    clock.advance(WEEK);
    let fences = || repository.snapshots(None).unwrap().fenced.len();
    let _first = writer(&repository, "vm");
    assert_eq!(fences(), 0);
    // A writer in its place is adopted.
    repository.create(&keys::session(&writer_id, "open"), &open(SessionKind::Write)).unwrap();
    let _second = writer(&repository, "vm");
    assert_eq!(fences(), 2, "and what it had adopted");
    silent.beat().unwrap();
    let left: Vec<SessionId> = readers(&repository).into_iter().map(|(id, ..)| id).collect();
    assert_eq!((left.len(), left.contains(&reader)), (1, false), "only of the one it is certain that nobody reads");
}
