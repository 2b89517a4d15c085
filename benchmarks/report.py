"""What a run leaves: a table, a JSON file and a picture."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
SUFFIXES = (".json", ".txt", ".png")
PARTIAL = "-partial"

TIE = 0.95  # below it, a contender has lost


def best_peer(row: Row, among: tuple[str, ...] | None = None) -> tuple[str, float] | None:
    """The fastest contender besides gradfuse, of those named if any are, and its time over gradfuse's."""
    others = {k: v["median"] for k, v in row["seconds"].items() if k != "gradfuse" and (not among or k in among)}
    if not others:
        return None
    name = min(others, key=lambda k: others[k])
    return name, others[name] / row["seconds"]["gradfuse"]["median"]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def aligned(lines: list[list[str]], left: tuple[int, ...]) -> str:
    """Lines of cells as columns, those in `left` aligned on the left."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if k in left else cell.rjust(w) for k, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def table(rows: list[Row]) -> str:
    """The rows as aligned text: time per element, share of the copy speed, and each peer's time over gradfuse's."""
    names = sorted(
        {k for r in rows for k in r["seconds"]} - {"gradfuse"}, key=lambda k: (k != "numpy", k != "torch", k)
    )
    lines = [["case", "where", "threads", "ns/element", "of copy", *(f"x {n}" for n in names)]]
    for r in rows:
        mine = r["seconds"]["gradfuse"]["median"]
        share = f"{r['copy_share']:.2f}" if r["copy_share"] else ""
        ratios = [f"{r['seconds'][n]['median'] / mine:.2f}" if n in r["seconds"] else "" for n in names]
        lines.append([r["case"], r["where"], str(r["threads"]), f"{mine / r['elements'] * 1e9:.3f}", share, *ratios])
    return aligned(lines, (0, 1))


def markdown(rows: list[Row]) -> str:
    """The README's table: how many times as long the fastest peer takes, by case, size and threads."""
    counts = sorted({r["threads"] for r in rows})
    columns = [(where, threads) for threads in counts for where in ("L2", "L3", "DRAM")]
    names = [f"{where}, {counted(threads, 'thread')}" for where, threads in columns]
    lines = [
        f"| operation | ns per element | share of copy | {' | '.join(names)} |",
        "|---" * (3 + len(columns)) + "|",
    ]
    for case in dict.fromkeys(r["case"] for r in rows):
        cells = {(r["where"], r["threads"]): r for r in rows if r["case"] == case}
        own = {key: r for key, r in cells.items() if key[0] == "own"}
        cells |= {("L2", threads): r for (_, threads), r in own.items()}  # small: shown where the small ones are
        first = cells.get(("DRAM", counts[0])) or cells[("L2", counts[0])]
        peers = [best_peer(cells[key]) if key in cells else None for key in columns]
        share = f"{first['copy_share']:.2f}" if first["copy_share"] else ""
        time = first["seconds"]["gradfuse"]["median"] / first["elements"] * 1e9
        texts = ["" if p is None else f"**{p[1]:.2f}**" if p[1] < TIE else f"{p[1]:.1f}" for p in peers]
        lines.append(f"| {case} | {time:.2f} | {share} | {' | '.join(texts)} |")
    return "\n".join(lines)


def picture(rows: list[Row], path: Path) -> None:
    """How many times faster gradfuse is than the best peer: one line per case, a dot per size, one thread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [r for r in rows if r["threads"] == 1 and best_peer(r)]
    if not rows:
        return
    cases = list(dict.fromkeys(r["case"] for r in rows))
    figure, axes = plt.subplots(figsize=(8, 0.22 * len(cases) + 1.2), layout="constrained")
    for where, colour in {"L2": "#4c78a8", "L3": "#72b7b2", "DRAM": "#f58518", "own": "#54a24b"}.items():
        points = [(peer[1], cases.index(r["case"])) for r in rows if r["where"] == where and (peer := best_peer(r))]
        if points:
            ratios, places = zip(*points, strict=True)
            axes.scatter(ratios, places, s=18, color=colour, label=where, zorder=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(cases)), cases, fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", linewidth=0.3)
    axes.set_xlabel("times faster than the best peer installed, one thread")
    axes.legend(title="data in")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(
    results: dict[str, Any],
    folder: Path,
    stem: str,
    full: bool,
    text: Callable[[dict[str, Any]], str] = lambda results: table(results["rows"]),
    draw: Callable[[dict[str, Any], Path], None] | None = lambda results, path: picture(results["rows"], path),
) -> list[Path]:
    """Writes stem.json, stem.txt and, where matplotlib is installed, stem.png; stem-partial where it is no full run.

    A full run removes the partial files, which it has written itself on the way.
    """
    partial = [folder / f"{stem}{PARTIAL}{suffix}" for suffix in SUFFIXES]
    paths = [folder / f"{stem}{suffix}" for suffix in SUFFIXES] if full else partial
    machine = "\n".join(f"{k}: {v}" for k, v in results["machine"].items())
    paths[0].write_text(json.dumps(results, indent=1) + "\n")
    paths[1].write_text(f"{machine}\n\n{text(results)}\n")
    if draw:
        paths[2].unlink(missing_ok=True)
        with contextlib.suppress(ImportError):
            draw(results, paths[2])
    if full:
        for path in partial:
            path.unlink(missing_ok=True)
    return [path for path in paths if path.exists()]
