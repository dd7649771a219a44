//! Backups to an S3 server that end in the middle: killed at any time, or because the server is gone.

use super::{MIB, has, home_behind, restores, s3::wait_for};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use wherry_tests::faulty_s3::{Fault, FaultyS3, Rule};
use wherry_tests::home::Home;
use wherry_tests::seaweed::{Seaweed, variables_for};
use wherry_tests::small::{noise, splitmix};

/// Between `least` and `most`, each order of magnitude as often.
fn moment(state: &mut u64, least: Duration, most: Duration) -> Duration {
    let share = (splitmix(state) >> 11) as f64 / (1u64 << 53) as f64;
    least.mul_f64((most.as_secs_f64() / least.as_secs_f64()).powf(share))
}

#[test]
fn a_backup_to_s3_killed_at_any_time_loses_nothing_acknowledged() {
    let (proxy, home) = home_behind("killed");
    home.run(&["init", "-q"]).ok();
    let mut state = 7;
    let mut disk = noise(40, 48 * MIB);
    home.write("disk", &disk);
    let args = ["backup", "disk", "--name", "vm", "--memory", "64M", "-q"];
    home.run(&args).ok();
    // Each round has other bytes to send, at a pace at which sending takes long, whatever the machine.
    proxy.pace(4 << 20);
    let change = |disk: &mut Vec<u8>, round: u64| {
        let at = round as usize % 32 * MIB;
        disk[at..at + 16 * MIB].copy_from_slice(&noise(100 + round, 16 * MIB));
        home.write("disk", &disk);
    };
    // How long it takes on this machine until the first pack is under way, and until all is done.
    change(&mut disk, 0);
    let start = Instant::now();
    let came = proxy.came("PUT", "/packs/");
    let mut running = home.spawn(&args);
    running.until("a pack under way", || proxy.came("PUT", "/packs/") > came);
    let first = start.elapsed();
    running.end().ok();
    let whole = start.elapsed();
    println!("the first pack is under way after {first:.3?}, all is done after {whole:.3?}");
    let (mut snapshots, mut hits) = (2, Vec::new());
    for round in 1..=12 {
        change(&mut disk, round);
        let came = proxy.came("PUT", "/sess/");
        // Every other one at any time; the others while an upload is surely under way, the first pack's or the second's.
        let (after, running) = if round % 2 == 0 {
            let after = moment(&mut state, first / 4, whole);
            let running = home.spawn(&args);
            std::thread::sleep(after);
            (after, running)
        } else {
            let (skip, start) = (round as usize / 2 % 2, Instant::now());
            let packs = proxy.came("PUT", "/packs/");
            proxy.inject(Rule { skip: skip as u32, ..Rule::every("PUT", "/packs/", Fault::Hold) });
            let mut running = home.spawn(&args);
            running.until("a pack that is held", || proxy.came("PUT", "/packs/") > packs + skip);
            std::thread::sleep(moment(&mut state, Duration::from_millis(1), Duration::from_millis(300)));
            (start.elapsed(), running)
        };
        let (open, begun) = (proxy.open("PUT", "/packs/"), proxy.came("PUT", "/sess/") > came);
        let ended = running.kill();
        proxy.heal();
        proxy.release();
        // What it had handed to the system arrives still: the next round must not take it for its own.
        wait_for(|| proxy.open("PUT", "") == 0);
        let now = home.snapshots();
        let hit = match (ended, now > snapshots, open, begun) {
            (true, ..) => "it had ended".to_owned(),
            (false, true, ..) => "after the commit".to_owned(),
            (false, false, 0, true) => "between two uploads".to_owned(),
            (false, false, 0, false) => "before the session".to_owned(),
            (false, false, open, _) => format!("a running upload, {open} packs under way"),
        };
        println!("round {round}: killed after {after:.3?} of {whole:.3?}: {hit}");
        hits.push(hit);
        assert!(now == snapshots + 1 || (now == snapshots && !ended), "round {round}: {snapshots} then {now}");
        snapshots = now;
    }
    let running = hits.iter().filter(|hit| hit.starts_with("a running upload")).count();
    assert!(2 * running >= hits.len(), "{hits:?}");
    proxy.pace(0);
    home.run(&args).ok();
    assert_eq!(home.snapshots(), snapshots + 1);
    home.run(&["check", "--read-data"]).ok();
    restores(&home, "latest", &disk);
}

#[test]
fn what_a_killed_run_stored_on_s3_is_not_sent_again() {
    let (proxy, home) = home_behind("resumed");
    home.run(&["init", "-q"]).ok();
    let size = 128 * MIB;
    let mut disk = noise(50, size);
    home.write("disk", &disk);
    let args = ["backup", "disk", "--name", "vm", "--memory", "64M"];
    // Held at half, until it is killed: whatever the machine, half is stored, and no more.
    let pack = 8 * MIB;
    let half = (size / pack / 2) as u32;
    proxy.inject(Rule { skip: half, ..Rule::every("PUT", "/packs/", Fault::Hold) });
    let mut running = home.spawn(&args);
    let stored = || proxy.came("PUT", "/packs/") - proxy.open("PUT", "/packs/");
    running.until("half is stored", || stored() >= half as usize && proxy.open("PUT", "/packs/") > 0);
    let under_way = proxy.open("PUT", "/packs/") as u64 * pack as u64;
    assert!(!running.kill());
    assert_eq!(home.snapshots(), 0);
    proxy.heal();
    disk[..MIB].copy_from_slice(&noise(51, MIB));
    disk[size - MIB..].copy_from_slice(&noise(52, MIB));
    home.write("disk", &disk);
    let report = home.run(&[&args[..], &["--json", "-q"]].concat()).ok().json();
    assert_eq!(report["resumed"], true);
    let (both, stored) = (proxy.bytes("PUT", "/packs/"), report["stored"].as_u64().unwrap());
    println!("{both} bytes sent by both, {stored} by the second, {under_way} under way when it was killed");
    assert!(both <= size as u64 * 105 / 100 + under_way, "{both} bytes were sent for {size}");
    assert!(stored <= size as u64 * 55 / 100 + under_way, "{stored} bytes were stored again");
    restores(&home, "latest", &disk);
    home.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_server_that_is_gone_ends_the_command_and_when_it_is_back_the_same_command_goes_on() {
    let mut server = Seaweed::start();
    let proxy = FaultyS3::start(server.port());
    let home = Home::new().at("s3://unplugged/x", &variables_for(proxy.port()));
    home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
    let kept = noise(60, MIB + 5);
    let id = home.backup("kept", &kept);
    let disk = noise(61, 64 * MIB);
    home.write("disk", &disk);
    let direct = server.endpoint();
    let nobody_answers = || {
        let line = home.run(&["snapshots", "--retry-for", "1s", "--s3-endpoint", &direct]).ends(1);
        has(&line, &["gave up after", "onnection refused", "s3://unplugged/x"]);
    };
    // The next packs wait before the server while its plug is pulled.
    let backup = ["backup", "disk", "--name", "vm", "--memory", "64M"];
    proxy.inject(Rule { skip: 3, ..Rule::every("PUT", "/packs/", Fault::Hold) });
    let before = proxy.came("PUT", "/packs/");
    let mut running = home.spawn(&[&backup[..], &["--retry-for", "2s"]].concat());
    let stored = || proxy.came("PUT", "/packs/") - proxy.open("PUT", "/packs/") - before;
    running.until("packs are stored and others under way", || stored() == 3 && proxy.open("PUT", "/packs/") > 0);
    server.kill();
    proxy.heal();
    proxy.release();
    let start = Instant::now();
    has(&running.end().ends(1), &["gave up after", "s3://unplugged/x", "packs/"]);
    println!("the backup ended {:?} after its server", start.elapsed());
    nobody_answers();
    server.start_again();
    assert_eq!(home.snapshots(), 1);
    let report = home.run(&[&backup[..], &["--json"]].concat()).ok().json();
    assert_eq!(report["resumed"], true);
    assert!(report["known"].as_u64().unwrap() >= 16 * MIB as u64, "what had been stored was not used: {report}");

    let restore = ["restore", "latest:vm", "out"];
    proxy.inject(Rule { skip: 3, ..Rule::every("GET", "/packs/", Fault::Hold) });
    let mut running = home.spawn(&[&restore[..], &["--memory", "64M", "--retry-for", "2s"]].concat());
    let written = || fs::metadata(home.path("out")).map_or(0, |m| m.blocks());
    running.until("something is written and more under way", || written() > 0 && proxy.open("GET", "/packs/") > 0);
    server.kill();
    proxy.heal();
    proxy.release();
    let start = Instant::now();
    has(&running.end().ends(1), &["gave up after", "s3://unplugged/x", "packs/"]);
    println!("the restore ended {:?} after its server", start.elapsed());
    nobody_answers();
    server.start_again();
    assert_eq!(home.run(&[&restore[..], &["--json"]].concat()).ok().json()["resumed"], true);
    assert!(fs::read(home.path("out")).unwrap() == disk);
    restores(&home, &id, &kept);
    home.run(&["check", "--read-data"]).ok();
}
