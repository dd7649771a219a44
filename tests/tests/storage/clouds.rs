//! Azure Blob Storage and Google Cloud Storage, played by servers that speak their protocols.

use super::{conforms, large_rounds};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wherry_repo::storage::conformance::Options as Rounds;
use wherry_repo::storage::{Environment, Options, Retries, Storage, open};
use wherry_repo::{ErrorKind, Key, Result};
use wherry_tests::clouds::{Azurite, FakeGcs};
use wherry_tests::home::Home;

fn azurite() -> &'static Azurite {
    static SERVER: OnceLock<Azurite> = OnceLock::new();
    SERVER.get_or_init(Azurite::start)
}

fn google() -> &'static FakeGcs {
    static SERVER: OnceLock<FakeGcs> = OnceLock::new();
    SERVER.get_or_init(FakeGcs::start)
}

fn open_with(url: &str, variables: &[(&str, String)]) -> Result<Arc<dyn Storage>> {
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let retries = Retries { total: Duration::from_secs(20), ..Retries::default() };
    open(url, &Options { env: Environment::of(&variables), retries, ..Options::default() })
}

fn rounds() -> Rounds {
    Rounds { large_rounds: large_rounds(1), ..Rounds::FULL }
}

#[test]
fn conformance_azure() {
    azurite().make("conformance");
    conforms(&|| open_with("az://conformance/a/b", &azurite().variables()), &rounds());
    conforms(&|| open_with("az://conformance", &azurite().variables()), &Rounds::SHORT);
}

#[test]
fn conformance_google() {
    google().make("conformance");
    conforms(&|| open_with("gs://conformance/a/b", &google().variables()), &rounds());
    conforms(&|| open_with("gs://conformance", &google().variables()), &Rounds::SHORT);
}

/// Which failure it is, and that its text says what to do.
#[track_caller]
fn refused(opened: Result<Arc<dyn Storage>>, kind: ErrorKind, words: &str) {
    let error = opened.and_then(|storage| storage.create(&Key::new("x").unwrap(), bytes::Bytes::new())).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

fn with(mut variables: Vec<(&'static str, String)>, name: &'static str, value: &str) -> Vec<(&'static str, String)> {
    variables.retain(|(found, _)| *found != name);
    variables.push((name, value.into()));
    variables
}

#[test]
fn what_is_wrong_is_said_with_the_next_step() {
    let azure = azurite().variables();
    refused(open_with("az://none", &azure), ErrorKind::NoRepository, "make the container first");
    let wrong = with(azure.clone(), "AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=");
    refused(open_with("az://none", &wrong), ErrorKind::Denied, "AZURE_STORAGE_ACCOUNT_KEY");
    let wrong = with(azure.clone(), "AZURE_STORAGE_ACCOUNT_KEY", "no base64!");
    let error = open_with("az://none", &wrong).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && !error.to_string().contains("no base64!"), "{error}");
    refused(open_with("az://none", &[]), ErrorKind::Denied, "AZURE_STORAGE_ACCOUNT_NAME");
    refused(open_with("gs://none", &google().variables()), ErrorKind::NoRepository, "make the bucket first");
    let missing = [("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json".to_owned())];
    refused(open_with("gs://none", &missing), ErrorKind::Denied, "/nonexistent/key.json");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.json");
    std::fs::write(&file, r#"{"type": "service_account", "private_key": "secret-words"}"#).unwrap();
    let unusable = [("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string())];
    let error = open_with("gs://none", &unusable).unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && !error.to_string().contains("secret-words"), "{error}");
    for url in ["az://account:hidden@container", "gs://user:hidden@bucket"] {
        let error = open_with(url, &azure).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && !error.to_string().contains("hidden"), "{error}");
    }
}

/// The way of a user, by the command line.
fn there_and_back(url: &str, variables: &[(&'static str, String)]) {
    let home = Home::new().at(url, variables);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    home.run(&["init"]).ok();
    home.backup("vm", &bytes);
    home.run(&["restore", "latest", &home.text("back")]).ok();
    assert!(std::fs::read(home.path("back")).unwrap() == bytes, "the restored disk differs");
    assert!(home.run(&["check", "--read-data"]).ok().stdout.contains("no damage found"));
}

#[test]
fn azure_there_and_back() {
    azurite().make("vms");
    there_and_back("az://vms/wherry", &azurite().variables());
}

#[test]
fn google_there_and_back() {
    google().make("vms");
    there_and_back("gs://vms/wherry", &google().variables());
}
