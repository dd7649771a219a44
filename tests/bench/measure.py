"""Runs one command with cold caches and says what it took."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

MIB = 1 << 20
LAUNCH = os.path.join(os.path.dirname(__file__), "launch.py")


@dataclass
class Measure:
    wall: float  # seconds until the command ended
    sync: float  # seconds that `sync` took afterwards: what the command left to others
    cpu: float  # seconds, user and system, of the command and its children
    peak: int  # bytes resident, of the command and its children together
    out: str


class Failed(Exception):
    """A command that had to succeed did not."""


def cold():
    """Nothing of any file is in memory afterwards."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


class Watch(threading.Thread):
    """Adds up what the descendants of a process have resident. One process alone is exact through wait4; this sees
    several at once."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.05):
            self.peak = max(self.peak, sum(resident(pid) for pid in family(self.pid)[1:]))


def family(pid):
    """A process and its descendants."""
    found = [pid]
    for member in found:
        try:
            for task in os.listdir(f"/proc/{member}/task"):
                with open(f"/proc/{member}/task/{task}/children") as f:
                    found += [int(child) for child in f.read().split()]
        except OSError:
            pass  # it ended meanwhile
    return found


def resident(pid):
    try:
        with open(f"/proc/{pid}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def high_water(pid):
    """The most a process that is still running ever had resident, in bytes."""
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def run(argv, env, stdin=None, stdout=None, warm=False, cwd=None):
    """Runs `argv` with cold caches. `stdin` and `stdout` are paths; without `stdout` the output is kept."""
    if warm:
        os.sync()  # what others left to be written is not this command's
    else:
        cold()
    log = os.path.join(env["BENCH_LOGS"], f"{time.monotonic_ns()}.log")
    with (
        open(stdin or os.devnull, "rb") as source,
        open(stdout or log + ".out", "r+b" if stdout and os.path.exists(stdout) else "w+b") as sink,
        open(log, "w+b") as errors,
    ):
        told, tell = os.pipe()
        child = subprocess.Popen([sys.executable, "-SE", LAUNCH, str(tell), *argv], env=env, cwd=cwd, stdin=source,
                                 stdout=sink, stderr=errors, pass_fds=[tell])  # fmt: skip
        os.close(tell)
        watch = Watch(child.pid)
        watch.start()
        child.wait()
        watch.over.set()
        watch.join()
        with os.fdopen(told) as f:
            took = json.loads(f.read() or '{"status": "not started"}')
        start = time.monotonic()
        os.sync()
        sync = time.monotonic() - start
        errors.seek(0)
        said = errors.read().decode(errors="replace")
        out = ""
        if not stdout:
            sink.seek(0)
            out = sink.read().decode(errors="replace")
    if took["status"] != 0:
        raise Failed(f"{' '.join(argv)}\nexit {took['status']}\n{said[-3000:]}{out[-1000:]}")
    return Measure(took["wall"], sync, took["cpu"], max(watch.peak, took["peak"]), out + said)


def sha256(path, length=None):
    """Of a file or a device, at most the first `length` bytes, read past the caches of earlier writes."""
    cold()
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        left = length if length is not None else 1 << 62
        while left and (data := f.read(min(left, 8 * MIB))):
            digest.update(data)
            left -= len(data)
    return digest.hexdigest()


def stored(path):
    """Bytes of all files beneath a directory, by their lengths."""
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)


def wait_for(what, test, seconds=60):
    """Tries `test` every 2 ms until it returns something true."""
    end = time.monotonic() + seconds
    while not (result := test()):
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} s for {what}")
        time.sleep(0.002)
    return result
