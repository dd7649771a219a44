//! How a collection ends: what counts as one that got something done, and what does not.

use super::interleaved::{commit, world};
use super::*;
use wherry_repo::{Error, ErrorKind, SnapshotWriter};
use wherry_tests::meddling::{Call, Fate, Meddling};

/// Others take each number, and each time leave something that this one would condemn.
#[test]
fn a_run_that_others_always_come_before_has_done_nothing() {
    let (mut world, _, _, snapshot) = world();
    world.forget(&snapshot.id);
    let storage = Meddling::new(world.storage.clone(), false);
    let (repository, others) = (world.over(storage.clone()), world.repository());
    let mut rounds = 0;
    storage.meddle(move |call, name| {
        if call == Call::Write && name.starts_with(keys::GEN) && !name.ends_with("-sealed") {
            rounds += 1;
            let report = gc(&others, &now()).unwrap();
            assert!(report.sealed && report.completed, "{report:?}");
            let made = backup_with(&others, index(), &wide("more"), &disk(&[1000 + rounds])).unwrap();
            others.forget(&made.id, Duration::ZERO, "test").unwrap();
        }
        Fate::Done
    });
    let report = gc(&repository, &now()).unwrap();
    assert!(report.overtaken && !report.completed && !report.sealed, "{report:?}");
    storage.leave_alone();
    let report = gc(&repository, &now()).unwrap();
    assert!(report.completed && report.sealed && !report.overtaken, "{report:?}");
    let report = gc(&repository, &now()).unwrap();
    assert!(report.completed && !report.sealed, "nothing to condemn is an end as well: {report:?}");
    world.verify("nobody comes before it any more");
    world.verify_lean("nobody comes before it any more");
}

/// A writer that cannot hear of lists any more, as one whose rights were narrowed, gives no sign of life: it is not waited for as
/// long as it runs.
#[test]
fn who_cannot_hear_of_lists_is_not_taken_for_alive() {
    let (mut world, index, bytes, snapshot) = world();
    let storage = Meddling::new(world.storage.clone(), false);
    let writer = SnapshotWriter::start(&world.over(storage.clone()), index, &wide("deaf")).unwrap();
    put_all(&writer, &bytes).unwrap();
    world.forget(&snapshot.id);
    storage.meddle(|call, name| match call == Call::List && name == keys::GEN {
        true => Fate::Fails(Error::new(ErrorKind::Denied, "no right to list gc/gen/")),
        false => Fate::Done,
    });
    let patient = CollectOptions { fence_after: Duration::from_secs(7200), patience: Duration::from_secs(60), ..now() };
    let mut waited = 0;
    let report = loop {
        assert_eq!(writer.pulse().beat().unwrap_err().kind(), ErrorKind::Denied);
        let report = gc(&world.repository(), &patient).unwrap();
        if report.sealed {
            break report;
        }
        assert!(!report.completed && report.waiting.len() == 1 && report.swept.packs == 0, "{report:?}");
        waited += 1;
        assert!(waited < 200, "it is waited for without an end: {report:?}");
        world.clock.advance(Duration::from_secs(60));
    };
    assert!(waited > 30 && report.completed && report.swept.packs > 0, "{waited}: {report:?}");
    assert_eq!(report.fenced.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["deaf"]);
    storage.leave_alone();
    let told = commit(writer, &bytes).unwrap_err();
    assert!(told.kind() == ErrorKind::Conflict && told.to_string().contains("run it again"), "{told}");
    world.verify("it was ended");
    world.verify_lean("it was ended");
}

/// Nor has the note of a turn room there, on a storage for one process at a time. Who has a turn already is not worked beside.
#[test]
fn a_full_storage_for_one_at_a_time_is_collected() {
    let (mut world, _, _, snapshot) = world();
    world.forget(&snapshot.id);
    let grace = CollectOptions { grace: Duration::from_secs(3600), ..now() };
    assert!(gc(&world.repository(), &grace).unwrap().graced.packs > 0);
    world.clock.advance(Duration::from_secs(7200));
    world.repository().publish_config(1, |config| config.single_writer = true).unwrap();
    let storage = Meddling::new(world.storage.clone(), false);
    let mut is_full = true;
    storage.meddle(move |call, name| {
        is_full &= call != Call::Delete || !(name.starts_with(keys::PACKS) || name.starts_with(keys::META));
        match call == Call::Write && is_full {
            true => Fate::Fails(Error::new(ErrorKind::Full, "no room")),
            false => Fate::Done,
        }
    });
    let repository = world.over(storage);
    let begin = || repository.begin_collecting("gc", &grace, &|_, _, _| Ok(()));
    assert_eq!(repository.begin_writing("forget").unwrap_err().kind(), ErrorKind::Full);
    let packs = world.packs();
    let other = world.repository().begin_writing("forget").unwrap();
    assert_eq!(begin().unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(world.packs(), packs, "another process writes");
    drop(other);
    // What this build does not know of collectors it must not delete beside.
    let unknown = world.copy();
    unknown.repository().publish_config(2, |config| config.gc.push("quantum".into())).unwrap();
    let full = Meddling::new(unknown.storage.clone(), false);
    full.meddle(|call, _| match call {
        Call::Write => Fate::Fails(Error::new(ErrorKind::Full, "no room")),
        _ => Fate::Done,
    });
    let refused = unknown.over(full).begin_collecting("gc", &grace, &|_, _, _| Ok(())).unwrap_err();
    assert_eq!((refused.kind(), unknown.packs()), (ErrorKind::Unsupported, packs.clone()));

    let (turn, swept) = begin().unwrap();
    assert_eq!(swept.packs, (packs.len() - world.packs().len()) as u64);
    assert!(swept.packs > 0);
    // It has a turn by now as anybody has.
    assert_eq!(world.repository().begin_writing("forget").unwrap_err().kind(), ErrorKind::Busy);
    gc(&repository, &grace).unwrap();
    drop(turn);
    world.verify("room was made");
}
