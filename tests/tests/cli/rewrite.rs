//! `gc --rewrite` and `key rotate --rewrite`.

use super::*;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use wherry_tests::seaweed::Seaweed;
use wherry_tests::small::noise;

const AT_ONCE: [&str; 6] = ["gc", "--rewrite", "--grace", "0s", "--fence-after", "0s"];

/// A disk, an unlike one and a directory, in a repository there: sealed anew, all of it is the same, and a mount that was there
/// before the keys were rotated goes on.
fn rotates(home: &Home, is_local: bool) {
    let disk = home.backup("vm", &noise(1, 3 << 20));
    let other = home.backup("other", &noise(2, 1 << 20));
    fs::create_dir_all(home.path("files/sub")).unwrap();
    for n in 0..40u64 {
        home.write(&format!("files/sub/{n}"), noise(n + 10, 9_000 * n as usize));
    }
    let tree = home.run(&["backup", "files", "--name", "files", "--json"]).ok().json()["snapshot"].clone();
    let tree = tree.as_str().unwrap();
    home.run(&["key", "rotate"]).ok();

    let plan = home.run(&["gc", "--rewrite", "--dry-run", "--json"]).ok().json();
    assert!(plan["rewritten"]["packs"].as_u64() >= Some(4) && plan["rewritten"]["left"]["packs"] == 0, "{plan}");
    let said = home.run(&["gc", "--rewrite", "--dry-run"]).ok().stdout;
    assert!(said.contains("of older keys") && said.contains("nothing was written"), "{said}");
    let ran = home.run(&[&AT_ONCE[..], &["--json"]].concat()).ok().json();
    assert_eq!(ran["rewritten"], plan["rewritten"]);
    assert_eq!(ran["deleted"]["packs"], ran["rewritten"]["packs"]);
    if is_local {
        let of = |(path, bytes): (PathBuf, Vec<u8>)| {
            let is_pack = path.iter().any(|part| part == "packs" || part == "meta");
            is_pack.then(|| u32::from_le_bytes(bytes[8..12].try_into().unwrap()))
        };
        let epochs: BTreeSet<u32> = home.tree("repo").into_iter().filter_map(of).collect();
        assert_eq!(epochs, [1].into());
    }
    home.run(&["check", "--read-data"]).ok();
    for (id, seed, len) in [(&disk, 1, 3 << 20), (&other, 2, 1 << 20)] {
        let _ = fs::remove_file(home.path("out"));
        home.run(&["restore", id, "out"]).ok();
        assert!(fs::read(home.path("out")).unwrap() == noise(seed, len));
    }
    home.run(&["restore", tree, "back"]).ok();
    for n in 0..40u64 {
        assert!(fs::read(home.path(&format!("back/sub/{n}"))).unwrap() == noise(n + 10, 9_000 * n as usize), "{n}");
    }
    // Nothing of it is stored again.
    home.write("vm.img", noise(1, 3 << 20));
    let next = home.run(&["backup", "vm.img", "--name", "vm", "--json"]).ok().json();
    assert_eq!(next["new"], 0, "{next}");
    let next = home.run(&["backup", "files", "--name", "files", "--json"]).ok().json();
    assert_eq!(next["new"], 0, "{next}");
    assert_eq!(home.run(&[&AT_ONCE[..], &["--json"]].concat()).ok().json()["rewritten"]["packs"], 0);
    home.run(&["check", "--read-data"]).ok();
}

#[test]
fn what_is_stored_is_sealed_anew_in_a_directory() {
    rotates(&Home::with_repository(), true);
}

#[test]
fn what_is_stored_is_sealed_anew_on_an_s3_server() {
    let server = Seaweed::start();
    let home = Home::new().at("s3://wherry/rewrite", &server.variables());
    home.run(&["init"]).ok();
    rotates(&home, false);
}

#[test]
fn a_rotation_can_go_on_with_it_at_once() {
    let home = Home::with_repository();
    let id = home.backup("vm", &noise(1, 1 << 20));
    let report = home.run(&["key", "rotate", "--rewrite", "--json"]).ok().json();
    assert_eq!((&report["epoch"], &report["rewrite"]["rewritten"]["packs"]), (&json!(1), &json!(1)), "{report}");
    assert_eq!(report["rewrite"]["graced"]["packs"], 1, "what was there stays for the grace");
    home.run(&["cat", &id]).ok();
    let said = home.run(&["key", "rotate", "--rewrite"]).ok().stdout;
    assert!(said.contains("key epoch 2") && said.contains("of older keys"), "{said}");
    home.run(&["check", "--read-data"]).ok();
}

/// Nobody is told to do again and again what does not help; and what was healed is stored once more, not by each run.
#[test]
fn what_is_damaged_is_left_and_said_so_and_nothing_grows() {
    let home = Home::with_repository();
    let id = home.backup("vm", &noise(1, 3 << 20));
    let (path, mut bytes) = home.tree("repo/packs").into_iter().next().unwrap();
    bytes[1 << 20] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(home.run(&["check", "--read-data"]).code, 13);
    home.backup("vm", &noise(1, 3 << 20));
    let said = home.run(&["key", "rotate", "--rewrite"]).ok().stdout;
    let left = "under older keys, in which something is damaged";
    assert!(said.contains(left) && !said.contains("gc --rewrite` again"), "{said}");
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let said = home.run(&AT_ONCE).ok().stdout;
        assert!(said.contains(left) && !said.contains("again") && !said.contains("condemned"), "{said}");
        sizes.push(home.sizes().1);
    }
    assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
    assert!(said.contains("sealed anew") && sizes[0] < 7 << 20, "the damaged one and what healed it: {sizes:?}");
    let ran = home.run(&[&AT_ONCE[..], &["--json"]].concat()).ok().json();
    assert_eq!((&ran["rewritten"]["damaged"]["packs"], &ran["rewritten"]["left"]["packs"]), (&json!(1), &json!(0)));
    home.run(&["restore", &id, "out"]).ok();
    assert!(fs::read(home.path("out")).unwrap() == noise(1, 3 << 20));
    // No snapshot refers to it any more.
    home.run(&["forget", &id, "--delay", "0s", "-q"]).ok();
    home.run(&AT_ONCE).ok();
}

/// The last bytes of a pack are damaged, and none of its chunks: where they are an index segment says. All that is there, `check`
/// names as before, restores.
#[test]
fn what_was_sealed_anew_outlives_the_end_of_its_pack() {
    let home = Home::with_repository();
    let id = home.backup("vm", &noise(1, 3 << 20));
    home.backup("other", &noise(2, 1 << 20));
    home.run(&["key", "rotate"]).ok();
    home.run(&AT_ONCE).ok();
    let packs = home.tree("repo").into_iter().filter(|(path, _)| path.iter().any(|part| part == "packs"));
    let (path, mut bytes) = packs.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let at = bytes.len() - 12;
    bytes[at..at + 8].iter_mut().for_each(|byte| *byte ^= 1);
    home.write(path.to_str().unwrap(), bytes);
    home.run(&["restore", &id, "out"]).ok();
    assert!(fs::read(home.path("out")).unwrap() == noise(1, 3 << 20));
    for command in [&["check"][..], &["check", "--read-data"], &["repair"]] {
        let ran = home.run(&[command, &["--json"]].concat());
        assert_eq!(ran.code, 13, "{}", ran.stderr);
        let report = ran.json();
        let check = if command[0] == "repair" { &report["check"] } else { &report };
        let [damage] = &check["damages"].as_array().unwrap()[..] else { panic!("{report}") };
        assert_eq!(damage["hits"], json!([]), "{report}");
        assert!(damage["advice"].as_str().unwrap().contains("nothing is lost"), "{report}");
    }
    // Collectors come as before and leave that pack where it is, and the next backup stores none of it again.
    home.run(&["gc", "--grace", "0s", "--fence-after", "0s"]).ok();
    home.run(&["key", "rotate"]).ok();
    let ran = home.run(&[&AT_ONCE[..], &["--json"]].concat()).ok().json();
    assert_eq!((&ran["rewritten"]["left"]["packs"], &ran["rewritten"]["damaged"]["packs"]), (&json!(0), &json!(1)));
    home.write("vm.img", noise(1, 3 << 20));
    let next = home.run(&["backup", "vm.img", "--name", "vm", "--json"]).ok().json();
    assert_eq!(next["new"], 0, "{next}");
    home.run(&["cat", "latest:vm"]).ok();
}
