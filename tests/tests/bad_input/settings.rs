//! Settings that make no sense, wherever they come from; and standard streams that are closed.

use super::{COMMANDS, Kept, has, with_files};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use wherry_tests::binary::wherry_bin;
use wherry_tests::home::Home;

#[test]
fn sizes_times_and_shares_that_make_no_sense_are_2() {
    let kept = Kept::new();
    let home = &kept.home;
    home.write("image", "content");
    let before = home.tree("repo");
    for (flag, values, words) in [
        (
            "--memory",
            &["", "0", "-1", "1.5G", "lots", "256 M", "256X", "99999999999T", "63M", "0x10"][..],
            &["--memory"],
        ),
        ("--limit-read", &["", "0", "0K", "-1", "fast", "1e6"], &["--limit-read"]),
        ("--limit-upload", &["", "0", "-1", "10MB/s"], &["--limit-upload"]),
        ("--compression", &["", "gzip", "zstd:0", "zstd:20", "zstd:x"], &["--compression"]),
        ("--retry-for", &["", "5", "m", "-1s", "1y", "99999999d"], &["--retry-for"]),
        ("--engine", &["", "fast"], &["--engine"]),
        ("--log-format", &["", "xml"], &["--log-format"]),
        ("--parent", &["", "abc", "latest:"], &["--parent"]),
        ("--tag", &["", "x", "=y", "a=b\nc"], &["tag"]),
    ] {
        for value in values {
            let flag = format!("{flag}={value}");
            let line = home.run(&["backup", "image", "--name", "x", &flag]).fails(2);
            assert!(words.iter().all(|word| line.contains(word)), "{flag}: {line}");
            assert!(line.contains("--help") || line.contains("at least"), "{flag}: no next step in {line}");
        }
    }
    for args in [
        &["check", "--read-data", "--sample", "0%"][..],
        &["check", "--read-data", "--sample", "101%"],
        &["check", "--read-data", "--sample", "10"],
        &["check", "--read-data", "--max-age", "1"],
        &["forget", "latest", "--delay", "never"],
        &["copy", "--to", "other", "--limit-upload", "0"],
        &["forget", "--keep-within", "1"],
        &["forget", "--keep-last", "-1"],
        &["forget", "--keep-last", "4294967296"],
        &["cat", "latest", "--offset", "-1"],
        &["cat", "latest", "--length", "1X"],
        &["init", "--chunk-size", "0"],
        &["init", "--chunk-size", "32K"],
        &["init", "--chunk-size", "8M"],
        &["init", "--chunk-size", "96K"],
    ] {
        home.run(args).fails(2);
    }
    // Enough for a key file, not for what a password takes.
    home.write("pw", "correct horse");
    fs::set_permissions(home.path("pw"), PermissionsExt::from_mode(0o600)).unwrap();
    let mut command = home.command();
    command.env_remove("WHERRY_KEY_FILE").args(["snapshots", "--memory", "64M", "--password-file", "pw"]);
    has(&home.ran(command.output().unwrap()).fails(2), &["too little for a password", "at least", "key file"]);
    assert!(home.tree("repo") == before);
    kept.is_whole();
}

#[test]
fn places_that_are_no_repository_are_said_to_be_none() {
    let kept = Kept::new();
    for (place, code, words) in [
        ("az://container/x", 12, &["az://container/x", "set AZURE_STORAGE_ACCOUNT_NAME"][..]),
        ("az://", 2, &["names no container", "az://container/prefix"]),
        ("az://key:hidden@container/x", 2, &["must not hold credentials", "AZURE_STORAGE_ACCOUNT_KEY"]),
        ("gs:///x", 2, &["names no bucket", "gs://bucket/prefix"]),
        ("gs://key:hidden@bucket/x", 2, &["must not hold credentials", "GOOGLE_APPLICATION_CREDENTIALS"]),
        ("ftp://host/x", 2, &["ftp://host/x", "s3://bucket/prefix"]),
        ("sftp://user:hidden@host/x", 2, &["is no storage", "s3://bucket/prefix"]),
        ("https://host/bucket", 2, &["https://host/bucket", "s3://bucket/prefix"]),
        ("S3://bucket/x", 2, &["S3://bucket/x", "s3://bucket/prefix"]),
        ("s3://", 2, &["names no bucket", "s3://bucket/prefix"]),
        ("s3://key:hidden@host/x", 2, &["must not hold credentials", "AWS_ACCESS_KEY_ID"]),
        ("s3:///x", 2, &["names no bucket"]),
        ("s3://bu cket/x", 2, &["names no bucket"]),
        ("s3://bucket/a//b", 2, &["can not be a prefix"]),
        ("file://relative", 2, &["file://relative", "a path"]),
        ("", 2, &["path is empty", "--repo", "s3://bucket/prefix"]),
    ] {
        for args in [&["init"][..], &["snapshots"], &["backup", "key", "--name", "x"], &["restore", "latest", "out"]] {
            let line = kept.home.run(&[args, &["--repo", place]].concat()).ends(code);
            assert!(words.iter().all(|word| line.contains(word)), "{place:?} {args:?}: {line}");
            assert!(!line.contains("hidden"), "{line}");
        }
    }
    kept.is_whole();
}

#[test]
fn a_configuration_file_that_makes_no_sense_is_2_and_named() {
    let kept = Kept::new();
    let home = &kept.home;
    for (text, words) in [
        (&b"repos = 'x'"[..], &["c.toml:1", "repos", "unknown key", "config check --help"][..]),
        (b"\nmemory = '12x'", &["c.toml:2", "memory", "12x"]),
        (b"memory = '1M'", &["--memory", "at least 64M"]),
        (b"limit-read = 0", &["c.toml:1", "limit-read", "leave it out"]),
        (b"retry-for = 5", &["c.toml:1", "retry-for"]),
        (b"force = true", &["c.toml:1", "force", "unknown key"]),
        (b"json = 'yes'", &["c.toml:1", "json"]),
        (b"repo = ", &["c.toml:1", "repo"]),
        (b"[s3]\nendpoint = 'x'", &["c.toml:1", "s3", "unknown key"]),
        (b"password = 'hidden'", &["c.toml:1", "password", "unknown key"]),
        (b"\xff\xfe\x00", &["c.toml", "UTF-8"]),
        (b"key-file = 'none'\npassword-file = 'none'", &["at once"]),
    ] {
        home.write("c.toml", text);
        for args in [&["snapshots", "--config", "c.toml"][..], &["config", "check", "--config", "c.toml"]] {
            // The environment's key would hide what the file says.
            let line = home.ran(home.command().env_remove("WHERRY_KEY_FILE").args(args).output().unwrap()).fails(2);
            assert!(words.iter().all(|word| line.contains(word)), "{text:?}: {line}");
            assert!(!line.contains("hidden"), "{line}");
        }
    }
    for path in ["none.toml", "."] {
        has(&home.run(&["snapshots", "--config", path]).fails(2), &["configuration file", path, "cannot be read"]);
    }
    kept.is_whole();
}

#[test]
fn a_configuration_file_or_key_that_may_not_be_read_is_named() {
    let kept = Kept::new();
    let home = &kept.home;
    home.write("c.toml", "memory = '128M'");
    fs::set_permissions(home.path("c.toml"), PermissionsExt::from_mode(0o600)).unwrap();
    // The other user may not come to where this executable lies.
    fs::copy(wherry_bin(), home.path("wherry")).unwrap();
    let nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        home.prepare(&mut command);
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(home.path("wherry"));
        home.ran(command.args(args).env("WHERRY_REPOSITORY", home.path("repo")).output().unwrap())
    };
    has(&nobody(&["snapshots", "--config", "c.toml"]).fails(2), &["c.toml", "cannot be read", "ermission denied"]);
    // The folder of the repository is its owner's alone, and so is the key.
    has(&nobody(&["snapshots", "--key-file", "key"]).ends(12), &["repo", "ermission denied", "run as the owner"]);
    fs::set_permissions(home.path("repo"), PermissionsExt::from_mode(0o755)).unwrap();
    has(&nobody(&["snapshots", "--key-file", "key"]).ends(12), &["ermission denied"]);
    fs::set_permissions(home.path("repo"), PermissionsExt::from_mode(0o700)).unwrap();
    kept.is_whole();
}

#[test]
fn an_environment_full_of_junk_is_refused_or_ignored_but_never_misread() {
    let kept = Kept::new();
    let home = &kept.home;
    let junk = OsStr::from_bytes(b"\xff\xfe");
    let with = |name: &str, value: &OsStr| home.ran(home.command().env(name, value).arg("snapshots").output().unwrap());
    has(&with("WHERRY_REPOSITORY", junk).fails(2), &["WHERRY_REPOSITORY", "UTF-8"]);
    // It wins over the key file of the environment, which would open.
    has(&with("WHERRY_PASSWORD", OsStr::new("x")).fails(12), &["password"]);
    has(&with("WHERRY_KEY_FILE", junk).fails(12), &["key file", "cannot be read"]);
    has(&with("WHERRY_KEY_FILE", OsStr::new("/")).fails(12), &["key file /", "cannot be read"]);
    has(&with("WHERRY_KEY_FILE", OsStr::new("/dev/zero")).fails(12), &["/dev/zero", "longer than any"]);
    has(&with("WHERRY_KEY_FILE", OsStr::new("/dev/null")).fails(12), &["/dev/null", "has 0 bytes"]);
    for (name, value) in [
        ("HOME", "relative"),
        ("HOME", ""),
        ("XDG_CONFIG_HOME", "relative"),
        ("XDG_CACHE_HOME", "relative"),
        ("TMPDIR", "/none"),
        ("TZ", "No/Where"),
        ("TZ", ":/etc/passwd"),
        ("LANG", "junk"),
        ("LC_ALL", "C"),
        ("RUST_LOG", "trace,junk=="),
        ("RUST_BACKTRACE", "1"),
        ("TERM", "none"),
        ("COLUMNS", "-1"),
        ("NO_COLOR", "x"),
        ("AWS_ENDPOINT_URL", "junk"),
        ("http_proxy", "junk"),
    ] {
        let ran = with(name, OsStr::new(value)).ok();
        assert!(ran.stdout.contains("kept"), "{name}={value}: {ran:?}");
        let ran = with(name, junk).ok();
        assert!(ran.stdout.contains("kept"), "{name}: {ran:?}");
    }
    // A cache that cannot be is done without.
    let image = home.write("image", "content");
    for place in ["key", "key/below", "/proc/none", "/dev/full"] {
        let ran = home.run(&["backup", &image, "--name", "x", "--cache-dir", place]).ok();
        has(&ran.stderr, &["works without the chunk index", place]);
    }
    kept.is_whole_with(5);
}

#[test]
fn closed_streams_are_no_error_and_no_panic() {
    let kept = Kept::new();
    let home = &kept.home;
    with_files(home);
    // Those that would not end, or change what the next one needs.
    let lasting = |args: &&[&str]| !matches!(args[0], "mount" | "forget" | "unforget" | "key");
    for args in COMMANDS.into_iter().filter(lasting) {
        // Whoever read it has gone before the first byte.
        for stream in ["stdout", "stderr", "both"] {
            let _ = fs::remove_file(home.path("out"));
            let (mut command, gone) = (home.command(), || Stdio::from(broken_pipe()));
            let whole = |arg: &&'static str| if *arg == "latest" { kept.id.clone() } else { (*arg).to_owned() };
            command.args(args.iter().map(whole)).arg("-v");
            if stream != "stderr" {
                command.stdout(gone());
            }
            if stream != "stdout" {
                command.stderr(gone());
            }
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{stream} of {args:?}: {output:?}");
            home.ran(output);
        }
    }
    // A stream that was never open.
    for redirect in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let mut command = Command::new("/bin/sh");
        home.prepare(&mut command);
        command.env("WHERRY_REPOSITORY", home.path("repo")).env("WHERRY_KEY_FILE", home.path("key"));
        let line = format!("exec {} snapshots {redirect}", wherry_bin().display());
        assert_eq!(home.ran(command.args(["-c", &line]).output().unwrap()).code, 0, "{redirect}");
    }
    let snapshots = home.snapshots();
    kept.is_whole_with(snapshots);
}

/// The writing end of a pipe without a reader.
fn broken_pipe() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn a_standard_input_that_ends_early_is_backed_up_as_far_as_it_came() {
    let kept = Kept::new();
    let home = &kept.home;
    let script = |line: &str| {
        let mut command = Command::new("/bin/sh");
        home.prepare(&mut command);
        command.env("WHERRY_REPOSITORY", home.path("repo")).env("WHERRY_KEY_FILE", home.path("key"));
        let line = line.replace("WHERRY", wherry_bin().to_str().unwrap());
        home.ran(command.args(["-c", &line]).output().unwrap())
    };
    script("head -c 100000 kept.raw | WHERRY backup - --name cut").ok();
    super::restores(home, "latest:cut", &kept.disk[..100_000]);
    // Nothing at all came: that is said, whoever meant it.
    let ran = script("true | WHERRY backup - --name none").ok();
    has(&ran.stderr, &["standard input", "empty"]);
    super::restores(home, "latest:none", b"");
    // Nothing can come.
    has(&script("WHERRY backup - --name closed <&-").fails(2), &["standard input is closed"]);
    kept.is_whole_with(3);
    home_is_untouched(home);
}

/// Nothing was written outside of what was named.
fn home_is_untouched(home: &Home) {
    for name in [".cache", ".config", "none"] {
        assert!(!home.path(name).exists(), "{name} was made");
    }
}
