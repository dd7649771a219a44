//! Images, made by the tools that make real ones.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use wherry_tests::small::noise;

/// Runs a program that must end well and gives its output.
#[track_caller]
pub fn sh(program: &str, args: &[&str]) -> String {
    sh_with(program, args, "")
}

/// Likewise, with this on its standard input.
#[track_caller]
pub fn sh_with(program: &str, args: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(args).env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("{program} can not be run: {e}; run scripts/test"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An image of zeros.
pub fn make(image: &Path, mib: u64) {
    File::create(image).unwrap().set_len(mib << 20).unwrap();
}

/// Makes a filesystem of the whole image.
pub fn mkfs(image: &Path, kind: &str, options: &[&str]) {
    sh(&format!("mkfs.{kind}"), &[&["-q", "-F", "-m", "0"][..], options, &[image.to_str().unwrap()]].concat());
}

/// Copies a file into another one at an offset, what is zero left out.
pub fn place(from: &Path, into: &Path, offset: u64) {
    let bytes = fs::read(from).unwrap();
    let file = File::options().write(true).open(into).unwrap();
    for (n, piece) in bytes.chunks(1 << 16).enumerate() {
        if piece.iter().any(|b| *b != 0) {
            file.write_all_at(piece, offset + ((n as u64) << 16)).unwrap();
        }
    }
}

/// A mount of an image; gone when this is dropped.
pub struct Mounted {
    at: TempDir,
}

impl Mounted {
    /// The whole image, or the part that begins at `offset` and has so many bytes, with these options.
    pub fn new(image: &Path, part: Option<(u64, u64)>, options: &str) -> Self {
        let at = tempfile::tempdir().unwrap();
        let part = part.map_or_else(String::new, |(offset, size)| format!(",offset={offset},sizelimit={size}"));
        let options = format!("loop,{options}{part}");
        sh("mount", &["-o", &options, image.to_str().unwrap(), at.path().to_str().unwrap()]);
        Self { at }
    }

    pub fn path(&self) -> &Path {
        self.at.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for args in [&[][..], &["-l"]] {
            let ended = Command::new("umount").args(args).arg(self.at.path()).stderr(Stdio::null()).status();
            if ended.is_ok_and(|ended| ended.success()) {
                return;
            }
        }
    }
}

/// A name that is no UTF-8 and holds a line end and a backslash.
pub fn odd_name() -> PathBuf {
    std::ffi::OsString::from_vec(b"odd\xff\n\\name".to_vec()).into()
}

/// Puts files of all kinds into a directory.
pub fn populate(root: &Path, seed: u64, kind: &str) {
    let file = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for (name, len) in [("empty", 0), ("one", 1), ("a/block", 1024), ("a/b/c/more", 70_001), ("large", 3 << 20)] {
        file(name, &noise(seed + len as u64, len));
    }
    file(&format!("{}/{}", "n".repeat(255), "x".repeat(255)), b"long names");
    file("deep/1/2/3/4/5/6/7/8/9/10/11/12/file", b"deep");
    // So many that a directory gets an index.
    (0..1500).for_each(|n| file(&format!("many/a-name-of-some-length-{n:05}"), format!("{n}").as_bytes()));
    // Fragmented: every other one is removed, one file fills the holes.
    (0..200).for_each(|n| file(&format!("fragments/{n}"), &noise(n, 4096)));
    (0..200).step_by(2).for_each(|n| fs::remove_file(root.join(format!("fragments/{n}"))).unwrap());
    file("fragments/filler", &noise(seed, 700_000));
    // In ext2 and ext3 only small holes are read.
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", if kind == "ext4" { 5_000_000 } else { 5_000 }).unwrap();
    sparse.set_len(if kind == "ext4" { 9_000_001 } else { 9_000 }).unwrap();
    fs::write(root.join(odd_name()), "odd").unwrap();
    symlink("a/b", root.join("short-link")).unwrap();
    symlink("target/".repeat(50) + "end", root.join("long-link")).unwrap();
    symlink("x".repeat(59), root.join("link-of-59")).unwrap();
    symlink("x".repeat(60), root.join("link-of-60")).unwrap();
    fs::hard_link(root.join("one"), root.join("a/again")).unwrap();
    sh("mkfifo", &[root.join("fifo").to_str().unwrap()]);
    sh("mknod", &[root.join("device").to_str().unwrap(), "c", "1", "3"]);
    drop(std::os::unix::net::UnixListener::bind(root.join("s")).unwrap());
    fs::set_permissions(root.join("one"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o1777)).unwrap();
    sh("chown", &["70000:80000", root.join("large").to_str().unwrap()]);
    sh("touch", &["-d", "2001-02-03 04:05:06.123456789", root.join("large").to_str().unwrap()]);
    sh("touch", &["-d", "1970-01-01 00:00:00", root.join("empty").to_str().unwrap()]);
}
