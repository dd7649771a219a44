//! Passwords and keys: which one opens, and that none is ever shown.

use super::harness::{Home, Ran};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const SECRET: &str = "correct horse battery staple";

/// A repository that a password opens.
fn with_password() -> Home {
    let home = Home::new();
    let ran = run(&home, &["init"]).ok();
    assert!(!ran.stdout.contains("made the key file"), "{}", ran.stdout);
    home
}

fn run(home: &Home, args: &[&str]) -> Ran {
    let mut command = home.bare();
    command.env("WHERRY_REPOSITORY", home.path("repo")).env("WHERRY_PASSWORD", SECRET).args(args);
    command.output().unwrap().into()
}

#[test]
fn every_source_of_a_password() {
    let home = with_password();
    let file = home.write("pw", format!("{SECRET}\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let plain = |args: &[&str]| -> Ran { home.bare().args(args).args(["--repo", "repo"]).output().unwrap().into() };
    run(&home, &["stats"]).ok();
    assert_eq!(plain(&["stats", "--password-file", &file]).ok().stderr, "");
    plain(&["stats", "--password-command", "cat pw"]).ok();

    let line = plain(&["stats"]).fails(12);
    assert!(line.contains("--password-file") && line.contains("WHERRY_PASSWORD"), "{line}");
    for (args, word) in [
        (&["stats", "--password-file", "none"][..], "none"),
        (&["stats", "--password-command", "echo wrong"], "password"),
        (&["stats", "--password-command", "exit 3"], "password command"),
        (&["stats", "--key-file", &file], "32"),
        (&["stats", "--key-file", "none"], "none"),
    ] {
        let line = plain(args).fails(12);
        assert!(line.contains(word), "{args:?}: {line}");
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_configuration() {
    let home = with_password();
    run(&home, &["key", "add", "--new-key-file", "key"]).ok();
    let good = home.write("pw", SECRET);
    let config = home.write("c.toml", "key-file = 'from-the-file'");
    let sources = ["password-file", "password-command", "key-file"];
    let shown = |flags: &[&str], variables: &[&str], config: &str| {
        let mut command = home.bare();
        command.args(["config", "check", "--json", "--config", config]).args(flags);
        let ran: Ran =
            command.envs(variables.iter().map(|name| (*name, "of-the-environment"))).output().unwrap().into();
        ran
    };
    let credential = |ran: Ran| ran.ok().json()["credential"].as_str().unwrap().to_owned();
    let named = |source: &str, value: &str| match source {
        "password-command" => "password command".to_owned(),
        source => format!("{} {value}", source.replace('-', " ")),
    };
    let both = ["WHERRY_PASSWORD", "WHERRY_KEY_FILE"];
    for in_file in sources {
        let config = home.write("c.toml", format!("{in_file} = 'in-the-file'"));
        assert_eq!(credential(shown(&[], &[], &config)), named(in_file, "in-the-file"));
        // The order of the contract: the password wins over the key file.
        for variables in [&both[..], &both[..1]] {
            assert_eq!(credential(shown(&[], variables, &config)), "WHERRY_PASSWORD");
        }
        assert_eq!(credential(shown(&[], &both[1..], &config)), "key file of-the-environment");
        for flag in sources {
            for variables in [&both[..], &both[..1], &both[1..], &[]] {
                let ran = shown(&[&format!("--{flag}"), "typed"], variables, &config);
                assert_eq!(credential(ran), named(flag, "typed"), "{variables:?} {in_file}");
            }
        }
    }
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let flags = [&format!("--{}", sources[one]), "a", &format!("--{}", sources[other]), "b"];
        let line = shown(&flags, &both, &config).fails(2);
        assert!(line.contains("at once"), "{flags:?}: {line}");
        let file = home.write("two.toml", format!("{} = 'a'\n{} = 'b'", sources[one], sources[other]));
        assert!(shown(&[], &[], &file).fails(2).contains("at once"));
    }
    // And what wins is what opens: the others are wrong.
    let stats = |args: &[&str], variables: &[(&str, &str)]| -> Ran {
        let mut command = home.bare();
        command
            .args(["stats", "--repo", "repo", "-q"])
            .args(args)
            .envs(variables.iter().copied())
            .output()
            .unwrap()
            .into()
    };
    stats(&["--password-file", &good], &[("WHERRY_PASSWORD", "wrong"), ("WHERRY_KEY_FILE", "none")]).ok();
    stats(&["--key-file", "key"], &[("WHERRY_PASSWORD", "wrong"), ("WHERRY_KEY_FILE", "none")]).ok();
    stats(&["--config", &config], &[("WHERRY_PASSWORD", SECRET), ("WHERRY_KEY_FILE", "none")]).ok();
    stats(&["--config", &config], &[("WHERRY_KEY_FILE", "key")]).ok();
    stats(&["--password-file", "none"], &[("WHERRY_PASSWORD", SECRET)]).fails(12);
    stats(&[], &[("WHERRY_PASSWORD", "wrong"), ("WHERRY_KEY_FILE", "key")]).fails(12);
}

#[test]
fn a_file_that_others_may_read_is_warned_of() {
    let home = with_password();
    let file = home.write("pw", SECRET);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let ran: Ran = home.bare().args(["stats", "--repo", "repo", "--password-file", &file]).output().unwrap().into();
    assert!(ran.ok().stderr.contains("chmod 600"));
}

#[test]
fn secrets_are_in_no_stream() {
    let home = with_password();
    let image = home.write("a.raw", "content");
    let key = "0123456789abcdef".repeat(4);
    home.write("second", &key);
    for args in [
        &["backup", &image, "--name", "a"][..],
        &["config", "check"],
        &["key", "add", "--new-key-file", "second"],
        &["key", "list"],
        &["stats", "--password-command", "echo 'wrong horse'; exit 1"],
        &["stats", "--key-file", "second"],
        &["stats", "--config", "pw.toml"],
    ] {
        home.write("pw.toml", format!("password = '{SECRET}'"));
        for format in ["text", "json"] {
            let ran = run(&home, &[args, &["-vv", "--log-format", format]].concat());
            for text in [&ran.stdout, &ran.stderr] {
                let shown = [SECRET, "wrong horse", &key].into_iter().find(|secret| text.contains(secret));
                assert_eq!(shown, None, "{args:?}: {text}");
            }
        }
    }
}

#[test]
fn ways_in_come_and_go() {
    let home = with_password();
    let slots = |home: &Home, by_key: bool| {
        let args = ["key", "list", "--json"];
        let json = if by_key { home.run(&args) } else { run(home, &args) }.ok().json();
        let slots =
            json.as_array().unwrap().iter().map(|s| (s["slot"].as_str().unwrap().to_owned(), s["current"] == true));
        slots.collect::<Vec<_>>()
    };
    let [(first, true)] = &slots(&home, false)[..] else { panic!("one slot, in use") };
    let line = run(&home, &["key", "remove", first]).fails(2);
    assert!(line.contains("last"), "{line}");

    let ran = run(&home, &["key", "add", "--new-key-file", "key"]).ok();
    assert!(ran.stdout.contains("keep a copy"), "{}", ran.stdout);
    assert_eq!(fs::metadata(home.path("key")).unwrap().permissions().mode() & 0o777, 0o600);
    home.run(&["stats"]).ok();
    assert_eq!(slots(&home, false).len(), 2);

    home.write("new", "another password\n");
    let said = run(&home, &["key", "passwd", "--new-password-file", "new"]).ok().stdout;
    assert!(said.contains("another key slot opens"), "{said}");
    run(&home, &["stats"]).fails(12);
    let new: Ran =
        home.bare().args(["stats", "--repo", "repo", "--password-file", "new", "-q"]).output().unwrap().into();
    new.ok();

    // Two slots of one key file would be one way in that has to be shut twice.
    let before = slots(&home, true);
    for args in [&["--new-key-file", "key"][..], &["--new-password-file", "new"]] {
        let line = home.run(&[&["key", "add"], args].concat()).ends(2);
        assert!(before.iter().any(|(slot, _)| line.contains(slot)) && line.contains("already"), "{args:?}: {line}");
    }
    assert_eq!(slots(&home, true), before);
    // So is what a `passwd` leaves that was killed before it removed the old one: a second run only does that.
    home.write("third", "a third password\n");
    let with = |file: &str, args: &[&str]| -> Ran {
        home.bare().args(args).args(["--repo", "repo", "--password-file", file, "-q"]).output().unwrap().into()
    };
    with("new", &["key", "add", "--new-password-file", "third"]).ok();
    let json = with("new", &["key", "passwd", "--new-password-file", "third", "--json"]).ok().json();
    assert!(json["added"].is_null() && json["removed"].is_string(), "{json}");
    assert_eq!(slots(&home, true).len(), before.len());
    with("new", &["stats"]).fails(12);
    with("third", &["key", "passwd", "--new-password-file", "new"]).ok();
    with("third", &["stats"]).fails(12);
    let before = slots(&home, true);
    let current = |slot: &&(String, bool)| slot.1;
    let (own, _) = before.iter().find(current).unwrap();
    for n in 1..4 {
        let line = home.run(&["key", "remove", &own[..n]]).fails(2);
        // Two slots may begin alike.
        assert!(line.contains("4 digits") || line.contains("write more digits"), "{line}");
    }
    assert_eq!(slots(&home, true), before);
    // Opened with the new password, nothing shows which slot it was to take the place of: that there are others is said.
    let said = with("new", &["key", "passwd", "--new-password-file", "third"]).ok().stdout;
    assert!(said.contains("another key slot opens") && said.contains("key list"), "{said}");
    let said = with("third", &["key", "passwd", "--new-password-file", "new"]).ok().stdout;
    assert!(said.contains("another key slot opens"), "{said}");

    for (slot, word) in [("", "no key slot"), ("zz", "no key slot"), ("ffffffffffffffff", "no key slot")] {
        let line = home.run(&["key", "remove", slot]).fails(2);
        assert!(line.contains(word), "{line}");
    }
    let json = home.run(&["key", "list", "--json"]).ok().json();
    let other = json.as_array().unwrap().iter().find(|s| s["current"] == false).unwrap()["slot"].as_str().unwrap();
    home.run(&["key", "remove", &other[..8]]).ok();
    let gone: Ran =
        home.bare().args(["stats", "--repo", "repo", "--password-file", "new", "-q"]).output().unwrap().into();
    gone.fails(12);
    home.run(&["stats"]).ok();
    let said = home.run(&["key", "passwd", "--new-key-file", "last"]).ok().stdout;
    assert!(said.contains("removed key slot") && !said.contains("another key slot"), "{said}");
}
