"""Makes the disk that is backed up: like that of a virtual machine, and the same again after a day's work."""

import os
import random
import shutil
import subprocess

MIB = 1 << 20
PAGE = 16 << 10  # of the database file

# Shares of the disk, in percent. With what ext4 adds, about two fifths of the disk are not zero.
TREE, DATABASE, RANDOM, ZEROS, JUNK = 24, 8, 7, 3, 2


def call(*argv):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


class Mounted:
    """An image's file system, mounted while the block runs."""

    def __init__(self, image, point):
        self.image, self.point = image, point

    def __enter__(self):
        os.makedirs(self.point, exist_ok=True)
        self.loop = attach(self.image)
        call("mount", self.loop, self.point)
        return self.point

    def __exit__(self, *_):
        call("umount", self.point)
        detach(self.loop)


def attach(image, *flags):
    argv = ["losetup", "--find", "--show", *flags, image]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def detach(loop):
    call("losetup", "--detach", loop)


def make(image, size, scratch):
    """A sparse image of `size` bytes with ext4: an installed tree, a database, data that cannot be compressed, zeros
    that were written, and blocks of deleted files."""
    with open(image, "wb") as f:
        f.truncate(size)
    call("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    with Mounted(image, os.path.join(scratch, "fs")) as root:
        rng = random.Random(1)
        copied = copy_tree("/usr", os.path.join(root, "usr"), size * TREE // 100)
        junk = os.path.join(root, "junk")
        write(junk, size * JUNK // 100, lambda n: rng.randbytes(n))
        os.makedirs(os.path.join(root, "var"))
        database(os.path.join(root, "var/records.db"), size * DATABASE // 100, rng)
        write(os.path.join(root, "var/random.bin"), size * RANDOM // 100, lambda n: rng.randbytes(n))
        write(os.path.join(root, "var/zeros.bin"), size * ZEROS // 100, bytes)
        os.remove(junk)  # its blocks keep what they held, as on any disk in use
    return copied


def churn(image, changed, scratch):
    """A copy of the image after a day: pages of the database changed here and there, files replaced, added, removed."""
    call("cp", "--sparse=always", "--reflink=never", image, changed)
    with Mounted(changed, os.path.join(scratch, "fs")) as root:
        rng = random.Random(2)
        path = os.path.join(root, "var/records.db")
        pages = os.path.getsize(path) // PAGE
        with open(path, "r+b") as f:
            for page in sorted(rng.sample(range(pages), pages // 50)):
                f.seek(page * PAGE)
                f.write(record_page(page, rng))
        files = sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(os.path.join(root, "usr"))
            for name in names
            if not os.path.islink(os.path.join(folder, name))
        )
        for number, path in enumerate(files):
            if number % 100 == 7:  # an upgrade: the same name, other content in other blocks
                data = open(path, "rb").read()
                os.remove(path)
                with open(path, "wb") as f:
                    f.write(data[len(data) // 2 :] + data[: len(data) // 2])
            elif number % 400 == 9:
                os.remove(path)
        write(os.path.join(root, "var/log"), os.path.getsize(changed) // 200, lambda n: log_lines(n, rng))


def copy_tree(source, target, budget):
    """Copies regular files and links in the order of their names until `budget` bytes are reached."""
    copied = 0
    for folder, folders, names in os.walk(source):
        folders.sort()
        into = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(into, exist_ok=True)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                os.symlink(os.readlink(path), os.path.join(into, name))
            elif os.path.isfile(path) and copied + os.path.getsize(path) <= budget:
                shutil.copyfile(path, os.path.join(into, name))
                copied += os.path.getsize(path)
    return copied


def write(path, length, make_bytes):
    with open(path, "wb") as f:
        while length > 0:
            f.write(make_bytes(min(length, 4 * MIB)))
            length -= 4 * MIB


def record_page(page, rng):
    """A page as databases have them: a header, records of text and numbers, some free room. Half of it compresses."""
    head = page.to_bytes(8, "big") + rng.randbytes(24)
    body = b"".join(b"%08d|customer %d|status=%d|" % (rng.randrange(10**8), page, n % 5) + rng.randbytes(40) for n in range(180))
    return (head + body)[: PAGE - 2048].ljust(PAGE, b"\0")


def database(path, length, rng):
    with open(path, "wb") as f:
        for page in range(length // PAGE):
            f.write(record_page(page, rng))


def log_lines(length, rng):
    lines = []
    while length > 0:
        lines.append(b"Nov 23 %06d host service[%d]: request %d done in %d ms\n" % (rng.randrange(10**6), rng.randrange(10**5), rng.randrange(10**9), rng.randrange(500)))
        length -= len(lines[-1])
    return b"".join(lines)


def facts(path, chunk=256 << 10):
    """(bytes that are not zero, by 4 KiB blocks; start of the densest window; its length). The window, a quarter of the
    disk and at most 1 GiB, is where random reads are measured."""
    size = os.path.getsize(path)
    length = min(1 << 30, size // 4)
    zeros, zero = bytes(chunk), bytes(4096)
    dense = []
    data = 0
    with open(path, "rb", buffering=0) as f:
        while block := f.read(chunk):
            used = 0
            if block != zeros[: len(block)]:
                used = sum(4096 for at in range(0, len(block), 4096) if block[at : at + 4096] != zero)
            dense.append(used)
            data += used
    span = length // chunk
    total = best = sum(dense[:span])
    start = 0
    for at in range(span, len(dense)):
        total += dense[at] - dense[at - span]
        if total > best:
            best, start = total, at - span + 1
    return data, start * chunk, span * chunk
