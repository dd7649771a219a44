//! The checks, each on keys of its own.

use super::{Need, Options, Place, race, wrong};
use crate::storage::Key;
use crate::{ErrorKind, Result};
use bytes::Bytes;
use std::fmt::Debug;
use std::time::Duration;

type Run = fn(&Place, &Options) -> Result<()>;

/// Names are shown to users and do not change.
pub(super) const ALL: &[(&str, Need, Run)] = &[
    ("create", Need::Basic, create),
    ("absent", Need::Basic, absent),
    ("ranges", Need::Basic, ranges),
    ("overwrite", Need::Basic, overwrite),
    ("delete", Need::Basic, delete),
    ("names", Need::Basic, names),
    ("prefixes", Need::Basic, prefixes),
    ("large", Need::Basic, large),
    ("pages", Need::Basic, pages),
    ("modified", Need::Basic, modified),
    ("create-if-absent", Need::CreateIfAbsent, race::small),
    ("create-if-absent-large", Need::CreateIfAbsent, race::large),
    ("list-after-write", Need::ListAfterWrite, list_after_write),
];

fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<()> {
    if found == expected { Ok(()) } else { Err(wrong(format!("{what}: {found:?} instead of {expected:?}"))) }
}

fn fails<T: Debug>(what: &str, outcome: Result<T>, kind: ErrorKind) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(error.context(format!("{what} should be {kind:?}"))),
        Ok(_) => Err(wrong(format!("{what} should be {kind:?}, but succeeded"))),
    }
}

/// Asked for, not there; made; there for everybody at once, whatever was answered before.
fn create(place: &Place, _: &Options) -> Result<()> {
    let key = place.key("create/a")?;
    fails("a get before the create", place.b.get(&key), ErrorKind::NotFound)?;
    place.a.create(&key, Bytes::from_static(b"body"))?;
    same("a get after the create", place.b.get(&key)?, Bytes::from_static(b"body"))?;
    let listed = place.b.head(&key)?;
    same("head", (listed.key, listed.size), (key.clone(), 4))?;
    fails("a second create", place.b.create(&key, Bytes::from_static(b"other")), ErrorKind::Conflict)?;
    same("a get after the second create", place.a.get(&key)?, Bytes::from_static(b"body"))
}

fn absent(place: &Place, _: &Options) -> Result<()> {
    let key = place.key("absent/a")?;
    fails("a get of nothing", place.a.get(&key), ErrorKind::NotFound)?;
    fails("a range of nothing", place.a.get_range(&key, 0..1), ErrorKind::NotFound)?;
    fails("an empty range of nothing", place.a.get_range(&key, 0..0), ErrorKind::NotFound)?;
    fails("a tail of nothing", place.a.get_tail(&key, 1), ErrorKind::NotFound)?;
    fails("the size of nothing", place.a.head(&key), ErrorKind::NotFound)?;
    same("a listing of nothing", place.list(&place.prefix("absent")?)?, vec![])
}

fn ranges(place: &Place, _: &Options) -> Result<()> {
    for len in [0, 1, 4096, (1 << 20) + 1] {
        let key = place.key(&format!("ranges/{len}"))?;
        let body = race::body_of(0, 0, len);
        place.a.create(&key, body.clone())?;
        if place.b.get(&key)? != body {
            return Err(wrong(format!("{len} bytes were written and others came back")));
        }
        let end = len as u64;
        for (from, to) in [(0, 0), (0, 1), (0, end), (end / 3, end / 2), (end.saturating_sub(1), end), (end, end)] {
            if to > end {
                continue;
            }
            let found = place.b.get_range(&key, from..to)?;
            if found != body.slice(from as usize..to as usize) {
                return Err(wrong(format!("bytes {from}..{to} of {len} are not what was written")));
            }
        }
        for range in [end..end + 1, 0..end + 1, end + 10..end + 20] {
            fails(&format!("{range:?} of {len} bytes"), place.b.get_range(&key, range), ErrorKind::Corrupt)?;
        }
        for ask in [0, 1, 100, end, end + 1, 2 * end] {
            let tail = place.b.get_tail(&key, ask)?;
            let from = end.saturating_sub(ask) as usize;
            if tail.size != end || tail.bytes != body.slice(from..) {
                return Err(wrong(format!("the last {ask} bytes of {len} are not what was written")));
            }
        }
    }
    Ok(())
}

fn overwrite(place: &Place, _: &Options) -> Result<()> {
    let key = place.key("overwrite/a")?;
    for body in [&b"first"[..], b"the second, longer", b"", b"4"] {
        place.a.overwrite(&key, Bytes::from_static(body))?;
        same("a get after an overwrite", place.b.get(&key)?, Bytes::from_static(body))?;
        same("the size after an overwrite", place.b.head(&key)?.size, body.len() as u64)?;
    }
    fails("a create of what was overwritten", place.a.create(&key, Bytes::new()), ErrorKind::Conflict)
}

fn delete(place: &Place, _: &Options) -> Result<()> {
    let key = place.make("delete/a", b"1")?;
    place.a.delete(&key)?;
    fails("a get of what was deleted", place.b.get(&key), ErrorKind::NotFound)?;
    same("a listing of what was deleted", place.list(&place.prefix("delete")?)?, vec![])?;
    place.b.delete(&key)?;
    place.a.delete(&place.key("delete/never/was")?)?;
    place.a.create(&key, Bytes::from_static(b"2"))?;
    same("a get of what was made again", place.b.get(&key)?, Bytes::from_static(b"2"))
}

fn names(place: &Place, _: &Options) -> Result<()> {
    let start = place.prefix("names")?.len();
    let long = "x".repeat(199 - start);
    let deep = format!("{}x", "a/".repeat(20));
    let mut keys = Vec::new();
    for name in [long.as_str(), &deep, "0", "a-b.c", "a-b", "...a", "-"] {
        keys.push((place.make(&format!("names/{name}"), b"1")?, 1));
    }
    keys.sort();
    same("a listing of unusual names", place.list(&place.prefix("names")?)?, keys.clone())?;
    keys.iter().try_for_each(|(key, _)| same("a get by an unusual name", place.b.get(key)?, Bytes::from_static(b"1")))
}

fn prefixes(place: &Place, _: &Options) -> Result<()> {
    let inside = place.make("prefixes/ab/x", b"1")?;
    let below = place.make("prefixes/ab/c/y", b"12")?;
    place.make("prefixes/abc/z", b"1")?;
    place.make("prefixes/ab.d", b"1")?;
    let listed = place.list(&place.prefix("prefixes/ab")?)?;
    same("a listing by prefix", listed, vec![(below, 2), (inside, 1)])?;
    same("a listing of a missing prefix", place.list(&place.prefix("prefixes/a")?)?, vec![])
}

fn large(place: &Place, options: &Options) -> Result<()> {
    let key = place.key("large/a")?;
    let body = race::body_of(1, 1, options.large + 13);
    place.a.create(&key, body.clone())?;
    if place.b.get(&key)? == body { Ok(()) } else { Err(wrong("a large body came back changed")) }
}

/// More objects than a listing shows at once.
fn pages(place: &Place, options: &Options) -> Result<()> {
    const THREADS: u32 = 8;
    let make = |first: u32| -> Result<Vec<(Key, u64)>> {
        let mut made = Vec::new();
        for n in (first..options.objects).step_by(THREADS as usize) {
            made.push((place.make(&format!("pages/{:02x}/{n}", n % 7), b"1")?, 1));
        }
        Ok(made)
    };
    let made: Vec<Result<Vec<(Key, u64)>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || make(n))).collect();
        let joined = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(wrong("a thread panicked"))));
        joined.collect()
    });
    let mut made = made.into_iter().collect::<Result<Vec<_>>>()?.concat();
    made.sort();
    let found = place.list(&place.prefix("pages")?)?;
    if found == made {
        return Ok(());
    }
    Err(wrong(format!("a listing of {} objects showed {}, or others", made.len(), found.len())))
}

/// A heartbeat is an overwrite that others see as a younger object.
fn modified(place: &Place, _: &Options) -> Result<()> {
    const YEAR_2000: i64 = 946_684_800;
    let key = place.make("modified/a", b"1")?;
    let first = place.b.head(&key)?.modified;
    let mut listed = None;
    place.b.list(&place.prefix("modified")?, &mut |found| {
        listed = Some(found.modified.seconds());
        Ok(())
    })?;
    same("the time in a listing", listed, Some(first.seconds()))?;
    if first.seconds() < YEAR_2000 {
        return Err(wrong(format!("an object just written is from {} s after 1970", first.seconds())));
    }
    place.clock.sleep(Duration::from_millis(1100));
    place.a.overwrite(&key, Bytes::from_static(b"1"))?;
    let second = place.b.head(&key)?.modified;
    if second > first { Ok(()) } else { Err(wrong("an object that was overwritten a second later is no younger")) }
}

fn list_after_write(place: &Place, options: &Options) -> Result<()> {
    let prefix = place.prefix("list")?;
    let mut made = Vec::new();
    for round in 0..options.rounds {
        made.push((place.make(&format!("list/{round:08}"), b"123")?, 3));
        if place.list(&prefix)? != made {
            return Err(wrong(format!("a listing does not show what was just created (round {round})")));
        }
    }
    while let Some((key, _)) = made.pop() {
        place.a.delete(&key)?;
        if place.list(&prefix)? != made {
            return Err(wrong("a listing shows what was just deleted"));
        }
    }
    Ok(())
}
