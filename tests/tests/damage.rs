//! `check` finds each kind of damage and says exactly whom it hits. What it says is compared with what can be read: each
//! chunk of each snapshot either reads as it was written, or fails and is in the report.

#[path = "damage/fixture.rs"]
mod fixture;
#[path = "damage/heal.rs"]
mod heal;

use fixture::*;
use std::fs;
use std::ops::Range;
use std::time::Duration;
use wherry_repo::{
    CheckOptions, DamageKind, Error, ErrorKind, Key, NotReadReason, PackKind, ReadData, SnapshotWriter, storage::keys,
};
use wherry_tests::small::*;

#[test]
fn an_intact_repository_is_clean_and_the_report_counts_what_there_is() {
    let fixture = Fixture::new();
    let report = fixture.check(false);
    assert_eq!(report.damages, []);
    let packs = fixture.keys().iter().filter(|key| kind_of(key).is_some()).count() as u64;
    assert_eq!((report.snapshots, report.packs, report.unused_packs), (6, packs, 0));
    assert_eq!(report.records, fixture.keys().len() as u64 - packs, "every other object was opened");
    let distinct: std::collections::BTreeSet<&Vec<u8>> =
        fixture.snapshots.iter().flat_map(|(_, disk)| disk.chunks.values()).collect();
    assert_eq!(report.chunks, distinct.len() as u64);
    let data_packs = fixture.keys().iter().filter(|key| kind_of(key) == Some(PackKind::Data)).count() as u64;
    let [left] = report.not_read[..] else { panic!("{:?}", report.not_read) };
    assert_eq!((left.reason, left.packs, left.bytes), (NotReadReason::NotAsked, data_packs, report.data_bytes));
    assert_eq!(report.read_bytes, 0);

    let report = fixture.check(true);
    assert_eq!((report.damages, report.not_read), (vec![], vec![]));
    assert_eq!(report.read_bytes, report.data_bytes, "every chunk of these packs is referred to");
}

/// A forget that was settled, or a pin that was ended: the end alone counts, and nobody reads the beginning any more.
fn is_over(fixture: &Fixture, key: &Key) -> bool {
    let (forget, pin) = (keys::parse_forget(key), keys::parse_pin(key));
    let forget = forget.filter(|(.., settled)| !settled).map(|(id, k, _)| keys::forget(&id, k, true));
    let pin = pin.filter(|(.., unpinned)| !unpinned).map(|(id, k, _)| keys::pin(&id, k, true));
    forget.or(pin).is_some_and(|end| fixture.keys().contains(&end))
}

#[test]
fn a_flip_in_any_object_is_found_and_named_with_all_it_hits() {
    let fixture = Fixture::of_all_kinds();
    let mut state = 1;
    for key in fixture.keys() {
        let len = fs::metadata(fixture.path(&key)).unwrap().len();
        let at = (splitmix(&mut state) % len) as usize;
        fixture.with(&key, flip(at), || match fixture.open() {
            Ok(repository) => {
                let options = CheckOptions { read_data: Some(ReadData::default()), ..CheckOptions::default() };
                let report = check(&repository, &options);
                if keys::parse_snap(&key).is_some() {
                    assert_eq!((report.damages.len(), &report.damages[0].object), (1, &key));
                } else if is_over(&fixture, &key) {
                    assert_eq!(report.damages, []);
                } else {
                    fixture.assert_one(&report, &key);
                }
            }
            Err(e) => {
                let clear = [keys::CONFIG, "keys/epoch-", "repo.json"].iter().any(|p| key.as_str().starts_with(p));
                assert!(clear, "{key} does not keep from opening: {e}");
                assert_eq!((e.kind(), e.object()), (ErrorKind::Corrupt, Some(key.as_str())));
            }
        });
    }
}

#[test]
fn a_cut_in_any_object_is_found_and_named_with_all_it_hits() {
    let fixture = Fixture::of_all_kinds();
    let mut state = 2;
    for key in fixture.keys() {
        let len = fs::metadata(fixture.path(&key)).unwrap().len();
        let at = (splitmix(&mut state) % len) as usize;
        fixture.with(
            &key,
            |bytes| bytes.truncate(at),
            || match fixture.open() {
                // Cut packs are looked into without being asked to.
                Ok(repository) => {
                    let report = check(&repository, &CheckOptions::default());
                    if keys::parse_snap(&key).is_some() {
                        assert_eq!((report.damages.len(), &report.damages[0].object), (1, &key));
                    } else if is_over(&fixture, &key) {
                        assert_eq!(report.damages, []);
                    } else {
                        fixture.assert_one(&report, &key);
                    }
                }
                Err(e) => assert_eq!((e.kind(), e.object()), (ErrorKind::Corrupt, Some(key.as_str()))),
            },
        );
    }
}

#[test]
fn a_missing_pack_is_named_with_all_it_hits() {
    let fixture = Fixture::new();
    for key in fixture.keys().into_iter().filter(|key| kind_of(key).is_some()) {
        fixture.without(&key, || {
            let damage = fixture.assert_one(&fixture.check(false), &key);
            assert!(damage.missing && !damage.hits.is_empty(), "every pack here is needed: {damage:?}");
            assert_eq!(damage.what, "it is gone");
            assert_eq!(fixture.check(true).damages, [damage]);
        });
    }
}

#[test]
fn a_flipped_chunk_is_found_by_reading_and_left_open_without() {
    let fixture = Fixture::new();
    let key = fixture.key(keys::PACKS, |_| true);
    fixture.with(&key, flip(100), || {
        let report = fixture.check(false);
        assert_eq!(report.damages, []);
        assert_eq!(report.not_read[0].bytes, report.data_bytes, "and says so");
        let damage = fixture.assert_one(&fixture.check(true), &key);
        assert_eq!((damage.kind, damage.missing), (DamageKind::Pack, false));
        assert_eq!(damage.what, "chunk 0 in it does not verify");
        assert!(!damage.hits.is_empty());
    });
}

#[test]
fn a_pack_whose_own_index_is_damaged_loses_nothing_and_check_proves_it() {
    let fixture = Fixture::new();
    let sealed_index = 64 + 16 + 30;
    for prefix in [keys::PACKS, keys::META] {
        let key = fixture.key(prefix, |_| true);
        let changes: [(&str, Box<dyn Fn(&mut Vec<u8>)>); 5] = [
            ("header", Box::new(flip(20))),
            ("table", Box::new(flip_from_end(sealed_index))),
            ("trailer", Box::new(flip_from_end(30))),
            ("end", Box::new(|bytes| bytes.push(0))),
            ("tail", Box::new(|bytes| bytes.truncate(bytes.len() - 64))),
        ];
        for (what, change) in changes {
            fixture.with(&key, change, || {
                let report = fixture.check(false);
                let damage = fixture.assert_one(&report, &key);
                assert_eq!(damage.hits, [], "{what}");
                assert_eq!(report.read_bytes > 0, prefix == keys::PACKS, "its chunks were read to know that");
                assert_eq!(fixture.check(true).damages, [damage]);
            });
        }
    }
}

#[test]
fn a_damaged_trailer_does_not_hide_a_damaged_chunk() {
    let fixture = Fixture::new();
    let key = fixture.key(keys::PACKS, |_| true);
    let both = |bytes: &mut Vec<u8>| {
        flip(100)(bytes);
        flip_from_end(30)(bytes);
    };
    fixture.with(&key, both, || {
        let damage = fixture.assert_one(&fixture.check(false), &key);
        assert!(
            damage.what.contains("trailer") && damage.what.ends_with("chunk 0 in it does not verify"),
            "{damage:?}"
        );
        assert!(!damage.hits.is_empty());
    });
}

#[test]
fn a_pack_in_the_place_of_another_is_found() {
    let fixture = Fixture::new();
    let packs: Vec<Key> = fixture.keys().into_iter().filter(|key| kind_of(key) == Some(PackKind::Data)).collect();
    let other = fs::read(fixture.path(&packs[1])).unwrap();
    fixture.with(
        &packs[0],
        |bytes| *bytes = other,
        || {
            let damage = fixture.assert_one(&fixture.check(false), &packs[0]);
            assert!(damage.what.contains("belongs to another pack"), "{damage:?}");
            assert!(!damage.hits.is_empty());
        },
    );
}

#[test]
fn a_damaged_node_hits_all_below_it() {
    let fixture = Fixture::new();
    let beta = &fixture.snapshots[3].0;
    let meta = fixture.key(keys::META, |key| keys::parse_pack(key).is_some_and(|id| id.session == beta.id));
    // Nodes stand in the order they were completed: two leaves, then what is above them comes later.
    fixture.with(&meta, flip(80), || {
        let damage = fixture.assert_one(&fixture.check(false), &meta);
        assert_eq!((damage.kind, damage.what.as_str()), (DamageKind::Map, "map node 0 in it does not verify"));
        // The first leaf of beta: 128 chunks, of which three are not zero; the second snapshot has another first leaf.
        let hits: Vec<_> = damage.hits.iter().map(|hit| (hit.snapshot, hit.ranges.clone())).collect();
        assert_eq!(hits, [(beta.id, vec![0..128 * UNIT as u64])]);
    });
    fixture.without(&meta, || {
        let damage = fixture.assert_one(&fixture.check(false), &meta);
        assert!(damage.hits[0].whole, "all that is above leaves is gone too");
    });
}

#[test]
fn a_damaged_snapshot_is_named_with_its_volume_and_the_others_are_checked() {
    let fixture = Fixture::new();
    for (n, (snapshot, _)) in fixture.snapshots.iter().enumerate() {
        let key = keys::snap(&snapshot.volume, &snapshot.id);
        fixture.with(&key, flip(40), || {
            let report = fixture.check(false);
            let [damage] = &report.damages[..] else { panic!("{n}: {:?}", report.damages) };
            assert_eq!((&damage.object, damage.kind, damage.missing), (&key, DamageKind::Snapshot, false));
            let [hit] = &damage.hits[..] else { panic!("{damage:?}") };
            assert_eq!((hit.snapshot, hit.volume, hit.whole), (snapshot.id, snapshot.volume, true));
            assert_eq!(
                hit.name.as_deref(),
                Some(snapshot.record.name.as_str()),
                "told by the session, if by nobody else"
            );
            assert_eq!(report.snapshots, 5);
        });
    }
    let (gamma, _) = &fixture.snapshots[5];
    let key = keys::snap(&gamma.volume, &gamma.id);
    let open = keys::session(&gamma.id, "open");
    fixture.without(&open, || {
        fixture.with(&key, |bytes| bytes.clear(), || assert_eq!(fixture.check(false).damages[0].hits[0].name, None));
    });
}

#[test]
fn records_that_no_snapshot_needs_hit_none() {
    let fixture = Fixture::new();
    let cases = [
        (keys::IDX, "", DamageKind::Index),
        (keys::SESS, "open", DamageKind::Session),
        (keys::SESS, "seen-00000000", DamageKind::Session),
        (keys::SESS, "beat", DamageKind::Session),
        (keys::FORGET, "settled", DamageKind::Forget),
        (keys::GEN, "00000001", DamageKind::Generation),
    ];
    for (prefix, end, kind) in cases {
        let key = fixture.key(prefix, |key| key.as_str().ends_with(end));
        let aside = fixture.key(prefix, |key| key.as_str().ends_with(end));
        let other = fs::read(fixture.path(&fixture.key(keys::SNAP, |_| true))).unwrap();
        for change in [Box::new(flip(20)) as Box<dyn Fn(&mut Vec<u8>)>, Box::new(move |bytes| *bytes = other.clone())] {
            fixture.with(&key, change, || {
                let damage = fixture.assert_one(&fixture.check(false), &aside);
                assert_eq!((damage.kind, damage.hits, damage.missing), (kind, vec![], false));
            });
        }
    }
}

#[test]
fn damaged_ways_in() {
    let fixture = Fixture::new();
    let (first, second) = (keys::slot(0), fixture.key(keys::KEYS, |key| *key != keys::slot(0)));
    for key in [&first, &second] {
        fixture.with(key, flip(60), || {
            let damage = fixture.assert_one(&fixture.check(false), key);
            assert_eq!((damage.kind, damage.hits), (DamageKind::KeySlot, vec![]));
        });
    }
    fixture.without(&second, || {
        fixture.with(&first, flip(60), || {
            let e = fixture.open().unwrap_err();
            assert_eq!((e.kind(), e.object()), (ErrorKind::Corrupt, Some(first.as_str())));
        });
    });
    for key in [keys::repo(), keys::config(0)] {
        fixture.with(&key, flip(30), || {
            let e = fixture.open().unwrap_err();
            assert_eq!((e.kind(), e.object()), (ErrorKind::Corrupt, Some(key.as_str())));
        });
    }
}

#[test]
fn only_what_the_named_snapshots_need() {
    let fixture = Fixture::new();
    let (gamma, _) = &fixture.snapshots[5];
    let mine = fixture.key(keys::PACKS, |key| keys::parse_pack(key).is_some_and(|id| id.session == gamma.id));
    let other = fixture.key(keys::PACKS, |key| keys::parse_pack(key).is_some_and(|id| id.session != gamma.id));
    let only = |read_data| CheckOptions { snapshots: vec![gamma.id], read_data, ..CheckOptions::default() };
    fixture.without(&other, || {
        let report = check(&fixture.open().unwrap(), &only(Some(ReadData::default())));
        assert_eq!((report.damages.len(), report.snapshots, report.packs, report.chunks), (0, 1, 1, 4));
        assert_eq!(report.read_bytes, report.data_bytes);
    });
    fixture.without(&mine, || {
        let report = check(&fixture.open().unwrap(), &only(None));
        fixture.assert_one(&report, &mine);
    });
    let unknown = CheckOptions { snapshots: vec![wherry_repo::SnapshotId::new([9; 16])], ..CheckOptions::default() };
    let e = fixture.repository.check(&unknown, &|_, _, _| Ok(())).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSnapshot);
    let key = keys::snap(&gamma.volume, &gamma.id);
    fixture.with(&key, flip(40), || {
        let report = check(&fixture.open().unwrap(), &only(None));
        assert_eq!((report.damages.len(), &report.damages[0].object), (1, &key));
    });
}

#[test]
fn a_sample_and_an_age_limit_say_what_they_left_out() {
    let fixture = Fixture::new();
    let repository = fixture.open().unwrap();
    let packs = fixture.check(false).not_read[0].packs;
    let read =
        |share, max_age| CheckOptions { read_data: Some(ReadData { share, max_age }), ..CheckOptions::default() };
    let report = check(&repository, &read(0.5, None));
    assert_eq!((report.not_read.len(), report.not_read[0].reason), (1, NotReadReason::Sample));
    assert!(2 * report.read_bytes >= report.data_bytes, "at least the share is read");
    assert!(report.not_read[0].packs > 0 && report.not_read[0].packs < packs);
    assert_eq!(report.read_bytes + report.not_read[0].bytes, report.data_bytes);
    // With so few packs two samples are often the same; that 64 in a row are is not going to be seen.
    let another = |_| check(&repository, &read(0.5, None)).not_read[0].bytes != report.not_read[0].bytes;
    assert!((0..64).any(another), "another sample each time, where nothing is noted");

    let old = fixture.key(keys::PACKS, |_| true);
    // An object is no older than its name: it is for the others to be younger.
    let clock = &repository.components().clock;
    let today = Duration::from_nanos(wherry_repo::Clock::now(&wherry_repo::System::default()).0 as u64);
    clock.sleep(today + Duration::from_secs(3000) - Duration::from_nanos(clock.now().0 as u64));
    for key in fixture.keys().iter().filter(|key| **key != old) {
        let time = std::time::UNIX_EPOCH + today + Duration::from_secs(2990);
        fs::File::options().write(true).open(fixture.path(key)).unwrap().set_modified(time).unwrap();
    }
    let due = read(1.0, Some(Duration::from_secs(1000)));
    for snapshots in [vec![], fixture.snapshots.iter().map(|(s, _)| s.id).collect()] {
        let report = check(&repository, &CheckOptions { snapshots, ..due.clone() });
        assert_eq!(
            (report.not_read.len(), report.not_read[0].reason, report.not_read[0].packs),
            (1, NotReadReason::Younger, packs - 1)
        );
    }
}

#[test]
fn many_faults_at_once_give_one_report_whatever_the_threads_and_the_memory() {
    let fixture = Fixture::new();
    let mut state = 3;
    for key in fixture.keys().into_iter().filter(|key| kind_of(key).is_some()) {
        let path = fixture.path(&key);
        let mut bytes = fs::read(&path).unwrap();
        let at = (splitmix(&mut state) % bytes.len() as u64) as usize;
        match splitmix(&mut state) % 5 {
            0 => bytes.truncate(at),
            1 => fs::remove_file(&path).unwrap(),
            2 | 3 => bytes[at] ^= 1,
            _ => {}
        }
        if path.exists() {
            fs::write(path, bytes).unwrap();
        }
    }
    let options = |threads, memory| CheckOptions {
        read_data: Some(ReadData::default()),
        threads,
        memory,
        ..CheckOptions::default()
    };
    let report = check(&fixture.open().unwrap(), &options(1, 64 << 20));
    for (threads, memory) in [(1, 0), (7, 64 << 20), (7, 0), (7, 1000)] {
        assert_eq!(check(&fixture.open().unwrap(), &options(threads, memory)), report);
    }
    // Together the damages name exactly what cannot be read.
    for ((snapshot, _), lost) in fixture.snapshots.iter().zip(fixture.unreadable()) {
        let mut named: Vec<Range<u64>> = report
            .damages
            .iter()
            .flat_map(|damage| &damage.hits)
            .filter(|hit| hit.snapshot == snapshot.id)
            .flat_map(|hit| hit.ranges.clone())
            .collect();
        named.sort_by_key(|range| (range.start, range.end));
        let merged = named.into_iter().fold(Vec::<Range<u64>>::new(), |mut all, range| {
            match all.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => all.push(range),
            }
            all
        });
        assert_eq!(merged, lost, "{}", snapshot.record.name);
    }
}

#[test]
fn a_run_that_was_broken_off_leaves_packs_that_are_no_damage() {
    let fixture = Fixture::new();
    let options = wherry_repo::WriterOptions { pack_size: 192 << 10, ..options("delta") };
    let writer = SnapshotWriter::start(&fixture.repository, index(), &options).unwrap();
    let mut scratch = writer.scratch().unwrap();
    for n in 0..40 {
        writer.put(&mut scratch, n, &noise(n, UNIT)).unwrap();
    }
    writer.abandon().unwrap();
    let report = fixture.check(true);
    assert_eq!(report.damages, []);
    let packs = fixture.keys().iter().filter(|key| kind_of(key) == Some(PackKind::Data)).count() as u64;
    assert!(report.unused_packs > 1 && report.unused_bytes > 40 * UNIT as u64, "{report:?}");
    assert!(report.unused_packs < packs);
    // And a check can be stopped.
    let stop = |_, _, _| Err(Error::new(ErrorKind::Cancelled, "enough"));
    assert_eq!(fixture.repository.check(&CheckOptions::default(), &stop).unwrap_err().kind(), ErrorKind::Cancelled);
}

/// The advice for what is gone or damaged: the next backup, by a process that believes the index, is whole.
#[test]
fn the_next_backup_stores_anew_what_is_missing() {
    for prefix in [keys::PACKS, keys::META] {
        let mut fixture = Fixture::new();
        let alpha = fixture.snapshots[2].clone();
        let mine = |key: &Key| keys::parse_pack(key).is_some_and(|id| id.session == fixture.snapshots[0].0.id);
        let key = fixture.key(prefix, mine);
        fs::remove_file(fixture.path(&key)).unwrap();
        let index = index();
        index.synchronise(&fixture.repository, true).unwrap();
        fixture.backup("alpha", &index, &alpha.1);
        let (healed, disk) = &fixture.snapshots[6];
        assert_eq!(unreadable(&fixture.open().unwrap(), healed, disk), []);
        // Older snapshots find by id what was stored anew; what only they have is still lost.
        let report = fixture.check(true);
        if report.damages.is_empty() {
            assert!(fixture.unreadable().iter().all(Vec::is_empty));
        } else {
            let damage = fixture.assert_one(&report, &key);
            assert!(damage.hits.iter().all(|hit| hit.snapshot != healed.id));
        }
        assert!(prefix == keys::META || report.moved_chunks > 0, "{report:?}");
    }
}

#[test]
fn the_next_backup_does_not_build_on_a_damaged_node() {
    let mut fixture = Fixture::new();
    let alpha = fixture.snapshots[2].clone();
    let mine = |key: &Key| keys::parse_pack(key).is_some_and(|id| id.session == alpha.0.id);
    let key = fixture.key(keys::META, mine);
    let path = fixture.path(&key);
    let mut bytes = fs::read(&path).unwrap();
    flip(80)(&mut bytes);
    fs::write(&path, bytes).unwrap();
    fixture.backup("alpha", &index(), &alpha.1);
    let (healed, disk) = &fixture.snapshots[6];
    assert_eq!(unreadable(&fixture.open().unwrap(), healed, disk), []);
    fixture.assert_one(&fixture.check(true), &key);
}
