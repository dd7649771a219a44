//! `--changed-blocks`: what a list says is believed, of the one snapshot it belongs to.

use super::harness::{Home, Ran, shape};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::format::records::Generation;
use wherry_repo::storage::{Local, keys};
use wherry_repo::{Credential, Key, PackId, PackKind, Repository, SessionId};
use wherry_tests::small::{components, noise};

const UNIT: usize = 64 << 10;

/// A volume, the image it is backed up from, and the list.
struct Fixture {
    home: Home,
    disk: Vec<u8>,
}

impl Fixture {
    fn new() -> Self {
        let home = Home::new();
        home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
        Self { home, disk: noise(1, 40 * UNIT + 100) }
    }

    /// Changes a chunk.
    fn change(&mut self, chunk: usize, seed: u64) {
        let end = self.disk.len().min((chunk + 1) * UNIT);
        let part = &mut self.disk[chunk * UNIT..end];
        part.copy_from_slice(&noise(seed, part.len()));
    }

    /// The list names these chunks.
    fn list(&self, chunks: &[usize]) {
        let lines: String = chunks.iter().map(|n| format!("{} {}\n", n * UNIT + 5, 17)).collect();
        self.home.write("list", format!("# offset length\n{lines}"));
    }

    fn backup(&self, args: &[&str]) -> Ran {
        let image = self.home.write("image", &self.disk);
        self.home.run(&[&["backup", &image, "--name", "vm", "--json"], args].concat())
    }

    /// A backup that reads everything; gives its id.
    fn whole(&self) -> String {
        id(&self.backup(&[]).ok().json())
    }

    /// A backup with the list; gives the result.
    #[track_caller]
    fn listed(&self, args: &[&str]) -> Value {
        self.backup(&[&["--changed-blocks", "list"], args].concat()).ok().json()
    }

    /// The result says that everything was read, for a reason with these words, and the snapshot is the image.
    #[track_caller]
    fn not_used(&self, report: &Value, words: &str) {
        let said = &report["changed_blocks"];
        assert_eq!(said["used"], false, "{report}");
        assert!(said["reason"].as_str().unwrap().contains(words), "{said}");
        assert_eq!(report["read"], self.disk.len(), "{report}");
        self.restores(report);
    }

    #[track_caller]
    fn restores(&self, report: &Value) {
        assert!(self.content(&id(report)) == self.disk, "another disk came back");
    }

    fn content(&self, id: &str) -> Vec<u8> {
        self.home.run(&["restore", id, "out.raw", "--force", "-q"]).ok();
        let content = fs::read(self.home.path("out.raw")).unwrap();
        fs::remove_file(self.home.path("out.raw")).unwrap();
        content
    }
}

fn id(report: &Value) -> String {
    report["snapshot"].as_str().unwrap().to_owned()
}

#[test]
fn a_list_is_believed() {
    let mut fixture = Fixture::new();
    fixture.list(&[3]);
    fixture.not_used(&fixture.listed(&[]), "no snapshot yet");
    let before = fixture.disk.clone();
    fixture.change(3, 2);
    let disk = fixture.disk.clone();
    // Chunk 20 changed and is not on the list: it is not read.
    fixture.change(20, 2);
    assert_eq!(before[4 * UNIT..], disk[4 * UNIT..]);
    for args in [&[][..], &["--parent", "auto"], &["--parent", "latest"]] {
        let report = fixture.listed(args);
        assert_eq!(report["changed_blocks"], json!({ "used": true, "reason": null }));
        assert_eq!(report["read"], UNIT);
        assert!(fixture.content(&id(&report)) == disk, "{args:?}");
    }
    assert_eq!(fixture.backup(&[]).ok().json()["changed_blocks"], Value::Null);
}

#[test]
fn a_named_snapshot_is_the_one_the_list_belongs_to() {
    let mut fixture = Fixture::new();
    let first = fixture.whole();
    let before = fixture.disk.clone();
    (0..40).for_each(|n| fixture.change(n, 3));
    fixture.whole();
    // What changed between the two is on no list: this one is about the first.
    fixture.disk = before;
    fixture.change(7, 4);
    fixture.list(&[7]);
    let report = fixture.listed(&["--parent", &first[..8]]);
    assert_eq!((&report["changed_blocks"]["used"], &report["parent"]), (&true.into(), &first.as_str().into()));
    fixture.restores(&report);
    fixture.home.run(&["forget", &first, "-q"]).ok();
    let refused = fixture.backup(&["--changed-blocks", "list", "--parent", &first]);
    assert!(refused.code == 2 && refused.stderr.contains(&first), "{}: {}", refused.code, refused.stderr);
    fixture.not_used(&fixture.listed(&["--parent", "none"]), "--parent none");
}

#[test]
fn a_list_is_not_applied_to_an_older_snapshot() {
    let mut fixture = Fixture::new();
    fixture.whole();
    (0..20).for_each(|n| fixture.change(n, 2));
    let newest = fixture.whole();
    fixture.change(30, 3);
    fixture.list(&[30]);

    fixture.home.run(&["forget", &newest, "-q"]).ok();
    let image = fixture.home.write("image", &fixture.disk);
    let args = ["backup", &image, "--name", "vm", "--changed-blocks", "list"];
    let text = fixture.home.run(&args).ok();
    assert!(text.stdout.contains("list") && text.stdout.contains("is forgotten"), "{}", text.stdout);
    assert!(text.stderr.contains("--parent SNAP"), "{}", text.stderr);
    let forgotten = text.stdout.lines().last().unwrap().split_whitespace().last().unwrap().to_owned();
    assert!(fixture.content(&forgotten) == fixture.disk);

    // That run is the newest now. One that cannot be read may be newer still.
    fixture.home.run(&["forget", &forgotten, "-q"]).ok();
    fixture.not_used(&fixture.listed(&["--parent", "latest"]), "is forgotten");
    let record = fixture.home.tree("repo/snap").into_keys().find(|path| path.ends_with(&newest)).unwrap();
    fs::write(record, "junk").unwrap();
    fixture.not_used(&fixture.listed(&[]), "cannot be read");
}

#[test]
fn a_volume_that_grew_or_shrank() {
    let mut fixture = Fixture::new();
    fixture.list(&[2]);
    fixture.whole();
    for len in [60 * UNIT + 9, 60 * UNIT + 10, 50 * UNIT, 33 * UNIT + 1, 33 * UNIT, 90 * UNIT - 1, UNIT - 3, 5 * UNIT] {
        fixture.disk.truncate(len);
        fixture.disk.extend(noise(len as u64, len - fixture.disk.len()));
        if len > 3 * UNIT {
            fixture.change(2, len as u64);
        }
        let report = fixture.listed(&[]);
        assert_eq!(report["changed_blocks"]["used"], true, "{report}");
        fixture.restores(&report);
    }
}

#[test]
fn a_list_for_standard_input_is_refused() {
    let fixture = Fixture::new();
    fixture.list(&[1]);
    let before = fixture.home.tree("repo");
    let line = fixture.home.run(&["backup", "-", "--name", "vm", "--changed-blocks", "list"]).fails(2);
    assert!(line.contains("--changed-blocks") && line.contains("standard input"), "{line}");
    assert_eq!(fixture.home.tree("repo"), before);
}

#[test]
fn the_result_is_golden() {
    let fixture = Fixture::new();
    fixture.whole();
    fixture.list(&[1]);
    assert_eq!(shape(&fixture.listed(&[])["changed_blocks"]), json!({ "used": "bool", "reason": "null" }));
    let unused = fixture.listed(&["--parent", "none"]);
    assert_eq!(shape(&unused["changed_blocks"]), json!({ "used": "bool", "reason": "string" }));
}

/// Sessions that have read what collectors say.
fn sessions(home: &Home) -> Vec<SessionId> {
    let repo = home.path("repo");
    let key = |path: std::path::PathBuf| Key::new(path.strip_prefix(&repo).unwrap().to_str().unwrap()).ok();
    let seen = |key: Key| keys::parse_session(&key).filter(|(_, part)| part.starts_with("seen")).map(|(id, _)| id);
    home.tree("repo/sess").into_keys().filter_map(key).filter_map(seen).collect()
}

#[test]
fn a_run_that_starts_over_reads_everything() {
    let mut fixture = Fixture::new();
    fixture.whole();
    // No list names chunk 37.
    fixture.change(37, 2);
    let listed: Vec<_> = (0..30).collect();
    fixture.list(&listed);
    let image = fixture.home.write("image", &fixture.disk);
    let key = fs::read_to_string(fixture.home.path("key")).unwrap().trim_end().as_bytes().to_vec();
    let storage = Arc::new(Local::new(fixture.home.path("repo"), false));
    let repository = Repository::open(components(storage), &Credential::KeyFile(key.into())).unwrap();
    let ran = loop {
        let before = sessions(&fixture.home);
        let snapshots = fixture.home.tree("repo/snap").len();
        let mut command = fixture.home.command();
        command.args(["backup", &image, "--name", "vm", "--json", "--changed-blocks", "list", "--limit-read", "500K"]);
        let mut child = command.spawn().unwrap();
        let session = loop {
            if let Some(id) = sessions(&fixture.home).into_iter().find(|id| !before.contains(id)) {
                break id;
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended without a session");
            std::thread::sleep(Duration::from_millis(2));
        };
        // It stands still while a collector condemns a pack of it. Did it end before? Another run.
        let signal = |signal| kill_process(Pid::from_child(&child), signal).unwrap();
        signal(Signal::STOP);
        let caught = fixture.home.tree("repo/snap").len() == snapshots;
        if caught {
            let condemned = vec![PackId { kind: PackKind::Data, session, seq: 0, random: 1 }];
            repository.publish_generation(1, &Generation { condemned, ..Generation::default() }).unwrap();
        }
        signal(Signal::CONT);
        let ran = Ran::from(child.wait_with_output().unwrap()).ok();
        if caught {
            break ran;
        }
    };
    assert!(ran.stderr.contains("starting over"), "{}", ran.stderr);
    fixture.not_used(&ran.json(), "started over");
}
