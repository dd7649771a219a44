//! A repository in which collectors have been at work, with one in the middle of it: copies of ciphertext, a delete set that was swept and
//! one that was not, a fence, a forget that is final and one that is not, a session that may go on.

use super::*;
use std::time::Duration;
use wherry_repo::{CheckOptions, CollectOptions, Collected, SnapshotWriter};

const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Packs of eight chunks, so that little of one may be needed.
fn wide(name: &str) -> WriterOptions {
    WriterOptions { pack_size: 8 * UNIT + (16 << 10), ..options(name) }
}

fn disk(chunks: impl Iterator<Item = u64>) -> Vec<u8> {
    chunks.flat_map(|n| noise(n, UNIT)).collect()
}

/// The disks that are left, by volume: of `thin` one chunk is in a pack whose other chunks were forgotten.
fn disks() -> [(&'static str, Vec<u8>); 3] {
    let thin = (100..108).map(|n| if n == 103 { 3 } else { n });
    [("thin", disk(thin)), ("asked", disk(200..201)), ("whole", disk(300..302))]
}

/// A collector that waits for nobody.
pub fn gc(repository: &Repository, grace: Duration) -> Collected {
    let options = CollectOptions {
        grace,
        fence_after: Duration::ZERO,
        patience: Duration::ZERO,
        pack_size: 512 << 10,
        ..CollectOptions::default()
    };
    repository.collect(&options, &|_, _, _| Ok(())).unwrap()
}

/// A process that is killed when it has stored some of this.
fn killed(repository: &Repository, name: &str, disk: &[u8]) {
    put_all(&SnapshotWriter::start(repository, index(), &options(name)).unwrap(), disk).unwrap();
}

/// As `make`, for what collectors leave behind.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make_collected() {
    let place = PathBuf::from(std::env::var_os("WHERRY_MAKE_GOLDEN").expect("WHERRY_MAKE_GOLDEN names a new folder"));
    let repository = init(Arc::new(Local::new(&place, false))).unwrap();
    let [(thin, disk_of_thin), (asked, disk_of_asked), (whole, disk_of_whole)] = disks();
    let first = backup_with(&repository, index(), &wide(thin), &disk(0..8)).unwrap();
    backup_with(&repository, index(), &wide(thin), &disk_of_thin).unwrap();
    repository.forget(&first.id, Duration::ZERO, "golden").unwrap();
    killed(&repository, "fenced", &disk(400..405));
    let report = gc(&repository, Duration::ZERO);
    assert!(report.copied.packs > 0 && report.swept.packs > 0 && report.fenced.len() == 1, "{report:?}");
    let id = backup(&repository, asked, &disk_of_asked).unwrap().id;
    repository.forget(&id, WEEK, "golden").unwrap();
    backup(&repository, whole, &disk_of_whole).unwrap();
    let id = backup(&repository, "gone", &disk(500..502)).unwrap().id;
    repository.forget(&id, Duration::ZERO, "golden").unwrap();
    let report = gc(&repository, WEEK);
    assert!(report.graced.packs > 0 && report.condemned.packs > 0, "{report:?}");
    killed(&repository, "running", &disk(600..605));
}

#[test]
fn what_collectors_of_format_1_left_is_read_and_gone_on_with() {
    let temp = tempfile::tempdir().unwrap();
    copy(&golden("v1-collected"), temp.path());
    let storage: Arc<dyn Storage> = Arc::new(Local::new(temp.path(), false));
    let count = |part: &str| keys_of(&*storage).iter().filter(|key| key.as_str().contains(part)).count();
    let sealed = count("-sealed");
    assert!(sealed >= 2 && count("gc/gen/") == 2 * sealed, "{:?}", keys_of(&*storage));
    assert_eq!((count("-asked"), count("-settled")), (3, 2), "{:?}", keys_of(&*storage));
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    let read = |what: &str| {
        let list = repository.snapshots(None).unwrap();
        assert!(list.damaged.is_empty(), "{what}: {:?}", list.damaged);
        for (name, disk) in disks() {
            let named = list.snapshots.iter().filter(|s| s.record.name == name).max_by_key(|s| s.record.started);
            let snapshot = named.unwrap_or_else(|| panic!("{what}: {name} is lost"));
            assert!(restore(&repository, snapshot).unwrap() == disk, "{what}: {name}");
        }
        let report = repository.check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap();
        assert!(report.is_clean(), "{what}: {:?}", report.damages);
    };
    read("as it was");
    // It is built upon; the one chunk that was copied is stored once more, so that the map names its place again.
    let (name, disk) = disks()[0].clone();
    let stats = backup_with(&repository, index(), &wide(name), &disk).unwrap().record.stats;
    assert_eq!((stats.unchanged, stats.new), (7 * UNIT as u64, UNIT as u64), "{stats:?}");
    let report = gc(&repository, Duration::ZERO);
    assert!(report.swept.packs > 0 && report.fenced.len() == 1, "{report:?}");
    read("collected");
    gc(&repository, Duration::ZERO);
    let last = gc(&repository, Duration::ZERO);
    assert_eq!((last.all, last.generation), (last.live, None), "{last:?}");
    read("lean");
}
