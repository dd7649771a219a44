//! Files inside disk images, without mounting them: compared with what the kernel and other programs make of the same
//! images. Needs root and loop devices.
#![forbid(unsafe_code)]

#[path = "inside/compare.rs"]
mod compare;
#[path = "inside/images.rs"]
mod images;
#[path = "inside/journals.rs"]
mod journals;
#[path = "inside/said.rs"]
mod said;

use images::*;
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::Path;
use wherry_tests::home::Home;

/// A home with small chunks and a snapshot of an image of the volume `vm`.
pub fn home_with(image: &Path) -> Home {
    let home = Home::with_small_chunks();
    home.run(&["backup", image.to_str().unwrap(), "--name", "vm", "-q"]).ok();
    home
}

/// The output of a command that must end well, as bytes.
#[track_caller]
pub fn bytes(home: &Home, args: &[&str]) -> Vec<u8> {
    let output = home.command().args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// One small ext4 from the first byte on.
fn small() -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    make(&image, 16);
    mkfs(&image, "ext4", &["-b", "1024"]);
    {
        let mounted = Mounted::new(&image, None, "rw");
        fs::create_dir_all(mounted.path().join("etc/ssh")).unwrap();
        fs::write(mounted.path().join("etc/hostname"), "vm1\n").unwrap();
        fs::write(mounted.path().join("etc/ssh/config"), "x").unwrap();
        fs::write(mounted.path().join("etc/big"), vec![7; 200_000]).unwrap();
        std::os::unix::fs::symlink("ssh", mounted.path().join("etc/link")).unwrap();
        fs::write(mounted.path().join("etc").join(odd_name()), "odd").unwrap();
    }
    let home = home_with(&image);
    (dir, home)
}

#[test]
fn each_command_shows_what_is_there_and_says_what_is_not() {
    let (_dir, home) = small();
    let top = home.run(&["ls", "latest"]).ok().stdout;
    let row = top.lines().find(|line| line.starts_with("p0 ")).unwrap_or_else(|| panic!("{top}"));
    assert!(top.contains("disk.raw") && row.contains("16.0 MiB") && row.ends_with("ext4"), "{top}");
    let etc = home.run(&["ls", "latest", "/p0/etc"]).ok().stdout;
    assert!(etc.contains("-rw-r--r--") && etc.contains("195.3 KiB") && etc.contains("link -> ssh"), "{etc}");
    assert!(etc.contains("odd\\xff\\x0a\\\\name"), "{etc}");
    let all = home.run(&["ls", "latest", "p0/etc", "-R"]).ok().stdout;
    assert!(all.contains("/p0/etc:\n") && all.contains("\n/p0/etc/ssh:\n") && all.contains("config"), "{all}");
    assert!(home.run(&["ls", "latest", "/p0/etc/hostname"]).ok().stdout.contains("4 B"));

    let found = home.run(&["find", "latest", "--name", "host*"]).ok().stdout;
    assert_eq!(found, "/p0/etc/hostname\n");
    let found = home.run(&["find", "latest", "/p0/etc/ssh"]).ok().stdout;
    assert_eq!(found, "/p0/etc/ssh\n/p0/etc/ssh/config\n");

    assert_eq!(home.run(&["cat", "latest", "/p0/etc/hostname"]).ok().stdout, "vm1\n");
    assert_eq!(home.run(&["cat", "latest", "/p0/etc/hostname", "--offset", "1", "--length", "2"]).ok().stdout, "m1");
    assert_eq!(home.run(&["cat", "latest", "/p0/etc/hostname", "--offset", "4"]).ok().stdout, "");
    assert!(home.run(&["cat", "latest", "/p0/etc/hostname", "--offset", "5"]).fails(2).contains("ends at byte 4"));
    assert_eq!(bytes(&home, &["cat", "latest"]), bytes(&home, &["cat", "latest", "/disk.raw"]));

    for (args, code, words) in [
        (&["cat", "latest", "/p0/etc/none"][..], 1, "there is no /p0/etc/none"),
        (&["cat", "latest", "/etc/hostname"], 1, "there is no /etc/hostname"),
        (&["cat", "latest", "/p0/etc/link"], 1, "symbolic link to ssh"),
        (&["cat", "latest", "/p0/etc/link/config"], 1, "symbolic link to ssh"),
        (&["cat", "latest", "/p0/etc"], 1, "a directory"),
        (&["ls", "latest", "/p0/etc/hostname/x"], 1, "no directory"),
        (&["find", "latest", "/p1"], 1, "there is no /p1"),
        (&["dump", "latest"], 2, "name a partition, such as /p0,"),
        (&["cat", "0123456789abcdef0123456789abcdef", "/p0/etc/hostname"], 14, "no snapshot"),
        (&["ls", "latest:none"], 14, "none"),
    ] {
        let line = home.run(args).fails(code);
        assert!(line.contains(words), "{args:?}: {line}");
    }
}

#[test]
fn images_in_a_directory_are_gone_into_like_disks() {
    let (dir, home) = small();
    let filesystem = dir.path().join("image");
    let folder = dir.path().join("tree/it's here");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(&filesystem, folder.join("whole.img")).unwrap();
    // The same as the first partition, and one that is not read.
    let disk = folder.join("disk.img");
    make(&disk, 20);
    sh_with("sfdisk", &["-q", disk.to_str().unwrap()], "2048,32768,83\n34816,4096,83\n");
    place(&filesystem, &disk, 1 << 20);
    let file = fs::File::options().write(true).open(&disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"XFSB", 34_816 * 512).unwrap();
    fs::write(dir.path().join("tree/plain"), "plain").unwrap();
    std::os::unix::fs::symlink("it's here/disk.img", dir.path().join("tree/link")).unwrap();
    home.run(&["backup", dir.path().join("tree").to_str().unwrap(), "--name", "t", "-q"]).ok();
    for (image, part) in
        [("/it's here/whole.img", "/it's here/whole.img/p0"), ("/it's here/disk.img", "/it's here/disk.img/p1")]
    {
        let inner = |path: &str| format!("{part}{path}");
        for path in ["/etc/hostname", "/etc/big"] {
            let want = bytes(&home, &["cat", "latest:vm", &format!("/p0{path}")]);
            assert!(bytes(&home, &["cat", "latest:t", &inner(path)]) == want, "{image}{path}");
        }
        let offset = ["--offset", "1", "--length", "2"];
        let some = home.run(&[&["cat", "latest:t", &inner("/etc/hostname")][..], &offset].concat()).ok();
        assert_eq!(some.stdout, "m1");
        for args in [&["ls"][..], &["ls", "-R"], &["ls", "-R", "--json"], &["find"], &["find", "--json"]] {
            let run = |snap: &str, path: &str| home.run(&[args, &[snap, path]].concat()).ok().stdout;
            // The odd name stands there in hexadecimal digits, too.
            let hex = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<String>();
            let want = run("latest:vm", "/p0/etc").replace("/p0/", &format!("{part}/"));
            let want = want.replace(&hex("/p0/"), &hex(&format!("{part}/")));
            assert_eq!(run("latest:t", &inner("/etc")), want, "{args:?}");
        }
        let archive = bytes(&home, &["dump", "latest:vm", "/p0/etc"]);
        assert!(bytes(&home, &["dump", "latest:t", &inner("/etc")]) == archive, "{image}");
        // Typed with a slash it is what is in it, else the file.
        let (file, top) = (home.run(&["ls", "latest:t", image]).ok().stdout, format!("{image}/"));
        let top = home.run(&["ls", "latest:t", &top]).ok().stdout;
        assert!(file.contains("-rw-r--r--") && !top.contains("disk.raw") && top.contains("ext4"), "{file}{top}");
        let line = home.run(&["dump", "latest:t", &format!("{image}/")]).fails(2);
        assert!(line.contains(&format!("such as {part}, or")), "{line}");
        // What is named can be dumped; the times of partitions are those of their snapshots.
        let archives =
            [("latest:t", part), ("latest:vm", "/p0")].map(|(snap, part)| bytes(&home, &["dump", snap, part]));
        assert!(archives[0].len() > archive.len() && archives[0].len() == archives[1].len(), "{image}");
        assert!(
            bytes(&home, &["cat", "latest:t", image]) == fs::read(dir.path().join("tree").join(&image[1..])).unwrap()
        );
    }
    let found = home.run(&["find", "latest:t", "--name", "hostname"]).ok().stdout;
    assert_eq!(found, "", "a walk does not go into images by itself");
    let found = home.run(&["find", "latest:t", "/it's here/disk.img/", "--name", "hostname"]);
    assert_eq!((found.code, found.stdout.as_str()), (3, "/it's here/disk.img/p1/etc/hostname\n"), "{found:?}");
    for (path, code, words) in [
        ("/it's here/disk.img/p2/x", 2, "files/it\\'s here/disk.img' /mnt"),
        ("/it's here/disk.img/p9/x", 1, "there is no /it's here/disk.img/p9/x"),
        ("/it's here/disk.img/p1/none", 1, "there is no /it's here/disk.img/p1/none"),
        ("/it's here/disk.img/p1/etc/link/config", 1, "/it's here/disk.img/p1/etc/link is a symbolic link to ssh"),
        ("/it's here/disk.img/p1/etc/hostname/x", 1, "/it's here/disk.img/p1/etc/hostname is no directory"),
        ("/plain/p1", 1, "/plain is no directory"),
        ("/plain/", 1, "/plain is no directory"),
        ("/link/p1", 1, "/link is a symbolic link"),
    ] {
        let line = home.run(&["ls", "latest:t", path]).fails(code);
        assert!(line.contains(words), "{path}: {line}");
    }
}

#[test]
fn the_shape_of_the_json() {
    let (_dir, home) = small();
    let list = |args: &[&str]| home.run(&[args, &["--json"]].concat()).ok().json();
    let by = |list: &Value, path: &str| -> Value {
        let found = list.as_array().unwrap().iter().find(|entry| entry["path"] == path);
        found.unwrap_or_else(|| panic!("no {path} in {list}")).clone()
    };
    let top = list(&["ls", "latest"]);
    let expected = json!({
        "path": "/p0", "kind": "directory", "size": 16 << 20, "mode": null, "uid": null, "gid": null,
        "modified": top[0]["modified"], "target": null, "unreadable": false, "partition_type": "whole disk",
        "filesystem": "ext4",
    });
    assert_eq!(by(&top, "/p0"), expected);
    let etc = list(&["ls", "latest", "/p0/etc"]);
    let link = by(&etc, "/p0/etc/link");
    let expected = json!({
        "path": "/p0/etc/link", "kind": "symlink", "size": 3, "mode": "0777", "uid": 0, "gid": 0,
        "modified": link["modified"], "target": "ssh", "unreadable": false,
    });
    assert_eq!(link, expected);
    let odd = by(&etc, "/p0/etc/odd\\xff\\x0a\\\\name");
    let hex: String = b"/p0/etc/odd\xff\n\\name".iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(odd["path_hex"], hex.as_str());
    let found = list(&["find", "latest", "/p0/etc", "--name", "hostname"]);
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(by(&found, "/p0/etc/hostname"), by(&etc, "/p0/etc/hostname"));
    assert_eq!(list(&["find", "latest", "/p0", "--name", "none"]), json!([]));
}

#[test]
fn damage_of_the_repository_keeps_its_exit_code_and_harms_nothing_else() {
    let (_dir, home) = small();
    let packs: Vec<_> = home.tree("repo/packs").into_keys().collect();
    assert!(!packs.is_empty());
    for pack in packs {
        // Every byte: which chunk stands where in a pack is up to the threads that sealed it.
        let bytes: Vec<u8> = fs::read(&pack).unwrap().into_iter().map(|byte| byte ^ 1).collect();
        fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
    let ran = home.run(&["cat", "latest", "/p0/etc/hostname"]);
    assert_eq!(ran.code, 13, "{ran:?}");
    assert!(ran.stderr.contains("damaged"), "{ran:?}");
    // What is not in the packs of data is still told.
    assert!(home.run(&["show", "latest"]).ok().stdout.contains("vm"));
    assert_eq!(ran.stdout, "");
}

/// Runs a command to its end and gives the most memory it had, in bytes, and what it printed.
fn peak(home: &Home, args: &[&str]) -> (u64, usize) {
    let mut child = home.command().args(args).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (mut most, mut printed) = (0, 0);
    let mut piece = vec![0; 64 << 10];
    loop {
        let n = stdout.read(&mut piece).unwrap();
        if n == 0 {
            break;
        }
        printed += n;
        // A high-water mark: the last one that could be read counts.
        if let Ok(status) = fs::read_to_string(format!("/proc/{}/status", child.id()))
            && let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))
        {
            most = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
        }
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    (most, printed)
}

#[test]
fn large_directories_and_files_stay_below_the_ceiling() {
    const NAMES: usize = 25_000;
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    make(&image, 192);
    mkfs(&image, "ext4", &["-N", "60000", "-E", "hash_seed=01234567-89ab-cdef-0123-456789abcdef"]);
    {
        let mounted = Mounted::new(&image, None, "rw");
        let many = mounted.path().join("many");
        fs::create_dir(&many).unwrap();
        (0..NAMES).for_each(|n| drop(fs::File::create(many.join(format!("a-name-of-some-length-{n:08}"))).unwrap()));
        let big = fs::File::create(mounted.path().join("big")).unwrap();
        (0..100).for_each(|n| {
            use std::os::unix::fs::FileExt;
            big.write_all_at(&wherry_tests::small::noise(n, 1 << 20), n << 20).unwrap();
        });
    }
    let home = home_with(&image);
    for (args, least) in [
        (&["ls", "latest", "/p0/many", "--json"][..], NAMES * 100),
        (&["ls", "latest", "/p0/many"], NAMES * 30),
        (&["find", "latest"], NAMES * 30),
        (&["cat", "latest", "/p0/big"], 100 << 20),
        (&["dump", "latest", "/p0"], (100 << 20) + NAMES * 512),
    ] {
        let (most, printed) = peak(&home, &[args, &["--memory", "64M"]].concat());
        println!("{args:?}: {} MiB, {printed} bytes", most >> 20);
        assert!(printed >= least, "{args:?}: {printed} bytes");
        assert!((1..=64 << 20).contains(&most), "{args:?}: {} MiB", most >> 20);
    }
    // All names, each once, although they come in several pages.
    let found = home.run(&["find", "latest", "/p0/many", "--name", "a-*"]).ok().stdout;
    let names: std::collections::BTreeSet<_> = found.lines().collect();
    assert_eq!((names.len(), found.lines().count()), (NAMES, NAMES));
}
