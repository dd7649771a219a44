//! Runs that are disturbed at a bad moment, given up, or fenced.

use super::{disk, refused};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use wherry_repo::format::records::Generation;
use wherry_repo::storage::{Memory, Storage, keys};
use wherry_repo::{
    CommitInfo, Components, Error, ErrorKind, Repository, Result, Rng, Snapshot, SnapshotWriter, WriterOptions,
};
use wherry_tests::meddling::{Call, Fate, Meddling, unavailable};
use wherry_tests::small::*;

/// A repository over a storage to meddle with, by one clock.
fn world() -> (Arc<Meddling>, Arc<TestClock>, Repository) {
    let clock = Arc::new(TestClock::default());
    let storage = Meddling::new(Arc::new(Memory::new(clock.clone())), false);
    init(storage.clone()).unwrap();
    let components = Components { clock: clock.clone(), ..components(storage.clone()) };
    (storage, clock, Repository::open(components, &password()).unwrap())
}

fn start(repository: &Repository, name: &str) -> Result<SnapshotWriter> {
    SnapshotWriter::start(repository, index(), &options(name))
}

fn commit(writer: SnapshotWriter, disk: &[u8]) -> Result<Snapshot> {
    writer.commit(CommitInfo { size: disk.len() as u64, ..CommitInfo::default() })
}

fn packs(storage: &Meddling) -> Vec<wherry_repo::PackId> {
    keys_of(&*storage.inner).iter().filter_map(keys::parse_pack).collect()
}

/// R4 after a beat that read the list and failed before it had looked what the list means for its hits.
#[test]
fn a_beat_that_failed_half_way_is_made_up_for() {
    for at_seen in [false, true] {
        let (storage, _, repository) = world();
        let disk = disk(1, 6);
        let index = index();
        backup_with(&repository, index.clone(), &options("a"), &disk).unwrap();
        let writer = SnapshotWriter::start(&repository, index, &options("b")).unwrap();
        put_all(&writer, &disk).unwrap();
        let condemned = packs(&storage);
        assert!(!condemned.is_empty());
        // Either it cannot look for a fence, or it cannot fence itself.
        let own = format!("snap/{}/{}", repository.volume_id("b"), writer.id());
        let failing = if at_seen { Call::Write } else { Call::Read };
        repository.publish_generation(1, &Generation { condemned, ..Generation::default() }).unwrap();
        storage.meddle(move |call, name| match call == failing && name == own {
            true => Fate::Fails(unavailable()),
            false => Fate::Done,
        });
        assert_eq!(refused(writer.pulse().beat()).kind(), ErrorKind::Unavailable);
        storage.leave_alone();
        let error = refused(commit(writer, &disk));
        assert_eq!(error.kind(), ErrorKind::Conflict, "a hit in a condemned pack must not be committed: {error}");
    }
}

#[test]
fn a_sign_that_was_written_though_it_failed_is_no_conflict() {
    let (storage, _, repository) = world();
    let disk = disk(2, 3);
    let writer = start(&repository, "vm").unwrap();
    put_all(&writer, &disk).unwrap();
    repository.publish_generation(1, &Generation::default()).unwrap();
    storage.meddle(|call, name| match call == Call::Write && name.ends_with("seen-00000001") {
        true => Fate::ReplyLost(unavailable()),
        false => Fate::Done,
    });
    assert_eq!(refused(writer.pulse().beat()).kind(), ErrorKind::Unavailable);
    storage.leave_alone();
    writer.pulse().beat().unwrap();
    let snapshot = commit(writer, &disk).unwrap();
    assert!(restore(&repository, &snapshot).unwrap() == disk);
}

/// R2 does not wait for a list.
#[test]
fn a_fence_is_found_by_the_next_beat() {
    let (_, clock, repository) = world();
    let silent = start(&repository, "vm").unwrap();
    clock.advance(Duration::from_secs(3 * 3600));
    start(&repository, "vm").unwrap();
    let error = refused(silent.pulse().beat());
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

/// A1: silence is measured by the storage's clock, whatever the own one shows.
#[test]
fn a_host_whose_clock_is_ahead_ends_nobody() {
    let (storage, _, repository) = world();
    let working = start(&repository, "vm").unwrap();
    let ahead = Arc::new(TestClock::default());
    ahead.advance(Duration::from_secs(5 * 3600));
    let other = Repository::open(Components { clock: ahead, ..components(storage) }, &password()).unwrap();
    assert!(!start(&other, "vm").unwrap().is_resumed());
    working.pulse().beat().unwrap();
}

#[test]
fn a_damaged_list_stops_a_run_and_says_what_to_do() {
    let (storage, _, repository) = world();
    repository.publish_generation(1, &Generation::default()).unwrap();
    storage.overwrite(&keys::generation(1), "cut".into()).unwrap();
    let error = refused(start(&repository, "vm"));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("bring it back"), "{error}");
}

/// W6: what the record of a parent is like after the session was opened.
#[test]
fn a_parent_that_cannot_be_read_any_more_is_refused_or_ends_the_start() {
    let (storage, _, repository) = world();
    let disk = disk(3, 3);
    let parent = backup(&repository, "vm", &disk).unwrap();
    let record = keys::snap(&parent.volume, &parent.id).to_string();
    let after_open = |error: fn() -> Error| {
        let (record, mut opened) = (record.clone(), false);
        storage.meddle(move |call, name| {
            opened |= call == Call::Write && name.ends_with("/open");
            if opened && call == Call::Read && name == record { Fate::Fails(error()) } else { Fate::Done }
        });
        start(&repository, "vm")
    };
    assert_eq!(refused(after_open(unavailable)).kind(), ErrorKind::Unavailable, "it may be intact");
    let writer = after_open(|| Error::corrupt("cut")).unwrap();
    assert_eq!(writer.parent(), None, "it is damaged");
    let writer = after_open(|| Error::new(ErrorKind::NotFound, "gone")).unwrap();
    assert_eq!(writer.parent(), None, "it is gone");
    storage.leave_alone();
    assert_eq!(start(&repository, "vm").unwrap().parent().map(|p| p.id), Some(parent.id));
}

/// N3, and nothing else that a collector would have to guess about.
#[test]
fn who_gives_up_leaves_a_fence() {
    let (storage, _, repository) = world();
    for (n, fails) in [false, true].into_iter().enumerate() {
        let writer = start(&repository, "vm").unwrap();
        let id = writer.id();
        put_all(&writer, &disk(4, 6)).unwrap();
        if fails {
            // The last pack is not taken.
            storage.meddle(|call, name| match call == Call::Write && name.starts_with(keys::PACKS) {
                true => Fate::Fails(Error::new(ErrorKind::Full, "no room")),
                false => Fate::Done,
            });
            put_all(&writer, &disk(44, 1)).unwrap();
        }
        assert_eq!(writer.abandon().is_err(), fails);
        storage.leave_alone();
        assert_eq!(repository.snapshots(None).unwrap().fenced.len(), n + 1);
        let mine = keys_of(&*storage.inner)
            .into_iter()
            .filter_map(|key| key.as_str().strip_prefix(&format!("sess/{id}/")).map(str::to_owned));
        assert_eq!(mine.collect::<Vec<_>>(), ["open", "seen-00000000"]);
    }
}

/// The same of a commit that finds no room for what is left to store; a storage that is away takes no Fence either.
#[test]
fn a_commit_that_cannot_store_all_leaves_a_fence() {
    let (storage, _, repository) = world();
    for (error, fenced, name) in [(ErrorKind::Full, 1, "full"), (ErrorKind::Unavailable, 0, "away")] {
        let (writer, disk) = (start(&repository, name).unwrap(), disk(4, 6));
        put_all(&writer, &disk).unwrap();
        storage.meddle(move |call, name| match call == Call::Write && name.starts_with(keys::PACKS) {
            true => Fate::Fails(Error::new(error, "no room")),
            false => Fate::Done,
        });
        assert_eq!(commit(writer, &disk).unwrap_err().kind(), error);
        storage.leave_alone();
        let of_volume = repository.snapshots(Some(repository.volume_id(name))).unwrap();
        assert_eq!(of_volume.fenced.len(), fenced, "{error:?}");
    }
}

/// A1, C4: packs of a run that somebody fenced, which no checkpoint names, until a run of the volume has committed.
#[test]
fn what_a_fenced_run_had_stored_is_adopted_until_somebody_has_committed() {
    let (storage, clock, repository) = world();
    let disk = disk(5, 12);
    let no_checkpoint = WriterOptions { checkpoint_packs: 1000, ..options("vm") };
    let silent = SnapshotWriter::start(&repository, index(), &no_checkpoint).unwrap();
    put_all(&silent, &disk).unwrap();
    let stored = silent.stored();
    assert!(stored > 8 * UNIT as u64 && !keys_of(&*storage.inner).iter().any(|k| k.as_str().starts_with(keys::IDX)));
    clock.advance(Duration::from_secs(3 * 3600));
    // It fences the silent one, and is fenced itself before it has stored anything.
    let second = start(&repository, "vm").unwrap();
    assert!(second.is_resumed());
    second.abandon().unwrap();
    // Another volume has no part in it.
    assert!(!start(&repository, "other").unwrap().is_resumed());

    let third = start(&repository, "vm").unwrap();
    assert!(third.is_resumed(), "the silent one is fenced, and nobody has come after it");
    put_all(&third, &disk).unwrap();
    let snapshot = commit(third, &disk).unwrap();
    assert!(snapshot.record.resumed && snapshot.record.stats.known > 8 * UNIT as u64, "{:?}", snapshot.record.stats);
    assert!(snapshot.record.stats.stored + stored < (disk.len() + 2 * UNIT) as u64, "nothing is stored twice");
    assert!(restore(&repository, &snapshot).unwrap() == disk);

    let fourth = start(&repository, "vm").unwrap();
    assert!(!fourth.is_resumed(), "what there was to adopt is in the snapshot, or nobody wants it");
    fourth.abandon().unwrap();
    assert!(!start(&repository, "vm").unwrap().is_resumed(), "it has stored nothing");
}

/// Millions of packs are listed once, not once for each use of the list.
#[test]
fn a_start_that_resumes_lists_packs_once() {
    let (storage, _, repository) = world();
    let writer = start(&repository, "vm").unwrap();
    put_all(&writer, &disk(6, 6)).unwrap();
    writer.abandon().unwrap();
    let lists = Arc::new(AtomicUsize::new(0));
    let counted = lists.clone();
    storage.meddle(move |call, name| {
        counted.fetch_add(usize::from(call == Call::List && name == keys::PACKS), Ordering::Relaxed);
        Fate::Done
    });
    assert!(start(&repository, "vm").unwrap().is_resumed());
    assert_eq!(lists.load(Ordering::Relaxed), 1);
}

/// Segments that the index has are not read again, and of listed packs only those it lacks.
#[test]
fn only_what_the_index_lacks_is_read() {
    let (storage, _, repository) = world();
    let disk = disk(7, 12);
    backup(&repository, "vm", &disk).unwrap();
    let index = index();
    let whole = index.synchronise(&repository, true).unwrap();
    assert!(whole.segments > 1 && whole.packs == 0, "{whole:?}");
    // One segment is lost to an index that knows nothing yet: its packs, and no others, are read from their trailers.
    let lost = keys_of(&*storage.inner).into_iter().find(|k| k.as_str().starts_with(keys::IDX)).unwrap();
    storage.overwrite(&lost, "cut".into()).unwrap();
    let fresh = wherry_tests::small::index();
    let synced = fresh.synchronise(&repository, false).unwrap();
    assert_eq!((synced.segments, synced.packs, synced.damaged), (whole.segments - 1, 1, 1));
    let again = fresh.synchronise(&repository, false).unwrap();
    assert_eq!((again.segments, again.packs, again.damaged), (0, 0, 1), "they are in the index now");
    let known = backup_with(&repository, fresh, &options("other"), &disk).unwrap();
    assert_eq!(known.record.stats.new, 0);
}

/// Randomness that can be made to fail.
#[derive(Debug)]
struct Failing(TestRng, AtomicBool);

impl Rng for Failing {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, "no randomness"));
        }
        self.0.fill(out)
    }
}

/// Whoever goes on after an error gets no snapshot: a leaf that could not be stored is in the map no more.
#[test]
fn after_an_error_of_the_map_there_is_no_snapshot() {
    let (_, repository) = in_memory();
    let rng = Arc::new(Failing(TestRng::new(8), AtomicBool::new(false)));
    let components = Components { rng: rng.clone(), ..repository.components().clone() };
    let repository = Repository::open(components, &password()).unwrap();
    let disk = disk(8, 130);
    let writer = start(&repository, "vm").unwrap();
    let mut scratch = writer.scratch().unwrap();
    for (n, chunk) in disk.chunks(UNIT).enumerate() {
        writer.put(&mut scratch, n as u64, chunk).unwrap();
    }
    rng.1.store(true, Ordering::Relaxed);
    assert_eq!(refused(writer.advance(130)).kind(), ErrorKind::Unavailable);
    rng.1.store(false, Ordering::Relaxed);
    assert_eq!(refused(commit(writer, &disk)).kind(), ErrorKind::Unavailable);
    assert!(repository.snapshots(None).unwrap().snapshots.is_empty());
}

/// Nor after one of a chunk, which would be zero.
#[test]
fn after_an_error_of_a_chunk_there_is_no_snapshot() {
    let (storage, _, repository) = world();
    let disk = disk(9, 130);
    backup(&repository, "vm", &disk).unwrap();
    let writer = start(&repository, "vm").unwrap();
    let mut scratch = writer.scratch().unwrap();
    storage.meddle(|call, name| match call == Call::Read && name.starts_with(keys::META) {
        true => Fate::Fails(unavailable()),
        false => Fate::Done,
    });
    let error = refused(writer.put(&mut scratch, 0, &disk[..UNIT]));
    assert!(error.to_string().contains("--parent none"), "{error}");
    storage.leave_alone();
    assert_eq!(refused(commit(writer, &disk)).kind(), ErrorKind::Unavailable);
    assert_eq!(repository.snapshots(None).unwrap().snapshots.len(), 1);
}

/// P5: the first request was carried out, its answer was lost, and then the storage refuses. Whoever hears of it must not take the
/// snapshot for one that does not exist.
#[test]
fn a_commit_whose_answer_was_lost_is_not_told_as_failed_whatever_comes_behind_it() {
    for (kind, found) in [(ErrorKind::Denied, true), (ErrorKind::Full, false)] {
        let (storage, clock, _) = world();
        let system = Arc::new(wherry_repo::System::default());
        let pause = wherry_repo::storage::Retries { first: Duration::from_millis(1), ..Default::default() };
        let retrying = wherry_repo::storage::Retrying::new(storage.clone(), pause, system.clone(), system);
        let components = Components { clock, ..components(Arc::new(retrying)) };
        let repository = Repository::open(components, &password()).unwrap();
        let disk = disk(2, 3);
        let writer = start(&repository, "vm").unwrap();
        put_all(&writer, &disk).unwrap();
        let own = format!("snap/{}/{}", repository.volume_id("vm"), writer.id());
        let (own, mut sent) = (own, 0);
        storage.meddle(move |call, name| match (name == own).then_some(call) {
            Some(Call::Write) if sent == 0 => {
                sent = 1;
                // Carried out, or not yet.
                if found { Fate::ReplyLost(unavailable()) } else { Fate::Fails(unavailable()) }
            }
            Some(Call::Read) if sent == 1 && found => Fate::Fails(Error::new(kind, "the token has expired")),
            Some(Call::Write) => Fate::Fails(Error::new(kind, "no room")),
            _ => Fate::Done,
        });
        let error = refused(commit(writer, &disk));
        assert!(error.kind() == kind && error.to_string().contains("was committed is not known"), "{error}");
        assert!(error.to_string().contains("`wherry snapshots` shows it"), "{error}");
        storage.leave_alone();
        assert_eq!(repository.snapshots(None).unwrap().snapshots.len(), usize::from(found));
    }
    // Refused at once: nothing was committed, and nothing else is said.
    let (storage, _, repository) = world();
    let writer = start(&repository, "vm").unwrap();
    storage.meddle(|call, name| match call == Call::Write && name.starts_with("snap/") {
        true => Fate::Fails(Error::new(ErrorKind::Denied, "read only")),
        false => Fate::Done,
    });
    let error = refused(commit(writer, &[]));
    assert!(error.kind() == ErrorKind::Denied && !error.to_string().contains("not known"), "{error}");
}
