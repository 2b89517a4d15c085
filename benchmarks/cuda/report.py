"""What a run on a GPU leaves: a table, a JSON file and a picture; written anew after every case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import Row, aligned, best_peer

EAGER = "*"  # marks who was timed as called, not as a graph


def peer_of(row: Row) -> tuple[str, float] | None:
    """The fastest peer, and how many times gradfuse's time it takes."""
    peers = tuple(name for name in row["seconds"] if not name.startswith("gradfuse"))
    return best_peer(row, peers) if peers and "gradfuse" in row["seconds"] else None


def ceiling_rows(results: dict[str, Any]) -> list[tuple[str, str, str, float]]:
    """What was measured of the memory: kind, size, by whom, GB/s; the fastest last."""
    found = []
    for row in results["ceilings"]:
        for name, sample in row["seconds"].items():
            found.append((row["case"], row["shape"], name, row["bytes"] / sample["median"] / 1e9))
    return sorted(found, key=lambda each: (("read", "copy", "add").index(each[0]), each[3]))


def _others(row: Row) -> str:
    """Everyone's time over gradfuse's, the fastest first; in microseconds where gradfuse has none."""
    mine = row["seconds"].get("gradfuse")
    unit = mine["median"] if mine else 1e-6
    ranked = sorted((sample["median"], name) for name, sample in row["seconds"].items() if name != "gradfuse")
    return ", ".join(f"{name}{EAGER if name in row['eager'] else ''} {t / unit:.2f}" for t, name in ranked)


def table(rows: list[Row]) -> str:
    """gradfuse's time, speed on the least bytes, share of the copy, and how many times as long the others take."""
    lines = [["case", "dtype", "shape", "us", "20-80 %", "GB/s", "of copy", "best peer", "x", "all, times gradfuse's"]]
    for row in rows:
        mine, peer = row["seconds"].get("gradfuse"), peer_of(row)
        times = (
            [f"{mine['median'] * 1e6:.2f}", f"{mine['low'] * 1e6:.2f}-{mine['high'] * 1e6:.2f}"] if mine else ["", ""]
        )
        mark = EAGER if "gradfuse" in row["eager"] else ""
        lines.append(
            [
                row["case"] + mark,
                row["dtype"],
                row["shape"],
                *times,
                f"{row['gbs']:.0f}" if row["gbs"] else "",
                f"{row['copy_share']:.3f}" if row["copy_share"] else "",
                peer[0] if peer else "",
                f"{peer[1]:.2f}" if peer else "",
                _others(row),
            ]
        )
    return aligned(lines, (0, 1, 2, 7, 9))


def text(results: dict[str, Any]) -> str:
    """All of it: ceilings, table, who could not take part, what was not measured."""
    parts = []
    ceilings = [[kind, size, name, f"{gbs:.0f}"] for kind, size, name, gbs in ceiling_rows(results)]
    parts.append(aligned([["memory", "floats", "by", "GB/s"], *ceilings], (0, 1, 2)))
    parts.append(table(results["rows"]))
    notes = [
        f"{row['case']}, {row['dtype']}, {row['shape']}: {name}: {problem}"
        for row in results["ceilings"] + results["rows"]
        for name, problem in row["problems"].items()
    ]
    eager = {f"{name}: {why}" for row in results["rows"] for name, why in row["eager"].items() if why}
    if eager:
        parts.append("\n".join([f"{EAGER} timed as called, launches included:", *sorted(eager)]))
    if notes:
        parts.append("\n".join(["not timed:", *notes]))
    if results["not_measured"]:
        parts.append("\n".join([f"not measured, {results['stopped']}:", *results["not_measured"]]))
    return "\n\n".join(parts)


def picture(results: dict[str, Any], path: Path) -> None:
    """Bars: the share of the copy's speed, and how many times as long the best peer takes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in results["rows"] if "gradfuse" in row["seconds"]]
    if not rows:
        return
    names = [f"{row['case']}, {row['shape']}" for row in rows]
    colours = ["#4c78a8" if row["dtype"] == "float32" else "#f58518" for row in rows]
    places = list(range(len(rows)))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 0.17 * len(rows) + 1.5), sharey=True, layout="constrained", squeeze=True
    )
    ratios = [(peer_of(row) or ("", 1.0))[1] for row in rows]
    left.barh(places, [row["copy_share"] or 0 for row in rows], color=colours, height=0.7)
    right.barh(places, [ratio - 1 for ratio in ratios], left=1, color=colours, height=0.7)
    left.set_yticks(places, names, fontsize=6)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_xlim(0, 1.2)  # what stays in the cache goes beyond
    left.set_xlabel("share of a copy's speed, on the least bytes")
    right.set_xlabel("times faster than the best peer")
    right.set_xscale("log")
    for axes in (left, right):
        axes.axvline(1, color="black", linewidth=0.8)
        axes.grid(axis="x", which="both", linewidth=0.3)
    figure.suptitle(f"{results['machine'].get('gpu', '')}: float32 blue, bfloat16 orange")
    figure.savefig(path, dpi=110)
    plt.close(figure)
