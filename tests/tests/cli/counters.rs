//! The numbers of `backup --json`: what they are for a disk of which every chunk is known.

use super::harness::Home;
use super::signals::Endless;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use wherry_tests::small::noise;

const UNIT: u64 = 64 << 10;

/// What a chunk of a disk is.
#[derive(Clone, Copy)]
enum Chunk {
    /// Not allocated.
    Hole,
    /// Written zeros.
    Zero,
    /// Noise with this seed.
    Data(u64),
}

use Chunk::{Data, Hole, Zero};

/// A sparse image with a tail of `tail` bytes.
fn image(home: &Home, chunks: &[Chunk], tail: u64) {
    let file = File::create(home.path("disk")).unwrap();
    file.set_len(chunks.len() as u64 * UNIT + tail).unwrap();
    for (n, chunk) in chunks.iter().enumerate() {
        let bytes = match chunk {
            Hole => continue,
            Zero => vec![0; UNIT as usize],
            Data(seed) => noise(*seed, UNIT as usize),
        };
        file.write_all_at(&bytes, n as u64 * UNIT).unwrap();
    }
    if tail > 0 {
        file.write_all_at(&noise(99, tail as usize), chunks.len() as u64 * UNIT).unwrap();
    }
    file.sync_all().unwrap();
}

/// Backs the image up; the report, after `stored` and `metadata` were compared with what the directory has grown by.
fn backup(home: &Home, args: &[&str]) -> Value {
    let (all, packs) = home.sizes();
    let report = home.run(&[&["backup", "disk", "--name", "vm", "--json"], args].concat()).ok().json();
    let (all, packs) = (home.sizes().0 - all, home.sizes().1 - packs);
    let number = |name: &str| report[name].as_u64().unwrap();
    assert_eq!(number("stored"), packs, "{report}");
    let shown = home.run(&["show", report["snapshot"].as_str().unwrap()]).ok().stdout;
    let metadata = shown.lines().find(|line| line.starts_with("metadata ")).unwrap();
    assert!(metadata.ends_with(&format!("({})", number("metadata"))), "{metadata}");
    assert_eq!(number("metadata"), all - packs, "all that is not data packs: {report}");
    let shown = home.run(&["show", report["snapshot"].as_str().unwrap(), "--json"]).ok().json();
    for name in ["read", "hole", "zero", "unchanged", "known", "new", "stored", "metadata", "size", "root"] {
        assert_eq!(shown[name], report[name], "{name} of `show`");
    }
    report
}

fn counted(report: &Value) -> Value {
    let names = ["size", "read", "hole", "zero", "unchanged", "known", "new"];
    names.iter().map(|name| (name.to_string(), report[name].clone())).collect()
}

#[test]
fn every_chunk_is_counted_once_and_every_byte_that_is_written() {
    let home = Home::new();
    home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
    let tail = 12_288;
    image(&home, &[Data(1), Data(2), Zero, Hole, Hole, Data(1), Hole, Hole], tail);
    let first = backup(&home, &[]);
    let size = 8 * UNIT + tail;
    // The second copy of one chunk is known from the first.
    let expected = json!({
        "size": size, "read": 4 * UNIT + tail, "hole": 4 * UNIT, "zero": UNIT, "unchanged": 0, "known": UNIT,
        "new": 2 * UNIT + tail,
    });
    assert_eq!(counted(&first), expected);
    assert!(first["stored"].as_u64().unwrap() > 2 * UNIT + tail, "noise does not shrink");

    let unchanged = backup(&home, &[]);
    let expected = json!({
        "size": size, "read": 4 * UNIT + tail, "hole": 4 * UNIT, "zero": UNIT, "unchanged": 3 * UNIT + tail, "known": 0,
        "new": 0,
    });
    assert_eq!(counted(&unchanged), expected);
    assert_eq!((&unchanged["stored"], &unchanged["root"]), (&0.into(), &first["root"]));

    // One chunk is new, one has moved, one has become a hole, a hole has become zeros.
    image(&home, &[Data(1), Data(3), Zero, Data(2), Zero, Hole, Hole, Hole], tail);
    let changed = backup(&home, &[]);
    let expected = json!({
        "size": size, "read": 5 * UNIT + tail, "hole": 3 * UNIT, "zero": 2 * UNIT, "unchanged": UNIT + tail,
        "known": UNIT, "new": UNIT,
    });
    assert_eq!(counted(&changed), expected);

    let alone = backup(&home, &["--parent", "none"]);
    assert_eq!((&alone["known"], &alone["unchanged"]), (&(3 * UNIT + tail).into(), &0.into()));
    image(&home, &[Hole; 8], 0);
    let nothing = backup(&home, &[]);
    assert_eq!((&nothing["hole"], &nothing["read"], &nothing["stored"]), (&(8 * UNIT).into(), &0.into(), &0.into()));
}

#[test]
fn a_map_of_several_levels_and_a_run_that_takes_over_are_counted_too() {
    let home = Home::new();
    home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
    // More than one leaf: nodes go into packs of their own.
    let mut chunks: Vec<_> = (0..300).map(Data).collect();
    image(&home, &chunks, 0);
    backup(&home, &[]);
    chunks[200] = Data(1000);
    image(&home, &chunks, 0);
    let changed = backup(&home, &[]);
    assert_eq!(changed["new"], UNIT);

    // A run that was given up fenced itself, and left nothing: the next one counts its own objects alone.
    let endless = Endless::start_named(&home, "vm");
    endless.send(Signal::INT);
    assert_eq!(endless.end().code, 130);
    assert_eq!(backup(&home, &[])["resumed"], false);
}
