use super::*;

fn snapshot(id: &str, volume: &str, time: i64) -> Summary {
    let id = format!("{id:0<32}").parse().unwrap();
    Summary {
        id,
        volume: volume.to_owned(),
        time: Timestamp(time),
        made: Made { id, started: Timestamp(time), ended: Timestamp(time), parent: None },
        copied: false,
        tags: BTreeMap::new(),
        partial: false,
        forgotten: false,
        damaged: false,
    }
}

fn resolve(spec: &str, snapshots: &[Summary]) -> Result<String> {
    let spec: SnapSpec = spec.parse().map_err(Error::invalid)?;
    spec.resolve(snapshots).map(|s| s.id.to_string().trim_end_matches('0').to_owned())
}

#[test]
fn words() {
    let id = "0123456789abcdef0123456789abcdef";
    assert_eq!(id.parse(), Ok(SnapSpec::Id(id.parse().unwrap())));
    assert_eq!(id.to_uppercase().parse(), Ok(SnapSpec::Id(id.parse().unwrap())));
    assert_eq!("0123".parse(), Ok(SnapSpec::Prefix("0123".into())));
    assert_eq!("latest".parse(), Ok(SnapSpec::Latest));
    assert_eq!("latest:vm 1".parse(), Ok(SnapSpec::LatestOf("vm 1".into())));
    for wrong in ["", "012", "xyzw", "latest:", "Latest", "0123456789abcdef0123456789abcdef0", "-", "01 23"] {
        assert!(wrong.parse::<SnapSpec>().is_err(), "{wrong:?} was taken for a snapshot");
    }
    for spec in [id, "0123", "latest", "latest:vm 1"] {
        assert_eq!(spec.parse::<SnapSpec>().unwrap().to_string(), spec);
    }
}

#[test]
fn ids_and_prefixes() {
    let all = [snapshot("abcd1", "a", 1), snapshot("abcd2", "a", 2), snapshot("1234", "b", 3)];
    assert_eq!(resolve("abcd1", &all).unwrap(), "abcd1");
    assert_eq!(resolve(&format!("{:0<32}", "abcd2"), &all).unwrap(), "abcd2");
    let several = resolve("abcd", &all).unwrap_err();
    assert_eq!(several.kind(), ErrorKind::Invalid);
    assert!(several.to_string().contains(&format!("{:0<32}, {:0<32}", "abcd1", "abcd2")), "{several}");
    assert_eq!(resolve("ffff", &all).unwrap_err().kind(), ErrorKind::NoSnapshot);
    assert_eq!(resolve(&"f".repeat(32), &all).unwrap_err().kind(), ErrorKind::NoSnapshot);
}

#[test]
fn latest_is_the_newest_of_the_only_volume() {
    let all = [snapshot("aaaa", "a", 5), snapshot("bbbb", "a", 9), snapshot("cccc", "a", 7)];
    assert_eq!(resolve("latest", &all).unwrap(), "bbbb");
    assert_eq!(resolve("latest", &[]).unwrap_err().kind(), ErrorKind::NoSnapshot);
}

#[test]
fn bare_latest_names_several_volumes() {
    let all = [snapshot("aaaa", "vm1", 5), snapshot("bbbb", "vm2", 9)];
    let error = resolve("latest", &all).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("latest:vm1, latest:vm2"), "{error}");
    assert_eq!(resolve("latest:vm1", &all).unwrap(), "aaaa");
    let error = resolve("latest:vm3", &all).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSnapshot);
    assert!(error.to_string().contains("vm1, vm2"), "{error}");
}

#[test]
fn partial_and_forgotten_are_never_latest_but_have_ids() {
    let mut all = [snapshot("aaaa", "a", 5), snapshot("bbbb", "a", 9), snapshot("cccc", "b", 7)];
    all[1].partial = true;
    all[2].forgotten = true;
    assert_eq!(resolve("latest", &all).unwrap(), "aaaa");
    assert_eq!(resolve("latest:b", &all).unwrap_err().kind(), ErrorKind::NoSnapshot);
    assert_eq!(resolve("bbbb", &all).unwrap(), "bbbb");
    assert_eq!(resolve("cccc", &all).unwrap(), "cccc");
}

#[test]
fn where_there_are_only_partial_ones_the_newest_is_named() {
    let mut all = [snapshot("aaaa", "a", 5), snapshot("bbbb", "a", 9), snapshot("cccc", "b", 7)];
    (all[0].partial, all[1].partial) = (true, true);
    let error = resolve("latest:a", &all).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSnapshot);
    assert!(error.to_string().contains("only partial") && error.to_string().contains("bbbb"), "{error}");
    all[2].partial = true;
    let error = resolve("latest", &all).unwrap_err().to_string();
    assert!(error.contains("only partial") && error.contains("bbbb"), "{error}");
    all.iter_mut().for_each(|snapshot| snapshot.forgotten = true);
    assert_eq!(resolve("latest", &all).unwrap_err().to_string(), "there is no snapshot yet");
}

#[test]
fn snapshots_of_one_moment_have_an_order() {
    let all = [snapshot("bbbb", "a", 5), snapshot("aaaa", "a", 5)];
    assert_eq!(resolve("latest", &all).unwrap(), "bbbb");
}

#[test]
fn volumes_are_named_all_and_long_lists_of_snapshots_are_cut() {
    let all: Vec<_> = (0..14).map(|n| snapshot(&format!("aaaa{n:x}"), &format!("vm{n:02}"), n)).collect();
    let error = resolve("latest", &all).unwrap_err().to_string();
    assert!(error.ends_with("latest:vm12, latest:vm13"), "{error}");
    let error = resolve("aaaa", &all).unwrap_err().to_string();
    assert!(error.contains("and 4 more"), "{error}");
}

#[test]
fn ids_are_shown_as_long_as_they_need_to_be() {
    let digits = |ids: &[&str]| unique_digits(ids.iter().map(|id| format!("{id:0<32}").parse().unwrap()));
    assert_eq!(digits(&[]), 8);
    assert_eq!(digits(&["abcd", "abce"]), 8);
    assert_eq!(digits(&["123456789a", "123456789b", "ff"]), 10);
    assert_eq!(digits(&["abcd", "abcd"]), 8, "the same one twice");
}

fn the_rival(all: &[Summary], now: i64) -> Option<String> {
    let latest = newest(all.iter()).unwrap();
    rival(all, latest, Timestamp(now)).map(|s| s.id.to_string().trim_end_matches('0').to_owned())
}

#[test]
fn beside_one_from_the_future_any_other_may_be_newer() {
    let mut all =
        [snapshot("aaaa", "a", 5), snapshot("bbbb", "a", 9), snapshot("cccc", "a", 50), snapshot("dddd", "b", 6)];
    assert_eq!(the_rival(&all, 60), None);
    // The newest of those whose time has come.
    assert_eq!(the_rival(&all, 20).as_deref(), Some("bbbb"));
    assert_eq!(the_rival(&all, 1).as_deref(), Some("bbbb"));
    assert_eq!(the_rival(&all, 8).as_deref(), Some("aaaa"));
    // But what it was built upon is older, however wrong the clock is.
    all[2].made.parent = Some(all[1].id);
    assert_eq!(the_rival(&all, 20).as_deref(), Some("aaaa"));
    all[1].made.parent = Some(all[0].id);
    assert_eq!(the_rival(&all, 20), None);
    all[1].made.parent = None;
    all[2].made.parent = None;
    all[0].partial = true;
    all[1].forgotten = true;
    assert_eq!(the_rival(&all, 20), None);
}

#[test]
fn what_was_built_upon_the_latest_may_be_newer() {
    let all = [snapshot("aaaa", "a", 5), snapshot("bbbb", "a", 7), snapshot("cccc", "a", 9), snapshot("dddd", "b", 6)];
    assert_eq!(the_rival(&all, 60), None);
    let upon = |all: &mut [Summary], one: usize, other: usize| all[one].made.parent = Some(all[other].id);
    let mut chain = all.clone();
    upon(&mut chain, 1, 0);
    assert_eq!(the_rival(&chain, 60), None, "what is older");
    upon(&mut chain, 0, 1);
    upon(&mut chain, 1, 2);
    assert_eq!(the_rival(&chain, 60).as_deref(), Some("bbbb"));
    // Also by what is no choice itself.
    chain[1].forgotten = true;
    assert_eq!(the_rival(&chain, 60).as_deref(), Some("aaaa"));
    // Of another volume it is none, nor one that was copied: they come in any order.
    chain[0].copied = true;
    upon(&mut chain, 3, 2);
    assert_eq!(the_rival(&chain, 60), None);
    let mut ended = all.clone();
    ended[0].made.ended = Timestamp(12);
    assert_eq!(the_rival(&ended, 60), None, "they ran at once, and the latest began last");
}
