//! A repository with a place to mount it, mounts in the foreground and in the background, and what is done with a disk
//! that is mounted. All of it is gone when it is dropped, also where a test failed.

use rustix::process::Signal;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wherry_tests::binary::wherry_bin;
use wherry_tests::small::noise;

/// Chunk size of the repositories of these tests in bytes.
pub const UNIT: usize = 64 << 10;

/// How long anything that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A repository with a key file, in a folder of its own with a place to mount.
pub struct Place {
    pub dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        // Others may pass through it: what keeps them out is the mount.
        let others = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        let place = Self { dir: tempfile::Builder::new().permissions(others).tempdir().unwrap() };
        fs::create_dir(place.mnt()).unwrap();
        place.run(&["init", "--chunk-size", "64K"]);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(wherry_bin());
        command.args(args).env("WHERRY_REPOSITORY", self.path("repo")).env("WHERRY_KEY_FILE", self.path("key"));
        command.env("WHERRY_CACHE_DIR", self.path("cache")).env_remove("WHERRY_PASSWORD").stdin(Stdio::null());
        command
    }

    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed and gives its standard output.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "wherry {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit code and standard error of a command that must fail.
    pub fn fail(&self, args: &[&str]) -> (i32, String) {
        let output = self.output(args);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Backs a disk up and gives the id of the snapshot.
    pub fn backup(&self, name: &str, disk: &[u8]) -> String {
        let image = self.path("image");
        fs::write(&image, disk).unwrap();
        self.backup_file(name, &image)
    }

    pub fn backup_file(&self, name: &str, image: &Path) -> String {
        let report = self.run(&["--json", "backup", image.to_str().unwrap(), "--name", name]);
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        report["snapshot"].as_str().unwrap().to_owned()
    }

    /// Mounts in the background, as most people do.
    pub fn mount(&self, args: &[&str]) -> Background {
        let mnt = self.mnt();
        let report = self.run(&[&["--json", "mount", mnt.to_str().unwrap()], args].concat());
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["mountpoint"].as_str().unwrap(), mnt.canonicalize().unwrap().to_str().unwrap());
        Background { mnt, pid: report["pid"].as_u64().unwrap() as i32 }
    }

    /// Mounts in the foreground and gives what it says on standard error.
    pub fn mount_here(&self) -> Foreground {
        let plain = self.command(&["mount", self.mnt().to_str().unwrap(), "--foreground"]);
        // Whoever started the tests may ignore SIGHUP, and what they start would, too.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP").arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null());
        command.env_remove("WHERRY_PASSWORD");
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (tell, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| tell.send(line).is_ok()));
        let mount = Foreground { mnt: self.mnt(), child, lines };
        assert!(line.starts_with("mounted "), "{line:?} {:?}", mount.lines.recv());
        mount
    }
}

/// A mount by a process that was left behind; gone, with its process, when this is dropped.
pub struct Background {
    pub mnt: PathBuf,
    pub pid: i32,
}

impl Background {
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn ended(&self) {
        let pid = self.pid;
        wait("the process to end", || !is_running(pid));
        assert!(!is_mounted(&self.mnt));
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        lazily_unmount(&self.mnt);
        let pid = self.pid;
        wait_or_not(|| !is_running(pid));
        if is_running(pid) {
            self.signal(Signal::KILL);
        }
    }
}

/// A mount by a child of this process.
pub struct Foreground {
    pub mnt: PathBuf,
    pub child: Child,
    pub lines: Receiver<String>,
}

impl Foreground {
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The first line from now on that has this in it.
    pub fn says(&self, what: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("nothing was said of {what:?}"));
            if line.contains(what) {
                return line;
            }
        }
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        lazily_unmount(&self.mnt);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn lazily_unmount(mnt: &Path) {
    while is_mounted(mnt) && sh("umount", &["-l", mnt.to_str().unwrap()]).is_ok() {}
}

pub fn is_running(pid: i32) -> bool {
    // The init of a container may not collect those whose parent has gone: a zombie has ended too.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X'])))
}

pub fn is_mounted(path: &Path) -> bool {
    let path = path.to_str().unwrap();
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.split(' ').nth(4) == Some(path))
}

pub fn wait_or_not(mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

pub fn wait(what: &str, done: impl FnMut() -> bool) {
    assert!(wait_or_not(done), "waited in vain for {what}");
}

pub fn sh(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        false => Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// A loop device with its partitions.
pub struct Loop(pub String);

impl Loop {
    pub fn new(flags: &[&str], file: &Path) -> Self {
        let file = file.to_str().unwrap();
        let device = sh("losetup", &[flags, &["--partscan", "--find", "--show", file]].concat()).unwrap();
        let this = Self(device);
        let first = this.part(1);
        if !Path::new(&first).exists() {
            // A kernel that reads no partition tables is told what is in them.
            let _ = sh("partx", &["--add", &this.0]);
        }
        wait("the partitions", || Path::new(&first).exists());
        this
    }

    pub fn part(&self, n: u32) -> String {
        format!("{}p{n}", self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = sh("partx", &["--delete", &self.0]);
        let _ = sh("losetup", &["--detach", &self.0]);
    }
}

/// A mounted filesystem.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn new(options: &[&str], device: &str, at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        sh("mount", &[options, &[device, at.to_str().unwrap()]].concat()).unwrap();
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if sh("umount", &[self.0.to_str().unwrap()]).is_err() {
            lazily_unmount(&self.0);
        }
    }
}

/// A disk of 64 KiB chunks; those for which `data` is false are zero.
pub fn disk(seed: u64, chunks: usize, tail: usize, data: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut disk = vec![0; chunks * UNIT + tail];
    for (n, chunk) in disk.chunks_mut(UNIT).enumerate().filter(|(n, _)| data(*n)) {
        chunk.copy_from_slice(&noise(seed * 1000 + n as u64, chunk.len()));
    }
    disk
}

pub fn latest(mount: &Path, volume: &str) -> PathBuf {
    mount.join("by-volume").join(volume).join("latest/disk.raw")
}

pub fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

/// Tells the threads of a scope to end, also when a test fails: the scope waits for them.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
