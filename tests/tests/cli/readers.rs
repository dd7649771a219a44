//! restore, cat and mount tell the repository what they read, work where nothing can be written, and find what is not
//! where the map says.

use super::harness::{Home, Ran};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wherry_repo::storage::{Local, keys};
use wherry_repo::{Credential, PackKind, Repository, SnapshotId};
use wherry_tests::small::{components, noise};

const UNIT: usize = 64 << 10;
/// Three leaves of a map.
const DISK: usize = 300 * UNIT + 1000;

/// A second backup that knows nothing of what is stored; gives its id.
fn backup_again(home: &Home, volume: &str) -> String {
    let args = ["backup", "vm.raw", "--name", volume, "--parent", "none", "--no-cache", "--json"];
    home.run(&args).ok().json()["snapshot"].as_str().unwrap().to_owned()
}

/// The packs of a snapshot, of chunks and of map nodes.
fn packs(home: &Home, snapshot: &str, kind: PackKind) -> Vec<PathBuf> {
    let prefix = if kind == PackKind::Data { keys::PACKS } else { keys::META };
    home.tree(&format!("repo/{prefix}")).into_keys().filter(|path| path.to_str().unwrap().contains(snapshot)).collect()
}

/// The sessions that have no outcome: of what reads or writes now, or was killed.
fn open(home: &Home) -> Vec<String> {
    let ended: Vec<String> = home.tree("repo/snap").into_keys().map(|path| last(&path)).collect();
    let opens = home.tree("repo/sess").into_keys().filter(|path| path.ends_with("open"));
    opens.map(|path| last(path.parent().unwrap())).filter(|id| !ended.contains(id)).collect()
}

fn last(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn forget_for_good(home: &Home, id: &str) {
    home.run(&["forget", id, "--delay", "0s", "-q"]).ok();
    let key = fs::read_to_string(home.path("key")).unwrap();
    let key = Credential::KeyFile(key.trim().as_bytes().to_vec().into());
    let storage = Arc::new(Local::new(home.path("repo"), false));
    let system = wherry_repo::Components { clock: Arc::new(wherry_repo::System::default()), ..components(storage) };
    let id: SnapshotId = id.parse().unwrap();
    assert!(Repository::open(system, &key).unwrap().settle(&id).unwrap());
}

fn sh(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Something mounted; gone when this is dropped.
struct Mounted {
    at: String,
    stderr: String,
}

impl Mounted {
    /// The snapshots of a repository.
    fn new(home: &Home, args: &[&str]) -> Self {
        let at = home.text("mnt");
        fs::create_dir_all(&at).unwrap();
        // It stays behind: a pipe would be closed.
        let log = fs::File::create(home.path("mount.log")).unwrap();
        let mut command = home.command();
        let status = command.arg("mount").arg(&at).args(args).stdout(Stdio::null()).stderr(log).status().unwrap();
        let mounted = Self { at, stderr: home.text("mount.log") };
        assert!(status.success(), "{}", mounted.said());
        mounted
    }

    fn bind(from: &str, at: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        sh("mount", &["--bind", from, at]);
        let mounted = Self { at: at.to_owned(), stderr: String::new() };
        sh("mount", &["-o", "remount,bind,ro", at]);
        mounted
    }

    fn disk(&self, id: &str) -> PathBuf {
        Path::new(&self.at).join("by-id").join(id).join("disk.raw")
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    fn unmount(self) {
        sh("umount", &[&self.at]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        if mounts.lines().any(|line| line.split(' ').nth(4) == Some(&self.at)) {
            let _ = Command::new("umount").args(["-l", &self.at]).status();
        }
    }
}

/// The disk of a snapshot, by restore, by cat and by mount. Gives what restore printed, and what cat and mount logged.
#[track_caller]
fn assert_reads(home: &Home, id: &str, disk: &[u8], args: &[&str]) -> [String; 3] {
    let target = home.path("target.raw");
    let _ = fs::remove_file(&target);
    let restored = home.run(&[&["restore", id, "target.raw"], args].concat()).ok();
    assert!(fs::read(&target).unwrap() == disk, "restore");
    let cat = home.command().args(["cat", id]).args(args).output().unwrap();
    assert!(cat.status.success() && cat.stdout == disk, "cat: {}", String::from_utf8_lossy(&cat.stderr));
    let mount = Mounted::new(home, args);
    assert!(fs::read(mount.disk(id)).unwrap() == disk, "mount");
    let said = mount.said();
    mount.unmount();
    [restored.stdout, String::from_utf8(cat.stderr).unwrap(), said]
}

#[test]
fn what_is_read_is_noted_and_the_note_is_taken_away() {
    let home = Home::with_small_chunks();
    let disk = noise(1, DISK);
    let id = home.backup("vm", &disk);
    home.backup("other", b"small");
    let before = home.tree("repo");
    let mount = Mounted::new(&home, &[]);
    assert_eq!(open(&home).len(), 0, "a mount notes only what is opened");
    let file = fs::File::open(mount.disk(&id)).unwrap();
    let second = fs::File::open(mount.disk(&id)).unwrap();
    assert_eq!(open(&home).len(), 1);
    drop((file, second));
    mount.unmount();
    wait("the mount to end", || open(&home).is_empty());
    assert_reads(&home, &id, &disk, &[]);
    wait("the mount to end", || open(&home).is_empty());
    assert_eq!(home.tree("repo"), before, "nothing is left of any reader");
    // A signal ends a cat that nobody reads, and its note.
    for signal in ["-INT", "-TERM"] {
        let mut child = home.command().args(["cat", &id]).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        assert_eq!(open(&home).len(), 1);
        sh("kill", &[signal, &child.id().to_string()]);
        // What was under way is written before it looks.
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).unwrap();
        let code = child.wait().unwrap().code();
        assert!(rest.len() + 1 < DISK || code == Some(0), "{code:?}");
        assert!(code == Some(0) || code == Some(if signal == "-INT" { 130 } else { 143 }), "{code:?}");
        assert_eq!(open(&home).len(), 0);
    }
}

#[test]
fn a_killed_reader_leaves_a_note_that_disturbs_nobody_and_goes_with_the_next_backup() {
    let home = Home::with_small_chunks();
    let disk = noise(1, DISK);
    let id = home.backup("vm", &disk);
    let [mut killed, mut live] = [(); 2].map(|()| {
        let mut child = home.command().args(["cat", &id]).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        child
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    home.run(&["check", "--read-data"]).ok();
    assert_eq!(open(&home).len(), 2);
    let ran = home.run(&["backup", "vm.raw", "--name", "vm", "--json"]).ok();
    assert_eq!((ran.json()["resumed"].as_bool(), ran.json()["new"].as_u64()), (Some(false), Some(0)));
    assert_eq!(open(&home).len(), 1, "the note of who still reads stays, and no run takes a reader over");
    live.kill().unwrap();
    live.wait().unwrap();
}

#[test]
fn a_repository_that_cannot_be_written_to_is_read() {
    let home = Home::with_small_chunks();
    let disk = noise(1, DISK);
    let id = home.backup("vm", &disk);
    let before = home.tree("repo");
    let ro = home.text("ro");
    let bind = Mounted::bind(&home.text("repo"), &ro);
    assert!(fs::write(Path::new(&ro).join("x"), "").is_err());
    let [_, cat, mount] = assert_reads(&home, &id, &disk, &["--repo", &ro]);
    for said in [cat, mount] {
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("without a session") && said.contains("Read-only"), "{said}");
    }
    let ran = home.run(&["check", "--read-data", "--repo", &ro]).ok();
    let line =
        ran.stdout.lines().find(|line| line.starts_with("not kept  ")).unwrap_or_else(|| panic!("{}", ran.stdout));
    assert!(line.contains("Read-only") && ran.stdout.ends_with("no damage found\n"), "{}", ran.stdout);
    assert_eq!(
        home.run(&["check", "--read-data", "--json", "--repo", &ro]).ok().json()["kept"],
        serde_json::json!(false)
    );
    drop(bind);
    assert_eq!(home.tree("repo"), before);
    // Of another user, who may read it and no more.
    let nobody_with = |extra: &[(&str, String)], args: &[&str]| -> Ran {
        let command = home.command();
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(command.get_program()).args(args);
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                other.env(name, value);
            }
        }
        other.envs(extra.iter().map(|(name, value)| (name, value)));
        other.current_dir(home.path("")).stdin(Stdio::null()).output().unwrap().into()
    };
    let nobody = |args: &[&str]| nobody_with(&[], args);
    let folder = |mode| fs::set_permissions(home.path(""), fs::Permissions::from_mode(mode)).unwrap();
    sh("chmod", &["-R", "a+rX", &home.text("repo"), &home.text("key")]);
    folder(0o777);
    let ran = nobody(&["restore", &id, "nobodys.raw"]).ok();
    assert!(ran.stderr.contains("without a session") && ran.stderr.contains("denied"), "{}", ran.stderr);
    assert!(fs::read(home.path("nobodys.raw")).unwrap() == disk);
    let ran = nobody(&["cat", &id, "--length", "0"]).ok();
    assert!(ran.stderr.contains("without a session"), "{}", ran.stderr);
    // The home is still that of whoever changed the user, and may not be entered: what settings are there nobody can say.
    let theirs = home.text("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
    let ran = nobody_with(&[("XDG_CONFIG_HOME", theirs.clone())], &["cat", &id, "--length", "0"]).ok();
    assert!(ran.stderr.contains("is left out: it may not be read"), "{}", ran.stderr);
    // One that is seen and not read is no such thing.
    fs::create_dir(home.path("theirs/wherry")).unwrap();
    fs::write(home.path("theirs/wherry/config.toml"), "").unwrap();
    fs::set_permissions(home.path("theirs/wherry/config.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o755)).unwrap();
    nobody_with(&[("XDG_CONFIG_HOME", theirs.clone())], &["cat", &id, "--length", "0"]).fails(2);
    fs::remove_dir_all(&theirs).unwrap();
    folder(0o700);
    assert_eq!(home.tree("repo"), before);
}

#[test]
fn a_forgotten_snapshot_is_read_until_it_is_gone_for_good() {
    let home = Home::with_small_chunks();
    let disk = noise(1, DISK);
    let (id, other) = (home.backup("vm", &disk), home.backup("other", &disk[..DISK / 2]));
    home.run(&["forget", &id, "-q"]).ok();
    home.run(&["restore", &id, "asked.raw"]).ok();
    let cat = home.command().args(["cat", &id]).output().unwrap();
    assert!(cat.status.success() && cat.stdout == disk);
    let mount = Mounted::new(&home, &[&id]);
    assert!(fs::read(mount.disk(&id)).unwrap() == disk);
    mount.unmount();
    home.run(&["unforget", &id, "-q"]).ok();

    let mount = Mounted::new(&home, &[]);
    let file = fs::File::open(mount.disk(&id)).unwrap();
    let mut bytes = vec![0; UNIT];
    file.read_exact_at(&mut bytes, 0).unwrap();
    forget_for_good(&home, &id);
    forget_for_good(&home, &other);
    // What is open stays whole; what is not cannot be opened any more.
    file.read_exact_at(&mut bytes, (DISK - UNIT) as u64).unwrap();
    assert!(bytes == disk[DISK - UNIT..]);
    assert_eq!(open(&home).len(), 1);
    let e = fs::File::open(mount.disk(&other)).unwrap_err();
    assert_eq!(e.kind(), std::io::ErrorKind::NotFound);
    assert!(
        mount.said().contains(&format!("snapshot {other} of \"other\" was forgotten for good")),
        "{}",
        mount.said()
    );
    drop(file);
    mount.unmount();

    fs::create_dir_all(home.path("mnt")).unwrap();
    for spec in [&id, &id[..8]] {
        let reads = [&["restore", spec, "gone.raw"][..], &["cat", spec], &["mount", "mnt", spec], &["check", &id]];
        for args in
            reads.into_iter().chain([&["unforget", spec][..], &["forget", spec], &["pin", spec], &["unpin", spec]])
        {
            let line = home.run(args).fails(14);
            assert!(line.contains(&id), "{args:?}: {line}");
            assert!(args[0] == "check" || line.contains("forgotten for good"), "{line}");
        }
    }
    assert!(!home.path("gone.raw").exists());
}

#[test]
fn what_is_in_other_packs_than_the_map_says_is_found_and_said() {
    let home = Home::with_small_chunks();
    let disk = noise(1, DISK);
    let first = home.backup("vm", &disk);
    let second = backup_again(&home, "copy");
    let all = |id: &str| [packs(&home, id, PackKind::Data), packs(&home, id, PackKind::Meta)].concat();
    let new = all(&second);
    // First the chunks, then the map that leads to them: nodes of the other backup lead to its own chunks.
    for (kind, chunks, nodes) in [(PackKind::Data, 301, 0), (PackKind::Meta, 0, 3)] {
        let old = packs(&home, &first, kind);
        assert!(!old.is_empty(), "{kind:?}");
        old.iter().for_each(|path| fs::remove_file(path).unwrap());
        for args in [&[][..], &["--no-cache"]] {
            // After every `gc --rewrite` it is so: for who asks.
            let [_, cat, mount] = assert_reads(&home, &first, &disk, args);
            for said in [cat, mount] {
                assert!(!said.contains("found by id"), "{said}");
            }
            let [restored, cat, mount] = assert_reads(&home, &first, &disk, &[args, &["-v"]].concat());
            let count = format!("{} chunks or map nodes were not where the map says", chunks + nodes);
            assert!(restored.contains(&count), "{restored}");
            for said in [cat, mount] {
                assert!(said.contains("is found by id in other packs"), "{said}");
                assert!(old.iter().any(|path| said.contains(&last(path))), "{said}");
            }
            for read in [&["check"][..], &["check", "--read-data"], &["check", &first, "--read-data"]] {
                let ran = home.run(&[read, args].concat()).ok();
                let moved = format!("moved     {chunks} chunks and {nodes} map nodes");
                assert!(ran.stdout.contains(&moved), "{}", ran.stdout);
                assert!(ran.stdout.ends_with("no damage found\n"), "{}", ran.stdout);
                let moved = home.run(&[read, args, &["--json"]].concat()).ok().json()["moved"].take();
                assert_eq!(moved, serde_json::json!({ "chunks": chunks, "nodes": nodes }));
            }
        }
    }
    let ran = home.run(&["restore", &second, "second.raw"]).ok();
    assert!(!ran.stdout.contains("ids"), "{}", ran.stdout);

    // One of the copies is damaged: what only it had is named, with its bytes and the pack the map names.
    let pack = &packs(&home, &second, PackKind::Data)[0];
    let mut bytes = fs::read(pack).unwrap();
    bytes[100] ^= 1;
    fs::write(pack, bytes).unwrap();
    home.run(&["check"]).ok();
    let ran = home.run(&["check", "--read-data", "--json"]);
    assert_eq!(ran.code, 13);
    let damages = ran.json()["damages"].take();
    let hits: Vec<_> = damages.as_array().unwrap().iter().flat_map(|d| d["hits"].as_array().unwrap()).collect();
    let hit = hits.iter().find(|hit| hit["snapshot"] == first.as_str()).expect("the first one is hit");
    assert_eq!((hits.len(), &hit["bytes"]), (2, &UNIT.into()));
    let offset = hit["ranges"][0]["offset"].as_u64().unwrap();
    let line = home.run(&["restore", &first, "lost.raw", "-q"]).fails(13);
    let range = format!("bytes {offset} to {}", offset + UNIT as u64 - 1);
    assert!(line.contains(&range) && line.contains(&first) && line.contains("packs/"), "{line}");

    // Without any copy.
    new.iter().filter(|path| path.exists()).for_each(|path| fs::remove_file(path).unwrap());
    let ran = home.run(&["check", "--json"]);
    assert_eq!((ran.code, ran.json()["damages"][0]["hits"][0]["whole"].as_bool()), (13, Some(true)));
    let line = home.run(&["cat", &first, "-q"]).fails(13);
    assert!(line.contains("bytes 0 to ") && line.contains("meta/") && line.contains(&first), "{line}");
    let mount = Mounted::new(&home, &[]);
    let e = fs::read(mount.disk(&first)).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert!(mount.said().contains("bytes 0 to "), "{}", mount.said());
    mount.unmount();
}
