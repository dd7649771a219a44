//! Random histories against a reference.

use super::*;
use wherry_repo::SnapshotWriter;
use wherry_repo::index::ChunkIndex;

/// What happened in all histories together.
#[derive(Debug, Default)]
struct Counts {
    swept: u64,
    copied: u64,
    records: u64,
    resumed: u64,
    undone: u64,
    segments: u64,
}

fn history(seed: u64, counts: &mut Counts) {
    let mut state = seed;
    let mut below = move |n: u64| splitmix(&mut state) % n;
    let mut world = World::new();
    let mut disks: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let kept = index();
    let mut asked: Vec<(SnapshotId, Vec<u8>)> = Vec::new();
    for step in 0..40 {
        let what = format!("seed {seed}, step {step}");
        world.clock.advance(Duration::from_secs(60));
        let index: Arc<ChunkIndex> = if below(3) > 0 { kept.clone() } else { index() };
        match below(10) {
            0..4 => {
                let volume = below(3);
                let chunks = disks.entry(volume).or_insert_with(|| (0..16).collect());
                // Some chunks are those of other volumes, so that there are hits.
                for _ in 0..below(16) {
                    let at = below(chunks.len() as u64) as usize;
                    chunks[at] = below(200);
                }
                let (name, disk) = (format!("vm{volume}"), disk(chunks));
                if below(5) == 0 {
                    // One that dies with some packs stored.
                    let writer = SnapshotWriter::start(&world.repository(), index, &wide(&name)).unwrap();
                    put_all(&writer, &disk).unwrap();
                    if below(2) == 0 {
                        writer.abandon().unwrap();
                    }
                    continue;
                }
                let snapshot = backup_with(&world.repository(), index, &wide(&name), &disk).unwrap();
                counts.resumed += u64::from(snapshot.record.resumed);
                world.disks.insert(snapshot.id, disk);
            }
            4..6 if !world.disks.is_empty() => {
                let ids: Vec<_> = world.disks.keys().copied().collect();
                let id = ids[below(ids.len() as u64) as usize];
                let delay = Duration::from_secs(below(2) * 600);
                world.repository().forget(&id, delay, "test").unwrap();
                if let Some(disk) = world.disks.remove(&id) {
                    asked.push((id, disk));
                }
            }
            6 if !asked.is_empty() => {
                let (id, disk) = asked.swap_remove(below(asked.len() as u64) as usize);
                if world.repository().unforget(&id).is_ok() {
                    counts.undone += 1;
                    world.disks.insert(id, disk);
                }
            }
            _ => {
                let grace = Duration::from_secs(below(3) * 300);
                let options = CollectOptions { grace, ..now() };
                let report = gc(&world.repository(), &options).unwrap_or_else(|e| panic!("{what}: {e}"));
                counts.swept += report.swept.packs;
                counts.copied += report.copied.packs;
                counts.records += report.records;
                counts.segments += report.segments;
                world.verify(&what);
            }
        }
    }
    world.verify_lean(&format!("seed {seed}"));
    world.verify(&format!("seed {seed}, at the end"));
    // What is left goes too.
    let before: u64 = world.packs().len() as u64;
    for id in world.disks.keys().copied().collect::<Vec<_>>() {
        world.forget(&id);
    }
    // The delays of those that were asked for are over.
    world.clock.advance(Duration::from_secs(600));
    world.verify_lean(&format!("seed {seed}, all forgotten"));
    assert!(before == 0 || world.packs().is_empty(), "seed {seed}: {} of {before} packs are left", world.packs().len());
}

#[test]
fn whatever_happens_all_survives_that_anybody_may_want_and_the_rest_goes() {
    let mut counts = Counts::default();
    for seed in 1..=12 {
        history(seed, &mut counts);
    }
    let Counts { swept, copied, records, resumed, undone, segments } = &counts;
    for (n, what) in [
        (swept, "swept"),
        (copied, "copied"),
        (records, "records"),
        (resumed, "resumed"),
        (undone, "undone"),
        (segments, "segments"),
    ] {
        assert!(*n > 0, "no {what} in {counts:?}");
    }
}
