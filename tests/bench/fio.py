"""What the disks of this machine give, measured by fio on the very files and devices that the tools use."""

import json
import os
import subprocess

import measure

DEEP = ["--ioengine=libaio", "--direct=1", "--bs=1M", "--iodepth=16"]


def run(*args, warm=False):
    if not warm:
        measure.cold()
    argv = ["fio", "--output-format=json", *args]
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode != 0:
        raise measure.Failed(f"{' '.join(argv)}\nexit {result.returncode}\n{result.stderr}{result.stdout[-2000:]}")
    return json.loads(result.stdout[result.stdout.index("{") :])["jobs"]


def seconds(jobs):
    """Until the last of the jobs was done, the final fsync included."""
    return max(job["read"]["runtime"] + job["write"]["runtime"] for job in jobs) / 1000


def read(path, size=None):
    return seconds(run(*reading(path, size)))


def reading(path, size=None):
    """`size` is needed for devices: fio does not always know theirs."""
    return ["--name=read", f"--filename={path}", "--rw=read", "--readonly", *DEEP, *([f"--size={size}"] if size else [])]


def writing(path, size):
    return ["--name=write", f"--filename={path}", "--rw=write", f"--size={size}", "--end_fsync=1", *DEEP]


def read_while_writing(source, target, size):
    """Seconds for reading `source` while `size` bytes are written to the new file `target`, both to the end."""
    jobs = run(*[arg for arg in reading(source) if arg != "--readonly"], *writing(target, max(size, 1 << 20)))
    os.remove(target)
    return seconds(jobs)


def restore_floor(scratch, stored, target, data):
    """Seconds for reading `stored` bytes while writing `data` bytes to `target`, a file that is new or a device."""
    source = os.path.join(scratch, "fio-stored")
    run(*writing(source, stored), warm=True)
    jobs = run(*[arg for arg in reading(source) if arg != "--readonly"], *writing(target, data))
    os.remove(source)
    return seconds(jobs)


def through_fuse(path, start, length):
    """MB/s of reading a window front to back."""
    window = [f"--filename={path}", f"--offset={start}", f"--size={length}", "--readonly", "--ioengine=psync"]
    job = run("--name=sequential", "--rw=read", "--bs=1M", *window)[0]
    return job["read"]["io_bytes"] / 1e6 / (job["read"]["runtime"] / 1000)


def random_reads(path, start, length, limit):
    """(IOPS of 4 KiB reads by four jobs that cover a window once, of a second pass, whether the first pass got through).
    Each pass ends after `limit` seconds at the latest."""
    part = length // 4 // 4096 * 4096
    found = []
    covered = True
    for again in (False, True):
        jobs = []
        for number in range(4):
            jobs += [f"--name=random{number}", f"--filename={path}", f"--offset={start + number * part}", f"--size={part}"]
            jobs += ["--rw=randread", "--bs=4k", "--ioengine=psync", "--readonly", f"--runtime={limit}", "--invalidate=0"]
        done = run(*jobs, warm=again)
        found.append(sum(job["read"]["total_ios"] for job in done) / seconds(done))
        covered = covered and sum(job["read"]["io_bytes"] for job in done) >= 4 * part
    return found[0], found[1], covered
