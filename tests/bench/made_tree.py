"""Makes the tree that is backed up, from what is installed on any machine that builds wherry, and changes one file in a
hundred of it."""

import os
import random
import shutil
import stat
import subprocess

import measure

MIB = 1 << 20
# A block of ext4, which a file of one byte takes too.
BLOCK = 4096
# Files of a tree whose figures count.
USUAL = 100_000


def origins():
    """Directories whose files are copied, in this order: the Rust toolchain, the sources of crates, the Go toolchain and
    its modules. Those that are not there are left out."""
    home = os.environ.get("CARGO_HOME") or os.path.join(os.path.expanduser("~"), ".cargo")
    asked = [said("rustc", "--print", "sysroot"), os.path.join(home, "registry/src"), said("go", "env", "GOROOT"), said("go", "env", "GOMODCACHE")]
    return [os.path.realpath(path) for path in asked if path and os.path.isdir(path)]


def said(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def plan(files):
    """[(folder above, path below it, size, round)] of so many regular files, and of the links between them. When all
    origins are used up they come again, and `round` tells their copies apart. A smaller tree than usual, for a try, has
    some of each kind."""
    if files < USUAL:
        return plan(USUAL)[:: USUAL // files][:files]
    chosen, count = [], 0
    for again in range(1000):
        before = count
        for origin in origins():
            for folder, folders, names in os.walk(origin):
                folders.sort()
                for name in sorted(names):
                    path = os.path.join(folder, name)
                    info = os.lstat(path)
                    if not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
                        continue
                    chosen.append((origin, os.path.relpath(path, origin), info.st_size, again))
                    count += stat.S_ISREG(info.st_mode)
                    if count == files:
                        return chosen
        if count == before:
            break
    raise measure.Failed("neither a Rust nor a Go toolchain was found: there is nothing to make a tree of")


def space(chosen):
    """Bytes on the disk that the files take."""
    return sum(-(-size // BLOCK) * BLOCK for _, _, size, _ in chosen)


def make(root, chosen):
    """Copies with permissions and times. In a second copy of a file each byte is another one, always the same for the same:
    it compresses as before and shares nothing with the first."""
    other = {}
    folders = {}
    for origin, path, _, again in chosen:
        into = os.path.join(root, f"{os.path.basename(origin)}-{again}" if again else os.path.basename(origin))
        source, target = os.path.join(origin, path), os.path.join(into, path)
        folder = os.path.dirname(target)
        if folder not in folders:
            os.makedirs(folder, exist_ok=True)
            folders[folder] = os.path.dirname(source)
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
        elif not again:
            shutil.copyfile(source, target)
        else:
            if again not in other:
                other[again] = bytes(random.Random(again).sample(range(256), 256))
            with open(source, "rb") as f, open(target, "wb") as g:
                while data := f.read(4 * MIB):
                    g.write(data.translate(other[again]))
        shutil.copystat(source, target, follow_symlinks=False)
    for folder in sorted(folders, reverse=True):
        shutil.copystat(folders[folder], folder)


class Changes:
    """One file in a hundred, chosen by a seed: half get something appended, a quarter are rewritten, an eighth are removed,
    and an eighth as many are added. They lie ready beside the tree, and `swap` exchanges them by renames."""

    def __init__(self, root, spare):
        self.root, self.spare = root, spare
        os.makedirs(spare)
        rng = random.Random(7)
        files = []
        for folder, folders, names in os.walk(root):
            folders.sort()
            files += [os.path.relpath(os.path.join(folder, name), root) for name in sorted(names)]
        files = [path for path in files if stat.S_ISREG(os.lstat(os.path.join(root, path)).st_mode)]
        chosen = rng.sample(files, max(8, len(files) // 100))
        self.paths = []
        for number, path in enumerate(chosen):
            source, target = os.path.join(root, path), self.beside(len(self.paths))
            if number % 8 == 6:
                path += ".added"
                with open(target, "wb") as f:
                    f.write(rng.randbytes(min(os.path.getsize(source), MIB)))
            elif number % 8 != 7:
                with open(source, "rb") as f:
                    data = f.read()
                with open(target, "wb") as f:
                    f.write(data + rng.randbytes(1000) if number % 8 < 4 else data[len(data) // 2 :] + data[: len(data) // 2])
                os.chmod(target, stat.S_IMODE(os.lstat(source).st_mode))
            self.paths.append(path)
        self.bytes = sum(os.path.getsize(self.beside(n)) for n in range(len(self.paths)) if os.path.exists(self.beside(n)))

    def beside(self, number):
        return os.path.join(self.spare, str(number))

    def swap(self):
        """Makes the changes, or takes them back."""
        for number, path in enumerate(self.paths):
            inside, outside, between = os.path.join(self.root, path), self.beside(number), os.path.join(self.spare, "between")
            for source, target in ((inside, between), (outside, inside), (between, outside)):
                if os.path.lexists(source):
                    os.rename(source, target)
