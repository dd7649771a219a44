//! What the tests' servers share: a process that cannot outlive the test, and free ports.

use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// A running server; dropped, it is killed (SIGKILL) and has ended.
#[derive(Debug)]
pub struct Process {
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
    pid: Pid,
}

impl Process {
    /// Starts what `arguments` says, from a thread that lives as long: whatever ends this process ends the server.
    ///
    /// # Panics
    /// When setpriv cannot be run.
    pub fn start(arguments: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        arguments(&mut command);
        let (stop, stopped) = channel::<()>();
        let (started, has_started) = channel();
        let keeper = std::thread::spawn(move || {
            let mut server = command.spawn().expect("setpriv (util-linux) starts the server");
            started.send(Pid::from_child(&server)).expect("the test waits for this");
            let _ = stopped.recv(); // an error says as well that nobody needs it any more
            server.kill().expect("the server can be killed");
            server.wait().expect("the server has ended");
        });
        let pid = has_started.recv().expect("the server's thread runs");
        Self { stop: Some(stop), keeper: Some(keeper), pid }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn send(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the server can be sent a signal");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// Ports of 127.0.0.1 that were free a moment ago, all different.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}
