"""python3 tests/bench: see scripts/bench, which sets up what this needs and cleans up after it."""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict

import disk
import extras
import fio
import measure
import report
import trees
from tools import Borg, Kopia, KopiaTuned, Restic, Rustic, Wherry, version

MIB = 1 << 20
PEERS = {"restic": Restic, "kopia": Kopia, "kopia-tuned": KopiaTuned, "borg": Borg, "rustic": Rustic}
WHERRY = {"wherry-ring": "ring", "wherry-threads": "threads"}


class Bench:
    def __init__(self, args):
        self.size, self.scratch = args.size, args.scratch
        self.wherry, self.peers, self.python, self.weed = args.wherry, args.peers, args.python, args.weed
        self.source = os.path.join(args.scratch, "source/disk.img")
        self.other = os.path.join(args.scratch, "other.img")
        self.point = os.path.join(args.scratch, "mnt")
        self.env = {name: os.environ[name] for name in ("PATH", "WHERRY_RUN_DIR") if name in os.environ}
        self.env |= {"BENCH_LOGS": os.path.join(args.scratch, "logs"), "TMPDIR": os.path.join(args.scratch, "tmp"), "LC_ALL": "C.UTF-8"}
        for folder in (self.point, self.env["BENCH_LOGS"], self.env["TMPDIR"], os.path.dirname(self.source)):
            os.makedirs(folder)

    def make_disks(self):
        say("making the disk and its churned copy")
        copied = disk.make(self.source, self.size, self.scratch)
        disk.churn(self.source, self.other, self.scratch)
        self.data, self.window, self.window_length = disk.facts(self.source)
        self.sums = [measure.sha256(self.source), measure.sha256(self.other)]
        say(f"{self.size / MIB:.0f} MiB, {self.data / MIB:.0f} of them not zero, {copied / MIB:.0f} from an installed tree")

    def swap(self):
        """The source's path gets the other content."""
        between = self.other + ".swap"
        os.rename(self.source, between)
        os.rename(self.other, self.source)
        os.rename(between, self.other)
        self.sums.reverse()

    def note(self, results, tool, name, row, stored=None, **more):
        kept = {key: value for key, value in asdict(row).items() if key != "out"}
        kept |= more if stored is None else more | {"stored": stored}
        results["tools"].setdefault(tool, {"rows": {}})["rows"][name] = kept
        say(f"{tool}, {name}: {row.wall:.2f} s, sync {row.sync:.2f} s, CPU {row.cpu:.2f} s, peak {row.peak / MIB:.0f} MiB")

    def measure_tool(self, tool, results):
        """All rows of one tool; its repository is deleted afterwards."""
        ours = isinstance(tool, Wherry)
        more = {"memory": 256 * MIB} if ours else {}
        tool.init()
        before = tool.stored()
        for name in ("first", "unchanged", "changed"):
            if name == "changed":
                self.swap()
            os.utime(self.source)  # a block device has no time of change: everyone has to read it
            row = tool.backup()
            after = tool.stored()
            if ours:
                more["floor"] = self.backup_floor(name, after - before)
            self.note(results, tool.name, name, row, after, **more)
            before = after
        self.restore(tool, results, more)
        if tool.mounts:
            results["tools"][tool.name]["mount"] = self.mount_rows(tool)
        self.swap()
        tool.delete()

    def backup_floor(self, name, written):
        if name == "unchanged":
            return fio.read(self.source)
        return fio.read_while_writing(self.source, os.path.join(self.scratch, "fio-written"), written)

    def restore(self, tool, results, more):
        target = os.path.join(self.scratch, "restored/disk.img")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        ours = isinstance(tool, Wherry)
        row = tool.restore_file(target)
        self.compare(tool, target)
        os.remove(target)
        if ours:
            more["floor"] = fio.restore_floor(self.scratch, tool.stored(), target, self.data)
            os.remove(target)
        self.note(results, tool.name, "restore file", row, **more)

        backing = os.path.join(self.scratch, "device.img")
        with Device(backing, self.size) as device:
            row = tool.restore_device(device)
            self.compare(tool, device)
        if ours:
            with Device(backing, self.size) as device:
                more["floor"] = fio.restore_floor(self.scratch, tool.stored(), device, self.data)
        self.note(results, tool.name, "restore device", row, **more)

    def compare(self, tool, path):
        if measure.sha256(path, self.size) != self.sums[0]:
            raise measure.Failed(f"{tool.name}: what was restored to {path} differs from what was backed up")

    def first_byte(self, tool):
        """(seconds from the start of the mounting process to the first byte of the image, the most it had resident)."""
        with Mount(tool, self.point) as mount:
            with open(mount.path, "rb", buffering=0) as f:
                f.read(1)
            return time.monotonic() - mount.start, measure.high_water(mount.child.pid)

    def mount_rows(self, tool):
        first_byte, peak = self.first_byte(tool)
        with Mount(tool, self.point) as mount:
            sequential = fio.through_fuse(mount.path, self.window, self.window_length)
            peak = max(peak, measure.high_water(mount.child.pid))
        with Mount(tool, self.point) as mount:
            cold, second, covered = fio.random_reads(mount.path, self.window, self.window_length, 60)
            peak = max(peak, measure.high_water(mount.child.pid))
        say(f"{tool.name}, mount: first byte {first_byte * 1000:.0f} ms, {sequential:.0f} MB/s, {cold:.0f} and {second:.0f} IOPS")
        found = {"first_byte": first_byte, "sequential": sequential, "random": cold, "second": second, "covered": covered}
        return found | {"peak": peak}


class Device:
    """A loop device without cache of its own over a new sparse file."""

    def __init__(self, backing, size):
        self.backing, self.size = backing, size

    def __enter__(self):
        with open(self.backing, "wb") as f:
            f.truncate(self.size)
        self.loop = disk.attach(self.backing, "--direct-io=on")
        return self.loop

    def __exit__(self, *_):
        disk.detach(self.loop)
        os.remove(self.backing)


class Mount:
    """A repository mounted by a new process with cold caches; ready when the image can be seen."""

    def __init__(self, tool, point):
        self.tool, self.point = tool, point

    def __enter__(self):
        measure.cold()
        self.start = time.monotonic()
        self.child, self.path = self.tool.mount(self.point)
        measure.wait_for(f"{self.path} of {self.tool.name}", lambda: self.child.poll() is not None or os.path.exists(self.path))
        if self.child.poll() is not None:
            raise measure.Failed(f"{self.tool.name}: the mounting process ended with {self.child.returncode}")
        return self

    def __exit__(self, *_):
        unmounted = lambda: subprocess.run(["umount", self.point], capture_output=True).returncode == 0  # noqa: E731
        measure.wait_for(f"umount of {self.tool.name}", unmounted)
        self.child.wait(timeout=60)


def say(line):
    print(f"   {line}", flush=True)


def size(text):
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper())
    return int(text[:-1]) << unit if unit else int(text)


def measure_disks(bench, args, chosen, results):
    """All rows of disks: those of every tool, and those that only wherry has."""
    bench.make_disks()
    results |= {"size": bench.size, "data": bench.data}
    lz4 = subprocess.run([args.python, os.path.join(os.path.dirname(__file__), "distinct.py"), bench.source, str(256 << 10)],
                         check=True, capture_output=True, text=True)  # fmt: skip
    results["lz4"] = int(lz4.stdout)
    results["fio"] = {"image": fio.read(bench.source)}
    device = disk.attach(bench.source, "--direct-io=on", "--read-only")
    results["fio"]["device"] = fio.read(device, bench.size)
    disk.detach(device)
    say(f"fio reads the image in {results['fio']['image']:.2f} s, through a loop device in {results['fio']['device']:.2f} s")
    say(f"lz4 makes {results['lz4'] / MIB:.0f} MiB of its distinct chunks")

    for name in chosen:
        home = os.path.join(bench.scratch, name)
        if name in PEERS:
            program = os.path.join(args.peers, "bin", name.removesuffix("-tuned"))
            tool = PEERS[name](name, program, home, bench.source, bench.env)
        else:
            program = args.wherry
            tool = Wherry(name, program, home, bench.source, bench.env, WHERRY[name])
        results["versions"][name] = version(program)
        bench.measure_tool(tool, results)
        if name in WHERRY:
            found = results["tools"][name]
            found["stored_ratio"] = found["rows"]["first"]["stored"] / results["lz4"]
    if set(chosen) & set(WHERRY):
        extras.rows(bench, results)
    for path in (bench.source, bench.other):
        os.remove(path)


def main():
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--size", type=size, default=size("4G"))
    parser.add_argument("--tools", default=",".join([*PEERS, *WHERRY]))
    parser.add_argument("--parts", default="disks,trees")
    parser.add_argument("--tree-files", type=int, default=100_000)
    parser.add_argument("--json", help="file for all numbers")
    for name in ("scratch", "wherry", "peers", "python", "weed"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    chosen, parts = args.tools.split(","), args.parts.split(",")
    if unknown := set(chosen) - set(PEERS) - set(WHERRY):
        parser.error(f"no such tool: {', '.join(sorted(unknown))}")

    bench = Bench(args)
    results = {"tools": {}, "versions": {}}
    if "disks" in parts:
        measure_disks(bench, args, chosen, results)
    if "trees" in parts:
        programs = (results["versions"], args.peers, args.wherry)
        results["trees"] = trees.run(bench.scratch, bench.env, say, *programs, args.tree_files, chosen)
        results["trees"]["figures"] = trees.figures(results["trees"])

    print("\n== " + ", ".join(f"{name} {found}" for name, found in results["versions"].items()))
    if "disks" in parts:
        report.measures(results)
        print()
        report.mounts(results)
        print()
    if "trees" in parts:
        report.trees(results["trees"])
        print()
    report.figures(results)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(results, f, indent=1)


if __name__ == "__main__":
    try:
        main()
    except measure.Failed as why:
        sys.exit(f"error: {why}")
