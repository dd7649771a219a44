//! Files, loop devices and mounts that clean up after themselves, also when a test fails.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use wherry_block::{BufferPool, Engine, Error, Reader, Source};

pub const ENGINES: [Engine; 2] = [Engine::Ring, Engine::Threads];
pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

pub fn run(command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(output.status.success(), "{command} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A loop device over a file. Needs root.
#[derive(Debug)]
pub struct Loop(pub PathBuf);

impl Loop {
    pub fn new(file: &Path, args: &[&str]) -> Self {
        let mut all = vec!["--find", "--show"];
        all.extend(args);
        all.push(text(file));
        Self(run("losetup", &all).into())
    }

    /// Tells the device that its file has another size.
    pub fn resize(&self) {
        run("losetup", &["-c", text(&self.0)]);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The kernel ends it with its last close: another test may be looking at it.
        let over = || {
            let name = self.0.file_name()?.to_owned();
            std::fs::read(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()
        };
        let mine = over();
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
        let ended = || (mine.is_none() || over() != mine).then_some(());
        let _ = until(ended);
    }
}

/// Asks again and again, for ten seconds; `None`: in vain.
fn until<T>(mut get: impl FnMut() -> Option<T>) -> Option<T> {
    (0..200).find_map(|attempt| {
        if attempt > 0 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        get()
    })
}

/// What was closed may still be open in a process that another test is just starting.
pub fn when_free<T>(get: impl FnMut() -> Option<T>) -> T {
    until(get).expect("it stays busy")
}

/// A mounted filesystem.
#[derive(Debug)]
pub struct Mount(pub PathBuf);

impl Mount {
    pub fn new(source: &Path, folder: &Path, args: &[&str]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mut all = args.to_vec();
        all.extend([text(source), text(folder)]);
        run("mount", &all);
        Self(folder.to_owned())
    }

    pub fn tmpfs(folder: &Path, bytes: usize) -> Self {
        Self::new("none".as_ref(), folder, &["-t", "tmpfs", "-o", &format!("size={bytes}")])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A process that another test has begun just now has our open files until it is another program: then it is busy.
        let _ = until(|| {
            let _ = Command::new("umount").arg("--quiet").arg(&self.0).output();
            let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
            (!mounts.contains(text(&self.0))).then_some(())
        });
    }
}

/// Bytes that differ from block to block and are nowhere zero.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = vec![0u8; len];
    for byte in &mut bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 32) as u8 | 1;
    }
    bytes
}

pub fn file_with(path: &Path, bytes: &[u8]) -> PathBuf {
    std::fs::write(path, bytes).unwrap();
    File::open(path).unwrap().sync_all().unwrap();
    path.to_owned()
}

/// A sparse file of `size` bytes with `bytes` at each offset.
pub fn sparse_file(path: &Path, size: u64, parts: &[(u64, &[u8])]) -> PathBuf {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, bytes) in parts {
        file.write_all_at(bytes, *offset).unwrap();
    }
    file.sync_all().unwrap();
    path.to_owned()
}

/// All that a reading delivers, by offset; checks that nothing comes twice and nothing after an error.
pub fn collect(reader: Reader) -> Result<BTreeMap<u64, Vec<u8>>, Error> {
    let mut all = BTreeMap::new();
    let mut failed = None;
    for done in reader {
        assert!(failed.is_none(), "a result after an error");
        match done {
            Ok(done) => assert!(all.insert(done.offset, done.buffer.to_vec()).is_none(), "{} came twice", done.offset),
            Err(e) => failed = Some(e),
        }
    }
    failed.map_or(Ok(all), Err)
}

/// Reads all of `ranges` and returns the bytes, the places in between left 0.
pub fn read(
    source: &Source,
    ranges: Vec<Range<u64>>,
    unit: usize,
    depth: usize,
    pool: &BufferPool,
) -> Result<Vec<u8>, Error> {
    let size = source.geometry().size as usize;
    let parts = collect(source.read_all(ranges.into_iter(), unit, depth, pool)?)?;
    assert_eq!(pool.free(), pool.count(), "buffers are missing");
    let mut all = vec![0; size];
    let mut last = 0;
    for (offset, bytes) in parts {
        let start = offset as usize;
        assert!(start.is_multiple_of(unit) && start >= last, "{start} is no unit, or overlaps");
        last = start + bytes.len();
        assert!(last.is_multiple_of(unit) || last == size);
        all[start..last].copy_from_slice(&bytes);
    }
    Ok(all)
}

pub fn read_everything(path: &Path, engine: Engine) -> Vec<u8> {
    let pool = BufferPool::new(64 * KIB, 8).unwrap();
    let source = Source::open(path, engine).unwrap();
    let all = 0..source.geometry().size;
    read(&source, vec![all], 64 * KIB, 4, &pool).unwrap()
}
