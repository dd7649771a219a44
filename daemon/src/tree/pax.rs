//! Headers of POSIX archives (pax), as GNU tar and bsdtar read them.

use super::inode::InodeKind;
use super::view::Node;
use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use tar::{EntryType, Header};
use wherry_repo::format::tree::{Set, Time};

/// Bytes of a block of an archive.
pub const BLOCK: u64 = 512;

/// What follows a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<'a> {
    /// All bytes of a regular file; nothing of anything else.
    Whole,
    /// So many bytes: the map of a sparse file (GNU 1.0) and its data.
    Sparse(u64),
    /// Nothing: it is another name of what came under this one.
    Link(&'a [u8]),
}

/// The header of an entry, after one of extensions for what does not fit into it.
///
/// # Errors
/// When a number of a device does not fit into it.
pub fn header(name: &[u8], node: &Node, extended: &Set, form: Form<'_>) -> io::Result<Vec<u8>> {
    let inode = &node.inode;
    let mut header = Header::new_ustar();
    let mut extra: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut binary = false;
    // A field of the header holds a part of what is too long: readers that know no extensions see something.
    let mut put = |field: &mut [u8], key: &str, value: &[u8]| {
        let short = &value[..value.len().min(field.len())];
        field[..short.len()].copy_from_slice(short);
        if value.len() > field.len() || !value.is_ascii() {
            binary |= std::str::from_utf8(value).is_err();
            extra.push((key.into(), value.to_vec()));
        }
    };
    let ustar = header.as_ustar_mut().ok_or_else(|| io::Error::other("it is no header of ustar"))?;
    match form {
        Form::Sparse(_) => {
            // Who knows nothing of it unpacks map and data under a name of its own.
            put(&mut ustar.name, "path", b"GNUSparseFile.0/file");
            put(&mut [], "GNU.sparse.name", name);
        }
        _ => put(&mut ustar.name, "path", name),
    }
    match (form, &inode.kind) {
        (Form::Link(first), _) => put(&mut ustar.linkname, "linkpath", first),
        (_, InodeKind::Link(target)) => put(&mut ustar.linkname, "linkpath", target),
        _ => {}
    }
    // The fields of these end with a zero.
    put(&mut ustar.uname[..31], "uname", &node.owner_name);
    put(&mut ustar.gname[..31], "gname", &node.group_name);
    header.set_entry_type(match (form, &inode.kind) {
        (Form::Link(_), _) => EntryType::Link,
        (_, InodeKind::Folder) => EntryType::Directory,
        (_, InodeKind::Link(_)) => EntryType::Symlink,
        (_, InodeKind::Fifo) => EntryType::Fifo,
        (_, InodeKind::Character(..)) => EntryType::Char,
        (_, InodeKind::Block(..)) => EntryType::Block,
        (_, InodeKind::File | InodeKind::Socket) => EntryType::Regular,
    });
    if let InodeKind::Character(major, minor) | InodeKind::Block(major, minor) = inode.kind {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    let size = match form {
        Form::Whole if node.is_file() => inode.size,
        Form::Sparse(bytes) => bytes,
        _ => 0,
    };
    let mut number = |key: &str, value: u64, digits| {
        if !fits(value, digits) {
            extra.push((key.into(), value.to_string().into_bytes()));
        }
        if fits(value, digits) { value } else { 0 }
    };
    header.set_mode(u32::from(inode.permissions));
    header.set_size(number("size", size, 11));
    header.set_uid(number("uid", u64::from(inode.owner), 7));
    header.set_gid(number("gid", u64::from(inode.group), 7));
    if let Form::Sparse(_) = form {
        extra.push((b"GNU.sparse.major".into(), b"1".into()));
        extra.push((b"GNU.sparse.minor".into(), b"0".into()));
        extra.push((b"GNU.sparse.realsize".into(), inode.size.to_string().into_bytes()));
    }
    let Time { seconds, nanoseconds } = inode.modified;
    match u64::try_from(seconds) {
        Ok(seconds) if fits(seconds, 11) => header.set_mtime(seconds),
        _ => header.set_mtime(0),
    }
    if nanoseconds != 0 || !(0..1 << 33).contains(&seconds) {
        extra.push((b"mtime".into(), decimal(inode.modified).into_bytes()));
    }
    if !matches!(form, Form::Link(_)) {
        extra.extend(extended.0.iter().map(|(name, value)| attribute(name, value)));
    }
    if binary {
        extra.insert(0, (b"hdrcharset".into(), b"BINARY".into()));
    }
    header.set_cksum();
    Ok([extensions(&extra), header.as_bytes().to_vec()].concat())
}

/// Values of a header of ustar have this many octal digits at most.
fn fits(value: u64, digits: u32) -> bool {
    value < 1 << (3 * digits)
}

/// A header of extensions, if there are any. The values are raw: some are neither text nor short.
fn extensions(extra: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut records = Vec::new();
    for (key, value) in extra {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let mut len = rest + 1;
        while rest + len.to_string().len() > len {
            len += 1;
        }
        records.extend_from_slice(len.to_string().as_bytes());
        for part in [&b" "[..], key, b"=", value, b"\n"] {
            records.extend_from_slice(part);
        }
    }
    if records.is_empty() {
        return records;
    }
    let mut header = Header::new_ustar();
    if let Some(ustar) = header.as_ustar_mut() {
        ustar.name[..9].copy_from_slice(b"PaxHeader");
    }
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(records.len() as u64);
    header.set_cksum();
    records.resize(records.len().next_multiple_of(BLOCK as usize), 0);
    [header.as_bytes().to_vec(), records].concat()
}

/// An extended attribute as GNU tar and star write it. ACLs are text with numbers, so that they mean the same everywhere.
pub(crate) fn attribute(name: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let acl = |key: &str| acl(value).map(|text| (key.as_bytes().to_vec(), text.into_bytes()));
    let special = match name {
        b"system.posix_acl_access" => acl("SCHILY.acl.access"),
        b"system.posix_acl_default" => acl("SCHILY.acl.default"),
        b"security.selinux" => {
            Some((b"RHT.security.selinux".to_vec(), value.strip_suffix(&[0]).unwrap_or(value).to_vec()))
        }
        _ => None,
    };
    special.unwrap_or_else(|| {
        let mut key = b"SCHILY.xattr.".to_vec();
        for byte in name {
            match byte {
                // An equals sign ends the key.
                b'%' => key.extend_from_slice(b"%25"),
                b'=' => key.extend_from_slice(b"%3D"),
                byte => key.push(*byte),
            }
        }
        (key, value.to_vec())
    })
}

/// An ACL in the kernel's form as text; `None` when it is none.
fn acl(value: &[u8]) -> Option<String> {
    let mut text = String::new();
    for entry in value.strip_prefix(&2u32.to_le_bytes())?.chunks(8) {
        let [tag, tag_high, bits, 0, a, b, c, d] = *entry else { return None };
        let id = u32::from_le_bytes([a, b, c, d]);
        let who = match u16::from_le_bytes([tag, tag_high]) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let can = |bit: u8, letter| if bits & bit != 0 { letter } else { '-' };
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{who}:{}{}{}", can(4, 'r'), can(2, 'w'), can(1, 'x'));
    }
    (!text.is_empty()).then_some(text)
}

/// The entry of a map of a sparse file, for a range of data.
pub fn region(range: &Range<u64>) -> String {
    format!("{}\n{}\n", range.start, range.end - range.start)
}

/// A time as a decimal number, which before 1970 is negative as a whole.
fn decimal(time: Time) -> String {
    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let (sign, value) = (if nanoseconds < 0 { "-" } else { "" }, nanoseconds.unsigned_abs());
    let text = format!("{sign}{}.{:09}", value / 1_000_000_000, value % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_negative_as_a_whole() {
        let text = |seconds, nanoseconds| decimal(Time { seconds, nanoseconds });
        assert_eq!(text(5, 0), "5");
        assert_eq!(text(5, 120_000_000), "5.12");
        assert_eq!(text(-1, 500_000_000), "-0.5");
        assert_eq!(text(-2, 750_000_000), "-1.25");
        assert_eq!(text(10, 0), "10");
    }

    #[test]
    fn the_length_of_an_extension_counts_itself() {
        // Around the lengths at which it has a digit more.
        for len in (0..30).chain(80..120).chain(980..1010) {
            let bytes = extensions(&[(b"key".to_vec(), vec![b'v'; len])]);
            let record = &bytes[BLOCK as usize..];
            let space = record.iter().position(|b| *b == b' ').unwrap();
            let said: usize = std::str::from_utf8(&record[..space]).unwrap().parse().unwrap();
            assert_eq!(said, space + 1 + 4 + len + 1);
            assert_eq!(record[said - 1], b'\n');
            assert!(record[said..].iter().all(|b| *b == 0) && record.len().is_multiple_of(BLOCK as usize));
        }
    }

    #[test]
    fn attributes_are_what_tar_calls_them() {
        let key = |name: &[u8]| String::from_utf8(attribute(name, b"v").0).unwrap();
        assert_eq!(key(b"user.a=b%c"), "SCHILY.xattr.user.a%3Db%25c");
        assert_eq!(key(b"security.selinux"), "RHT.security.selinux");
        // No ACL that anybody knows: as it is.
        assert_eq!(key(b"system.posix_acl_access"), "SCHILY.xattr.system.posix_acl_access");
        let entry =
            |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
        let none = u32::MAX;
        let value = [
            2u32.to_le_bytes().to_vec(),
            entry(1, 6, none),
            entry(2, 5, 1000),
            entry(4, 4, none),
            entry(16, 7, none),
            entry(32, 0, none),
        ];
        let (key, text) = attribute(b"system.posix_acl_default", &value.concat());
        assert_eq!(key, b"SCHILY.acl.default");
        assert_eq!(text, b"user::rw-,user:1000:r-x,group::r--,mask::rwx,other::---");
    }
}
