//! What reads bytes from outside deep in our crates, and is reached through their `decoders`; settings and locations too.

use super::same;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use wherry_api::location::Recorded;
use wherry_api::settings::ENTRIES;
use wherry_api::{BackupStorageLocation, Settings, decoders as of_api};
use wherry_repo::format::clear::{self, Epoch, KeySlot};
use wherry_repo::{Codec, Timestamp, decoders as of_repo};

/// Longest plaintext that is unpacked; the longest there is takes too long.
const PLAIN: usize = 1 << 20;

pub(super) fn key_bundle(bytes: &[u8]) -> bool {
    let Ok(written) = of_repo::bundle(bytes) else { return false };
    same(written, bytes);
    true
}

/// The first byte says which: a sealed record; or a slot, whose checksum is set, so that more than that is read of it, and likewise a key
/// epoch, which slots open.
pub(super) fn key_slot(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    if which % 2 == 1 {
        return of_repo::record(bytes).is_ok();
    }
    if let Ok(epoch) = serde_json::from_slice::<Epoch>(bytes) {
        return epoch_opens(&epoch);
    }
    let Ok(slot) = serde_json::from_slice::<KeySlot>(bytes) else { return false };
    let line = clear::encode(&slot).expect("what was read can be written");
    let slot = clear::decode::<KeySlot>(&line).expect("what was written can be read");
    let Ok(Some(bundle)) = of_repo::slot(&slot) else { return false };
    assert!(of_repo::bundle(&bundle).is_ok());
    true
}

/// Secrets are sealed for the number of the epoch and for the slot. One by one: beside what opens there may be what opens as another.
fn epoch_opens(epoch: &Epoch) -> bool {
    let mut any = false;
    for slot in &epoch.slots {
        let one = Epoch { slots: vec![slot.clone()], ..epoch.clone() };
        let opened = of_repo::epoch(&one).expect("what was opened can be sealed");
        assert!(opened.iter().all(|(_, secret, again)| again.as_ref() == Some(secret)), "it is read as another");
        if opened.is_empty() {
            continue;
        }
        any = true;
        let next = Epoch { epoch: one.epoch.wrapping_add(1), ..one.clone() };
        assert_eq!(of_repo::epoch(&next).ok(), Some(Vec::new()), "it opens as another epoch");
        let mut other = one;
        other.slots[0].slot.push('0');
        assert_eq!(of_repo::epoch(&other).ok(), Some(Vec::new()), "it opens for another slot");
    }
    any
}

/// The codec, and the length of the plaintext, come first.
pub(super) fn packed(bytes: &[u8]) -> bool {
    let Some((&[codec, a, b, c], bytes)) = bytes.split_first_chunk() else { return false };
    let plain = u32::from_le_bytes([a, b, c, 0]) as usize % PLAIN;
    let Some(codec) = Codec::from_u8(codec) else { return false };
    let Some(read) = of_repo::unpacked(codec, bytes, plain) else { return false };
    assert_eq!(read.len(), plain);
    assert_eq!(of_repo::unpacked(codec, bytes, plain), Some(read), "it is another the second time");
    assert_eq!(of_repo::unpacked(codec, bytes, plain + 1), None, "a wrong length is refused");
    true
}

/// The first byte says which: a listing, a refusal, a file of credentials, the line in a lock file, the date of an answer, or what
/// is said of a part of a batch.
pub(super) fn storage_texts(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let text = String::from_utf8_lossy(bytes);
    match which % 7 {
        0 => of_repo::is_listing(false, &text),
        1 => of_repo::is_listing(true, &text),
        2 => {
            assert!(of_repo::refusal(500, &text).starts_with("HTTP 500"));
            true
        }
        3 => {
            let (name, text) = text.split_once('\n').unwrap_or(("default", &text));
            let values = of_repo::section(text, name);
            assert!(values.keys().all(|name| name.trim() == name), "a name has blanks around it");
            !values.is_empty()
        }
        5 => {
            let Some(Timestamp(moment)) = of_repo::moment(&text) else { return false };
            assert_eq!(moment % 1_000_000_000, 0, "a date has whole seconds");
            true
        }
        6 => {
            let Some((_, message)) = of_repo::part_of_batch(&text) else { return false };
            assert!(text.contains(&message) && message.trim() == message, "{message:?}");
            true
        }
        _ => {
            let said = of_repo::holder(&text, Timestamp(1_780_000_000_000_000_000));
            assert!(said.starts_with("another process"));
            said.len() > "another process".len()
        }
    }
}

/// Numbers with a point are read nearly as they are written.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(fields) => fields.values().all(is_exact),
        _ => true,
    }
}

/// What an API server answers: pages, objects, lines of a watch, refusals, tokens, and for how long it is to be left alone.
pub(super) fn kubernetes_answers(bytes: &[u8]) -> bool {
    let mut found = false;
    if let Ok((objects, version, more)) = of_api::page(bytes) {
        found = true;
        let metadata = serde_json::json!({ "resourceVersion": version, "continue": more });
        let page = serde_json::json!({ "metadata": metadata, "items": objects }).to_string();
        let again = of_api::page(page.as_bytes()).expect("what was read can be written");
        assert!(!objects.iter().all(is_exact) || again == (objects, version, more), "{page} is read as {again:?}");
    }
    if let Ok(object) = of_api::object(bytes) {
        found = true;
        let again = of_api::object(object.to_string().as_bytes()).expect("what was read can be written");
        assert!(!is_exact(&object) || again == object, "{object} is read as {again}");
        assert!(object["metadata"]["managedFields"].is_null(), "nobody reads that");
        let _ = (of_api::served(&object), of_api::service(&object));
        if let Some(token) = of_api::token(&object) {
            assert!(!token.text.is_empty(), "a token that is none is sent");
            let said = token.expires.map(|at| at.to_string().parse());
            assert_eq!(said.transpose().ok(), Some(token.expires), "it expires at another time");
        }
    }
    if let Some(text) = std::str::from_utf8(bytes).ok()
        && let Some(pause) = of_api::retry_after(text)
    {
        found = true;
        assert_eq!(of_api::retry_after(&pause.as_secs().to_string()), Some(pause), "{text:?}");
        assert_eq!(text.trim_start_matches(['+', '0']), pause.as_secs().to_string().trim_start_matches('0'));
    }
    let half = bytes.split_at(bytes.len() / 2);
    let lines = of_api::watched(&[bytes]);
    assert_eq!(of_api::watched(&[half.0, half.1]), lines, "it depends on how it arrives");
    found |= lines.iter().any(|line| !line.starts_with("Failed"));
    for code in [400, 404, 409] {
        let refused = wherry_api::client::refused("get", code, bytes).to_string();
        assert!(refused.contains(&code.to_string()), "{refused}");
    }
    found
}

fn texts(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    serde_json::from_slice(bytes).ok()
}

/// `data` of the ConfigMap.
pub(super) fn settings(bytes: &[u8]) -> bool {
    let Some(data) = texts(bytes) else { return false };
    match Settings::parse(&data) {
        Ok(settings) => {
            assert!(settings.restore_share + settings.backup_share <= 100);
            // The same as when nobody says what holds anyway.
            let is_default = |key: &str, text: &str| ENTRIES.iter().any(|e| e.key == key && e.default == text);
            let mut said = data;
            said.retain(|key, text| !is_default(key, text));
            assert_eq!(Settings::parse(&said).as_ref(), Ok(&settings), "{said:?} means another");
            true
        }
        Err(wrong) => {
            assert!(!wrong.is_empty());
            assert!(wrong.iter().all(|bad| !bad.key.is_empty() || data.contains_key("")), "{wrong:?}");
            assert!(wrong.iter().all(|bad| !bad.reason.is_empty()), "{wrong:?}");
            false
        }
    }
}

/// A BackupStorageLocation, a line end, and what its Secret holds; or what is recorded of one.
pub(super) fn location(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (object, credential) = (parts.next().unwrap_or_default(), parts.next());
    let mut found = false;
    if let Ok(recorded) = serde_json::from_slice::<Recorded>(object) {
        found = true;
        let moved = recorded.clone().moved("r".into(), "elsewhere".into());
        assert_eq!(moved.at("elsewhere"), Some("r"));
        assert!(recorded.location == "elsewhere" || moved.at(&recorded.location) == Some(&recorded.repository));
    }
    let Ok(object) = serde_json::from_slice::<Value>(object) else { return found };
    let Ok(location) = wherry_api::decode::decode::<BackupStorageLocation>("BackupStorageLocation", &object) else {
        return found;
    };
    if let Ok(url) = wherry::decoders::location(&location, credential) {
        assert!(url.ends_with("plugins/wherry"), "{url}");
        found = true;
    }
    found
}

pub(super) fn config_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match wherry::decoders::config(text) {
        Ok(()) => true,
        Err(e) => {
            let said = e.to_string();
            assert!(said.starts_with("config.toml:") && !said.contains('\n'), "{said:?}");
            false
        }
    }
}

/// Lines of the kernel's table of mounts, as both that read it see them.
pub(super) fn mounts(bytes: &[u8]) -> bool {
    let mut found = false;
    for line in bytes.split(|byte| *byte == b'\n') {
        let ours = wherry::decoders::mount(line);
        let theirs = wherry_block::decoders::mount(line);
        found |= ours.is_some();
        let length = |path: &PathBuf| path.as_os_str().as_bytes().len();
        for (at, source) in [&ours, &theirs].into_iter().flatten() {
            assert!(length(at) + length(source) <= line.len(), "paths are no longer than the line");
        }
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            assert_eq!(ours.0, theirs.0, "the mount is elsewhere");
        }
    }
    found
}

/// The size of the device, then messages, each after its length in two bytes.
pub(super) fn block_answers(bytes: &[u8]) -> bool {
    let Some((size, mut rest)) = bytes.split_first_chunk() else { return false };
    let size = u64::from_le_bytes(*size);
    let mut messages = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (message, after) = after.split_at(after.len().min(u16::from_le_bytes(*length).into()));
        if let Some(written) = wherry::decoders::blocks(message) {
            assert_eq!(wherry::decoders::blocks(&written).as_ref(), Some(&written), "it is read as another");
        }
        messages.push(message);
        rest = after;
    }
    let Ok(ranges) = wherry::decoders::changed(&messages, size) else { return false };
    assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size), "{ranges:?} of {size}");
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "ranges ascend and do not touch");
    true
}
