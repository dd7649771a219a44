//! Signals that end a mount, and a terminal that goes.

use super::*;

#[test]
fn a_signal_unmounts() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        place.backup("vm", &[1]);
        let mount = place.mount(&[]);
        mount.signal(signal);
        mount.ended();
    }
}

#[test]
fn a_terminal_that_goes_takes_a_mount_in_the_foreground_with_it_and_no_other() {
    let place = Place::new();
    place.backup("vm", &[1]);
    let mount = place.mount_here();
    mount.signal(Signal::HUP);
    // Who looks into it meanwhile uses it.
    wait("its end", || !is_mounted(&mount.mnt));
    assert_eq!(fs::read_dir(&mount.mnt).unwrap().count(), 0);
    drop(mount);

    let survives = |mount: &Path, signal: &dyn Fn(Signal)| {
        // What it would do it does within a tick.
        for _ in 0..3 {
            signal(Signal::HUP);
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        assert_eq!(fs::read(latest(mount, "vm")).unwrap(), [1]);
    };
    let mount = place.mount(&[]);
    survives(&mount.mnt, &|signal| mount.signal(signal));
    mount.signal(Signal::TERM);
    mount.ended();

    let mut command = Command::new("nohup");
    let plain = place.command(&[]);
    command.arg(plain.get_program()).args(["mount", place.mnt().to_str().unwrap(), "--foreground"]);
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("WHERRY_PASSWORD");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut mount = Foreground { mnt: place.mnt(), child, lines: channel().1 };
    wait("the mount", || is_mounted(&mount.mnt));
    survives(&mount.mnt, &|signal| mount.signal(signal));
    mount.signal(Signal::TERM);
    assert_eq!(mount.child.wait().unwrap().code(), Some(0));
}
