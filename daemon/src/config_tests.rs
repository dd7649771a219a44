use super::*;
use clap::{CommandFactory, Parser};
use std::collections::{BTreeMap, BTreeSet};
use wherry_repo::ErrorKind;

/// A machine with its own files and variables.
struct Machine {
    dir: tempfile::TempDir,
    vars: BTreeMap<String, OsString>,
    root: bool,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir_all(home.join(".config/wherry")).unwrap();
        Self { vars: BTreeMap::from([("HOME".to_owned(), home.into())]), dir, root: false }
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.vars.insert(name.to_owned(), value.into());
        self
    }

    fn user_file(self, text: &str) -> Self {
        std::fs::write(self.dir.path().join("home/.config/wherry/config.toml"), text).unwrap();
        self
    }

    fn system_file(self, text: &str) -> Self {
        std::fs::write(self.dir.path().join("system.toml"), text).unwrap();
        self
    }

    fn resolve(&self, line: &str) -> Result<(Settings, Command)> {
        let cli = Cli::try_parse_from(std::iter::once("wherry").chain(line.split_whitespace())).unwrap();
        let system_file = self.dir.path().join("system.toml");
        let var = |name: &str| self.vars.get(name).cloned();
        resolve(cli, &Environment { var: &var, root: self.root, system_file: &system_file })
    }

    fn settings(&self, line: &str) -> Settings {
        self.resolve(line).unwrap().0
    }
}

#[test]
fn flag_then_environment_then_user_then_system_then_default() {
    let system = Machine::new().system_file("repo = 'system'\nmemory = '512M'\nengine = 'threads'");
    assert_eq!(system.settings("stats").repo.as_deref(), Some("system"));
    let user = system.user_file("repo = 'user'\nmemory = '1G'");
    let settings = user.settings("stats");
    assert_eq!((settings.repo.as_deref(), settings.memory), (Some("user"), 1 << 30));
    assert_eq!(settings.engine, Engine::Threads, "a gap of the user's file is filled from the system's");
    assert_eq!(settings.files.len(), 2);
    let environment = user.set("WHERRY_REPOSITORY", "environment");
    assert_eq!(environment.settings("stats").repo.as_deref(), Some("environment"));
    let settings = environment.settings("stats --repo flag --memory 64M");
    assert_eq!((settings.repo.as_deref(), settings.memory), (Some("flag"), 64 << 20));
    let settings = environment.settings("--repo before stats");
    assert_eq!(settings.repo.as_deref(), Some("before"), "a global flag may stand before the command");

    let settings = Machine::new().set("WHERRY_REPOSITORY", "").settings("stats");
    assert_eq!((settings.repo.as_deref(), settings.memory), (None, 256 << 20));
    assert_eq!(settings.repo().unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn credential_sources_of_one_layer_hide_those_below() {
    let machine = Machine::new().system_file("key-file = 's'").user_file("password-file = 'u'");
    assert_eq!(machine.settings("stats").credential, CredentialSource::PasswordFile("u".into()));
    let machine = machine.set("WHERRY_PASSWORD", "x");
    assert_eq!(machine.settings("stats").credential, CredentialSource::Environment);
    let flag = machine.settings("stats --password-command p").credential;
    assert_eq!(flag, CredentialSource::PasswordCommand("p".into()));
    assert_eq!(Machine::new().settings("stats").credential, CredentialSource::Prompt);
}

#[test]
fn cache_folder() {
    let machine = Machine::new();
    let home = machine.dir.path().join("home/.cache/wherry");
    assert_eq!(machine.settings("stats").cache_dir, Some(home));
    assert!(machine.settings("stats").use_cache);
    assert!(!machine.settings("stats --cache-dir c --no-cache").use_cache);
    let machine = machine.set("XDG_CACHE_HOME", "/xdg");
    assert_eq!(machine.settings("stats").cache_dir, Some("/xdg/wherry".into()));
    let mut machine = machine.set("WHERRY_CACHE_DIR", "/c");
    assert_eq!(machine.settings("stats").cache_dir, Some("/c".into()));
    machine.vars.clear();
    let settings = machine.settings("stats");
    assert_eq!((settings.cache_dir, settings.use_cache, settings.warnings.len()), (None, false, 1));
    machine.root = true;
    assert_eq!(machine.settings("stats").cache_dir, Some("/var/cache/wherry".into()));
}

#[test]
fn a_named_file_replaces_the_others() {
    let machine = Machine::new().user_file("repo = 'user'").system_file("memory = '1G'");
    let named = machine.dir.path().join("named.toml");
    std::fs::write(&named, "engine = 'ring'").unwrap();
    let settings = machine.settings(&format!("stats --config {}", named.display()));
    assert_eq!((settings.repo, settings.memory, settings.engine), (None, 256 << 20, Engine::Ring));
    assert_eq!(settings.files, [named]);
    let error = machine.resolve("stats --config /nowhere/x.toml").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("/nowhere/x.toml"), "{error}");
}

#[test]
fn errors_name_the_file_the_line_and_the_key() {
    for (text, line, words) in [
        ("\nrepos = 'x'\n", 2, &["repos", "unknown"][..]),
        ("memory = '12x'", 1, &["memory", "12x"]),
        ("memory = 1.5", 1, &["memory", "size"]),
        ("json = 'yes'", 1, &["json"]),
        ("keep-daily = -1", 1, &["keep-daily"]),
        ("repo = 'a'\nrepo = 'b'", 2, &["repo"]),
        ("force = true", 1, &["force", "unknown"]),
        ("[backup]\ncompression = 'lz4'", 1, &["backup", "unknown"]),
        ("repo = ", 1, &["repo"]),
    ] {
        let machine = Machine::new().user_file(text);
        let error = machine.resolve("stats").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        let error = error.to_string();
        assert!(error.contains(&format!("config.toml:{line}: ")), "{text}: {error}");
        assert!(words.iter().all(|w| error.contains(w)), "{text}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let error = Machine::new().user_file("password = 'secret'").resolve("stats").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
}

#[test]
fn commands_take_their_settings_from_the_file() {
    let text = "compression = 'zstd:7'\nlimit-read = '10M'\nkeep-daily = 7\nkeep-within = '30d'\ndelay = '1d'\n\
                chunk-size = 65536\nsample = '5%'\nread-data = true\nverify = true\nallow-other = true\nforeground = true";
    let machine = Machine::new().user_file(text);
    let command = |line: &str| machine.resolve(line).unwrap().1;
    let Command::Backup(backup) = command("backup x --limit-read 5M") else { panic!() };
    assert_eq!(backup.compression, Some(Compression::Zstd(7)));
    assert_eq!(backup.limit_read, Some(crate::cli::Rate(5 << 20)));
    let other = Machine::new().user_file("exclude = ['*.o', 'b']\nexclude-caches = true\nignore-inode = true");
    let excludes = |line: &str| {
        let Command::Backup(backup) = other.resolve(line).unwrap().1 else { panic!() };
        (backup.tree.exclude.iter().map(|e| e.to_string_lossy().into_owned()).collect::<Vec<_>>(), backup.tree.given())
    };
    assert_eq!(excludes("backup /"), (vec!["*.o".to_owned(), "b".to_owned()], Some("--exclude")));
    assert_eq!(excludes("backup / --exclude c").0, ["c"], "a list is taken as a whole");
    assert_eq!(excludes("backup /dev/null"), (vec![], None), "a disk has no use for them");
    let Command::Init(init) = command("init") else { panic!() };
    assert_eq!((init.chunk_size, init.single_writer), (Some(Size(65536)), false));
    let Command::Check(check) = command("check") else { panic!() };
    assert_eq!((check.read_data, check.sample), (true, Some(Percent(5.0))));
    let Command::Restore(restore) = command("restore latest x") else { panic!() };
    assert!(restore.verify && !restore.force);
    let Command::Mount(mount) = command("mount x") else { panic!() };
    assert!(mount.allow_other && mount.foreground);

    let Command::Forget(forget) = command("forget") else { panic!() };
    assert_eq!((forget.keep.keep_daily, forget.keep.keep_within.map(|s| s.0.as_secs())), (Some(7), Some(30 * 86_400)));
    let Command::Forget(forget) = command("forget --keep-last 1") else { panic!() };
    assert_eq!(forget.keep, KeepFlags { keep_last: Some(1), ..KeepFlags::default() }, "a policy is taken as a whole");
    let Command::Forget(forget) = command("forget abcd") else { panic!() };
    assert_eq!((forget.keep, forget.delay), (KeepFlags::default(), Some(Span(std::time::Duration::from_secs(86_400)))));
}

#[test]
fn a_credential_of_a_higher_place_hides_those_below_and_two_of_one_place_are_refused() {
    let flags = [
        ("--password-file f", CredentialSource::PasswordFile("f".into())),
        ("--password-command f", CredentialSource::PasswordCommand("f".into())),
        ("--key-file f", CredentialSource::KeyFile("f".into())),
    ];
    let variables = [
        (&["WHERRY_PASSWORD"][..], CredentialSource::Environment),
        (&["WHERRY_KEY_FILE"], CredentialSource::KeyFile("e".into())),
        (&["WHERRY_PASSWORD", "WHERRY_KEY_FILE"], CredentialSource::Environment),
    ];
    let files = [
        ("password-file = 'c'", CredentialSource::PasswordFile("c".into())),
        ("password-command = 'c'", CredentialSource::PasswordCommand("c".into())),
        ("key-file = 'c'", CredentialSource::KeyFile("c".into())),
    ];
    for (text, file) in &files {
        let machine = || Machine::new().user_file(text);
        assert_eq!(machine().settings("stats").credential, *file);
        for (flag, source) in &flags {
            assert_eq!(machine().settings(&format!("stats {flag}")).credential, *source, "{flag} and {text}");
        }
        for (names, source) in &variables {
            let machine = || names.iter().fold(machine(), |machine, name| machine.set(name, "e"));
            assert_eq!(machine().settings("stats").credential, *source, "{names:?} and {text}");
            for (flag, source) in &flags {
                assert_eq!(machine().settings(&format!("stats {flag}")).credential, *source, "{flag} and {names:?}");
            }
        }
        // Two at the same place.
        for (other, _) in files.iter().filter(|(other, _)| other != text) {
            let error = Machine::new().user_file(&format!("{text}\n{other}")).resolve("stats").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text} and {other}");
        }
    }
    for (n, (one, _)) in flags.iter().enumerate() {
        for (other, _) in &flags[n + 1..] {
            let machine = Machine::new().set("WHERRY_PASSWORD", "e");
            let error = machine.resolve(&format!("stats {one} {other}")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{one} {other}");
            assert!(error.to_string().contains("at once"), "{error}");
        }
    }
    let empty = Machine::new().set("WHERRY_PASSWORD", "").set("WHERRY_KEY_FILE", "e");
    assert_eq!(empty.settings("stats").credential, CredentialSource::KeyFile("e".into()), "an empty one is none");
}

#[test]
fn a_part_of_the_data_needs_data_to_be_read() {
    let machine = Machine::new();
    for (line, flag) in [("check --sample 10%", "--sample"), ("check --max-age 1d", "--max-age")] {
        let error = machine.resolve(line).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(flag) && error.to_string().contains("--read-data"), "{error}");
    }
    machine.resolve("check --sample 10% --read-data").unwrap();
    // A part that stands in a file is for when data is read; that alone asks for no data.
    Machine::new().user_file("sample = '10%'\nmax-age = '1d'").resolve("check").unwrap();
    let machine = Machine::new().user_file("read-data = true");
    let Command::Check(check) = machine.resolve("check --sample 10%").unwrap().1 else { panic!() };
    assert_eq!((check.read_data, check.sample), (true, Some(Percent(10.0))));
}

#[test]
fn whom_to_trust_does_not_hold_for_another_server() {
    let of = |machine: Machine, line: &str| {
        let (settings, command) = machine.resolve(line).unwrap();
        let Command::Copy(copy) = command else { panic!() };
        let s3 = copy.s3.over(&settings.s3);
        (s3.s3_endpoint.unwrap(), s3.s3_ca_file, s3.s3_skip_verify)
    };
    let file = "s3-endpoint = 'a'\ns3-ca-file = 'ca'\ns3-skip-verify = true";
    let machine = |more: &str| Machine::new().user_file(&format!("{file}{more}"));
    assert_eq!(of(machine(""), "copy"), ("a".into(), Some("ca".into()), true));
    assert_eq!(of(machine(""), "copy --to-s3-endpoint b"), ("b".into(), None, false));
    assert_eq!(of(machine("\nto-s3-endpoint = 'b'"), "copy"), ("b".into(), None, false));
    let typed = of(machine(""), "copy --to-s3-endpoint b --to-s3-ca-file other");
    assert_eq!(typed, ("b".into(), Some("other".into()), false));
    let typed = of(machine("\nto-s3-skip-verify = true"), "copy --to-s3-endpoint b");
    assert_eq!(typed, ("b".into(), None, true));
}

#[test]
fn where_a_copy_goes_may_stand_in_a_file_and_the_environment_and_the_command_line_win() {
    let file = "to = '/copy'\nto-key-file = 'of-the-file'\nto-s3-region = 'r'\ncompression = 'zstd'";
    let of = |machine: Machine, line: &str| {
        let Command::Copy(copy) = machine.resolve(line).unwrap().1 else { panic!() };
        (copy.to, copy.credential.source().unwrap().to_string(), copy.s3.to_s3_region)
    };
    let machine = || Machine::new().user_file(file);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(of(machine(), "copy"), (text("/copy"), "key file of-the-file".to_owned(), text("r")));
    let typed = of(machine(), "copy --to /other --to-password-file pw --to-s3-region s");
    assert_eq!(typed, (text("/other"), "password file pw".to_owned(), text("s")));
    let from_environment = of(machine().set("WHERRY_TO_KEY_FILE", "of-the-environment"), "copy");
    assert_eq!(from_environment.1, "key file of-the-environment");
    let both = machine().set("WHERRY_TO_KEY_FILE", "of-the-environment").set("WHERRY_TO_PASSWORD", "x");
    assert_eq!(of(both, "copy").1, "WHERRY_TO_PASSWORD");
    // Those of the other repository are nobody's business here.
    assert_eq!(of(Machine::new().set("WHERRY_PASSWORD", "x").set("WHERRY_KEY_FILE", "y"), "copy --to z").1, "prompt");
}

/// What decides about a single run and has no place in a file.
const NOT_IN_FILES: [&str; 34] = [
    "all",
    "allow-partial",
    "changed-blocks",
    "config",
    "delete",
    "delta",
    "dry-run",
    "force",
    "force-read",
    "forgotten",
    "from",
    "from-key-file",
    "from-password-command",
    "from-password-file",
    "from-s3-ca-file",
    "from-s3-endpoint",
    "from-s3-profile",
    "from-s3-region",
    "from-s3-skip-verify",
    "length",
    "name",
    "new-key-file",
    "new-password-file",
    "numeric-ids",
    "offset",
    "overwrite",
    "parent",
    "recursive",
    "rewrite",
    "seconds",
    "size",
    "slot-key-file",
    "slot-password-file",
    "tag",
];

#[test]
fn keys_are_the_flags() {
    fn flags(command: &clap::Command, into: &mut BTreeSet<String>) {
        into.extend(command.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned));
        // The agent of a node and Jobs are told by what starts them and by ConfigMap `wherry`; no file is read for their flags.
        let of_cluster = |c: &&clap::Command| ["agent", "job"].contains(&c.get_name());
        command.get_subcommands().filter(|c| !of_cluster(c)).for_each(|c| flags(c, into));
    }
    let mut expected = BTreeSet::new();
    flags(&Cli::command(), &mut expected);
    for flag in NOT_IN_FILES {
        assert!(expected.remove(flag), "--{flag} is no flag");
        assert!(HELP.split([' ', '.', '\n']).any(|w| w == flag), "{flag} is not among the exceptions in the help");
    }
    expected.retain(|flag| !["help", "version"].contains(&flag.as_str()));

    let error = toml::from_str::<File>("unknown = 1").unwrap_err().to_string();
    let (_, list) = error.split_once("expected one of").unwrap();
    let keys: BTreeSet<String> = list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(keys, expected);
    for key in keys {
        assert!(HELP.split_whitespace().any(|word| word == key), "{key} is not in the help of `config check`");
    }
}
