//! What is written, how much of it, and no further.

use super::{
    ENGINES, MIB, UNIT, device, disk, file, has, home, names, put, refused, restored, same, sh, with_input, written_to,
};
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use wherry_repo::storage::Local;
use wherry_repo::{CommitInfo, Repository, SnapshotWriter};
use wherry_tests::small::{components, index, noise, options, put_all};
use wherry_tests::steered::{JUNK, Steered};
use wherry_tests::volumes::Loop;

/// What a target is full of beforehand.
const OLD: u8 = 0xAA;

#[test]
fn any_size_is_restored_to_any_target_and_no_further() {
    let home = home();
    let room = 2 * MIB;
    for size in [0, 1, 511, 512, 513, 4095, 4096, UNIT - 1, UNIT + 1, 3 * UNIT, 5 * UNIT + 777, 2 * MIB - 512] {
        // The last chunk is data for some and zero for others.
        let content = disk(size as u64, size);
        let id = home.backup("vm", &content);
        for engine in ENGINES {
            let what = format!("{size} bytes, {engine}");
            let fresh = home.text("fresh");
            let report = restored(&home, &[&id, &fresh, "--engine", engine, "--verify"]);
            assert_eq!((&report["engine"], &report["untouched"]), (&json!(engine), &json!(0)), "{what}");
            same(&fs::read(&fresh).unwrap(), &content, &what);
            fs::remove_file(&fresh).unwrap();

            let used = file(&home, "used", room, OLD);
            restored(&home, &[&id, used.to_str().unwrap(), "--force", "--engine", engine]);
            same(&fs::read(&used).unwrap(), &content, &what);

            for sector in ["512", "4096"] {
                let target = device(&home, "disk", room, OLD, &["--sector-size", sector]);
                let report = restored(&home, &[&id, target.text(), "--force", "--verify", "--engine", engine]);
                assert_eq!((&report["untouched"], &report["verified"]), (&json!(room - size), &json!(true)), "{what}");
                let now = fs::read(target.path()).unwrap();
                same(&now[..size], &content, &format!("{what}, sectors of {sector}"));
                same(&now[size..], &vec![OLD; room - size], &format!("{what}, sectors of {sector}, the rest"));
            }
        }
    }
}

#[test]
fn a_preallocated_file_is_restored_exactly() {
    let home = home();
    let content = disk(1, 3 * MIB + 100);
    home.backup("vm", &content);
    for (engine, allocated) in ENGINES.into_iter().zip([4 * MIB, 2 * MIB]) {
        let target = home.path("target");
        sh("fallocate", &["-l", &allocated.to_string(), target.to_str().unwrap()]);
        put(&target, 0, &vec![OLD; allocated]);
        refused(&home, &["latest", target.to_str().unwrap()], 2, &target);
        restored(&home, &["latest", target.to_str().unwrap(), "--force", "--engine", engine]);
        same(&fs::read(&target).unwrap(), &content, engine);
        fs::remove_file(target).unwrap();
    }
}

/// Damage: a byte of data, junk where zeros were, and the last, odd sector. (offset, bytes)
fn damage(size: usize) -> [(usize, Vec<u8>); 3] {
    [(3 * UNIT + 17, vec![1, 2, 3]), (4 * UNIT + 4096, vec![JUNK; 512]), (size - 5, vec![9; 5])]
}

#[test]
fn delta_writes_what_differs_to_a_device_and_nothing_else() {
    let home = home();
    let size = 3 * MIB + 512 + 77;
    let content = disk(2, size);
    let id = home.backup("vm", &content);
    for engine in ENGINES {
        let target = device(&home, "disk", 4 * MIB, OLD, &[]);
        put(target.path(), 0, &content);
        let before = written_to(&target);
        let report = restored(&home, &[&id, target.text(), "--delta", "--engine", engine]);
        assert_eq!((&report["written"], &report["delta"]), (&json!(0), &json!(true)), "{engine}");
        assert_eq!(written_to(&target), before, "{engine}: nothing differs, and something was written");

        damage(size).iter().for_each(|(at, bytes)| put(target.path(), *at as u64, bytes));
        let dry = restored(&home, &[&id, target.text(), "--delta", "--dry-run"]);
        let before = written_to(&target);
        let report = restored(&home, &[&id, target.text(), "--delta", "--verify", "--engine", engine]);
        let written = (written_to(&target) - before) as usize;
        // Two whole chunks, and what of the last one there is: less than one.
        assert!((2 * UNIT..=3 * UNIT).contains(&written), "{engine}: {written} bytes were written");
        assert_eq!(report["written"], json!(3 * UNIT), "{engine}");
        assert_eq!(dry["written"], report["written"], "a dry run says the same");
        let now = fs::read(target.path()).unwrap();
        same(&now[..size], &content, engine);
        same(&now[size..], &vec![OLD; 4 * MIB - size], engine);
    }
}

#[test]
fn delta_mends_files_of_any_length() {
    let home = home();
    let size = 20 * UNIT + 77;
    let content = disk(3, size);
    home.backup("vm", &content);
    let target = home.path("target");
    let text = target.to_str().unwrap();
    for engine in ENGINES {
        for (length, differing) in [(size, 3), (size + 5000, 3), (size - UNIT, 5), (0, 21), (1, 21)] {
            let mut old = content.clone();
            damage(size).iter().for_each(|(at, bytes)| old[*at..at + bytes.len()].copy_from_slice(bytes));
            old.resize(length, OLD);
            fs::write(&target, &old).unwrap();
            let report = restored(&home, &["latest", text, "--delta", "--engine", engine]);
            let what = format!("{engine}, a file of {length} bytes");
            same(&fs::read(&target).unwrap(), &content, &what);
            let written = report["written"].as_u64().unwrap();
            assert!(written <= (differing * UNIT) as u64, "{what}: {written} bytes");
        }
        fs::remove_file(&target).unwrap();
        restored(&home, &["latest", text, "--delta", "--engine", engine]);
        same(&fs::read(&target).unwrap(), &content, "a file that was not there");
    }
}

#[test]
fn a_disk_goes_back_onto_the_device_it_came_from() {
    let home = home();
    let content = disk(4, 2 * MIB);
    let source = device(&home, "disk", 2 * MIB, 0, &[]);
    put(source.path(), 0, &content);
    home.run(&["backup", source.text(), "--name", "vm"]).ok();
    put(source.path(), 0, &[0; 1000]);
    put(source.path(), MIB as u64, &[OLD; 100_000]);
    refused(&home, &["latest", source.text()], 2, source.path());
    let report = restored(&home, &["latest", source.text(), "--delta", "--verify"]);
    assert!(report["written"].as_u64().unwrap() < 5 * UNIT as u64, "{report}");
    same(&fs::read(source.path()).unwrap(), &content, "the source");
}

#[test]
fn a_dry_run_says_what_would_happen_and_writes_nothing() {
    let home = home();
    let size = 2 * MIB;
    let content = disk(5, size);
    home.backup("vm", &content);
    let data = content.chunks(UNIT).filter(|chunk| chunk.iter().any(|b| *b != 0)).count() * UNIT;
    let empty = device(&home, "empty", 3 * MIB, 0, &[]);
    let used = device(&home, "used", 3 * MIB, OLD, &[]);
    let old = file(&home, "old", 100, OLD);
    let (old, new) = (old.to_str().unwrap(), home.text("new"));
    for (target, modes, written, untouched) in [
        (new.as_str(), &[][..], data, 0),
        (&new, &["--force"], data, 0),
        (&new, &["--delta"], data, 0),
        (&new, &["--verify"], data, 0),
        (empty.text(), &[], data, MIB),
        (used.text(), &["--force"], data, MIB),
        (used.text(), &["--delta"], size, MIB),
        (old, &["--force"], data, 0),
        (old, &["--delta", "--verify"], size, 0),
    ] {
        let args = [&["latest", target, "--dry-run"], modes].concat();
        let state = || (names(&home), fs::read(target).ok(), written_to(&empty), written_to(&used));
        let before = state();
        let report = restored(&home, &args);
        let seen = ["written", "untouched", "dry_run", "verified", "engine"].map(|field| &report[field]);
        let want = [json!(written), json!(untouched), json!(true), json!(false), json!("none")];
        assert_eq!(seen.map(Clone::clone), want, "{args:?}");
        let ran = home.run(&[&["restore", "-q"][..], &args].concat()).ok();
        has(&ran.stdout, &["would write", target]);
        let last = ran.stdout.lines().last().unwrap();
        assert!(last.starts_with("nothing was written of snapshot "), "{last}");
        assert_eq!(ran.stdout.contains("would leave the last 1.0 MiB"), untouched > 0, "{}", ran.stdout);
        assert!(state() == before, "{args:?} wrote something");
    }
}

#[test]
fn what_a_larger_device_keeps_is_said_in_the_result() {
    let home = home();
    home.backup("vm", &disk(6, MIB));
    let target = device(&home, "disk", 3 * MIB, 0, &[]);
    let ran = home.run(&["restore", "-q", "latest", target.text()]).ok();
    has(&ran.stdout, &["left the last 2.0 MiB", target.text(), "larger"]);
    assert_eq!(ran.stderr, "");
    let exact = device(&home, "exact", MIB, 0, &[]);
    let ran = home.run(&["restore", "latest", exact.text()]).ok();
    assert!(!ran.stdout.contains("larger"), "{}", ran.stdout);
}

/// The zeros of a disk must be zeros on a device whose discarded blocks read as anything.
#[test]
fn zeros_are_zeros_where_a_discard_gives_junk() {
    let home = home();
    let size = 2 * MIB + 700;
    let content = disk(7, size);
    home.backup("vm", &content);
    for engine in ENGINES {
        for zeroes in [true, false] {
            let steered = Steered::mount(vec![OLD; 3 * MIB], zeroes);
            let target = Loop::new(&steered.disk(), &[]);
            // It is such a device.
            sh("blkdiscard", &["-o", "0", "-l", "65536", target.text()]);
            assert!(steered.bytes()[..65536].iter().all(|byte| *byte == JUNK));
            let (discards, _) = steered.asked();
            assert!(discards > 0);

            restored(&home, &["latest", target.text(), "--force", "--engine", engine]);
            let what = format!("{engine}, zeroes on request: {zeroes}");
            same(&steered.bytes()[..size], &content, &what);
            same(&steered.bytes()[size..], &vec![OLD; 3 * MIB - size], &what);
            let (discarded, zeroed) = steered.asked();
            assert_eq!((discarded, zeroed > 0), (discards, zeroes), "{what}");
        }
    }
}

#[test]
fn verify_finds_a_medium_that_keeps_something_else() {
    let home = home();
    // Without zeros, for which a file would be given a hole.
    let content = noise(8, 2 * MIB);
    home.backup("vm", &content);
    for engine in ENGINES {
        let steered = Steered::mount(vec![0; 2 * MIB], true);
        steered.flip(6 * UNIT as u64 + 12_345);
        let restore = |target: &str| {
            // Without it nobody can know.
            restored(&home, &["latest", target, "--force", "--engine", engine]);
            assert!(steered.bytes() != content, "nothing was flipped");
            let ran = home.run(&["restore", "latest", target, "--force", "--verify", "--engine", engine]);
            assert_eq!((ran.code, ran.stdout.as_str()), (13, ""), "{engine}: {}", ran.stderr);
            let last = ran.stderr.lines().last().unwrap();
            has(last, &[target, "1 chunks differ", &format!("byte {}", 6 * UNIT)]);
        };
        let device = Loop::new(&steered.disk(), &[]);
        restore(device.text());
        drop(device);
        restore(steered.disk().to_str().unwrap());
    }
}

#[test]
fn a_partial_snapshot_needs_leave_and_ends_with_3() {
    let home = home();
    let content = disk(9, MIB + 5);
    let storage = Arc::new(Local::new(home.path("repo"), false));
    let key = wherry::credential::CredentialSource::KeyFile(home.path("key"))
        .read("", &wherry::signals::Cancel::default())
        .unwrap();
    let repository = Repository::open(components(storage), &key).unwrap();
    let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
    put_all(&writer, &content).unwrap();
    let info = CommitInfo { size: content.len() as u64, partial: true, ..CommitInfo::default() };
    let id = writer.commit(info).unwrap().id.to_string();

    let target = home.path("target");
    let text = target.to_str().unwrap();
    has(&refused(&home, &[&id, text], 2, &target), &["partial", &id, "--allow-partial"]);
    has(&home.run(&["restore", "latest", text]).fails(14), &["no whole snapshot", &id]);
    let ran = home.run(&["restore", &id, text, "--allow-partial", "--json"]);
    assert_eq!((ran.code, &ran.json()["partial"]), (3, &json!(true)), "{}", ran.stderr);
    same(&fs::read(&target).unwrap(), &content, "what there is of it");
    let says = format!("snapshot {id} is partial");
    for dry in [&["--dry-run"][..], &[]] {
        let ran = home.run(&[&["restore", &id, text, "--allow-partial", "--force"], dry].concat());
        assert_eq!(ran.code, 3, "{}", ran.stderr);
        has(&ran.stdout, &["the snapshot is partial", "is missing"]);
    }
    let output = home.command().args(["cat", &id]).output().unwrap();
    same(&output.stdout, &content, "what there is of it");
    let ran = home.ran(output);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    has(&ran.stderr, &["WARN", &says]);
    let whole = home.backup("whole", b"content");
    assert!(!home.run(&["cat", &whole]).ok().stderr.contains("partial"));
    home.run(&["restore", &whole, "whole.out"]).ok();
}

#[test]
fn the_cache_makes_no_difference() {
    let home = home();
    let content = disk(10, 4 * MIB + 9);
    home.backup("vm", &content);
    let target = home.path("target");
    let text = target.to_str().unwrap();
    let restore = |args: &[&str]| {
        restored(&home, &[&["latest", text], args].concat());
        same(&fs::read(&target).unwrap(), &content, &format!("{args:?}"));
        fs::remove_file(&target).unwrap();
    };
    restore(&[]);
    restore(&["--no-cache"]);
    fs::remove_dir_all(home.path("cache")).unwrap();
    restore(&[]);
    fs::remove_dir_all(home.path("cache")).ok();
    fs::write(home.path("cache"), "no folder").unwrap();
    restore(&[]);
    // The note of a device has no place then, which is said and does not matter.
    let device = device(&home, "disk", 5 * MIB, 0, &[]);
    let ran = home.run(&["restore", "latest", device.text(), "--verify"]).ok();
    has(&ran.stderr, &["cache/restores", "--delta"]);
    same(&fs::read(device.path()).unwrap()[..content.len()], &content, "a device");
}

#[test]
fn what_came_from_standard_input_is_restored() {
    let home = home();
    let content = disk(11, MIB + 4097);
    let report = with_input(&home, &["backup", "-", "--name", "vm", "--json"], &content).ok().json();
    assert_eq!(report["engine"], "stream");
    assert!(report["engine_reason"].as_str().is_some_and(|why| !why.is_empty()), "{report}");
    restored(&home, &["latest", &home.text("out")]);
    same(&fs::read(home.path("out")).unwrap(), &content, "a file");
    let target = device(&home, "disk", 2 * MIB, OLD, &[]);
    restored(&home, &["latest", target.text(), "--force"]);
    same(&fs::read(target.path()).unwrap()[..content.len()], &content, "a device");
}

#[test]
fn a_new_file_is_as_sparse_as_the_disk_and_nobody_elses() {
    let home = home();
    let mut content = vec![0; 64 * MIB];
    content[32 * MIB..32 * MIB + UNIT].fill(7);
    home.backup("vm", &content);
    restored(&home, &["latest", &home.text("out")]);
    let meta = fs::metadata(home.path("out")).unwrap();
    assert_eq!((meta.len(), meta.blocks() * 512, meta.mode() & 0o777), (64 << 20, UNIT as u64, 0o600));
}

#[test]
fn the_engine_and_the_reason_are_named() {
    let home = home();
    let image = home.write("image", disk(12, MIB));
    for (asked, engine, why) in
        [("ring", "ring", "asked for"), ("threads", "threads", "asked for"), ("auto", "ring", "io_uring works")]
    {
        let backup = home.run(&["backup", &image, "--name", "vm", "--engine", asked, "--json"]).ok().json();
        let restore = restored(&home, &["latest", &home.text("out"), "--force", "--engine", asked]);
        for report in [backup, restore] {
            assert_eq!(report["engine"], engine);
            has(report["engine_reason"].as_str().unwrap(), &[why]);
        }
    }
}
