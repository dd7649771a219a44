//! Small files, many at once over a ring: what is as it was seen, whole and quiet is read here. Any other file is left to
//! [`Shared::read_file`], so what is said of a file does not depend on the way it was read.

use super::read::{Data, Job, Read, Stamp, reaches};
use super::{Shared, Work};
use crate::tree::attributes::looked_alike;
use crate::tree::dir::beneath;
use crate::tree::extents::extents;
use crate::tree::inode::Inode;
use anyhow::Result;
use crossbeam_channel::Receiver;
use rustix::fd::AsFd;
use rustix::process::{Resource, getrlimit};
use std::ffi::CString;
use std::fs::File;
use std::sync::atomic::Ordering;
use wherry_block::{FileRing, ToOpen};
use wherry_repo::format::tree::MAX_SHARED;

/// Files that one worker reads at once, at most.
pub const BATCH: usize = 32;

/// How many files one of so many workers may read at once; 1: it needs no ring for that.
pub(super) fn depth(workers: usize) -> usize {
    depth_within(getrlimit(Resource::Nofile).current.unwrap_or(1024), workers)
}

/// Likewise, where the process may have so many descriptors: each file is one, and so may be its directory. An eighth of
/// them serves all workers.
fn depth_within(descriptors: u64, workers: usize) -> usize {
    (usize::try_from(descriptors).unwrap_or(usize::MAX) / 8 / (2 * workers)).clamp(1, BATCH)
}

/// Whether a file may be read with others: a small one, which is read whole.
pub(super) fn may(job: &Job) -> bool {
    (1..=MAX_SHARED).contains(&job.seen.size)
}

impl Shared<'_> {
    /// A ring for a worker thread; none where files are read one by one.
    pub(super) fn file_ring(&self) -> Option<FileRing> {
        match self.depth {
            0 => None,
            1 => {
                self.goes_without("this process may have too few descriptors (ulimit -n)");
                None
            }
            depth => match FileRing::open(depth) {
                Ok(ring) => {
                    self.rings.fetch_add(1, Ordering::Relaxed);
                    Some(ring)
                }
                Err(why) => {
                    self.goes_without(&why);
                    None
                }
            },
        }
    }

    /// Says once that a thread has no ring, or none any more: the others mostly have the same reason.
    pub(super) fn goes_without(&self, why: &str) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("a thread, maybe more, reads files one by one, it has no ring: {why}");
        }
    }

    /// Adds to a batch what waits and may be read with it, a worker's share at most. Gives back what came and may not.
    pub(super) fn gather(&self, jobs: &Receiver<Work>, batch: &mut Vec<Job>) -> Option<Work> {
        let most = (jobs.len() / self.workers + 1).min(self.depth);
        while batch.len() < most {
            match jobs.try_recv() {
                Ok(Work::Read(job)) if may(&job) => batch.push(*job),
                Ok(other) => return Some(other),
                Err(_) => return None,
            }
        }
        None
    }

    /// Reads files; without a result those that have to be read by themselves.
    pub(super) fn read_batch(&self, ring: &mut FileRing, batch: Vec<Job>) -> Result<Vec<(Job, Option<Read>)>> {
        let mut all: Vec<(Job, Option<Read>)> = batch.into_iter().map(|job| (job, None)).collect();
        let (mut numbers, mut names) = (Vec::new(), Vec::new());
        for (n, (job, _)) in all.iter().enumerate() {
            if let (Ok(dir), Ok(name)) = (job.dir.descriptor(), CString::new(job.name.as_slice())) {
                numbers.push(n);
                names.push(ToOpen { dir, name });
            }
        }
        let Some((first, _)) = all.first() else { return Ok(all) };
        let (flags, resolve) = beneath(first.dir.all_filesystems());
        let opened = numbers.into_iter().zip(ring.open_all(names, flags, resolve));
        let quiet = opened.filter_map(|(n, file)| {
            let file = File::from(file.ok()?);
            let stamp = unchanged(&file, &all[n].0.seen)?;
            Some((n, file, stamp))
        });
        let quiet: Vec<_> = quiet.collect();
        self.pay(quiet.iter().map(|(_, _, stamp)| stamp.size).sum())?;
        let wanted: Vec<_> = quiet.iter().map(|(_, file, stamp)| (file.as_fd(), stamp.size as usize)).collect();
        let read = ring.read_all(&wanted);
        for ((n, file, stamp), bytes) in quiet.into_iter().zip(read) {
            let dir = &all[n].0.dir;
            // The kernel says of FUSE that all came by a ring, also where less did.
            let ends_there = || dir.filesystem().is_local() || reaches(&file, 0..stamp.size).unwrap_or(false);
            if let Some(bytes) = bytes.ok().filter(|bytes| is_whole(&file, &stamp, bytes) && ends_there()) {
                let data = Data::Small(bytes);
                all[n].1 = Some(Read { stamp, unsettled: false, hole: 0, fresh: None, data });
            }
        }
        Ok(all)
    }
}

/// Whether these bytes are all of a file, which had this stamp before they were read.
fn is_whole(file: &File, stamp: &Stamp, bytes: &[u8]) -> bool {
    let settled = Stamp::of(file).is_ok_and(|after| after == *stamp);
    // One that is short has become shorter, or comes in parts.
    settled && bytes.len() as u64 == stamp.size
}

/// The stamp of a file that is the one that was seen, unchanged since, and has no holes.
fn unchanged(file: &File, seen: &Inode) -> Option<Stamp> {
    let stamp = Stamp::of(file).ok().filter(|stamp| *stamp == Stamp::seen(seen))?;
    if !looked_alike(file.as_fd(), seen).ok()? {
        return None;
    }
    let data = extents(file, 0..stamp.size).next()?.ok()?;
    (data == (0..stamp.size)).then_some(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::attributes::{Scratch, look_at_root};
    use std::os::unix::fs::FileExt;

    fn seen(file: &File) -> Inode {
        look_at_root(file.as_fd(), &mut Scratch::new()).unwrap().inode
    }

    #[test]
    fn only_what_is_as_it_was_seen_and_whole_is_read_with_others() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 100_000], 0).unwrap();
        let before = seen(&file);
        assert_eq!(unchanged(&file, &before), Some(Stamp::seen(&before)));
        assert_eq!(unchanged(&file, &Inode { number: before.number + 1, ..before.clone() }), None, "another inode");
        file.set_len(99_999).unwrap();
        assert_eq!(unchanged(&file, &before), None, "shorter");
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(200_000).unwrap();
        assert_eq!(unchanged(&sparse, &seen(&sparse)), None, "a hole");
        sparse.write_all_at(&[7; 4096], 131_072).unwrap();
        assert_eq!(unchanged(&sparse, &seen(&sparse)), None, "holes");
    }

    #[test]
    fn what_changed_while_it_was_read_or_came_in_part_is_read_again() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 1000], 0).unwrap();
        let stamp = Stamp::of(&file).unwrap();
        assert!(is_whole(&file, &stamp, &[7; 1000]) && !is_whole(&file, &stamp, &[7; 999]));
        file.write_all_at(&[8; 1000], 0).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(!is_whole(&file, &stamp, &[7; 1000]), "it has the size it had");
    }

    #[test]
    fn an_eighth_of_the_descriptors_serves_all_workers() {
        let cases = [(0, 4, 1), (64, 4, 1), (255, 8, 1), (256, 8, 2), (1024, 4, 16), (1024, 8, 8), (4096, 4, 32)];
        for (descriptors, workers, most) in cases.into_iter().chain([(4096, 8, 32), (u64::MAX, 1, 32)]) {
            assert_eq!(depth_within(descriptors, workers), most, "{descriptors} for {workers}");
            // A file and its directory each.
            assert!(most == 1 || (2 * workers * most) as u64 <= descriptors / 8);
        }
    }
}
