//! Who runs a session, and whether that process is still there.

use crate::format::records::Process;
use std::fs;

impl Process {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { host: host_name(), boot: boot(), pid, start: start_time(pid).unwrap_or_default() }
    }

    /// True only when it certainly runs no more: same machine, same boot, same process namespace, and no process of
    /// that id with that start time.
    pub fn is_dead(&self) -> bool {
        !self.boot.is_empty() && self.boot == boot() && start_time(self.pid) != Some(self.start)
    }
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

/// Field 22 of `/proc/<pid>/stat`: clock ticks since boot. The name in field 2 may hold anything but ends at the last
/// parenthesis.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let state = rest.split_whitespace().next()?;
    // A zombie holds its number but does nothing any more.
    if state == "Z" || state == "X" {
        return None;
    }
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gone_process_of_this_boot_is_dead() {
        let me = Process::current();
        assert!(!me.boot.is_empty() && me.start > 0);
        assert!(!me.is_dead());
        assert!(Process { start: me.start + 1, ..me.clone() }.is_dead(), "the number was given to another process");
        assert!(!Process { boot: "elsewhere".into(), start: 1, ..me.clone() }.is_dead());
        assert!(!Process { boot: String::new(), start: 1, ..me }.is_dead());
    }
}
