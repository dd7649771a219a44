//! The real binary is killed (SIGKILL) at times that are spread over all orders of magnitude, and while it surely writes
//! a pack. What it acknowledged restores, what it did not acknowledge is not there, and the same command goes on.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use wherry_tests::small::{noise, splitmix};

const MIB: usize = 1 << 20;
/// How a run was hit, if it was writing a pack.
const IN_A_PACK: &str = "in a pack";

/// A folder with a key, and a repository in it.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(home.dir.path().join("key"), noise(1, 32)).unwrap();
        home.ok(&["init"]);
        home
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(wherry_tests::binary::wherry_bin());
        let environment = [("WHERRY_REPOSITORY", "repo"), ("WHERRY_KEY_FILE", "key"), ("WHERRY_CACHE_DIR", "cache")];
        command.args(args).args(["-q", "--json"]).envs(environment).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn ok(&self, args: &[&str]) -> serde_json::Value {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Starts it, kills it after so long, and tells whether it had ended well before.
    fn kill(&self, args: &[&str], after: Duration) -> bool {
        let mut child = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        let _ = child.kill();
        child.wait().unwrap().success()
    }

    /// Starts it, and kills it while a pack is half-made, so many others having been stored by it. It is stopped before:
    /// what is there then is there when it is killed. False when it ended before one was seen.
    fn kill_in_a_pack(&self, args: &[&str], stored: usize) -> bool {
        let (old, enough) = (self.half_made(), self.pack_count() + stored);
        let mut child = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let half = || !self.half_made().is_subset(&old);
        let mut begun = false;
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            // Counted until it is enough: what is waited for then is there for a short time only.
            begun = begun || self.pack_count() >= enough;
            if !begun || !half() {
                continue;
            }
            kill_process(pid, Signal::STOP).unwrap();
            // All its threads; or it has ended, which is seen above.
            waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
            if half() {
                child.kill().unwrap();
                child.wait().unwrap();
                return true;
            }
            // It had got its name meanwhile: the next one.
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// Packs on their way to a name, of this process or of one that was killed: files of the storage's own temporary
    /// folder that are too large for anything else.
    fn half_made(&self) -> BTreeSet<OsString> {
        let entries = std::fs::read_dir(self.path("repo/_tmp")).into_iter().flatten().flatten();
        let large = entries.filter(|entry| entry.metadata().is_ok_and(|m| m.len() >= MIB as u64));
        large.map(|entry| entry.file_name()).collect()
    }

    fn pack_count(&self) -> usize {
        fn count(path: &Path) -> usize {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
        }
        count(&self.path("repo/packs"))
    }

    fn snapshots(&self) -> usize {
        self.ok(&["snapshots"]).as_array().unwrap().len()
    }

    /// Sessions that were ever opened.
    fn sessions(&self) -> usize {
        std::fs::read_dir(self.path("repo/sess")).map_or(0, Iterator::count)
    }

    /// Bytes of data packs in the repository.
    fn packs(&self) -> u64 {
        size(&self.path("repo/packs"))
    }
}

fn size(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .map(Result::unwrap)
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => size(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

/// 20 ms to 4 s, each order of magnitude as often.
fn moment(state: &mut u64) -> Duration {
    let share = (splitmix(state) >> 11) as f64 / (1u64 << 53) as f64;
    Duration::from_secs_f64(0.02 * 200f64.powf(share))
}

#[test]
fn a_killed_backup_loses_nothing_acknowledged() {
    let home = Home::new();
    let mut state = 7;
    let mut disk = noise(2, 96 * MIB);
    let (mut acknowledged, mut hits) = (0, Vec::new());
    for round in 0..14 {
        // Other bytes each round, so that there is something to upload, and slow enough to be hit while it does.
        let at = (splitmix(&mut state) % 64) as usize * MIB;
        disk[at..at + 24 * MIB].copy_from_slice(&noise(100 + round, 24 * MIB));
        std::fs::write(home.path("disk"), &disk).unwrap();
        let (sessions, snapshots, old) = (home.sessions(), home.snapshots(), home.half_made());
        // Small packs, sent slowly: whatever the machine, most of the time is spent in sending.
        let slow = ["backup", "disk", "--name", "vm", "--memory", "64M", "--limit-upload", "6M"];
        // Every fourth one at any time; the others in the first pack or the second.
        let (ended, when) = match round % 4 {
            0 => {
                let after = moment(&mut state);
                (home.kill(&slow, after), format!("{after:.3?}"))
            }
            _ => (!home.kill_in_a_pack(&slow, round as usize % 2), "a part of a pack".to_owned()),
        };
        // What the dead one was writing stays until the next writer comes.
        let in_a_pack = home.half_made().difference(&old).next().is_some();
        let now = home.snapshots();
        let hit = match (ended, now > snapshots, in_a_pack, home.sessions() > sessions) {
            (true, ..) => "it had ended",
            (false, true, ..) => "after the commit",
            (false, false, true, _) => IN_A_PACK,
            (false, false, false, true) => "between two packs",
            (false, false, false, false) => "before the session",
        };
        println!("round {round}: killed after {when}: {hit}");
        hits.push(hit);
        // One that was acknowledged is there; one that was not is there whole or not at all.
        assert!(now == snapshots + 1 || (now == snapshots && !ended), "round {round}: {snapshots} then {now}, {hit}");
        acknowledged = now;
        if round % 5 == 4 {
            home.ok(&["backup", "disk", "--name", "vm"]);
            acknowledged += 1;
            home.ok(&["restore", "latest", "out", "--force"]);
            assert!(std::fs::read(home.path("out")).unwrap() == disk, "round {round}");
        }
    }
    let running = hits.iter().filter(|hit| **hit == IN_A_PACK).count();
    assert!(2 * running >= hits.len(), "{hits:?}");
    assert_eq!(home.snapshots(), acknowledged);
    home.ok(&["backup", "disk", "--name", "vm"]);
    home.ok(&["check", "--read-data"]);
    home.ok(&["restore", "latest", "out", "--force", "--verify"]);
    assert!(std::fs::read(home.path("out")).unwrap() == disk);
}

#[test]
fn what_a_killed_run_stored_is_not_sent_again() {
    let home = Home::new();
    let mut disk = noise(3, 256 * MIB);
    std::fs::write(home.path("disk"), &disk).unwrap();
    // Until about half is stored, however fast this machine is.
    let slow = ["backup", "disk", "--name", "vm", "--limit-upload", "64M"];
    let mut child = home.command(&slow).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while home.packs() < 128 * MIB as u64 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before half was stored");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(home.snapshots(), 0);
    let half = home.packs();
    disk[..MIB].copy_from_slice(&noise(4, MIB));
    disk[255 * MIB..].copy_from_slice(&noise(5, MIB));
    std::fs::write(home.path("disk"), &disk).unwrap();
    let report = home.ok(&["backup", "disk", "--name", "vm"]);
    assert_eq!(report["resumed"], true);
    let (all, whole) = (home.packs(), 256 * MIB as u64);
    println!("{half} bytes stored by the killed run, {all} by both");
    // Two MiB changed; what was under way is half a pack in the storage's own temporary folder, not counted here.
    assert!(all <= whole * 105 / 100 + 4 * MIB as u64, "{all} bytes were stored for {whole}");
    home.ok(&["restore", "latest", "out"]);
    assert!(std::fs::read(home.path("out")).unwrap() == disk, "the restore is the disk as it is now");
}

#[test]
fn a_killed_restore_goes_on() {
    let home = Home::new();
    let disk = noise(6, 192 * MIB);
    std::fs::write(home.path("disk"), &disk).unwrap();
    home.ok(&["backup", "disk", "--name", "vm"]);
    let mut state = 11;
    for round in 0..6 {
        let after = Duration::from_millis(20 + splitmix(&mut state) % 300);
        let ended = home.kill(&["restore", "latest", "out"], after);
        println!("round {round}: killed after {after:.3?}, ended before: {ended}");
        if !ended {
            let output = home.command(&["restore", "latest", "out"]).output().unwrap();
            // Killed after its last write, it leaves nothing to go on with: the content is looked at below.
            let code = output.status.code().unwrap();
            assert!(code == 0 || code == 2, "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert!(std::fs::read(home.path("out")).unwrap() == disk, "round {round}");
        // What is whole and was not made by an interrupted run is somebody's: it is not written to.
        let output = home.command(&["restore", "latest", "out"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        std::fs::remove_file(home.path("out")).unwrap();
    }
}
