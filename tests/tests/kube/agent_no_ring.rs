//! An agent on a node where io_uring is off, as on RHEL 9 (`kernel.io_uring_disabled=2`, which denies it to root as well): what is
//! deployed asks for no engine, so it finds the one that is left, says so everywhere, and moves the same bytes.

use crate::agent::{MIB, disk, fill, noise, snapshot_of, tree, uploaded};
use crate::metrics::{ask, event, samples, until_ok};
use crate::stand;
use std::fs;
use wherry_api::names;
use wherry_tests::server::free_ports;

/// Runs a command to which the kernel answers `io_uring_setup` with EPERM, as that sysctl makes it; all else is as ever. A filter of
/// the process, as the setting is of the whole machine. It is set by a program of its own, since Rust would need `unsafe` for it.
/// seccomp(2): load the number of the call; if it is 425, which it is on every architecture, EPERM, else allowed.
const WITHOUT_IO_URING: &str = r"
import ctypes, errno, os, struct, sys
def code(op, jt, jf, k): return struct.pack('HBBI', op, jt, jf, k)
program = code(0x20, 0, 0, 0) + code(0x15, 0, 1, 425) + code(0x06, 0, 0, 0x00050000 | errno.EPERM) + code(0x06, 0, 0, 0x7fff0000)
class Filter(ctypes.Structure): _fields_ = [('length', ctypes.c_ushort), ('program', ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
for arguments in [(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(Filter(4, program)), 0, 0)]:
    if libc.prctl(*arguments) != 0: sys.exit('prctl: ' + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
";

#[test]
fn without_io_uring_the_agent_moves_volumes_by_threads_and_says_why() {
    let stand = stand("agent-no-ring");
    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let agent = stand.agent_with(&["python3", "-c", WITHOUT_IO_URING], &["--health", &address]);
    until_ok(&address, "/readyz", || agent.log());
    let command = fs::read(format!("/proc/{}/cmdline", agent.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&command).contains("--engine"), "it is to find the engine itself");
    let metrics = || samples(&ask(&address, "/metrics").unwrap().1);
    let chosen = || -> Vec<String> {
        let is = |(series, n): &(String, f64)| series.starts_with("wherry_engine_info{") && *n != 0.0;
        metrics().into_iter().filter(is).map(|(series, n)| format!("{series} {n}")).collect()
    };
    // Before it has anything to move.
    assert_eq!(chosen(), [r#"wherry_engine_info{engine="threads",why="no-ring"} 1"#]);
    let denied = "no io_uring: io_uring_setup: Operation not permitted (os error 1): denied by kernel.io_uring_disabled or a seccomp filter";
    let said = agent.log();
    let line = said.lines().find(|line| line.contains("the engine for devices"));
    assert!(line.is_some_and(|line| line.contains(&format!("engine=threads why=\"{denied}\""))), "{said}");

    let file = disk(&stand, "disk", 24, 8);
    let of_disk = uploaded(&stand, &agent, "disk", &file);
    let up = stand.upload("files", "Filesystem", 64 * MIB);
    let from = stand.mount(&up, 64);
    fill(&from);
    stand.prepared(&up);
    let of_files = stand.until(&up, &agent, &["Completed"]);
    for (name, cr) in [("disk", &of_disk), ("files", &of_files)] {
        let message = cr["status"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("threads engine ({denied}")), "{message}");
        assert_eq!(event(&stand, &agent, name, "Completed"), message);
        agent.says(message);
    }

    // By whoever has io_uring what it stored is read as any other.
    let home = stand.outside();
    home.run(&["restore", &snapshot_of(&of_disk).session, &home.text("back")]).ok();
    assert!(fs::read(home.path("back")).unwrap() == fs::read(&file).unwrap(), "it is another disk");

    let down = stand.download("disk-back", "Block", 24 * MIB, &snapshot_of(&of_disk).to_string());
    let target = stand.path("target");
    fs::write(&target, noise(3, 24 * MIB)).unwrap();
    let device = stand.publish(&down, &target);
    let files = stand.download("files-back", "Filesystem", 64 * MIB, &snapshot_of(&of_files).to_string());
    let to = stand.mount(&files, 64);
    for hosted in [&down, &files] {
        stand.prepared(hosted);
        stand.when(hosted, &agent, "data-done", |cr| cr["metadata"]["annotations"][names::DATA_DONE].is_string());
    }
    drop(device);
    assert!(fs::read(&target).unwrap() == fs::read(&file).unwrap(), "it is another disk");
    assert_eq!(tree(&to), tree(&from));
    let done = event(&stand, &agent, "disk-back", "DataDone");
    assert!(done.contains(&format!("threads engine ({denied}")), "{done}");

    let moved = metrics();
    for (engine, volumes) in [("threads", 2.0), ("ring", 0.0)] {
        for kind in ["upload", "download"] {
            let series = format!("wherry_volumes_moved_total{{kind=\"{kind}\",engine=\"{engine}\"}}");
            assert_eq!(moved[&series], volumes, "{series}");
        }
    }
    assert_eq!(chosen(), [r#"wherry_engine_info{engine="threads",why="no-ring"} 1"#]);
    agent.end();
}
