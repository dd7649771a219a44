//! `wherry repair --from` from outside: what comes back from a second repository, what is said of it, and what is refused.

use super::harness::{Home, Ran, shape};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use wherry_tests::nolinks::NoLinks;
use wherry_tests::small::noise;

const UNIT: usize = 64 << 10;
const MIB: usize = 1 << 20;
const FROM: [&str; 4] = ["--from", "other", "--from-key-file", "other.key"];

struct World {
    home: Home,
    disk: Vec<u8>,
    disks: Vec<String>,
    tree: String,
}

/// Two versions of a disk and a directory, in the repository and copied into `other`.
fn world() -> World {
    let home = Home::with_small_chunks();
    home.run(&["init", "-q", "--repo", "other", "--key-file", "other.key"]).ok();
    let mut disk = noise(1, 9 * MIB + 700);
    disk[MIB..2 * MIB].fill(0);
    let mut disks = vec![home.backup("vm", &disk)];
    disk[5 * MIB] ^= 1;
    disks.push(home.backup("vm", &disk));
    fs::create_dir_all(home.path("tree/sub")).unwrap();
    home.write("tree/sub/file", noise(2, 3 * MIB));
    (0..30).for_each(|n| drop(home.write(&format!("tree/small-{n}"), noise(50 + n, 1000))));
    let tree = home.run(&["backup", "tree", "--name", "home", "--json"]).ok().json();
    home.run(&["copy", "--to", "other", "--to-key-file", "other.key", "-q"]).ok();
    World { home, disk, disks, tree: tree["snapshot"].as_str().unwrap().to_owned() }
}

impl World {
    fn repair(&self, args: &[&str]) -> Ran {
        self.home.run(&[&["repair"], &FROM[..], args].concat())
    }

    /// The files of packs of a repository below a folder.
    fn packs(&self, folder: &str) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> =
            self.home.tree(folder).into_keys().map(|name| self.home.path(folder).join(name)).collect();
        found.retain(|path| path.is_file());
        found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
        found
    }

    #[track_caller]
    fn is_whole(&self) {
        for again in [false, true] {
            self.home.run(&["restore", "latest:vm", "out.raw", "--force"]).ok();
            assert!(fs::read(self.home.path("out.raw")).unwrap() == self.disk, "{again}");
            let out = format!("out-{again}");
            self.home.run(&["restore", &self.tree, &out]).ok();
            for name in ["sub/file", "small-7"] {
                let read = |of: &str| fs::read(self.home.path(of).join(name)).unwrap();
                assert!(read(&out) == read("tree"), "{again} {name}");
            }
            self.home.run(&["gc", "--grace", "0s", "--fence-after", "0s", "-q"]).ok();
        }
        fs::remove_dir_all(self.home.path("out-false")).unwrap();
        fs::remove_dir_all(self.home.path("out-true")).unwrap();
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn states(report: &Value) -> Vec<(&str, &str)> {
    let all = report["from"]["snapshots"].as_array().unwrap();
    all.iter().map(|v| (v["snapshot"].as_str().unwrap(), v["state"].as_str().unwrap())).collect()
}

#[test]
fn a_lost_pack_comes_back_and_what_is_said_of_it_has_a_shape() {
    let world = world();
    let [big, ..] = &world.packs("repo/packs")[..] else { panic!("no packs") };
    fs::remove_file(big).unwrap();
    let before = world.home.tree("repo/packs");

    let ran = world.repair(&["--dry-run", "--json"]);
    assert_eq!(ran.code, 13, "it is lost now: {ran:?}");
    let report = ran.json();
    let of_one =
        json!({ "snapshot": "string", "volume": "string", "state": "string", "before": "int", "after": "int" });
    assert_eq!(shape(&report["from"]["snapshots"][0]), of_one);
    let of_read = json!({ "snapshot": "string", "volume": "string", "chunks": "int", "nodes": "bool" });
    assert_eq!(shape(&report["from"]["read"][0]), of_read);
    let mut whole = shape(&report["from"]);
    (whole["snapshots"], whole["read"], whole["lost"]) = Default::default();
    let amount = json!({ "chunks": "int", "nodes": "int" });
    let expected = json!({
        "repository": "string", "from": "string", "dry_run": "bool", "wanted": amount, "healed": amount, "missing": amount, "is_partial": "bool",
        "packs": "int", "lost": null, "snapshots": null, "read": null,
    });
    assert_eq!(whole, expected);
    let hits = report["from"]["lost"][0]["hits"].as_array().unwrap();
    assert!(hits.len() == 2 && hits[0]["ranges"][0]["length"].as_u64() > Some(0), "{hits:?}");
    assert_eq!(report["from"]["healed"], report["from"]["wanted"]);
    assert!(states(&report).iter().all(|(_, state)| *state == "damaged"), "{report}");
    assert_eq!(world.home.tree("repo/packs"), before, "nothing was stored");

    let text = world.repair(&[]).ok().stdout;
    for id in &world.disks {
        assert!(text.contains(&format!("healed  vm, snapshot {id}: ")), "{text}");
    }
    assert!(text.contains("still lost: 0 chunks\n") && text.contains("no damage found"), "{text}");
    world.home.run(&["check", "--read-data"]).ok();
    world.is_whole();
    let report = world.repair(&["--json"]).ok().json();
    assert_eq!((&report["from"]["wanted"]["chunks"], states(&report)), (&0.into(), vec![]));
}

#[test]
fn a_flipped_byte_is_healed_once_it_was_read_and_what_is_left_of_it_hits_nobody() {
    let world = world();
    let packs = world.packs("repo/packs");
    packs.iter().for_each(|pack| flip(pack, 100));
    // Nobody has looked at the data.
    let report = world.repair(&["--json"]).ok().json();
    assert_eq!(report["from"]["wanted"]["chunks"], 0, "{report}");
    let report = world.repair(&["--read-data", "--json"]).ok().json();
    assert_eq!(
        (&report["from"]["healed"]["chunks"], &report["from"]["missing"]["chunks"]),
        (&packs.len().into(), &0.into())
    );
    assert!(states(&report).iter().all(|(_, state)| *state == "healed"), "{report}");
    let ran = world.home.run(&["check", "--read-data", "--json"]);
    let damages = ran.json()["damages"].as_array().unwrap().clone();
    assert!(damages.len() == packs.len() && damages.iter().all(|d| d["hits"] == json!([])), "{damages:?}");
    for snapshot in world.home.run(&["snapshots", "--json"]).ok().json().as_array().unwrap() {
        assert!(snapshot["damaged"].is_null() && snapshot["verified"].is_string(), "{snapshot}");
    }
    world.is_whole();
    // What a check has noted once is looked at again without being asked for.
    flip(&world.packs("repo/packs").into_iter().find(|pack| !packs.contains(pack)).unwrap(), 100);
    world.home.run(&["check", "--read-data", "-q"]);
    let report = world.repair(&["--json"]).ok().json();
    assert!(report["from"]["healed"]["chunks"].as_u64() > Some(0), "{report}");
    world.is_whole();
}

#[test]
fn what_was_healed_counts_as_moved_and_its_pack_is_not_called_unused() {
    let world = world();
    let [big, ..] = &world.packs("repo/packs")[..] else { panic!("no packs") };
    flip(big, 100);
    assert_eq!(world.home.run(&["check", "--read-data", "-q"]).code, 13);
    let report = world.repair(&["--json"]).ok().json();
    assert_eq!((&report["from"]["healed"]["chunks"], &report["from"]["packs"]), (&1.into(), &1.into()));
    // Also of a check that reads no more than what is known to be damaged, and of one that looks at the disk alone.
    for args in [&["--read-data"][..], &[], &[&world.disks[0]]] {
        let report = world.home.run(&[&["check", "--json"], args].concat()).json();
        assert_eq!(report["damages"][0]["hits"], json!([]), "{args:?}");
        assert_eq!((&report["moved"]["chunks"], &report["unused"]["packs"]), (&1.into(), &0.into()), "{args:?}");
    }
    let text = world.home.run(&["check"]).stdout;
    assert!(text.contains("moved     1 chunk") && !text.contains("unused"), "{text}");
    world.is_whole();
}

#[test]
fn all_that_is_stored_of_maps_and_trees_comes_back_with_all_data() {
    let world = world();
    for folder in ["repo/meta", "repo/packs"] {
        world.packs(folder).iter().for_each(|pack| fs::remove_file(pack).unwrap());
        let report = world.repair(&["--json"]).ok().json();
        assert_eq!(report["from"]["missing"], json!({ "chunks": 0, "nodes": 0 }));
        assert!(states(&report).iter().all(|(_, state)| *state == "healed"), "{report}");
        world.home.run(&["check", "--read-data"]).ok();
        world.is_whole();
    }
}

#[test]
fn what_is_in_neither_is_named_with_where_it_was() {
    let world = world();
    world.packs("repo/packs").iter().for_each(|pack| fs::remove_file(pack).unwrap());
    // A backup of its own, in larger chunks, of the later version of the disk alone.
    world.home.run(&["init", "-q", "--repo", "third", "--key-file", "third.key", "--chunk-size", "256K"]).ok();
    let image = world.home.write("vm.raw", &world.disk);
    world.home.run(&["backup", &image, "--name", "vm", "-q", "--repo", "third", "--key-file", "third.key"]).ok();
    let ran = world.home.run(&["repair", "--from", "third", "--from-key-file", "third.key", "--json"]);
    assert_eq!(ran.code, 13, "{ran:?}");
    let report = ran.json();
    let all = states(&report);
    let of = |id: &str| all.iter().find(|(of, _)| *of == id).unwrap().1;
    assert_eq!([of(&world.disks[0]), of(&world.disks[1]), of(&world.tree)], ["partly", "healed", "damaged"]);
    let hits = report["check"]["damages"].as_array().unwrap().iter().flat_map(|d| d["hits"].as_array().unwrap());
    let ranges: Vec<&Value> =
        hits.filter(|hit| hit["snapshot"] == world.disks[0].as_str()).map(|hit| &hit["ranges"]).collect();
    assert_eq!(ranges, [&json!([{ "offset": 5 * MIB, "length": UNIT }])]);
    let ran = world.home.run(&["repair", "--from", "third", "--from-key-file", "third.key"]);
    let line = format!("  DAMAGED vm, snapshot {} of ", world.disks[0]);
    assert!(ran.code == 13 && ran.stdout.contains(&line), "{ran:?}");
    world.home.run(&["restore", "latest:vm", "out.raw"]).ok();
    assert!(fs::read(world.home.path("out.raw")).unwrap() == world.disk);
    world.home.run(&["restore", &world.disks[0], "old.raw"]).ends(13);
    let shown = world.home.run(&["show", &world.disks[0], "--json"]).ok().json();
    assert!(shown["damaged"].is_string() && shown["verified"].is_null(), "{shown}");
    // The copy has the rest.
    world.repair(&["-q"]).ok();
    world.home.run(&["restore", &world.disks[0], "old.raw", "--force"]).ok();
    world.is_whole();
}

/// The last look may fail to read what an earlier one read, or itself a moment before: nothing is healed by that.
#[test]
fn a_pack_that_cannot_be_read_for_a_moment_heals_nothing() {
    let mount = NoLinks::mount();
    let home = Home::new().at(mount.path().join("repo").to_str().unwrap(), &[]);
    home.run(&["init", "-q", "--single-writer", "--chunk-size", "64K"]).ok();
    home.run(&["init", "-q", "--repo", "other", "--key-file", "other.key"]).ok();
    let id = home.backup("vm", &noise(1, 5 * UNIT));
    // Of the same name, and with nothing of the same content.
    let image = home.write("vm.raw", noise(2, 5 * UNIT));
    home.run(&["backup", &image, "--name", "vm", "-q", "--repo", "other", "--key-file", "other.key"]).ok();
    let mut folders = vec![mount.path().join("repo/packs")];
    let mut packs = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { folders.push(path) } else { packs.push(path) }
        }
    }
    let [pack] = &packs[..] else { panic!("{packs:?}") };
    flip(pack, 100);
    home.run(&["check", "--read-data", "-q"]);
    let len = fs::metadata(pack).unwrap().len() as usize;
    let mut failed = 0;
    loop {
        // Its trailer, which is read with its index.
        mount.spoil_once(pack, len - 8..len, failed);
        let ran = home.run(&[&["repair"], &FROM[..], &["--json"]].concat());
        let has_failed = mount.has_failed_once();
        assert_eq!(ran.code, 13, "{failed}: {ran:?}");
        let report = ran.json();
        assert_eq!(states(&report), [(id.as_str(), "damaged")], "{failed}");
        let [wanted, healed, missing] = ["wanted", "healed", "missing"].map(|of| &report["from"][of]["chunks"]);
        assert_eq!((wanted, healed, missing), (&1.into(), &0.into(), &1.into()), "{failed}");
        if !has_failed {
            break;
        }
        failed += 1;
    }
    // Two in each of two looks at least.
    assert!(failed >= 4, "{failed}");
}

#[test]
fn what_is_refused() {
    let world = world();
    let home = &world.home;
    home.write("wrong.key", noise(9, 64).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let before = home.tree("repo/packs");
    for (args, code, said) in [
        (vec!["repair", "--from", "other", "--from-key-file", "wrong.key"], 12, "key"),
        (vec!["repair", "--from", "other", "--from-key-file", "nowhere.key"], 12, "nowhere.key"),
        (vec!["repair", "--from", "other"], 12, "--from-key-file"),
        (vec!["repair", "--from", "nowhere", "--from-key-file", "other.key"], 10, "nowhere"),
        (vec!["repair", "--dry-run"], 2, "--from"),
        (vec!["repair", "--from-key-file", "other.key"], 2, "--from"),
    ] {
        let ran = home.run(&args);
        assert!(ran.code == code && ran.stderr.contains(said), "{args:?}: {ran:?}");
    }
    let line = home.run(&["repair", "--from", "repo"]).ends(2);
    assert!(line.contains("is the repository that is repaired"), "{line}");
    assert_eq!(home.tree("repo/packs"), before);
    // The password of the second one, by the environment alone.
    home.run(&[
        "key",
        "add",
        "--repo",
        "other",
        "--key-file",
        "other.key",
        "--new-password-file",
        &home.write("pw", "of the other"),
    ])
    .ok();
    fs::remove_file(&world.packs("repo/packs")[0]).unwrap();
    let mut command = home.command();
    command.args(["repair", "--from", "other"]).env("WHERRY_FROM_PASSWORD", "of another");
    home.ran(command.output().unwrap()).ends(12);
    let mut command = home.command();
    command.args(["repair", "--from", "other"]).env("WHERRY_FROM_PASSWORD", "of the other");
    home.ran(command.output().unwrap()).ok();
    world.is_whole();
}
