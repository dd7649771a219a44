//! F1 to F15 of the crash points, each a row that says what becomes of the snapshots.

use super::*;

const DAY: i64 = 86_400;
/// Long after 1970.
const NOW: i64 = 20_000 * DAY;

fn days(n: i64) -> Time {
    Time(NOW + n * DAY)
}

fn backup(name: &str) -> Backup {
    let text = |text: &str| text.to_owned();
    Backup { cluster: text("here"), namespace: text("velero"), name: text(name), uid: format!("uid-{name}") }
}

/// Of this backup, which expires in 30 days.
fn snap_of(id: &str, backup: Backup) -> Snap {
    Snap { id: id.to_owned(), backup: Some(backup), expires: Some(days(30)), tombstone: false }
}

fn snap(name: &str) -> Snap {
    snap_of(name, backup(name))
}

fn expired(name: &str) -> Snap {
    Snap { expires: Some(days(-1)), ..snap(name) }
}

fn elsewhere(cluster: &str, namespace: &str, name: &str) -> Snap {
    snap_of(name, Backup { cluster: cluster.to_owned(), namespace: namespace.to_owned(), ..backup(name) })
}

fn evidence() -> Evidence {
    Evidence {
        now: Time(NOW),
        cluster: "here".to_owned(),
        namespace: "velero".to_owned(),
        missing_for: Duration::from_secs(14 * 86_400),
        ..Evidence::default()
    }
}

fn stored(name: &str) -> Stored {
    Stored { name: name.to_owned(), uid: Some(format!("uid-{name}")) }
}

fn in_store(names: &[&str]) -> Evidence {
    Evidence { stored: names.iter().map(|name| stored(name)).collect(), ..evidence() }
}

fn in_api(name: &str) -> Evidence {
    Evidence { api: BTreeMap::from([(format!("uid-{name}"), name.to_owned())]), ..evidence() }
}

fn missing_since(snap: &Snap, since: Time, of: Evidence) -> Evidence {
    Evidence { missing: BTreeMap::from([(snap.backup.as_ref().unwrap().key(), since)]), ..of }
}

fn seen_deleting(name: &str, of: Evidence) -> Evidence {
    Evidence { deleting: BTreeSet::from([format!("uid-{name}")]), ..of }
}

fn one(snap: &Snap, evidence: &Evidence) -> Verdict {
    decide(std::slice::from_ref(snap), evidence).verdicts[&snap.id]
}

const ALIVE: Verdict = Verdict::Keep(Why::Alive);

/// What is asked of one snapshot: the row of the crash points, the case, the snapshot, what is known, what must come of it.
type Row = (&'static str, &'static str, Snap, Evidence, Verdict);

fn rows() -> Vec<Row> {
    let b = || snap("b");
    let far = || elsewhere("there", "velero", "b");
    let gone = |days_ago: i64, of: &Snap| missing_since(of, days(-days_ago), evidence());
    let tombstone = || Snap { tombstone: true, ..b() };
    let restored = |of: Evidence| Evidence { restoring: BTreeSet::from(["b".to_owned()]), ..of };
    let of_old = snap_of("b", Backup { uid: "uid-old".to_owned(), ..backup("b") });
    let without_uid = snap_of("b", Backup { uid: String::new(), ..backup("b") });
    let far_expired = Snap { expires: Some(days(-1)), ..far() };
    let never = Snap { expires: None, ..far() };
    let long = "n".repeat(CUT);
    let cut = snap_of("b", Backup { name: format!("{long}123abc"), ..backup("b") });
    let by_hand = Snap { backup: None, ..b() };
    let far_tombstone = |snap: &Snap| Snap { tombstone: true, ..snap.clone() };
    vec![
        ("F1", "in progress: in the API alone", b(), in_api("b"), ALIVE),
        ("F1", "and expired", expired("b"), in_api("b"), ALIVE),
        ("F2", "another cluster's, just begun", far(), evidence(), Verdict::Wait),
        ("F2", "missing for long, not expired", far(), gone(100, &far()), Verdict::Wait),
        ("F2", "of a cluster that knows no expiry", never.clone(), gone(100, &never), Verdict::Wait),
        (
            "F2",
            "another namespace's",
            elsewhere("here", "v2", "b"),
            gone(100, &elsewhere("here", "v2", "b")),
            Verdict::Wait,
        ),
        ("F2", "its uid in this API says nothing", far(), in_api("b"), Verdict::Wait),
        ("F2", "expired a day ago, missing since today", far_expired.clone(), evidence(), Verdict::Wait),
        ("F2", "expired and missing for 13 days", far_expired.clone(), gone(13, &far_expired), Verdict::Wait),
        ("F2", "expired and missing for 14 days", far_expired.clone(), gone(14, &far_expired), Verdict::Forget),
        ("F2", "in the bucket", far_expired.clone(), missing_since(&far_expired, days(-99), in_store(&["b"])), ALIVE),
        ("F3", "seen Deleting, gone", b(), seen_deleting("b", evidence()), Verdict::Forget),
        ("F3", "seen Deleting, still in the bucket", b(), seen_deleting("b", in_store(&["b"])), ALIVE),
        ("F3", "seen Deleting, still in the API", b(), seen_deleting("b", in_api("b")), ALIVE),
        ("F3", "another one seen Deleting", b(), seen_deleting("c", evidence()), Verdict::Wait),
        ("F3", "another cluster's", far(), seen_deleting("b", evidence()), Verdict::Wait),
        ("F4", "gone since now", b(), evidence(), Verdict::Wait),
        ("F4", "gone for 13 days", b(), gone(13, &b()), Verdict::Wait),
        ("F4", "gone for 14 days", b(), gone(14, &b()), Verdict::Forget),
        ("F4", "gone and expired", expired("b"), evidence(), Verdict::Forget),
        ("F5", "failed, the CR lives", b(), in_api("b"), ALIVE),
        ("F5", "failed, the CR is gone", b(), gone(1, &b()), Verdict::Wait),
        ("F9", "the CR has another uid now", b(), Evidence { api: in_api("c").api, ..in_store(&["b"]) }, ALIVE),
        ("F9", "the CR is not there for a moment", b(), missing_since(&b(), days(-99), in_store(&["b"])), ALIVE),
        (
            "F10",
            "the name is another's",
            of_old.clone(),
            missing_since(&of_old, days(-14), in_store(&["b"])),
            Verdict::Forget,
        ),
        ("F10", "the new one", b(), in_store(&["b"]), ALIVE),
        (
            "F10",
            "whose it is cannot be read",
            of_old.clone(),
            missing_since(
                &of_old,
                days(-14),
                Evidence { stored: vec![Stored { name: "b".into(), uid: None }], ..evidence() },
            ),
            ALIVE,
        ),
        (
            "F10",
            "a snapshot without a uid",
            without_uid.clone(),
            missing_since(&without_uid, days(-99), in_store(&["b"])),
            ALIVE,
        ),
        ("F10", "without a uid, in the API", without_uid, Evidence { api: in_api("b").api, ..evidence() }, ALIVE),
        ("F11", "back in the bucket", tombstone(), in_store(&["b"]), Verdict::Undo),
        ("F11", "back in the API", tombstone(), in_api("b"), Verdict::Undo),
        ("F11", "not back", tombstone(), gone(20, &b()), Verdict::Settle),
        ("F2", "another cluster's tombstone, just seen", far_tombstone(&far()), evidence(), Verdict::Gone),
        (
            "F2",
            "another cluster's tombstone, missing for long",
            far_tombstone(&far()),
            gone(100, &far()),
            Verdict::Gone,
        ),
        ("F2", "and expired a day ago", far_tombstone(&far_expired), gone(13, &far_expired), Verdict::Gone),
        ("F2", "and for 14 days", far_tombstone(&far_expired), gone(14, &far_expired), Verdict::Settle),
        ("F2", "and in the bucket", far_tombstone(&far_expired), in_store(&["b"]), Verdict::Undo),
        ("F2", "of a cluster that knows no expiry", far_tombstone(&never), gone(100, &never), Verdict::Gone),
        ("F12", "being restored", b(), restored(gone(20, &b())), Verdict::Keep(Why::Restoring)),
        (
            "F12",
            "seen Deleting, being restored",
            b(),
            restored(seen_deleting("b", evidence())),
            Verdict::Keep(Why::Restoring),
        ),
        ("F12", "restored from a tombstone", tombstone(), restored(gone(20, &b())), Verdict::Undo),
        ("F13", "of a DataUpload that is gone", b(), in_store(&["b"]), ALIVE),
        ("F15", "first absence lost", b(), evidence(), Verdict::Wait),
        ("-", "made by hand, and forgotten", Snap { tombstone: true, ..by_hand.clone() }, evidence(), Verdict::Gone),
        ("-", "made by hand", by_hand, evidence(), Verdict::Keep(Why::NoBackup)),
        (
            "-",
            "a cut name, in the bucket",
            cut.clone(),
            missing_since(
                &cut,
                days(-99),
                Evidence { stored: vec![Stored { name: "n".repeat(80), uid: None }], ..evidence() },
            ),
            ALIVE,
        ),
        ("-", "a cut name, nowhere", cut.clone(), gone(99, &cut), Verdict::Wait),
        ("-", "a cut name, seen Deleting", cut.clone(), seen_deleting("b", evidence()), Verdict::Forget),
        ("-", "a cut name, expired", Snap { expires: Some(days(-1)), ..cut.clone() }, gone(14, &cut), Verdict::Forget),
    ]
}

#[test]
fn each_row_comes_out_as_the_crash_points_say() {
    for (row, case, snap, evidence, expected) in rows() {
        assert_eq!(one(&snap, &evidence), expected, "{row}: {case}");
    }
}

/// F6, and the share: more than 5 and more than 20 %.
#[test]
fn too_much_missing_takes_nothing() {
    let all: Vec<Snap> = (0..40).map(|n| snap(&format!("b{n}"))).collect();
    let gone = |n: usize, total: usize, of: &dyn Fn(Evidence) -> Evidence| {
        let names: Vec<String> = (n..total).map(|n| format!("b{n}")).collect();
        let missing = all.iter().map(|snap| (snap.backup.as_ref().unwrap().key(), days(-14))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let evidence = of(Evidence { missing, ..in_store(&names) });
        let decided = decide(&all[..total], &evidence);
        let taken = decided.verdicts.values().filter(|verdict| **verdict == Verdict::Forget).count();
        (taken, decided.hold.map(|hold| (hold.missing, hold.of)))
    };
    let plain = |e| e;
    // F6: all of them.
    assert_eq!(gone(40, 40, &plain), (0, Some((40, 40))));
    assert_eq!(gone(10, 10, &plain), (0, Some((10, 10))));
    // Either bound alone is no reason.
    assert_eq!(gone(5, 5, &plain), (5, None));
    assert_eq!(gone(6, 6, &plain), (0, Some((6, 6))));
    assert_eq!(gone(8, 40, &plain), (8, None));
    assert_eq!(gone(9, 40, &plain), (0, Some((9, 40))));
    // Held at once, not only when they are due.
    assert_eq!(gone(9, 40, &|e| Evidence { missing: BTreeMap::new(), ..e }), (0, Some((9, 40))));
    // Also those that were seen Deleting.
    let deleting = all.iter().map(|snap| snap.backup.clone().unwrap().uid).collect::<BTreeSet<_>>();
    assert_eq!(gone(9, 40, &|e| Evidence { deleting: deleting.clone(), ..e }), (0, Some((9, 40))));
    // A human's word about all that was missing then; not one about a time to come, and not one of before.
    let word = |at: Time| move |e| Evidence { accepted: Some(at), ..e };
    assert_eq!(gone(40, 40, &word(days(-14))), (40, None));
    assert_eq!(gone(40, 40, &word(days(-15))), (0, Some((40, 40))));
    assert_eq!(gone(40, 40, &word(days(1))), (0, Some((40, 40))));
}

/// After the word it is as F4 says: nothing that has not been missing for 14 days.
#[test]
fn a_humans_word_shortens_no_wait() {
    let all: Vec<Snap> = (0..10).map(|n| snap(&format!("b{n}"))).collect();
    let missing = all.iter().map(|snap| (snap.backup.as_ref().unwrap().key(), days(-13))).collect();
    let decided = decide(&all, &Evidence { missing, accepted: Some(Time(NOW)), ..evidence() });
    assert_eq!(decided.hold, None);
    assert!(decided.verdicts.values().all(|verdict| *verdict == Verdict::Wait), "{decided:?}");
}

/// Expired ones, others' and those that have a tombstone are not counted; but nothing at all goes while on hold.
#[test]
fn only_own_unexpired_backups_count_for_the_share() {
    let mut all: Vec<Snap> = (0..6).map(|n| snap(&format!("b{n}"))).collect();
    let far = |n: usize| Snap { expires: Some(days(-1)), ..elsewhere("there", "velero", &format!("far{n}")) };
    all.extend((0..90).map(|n| expired(&format!("old{n}"))));
    all.extend((0..90).map(far));
    all.extend((0..90).map(|n| Snap { tombstone: true, ..snap(&format!("dead{n}")) }));
    let decided = decide(&all, &evidence());
    assert_eq!(decided.hold, Some(Hold { missing: 6, of: 6, latest: Time(NOW) }));
    assert!(decided.verdicts.values().all(|verdict| *verdict != Verdict::Forget));
    assert_eq!(decided.verdicts["old1"], Verdict::Keep(Why::Hold));
    let decided = decide(&all[1..], &evidence());
    assert_eq!((decided.hold.clone(), decided.verdicts["old1"]), (None, Verdict::Forget));
    let far: Vec<Snap> = (0..6).map(|n| elsewhere("there", "velero", &format!("far{n}"))).collect();
    assert_eq!(decide(&far, &evidence()).hold, None);
    // Undone all the same: that takes nothing.
    let back = Evidence { stored: vec![stored("dead1")], ..evidence() };
    assert_eq!(decide(&all, &back).verdicts["dead1"], Verdict::Undo);
}

/// F4 and F15: what is remembered, and for how long.
#[test]
fn first_absences_are_remembered_until_the_backup_is_back() {
    let b = snap("b");
    let key = b.backup.as_ref().unwrap().key();
    let first = decide(std::slice::from_ref(&b), &evidence());
    assert_eq!(first.missing, BTreeMap::from([(key.clone(), Time(NOW))]));
    let later = Evidence { now: days(3), missing: first.missing.clone(), ..evidence() };
    assert_eq!(decide(std::slice::from_ref(&b), &later).missing, first.missing);
    let back = Evidence { missing: first.missing, ..in_store(&["b"]) };
    assert_eq!(decide(std::slice::from_ref(&b), &back).missing, BTreeMap::new());
    // Of a backup that has no snapshot any more nothing is kept.
    assert_eq!(decide(&[], &later).missing, BTreeMap::new());
}

/// Of one name, or of one uid in two clusters, each has an absence of its own.
#[test]
fn one_absence_is_not_taken_for_that_of_another() {
    let old = snap_of("old", Backup { uid: "uid-old".to_owned(), ..backup("b") });
    let far = || Snap { id: "far".into(), expires: Some(days(-1)), ..elsewhere("there", "velero", "b") };
    let decided = decide(&[snap("b"), old.clone(), far()], &missing_since(&old, days(-14), evidence()));
    assert_eq!([decided.verdicts["b"], decided.verdicts["old"]], [Verdict::Wait, Verdict::Forget]);
    assert_eq!(decided.missing.len(), 3);
    let own = missing_since(&snap("b"), days(-14), evidence());
    assert_eq!(decide(&[far()], &own).verdicts["far"], Verdict::Wait);
}

/// A backup is as old as the last of its snapshots says.
#[test]
fn one_snapshot_that_is_wanted_longer_keeps_all_of_its_backup() {
    let second = Snap { id: "second".into(), ..snap("b") };
    for both in [[expired("b"), second.clone()], [second, expired("b")]] {
        let decided = decide(&both, &evidence());
        assert!(decided.verdicts.values().all(|verdict| *verdict == Verdict::Wait), "{decided:?}");
    }
}

/// F14: what one Job has done changes nothing of what the other one decided.
#[test]
fn the_second_of_two_comes_to_the_same() {
    let all = [expired("a"), expired("b"), snap("c")];
    let first = decide(&all, &in_store(&["c"]));
    let wanted: Vec<&String> =
        first.verdicts.iter().filter(|(_, v)| **v == Verdict::Forget).map(|(id, _)| id).collect();
    assert_eq!(wanted, ["a", "b"]);
    // The first one died after one tombstone.
    let half = [Snap { tombstone: true, ..expired("a") }, expired("b"), snap("c")];
    let second = decide(&half, &in_store(&["c"]));
    assert_eq!(
        [second.verdicts["a"], second.verdicts["b"], second.verdicts["c"]],
        [Verdict::Settle, Verdict::Forget, ALIVE]
    );
    assert_eq!(second.missing, first.missing);
}

/// F8. That another repository is not looked at, F7, is the word of whoever opens it.
#[test]
fn a_location_that_is_not_as_it_should_be_is_not_looked_at() {
    for mode in ["", "ReadWrite"] {
        for ahead in [-300, 0, 300] {
            assert_eq!(refusal("Available", mode, ahead), None);
        }
    }
    for (phase, mode, ahead, words) in [
        ("Unavailable", "", 0, "not Available"),
        ("", "", 0, "not Available"),
        ("Available", "ReadOnly", 0, "ReadOnly"),
        ("Available", "", 301, "differ by 301 s"),
        ("Available", "", -301, "differ by 301 s"),
    ] {
        let said = refusal(phase, mode, ahead).unwrap_or_default();
        assert!(said.contains(words), "{phase} {mode} {ahead}: {said:?}");
    }
}

#[test]
fn whose_a_folder_is_is_asked_only_where_it_matters() {
    let unread = |name: &str| Stored { name: name.to_owned(), uid: None };
    let known = Evidence { stored: vec![unread("a"), unread("b"), unread("c")], ..in_api("a") };
    assert_eq!(doubtful(&[snap("a"), snap("b"), snap("d")], &known), BTreeSet::from(["b".to_owned()]));
}

/// The one that makes room is not kept from it by there being none.
#[test]
fn a_full_storage_keeps_no_gc_from_its_work() {
    let error = |kind| Err(wherry_repo::Error::new(kind, "why"));
    let of = |kind, time| ahead(kind, Time(NOW), time).map_err(|e| e.kind());
    assert_eq!(of(JobKind::Gc, error(ErrorKind::Full)), Ok(0));
    assert_eq!(of(JobKind::Forget, error(ErrorKind::Full)), Err(ErrorKind::Full));
    assert_eq!(of(JobKind::Gc, error(ErrorKind::Unavailable)), Err(ErrorKind::Unavailable));
    let behind = || Ok(Timestamp((NOW - 400) * 1_000_000_000));
    assert_eq!((of(JobKind::Gc, behind()), of(JobKind::Forget, behind())), (Ok(400), Ok(400)));
}
