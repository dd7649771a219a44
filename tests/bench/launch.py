"""Starts one command, waits for it, and writes what it took into the descriptor that is named first.

A process of its own, and a small one: the kernel counts what a process had resident when it started the command to the
command's own peak (setmax_mm_hiwater_rss in exec), and whoever compares trees holds hundreds of MiB."""

import json
import os
import signal
import sys
import time

report, argv = int(sys.argv[1]), sys.argv[2:]
os.set_inheritable(report, False)
start = time.monotonic()
try:
    # Python ignores these two, and a child would inherit that.
    child = os.posix_spawnp(argv[0], argv, os.environ, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ])
except OSError as e:
    sys.exit(f"{argv[0]}: {e}")
_, status, usage = os.wait4(child, 0)
took = {"wall": time.monotonic() - start, "status": os.waitstatus_to_exitcode(status),
        "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}  # fmt: skip
with os.fdopen(report, "w") as f:
    json.dump(took, f)
