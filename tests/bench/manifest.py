"""What a tree is made of, entry by entry, and how one differs from another."""

import hashlib
import os
import stat

import measure

MIB = 1 << 20
# What every tool has to bring back; wherry also the rest.
BASIC = ("kind", "mode", "owner", "size", "target", "content")
ALL = (*BASIC, "mtime", "links", "xattrs")


def entries(root):
    """{path below the root: what lstat says}, the root itself as "."."""
    found = {".": os.lstat(root)}
    folders = [""]
    for folder in folders:
        with os.scandir(os.path.join(root, folder)) as listed:
            for entry in listed:
                path = os.path.join(folder, entry.name)
                found[path] = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
    return found


def manifest(root, contents=None):
    """{path: {field: value}} of a whole tree. `contents` are digests known from before: those files are not read."""
    measure.cold()  # what is on the disk counts, not what a cache still holds
    found = {}
    for path, info in entries(root).items():
        full = os.path.join(root, path)
        link, plain = stat.S_ISLNK(info.st_mode), stat.S_ISREG(info.st_mode)
        found[path] = {
            "kind": stat.S_IFMT(info.st_mode),
            "mode": stat.S_IMODE(info.st_mode),
            "owner": (info.st_uid, info.st_gid),
            "size": info.st_size if plain else None,
            "target": os.readlink(full) if link else None,
            "content": digest(full, contents and contents.get(path)) if plain else None,
            "mtime": info.st_mtime_ns,
            "links": None if stat.S_ISDIR(info.st_mode) else info.st_nlink,
            "xattrs": {name: os.getxattr(full, name, follow_symlinks=False) for name in os.listxattr(full, follow_symlinks=False)},
        }
    return found


def digest(path, known=None):
    if known:
        return known
    found = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while data := f.read(4 * MIB):
            found.update(data)
    return found.digest()


def differences(wanted, found, fields):
    """{field: paths that differ in it}; "entries" are those that only one of the two has."""
    differ = {"entries": sorted(wanted.keys() ^ found.keys())}
    for path in wanted.keys() & found.keys():
        for field in fields:
            if wanted[path][field] != found[path][field]:
                differ.setdefault(field, []).append(path)
    return {field: sorted(paths) for field, paths in differ.items() if paths}


def prove(root, wanted, contents):
    """Shows that the comparison sees one byte that is other than it was, in a file whose size and times are as before.
    Gives back the tree as it was."""
    path = max((path for path, entry in wanted.items() if entry["size"]), key=lambda path: wanted[path]["size"])
    full = os.path.join(root, path)
    info = os.lstat(full)

    def flip():
        with open(full, "r+b", buffering=0) as f:
            byte = os.pread(f.fileno(), 1, info.st_size // 2)
            os.pwrite(f.fileno(), bytes([byte[0] ^ 1]), info.st_size // 2)
        os.utime(full, ns=(info.st_atime_ns, info.st_mtime_ns))

    flip()
    known = {other: found for other, found in contents.items() if other != path}
    differ = differences(wanted, manifest(root, known), ALL)
    flip()
    if differ.get("content") != [path]:
        raise measure.Failed(f"one byte of {path} was changed, and the comparison says: {differ}")
