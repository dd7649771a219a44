"""wherry and its peers: how each backs up, restores and mounts the same image."""

import json
import os
import re
import shutil
import subprocess

import measure

PASSWORD = "bench"


class Tool:
    """A program with a repository of its own beneath `home`. `source` is the path that the image always has."""

    mounts = False

    def __init__(self, name, program, home, source, env):
        self.name, self.program, self.home, self.source = name, program, home, source
        self.repo = os.path.join(home, "repo")
        os.makedirs(home)
        self.env = env | {"XDG_CACHE_HOME": f"{home}/cache", "XDG_CONFIG_HOME": f"{home}/config", "HOME": home}

    def call(self, *args, **how):
        return measure.run([self.program, *args], self.env, **how)

    def quiet(self, *args):
        """A step that is not measured."""
        return measure.run([self.program, *args], self.env, warm=True).out

    def stored(self):
        return measure.stored(self.repo)

    def delete(self):
        shutil.rmtree(self.home)

    def mount(self, point):
        """The mounting process, in the foreground, and the path of the image in the mount."""
        argv, path = self.mount_command(point)
        log = open(os.path.join(self.home, "mount.log"), "wb")
        return subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log), path


class Wherry(Tool):
    mounts = True

    def __init__(self, name, program, home, source, env, engine, memory=None, compression=None):
        super().__init__(name, program, home, source, env)
        self.env |= {
            "WHERRY_REPOSITORY": self.repo,
            "WHERRY_KEY_FILE": f"{home}/key",
            "WHERRY_CACHE_DIR": f"{home}/cache",
        }
        self.globals = ["--engine", engine, *(["--memory", memory] if memory else [])]
        self.flags = ["--compression", compression] if compression else []

    def init(self):
        self.quiet("init")

    def metadata(self):
        """Bytes in a local repository that are no packs of data."""
        return self.stored() - measure.stored(os.path.join(self.repo, "packs"))

    def backup(self, source=None):
        return self.call("--json", *self.globals, "backup", source or self.source, "--name", "bench", *self.flags)

    def restore_file(self, target):
        return self.call(*self.globals, "restore", "latest:bench", target)

    restore_device = restore_file

    def mount_command(self, point):
        argv = [self.program, "mount", point, "--foreground"]
        return argv, os.path.join(point, "by-volume/bench/latest/disk.raw")


class Restic(Tool):
    mounts = True

    def __init__(self, *args):
        super().__init__(*args)
        self.env |= {"RESTIC_REPOSITORY": self.repo, "RESTIC_PASSWORD": PASSWORD, "RESTIC_CACHE_DIR": f"{self.home}/cache"}

    def init(self):
        self.quiet("init")

    def backup(self):
        return self.call("backup", self.source)

    def restore_file(self, target):
        folder = os.path.dirname(self.source)
        result = self.call("restore", f"latest:{folder}", "--sparse", "--target", os.path.dirname(target))
        os.rename(os.path.join(os.path.dirname(target), os.path.basename(self.source)), target)
        return result

    def restore_device(self, device):
        return self.call("dump", "latest", self.source, stdout=device)

    def mount_command(self, point):
        return [self.program, "mount", point], f"{point}/snapshots/latest{self.source}"


class Kopia(Tool):
    """As Velero's data mover uses it: one stream, Velero's default splitter, no compression."""

    mounts = True
    create = ()
    policy = ()

    def __init__(self, *args):
        super().__init__(*args)
        self.env |= {"KOPIA_PASSWORD": PASSWORD, "KOPIA_CHECK_FOR_UPDATES": "false", "KOPIA_CONFIG_PATH": f"{self.home}/config"}
        self.env |= {"KOPIA_CACHE_DIRECTORY": f"{self.home}/cache", "KOPIA_LOG_DIR": f"{self.home}/log"}

    def init(self):
        os.makedirs(self.repo)
        self.quiet("repository", "create", "filesystem", "--path", self.repo, *self.create)
        self.quiet("policy", "set", "--global", *(self.policy or ("--compression=none",)))

    def backup(self):
        name = os.path.basename(self.source)
        return self.call("snapshot", "create", "--stdin-file", name, "/bench", stdin=self.source)

    def object(self):
        snapshots = self.quiet("snapshot", "list", "--all", "--json", "--no-incomplete")
        latest = max(json.loads(snapshots[snapshots.index("[") : snapshots.rindex("]") + 1]), key=lambda s: s["startTime"])
        return latest["rootEntry"]["obj"]

    def restore_file(self, target):
        return self.call("restore", "--write-sparse-files", f"{self.object()}/{os.path.basename(self.source)}", target)

    def restore_device(self, device):
        return self.call("show", f"{self.object()}/{os.path.basename(self.source)}", stdout=device)

    def mount_command(self, point):
        return [self.program, "mount", self.object(), point], os.path.join(point, os.path.basename(self.source))


class KopiaTuned(Kopia):
    """Pieces of fixed size, fast compression, one file read in parallel."""

    create = ("--object-splitter=FIXED-1M",)
    policy = ("--compression=s2-default", "--parallel-upload-above-size-mib=64", "--max-parallel-file-reads=4")

    def backup(self):
        return self.call("snapshot", "create", "--force-hash=100", "--parallel=4", os.path.dirname(self.source))

    def restore_file(self, target):
        return self.call(
            "restore", "--parallel=8", "--write-sparse-files", f"{self.object()}/{os.path.basename(self.source)}", target
        )


class Borg(Tool):
    def __init__(self, *args):
        super().__init__(*args)
        self.env |= {"BORG_REPO": self.repo, "BORG_PASSPHRASE": PASSWORD, "BORG_BASE_DIR": f"{self.home}/base"}
        self.number = 0

    def init(self):
        self.quiet("init", "--encryption=repokey-blake2")

    def backup(self):
        self.number += 1
        flags = ("--files-cache=disabled", "--compression=lz4", "--chunker-params=fixed,1048576", "--sparse")
        return self.call("create", *flags, f"::{self.number}", self.source)

    def restore_file(self, target):
        folder = os.path.dirname(target)
        self.env["PWD"] = folder
        argv = ["sh", "-c", f'cd {folder} && exec "$0" "$@"', self.program, "extract", "--sparse", f"::{self.number}"]
        result = measure.run(argv, self.env)
        os.rename(folder + self.source, target)
        return result

    def restore_device(self, device):
        return self.call("extract", "--stdout", f"::{self.number}", self.source.lstrip("/"), stdout=device)


class Rustic(Tool):
    def __init__(self, *args):
        super().__init__(*args)
        self.env |= {"RUSTIC_REPOSITORY": self.repo, "RUSTIC_PASSWORD": PASSWORD, "RUSTIC_NO_PROGRESS": "true"}
        self.env |= {"RUSTIC_CACHE_DIR": f"{self.home}/cache"}

    def init(self):
        self.quiet("init")

    def backup(self):
        return self.call("backup", "--force", self.source)

    def restore_file(self, target):
        return self.call("restore", f"latest:{self.source}", target)

    def restore_device(self, device):
        return self.call("dump", f"latest:{self.source}", stdout=device)


def version(program):
    """The first version number that `program --version` prints, or that its subcommand `version` does."""
    for args in (["--version"], ["version"]):
        said = subprocess.run([program, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if said.returncode == 0 and (found := re.search(r"\d+\.\d+(\.\d+)?", said.stdout + said.stderr)):
            return found.group()
    return "?"
