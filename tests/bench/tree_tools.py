"""How wherry and its peers back up and restore a directory, each as its manual says for one, with what it takes over from
the snapshot before. Those that can be told how many files to work on at once are."""

import os

import tools


class Restic(tools.Restic):
    def backup(self, **how):
        return self.call("backup", self.source, **how)

    def restore_tree(self, target):
        return self.call("restore", f"latest:{self.source}", "--target", target)


class Kopia(tools.Kopia):
    """Without compression, as its default policy has it."""

    flags = ()

    def backup(self, **how):
        return self.call("snapshot", "create", *self.flags, self.source, **how)

    def restore_tree(self, target):
        return self.call("restore", *self.flags, self.object(), target)


class KopiaTuned(Kopia):
    """Fast compression, as many files at once as help."""

    policy = ("--compression=s2-default",)
    flags = ("--parallel=8",)


class Borg(tools.Borg):
    def backup(self, **how):
        self.number += 1
        return self.call("create", "--compression=lz4", f"::{self.number}", self.source, **how)

    def restore_tree(self, target):
        above = self.source.strip("/").count("/") + 1
        return self.call("extract", f"--strip-components={above}", f"::{self.number}", cwd=target)


class Rustic(tools.Rustic):
    def backup(self, **how):
        return self.call("backup", self.source, **how)

    def restore_tree(self, target):
        return self.call("restore", f"latest:{self.source}", target)


class Wherry(tools.Wherry):
    def backup(self, **how):
        return self.call("--json", *self.globals, "backup", self.source, "--name", "bench", *self.flags, **how)

    def restore_tree(self, target):
        return self.call(*self.globals, "restore", "latest:bench", target)
