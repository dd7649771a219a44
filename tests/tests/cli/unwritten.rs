//! Results that cannot be written, and standard streams that are not there: what was done keeps its exit code and is named, and
//! nothing is done for nobody.

use super::harness::{Home, Ran};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// On a full disk.
fn full(home: &Home, args: &[&str]) -> Ran {
    let out = fs::File::options().write(true).open("/dev/full").unwrap();
    home.ran(home.command().args(args).stdout(out).output().unwrap())
}

/// As `sh` starts it, with this redirection.
fn redirected(home: &Home, args: &str, redirection: &str) -> Ran {
    let mut command = Command::new("sh");
    let own = home.command();
    command.args(["-c", &format!("exec {} {args} {redirection}", own.get_program().to_str().unwrap())]);
    command.current_dir(own.get_current_dir().unwrap());
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    home.ran(command.output().unwrap())
}

#[test]
fn what_was_done_keeps_its_exit_code_and_is_named() {
    let home = Home::with_repository();
    let image = home.write("a.raw", "content");
    for json in [&[][..], &["--json"]] {
        let ran = full(&home, &[&["backup", &image, "--name", "a"], json].concat());
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        let all = home.run(&["snapshots", "--json"]).ok().json();
        let newest = all.as_array().unwrap().last().unwrap()["snapshot"].as_str().unwrap();
        assert!(ran.stderr.contains(newest) && ran.stderr.contains("standard output"), "{}", ran.stderr);
    }
    let ran = full(&home, &["restore", "latest:a", "out.raw"]);
    assert_eq!((ran.code, fs::read(home.path("out.raw")).unwrap()), (1, b"content".to_vec()), "{}", ran.stderr);
    let id = home.backup("b", b"of b");
    let ran = full(&home, &["forget", &id]);
    assert!(ran.code == 1 && ran.stderr.contains(&id), "{}", ran.stderr);

    // Damage counts for more.
    let pack = home.tree("repo/packs").into_keys().next().unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let ran = full(&home, &["check", "--read-data"]);
    assert!(ran.code == 13 && ran.stderr.contains("packs/"), "{} {}", ran.code, ran.stderr);
}

#[test]
fn a_stream_that_is_closed_is_not_the_null_device() {
    let home = Home::with_repository();
    home.backup("a", b"content");
    let before = home.snapshots();
    let line = redirected(&home, "backup - --name z", "<&-").fails(2);
    assert!(line.contains("standard input is closed"), "{line}");
    assert_eq!(home.snapshots(), before);
    redirected(&home, "backup - --name z", "</dev/null").ok();
    // Whoever closes standard output wants nothing of it.
    for args in ["check", "cat latest:a"] {
        redirected(&home, args, ">&-").ok();
    }
}

#[test]
fn what_is_left_is_said_beside_json_too() {
    let home = Home::new();
    let ran = home.run(&["init", "--json"]);
    assert!(ran.json()["key_file"].is_string() && ran.stderr.contains("keep a copy"), "{}", ran.stderr);
    let ran = home.run(&["key", "add", "--new-key-file", "second", "--json"]);
    assert!(ran.json()["key_file"] == "second" && ran.stderr.contains("keep a copy"), "{}", ran.stderr);
}

#[test]
fn what_is_typed_wrongly_is_said_with_what_works() {
    let home = Home::new();
    home.run(&["init"]).ok();
    let image = home.write("a.raw", "content");
    let line = home.run(&["backup", &image, "--name", "-x"]).fails(2);
    assert!(line.contains("--name=-x") && !line.contains("-- -x"), "{line}");
    home.run(&["backup", &image, "--name=-x"]).ok();
    let line = home.run(&["backup", &image, "--tag", "a=b", "--tag", "a=c"]).fails(2);
    assert!(line.contains("a=b") && line.contains("a=c"), "{line}");
    home.run(&["backup", &image, "--tag", "a=b", "--tag", "a=b", "--tag", "c=b"]).ok();
    let line = home.run(&["copy", "--to", ""]).fails(2);
    assert!(line.contains("--to"), "{line}");
    for n in 0..12 {
        home.backup(&format!("vm {n:02}"), b"content");
    }
    let line = home.run(&["cat", "latest"]).fails(2);
    assert!((0..12).all(|n| line.contains(&format!("\"latest:vm {n:02}\""))), "{line}");
}
