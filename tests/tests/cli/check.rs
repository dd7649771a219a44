//! `wherry check` from outside: its exit codes, what it names, what it says it left out.

use super::harness::{Home, Ran, shape};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use wherry_tests::small::noise;

const MIB: usize = 1 << 20;

/// Two volumes; gives the ids of their snapshots and a data pack of the first.
fn home() -> (Home, String, String, PathBuf) {
    let home = Home::with_repository();
    let first = home.backup("vm one", &noise(1, 3 * MIB));
    let packs: Vec<_> = home.tree("repo/packs").into_keys().collect();
    let second = home.backup("vm2", &noise(2, MIB));
    (home, first, second, packs[0].clone())
}

fn without_time(ran: &Ran) -> Value {
    let mut value = ran.json();
    value["seconds"] = Value::Null;
    value
}

#[test]
fn a_clean_repository_is_0_and_says_what_was_not_read() {
    let (home, ..) = home();
    let ran = home.run(&["check"]).ok();
    assert!(ran.stdout.ends_with("no damage found\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("not read  4.0 MiB") && ran.stdout.contains("--read-data"), "{}", ran.stdout);
    let ran = home.run(&["check", "--read-data"]).ok();
    assert!(ran.stdout.contains("read      4.0 MiB") && !ran.stdout.contains("not read"), "{}", ran.stdout);
    let ran = home.run(&["check", "--read-data", "--max-age", "1d", "--sample", "50%", "latest:vm2"]).ok();
    assert!(ran.stdout.contains("read or written within --max-age"), "{}", ran.stdout);
    assert!(ran.stdout.contains("checked   1 snapshot, "), "{}", ran.stdout);
    let want = json!({
        "clean": "bool", "snapshots": "int", "records": "int", "packs": "int", "nodes": "int", "chunks": "int",
        "data": "int", "read": "int", "kept": "bool", "not_read": [{ "reason": "string", "packs": "int", "bytes": "int" }],
        "unused": { "packs": "int", "bytes": "int" }, "moved": { "chunks": "int", "nodes": "int" }, "trees": "int",
        "damages": [], "seconds": "float",
    });
    assert_eq!(shape(&home.run(&["check", "--json"]).ok().json()), want);
}

#[test]
fn a_missing_pack_is_13_and_the_same_with_and_without_the_cache() {
    let (home, first, second, pack) = home();
    fs::remove_file(&pack).unwrap();
    let ran = home.run(&["check"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (13, ""));
    let name = pack.file_name().unwrap().to_str().unwrap();
    for word in [name, "it is gone", "vm one", &first, "nothing of it can be read", "next backup", "1 snapshot is hit"]
    {
        assert!(ran.stdout.contains(word), "{word} is not in {}", ran.stdout);
    }
    assert!(!ran.stdout.contains(&second) && !ran.stdout.contains("no damage"), "{}", ran.stdout);

    let cached = without_time(&home.run(&["check", "--json"]));
    assert_eq!(without_time(&home.run(&["check", "--json", "--no-cache"])), cached);
    fs::remove_dir_all(home.path("cache")).unwrap();
    assert_eq!(without_time(&home.run(&["check", "--json"])), cached);
    let want = json!([{
        "object": "string", "kind": "string", "missing": "bool", "what": "string", "advice": "string",
        "hits": [{
            "snapshot": "string", "volume": "string", "volume_id": "string", "time": "string", "whole": "bool",
            "bytes": "int", "ranges": [{ "offset": "int", "length": "int" }], "more": "int",
            "entries": "int", "paths": [], "more_paths": "int",
        }],
    }]);
    assert_eq!(shape(&cached["damages"]), want);
    assert_eq!(cached["damages"][0]["hits"][0]["ranges"], json!([{ "offset": 0, "length": 3 * MIB }]));

    home.run(&["check", "latest:vm2", "--read-data"]).ok();
    assert_eq!(home.run(&["check", "latest:vm one"]).code, 13);
    // What is gone is shown with the snapshots, whoever found it.
    let damaged = || -> Vec<_> {
        let all = home.run(&["snapshots", "--json"]).ok().json();
        all.as_array().unwrap().iter().map(|s| (s["snapshot"].clone(), s["damaged"].is_string())).collect()
    };
    assert_eq!(damaged(), [(json!(first), true), (json!(second), false)]);
    fs::remove_dir_all(home.path("repo/checked")).unwrap();
    assert_eq!(home.run(&["repair"]).code, 13);
    assert_eq!(damaged(), [(json!(first), true), (json!(second), false)]);
    // What it advises helps.
    home.backup("vm one", &noise(1, 3 * MIB));
    let ran = home.run(&["check", "latest:vm one", "--read-data"]).ok();
    assert!(ran.stdout.contains("no damage found"), "{}", ran.stdout);
}

#[test]
fn a_damaged_chunk_is_13_when_it_is_read_and_its_range_is_what_cannot_be_read() {
    let (home, first, _, pack) = home();
    let mut bytes = fs::read(&pack).unwrap();
    let len = bytes.len();
    bytes[len / 2] ^= 1;
    fs::write(&pack, bytes).unwrap();
    home.run(&["check"]).ok();
    let ran = home.run(&["check", "--read-data", "--json"]);
    assert_eq!(ran.code, 13);
    let hit = ran.json()["damages"][0]["hits"][0].take();
    assert_eq!((&hit["snapshot"], &hit["whole"]), (&json!(first), &json!(false)));
    let offset = hit["ranges"][0]["offset"].as_u64().unwrap();
    let cat = |offset: u64| -> Ran {
        let offset = offset.to_string();
        home.command()
            .args(["cat", &first, "--length", "1", "--offset", &offset])
            .stdout(std::process::Stdio::null())
            .output()
            .unwrap()
            .into()
    };
    assert_eq!(cat(offset).code, 13);
    assert_eq!(cat(offset + hit["ranges"][0]["length"].as_u64().unwrap()).code, 0);
    let ran = home.run(&["check", "--read-data"]);
    assert!(ran.stdout.contains(&format!("bytes {offset} to ")), "{}", ran.stdout);
}

#[test]
fn a_damaged_snapshot_is_13_also_when_it_is_asked_for_by_its_id() {
    let (home, first, second, _) = home();
    let record = home.tree("repo/snap").into_keys().find(|path| path.ends_with(&first)).unwrap();
    let mut bytes = fs::read(&record).unwrap();
    bytes.truncate(50);
    fs::write(&record, bytes).unwrap();
    for args in [&["check"][..], &["check", &first]] {
        let ran = home.run(args);
        assert_eq!((ran.code, ran.stderr.as_str()), (13, ""), "{}", ran.stdout);
        assert!(ran.stdout.contains(&first) && ran.stdout.contains("nothing of it can be read"), "{}", ran.stdout);
    }
    home.run(&["check", &second]).ok();
    assert!(home.run(&["check", "0123456789abcdef0123456789abcdef"]).fails(14).contains("0123456789abcdef"));
}

#[test]
fn damage_of_a_tree_is_told_by_path() {
    let home = Home::with_repository();
    fs::create_dir_all(home.path("d/below")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd\xff\n");
    fs::write(home.path("d").join(odd), noise(3, 1000)).unwrap();
    fs::write(home.path("d/below/large"), noise(4, MIB)).unwrap();
    let dir = home.path("d");
    home.run(&["backup", dir.to_str().unwrap(), "--name", "files", "-q"]).ok();
    let show = home.run(&["show", "latest", "--json"]).ok().json();
    let tree = json!({
        "files": 2, "directories": 2, "others": 0, "missing": 0, "first_missing": [], "unsettled": 0,
        "filesystem": show["tree"]["filesystem"], "excluded": [],
    });
    assert_eq!((&show["kind"], &show["tree"]), (&"tree".into(), &tree));
    assert!(home.run(&["snapshots"]).ok().stdout.contains("  tree  "));
    let stats = home.run(&["stats", "--json"]).ok().json();
    assert_eq!((&stats["trees"], &stats["files"], &stats["directories"]), (&1.into(), &2.into(), &2.into()));
    let check = home.run(&["check", "--read-data", "--json"]).ok().json();
    assert_eq!((&check["clean"], &check["trees"], &check["not_read"]), (&true.into(), &1.into(), &json!([])));

    let pack = home.tree("repo/packs").into_keys().next().unwrap();
    fs::remove_file(pack).unwrap();
    let ran = home.run(&["check"]);
    assert_eq!(ran.code, 13);
    let said = "2 entries cannot be read (1.0 MiB of files), /below/large, /odd\\xff\\x0a";
    assert!(ran.stdout.contains(said), "{}", ran.stdout);
    let hit = home.run(&["check", "--json"]).json()["damages"][0]["hits"][0].take();
    let paths = json!([
        { "path": "/below/large", "itself": true, "below": 0 },
        { "path": "/odd\\xff\\x0a", "path_hex": "2f6f6464ff0a", "itself": true, "below": 0 },
    ]);
    let want = (&paths, &2.into(), &0.into(), &json!([]), &false.into());
    assert_eq!((&hit["paths"], &hit["entries"], &hit["more_paths"], &hit["ranges"], &hit["whole"]), want);
}

#[test]
fn what_a_check_read_is_known_to_the_next_one_and_shown_with_the_snapshots() {
    let (home, first, second, pack) = home();
    let states = || -> Vec<_> {
        let all = home.run(&["snapshots", "--json"]).ok().json();
        let all = all.as_array().unwrap().iter();
        all.map(|s| (s["snapshot"].clone(), s["verified"].is_string(), s["damaged"].is_string())).collect()
    };
    let want = |verified: [bool; 2], damaged: [bool; 2]| -> Vec<_> {
        [&first, &second].into_iter().enumerate().map(|(n, id)| (json!(id), verified[n], damaged[n])).collect()
    };
    home.run(&["check"]).ok();
    assert_eq!(states(), want([false; 2], [false; 2]));
    assert!(home.run(&["snapshots"]).ok().stdout.contains("  never  "));
    let ran = home.run(&["check", "latest:vm2", "--read-data", "--json"]).ok().json();
    assert_eq!((&ran["kept"], &ran["read"]), (&json!(true), &ran["data"]));
    assert_eq!(states(), want([false, true], [false; 2]));

    // What was never read comes first: so two halves are all.
    for _ in 0..2 {
        home.run(&["check", "--read-data", "--sample", "50%"]).ok();
    }
    assert_eq!(states(), want([true; 2], [false; 2]));
    let shown = home.run(&["show", "latest:vm one", "--json"]).ok().json();
    let text = home.run(&["show", "latest:vm one"]).ok().stdout;
    let time = shown["verified"].as_str().unwrap().split('T').next().unwrap();
    assert!(text.lines().any(|line| line.starts_with("verified") && line.contains(time)), "{text}");

    let mut bytes = fs::read(&pack).unwrap();
    let len = bytes.len();
    bytes[len / 2] ^= 1;
    fs::write(&pack, bytes).unwrap();
    assert_eq!(home.run(&["check", "--read-data"]).code, 13);
    assert_eq!(states(), want([false, true], [true, false]));
    assert!(home.run(&["snapshots"]).ok().stdout.contains("DAMAGED, found "));
    let text = home.run(&["show", "latest:vm one"]).ok().stdout;
    assert!(text.lines().any(|line| line.starts_with("verified") && line.contains("DAMAGED")), "{text}");
    // It was damaged the last time, so no age limit leaves it out.
    assert_eq!(home.run(&["check", "--read-data", "--max-age", "30d"]).code, 13);
}

#[test]
fn snapshots_are_listed_although_it_is_not_known_what_checks_noted() {
    let (home, first, ..) = home();
    // Nobody can list what is in a file, whoever one is.
    fs::write(home.path("repo/checked"), "").unwrap();
    let ran = home.run(&["snapshots"]).ok();
    assert!(ran.stdout.contains("  unknown  ") && !ran.stdout.contains("never"), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("what checks have noted is not known") && ran.stderr.contains("checked"),
        "{}",
        ran.stderr
    );
    assert_eq!(home.run(&["show", &first, "--json"]).ok().json()["verified"], Value::Null);
}

/// What a check found damaged is not built upon: the next backup stores it anew, and the older snapshots read it there.
#[test]
fn the_next_backup_heals_a_damaged_chunk_of_a_disk_and_of_a_directory() {
    for is_tree in [false, true] {
        let home = Home::with_repository();
        let source = match is_tree {
            true => {
                fs::create_dir_all(home.path("source/below")).unwrap();
                home.write("source/large", noise(1, 3 * MIB));
                home.write("source/below/small", noise(2, 20_000));
                home.text("source")
            }
            false => home.write("source", noise(1, 3 * MIB)),
        };
        let backup = || home.run(&["backup", &source, "--name", "v", "--json"]).ok().json();
        let first = backup()["snapshot"].as_str().unwrap().to_owned();
        let [pack] = &home.tree("repo/packs").into_keys().collect::<Vec<_>>()[..] else { panic!("several packs") };
        let mut bytes = fs::read(pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(pack, bytes).unwrap();
        assert_eq!(home.run(&["check", "--read-data"]).code, 13);
        let second = backup();
        assert!(
            second["parent"].as_str() == Some(&first) && second["stored"].as_u64().unwrap() > MIB as u64,
            "{second}"
        );
        for (n, id) in [&first, second["snapshot"].as_str().unwrap()].into_iter().enumerate() {
            let target = home.text(&format!("target{n}"));
            home.run(&["restore", id, &target]).ok();
            for file in if is_tree { &["/large", "/below/small"][..] } else { &[""] } {
                assert!(fs::read(source.clone() + file).unwrap() == fs::read(target.clone() + file).unwrap(), "{file}");
            }
        }
        let third = backup();
        assert_eq!(third["stored"], json!(0), "once is enough: {third}");
    }
}

#[test]
fn a_snapshot_whose_record_is_damaged_can_be_given_up_and_keeps_gc_from_nothing() {
    let (home, first, second, _) = home();
    let record = home.tree("repo/snap").into_keys().find(|path| path.ends_with(&first)).unwrap();
    let mut bytes = fs::read(&record).unwrap();
    let whole = bytes.clone();
    bytes[40] ^= 1;
    fs::write(&record, &bytes).unwrap();
    let said = home.run(&["gc"]).fails(13);
    assert!(said.contains(&first) && said.contains(&format!("wherry forget {first}")), "{said}");
    // Nothing but the whole id will do.
    assert!(home.run(&["forget", &first[..12]]).fails(13).contains(&first[..12]));
    assert!(home.run(&["forget", &first, "--dry-run"]).ok().stdout.contains("would be given up"));
    let ran = home.run(&["forget", &first]).ok();
    assert!(ran.stdout.contains(&format!("{first} is given up: its record cannot be read")), "{}", ran.stdout);
    assert!(home.run(&["forget", &first]).ok().stdout.contains("was given up before"));
    let back = home.run(&["unforget", &first, "--json"]).ok().json();
    assert_eq!(back[0], json!({ "snapshot": first, "volume": null, "unforgotten": true }));
    // Brought back it is as it was.
    fs::write(&record, whole).unwrap();
    home.run(&["check"]).ok();
    fs::write(&record, bytes).unwrap();
    let view = home.run(&["forget", &first, "--delay", "0s", "--json"]).ok().json();
    assert_eq!(
        (&view[0]["volume"], &view[0]["time"], &view[0]["forgotten"]),
        (&Value::Null, &Value::Null, &json!(true))
    );
    let ran = home.run(&["gc", "--grace", "0s", "--json"]).ok().json();
    // Its record stays: it may be a Fence, whose session would commit if its key were free.
    assert!(ran["deleted"]["packs"].as_u64().unwrap() >= 1 && ran["records"] == json!(0), "{ran}");
    assert!(record.exists());
    assert!(home.run(&["snapshots"]).ok().stdout.contains(&second[..8]));
    home.run(&["check"]).ok();
}
