//! What would go: names that the snapshot does not have, and directories in the place of what is none.

use super::{Inside, Walk};
use crate::tree::attributes::Look;
use crate::tree::compare::Change;
use crate::tree::dir::Dir;
use crate::tree::inode::InodeKind;
use crate::tree::path::{TreePath, escaped};
use crate::tree::restore::{Overwrite, Step, Why, is_temporary, list_names};
use anyhow::Result;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::sync::Arc;
use wherry_repo::Error;

impl Walk<'_, '_> {
    /// What is there and the snapshot does not have, in the order in which the target lists it.
    pub(super) fn leave(&mut self, here: &Inside<'_>) -> Result<()> {
        let this = self.rehearsal;
        let Some(dir) = here.there.as_ref().filter(|_| this.delete && here.whole) else { return Ok(()) };
        names_in(dir, &mut |name, kind| {
            if is_temporary(this.run, name) && kind != FileType::Directory {
                return Ok(());
            }
            let has = here.below.map(|below| this.reader.find(&below, name)).transpose()?.flatten();
            if has.is_none() {
                self.goes(dir, name, here.path.join(name), true)?;
            }
            Ok(())
        })
    }

    /// Whether what is there of this name gives way to what is no directory; the report says why not.
    pub(super) fn gives_way(&mut self, path: &TreePath, dir: &Arc<Dir>, name: &[u8], look: &Look) -> Result<bool> {
        let this = self.rehearsal;
        let is_folder = look.inode.kind == InodeKind::Folder;
        let goes = match this.overwrite {
            Overwrite::Always if is_folder && this.delete => self.goes(dir, name, path.clone(), false)?,
            _ if look.mounted && (!is_folder || this.overwrite == Overwrite::Always) => {
                self.refuse(path, Step::Rename, Errno::BUSY);
                return Ok(false);
            }
            Overwrite::Always if is_folder => is_empty(&below(dir, name, look)?)?,
            _ => !is_folder,
        };
        if !goes {
            self.skip(path, Why::OtherType);
        }
        Ok(goes)
    }

    /// Counts and tells what would go with this name. Where something is mounted, and of what this run works with, nothing goes,
    /// nor do the directories above it: then all else in them goes name by name. `tell`: also the name itself is told, not only
    /// what is in it. True if it goes as a whole.
    fn goes(&mut self, dir: &Arc<Dir>, name: &[u8], path: TreePath, tell: bool) -> Result<bool> {
        let mut waiting = vec![(dir.clone(), name.to_vec(), path, tell)];
        let mut whole = true;
        while let Some((dir, name, path, tell)) = waiting.pop() {
            let Ok(look) = dir.look_with(&name, &mut self.scratch) else { continue };
            if look.mounted {
                self.skip(&path, Why::Mounted);
                whole = false;
                continue;
            }
            if let Some(used) = self.used(&look) {
                self.skip(&path, Why::Spared(used));
                whole = false;
                continue;
            }
            if let Some(count) = self.count(&dir, &name, &look)? {
                self.report.removed += count;
                if tell {
                    (self.tell)(Change::Removed, &path)?;
                }
                continue;
            }
            whole = false;
            let here = below(&dir, &name, &look)?;
            names_in(&here, &mut |name, _| {
                waiting.push((here.clone(), name.to_vec(), path.join(name), true));
                Ok(())
            })?;
        }
        Ok(whole)
    }

    /// How many names would go with this one; `None` if something is mounted below it, or used by this run. Only directories wait.
    fn count(&mut self, dir: &Arc<Dir>, name: &[u8], look: &Look) -> Result<Option<u64>> {
        let (mut waiting, mut count, mut stays) = (Vec::new(), 1, false);
        if look.inode.kind == InodeKind::Folder {
            waiting.push(below(dir, name, look)?);
        }
        while let Some(dir) = waiting.pop() {
            self.rehearsal.cancel.check()?;
            names_in(&dir, &mut |name, _| {
                let Ok(look) = dir.look_with(name, &mut self.scratch) else { return Ok(()) };
                stays |= look.mounted || self.used(&look).is_some();
                count += 1;
                if look.inode.kind == InodeKind::Folder && !stays {
                    waiting.push(below(&dir, name, &look)?);
                }
                Ok(())
            })?;
            if stays {
                return Ok(None);
            }
        }
        Ok(Some(count))
    }
}

fn below(dir: &Arc<Dir>, name: &[u8], look: &Look) -> Result<Arc<Dir>> {
    let name = CString::new(name).map_err(|_| Error::internal("a name with a zero"))?;
    Ok(dir.below(&name, 0, look))
}

fn is_empty(dir: &Arc<Dir>) -> Result<bool> {
    let mut empty = true;
    names_in(dir, &mut |_, _| {
        empty = false;
        Ok(())
    })?;
    Ok(empty)
}

fn names_in(dir: &Arc<Dir>, each: &mut dyn FnMut(&[u8], FileType) -> Result<()>) -> Result<()> {
    let opened = dir.descriptor().and_then(|fd| Ok(File::from(fd.try_clone().map_err(|_| Errno::MFILE)?)));
    let file = opened.map_err(|errno| {
        let path = escaped(&dir.path());
        Error::invalid(format!("{path}: cannot be listed in the target: {}", std::io::Error::from(errno)))
    })?;
    list_names(&file, each)
}
