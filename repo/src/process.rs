//! Who runs a session, and whether that process is still there.

use crate::format::records::Process;
use std::fs;

impl Process {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        let start = match start_time(pid) {
            Seen::Started(start) => start,
            Seen::Ended | Seen::Nothing => 0,
        };
        Self { host: host_name(), boot: boot(), pid, start }
    }

    /// True only when it certainly runs no more: same machine, same boot, same process namespace, and no process of
    /// that id with that start time. Copies of a running virtual machine look alike in all that. One that this user may not look at (`/proc` with `hidepid`) is not dead.
    pub fn is_dead(&self) -> bool {
        // When it started could not be read (a new process namespace with the old `/proc`): the number alone says nothing.
        if self.boot.is_empty() || self.boot != boot() || self.start == 0 {
            return false;
        }
        match start_time(self.pid) {
            Seen::Started(start) => start != self.start,
            Seen::Ended => true,
            Seen::Nothing => is_unused(self.pid),
        }
    }
}

/// What `/proc` says of a process id.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// A process that started then, in clock ticks since boot.
    Started(u64),
    /// A process that has ended, and holds only its number.
    Ended,
    /// There is none, or it is hidden from this user.
    Nothing,
}

/// True when the kernel says that no process has this id.
fn is_unused(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

/// Name of this host.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Machine, boot and process namespace; empty when one of them cannot be read.
fn boot() -> String {
    let read = || {
        let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        Some(format!("{} {} {}", machine.trim(), boot.trim(), namespace.display()))
    };
    read().unwrap_or_default()
}

fn start_time(pid: u32) -> Seen {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(Seen::Nothing, |stat| seen(&stat))
}

/// For the fuzz target `local_texts`: when a process started, in clock ticks since boot.
pub(crate) fn started(stat: &str) -> Option<u64> {
    match seen(stat) {
        Seen::Started(ticks) => Some(ticks),
        Seen::Ended | Seen::Nothing => None,
    }
}

/// Field 22 of `/proc/<pid>/stat`: clock ticks since boot. The name in field 2 may hold anything but ends at the last
/// parenthesis.
fn seen(stat: &str) -> Seen {
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    // A zombie holds its number but does nothing any more.
    if matches!(fields.next(), Some("Z" | "X")) {
        return Seen::Ended;
    }
    fields.nth(18).and_then(|start| start.parse().ok()).map_or(Seen::Nothing, Seen::Started)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    const HIDDEN: &str = "WHERRY_TEST_HIDDEN_PID";

    /// Not a test: what a user says of a process that `/proc` hides from it.
    #[test]
    fn hidden() {
        let Ok(pid) = std::env::var(HIDDEN) else { return };
        let process = Process { pid: pid.parse().unwrap(), start: 1, ..Process::current() };
        let stat = fs::exists(format!("/proc/{pid}/stat")).unwrap();
        println!("told: seen {stat}, dead {}", process.is_dead());
    }

    #[test]
    fn a_hidden_process_is_not_dead_and_one_that_is_gone_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        // The other user may not be able to come to where this binary lies.
        let exe = folder.path().join("exe");
        fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
        let told = |pid: u32| {
            let script = "mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups \
                          \"$0\" --exact process::tests::hidden --nocapture";
            let mut command = Command::new("unshare");
            let output = command.args(["--mount", "sh", "-c", script]).arg(&exe).env(HIDDEN, pid.to_string()).output();
            let output = output.unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let told = text.lines().find_map(|line| Some(line.split_once("told: ")?.1.to_owned()));
            told.unwrap_or_else(|| panic!("{text}{} (root is needed)", String::from_utf8_lossy(&output.stderr)))
        };
        assert_eq!(told(std::process::id()), "seen false, dead false");
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(told(child.id()), "seen false, dead true");
    }

    #[test]
    fn only_a_gone_process_of_this_boot_is_dead() {
        let me = Process::current();
        assert!(!me.boot.is_empty() && me.start > 0);
        assert!(!me.is_dead());
        assert!(Process { start: me.start + 1, ..me.clone() }.is_dead(), "the number was given to another process");
        assert!(!Process { start: 0, ..me.clone() }.is_dead(), "it is not known which process had the number");
        assert!(!Process { start: 0, pid: u32::MAX >> 1, ..me.clone() }.is_dead());
        assert!(!Process { boot: "elsewhere".into(), start: 1, ..me.clone() }.is_dead());
        assert!(!Process { boot: String::new(), start: 1, ..me }.is_dead());
    }
}
