//! Patterns: of what a backup leaves out, and of what `find` looks for.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use wherry::decoders as of_wherry;
use wherry::tree::exclude::Exclude;

/// A pattern of the shell, a line end, a name.
pub(super) fn glob(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (glob, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let fits = of_wherry::matches(glob, name);
    if !glob.iter().any(|byte| b"*?[\\".contains(byte)) {
        assert_eq!(fits, glob == name, "without signs it means itself");
    }
    let any = [b"*", glob].concat();
    assert!(!fits || of_wherry::matches(&any, name), "with more before it it fits no less");
    fits
}

/// Patterns that are tried one by one.
const MOST: usize = 6;

/// A path, with a slash behind it that of a directory, and a pattern a line. True when all are understood.
pub(super) fn exclude(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    let patterns: Vec<OsString> = lines.map(|line| OsString::from_vec(line.to_vec())).collect();
    let _ = Exclude::new(&[], false, &patterns);
    let Ok(exclude) = Exclude::new(&patterns, false, &[]) else { return false };
    let (path, folder) = path.strip_suffix(b"/").map_or((path, false), |path| (path, true));
    // Of more than that all together may be too much where each is not.
    if bytes.len() <= 4096 && path.split(|byte| *byte == b'/').all(is_name) {
        left_out(&exclude, &patterns, path, folder);
    }
    true
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&0)
}

/// What the rules are of whether a path is left out.
fn left_out(exclude: &Exclude, patterns: &[OsString], path: &[u8], folder: bool) {
    let asked = |patterns: &[OsString], path: &[u8], folder: bool| {
        let exclude = Exclude::new(patterns, false, &[]).expect("each was understood");
        of_wherry::leaves_out(&exclude, path, folder)
    };
    let is_out = of_wherry::leaves_out(exclude, path, folder);
    assert!(!asked(&[], path, folder), "nothing says so");
    // The last one that matches counts: of each it is asked what it makes of what is in, and of what is out.
    if patterns.len() <= MOST {
        let everything = OsString::from("*");
        let fold = patterns.iter().fold(false, |is_out, pattern| {
            let before = is_out.then(|| everything.clone());
            asked(&before.into_iter().chain([pattern.clone()]).collect::<Vec<_>>(), path, folder)
        });
        assert_eq!(is_out, fold, "{patterns:?} are more or less than each of them");
    }
    let Some(itself) = literal(path) else { return };
    let with = |last: String| [patterns, &[last.into()]].concat();
    let other = [path, b"x"].concat();
    let is_other_out = of_wherry::leaves_out(exclude, &other, folder);
    for (last, is_out_then) in [
        (format!("/{itself}"), true),
        (format!("!/{itself}"), false),
        // Of directories alone.
        (format!("/{itself}/"), folder || is_out),
        (format!("!/{itself}/"), !folder && is_out),
    ] {
        let patterns = with(last);
        assert_eq!(asked(&patterns, path, folder), is_out_then, "{patterns:?} name it last");
        assert_eq!(asked(&patterns, &other, folder), is_other_out, "{patterns:?} name another last");
    }
}

/// The pattern that means this path alone, where there is one. A backslash before the last slash of a pattern is for the
/// library always one that escapes it: a directory whose name ends with one is told from a file by no pattern.
fn literal(path: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(path).ok().filter(|text| !text.ends_with('\\'))?;
    let escaped = |c: char| if r"\*?[]{} ".contains(c) { format!("\\{c}") } else { c.to_string() };
    Some(text.chars().map(escaped).collect())
}
