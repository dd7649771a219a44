//! Where `latest` leads after a clock that was wrong.

use super::*;

/// A clock that was ahead, or behind: what may be older is not given for the newest.
#[test]
fn latest_leads_nowhere_while_it_is_not_certain_which_one_it_is() {
    let (repository, clock) = with_clock();
    let (day, look) = (Duration::from_secs(86_400), Duration::from_secs(60));
    clock.advance(day);
    let ahead = backup(&repository, "vm", &[1]).unwrap();
    clock.put_back(day);
    let (_, fs) = mounted(&repository);
    let disk = |of: &Snapshot| walk(&fs, &format!("by-id/{}/disk.raw", of.id));
    let latest = || walk(&fs, "by-volume/vm/latest/disk.raw");
    // The only one is the newest.
    assert_eq!(latest(), disk(&ahead));
    let right = backup(&repository, "vm", &[2]).unwrap();
    clock.advance(look);
    assert_eq!(latest(), Err(Fault::NoEntry));
    let link = fs.lookup(walk(&fs, "by-volume/vm").unwrap(), b"latest").unwrap();
    assert_eq!((link.kind, &fs.read_link(link.number).unwrap()[..]), (Kind::Link, &b"latest-is-not-certain"[..]));
    // All are there by their ids and times, and it is the same for whoever mounts now.
    let read = |of: &Snapshot| read(&fs, fs.open(disk(of).unwrap()).unwrap(), 0..9).unwrap();
    assert_eq!((read(&ahead), read(&right)), (vec![1], vec![2]));
    assert_eq!(names(&fs, "by-volume/vm").len(), 3);
    let (_, again) = mounted(&repository);
    assert_eq!(walk(&again, "by-volume/vm/latest/disk.raw"), Err(Fault::NoEntry));
    // Its time has come, and the other one was built upon it.
    clock.advance(2 * day);
    assert_eq!(right.record.parent, Some(ahead.id));
    assert_eq!(latest(), Err(Fault::NoEntry));
    let newest = backup(&repository, "vm", &[3]).unwrap();
    clock.advance(look);
    assert_eq!(latest(), disk(&newest));
}
