//! `wherry gc`, with the real binary.

use super::harness::{Home, shape};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use wherry_repo::storage::{Local, Storage};
use wherry_repo::{Components, Credential, Key, Repository, System};
use wherry_tests::faulty_s3::{Fault, FaultyS3, Rule};
use wherry_tests::home::Running;
use wherry_tests::seaweed::{Seaweed, variables_for};
use wherry_tests::small::noise;

const MIB: usize = 1 << 20;
const AT_ONCE: [&str; 5] = ["gc", "--grace", "0s", "--fence-after", "0s"];

/// For good with the next collector.
fn forget(home: &Home, id: &str) {
    home.run(&["forget", id, "--delay", "0s", "-q"]).ok();
}

/// Packs of chunks in the repository, wherever it is.
fn packs(home: &Home) -> u64 {
    home.run(&["stats", "--json"]).ok().json()["objects"]["packs"]["count"].as_u64().unwrap_or(0)
}

#[test]
fn what_is_forgotten_is_deleted_and_the_result_has_its_shape() {
    let home = Home::with_repository();
    let (one, two) = (home.backup("one", &noise(1, MIB)), home.backup("two", &noise(2, MIB)));
    forget(&home, &one);
    let before = home.sizes();
    let plan = home.run(&["gc", "--dry-run"]).ok().stdout;
    assert!(plan.contains("would go   1 pack (1.0 MiB), which nothing needs"), "{plan}");
    assert!(plan.contains("nothing was written"), "{plan}");
    assert_eq!(home.sizes(), before);
    // The grace first.
    let said = home.run(&["gc"]).ok().stdout;
    for words in [
        "1 snapshot forgotten for good",
        "condemned",
        "which nothing needs",
        "the grace of 1d",
        "again after the grace",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(home.sizes().1 >= before.1);
    let ran = home.run(&[&AT_ONCE[..], &["--json"]].concat()).ok().json();
    let packs = json!({ "packs": "int", "bytes": "int" });
    assert_eq!(
        shape(&ran),
        json!({
            "dry_run": "bool", "generation": "null", "sealed": "bool", "unsealed": "null", "overtaken": "bool",
            "settled": "int", "left_to_jobs": "int", "packs": packs, "live": { "packs": "int", "bytes": "int", "referenced": "int" },
            "spared": packs, "condemned": packs,
            "repacked": { "packs": "int", "bytes": "int", "chunks": "int", "copied": "int" },
            "rewritten": { "packs": "int", "bytes": "int", "chunks": "int", "sealed": "int", "left": packs, "damaged": packs },
            "found_damaged": packs, "rescued": "int",
            "waiting": [], "fenced": [], "deleted": packs, "graced": packs, "failed": packs, "records": "int",
            "sessions": "int", "segments": "int", "seconds": "float",
        })
    );
    assert_eq!(ran["deleted"]["packs"], 1);
    assert!(home.sizes().1 < before.1 * 6 / 10, "{:?} of {before:?}", home.sizes());
    assert_eq!(home.run(&AT_ONCE).ok().stdout.lines().last().unwrap(), "nothing to delete");
    home.run(&["check", "--read-data"]).ok();
    assert_eq!(home.run(&["restore", &two, "out"]).ok().code, 0);
    assert_eq!(fs::read(home.path("out")).unwrap(), noise(2, MIB));
    assert!(home.run(&["cat", &one]).fails(14).contains("for good"));
    // All in a row.
    forget(&home, &two);
    home.run(&AT_ONCE).ok();
    assert_eq!(home.sizes().1, 0);
}

/// A backup of standard input that has stored a pack, and goes on when it is given more.
fn half_a_backup<'a>(home: &'a Home, disk: &[u8]) -> (Running<'a>, ChildStdin) {
    let mut command = home.command();
    command.args(["backup", "-", "--name", "slow", "--memory", "64M", "-q"]).stdin(Stdio::piped());
    let (mut running, before) = (home.started(command.spawn().unwrap()), packs(home));
    let mut stdin = running.child().stdin.take().unwrap();
    stdin.write_all(&disk[..disk.len() / 2]).unwrap();
    running.until("a pack is stored", || packs(home) > before);
    (running, stdin)
}

/// SIGSTOP in the midst of a pack, everything that a collector may do, SIGCONT.
fn stopped_meanwhile(home: &Home) {
    let old = home.backup("old", &noise(1, 4 * MIB));
    let disk = noise(2, 40 * MIB);
    let (mut running, mut stdin) = half_a_backup(home, &disk);
    running.send(Signal::STOP);
    forget(home, &old);
    let ran = home.run(&[&AT_ONCE[..], &["--json"]].concat()).ok().json();
    assert_eq!(ran["fenced"][0]["volume"], "slow", "{ran}");
    assert!(ran["deleted"]["packs"].as_u64().unwrap() > 0, "{ran}");
    // Once more, when what it has stored is that of a session that has ended.
    home.run(&AT_ONCE).ok();
    running.send(Signal::CONT);
    // It may end before it has read all.
    let rest = disk[disk.len() / 2..].to_vec();
    let feed = std::thread::spawn(move || drop(stdin.write_all(&rest)));
    let ran = running.end();
    feed.join().unwrap();
    let line = ran.ends(1);
    assert!(line.contains("run it again"), "{line}");
    home.run(&["check", "--read-data"]).ok();
    home.write("slow.raw", &disk);
    home.run(&["backup", "slow.raw", "--name", "slow", "-q"]).ok();
    home.run(&AT_ONCE).ok();
    home.run(&["restore", "latest:slow", "out", "-q"]).ok();
    assert!(fs::read(home.path("out")).unwrap() == disk);
    home.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_backup_that_is_stopped_while_garbage_is_collected_is_told_so() {
    stopped_meanwhile(&Home::with_repository());
}

#[test]
fn likewise_on_a_server() {
    let server = Seaweed::start();
    let at = |place: &str| {
        let home = Home::new().at(format!("s3://{place}"), &server.variables());
        home.run(&["init", "-q"]).ok();
        home
    };
    stopped_meanwhile(&at("wherry/told"));
    waited_for(&at("wherry/committed"), &*server.open("wherry/committed"));
}

/// Who lives is waited for; a signal ends that, and the next run goes on.
#[test]
fn a_signal_ends_it_and_the_next_run_goes_on() {
    let home = Home::with_repository();
    waited_for(&home, &Local::new(home.path("repo"), false));
}

/// SIGSTOP in the midst of a pack, a collector that waits for it and is ended, SIGCONT: it commits.
fn waited_for(home: &Home, storage: &dyn Storage) {
    let old = home.backup("old", &noise(1, 4 * MIB));
    let disk = noise(2, 40 * MIB);
    let (mut running, mut stdin) = half_a_backup(home, &disk);
    running.send(Signal::STOP);
    forget(home, &old);
    let mut gc = home.spawn(&["gc", "--grace", "0s"]);
    let has = |name: &str| storage.head(&Key::new(name).unwrap()).is_ok();
    gc.until("a list is published", || has("gc/gen/00000001"));
    gc.send(Signal::INT);
    let line = gc.end().ends(130);
    assert!(line.contains("the next gc goes on"), "{line}");
    running.send(Signal::CONT);
    stdin.write_all(&disk[disk.len() / 2..]).unwrap();
    drop(stdin);
    running.end().ok();
    let said = home.run(&["gc", "--grace", "0s"]).ok().stdout;
    assert!(said.contains("deleted"), "{said}");
    assert!(has("gc/gen/00000001-sealed"));
    home.run(&["restore", "latest:slow", "out", "-q"]).ok();
    assert!(fs::read(home.path("out")).unwrap() == disk);
    home.run(&["check", "--read-data"]).ok();
}

/// What is said of a damaged list of a collector is so.
#[test]
fn a_damaged_list_stops_gc_and_backups_and_a_damaged_delete_set_gc_alone() {
    let home = Home::with_repository();
    let (one, _) = (home.backup("one", &noise(1, MIB)), home.backup("two", &noise(2, MIB)));
    forget(&home, &one);
    home.run(&["gc", "--fence-after", "0s", "-q"]).ok();
    let lists = home.tree("repo/gc/gen");
    let is_sealed = |path: &Path| path.to_str().unwrap().ends_with("-sealed");
    for (path, bytes) in &lists {
        fs::write(path, "damaged").unwrap();
        let check = home.run(&["check", "--json"]);
        let advice = check.json()["damages"][0]["advice"].as_str().unwrap().to_owned();
        let image = home.write("image", "content");
        let goes_on = home.run(&["backup", &image, "--name", "x", "-q"]).code == 0;
        assert_eq!((check.code, goes_on), (13, is_sealed(path)), "{path:?}");
        assert_eq!(
            (advice.contains("backups go on"), advice.contains("backups and `wherry gc` refuse")),
            (goes_on, !goes_on),
            "{advice}"
        );
        home.run(&["gc", "-q"]).ends(13);
        fs::write(path, bytes).unwrap();
    }
    assert!(lists.len() == 2 && lists.keys().any(|path| is_sealed(path)), "{:?}", lists.keys());
}

/// What could not be deleted is no success; the next run does it.
#[test]
fn a_delete_that_is_refused_is_told_by_the_exit_code() {
    let server = Seaweed::start();
    let proxy = FaultyS3::start(server.port());
    let home = Home::new().at("s3://wherry/kept", &variables_for(proxy.port()));
    home.run(&["init", "-q"]).ok();
    let (one, two) = (home.backup("one", &noise(1, MIB)), home.backup("two", &noise(2, MIB)));
    forget(&home, &one);
    let before = packs(&home);
    proxy.inject(Rule::every("DELETE", "packs/", Fault::Refuse(403)));
    let ran = home.run(&[&AT_ONCE[..], &["--json"]].concat());
    let said = ran.json();
    assert_eq!((ran.code, &said["failed"]["packs"], &said["deleted"]["packs"]), (1, &json!(1), &json!(0)), "{ran:?}");
    assert!(ran.stderr.contains("packs/") && ran.stderr.contains("the next run tries again"), "{ran:?}");
    assert_eq!(packs(&home), before, "it is there");
    let ran = home.run(&AT_ONCE);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("failed     1 pack") && ran.stdout.contains("could not be deleted"), "{ran:?}");
    let last = ran.stdout.lines().last().unwrap();
    assert!(last.contains("nothing was deleted") && !last.contains("grace"), "{last}");
    let help = home.run_bare(&["gc", "--help"]).ok().stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("tried again by the next run (exit 1)"), "{help}");
    assert!(proxy.hits()["refuse"] >= 2);
    proxy.heal();
    let said = home.run(&[&AT_ONCE[..], &["--json"]].concat()).ok().json();
    assert_eq!((&said["failed"]["packs"], &said["deleted"]["packs"]), (&json!(0), &json!(1)), "{said}");
    assert_eq!(packs(&home), before - 1);
    home.run(&["restore", &two, "out", "-q"]).ok();
    assert!(fs::read(home.path("out")).unwrap() == noise(2, MIB));
    home.run(&["check", "--read-data"]).ok();
}

/// Directories with disk images in them, of which little is needed of what was stored first.
#[test]
fn directories_and_images_are_read_and_built_upon_after_a_repack() {
    let home = Home::with_small_chunks();
    let root = home.path("root");
    let write = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), bytes).unwrap();
    };
    let mut image = noise(9, 2 * MIB);
    image[510..512].copy_from_slice(b"\x55\xaa");
    for n in 0..300u64 {
        write(&format!("small/{n}"), &noise(n, 100 + n as usize));
    }
    for n in 0..4 {
        write(&format!("large/{n}"), &noise(100 + n, 5 * MIB));
    }
    write("disk.img", &image);
    let backup = || {
        let ran = home.run(&["backup", "root", "--name", "tree", "--json"]).ok().json();
        (ran["snapshot"].as_str().unwrap().to_owned(), ran["parent"].as_str().map(str::to_owned))
    };
    let (first, _) = backup();
    for n in 0..3 {
        write(&format!("large/{n}"), &noise(200 + n, MIB));
    }
    fs::remove_file(root.join("large/3")).unwrap();
    image[MIB..MIB + 4096].copy_from_slice(&noise(77, 4096));
    write("disk.img", &image);
    let (second, parent) = backup();
    assert_eq!(parent.as_ref(), Some(&first));
    forget(&home, &first);
    let ran = home.run(&[&AT_ONCE[..], &["--json"]].concat()).ok().json();
    // Which of it was in which pack is a matter of threads: of a full one little is needed in any case.
    assert!(ran["repacked"]["chunks"].as_u64().unwrap() > 0, "{ran}");
    assert!(ran["deleted"]["bytes"].as_u64().unwrap() > 10 * MIB as u64, "{ran}");
    // With what the cache directory says of before, and without.
    for cached in [true, false] {
        if !cached {
            fs::remove_dir_all(home.path("cache")).unwrap();
        }
        let whole = |id: &str| {
            let _ = fs::remove_dir_all(home.path("out"));
            home.run(&["restore", id, "out", "-q"]).ok();
            let compared = std::process::Command::new("diff").args(["-r"]).arg(&root).arg(home.path("out")).output();
            assert!(compared.unwrap().status.success(), "{id}, cached {cached}");
        };
        whole(&second);
        assert_eq!(home.command().args(["cat", &second, "disk.img"]).output().unwrap().stdout, image);
        assert_eq!(home.command().args(["cat", &second, "small/7"]).output().unwrap().stdout, noise(7, 107));
        home.run(&["check", "--read-data"]).ok();
        // A file changes with each run, and is looked at by its content.
        write("small/0", &noise(1000 + u64::from(cached), 500));
        let (third, parent) = backup();
        assert!(parent.is_some());
        whole(&third);
        home.run(&["check", "--read-data"]).ok();
        let changed = noise(1000 + u64::from(cached), 500);
        assert_eq!(home.command().args(["cat", &third, "small/0"]).output().unwrap().stdout, changed);
        home.run(&AT_ONCE).ok();
        whole(&third);
        write("small/0", &noise(0, 100));
    }
    mounted(&home, &second, &root);
}

/// A mount shows what it should.
fn mounted(home: &Home, id: &str, root: &std::path::Path) {
    fs::create_dir(home.path("mnt")).unwrap();
    let mut running = home.spawn(&["mount", "mnt", "--foreground"]);
    let at = home.path("mnt").join("by-id").join(id).join("files");
    running.until("it is mounted", || at.exists());
    let compared = std::process::Command::new("diff").args(["-r"]).arg(root).arg(&at).output().unwrap();
    running.send(Signal::TERM);
    let ended = running.end();
    assert!(compared.status.success(), "{compared:?} {ended:?}");
}

/// What a Job of a cluster has forgotten goes for good by a Job alone, which looks whether the backup is still gone.
#[test]
fn what_a_job_has_forgotten_is_left_to_the_jobs() {
    let home = Home::with_repository();
    let (one, two) = (home.backup("one", &noise(1, MIB)), home.backup("two", &noise(2, MIB)));
    let key = fs::read_to_string(home.path("key")).unwrap();
    let key = Credential::KeyFile(key.trim().as_bytes().to_vec().into());
    let storage = std::sync::Arc::new(Local::new(home.path("repo"), false));
    let system = std::sync::Arc::new(System::default());
    let repository = Repository::open(Components { storage, clock: system.clone(), rng: system }, &key).unwrap();
    repository.forget(&one.parse().unwrap(), std::time::Duration::ZERO, "job: backup x is gone").unwrap();
    let plan = home.run(&["gc", "--dry-run"]).ok().stdout;
    assert!(plan.contains("1 snapshot, whose delay is over, to the Jobs") && plan.contains("nothing would"), "{plan}");
    let ran = home.run(&[&AT_ONCE[..], &["--json"]].concat()).ok().json();
    assert_eq!((&ran["left_to_jobs"], &ran["settled"], &ran["deleted"]["packs"]), (&json!(1), &json!(0), &json!(0)));
    home.run(&["unforget", &one]).ok();
    // A shorter delay counts, a longer one does not.
    home.run(&["forget", &one]).ok();
    let again = |delay: &[&str]| home.run(&[&["forget", &one][..], delay].concat()).ok().stdout;
    for delay in [&[][..], &["--delay", "30d"]] {
        assert!(again(delay).contains("was forgotten before"), "{delay:?}");
    }
    let sooner = again(&["--delay", "0s"]);
    assert!(sooner.contains("goes sooner") && sooner.contains("the next `wherry gc` makes that final"), "{sooner}");
    assert!(again(&["--delay", "0s"]).contains("was forgotten before"));
    let ran = home.run(&[&AT_ONCE[..], &["--json"]].concat()).ok().json();
    assert_eq!((&ran["left_to_jobs"], &ran["settled"], &ran["deleted"]["packs"]), (&json!(0), &json!(1), &json!(1)));
    assert!(home.run(&["snapshots"]).ok().stdout.contains(&two[..8]));
    // Nor does another command that collects make it final.
    repository.forget(&two.parse().unwrap(), std::time::Duration::ZERO, "job: backup y is gone").unwrap();
    let ran = home.run(&["key", "rotate", "--rewrite", "--json"]).ok().json();
    assert_eq!((&ran["rewrite"]["left_to_jobs"], &ran["rewrite"]["settled"]), (&json!(1), &json!(0)), "{ran}");
    home.run(&["unforget", &two]).ok();
}

/// A forget that cannot be read says nothing of when it is over, stops nobody, and is told with the way out. One that is final is told by
/// what is left of it.
#[test]
fn a_forget_that_cannot_be_read_is_told_and_asked_anew() {
    let home = Home::with_repository();
    let [gone, id, _] = [1, 2, 3].map(|n| home.backup("vm", &noise(n, MIB)));
    forget(&home, &gone);
    home.run(&AT_ONCE).ok();
    assert_eq!(home.tree(&format!("repo/forget/{gone}")).len(), 2);
    let ran = home.run(&["show", &gone]);
    assert!(ran.code != 0 && ran.stderr.contains("was forgotten for good"), "{ran:?}");

    home.run(&["forget", &id, "-q"]).ok();
    let due = || home.run(&["snapshots", "--forgotten", "--json"]).ok().json()[0]["due"].clone();
    assert!(due().is_string());
    let asked = home.tree(&format!("repo/forget/{id}"));
    assert_eq!(asked.len(), 1);
    asked.keys().for_each(|path| fs::write(path, "damaged").unwrap());
    assert!(due().is_null());
    let way_out = format!("`wherry unforget {id}`, then `wherry forget {id}`");
    for args in [&["snapshots", "--forgotten"][..], &["show", &id], &AT_ONCE] {
        let ran = home.run(args).ok();
        assert!(ran.stderr.contains(&way_out), "{ran:?}");
        assert!(args[0] != "snapshots" || ran.stdout.contains("unknown"), "{ran:?}");
    }
    home.run(&["unforget", &id, "-q"]).ok();
    home.run(&["forget", &id, "-q"]).ok();
    assert!(due().is_string());
    // Who says how long is asked for anew at once.
    let asked = home
        .tree(&format!("repo/forget/{id}"))
        .into_keys()
        .filter(|path| path.to_string_lossy().ends_with("-asked"))
        .max()
        .unwrap();
    fs::write(asked, "damaged").unwrap();
    home.run(&["forget", &id, "--delay", "1d", "-q"]).ok();
    assert!(due().is_string());
}

/// Only that a collector had seen it tells of a record which the storage has lost.
#[test]
fn a_record_that_was_lost_is_told_and_given_up() {
    let home = Home::with_repository();
    let ids = [1, 2, 3].map(|n| home.backup("vm", &noise(n, MIB)));
    forget(&home, &ids[0]);
    home.run(&["gc", "-q"]).ok();
    home.run(&["forget", "ffffffffffffffffffffffffffffffff"]).fails(14);
    let folder = fs::read_dir(home.path("repo/snap")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(folder.join(&ids[1])).unwrap();
    let ran = home.run(&["check"]);
    assert!(ran.code == 13 && ran.stdout.contains(&ids[1]) && ran.stdout.contains("wherry forget"), "{ran:?}");
    home.run(&["forget", &ids[1]]).ok();
    home.run(&["check"]).ok();
    home.run(&["forget", &ids[1]]).fails(14);
}
