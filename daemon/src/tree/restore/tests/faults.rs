//! The order of the steps, and what is left when a restore ends at any of them.

use super::super::{Options, Overwrite, Restorer, Step, Target, is_temporary};
use super::feeder::{Node, acl, capability, restore};
use super::kinds::everything;
use super::lister::{Facts, Scratch, assert_holds, below, list};
use crate::tree::inode::InodeKind;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use wherry_repo::format::tree::InodeFlags;
use wherry_repo::{Error, ErrorKind};

type Taken = Vec<(Step, Vec<u8>)>;

/// The steps of a restore, in their order.
fn steps(target: &Path, tree: &Node, options: Options) -> Taken {
    let taken = Arc::new(Mutex::new(Taken::new()));
    let record = Arc::clone(&taken);
    let watch = move |step, path: &[u8]| {
        record.lock().push((step, path.to_vec()));
        Ok(())
    };
    restore(target, tree, &Options { steps: Some(Arc::new(watch)), ..options }).unwrap();
    std::mem::take(&mut *taken.lock())
}

fn of(taken: &[(Step, Vec<u8>)], path: &str) -> Vec<(usize, Step)> {
    let steps = taken.iter().enumerate().filter(|(_, (_, at))| at == path.as_bytes());
    steps.map(|(n, (step, _))| (n, *step)).collect()
}

#[test]
fn an_inode_gets_all_it_has_in_the_right_order() {
    let scratch = Scratch::new();
    let rich = |node: Node| node.attribute("user.a", "a").owned(1, 2).mode(0o770).flags(5);
    let file = rich(Node::sparse(2 << 20, &[(0, b"data")]).attribute("security.capability", capability()));
    let file = file.attribute("system.posix_acl_access", acl(7, (3, 7), 7, 7, 0));
    let inside = [("a", file), ("b", Node::link("c"))];
    let folder = rich(Node::folder(inside)).attribute("system.posix_acl_default", acl(7, (3, 7), 7, 7, 0));
    let tree = Node::folder([("folder", folder)]);
    let taken = steps(&scratch.at("target"), &tree, Options::new(1));

    // Where `syncfs` is not relied upon each file is written out, too.
    let kinds = |path: &str| {
        of(&taken, path).into_iter().map(|(_, step)| step).filter(|step| *step != Step::Sync).collect::<Vec<_>>()
    };
    let attributes = [Step::Attribute, Step::Attribute, Step::Mode, Step::Acl, Step::NoDump, Step::Times];
    let data = [Step::Create, Step::Write, Step::Write, Step::Truncate, Step::Owner];
    assert_eq!(kinds("folder/a"), [&data[..], &attributes, &[Step::Rename, Step::Flags]].concat());
    assert_eq!(kinds("folder/b"), [Step::Create, Step::Owner, Step::Times, Step::Rename]);
    assert_eq!(kinds("folder"), [&[Step::Folder, Step::Owner], &attributes[1..], &[Step::Flags]].concat());

    let last = |path: &str, step| of(&taken, path).iter().rfind(|(_, s)| *s == step).map(|(n, _)| *n).unwrap();
    for path in ["folder/a", "folder/b"] {
        let (times, named) = (last(path, Step::Times), last(path, Step::Rename));
        let synced = taken[times..named].iter().any(|(step, _)| *step == Step::Sync);
        assert!(synced, "{path} has its name before it is on the disk");
        assert!(named < last("folder", Step::Owner), "a directory was finished before {path}");
    }
    assert!(last("folder", Step::Times) < last("", Step::Owner), "a directory before what is in it");
    assert_eq!(taken.last().unwrap().0, Step::Sync, "the names are not on the disk");
}

/// A hook that lets so many steps happen and no more: also none to clean up, as of a process that was killed.
fn killed_after(steps: usize) -> Options {
    let taken = AtomicUsize::new(0);
    let watch = move |_, _: &[u8]| match taken.fetch_add(1, Ordering::SeqCst) < steps {
        true => Ok(()),
        false => Err(io::Error::other("killed")),
    };
    Options { steps: Some(Arc::new(watch)), ..Options::new(0xabc) }
}

#[test]
fn ended_at_any_step_no_name_is_wrong_and_the_same_again_goes_on() {
    let file = Node::file("data").owned(3, 4).mode(0o4755).attribute("security.capability", capability());
    let file = file.attribute("system.posix_acl_access", acl(7, (3, 5), 5, 5, 5)).flags(InodeFlags::IMMUTABLE);
    let inside = [("a", file), ("b", Node::sparse(9000, &[(4096, b"x")]).linked()), ("c", Node::link("d"))];
    let last =
        [("again", Node::sparse(9000, &[(4096, b"x")]).again("folder/b")), ("fifo", Node::other(InodeKind::Fifo))];
    let folder = Node::folder(inside).mode(0o500).flags(InodeFlags::APPEND | InodeFlags::NO_DUMP);
    end_at(&Node::folder([("folder", folder), ("last", Node::folder(last))]), 1);
}

#[test]
fn ended_at_some_step_of_many() {
    end_at(&everything(), 29);
}

/// Ends a restore at each step, or at each `every`th, looks at what is there, and does it again.
fn end_at(tree: &Node, every: usize) {
    let scratch = Scratch::new();
    let whole = scratch.at("whole");
    let all = steps(&whole, tree, Options::new(0xabc)).len();
    let wanted = list(&whole);
    assert!(all > 40, "{all} steps");
    for end in (0..all).step_by(every) {
        let target = scratch.at(&format!("killed {end}"));
        let options = killed_after(end);
        let error = restore(&target, tree, &options).unwrap_err();
        assert!(format!("{error:#}").contains("killed"), "step {end}: {error:#}");
        let mut temporary = 0;
        for (path, facts) in list(&target) {
            let name = path.rsplit(|&b| b == b'/').next().unwrap();
            if name.starts_with(b".wherry-0000000000000abc-") {
                temporary += 1;
                continue;
            }
            let wanted = &wanted[&path];
            assert_eq!(facts.kind, wanted.kind, "step {end}: {}", path.escape_ascii());
            if facts.kind != InodeKind::Folder {
                let facts = Facts { flags: 0, first: Vec::new(), ..facts };
                let wanted = Facts { flags: 0, first: Vec::new(), ..wanted.clone() };
                assert_eq!(facts, wanted, "step {end}: {}", path.escape_ascii());
            }
        }
        let again = Options { steps: None, resume: true, trust_names: true, ..options };
        let report = restore(&target, tree, &again).unwrap();
        assert_eq!(report.refused.list.first, [], "step {end}, {temporary} temporary names");
        let there = list(&target);
        let names = |listing: &BTreeMap<Vec<u8>, _>| listing.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&there), names(&wanted), "step {end}");
        for (path, facts) in &wanted {
            assert_eq!(&there[path], facts, "step {end}: {}", path.escape_ascii());
        }
    }
}

#[test]
fn what_fails_leaves_no_temporary_names() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    let tree = Node::folder([("a", Node::file("a")), ("b", Node::file("b")), ("c", Node::link("c"))]);
    let full = |step, path: &[u8]| match (step, path) {
        (Step::Write, b"b") => Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())),
        _ => Ok(()),
    };
    let options = Options { steps: Some(Arc::new(full)), ..Options::new(1) };
    let error = restore(&target, &tree, &options).unwrap_err();
    assert!(format!("{error:#}").starts_with("b: its data: No space left"), "{error:#}");
    assert_eq!(list(&target).len(), 1);
}

#[test]
fn temporary_names_of_other_runs_stay() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    let tree = Node::folder([("folder", Node::folder([("a", Node::file("a"))]))]);
    restore(&target, &tree, &Options::new(1)).unwrap();
    let other = below(&target, b"folder/.wherry-0000000000000002-0");
    let own = below(&target, b"folder/.wherry-0000000000000001-99");
    for path in [&other, &own] {
        std::fs::write(path, "half").unwrap();
    }
    let options = Options { resume: true, overwrite: Overwrite::Always, ..Options::new(1) };
    restore(&target, &tree, &options).unwrap();
    assert!(other.exists() && !own.exists());
    std::fs::remove_file(other).unwrap();
    restore(&target, &tree, &options).unwrap();
    assert_holds(&target, &tree);
}

/// Another restore that was not kept out.
#[test]
fn what_has_taken_a_temporary_name_does_not_get_the_final_one() {
    for theirs in [None, Some("theirs")] {
        let scratch = Scratch::new();
        let target = scratch.at("target");
        let at = target.clone();
        // The number of the file goes to the next one that is made.
        let meddle = move |step, path: &[u8]| {
            if (step, path) == (Step::Rename, &b"a"[..]) {
                let temporary = std::fs::read_dir(&at)?.next().unwrap()?.path();
                std::fs::remove_file(&temporary)?;
                theirs.map_or(Ok(()), |theirs| std::fs::write(&temporary, theirs))?;
            }
            Ok(())
        };
        let tree = Node::folder([("a", Node::file("ours"))]);
        let options = Options { steps: Some(Arc::new(meddle)), ..Options::new(1) };
        let error = restore(&target, &tree, &options).unwrap_err();
        assert_eq!(error.downcast_ref::<Error>().map(Error::kind), Some(ErrorKind::Busy), "{error:#}");
        let names: Vec<_> = std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names.len(), usize::from(theirs.is_some()), "{names:?}");
        assert!(!target.join("a").exists() && names.iter().all(|path| std::fs::read(path).unwrap() == b"theirs"));
    }
}

#[test]
fn no_two_restores_have_a_temporary_name_in_common() {
    let scratch = Scratch::new();
    let names = || {
        let target = scratch.at("target");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (record, at) = (Arc::clone(&seen), target.clone());
        let watch = move |step, _: &[u8]| {
            if step == Step::Sync {
                record.lock().extend(std::fs::read_dir(&at)?.map(|entry| entry.unwrap().file_name()));
            }
            Ok(())
        };
        let tree = Node::folder([("a", Node::file("a")), ("b", Node::link("c"))]);
        let options = Options { steps: Some(Arc::new(watch)), ..Options::new(1) };
        restore(&target, &tree, &options).unwrap();
        std::fs::remove_dir_all(&target).unwrap();
        let mut names = std::mem::take(&mut *seen.lock());
        names.retain(|name| is_temporary(1, name.as_encoded_bytes()));
        // There may have been several steps that were looked at.
        names.sort();
        names.dedup();
        names
    };
    let (first, second) = (names(), names());
    assert_eq!((first.len(), second.len()), (2, 2), "{first:?} {second:?}");
    assert!(!first.iter().any(|name| second.contains(name)), "{first:?} {second:?}");
}

#[test]
fn a_target_is_one_restores_until_it_is_gone() {
    let scratch = Scratch::new();
    let target = scratch.at("target");
    let first = Target::open(&target).unwrap();
    let held = first.hold().unwrap();
    let mut restorer = Restorer::start(first, Options::new(1)).unwrap();
    let node = Node::file("a");
    let begun = restorer.file(&node.item(b"a")).unwrap();
    let busy = || Target::open(&target).err().map(|e| e.kind());
    assert_eq!(busy(), Some(ErrorKind::Busy));
    assert!(Target::there(&target).unwrap().is_some(), "who changes nothing is let in");
    drop(begun);
    restorer.finish().unwrap();
    assert_eq!(busy(), Some(ErrorKind::Busy), "until its marker is away");
    drop(held);
    assert_eq!(busy(), None);
    // One that failed.
    let restorer = Restorer::start(Target::open(&target).unwrap(), Options::new(1)).unwrap();
    assert_eq!(busy(), Some(ErrorKind::Busy));
    drop(restorer);
    assert_eq!(busy(), None);
}
