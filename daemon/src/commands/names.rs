//! Entries of a view as `ls` and `find` print them: rows of a table, paths, or JSON.

use crate::context::Context;
use crate::output::{self, Output, Side, Table};
use crate::tree::inode::InodeKind;
use crate::tree::path::{TreePath, escaped};
use crate::tree::view::{Node, kind_word};
use anyhow::Result;
use serde::Serialize;
use wherry_repo::Timestamp;
use wherry_repo::format::tree::Time;

/// An entry as `--json` shows it. Names that are not UTF-8 are in `path_hex` as they are, and in `path` escaped; the same
/// for the target of a link.
#[derive(Debug, Serialize)]
struct Shown {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    kind: &'static str,
    size: u64,
    /// Octal, as `chmod` takes it; `null` where the filesystem has none.
    mode: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    /// Names of both, where the snapshot has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// How many names it has, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<u64>,
    /// Major and minor number.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<[u32; 2]>,
    modified: Option<String>,
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
    /// It cannot be read.
    unreadable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filesystem: Option<String>,
}

/// Bytes as text, and in hexadecimal digits where they are not UTF-8.
pub(super) fn text(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (escaped(bytes), Some(bytes.iter().map(|b| format!("{b:02x}")).collect())),
    }
}

impl Shown {
    fn new(path: &TreePath, node: &Node) -> Self {
        let inode = &node.inode;
        let (path, path_hex) = text(&path.bytes());
        let (target, target_hex) = match &inode.kind {
            InodeKind::Link(target) => {
                let (target, hex) = text(target);
                (Some(target), hex)
            }
            _ => (None, None),
        };
        let device = match inode.kind {
            InodeKind::Character(major, minor) | InodeKind::Block(major, minor) => Some([major, minor]),
            _ => None,
        };
        let name = |name: &[u8]| (!name.is_empty()).then(|| escaped(name));
        let readable = node.missing.is_none();
        Self {
            path,
            path_hex,
            kind: kind_word(&inode.kind),
            size: inode.size,
            mode: node.owned.then(|| format!("{:04o}", inode.permissions)),
            uid: node.owned.then_some(inode.owner),
            gid: node.owned.then_some(inode.group),
            user: name(&node.owner_name),
            group: name(&node.group_name),
            links: (inode.links > 1).then_some(inode.links),
            device: device.filter(|device| *device != [0, 0]),
            modified: if readable { moment(inode.modified).map(output::utc_time) } else { None },
            target,
            target_hex,
            unreadable: !readable,
            partition_type: node.part.as_ref().map(|part| part.kind.clone()),
            filesystem: node.part.as_ref().map(|part| part.content.clone()),
        }
    }
}

/// A time that can be shown; `None` outside of the years 1678 to 2261.
fn moment(time: Time) -> Option<Timestamp> {
    let nanoseconds = time.seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(time.nanoseconds))?;
    Some(Timestamp(nanoseconds))
}

/// One JSON array on one line, an entry at a time; nothing grows with their number.
#[derive(Debug)]
pub(super) struct Json {
    output: Output,
    waiting: String,
    any: bool,
}

/// Bytes of output that are kept before they are written.
const WRITE: usize = 64 << 10;

impl Json {
    pub(super) fn new(context: &Context) -> Self {
        Self { output: context.output, waiting: "[".to_owned(), any: false }
    }

    /// An array of one entry.
    pub(super) fn one(context: &Context, path: &TreePath, node: &Node) -> Result<()> {
        let mut json = Self::new(context);
        json.add(path, node)?;
        json.end()
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, path: &TreePath, node: &Node) -> Result<()> {
        if std::mem::replace(&mut self.any, true) {
            self.waiting.push(',');
        }
        self.waiting.push_str(&serde_json::to_string(&Shown::new(path, node))?);
        if self.waiting.len() > WRITE { self.write() } else { Ok(()) }
    }

    /// Ends the array.
    pub(super) fn end(mut self) -> Result<()> {
        self.waiting.push_str("]\n");
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        self.output.bytes(std::mem::take(&mut self.waiting).as_bytes())
    }
}

/// Lines of text, written in large pieces.
#[derive(Debug)]
pub(super) struct Lines {
    output: Output,
    waiting: String,
}

impl Lines {
    pub(super) fn new(context: &Context) -> Self {
        Self { output: context.output, waiting: String::new() }
    }

    /// Adds text as it is.
    pub(super) fn add(&mut self, text: &str) -> Result<()> {
        self.waiting.push_str(text);
        if self.waiting.len() > WRITE { self.end() } else { Ok(()) }
    }

    /// Writes what is waiting.
    pub(super) fn end(&mut self) -> Result<()> {
        self.output.bytes(std::mem::take(&mut self.waiting).as_bytes())
    }
}

/// Entries of a directory as a table; the top of a disk has other columns.
pub(super) fn table(nodes: &[Node]) -> String {
    if nodes.iter().any(|node| node.part.is_some()) {
        let columns = [("NAME", Side::Left), ("SIZE", Side::Right), ("TYPE", Side::Left), ("CONTENT", Side::Left)];
        let mut table = Table::new(&columns);
        for node in nodes {
            let (kind, content) = node.part.as_ref().map_or(("the disk itself", ""), |p| (&p.kind, &p.content));
            table.row([escaped(&node.name), output::size(node.inode.size), kind.to_owned(), content.to_owned()]);
        }
        return table.render();
    }
    let mut table = Table::new(&[
        ("MODE", Side::Left),
        ("OWNER", Side::Right),
        ("GROUP", Side::Right),
        ("SIZE", Side::Right),
        ("MODIFIED", Side::Left),
        ("NAME", Side::Left),
    ]);
    for node in nodes {
        let inode = &node.inode;
        let who = |name: &[u8], n: u32| match name {
            _ if !node.owned => "-".to_owned(),
            [] => n.to_string(),
            name => escaped(name),
        };
        let name = match &inode.kind {
            InodeKind::Link(target) if node.missing.is_none() => {
                format!("{} -> {}", escaped(&node.name), escaped(target))
            }
            _ if node.missing.is_some() => format!("{} (unreadable)", escaped(&node.name)),
            _ => escaped(&node.name),
        };
        let sized = matches!(inode.kind, InodeKind::File | InodeKind::Link(_)) && node.missing.is_none();
        table.row([
            mode(node),
            who(&node.owner_name, inode.owner),
            who(&node.group_name, inode.group),
            if sized { output::size(inode.size) } else { "-".to_owned() },
            match moment(inode.modified) {
                Some(time) if node.missing.is_none() => output::local_time(time),
                _ => "-".to_owned(),
            },
            name,
        ]);
    }
    table.render()
}

/// The ten letters of `ls -l`; question marks for what the filesystem does not have.
fn mode(node: &Node) -> String {
    let kind = match node.inode.kind {
        InodeKind::File => '-',
        InodeKind::Folder => 'd',
        InodeKind::Link(_) => 'l',
        InodeKind::Fifo => 'p',
        InodeKind::Socket => 's',
        InodeKind::Character(..) => 'c',
        InodeKind::Block(..) => 'b',
    };
    if !node.owned {
        return format!("{kind}?????????");
    }
    let bits = node.inode.permissions;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let three = bits >> shift;
        text.push(if three & 4 != 0 { 'r' } else { '-' });
        text.push(if three & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & special != 0, three & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}
