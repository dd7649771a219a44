//! Paths in a snapshot: bytes, split at `/`.

use std::fmt;

/// A path in a snapshot, from its top. Neither `.` nor `..` nor empty names are left in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath {
    names: Vec<Vec<u8>>,
}

impl TreePath {
    /// From bytes as somebody typed them; a leading `/` may be missing. `..` takes the name before it away, as links are
    /// never followed, and is ignored at the top.
    pub fn new(bytes: &[u8]) -> Self {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for name in bytes.split(|b| *b == b'/') {
            match name {
                b"" | b"." => {}
                b".." => drop(names.pop()),
                name => names.push(name.to_vec()),
            }
        }
        Self { names }
    }

    /// Of names from the top down.
    pub fn of(names: &[Vec<u8>]) -> Self {
        Self { names: names.to_vec() }
    }

    /// Its names from the top down.
    pub fn names(&self) -> &[Vec<u8>] {
        &self.names
    }

    /// The last name; empty for the top.
    pub fn name(&self) -> &[u8] {
        self.names.last().map_or(&[], Vec::as_slice)
    }

    /// The path of an entry of this directory.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut names = self.names.clone();
        names.push(name.to_vec());
        Self { names }
    }

    /// Goes on to an entry of this directory.
    pub fn push(&mut self, name: Vec<u8>) {
        self.names.push(name);
    }

    /// Goes back to the directory that it is in; at the top nothing happens.
    pub fn pop(&mut self) {
        self.names.pop();
    }

    /// As bytes, with a leading `/`.
    pub fn bytes(&self) -> Vec<u8> {
        joined(&self.names)
    }

    /// As bytes without a leading `/`, from the directory `top` down, which it is in.
    pub fn below(&self, top: &Self) -> Vec<u8> {
        let names = self.names.get(top.names.len()..).unwrap_or_default();
        names.join(&b'/')
    }
}

/// Names as one path with a leading `/`.
pub fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().flat_map(|name| std::iter::once(b'/').chain(name.iter().copied())).collect()
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.bytes()))
    }
}

/// Bytes as text for people: what is control, sets the direction of text or is not UTF-8 is `\xHH`, byte by byte, and a backslash
/// is doubled, so that no two names look the same.
pub fn escaped(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    let hex = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() || directs(c) => hex(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => text.push(c),
            }
        }
        hex(&mut text, part.invalid());
    }
    text
}

/// Whether a character changes the direction of the text around it: in a terminal a name could pass for another one.
fn directs(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_slashes_and_links_play_no_part() {
        for (typed, path) in [
            ("", "/"),
            ("/", "/"),
            ("p1/etc//hostname", "/p1/etc/hostname"),
            ("/p1/./a/../b/", "/p1/b"),
            ("../..", "/"),
        ] {
            assert_eq!(TreePath::new(typed.as_bytes()).to_string(), path, "{typed}");
        }
        let path = TreePath::new(b"/p1/a/b");
        assert_eq!((path.name(), path.below(&TreePath::new(b"/p1"))), (&b"b"[..], b"a/b".to_vec()));
        assert_eq!(path.below(&path), b"");
        assert_eq!(TreePath::default().join(b"x").bytes(), b"/x");
    }

    #[test]
    fn no_two_names_look_the_same_and_none_reaches_the_terminal() {
        assert_eq!(escaped(b"plain \xc3\xa9"), "plain \u{e9}");
        assert_eq!(escaped(b"a\n\x1b[2J\xff"), "a\\x0a\\x1b[2J\\xff");
        assert_eq!(escaped("\u{85}".as_bytes()), "\\xc2\\x85");
        assert_ne!(escaped(b"\\xff"), escaped(b"\xff"));
        assert_eq!(escaped("gnp\u{202e}exe".as_bytes()), "gnp\\xe2\\x80\\xaeexe");
        for c in "\u{61c}\u{200e}\u{200f}\u{202a}\u{202d}\u{2066}\u{2069}".chars() {
            assert!(escaped(c.to_string().as_bytes()).is_ascii(), "{c:?}");
        }
        assert_eq!(escaped("\u{627}\u{644} \u{200d}".as_bytes()), "\u{627}\u{644} \u{200d}");
    }
}
