//! What lies on this machine, the kernel says or somebody types: the chunk index, notes and secrets, URLs, extended attributes.

use std::collections::BTreeSet;
use std::path::Path;
use wherry::decoders as of_wherry;
use wherry::tree::path::TreePath;
use wherry_repo::{Credential, decoders as of_repo};

/// The first byte says of which kind: a value of the database of the chunk index, or its last key. As it is, and with the check
/// that it should have.
pub(super) fn index_values(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let read = [false, true].map(|mend| of_repo::index_value(which % 7, bytes, mend));
    for (read, written) in read.iter().flatten() {
        super::same(written, read);
    }
    read[0].is_some()
}

/// The first byte says which: the note of a restore, what `/proc` says of a process, a password, a key, a request over HTTP, a
/// device's number, the `velero-backup.json` of a backup, `/proc/swaps`, what is in the memory of a process.
pub(super) fn local_texts(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let text = std::str::from_utf8(bytes);
    match which % 9 {
        0 => {
            let Some(written) = of_wherry::restore_note(bytes) else { return false };
            assert_eq!(of_wherry::restore_note(&written).as_ref(), Some(&written), "it is read as another");
            true
        }
        1 => text.ok().and_then(of_repo::started).is_some(),
        2 | 3 => {
            let is_password = which % 9 == 2;
            match of_wherry::secret(is_password, bytes) {
                Ok(Credential::Password(read)) => assert!(is_password && !read.is_empty()),
                Ok(Credential::KeyFile(read)) => assert!(!is_password && read.len() >= 16 && bytes.starts_with(&read)),
                Err(_) => return false,
            }
            true
        }
        4 => {
            let path = wherry_api::decoders::asked(bytes);
            assert!(!path.contains(char::is_whitespace) && !path.contains('?'), "{path:?}");
            !path.is_empty()
        }
        5 => text.ok().and_then(wherry_block::decoders::device_number).is_some(),
        7 => {
            let found = wherry_block::decoders::swaps(bytes);
            assert!(found.iter().map(|path| path.as_os_str().len()).sum::<usize>() <= bytes.len(), "{found:?}");
            !found.is_empty()
        }
        8 => {
            let dir = Path::new("/mnt/a");
            let Some(path) = text.ok().and_then(|text| of_wherry::mapped(text, dir)) else { return false };
            assert!(path.starts_with(dir), "{path:?} is elsewhere");
            true
        }
        _ => of_wherry::backup_uid(bytes).inspect(|uid| assert!(!uid.is_empty())).is_some(),
    }
}

/// What would be a secret in a URL stands before or behind one of these.
const SECRETS: [char; 3] = ['@', '?', '#'];

/// The first byte says which: a place of one of three providers, an endpoint, or a path in a snapshot.
pub(super) fn urls(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let which = which % 5;
    if which == 4 {
        let path = TreePath::new(bytes);
        let again = TreePath::new(&path.bytes());
        assert_eq!(again, path, "it is read as another");
        return path.bytes().len() <= bytes.len() + 1;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    if which == 3 {
        return match of_repo::endpoint(text) {
            Ok(read) => {
                assert_eq!(of_repo::endpoint(&read).ok().as_ref(), Some(&read), "it is read as another");
                true
            }
            Err(e) => is_refused(&e.to_string()),
        };
    }
    let scheme = ["s3", "az", "gs"][usize::from(which)];
    match of_repo::place(scheme, text) {
        Ok((shown, bucket, prefix)) => {
            assert_eq!(shown, format!("{scheme}://{text}"));
            assert!(!bucket.is_empty() && !bucket.contains('/'), "{bucket:?}");
            assert!(prefix.is_empty() || prefix.ends_with('/') && !prefix.starts_with('/'), "{prefix:?}");
            let again =
                of_repo::place(scheme, &format!("{bucket}/{prefix}")).map(|(_, bucket, prefix)| (bucket, prefix));
            assert_eq!(again.ok(), Some((bucket, prefix)), "it is read as another");
            true
        }
        Err(e) => is_refused(&e.to_string()),
    }
}

/// False; and what may be a secret was not repeated.
fn is_refused(said: &str) -> bool {
    assert!(!said.contains(SECRETS), "{said:?}");
    false
}

/// Names of extended attributes as the kernel lists them, each with a zero behind it. Each has itself for a value, but for those with a
/// minus sign, which are gone when they are asked for.
pub(super) fn attribute_names(list: &[u8]) -> bool {
    let is_gone = |name: &[u8]| name.starts_with(b"-");
    let Ok(set) = of_wherry::attributes(list, |name| (!is_gone(name.to_bytes())).then(|| name.to_bytes().to_vec()))
    else {
        return false;
    };
    assert!(set.0.is_empty() || set.fault().is_none(), "no reader would take {set:?}");
    assert!(set.0.iter().all(|(name, value)| name == value), "a name has another one's value");
    let names: BTreeSet<&[u8]> =
        list.split_inclusive(|byte| *byte == 0).filter_map(|name| name.strip_suffix(&[0])).collect();
    let there = names.into_iter().filter(|name| !is_gone(name));
    assert!(there.eq(set.0.iter().map(|(name, _)| &name[..])), "{set:?} is not what {list:?} says");
    !set.0.is_empty()
}

/// What an ACL as text lets the group do.
fn group_in(text: &[u8]) -> Option<u16> {
    let bits = |of: &[u8]| {
        let can = text.split(|byte| *byte == b',').find_map(|entry| entry.strip_prefix(of))?;
        Some(can.iter().zip([4, 2, 1]).filter(|(letter, _)| **letter != b'-').map(|(_, bit)| bit).sum::<u16>())
    };
    Some(bits(b"group::")? & bits(b"mask::").unwrap_or(7))
}

/// The name of an extended attribute, a zero, its value: as an archive tells it, and as a restore heeds it where it is an ACL.
pub(super) fn archived(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (key, told) = of_wherry::attribute(name, value);
    let group = of_wherry::group_of(value);
    assert!(group.is_none_or(|bits| bits <= 7), "{group:?} is more than there is to be allowed");
    assert!(!key.contains(&b'='), "the key ends there");
    match key.strip_prefix(b"SCHILY.xattr.") {
        Some(escaped) => {
            assert_eq!(told, value);
            assert_eq!(unescaped(escaped), name, "it is told as another attribute");
        }
        None => {
            let is_acl = key.starts_with(b"SCHILY.acl.");
            assert!(!is_acl || told.is_ascii() && value.len() == 4 + 8 * told.split(|byte| *byte == b',').count());
            assert!(!is_acl || group == group_in(&told), "an archive says something else than a restore heeds");
        }
    }
    true
}

fn unescaped(key: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), key);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match (*byte, after) {
            (b'%', [b'2', b'5', after @ ..]) => (out.push(b'%'), rest = after).0,
            (b'%', [b'3', b'D', after @ ..]) => (out.push(b'='), rest = after).0,
            (byte, _) => out.push(byte),
        }
    }
    out
}

const NOTE: &str = r#"{"snapshot":"00","root":"11","identity":"new"}"#;
const SWAPS: &str = "Filename\tType\tSize\tUsed\tPriority\n/dev/dm-1 partition\t8\t0\t-2\n/a\\040b file\t8\t0\t-3\n";
const MAPS: &str =
    "7f00-7f01 r-xp 0 08:01 7 /usr/lib/a.so\n7f02-7f03 rw-p 0 0:0 0\n7f04-7f05 r--s 0 0:9 8 /mnt/a/b c\n";
const STAT: &str = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 8515 0 0";

pub(super) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let text = |which: u8, text: &str| [&[which], text.as_bytes()].concat();
    let acl = [
        &b"system.posix_acl_access\0"[..],
        &[2, 0, 0, 0],
        &[1, 0, 6, 0, 255, 255, 255, 255],
        &[2, 0, 4, 0, 232, 3, 0, 0],
        &[4, 0, 4, 0, 255, 255, 255, 255],
        &[16, 0, 4, 0, 255, 255, 255, 255],
        &[32, 0, 0, 0, 255, 255, 255, 255],
    ];
    let kinds = ["rows", "pack", "number", "stamp", "sampling", "covered", "last"];
    let values = of_repo::index_seeds().expect("seeds can be made");
    let values = kinds
        .into_iter()
        .zip(values)
        .map(|(name, (which, bytes))| ("index_values", name, [&[which], &bytes[..]].concat()));
    let others = vec![
        ("local_texts", "note", text(0, NOTE)),
        ("local_texts", "stat", text(1, STAT)),
        ("local_texts", "password", text(2, "secret\r\n")),
        ("local_texts", "key", text(3, "0123456789abcdef0123456789abcdef\n")),
        ("local_texts", "request", text(4, "GET /metrics?a=b HTTP/1.1\r\n\r\n")),
        ("local_texts", "device", text(5, "253:1")),
        ("local_texts", "backup", text(6, r#"{"metadata":{"uid":"u"}}"#)),
        ("local_texts", "swaps", text(7, SWAPS)),
        ("local_texts", "maps", text(8, MAPS)),
        ("urls", "s3", text(0, "bucket/a/b/")),
        ("urls", "azure", text(1, "container")),
        ("urls", "google", text(2, "bucket/a")),
        ("urls", "endpoint", text(3, "https://host:9000/")),
        ("urls", "path", text(4, "/a/./b/../c//")),
        ("attributes", "list", b"user.b\0security.selinux\0-gone\0user.a\0user.b\0".to_vec()),
        ("archived", "acl", acl.concat()),
        ("archived", "label", b"security.selinux\0a:b:c:s0\0".to_vec()),
        ("archived", "escaped", b"user.a=b%\0value".to_vec()),
    ];
    values.chain(others).collect()
}
