//! A restore that a signal ends before it has begun to write.

use super::{PATIENCE, UNIT, disk, file, has, names, same, wait};
use crate::harness::Home;
use rustix::process::Signal;
use std::fs;
use wherry_tests::faulty_s3::{Fault, FaultyS3, Rule};
use wherry_tests::seaweed::{Seaweed, variables_for};

const SIZE: usize = 8 * UNIT;

#[test]
fn a_signal_that_comes_before_the_first_write_leaves_the_target_as_it_is() {
    let server = Seaweed::start();
    let proxy = FaultyS3::start(server.port());
    let home = Home::new().at("s3://cancelled/x", &variables_for(proxy.port()));
    home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
    let id = home.backup("vm", &disk(1, SIZE));
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        // Longer than the disk: a target that is opened to be written is cut.
        let full = file(&home, "full", SIZE + UNIT, 0x5A);
        let (before, modified) = (names(&home), fs::metadata(&full).unwrap().modified().unwrap());
        for args in [&["full", "--force"][..], &["full", "--delta"], &["missing"]] {
            // It is asked to end while it notes in the repository what it is going to read.
            let holds = || proxy.hits().values().sum::<u64>();
            let held = holds();
            proxy.inject(Rule { method: "PUT", path: "/sess/", skip: 0, times: 1, fault: Fault::Hold });
            let mut restore = home.spawn(&[&["restore", id.as_str()], args].concat());
            wait("the session to be made", || (holds() > held).then_some(()));
            restore.send(signal);
            restore.says("another one ends at once");
            proxy.release();
            let line = restore.end_within(PATIENCE).ends(code);
            has(&line, &["run the same command again"]);
            same(&fs::read(&full).unwrap(), &vec![0x5A; SIZE + UNIT], "the target");
            assert_eq!(fs::metadata(&full).unwrap().modified().unwrap(), modified, "{args:?}");
            assert_eq!(names(&home), before, "{args:?}");
        }
    }
}
