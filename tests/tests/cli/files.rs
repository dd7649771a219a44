//! What comes with the executable: units of systemd, man pages, completions, and what README.md says of the settings.

use super::harness::{Home, Ran};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use wherry_tests::binary::wherry_bin;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A tool that must succeed and say nothing.
#[track_caller]
fn silent(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{command:?}: {said}");
    output
}

/// The value of a setting that stands once in a unit.
#[track_caller]
fn setting<'a>(unit: &'a str, name: &str) -> &'a str {
    let found: Vec<_> = unit.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix('=')).collect();
    assert_eq!(found.len(), 1, "{name}: {found:?}");
    found[0]
}

#[test]
fn systemd_takes_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let mut units: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(top().join("daemon/dist")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        // An instance of the template, with an executable that is there.
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = text.replace("/usr/local/bin/wherry", wherry_bin().to_str().unwrap());
        units.push(folder.path().join(name.replace('@', "@vm1")));
        fs::write(units.last().unwrap(), text).unwrap();
    }
    assert_eq!(units.len(), 2, "{units:?}");
    silent(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units));
}

#[test]
fn the_service_stays_below_what_systemd_lets_it_take() {
    let unit = fs::read_to_string(top().join("daemon/dist/wherry@.service")).unwrap();
    let memory = setting(&unit, "Environment").strip_prefix("WHERRY_MEMORY=").unwrap();
    let bytes = |text: &str| text.parse::<wherry::cli::Size>().unwrap().0;
    assert!(bytes(setting(&unit, "MemoryMax")) >= bytes(memory) + (512 << 20), "page cache counts too");
    // As systemd runs it, with a configuration that asks for more than the unit gives.
    let home = Home::with_repository();
    let image = home.write("vm1.raw", "content");
    let config = home.write("c.toml", "memory = '1T'");
    let line = setting(&unit, "ExecStart").strip_prefix("/usr/local/bin/wherry ").unwrap();
    let line = line.replace("${WHERRY_SOURCE}", &image).replace("${WHERRY_MEMORY}", memory).replace("%i", "vm1");
    let words: Vec<&str> = line.split(' ').collect();
    home.run(&words).ok();
    assert_eq!(home.run(&["cat", "latest:vm1"]).ok().stdout, "content");
    let globals: Vec<&str> = words.iter().copied().take_while(|w| *w != "backup").collect();
    let checked = home.run(&[&globals[..], &["config", "check", "--json", "--config", &config]].concat()).ok().json();
    assert_eq!(checked["memory"], bytes(memory));
}

/// Every command there is, as in `key add`.
fn commands() -> Vec<String> {
    fn visit(path: &str, command: &clap::Command, into: &mut Vec<String>) {
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            visit(&path, sub, into);
            into.push(path);
        }
    }
    let mut all = Vec::new();
    visit("", &<wherry::cli::Cli as clap::CommandFactory>::command(), &mut all);
    all
}

#[test]
fn there_is_a_man_page_for_each_command_and_it_renders() {
    let home = Home::new();
    home.run_bare(&["man", "pages"]).ok();
    let commands = commands();
    assert!(commands.len() >= 20, "{commands:?}");
    let mut expected: BTreeSet<String> = commands.iter().map(|c| format!("wherry-{}.1", c.replace(' ', "-"))).collect();
    expected.insert("wherry.1".into());
    let pages: BTreeSet<String> =
        home.tree("pages").into_keys().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(pages.difference(&expected).filter(|p| !p.contains("help")).count(), 0, "{pages:?}");
    assert_eq!(expected.difference(&pages).count(), 0, "{pages:?}");
    for page in &expected {
        let path = home.path("pages").join(page);
        let mut man = Command::new("man");
        let output =
            silent(man.args(["--warnings", "--encoding=UTF-8", "--local-file"]).arg(&path).env("MANWIDTH", "80"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(["NAME", "SYNOPSIS", "DESCRIPTION"].iter().all(|s| text.contains(s)), "{page}: {text}");
    }
}

#[test]
fn bash_takes_the_completions_and_knows_every_command() {
    let home = Home::new();
    let script = home.run_bare(&["completions", "bash"]).ok().stdout;
    let path = home.write("wherry.bash", &script);
    silent(Command::new("bash").args(["-n", &path]));
    // And it completes.
    let complete = |words: &str| {
        let line = format!(
            "source {path}; COMP_WORDS=(wherry {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _wherry wherry \"${{COMP_WORDS[-1]}}\" x; echo ${{COMPREPLY[@]}}"
        );
        String::from_utf8(silent(Command::new("bash").args(["-c", &line])).stdout).unwrap()
    };
    assert_eq!(complete("snap").trim(), "snapshots");
    assert!(complete("forget --keep-d").contains("--keep-daily"));
    for command in commands().iter().filter(|c| !c.contains(' ')) {
        assert!(complete(command).split_whitespace().any(|w| w == command), "{command}");
    }
}

/// The words of a text that are names of flags or settings.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c == '-')).filter(|w| !w.is_empty()).collect()
}

#[test]
fn the_readme_and_the_help_name_the_same_exceptions_of_the_configuration() {
    let help = Home::new().run_bare(&["config", "check", "--help"]).ok().stdout;
    let (_, exceptions) = help.split_once("because they are about one run:").unwrap();
    let (exceptions, _) = exceptions.split_once('.').unwrap();
    let readme = fs::read_to_string(top().join("README.md")).unwrap();
    let (_, told) = readme.split_once("All but those that are about\none run (").unwrap();
    let (told, _) = told.split_once(')').unwrap();
    assert_eq!(names(told), names(exceptions));
    assert!(names(exceptions).len() >= 10, "{exceptions}");
    // None of them is taken, and every one of the others is.
    let home = Home::new();
    for name in names(exceptions) {
        let file = home.write("c.toml", format!("{name} = 'x'"));
        let line = home.run_bare(&["config", "check", "--config", &file]).fails(2);
        assert!(line.contains(name) && line.contains("unknown"), "{line}");
    }
}

#[test]
fn what_stands_in_the_configuration_counts() {
    let home = Home::with_repository();
    let image = home.write("vm.raw", b"text ".repeat(100_000));
    let config = home.write(
        "c.toml",
        "compression = 'none'\nread-data = true\nkeep-last = 1\nverify = true\njson = true\nlimit-read = '100M'",
    );
    let run = |args: &[&str]| -> Ran { home.run(&[args, &["--config", &config]].concat()) };
    let json = run(&["backup", &image, "--name", "vm"]).ok().json();
    assert!(json["stored"].as_u64().unwrap() > 256 << 10, "{json}");
    let json =
        run(&["backup", &image, "--name", "lz4", "--compression", "lz4", "--parent", "none", "--no-cache"]).ok().json();
    assert!(json["stored"].as_u64().unwrap() < 64 << 10, "a flag wins: {json}");
    assert!(run(&["check"]).ok().json()["read"].as_u64().unwrap() > 0);
    // On the command line a part of the data is asked for; that data is read stands in the file.
    assert!(run(&["check", "--sample", "100%"]).ok().json()["read"].as_u64().unwrap() > 0);
    home.run(&["check", "--sample", "100%"]).fails(2);
    assert_eq!(run(&["restore", "latest:vm", "out.raw"]).ok().json()["verified"], true);
    run(&["backup", &image, "--name", "vm"]).ok();
    let json = run(&["forget"]).ok().json();
    assert_eq!(json.as_array().unwrap().iter().filter(|d| d["forgotten"] == true).count(), 1);
}
