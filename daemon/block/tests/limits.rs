//! Systems that deny io_uring or locked memory, and filesystems that deny O_DIRECT. Needs root, whose rights it drops.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{ENGINES, KIB, MIB, Mount, file_with, pattern};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use wherry_block::{BufferPool, Engine, Error, Sink, SinkOptions, Source};

/// Denies the calling thread, and threads it starts, one system call.
fn deny(call: libc::c_long, errno: i32) {
    let load_number = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let skip_unless = libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: u32::try_from(call).unwrap() };
    let deny = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | errno as u32 };
    let allow = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let mut program = [load_number, skip_unless, deny, allow];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: plain numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: `filter` and the program it points to live until the call has returned; the kernel copies them.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) }, 0);
}

/// Runs `test` in a thread of its own, which it may restrict.
fn restricted(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(test).join().unwrap());
}

fn read_and_write(folder: &Path, engine: Engine, pool: &BufferPool) -> [wherry_block::EngineInfo; 2] {
    let data = pattern(MIB + 5, 1);
    let path = file_with(&folder.join("disk"), &data);
    let source = Source::open(&path, engine).unwrap();
    let got = common::read(&source, std::iter::once(0..data.len() as u64).collect(), 64 * KIB, 8, pool).unwrap();
    assert!(got == data);
    let copy = folder.join("copy");
    let sink =
        Sink::create(&copy, data.len() as u64, SinkOptions { engine, depth: 8, below_loop: false }, pool).unwrap();
    for (index, part) in data.chunks(64 * KIB).enumerate() {
        let mut buffer = pool.take();
        buffer.set_len(part.len());
        buffer.copy_from_slice(part);
        sink.write((index * 64 * KIB) as u64, buffer).unwrap();
    }
    sink.flush().unwrap();
    assert!(std::fs::read(&copy).unwrap() == data);
    std::fs::remove_file(copy).unwrap();
    [source.engine(), sink.engine()]
}

#[test]
fn without_io_uring_threads_are_used_and_the_ring_is_refused() {
    let cases = [
        (libc::SYS_io_uring_setup, libc::EPERM, "denied"),
        (libc::SYS_io_uring_setup, libc::ENOSYS, "not in this kernel"),
        (libc::SYS_io_uring_setup, libc::ENOMEM, "locked memory"),
        (libc::SYS_io_uring_enter, libc::EPERM, "denied"),
        (libc::SYS_io_uring_register, libc::EPERM, "denied"),
    ];
    for (call, errno, word) in cases {
        restricted(move || {
            let folder = tempfile::tempdir().unwrap();
            let pool = BufferPool::new(64 * KIB, 8).unwrap();
            deny(call, errno);
            for info in read_and_write(folder.path(), Engine::Auto, &pool) {
                assert!(info.name == "threads" && info.why.contains(word), "{info:?}");
            }
            let Err(Error::Unsupported { engine: "ring", why }) =
                Source::open(&folder.path().join("disk"), Engine::Ring)
            else {
                panic!("the ring was to be had")
            };
            assert!(why.contains(word), "{why}");
            let options = SinkOptions { engine: Engine::Ring, depth: 1, below_loop: false };
            let refused = Sink::create(&folder.path().join("new"), 1, options, &pool);
            assert!(matches!(refused, Err(Error::Unsupported { .. })));
            // What is refused stays as it was.
            let there = folder.path().join("there");
            std::fs::write(&there, "as it was").unwrap();
            let refused = Sink::open(&there, 1, options, &pool);
            assert!(matches!(refused, Err(Error::Unsupported { .. })));
            assert_eq!(std::fs::read(&there).unwrap(), b"as it was");
        });
    }
}

#[test]
fn auto_takes_the_ring_where_it_works() {
    let folder = tempfile::tempdir().unwrap();
    let pool = BufferPool::new(64 * KIB, 8).unwrap();
    for engine in [Engine::Auto, Engine::Ring] {
        for info in read_and_write(folder.path(), engine, &pool) {
            assert!(info.name == "ring" && info.why.contains("registered buffers"), "{info:?}");
        }
    }
    for info in read_and_write(folder.path(), Engine::Threads, &pool) {
        assert!(info.name == "threads" && info.why.contains("8 threads"), "{info:?}");
    }
}

#[test]
fn a_user_with_little_lockable_memory_gets_plain_buffers() {
    restricted(|| {
        let limit = Some(8 * MIB as u64);
        setrlimit(Resource::Memlock, Rlimit { current: limit, maximum: getrlimit(Resource::Memlock).maximum }).unwrap();
        let mut rights = capabilities(None).unwrap();
        rights.effective -= CapabilitySet::IPC_LOCK;
        set_capabilities(None, rights).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (buffers, kind) in [(64, "registered"), (512, "plain")] {
            // 4 MiB fit below the limit, 32 MiB do not; nor do two times 4 MiB at the same time, which nobody needs.
            let pool = BufferPool::new(64 * KIB, buffers).unwrap();
            let [read, _] = read_and_write(folder.path(), Engine::Ring, &pool);
            assert!(read.name == "ring" && read.why.contains(kind), "{buffers} buffers: {read:?}");
        }
    });
}

#[test]
fn filesystems_in_memory_are_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let mount = Mount::tmpfs(&folder.path().join("memory"), 16 * MIB);
    let pool = BufferPool::new(64 * KIB, 8).unwrap();
    for engine in ENGINES {
        read_and_write(&mount.0, engine, &pool);
    }
}
