"""Puts the measures into tables, and beside the figures that wherry has to reach."""

MIB = 1 << 20
ROWS = ["first", "unchanged", "changed", "restore file", "restore device"]


def table(head, rows):
    widths = [max(len(str(row[column])) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(str(cell).ljust(width) if column == 0 else str(cell).rjust(width) for column, (cell, width) in enumerate(zip(row, widths))))


def number(value, form="{:.2f}"):
    return "-" if value is None else form.format(value)


def measures(results):
    """Every row of every tool: wall, sync, CPU, peak memory, bytes in the repository afterwards."""
    rows = []
    for tool, found in results["tools"].items():
        for name in found["rows"]:
            row = found["rows"][name]
            stored = row.get("stored")
            rows.append([
                f"{tool}, {name}", number(row["wall"]), number(row["sync"]), number(row["cpu"]),
                number(row["cpu"] / (results["data"] / 1e9)), number(row["peak"] / MIB, "{:.0f}"),
                number(stored and stored / MIB, "{:.0f}"),
            ])
    table(["row", "wall s", "sync s", "CPU s", "CPU s/GB", "peak MiB", "stored MiB"], rows)


def trees(results):
    """Every row of every tool on the tree: wall with what `sync` took afterwards, CPU, peak memory, bytes in the repository."""
    rows = []
    for tool, found in results["tools"].items():
        for name, row in found["rows"].items():
            rows.append([
                f"{tool}, {name}", number(row["wall"] + row["sync"]), number(row["sync"]), number(row["cpu"]),
                number(row["peak"] / MIB, "{:.0f}"), number(row["stored"] / MIB, "{:.0f}"),
            ])
    table(["tree", "s", "of it sync", "CPU s", "peak MiB", "stored MiB"], rows)
    for tool, found in results["tools"].items():
        if lost := found.get("lost"):
            print(f"{tool} did not bring back: " + ", ".join(f"{field} of {count}" for field, count in lost.items()))


def mounts(results):
    rows = [
        [tool, number(m["first_byte"] * 1000, "{:.0f}"), number(m["sequential"], "{:.0f}"), number(m["random"], "{:.0f}"),
         number(m["second"], "{:.0f}") + ("" if m["covered"] else " *"), number(m["peak"] / MIB, "{:.0f}")]
        for tool, found in results["tools"].items() if (m := found.get("mount"))
    ]
    table(["mount", "first byte ms", "MB/s", "random IOPS", "second pass", "peak MiB"], rows)
    if any(row[4].endswith("*") for row in rows):
        print("* the first pass did not get through the window in its time, so the second met cold data too")


def figures(results):
    """Each figure of wherry beside its limit, one line each; those that are missed are marked."""
    tools = results["tools"]
    peers = {name: found for name, found in tools.items() if not name.startswith("wherry")}
    rows = []

    def line(what, value, limit, form="{:.2f}", least=False):
        met = value >= limit if least else value <= limit
        rows.append([what, form.format(value), (">= " if least else "<= ") + form.format(limit), "" if met else "MISSED"])

    for tool, found in tools.items():
        if "stored_ratio" not in found:
            continue  # a peer, or a row of its own that extras.py judges
        for name in ROWS:
            if name not in found["rows"]:
                continue
            wall = found["rows"][name]["wall"]
            line(f"{tool}, {name}: sync after it, s", found["rows"][name]["sync"], 0.3)
            floor = found["rows"][name].get("floor")
            if floor:
                line(f"{tool}, {name}: x fio", wall / floor, 1.2 if name == "unchanged" else 1.35)
            others = [peer["rows"][name] for peer in peers.values() if name in peer["rows"]]
            if others:
                share = {"first": 1 / 3, "unchanged": 1 / 2.5, "changed": 1 / 2.5}.get(name, 1 / 2)
                line(f"{tool}, {name}: x best peer", wall / min(o["wall"] for o in others), share)
            if name == "first" and others:
                # All back up the same bytes, so this is the ratio of CPU seconds per GB too.
                line(f"{tool}, first: CPU x best peer", found["rows"][name]["cpu"] / min(o["cpu"] for o in others), 1)
            if name == "first" and "kopia" in peers:
                line(f"{tool}, first: x kopia streamed", wall / peers["kopia"]["rows"]["first"]["wall"], 1 / 8)
            if limit := found["rows"][name].get("memory"):
                line(f"{tool}, {name}: peak x --memory", found["rows"][name]["peak"] / limit, 1)
        if ratio := found.get("stored_ratio"):
            line(f"{tool}: stored x lz4 of distinct chunks", ratio, 1.01, "{:.4f}")
        if m := found.get("mount"):
            line(f"{tool}: mount to first byte, ms", m["first_byte"] * 1000, 300, "{:.0f}")
            line(f"{tool}: FUSE sequential, MB/s", m["sequential"], 600, "{:.0f}", least=True)
            line(f"{tool}: FUSE random 4 KiB, IOPS", m["random"], 3000, "{:.0f}", least=True)
            line(f"{tool}: FUSE second pass, IOPS", m["second"], 20000, "{:.0f}", least=True)
            line(f"{tool}: mount, peak x --memory", m["peak"] / (256 * MIB), 1)
    for what, value, limit, form, least in [*results.get("figures", []), *results.get("trees", {}).get("figures", [])]:
        line(what, value, limit, form, least)
    if rows:
        table(["figure", "is", "limit", ""], rows)
        missed = sum(1 for row in rows if row[3])
        print(f"{len(rows) - missed} figures met, {missed} missed")
