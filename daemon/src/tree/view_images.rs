//! The view of a tree of directories in which paths go on inside of disk images, as if these were directories.

use super::inside::DiskView;
use super::path::TreePath;
use super::view::{Each, Node, PathError, Take, View};
use super::view_tree::{TreeView, Way, content_of};
use anyhow::Result;
use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use wherry_repo::format::tree::{Content, Set};

/// Opens the regular file of a path, with so many bytes of this content, as a disk.
pub type Open<'a> = Box<dyn Fn(&TreePath, u64, Content) -> Result<DiskView> + 'a>;

/// See the module.
pub struct ImagesView<'a> {
    tree: TreeView<'a>,
    open: Open<'a>,
    /// The image that was looked into last.
    image: Option<DiskView>,
    /// An image that is shown as a directory itself.
    entered: Option<TreePath>,
}

impl fmt::Debug for ImagesView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImagesView").field("tree", &self.tree).field("image", &self.image).finish_non_exhaustive()
    }
}

impl<'a> ImagesView<'a> {
    /// Over the view of a tree.
    pub fn new(tree: TreeView<'a>, open: Open<'a>) -> Self {
        Self { tree, open, image: None, entered: None }
    }

    /// How many names of a path have to lead to an image for the path to be in it.
    fn leading(&self, path: &TreePath) -> usize {
        let itself = self.entered.as_ref() == Some(path);
        path.names().len().saturating_sub(usize::from(!itself))
    }

    /// The image that a path is in and that is open.
    fn opened(&self, path: &TreePath) -> Option<&DiskView> {
        let is_it = |image: &&DiskView| {
            let names = image.image().names();
            names.len() <= self.leading(path) && path.names().starts_with(names)
        };
        self.image.as_ref().filter(is_it)
    }

    /// What shows this path: an image, or the tree.
    fn side(&mut self, path: &TreePath) -> Result<&mut dyn View> {
        if self.opened(path).is_none()
            && let Way::File(depth, known) = self.tree.way(&path.names()[..self.leading(path)])?
        {
            let at = TreePath::of(&path.names()[..depth]);
            let (size, content) = content_of(&at, *known)?;
            let image = (self.open)(&at, size, content)?;
            if !image.is_known() {
                return Err(PathError::NotFolder(at.to_string()).into());
            }
            self.image = Some(image);
        }
        let is_inside = self.opened(path).is_some();
        Ok(match &mut self.image {
            Some(image) if is_inside => image,
            _ => &mut self.tree,
        })
    }
}

impl View for ImagesView<'_> {
    fn stat(&mut self, path: &TreePath) -> Result<Node> {
        self.side(path)?.stat(path)
    }

    fn list(&mut self, path: &TreePath, from: u64, each: Each<'_>) -> Result<()> {
        self.side(path)?.list(path, from, each)
    }

    fn read(&mut self, path: &TreePath, bytes: Range<u64>, take: Take<'_>) -> Result<()> {
        self.side(path)?.read(path, bytes, take)
    }

    fn most_folders(&self) -> u64 {
        // A walk of the tree does not go into images, and one in an image stays there.
        self.image.as_ref().map_or_else(|| self.tree.most_folders(), View::most_folders)
    }

    fn go_into(&mut self, path: &TreePath) {
        // Directories are gone into in any case.
        let is_file = matches!(self.tree.way(path.names()), Ok(Way::File(depth, _)) if depth == path.names().len());
        self.entered = is_file.then(|| path.clone());
    }

    fn is_disk(&self, path: &TreePath) -> bool {
        self.opened(path).is_some_and(|image| image.is_disk(path))
    }

    fn leaves_out(&self, path: &TreePath) -> Option<&'static str> {
        self.opened(path).and_then(|image| image.leaves_out(path))
    }

    fn expect_all(&mut self) {
        self.tree.expect_all();
    }

    fn regions(&mut self, path: &TreePath, size: u64, from: u64, most: usize) -> Result<Vec<Range<u64>>> {
        self.side(path)?.regions(path, size, from, most)
    }

    fn extended(&mut self, path: &TreePath, node: &Node) -> Result<Set> {
        self.side(path)?.extended(path, node)
    }

    fn lack(&self, errno: NonZeroU32) -> String {
        self.image.as_ref().map_or_else(|| self.tree.lack(errno), |image| image.lack(errno))
    }
}
