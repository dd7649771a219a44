//! Disks with partitions: a restore that was interrupted goes on, unless one of the filesystems in them was used since. What a
//! restore looks at in any case (the first and the last MiB) does not change by that.

use super::resume::{done, kill, notes, packs};
use super::{MIB, Mounted, device, has, home, put, refused, restored, same, sh};
use crate::harness::Home;
use std::fs;
use std::path::Path;
use wherry_tests::small::noise;
use wherry_tests::volumes::Loop;

const SIZE: usize = 80 * MIB;

/// Where the second partition begins, as old tools place it not at a multiple of a page, and its bytes.
const SECOND: (usize, usize) = (10 * MIB + 512, 16 * MIB);

/// A repository with a snapshot of a disk with a GPT, whose second partition is ext4; and the content of that disk.
fn prepared() -> (Home, Vec<u8>) {
    let home = home();
    let mut content = noise(9, SIZE);
    content[..MIB].fill(0);
    content[SIZE - MIB..].fill(0);
    let image = home.write("image", &content);
    let table = "label: gpt\\nstart=2048,size=9MiB\\nstart=20481,size=16MiB\\n";
    sh("sh", &["-c", &format!("printf '{table}' | sfdisk -q --wipe never {image}")]);
    let inside = home.write("inside", vec![0; SECOND.1]);
    sh("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0", &inside]);
    put(&home.path("image"), SECOND.0 as u64, &fs::read(&inside).unwrap());
    let content = fs::read(&image).unwrap();
    home.run(&["backup", &image, "--name", "vm", "--memory", "64M", "-q"]).ok();
    [image, inside].iter().for_each(|file| fs::remove_file(file).unwrap());
    (home, content)
}

/// Finishes a restore by other means, and uses what is there: a file is written to the filesystem in the second partition.
fn use_it(home: &Home, target: &Path, content: &[u8]) {
    put(target, 0, content);
    in_second(home, target, |folder| {
        fs::write(folder.join("precious"), noise(7, 3 * MIB)).unwrap();
    });
}

#[track_caller]
fn is_still_there(home: &Home, target: &Path) {
    in_second(home, target, |folder| {
        assert!(fs::read(folder.join("precious")).unwrap() == noise(7, 3 * MIB));
    });
}

fn in_second(home: &Home, target: &Path, act: impl FnOnce(&Path)) {
    let (offset, size) = SECOND;
    let part = Loop::new(target, &["--offset", &offset.to_string(), "--sizelimit", &size.to_string()]);
    let mounted = Mounted::new(part.text(), home.path("mounted"));
    act(&mounted.0);
    drop(mounted);
    drop(part);
}

#[test]
fn a_killed_restore_goes_on() {
    let (home, content) = prepared();
    let target = device(&home, "disk", SIZE + MIB, 0, &[]);
    let out = home.path("out");
    for (path, byte, held) in [(target.path(), 0, 4), (target.path(), 0xAA, 1), (&out, 0, 1), (&out, 0xAA, 4)] {
        let args = ["latest", path.to_str().unwrap(), "--force"];
        match (path == out, byte) {
            (true, 0) => {}
            (true, _) => fs::write(&out, vec![byte; SIZE + MIB]).unwrap(),
            (false, _) => put(path, 0, &vec![byte; SIZE + MIB]),
        }
        kill(&home, &args, held, || done(path, &content) > 0);
        assert!(fs::read(path).unwrap()[..SIZE] != content);
        assert_eq!(restored(&home, &args[..2])["resumed"], true, "{path:?}, {held}");
        same(&fs::read(path).unwrap()[..SIZE], &content, "the disk");
    }
}

#[test]
fn a_filesystem_in_a_partition_that_was_used_since_is_refused() {
    let (home, content) = prepared();
    let target = device(&home, "disk", SIZE + MIB, 0, &[]);
    let out = home.path("out");
    for path in [target.path(), &out] {
        let text = path.to_str().unwrap();
        kill(&home, &["latest", text], 2, || done(path, &content) > 0);
        use_it(&home, path, &content);
        for mode in [&[][..], &["--dry-run"], &["--verify"]] {
            let line = refused(&home, &[&["latest", text], mode].concat(), 2, path);
            has(&line, &[text, "written to since", "--force"]);
        }
        is_still_there(&home, path);
        restored(&home, &["latest", text, "--delta"]);
        same(&fs::read(path).unwrap()[..SIZE], &content, text);
    }
}

/// Who was told how to get the rest has it, and uses it, may forget that a restore was begun there.
#[test]
fn a_restore_that_ended_at_damage_does_not_go_on_by_itself() {
    let (home, content) = prepared();
    let pack = packs(&home, "latest").pop().unwrap();
    let sound = fs::read(&pack).unwrap();
    let target = device(&home, "disk", SIZE + MIB, 0, &[]);
    let out = home.path("out");
    for path in [target.path(), &out] {
        let text = path.to_str().unwrap();
        let mut bytes = sound.clone();
        bytes[1000] ^= 4;
        fs::write(&pack, bytes).unwrap();
        let line = home.run(&["restore", "latest", text, "-q"]).ends(13);
        has(&line, &["wherry repair --from", "--delta"]);
        assert!(notes(&home) == 0 && !home.path(".out.wherry-restore").exists(), "{line}");
        fs::write(&pack, &sound).unwrap();
        use_it(&home, path, &content);
        for mode in [&[][..], &["--dry-run"], &["--verify"]] {
            has(&refused(&home, &[&["latest", text], mode].concat(), 2, path), &[text, "not empty", "--delta"]);
        }
        is_still_there(&home, path);
        restored(&home, &["latest", text, "--delta"]);
        same(&fs::read(path).unwrap()[..SIZE], &content, text);
    }
}
