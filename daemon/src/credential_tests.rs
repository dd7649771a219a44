use super::*;
use std::os::unix::fs::PermissionsExt;

fn flags() -> CredentialFlags {
    CredentialFlags::default()
}

fn text(source: &CredentialSource) -> Result<String> {
    match source.read("", &Cancel::default()) {
        Ok(Credential::Password(p)) => Ok(p.as_str().to_owned()),
        Ok(Credential::KeyFile(k)) => Ok(String::from_utf8(k.to_vec()).unwrap()),
        Err(e) => Err(e),
    }
}

#[test]
fn at_most_one_source() {
    assert_eq!(flags().source().unwrap(), CredentialSource::Prompt);
    let one = CredentialFlags { environment: true, ..flags() };
    assert_eq!(one.source().unwrap(), CredentialSource::Environment);
    let two = CredentialFlags { environment: true, key_file: Some("k".into()), ..flags() };
    let error = two.source().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("key file k and WHERRY_PASSWORD"), "{error}");
}

#[test]
fn one_line_end_is_not_part_of_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pw");
    for (content, password) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a b \n", " a b ")] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(text(&CredentialSource::PasswordFile(path.clone())).unwrap(), password, "{content:?}");
    }
    for wrong in [&b""[..], b"\n", b"\xff\n", &[b'x'; MAX_LEN + 1]] {
        std::fs::write(&path, wrong).unwrap();
        let error = text(&CredentialSource::PasswordFile(path.clone())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
    let error = text(&CredentialSource::PasswordFile(dir.path().join("none"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("none"), "{error}");
}

#[test]
fn commands_print_passwords() {
    let run = |c: &str| text(&CredentialSource::PasswordCommand(c.to_owned()));
    assert_eq!(run("echo secret").unwrap(), "secret");
    assert_eq!(run("printf '%s' \"$WHERRY_PASSWORD\"").unwrap_err().kind(), ErrorKind::Denied);
    for wrong in ["echo secret; exit 3", "true", "kill -9 $$", "yes | head -c 1000000"] {
        let error = run(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{wrong}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
}

#[test]
fn a_missing_key_file_is_made_once_and_for_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let source = CredentialSource::KeyFile(path.clone());
    let rng = wherry_repo::System::default();
    assert_eq!(source.missing_key_file(), Some(&*path));
    make_key_file(&path, &rng).unwrap();
    assert_eq!(source.missing_key_file(), None);
    let key = text(&source).unwrap();
    assert_eq!(key.len(), 64);
    assert!(key.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    assert!(make_key_file(&path, &rng).is_err());
    assert_eq!(text(&source).unwrap(), key, "an existing key was overwritten");

    let other = dir.path().join("other");
    make_key_file(&other, &rng).unwrap();
    assert_ne!(text(&CredentialSource::KeyFile(other)).unwrap(), key);
}

#[test]
fn short_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, [b'k'; MIN_KEY_FILE - 1]).unwrap();
    assert_eq!(text(&CredentialSource::KeyFile(path)).unwrap_err().kind(), ErrorKind::Denied);
}

#[test]
fn secrets_are_not_shown() {
    let password = Credential::Password(Zeroizing::new("secret".to_owned()));
    let key = Credential::KeyFile(Zeroizing::new(b"secret".to_vec()));
    let command = CredentialSource::PasswordCommand("echo secret".to_owned());
    let shown = format!("{password:?} {key:?} {command:?} {command}");
    assert!(!shown.contains("secret") && !shown.contains("115, 101"), "{shown}");
}
