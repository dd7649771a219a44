//! Restores that are killed (SIGKILL) and go on, and targets that are not the one it was killed on.

use super::{ENGINES, MIB, Mounted, UNIT, device, disk, file, has, home, put, refused, restored, same, sh, wait};
use crate::harness::Home;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use wherry_tests::fuse::Held;
use wherry_tests::small::noise;
use wherry_tests::volumes::Loop;

/// Bytes of the disk. With the least memory a pack takes 8 MiB, so that this is several.
const SIZE: usize = 64 * MIB - 700;

/// A repository with a snapshot of [`SIZE`] bytes, and its content.
fn prepared() -> (Home, Vec<u8>) {
    let home = home();
    let (_, content) = backup(&home, 1);
    (home, content)
}

/// One more snapshot, and its content.
fn backup(home: &Home, seed: u64) -> (String, Vec<u8>) {
    let content = disk(seed, SIZE);
    let image = home.write("image", &content);
    let report = home.run(&["backup", &image, "--name", "vm", "--memory", "64M", "--json"]).ok().json();
    fs::remove_file(image).unwrap();
    (report["snapshot"].as_str().unwrap().to_owned(), content)
}

/// A process that is killed when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The packs that a snapshot brought, in the order in which a restore reads them.
pub fn packs(home: &Home, snap: &str) -> Vec<PathBuf> {
    let id = home.run(&["show", snap, "--json"]).ok().json()["snapshot"].as_str().unwrap().to_owned();
    let name = |pack: &PathBuf| pack.file_name().unwrap().to_str().unwrap().to_owned();
    let mut packs: Vec<PathBuf> = home.tree("repo/packs").into_keys().filter(|p| name(p).starts_with(&id)).collect();
    packs.sort_by_key(name);
    assert!(packs.len() >= 6, "{} packs", packs.len());
    packs
}

/// Runs a restore of the snapshot `args` begin with, which can read all its packs but the last `held` ones, and kills it
/// when `begun` says so. How far it can come is so the same on every machine.
pub fn kill(home: &Home, args: &[&str], held: usize, begun: impl Fn() -> bool) {
    let packs = packs(home, args[0]);
    let held: Vec<Held> = packs[packs.len() - held..].iter().map(|pack| Held::over(pack)).collect();
    let mut killed = Killed(home.command().arg("restore").args(args).spawn().unwrap());
    wait("the restore to begin", || {
        assert_eq!(killed.0.try_wait().unwrap(), None, "it ended");
        begun().then_some(())
    });
    drop(killed);
    drop(held);
}

/// Bytes of whole chunks that are data and as they should be.
pub fn done(target: &Path, content: &[u8]) -> usize {
    let now = fs::read(target).unwrap_or_default();
    let pairs = content.chunks(UNIT).zip(now.chunks(UNIT));
    pairs.filter(|(a, b)| b.starts_with(a) && a.iter().any(|byte| *byte != 0)).count() * UNIT
}

/// Notes of restores to devices, but for one that is just being written.
pub fn notes(home: &Home) -> usize {
    let names = fs::read_dir(home.path("cache/restores")).into_iter().flatten().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|end| end == "json")).count()
}

/// At the beginning, on the way, and near the end.
const POINTS: [usize; 3] = [4, 2, 1];

#[test]
fn a_killed_restore_to_a_device_goes_on() {
    let (home, content) = prepared();
    for (point, held) in POINTS.into_iter().enumerate() {
        let engine = ENGINES[point % 2];
        let target = device(&home, "disk", SIZE.next_multiple_of(512) + MIB, 0, &[]);
        let args = ["latest", target.text(), "--engine", engine];
        kill(&home, &args, held, || done(target.path(), &content) > 0);
        let kept = done(target.path(), &content);
        assert!(fs::read(target.path()).unwrap()[..SIZE] != content && notes(&home) == 1);
        let report = restored(&home, &args);
        let written = report["written"].as_u64().unwrap() as usize;
        println!("{held} packs were held: {kept} bytes were there, {written} were written");
        assert_eq!((&report["resumed"], &report["delta"]), (&true.into(), &true.into()));
        assert!(written <= SIZE - kept, "{written} bytes were written although {kept} were there");
        same(&fs::read(target.path()).unwrap()[..SIZE], &content, engine);
        // Now it is somebody's disk.
        assert_eq!(notes(&home), 0);
        refused(&home, &["latest", target.text()], 2, target.path());
    }
}

#[test]
fn a_killed_restore_to_a_file_goes_on() {
    let (home, content) = prepared();
    let target = home.path("out");
    let text = target.to_str().unwrap();
    let packs = packs(&home, "latest").len();
    for (point, held) in POINTS.into_iter().chain([packs]).enumerate() {
        // A file that is made, one that is there and empty, and one that is overwritten.
        let modes: &[&str] = match point {
            2 => &["--force"],
            _ => &[],
        };
        match point {
            1 => drop(file(&home, "out", 0, 0)),
            2 => drop(file(&home, "out", 5 * MIB, 0xAA)),
            _ => {}
        }
        let args = [&["latest", text, "--engine", ENGINES[point % 2]], modes].concat();
        // With no pack to read nothing but the file itself can be there.
        kill(&home, &args, held, || match held == packs {
            true => fs::metadata(&target).is_ok_and(|meta| meta.len() == SIZE as u64),
            false => done(&target, &content) > 0,
        });
        assert!(fs::read(&target).unwrap() != content);
        let report = restored(&home, &args[..4]);
        assert_eq!(report["resumed"], true, "{held} packs were held");
        same(&fs::read(&target).unwrap(), &content, "the file");
        refused(&home, &["latest", text], 2, &target);
        assert!(!home.path(".out.wherry-restore").exists());
        fs::remove_file(&target).unwrap();
    }
}

/// Attaches a file to this very loop device, as soon as nobody else has it.
fn attach(name: &str, file: &Path) {
    wait("the loop device", || Command::new("losetup").arg(name).arg(file).status().unwrap().success().then_some(()));
}

#[test]
fn the_same_disk_goes_on_and_another_at_its_name_is_refused() {
    let (home, content) = prepared();
    let size = SIZE.next_multiple_of(512);
    let target = device(&home, "disk", size, 0, &[]);
    let name = target.text().to_owned();
    let begin = || kill(&home, &["latest", &name], 1, || done(Path::new(&name), &content) > 0);
    begin();
    let detach = || sh("losetup", &["-d", &name]);

    // Another disk of the same size, whose file may even get the number that the first one had.
    let precious = noise(2, size);
    detach();
    fs::rename(home.path("disk"), home.path("kept")).unwrap();
    fs::write(home.path("disk"), &precious).unwrap();
    attach(&name, &home.path("disk"));
    for mode in [&[][..], &["--dry-run"], &["--verify"]] {
        let line = refused(&home, &[&["latest", name.as_str()], mode].concat(), 2, Path::new(&name));
        has(&line, &["not empty", &name]);
    }
    same(&fs::read(home.path("disk")).unwrap(), &precious, "the foreign disk");

    // The first one again.
    detach();
    attach(&name, &home.path("kept"));
    let report = restored(&home, &["latest", &name]);
    assert_eq!(report["resumed"], true);
    same(&fs::read(&name).unwrap()[..SIZE], &content, "the disk that came back");

    // A file that was made anew at the same path is another one too.
    put(Path::new(&name), 0, &vec![0; size]);
    begin();
    detach();
    fs::remove_file(home.path("kept")).unwrap();
    fs::write(home.path("kept"), &precious).unwrap();
    attach(&name, &home.path("kept"));
    refused(&home, &["latest", &name], 2, Path::new(&name));
    same(&fs::read(home.path("kept")).unwrap(), &precious, "the foreign disk");
    drop(target);
}

#[test]
fn another_file_at_its_name_is_refused() {
    let (home, content) = prepared();
    let target = home.path("out");
    let text = target.to_str().unwrap();
    kill(&home, &["latest", text], 1, || done(&target, &content) > 0);
    // It may well get the number of the one that is removed.
    fs::remove_file(&target).unwrap();
    fs::write(&target, noise(3, SIZE)).unwrap();
    has(&refused(&home, &["latest", text], 2, &target), &["not empty"]);
}

#[test]
fn another_snapshot_is_not_what_was_begun() {
    let (home, content) = prepared();
    let first = home.run(&["snapshots", "--json"]).ok().json()[0]["snapshot"].as_str().unwrap().to_owned();
    backup(&home, 4);
    let target = device(&home, "disk", SIZE.next_multiple_of(512), 0, &[]);
    kill(&home, &[&first, target.text()], 1, || done(target.path(), &content) > 0);
    refused(&home, &["latest", target.text()], 2, target.path());
    restored(&home, &[&first, target.text()]);

    // A note of another restore to the same device is replaced, not kept beside.
    kill(&home, &["latest", target.text(), "--force"], 1, || notes(&home) == 1);
    assert_eq!(notes(&home), 1);
    refused(&home, &[&first, target.text()], 2, target.path());
    assert_eq!(restored(&home, &["latest", target.text()])["resumed"], true);
    assert_eq!(notes(&home), 0);
}

/// Whoever gives up a restore that was interrupted and uses the disk for something else must not lose that to the command of then.
#[test]
fn what_was_made_on_the_target_since_is_refused() {
    let (home, content) = prepared();
    let size = SIZE.next_multiple_of(512) + MIB;
    let target = device(&home, "disk", size, 0, &[]);
    let out = home.path("out");
    for (path, held) in [(target.path(), 1), (out.as_path(), 4)] {
        let text = path.to_str().unwrap();
        kill(&home, &["latest", text], held, || done(path, &content) > 0);
        sh("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,nodiscard", text]);
        fs::create_dir_all(home.path("mounted")).unwrap();
        let mounted = Mounted::new(text, home.path("mounted"));
        fs::write(home.path("mounted/precious"), noise(7, MIB)).unwrap();
        drop(mounted);
        for mode in [&[][..], &["--dry-run"], &["--verify"]] {
            let line = refused(&home, &[&["latest", text], mode].concat(), 2, path);
            has(&line, &[text, "written to since", "--force"]);
        }
        let mounted = Mounted::new(text, home.path("mounted"));
        assert!(fs::read(home.path("mounted/precious")).unwrap() == noise(7, MIB));
        drop(mounted);
        // A table of partitions alone, at the end of the disk: the first MiB is as the restore left it.
        let report = restored(&home, &["latest", text, "--force"]);
        assert_eq!(report["resumed"], false, "{report}");
        same(&fs::read(path).unwrap()[..SIZE], &content, text);
    }
    kill(&home, &["latest", target.text(), "--force"], 1, || notes(&home) == 1);
    put(target.path(), size as u64 - 512, b"EFI PART");
    has(
        &refused(&home, &["latest", target.text()], 2, target.path()),
        &["written to since", &(size - 512).to_string()],
    );
}

/// What a restore with --force found is no sign of somebody else: as far as it did not come that is there still.
#[test]
fn a_killed_restore_over_something_goes_on_without_force() {
    let (home, content) = prepared();
    // The snapshot ends within a block of the last MiB, behind which there is more.
    let size = SIZE.next_multiple_of(512) + 512;
    let target = device(&home, "disk", size, 0xAA, &[]);
    for held in POINTS {
        put(target.path(), 0, &vec![0xAA; size]);
        kill(&home, &["latest", target.text(), "--force"], held, || done(target.path(), &content) > 0);
        assert_eq!(restored(&home, &["latest", target.text()])["resumed"], true, "{held}");
        let now = fs::read(target.path()).unwrap();
        same(&now[..SIZE], &content, "the disk");
        assert!(now[SIZE..].iter().all(|byte| *byte == 0xAA), "what is behind it");
    }
}

/// The same loop device, another part of the file behind it.
#[test]
fn another_part_of_the_same_file_is_refused() {
    let (home, content) = prepared();
    let size = SIZE.next_multiple_of(512);
    let whole = file(&home, "disk", 2 * size, 0);
    let (first, second) = (format!("--sizelimit={size}"), format!("--offset={size}"));
    let target = Loop::new(&whole, &[&first]);
    let name = target.text().to_owned();
    kill(&home, &["latest", &name], 1, || done(target.path(), &content) > 0);
    put(&whole, size as u64, &noise(5, size));
    sh("losetup", &["-d", &name]);
    wait("the loop device", || {
        Command::new("losetup").args([&second, &name]).arg(&whole).status().unwrap().success().then_some(())
    });
    refused(&home, &["latest", &name], 2, Path::new(&name));
}
