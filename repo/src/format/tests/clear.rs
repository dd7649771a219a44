//! The clear objects.

use super::*;
use crate::format::clear::{
    Clear, Config, FORMAT, Identity, KeySlot, SUITE, check_readable, check_writable, decode, encode,
};

fn identity() -> Identity {
    Identity { wherry: "repository".into(), format: FORMAT, uuid: "0f".repeat(16), crc: String::new() }
}

fn config() -> Config {
    Config {
        wherry: "config".into(),
        minor: 0,
        read: vec![],
        write: vec![],
        gc: vec![],
        suite: SUITE.into(),
        chunk_size: 262_144,
        single_writer: false,
        mac: "ab".repeat(32),
        crc: String::new(),
    }
}

fn slot() -> KeySlot {
    KeySlot {
        wherry: "key".into(),
        slot: "0".repeat(16),
        kind: "password".into(),
        created: 1_780_000_000,
        m_kib: 65_536,
        t: 3,
        p: 1,
        salt: "12".repeat(16),
        wrapped: "34".repeat(135),
        epoch: 0,
        crc: String::new(),
    }
}

fn comes_back<T: Clear + PartialEq + Debug>(object: &T) {
    let bytes = encode(object).unwrap();
    let mut found: T = decode(&bytes).unwrap();
    found.crc().clear();
    assert_eq!(found, *object);
}

proptest! {
    #[test]
    fn clear_objects_come_back(
        text in any::<String>(), list in proptest::collection::vec(any::<String>(), 0..3), n: u32, time: i64, flag: bool,
    ) {
        comes_back(&Config {
            minor: n, read: list.clone(), write: list, mac: text.clone(), single_writer: flag, ..config()
        });
        comes_back(&KeySlot { created: time, m_kib: n, kind: text.clone(), wrapped: text, ..slot() });
    }
}

#[test]
fn every_change_of_a_clear_object_is_found() {
    assert_every_change_is_corrupt(&encode(&identity()).unwrap(), decode::<Identity>);
    assert_every_change_is_corrupt(&encode(&config()).unwrap(), decode::<Config>);
    assert_every_change_is_corrupt(&encode(&slot()).unwrap(), decode::<KeySlot>);
}

#[test]
fn one_line_has_one_spelling() {
    let line = String::from_utf8(encode(&identity()).unwrap()).unwrap();
    for other in [line.trim_end().to_owned(), line.replace(",", ", "), format!(" {line}"), format!("{line}\n")] {
        assert_eq!(decode::<Identity>(other.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt, "{other:?}");
    }
    let (_, config) = (decode::<Config>(line.as_bytes()).unwrap_err(), encode(&config()).unwrap());
    assert_eq!(decode::<Identity>(&config).unwrap_err().kind(), ErrorKind::Corrupt, "one is not taken for another");
}

/// A line of a newer version, whose checksum fits.
fn newer(line: &str) -> Vec<u8> {
    let crc = format!("{:08x}", crc32fast::hash(line.as_bytes()));
    line.replace("00000000", &crc).into_bytes()
}

#[test]
fn an_intact_newer_identity_is_unsupported_and_a_damaged_one_corrupt() {
    let line = "{\"wherry\":\"repository\",\"format\":2,\"new\":[1],\"uuid\":\"x\",\"crc\":\"00000000\"}\n";
    let bytes = newer(line);
    assert_eq!(decode::<Identity>(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
    for (what, bad) in changes(&bytes) {
        assert_eq!(decode::<Identity>(&bad).unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
    }
}

#[test]
fn unknown_features_are_unsupported() {
    let features = || vec!["x".to_owned()];
    let (none, read, write) =
        (config(), Config { read: features(), ..config() }, Config { write: features(), ..config() });
    let suite = Config { suite: "x".into(), ..config() };
    let tree = Config { minor: 1, read: vec!["tree".to_owned()], ..config() };
    let maps = Config { minor: 2, read: vec!["tree".to_owned(), "tree-map".to_owned()], ..config() };
    let more = Config { read: vec!["tree".to_owned(), "x".to_owned()], ..config() };
    let like = Config { read: vec!["tree-maps".to_owned()], ..config() };
    // Those of collectors do not concern who only adds.
    let gc = Config { gc: features(), ..config() };
    for (config, readable, writable) in [
        (none, true, true),
        (read, false, false),
        (write, true, false),
        (suite, false, false),
        (gc, true, true),
        (tree, true, true),
        (maps, true, true),
        (more, false, false),
        (like, false, false),
    ] {
        let allowed = |result: crate::Result<()>| match result {
            Ok(()) => true,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
                false
            }
        };
        assert_eq!(
            (allowed(check_readable(&config)), allowed(check_writable(&config))),
            (readable, writable),
            "{config:?}"
        );
    }
}

#[test]
fn garbage_is_survived() {
    let valid = [encode(&identity()).unwrap(), encode(&config()).unwrap(), encode(&slot()).unwrap()];
    assert_garbage_is_survived(&valid, decode::<Identity>, |object, bytes| assert_eq!(encode(object).unwrap(), bytes));
    assert_garbage_is_survived(&valid, decode::<Config>, |object, bytes| assert_eq!(encode(object).unwrap(), bytes));
    assert_garbage_is_survived(&valid, decode::<KeySlot>, |object, bytes| assert_eq!(encode(object).unwrap(), bytes));
}
