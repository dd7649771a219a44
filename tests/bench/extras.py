"""Rows that only wherry has: other ceilings of memory, S3 far away, zstd, a huge sparse file, few changes, a thousand
snapshots."""

import os
import random

import measure
import s3
from tools import Wherry

MIB = 1 << 20
CHUNK = 256 << 10


def rows(bench, results):
    """Runs them all and adds what they show to `results["figures"]`: (what, value, limit, form, at least)."""
    figures = results["figures"] = []
    memory(bench, results, figures)
    far_away(bench, results, figures)
    zstd(bench, results, figures)
    sparse(bench, figures)
    few_changes(bench, figures)
    many_snapshots(bench, figures)


def fresh(bench, name, init=True, **settings):
    tool = Wherry(name, bench.wherry, os.path.join(bench.scratch, name), bench.source, bench.env, "auto", **settings)
    if init:
        tool.init()
    return tool


def memory(bench, results, figures):
    for ceiling in (128, 1024):
        tool = fresh(bench, f"wherry-{ceiling}M", memory=f"{ceiling}M")
        row = tool.backup()
        bench.note(results, tool.name, "first", row, tool.stored())
        figures.append((f"first with --memory {ceiling}M: peak MiB", row.peak / MIB, ceiling, "{:.0f}", False))
        target = os.path.join(bench.scratch, "restored.img")
        row = tool.restore_file(target)
        bench.note(results, tool.name, "restore file", row)
        figures.append((f"restore with --memory {ceiling}M: peak MiB", row.peak / MIB, ceiling, "{:.0f}", False))
        os.remove(target)
        tool.delete()


def far_away(bench, results, figures):
    """A bucket whose every answer takes 200 ms longer: many requests are under way, and each holds its bytes."""
    tool = fresh(bench, "wherry-s3-200ms", init=False)
    with s3.Server(bench.weed, os.path.join(tool.home, "s3"), bench.env) as server, s3.Relay(server.port, 0.2) as relay:
        tool.env |= s3.KEYS | {"WHERRY_REPOSITORY": "s3://bench/far", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}"}
        tool.init()
        row = tool.backup()
        bench.note(results, tool.name, "first", row)
        figures.append(("first to S3 with 200 ms: peak MiB", row.peak / MIB, 256, "{:.0f}", False))
        target = os.path.join(bench.scratch, "restored.img")
        row = tool.restore_file(target)
        bench.compare(tool, target)
        bench.note(results, tool.name, "restore file", row)
        figures.append(("restore from S3 with 200 ms: peak MiB", row.peak / MIB, 256, "{:.0f}", False))
        os.remove(target)
    tool.delete()


def zstd(bench, results, figures):
    tool = fresh(bench, "wherry-zstd", compression="zstd")
    row = tool.backup()
    bench.note(results, tool.name, "first", row, tool.stored())
    if restic := results["tools"].get("restic"):
        theirs = restic["rows"]["first"]
        figures.append(("zstd, stored x restic's", tool.stored() / theirs["stored"], 1.03, "{:.3f}", False))
        figures.append(("zstd, speed x restic's", theirs["wall"] / row.wall, 4, "{:.2f}", True))
    tool.delete()


def sparse(bench, figures):
    """15 TiB with 128 pieces of 4 MiB that hold data."""
    image = os.path.join(bench.scratch, "sparse.img")
    rng = random.Random(3)
    with open(image, "wb") as f:
        f.truncate(15 << 40)
        for piece in range(128):
            f.seek(piece * ((15 << 40) // 128) // CHUNK * CHUNK)
            f.write(rng.randbytes(4 * MIB))
    tool = fresh(bench, "wherry-sparse")
    before = tool.metadata()
    row = tool.backup(image)
    chunks = 128 * 4 * MIB // CHUNK
    figures.append(("15 TiB sparse: s", row.wall, 20, "{:.1f}", False))
    figures.append(("15 TiB sparse: metadata, KiB", (tool.metadata() - before) / 1024, 64 + 64 * chunks / 1024, "{:.0f}", False))
    figures.append(("15 TiB sparse: peak MiB", row.peak / MIB, 256, "{:.0f}", False))
    tool.delete()
    os.remove(image)


def few_changes(bench, figures):
    """One byte in every thousandth chunk that holds data."""
    tool = fresh(bench, "wherry-few")
    tool.backup()
    rng = random.Random(4)
    zeros = bytes(CHUNK)
    with open(bench.source, "rb", buffering=0) as f:
        data = [at for at in range(0, bench.size, CHUNK) if f.read(CHUNK) != zeros]
    chosen = rng.sample(data, max(1, len(data) // 1000))
    old = {}
    with open(bench.source, "r+b", buffering=0) as f:
        for at in chosen:
            old[at] = os.pread(f.fileno(), 1, at)
            os.pwrite(f.fileno(), bytes([old[at][0] ^ 0xFF]), at)
        before = tool.metadata()
        tool.backup()
        for at in chosen:
            os.pwrite(f.fileno(), old[at], at)
    changed = len(chosen) * CHUNK
    figures.append(("0.1 % changed: metadata, % of the chunks", 100 * (tool.metadata() - before) / changed, 2, "{:.2f}", False))
    tool.delete()


def many_snapshots(bench, figures):
    """Mount to first byte with a thousand snapshots in the repository, a key file and no cache."""
    tool = fresh(bench, "wherry-many")
    small = os.path.join(bench.scratch, "small.img")
    with open(small, "wb") as f:
        f.write(random.Random(5).randbytes(MIB))
    argv = [bench.wherry, "--json", "backup", small, "--name"]
    for number in range(999):
        measure.run([*argv, f"small{number}"], tool.env, warm=True)
    tool.backup()
    tool.env["WHERRY_CACHE_DIR"] = os.path.join(tool.home, "no-cache")
    first_byte, _ = bench.first_byte(tool)
    figures.append(("mount to first byte, 1000 snapshots, ms", first_byte * 1000, 300, "{:.0f}", False))
    tool.delete()
