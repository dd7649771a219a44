//! What fuzzing found stays found: every corpus beneath `fuzz/corpus` is read again, and each of its files in
//! damaged forms, which a seed makes. `scripts/fuzz` begins with the same corpora.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use wherry_tests::fuzzed::{TARGETS, seeds::seeds};
use wherry_tests::small::splitmix;

/// Damaged forms of a file.
const FORMS: u64 = 300;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let found = std::fs::read_dir(fuzz().join("corpus").join(name)).unwrap_or_else(|e| panic!("corpus of {name}: {e}"));
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// A few bytes changed, cut out, doubled or put in.
fn damaged(bytes: &[u8], state: &mut u64) -> Vec<u8> {
    let mut below = |n: usize| (splitmix(state) % n.max(1) as u64) as usize;
    let mut out = bytes.to_vec();
    for _ in 0..1 + below(3) {
        let at = below(out.len());
        let end = (at + 1 + below(16)).min(out.len());
        match below(5) {
            0 if !out.is_empty() => out[at] ^= 1 << below(8),
            1 if !out.is_empty() => out[at] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'-', b'\n'][below(8)],
            2 => out.truncate(at),
            3 if at < end => drop(out.drain(at..end)),
            _ => {
                let piece = out[at.min(end)..end].to_vec();
                out.splice(at..at, piece);
            }
        }
    }
    out
}

#[test]
fn every_corpus_is_read_whole_and_damaged() {
    let made: Vec<_> = seeds().into_iter().map(|(_, _, bytes)| bytes).collect();
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(!files.is_empty(), "{name} has no corpus");
        for (path, bytes) in files {
            let mut state = bytes.iter().fold(bytes.len() as u64, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte));
            // Whole disks take longer; and what libFuzzer has found, which it names by a hash, are forms themselves.
            let found = path.file_name().is_some_and(|name| name.len() == 40);
            let forms = if found || bytes.len() > 16 << 10 { FORMS / 20 } else { FORMS };
            for n in 0..=forms {
                let form = if n == 0 { bytes.clone() } else { damaged(&bytes, &mut state) };
                let read = std::panic::catch_unwind(|| target(&form));
                // What our encoders made is more than bytes that are refused.
                let refused = n == 0 && made.contains(&form) && matches!(read, Ok(false));
                if read.is_err() || refused {
                    failed.push(format!("{}, form {n}: {}", path.display(), form.escape_ascii()));
                    break;
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let known: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    let dirs = std::fs::read_dir(fuzz().join("corpus")).unwrap().map(|dir| dir.unwrap().file_name());
    let corpora: BTreeSet<String> = dirs.map(|name| name.into_string().unwrap()).collect();
    assert!(corpora.iter().map(String::as_str).eq(known), "a corpus without a target, or the reverse");
}
