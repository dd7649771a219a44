//! What a collector refuses, and what it leaves alone.

use super::*;
use bytes::Bytes;
use parking_lot::Mutex;
use wherry_repo::storage::{Counters, Metered};
use wherry_repo::{Error, ErrorKind, Key, Newest, PackKind, Packed, SessionId};
use wherry_tests::meddling::{Call, Fate, Meddling};

fn world() -> (World, Snapshot) {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&(0..200).map(|n| n % 40).collect::<Vec<_>>()));
    world.backup("vm", &disk(&(0..200).map(|n| n % 40 + 3).collect::<Vec<_>>()));
    world.forget(&first.id);
    (world, first)
}

fn generations(world: &World) -> usize {
    keys_of(&*world.storage).iter().filter(|key| key.as_str().starts_with("gc/gen/")).count()
}

/// Whatever leads to what is kept: gone or damaged, nothing is condemned and it is named.
#[test]
fn when_anything_cannot_be_read_nothing_is_condemned_and_it_is_named() {
    let (world, _) = world();
    let victims = |key: &&Key| ["meta/", "snap/", "sess/"].iter().any(|prefix| key.as_str().starts_with(prefix));
    let keys: Vec<Key> = keys_of(&*world.storage).iter().filter(victims).cloned().collect();
    let mut named = 0;
    for key in keys {
        // A record that is gone is a session without an outcome; who deletes those has deleted the snapshot.
        for damage in if key.as_str().starts_with("snap/") { &[true][..] } else { &[true, false] } {
            let copy = world.copy();
            let was = copy.storage.get(&key).unwrap();
            let mut bytes = was.to_vec();
            bytes.iter_mut().skip(70).for_each(|byte| *byte ^= 1);
            if *damage {
                copy.storage.overwrite(&key, bytes.into()).unwrap();
            } else {
                copy.storage.delete(&key).unwrap();
            }
            let before = copy.packs();
            match gc(&copy.repository(), &now()) {
                Err(e) => {
                    named += 1;
                    assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound), "{key}: {e}");
                    let text = format!("{e}");
                    assert!(text.contains(key.as_str()), "{key} is not in {text}");
                    assert_eq!(generations(&copy), 0, "{key}");
                    assert_eq!(copy.packs(), before, "{key}");
                    // It is brought back, and all is well.
                    copy.storage.overwrite(&key, was).unwrap();
                    copy.gc();
                    copy.verify(&format!("{key} was brought back"));
                }
                // Beats, and nodes of what is forgotten, lead to nothing that is kept.
                Ok(_) => {
                    copy.storage.overwrite(&key, was).unwrap();
                    copy.verify(&format!("{key} leads to nothing"));
                }
            }
        }
    }
    assert!(named >= 3, "{named}");
}

#[test]
fn a_chain_with_a_gap_is_refused() {
    for gone in ["gc/gen/00000001", "gc/gen/00000001-sealed"] {
        let (mut world, _) = world();
        world.gc();
        let next = world.disks.keys().next().copied().unwrap();
        world.backup("vm", &disk(&(500..520).collect::<Vec<_>>()));
        world.forget(&next);
        world.gc();
        assert_eq!(generations(&world), 4);
        world.storage.delete(&Key::new(gone).unwrap()).unwrap();
        let error = gc(&world.repository(), &now()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(gone) && error.to_string().contains("bring it back"), "{error}");
        let report = world.repository().check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap();
        assert!(report.damages.iter().any(|damage| damage.object.as_str() == gone), "{:?}", report.damages);
    }
}

/// The pages of a list need not be one instant: what is not in one and is in the next is not lost.
#[test]
fn a_gap_in_one_listing_is_looked_at_again() {
    let (mut world, _) = world();
    world.gc();
    let next = world.disks.keys().next().copied().unwrap();
    world.backup("vm", &disk(&(500..520).collect::<Vec<_>>()));
    world.forget(&next);
    world.gc();
    for late in ["gc/gen/00000001", "gc/gen/00000001-sealed", "gc/gen/00000002"] {
        let storage = Meddling::new(world.storage.clone(), true);
        let repository = world.over(storage.clone());
        let (inner, late) = (world.storage.clone(), Key::new(late).unwrap());
        let bytes = inner.get(&late).unwrap();
        let mut lists = 0;
        storage.meddle(move |call, name| {
            if call == Call::List && name == keys::GEN {
                lists += 1;
                match lists {
                    1 => inner.delete(&late).unwrap(),
                    2 => inner.create(&late, bytes.clone()).unwrap(),
                    _ => {}
                }
            }
            Fate::Done
        });
        gc(&repository, &now()).unwrap();
    }
    world.verify("listed again");
}

/// Also of what a run without effects misses it is said what it is and what to do.
#[test]
fn a_run_without_effects_names_what_is_lost() {
    let (world, first) = world();
    let meta = world.packs().into_iter().filter(|pack| pack.session != first.id).map(|pack| keys::pack(&pack));
    let key = meta.into_iter().find(|key| key.as_str().starts_with("meta/")).unwrap();
    world.storage.delete(&key).unwrap();
    let error = gc(&world.repository(), &CollectOptions { dry_run: true, ..now() }).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(text.contains(key.as_str()) && text.contains("wherry check"), "{text}");
}

#[test]
fn a_run_without_effects_has_none_and_tells_what_the_next_does() {
    let (world, _) = world();
    let storage = Meddling::new(world.storage.clone(), false);
    storage.meddle(|call, name| match call {
        Call::Write | Call::Delete => panic!("{name} was touched"),
        _ => Fate::Done,
    });
    let plan = gc(&world.over(storage), &CollectOptions { dry_run: true, ..now() }).unwrap();
    let done = world.gc();
    assert_eq!((plan.condemned, plan.thin, plan.copied), (done.condemned, done.thin, done.copied));
    assert!(plan.condemned.packs > 0);
}

#[test]
fn a_feature_for_collectors_keeps_it_from_deleting_at_each_step() {
    let (world, _) = world();
    let late = world.copy();
    world.repository().publish_config(1, |config| config.gc = vec!["later".into()]).unwrap();
    let before = keys_of(&*world.storage);
    let error = gc(&world.repository(), &now()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("later") && error.to_string().contains("newer wherry"), "{error}");
    assert_eq!(keys_of(&*world.storage), before);
    // One that comes while it works.
    let storage = Meddling::new(late.storage.clone(), false);
    let repository = late.over(storage.clone());
    let (theirs, done) = (late.repository(), Mutex::new(false));
    storage.meddle(move |call, name| {
        let mut done = done.lock();
        if call == Call::List && name == "meta/" && !*done {
            *done = true;
            theirs.publish_config(1, |config| config.gc = vec!["later".into()]).unwrap();
        }
        Fate::Done
    });
    let before = late.packs();
    assert_eq!(gc(&repository, &now()).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!((late.packs(), generations(&late)), (before, 0));
}

#[test]
fn without_memory_for_its_marks_it_says_so() {
    let (world, _) = world();
    let error = gc(&world.repository(), &CollectOptions { memory: 1 << 10, ..now() }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("--memory"), "{error}");
    assert_eq!(generations(&world), 0);
}

/// Exactly what a delete set names is deleted: a name is known by all its parts.
#[test]
fn a_pack_whose_name_is_like_one_in_a_delete_set_stays() {
    let (world, _) = world();
    let graced = gc(&world.repository(), &CollectOptions { grace: Duration::from_secs(3600), ..now() }).unwrap();
    assert!(graced.graced.packs > 0 && graced.swept.packs == 0);
    let twins: Vec<Key> =
        world.packs().iter().map(|pack| keys::pack(&PackId { seq: pack.seq + 99, ..*pack })).collect();
    twins.iter().for_each(|twin| world.storage.create(twin, vec![1; 100].into()).unwrap());
    world.clock.advance(Duration::from_secs(7200));
    let watch = |_, _, _| Ok(());
    let report = world.repository().collect(&CollectOptions { threads: 1, ..now() }, &watch).unwrap();
    // Those that are like a pack that is kept are condemned as nobody refers to them.
    assert_eq!(report.swept.packs, twins.len() as u64);
    let stay = twins.iter().filter(|twin| world.storage.head(twin).is_ok()).count();
    assert_eq!(stay as u64, graced.graced.packs);
}

/// The run ends when its caller says so, and the next one goes on.
#[test]
fn it_ends_when_it_is_told_to() {
    let (world, _) = world();
    for at in 1.. {
        let copy = world.copy();
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let stop = |_, _, _| match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1 == at {
            true => Err(Error::new(ErrorKind::Cancelled, "enough")),
            false => Ok(()),
        };
        match copy.repository().collect(&now(), &stop) {
            Err(e) => assert_eq!(e.kind(), ErrorKind::Cancelled),
            Ok(_) => {
                assert!(at > 2, "it is asked {at} times");
                break;
            }
        }
        copy.verify_lean(&format!("ended at {at}"));
        copy.verify(&format!("ended at {at}"));
    }
}

/// A list of changed blocks since a snapshot that is gone belongs to no older one.
#[test]
fn the_record_that_says_what_is_newest_stays() {
    let mut world = World::new();
    let old = world.backup("vm", &disk(&[1, 2]));
    let newer = world.backup("vm", &disk(&[1, 3]));
    world.forget(&newer.id);
    world.gc();
    let repository = world.repository();
    let newest = |repository: &Repository| repository.newest(repository.volume_id("vm")).unwrap();
    assert!(matches!(newest(&repository), Newest::Unclear(why) if why.contains("forgotten")));
    // The next one is, and then the other's record may go.
    let third = world.backup("vm", &disk(&[1, 4]));
    world.gc();
    let records = keys_of(&*world.storage).iter().filter_map(keys::parse_snap).map(|(_, id)| id).collect::<Vec<_>>();
    assert!(records.contains(&old.id) && records.contains(&third.id) && !records.contains(&newer.id));
    assert_eq!(newest(&world.repository()), Newest::Snapshot(third.id));
    // By a clock that went back: it was made last, and says so.
    world.clock.put_back(Duration::from_secs(3600));
    let back = world.backup("vm", &disk(&[1, 5]));
    assert_eq!(back.record.parent, Some(third.id));
    world.forget(&back.id);
    world.gc();
    assert!(matches!(newest(&world.repository()), Newest::Unclear(_)));
}

/// Index segments come to be few, whatever becomes of each at what moment, and say what they said.
#[test]
fn segments_are_put_together_after_the_grace() {
    let mut world = World::new();
    for n in 0..40 {
        world.backup(&format!("vm{n}"), &disk(&[n, n + 1]));
    }
    let segments =
        |world: &World| keys_of(&*world.storage).iter().filter(|key| key.as_str().starts_with("idx/")).count();
    assert_eq!(segments(&world), 40);
    let grace = CollectOptions { grace: Duration::from_secs(3600), ..now() };
    for (passed, left) in [(0, 41), (0, 41), (4000, 1), (4000, 1)] {
        world.clock.advance(Duration::from_secs(passed));
        gc(&world.repository(), &grace).unwrap();
        assert_eq!(segments(&world), left, "after {passed} s");
    }
    let index = index();
    let synced = index.synchronise(&world.repository(), true).unwrap();
    assert_eq!((synced.segments, synced.packs, synced.damaged), (1, 0, 0));
    let all = disk(&(0..41).collect::<Vec<_>>());
    let snapshot = backup_with(&world.repository(), index, &wide("all"), &all).unwrap();
    assert_eq!(snapshot.record.stats.new, 0);
    world.disks.insert(snapshot.id, all);
    world.verify("put together");
}

#[test]
fn a_long_listing_goes_folder_by_folder_and_each_pack_counts_once() {
    const MANY: u64 = 10_500;
    let world = World::new();
    let counters = Arc::new(Counters::default());
    let repository = world.over(Arc::new(Metered::new(world.storage.clone(), counters.clone())));
    let session = SessionId::new([9; 16]);
    repository.end_session(repository.volume_id("vm"), session, "so that its packs may go").unwrap();
    for n in 0..MANY {
        // Every folder, the first and the last too.
        let random = (n % 256) << 56 | n;
        let id = PackId { kind: PackKind::Data, session, seq: n as u32, random };
        world.storage.create(&keys::pack(&id), Bytes::from_static(b"x")).unwrap();
    }
    let all = Packed { packs: MANY, bytes: MANY };
    let report = gc(&repository, &CollectOptions { dry_run: true, ..now() }).unwrap();
    assert_eq!((report.all, report.condemned), (all, all));
    assert!(counters.list.requests() > 256, "{counters:?}");
    let report = gc(&repository, &now()).unwrap();
    assert_eq!((report.condemned, report.swept), (all, all));
    assert_eq!(world.packs().len(), 0);
}

/// The delay of a forget is counted by the storage, whose clock is the world's; a host's may be years off.
#[test]
fn a_wrong_clock_makes_no_forget_final_and_keeps_none_from_it() {
    let years = Duration::from_secs(10 * 365 * 86_400);
    let hour = Duration::from_secs(3600);
    for is_ahead in [true, false] {
        let mut world = World::new();
        let id = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>())).id;
        world.backup("other", &disk(&[900]));
        let wrong = Arc::new(TestClock::default());
        if is_ahead {
            wrong.advance(years)
        } else {
            wrong.put_back(years)
        }
        let components = Components { clock: wrong, ..components(world.storage.clone()) };
        let wrong = Repository::open(components, &password()).unwrap();
        // Who collects has the wrong clock.
        world.repository().forget(&id, hour, "test").unwrap();
        let dry = || gc(&wrong, &CollectOptions { dry_run: true, ..now() }).unwrap();
        assert_eq!(dry().condemned.packs, 0, "ahead: {is_ahead}");
        assert_eq!(gc(&wrong, &now()).unwrap().settled, 0, "ahead: {is_ahead}");
        assert!(!wrong.settle(&id).is_ok_and(|settled| settled), "ahead: {is_ahead}");
        assert!(world.repository().unforget(&id).unwrap());
        world.verify("brought back");
        // Who asks has.
        wrong.forget(&id, hour * 2, "test").unwrap();
        assert!(wrong.forget_sooner(&id, hour, "test").unwrap(), "ahead: {is_ahead}");
        assert_eq!(world.gc().settled, 0, "ahead: {is_ahead}");
        world.clock.advance(hour);
        world.disks.remove(&id);
        let plan = dry();
        let report = gc(&wrong, &now()).unwrap();
        assert_eq!(report.settled, 1, "ahead: {is_ahead}");
        assert!(report.condemned.packs > 0, "ahead: {is_ahead}: {report:?}");
        assert_eq!(plan.condemned, report.condemned, "ahead: {is_ahead}: the plan is another one than what is done");
        world.verify("given up");
    }
}
