//! Small real filesystems on loop devices; root is needed.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A mounted filesystem in a file, or in memory; dropped, it is unmounted and removed.
#[derive(Debug)]
pub struct Volume {
    folder: TempDir,
}

impl Volume {
    /// An ext4 filesystem of `mib` MiB (at least 2), without a reserve for root.
    pub fn ext4(mib: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("wherry-volume-").tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        std::fs::File::create(&image).and_then(|f| f.set_len(mib << 20)).expect("the image is made");
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-O", "^has_journal", &image.display().to_string()]);
        let volume = Self { folder };
        std::fs::create_dir(volume.path()).expect("the mount point is made");
        run("mount", &["-o", "loop", &image.display().to_string(), &volume.path().display().to_string()]);
        volume
    }

    /// An xfs filesystem of `mib` MiB (at least 300): files on it can share data.
    pub fn xfs(mib: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("wherry-volume-").tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        std::fs::File::create(&image).and_then(|f| f.set_len(mib << 20)).expect("the image is made");
        run("mkfs.xfs", &["-q", "-m", "reflink=1", &image.display().to_string()]);
        let volume = Self { folder };
        std::fs::create_dir(volume.path()).expect("the mount point is made");
        run("mount", &["-o", "loop", &image.display().to_string(), &volume.path().display().to_string()]);
        volume
    }

    /// A filesystem in memory of so many bytes.
    pub fn tmpfs(bytes: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("wherry-volume-").tempdir().expect("a temporary folder");
        let volume = Self { folder };
        std::fs::create_dir(volume.path()).expect("the mount point is made");
        let size = format!("size={bytes}");
        run("mount", &["-t", "tmpfs", "-o", &size, "wherry-volume", &volume.path().display().to_string()]);
        volume
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Mounts it again with these options, such as `ro`.
    pub fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), &self.path().display().to_string()]);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let unmount = |lazy: &[&str], path: &Path| {
            Command::new("umount").args(lazy).arg(path).stderr(std::process::Stdio::null()).status()
        };
        // Lazily if a failed test still holds it.
        if !unmount(&[], &self.path()).is_ok_and(|status| status.success()) {
            let _ = unmount(&["-l"], &self.path());
        }
    }
}

/// A loop device over a file; dropped, it is gone.
#[derive(Debug)]
pub struct Loop(PathBuf);

impl Loop {
    /// Over this file, with these further arguments of losetup.
    pub fn new(file: &Path, args: &[&str]) -> Self {
        let file = file.display().to_string();
        let name = run("losetup", &[&["--find", "--show"][..], args, &[&file]].concat());
        Self(name.trim().into())
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The same as text.
    pub fn text(&self) -> &str {
        self.0.to_str().expect("losetup names devices in ASCII")
    }

    /// Tells the device that its file has another size.
    pub fn resize(&self) {
        run("losetup", &["-c", self.text()]);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The kernel ends it with its last close: a command of another test may be looking at it.
        let name = self.0.file_name().unwrap_or_default();
        let shown = Path::new("/sys/block").join(name).join("loop/backing_file");
        let mine = std::fs::read(&shown).ok();
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
        for _ in 0..200 {
            if mine.is_none() || std::fs::read(&shown).ok() != mine {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// Takes all room of a filesystem with one file, whose removal gives it back.
pub fn fill(filler: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::options().create(true).append(true).open(filler).expect("the filler is made");
    for size in [1 << 20, 4096, 512] {
        while file.write_all(&vec![1; size]).is_ok() {}
        let _ = file.sync_all();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program} can not be run: {error}; run scripts/test"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text} (root and loop devices are needed)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
