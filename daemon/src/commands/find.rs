//! `wherry find`

use super::names::{Json, Lines};
use super::opened::{Typed, ended, look};
use crate::cli::FindArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::tree::path::{TreePath, escaped};
use crate::tree::view::{Failed, Node, View, walk};
use anyhow::Result;
use std::os::unix::ffi::OsStrExt;

/// Prints the paths of all entries whose names match.
pub(crate) fn run(context: &Context, args: FindArgs) -> Result<Exit> {
    let FindArgs { snap, path, name } = args;
    let typed = Typed::new(path);
    let repository = context.open_repository()?;
    let snapshot = context.snapshot(&repository, &snap)?;
    look(context, &repository, &snapshot, &typed, |view, path| {
        let admits = |node: &Node| name.as_ref().is_none_or(|glob| matches(glob.as_bytes(), &node.name));
        let failed = if context.output.is_json() {
            let mut json = Json::new(context);
            let failed = all(view, path, &admits, &mut |path, node| json.add(path, node))?;
            json.end()?;
            failed
        } else {
            let mut lines = Lines::new(context);
            let failed = all(view, path, &admits, &mut |path, _| lines.add(&format!("{}\n", escaped(&path.bytes()))))?;
            lines.end()?;
            failed
        };
        Ok(ended(failed))
    })
}

/// Calls `found` with each entry that is admitted; gives what could not be read.
fn all(
    view: &mut dyn View,
    path: &TreePath,
    admits: &dyn Fn(&Node) -> bool,
    found: &mut dyn FnMut(&TreePath, &Node) -> Result<()>,
) -> Result<Failed> {
    let top = view.stat(path)?;
    if admits(&Node { name: path.name().to_vec(), ..top.clone() }) {
        found(path, &top)?;
    }
    if !top.is_folder() {
        return Ok(Failed::default());
    }
    walk(view, path, true, &mut |_, folder, nodes| {
        nodes.iter().filter(|node| admits(node)).try_for_each(|node| found(&folder.join(&node.name), node))
    })
}

/// Whether a name is what a pattern of the shell means: of the name alone, a leading dot is nothing special. A character is
/// one of UTF-8, or a byte that is not.
pub(crate) fn matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    // Where to go on when what follows the last `*` does not fit.
    let mut back = None;
    loop {
        let fits = match glob.get(g) {
            None if n == name.len() => return true,
            Some(b'*') => {
                back = Some((g + 1, n));
                g += 1;
                continue;
            }
            None => None,
            Some(_) if n == name.len() => None,
            Some(b'?') => Some((g + 1, n + character(&name[n..]))),
            Some(b'[') => set(&glob[g..], &name[n..]).map(|(glob, name)| (g + glob, n + name)),
            Some(b'\\') if g + 1 < glob.len() => (glob[g + 1] == name[n]).then_some((g + 2, n + 1)),
            Some(byte) => (*byte == name[n]).then_some((g + 1, n + 1)),
        };
        match (fits, &mut back) {
            (Some(next), _) => (g, n) = next,
            (None, Some((from, at))) if *at < name.len() => {
                *at += 1;
                (g, n) = (*from, *at);
            }
            _ => return false,
        }
    }
}

/// Bytes of the first character.
fn character(name: &[u8]) -> usize {
    let first = name.utf8_chunks().next();
    first.and_then(|part| part.valid().chars().next()).map_or(1, char::len_utf8)
}

/// Whether `[...]` at the beginning of a pattern fits the first character: lengths of both. Without its end it is a
/// bracket like any other character.
fn set(glob: &[u8], name: &[u8]) -> Option<(usize, usize)> {
    let negated = matches!(glob.get(1), Some(b'!' | b'^'));
    let start = if negated { 2 } else { 1 };
    // A bracket right at the beginning is one of the set.
    let Some(end) = glob.iter().skip(start + 1).position(|b| *b == b']').map(|at| at + start + 1) else {
        return (name[0] == b'[').then_some((1, 1));
    };
    let take = character(name);
    let wanted = std::str::from_utf8(&name[..take]).ok().and_then(|text| text.chars().next());
    let members: Vec<char> = String::from_utf8_lossy(&glob[start..end]).chars().collect();
    let mut inside = false;
    let mut at = 0;
    while at < members.len() {
        let (from, to) = match members.get(at + 1..at + 3) {
            Some(['-', to]) => (members[at], *to),
            _ => (members[at], members[at]),
        };
        at += if from == to { 1 } else { 3 };
        inside |= wanted.is_some_and(|c| (from..=to).contains(&c));
    }
    (inside != negated).then_some((end + 1, take))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_the_shell() {
        for (glob, yes, no) in [
            ("hostname", &["hostname"][..], &["hostnames", "ahostname", ""][..]),
            ("*.conf", &["a.conf", ".conf", "a.b.conf"], &["conf", "a.conf2"]),
            ("*", &["", "x", ".hidden"], &[]),
            ("a*b*c", &["abc", "aXbYc", "abbcc"], &["ab", "acb"]),
            ("?", &["a", "\u{e9}"], &["", "ab"]),
            ("[abc]x", &["ax", "cx"], &["dx", "x"]),
            ("[!a-c]x", &["dx", "\u{e9}x"], &["ax", "bx"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[a", &["[a"], &["a"]),
            ("a\\*", &["a*"], &["ab", "a\\b"]),
            ("[0-9]*", &["1", "9a"], &["a9"]),
        ] {
            for name in yes {
                assert!(matches(glob.as_bytes(), name.as_bytes()), "{glob} {name}");
            }
            for name in no {
                assert!(!matches(glob.as_bytes(), name.as_bytes()), "{glob} {name}");
            }
        }
        assert!(matches(b"?x", b"\xffx") && matches(b"\xff*", b"\xff\xfe"));
        // No pattern takes longer than its length times that of the name.
        assert!(!matches("*a".repeat(100).as_bytes(), &[b'b'; 255]));
    }
}
