//! Nodes of directories.

use super::super::Fields;
use super::attributes::{Rows, put_rows};
use super::entry::is_name;
use super::refs::{Refs, Table, put_count, put_number, put_text};
use super::{Child, Entry, FOLDER, Known, MAX_FANOUT, MAX_HEIGHT, Totals, TreeNode, What, heights, split};
use crate::Result;

const WHAT: &str = "a node of a directory";

impl TreeNode {
    /// The class it is stored under.
    pub fn class(&self) -> u8 {
        match self {
            Self::Leaf(_) => FOLDER,
            Self::Inner { height, .. } => FOLDER + height,
        }
    }

    /// Entries directly in the directory below this node, and the totals of all of them. Whoever loads a node compares
    /// both with what led to it.
    pub fn sum(&self) -> (u64, Totals) {
        match self {
            Self::Leaf(entries) => {
                let totals = entries.iter().fold(Totals::default(), |sum, entry| sum.add(&entry.totals()));
                (entries.len() as u64, totals)
            }
            Self::Inner { children, .. } => children.iter().fold((0, Totals::default()), |(entries, sum), child| {
                (child.entries.saturating_add(entries), sum.add(&child.totals))
            }),
        }
    }

    /// The name of its first entry, which the node above it says too.
    pub fn first(&self) -> &[u8] {
        let first = match self {
            Self::Leaf(entries) => entries.first().map(Entry::name),
            Self::Inner { children, .. } => children.first().map(|child| &child.first[..]),
        };
        first.unwrap_or_default()
    }

    /// Why no reader would take it; `None`: it is right.
    pub fn fault(&self) -> Option<&'static str> {
        let fault = match self {
            Self::Leaf(entries) => entries.iter().find_map(Entry::fault),
            Self::Inner { .. } => None,
        };
        fault.or_else(|| self.fault_of_row())
    }

    /// The same of all that entries alone do not have.
    fn fault_of_row(&self) -> Option<&'static str> {
        let (count, ascend) = match self {
            Self::Leaf(entries) => (entries.len(), entries.windows(2).all(|pair| pair[0].name() < pair[1].name())),
            Self::Inner { height, children } => {
                if !(1..=MAX_HEIGHT).contains(height) {
                    return Some("a height that no node has");
                }
                if children.iter().any(|child| child.node.to.class != FOLDER + height - 1) {
                    return Some("a child of another class");
                }
                if children.iter().any(|child| child.entries == 0 || !is_name(&child.first)) {
                    return Some("a child without entries, or with a name that is not allowed");
                }
                (children.len(), children.windows(2).all(|pair| pair[0].first < pair[1].first))
            }
        };
        match (count, ascend) {
            (1..=MAX_FANOUT, true) => None,
            (1..=MAX_FANOUT, false) => Some("names do not ascend"),
            _ => Some("a count is 0 or above its limit"),
        }
    }

    /// The bytes; the only ones for this content. Only of a node without [fault](Self::fault). Where one ref or one row
    /// of attributes is there with two hints, the first one is kept.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Leaf(entries) => encode_leaf(entries),
            Self::Inner { children, .. } => {
                let (mut said, mut refs) = (Vec::new(), Refs::default());
                put_count(&mut said, children.len());
                for child in children {
                    put_text(&mut said, &child.first);
                    refs.put(&mut said, &child.node, 0);
                    put_number(&mut said, child.entries);
                    child.totals.put(&mut said);
                }
                refs.node(self.class(), &said)
            }
        }
    }

    /// The reverse.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt): these are not the bytes of a node of a directory.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (class, mut f, hints) = split(WHAT, bytes)?;
        if !heights(FOLDER).contains(&class) {
            return Err(f.bad("it is of another class"));
        }
        let mut refs = Table::read(&mut f, hints)?;
        let node = if class == FOLDER {
            Self::Leaf(read_entries(&mut f, &mut refs, MAX_FANOUT)?)
        } else {
            let count = f.count(1, MAX_FANOUT, 8)?;
            let mut children = Vec::with_capacity(count);
            for _ in 0..count {
                let first = f.text()?.to_vec();
                let number = f.number()?;
                let node = refs.named(&f, number)?;
                children.push(Child { first, node, entries: f.number()?, totals: Totals::read(&mut f)? });
            }
            Self::Inner { height: class - FOLDER, children }
        };
        let names = match &node {
            Self::Leaf(entries) => entries.iter().all(|entry| is_name(entry.name())),
            Self::Inner { .. } => true,
        };
        if !names {
            return Err(f.bad("a name that is not allowed"));
        }
        if let Some(why) = node.fault_of_row() {
            return Err(f.bad(why));
        }
        refs.end(f)?;
        Ok(node)
    }
}

impl Known {
    /// The root of a tree from the top node in its record: a leaf that holds this one entry, the only one whose name is
    /// empty. [`TreeNode::encode`] makes it, [`TreeNode::decode`] refuses it.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt): these are not the bytes of such a node.
    pub fn decode_root(bytes: &[u8]) -> Result<Self> {
        let (class, mut f, hints) = split("the top node of a tree", bytes)?;
        if class != FOLDER {
            return Err(f.bad("it is of another class"));
        }
        let mut refs = Table::read(&mut f, hints)?;
        let root = match read_entries(&mut f, &mut refs, 1)?.pop() {
            Some(Entry::Known(root)) if root.name.is_empty() && matches!(root.what, What::Folder { .. }) => *root,
            _ => return Err(f.bad("it does not hold a root")),
        };
        refs.end(f)?;
        Ok(root)
    }
}

fn encode_leaf(entries: &[Entry]) -> Vec<u8> {
    let (mut said, mut refs) = (Vec::with_capacity(64 * entries.len()), Refs::default());
    let rows = put_rows(&mut said, &mut refs, entries);
    put_count(&mut said, entries.len());
    for (entry, row) in entries.iter().zip(rows) {
        entry.put(&mut said, &mut refs, row);
    }
    refs.node(FOLDER, &said)
}

/// Reads attributes and entries of a leaf; names are not looked at.
fn read_entries(f: &mut Fields<'_>, refs: &mut Table, most: usize) -> Result<Vec<Entry>> {
    let mut rows = Rows::read(f, refs)?;
    let count = f.count(1, most, 4)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(Entry::read(f, refs, &mut rows)?);
    }
    rows.end(f)?;
    Ok(entries)
}
