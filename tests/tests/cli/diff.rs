//! `wherry diff`

use super::harness::Home;
use serde_json::json;
use std::fs;
use wherry_tests::small::{noise, splitmix};

const UNIT: usize = 64 << 10;

/// What differs, chunk by chunk.
fn differing(a: &[u8], b: &[u8]) -> Vec<(usize, usize)> {
    let (small, large) = (a.len().min(b.len()), a.len().max(b.len()));
    let mut found: Vec<(usize, usize)> = Vec::new();
    for start in (0..large).step_by(UNIT) {
        let chunk = |disk: &[u8]| disk[start.min(disk.len())..(start + UNIT).min(disk.len())].to_vec();
        let (a, b) = (chunk(a), chunk(b));
        // Of a disk that ends sooner, only what is beyond its end, and the chunk it ends in unless both are zero there.
        let from = if a == b || (start + UNIT > small && a.iter().chain(&b).all(|b| *b == 0)) { small } else { start };
        let (from, to) = (from.max(start), (start + UNIT).min(large));
        if a == b || from >= to {
            continue;
        }
        match found.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => found.push((from, to)),
        }
    }
    found.into_iter().map(|(start, end)| (start, end - start)).collect()
}

#[test]
fn it_says_what_differs_and_a_backup_takes_it_as_its_list() {
    let home = Home::with_small_chunks();
    let mut state = 5;
    // Of one leaf of the map and of several; grown, shrunk, and ending inside a chunk.
    for (round, (before, after)) in
        [(40, 40), (300, 300), (40, 45), (45, 40), (3, 0), (0, 3), (130, 131)].into_iter().enumerate()
    {
        for tail in [0, 777] {
            let mut disk = noise(round as u64, before * UNIT + tail);
            disk.chunks_mut(UNIT).filter(|_| splitmix(&mut state).is_multiple_of(3)).for_each(|chunk| chunk.fill(0));
            let (name, from) = (format!("vm{round}-{tail}"), disk.clone());
            let old = home.backup(&name, &from);
            disk.resize(after * UNIT + 500, 0);
            for chunk in disk.chunks_mut(UNIT) {
                let at = splitmix(&mut state) as usize;
                if at.is_multiple_of(4) {
                    chunk[at % chunk.len()] ^= 1;
                }
            }
            let new = home.backup(&name, &disk);
            let expected = differing(&from, &disk);
            let ran = home.run(&["diff", &old, &new]).ok();
            let (lines, sum) = ran.stdout.trim_end().rsplit_once('\n').unwrap_or(("", ran.stdout.trim_end()));
            let text: Vec<String> = expected.iter().map(|(offset, length)| format!("{offset} {length}")).collect();
            assert_eq!(lines.lines().collect::<Vec<_>>(), text, "{before} and {after} chunks, {tail}");
            let differ = if expected.len() == 1 { "range differs" } else { "ranges differ" };
            assert!(sum.starts_with(&format!("# {} {differ}, ", expected.len())), "{sum}");

            let ranges: Vec<_> =
                expected.iter().map(|(offset, length)| json!({"offset": offset, "length": length})).collect();
            let bytes: usize = expected.iter().map(|(_, length)| length).sum();
            let size = from.len().max(disk.len());
            let report = json!({"old": old, "new": new, "ranges": ranges, "size": size, "bytes": bytes});
            assert_eq!(home.run(&["diff", &old, &new, "--json"]).ok().json(), report);
            assert_eq!(home.run(&["diff", &new, &new]).ok().stdout.lines().count(), 1);

            // The list is good for a backup on top of the old one, and what that stores is the new disk.
            fs::write(home.path("list"), &ran.stdout).unwrap();
            let image = home.write("again.raw", &disk);
            let args = ["--name", &name, "--parent", &old, "--changed-blocks", &home.text("list"), "--json"];
            let again = home.run(&[&["backup", &image][..], &args].concat()).ok().json();
            assert_eq!(again["changed_blocks"]["used"], true, "{again}");
            assert_eq!(home.run(&["diff", &new, again["snapshot"].as_str().unwrap()]).ok().stdout.lines().count(), 1);
        }
    }
}

#[test]
fn what_is_no_snapshot_or_lost_is_said() {
    let home = Home::with_small_chunks();
    let id = home.backup("vm", &noise(1, 3 * UNIT));
    home.run(&["diff", &id, "ffffffff"]).fails(14);
    home.run(&["diff", &id]).fails(2);
    home.run(&["forget", &id, "-q"]).ok();
    // Forgotten, but not gone yet.
    home.run(&["diff", &id, &id]).ok();
}
