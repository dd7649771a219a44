//! What fuzzing found stays found: every corpus beneath `fuzz/corpus` is read again, and each of its files in
//! damaged forms, which a seed makes. `scripts/fuzz` begins with the same corpora.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use wherry_tests::fuzzed::{TARGETS, panics, seeds::seeds, target};
use wherry_tests::small::splitmix;

/// Damaged forms of a file.
const FORMS: u64 = 300;

/// Files that were found once, and have a name.
const REFUSED: [(&str, &str); 3] = [("key_bundle", "epoch-twice"), ("key_bundle", "epochs-descend"), ("plans", "list")];

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
    panics::leave_others_alone();
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(!files.is_empty(), "{name} has no corpus");
        for (path, bytes) in files {
            let mut state = bytes.iter().fold(bytes.len() as u64, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte));
            // Whole disks take longer; and what libFuzzer has found, which it names by a hash, are forms themselves.
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_found = file.len() == 40;
            let forms = if is_found || bytes.len() > 16 << 10 { FORMS / 20 } else { FORMS };
            for n in 0..=forms {
                let form = if n == 0 { bytes.clone() } else { damaged(&bytes, &mut state) };
                let read = std::panic::catch_unwind(|| target(&form));
                // What somebody named is more than bytes that are refused, but for what has to be.
                let refused = n == 0 && !is_found && !REFUSED.contains(&(name, file)) && matches!(read, Ok(false));
                if read.is_err() || refused || panics::was_ours() {
                    failed.push(format!("{}, form {n}: {}", path.display(), form.escape_ascii()));
                    break;
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_seed_is_read_and_in_its_corpus() {
    for (name, file, bytes) in seeds() {
        assert!(target(name)(&bytes), "{name} does not read {file}: {}", bytes.escape_ascii());
        let path = fuzz().join("corpus").join(name).join(file);
        assert!(path.exists(), "{} is not there: the example fuzz_seeds writes it", path.display());
    }
}

#[test]
fn panics_are_told_apart_by_where_they_are() {
    assert!(panics::is_ours(std::panic::Location::caller()));
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let known: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    let dirs = std::fs::read_dir(fuzz().join("corpus")).unwrap().map(|dir| dir.unwrap().file_name());
    let corpora: BTreeSet<String> = dirs.map(|name| name.into_string().unwrap()).collect();
    assert!(corpora.iter().map(String::as_str).eq(known), "a corpus without a target, or the reverse");
}

/// What a line of code holds that reads bytes from outside, or a field or text of what was read so. Others do so too, and are in a table
/// all the same.
const SIGNS: [&str; 12] = [
    "fn decode",
    "fn parse",
    "FromStr for",
    "Deserialize",
    "serde_json::from_",
    "toml::from_str",
    "from_str(",
    "from_utf8(",
    ".parse(",
    ".parse::<",
    ".pointer(",
    ".get(\"",
];

/// Whether a line of code reads. A field by its name stands behind what it is of, and a list of texts does not.
fn reads(line: &str) -> bool {
    let is_of_something =
        |(at, _): (usize, &str)| line[..at].ends_with(|c: char| c.is_alphanumeric() || "_)]".contains(c));
    let is_code = !line.trim_start().starts_with("//");
    is_code && (SIGNS.iter().any(|sign| line.contains(sign)) || line.match_indices("[\"").any(is_of_something))
}

#[test]
fn a_line_that_reads_is_told_from_one_that_does_not() {
    for line in ["object[\"spec\"]", "list()[\"a\"]", "a[0][\"b\"]", "text.parse::<u64>()", "map.get(\"storage\")"] {
        assert!(reads(line), "{line}");
    }
    for line in ["[\"a\", \"b\"]", "&[\"a\"]", "// object[\"a\"]", "map.get(key)", "parse_all()"] {
        assert!(!reads(line), "{line}");
    }
}

/// The files of source beneath a folder, but for tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        match path.is_dir() {
            true if name != "tests" => sources(&path, found),
            true => {}
            false if name != "tests.rs" && !name.ends_with("_tests.rs") && name.ends_with(".rs") => found.push(path),
            false => {}
        }
    }
}

/// What `fuzz/README.md` says of a file: what it reads by which targets, or why by none.
struct Row {
    file: String,
    why: String,
    targets: BTreeSet<String>,
}

/// The rows of its tables.
fn table() -> Vec<Row> {
    let text = std::fs::read_to_string(fuzz().join("README.md")).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let file = cells.next()?.trim().trim_end_matches('`').to_owned();
        let why = cells.next()?.trim().to_owned();
        let targets = cells.next()?.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect();
        Some(Row { file, why, targets })
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn no_decoder_is_without_a_target() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for folder in ["repo/src", "daemon/src", "daemon/block/src", "daemon/api/src", "controller/src"] {
        sources(&top.join(folder), &mut found);
    }
    let table = table();
    let decodes = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        // Modules with tests stand last.
        text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().lines().any(reads)
    };
    let is_known = |path: &Path| table.iter().any(|row| top.join(&row.file) == path);
    let missing: Vec<_> = found.iter().filter(|path| decodes(path) && !is_known(path)).collect();
    assert!(missing.is_empty(), "these read bytes from outside and are not in fuzz/README.md: {missing:?}");
    let mut seen = BTreeSet::new();
    for Row { file, why, targets } in &table {
        assert!(found.contains(&top.join(file)), "fuzz/README.md names {file}, which is not there");
        assert!(seen.insert(file), "fuzz/README.md names {file} twice");
        assert!(!why.is_empty(), "fuzz/README.md says nothing of {file}");
        assert!(!targets.is_empty() || decodes(&top.join(file)), "{file} reads nothing, and needs no reason for that");
    }
    let named: BTreeSet<&str> = table.iter().flat_map(|row| &row.targets).map(String::as_str).collect();
    let known: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, known, "the targets that fuzz/README.md names, and those that there are");
}
