"""The rows of a tree: a toolchain as installed, backed up first, unchanged, and with one file in a hundred changed, and
restored, by each tool. What came back is compared with what was there, content and metadata."""

import os
import shutil
import time
from statistics import median

import made_tree
import manifest
import measure
from tree_tools import Borg, Kopia, KopiaTuned, Restic, Rustic, Wherry
from tools import version

MIB = 1 << 20
PEERS = {"restic": Restic, "kopia": Kopia, "kopia-tuned": KopiaTuned, "borg": Borg, "rustic": Rustic}
# So often, as it takes so short: the median counts.
UNCHANGED = 3
# A ctime that is nearer to a run than this says nothing to it (wherry: 2 s).
SETTLED = 3

# row: (at least so many times as fast as the fastest peer, with warm caches)
LIMITS = {"first": (1, False), "unchanged warm": (3, True), "unchanged cold": (1.5, False), "changed": (2, False), "restore": (1.2, False)}


class Trees:
    def __init__(self, scratch, env, say):
        self.scratch, self.env, self.say = scratch, env, say
        self.source = os.path.join(scratch, "tree")
        self.contents = None  # digests of the tree with its changes
        self.proven = False

    def make(self, files):
        chosen = made_tree.plan(files)
        needed, free = made_tree.space(chosen), os.statvfs(self.scratch)
        # The tree, a repository that holds it uncompressed and once more what changed, the tree that is restored.
        if free.f_bavail * free.f_frsize < 3.3 * needed + (1 << 30):
            have = free.f_bavail * free.f_frsize
            raise measure.Failed(f"{self.scratch} has {have >> 20} MiB free, {int(3.3 * needed + (1 << 30)) >> 20} MiB are needed")
        self.say(f"making a tree of {files} files from {', '.join(made_tree.origins())}")
        made_tree.make(self.source, chosen)
        self.changes = made_tree.Changes(self.source, os.path.join(self.scratch, "changes"))
        found = {"files": files, "bytes": sum(size for _, _, size, _ in chosen), "rounds": chosen[-1][3] + 1, "tools": {}}
        self.say(f"{found['bytes'] / MIB:.0f} MiB, {needed / MIB:.0f} on the disk; {len(self.changes.paths)} changes of {self.changes.bytes / MIB:.0f} MiB lie ready")
        return found

    def tool(self, name, program, **settings):
        kind, more = (PEERS[name], []) if name in PEERS else (Wherry, ["auto"])
        tool = kind(name, program, os.path.join(self.scratch, name), self.source, self.env, *more, **settings)
        tool.init()
        return tool

    def measure_tool(self, tool, results):
        """All rows of one tool; its repository is deleted afterwards."""
        rows = results["tools"].setdefault(tool.name, {"rows": {}})["rows"]
        time.sleep(SETTLED)
        self.note(rows, tool, "first", [tool.backup()])
        self.note(rows, tool, "unchanged warm", [tool.backup(warm=True) for _ in range(UNCHANGED)], warm=True)
        self.note(rows, tool, "unchanged cold", [tool.backup() for _ in range(UNCHANGED)])
        self.changes.swap()
        try:
            time.sleep(SETTLED)
            self.note(rows, tool, "changed", [tool.backup()])
            target = os.path.join(self.scratch, "restored")
            os.makedirs(target)
            self.note(rows, tool, "restore", [tool.restore_tree(target)])
            results["tools"][tool.name]["lost"] = self.compare(tool, target)
            shutil.rmtree(target)
        finally:
            self.changes.swap()
        tool.delete()

    def note(self, rows, tool, name, measured, warm=False):
        row = {key: median(getattr(one, key) for one in measured) for key in ("wall", "sync", "cpu")}
        row |= {"peak": max(one.peak for one in measured), "stored": tool.stored(), "warm": warm}
        rows[name] = row
        self.say(f"{tool.name}, {name}: {total(row):.2f} s, {row['sync']:.2f} of them sync, CPU {row['cpu']:.2f} s, "
                 f"peak {row['peak'] / MIB:.0f} MiB, stored {row['stored'] / MIB:.0f} MiB")  # fmt: skip

    def compare(self, tool, target):
        """What the tool did not bring back, of that which not every tool does: {field: number of paths}."""
        wanted = manifest.manifest(self.source, self.contents)
        self.contents = {path: entry["content"] for path, entry in wanted.items() if entry["content"]}
        differ = manifest.differences(wanted, manifest.manifest(target), manifest.ALL)
        ours = tool.name.startswith("wherry")
        # The directory that a peer restores into was made here, and is not of its making.
        if not ours:
            differ = {field: [path for path in paths if path != "."] for field, paths in differ.items()}
        fatal = {field: paths for field, paths in differ.items() if paths and (ours or field in ("entries", *manifest.BASIC))}
        if fatal:
            shown = "; ".join(f"{field}: {len(paths)}, such as {paths[:3]}" for field, paths in fatal.items())
            raise measure.Failed(f"{tool.name}: what was restored differs from what was backed up: {shown}")
        if not self.proven and not differ:
            manifest.prove(target, wanted, self.contents)
            self.proven = True
        return {field: len(paths) for field, paths in differ.items() if paths}


def total(row):
    """Seconds until everything was on the disk: tools differ in what they leave to the system."""
    return row["wall"] + row["sync"]


def run(scratch, env, say, programs, peers, wherry, files, chosen):
    """Makes the tree, measures all that was chosen, and gives the results."""
    trees = Trees(scratch, env, say)
    results = trees.make(files)
    names = [name for name in chosen if name in PEERS] + (["wherry"] if any(name.startswith("wherry") for name in chosen) else [])
    for name in names:
        program = wherry if name == "wherry" else os.path.join(peers, "bin", name.removesuffix("-tuned"))
        programs[name] = version(program)
        trees.measure_tool(trees.tool(name, program), results)
    if "wherry" in names:
        tool = trees.tool("wherry-zstd", wherry, compression="zstd")
        results["tools"][tool.name] = {"rows": {}}
        trees.note(results["tools"][tool.name]["rows"], tool, "first", [tool.backup()])
        tool.delete()
        if not trees.proven:
            raise measure.Failed("nothing was restored whole: the comparison was not proven")
    shutil.rmtree(trees.source)
    shutil.rmtree(trees.changes.spare)
    return results


def figures(results):
    """(what, value, limit, form, at least) of each figure of wherry, beside the best peer of the same run."""
    found = []
    ours = results["tools"].get("wherry", {"rows": {}})["rows"]
    peers = [tool["rows"] for name, tool in results["tools"].items() if not name.startswith("wherry")]
    for name, row in ours.items():
        limit, warm = LIMITS[name]
        found.append((f"tree, {name}: peak MiB", row["peak"] / MIB, 256, "{:.0f}", False))
        others = [peer[name] for peer in peers]
        if not others:
            continue
        if any(other["warm"] != warm for other in [row, *others]):
            raise measure.Failed(f"tree, {name}: caches were warm for one and cold for another")
        best = min(others, key=total)
        found.append((f"tree, {name}: times as fast as the best peer", total(best) / total(row), limit, "{:.2f}", True))
        found.append((f"tree, {name}: CPU x best peer", row["cpu"] / min(other["cpu"] for other in others), 1, "{:.2f}", False))
    return found
