//! How much memory a process takes at most.

use super::harness::Home;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Child;

/// A mount in the foreground; gone when this is dropped.
struct Mounted(Child);

impl Mounted {
    fn new(home: &Home, args: &[&str]) -> Self {
        fs::create_dir(home.path("mnt")).unwrap();
        let mut command = home.command();
        let mut child = command.args(["mount", "mnt", "--foreground"]).args(args).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("mounted "), "{line}");
        Self(child)
    }

    /// The most memory it had resident so far, in bytes.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Walks the map of a disk to its end, and gives the number of pieces of data in it.
fn pieces(disk: &File) -> usize {
    use rustix::fs::SeekFrom;
    let (mut at, mut found) = (0, 0);
    while let Ok(data) = rustix::fs::seek(disk, SeekFrom::Data(at)) {
        found += 1;
        at = rustix::fs::seek(disk, SeekFrom::Hole(data)).unwrap();
    }
    found
}

fn disks(folder: &Path) -> Vec<File> {
    let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let folders = folders.filter(|entry| entry.file_type().unwrap().is_dir());
    folders.map(|entry| File::open(entry.path().join("disk.raw")).unwrap()).collect()
}

#[test]
fn many_open_disks_of_a_mount_stay_below_the_ceiling() {
    const DISKS: usize = 40;
    /// Nodes of one map: as many as one disk used to keep by itself, 4.5 MiB.
    const LEAVES: u64 = 512;
    let home = Home::new();
    home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
    let image = File::create(home.path("image")).unwrap();
    let leaf = 128 * (64 << 10);
    image.set_len(LEAVES * leaf).unwrap();
    (0..LEAVES).for_each(|n| image.write_all_at(&[1], n * leaf).unwrap());
    (0..DISKS).for_each(|_| drop(home.run(&["backup", "image", "--name", "vm", "-q"]).ok()));

    let mounted = Mounted::new(&home, &["--memory", "64M"]);
    // All stay open.
    let open = disks(&home.path("mnt/by-volume/vm"));
    assert_eq!(open.len(), DISKS);
    for disk in &open {
        assert_eq!(pieces(disk), LEAVES as usize);
    }
    let peak = mounted.peak();
    println!("{DISKS} disks: {} MiB", peak >> 20);
    assert!(peak <= 64 << 20, "{} MiB with {DISKS} disks open", peak >> 20);
}
