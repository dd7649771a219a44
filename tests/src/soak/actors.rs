//! Who works on the repository, each in a thread of its own, until the soak is over.

use super::Soak;
use super::ledger::Promise;
use super::process::Ended;
use crate::small::{noise, splitmix};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Bytes of a chunk.
const CHUNK: usize = 64 << 10;
/// Chunks of a disk.
const DISK: u64 = 160;
/// Every other chunk is one of so few: what one volume drops another one has, drops too, and gets back. The others are never had
/// again: nobody stores another copy of what is lost of them.
const POOL: u64 = 600;
/// What a file of the mount says that cannot be read.
const EIO: i32 = 5;
/// Snapshots of a volume that are not forgotten.
const KEPT: usize = 2;

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Backs up a disk again and again, with other content each time.
pub(super) fn write(soak: &Soak, n: usize, seed: u64) {
    let mut state = seed;
    let volume = format!("vm{n}");
    let (name, cache) = (format!("{volume}.raw"), format!("cache-{}", n / 2));
    let mut disk = vec![0; DISK as usize * CHUNK];
    while !soak.is_over() {
        for _ in 0..1 + splitmix(&mut state) % (DISK / 2) {
            // The front changes often, the end seldom: packs lose their chunks bit by bit.
            let at = ((splitmix(&mut state) % DISK) * (splitmix(&mut state) % DISK) / DISK) as usize * CHUNK;
            let which = splitmix(&mut state);
            let which = if which.is_multiple_of(2) { 1 + which / 2 % POOL } else { which };
            disk[at..at + CHUNK].copy_from_slice(&noise(which, CHUNK));
        }
        let path = soak.home.write(&name, &disk);
        let run = soak.ledger.begin(&volume, hash(&disk));
        let tag = format!("run={run}");
        let args = ["backup", &path, "--name", &volume, "--tag", &tag, "--json", "-q", "--memory", "64M"];
        let ended = soak.run("backup", &cache, &args);
        // What was named is promised, however the process ended then.
        match (ended.json["snapshot"].as_str(), ended.code) {
            (Some(id), code) => {
                take(soak, id, run);
                soak.count("snapshots", 1);
                soak.count("snapshots of backups that were ended after they had named it", (code != Some(0)).into());
            }
            (None, Some(0)) => {
                soak.wrong(format!("a backup of {volume} ended well and named no snapshot: {}", ended.json));
            }
            (None, _) => continue,
        }
        soak.pause(Duration::from_millis(splitmix(&mut state) % 1500));
    }
}

/// Whether that is news.
fn take(soak: &Soak, id: &str, run: usize) -> bool {
    soak.ledger.take(id, run).unwrap_or_else(|what| {
        soak.wrong(what);
        false
    })
}

/// Takes what stands and nobody was told of into the ledger: its process was ended between the commit and the word of it. All of it is
/// a root for every collector, so it must restore like any other one, and must go like any other one, or less and less would be garbage.
fn find_strangers(soak: &Soak) -> Ended {
    let ended = soak.run("snapshots", "cache-0", &["snapshots", "--json", "-q"]);
    for listed in ended.json.as_array().into_iter().flatten() {
        let id = listed["snapshot"].as_str().unwrap_or_default();
        let run = listed["tags"]["run"].as_str().and_then(|run| run.parse().ok());
        match run {
            Some(run) => soak.count("strangers", take(soak, id, run).into()),
            None => soak.wrong(format!("a snapshot that nobody made is listed: {listed}")),
        }
    }
    ended
}

/// Forgets what is older, and changes its mind now and then.
pub(super) fn forget(soak: &Soak, seed: u64) {
    let mut state = seed;
    let target = soak.home.text("restored-before-it-is-forgotten");
    while !soak.is_over() {
        soak.pause(Duration::from_millis(200 + splitmix(&mut state) % 1200));
        if splitmix(&mut state).is_multiple_of(3) {
            find_strangers(soak);
        }
        // Some at a time: one alone does not keep up with four who write, nearly all would stand to the end, and little be garbage.
        let mut goes = soak.ledger.older(KEPT);
        // So few that it does not read all the time.
        let odds = (goes.len() as u64 / 8).max(3);
        goes.retain(|_| splitmix(&mut state).is_multiple_of(odds));
        let Some(Promise { id, .. }) = goes.first() else { continue };
        for promise in &goes {
            // Most are never read otherwise.
            if splitmix(&mut state).is_multiple_of(3) && restore_one(soak, promise, &target) == Some(0) {
                soak.count("restores before a forget", 1);
            }
            soak.ledger.doom(&promise.id);
        }
        let delay = ["0s", "0s", "3s", "60s"][(splitmix(&mut state) % 4) as usize];
        let ids = goes.iter().map(|promise| promise.id.as_str());
        let args: Vec<_> = std::iter::once("forget").chain(ids).chain(["--delay", delay, "-q", "--json"]).collect();
        if soak.run("forget", "cache-0", &args).code != Some(0) {
            // It may have been done, or be done yet.
            continue;
        }
        soak.count("forgotten", goes.len() as u64);
        if splitmix(&mut state).is_multiple_of(3)
            && soak.run("unforget", "cache-0", &["unforget", id, "-q"]).code == Some(0)
        {
            soak.ledger.save(id);
            soak.count("unforgotten", 1);
        }
    }
}

/// Collects, with limits that are far too short for the stopped and the slow.
pub(super) fn collect(soak: &Soak, seed: u64) {
    let mut state = seed;
    while !soak.is_over() {
        let grace = ["0s", "0s", "2s"][(splitmix(&mut state) % 3) as usize];
        let fence = ["0s", "4s", "4s", "15s"][(splitmix(&mut state) % 4) as usize];
        let ended = soak.run("gc", "cache-1", &["gc", "--grace", grace, "--fence-after", fence, "-q", "--json"]);
        if ended.code == Some(0) {
            count_collected(soak, &ended.json);
        }
        soak.pause(Duration::from_millis(splitmix(&mut state) % 3000));
    }
}

fn count_collected(soak: &Soak, report: &serde_json::Value) {
    soak.count("collections", 1);
    let packs = |of: &str| report[of]["packs"].as_u64().unwrap_or_default();
    soak.count("packs condemned", packs("condemned"));
    soak.count("packs repacked", packs("repacked"));
    soak.count("packs deleted", packs("deleted"));
    soak.count("packs rescued", report["rescued"].as_u64().unwrap_or_default());
    soak.count("runs fenced", report["fenced"].as_array().map_or(0, |all| all.len() as u64));
}

fn pick<T>(all: &[T], state: &mut u64) -> Option<usize> {
    (!all.is_empty()).then(|| (splitmix(state) % all.len() as u64) as usize)
}

/// Restores what it finds in the ledger.
pub(super) fn restore(soak: &Soak, seed: u64) {
    let mut state = seed;
    let target = soak.home.text(&format!("restored-{seed}"));
    while !soak.is_over() {
        soak.pause(Duration::from_millis(splitmix(&mut state) % 800));
        let standing = soak.ledger.standing();
        let Some(at) = pick(&standing, &mut state) else { continue };
        if restore_one(soak, &standing[at], &target) == Some(0) {
            soak.count("restores", 1);
        }
    }
}

/// How it ended; says what is wrong.
fn restore_one(soak: &Soak, promise: &Promise, target: &str) -> Option<i32> {
    let Promise { id, volume, hash: expected, .. } = promise;
    let _ = fs::remove_file(target);
    let ended = soak.run("restore", "cache-0", &["restore", id, target, "--force", "-q"]);
    match ended.code {
        Some(0) => {
            let found = hash(&fs::read(target).expect("what was restored"));
            match found == *expected {
                true => soak.ledger.restored(id),
                false => soak.wrong(format!("snapshot {id} of {volume} restores to {found} and not to {expected}")),
            }
        }
        // Not reached: that says nothing about the data.
        None | Some(1) => {}
        // It was forgotten before it was let in. Who was let in reads to the end: anything else is told as wrong, of such a one, too.
        Some(14) if soak.ledger.is_doomed(id) => soak.count("restores of what was forgotten meanwhile", 1),
        Some(code) => soak.wrong(format!("snapshot {id} of {volume} does not restore ({code}): {}", ended.line)),
    }
    ended.code
}

/// Checks while everybody else goes on.
pub(super) fn check(soak: &Soak, seed: u64) {
    let mut state = seed;
    while !soak.is_over() {
        soak.pause(Duration::from_millis(2000 + splitmix(&mut state) % 4000));
        let read: &[&str] = if splitmix(&mut state).is_multiple_of(2) { &["--read-data"] } else { &[] };
        let args = [&["check", "-q", "--json"], read].concat();
        if soak.run("check", "cache-1", &args).code == Some(0) {
            soak.count("checks", 1);
        }
    }
}

/// Reads disks in a mount that stays open, and mounts anew when it was killed.
pub(super) fn mount(soak: &Soak, seed: u64) {
    let mut state = seed;
    while !soak.is_over() {
        let folder = soak.home.path("mnt");
        fs::create_dir_all(&folder).expect("a folder to mount at");
        std::thread::scope(|scope| {
            let args = ["mount", folder.to_str().expect("a path in UTF-8"), "--foreground", "-q"];
            let process = scope.spawn(move || soak.run("mount", "cache-mount", &args));
            while !process.is_finished() {
                if soak.is_over() {
                    unmount(&folder);
                    break;
                }
                soak.pause(Duration::from_millis(100 + splitmix(&mut state) % 500));
                let standing = soak.ledger.standing();
                if let Some(at) = pick(&standing, &mut state) {
                    read_one(soak, &folder, &standing[at]);
                }
            }
            // One that had just begun when it was to end.
            while !process.is_finished() {
                std::thread::sleep(Duration::from_millis(100));
                unmount(&folder);
            }
        });
        unmount(&folder);
    }
}

fn unmount(folder: &Path) {
    let _ = rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH);
}

/// What can be read is right; what cannot be reached, or is not in the listing yet, says nothing.
fn read_one(soak: &Soak, folder: &Path, promise: &Promise) {
    let Promise { id, volume, hash: expected, .. } = promise;
    // What was made meanwhile is shown after a listing only.
    let _ = fs::read_dir(folder.join("by-id")).map(Iterator::count);
    let bytes = match fs::read(folder.join("by-id").join(id).join("disk.raw")) {
        Ok(bytes) => bytes,
        Err(e) => {
            soak.count(format!("reads from the mount that failed: {}", e.kind()), 1);
            if e.raw_os_error() == Some(EIO) {
                read_again(soak, folder, promise);
            }
            return;
        }
    };
    let found = hash(&bytes);
    match found == *expected {
        true => soak.ledger.restored(id),
        false => soak.wrong(format!("snapshot {id} of {volume} reads as {found} in the mount, and not as {expected}")),
    }
    soak.count("restores from the mount", 1);
}

/// What an injected fault, or the end of the mount, has spoilt can be read when there are no faults, or says that there is no mount. What
/// stands and still cannot be read is lost.
fn read_again(soak: &Soak, folder: &Path, promise: &Promise) {
    soak.spoil(None);
    let path = folder.join("by-id").join(&promise.id).join("disk.raw");
    let is_lost = (0..3).all(|_| {
        // Requests that were hit already are tried again until then.
        soak.pause(Duration::from_secs(5));
        !soak.is_over() && fs::read(&path).is_err_and(|e| e.raw_os_error() == Some(EIO))
    });
    if is_lost && !soak.ledger.is_doomed(&promise.id) {
        soak.wrong(format!(
            "snapshot {} of {} cannot be read from the mount, without any fault",
            promise.id, promise.volume
        ));
    }
    soak.spoil(Some(soak.ledger.ever().0));
}

/// When all is quiet: what is garbage goes, and everything that was promised is there, and nothing else.
pub(super) fn verify(soak: &Soak) {
    let ended = find_strangers(soak);
    if ended.code != Some(0) {
        soak.wrong(format!("snapshots at the end ended with {:?}: {}", ended.code, ended.line));
    }
    let ended = soak.run("snapshots", "cache-0", &["snapshots", "--forgotten", "--json", "-q"]);
    match (ended.code, ended.json.as_array()) {
        (Some(0), Some(listed)) => {
            for id in listed.iter().filter_map(|listed| listed["snapshot"].as_str()) {
                if !soak.ledger.is_doomed(id) {
                    soak.wrong(format!("snapshot {id} is forgotten, and nobody asked for that"));
                }
            }
        }
        (code, _) => soak.wrong(format!("snapshots --forgotten at the end ended with {code:?}: {}", ended.line)),
    }
    for _ in 0..4 {
        let ended = soak.run("gc", "cache-1", &["gc", "--grace", "0s", "--fence-after", "0s", "-q", "--json"]);
        match ended.code {
            Some(0) => count_collected(soak, &ended.json),
            code => soak.wrong(format!("gc at the end ended with {code:?}: {}", ended.line)),
        }
    }
    let ended = soak.run("check", "cache-1", &["check", "--read-data", "-q", "--json"]);
    if ended.code != Some(0) {
        soak.wrong(format!("check at the end ended with {:?}: {} {}", ended.code, ended.line, ended.json));
    }
    let target = soak.home.text("restored-at-the-end");
    let (standing, doomed) = soak.ledger.all();
    for promise in standing {
        if restore_one(soak, &promise, &target) != Some(0) {
            soak.wrong(format!("snapshot {} of {} was not restored at the end", promise.id, promise.volume));
        }
        soak.count("restores at the end", 1);
    }
    // Those whose forget never came about, or whose time has not come, are there.
    for promise in doomed {
        match restore_one(soak, &promise, &target) {
            Some(0) => soak.count("restores at the end of what was to be forgotten", 1),
            Some(14) => {}
            code => soak.wrong(format!(
                "snapshot {} of {}, which was to be forgotten, ends with {code:?}",
                promise.id, promise.volume
            )),
        }
    }
    let (promises, restored) = soak.ledger.ever();
    soak.count("promises", promises);
    soak.count("promises that were restored", restored);
}
