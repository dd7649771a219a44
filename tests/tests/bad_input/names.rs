//! Names of volumes and of snapshots.

use super::{Kept, has};
use std::fs;
use std::sync::Arc;
use wherry_repo::storage::Local;
use wherry_repo::{Components, Credential, Repository, Rng};
use wherry_tests::home::Home;
use wherry_tests::small::{TestRng, backup, components};

/// Everything in the repository has a key of plain characters, in which no name stands.
#[track_caller]
fn keys_are_plain(kept: &Kept, names: &[&str]) {
    let tree = kept.home.tree("repo");
    assert!(tree.len() > names.len());
    for path in tree.keys() {
        let key = path.strip_prefix(kept.home.path("repo")).unwrap().to_str().unwrap();
        let plain = key.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-'));
        assert!(plain && key.len() < 200, "{key:?}");
        for name in names.iter().filter(|name| name.len() > 3) {
            assert!(!key.contains(name), "{name:?} is in {key:?}");
        }
    }
}

#[test]
fn odd_names_of_volumes_work_and_are_in_no_key() {
    let kept = Kept::new();
    let home = &kept.home;
    let long = "é".repeat(100);
    let names = [
        "web server 1",
        "Köln-日本-🦀",
        "it's \"quoted\" $(reboot) `x` \\n",
        "-rf",
        "...",
        "a*?[b]|<>&;",
        " leading and trailing ",
        "latest",
        "%00%2f",
        &long,
        &"y".repeat(200),
        "x",
    ];
    for (n, name) in names.iter().enumerate() {
        let image = home.write("image", format!("content {n}"));
        let flag = format!("--name={name}");
        let ran = home.run(&["backup", &image, &flag, "--json"]).ok();
        assert_eq!(ran.json()["volume"], *name);
        assert_eq!(home.run(&["cat", &format!("latest:{name}")]).ok().stdout, format!("content {n}"));
        let listed = home.run(&["snapshots", &flag, "--json"]).ok().json();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{name:?}");
        // Whatever is in it, text has a line a snapshot.
        assert_eq!(home.run(&["snapshots", &flag]).ok().stdout.trim_end().lines().count(), 2, "{name:?}");
    }
    keys_are_plain(&kept, &names);
    kept.is_whole_with(names.len() + 1);

    let mount = super::s3::Mounted::start(home, &[]);
    for (n, name) in names.iter().enumerate() {
        let disk = mount.path.join("by-volume").join(name).join("latest/disk.raw");
        assert_eq!(fs::read(disk).unwrap(), format!("content {n}").into_bytes(), "{name:?}");
    }
}

#[test]
fn names_that_no_volume_can_have_are_2_and_nothing_is_written() {
    let kept = Kept::new();
    let home = &kept.home;
    let image = home.write("image", "content");
    let before = home.tree("repo");
    let long = "é".repeat(100) + "x";
    for (name, why) in [
        ("", "is empty"),
        (".", "file system"),
        ("..", "file system"),
        ("a/b", "'/' or ':'"),
        ("/etc/passwd", "'/' or ':'"),
        ("a:b", "'/' or ':'"),
        ("two\nlines", "control character"),
        ("tab\t", "control character"),
        ("bell\u{7}", "control character"),
        ("esc\u{1b}[31m", "control character"),
        (&long, "longer than 200 bytes"),
    ] {
        let line = home.run(&["backup", &image, &format!("--name={name}")]).fails(2);
        has(&line, &["volume name", why, "another one", "--name"]);
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    use std::os::unix::ffi::OsStrExt;
    let mut command = home.command();
    let bytes = std::ffi::OsStr::from_bytes(b"--name=\xff\xfe");
    has(&home.ran(command.args(["backup", "image"]).arg(bytes).output().unwrap()).fails(2), &["UTF-8", "--help"]);
    // The name that a path gives is no better.
    for path in ["a:b", "tab\t"] {
        home.write(path, "content");
        has(&home.run(&["backup", path]).fails(2), &["volume's name", "--name"]);
    }
    assert!(home.tree("repo") == before);
    kept.is_whole();
}

/// Randomness whose ids all begin alike.
#[derive(Debug)]
struct Alike(TestRng);

impl Rng for Alike {
    fn fill(&self, out: &mut [u8]) -> wherry_repo::Result<()> {
        self.0.fill(out)?;
        out[..2].copy_from_slice(&[0xab, 0xcd]);
        Ok(())
    }
}

/// Snapshots of a volume whose ids begin with abcd.
fn alike(home: &Home, volume: &str, contents: &[&[u8]]) -> Vec<String> {
    let key = fs::read_to_string(home.path("key")).unwrap();
    let storage = Arc::new(Local::new(home.path("repo"), false));
    let components = Components { rng: Arc::new(Alike(TestRng::new(9))), ..components(storage) };
    let repository = Repository::open(components, &Credential::KeyFile(key.trim().as_bytes().to_vec().into())).unwrap();
    contents.iter().map(|content| backup(&repository, volume, content).unwrap().id.to_string()).collect()
}

#[test]
fn snapshots_are_never_guessed() {
    let kept = Kept::new();
    let home = &kept.home;
    let ids = alike(home, "alike", &[b"first", b"second"]);
    assert!(ids[0].starts_with("abcd") && ids[1].starts_with("abcd") && ids[0] != ids[1]);
    home.write("target", "");
    let _ = fs::create_dir(home.path("mnt"));
    let commands: [&dyn Fn(&str) -> Vec<String>; 7] = [
        &|snap| vec!["restore".into(), snap.into(), "target".into()],
        &|snap| vec!["cat".into(), snap.into()],
        &|snap| vec!["show".into(), snap.into()],
        &|snap| vec!["check".into(), snap.into()],
        &|snap| vec!["forget".into(), snap.into()],
        &|snap| vec!["mount".into(), "mnt".into(), snap.into()],
        &|snap| ["backup", "target", "--name", "x", "--parent", snap].map(String::from).to_vec(),
    ];
    let before = home.tree("repo");
    for args in commands {
        for (snap, code, words) in [
            ("abcd", 2, &["abcd", "several ids", &ids[0], &ids[1], "more digits"][..]),
            ("ABCD", 2, &["several ids"]),
            ("abc", 2, &["abc", "too short", "at least 4"]),
            ("", 2, &["snapshot", "latest"]),
            ("latest:", 2, &["latest:NAME"]),
            ("no-id", 2, &["no-id", "is not a snapshot", "latest:NAME"]),
            (&"0".repeat(33), 2, &["is not a snapshot"]),
            ("latest", 2, &["several volumes", "latest:alike", "latest:kept"]),
            ("latest:none", 14, &["\"none\"", "the volumes are alike, kept"]),
            ("0123456789", 14, &["there is no snapshot", "0123456789"]),
            (&"0".repeat(32), 14, &["there is no snapshot", &"0".repeat(32)]),
        ] {
            let args = args(snap);
            let line = home.run(&args).ends(code);
            assert!(words.iter().all(|word| line.contains(word)), "{args:?}: {line}");
        }
    }
    assert!(home.tree("repo") == before && fs::read(home.path("target")).unwrap().is_empty());
    let unique = (5..).find(|n| ids[0][..*n] != ids[1][..*n]).unwrap();
    assert_eq!(home.run(&["cat", &ids[0][..unique]]).ok().stdout, "first");
    assert_eq!(home.run(&["cat", &ids[1].to_uppercase()]).ok().stdout, "second");
    kept.is_whole_with(3);
}
