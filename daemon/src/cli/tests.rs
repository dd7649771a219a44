use super::*;
use clap::CommandFactory;

#[test]
fn definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_examples_that_parse() {
    fn visit(path: &str, command: &clap::Command) {
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            if sub.has_subcommands() {
                visit(&path, sub);
                continue;
            }
            let help = sub.get_after_long_help().map(|h| h.to_string()).unwrap_or_default();
            let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{path} has no examples"));
            let lines: Vec<_> = examples.lines().filter_map(|l| l.strip_prefix("  ")).collect();
            assert!(lines.iter().any(|l| l.contains(&path)), "{path} is in none of its examples");
            for line in lines.iter().filter(|l| l.starts_with("wherry ")) {
                // A remark stands after two blanks; the rest of the line may be the shell's business.
                let command = line.split("  ").next().unwrap().split([';', '|', '>', '&']).next().unwrap();
                let words = command.split_whitespace().map(|w| w.trim_matches('"'));
                if let Err(e) = Cli::try_parse_from(words) {
                    panic!("{command}: {e}");
                }
            }
        }
    }
    let root = Cli::command();
    visit("wherry", &root);
}

#[test]
fn no_flag_takes_a_secret() {
    fn visit(command: &clap::Command) {
        for arg in command.get_arguments().filter_map(|a| a.get_long()) {
            let secrets = ["password", "key", "secret", "to-password", "to-key", "slot-password", "slot-key"];
            assert!(!secrets.contains(&arg), "--{arg}");
        }
        command.get_subcommands().for_each(visit);
    }
    visit(&Cli::command());
}

#[test]
fn odd_words_are_taken_as_they_are() {
    let parse = |words: &[&str]| Cli::try_parse_from(["wherry"].iter().chain(words)).map(|c| c.command);
    let Ok(Command::Backup(args)) = parse(&["backup", "-", "--name", "x", "--tag", "a=b", "--tag", "c="]) else {
        panic!()
    };
    assert_eq!((args.source, args.tags.len()), (SourceArg::Stdin, 2));
    let Ok(Command::Backup(args)) = parse(&["backup", "./-", "--parent", "none"]) else { panic!() };
    assert_eq!((args.source, args.parent), (SourceArg::Path("./-".into()), Some(Parent::None)));
    let Ok(Command::Backup(args)) = parse(&["backup", "x", "--parent", "latest:vm"]) else { panic!() };
    assert_eq!(args.parent, Some(Parent::Snap(SnapSpec::LatestOf("vm".into()))));
    for wrong in [
        &["backup"][..],
        &["backup", "x", "--name", "a/b"],
        &["backup", "x", "--compression", "gzip"],
        &["restore", "latest"],
        &["restore", "zzzz", "x"],
        &["unforget"],
        &["key", "add", "--new-password-file", "a", "--new-key-file", "b"],
        &["stats", "-q", "-v"],
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
}
