use super::*;
use crate::tree::view::{Failed, walk};
use std::process::Command;
use std::time::Instant;

const MIB: usize = 1 << 20;

/// An image made by mkfs, with a few files put in without a mount.
fn ext(options: &[&str], mib: usize, block: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = (dir.path().join("root"), dir.path().join("image"));
    std::fs::create_dir_all(root.join("etc/deep")).unwrap();
    std::fs::write(root.join("etc/hostname"), "vm1\n").unwrap();
    std::fs::write(root.join("etc/deep/long"), [7; 300_000]).unwrap();
    std::os::unix::fs::symlink("hostname", root.join("etc/link")).unwrap();
    std::os::unix::fs::symlink("etc", root.join("short")).unwrap();
    std::fs::File::create(&image).unwrap().set_len((mib * MIB) as u64).unwrap();
    let made =
        Command::new("mke2fs").args(["-q", "-F", "-b", block, "-d"]).arg(&root).args(options).arg(&image).output();
    let made = made.expect("mke2fs is there: scripts/test installs it");
    assert!(made.status.success(), "{made:?}");
    std::fs::read(&image).unwrap()
}

fn whose(image: &[u8]) -> Whose {
    Whose { snapshot: "0123".to_owned(), time: Timestamp(0), image: TreePath::new(image) }
}

fn view(image: Vec<u8>) -> DiskView {
    DiskView::open(Arc::new(image), whose(b"")).unwrap()
}

fn all(view: &mut DiskView, path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    view.read(&TreePath::new(path.as_bytes()), 0..u64::MAX, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

fn names(view: &mut DiskView, path: &str) -> Vec<String> {
    let mut names = Vec::new();
    view.list(&TreePath::new(path.as_bytes()), 0, &mut |node| {
        names.push(escaped(&node.name));
        Ok(())
    })
    .unwrap();
    names.sort_unstable();
    names
}

#[test]
fn a_disk_that_is_one_filesystem_is_p0() {
    let mut view = view(ext(&["-t", "ext4"], 8, "1024"));
    assert_eq!(names(&mut view, "/"), ["disk.raw", "p0"]);
    assert_eq!(names(&mut view, "/p0"), ["etc", "lost+found", "short"]);
    assert_eq!(all(&mut view, "/p0/etc/hostname").unwrap(), b"vm1\n");
    assert_eq!(all(&mut view, "/p0/etc/deep/long").unwrap(), [7; 300_000]);
    let mut piece = Vec::new();
    view.read(&TreePath::new(b"/p0/etc/deep/long"), 299_990..u64::MAX, &mut |bytes| {
        piece.extend_from_slice(bytes);
        Ok(())
    })
    .unwrap();
    assert_eq!(piece, [7; 10]);
    let node = view.stat(&TreePath::new(b"/p0/etc/link")).unwrap();
    assert_eq!(node.inode.kind, InodeKind::Link(b"hostname".to_vec()));
    assert_eq!(all(&mut view, "/disk.raw").unwrap().len(), 8 * MIB);
}

#[test]
fn what_is_wrong_with_a_path_is_said() {
    let mut view = view(ext(&["-t", "ext4"], 8, "1024"));
    let mut said = |path: &str| {
        let error = all(&mut view, path).unwrap_err();
        error.downcast::<PathError>().unwrap()
    };
    assert_eq!(said("/p0/etc/none"), PathError::None("/p0/etc/none".into()));
    assert_eq!(said("/p7"), PathError::None("/p7".into()));
    assert_eq!(said("/p0/etc/none/deeper"), PathError::None("/p0/etc/none/deeper".into()));
    assert_eq!(said("/p0/etc/hostname/x"), PathError::NotFolder("/p0/etc/hostname".into()));
    assert_eq!(said("/disk.raw/x"), PathError::NotFolder("/disk.raw".into()));
    assert_eq!(said("/p0/short/hostname"), PathError::Link("/p0/short".into(), "etc".into()));
    assert_eq!(said("/p0/etc/link"), PathError::Link("/p0/etc/link".into(), "hostname".into()));
    assert!(matches!(said("/p0/etc"), PathError::NotFile(..)));
    assert!(matches!(said("/"), PathError::NotFile(..)));
}

#[test]
fn paths_in_an_image_of_a_directory_begin_with_its_own() {
    let mut view = DiskView::open(Arc::new(ext(&["-t", "ext4"], 8, "1024")), whose(b"a/disk.img")).unwrap();
    assert_eq!(names(&mut view, "/a/disk.img"), ["p0"], "the image is the disk itself");
    assert_eq!(names(&mut view, "/a/disk.img/p0"), ["etc", "lost+found", "short"]);
    assert_eq!(all(&mut view, "/a/disk.img/p0/etc/hostname").unwrap(), b"vm1\n");
    let mut said = |path: &str| all(&mut view, path).unwrap_err().downcast::<PathError>().unwrap();
    assert_eq!(said("/a/disk.img/disk.raw"), PathError::None("/a/disk.img/disk.raw".into()));
    assert_eq!(said("/a/disk.img/p0/etc/hostname/x"), PathError::NotFolder("/a/disk.img/p0/etc/hostname".into()));
    assert_eq!(said("/a/disk.img/p0/short/x"), PathError::Link("/a/disk.img/p0/short".into(), "etc".into()));
    assert!(view.is_disk(&TreePath::new(b"/a/disk.img")) && !view.is_disk(&TreePath::new(b"/a/disk.img/p0")));
}

#[test]
fn what_is_not_read_is_said_with_what_opens_it() {
    let mut image = vec![0; MIB];
    image[..4].copy_from_slice(b"XFSB");
    let mut view = view(image);
    assert_eq!(names(&mut view, "/"), ["disk.raw", "p0"]);
    let error = all(&mut view, "/p0/etc/fstab").unwrap_err().downcast::<Error>().unwrap();
    assert_eq!(error.kind(), wherry_repo::ErrorKind::Invalid);
    let text = error.to_string();
    assert!(
        text.contains("xfs") && text.contains("mount -o ro,norecovery,nouuid,loop DIR/by-id/0123/disk.raw"),
        "{text}"
    );
}

#[test]
fn a_superblock_that_asks_for_memory_gets_none() {
    let image = ext(&["-t", "ext2"], 8, "1024");
    for (at, value, words) in [
        (24, 7u32, "impossible size"),
        (24, 21, "impossible size"),
        (24, u32::MAX, "impossible size"),
        (4, u32::MAX, "and the partition only"),
        (32, 0, "too many groups"),
    ] {
        let mut image = image.clone();
        image[1024 + at..1028 + at].copy_from_slice(&value.to_le_bytes());
        let error = view(image).stat(&TreePath::new(b"/p0/etc")).unwrap_err();
        assert!(error.to_string().contains(words), "{at} {value}: {error}");
    }
}

/// Flips bits of an image and goes through all of it: nothing panics past its thread, hangs, or takes memory by what the
/// image says.
fn flip(image: &[u8], rounds: u64, places: &[std::ops::Range<usize>]) {
    let mut random = 7u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize
    };
    let start = Instant::now();
    let mut broken = 0;
    for _ in 0..rounds {
        let mut flipped = image.to_vec();
        for _ in 0..1 + next() % 8 {
            let place = &places[next() % places.len()];
            flipped[place.start + next() % place.len()] ^= 1 << (next() % 8);
        }
        let Ok(mut view) = DiskView::open(Arc::new(flipped), whose(b"")) else { continue };
        let mut files = Vec::new();
        let walked = walk(&mut view, &TreePath::new(b"/p0"), true, &mut |_, folder, nodes| {
            files.extend(nodes.iter().filter(|n| n.is_file()).map(|n| folder.join(&n.name)));
            anyhow::ensure!(files.len() < 100_000, "too many files");
            Ok(())
        });
        broken += u64::from(!matches!(walked, Ok(Failed { count: 0, .. })));
        for file in files.iter().take(50) {
            let mut read = 0;
            let end = view.read(file, 0..MIB as u64, &mut |bytes| {
                read += bytes.len();
                Ok(())
            });
            broken += u64::from(end.is_err());
            assert!(read <= MIB);
        }
    }
    println!("{broken} errors in {rounds} rounds, {:?}", start.elapsed());
    assert!(broken > 0, "the flips hit nothing");
}

#[test]
fn flipped_ext_images_are_no_danger() {
    // Without checksums of metadata damage gets everywhere.
    for (options, block) in
        [(&["-t", "ext2"][..], "1024"), (&["-t", "ext4", "-O", "^metadata_csum"], "1024"), (&["-t", "ext4"], "4096")]
    {
        flip(&ext(options, 8, block), 300, &[1024..2048, 2048..70_000, 70_000..600_000]);
    }
}

/// A FAT filesystem, with these files put in by mtools.
fn fat(options: &[&str], mib: usize, files: &[(&str, usize)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (image, source) = (dir.path().join("image"), dir.path().join("source"));
    std::fs::File::create(&image).unwrap().set_len((mib * MIB) as u64).unwrap();
    let run = |program: &str, args: &[&str], files: &[&std::path::Path]| {
        let made = Command::new(program).args(args).args(files).output();
        let made = made.unwrap_or_else(|e| panic!("{program} is missing ({e}): scripts/test installs it"));
        assert!(made.status.success(), "{made:?}");
    };
    run("mkfs.fat", options, &[&image]);
    for (name, len) in files {
        let path = source.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![5; *len]).unwrap();
    }
    if !files.is_empty() {
        let tops: Vec<_> = std::fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().path()).collect();
        for top in tops {
            run("mcopy", &["-s", "-Q", "-i", image.to_str().unwrap(), top.to_str().unwrap(), "::"], &[]);
        }
    }
    std::fs::read(&image).unwrap()
}

#[test]
fn flipped_fat_images_are_no_danger() {
    let long: Vec<String> = (0..40).map(|n| format!("dir/a long name of a file {n}")).collect();
    let mut files: Vec<(&str, usize)> = long.iter().map(|name| (name.as_str(), 3000)).collect();
    files.extend([("SHORT.TXT", 100), ("dir/deep/er/file", 50_000)]);
    for (bits, mib) in [("12", 4), ("16", 16), ("32", 40)] {
        let image = fat(&["-F", bits], mib, &files);
        let mut view = view(image.clone());
        assert_eq!(all(&mut view, "/p0/dir/deep/er/file").unwrap(), [5; 50_000]);
        assert_eq!(names(&mut view, "/p0"), ["SHORT.TXT", "dir"]);
        let table = if bits == "32" { 32 * 512 } else { 512 };
        flip(&image, 200, &[0..96, table..table + 600, 20_000..120_000]);
    }
}

#[test]
fn an_empty_fat_of_each_kind_is_known() {
    for (bits, mib) in [("12", 4), ("16", 16), ("32", 40)] {
        let mut view = view(fat(&["-F", bits], mib, &[]));
        assert_eq!(names(&mut view, "/"), ["disk.raw", "p0"]);
        assert_eq!(view.parts[0].content, Content::Fat);
        assert!(names(&mut view, "/p0").is_empty());
    }
}
